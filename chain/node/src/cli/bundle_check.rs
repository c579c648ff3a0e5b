//! Whether a bundle proves what it says, with nothing but genesis: every signature, the subject derived again, every
//! ballot counted again, the decision compared, and both inclusions checked (invariants I2 and I6).
//!
//! ```text
//! genesis ─▶ contract's key ─▶ vote request ─▶ policy, process, start ─▶ subject
//!                │                  └─▶ ballots ─▶ tally ─▶ outcome, decided
//!                └─▶ decision ◀──────────────────────────────┘ └─▶ inclusion, result
//! ```

use std::collections::BTreeSet;

use assent_consensus::bundle::{ActionResult, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::genesis::{ContractEntry, Genesis, ProcessEntry};
use assent_consensus::header::{Inclusion, ProofError};
use assent_consensus::json::Integer;
use assent_consensus::jwk::{PublicKey, Thumbprint};
use assent_consensus::jws::{Jws, JwsError, Payload, Signed, Verified};
use assent_consensus::message::{
    Ballot, BallotsRoot, Cancel, Decision, KeyVersion, RequestId, Start, VoteRequest,
};
use assent_consensus::name::Name;
use assent_consensus::policy::Tally;
use assent_consensus::process::StepAction;
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Outcome;

/// Why a bundle proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BundleError {
    /// A message is malformed, or not signed by whom it must be signed.
    #[error("the {what}: {source}")]
    Message {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        source: JwsError,
    },
    /// Something is not what it must be.
    #[error("{what} is `{found}`, where `{expected}` is expected")]
    Differs {
        /// What.
        what: &'static str,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// Something that genesis does not have.
    #[error("genesis has no {what} `{name}`")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: Name,
    },
    /// A key that counts no more.
    #[error("the {what} is signed by the key `{key}`, which is revoked")]
    Revoked {
        /// Which message.
        what: &'static str,
        /// The key.
        key: Thumbprint,
    },
    /// A record is not shown to be in the log.
    #[error("the {what} is not shown to be in the log: {source}")]
    Inclusion {
        /// Of what.
        what: &'static str,
        /// What is wrong.
        source: ProofError,
    },
    /// Anything else.
    #[error("{0}")]
    Wrong(String),
}

/// Verifies a bundle under `genesis`. A signature by a key in `revoked` is none.
///
/// # Errors
/// [`BundleError`]
pub(super) fn verify(
    genesis: &Genesis,
    bundle: &Bundle,
    revoked: &BTreeSet<Thumbprint>,
) -> Result<(), BundleError> {
    same("the version", &bundle.version, &Integer::saturating(1))?;
    same("the deployment", &bundle.genesis, &genesis.id())?;
    if !(bundle.contract_transitions.is_empty()
        && bundle.key_transitions.is_empty()
        && bundle.history.is_empty())
    {
        return Err(BundleError::Wrong("changes since genesis cannot be verified by this version".into()));
    }
    let request = RequestProof::verify(genesis, bundle, revoked)?;
    let decision = request.verify_decision(bundle, revoked)?;
    verify_record(genesis, bundle, &request, &decision)?;
    match &bundle.result {
        None => Ok(()),
        Some(result) => verify_result(genesis, &request, &decision, result, revoked),
    }
}

/// The question, verified.
struct RequestProof<'g> {
    genesis: &'g Genesis,
    contract: &'g ContractEntry,
    process: &'g ProcessEntry,
    requester: &'g PublicKey,
    start: Verified<Start>,
    vote_request: Verified<VoteRequest>,
}

impl<'g> RequestProof<'g> {
    fn verify(
        genesis: &'g Genesis,
        bundle: &Bundle,
        revoked: &BTreeSet<Thumbprint>,
    ) -> Result<RequestProof<'g>, BundleError> {
        let claim: Signed<VoteRequest> = read("vote request", &bundle.vote_request)?;
        let name = &claim.unverified().contract;
        let contract = genesis
            .contract(name)
            .ok_or_else(|| BundleError::Unknown { what: "contract", name: name.clone() })?;
        let vote_request = signed("vote request", claim, &contract.key, revoked)?;
        same("the deployment of the vote request", &vote_request.deployment, &genesis.id())?;
        same("the log of the vote request", &vote_request.chain, &contract.chain)?;
        same("the key version of the vote request", &vote_request.key_version, &KeyVersion::first())?;
        same("the policy of the bundle", &Digest::of(&bundle.policy.0), &contract.policy.digest())?;
        same("the policy of the vote request", &vote_request.policy, &contract.policy.digest())?;
        let deadline = vote_request.opened.after(contract.policy.deadline());
        same("the deadline", &vote_request.deadline, &deadline)?;

        let name = &vote_request.process;
        let process = genesis
            .process(name)
            .ok_or_else(|| BundleError::Unknown { what: "process", name: name.clone() })?;
        let definition = process.definition.digest();
        same("the process document of the bundle", &Digest::of(&bundle.definition.0), &definition)?;
        same("the process document of the vote request", &vote_request.definition, &definition)?;

        same("the start of the vote request", &vote_request.start, &bundle.start.digest())?;
        let requester = process.definition.requester_by_key(&vote_request.requester).ok_or_else(|| {
            BundleError::Wrong(format!(
                "`{}` may not start a case of `{}`",
                vote_request.requester, process.name
            ))
        })?;
        let start: Verified<Start> = signed("start", read("start", &bundle.start)?, &requester.key, revoked)?;
        same("the deployment of the start", &start.deployment, &genesis.id())?;
        same("the log of the start", &start.chain, &process.chain)?;
        same("the process of the start", &start.process, &process.name)?;
        same("the process document of the start", &start.definition, &definition)?;
        same("the case of the start", &start.case, &vote_request.case)?;
        let proof =
            RequestProof { genesis, contract, process, requester: &requester.key, start, vote_request };
        proof.verify_subject()?;
        Ok(proof)
    }

    fn verify_subject(&self) -> Result<(), BundleError> {
        let VoteRequest { step, attempt, requester, subject, .. } = &*self.vote_request;
        let id = RequestId::derive(&self.start, self.genesis.id(), *requester, step, *attempt);
        same("the request", &self.vote_request.request, &id)?;
        match self.process.definition.step(step).map(|step| &step.action) {
            Some(StepAction::Ask { contract, retries, .. })
                if *contract == self.contract.name
                    && (1..=u64::from(*retries) + 1).contains(&attempt.get()) => {}
            _ => {
                let why = format!("step `{step}` does not ask `{}` at attempt {attempt}", self.contract.name);
                return Err(BundleError::Wrong(why));
            }
        }
        let derived = self.process.definition.derive_subject(step, &self.start.input);
        let derived = derived.map_err(|error| BundleError::Wrong(error.to_string()))?;
        if derived != *subject {
            return Err(BundleError::Wrong(
                "the subject is not what the process derives from the start".into(),
            ));
        }
        if !self.genesis.may_decide(&self.contract.name, subject) {
            let why = format!("`{}` may not decide on this `{}`", self.contract.name, subject.kind());
            return Err(BundleError::Wrong(why));
        }
        Ok(())
    }

    /// Counts every ballot again and compares what comes out with the decision.
    fn verify_decision(
        &self,
        bundle: &Bundle,
        revoked: &BTreeSet<Thumbprint>,
    ) -> Result<Verified<Decision>, BundleError> {
        let vote_request = &self.vote_request;
        let policy = &self.contract.policy;
        let mut tally = Tally::new(policy, Some(&vote_request.requester), vote_request.opened);
        for counted in &bundle.ballots {
            let claim: Signed<Ballot> = read("ballot", &counted.jws)?;
            let kid = claim.jws().kid();
            let voter = policy
                .voter_by_key(&kid)
                .ok_or_else(|| BundleError::Wrong(format!("a ballot is by `{kid}`, who is no voter")))?;
            let ballot = signed("ballot", claim, &policy.voter(voter).key, revoked)?;
            same("the deployment of a ballot", &ballot.deployment, &self.genesis.id())?;
            same("the request of a ballot", &ballot.request, &vote_request.request)?;
            same("the vote request of a ballot", &ballot.vote_request, &vote_request.digest())?;
            same("the voter of a ballot", &ballot.voter, &policy.voter(voter).name)?;
            tally.cast(voter, ballot.choice, counted.at).map_err(|refusal| {
                BundleError::Wrong(format!("the ballot of `{}` does not count: {refusal}", ballot.voter))
            })?;
        }
        let (outcome, decided) = self.outcome(bundle, &tally, revoked)?;
        let decision: Verified<Decision> =
            signed("decision", read("decision", &bundle.decision)?, &self.contract.key, revoked)?;
        same("the deployment of the decision", &decision.deployment, &self.genesis.id())?;
        same("the log of the decision", &decision.chain, &self.contract.chain)?;
        same("the contract of the decision", &decision.contract, &self.contract.name)?;
        same("the request of the decision", &decision.request, &vote_request.request)?;
        same("the vote request of the decision", &decision.vote_request, &vote_request.digest())?;
        same("the policy of the decision", &decision.policy, &vote_request.policy)?;
        same("the key version of the decision", &decision.key_version, &vote_request.key_version)?;
        let ballots =
            BallotsRoot::of(bundle.ballots.iter().map(|counted| (counted.at, counted.jws.as_str())));
        same("the number of ballots in the decision", &decision.ballots.count, &ballots.count)?;
        same("the root of the ballots in the decision", &decision.ballots.root, &ballots.root)?;
        same("the outcome of the decision", &decision.outcome, &outcome)?;
        same("the moment of the decision", &decision.decided, &decided)?;
        Ok(decision)
    }

    fn outcome(
        &self,
        bundle: &Bundle,
        tally: &Tally<'_>,
        revoked: &BTreeSet<Thumbprint>,
    ) -> Result<(Outcome, UnixMillis), BundleError> {
        let end = self.vote_request.deadline;
        let Some(cancel) = &bundle.cancel else {
            return tally
                .outcome(end)
                .ok_or_else(|| BundleError::Wrong("the rule was not decided at the deadline".into()));
        };
        let message: Verified<Cancel> =
            signed("cancellation", read("cancellation", &cancel.jws)?, self.requester, revoked)?;
        same("the deployment of the cancellation", &message.deployment, &self.genesis.id())?;
        same("the log of the cancellation", &message.chain, &self.start.chain)?;
        same("the case of the cancellation", &message.case, &self.start.case)?;
        let after_all = bundle.ballots.last().is_none_or(|last| last.at <= cancel.at);
        if cancel.at < self.vote_request.opened || !after_all || tally.outcome(cancel.at).is_some() {
            return Err(BundleError::Wrong(
                "the cancellation did not come while the request was open".into(),
            ));
        }
        Ok((Outcome::Cancelled, cancel.at))
    }
}

fn verify_record(
    genesis: &Genesis,
    bundle: &Bundle,
    request: &RequestProof<'_>,
    decision: &Verified<Decision>,
) -> Result<(), BundleError> {
    let what = "decision";
    let inclusion = &bundle.inclusion;
    verify_inclusion(what, genesis, &request.contract.chain, inclusion)?;
    match ConsensusEvent::parse(&inclusion.event.0) {
        Ok(ConsensusEvent::DecisionRecorded { request: recorded, outcome, decision: digest, .. })
            if recorded == decision.request && outcome == decision.outcome && digest == decision.digest() =>
        {
            Ok(())
        }
        _ => Err(BundleError::Wrong("the record in the log is not of this decision".into())),
    }
}

fn verify_result(
    genesis: &Genesis,
    request: &RequestProof<'_>,
    decision: &Verified<Decision>,
    result: &ActionResult,
    revoked: &BTreeSet<Thumbprint>,
) -> Result<(), BundleError> {
    if decision.outcome != Outcome::Approved {
        return Err(BundleError::Wrong(format!(
            "there is a result, and the request is {}",
            decision.outcome
        )));
    }
    let Subject::Sign { key: asked, digest, .. } = &request.vote_request.subject else {
        return Err(BundleError::Wrong("there is a signature, and the subject asks for none".into()));
    };
    let step = request.process.definition.act_on(&request.vote_request.step);
    let step = step.ok_or_else(|| BundleError::Wrong("the process does not act on this approval".into()))?;
    same("the key of the result", &result.key, asked)?;
    let key = genesis.key(asked).ok_or_else(|| BundleError::Unknown { what: "key", name: asked.clone() })?;
    same("the key version of the result", &result.version, &KeyVersion::first())?;
    same("the public key of the result", &result.public_key.thumbprint(), &key.key.thumbprint())?;
    if result.format != key.format {
        return Err(BundleError::Wrong("the signature is not in the format of its key".into()));
    }
    if revoked.contains(&key.key.thumbprint()) {
        return Err(BundleError::Revoked { what: "result", key: key.key.thumbprint() });
    }
    let good = match result.format {
        SignatureFormat::Der => key.key.verify_digest_der(digest, &result.signature.0).is_ok(),
        SignatureFormat::Raw => {
            let raw = <[u8; 64]>::try_from(&result.signature.0[..]);
            raw.is_ok_and(|raw| key.key.verify_digest(digest, &raw).is_ok())
        }
        SignatureFormat::Dsse | SignatureFormat::Jws => {
            return Err(BundleError::Wrong(
                "this signature format cannot be verified by this version".into(),
            ));
        }
    };
    if !good {
        return Err(BundleError::Wrong("the signature of the result does not verify".into()));
    }
    verify_inclusion("result", genesis, &request.process.chain, &result.inclusion)?;
    match ProcessEvent::parse(&result.inclusion.event.0) {
        Ok(ProcessEvent::ResultRecorded { case, step: done, request: recorded, result: output, .. })
            if case == request.start.case
                && done == step.name
                && recorded == decision.request
                && output == Digest::of(&result.signature.0) =>
        {
            Ok(())
        }
        _ => Err(BundleError::Wrong("the record in the log is not of this result".into())),
    }
}

fn verify_inclusion(
    what: &'static str,
    genesis: &Genesis,
    chain: &Name,
    inclusion: &Inclusion,
) -> Result<(), BundleError> {
    same("the log of an inclusion", &inclusion.chain, chain)?;
    let validators = &genesis
        .chain(chain)
        .ok_or_else(|| BundleError::Unknown { what: "chain", name: chain.clone() })?
        .validators;
    let header = inclusion.verify(genesis.id(), validators);
    header.map(drop).map_err(|source| BundleError::Inclusion { what, source })
}

fn read<P: Payload>(what: &'static str, jws: &Jws) -> Result<Signed<P>, BundleError> {
    Signed::from_jws(jws.clone()).map_err(|source| BundleError::Message { what, source })
}

fn signed<P: Payload>(
    what: &'static str,
    message: Signed<P>,
    key: &PublicKey,
    revoked: &BTreeSet<Thumbprint>,
) -> Result<Verified<P>, BundleError> {
    if revoked.contains(&key.thumbprint()) {
        return Err(BundleError::Revoked { what, key: key.thumbprint() });
    }
    message.verify(key).map_err(|source| BundleError::Message { what, source })
}

fn same<T: PartialEq + ToString>(what: &'static str, found: &T, expected: &T) -> Result<(), BundleError> {
    if found == expected {
        return Ok(());
    }
    Err(BundleError::Differs { what, found: found.to_string(), expected: expected.to_string() })
}

#[cfg(test)]
mod tests {
    use assent_consensus::json;

    use super::*;

    const GENESIS: &[u8] = include_bytes!("../../../../tests/vectors/flat.genesis.json");
    const BUNDLES: [&[u8]; 2] = [
        include_bytes!("../../../../tests/vectors/approved.bundle.json"),
        include_bytes!("../../../../tests/vectors/rejected.bundle.json"),
    ];
    /// Every so many-th character is changed: prime, so that all members get their turn.
    const STRIDE: usize = 41;

    fn judge(genesis: &[u8], bundle: &[u8]) -> Result<(), String> {
        let genesis = Genesis::parse(genesis).map_err(|error| error.to_string())?;
        let bundle: Bundle = json::read(bundle).map_err(|error| error.to_string())?;
        verify(&genesis, &bundle, &BTreeSet::new()).map_err(|error| error.to_string())
    }

    /// The text with one letter or digit of it changed to another.
    fn changed(text: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
        let places = (0..text.len()).filter(|at| text[*at].is_ascii_alphanumeric()).step_by(STRIDE);
        places.map(|at| {
            let mut changed = text.to_vec();
            changed[at] = if text[at] == b'1' { b'2' } else { b'1' };
            (at, changed)
        })
    }

    #[test]
    fn any_changed_character_of_a_bundle_makes_it_invalid() {
        for bundle in BUNDLES {
            judge(GENESIS, bundle).expect("valid as it is");
            for (at, changed) in changed(bundle) {
                assert!(judge(GENESIS, &changed).is_err(), "the character at byte {at}");
            }
        }
    }

    #[test]
    fn any_changed_character_of_genesis_makes_its_bundles_invalid() {
        for (at, changed) in changed(GENESIS) {
            assert!(judge(&changed, BUNDLES[0]).is_err(), "the character at byte {at}");
        }
    }

    #[test]
    fn a_bundle_that_leans_on_changes_is_refused() {
        let mut bundle: Bundle = json::read(BUNDLES[0]).expect("well formed");
        bundle.history.push(bundle.clone());
        let genesis = Genesis::parse(GENESIS).expect("valid");
        assert!(verify(&genesis, &bundle, &BTreeSet::new()).is_err());
    }
}
