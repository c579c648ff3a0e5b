//! Cases, from start to end.

use super::ledger::Key;
use super::world::{DAY, HOUR, World, code, name};
use crate::contract::query::{self, DutyKind, Filter};
use crate::contract::record::CaseStage;
use crate::digest::Digest;
use crate::event::CaseOutcome;
use crate::json::{self, Value};
use crate::transaction::Carrier;
use crate::vote::{Choice, Outcome};

fn outcome(world: &World, case: &str) -> Option<CaseOutcome> {
    match world.case(case).status.stage {
        CaseStage::Ended { outcome, .. } => Some(outcome),
        _ => None,
    }
}

#[test]
fn an_approved_case_ends_with_its_recorded_signature() {
    let mut world = World::new();
    let request = world.start("release-signing", "a");
    assert_eq!(query::asking(&world.processes.state, None, 9)[0].request, request);
    world.open_request(request);
    world.approve(request);
    let duties = query::pending_duties(&world.processes.state, None, 9);
    assert_eq!(
        (duties[0].kind, duties[0].request, duties.len(), duties[0].height),
        (DutyKind::Action, request, 1, world.processes.height())
    );
    assert!(query::asking(&world.processes.state, None, 9).is_empty());
    assert_eq!(query::cases(&world.processes.state, Filter::Live, 0, 9).len(), 1);
    let output = world.output_of("a");
    world.result(request, output.clone()).unwrap();

    assert_eq!(
        world.processes.types(),
        ["case-started", "call", "action-due", "result-recorded", "case-ended"]
    );
    assert_eq!(
        world.consensus.types(),
        [
            "request-called",
            "vote-request-due",
            "request-open",
            "ballot-counted",
            "ballot-counted",
            "decision-due",
            "decision-recorded"
        ]
    );
    let record = world.case("a");
    assert_eq!(record.requests[0].result.as_ref().unwrap().output, output);
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Done));
    assert!(query::pending_duties(&world.processes.state, None, 9).is_empty());
    assert!(query::pending_duties(&world.consensus.state, None, 9).is_empty());
    assert!(query::cases(&world.processes.state, Filter::Live, 0, 9).is_empty());
    assert_eq!(query::cases(&world.processes.state, Filter::All, 0, 9), [record]);
    assert_eq!(
        (
            world.processes.contracts.due(&world.processes.state),
            world.consensus.contracts.due(&world.consensus.state)
        ),
        (None, None)
    );
    let again = world.output_of("a");
    assert_eq!(code(world.result(request, again)), "not-due");
    assert_eq!(code(world.answer(request)), "already-answered");
}

#[test]
fn a_rejected_case_ends_without_an_action() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    for voter in 0..2 {
        world.vote(request, voter, Choice::Reject).unwrap();
    }
    world.decide(request);
    world.answer(request).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Rejected));
    let output = world.output_of("a");
    assert_eq!(code(world.result(request, output)), "not-due");
}

#[test]
fn a_start_that_does_not_fit_is_refused() {
    let mut world = World::new();
    let good = world.start_of("release-signing", "a");
    let stranger = world.stranger.sign(good.clone());
    assert_eq!(code(world.on_process(stranger.as_str())), "not-a-requester");
    let mut wrong = Vec::new();
    let mut start = good.clone();
    start.deployment.0 = Digest::ZERO;
    wrong.push((start, "other-deployment"));
    let mut start = good.clone();
    start.chain = name("consensus");
    wrong.push((start, "other-chain"));
    let mut start = good.clone();
    start.process = name("nothing");
    wrong.push((start, "unknown-process"));
    let mut start = good.clone();
    start.definition = Digest::ZERO;
    wrong.push((start, "wrong-definition"));
    let mut start = good.clone();
    start.input.push("more", Value::Null);
    wrong.push((start, "wrong-input"));
    for (start, expected) in wrong {
        let jws = world.requester.sign(start);
        assert_eq!(code(world.on_process(jws.as_str())), expected);
    }
    let good = world.requester.sign(good);
    let mut broken = good.as_str().to_owned();
    let at = broken.len() - 10;
    let other = if &broken[at..=at] == "A" { "B" } else { "A" };
    broken.replace_range(at..=at, other);
    assert_eq!(code(world.on_process(broken)), "bad-signature");
    world.on_process(good.as_str()).unwrap();
    assert_eq!(code(world.on_process(good.as_str())), "case-exists");
}

#[test]
fn a_document_must_be_here_before_the_start_that_leads_to_it() {
    let mut world = World::new();
    world.proposed = world.lighter();
    let mut says = world.start_of("change-approval", "a");
    let to = says.input.member("to").unwrap().clone();
    says.input = json::Members::default();
    says.input.push("from", to.clone());
    says.input.push("to", to);
    let start = world.requester.sign(says);
    assert_eq!(code(world.on_process(start.as_str())), "unknown-attachment");
    let document = world.proposed.clone();
    world.on_process(document.clone()).unwrap();
    assert_eq!(code(world.on_process(document.clone())), "already-attached");
    assert_eq!(query::attachment(&world.processes.state, &Digest::of(&document)), Some(2));
    world.on_process(start.as_str()).unwrap();
    // The policy that it starts from is not in force: the contract refuses, and the case ends.
    let request = world.asked("a");
    world.call(request).unwrap();
    assert_eq!(world.consensus.types(), ["request-called", "request-refused"]);
    world.answer(request).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Refused));
}

#[test]
fn an_action_that_comes_too_late_is_lapsed() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.approve(request);
    let due = world.processes.contracts.due(&world.processes.state).unwrap();
    let CaseStage::Acting { act_by, .. } = world.case("a").status.stage else { panic!("the case waits") };
    assert_eq!(due, act_by);
    world.now = due.get() - 1;
    let output = world.output_of("a");
    assert_eq!(code(world.result(request, output)), "not-due");
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Lapsed));
    assert!(query::pending_duties(&world.processes.state, None, 9).is_empty());
    assert_eq!(world.processes.contracts.due(&world.processes.state), None);
}

#[test]
fn a_decision_that_arrives_after_its_time_to_act_is_lapsed() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.vote(request, 0, Choice::Approve).unwrap();
    world.vote(request, 1, Choice::Approve).unwrap();
    world.decide(request);
    world.later(8 * DAY).answer(request).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Lapsed));
}

#[test]
fn a_result_must_be_what_was_approved() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.approve(request);
    let good = world.output_of("a");
    let mut output = good.clone();
    output.key = name("other");
    assert_eq!(code(world.result(request, output)), "wrong-key");
    let mut output = good.clone();
    output.public_key = Key::new(77).public.into();
    assert_eq!(code(world.result(request, output)), "wrong-key");
    let mut output = good.clone();
    output.format = crate::subject::SignatureFormat::Raw;
    assert_eq!(code(world.result(request, output)), "wrong-key");
    let mut output = good.clone();
    output.version.0 = json::Integer::saturating(2);
    assert_eq!(code(world.result(request, output)), "unknown-key");
    let other = world.output_of("b");
    assert_eq!(code(world.result(request, other)), "bad-signature");
    let unknown = Carrier::Result { decision: Digest::ZERO, output: good.clone(), audit: Digest::ZERO };
    assert_eq!(code(world.on_process(json::write(&unknown))), "unknown-decision");
    world.result(request, good).unwrap();
}

#[test]
fn a_result_is_verified_in_every_format() {
    use crate::subject::SignatureFormat::{Der, Dsse, Jws, Raw};
    for format in [Der, Raw, Dsse, Jws] {
        let mut world = World::signing(format);
        let request = world.open("release-signing", "a");
        world.approve(request);
        let good = world.output_of("a");
        let other = world.output_of("b");
        assert_eq!(code(world.result(request, other)), "bad-signature", "{format}");
        let mut broken = good.clone();
        *broken.signature.0.last_mut().unwrap() ^= 1;
        assert_eq!(code(world.result(request, broken)), "bad-signature", "{format}");
        world.result(request, good).unwrap();
        assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Done), "{format}");
    }
}

#[test]
fn a_step_asks_again_after_it_expired_and_then_goes_on() {
    let mut world = World::new();
    for (attempt, step) in [(1, "question"), (2, "question"), (1, "appeal")] {
        let request = world.asked_or_start("minutes", "a");
        let asked = query::case_request(&world.processes.state, request).unwrap().asked;
        assert_eq!((asked.attempt.get(), asked.step.as_str()), (attempt, step));
        world.open_request(request);
        world.later(2 * DAY).tick();
        world.decide(request);
        world.answer(request).unwrap();
    }
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Expired));
    assert_eq!(world.case("a").requests.len(), 3);
}

#[test]
fn a_process_without_an_act_is_done_when_its_last_step_is_approved() {
    let mut world = World::new();
    for case in ["question", "appeal"] {
        let request = world.asked_or_start("minutes", "a");
        world.open_request(request);
        world.vote(request, 3, Choice::Approve).unwrap();
        world.later(2 * HOUR).tick();
        world.decide(request);
        world.answer(request).unwrap();
        assert_eq!(world.case("a").requests.last().unwrap().asked.step.as_str(), "appeal", "{case}");
    }
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Done));
}

#[test]
fn a_cancellation_waits_for_the_relay_and_ends_the_case() {
    let mut world = World::new();
    let request = world.open("minutes", "a");
    let cancel = world.cancel_of("a");
    world.on_process(cancel.as_str()).unwrap();
    assert_eq!(code(world.on_process(cancel.as_str())), "already-cancelled");
    let pending = query::cancels(&world.processes.state, None, 9);
    assert_eq!((pending[0].request, &pending[0].cancel), (request, &cancel));
    world.on_consensus(pending[0].cancel.as_str()).unwrap();
    world.decide(request);
    assert_eq!(query::cancel(&world.consensus.state, request).unwrap().jws, cancel);
    world.answer(request).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Cancelled));
    assert!(query::cancels(&world.processes.state, None, 9).is_empty());
    assert_eq!(code(world.on_process(cancel.as_str())), "too-late");
}

#[test]
fn a_cancellation_before_the_vote_request_ends_unsigned() {
    let mut world = World::new();
    let request = world.start("minutes", "a");
    let cancel = world.cancel_of("a");
    assert_eq!(code(world.on_consensus(cancel.as_str())), "unknown-request");
    world.on_process(cancel.as_str()).unwrap();
    world.call(request).unwrap();
    world.on_consensus(cancel.as_str()).unwrap();
    assert_eq!(world.consensus.types(), ["request-called", "vote-request-due", "request-void"]);
    assert!(query::pending_duties(&world.consensus.state, None, 9).is_empty());
    let message = world.vote_request_of(request);
    assert_eq!(code(world.send_vote_request(message)), "not-called");
    world.answer(request).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Cancelled));
}

#[test]
fn an_approval_that_came_before_the_cancellation_stands() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let cancel = world.cancel_of("a");
    world.on_process(cancel.as_str()).unwrap();
    world.vote(request, 0, Choice::Approve).unwrap();
    world.vote(request, 1, Choice::Approve).unwrap();
    assert_eq!(code(world.on_consensus(cancel.as_str())), "too-late");
    world.decide(request);
    world.answer(request).unwrap();
    assert!(matches!(world.case("a").status.stage, CaseStage::Acting { .. }));
    assert!(query::cancels(&world.processes.state, None, 9).is_empty());
}

#[test]
fn a_strangers_cancellation_is_of_no_case() {
    let mut world = World::new();
    world.open("release-signing", "a");
    let cancel = world.stranger.sign(crate::message::Cancel {
        deployment: world.genesis.id(),
        chain: name("process"),
        case: name("a"),
        nonce: crate::encoding::Bytes(vec![3; 16]),
    });
    assert_eq!(code(world.on_process(cancel.as_str())), "unknown-case");
    assert_eq!(code(world.on_consensus(cancel.as_str())), "unknown-request");
}

#[test]
fn an_answer_must_be_proven_and_be_the_contracts_own() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let other = world.open("hotfix-signing", "b");
    for (request, choice) in [(request, Choice::Approve), (other, Choice::Reject)] {
        world.vote(request, 0, choice).unwrap();
        world.vote(request, 1, choice).unwrap();
        world.decide(request);
    }
    let Carrier::Answer { decision, inclusion } = world.answer_of(request) else { panic!("an answer") };
    let Carrier::Answer { decision: others, .. } = world.answer_of(other) else { panic!("an answer") };
    let forged = {
        let mut message = world.decision_from(decision.as_ref().unwrap());
        message.outcome = Outcome::Rejected;
        world.stranger.sign(message)
    };
    let mut proof = inclusion.clone();
    proof.path.push(Digest::ZERO);
    let mut elsewhere = inclusion.clone();
    elsewhere.chain = name("process");
    let open = world.consensus.inclusion(2, 0);
    for (decision, inclusion, expected) in [
        (decision.clone(), proof, "bad-proof"),
        (decision.clone(), elsewhere, "other-chain"),
        (decision.clone(), open, "not-an-answer"),
        (None, inclusion.clone(), "no-decision"),
        (others, inclusion.clone(), "other-request"),
        (Some(forged), inclusion.clone(), "wrong-key"),
    ] {
        let carrier = Carrier::Answer { decision, inclusion };
        assert_eq!(code(world.on_process(json::write(&carrier))), expected);
    }
    world.answer(request).unwrap();
}

#[test]
fn two_processes_that_ask_the_same_contract_do_not_mix() {
    let mut world = World::new();
    let first = world.open("release-signing", "a");
    let second = world.open("hotfix-signing", "b");
    assert_ne!(first, second);
    let ballot = world.ballot_of(first, 0, Choice::Approve);
    let crossed = crate::message::Ballot { request: second, ..ballot };
    let crossed = world.voters[0].sign(crossed);
    assert_eq!(code(world.on_consensus(crossed.as_str())), "other-request");
    world.vote(first, 0, Choice::Approve).unwrap();
    world.vote(second, 0, Choice::Reject).unwrap();
    world.vote(second, 1, Choice::Reject).unwrap();
    world.vote(first, 1, Choice::Approve).unwrap();
    world.decide(second);
    world.decide(first);
    world.answer(second).unwrap();
    world.answer(first).unwrap();
    assert_eq!(outcome(&world, "b"), Some(CaseOutcome::Rejected));
    assert!(matches!(world.case("a").status.stage, CaseStage::Acting { .. }));
    let stolen = world.output_of("b");
    assert_eq!(code(world.result(first, stolen)), "bad-signature");
    let output = world.output_of("a");
    world.result(first, output).unwrap();
    assert_eq!(outcome(&world, "a"), Some(CaseOutcome::Done));
}

#[test]
fn what_belongs_to_the_other_ledger_is_not_taken() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    let ballot = world.voters[0].sign(world.ballot_of(request, 0, Choice::Approve));
    assert_eq!(code(world.on_process(ballot.as_str())), "not-taken-here");
    let start = world.requester.sign(world.start_of("release-signing", "b"));
    assert_eq!(code(world.on_consensus(start.as_str())), "not-taken-here");
    assert_eq!(code(world.on_consensus("attachment")), "not-taken-here");
}
