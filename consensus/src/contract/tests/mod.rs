//! Both kinds of contract on ledgers in memory, with keys made for the test.

mod consensus;
pub(crate) mod ledger;
mod policy;
mod process;
mod random;
pub(crate) mod rotation;
pub(crate) mod world;
