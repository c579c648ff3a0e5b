//! What a certificate says: whose it is, and from when until when.

use std::fmt;

use assent_consensus::digest::Digest;
use assent_consensus::time::{Millis, UnixMillis};
use x509_cert::der::{DateTime, Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

use super::ClientName;

/// How many names of a certificate are shown.
const SHOWN_NAMES: usize = 4;
/// Nothing ends soon before the last one of so many parts of its life.
const PARTS: u64 = 4;
const DAY_SECONDS: u64 = 24 * 3_600;

/// A certificate, as far as it says who shows it. That it was signed by anybody is not looked at here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its DNS names and URIs, and its key: what it can be listed by.
    names: Vec<ClientName>,
    validity: Validity,
}

/// From when until when a certificate or a revocation list is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    from: UnixMillis,
    until: UnixMillis,
}

/// How what is good for a time stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It begins later.
    NotYet,
    /// It is good.
    Good,
    /// It is good, and must be replaced soon.
    Ending,
    /// It is over.
    Expired,
}

impl Certificate {
    /// What the certificate with this DER says; nothing if it is none (RFC 5280).
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let key = Digest::of(&certificate.subject_public_key_info().to_der().ok()?);
        let alternatives = certificate.get_extension::<SubjectAltName>().ok()?;
        let alternatives = alternatives.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
        let named = alternatives.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(ClientName::Dns(name.as_str().to_ascii_lowercase())),
            GeneralName::UniformResourceIdentifier(uri) => Some(ClientName::Uri(uri.as_str().to_owned())),
            _ => None,
        });
        let validity = certificate.validity();
        Some(Certificate {
            names: named.chain([ClientName::Key(key)]).collect(),
            validity: Validity::new(validity.not_before, validity.not_after),
        })
    }

    /// Whether one of `clients` is this certificate's.
    pub fn is_one_of(&self, clients: &[ClientName]) -> bool {
        self.names.iter().any(|name| clients.contains(name))
    }

    /// From when until when it is good.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// Its names and its key, for a log.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is the last one, and always shown.
        let (key, names) = self.names.split_last().ok_or(fmt::Error)?;
        names.iter().take(SHOWN_NAMES).try_for_each(|name| write!(f, "{name}, "))?;
        if names.len() > SHOWN_NAMES {
            write!(f, "{} more, ", names.len() - SHOWN_NAMES)?;
        }
        write!(f, "{key}")
    }
}

impl Validity {
    pub(crate) fn new(from: Time, until: Time) -> Validity {
        let moment = |time: Time| {
            let since = time.to_unix_duration();
            UnixMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        Validity { from: moment(from), until: moment(until) }
    }

    /// Its last moment.
    pub fn until(&self) -> UnixMillis {
        self.until
    }

    /// How it stands at `now`; it is ending from so long before its end on, or in the last quarter of a short
    /// life.
    pub fn standing(&self, now: UnixMillis, notice: Millis) -> Standing {
        let life = self.until.get().saturating_sub(self.from.get());
        let end = Millis::new(notice.get().min(life / PARTS));
        match () {
            () if now < self.from => Standing::NotYet,
            () if now > self.until => Standing::Expired,
            () if now.after(end) >= self.until => Standing::Ending,
            () => Standing::Good,
        }
    }

    /// How long it is good from `now` on, in words.
    pub fn words(&self, now: UnixMillis) -> String {
        let left = self.until.get().saturating_sub(now.get()) / 1_000;
        match left / DAY_SECONDS {
            _ if now < self.from => format!("not valid before {}", moment(self.from)),
            _ if now > self.until => format!("expired on {}", moment(self.until)),
            0 => format!("good for {} h, until {}", left / 3_600, moment(self.until)),
            1 => format!("good for 1 day, until {}", moment(self.until)),
            days => format!("good for {days} days, until {}", moment(self.until)),
        }
    }
}

/// The moment in UTC, to the second.
pub(crate) fn moment(moment: UnixMillis) -> String {
    let since = std::time::Duration::from_millis(moment.get());
    DateTime::from_unix_duration(since)
        .map_or_else(|_| format!("{} ms after 1970", moment.get()), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_ending_when_notice_is_to_be_given_or_in_the_last_quarter_of_a_short_life() {
        let day = |days: u64| UnixMillis::new(days * DAY_SECONDS * 1_000);
        let fortnight = Millis::from_secs(14 * DAY_SECONDS);
        let year = Validity { from: day(10), until: day(375) };
        for (now, standing) in [
            (day(9), Standing::NotYet),
            (day(10), Standing::Good),
            (day(360), Standing::Good),
            (day(361), Standing::Ending),
            (day(375), Standing::Ending),
            (day(376), Standing::Expired),
        ] {
            assert_eq!(year.standing(now, fortnight), standing, "{now}");
        }
        let short = Validity { from: day(10), until: day(14) };
        assert_eq!(short.standing(day(12), fortnight), Standing::Good);
        assert_eq!(short.standing(day(13), fortnight), Standing::Ending);
        assert_eq!(year.words(day(365)), "good for 10 days, until 1971-01-11T00:00:00Z");
        assert_eq!(year.words(day(374)), "good for 1 day, until 1971-01-11T00:00:00Z");
        assert_eq!(year.words(day(375)), "good for 0 h, until 1971-01-11T00:00:00Z");
        assert_eq!(year.words(day(400)), "expired on 1971-01-11T00:00:00Z");
        assert_eq!(year.words(day(1)), "not valid before 1970-01-11T00:00:00Z");
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for wrong in [&b""[..], b"x", &[0x30, 0x80], &[0x30, 0x03, 0x02, 0x01, 0x01]] {
            assert_eq!(Certificate::parse(wrong), None);
        }
    }
}
