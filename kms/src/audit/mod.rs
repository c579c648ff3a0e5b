//! The audit log: what it holds, and how its entries are chained.
//!
//! An entry is one JSON object. The head after it is H(`assent-audit-v1`, head before, entry's bytes), the head before the
//! first being `sha256:` and 64 zeros; so whoever knows a head sees whether anything before it was changed or left out.

mod export;
mod walk;

use assent_consensus::digest::{Digest, Tuple};
use assent_consensus::encoding::Bytes;
use assent_consensus::json::Integer;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{DeploymentId, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, OperationalPublicKey, RawSignature};
use assent_consensus::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::life::Limits;
use crate::pins::KeyState;
use crate::signing::{KeyName, Order, Purpose, ToSign};

pub use export::{Bound, Format, export};
pub use walk::{AuditError, AuditReport, verify};

/// The longest sentence of a refusal that is kept, in bytes.
pub const SENTENCE_LIMIT: usize = 1_000;

/// One entry of the log; `at` is the KMS's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are what their names say")]
pub enum Entry {
    /// `assent-kms init`.
    Created { at: UnixMillis, instance: Bytes },
    /// The daemon starts.
    Started { at: UnixMillis, epoch: Integer, program: String },
    /// A key was generated; `alg` is absent if it is ES256, and `by` if an approved rotation asks for it.
    KeyCreated {
        at: UnixMillis,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<Integer>,
        key: LoggedKey,
        device: Name,
        object: Bytes,
        #[serde(skip_serializing_if = "is_es256", default = "es256")]
        alg: Algorithm,
        public_key: OperationalPublicKey,
    },
    /// A key that was on the device before, or is on it again, is about to sign `digest`, once, so that it is seen whether
    /// both its halves belong together. That signature is not kept.
    KeyTried { at: UnixMillis, by: Integer, key: LoggedKey, device: Name, object: Bytes, digest: Digest },
    /// A key that was on the device before was taken over. `doubts` are what the device does not vouch for, such as
    /// that it was generated there; `alg` is absent if it is ES256.
    KeyAdopted {
        at: UnixMillis,
        by: Integer,
        key: LoggedKey,
        device: Name,
        object: Bytes,
        #[serde(skip_serializing_if = "is_es256", default = "es256")]
        alg: Algorithm,
        public_key: OperationalPublicKey,
        doubts: Vec<String>,
    },
    /// A key is about to leave its device under a wrap key, for a backup.
    KeyExported { at: UnixMillis, by: Integer, key: LoggedKey, device: Name },
    /// A version of a key that was never in force is gone from its device and from the table: another key gets its number.
    KeyRemoved { at: UnixMillis, key: LoggedKey },
    /// Genesis was pinned, and its keys activated.
    Pinned { at: UnixMillis, by: Integer, deployment: DeploymentId },
    /// A key's state was changed; `by` is the user, and absent if the KMS did it by itself.
    KeyState {
        at: UnixMillis,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<Integer>,
        key: LoggedKey,
        from: String,
        to: String,
        why: String,
    },
    /// A key has these limits from now on; `by` is absent if they come with the version before.
    KeyLimits {
        at: UnixMillis,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<Integer>,
        key: LoggedKey,
        limits: Limits,
    },
    /// A contract goes by another policy from `effective` on, as `decision` approved.
    PolicyChanged {
        at: UnixMillis,
        contract: Name,
        from: Digest,
        to: Digest,
        effective: UnixMillis,
        decision: Digest,
    },
    /// A voter's ballots count no more.
    VoterSuspended { at: UnixMillis, by: Integer, voter: Thumbprint },
    /// The database was put back from a backup: of what was opened before `fence` only what is on record is signed again.
    Restored { at: UnixMillis, by: Integer, epoch: Integer, fence: UnixMillis },
    /// A late request may be decided.
    Released { at: UnixMillis, by: Integer, request: RequestId },
    /// A key is about to be used. Exactly one of `digest` and `message` is there: the exact bytes.
    Intent {
        at: UnixMillis,
        purpose: Purpose,
        request: RequestId,
        key: LoggedKey,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        digest: Option<Digest>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        message: Option<Bytes>,
    },
    /// What the device gave, verified. `intent` is the number of the intent's entry.
    Result { at: UnixMillis, intent: Integer, signature: Bytes },
    /// The log that a device keeps by itself was read up to its entry `last`, of this digest: `ours` is what this KMS sent,
    /// one by one, `findings` what is not as it must be.
    DeviceLog {
        at: UnixMillis,
        device: Name,
        serial: String,
        entries: Integer,
        last: Integer,
        digest: Bytes,
        ours: Vec<DeviceUse>,
        findings: Vec<String>,
    },
    /// A duty was not done.
    Refusal { at: UnixMillis, purpose: Purpose, request: RequestId, reason: String, message: String },
}

/// An entry of a device's log: its number, the device's command, and the object that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are what their names say")]
pub struct DeviceUse {
    pub item: Integer,
    pub command: Integer,
    pub object: Integer,
}

/// A key version, as the log names it. Exactly one of `contract` and `key` is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedKey {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    contract: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    key: Option<Name>,
    version: KeyVersion,
}

impl LoggedKey {
    /// Names a key version.
    pub fn new(name: &KeyName, version: KeyVersion) -> LoggedKey {
        let (contract, key) = match name {
            KeyName::Contract(name) => (Some(name.clone()), None),
            KeyName::Operational(name) => (None, Some(name.clone())),
        };
        LoggedKey { contract, key, version }
    }

    /// Whether it is the version that genesis has.
    fn is_first(&self) -> bool {
        self.version.is_first()
    }

    fn name(self) -> Option<KeyName> {
        match (self.contract, self.key) {
            (Some(name), None) => Some(KeyName::Contract(name)),
            (None, Some(name)) => Some(KeyName::Operational(name)),
            _ => None,
        }
    }
}

/// The head after an entry.
pub fn next_head(head: &Digest, entry: &[u8]) -> Digest {
    Tuple::new("assent-audit-v1").digest(head).bytes(entry).hash()
}

impl Entry {
    /// The intent to carry out an order.
    pub fn intent(at: UnixMillis, order: &Order) -> Entry {
        let (digest, message) = match &order.to_sign {
            ToSign::Digest(digest) => (Some(*digest), None),
            ToSign::Message(bytes) => (None, Some(Bytes(bytes.clone()))),
        };
        Entry::Intent {
            at,
            purpose: order.purpose,
            request: order.request,
            key: LoggedKey::new(&order.key, order.version),
            digest,
            message,
        }
    }

    /// The order whose intent this is.
    pub fn into_order(self) -> Option<Order> {
        let Entry::Intent { purpose, request, key, digest, message, .. } = self else { return None };
        let to_sign = match (digest, message) {
            (Some(digest), None) => ToSign::Digest(digest),
            (None, Some(bytes)) => ToSign::Message(bytes.0),
            _ => return None,
        };
        let version = key.version;
        Some(Order { purpose, request, key: key.name()?, version, to_sign })
    }

    /// When it was written, by the KMS's clock.
    pub fn at(&self) -> UnixMillis {
        match self {
            Entry::Created { at, .. }
            | Entry::Started { at, .. }
            | Entry::KeyCreated { at, .. }
            | Entry::KeyTried { at, .. }
            | Entry::KeyAdopted { at, .. }
            | Entry::KeyExported { at, .. }
            | Entry::KeyRemoved { at, .. }
            | Entry::Pinned { at, .. }
            | Entry::KeyState { at, .. }
            | Entry::KeyLimits { at, .. }
            | Entry::PolicyChanged { at, .. }
            | Entry::VoterSuspended { at, .. }
            | Entry::Restored { at, .. }
            | Entry::Released { at, .. }
            | Entry::Intent { at, .. }
            | Entry::Result { at, .. }
            | Entry::DeviceLog { at, .. }
            | Entry::Refusal { at, .. } => *at,
        }
    }

    /// Its kind, as in `entry`.
    pub fn name(&self) -> &'static str {
        match self {
            Entry::Created { .. } => "created",
            Entry::Started { .. } => "started",
            Entry::KeyCreated { .. } => "key-created",
            Entry::KeyTried { .. } => "key-tried",
            Entry::KeyAdopted { .. } => "key-adopted",
            Entry::KeyExported { .. } => "key-exported",
            Entry::KeyRemoved { .. } => "key-removed",
            Entry::Pinned { .. } => "pinned",
            Entry::KeyState { .. } => "key-state",
            Entry::KeyLimits { .. } => "key-limits",
            Entry::PolicyChanged { .. } => "policy-changed",
            Entry::VoterSuspended { .. } => "voter-suspended",
            Entry::Restored { .. } => "restored",
            Entry::Released { .. } => "released",
            Entry::Intent { .. } => "intent",
            Entry::Result { .. } => "result",
            Entry::DeviceLog { .. } => "device-log",
            Entry::Refusal { .. } => "refusal",
        }
    }

    /// How much it matters to one who watches: a severity of RFC 5424 section 6.2.1. What the KMS did to a key by itself
    /// asks for a person at once, unless it was due.
    fn severity(&self) -> u8 {
        match self {
            Entry::KeyState { by: None, to, .. } if to == KeyState::Active.as_str() => 5,
            Entry::KeyState { by: None, to, .. } if to == KeyState::Deactivated.as_str() => 4,
            Entry::KeyState { by: None, .. } => 1,
            Entry::DeviceLog { findings, .. } if !findings.is_empty() => 1,
            Entry::Refusal { .. }
            | Entry::KeyAdopted { .. }
            | Entry::KeyExported { .. }
            | Entry::Restored { .. } => 4,
            Entry::Intent { .. } | Entry::Result { .. } | Entry::DeviceLog { .. } => 6,
            _ => 5,
        }
    }

    /// The signature, if this is a result.
    pub fn signature(&self) -> Option<RawSignature> {
        match self {
            Entry::Result { signature, .. } => Some(RawSignature(signature.0.clone())),
            _ => None,
        }
    }
}

fn es256() -> Algorithm {
    Algorithm::ES256
}

fn is_es256(algorithm: &Algorithm) -> bool {
    *algorithm == Algorithm::ES256
}

/// The first [`SENTENCE_LIMIT`] bytes of a sentence.
pub(crate) fn shortened(sentence: &str) -> String {
    let mut end = sentence.len().min(SENTENCE_LIMIT);
    while !sentence.is_char_boundary(end) {
        end -= 1;
    }
    sentence[..end].to_owned()
}

#[cfg(test)]
mod tests;
