//! A KMS that people have set up: a contract that governs itself and a release key, and approvals by that contract.

use std::sync::Arc;

use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{
    ChainDocument, ContractDocument, GenesisDocument, KeyDocument, ProcessDocument,
};
use assent_consensus::json::Integer;
use assent_consensus::jwk::PublicKey;
use assent_consensus::message::{KeyVersion, RequestId, TransitionReason};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind};
use assent_consensus::policy::Policy;
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::time::{Millis, UnixMillis};
use p256::ecdsa::SigningKey;

use super::{NOW, SmallKms, in_force, public, release};
use crate::admin::{Admin, AdminError};
use crate::changes::{ApprovedChanges, Destruction, Mandate, PolicyChange, Rotation};
use crate::life::{self, Limits};
use crate::reload::Settings;
use crate::signing::KeyName;
use crate::sockets::Peer;

pub(crate) const DAY: u64 = 24 * 3_600_000;
/// How long a version of a key is needed for what it has begun: 48 hours, and seven days.
pub(crate) const OVERLAP: u64 = 9 * DAY;
/// The user who does it.
pub(crate) const PERSON: Peer = Peer(Some(1_000));

impl SmallKms {
    /// One whose keys are made, with these limits of the release key, and not pinned.
    pub async fn made(limits: Limits) -> SmallKms {
        let kms = SmallKms::empty();
        let (admin, kind) = (kms.admin(), (Algorithm::ES256, KeyKind::P256));
        let contract = admin.create_key(governing_key(), None, kind, Limits::NONE, PERSON).await;
        contract.expect("made");
        admin.create_key(release(), None, kind, limits, PERSON).await.expect("made");
        kms
    }

    /// One that is pinned.
    pub async fn pinned() -> SmallKms {
        let kms = SmallKms::made(Limits::NONE).await;
        kms.pin().await.expect("pinned");
        kms
    }

    pub async fn pin(&self) -> Result<(), AdminError> {
        self.admin().pin(self.genesis(), PERSON).await.map(drop)
    }

    pub fn admin(&self) -> Admin {
        let (pins, writer, devices) = (self.pins.clone(), self.writer.clone(), self.devices.clone());
        Admin::new(
            pins,
            writer,
            devices,
            self.directory.path().to_owned(),
            self.clock(),
            in_force(Settings::default()),
        )
    }

    pub fn changes(&self) -> ApprovedChanges {
        let (pins, signing, writer) = (self.pins.clone(), self.signing.clone(), self.writer.clone());
        let directory = self.directory.path().to_owned();
        let changes =
            ApprovedChanges::new(pins, signing, writer, self.devices.clone(), directory, self.clock());
        changes.expect("readable")
    }

    /// Moves the clock, and has that put on record which came with it.
    pub async fn live_until(&self, after: u64) {
        self.set_clock(after);
        let now = (self.clock())();
        life::look(&self.writer, &self.pins, self.directory.path(), now).await.expect("recorded");
    }

    fn genesis(&self) -> Vec<u8> {
        let key = |name: &KeyName| {
            let row = self.pins.key_row(name, KeyVersion::first()).expect("made");
            row.public_key.public_key().as_p256().expect("P-256").clone()
        };
        let name = |text: &str| text.parse().expect("a name");
        let policy = policy("");
        let process = format!(
            "name = \"release-signing\"\ninput = {{ artifact = \"digest\", size = \"integer\" }}\n\
             [[requester]]\nname = \"ci\"\n{}\n[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
             subject = {{ kind = \"sign\", key = \"release\", name = \"file\", digest = \"{{artifact}}\", size = \"{{size}}\" }}\n\
             [[step]]\nname = \"signature\"\nact = \"approval\"\n",
            toml(&software_key(102))
        );
        let chain = |id: &str, number| ChainDocument { id: name(id), validators: vec![software_key(number)] };
        let document = GenesisDocument {
            version: Integer::saturating(1),
            name: name("test"),
            environment: "a test".parse().expect("text"),
            created: UnixMillis::new(NOW),
            chains: vec![chain("process", 103), chain("consensus", 104)],
            contracts: vec![ContractDocument {
                name: governor(),
                chain: name("consensus"),
                governed_by: None,
                policy: Bytes(policy.into_bytes()),
                key: key(&governing_key()),
                attestation: None,
            }],
            processes: vec![ProcessDocument {
                name: name("release-signing"),
                chain: name("process"),
                governed_by: governor(),
                definition: Bytes(process.into_bytes()),
            }],
            keys: vec![KeyDocument {
                name: name("release"),
                governed_by: governor(),
                alg: Algorithm::ES256,
                format: SignatureFormat::Der,
                key: key(&release()).into(),
                attestation: None,
                adopted: false,
            }],
            recovery: None,
        };
        document.to_genesis().expect("valid").bytes().to_vec()
    }
}

/// The policy of genesis, and a comment that makes it another one.
fn policy(comment: &str) -> String {
    let kinds = "\"sign\", \"rotate-key\", \"destroy-key\", \"change-policy\"";
    format!(
        "name = \"release-approval\"\nkinds = [{kinds}]\ndeadline = \"48h\"\n\
         rule = {{ at_least = 1, of = \"all\" }}\n\
         [[voter]]\nname = \"alice\"\n{}\ngroups = [\"all\"]\n{comment}",
        toml(&software_key(101))
    )
}

/// The same with another deadline.
pub(crate) fn with_deadline(change: PolicyChange, deadline: &str) -> PolicyChange {
    let document = String::from_utf8_lossy(change.policy.document()).replace("48h", deadline);
    let policy = Arc::new(Policy::parse(document.as_bytes()).expect("a policy"));
    let (contract, from, to) = (change.contract.clone(), change.from, policy.digest());
    let subject = Subject::ChangePolicy { contract, from, to, context: None };
    PolicyChange { policy, subject, ..change }
}

/// The n-th request's change of the policy, from one that another request made, or from that of genesis.
pub(crate) fn policy_change(request: u8, from: Option<u8>) -> PolicyChange {
    let of_request = |request: u8| policy(&format!("# by request {request}\n"));
    let from = Digest::of(from.map_or_else(|| policy(""), of_request).as_bytes());
    let policy = Arc::new(Policy::parse(of_request(request).as_bytes()).expect("a policy"));
    let (contract, to) = (governor(), policy.digest());
    let subject = Subject::ChangePolicy { contract: contract.clone(), from, to, context: None };
    let mandate = Mandate { act_by: UnixMillis::new(NOW + DAY), ..mandate(request) };
    PolicyChange { mandate, contract, from, policy, subject }
}

pub(crate) fn governor() -> Name {
    "release-approval".parse().expect("a name")
}

pub(crate) fn governing_key() -> KeyName {
    KeyName::Contract(governor())
}

/// What the n-th request approved.
pub(crate) fn mandate(request: u8) -> Mandate {
    Mandate {
        request: RequestId(Digest::of(&[request])),
        governor: governor(),
        governor_version: KeyVersion::first(),
        decision: Digest::of(&[request, request]),
        decided: UnixMillis::new(NOW),
        act_by: UnixMillis::new(NOW + 1_000 * DAY),
    }
}

/// A rotation of the release key.
pub(crate) fn rotation(request: u8, reason: TransitionReason) -> Rotation {
    Rotation { mandate: mandate(request), key: release(), reason, grace: Millis::new(0) }
}

/// The destruction of a version of a key.
pub(crate) fn destruction(request: u8, key: &KeyName, version: KeyVersion) -> Destruction {
    let (contract, operational) = match key {
        KeyName::Contract(name) => (Some(name.clone()), None),
        KeyName::Operational(name) => (None, Some(name.clone())),
    };
    let subject = Subject::DestroyKey { key: operational, contract, version: version.0, context: None };
    let (mandate, grace) = (mandate(request), Millis::new(0));
    Destruction { mandate, key: key.clone(), version, subject, grace }
}

/// A public key that no device of a test holds.
fn software_key(number: u8) -> PublicKey {
    let key = SigningKey::from_slice(&[number; 32]).expect("a scalar");
    public(&key).as_p256().expect("P-256").clone()
}

fn toml(key: &PublicKey) -> String {
    let jwk = serde_json::to_value(key).expect("a JWK");
    let member = |name: &str| jwk[name].as_str().expect("text").to_owned();
    format!("key = {{ kty = \"EC\", crv = \"P-256\", x = \"{}\", y = \"{}\" }}", member("x"), member("y"))
}
