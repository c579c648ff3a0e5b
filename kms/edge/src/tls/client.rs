//! The node's side: how the KMS is known, and what is wrong when it is not reached.

use std::error::Error;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::refusal::{of_certificate, of_tls};
use super::{ClientStream, Credentials, Rotating, provider};

/// After how long a connection over which nothing comes back is broken off, in milliseconds.
const UNANSWERED: u32 = 30_000;
/// After how long without traffic the other side is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Connects to one KMS.
#[derive(Debug)]
pub struct Client {
    own: Arc<Rotating>,
    host: Host,
    port: u16,
}

/// A DNS name, or an IP address, which stands in brackets if it has colons (RFC 3986 section 3.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(ServerName<'static>);

/// The text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is neither a DNS name nor an IP address", .0.escape_debug())]
pub struct HostError(String);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    /// What answers is not the KMS.
    #[error("{0}")]
    Tls(String),
}

impl Client {
    /// A client of the KMS at `host`, which must be in its certificate.
    pub fn new(own: Rotating, host: Host, port: u16) -> Client {
        Client { own: Arc::new(own), host, port }
    }

    /// What it shows and trusts.
    pub fn own(&self) -> &Rotating {
        &self.own
    }

    /// A new connection. Whether the KMS takes this side's certificate is known when it first answers: see [`refusal`].
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn connect(&self) -> Result<ClientStream, ConnectError> {
        let own = self.own.clone();
        let own = tokio::task::spawn_blocking(move || own.look());
        let own = own.await.map_err(|error| ConnectError::Tls(error.to_string()))?;
        let config = config(&own).map_err(|error| ConnectError::Tls(error.to_string()))?;
        let Host(name) = &self.host;
        let stream = TcpStream::connect((&*name.to_str(), self.port)).await.map_err(ConnectError::Tcp)?;
        watch_over(&stream).map_err(ConnectError::Tcp)?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await;
        connected.map_err(|error| ConnectError::Tls(self.words(&error)))
    }

    fn words(&self, error: &io::Error) -> String {
        match of_tls(error) {
            Some(rustls::Error::InvalidCertificate(error)) => {
                format!(
                    "the certificate of the KMS is not good for `{}`: {}",
                    self.host,
                    of_certificate(error)
                )
            }
            Some(rustls::Error::AlertReceived(alert)) => of_alert(*alert),
            Some(error) => format!("what answers does not speak TLS 1.3 as a KMS does: {error}"),
            None => format!("the connection broke in the handshake: {error}"),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Host, HostError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| HostError(text.to_owned()))?;
        let host = Host(name);
        if host.to_string() == text { Ok(host) } else { Err(HostError(text.to_owned())) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ServerName::IpAddress(IpAddr::V6(_)) => write!(f, "[{}]", self.0.to_str()),
            name => f.write_str(&name.to_str()),
        }
    }
}

/// What the KMS has against this side's certificate, if that is why a connection failed.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    match of_tls(error) {
        Some(rustls::Error::AlertReceived(alert)) => Some(of_alert(*alert)),
        _ => None,
    }
}

/// Sees to it that a connection whose other side is gone ends, and that short messages are not held back.
pub(crate) fn watch_over(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    Ok(sockopt::set_tcp_user_timeout(stream, UNANSWERED)?)
}

fn config(own: &Credentials) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(own.authorities())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified_key())));
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn of_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
        AlertDescription::CertificateRevoked => "its authority has revoked it",
        AlertDescription::UnknownCA => {
            "no authority in its `clients_ca` has signed it, or its `clients_crl` is not usable"
        }
        AlertDescription::AccessDenied => "its `clients` list neither a name nor the key of it",
        AlertDescription::CertificateRequired => "there is none",
        AlertDescription::UnsupportedCertificate => "its extended key usage is not clientAuth",
        other => return format!("the KMS broke off the handshake: {other:?}"),
    };
    format!("the KMS does not take this node's certificate: {why}")
}
