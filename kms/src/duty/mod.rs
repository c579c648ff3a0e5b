//! Duties: what the ledgers ask of the KMS. Every one is verified from the pinned genesis upward, whoever brings it, before
//! a key is asked for a signature (DESIGN section 9, "Before a signature").
//!
//! ```text
//! DutyBatch ─▶ finality: certificate, line of trusted headers ─▶ anchors
//!     duty  ─▶ vote_request │ decision │ action (against an anchor, pins and own clock)
//!           ─▶ order: the bytes to be signed ─▶ signing ─▶ DutyAnswer
//!           └▶ refusal, into the audit log
//! ```
//!
//! A duty is refused with a word and a sentence. Words of what two parties see differently are those of
//! [`BundleError::reason`](assent_consensus::bundle::BundleError::reason) and of
//! [`ProofError::reason`](assent_consensus::header::ProofError::reason), those of keys and devices are
//! [`SigningError::reason`](crate::signing::SigningError::reason). Beside them:
//!
//! | word | a person is needed, or time | why |
//! |---|---|---|
//! | `too-early` | time | an outcome, or a call, that lies ahead of the KMS's clock |
//! | `too-late` | person (`assent-kms release`) | ballots whose deadline and grace are past |
//! | `before-restore` | person (`assent-kms release`) | a request of before the database was put back |
//! | `lapsed` | person | an action later than the policy's `act_within` |
//! | `suspended` | person | a voter or requester whose key is suspended took part |
//! | `other-vote-request`, `other-decision`, `other-action` | person | something else is on record for the request |
//! | `other-event`, `other-step`, `malformed-event` | person | the log asks for something else, or for nothing |
//! | `no-finality` | person | the batch lacks the header of a log |
//! | `has-result` | person | the action was done already |
//! | `not-supported` | person | this version does nothing for such a subject |

mod action;
mod anchors;
mod checker;
mod claimed;
mod decision;
mod engine;
mod fence;
mod http;
mod order;
mod refusal;
#[cfg(test)]
mod tests;
mod vault;
mod verified;
mod vote_request;

pub(crate) use checker::AHEAD;
pub use engine::Engine;
pub use http::router;
pub use refusal::BatchRefusal;
