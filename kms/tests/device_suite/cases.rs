//! The cases.

use std::sync::Arc;

use assent_consensus::operational_key::{Algorithm, KeyKind, OperationalPublicKey, VerificationKey};
use assent_kms::device::{CALL_TIMEOUT, Device, DeviceError, EpochMark, ObjectId, Pool};

use crate::devices::TestedDevice;

const ALGORITHM: Algorithm = Algorithm::ES256;

fn generate(device: &mut dyn Device, label: &str) -> (ObjectId, OperationalPublicKey) {
    device.generate(label, KeyKind::P256).expect("a key")
}

/// Whether the device's signature of `text` is the key's.
fn signs(device: &mut dyn Device, object: ObjectId, key: &OperationalPublicKey, text: &str) -> bool {
    let digest = ALGORITHM.digest(text.as_bytes());
    let signature = device.sign(object, ALGORITHM, &digest).expect("a signature");
    VerificationKey::new(ALGORITHM, key.clone())
        .expect("a key of this kind")
        .verify(&digest, &signature)
        .is_ok()
}

pub fn a_key_that_it_makes_signs_and_is_listed(tested: &TestedDevice) {
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    let info = device.info().expect("what it says of itself");
    assert!(!info.serial.is_empty() || !info.label.is_empty(), "{info:?}");
    let (object, key) = generate(&mut *device, "assent-key-one-v1");
    assert_eq!(device.public_key(object), Ok(Some(key.clone())));
    assert!(signs(&mut *device, object, &key, "a"));
    let listed = device.list().expect("a list");
    let [found] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((found.object, found.has_private), (object, true));
    assert_eq!(found.label, "assent-key-one-v1");
    assert_eq!(found.public_key.as_ref(), Some(&key));
}

pub fn two_keys_sign_each_for_itself(tested: &TestedDevice) {
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    let (one, one_key) = generate(&mut *device, "assent-key-one-v1");
    let (two, two_key) = generate(&mut *device, "assent-key-two-v1");
    assert_ne!((one, &one_key), (two, &two_key));
    for (object, key, other) in [(one, &one_key, &two_key), (two, &two_key, &one_key)] {
        assert!(signs(&mut *device, object, key, "b"));
        assert!(!signs(&mut *device, object, other, "b"));
    }
}

pub fn many_sign_at_once(tested: &TestedDevice) {
    let driver = tested.driver();
    let (object, key) = generate(&mut *driver.connect().expect("a session"), "assent-key-many-v1");
    let key = VerificationKey::new(ALGORITHM, key).expect("a key of this kind");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("threads");
    let pool = Arc::new(Pool::start(driver, 4, CALL_TIMEOUT).expect("threads"));
    let signing = (0..64).map(|number: u32| {
        let (pool, key) = (pool.clone(), key.clone());
        let digest = ALGORITHM.digest(&number.to_be_bytes());
        runtime.spawn(async move { pool.sign(object, key, digest).await })
    });
    let signing: Vec<_> = signing.collect();
    for signed in signing {
        // The pool verified it.
        runtime.block_on(signed).expect("no panic").expect("a signature");
    }
}

pub fn a_key_is_found_again_by_another_driver(tested: &TestedDevice) {
    let (object, key) = {
        let driver = tested.driver();
        let mut device = driver.connect().expect("a session");
        generate(&mut *device, "assent-key-kept-v1")
    };
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    assert_eq!(device.public_key(object), Ok(Some(key.clone())));
    assert!(signs(&mut *device, object, &key, "c"));
    // A session may end before the one beside it.
    let mut beside = driver.connect().expect("a second session");
    drop(device);
    assert!(signs(&mut *beside, object, &key, "d"));
}

pub fn a_key_that_is_destroyed_is_gone(tested: &TestedDevice) {
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    let (object, key) = generate(&mut *device, "assent-key-gone-v1");
    let (other, other_key) = generate(&mut *device, "assent-key-stays-v1");
    assert!(signs(&mut *device, object, &key, "e"));
    device.destroy(object).expect("destroyed");
    assert_eq!(device.public_key(object), Ok(None));
    let digest = ALGORITHM.digest(b"e");
    assert_eq!(device.sign(object, ALGORITHM, &digest), Err(DeviceError::NoKey(object)));
    assert_eq!(device.list().expect("a list").len(), 1);
    assert!(signs(&mut *device, other, &other_key, "e"));
}

pub fn a_mark_replaces_the_one_before(tested: &TestedDevice) {
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    assert_eq!(device.epoch_marks(), Ok(vec![]));
    for epoch in [1, 2, 2, 3] {
        let mark = EpochMark { instance: [7; 16], epoch };
        device.put_epoch_mark(mark).expect("put");
        assert_eq!(device.epoch_marks(), Ok(vec![mark]));
    }
    drop((device, driver));
    let mut device = tested.driver().connect().expect("a session");
    assert_eq!(device.epoch_marks(), Ok(vec![EpochMark { instance: [7; 16], epoch: 3 }]));
}

/// Invariant I12.
pub fn a_wrong_pin_is_tried_once(tested: &TestedDevice) {
    let wrong = tested.wrong_pin();
    for _ in 0..3 {
        let refused = tested.driver_with(wrong.clone()).connect().err().expect("refused");
        assert!(matches!(refused, DeviceError::Pin(_)), "{refused:?}");
    }
    assert!(wrong.is_marked());
    // The right one waits for a person too.
    let refused = tested.driver().connect().err().expect("refused");
    assert!(matches!(refused, DeviceError::Pin(_)), "{refused:?}");
    assert!(tested.right_pin().retry().expect("the mark is removed"));
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    let (object, key) = generate(&mut *device, "assent-key-pin-v1");
    assert!(signs(&mut *device, object, &key, "f"));
}

pub fn a_key_that_is_not_there_is_named(tested: &TestedDevice) {
    let driver = tested.driver();
    let mut device = driver.connect().expect("a session");
    let (object, _) = generate(&mut *device, "assent-key-named-v1");
    device.destroy(object).expect("destroyed");
    let refused = device.sign(object, ALGORITHM, &ALGORITHM.digest(b"g")).expect_err("refused");
    assert!(refused.to_string().contains(&object.to_string()), "{refused}");
    assert_eq!(device.public_key(object), Ok(None));
    assert_eq!(device.list(), Ok(vec![]));
}
