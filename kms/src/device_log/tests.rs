//! A KMS whose key is in a YubiHSM, and somebody else who uses that, too.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use ::yubihsm::object::Label;
use ::yubihsm::{Capability, Client, Connector, Credentials, Domain, HttpConfig};
use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::message::KeyVersion;
use assent_consensus::operational_key::{Algorithm, KeyKind, RawSignature, VerificationKey};
use assent_consensus::time::UnixMillis;
use assent_yubihsm_simulator::{Capabilities, Settings, Simulator};

use super::*;
use crate::audit;
use crate::device::yubihsm::log::{LogMark, SIGN_ECDSA};
use crate::device::yubihsm::{YubiHsmDriver, YubiHsmSettings};
use crate::device::{Devices, Pool};
use crate::pin::PinSource;
use crate::signing::{KeyName, Signing, SigningError};
use crate::store::{Conclusion, NewKey};
use crate::testing::{NOW, SmallKms, main_device, order, release};

const OWN_KEY: u16 = 2;
const OWN_PASSWORD: &str = "correct horse";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What outlives a process.
struct Place {
    simulator: Simulator,
    directory: tempfile::TempDir,
}

/// One process.
struct Process {
    pins: Pins,
    writer: Arc<Writer>,
    driver: Arc<YubiHsmDriver>,
    devices: Arc<Devices>,
    signing: Signing,
}

impl Place {
    fn new() -> Place {
        let simulator = Simulator::start(Settings::default()).expect("started");
        let place = Place { simulator, directory: tempfile::tempdir().expect("a directory") };
        Store::create(place.directory.path(), UnixMillis::new(NOW)).expect("made");
        let password = place.directory.path().join("password");
        std::fs::write(&password, OWN_PASSWORD).expect("written");
        std::fs::set_permissions(password, std::fs::Permissions::from_mode(0o600)).expect("set");
        place.simulator.put_authentication_key(
            OWN_KEY,
            OWN_PASSWORD,
            Capabilities::KMS,
            Capabilities::SIGN_ECDSA,
        );
        place
    }

    fn somebody_else(&self) -> Client {
        let connector = Connector::http(&HttpConfig { port: self.simulator.port(), ..HttpConfig::default() });
        Client::open(connector, Credentials::default(), false).expect("a session")
    }

    fn store(&self) -> Store {
        Store::open_reader(self.directory.path()).expect("it opens")
    }

    /// A process; one that does not keep the log is one that is cut off before it does.
    fn start(&self, keeps_log: bool) -> Process {
        let (path, clock) = (self.directory.path(), Arc::new(|| UnixMillis::new(NOW)));
        let pins = Pins::load(&self.store()).expect("read");
        let writer = Arc::new(Writer::start(path, pins.clone()).expect("a writer"));
        let settings = YubiHsmSettings {
            connector: self.simulator.url(),
            serial: None,
            authentication_key: OWN_KEY,
            wrap_key: None,
            call_timeout: Duration::from_secs(10),
            log_poll: POLL,
        };
        let password = PinSource::new(&main_device(), Some(&path.join("password")), path).expect("a file");
        let driver = YubiHsmDriver::new(settings, password).expect("good settings");
        if keeps_log {
            let keeper =
                DeviceLog::new(main_device(), path.to_owned(), pins.clone(), writer.clone(), clock.clone());
            driver.keep_log(Arc::new(keeper)).expect("kept");
        }
        let driver = Arc::new(driver);
        let pool = Pool::start(driver.clone(), 4, Duration::from_secs(60)).expect("threads");
        let devices = Arc::new(Devices::new(main_device(), pool));
        let signing = Signing::new(pins.clone(), writer.clone(), self.store(), devices.clone(), clock);
        Process { pins, writer, driver, devices, signing }
    }

    /// Every entry of the audit log, which is whole.
    fn entries(&self) -> Vec<Entry> {
        audit::verify(&self.store(), &[]).expect("whole");
        let mut entries = Vec::new();
        let push = |_: u64, bytes: &[u8], _: Digest| {
            entries.push(json::read(bytes).expect("an entry"));
            Ok::<(), StoreError>(())
        };
        self.store().each_entry(1, push).expect("read");
        entries
    }

    /// What the device's log brought: signatures of ours by the key's number, and findings.
    fn device_log(&self) -> (Vec<u64>, Vec<String>) {
        let (mut signatures, mut all) = (Vec::new(), Vec::new());
        for entry in self.entries() {
            let Entry::DeviceLog { ours, findings, .. } = entry else { continue };
            let is_signature = |used: &&DeviceUse| used.command.get() == u64::from(SIGN_ECDSA);
            signatures.extend(ours.iter().filter(is_signature).map(|used| used.object.get()));
            all.extend(findings);
        }
        (signatures, all)
    }
}

impl Process {
    /// An active key; its number on the device.
    async fn make_key(&self, name: KeyName) -> u16 {
        let pool = self.devices.get(&main_device()).expect("there");
        let (object, public_key) =
            pool.run(|device| device.generate("a key", KeyKind::P256)).await.expect("generated");
        let at = UnixMillis::new(NOW);
        let version = KeyVersion::first();
        let new = NewKey {
            device: main_device(),
            object,
            name: name.clone(),
            version,
            public_key: VerificationKey::new(Algorithm::ES256, public_key.clone()).expect("it fits"),
            is_adopted: false,
            created: at,
        };
        let (key, by) = (LoggedKey::new(&name, version), Some(Integer::saturating(0)));
        let (device, bytes) = (main_device(), Bytes(object.as_bytes().to_vec()));
        let alg = Algorithm::ES256;
        let made = Entry::KeyCreated { at, by, key: key.clone(), device, object: bytes, alg, public_key };
        let (from, to) = ("pre-activation".into(), "active".into());
        let activated = Entry::KeyState { at, by: None, key, from, to, why: "a test".into() };
        let write = move |batch: &mut Batch<'_>| {
            batch.insert_key(&new)?;
            batch.activate_key(&new.name, version, None, &Digest::ZERO, (KeyState::Active, at))?;
            batch.append(&made)?;
            batch.append(&activated).map(drop)
        };
        self.writer.write(write).await.expect("written");
        yubihsm::object_number(&object).expect("a number")
    }

    fn state(&self, name: &KeyName) -> KeyState {
        self.pins.key_row(name, KeyVersion::first()).expect("a key").state
    }

    /// Waits until a key is in this state.
    async fn wait_for(&self, name: &KeyName, state: KeyState) {
        let look = async {
            while self.state(name) != state {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("in time");
    }

    /// Reads the device's log a last time, and ends.
    async fn end(self) {
        let Process { driver, devices, signing, .. } = self;
        let held = Arc::downgrade(&driver);
        let read = tokio::task::spawn_blocking(move || driver.read_log());
        read.await.expect("no panic").expect("read");
        drop((devices, signing));
        // The pool's threads hold it, too, until they are at their end.
        let gone = async {
            while held.strong_count() > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("in time");
    }
}

fn other_key() -> KeyName {
    KeyName::Operational("other".parse().expect("a name"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signature_is_in_the_audit_log_twice_as_ours_and_as_the_devices() {
    let place = Place::new();
    let process = place.start(true);
    let number = process.make_key(release()).await;
    process.pins.reload(&place.store()).expect("read");
    for request in 0..100 {
        process.signing.sign(order(request, "bytes")).await.expect("signed");
    }
    process.end().await;
    let (signatures, findings) = place.device_log();
    assert_eq!((signatures, findings), (vec![u64::from(number); 100], vec![]));
    let results = place.entries().iter().filter(|entry| matches!(entry, Entry::Result { .. })).count();
    assert_eq!(results, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_else_used_signs_nothing_more_and_others_do() {
    let place = Place::new();
    let process = place.start(true);
    let number = process.make_key(release()).await;
    process.make_key(other_key()).await;
    process.pins.reload(&place.store()).expect("read");
    process.signing.sign(order(1, "bytes")).await.expect("signed");
    place.somebody_else().sign_ecdsa_prehash_raw(number, vec![1; 32]).expect("signed");
    process.wait_for(&release(), KeyState::Suspended).await;
    let error = process.signing.sign(order(2, "bytes")).await.expect_err("suspended");
    assert!(matches!(error, SigningError::KeyNotActive { state: KeyState::Suspended, .. }), "{error}");
    assert_eq!(process.state(&other_key()), KeyState::Active);
    process.end().await;
    let (signatures, findings) = place.device_log();
    assert_eq!((signatures.len(), findings.len()), (1, 1), "{findings:?}");
    assert!(findings[0].contains("with authentication key 1 is not ours"), "{findings:?}");
    let why = place.entries().into_iter().find_map(|entry| match entry {
        Entry::KeyState { by: None, to, why, .. } if to == "suspended" => Some(why),
        _ => None,
    });
    assert_eq!(why.as_ref(), Some(&findings[0]));
    assert_eq!(place.start(true).state(&release()), KeyState::Suspended, "also after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_empties_the_devices_log_has_all_its_keys_suspended_and_new_ones_given_up() {
    let place = Place::new();
    let process = place.start(true);
    process.make_key(release()).await;
    process.make_key(other_key()).await;
    // As one that is not pinned yet.
    let (version, at) = (KeyVersion::first(), UnixMillis::new(NOW));
    let write =
        move |batch: &mut Batch<'_>| batch.set_key_state(&other_key(), version, KeyState::PreActivation, at);
    process.writer.write(write).await.expect("written");
    process.pins.reload(&place.store()).expect("read");
    process.end().await;
    let other = place.somebody_else();
    other
        .generate_wrap_key(
            9,
            Label::from("a"),
            Domain::DOM1,
            Capability::empty(),
            Capability::empty(),
            ::yubihsm::wrap::Algorithm::Aes128Ccm,
        )
        .expect("made");
    other.set_log_index(place.simulator.log().last().expect("an entry").number).expect("taken off");
    let process = place.start(true);
    process.signing.sign(order(1, "bytes")).await.expect("signed: nothing is known yet");
    process.wait_for(&release(), KeyState::Suspended).await;
    process.wait_for(&other_key(), KeyState::Compromised).await;
    process.end().await;
    let (_, findings) = place.device_log();
    assert!(findings[0].contains("somebody else took entries off it"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_that_was_cut_off_signed_is_known_by_its_intents() {
    let place = Place::new();
    let process = place.start(true);
    process.make_key(release()).await;
    process.pins.reload(&place.store()).expect("read");
    process.signing.sign(order(0, "bytes")).await.expect("signed");
    process.end().await;
    let cut_off = place.start(false);
    for request in 1..4 {
        cut_off.signing.sign(order(request, "bytes")).await.expect("signed");
    }
    cut_off.end().await;
    let process = place.start(true);
    process.signing.sign(order(4, "bytes")).await.expect("signed");
    process.end().await;
    let (signatures, findings) = place.device_log();
    assert_eq!((signatures.len(), findings), (5, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_was_under_way_while_the_log_was_read_is_known_after_a_restart() {
    let kms = SmallKms::new().await;
    let (directory, clock) = (kms.directory.path().to_owned(), Arc::new(|| UnixMillis::new(NOW)));
    let keeper = DeviceLog::new(main_device(), directory, kms.pins.clone(), kms.writer.clone(), clock);
    let keeper = Arc::new(keeper);
    let resumed = || keeper.resume("7").expect("read");
    assert_eq!(resumed(), LogResume::default());
    let (at, wanted) = (UnixMillis::new(NOW), order(1, "bytes"));
    let duty = wanted.duty();
    let intended = kms.writer.write(move |batch| batch.intend(at, wanted)).await.expect("written");
    let intent = intended.expect("not limited").recorded.intent;
    let mark = LogMark { item: 9, digest: [9; 16] };
    let (serial, matched, findings) = ("7".to_owned(), Vec::new(), Vec::new());
    let report = LogReport { serial, entries: 1, matched, last: mark, findings };
    let kept = keeper.clone();
    tokio::task::spawn_blocking(move || kept.keep(&report)).await.expect("no panic").expect("kept");
    let object = kms.pins.keys()[0].object;
    assert_eq!(resumed(), LogResume { mark: Some(mark), signed_with: vec![object] });
    let signature = RawSignature(vec![1; 64]);
    let conclusion = Conclusion { at, duty, intent, signature };
    kms.writer.write(move |batch| batch.conclude(&conclusion)).await.expect("written");
    assert_eq!(resumed(), LogResume { mark: Some(mark), signed_with: vec![object] });
    assert_eq!(keeper.resume("8").expect("read"), LogResume::default(), "another device");
}
