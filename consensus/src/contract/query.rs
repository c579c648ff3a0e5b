//! What can be asked about a ledger's state: requests on the consensus ledger, cases on the process ledger, and on both
//! what is still to be brought from one part to another.
//!
//! Lists go on after the last entry that was seen, so that a page costs what it shows.

use super::State;
use super::attachment::attached;
use super::case::{asked, case_status, start};
use super::change;
use super::consensus::{DECISION_DUTY, LIVE, REQUESTS, VOTE_REQUEST_DUTY};
use super::layout::{self, ASKING, CANCEL, DUTY, Key};
use super::process::{ACTION_DUTY, CASES};
use super::record::{AskedRequest, CaseStatus, Opened, RequestStatus};
use super::request::{ballots_prefix, call, opened, status, timed_message};
use super::rotation;
use crate::bundle::ActionOutput;
use crate::digest::Digest;
use crate::event::Call;
use crate::jwk::Thumbprint;
use crate::jws::Jws;
use crate::message::{CountedMessage, RequestId};
use crate::name::Name;
use crate::policy::VOTER_LIMIT;
use crate::standing::KeyName;

pub use super::change::RecordedPolicy;
pub use super::rotation::RecordedTransition;

/// The most entries that one page of a list has, whatever is asked for.
pub const PAGE_LIMIT: usize = 1_000;

/// All that the consensus ledger knows of a request but its ballots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The request.
    pub request: RequestId,
    /// The ledger that called.
    pub calling_chain: Name,
    /// What was called; `call.start` is the digest of the start.
    pub call: Call,
    /// Where it stands.
    pub status: RequestStatus,
    /// What its vote request fixed, once there is one.
    pub opened: Option<Opened>,
    /// The vote request.
    pub vote_request: Option<Jws>,
    /// The decision.
    pub decision: Option<Jws>,
}

/// Which requests, or cases, a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All, in the order in which they began.
    All,
    /// Those of which something is still to come.
    Live,
}

/// All that the process ledger knows of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseRecord {
    /// The requester's key.
    pub requester: Thumbprint,
    /// The case.
    pub case: Name,
    /// The start.
    pub start: Jws,
    /// Where it stands.
    pub status: CaseStatus,
    /// Its requests, in the order called.
    pub requests: Vec<CaseRequest>,
}

/// One request of a case, its answer, and what its action gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseRequest {
    /// The request.
    pub request: RequestId,
    /// What was asked and answered.
    pub asked: AskedRequest,
    /// What the action gave.
    pub result: Option<RecordedResult>,
}

/// What an action gave, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedResult {
    /// The signature.
    pub output: ActionOutput,
    /// The KMS's audit head after it.
    pub audit: Digest,
    /// The height of `result-recorded`.
    pub height: u64,
}

/// What the agent still has to bring to the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingDuty {
    /// What is to be signed or done.
    pub kind: DutyKind,
    /// For which request.
    pub request: RequestId,
    /// The height of the block whose events say so.
    pub height: u64,
}

/// What the KMS is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DutyKind {
    /// Sign a vote request: `vote-request-due` on the consensus ledger.
    VoteRequest,
    /// Sign a decision: `decision-due` on the consensus ledger.
    Decision,
    /// Do what was approved: `action-due` on the process ledger.
    Action,
}

/// A request that was called on the process ledger and is not answered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// The request.
    pub request: RequestId,
    /// The height of the block whose events have the `call`.
    pub height: u64,
}

/// A cancellation on the process ledger that the consensus ledger may not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCancel {
    /// The request that is to be cancelled: it must be called there first.
    pub request: RequestId,
    /// The height of the block with the cancellation.
    pub height: u64,
    /// The message, as it is to be submitted.
    pub cancel: Jws,
}

/// On the consensus ledger: a request.
pub fn request(state: &dyn State, request: RequestId) -> Option<RequestRecord> {
    let message = |part| Jws::parse(&state.get(Key::request(request, part).as_bytes())?).ok();
    let from = state.get(Key::request(request, "from").as_bytes())?;
    Some(RequestRecord {
        request,
        calling_chain: std::str::from_utf8(&from).ok()?.parse().ok()?,
        call: call(state, request)?,
        status: status(state, request)?,
        opened: opened(state, request),
        vote_request: message("vote-request"),
        decision: message("decision"),
    })
}

/// On the consensus ledger: the ballots of a request, in the order counted.
pub fn ballots(state: &dyn State, request: RequestId) -> Vec<CountedMessage> {
    let rows = state.scan(ballots_prefix(request).as_bytes(), VOTER_LIMIT);
    rows.iter().filter_map(|(_, value)| counted(value)).collect()
}

/// On the consensus ledger: the cancellation that ended a request, with its block time.
pub fn cancel(state: &dyn State, request: RequestId) -> Option<CountedMessage> {
    counted(&state.get(Key::request(request, "cancel").as_bytes())?)
}

/// On the consensus ledger: second ballots of voters that say something else than their first, as they came.
pub fn conflicts(state: &dyn State, request: RequestId) -> Vec<Jws> {
    let rows = state.scan(Key::request(request, "conflict").bytes(b"/").as_bytes(), VOTER_LIMIT);
    rows.iter().filter_map(|(_, value)| Jws::parse(value).ok()).collect()
}

/// On the consensus ledger: requests in the order called, those with a number after `after`.
pub fn requests(state: &dyn State, filter: Filter, after: u64, limit: usize) -> Vec<RequestRecord> {
    let list = match filter {
        Filter::All => REQUESTS,
        Filter::Live => LIVE,
    };
    let rows = numbered(state, list, after, limit).into_iter();
    rows.filter_map(|entry| request(state, RequestId(Digest::from_bytes(entry.try_into().ok()?)))).collect()
}

/// On the process ledger: a case of a requester.
pub fn case(state: &dyn State, requester: Thumbprint, case: &Name) -> Option<CaseRecord> {
    let status = case_status(state, requester, case)?;
    let requests = status.requests.iter().filter_map(|request| case_request(state, *request)).collect();
    let start = start(state, requester, case)?;
    Some(CaseRecord { requester, case: case.clone(), start, status, requests })
}

/// On the process ledger: the case that a request is of, and what is known of the request.
pub fn case_request(state: &dyn State, request: RequestId) -> Option<CaseRequest> {
    let asked = asked(state, request)?;
    let output = layout::read::<ActionOutput>(state, &Key::request(request, "result"));
    let recorded = layout::read::<(u64, Digest)>(state, &Key::request(request, "recorded"));
    let result =
        output.zip(recorded).map(|(output, (height, audit))| RecordedResult { output, audit, height });
    Some(CaseRequest { request, asked, result })
}

/// On the process ledger: cases in the order started, those with a number after `after`.
pub fn cases(state: &dyn State, filter: Filter, after: u64, limit: usize) -> Vec<CaseRecord> {
    let list = match filter {
        Filter::All => CASES,
        Filter::Live => super::process::LIVE,
    };
    let entry = |entry: Vec<u8>| {
        let (requester, name) = entry.split_first_chunk::<32>()?;
        let name = std::str::from_utf8(name).ok()?.parse().ok()?;
        case(state, Thumbprint::from_bytes(*requester), &name)
    };
    numbered(state, list, after, limit).into_iter().filter_map(entry).collect()
}

/// On either ledger: what the agent still has to bring to the KMS, in the order in which it became due.
pub fn pending_duties(state: &dyn State, after: Option<(u64, RequestId)>, limit: usize) -> Vec<PendingDuty> {
    let duty = |(height, request, kind): (u64, RequestId, Vec<u8>)| {
        let kind = match kind.as_slice() {
            VOTE_REQUEST_DUTY => DutyKind::VoteRequest,
            DECISION_DUTY => DutyKind::Decision,
            ACTION_DUTY => DutyKind::Action,
            _ => return None,
        };
        Some(PendingDuty { kind, request, height })
    };
    DUTY.list(state, after, limit.min(PAGE_LIMIT)).into_iter().filter_map(duty).collect()
}

/// On the process ledger: requests that were called and are not answered, in the order called.
pub fn asking(state: &dyn State, after: Option<(u64, RequestId)>, limit: usize) -> Vec<PendingCall> {
    let rows = ASKING.list(state, after, limit.min(PAGE_LIMIT)).into_iter();
    rows.map(|(height, request, _)| PendingCall { request, height }).collect()
}

/// On the process ledger: cancellations of requests that are not answered, in the order recorded.
pub fn cancels(state: &dyn State, after: Option<(u64, RequestId)>, limit: usize) -> Vec<PendingCancel> {
    let rows = CANCEL.list(state, after, limit.min(PAGE_LIMIT)).into_iter();
    let pending = |(height, request, cancel): (u64, RequestId, Vec<u8>)| {
        Some(PendingCancel { request, height, cancel: Jws::parse(&cancel).ok()? })
    };
    rows.filter_map(pending).collect()
}

/// On the process ledger: the height of the block with this attachment.
pub fn attachment(state: &dyn State, digest: &Digest) -> Option<u64> {
    attached(state, digest)
}

fn counted(value: &[u8]) -> Option<CountedMessage> {
    timed_message(value).map(|(at, jws)| CountedMessage { at, jws })
}

fn numbered(state: &dyn State, list: &str, after: u64, limit: usize) -> Vec<Vec<u8>> {
    let table = Key::table(list);
    let from = Key::table(list).number(after);
    let rows = state.scan_after(table.as_bytes(), from.as_bytes(), limit.min(PAGE_LIMIT));
    rows.into_iter().map(|(_, value)| value).collect()
}

/// The transitions of a key since genesis, in order of version.
pub fn transitions(state: &dyn State, key: &KeyName) -> Vec<RecordedTransition> {
    rotation::recorded(state, key)
}

/// The transitions of all keys since genesis, in order of key and version.
pub fn all_transitions(state: &dyn State) -> Vec<RecordedTransition> {
    rotation::all(state)
}

/// The policies that followed a contract's policy of genesis, in order.
pub fn policies(state: &dyn State, contract: &Name) -> Vec<RecordedPolicy> {
    change::policies(state, contract)
}

/// The policies of all contracts since genesis, in order of contract.
pub fn all_policies(state: &dyn State) -> Vec<RecordedPolicy> {
    change::all_policies(state)
}

/// The exact document of a policy that followed a contract's policy of genesis.
pub fn policy_document(state: &dyn State, contract: &Name, digest: &Digest) -> Option<Vec<u8>> {
    change::policy_document(state, contract, digest)
}
