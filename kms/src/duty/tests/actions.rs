//! Actions: an operational key signs what was approved, and nothing else.

use assent_consensus::artifact::{Artifact, ToSign};
use assent_consensus::bundle::ActionResult;
use assent_consensus::digest::Digest;
use assent_consensus::duty::Duty;
use assent_consensus::event::EventBytes;
use assent_consensus::message::{KeyTransition, KeyVersion, TransitionReason};
use assent_consensus::standing::Successions;
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{DerSignature, VerifyingKey};

use super::world::{ActionDue, HOUR, MINUTE, World, contract_key, name, operational_key};
use crate::pins::KeyState;
use crate::signing::{DutyId, Purpose};

#[tokio::test]
async fn an_approved_file_is_signed_in_the_format_of_its_key() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    let output = world.done(duty.clone()).await;
    let key = world.genesis.key(&name("release")).unwrap();
    assert_eq!(
        (&output.key, output.version, output.format),
        (&key.name, KeyVersion::first(), SignatureFormat::Der)
    );
    assert_eq!(output.public_key, *key.key.public_key());
    let signature = DerSignature::from_bytes(&output.signature.0).unwrap();
    let verifier = VerifyingKey::from_sec1_bytes(key.key.public_key().as_bytes()).unwrap();
    verifier.verify_prehash(Digest::of(b"1").as_bytes(), &signature).unwrap();
    // Again it is the same signature.
    world.restart();
    assert_eq!(world.done(duty).await, output);
}

#[tokio::test]
async fn a_statement_names_the_approval_that_it_stands_on() {
    let mut world = World::new();
    let asked = world.ask("nightly-signing", "1").await;
    let ballots = vec![world.ballot(&asked, 0, Choice::Approve, MINUTE)];
    let decided = asked.vote_request.opened.get() + HOUR;
    world.set_clock(decided);
    let decided = UnixMillis::new(decided);
    let duty = world.decision_duty(&asked, &ballots, None, Outcome::Approved, decided);
    let decision = world.signed(duty).await;
    let bundle = world.bundle(&asked, ballots, decision);
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    let output = world.done(duty).await;
    let artifact = Artifact {
        format: SignatureFormat::Dsse,
        name: "file".parse().unwrap(),
        digest: Digest::of(b"1"),
        request: asked.request,
        policy: asked.vote_request.policy,
        decision: bundle.decision.digest(),
    };
    artifact.verify(&world.genesis.key(&name("nightly")).unwrap().key, &output.signature.0).unwrap();
}

#[tokio::test]
async fn what_was_not_approved_is_not_done() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let ballots = vec![
        world.ballot(&asked, 0, Choice::Reject, MINUTE),
        world.ballot(&asked, 1, Choice::Reject, 2 * MINUTE),
    ];
    world.set_clock(ballots[1].at.get());
    let duty = world.decision_duty(&asked, &ballots, None, Outcome::Rejected, ballots[1].at);
    let decision = world.signed(duty).await;
    let bundle = world.bundle(&asked, ballots, decision);
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.needs_person(duty, "not-approved").await;
}

#[tokio::test]
async fn a_bundle_that_does_not_hold_is_not_believed() {
    let mut world = World::new();
    let (asked, good) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &good);

    let mut bundle = good.clone();
    bundle.ballots.pop();
    let duty = world.action_duty(&bundle, due.clone());
    world.needs_person(duty, "too-few-votes").await;

    let mut bundle = good.clone();
    bundle.policy.0.push(b'\n');
    let duty = world.action_duty(&bundle, due.clone());
    world.needs_person(duty, "other-policy").await;

    let mut bundle = good.clone();
    bundle.inclusion.certificate.signatures[0].signature[9] ^= 1;
    let duty = world.action_duty(&bundle, due.clone());
    world.needs_person(duty, "bad-certificate").await;

    let mut bundle = good;
    let output = assent_consensus::bundle::ActionOutput {
        key: name("release"),
        version: KeyVersion::first(),
        public_key: world.genesis.key(&name("release")).unwrap().key.public_key().clone(),
        format: SignatureFormat::Der,
        signature: Default::default(),
    };
    bundle.result = Some(ActionResult::new(output, bundle.inclusion.clone()));
    let duty = world.action_duty(&bundle, due);
    world.needs_person(duty, "has-result").await;
}

#[tokio::test]
async fn the_process_log_must_ask_for_exactly_what_was_approved() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let right = world.action_due(&asked, &bundle);
    let other = Digest::of(b"other");
    let mut subject = right.subject.clone();
    if let Subject::Sign { digest, .. } = &mut subject {
        *digest = other;
    }
    let request = world.request_of(&world.case("release-signing", "2").1);
    for (due, reason) in [
        (ActionDue { case: name("2"), ..right.clone() }, "other-case"),
        (ActionDue { step: name("approval"), ..right.clone() }, "other-step"),
        (ActionDue { request, ..right.clone() }, "other-request"),
        (ActionDue { decision: other, ..right.clone() }, "other-decision"),
        (ActionDue { subject, ..right.clone() }, "subject-differs"),
    ] {
        let duty = world.action_duty(&bundle, due);
        world.needs_person(duty, reason).await;
    }
    let Duty::Action { bundle, mut due, document } = world.action_duty(&bundle, right) else {
        unreachable!()
    };
    due.index = super::log::number(0);
    world.needs_person(Duty::Action { bundle, document, due }, "not-in-log").await;
}

#[tokio::test]
async fn an_approval_lapses_by_the_clock_of_the_kms() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let decided = world.now();
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.set_clock(decided + 7 * 24 * HOUR);
    world.needs_person(duty.clone(), "lapsed").await;
    world.set_clock(decided + 7 * 24 * HOUR - 1);
    world.done(duty).await;
}

#[tokio::test]
async fn what_this_version_cannot_do_waits_for_a_person() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("calling", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.needs_person(duty, "not-supported").await;
}

#[tokio::test]
async fn a_key_that_is_not_in_use_does_nothing() {
    for (key, state, reason) in [
        (operational_key("release"), KeyState::Compromised, "key-compromised"),
        (operational_key("release"), KeyState::Suspended, "key-suspended"),
        (operational_key("release"), KeyState::Deactivated, "key-not-active"),
        (contract_key("release-approval"), KeyState::Compromised, "key-compromised"),
        (contract_key("release-approval"), KeyState::Suspended, "key-suspended"),
    ] {
        let mut world = World::new();
        let (asked, bundle) = world.approve("release-signing", "1").await;
        let due = world.action_due(&asked, &bundle);
        let duty = world.action_duty(&bundle, due);
        world.books.set_state(&key, state);
        world.needs_person(duty, reason).await;
    }
}

#[tokio::test]
async fn what_was_begun_with_a_key_that_is_deactivated_is_ended_and_nothing_is_begun() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let action = world.action_duty(&bundle, due.clone());
    let output = world.done(action).await;
    let open = world.ask("release-signing", "2").await;
    for key in [operational_key("release"), contract_key("release-approval")] {
        world.books.set_state(&key, KeyState::Deactivated);
    }
    let action = world.action_duty(&bundle, due);
    assert_eq!(world.done(action).await, output);
    let again = world.vote_request_duty(&open.start, &open.call);
    assert_eq!(world.signed(again).await, open.jws);
    let decision = world.approval_duty(&open);
    let decision = world.signed(decision).await;
    let ballots = world.approvals(&open);
    let bundle = world.bundle(&open, ballots, decision);
    let due = world.action_due(&open, &bundle);
    let action = world.action_duty(&bundle, due);
    world.needs_person(action, "key-not-active").await;
    let (start, call) = world.case("release-signing", "3");
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "key-not-active").await;
}

#[tokio::test]
async fn a_key_whose_date_is_still_to_come_is_waited_for() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let action = world.action_duty(&bundle, due);
    for key in [operational_key("release"), contract_key("release-approval")] {
        world.books.set_state(&key, KeyState::PreActivation);
    }
    // What a contract's key that was never active has signed is nobody's word.
    world.needs_person(action.clone(), "key-not-active").await;
    world.books.set_state(&contract_key("release-approval"), KeyState::Active);
    world.retry(action, "key-not-yet-active").await;
    world.books.set_state(&contract_key("release-approval"), KeyState::PreActivation);
    let (start, call) = world.case("release-signing", "2");
    let duty = world.vote_request_duty(&start, &call);
    world.retry(duty, "key-not-yet-active").await;
}

#[tokio::test]
async fn a_key_that_is_used_up_waits_for_its_next_version_if_that_is_on_its_way() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let action = world.action_duty(&bundle, due);
    let key = operational_key("release");
    world.books.set_state(&key, KeyState::Deactivated);
    world.needs_person(action.clone(), "key-not-active").await;
    let (activates, to) = (UnixMillis::new(world.now() + 5_000), world.stranger.public.clone());
    let mut successions = Successions::default();
    successions.add(
        key,
        KeyTransition {
            deployment: world.genesis.id(),
            contract: None,
            key: Some(name("release")),
            version: KeyVersion::first().next(),
            from: to.thumbprint(),
            to,
            reason: TransitionReason::Rotation,
            activates,
            old_retires: activates,
            decision: bundle.decision.digest(),
        },
    );
    world.books.pages().successions = successions.into();
    world.retry(action, "key-not-yet-active").await;
}

#[tokio::test]
async fn an_approval_in_which_a_suspended_key_took_part_waits_for_a_person() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    for key in [world.voters[1].public.thumbprint(), world.requester.public.thumbprint()] {
        world.books.pages().suspended = [key].into();
        world.needs_person(duty.clone(), "suspended").await;
    }
}

#[tokio::test]
async fn what_was_signed_must_be_what_this_kms_has_on_record() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    for (purpose, reason) in
        [(Purpose::VoteRequest, "other-vote-request"), (Purpose::Decision, "other-decision")]
    {
        let id = DutyId::of(purpose, asked.request);
        let right = world.books.pages().orders[&id].clone();
        let mut wrong = right.clone();
        wrong.order.to_sign = ToSign::Message(b"something else".to_vec());
        world.books.pages().orders.insert(id, wrong);
        world.needs_person(duty.clone(), reason).await;
        world.books.pages().orders.insert(id, right);
    }
    world.done(duty).await;
}

#[tokio::test]
async fn a_second_signature_for_a_request_is_never_made() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.done(duty.clone()).await;
    let id = DutyId::of(Purpose::Action, asked.request);
    world.books.pages().orders.get_mut(&id).unwrap().order.to_sign = ToSign::Digest(Digest::of(b"2"));
    world.needs_person(duty, "other-action").await;
}

#[tokio::test]
async fn an_event_of_the_process_log_that_is_no_action_asks_for_none() {
    let mut world = World::new();
    let (_, bundle) = world.approve("release-signing", "1").await;
    let place = world.processes.append(EventBytes(b"{\"type\":\"nothing\"}".to_vec()));
    let due = world.processes.proof(place);
    let duty = Duty::Action { bundle: Box::new(bundle), document: None, due };
    world.needs_person(duty, "malformed-event").await;
}
