//! Both kinds of contract on ledgers in memory, with keys made for the test.

mod consensus;
mod process;
mod random;
pub(crate) mod world;
