//! The acts themselves, one at a time, and why one is refused.

use std::path::PathBuf;
use std::sync::Arc;

use assent_consensus::genesis::GenesisError;
use assent_consensus::json::Integer;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{DeploymentId, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind, WrongAlgorithm};
use assent_consensus::standing::Standing;

use super::{PinnedView, PolicyView, pinning};
use crate::audit::Entry;
use crate::device::{DeviceError, Devices, ObjectId};
use crate::generation::{GenerationError, KeyToGenerate};
use crate::life::{Limited, Limits, LimitsError};
use crate::pins::{KeyState, Pins};
use crate::reload::InForce;
use crate::signing::{Clock, KeyChange, KeyName};
use crate::sockets::Peer;
use crate::store::{KeyRow, Store, StoreError, Writer};

/// Does what people ask for.
pub struct Admin {
    pub(super) pins: Pins,
    pub(super) writer: Arc<Writer>,
    pub(super) devices: Arc<Devices>,
    pub(super) directory: PathBuf,
    pub(super) clock: Clock,
    /// Held through each act: two people at once must not make one key twice.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// How long before a key is deactivated that is announced.
    pub(super) settings: InForce,
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Not what is expected.
    #[error("the call is not well formed: {0}")]
    Malformed(String),
    /// No such call.
    #[error("this socket has no such call; use the `assent-kms` program of this version")]
    UnknownCall,
    /// There is one.
    #[error("{0} is there already: a new version of it comes from an approved `rotate-key` case")]
    KeyExists(KeyName),
    /// A contract signs messages, and those are ES256.
    #[error("a contract's key must be ES256, not {0}: only operational keys may have another algorithm")]
    ContractAlgorithm(Algorithm),
    /// A key that cannot sign by what is asked for.
    #[error(transparent)]
    Algorithm(#[from] WrongAlgorithm),
    /// An RSA key, and nobody said how it signs.
    #[error("the key is {0}, which can sign by RS256 and by PS256: say by which, with `--alg`")]
    WhichAlgorithm(KeyKind),
    /// A key pair that is in the table already.
    #[error("the key with the id {object} is here already, as {by}: a key has one role")]
    Taken {
        /// The key pair.
        object: ObjectId,
        /// What it is.
        by: KeyName,
    },
    /// A private and a public key of the same id that do not belong together.
    #[error(
        "the private and the public key with the id {0} on the token do not belong together: nothing was taken over"
    )]
    Halves(ObjectId),
    /// There is none.
    #[error("{0} is not here: `assent-kms key list` shows all keys")]
    NoKey(String),
    /// In no state for it.
    #[error("version {version} of {key} is {state}, and cannot become {wanted}")]
    KeyState {
        /// Which.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
        /// Its state.
        state: KeyState,
        /// What it was to become.
        wanted: KeyState,
    },
    /// Limits that would end it, or that are too late.
    #[error("{0}")]
    Limits(#[from] LimitsError),
    /// Pinned before.
    #[error(
        "this KMS is pinned to deployment `{0}`, once and for all: another deployment needs a KMS of its own"
    )]
    PinnedAlready(DeploymentId),
    /// Not a genesis.
    #[error("the genesis file is refused: {0}")]
    Genesis(#[from] GenesisError),
    /// Keys that are not ours.
    #[error("the genesis file names keys that this KMS does not hold:\n{}", .0.join("\n"))]
    ForeignKeys(Vec<String>),
    /// Not before pinning.
    #[error("this KMS is not pinned yet: `assent-kms pin genesis.json` does that")]
    NotPinned,
    /// No voter.
    #[error("no policy of the pinned deployment has a voter with the key `{0}`")]
    NoVoter(Thumbprint),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread broke off.
    #[error("the KMS failed within itself; its log says how")]
    Broken,
}

impl From<GenerationError> for AdminError {
    fn from(error: GenerationError) -> AdminError {
        match error {
            GenerationError::Algorithm(error) => error.into(),
            GenerationError::Device(error) => error.into(),
            GenerationError::Store(error) => error.into(),
        }
    }
}

impl AdminError {
    /// The error in a word that programs can rely on.
    pub fn code(&self) -> &'static str {
        match self {
            AdminError::Malformed(_) => "malformed",
            AdminError::UnknownCall => "unknown-call",
            AdminError::KeyExists(_) => "key-exists",
            AdminError::ContractAlgorithm(_) => "contract-algorithm",
            AdminError::Algorithm(_) => "algorithm",
            AdminError::WhichAlgorithm(_) => "which-algorithm",
            AdminError::Taken { .. } => "taken",
            AdminError::Halves(_) => "halves",
            AdminError::NoKey(_) => "no-key",
            AdminError::KeyState { .. } => "key-state",
            AdminError::Limits(_) => "limits",
            AdminError::PinnedAlready(_) => "pinned-already",
            AdminError::Genesis(_) => "genesis",
            AdminError::ForeignKeys(_) => "foreign-keys",
            AdminError::NotPinned => "not-pinned",
            AdminError::NoVoter(_) => "no-voter",
            AdminError::Device(_) => "device",
            AdminError::Store(_) => "store",
            AdminError::Broken => "broken",
        }
    }
}

impl Admin {
    /// An administration of these parts; the database is in `directory`.
    pub fn new(
        pins: Pins,
        writer: Arc<Writer>,
        devices: Arc<Devices>,
        directory: PathBuf,
        clock: Clock,
        settings: InForce,
    ) -> Admin {
        let turn = tokio::sync::Mutex::new(());
        Admin { pins, writer, devices, directory, clock, turn, settings }
    }

    /// Has a device generate the first version of a key; the first device of the configuration if none is named.
    ///
    /// # Errors
    /// [`AdminError`]; nothing is changed then.
    pub async fn create_key(
        &self,
        name: KeyName,
        device: Option<Name>,
        (algorithm, kind): (Algorithm, KeyKind),
        limits: Limits,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        if matches!(name, KeyName::Contract(_)) && algorithm != Algorithm::ES256 {
            return Err(AdminError::ContractAlgorithm(algorithm));
        }
        if !algorithm.fits(kind) {
            return Err(WrongAlgorithm { algorithm, kind }.into());
        }
        limits.check(Limited::NEW, (self.clock)())?;
        let _turn = self.turn.lock().await;
        if self.pins.keys().iter().any(|row| row.name == name) {
            return Err(AdminError::KeyExists(name));
        }
        let device = device.unwrap_or_else(|| self.devices.first().clone());
        let (version, by) = (KeyVersion::first(), Some(by(peer)));
        let key = KeyToGenerate { name: name.clone(), version, device, algorithm, kind, limits, by };
        key.generate(&self.devices, &self.writer, (self.clock)()).await?;
        self.reload().await?;
        self.pins.key_row(&name, version).ok_or(AdminError::Broken)
    }

    /// Says that a key is compromised: it signs nothing more, at once.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn compromised(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        self.change(name, version, KeyState::Compromised, "a person says that it is compromised", peer).await
    }

    /// Has an active key sign nothing, at once, until it is resumed.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn suspend(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        self.change(name, version, KeyState::Suspended, "a person suspended it", peer).await
    }

    /// Lets a suspended key sign again.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn resume(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        self.change(name, version, KeyState::Active, "a person looked at it", peer).await
    }

    async fn change(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
        to: KeyState,
        why: &str,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        let _turn = self.turn.lock().await;
        let row = self.version_of(&name, version)?;
        let state = self.pins.state_at(&row, (self.clock)());
        // A key becomes active for the first time by being pinned, not by hand.
        let is_pinning = (state, to) == (KeyState::PreActivation, KeyState::Active);
        if is_pinning || !state.may_become(to) {
            let version = row.version;
            return Err(AdminError::KeyState { key: name, version, state, wanted: to });
        }
        let change = KeyChange {
            name: row.name.clone(),
            version: row.version,
            to,
            by: Some(by(peer)),
            why: why.into(),
        };
        let version = row.version;
        change.write(&self.writer, &self.pins, (self.clock)()).await?;
        tracing::warn!(alarm = true, key = %name, %version, "the key is now {to}");
        self.pins.key_row(&name, version).ok_or(AdminError::Broken)
    }

    /// A version of a key, or its newest one.
    pub(super) fn version_of(
        &self,
        name: &KeyName,
        version: Option<KeyVersion>,
    ) -> Result<KeyRow, AdminError> {
        let fits = |row: &KeyRow| row.name == *name && version.is_none_or(|version| row.version == version);
        let missing = || match version {
            Some(version) => AdminError::NoKey(format!("version {version} of {name}")),
            None => AdminError::NoKey(name.to_string()),
        };
        self.pins.keys().into_iter().rev().find(fits).ok_or_else(missing)
    }

    /// Pins a deployment: checks that its keys are ours, and activates them. Once for a KMS.
    ///
    /// # Errors
    /// [`AdminError`]; nothing is changed then.
    pub async fn pin(&self, bytes: Vec<u8>, peer: Peer) -> Result<PinnedView, AdminError> {
        let _turn = self.turn.lock().await;
        if let Some(genesis) = self.pins.genesis() {
            return Err(AdminError::PinnedAlready(genesis.id()));
        }
        let (rows, at, by) = (self.pins.keys(), (self.clock)(), by(peer));
        let checked = tokio::task::spawn_blocking(move || pinning::check(&bytes, &rows, at));
        let pinning = checked.await.map_err(|_| AdminError::Broken)??;
        let view = pinning.view();
        self.writer.write(move |batch| pinning.write(batch, at, by)).await?;
        self.reload().await?;
        tracing::info!(deployment = %view.deployment, "the deployment is pinned");
        Ok(view)
    }

    /// The policies of all contracts, in order of contract and time.
    ///
    /// # Errors
    /// [`AdminError::NotPinned`]
    pub fn policies(&self) -> Result<Vec<PolicyView>, AdminError> {
        let genesis = self.pins.genesis().ok_or(AdminError::NotPinned)?;
        let (standing, now) = (Standing::new(&genesis, self.pins.successions()), (self.clock)());
        let mut policies = Vec::new();
        for contract in genesis.contracts() {
            let adopted = standing.policies(&contract.name);
            let later = adopted.iter().map(|adopted| (adopted.digest, Some(adopted.latest)));
            let first = policies.len();
            for (policy, effective) in std::iter::once((contract.policy.digest(), None)).chain(later) {
                policies.push(PolicyView {
                    contract: contract.name.clone(),
                    policy,
                    effective,
                    in_force: false,
                });
            }
            let is_begun = |view: &&mut PolicyView| view.effective.is_none_or(|effective| effective <= now);
            if let Some(last) = policies[first..].iter_mut().rfind(is_begun) {
                last.in_force = true;
            }
        }
        Ok(policies)
    }

    /// A voter's ballots count no more, at once.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn suspend_voter(&self, voter: Thumbprint, peer: Peer) -> Result<(), AdminError> {
        let _turn = self.turn.lock().await;
        let genesis = self.pins.genesis().ok_or(AdminError::NotPinned)?;
        if !Standing::new(&genesis, self.pins.successions()).is_voter(&voter) {
            return Err(AdminError::NoVoter(voter));
        }
        let (at, by) = ((self.clock)(), by(peer));
        self.writer
            .write(move |batch| {
                batch.suspend_voter(&voter, at)?;
                batch.append(&Entry::VoterSuspended { at, by, voter }).map(drop)
            })
            .await?;
        self.reload().await?;
        tracing::warn!(alarm = true, %voter, "the voter is suspended");
        Ok(())
    }

    /// A request that is late may be decided.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn release(&self, request: RequestId, peer: Peer) -> Result<(), AdminError> {
        let _turn = self.turn.lock().await;
        if self.pins.genesis().is_none() {
            return Err(AdminError::NotPinned);
        }
        let (at, by) = ((self.clock)(), by(peer));
        self.writer
            .write(move |batch| {
                batch.release(&request, at)?;
                batch.append(&Entry::Released { at, by, request }).map(drop)
            })
            .await?;
        self.reload().await?;
        tracing::warn!(alarm = true, %request, "the request is released");
        Ok(())
    }

    /// Lets the pins see what was written.
    pub(super) async fn reload(&self) -> Result<(), AdminError> {
        let (directory, pins) = (self.directory.clone(), self.pins.clone());
        let read = move || pins.reload(&Store::open_reader(&directory)?);
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| AdminError::Broken)??)
    }
}

/// The user, for the log.
pub(super) fn by(peer: Peer) -> Integer {
    Integer::saturating(peer.0.map_or(u64::from(u32::MAX), u64::from))
}
