//! The driver and the simulator, which misbehaves as devices, connectors and people do.

use std::sync::mpsc;
use std::time::Duration;

use ::yubihsm::object::{Label, Type};
use ::yubihsm::{AuditOption, Capability, Domain, asymmetric, authentication, command, wrap};
use assent_consensus::operational_key::{
    Algorithm, KeyKind, MessageDigest, OperationalPublicKey, VerificationKey,
};
use assent_yubihsm_simulator::{
    Command, DEFAULT_KEY, DEFAULT_PASSWORD, ErrorCode, Fault, Firmware, Settings, Simulator, What,
};

use super::capability::NEEDED;
use super::log::{Finding, LogMark, SIGN_ECDSA};
use super::*;
use crate::device::{EpochMark, ObjectId, Pool};
use crate::pin::PinError;

/// The KMS's authentication key and its password.
const OWN_KEY: u16 = 2;
const OWN_PASSWORD: &str = "correct horse";
const WRAP_KEY: u16 = 3;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device that was made ready for a KMS.
struct Desk {
    simulator: Simulator,
    directory: tempfile::TempDir,
}

impl Desk {
    fn new(firmware: Firmware) -> Desk {
        let simulator = Simulator::start(Settings { firmware, ..Settings::default() }).expect("started");
        let desk = Desk { simulator, directory: tempfile::tempdir().expect("a directory") };
        desk.write_password(OWN_PASSWORD);
        desk.put_own_key(NEEDED | Capability::PUT_OPTION);
        desk
    }

    fn write_password(&self, password: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory.path().join("password");
        std::fs::write(&path, password).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
    }

    /// Makes the KMS's authentication key.
    fn put_own_key(&self, capabilities: Capability) {
        let more = Capability::SIGN_ATTESTATION_CERTIFICATE
            | Capability::EXPORT_WRAPPED
            | Capability::IMPORT_WRAPPED
            | Capability::PUT_OPTION;
        let delegated = Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP;
        let key = authentication::Key::derive_from_password(OWN_PASSWORD.as_bytes());
        self.somebody_else()
            .put_authentication_key(
                OWN_KEY,
                Label::from("assent"),
                Domain::DOM1,
                capabilities | (more - (NEEDED | Capability::PUT_OPTION)),
                delegated,
                authentication::Algorithm::YubicoAes,
                key,
            )
            .expect("put");
    }

    /// The device's administrator, or whoever has his password.
    fn somebody_else(&self) -> Client {
        let connector = Connector::http(&HttpConfig { port: self.simulator.port(), ..HttpConfig::default() });
        let credentials = Credentials::from_password(DEFAULT_KEY, DEFAULT_PASSWORD.as_bytes());
        Client::open(connector, credentials, false).expect("a session")
    }

    fn driver_with(&self, change: impl FnOnce(&mut YubiHsmSettings)) -> YubiHsmDriver {
        let mut settings = YubiHsmSettings {
            connector: self.simulator.url(),
            serial: None,
            authentication_key: OWN_KEY,
            wrap_key: None,
            call_timeout: Duration::from_secs(5),
            log_poll: Duration::from_millis(50),
        };
        change(&mut settings);
        let (file, marks) = (self.directory.path().join("password"), self.directory.path());
        let password = PinSource::new(&"main".parse().expect("a name"), Some(&file), marks).expect("a file");
        YubiHsmDriver::new(settings, password).expect("good settings")
    }

    /// A driver that keeps the log, and what it keeps.
    fn kept(&self) -> (Arc<YubiHsmDriver>, Arc<Book>) {
        let (driver, book) = (self.driver_with(|_| {}), Arc::new(Book::default()));
        driver.keep_log(book.clone()).expect("kept");
        (Arc::new(driver), book)
    }
}

/// A keeper in memory.
#[derive(Default)]
struct Book {
    resume: LogResume,
    reports: Mutex<Vec<LogReport>>,
    listener: Mutex<Option<mpsc::Sender<()>>>,
}

impl LogKeeper for Book {
    fn resume(&self, _serial: &str) -> Result<LogResume, String> {
        Ok(self.resume.clone())
    }

    fn keep(&self, report: &LogReport) -> Result<(), String> {
        self.reports.lock().expect("no test panics in it").push(report.clone());
        if let Some(listener) = self.listener.lock().expect("no test panics in it").as_ref() {
            // The test may have seen enough.
            let _ = listener.send(());
        }
        Ok(())
    }
}

impl Book {
    fn findings(&self) -> Vec<Finding> {
        let reports = self.reports.lock().expect("no test panics in it");
        reports.iter().flat_map(|report| report.findings.clone()).collect()
    }

    /// How many uses with this command were ours, and are in the log.
    fn matched(&self, command: u8) -> usize {
        let reports = self.reports.lock().expect("no test panics in it");
        reports.iter().flat_map(|report| &report.matched).filter(|entry| entry.command == command).count()
    }

    fn last(&self) -> Option<LogMark> {
        self.reports.lock().expect("no test panics in it").last().map(|report| report.last)
    }

    /// Waits until what was kept is as `seen` wants it.
    fn wait(&self, seen: impl Fn(&Book) -> bool) {
        let (sender, receiver) = mpsc::channel();
        *self.listener.lock().expect("no test panics in it") = Some(sender);
        while !seen(self) {
            receiver.recv_timeout(PATIENCE).expect("a report that changes it");
        }
    }
}

fn number_of(object: ObjectId) -> u16 {
    session::number(&object).expect("a number")
}

fn digest() -> MessageDigest {
    Algorithm::ES256.digest(b"message")
}

fn verification_key(key: OperationalPublicKey) -> VerificationKey {
    VerificationKey::new(Algorithm::ES256, key).expect("it fits")
}

fn sign(device: &mut dyn Device, object: ObjectId, key: &VerificationKey) {
    let signature = device.sign(object, Algorithm::ES256, &digest()).expect("signed");
    key.verify(&digest(), &signature).expect("right");
}

fn fail(device: &mut dyn Device, object: ObjectId) -> DeviceError {
    device.sign(object, Algorithm::ES256, &digest()).expect_err("nothing is signed")
}

/// A key, made with a session of its own.
fn make_key(driver: &YubiHsmDriver) -> (ObjectId, VerificationKey) {
    let made = driver.open().expect("a session").generate("one", KeyKind::P256);
    let (object, key) = made.expect("generated");
    (object, verification_key(key))
}

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
fn every_use_is_found_in_the_log_once_and_the_log_is_never_full() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let desk = Desk::new(firmware);
        let (driver, book) = desk.kept();
        let mut device = driver.open().expect("a session");
        let (object, key) = make_key(&driver);
        (0..150).for_each(|_| sign(&mut device, object, &key));
        device.destroy(object).expect("destroyed");
        driver.finish().expect("read");
        assert_eq!(book.findings(), [], "{firmware:?}");
        assert_eq!((book.matched(SIGN_ECDSA), book.matched(0x46), book.matched(0x58)), (150, 1, 1));
        assert!(desk.simulator.log().len() < 10, "what was kept is acknowledged");
    }
}

#[test]
fn many_sessions_at_once_leave_nothing_unexplained() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut device = driver.open().expect("a session");
                (0..40).for_each(|_| sign(&mut device, object, &key));
            });
        }
    });
    driver.finish().expect("read");
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], 320));
}

#[test]
fn somebody_elses_use_of_a_key_is_found_within_one_poll() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let mut device = driver.open().expect("a session");
    let (object, key) = make_key(&driver);
    sign(&mut device, object, &key);
    let polls = desk.simulator.calls(Command::GET_LOG_ENTRIES);
    desk.somebody_else().sign_ecdsa_prehash_raw(number_of(object), vec![1; 32]).expect("signed");
    book.wait(|book| !book.findings().is_empty());
    // The reading that was under way, and the next.
    assert!(desk.simulator.calls(Command::GET_LOG_ENTRIES) - polls <= 2);
    let findings = book.findings();
    let [Finding::Foreign { entry, before_start: false }] = findings[..] else { panic!("{findings:?}") };
    assert_eq!(
        (entry.session_key, entry.target, entry.command),
        (DEFAULT_KEY, number_of(object), SIGN_ECDSA)
    );
    assert!(findings[0].suspects(number_of(object)) && !findings[0].suspects(number_of(object) ^ 1));
}

#[test]
fn a_use_that_was_refused_or_that_only_looks_suspects_nothing() {
    let desk = Desk::new(Firmware::V2_2);
    let (driver, book) = desk.kept();
    let (object, _) = make_key(&driver);
    let other = desk.somebody_else();
    other.get_public_key(number_of(object)).expect("there");
    other.sign_ecdsa_prehash_raw(number_of(object), vec![1; 31]).expect_err("no digest");
    book.wait(|book| !book.findings().is_empty());
    let findings = book.findings();
    assert!(matches!(findings[..], [Finding::Foreign { .. }]), "the attempt alone: {findings:?}");
    assert!(!findings[0].suspects(number_of(object)) && findings[0].is_alarm());
}

#[test]
fn whoever_takes_entries_off_the_log_or_switches_its_audit_makes_every_key_suspect() {
    for hide in [
        |other: &Client, last: u16| other.set_log_index(last),
        |other: &Client, _| other.set_command_audit_option(command::Code::SignEcdsa, AuditOption::Off),
    ] {
        let desk = Desk::new(Firmware::V2_4);
        let book = Arc::new(Book::default());
        let driver = desk.driver_with(|settings| settings.log_poll = PATIENCE);
        driver.keep_log(book.clone()).expect("kept");
        let mut device = driver.open().expect("a session");
        let (object, key) = make_key(&driver);
        driver.read_log().expect("read");
        let other = desk.somebody_else();
        other.sign_ecdsa_prehash_raw(number_of(object), vec![1; 32]).expect("signed");
        hide(&other, desk.simulator.log().last().expect("an entry").number).expect("done");
        sign(&mut device, object, &key);
        driver.read_log().expect("read");
        assert!(
            book.findings().iter().any(|finding| finding.suspects(number_of(object))),
            "{:?}",
            book.findings()
        );
    }
}

#[test]
fn a_new_process_goes_on_where_the_last_one_stopped() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    driver.finish().expect("read");
    drop(driver);
    let mark = book.last();
    // A process that is cut off keeps nothing.
    let cut_off = desk.driver_with(|_| {});
    sign(&mut cut_off.open().expect("a session"), object, &key);
    drop(cut_off);
    for (signed_with, is_suspect) in [(vec![object], false), (vec![], true)] {
        let book = Book { resume: LogResume { mark, signed_with }, ..Book::default() };
        let book = Arc::new(book);
        let driver = desk.driver_with(|_| {});
        driver.keep_log(book.clone()).expect("kept");
        // Not acknowledged, so that the second time finds it, too.
        desk.simulator.script(vec![Fault::of(Command::SET_LOG_INDEX, What::Refuse(ErrorCode::InvalidData))]);
        let _ = driver.open();
        let suspects = book.findings().iter().any(|finding| finding.suspects(number_of(object)));
        assert_eq!(suspects, is_suspect, "{:?}", book.findings());
        desk.simulator.script(Vec::new());
    }
}

#[test]
fn a_log_that_is_full_is_read_before_anything_else_and_without_a_keeper_says_what_to_do() {
    let desk = Desk::new(Firmware::V2_2);
    let other = desk.somebody_else();
    other.set_force_audit_option(AuditOption::On).expect("set");
    let filled = (0..70).map_while(|_| other.get_storage_info().ok()).count();
    assert!(filled < 70);
    let error = desk.driver_with(|_| {}).open().err().expect("full");
    assert!(error.to_string().contains("start the KMS, which does that"), "{error}");
    let (driver, _book) = desk.kept();
    make_key(&driver);
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
fn a_device_that_was_reset_or_is_another_one_is_not_used() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let mut device = driver.open().expect("a session");
    let (object, _) = make_key(&driver);
    driver.read_log().expect("read");
    desk.simulator.reset();
    let error = fail(&mut device, object);
    assert!(matches!(&error, DeviceError::Setup(why) if why.contains("it was reset")), "{error}");
    drop(device);
    // Somebody who knows the password makes the authentication key anew.
    desk.put_own_key(NEEDED | Capability::PUT_OPTION);
    let mut device = driver.open().expect("a session");
    assert_eq!(fail(&mut device, object), DeviceError::NoKey(object));
    driver.read_log().expect("read");
    assert!(matches!(book.findings()[..], [Finding::Gap { .. }, ..]), "{:?}", book.findings());

    let driver = desk.driver_with(|settings| settings.serial = Some("0007550002".into()));
    let error = driver.open().err().expect("another");
    assert!(matches!(&error, DeviceError::Setup(why) if why.contains("not 0007550002")), "{error}");
}

#[test]
fn an_answer_in_pieces_is_an_answer_and_one_that_never_comes_is_given_up() {
    let desk = Desk::new(Firmware::V2_4);
    let driver = desk.driver_with(|settings| settings.call_timeout = Duration::from_millis(300));
    let (object, key) = make_key(&driver);
    desk.simulator.script(vec![Fault::of_all(What::Pieces(1, Duration::from_micros(100)))]);
    let mut device = driver.open().expect("a session");
    sign(&mut device, object, &key);
    for (what, why) in [
        (What::Hang, "no answer within"),
        (What::DropReply, "broke off"),
        (What::DropCall, "broke off"),
        (What::NoDevice, "plugged in"),
        (What::Garble, ""),
    ] {
        desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, what.clone()).once()]);
        let mut device = driver.open().expect("a session");
        let error = fail(&mut device, object);
        assert!(error.is_lost() && error.to_string().contains(why), "{what:?}: {error}");
        drop(device);
        sign(&mut driver.open().expect("a new session"), object, &key);
    }
}

#[test]
fn a_device_that_idled_for_a_minute_signs_at_once() {
    let clock = assent_yubihsm_simulator::Clock::standing();
    let simulator =
        Simulator::start(Settings { clock: clock.clone(), ..Settings::default() }).expect("started");
    let desk = Desk { simulator, directory: tempfile::tempdir().expect("a directory") };
    desk.write_password(OWN_PASSWORD);
    desk.put_own_key(NEEDED | Capability::PUT_OPTION);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pool = Pool::start(driver.clone(), 4, Duration::from_secs(10)).expect("threads");
    for _ in 0..3 {
        runtime.block_on(pool.sign(object, key.clone(), digest())).expect("signed");
        clock.advance(Duration::from_secs(60));
    }
    drop(pool);
    driver.read_log().expect("read");
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], 3));
}

#[test]
fn no_session_is_opened_that_the_device_does_not_have_whatever_is_lost() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    let mut devices: Vec<_> = (0..OWN_SESSIONS).map(|_| driver.open().expect("a session")).collect();
    let error = driver.open().err().expect("no more");
    assert!(matches!(error, DeviceError::Full(_)), "{error}");
    desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, What::DropReply).every(2)]);
    let lost = devices
        .iter_mut()
        .filter_map(|device| device.sign(object, Algorithm::ES256, &digest()).err())
        .count();
    assert_eq!(lost, OWN_SESSIONS / 2);
    drop(devices);
    desk.simulator.script(Vec::new());
    let mut left: Vec<_> = (0..OWN_SESSIONS).map_while(|_| driver.open().ok()).collect();
    assert_eq!(left.len(), OWN_SESSIONS - lost, "those that broke may still be the device's");
    left.iter_mut().for_each(|device| sign(device, object, &key));
    driver.finish().expect("read");
    let sessions = desk.simulator.sessions();
    assert_eq!((sessions.refused, sessions.most <= 16), (0, true));
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], OWN_SESSIONS * 3 / 2));
}

#[test]
fn a_connector_that_drops_half_of_the_replies_still_brings_every_signature() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, What::DropReply).every(2)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pool = Pool::start(driver.clone(), 1, Duration::from_secs(10)).expect("threads");
    for _ in 0..8 {
        runtime.block_on(pool.sign(object, key.clone(), digest())).expect("signed");
    }
    drop(pool);
    driver.read_log().expect("read");
    assert_eq!(book.findings(), [], "those whose answer was lost are known, too");
    assert_eq!(book.matched(SIGN_ECDSA), desk.simulator.calls(Command::SIGN_ECDSA));
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
