//! Where the events of requests are in their blocks, so that they can be proven. Blocks never change, so what was found
//! once is kept for the last blocks that were asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_ledger::LedgerError;

use crate::api::LedgerKind;

use super::ledgers::Log;

/// Of how many blocks the places are kept.
const KEPT_BLOCKS: usize = 64;

/// An event of a request that is proven to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// `call`
    Call,
    /// `action-due`
    ActionDue,
    /// `result-recorded`
    ResultRecorded,
    /// `vote-request-due`
    VoteRequestDue,
    /// `decision-due`
    DecisionDue,
    /// `decision-recorded`, `request-refused` or `request-void`
    Ended,
}

/// The places of events, found and remembered.
#[derive(Default)]
pub struct Places {
    /// The newest at the end. Shared by all who prove events, and held only to look up.
    kept: Mutex<VecDeque<(Name, u64, Arc<Block>)>>,
}

/// Where the events of one block are.
type Block = HashMap<(Told, RequestId), u64>;

impl Places {
    /// The place of an event in the block of a height.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] if the block does not tell that, and those of reading.
    pub fn find(&self, log: &Log, height: u64, told: Told, request: RequestId) -> Result<u64, LedgerError> {
        let block = self.block(log, height)?;
        block.get(&(told, request)).copied().ok_or_else(|| LedgerError::NotThere {
            what: format!("the event of `{request}` in block {height}"),
            tip: *log.tip().borrow(),
        })
    }

    fn block(&self, log: &Log, height: u64) -> Result<Arc<Block>, LedgerError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_block = |(chain, kept, _): &&(Name, u64, _)| *kept == height && *chain == log.chain.id;
        if let Some((_, _, block)) = lock().iter().find(of_block) {
            return Ok(block.clone());
        }
        let mut block = Block::new();
        for (index, event) in (0..).zip(log.reader.events(height)?) {
            if let Some(key) = told(log, &event.0) {
                block.insert(key, index);
            }
        }
        let block = Arc::new(block);
        let mut kept = lock();
        if kept.len() == KEPT_BLOCKS {
            kept.pop_front();
        }
        kept.push_back((log.chain.id.clone(), height, block.clone()));
        Ok(block)
    }
}

fn told(log: &Log, event: &[u8]) -> Option<(Told, RequestId)> {
    // Nobody needs proof of these, and there are many.
    if event.starts_with(b"{\"type\":\"ballot-counted\"") {
        return None;
    }
    match log.kind {
        LedgerKind::Process => match ProcessEvent::parse(event).ok()? {
            ProcessEvent::Call(call) => {
                Some((Told::Call, call.request(log.reader.deployment(), &log.chain.id)))
            }
            ProcessEvent::ActionDue { request, .. } => Some((Told::ActionDue, request)),
            ProcessEvent::ResultRecorded { request, .. } => Some((Told::ResultRecorded, request)),
            ProcessEvent::CaseStarted { .. }
            | ProcessEvent::CaseEnded { .. }
            | ProcessEvent::Changed { .. } => None,
        },
        LedgerKind::Consensus => match ConsensusEvent::parse(event).ok()? {
            ConsensusEvent::VoteRequestDue { request } => Some((Told::VoteRequestDue, request)),
            ConsensusEvent::DecisionDue { request, .. } => Some((Told::DecisionDue, request)),
            ConsensusEvent::DecisionRecorded { request, .. }
            | ConsensusEvent::RequestRefused { request, .. }
            | ConsensusEvent::RequestVoid { request } => Some((Told::Ended, request)),
            ConsensusEvent::RequestCalled { .. }
            | ConsensusEvent::RequestOpen { .. }
            | ConsensusEvent::BallotCounted { .. }
            | ConsensusEvent::Conflict { .. }
            | ConsensusEvent::Changed { .. } => None,
        },
    }
}
