//! Keys of every kind, made in software, and what is and is not taken for one.

use std::sync::LazyLock;

use aws_lc_rs::digest::{self, Digest as LcDigest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256};
use p256::ecdsa::signature::hazmat::PrehashSigner as _;

use super::*;
use crate::encoding;
use crate::json;

/// An RSA key is made once, because that takes its time.
static RSA_3072: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa3072).expect("a key"));
static RSA_4096: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa4096).expect("a key"));

/// A key pair in software.
pub(crate) struct SoftwareKey {
    pub(crate) public: VerificationKey,
    secret: Secret,
}

enum Secret {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Rsa(&'static RsaKeyPair),
}

impl SoftwareKey {
    /// A key for each algorithm, and a second RSA one; others for another `seed`, but for the RSA ones.
    pub(crate) fn all(seed: u8) -> Vec<SoftwareKey> {
        let p256 = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).expect("a scalar");
        let p384 = p384::ecdsa::SigningKey::from_slice(&[seed; 48]).expect("a scalar");
        let points = [
            (KeyKind::P256, p256.verifying_key().to_sec1_point(false).as_bytes().to_vec()),
            (KeyKind::P384, p384.verifying_key().to_sec1_point(false).as_bytes().to_vec()),
        ];
        let [p256_public, p384_public] =
            points.map(|(kind, point)| OperationalPublicKey::from_bytes(kind, &point).expect("a point"));
        let key = |algorithm, public, secret| SoftwareKey {
            public: VerificationKey::new(algorithm, public).expect("it fits"),
            secret,
        };
        vec![
            key(Algorithm::ES256, p256_public, Secret::P256(p256)),
            key(Algorithm::ES384, p384_public, Secret::P384(p384)),
            key(Algorithm::RS256, rsa_public(&RSA_3072), Secret::Rsa(&RSA_3072)),
            key(Algorithm::PS256, rsa_public(&RSA_3072), Secret::Rsa(&RSA_3072)),
            key(Algorithm::PS256, rsa_public(&RSA_4096), Secret::Rsa(&RSA_4096)),
        ]
    }

    pub(crate) fn sign(&self, digest: &MessageDigest) -> RawSignature {
        let bytes = digest.as_bytes();
        RawSignature(match &self.secret {
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(bytes).expect("signed");
                signature.to_bytes().to_vec()
            }
            Secret::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(bytes).expect("signed");
                signature.to_bytes().to_vec()
            }
            Secret::Rsa(key) => {
                let padding = match self.public.algorithm() {
                    Algorithm::PS256 => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let digest = LcDigest::import_less_safe(bytes, &digest::SHA256).expect("32 bytes");
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(padding, &digest, &mut signature).expect("signed");
                signature
            }
        })
    }
}

fn rsa_public(key: &RsaKeyPair) -> OperationalPublicKey {
    // An RSAPublicKey (RFC 8017 appendix A.1.1): header, header of n with its leading zero, n, e.
    let der = key.public_key().as_ref();
    let (modulus, exponent) = (&der[9..9 + key.public_modulus_len()], &der[der.len() - 3..]);
    OperationalPublicKey::from_rsa(modulus, exponent).expect("an RSA key")
}

#[test]
fn a_signature_verifies_for_its_key_its_algorithm_and_its_digest_alone() {
    let (keys, others) = (SoftwareKey::all(1), SoftwareKey::all(2));
    for (key, other) in keys.iter().zip(&others) {
        let algorithm = key.public.algorithm();
        let digest = algorithm.digest(b"a");
        let good = key.sign(&digest);
        key.public.verify(&digest, &good).unwrap_or_else(|_| panic!("{algorithm}"));
        assert!(key.public.verify(&algorithm.digest(b"b"), &good).is_err(), "{algorithm}");
        if algorithm.is_ecdsa() {
            assert!(other.public.verify(&digest, &good).is_err(), "{algorithm}");
        }
        for third in keys.iter().filter(|third| third.public != key.public) {
            assert!(third.public.verify(&third.public.algorithm().digest(b"a"), &good).is_err());
        }
        for at in [0, 1, good.0.len() / 2, good.0.len() - 1] {
            let mut changed = good.clone();
            changed.0[at] ^= 1;
            assert!(key.public.verify(&digest, &changed).is_err(), "{algorithm}, byte {at}");
        }
        for wrong in [&good.0[1..], &good.0[..good.0.len() - 1], &[&[0], &good.0[..]].concat(), &[]] {
            assert!(key.public.verify(&digest, &RawSignature(wrong.to_vec())).is_err(), "{algorithm}");
        }
    }
}

#[test]
fn only_es384_signs_sha384_and_it_signs_the_sha256_of_a_file_too() {
    for key in SoftwareKey::all(1) {
        let es384 = key.public.algorithm() == Algorithm::ES384;
        let sha384 = Algorithm::ES384.digest(b"a");
        if es384 {
            let file = MessageDigest::Sha256(Digest::of(b"a"));
            key.public.verify(&file, &key.sign(&file)).expect("a file");
            key.public.verify(&sha384, &key.sign(&sha384)).expect("a message");
            assert!(key.public.verify(&sha384, &key.sign(&file)).is_err());
        } else {
            let signature = key.sign(&key.public.algorithm().digest(b"a"));
            assert!(key.public.verify(&sha384, &signature).is_err());
        }
    }
}

#[test]
fn a_jwk_is_read_as_it_is_written_and_its_thumbprint_is_that_of_rfc_7638() {
    for key in SoftwareKey::all(1) {
        let public = key.public.public_key();
        let jwk = json::write(public);
        assert_eq!(json::read::<OperationalPublicKey>(&jwk).as_ref(), Ok(public));
        // The members are in lexicographic order, and nothing else is there.
        assert_eq!(public.thumbprint().as_bytes(), Digest::of(&jwk).as_bytes());
        assert_eq!(OperationalPublicKey::from_bytes(public.kind(), public.as_bytes()).as_ref(), Ok(public));
        assert_eq!(public.as_bytes().len(), public.kind().length());
    }
    // Of a P-256 key nothing differs from the JWKs of messages.
    let point = SoftwareKey::all(1)[0].public.public_key().as_bytes().try_into().expect("65 bytes");
    let plain = PublicKey::from_point(point).expect("a point");
    let public = OperationalPublicKey::from(plain.clone());
    assert_eq!(json::write(&public), json::write(&plain));
    assert_eq!(public.thumbprint(), plain.thumbprint());
}

#[test]
fn the_example_of_rfc_7638_is_too_short_a_key() {
    // Section 3.1 of that RFC: 2048 bits.
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok\
             njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ\
             vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnq\
             DKgw";
    let jwk = format!(r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#);
    assert!(json::read::<OperationalPublicKey>(jwk.as_bytes()).is_err());
}

#[test]
fn what_is_no_key_of_these_kinds_is_refused() {
    let keys = SoftwareKey::all(1);
    let [p256, p384, rsa] = [0, 1, 2].map(|at: usize| keys[at].public.public_key());
    let jwk = |key: &OperationalPublicKey| String::from_utf8(json::write(key)).expect("text");
    let [p256_jwk, p384_jwk, rsa_jwk] = [p256, p384, rsa].map(jwk);
    let n = encoding::encode(rsa.as_bytes());
    let mut even = rsa.as_bytes().to_vec();
    even[383] &= 0xfe;
    let mut short = rsa.as_bytes().to_vec();
    short[0] = 0x7f;
    for wrong in [
        p256_jwk.replace("P-256", "P-384"),
        p384_jwk.replace("P-384", "P-256"),
        p384_jwk.replace("P-384", "P-521"),
        p384_jwk.replace("\"EC\"", "\"RSA\""),
        p384_jwk.replace("{\"crv\"", "{\"alg\":\"ES384\",\"crv\""),
        p384_jwk.replace("\"kty\":\"EC\",", ""),
        rsa_jwk.replace("AQAB", "Aw"),
        rsa_jwk.replace("AQAB", "AAEAAQ"),
        rsa_jwk.replace("\"kty\":\"RSA\",", ""),
        rsa_jwk.replace("\"n\":", "\"d\":\"AQ\",\"n\":"),
        rsa_jwk.replace(&n, &encoding::encode(&even)),
        rsa_jwk.replace(&n, &encoding::encode(&short)),
        rsa_jwk.replace(&n, &encoding::encode(&rsa.as_bytes()[1..])),
        rsa_jwk.replace(&n, &encoding::encode(&[&[0], rsa.as_bytes()].concat())),
        rsa_jwk.replace(&n, &format!("{n}=")),
        format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB"}}"#),
    ] {
        assert!(json::read::<OperationalPublicKey>(wrong.as_bytes()).is_err(), "{wrong}");
    }
    let mut off_curve = p384.as_bytes().to_vec();
    off_curve[96] ^= 1;
    assert!(OperationalPublicKey::from_bytes(KeyKind::P384, &off_curve).is_err());
    assert!(OperationalPublicKey::from_bytes(KeyKind::P384, p256.as_bytes()).is_err());
    assert!(OperationalPublicKey::from_bytes(KeyKind::Rsa4096, rsa.as_bytes()).is_err());
    assert!(OperationalPublicKey::from_rsa(rsa.as_bytes(), &[3]).is_err());
    assert!(OperationalPublicKey::from_rsa(&[&[0, 0], rsa.as_bytes()].concat(), &[0, 1, 0, 1]).is_ok());
}

#[test]
fn a_key_has_an_algorithm_that_it_can_sign_by() {
    let fitting = |kind| Algorithm::ALL.into_iter().filter(move |algorithm| algorithm.fits(kind)).collect();
    let all: [(KeyKind, Vec<Algorithm>); 4] = KeyKind::ALL.map(|kind| (kind, fitting(kind)));
    let rsa = vec![Algorithm::RS256, Algorithm::PS256];
    let expected = [
        (KeyKind::P256, vec![Algorithm::ES256]),
        (KeyKind::P384, vec![Algorithm::ES384]),
        (KeyKind::Rsa3072, rsa.clone()),
        (KeyKind::Rsa4096, rsa),
    ];
    assert_eq!(all, expected);
    let p384 = SoftwareKey::all(1)[1].public.public_key().clone();
    let error = VerificationKey::new(Algorithm::ES256, p384).expect_err("it does not fit");
    assert_eq!(error.to_string(), "`alg` is ES256, and the key is P-384: ES256 needs one on P-256");
}

#[test]
fn the_public_key_in_der_is_the_one_that_others_write() {
    for key in SoftwareKey::all(1) {
        let der = key.public.public_key().to_spki_der().expect("it is written");
        let theirs = match &key.secret {
            Secret::P256(key) => {
                use p256::pkcs8::EncodePublicKey as _;
                key.verifying_key().to_public_key_der().expect("written").as_bytes().to_vec()
            }
            // RFC 5480: id-ecPublicKey, secp384r1, and a BIT STRING.
            Secret::P384(_) => {
                let point = key.public.public_key().as_bytes();
                let header = "3076301006072a8648ce3d020106052b81040022036200";
                let header =
                    (0..header.len()).step_by(2).map(|at| u8::from_str_radix(&header[at..at + 2], 16));
                header.map(|byte| byte.expect("hexadecimal")).chain(point.iter().copied()).collect()
            }
            Secret::Rsa(key) => key.public_key().as_der().expect("written").as_ref().to_vec(),
        };
        assert_eq!(der, theirs, "{}", key.public.algorithm());
    }
}

#[test]
fn a_key_file_says_what_a_jwk_does_not() {
    for key in SoftwareKey::all(1) {
        for adopted in [false, true] {
            let file = KeyFile { key: key.public.clone(), adopted };
            let text = json::write(&file);
            assert_eq!(json::read::<KeyFile>(&text).as_ref(), Ok(&file));
            let is_plain = !adopted && key.public.algorithm() == Algorithm::ES256;
            assert_eq!(text == json::write(key.public.public_key()), is_plain);
        }
    }
    let rsa = String::from_utf8(json::write(SoftwareKey::all(1)[2].public.public_key())).expect("text");
    // An RSA key does not say by itself how it signs.
    assert!(json::read::<KeyFile>(rsa.as_bytes()).is_err());
    for member in [
        r#""alg":"ES384""#,
        r#""alg":"RS512""#,
        r#""alg":null"#,
        r#""alg":"RS256","adopted":false"#,
        r#""alg":"RS256","use":"sig""#,
    ] {
        let wrong = rsa.replace("{\"e\"", &format!("{{{member},\"e\""));
        assert!(json::read::<KeyFile>(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
