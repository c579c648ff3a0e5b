//! What one side shows and what it trusts, read from three files.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assent_consensus::digest::Digest;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Certificate, Validity};
use crate::private_file::{self, NotPrivate};

/// The largest file, in bytes.
const FILE_LIMIT: usize = 256 * 1024;

/// Where one side's certificate, its key, and the authorities of the other side are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Its certificate and those between it and the authority, in PEM, its own first.
    pub certificate: PathBuf,
    /// Its private key, in PEM without passphrase, for this user alone.
    pub private_key: PathBuf,
    /// The certificates of the authorities that sign the other side's, in PEM.
    pub authorities: PathBuf,
}

/// What one side shows and what it trusts.
#[derive(Debug)]
pub struct Credentials {
    certificate: Certificate,
    certified_key: Arc<CertifiedKey>,
    authorities: Arc<RootCertStore>,
    /// That of the authority that ends first.
    authorities_validity: Validity,
}

/// Why files make no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could have read the key.
    #[error("the private key `{}` {why}, and replace the key", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// How.
        why: NotPrivate,
    },
    /// Something else than there should be.
    #[error("`{}` does not hold {what}: {why}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        why: String,
    },
    /// Half of it was replaced.
    #[error(
        "the certificate in `{}` is not for the private key in `{}`: put the two that belong together there",
        certificate.display(),
        private_key.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        private_key: PathBuf,
    },
}

impl Files {
    /// The credentials in the files.
    ///
    /// # Errors
    /// [`CredentialsError`]
    pub fn read(&self) -> Result<Credentials, CredentialsError> {
        self.contents()?.parse(self)
    }

    pub(crate) fn contents(&self) -> Result<Contents, CredentialsError> {
        Ok(Contents {
            certificate: read(&self.certificate, Readers::Anybody, FILE_LIMIT)?,
            private_key: read(&self.private_key, Readers::Owner, FILE_LIMIT)?,
            authorities: read(&self.authorities, Readers::Anybody, FILE_LIMIT)?,
        })
    }
}

/// The bytes of the files, as they were read one after the other.
pub(crate) struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    private_key: Zeroizing<Vec<u8>>,
    authorities: Zeroizing<Vec<u8>>,
}

/// The digests of the files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([Digest; 3]);

impl Contents {
    /// By what they are known again.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint([&self.certificate, &self.private_key, &self.authorities].map(|file| Digest::of(file)))
    }

    pub(crate) fn parse(&self, files: &Files) -> Result<Credentials, CredentialsError> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let own = chain.first().and_then(|first| Certificate::parse(first));
        let own = own.ok_or_else(|| form(&files.certificate, CERTIFICATES, "the first is none"))?;

        let key_form = |why: &dyn ToString| form(&files.private_key, "a private key in PEM", why);
        let mut key = PrivateKeyDer::from_pem_slice(&self.private_key).map_err(|error| match error {
            pem::Error::NoItemsFound => key_form(&"there is none without a passphrase"),
            _ => key_form(&"it is broken"),
        })?;
        let signing_key = any_supported_type(&key);
        key.zeroize();
        let certified_key = CertifiedKey::new(chain, signing_key.map_err(|error| key_form(&error))?);
        certified_key.keys_match().map_err(|_| CredentialsError::Mismatch {
            certificate: files.certificate.clone(),
            private_key: files.private_key.clone(),
        })?;

        let no_authority = |why: &dyn ToString| form(&files.authorities, CERTIFICATES, why);
        let (mut authorities, mut validities) = (RootCertStore::empty(), Vec::new());
        for authority in certificates(&self.authorities, &files.authorities)? {
            let parsed = Certificate::parse(&authority).ok_or_else(|| no_authority(&"one is broken"))?;
            validities.push(parsed.validity());
            authorities.add(authority).map_err(|error| no_authority(&error))?;
        }
        let ends_first = validities.into_iter().min_by_key(Validity::until);
        let authorities_validity = ends_first.ok_or_else(|| no_authority(&"there is none"))?;
        let (certified_key, authorities) = (Arc::new(certified_key), Arc::new(authorities));
        Ok(Credentials { certificate: own, certified_key, authorities, authorities_validity })
    }
}

impl Credentials {
    /// This side's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// From when until when the authorities of the other side are good: the one of them that ends first.
    pub fn authorities_validity(&self) -> Validity {
        self.authorities_validity
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified_key.clone()
    }

    pub(crate) fn authorities(&self) -> Arc<RootCertStore> {
        self.authorities.clone()
    }
}

const CERTIFICATES: &str = "certificates in PEM";

fn certificates(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    // The reason would quote what is there, which may be a key.
    let found = found.map_err(|_| form(path, CERTIFICATES, "it is broken"))?;
    if found.is_empty() { Err(form(path, CERTIFICATES, &"there is none")) } else { Ok(found) }
}

pub(crate) fn form(path: &Path, what: &'static str, why: &(impl ToString + ?Sized)) -> CredentialsError {
    CredentialsError::Form { path: path.to_owned(), what, why: why.to_string() }
}

/// Who may read a file.
pub(crate) enum Readers {
    Anybody,
    Owner,
}

/// The bytes of a file that has at most `limit` of them.
pub(crate) fn read(
    path: &Path,
    readers: Readers,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
    let (file, metadata) = private_file::open(path).map_err(failed)?;
    let too_long = || failed(io::Error::other(format!("it has more than {limit} bytes")));
    let length = usize::try_from(metadata.len()).ok().filter(|length| *length <= limit);
    let length = length.ok_or_else(too_long)?;
    if matches!(readers, Readers::Owner) {
        private_file::check(&metadata)
            .map_err(|why| CredentialsError::Open { path: path.to_owned(), why })?;
    }
    // Room for all of it at once, so that no copy is left behind when the buffer grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
