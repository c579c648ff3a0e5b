//! Why nothing was signed.

use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::policy_change::PolicyChangeError;
use assent_consensus::time::UnixMillis;

use super::{KeyName, Order, Purpose};
use crate::device::DeviceError;
use crate::life::Rate;
use crate::moment::Moment;
use crate::pins::KeyState;
use crate::store::{LimitReached, StoreError};

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// Too much waits already.
    #[error("the KMS is busy: try again in a second")]
    Busy,
    /// The token does not answer.
    #[error("the token does not answer: {0}; it is tried again by itself")]
    DeviceGone(String),
    /// The token refuses, or fails in a way that another try does not mend.
    #[error("{0}")]
    DeviceFailed(String),
    /// The PIN was wrong once.
    #[error("{0}")]
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
        state: KeyState,
    },
    /// The key is used too often at the moment.
    #[error(
        "version {version} of {key} may be used {rate}, and was: it may be used again at {again}",
        again = Moment(*.again)
    )]
    RateReached {
        /// Which.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
        /// How often it may be used.
        rate: Rate,
        /// When it may be used again.
        again: UnixMillis,
    },
    /// The key is still needed.
    #[error(
        "version {version} of {key} is {state}: it is destroyed when it is deactivated and what it has begun is over, or \
         when it is compromised, not before"
    )]
    KeyInUse {
        /// Which.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
        /// Its state.
        state: KeyState,
    },
    /// Too little time is left for what was approved.
    #[error(
        "what the request `{request}` approved lapses at {}, too soon for both logs to record it: ask again",
        Moment(*.act_by)
    )]
    Lapsing {
        /// The request.
        request: RequestId,
        /// When it lapses.
        act_by: UnixMillis,
    },
    /// A policy that may not follow the one before it.
    #[error(transparent)]
    PolicyChange(#[from] PolicyChangeError),
    /// The device gave a signature that is not one.
    #[error("the device gave a wrong signature with {0}, which is now suspended")]
    WrongSignature(KeyName),
}

impl SigningError {
    /// Whether the same may succeed later without a person.
    pub fn is_retry(&self) -> bool {
        matches!(
            self,
            SigningError::Busy
                | SigningError::DeviceGone(_)
                | SigningError::AuditFailed(_)
                | SigningError::RateReached { .. }
                | SigningError::KeyNotActive { state: KeyState::PreActivation, .. }
        )
    }

    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            SigningError::Busy => "busy",
            SigningError::DeviceGone(_) => "device-gone",
            SigningError::DeviceFailed(_) => "device-failed",
            SigningError::WrongPin(_) => "wrong-pin",
            SigningError::AuditFailed(_) => "audit-failed",
            SigningError::Conflict { .. } => "conflict",
            SigningError::UnknownKey { .. } => "unknown-key",
            SigningError::KeyNotActive { state, .. } => match state {
                KeyState::PreActivation => "key-not-yet-active",
                KeyState::Suspended => "key-suspended",
                KeyState::Compromised => "key-compromised",
                _ => "key-not-active",
            },
            SigningError::RateReached { .. } => "rate-reached",
            SigningError::KeyInUse { .. } => "key-in-use",
            SigningError::Lapsing { .. } => "lapsing",
            SigningError::PolicyChange(error) => error.reason(),
            SigningError::WrongSignature(_) => "wrong-signature",
        }
    }

    /// What a key that has reached a limit makes of an order.
    pub(super) fn limit(order: &Order, reached: LimitReached) -> SigningError {
        let (key, version) = (order.key.clone(), order.version);
        match reached {
            LimitReached::UsedUp => SigningError::KeyNotActive { key, version, state: KeyState::Deactivated },
            LimitReached::Rate { rate, again } => SigningError::RateReached { key, version, rate, again },
        }
    }
}

impl From<StoreError> for SigningError {
    fn from(error: StoreError) -> SigningError {
        match error {
            StoreError::Busy => SigningError::Busy,
            error => SigningError::AuditFailed(error.to_string()),
        }
    }
}

impl From<DeviceError> for SigningError {
    fn from(error: DeviceError) -> SigningError {
        match error {
            DeviceError::Busy => SigningError::Busy,
            DeviceError::Pin(why) => SigningError::WrongPin(why),
            DeviceError::Gone(why) | DeviceError::Full(why) => SigningError::DeviceGone(why),
            error => SigningError::DeviceFailed(error.to_string()),
        }
    }
}
