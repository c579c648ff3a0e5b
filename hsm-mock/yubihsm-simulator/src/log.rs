//! The device's log: 62 places, numbered entries, each digest over its entry and the digest before.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use crate::command::Command;

/// How many entries there is room for.
pub(crate) const PLACES: usize = 62;
/// Stands for no object and no session.
pub(crate) const NOTHING: u16 = 0xffff;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1.
    pub number: u16,
    /// What was done.
    pub command: Command,
    /// How many bytes came with the command.
    pub length: u16,
    /// The authentication key of the session.
    pub session_key: u16,
    /// The object that was used.
    pub target: u16,
    /// A second one.
    pub second: u16,
    /// The answer's code, or the error's.
    pub result: u8,
    /// Milliseconds since the device was started.
    pub tick: u32,
    /// The first half of SHA-256 over the sixteen bytes before and the previous entry's digest.
    pub digest: [u8; 16],
}

/// What an entry says, before it has a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) command: Command,
    pub(crate) length: u16,
    pub(crate) session_key: u16,
    pub(crate) target: u16,
    pub(crate) second: u16,
    pub(crate) result: u8,
}

/// All entries that were not acknowledged.
pub(crate) struct Log {
    entries: VecDeque<LogEntry>,
    last: u16,
    digest: [u8; 16],
    unlogged_boots: u16,
    unlogged_logins: u16,
}

impl LogEntry {
    fn fields(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..2].copy_from_slice(&self.number.to_be_bytes());
        bytes[2] = self.command.0;
        bytes[3..5].copy_from_slice(&self.length.to_be_bytes());
        bytes[5..7].copy_from_slice(&self.session_key.to_be_bytes());
        bytes[7..9].copy_from_slice(&self.target.to_be_bytes());
        bytes[9..11].copy_from_slice(&self.second.to_be_bytes());
        bytes[11] = self.result;
        bytes[12..16].copy_from_slice(&self.tick.to_be_bytes());
        bytes
    }
}

impl Log {
    /// The log of a device that was just reset. `seed` makes its digests its own.
    pub(crate) fn new(seed: [u8; 16]) -> Log {
        let mut log =
            Log { entries: VecDeque::new(), last: 0, digest: seed, unlogged_boots: 0, unlogged_logins: 0 };
        let line = Line {
            command: Command::INITIALIZATION,
            length: 0xffff,
            session_key: NOTHING,
            target: NOTHING,
            second: NOTHING,
            result: 0xff,
        };
        log.put(line, u32::MAX);
        log
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= PLACES
    }

    pub(crate) fn used(&self) -> u8 {
        u8::try_from(self.entries.len()).expect("no more than there is room for")
    }

    pub(crate) fn entries(&self) -> Vec<LogEntry> {
        self.entries.iter().copied().collect()
    }

    /// Writes an entry, over the oldest if there is no room.
    pub(crate) fn put(&mut self, line: Line, tick: u32) {
        if self.is_full() {
            self.entries.pop_front();
        }
        self.last = self.last.wrapping_add(1);
        let Line { command, length, session_key, target, second, result } = line;
        let mut entry = LogEntry {
            number: self.last,
            command,
            length,
            session_key,
            target,
            second,
            result,
            tick,
            digest: [0; 16],
        };
        let hash = Sha256::new().chain_update(entry.fields()).chain_update(self.digest).finalize();
        entry.digest.copy_from_slice(&hash[..16]);
        self.digest = entry.digest;
        self.entries.push_back(entry);
    }

    /// Counts a start for which there was no room.
    pub(crate) fn miss_boot(&mut self) {
        self.unlogged_boots = self.unlogged_boots.saturating_add(1);
    }

    /// Counts a login for which there was no room.
    pub(crate) fn miss_login(&mut self) {
        self.unlogged_logins = self.unlogged_logins.saturating_add(1);
    }

    /// Forgets all up to this entry. Nothing, if it is not there.
    pub(crate) fn acknowledge(&mut self, number: u16) -> Option<()> {
        let place = self.entries.iter().position(|entry| entry.number == number)?;
        self.entries.drain(..=place);
        // Assumed: what was counted was told by the reading that is acknowledged.
        (self.unlogged_boots, self.unlogged_logins) = (0, 0);
        Some(())
    }

    /// The answer to a reading.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.unlogged_boots.to_be_bytes());
        bytes.extend(self.unlogged_logins.to_be_bytes());
        bytes.push(self.used());
        for entry in &self.entries {
            bytes.extend(entry.fields());
            bytes.extend(entry.digest);
        }
        bytes
    }
}
