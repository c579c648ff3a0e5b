//! How long what `[tls]` names is good: what the log, a scraper and `assent-kms doctor` say of it.

use std::path::Path;
use std::time::Duration;

use assent_consensus::time::UnixMillis;
use assent_edge::tls::{Credentials, RevocationLists, Server, Standing, Validity};

use crate::announced::Announced;
use crate::reload::InForce;
use crate::signing::Clock;
use crate::tls_socket::TlsConfig;

/// How often it is looked how long it is good.
const LOOK: Duration = Duration::from_secs(60);
/// The lists of revoked certificates, as they are called.
pub(crate) const REVOCATION_LIST: &str = "clients' revocation list";

/// What comes to an end.
pub(crate) struct Ending<'c> {
    /// Its key in the configuration.
    pub key: &'static str,
    /// What it is called.
    pub what: &'static str,
    /// Its file.
    pub file: &'c Path,
    /// From when until when it is good; of several in the file the one that ends first.
    pub validity: Validity,
    /// What is to be done before it ends, and also after.
    pub help: String,
}

/// What comes to an end of the credentials and lists that the configuration names.
pub(crate) fn endings<'c>(
    tls: &'c TlsConfig,
    own: &Credentials,
    revoked: Option<&RevocationLists>,
) -> Vec<Ending<'c>> {
    let certificate = Ending {
        key: "certificate",
        what: "certificate",
        file: &tls.certificate,
        validity: own.certificate().validity(),
        help: format!(
            "have a new one issued, and put it there with its key `{}`: the daemon takes both up by itself",
            tls.private_key.display()
        ),
    };
    let authority = Ending {
        key: "clients_ca",
        what: "clients' authority",
        file: &tls.clients_ca,
        validity: own.authorities_validity(),
        help: "put the authority's next certificate there too, and take this one out when all clients have certificates of \
               that: the daemon takes it up by itself"
            .into(),
    };
    let list = tls.clients_crl.as_deref().zip(revoked).map(|(file, lists)| Ending {
        key: "clients_crl",
        what: REVOCATION_LIST,
        file,
        validity: lists.validity(),
        help: "put the authority's next one there, which the daemon takes up by itself: without one that is good nobody is \
               let in"
            .into(),
    });
    [certificate, authority].into_iter().chain(list).collect()
}

/// Says for as long as the daemon runs what ends soon, and what has ended.
pub(crate) async fn keep_watch(tls: TlsConfig, server: Server, clock: Clock, settings: InForce) {
    let mut announced = Announced::default();
    loop {
        let looking = server.clone();
        let looked = tokio::task::spawn_blocking(move || looking.look()).await;
        let notice = settings.borrow().expiry_notice;
        match looked {
            Ok((own, Ok(revoked))) => {
                for ending in endings(&tls, &own, revoked.as_ref()) {
                    let standing = ending.validity.standing(clock(), notice);
                    if standing != Standing::Good
                        && announced.is_due((ending.key, ending.validity, standing), clock())
                    {
                        announce(&ending, standing, clock());
                    }
                }
            }
            Ok((_, Err(error))) => {
                tracing::error!(alarm = true, %error, "nobody is let in, since it is not known who is revoked");
            }
            Err(error) => tracing::error!(%error, "the certificates cannot be looked at; it is tried again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn announce(ending: &Ending<'_>, standing: Standing, now: UnixMillis) {
    let Ending { what, file, validity, help, .. } = ending;
    let (file, words) = (file.display(), validity.words(now));
    match standing {
        Standing::Good | Standing::Ending => tracing::warn!(%file, "the {what} is {words}: {help}"),
        Standing::NotYet | Standing::Expired => {
            tracing::error!(alarm = true, %file, "the {what} is {words}: {help}");
        }
    }
}
