//! A throw-away certificate authority, for tests of TLS.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

/// An authority that signs whatever a test asks for.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// When a certificate is good.
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

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate with a new key for `names`: IP addresses, URIs, and else DNS names.
    ///
    /// # Errors
    /// A name has other characters than ASCII ones.
    pub fn issue(&self, names: &[&str], usage: Usage, term: Term) -> Result<Issued, rcgen::Error> {
        let mut of_leaf = CertificateParams::default();
        for name in names {
            of_leaf.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains(':') => SanType::URI((*name).try_into()?),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        (of_leaf.not_before, of_leaf.not_after) = match term {
            Term::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(4096, 1, 1)),
            Term::Days(days) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let end = now + Duration::from_secs(days * 24 * 3_600);
                (date_time_ymd(2020, 1, 1), date_time_ymd(1970, 1, 1) + end)
            }
            Term::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Term::Future => (date_time_ymd(4000, 1, 1), date_time_ymd(4096, 1, 1)),
        };
        of_leaf.extended_key_usages = vec![match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = of_leaf.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, private_key: key.serialize_pem() })
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
