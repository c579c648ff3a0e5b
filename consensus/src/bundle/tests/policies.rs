//! Bundles of requests whose contract's policy was replaced before, meanwhile and afterwards.

use std::sync::Arc;

use super::rotated::{signed_by, whole};
use super::*;
use crate::contract::tests::world::HOUR;
use crate::jws::{Payload, Signed};
use crate::message::{Decision, KeyVersion, VoteRequest};
use crate::standing::AdoptedPolicy;
use crate::time::UnixMillis;

fn payload<P: Payload + Clone>(jws: &crate::jws::Jws) -> P {
    Signed::<P>::from_jws(jws.clone()).unwrap().unverified().clone()
}

fn reason(world: &World, bundle: &Bundle) -> &'static str {
    judge(world, bundle).expect_err("refused").reason()
}

/// Cases from before, during and after two changes of a policy, between which the contract's key was rotated.
fn changed() -> (World, Vec<Bundle>) {
    let mut world = World::new();
    let first = KeyVersion::first();
    world.open("release-signing", "before");
    world.open("release-signing", "open");
    signed_by(&mut world, "before", first);
    let lighter = world.lighter();
    world.change_policy("release-approval", "change", &lighter);
    signed_by(&mut world, "open", first);
    let request = world.open("release-signing", "after");
    world.approve_by_all(request);
    let output = world.output_by("after", first);
    world.result(request, output).unwrap();
    let bundles = ["before", "open", "after"].map(|case| whole(&world, case));
    (world, bundles.to_vec())
}

#[test]
fn what_was_decided_before_during_and_after_a_change_is_proven_by_genesis_alone() {
    let (world, bundles) = changed();
    let parts = bundles.iter().map(|bundle| {
        let proof = judge(&world, bundle).unwrap();
        assert_eq!(proof.policy.document(), bundle.policy.0);
        (bundle.history.len(), proof.recount.ballots.len())
    });
    assert_eq!(parts.collect::<Vec<_>>(), [(0, 2), (0, 2), (1, 1)]);
}

#[test]
fn a_contract_that_another_governs_is_followed_through_both() {
    let mut world = World::new();
    let lighter = world.lighter();
    world.change_policy("release-approval", "governor", &lighter);
    let officers = world.officers("\"sign\", \"record\"");
    world.change_policy("board", "first", &officers);
    let again = [&officers[..], b"# again\n"].concat();
    world.change_policy("board", "second", &again);
    let request = world.open("minutes", "a");
    world.vote(request, 4, Choice::Approve).unwrap();
    world.decide(request);
    let bundle = whole(&world, "a");
    judge(&world, &bundle).unwrap();
    assert_eq!(bundle.history.len(), 3, "the governor's, and both of its own");
    // The policy in between is named by its digest alone; each change leads on from the one before.
    for place in 0..3 {
        let mut cut = bundle.clone();
        cut.history.remove(place);
        let expected = ["other-policy", "policy-not-in-force", "unused-change"][place];
        assert_eq!(reason(&world, &cut), expected, "without change {place}");
    }
}

#[test]
fn a_history_that_is_cut_mixed_or_padded_proves_nothing() {
    let (world, bundles) = changed();
    let [before, _, after] = &bundles[..] else { panic!("three") };
    let with = |work: &dyn Fn(&mut Bundle)| {
        let mut bundle = after.clone();
        work(&mut bundle);
        reason(&world, &bundle)
    };
    assert_eq!(with(&|bundle| bundle.history.clear()), "other-policy");
    assert_eq!(with(&|bundle| bundle.history.push(bundle.history[0].clone())), "policy-not-in-force");
    assert_eq!(with(&|bundle| bundle.policy = before.policy.clone()), "unknown-policy");
    assert_eq!(with(&|bundle| bundle.history[0] = before.clone()), "no-change");
    assert_eq!(with(&|bundle| bundle.history[0].result = before.result.clone()), "no-change");
    assert_eq!(
        with(&|bundle| bundle.history[0] = Bundle { result: None, ..before.clone() }),
        "changes-unsupported"
    );
    let mut padded = before.clone();
    padded.history = after.history.clone();
    assert_eq!(reason(&world, &padded), "unused-change");
}

#[test]
fn a_request_that_was_not_opened_while_its_policy_was_in_force_proves_nothing() {
    let (world, bundles) = changed();
    let [before, _, after] = &bundles[..] else { panic!("three") };
    let decided = payload::<Decision>(&after.history[0].decision).decided.get();
    let lapses = decided + 7 * DAY;
    let contract = name("release-approval");
    let mut standing = Standing::new(&world.genesis, Arc::default());
    let (digest, earliest, latest) =
        (Digest::of(&after.policy.0), UnixMillis::new(decided), UnixMillis::new(lapses));
    standing.adopt(contract, AdoptedPolicy { digest, decided: earliest, earliest, latest });
    let opened_at = |bundle: &Bundle, opened: u64| {
        let mut bundle = bundle.clone();
        let mut says: VoteRequest = payload(&bundle.vote_request);
        (says.opened, says.deadline) = (UnixMillis::new(opened), UnixMillis::new(opened + 48 * HOUR));
        bundle.vote_request = world.contract.sign(says);
        let judged = verify_under(&standing, &bundle, &BTreeSet::new());
        judged.map(drop).map_err(|error| error.reason())
    };
    // The votes are on another message then, and that is found after this.
    assert_eq!(opened_at(after, decided - 1), Err("other-policy"));
    assert_eq!(opened_at(after, decided), Err("other-vote-request"));
    assert_eq!(opened_at(before, lapses), Err("other-policy"));
    assert_eq!(opened_at(before, lapses - 1), Err("other-vote-request"));
}
