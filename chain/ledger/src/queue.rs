//! What waits for the next block, and how each one waiting is answered.
//!
//! ```text
//! add ─▶ arrived ─▶ (signatures are verified) ─▶ ready ─▶ (the next block)
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use assent_consensus::contract::Rejection;
use assent_consensus::digest::Digest;
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::transaction::Transaction;

use crate::error::LedgerError;

/// How many transactions may wait.
const WAITING_TRANSACTIONS: usize = 16_384;
/// How many bytes of transactions may wait.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Where a transaction is in the log. It is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// SHA-256 of the transaction.
    pub transaction: Digest,
    /// The height of its block.
    pub height: u64,
    /// Its place in the block, from 0.
    pub index: u64,
}

/// Why a transaction is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The contract rejected it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many are waiting.
    #[error("too many transactions are waiting; try again shortly")]
    Busy,
    /// The ledger was stopped before this one's turn.
    #[error("the log is being stopped; try again when it runs")]
    Stopped,
    /// It could not be recorded. It may be submitted again.
    #[error(transparent)]
    Store(#[from] LedgerError),
}

/// What becomes of a submission's transactions, in order.
pub(crate) type Answers = Vec<Result<Placed, SubmitError>>;

/// Answers that are awaited: an iterator over the submission's transactions, in order, that blocks at first.
#[derive(Debug)]
pub struct Receipts {
    receiver: Option<mpsc::Receiver<Answers>>,
    answers: std::vec::IntoIter<Result<Placed, SubmitError>>,
}

impl Receipts {
    /// Both ends: what is called with the answers, and what waits for them.
    pub(crate) fn new() -> (impl FnOnce(Answers) + Send + 'static, Receipts) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let receipts = Receipts { receiver: Some(receiver), answers: Vec::new().into_iter() };
        // Nobody has to wait.
        (move |answers| drop(sender.send(answers)), receipts)
    }
}

impl Iterator for Receipts {
    type Item = Result<Placed, SubmitError>;

    fn next(&mut self) -> Option<Result<Placed, SubmitError>> {
        if let Some(receiver) = self.receiver.take() {
            self.answers = receiver.recv().unwrap_or_default().into_iter();
        }
        self.answers.next()
    }
}

/// A transaction that waits, and where its answer goes. Dropped without an answer, it says that the ledger has stopped.
pub(crate) struct Waiting {
    pub transaction: Transaction,
    slot: Slot,
}

/// One transaction's place in its submission.
pub(crate) struct Slot {
    submission: Arc<Submission>,
    at: usize,
    answered: bool,
}

struct Submission(Mutex<Collected>);

struct Collected {
    answers: Vec<Option<Result<Placed, SubmitError>>>,
    missing: usize,
    reply: Option<Box<dyn FnOnce(Answers) + Send>>,
}

impl Waiting {
    /// The transactions of one submission, whose answers go to `reply` together.
    fn submission(transactions: Vec<Transaction>, reply: Box<dyn FnOnce(Answers) + Send>) -> Vec<Waiting> {
        let count = transactions.len();
        if count == 0 {
            reply(Vec::new());
            return Vec::new();
        }
        let answers = (0..count).map(|_| None).collect();
        let submission =
            Arc::new(Submission(Mutex::new(Collected { answers, missing: count, reply: Some(reply) })));
        let slot = |at| Slot { submission: submission.clone(), at, answered: false };
        transactions
            .into_iter()
            .enumerate()
            .map(|(at, transaction)| Waiting { transaction, slot: slot(at) })
            .collect()
    }

    fn bytes(&self) -> usize {
        self.transaction.bytes().len()
    }

    /// The transaction, and the place for its answer.
    pub(crate) fn split(self) -> (Transaction, Slot) {
        (self.transaction, self.slot)
    }

    /// Puts both together again.
    pub(crate) fn again(transaction: Transaction, slot: Slot) -> Waiting {
        Waiting { transaction, slot }
    }
}

impl Slot {
    pub(crate) fn answer(mut self, answer: Result<Placed, SubmitError>) {
        self.set(answer);
    }

    fn set(&mut self, answer: Result<Placed, SubmitError>) {
        self.answered = true;
        let mut collected = self.submission.0.lock().unwrap_or_else(PoisonError::into_inner);
        collected.answers[self.at] = Some(answer);
        collected.missing -= 1;
        if collected.missing == 0 {
            let answers = std::mem::take(&mut collected.answers).into_iter().flatten().collect();
            let reply = collected.reply.take();
            drop(collected);
            if let Some(reply) = reply {
                reply(answers);
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.answered {
            self.set(Err(SubmitError::Stopped));
        }
    }
}

/// The queue in front of the one that makes blocks. Its lock is held only to move transactions in and out.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    arrived: VecDeque<Waiting>,
    ready: VecDeque<Ready>,
    /// How many have been added and not been taken for a block, and their bytes.
    held: (usize, usize),
    nudged: bool,
    stopped: bool,
    failure: Option<LedgerError>,
}

/// Transactions whose signatures were verified, as far as they are known.
#[derive(Default)]
pub(crate) struct Ready {
    pub waiting: Vec<Waiting>,
    pub checked: CheckedSignatures,
}

impl Queue {
    /// Adds transactions; those for which there is no room are answered so at once.
    pub(crate) fn add(&self, transactions: Vec<Transaction>, reply: Box<dyn FnOnce(Answers) + Send>) {
        let mut refused = Vec::new();
        let mut inner = self.lock();
        for waiting in Waiting::submission(transactions, reply) {
            let bytes = waiting.bytes();
            let error = if let Some(failure) = &inner.failure {
                SubmitError::Store(failure.clone())
            } else if inner.stopped {
                SubmitError::Stopped
            } else if inner.held.0 >= WAITING_TRANSACTIONS || inner.held.1 + bytes > WAITING_BYTES {
                SubmitError::Busy
            } else {
                inner.held.0 += 1;
                inner.held.1 += bytes;
                inner.arrived.push_back(waiting);
                continue;
            };
            refused.push((waiting.slot, error));
        }
        drop(inner);
        self.changed.notify_all();
        // Without the lock, since a reply may call back.
        for (slot, error) in refused {
            slot.answer(Err(error));
        }
    }

    /// Waits for transactions, and takes up to `count` of them to have their signatures verified; nothing when all ends.
    pub(crate) fn take_arrived(&self, count: usize) -> Option<Vec<Waiting>> {
        let mut inner = self
            .changed
            .wait_while(self.lock(), |inner| inner.arrived.is_empty() && !inner.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if inner.stopped {
            return None;
        }
        let count = count.min(inner.arrived.len());
        Some(inner.arrived.drain(..count).collect())
    }

    /// Hands transactions on, in the order in which they were taken.
    pub(crate) fn add_ready(&self, ready: Ready) {
        let mut inner = self.lock();
        if !inner.stopped {
            inner.ready.push_back(ready);
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// Waits for `patience` until a transaction is ready, and takes about `count` transactions of about `bytes` bytes; none
    /// when it is time to look what is due; nothing when all ends.
    pub(crate) fn take_ready(&self, patience: Duration, count: usize, bytes: usize) -> Option<Ready> {
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, |inner| {
                inner.ready.is_empty() && !inner.nudged && !inner.stopped
            })
            .unwrap_or_else(PoisonError::into_inner);
        if inner.stopped {
            return None;
        }
        inner.nudged = false;
        let mut taken = Ready::default();
        let mut size = 0;
        while taken.waiting.len() < count && size < bytes {
            let Some(ready) = inner.ready.pop_front() else { break };
            size += ready.waiting.iter().map(Waiting::bytes).sum::<usize>();
            taken.waiting.extend(ready.waiting);
            taken.checked.merge(ready.checked);
        }
        inner.held.0 -= taken.waiting.len();
        inner.held.1 -= size;
        Some(taken)
    }

    /// Puts back what found no room in a block, in front of all others.
    pub(crate) fn put_back(&self, left: Ready) {
        if left.waiting.is_empty() {
            return;
        }
        let mut inner = self.lock();
        if !inner.stopped {
            inner.held.0 += left.waiting.len();
            inner.held.1 += left.waiting.iter().map(Waiting::bytes).sum::<usize>();
            inner.ready.push_front(left);
        }
    }

    /// Lets the driver look at the clock.
    pub(crate) fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_all();
    }

    /// Ends: whoever waits is answered, and so is everybody who comes later.
    pub(crate) fn stop(&self, failure: Option<LedgerError>) {
        let mut inner = self.lock();
        inner.stopped = true;
        if let Some(failure) = failure {
            inner.failure.get_or_insert(failure);
        }
        let (ready, arrived) = (std::mem::take(&mut inner.ready), std::mem::take(&mut inner.arrived));
        let failure = inner.failure.clone();
        drop(inner);
        self.changed.notify_all();
        for Waiting { slot, .. } in ready.into_iter().flat_map(|ready| ready.waiting).chain(arrived) {
            slot.answer(Err(failure.clone().map_or(SubmitError::Stopped, SubmitError::Store)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
