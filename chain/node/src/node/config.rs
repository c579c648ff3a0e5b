//! The node's configuration, `node.toml`: where its data, genesis, keys and the KMS are, and where it listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use assent_consensus::name::Name;
use serde::Deserialize;

use crate::kms_address::{KmsAddress, KmsAddressError, KmsPart};

/// The keys of the file beside [`KmsPart::KEYS`]; `[validator_keys]` has one for each log.
pub const KEYS: &[&str] = &["data_directory", "genesis", "socket", "listen", "validator_keys"];

/// `node.toml` as written. Paths are from its directory; unknown keys are refused.
///
/// ```toml
/// data_directory = "data"             # the logs, one file `NAME.ledger` each; made if it is not there, mode 0700
/// genesis = "genesis.json"            # the deployment's genesis file: this node serves no other deployment
/// socket = "data/node.sock"           # the API's Unix socket, mode 0660; default: `node.sock` in the data directory
/// listen = "127.0.0.1:7420"           # the API on TCP too, on a loopback address; default: not on TCP
/// kms_socket = "/run/assent-kms/kms.sock"   # where the KMS takes duties; or, if it is on another machine:
/// # kms = "https://kms.example.org:7430"   # the host must be in its certificate
/// # kms_ca = "tls/ca.crt"             # the authorities that sign it, in PEM
/// # kms_certificate = "tls/node.crt"  # this node's certificate, with those between it and the authority, in PEM
/// # kms_private_key = "tls/node.key"  # in PEM without passphrase, mode 0600
///
/// [validator_keys]                    # the logs that this node keeps, and the keys that make their blocks final
/// process = "process.validator.pem"   # PKCS#8 PEM without passphrase, mode 0600
/// consensus = "consensus.validator.pem"
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    data_directory: PathBuf,
    genesis: PathBuf,
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    kms_socket: Option<PathBuf>,
    kms: Option<String>,
    kms_ca: Option<PathBuf>,
    kms_certificate: Option<PathBuf>,
    kms_private_key: Option<PathBuf>,
    validator_keys: BTreeMap<Name, PathBuf>,
}

/// The configuration with every default filled in and every path resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory of the logs.
    pub data_directory: PathBuf,
    /// The genesis file.
    pub genesis: PathBuf,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// The API's loopback address, if it listens on TCP.
    pub listen: Option<SocketAddr>,
    /// Where the KMS takes duties.
    pub kms: KmsAddress,
    /// The logs that this node keeps, each with the file of its validator key.
    pub validator_keys: BTreeMap<Name, PathBuf>,
}

/// Why a configuration makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The API has no protection of its own on a network.
    #[error(
        "`listen` is `{0}`, which others on the network reach; use a loopback address such as `127.0.0.1:7420`"
    )]
    NotLoopback(SocketAddr),
    /// There is nothing to do.
    #[error("`[validator_keys]` names no log; give the key of each log that this node keeps")]
    NoLog,
    /// It is not known where the KMS is.
    #[error(transparent)]
    Kms(#[from] KmsAddressError),
}

impl ConfigFile {
    /// The configuration whose paths are from `base`.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn resolve(self, base: &Path) -> Result<Config, ConfigError> {
        if let Some(listen) = self.listen
            && !listen.ip().is_loopback()
        {
            return Err(ConfigError::NotLoopback(listen));
        }
        if self.validator_keys.is_empty() {
            return Err(ConfigError::NoLog);
        }
        let kms = KmsPart {
            kms_socket: self.kms_socket,
            kms: self.kms,
            kms_ca: self.kms_ca,
            kms_certificate: self.kms_certificate,
            kms_private_key: self.kms_private_key,
        };
        let data_directory = base.join(self.data_directory);
        Ok(Config {
            genesis: base.join(self.genesis),
            socket: self.socket.map_or_else(|| data_directory.join("node.sock"), |path| base.join(path)),
            listen: self.listen,
            kms: kms.resolve(base)?,
            validator_keys: self
                .validator_keys
                .into_iter()
                .map(|(chain, path)| (chain, base.join(path)))
                .collect(),
            data_directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(listen: Option<&str>) -> ConfigFile {
        ConfigFile {
            data_directory: "data".into(),
            genesis: "genesis.json".into(),
            socket: None,
            listen: listen.map(|address| address.parse().expect("an address")),
            kms_socket: Some("/run/kms.sock".into()),
            kms: None,
            kms_ca: None,
            kms_certificate: None,
            kms_private_key: None,
            validator_keys: BTreeMap::from([("process".parse().expect("a name"), "process.pem".into())]),
        }
    }

    #[test]
    fn the_node_listens_on_loopback_addresses_alone() {
        for good in ["127.0.0.1:80", "127.1.2.3:0", "[::1]:7420"] {
            assert!(file(Some(good)).resolve(Path::new("")).is_ok(), "{good}");
        }
        for wrong in ["0.0.0.0:80", "[::]:80", "192.168.0.1:80"] {
            let error = file(Some(wrong)).resolve(Path::new("")).expect_err("refused");
            assert!(matches!(error, ConfigError::NotLoopback(_)), "{wrong}");
        }
    }

    #[test]
    fn paths_are_from_the_directory_of_the_file() {
        let config = file(None).resolve(Path::new("/etc/assent")).expect("complete");
        assert_eq!(config.socket, Path::new("/etc/assent/data/node.sock"));
        assert_eq!(config.kms, KmsAddress::Socket("/run/kms.sock".into()));
        assert_eq!(config.validator_keys.values().next().unwrap(), Path::new("/etc/assent/process.pem"));
    }

    #[test]
    fn a_node_without_a_log_is_refused() {
        let file = ConfigFile { validator_keys: BTreeMap::new(), ..file(None) };
        assert_eq!(file.resolve(Path::new("")).expect_err("refused"), ConfigError::NoLog);
    }
}
