//! The deployment file: what `assent init` makes a genesis of.
//!
//! ```toml
//! name = "example"
//! environment = "production"        # display text, shown at every prompt
//!
//! [[chain]]                         # default: `process` and `consensus`, with new validator keys
//! id = "process"
//! validator_key = "process.pem"     # PKCS#8 PEM without passphrase, mode 0600; default: a new one
//!
//! [[contract]]                      # its name is its policy's
//! policy = "release-approval.toml"
//! key = "release-approval.jwk"      # printed by `assent-kms key create`
//! governed_by = "governance"        # default: itself
//! chain = "consensus"               # default
//!
//! [[process]]                       # its name is its definition's
//! definition = "release-signing.toml"
//! governed_by = "release-approval"
//! chain = "process"                 # default
//!
//! [[key]]                           # an operational key
//! name = "release"
//! governed_by = "release-approval"
//! format = "der"                    # or raw, dsse, jws
//! key = "release.jwk"               # of `assent-kms key create` or `key adopt`: it says the algorithm too
//!
//! [recovery]                        # default: none
//! threshold = 2
//! keys = ["safe-1.jwk", "safe-2.jwk", "safe-3.jwk"]
//! delay = "7d"
//!
//! [node]                            # what node.toml will say; paths from its directory
//! data_directory = "data"           # default
//! socket = "data/node.sock"         # default
//! listen = "127.0.0.1:7420"         # default: not on TCP
//! kms_socket = "/run/assent-kms/kms.sock"   # default, unless `kms` is there
//! # kms = "https://kms.example.org:7430"     # a KMS on another machine, with these three files:
//! # kms_ca = "tls/ca.crt"
//! # kms_certificate = "tls/node.crt"
//! # kms_private_key = "tls/node.key"
//! ```
//!
//! Files are looked for from the directory of the deployment file.

use std::path::{Path, PathBuf};

use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{ContractDocument, KeyDocument, ProcessDocument, Recovery};
use assent_consensus::json::Integer;
use assent_consensus::name::{DisplayText, Name};
use assent_consensus::operational_key::KeyFile;
use assent_consensus::policy::Policy;
use assent_consensus::process::Process;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::time::Millis;
use serde::Deserialize;

use crate::kms_address::KmsPart;

use super::failure::Failure;
use super::toml_file::KnownKeys;
use super::{read, toml_file};

const KEYS: &KnownKeys = &[
    ("", &["name", "environment", "chain", "contract", "process", "key", "recovery", "node"]),
    ("chain", &["id", "validator_key"]),
    ("contract", &["policy", "key", "governed_by", "chain"]),
    ("process", &["definition", "governed_by", "chain"]),
    ("key", &["name", "governed_by", "format", "key"]),
    ("recovery", &["threshold", "keys", "delay"]),
    ("node", &["data_directory", "socket", "listen"]),
    ("node", KmsPart::KEYS),
];

/// A deployment file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deployment {
    pub(super) name: Name,
    pub(super) environment: DisplayText,
    #[serde(default = "default_chains")]
    pub(super) chain: Vec<ChainPart>,
    contract: Vec<ContractPart>,
    #[serde(default)]
    process: Vec<ProcessPart>,
    #[serde(default)]
    key: Vec<KeyPart>,
    recovery: Option<RecoveryPart>,
    #[serde(default)]
    pub(super) node: NodePart,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChainPart {
    pub(super) id: Name,
    pub(super) validator_key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContractPart {
    policy: PathBuf,
    key: PathBuf,
    governed_by: Option<Name>,
    chain: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessPart {
    definition: PathBuf,
    governed_by: Name,
    chain: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPart {
    name: Name,
    governed_by: Name,
    format: SignatureFormat,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoveryPart {
    threshold: Integer,
    keys: Vec<PathBuf>,
    delay: Millis,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NodePart {
    pub(super) data_directory: String,
    pub(super) socket: Option<String>,
    pub(super) listen: Option<std::net::SocketAddr>,
    pub(super) kms_socket: Option<String>,
    pub(super) kms: Option<String>,
    pub(super) kms_ca: Option<String>,
    pub(super) kms_certificate: Option<String>,
    pub(super) kms_private_key: Option<String>,
}

impl Default for NodePart {
    fn default() -> NodePart {
        NodePart {
            data_directory: "data".into(),
            socket: None,
            listen: None,
            kms_socket: None,
            kms: None,
            kms_ca: None,
            kms_certificate: None,
            kms_private_key: None,
        }
    }
}

impl NodePart {
    fn kms(&self) -> KmsPart {
        let path = |path: &Option<String>| path.as_ref().map(PathBuf::from);
        KmsPart {
            kms_socket: path(&self.kms_socket),
            kms: self.kms.clone(),
            kms_ca: path(&self.kms_ca),
            kms_certificate: path(&self.kms_certificate),
            kms_private_key: path(&self.kms_private_key),
        }
    }
}

impl Deployment {
    pub(super) fn load(path: &Path) -> Result<Deployment, Failure> {
        let text = read::text(path, "deployment file", read::SHORT_LIMIT)?;
        let mut deployment: Deployment = toml_file::read(&text, path, KEYS)?;
        let node = &mut deployment.node;
        if node.kms() == KmsPart::default() {
            node.kms_socket = Some("/run/assent-kms/kms.sock".into());
        }
        // `node.toml` would be refused later.
        let resolved = node.kms().resolve(Path::new(""));
        resolved.map_err(|error| Failure::failed(format!("`{}`, `[node]`: {error}", path.display())))?;
        Ok(deployment)
    }

    pub(super) fn contracts(&self, base: &Path) -> Result<Vec<ContractDocument>, Failure> {
        let read = |part: &ContractPart| {
            let path = base.join(&part.policy);
            let document = read::file(&path, "policy", read::DOCUMENT_LIMIT)?;
            let policy = Policy::parse(&document).map_err(|error| refused(&path, error))?;
            Ok(ContractDocument {
                name: policy.name().clone(),
                chain: part.chain.clone().unwrap_or_else(consensus),
                governed_by: part.governed_by.clone(),
                policy: Bytes(document),
                key: read::jwk(&base.join(&part.key))?,
                attestation: None,
            })
        };
        self.contract.iter().map(read).collect()
    }

    pub(super) fn processes(&self, base: &Path) -> Result<Vec<ProcessDocument>, Failure> {
        let read = |part: &ProcessPart| {
            let path = base.join(&part.definition);
            let document = read::file(&path, "process document", read::DOCUMENT_LIMIT)?;
            let process = Process::parse(&document).map_err(|error| refused(&path, error))?;
            Ok(ProcessDocument {
                name: process.name().clone(),
                chain: part.chain.clone().unwrap_or_else(process_chain),
                governed_by: part.governed_by.clone(),
                definition: Bytes(document),
            })
        };
        self.process.iter().map(read).collect()
    }

    pub(super) fn keys(&self, base: &Path) -> Result<Vec<KeyDocument>, Failure> {
        let read = |part: &KeyPart| {
            let KeyFile { key, adopted } = read::key_file(&base.join(&part.key))?;
            Ok(KeyDocument {
                name: part.name.clone(),
                governed_by: part.governed_by.clone(),
                alg: key.algorithm(),
                format: part.format,
                key: key.public_key().clone(),
                attestation: None,
                adopted,
            })
        };
        self.key.iter().map(read).collect()
    }

    pub(super) fn recovery(&self, base: &Path) -> Result<Option<Recovery>, Failure> {
        let Some(part) = &self.recovery else { return Ok(None) };
        let keys = part.keys.iter().map(|path| read::jwk(&base.join(path))).collect::<Result<_, _>>()?;
        Ok(Some(Recovery { threshold: part.threshold, keys, delay: part.delay }))
    }
}

fn refused(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("`{}` is refused:\n{error}", path.display()))
}

fn default_chains() -> Vec<ChainPart> {
    let chain = |id| ChainPart { id, validator_key: None };
    vec![chain(process_chain()), chain(consensus())]
}

fn process_chain() -> Name {
    "process".parse().expect("it is of the form of a name")
}

fn consensus() -> Name {
    "consensus".parse().expect("it is of the form of a name")
}
