//! The KMS's side: who may come in.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::client::watch_over;
use crate::refusal::{of_certificate, of_tls};
use crate::{Certificate, ClientName, Credentials, Rotating, ServerStream, provider};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long one who is turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// The most bytes that he may send meanwhile.
const FAREWELL_BYTES: u64 = 64 * 1024;

/// Lets in clients whose certificate an authority has signed and the list names.
#[derive(Debug)]
pub struct Server {
    own: Arc<Rotating>,
    clients: Arc<[ClientName]>,
}

/// Why somebody was not let in.
#[derive(Debug)]
pub struct TurnedAway {
    /// What he showed, if it was a certificate. Unless he was only not listed, nobody vouches for it.
    pub shown: Option<Certificate>,
    /// Why not.
    pub why: String,
}

impl Server {
    /// A server that shows and trusts what is in `own`, for `clients` alone.
    pub fn new(own: Rotating, clients: &[ClientName]) -> Server {
        Server { own: Arc::new(own), clients: clients.into() }
    }

    /// What it shows and trusts.
    pub fn own(&self) -> &Rotating {
        &self.own
    }

    /// Does the handshake; the client's certificate comes with the connection.
    ///
    /// # Errors
    /// [`TurnedAway`]; the client has been told then.
    pub async fn accept(&self, stream: TcpStream) -> Result<(ServerStream, Certificate), TurnedAway> {
        let visit = Arc::new(OnceLock::new());
        let turned_away = |why: String| TurnedAway { shown: visit.get().cloned(), why };
        watch_over(&stream).map_err(|error| turned_away(error.to_string()))?;
        let own = self.own.clone();
        let own = tokio::task::spawn_blocking(move || own.look());
        let own = own.await.map_err(|error| turned_away(error.to_string()))?;
        let config = self.config(&own, visit.clone()).map_err(|error| turned_away(error.to_string()))?;
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream).into_fallible();
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Err(_) => Err(turned_away(format!("the handshake was not done in {} s", HANDSHAKE.as_secs()))),
            Ok(Err((error, stream))) => {
                part(stream).await;
                Err(turned_away(words(&error)))
            }
            Ok(Ok(stream)) => match visit.get() {
                Some(certificate) => Ok((stream, certificate.clone())),
                None => Err(turned_away("it shows no certificate".into())),
            },
        }
    }

    fn config(
        &self,
        own: &Credentials,
        shown: Arc<OnceLock<Certificate>>,
    ) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let by_authority =
            WebPkiClientVerifier::builder_with_provider(own.authorities(), provider()).build()?;
        let verifier = Verifier { by_authority, clients: self.clients.clone(), shown };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified_key())));
        // What was resumed would be let in without a look at its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
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

/// Verifies a client's certificate by the authorities, and then looks whether it is listed.
#[derive(Debug)]
struct Verifier {
    by_authority: Arc<dyn ClientCertVerifier>,
    clients: Arc<[ClientName]>,
    /// What the client of this one connection showed.
    shown: Arc<OnceLock<Certificate>>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let shown = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        let shown = self.shown.get_or_init(|| shown);
        let verified = self.by_authority.verify_client_cert(end_entity, intermediates, now)?;
        if shown.is_one_of(&self.clients) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // This version is not offered.
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Lets the other side read why it was turned away: what it still sends would else make the system drop that.
async fn part(mut stream: TcpStream) {
    let all = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever does not read it does not learn it.
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

fn words(error: &io::Error) -> String {
    match of_tls(error) {
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate".into(),
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            "its certificate is good, and `clients` lists neither a name nor the key of it".into()
        }
        Some(rustls::Error::InvalidCertificate(error)) => {
            format!("its certificate: {}", of_certificate(error))
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refuses the KMS's certificate, or broke off: {alert:?}")
        }
        Some(rustls::Error::PeerIncompatible(what)) => {
            format!("it does not speak TLS 1.3 as needed: {what:?}")
        }
        Some(error) => format!("it does not speak TLS 1.3: {error}"),
        None => format!("the connection broke in the handshake: {error}"),
    }
}
