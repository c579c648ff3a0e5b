//! Signatures that were verified before.

use std::sync::{Arc, Mutex};

use super::*;
use crate::jwk::Thumbprint;
use crate::jws::Jws;
use crate::standing::Standing;

/// Remembers everything, and counts what it was told of.
#[derive(Default)]
struct Notes(Mutex<BTreeSet<SignatureId>>);

impl SignatureMemory for Notes {
    fn knows(&self, signature: SignatureId) -> bool {
        self.0.lock().unwrap().contains(&signature)
    }

    fn remember(&self, signature: SignatureId) {
        assert!(self.0.lock().unwrap().insert(signature), "it was verified twice");
    }
}

impl Notes {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn judge(
        &self,
        world: &World,
        bundle: &Bundle,
        revoked: &BTreeSet<Thumbprint>,
    ) -> Result<(), BundleError> {
        verify(&world.genesis, bundle, Signatures::from(revoked).with_memory(self)).map(drop)
    }
}

/// The same message with the signature of another one.
fn forged(message: &Jws, other: &Jws) -> Jws {
    let (input, _) = message.as_str().rsplit_once('.').unwrap();
    let (_, signature) = other.as_str().rsplit_once('.').unwrap();
    Jws::parse(format!("{input}.{signature}").as_bytes()).unwrap()
}

#[test]
fn a_signature_that_is_remembered_is_not_verified_again() {
    let (world, bundle) = signed_in(SignatureFormat::Der);
    let notes = Notes::default();
    for _ in 0..2 {
        notes.judge(&world, &bundle, &BTreeSet::new()).unwrap();
    }
    // The start, the vote request, the decision, the certificates of both records, and each ballot.
    assert_eq!(notes.count(), 5 + bundle.ballots.len());
}

#[test]
fn what_is_remembered_is_one_message_with_one_signature() {
    let (world, bundle) = signed_in(SignatureFormat::Der);
    let notes = Notes::default();
    notes.judge(&world, &bundle, &BTreeSet::new()).unwrap();
    let known = notes.count();
    let mut other = bundle.clone();
    other.start = forged(&bundle.start, &bundle.vote_request);
    assert_eq!(notes.judge(&world, &other, &BTreeSet::new()).unwrap_err().reason(), "bad-signature");
    assert_eq!(notes.count(), known, "what did not verify is not remembered");
}

#[test]
fn a_message_that_names_another_key_than_its_signers_is_verified_whatever_is_remembered() {
    let (world, bundle) = signed_in(SignatureFormat::Der);
    let by_another = asked_by_a_stranger(&world, &bundle);
    let notes = Notes::default();
    notes.remember(SignatureId::of_message(&by_another.vote_request));
    assert_eq!(notes.judge(&world, &by_another, &BTreeSet::new()).unwrap_err().reason(), "wrong-key");
}

/// The bundle with its vote request signed by somebody else.
fn asked_by_a_stranger(world: &World, bundle: &Bundle) -> Bundle {
    let mut bundle = bundle.clone();
    let claim = crate::jws::Signed::<crate::message::VoteRequest>::from_jws(bundle.vote_request).unwrap();
    bundle.vote_request = world.stranger.sign(claim.unverified().clone());
    bundle
}

#[test]
fn a_key_that_is_revoked_counts_no_more_though_its_signature_is_remembered() {
    let (world, bundle) = signed_in(SignatureFormat::Der);
    let notes = Notes::default();
    notes.judge(&world, &bundle, &BTreeSet::new()).unwrap();
    let voter = bundle.ballots[0].jws.kid();
    let refused = notes.judge(&world, &bundle, &BTreeSet::from([voter])).unwrap_err();
    assert_eq!(refused.reason(), "revoked-key");
}

#[test]
fn ballots_that_are_verified_ahead_are_known_up_to_one_that_does_not_verify() {
    let (world, mut bundle) = signed_in(SignatureFormat::Der);
    let revoked = BTreeSet::new();
    let standing = Standing::new(&world.genesis, Arc::default());
    let [first, .., last] = &bundle.ballots[..] else { panic!("two ballots or more") };
    let (first, last) = (first.jws.clone(), last.jws.clone());
    bundle.ballots[0].jws = forged(&first, &last);
    let notes = Notes::default();
    let signatures = Signatures::from(&revoked).with_memory(&notes);
    let ahead = || verify_ahead(&standing, &bundle.vote_request, &bundle.ballots, signatures);
    assert_eq!(ahead().unwrap_err().reason(), "bad-signature");
    assert_eq!(notes.count(), bundle.ballots.len() - 1);
    assert!(signatures.know(&last) && !signatures.know(&first) && !signatures.know(&bundle.ballots[0].jws));
    // It leaves off where it meets what is known.
    ahead().unwrap();
    assert_eq!(notes.judge(&world, &bundle, &revoked).unwrap_err().reason(), "bad-signature");
}
