//! Sessions with the device: how many there may be, how a call ends, and the reading of the device's log.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ::yubihsm::{Client, client};

use super::bridge::Wire;
use super::log::{Finding, Ledger, LogEntry, LogMark, Outcome, Reading, Use};
use super::{IDLE_LIMIT, OWN_SESSIONS, Shared};
use crate::device::{DeviceError, ObjectId};

/// A session that idled longer is not used again: the device is about to close it.
const SPARE_LIMIT: Duration = Duration::from_secs(25);
/// Places of the log that are used when it is read before anything else is done. The device has 62.
const LOG_HIGH_WATER: u32 = 40;
/// Places that are used when everybody waits until it is read.
const LOG_FULL_WATER: u32 = 54;

/// Error codes of the device.
const INVALID_SESSION: u8 = 0x03;
pub(super) const SESSIONS_FULL: u8 = 0x05;
const NO_PERMISSION: u8 = 0x09;
const LOG_FULL: u8 = 0x0a;
pub(super) const NOT_FOUND: u8 = 0x0b;
pub(super) const EXISTS: u8 = 0x11;
const STORAGE_FAILED: u8 = 0x07;

/// One session with the device.
pub(super) struct Line {
    client: Client,
    wire: Option<Arc<Wire>>,
    last_use: Mutex<Instant>,
    is_taken: AtomicBool,
}

impl Line {
    pub(super) fn new(client: Client, wire: Option<Arc<Wire>>, now: Instant) -> Line {
        Line { client, wire, last_use: Mutex::new(now), is_taken: AtomicBool::new(true) }
    }

    pub(super) fn last_use(&self) -> Instant {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Acquire)
    }

    /// One call, and nothing else.
    fn ask<T>(&self, work: impl Fn(&Client) -> Result<T, client::Error>) -> Result<T, CallError> {
        let result = guarded(|| work(&self.client));
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        result
    }
}

/// How a call failed.
pub(super) enum CallError {
    /// As the crate says.
    Client(client::Error),
    /// The crate broke off: an answer that it does not expect.
    Panic(String),
}

/// Calls the crate, which panics on some answers.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, client::Error>) -> Result<T, CallError> {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => panic.downcast_ref::<&str>().unwrap_or(&"no reason").to_string(),
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(CallError::Client),
        Err(panic) => Err(CallError::Panic(text(panic))),
    }
}

/// The device's own error code, encrypted or not.
pub(super) fn device_error(error: &CallError, wire: Option<&Wire>) -> Option<u8> {
    let CallError::Client(error) = error else { return None };
    match (error.device_error(), error.kind()) {
        // The crate has no number for this one, and panics when asked.
        (Some(yubihsm::device::ErrorKind::SshCaConstraintViolation), _) => None,
        (Some(kind), _) => Some(kind.to_u8()),
        (None, client::ErrorKind::ResponseError) => wire.map(Wire::refusal).filter(|code| *code != 0),
        _ => None,
    }
}

/// The error in words: the bridge knows better than the crate why a connection broke.
pub(super) fn describe(error: &CallError, wire: Option<&Wire>) -> String {
    match (wire.and_then(Wire::failure), error) {
        (Some(failure), _) => failure,
        (None, CallError::Client(error)) => format!("the YubiHSM: {error}"),
        (None, CallError::Panic(text)) => format!("the YubiHSM gave an answer that cannot be one: {text}"),
    }
}

/// All sessions that this process has, and those that the device may still hold.
#[derive(Default)]
pub(super) struct Sessions {
    lines: Vec<Arc<Line>>,
    /// Until when each session that broke may still be open in the device.
    lingering: Vec<Instant>,
    /// The device's serial number, once it was asked.
    pub(super) serial: String,
}

impl Sessions {
    /// A session that nobody uses and that the device still has.
    pub(super) fn take_spare(&mut self, now: Instant) -> Option<Arc<Line>> {
        self.forget_idle(now);
        let line = self.lines.iter().find(|line| !line.is_taken())?;
        line.is_taken.store(true, Ordering::Release);
        Some(line.clone())
    }

    /// Whether another one may be opened.
    pub(super) fn check_room(&mut self, now: Instant) -> Result<(), DeviceError> {
        self.forget_idle(now);
        self.lingering.retain(|until| *until > now);
        match self.lines.len() + self.lingering.len() {
            open if open < OWN_SESSIONS => Ok(()),
            _ => Err(DeviceError::Gone(format!(
                "{OWN_SESSIONS} sessions with the YubiHSM are open, or may be: the device closes those that broke after \
                 {} s",
                IDLE_LIMIT.as_secs()
            ))),
        }
    }

    pub(super) fn add(&mut self, line: Arc<Line>) {
        self.lines.push(line);
    }

    /// Counts a session that was begun and is not ours.
    pub(super) fn linger(&mut self, since: Instant) {
        self.lingering.push(since + IDLE_LIMIT);
    }

    /// Nobody uses it any more; the next one may, unless it broke.
    pub(super) fn give_back(&mut self, line: &Arc<Line>, is_broken: bool, is_closed: bool) {
        if is_broken {
            let before = self.lines.len();
            self.lines.retain(|other| !Arc::ptr_eq(other, line));
            if self.lines.len() < before && !is_closed {
                self.linger(Instant::now());
            }
        }
        line.is_taken.store(false, Ordering::Release);
    }

    /// How many sessions are, or may be, open in the device.
    pub(super) fn count(&mut self, now: Instant) -> usize {
        self.lingering.retain(|until| *until > now);
        self.lines.len() + self.lingering.len()
    }

    /// Sessions that are in use and idle for longer than `limit`.
    pub(super) fn idle(&self, limit: Duration, now: Instant) -> Vec<Arc<Line>> {
        let is_idle =
            |line: &&Arc<Line>| line.is_taken() && now.saturating_duration_since(line.last_use()) >= limit;
        self.lines.iter().filter(is_idle).cloned().collect()
    }

    /// Any session, for a look at the log.
    pub(super) fn any(&self) -> Option<Arc<Line>> {
        self.lines.iter().max_by_key(|line| line.last_use()).cloned()
    }

    /// A session that nobody needs is left to the device to close.
    fn forget_idle(&mut self, now: Instant) {
        let lingering = &mut self.lingering;
        self.lines.retain(|line| {
            let last = line.last_use();
            let is_kept = line.is_taken() || now.saturating_duration_since(last) < SPARE_LIMIT;
            if !is_kept {
                lingering.push(last + IDLE_LIMIT);
            }
            is_kept
        });
    }
}

/// Keeps what the device's log says: in the audit log, on disk, before the device may forget it.
pub trait LogKeeper: Send + Sync {
    /// Where the last process stopped, and what it may have done since.
    ///
    /// # Errors
    /// Why that cannot be read.
    fn resume(&self, serial: &str) -> Result<LogResume, String>;

    /// Keeps a report. It is on disk when this returns.
    ///
    /// # Errors
    /// Why it is not.
    fn keep(&self, report: &LogReport) -> Result<(), String>;
}

/// Where the last process stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogResume {
    /// The last entry of the device's log that is kept.
    pub mark: Option<LogMark>,
    /// The keys that it may have signed with since, each as often as it may.
    pub signed_with: Vec<ObjectId>,
}

/// What the device's log says since the last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The device.
    pub serial: String,
    /// How many entries.
    pub entries: u32,
    /// How many of them are uses that this KMS sent.
    pub matched: u32,
    /// The last of them.
    pub last: LogMark,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
}

/// Reads the device's log, one reading at a time.
pub(super) struct LogReader {
    session_key: u16,
    keeper: OnceLock<Arc<dyn LogKeeper>>,
    ledger: Mutex<Option<Ledger>>,
    /// What was read and compared, and not yet kept.
    unkept: Mutex<Option<LogReport>>,
    /// Held through a reading.
    reading: Mutex<()>,
    /// Places of the device's log that may be used since it was last emptied.
    places: AtomicU32,
}

impl LogReader {
    pub(super) fn new(session_key: u16) -> LogReader {
        LogReader {
            session_key,
            keeper: OnceLock::new(),
            ledger: Mutex::default(),
            unkept: Mutex::default(),
            reading: Mutex::default(),
            places: AtomicU32::new(0),
        }
    }

    pub(super) fn keep_with(&self, keeper: Arc<dyn LogKeeper>) {
        // A second keeper changes nothing: what was noted belongs to the first.
        let _ = self.keeper.set(keeper);
    }

    fn has_keeper(&self) -> bool {
        self.keeper.get().is_some()
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn has_log_keeper(&self) -> bool {
        self.log.has_keeper()
    }

    pub(super) fn open_sessions(&self) -> usize {
        self.sessions().count(Instant::now())
    }

    pub(super) fn give_back(&self, line: &Arc<Line>, is_broken: bool, is_closed: bool) {
        self.sessions().give_back(line, is_broken, is_closed);
    }

    pub(super) fn idle_lines(&self, limit: Duration) -> Vec<Arc<Line>> {
        self.sessions().idle(limit, Instant::now())
    }

    /// Does something with a session, and notes what it uses. `used` is nothing for what only looks.
    pub(super) fn call<T>(
        &self,
        line: &Arc<Line>,
        used: Option<Use>,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, Failure> {
        self.begin_log()?;
        self.make_room(line)?;
        match self.call_once(line, used, &work) {
            // The device did nothing.
            Err(failure) if failure.code == Some(LOG_FULL) && self.log.has_keeper() => {
                self.read_log_with(line)?;
                self.call_once(line, used, &work)
            }
            result => result,
        }
    }

    fn call_once<T>(
        &self,
        line: &Arc<Line>,
        used: Option<Use>,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, Failure> {
        let mut ledger = self.log.ledger();
        let ticket = used.and_then(|used| ledger.as_mut().map(|ledger| ledger.send(used)));
        drop(ledger);
        self.log.places.fetch_add(1, Ordering::Relaxed);
        let result = line.ask(work).map_err(|error| self.failure(line, &error));
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(failure) if failure.code == Some(LOG_FULL) || failure.is_closed => Outcome::NotBegun,
            Err(_) => Outcome::Unknown,
        };
        if let (Some(ticket), Some(ledger)) = (ticket, self.log.ledger().as_mut()) {
            ledger.settle(ticket, outcome, Instant::now());
        }
        result
    }

    fn failure(&self, line: &Line, error: &CallError) -> Failure {
        let wire = line.wire.as_deref();
        let is_inside = matches!(error, CallError::Client(error) if error.device_error().is_some());
        let code = device_error(error, wire);
        let id = self.settings.authentication_key;
        let text = describe(error, wire);
        let error = match code {
            Some(LOG_FULL) => DeviceError::Failed(
                "the YubiHSM's log is full, and nothing is done until it is read and acknowledged: start the KMS, which does \
                 that"
                    .into(),
            ),
            Some(NO_PERMISSION) => DeviceError::Failed(format!(
                "authentication key {id} of the YubiHSM may not do that: give it the capability, or name another key with \
                 `authentication_key`"
            )),
            Some(STORAGE_FAILED) => DeviceError::Failed("the YubiHSM is full: delete objects that nobody needs".into()),
            // Within the session: the device is there and says no.
            Some(code) if is_inside && !matches!(code, INVALID_SESSION | 0x04 | 0x06) => {
                DeviceError::Failed(text)
            }
            _ => DeviceError::Gone(text),
        };
        let is_closed = code == Some(INVALID_SESSION);
        Failure { error, code, is_closed }
    }

    /// Reads the log before it is full.
    fn make_room(&self, line: &Arc<Line>) -> Result<(), Failure> {
        let places = self.log.places.load(Ordering::Relaxed);
        if places < LOG_HIGH_WATER || !self.log.has_keeper() {
            return Ok(());
        }
        if places >= LOG_FULL_WATER {
            let turn = self.log.reading.lock().unwrap_or_else(PoisonError::into_inner);
            // Another one may have read it meanwhile.
            return match self.log.places.load(Ordering::Relaxed) {
                places if places < LOG_HIGH_WATER => Ok(()),
                _ => self.read_turn(line, &turn),
            };
        }
        match self.log.reading.try_lock() {
            Ok(turn) => self.read_turn(line, &turn),
            Err(_) => Ok(()),
        }
    }

    /// Reads the log with any session, or a new one.
    pub(super) fn read_log(&self) -> Result<(), DeviceError> {
        let line = self.sessions().any();
        let (line, is_own) = match line {
            Some(line) => (line, false),
            None => (self.take_line()?, true),
        };
        let result = self.begin_log().and_then(|()| self.read_log_with(&line));
        let (is_broken, is_closed) = match &result {
            Err(failure) => (failure.error.is_lost(), failure.is_closed),
            Ok(()) => (false, false),
        };
        if is_own || (is_broken && !line.is_taken()) {
            self.sessions().give_back(&line, is_broken, is_closed);
        }
        result.map_err(|failure| failure.error)
    }

    pub(super) fn read_log_with(&self, line: &Arc<Line>) -> Result<(), Failure> {
        let turn = self.log.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_turn(line, &turn)
    }

    /// Asks the keeper where the last process stopped, before the first use is noted.
    fn begin_log(&self) -> Result<(), Failure> {
        let Some(keeper) = self.log.keeper.get() else { return Ok(()) };
        let mut ledger = self.log.ledger();
        if ledger.is_none() {
            let resume = keeper.resume(&self.serial()).map_err(Failure::of_keeper)?;
            let signed = resume.signed_with.iter().filter_map(super::session::number);
            let before: Vec<_> = signed.map(|object| Use { command: 0x56, object: Some(object) }).collect();
            *ledger = Some(Ledger::new(self.log.session_key, resume.mark, &before, Instant::now()));
        }
        Ok(())
    }

    /// One reading: what it brings is compared, kept if it matters, and then acknowledged.
    fn read_turn(&self, line: &Arc<Line>, _turn: &MutexGuard<'_, ()>) -> Result<(), Failure> {
        let Some(keeper) = self.log.keeper.get() else { return Ok(()) };
        let due = self.log.ledger().as_ref().map(Ledger::due).unwrap_or_default();
        let log = line.ask(Client::get_log_entries).map_err(|error| self.failure(line, &error))?;
        let entries: Vec<LogEntry> = log
            .entries
            .iter()
            .map(|entry| LogEntry {
                item: entry.item,
                command: entry.cmd.to_u8(),
                length: entry.length,
                session_key: entry.session_key,
                target: entry.target_key,
                second: entry.second_key,
                result: entry.result.to_u8(),
                tick: entry.tick,
                digest: entry.digest.0,
            })
            .collect();
        let mut ledger = self.log.ledger();
        let Some(ledger) = ledger.as_mut() else { return Ok(()) };
        let mut reading = ledger.compare(&entries, &due, Instant::now());
        if reading.last.is_none() && !reading.findings.is_empty() {
            let error = DeviceError::Failed(
                "the YubiHSM's log is empty although commands were sent: its audit is off, or somebody empties it".into(),
            );
            return Err(Failure { error, code: None, is_closed: false });
        }
        let (boots, logins) = (log.unlogged_boot_events, log.unlogged_auth_events);
        if (boots, logins) != (0, 0) && reading.entries > 0 {
            reading.findings.push(Finding::Unlogged { boots, logins });
        }
        let used = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        // While the entries are at hand: other sessions go on meanwhile, and what they send is not in this reading.
        self.log.places.store(used, Ordering::Relaxed);
        let Some(report) = self.add_reading(reading) else { return Ok(()) };
        if report.matched == 0 && report.findings.is_empty() && used < LOG_HIGH_WATER {
            return Ok(());
        }
        keeper.keep(&report).map_err(Failure::of_keeper)?;
        *self.log.unkept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        line.ask(|client| client.set_log_index(report.last.item))
            .map_err(|error| self.failure(line, &error))?;
        self.log.places.store(2, Ordering::Relaxed);
        Ok(())
    }

    /// What is to be kept: this reading, and what was read before and is not kept yet.
    fn add_reading(&self, reading: Reading) -> Option<LogReport> {
        let last = reading.last?;
        let mut unkept = self.log.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = self.serial();
        let report =
            unkept.get_or_insert(LogReport { serial, entries: 0, matched: 0, last, findings: Vec::new() });
        report.entries += reading.entries;
        report.matched += reading.matched;
        report.last = last;
        report.findings.extend(reading.findings);
        Some(report.clone())
    }

    /// The device's serial number, as it is known.
    pub(super) fn serial(&self) -> String {
        match &self.settings.serial {
            Some(serial) => serial.trim_start_matches('0').to_owned(),
            None => self.sessions().serial.clone(),
        }
    }
}

/// How a call ended that did not end well.
pub(super) struct Failure {
    pub(super) error: DeviceError,
    /// The device's own code.
    pub(super) code: Option<u8>,
    /// Whether the device has closed the session.
    pub(super) is_closed: bool,
}

impl Failure {
    fn of_keeper(why: String) -> Failure {
        let error = DeviceError::Failed(format!(
            "what the YubiHSM's log says cannot be put into the audit log, so nothing is done with the device: {why}"
        ));
        Failure { error, code: None, is_closed: false }
    }
}

#[cfg(test)]
mod tests {
    use ::yubihsm::{Connector, Credentials};

    use super::*;

    /// A session that was never opened.
    fn line(now: Instant) -> Arc<Line> {
        let client = Client::create(Connector::http(&Default::default()), Credentials::default());
        Arc::new(Line::new(client.expect("not connected"), None, now))
    }

    #[test]
    fn no_more_sessions_are_opened_than_the_device_has() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let lines: Vec<_> = (0..OWN_SESSIONS).map(|_| line(now)).collect();
        for line in &lines {
            assert_eq!(sessions.check_room(now), Ok(()));
            sessions.add(line.clone());
        }
        assert!(sessions.check_room(now).expect_err("full").is_lost());
        sessions.give_back(&lines[0], true, false);
        assert!(sessions.check_room(now).is_err(), "the device may still hold it");
        assert_eq!(sessions.check_room(Instant::now() + IDLE_LIMIT), Ok(()));
        sessions.give_back(&lines[1], true, true);
        assert_eq!(sessions.count(now), OWN_SESSIONS - 2, "the device said that it is closed");
    }

    #[test]
    fn a_session_that_was_given_back_is_used_again_and_one_that_idled_is_not() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let first = line(now);
        sessions.add(first.clone());
        assert!(sessions.take_spare(now).is_none(), "it is in use");
        sessions.give_back(&first, false, false);
        assert!(sessions.take_spare(now).is_some_and(|line| Arc::ptr_eq(&line, &first)));
        sessions.give_back(&first, false, false);
        assert!(sessions.take_spare(now + SPARE_LIMIT).is_none());
        assert_eq!(sessions.count(now), 1, "until the device has closed it");
        assert_eq!(sessions.count(now + IDLE_LIMIT), 0);
    }

    #[test]
    fn a_panic_of_the_crate_is_an_error() {
        let result: Result<(), _> = guarded(|| panic!("missing R-MAC tag!"));
        assert!(result.is_err_and(|error| describe(&error, None).contains("missing R-MAC tag!")));
    }
}
