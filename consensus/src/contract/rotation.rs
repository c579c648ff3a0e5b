//! Key transitions on both ledgers: the process ledger records one as the result of its case, the consensus ledger takes it
//! over with the record of that. From then on both go by it.
//!
//! ```text
//! approved `rotate-key` ─▶ acting ─Transition─▶ result-recorded, changed ─RelayedTransition─▶ changed
//!                                                                           compromise: └─▶ request-void ...
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::answer::Acting;
use super::case::{asked, put_asked};
use super::consensus::{ConsensusContracts, LIVE};
use super::counting::Counting;
use super::layout::{self, DUE, DUTY, Key};
use super::process::ProcessContracts;
use super::record::{Answer, RequestState};
use super::registry::Registry;
use super::request::{call, put_status, remove_live, status};
use super::{Context, Rejection, State};
use crate::bundle::TransitionPair;
use crate::digest::Digest;
use crate::event::{ConsensusEvent, EventBytes, ProcessEvent};
use crate::header::Inclusion;
use crate::jws::Signed;
use crate::message::{KeyTransition, RequestId, TransitionReason};
use crate::name::Name;
use crate::standing::KeyName;
use crate::transition::{self, Approval, TransitionError, VerifiedTransition};

const TRANSITIONS: &str = "transitions";

/// A transition, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTransition {
    /// What it says.
    pub says: KeyTransition,
    /// The two messages.
    pub pair: TransitionPair,
    /// The request that approved it.
    pub request: RequestId,
    /// The height of `changed`.
    pub height: u64,
}

fn key_of(name: &KeyName) -> Key {
    match name {
        KeyName::Contract(name) => Key::table(TRANSITIONS).part("contract").part(name.as_str()),
        KeyName::Operational(name) => Key::table(TRANSITIONS).part("key").part(name.as_str()),
    }
}

/// The transitions of a key, in order of version.
pub(super) fn recorded(state: &dyn State, name: &KeyName) -> Vec<RecordedTransition> {
    layout::read(state, &key_of(name)).unwrap_or_default()
}

/// The transitions of all keys, in order of key and version.
pub(super) fn all(state: &dyn State) -> Vec<RecordedTransition> {
    let lists = state.scan(Key::table(TRANSITIONS).as_bytes(), usize::MAX).into_iter();
    lists.filter_map(|(_, list)| serde_json::from_slice::<Vec<_>>(&list).ok()).flatten().collect()
}

/// What the transitions of a key say, in order of version.
pub(super) fn transitions(state: &dyn State, name: &KeyName) -> Vec<KeyTransition> {
    recorded(state, name).into_iter().map(|recorded| recorded.says).collect()
}

/// Verifies a pair of messages against what is in force.
fn verify(
    registry: &Registry,
    state: &dyn State,
    pair: &TransitionPair,
) -> Result<VerifiedTransition, Rejection> {
    let signed = Signed::<KeyTransition>::from_jws(pair.new.clone())?;
    let key = transition::key_of(signed.unverified()).map_err(rejected)?;
    if recorded(state, &key).iter().any(|recorded| recorded.pair.new.is_same_message(&pair.new)) {
        let message = format!("version {} of {key} is recorded already", signed.unverified().version);
        return Err(Rejection::new("already-changed", message));
    }
    transition::verify(&registry.standing(state), pair, &BTreeSet::new()).map_err(rejected)
}

/// Puts a transition into force on this ledger.
fn follow(
    state: &mut dyn State,
    verified: &VerifiedTransition,
    pair: &TransitionPair,
    request: RequestId,
    context: &Context<'_>,
) {
    let mut list = recorded(state, &verified.key);
    let says = KeyTransition::clone(&verified.new);
    list.push(RecordedTransition { says, pair: pair.clone(), request, height: context.height });
    layout::write(state, &key_of(&verified.key), &list);
}

fn rejected(error: TransitionError) -> Rejection {
    Rejection::new(error.reason(), error.to_string())
}

impl ProcessContracts {
    pub(super) fn transition(
        &self,
        state: &mut dyn State,
        pair: &TransitionPair,
        audit: Digest,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let verified = verify(self.registry(), state, pair)?;
        let (request, asked) = self.approved(state, verified.new.decision)?;
        let mut events = self.walk_on(state, &asked, |contracts, state, walk| {
            let acting = Acting::of(walk, &asked, request, context)?;
            let subject = acting.subject(walk, &asked)?;
            let Some(Answer::Decided { decision, decided, key_version, .. }) = asked.answer else {
                return Err(Rejection::new("not-due", "the case has no decision"));
            };
            let approval =
                Approval { contract: &asked.contract, decision, decided, key_version, subject: &subject };
            verified.confirm(&approval).map_err(rejected)?;

            follow(state, &verified, pair, request, context);
            let change = verified.new.digest();
            walk.events.push(ProcessEvent::Changed { subject, change }.to_bytes());
            acting.done(contracts, state, walk, &asked, (change, audit), context)
        })?;
        if let (KeyName::Contract(contract), TransitionReason::Compromise) =
            (&verified.key, verified.new.reason)
        {
            events.extend(self.void_approvals(state, contract, context)?);
        }
        Ok(events)
    }

    /// Has what a contract approved, and what is not done yet, asked again: its key is not trusted any more.
    fn void_approvals(
        &self,
        state: &mut dyn State,
        contract: &Name,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let mut events = Vec::new();
        for (height, request, _) in DUTY.list(state, None, usize::MAX) {
            let Some(mut asked) = asked(state, request).filter(|asked| asked.contract == *contract) else {
                continue;
            };
            let Some(Answer::Decided { act_by, key_version, .. }) = asked.answer else { continue };
            if !self.registry().is_compromised(state, contract, key_version) {
                continue;
            }
            DUTY.remove(state, height, request);
            DUE.remove(state, act_by.get(), request);
            (asked.answer, asked.action_due) = (Some(Answer::Void), None);
            put_asked(state, request, &asked);
            events.extend(self.walk_on(state, &asked, |contracts, state, walk| {
                contracts.take(state, walk, &asked, request, &Answer::Void, context)
            })?);
        }
        Ok(events)
    }
}

impl ConsensusContracts {
    pub(super) fn relayed_transition(
        &self,
        state: &mut dyn State,
        pair: &TransitionPair,
        inclusion: &Inclusion,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let verified = verify(self.registry(), state, pair)?;
        let change = verified.new.digest();
        self.check_told(inclusion, change)?;
        let approved = self.approved(state, verified.new.decision)?;
        verified.confirm(&approved.approval()).map_err(rejected)?;
        let (request, subject) = (approved.request, approved.subject);

        follow(state, &verified, pair, request, context);
        let mut events = vec![ConsensusEvent::Changed { subject, change }.to_bytes()];
        if let (KeyName::Contract(contract), TransitionReason::Compromise) =
            (&verified.key, verified.new.reason)
        {
            events.extend(void_all(state, contract, context));
        }
        Ok(events)
    }
}

/// Ends all requests of a contract that are not decided: its key is not trusted any more.
fn void_all(state: &mut dyn State, contract: &Name, context: &Context<'_>) -> Vec<EventBytes> {
    let live = state.scan(Key::table(LIVE).as_bytes(), usize::MAX);
    let requests = live.into_iter().filter_map(|(_, value)| value.try_into().ok());
    let mut events = Vec::new();
    for request in requests.map(|bytes| RequestId(Digest::from_bytes(bytes))).collect::<Vec<_>>() {
        let is_its = call(state, request).is_some_and(|call| call.contract == *contract);
        let Some(mut status) = status(state, request).filter(|_| is_its) else { continue };
        if let Some(mut counting) = Counting::read(state, request) {
            counting.schedule(state, request, None);
            counting.write(state, request);
        }
        DUTY.remove(state, status.heights.called, request);
        if let Some(fixed) = status.heights.fixed {
            DUTY.remove(state, fixed, request);
        }
        remove_live(state, &status);
        status.state = RequestState::Void;
        status.heights.ended = Some(context.height);
        put_status(state, request, &status);
        events.push(ConsensusEvent::RequestVoid { request }.to_bytes());
    }
    events
}
