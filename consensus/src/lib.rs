//! What Assent decides, and how anybody can check it: pure functions over bytes, with no I/O, clock, randomness or threads.

pub mod digest;
pub mod encoding;
pub mod json;
pub mod jwk;
pub mod jws;
pub mod merkle;
pub mod name;
pub mod subject;
pub mod time;
pub mod vote;
