//! A command: noted before it is sent, and what its failure means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::yubihsm::{Client, client};

use super::Shared;
use super::line::{CallError, Line, describe, device_error};
use super::log::{Outcome, SET_OPTION, Use};
use crate::device::DeviceError;

/// Error codes of the device.
const INVALID_SESSION: u8 = 0x03;
pub(super) const SESSIONS_FULL: u8 = 0x05;
const NO_PERMISSION: u8 = 0x09;
const LOG_FULL: u8 = 0x0a;
pub(super) const NOT_FOUND: u8 = 0x0b;
pub(super) const EXISTS: u8 = 0x11;
const STORAGE_FAILED: u8 = 0x07;

impl Shared {
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
        self.begin_command(line)?;
        match self.call_once(line, used, &work) {
            // The device did nothing.
            Err(failure) if failure.code == Some(LOG_FULL) && self.log.has_keeper() => {
                self.read_log_with(line)?;
                self.log.room().begin();
                self.call_once(line, used, &work)
            }
            result => result,
        }
    }

    /// A command that was begun.
    fn call_once<T>(
        &self,
        line: &Arc<Line>,
        used: Option<Use>,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, Failure> {
        let mut ledger = self.log.ledger();
        let ticket = used.and_then(|used| ledger.as_mut().map(|ledger| ledger.send(used)));
        drop(ledger);
        let result = line.ask(work).map_err(|error| self.failure(line, &error));
        self.log.room().end();
        let outcome = match &result {
            // What switches the audit on may itself still be unaudited.
            Ok(_) if used.is_some_and(|used| used.command == SET_OPTION) => Outcome::Unknown,
            Ok(_) => Outcome::Done,
            Err(failure) if failure.code == Some(LOG_FULL) || failure.is_closed => Outcome::NotBegun,
            Err(_) => Outcome::Unknown,
        };
        if let (Some(ticket), Some(ledger)) = (ticket, self.log.ledger().as_mut()) {
            ledger.settle(ticket, outcome, Instant::now());
        }
        result
    }

    pub(super) fn failure(&self, line: &Line, error: &CallError) -> Failure {
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
    /// There is no session.
    pub(super) fn of_session(error: DeviceError) -> Failure {
        Failure { error, code: None, is_closed: false }
    }

    pub(super) fn of_log(why: String) -> Failure {
        Failure { error: DeviceError::Failed(why), code: None, is_closed: false }
    }

    pub(super) fn of_keeper(why: String) -> Failure {
        let error = DeviceError::Failed(format!(
            "what the YubiHSM's log says cannot be put into the audit log, so nothing is done with the device: {why}"
        ));
        Failure { error, code: None, is_closed: false }
    }
}
