//! Making a bundle whole: the transitions of the keys that it relies on, and the approvals that led to them and to the
//! policies.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::error::BundleError;
use super::{Bundle, Lineage, TransitionPair};
use crate::contract::query::{RecordedPolicy, RecordedTransition};
use crate::jws::{Jws, Payload, Signed};
use crate::message::{Decision, KeyVersion, RequestId, VoteRequest};
use crate::name::Name;
use crate::standing::KeyName;
use crate::time::UnixMillis;

/// Where a bundle's parts come from.
pub trait Records {
    /// Why something is not there.
    type Error: From<BundleError>;

    /// The transitions of a key, in order of version.
    ///
    /// # Errors
    /// They cannot be read.
    fn transitions(&self, key: &KeyName) -> Result<Vec<RecordedTransition>, Self::Error>;

    /// The policies that followed a contract's policy of genesis, in order.
    ///
    /// # Errors
    /// They cannot be read.
    fn policies(&self, contract: &Name) -> Result<Vec<RecordedPolicy>, Self::Error>;

    /// The bundle of a decided request, without result, transitions and history.
    ///
    /// # Errors
    /// There is none.
    fn approval(&self, request: RequestId) -> Result<Bundle, Self::Error>;
}

/// A bundle that has no transitions and no history yet, with those that lead from genesis to the keys that it relies on.
///
/// # Errors
/// As `records` fails; [`BundleError`], if a message of the bundle cannot be read.
pub fn complete<R: Records>(bundle: Bundle, records: &R) -> Result<Bundle, R::Error> {
    let mut open = Vec::new();
    let bundle = with_transitions(bundle, records, &mut open)?;
    Ok(Bundle { history: history(records, open)?, ..bundle })
}

/// How a contract's key came to this version, and its policy to that of a moment.
///
/// # Errors
/// As [`complete`].
pub fn lineage<R: Records>(
    contract: &Name,
    version: KeyVersion,
    moment: UnixMillis,
    records: &R,
) -> Result<Lineage, R::Error> {
    let mut open = policies_until(contract, moment, records)?;
    let transitions = lead_to(KeyName::Contract(contract.clone()), version, records, &mut open)?;
    Ok(Lineage { transitions, history: history(records, open)? })
}

/// The bundles of these requests, and of those that approved the keys on which they rely.
fn history<R: Records>(records: &R, mut open: Vec<RequestId>) -> Result<Vec<Bundle>, R::Error> {
    let mut history: BTreeMap<(UnixMillis, RequestId), Bundle> = BTreeMap::new();
    while let Some(request) = open.pop() {
        let change = records.approval(request)?;
        let place = (payload::<Decision>("decision", &change.decision)?.decided, request);
        if let Entry::Vacant(vacant) = history.entry(place) {
            vacant.insert(with_transitions(change, records, &mut open)?);
        }
    }
    Ok(history.into_values().collect())
}

/// The same with its transitions; the requests that approved those are added to `approved_by`.
fn with_transitions<R: Records>(
    bundle: Bundle,
    records: &R,
    approved_by: &mut Vec<RequestId>,
) -> Result<Bundle, R::Error> {
    let VoteRequest { contract, key_version, opened, .. } = payload("vote request", &bundle.vote_request)?;
    approved_by.extend(policies_until(&contract, opened, records)?);
    let contract_transitions = lead_to(KeyName::Contract(contract), key_version, records, approved_by)?;
    let key_transitions = match &bundle.result {
        Some(result) => {
            lead_to(KeyName::Operational(result.key.clone()), result.version, records, approved_by)?
        }
        None => Vec::new(),
    };
    Ok(Bundle { contract_transitions, key_transitions, ..bundle })
}

/// The transitions that lead to a version of a key; the requests that approved them are added to `approved_by`.
fn lead_to<R: Records>(
    key: KeyName,
    version: KeyVersion,
    records: &R,
    approved_by: &mut Vec<RequestId>,
) -> Result<Vec<TransitionPair>, R::Error> {
    if version.is_first() {
        return Ok(Vec::new());
    }
    let recorded = records.transitions(&key)?.into_iter();
    let used: Vec<RecordedTransition> =
        recorded.take_while(|recorded| recorded.says.version <= version).collect();
    approved_by.extend(used.iter().map(|recorded| recorded.request));
    Ok(used.into_iter().map(|recorded| recorded.pair).collect())
}

/// The requests that approved the policies of a contract up to the one that was in force at a moment.
fn policies_until<R: Records>(
    contract: &Name,
    moment: UnixMillis,
    records: &R,
) -> Result<Vec<RequestId>, R::Error> {
    let recorded = records.policies(contract)?.into_iter();
    let until = recorded.take_while(|recorded| recorded.says.effective <= moment);
    Ok(until.map(|recorded| recorded.request).collect())
}

fn payload<P: Payload + Clone>(what: &'static str, jws: &Jws) -> Result<P, BundleError> {
    let signed = Signed::<P>::from_jws(jws.clone());
    signed.map(|signed| signed.unverified().clone()).map_err(|source| BundleError::Message { what, source })
}
