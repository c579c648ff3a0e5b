//! Rotation: what an approved `rotate-key` becomes. Each step is on disk before the next, and one that was cut short goes on
//! where it stopped when its duty comes again.
//!
//! ```text
//! approval ─▶ next version generated ─▶ what the transition says, with its times, on disk
//!    ─▶ first: signed by the governing contract's key ─▶ new: signed by the new key ─▶ both on disk, the version in force
//! ```
//!
//! From the moment at which the new version activates nothing is begun with the old one, also while the two signatures are
//! still missing: the duty is told to come again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use assent_consensus::artifact::ToSign;
use assent_consensus::bundle::TransitionPair;
use assent_consensus::digest::Digest;
use assent_consensus::encoding;
use assent_consensus::genesis::Genesis;
use assent_consensus::jws::{Jws, Unsigned};
use assent_consensus::message::{KeyTransition, KeyVersion, RequestId, TransitionReason};
use assent_consensus::name::Name;
use assent_consensus::operational_key::KeyKind;
use assent_consensus::time::{Millis, UnixMillis};
use assent_consensus::transition::key_of;

use crate::audit::{Entry, LoggedKey};
use crate::device::Devices;
use crate::generation::{GenerationError, KeyToGenerate};
use crate::pins::{KeyState, Pins};
use crate::signing::{Clock, KeyName, Order, Purpose, Signing, SigningError};
use crate::store::{Batch, KeyRow, Store, StoreError, Writer};

/// How long before it activates a new version is made known, so that the logs know of it when it is first used.
const LEAD: Millis = Millis::from_secs(5);

/// An approved rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The request that approved it.
    pub request: RequestId,
    /// The key.
    pub key: KeyName,
    /// Why.
    pub reason: TransitionReason,
    /// The governing contract.
    pub governor: Name,
    /// The version of its key that signed the decision.
    pub governor_version: KeyVersion,
    /// The digest of the decision.
    pub decision: Digest,
    /// When it was decided.
    pub decided: UnixMillis,
    /// How long the old version may be needed for what it has begun.
    pub overlap: Millis,
}

/// A rotation that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The two messages.
    pub transition: TransitionPair,
    /// The head of the audit log after the second signature.
    pub audit: Digest,
}

/// Does rotations, one at a time.
pub struct Rotations {
    pins: Pins,
    signing: Arc<Signing>,
    writer: Arc<Writer>,
    devices: Arc<Devices>,
    directory: PathBuf,
    clock: Clock,
    turn: tokio::sync::Mutex<()>,
    reader: Mutex<Store>,
}

impl Rotations {
    /// A service of these parts; the database is in `directory`.
    ///
    /// # Errors
    /// [`StoreError`], if it cannot be read.
    pub fn new(
        pins: Pins,
        signing: Arc<Signing>,
        writer: Arc<Writer>,
        devices: Arc<Devices>,
        directory: PathBuf,
        clock: Clock,
    ) -> Result<Rotations, StoreError> {
        let reader = Mutex::new(Store::open_reader(&directory)?);
        let turn = tokio::sync::Mutex::new(());
        Ok(Rotations { pins, signing, writer, devices, directory, clock, turn, reader })
    }

    /// Makes the next version of a key; once for a request, the same again gives the same messages.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn rotate(&self, rotation: Rotation) -> Result<Rotated, SigningError> {
        let _turn = self.turn.lock().await;
        let genesis = self.pins.genesis().ok_or(SigningError::Busy)?;
        let says = match self.recorded(rotation.request)? {
            Some(says) if key_of(&says).as_ref() == Ok(&rotation.key) => says,
            Some(_) => {
                return Err(SigningError::Conflict { purpose: Purpose::Action, request: rotation.request });
            }
            None => self.begin(&genesis, &rotation).await?,
        };
        let governor = KeyName::Contract(rotation.governor.clone());
        let (first, _) = self
            .sign(Purpose::TransitionFirst, rotation.request, governor, rotation.governor_version, &says)
            .await?;
        let (new, audit) = self
            .sign(Purpose::TransitionNew, rotation.request, rotation.key.clone(), says.version, &says)
            .await?;
        let transition = TransitionPair { first, new };
        self.finish(&genesis, &rotation, says, transition.clone()).await?;
        Ok(Rotated { transition, audit })
    }

    /// What the transition for a request says, once its times are fixed.
    fn recorded(&self, request: RequestId) -> Result<Option<KeyTransition>, SigningError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(reader.transition_by(request)?)
    }

    /// Generates the next version, unless that was done before, and writes down what the transition says.
    async fn begin(&self, genesis: &Genesis, rotation: &Rotation) -> Result<KeyTransition, SigningError> {
        let key = &rotation.key;
        let unknown = |version| SigningError::UnknownKey { key: key.clone(), version };
        let rows = || self.pins.keys().into_iter().filter(|row| row.name == *key);
        let old = rows().rfind(|row| row.activated.is_some()).ok_or_else(|| unknown(KeyVersion::first()))?;
        if old.state == KeyState::PreActivation {
            // Another rotation of this key is under way.
            return Err(SigningError::Busy);
        }
        let version = old.version.next();
        let is_made = |row: &KeyRow| row.version == version && row.state == KeyState::PreActivation;
        if !rows().any(|row| is_made(&row)) {
            self.generate(&old, version).await?;
        }
        let new = rows().find(is_made).ok_or_else(|| unknown(version))?;
        let to = new.public_key.public_key().as_p256().ok_or_else(|| unknown(version))?.clone();

        let now = (self.clock)();
        let lead = match rotation.reason {
            TransitionReason::Rotation => LEAD,
            TransitionReason::Compromise => Millis::new(0),
        };
        let activates = now.after(lead).max(rotation.decided).max(after(old.activated));
        let (contract, operational) = match key {
            KeyName::Contract(name) => (Some(name.clone()), None),
            KeyName::Operational(name) => (None, Some(name.clone())),
        };
        let says = KeyTransition {
            deployment: genesis.id(),
            contract,
            key: operational,
            version,
            from: old.public_key.thumbprint(),
            to,
            reason: rotation.reason,
            activates,
            old_retires: activates.after(rotation.overlap),
            decision: rotation.decision,
        };
        let (row, name) = (says.clone(), key.clone());
        let request = rotation.request;
        let written = self.writer.write(move |batch| {
            batch.insert_transition(request, &name, &row)?;
            batch.set_activation(&name, row.version, row.activates)
        });
        written.await?;
        self.reload().await?;
        Ok(says)
    }

    async fn generate(&self, old: &KeyRow, version: KeyVersion) -> Result<(), SigningError> {
        let key = KeyToGenerate {
            name: old.name.clone(),
            version,
            device: old.device.clone(),
            algorithm: old.public_key.algorithm(),
            kind: KeyKind::P256,
            by: None,
        };
        match key.generate(&self.devices, &self.writer, (self.clock)()).await {
            Ok(()) => self.reload().await,
            Err(GenerationError::Device(error)) => Err(error.into()),
            Err(GenerationError::Store(error)) => Err(error.into()),
            Err(GenerationError::Algorithm(error)) => Err(SigningError::DeviceFailed(error.to_string())),
        }
    }

    /// One of the two messages, and the head of the audit log after it.
    async fn sign(
        &self,
        purpose: Purpose,
        request: RequestId,
        key: KeyName,
        version: KeyVersion,
        says: &KeyTransition,
    ) -> Result<(Jws, Digest), SigningError> {
        let row = self.pins.key_row(&key, version);
        let row = row.ok_or_else(|| SigningError::UnknownKey { key: key.clone(), version })?;
        let unsigned = Unsigned::new(row.public_key.thumbprint(), says.clone());
        let to_sign = ToSign::Message(unsigned.signing_input().to_vec());
        let signed = self.signing.sign(Order { purpose, request, key, version, to_sign }).await?;
        let signature = encoding::encode(&signed.signature.0);
        let compact = [unsigned.signing_input(), b".", signature.as_bytes()].concat();
        let message = Jws::parse(&compact).map_err(|error| SigningError::DeviceFailed(error.to_string()))?;
        Ok((message, signed.audit))
    }

    /// Puts the new version into force.
    async fn finish(
        &self,
        genesis: &Genesis,
        rotation: &Rotation,
        says: KeyTransition,
        pair: TransitionPair,
    ) -> Result<(), SigningError> {
        let is_done = self.pins.key_row(&rotation.key, says.version);
        if is_done.is_some_and(|row| row.state != KeyState::PreActivation) {
            return Ok(());
        }
        let policy = genesis.contract(&rotation.governor).map(|contract| contract.policy.digest());
        let policy = policy.ok_or(SigningError::Busy)?;
        let (name, request, at) = (rotation.key.clone(), rotation.request, (self.clock)());
        let governed_by = match &name {
            KeyName::Contract(name) if *name == rotation.governor => None,
            _ => Some(rotation.governor.clone()),
        };
        let old =
            self.pins.keys().into_iter().find(|row| row.name == name && row.version.next() == says.version);
        let why = format!("the decision `{}`", rotation.decision);
        let written = self.writer.write(move |batch| {
            batch.complete_transition(request, &pair)?;
            batch.activate_key(&name, says.version, governed_by.as_ref(), &policy, says.activates)?;
            log_state(batch, at, &name, says.version, KeyState::PreActivation, KeyState::Active, &why)?;
            match old {
                Some(old)
                    if says.reason == TransitionReason::Compromise
                        && old.state.may_become(KeyState::Compromised) =>
                {
                    batch.set_key_state(&name, old.version, KeyState::Compromised, at)?;
                    log_state(batch, at, &name, old.version, old.state, KeyState::Compromised, &why)
                }
                _ => Ok(()),
            }
        });
        written.await?;
        self.reload().await?;
        tracing::info!(key = %rotation.key, "a new version of the key is in force");
        Ok(())
    }

    async fn reload(&self) -> Result<(), SigningError> {
        let (directory, pins) = (self.directory.clone(), self.pins.clone());
        let read = move || pins.reload(&Store::open_reader(&directory)?);
        let read = tokio::task::spawn_blocking(read).await;
        Ok(read.map_err(|_| SigningError::AuditFailed("the reading of the keys broke off".into()))??)
    }
}

/// The first moment after a version became active, at which another one may.
fn after(activated: Option<UnixMillis>) -> UnixMillis {
    activated.map_or(UnixMillis::new(0), |activated| activated.after(Millis::new(1)))
}

fn log_state(
    batch: &mut Batch<'_>,
    at: UnixMillis,
    name: &KeyName,
    version: KeyVersion,
    from: KeyState,
    to: KeyState,
    why: &str,
) -> Result<(), StoreError> {
    let key = LoggedKey::new(name, version);
    let entry = Entry::KeyState {
        at,
        by: None,
        key,
        from: from.to_string(),
        to: to.to_string(),
        why: why.to_owned(),
    };
    batch.append(&entry).map(drop)
}

#[cfg(test)]
mod tests;
