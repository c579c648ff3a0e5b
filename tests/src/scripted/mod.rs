//! A second implementation of the agent's side, in the hands of a test: it has the validators' keys, so that it can put
//! any event into a block that it signs, and hands the real KMS whatever duty a hostile node could make.
//!
//! ```text
//! Kms (the daemon on a token) ── public keys ─▶ Deployment (genesis, everybody's keys, two logs)
//!   ▲                                              ├─ Log   events ─▶ blocks, certificates, proofs
//!   └────────── Connection ◀── DutyBatch ◀─────────┴─ Case  start, call, ballots, decision, action
//! ```
//!
//! Nothing here runs a contract, a ledger or the node's code: what a duty needs is made from the wire formats alone.

pub mod case;
mod connection;
mod deployment;
mod key;
mod kms;
mod log;

pub use case::{Case, Decided, Opened};
pub use connection::{Answer, Connection};
pub use deployment::{Deployment, DeploymentKeys, Plan};
pub use key::Key;
pub use kms::{AuditCounts, Equipment, Kms};
pub use log::{Log, Place};

use std::time::{SystemTime, UNIX_EPOCH};

use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;

/// A name that the test knows to be one.
///
/// # Panics
/// If it is none.
pub fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("`{text}` is no name: {error}"))
}

/// This machine's clock, which is the KMS's too.
///
/// # Panics
/// If it stands before 1970.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
    UnixMillis::new(u64::try_from(since.as_millis()).expect("fits for a long time"))
}
