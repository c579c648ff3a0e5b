//! What the verification of duties needs of the rest of the KMS: pins to go by, and the one way to a signature.

use std::pin::Pin;
use std::sync::Arc;

use assent_consensus::duty::TrustedHeaders;
use assent_consensus::genesis::Genesis;
use assent_consensus::header::TrustedHeader;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::standing::Successions;
use assent_consensus::time::UnixMillis;

use crate::changes::{ApprovedChanges, Changed, Destruction, PolicyChange, Rotated, Rotation};
use crate::pins::{PinnedKey, Pins};
use crate::signing::{DutyId, KeyName, Order, Purpose, SignedOrder, Signing, SigningError};

/// What comes later.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Pins and signing, as duties see them. The methods are those of [`Pins`] and [`Signing`].
pub(super) trait Vault: Send + Sync {
    fn genesis(&self) -> Option<Arc<Genesis>>;
    fn key(&self, name: &KeyName, now: UnixMillis) -> Option<PinnedKey>;
    fn key_version(&self, name: &KeyName, version: KeyVersion, now: UnixMillis) -> Option<PinnedKey>;
    fn successions(&self) -> Arc<Successions>;
    fn rotate(&self, rotation: Rotation) -> Later<'_, Result<Rotated, SigningError>>;
    fn destroy(&self, destruction: Destruction) -> Later<'_, Result<Changed, SigningError>>;
    fn change_policy(&self, change: PolicyChange) -> Later<'_, Result<Changed, SigningError>>;
    fn awaits_policy(&self, contract: &Name, now: UnixMillis) -> bool;
    fn is_suspended(&self, voter: Thumbprint) -> bool;
    fn is_released(&self, request: RequestId) -> bool;
    fn fence(&self) -> Option<UnixMillis>;
    fn trusted(&self) -> TrustedHeaders;
    fn advance_trusted(&self, chain: &Name, trusted: TrustedHeader) -> Result<(), SigningError>;
    fn ordered(&self, duty: DutyId) -> Result<Option<Arc<Order>>, SigningError>;
    fn sign(&self, order: Order) -> Later<'_, Result<SignedOrder, SigningError>>;
    fn record_refusal<'a>(
        &'a self,
        purpose: Purpose,
        request: RequestId,
        reason: &'a str,
        message: &'a str,
    ) -> Later<'a, Result<(), SigningError>>;
}

/// The vault of the daemon.
pub(super) struct KmsVault {
    pub(super) pins: Pins,
    pub(super) signing: Arc<Signing>,
    pub(super) changes: ApprovedChanges,
}

impl Vault for KmsVault {
    fn genesis(&self) -> Option<Arc<Genesis>> {
        self.pins.genesis()
    }

    fn key(&self, name: &KeyName, now: UnixMillis) -> Option<PinnedKey> {
        self.pins.key(name, now)
    }

    fn key_version(&self, name: &KeyName, version: KeyVersion, now: UnixMillis) -> Option<PinnedKey> {
        self.pins.key_version(name, version, now)
    }

    fn successions(&self) -> Arc<Successions> {
        self.pins.successions()
    }

    fn rotate(&self, rotation: Rotation) -> Later<'_, Result<Rotated, SigningError>> {
        Box::pin(self.changes.rotate(rotation))
    }

    fn destroy(&self, destruction: Destruction) -> Later<'_, Result<Changed, SigningError>> {
        Box::pin(self.changes.destroy(destruction))
    }

    fn change_policy(&self, change: PolicyChange) -> Later<'_, Result<Changed, SigningError>> {
        Box::pin(self.changes.change_policy(change))
    }

    fn awaits_policy(&self, contract: &Name, now: UnixMillis) -> bool {
        self.changes.awaits_policy(contract, now)
    }

    fn is_suspended(&self, voter: Thumbprint) -> bool {
        self.pins.is_suspended(voter)
    }

    fn is_released(&self, request: RequestId) -> bool {
        self.pins.is_released(request)
    }

    fn fence(&self) -> Option<UnixMillis> {
        self.pins.fence()
    }

    fn trusted(&self) -> TrustedHeaders {
        self.pins.trusted()
    }

    fn advance_trusted(&self, chain: &Name, trusted: TrustedHeader) -> Result<(), SigningError> {
        self.pins.advance_trusted(chain, trusted)
    }

    fn ordered(&self, duty: DutyId) -> Result<Option<Arc<Order>>, SigningError> {
        self.signing.ordered(duty)
    }

    fn sign(&self, order: Order) -> Later<'_, Result<SignedOrder, SigningError>> {
        Box::pin(self.signing.sign(order))
    }

    fn record_refusal<'a>(
        &'a self,
        purpose: Purpose,
        request: RequestId,
        reason: &'a str,
        message: &'a str,
    ) -> Later<'a, Result<(), SigningError>> {
        Box::pin(self.signing.record_refusal(purpose, request, reason, message))
    }
}
