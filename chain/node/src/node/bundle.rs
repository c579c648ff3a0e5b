//! Making the bundle of a request from what the logs record.

use assent_consensus::bundle::{self, ActionResult, Bundle, BundleError, Lineage, Records, complete};
use assent_consensus::contract::query::{self, RecordedPolicy, RecordedTransition, RequestRecord};
use assent_consensus::contract::record::{Opened, RequestState};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::Genesis;
use assent_consensus::json::Integer;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::standing::KeyName;
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Outcome;
use assent_ledger::{LedgerError, Snapshot};

use super::ledgers::{Ledgers, Log};
use super::places::{Places, Told};

/// The version of the format.
const VERSION: u64 = 1;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum NoBundle {
    /// No such request.
    #[error("there is no request `{0}`")]
    Unknown(RequestId),
    /// No decision is recorded.
    #[error("the request `{request}` is {state}, and a bundle proves a signed decision")]
    Undecided {
        /// The request.
        request: RequestId,
        /// Where it stands.
        state: &'static str,
    },
    /// This node does not keep all that is needed.
    #[error("this node does not keep {0}; ask the one that does")]
    NotKept(String),
    /// What is recorded makes none.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A log cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The proof of a decided request, with the result of its action once that is recorded and `with_result` asks for it.
/// Reads the disk.
///
/// # Errors
/// [`NoBundle`]
pub fn build(
    ledgers: &Ledgers,
    places: &Places,
    request: RequestId,
    with_result: bool,
) -> Result<Bundle, NoBundle> {
    let logs = Logs { ledgers, places };
    complete(logs.bundle(request, with_result)?, &logs)
}

/// How the key and the policy of a contract came to what opened a request. Reads the disk.
///
/// # Errors
/// [`NoBundle`]
pub fn lineage(ledgers: &Ledgers, places: &Places, opened: &Opened) -> Result<Lineage, NoBundle> {
    let Opened { contract, key_version, opened, .. } = opened;
    bundle::lineage(contract, *key_version, *opened, &Logs { ledgers, places })
}

/// How the last policy of a contract came to be. Reads the disk.
///
/// # Errors
/// [`NoBundle`]
pub fn lineage_of_policy(ledgers: &Ledgers, places: &Places, contract: &Name) -> Result<Lineage, NoBundle> {
    let ever = UnixMillis::new(u64::MAX);
    bundle::lineage(contract, KeyVersion::first(), ever, &Logs { ledgers, places })
}

/// The logs that this node keeps, from which a bundle's parts come.
struct Logs<'a> {
    ledgers: &'a Ledgers,
    places: &'a Places,
}

impl Logs<'_> {
    /// A bundle that has no transitions and no history yet.
    fn bundle(&self, request: RequestId, with_result: bool) -> Result<Bundle, NoBundle> {
        for log in self.ledgers.consensus_logs() {
            let state = log.reader.snapshot()?;
            let found = query::request(&state, request);
            state.verified()?;
            if let Some(record) = found {
                return of_record(self.ledgers, self.places, log, &state, record, with_result);
            }
        }
        Err(NoBundle::Unknown(request))
    }
}

impl Records for Logs<'_> {
    type Error = NoBundle;

    fn transitions(&self, key: &KeyName) -> Result<Vec<RecordedTransition>, NoBundle> {
        // The log that knows of more of them is ahead of the other.
        let mut longest = Vec::new();
        for log in self.ledgers.process_logs().chain(self.ledgers.consensus_logs()) {
            let state = log.reader.snapshot()?;
            let recorded = query::transitions(&state, key);
            state.verified()?;
            if recorded.len() > longest.len() {
                longest = recorded;
            }
        }
        Ok(longest)
    }

    fn policies(&self, contract: &Name) -> Result<Vec<RecordedPolicy>, NoBundle> {
        let Some(log) = self.ledgers.of_contract(contract) else { return Ok(Vec::new()) };
        let state = log.reader.snapshot()?;
        let recorded = query::policies(&state, contract);
        state.verified()?;
        Ok(recorded)
    }

    fn approval(&self, request: RequestId) -> Result<Bundle, NoBundle> {
        self.bundle(request, false)
    }
}

/// The document of a contract's policy, on its log.
pub(super) fn policy_document(
    genesis: &Genesis,
    state: &Snapshot,
    contract: &Name,
    digest: &Digest,
) -> Option<Vec<u8>> {
    let policy = &genesis.contract(contract)?.policy;
    if policy.digest() == *digest {
        return Some(policy.document().to_vec());
    }
    query::policy_document(state, contract, digest)
}

fn of_record(
    ledgers: &Ledgers,
    places: &Places,
    log: &Log,
    state: &Snapshot,
    record: RequestRecord,
    with_result: bool,
) -> Result<Bundle, NoBundle> {
    let request = record.request;
    let undecided = || NoBundle::Undecided { request, state: record.status.state.as_str() };
    let RequestState::Decided { outcome, .. } = record.status.state else { return Err(undecided()) };
    let (Some(opened), Some(ended)) = (&record.opened, record.status.heights.ended) else {
        return Err(undecided());
    };
    let (Some(vote_request), Some(decision)) = (record.vote_request.clone(), record.decision.clone()) else {
        return Err(undecided());
    };
    let genesis = ledgers.genesis();
    let not_kept = |what: String| NoBundle::NotKept(what);
    let policy = policy_document(genesis, state, &opened.contract, &opened.policy)
        .ok_or_else(|| not_kept(format!("the policy `{}`", opened.policy)))?;
    let definition = genesis
        .process(&record.call.process)
        .filter(|process| process.definition.digest() == record.call.definition)
        .ok_or_else(|| not_kept(format!("the process document `{}`", record.call.definition)))?;
    let calling = ledgers
        .log(&record.calling_chain)
        .ok_or_else(|| not_kept(format!("the log `{}`", record.calling_chain)))?;
    let calling_state = calling.reader.snapshot()?;
    let case = query::case(&calling_state, record.call.requester, &record.call.case);
    calling_state.verified()?;
    let case = case.ok_or_else(|| not_kept(format!("the case `{}`", record.call.case)))?;

    let ballots = query::ballots(state, request);
    let cancel = match outcome {
        Outcome::Cancelled => query::cancel(state, request),
        _ => None,
    };
    state.verified()?;
    let index = places.find(log, ended, Told::Ended, request)?;
    let result = case.requests.into_iter().find(|asked| asked.request == request);
    let result = match result.and_then(|asked| asked.result).filter(|_| with_result) {
        None => None,
        Some(result) => {
            let index = places.find(calling, result.height, Told::ResultRecorded, request)?;
            let inclusion = calling.reader.inclusion(result.height, index)?;
            Some(ActionResult::new(result.output, inclusion))
        }
    };
    Ok(Bundle {
        version: Integer::saturating(VERSION),
        genesis: genesis.id(),
        policy: Bytes(policy),
        definition: Bytes(definition.definition.document().to_vec()),
        start: case.start,
        vote_request,
        ballots,
        cancel,
        decision,
        contract_transitions: Vec::new(),
        key_transitions: Vec::new(),
        history: Vec::new(),
        inclusion: log.reader.inclusion(ended, index)?,
        result,
    })
}
