//! From genesis to what a bundle relies on: each change of its history is the bundle of an approval, and puts the key
//! transition that it approved into force for all that come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::approval::read;
use super::error::BundleError;
use super::signatures::Signatures;
use super::verify::verify_under;
use super::{Bundle, TransitionPair};
use crate::digest::Digest;
use crate::genesis::Genesis;
use crate::jws::Signed;
use crate::message::KeyTransition;
use crate::standing::{KeyName, Standing, Successions};
use crate::subject::SubjectKind;
use crate::time::UnixMillis;
use crate::transition;

/// Transitions by the decision that approved them, as the bundles show them.
type Shown<'b> = BTreeMap<Digest, &'b TransitionPair>;

/// What is in force by a history; `relied_on` are the transitions of the keys for whose sake it is looked at.
///
/// # Errors
/// [`BundleError`]
pub(super) fn standing<'g>(
    genesis: &'g Genesis,
    relied_on: &[TransitionPair],
    history: &[Bundle],
    signatures: Signatures<'_>,
) -> Result<Standing<'g>, BundleError> {
    let mut standing = Standing::new(genesis, Arc::new(Successions::default()));
    let mut shown = shown(relied_on, history)?;
    let mut last = UnixMillis::new(0);
    let mut changed = Vec::new();
    for (place, change) in history.iter().enumerate() {
        let followed = follow(&mut standing, change, &mut shown, &mut last, signatures);
        changed.push(
            followed.map_err(|source| BundleError::History { place: place + 1, source: source.into() })?,
        );
    }
    if let Some(decision) = shown.keys().next() {
        return Err(BundleError::Unapproved(*decision));
    }
    check_used(relied_on, changed)?;
    Ok(standing)
}

/// A change of the history: whose key it changed, and which contract approved it.
struct Followed {
    key: KeyName,
    approved_by: KeyName,
}

/// Verifies one change under those before it, and puts it into force.
fn follow(
    standing: &mut Standing<'_>,
    change: &Bundle,
    shown: &mut Shown<'_>,
    last: &mut UnixMillis,
    signatures: Signatures<'_>,
) -> Result<Followed, BundleError> {
    if !change.history.is_empty() {
        return Err(BundleError::NoChange("has a history of its own"));
    }
    if change.result.is_some() {
        return Err(BundleError::NoChange("has a signature of an operational key"));
    }
    let approval = verify_under(standing, change, signatures)?;
    // What is not approved, or is not for this contract to decide, changes nothing.
    approval.action(standing.genesis())?;
    match approval.subject().kind() {
        SubjectKind::RotateKey => {}
        kind => return Err(BundleError::Changes(kind)),
    }
    if approval.decision.decided < *last {
        return Err(BundleError::NoChange("was decided before the one before it"));
    }
    *last = approval.decision.decided;
    let decision = approval.decision.digest();
    let pair = shown.remove(&decision).ok_or(BundleError::Unapproved(decision))?;
    let transition = transition::verify(standing, pair, signatures)?;
    transition.confirm(&approval.approval())?;
    standing.follow(transition.key.clone(), KeyTransition::clone(&transition.new));
    Ok(Followed { key: transition.key, approved_by: KeyName::Contract(approval.contract.name.clone()) })
}

/// All transitions, each of which may stand there more than once, but in one form.
fn shown<'b>(relied_on: &'b [TransitionPair], history: &'b [Bundle]) -> Result<Shown<'b>, BundleError> {
    let mut shown = Shown::new();
    let of_change = |change: &'b Bundle| change.contract_transitions.iter().chain(&change.key_transitions);
    for pair in relied_on.iter().chain(history.iter().flat_map(of_change)) {
        let says: Signed<KeyTransition> = read("key transition", &pair.new)?;
        let decision = says.unverified().decision;
        if shown.insert(decision, pair).is_some_and(|other| other != pair) {
            return Err(BundleError::Unapproved(decision));
        }
    }
    Ok(shown)
}

/// Refuses a change that leads to nothing that is relied on, by the request or by a later change.
fn check_used(relied_on: &[TransitionPair], changed: Vec<Followed>) -> Result<(), BundleError> {
    let mut used = BTreeSet::new();
    for pair in relied_on {
        used.insert(transition::key_of(read("key transition", &pair.new)?.unverified())?);
    }
    for Followed { key, approved_by } in changed.into_iter().rev() {
        if !used.contains(&key) {
            return Err(BundleError::Unused(key));
        }
        used.insert(approved_by);
    }
    Ok(())
}
