//! One HTTP/1.1 exchange over a Unix socket or TCP, with bounds on time and size.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address: give the path of a Unix socket, or `http://127.0.0.1:PORT`")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let tcp = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match (tcp, text.strip_prefix("unix:")) {
            (Some(tcp), _) => {
                let tcp = tcp.replace("localhost", "127.0.0.1");
                tcp.parse().map(Address::Tcp).map_err(|_| AddressError(text.to_owned()))
            }
            (None, Some(path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            (None, None) if !text.is_empty() && !text.contains("://") => Ok(Address::Unix(text.into())),
            _ => Err(AddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

/// Why an exchange gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody listens, or this user may not connect.
    #[error("cannot connect to `{address}`: {source}")]
    Connect {
        /// Where to.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke, or what came was not HTTP, or too large.
    #[error("the connection to `{address}` broke: {message}")]
    Broken {
        /// Where to.
        address: Address,
        /// How.
        message: String,
    },
    /// No answer in time.
    #[error("`{address}` did not answer in {} s", .after.as_secs())]
    TimedOut {
        /// Where to.
        address: Address,
        /// How long it was waited for.
        after: Duration,
    },
}

/// An answer: its status and its whole body.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header `Retry-After`, in whole seconds, if it is there.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

/// Sends one request on a connection of its own and reads the answer, whose body may have up to `limit` bytes.
///
/// # Errors
/// [`ExchangeError`]
pub async fn exchange(
    address: &Address,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
    limit: usize,
    timeout: Duration,
) -> Result<Answer, ExchangeError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "assent")
        .header("content-type", content_type)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| ExchangeError::Broken { address: address.clone(), message: error.to_string() })?;
    let connect = |source| ExchangeError::Connect { address: address.clone(), source };
    let whole = async {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(connect)?;
                over(address, stream, request, limit).await
            }
            Address::Tcp(tcp) => {
                let stream = TcpStream::connect(tcp).await.map_err(connect)?;
                stream.set_nodelay(true).map_err(connect)?;
                over(address, stream, request, limit).await
            }
        }
    };
    tokio::time::timeout(timeout, whole)
        .await
        .map_err(|_| ExchangeError::TimedOut { address: address.clone(), after: timeout })?
}

async fn over<S>(
    address: &Address,
    stream: S,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, ExchangeError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |message: String| ExchangeError::Broken { address: address.clone(), message };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // The connection must be driven while the answer is awaited; it ends with the sender.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    let retry_after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = Limited::new(response.into_body(), limit)
        .collect()
        .await
        .map_err(|error| broken(error.to_string()))?
        .to_bytes();
    drop(sender);
    driver.abort();
    Ok(Answer { status, retry_after, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_url_of_an_ip_address() {
        assert_eq!("/run/assent.sock".parse(), Ok(Address::Unix("/run/assent.sock".into())));
        assert_eq!("unix:a.sock".parse(), Ok(Address::Unix("a.sock".into())));
        assert_eq!("http://127.0.0.1:80/".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 80).into())));
        assert_eq!("http://localhost:80".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 80).into())));
        for wrong in ["", "unix:", "https://127.0.0.1:1", "http://example.org", "http://127.0.0.1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
