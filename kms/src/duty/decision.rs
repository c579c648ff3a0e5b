//! Decisions: every ballot is verified and counted again, and at most one outcome is ever signed.

use assent_consensus::bundle::{Asked, Recount, recount, verify_vote_request};
use assent_consensus::header::EventProof;
use assent_consensus::jws::{Jws, Verified};
use assent_consensus::message::{BallotsRoot, CountedMessage, Decision, RequestId, VoteRequest};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Outcome;

use super::checker::{AHEAD, Checker, check_trusted};
use super::order::{Prepared, orders_message};
use super::refusal::{Refused, other_order};
use crate::signing::{KeyName, Purpose};

/// What the consensus ledger says that a request came to.
pub(super) struct Claim {
    pub(super) request: RequestId,
    pub(super) outcome: Outcome,
    pub(super) root: BallotsRoot,
    pub(super) decided: UnixMillis,
}

impl Checker {
    /// Verifies that a decision is due, and builds it from the KMS's own count.
    pub(super) fn decision(
        &self,
        vote_request: &Jws,
        ballots: &[CountedMessage],
        cancel: Option<&CountedMessage>,
        due: &EventProof,
        claim: &Claim,
    ) -> Result<Prepared, Refused> {
        let Asked { vote_request: question, contract, policy } =
            verify_vote_request(&self.standing(), vote_request, self.signatures())?;
        self.check_event(&contract.chain, due, "duty")?;
        if question.request != claim.request {
            let message = format!(
                "the vote request is for `{}`, and the duty for `{}`",
                question.request, claim.request
            );
            return Err(Refused::person("other-request", message));
        }
        let key = self.contract_key(contract, question.key_version)?;
        check_trusted(&KeyName::Contract(contract.name.clone()), &key)?;
        self.check_own_vote_request(&question)?;
        self.check_fence(Purpose::Decision, question.request, question.opened)?;
        for ballot in ballots {
            self.check_not_suspended(ballot.jws.kid(), "ballot")?;
        }
        let count = recount(&self.genesis, &policy, &question, ballots, cancel, self.signatures())?;
        count.confirm("duty", claim.outcome, claim.decided, &claim.root)?;
        let decision = Decision {
            deployment: self.genesis.id(),
            chain: contract.chain.clone(),
            contract: contract.name.clone(),
            request: question.request,
            vote_request: question.digest(),
            policy: question.policy,
            outcome: count.outcome,
            ballots: count.root,
            decided: count.decided,
            key_version: question.key_version,
        };
        let prepared = Prepared::message(&key, decision);
        // Most are new and in time. Whether another is on record shows when this one's intent is to be put there.
        if let Err(untimely) = self.check_times(&question, &count) {
            match self.ordered(Purpose::Decision, question.request)? {
                // It was in time when it was ordered.
                Some(ordered) if *ordered == prepared.order => {}
                Some(_) => return Err(other_order(Purpose::Decision, question.request)),
                None => return Err(untimely),
            }
        }
        Ok(prepared)
    }

    /// Refuses a vote request that is not the one that was ordered, if the order is on record.
    pub(super) fn check_own_vote_request(&self, question: &Verified<VoteRequest>) -> Result<(), Refused> {
        match self.ordered(Purpose::VoteRequest, question.request)? {
            Some(ordered) if !orders_message(&ordered, question.jws()) => {
                Err(other_order(Purpose::VoteRequest, question.request))
            }
            _ => Ok(()),
        }
    }

    /// Checks an outcome against the KMS's own clock: what a ledger says of time is its proposer's word.
    fn check_times(&self, question: &VoteRequest, count: &Recount) -> Result<(), Refused> {
        let now = (self.clock)();
        let (request, decided) = (question.request, count.decided);
        if count.by_time && now < decided {
            let message = format!(
                "time alone makes the request `{request}` {} at {decided}, and it is {now} by the KMS's clock",
                count.outcome
            );
            return Err(Refused::retry("too-early", message));
        }
        if decided > now.after(AHEAD) {
            let message = format!(
                "the request `{request}` was decided at {decided}, which is more than {AHEAD} after {now}, the KMS's clock"
            );
            return Err(Refused::retry("too-early", message));
        }
        // An approval needs an approving ballot, also where a window's end completes it.
        let by_ballots = match count.outcome {
            Outcome::Approved => true,
            Outcome::Rejected | Outcome::Expired => !count.by_time,
            Outcome::Cancelled => false,
        };
        let last = question.deadline.after(self.grace);
        if by_ballots && now > last && !self.vault.is_released(request) {
            let message = format!(
                "ballots made the request `{request}` {}, and it is {now}, more than {} after its deadline: old ballots \
                 could be new ones dated back; if a person knows better: `assent-kms release {request}`",
                count.outcome, self.grace
            );
            return Err(Refused::person("too-late", message));
        }
        Ok(())
    }
}
