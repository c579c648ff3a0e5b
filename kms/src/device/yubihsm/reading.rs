//! The reading of the device's log: compared with what was sent, kept on disk, and only then acknowledged.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use ::yubihsm::Client;
use ::yubihsm::response::Code;

use super::Shared;
use super::calls::Failure;
use super::line::Line;
use super::log::{Finding, Ledger, LogEntry, LogMark, Reading, SIGN_ECDSA, Use};
use super::room::Room;
use crate::device::{DeviceError, ObjectId};

/// Places of the log that may be used when it is read before anything else is done. The device has 62.
const LOG_HIGH_WATER: u32 = 40;
/// Places that may be used when everybody waits until it is read: what reads it needs some itself.
const LOG_FULL_WATER: u32 = 54;

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
    /// Those of them that are uses which this KMS sent.
    pub matched: Vec<LogEntry>,
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
    room: Mutex<Room>,
}

impl LogReader {
    pub(super) fn new(session_key: u16) -> LogReader {
        LogReader {
            session_key,
            keeper: OnceLock::new(),
            ledger: Mutex::default(),
            unkept: Mutex::default(),
            reading: Mutex::default(),
            room: Mutex::default(),
        }
    }

    pub(super) fn keep_with(&self, keeper: Arc<dyn LogKeeper>) {
        // A second keeper changes nothing: what was noted belongs to the first.
        let _ = self.keeper.set(keeper);
    }

    pub(super) fn has_keeper(&self) -> bool {
        self.keeper.get().is_some()
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn has_log_keeper(&self) -> bool {
        self.log.has_keeper()
    }

    /// Begins a command, whose entry has a place in the log: reads the log before it is full.
    pub(super) fn begin_command(&self, line: &Arc<Line>) -> Result<(), Failure> {
        if !self.log.has_keeper() {
            self.log.room().begin();
            return Ok(());
        }
        if let Ok(turn) = self.log.reading.try_lock()
            && self.log.room().used() >= LOG_HIGH_WATER
        {
            self.read_turn(line, &turn)?;
        }
        if self.log.room().begin_below(LOG_FULL_WATER) {
            return Ok(());
        }
        let turn = self.log.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have read it meanwhile.
        if !self.log.room().begin_below(LOG_FULL_WATER) {
            self.read_turn(line, &turn)?;
            self.log.room().begin();
        }
        Ok(())
    }

    /// Reads the log with any session, or with a new one if there is none or it turns out to be lost.
    pub(super) fn read_log(&self) -> Result<(), DeviceError> {
        let any = self.sessions().any();
        if let Some(line) = any {
            match self.begin_log().and_then(|()| self.read_log_with(&line)) {
                // Whoever has the session finds out by himself.
                Err(failure) if failure.error.is_lost() && line.is_taken() => {}
                Err(failure) if failure.error.is_lost() => {
                    self.sessions().give_back(&line, true, failure.is_closed);
                }
                result => return result.map_err(|failure| failure.error),
            }
        }
        let line = self.take_line()?;
        let result = self.begin_log().and_then(|()| self.read_log_with(&line));
        let (is_broken, is_closed) = match &result {
            Err(failure) => (failure.error.is_lost(), failure.is_closed),
            Ok(()) => (false, false),
        };
        self.sessions().give_back(&line, is_broken, is_closed);
        result.map_err(|failure| failure.error)
    }

    pub(super) fn read_log_with(&self, line: &Arc<Line>) -> Result<(), Failure> {
        let turn = self.log.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_turn(line, &turn)
    }

    /// Asks the keeper where the last process stopped, before the first use is noted.
    pub(super) fn begin_log(&self) -> Result<(), Failure> {
        let Some(keeper) = self.log.keeper.get() else { return Ok(()) };
        let mut ledger = self.log.ledger();
        if ledger.is_none() {
            let resume = keeper.resume(&self.serial()).map_err(Failure::of_keeper)?;
            let signed = resume.signed_with.iter().filter_map(super::objects::number);
            let before: Vec<_> =
                signed.map(|object| Use { command: SIGN_ECDSA, object: Some(object) }).collect();
            *ledger = Some(Ledger::new(self.log.session_key, resume.mark, &before, Instant::now()));
        }
        Ok(())
    }

    /// Reads the log, if this process has not done so yet.
    pub(super) fn read_log_first(&self, line: &Arc<Line>) -> Result<(), Failure> {
        self.begin_log()?;
        let is_first = self.log.ledger().as_ref().is_some_and(Ledger::is_first);
        if is_first { self.read_log_with(line) } else { Ok(()) }
    }

    /// One reading: what it brings is compared, kept if it matters, and then acknowledged.
    fn read_turn(&self, line: &Arc<Line>, _turn: &MutexGuard<'_, ()>) -> Result<(), Failure> {
        let Some(keeper) = self.log.keeper.get() else { return Ok(()) };
        let due = self.log.ledger().as_ref().map(Ledger::due).unwrap_or_default();
        let ended = self.log.room().ended();
        let log = line.ask(Client::get_log_entries).map_err(|error| self.failure(line, &error))?;
        // As the device has them: a digest is over the device's own bytes.
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
                result: result_byte(entry.result),
                tick: entry.tick,
                digest: entry.digest.0,
            })
            .collect();
        let compared =
            self.log.ledger().as_mut().map(|ledger| ledger.compare(&entries, &due, Instant::now()));
        let Some(mut reading) = compared else { return Ok(()) };
        if reading.last.is_none() && !reading.findings.is_empty() {
            return Err(Failure::of_log(
                "the YubiHSM's log is empty although commands were sent: its audit is off, or somebody empties it".into(),
            ));
        }
        let (boots, logins) = (log.unlogged_boot_events, log.unlogged_auth_events);
        if (boots, logins) != (0, 0) && reading.entries > 0 {
            reading.findings.push(Finding::Unlogged { boots, logins });
        }
        let used = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        self.log.room().was_read(ended, used);
        // The crate ends the list, and says nothing, where it does not know a command.
        let is_whole = entries.len() == usize::from(log.num_entries);
        if let Some(report) = self.add_reading(reading)
            && (!report.matched.is_empty() || !report.findings.is_empty() || used >= LOG_HIGH_WATER)
        {
            keeper.keep(&report).map_err(Failure::of_keeper)?;
            *self.log.unkept.lock().unwrap_or_else(PoisonError::into_inner) = None;
            line.ask(|client| client.set_log_index(report.last.item))
                .map_err(|error| self.failure(line, &error))?;
            self.log.room().was_emptied();
        }
        match is_whole {
            true => Ok(()),
            false => Err(Failure::of_log(format!(
                "the YubiHSM's log has an entry that cannot be read, after {} others: somebody uses commands that this KMS \
                 does not know; switch their audit off, and take the log off the device by hand",
                entries.len()
            ))),
        }
    }

    /// What is to be kept: this reading, and what was read before and is not kept yet.
    fn add_reading(&self, reading: Reading) -> Option<LogReport> {
        let last = reading.last?;
        let mut unkept = self.log.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = self.serial();
        let report = unkept.get_or_insert_with(|| LogReport {
            serial,
            entries: 0,
            matched: Vec::new(),
            last,
            findings: Vec::new(),
        });
        report.entries += reading.entries;
        report.matched.extend(reading.matched);
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

/// What the device wrote as the result. The crate counts errors down from a number of its own, that of "no error".
fn result_byte(code: Code) -> u8 {
    match code {
        Code::Success(_) => code.to_u8(),
        error => Code::DeviceOk.to_u8().wrapping_sub(error.to_u8()),
    }
}
