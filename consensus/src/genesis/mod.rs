//! Genesis: the file that anchors all trust of a deployment. The SHA-256 of its bytes is the deployment's id.
//!
//! ```text
//! bytes ─▶ document ─▶ read (policies, processes, keys) ─▶ check (references, steps; role) ─▶ Genesis
//! ```

mod check;
mod document;
mod error;
mod read;
mod role;

pub use document::{
    ChainDocument, ContractDocument, GENESIS_LIMIT, GenesisDocument, KeyDocument, LIST_LIMIT,
    ProcessDocument, Recovery,
};
pub use error::{GenesisError, Place};
pub use role::{Role, RoleConflict, Roles};

use std::sync::Arc;

use read::{read_chains, read_contracts, read_keys, read_processes};

use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::header::Validators;
use crate::json;
use crate::jwk::{PublicKey, Thumbprint};
use crate::message::DeploymentId;
use crate::name::{DisplayText, Name};
use crate::operational_key::VerificationKey;
use crate::policy::Policy;
use crate::process::Process;
use crate::subject::{SignatureFormat, Subject, Target};
use crate::time::UnixMillis;

/// A genesis file that was read and checked whole.
#[derive(Debug)]
pub struct Genesis {
    id: DeploymentId,
    bytes: Vec<u8>,
    name: Name,
    environment: DisplayText,
    created: UnixMillis,
    chains: Vec<Chain>,
    contracts: Vec<ContractEntry>,
    processes: Vec<ProcessEntry>,
    keys: Vec<KeyEntry>,
    recovery: Option<Recovery>,
    roles: Roles,
}

/// A ledger.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub id: Name,
    /// Who makes its blocks final, at first.
    pub validators: Validators,
}

/// A consensus contract, as it begins.
#[derive(Clone, Debug)]
pub struct ContractEntry {
    /// Its name.
    pub name: Name,
    /// Its ledger.
    pub chain: Name,
    /// The contract that decides on it; itself if there is none.
    pub governed_by: Option<Name>,
    /// Its rules and electorate.
    pub policy: Arc<Policy>,
    /// The first version of its key.
    pub key: PublicKey,
    /// X.509 certificates (DER) for the key, leaf first; empty if there are none.
    pub attestation: Vec<Bytes>,
}

/// A process, as it begins.
#[derive(Clone, Debug)]
pub struct ProcessEntry {
    /// Its name.
    pub name: Name,
    /// Its ledger.
    pub chain: Name,
    /// The contract that decides on it.
    pub governed_by: Name,
    /// Its document.
    pub definition: Arc<Process>,
}

/// An operational key, as it begins.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// Its name.
    pub name: Name,
    /// The contract that decides on it.
    pub governed_by: Name,
    /// What its signatures look like.
    pub format: SignatureFormat,
    /// The first version, with its algorithm.
    pub key: VerificationKey,
    /// X.509 certificates (DER) for the key, leaf first; empty if there are none.
    pub attestation: Vec<Bytes>,
    /// Whether it was taken over by the KMS, and not generated for it.
    pub adopted: bool,
}

impl Genesis {
    /// Reads a genesis file and checks that everything in it fits together.
    ///
    /// # Errors
    /// [`GenesisError`]
    pub fn parse(bytes: &[u8]) -> Result<Genesis, GenesisError> {
        if bytes.len() > GENESIS_LIMIT {
            return Err(GenesisError::TooLarge(bytes.len()));
        }
        let document: GenesisDocument = json::read(bytes)?;
        if document.version.get() != 1 {
            return Err(GenesisError::Version(document.version));
        }
        let chains = read_chains(document.chains)?;
        let contracts = read_contracts(document.contracts)?;
        let processes = read_processes(document.processes)?;
        let keys = read_keys(document.keys)?;
        let mut genesis = Genesis {
            id: DeploymentId(Digest::of(bytes)),
            bytes: bytes.to_vec(),
            name: document.name,
            environment: document.environment,
            created: document.created,
            chains,
            contracts,
            processes,
            keys,
            recovery: document.recovery,
            roles: Roles::default(),
        };
        genesis.check_references()?;
        genesis.check_recovery()?;
        genesis.roles = genesis.assign_roles()?;
        for process in &genesis.processes {
            genesis.check_steps(process)?;
        }
        Ok(genesis)
    }

    /// The deployment's id: SHA-256 of the bytes.
    pub fn id(&self) -> DeploymentId {
        self.id
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The deployment's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What kind of deployment it is, such as `production`.
    pub fn environment(&self) -> &DisplayText {
        &self.environment
    }

    /// When the file was made.
    pub fn created(&self) -> UnixMillis {
        self.created
    }

    /// The ledgers.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The ledger of this name.
    pub fn chain(&self, id: &Name) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.id == *id)
    }

    /// The consensus contracts.
    pub fn contracts(&self) -> &[ContractEntry] {
        &self.contracts
    }

    /// The contract of this name.
    pub fn contract(&self, name: &Name) -> Option<&ContractEntry> {
        self.contracts.iter().find(|contract| contract.name == *name)
    }

    /// The processes.
    pub fn processes(&self) -> &[ProcessEntry] {
        &self.processes
    }

    /// The process of this name.
    pub fn process(&self, name: &Name) -> Option<&ProcessEntry> {
        self.processes.iter().find(|process| process.name == *name)
    }

    /// The operational keys.
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }

    /// The operational key of this name.
    pub fn key(&self, name: &Name) -> Option<&KeyEntry> {
        self.keys.iter().find(|key| key.name == *name)
    }

    /// The keys for recovery, if there are any.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// The contract that alone decides on what `subject` acts on. Nothing if it acts on nothing (`record`, `webhook`), or
    /// on what is not in this file, or on a chain, which no contract governs: ask [`Genesis::may_decide`].
    pub fn governor(&self, subject: &Subject) -> Option<&Name> {
        match subject.target() {
            Target::Key(key) => self.key(key).map(|key| &key.governed_by),
            Target::Contract(contract) => self
                .contract(contract)
                .map(|contract| contract.governed_by.as_ref().unwrap_or(&contract.name)),
            Target::Process(process) => self.process(process).map(|process| &process.governed_by),
            Target::New { governed_by } => self.contract(governed_by).map(|contract| &contract.name),
            Target::Chain(_) | Target::Nothing => None,
        }
    }

    /// Whether a contract may decide on `subject` under this policy of its own: the policy lists the kind, and the contract
    /// governs what is acted on.
    pub fn may_decide(&self, policy: &Policy, subject: &Subject) -> bool {
        let governs = subject.target() == Target::Nothing || self.governor(subject) == Some(policy.name());
        governs && policy.decides(subject.kind())
    }

    /// The role of a key (invariant I13).
    pub fn role(&self, key: &Thumbprint) -> Option<Role> {
        self.roles.get(key)
    }

    /// The roles of all keys.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genesis_files_made_elsewhere_are_read() {
        for bytes in [
            &include_bytes!("../../../tests/vectors/flat.genesis.json")[..],
            include_bytes!("../../../tests/vectors/deep.genesis.json"),
        ] {
            let genesis = Genesis::parse(bytes).unwrap();
            assert_eq!(genesis.id().0, Digest::of(bytes));
            let key = &genesis.keys()[0];
            assert_eq!(genesis.role(&key.key.thumbprint()), Some(Role::Operational));
        }
    }
}
