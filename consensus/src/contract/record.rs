//! What is kept of a request and of a case: their lives as enums.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::event::CaseOutcome;
use crate::json::Integer;
use crate::jwk::Thumbprint;
use crate::message::{BallotsRoot, KeyVersion, RequestId};
use crate::name::{DisplayText, Name};
use crate::time::UnixMillis;
use crate::vote::Outcome;

/// The life of a request on the consensus ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RequestState {
    /// The call is there; the vote request is to be signed.
    Called,
    /// Voters can vote.
    Open,
    /// The outcome is fixed; the decision is to be signed.
    Fixed {
        /// What it came to.
        outcome: Outcome,
        /// The ballots that were counted.
        ballots: BallotsRoot,
        /// The moment since when.
        decided: UnixMillis,
    },
    /// The decision is signed.
    Decided {
        /// What it came to.
        outcome: Outcome,
        /// The ballots that were counted.
        ballots: BallotsRoot,
        /// The moment since when.
        decided: UnixMillis,
        /// The digest of the decision.
        decision: Digest,
        /// The KMS's audit head after it was signed.
        audit: Digest,
    },
    /// The contract does not decide this.
    Refused {
        /// Why.
        why: DisplayText,
    },
    /// The requester took it back before there was a vote request: it ends unsigned.
    Cancelled,
    /// It ended unsigned, because its contract's key was compromised.
    Void,
}

impl RequestState {
    /// Whether something is still to come.
    pub fn is_live(&self) -> bool {
        matches!(self, RequestState::Called | RequestState::Open | RequestState::Fixed { .. })
    }

    /// The state in a word.
    pub fn as_str(&self) -> &'static str {
        match self {
            RequestState::Called => "called",
            RequestState::Open => "open",
            RequestState::Fixed { .. } => "fixed",
            RequestState::Decided { .. } => "decided",
            RequestState::Refused { .. } => "refused",
            RequestState::Cancelled => "cancelled",
            RequestState::Void => "void",
        }
    }
}

/// The heights of the blocks in which a request went from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heights {
    /// `request-called`, and `vote-request-due` if it was not refused.
    pub called: u64,
    /// `request-open`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opened: Option<u64>,
    /// `decision-due`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fixed: Option<u64>,
    /// `decision-recorded`, `request-refused` or `request-void`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<u64>,
}

/// Where a request stands: what changes in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestStatus {
    /// Its place among all requests of the ledger, from 1.
    pub number: u64,
    /// Its state.
    pub state: RequestState,
    /// When it came there.
    pub heights: Heights,
}

/// What a request's vote request fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// The contract.
    pub contract: Name,
    /// The digest of the policy that counts.
    pub policy: Digest,
    /// The digest of the vote request.
    pub vote_request: Digest,
    /// The requester's key.
    pub requester: Thumbprint,
    /// Since when voters can vote.
    pub opened: UnixMillis,
    /// Until when.
    pub deadline: UnixMillis,
    /// The version of the contract's key that signed, and will sign the decision.
    pub key_version: KeyVersion,
    /// The KMS's audit head after it was signed.
    pub audit: Digest,
}

/// The life of a case on the process ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CaseStage {
    /// A consensus contract was asked, and has not answered.
    Asking {
        /// The step.
        step: Name,
        /// How often it was asked, from 1.
        attempt: Integer,
        /// The request.
        request: RequestId,
    },
    /// An approved action is to be done.
    Acting {
        /// The step.
        step: Name,
        /// The request that approved it.
        request: RequestId,
        /// The block time from which it is lapsed.
        act_by: UnixMillis,
    },
    /// It is over.
    Ended {
        /// How.
        outcome: CaseOutcome,
        /// The height of the block whose events say so.
        height: u64,
    },
}

/// Where a case stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseStatus {
    /// Its place among all cases of the ledger, from 1.
    pub number: u64,
    /// The process.
    pub process: Name,
    /// The digest of the process document that it runs under.
    pub definition: Digest,
    /// The digest of the start.
    pub start: Digest,
    /// The height of `case-started`.
    pub started: u64,
    /// The height at which its requester took it back, even if that came too late.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancelled: Option<u64>,
    /// Where it stands.
    pub stage: CaseStage,
    /// Its requests, in the order called.
    pub requests: Vec<RequestId>,
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// By a decision.
    Decided {
        /// What it says.
        outcome: Outcome,
        /// The digest of the decision.
        decision: Digest,
        /// The moment since when.
        decided: UnixMillis,
        /// Until when an approved action may be done.
        act_by: UnixMillis,
        /// The version of the contract's key that signed it.
        #[serde(skip_serializing_if = "KeyVersion::is_first", default = "KeyVersion::first")]
        key_version: KeyVersion,
        /// The policy by which it was decided, unless it is that of genesis.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        policy: Option<Digest>,
    },
    /// The contract does not decide this.
    Refused {
        /// Why.
        why: DisplayText,
    },
    /// It ended without a decision.
    Void,
}

/// What the process ledger knows of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedRequest {
    /// Whose case it is.
    pub requester: Thumbprint,
    /// The case.
    pub case: Name,
    /// The consensus contract.
    pub contract: Name,
    /// The step.
    pub step: Name,
    /// The attempt.
    pub attempt: Integer,
    /// The height of the `call`.
    pub called: u64,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answer: Option<Answer>,
    /// The height of the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered: Option<u64>,
    /// The height of `action-due`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action_due: Option<u64>,
}
