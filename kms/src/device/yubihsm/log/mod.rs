//! The device's own log, and which of its entries are ours.
//!
//! The device numbers its entries and chains them: the digest of an entry is over its 16 bytes and the digest before it.
//! Each command that this process sends and that uses or changes something is noted before it is sent ([`Ledger::send`]),
//! and crossed out when the log shows it. What the log shows and was not noted, somebody else did; what was noted and
//! answered, and the log does not show, somebody hid.

mod entry;

use std::fmt;
use std::time::{Duration, Instant};

pub use entry::{LogEntry, SET_OPTION, SIGN_ECDSA, is_use};

/// How long a command whose answer was lost may still turn up in the log: no session outlives 30 idle seconds, and no
/// connector holds a command longer than a person would wait.
pub const DOUBT_LIMIT: Duration = Duration::from_secs(120);

/// The last entry that was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// Its number.
    pub item: u16,
    /// Its digest.
    pub digest: [u8; 16],
}

/// A command that uses or changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The command's code.
    pub command: u8,
    /// The object; nothing if the device chooses it, or there is none.
    pub object: Option<u16>,
}

/// Something that the log shows and that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Somebody else used or changed something.
    Foreign {
        /// What the log says.
        entry: LogEntry,
        /// Whether it is what this KMS may have done itself before it was cut off.
        before_start: bool,
    },
    /// Something that this KMS did is not in the log.
    Missing(Use),
    /// Entries are missing: somebody else took them off, or the device was reset.
    Gap {
        /// The last number before.
        after: u16,
        /// The first number now.
        found: u16,
    },
    /// An entry does not follow from the one before.
    Broken {
        /// Its number.
        item: u16,
    },
    /// Logins that found no room in the log.
    Unlogged {
        /// How many starts of the device.
        boots: u16,
        /// How many logins.
        logins: u16,
    },
}

impl Finding {
    /// Whether the asymmetric key of this number must sign nothing before a person looked: somebody else used it, or may have
    /// and it cannot be known any more.
    pub fn suspects(&self, number: u16) -> bool {
        match self {
            Finding::Foreign { before_start: true, .. } | Finding::Missing(_) | Finding::Unlogged { .. } => {
                false
            }
            Finding::Foreign { entry, .. } => entry.is_done() && (entry.touches_key(number) || entry.hides()),
            Finding::Gap { .. } | Finding::Broken { .. } => true,
        }
    }

    /// Whether a person must look.
    pub fn is_alarm(&self) -> bool {
        !matches!(self, Finding::Foreign { before_start: true, .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Foreign { entry, before_start } => write!(
                f,
                "entry {} of the device's log: command {:#04x} on object {:#06x} with authentication key {} {}{}",
                entry.item,
                entry.command,
                entry.target,
                entry.session_key,
                if entry.is_done() { "" } else { "was tried and " },
                if *before_start { "may be ours from before the start" } else { "is not ours" }
            ),
            Finding::Missing(used) => write!(
                f,
                "the device's log does not show command {:#04x} on object {:#06x}, which this KMS sent",
                used.command,
                used.object.unwrap_or_default()
            ),
            Finding::Gap { after, found } => write!(
                f,
                "the device's log goes on with entry {found} after entry {after}: somebody else took entries off it, or \
                 the device was reset"
            ),
            Finding::Broken { item } => {
                write!(f, "entry {item} of the device's log does not follow from the one before")
            }
            Finding::Unlogged { boots, logins } => {
                write!(f, "the device's log was full: {boots} starts and {logins} logins are not in it")
            }
        }
    }
}

/// What is expected in the log.
#[derive(Debug)]
pub struct Ledger {
    session_key: u16,
    sent: Vec<Sent>,
    next: u64,
    mark: Option<LogMark>,
    /// Until the log was read once: entries of before this process.
    is_first: bool,
    /// What the process before may have used.
    before: Vec<Use>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    ticket: Ticket,
    used: Use,
    state: SentState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SentState {
    /// Done, as the device says.
    Answered,
    /// Under way.
    Waiting,
    /// Nobody knows.
    Doubtful(Instant),
}

/// Names a command that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device did it.
    Done,
    /// The device cannot have begun it.
    NotBegun,
    /// It may have been done.
    Unknown,
}

/// What a reading of the log brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How many entries were new.
    pub entries: u32,
    /// Those of them that are uses of ours.
    pub matched: Vec<LogEntry>,
    /// The last entry.
    pub last: Option<LogMark>,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
}

impl Ledger {
    /// A ledger for sessions of this authentication key, after `mark`. `before` may have been done by a process that ended
    /// before it read the log.
    pub fn new(session_key: u16, mark: Option<LogMark>, before: &[Use], now: Instant) -> Ledger {
        let before_start = before.to_vec();
        let (sent, next) = (Vec::new(), 0);
        let mut ledger = Ledger { session_key, sent, next, mark, is_first: true, before: before_start };
        for used in before {
            let ticket = ledger.send(*used);
            ledger.settle(ticket, Outcome::Unknown, now);
        }
        ledger
    }

    /// The last entry that was dealt with.
    pub fn mark(&self) -> Option<LogMark> {
        self.mark
    }

    /// Whether the log was not read yet.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Notes a command that is about to be sent.
    pub fn send(&mut self, used: Use) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.sent.push(Sent { ticket, used, state: SentState::Waiting });
        ticket
    }

    /// Notes how it ended. It may have been crossed out already.
    pub fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let Some(place) = self.sent.iter().position(|sent| sent.ticket == ticket) else { return };
        match outcome {
            Outcome::Done => self.sent[place].state = SentState::Answered,
            Outcome::Unknown => self.sent[place].state = SentState::Doubtful(now),
            Outcome::NotBegun => drop(self.sent.remove(place)),
        }
    }

    /// What must be in a log that is read from now on.
    pub fn due(&self) -> Vec<Ticket> {
        self.sent.iter().filter(|sent| sent.state == SentState::Answered).map(|sent| sent.ticket).collect()
    }

    /// Compares a whole reading with what was noted. `due` was taken before it was asked for.
    pub fn compare(&mut self, entries: &[LogEntry], due: &[Ticket], now: Instant) -> Reading {
        let mut reading = Reading::default();
        let is_baseline = self.mark.is_none();
        let mut previous = self.mark;
        // What was dealt with and not yet taken off is passed over, if it is what it was.
        let known = self.mark.and_then(|mark| entries.iter().rposition(|entry| entry.item == mark.item));
        let new = match (known, self.mark) {
            (Some(place), Some(mark)) if entries[place].digest == mark.digest => &entries[place + 1..],
            (Some(place), Some(mark)) => {
                reading.findings.push(Finding::Gap { after: mark.item, found: entries[place].item });
                previous = None;
                entries
            }
            _ => entries,
        };
        for entry in new {
            match previous {
                Some(before) if entry.item != before.item.wrapping_add(1) => {
                    reading.findings.push(Finding::Gap { after: before.item, found: entry.item });
                }
                Some(before) if entry.chained(&before.digest) != entry.digest => {
                    reading.findings.push(Finding::Broken { item: entry.item });
                }
                _ => {}
            }
            previous = Some(LogMark { item: entry.item, digest: entry.digest });
            reading.entries += 1;
            if !is_use(entry.command) {
                continue;
            }
            match self.place_of(entry) {
                Some(place) => {
                    self.sent.remove(place);
                    reading.matched.push(*entry);
                }
                // What was before this KMS first saw the device is nobody's business.
                None if is_baseline => {}
                None => {
                    let before_start = self.is_from_before(entry);
                    reading.findings.push(Finding::Foreign { entry: *entry, before_start });
                }
            }
        }
        for sent in self.sent.extract_if(.., |sent| due.contains(&sent.ticket)) {
            reading.findings.push(Finding::Missing(sent.used));
        }
        self.sent.retain(|sent| match sent.state {
            SentState::Doubtful(since) => now.saturating_duration_since(since) < DOUBT_LIMIT,
            _ => true,
        });
        self.mark = previous.or(self.mark);
        self.is_first = false;
        reading.last = self.mark;
        reading
    }

    /// Whether an entry is what the process before may have done: with a key, only if it was about to use that one. It deletes
    /// its old marks; a key that is gone is missed at the start.
    fn is_from_before(&self, entry: &LogEntry) -> bool {
        let is_known = |used: &Use| used.command == entry.command && used.object == Some(entry.target);
        self.is_first
            && entry.session_key == self.session_key
            && (!entry.uses_a_key() || self.before.iter().any(is_known))
    }

    /// The noted command that an entry shows: rather one that was answered than one of which nobody knows.
    fn place_of(&self, entry: &LogEntry) -> Option<usize> {
        let fits = |sent: &Sent| {
            sent.used.command == entry.command
                && sent.used.object.is_none_or(|object| object == entry.target || object == entry.second)
        };
        if entry.session_key != self.session_key {
            return None;
        }
        let fitting = self.sent.iter().enumerate().filter(|(_, sent)| fits(sent));
        fitting.min_by_key(|(_, sent)| (sent.state, sent.ticket)).map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests;
