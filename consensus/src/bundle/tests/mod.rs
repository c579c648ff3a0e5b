//! Bundles of cases that were played on ledgers in memory: what they prove, and that nothing else proves it.

mod changes;
mod policies;
mod refusals;
mod remembered;
mod rotated;

use std::collections::BTreeSet;

use super::*;
use crate::contract::query;
use crate::contract::tests::world::{DAY, World, name};
use crate::event::{EventBytes, ProcessEvent};
use crate::message::RequestId;
use crate::policy::NodeState;
use crate::time::Millis;
use crate::transaction::Carrier;
use crate::vote::{Choice, Outcome};

/// The bundle of the last request of a case, which was decided.
fn bundle_of(world: &World, case: &str) -> Bundle {
    let request = world.asked(case);
    let record = world.request(request);
    let policy = world.document(record.call.contract.as_str(), &record.opened.unwrap().policy);
    let process = world.genesis.process(&record.call.process).unwrap();
    let Carrier::Answer { inclusion, decision } = world.answer_of(request) else { panic!("an answer") };
    Bundle {
        version: Integer::saturating(1),
        genesis: world.genesis.id(),
        policy: Bytes(policy.document().to_vec()),
        definition: Bytes(process.definition.document().to_vec()),
        start: world.case(case).start,
        vote_request: record.vote_request.unwrap(),
        ballots: query::ballots(&world.consensus.state, request),
        cancel: query::cancel(&world.consensus.state, request),
        decision: decision.unwrap(),
        contract_transitions: Vec::new(),
        key_transitions: Vec::new(),
        history: Vec::new(),
        inclusion,
        result: result_of(world, request),
    }
}

fn result_of(world: &World, request: RequestId) -> Option<ActionResult> {
    let recorded = query::case_request(&world.processes.state, request).unwrap().result?;
    let is_it = |event: &EventBytes| match ProcessEvent::parse(&event.0).unwrap() {
        ProcessEvent::ResultRecorded { request: found, .. } => found == request,
        _ => false,
    };
    let index = world.processes.events(recorded.height).iter().position(is_it).unwrap();
    Some(ActionResult::new(recorded.output, world.processes.inclusion(recorded.height, index)))
}

/// A case that was approved and signed in this format.
fn signed_in(format: SignatureFormat) -> (World, Bundle) {
    let mut world = World::signing(format);
    let request = world.open("release-signing", "a");
    world.vote(request, 2, Choice::Abstain).unwrap();
    world.approve(request);
    let output = world.output_of("a");
    world.result(request, output).unwrap();
    let bundle = bundle_of(&world, "a");
    (world, bundle)
}

/// A case that its requester took back after one ballot.
fn cancelled() -> (World, Bundle) {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.vote(request, 0, Choice::Approve).unwrap();
    let cancel = world.cancel_of("a");
    world.on_consensus(cancel.as_str()).unwrap();
    world.decide(request);
    let bundle = bundle_of(&world, "a");
    (world, bundle)
}

/// A case that time approved, or let expire.
fn timed(approved: bool) -> (World, Bundle) {
    let mut world = World::new();
    let request = world.open("minutes", "a");
    if approved {
        world.vote(request, 3, Choice::Approve).unwrap();
    }
    world.later(2 * DAY).tick();
    world.decide(request);
    let bundle = bundle_of(&world, "a");
    (world, bundle)
}

fn judge<'g>(world: &'g World, bundle: &Bundle) -> Result<VerifiedBundle<'g>, BundleError> {
    verify(&world.genesis, bundle, &BTreeSet::new())
}

#[test]
fn what_was_signed_in_any_format_is_proven() {
    use SignatureFormat::{Der, Dsse, Jws, Raw};
    for format in [Der, Raw, Dsse, Jws] {
        let (world, bundle) = signed_in(format);
        let proof = judge(&world, &bundle).unwrap();
        assert_eq!(proof.decision.outcome, Outcome::Approved);
        assert_eq!((proof.recount.by_time, proof.recount.ballots.len()), (false, 3));
        assert_eq!(proof.rule().state, NodeState::True, "{format}");
        let action = proof.action(&world.genesis).unwrap();
        let Act::Sign { key, artifact } = action.act else { panic!("a signature") };
        assert_eq!((&key.name, &action.step.name), (&name("release"), &name("signature")));
        assert_eq!(artifact, world.artifact_of("a"));
        assert_eq!(action.act_by.get(), proof.decision.decided.get() + 7 * DAY);
        let without = Bundle { result: None, ..bundle };
        judge(&world, &without).unwrap();
    }
}

#[test]
fn what_time_or_the_requester_made_is_proven_and_told_apart() {
    for (made, outcome, by_time) in [
        (timed(true), Outcome::Approved, true),
        (timed(false), Outcome::Expired, true),
        (cancelled(), Outcome::Cancelled, false),
    ] {
        let (world, bundle) = made;
        let proof = judge(&world, &bundle).unwrap();
        assert_eq!((proof.recount.outcome, proof.recount.by_time), (outcome, by_time));
        assert_eq!(proof.recount.decided, proof.decision.decided);
        let refused = proof.action(&world.genesis).unwrap_err().reason();
        assert_eq!(refused, if outcome == Outcome::Approved { "nothing-to-sign" } else { "not-approved" });
    }
}

#[test]
fn a_cancellation_counts_although_the_clock_that_opened_the_request_is_ahead() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();
    let mut message = world.vote_request_of(request);
    let ahead = Millis::from_secs(30);
    (message.opened, message.deadline) = (message.opened.after(ahead), message.deadline.after(ahead));
    let opened = message.opened;
    world.send_vote_request(message).unwrap();
    let cancel = world.cancel_of("a");
    world.on_consensus(cancel.as_str()).unwrap();
    world.decide(request);
    let bundle = bundle_of(&world, "a");
    let proof = judge(&world, &bundle).unwrap();
    assert_eq!(proof.decision.outcome, Outcome::Cancelled);
    assert!(proof.decision.decided < opened);
}
