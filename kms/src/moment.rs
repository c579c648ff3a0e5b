//! Moments as people write them: RFC 3339, such as `2030-01-31T08:00:00Z`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use assent_consensus::time::UnixMillis;

/// A moment with a text form: RFC 3339 in UTC, with milliseconds only where there are some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub UnixMillis);

/// The text is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a moment such as `2030-01-31T08:00:00Z`", .0.escape_debug())]
pub struct MomentError(String);

/// The last millisecond of the year 9999: RFC 3339 goes no further.
const LAST: u64 = 253_402_300_799_999;

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Moment, MomentError> {
        let moment = humantime::parse_rfc3339(text).ok();
        let since = moment.and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
        let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
        let error = || MomentError(text.chars().take(80).collect());
        millis.map(UnixMillis::new).map(Moment).ok_or_else(error)
    }
}

impl Moment {
    /// The same with milliseconds always, as RFC 5424 takes it.
    pub fn with_milliseconds(self) -> impl fmt::Display {
        humantime::format_rfc3339_millis(self.system_time())
    }

    fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.get().min(LAST))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get() % 1_000 {
            0 => humantime::format_rfc3339_seconds(self.system_time()).fmt(f),
            _ => self.with_milliseconds().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_shown() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2027-01-15T08:00:00Z", 1_800_000_000_000),
            ("2027-01-15T08:00:00.001Z", 1_800_000_000_001),
            ("9999-12-31T23:59:59.999Z", LAST),
        ] {
            let moment: Moment = text.parse().expect("a moment");
            assert_eq!((moment.0.get(), moment.to_string()), (millis, text.to_owned()));
        }
        assert_eq!(Moment(UnixMillis::new(u64::MAX)).to_string(), "9999-12-31T23:59:59.999Z");
        for wrong in ["", "-1", "yesterday", "2027-01-15", "1969-12-31T23:59:59Z"] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
