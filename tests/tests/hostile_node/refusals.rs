//! Each thing that a node should not get, asked for.

use assent_consensus::bundle::{ActionOutput, ActionResult, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::duty::{Duty, DutyBatch};
use assent_consensus::encoding::Bytes;
use assent_consensus::event::ConsensusEvent;
use assent_consensus::json;
use assent_consensus::jws::Jws;
use assent_consensus::message::{Decision, KeyVersion, RequestId};
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};
use assent_tests::scripted::case::{action_due, decision_due};
use assent_tests::scripted::{Case, Opened, name};
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;

use super::scene::{BRIEF, RELEASE, Said, Scene, VETO, later};

#[test]
fn an_honest_node_gets_each_signature_and_the_same_one_again() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let case = scene.node.case("release-approval", "honest");
    let duty = scene.node.vote_request_duty(&case);
    let vote_request = scene.message(duty);
    let duty = scene.node.vote_request_duty(&case);
    assert_eq!(scene.message(duty), vote_request);

    let opened = Opened::new(case, vote_request);
    let ballots = scene.node.approvals(&opened, 2);
    let duty = scene.decision(&opened, Outcome::Approved, ballots.clone());
    let decision = scene.message(duty);
    let duty = scene.decision(&opened, Outcome::Approved, ballots.clone());
    assert_eq!(scene.message(duty), decision);

    let decided = scene.node.tell_recorded(opened, ballots, decision);
    let duty = scene.action(&decided);
    let signature = scene.signature(duty);
    let duty = scene.action(&decided);
    assert_eq!(
        scene.signature(duty),
        signature,
        "an action is done once, however often it is said to be due"
    );

    let release = scene.node.genesis.key(&name("release")).expect("it is in genesis");
    let release = VerifyingKey::from_sec1_bytes(release.key.public_key().as_bytes()).expect("a key");
    let signature = p256::ecdsa::Signature::from_der(&signature.0).expect("DER");
    let file = Digest::of(b"honest");
    release.verify_prehash(file.as_bytes(), &signature).expect("it signs the file's digest");
    let audit = scene.audit();
    assert_eq!((audit.intents, audit.results), (3, 3));
    assert!(audit.refusals.is_empty());
    scene.ends();
}

#[test]
fn a_vote_request_is_signed_only_for_what_the_start_asks() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let refuses_call = |scene: &mut Scene, start: Jws, call, reason| {
        let case = scene.node.tell_call(start, call);
        let duty = scene.node.vote_request_duty(&case);
        scene.refuses(case.request, duty, reason);
    };

    // A changed subject.
    let start = scene.node.start_of("release-approval", "changed", "release", Digest::of(b"asked"));
    let jws = scene.node.requester.sign(start.clone());
    let mut call = scene.node.call_of(&start, &jws);
    if let Subject::Sign { digest, .. } = &mut call.subject {
        *digest = Digest::of(b"not asked");
    }
    refuses_call(&mut scene, jws.clone(), call, "subject-differs");

    // Another requester than the one who signed the start.
    let mut call = scene.node.call_of(&start, &jws);
    call.requester = scene.node.other_requester.public.thumbprint();
    refuses_call(&mut scene, jws.clone(), call, "other-requester");

    // A requester who may not start this.
    let jws = scene.node.stranger.sign(start.clone());
    let call = scene.node.call_of(&start, &jws);
    refuses_call(&mut scene, jws, call, "not-a-requester");

    // A contract that the process does not ask.
    let jws = scene.node.requester.sign(start.clone());
    let mut call = scene.node.call_of(&start, &jws);
    call.contract = name("brief-approval");
    refuses_call(&mut scene, jws, call, "not-asked");

    // The key of another contract.
    let start = scene.node.start_of("release-approval", "other-key", "brief", Digest::of(b"asked"));
    let jws = scene.node.requester.sign(start.clone());
    let call = scene.node.call_of(&start, &jws);
    refuses_call(&mut scene, jws, call, "may-not-decide");

    // Another start than the one that was called.
    let case = scene.node.case("release-approval", "honest");
    let other = scene.node.case("release-approval", "other");
    let duty = scene.node.vote_request_duty(&Case { start: other.start.clone(), ..case.clone() });
    scene.refuses(case.request, duty, "other-start");

    // The call of one request for the duty of another.
    let duty = scene.node.vote_request_duty(&Case { due: other.due, ..case.clone() });
    scene.refuses(other.request, duty, "other-request");

    // A duty that no block holds.
    let mut duty = scene.node.vote_request_duty(&case);
    let missing = RequestId(Digest::of(b"no request"));
    if let Duty::VoteRequest { due, .. } = &mut duty {
        due.event = Bytes(ConsensusEvent::VoteRequestDue { request: missing }.to_bytes().0);
    }
    scene.refuses(missing, duty, "not-in-log");
    scene.ends();
}

#[test]
fn a_duty_that_no_block_holds_is_refused() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let opened = scene.open("release-approval", "case");
    let ballots = scene.node.approvals(&opened, 2);
    // The block holds something else at that place.
    let place = scene.node.tell_consensus(&ConsensusEvent::RequestVoid { request: opened.case.request });
    let mut duty = scene.node.decision_duty(&opened, ballots.clone(), place);
    let event = decision_due(opened.case.request, Outcome::Approved, &ballots, opened.says.opened);
    if let Duty::Decision { due, .. } = &mut duty {
        due.event = Bytes(event.to_bytes().0);
    }
    scene.refuses(opened.case.request, duty, "not-in-log");

    // A block that a stranger made final.
    let duty = scene.decision(&opened, Outcome::Approved, ballots.clone());
    let trusted = scene.connection.trusted().expect("it says what it trusts");
    scene.node.know(trusted);
    let mut batch = scene.node.batch(vec![duty]);
    let known = scene.node.trusted.get(&scene.node.consensus.chain);
    batch.finality[1] = scene.node.consensus.finality_by(&scene.node.stranger, known);
    refuses_batch(&mut scene, &batch, opened.case.request, "unknown-validator");

    // A signature that is not the validator's, in his name.
    let right = scene.node.processes.validator.public.thumbprint();
    batch.finality[1].certificate.signatures[0].kid = scene.node.consensus.validator.public.thumbprint();
    assert_ne!(right, batch.finality[1].certificate.signatures[0].kid);
    refuses_batch(&mut scene, &batch, opened.case.request, "bad-certificate");

    // A certificate without a signature.
    batch.finality[1].certificate.signatures.clear();
    refuses_batch(&mut scene, &batch, opened.case.request, "not-final");
    scene.ends();
}

/// A batch whose headers are not final: nothing of it is done.
#[track_caller]
fn refuses_batch(scene: &mut Scene, batch: &DutyBatch, request: RequestId, reason: &str) {
    let before = scene.audit();
    let bytes = serde_json::to_vec(batch).expect("JSON");
    let answer = scene.connection.send(&bytes).expect("an answer");
    assert_ne!(answer.status, 200);
    assert_eq!(answer.code().as_deref(), Some(reason));
    scene.has_refused(&before, request, reason);
}

#[test]
fn a_decision_is_signed_only_for_what_the_ballots_say() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let opened = scene.open("release-approval", "case");
    let other = scene.open("release-approval", "other");
    let request = opened.case.request;
    let approve = |scene: &Scene, voter, at| scene.node.ballot(&opened, voter, Choice::Approve, at);

    let duty = scene.decision(&opened, Outcome::Approved, Vec::new());
    scene.refuses(request, duty, "no-votes");

    let one = vec![approve(&scene, 0, 0)];
    let duty = scene.decision(&opened, Outcome::Approved, one.clone());
    scene.refuses(request, duty, "too-few-votes");

    let Scene { node, .. } = &scene;
    let stranger = node.ballot_by(&opened, &node.stranger, "v1", Choice::Approve, opened.says.opened);
    let duty = scene.decision(&opened, Outcome::Approved, [one.clone(), vec![stranger]].concat());
    scene.refuses(request, duty, "stranger");

    // One voter in the name of another.
    let Scene { node, .. } = &scene;
    let dressed_up = node.ballot_by(&opened, &node.voters[1], "v2", Choice::Approve, opened.says.opened);
    let duty = scene.decision(&opened, Outcome::Approved, [one.clone(), vec![dressed_up]].concat());
    scene.refuses(request, duty, "wrong-voter");

    let elsewhere = scene.node.ballot(&other, 1, Choice::Approve, 0);
    let duty = scene.decision(&opened, Outcome::Approved, [one.clone(), vec![elsewhere]].concat());
    scene.refuses(request, duty, "other-request");

    let twice = vec![approve(&scene, 0, 0), approve(&scene, 0, 1)];
    let duty = scene.decision(&opened, Outcome::Approved, twice);
    scene.refuses(request, duty, "already-voted");

    // The log holds these ballots in this order, at these times.
    let counted = vec![approve(&scene, 0, 0), approve(&scene, 1, 0)];
    let due = scene.node.tell_decision_due(&opened, Outcome::Approved, &counted);
    let swapped = vec![counted[1].clone(), counted[0].clone()];
    let duty = scene.node.decision_duty(&opened, swapped, due);
    scene.refuses(request, duty, "ballots-differ");
    let mut other_times = counted.clone();
    other_times[1].at = later(opened.says.opened, 1);
    let duty = scene.node.decision_duty(&opened, other_times.clone(), due);
    // The refusal of the same duty for the same reason is in the log already.
    let before = scene.audit();
    assert!(matches!(scene.ask(duty), Said::Refused(reason) if reason == "ballots-differ"));
    assert_eq!(scene.audit(), before);
    // Times that run backwards, and ones before the request opened, whatever the log says.
    other_times.reverse();
    let duty = scene.decision(&opened, Outcome::Approved, other_times);
    scene.refuses(request, duty, "out-of-order");
    let mut early = counted.clone();
    early[0].at = UnixMillis::new(opened.says.opened.get() - 1);
    let duty = scene.decision(&opened, Outcome::Approved, early);
    scene.refuses(request, duty, "too-early");
    let due =
        scene.node.tell_decision_due_at(&opened, Outcome::Approved, &counted, later(opened.says.opened, 1));
    let duty = scene.node.decision_duty(&opened, counted.clone(), due);
    scene.refuses(request, duty, "decided-differs");

    // The ballots reject.
    let duty = scene.decision(&opened, Outcome::Rejected, counted.clone());
    scene.refuses(request, duty, "outcome-differs");

    // The first decision is signed, a second and different one is not.
    let duty = scene.decision(&opened, Outcome::Approved, counted.clone());
    scene.message(duty);
    let second = vec![approve(&scene, 0, 0), approve(&scene, 2, 0)];
    let duty = scene.decision(&opened, Outcome::Approved, second);
    scene.refuses(request, duty, "other-decision");
    scene.ends();
}

#[test]
fn what_time_alone_decides_is_not_signed_before_its_time() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let opened = scene.open("veto-approval", "case");
    let ballots = vec![scene.node.ballot(&opened, 0, Choice::Approve, 0)];
    // A proposer's clock can be anywhere: the log says that the hour is over.
    let hour = later(opened.says.opened, 3_600_000);
    let due = scene.node.tell_decision_due_at(&opened, Outcome::Approved, &ballots, hour);
    let duty = scene.node.decision_duty(&opened, ballots, due);
    scene.refuses(opened.case.request, duty, "too-early");

    // A request without ballots has not expired either.
    let opened = scene.open("veto-approval", "expired");
    let duty_at = scene.node.tell_decision_due_at(&opened, Outcome::Expired, &[], opened.says.deadline);
    let duty = scene.node.decision_duty(&opened, Vec::new(), duty_at);
    let before = scene.audit();
    assert!(matches!(scene.ask(duty), Said::Refused(reason) if reason == "too-early"));
    let after = scene.audit();
    assert_eq!((after.intents, after.results), (before.intents, before.results));
    scene.ends();
}

#[test]
fn an_action_is_done_only_as_it_was_approved() {
    let mut scene = Scene::new(&[RELEASE, BRIEF, VETO]);
    let decided = scene.approved("release-approval", "case");
    let request = decided.opened.case.request;
    let due = scene.node.action_due(&decided);

    // No votes, although there is a decision.
    let duty = scene.action_on(&decided, |bundle| bundle.ballots.clear(), &due);
    scene.refuses(request, duty, "no-votes");
    let duty = scene.action_on(&decided, |bundle| bundle.ballots.truncate(1), &due);
    scene.refuses(request, duty, "too-few-votes");

    // Rules that would have needed fewer votes.
    let easier = |bundle: &mut Bundle| {
        let policy = String::from_utf8(bundle.policy.0.clone()).expect("TOML");
        bundle.policy.0 = policy.replace("at_least = 2", "at_least = 1").into_bytes();
    };
    let duty = scene.action_on(&decided, easier, &due);
    scene.refuses(request, duty, "other-policy");

    // Another file, and another key, than was approved.
    let mut subject = decided.opened.case.call.subject.clone();
    if let Subject::Sign { key, .. } = &mut subject {
        *key = name("brief");
    }
    let other_key = action_due(&decided, subject);
    let duty = scene.action_on(&decided, |_| {}, &other_key);
    scene.refuses(request, duty, "subject-differs");

    // A decision that the contract did not sign.
    let says: Decision = json::read(decided.decision.payload()).expect("a decision");
    let forged = scene.node.stranger.sign(says);
    let duty = scene.action_on(&decided, |bundle| bundle.decision = forged, &due);
    scene.refuses(request, duty, "wrong-key");

    // The approval of another case.
    let other = scene.approved("release-approval", "other");
    let place = scene.node.tell_process(&due);
    let duty = scene.node.action_duty(scene.node.bundle(&other), place);
    scene.refuses(request, duty, "other-request");

    // What was rejected.
    let opened = scene.open("release-approval", "rejected");
    let ballots: Vec<_> = (0..2).map(|voter| scene.node.ballot(&opened, voter, Choice::Reject, 0)).collect();
    let duty = scene.decision(&opened, Outcome::Rejected, ballots.clone());
    let decision = scene.message(duty);
    let rejected = scene.node.tell_recorded(opened, ballots, decision);
    let duty = scene.action(&rejected);
    scene.refuses(rejected.opened.case.request, duty, "not-approved");

    // The action twice: with the result of the first time in hand.
    let duty = scene.action(&decided);
    let signature = scene.signature(duty);
    let release =
        scene.node.genesis.key(&name("release")).expect("it is in genesis").key.public_key().clone();
    let output = ActionOutput {
        key: name("release"),
        version: KeyVersion::first(),
        public_key: release,
        format: SignatureFormat::Der,
        signature,
    };
    let inclusion = scene.node.consensus.inclusion(decided.recorded);
    let done = |bundle: &mut Bundle| bundle.result = Some(ActionResult::new(output, inclusion));
    let duty = scene.action_on(&decided, done, &due);
    scene.refuses(request, duty, "has-result");

    // After `act_within`.
    let late = scene.approved("brief-approval", "late");
    let duty = scene.action(&late);
    scene.refuses(late.opened.case.request, duty, "lapsed");
    scene.ends();
}
