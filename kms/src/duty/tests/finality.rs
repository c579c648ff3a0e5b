//! What is final, and what is in it.

use assent_consensus::digest::Digest;
use assent_consensus::duty::{Duty, DutyBatch};
use assent_consensus::event::{ConsensusEvent, EventBytes};
use assent_consensus::header::Finality;
use assent_consensus::message::DeploymentId;

use super::super::refusal::BatchRefusal;
use super::log::Log;
use super::world::{World, name};

/// A duty that is right, and the headers that prove it.
fn duty(world: &mut World, case: &str) -> Duty {
    let (start, call) = world.case("release-signing", case);
    world.vote_request_duty(&start, &call)
}

async fn refused(world: &World, finality: Vec<Finality>, duty: Duty) -> BatchRefusal {
    let before = world.books.pages().trusted.clone();
    let refusal = world.engine.perform(DutyBatch { finality, duties: vec![duty] }).await.unwrap_err();
    assert!(world.books.pages().orders.is_empty(), "nothing is signed");
    assert_eq!(world.books.pages().trusted, before, "nothing new is trusted");
    refusal
}

#[tokio::test]
async fn a_header_that_no_validator_of_genesis_signed_is_refused() {
    let mut world = World::new();
    let duty = duty(&mut world, "1");
    let mut finality = world.finality();
    finality.reverse();
    finality[0].certificate = world.consensus.certificate(world.consensus.newest(), &world.stranger);
    assert_eq!(refused(&world, finality.clone(), duty.clone()).await.code(), "unknown-validator");
    finality[0].certificate =
        world.consensus.certificate(world.consensus.newest(), &world.processes.validator);
    assert_eq!(refused(&world, finality.clone(), duty.clone()).await.code(), "unknown-validator");
    finality[0].certificate.signatures.clear();
    assert_eq!(refused(&world, finality, duty).await.code(), "not-final");
    // Each attempt is in the audit log, once.
    let written: Vec<String> =
        world.books.pages().refusals.iter().map(|(_, _, reason)| reason.clone()).collect();
    assert_eq!(written, ["unknown-validator", "not-final"]);
}

#[tokio::test]
async fn a_header_that_was_verified_is_verified_again_with_another_certificate() {
    let mut world = World::new();
    let duty = duty(&mut world, "1");
    world.signed(duty.clone()).await;
    let mut finality = world.finality();
    finality[0].certificate.signatures[0].signature[7] ^= 1;
    let refusal = world.engine.perform(DutyBatch { finality, duties: vec![duty] }).await.unwrap_err();
    assert_eq!(refusal.code(), "bad-certificate");
}

#[tokio::test]
async fn a_header_of_another_deployment_or_log_is_refused() {
    let mut world = World::new();
    let duty = duty(&mut world, "1");
    let other = DeploymentId(Digest::of(b"another genesis"));
    let mut log = Log::new(other, &world.consensus.chain, world.consensus.validator.clone());
    log.append(EventBytes(b"{}".to_vec()));
    let finality = vec![log.finality(None)];
    assert_eq!(refused(&world, finality, duty.clone()).await.code(), "other-deployment");

    let mut log = Log::new(world.genesis.id(), &name("other"), world.consensus.validator.clone());
    log.append(EventBytes(b"{}".to_vec()));
    let mut finality = vec![log.finality(None)];
    assert_eq!(refused(&world, finality.clone(), duty.clone()).await.code(), "unknown-chain");
    finality[0].chain = name("consensus");
    assert_eq!(refused(&world, finality, duty.clone()).await.code(), "other-chain");

    let mut finality = world.finality();
    finality.push(finality[0].clone());
    assert_eq!(refused(&world, finality, duty).await.code(), "two-headers");
}

#[tokio::test]
async fn a_header_behind_the_trusted_one_is_refused_until_it_is_asked_for_again() {
    let mut world = World::new();
    let early = duty(&mut world, "1");
    let behind = world.finality();
    let late = duty(&mut world, "2");
    world.signed(late.clone()).await;
    let batch = DutyBatch { finality: behind, duties: vec![early] };
    assert_eq!(world.engine.perform(batch.clone()).await.unwrap_err().code(), "stale-header");
    world.restart();
    assert_eq!(world.engine.perform(batch).await.unwrap_err().code(), "stale-header");
    world.signed(late).await;
}

#[tokio::test]
async fn a_header_that_was_trusted_a_moment_ago_serves_batches_that_were_under_way() {
    let mut world = World::new();
    let early = duty(&mut world, "1");
    let before = world.finality();
    world.signed(early.clone()).await;
    let late = duty(&mut world, "2");
    world.signed(late).await;
    let batch = DutyBatch { finality: before, duties: vec![early] };
    assert!(world.engine.perform(batch).await.is_ok());
}

#[tokio::test]
async fn a_log_that_forked_is_refused() {
    for further in [1, 2] {
        let mut world = World::new();
        let mut other = World::new();
        other.processes.append(EventBytes(b"{\"another\":\"past\"}".to_vec()));
        let first = duty(&mut world, "1");
        world.signed(first).await;
        // A second line of the process log, as high as the first or higher, by the same validator.
        let forked = duty(&mut other, "2");
        for _ in 1..further {
            other.processes.append(EventBytes(b"{}".to_vec()));
        }
        let trusted = world.processes.height();
        let finality = vec![other.processes.finality(Some(trusted)), world.finality().remove(1)];
        let batch = DutyBatch { finality, duties: vec![forked] };
        let refusal = world.engine.perform(batch).await.unwrap_err();
        assert_eq!(refusal.code(), "other-line", "{refusal}");
    }
}

#[tokio::test]
async fn what_a_duty_was_proven_against_is_trusted_from_then_on() {
    let mut world = World::new();
    for case in ["1", "2"] {
        let duty = duty(&mut world, case);
        world.signed(duty).await;
        let trusted = world.books.pages().trusted.clone();
        assert_eq!(trusted[&name("process")], world.processes.trusted());
        assert_eq!(trusted[&name("consensus")], world.consensus.trusted());
    }
}

#[tokio::test]
async fn nothing_is_signed_if_the_trusted_header_cannot_be_written() {
    let mut world = World::new();
    let duty = duty(&mut world, "1");
    world.books.pages().disk_is_full = true;
    assert_eq!(refused(&world, world.finality(), duty).await.code(), "audit-failed");
}

#[tokio::test]
async fn an_event_that_no_block_holds_is_refused() {
    let mut world = World::new();
    let Duty::VoteRequest { start, call, due } = duty(&mut world, "1") else { unreachable!() };
    let (_, other) = world.case("release-signing", "2");
    let request = world.request_of(&other);
    let mut invented = due.clone();
    invented.event.0 = ConsensusEvent::VoteRequestDue { request }.to_bytes().0;
    let duty = Duty::VoteRequest { start: start.clone(), call: call.clone(), due: invented };
    world.needs_person(duty, "not-in-log").await;
    // A block of the validator's own, with the event, that is not on the line.
    let mut fork = Log::new(world.genesis.id(), &name("consensus"), world.consensus.validator.clone());
    let place = fork.append(ConsensusEvent::VoteRequestDue { request: world.request_of(&other) }.to_bytes());
    let mut beside = fork.proof(place);
    beside.ancestry = due.ancestry;
    world.needs_person(Duty::VoteRequest { start, call, due: beside }, "not-before").await;
}

#[tokio::test]
async fn a_duty_needs_a_header_of_each_log_that_it_speaks_of() {
    let mut world = World::new();
    let duty = duty(&mut world, "1");
    for missing in [0, 1] {
        let mut finality = world.finality();
        finality.remove(missing);
        let report = world.engine.perform(DutyBatch { finality, duties: vec![duty.clone()] }).await.unwrap();
        let answer = serde_json::to_string(&report).unwrap();
        assert!(answer.contains("no-finality"), "{answer}");
    }
    assert!(world.books.pages().orders.is_empty());
}
