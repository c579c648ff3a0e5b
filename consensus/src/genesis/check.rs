//! Whether the parts of a genesis file fit together.

use super::error::wrong;
use super::read::check_length;
use super::{Genesis, GenesisError, Place, ProcessEntry, Role, Roles};
use crate::jwk::Thumbprint;
use crate::name::Name;
use crate::process::{StepAction, Template};
use crate::subject::{Subject, Target};

impl Genesis {
    pub(super) fn check_references(&self) -> Result<(), GenesisError> {
        let governor = |place: Place, name: &Name| match self.contract(name) {
            Some(_) => Ok(()),
            None => Err(wrong(place, format!("`governed_by` names `{name}`, and there is no such contract"))),
        };
        let chain = |place: Place, name: &Name| match self.chain(name) {
            Some(_) => Ok(()),
            None => Err(wrong(place, format!("`chain` names `{name}`, and there is no such chain"))),
        };
        for contract in &self.contracts {
            chain(Place::Contract(contract.name.clone()), &contract.chain)?;
            if let Some(name) = &contract.governed_by {
                governor(Place::Contract(contract.name.clone()), name)?;
            }
        }
        for process in &self.processes {
            let place = Place::Process(process.name.clone());
            chain(place.clone(), &process.chain)?;
            governor(place.clone(), &process.governed_by)?;
            if self.contracts.iter().any(|contract| contract.chain == process.chain) {
                let why = format!(
                    "`{}` is the chain of a contract; processes need a chain of their own",
                    process.chain
                );
                return Err(wrong(place, why));
            }
        }
        for key in &self.keys {
            governor(Place::Key(key.name.clone()), &key.governed_by)?;
        }
        if self.contracts.is_empty() || self.processes.is_empty() {
            let why = "there must be at least one contract and one process, or nothing could ever be asked";
            return Err(wrong(Place::File, why));
        }
        Ok(())
    }

    pub(super) fn check_recovery(&self) -> Result<(), GenesisError> {
        let Some(recovery) = &self.recovery else { return Ok(()) };
        check_length(&Place::Recovery, "keys", recovery.keys.len())?;
        if !(1..=recovery.keys.len() as u64).contains(&recovery.threshold.get()) {
            let why = format!(
                "`threshold` must be from 1 to the number of keys, {}, not {}",
                recovery.keys.len(),
                recovery.threshold
            );
            return Err(wrong(Place::Recovery, why));
        }
        Ok(())
    }

    pub(super) fn assign_roles(&self) -> Result<Roles, GenesisError> {
        let mut roles = Roles::default();
        let mut assign = |place: Place, key: Thumbprint, role: Role| {
            roles.assign(key, role).map_err(|source| GenesisError::Role { place, source })
        };
        for chain in &self.chains {
            for key in chain.validators.keys() {
                assign(Place::Chain(chain.id.clone()), key.thumbprint(), Role::Validator)?;
            }
        }
        for contract in &self.contracts {
            assign(Place::Contract(contract.name.clone()), contract.key.thumbprint(), Role::Contract)?;
            for voter in contract.policy.voters() {
                assign(Place::Contract(contract.name.clone()), voter.key.thumbprint(), Role::Voter)?;
            }
        }
        for process in &self.processes {
            for requester in process.definition.requesters() {
                assign(Place::Process(process.name.clone()), requester.key.thumbprint(), Role::Requester)?;
            }
        }
        for key in &self.keys {
            assign(Place::Key(key.name.clone()), key.key.thumbprint(), Role::Operational)?;
        }
        for key in self.recovery.iter().flat_map(|recovery| &recovery.keys) {
            assign(Place::Recovery, key.thumbprint(), Role::Recovery)?;
        }
        Ok(roles)
    }

    /// Checks that each contract that a process asks is there and may decide on what it is asked, as far as the template
    /// says that for all inputs.
    pub(super) fn check_steps(&self, process: &ProcessEntry) -> Result<(), GenesisError> {
        for step in process.definition.steps() {
            let StepAction::Ask { contract: asked, template, .. } = &step.action else { continue };
            let refuse = |why: String| {
                Err(wrong(Place::Process(process.name.clone()), format!("step `{}` {why}", step.name)))
            };
            let Some(contract) = self.contract(asked) else {
                return refuse(format!("asks `{asked}`, and there is no such contract"));
            };
            if !contract.policy.decides(template.kind()) {
                return refuse(format!(
                    "asks `{asked}` about a `{kind}`, which its policy does not decide: add `{kind}` to its `kinds`",
                    kind = template.kind()
                ));
            }
            let Ok(sample) = template.sample(process.definition.inputs()) else {
                return refuse("has a template that gives no valid subject".into());
            };
            if !is_target_fixed(template) || sample.target() == Target::Nothing {
                continue;
            }
            match self.governor(&sample) {
                Some(governor) if governor == asked => {}
                Some(governor) => {
                    return refuse(format!(
                        "asks `{asked}`, but only `{governor}` can decide on {}",
                        target_words(&sample)
                    ));
                }
                None => return refuse(format!("names {}, which is not there", target_words(&sample))),
            }
        }
        Ok(())
    }
}

/// Whether what a template's subjects act on is the same in all of them.
fn is_target_fixed(template: &Template) -> bool {
    ["key", "contract", "process", "chain", "governed_by"].into_iter().all(|member| template.is_fixed(member))
}

fn target_words(subject: &Subject) -> String {
    match subject.target() {
        Target::Key(name) => format!("the key `{name}`"),
        Target::Contract(name) => format!("the contract `{name}`"),
        Target::Process(name) => format!("the process `{name}`"),
        Target::Chain(name) => format!("a contract that governs the chain `{name}`"),
        Target::New { governed_by } => format!("the contract `{governed_by}`"),
        Target::Nothing => "nothing".into(),
    }
}
