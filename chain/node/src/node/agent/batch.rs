//! A batch of duties with all the proofs that the KMS needs, made from the logs.

use std::collections::HashMap;

use assent_consensus::bundle::Bundle;
use assent_consensus::contract::query;
use assent_consensus::contract::record::RequestState;
use assent_consensus::digest::Digest;
use assent_consensus::duty::{BATCH_BYTES, Duty, DutyBatch, Refusal, TrustedHeaders};
use assent_consensus::encoding::Bytes;
use assent_consensus::header::{EventProof, Finality, SealedHeader};
use assent_consensus::jws::{JwsError, Signed};
use assent_consensus::message::{RequestId, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::subject::Subject;
use assent_consensus::vote::Outcome;
use assent_ledger::LedgerError;

use crate::api::DutyKind;
use crate::node::bundle::{self, NoBundle};
use crate::node::ledgers::{Ledgers, Log};
use crate::node::places::{Places, Told};

use super::Fate;
use super::queue::QueuedDuty;

/// About how many bytes of duties go into one batch; a single duty may have more.
const SIZE: usize = BATCH_BYTES / 4;
/// About how many bytes a duty has beside its ballots and documents.
const DUTY_SIZE: usize = 8 * 1024;

/// Duties with proofs, and what became of those that need none.
#[derive(Default)]
pub(super) struct Batch {
    message: Option<DutyBatch>,
    /// The duties of the message, in its order.
    pub(super) sent: Vec<Sent>,
    /// What became of the others.
    pub(super) settled: Vec<(QueuedDuty, Fate)>,
}

/// A duty that goes to the KMS.
pub(super) struct Sent {
    pub(super) duty: QueuedDuty,
    /// If it is an action.
    pub(super) action: Option<Action>,
}

/// What an action's result needs beside the KMS's answer.
pub(super) struct Action {
    /// The decision that approved it.
    pub(super) decision: Digest,
    /// The document that the subject names, if the KMS needs it.
    pub(super) document: Option<Bytes>,
}

/// Why a duty cannot be sent.
enum Unsent {
    /// It is not due any more.
    Gone,
    /// This node does not keep what is needed.
    NotKept(String),
    /// A log cannot be read.
    Ledger(LedgerError),
}

/// A duty with its proofs.
type Proven = (Duty, Option<Action>);

impl From<LedgerError> for Unsent {
    fn from(error: LedgerError) -> Unsent {
        Unsent::Ledger(error)
    }
}

/// The newest headers, against which everything in one batch is proven.
struct Proofs<'a> {
    ledgers: &'a Ledgers,
    places: &'a Places,
    anchors: HashMap<Name, u64>,
}

impl Batch {
    /// Makes the proofs of as many duties as go into one message; the others are to be sent again.
    pub(super) fn make(
        ledgers: &Ledgers,
        places: &Places,
        trusted: &TrustedHeaders,
        duties: Vec<QueuedDuty>,
    ) -> Batch {
        let (finality, anchors) = match anchors(ledgers, trusted) {
            Ok(anchors) => anchors,
            Err(error) => {
                return Batch::unsent(duties.into_iter().map(|duty| (duty, unreadable(&error))).collect());
            }
        };
        let proofs = Proofs { ledgers, places, anchors };
        let mut batch = Batch::default();
        let (mut proven, mut size) = (Vec::with_capacity(duties.len()), 0);
        for duty in duties {
            if size >= SIZE {
                batch.settled.push((duty, Fate::Unreached));
                continue;
            }
            match proofs.prove(&duty) {
                Ok((message, action)) => {
                    size += weight(&message);
                    proven.push(message);
                    batch.sent.push(Sent { duty, action });
                }
                Err(Unsent::Gone) => batch.settled.push((duty, Fate::Done)),
                Err(Unsent::NotKept(message)) => {
                    let refusal = Refusal { reason: "not-kept".into(), message };
                    batch.settled.push((duty, Fate::Refused { needs_person: true, refusal }));
                }
                Err(Unsent::Ledger(error)) => batch.settled.push((duty, unreadable(&error))),
            }
        }
        batch.message = (!proven.is_empty()).then_some(DutyBatch { finality, duties: proven });
        batch
    }

    /// A batch of which nothing is sent.
    pub(super) fn unsent(settled: Vec<(QueuedDuty, Fate)>) -> Batch {
        Batch { settled, ..Batch::default() }
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.message.is_none()
    }

    /// What is to be sent, unless it is empty.
    pub(super) fn message(&self) -> &DutyBatch {
        self.message.as_ref().expect("an empty batch is not sent")
    }
}

/// The newest header of each log, tied to the one that the KMS trusts.
fn anchors(
    ledgers: &Ledgers,
    trusted: &TrustedHeaders,
) -> Result<(Vec<Finality>, HashMap<Name, u64>), LedgerError> {
    let (mut all, mut heights) = (Vec::new(), HashMap::new());
    for log in ledgers.logs() {
        let chain = &log.chain.id;
        let known = trusted.chains.iter().find(|known| known.chain == *chain).map(|known| known.trusted);
        if known.is_none() && log.reader.tip()?.is_none() {
            continue;
        }
        let finality = log.reader.finality(known)?;
        let header = SealedHeader::parse(&finality.header.0).map_err(|error| LedgerError::NotThere {
            what: format!("a header that can be read ({error})"),
            tip: *log.tip().borrow(),
        })?;
        heights.insert(chain.clone(), header.header().height.get());
        all.push(finality);
    }
    Ok((all, heights))
}

impl Proofs<'_> {
    fn prove(&self, duty: &QueuedDuty) -> Result<Proven, Unsent> {
        let log = self.ledgers.log(&duty.chain).ok_or_else(|| not_kept(&duty.chain))?;
        match duty.kind {
            DutyKind::VoteRequest => self.vote_request(log, duty),
            DutyKind::Decision => self.decision(log, duty),
            DutyKind::Action => self.action(log, duty),
        }
    }

    fn vote_request(&self, log: &Log, duty: &QueuedDuty) -> Result<Proven, Unsent> {
        let state = log.reader.snapshot()?;
        let record = query::request(&state, duty.request);
        state.verified()?;
        let record = record.filter(|record| record.status.state == RequestState::Called);
        let record = record.ok_or(Unsent::Gone)?;
        let calling =
            self.ledgers.log(&record.calling_chain).ok_or_else(|| not_kept(&record.calling_chain))?;
        let state = calling.reader.snapshot()?;
        let asked = query::case_request(&state, duty.request);
        let case = query::case(&state, record.call.requester, &record.call.case);
        state.verified()?;
        let (Some(asked), Some(case)) = (asked, case) else {
            return Err(Unsent::NotKept(format!("the case of `{}` is not in the log", duty.request)));
        };
        let call = self.event(calling, asked.asked.called, Told::Call, duty.request)?;
        let due = self.event(log, duty.height, Told::VoteRequestDue, duty.request)?;
        Ok((Duty::VoteRequest { start: case.start, call, due }, None))
    }

    fn decision(&self, log: &Log, duty: &QueuedDuty) -> Result<Proven, Unsent> {
        let state = log.reader.snapshot()?;
        let record = query::request(&state, duty.request);
        let ballots = query::ballots(&state, duty.request);
        let cancel = query::cancel(&state, duty.request);
        state.verified()?;
        let record = record.ok_or(Unsent::Gone)?;
        let RequestState::Fixed { outcome, .. } = record.status.state else { return Err(Unsent::Gone) };
        let vote_request = record.vote_request.ok_or(Unsent::Gone)?;
        let cancel = cancel.filter(|_| outcome == Outcome::Cancelled);
        let due = self.event(log, duty.height, Told::DecisionDue, duty.request)?;
        Ok((Duty::Decision { vote_request, ballots, cancel, due }, None))
    }

    fn action(&self, log: &Log, duty: &QueuedDuty) -> Result<Proven, Unsent> {
        let state = log.reader.snapshot()?;
        let asked = query::case_request(&state, duty.request);
        state.verified()?;
        let asked = asked.ok_or(Unsent::Gone)?;
        if asked.result.is_some() || asked.asked.action_due != Some(duty.height) {
            return Err(Unsent::Gone);
        }
        let bundle =
            bundle::build(self.ledgers, self.places, duty.request, false).map_err(|error| match error {
                NoBundle::Ledger(error) => Unsent::Ledger(error),
                error => Unsent::NotKept(error.to_string()),
            })?;
        let decision = bundle.decision.digest();
        let document = document(log, &bundle)?;
        let due = self.event(log, duty.height, Told::ActionDue, duty.request)?;
        let action = Action { decision, document: document.clone() };
        Ok((Duty::Action { bundle: Box::new(bundle), document, due }, Some(action)))
    }

    fn event(&self, log: &Log, height: u64, told: Told, request: RequestId) -> Result<EventProof, Unsent> {
        let anchor = self.anchors.get(&log.chain.id).ok_or_else(|| not_kept(&log.chain.id))?;
        let index = self.places.find(log, height, told, request)?;
        Ok(log.reader.event_proof(*anchor, height, index)?)
    }
}

/// The document that an approved subject names and that its action needs.
fn document(log: &Log, bundle: &Bundle) -> Result<Option<Bytes>, Unsent> {
    let unreadable = |error: JwsError| Unsent::NotKept(format!("the vote request cannot be read: {error}"));
    let asked = Signed::<VoteRequest>::from_jws(bundle.vote_request.clone()).map_err(unreadable)?;
    let Subject::ChangePolicy { to, .. } = &asked.unverified().subject else { return Ok(None) };
    match log.reader.transaction(*to)? {
        Some((bytes, ..)) => Ok(Some(Bytes(bytes))),
        None => Err(Unsent::NotKept(format!("this node does not keep the document `{to}`"))),
    }
}

/// About how many bytes a duty has as JSON.
fn weight(duty: &Duty) -> usize {
    let ballots = |ballots: &[assent_consensus::message::CountedMessage]| {
        ballots.iter().map(|ballot| ballot.jws.as_str().len() + 64).sum::<usize>()
    };
    DUTY_SIZE
        + match duty {
            Duty::VoteRequest { start, call, .. } => start.as_str().len() + 2 * call.event.0.len(),
            Duty::Decision { vote_request, ballots: counted, .. } => {
                vote_request.as_str().len() + ballots(counted)
            }
            Duty::Action { bundle, document, .. } => {
                let document = document.as_ref().map_or(0, |document| document.0.len());
                let documents = bundle.policy.0.len() + bundle.definition.0.len() + document;
                let messages = bundle.start.as_str().len() + bundle.vote_request.as_str().len();
                2 * documents + messages + ballots(&bundle.ballots)
            }
        }
}

fn not_kept(chain: &Name) -> Unsent {
    Unsent::NotKept(format!("this node does not keep the log `{chain}`, which the KMS needs proof from"))
}

/// A log that cannot be read now, or that does not go on from what the KMS trusts.
fn unreadable(error: &LedgerError) -> Fate {
    let (reason, needs_person) = match error {
        LedgerError::NotAncestor { .. } => ("other-history", true),
        LedgerError::Damaged { .. } => ("damaged-log", true),
        _ => ("unreadable-log", false),
    };
    Fate::Refused { needs_person, refusal: Refusal { reason: reason.into(), message: error.to_string() } }
}
