//! The light client: a header that is trusted, the next one, and what events are shown by it.

use serde::{Deserialize, Serialize};

use super::inclusion::{check_event, check_ledger};
use super::{Certificate, ProofError, SealedHeader, Validators};
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::json::Integer;
use crate::merkle;
use crate::message::DeploymentId;
use crate::name::Name;

/// A header with what makes it final and what ties it to a header that its reader trusts already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finality {
    /// The ledger.
    pub chain: Name,
    /// The header's bytes.
    pub header: Bytes,
    /// What makes it final.
    pub certificate: Certificate,
    /// The RFC 9162 path from the trusted header's id to this header's `headers_root`; empty if it is the same header or
    /// if nothing is trusted yet.
    pub consistency: Vec<Digest>,
}

/// The last header that a light client trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedHeader {
    /// Its height.
    pub height: Integer,
    /// Its id.
    pub id: Digest,
}

/// A header that is final and follows on the last trusted one: what events can be proven against.
#[derive(Clone, Debug)]
pub struct Anchor(SealedHeader);

impl Anchor {
    /// Verifies that a header is final and that `trusted` is the same header or one before it.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn verify(
        finality: &Finality,
        deployment: DeploymentId,
        validators: &Validators,
        trusted: Option<&TrustedHeader>,
    ) -> Result<Anchor, ProofError> {
        let header = SealedHeader::parse(&finality.header.0).map_err(ProofError::Header)?;
        check_ledger(&header, deployment, &finality.chain)?;
        finality.certificate.verify(&header, validators)?;
        let anchor = Anchor(header);
        if let Some(trusted) = trusted {
            anchor.check_ancestor(trusted.height.get(), trusted.id, &finality.consistency)?;
        }
        Ok(anchor)
    }

    /// The header.
    pub fn header(&self) -> &SealedHeader {
        &self.0
    }

    /// This header, to be trusted from now on.
    pub fn trusted(&self) -> TrustedHeader {
        TrustedHeader { height: self.0.header.height, id: self.0.id }
    }

    /// Verifies that an event is in this header's block or in one before it.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn check(&self, proof: &EventProof) -> Result<SealedHeader, ProofError> {
        let header = SealedHeader::parse(&proof.header.0).map_err(ProofError::Header)?;
        check_ledger(&header, self.0.header.deployment, &self.0.header.chain)?;
        self.check_ancestor(header.header.height.get(), header.id, &proof.ancestry)?;
        check_event(&header, &proof.event, proof.index, proof.size, &proof.path)?;
        Ok(header)
    }

    /// Verifies that the block `id` of height `earlier` is this header's or one before it.
    fn check_ancestor(&self, earlier: u64, id: Digest, path: &[Digest]) -> Result<(), ProofError> {
        let later = self.0.header.height.get();
        let error = ProofError::NotBefore { earlier, later };
        if earlier == later {
            return if id == self.0.id && path.is_empty() { Ok(()) } else { Err(error) };
        }
        let leaf = merkle::leaf_hash(id.as_bytes());
        let root =
            earlier.checked_sub(1).and_then(|index| merkle::root_of_path(leaf, index, later - 1, path));
        if root == Some(self.0.header.headers_root) { Ok(()) } else { Err(error) }
    }
}

/// An event and the proof that it is in an anchor's block or in one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventProof {
    /// The bytes of the header of the event's block.
    pub header: Bytes,
    /// The RFC 9162 path from that header's id to the anchor's `headers_root`; empty if it is the anchor itself.
    pub ancestry: Vec<Digest>,
    /// The event's bytes.
    pub event: Bytes,
    /// The event's place in the block.
    pub index: Integer,
    /// How many events the block has.
    pub size: Integer,
    /// The RFC 9162 path from the event to `events_root`.
    pub path: Vec<Digest>,
}
