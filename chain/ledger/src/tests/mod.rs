//! Whole ledgers, by what they promise.

mod checking;
mod crash;
mod opening;
mod recording;
mod replicas;
