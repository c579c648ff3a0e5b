//! What a person may believe of a contract's policy: one that the changes approved since genesis led to, by genesis alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::policy::Policy;
use assent_consensus::policy_change::check_document;

use super::question::Distrust;
use crate::api::ContractView;

/// Verifies the last policy that a node shows for a contract. That there is no later one is the node's word.
///
/// # Errors
/// [`Distrust`]
pub fn last(genesis: &Genesis, view: &ContractView) -> Result<Arc<Policy>, Distrust> {
    let unknown = || Distrust::Unknown { what: "contract", name: view.contract.clone() };
    let contract = genesis.contract(&view.contract).ok_or_else(unknown)?;
    let digest = Digest::of(&view.policy.0);
    let relied_on = (&view.contract, &digest);
    let standing = view.lineage.standing(genesis, relied_on, &BTreeSet::new()).map_err(Distrust::Lineage)?;
    if standing.last_policy(contract) != digest {
        return Err(Distrust::Newer(format!(
            "the node shows the policy `{digest}` for `{}`, and the changes that it shows do not lead there from your genesis",
            view.contract
        )));
    }
    if let Some(known) = standing.policy(contract, &digest) {
        return Ok(known.clone());
    }
    check_document(&standing, &view.contract, &digest, &view.policy.0).map_err(Distrust::Policy)
}
