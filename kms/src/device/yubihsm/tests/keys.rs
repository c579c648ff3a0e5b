//! What an authentication key may do, and what keys become.

use super::*;

#[test]
fn a_key_is_made_used_attested_and_destroyed() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let desk = Desk::new(firmware);
        let driver = desk.driver_with(|_| {});
        let mut device = driver.open().expect("a session");
        let (object, public_key) =
            device.generate("assent key release v1", KeyKind::P256).expect("generated");
        let key = verification_key(public_key.clone());
        assert_eq!(device.public_key(object), Ok(Some(public_key.clone())));
        sign(&mut device, object, &key);
        let certificate = device.attest(object).expect("attested");
        assert!(certificate.windows(65).any(|part| part == public_key.as_bytes()));
        let listed = device.list().expect("listed");
        assert_eq!((listed[0].object, listed[0].label.as_str()), (object, "assent key release v1"));
        assert!(device.wrap_export(object).is_err(), "no wrap key is configured");
        device.destroy(object).expect("destroyed");
        assert_eq!(device.public_key(object), Ok(None));
        assert_eq!(fail(&mut device, object), DeviceError::NoKey(object));
        let info = device.info().expect("it says what it is");
        assert_eq!((info.serial.as_str(), info.sessions), ("7550001", Some(1)));
    }
}

#[test]
fn a_key_on_p384_signs_both_digests_and_rsa_is_for_another_device() {
    let desk = Desk::new(Firmware::V2_4);
    let driver = desk.driver_with(|_| {});
    let mut device = driver.open().expect("a session");
    let (object, key) = device.generate("one", KeyKind::P384).expect("generated");
    assert_eq!(device.public_key(object), Ok(Some(key.clone())));
    let key = VerificationKey::new(Algorithm::ES384, key).expect("it fits");
    for digest in [Algorithm::ES384.digest(b"message"), digest()] {
        let signature = device.sign(object, Algorithm::ES384, &digest).expect("signed");
        key.verify(&digest, &signature).expect("right");
    }
    let refused = device.generate("two", KeyKind::Rsa4096);
    assert_eq!(refused.err(), Some(DeviceError::NotSupported(KeyKind::Rsa4096)));
}

#[test]
fn a_mark_replaces_the_one_before_and_a_key_goes_to_a_second_device() {
    let (desk, other) = (Desk::new(Firmware::V2_4), Desk::new(Firmware::V2_4));
    for desk in [&desk, &other] {
        let capabilities = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
        let delegated = Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP;
        let (label, algorithm) = (Label::from("backup"), wrap::Algorithm::Aes256Ccm);
        let put = desk.somebody_else().put_wrap_key(
            WRAP_KEY,
            label,
            Domain::DOM1,
            capabilities,
            delegated,
            algorithm,
            vec![5; 32],
        );
        put.expect("put");
    }
    let driver = desk.driver_with(|settings| settings.wrap_key = Some(WRAP_KEY));
    let mut device = driver.open().expect("a session");
    for epoch in [1, 2] {
        let mark = EpochMark { instance: [7; 16], epoch };
        device.put_epoch_mark(mark).expect("put");
        assert_eq!(device.epoch_marks(), Ok(vec![mark]));
    }
    let (object, key) = device.generate("to be backed up", KeyKind::P256).expect("generated");
    let key = verification_key(key);
    let wrapped = device.wrap_export(object).expect("exported");
    let driver = other.driver_with(|settings| settings.wrap_key = Some(WRAP_KEY));
    let mut device = driver.open().expect("a session");
    assert_eq!(device.wrap_import(&wrapped), Ok(object));
    sign(&mut device, object, &key);
}

#[test]
fn a_capability_that_is_missing_is_named() {
    for (lacking, name) in [
        (Capability::GET_LOG_ENTRIES, "`get-log-entries`"),
        (Capability::SIGN_ECDSA, "`sign-ecdsa`"),
        (Capability::PUT_OPTION, "cannot be told to"),
    ] {
        let desk = Desk::new(Firmware::V2_4);
        desk.somebody_else().delete_object(OWN_KEY, Type::AuthenticationKey).expect("deleted");
        desk.put_own_key((NEEDED | Capability::PUT_OPTION) - lacking);
        let error = desk.kept().0.open().err().expect("not enough");
        assert!(matches!(&error, DeviceError::Setup(why) if why.contains(name)), "{error}");
    }
}

#[test]
fn a_wrong_password_is_tried_once_and_never_again_without_a_person() {
    let desk = Desk::new(Firmware::V2_4);
    desk.write_password("wrong");
    let driver = desk.driver_with(|_| {});
    let error = driver.open().err().expect("refused");
    assert!(matches!(&error, DeviceError::Pin(why) if why.contains("retry-pin")), "{error}");
    let sessions = desk.simulator.calls(Command::CREATE_SESSION);
    desk.write_password(OWN_PASSWORD);
    let error = driver.open().err().expect("marked");
    assert_eq!(
        error.to_string(),
        PinError::Marked { path: desk.directory.path().join("password") }.to_string()
    );
    assert_eq!(desk.simulator.calls(Command::CREATE_SESSION), sessions);
}

#[test]
fn a_key_that_was_put_is_taken_over_with_doubts_and_one_that_cannot_sign_is_not() {
    let desk = Desk::new(Firmware::V2_4);
    for (id, capabilities) in [(9, Capability::SIGN_ECDSA), (10, Capability::DERIVE_ECDH)] {
        let (label, algorithm) = (Label::from("before"), asymmetric::Algorithm::EcP256);
        let put = desk.somebody_else().put_asymmetric_key(
            id,
            label,
            Domain::DOM1,
            capabilities,
            algorithm,
            vec![7; 32],
        );
        put.expect("put");
    }
    let driver = desk.driver_with(|_| {});
    let mut device = driver.open().expect("a session");
    let adoptable = device.adoptable(ObjectId::from([0, 9])).expect("an answer").expect("there");
    assert_eq!(adoptable.doubts, ["generated in the token"]);
    sign(&mut device, ObjectId::from([0, 9]), &verification_key(adoptable.public_key));
    let refused = device.adoptable(ObjectId::from([0, 10]));
    assert!(matches!(refused, Err(DeviceError::NotAdoptable { .. })), "{refused:?}");
    assert_eq!(device.adoptable(ObjectId::from([0, 11])), Ok(None));
}

#[test]
fn a_key_that_may_not_switch_the_audit_is_enough_once_it_is_on() {
    let desk = Desk::new(Firmware::V2_4);
    desk.kept().0.open().expect("it switches the audit on");
    desk.simulator.put_authentication_key(
        OWN_KEY,
        OWN_PASSWORD,
        assent_yubihsm_simulator::Capabilities(NEEDED.bits()),
        assent_yubihsm_simulator::Capabilities(Capability::SIGN_ECDSA.bits()),
    );
    make_key(&desk.kept().0);
}
