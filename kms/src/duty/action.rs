//! Actions: what a verified decision approved, and nothing else, is signed with an operational key (invariant I2).

use std::sync::Arc;

use assent_consensus::bundle::{Act, Bundle, VerifiedBundle, verify_under};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::ContractEntry;
use assent_consensus::header::EventProof;
use assent_consensus::message::{RequestId, TransitionReason};
use assent_consensus::name::Name;
use assent_consensus::operational_key::Algorithm;
use assent_consensus::policy::Policy;
use assent_consensus::policy_change::check_document;
use assent_consensus::subject::{Subject, SubjectKind};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Outcome;

use super::checker::{Checker, Task, check_trusted};
use super::order::{Prepared, orders_message};
use super::refusal::{Refused, other_order};
use crate::changes::{Destruction, Mandate, PolicyChange, Rotation};
use crate::signing::{KeyName, Purpose};

/// What the process ledger says is to be done.
pub(super) struct Claim {
    pub(super) case: Name,
    pub(super) step: Name,
    pub(super) request: RequestId,
    pub(super) decision: Digest,
    pub(super) subject: Subject,
}

impl Checker {
    /// Verifies that an action was approved and is due, and makes the bytes to be signed of the approved subject.
    pub(super) fn action(
        &self,
        bundle: &Bundle,
        document: Option<&Bytes>,
        due: &EventProof,
        claim: &Claim,
    ) -> Result<Task, Refused> {
        if bundle.result.is_some() {
            return Err(Refused::person(
                "has-result",
                "the bundle has a result: the action was done already",
            ));
        }
        let approval = verify_under(&self.standing(), bundle, self.signatures())?;
        self.check_event(&approval.process.chain, due, "duty")?;
        self.check_approval(bundle, &approval)?;
        let action = approval.action(&self.genesis)?;
        check_claim(claim, &approval, &action.step.name)?;
        self.check_act_by(claim.request, action.act_by)?;
        let purpose = match action.act {
            Act::Sign { .. } => Purpose::Action,
            Act::RotateKey { .. } => Purpose::TransitionFirst,
            Act::DestroyKey { .. } | Act::ChangePolicy { .. } => Purpose::Change,
        };
        self.check_fence(purpose, claim.request, approval.vote_request.opened)?;

        match action.act {
            Act::Sign { key: entry, artifact } => {
                let name = KeyName::Operational(entry.name.clone());
                let key = self.operational_key(entry, claim.request)?;
                self.check_active(&name, &key, (Purpose::Action, claim.request))?;
                // Whether another is on record shows when this one's intent is to be put there.
                Ok(Task::Sign(Prepared::artifact(&entry.name, &key, artifact)))
            }
            Act::RotateKey { key, reason } => {
                let mandate = mandate(&approval, action.act_by);
                Ok(Task::Rotate(self.rotation(mandate, key, reason)?))
            }
            Act::DestroyKey { key, version } => {
                let (mandate, subject) = (mandate(&approval, action.act_by), approval.subject().clone());
                let grace = self.grace;
                Ok(Task::Destroy(Destruction { mandate, key, version, subject, grace }))
            }
            Act::ChangePolicy { contract, from, to } => {
                let policy = self.proposed(approval.contract, &contract, &to, document)?;
                let (mandate, subject) = (mandate(&approval, action.act_by), approval.subject().clone());
                Ok(Task::ChangePolicy(PolicyChange { mandate, contract, from, policy, subject }))
            }
        }
    }

    /// What an approved rotation makes of a key.
    fn rotation(
        &self,
        mandate: Mandate,
        key: KeyName,
        reason: TransitionReason,
    ) -> Result<Rotation, Refused> {
        if let KeyName::Operational(name) = &key
            && let Some(algorithm) = self.genesis.key(name).map(|entry| entry.key.algorithm())
            && algorithm != Algorithm::ES256
        {
            let message =
                format!("{key} signs by {algorithm}, and a key transition can name ES256 keys alone");
            return Err(Refused::person("other-algorithm", message));
        }
        Ok(Rotation { mandate, key, reason, grace: self.grace })
    }

    /// The policy that was approved, which comes with the duty: its digest is what the voters signed for.
    fn proposed(
        &self,
        governor: &ContractEntry,
        contract: &Name,
        to: &Digest,
        document: Option<&Bytes>,
    ) -> Result<Arc<Policy>, Refused> {
        let Some(Bytes(document)) = document else {
            let message = format!("the document of the policy `{to}` did not come with the duty");
            return Err(Refused::person("no-document", message));
        };
        let policy = check_document(&self.standing(), contract, to, document)?;
        if self.genesis.contract(contract).is_none_or(|target| target.chain != governor.chain) {
            let message =
                format!("`{contract}` is on another log than `{}`, which governs it", governor.name);
            return Err(Refused::person("other-chain", message));
        }
        Ok(policy)
    }

    /// Checks what a bundle cannot show: that what the contract signed is what this KMS ordered, with a key that is still
    /// trusted, that nobody who took part is suspended, and that this version can do what was approved.
    fn check_approval(&self, bundle: &Bundle, approval: &VerifiedBundle<'_>) -> Result<(), Refused> {
        let contract = approval.contract;
        let key = self.contract_key(contract, approval.decision.key_version)?;
        check_trusted(&KeyName::Contract(contract.name.clone()), &key)?;
        self.check_own_vote_request(&approval.vote_request)?;
        let request = approval.vote_request.request;
        let decided = self.ordered(Purpose::Decision, request)?;
        if decided.is_some_and(|ordered| !orders_message(&ordered, approval.decision.jws())) {
            return Err(other_order(Purpose::Decision, request));
        }
        self.check_not_suspended(approval.requester.key.thumbprint(), "start")?;
        for ballot in &bundle.ballots {
            self.check_not_suspended(ballot.jws.kid(), "ballot")?;
        }
        let kind = approval.subject().kind();
        let is_done_here = matches!(
            kind,
            SubjectKind::Sign | SubjectKind::RotateKey | SubjectKind::DestroyKey | SubjectKind::ChangePolicy
        );
        if approval.decision.outcome == Outcome::Approved && !is_done_here {
            return Err(not_supported(kind));
        }
        Ok(())
    }

    fn check_act_by(&self, request: RequestId, act_by: UnixMillis) -> Result<(), Refused> {
        let now = (self.clock)();
        if now < act_by {
            return Ok(());
        }
        let message =
            format!("what the request `{request}` approved was to be done before {act_by}, and it is {now}");
        Err(Refused::person("lapsed", message))
    }
}

fn mandate(approval: &VerifiedBundle<'_>, act_by: UnixMillis) -> Mandate {
    let decision = &approval.decision;
    Mandate {
        request: decision.request,
        governor: approval.contract.name.clone(),
        governor_version: decision.key_version,
        decision: decision.digest(),
        decided: decision.decided,
        act_by,
    }
}

fn not_supported(kind: SubjectKind) -> Refused {
    Refused::person("not-supported", format!("this version of the KMS does not do what a `{kind}` asks for"))
}

/// Compares what the process ledger says is due with what the approval justifies.
fn check_claim(claim: &Claim, approval: &VerifiedBundle<'_>, step: &Name) -> Result<(), Refused> {
    let differs = |reason, what: &str| {
        let message = format!("the duty names another {what} than the bundle that should justify it");
        Err(Refused::person(reason, message))
    };
    if claim.request != approval.vote_request.request {
        return differs("other-request", "request");
    }
    if claim.decision != approval.decision.digest() {
        return differs("other-decision", "decision");
    }
    if claim.case != approval.start.case {
        return differs("other-case", "case");
    }
    if claim.step != *step {
        return differs("other-step", "step");
    }
    if claim.subject != *approval.subject() {
        return differs("subject-differs", "subject");
    }
    Ok(())
}
