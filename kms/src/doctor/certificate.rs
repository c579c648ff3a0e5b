//! The KMS's certificate for nodes on other machines.

use assent_consensus::time::UnixMillis;
use assent_tls::Standing;

use super::Report;
use crate::tls_socket::TlsConfig;

impl Report {
    /// Whether the certificate can be used, and how long it is good from `now` on.
    pub(super) fn examine_certificate(&mut self, tls: &TlsConfig, now: UnixMillis) {
        let what = "certificate";
        let credentials = match tls.credentials() {
            Ok(credentials) => credentials,
            Err(error) => return self.bad(what, &error),
        };
        let validity = credentials.certificate().validity();
        let seen = format!("`{}`: {}", tls.certificate.display(), validity.words(now));
        if validity.standing(now) == Standing::Good {
            self.good(what.into(), seen);
        } else {
            let key = tls.private_key.display();
            let help = "have a new one issued, and put it there with its key";
            self.bad(what, &format!("{seen}; {help} `{key}`: the daemon takes both up by itself"));
        }
    }
}
