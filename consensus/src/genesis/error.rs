//! What is wrong with a genesis file, and where.

use std::fmt;

use super::{GENESIS_LIMIT, RoleConflict};
use crate::json::{Integer, JsonError};
use crate::name::Name;
use crate::policy::PolicyError;
use crate::process::ProcessError;

/// A thing in a genesis file, to say where an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A ledger.
    Chain(Name),
    /// A consensus contract.
    Contract(Name),
    /// A process.
    Process(Name),
    /// An operational key.
    Key(Name),
    /// The recovery keys.
    Recovery,
}

/// Why bytes are not a genesis file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Larger than [`GENESIS_LIMIT`].
    #[error("the genesis file has {0} bytes; at most {GENESIS_LIMIT} are allowed")]
    TooLarge(usize),
    /// Not JSON of the format.
    #[error("the genesis file cannot be read: {0}")]
    Json(#[from] JsonError),
    /// Another version.
    #[error("the genesis file is of version {0}; this program knows version 1")]
    Version(Integer),
    /// A policy is wrong.
    #[error("the policy of contract `{contract}` is wrong:\n{source}")]
    Policy {
        /// The contract.
        contract: Name,
        /// All findings.
        source: PolicyError,
    },
    /// A process document is wrong.
    #[error("the definition of process `{process}` is wrong:\n{source}")]
    Process {
        /// The process.
        process: Name,
        /// All findings.
        source: ProcessError,
    },
    /// A key has two roles.
    #[error("{place}: {source}")]
    Role {
        /// Where the second role is.
        place: Place,
        /// Which key, and which roles.
        source: RoleConflict,
    },
    /// Something does not fit together.
    #[error("{place}: {why}")]
    Wrong {
        /// Where.
        place: Place,
        /// What, and what to do.
        why: String,
    },
}

pub(super) fn wrong(place: Place, why: impl Into<String>) -> GenesisError {
    GenesisError::Wrong { place, why: why.into() }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File => f.write_str("the genesis file"),
            Place::Chain(name) => write!(f, "chain `{name}`"),
            Place::Contract(name) => write!(f, "contract `{name}`"),
            Place::Process(name) => write!(f, "process `{name}`"),
            Place::Key(name) => write!(f, "key `{name}`"),
            Place::Recovery => f.write_str("`recovery`"),
        }
    }
}
