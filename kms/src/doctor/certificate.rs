//! What `[tls]` names for nodes on other machines.

use assent_consensus::time::{Millis, UnixMillis};
use assent_tls::Standing;

use super::{Finding, Report};
use crate::tls_expiry::Part;
use crate::tls_socket::TlsConfig;

impl Report {
    /// Whether the files can be used, and how long each is good from `now` on.
    pub(super) fn examine_tls(&mut self, tls: &TlsConfig, now: UnixMillis, notice: Millis) {
        let credentials = match tls.credentials() {
            Ok(credentials) => credentials,
            Err(error) => return self.bad("certificate", &error),
        };
        for (part, validity) in Part::validities(&credentials) {
            let seen = format!("`{}`: {}", part.file(tls).display(), validity.words(now));
            let (what, help) = (part.what(), part.help(tls));
            match validity.standing(now, notice) {
                Standing::Good => self.good(what.into(), seen),
                Standing::Ending => {
                    self.findings.push(Finding { what: what.into(), well: true, seen, notice: Some(help) });
                }
                Standing::NotYet | Standing::Expired => self.bad(what, &format!("{seen}; {help}")),
            }
        }
    }
}
