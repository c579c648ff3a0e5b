//! The device's own log, and which of its entries are ours.
//!
//! The device numbers its entries and chains them: the digest of an entry is over its 16 bytes and the digest before it.
//! Each command that this process sends and that uses or changes something is noted before it is sent ([`Ledger::send`]),
//! and crossed out when the log shows it. What the log shows and was not noted, somebody else did; what was noted and
//! answered, and the log does not show, somebody hid.

use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// How long a command whose answer was lost may still turn up in the log: no session outlives 30 idle seconds, and no
/// connector holds a command longer than a person would wait.
pub const DOUBT_LIMIT: Duration = Duration::from_secs(120);

/// One entry of the device's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1, and after 65,535 from 0 again.
    pub item: u16,
    /// The command's code.
    pub command: u8,
    /// The length of what came with it.
    pub length: u16,
    /// The authentication key of the session.
    pub session_key: u16,
    /// The object that was used.
    pub target: u16,
    /// A second one.
    pub second: u16,
    /// The answer's code.
    pub result: u8,
    /// The device's clock.
    pub tick: u32,
    /// Over this entry and the digest before.
    pub digest: [u8; 16],
}

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

/// Commands that only look, or belong to a session; who did those does no harm. All others are uses.
const LOOKS: [u8; 20] = [
    0x00, // boot
    0x01, // echo
    0x03, // create session
    0x04, // authenticate session
    0x05, // session message
    0x06, // device info
    0x40, // close session
    0x41, // storage info
    0x43, // get opaque
    0x48, // list objects
    0x4d, // get log entries
    0x4e, // object info
    0x50, // get option
    0x51, // random bytes
    0x54, // public key
    0x5c, // verify HMAC
    0x5f, // get template
    0x67, // set log index
    0x6b, // blink
    0xff, // the first entry of a device, and of one that was reset
];

/// Something that the log shows and that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Somebody else used or changed something.
    Foreign {
        /// What the log says.
        entry: LogEntry,
        /// Whether it may be what this KMS did before it was cut off.
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

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Foreign { entry, .. } => write!(
                f,
                "entry {} of the device's log: command {:#04x} on object {:#06x} with authentication key {} is not ours",
                entry.item, entry.command, entry.target, entry.session_key
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
    /// How many of them are uses of ours.
    pub matched: u32,
    /// The last entry.
    pub last: Option<LogMark>,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
}

impl Ledger {
    /// A ledger for sessions of this authentication key, after `mark`. `before` may have been done by a process that ended
    /// before it read the log.
    pub fn new(session_key: u16, mark: Option<LogMark>, before: &[Use], now: Instant) -> Ledger {
        let mut ledger = Ledger { session_key, sent: Vec::new(), next: 0, mark, is_first: true };
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

    /// Whether a command is one that is noted.
    pub fn is_use(command: u8) -> bool {
        !LOOKS.contains(&command)
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
                Some(before) if chained(entry, &before.digest) != entry.digest => {
                    reading.findings.push(Finding::Broken { item: entry.item });
                }
                _ => {}
            }
            previous = Some(LogMark { item: entry.item, digest: entry.digest });
            reading.entries += 1;
            if !Ledger::is_use(entry.command) {
                continue;
            }
            match self.place_of(entry) {
                Some(place) => {
                    self.sent.remove(place);
                    reading.matched += 1;
                }
                // What was before this KMS first saw the device is nobody's business.
                None if is_baseline => {}
                None => {
                    let before_start = self.is_first && entry.session_key == self.session_key;
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

/// The digest that an entry must have after this one: the first half of SHA-256 over its 16 bytes and the digest before.
pub(super) fn chained(entry: &LogEntry, before: &[u8; 16]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(entry.item.to_be_bytes());
    hash.update([entry.command]);
    for field in [entry.length, entry.session_key, entry.target, entry.second] {
        hash.update(field.to_be_bytes());
    }
    hash.update([entry.result]);
    hash.update(entry.tick.to_be_bytes());
    hash.update(before);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u16 = 2;
    const SIGN: u8 = 0x56;

    /// A device's log that grows.
    struct Log {
        entries: Vec<LogEntry>,
        begin: usize,
    }

    impl Log {
        fn new() -> Log {
            let mut log = Log { entries: Vec::new(), begin: 0 };
            log.put(0xff, 0xffff, 0xffff);
            log
        }

        fn put(&mut self, command: u8, session_key: u16, target: u16) {
            let item = u16::try_from(self.entries.len() + 1).expect("short");
            let before = self.entries.last().map_or([7; 16], |entry| entry.digest);
            let (length, second, result, tick) = (34, 0xffff, command | 0x80, u32::from(item));
            let entry = LogEntry {
                item,
                command,
                length,
                session_key,
                target,
                second,
                result,
                tick,
                digest: [0; 16],
            };
            self.entries.push(LogEntry { digest: chained(&entry, &before), ..entry });
        }

        fn read(&self) -> &[LogEntry] {
            &self.entries[self.begin..]
        }
    }

    fn sign(object: u16) -> Use {
        Use { command: SIGN, object: Some(object) }
    }

    fn begun() -> (Ledger, Log, Instant) {
        let (log, now) = (Log::new(), Instant::now());
        let mut ledger = Ledger::new(OURS, None, &[], now);
        assert_eq!(ledger.compare(log.read(), &[], now).findings, []);
        (ledger, log, now)
    }

    #[test]
    fn what_we_sent_is_crossed_out_once_and_the_rest_is_foreign() {
        let (mut ledger, mut log, now) = begun();
        let ticket = ledger.send(sign(5));
        log.put(SIGN, OURS, 5);
        ledger.settle(ticket, Outcome::Done, now);
        let reading = ledger.compare(log.read(), &ledger.due(), now);
        assert_eq!((reading.entries, reading.matched, reading.findings.len()), (1, 1, 0));
        assert_eq!(ledger.compare(log.read(), &ledger.due(), now).entries, 0, "nothing is compared twice");
        for (key, target) in [(OURS, 5), (1, 5), (OURS, 6)] {
            let ticket = ledger.send(sign(7));
            ledger.settle(ticket, Outcome::NotBegun, now);
            log.put(SIGN, key, target);
            let reading = ledger.compare(log.read(), &ledger.due(), now);
            let entry = *log.entries.last().expect("one");
            assert_eq!(reading.findings, [Finding::Foreign { entry, before_start: false }]);
        }
        log.put(0x48, 1, 0xffff);
        assert_eq!(ledger.compare(log.read(), &ledger.due(), now).findings, [], "somebody looked");
    }

    #[test]
    fn what_we_sent_and_the_log_does_not_show_is_missing_once_it_was_answered_before_the_reading() {
        let (mut ledger, log, now) = begun();
        let ticket = ledger.send(sign(5));
        assert_eq!(ledger.compare(log.read(), &ledger.due(), now).findings, [], "it may be under way");
        let due = ledger.due();
        ledger.settle(ticket, Outcome::Done, now);
        assert_eq!(
            ledger.compare(log.read(), &due, now).findings,
            [],
            "it was answered after the reading began"
        );
        let reading = ledger.compare(log.read(), &ledger.due(), now);
        assert_eq!(reading.findings, [Finding::Missing(sign(5))]);
        assert_eq!(ledger.compare(log.read(), &ledger.due(), now).findings, [], "once");
    }

    #[test]
    fn a_lost_answer_explains_one_entry_for_a_while_and_no_more() {
        let (mut ledger, mut log, now) = begun();
        let ticket = ledger.send(sign(5));
        ledger.settle(ticket, Outcome::Unknown, now);
        log.put(SIGN, OURS, 5);
        log.put(SIGN, OURS, 5);
        let reading = ledger.compare(log.read(), &ledger.due(), now);
        assert_eq!((reading.matched, reading.findings.len()), (1, 1));
        let ticket = ledger.send(sign(5));
        ledger.settle(ticket, Outcome::Unknown, now);
        let later = now + DOUBT_LIMIT;
        assert_eq!(ledger.compare(log.read(), &ledger.due(), later).findings, []);
        log.put(SIGN, OURS, 5);
        assert_eq!(ledger.compare(log.read(), &ledger.due(), later).findings.len(), 1);
    }

    #[test]
    fn entries_that_were_taken_off_changed_or_begin_again_are_found() {
        let (mut ledger, mut log, now) = begun();
        log.put(0x48, OURS, 0);
        log.put(0x48, OURS, 0);
        log.begin = 2;
        let reading = ledger.compare(log.read(), &[], now);
        assert_eq!(reading.findings, [Finding::Gap { after: 1, found: 3 }]);
        log.put(0x48, OURS, 0);
        log.entries[3].length += 1;
        let reading = ledger.compare(log.read(), &[], now);
        assert_eq!(reading.findings, [Finding::Broken { item: 4 }]);
        let mut reset = Log::new();
        (0..3).for_each(|_| reset.put(0x48, 1, 0));
        let reading = ledger.compare(reset.read(), &[], now);
        assert!(matches!(reading.findings[..], [Finding::Gap { .. }]), "{reading:?}");
        assert_eq!(ledger.compare(reset.read(), &[], now).findings, [], "told once");
    }

    #[test]
    fn what_was_done_before_a_crash_is_explained_by_the_audit_log() {
        let (ledger, mut log, now) = begun();
        log.put(SIGN, OURS, 5);
        log.put(SIGN, OURS, 5);
        let mut ledger = Ledger::new(OURS, ledger.mark(), &[sign(5)], now);
        let reading = ledger.compare(log.read(), &ledger.due(), now);
        let entry = log.entries[2];
        assert_eq!(reading.findings, [Finding::Foreign { entry, before_start: true }]);
    }

    #[test]
    fn numbers_go_on_from_0_after_65535() {
        let now = Instant::now();
        let mark = LogMark { item: u16::MAX, digest: [3; 16] };
        let mut entry = Log::new().entries[0];
        entry.item = 0;
        entry.digest = chained(&entry, &mark.digest);
        let mut ledger = Ledger::new(OURS, Some(mark), &[], now);
        assert_eq!(ledger.compare(&[entry], &[], now).findings, []);
    }
}
