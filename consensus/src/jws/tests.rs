//! What is no message, and what is no good signature of one.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature as P256Signature, SigningKey};

use super::*;
use crate::message::Cancel;

/// The order of P-256's group (FIPS 186-5, SP 800-186 section 3.2.1.3).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

struct Signing {
    secret: SigningKey,
    public: PublicKey,
}

impl Signing {
    fn new() -> Signing {
        let secret = SigningKey::from_slice(&[7; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        Signing { public: PublicKey::from_point(point.as_bytes().try_into().unwrap()).unwrap(), secret }
    }

    /// A JWS whose signature is good, whatever header and payload say.
    fn sign(&self, header: &str, payload: &str) -> String {
        let input =
            format!("{}.{}", encoding::encode(header.as_bytes()), encoding::encode(payload.as_bytes()));
        let signature: P256Signature = self.secret.sign(input.as_bytes());
        format!("{input}.{}", encoding::encode(&signature.to_bytes()))
    }

    fn header(&self) -> String {
        header(self.public.thumbprint(), Typ::Cancel)
    }

    fn good(&self) -> String {
        self.sign(&self.header(), &payload())
    }

    fn verify(&self, jws: &str) -> Result<Verified<Cancel>, JwsError> {
        Signed::<Cancel>::parse(jws.as_bytes())?.verify(&self.public)
    }
}

fn payload() -> String {
    format!(r#"{{"deployment":"{}","chain":"process","case":"a","nonce":"AAAA"}}"#, Digest::ZERO)
}

/// The message with another signature of these 64 bytes.
fn with_signature(jws: &str, signature: &[u8]) -> String {
    let (input, _) = jws.rsplit_once('.').unwrap();
    format!("{input}.{}", encoding::encode(signature))
}

fn signature_of(jws: &str) -> [u8; 64] {
    encoding::decode_array(jws.rsplit_once('.').unwrap().1).unwrap()
}

#[test]
fn what_we_write_is_what_we_read() {
    let signing = Signing::new();
    let verified = signing.verify(&signing.good()).unwrap();
    assert_eq!(verified.jws().as_str(), signing.good());
    let unsigned = Unsigned::new(signing.public.thumbprint(), (*verified).clone());
    let signature: P256Signature = signing.secret.sign(unsigned.signing_input());
    let attached = unsigned.attach(&signature.to_bytes().into(), &signing.public).unwrap();
    assert_eq!(attached, verified);
}

#[test]
fn only_the_one_header_is_read_even_if_its_signature_is_good() {
    let signing = Signing::new();
    let good = signing.header();
    let kid = signing.public.thumbprint();
    let typ = Typ::Cancel.as_str();
    let headers = [
        good.replace("ES256", "none"),
        good.replace("ES256", "NONE"),
        good.replace("ES256", "HS256"),
        good.replace("ES256", "ES384"),
        good.replace("ES256", "es256"),
        good.replace(typ, "JWT"),
        good.replace(typ, "in-toto+jws"),
        good.replace(typ, "application/assent-cancel+jws"),
        good.replace(typ, "ASSENT-CANCEL+JWS"),
        format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{typ}","crit":[]}}"#),
        format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{typ}","jwk":{{}}}}"#),
        format!(r#"{{"alg":"ES256","alg":"ES256","kid":"{kid}","typ":"{typ}"}}"#),
        format!(r#"{{"alg":"none","alg":"ES256","kid":"{kid}","typ":"{typ}"}}"#),
        format!(r#"{{"kid":"{kid}","alg":"ES256","typ":"{typ}"}}"#),
        format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#),
        format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#),
        format!(r#"{{ "alg":"ES256","kid":"{kid}","typ":"{typ}"}}"#),
        format!("{good} "),
        good.replace("kid", r"\u006bid"),
        "{}".into(),
        String::new(),
    ];
    for header in headers {
        let found = signing.verify(&signing.sign(&header, &payload()));
        assert_eq!(found.unwrap_err(), JwsError::Header, "{header}");
    }
}

#[test]
fn a_message_of_another_type_or_key_is_refused() {
    let signing = Signing::new();
    let start = signing.sign(&header(signing.public.thumbprint(), Typ::Start), &payload());
    assert!(matches!(signing.verify(&start), Err(JwsError::WrongTyp { .. })));
    let other = Thumbprint::from_bytes([1; 32]);
    let named = signing.sign(&header(other, Typ::Cancel), &payload());
    assert!(matches!(signing.verify(&named), Err(JwsError::WrongKey { .. })));
}

#[test]
fn a_payload_with_other_duplicate_or_misplaced_members_is_refused() {
    let signing = Signing::new();
    let good = payload();
    let payloads = [
        good.replace(r#""case":"a""#, r#""case":"a","case":"a""#),
        good.replace(r#""case":"a""#, r#""case":"a","c\u0061se":"b""#),
        good.replace(r#""case":"a""#, r#""case":"a","more":1"#),
        good.replace(r#","nonce":"AAAA""#, ""),
        good.replace(r#""chain":"process","case":"a""#, r#""case":"a","chain":"process""#),
        good.replace("AAAA", "AAA="),
        good.replace("AAAA", "AB"),
        good.replace(r#""a""#, r#""A""#),
        good.replace(r#""a""#, r#""\ud800""#),
        format!("{good}{good}"),
        format!("{good}x"),
        String::new(),
        "null".into(),
        "[]".into(),
    ];
    for payload in payloads {
        let found = signing.verify(&signing.sign(&signing.header(), &payload));
        assert!(matches!(found, Err(JwsError::Payload { .. })), "{payload}: {found:?}");
    }
}

#[test]
fn only_canonical_base64url_in_three_parts_is_read() {
    let signing = Signing::new();
    let good = signing.good();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let last = |text: &str| text[..text.len() - 1].to_owned();
    // 64 bytes leave four bits of the last character unused.
    let unused = last(signature) + if signature.ends_with('A') { "B" } else { "_" };
    for wrong in [
        format!("{header}.{payload}"),
        format!("{header}.{payload}.{signature}."),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", last(signature)),
        format!("{header}.{payload}.{unused}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}=="),
        format!("{header}.{payload}.{signature}AA"),
        format!("{header}.{payload}={signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{}.{signature}", last(payload)),
        format!("{}.{payload}.{signature}", last(header)),
        format!("{good}\n"),
        format!(" {good}"),
        good.replacen('.', ". ", 1),
        good.to_uppercase(),
        String::new(),
        "..".into(),
    ] {
        assert!(signing.verify(&wrong).is_err(), "{wrong}");
    }
    let mut bytes = good.into_bytes();
    bytes[3] = 0xff;
    assert_eq!(Jws::parse(&bytes), Err(JwsError::Form));
}

#[test]
fn r_and_s_outside_of_their_range_are_refused() {
    let signing = Signing::new();
    let good = signing.good();
    let (r, s) = (&signature_of(&good)[..32], &signature_of(&good)[32..]);
    let mut beyond = ORDER;
    beyond[31] += 1;
    let (zero, all) = ([0; 32], [0xff; 32]);
    for [r, s] in [
        [&zero, s],
        [r, &zero],
        [&zero, &zero],
        [&ORDER, s],
        [r, &ORDER],
        [&beyond, s],
        [r, &beyond],
        [&all, s],
        [r, &all],
        [s, r],
    ] {
        let wrong = with_signature(&good, &[r, s].concat());
        assert!(matches!(signing.verify(&wrong), Err(JwsError::BadSignature(_))), "{wrong}");
    }
}

#[test]
fn a_high_s_is_as_good_as_a_low_one_and_makes_the_same_message() {
    let signing = Signing::new();
    let good = signing.good();
    let mut high = signature_of(&good);
    let mut borrow = 0;
    for (at, digit) in ORDER.iter().enumerate().rev() {
        let difference = i16::from(*digit) - i16::from(high[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        high[32 + at] = difference.rem_euclid(256) as u8;
    }
    let other = with_signature(&good, &high);
    assert_ne!(other, good);
    let (other, good) = (signing.verify(&other).unwrap(), signing.verify(&good).unwrap());
    assert!(other.jws().is_same_message(good.jws()));
    assert_ne!(other.digest(), good.digest());
}

#[test]
fn a_message_has_a_largest_size() {
    let large = |length: usize| Jws::parse(&vec![b'e'; length]);
    assert!(matches!(large(MESSAGE_LIMIT + 1), Err(JwsError::TooLarge { .. })));
    assert_eq!(large(MESSAGE_LIMIT), Err(JwsError::Form));
    let signing = Signing::new();
    let ballot = header(signing.public.thumbprint(), Typ::Ballot);
    let padded = signing.sign(&ballot, &"x".repeat(BALLOT_LIMIT));
    assert!(matches!(Jws::parse(padded.as_bytes()), Err(JwsError::TooLarge { limit: BALLOT_LIMIT, .. })));
}
