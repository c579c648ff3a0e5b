//! What makes a block final.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Header, ProofError, SealedHeader, Validators};
use crate::bundle::Signatures;
use crate::digest::{Digest, Tuple};
use crate::encoding;
use crate::json::{self, Integer};
use crate::jwk::{Signature, Thumbprint};
use crate::message::DeploymentId;
use crate::name::Name;

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

impl Certificate {
    /// Verifies that this certificate makes `header` final: every signature is right, and more than two thirds of the
    /// voting power signed.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn verify(&self, header: &SealedHeader, validators: &Validators) -> Result<(), ProofError> {
        self.verify_with(header, validators, Signatures::from(&BTreeSet::new()))
    }

    pub(super) fn verify_with(
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

mod signature_text {
    use serde::{Deserializer, Serializer};

    use super::{Signature, encoding, json};

    pub(super) fn serialize<S: Serializer>(signature: &Signature, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::encode(signature))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        json::read_text(deserializer, encoding::decode_array)
    }
}
