//! The consensus ledger: calls become requests, requests collect ballots, ballots become decisions.
//!
//! ```text
//! Call ─▶ called ─VoteRequest─▶ open ─ballots, time, cancel─▶ fixed ─Decision─▶ decided
//!           ├─▶ refused                                  (DESIGN section 6, States)
//!           └─cancel─▶ cancelled
//! ```

use std::sync::Arc;

use super::ballot::{fix, settle};
use super::change::note_approval;
use super::counting::Counting;
use super::layout::{self, DUE, DUTY, Key};
use super::record::{Heights, Opened, RequestState, RequestStatus};
use super::registry::Registry;
use super::request::{
    call, case_key, keep_cancel, known, opened, put_status, remove_live, shown, status, unknown_request,
    wrong_state,
};
use super::{Context, Contract, Rejection, State};
use crate::digest::Digest;
use crate::event::{Call, ConsensusEvent, EventBytes, ProcessEvent};
use crate::genesis::{ContractEntry, Genesis};
use crate::header::Inclusion;
use crate::jwk::{PublicKey, Thumbprint};
use crate::jws::{Jws, Signed, Typ};
use crate::message::{Ballot, Cancel, Decision, RequestId, VoteRequest};
use crate::name::Name;
use crate::policy::{Policy, Tally};
use crate::time::{Millis, UnixMillis};
use crate::transaction::{Carrier, Content, Transaction};
use crate::vote::Outcome;

/// How far a vote request's `opened` may lie after the block's time.
pub const OPENED_AHEAD: Millis = Millis::from_secs(60);
/// How many requests one block fixes because of time alone; the next block does the rest.
pub const FIRE_LIMIT: usize = 1_024;

pub(super) const REQUESTS: &str = "requests";
pub(super) const LIVE: &str = "live";
/// What the KMS is to sign for a request, as the value in [`DUTY`].
pub(super) const VOTE_REQUEST_DUTY: &[u8] = b"vote-request";
pub(super) const DECISION_DUTY: &[u8] = b"decision";

/// The consensus contracts of one ledger.
pub struct ConsensusContracts {
    registry: Registry,
}

impl ConsensusContracts {
    /// Those that `genesis` puts on the ledger `chain`.
    pub fn new(genesis: Arc<Genesis>, chain: Name) -> ConsensusContracts {
        ConsensusContracts { registry: Registry::new(genesis, chain) }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A contract of this ledger.
    pub(super) fn contract(&self, name: &Name) -> Result<&ContractEntry, Rejection> {
        let contract = self.registry.contract(name)?;
        if contract.chain == *self.registry.chain() {
            return Ok(contract);
        }
        Err(Rejection::new(
            "unknown-contract",
            format!("the contract `{name}` is on `{}`, not on `{}`", &contract.chain, self.registry.chain()),
        ))
    }

    /// An open request's contract and the policy that counts.
    pub(super) fn rules(
        &self,
        state: &dyn State,
        opened: &Opened,
    ) -> Result<(&ContractEntry, Arc<Policy>), Rejection> {
        let contract = self.contract(&opened.contract)?;
        let policy = self.registry.policy(state, contract, &opened.policy)?;
        Ok((contract, policy))
    }

    fn call(
        &self,
        state: &mut dyn State,
        inclusion: &Inclusion,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let call = match ProcessEvent::parse(&inclusion.event.0) {
            Ok(ProcessEvent::Call(call)) => call,
            Ok(_) => return Err(Rejection::new("not-a-call", "the event that was carried is not a call")),
            Err(error) => {
                return Err(Rejection::new("not-a-call", format!("the event cannot be read: {error}")));
            }
        };
        let request = call.request(self.registry.deployment(), &inclusion.chain);
        if status(state, request).is_some() {
            return Err(Rejection::new("already-called", format!("the request `{request}` is here already")));
        }
        let contract = self.contract(&call.contract)?;
        let (calling_chain, process) = self.registry.process(&call.process)?;
        if *calling_chain != inclusion.chain || process.digest() != call.definition {
            return Err(Rejection::new(
                "unknown-process",
                format!(
                    "`{}` has no process `{}` with the definition `{}`",
                    inclusion.chain, call.process, call.definition
                ),
            ));
        }
        self.registry.check_inclusion(inclusion)?;

        let digest = Digest::of(&inclusion.event.0);
        state.put(Key::request(request, "call").as_bytes(), inclusion.event.0.clone());
        state.put(Key::request(request, "from").as_bytes(), inclusion.chain.as_str().into());
        let number = layout::append(state, REQUESTS, request.0.as_bytes().to_vec());
        let called = ConsensusEvent::RequestCalled { request, call: digest };
        let mut heights = Heights { called: context.height, opened: None, fixed: None, ended: None };
        let refusal = self.registry.refusal(state, contract, &call.subject);
        let (state_now, event) = match refusal {
            Some(why) => {
                let why = shown(&why);
                heights.ended = Some(context.height);
                (RequestState::Refused { why: why.clone() }, ConsensusEvent::RequestRefused { request, why })
            }
            None => {
                state.put(Key::table(LIVE).number(number).as_bytes(), request.0.as_bytes().to_vec());
                let case = case_key(&inclusion.chain, call.requester, &call.case);
                state.put(case.as_bytes(), request.0.as_bytes().to_vec());
                DUTY.add(state, context.height, request, VOTE_REQUEST_DUTY.to_vec());
                (RequestState::Called, ConsensusEvent::VoteRequestDue { request })
            }
        };
        put_status(state, request, &RequestStatus { number, state: state_now, heights });
        Ok(vec![called.to_bytes(), event.to_bytes()])
    }

    fn vote_request(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        audit: Digest,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<VoteRequest>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry.check_deployment(message.deployment)?;
        self.registry.check_chain(&message.chain)?;
        let request = message.request;
        let mut status = known(state, request)?;
        if status.state != RequestState::Called {
            return Err(wrong_state("not-called", request, &status.state));
        }
        let call = call(state, request).ok_or_else(|| unknown_request(request))?;
        let contract = self.contract(&call.contract)?;
        let policy = self.registry.policy_at(state, contract, message.opened)?;
        let same = message.contract == call.contract
            && message.process == call.process
            && message.definition == call.definition
            && message.case == call.case
            && message.step == call.step
            && message.attempt == call.attempt
            && message.requester == call.requester
            && message.start == call.start
            && message.subject == call.subject;
        if !same {
            return Err(Rejection::new(
                "other-request",
                format!("the vote request does not say what was called for the request `{request}`"),
            ));
        }
        if message.policy != policy.digest() {
            return Err(Rejection::new(
                "wrong-policy",
                format!("the policy in force is `{}`, not `{}`", policy.digest(), message.policy),
            ));
        }
        if message.deadline != message.opened.after(policy.deadline()) {
            return Err(Rejection::new(
                "wrong-deadline",
                format!("the deadline must be {} after `opened`", policy.deadline()),
            ));
        }
        if message.opened > context.time.after(OPENED_AHEAD) {
            return Err(Rejection::new(
                "too-early",
                format!("`opened` is more than {OPENED_AHEAD} after the block's time, {}", context.time),
            ));
        }
        self.registry.check_version(state, contract, message.key_version, message.opened)?;
        let key = self.registry.contract_key(state, contract, message.key_version)?;
        let message = signed.verify_with(&key, context.checked)?;

        let opened = Opened {
            contract: message.contract.clone(),
            policy: message.policy,
            vote_request: message.digest(),
            requester: message.requester,
            opened: message.opened,
            deadline: message.deadline,
            key_version: message.key_version,
            audit,
        };
        layout::write(state, &Key::request(request, "opened"), &opened);
        state.put(Key::request(request, "vote-request").as_bytes(), jws.as_str().into());
        DUTY.remove(state, status.heights.called, request);
        status.state = RequestState::Open;
        status.heights.opened = Some(context.height);
        let open = ConsensusEvent::RequestOpen { request, vote_request: opened.vote_request, audit };
        let mut events = vec![open.to_bytes()];

        let tally = Tally::new(&policy, Some(&opened.requester), opened.opened);
        put_status(state, request, &status);
        events.extend(settle(state, request, Counting::new(), &tally, context));
        Ok(events)
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
        let (request, call) = self.cancelled(state, message, jws.kid())?;
        let key = self.registry.requester(&call, &message.chain)?;
        signed.verify_with(key, context.checked)?;

        let mut status = known(state, request)?;
        match status.state {
            RequestState::Called => {
                keep_cancel(state, request, jws, context);
                DUTY.remove(state, status.heights.called, request);
                remove_live(state, &status);
                status.state = RequestState::Cancelled;
                status.heights.ended = Some(context.height);
                put_status(state, request, &status);
                Ok(vec![ConsensusEvent::RequestVoid { request }.to_bytes()])
            }
            RequestState::Open => {
                let opened = opened(state, request).ok_or_else(|| unknown_request(request))?;
                let (_, policy) = self.rules(state, &opened)?;
                let counting = Counting::read(state, request).ok_or_else(|| unknown_request(request))?;
                let tally = counting.tally(&policy, opened.requester, opened.opened);
                if tally.outcome(context.time).is_some() {
                    return Err(Rejection::new(
                        "too-late",
                        format!("the request `{request}` was decided by time already"),
                    ));
                }
                keep_cancel(state, request, jws, context);
                Ok(fix(state, request, counting, Outcome::Cancelled, context.time, context))
            }
            state => Err(wrong_state("too-late", request, &state)),
        }
    }

    /// The request that a cancellation is about: the last one of the case.
    fn cancelled(
        &self,
        state: &dyn State,
        message: &Cancel,
        requester: Thumbprint,
    ) -> Result<(RequestId, Call), Rejection> {
        let key = case_key(&message.chain, requester, &message.case);
        let found = state.get(key.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        let request = found.map(|bytes| RequestId(Digest::from_bytes(bytes)));
        request.and_then(|request| Some((request, call(state, request)?))).ok_or_else(|| {
            Rejection::new(
                "unknown-request",
                format!("no request of the case `{}` of this requester was called", message.case),
            )
        })
    }

    fn decision(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        audit: Digest,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Decision>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry.check_deployment(message.deployment)?;
        self.registry.check_chain(&message.chain)?;
        let request = message.request;
        let mut status = known(state, request)?;
        let RequestState::Fixed { outcome, ballots, decided } = status.state else {
            return Err(wrong_state("not-fixed", request, &status.state));
        };
        let opened = opened(state, request).ok_or_else(|| unknown_request(request))?;
        let contract = self.contract(&opened.contract)?;
        if message.contract != opened.contract || message.vote_request != opened.vote_request {
            return Err(Rejection::new(
                "other-request",
                format!("the decision is for another vote request than that of the request `{request}`"),
            ));
        }
        let same = message.policy == opened.policy
            && message.outcome == outcome
            && message.ballots == ballots
            && message.decided == decided
            && message.key_version == opened.key_version;
        if !same {
            return Err(Rejection::new(
                "other-outcome",
                format!(
                    "the decision does not say what was fixed for the request `{request}`: \
                     {outcome} at {decided} by {} ballots",
                    ballots.count
                ),
            ));
        }
        let key = self.registry.contract_key(state, contract, opened.key_version)?;
        let decision = signed.verify_with(&key, context.checked)?.digest();
        if outcome == Outcome::Approved {
            note_approval(state, request, &decision);
        }

        state.put(Key::request(request, "decision").as_bytes(), jws.as_str().into());
        if let Some(fixed) = status.heights.fixed {
            DUTY.remove(state, fixed, request);
        }
        remove_live(state, &status);
        status.state = RequestState::Decided { outcome, ballots, decided, decision, audit };
        status.heights.ended = Some(context.height);
        put_status(state, request, &status);
        Ok(vec![ConsensusEvent::DecisionRecorded { request, outcome, decision, audit }.to_bytes()])
    }

    /// What is due for one request by time alone.
    fn settle_due(
        &self,
        state: &mut dyn State,
        request: RequestId,
        context: &Context<'_>,
    ) -> Option<Vec<EventBytes>> {
        let opened = opened(state, request)?;
        let (_, policy) = self.rules(state, &opened).ok()?;
        let counting = Counting::read(state, request)?;
        let tally = counting.tally(&policy, opened.requester, opened.opened);
        Some(settle(state, request, counting, &tally, context))
    }

    /// The key that must have signed a message; nothing if the message will be rejected anyway.
    fn signer(&self, state: &dyn State, jws: &Jws) -> Option<PublicKey> {
        match jws.typ() {
            Typ::Ballot => {
                let ballot = Signed::<Ballot>::from_jws(jws.clone()).ok()?;
                let opened = opened(state, ballot.unverified().request)?;
                let (_, policy) = self.rules(state, &opened).ok()?;
                Some(policy.voter(policy.voter_by_key(&jws.kid())?).key.clone())
            }
            Typ::VoteRequest => {
                let message = Signed::<VoteRequest>::from_jws(jws.clone()).ok()?;
                let VoteRequest { contract, key_version, .. } = message.unverified();
                let contract = self.contract(contract).ok()?;
                self.registry.contract_key(state, contract, *key_version).ok()
            }
            Typ::Decision => {
                let message = Signed::<Decision>::from_jws(jws.clone()).ok()?;
                let Decision { contract, key_version, .. } = message.unverified();
                let contract = self.contract(contract).ok()?;
                self.registry.contract_key(state, contract, *key_version).ok()
            }
            Typ::Cancel => {
                let message = Signed::<Cancel>::from_jws(jws.clone()).ok()?;
                let message = message.unverified();
                let (_, call) = self.cancelled(state, message, jws.kid()).ok()?;
                self.registry.requester(&call, &message.chain).ok().cloned()
            }
            Typ::Start | Typ::KeyTransition | Typ::Change | Typ::Receipt | Typ::Recovery => None,
        }
    }
}

impl Contract for ConsensusContracts {
    fn signatures(&self, state: &dyn State, transaction: &Transaction) -> Vec<(Jws, PublicKey)> {
        let jws = match transaction.content() {
            Content::Message(jws) => jws,
            Content::Carrier(carrier) => match &**carrier {
                Carrier::VoteRequest { vote_request: jws, .. } | Carrier::Decision { decision: jws, .. } => {
                    jws
                }
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
                Typ::Ballot => self.ballot(state, jws, context),
                Typ::Cancel => self.cancel(state, jws, context),
                other => Err(super::not_taken(other.as_str())),
            },
            Content::Carrier(carrier) => match &**carrier {
                Carrier::Call { inclusion } => self.call(state, inclusion, context),
                Carrier::VoteRequest { vote_request, audit } => {
                    self.vote_request(state, vote_request, *audit, context)
                }
                Carrier::Decision { decision, audit } => self.decision(state, decision, *audit, context),
                Carrier::RelayedTransition { transition, inclusion } => {
                    self.relayed_transition(state, transition, inclusion, context)
                }
                Carrier::RelayedChange { change, document, inclusion } => {
                    self.relayed_change(state, change, document, inclusion, context)
                }
                Carrier::Answer { .. } => Err(super::not_taken("answer")),
                Carrier::Transition { .. } => Err(super::not_taken("transition")),
                Carrier::Change { .. } => Err(super::not_taken("change")),
                Carrier::Result { .. } => Err(super::not_taken("result")),
            },
            Content::Attachment => Err(super::not_taken("attachment")),
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
            match self.settle_due(state, request, context) {
                Some(told) => events.extend(told),
                // Left in place it would be due for ever.
                None => DUE.remove(state, time, request),
            }
        }
        events
    }
}
