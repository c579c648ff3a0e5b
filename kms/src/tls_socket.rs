//! The port for duties of nodes on other machines: mutual TLS, for the clients that the configuration names.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent_edge::tls::{
    ClientName, Credentials, CredentialsError, Files, RevocationLists, Rotating, Server, TurnedAway, Visitor,
};
use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::reload::InForce;

/// How many handshakes are done at the same time; who comes later waits.
const HANDSHAKES: usize = 64;
/// How many clients are connected at the same time; who comes later is sent away.
const CONNECTIONS: usize = 64;
/// How long a connection lasts before the client must show its certificate again.
const CONNECTION_AGE: Duration = Duration::from_secs(3_600);
/// How long a call that has begun may take once its connection is to end: longer than a device may take to make a key.
const LAST_CALL: Duration = Duration::from_secs(180);
/// How long the head of a request may take to come.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// The table `[tls]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The address and port for duties.
    pub listen: SocketAddr,
    /// The KMS's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// The authorities that sign clients' certificates.
    pub clients_ca: PathBuf,
    /// The lists of certificates that these authorities have revoked.
    pub clients_crl: Option<PathBuf>,
    /// The clients that may send duties.
    pub clients: Vec<ClientName>,
}

/// A port that listens.
pub struct TlsSocket {
    listener: TcpListener,
    server: Server,
    age: Duration,
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum TlsSocketError {
    /// The certificate, its key, or the authorities.
    #[error("`[tls]`: {0}")]
    Credentials(#[from] CredentialsError),
    /// The address.
    #[error("`[tls]`: cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl TlsConfig {
    /// Its keys in the configuration file.
    pub(crate) const KEYS: [&str; 6] =
        ["listen", "certificate", "private_key", "clients_ca", "clients_crl", "clients"];

    /// Its paths.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = [&mut self.certificate, &mut self.private_key, &mut self.clients_ca];
        files.into_iter().chain(&mut self.clients_crl)
    }

    /// Whether only `clients` differ, which may change while the KMS runs.
    pub(crate) fn is_same_port(&self, other: &TlsConfig) -> bool {
        TlsConfig { clients: other.clients.clone(), ..self.clone() } == *other
    }

    /// What the KMS shows and trusts, as the files are now.
    ///
    /// # Errors
    /// [`CredentialsError`]
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        self.files().read()
    }

    /// Whom it does not trust, as the file is now, if there is to be one.
    ///
    /// # Errors
    /// [`CredentialsError`]
    pub fn revocation_lists(&self) -> Result<Option<RevocationLists>, CredentialsError> {
        self.clients_crl.as_deref().map(RevocationLists::read).transpose()
    }

    fn files(&self) -> Files {
        Files {
            certificate: self.certificate.clone(),
            private_key: self.private_key.clone(),
            authorities: self.clients_ca.clone(),
        }
    }
}

impl TlsSocket {
    /// Listens as the configuration says.
    ///
    /// # Errors
    /// [`TlsSocketError`]
    pub async fn listen(config: &TlsConfig) -> Result<TlsSocket, TlsSocketError> {
        let own = Rotating::open(config.files())?;
        config.revocation_lists()?;
        let listener = TcpListener::bind(config.listen).await;
        let listener =
            listener.map_err(|source| TlsSocketError::Listen { address: config.listen, source })?;
        let server = Server::new(own, config.clients_crl.clone());
        Ok(TlsSocket { listener, server, age: CONNECTION_AGE })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What it shows, and who is let in.
    pub fn server(&self) -> Server {
        self.server.clone()
    }

    /// Answers the clients of the settings with `router` until `stop` is set; what is under way then is answered first.
    pub async fn serve(mut self, router: Router, settings: InForce, stop: watch::Receiver<bool>) {
        let (server, age) = (self.server, self.age);
        let desk = Arc::new(Desk { server, router, age, settings, stop: stop.clone() });
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        // They end with this: nothing is answered any more when it is dropped.
        let mut visits = JoinSet::new();
        loop {
            let next = async {
                // The semaphore is never closed.
                let turn = handshakes.clone().acquire_owned().await.ok();
                (turn, Listener::accept(&mut self.listener).await)
            };
            tokio::select! {
                () = stopped(stop.clone()) => break,
                (turn, (stream, from)) = next => {
                    visits.spawn(desk.clone().receive(stream, from, turn, room.clone()));
                }
            }
            while visits.try_join_next().is_some() {}
        }
        drop(self.listener);
        while visits.join_next().await.is_some() {}
    }
}

/// What every connection needs.
struct Desk {
    server: Server,
    router: Router,
    age: Duration,
    settings: InForce,
    stop: watch::Receiver<bool>,
}

impl Desk {
    async fn receive(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        turn: Option<OwnedSemaphorePermit>,
        room: Arc<Semaphore>,
    ) {
        let mut settings = self.settings.clone();
        let clients = settings.borrow_and_update().tls_clients.clone();
        let accepted = tokio::select! {
            accepted = self.server.accept(stream, clients) => accepted,
            () = stopped(self.stop.clone()) => return,
        };
        let (stream, client): (_, Visitor) = match accepted {
            Ok(accepted) => accepted,
            Err(turned_away) => {
                tracing::warn!(%from, why = %turned_away, "a client was turned away");
                return;
            }
        };
        drop(turn);
        let Ok(_room) = room.try_acquire_owned() else {
            tracing::warn!(%from, %client, "a client was sent away: {CONNECTIONS} are connected already");
            return;
        };
        tracing::info!(%from, %client, "a client has connected");
        let service = TowerToHyperService::new(self.router.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Ok(ended),
            () = self.over(&client, settings) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(LAST_CALL, connection).await
            }
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%from, %error, "a connection broke"),
            Err(_) => tracing::warn!(%from, %client, "a connection is cut off: its last call does not end"),
        }
    }

    /// Waits until a connection has to end: the KMS stops, its age has come, or its client is let in no more.
    async fn over(&self, client: &Visitor, settings: InForce) {
        tokio::select! {
            () = stopped(self.stop.clone()) => {}
            () = tokio::time::sleep(self.age) => {}
            turned_away = self.no_more(client, settings) => {
                tracing::warn!(why = %turned_away, "a client is let in no more, and its connection ends");
            }
        }
    }

    /// Looks at a client again whenever the configuration was read again, until it would not be let in any more.
    async fn no_more(&self, client: &Visitor, mut settings: InForce) -> TurnedAway {
        while settings.changed().await.is_ok() {
            let clients = settings.borrow_and_update().tls_clients.clone();
            if let Err(turned_away) = self.server.check(client, clients).await {
                return turned_away;
            }
        }
        // Nothing is read again any more.
        std::future::pending().await
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could stop us is gone, and so are we.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
