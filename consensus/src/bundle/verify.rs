//! Whether a bundle proves what it says, with nothing but genesis: every signature, the subject derived again, every
//! ballot counted again, the decision compared, and both inclusions checked (invariants I2 and I6).

use std::sync::Arc;

use super::approval::{
    Asked, Opening, Question, Recount, contract_key, read, recount, same, signed, verify_start,
    verify_vote_request,
};
use super::error::{BundleError, Member};
use super::history::{self, Relied};
use super::signatures::Signatures;
use super::{ActionResult, Bundle, TransitionPair};
use crate::artifact::Artifact;
use crate::digest::Digest;
use crate::event::{ConsensusEvent, ProcessEvent};
use crate::genesis::{ContractEntry, Genesis, KeyEntry, ProcessEntry};
use crate::header::{Header, Inclusion};
use crate::json::Integer;
use crate::jwk::PublicKey;
use crate::jws::{Jws, Signed, Verified};
use crate::message::{Decision, KeyTransition, KeyVersion, Start, TransitionReason, VoteRequest};
use crate::name::Name;
use crate::policy::{Explanation, Policy, Tally};
use crate::policy_change::check_document;
use crate::process::{Requester, Step};
use crate::standing::{KeyName, Standing, compromised_at};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::transition::{Approval, reason_of, target_of};
use crate::vote::Outcome;

/// What a bundle proves.
#[derive(Clone, Debug)]
pub struct VerifiedBundle<'g> {
    /// Who decided.
    pub contract: &'g ContractEntry,
    /// By which policy.
    pub policy: Arc<Policy>,
    /// What asked.
    pub process: &'g ProcessEntry,
    /// On whose behalf.
    pub requester: &'g Requester,
    /// The start of the case.
    pub start: Verified<Start>,
    /// The question.
    pub vote_request: Verified<VoteRequest>,
    /// The ballots, and what they come to.
    pub recount: Recount,
    /// The decision.
    pub decision: Verified<Decision>,
    /// What the approved action gave.
    pub result: Option<ActionResult>,
}

/// An action that a bundle justifies.
#[derive(Clone, Debug)]
pub struct ApprovedAction<'g> {
    /// The step that acts.
    pub step: &'g Step,
    /// What it does.
    pub act: Act<'g>,
    /// The moment from which it is too late (`act_within` after `decided`).
    pub act_by: UnixMillis,
}

/// What an approved action does.
#[derive(Clone, Debug)]
pub enum Act<'g> {
    /// An operational key signs an artifact.
    Sign {
        /// The key.
        key: &'g KeyEntry,
        /// What it signs.
        artifact: Artifact,
    },
    /// A key is followed by its next version.
    RotateKey {
        /// The key.
        key: KeyName,
        /// Why.
        reason: TransitionReason,
    },
    /// A version of a key is destroyed.
    DestroyKey {
        /// The key.
        key: KeyName,
        /// The version.
        version: KeyVersion,
    },
    /// A contract's policy is followed by another.
    ChangePolicy {
        /// Whose.
        contract: Name,
        /// The one that must be in force.
        from: Digest,
        /// The one that follows it.
        to: Digest,
    },
}

/// Verifies a bundle under `genesis`, its history and its result too if there is one. `signatures` says which count:
/// a set of thumbprints stands for all but those by these keys.
///
/// # Errors
/// [`BundleError`]
pub fn verify<'g, 'a>(
    genesis: &'g Genesis,
    bundle: &Bundle,
    signatures: impl Into<Signatures<'a>>,
) -> Result<VerifiedBundle<'g>, BundleError> {
    let signatures = signatures.into();
    let transitions = [&bundle.contract_transitions[..], &bundle.key_transitions].concat();
    let asked: Signed<VoteRequest> = read("vote request", &bundle.vote_request)?;
    let VoteRequest { contract, policy, .. } = asked.unverified();
    let relied_on = Relied { transitions: &transitions, contract, policy };
    let standing = history::standing(genesis, relied_on, &bundle.history, signatures)?;
    verify_under(&standing, bundle, signatures)
}

/// Verifies a bundle under what is known to be in force. Its transitions are compared with that, and its history is not
/// looked at.
///
/// # Errors
/// [`BundleError`]
pub fn verify_under<'g, 'a>(
    standing: &Standing<'g>,
    bundle: &Bundle,
    signatures: impl Into<Signatures<'a>>,
) -> Result<VerifiedBundle<'g>, BundleError> {
    const WHAT: &str = "bundle";
    let (genesis, signatures) = (standing.genesis(), signatures.into());
    same(WHAT, Member::Version, &bundle.version, &Integer::saturating(1))?;
    same(WHAT, Member::Deployment, &bundle.genesis, &genesis.id())?;
    let shown = Digest::of(&bundle.policy.0);
    let learnt = match standing.lacking(&shown) {
        None => None,
        Some(contract) => {
            let policy = check_document(standing, contract, &shown, &bundle.policy.0)?;
            Some(standing.with_document(policy))
        }
    };
    let standing = learnt.as_ref().unwrap_or(standing);
    let Asked { vote_request, contract, policy } =
        verify_vote_request(standing, &bundle.vote_request, signatures)?;
    let key = KeyName::Contract(contract.name.clone());
    check_transitions(standing, key, vote_request.key_version, &bundle.contract_transitions)?;
    let Opening { start, process, requester } = {
        let opening = verify_start(genesis, &bundle.start, signatures)?;
        opening.verify_question(genesis, Question::from(&*vote_request), &policy)?;
        opening
    };
    same(WHAT, Member::Policy, &shown, &vote_request.policy)?;
    same(WHAT, Member::Definition, &Digest::of(&bundle.definition.0), &vote_request.definition)?;
    let recount =
        recount(genesis, &policy, &vote_request, &bundle.ballots, bundle.cancel.as_ref(), signatures)?;
    let key = contract_key(standing, contract, vote_request.key_version)?;
    let decision = verify_decision(&vote_request, contract, key, &recount, &bundle.decision, signatures)?;
    check_not_compromised(standing, contract, &decision)?;
    verify_record(genesis, contract, &decision, &bundle.inclusion, signatures)?;
    let result = bundle.result.clone();
    let proof = VerifiedBundle {
        contract,
        policy,
        process,
        requester,
        start,
        vote_request,
        recount,
        decision,
        result,
    };
    match &proof.result {
        Some(result) => proof.verify_result(standing, result, &bundle.key_transitions, signatures)?,
        None if bundle.key_transitions.is_empty() => {}
        None => return Err(BundleError::NoChange("has transitions of an operational key, and no result")),
    }
    Ok(proof)
}

impl<'g> VerifiedBundle<'g> {
    /// What was asked.
    pub fn subject(&self) -> &Subject {
        &self.vote_request.subject
    }

    /// How the rule stood when it was decided.
    pub fn rule(&self) -> Explanation {
        let (policy, request) = (&self.policy, &self.vote_request);
        let mut tally = Tally::new(policy, Some(&request.requester), request.opened);
        for (at, ballot) in &self.recount.ballots {
            if let Some(voter) = policy.voter_by_name(&ballot.voter) {
                tally.recount(voter, ballot.choice, *at);
            }
        }
        tally.explain(self.decision.decided)
    }

    /// The action that this approval justifies.
    ///
    /// # Errors
    /// [`BundleError::NotApproved`], [`BundleError::NothingToSign`], [`BundleError::NoAction`],
    /// [`BundleError::Unknown`], [`BundleError::MayNotDecide`]
    pub fn action(&self, genesis: &'g Genesis) -> Result<ApprovedAction<'g>, BundleError> {
        let (request, decision) = (&self.vote_request, &self.decision);
        if decision.outcome != Outcome::Approved {
            return Err(BundleError::NotApproved(decision.outcome));
        }
        let kind = request.subject.kind();
        let act = match (&request.subject, target_of(&request.subject)) {
            (Subject::Sign { key, name, digest, .. }, _) => {
                let unknown = || BundleError::Unknown { what: "key", name: key.clone() };
                let key = genesis.key(key).ok_or_else(unknown)?;
                let artifact = Artifact {
                    format: key.format,
                    name: name.clone(),
                    digest: *digest,
                    request: request.request,
                    policy: request.policy,
                    decision: decision.digest(),
                };
                Act::Sign { key, artifact }
            }
            (subject @ Subject::RotateKey { .. }, Some(key)) => {
                Act::RotateKey { key, reason: reason_of(subject) }
            }
            (Subject::DestroyKey { version, .. }, Some(key)) => {
                Act::DestroyKey { key, version: KeyVersion(*version) }
            }
            (Subject::ChangePolicy { contract, from, to, .. }, _) => {
                Act::ChangePolicy { contract: contract.clone(), from: *from, to: *to }
            }
            _ => return Err(BundleError::NothingToSign(kind)),
        };
        if genesis.governor(&request.subject) != Some(&self.contract.name) {
            return Err(BundleError::MayNotDecide { contract: self.contract.name.clone(), kind });
        }
        let step = self.process.definition.act_on(&request.step);
        let step = step.ok_or_else(|| BundleError::NoAction(request.step.clone()))?;
        let act_by = decision.decided.after(self.policy.act_within());
        Ok(ApprovedAction { step, act, act_by })
    }

    /// What was approved, as far as a key transition must agree with it.
    pub fn approval(&self) -> Approval<'_> {
        Approval {
            contract: &self.contract.name,
            decision: self.decision.digest(),
            decided: self.decision.decided,
            key_version: self.decision.key_version,
            subject: self.subject(),
        }
    }

    fn verify_result(
        &self,
        standing: &Standing<'g>,
        result: &ActionResult,
        transitions: &[TransitionPair],
        signatures: Signatures<'_>,
    ) -> Result<(), BundleError> {
        const WHAT: &str = "result";
        let genesis = standing.genesis();
        let ApprovedAction { step, act, act_by } = self.action(genesis)?;
        let Act::Sign { key, artifact } = act else {
            return Err(BundleError::NothingToSign(self.subject().kind()));
        };
        same(WHAT, Member::Key, &result.key, &key.name)?;
        let (name, version) = (KeyName::Operational(key.name.clone()), result.version);
        let no_version = || BundleError::NoVersion { key: name.clone(), version };
        let public_key = standing.operational_key(key, version).ok_or_else(no_version)?;
        check_transitions(standing, name, version, transitions)?;
        let thumbprint = public_key.thumbprint();
        same(WHAT, Member::PublicKey, &result.public_key.thumbprint(), &thumbprint)?;
        same(WHAT, Member::Format, &result.format, &key.format)?;
        if signatures.are_revoked(thumbprint) {
            return Err(BundleError::Revoked { what: WHAT, key: thumbprint });
        }
        let signature = &result.signature.0;
        artifact.verify(&public_key, signature).map_err(|_| BundleError::Result(key.name.clone()))?;
        let header = verify_inclusion(WHAT, genesis, &self.process.chain, &result.inclusion, signatures)?;
        match ProcessEvent::parse(&result.inclusion.event.0) {
            Ok(ProcessEvent::ResultRecorded { case, step: done, request, result: output, .. })
                if case == self.start.case
                    && done == step.name
                    && request == self.decision.request
                    && output == Digest::of(signature) => {}
            _ => return Err(BundleError::OtherRecord(WHAT)),
        }
        if header.time >= act_by {
            return Err(BundleError::Lapsed);
        }
        Ok(())
    }
}

/// Compares the transitions that a bundle shows for a key with those that lead to the version that was used.
fn check_transitions(
    standing: &Standing<'_>,
    key: KeyName,
    version: KeyVersion,
    pairs: &[TransitionPair],
) -> Result<(), BundleError> {
    let known = standing.transitions(&key).iter().take_while(|known| known.version <= version);
    let differ = || BundleError::Transitions { key: key.clone(), version };
    let mut pairs = pairs.iter();
    for known in known {
        let TransitionPair { first, new } = pairs.next().ok_or_else(differ)?;
        for message in [first, new] {
            let says: Signed<KeyTransition> = read("key transition", message)?;
            if says.unverified() != known {
                return Err(differ());
            }
        }
    }
    if pairs.next().is_some() { Err(differ()) } else { Ok(()) }
}

/// Verifies that the contract signed what the ballots come to.
fn verify_decision(
    vote_request: &Verified<VoteRequest>,
    contract: &ContractEntry,
    key: &PublicKey,
    recount: &Recount,
    jws: &Jws,
    signatures: Signatures<'_>,
) -> Result<Verified<Decision>, BundleError> {
    const WHAT: &str = "decision";
    let decision: Verified<Decision> = signed(WHAT, read(WHAT, jws)?, key, signatures)?;
    same(WHAT, Member::Deployment, &decision.deployment, &vote_request.deployment)?;
    same(WHAT, Member::Chain, &decision.chain, &contract.chain)?;
    same(WHAT, Member::Contract, &decision.contract, &contract.name)?;
    same(WHAT, Member::Request, &decision.request, &vote_request.request)?;
    same(WHAT, Member::VoteRequest, &decision.vote_request, &vote_request.digest())?;
    same(WHAT, Member::Policy, &decision.policy, &vote_request.policy)?;
    same(WHAT, Member::KeyVersion, &decision.key_version, &vote_request.key_version)?;
    recount.confirm(WHAT, decision.outcome, decision.decided, &decision.ballots)?;
    Ok(decision)
}

/// Refuses a decision that was made after its key was known not to be trusted: the request was void then.
fn check_not_compromised(
    standing: &Standing<'_>,
    contract: &ContractEntry,
    decision: &Decision,
) -> Result<(), BundleError> {
    let (key, version) = (KeyName::Contract(contract.name.clone()), decision.key_version);
    let until = compromised_at(standing.transitions(&key), version);
    match until.is_some_and(|until| until <= decision.decided) {
        true => Err(BundleError::Compromised { key, version }),
        false => Ok(()),
    }
}

/// Verifies that the decision is in the contract's log.
fn verify_record(
    genesis: &Genesis,
    contract: &ContractEntry,
    decision: &Verified<Decision>,
    inclusion: &Inclusion,
    signatures: Signatures<'_>,
) -> Result<(), BundleError> {
    const WHAT: &str = "decision";
    verify_inclusion(WHAT, genesis, &contract.chain, inclusion, signatures)?;
    match ConsensusEvent::parse(&inclusion.event.0) {
        Ok(ConsensusEvent::DecisionRecorded { request, outcome, decision: digest, .. })
            if request == decision.request && outcome == decision.outcome && digest == decision.digest() =>
        {
            Ok(())
        }
        _ => Err(BundleError::OtherRecord(WHAT)),
    }
}

fn verify_inclusion(
    what: &'static str,
    genesis: &Genesis,
    chain: &Name,
    inclusion: &Inclusion,
    signatures: Signatures<'_>,
) -> Result<Header, BundleError> {
    same(what, Member::Chain, &inclusion.chain, chain)?;
    let entry =
        genesis.chain(chain).ok_or_else(|| BundleError::Unknown { what: "log", name: chain.clone() })?;
    let header = inclusion.verify_with(genesis.id(), &entry.validators, signatures);
    header.map(|header| header.header().clone()).map_err(|source| BundleError::Inclusion { what, source })
}
