//! Project Wycheproof's signatures, good and malicious, by every algorithm: our verdict is theirs, and on curves that of the
//! crates `p256` and `p384`.

use assent_consensus::artifact::Artifact;
use assent_consensus::digest::Digest;
use assent_consensus::jwk::PublicKey;
use assent_consensus::message::RequestId;
use assent_consensus::operational_key::{
    Algorithm, KeyKind, OperationalKeyError, OperationalPublicKey, RawSignature, VerificationKey,
};
use assent_consensus::subject::SignatureFormat;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{DerSignature, Signature, VerifyingKey};
use wycheproof::TestResult;
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

#[test]
fn signatures_on_p384_are_judged_as_everybody_judges_them() {
    let mut judged = 0;
    for (set, is_der) in
        [(TestName::EcdsaSecp384r1Sha256, true), (TestName::EcdsaSecp384r1Sha384P1363, false)]
    {
        for group in TestSet::load(set).expect("the set comes with the crate").test_groups {
            let point: &[u8] = &group.key.key;
            let key = operational(Algorithm::ES384, OperationalPublicKey::from_bytes(KeyKind::P384, point));
            let stock = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).expect("a point on the curve");
            for test in &group.tests {
                let (message, signature): (&[u8], &[u8]) = (&test.msg, &test.sig);
                let (ours, theirs) = match is_der {
                    true => (
                        artifact(SignatureFormat::Der, message).verify(&key, signature).is_ok(),
                        p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| {
                            stock.verify_prehash(Digest::of(message).as_bytes(), &signature).is_ok()
                        }),
                    ),
                    false => (
                        verify(&key, message, signature),
                        p384::ecdsa::Signature::from_slice(signature)
                            .is_ok_and(|signature| stock.verify(message, &signature).is_ok()),
                    ),
                };
                assert_eq!(ours, !test.result.must_fail(), "{set:?} {}: {}", test.tc_id, test.comment);
                assert_eq!(ours, theirs, "{set:?} {}, by p384", test.tc_id);
                judged += 1;
            }
        }
    }
    assert!(judged > 600, "{judged}");
}

#[test]
fn signatures_of_rsa_keys_are_judged_as_everybody_judges_them() {
    use wycheproof::{rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};
    let mut judged = 0;
    for set in [pkcs1::TestName::Rsa3072Sha256, pkcs1::TestName::Rsa4096Sha256] {
        for group in pkcs1::TestSet::load(set).expect("the set comes with the crate").test_groups {
            let Some(key) = rsa(Algorithm::RS256, &group.key.n, &group.key.e) else { continue };
            for test in &group.tests {
                // What some take and some do not, we do not.
                let is_good = test.result == TestResult::Valid;
                assert_eq!(
                    verify(&key, &test.msg, &test.sig),
                    is_good,
                    "{set:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                judged += 1;
            }
        }
    }
    for set in [pss::TestName::RsaPss3072Sha256Mgf1SaltLen32, pss::TestName::RsaPss4096Sha256Mgf1SaltLen32] {
        for group in pss::TestSet::load(set).expect("the set comes with the crate").test_groups {
            let Some(key) = rsa(Algorithm::PS256, &group.key.n, &group.key.e) else { continue };
            for test in &group.tests {
                let is_good = test.result == TestResult::Valid;
                assert_eq!(
                    verify(&key, &test.msg, &test.sig),
                    is_good,
                    "{set:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                judged += 1;
            }
        }
    }
    assert!(judged > 600, "{judged}");
}

fn operational(
    algorithm: Algorithm,
    key: Result<OperationalPublicKey, OperationalKeyError>,
) -> VerificationKey {
    VerificationKey::new(algorithm, key.expect("a key")).expect("it fits")
}

/// Nothing for a key with another exponent than 65537, which is none of ours.
fn rsa(algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Option<VerificationKey> {
    let key = OperationalPublicKey::from_rsa(modulus, exponent);
    assert_eq!(key.is_ok(), exponent.ends_with(&[1, 0, 1]), "{exponent:?}");
    key.is_ok().then(|| operational(algorithm, key))
}

fn verify(key: &VerificationKey, message: &[u8], signature: &[u8]) -> bool {
    let digest = key.algorithm().digest(message);
    key.verify(&digest, &RawSignature(signature.to_vec())).is_ok()
}
