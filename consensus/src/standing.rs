//! What is in force in a deployment: genesis, and the key transitions that were approved since.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::genesis::{ContractEntry, Genesis, KeyEntry, Role};
use crate::jwk::{PublicKey, Thumbprint};
use crate::message::{KeyTransition, KeyVersion, TransitionReason};
use crate::name::Name;
use crate::operational_key::VerificationKey;
use crate::time::UnixMillis;

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

/// The transitions of each key since genesis, in order of version: the first one leads to version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Successions(BTreeMap<KeyName, Vec<KeyTransition>>);

impl Successions {
    /// Those of one key.
    pub fn of(&self, key: &KeyName) -> &[KeyTransition] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The one that leads from this version of a key to the next.
    pub fn after(&self, key: &KeyName, version: KeyVersion) -> Option<&KeyTransition> {
        version_of(self.of(key), version.next())
    }

    /// Adds the next transition of a key, which [`crate::transition::verify`] has verified to be that.
    pub fn add(&mut self, key: KeyName, transition: KeyTransition) {
        self.0.entry(key).or_default().push(transition);
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
            let found = self.successions.0.iter().find(|(_, transitions)| transitions.iter().any(is_it));
            found.map(|(name, _)| match name {
                KeyName::Contract(_) => Role::Contract,
                KeyName::Operational(_) => Role::Operational,
            })
        };
        self.genesis.role(key).or_else(later)
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
