//! What is in force in a deployment: genesis, and the key transitions and policies that were approved since.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;
use crate::genesis::{ContractEntry, Genesis, KeyEntry, Role};
use crate::jwk::{PublicKey, Thumbprint};
use crate::message::{KeyTransition, KeyVersion, TransitionReason};
use crate::name::Name;
use crate::operational_key::VerificationKey;
use crate::policy::Policy;
use crate::time::{Millis, UnixMillis};

/// A key by its name in the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyName {
    /// A consensus contract's own key.
    Contract(Name),
    /// A key that approved actions use.
    Operational(Name),
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyName::Contract(name) => write!(f, "the key of contract `{name}`"),
            KeyName::Operational(name) => write!(f, "the key `{name}`"),
        }
    }
}

/// A policy that an approved `change-policy` has put in the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedPolicy {
    /// The digest of its document.
    pub digest: Digest,
    /// When it was approved.
    pub decided: UnixMillis,
    /// The moment from which it may be in force.
    pub earliest: UnixMillis,
    /// The moment from which the one before it is not. The same, where the statement of the change is known; who knows of
    /// the approval alone knows that it was carried out between the decision and the end of `act_within`.
    pub latest: UnixMillis,
}

/// What followed genesis: the transitions of each key, in order of version (the first one leads to version 2), and the
/// policies of each contract, in order.
#[derive(Clone, Debug, Default)]
pub struct Successions {
    keys: BTreeMap<KeyName, Vec<KeyTransition>>,
    policies: BTreeMap<Name, Vec<AdoptedPolicy>>,
    /// The documents that are known, by digest.
    documents: BTreeMap<Digest, Arc<Policy>>,
}

impl Successions {
    /// The transitions of one key.
    pub fn of(&self, key: &KeyName) -> &[KeyTransition] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// The one that leads from this version of a key to the next.
    pub fn after(&self, key: &KeyName, version: KeyVersion) -> Option<&KeyTransition> {
        version_of(self.of(key), version.next())
    }

    /// Adds the next transition of a key, which [`crate::transition::verify`] has verified to be that.
    pub fn add(&mut self, key: KeyName, transition: KeyTransition) {
        self.keys.entry(key).or_default().push(transition);
    }

    /// Adds the next policy of a contract, which [`crate::policy_change`] has found to be that.
    pub fn adopt(&mut self, contract: Name, policy: AdoptedPolicy) {
        self.policies.entry(contract).or_default().push(policy);
    }

    /// Adds the document of an adopted policy, which [`crate::policy_change::check_document`] has checked.
    pub fn learn(&mut self, document: Arc<Policy>) {
        self.documents.insert(document.digest(), document);
    }
}

/// What is in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Standing<'g> {
    genesis: &'g Genesis,
    successions: Arc<Successions>,
}

impl<'g> Standing<'g> {
    /// Genesis, and what followed it.
    pub fn new(genesis: &'g Genesis, successions: Arc<Successions>) -> Standing<'g> {
        Standing { genesis, successions }
    }

    /// Where it began.
    pub fn genesis(&self) -> &'g Genesis {
        self.genesis
    }

    /// The transitions of a key.
    pub fn transitions(&self, key: &KeyName) -> &[KeyTransition] {
        self.successions.of(key)
    }

    /// The policies that followed a contract's policy of genesis, in order.
    pub fn policies(&self, contract: &Name) -> &[AdoptedPolicy] {
        self.successions.policies.get(contract).map_or(&[], Vec::as_slice)
    }

    /// The digest of a contract's policy that is in force at a moment, as far as that is known.
    pub fn policy_at(&self, contract: &ContractEntry, moment: UnixMillis) -> Digest {
        let adopted = self.policies(&contract.name).iter().rfind(|adopted| adopted.latest <= moment);
        adopted.map_or_else(|| contract.policy.digest(), |adopted| adopted.digest)
    }

    /// The digest of a contract's last policy.
    pub fn last_policy(&self, contract: &ContractEntry) -> Digest {
        self.policies(&contract.name).last().map_or_else(|| contract.policy.digest(), |last| last.digest)
    }

    /// Whether a contract's policy may have been in force at a moment.
    pub fn may_be_in_force(&self, contract: &ContractEntry, policy: &Digest, moment: UnixMillis) -> bool {
        let adopted = self.policies(&contract.name);
        let is_over = |next: usize| adopted.get(next).is_some_and(|next| next.latest <= moment);
        let later = adopted.iter().zip(1..);
        let is_it = |adopted: &AdoptedPolicy| adopted.digest == *policy && adopted.earliest <= moment;
        (contract.policy.digest() == *policy && !is_over(0))
            || later.into_iter().any(|(adopted, next)| is_it(adopted) && !is_over(next))
    }

    /// The document of one of a contract's policies; nothing if it is not known.
    pub fn policy<'s>(&'s self, contract: &'s ContractEntry, digest: &Digest) -> Option<&'s Arc<Policy>> {
        if contract.policy.digest() == *digest {
            return Some(&contract.policy);
        }
        let is_its = self.policies(&contract.name).iter().any(|adopted| adopted.digest == *digest);
        self.successions.documents.get(digest).filter(|_| is_its)
    }

    /// The contract that has adopted a policy of this digest whose document is not known.
    pub fn lacking(&self, digest: &Digest) -> Option<&Name> {
        let Successions { policies, documents, .. } = &*self.successions;
        let mut named = policies.iter().filter(|_| !documents.contains_key(digest));
        named
            .find(|(_, adopted)| adopted.iter().any(|adopted| adopted.digest == *digest))
            .map(|(name, _)| name)
    }

    /// The longest duration that a contract's policies say, of those that are known and that were in force by a moment.
    pub fn longest(
        &self,
        contract: &ContractEntry,
        by: UnixMillis,
        duration: impl Fn(&Policy) -> Millis,
    ) -> Millis {
        let adopted = self.policies(&contract.name).iter().filter(|adopted| adopted.latest <= by);
        let known = adopted.filter_map(|adopted| self.successions.documents.get(&adopted.digest));
        known.map(|policy| duration(policy)).fold(duration(&contract.policy), Ord::max)
    }

    /// Puts a contract's next policy into force, which [`crate::policy_change`] has found to be that.
    pub fn adopt(&mut self, contract: Name, policy: AdoptedPolicy) {
        Arc::make_mut(&mut self.successions).adopt(contract, policy);
    }

    /// The same, with the document of an adopted policy, which [`crate::policy_change::check_document`] has checked.
    #[must_use]
    pub fn with_document(&self, document: Arc<Policy>) -> Standing<'g> {
        let mut successions = self.successions.clone();
        Arc::make_mut(&mut successions).learn(document);
        Standing { genesis: self.genesis, successions }
    }

    /// Puts the next transition of a key into force, which [`crate::transition::verify`] has verified to be that.
    pub fn follow(&mut self, key: KeyName, transition: KeyTransition) {
        Arc::make_mut(&mut self.successions).add(key, transition);
    }

    /// A contract's key in this version.
    pub fn contract_key<'s>(
        &'s self,
        contract: &'s ContractEntry,
        version: KeyVersion,
    ) -> Option<&'s PublicKey> {
        if version == KeyVersion::first() {
            return Some(&contract.key);
        }
        version_of(self.transitions(&KeyName::Contract(contract.name.clone())), version).map(|to| &to.to)
    }

    /// An operational key in this version.
    pub fn operational_key(&self, key: &KeyEntry, version: KeyVersion) -> Option<VerificationKey> {
        if version == KeyVersion::first() {
            return Some(key.key.clone());
        }
        let transitions = self.transitions(&KeyName::Operational(key.name.clone()));
        version_of(transitions, version).map(|to| to.to.clone().into())
    }

    /// The role of a key, whatever its version (invariant I13).
    pub fn role(&self, key: &Thumbprint) -> Option<Role> {
        let later = || {
            let is_it = |transition: &KeyTransition| transition.to.thumbprint() == *key;
            let found = self.successions.keys.iter().find(|(_, transitions)| transitions.iter().any(is_it));
            found.map(|(name, _)| match name {
                KeyName::Contract(_) => Role::Contract,
                KeyName::Operational(_) => Role::Operational,
            })
        };
        let votes = || self.is_voter(key).then_some(Role::Voter);
        self.genesis.role(key).or_else(later).or_else(votes)
    }

    /// Whether a key is a voter's, by any policy that is known.
    pub fn is_voter(&self, key: &Thumbprint) -> bool {
        let of_genesis = self.genesis.contracts().iter().map(|contract| &contract.policy);
        of_genesis.chain(self.successions.documents.values()).any(|policy| policy.voter_by_key(key).is_some())
    }

    /// The last version of a key and its thumbprint; nothing if genesis has no such key.
    pub fn last(&self, key: &KeyName) -> Option<(KeyVersion, Thumbprint)> {
        if let Some(last) = self.transitions(key).last() {
            return Some((last.version, last.to.thumbprint()));
        }
        let first = match key {
            KeyName::Contract(name) => self.genesis.contract(name)?.key.thumbprint(),
            KeyName::Operational(name) => self.genesis.key(name)?.key.thumbprint(),
        };
        Some((KeyVersion::first(), first))
    }
}

/// The transition that leads to a version.
fn version_of(transitions: &[KeyTransition], version: KeyVersion) -> Option<&KeyTransition> {
    transitions.iter().find(|transition| transition.version == version)
}

/// The version of a key that is in force at a moment, by the transitions of that key: what is begun then is begun with it.
pub fn version_at(transitions: &[KeyTransition], moment: UnixMillis) -> KeyVersion {
    let active = transitions.iter().rfind(|transition| transition.activates <= moment);
    active.map_or_else(KeyVersion::first, |transition| transition.version)
}

/// Since when a version of a key is known not to be trusted; nothing if it is.
pub fn compromised_at(transitions: &[KeyTransition], version: KeyVersion) -> Option<UnixMillis> {
    let mut after = transitions.iter().filter(|transition| transition.version > version);
    after.find(|transition| transition.reason == TransitionReason::Compromise).map(|found| found.activates)
}
