//! The driver and the simulator, which misbehaves as devices, connectors and people do.

mod device_log;
mod faults;
mod keys;

use std::sync::atomic::{AtomicBool, Ordering};
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

    /// A driver that keeps the log when it must, or is told to, and never because time has gone by.
    fn kept_between_polls(&self, book: Book) -> (Arc<YubiHsmDriver>, Arc<Book>) {
        let (driver, book) = (self.driver_with(|settings| settings.log_poll = PATIENCE), Arc::new(book));
        driver.keep_log(book.clone()).expect("kept");
        (Arc::new(driver), book)
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
    /// How long it takes.
    slowness: Duration,
    /// It keeps nothing.
    is_broken: AtomicBool,
}

impl LogKeeper for Book {
    fn resume(&self, _serial: &str) -> Result<LogResume, String> {
        Ok(self.resume.clone())
    }

    fn keep(&self, report: &LogReport) -> Result<(), String> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err("the disk is full".into());
        }
        std::thread::sleep(self.slowness);
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
    objects::number(&object).expect("a number")
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
