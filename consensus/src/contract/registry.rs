//! What a contract looks up: contracts, policies, processes, keys and validators of its deployment, one function each.

use std::sync::Arc;

use super::change::{self, RecordedPolicy, policy_document};
use super::rotation::{self, transitions};
use super::{Rejection, State};
use crate::digest::Digest;
use crate::event::Call;
use crate::genesis::{ContractEntry, Genesis, KeyEntry};
use crate::header::Inclusion;
use crate::jwk::PublicKey;
use crate::message::{DeploymentId, KeyVersion};
use crate::name::Name;
use crate::operational_key::VerificationKey;
use crate::policy::{Policy, ReadPolicies};
use crate::process::Process;
use crate::standing::{AdoptedPolicy, KeyName, Standing, Successions, compromised_at, version_at};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::transition;

/// The deployment as seen from one of its ledgers.
pub(super) struct Registry {
    genesis: Arc<Genesis>,
    chain: Name,
    /// It is asked for what the state has, and nothing else.
    read: ReadPolicies,
}

impl Registry {
    pub(super) fn new(genesis: Arc<Genesis>, chain: Name) -> Registry {
        Registry { genesis, chain, read: ReadPolicies::default() }
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
    pub(super) fn policy(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
        digest: &Digest,
    ) -> Result<Arc<Policy>, Rejection> {
        if contract.policy.digest() == *digest {
            return Ok(contract.policy.clone());
        }
        let document = policy_document(state, &contract.name, digest);
        document.and_then(|document| self.read.read(digest, || Some(document))).ok_or_else(|| {
            let message = format!("the contract `{}` has no policy `{digest}`", contract.name);
            Rejection::new("unknown-policy", message)
        })
    }

    /// The policy of a contract that is in force at a moment.
    pub(super) fn policy_at(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
        moment: UnixMillis,
    ) -> Result<Arc<Policy>, Rejection> {
        let adopted = change::policies(state, &contract.name);
        match adopted.iter().rfind(|adopted| adopted.says.effective <= moment) {
            None => Ok(contract.policy.clone()),
            Some(adopted) => self.policy(state, contract, &adopted.to),
        }
    }

    /// The last policy of a contract, be it in force already or not yet.
    pub(super) fn last_policy(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
    ) -> Result<Arc<Policy>, Rejection> {
        self.policy_at(state, contract, UnixMillis::new(u64::MAX))
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

    /// All that is in force on this ledger.
    pub(super) fn standing(&self, state: &dyn State) -> Standing<'_> {
        let mut successions = Successions::default();
        for recorded in rotation::all(state) {
            if let Ok(key) = transition::key_of(&recorded.says) {
                successions.add(key, recorded.says);
            }
        }
        for recorded in change::all_policies(state) {
            let Some(contract) = recorded.contract() else { continue };
            let RecordedPolicy { says, to, decided, .. } = &recorded;
            let document = policy_document(state, contract, to);
            if let Some(policy) = document.and_then(|document| self.read.read(to, || Some(document))) {
                successions.learn(policy);
            }
            let (earliest, latest) = (says.effective, says.effective);
            let (digest, decided) = (*to, *decided);
            successions.adopt(contract.clone(), AdoptedPolicy { digest, decided, earliest, latest });
        }
        Standing::new(&self.genesis, Arc::new(successions))
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
    pub(super) fn refusal(
        &self,
        state: &dyn State,
        contract: &ContractEntry,
        subject: &Subject,
    ) -> Option<String> {
        let name = &contract.name;
        let Ok(policy) = self.last_policy(state, contract) else {
            return Some(format!("the policy of `{name}` cannot be read"));
        };
        if !policy.decides(subject.kind()) {
            return Some(format!("`{name}` does not decide on subjects of kind `{}`", subject.kind()));
        }
        if !self.genesis.may_decide(&policy, subject) {
            return Some(format!("`{name}` does not govern what the subject acts on"));
        }
        match subject {
            Subject::ChangePolicy { contract: target, from, .. } => {
                let last = self.genesis.contract(target).map(|target| self.last_policy(state, target));
                let is_last = matches!(last, Some(Ok(last)) if last.digest() == *from);
                (!is_last).then(|| format!("the policy `{from}` of `{target}` is not in force"))
            }
            _ => None,
        }
    }
}
