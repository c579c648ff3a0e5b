//! Genesis: the file that anchors all trust of a deployment. The SHA-256 of its bytes is the deployment's id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::header::Validators;
use crate::json::{self, Integer, JsonError};
use crate::jwk::{PublicKey, Thumbprint};
use crate::message::DeploymentId;
use crate::name::{DisplayText, Name};
use crate::operational_key::{Algorithm, OperationalPublicKey, VerificationKey};
use crate::policy::{Policy, PolicyError};
use crate::process::{Process, ProcessError, StepAction, Template};
use crate::subject::{SignatureFormat, Subject, Target};
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

/// What a key is used for in a deployment (invariant I13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Makes blocks final.
    Validator,
    /// Starts cases.
    Requester,
    /// Casts ballots.
    Voter,
    /// One person's key that starts cases and casts ballots.
    RequesterAndVoter,
    /// Signs vote requests and decisions.
    Contract,
    /// Signs what was approved, and never a message of Assent.
    Operational,
    /// Held offline for recovery.
    Recovery,
}

/// Which key has which role.
#[derive(Clone, Debug, Default)]
pub struct Roles(BTreeMap<Thumbprint, Role>);

/// A key that already has a role that does not go with the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key `{key}` is a {had} key already and cannot be a {wanted} key: a key has one role")]
pub struct RoleConflict {
    /// The key.
    pub key: Thumbprint,
    /// The role that it has.
    pub had: Role,
    /// The role that it was to have.
    pub wanted: Role,
}

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

    fn check_references(&self) -> Result<(), GenesisError> {
        let governor = |place: Place, name: &Name| match self.contract(name) {
            Some(_) => Ok(()),
            None => Err(wrong(place, format!("`governed_by` names `{name}`, and there is no such contract"))),
        };
        let chain = |place: Place, name: &Name| match self.chain(name) {
            Some(_) => Ok(()),
            None => Err(wrong(place, format!("`chain` names `{name}`, and there is no such chain"))),
        };
        for contract in &self.contracts {
            chain(Place::Contract(contract.name.clone()), &contract.chain)?;
            if let Some(name) = &contract.governed_by {
                governor(Place::Contract(contract.name.clone()), name)?;
            }
        }
        for process in &self.processes {
            let place = Place::Process(process.name.clone());
            chain(place.clone(), &process.chain)?;
            governor(place.clone(), &process.governed_by)?;
            if self.contracts.iter().any(|contract| contract.chain == process.chain) {
                let why = format!(
                    "`{}` is the chain of a contract; processes need a chain of their own",
                    process.chain
                );
                return Err(wrong(place, why));
            }
        }
        for key in &self.keys {
            governor(Place::Key(key.name.clone()), &key.governed_by)?;
        }
        if self.contracts.is_empty() || self.processes.is_empty() {
            let why = "there must be at least one contract and one process, or nothing could ever be asked";
            return Err(wrong(Place::File, why));
        }
        Ok(())
    }

    fn check_recovery(&self) -> Result<(), GenesisError> {
        let Some(recovery) = &self.recovery else { return Ok(()) };
        check_length(&Place::Recovery, "keys", recovery.keys.len())?;
        if !(1..=recovery.keys.len() as u64).contains(&recovery.threshold.get()) {
            let why = format!(
                "`threshold` must be from 1 to the number of keys, {}, not {}",
                recovery.keys.len(),
                recovery.threshold
            );
            return Err(wrong(Place::Recovery, why));
        }
        Ok(())
    }

    fn assign_roles(&self) -> Result<Roles, GenesisError> {
        let mut roles = Roles::default();
        let mut assign = |place: Place, key: Thumbprint, role: Role| {
            roles.assign(key, role).map_err(|source| GenesisError::Role { place, source })
        };
        for chain in &self.chains {
            for key in chain.validators.keys() {
                assign(Place::Chain(chain.id.clone()), key.thumbprint(), Role::Validator)?;
            }
        }
        for contract in &self.contracts {
            assign(Place::Contract(contract.name.clone()), contract.key.thumbprint(), Role::Contract)?;
            for voter in contract.policy.voters() {
                assign(Place::Contract(contract.name.clone()), voter.key.thumbprint(), Role::Voter)?;
            }
        }
        for process in &self.processes {
            for requester in process.definition.requesters() {
                assign(Place::Process(process.name.clone()), requester.key.thumbprint(), Role::Requester)?;
            }
        }
        for key in &self.keys {
            assign(Place::Key(key.name.clone()), key.key.thumbprint(), Role::Operational)?;
        }
        for key in self.recovery.iter().flat_map(|recovery| &recovery.keys) {
            assign(Place::Recovery, key.thumbprint(), Role::Recovery)?;
        }
        Ok(roles)
    }

    /// Checks that each contract that a process asks is there and may decide on what it is asked, as far as the template
    /// says that for all inputs.
    fn check_steps(&self, process: &ProcessEntry) -> Result<(), GenesisError> {
        for step in process.definition.steps() {
            let StepAction::Ask { contract: asked, template, .. } = &step.action else { continue };
            let refuse = |why: String| {
                Err(wrong(Place::Process(process.name.clone()), format!("step `{}` {why}", step.name)))
            };
            let Some(contract) = self.contract(asked) else {
                return refuse(format!("asks `{asked}`, and there is no such contract"));
            };
            if !contract.policy.decides(template.kind()) {
                return refuse(format!(
                    "asks `{asked}` about a `{kind}`, which its policy does not decide: add `{kind}` to its `kinds`",
                    kind = template.kind()
                ));
            }
            let Ok(sample) = template.sample(process.definition.inputs()) else {
                return refuse("has a template that gives no valid subject".into());
            };
            if !is_target_fixed(template) || sample.target() == Target::Nothing {
                continue;
            }
            match self.governor(&sample) {
                Some(governor) if governor == asked => {}
                Some(governor) => {
                    return refuse(format!(
                        "asks `{asked}`, but only `{governor}` can decide on {}",
                        target_words(&sample)
                    ));
                }
                None => return refuse(format!("names {}, which is not there", target_words(&sample))),
            }
        }
        Ok(())
    }
}

impl Roles {
    /// The role of a key.
    pub fn get(&self, key: &Thumbprint) -> Option<Role> {
        self.0.get(key).copied()
    }

    /// Gives a key a role. Validators of two chains, voters of two contracts and requesters of two processes may be the
    /// same; a contract's, operational or recovery key has no second use at all.
    ///
    /// # Errors
    /// [`RoleConflict`], and nothing is changed.
    pub fn assign(&mut self, key: Thumbprint, wanted: Role) -> Result<(), RoleConflict> {
        use Role::{Requester, RequesterAndVoter, Validator, Voter};
        let role = match (self.get(&key), wanted) {
            (None, wanted) => wanted,
            (Some(Validator), Validator) => Validator,
            (Some(Requester), Requester) => Requester,
            (Some(Voter), Voter) => Voter,
            (Some(Requester | Voter | RequesterAndVoter), Requester | Voter | RequesterAndVoter) => {
                RequesterAndVoter
            }
            (Some(had), wanted) => return Err(RoleConflict { key, had, wanted }),
        };
        self.0.insert(key, role);
        Ok(())
    }
}

fn read_chains(documents: Vec<ChainDocument>) -> Result<Vec<Chain>, GenesisError> {
    check_names("chains", documents.iter().map(|chain| &chain.id))?;
    let read = |document: ChainDocument| {
        let place = Place::Chain(document.id.clone());
        check_length(&place, "validators", document.validators.len())?;
        let mut kids: Vec<_> = document.validators.iter().map(PublicKey::thumbprint).collect();
        kids.sort_unstable();
        if let Some(twice) = kids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(place, format!("the validator `{}` is listed twice", twice[0])));
        }
        Ok(Chain { id: document.id, validators: Validators::new(document.validators) })
    };
    documents.into_iter().map(read).collect()
}

fn read_contracts(documents: Vec<ContractDocument>) -> Result<Vec<ContractEntry>, GenesisError> {
    check_names("contracts", documents.iter().map(|contract| &contract.name))?;
    let read = |document: ContractDocument| {
        let ContractDocument { name, chain, governed_by, policy, key, attestation } = document;
        let place = Place::Contract(name.clone());
        let policy = Policy::parse(&policy.0)
            .map_err(|source| GenesisError::Policy { contract: name.clone(), source })?;
        if *policy.name() != name {
            return Err(wrong(
                place,
                format!("its policy is named `{}`; both must be the same", policy.name()),
            ));
        }
        let attestation = read_attestation(&place, attestation)?;
        Ok(ContractEntry { name, chain, governed_by, policy: Arc::new(policy), key, attestation })
    };
    documents.into_iter().map(read).collect()
}

fn read_processes(documents: Vec<ProcessDocument>) -> Result<Vec<ProcessEntry>, GenesisError> {
    check_names("processes", documents.iter().map(|process| &process.name))?;
    let read = |document: ProcessDocument| {
        let ProcessDocument { name, chain, governed_by, definition } = document;
        let definition = Process::parse(&definition.0)
            .map_err(|source| GenesisError::Process { process: name.clone(), source })?;
        if *definition.name() != name {
            let why = format!("its definition is named `{}`; both must be the same", definition.name());
            return Err(wrong(Place::Process(name), why));
        }
        Ok(ProcessEntry { name, chain, governed_by, definition: Arc::new(definition) })
    };
    documents.into_iter().map(read).collect()
}

fn read_keys(documents: Vec<KeyDocument>) -> Result<Vec<KeyEntry>, GenesisError> {
    check_names("keys", documents.iter().map(|key| &key.name))?;
    let read = |document: KeyDocument| {
        let KeyDocument { name, governed_by, alg, format, key, attestation, adopted } = document;
        let place = Place::Key(name.clone());
        let attestation = read_attestation(&place, attestation)?;
        let key = VerificationKey::new(alg, key).map_err(|error| wrong(place, error.to_string()))?;
        Ok(KeyEntry { name, governed_by, format, key, attestation, adopted })
    };
    documents.into_iter().map(read).collect()
}

/// Checks that an attestation is a list of DER sequences; what the certificates say is for whoever pins the keys.
fn read_attestation(place: &Place, attestation: Option<Vec<Bytes>>) -> Result<Vec<Bytes>, GenesisError> {
    let Some(certificates) = attestation else { return Ok(Vec::new()) };
    check_length(place, "attestation", certificates.len())?;
    match certificates.iter().all(|certificate| is_der_sequence(&certificate.0)) {
        true => Ok(certificates),
        false => Err(wrong(place.clone(), "`attestation` must be X.509 certificates in DER, leaf first")),
    }
}

/// Whether the bytes are one DER SEQUENCE (X.690 section 8.1.3) and nothing more.
fn is_der_sequence(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x82, high, low, rest @ ..] => {
            let length = usize::from(*high) << 8 | usize::from(*low);
            length == rest.len() && length > 0xff
        }
        [0x30, 0x81, length, rest @ ..] => usize::from(*length) == rest.len() && *length >= 0x80,
        [0x30, length @ 1..=0x7f, rest @ ..] => usize::from(*length) == rest.len(),
        _ => false,
    }
}

fn check_names<'n>(list: &str, names: impl ExactSizeIterator<Item = &'n Name>) -> Result<(), GenesisError> {
    if names.len() > LIST_LIMIT {
        return Err(wrong(Place::File, format!("`{list}` must have at most {LIST_LIMIT} entries")));
    }
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(wrong(Place::File, format!("`{list}` has the name `{}` twice", twice[0]))),
        None => Ok(()),
    }
}

fn check_length(place: &Place, list: &str, length: usize) -> Result<(), GenesisError> {
    match length {
        1..=LIST_LIMIT => Ok(()),
        _ => Err(wrong(place.clone(), format!("`{list}` must have 1 to {LIST_LIMIT} entries, not {length}"))),
    }
}

/// Whether what a template's subjects act on is the same in all of them.
fn is_target_fixed(template: &Template) -> bool {
    ["key", "contract", "process", "chain", "governed_by"].into_iter().all(|member| template.is_fixed(member))
}

fn target_words(subject: &Subject) -> String {
    match subject.target() {
        Target::Key(name) => format!("the key `{name}`"),
        Target::Contract(name) => format!("the contract `{name}`"),
        Target::Process(name) => format!("the process `{name}`"),
        Target::Chain(name) => format!("a contract that governs the chain `{name}`"),
        Target::New { governed_by } => format!("the contract `{governed_by}`"),
        Target::Nothing => "nothing".into(),
    }
}

fn wrong(place: Place, why: impl Into<String>) -> GenesisError {
    GenesisError::Wrong { place, why: why.into() }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Validator => "validator",
            Role::Requester => "requester",
            Role::Voter => "voter",
            Role::RequesterAndVoter => "requester and voter",
            Role::Contract => "contract",
            Role::Operational => "operational",
            Role::Recovery => "recovery",
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genesis_files_made_elsewhere_are_read() {
        for bytes in [
            &include_bytes!("../../tests/vectors/flat.genesis.json")[..],
            include_bytes!("../../tests/vectors/deep.genesis.json"),
        ] {
            let genesis = Genesis::parse(bytes).unwrap();
            assert_eq!(genesis.id().0, Digest::of(bytes));
            let key = &genesis.keys()[0];
            assert_eq!(genesis.role(&key.key.thumbprint()), Some(Role::Operational));
        }
    }
}
