//! The driver of a ledger with a single validator: one thread that makes a block of all that waits, has it signed,
//! records it, and answers. What arrives meanwhile goes into the next block; its signatures are verified while this one
//! is being written.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use assent_consensus::contract::Contract;
use assent_consensus::digest::Digest;
use assent_consensus::header::{Certificate, CommitSignature, commit_digest};
use assent_consensus::json::Integer;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::time::UnixMillis;
use assent_consensus::transaction::Transaction;

use crate::block::{BLOCK_BYTES, BLOCK_TRANSACTIONS, Block, Built, Fate};
use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::queue::{Placed, Queue, Ready, Receipts, Slot, SubmitError, Waiting};
use crate::reader::LedgerReader;
use crate::replica::{Candidates, Replica};

/// How long the driver sleeps at most before it looks at the clock again, in milliseconds: clocks are set, machines sleep.
const CLOCK_LOOK_MS: u64 = 1_000;
/// How long the driver rests after a failure, in milliseconds.
const RETRY_MS: u64 = 100;
/// For how long transactions are added to one block, in milliseconds.
const BUILD_MS: u64 = 2_000;
/// Of how many transactions the signatures are verified at once, while a block is being made of others.
const VERIFIED_AT_ONCE: usize = 512;
/// The round in which a single validator decides.
const ROUND: u64 = 0;

/// The key that makes blocks final.
pub trait CommitSigner: Send + Sync {
    /// The public key, which genesis names.
    fn key(&self) -> &PublicKey;

    /// Signs a digest: ES256 over what was hashed.
    ///
    /// # Errors
    /// A sentence that says why the key could not sign.
    fn sign(&self, digest: &Digest) -> Result<Signature, String>;
}

/// The driver.
pub struct Solo {
    ledger: Ledger,
    signer: Arc<dyn CommitSigner>,
    clock: Clock,
    queue: Arc<Queue>,
    watchers: Arc<Watchers>,
    /// A time that `fire` was called for and that stayed due, which is a defect of the contract.
    stuck: Option<UnixMillis>,
}

/// What tells the time.
type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;
/// Who wants to hear of new blocks.
type Watchers = Mutex<Vec<Box<dyn Fn(u64) + Send>>>;

/// A running ledger. Cheap to clone; the ledger is stopped when the last one is dropped.
#[derive(Clone)]
pub struct SoloHandle(Arc<Running>);

struct Running {
    queue: Arc<Queue>,
    watchers: Arc<Watchers>,
    reader: LedgerReader,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Solo {
    /// Starts a thread that makes this ledger's blocks.
    ///
    /// # Errors
    /// [`LedgerError::NotTheValidator`] if `signer` is not the ledger's only validator; [`LedgerError::Store`] if there
    /// can be no thread.
    pub fn start(
        ledger: Ledger,
        signer: Arc<dyn CommitSigner>,
        clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    ) -> Result<SoloHandle, LedgerError> {
        let kid = signer.key().thumbprint();
        if ledger.validators.key(kid).is_none() || ledger.validators.keys().count() != 1 {
            return Err(LedgerError::NotTheValidator(kid.to_string()));
        }
        let path = ledger.store.path().to_owned();
        let reader = ledger.reader();
        let solo = Solo::new(ledger, signer, clock);
        let (queue, watchers) = (solo.queue.clone(), solo.watchers.clone());
        let thread = thread::Builder::new()
            .name(format!("ledger-{}", reader.chain()))
            .spawn(move || solo.run())
            .map_err(|error| LedgerError::Store { path, why: error.to_string() })?;
        Ok(SoloHandle(Arc::new(Running { queue, watchers, reader, thread: Mutex::new(Some(thread)) })))
    }

    fn new(ledger: Ledger, signer: Arc<dyn CommitSigner>, clock: Clock) -> Solo {
        Solo { ledger, signer, clock, queue: Arc::default(), watchers: Arc::default(), stuck: None }
    }

    fn run(mut self) {
        let (queue, contract) = (self.queue.clone(), self.ledger.contract.clone());
        let reader = self.ledger.reader();
        thread::scope(|scope| {
            scope.spawn(|| verify_arrived(&queue, &*contract, &reader));
            self.make_blocks();
        });
    }

    fn make_blocks(&mut self) {
        let _end = Ending(self.queue.clone());
        while let Some(ready) = self.queue.take_ready(self.patience(), BLOCK_TRANSACTIONS, BLOCK_BYTES) {
            if let Err(error) = self.round(ready) {
                tracing::error!(chain = %self.ledger.chain, %error, "no block was made");
                if error.is_fatal() {
                    self.queue.stop(Some(error));
                    break;
                }
                // Without anybody waiting nothing slows the next attempt down.
                thread::sleep(Duration::from_millis(RETRY_MS));
            }
        }
    }

    /// How long nothing can be due.
    fn patience(&self) -> Duration {
        let look = Duration::from_millis(CLOCK_LOOK_MS);
        match self.ledger.due() {
            Ok(Some(due)) if self.stuck != Some(due) => {
                look.min(Duration::from_millis(due.get().saturating_sub((self.clock)().get())))
            }
            // A ledger that cannot be read says so when a block is made.
            _ => look,
        }
    }

    /// Makes one block of what waits, if there is a reason for one, and answers everybody.
    fn round(&mut self, Ready { waiting, checked }: Ready) -> Result<(), LedgerError> {
        let time = UnixMillis::new((self.clock)().get().max(self.ledger.tip.time + 1));
        if waiting.is_empty() && !self.is_due(time)? {
            return Ok(());
        }
        let (transactions, slots): (Vec<Transaction>, Vec<Slot>) =
            waiting.into_iter().map(Waiting::split).unzip();
        match self.make(time, transactions, &checked) {
            Ok((height, fates)) => {
                self.answer(height, fates, slots, checked);
                Ok(())
            }
            Err(error) => {
                for slot in slots {
                    slot.answer(Err(error.clone().into()));
                }
                Err(error)
            }
        }
    }

    fn is_due(&mut self, time: UnixMillis) -> Result<bool, LedgerError> {
        let due = self.ledger.due()?;
        Ok(due.is_some_and(|due| due <= time) && self.stuck != due)
    }

    /// Builds a block, signs it, and records it; gives its height, and what became of each transaction.
    fn make(
        &mut self,
        time: UnixMillis,
        transactions: Vec<Transaction>,
        checked: &CheckedSignatures,
    ) -> Result<(u64, Vec<Fate>), LedgerError> {
        let height = self.ledger.tip.height + 1;
        let deadline = Instant::now() + Duration::from_millis(BUILD_MS);
        let Built { block, fates } =
            self.ledger.build(height, Candidates { time, transactions, checked, deadline })?;
        if let Some(block) = block {
            let certificate = self.sign(&block)?;
            self.ledger.commit(&block, &certificate)?;
            self.see_progress(time);
            for watcher in &*self.watchers.lock().unwrap_or_else(PoisonError::into_inner) {
                watcher(height);
            }
        }
        Ok((height, fates))
    }

    fn sign(&self, block: &Block) -> Result<Certificate, LedgerError> {
        let header = block.header().header();
        let round = Integer::saturating(ROUND);
        let digest =
            commit_digest(header.deployment, &header.chain, header.height, round, block.header().id());
        let signature = self.signer.sign(&digest).map_err(LedgerError::Signer)?;
        Ok(Certificate {
            height: header.height,
            round,
            block: block.header().id(),
            signatures: vec![CommitSignature { kid: self.signer.key().thumbprint(), signature }],
        })
    }

    /// Sees whether a block at `time` has done what was due, so that a contract that does not do it makes no endless
    /// chain of blocks.
    fn see_progress(&mut self, time: UnixMillis) {
        // The block is recorded, whether or not this can be read; the next block will say so.
        let stuck = self.ledger.due().ok().flatten().filter(|due| *due <= time);
        if stuck.is_some() && stuck != self.stuck {
            tracing::error!(chain = %self.ledger.chain, ?stuck, "what was due was not done; please report this");
        }
        self.stuck = stuck;
    }

    fn answer(&self, height: u64, fates: Vec<Fate>, slots: Vec<Slot>, checked: CheckedSignatures) {
        let mut left = Vec::new();
        for (fate, slot) in fates.into_iter().zip(slots) {
            match fate {
                Fate::Taken { transaction, index } => slot.answer(Ok(Placed { transaction, height, index })),
                Fate::Recorded { transaction, height, index } => {
                    slot.answer(Ok(Placed { transaction, height, index }));
                }
                Fate::Rejected(rejection) => slot.answer(Err(SubmitError::Rejected(rejection))),
                Fate::Left(transaction) => left.push(Waiting::again(transaction, slot)),
            }
        }
        self.queue.put_back(Ready { waiting: left, checked });
    }
}

/// Verifies the signatures of what arrives, on the state of the newest block, and hands it on.
fn verify_arrived(queue: &Arc<Queue>, contract: &dyn Contract, reader: &LedgerReader) {
    let _end = Ending(queue.clone());
    while let Some(waiting) = queue.take_arrived(VERIFIED_AT_ONCE) {
        let transactions: Vec<&Transaction> = waiting.iter().map(|waiting| &waiting.transaction).collect();
        // Execution verifies what is missing, and says so if the store cannot be read.
        let checked = reader.verify_signatures(contract, &transactions).unwrap_or_default();
        queue.add_ready(Ready { waiting, checked });
    }
}

/// Answers everybody when one of the driver's threads ends, also if it unwinds.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.stop(thread::panicking().then_some(LedgerError::Ended));
    }
}

impl SoloHandle {
    /// Submits transactions, in order, and gives an iterator that waits for their answers. An answer without an error
    /// means that the transaction is on disk. The same bytes again get the same answer.
    pub fn submit(&self, transactions: Vec<Transaction>) -> Receipts {
        let (reply, receipts) = Receipts::new();
        self.submit_then(transactions, reply);
        receipts
    }

    /// Submits transactions, in order; `reply` is called once, with one answer for each, in order. It is called on the
    /// ledger's own thread, so it must be short.
    pub fn submit_then(
        &self,
        transactions: Vec<Transaction>,
        reply: impl FnOnce(Vec<Result<Placed, SubmitError>>) + Send + 'static,
    ) {
        self.0.queue.add(transactions, Box::new(reply));
    }

    /// Has `watcher` called with the height of each block after it is recorded and before its transactions are answered.
    /// It is called on the ledger's own thread, so it must be short, and must not call this.
    pub fn tip_changes(&self, watcher: impl Fn(u64) + Send + 'static) {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(watcher));
    }

    /// A reader of the ledger.
    pub fn reader(&self) -> LedgerReader {
        self.0.reader.clone()
    }

    /// Makes the ledger look at the clock now; without, it does so once a second.
    pub fn nudge(&self) {
        self.0.queue.nudge();
    }

    /// Stops after the block that is being made. Whoever still waits is told so. When this returns the file is closed,
    /// unless it was called on the ledger's own thread.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Running {
    fn stop(&self) {
        self.queue.stop(None);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic was reported when it happened.
            drop(thread.join());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use assent_consensus::contract::{Context, Rejection, State};
    use assent_consensus::event::EventBytes;
    use assent_consensus::jws::Jws;

    use super::*;
    use crate::testing::{Clock as Time, Key, chain, deployment, open, transaction, validators};

    /// Has everything that waits recorded, on this thread.
    fn go(solo: &mut Solo) -> Result<(), LedgerError> {
        let waiting = solo.queue.take_arrived(VERIFIED_AT_ONCE).expect("it is not stopped");
        solo.round(Ready { waiting, checked: CheckedSignatures::default() })
    }

    fn submit(solo: &Solo, text: &str) -> Receipts {
        let (reply, receipts) = Receipts::new();
        solo.queue.add(vec![transaction(text)], Box::new(reply));
        receipts
    }

    #[test]
    fn on_a_full_disk_nothing_is_acknowledged_and_with_room_all_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("main.ledger")).unwrap();
        let mut solo = Solo::new(ledger, Arc::new(Key::new(1)), Time::default().read());
        let large = format!("put a {}", "x".repeat(1_000_000));
        solo.ledger.store.pragma("max_page_count", 40).unwrap();
        let mut receipts = submit(&solo, &large);
        assert!(matches!(go(&mut solo), Err(LedgerError::Full { .. })));
        assert!(matches!(receipts.next(), Some(Err(SubmitError::Store(LedgerError::Full { .. })))));
        assert!(solo.ledger.reader().tip().unwrap().is_none());
        solo.ledger.store.pragma("max_page_count", 1_000_000).unwrap();
        let mut receipts = submit(&solo, &large);
        go(&mut solo).unwrap();
        assert!(matches!(receipts.next(), Some(Ok(Placed { height: 1, index: 0, .. }))));
    }

    #[test]
    fn a_key_that_cannot_sign_leaves_nothing_recorded() {
        struct Broken(Key);
        impl CommitSigner for Broken {
            fn key(&self) -> &PublicKey {
                self.0.key()
            }
            fn sign(&self, _: &Digest) -> Result<Signature, String> {
                Err("the device is gone".into())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("main.ledger")).unwrap();
        let mut solo = Solo::new(ledger, Arc::new(Broken(Key::new(1))), Time::default().read());
        let mut receipts = submit(&solo, "put a 1");
        assert!(matches!(go(&mut solo), Err(LedgerError::Signer(_))));
        assert!(matches!(receipts.next(), Some(Err(SubmitError::Store(LedgerError::Signer(_))))));
        assert!(solo.ledger.reader().tip().unwrap().is_none());
    }

    #[test]
    fn what_is_more_than_may_wait_is_answered_busy() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("main.ledger")).unwrap();
        let solo = Solo::new(ledger, Arc::new(Key::new(1)), Time::default().read());
        let mut waiting = Vec::new();
        let large = "x".repeat(4_000_000);
        for i in 0..20 {
            waiting.push(submit(&solo, &format!("put k{i} {large}")));
        }
        solo.queue.stop(None);
        let answers: Vec<_> = waiting.into_iter().flatten().collect();
        let count = |error: &SubmitError| answers.iter().filter(|a| a.as_ref().err() == Some(error)).count();
        assert_eq!((count(&SubmitError::Stopped), count(&SubmitError::Busy)), (16, 4));
    }

    #[test]
    fn when_a_contract_panics_everybody_is_answered() {
        struct Panics;
        impl Contract for Panics {
            fn signatures(&self, _: &dyn State, _: &Transaction) -> Vec<(Jws, PublicKey)> {
                Vec::new()
            }
            fn execute(
                &self,
                _: &mut dyn State,
                _: &Transaction,
                _: &Context<'_>,
            ) -> Result<Vec<EventBytes>, Rejection> {
                panic!("a defect")
            }
            fn due(&self, _: &dyn State) -> Option<UnixMillis> {
                None
            }
            fn fire(&self, _: &mut dyn State, _: &Context<'_>) -> Vec<EventBytes> {
                Vec::new()
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.ledger");
        let ledger = Ledger::open(&path, deployment(), chain(), validators(), Arc::new(Panics)).unwrap();
        let solo = Solo::start(ledger, Arc::new(Key::new(1)), Time::default().read()).unwrap();
        assert!(solo.submit(vec![transaction("put a 1")]).all(|answer| answer.is_err()));
        solo.stop();
        let ended = Some(Err(SubmitError::Store(LedgerError::Ended)));
        assert_eq!(solo.submit(vec![transaction("put b 1")]).next(), ended);
    }
}
