//! From genesis to what a bundle relies on: each change of its history is the bundle of an approval, and puts the key
//! transition or the policy that it approved into force for all that come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::approval::read;
use super::error::{BundleError, Thing};
use super::signatures::Signatures;
use super::verify::{Act, verify_under};
use super::{Bundle, TransitionPair};
use crate::digest::Digest;
use crate::genesis::Genesis;
use crate::jws::Signed;
use crate::message::KeyTransition;
use crate::name::Name;
use crate::policy_change;
use crate::standing::{AdoptedPolicy, KeyName, Standing, Successions};
use crate::time::UnixMillis;
use crate::transition;

/// Transitions by the decision that approved them, as the bundles show them.
type Shown<'b> = BTreeMap<Digest, &'b TransitionPair>;

/// For whose sake a history is looked at.
#[derive(Clone, Copy)]
pub(super) struct Relied<'b> {
    /// The transitions of keys.
    pub(super) transitions: &'b [TransitionPair],
    /// The contract.
    pub(super) contract: &'b Name,
    /// Its policy.
    pub(super) policy: &'b Digest,
}

/// What is in force by a history.
///
/// # Errors
/// [`BundleError`]
pub(super) fn standing<'g>(
    genesis: &'g Genesis,
    relied_on: Relied<'_>,
    history: &[Bundle],
    signatures: Signatures<'_>,
) -> Result<Standing<'g>, BundleError> {
    let mut standing = Standing::new(genesis, Arc::new(Successions::default()));
    let mut shown = shown(relied_on.transitions, history)?;
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

/// A change of the history: what it led to, and what it relies on itself.
struct Followed {
    to: Thing,
    relies_on: Vec<Thing>,
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
    let action = approval.action(standing.genesis())?;
    let decided = approval.decision.decided;
    if decided < *last {
        return Err(BundleError::NoChange("was decided before the one before it"));
    }
    *last = decided;
    let governor = approval.contract.name.clone();
    let mut relies_on = vec![
        Thing::Key(KeyName::Contract(governor.clone())),
        Thing::Policy(governor, approval.policy.digest()),
    ];
    let to = match action.act {
        Act::RotateKey { .. } => {
            let decision = approval.decision.digest();
            let pair = shown.remove(&decision).ok_or(BundleError::Unapproved(decision))?;
            let transition = transition::verify(standing, pair, signatures)?;
            transition.confirm(&approval.approval())?;
            standing.follow(transition.key.clone(), KeyTransition::clone(&transition.new));
            Thing::Key(transition.key)
        }
        Act::ChangePolicy { contract, from, to } => {
            policy_change::check_from(standing, &contract, &from, decided)?;
            let (earliest, latest) = (decided, action.act_by);
            let adopted = AdoptedPolicy { digest: to, decided, earliest, latest };
            standing.adopt(contract.clone(), adopted);
            relies_on.push(Thing::Policy(contract.clone(), from));
            Thing::Policy(contract, to)
        }
        Act::Sign { .. } | Act::DestroyKey { .. } => {
            return Err(BundleError::Changes(approval.subject().kind()));
        }
    };
    Ok(Followed { to, relies_on })
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
fn check_used(relied_on: Relied<'_>, changed: Vec<Followed>) -> Result<(), BundleError> {
    let mut used = BTreeSet::from([Thing::Policy(relied_on.contract.clone(), *relied_on.policy)]);
    for pair in relied_on.transitions {
        let key = transition::key_of(read("key transition", &pair.new)?.unverified())?;
        used.insert(Thing::Key(key));
    }
    for Followed { to, relies_on } in changed.into_iter().rev() {
        if !used.contains(&to) {
            return Err(BundleError::Unused(to));
        }
        used.extend(relies_on);
    }
    Ok(())
}
