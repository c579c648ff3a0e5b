//! Why a handshake failed, in words.

use std::error::Error;
use std::io;

use assent_consensus::time::UnixMillis;
use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use super::certificate::moment;

/// What rustls says in an error, if it is at its root.
pub(crate) fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an I/O error wraps is not its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map_or_else(|| error.source(), |wrapped| Some(wrapped));
    }
    None
}

/// What is wrong with a certificate; `it` stands before.
pub(crate) fn of_certificate(error: &CertificateError) -> String {
    let at = |time: &UnixTime| moment(UnixMillis::new(time.as_secs().saturating_mul(1_000)));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired on {}", at(not_after)),
        CertificateError::Expired => "it has expired".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", at(not_before))
        }
        CertificateError::NotValidYet => "it is not valid yet".into(),
        CertificateError::Revoked => "its authority has revoked it".into(),
        CertificateError::UnknownRevocationStatus => {
            "no list in `clients_crl` is of the authority that has signed it".into()
        }
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            format!("the list in `clients_crl` that would name it expired on {}", at(next_update))
        }
        CertificateError::UnknownIssuer => "no authority that is known here has signed it".into(),
        CertificateError::BadSignature => "its signature does not verify".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its extended key usage is another: a node needs clientAuth, a KMS serverAuth".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it has no name in subjectAltName".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let presented: Vec<_> = presented.iter().map(|name| name.escape_debug().to_string()).collect();
            format!("it is for {}", presented.join(", "))
        }
        other => other.to_string(),
    }
}
