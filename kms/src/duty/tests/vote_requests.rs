//! Vote requests: what is asked, by whom, and of whom.

use assent_consensus::digest::Digest;
use assent_consensus::duty::{Duty, DutyAnswer};
use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::json::Value;
use assent_consensus::jws::Signed;
use assent_consensus::message::{KeyVersion, VoteRequest};
use assent_consensus::subject::Subject;
use assent_consensus::time::UnixMillis;

use super::log::number;
use super::world::{BEGIN, HOUR, World, contract_key, name};
use crate::pins::KeyState;
use crate::signing::{KeyName, Purpose, ToSign};

#[tokio::test]
async fn a_vote_request_says_what_was_called_and_when_it_was_signed() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let request = world.request_of(&call);
    let duty = world.vote_request_duty(&start, &call);
    let jws = world.signed(duty).await;
    let signed = Signed::<VoteRequest>::from_jws(jws).unwrap().verify(&world.contract.public).unwrap();
    let policy = &world.genesis.contract(&call.contract).unwrap().policy;
    let expected = VoteRequest {
        deployment: world.genesis.id(),
        chain: name("consensus"),
        contract: call.contract,
        request,
        policy: policy.digest(),
        process: call.process,
        definition: call.definition,
        case: call.case,
        step: call.step,
        attempt: call.attempt,
        requester: world.requester.public.thumbprint(),
        start: start.digest(),
        subject: call.subject,
        opened: UnixMillis::new(BEGIN),
        deadline: UnixMillis::new(BEGIN + 48 * HOUR),
        key_version: KeyVersion::first(),
    };
    assert_eq!(*signed, expected);
}

#[tokio::test]
async fn a_vote_request_that_is_asked_for_again_is_the_same() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    let first = world.signed(duty.clone()).await;
    world.set_clock(BEGIN + 100 * HOUR);
    assert_eq!(world.signed(duty.clone()).await, first);
    world.restart();
    assert_eq!(world.signed(duty).await, first);
}

#[tokio::test]
async fn a_case_that_is_started_twice_is_asked_about_once() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.signed(duty).await;
    let mut again = world.start_of("release-signing", "1");
    again.nonce.0[0] ^= 1;
    let start = world.requester.sign(again);
    let call = world.call_of(&start);
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "other-vote-request").await;
}

#[tokio::test]
async fn a_start_counts_only_by_one_who_may() {
    let mut world = World::new();
    let start = world.stranger.sign(world.start_of("release-signing", "1"));
    let call = world.call_of(&start);
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "not-a-requester").await;
    // His own start, with the thumbprint of one who may in the call.
    let (_, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "not-a-requester").await;

    let mut start = world.start_of("release-signing", "1");
    start.definition = Digest::of(b"another process document");
    let start = world.requester.sign(start);
    let call = world.call_of(&start);
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "other-definition").await;
}

#[tokio::test]
async fn a_requester_whose_key_is_suspended_is_not_heard() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.books.pages().suspended.insert(world.requester.public.thumbprint());
    world.needs_person(duty, "suspended").await;
}

#[tokio::test]
async fn a_call_must_be_what_the_start_leads_to() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let other = Digest::of(b"other");

    let mut wrong = call.clone();
    wrong.start = other;
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "other-start").await;

    let mut wrong = call.clone();
    wrong.definition = other;
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "other-definition").await;

    let mut wrong = call.clone();
    wrong.case = name("2");
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "other-case").await;

    let mut wrong = call.clone();
    wrong.requester = world.stranger.public.thumbprint();
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "other-requester").await;

    let mut wrong = call.clone();
    wrong.attempt = number(2);
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "not-asked").await;

    let mut wrong = call.clone();
    wrong.contract = name("hooks");
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "not-asked").await;

    let mut wrong = call.clone();
    if let Subject::Sign { digest, .. } = &mut wrong.subject {
        *digest = other;
    }
    let duty = world.vote_request_duty(&start, &wrong);
    world.needs_person(duty, "subject-differs").await;
}

#[tokio::test]
async fn a_contract_decides_only_on_what_it_governs() {
    let mut world = World::new();
    let mut start = world.start_of("any-signing", "1");
    start.input = Default::default();
    start.input.push("artifact", Value::String(Digest::of(b"1").to_string()));
    start.input.push("name", Value::String("nightly".into()));
    start.input.push("size", Value::Number(7));
    let start = world.requester.sign(start);
    let call = world.call_of(&start);
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "may-not-decide").await;
    let (start, call) = world.case("any-signing", "2");
    let duty = world.vote_request_duty(&start, &call);
    world.signed(duty).await;
}

#[tokio::test]
async fn the_consensus_log_must_ask_for_the_request_that_was_called() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let (_, other) = world.case("release-signing", "2");
    let called = world.processes.append(ProcessEvent::Call(call).to_bytes());
    let request = world.request_of(&other);
    let due = world.consensus.append(ConsensusEvent::VoteRequestDue { request }.to_bytes());
    let duty =
        Duty::VoteRequest { start, call: world.processes.proof(called), due: world.consensus.proof(due) };
    world.needs_person(duty, "other-request").await;
}

#[tokio::test]
async fn events_count_only_on_their_own_log_and_for_what_they_are() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let request = world.request_of(&call);
    let call = ProcessEvent::Call(call).to_bytes();
    let due = ConsensusEvent::VoteRequestDue { request }.to_bytes();

    // The call is in the consensus log only.
    world.processes.append(due.clone());
    let (called, asked) = (world.consensus.append(call.clone()), world.consensus.append(due.clone()));
    let (called, asked) = (world.consensus.proof(called), world.consensus.proof(asked));
    let duty = Duty::VoteRequest { start: start.clone(), call: called, due: asked };
    world.needs_person(duty, "other-chain").await;

    // The duty is in the process log only.
    let (called, asked) = (world.processes.append(call), world.processes.append(due));
    let (called, asked) = (world.processes.proof(called), world.processes.proof(asked));
    let duty = Duty::VoteRequest { start: start.clone(), call: called.clone(), due: asked };
    world.needs_person(duty, "other-chain").await;

    let void = world.consensus.append(ConsensusEvent::RequestVoid { request }.to_bytes());
    let void = world.consensus.proof(void);
    let duty = Duty::VoteRequest { start: start.clone(), call: called, due: void.clone() };
    world.needs_person(duty, "other-event").await;
    let ended =
        ProcessEvent::CaseEnded { case: name("1"), outcome: assent_consensus::event::CaseOutcome::Done };
    let ended = world.processes.append(ended.to_bytes());
    let due = world.consensus.append(ConsensusEvent::VoteRequestDue { request }.to_bytes());
    let duty =
        Duty::VoteRequest { start, call: world.processes.proof(ended), due: world.consensus.proof(due) };
    world.needs_person(duty, "other-event").await;
}

#[tokio::test]
async fn a_contract_key_that_is_not_active_asks_nobody() {
    for (state, reason) in [
        (KeyState::Compromised, "key-compromised"),
        (KeyState::Suspended, "key-suspended"),
        (KeyState::Deactivated, "key-not-active"),
    ] {
        let mut world = World::new();
        let (start, call) = world.case("release-signing", "1");
        let duty = world.vote_request_duty(&start, &call);
        world.books.set_state(&contract_key("release-approval"), state);
        world.needs_person(duty, reason).await;
    }
}

#[tokio::test]
async fn a_contract_key_that_genesis_does_not_name_asks_nobody() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    let stranger = world.stranger.public.clone();
    world.books.pages().keys.get_mut(&contract_key("release-approval")).unwrap().1.public_key =
        stranger.into();
    world.needs_person(duty.clone(), "other-key").await;
    world.books.pages().keys.remove(&contract_key("release-approval"));
    world.needs_person(duty, "unknown-key").await;
}

#[tokio::test]
async fn contract_keys_sign_messages_and_operational_keys_sign_artifacts() {
    let mut world = World::new();
    for process in ["release-signing", "nightly-signing"] {
        let asked = world.ask(process, "1").await;
        let request = asked.request;
        let order = world.books.order(Purpose::VoteRequest, request).unwrap();
        assert_eq!(order.key, KeyName::Contract(asked.call.contract.clone()));
    }
    let (asked, bundle) = world.approve("release-signing", "2").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    let answer = world.perform(duty).await;
    assert!(matches!(answer, DutyAnswer::Performed { .. }));
    let header = |kid: String, typ: &str| {
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{typ}"}}"#);
        assent_consensus::encoding::encode(header.as_bytes())
    };
    let pages = world.books.pages();
    for recorded in pages.orders.values() {
        let order = &recorded.order;
        let kid = pages.keys[&order.key].1.public_key.thumbprint().to_string();
        match (&order.key, &order.to_sign) {
            (KeyName::Contract(_), ToSign::Message(message)) => {
                let message = std::str::from_utf8(message).unwrap();
                let known = ["assent-vote-request+jws", "assent-decision+jws"];
                assert!(known.iter().any(|typ| message.starts_with(&header(kid.clone(), typ))));
            }
            (KeyName::Operational(_), ToSign::Digest(digest)) => assert_eq!(*digest, Digest::of(b"2")),
            other => panic!("{other:?}"),
        }
    }
}
