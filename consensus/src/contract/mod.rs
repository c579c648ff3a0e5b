//! Contracts: what a ledger's transactions do, as pure state machines.
//!
//! Everything that a contract needs comes in as an argument: state, transaction, height, time, signatures that were
//! verified beforehand. The same transactions in the same order give the same state and events on every machine. The
//! trait is small enough that a WebAssembly host can stand behind it.
//!
//! [`process`] turns starts into cases and calls; [`consensus`] turns calls into requests and, with `ballot` and
//! `counting`, into outcomes; `answer` brings decisions and results back to the case, `rotation` new versions of keys, and
//! `change` other changes. [`record`] has their lives as enums, `case`, `request` and `layout` say where they stand in the state, `registry` looks up contracts, policies,
//! processes and keys, and [`query`] is for those who read.

mod answer;
mod attachment;
mod ballot;
mod case;
mod change;
pub mod consensus;
mod counting;
mod layout;
pub mod process;
pub mod query;
pub mod record;
mod registry;
mod request;
mod rotation;
#[cfg(test)]
pub(crate) mod tests;

use crate::event::EventBytes;
use crate::header::ProofError;
use crate::jwk::PublicKey;
use crate::jws::{CheckedSignatures, Jws, JwsError};
use crate::time::UnixMillis;
use crate::transaction::Transaction;

/// A ledger's state: an ordered map of bytes.
///
/// A store that cannot read must remember that and make its block fail; what it returns then is of no account.
pub trait State {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Sets the value of `key`.
    fn put(&mut self, key: &[u8], value: Vec<u8>);

    /// Removes `key`, if it is there.
    fn delete(&mut self, key: &[u8]);

    /// Up to `limit` keys that begin with `prefix`, and their values, in order of key.
    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)>;

    /// The same, of the keys after `after` alone. A store should do better than this.
    fn scan_after(&self, prefix: &[u8], after: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = self.scan(prefix, usize::MAX).into_iter();
        entries.filter(|(key, _)| key.as_slice() > after).take(limit).collect()
    }
}

/// Where and when a transaction is executed.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The height of the block.
    pub height: u64,
    /// The time of the block.
    pub time: UnixMillis,
    /// Signatures that were verified before the block was made.
    pub checked: &'a CheckedSignatures,
}

/// Why a transaction is not taken. It leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The reason in a word that programs can rely on, such as `already-voted`.
    pub code: &'static str,
    /// The reason in a sentence: what is wrong, on which object, and what to do.
    pub message: String,
}

impl Rejection {
    /// A rejection for this reason.
    pub fn new(code: &'static str, message: impl Into<String>) -> Rejection {
        Rejection { code, message: message.into() }
    }
}

impl From<JwsError> for Rejection {
    fn from(error: JwsError) -> Rejection {
        let code = match error {
            JwsError::WrongKey { .. } => "wrong-key",
            JwsError::BadSignature(_) => "bad-signature",
            _ => "bad-message",
        };
        Rejection::new(code, error.to_string())
    }
}

impl From<ProofError> for Rejection {
    fn from(error: ProofError) -> Rejection {
        Rejection::new("bad-proof", error.to_string())
    }
}

/// A transaction that has no place on this ledger.
fn not_taken(what: &str) -> Rejection {
    Rejection::new("not-taken-here", format!("this ledger takes no `{what}`"))
}

/// What a ledger's transactions do.
pub trait Contract: Send + Sync {
    /// The signatures that executing `transaction` will need, so that many can be verified at once beforehand. Empty
    /// where it is not known or the transaction will be rejected anyway: execution verifies what is missing.
    fn signatures(&self, state: &dyn State, transaction: &Transaction) -> Vec<(Jws, PublicKey)>;

    /// Executes one transaction. After a rejection the caller drops every change to `state`.
    ///
    /// # Errors
    /// [`Rejection`]
    fn execute(
        &self,
        state: &mut dyn State,
        transaction: &Transaction,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection>;

    /// When something happens next by time alone.
    fn due(&self, state: &dyn State) -> Option<UnixMillis>;

    /// Does what is due at the time of the block, before its transactions.
    fn fire(&self, state: &mut dyn State, context: &Context<'_>) -> Vec<EventBytes>;
}
