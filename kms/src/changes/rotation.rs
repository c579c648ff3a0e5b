//! Rotation: what an approved `rotate-key` becomes.
//!
//! ```text
//! approval ─▶ next version generated ─▶ what the transition says, with its times, on disk
//!    ─▶ first: signed by the governing contract's key ─▶ new: signed by the new key ─▶ both on disk, the version in force
//! ```
//!
//! From the moment at which the new version activates nothing is begun with the old one, also while the two signatures are
//! still missing: the duty is told to come again. If the new version is not to be trusted before both are there, it is given
//! up: the old one stays in force, and the next approved rotation makes another key of that number.

use std::sync::PoisonError;

use assent_consensus::bundle::TransitionPair;
use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::message::{KeyTransition, KeyVersion, RequestId, TransitionReason};
use assent_consensus::operational_key::KeyKind;
use assent_consensus::standing::Standing;
use assent_consensus::time::{Millis, UnixMillis};
use assent_consensus::transition::key_of;

use super::{ApprovedChanges, LEAD, Mandate, log_state, set_state};
use crate::audit::{Entry, LoggedKey};
use crate::generation::{GenerationError, KeyToGenerate};
use crate::pins::KeyState;
use crate::signing::{KeyName, Purpose, SigningError};
use crate::store::KeyRow;

/// An approved rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// What approved it.
    pub mandate: Mandate,
    /// The key.
    pub key: KeyName,
    /// Why.
    pub reason: TransitionReason,
    /// How long after its deadline a request may be decided.
    pub grace: Millis,
}

/// A rotation that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The two messages.
    pub transition: TransitionPair,
    /// The head of the audit log after the second signature.
    pub audit: Digest,
}

impl ApprovedChanges {
    /// Makes the next version of a key; once for a request, the same again gives the same messages.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn rotate(&self, rotation: Rotation) -> Result<Rotated, SigningError> {
        let _turn = self.turn.lock().await;
        let genesis = self.genesis()?;
        let request = rotation.mandate.request;
        let says = match self.recorded(request)? {
            Some(says) if key_of(&says).as_ref() == Ok(&rotation.key) => says,
            Some(_) => {
                return Err(SigningError::Conflict { purpose: Purpose::Action, request });
            }
            None => {
                // A signature may be there for a version that was given up since.
                self.check_not_ordered(Purpose::TransitionFirst, request)?;
                self.begin(&genesis, &rotation).await?
            }
        };
        let governor = rotation.mandate.key();
        let (first, _) = self.sign(Purpose::TransitionFirst, request, governor, says.clone()).await?;
        let key = (rotation.key.clone(), says.version);
        let (new, audit) = self.sign(Purpose::TransitionNew, request, key, says.clone()).await?;
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
        rotation.mandate.check_in_time((self.clock)())?;
        let key = &rotation.key;
        let unknown = |version| SigningError::UnknownKey { key: key.clone(), version };
        let rows = || self.pins.keys().into_iter().filter(|row| row.name == *key);
        let is_counted = |row: &KeyRow| row.activated.is_some() && !self.pins.is_given_up(row);
        let old = rows().rfind(is_counted).ok_or_else(|| unknown(KeyVersion::first()))?;
        match self.pins.state_at(&old, (self.clock)()) {
            // Its activation date is still to come.
            state @ KeyState::PreActivation if old.version.is_first() => {
                return Err(SigningError::KeyNotActive { key: key.clone(), version: old.version, state });
            }
            // Another rotation of this key is under way.
            KeyState::PreActivation => return Err(SigningError::Busy),
            _ => {}
        }
        // What is signed with the version before until then would be of no worth after a compromise that overtakes it.
        if old.activated.is_some_and(|activated| (self.clock)() < activated) {
            return Err(SigningError::Busy);
        }
        let version = old.version.next();
        let is_made = |row: &KeyRow| row.version == version && row.state == KeyState::PreActivation;
        if !rows().any(|row| is_made(&row)) {
            if let Some(given_up) = rows().find(|row| row.version == version) {
                self.clear(given_up).await?;
            }
            self.generate(&old, version).await?;
        }
        let new = rows().find(is_made).ok_or_else(|| unknown(version))?;
        let to = new.public_key.public_key().as_p256().ok_or_else(|| unknown(version))?.clone();

        let now = (self.clock)();
        let lead = match rotation.reason {
            TransitionReason::Rotation => LEAD,
            TransitionReason::Compromise => Millis::new(0),
        };
        let activates = now.after(lead).max(rotation.mandate.decided).max(after(old.activated));
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
            old_retires: activates.after(self.overlap(genesis, &rotation.mandate, key, rotation.grace)?),
            decision: rotation.mandate.decision,
        };
        let (row, name) = (says.clone(), key.clone());
        let request = rotation.mandate.request;
        let written = self.writer.write(move |batch| {
            batch.insert_transition(request, &name, &row)?;
            batch.set_activation(&name, row.version, row.activates)
        });
        written.await?;
        self.reload().await?;
        Ok(says)
    }

    /// Takes a version that was given up off its device and out of the table, so that another key can have its number.
    async fn clear(&self, given_up: KeyRow) -> Result<(), SigningError> {
        self.destroy_on_device(&given_up).await?;
        let (at, name, version) = ((self.clock)(), given_up.name, given_up.version);
        tracing::warn!(key = %name, %version, "the key that was given up is gone");
        let written = self.writer.write(move |batch| {
            batch.remove_given_up(&name, version)?;
            batch.append(&Entry::KeyRemoved { at, key: LoggedKey::new(&name, version) }).map(drop)
        });
        written.await?;
        self.reload().await
    }

    async fn generate(&self, old: &KeyRow, version: KeyVersion) -> Result<(), SigningError> {
        let key = KeyToGenerate {
            name: old.name.clone(),
            version,
            device: old.device.clone(),
            algorithm: old.public_key.algorithm(),
            kind: KeyKind::P256,
            limits: old.limits.of_next_version(),
            by: None,
        };
        match key.generate(&self.devices, &self.writer, (self.clock)()).await {
            Ok(()) => self.reload().await,
            Err(GenerationError::Device(error)) => Err(error.into()),
            Err(GenerationError::Store(error)) => Err(error.into()),
            Err(GenerationError::Algorithm(error)) => Err(SigningError::DeviceFailed(error.to_string())),
        }
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
        let standing = Standing::new(genesis, self.pins.successions());
        let governor = genesis.contract(&rotation.mandate.governor).ok_or(SigningError::Busy)?;
        let policy = standing.last_policy(governor);
        let (name, request, at) = (rotation.key.clone(), rotation.mandate.request, (self.clock)());
        let governed_by = match &name {
            KeyName::Contract(name) if *name == rotation.mandate.governor => None,
            _ => Some(rotation.mandate.governor.clone()),
        };
        let old =
            self.pins.keys().into_iter().find(|row| row.name == name && row.version.next() == says.version);
        let why = format!("the decision `{}`", rotation.mandate.decision);
        let written = self.writer.write(move |batch| {
            batch.complete_transition(request, &pair)?;
            let active = (KeyState::Active, says.activates);
            batch.activate_key(&name, says.version, governed_by.as_ref(), &policy, active)?;
            let activated = (KeyState::PreActivation, KeyState::Active);
            log_state(batch, at, (&name, says.version), activated, &why)?;
            match old {
                Some(old)
                    if says.reason == TransitionReason::Compromise
                        && old.state.may_become(KeyState::Compromised) =>
                {
                    let compromised = (old.state, KeyState::Compromised);
                    set_state(batch, at, (&name, old.version), compromised, &why)
                }
                _ => Ok(()),
            }
        });
        written.await?;
        self.reload().await?;
        tracing::info!(key = %rotation.key, "a new version of the key is in force");
        Ok(())
    }
}

/// The first moment after a version became active, at which another one may.
fn after(activated: Option<UnixMillis>) -> UnixMillis {
    activated.map_or(UnixMillis::new(0), |activated| activated.after(Millis::new(1)))
}
