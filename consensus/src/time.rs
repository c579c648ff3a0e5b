//! Moments and durations, in milliseconds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{self, Integer};

/// A moment: milliseconds since the Unix epoch, below 2^53.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(Integer);

/// A length of time in milliseconds, more than zero. Its text form is `[1-9][0-9]{0,8}(ms|s|m|h|d)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a duration: write a number from 1 to 999999999 and one of ms, s, m, h, d, such as `48h`", .0.escape_debug())]
pub struct DurationError(String);

impl UnixMillis {
    /// The moment `milliseconds` after the Unix epoch; the largest that can be written if it is beyond.
    pub fn new(milliseconds: u64) -> UnixMillis {
        UnixMillis(Integer::saturating(milliseconds))
    }

    /// Milliseconds since the Unix epoch.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The moment `duration` later; the largest that can be written if it is beyond.
    #[must_use]
    pub fn after(self, duration: Millis) -> UnixMillis {
        UnixMillis::new(self.get().saturating_add(duration.0))
    }

    /// The moment `duration` earlier, or the epoch.
    #[must_use]
    pub fn before(self, duration: Millis) -> UnixMillis {
        UnixMillis::new(self.get().saturating_sub(duration.0))
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl Millis {
    /// A duration of `milliseconds`.
    pub const fn new(milliseconds: u64) -> Millis {
        Millis(milliseconds)
    }

    /// A duration of `seconds`.
    pub const fn from_secs(seconds: u64) -> Millis {
        Millis(seconds * 1_000)
    }

    /// Milliseconds.
    pub const fn get(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Millis {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Millis, DurationError> {
        let error = || DurationError(text.chars().take(80).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        if !(1..=9).contains(&digits) || number.starts_with('0') {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        Ok(Millis(number * unit))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS.iter().find(|(_, unit)| self.0.is_multiple_of(*unit)).unwrap_or(&("ms", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        json::read_text(deserializer, str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        for (text, millis) in
            [("1ms", 1), ("10s", 10_000), ("90m", 5_400_000), ("48h", 172_800_000), ("7d", 604_800_000)]
        {
            assert_eq!(text.parse(), Ok(Millis(millis)));
        }
        for wrong in ["", "5", "h", "0s", "01s", "1.5h", "1h30m", "-1s", "1000000000s", "1 h", "1H"] {
            assert!(wrong.parse::<Millis>().is_err(), "{wrong}");
        }
        assert_eq!(Millis::from_secs(7_200).to_string(), "2h");
    }
}
