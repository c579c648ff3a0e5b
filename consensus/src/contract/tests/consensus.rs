//! Requests, from call to decision.

use super::world::{HOUR, World, code, name};
use crate::contract::query::{self, DutyKind, Filter};
use crate::contract::record::RequestState;
use crate::digest::Digest;
use crate::json;
use crate::message::BallotsRoot;
use crate::transaction::Carrier;
use crate::vote::{Choice, Outcome};

#[test]
fn a_call_must_be_proven_and_comes_once() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    let good = world.call_of(request);
    let mut proof = good.clone();
    proof.path.clear();
    let mut stranger = good.clone();
    stranger.certificate.signatures[0].signature[5] ^= 1;
    let started = world.processes.inclusion(1, 0);
    for (inclusion, expected) in [(proof, "bad-proof"), (stranger, "bad-proof"), (started, "not-a-call")] {
        assert_eq!(code(world.on_consensus(json::write(&Carrier::Call { inclusion }))), expected);
    }
    world.call(request).unwrap();
    assert_eq!(code(world.call(request)), "already-called");
    let record = world.request(request);
    assert_eq!(record.status.state, RequestState::Called);
    let duties = query::pending_duties(&world.consensus.state, None, 9);
    assert_eq!((duties[0].kind, duties[0].height), (DutyKind::VoteRequest, record.status.heights.called));
    let after = Some((duties[0].height, duties[0].request));
    assert!(query::pending_duties(&world.consensus.state, after, 9).is_empty());
}

#[test]
fn a_vote_request_must_say_what_was_called() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();
    let good = world.vote_request_of(request);
    let mut wrong = Vec::new();
    let mut message = good.clone();
    message.deployment.0 = Digest::ZERO;
    wrong.push((message, "other-deployment"));
    let mut message = good.clone();
    message.chain = name("process");
    wrong.push((message, "other-chain"));
    let mut message = good.clone();
    message.request.0 = Digest::ZERO;
    wrong.push((message, "unknown-request"));
    let mut message = good.clone();
    message.start = Digest::ZERO;
    wrong.push((message, "other-request"));
    let mut message = good.clone();
    message.policy = Digest::ZERO;
    wrong.push((message, "wrong-policy"));
    let mut message = good.clone();
    message.deadline = message.opened;
    wrong.push((message, "wrong-deadline"));
    let mut message = good.clone();
    message.opened = crate::time::UnixMillis::new(world.now + 61_100);
    message.deadline = message.opened.after(world.deadline("release-approval"));
    wrong.push((message, "too-early"));
    let mut message = good.clone();
    message.key_version.0 = json::Integer::saturating(2);
    wrong.push((message, "unknown-key-version"));
    for (message, expected) in wrong {
        assert_eq!(code(world.send_vote_request(message)), expected);
    }
    let forged = world.stranger.sign(good.clone());
    let carrier = Carrier::VoteRequest { vote_request: forged, audit: Digest::ZERO };
    assert_eq!(code(world.on_consensus(json::write(&carrier))), "wrong-key");
    world.send_vote_request(good.clone()).unwrap();
    assert_eq!(code(world.send_vote_request(good)), "not-called");
}

#[test]
fn a_vote_request_whose_deadline_is_past_is_fixed_at_once() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();
    let message = world.vote_request_of(request);
    let deadline = message.deadline;
    world.later(49 * HOUR).send_vote_request(message).unwrap();
    assert_eq!(world.consensus.types()[2..], ["request-open", "decision-due"]);
    let RequestState::Fixed { outcome, decided, .. } = world.state(request) else { panic!("fixed") };
    assert_eq!((outcome, decided), (Outcome::Expired, deadline));
}

#[test]
fn a_ballot_must_be_a_members_own_for_this_request() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let good = world.ballot_of(request, 0, Choice::Approve);
    let stranger = world.stranger.sign(good.clone());
    assert_eq!(code(world.on_consensus(stranger.as_str())), "not-a-voter");
    let mut wrong = Vec::new();
    let mut ballot = good.clone();
    ballot.deployment.0 = Digest::ZERO;
    wrong.push((ballot, "other-deployment"));
    let mut ballot = good.clone();
    ballot.request.0 = Digest::ZERO;
    wrong.push((ballot, "unknown-request"));
    let mut ballot = good.clone();
    ballot.vote_request = Digest::ZERO;
    wrong.push((ballot, "other-request"));
    let mut ballot = good.clone();
    ballot.voter = name("v1");
    wrong.push((ballot, "wrong-voter"));
    for (ballot, expected) in wrong {
        let jws = world.voters[0].sign(ballot);
        assert_eq!(code(world.on_consensus(jws.as_str())), expected);
    }
    assert_eq!(code(world.vote(request, 9, Choice::Approve)), "requester-may-not-vote");
    let called = world.start("release-signing", "b");
    world.call(called).unwrap();
    assert_eq!(code(world.vote(called, 0, Choice::Approve)), "not-open");
}

#[test]
fn a_second_ballot_by_the_same_voter_is_refused() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.vote(request, 0, Choice::Approve).unwrap();
    assert_eq!(code(world.vote(request, 0, Choice::Approve)), "already-counted");
    let events = world.vote(request, 0, Choice::Reject).unwrap();
    assert!(events[0].0.starts_with(b"{\"type\":\"conflict\""));
    assert_eq!(code(world.vote(request, 0, Choice::Abstain)), "already-voted");
    assert_eq!(query::ballots(&world.consensus.state, request).len(), 1);
    assert_eq!(query::conflicts(&world.consensus.state, request).len(), 1);
    assert_eq!(world.state(request), RequestState::Open);
}

#[test]
fn the_ballots_root_is_over_the_ballots_as_counted() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    for (voter, choice) in [(2, Choice::Abstain), (0, Choice::Approve), (1, Choice::Approve)] {
        world.vote(request, voter, choice).unwrap();
    }
    let RequestState::Fixed { outcome, ballots, decided } = world.state(request) else { panic!("fixed") };
    let counted = query::ballots(&world.consensus.state, request);
    assert_eq!(ballots, BallotsRoot::of(counted.iter().map(|ballot| (ballot.at, ballot.jws.as_str()))));
    assert_eq!((outcome, decided), (Outcome::Approved, world.time()));
    let duties = query::pending_duties(&world.consensus.state, None, 9);
    assert_eq!((duties[0].kind, duties[0].height), (DutyKind::Decision, world.consensus.height()));
}

#[test]
fn a_ballot_at_the_deadline_is_too_late_and_the_request_expires() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let due = world.consensus.contracts.due(&world.consensus.state).unwrap();
    assert_eq!(due, world.request(request).opened.unwrap().deadline);
    world.now = due.get() - 1;
    assert_eq!(code(world.vote(request, 0, Choice::Approve)), "too-late");
    let RequestState::Fixed { outcome, decided, .. } = world.state(request) else { panic!("fixed") };
    assert_eq!((outcome, decided), (Outcome::Expired, due));
}

#[test]
fn levels_begin_one_after_the_other_and_windows_end_by_time() {
    let mut world = World::new();
    let request = world.open("minutes", "a");
    assert_eq!(code(world.vote(request, 4, Choice::Approve)), "level-not-begun");
    world.vote(request, 3, Choice::Approve).unwrap();
    let due = world.consensus.contracts.due(&world.consensus.state).unwrap();
    assert_eq!(due.get(), world.now + HOUR);
    world.now = due.get() - 2;
    world.vote(request, 4, Choice::Abstain).unwrap();
    assert_eq!(world.state(request), RequestState::Open);
    world.later(5).tick();
    let RequestState::Fixed { outcome, decided, .. } = world.state(request) else { panic!("fixed") };
    assert_eq!((outcome, decided), (Outcome::Approved, due));
}

#[test]
fn a_request_that_was_decided_by_time_cannot_be_cancelled() {
    let mut world = World::new();
    let request = world.open("minutes", "a");
    world.vote(request, 3, Choice::Approve).unwrap();
    world.later(2 * HOUR);
    let cancel = world.cancel_of("a");
    assert_eq!(code(world.on_consensus(cancel.as_str())), "too-late");
    assert!(matches!(world.state(request), RequestState::Fixed { outcome: Outcome::Approved, .. }));
}

#[test]
fn a_cancellation_fixes_an_open_request_with_its_ballots() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.vote(request, 0, Choice::Approve).unwrap();
    let cancel = world.cancel_of("a");
    world.on_consensus(cancel.as_str()).unwrap();
    let RequestState::Fixed { outcome, ballots, decided } = world.state(request) else { panic!("fixed") };
    assert_eq!((outcome, ballots.count.get(), decided), (Outcome::Cancelled, 1, world.time()));
    assert_eq!(query::cancel(&world.consensus.state, request).unwrap().at, decided);
    assert_eq!(code(world.vote(request, 1, Choice::Approve)), "too-late");
    assert_eq!(code(world.on_consensus(cancel.as_str())), "too-late");
}

#[test]
fn a_decision_must_say_what_was_fixed() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.vote(request, 0, Choice::Approve).unwrap();
    world.vote(request, 1, Choice::Approve).unwrap();
    let good = world.decision_of(request);
    let mut wrong = Vec::new();
    let mut message = good.clone();
    message.outcome = Outcome::Rejected;
    wrong.push((message, "other-outcome"));
    let mut message = good.clone();
    message.ballots.count = json::Integer::saturating(3);
    wrong.push((message, "other-outcome"));
    let mut message = good.clone();
    message.decided = message.decided.after(crate::time::Millis::new(1));
    wrong.push((message, "other-outcome"));
    let mut message = good.clone();
    message.vote_request = Digest::ZERO;
    wrong.push((message, "other-request"));
    let mut message = good.clone();
    message.request.0 = Digest::ZERO;
    wrong.push((message, "unknown-request"));
    let mut message = good.clone();
    message.deployment.0 = Digest::ZERO;
    wrong.push((message, "other-deployment"));
    for (message, expected) in wrong {
        assert_eq!(code(world.send_decision(message)), expected);
    }
    let forged = Carrier::Decision { decision: world.stranger.sign(good.clone()), audit: Digest::ZERO };
    assert_eq!(code(world.on_consensus(json::write(&forged))), "wrong-key");
    world.send_decision(good.clone()).unwrap();
    assert_eq!(code(world.send_decision(good)), "not-fixed");
    assert!(query::requests(&world.consensus.state, Filter::Live, 0, 9).is_empty());
    let all = query::requests(&world.consensus.state, Filter::All, 0, 9);
    assert_eq!((all.len(), all[0].status.number), (1, 1));
    assert!(query::requests(&world.consensus.state, Filter::All, 1, 9).is_empty());
    // A ballot after all is over is not counted; a contradiction is still recorded.
    assert_eq!(code(world.vote(request, 2, Choice::Approve)), "too-late");
    let events = world.vote(request, 1, Choice::Reject).unwrap();
    assert!(events[0].0.starts_with(b"{\"type\":\"conflict\""));
}

#[test]
fn counting_a_ballot_touches_few_keys_however_many_requests_there_are() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    for case in 0..20 {
        world.open("hotfix-signing", &format!("case-{case}"));
    }
    let before = world.consensus.state.clone();
    world.vote(request, 0, Choice::Approve).unwrap();
    let after = &world.consensus.state;
    let written = after.0.iter().filter(|(key, value)| before.0.get(*key) != Some(value)).count();
    let removed = before.0.keys().filter(|key| !after.0.contains_key(*key)).count();
    assert_eq!((written, removed), (2, 0));
}

#[test]
fn a_ballot_before_the_request_opens_is_too_early() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();
    let mut message = world.vote_request_of(request);
    message.opened = crate::time::UnixMillis::new(world.now + 30_000);
    message.deadline = message.opened.after(world.deadline("release-approval"));
    world.send_vote_request(message).unwrap();
    assert_eq!(code(world.vote(request, 0, Choice::Approve)), "too-early");
    world.later(30_000).vote(request, 0, Choice::Approve).unwrap();
}

#[test]
fn many_ballots_in_one_block_are_counted_in_their_order() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let ballots: Vec<_> =
        [(0, Choice::Approve), (0, Choice::Approve), (1, Choice::Approve), (2, Choice::Reject)]
            .map(|(voter, choice)| world.voters[voter].sign(world.ballot_of(request, voter, choice)))
            .map(|jws| jws.as_str().into())
            .into();
    world.now += 1;
    let time = world.time();
    let results = world.consensus.block(time, &ballots);
    let codes: Vec<_> =
        results.into_iter().map(|result| result.map_err(|why| why.code).map(|told| told.len())).collect();
    // The second approval decides, in the same moment; what comes after it is too late.
    assert_eq!(codes, [Ok(1), Err("already-counted"), Ok(2), Err("too-late")]);
}
