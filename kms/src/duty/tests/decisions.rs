//! Decisions: what the ballots come to, and when.

use assent_consensus::duty::Duty;
use assent_consensus::event::ConsensusEvent;
use assent_consensus::jws::Signed;
use assent_consensus::message::CountedMessage;
use assent_consensus::message::{BallotsRoot, Decision, KeyVersion};
use assent_consensus::time::{Millis, UnixMillis};
use assent_consensus::vote::{Choice, Outcome};

use super::log::number;
use super::world::{HOUR, MINUTE, World, contract_key};
use crate::pins::KeyState;
use crate::signing::Purpose;

fn at(time: u64) -> UnixMillis {
    UnixMillis::new(time)
}

#[tokio::test]
async fn a_decision_says_what_the_ballots_come_to() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    let jws = world.signed(duty).await;
    let decision = Signed::<Decision>::from_jws(jws).unwrap().verify(&world.contract.public).unwrap();
    let ballots = world.approvals(&asked);
    let expected = Decision {
        deployment: world.genesis.id(),
        chain: asked.vote_request.chain.clone(),
        contract: asked.vote_request.contract.clone(),
        request: asked.request,
        vote_request: asked.jws.digest(),
        policy: asked.vote_request.policy,
        outcome: Outcome::Approved,
        ballots: BallotsRoot::of(ballots.iter().map(|ballot| (ballot.at, ballot.jws.as_str()))),
        decided: ballots[1].at,
        key_version: KeyVersion::first(),
    };
    assert_eq!(*decision, expected);
}

#[tokio::test]
async fn a_decision_that_is_asked_for_again_is_the_same_however_late() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    let first = world.signed(duty.clone()).await;
    world.set_clock(world.now() + 1_000 * HOUR);
    world.restart();
    assert_eq!(world.signed(duty).await, first);
}

#[tokio::test]
async fn another_decision_on_the_same_request_is_never_signed() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    world.signed(duty).await;
    let against = [1, 2].map(|place| world.ballot(&asked, place, Choice::Reject, MINUTE));
    let duty = world.decision_duty(&asked, &against, None, Outcome::Rejected, against[1].at);
    world.needs_person(duty, "other-decision").await;
}

#[tokio::test]
async fn a_log_that_claims_another_outcome_is_not_believed() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let ballots = world.approvals(&asked);
    world.set_clock(asked.vote_request.deadline.get());
    let (decided, deadline) = (ballots[1].at, asked.vote_request.deadline);
    let duty = world.decision_duty(&asked, &ballots, None, Outcome::Rejected, decided);
    world.needs_person(duty, "outcome-differs").await;
    let duty = world.decision_duty(&asked, &ballots, None, Outcome::Approved, at(decided.get() + 1));
    world.needs_person(duty, "decided-differs").await;
    let duty = world.decision_duty(&asked, &ballots[..1], None, Outcome::Approved, ballots[0].at);
    world.needs_person(duty, "too-few-votes").await;
    // Ballots that were counted, and are kept from the KMS.
    let Duty::Decision { vote_request, cancel, due, .. } =
        world.decision_duty(&asked, &ballots[..1], None, Outcome::Expired, deadline)
    else {
        unreachable!()
    };
    let duty = Duty::Decision { vote_request, ballots: Vec::new(), cancel, due };
    world.needs_person(duty, "ballots-differ").await;
}

#[tokio::test]
async fn every_ballot_must_be_a_members_own_for_this_question() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let other = world.ask("release-signing", "2").await;
    let good = world.approvals(&asked);
    let decided = good[1].at;
    world.set_clock(decided.get());
    let payload = |ballot: &CountedMessage| {
        Signed::<assent_consensus::message::Ballot>::from_jws(ballot.jws.clone())
            .unwrap()
            .unverified()
            .clone()
    };
    let mut cases = Vec::new();
    let mut stranger = good.clone();
    stranger[1].jws = world.stranger.sign(payload(&good[1]));
    cases.push((stranger, "stranger"));
    let mut elsewhere = good.clone();
    elsewhere[1] = world.ballot(&other, 1, Choice::Approve, 2 * MINUTE);
    cases.push((elsewhere, "other-request"));
    let mut twice = good.clone();
    twice[1] = good[0].clone();
    twice[1].at = decided;
    cases.push((twice, "already-voted"));
    let mut backwards = good.clone();
    backwards[0].at = at(decided.get() + 1);
    cases.push((backwards, "out-of-order"));
    let mut early = good.clone();
    early[0].at = at(asked.vote_request.opened.get() - 1);
    cases.push((early, "too-early"));
    for (ballots, reason) in cases {
        let duty = world.decision_duty(&asked, &ballots, None, Outcome::Approved, decided);
        world.needs_person(duty, reason).await;
    }
}

#[tokio::test]
async fn ballots_of_a_suspended_voter_wait_for_a_person() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    world.books.pages().suspended.insert(world.voters[1].public.thumbprint());
    world.needs_person(duty, "suspended").await;
}

#[tokio::test]
async fn only_the_vote_request_that_this_kms_signed_is_decided() {
    let mut world = World::new();
    let mut asked = world.ask("release-signing", "1").await;
    let honest = asked.clone();
    asked.jws = world.stranger.sign(honest.vote_request.clone());
    let duty = world.approval_duty(&asked);
    world.needs_person(duty, "wrong-key").await;

    // With the contract's own key, as if it had been stolen: dated back by an hour.
    asked.vote_request.opened = at(honest.vote_request.opened.get() - HOUR);
    asked.vote_request.deadline = at(honest.vote_request.deadline.get() - HOUR);
    asked.jws = world.contract.sign(asked.vote_request.clone());
    let duty = world.approval_duty(&asked);
    world.needs_person(duty, "other-vote-request").await;

    asked.vote_request.deadline = at(honest.vote_request.deadline.get() + HOUR);
    asked.jws = world.contract.sign(asked.vote_request.clone());
    let duty = world.approval_duty(&asked);
    world.needs_person(duty, "wrong-deadline").await;
}

#[tokio::test]
async fn a_decision_is_signed_with_the_version_that_asked_and_only_while_it_is_trusted() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    let key = contract_key("release-approval");
    world.books.pages().keys.get_mut(&key).unwrap().1.version = KeyVersion(number(2));
    world.needs_person(duty.clone(), "unknown-key").await;
    world.books.pages().keys.get_mut(&key).unwrap().1.version = KeyVersion::first();
    world.books.set_state(&key, KeyState::Compromised);
    world.needs_person(duty, "key-compromised").await;
}

#[tokio::test]
async fn the_consensus_log_must_ask_for_the_decision_on_this_request() {
    let mut world = World::new();
    let (asked, other) = (world.ask("release-signing", "1").await, world.ask("release-signing", "2").await);
    let Duty::Decision { vote_request, ballots, cancel, .. } = world.approval_duty(&asked) else {
        unreachable!()
    };
    let Duty::Decision { due, .. } = world.approval_duty(&other) else { unreachable!() };
    let duty = Duty::Decision { vote_request, ballots, cancel, due: due.clone() };
    world.needs_person(duty.clone(), "other-request").await;

    let Duty::Decision { vote_request, ballots, cancel, .. } = duty else { unreachable!() };
    let mut invented = due;
    let root = BallotsRoot::of(ballots.iter().map(|ballot| (ballot.at, ballot.jws.as_str())));
    let event = ConsensusEvent::DecisionDue {
        request: asked.request,
        outcome: Outcome::Approved,
        ballots: root,
        decided: ballots[1].at,
    };
    invented.event.0 = event.to_bytes().0;
    world.needs_person(Duty::Decision { vote_request, ballots, cancel, due: invented }, "not-in-log").await;
}

#[tokio::test]
async fn a_decision_more_than_a_minute_ahead_of_the_clock_is_put_off() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    let decided = world.now();
    world.set_clock(decided - MINUTE - 1);
    world.retry(duty.clone(), "too-early").await;
    world.set_clock(decided - MINUTE);
    world.signed(duty).await;
}

#[tokio::test]
async fn what_time_alone_decides_is_signed_only_after_that_time() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let deadline = asked.vote_request.deadline;
    let duty = world.decision_duty(&asked, &[], None, Outcome::Expired, deadline);
    world.set_clock(deadline.get() - 1);
    world.retry(duty.clone(), "too-early").await;
    world.set_clock(deadline.get() + 1_000 * HOUR);
    world.signed(duty).await;
}

#[tokio::test]
async fn a_window_that_has_not_passed_by_the_clock_approves_nothing() {
    let mut world = World::new();
    let asked = world.ask("nightly-signing", "1").await;
    let ballots = [world.ballot(&asked, 0, Choice::Approve, MINUTE)];
    let decided = at(asked.vote_request.opened.get() + HOUR);
    let duty = world.decision_duty(&asked, &ballots, None, Outcome::Approved, decided);
    world.set_clock(decided.get() - 1);
    world.retry(duty.clone(), "too-early").await;
    world.set_clock(decided.get());
    world.signed(duty).await;
}

#[tokio::test]
async fn what_ballots_decide_is_signed_late_only_after_a_person_released_it() {
    for (process, wanted) in [
        ("release-signing", Outcome::Approved),
        ("nightly-signing", Outcome::Approved),
        ("release-signing", Outcome::Rejected),
    ] {
        let mut world = World::new();
        let asked = world.ask(process, "1").await;
        let opened = asked.vote_request.opened.get();
        let choice = if wanted == Outcome::Approved { Choice::Approve } else { Choice::Reject };
        let mut ballots = vec![world.ballot(&asked, 0, choice, MINUTE)];
        let decided = if process == "release-signing" {
            ballots.push(world.ballot(&asked, 1, choice, 2 * MINUTE));
            ballots[1].at
        } else {
            at(opened + HOUR)
        };
        let duty = world.decision_duty(&asked, &ballots, None, wanted, decided);
        let last = asked.vote_request.deadline.get() + 24 * HOUR;
        world.set_clock(last + 1);
        world.needs_person(duty.clone(), "too-late").await;
        world.books.pages().released.insert(asked.request);
        world.signed(duty).await;
    }
}

#[tokio::test]
async fn at_the_end_of_the_grace_no_person_is_needed() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    world.set_clock(asked.vote_request.deadline.get() + 24 * HOUR);
    world.signed(duty).await;
}

#[tokio::test]
async fn a_longer_grace_counts_from_the_moment_at_which_it_is_set() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    world.set_clock(asked.vote_request.deadline.get() + 48 * HOUR);
    world.needs_person(duty.clone(), "too-late").await;
    world.settings.send_modify(|settings| settings.decision_grace = Millis::new(48 * HOUR));
    world.signed(duty).await;
}

#[tokio::test]
async fn only_the_requester_can_take_his_case_back() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let when = at(asked.vote_request.opened.get() + MINUTE);
    world.set_clock(when.get());
    let cancel = |jws| CountedMessage { at: when, jws };

    let by_stranger = cancel(world.stranger.sign(world.cancel_of(&asked)));
    let duty = world.decision_duty(&asked, &[], Some(by_stranger), Outcome::Cancelled, when);
    world.needs_person(duty, "wrong-key").await;
    let mut other = world.cancel_of(&asked);
    other.case = "2".parse().unwrap();
    let duty =
        world.decision_duty(&asked, &[], Some(cancel(world.requester.sign(other))), Outcome::Cancelled, when);
    world.needs_person(duty, "other-case").await;
    let duty = world.decision_duty(&asked, &[], None, Outcome::Cancelled, when);
    world.needs_person(duty, "outcome-differs").await;

    let own = cancel(world.requester.sign(world.cancel_of(&asked)));
    let duty = world.decision_duty(&asked, &[], Some(own), Outcome::Cancelled, when);
    world.signed(duty).await;
    assert!(world.books.order(Purpose::Decision, asked.request).is_some());
}
