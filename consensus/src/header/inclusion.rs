//! That an event is final, shown by nothing but validators' keys.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Certificate, ProofError, SealedHeader, Validators};
use crate::bundle::Signatures;
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::json::Integer;
use crate::merkle;
use crate::message::DeploymentId;
use crate::name::Name;

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

pub(super) fn check_ledger(
    header: &SealedHeader,
    deployment: DeploymentId,
    chain: &Name,
) -> Result<(), ProofError> {
    let found = header.header();
    if found.deployment != deployment {
        return Err(ProofError::OtherDeployment { expected: deployment, found: found.deployment });
    }
    if found.chain != *chain {
        return Err(ProofError::OtherChain { expected: chain.clone(), found: found.chain.clone() });
    }
    Ok(())
}

pub(super) fn check_event(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwk::PublicKey;

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
        let genesis_bytes = include_bytes!("../../../tests/vectors/flat.genesis.json");
        let genesis: Genesis = serde_json::from_slice(genesis_bytes).unwrap();
        let bundle: Bundle =
            serde_json::from_slice(include_bytes!("../../../tests/vectors/approved.bundle.json")).unwrap();
        let deployment = DeploymentId(Digest::of(genesis_bytes));
        let validators = |at: usize| Validators::new(genesis.chains[at].validators.clone());
        bundle.inclusion.verify(deployment, &validators(1)).unwrap();
        assert!(matches!(bundle.inclusion.verify(deployment, &validators(0)), Err(ProofError::Stranger(_))));
    }
}
