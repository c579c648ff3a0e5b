//! What a bundle must not prove, each refused with its own reason, although every signature in it is good.

use super::*;
use crate::contract::tests::ledger::Key;
use crate::digest::Digest;
use crate::jws::{Jws, Payload, Signed};
use crate::message::{Ballot, Decision, Start, VoteRequest};
use crate::time::Millis;

fn payload<P: Payload + Clone>(jws: &Jws) -> P {
    Signed::<P>::from_jws(jws.clone()).unwrap().unverified().clone()
}

fn reason(world: &World, bundle: &Bundle) -> &'static str {
    judge(world, bundle).expect_err("this must be refused").reason()
}

/// The bundle with another message, signed by `key`, in place of one of its own.
fn with<P: Payload + Clone>(
    bundle: &Bundle,
    place: fn(&mut Bundle) -> &mut Jws,
    key: &Key,
    change: impl FnOnce(&mut P),
) -> Bundle {
    let mut bundle = bundle.clone();
    let jws = place(&mut bundle);
    let mut message: P = payload(jws);
    change(&mut message);
    *jws = key.sign(message);
    bundle
}

fn vote_request(bundle: &mut Bundle) -> &mut Jws {
    &mut bundle.vote_request
}

fn start(bundle: &mut Bundle) -> &mut Jws {
    &mut bundle.start
}

fn decision(bundle: &mut Bundle) -> &mut Jws {
    &mut bundle.decision
}

fn first_ballot(bundle: &mut Bundle) -> &mut Jws {
    &mut bundle.ballots[0].jws
}

#[test]
fn a_vote_request_that_is_not_justified_is_refused() {
    let (world, good) = signed_in(SignatureFormat::Der);
    let bad = |key: &Key, change: &dyn Fn(&mut VoteRequest)| {
        reason(&world, &with(&good, vote_request, key, |message: &mut VoteRequest| change(message)))
    };
    let own = &world.contract;
    let signed = |change: &dyn Fn(&mut VoteRequest)| bad(own, change);
    assert_eq!(bad(&world.stranger, &|_| {}), "wrong-key");
    assert_eq!(bad(&world.release, &|_| {}), "wrong-key");
    assert_eq!(signed(&|message| message.deployment.0 = Digest::ZERO), "other-deployment");
    assert_eq!(signed(&|message| message.chain = name("process")), "other-chain");
    assert_eq!(signed(&|message| message.policy = Digest::ZERO), "other-policy");
    assert_eq!(signed(&|message| message.definition = Digest::ZERO), "other-definition");
    assert_eq!(signed(&|message| message.request.0 = Digest::ZERO), "other-request");
    assert_eq!(signed(&|message| message.key_version.0 = Integer::saturating(2)), "other-key-version");
    let later = |message: &mut VoteRequest| message.deadline = message.deadline.after(Millis::new(1));
    assert_eq!(signed(&later), "wrong-deadline");
    assert_eq!(signed(&|message| message.contract = name("nobody")), "unknown-name");
    assert_eq!(signed(&|message| message.start = Digest::ZERO), "other-start");
    let other_file = |message: &mut VoteRequest| {
        if let crate::subject::Subject::Sign { digest, .. } = &mut message.subject {
            *digest = Digest::ZERO;
        }
    };
    assert_eq!(signed(&other_file), "subject-differs");
    // Members that the request is made of, changed with it.
    let asked = |change: &dyn Fn(&mut VoteRequest)| {
        signed(&|message| {
            change(message);
            let VoteRequest { process, case, requester, step, attempt, .. } = &*message;
            let chain = name("process");
            message.request =
                RequestId::of(world.genesis.id(), &chain, process, case, *requester, step, *attempt);
        })
    };
    assert_eq!(asked(&|message| message.attempt = Integer::saturating(2)), "not-asked");
    assert_eq!(asked(&|message| message.step = name("signature")), "not-asked");
    assert_eq!(asked(&|message| message.case = name("b")), "other-case");
    let stranger = world.stranger.public.thumbprint();
    assert_eq!(asked(&|message| message.requester = stranger), "other-requester");
    let hotfix = world.genesis.process(&name("hotfix-signing")).unwrap();
    let other_process = |message: &mut VoteRequest| {
        message.process = hotfix.name.clone();
        message.definition = hotfix.definition.digest();
    };
    assert_eq!(asked(&other_process), "other-process");
}

#[test]
fn a_start_that_its_signer_may_not_make_is_refused() {
    let (world, good) = signed_in(SignatureFormat::Der);
    let bad = |key: &Key, change: &dyn Fn(&mut Start)| {
        reason(&world, &with(&good, start, key, |message: &mut Start| change(message)))
    };
    assert_eq!(bad(&world.voters[0], &|_| {}), "not-a-requester");
    assert_eq!(bad(&world.requester, &|message| message.chain = name("consensus")), "other-chain");
    assert_eq!(bad(&world.requester, &|message| message.process = name("nothing")), "unknown-name");
    assert_eq!(bad(&world.requester, &|message| message.nonce.0[0] ^= 1), "other-start");
}

#[test]
fn a_ballot_that_does_not_count_is_refused() {
    let (world, good) = signed_in(SignatureFormat::Der);
    let bad = |key: &Key, change: &dyn Fn(&mut Ballot)| {
        reason(&world, &with(&good, first_ballot, key, |message: &mut Ballot| change(message)))
    };
    let voter = &world.voters[2];
    assert_eq!(bad(&world.stranger, &|_| {}), "stranger");
    assert_eq!(bad(&world.contract, &|_| {}), "stranger");
    assert_eq!(bad(&world.voters[3], &|_| {}), "stranger");
    assert_eq!(bad(&world.requester, &|message| message.voter = name("v9")), "requester-may-not-vote");
    assert_eq!(bad(voter, &|message| message.voter = name("v1")), "wrong-voter");
    assert_eq!(bad(voter, &|message| message.request.0 = Digest::ZERO), "other-request");
    assert_eq!(bad(voter, &|message| message.vote_request = Digest::ZERO), "other-vote-request");
    assert_eq!(bad(voter, &|message| message.deployment.0 = Digest::ZERO), "other-deployment");
    assert_eq!(bad(voter, &|message| message.choice = Choice::Reject), "ballots-differ");

    let changed = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        reason(&world, &bundle)
    };
    assert_eq!(changed(&|bundle| bundle.ballots.clear()), "no-votes");
    assert_eq!(changed(&|bundle| drop(bundle.ballots.pop())), "too-few-votes");
    assert_eq!(changed(&|bundle| drop(bundle.ballots.remove(0))), "ballots-differ");
    assert_eq!(changed(&|bundle| bundle.ballots.swap(0, 1)), "out-of-order");
    assert_eq!(changed(&|bundle| bundle.ballots.insert(1, bundle.ballots[0].clone())), "already-voted");
    assert_eq!(changed(&|bundle| bundle.ballots.push(bundle.ballots[0].clone())), "already-voted");
    let opened = payload::<VoteRequest>(&good.vote_request).opened;
    let early = opened.before(Millis::new(1));
    assert_eq!(changed(&|bundle| bundle.ballots[0].at = early), "too-early");
    let late = opened.after(world.deadline("release-approval"));
    assert_eq!(changed(&|bundle| bundle.ballots[2].at = late), "too-late");
}

#[test]
fn a_decision_that_the_ballots_do_not_give_is_refused() {
    let (world, good) = signed_in(SignatureFormat::Der);
    let bad = |key: &Key, change: &dyn Fn(&mut Decision)| {
        reason(&world, &with(&good, decision, key, |message: &mut Decision| change(message)))
    };
    let own = &world.contract;
    assert_eq!(bad(&world.board, &|_| {}), "wrong-key");
    assert_eq!(bad(own, &|message| message.outcome = Outcome::Rejected), "outcome-differs");
    let late = |message: &mut Decision| message.decided = message.decided.after(Millis::new(1));
    assert_eq!(bad(own, &late), "decided-differs");
    assert_eq!(bad(own, &|message| message.ballots.count = Integer::saturating(2)), "ballots-differ");
    assert_eq!(bad(own, &|message| message.contract = name("board")), "other-contract");
    assert_eq!(bad(own, &|message| message.vote_request = Digest::ZERO), "other-vote-request");
    assert_eq!(bad(own, &|message| message.key_version.0 = Integer::saturating(2)), "other-key-version");
    assert_eq!(bad(own, &|message| message.policy = Digest::ZERO), "other-policy");
}

#[test]
fn a_cancellation_counts_only_while_the_request_is_open() {
    let (world, good) = cancelled();
    let at = good.cancel.as_ref().unwrap().at;
    let moved = |at| {
        let mut bundle = good.clone();
        bundle.cancel.as_mut().unwrap().at = at;
        reason(&world, &bundle)
    };
    let opened = payload::<VoteRequest>(&good.vote_request).opened;
    assert_eq!(moved(opened.before(Millis::new(1))), "cancelled-too-late");
    assert_eq!(moved(opened), "cancelled-too-late");
    assert_eq!(moved(opened.after(world.deadline("release-approval"))), "cancelled-too-late");
    assert_eq!(moved(at.after(Millis::new(1))), "decided-differs");
    let mut bundle = good.clone();
    bundle.cancel = None;
    assert_eq!(reason(&world, &bundle), "outcome-differs");

    let (world, mut approved) = signed_in(SignatureFormat::Der);
    let decided = payload::<Decision>(&approved.decision).decided;
    approved.cancel = Some(CountedMessage { at: decided, jws: world.cancel_of("a") });
    assert_eq!(reason(&world, &approved), "cancelled-too-late");
}

#[test]
fn a_result_of_another_key_format_or_record_is_refused() {
    let (world, good) = signed_in(SignatureFormat::Der);
    let changed = |change: &dyn Fn(&mut ActionResult)| {
        let mut bundle = good.clone();
        change(bundle.result.as_mut().unwrap());
        reason(&world, &bundle)
    };
    assert_eq!(changed(&|result| result.key = name("other")), "other-key");
    assert_eq!(changed(&|result| result.public_key = world.stranger.public.clone().into()), "other-key");
    assert_eq!(changed(&|result| result.format = SignatureFormat::Raw), "other-format");
    assert_eq!(changed(&|result| result.version.0 = Integer::saturating(2)), "other-key-version");
    let other = world.output_of("b").signature;
    assert_eq!(changed(&|result| result.signature = other.clone()), "bad-signature");
    assert_eq!(changed(&|result| result.inclusion = good.inclusion.clone()), "other-chain");
    let started = world.processes.inclusion(1, 0);
    assert_eq!(changed(&|result| result.inclusion = started.clone()), "other-record");
    // As good a signature, but not the one that the log has.
    let other = Key::new(4).sign_digest(Digest::of(b"a").as_bytes());
    let low = other.normalize_s();
    let high = p256::ecdsa::Signature::from_scalars(low.r(), -low.s()).unwrap();
    let again = if changed_to(&good) == high.to_der().as_bytes() { low } else { high };
    let again = Bytes(again.to_der().as_bytes().to_vec());
    assert_eq!(changed(&|result| result.signature = again.clone()), "other-record");
}

fn changed_to(bundle: &Bundle) -> &[u8] {
    &bundle.result.as_ref().unwrap().signature.0
}

#[test]
fn a_revoked_key_signs_nothing() {
    let (world, bundle) = signed_in(SignatureFormat::Der);
    for (what, key) in [
        ("start", &world.requester),
        ("vote request", &world.contract),
        ("ballot", &world.voters[0]),
        ("result", &world.release),
    ] {
        let thumbprint = key.public.thumbprint();
        let found = verify(&world.genesis, &bundle, &BTreeSet::from([thumbprint])).unwrap_err();
        assert_eq!(found, BundleError::Revoked { what, key: thumbprint });
        assert_eq!(found.reason(), "revoked-key");
    }
    let stranger = BTreeSet::from([world.stranger.public.thumbprint()]);
    verify(&world.genesis, &bundle, &stranger).unwrap();
}

#[test]
fn a_result_that_was_recorded_after_its_time_to_act_is_refused() {
    let mut world = World::new();
    let request = world.open("release-signing", "a");
    world.approve(request);
    let output = world.output_of("a");
    let mut bundle = bundle_of(&world, "a");
    // A process ledger whose validator records it all the same.
    let event = ProcessEvent::ResultRecorded {
        case: name("a"),
        step: name("signature"),
        request,
        result: Digest::of(&output.signature.0),
        audit: Digest::ZERO,
    };
    for (days, expected) in [(6, None), (8, Some("lapsed"))] {
        let time = world.time().after(Millis::new(days * DAY));
        let inclusion = world.processes.record(time, event.to_bytes());
        bundle.result = Some(ActionResult::new(output.clone(), inclusion));
        assert_eq!(judge(&world, &bundle).err().map(|error| error.reason()), expected);
    }
}
