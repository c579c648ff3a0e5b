//! Vote requests: the KMS builds them itself, from what it verified to be asked.

use std::sync::Arc;

use assent_consensus::bundle::{BundleError, Question, verify_start};
use assent_consensus::digest::Digest;
use assent_consensus::event::{Call, ProcessEvent};
use assent_consensus::genesis::ContractEntry;
use assent_consensus::header::EventProof;
use assent_consensus::jws::Jws;
use assent_consensus::message::{RequestId, VoteRequest};
use assent_consensus::policy::Policy;
use assent_consensus::standing::Standing;
use assent_consensus::time::UnixMillis;

use super::checker::{AHEAD, Checker};
use super::claimed::process_event;
use super::order::Prepared;
use super::refusal::Refused;
use crate::pins::PinnedKey;
use crate::signing::{KeyName, Purpose};

impl Checker {
    /// Verifies that a vote request is due, and builds it: opened now. If one was ordered before, that shows when the intent
    /// to sign this one is to be put on record, and the one of before is taken, whatever the time.
    pub(super) fn vote_request(
        &self,
        start: &Jws,
        call: &EventProof,
        due: &EventProof,
        request: RequestId,
    ) -> Result<Prepared, Refused> {
        let ProcessEvent::Call(asked) = process_event(call)? else {
            return Err(Refused::person("other-event", "the event of the process log is no `call`"));
        };
        let opening = verify_start(&self.genesis, start, self.signatures())?;
        self.check_not_suspended(opening.requester.key.thumbprint(), "start")?;
        // The clock is read before the policies: each of these is known before it is in force.
        let opened = (self.clock)();
        let (contract, policy) = self.policy_at(&asked, opened)?;
        opening.verify_question(&self.genesis, Question::from(&asked), &policy)?;
        let calling_chain = &opening.process.chain;
        let called_in = self.check_event(calling_chain, call, "call")?;
        self.check_event(&contract.chain, due, "duty")?;
        let called = asked.request(self.genesis.id(), calling_chain);
        if called != request {
            let message = format!("the call makes the request `{called}`, and the duty is for `{request}`");
            return Err(Refused::person("other-request", message));
        }
        // A block's time is its proposer's word. One dated ahead could stand behind a fence that is yet to be put up.
        let called_at = called_in.header().time;
        if called_at > opened.after(AHEAD) {
            let message = format!(
                "the call of the request `{request}` is of {called_at}, more than {AHEAD} after {opened}, the KMS's clock"
            );
            return Err(Refused::retry("too-early", message));
        }
        self.check_fence(Purpose::VoteRequest, request, called_at)?;
        let key = self.contract_key_at(contract, opened)?;
        let name = KeyName::Contract(contract.name.clone());
        self.check_active(&name, &key, (Purpose::VoteRequest, request))?;
        Ok(Prepared::message(&key, self.build(asked, request, (contract, &policy), &key, opened)))
    }

    /// The contract that a call asks, and its policy that is in force at `now`.
    fn policy_at(&self, asked: &Call, now: UnixMillis) -> Result<(&ContractEntry, Arc<Policy>), Refused> {
        let unknown =
            || Refused::person("unknown-name", format!("genesis has no contract `{}`", asked.contract));
        let contract = self.genesis.contract(&asked.contract).ok_or_else(unknown)?;
        let not_yet = |digest: &Digest| {
            let message = format!("the policy `{digest}` of `{}` is not in force yet", contract.name);
            Refused { is_verdict: false, ..Refused::retry("policy-not-yet-in-force", message) }
        };
        // First this: what is signed between the two is among those that are read then.
        let awaits = self.vault.awaits_policy(&contract.name, now);
        let standing = Standing::new(&self.genesis, self.vault.successions());
        let (digest, last) = (standing.policy_at(contract, now), standing.last_policy(contract));
        let document = |digest: &Digest| {
            let unknown = || BundleError::NoPolicy { contract: contract.name.clone(), policy: *digest };
            standing.policy(contract, digest).cloned().ok_or_else(unknown)
        };
        let (policy, kind) = (document(&digest)?, asked.subject.kind());
        let waits = !policy.decides(kind) && document(&last)?.decides(kind);
        if waits || awaits {
            return Err(not_yet(&last));
        }
        Ok((contract, policy))
    }

    fn build(
        &self,
        asked: Call,
        request: RequestId,
        (contract, policy): (&ContractEntry, &Policy),
        key: &PinnedKey,
        opened: UnixMillis,
    ) -> VoteRequest {
        VoteRequest {
            deployment: self.genesis.id(),
            chain: contract.chain.clone(),
            contract: asked.contract,
            request,
            policy: policy.digest(),
            process: asked.process,
            definition: asked.definition,
            case: asked.case,
            step: asked.step,
            attempt: asked.attempt,
            requester: asked.requester,
            start: asked.start,
            subject: asked.subject,
            opened,
            deadline: opened.after(policy.deadline()),
            key_version: key.version,
        }
    }
}
