use assent_consensus::operational_key::{Algorithm, KeyKind, MessageDigest, VerificationKey};
use assent_hsm_mock::{SoftHsmToken, with_token};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};

use super::algorithm::P256_PARAMETERS;
use super::*;
use crate::device::EpochMark;

fn driver(token: &SoftHsmToken) -> Pkcs11Driver {
    let pin = PinSource::new(&"main".parse().expect("a name"), Some(token.pin_file()), token.directory())
        .expect("a file");
    Pkcs11Driver::new(token.module(), &token.uri(), pin, Profile::default()).expect("a good URI")
}

fn digest() -> MessageDigest {
    Algorithm::ES256.digest(b"a")
}

#[test]
fn a_generated_key_signs_and_is_never_extractable() {
    with_token!("one", |token| {
        let driver = driver(token);
        let mut device = driver.connect().expect("the token");
        let (object, public_key) = device.generate("a key", KeyKind::P256).expect("generated");
        assert_eq!(device.public_key(object), Ok(Some(public_key.clone())));
        let key = VerificationKey::new(Algorithm::ES256, public_key).expect("it fits");
        let digest = digest();
        key.verify(&digest, &device.sign(object, Algorithm::ES256, &digest).expect("signed")).expect("right");
        let listed = device.list().expect("a list");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].label.as_str(), listed[0].has_private), ("a key", true));

        let visit = driver.module.visit(token.module(), PATIENCE).expect("it runs");
        let slot = driver.choose(visit.context()).expect("the token").0;
        let session = visit.context().open_ro_session(slot).expect("a session");
        let private = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).expect("found");
        let types = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Value];
        let attributes = session.get_attributes(private[0], &types).expect("read");
        assert!(matches!(attributes[..], [Attribute::Sensitive(true), Attribute::Extractable(false)]));

        device.destroy(object).expect("destroyed");
        assert_eq!(device.public_key(object), Ok(None));
        assert_eq!(device.sign(object, Algorithm::ES256, &digest), Err(DeviceError::NoKey(object)));
    });
}

#[test]
fn a_key_that_could_leave_the_token_is_noticed() {
    with_token!("weak", |token| {
        let driver = driver(token);
        let device = driver.open().expect("the token");
        let public = [Attribute::Token(true), Attribute::EcParams(P256_PARAMETERS.to_vec())];
        let weak = |sensitive, extractable| {
            let private = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(sensitive),
                Attribute::Extractable(extractable),
                Attribute::Sign(true),
            ];
            let pair = device
                .call(|session| session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private));
            device.missing(pair.expect("generated").1).expect("read").first().map(|wanted| wanted.words)
        };
        assert_eq!(weak(false, false), Some("sensitive"));
        assert_eq!(weak(true, true), Some("non-extractable"));
        assert_eq!(weak(true, false), None);
    });
}

#[test]
fn a_mark_replaces_the_one_before() {
    with_token!("marks", |token| {
        let driver = driver(token);
        let mut device = driver.connect().expect("the token");
        assert_eq!(device.epoch_marks(), Ok(vec![]));
        for epoch in [1, 2, 2, 3] {
            let mark = EpochMark { instance: [7; 16], epoch };
            device.put_epoch_mark(mark).expect("put");
            assert_eq!(device.epoch_marks(), Ok(vec![mark]));
        }
        let mut second = driver.connect().expect("the token");
        assert_eq!(second.epoch_marks().map(|marks| marks.len()), Ok(1));
    });
}

#[test]
fn the_sessions_of_one_token_outlive_a_driver_of_another_on_the_same_module() {
    with_token!("first", |token| {
        let second = token.add_token("second").expect("a second token");
        let one = driver(token);
        let mut device = one.connect().expect("the first token");
        let (object, public_key) = device.generate("a key", KeyKind::P256).expect("generated");
        let pin =
            PinSource::new(&"other".parse().expect("a name"), Some(token.pin_file()), token.directory());
        let other = Pkcs11Driver::new(token.module(), &second, pin.expect("a file"), Profile::default())
            .expect("a good URI");
        drop(other.connect().expect("the second token"));
        drop(other);
        let key = VerificationKey::new(Algorithm::ES256, public_key).expect("it fits");
        let digest = digest();
        key.verify(&digest, &device.sign(object, Algorithm::ES256, &digest).expect("signed")).expect("right");
    });
}

#[test]
fn one_token_by_two_uris_is_noticed_before_its_pin_is_tried_twice() {
    with_token!("one", |token| {
        let one = driver(token);
        let device = one.connect().expect("the token");
        let pin =
            PinSource::new(&"other".parse().expect("a name"), Some(token.pin_file()), token.directory());
        let by_label =
            Pkcs11Driver::new(token.module(), "pkcs11:token=one", pin.expect("a file"), Profile::default());
        let refused = by_label.expect("a good URI").connect().err().expect("refused").to_string();
        assert!(refused.contains("another `[[device]]` already"), "{refused}");
        drop((device, one));
        let pin =
            PinSource::new(&"other".parse().expect("a name"), Some(token.pin_file()), token.directory());
        let by_label =
            Pkcs11Driver::new(token.module(), "pkcs11:token=one", pin.expect("a file"), Profile::default());
        by_label.expect("a good URI").connect().expect("it is free again");
    });
}

#[test]
fn a_token_that_is_taken_out_is_gone_and_back_when_it_is_put_back() {
    with_token!("moving", |token| {
        let driver = driver(token);
        let mut device = driver.connect().expect("the token");
        let (object, public_key) = device.generate("a key", KeyKind::P256).expect("generated");
        let (here, away) = (token.directory().join("tokens"), token.directory().join("away"));
        std::fs::rename(&here, &away).expect("taken out");
        let key = VerificationKey::new(Algorithm::ES256, public_key).expect("it fits");
        let digest = digest();
        assert!(device.sign(object, Algorithm::ES256, &digest).expect_err("gone").is_lost());
        assert!(device.public_key(object).expect_err("gone").is_lost());
        assert!(device.epoch_marks().expect_err("gone").is_lost());
        drop(device);
        assert!(driver.connect().err().expect("gone").is_lost());
        std::fs::rename(&away, &here).expect("put back");
        let mut device = driver.connect().expect("the token");
        key.verify(&digest, &device.sign(object, Algorithm::ES256, &digest).expect("signed")).expect("right");
    });
}

#[test]
fn keys_of_every_kind_sign_by_every_algorithm_that_fits_them() {
    with_token!("kinds", |token| {
        let driver = driver(token);
        let mut device = driver.connect().expect("the token");
        for kind in KeyKind::ALL {
            let (object, public_key) = device.generate("a key", kind).expect("generated");
            assert_eq!(public_key.kind(), kind);
            assert_eq!(device.public_key(object), Ok(Some(public_key.clone())));
            for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.fits(kind)) {
                let key = VerificationKey::new(algorithm, public_key.clone()).expect("it fits");
                // Of a message, and of a file that is known by its SHA-256.
                for digest in [algorithm.digest(b"a"), digest()] {
                    let signature = device.sign(object, algorithm, &digest).expect("signed");
                    assert_eq!(signature.0.len(), kind.signature_length());
                    key.verify(&digest, &signature).unwrap_or_else(|_| panic!("{kind} {algorithm}"));
                }
            }
        }
        let mut kinds: Vec<KeyKind> = device
            .list()
            .expect("a list")
            .iter()
            .filter_map(|key| key.public_key.as_ref().filter(|_| key.has_private).map(|key| key.kind()))
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, KeyKind::ALL);

        // An RSA key could do more than sign.
        let device = driver.open().expect("the token");
        let rsa = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)];
        let keys = device.call(|session| session.find_objects(&rsa)).expect("found");
        assert_eq!(keys.len(), 2);
        let types = [AttributeType::Sign, AttributeType::Decrypt, AttributeType::Unwrap];
        for key in keys {
            let can = device.call(|session| session.get_attributes(key, &types)).expect("read");
            assert!(matches!(
                can[..],
                [Attribute::Sign(true), Attribute::Decrypt(false), Attribute::Unwrap(false)]
            ));
        }
    });
}
