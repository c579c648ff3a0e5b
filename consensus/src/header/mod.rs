//! Block headers, commit certificates, and the light client: what is final, and what is in it.
//!
//! ```text
//! validators' keys ─▶ Certificate ─▶ SealedHeader ─▶ events_root ─▶ one event            (Inclusion)
//!                                        └─▶ headers_root ─▶ an earlier header ─▶ event  (Anchor, EventProof)
//! ```

mod anchor;
mod certificate;
mod error;
mod inclusion;
mod validators;

pub use anchor::{Anchor, EventProof, Finality, TrustedHeader};
pub use certificate::{Certificate, CommitSignature, commit_digest};
pub use error::ProofError;
pub use inclusion::Inclusion;
pub use validators::Validators;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json::{self, Integer, JsonError};
use crate::message::DeploymentId;
use crate::name::Name;
use crate::time::UnixMillis;

/// A block's header. Its bytes are this JSON without white space; their SHA-256 is the block id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The ledger.
    pub chain: Name,
    /// From 1, without gaps.
    pub height: Integer,
    /// The proposer's clock, strictly increasing.
    pub time: UnixMillis,
    /// The id of the block before; the deployment id at height 1.
    pub previous: Digest,
    /// [`Validators::hash`] of the validators of the next block.
    pub validators_hash: Digest,
    /// RFC 9162 root over the block ids (32 bytes each) of all earlier heights.
    pub headers_root: Digest,
    /// RFC 9162 root over the block's transactions.
    pub transactions_root: Digest,
    /// How many transactions there are since genesis, this block's included.
    pub transactions_total: Integer,
    /// RFC 9162 root over the block's events.
    pub events_root: Digest,
    /// How many events the block has.
    pub events_count: Integer,
    /// H(`assent-state-v1`, the one before, each written key in order: key, `1` and the value, or `0`).
    pub state_digest: Digest,
}

/// A header with its exact bytes and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    header: Header,
    bytes: Vec<u8>,
    id: Digest,
}

impl SealedHeader {
    /// Writes `header` and computes its id.
    pub fn seal(header: Header) -> SealedHeader {
        let bytes = json::write(&header);
        SealedHeader { id: Digest::of(&bytes), header, bytes }
    }

    /// Reads a header's bytes.
    ///
    /// # Errors
    /// See [`json::read`].
    pub fn parse(bytes: &[u8]) -> Result<SealedHeader, JsonError> {
        Ok(SealedHeader { header: json::read(bytes)?, bytes: bytes.to_vec(), id: Digest::of(bytes) })
    }

    /// The members.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The block id: SHA-256 of the bytes.
    pub fn id(&self) -> Digest {
        self.id
    }
}
