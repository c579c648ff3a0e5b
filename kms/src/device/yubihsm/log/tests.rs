//! What the ledger makes of logs that were tampered with.

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
        let entry =
            LogEntry { item, command, length, session_key, target, second, result, tick, digest: [0; 16] };
        self.entries.push(LogEntry { digest: entry.chained(&before), ..entry });
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
    assert_eq!((reading.entries, reading.matched.len(), reading.findings.len()), (1, 1, 0));
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
    assert_eq!(ledger.compare(log.read(), &due, now).findings, [], "it was answered after the reading began");
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
    assert_eq!((reading.matched.len(), reading.findings.len()), (1, 1));
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
    let mark = ledger.mark();
    let mut ledger = Ledger::new(OURS, mark, &[sign(5)], now);
    let reading = ledger.compare(log.read(), &ledger.due(), now);
    let finding = Finding::Foreign { entry: log.entries[2], before_start: true };
    assert_eq!(reading.findings, [finding]);
    assert!(!finding.suspects(5) && !finding.is_alarm());
    let mut ledger = Ledger::new(OURS, mark, &[sign(6)], now);
    let reading = ledger.compare(log.read(), &ledger.due(), now);
    assert!(reading.findings.iter().all(|finding| finding.suspects(5) && finding.is_alarm()), "{reading:?}");
}

#[test]
fn numbers_go_on_from_0_after_65535() {
    let now = Instant::now();
    let mark = LogMark { item: u16::MAX, digest: [3; 16] };
    let mut entry = Log::new().entries[0];
    entry.item = 0;
    entry.digest = entry.chained(&mark.digest);
    let mut ledger = Ledger::new(OURS, Some(mark), &[], now);
    assert_eq!(ledger.compare(&[entry], &[], now).findings, []);
}

#[test]
fn a_key_is_suspected_if_somebody_else_used_it_or_may_have() {
    let foreign = |command: u8, target, second, result| {
        let mut log = Log::new();
        log.put(command, 1, target);
        let entry = LogEntry { second, result, ..log.entries[1] };
        Finding::Foreign { entry, before_start: false }
    };
    let done = |command: u8, target, second| foreign(command, target, second, command | 0x80);
    assert!(done(SIGN, 5, 0xffff).suspects(5));
    assert!(!done(SIGN, 6, 0xffff).suspects(5), "another key");
    assert!(!foreign(SIGN, 5, 0xffff, 9).suspects(5), "it was refused");
    assert!(done(0x4a, 7, 5).suspects(5), "it was taken out under wrap key 7");
    assert!(!done(0x42, 5, 0xffff).suspects(5), "data under the same number");
    assert!(done(SET_OPTION, 0xffff, 0xffff).suspects(5), "the audit may be off since");
    assert!(Finding::Gap { after: 1, found: 3 }.suspects(5));
    assert!(!Finding::Missing(sign(5)).suspects(5));
}
