//! A throw-away certificate authority, for tests of TLS.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// The next serial number of a certificate.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// An authority that signs whatever a test asks for.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// When a certificate or a revocation list is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Now.
    Now,
    /// Now, and for so many days more.
    Days(u64),
    /// No more.
    Past,
    /// Not yet.
    Future,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// For those who connect.
    Client,
    /// For those who listen.
    Server,
}

/// A certificate with its private key, both in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub private_key: String,
    /// Its serial number.
    pub serial: u64,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No random numbers.
    pub fn new(name: &str) -> Result<Authority, rcgen::Error> {
        let mut of_authority = CertificateParams::default();
        of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        of_authority.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = of_authority.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(of_authority, key), certificate })
    }

    /// A new one, for a KMS at `host` and a node of the name `node`: in the directory are its own certificate and those of
    /// both, `ca.crt`, `kms.crt`, `kms.key`, `node.crt` and `node.key`.
    ///
    /// # Errors
    /// No random numbers, or the files cannot be written.
    pub fn of_pair(directory: &Path, host: &str, node: &str) -> io::Result<Authority> {
        let authority = Authority::new("authority").map_err(io::Error::other)?;
        fs::write(directory.join("ca.crt"), authority.certificate())?;
        for (name, host, usage) in [("kms", host, Usage::Server), ("node", node, Usage::Client)] {
            authority.issue(&[host], usage, Term::Now).map_err(io::Error::other)?.write(directory, name)?;
        }
        Ok(authority)
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate with a new key for `names`: IP addresses, URIs, and else DNS names.
    ///
    /// # Errors
    /// A name has other characters than ASCII ones.
    pub fn issue(&self, names: &[&str], usage: Usage, term: Term) -> Result<Issued, rcgen::Error> {
        let (mut of_leaf, serial) = (term.params(), NEXT_SERIAL.fetch_add(1, Ordering::Relaxed));
        of_leaf.serial_number = Some(serial.into());
        for name in names {
            of_leaf.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains(':') => SanType::URI((*name).try_into()?),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        of_leaf.extended_key_usages = vec![match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = of_leaf.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, private_key: key.serialize_pem(), serial })
    }

    /// A list that revokes these.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn revocation_list(
        &self,
        revoked: &[&Issued],
        term: Term,
    ) -> Result<CertificateRevocationList, rcgen::Error> {
        let of_term = term.params();
        let revoke = |issued: &&Issued| RevokedCertParams {
            serial_number: issued.serial.into(),
            revocation_time: of_term.not_before,
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: of_term.not_before,
            next_update: of_term.not_after,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(revoke).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
    }
}

impl Term {
    /// A certificate of this term, and nothing else about it.
    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = match self {
            Term::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(4096, 1, 1)),
            Term::Days(days) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let end = now + Duration::from_secs(days * 24 * 3_600);
                (date_time_ymd(2020, 1, 1), date_time_ymd(1970, 1, 1) + end)
            }
            Term::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Term::Future => (date_time_ymd(4000, 1, 1), date_time_ymd(4096, 1, 1)),
        };
        params
    }
}

impl Issued {
    /// Puts certificate and key into `DIRECTORY/NAME.crt` and `NAME.key`, each at one stroke.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> io::Result<()> {
        for (ending, text) in [("crt", &self.certificate), ("key", &self.private_key)] {
            let (path, new) =
                (directory.join(format!("{name}.{ending}")), directory.join(format!("{name}.new")));
            OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&new)?
                .write_all(text.as_bytes())?;
            fs::rename(new, path)?;
        }
        Ok(())
    }
}
