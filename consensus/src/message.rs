//! The payloads of the signed messages, members in the order in which they are written (DESIGN section 6).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError, Tuple};
use crate::encoding::Bytes;
use crate::json::{Integer, Members};
use crate::jwk::{PublicKey, Thumbprint};
use crate::jws::{Jws, Payload, Typ};
use crate::merkle;
use crate::name::{DisplayText, Name};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::vote::{Choice, Outcome};

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<$name, DigestError> {
                text.parse().map($name)
            }
        }
    };
}

digest_newtype! {
    /// Names a deployment: SHA-256 of its genesis file's bytes.
    DeploymentId
}

digest_newtype! {
    /// Names a request: see [`RequestId::derive`].
    RequestId
}

impl RequestId {
    /// The id of one attempt at one approval step of a case:
    /// H(`assent-request-v1`, deployment, calling chain, process, case, requester, step, attempt).
    pub fn derive(
        start: &Start,
        deployment: DeploymentId,
        requester: Thumbprint,
        step: &Name,
        attempt: Integer,
    ) -> Self {
        RequestId::of(deployment, &start.chain, &start.process, &start.case, requester, step, attempt)
    }

    /// The same, from the members that it is made of.
    pub fn of(
        deployment: DeploymentId,
        calling_chain: &Name,
        process: &Name,
        case: &Name,
        requester: Thumbprint,
        step: &Name,
        attempt: Integer,
    ) -> RequestId {
        let tuple = Tuple::new("assent-request-v1")
            .digest(&deployment.0)
            .text(calling_chain.as_str())
            .text(process.as_str())
            .text(case.as_str())
            .text(&requester.to_string())
            .text(step.as_str())
            .number(attempt.get());
        RequestId(tuple.hash())
    }
}

/// The n-th version of a contract's or operational key, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(pub Integer);

impl KeyVersion {
    /// The version that a key has in genesis.
    pub fn first() -> KeyVersion {
        KeyVersion(Integer::saturating(1))
    }

    /// Whether it is that of genesis.
    pub fn is_first(&self) -> bool {
        *self == KeyVersion::first()
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> KeyVersion {
        KeyVersion(Integer::saturating(self.0.get() + 1))
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A requester starts a case of a process. `definition` is the digest of the process document that it runs under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Start {
    pub deployment: DeploymentId,
    pub chain: Name,
    pub process: Name,
    pub definition: Digest,
    pub case: Name,
    pub nonce: Bytes,
    pub input: Members,
}

/// A consensus contract asks its voters. Signed with the contract's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct VoteRequest {
    pub deployment: DeploymentId,
    pub chain: Name,
    pub contract: Name,
    pub request: RequestId,
    pub policy: Digest,
    pub process: Name,
    pub definition: Digest,
    pub case: Name,
    pub step: Name,
    pub attempt: Integer,
    pub requester: Thumbprint,
    pub start: Digest,
    pub subject: Subject,
    pub opened: UnixMillis,
    pub deadline: UnixMillis,
    pub key_version: KeyVersion,
}

/// A voter answers one vote request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Ballot {
    pub deployment: DeploymentId,
    pub request: RequestId,
    pub vote_request: Digest,
    pub voter: Name,
    pub choice: Choice,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<DisplayText>,
}

/// A consensus contract says what was decided. Signed with the key version that signed the vote request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Decision {
    pub deployment: DeploymentId,
    pub chain: Name,
    pub contract: Name,
    pub request: RequestId,
    pub vote_request: Digest,
    pub policy: Digest,
    pub outcome: Outcome,
    pub ballots: BallotsRoot,
    pub decided: UnixMillis,
    pub key_version: KeyVersion,
}

/// A key is followed by its next version. Exactly one of `contract` and `key` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct KeyTransition {
    pub deployment: DeploymentId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contract: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Name>,
    pub version: KeyVersion,
    pub from: Thumbprint,
    pub to: PublicKey,
    pub reason: TransitionReason,
    pub activates: UnixMillis,
    pub old_retires: UnixMillis,
    pub decision: Digest,
}

/// Why a key is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransitionReason {
    /// By plan: open requests end under the old version.
    Rotation,
    /// The old version is not trusted any more: its open requests are void.
    Compromise,
}

/// A governing contract changes what it governs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Change {
    pub deployment: DeploymentId,
    pub subject: Subject,
    pub decision: Digest,
    pub effective: UnixMillis,
}

/// A validator says that a transaction is in its log, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Receipt {
    pub deployment: DeploymentId,
    pub chain: Name,
    pub transaction: Digest,
    pub height: Integer,
    pub index: Integer,
}

/// A requester takes his case back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Cancel {
    pub deployment: DeploymentId,
    pub chain: Name,
    pub case: Name,
    pub nonce: Bytes,
}

macro_rules! payload {
    ($($message:ident),*) => { $(
        impl Payload for $message {
            const TYP: Typ = Typ::$message;
        }
    )* };
}

payload!(Start, VoteRequest, Ballot, Decision, KeyTransition, Change, Receipt, Cancel);

/// A ballot as it was counted: at which block time, and its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedMessage {
    /// The block time at which it was counted.
    pub at: UnixMillis,
    /// The message.
    pub jws: Jws,
}

/// How many ballots were counted, and the RFC 9162 Merkle root over them in the order counted; a leaf is the block time
/// (u64, big-endian) and the JWS's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BallotsRoot {
    /// How many.
    pub count: Integer,
    /// The root.
    pub root: Digest,
}

impl BallotsRoot {
    /// The root over ballots in the order counted.
    pub fn of<'a>(ballots: impl IntoIterator<Item = (UnixMillis, &'a str)>) -> BallotsRoot {
        let leaves: Vec<Digest> = ballots.into_iter().map(|(at, jws)| BallotsRoot::leaf(at, jws)).collect();
        BallotsRoot::of_leaves(&leaves)
    }

    /// The root over the hashes of leaves.
    pub fn of_leaves(leaves: &[Digest]) -> BallotsRoot {
        BallotsRoot { count: Integer::saturating(leaves.len() as u64), root: merkle::root(leaves) }
    }

    /// The leaf hash of one ballot.
    pub fn leaf(at: UnixMillis, jws: &str) -> Digest {
        Digest::of_pieces(&[&[0], &at.get().to_be_bytes(), jws.as_bytes()])
    }
}
