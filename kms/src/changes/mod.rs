//! Approved changes: what a decision on `rotate-key`, `destroy-key` or `change-policy` becomes. Each step is on disk before
//! the next, and one that was cut short goes on where it stopped when its duty comes again.

mod destruction;
mod policy;
mod rotation;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use assent_consensus::artifact::ToSign;
use assent_consensus::digest::Digest;
use assent_consensus::encoding;
use assent_consensus::genesis::Genesis;
use assent_consensus::jws::{Jws, Payload, Unsigned};
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::policy::Policy;
use assent_consensus::standing::Standing;
use assent_consensus::time::{Millis, UnixMillis};

use crate::audit::{Entry, LoggedKey};
use crate::device::{DeviceError, Devices};
use crate::pins::{KeyState, Pins};
use crate::signing::{Clock, DutyId, KeyName, Order, Purpose, Signing, SigningError};
use crate::store::{Batch, KeyRow, Store, StoreError, Writer};

pub use destruction::Destruction;
pub use policy::PolicyChange;
pub use rotation::{Rotated, Rotation};

/// How long before it comes into force a new version or policy is made known, so that the logs know of it when it is first
/// used.
const LEAD: Millis = Millis::from_secs(5);
/// How long before it lapses a change is begun at the latest, so that the logs can record it: what the KMS goes by and the
/// logs do not is of no use to anybody.
const MARGIN: Millis = Millis::from_secs(10 * 60);

/// What something is changed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// The request that approved it.
    pub request: RequestId,
    /// The governing contract.
    pub governor: Name,
    /// The version of its key that signed the decision.
    pub governor_version: KeyVersion,
    /// The digest of the decision.
    pub decision: Digest,
    /// When it was decided.
    pub decided: UnixMillis,
    /// Until when it may be done.
    pub act_by: UnixMillis,
}

/// A change that was done by a statement of the governing contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The statement.
    pub change: Jws,
    /// The head of the audit log after its signature.
    pub audit: Digest,
}

/// Changes keys and policies, one at a time.
pub struct ApprovedChanges {
    pins: Pins,
    signing: Arc<Signing>,
    writer: Arc<Writer>,
    devices: Arc<Devices>,
    directory: PathBuf,
    clock: Clock,
    turn: tokio::sync::Mutex<()>,
    reader: Mutex<Store>,
}

impl ApprovedChanges {
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
    ) -> Result<ApprovedChanges, StoreError> {
        let reader = Mutex::new(Store::open_reader(&directory)?);
        let turn = tokio::sync::Mutex::new(());
        Ok(ApprovedChanges { pins, signing, writer, devices, directory, clock, turn, reader })
    }

    fn genesis(&self) -> Result<Arc<Genesis>, SigningError> {
        self.pins.genesis().ok_or(SigningError::Busy)
    }

    /// How long a version of a key may be needed for what it has begun, by every policy that is known, be it signed or not.
    fn overlap(
        &self,
        genesis: &Genesis,
        mandate: &Mandate,
        key: &KeyName,
        grace: Millis,
    ) -> Result<Millis, SigningError> {
        let standing = Standing::new(genesis, self.pins.successions());
        let longest = |contract: &Name, duration: fn(&Policy) -> Millis| {
            let known = standing.longest(genesis.contract(contract)?, UnixMillis::new(u64::MAX), duration);
            let awaited = self.pins.awaited_policy(contract);
            Some(awaited.map_or(known, |awaited| known.max(duration(&awaited.policy))))
        };
        let asks = match key {
            KeyName::Contract(name) => name,
            KeyName::Operational(_) => &mandate.governor,
        };
        let longest = longest(asks, Policy::deadline).zip(longest(&mandate.governor, Policy::act_within));
        let (deadline, act_within) = longest.ok_or(SigningError::Busy)?;
        let overlap = deadline.get().saturating_add(act_within.get());
        Ok(Millis::new(overlap.saturating_add(grace.get())))
    }

    /// A message, and the head of the audit log after it.
    async fn sign<P: Payload>(
        &self,
        purpose: Purpose,
        request: RequestId,
        (key, version): (KeyName, KeyVersion),
        says: P,
    ) -> Result<(Jws, Digest), SigningError> {
        let row = self.pins.key_row(&key, version);
        let row = row.ok_or_else(|| SigningError::UnknownKey { key: key.clone(), version })?;
        let unsigned = Unsigned::new(row.public_key.thumbprint(), says);
        let to_sign = ToSign::Message(unsigned.signing_input().to_vec());
        let signed = self.signing.sign(Order { purpose, request, key, version, to_sign }).await?;
        let signature = encoding::encode(&signed.signature.0);
        let compact = [unsigned.signing_input(), b".", signature.as_bytes()].concat();
        let message = Jws::parse(&compact).map_err(|error| SigningError::DeviceFailed(error.to_string()))?;
        Ok((message, signed.audit))
    }

    /// Refuses to begin what was ordered to be signed before: nothing else is ever signed for that duty.
    fn check_not_ordered(&self, purpose: Purpose, request: RequestId) -> Result<(), SigningError> {
        match self.signing.ordered(DutyId::of(purpose, request))? {
            None => Ok(()),
            Some(_) => Err(SigningError::Conflict { purpose, request }),
        }
    }

    async fn destroy_on_device(&self, row: &KeyRow) -> Result<(), SigningError> {
        let object = row.object;
        match self.devices.get(&row.device)?.run(move |device| device.destroy(object)).await {
            // One that was cut short got so far.
            Ok(()) | Err(DeviceError::NoKey(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn reload(&self) -> Result<(), SigningError> {
        let (directory, pins) = (self.directory.clone(), self.pins.clone());
        let read = move || pins.reload(&Store::open_reader(&directory)?);
        let read = tokio::task::spawn_blocking(read).await;
        Ok(read.map_err(|_| SigningError::AuditFailed("the reading of the keys broke off".into()))??)
    }
}

impl Mandate {
    /// Refuses to begin what would lapse before the logs have it, if the node is away for a while. Where there is little time
    /// for all of it, a quarter of it must be left.
    fn check_in_time(&self, now: UnixMillis) -> Result<(), SigningError> {
        let whole = self.act_by.get().saturating_sub(self.decided.get());
        let margin = MARGIN.get().min(whole / 4);
        match now.get().saturating_add(margin) < self.act_by.get() {
            true => Ok(()),
            false => Err(SigningError::Lapsing { request: self.request, act_by: self.act_by }),
        }
    }

    /// The governing contract's key in the version that approved.
    fn key(&self) -> (KeyName, KeyVersion) {
        (KeyName::Contract(self.governor.clone()), self.governor_version)
    }
}

/// Puts a key into another state, in the table and in the log.
fn set_state(
    batch: &mut Batch<'_>,
    at: UnixMillis,
    (name, version): (&KeyName, KeyVersion),
    (from, to): (KeyState, KeyState),
    why: &str,
) -> Result<(), StoreError> {
    batch.set_key_state(name, version, to, at)?;
    log_state(batch, at, (name, version), (from, to), why)
}

fn log_state(
    batch: &mut Batch<'_>,
    at: UnixMillis,
    (name, version): (&KeyName, KeyVersion),
    (from, to): (KeyState, KeyState),
    why: &str,
) -> Result<(), StoreError> {
    let key = LoggedKey::new(name, version);
    let (from, to, why) = (from.to_string(), to.to_string(), why.to_owned());
    batch.append(&Entry::KeyState { at, by: None, key, from, to, why }).map(drop)
}
