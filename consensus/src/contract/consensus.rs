//! The consensus ledger: calls become requests, requests collect ballots, ballots become decisions.
//!
//! ```text
//! Call ─▶ called ─VoteRequest─▶ open ─ballots, time, cancel─▶ fixed ─Decision─▶ decided
//!           ├─▶ refused                                  (DESIGN section 6, States)
//!           └─cancel─▶ cancelled
//! ```

use std::sync::Arc;

use super::counting::Counting;
use super::layout::{self, DUE, DUTY, Key};
use super::record::{Heights, Opened, RequestState, RequestStatus};
use super::registry::Registry;
use super::{Context, Contract, Rejection, State};
use crate::digest::Digest;
use crate::event::{Call, ConsensusEvent, EventBytes, ProcessEvent};
use crate::genesis::{ContractEntry, Genesis};
use crate::header::Inclusion;
use crate::jwk::{PublicKey, Thumbprint};
use crate::jws::{Jws, Signed, Typ, Verified};
use crate::message::{Ballot, Cancel, Decision, RequestId, VoteRequest};
use crate::name::{DisplayText, Name};
use crate::policy::{BallotRefusal, Policy, Tally, VoterIndex};
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

    /// A contract of this ledger.
    fn contract(&self, name: &Name) -> Result<&ContractEntry, Rejection> {
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
    fn rules(&self, opened: &Opened) -> Result<(&ContractEntry, &Policy), Rejection> {
        let contract = self.contract(&opened.contract)?;
        let policy = self.registry.policy(contract, &opened.policy)?;
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
        let refusal = self.registry.refusal(contract, &call.subject);
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
        let policy = &*contract.policy;
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
        let key = self.registry.contract_key(contract, message.key_version)?;
        let message = signed.verify_with(key, context.checked)?;

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

        let tally = Tally::new(policy, Some(&opened.requester), opened.opened);
        put_status(state, request, &status);
        events.extend(settle(state, request, Counting::new(), &tally, context));
        Ok(events)
    }

    fn ballot(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Ballot>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry.check_deployment(message.deployment)?;
        let request = message.request;
        let Some(opened) = opened(state, request) else {
            let status = known(state, request)?;
            return Err(wrong_state("not-open", request, &status.state));
        };
        let (contract, policy) = self.rules(&opened)?;
        let voter = policy.voter_by_key(&jws.kid()).ok_or_else(|| {
            Rejection::new(
                "not-a-voter",
                format!("the key `{}` is no voter's of `{}`", jws.kid(), contract.name),
            )
        })?;
        let name = &policy.voter(voter).name;
        if message.voter != *name {
            return Err(Rejection::new(
                "wrong-voter",
                format!("the key `{}` is that of `{name}`, not of `{}`", jws.kid(), message.voter),
            ));
        }
        if message.vote_request != opened.vote_request {
            return Err(Rejection::new(
                "other-request",
                format!("the ballot is for another vote request than that of the request `{request}`"),
            ));
        }
        let ballot = signed.verify_with(&policy.voter(voter).key, context.checked)?;

        let mut counting = Counting::read(state, request).ok_or_else(|| unknown_request(request))?;
        if let Some(place) = counting.place(voter) {
            return second_ballot(state, &ballot, voter, place);
        }
        if counting.is_closed() {
            let status = known(state, request)?;
            return Err(wrong_state("too-late", request, &status.state));
        }
        let mut tally = counting.tally(policy, opened.requester, opened.opened);
        tally.cast(voter, ballot.choice, context.time).map_err(|refusal| refused(&refusal, name, request))?;

        let place = counting.push(voter, ballot.choice, context.time, jws.as_str());
        let mut bytes = context.time.get().to_be_bytes().to_vec();
        bytes.extend_from_slice(jws.as_str().as_bytes());
        state.put(ballot_key(request, place).as_bytes(), bytes);
        let counted = ConsensusEvent::BallotCounted {
            request,
            voter: name.clone(),
            ballot: ballot.digest(),
            at: context.time,
        };
        let mut events = vec![counted.to_bytes()];
        events.extend(settle(state, request, counting, &tally, context));
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
                let (_, policy) = self.rules(&opened)?;
                let counting = Counting::read(state, request).ok_or_else(|| unknown_request(request))?;
                let tally = counting.tally(policy, opened.requester, opened.opened);
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
        let key = self.registry.contract_key(contract, opened.key_version)?;
        let decision = signed.verify_with(key, context.checked)?.digest();

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
        let (_, policy) = self.rules(&opened).ok()?;
        let counting = Counting::read(state, request)?;
        let tally = counting.tally(policy, opened.requester, opened.opened);
        Some(settle(state, request, counting, &tally, context))
    }

    /// The key that must have signed a message; nothing if the message will be rejected anyway.
    fn signer(&self, state: &dyn State, jws: &Jws) -> Option<PublicKey> {
        match jws.typ() {
            Typ::Ballot => {
                let ballot = Signed::<Ballot>::from_jws(jws.clone()).ok()?;
                let opened = opened(state, ballot.unverified().request)?;
                let (_, policy) = self.rules(&opened).ok()?;
                Some(policy.voter(policy.voter_by_key(&jws.kid())?).key.clone())
            }
            Typ::VoteRequest => {
                let message = Signed::<VoteRequest>::from_jws(jws.clone()).ok()?;
                let VoteRequest { contract, key_version, .. } = message.unverified();
                let contract = self.contract(contract).ok()?;
                self.registry.contract_key(contract, *key_version).ok().cloned()
            }
            Typ::Decision => {
                let message = Signed::<Decision>::from_jws(jws.clone()).ok()?;
                let Decision { contract, key_version, .. } = message.unverified();
                let contract = self.contract(contract).ok()?;
                self.registry.contract_key(contract, *key_version).ok().cloned()
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
                Carrier::Call { .. } | Carrier::Answer { .. } | Carrier::Result { .. } => return Vec::new(),
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
                Carrier::Answer { .. } => Err(super::not_taken("answer")),
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
        for (_, request, _) in due {
            events.extend(self.settle_due(state, request, context).unwrap_or_default());
        }
        events
    }
}

/// Fixes the outcome if there is one at the block's time, or sets when to look again.
fn settle(
    state: &mut dyn State,
    request: RequestId,
    mut counting: Counting,
    tally: &Tally<'_>,
    context: &Context<'_>,
) -> Vec<EventBytes> {
    if let Some((outcome, decided)) = tally.outcome(context.time) {
        return fix(state, request, counting, outcome, decided, context);
    }
    counting.schedule(state, request, tally.next_change(context.time));
    counting.write(state, request);
    Vec::new()
}

fn fix(
    state: &mut dyn State,
    request: RequestId,
    mut counting: Counting,
    outcome: Outcome,
    decided: UnixMillis,
    context: &Context<'_>,
) -> Vec<EventBytes> {
    let ballots = counting.root();
    counting.schedule(state, request, None);
    counting.write(state, request);
    if let Some(mut status) = status(state, request) {
        status.state = RequestState::Fixed { outcome, ballots, decided };
        status.heights.fixed = Some(context.height);
        put_status(state, request, &status);
    }
    DUTY.add(state, context.height, request, DECISION_DUTY.to_vec());
    vec![ConsensusEvent::DecisionDue { request, outcome, ballots, decided }.to_bytes()]
}

/// What comes of a ballot by a voter whose ballot at `place` was counted: the first that says something else is recorded.
fn second_ballot(
    state: &mut dyn State,
    ballot: &Verified<Ballot>,
    voter: VoterIndex,
    place: u32,
) -> Result<Vec<EventBytes>, Rejection> {
    let request = ballot.request;
    let first = ballot_at(state, request, place).ok_or_else(|| unknown_request(request))?.1;
    let name = &ballot.voter;
    if first.is_same_message(ballot.jws()) {
        return Err(Rejection::new(
            "already-counted",
            format!("this ballot of `{name}` was counted already; there is nothing to be done"),
        ));
    }
    let conflict = Key::request(request, "conflict").bytes(b"/").number(voter.place() as u64);
    if state.get(conflict.as_bytes()).is_some() {
        return Err(Rejection::new(
            "already-voted",
            format!("`{name}` has voted on the request `{request}` already, and a conflict is recorded"),
        ));
    }
    state.put(conflict.as_bytes(), ballot.jws().as_str().into());
    let ballots = [first.digest(), ballot.digest()];
    Ok(vec![ConsensusEvent::Conflict { request, voter: name.clone(), ballots }.to_bytes()])
}

fn refused(refusal: &BallotRefusal, voter: &Name, request: RequestId) -> Rejection {
    let code = match refusal {
        BallotRefusal::AlreadyVoted => "already-voted",
        BallotRefusal::MayNotVote => "requester-may-not-vote",
        BallotRefusal::TooEarly => "too-early",
        BallotRefusal::TooLate | BallotRefusal::AlreadyDecided => "too-late",
        BallotRefusal::OutOfOrder => "out-of-order",
        BallotRefusal::LevelNotBegun => "level-not-begun",
    };
    Rejection::new(
        code,
        format!("the ballot of `{voter}` on the request `{request}` is not counted: {refusal}"),
    )
}

pub(super) fn status(state: &dyn State, request: RequestId) -> Option<RequestStatus> {
    layout::read(state, &Key::request(request, "status"))
}

fn put_status(state: &mut dyn State, request: RequestId, status: &RequestStatus) {
    layout::write(state, &Key::request(request, "status"), status);
}

pub(super) fn opened(state: &dyn State, request: RequestId) -> Option<Opened> {
    layout::read(state, &Key::request(request, "opened"))
}

pub(super) fn call(state: &dyn State, request: RequestId) -> Option<Call> {
    match ProcessEvent::parse(&state.get(Key::request(request, "call").as_bytes())?) {
        Ok(ProcessEvent::Call(call)) => Some(call),
        _ => None,
    }
}

/// The ballot at a place in the order counted.
pub(super) fn ballot_at(state: &dyn State, request: RequestId, place: u32) -> Option<(UnixMillis, Jws)> {
    timed_message(&state.get(ballot_key(request, place).as_bytes())?)
}

/// A message that was kept with its block time.
pub(super) fn timed_message(bytes: &[u8]) -> Option<(UnixMillis, Jws)> {
    let (at, jws) = bytes.split_first_chunk::<8>()?;
    Some((UnixMillis::new(u64::from_be_bytes(*at)), Jws::parse(jws).ok()?))
}

pub(super) fn ballots_prefix(request: RequestId) -> Key {
    Key::request(request, "ballot").bytes(b"/")
}

fn ballot_key(request: RequestId, place: u32) -> Key {
    ballots_prefix(request).bytes(&place.to_be_bytes())
}

/// The last request of a case that was called.
fn case_key(calling_chain: &Name, requester: Thumbprint, case: &Name) -> Key {
    Key::table("case").bytes(requester.as_bytes()).part(calling_chain.as_str()).part(case.as_str())
}

fn keep_cancel(state: &mut dyn State, request: RequestId, jws: &Jws, context: &Context<'_>) {
    let mut bytes = context.time.get().to_be_bytes().to_vec();
    bytes.extend_from_slice(jws.as_str().as_bytes());
    state.put(Key::request(request, "cancel").as_bytes(), bytes);
}

fn remove_live(state: &mut dyn State, status: &RequestStatus) {
    state.delete(Key::table(LIVE).number(status.number).as_bytes());
}

fn known(state: &dyn State, request: RequestId) -> Result<RequestStatus, Rejection> {
    status(state, request).ok_or_else(|| unknown_request(request))
}

fn unknown_request(request: RequestId) -> Rejection {
    Rejection::new("unknown-request", format!("there is no request `{request}`"))
}

fn wrong_state(code: &'static str, request: RequestId, state: &RequestState) -> Rejection {
    Rejection::new(code, format!("the request `{request}` is {}", state.as_str()))
}

/// A sentence as display text, cut where it is too long.
fn shown(sentence: &str) -> DisplayText {
    let short: String = sentence.chars().take(DisplayText::LIMIT).collect();
    short.parse().unwrap_or_else(|_| "not decided here".parse().expect("this is display text"))
}
