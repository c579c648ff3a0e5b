//! Block headers, commit certificates, and the light client: what is final, and what is in it.
//!
//! ```text
//! validators' keys ─▶ Certificate ─▶ SealedHeader ─▶ events_root ─▶ one event            (Inclusion)
//!                                        └─▶ headers_root ─▶ an earlier header ─▶ event  (Anchor, EventProof)
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bundle::Signatures;
use crate::digest::{Digest, Tuple};
use crate::encoding::{self, Bytes};
use crate::json::{self, Integer, JsonError};
use crate::jwk::{PublicKey, Signature, Thumbprint};
use crate::merkle;
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

/// Who may make blocks final: keys and their voting power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators(Vec<(PublicKey, u64)>);

impl Validators {
    /// Validators with a power of one each, as genesis lists them.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Validators {
        let mut validators: Vec<_> = keys.into_iter().map(|key| (key, 1)).collect();
        validators.sort_by_key(|(key, _)| key.thumbprint());
        Validators(validators)
    }

    /// H(`assent-validators-v1`, kid and power of each, in order of kid).
    pub fn hash(&self) -> Digest {
        let tuple = Tuple::new("assent-validators-v1");
        self.0
            .iter()
            .fold(tuple, |tuple, (key, power)| tuple.text(&key.thumbprint().to_string()).number(*power))
            .hash()
    }

    /// The key of a validator.
    pub fn key(&self, kid: Thumbprint) -> Option<&PublicKey> {
        self.0.iter().find(|(key, _)| key.thumbprint() == kid).map(|(key, _)| key)
    }

    /// The keys, in order of kid.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().map(|(key, _)| key)
    }

    fn power(&self, kid: Thumbprint) -> Option<(&PublicKey, u64)> {
        self.0.iter().find(|(key, _)| key.thumbprint() == kid).map(|(key, power)| (key, *power))
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(_, power)| power).sum()
    }
}

/// Validators' signatures that make a block final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The block's height.
    pub height: Integer,
    /// The round in which it was decided.
    pub round: Integer,
    /// The block's id.
    pub block: Digest,
    /// One for each validator that signed.
    pub signatures: Vec<CommitSignature>,
}

/// One validator's signature over a commit: ES256 over the tuple of [`commit_digest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitSignature {
    /// The validator's key.
    pub kid: Thumbprint,
    /// r and s.
    #[serde(with = "signature_text")]
    pub signature: Signature,
}

/// What a validator signs to make a block final:
/// H(`assent-commit-v1`, deployment, chain, height, round, block id).
pub fn commit_digest(
    deployment: DeploymentId,
    chain: &Name,
    height: Integer,
    round: Integer,
    block: Digest,
) -> Digest {
    Tuple::new("assent-commit-v1")
        .digest(&deployment.0)
        .text(chain.as_str())
        .number(height.get())
        .number(round.get())
        .digest(&block)
        .hash()
}

/// Why something is not shown to be final, or not shown to be in what is final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The header cannot be read.
    #[error("the header cannot be read: {0}")]
    Header(JsonError),
    /// Of another deployment.
    #[error("the header is of deployment `{found}`, not `{expected}`")]
    OtherDeployment {
        /// The deployment that was expected.
        expected: DeploymentId,
        /// The one in the header.
        found: DeploymentId,
    },
    /// Of another log.
    #[error("the header is of `{found}`, not of `{expected}`")]
    OtherChain {
        /// The name that was expected.
        expected: Name,
        /// The one in the header.
        found: Name,
    },
    /// The certificate is for another block.
    #[error("the certificate is not for this header")]
    OtherBlock,
    /// A signature by nobody that is known, or twice by the same.
    #[error("the certificate has a signature by `{0}`, who is no validator or signed twice")]
    Stranger(Thumbprint),
    /// A signature in the certificate is wrong.
    #[error("the certificate's signature by `{0}` does not verify")]
    BadSignature(Thumbprint),
    /// Not more than two thirds of the voting power.
    #[error("the certificate has {found} of {total} votes, and needs more than two thirds")]
    TooFew {
        /// The voting power that signed.
        found: u64,
        /// All voting power.
        total: u64,
    },
    /// The path does not lead to the header's root.
    #[error("the event is not in the header's block: its path does not lead to `events_root`")]
    NotIncluded,
    /// The size is not the header's count.
    #[error("`size` is {found}, but the header's `events_count` is {expected}")]
    WrongSize {
        /// The header's count.
        expected: u64,
        /// The proof's size.
        found: u64,
    },
    /// An earlier header is not before this one.
    #[error("the header of height {earlier} does not come before the header of height {later}")]
    NotBefore {
        /// Height of the header that should be earlier.
        earlier: u64,
        /// Height of the later header.
        later: u64,
    },
}

impl ProofError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            ProofError::Header(_) => "malformed-header",
            ProofError::OtherDeployment { .. } => "other-deployment",
            ProofError::OtherChain { .. } => "other-chain",
            ProofError::OtherBlock => "other-block",
            ProofError::Stranger(_) => "unknown-validator",
            ProofError::BadSignature(_) => "bad-certificate",
            ProofError::TooFew { .. } => "not-final",
            ProofError::NotIncluded | ProofError::WrongSize { .. } => "not-in-log",
            ProofError::NotBefore { .. } => "not-before",
        }
    }
}

impl Certificate {
    /// Verifies that this certificate makes `header` final: every signature is right, and more than two thirds of the
    /// voting power signed.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn verify(&self, header: &SealedHeader, validators: &Validators) -> Result<(), ProofError> {
        self.verify_with(header, validators, Signatures::from(&BTreeSet::new()))
    }

    fn verify_with(
        &self,
        header: &SealedHeader,
        validators: &Validators,
        known: Signatures<'_>,
    ) -> Result<(), ProofError> {
        let Header { deployment, chain, height, .. } = header.header();
        if self.block != header.id() || self.height != *height {
            return Err(ProofError::OtherBlock);
        }
        let digest = commit_digest(*deployment, chain, self.height, self.round, self.block);
        let mut seen = BTreeSet::new();
        let mut found = 0;
        for CommitSignature { kid, signature } in &self.signatures {
            let (key, power) = validators.power(*kid).ok_or(ProofError::Stranger(*kid))?;
            if !seen.insert(*kid) {
                return Err(ProofError::Stranger(*kid));
            }
            known.verify_digest(key, &digest, signature).map_err(|_| ProofError::BadSignature(*kid))?;
            found += power;
        }
        let total = validators.total();
        if found * 3 > total * 2 { Ok(()) } else { Err(ProofError::TooFew { found, total }) }
    }
}

/// An event and the proof that it is final, which needs nothing but validators' keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    /// The ledger.
    pub chain: Name,
    /// The header's bytes.
    pub header: Bytes,
    /// What makes it final.
    pub certificate: Certificate,
    /// The event's bytes.
    pub event: Bytes,
    /// The event's place in the block.
    pub index: Integer,
    /// How many events the block has.
    pub size: Integer,
    /// The RFC 9162 path from the event to `events_root`.
    pub path: Vec<Digest>,
}

impl Inclusion {
    /// Verifies the whole proof and gives the header; the event is [`Inclusion::event`].
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn verify(
        &self,
        deployment: DeploymentId,
        validators: &Validators,
    ) -> Result<SealedHeader, ProofError> {
        self.verify_with(deployment, validators, Signatures::from(&BTreeSet::new()))
    }

    /// The same, with signatures some of which may be known already.
    pub(crate) fn verify_with(
        &self,
        deployment: DeploymentId,
        validators: &Validators,
        known: Signatures<'_>,
    ) -> Result<SealedHeader, ProofError> {
        let header = SealedHeader::parse(&self.header.0).map_err(ProofError::Header)?;
        check_ledger(&header, deployment, &self.chain)?;
        self.certificate.verify_with(&header, validators, known)?;
        check_event(&header, &self.event, self.index, self.size, &self.path)?;
        Ok(header)
    }
}

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

fn check_ledger(header: &SealedHeader, deployment: DeploymentId, chain: &Name) -> Result<(), ProofError> {
    let found = header.header();
    if found.deployment != deployment {
        return Err(ProofError::OtherDeployment { expected: deployment, found: found.deployment });
    }
    if found.chain != *chain {
        return Err(ProofError::OtherChain { expected: chain.clone(), found: found.chain.clone() });
    }
    Ok(())
}

fn check_event(
    header: &SealedHeader,
    event: &Bytes,
    index: Integer,
    size: Integer,
    path: &[Digest],
) -> Result<(), ProofError> {
    let header = header.header();
    if size != header.events_count {
        return Err(ProofError::WrongSize { expected: header.events_count.get(), found: size.get() });
    }
    let root = merkle::root_of_path(merkle::leaf_hash(&event.0), index.get(), size.get(), path);
    if root == Some(header.events_root) { Ok(()) } else { Err(ProofError::NotIncluded) }
}

mod signature_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Signature, encoding};

    pub(super) fn serialize<S: Serializer>(signature: &Signature, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::encode(signature))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        encoding::decode_array(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle made by another implementation: its certificates and paths verify with genesis's validators.
    #[test]
    fn an_inclusion_made_elsewhere_verifies() {
        #[derive(Deserialize)]
        struct Chain {
            validators: Vec<PublicKey>,
        }
        #[derive(Deserialize)]
        struct Genesis {
            chains: Vec<Chain>,
        }
        #[derive(Deserialize)]
        struct Bundle {
            inclusion: Inclusion,
        }
        let genesis_bytes = include_bytes!("../../tests/vectors/flat.genesis.json");
        let genesis: Genesis = serde_json::from_slice(genesis_bytes).unwrap();
        let bundle: Bundle =
            serde_json::from_slice(include_bytes!("../../tests/vectors/approved.bundle.json")).unwrap();
        let deployment = DeploymentId(Digest::of(genesis_bytes));
        let validators = |at: usize| Validators::new(genesis.chains[at].validators.clone());
        bundle.inclusion.verify(deployment, &validators(1)).unwrap();
        assert!(matches!(bundle.inclusion.verify(deployment, &validators(0)), Err(ProofError::Stranger(_))));
    }
}
