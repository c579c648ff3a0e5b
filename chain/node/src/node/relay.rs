//! The relay: carries calls, cancellations, key transitions and policies from process logs to consensus logs, and answers
//! back.
//!
//! What is to be carried stands in the logs: calls that are not answered, and cancellations of them. So a node that
//! starts again looks through all of it once, and goes on from there: new calls and cancellations by their place in
//! those lists, answers by the events of new blocks. Carrying something twice does no harm.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use assent_consensus::contract::query::{
    self, PendingCall, PendingCancel, RecordedPolicy, RecordedTransition, RequestRecord,
};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::{ConsensusEvent, EventBytes, ProcessEvent};
use assent_consensus::json;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_consensus::transaction::{Carrier, Transaction};
use assent_ledger::{LedgerError, SubmitError};
use tokio::sync::watch;

use super::ledgers::{Ledgers, Log};
use super::places::{Places, Told};

/// How many transactions are submitted at once.
const SUBMITTED_AT_ONCE: usize = 256;
/// Of how many requests the lists are read at once.
const PAGE: usize = 500;
/// How many blocks are looked through at once.
const BLOCKS: u64 = 64;
/// How long to wait after something could not be carried.
const RETRY: Duration = Duration::from_millis(500);

/// A place in a list of the state: height and request.
type Cursor = Option<(u64, RequestId)>;

/// The relay between the logs of one node.
pub struct Relay {
    ledgers: Arc<Ledgers>,
    places: Arc<Places>,
    /// For each process log: the last call and the last cancellation that were carried or are kept for another try.
    calls: HashMap<Name, Cursor>,
    cancels: HashMap<Name, Cursor>,
    /// For each consensus log: up to which height its answers were carried or are kept for another try.
    answers: HashMap<Name, u64>,
    /// For each process log: how many key transitions and policies were carried or are kept for another try.
    changes: HashMap<Name, usize>,
    /// What could not be carried and is tried again.
    again: HashSet<Item>,
}

/// Something to carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    /// A call on the process log of this name, and its height.
    Call(Name, RequestId, u64),
    /// A cancellation on the process log of this name, as it is submitted.
    Cancel(Name, RequestId, Vec<u8>),
    /// The answer on the consensus log of this name.
    Answer(Name, RequestId),
    /// The key transition or policy on the process log of this name that a request approved.
    Change(Name, RequestId),
}

/// A transaction for a log.
struct Load {
    item: Item,
    to: Name,
    bytes: Vec<u8>,
}

impl Relay {
    /// A relay that has carried nothing yet.
    pub fn new(ledgers: Arc<Ledgers>, places: Arc<Places>) -> Relay {
        Relay {
            ledgers,
            places,
            calls: HashMap::new(),
            cancels: HashMap::new(),
            answers: HashMap::new(),
            changes: HashMap::new(),
            again: HashSet::new(),
        }
    }

    /// Carries until `stop` is set.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.ledgers.changes();
        loop {
            changes.mark_unchanged();
            let pass = tokio::task::spawn_blocking(move || {
                let result = self.pass();
                (self, result)
            });
            let Ok((relay, result)) = pass.await else {
                tracing::error!("the relay has ended unexpectedly; start the node again");
                return;
            };
            self = relay;
            if let Err(error) = &result {
                tracing::warn!(%error, "the relay cannot read a log, and tries again");
            }
            let waits = result.is_err() || !self.again.is_empty();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if waits => {}
            }
        }
    }

    /// Carries all that is there.
    fn pass(&mut self) -> Result<(), LedgerError> {
        let again: Vec<Item> = self.again.drain().collect();
        self.carry(again)?;
        let ledgers = self.ledgers.clone();
        for log in ledgers.process_logs() {
            self.new_calls(log)?;
            self.new_cancels(log)?;
            self.new_changes(log)?;
        }
        for log in ledgers.consensus_logs() {
            self.new_answers(log)?;
        }
        Ok(())
    }

    fn new_calls(&mut self, log: &Log) -> Result<(), LedgerError> {
        let chain = &log.chain.id;
        loop {
            let cursor = self.calls.get(chain).copied().flatten();
            let state = log.reader.snapshot()?;
            let page = query::asking(&state, cursor, PAGE);
            state.verified()?;
            drop(state);
            let Some(PendingCall { request, height }) = page.last().copied() else { return Ok(()) };
            let items = page.into_iter().map(|call| Item::Call(chain.clone(), call.request, call.height));
            self.carry(items.collect())?;
            self.calls.insert(chain.clone(), Some((height, request)));
        }
    }

    fn new_cancels(&mut self, log: &Log) -> Result<(), LedgerError> {
        let chain = &log.chain.id;
        loop {
            let cursor = self.cancels.get(chain).copied().flatten();
            let state = log.reader.snapshot()?;
            let page = query::cancels(&state, cursor, PAGE);
            state.verified()?;
            drop(state);
            let Some(PendingCancel { request, height, .. }) = page.last() else { return Ok(()) };
            let next = Some((*height, *request));
            let bytes = |cancel: &PendingCancel| cancel.cancel.as_str().as_bytes().to_vec();
            let items = page.iter().map(|cancel| Item::Cancel(chain.clone(), cancel.request, bytes(cancel)));
            self.carry(items.collect())?;
            self.cancels.insert(chain.clone(), next);
        }
    }

    fn new_changes(&mut self, log: &Log) -> Result<(), LedgerError> {
        let chain = &log.chain.id;
        let recorded = changes_on(log)?;
        if self.changes.insert(chain.clone(), recorded.len()) != Some(recorded.len()) {
            let item = |recorded: &Recorded| Item::Change(chain.clone(), recorded.request());
            self.carry(recorded.iter().map(item).collect())?;
        }
        Ok(())
    }

    /// Answers that new blocks tell of. At first those of all calls that are not answered, by `new_calls`.
    fn new_answers(&mut self, log: &Log) -> Result<(), LedgerError> {
        let chain = &log.chain.id;
        let tip = log.reader.tip()?.map_or(0, |(header, _)| header.header().height.get());
        let Some(from) = self.answers.get(chain).copied() else {
            // What ended before this block is found by looking at each call that is not answered.
            self.answers.insert(chain.clone(), tip);
            return self.all_answers();
        };
        for first in (from + 1..=tip).step_by(BLOCKS as usize) {
            let last = tip.min(first + BLOCKS - 1);
            let mut items = Vec::new();
            for height in first..=last {
                let ended = log.reader.events(height)?.into_iter().filter_map(|event| ended(&event.0));
                items.extend(ended.map(|request| Item::Answer(chain.clone(), request)));
            }
            self.carry(items)?;
            self.answers.insert(chain.clone(), last);
        }
        Ok(())
    }

    fn all_answers(&mut self) -> Result<(), LedgerError> {
        let ledgers = self.ledgers.clone();
        for log in ledgers.process_logs() {
            let mut cursor = None;
            loop {
                let state = log.reader.snapshot()?;
                let page = query::asking(&state, cursor, PAGE);
                let answered_by = |call: &PendingCall| {
                    let asked = query::case_request(&state, call.request)?.asked;
                    let log = ledgers.of_contract(&asked.contract)?;
                    Some(Item::Answer(log.chain.id.clone(), call.request))
                };
                let items = page.iter().filter_map(answered_by).collect();
                state.verified()?;
                drop(state);
                let Some(last) = page.last() else { break };
                cursor = Some((last.height, last.request));
                self.carry(items)?;
            }
        }
        Ok(())
    }

    /// Carries these, and keeps what is to be tried again.
    fn carry(&mut self, items: Vec<Item>) -> Result<(), LedgerError> {
        let result = self.load(&items);
        let loads = match result {
            Ok(loads) => loads,
            Err(error) => {
                self.again.extend(items);
                return Err(error);
            }
        };
        for loads in loads.chunks(SUBMITTED_AT_ONCE) {
            self.submit(loads);
        }
        Ok(())
    }

    /// Makes the transactions for what is still to be carried.
    fn load(&self, items: &[Item]) -> Result<Vec<Load>, LedgerError> {
        let mut loads = Vec::with_capacity(items.len());
        for item in items {
            loads.extend(match item {
                Item::Call(from, request, height) => self.load_call(item, from, *request, *height)?,
                Item::Cancel(from, request, cancel) => self.load_cancel(item, from, *request, cancel)?,
                Item::Answer(from, request) => self.load_answer(item, from, *request)?,
                Item::Change(from, request) => self.load_change(item, from, *request)?,
            });
        }
        Ok(loads)
    }

    fn load_call(
        &self,
        item: &Item,
        from: &Name,
        request: RequestId,
        height: u64,
    ) -> Result<Option<Load>, LedgerError> {
        let Some((log, to)) = self.asked(from, request)? else { return Ok(None) };
        if request_on(to, request)?.is_some() {
            return Ok(None);
        }
        let index = self.places.find(log, height, Told::Call, request)?;
        let carrier = Carrier::Call { inclusion: log.reader.inclusion(height, index)? };
        Ok(Some(Load { item: item.clone(), to: to.chain.id.clone(), bytes: json::write(&carrier) }))
    }

    fn load_cancel(
        &self,
        item: &Item,
        from: &Name,
        request: RequestId,
        cancel: &[u8],
    ) -> Result<Option<Load>, LedgerError> {
        let Some((log, to)) = self.asked(from, request)? else { return Ok(None) };
        let state = log.reader.snapshot()?;
        let asked = query::case_request(&state, request);
        state.verified()?;
        let open = asked.is_some_and(|asked| asked.asked.answer.is_none());
        Ok(open.then(|| Load { item: item.clone(), to: to.chain.id.clone(), bytes: cancel.to_vec() }))
    }

    fn load_answer(&self, item: &Item, from: &Name, request: RequestId) -> Result<Option<Load>, LedgerError> {
        let Some(log) = self.ledgers.log(from) else { return Ok(None) };
        let Some(RequestRecord { calling_chain, status, decision, .. }) = request_on(log, request)? else {
            return Ok(None);
        };
        let (Some(ended), Some(to)) = (status.heights.ended, self.ledgers.log(&calling_chain)) else {
            return Ok(None);
        };
        let state = to.reader.snapshot()?;
        let asked = query::case_request(&state, request);
        state.verified()?;
        if asked.is_none_or(|asked| asked.asked.answer.is_some()) {
            return Ok(None);
        }
        let index = self.places.find(log, ended, Told::Ended, request)?;
        let carrier = Carrier::Answer { decision, inclusion: log.reader.inclusion(ended, index)? };
        Ok(Some(Load { item: item.clone(), to: to.chain.id.clone(), bytes: json::write(&carrier) }))
    }

    fn load_change(&self, item: &Item, from: &Name, request: RequestId) -> Result<Option<Load>, LedgerError> {
        let Some((log, to)) = self.asked(from, request)? else { return Ok(None) };
        let is_it = |recorded: &Recorded| recorded.request() == request;
        if changes_on(to)?.iter().any(is_it) {
            return Ok(None);
        }
        let Some(recorded) = changes_on(log)?.into_iter().find(is_it) else { return Ok(None) };
        let (change, height) = recorded.told();
        let tells = |event: &EventBytes| match ProcessEvent::parse(&event.0) {
            Ok(ProcessEvent::Changed { change: told, .. }) => told == change,
            _ => false,
        };
        let place = (0..).zip(log.reader.events(height)?).find(|(_, event)| tells(event));
        let Some((index, _)) = place else { return Ok(None) };
        let inclusion = log.reader.inclusion(height, index)?;
        let carrier = match recorded {
            Recorded::Transition(RecordedTransition { pair, .. }) => {
                Carrier::RelayedTransition { transition: pair, inclusion }
            }
            Recorded::Policy(recorded) => {
                let Some(document) = document_of(log, &recorded)? else { return Ok(None) };
                Carrier::RelayedChange { change: recorded.change, document: Bytes(document), inclusion }
            }
        };
        Ok(Some(Load { item: item.clone(), to: to.chain.id.clone(), bytes: json::write(&carrier) }))
    }

    /// The process log of a request and the consensus log that was asked, if this node keeps both.
    fn asked(&self, from: &Name, request: RequestId) -> Result<Option<(&Log, &Log)>, LedgerError> {
        let Some(log) = self.ledgers.log(from) else { return Ok(None) };
        let state = log.reader.snapshot()?;
        let asked = query::case_request(&state, request);
        state.verified()?;
        let to = asked.and_then(|asked| self.ledgers.of_contract(&asked.asked.contract));
        Ok(to.map(|to| (log, to)))
    }

    /// Has transactions recorded, and keeps what is to be tried again.
    fn submit(&mut self, loads: &[Load]) {
        let mut by_log: HashMap<&Name, Vec<&Load>> = HashMap::new();
        for load in loads {
            by_log.entry(&load.to).or_default().push(load);
        }
        for (to, loads) in by_log {
            let Some(log) = self.ledgers.log(to) else { continue };
            let mut submitted = Vec::with_capacity(loads.len());
            let mut transactions = Vec::with_capacity(loads.len());
            for load in loads {
                match Transaction::parse(load.bytes.clone()) {
                    Ok(transaction) => {
                        submitted.push(load);
                        transactions.push(transaction);
                    }
                    // It was made here of what a log records: nothing helps but another version.
                    Err(error) => tracing::error!(%error, item = ?load.item, "cannot be carried"),
                }
            }
            for (load, answer) in submitted.into_iter().zip(log.driver.submit(transactions)) {
                match answer {
                    Ok(_) => {}
                    Err(SubmitError::Rejected(rejection)) if is_to_come(&load.item, rejection.code) => {
                        self.again.insert(load.item.clone());
                    }
                    Err(SubmitError::Rejected(rejection)) if is_there(rejection.code) => {}
                    Err(SubmitError::Rejected(rejection)) => {
                        tracing::warn!(%rejection, code = rejection.code, item = ?load.item, "was not taken");
                    }
                    Err(error) => {
                        tracing::debug!(%error, item = ?load.item, "is tried again");
                        self.again.insert(load.item.clone());
                    }
                }
            }
        }
    }
}

/// A cancellation may come before the call that it is about, and one version of a key, or one policy, before the one that it
/// follows.
fn is_to_come(item: &Item, code: &str) -> bool {
    match item {
        Item::Cancel(..) => code == "unknown-request",
        Item::Change(..) => matches!(code, "other-key-version" | "policy-not-in-force"),
        Item::Call(..) | Item::Answer(..) => false,
    }
}

/// Whether there is nothing left to be carried.
fn is_there(code: &str) -> bool {
    code.starts_with("already-") || code == "too-late"
}

/// A change that a log goes by.
enum Recorded {
    Transition(RecordedTransition),
    Policy(RecordedPolicy),
}

impl Recorded {
    /// What approved it.
    fn request(&self) -> RequestId {
        match self {
            Recorded::Transition(recorded) => recorded.request,
            Recorded::Policy(recorded) => recorded.request,
        }
    }

    /// What its `changed` event tells of, and the height of that.
    fn told(&self) -> (Digest, u64) {
        match self {
            Recorded::Transition(recorded) => (recorded.pair.new.digest(), recorded.height),
            Recorded::Policy(recorded) => (recorded.change.digest(), recorded.height),
        }
    }
}

fn changes_on(log: &Log) -> Result<Vec<Recorded>, LedgerError> {
    let state = log.reader.snapshot()?;
    let transitions = query::all_transitions(&state).into_iter().map(Recorded::Transition);
    let policies = query::all_policies(&state).into_iter().map(Recorded::Policy);
    let recorded = transitions.chain(policies).collect();
    state.verified()?;
    Ok(recorded)
}

fn document_of(log: &Log, recorded: &RecordedPolicy) -> Result<Option<Vec<u8>>, LedgerError> {
    let state = log.reader.snapshot()?;
    let document =
        recorded.contract().and_then(|contract| query::policy_document(&state, contract, &recorded.to));
    state.verified()?;
    Ok(document)
}

fn request_on(log: &Log, request: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
    let state = log.reader.snapshot()?;
    let record = query::request(&state, request);
    state.verified()?;
    Ok(record)
}

/// The request that an event ends.
fn ended(event: &[u8]) -> Option<RequestId> {
    // Of all events these are few.
    if event.starts_with(b"{\"type\":\"ballot-counted\"") {
        return None;
    }
    match ConsensusEvent::parse(event).ok()? {
        ConsensusEvent::DecisionRecorded { request, .. }
        | ConsensusEvent::RequestRefused { request, .. }
        | ConsensusEvent::RequestVoid { request } => Some(request),
        _ => None,
    }
}
