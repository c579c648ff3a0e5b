//! How long what `[tls]` names is good: what the log, a scraper and `assent-kms doctor` say of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use assent_consensus::time::UnixMillis;
use assent_tls::{Credentials, Server, Standing, Validity};

use crate::announced::Announced;
use crate::reload::InForce;
use crate::signing::Clock;
use crate::tls_socket::TlsConfig;

/// How often it is looked how long it is good.
const LOOK: Duration = Duration::from_secs(60);

/// What of `[tls]` comes to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// The KMS's certificate.
    Certificate,
    /// The clients' authority; of several the one that ends first.
    ClientsCa,
}

impl Part {
    /// How long each is good.
    pub(crate) fn validities(own: &Credentials) -> [(Part, Validity); 2] {
        [(Part::Certificate, own.certificate().validity()), (Part::ClientsCa, own.authorities_validity())]
    }

    /// Its key in the configuration.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Part::Certificate => "certificate",
            Part::ClientsCa => "clients_ca",
        }
    }

    /// What it is called.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Part::Certificate => "certificate",
            Part::ClientsCa => "clients' authority",
        }
    }

    /// Its file.
    pub(crate) fn file(self, tls: &TlsConfig) -> &Path {
        match self {
            Part::Certificate => &tls.certificate,
            Part::ClientsCa => &tls.clients_ca,
        }
    }

    /// What is to be done before it ends, and also after.
    pub(crate) fn help(self, tls: &TlsConfig) -> String {
        match self {
            Part::Certificate => format!(
                "have a new one issued, and put it there with its key `{}`: the daemon takes both up by itself",
                tls.private_key.display()
            ),
            Part::ClientsCa => {
                "put the authority's next certificate there too, and take this one out when all clients have \
                                certificates of that: the daemon takes it up by itself"
                    .into()
            }
        }
    }
}

/// Says for as long as the daemon runs what ends soon, and what has ended.
pub(crate) async fn keep_watch(tls: TlsConfig, server: Arc<Server>, clock: Clock, settings: InForce) {
    let mut announced = Announced::default();
    loop {
        let looking = server.clone();
        match tokio::task::spawn_blocking(move || looking.own().look()).await {
            Ok(own) => announce(&tls, &own, clock(), &settings, &mut announced),
            Err(error) => tracing::error!(%error, "the certificates cannot be looked at; it is tried again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn announce(
    tls: &TlsConfig,
    own: &Credentials,
    now: UnixMillis,
    settings: &InForce,
    announced: &mut Announced<(Part, Validity, Standing)>,
) {
    let notice = settings.borrow().expiry_notice;
    for (part, validity) in Part::validities(own) {
        let standing = validity.standing(now, notice);
        if standing == Standing::Good || !announced.is_due((part, validity, standing), now) {
            continue;
        }
        let (what, words, help) = (part.what(), validity.words(now), part.help(tls));
        let file = part.file(tls).display();
        match standing {
            Standing::Good | Standing::Ending => tracing::warn!(%file, "the {what} is {words}: {help}"),
            Standing::NotYet | Standing::Expired => {
                tracing::error!(alarm = true, %file, "the {what} is {words}: {help}");
            }
        }
    }
}
