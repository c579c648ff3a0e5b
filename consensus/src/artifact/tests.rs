//! Each format as its own standard reads it, and that nothing but the one form is taken.

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{DerSignature, Signature as P256Signature, VerifyingKey};

use super::*;
use crate::jws::{Jws, JwsError};
use crate::operational_key::tests::SoftwareKey;

const FORMATS: [SignatureFormat; 4] =
    [SignatureFormat::Der, SignatureFormat::Raw, SignatureFormat::Dsse, SignatureFormat::Jws];

fn artifact(format: SignatureFormat) -> Artifact {
    Artifact {
        format,
        name: "foo-1.2.tar".parse().unwrap(),
        digest: Digest::of(b"the file"),
        request: RequestId(Digest::of(b"request")),
        policy: Digest::of(b"policy"),
        decision: Digest::of(b"decision"),
    }
}

fn result(artifact: &Artifact, key: &SoftwareKey) -> Vec<u8> {
    let digest = artifact.to_sign(&key.public).digest(key.public.algorithm());
    artifact.assemble(&key.public, &key.sign(&digest))
}

fn p256() -> (SoftwareKey, VerifyingKey) {
    let key = SoftwareKey::all(1).swap_remove(0);
    let verifier = VerifyingKey::from_sec1_bytes(key.public.public_key().as_bytes()).unwrap();
    (key, verifier)
}

#[test]
fn der_and_raw_are_signatures_over_the_file() {
    let (key, verifier) = p256();
    let der = result(&artifact(SignatureFormat::Der), &key);
    verifier.verify(b"the file", &DerSignature::from_bytes(&der).unwrap()).unwrap();
    let raw = result(&artifact(SignatureFormat::Raw), &key);
    let signature = P256Signature::from_slice(&raw).unwrap();
    verifier.verify_prehash(Digest::of(b"the file").as_bytes(), &signature).unwrap();
}

#[test]
fn a_key_on_p384_signs_the_sha256_of_a_file_and_the_sha384_of_a_statement() {
    let key = SoftwareKey::all(1).swap_remove(1);
    let verifier = p384::ecdsa::VerifyingKey::from_sec1_bytes(key.public.public_key().as_bytes()).unwrap();
    let file = Digest::of(b"the file");
    let der = result(&artifact(SignatureFormat::Der), &key);
    let signature = p384::ecdsa::Signature::from_der(&der).unwrap();
    verifier.verify_prehash(file.as_bytes(), &signature).unwrap();
    let raw = result(&artifact(SignatureFormat::Raw), &key);
    verifier.verify_prehash(file.as_bytes(), &p384::ecdsa::Signature::from_slice(&raw).unwrap()).unwrap();
    let jws = String::from_utf8(result(&artifact(SignatureFormat::Jws), &key)).unwrap();
    let (input, signature) = jws.rsplit_once('.').unwrap();
    let signature = p384::ecdsa::Signature::from_slice(&encoding::decode(signature).unwrap()).unwrap();
    verifier.verify(input.as_bytes(), &signature).unwrap();
}

#[test]
fn the_signature_of_an_rsa_key_is_its_bytes_in_der_and_raw_alike() {
    for key in SoftwareKey::all(1).into_iter().filter(|key| !key.public.algorithm().is_ecdsa()) {
        let raw = result(&artifact(SignatureFormat::Raw), &key);
        assert_eq!(raw.len(), key.public.public_key().kind().length());
        artifact(SignatureFormat::Der).verify(&key.public, &raw).unwrap();
        artifact(SignatureFormat::Raw).verify(&key.public, &raw).unwrap();
    }
}

#[test]
fn dsse_is_an_envelope_over_the_statement() {
    let (key, verifier) = p256();
    let artifact = artifact(SignatureFormat::Dsse);
    let envelope: serde_json::Value = serde_json::from_slice(&result(&artifact, &key)).unwrap();
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");
    assert_eq!(envelope["signatures"][0]["keyid"], key.public.thumbprint().to_string());
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    let pae =
        [format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len()).as_bytes(), payload.as_slice()]
            .concat();
    let signature = STANDARD.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap();
    verifier.verify(&pae, &DerSignature::from_bytes(&signature).unwrap()).unwrap();
    let statement: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    let file = Digest::of(b"the file").to_string();
    assert_eq!(
        statement,
        serde_json::json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": "foo-1.2.tar", "digest": { "sha256": file.strip_prefix("sha256:").unwrap() } }],
            "predicateType": "urn:assent:approval:v1",
            "predicate": {
                "request": artifact.request,
                "policy": artifact.policy,
                "decision": artifact.decision,
            },
        })
    );
}

#[test]
fn jws_is_one_over_the_same_statement_and_no_message_of_assent() {
    let (key, verifier) = p256();
    let artifact = artifact(SignatureFormat::Jws);
    let jws = String::from_utf8(result(&artifact, &key)).unwrap();
    let (input, signature) = jws.rsplit_once('.').unwrap();
    let signature = P256Signature::from_slice(&encoding::decode(signature).unwrap()).unwrap();
    verifier.verify(input.as_bytes(), &signature).unwrap();
    let (header, payload) = input.split_once('.').unwrap();
    let header: serde_json::Value = serde_json::from_slice(&encoding::decode(header).unwrap()).unwrap();
    let expected = serde_json::json!({
        "alg": "ES256",
        "kid": key.public.thumbprint(),
        "typ": "in-toto+jws",
    });
    assert_eq!(header, expected);
    assert_eq!(encoding::decode(payload).unwrap(), artifact.statement());
    assert_eq!(Jws::parse(jws.as_bytes()), Err(JwsError::Header));
}

#[test]
fn a_result_verifies_for_its_key_its_artifact_and_its_format_alone() {
    let keys = SoftwareKey::all(1);
    for (place, key) in keys.iter().enumerate() {
        for format in FORMATS {
            let good = artifact(format);
            let bytes = result(&good, key);
            good.verify(&key.public, &bytes).unwrap();
            for (_, other) in keys.iter().enumerate().filter(|(other, _)| *other != place) {
                assert!(good.verify(&other.public, &bytes).is_err(), "{format}");
            }
            let mut wrong = vec![Artifact { digest: Digest::ZERO, ..good.clone() }];
            let plain = [SignatureFormat::Der, SignatureFormat::Raw];
            let is_same = |other| {
                // The signature of an RSA key is the same in both.
                other == format
                    || !key.public.algorithm().is_ecdsa() && plain.contains(&other) && plain.contains(&format)
            };
            wrong.extend(FORMATS.into_iter().filter(|other| !is_same(*other)).map(artifact));
            if matches!(format, SignatureFormat::Dsse | SignatureFormat::Jws) {
                wrong.extend([
                    Artifact { name: "foo-1.3.tar".parse().unwrap(), ..good.clone() },
                    Artifact { request: RequestId(Digest::ZERO), ..good.clone() },
                    Artifact { policy: Digest::ZERO, ..good.clone() },
                    Artifact { decision: Digest::ZERO, ..good.clone() },
                ]);
            }
            for wrong in wrong {
                assert!(wrong.verify(&key.public, &bytes).is_err(), "{format}: {wrong:?}");
            }
        }
    }
}

#[test]
fn any_changed_byte_of_a_result_makes_it_invalid() {
    for key in SoftwareKey::all(1) {
        for format in FORMATS {
            let artifact = artifact(format);
            let good = result(&artifact, &key);
            for at in 0..good.len() {
                for change in [1, 0x20, 0x80] {
                    let mut changed = good.clone();
                    changed[at] ^= change;
                    let found = artifact.verify(&key.public, &changed);
                    assert!(found.is_err(), "{format}, byte {at} ^ {change}");
                }
                assert!(artifact.verify(&key.public, &good[..at]).is_err(), "{format}, cut at {at}");
            }
            let longer = [good.as_slice(), b"\n"].concat();
            assert!(artifact.verify(&key.public, &longer).is_err(), "{format}");
        }
    }
}

#[test]
fn only_the_shortest_form_of_two_positive_integers_is_der() {
    let mut signature = [0; 64];
    for (r, s) in [(0, 1), (0x7f, 0x80), (0xff, 0), (1, 0xff)] {
        (signature[0], signature[31], signature[32], signature[63]) = (r, 5, s, 6);
        let bytes = der::encode(&signature);
        assert_eq!(der::decode(&bytes, 64), Some(signature.to_vec()));
        let ours = P256Signature::from_slice(&signature);
        if let Ok(ours) = ours {
            assert_eq!(ours.to_der().as_bytes(), bytes);
        }
    }
    assert_eq!(der::encode(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    for wrong in [
        &[0x30, 6, 2, 1, 1, 2, 1, 1, 0][..],
        &[0x30, 7, 2, 2, 0, 1, 2, 1, 1],
        &[0x30, 0x81, 6, 2, 1, 1, 2, 1, 1],
        &[0x30, 6, 2, 0x81, 1, 1, 2, 1, 1],
        &[0x31, 6, 2, 1, 1, 2, 1, 1],
        &[0x30, 6, 3, 1, 1, 2, 1, 1],
        &[0x30, 5, 2, 0, 2, 1, 1],
        &[0x30, 6, 2, 1, 0xff, 2, 1, 1],
        &[0x30, 3, 2, 1, 1],
        &[0x30, 0x80, 2, 1, 1, 2, 1, 1, 0, 0],
        &[],
    ] {
        assert_eq!(der::decode(wrong, 64), None, "{wrong:?}");
    }
}
