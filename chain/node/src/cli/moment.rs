//! Moments and durations as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_consensus::time::UnixMillis;

/// The last moment with a year of four digits, in milliseconds.
const LAST: u64 = 253_402_300_799_999;

/// The moment in UTC, to the second.
pub(super) fn utc(moment: UnixMillis) -> String {
    if moment.get() > LAST {
        return format!("{} ms after 1970", moment.get());
    }
    let time = UNIX_EPOCH + Duration::from_millis(moment.get());
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC")
}

/// This machine's clock.
pub(super) fn now() -> UnixMillis {
    // A clock before 1970 is shown as what it is: at the beginning.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The moment, and how far it is from `now`.
pub(super) fn relative(moment: UnixMillis, now: UnixMillis) -> String {
    let apart = |milliseconds: u64| {
        let seconds = milliseconds / 1_000;
        // Nobody plans by the seconds of a day.
        let shown = if seconds >= 86_400 { seconds / 3_600 * 3_600 } else { seconds };
        humantime::format_duration(Duration::from_secs(shown)).to_string()
    };
    let utc = utc(moment);
    match moment.get().checked_sub(now.get()) {
        Some(left) => format!("{utc} (in {})", apart(left)),
        None => format!("{utc} ({} ago)", apart(now.get() - moment.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_in_utc_and_from_now() {
        let moment = UnixMillis::new(1_799_913_600_000);
        assert_eq!(utc(moment), "2027-01-14 08:00:00 UTC");
        let now = UnixMillis::new(moment.get() - 47 * 3_600_000 - 59_000);
        assert_eq!(relative(moment, now), "2027-01-14 08:00:00 UTC (in 1day 23h)");
        assert_eq!(relative(now, UnixMillis::new(now.get() + 61_000)), format!("{} (1m 1s ago)", utc(now)));
        assert!(utc(UnixMillis::new(u64::MAX)).contains("after 1970"));
    }
}
