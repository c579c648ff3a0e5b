//! The process ledger: starts become cases, cases ask consensus contracts, approved actions are done.
//!
//! ```text
//! Start ─▶ asking(step, attempt) ─Answer─▶ acting(step) ─Result─▶ next step or ended
//!             └─ rejected, expired, refused, cancelled ─▶ ended, or a later step      (DESIGN section 6, States)
//! ```

use std::sync::Arc;

use super::attachment::check_attachment;
use super::case::{Walk, asked, case_status, known, put_asked, put_case, start, wrong_process};
use super::layout::{self, ASKING, CANCEL, DUE, DUTY, Key};
use super::record::{Answer, AskedRequest, CaseStage, CaseStatus};
use super::registry::Registry;
use super::{Context, Contract, Rejection, State};
use crate::digest::Digest;
use crate::event::{Call, CaseOutcome, EventBytes, ProcessEvent};
use crate::genesis::Genesis;
use crate::json::Integer;
use crate::jwk::{PublicKey, Thumbprint};
use crate::jws::{Jws, Signed, Typ};
use crate::message::{Cancel, Decision, RequestId, Start};
use crate::name::Name;
use crate::process::{Process, Step, StepAction};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::transaction::{Carrier, Content, Transaction};
use crate::vote::Outcome;

/// How many actions lapse in one block; the next block does the rest.
pub const FIRE_LIMIT: usize = 1_024;

pub(super) const CASES: &str = "cases";
pub(super) const LIVE: &str = "live";
/// What the KMS is to do for a request, as the value in [`DUTY`].
pub(super) const ACTION_DUTY: &[u8] = b"action";

/// The process contracts of one ledger.
pub struct ProcessContracts {
    registry: Registry,
}

impl ProcessContracts {
    /// Those that `genesis` puts on the ledger `chain`.
    pub fn new(genesis: Arc<Genesis>, chain: Name) -> ProcessContracts {
        ProcessContracts { registry: Registry::new(genesis, chain) }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A process of this ledger that runs by this document.
    fn process(&self, name: &Name, definition: &Digest) -> Result<&Process, Rejection> {
        let (chain, process) = self.registry.process(name)?;
        if chain != self.registry.chain() {
            return Err(Rejection::new(
                "unknown-process",
                format!("the process `{name}` is on `{chain}`, not on `{}`", self.registry.chain()),
            ));
        }
        if process.digest() != *definition {
            return Err(Rejection::new(
                "wrong-definition",
                format!(
                    "the process `{name}` runs by the definition `{}`, not by `{definition}`",
                    process.digest()
                ),
            ));
        }
        Ok(process)
    }

    fn start(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Start>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry.check_deployment(message.deployment)?;
        self.registry.check_chain(&message.chain)?;
        let process = self.process(&message.process, &message.definition)?;
        let requester = jws.kid();
        let key = requester_key(process, requester)?;
        if case_status(state, requester, &message.case).is_some() {
            return Err(Rejection::new(
                "case-exists",
                format!("the requester has a case `{}` already; choose another name", message.case),
            ));
        }
        process
            .check_input(&message.input)
            .map_err(|error| Rejection::new("wrong-input", error.to_string()))?;
        for step in process.steps() {
            if let StepAction::Ask { .. } = &step.action {
                check_attachment(state, &subject(process, step, message)?)?;
            }
        }
        let start = signed.verify_with(key, context.checked)?;

        state.put(Key::case(requester, &start.case, "start").as_bytes(), jws.as_str().into());
        let mut entry = requester.as_bytes().to_vec();
        entry.extend_from_slice(start.case.as_str().as_bytes());
        let number = layout::append(state, CASES, entry.clone());
        state.put(Key::table(LIVE).number(number).as_bytes(), entry);
        let started = ProcessEvent::CaseStarted {
            case: start.case.clone(),
            process: start.process.clone(),
            definition: start.definition,
            requester,
            start: start.digest(),
        };
        let mut walk = Walk {
            requester,
            case: &start.case,
            start: &start,
            process,
            status: CaseStatus {
                number,
                process: start.process.clone(),
                definition: start.definition,
                start: start.digest(),
                started: context.height,
                cancelled: None,
                // Replaced by the first step.
                stage: CaseStage::Ended { outcome: CaseOutcome::Done, height: context.height },
                requests: Vec::new(),
            },
            events: vec![started.to_bytes()],
        };
        self.enter(state, &mut walk, Some(process.first_step()), context)?;
        Ok(walk.finish(state))
    }

    /// Goes to a step, or ends the case after the last.
    pub(super) fn enter(
        &self,
        state: &mut dyn State,
        walk: &mut Walk<'_>,
        step: Option<&Step>,
        context: &Context<'_>,
    ) -> Result<(), Rejection> {
        let Some(step) = step else {
            walk.end(CaseOutcome::Done, context);
            return Ok(());
        };
        match &step.action {
            StepAction::Ask { .. } => self.ask(state, walk, step, 1, context),
            StepAction::Act { approval } => self.act(state, walk, step, approval, context),
        }
    }

    pub(super) fn ask(
        &self,
        state: &mut dyn State,
        walk: &mut Walk<'_>,
        step: &Step,
        attempt: u64,
        context: &Context<'_>,
    ) -> Result<(), Rejection> {
        if walk.status.cancelled.is_some() {
            walk.end(CaseOutcome::Cancelled, context);
            return Ok(());
        }
        let StepAction::Ask { contract, .. } = &step.action else { return Err(wrong_process(walk.process)) };
        let attempt = Integer::saturating(attempt);
        let call = Call {
            contract: contract.clone(),
            subject: subject(walk.process, step, walk.start)?,
            process: walk.status.process.clone(),
            definition: walk.status.definition,
            case: walk.case.clone(),
            step: step.name.clone(),
            attempt,
            requester: walk.requester,
            start: walk.status.start,
        };
        let request = call.request(self.registry.deployment(), self.registry.chain());
        let asked = AskedRequest {
            requester: walk.requester,
            case: walk.case.clone(),
            contract: contract.clone(),
            step: step.name.clone(),
            attempt,
            called: context.height,
            answer: None,
            answered: None,
            action_due: None,
        };
        put_asked(state, request, &asked);
        ASKING.add(state, context.height, request, Vec::new());
        walk.status.requests.push(request);
        walk.status.stage = CaseStage::Asking { step: step.name.clone(), attempt, request };
        walk.events.push(ProcessEvent::Call(call).to_bytes());
        Ok(())
    }

    fn act(
        &self,
        state: &mut dyn State,
        walk: &mut Walk<'_>,
        step: &Step,
        approval: &Name,
        context: &Context<'_>,
    ) -> Result<(), Rejection> {
        let approved = walk.status.requests.iter().rev().find_map(|request| {
            let asked = asked(state, *request).filter(|asked| asked.step == *approval)?;
            match asked.answer {
                Some(Answer::Decided { outcome: Outcome::Approved, decision, act_by, .. }) => {
                    Some((*request, asked, decision, act_by))
                }
                _ => None,
            }
        });
        // `on_rejected` can lead past an approval that an action needs.
        let Some((request, mut asked, decision, act_by)) = approved else {
            walk.end(CaseOutcome::Rejected, context);
            return Ok(());
        };
        if act_by <= context.time {
            walk.end(CaseOutcome::Lapsed, context);
            return Ok(());
        }
        let approved_step = walk.process.step(approval).ok_or_else(|| wrong_process(walk.process))?;
        let due = ProcessEvent::ActionDue {
            case: walk.case.clone(),
            step: step.name.clone(),
            request,
            decision,
            subject: subject(walk.process, approved_step, walk.start)?,
        };
        asked.action_due = Some(context.height);
        put_asked(state, request, &asked);
        DUTY.add(state, context.height, request, ACTION_DUTY.to_vec());
        DUE.add(state, act_by.get(), request, Vec::new());
        walk.status.stage = CaseStage::Acting { step: step.name.clone(), request, act_by };
        walk.events.push(due.to_bytes());
        Ok(())
    }

    fn cancel(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Cancel>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry.check_deployment(message.deployment)?;
        self.registry.check_chain(&message.chain)?;
        let requester = jws.kid();
        let mut status = case_status(state, requester, &message.case).ok_or_else(|| {
            Rejection::new("unknown-case", format!("this requester has no case `{}`", message.case))
        })?;
        let CaseStage::Asking { request, .. } = status.stage else {
            return Err(Rejection::new(
                "too-late",
                format!(
                    "nobody is being asked for the case `{}`: there is nothing to take back",
                    message.case
                ),
            ));
        };
        if status.cancelled.is_some() {
            return Err(Rejection::new(
                "already-cancelled",
                format!("the case `{}` was cancelled already", message.case),
            ));
        }
        let process = self.process(&status.process, &status.definition)?;
        let cancel = signed.verify_with(requester_key(process, requester)?, context.checked)?;

        status.cancelled = Some(context.height);
        CANCEL.add(state, context.height, request, jws.as_str().into());
        put_case(state, requester, &cancel.case, &status);
        Ok(Vec::new())
    }

    /// Reads a case, moves it on, and writes it back.
    pub(super) fn walk_on(
        &self,
        state: &mut dyn State,
        asked: &AskedRequest,
        step: impl FnOnce(&Self, &mut dyn State, &mut Walk<'_>) -> Result<(), Rejection>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let unknown =
            || Rejection::new("unknown-case", format!("this requester has no case `{}`", asked.case));
        let status = case_status(state, asked.requester, &asked.case).ok_or_else(unknown)?;
        let start = start(state, asked.requester, &asked.case).ok_or_else(unknown)?;
        let start = Signed::<Start>::from_jws(start)?;
        let process = self.process(&status.process, &status.definition)?;
        let mut walk = Walk {
            requester: asked.requester,
            case: &asked.case,
            start: start.unverified(),
            process,
            status,
            events: Vec::new(),
        };
        step(self, state, &mut walk)?;
        Ok(walk.finish(state))
    }

    /// Ends the case whose action was not done in time.
    fn lapse(
        &self,
        state: &mut dyn State,
        request: RequestId,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let asked = known(state, request)?;
        if let Some(height) = asked.action_due {
            DUTY.remove(state, height, request);
        }
        self.walk_on(state, &asked, |_, _, walk| {
            walk.end(CaseOutcome::Lapsed, context);
            Ok(())
        })
    }

    /// The key that must have signed a message; nothing if the message will be rejected anyway.
    fn signer(&self, state: &dyn State, jws: &Jws) -> Option<PublicKey> {
        let process = match jws.typ() {
            Typ::Start => {
                let start = Signed::<Start>::from_jws(jws.clone()).ok()?;
                let Start { process, definition, .. } = start.unverified();
                self.process(process, definition).ok()?
            }
            Typ::Cancel => {
                let cancel = Signed::<Cancel>::from_jws(jws.clone()).ok()?;
                let status = case_status(state, jws.kid(), &cancel.unverified().case)?;
                self.process(&status.process, &status.definition).ok()?
            }
            Typ::Decision => {
                let decision = Signed::<Decision>::from_jws(jws.clone()).ok()?;
                let Decision { contract, key_version, .. } = decision.unverified();
                let contract = self.registry.contract(contract).ok()?;
                return self.registry.contract_key(state, contract, *key_version).ok();
            }
            _ => return None,
        };
        requester_key(process, jws.kid()).ok().cloned()
    }
}

impl Contract for ProcessContracts {
    fn signatures(&self, state: &dyn State, transaction: &Transaction) -> Vec<(Jws, PublicKey)> {
        let jws = match transaction.content() {
            Content::Message(jws) => jws,
            Content::Carrier(carrier) => match &**carrier {
                Carrier::Answer { decision: Some(jws), .. } => jws,
                _ => return Vec::new(),
            },
            Content::Attachment => return Vec::new(),
        };
        self.signer(state, jws).map(|key| (jws.clone(), key)).into_iter().collect()
    }

    fn execute(
        &self,
        state: &mut dyn State,
        transaction: &Transaction,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        match transaction.content() {
            Content::Message(jws) => match jws.typ() {
                Typ::Start => self.start(state, jws, context),
                Typ::Cancel => self.cancel(state, jws, context),
                other => Err(super::not_taken(other.as_str())),
            },
            Content::Carrier(carrier) => match &**carrier {
                Carrier::Answer { decision, inclusion } => {
                    self.answer(state, decision.as_ref(), inclusion, context)
                }
                Carrier::Result { decision, output, audit } => {
                    self.result(state, *decision, output, *audit, context)
                }
                Carrier::Transition { transition, audit } => {
                    self.transition(state, transition, *audit, context)
                }
                Carrier::Change { change, document, audit } => {
                    self.change(state, change, document.as_ref(), *audit, context)
                }
                Carrier::RelayedTransition { .. } => Err(super::not_taken("relayed-transition")),
                Carrier::RelayedChange { .. } => Err(super::not_taken("relayed-change")),
                Carrier::Call { .. } => Err(super::not_taken("call")),
                Carrier::VoteRequest { .. } => Err(super::not_taken("vote-request")),
                Carrier::Decision { .. } => Err(super::not_taken("decision")),
            },
            Content::Attachment => self.attach(state, transaction, context),
        }
    }

    fn due(&self, state: &dyn State) -> Option<UnixMillis> {
        DUE.list(state, None, 1).first().map(|(time, ..)| UnixMillis::new(*time))
    }

    fn fire(&self, state: &mut dyn State, context: &Context<'_>) -> Vec<EventBytes> {
        let due = DUE.list(state, None, FIRE_LIMIT).into_iter();
        let due: Vec<_> = due.take_while(|(time, ..)| *time <= context.time.get()).collect();
        let mut events = Vec::new();
        for (time, request, _) in due {
            DUE.remove(state, time, request);
            events.extend(self.lapse(state, request, context).unwrap_or_default());
        }
        events
    }
}

pub(super) fn subject(process: &Process, step: &Step, start: &Start) -> Result<Subject, Rejection> {
    process
        .derive_subject(&step.name, &start.input)
        .map_err(|error| Rejection::new("wrong-input", error.to_string()))
}

fn requester_key(process: &Process, requester: Thumbprint) -> Result<&PublicKey, Rejection> {
    process.requester_by_key(&requester).map(|found| &found.key).ok_or_else(|| {
        Rejection::new(
            "not-a-requester",
            format!("the key `{requester}` is no requester's of the process `{}`", process.name()),
        )
    })
}
