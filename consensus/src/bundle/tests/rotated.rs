//! Bundles of requests whose keys were replaced before, meanwhile and afterwards.

use super::*;
use crate::contract::query::{RecordedPolicy, RecordedTransition};
use crate::contract::tests::rotation::{contract, release};
use crate::jws::Signed;
use crate::message::{KeyTransition, KeyVersion};
use crate::standing::KeyName;

impl assembly::Records for World {
    type Error = BundleError;

    fn transitions(&self, key: &KeyName) -> Result<Vec<RecordedTransition>, BundleError> {
        Ok(query::transitions(&self.consensus.state, key))
    }

    fn policies(&self, contract: &Name) -> Result<Vec<RecordedPolicy>, BundleError> {
        Ok(query::policies(&self.consensus.state, contract))
    }

    fn approval(&self, request: RequestId) -> Result<Bundle, BundleError> {
        Ok(bare(self, request))
    }
}

pub(super) fn whole(world: &World, case: &str) -> Bundle {
    complete(bundle_of(world, case), world).unwrap()
}

/// The bundle of a request that approved a change, as it stands in a history.
fn bare(world: &World, request: RequestId) -> Bundle {
    let record = query::case_request(&world.processes.state, request).unwrap();
    Bundle { result: None, ..bundle_of(world, record.asked.case.as_str()) }
}

pub(super) fn signed_by(world: &mut World, case: &str, version: KeyVersion) {
    let request = world.asked(case);
    world.approve(request);
    let output = world.output_by(case, version);
    world.result(request, output).unwrap();
}

/// Cases from before, during and after two rotations of the contract's key and one of the release key.
fn rotated() -> (World, Vec<Bundle>) {
    let mut world = World::new();
    let first = KeyVersion::first();
    for case in ["before", "during", "later"] {
        if case == "during" {
            world.open("release-signing", "open");
            world.rotate("rotate-approval", "first-rotation");
        }
        if case == "later" {
            world.rotate("rotate-release", "release-rotation");
            world.rotate("rotate-approval", "second-rotation");
        }
        world.open("release-signing", case);
        signed_by(&mut world, case, if case == "later" { first.next() } else { first });
    }
    signed_by(&mut world, "open", first.next());
    let bundles = ["before", "open", "during", "later"].map(|case| whole(&world, case));
    (world, bundles.to_vec())
}

#[test]
fn what_was_signed_before_during_and_after_a_rotation_is_proven_by_genesis_alone() {
    let (world, bundles) = rotated();
    let parts = bundles.iter().map(|bundle| {
        judge(&world, bundle).unwrap();
        (bundle.contract_transitions.len(), bundle.key_transitions.len(), bundle.history.len())
    });
    // The one that was open ended with the contract's first key and was signed by the second release key, whose rotation
    // was approved with the contract's second key.
    assert_eq!(parts.collect::<Vec<_>>(), [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 1, 3)]);
}

#[test]
fn a_key_that_another_contract_governs_is_followed_through_both() {
    let mut world = World::new();
    world.rotate("rotate-approval", "approval-rotation");
    world.rotate("rotate-board", "board-rotation");
    let request = world.open("minutes", "a");
    world.vote(request, 3, Choice::Approve).unwrap();
    world.later(2 * DAY).tick();
    world.decide(request);
    let bundle = whole(&world, "a");
    judge(&world, &bundle).unwrap();
    assert_eq!((bundle.contract_transitions.len(), bundle.history.len()), (1, 2));
    assert_eq!(bundle.history[1].contract_transitions.len(), 1, "that of the contract that approved");
}

#[test]
fn a_history_that_is_cut_mixed_or_padded_proves_nothing() {
    let (world, bundles) = rotated();
    let last = bundles.last().unwrap();
    let mut changed: Vec<(&str, Bundle)> = Vec::new();
    let mut change = |reason, work: &dyn Fn(&mut Bundle)| {
        let mut bundle = last.clone();
        work(&mut bundle);
        changed.push((reason, bundle));
    };
    change("other-key-version", &|bundle| drop(bundle.history.remove(0)));
    change("unapproved-transition", &|bundle| drop(bundle.history.pop()));
    change("unapproved-transition", &|bundle| bundle.history.clear());
    change("other-key-version", &|bundle| bundle.history.swap(0, 2));
    change("unapproved-transition", &|bundle| bundle.history.push(bundle.history[2].clone()));
    change("other-transitions", &|bundle| drop(bundle.contract_transitions.remove(0)));
    change("unapproved-transition", &|bundle| drop(bundle.contract_transitions.pop()));
    change("unapproved-transition", &|bundle| bundle.key_transitions.clear());
    change("other-transitions", &|bundle| bundle.contract_transitions.swap(0, 1));
    change("no-change", &|bundle| bundle.history[0].history = bundle.history.clone());
    change("no-change", &|bundle| bundle.history[1].result = bundle.result.clone());
    change("no-change", &|bundle| bundle.result = None);
    // `first` by another key, and the two messages exchanged.
    change("unapproved-transition", &|bundle| {
        let pair = &mut bundle.contract_transitions[0];
        std::mem::swap(&mut pair.first, &mut pair.new);
    });
    for (place, (reason, bundle)) in changed.into_iter().enumerate() {
        assert_eq!(judge(&world, &bundle).unwrap_err().reason(), reason, "change {place}");
    }
    // What is true and leads to nothing that is used: it would make two bundles of one request.
    let mut padded = bundles[0].clone();
    padded.history = bundles[2].history.clone();
    assert_eq!(judge(&world, &padded).unwrap_err().reason(), "unapproved-transition");
}

#[test]
fn a_transition_by_a_retired_key_or_approved_by_another_contract_proves_nothing() {
    let (mut world, bundles) = rotated();
    let last = bundles.last().unwrap().clone();
    let says: KeyTransition = {
        let signed = Signed::from_jws(last.key_transitions[0].new.clone()).unwrap();
        Signed::<KeyTransition>::unverified(&signed).clone()
    };
    let approval = contract("release-approval");
    for (version, reason) in [(1, "not-approved"), (3, "wrong-key")] {
        let version = KeyVersion(Integer::saturating(version));
        let mut bundle = last.clone();
        bundle.key_transitions[0].first = world.key_of(&approval, version).sign(says.clone());
        assert_eq!(judge(&world, &bundle).unwrap_err().reason(), reason, "by version {version}");
    }
    let mut bundle = last;
    bundle.key_transitions[0].first = world.board.sign(says);
    assert_eq!(judge(&world, &bundle).unwrap_err().reason(), "wrong-key");

    // A signature by a version of the release key to which no transition leads.
    let request = world.open("release-signing", "z");
    world.approve(request);
    world.result(request, world.output_by("z", KeyVersion::first().next())).unwrap();
    let mut bundle = whole(&world, "z");
    assert_eq!(query::transitions(&world.consensus.state, &release()).len(), 1);
    judge(&world, &bundle).unwrap();
    bundle.result.as_mut().unwrap().version = KeyVersion::first();
    assert!(judge(&world, &bundle).is_err());
}
