//! The node's HTTP API: paths, and the JSON that goes over them.
//!
//! | method and path | answer |
//! |---|---|
//! | `POST /v1/ledgers/{chain}/transactions` (the transaction's bytes) | [`Submitted`] |
//! | `POST /v1/ledgers/{chain}/transactions/batch?receipts=` ([`Batch`]) | [`BatchReport`] |
//! | `GET /v1/genesis` | the genesis file's exact bytes |
//! | `GET /v1/health` | [`Health`] |
//! | `GET /v1/requests?state=&voter=&after=&limit=` | [`RequestList`] |
//! | `GET /v1/requests/{request}?since=&wait=` | [`RequestView`] |
//! | `GET /v1/requests/{request}/bundle` | a bundle (`application/vnd.assent.bundle+json`) |
//! | `GET /v1/contracts/{contract}` | [`ContractView`] |
//! | `GET /v1/cases?after=&limit=` | [`CaseList`] |
//! | `GET /v1/cases/{requester}/{case}?since=&wait=` | [`CaseView`] |
//! | `GET /v1/attachments/{digest}` | the attachment's bytes |
//! | `GET /v1/duties` | [`DutyList`] |
//! | `GET /v1/events?chain=&after=&wait=` | [`EventList`] |
//!
//! `wait` is in milliseconds, up to [`WAIT_LIMIT`]: the answer comes when the thing's `revision` is another than `since`
//! (for events: when there is a block after height `after`), or when the time is over, whichever is first.
//! Every error is an [`ErrorBody`] with the status that fits.

use assent_consensus::bundle::{ActionOutput, Lineage};
use assent_consensus::contract::query;
use assent_consensus::digest::Digest;
use assent_consensus::duty::Refusal;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::CaseOutcome;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::Jws;
use assent_consensus::message::{DeploymentId, RequestId};
use assent_consensus::name::Name;
use assent_consensus::subject::Subject;
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};
use serde::{Deserialize, Serialize};

/// The most transactions in one batch.
pub const BATCH_LIMIT: usize = 4096;
/// The largest body of a batch, in bytes.
pub const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// The most entries in one page of a list.
pub const PAGE_LIMIT: usize = 500;
/// Entries in one page of a list if no `limit` is given.
pub const PAGE_DEFAULT: usize = 100;
/// The longest wait of one call, in milliseconds.
pub const WAIT_LIMIT: u64 = 60_000;
/// The media type of a bundle.
pub const BUNDLE_TYPE: &str = "application/vnd.assent.bundle+json";

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The reason in a word that programs can rely on, such as `already-voted`.
    pub code: String,
    /// The reason in a sentence: what is wrong, on which object, and what to do.
    pub message: String,
}

/// A transaction is recorded, and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// SHA-256 of its bytes.
    pub transaction: Digest,
    /// The height of its block.
    pub height: u64,
    /// Its place in the block.
    pub index: u64,
    /// The validator's signed receipt (`assent-receipt+jws`), if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub receipt: Option<Jws>,
}

/// Signed messages to be recorded, each on its own: one that is refused does not hinder the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Up to [`BATCH_LIMIT`] messages in compact serialisation.
    pub transactions: Vec<String>,
}

/// What became of each message of a [`Batch`], in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReport {
    /// One for each message.
    pub results: Vec<BatchResult>,
}

/// What became of one message of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BatchResult {
    /// It is recorded.
    Recorded(Submitted),
    /// It is not.
    Refused(ErrorBody),
}

/// How the node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The deployment's `environment`, which is shown at every prompt.
    pub environment: String,
    /// The program's version.
    pub version: String,
    /// Each ledger that the node keeps.
    pub ledgers: Vec<LedgerHealth>,
    /// The KMS as last seen.
    pub kms: KmsHealth,
    /// How many duties wait for the KMS.
    pub duties_pending: u64,
    /// How many of them need a person.
    pub duties_needing_a_person: u64,
}

/// How one ledger is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHealth {
    /// Its name.
    pub chain: Name,
    /// What it records.
    pub records: LedgerKind,
    /// The height of its last block; 0 before the first.
    pub height: u64,
    /// The id of its last block, if there is one.
    pub block: Option<Digest>,
    /// The time of its last block, if there is one.
    pub time: Option<UnixMillis>,
}

/// What a ledger records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerKind {
    /// Cases.
    Process,
    /// Requests.
    Consensus,
}

/// How the KMS was when it was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsHealth {
    /// Whether it answered.
    pub reachable: bool,
    /// Why not, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestState {
    /// Its vote request is yet to be signed.
    Called,
    /// Voters can vote.
    Open,
    /// The outcome is fixed; the decision is yet to be signed.
    Fixed,
    /// The decision is recorded.
    Decided,
    /// The contract does not decide what was asked.
    Refused,
    /// Its requester took it back before it opened.
    Cancelled,
    /// It ended without a decision.
    Void,
}

impl RequestState {
    /// Whether nothing will change any more.
    pub const fn is_final(self) -> bool {
        !matches!(self, RequestState::Called | RequestState::Open | RequestState::Fixed)
    }

    /// The word in JSON and in a query.
    pub const fn as_str(self) -> &'static str {
        match self {
            RequestState::Called => "called",
            RequestState::Open => "open",
            RequestState::Fixed => "fixed",
            RequestState::Decided => "decided",
            RequestState::Refused => "refused",
            RequestState::Cancelled => "cancelled",
            RequestState::Void => "void",
        }
    }
}

/// A request in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSummary {
    /// Its id.
    pub request: RequestId,
    /// How far it is.
    pub state: RequestState,
    /// The contract that decides it.
    pub contract: Name,
    /// The process that asks.
    pub process: Name,
    /// The case.
    pub case: Name,
    /// The step of the case.
    pub step: Name,
    /// The attempt at the step, from 1.
    pub attempt: u64,
    /// Who started the case.
    pub requester: Thumbprint,
    /// What is to be decided.
    pub subject: Subject,
    /// When voting began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opened: Option<UnixMillis>,
    /// When voting ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline: Option<UnixMillis>,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<Outcome>,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decided: Option<UnixMillis>,
}

/// A page of requests, in the order in which they were called. It may have fewer than were asked for, and a `next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestList {
    /// The page.
    pub requests: Vec<RequestSummary>,
    /// What to give as `after` for the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// The rules of a consensus contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractView {
    /// The contract.
    pub contract: Name,
    /// The exact document of its last policy.
    pub policy: Bytes,
    /// From when on that is in force; absent if it is the one of genesis.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub effective: Option<UnixMillis>,
    /// How it came to that.
    pub lineage: Lineage,
}

/// All that is known of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// Changes when anything below does, but for `at` and `attempts` of the duty; opaque.
    pub revision: String,
    /// What a list shows.
    #[serde(flatten)]
    pub summary: RequestSummary,
    /// The exact policy document that governs it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<Bytes>,
    /// The exact process document that it runs under.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub definition: Option<Bytes>,
    /// The start of the case.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start: Option<Jws>,
    /// The vote request, signed by the contract.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vote_request: Option<Jws>,
    /// How the contract's key came to the version that signed it, and its policy to this one; absent if both are those of
    /// genesis.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lineage: Option<Lineage>,
    /// The ballots, in the order counted.
    pub ballots: Vec<BallotView>,
    /// The decision, signed by the contract.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decision: Option<Jws>,
    /// Which rule holds, which does not, and who is missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explain: Option<serde_json::Value>,
    /// Why the contract refused it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
    /// What it waits for from the KMS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duty: Option<DutyView>,
}

/// A ballot that was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotView {
    /// When it was counted.
    pub at: UnixMillis,
    /// Who cast it.
    pub voter: Name,
    /// What he said.
    pub choice: Choice,
    /// Why, if he said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The ballot.
    pub jws: Jws,
}

/// How far a case is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CaseState {
    /// A contract was asked.
    Asking {
        /// The step.
        step: Name,
        /// The attempt at it, from 1.
        attempt: u64,
        /// The request.
        request: RequestId,
    },
    /// An approved action is to be done.
    Acting {
        /// The step.
        step: Name,
        /// The request that approved it.
        request: RequestId,
    },
    /// It is over.
    Ended {
        /// How.
        outcome: CaseOutcome,
    },
}

/// A case in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseSummary {
    /// Who started it.
    pub requester: Thumbprint,
    /// Its name, unique for its requester.
    pub case: Name,
    /// The process that it is a run of.
    pub process: Name,
    /// How far it is.
    #[serde(flatten)]
    pub state: CaseState,
}

/// A page of cases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseList {
    /// The page.
    pub cases: Vec<CaseSummary>,
    /// What to give as `after` for the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// All that is known of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseView {
    /// Changes when anything below does, but for `at` and `attempts` of the duty; opaque.
    pub revision: String,
    /// What a list shows.
    #[serde(flatten)]
    pub summary: CaseSummary,
    /// The digest of the process document that it runs under.
    pub definition: Digest,
    /// The message that started it.
    pub start: Jws,
    /// Every request that it has made so far, in order.
    pub requests: Vec<CaseRequest>,
    /// What its actions gave so far, in order.
    pub results: Vec<CaseResult>,
    /// What it waits for from the KMS, be it for the request or for the action.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duty: Option<DutyView>,
}

/// A request of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseRequest {
    /// The step.
    pub step: Name,
    /// The attempt at it, from 1.
    pub attempt: u64,
    /// The request.
    pub request: RequestId,
    /// How far it is; nothing if the consensus ledger has not heard of it yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<RequestState>,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<Outcome>,
}

/// What an action gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The action's step.
    pub step: Name,
    /// The request that approved it.
    pub request: RequestId,
    /// The signature, and by which key.
    pub output: ActionOutput,
}

/// What a duty asks of the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DutyKind {
    /// To sign a vote request.
    VoteRequest,
    /// To sign a decision.
    Decision,
    /// To do what was approved.
    Action,
}

impl From<query::DutyKind> for DutyKind {
    fn from(kind: query::DutyKind) -> DutyKind {
        match kind {
            query::DutyKind::VoteRequest => DutyKind::VoteRequest,
            query::DutyKind::Decision => DutyKind::Decision,
            query::DutyKind::Action => DutyKind::Action,
        }
    }
}

/// A duty that waits for the KMS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyView {
    /// What is to be signed or done.
    pub duty: DutyKind,
    /// For which request.
    pub request: RequestId,
    /// What the KMS said last, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<DutyRefusal>,
}

/// The last answer of the KMS to a duty that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyRefusal {
    /// When, by the node's clock.
    pub at: UnixMillis,
    /// Whether it can succeed without a person.
    pub needs_person: bool,
    /// How often it was tried.
    pub attempts: u64,
    /// Why.
    pub refusal: Refusal,
}

/// The duties that wait for the KMS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DutyList {
    /// Up to [`PAGE_LIMIT`], those that were refused first.
    pub duties: Vec<DutyView>,
}

/// Events of one ledger, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// The events of blocks after `after`; whole blocks.
    pub events: Vec<EventView>,
    /// What to give as `after` next time: the height up to which events are here.
    pub height: u64,
}

/// One event and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// The height of its block.
    pub height: u64,
    /// The time of its block.
    pub time: UnixMillis,
    /// Its place in the block.
    pub index: u64,
    /// The event.
    pub event: serde_json::Value,
}
