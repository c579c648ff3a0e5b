//! What Assent decides, and how anybody can check it: pure functions over bytes, with no I/O, clock, randomness or threads.

pub mod artifact;
pub mod bundle;
pub mod contract;
pub mod digest;
pub mod duty;
pub mod encoding;
pub mod event;
pub mod genesis;
pub mod header;
pub mod json;
pub mod jwk;
pub mod jws;
pub mod merkle;
pub mod message;
pub mod name;
pub mod operational_key;
pub mod policy;
pub mod policy_change;
pub mod process;
pub mod standing;
pub mod subject;
pub mod time;
pub mod token_uri;
pub mod transaction;
pub mod transition;
pub mod vote;
