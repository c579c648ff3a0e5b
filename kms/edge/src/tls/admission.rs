//! Who is let in: whose certificate an authority has signed and not revoked, and the list names.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::refusal::of_certificate;
use super::{Certificate, ClientName, Credentials, CredentialsError, RevocationLists, provider};

/// What decides on one connection, as the files and the list were when it was made.
#[derive(Debug)]
pub(crate) struct Admission {
    by_authority: Arc<dyn ClientCertVerifier>,
    /// Why nobody knows what was revoked.
    unusable_lists: Option<String>,
    clients: Arc<[ClientName]>,
}

impl Admission {
    /// By these authorities, and their revocation lists if there are to be any.
    pub(crate) fn new(
        own: &Credentials,
        revoked: Result<Option<RevocationLists>, CredentialsError>,
        clients: Arc<[ClientName]>,
    ) -> Result<Admission, VerifierBuilderError> {
        let builder = || WebPkiClientVerifier::builder_with_provider(own.authorities(), provider());
        let build = |lists: Option<RevocationLists>| match lists {
            None => builder().build(),
            Some(lists) => builder().with_crls(lists.into_der()).enforce_revocation_expiration().build(),
        };
        let built = revoked.map_err(|error| error.to_string());
        let built = built.and_then(|lists| build(lists).map_err(|error| error.to_string()));
        let (by_authority, unusable_lists) = match built {
            Ok(by_authority) => (by_authority, None),
            Err(why) => (builder().build()?, Some(why)),
        };
        Ok(Admission { by_authority, unusable_lists, clients })
    }

    /// Whether who shows these certificates is let in.
    pub(crate) fn check(
        &self,
        shown: &Certificate,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.by_authority.verify_client_cert(end_entity, intermediates, now)?;
        if self.unusable_lists.is_some() {
            Err(CertificateError::UnknownRevocationStatus.into())
        } else if shown.is_one_of(&self.clients) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    /// What was wrong, for a log.
    pub(crate) fn words(&self, error: &rustls::Error) -> String {
        match (error, &self.unusable_lists) {
            (rustls::Error::NoCertificatesPresented, _) => "it shows no certificate".into(),
            (rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure), _) => {
                "its certificate is good, and `clients` lists neither a name nor the key of it".into()
            }
            (rustls::Error::InvalidCertificate(CertificateError::UnknownRevocationStatus), Some(why)) => {
                format!("nobody is let in, since it is not known who is revoked: {why}")
            }
            (rustls::Error::InvalidCertificate(error), _) => {
                format!("its certificate: {}", of_certificate(error))
            }
            (rustls::Error::AlertReceived(alert), _) => {
                format!("it refuses the KMS's certificate, or broke off: {alert:?}")
            }
            (rustls::Error::PeerIncompatible(what), _) => {
                format!("it does not speak TLS 1.3 as needed: {what:?}")
            }
            (error, _) => format!("it does not speak TLS 1.3: {error}"),
        }
    }
}

/// Has one connection decided on.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) admission: Arc<Admission>,
    /// What the client of this one connection showed.
    pub(crate) shown: Arc<OnceLock<Certificate>>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.admission.by_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let shown = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        self.admission.check(self.shown.get_or_init(|| shown), end_entity, intermediates, now)
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
        self.admission.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.admission.by_authority.supported_verify_schemes()
    }
}
