//! Certificates that their authority has revoked (RFC 5280 section 5).

use std::path::Path;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;

use super::credentials::{Readers, form, read};
use super::{CredentialsError, Validity};

/// The largest file of lists, in bytes.
const FILE_LIMIT: usize = 4 * 1024 * 1024;
/// With which byte a list in DER begins.
const DER_SEQUENCE: u8 = 0x30;
const LISTS: &str = "revocation lists in PEM or one in DER";

/// The revocation lists in a file, as it was when it was read. That an authority has signed them is not looked at here.
#[derive(Debug)]
pub struct RevocationLists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    validity: Validity,
}

impl RevocationLists {
    /// The lists in a file: one or more in PEM, or one in DER.
    ///
    /// # Errors
    /// [`CredentialsError::Read`]; [`CredentialsError::Form`], also if one does not say until when it is good.
    pub fn read(path: &Path) -> Result<RevocationLists, CredentialsError> {
        let bytes = read(path, Readers::Anybody, FILE_LIMIT)?;
        let wrong = |why: &str| form(path, LISTS, why);
        let lists = if bytes.first() == Some(&DER_SEQUENCE) {
            vec![CertificateRevocationListDer::from(bytes.to_vec())]
        } else {
            let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
            found.map_err(|_| wrong("it is broken"))?
        };
        let mut validities = Vec::new();
        for list in &lists {
            let list = CertificateList::<Rfc5280>::from_der(list);
            let list = list.map_err(|_| wrong("one is broken"))?.tbs_cert_list;
            let until = list.next_update.ok_or_else(|| wrong("one does not say when the next comes"))?;
            validities.push(Validity::new(list.this_update, until));
        }
        let ends_first = validities.into_iter().min_by_key(Validity::until);
        Ok(RevocationLists { lists, validity: ends_first.ok_or_else(|| wrong("there is none"))? })
    }

    /// From when until when they are good: the one that ends first.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub(crate) fn into_der(self) -> Vec<CertificateRevocationListDer<'static>> {
        self.lists
    }
}
