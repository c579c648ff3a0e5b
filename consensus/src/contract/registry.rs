//! What a contract looks up: contracts, policies, processes, keys and validators of its deployment, one function each.

use std::sync::Arc;

use super::rotation::transitions;
use super::{Rejection, State};
use crate::digest::Digest;
use crate::event::Call;
use crate::genesis::{ContractEntry, Genesis, KeyEntry};
use crate::header::Inclusion;
use crate::jwk::PublicKey;
use crate::message::{DeploymentId, KeyVersion};
use crate::name::Name;
use crate::operational_key::VerificationKey;
use crate::policy::Policy;
use crate::process::Process;
use crate::standing::{KeyName, compromised_at, version_at};
use crate::subject::Subject;
use crate::time::UnixMillis;

/// The deployment as seen from one of its ledgers.
pub(super) struct Registry {
    genesis: Arc<Genesis>,
    chain: Name,
}

impl Registry {
    pub(super) fn new(genesis: Arc<Genesis>, chain: Name) -> Registry {
        Registry { genesis, chain }
    }

    pub(super) fn deployment(&self) -> DeploymentId {
        self.genesis.id()
    }

    /// The ledger that this is about.
    pub(super) fn chain(&self) -> &Name {
        &self.chain
    }

    /// Checks that a message is meant for this deployment.
    pub(super) fn check_deployment(&self, found: DeploymentId) -> Result<(), Rejection> {
        let own = self.deployment();
        if found == own {
            return Ok(());
        }
        let message = format!("the message is for deployment `{found}`, and this is `{own}`");
        Err(Rejection::new("other-deployment", message))
    }

    /// Checks that a message is meant for this ledger.
    pub(super) fn check_chain(&self, found: &Name) -> Result<(), Rejection> {
        if *found == self.chain {
            return Ok(());
        }
        let message = format!("the message is for `{found}`, and this is `{}`", self.chain);
        Err(Rejection::new("other-chain", message))
    }

    /// Verifies that an event is final on its ledger.
    pub(super) fn check_inclusion(&self, inclusion: &Inclusion) -> Result<(), Rejection> {
        let chain = self.genesis.chain(&inclusion.chain).ok_or_else(|| {
            Rejection::new("unknown-chain", format!("there is no `{}` in this deployment", inclusion.chain))
        })?;
        inclusion.verify(self.deployment(), &chain.validators)?;
        Ok(())
    }

    /// A consensus contract of any ledger.
    pub(super) fn contract(&self, name: &Name) -> Result<&ContractEntry, Rejection> {
        self.genesis.contract(name).ok_or_else(|| {
            Rejection::new("unknown-contract", format!("there is no consensus contract `{name}`"))
        })
    }

    /// The policy of a contract that has this digest.
    pub(super) fn policy<'g>(
        &self,
        contract: &'g ContractEntry,
        digest: &Digest,
    ) -> Result<&'g Policy, Rejection> {
        if contract.policy.digest() == *digest {
            return Ok(&contract.policy);
        }
        let message = format!("the contract `{}` has no policy `{digest}`", contract.name);
        Err(Rejection::new("unknown-policy", message))
    }

    /// A contract's public key of this version.
    pub(super) fn contract_key(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
        version: KeyVersion,
    ) -> Result<PublicKey, Rejection> {
        if version.is_first() {
            return Ok(contract.key.clone());
        }
        let key = KeyName::Contract(contract.name.clone());
        let found = transitions(state, &key).into_iter().find(|says| says.version == version);
        found.map(|says| says.to).ok_or_else(|| {
            let message = format!("the contract `{}` has no key version {version}", contract.name);
            Rejection::new("unknown-key-version", message)
        })
    }

    /// Checks that what begins at `moment` uses the version of a contract's key that is in force then, and trusted.
    pub(super) fn check_version(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
        version: KeyVersion,
        moment: UnixMillis,
    ) -> Result<(), Rejection> {
        let key = KeyName::Contract(contract.name.clone());
        let transitions = transitions(state, &key);
        if compromised_at(&transitions, version).is_some() {
            let message = format!("version {version} of {key} is compromised");
            return Err(Rejection::new("key-compromised", message));
        }
        let in_force = version_at(&transitions, moment);
        if version == in_force {
            return Ok(());
        }
        let message = format!("version {in_force} of {key} is in force at {moment}, not version {version}");
        Err(Rejection::new("unknown-key-version", message))
    }

    /// Whether a version of a contract's key is known not to be trusted.
    pub(super) fn is_compromised(&self, state: &dyn State, contract: &Name, version: KeyVersion) -> bool {
        compromised_at(&transitions(state, &KeyName::Contract(contract.clone())), version).is_some()
    }

    /// The genesis of the deployment.
    pub(super) fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Checks that a ledger is one of processes.
    pub(super) fn check_process_chain(&self, chain: &Name) -> Result<(), Rejection> {
        match self.genesis.processes().iter().any(|process| process.chain == *chain) {
            true => Ok(()),
            false => Err(Rejection::new("other-chain", format!("`{chain}` records no processes"))),
        }
    }

    /// The process of this name, and the ledger that it is on.
    pub(super) fn process(&self, name: &Name) -> Result<(&Name, &Process), Rejection> {
        let found = self.genesis.process(name).map(|entry| (&entry.chain, &*entry.definition));
        found.ok_or_else(|| Rejection::new("unknown-process", format!("there is no process `{name}`")))
    }

    /// The public key of the requester of a call from `calling_chain`.
    pub(super) fn requester(&self, call: &Call, calling_chain: &Name) -> Result<&PublicKey, Rejection> {
        let (chain, process) = self.process(&call.process)?;
        let requester =
            Some(process).filter(|process| chain == calling_chain && process.digest() == call.definition);
        requester
            .and_then(|process| process.requester_by_key(&call.requester))
            .map(|found| &found.key)
            .ok_or_else(|| {
                let message = format!(
                    "the key `{}` is no requester's of the process `{}`",
                    call.requester, call.process
                );
                Rejection::new("not-a-requester", message)
            })
    }

    /// An operational key, and its public half in this version.
    pub(super) fn key(
        &self,
        state: &dyn State,
        name: &Name,
        version: KeyVersion,
    ) -> Result<(&KeyEntry, VerificationKey), Rejection> {
        let unknown = || {
            let message = format!("there is no version {version} of the key `{name}`");
            Rejection::new("unknown-key", message)
        };
        let entry = self.genesis.key(name).ok_or_else(unknown)?;
        let key = KeyName::Operational(name.clone());
        let transitions = transitions(state, &key);
        if compromised_at(&transitions, version).is_some() {
            let message = format!("version {version} of {key} is compromised");
            return Err(Rejection::new("key-compromised", message));
        }
        if version.is_first() {
            return Ok((entry, entry.key.clone()));
        }
        let found = transitions.into_iter().find(|says| says.version == version);
        Ok((entry, found.ok_or_else(unknown)?.to.into()))
    }

    /// Why `contract` may not decide on `subject`; nothing if it may.
    pub(super) fn refusal(&self, contract: &ContractEntry, subject: &Subject) -> Option<String> {
        let ContractEntry { name, policy, .. } = contract;
        if !policy.decides(subject.kind()) {
            return Some(format!("`{name}` does not decide on subjects of kind `{}`", subject.kind()));
        }
        if !self.genesis.may_decide(name, subject) {
            return Some(format!("`{name}` does not govern what the subject acts on"));
        }
        match subject {
            Subject::ChangePolicy { contract: target, from, .. }
                if self.genesis.contract(target).is_none_or(|target| target.policy.digest() != *from) =>
            {
                Some(format!("the policy `{from}` of `{target}` is not in force"))
            }
            _ => None,
        }
    }
}
