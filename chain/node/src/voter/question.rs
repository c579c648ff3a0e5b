//! What a voter is asked, verified up to the genesis that he trusts (invariant I4): nothing that the node says is taken
//! on its word.
//!
//! ```text
//! genesis, and the changes approved since ─┬▶ contract's key ─▶ vote request ─┬▶ process     (that of genesis, by digest)
//!                                          └▶ policy, by digest ◀─────────────┤
//!                                                                             └▶ start ─▶ requester   (his signature)
//!                                                                                   └──▶ subject  (derived by the process)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use assent_consensus::bundle::{BundleError, Lineage};
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{ContractEntry, Genesis, ProcessEntry};
use assent_consensus::jws::{Jws, JwsError, Signed, Verified};
use assent_consensus::message::{Ballot, RequestId, Start, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::policy::{Policy, Tally, VoterIndex};
use assent_consensus::policy_change::{PolicyChangeError, check_document};
use assent_consensus::process::{ProcessError, Requester, StepAction};
use assent_consensus::standing::{KeyName, Standing, version_at};
use assent_consensus::time::UnixMillis;

use crate::api::RequestView;

/// A vote request that is what it says, under the voter's own genesis.
#[derive(Debug)]
pub struct Question<'g> {
    /// The vote request.
    pub vote_request: Verified<VoteRequest>,
    /// The start of the case.
    pub start: Verified<Start>,
    /// The contract that asks.
    pub contract: &'g ContractEntry,
    /// The policy by which it decides.
    pub policy: Arc<Policy>,
    /// The process that the case is a run of.
    pub process: &'g ProcessEntry,
    /// Who started the case.
    pub requester: &'g Requester,
}

/// A ballot that was counted, as far as its signature says.
#[derive(Debug)]
pub struct Cast {
    /// Who voted.
    pub voter: VoterIndex,
    /// When, by the node's word.
    pub at: UnixMillis,
    /// The ballot.
    pub ballot: Verified<Ballot>,
}

/// Why a vote request is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The node did not send what a voter must see.
    #[error("the node did not send the {0}")]
    Missing(&'static str),
    /// A message is malformed, or not signed by the key that it must be signed by.
    #[error("the {what}: {source}")]
    Message {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        source: JwsError,
    },
    /// It names something that genesis does not have.
    #[error("the vote request names the {what} `{name}`, which your genesis does not have")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: Name,
    },
    /// Something differs from what it must be.
    #[error("{0}")]
    Differs(String),
    /// The process derives no such subject.
    #[error("the process does not ask this: {0}")]
    Process(#[from] ProcessError),
    /// The contract's key or policy is not shown to come from that of genesis.
    #[error("how the contract's key and policy came to what they are: {0}")]
    Lineage(BundleError),
    /// The policy is not one that the contract could have.
    #[error(transparent)]
    Policy(PolicyChangeError),
    /// The policy or key is newer than genesis.
    #[error("{0}")]
    Newer(String),
}

impl<'g> Question<'g> {
    /// Verifies the request that the node shows for `request`.
    ///
    /// # Errors
    /// [`Distrust`]
    pub fn verify(
        genesis: &'g Genesis,
        request: RequestId,
        view: &RequestView,
    ) -> Result<Question<'g>, Distrust> {
        let jws = view.vote_request.clone().ok_or(Distrust::Missing("vote request"))?;
        let start = view.start.clone().ok_or(Distrust::Missing("start of the case"))?;
        Question::of(genesis, request, jws, start, (view.lineage.as_ref(), view.policy.as_ref()))
    }

    fn of(
        genesis: &'g Genesis,
        request: RequestId,
        jws: Jws,
        start: Jws,
        (lineage, document): (Option<&Lineage>, Option<&Bytes>),
    ) -> Result<Question<'g>, Distrust> {
        let signed: Signed<VoteRequest> = message("vote request", Signed::from_jws(jws))?;
        let claim = signed.unverified();
        same("the deployment of the vote request", &claim.deployment, &genesis.id())?;
        same("the request", &claim.request, &request)?;
        let contract = genesis.contract(&claim.contract);
        let contract =
            contract.ok_or_else(|| Distrust::Unknown { what: "contract", name: claim.contract.clone() })?;
        let version = claim.key_version;
        let standing = match lineage {
            Some(lineage) => {
                let relied_on = (&contract.name, &claim.policy);
                lineage.standing(genesis, relied_on, &BTreeSet::new()).map_err(Distrust::Lineage)?
            }
            None => Standing::new(genesis, Arc::default()),
        };
        let key = standing.contract_key(contract, version).ok_or_else(|| {
            Distrust::Newer(format!(
                "the vote request is signed by version {version} of the key of `{}`, and the node does not show how the key \
                 of your genesis came to it",
                contract.name
            ))
        })?;
        let vote_request = message("vote request", signed.verify(key))?;
        let transitions = standing.transitions(&KeyName::Contract(contract.name.clone()));
        same("the key version in force", &version, &version_at(transitions, vote_request.opened))?;
        same("the ledger of the vote request", &vote_request.chain, &contract.chain)?;
        let policy = policy(&standing, contract, &vote_request, document)?;
        let process = genesis.process(&vote_request.process);
        let process = process
            .ok_or_else(|| Distrust::Unknown { what: "process", name: vote_request.process.clone() })?;
        if vote_request.definition != process.definition.digest() {
            return Err(Distrust::Newer(format!(
                "the case runs under the process document `{}`, and your genesis has `{}` for `{}`",
                vote_request.definition,
                process.definition.digest(),
                process.name
            )));
        }
        let (start, requester) = verify_start(genesis, process, &vote_request, start)?;
        check_subject(genesis, &policy, process, &vote_request, &start)?;
        let deadline = vote_request.opened.after(policy.deadline());
        same("the deadline", &vote_request.deadline, &deadline)?;
        Ok(Question { vote_request, start, contract, policy, process, requester })
    }

    /// Verifies the ballots that the node shows, and counts them by the policy.
    ///
    /// # Errors
    /// [`Distrust`]
    pub fn tally(&self, view: &RequestView) -> Result<(Tally<'_>, Vec<Cast>), Distrust> {
        let policy = &*self.policy;
        let requester = self.vote_request.requester;
        let mut tally = Tally::new(policy, Some(&requester), self.vote_request.opened);
        let mut casts = Vec::with_capacity(view.ballots.len());
        for shown in &view.ballots {
            let signed: Signed<Ballot> = message("ballot", Signed::from_jws(shown.jws.clone()))?;
            let voter = policy.voter_by_key(&signed.jws().kid());
            let voter =
                voter.ok_or_else(|| Distrust::Differs("a ballot is by nobody who may vote".into()))?;
            let ballot = message("ballot", signed.verify(&policy.voter(voter).key))?;
            same("the deployment of a ballot", &ballot.deployment, &self.vote_request.deployment)?;
            same("the request of a ballot", &ballot.request, &self.vote_request.request)?;
            same("the vote request of a ballot", &ballot.vote_request, &self.vote_request.digest())?;
            same("the voter of a ballot", &ballot.voter, &policy.voter(voter).name)?;
            tally.cast(voter, ballot.choice, shown.at).map_err(|refusal| {
                Distrust::Differs(format!("the node counted the ballot of `{}`: {refusal}", ballot.voter))
            })?;
            casts.push(Cast { voter, at: shown.at, ballot });
        }
        Ok((tally, casts))
    }
}

/// The policy of a vote request: that of genesis, or one that the changes approved since led to.
fn policy(
    standing: &Standing<'_>,
    contract: &ContractEntry,
    vote_request: &VoteRequest,
    document: Option<&Bytes>,
) -> Result<Arc<Policy>, Distrust> {
    let digest = &vote_request.policy;
    if !standing.may_be_in_force(contract, digest, vote_request.opened) {
        return Err(Distrust::Newer(format!(
            "the vote request is under the policy `{digest}`, and your genesis has `{}` for `{}`; the changes that the \
             node shows do not lead from the one to the other",
            contract.policy.digest(),
            contract.name
        )));
    }
    if let Some(known) = standing.policy(contract, digest) {
        return Ok(known.clone());
    }
    let Bytes(document) = document.ok_or(Distrust::Missing("policy"))?;
    check_document(standing, &contract.name, digest, document).map_err(Distrust::Policy)
}

fn verify_start<'g>(
    genesis: &Genesis,
    process: &'g ProcessEntry,
    vote_request: &VoteRequest,
    start: Jws,
) -> Result<(Verified<Start>, &'g Requester), Distrust> {
    same("the start of the case", &start.digest(), &vote_request.start)?;
    let requester = process.definition.requester_by_key(&vote_request.requester).ok_or_else(|| {
        Distrust::Differs(format!(
            "the requester `{}` may not start a case of `{}`",
            vote_request.requester, process.name
        ))
    })?;
    let signed: Signed<Start> = message("start of the case", Signed::from_jws(start))?;
    let start = message("start of the case", signed.verify(&requester.key))?;
    same("the deployment of the start", &start.deployment, &genesis.id())?;
    same("the ledger of the start", &start.chain, &process.chain)?;
    same("the process of the start", &start.process, &vote_request.process)?;
    same("the process document of the start", &start.definition, &vote_request.definition)?;
    same("the case of the start", &start.case, &vote_request.case)?;
    Ok((start, requester))
}

fn check_subject(
    genesis: &Genesis,
    policy: &Policy,
    process: &ProcessEntry,
    vote_request: &VoteRequest,
    start: &Start,
) -> Result<(), Distrust> {
    let VoteRequest { step, attempt, requester, subject, .. } = vote_request;
    let id = RequestId::derive(start, genesis.id(), *requester, step, *attempt);
    same("the id of the request", &vote_request.request, &id)?;
    match process.definition.step(step).map(|step| &step.action) {
        Some(StepAction::Ask { contract: asked, retries, .. })
            if asked == policy.name() && (1..=u64::from(*retries) + 1).contains(&attempt.get()) => {}
        _ => {
            return Err(Distrust::Differs(format!(
                "step `{step}` of `{}` does not ask `{}` for the {attempt}. time",
                process.name,
                policy.name()
            )));
        }
    }
    let derived = process.definition.derive_subject(step, &start.input)?;
    if derived != *subject {
        return Err(Distrust::Differs("the subject is not what the process derives from the start".into()));
    }
    if !genesis.may_decide(policy, subject) {
        return Err(Distrust::Differs(format!(
            "`{}` may not decide on this `{}`",
            policy.name(),
            subject.kind()
        )));
    }
    Ok(())
}

fn message<T>(what: &'static str, read: Result<T, JwsError>) -> Result<T, Distrust> {
    read.map_err(|source| Distrust::Message { what, source })
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, found: &T, expected: &T) -> Result<(), Distrust> {
    if found == expected {
        return Ok(());
    }
    Err(Distrust::Differs(format!("{what} is `{found}`, where `{expected}` is expected")))
}

#[cfg(test)]
mod tests {
    use assent_consensus::bundle::Bundle;
    use assent_consensus::digest::Digest;
    use assent_consensus::json;

    use super::*;
    use crate::api::{BallotView, RequestState, RequestSummary};

    const GENESIS: &[u8] = include_bytes!("../../../../tests/vectors/flat.genesis.json");
    const APPROVED: &[u8] = include_bytes!("../../../../tests/vectors/approved.bundle.json");

    fn genesis() -> Genesis {
        Genesis::parse(GENESIS).expect("valid")
    }

    fn bundle() -> Bundle {
        json::read(APPROVED).expect("well formed")
    }

    /// What an honest node shows while the request of the bundle is open.
    fn view(bundle: &Bundle) -> (RequestId, RequestView) {
        let signed = Signed::<VoteRequest>::from_jws(bundle.vote_request.clone()).expect("well formed");
        let claim = signed.unverified();
        let ballots = bundle.ballots.iter().map(|counted| {
            let ballot = Signed::<Ballot>::from_jws(counted.jws.clone()).expect("well formed");
            BallotView {
                at: counted.at,
                voter: ballot.unverified().voter.clone(),
                choice: ballot.unverified().choice,
                reason: None,
                jws: counted.jws.clone(),
            }
        });
        let summary = RequestSummary {
            request: claim.request,
            state: RequestState::Open,
            contract: claim.contract.clone(),
            process: claim.process.clone(),
            case: claim.case.clone(),
            step: claim.step.clone(),
            attempt: claim.attempt.get(),
            requester: claim.requester,
            subject: claim.subject.clone(),
            opened: Some(claim.opened),
            deadline: Some(claim.deadline),
            outcome: None,
            decided: None,
        };
        let view = RequestView {
            revision: String::new(),
            summary,
            policy: None,
            definition: None,
            start: Some(bundle.start.clone()),
            vote_request: Some(bundle.vote_request.clone()),
            lineage: None,
            ballots: ballots.collect(),
            decision: None,
            explain: None,
            refused: None,
            duty: None,
        };
        (claim.request, view)
    }

    #[test]
    fn an_honest_request_is_verified_and_its_ballots_counted() {
        let (genesis, bundle) = (genesis(), bundle());
        let (request, view) = view(&bundle);
        let question = Question::verify(&genesis, request, &view).expect("it verifies");
        assert_eq!(question.requester.name.as_str(), "ci");
        let (tally, casts) = question.tally(&view).expect("they verify");
        assert_eq!((tally.ballots(), casts.len()), (bundle.ballots.len(), bundle.ballots.len()));
    }

    #[test]
    fn a_request_of_another_deployment_is_refused() {
        let other = include_bytes!("../../../../tests/vectors/deep.genesis.json");
        let other = Genesis::parse(other).expect("valid");
        let (request, view) = view(&bundle());
        let error = Question::verify(&other, request, &view).expect_err("refused");
        assert!(error.to_string().starts_with("the deployment of the vote request"), "{error}");
    }

    #[test]
    fn a_request_with_any_changed_character_is_refused() {
        let genesis = genesis();
        let bundle = bundle();
        let (request, view) = view(&bundle);
        let text = bundle.vote_request.as_str();
        // Whole characters of payload and signature: each holds six bits that count, but for the last of each part.
        for at in (0..text.len()).step_by(7) {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let Ok(jws) = Jws::parse(&changed) else { continue };
            let view = RequestView { vote_request: Some(jws), ..view.clone() };
            assert!(Question::verify(&genesis, request, &view).is_err(), "character {at}");
        }
    }

    #[test]
    fn a_request_that_was_not_asked_for_is_refused() {
        let (_, view) = view(&bundle());
        let other = RequestId(Digest::of(b"another request"));
        assert!(matches!(Question::verify(&genesis(), other, &view), Err(Distrust::Differs(_))));
    }

    #[test]
    fn a_start_that_is_another_message_is_refused() {
        let bundle = bundle();
        let (request, mut view) = view(&bundle);
        view.start = Some(bundle.decision.clone());
        assert!(matches!(Question::verify(&genesis(), request, &view), Err(Distrust::Differs(_))));
        view.start = None;
        assert_eq!(
            Question::verify(&genesis(), request, &view).err(),
            Some(Distrust::Missing("start of the case"))
        );
    }

    #[test]
    fn a_vote_request_that_is_another_message_or_key_is_refused() {
        let bundle = bundle();
        let (request, mut view) = view(&bundle);
        for other in [&bundle.decision, &bundle.start, &bundle.ballots[0].jws] {
            view.vote_request = Some(other.clone());
            assert!(matches!(
                Question::verify(&genesis(), request, &view),
                Err(Distrust::Message { source: JwsError::WrongTyp { .. }, .. })
            ));
        }
    }

    #[test]
    fn a_vote_request_signed_by_a_stranger_is_refused() {
        use crate::voter::{key_file::KeyFile, sign_message};
        let bundle = bundle();
        let (request, mut view) = view(&bundle);
        let claim = Signed::<VoteRequest>::from_jws(bundle.vote_request.clone()).expect("well formed");
        let stranger = KeyFile::generate().expect("random numbers");
        let forged = sign_message(&stranger, claim.unverified().clone()).expect("signed");
        view.vote_request = Some(forged.jws().clone());
        assert!(matches!(
            Question::verify(&genesis(), request, &view),
            Err(Distrust::Message { source: JwsError::WrongKey { .. }, .. })
        ));
    }

    #[test]
    fn a_ballot_that_is_shown_twice_is_refused() {
        let (genesis, bundle) = (genesis(), bundle());
        let (request, mut view) = view(&bundle);
        view.ballots.push(view.ballots[0].clone());
        let question = Question::verify(&genesis, request, &view).expect("it verifies");
        assert!(matches!(question.tally(&view), Err(Distrust::Differs(_))));
    }
}
