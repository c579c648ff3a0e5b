//! Recording what the KMS signed and did.

use std::collections::HashMap;

use assent_consensus::duty::{DutyAnswer, Refusal};
use assent_consensus::json;
use assent_consensus::name::Name;
use assent_consensus::transaction::{Carrier, Transaction};
use assent_ledger::SubmitError;

use crate::api::DutyKind;
use crate::node::ledgers::Ledgers;

use super::Fate;
use super::batch::{Action, Batch, Sent};
use super::queue::QueuedDuty;

/// Has the answers to a batch recorded, and says what became of each of its duties. Waits for the disk.
pub(super) fn record(ledgers: &Ledgers, batch: Batch, answers: Vec<DutyAnswer>) -> Vec<(QueuedDuty, Fate)> {
    let mut fates = batch.settled;
    if answers.len() != batch.sent.len() {
        let message = format!("the KMS gave {} answers to {} duties", answers.len(), batch.sent.len());
        fates.extend(batch.sent.into_iter().map(|sent| (sent.duty, fault(&message))));
        return fates;
    }
    let mut by_log: HashMap<Name, Vec<(QueuedDuty, Transaction)>> = HashMap::new();
    for (sent, answer) in batch.sent.into_iter().zip(answers) {
        let Sent { duty, action } = sent;
        match read(duty.kind, action, answer) {
            Ok(transaction) => by_log.entry(duty.chain.clone()).or_default().push((duty, transaction)),
            Err(fate) => fates.push((duty, fate)),
        }
    }
    for (chain, entries) in by_log {
        let (duties, transactions): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let Some(log) = ledgers.log(&chain) else { continue };
        for (duty, answer) in duties.into_iter().zip(log.driver.submit(transactions)) {
            fates.push((duty, recorded(answer.err())));
        }
    }
    fates
}

/// The transaction that an answer becomes, or what becomes of the duty without one.
fn read(kind: DutyKind, action: Option<Action>, answer: DutyAnswer) -> Result<Transaction, Fate> {
    let carrier = match (kind, answer, action) {
        (DutyKind::VoteRequest, DutyAnswer::Signed { message, audit }, _) => {
            Carrier::VoteRequest { vote_request: message, audit }
        }
        (DutyKind::Decision, DutyAnswer::Signed { message, audit }, _) => {
            Carrier::Decision { decision: message, audit }
        }
        (DutyKind::Action, DutyAnswer::Performed { output, audit }, Some(Action { decision, .. })) => {
            Carrier::Result { decision, output, audit }
        }
        (DutyKind::Action, DutyAnswer::Rotated { transition, audit }, _) => {
            Carrier::Transition { transition, audit }
        }
        (DutyKind::Action, DutyAnswer::Changed { change, audit }, Some(Action { document, .. })) => {
            Carrier::Change { change, document, audit }
        }
        (_, DutyAnswer::Retry(refusal), _) => return Err(Fate::Refused { needs_person: false, refusal }),
        (_, DutyAnswer::NeedsPerson(refusal), _) => {
            return Err(Fate::Refused { needs_person: true, refusal });
        }
        _ => return Err(fault("the KMS gave an answer to another kind of duty")),
    };
    Transaction::parse(json::write(&carrier))
        .map_err(|error| fault(&format!("what the KMS signed cannot be recorded: {error}")))
}

/// What becomes of a duty whose transaction was answered so.
fn recorded(error: Option<SubmitError>) -> Fate {
    match error {
        None => Fate::Done,
        // Somebody was faster, or it is not due any more.
        Some(SubmitError::Rejected(rejection))
            if matches!(rejection.code, "not-called" | "not-fixed" | "not-due" | "already-changed") =>
        {
            Fate::Done
        }
        // The log has yet to hear of the version, or of the policy.
        Some(SubmitError::Rejected(rejection))
            if matches!(rejection.code, "unknown-key-version" | "wrong-policy") =>
        {
            let refusal = Refusal { reason: "not-recorded".into(), message: rejection.to_string() };
            Fate::Refused { needs_person: false, refusal }
        }
        Some(SubmitError::Rejected(rejection)) => {
            let reason = rejection.code.to_owned();
            let message = format!("the log does not take what the KMS signed: {rejection}");
            Fate::Refused { needs_person: true, refusal: Refusal { reason, message } }
        }
        Some(error) => {
            let refusal = Refusal { reason: "not-recorded".into(), message: error.to_string() };
            Fate::Refused { needs_person: false, refusal }
        }
    }
}

fn fault(message: &str) -> Fate {
    Fate::Refused {
        needs_person: true,
        refusal: Refusal { reason: "unexpected-answer".into(), message: message.into() },
    }
}
