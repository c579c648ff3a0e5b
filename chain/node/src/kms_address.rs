//! Where the KMS takes duties: on a Unix socket of this machine, or on a port of another one.

use std::fmt;
use std::path::{Path, PathBuf};

use assent_edge::tls::{Files, Host};
use hyper::Uri;

/// Where the KMS takes duties, as it is written: `kms_socket` alone, or the other four.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KmsPart {
    /// The Unix socket.
    pub kms_socket: Option<PathBuf>,
    /// The URL.
    pub kms: Option<String>,
    /// The authorities that sign the KMS's certificate.
    pub kms_ca: Option<PathBuf>,
    /// This node's certificate.
    pub kms_certificate: Option<PathBuf>,
    /// Its private key.
    pub kms_private_key: Option<PathBuf>,
}

/// Where the KMS takes duties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KmsAddress {
    /// On a Unix socket.
    Socket(PathBuf),
    /// On a port, over mutual TLS.
    Tls {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// This node's certificate, its key, and the authorities of the KMS.
        files: Files,
    },
}

/// Why it is not known where the KMS is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KmsAddressError {
    /// Neither.
    #[error(
        "there is no KMS: name its socket with `kms_socket`, or its URL with `kms` if it is on another machine"
    )]
    None,
    /// Both.
    #[error("`{0}` is for a KMS on another machine, and `kms_socket` for one on this: leave one out")]
    Both(&'static str),
    /// Not all of the four.
    #[error("there is no `{0}`, which a KMS on another machine needs")]
    Missing(&'static str),
    /// The URL is of another form.
    #[error("`kms` must be `https://HOST:PORT`, not `{}`", .0.escape_debug())]
    Url(String),
}

impl KmsPart {
    /// The keys as they are written.
    pub const KEYS: &'static [&'static str] =
        &["kms_socket", "kms", "kms_ca", "kms_certificate", "kms_private_key"];

    /// The address; paths are from `base`.
    ///
    /// # Errors
    /// [`KmsAddressError`]
    pub fn resolve(&self, base: &Path) -> Result<KmsAddress, KmsAddressError> {
        let remote = [
            ("kms", self.kms.is_some()),
            ("kms_ca", self.kms_ca.is_some()),
            ("kms_certificate", self.kms_certificate.is_some()),
            ("kms_private_key", self.kms_private_key.is_some()),
        ];
        let given = remote.iter().find(|(_, is_there)| *is_there).map(|(key, _)| *key);
        match (&self.kms_socket, given) {
            (None, None) => return Err(KmsAddressError::None),
            (Some(_), Some(key)) => return Err(KmsAddressError::Both(key)),
            (Some(socket), None) => return Ok(KmsAddress::Socket(base.join(socket))),
            (None, Some(_)) => {}
        }
        let path = |key, path: &Option<PathBuf>| {
            path.as_ref().map(|path| base.join(path)).ok_or(KmsAddressError::Missing(key))
        };
        let url = self.kms.as_deref().ok_or(KmsAddressError::Missing("kms"))?;
        let (host, port) = host_and_port(url).ok_or_else(|| KmsAddressError::Url(url.to_owned()))?;
        let files = Files {
            certificate: path("kms_certificate", &self.kms_certificate)?,
            private_key: path("kms_private_key", &self.kms_private_key)?,
            authorities: path("kms_ca", &self.kms_ca)?,
        };
        Ok(KmsAddress::Tls { host, port, files })
    }
}

impl fmt::Display for KmsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KmsAddress::Socket(path) => write!(f, "{}", path.display()),
            KmsAddress::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
        }
    }
}

fn host_and_port(url: &str) -> Option<(Host, u16)> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let is_whole = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
    // Neither a user nor anything else that would be dropped in silence.
    let (host, port) = (authority.host(), authority.port_u16()?);
    if !is_whole || port == 0 || authority.as_str() != format!("{host}:{port}") {
        return None;
    }
    Some((host.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> KmsPart {
        KmsPart {
            kms_socket: None,
            kms: Some(url.into()),
            kms_ca: Some("ca.crt".into()),
            kms_certificate: Some("node.crt".into()),
            kms_private_key: Some("/keys/node.key".into()),
        }
    }

    #[test]
    fn a_kms_is_at_a_url_of_host_and_port() {
        for good in ["https://kms.example.org:7430", "https://10.0.0.7:7430", "https://[fd00::7]:7430"] {
            let address = remote(good).resolve(Path::new("/etc/assent")).expect("good");
            assert_eq!(address.to_string(), good);
            let KmsAddress::Tls { files, .. } = address else { panic!("{address}") };
            assert_eq!(files.certificate, Path::new("/etc/assent/node.crt"));
            assert_eq!(files.private_key, Path::new("/keys/node.key"));
        }
        for wrong in [
            "",
            "kms.example.org",
            "kms.example.org:7430",
            "http://kms.example.org:7430",
            "https://kms.example.org",
            "https://kms.example.org:0",
            "https://kms.example.org:65536",
            "https://user@kms.example.org:7430",
            "https://kms.example.org:7430/v1",
            "https://kms.example.org:7430?a",
            "https://-kms-:7430",
            "https://[fd00::g]:7430",
        ] {
            let error = remote(wrong).resolve(Path::new("")).expect_err("refused");
            assert_eq!(error, KmsAddressError::Url(wrong.into()));
        }
    }

    #[test]
    fn a_kms_is_on_this_machine_or_on_another() {
        let resolve = |part: &KmsPart| part.resolve(Path::new("/etc"));
        assert_eq!(resolve(&KmsPart::default()), Err(KmsAddressError::None));
        let local = KmsPart { kms_socket: Some("kms.sock".into()), ..KmsPart::default() };
        assert_eq!(resolve(&local), Ok(KmsAddress::Socket("/etc/kms.sock".into())));
        let with_key = KmsPart { kms_private_key: Some("node.key".into()), ..local.clone() };
        assert_eq!(resolve(&with_key), Err(KmsAddressError::Both("kms_private_key")));
        let whole = remote("https://kms.example.org:7430");
        let both = KmsPart { kms_socket: local.kms_socket, ..whole.clone() };
        assert_eq!(resolve(&both), Err(KmsAddressError::Both("kms")));
        for (part, missing) in [
            (KmsPart { kms: None, ..whole.clone() }, "kms"),
            (KmsPart { kms_ca: None, ..whole.clone() }, "kms_ca"),
            (KmsPart { kms_certificate: None, ..whole.clone() }, "kms_certificate"),
            (KmsPart { kms_private_key: None, ..whole.clone() }, "kms_private_key"),
        ] {
            assert_eq!(resolve(&part), Err(KmsAddressError::Missing(missing)));
        }
    }
}
