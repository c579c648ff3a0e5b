//! A node in hostile hands asks the real KMS for what it should not get: each is refused with a reason of its own, the
//! reason is in the audit log, and nothing is signed.
//!
//! The node here is [`assent_tests::scripted`], which holds the validators' keys: it can put any event into a block.

mod disguise;
mod refusals;
mod scene;
