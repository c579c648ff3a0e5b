//! The agent: takes duties to the KMS, and brings back what it signed.
//!
//! ```text
//! logs ─▶ queue (ready, resting) ─▶ batch (proofs) ─▶ KMS ─▶ transactions ─▶ logs
//!                    ▲                                 │
//!                    └────── book (why not yet) ◀──────┘
//! ```
//!
//! What is due stands in the logs: a node that starts again reads it there. A duty that is not done stays due, however
//! often the KMS refuses it. While the KMS cannot be reached, everything waits and goes on by itself.

mod batch;
mod book;
mod queue;
mod record;

use std::sync::Arc;
use std::time::Duration;

use assent_consensus::duty::{Refusal, TrustedHeaders};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::ErrorBody;
use crate::kms_client::{KmsClient, KmsError};

use super::ledgers::Ledgers;
use super::places::Places;
use batch::Batch;
pub use book::DutyBook;
use queue::{Queue, QueuedDuty};

/// How many batches are with the KMS at once.
const BATCHES_AT_ONCE: usize = 3;
/// How often a batch is made anew at once because the KMS has seen newer headers meanwhile.
const FRESH_TRIES: usize = 4;
/// How long to wait before the KMS is called again: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a duty rests that cannot be done without a person.
const PERSON_PAUSE: Duration = Duration::from_secs(30);
/// How long after the KMS was reached a closed connection is no reason to ask again.
const CALM: Duration = Duration::from_secs(1);

/// The agent of one node.
pub struct Agent {
    ledgers: Arc<Ledgers>,
    places: Arc<Places>,
    kms: KmsClient,
    book: Arc<DutyBook>,
}

/// Whether the KMS can be reached.
enum Contact {
    /// It answered last time.
    Up,
    /// It is to be asked at this time, and if it does not answer, again after a pause.
    Down { next: Instant, pause: Duration },
}

/// What became of a duty.
enum Fate {
    /// It is done, or not due any more.
    Done,
    /// It is not done, and why.
    Refused { needs_person: bool, refusal: Refusal },
    /// The KMS refuses whole batches, and why: a person has to see to it, and then all goes on.
    BatchRefused(Refusal),
    /// The KMS could not be reached.
    Unreached,
}

/// What became of a batch.
struct Outcome {
    fates: Vec<(QueuedDuty, Fate)>,
    /// Why the KMS could not be reached.
    unreachable: Option<KmsError>,
}

impl Agent {
    /// An agent that has done nothing yet.
    pub fn new(ledgers: Arc<Ledgers>, places: Arc<Places>, kms: KmsClient, book: Arc<DutyBook>) -> Agent {
        Agent { ledgers, places, kms, book }
    }

    /// Serves until `stop` is set.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let agent = Arc::new(self);
        let mut changes = agent.ledgers.changes();
        let mut closed = agent.kms.closed();
        let mut contact = Contact::Down { next: Instant::now(), pause: FIRST_PAUSE };
        let mut reached = Instant::now();
        let mut queue = Queue::default();
        let mut batches: JoinSet<Outcome> = JoinSet::new();
        loop {
            changes.mark_unchanged();
            if let Contact::Down { next, pause } = contact
                && next <= Instant::now()
            {
                closed.mark_unchanged();
                contact = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break,
                    contact = agent.call(pause) => contact,
                };
                if let Contact::Up = contact {
                    reached = Instant::now();
                    queue.wake_all();
                }
            }
            if let Contact::Up = contact {
                queue = agent.clone().fill(queue).await;
                while batches.len() < BATCHES_AT_ONCE {
                    let duties = queue.take();
                    if duties.is_empty() {
                        break;
                    }
                    batches.spawn(agent.clone().perform(duties));
                }
            }
            let next = match contact {
                Contact::Down { next, .. } => Some(next),
                // While all batches are out nothing can be done about what is ready.
                Contact::Up if batches.len() < BATCHES_AT_ONCE => queue.next_wake(),
                Contact::Up => None,
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = changes.changed() => if changed.is_err() { break },
                _ = closed.changed() => {
                    let next = Instant::now().max(reached + CALM);
                    if let Contact::Up = contact {
                        contact = Contact::Down { next, pause: FIRST_PAUSE };
                    }
                }
                Some(outcome) = batches.join_next() => {
                    let Ok(outcome) = outcome else {
                        tracing::error!("a batch of duties has ended unexpectedly; start the node again");
                        break;
                    };
                    if let Some(error) = agent.settle(&mut queue, outcome)
                        && let Contact::Up = contact
                    {
                        agent.book.set_unreachable(&error);
                        contact = Contact::Down { next: Instant::now() + FIRST_PAUSE, pause: FIRST_PAUSE };
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Sees whether the KMS answers.
    async fn call(&self, pause: Duration) -> Contact {
        match self.kms.trusted().await {
            Err(error @ (KmsError::Unreachable { .. } | KmsError::Unreadable { .. })) => {
                self.book.set_unreachable(&error);
                Contact::Down { next: Instant::now() + pause, pause: LONGEST_PAUSE.min(pause * 2) }
            }
            // It answers: what it refuses it says for each duty.
            Ok(_) | Err(KmsError::Busy(_) | KmsError::Refused(_)) => {
                self.book.set_reachable();
                Contact::Up
            }
        }
    }

    /// Adds what has become due.
    async fn fill(self: Arc<Self>, mut queue: Queue) -> Queue {
        let filled = tokio::task::spawn_blocking(move || {
            if let Err(error) = queue.fill(&self.ledgers) {
                tracing::warn!(%error, "cannot read what is due; tried again with the next block");
            }
            queue
        });
        // A queue that was lost is made anew from the logs.
        filled.await.unwrap_or_default()
    }

    /// Has duties done, and records what came of it.
    async fn perform(self: Arc<Self>, duties: Vec<QueuedDuty>) -> Outcome {
        let mut tries = 0;
        let (batch, answers) = loop {
            let (trusted, batch) = match self.clone().prepare(duties.clone()).await {
                Ok(prepared) => prepared,
                Err(error) => return failed(duties, error),
            };
            if batch.is_empty() {
                break (batch, Vec::new());
            }
            tries += 1;
            match self.kms.duties(batch.message()).await {
                Ok(report) => break (batch, report.answers),
                // Another batch may have brought newer headers since these proofs were made.
                Err(KmsError::Refused(body)) => match self.kms.trusted().await {
                    Ok(now) if now != trusted && tries < FRESH_TRIES => {}
                    Ok(now) if now != trusted => return failed(duties, KmsError::Busy(body)),
                    _ => return failed(duties, KmsError::Refused(body)),
                },
                Err(error) => return failed(duties, error),
            }
        };
        let fates = tokio::task::spawn_blocking(move || record::record(&self.ledgers, batch, answers)).await;
        let fates = fates.unwrap_or_else(|_| faulty(duties, "what the KMS signed could not be recorded"));
        Outcome { fates, unreachable: None }
    }

    /// Makes the proofs for a batch, tied to what the KMS trusts.
    async fn prepare(self: Arc<Self>, duties: Vec<QueuedDuty>) -> Result<(TrustedHeaders, Batch), KmsError> {
        let trusted = self.kms.trusted().await?;
        let (kept, known) = (duties.clone(), trusted.clone());
        let made =
            tokio::task::spawn_blocking(move || Batch::make(&self.ledgers, &self.places, &known, duties));
        let made = made.await;
        let batch =
            made.unwrap_or_else(|_| Batch::unsent(faulty(kept, "the proofs for the KMS could not be made")));
        Ok((trusted, batch))
    }

    /// Keeps account of a batch; gives why the KMS could not be reached.
    fn settle(&self, queue: &mut Queue, outcome: Outcome) -> Option<KmsError> {
        for (duty, fate) in outcome.fates {
            let (needs_person, refusal, longest) = match fate {
                Fate::Done => {
                    self.book.done(duty.key());
                    continue;
                }
                Fate::Unreached => {
                    queue.again(duty);
                    continue;
                }
                Fate::Refused { needs_person: true, refusal } => (true, refusal, PERSON_PAUSE),
                Fate::Refused { needs_person: false, refusal } => (false, refusal, LONGEST_PAUSE),
                Fate::BatchRefused(refusal) => (true, refusal, LONGEST_PAUSE),
            };
            tracing::info!(
                duty = ?duty.kind,
                request = %duty.request,
                reason = refusal.reason,
                message = refusal.message,
                needs_person,
                "the duty is not done"
            );
            let attempts = self.book.refused(duty.key(), needs_person, refusal);
            queue.rest(duty, pause(longest, attempts));
        }
        outcome.unreachable
    }
}

/// How long a duty rests: 100 ms, 200 ms, ... up to the longest pause; one that needs a person always that.
fn pause(longest: Duration, attempts: u64) -> Duration {
    if longest == PERSON_PAUSE {
        return longest;
    }
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(8);
    longest.min(FIRST_PAUSE * 2_u32.pow(doublings))
}

fn failed(duties: Vec<QueuedDuty>, error: KmsError) -> Outcome {
    let refusal = |body: &ErrorBody| Refusal { reason: body.code.clone(), message: body.message.clone() };
    let fate = || match &error {
        KmsError::Unreachable { .. } | KmsError::Unreadable { .. } => Fate::Unreached,
        KmsError::Busy(body) => Fate::Refused { needs_person: false, refusal: refusal(body) },
        KmsError::Refused(body) => Fate::BatchRefused(refusal(body)),
    };
    let fates = duties.into_iter().map(|duty| (duty, fate())).collect();
    let unreachable = matches!(error, KmsError::Unreachable { .. } | KmsError::Unreadable { .. });
    Outcome { fates, unreachable: unreachable.then_some(error) }
}

/// After a panic, which was reported when it happened: the duties stay due.
fn faulty(duties: Vec<QueuedDuty>, message: &str) -> Vec<(QueuedDuty, Fate)> {
    let refusal = || Refusal { reason: "fault".into(), message: message.into() };
    let fate = || Fate::Refused { needs_person: true, refusal: refusal() };
    duties.into_iter().map(|duty| (duty, fate())).collect()
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
