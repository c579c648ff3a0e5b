//! One write transaction: what goes into it, and the log's head as it grows.

use assent_consensus::bundle::TransitionPair;
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::header::TrustedHeader;
use assent_consensus::json::{self, Integer};
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyTransition, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{RawSignature, VerificationKey};
use assent_consensus::time::UnixMillis;

use super::{Head, LimitReached, Store, StoreError, integer, sql};
use crate::audit::{Entry, next_head};
use crate::device::ObjectId;
use crate::device::yubihsm::log::LogMark;
use crate::life::Limits;
use crate::pins::KeyState;
use crate::signing::{Concluded, DutyId, KeyName, Order, Recorded};

/// A write transaction that is under way.
pub struct Batch<'s> {
    pub(super) store: &'s Store,
    head: Head,
    /// The keys whose uses are counted, once that was asked: so that it costs the others nothing.
    pub(super) counted: Option<Vec<(KeyName, KeyVersion, Limits)>>,
}

/// The signature of an order, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// When it was made.
    pub at: UnixMillis,
    /// What for.
    pub duty: DutyId,
    /// The intent's place in the log.
    pub intent: Head,
    /// Verified; of an ECDSA signature s is in its low half.
    pub signature: RawSignature,
}

/// An intent that is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    /// What is recorded.
    pub recorded: Recorded,
    /// How often the key was used with this, if this is a use of one whose uses are counted.
    pub used: Option<u64>,
}

/// A key pair that was generated, or taken over.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The device that holds it.
    pub device: Name,
    /// The key pair on the device.
    pub object: ObjectId,
    /// Its name.
    pub name: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// Its public half, and how it signs.
    pub public_key: VerificationKey,
    /// Whether it was on the device before, and was taken over.
    pub is_adopted: bool,
    /// When.
    pub created: UnixMillis,
}

impl Batch<'_> {
    pub(super) fn new(store: &Store, head: Head) -> Batch<'_> {
        Batch { store, head, counted: None }
    }

    /// The log's end, as far as this transaction is.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the file holds, this transaction's changes included.
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Puts an entry at the log's end; its number and the head after it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn append(&mut self, entry: &Entry) -> Result<Head, StoreError> {
        let bytes = json::write(entry);
        let head = Head { number: self.head.number + 1, digest: next_head(&self.head.digest, &bytes) };
        self.run(sql::APPEND, (integer(head.number), bytes, head.digest.as_bytes()))?;
        self.head = head;
        Ok(head)
    }

    /// Does `work` apart from what this transaction does besides: if it fails, nothing of it is left.
    ///
    /// # Errors
    /// [`StoreError`], if the whole transaction is lost.
    pub(super) fn apart<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<Result<T, StoreError>, StoreError> {
        let head = self.head;
        self.run(sql::SAVEPOINT, [])?;
        let result = work(self);
        if result.is_err() {
            (self.head, self.counted) = (head, None);
            self.run(sql::ROLLBACK_TO_SAVEPOINT, [])?;
        }
        self.run(sql::RELEASE_SAVEPOINT, [])?;
        Ok(result)
    }

    /// Records the intent to carry out an order, unless one is recorded for its duty; what is recorded. A use of a key is
    /// counted with its intent, and there is neither if the key has reached a limit.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn intend(
        &mut self,
        at: UnixMillis,
        order: Order,
    ) -> Result<Result<Intended, LimitReached>, StoreError> {
        let (duty, mut used) = (order.duty(), None);
        if let Some(limits) = self.counted(&order)?
            && self.store.duty(duty)?.is_none()
        {
            match self.use_key(&order, &limits, at)? {
                Ok(count) => used = Some(count),
                Err(reached) => return Ok(Err(reached)),
            }
        }
        let place = integer(self.head.number + 1);
        if self.change(sql::INSERT_DUTY, (duty.digest().as_bytes(), place))? == 0 {
            let missing = || self.store.damaged("an intent that is recorded cannot be found");
            return Ok(Ok(Intended { recorded: self.store.recorded(duty)?.ok_or_else(missing)?, used }));
        }
        let head = self.append(&Entry::intent(at, &order))?;
        Ok(Ok(Intended { recorded: Recorded { order, intent: head, result: None }, used }))
    }

    /// Records the signature of an order whose intent is recorded, unless one is; what is recorded.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn conclude(&mut self, conclusion: &Conclusion) -> Result<Concluded, StoreError> {
        let Conclusion { at, duty, intent, signature } = conclusion;
        let place = integer(self.head.number + 1);
        if self.change(sql::INSERT_RESULT, (duty.digest().as_bytes(), place))? == 0 {
            let missing = || self.store.damaged("an intent that was recorded is not there");
            let (_, result) = self.store.duty(*duty)?.ok_or_else(missing)?;
            return self.store.concluded(result.ok_or_else(missing)?);
        }
        let head = self.append(&Entry::Result {
            at: *at,
            intent: Integer::saturating(intent.number),
            signature: Bytes(signature.0.clone()),
        })?;
        Ok(Concluded { signature: signature.clone(), audit: head.digest })
    }

    /// Puts a key into the table.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn insert_key(&self, key: &NewKey) -> Result<(), StoreError> {
        let (kind, name) = key_columns(&key.name);
        let version = integer(key.version.0.get());
        let (algorithm, public_key) = (key.public_key.algorithm().as_str(), key.public_key.public_key());
        let state = KeyState::PreActivation.as_str();
        let columns = rusqlite::params![
            key.device.as_str(),
            key.object.as_bytes(),
            kind,
            name.as_str(),
            version,
            algorithm,
            public_key.as_bytes(),
            key.is_adopted,
            state,
            integer(key.created.get()),
        ];
        self.run(sql::INSERT_KEY, columns)
    }

    /// Removes a version of a key that was never in force, and the rotation that was to put it there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn remove_given_up(&self, name: &KeyName, version: KeyVersion) -> Result<(), StoreError> {
        let ((kind, name), version) = (key_columns(name), integer(version.0.get()));
        self.run(sql::REMOVE_UNSIGNED_TRANSITION, (kind, name.as_str(), version))?;
        self.run(sql::REMOVE_USES, (kind, name.as_str(), version))?;
        self.run(sql::REMOVE_KEY, (kind, name.as_str(), version))
    }

    /// Changes a key's state.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_key_state(
        &self,
        name: &KeyName,
        version: KeyVersion,
        state: KeyState,
        at: UnixMillis,
    ) -> Result<(), StoreError> {
        let ((kind, name), version) = (key_columns(name), integer(version.0.get()));
        self.run(sql::SET_KEY_STATE, (kind, name.as_str(), version, state.as_str(), integer(at.get())))
    }

    /// Activates a key, or pins it in a state of before: by whom it is governed, and the policy that decides on it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn activate_key(
        &self,
        name: &KeyName,
        version: KeyVersion,
        governed_by: Option<&Name>,
        policy: &Digest,
        (state, at): (KeyState, UnixMillis),
    ) -> Result<(), StoreError> {
        let (state, governor) = (state.as_str(), governed_by.map(Name::as_str));
        let ((kind, name), version, at) = (key_columns(name), integer(version.0.get()), integer(at.get()));
        let name = name.as_str();
        self.run(sql::ACTIVATE_KEY, (kind, name, version, state, governor, policy.as_bytes(), at))
    }

    /// Says when a version of a key will be in force.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_activation(
        &self,
        name: &KeyName,
        version: KeyVersion,
        at: UnixMillis,
    ) -> Result<(), StoreError> {
        let ((kind, name), version) = (key_columns(name), integer(version.0.get()));
        self.run(sql::SET_ACTIVATION, (kind, name.as_str(), version, integer(at.get())))
    }

    /// Puts an approved rotation into the file, before it is signed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn insert_transition(
        &self,
        request: RequestId,
        name: &KeyName,
        says: &KeyTransition,
    ) -> Result<(), StoreError> {
        let ((kind, name), version) = (key_columns(name), integer(says.version.0.get()));
        let columns = (request.0.as_bytes(), kind, name.as_str(), version, json::write(says));
        self.run(sql::INSERT_TRANSITION, columns)
    }

    /// Puts the two messages of a rotation beside it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn complete_transition(&self, request: RequestId, pair: &TransitionPair) -> Result<(), StoreError> {
        self.run(sql::COMPLETE_TRANSITION, (request.0.as_bytes(), pair.first.as_str(), pair.new.as_str()))
    }

    /// Puts genesis into the file, where there is none.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn insert_genesis(&self, bytes: &[u8], at: UnixMillis) -> Result<(), StoreError> {
        self.run(sql::INSERT_GENESIS, (bytes, integer(at.get())))
    }

    /// Keeps a trusted header, if it is later than the one before.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn put_trusted(&self, chain: &Name, trusted: &TrustedHeader) -> Result<(), StoreError> {
        self.run(sql::PUT_TRUSTED, (chain.as_str(), integer(trusted.height.get()), trusted.id.as_bytes()))
    }

    /// Suspends a voter.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn suspend_voter(&self, voter: &Thumbprint, at: UnixMillis) -> Result<(), StoreError> {
        self.run(sql::SUSPEND_VOTER, (voter.as_bytes(), integer(at.get())))
    }

    /// Releases a request.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn release(&self, request: &RequestId, at: UnixMillis) -> Result<(), StoreError> {
        self.run(sql::RELEASE, (request.0.as_bytes(), integer(at.get())))
    }

    /// Says that this file was put back: see [`Store::fence`].
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn put_fence(&self, at: UnixMillis) -> Result<(), StoreError> {
        self.run(sql::PUT_FENCE, [integer(at.get())])
    }

    /// Says how far a device's own log was read: entry `number` of the audit log says what it brought.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_device_log(
        &self,
        device: &Name,
        serial: &str,
        number: u64,
        mark: LogMark,
    ) -> Result<(), StoreError> {
        self.run(sql::PUT_DEVICE_LOG, (device.as_str(), serial, integer(number), mark.item, mark.digest))
    }

    /// Says which epoch is being put on the token.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_pending(&self, epoch: u64) -> Result<(), StoreError> {
        self.run(sql::SET_PENDING, [integer(epoch)])
    }

    /// Says that a device was not there when the epoch was advanced from this one; what was said before stays.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_behind(&self, device: &Name, epoch: u64) -> Result<(), StoreError> {
        self.run(sql::SET_BEHIND, (device.as_str(), integer(epoch)))
    }

    /// Says that a device has the database's epoch.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_abreast(&self, device: &Name) -> Result<(), StoreError> {
        self.run(sql::SET_ABREAST, [device.as_str()])
    }

    /// Says that an epoch is on the token.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        self.run(sql::SET_EPOCH, [integer(epoch)])
    }

    pub(super) fn run(&self, query: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        self.change(query, params).map(drop)
    }

    /// How many rows it changed.
    fn change(&self, query: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.store.sql(self.store.statement(query)?.execute(params))
    }
}

impl Store {
    /// What the log says of a duty.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn recorded(&self, duty: DutyId) -> Result<Option<Recorded>, StoreError> {
        let Some((intent, result)) = self.duty(duty)? else { return Ok(None) };
        let (entry, head) = self.entry(intent)?;
        let order = entry.into_order();
        let order = order.filter(|order| order.duty() == duty).ok_or_else(|| {
            self.damaged(format!("entry {intent} of the audit log is not the intent of its duty"))
        })?;
        let result = result.map(|number| self.concluded(number)).transpose()?;
        Ok(Some(Recorded { order, intent: Head { number: intent, digest: head }, result }))
    }

    fn concluded(&self, number: u64) -> Result<Concluded, StoreError> {
        let (entry, audit) = self.entry(number)?;
        let signature = entry
            .signature()
            .ok_or_else(|| self.damaged(format!("entry {number} of the audit log is not a result")))?;
        Ok(Concluded { signature, audit })
    }
}

pub(super) fn key_columns(name: &KeyName) -> (&'static str, &Name) {
    match name {
        KeyName::Contract(name) => ("contract", name),
        KeyName::Operational(name) => ("key", name),
    }
}
