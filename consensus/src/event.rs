//! What the ledgers tell: events, each a JSON object whose first member is `type`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json::{self, Integer, JsonError};
use crate::jwk::Thumbprint;
use crate::message::{BallotsRoot, DeploymentId, RequestId};
use crate::name::{DisplayText, Name};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::vote::Outcome;

/// An event's exact bytes: a leaf of its block's event tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventBytes(pub Vec<u8>);

/// What a process ledger tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub enum ProcessEvent {
    /// A case has begun.
    CaseStarted { case: Name, process: Name, definition: Digest, requester: Thumbprint, start: Digest },
    /// A case asks a consensus contract.
    Call(Call),
    /// An approved action is to be done.
    ActionDue { case: Name, step: Name, request: RequestId, decision: Digest, subject: Subject },
    /// An action was done; `result` is the digest of what it gave.
    ResultRecorded { case: Name, step: Name, request: RequestId, result: Digest, audit: Digest },
    /// A case is over.
    CaseEnded { case: Name, outcome: CaseOutcome },
    /// What a contract governs was changed.
    Changed { subject: Subject, change: Digest },
}

/// The question that a process puts to a consensus contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Call {
    pub contract: Name,
    pub subject: Subject,
    pub process: Name,
    pub definition: Digest,
    pub case: Name,
    pub step: Name,
    pub attempt: Integer,
    pub requester: Thumbprint,
    pub start: Digest,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseOutcome {
    /// Every step was done.
    Done,
    /// A step was rejected, and the process ends then.
    Rejected,
    /// A step found no answer in time.
    Expired,
    /// Its requester took it back.
    Cancelled,
    /// The consensus contract does not decide what was asked.
    Refused,
    /// An approved action was not done in time.
    Lapsed,
}

/// What a consensus ledger tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub enum ConsensusEvent {
    /// A call has arrived.
    RequestCalled { request: RequestId, call: Digest },
    /// The contract does not decide this.
    RequestRefused { request: RequestId, why: DisplayText },
    /// A vote request is to be signed.
    VoteRequestDue { request: RequestId },
    /// Voters can vote.
    RequestOpen { request: RequestId, vote_request: Digest, audit: Digest },
    /// A ballot counts.
    BallotCounted { request: RequestId, voter: Name, ballot: Digest, at: UnixMillis },
    /// A voter said two things; the second does not count.
    Conflict { request: RequestId, voter: Name, ballots: [Digest; 2] },
    /// The outcome is fixed, and the decision is to be signed.
    DecisionDue { request: RequestId, outcome: Outcome, ballots: BallotsRoot, decided: UnixMillis },
    /// The decision is signed.
    DecisionRecorded { request: RequestId, outcome: Outcome, decision: Digest, audit: Digest },
    /// The request ends without a decision.
    RequestVoid { request: RequestId },
    /// What a contract governs was changed.
    Changed { subject: Subject, change: Digest },
}

macro_rules! event {
    ($($event:ident),*) => { $(
        impl $event {
            /// Reads an event.
            ///
            /// # Errors
            /// See [`json::read`].
            pub fn parse(bytes: &[u8]) -> Result<$event, JsonError> {
                json::read(bytes)
            }

            /// The event's bytes.
            pub fn to_bytes(&self) -> EventBytes {
                EventBytes(json::write(self))
            }
        }
    )* };
}

event!(ProcessEvent, ConsensusEvent);

impl Call {
    /// The id of the request that this call from `calling_chain` makes.
    pub fn request(&self, deployment: DeploymentId, calling_chain: &Name) -> RequestId {
        let Call { process, case, requester, step, attempt, .. } = self;
        RequestId::of(deployment, calling_chain, process, case, *requester, step, *attempt)
    }
}
