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
use crate::jws::{Jws, Signed, Verified};
use crate::message::{Decision, RequestId};
use crate::name::Name;
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
                let decision = self.decision(state, &asked, request, jws, context)?;
                if digest != jws.digest() || outcome != decision.outcome {
                    return Err(Rejection::new(
                        "other-decision",
                        "the decision that was carried is not the one that the event records",
                    ));
                }
                let Decision { outcome, decided, key_version, .. } = *decision;
                let policy = self.registry().policy(state, contract, &decision.policy)?;
                let act_by = decided.after(policy.act_within());
                let policy = Some(policy.digest()).filter(|policy| *policy != contract.policy.digest());
                match self.registry().is_compromised(state, &asked.contract, key_version) {
                    true => Answer::Void,
                    false => {
                        Answer::Decided { outcome, decision: digest, decided, act_by, key_version, policy }
                    }
                }
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

    /// Verifies the decision on a request.
    fn decision(
        &self,
        state: &dyn State,
        asked: &AskedRequest,
        request: RequestId,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<Verified<Decision>, Rejection> {
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
        let key = self.registry().contract_key(state, contract, message.key_version)?;
        Ok(signed.verify_with(&key, context.checked)?)
    }

    /// Goes on after an answer.
    pub(super) fn take(
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
        let (request, asked) = self.approved(state, decision)?;
        self.walk_on(state, &asked, |contracts, state, walk| {
            let acting = Acting::of(walk, &asked, request, context)?;
            let subject = acting.subject(walk, &asked)?;
            contracts.check_output(state, &asked, request, decision, subject, output)?;

            layout::write(state, &Key::request(request, "result"), output);
            acting.done(contracts, state, walk, &asked, (Digest::of(&output.signature.0), audit), context)
        })
    }

    /// The request that a recorded decision answered.
    pub(super) fn approved(
        &self,
        state: &dyn State,
        decision: Digest,
    ) -> Result<(RequestId, AskedRequest), Rejection> {
        let found = state.get(decision_key(&decision).as_bytes()).and_then(|bytes| bytes.try_into().ok());
        let request = found.map(|bytes| RequestId(Digest::from_bytes(bytes))).ok_or_else(|| {
            Rejection::new("unknown-decision", format!("no decision `{decision}` is recorded"))
        })?;
        Ok((request, known(state, request)?))
    }

    /// Checks that an output is what `decision` approved: made with the key that the subject names, over what it names.
    fn check_output(
        &self,
        state: &dyn State,
        asked: &AskedRequest,
        request: RequestId,
        decision: Digest,
        subject: Subject,
        output: &ActionOutput,
    ) -> Result<(), Rejection> {
        let Subject::Sign { key, name, digest, .. } = subject else {
            return Err(Rejection::new("other-action", format!("a `{}` gives no signature", subject.kind())));
        };
        let (entry, verification_key) = self.registry().key(state, &key, output.version)?;
        if output.key != key
            || output.public_key != *verification_key.public_key()
            || output.format != entry.format
        {
            let message = format!("the result is not one of the key `{key}` as it is recorded");
            return Err(Rejection::new("wrong-key", message));
        }
        let of_genesis = self.registry().contract(&asked.contract)?.policy.digest();
        let policy = match asked.answer {
            Some(Answer::Decided { policy, .. }) => policy.unwrap_or(of_genesis),
            _ => of_genesis,
        };
        let artifact = Artifact { format: entry.format, name, digest, request, policy, decision };
        artifact.verify(&verification_key, &output.signature.0).map_err(|_| {
            let message = format!("the signature of the key `{key}` over `{digest}` does not verify");
            Rejection::new("bad-signature", message)
        })
    }
}

/// An action that is due now.
pub(super) struct Acting {
    step: Name,
    request: RequestId,
    act_by: UnixMillis,
}

impl Acting {
    /// The action on what `request` approved.
    pub(super) fn of(
        walk: &Walk<'_>,
        asked: &AskedRequest,
        request: RequestId,
        context: &Context<'_>,
    ) -> Result<Acting, Rejection> {
        let (step, act_by) = match &walk.status.stage {
            CaseStage::Acting { step, request: acting, act_by } if *acting == request => (step, *act_by),
            _ => {
                let message = format!("no action that step `{}` approved is due", asked.step);
                return Err(Rejection::new("not-due", message));
            }
        };
        // The block whose time it is lapses many at once, but not all.
        if context.time >= act_by {
            let message = format!("what step `{}` approved lapsed at {act_by}", asked.step);
            return Err(Rejection::new("lapsed", message));
        }
        Ok(Acting { step: step.clone(), request, act_by })
    }

    /// Until when it may be done.
    pub(super) fn act_by(&self) -> UnixMillis {
        self.act_by
    }

    /// What was approved.
    pub(super) fn subject(&self, walk: &Walk<'_>, asked: &AskedRequest) -> Result<Subject, Rejection> {
        let approved = walk.process.step(&asked.step).ok_or_else(|| wrong_process(walk.process))?;
        subject(walk.process, approved, walk.start)
    }

    /// It was done: the digest of what it gave, and the KMS's audit head.
    pub(super) fn done(
        self,
        contracts: &ProcessContracts,
        state: &mut dyn State,
        walk: &mut Walk<'_>,
        asked: &AskedRequest,
        (result, audit): (Digest, Digest),
        context: &Context<'_>,
    ) -> Result<(), Rejection> {
        let Acting { step, request, act_by } = self;
        if let Some(height) = asked.action_due {
            DUTY.remove(state, height, request);
        }
        DUE.remove(state, act_by.get(), request);
        layout::write(state, &Key::request(request, "recorded"), &(context.height, audit));
        let case = walk.case.clone();
        let recorded = ProcessEvent::ResultRecorded { case, step: step.clone(), request, result, audit };
        walk.events.push(recorded.to_bytes());
        contracts.enter(state, walk, walk.process.next_step(&step), context)
    }
}
