//! The KMS's side: handshakes with those who come, by what the files hold then.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::admission::{Admission, Verifier};
use super::client::watch_over;
use super::refusal::of_tls;
use super::{
    Certificate, ClientName, Credentials, CredentialsError, RevocationLists, Rotating, ServerStream, provider,
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long one who is turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// The most bytes that he may send meanwhile.
const FAREWELL_BYTES: u64 = 64 * 1024;

/// Lets in clients whose certificate an authority has signed, and not revoked, and a list names.
#[derive(Clone, Debug)]
pub struct Server {
    own: Arc<Rotating>,
    revoked: Option<PathBuf>,
}

/// A client that was let in.
#[derive(Debug)]
pub struct Visitor {
    certificate: Certificate,
    chain: Vec<CertificateDer<'static>>,
}

/// Why somebody was not let in, or is let in no more.
#[derive(Debug)]
pub struct TurnedAway {
    /// What he showed, if it was a certificate. Unless he was only not listed, nobody vouches for it.
    pub shown: Option<Certificate>,
    /// Why not.
    pub why: String,
}

impl Server {
    /// A server that shows and trusts what is in `own`, and lets nobody in whom a list in the file `revoked` names.
    pub fn new(own: Rotating, revoked: Option<PathBuf>) -> Server {
        Server { own: Arc::new(own), revoked }
    }

    /// What it shows and trusts, and the lists of whom it does not, as the files are now. Reads the disk.
    pub fn look(&self) -> (Arc<Credentials>, Result<Option<RevocationLists>, CredentialsError>) {
        (self.own.look(), self.revoked.as_deref().map(RevocationLists::read).transpose())
    }

    /// Does the handshake; only one of `clients` is let in.
    ///
    /// # Errors
    /// [`TurnedAway`]; the client has been told then.
    pub async fn accept(
        &self,
        stream: TcpStream,
        clients: Arc<[ClientName]>,
    ) -> Result<(ServerStream, Visitor), TurnedAway> {
        let shown = Arc::new(OnceLock::new());
        let turned_away = |why: String| TurnedAway { shown: shown.get().cloned(), why };
        watch_over(&stream).map_err(|error| turned_away(error.to_string()))?;
        let (own, admission) = self.admission(clients).await.map_err(turned_away)?;
        let verifier = Verifier { admission: admission.clone(), shown: shown.clone() };
        let config = config(&own, verifier).map_err(|error| turned_away(error.to_string()))?;
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream).into_fallible();
        let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
            Err(_) => {
                return Err(turned_away(format!("the handshake was not done in {} s", HANDSHAKE.as_secs())));
            }
            Ok(Err((error, stream))) => {
                part(stream).await;
                return Err(turned_away(match of_tls(&error) {
                    Some(error) => admission.words(error),
                    None => format!("the connection broke in the handshake: {error}"),
                }));
            }
            Ok(Ok(stream)) => stream,
        };
        match (shown.get(), stream.get_ref().1.peer_certificates()) {
            (Some(certificate), Some(chain)) => {
                let visitor = Visitor { certificate: certificate.clone(), chain: chain.to_vec() };
                Ok((stream, visitor))
            }
            _ => Err(turned_away("it shows no certificate".into())),
        }
    }

    /// Whether a client that was let in would be again, by what the files hold now.
    ///
    /// # Errors
    /// [`TurnedAway`]
    pub async fn check(&self, visitor: &Visitor, clients: Arc<[ClientName]>) -> Result<(), TurnedAway> {
        let turned_away = |why| TurnedAway { shown: Some(visitor.certificate.clone()), why };
        let (_, admission) = self.admission(clients).await.map_err(turned_away)?;
        let Some((end_entity, intermediates)) = visitor.chain.split_first() else {
            return Err(turned_away("it shows no certificate".into()));
        };
        match admission.check(&visitor.certificate, end_entity, intermediates, UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(error) => Err(turned_away(admission.words(&error))),
        }
    }

    async fn admission(
        &self,
        clients: Arc<[ClientName]>,
    ) -> Result<(Arc<Credentials>, Arc<Admission>), String> {
        let server = self.clone();
        let look = move || {
            let (own, revoked) = server.look();
            Admission::new(&own, revoked, clients).map(|admission| (own, Arc::new(admission)))
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
        looked.map_err(|error| error.to_string())
    }
}

fn config(own: &Credentials, verifier: Verifier) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified_key())));
    // What was resumed would be let in without a look at its certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// By what it is known, for a log.
impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificate.fmt(f)
    }
}

/// Who came and why not, for a log.
impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown {
            Some(certificate) => write!(f, "{} (it shows {certificate})", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// Lets the other side read why it was turned away: what it still sends would else make the system drop that.
async fn part(mut stream: TcpStream) {
    let all = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever does not read it does not learn it.
    let _: Result<io::Result<u64>, _> = tokio::time::timeout(FAREWELL, all).await;
}
