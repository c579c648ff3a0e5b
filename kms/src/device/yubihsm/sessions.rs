//! How many sessions there are and may be: the device has 16, and closes none that broke before it idled for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::Line;
use super::{IDLE_LIMIT, OWN_SESSIONS};
use crate::device::DeviceError;

/// A session that idled longer is not used again: the device is about to close it.
const SPARE_LIMIT: Duration = Duration::from_secs(25);

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
        line.set_taken(true);
        Some(line.clone())
    }

    /// Whether another one may be opened.
    pub(super) fn check_room(&mut self, now: Instant) -> Result<(), DeviceError> {
        self.forget_idle(now);
        self.lingering.retain(|until| *until > now);
        match self.lines.len() + self.lingering.len() {
            open if open < OWN_SESSIONS => Ok(()),
            _ => Err(DeviceError::Full(format!(
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

    /// Nobody uses it any more; the next one may, unless it broke. If the device had closed it, those that idle are given up
    /// too: the device was restarted, or has closed them as well.
    pub(super) fn give_back(&mut self, line: &Arc<Line>, is_broken: bool, is_closed: bool) {
        if is_broken {
            let before = self.lines.len();
            self.lines.retain(|other| !Arc::ptr_eq(other, line));
            if self.lines.len() < before && !is_closed {
                self.linger(Instant::now());
            }
        }
        line.set_taken(false);
        if is_closed {
            self.forget(Instant::now(), |line| line.is_taken());
        }
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
        self.forget(now, |line| {
            line.is_taken() || now.saturating_duration_since(line.last_use()) < SPARE_LIMIT
        });
    }

    fn forget(&mut self, now: Instant, is_kept: impl Fn(&Line) -> bool) {
        let lingering = &mut self.lingering;
        self.lines.retain(|line| {
            let is_kept = is_kept(line);
            if !is_kept {
                lingering.push(line.last_use() + IDLE_LIMIT);
            }
            is_kept
        });
        self.lingering.retain(|until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use ::yubihsm::{Client, Connector, Credentials};

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
        assert!(sessions.check_room(now).is_err_and(|error| matches!(error, DeviceError::Full(_))));
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
    fn a_device_that_closed_one_session_is_not_asked_with_those_that_idle() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let lines = [line(now), line(now), line(now)];
        lines.iter().for_each(|line| sessions.add(line.clone()));
        sessions.give_back(&lines[0], false, false);
        sessions.give_back(&lines[1], true, true);
        assert!(sessions.take_spare(now).is_none());
        assert_eq!(sessions.count(now), 2, "one in use, and one that the device may still have");
    }
}
