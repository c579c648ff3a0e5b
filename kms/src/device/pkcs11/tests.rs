use assent_consensus::operational_key::{Algorithm, KeyKind, MessageDigest, RawSignature, VerificationKey};
use assent_hsm_mock::{Fault, FaultModule, SoftHsmToken, with_token};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};

use super::algorithm::P256_PARAMETERS;
use super::*;
use crate::device::{EpochMark, ObjectId};

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

fn sign(device: &mut dyn Device, object: ObjectId) -> Result<RawSignature, DeviceError> {
    device.sign(object, Algorithm::ES256, &Algorithm::ES256.digest(b"a"))
}

#[test]
fn a_key_that_somebody_else_destroyed_is_missed_and_not_looked_for_for_ever() {
    with_token!("robbed", |token| {
        let driver = driver(token);
        let mut device = driver.connect().expect("the token");
        let (object, _) = device.generate("a key", KeyKind::P256).expect("generated");
        sign(device.as_mut(), object).expect("signed");
        let mut other = driver.connect().expect("a second session");
        other.destroy(object).expect("destroyed");
        // Its handle is of no use any more: whoever holds the session asks with a new one.
        assert!(sign(device.as_mut(), object).expect_err("no key").is_lost());
        let mut fresh = driver.connect().expect("a new session");
        assert_eq!(sign(fresh.as_mut(), object), Err(DeviceError::NoKey(object)));
    });
}

#[test]
fn two_private_keys_with_one_id_are_not_guessed_between() {
    with_token!("twins", |token| {
        let driver = driver(token);
        let device = driver.open().expect("the token");
        let id = vec![7; 16];
        for _ in 0..2 {
            let named = [Attribute::Token(true), Attribute::Id(id.clone())];
            let public = [&named[..], &[Attribute::EcParams(P256_PARAMETERS.to_vec())]].concat();
            let private = [&named[..], &[Attribute::Sensitive(true), Attribute::Sign(true)]].concat();
            device
                .call(|session| session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private))
                .expect("generated");
        }
        let mut device = driver.connect().expect("a session");
        let refused = sign(device.as_mut(), ObjectId::from([7; 16])).expect_err("which?");
        assert!(refused.to_string().contains("two private keys have the id"), "{refused}");
    });
}

/// Invariant I12, in the life of one process.
#[test]
fn a_pin_that_is_wrong_at_a_reconnect_is_tried_once() {
    with_token!("changed", |token| {
        let mut faults = FaultModule::over(token.module(), token.directory()).expect("built");
        faults.write_down_calls_of(&["C_Login"]).expect("written");
        let pin = PinSource::new(&"main".parse().expect("a name"), Some(token.pin_file()), token.directory())
            .expect("a file");
        let driver = Pkcs11Driver::new(faults.module(), &token.uri(), pin.clone(), Profile::default())
            .expect("a good URI");
        drop(driver.connect().expect("the token"));
        faults.set(vec![Fault::answer("C_Login", "CKR_PIN_INCORRECT")]).expect("written");
        for _ in 0..5 {
            let refused = driver.connect().err().expect("refused");
            assert!(matches!(refused, DeviceError::Pin(_)), "{refused:?}");
        }
        let logins = faults.calls().expect("written down");
        assert_eq!(logins.iter().filter(|call| call.code == "CKR_PIN_INCORRECT").count(), 1, "{logins:?}");
        faults.lift().expect("written");
        assert!(driver.connect().is_err(), "a person has not looked yet");
        assert!(pin.retry().expect("removed"));
        driver.connect().expect("the token");
    });
}

#[test]
fn a_module_is_never_finalised_under_a_call_however_many_sessions_fail_at_once() {
    with_token!("restarts", |token| {
        // The module ends the process if it is.
        let faults = FaultModule::over(token.module(), token.directory()).expect("built");
        let pin = PinSource::new(&"main".parse().expect("a name"), Some(token.pin_file()), token.directory())
            .expect("a file");
        let driver =
            Pkcs11Driver::new(faults.module(), &token.uri(), pin, Profile::default()).expect("a good URI");
        let (object, _) =
            driver.connect().expect("the token").generate("a key", KeyKind::P256).expect("generated");
        for round in 0..40 {
            let fault = Fault::answer("C_SignInit", "CKR_CRYPTOKI_NOT_INITIALIZED").times(1 + round % 4);
            faults.set(vec![fault]).expect("written");
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| {
                        let once = || sign(driver.connect().ok()?.as_mut(), object).ok();
                        let signed = (0..10).any(|_| once().is_some());
                        assert!(signed, "ten tries are enough");
                    });
                }
            });
        }
    });
}
