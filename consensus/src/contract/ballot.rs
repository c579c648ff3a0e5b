//! Ballots: who may cast them, how they are counted, and when the outcome is fixed.

use super::consensus::{ConsensusContracts, DECISION_DUTY};
use super::counting::Counting;
use super::layout::{DUTY, Key};
use super::record::RequestState;
use super::request::{
    ballot_at, ballot_key, known, opened, put_status, status, unknown_request, wrong_state,
};
use super::{Context, Rejection, State};
use crate::event::{ConsensusEvent, EventBytes};
use crate::jws::{Jws, Signed, Verified};
use crate::message::{Ballot, RequestId};
use crate::name::Name;
use crate::policy::{BallotRefusal, Tally, VoterIndex};
use crate::time::UnixMillis;
use crate::vote::Outcome;

impl ConsensusContracts {
    pub(super) fn ballot(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Ballot>::from_jws(jws.clone())?;
        let message = signed.unverified();
        self.registry().check_deployment(message.deployment)?;
        let request = message.request;
        let Some(opened) = opened(state, request) else {
            let status = known(state, request)?;
            return Err(wrong_state("not-open", request, &status.state));
        };
        let (contract, policy) = self.rules(state, &opened)?;
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
        let mut tally = counting.tally(&policy, opened.requester, opened.opened);
        tally.cast(voter, ballot.choice, context.time).map_err(|refusal| refused(refusal, name, request))?;

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
}

/// Fixes the outcome if there is one at the block's time, or sets when to look again.
pub(super) fn settle(
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

pub(super) fn fix(
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

fn refused(refusal: BallotRefusal, voter: &Name, request: RequestId) -> Rejection {
    Rejection::new(
        refusal.reason(),
        format!("the ballot of `{voter}` on the request `{request}` is not counted: {refusal}"),
    )
}
