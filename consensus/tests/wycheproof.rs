//! Project Wycheproof's P-256 signatures, good and malicious: our verdict is theirs, and that of the crate `p256`.

use assent_consensus::artifact::Artifact;
use assent_consensus::digest::Digest;
use assent_consensus::jwk::PublicKey;
use assent_consensus::message::RequestId;
use assent_consensus::operational_key::VerificationKey;
use assent_consensus::subject::SignatureFormat;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{DerSignature, Signature, VerifyingKey};
use wycheproof::ecdsa::{TestName, TestSet};

fn artifact(format: SignatureFormat, message: &[u8]) -> Artifact {
    let (digest, none) = (Digest::of(message), Digest::ZERO);
    let name = "file".parse().expect("text");
    Artifact { format, name, digest, request: RequestId(none), policy: none, decision: none }
}

/// Judges every signature of a set in our way and in another; gives how many there were.
fn judge(set: TestName, format: SignatureFormat, other: fn(&VerifyingKey, &[u8], &[u8]) -> bool) -> usize {
    let mut judged = 0;
    for group in TestSet::load(set).expect("the set comes with the crate").test_groups {
        let point: &[u8] = &group.key.key;
        let key = PublicKey::from_point(point.try_into().expect("65 bytes")).expect("a point on the curve");
        let operational = VerificationKey::from(key.clone());
        let stock = VerifyingKey::from_sec1_bytes(point).expect("a point on the curve");
        for test in &group.tests {
            let (message, signature): (&[u8], &[u8]) = (&test.msg, &test.sig);
            let good = artifact(format, message).verify(&operational, signature).is_ok();
            assert_eq!(good, !test.result.must_fail(), "{set:?} {}: {}", test.tc_id, test.comment);
            assert_eq!(good, other(&stock, message, signature), "{set:?} {}, by p256", test.tc_id);
            if let Ok(raw) = signature.try_into() {
                assert_eq!(key.verify(message, raw).is_ok(), good && format == SignatureFormat::Raw);
            }
            judged += 1;
        }
    }
    judged
}

#[test]
fn signatures_of_two_plain_numbers_are_judged_as_everybody_judges_them() {
    let judged =
        judge(TestName::EcdsaSecp256r1Sha256P1363, SignatureFormat::Raw, |key, message, signature| {
            Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
        });
    assert!(judged > 200, "{judged}");
}

#[test]
fn signatures_in_der_are_judged_as_everybody_judges_them() {
    let judged = judge(TestName::EcdsaSecp256r1Sha256, SignatureFormat::Der, |key, message, signature| {
        DerSignature::from_bytes(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
    });
    assert!(judged > 400, "{judged}");
}
