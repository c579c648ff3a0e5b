//! Where Assent records: one ledger, kept in one SQLite file, and what makes its blocks.
//!
//! ```text
//! submit ─▶ queue ─▶ build ─▶ sign ─▶ commit ─▶ receipts      (solo: one thread, one fsync for a block)
//!                      │                │
//!                   contract         SQLite (WAL)  ─▶ reader: state, events, proofs
//! ```
//!
//! [`Ledger`] is the one writer, [`LedgerReader`] the many readers, [`Solo`] the driver for a ledger with a single
//! validator, and [`Replica`] the seam for drivers with more of them.

mod block;
mod check;
mod error;
mod ledger;
mod proof;
mod queue;
mod reader;
mod replica;
mod signatures;
mod solo;
mod sql;
mod state;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use block::{Block, Built, Fate, Proposal};
pub use check::Checked;
pub use error::{BlockError, LedgerError};
pub use ledger::{Ledger, Tip};
pub use queue::{Placed, Receipts, SubmitError};
pub use reader::{LedgerReader, Snapshot};
pub use replica::{Candidates, Replica};
pub use solo::{CommitSigner, Solo, SoloHandle};
