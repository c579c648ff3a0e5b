//! A genesis file as written.

use serde::{Deserialize, Serialize};

use super::{Genesis, GenesisError};
use crate::encoding::Bytes;
use crate::json::{Integer, JsonError};
use crate::jwk::PublicKey;
use crate::name::{DisplayText, Name};
use crate::operational_key::{Algorithm, OperationalPublicKey};
use crate::subject::SignatureFormat;
use crate::time::{Millis, UnixMillis};

/// The largest genesis file, in bytes.
pub const GENESIS_LIMIT: usize = 64 << 20;

/// The most chains, contracts, processes, keys, or keys of one list, that a genesis file may have.
pub const LIST_LIMIT: usize = 4_096;

/// A genesis file as written, members in the order of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisDocument {
    /// 1
    pub version: Integer,
    /// The deployment's name.
    pub name: Name,
    /// What kind of deployment it is, such as `production`: shown at every prompt.
    pub environment: DisplayText,
    /// When the file was made.
    pub created: UnixMillis,
    /// The ledgers.
    pub chains: Vec<ChainDocument>,
    /// The consensus contracts.
    pub contracts: Vec<ContractDocument>,
    /// The processes.
    pub processes: Vec<ProcessDocument>,
    /// The operational keys.
    pub keys: Vec<KeyDocument>,
    /// Who can change what can no longer be voted on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recovery: Option<Recovery>,
}

/// A ledger as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainDocument {
    /// Its name.
    pub id: Name,
    /// Its validators' keys.
    pub validators: Vec<PublicKey>,
}

/// A consensus contract as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractDocument {
    /// Its name, which is its policy's.
    pub name: Name,
    /// Its ledger.
    pub chain: Name,
    /// The contract that decides on it; itself if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub governed_by: Option<Name>,
    /// The exact policy document.
    pub policy: Bytes,
    /// Its public key.
    pub key: PublicKey,
    /// X.509 certificates (DER) by which a device vouches for the key, leaf first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attestation: Option<Vec<Bytes>>,
}

/// A process as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessDocument {
    /// Its name, which is its definition's.
    pub name: Name,
    /// Its ledger.
    pub chain: Name,
    /// The contract that decides on it.
    pub governed_by: Name,
    /// The exact process document.
    pub definition: Bytes,
}

/// An operational key as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDocument {
    /// Its name.
    pub name: Name,
    /// The contract that decides on it.
    pub governed_by: Name,
    /// Its algorithm.
    pub alg: Algorithm,
    /// What its signatures look like.
    pub format: SignatureFormat,
    /// Its public key.
    pub key: OperationalPublicKey,
    /// X.509 certificates (DER) by which a device vouches for the key, leaf first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attestation: Option<Vec<Bytes>>,
    /// Whether it was on its device before it was taken over: nobody can say how it came there. Written only if so.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub adopted: bool,
}

/// Keys held offline that can change what can no longer be voted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// How many of the keys must sign, from 1 to all of them.
    pub threshold: Integer,
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How long after it was recorded a recovery takes effect.
    pub delay: Millis,
}

impl GenesisDocument {
    /// The file's bytes, indented for people; they are checked before they are returned.
    ///
    /// # Errors
    /// [`GenesisError`], as [`Genesis::parse`] finds it.
    pub fn to_genesis(&self) -> Result<Genesis, GenesisError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(JsonError::from)?;
        bytes.push(b'\n');
        Genesis::parse(&bytes)
    }
}
