//! Lives of keys, by a clock that the test moves.

mod limits;
mod table;

use assent_consensus::artifact::ToSign;
use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::message::{KeyVersion, RequestId};

use super::*;
use crate::signing::{KeyName, Order, Purpose, SigningError};
use crate::testing::{PERSON, SmallKms, release};

/// Limits, or a change of them, as they stand in JSON.
fn read<T: serde::Serialize + serde::de::DeserializeOwned>(text: &str) -> T {
    json::read(text.as_bytes()).expect("it reads")
}

/// The n-th use of the release key.
fn action(number: u32) -> Order {
    order(Purpose::Action, number, &release(), KeyVersion::first())
}

fn order(purpose: Purpose, request: u32, key: &KeyName, version: KeyVersion) -> Order {
    let to_sign = match key {
        KeyName::Contract(_) => ToSign::Message(format!("{purpose:?} {request}").into_bytes()),
        KeyName::Operational(_) => ToSign::Digest(Digest::of(&request.to_be_bytes())),
    };
    let request = RequestId(Digest::of(&request.to_be_bytes()));
    Order { purpose, request, key: key.clone(), version, to_sign }
}

/// The reason why something was not signed, and whether it is to be tried again.
fn refusal<T>(signed: Result<T, SigningError>) -> Option<(&'static str, bool)> {
    signed.err().map(|error| (error.reason(), error.is_retry()))
}

impl SmallKms {
    /// Changes limits of the release key's newest version.
    async fn limit(&self, change: &str) -> Result<KeyRow, crate::admin::AdminError> {
        self.admin().limit(release(), None, read(change), PERSON).await
    }

    fn state(&self, version: KeyVersion) -> KeyState {
        let row = self.pins.key_row(&release(), version).expect("it is there");
        self.pins.state_at(&row, (self.clock())())
    }

    /// The states through which a version of the release key went, by the log.
    fn recorded_states(&self, version: KeyVersion) -> Vec<String> {
        let (mut states, logged) = (Vec::new(), LoggedKey::new(&release(), version));
        self.store()
            .each_entry(1, |_, bytes, _| {
                match json::read(bytes) {
                    Ok(Entry::KeyState { key, from, to, why, .. }) if key == logged => {
                        states.push(format!("{from} -> {to}: {why}"));
                    }
                    _ => {}
                }
                Ok::<_, StoreError>(())
            })
            .expect("read");
        states
    }

    fn verify_log(&self) {
        crate::audit::verify(&self.store(), &[]).expect("log and tables agree");
    }
}
