//! The engine: it takes a batch of duties, verifies them on as many threads as the machine has cores, has all of them signed
//! at once, and answers each.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use assent_consensus::bundle::{SignatureId, SignatureMemory as _};
use assent_consensus::duty::{BATCH_LIMIT, Duty, DutyAnswer, DutyBatch, DutyReport, TrustedHeaders};
use assent_consensus::genesis::Genesis;
use assent_consensus::message::{DeploymentId, RequestId};
use assent_consensus::time::UnixMillis;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{Instrument as _, Span};

use super::anchors::{Anchors, BatchAnchors};
use super::checker::{Checker, Task};
use super::claimed::{Claimed, purpose};
use super::order::Prepared;
use super::refusal::{BatchRefusal, Refusals, Refused, other_order};
use super::vault::{KmsVault, Vault};
use super::verified::VerifiedSignatures;
use crate::changes::{ApprovedChanges, Changed, Rotated};
use crate::pins::Pins;
use crate::reload::InForce;
use crate::signing::{DutyId, Order, Purpose, SignedOrder, Signing, SigningError};
use crate::tally::Tally;

/// The most batches that are under way at once; what comes above is told to come again.
pub(super) const QUEUE_LIMIT: usize = 256;

/// Verifies duties and has them signed.
pub struct Engine {
    desk: Arc<Desk>,
    queue: Semaphore,
    /// How many batches have come.
    batches: AtomicU64,
    /// Batches of which nothing was done, by the word for it.
    pub(super) turned_away: Tally<&'static str>,
}

/// What the threads and tasks of an engine share.
struct Desk {
    vault: Arc<dyn Vault>,
    clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    settings: InForce,
    anchors: Anchors,
    refusals: Refusals,
    refused: Tally<(Purpose, &'static str)>,
    verified: Arc<VerifiedSignatures>,
    /// One permit for each core: more threads than that verify nothing faster.
    cores: Arc<Semaphore>,
    /// Whether there is more than one.
    has_cores: bool,
}

impl Engine {
    /// An engine that goes by `pins`, `clock`, and the settings that are in force.
    pub fn new(
        pins: Pins,
        signing: Arc<Signing>,
        changes: ApprovedChanges,
        clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
        settings: InForce,
    ) -> Engine {
        Engine::with(Arc::new(KmsVault { pins, signing, changes }), clock, settings)
    }

    pub(super) fn with(
        vault: Arc<dyn Vault>,
        clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
        settings: InForce,
    ) -> Engine {
        let cores = available_parallelism().map_or(1, usize::from);
        let (has_cores, cores) = (cores > 1, Arc::new(Semaphore::new(cores)));
        let (anchors, refusals) = (Anchors::default(), Refusals::default());
        let (verified, refused) = (Arc::default(), Tally::default());
        let desk =
            Arc::new(Desk { vault, clock, settings, anchors, refusals, refused, verified, cores, has_cores });
        let (batches, turned_away) = (AtomicU64::new(0), Tally::default());
        Engine { desk, queue: Semaphore::new(QUEUE_LIMIT), batches, turned_away }
    }

    /// How many batches are under way.
    pub(crate) fn under_way(&self) -> usize {
        QUEUE_LIMIT - self.queue.available_permits()
    }

    /// How many duties were refused, by purpose and reason.
    pub(crate) fn refused(&self) -> BTreeMap<(Purpose, &'static str), u64> {
        self.desk.refused.counts()
    }

    /// How many batches were turned away, by the word for it.
    pub(crate) fn turned_away(&self) -> BTreeMap<&'static str, u64> {
        self.turned_away.counts()
    }

    /// The deployment that this KMS was pinned to.
    pub fn deployment(&self) -> Option<DeploymentId> {
        self.desk.vault.genesis().map(|genesis| genesis.id())
    }

    /// The last trusted header of each ledger.
    pub fn trusted(&self) -> TrustedHeaders {
        self.desk.vault.trusted()
    }

    /// Does the duties of a batch, each on its own: one that is refused does not hinder the others. The answers are in the
    /// batch's order.
    ///
    /// # Errors
    /// [`BatchRefusal`]; nothing was signed then.
    pub async fn perform(&self, batch: DutyBatch) -> Result<DutyReport, BatchRefusal> {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        // Spans are of the gravest level, so that they are there however little is to be logged.
        let span = tracing::error_span!("batch", batch = number);
        self.perform_batch(batch).instrument(span).await
    }

    async fn perform_batch(&self, batch: DutyBatch) -> Result<DutyReport, BatchRefusal> {
        let _turn = self.queue.try_acquire().map_err(|_| BatchRefusal::Busy)?;
        let desk = &self.desk;
        let genesis = desk.vault.genesis().ok_or(BatchRefusal::NotPinned)?;
        let DutyBatch { finality, mut duties } = batch;
        if duties.len() > BATCH_LIMIT {
            return Err(BatchRefusal::TooManyDuties(duties.len()));
        }
        let anchors = match desk.anchors.known(&finality) {
            Some(anchors) => anchors,
            None => {
                let pinned = genesis.clone();
                let verified =
                    desk.on_a_core(move |desk| desk.anchors.verify(&pinned, &*desk.vault, finality)).await;
                match verified.ok_or(BatchRefusal::Broken)? {
                    Ok(anchors) => anchors,
                    Err(refusal) => {
                        desk.record_all(duties, &refusal).await;
                        return Err(refusal);
                    }
                }
            }
        };
        let checker = Arc::new(desk.checker(genesis, anchors));
        if duties.len() == 1
            && let Some(duty) = duties.pop()
        {
            let is_alone = self.under_way() == 1;
            return Ok(DutyReport { answers: vec![desk.perform(checker, duty, is_alone).await] });
        }
        let mut tasks = JoinSet::new();
        let mut answers: Vec<Option<DutyAnswer>> = Vec::new();
        for (place, duty) in duties.into_iter().enumerate() {
            let (desk, checker) = (desk.clone(), checker.clone());
            answers.push(None);
            let done = async move { (place, desk.perform(checker, duty, false).await) };
            tasks.spawn(done.in_current_span());
        }
        while let Some(done) = tasks.join_next().await {
            // A task that broke off leaves its place empty.
            if let Ok((place, answer)) = done {
                answers[place] = Some(answer);
            }
        }
        let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(|| broken().answer()));
        Ok(DutyReport { answers: answers.collect() })
    }
}

impl Desk {
    fn checker(&self, genesis: Arc<Genesis>, anchors: BatchAnchors) -> Checker {
        let (vault, clock, verified) = (self.vault.clone(), self.clock.clone(), self.verified.clone());
        let (successions, grace) = (vault.successions(), self.settings.borrow().decision_grace);
        Checker { genesis, successions, vault, clock, grace, anchors, verified }
    }

    /// `is_alone` says that nothing else is under way.
    async fn perform(self: &Arc<Self>, checker: Arc<Checker>, duty: Duty, is_alone: bool) -> DutyAnswer {
        let (purpose, claimed) = (purpose(&duty), Claimed::read(duty));
        let request = claimed.as_ref().map(Claimed::request).ok();
        let done = async {
            match self.fulfil(checker, claimed, is_alone).await {
                Ok(answer) => answer,
                Err(refused) => {
                    self.tell(purpose, request, &refused).await;
                    refused.answer()
                }
            }
        };
        done.instrument(duty_span(purpose, request)).await
    }

    async fn fulfil(
        self: &Arc<Self>,
        checker: Arc<Checker>,
        claimed: Result<Claimed, Refused>,
        is_alone: bool,
    ) -> Result<DutyAnswer, Refused> {
        let claimed = Arc::new(claimed?);
        if is_alone && self.has_cores && checker.needs_help(&claimed) {
            let (checker, claimed) = (checker.clone(), claimed.clone());
            spawn_blocking(move || checker.help(&claimed));
        }
        let checked = if claimed.is_quick() {
            // To hand it to another thread and back would take longer than a signature or two.
            unless_it_breaks_off(|| checker.check(&claimed))
        } else {
            self.on_a_core(move |_| checker.check(&claimed)).await
        };
        match checked.ok_or_else(broken)?? {
            Task::Sign(prepared) => self.sign(prepared).await,
            Task::Rotate(rotation) => {
                let Rotated { transition, audit } = self.vault.rotate(rotation).await?;
                Ok(DutyAnswer::Rotated { transition, audit })
            }
            Task::Destroy(destruction) => changed(self.vault.destroy(destruction).await?),
            Task::ChangePolicy(change) => changed(self.vault.change_policy(change).await?),
        }
    }

    /// Counts a refusal, and puts it into the log, and into the audit log if it is a verdict.
    async fn tell(&self, purpose: Purpose, request: Option<RequestId>, refused: &Refused) {
        self.refused.count((purpose, refused.reason));
        tracing::warn!(reason = refused.reason, "refused: {}", refused.message);
        if let Some(request) = request
            && refused.is_verdict
        {
            self.record(purpose, request, refused).await;
        }
    }

    async fn sign(&self, prepared: Prepared) -> Result<DutyAnswer, Refused> {
        let (purpose, request) = (prepared.order.purpose, prepared.order.request);
        match self.vault.sign(prepared.order.clone()).await {
            Ok(signed) => self.answer(prepared, &signed),
            // The same vote request was asked for before, and each was built with its own time: the first counts.
            Err(SigningError::Conflict { .. }) if purpose == Purpose::VoteRequest => {
                let ordered = self.vault.ordered(prepared.order.duty())?.ok_or(SigningError::Busy)?;
                let first = prepared
                    .into_ordered(Order::clone(&ordered))
                    .ok_or_else(|| other_order(purpose, request))?;
                let signed = self.vault.sign(first.order.clone()).await?;
                self.answer(first, &signed)
            }
            Err(SigningError::Conflict { .. }) => Err(other_order(purpose, request)),
            Err(error) => Err(error.into()),
        }
    }

    /// The answer that carries a signature, which the signing service has verified.
    fn answer(&self, prepared: Prepared, signed: &SignedOrder) -> Result<DutyAnswer, Refused> {
        let answer = prepared.answer(signed).ok_or_else(broken)?;
        if let DutyAnswer::Signed { message, .. } = &answer {
            self.verified.remember(SignatureId::of_message(message));
        }
        Ok(answer)
    }

    /// Puts the refusal of a batch into the audit log, once for each of its duties, if its headers are not to be trusted.
    async fn record_all(&self, duties: Vec<Duty>, refusal: &BatchRefusal) {
        if !refusal.is_verdict() {
            return;
        }
        let refused = Refused::person(refusal.code(), refusal.to_string());
        for duty in duties {
            let purpose = purpose(&duty);
            if let Ok(request) = Claimed::read(duty).as_ref().map(Claimed::request) {
                let recorded = self.record(purpose, request, &refused);
                recorded.instrument(duty_span(purpose, Some(request))).await;
            }
        }
    }

    /// Puts a refusal into the audit log, once.
    async fn record(&self, purpose: Purpose, request: RequestId, refused: &Refused) {
        let duty = DutyId::of(purpose, request);
        if !self.refusals.note(duty, refused.reason) {
            return;
        }
        let recorded = self.vault.record_refusal(purpose, request, refused.reason, &refused.message).await;
        if let Err(error) = recorded {
            self.refusals.forget(duty, refused.reason);
            tracing::error!("a refusal is not in the audit log: {error}");
        }
    }

    /// Runs work that keeps a core busy, when one is free; nothing if it broke off.
    async fn on_a_core<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Desk) -> T + Send + 'static,
    ) -> Option<T> {
        let core = self.cores.clone().acquire_owned().await.ok()?;
        let (desk, span) = (self.clone(), Span::current());
        let done = spawn_blocking(move || {
            let done = span.in_scope(|| work(&desk));
            drop(core);
            done
        });
        match done.await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!("the verification broke off: {error}");
                None
            }
        }
    }
}

fn changed(Changed { change, audit }: Changed) -> Result<DutyAnswer, Refused> {
    Ok(DutyAnswer::Changed { change, audit })
}

/// What is logged while a duty is done says for which request.
fn duty_span(purpose: Purpose, request: Option<RequestId>) -> Span {
    tracing::error_span!("duty", purpose = purpose.as_str(), request = request.map(tracing::field::display))
}

/// Runs work on this thread; nothing if it broke off.
fn unless_it_breaks_off<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What it shares with other work is behind locks, none of which keeps a half-made state.
    let done = catch_unwind(AssertUnwindSafe(work));
    done.inspect_err(|_| tracing::error!("the verification broke off")).ok()
}

/// The answer to a duty whose verification broke off: an error of this program, so nothing is signed.
fn broken() -> Refused {
    Refused {
        is_verdict: false,
        ..Refused::person("broken", "the verification broke off; the KMS's own log says where")
    }
}
