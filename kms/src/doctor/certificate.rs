//! What `[tls]` names for nodes on other machines.

use assent_consensus::time::{Millis, UnixMillis};
use assent_edge::tls::Standing;

use super::{Finding, Report};
use crate::tls_expiry::{REVOCATION_LIST, endings};
use crate::tls_socket::TlsConfig;

impl Report {
    /// Whether the files can be used, and how long each is good from `now` on.
    pub(super) fn examine_tls(&mut self, tls: &TlsConfig, now: UnixMillis, notice: Millis) {
        let credentials = match tls.credentials() {
            Ok(credentials) => credentials,
            Err(error) => return self.bad("certificate", &error),
        };
        let revoked = tls.revocation_lists().unwrap_or_else(|error| {
            self.bad(REVOCATION_LIST, &format!("{error}; until it is good nobody is let in"));
            None
        });
        for ending in endings(tls, &credentials, revoked.as_ref()) {
            let seen = format!("`{}`: {}", ending.file.display(), ending.validity.words(now));
            let (what, help) = (ending.what, ending.help);
            match ending.validity.standing(now, notice) {
                Standing::Good => self.good(what.into(), seen),
                Standing::Ending => {
                    self.findings.push(Finding { what: what.into(), well: true, seen, notice: Some(help) });
                }
                Standing::NotYet | Standing::Expired => self.bad(what, &format!("{seen}; {help}")),
            }
        }
    }
}
