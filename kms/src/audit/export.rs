//! The log for a SIEM: a line for each entry, its exact bytes among them, so that the receiver can compute the heads again.

use std::fmt::Write as _;
use std::str::FromStr;

use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::time::UnixMillis;

use super::walk::AuditError;
use super::{Entry, next_head};
use crate::moment::Moment;
use crate::store::{Store, StoreError};

/// Facility 13, "log audit", of RFC 5424 section 6.2.1.
const LOG_AUDIT: u8 = 13;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A JSON object for each entry: `number`, `head` (the one after it), and `entry` as it is in the log
    JsonLines,
    /// RFC 5424, with that object as the message
    Syslog,
}

/// An end of what is exported, which belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An entry's number, from 1.
    Number(u64),
    /// A moment by the KMS's clock.
    Time(UnixMillis),
}

/// The text is neither a number nor a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is neither an entry's number nor a moment such as `2030-01-31T08:00:00Z`", .0.escape_debug())]
pub struct BoundError(String);

impl FromStr for Bound {
    type Err = BoundError;

    fn from_str(text: &str) -> Result<Bound, BoundError> {
        if let Ok(number) = text.parse() {
            return Ok(Bound::Number(number));
        }
        let moment: Result<Moment, _> = text.parse();
        moment.map(|Moment(moment)| Bound::Time(moment)).map_err(|_| BoundError(text.to_owned()))
    }
}

/// Gives a line to `each` for every entry from `from` to `to`, and compares each head with what it must follow from. An
/// entry is given only after its own head was found right.
///
/// # Errors
/// [`AuditError`], with the first entry that is wrong; or what `each` gives.
pub fn export<E: From<AuditError> + From<StoreError>>(
    store: &Store,
    from: Option<Bound>,
    to: Option<Bound>,
    format: Format,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let first = match from {
        Some(Bound::Number(number)) => number.clamp(1, i64::MAX.cast_unsigned()),
        _ => 1,
    };
    let mut before = (first - 1, (first == 1).then_some(Digest::ZERO));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // The entry before the first one brings the head that the first one must follow from.
    store.each_entry((first - 1).max(1), |number, bytes, head| {
        let wrong = |why: &str| E::from(AuditError::Entry { number, why: why.into() });
        let (last, expected) = std::mem::replace(&mut before, (number, Some(head)));
        let Some(expected) = expected else {
            return if number == last { Ok(()) } else { Err(wrong("the one before it is missing")) };
        };
        if number != last + 1 {
            return Err(wrong(&format!("it comes after entry {last}, so some are missing")));
        }
        if next_head(&expected, bytes) != head {
            return Err(wrong("its head does not follow from its content and the head before"));
        }
        let entry: Entry =
            json::read(bytes).map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is no text"))?;
        let is_before = |bound: Bound| match bound {
            Bound::Number(bound) => number < bound,
            Bound::Time(bound) => entry.at() < bound,
        };
        let is_after = |bound: Bound| match bound {
            Bound::Number(bound) => number > bound,
            Bound::Time(bound) => entry.at() > bound,
        };
        if from.is_some_and(is_before) || to.is_some_and(is_after) {
            return Ok(());
        }
        let object = format!(r#"{{"number":{number},"head":"{head}","entry":{text}}}"#);
        each(&match format {
            Format::JsonLines => object,
            Format::Syslog => syslog(&entry, &host, &object),
        })
    })
}

/// RFC 5424 section 6; what is nobody's structured data stands in the message.
fn syslog(entry: &Entry, host: &str, message: &str) -> String {
    let priority = LOG_AUDIT * 8 + entry.severity();
    let mut line = format!("<{priority}>1 {} ", Moment(entry.at()).with_milliseconds());
    // HOSTNAME is printable US-ASCII without a space.
    line.extend(host.chars().filter(char::is_ascii_graphic).take(255));
    if line.ends_with(' ') {
        line.push('-');
    }
    // Writing into a string does not fail.
    let _ = write!(line, " assent-kms - {} - {message}", entry.name());
    line
}
