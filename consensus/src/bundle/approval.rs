//! From a question to its outcome: what the KMS checks before it signs, and what an auditor checks afterwards.
//!
//! ```text
//! genesis ─▶ Opening (start, requester) ─▶ question: subject derived, contract may decide it
//!    └─▶ VoteRequest ─▶ ballots, cancel ─▶ Recount: outcome, decided
//! ```
//!
//! Everywhere [`Signatures`] says which signatures count.

use std::sync::Arc;

use super::error::{BundleError, Member};
use super::signatures::Signatures;
use crate::digest::Digest;
use crate::event::Call;
use crate::genesis::{ContractEntry, Genesis, ProcessEntry};
use crate::json::Integer;
use crate::jwk::{PublicKey, Thumbprint};
use crate::jws::{Jws, Payload, Signed, Verified};
use crate::message::{
    Ballot, BallotsRoot, Cancel, CountedMessage, KeyVersion, RequestId, Start, VoteRequest,
};
use crate::name::Name;
use crate::policy::{Policy, Tally, VoterIndex};
use crate::process::{Requester, StepAction};
use crate::standing::{KeyName, Standing, version_at};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::vote::Outcome;

/// A start that was verified, and who may make it.
#[derive(Clone, Debug)]
pub struct Opening<'g> {
    /// The start.
    pub start: Verified<Start>,
    /// The process that it starts.
    pub process: &'g ProcessEntry,
    /// Who signed it.
    pub requester: &'g Requester,
}

/// What a process asks a contract: the members that a call and its vote request share.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub struct Question<'a> {
    pub contract: &'a Name,
    pub subject: &'a Subject,
    pub process: &'a Name,
    pub definition: &'a Digest,
    pub case: &'a Name,
    pub step: &'a Name,
    pub attempt: Integer,
    pub requester: Thumbprint,
    pub start: Digest,
}

macro_rules! question {
    ($($source:ident),*) => { $(
        impl<'a> From<&'a $source> for Question<'a> {
            fn from(source: &'a $source) -> Question<'a> {
                let $source { contract, subject, process, definition, case, step, .. } = source;
                let (attempt, requester, start) = (source.attempt, source.requester, source.start);
                Question { contract, subject, process, definition, case, step, attempt, requester, start }
            }
        }
    )* };
}

question!(Call, VoteRequest);

/// Verifies a start: its process is that of genesis, and its signer may start it.
///
/// # Errors
/// [`BundleError`]
pub fn verify_start<'g, 'a>(
    genesis: &'g Genesis,
    start: &Jws,
    signatures: impl Into<Signatures<'a>>,
) -> Result<Opening<'g>, BundleError> {
    const WHAT: &str = "start";
    let signatures = signatures.into();
    let claim: Signed<Start> = read(WHAT, start)?;
    let message = claim.unverified();
    let process = genesis
        .process(&message.process)
        .ok_or_else(|| BundleError::Unknown { what: "process", name: message.process.clone() })?;
    let requester = process
        .definition
        .requester_by_key(&start.kid())
        .ok_or_else(|| BundleError::NotARequester { key: start.kid(), process: process.name.clone() })?;
    let start = signed(WHAT, claim, &requester.key, signatures)?;
    same(WHAT, Member::Deployment, &start.deployment, &genesis.id())?;
    same(WHAT, Member::Chain, &start.chain, &process.chain)?;
    same(WHAT, Member::Definition, &start.definition, &process.definition.digest())?;
    Ok(Opening { start, process, requester })
}

impl<'g> Opening<'g> {
    /// Verifies that a question is what this start leads to: its step asks that contract at that attempt, the subject is
    /// what the process derives, and the contract may decide on it under this policy of its own.
    ///
    /// # Errors
    /// [`BundleError`]
    pub fn verify_question(
        &self,
        genesis: &Genesis,
        question: Question<'_>,
        policy: &Policy,
    ) -> Result<(), BundleError> {
        const WHAT: &str = "question";
        let process = &self.process.definition;
        same(WHAT, Member::Start, &question.start, &self.start.digest())?;
        same(WHAT, Member::Process, question.process, &self.process.name)?;
        same(WHAT, Member::Definition, question.definition, &process.digest())?;
        same(WHAT, Member::Case, question.case, &self.start.case)?;
        same(WHAT, Member::Requester, &question.requester, &self.requester.key.thumbprint())?;
        same(WHAT, Member::Contract, question.contract, policy.name())?;
        let Question { step, attempt, subject, contract, .. } = question;
        match process.step(step).map(|step| &step.action) {
            Some(StepAction::Ask { contract: asked, retries, .. })
                if asked == contract && (1..=u64::from(*retries) + 1).contains(&attempt.get()) => {}
            _ => {
                return Err(BundleError::NotAsked {
                    process: self.process.name.clone(),
                    step: step.clone(),
                    contract: contract.clone(),
                    attempt: attempt.get(),
                });
            }
        }
        let derived = process.derive_subject(step, &self.start.input);
        if derived.map_err(|error| BundleError::Input(error.to_string()))? != *subject {
            return Err(BundleError::SubjectDiffers);
        }
        if !genesis.may_decide(policy, subject) {
            let (contract, kind) = (contract.clone(), subject.kind());
            return Err(BundleError::MayNotDecide { contract, kind });
        }
        Ok(())
    }
}

/// A vote request that was verified, and whose it is.
#[derive(Clone, Debug)]
pub struct Asked<'g> {
    /// The vote request.
    pub vote_request: Verified<VoteRequest>,
    /// The contract that asks.
    pub contract: &'g ContractEntry,
    /// The policy by which it decides.
    pub policy: Arc<Policy>,
}

/// Verifies that a contract signed a vote request with the version of its key that was in force when it opened, and what it
/// says of contract, policy, process and times. Whether the question is justified says [`Opening::verify_question`].
///
/// # Errors
/// [`BundleError`]
pub fn verify_vote_request<'g, 'a>(
    standing: &Standing<'g>,
    vote_request: &Jws,
    signatures: impl Into<Signatures<'a>>,
) -> Result<Asked<'g>, BundleError> {
    const WHAT: &str = "vote request";
    let signatures = signatures.into();
    let genesis = standing.genesis();
    let claim: Signed<VoteRequest> = read(WHAT, vote_request)?;
    let contract = find_contract(genesis, &claim.unverified().contract)?;
    let version = claim.unverified().key_version;
    let message = signed(WHAT, claim, contract_key(standing, contract, version)?, signatures)?;
    same(WHAT, Member::Deployment, &message.deployment, &genesis.id())?;
    same(WHAT, Member::Chain, &message.chain, &contract.chain)?;
    let transitions = standing.transitions(&KeyName::Contract(contract.name.clone()));
    same(WHAT, Member::KeyVersion, &message.key_version, &version_at(transitions, message.opened))?;
    let policy = policy_of(standing, contract, &message)?;
    same(WHAT, Member::Deadline, &message.deadline, &message.opened.after(policy.deadline()))?;
    let process = find_process(genesis, &message.process)?;
    same(WHAT, Member::Definition, &message.definition, &process.definition.digest())?;
    let VoteRequest { case, requester, step, attempt, .. } = &*message;
    let id = RequestId::of(genesis.id(), &process.chain, &process.name, case, *requester, step, *attempt);
    same(WHAT, Member::Request, &message.request, &id)?;
    Ok(Asked { vote_request: message, contract, policy })
}

/// The policy of a vote request, which must have been in force when it opened.
fn policy_of(
    standing: &Standing<'_>,
    contract: &ContractEntry,
    vote_request: &VoteRequest,
) -> Result<Arc<Policy>, BundleError> {
    let (digest, opened) = (&vote_request.policy, vote_request.opened);
    if !standing.may_be_in_force(contract, digest, opened) {
        same("vote request", Member::Policy, digest, &standing.policy_at(contract, opened))?;
    }
    let unknown = || BundleError::NoPolicy { contract: contract.name.clone(), policy: *digest };
    standing.policy(contract, digest).cloned().ok_or_else(unknown)
}

/// What a request came to, counted again from its ballots.
#[derive(Clone, Debug)]
pub struct Recount {
    /// What it came to by its deadline, whatever comes.
    pub outcome: Outcome,
    /// The moment since when: at every moment from here on the outcome is this one, before it the request was open.
    pub decided: UnixMillis,
    /// Whether time alone made it so (a window's end, or the deadline), and not a ballot or a cancellation.
    pub by_time: bool,
    /// The ballots.
    pub ballots: Vec<(UnixMillis, Verified<Ballot>)>,
    /// Their number and root.
    pub root: BallotsRoot,
}

/// Counts every ballot of a vote request again, by its policy: signatures, members, order, times.
///
/// # Errors
/// [`BundleError`], also if one of the ballots does not count.
pub fn recount<'a>(
    genesis: &Genesis,
    policy: &Policy,
    vote_request: &Verified<VoteRequest>,
    ballots: &[CountedMessage],
    cancel: Option<&CountedMessage>,
    signatures: impl Into<Signatures<'a>>,
) -> Result<Recount, BundleError> {
    let signatures = signatures.into();
    same("vote request", Member::Policy, &vote_request.policy, &policy.digest())?;
    let mut tally = Tally::new(policy, Some(&vote_request.requester), vote_request.opened);
    let mut counted = Vec::with_capacity(ballots.len());
    let asked = (&**vote_request, vote_request.digest());
    for CountedMessage { at, jws } in ballots {
        counted.push((*at, count(&mut tally, policy, asked, *at, jws, signatures)?));
    }
    let root = BallotsRoot::of(ballots.iter().map(|counted| (counted.at, counted.jws.as_str())));
    let deadline = vote_request.deadline;
    if let Some(cancel) = cancel {
        verify_cancel(genesis, vote_request, &cancel.jws, signatures)?;
        let after_all = ballots.last().is_none_or(|last| last.at <= cancel.at);
        // A block may be older than `opened`, which is by the KMS's clock: the request is open on its ledger all the same.
        if !after_all || tally.outcome(cancel.at).is_some() {
            return Err(BundleError::CancelledTooLate);
        }
        let (outcome, decided) = (Outcome::Cancelled, cancel.at);
        return Ok(Recount { outcome, decided, by_time: false, ballots: counted, root });
    }
    // A tally is decided at its deadline at the latest, which is that of the vote request.
    let (outcome, decided) = tally.outcome(deadline).ok_or_else(|| BundleError::Differs {
        what: "vote request",
        member: Member::Deadline,
        found: deadline.to_string(),
        expected: vote_request.opened.after(policy.deadline()).to_string(),
    })?;
    Ok(Recount { outcome, decided, by_time: tally.decided_by_time(deadline), ballots: counted, root })
}

/// Verifies the ballots of a vote request before they are counted, the last one first, until it meets one that was verified
/// before: for a thread beside the one that counts them from the first, and shares a memory with it. Nothing is decided
/// here; what does not verify is left for [`recount`] to refuse.
///
/// # Errors
/// [`BundleError`], of the last ballot that does not verify.
pub fn verify_ahead(
    standing: &Standing<'_>,
    vote_request: &Jws,
    ballots: &[CountedMessage],
    signatures: Signatures<'_>,
) -> Result<(), BundleError> {
    let claim: Signed<VoteRequest> = read("vote request", vote_request)?;
    let VoteRequest { contract, policy, .. } = claim.unverified();
    let contract = find_contract(standing.genesis(), contract)?;
    let Some(policy) = standing.policy(contract, policy) else { return Ok(()) };
    for CountedMessage { jws, .. } in ballots.iter().rev() {
        if signatures.know(jws) {
            break;
        }
        verify_ballot(policy, jws, signatures)?;
    }
    Ok(())
}

impl Recount {
    /// Compares with what somebody says that it came to.
    ///
    /// # Errors
    /// [`BundleError::NoVotes`], [`BundleError::TooFewVotes`], [`BundleError::BallotsDiffer`], [`BundleError::Differs`]
    pub fn confirm(
        &self,
        what: &'static str,
        outcome: Outcome,
        decided: UnixMillis,
        ballots: &BallotsRoot,
    ) -> Result<(), BundleError> {
        if outcome == Outcome::Approved && self.ballots.is_empty() {
            return Err(BundleError::NoVotes);
        }
        if outcome == Outcome::Approved && self.outcome != Outcome::Approved {
            return Err(BundleError::TooFewVotes(self.outcome));
        }
        if self.root != *ballots {
            return Err(BundleError::BallotsDiffer { found: self.root, expected: *ballots });
        }
        same(what, Member::Outcome, &outcome, &self.outcome)?;
        same(what, Member::Decided, &decided, &self.decided)
    }
}

fn count(
    tally: &mut Tally<'_>,
    policy: &Policy,
    (vote_request, digest): (&VoteRequest, Digest),
    at: UnixMillis,
    jws: &Jws,
    signatures: Signatures<'_>,
) -> Result<Verified<Ballot>, BundleError> {
    const WHAT: &str = "ballot";
    let (index, ballot) = verify_ballot(policy, jws, signatures)?;
    let voter = policy.voter(index);
    same(WHAT, Member::Deployment, &ballot.deployment, &vote_request.deployment)?;
    same(WHAT, Member::Request, &ballot.request, &vote_request.request)?;
    same(WHAT, Member::VoteRequest, &ballot.vote_request, &digest)?;
    same(WHAT, Member::Voter, &ballot.voter, &voter.name)?;
    tally
        .cast(index, ballot.choice, at)
        .map_err(|source| BundleError::Ballot { voter: voter.name.clone(), source })?;
    Ok(ballot)
}

/// Verifies that a voter of this policy signed a ballot, and which one.
fn verify_ballot(
    policy: &Policy,
    jws: &Jws,
    signatures: Signatures<'_>,
) -> Result<(VoterIndex, Verified<Ballot>), BundleError> {
    const WHAT: &str = "ballot";
    let claim: Signed<Ballot> = read(WHAT, jws)?;
    let index = policy.voter_by_key(&jws.kid()).ok_or(BundleError::Stranger(jws.kid()))?;
    Ok((index, signed(WHAT, claim, &policy.voter(index).key, signatures)?))
}

fn verify_cancel(
    genesis: &Genesis,
    vote_request: &VoteRequest,
    jws: &Jws,
    signatures: Signatures<'_>,
) -> Result<(), BundleError> {
    const WHAT: &str = "cancellation";
    let process = find_process(genesis, &vote_request.process)?;
    let key = vote_request.requester;
    let requester = process
        .definition
        .requester_by_key(&key)
        .ok_or_else(|| BundleError::NotARequester { key, process: process.name.clone() })?;
    let cancel: Verified<Cancel> = signed(WHAT, read(WHAT, jws)?, &requester.key, signatures)?;
    same(WHAT, Member::Deployment, &cancel.deployment, &genesis.id())?;
    same(WHAT, Member::Chain, &cancel.chain, &process.chain)?;
    same(WHAT, Member::Case, &cancel.case, &vote_request.case)
}

fn find_contract<'g>(genesis: &'g Genesis, name: &Name) -> Result<&'g ContractEntry, BundleError> {
    genesis.contract(name).ok_or_else(|| BundleError::Unknown { what: "contract", name: name.clone() })
}

/// A contract's key in this version.
pub(super) fn contract_key<'s>(
    standing: &'s Standing<'_>,
    contract: &'s ContractEntry,
    version: KeyVersion,
) -> Result<&'s PublicKey, BundleError> {
    let unknown = || BundleError::NoVersion { key: KeyName::Contract(contract.name.clone()), version };
    standing.contract_key(contract, version).ok_or_else(unknown)
}

fn find_process<'g>(genesis: &'g Genesis, name: &Name) -> Result<&'g ProcessEntry, BundleError> {
    genesis.process(name).ok_or_else(|| BundleError::Unknown { what: "process", name: name.clone() })
}

/// Reads a message whose signer is not known yet.
pub(super) fn read<P: Payload>(what: &'static str, jws: &Jws) -> Result<Signed<P>, BundleError> {
    Signed::from_jws(jws.clone()).map_err(|source| BundleError::Message { what, source })
}

/// Verifies that `key`, which still counts, signed a message.
pub(super) fn signed<P: Payload>(
    what: &'static str,
    message: Signed<P>,
    key: &PublicKey,
    signatures: Signatures<'_>,
) -> Result<Verified<P>, BundleError> {
    if signatures.are_revoked(key.thumbprint()) {
        return Err(BundleError::Revoked { what, key: key.thumbprint() });
    }
    signatures.verify(message, key).map_err(|source| BundleError::Message { what, source })
}

/// Compares a member with what it must be.
pub(super) fn same<T: PartialEq + ToString>(
    what: &'static str,
    member: Member,
    found: &T,
    expected: &T,
) -> Result<(), BundleError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(BundleError::Differs { what, member, found, expected })
}
