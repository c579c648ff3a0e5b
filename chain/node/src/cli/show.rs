//! How subjects, requests and cases are shown to people.

use assent_consensus::genesis::Genesis;
use assent_consensus::json::{self, Value};
use assent_consensus::policy::{Explanation, NodeState};
use assent_consensus::subject::{Subject, Target};

use crate::api::{CaseState, CaseView, DutyView, RequestState, RequestSummary};

use super::failure::Failure;
use super::moment;
use super::screen::{Screen, quoted};

/// What an adopted key is, for whoever relies on its signatures.
pub(super) const ADOPTED: &str = "it was adopted: nobody can say who else has a copy of it";

/// The subject, in full: every member, and every member of its context.
pub(super) fn subject(screen: &Screen, subject: &Subject) -> Result<(), Failure> {
    let value = Value::parse(&json::write(subject)).map_err(Failure::failed)?;
    members(screen, &value, 1)
}

/// What genesis says of the operational key that a subject is about.
pub(super) fn key(screen: &Screen, genesis: &Genesis, subject: &Subject) -> Result<(), Failure> {
    let Target::Key(name) = subject.target() else { return Ok(()) };
    let Some(key) = genesis.key(name) else { return Ok(()) };
    let origin = if key.adopted { format!("; {ADOPTED}") } else { String::new() };
    screen.line(format!("  the key {name} signs by {}{origin}", key.key.algorithm()))
}

fn members(screen: &Screen, value: &Value, depth: usize) -> Result<(), Failure> {
    let Value::Object(members_of) = value else { return Ok(()) };
    let indent = 2 * depth;
    for (name, value) in members_of.iter() {
        let name = quoted(name);
        match value {
            Value::Object(_) => {
                screen.line(format!("{:indent$}{name}", ""))?;
                members(screen, value, depth + 1)?;
            }
            Value::String(text) => screen.line(format!("{:indent$}{name:<12} {}", "", quoted(text)))?,
            other => {
                let text = String::from_utf8_lossy(&json::write(other)).into_owned();
                screen.line(format!("{:indent$}{name:<12} {text}", ""))?;
            }
        }
    }
    Ok(())
}

/// The subject in a few words.
pub(super) fn subject_in_short(subject: &Subject) -> String {
    let kind = subject.kind();
    match subject {
        Subject::Sign { key, name, .. } => format!("{kind} {} with {key}", quoted(name)),
        Subject::Record { title, .. } => format!("{kind} {}", quoted(title)),
        Subject::Webhook { url, .. } => format!("{kind} {}", quoted(url)),
        Subject::RotateKey { key, contract, .. } | Subject::DestroyKey { key, contract, .. } => {
            let target = key.as_ref().or(contract.as_ref());
            format!("{kind} of {}", target.map_or("nothing", |name| name.as_str()))
        }
        Subject::ChangePolicy { contract, .. } => format!("{kind} of {contract}"),
        Subject::ChangeProcess { process, .. } => format!("{kind} {process}"),
        Subject::AddContract { contract, .. } => format!("{kind} {contract}"),
        Subject::AddKey { key, .. } => format!("{kind} {key}"),
        Subject::SignSet { key, count, .. } => format!("{kind} of {count} with {key}"),
        Subject::ChangeValidators { chain, .. } => format!("{kind} of {chain}"),
    }
}

/// How a rule stands, part by part.
pub(super) fn rule(screen: &Screen, explanation: &Explanation, depth: usize) -> Result<(), Failure> {
    let mut words = vec![match explanation.state {
        NodeState::Waiting => "not begun".to_owned(),
        NodeState::Open => "open".to_owned(),
        NodeState::True => "holds".to_owned(),
        NodeState::False => "fails".to_owned(),
    }];
    if let (Some(counted), Some(needed)) = (explanation.counted, explanation.needed) {
        words.push(format!("{counted} of {needed}"));
    }
    words.extend(explanation.until.map(|until| format!("until {}", moment::utc(until))));
    if !explanation.missing.is_empty() {
        let names: Vec<_> = explanation.missing.iter().map(ToString::to_string).collect();
        words.push(format!("yet to vote: {}", names.join(", ")));
    }
    screen.line(format!("{:indent$}{}: {}", "", explanation.rule, words.join("; "), indent = 2 * depth))?;
    explanation.rules.iter().try_for_each(|part| rule(screen, part, depth + 1))
}

/// One request as an entry of a list.
pub(super) fn request_entry(screen: &Screen, request: &RequestSummary) -> Result<(), Failure> {
    screen.line(request.request)?;
    screen.line(format!("  {}", subject_in_short(&request.subject)))?;
    screen.line(format!(
        "  {}, asked of {} by process {}",
        request_state(request),
        request.contract,
        request.process
    ))?;
    match request.deadline {
        Some(deadline) if !request.state.is_final() => {
            screen.line(format!("  until {}", moment::relative(deadline, moment::now())))
        }
        _ => Ok(()),
    }
}

/// How far a request is, in a few words.
pub(super) fn request_state(request: &RequestSummary) -> String {
    match (request.state, request.outcome, request.decided) {
        (RequestState::Decided, Some(outcome), Some(decided)) => {
            format!("{outcome} at {}", moment::utc(decided))
        }
        (RequestState::Fixed, Some(outcome), _) => format!("{outcome}, yet to be signed"),
        (state, ..) => state.as_str().to_owned(),
    }
}

/// How far a case is, in a few words.
pub(super) fn case_state(state: &CaseState) -> String {
    match state {
        CaseState::Asking { step, attempt: 1, .. } => format!("asking at step {step}"),
        CaseState::Asking { step, attempt, .. } => format!("asking at step {step}, attempt {attempt}"),
        CaseState::Acting { step, .. } => format!("acting at step {step}"),
        CaseState::Ended { outcome } => format!("ended: {}", case_outcome(*outcome)),
    }
}

/// The word for how a case ended.
pub(super) fn case_outcome(outcome: assent_consensus::event::CaseOutcome) -> &'static str {
    use assent_consensus::event::CaseOutcome;
    match outcome {
        CaseOutcome::Done => "done",
        CaseOutcome::Rejected => "rejected",
        CaseOutcome::Expired => "expired",
        CaseOutcome::Cancelled => "cancelled",
        CaseOutcome::Refused => "refused by the contract that was asked",
        CaseOutcome::Lapsed => "lapsed: approved, but not done in time",
    }
}

/// All that is known of a case.
pub(super) fn case(screen: &Screen, case: &CaseView) -> Result<(), Failure> {
    screen.line(format!("case       {}", case.summary.case))?;
    screen.line(format!("process    {}", case.summary.process))?;
    screen.line(format!("requester  {}", case.summary.requester))?;
    screen.line(format!("state      {}", case_state(&case.summary.state)))?;
    for request in &case.requests {
        let state = match (request.outcome, request.state) {
            (Some(outcome), _) => outcome.as_str(),
            (None, Some(state)) => state.as_str(),
            (None, None) => "on its way",
        };
        screen.line(format!(
            "request    {} ({}, attempt {}): {state}",
            request.request, request.step, request.attempt
        ))?;
    }
    for result in &case.results {
        screen.line(format!(
            "signed     by version {} of key {} ({})",
            result.output.version, result.output.key, result.step
        ))?;
    }
    case.duty.as_ref().map_or(Ok(()), |view| duty(screen, view))
}

/// What a request or case waits for from the KMS.
pub(super) fn duty(screen: &Screen, duty: &DutyView) -> Result<(), Failure> {
    let what = match duty.duty {
        crate::api::DutyKind::VoteRequest => "the vote request to be signed",
        crate::api::DutyKind::Decision => "the decision to be signed",
        crate::api::DutyKind::Action => "the approved action to be done",
    };
    screen.line(format!("waits for  {what}"))?;
    let Some(last) = &duty.last else { return Ok(()) };
    let who = if last.needs_person { "it needs a person" } else { "it is tried again" };
    screen.line(format!("           {who}: {}", quoted(&last.refusal.message)))
}
