//! Duties: what the ledgers ask of the KMS, and what it answers. The node carries both; it is trusted with neither.

use serde::{Deserialize, Serialize};

use crate::bundle::{ActionOutput, Bundle, TransitionPair};
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::header::{EventProof, Finality, TrustedHeader};
use crate::jws::Jws;
use crate::message::CountedMessage;
use crate::name::Name;

/// The most duties in one batch.
pub const BATCH_LIMIT: usize = 64;
/// The largest body of a batch, in bytes.
pub const BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Duties, and for each ledger the header against which they are proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DutyBatch {
    /// One for each ledger.
    pub finality: Vec<Finality>,
    /// Up to [`BATCH_LIMIT`].
    pub duties: Vec<Duty>,
}

/// One thing to be signed or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "duty", rename_all = "kebab-case", try_from = "Members")]
pub enum Duty {
    /// Sign a vote request, which the KMS builds itself.
    VoteRequest {
        /// The start of the case.
        start: Jws,
        /// The `call` on the process ledger.
        call: EventProof,
        /// The `vote-request-due` on the consensus ledger.
        due: EventProof,
    },
    /// Sign a decision, which the KMS recomputes.
    Decision {
        /// The vote request, as the KMS signed it.
        vote_request: Jws,
        /// The ballots, in the order counted.
        ballots: Vec<CountedMessage>,
        /// The requester's cancellation.
        #[serde(skip_serializing_if = "Option::is_none")]
        cancel: Option<CountedMessage>,
        /// The `decision-due` on the consensus ledger.
        due: EventProof,
    },
    /// Do what a decision approved.
    Action {
        /// The proof of the approval, without a result.
        bundle: Box<Bundle>,
        /// The exact document that the subject names by digest, if the action needs it: that of a new policy.
        #[serde(skip_serializing_if = "Option::is_none")]
        document: Option<Bytes>,
        /// The `action-due` on the process ledger.
        due: EventProof,
    },
}

/// The members of duties of any kind. By them a duty is read in one pass; by its tag it would be copied into a tree first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    duty: Kind,
    start: Option<Jws>,
    call: Option<EventProof>,
    vote_request: Option<Jws>,
    ballots: Option<Vec<CountedMessage>>,
    cancel: Option<CountedMessage>,
    bundle: Option<Box<Bundle>>,
    document: Option<Bytes>,
    due: EventProof,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    VoteRequest,
    Decision,
    Action,
}

impl TryFrom<Members> for Duty {
    type Error = &'static str;

    fn try_from(members: Members) -> Result<Duty, &'static str> {
        let Members { duty, start, call, vote_request, ballots, cancel, bundle, document, due } = members;
        match (duty, (start, call), (vote_request, ballots, cancel), (bundle, document)) {
            (Kind::VoteRequest, (Some(start), Some(call)), (None, None, None), (None, None)) => {
                Ok(Duty::VoteRequest { start, call, due })
            }
            (Kind::Decision, (None, None), (Some(vote_request), Some(ballots), cancel), (None, None)) => {
                Ok(Duty::Decision { vote_request, ballots, cancel, due })
            }
            (Kind::Action, (None, None), (None, None, None), (Some(bundle), document)) => {
                Ok(Duty::Action { bundle, document, due })
            }
            (Kind::VoteRequest, ..) => Err("the members of a `vote-request` are `start`, `call` and `due`"),
            (Kind::Decision, ..) => {
                Err("the members of a `decision` are `vote_request`, `ballots`, `due`, and perhaps `cancel`")
            }
            (Kind::Action, ..) => {
                Err("the members of an `action` are `bundle`, `due`, and perhaps `document`")
            }
        }
    }
}

/// The answers to a batch, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DutyReport {
    /// One for each duty.
    pub answers: Vec<DutyAnswer>,
}

/// The answer to one duty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DutyAnswer {
    /// The vote request or decision.
    Signed {
        /// The message.
        message: Jws,
        /// The head of the audit log after its intent.
        audit: Digest,
    },
    /// What the action gave.
    Performed {
        /// The signature.
        output: ActionOutput,
        /// The head of the audit log after that signature.
        audit: Digest,
    },
    /// The next version of a key.
    Rotated {
        /// The two messages.
        transition: TransitionPair,
        /// The head of the audit log after them.
        audit: Digest,
    },
    /// What a governing contract changed.
    Changed {
        /// Its statement.
        change: Jws,
        /// The head of the audit log after its signature.
        audit: Digest,
    },
    /// Not now: the same duty may be done later.
    Retry(Refusal),
    /// Not without a person.
    NeedsPerson(Refusal),
}

/// Why a duty was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The reason in a word that programs can rely on, such as `too-few-votes`.
    pub reason: String,
    /// The reason in a sentence.
    pub message: String,
}

/// What the KMS trusts already, so that a batch can be tied to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedHeaders {
    /// One for each ledger of which a header was seen.
    pub chains: Vec<TrustedChain>,
}

/// The last header of one ledger that the KMS trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedChain {
    /// The ledger.
    pub chain: Name,
    /// Its last trusted header.
    pub trusted: TrustedHeader,
}
