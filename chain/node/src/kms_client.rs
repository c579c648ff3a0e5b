//! The client of the KMS, on this machine or on another: HTTP/1.1 and JSON over connections that are kept for the next call.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use assent_consensus::duty::{BATCH_BYTES, DutyBatch, DutyReport, TrustedHeaders};
use assent_consensus::json;
use assent_consensus::message::DeploymentId;
use assent_edge::tls::{CredentialsError, Rotating};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::ErrorBody;
use crate::kms_address::KmsAddress;

/// How long the KMS may take for a batch of duties.
const DUTIES_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take for anything else.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = BATCH_BYTES;
/// How many connections are kept for the next call.
const KEPT_CONNECTIONS: usize = 4;

/// A client of one KMS.
pub struct KmsClient {
    address: KmsAddress,
    link: Link,
    /// Connections that nobody uses. Held only to take one out or put one back.
    kept: Mutex<Vec<Connection>>,
    closed: watch::Sender<u64>,
}

/// How a connection is made.
enum Link {
    Unix(PathBuf),
    Tls(assent_edge::tls::Client),
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// It must be driven as long as its sender is there; it ends with the sender or the KMS.
    driver: JoinHandle<Result<(), hyper::Error>>,
}

/// Why the KMS gave no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// It could not be reached, or hung up.
    #[error("the KMS cannot be reached at `{address}`: {why}")]
    Unreachable {
        /// Where it is.
        address: KmsAddress,
        /// Why not.
        why: String,
    },
    /// It is busy, or not ready.
    #[error("the KMS is busy: {}", .0.message)]
    Busy(ErrorBody),
    /// It refuses the call as a whole.
    #[error("the KMS refuses the call: {}", .0.message)]
    Refused(ErrorBody),
    /// What answers is no KMS that this version knows.
    #[error("the KMS answers with something else than expected (status {status}): {why}")]
    Unreadable {
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong.
        why: String,
    },
}

/// How the KMS says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsStatus {
    /// `ok`, or what is the matter.
    pub status: String,
    /// The deployment that it was pinned to.
    #[serde(default)]
    pub deployment: Option<DeploymentId>,
}

impl KmsClient {
    /// A client of the KMS at `address`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`CredentialsError`]: this node has nothing to show to a KMS on another machine.
    pub fn new(address: &KmsAddress) -> Result<KmsClient, CredentialsError> {
        let link = match address {
            KmsAddress::Socket(path) => Link::Unix(path.clone()),
            KmsAddress::Tls { host, port, files } => {
                Link::Tls(assent_edge::tls::Client::new(Rotating::open(files.clone())?, host.clone(), *port))
            }
        };
        let (kept, closed) = (Mutex::default(), watch::channel(0).0);
        Ok(KmsClient { address: address.clone(), link, kept, closed })
    }

    /// Changes whenever a connection ends: the KMS may have stopped.
    pub fn closed(&self) -> watch::Receiver<u64> {
        self.closed.subscribe()
    }

    /// How the KMS is.
    ///
    /// # Errors
    /// [`KmsError`]
    pub async fn health(&self) -> Result<KmsStatus, KmsError> {
        self.call(Method::GET, "/v1/health", Bytes::new(), TIMEOUT, |answer| {
            serde_json::from_slice(answer).map_err(|error| error.to_string())
        })
        .await
    }

    /// The headers that the KMS trusts.
    ///
    /// # Errors
    /// [`KmsError`]
    pub async fn trusted(&self) -> Result<TrustedHeaders, KmsError> {
        self.call(Method::GET, "/v1/trusted", Bytes::new(), TIMEOUT, read).await
    }

    /// Has duties done.
    ///
    /// # Errors
    /// [`KmsError`], for the batch as a whole.
    pub async fn duties(&self, batch: &DutyBatch) -> Result<DutyReport, KmsError> {
        self.call(Method::POST, "/v1/duties", json::write(batch).into(), DUTIES_TIMEOUT, read).await
    }

    async fn call<T>(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        timeout: Duration,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, KmsError> {
        let exchange = self.exchange(method, path, body);
        let (status, answer) = tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| self.unreachable(format!("no answer in {} s", timeout.as_secs())))??;
        if status.is_success() {
            return read(&answer).map_err(|why| KmsError::Unreadable { status, why });
        }
        match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) if status == StatusCode::SERVICE_UNAVAILABLE => Err(KmsError::Busy(body)),
            Ok(body) => Err(KmsError::Refused(body)),
            Err(error) => Err(KmsError::Unreadable { status, why: error.to_string() }),
        }
    }

    /// Sends over a kept connection or, if there is none or it has ended meanwhile, over a new one.
    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), KmsError> {
        let kept = {
            let mut kept = self.lock();
            kept.retain(|connection| !connection.sender.is_closed());
            kept.pop()
        };
        if let Some(connection) = kept
            && let Ok(answer) = self.send(connection, method.clone(), path, body.clone()).await
        {
            return Ok(answer);
        }
        // Every call may be made twice: the KMS does no duty twice.
        let connection = self.connect().await?;
        self.send(connection, method, path, body).await
    }

    async fn connect(&self) -> Result<Connection, KmsError> {
        match &self.link {
            Link::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                self.over(stream.map_err(|error| self.unreachable(error.to_string()))?).await
            }
            Link::Tls(tls) => {
                let stream = tls.connect().await;
                self.over(stream.map_err(|error| self.unreachable(error.to_string()))?).await
            }
        }
    }

    async fn over<S>(&self, stream: S) -> Result<Connection, KmsError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error.to_string()))?;
        let closed = self.closed.clone();
        let driver = tokio::spawn(async move {
            let ended = connection.await;
            if let Err(error) = &ended {
                tracing::debug!(%error, "a connection to the KMS broke");
            }
            closed.send_modify(|count| *count += 1);
            ended
        });
        Ok(Connection { sender, driver })
    }

    async fn send(
        &self,
        mut connection: Connection,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), KmsError> {
        let answer = match self.request(&mut connection.sender, method, path, body).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.broken(connection, &*error).await),
        };
        let mut kept = self.lock();
        if kept.len() < KEPT_CONNECTIONS {
            kept.push(connection);
        }
        Ok(answer)
    }

    async fn request(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "assent-kms")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?.to_bytes();
        Ok((status, body))
    }

    /// What became of a connection over which nothing was answered.
    async fn broken(&self, connection: Connection, error: &(dyn Error + Send + Sync + 'static)) -> KmsError {
        drop(connection.sender);
        // A KMS that does not take the node's certificate says so in place of its first answer: to whoever reads then.
        let driven = connection.driver.await;
        let by_driver = driven.ok().and_then(Result::err).and_then(|error| assent_edge::tls::refusal(&error));
        let why = assent_edge::tls::refusal(error).or(by_driver);
        self.unreachable(why.unwrap_or_else(|| error.to_string()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreachable(&self, why: String) -> KmsError {
        KmsError::Unreachable { address: self.address.clone(), why }
    }
}

fn read<T: DeserializeOwned + Serialize>(answer: &[u8]) -> Result<T, String> {
    json::read(answer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use assent_edge::tls::{Files, Server};
    use assent_hsm_mock::Authority;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_kms_that_refused_the_certificate_before_it_was_called_is_told_apart_from_one_that_hung_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        Authority::of_pair(path, "127.0.0.1", "node.example").expect("made");
        let files = |name: &str| Files {
            certificate: path.join(format!("{name}.crt")),
            private_key: path.join(format!("{name}.key")),
            authorities: path.join("ca.crt"),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let host = "127.0.0.1".parse().expect("a host");
        let kms = KmsClient::new(&KmsAddress::Tls { host, port, files: files("node") }).expect("good files");
        let other = "dns:other.example".parse().expect("a client");
        let server = Server::new(Rotating::open(files("kms")).expect("good files"), None);
        let refuse = async {
            let (stream, _) = listener.accept().await.expect("the node");
            server.accept(stream, [other].into()).await.map(drop).expect_err("turned away")
        };
        let call = async {
            let mut closed = kms.closed();
            let connection = kms.connect().await.expect("the KMS has yet to look");
            closed.changed().await.expect("the client is there");
            kms.send(connection, Method::GET, "/v1/health", Bytes::new()).await.expect_err("refused")
        };
        let (_, error) = tokio::join!(refuse, call);
        assert!(error.to_string().contains("its `clients` list neither"), "{error}");
    }
}
