//! What comes back to a case: answers of consensus contracts, and results of actions.

use super::case::{Walk, decision_key, known, put_asked, wrong_process};
use super::layout::{self, ASKING, CANCEL, DUE, DUTY, Key};
use super::process::{ProcessContracts, subject};
use super::record::{Answer, AskedRequest, CaseStage};
use super::{Context, Rejection, State};
use crate::artifact::Artifact;
use crate::bundle::ActionOutput;
use crate::digest::Digest;
use crate::event::{CaseOutcome, ConsensusEvent, EventBytes, ProcessEvent};
use crate::header::Inclusion;
use crate::jws::{Jws, Signed};
use crate::message::{Decision, RequestId};
use crate::process::{OnRejected, StepAction};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::vote::Outcome;

impl ProcessContracts {
    pub(super) fn answer(
        &self,
        state: &mut dyn State,
        decision: Option<&Jws>,
        inclusion: &Inclusion,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let event = ConsensusEvent::parse(&inclusion.event.0).map_err(|error| {
            Rejection::new("not-an-answer", format!("the event that was carried cannot be read: {error}"))
        })?;
        let request = match &event {
            ConsensusEvent::DecisionRecorded { request, .. }
            | ConsensusEvent::RequestRefused { request, .. }
            | ConsensusEvent::RequestVoid { request } => *request,
            _ => {
                return Err(Rejection::new("not-an-answer", "the event that was carried ends no request"));
            }
        };
        let mut asked = known(state, request)?;
        if asked.answer.is_some() {
            return Err(Rejection::new(
                "already-answered",
                format!("the request `{request}` was answered already"),
            ));
        }
        let contract = self.registry().contract(&asked.contract)?;
        if contract.chain != inclusion.chain {
            return Err(Rejection::new(
                "other-chain",
                format!("`{}` answers on `{}`, not on `{}`", asked.contract, contract.chain, inclusion.chain),
            ));
        }
        self.registry().check_inclusion(inclusion)?;
        let answer = match (event, decision) {
            (ConsensusEvent::DecisionRecorded { outcome, decision: digest, .. }, Some(jws)) => {
                let decision = self.decision(&asked, request, jws, context)?;
                if digest != jws.digest() || outcome != decision.0 {
                    return Err(Rejection::new(
                        "other-decision",
                        "the decision that was carried is not the one that the event records",
                    ));
                }
                let (outcome, decided, act_by) = decision;
                Answer::Decided { outcome, decision: digest, decided, act_by }
            }
            (ConsensusEvent::DecisionRecorded { .. }, None) => {
                return Err(Rejection::new(
                    "no-decision",
                    "the event records a decision that was not carried",
                ));
            }
            (_, Some(_)) => {
                return Err(Rejection::new(
                    "other-decision",
                    "the event that was carried records no decision",
                ));
            }
            (ConsensusEvent::RequestRefused { why, .. }, None) => Answer::Refused { why },
            (_, None) => Answer::Void,
        };
        if let Answer::Decided { decision, .. } = &answer {
            state.put(decision_key(decision).as_bytes(), request.0.as_bytes().to_vec());
        }
        ASKING.remove(state, asked.called, request);
        asked.answer = Some(answer.clone());
        asked.answered = Some(context.height);
        put_asked(state, request, &asked);
        self.walk_on(state, &asked, |contracts, state, walk| {
            contracts.take(state, walk, &asked, request, &answer, context)
        })
    }

    /// Verifies the decision on a request: its outcome, `decided`, and until when an approved action may be done.
    fn decision(
        &self,
        asked: &AskedRequest,
        request: RequestId,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<(Outcome, UnixMillis, UnixMillis), Rejection> {
        let contract = self.registry().contract(&asked.contract)?;
        let signed = Signed::<Decision>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry().check_deployment(message.deployment)?;
        if message.request != request || message.contract != asked.contract || message.chain != contract.chain
        {
            return Err(Rejection::new(
                "other-request",
                format!("the decision is not one of `{}` on the request `{request}`", asked.contract),
            ));
        }
        let policy = self.registry().policy(contract, &message.policy)?;
        let key = self.registry().contract_key(contract, message.key_version)?;
        let decision = signed.verify_with(key, context.checked)?;
        Ok((decision.outcome, decision.decided, decision.decided.after(policy.act_within())))
    }

    /// Goes on after an answer.
    fn take(
        &self,
        state: &mut dyn State,
        walk: &mut Walk<'_>,
        asked: &AskedRequest,
        request: RequestId,
        answer: &Answer,
        context: &Context<'_>,
    ) -> Result<(), Rejection> {
        if let Some(height) = walk.status.cancelled {
            CANCEL.remove(state, height, request);
        }
        let process = walk.process;
        let step = process.step(&asked.step).ok_or_else(|| wrong_process(process))?;
        let StepAction::Ask { on_rejected, retries, .. } = &step.action else {
            return Err(wrong_process(process));
        };
        let outcome = match answer {
            Answer::Decided { outcome: Outcome::Approved, .. } => {
                return self.enter(state, walk, process.next_step(&step.name), context);
            }
            Answer::Decided { outcome: Outcome::Cancelled, .. } => CaseOutcome::Cancelled,
            Answer::Refused { .. } => CaseOutcome::Refused,
            Answer::Decided { outcome: Outcome::Rejected, .. } => CaseOutcome::Rejected,
            Answer::Void if walk.status.cancelled.is_some() => CaseOutcome::Cancelled,
            Answer::Decided { outcome: Outcome::Expired, .. } | Answer::Void => {
                if asked.attempt.get() <= u64::from(*retries) {
                    return self.ask(state, walk, step, asked.attempt.get() + 1, context);
                }
                CaseOutcome::Expired
            }
        };
        match (outcome, on_rejected) {
            (CaseOutcome::Rejected | CaseOutcome::Expired, OnRejected::Step(name)) => {
                let later = process.step(name).ok_or_else(|| wrong_process(process))?;
                self.enter(state, walk, Some(later), context)
            }
            _ => {
                walk.end(outcome, context);
                Ok(())
            }
        }
    }

    pub(super) fn result(
        &self,
        state: &mut dyn State,
        decision: Digest,
        output: &ActionOutput,
        audit: Digest,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let found = state.get(decision_key(&decision).as_bytes()).and_then(|bytes| bytes.try_into().ok());
        let request = found.map(|bytes| RequestId(Digest::from_bytes(bytes))).ok_or_else(|| {
            Rejection::new("unknown-decision", format!("no decision `{decision}` is recorded"))
        })?;
        let asked = known(state, request)?;
        self.walk_on(state, &asked, |contracts, state, walk| {
            let (acting, act_by) = match &walk.status.stage {
                CaseStage::Acting { step, request: acting, act_by } if *acting == request => {
                    (step.clone(), *act_by)
                }
                _ => {
                    return Err(Rejection::new(
                        "not-due",
                        format!("no action that the decision `{decision}` approved is due"),
                    ));
                }
            };
            let approved = walk.process.step(&asked.step).ok_or_else(|| wrong_process(walk.process))?;
            // The block whose time it is lapses many at once, but not all.
            if context.time >= act_by {
                let message = format!("the approval by the decision `{decision}` lapsed at {act_by}");
                return Err(Rejection::new("lapsed", message));
            }
            let subject = subject(walk.process, approved, walk.start)?;
            contracts.check_output(&asked, request, decision, subject, output)?;

            layout::write(state, &Key::request(request, "result"), output);
            if let Some(height) = asked.action_due {
                DUTY.remove(state, height, request);
            }
            DUE.remove(state, act_by.get(), request);
            let result = Digest::of(&output.signature.0);
            let recorded = ProcessEvent::ResultRecorded {
                case: walk.case.clone(),
                step: acting.clone(),
                request,
                result,
                audit,
            };
            layout::write(state, &Key::request(request, "recorded"), &(context.height, audit));
            walk.events.push(recorded.to_bytes());
            contracts.enter(state, walk, walk.process.next_step(&acting), context)
        })
    }

    /// Checks that an output is what `decision` approved: made with the key that the subject names, over what it names.
    fn check_output(
        &self,
        asked: &AskedRequest,
        request: RequestId,
        decision: Digest,
        subject: Subject,
        output: &ActionOutput,
    ) -> Result<(), Rejection> {
        let Subject::Sign { key, name, digest, .. } = subject else {
            return Err(Rejection::new("other-action", format!("a `{}` gives no signature", subject.kind())));
        };
        let (entry, verification_key) = self.registry().key(&key, output.version)?;
        if output.key != key
            || output.public_key != *verification_key.public_key()
            || output.format != entry.format
        {
            let message = format!("the result is not one of the key `{key}` as it is recorded");
            return Err(Rejection::new("wrong-key", message));
        }
        // A decision is recorded only under the one policy that its contract has.
        let policy = self.registry().contract(&asked.contract)?.policy.digest();
        let artifact = Artifact { format: entry.format, name, digest, request, policy, decision };
        artifact.verify(verification_key, &output.signature.0).map_err(|_| {
            let message = format!("the signature of the key `{key}` over `{digest}` does not verify");
            Rejection::new("bad-signature", message)
        })
    }
}
