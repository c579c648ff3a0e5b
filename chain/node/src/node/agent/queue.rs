//! The duties that are known to be due and are not with the KMS: ready for it, or resting after a refusal.
//!
//! The logs list duties in the order in which they became due, so that new ones are found after the last one seen.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use assent_consensus::contract::query;
use assent_consensus::duty::BATCH_LIMIT;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_ledger::LedgerError;
use tokio::time::Instant;

use crate::api::DutyKind;
use crate::node::ledgers::Ledgers;

use super::book::DutyKey;

/// How many duties are read from a log at once, and how many may be ready before no more are read.
const PAGE: usize = 1_000;

/// A duty that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueuedDuty {
    /// The log that says so.
    pub(super) chain: Name,
    /// What is to be signed or done.
    pub(super) kind: DutyKind,
    /// For which request.
    pub(super) request: RequestId,
    /// The height of the block that says so.
    pub(super) height: u64,
}

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    ready: VecDeque<QueuedDuty>,
    /// By the moment at which they are ready, and a number that keeps those of one moment apart.
    resting: BTreeMap<(Instant, u64), QueuedDuty>,
    number: u64,
    /// For each log: the last duty that was read.
    cursors: HashMap<Name, (u64, RequestId)>,
}

impl QueuedDuty {
    pub(super) fn key(&self) -> DutyKey {
        (self.kind, self.request)
    }
}

impl Queue {
    /// Adds what has become due since the last call, as much as there is room for.
    pub(super) fn fill(&mut self, ledgers: &Ledgers) -> Result<(), LedgerError> {
        for log in ledgers.logs() {
            let chain = &log.chain.id;
            if self.ready.len() >= PAGE {
                return Ok(());
            }
            let cursor = self.cursors.get(chain).copied();
            let state = log.reader.snapshot()?;
            let page = query::pending_duties(&state, cursor, PAGE);
            state.verified()?;
            let Some(last) = page.last() else { continue };
            self.cursors.insert(chain.clone(), (last.height, last.request));
            self.ready.extend(page.into_iter().map(|duty| QueuedDuty {
                chain: chain.clone(),
                kind: duty.kind.into(),
                request: duty.request,
                height: duty.height,
            }));
        }
        Ok(())
    }

    /// Takes duties for one batch; none if nothing is ready.
    pub(super) fn take(&mut self) -> Vec<QueuedDuty> {
        let now = Instant::now();
        while let Some(entry) = self.resting.first_entry()
            && entry.key().0 <= now
        {
            self.ready.push_back(entry.remove());
        }
        let count = self.ready.len().min(BATCH_LIMIT);
        self.ready.drain(..count).collect()
    }

    /// When the next duty has rested enough.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.keys().next().map(|(moment, _)| *moment)
    }

    /// Puts back what could not be tried.
    pub(super) fn again(&mut self, duty: QueuedDuty) {
        self.ready.push_front(duty);
    }

    /// Lets a duty rest.
    pub(super) fn rest(&mut self, duty: QueuedDuty, pause: Duration) {
        self.number += 1;
        self.resting.insert((Instant::now() + pause, self.number), duty);
    }

    /// Makes everything ready.
    pub(super) fn wake_all(&mut self) {
        self.ready.extend(std::mem::take(&mut self.resting).into_values());
    }
}

#[cfg(test)]
mod tests {
    use assent_consensus::digest::Digest;

    use super::*;

    fn duty(number: u64) -> QueuedDuty {
        QueuedDuty {
            chain: "consensus".parse().expect("a name"),
            kind: DutyKind::VoteRequest,
            request: RequestId(Digest::of(&number.to_be_bytes())),
            height: number,
        }
    }

    #[test]
    fn a_duty_rests_until_its_time_or_until_all_are_woken() {
        let mut queue = Queue::default();
        queue.rest(duty(1), Duration::from_secs(3600));
        queue.rest(duty(2), Duration::ZERO);
        assert_eq!(queue.take(), [duty(2)]);
        assert_eq!(queue.take(), []);
        assert!(queue.next_wake().is_some());
        queue.wake_all();
        assert_eq!(queue.take(), [duty(1)]);
        assert_eq!(queue.next_wake(), None);
    }

    #[test]
    fn a_batch_has_no_more_duties_than_the_kms_takes() {
        let mut queue = Queue::default();
        for number in 0..70 {
            queue.again(duty(number));
        }
        assert_eq!(queue.take().len(), BATCH_LIMIT);
        assert_eq!(queue.take().len(), 6);
    }
}
