//! Duties: what the ledgers ask of the KMS. Every one is verified from the pinned genesis upward, whoever brings it, before
//! a key is asked for a signature (DESIGN section 9, "Before a signature").
//!
//! ```text
//! DutyBatch ─▶ finality: certificate, line of trusted headers ─▶ anchors
//!     duty  ─▶ vote_request │ decision │ action (against an anchor, pins and own clock)
//!           ─▶ order: the bytes to be signed ─▶ signing ─▶ DutyAnswer
//!           └▶ refusal, into the audit log
//! ```

mod action;
mod anchors;
mod checker;
mod decision;
mod engine;
mod http;
mod order;
mod refusal;
#[cfg(test)]
mod tests;
mod vault;
mod vote_request;

pub use engine::Engine;
pub use http::router;
pub use refusal::BatchRefusal;
