//! The one way to a signature: the intent with its exact bytes on disk, then the device, then the signature verified and on
//! disk, then the answer (invariants I3 and I11).

use std::fmt;

pub use assent_consensus::artifact::ToSign;
use assent_consensus::digest::{Digest, Tuple};
use assent_consensus::jwk::Signature;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// A contract asks its voters.
    VoteRequest,
    /// A contract says what was decided.
    Decision,
    /// An operational key does what was approved.
    Action,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Purpose; 3] = [Purpose::VoteRequest, Purpose::Decision, Purpose::Action];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::VoteRequest => "vote-request",
            Purpose::Decision => "decision",
            Purpose::Action => "action",
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

/// A key by its name in the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyName {
    /// A consensus contract's own key.
    Contract(Name),
    /// A key that approved actions use.
    Operational(Name),
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyName::Contract(name) => write!(f, "the key of contract `{name}`"),
            KeyName::Operational(name) => write!(f, "the key `{name}`"),
        }
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
}

/// An order and the one signature that is ever released for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOrder {
    /// The order.
    pub order: Order,
    /// r and s, s in its low half; verified.
    pub signature: Signature,
    /// The head of the audit log after the entry with the signature.
    pub audit: Digest,
}

/// What is on disk about a duty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The intent: nothing else is ever signed for this duty.
    pub order: Order,
    /// The signature, if it was made.
    pub result: Option<SignedOrder>,
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// Too much waits already.
    #[error("the KMS is busy: try again in a second")]
    Busy,
    /// The token does not answer.
    #[error("the token does not answer: {0}; it is tried again by itself")]
    DeviceGone(String),
    /// The PIN was wrong once.
    #[error("the PIN is wrong, and is not tried again by itself: {0}")]
    WrongPin(String),
    /// The log cannot be written, so nothing is signed.
    #[error("the audit log cannot be written, so nothing is signed: {0}")]
    AuditFailed(String),
    /// Something else was signed, or is to be signed, for this duty.
    #[error("something else was recorded to be signed as {purpose} of request `{request}`", purpose = .purpose.as_str())]
    Conflict {
        /// What for.
        purpose: Purpose,
        /// The request.
        request: RequestId,
    },
    /// There is no such key.
    #[error("there is no version {version} of {key} here")]
    UnknownKey {
        /// Which.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
    },
    /// The key is in no state to sign.
    #[error("version {version} of {key} is {state}: it signs nothing")]
    KeyNotActive {
        /// Which.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
        /// Its state.
        state: crate::pins::KeyState,
    },
    /// The device gave a signature that is not one.
    #[error("the device gave a wrong signature with {0}, which is now suspended")]
    WrongSignature(KeyName),
}

impl SigningError {
    /// Whether the same may succeed later without a person.
    pub fn is_retry(&self) -> bool {
        matches!(self, SigningError::Busy | SigningError::DeviceGone(_))
    }

    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            SigningError::Busy => "busy",
            SigningError::DeviceGone(_) => "device-gone",
            SigningError::WrongPin(_) => "wrong-pin",
            SigningError::AuditFailed(_) => "audit-failed",
            SigningError::Conflict { .. } => "conflict",
            SigningError::UnknownKey { .. } => "unknown-key",
            SigningError::KeyNotActive { state, .. } => match state {
                crate::pins::KeyState::Suspended => "key-suspended",
                crate::pins::KeyState::Compromised => "key-compromised",
                _ => "key-not-active",
            },
            SigningError::WrongSignature(_) => "wrong-signature",
        }
    }
}

/// The signing service.
pub struct Signing(());

impl Signing {
    /// What is on disk about a duty.
    ///
    /// # Errors
    /// [`SigningError::AuditFailed`], if it cannot be read.
    pub fn recorded(&self, _duty: DutyId) -> Result<Option<Recorded>, SigningError> {
        let () = self.0;
        Ok(None)
    }

    /// Signs, once for a duty: the same order again gives the same signature, another one for the same duty is refused.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn sign(&self, _order: Order) -> Result<SignedOrder, SigningError> {
        Err(SigningError::Busy)
    }

    /// Puts a refusal into the audit log.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn record_refusal(
        &self,
        _purpose: Purpose,
        _request: RequestId,
        _reason: &str,
        _message: &str,
    ) -> Result<(), SigningError> {
        Err(SigningError::Busy)
    }
}
