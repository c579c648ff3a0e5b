//! The one way to a signature: the intent with its exact bytes on disk, then the device, then the signature verified, then
//! the answer (invariants I3 and I11).
//!
//! ```text
//! order ─▶ intent on disk ─▶ device ─▶ verified ─▶ result on disk ─▶ an artifact's signature is released
//!                                          └─▶ a message is released;  its result is written with the next intents
//! ```
//!
//! An artifact's signature is on disk before it leaves, so that no power cut makes a second one. A message is the same
//! whatever its signature, so that one whose result was lost with the power is made again of the same bytes, which is all
//! that its intent allows: to wait for the disk a second time would keep nothing from happening. ARCHITECTURE section 9 has
//! the argument in full.

mod error;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use assent_consensus::artifact::ToSign;
use assent_consensus::digest::{Digest, Tuple};
use assent_consensus::json::Integer;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::operational_key::RawSignature;
pub use assent_consensus::standing::KeyName;
use assent_consensus::time::UnixMillis;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::audit::{Entry, LoggedKey, shortened};
use crate::device::{DeviceError, Devices};
use crate::life;
use crate::pins::{KeyState, Pins};
use crate::recent::Recent;
use crate::reload::InForce;
use crate::store::{Batch, Conclusion, Head, Intended, KeyRow, Store, StoreError, Writer};
use crate::tally::Tally;

pub use error::SigningError;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A contract asks its voters.
    VoteRequest,
    /// A contract says what was decided.
    Decision,
    /// An operational key does what was approved.
    Action,
    /// The governing contract says which key follows another.
    TransitionFirst,
    /// The new key says the same.
    TransitionNew,
    /// The governing contract says what it changed.
    Change,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Purpose; 6] = [
        Purpose::VoteRequest,
        Purpose::Decision,
        Purpose::Action,
        Purpose::TransitionFirst,
        Purpose::TransitionNew,
        Purpose::Change,
    ];

    /// Whether it begins something: a contract's request, or what an operational key signs. All else finishes what was
    /// begun, or is the first word of a new key.
    pub const fn begins(self) -> bool {
        matches!(self, Purpose::VoteRequest | Purpose::Action)
    }

    /// Whether a signature is on disk before it is released.
    const fn awaits_result(self) -> bool {
        match self {
            Purpose::VoteRequest | Purpose::Decision => false,
            Purpose::Action | Purpose::TransitionFirst | Purpose::TransitionNew | Purpose::Change => true,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::VoteRequest => "vote-request",
            Purpose::Decision => "decision",
            Purpose::Action => "action",
            Purpose::TransitionFirst => "transition-first",
            Purpose::TransitionNew => "transition-new",
            Purpose::Change => "change",
        }
    }
}

/// Names a duty: there is at most one signature for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DutyId(Digest);

impl DutyId {
    /// H(`assent-duty-v1`, purpose, request).
    pub fn of(purpose: Purpose, request: RequestId) -> DutyId {
        DutyId(Tuple::new("assent-duty-v1").text(purpose.as_str()).digest(&request.0).hash())
    }

    /// The digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

/// One signature that was verified to be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What for.
    pub purpose: Purpose,
    /// The request that it serves.
    pub request: RequestId,
    /// The key.
    pub key: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// What is signed.
    pub to_sign: ToSign,
}

impl Order {
    /// The duty.
    pub fn duty(&self) -> DutyId {
        DutyId::of(self.purpose, self.request)
    }

    /// This order with what is on disk of its signature.
    fn concluded(self, intent: Head, concluded: Concluded) -> SignedOrder {
        let Concluded { signature, audit } = concluded;
        let audit = if self.purpose.awaits_result() { audit } else { intent.digest };
        SignedOrder { order: self, signature, audit }
    }
}

/// An order and the one signature that is ever released for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOrder {
    /// The order.
    pub order: Order,
    /// Verified; of an ECDSA signature s is in its low half.
    pub signature: RawSignature,
    /// A head of the audit log that is on disk: for an artifact after the entry with the signature, for a message after its
    /// intent.
    pub audit: Digest,
}

/// What is on disk about a duty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The intent: nothing else is ever signed for this duty.
    pub order: Order,
    /// The intent's place in the log.
    pub intent: Head,
    /// The signature, if it was made.
    pub result: Option<Concluded>,
}

/// A signature on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concluded {
    /// Of an ECDSA signature s is in its low half.
    pub signature: RawSignature,
    /// The head of the audit log after its entry.
    pub audit: Digest,
}

/// The signing service.
pub struct Signing {
    pins: Pins,
    writer: Arc<Writer>,
    devices: Arc<Devices>,
    /// For questions only; one at a time, each a few page reads.
    reader: Mutex<Store>,
    /// Orders whose intents are on disk.
    orders: Recent<DutyId, Arc<Order>>,
    /// So that no duty is signed twice at once.
    turns: Turns,
    /// Refusals that are in the log.
    refusals: Recent<Digest, ()>,
    clock: Clock,
    signatures: AtomicU64,
    by_purpose: Tally<Purpose>,
    epoch: Option<EpochBell>,
}

/// Rings when enough was signed that the epoch is to be advanced.
pub struct EpochBell {
    /// How many signatures lie between two times.
    pub settings: InForce,
    /// Where it rings; a time that nobody listened is made up for by the next.
    pub bell: tokio::sync::mpsc::Sender<()>,
}

/// The time, in milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

impl Signing {
    /// A service over one file and its devices.
    pub fn new(
        pins: Pins,
        writer: Arc<Writer>,
        reader: Store,
        devices: Arc<Devices>,
        clock: Clock,
    ) -> Signing {
        Signing {
            pins,
            writer,
            devices,
            reader: Mutex::new(reader),
            orders: Recent::new(ORDERS_REMEMBERED),
            turns: Turns::default(),
            refusals: Recent::new(REFUSALS_REMEMBERED),
            clock,
            signatures: AtomicU64::new(0),
            by_purpose: Tally::default(),
            epoch: None,
        }
    }

    /// The same service with a bell for the epoch.
    #[must_use]
    pub fn with_epoch_bell(self, bell: EpochBell) -> Signing {
        Signing { epoch: Some(bell), ..self }
    }

    /// What is on disk to be signed for a duty.
    ///
    /// # Errors
    /// [`SigningError::AuditFailed`], if it cannot be read.
    pub fn ordered(&self, duty: DutyId) -> Result<Option<Arc<Order>>, SigningError> {
        if let Some(order) = self.orders.get(&duty) {
            return Ok(Some(order));
        }
        let recorded = self.reader.lock().unwrap_or_else(PoisonError::into_inner).recorded(duty)?;
        Ok(recorded.map(|recorded| Arc::new(recorded.order)))
    }

    /// Signs, once for a duty: the same order again gives the same signature, another one for the same duty is refused.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn sign(&self, order: Order) -> Result<SignedOrder, SigningError> {
        let duty = order.duty();
        let turn = Turn::take(&self.turns, duty).await;
        self.usable_key(&order)?;
        let (at, intended) = ((self.clock)(), order.clone());
        let intended = self.write(&turn, move |batch| batch.intend(at, intended)).await?;
        let Intended { recorded, used } = intended.map_err(|reached| SigningError::limit(&order, reached))?;
        if let Some(used) = used {
            self.pins.set_used(&order.key, order.version, used);
        }
        let Recorded { order: on_disk, intent, result } = recorded;
        if on_disk != order {
            return Err(SigningError::Conflict { purpose: order.purpose, request: order.request });
        }
        self.orders.put(duty, Arc::new(on_disk));
        // Again: a person may have said meanwhile that the key is compromised.
        let key = self.usable_key(&order)?;
        let digest = order.to_sign.digest(key.public_key.algorithm());
        if let Some(concluded) = result {
            return match key.public_key.verify(&digest, &concluded.signature) {
                Ok(()) => Ok(order.concluded(intent, concluded)),
                Err(_) => Err(SigningError::AuditFailed("a signature in it does not verify".into())),
            };
        }
        let signature =
            match self.devices.get(&key.device)?.sign(key.object, key.public_key.clone(), digest).await {
                Ok(signature) => signature,
                Err(DeviceError::WrongSignature) => return Err(self.suspend(&key, order.key).await),
                Err(error) => return Err(error.into()),
            };
        self.by_purpose.count(order.purpose);
        let count = self.signatures.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(EpochBell { settings, bell }) = &self.epoch
            && count.is_multiple_of(settings.borrow().epoch_signatures)
        {
            // One that is full will be heard anyway.
            let _ = bell.try_send(());
        }
        let conclusion = Conclusion { at: (self.clock)(), duty, intent, signature };
        // It waits before this duty's turn ends, so that whoever asks again finds it.
        if !order.purpose.awaits_result() && self.writer.conclude_later(conclusion.clone()) {
            return Ok(SignedOrder { order, signature: conclusion.signature, audit: intent.digest });
        }
        let concluded = self.write(&turn, move |batch| batch.conclude(&conclusion)).await?;
        Ok(order.concluded(intent, concluded))
    }

    async fn write<T: Send + 'static>(
        &self,
        turn: &Turn<'_>,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if turn.is_alone() { self.writer.write_alone(work).await } else { self.writer.write(work).await }
    }

    /// Puts a refusal into the audit log. The same refusal again is not put there twice while this process remembers it.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn record_refusal(
        &self,
        purpose: Purpose,
        request: RequestId,
        reason: &str,
        message: &str,
    ) -> Result<(), SigningError> {
        let message = shortened(message);
        let tuple =
            Tuple::new("refusal").text(purpose.as_str()).digest(&request.0).text(reason).text(&message);
        let refusal = tuple.hash();
        if self.refusals.get(&refusal).is_some() {
            return Ok(());
        }
        let (at, reason) = ((self.clock)(), shortened(reason));
        let entry = Entry::Refusal { at, purpose, request, reason, message };
        self.writer.write(move |batch| batch.append(&entry).map(drop)).await?;
        self.refusals.put(refusal, ());
        Ok(())
    }

    /// How many signatures this process made, by what they are for.
    pub(crate) fn signatures(&self) -> BTreeMap<Purpose, u64> {
        self.by_purpose.counts()
    }

    fn usable_key(&self, order: &Order) -> Result<KeyRow, SigningError> {
        let unknown = || SigningError::UnknownKey { key: order.key.clone(), version: order.version };
        let row = self.pins.key_row(&order.key, order.version).ok_or_else(unknown)?;
        match self.pins.state_at(&row, (self.clock)()) {
            KeyState::Active => Ok(row),
            // It says that it is there before it is in force, and nothing else.
            KeyState::PreActivation if order.purpose == Purpose::TransitionNew => Ok(row),
            KeyState::Deactivated if self.is_begun(order)? => Ok(row),
            state => {
                Err(SigningError::KeyNotActive { key: order.key.clone(), version: order.version, state })
            }
        }
    }

    /// Whether an order was recorded before, or finishes a request that was opened with the same version of its key
    /// (invariant I10): by this KMS's own log, whoever says so besides.
    fn is_begun(&self, order: &Order) -> Result<bool, SigningError> {
        if self.ordered(order.duty())?.is_some() {
            return Ok(true);
        }
        if order.purpose.begins() || order.purpose == Purpose::TransitionNew {
            return Ok(false);
        }
        let opened = self.ordered(DutyId::of(Purpose::VoteRequest, order.request))?;
        Ok(opened.is_some_and(|opened| opened.key == order.key && opened.version == order.version))
    }

    /// A key whose signature was wrong signs nothing more before a person looked.
    async fn suspend(&self, key: &KeyRow, name: KeyName) -> SigningError {
        let state = self.pins.state_at(key, (self.clock)());
        // One that only speaks its first word, or ends what it has begun.
        if !state.may_become(KeyState::Suspended) {
            tracing::error!(alarm = true, key = %name, "the device gave a wrong signature: the key stays {state}");
            return SigningError::DeviceFailed(DeviceError::WrongSignature.to_string());
        }
        tracing::error!(alarm = true, key = %name, "the device gave a wrong signature: the key is suspended");
        let change = KeyChange {
            name: name.clone(),
            version: key.version,
            to: KeyState::Suspended,
            by: None,
            why: "the device gave a wrong signature with it".into(),
        };
        match change.write(&self.writer, &self.pins, (self.clock)()).await {
            Ok(()) => SigningError::WrongSignature(name),
            Err(error) => error.into(),
        }
    }
}

/// A change of a key's state, with its entry in the log.
pub(crate) struct KeyChange {
    pub name: KeyName,
    pub version: KeyVersion,
    pub to: KeyState,
    pub by: Option<Integer>,
    pub why: String,
}

impl KeyChange {
    pub(crate) async fn write(self, writer: &Writer, pins: &Pins, at: UnixMillis) -> Result<(), StoreError> {
        let KeyChange { name, version, to, by, why } = self;
        // At once, in memory first: what is suspended or compromised signs nothing even if that cannot be written.
        pins.set_key_state(&name, version, to);
        let changed = name.clone();
        writer
            .write(move |batch| {
                let row = batch.store().key(&changed, version)?;
                let from = life::record(batch, &row, at)?.to_string();
                batch.set_key_state(&changed, version, to, at)?;
                let key = LoggedKey::new(&changed, version);
                batch.append(&Entry::KeyState { at, by, key, from, to: to.to_string(), why }).map(drop)
            })
            .await?;
        // Once more: the pins may have been read from the file meanwhile.
        pins.set_key_state(&name, version, to);
        Ok(())
    }
}

/// The right to sign for one duty, held as long as this lives.
struct Turn<'s> {
    all: &'s Turns,
    duty: DutyId,
    _held: OwnedMutexGuard<()>,
}

/// A lock for each duty that is being signed or waited for.
type Turns = Mutex<HashMap<DutyId, Arc<tokio::sync::Mutex<()>>>>;

impl<'s> Turn<'s> {
    async fn take(all: &'s Turns, duty: DutyId) -> Turn<'s> {
        let lock = all.lock().unwrap_or_else(PoisonError::into_inner).entry(duty).or_default().clone();
        Turn { all, duty, _held: lock.lock_owned().await }
    }
}

impl Turn<'_> {
    /// Whether nothing else is being signed.
    fn is_alone(&self) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len() == 1
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own, and the one that is held: nobody else waits.
        if all.get(&self.duty).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            all.remove(&self.duty);
        }
    }
}

/// How many orders are remembered at least, each about as long as its message.
const ORDERS_REMEMBERED: usize = 4_096;
/// How many refusals are remembered at least, and half of how many at most, so that one that is asked for again and again does
/// not fill the disk.
const REFUSALS_REMEMBERED: usize = 8_192;

#[cfg(test)]
mod tests;
