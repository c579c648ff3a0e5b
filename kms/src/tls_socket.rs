//! The port for duties of nodes on other machines: mutual TLS, for the clients that the configuration names.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent_tls::{Certificate, ClientName, Credentials, CredentialsError, Files, Rotating, Server};
use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// How many handshakes are done at the same time; who comes later waits.
const HANDSHAKES: usize = 64;
/// How many clients are connected at the same time; who comes later is sent away.
const CONNECTIONS: usize = 64;
/// How long a connection lasts before the client must show its certificate again.
const CONNECTION_AGE: Duration = Duration::from_secs(3_600);
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
    /// The clients that may send duties.
    pub clients: Vec<ClientName>,
}

/// A port that listens.
pub struct TlsSocket {
    listener: TcpListener,
    server: Arc<Server>,
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
    pub(crate) const KEYS: [&str; 5] = ["listen", "certificate", "private_key", "clients_ca", "clients"];

    /// Its paths.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.certificate, &mut self.private_key, &mut self.clients_ca].into_iter()
    }

    /// What the KMS shows and trusts, as the files are now.
    ///
    /// # Errors
    /// [`CredentialsError`]
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        self.files().read()
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
        let listener = TcpListener::bind(config.listen).await;
        let listener =
            listener.map_err(|source| TlsSocketError::Listen { address: config.listen, source })?;
        let server = Arc::new(Server::new(own, &config.clients));
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
    pub fn server(&self) -> Arc<Server> {
        self.server.clone()
    }

    /// Answers with `router` until `stop` is set; what is under way then is answered first.
    pub async fn serve(mut self, router: Router, stop: watch::Receiver<bool>) {
        let desk = Arc::new(Desk { server: self.server, router, age: self.age, stop: stop.clone() });
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
    server: Arc<Server>,
    router: Router,
    age: Duration,
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
        let accepted = tokio::select! {
            accepted = self.server.accept(stream) => accepted,
            () = stopped(self.stop.clone()) => return,
        };
        let (stream, client): (_, Certificate) = match accepted {
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
            ended = connection.as_mut() => ended,
            () = stopped(self.stop.clone()) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = tokio::time::sleep(self.age) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "a connection broke");
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could stop us is gone, and so are we.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use assent_hsm_mock::{Authority, Term, Usage};
    use assent_tls::{Client, ClientStream};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;

    /// How long a test waits for anything.
    const PATIENCE: Duration = Duration::from_secs(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: kms\r\n\r\n";

    /// A port on which each call waits until it is told to go on.
    struct Port {
        directory: tempfile::TempDir,
        address: SocketAddr,
        begun: Arc<Notify>,
        go_on: Arc<Notify>,
        stop: watch::Sender<bool>,
        served: JoinHandle<()>,
    }

    impl Port {
        async fn open(age: Duration) -> Port {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path();
            let authority = Authority::new("authority").expect("made");
            std::fs::write(path.join("ca.crt"), authority.certificate()).expect("writable");
            for (name, host, usage) in
                [("kms", "127.0.0.1", Usage::Server), ("node", "node.example", Usage::Client)]
            {
                let issued = authority.issue(&[host], usage, Term::Now).expect("issued");
                issued.write(path, name).expect("writable");
            }
            let config = TlsConfig {
                listen: ([127, 0, 0, 1], 0).into(),
                certificate: path.join("kms.crt"),
                private_key: path.join("kms.key"),
                clients_ca: path.join("ca.crt"),
                clients: vec!["dns:node.example".parse().expect("a client")],
            };
            let socket = TlsSocket::listen(&config).await.expect("open");
            let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (tell, wait) = (begun.clone(), go_on.clone());
            let call = async move || {
                tell.notify_one();
                wait.notified().await;
                "done"
            };
            let router = Router::new().route("/", get(call));
            let (stop, stopped) = watch::channel(false);
            let address = socket.address().expect("bound");
            let served = tokio::spawn(TlsSocket { age, ..socket }.serve(router, stopped));
            Port { directory, address, begun, go_on, stop, served }
        }

        async fn connect(&self) -> ClientStream {
            let path = self.directory.path();
            let files = Files {
                certificate: path.join("node.crt"),
                private_key: path.join("node.key"),
                authorities: path.join("ca.crt"),
            };
            let own = Rotating::open(files).expect("good files");
            let host = self.address.ip().to_string().parse().expect("a host");
            Client::new(own, host, self.address.port()).connect().await.expect("connected")
        }
    }

    /// Everything that comes until the connection ends.
    async fn rest(stream: &mut ClientStream) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        // It may be broken off rather than ended.
        let _ = read.expect("in time");
        String::from_utf8(answer).expect("text")
    }

    #[tokio::test]
    async fn a_connection_ends_at_its_age_and_what_has_begun_is_answered_first() {
        let port = Port::open(Duration::ZERO).await;
        assert_eq!(rest(&mut port.connect().await).await, "");
        let port = Port::open(CONNECTION_AGE).await;
        let mut stream = port.connect().await;
        stream.write_all(REQUEST).await.expect("sent");
        port.begun.notified().await;
        port.stop.send(true).expect("it listens");
        port.go_on.notify_one();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
        tokio::time::timeout(PATIENCE, port.served).await.expect("in time").expect("whole");
        TcpStream::connect(port.address).await.expect_err("closed");
    }

    #[tokio::test]
    async fn one_client_too_many_is_sent_away_and_comes_in_when_another_has_gone() {
        let port = Port::open(CONNECTION_AGE).await;
        let mut connected = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = port.connect().await;
            // It has a place of its own once its call has begun.
            stream.write_all(REQUEST).await.expect("sent");
            port.begun.notified().await;
            connected.push(stream);
        }
        assert_eq!(rest(&mut port.connect().await).await, "");
        port.go_on.notify_waiters();
        drop(connected);
        let comes_in = async {
            loop {
                let mut stream = port.connect().await;
                let sent = stream.write_all(REQUEST).await;
                tokio::select! {
                    () = port.begun.notified(), if sent.is_ok() => break,
                    end = rest(&mut stream) => assert_eq!(end, "", "sent away, as places become free one by one"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, comes_in).await.expect("in time");
    }
}
