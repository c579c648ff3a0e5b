//! The YubiHSM 2, through its connector or (feature `usb`) by itself.
//!
//! ```text
//! Driver ─▶ Sessions (at most 14 of the device's 16, kept alive, used again) ─▶ bridge ─▶ connector ─▶ device
//!    └─ Watch (one thread): no session idles for 30 s; the device's log is read, compared and only then acknowledged
//! ```
//!
//! The device closes a session after 30 idle seconds, and has 16. The crate cannot close one, so a session that is not
//! needed is given to whoever needs the next, and one that broke is counted until the device must have closed it.
//! A YubiHSM does not lock after wrong passwords; the password is tried once all the same (invariant I12).

mod bridge;
mod calls;
mod capability;
mod line;
pub mod log;
mod objects;
mod reading;
mod room;
mod session;
mod sessions;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::yubihsm::authentication::Credentials;
use ::yubihsm::object::{self, Label};
use ::yubihsm::{Client, Connector, HttpConfig};
use secrecy::ExposeSecret;

use super::{Device, DeviceError, Driver};
use crate::pin::PinSource;
use bridge::{Bridge, Upstream};
use line::Line;
use reading::LogReader;
use sessions::Sessions;
use watch::Watch;

pub(crate) use objects::number as object_number;
pub use reading::{LogKeeper, LogReport, LogResume};
pub use session::YubiHsmDevice;

/// The most sessions that this driver holds of a device's 16: two are left to people and their tools.
pub const OWN_SESSIONS: usize = 14;
/// After how many idle seconds the device closes a session.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How often the device's log is read unless the configuration says otherwise.
pub const LOG_POLL: Duration = Duration::from_secs(10);

/// Which device, how it is reached, and as whom.
#[derive(Clone, Debug)]
pub struct YubiHsmSettings {
    /// `http://HOST:PORT` of the connector, or `usb`.
    pub connector: String,
    /// The device's serial number; nothing for the only one.
    pub serial: Option<String>,
    /// The authentication key's id.
    pub authentication_key: u16,
    /// The wrap key under which keys can be exported for a backup; nothing if they never leave the device.
    pub wrap_key: Option<u16>,
    /// How long an answer is waited for.
    pub call_timeout: Duration,
    /// How often the device's log is read.
    pub log_poll: Duration,
}

/// Opens sessions with one YubiHSM 2. They end when it is dropped, and the devices that it gave out.
pub struct YubiHsmDriver {
    shared: Arc<Shared>,
    watch: Mutex<Option<Watch>>,
}

/// What all sessions with a device share.
struct Shared {
    settings: YubiHsmSettings,
    upstream: Way,
    password: PinSource,
    sessions: Mutex<Sessions>,
    /// Held while a session is opened: the password is tried by one at a time.
    opening: Mutex<()>,
    /// Keys of which it is not known whether they were made: numbers and labels.
    unfinished: Mutex<Vec<(u16, Label)>>,
    log: LogReader,
}

/// How the device is reached.
enum Way {
    Http(Upstream),
    #[cfg(feature = "usb")]
    Usb(Connector),
}

impl YubiHsmDriver {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the settings do not lead to a device.
    pub fn new(settings: YubiHsmSettings, password: PinSource) -> Result<YubiHsmDriver, DeviceError> {
        let upstream = way(&settings)?;
        let log = LogReader::new(settings.authentication_key);
        let shared = Shared {
            settings,
            upstream,
            password,
            sessions: Mutex::default(),
            opening: Mutex::default(),
            unfinished: Mutex::default(),
            log,
        };
        Ok(YubiHsmDriver { shared: Arc::new(shared), watch: Mutex::default() })
    }

    /// Has the device's log read and compared from now on, and what it brings given to `keeper`. Without a keeper the log is
    /// left alone.
    ///
    /// # Errors
    /// [`DeviceError::Failed`], if the system starts no thread.
    pub fn keep_log(&self, keeper: Arc<dyn LogKeeper>) -> Result<(), DeviceError> {
        self.shared.log.keep_with(keeper);
        let watch =
            Watch::start(self.shared.clone()).map_err(|error| DeviceError::Failed(error.to_string()))?;
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        Ok(())
    }

    /// A session, with what only this device can do.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn open(&self) -> Result<YubiHsmDevice, DeviceError> {
        YubiHsmDevice::new(self.shared.clone(), self.shared.take_line()?).checked()
    }

    /// Reads the device's log now.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn read_log(&self) -> Result<(), DeviceError> {
        self.shared.read_log()
    }
}

impl Driver for YubiHsmDriver {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        Ok(Box::new(self.open()?))
    }

    /// Reads the log a last time, if anything was done since.
    fn finish(&self) -> Result<(), DeviceError> {
        match self.shared.has_log_keeper() && self.shared.open_sessions() > 0 {
            true => self.read_log(),
            false => Ok(()),
        }
    }
}

fn way(settings: &YubiHsmSettings) -> Result<Way, DeviceError> {
    match settings.connector.as_str() {
        #[cfg(feature = "usb")]
        "usb" => {
            let milliseconds = settings.call_timeout.as_millis().try_into().unwrap_or(u64::MAX);
            let serial = settings.serial.as_ref().map(|serial| format!("{serial:0>10}").parse());
            let serial = serial
                .transpose()
                .map_err(|_| DeviceError::Setup("`serial` in the configuration is not the number of a YubiHSM".into()))?;
            Ok(Way::Usb(Connector::usb(&yubihsm::UsbConfig { serial, timeout_ms: milliseconds })))
        }
        #[cfg(not(feature = "usb"))]
        "usb" => Err(DeviceError::Setup(
            "this program was built without USB: run the maker's `yubihsm-connector` and name its URL, or build with \
             `--features usb`"
                .into(),
        )),
        url => Ok(Way::Http(Upstream::parse(url, settings.call_timeout)?)),
    }
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unfinished(&self) -> MutexGuard<'_, Vec<(u16, Label)>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that nobody uses, or a new one.
    fn take_line(&self) -> Result<Arc<Line>, DeviceError> {
        let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = self.sessions().take_spare(Instant::now()) {
            return Ok(line);
        }
        self.sessions().check_room(Instant::now())?;
        let line = Arc::new(self.open()?);
        self.sessions().add(line.clone());
        Ok(line)
    }

    fn open(&self) -> Result<Line, DeviceError> {
        let (connector, wire) = match &self.upstream {
            Way::Http(upstream) => {
                self.check_serial(&upstream.device_info()?)?;
                let bridge = Bridge::open(upstream).map_err(|error| DeviceError::Gone(error.to_string()))?;
                let config =
                    HttpConfig { addr: "127.0.0.1".into(), port: bridge.port, ..HttpConfig::default() };
                (Connector::http(&config), Some(bridge.wire))
            }
            #[cfg(feature = "usb")]
            Way::Usb(connector) => (connector.clone(), None),
        };
        let password = self.password.begin(false)?;
        let id: object::Id = self.settings.authentication_key;
        let credentials = Credentials::from_password(id, password.expose_secret().as_bytes());
        drop(password);
        // Not opened again by the crate: that would be another try of the password that nobody marked.
        let opened = line::guarded(|| Client::open(connector, credentials, false));
        if wire.as_ref().is_none_or(|wire| wire.has_asked()) && opened.is_err() {
            // A session that was begun is the device's for a while.
            self.sessions().linger(Instant::now());
        }
        let error = match opened {
            Ok(client) => {
                self.password.was_right()?;
                return Ok(Line::new(client, wire, Instant::now()));
            }
            Err(error) => error,
        };
        let is_wrong = matches!(&error, line::CallError::Client(error)
            if *error.kind() == yubihsm::client::ErrorKind::AuthenticationError);
        let text = line::describe(&error, wire.as_deref());
        if is_wrong && text.contains("auth key not found") {
            self.password.was_not_tried()?;
            return Err(DeviceError::Setup(format!(
                "the YubiHSM has no authentication key {id}: it was reset, or is another one; look at `serial` and \
                 `authentication_key` in the configuration, and restore the device from its backup if it was reset"
            )));
        }
        if is_wrong {
            self.password.was_wrong()?;
            return Err(DeviceError::Pin(format!(
                "the password of the YubiHSM's authentication key {id} is wrong; it was tried once and is not tried again by \
                 itself: correct `{}`, then run `assent-kms retry-pin`",
                self.password.path().display()
            )));
        }
        // The device proves that it knows the password before ours is used, and never locks.
        self.password.was_not_tried()?;
        match line::device_error(&error, wire.as_deref()) {
            Some(calls::SESSIONS_FULL) => Err(DeviceError::Full(
                "all 16 sessions of the YubiHSM are open: others use it, or a KMS that was killed left some, which the device \
                 closes after 30 s"
                    .into(),
            )),
            _ => Err(DeviceError::Gone(text)),
        }
    }

    /// The device's answer to "device info": version, serial number, log, algorithms.
    fn check_serial(&self, info: &[u8]) -> Result<(), DeviceError> {
        let Some(info) = capability::RawInfo::read(info) else {
            return Err(DeviceError::Gone("the YubiHSM does not say what it is".into()));
        };
        self.sessions().serial = info.serial.to_string();
        match &self.settings.serial {
            Some(wanted) if wanted.trim_start_matches('0') != info.serial.to_string() => {
                Err(DeviceError::Setup(format!(
                    "the connector leads to the YubiHSM with the serial number {}, not {wanted}, which the configuration names",
                    info.serial
                )))
            }
            _ => Ok(()),
        }
    }
}
