//! What is final: for each ledger a header with its certificate on the line of headers that this KMS has trusted, against
//! which duties are proven.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::header::{Anchor, Certificate, Finality, ProofError};
use assent_consensus::name::Name;

use super::refusal::BatchRefusal;
use super::vault::Vault;

/// How many headers of a ledger are remembered, so that batches that are under way at once need not name the newest.
const REMEMBERED: usize = 64;

/// The headers that were trusted since the KMS started.
///
/// The lock is held from reading the trusted header to advancing it: two headers that both follow on one trusted header
/// need not follow on each other.
#[derive(Default)]
pub(super) struct Anchors(Mutex<BTreeMap<Name, VecDeque<Known>>>);

struct Known {
    anchor: Arc<Anchor>,
    certificate: Certificate,
}

/// The header of each ledger of one batch.
#[derive(Default)]
pub(super) struct BatchAnchors(Vec<(Name, Arc<Anchor>)>);

impl BatchAnchors {
    pub(super) fn of(&self, chain: &Name) -> Option<&Anchor> {
        self.0.iter().find(|(known, _)| known == chain).map(|(_, anchor)| &**anchor)
    }
}

impl Anchors {
    /// The anchors of a batch, if every one of its headers was verified before.
    pub(super) fn known(&self, finality: &[Finality]) -> Option<BatchAnchors> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if twice(finality).is_some() {
            return None;
        }
        let mut anchors = BatchAnchors::default();
        for claim in finality {
            anchors.0.push((claim.chain.clone(), remembered(known.get(&claim.chain)?, claim)?));
        }
        Some(anchors)
    }

    /// Verifies the headers of a batch, each against genesis's validators and the header that was trusted before, and trusts
    /// them from then on.
    pub(super) fn verify(
        &self,
        genesis: &Genesis,
        vault: &dyn Vault,
        finality: Vec<Finality>,
    ) -> Result<BatchAnchors, BatchRefusal> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chain) = twice(&finality) {
            return Err(BatchRefusal::TwoHeaders(chain.to_string()));
        }
        let mut anchors = BatchAnchors::default();
        for claim in finality {
            let chain = claim.chain.clone();
            let line = known.entry(chain.clone()).or_default();
            let anchor = match remembered(line, &claim) {
                Some(anchor) => anchor,
                None => trust(genesis, vault, line, claim)?,
            };
            anchors.0.push((chain, anchor));
        }
        Ok(anchors)
    }
}

/// A ledger of which there are two headers.
fn twice(finality: &[Finality]) -> Option<&Name> {
    let mut seen = BTreeSet::new();
    finality.iter().map(|claim| &claim.chain).find(|chain| !seen.insert(*chain))
}

/// The anchor of a header that was verified with this very certificate, and so is on the trusted line.
fn remembered(line: &VecDeque<Known>, claim: &Finality) -> Option<Arc<Anchor>> {
    let same = |known: &&Known| {
        known.anchor.header().bytes() == claim.header.0 && known.certificate == claim.certificate
    };
    line.iter().rev().find(same).map(|known| known.anchor.clone())
}

fn trust(
    genesis: &Genesis,
    vault: &dyn Vault,
    line: &mut VecDeque<Known>,
    mut claim: Finality,
) -> Result<Arc<Anchor>, BatchRefusal> {
    let chain = claim.chain.to_string();
    let Some(entry) = genesis.chain(&claim.chain) else { return Err(BatchRefusal::UnknownChain(chain)) };
    let trusted = vault.trusted().chains.into_iter().find(|known| known.chain == claim.chain);
    let trusted = trusted.map(|known| known.trusted);
    if trusted.is_some_and(|trusted| trusted.id == Digest::of(&claim.header.0)) {
        // It became the trusted one between the sender's question and now.
        claim.consistency.clear();
    }
    let anchor = Anchor::verify(&claim, genesis.id(), &entry.validators, trusted.as_ref());
    let anchor = anchor.map_err(|source| match source {
        ProofError::NotBefore { earlier: trusted, later: found } if found < trusted => {
            BatchRefusal::StaleHeader { chain, found, trusted }
        }
        ProofError::NotBefore { earlier: trusted, later: found } => {
            BatchRefusal::OtherLine { chain, found, trusted }
        }
        source => BatchRefusal::NotFinal { chain, source },
    })?;
    let anchor = Arc::new(anchor);
    if trusted != Some(anchor.trusted()) {
        vault.advance_trusted(&claim.chain, anchor.trusted()).map_err(BatchRefusal::Storage)?;
    }
    if line.len() == REMEMBERED {
        line.pop_front();
    }
    line.push_back(Known { anchor: anchor.clone(), certificate: claim.certificate });
    Ok(anchor)
}
