//! Why a proof proves nothing: in a sentence for people, and in a word that programs can rely on.

use crate::digest::Digest;
use crate::header::ProofError;
use crate::jwk::Thumbprint;
use crate::jws::JwsError;
use crate::message::{BallotsRoot, KeyVersion};
use crate::name::Name;
use crate::policy::BallotRefusal;
use crate::policy_change::PolicyChangeError;
use crate::standing::KeyName;
use crate::subject::SubjectKind;
use crate::transition::TransitionError;
use crate::vote::Outcome;

/// Why a bundle, or a part of one, proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A message is malformed, or not signed by whom it must be signed.
    #[error("the {what}: {source}")]
    Message {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        source: JwsError,
    },
    /// A member is not what it must be.
    #[error("the {member} of the {what} is `{found}`, where `{expected}` is expected")]
    Differs {
        /// Of which message, or of what else.
        what: &'static str,
        /// Which member.
        member: Member,
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
    /// A case was started by one who may not.
    #[error("`{key}` may not start a case of `{process}`")]
    NotARequester {
        /// Whose key.
        key: Thumbprint,
        /// Of which process.
        process: Name,
    },
    /// A process does not ask what it is said to ask.
    #[error("step `{step}` of `{process}` does not ask `{contract}` at attempt {attempt}")]
    NotAsked {
        /// The process.
        process: Name,
        /// Its step.
        step: Name,
        /// The contract that is said to be asked.
        contract: Name,
        /// How often.
        attempt: u64,
    },
    /// No subject comes of what the requester said.
    #[error("{0}")]
    Input(String),
    /// Another subject than the one that the process derives.
    #[error("the subject is not what the process derives from the start")]
    SubjectDiffers,
    /// A contract that does not govern what the subject acts on, or does not decide subjects of this kind.
    #[error("`{contract}` may not decide on this `{kind}`")]
    MayNotDecide {
        /// The contract.
        contract: Name,
        /// The subject's kind.
        kind: SubjectKind,
    },
    /// A ballot by one who is no voter.
    #[error("a ballot is by `{0}`, who is no voter")]
    Stranger(Thumbprint),
    /// A ballot that the rules do not count.
    #[error("the ballot of `{voter}` does not count: {source}")]
    Ballot {
        /// Whose.
        voter: Name,
        /// Why.
        source: BallotRefusal,
    },
    /// A cancellation before a ballot that was counted, or after the outcome.
    #[error("the cancellation did not come while the request was open")]
    CancelledTooLate,
    /// An approval without a single ballot.
    #[error("nobody has voted, and nothing is approved without a vote")]
    NoVotes,
    /// An approval that the ballots do not give.
    #[error("the ballots do not approve: they come to `{0}`")]
    TooFewVotes(Outcome),
    /// Other ballots than those that were counted, or in another order.
    #[error("the ballots are not those that were counted: {found} instead of {expected}", found = root(found), expected = root(expected))]
    BallotsDiffer {
        /// What the ballots come to.
        found: BallotsRoot,
        /// What they should come to.
        expected: BallotsRoot,
    },
    /// Something is not shown to be final in its log.
    #[error("the {what} is not shown to be in the log: {source}")]
    Inclusion {
        /// Of what.
        what: &'static str,
        /// What is wrong.
        source: ProofError,
    },
    /// What is in the log is about something else.
    #[error("the record in the log is not of this {0}")]
    OtherRecord(&'static str),
    /// An action without an approval.
    #[error("there is nothing to do: the request is {0}")]
    NotApproved(Outcome),
    /// An action on a subject that asks for nothing that is done with a key.
    #[error("there is nothing to sign: a `{0}` asks for no signature")]
    NothingToSign(SubjectKind),
    /// A process that does not act on an approval.
    #[error("the process does not act on what step `{0}` approved")]
    NoAction(Name),
    /// A result that came too late.
    #[error("the approval had lapsed when the result was recorded")]
    Lapsed,
    /// What an approved action gave is not a signature by its key over what was approved.
    #[error("the signature of the result does not verify: it is not one by key `{0}` over what was approved")]
    Result(Name),
    /// A version of a key that is not in force, nor was.
    #[error("the bundle shows no version {version} of {key}")]
    NoVersion {
        /// Which key.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
    },
    /// What was signed after the key was known not to be trusted.
    #[error("version {version} of {key} was compromised before the decision")]
    Compromised {
        /// Which key.
        key: KeyName,
        /// Which version.
        version: KeyVersion,
    },
    /// A policy whose document is not there.
    #[error("the document of the policy `{policy}` of `{contract}` is not there")]
    NoPolicy {
        /// Whose.
        contract: Name,
        /// The policy.
        policy: Digest,
    },
    /// Other transitions than those that lead to the version that was used.
    #[error("the transitions are not those that lead from genesis to version {version} of {key}")]
    Transitions {
        /// Which key.
        key: KeyName,
        /// The version that was used.
        version: KeyVersion,
    },
    /// A transition that is not the next one of its key, or not what was approved.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// A policy that may not follow the one before it.
    #[error(transparent)]
    PolicyChange(#[from] PolicyChangeError),
    /// An approved change of the history proves nothing.
    #[error("change {place} of the history: {source}")]
    History {
        /// Which one, from 1.
        place: usize,
        /// What is wrong.
        source: Box<BundleError>,
    },
    /// A bundle of the history that is none of an approved change on its own, or is out of order.
    #[error("it {0}")]
    NoChange(&'static str),
    /// A transition that no bundle of the history approves, or that stands there in two forms.
    #[error("the key transition that the decision `{0}` should have approved is not approved by the history")]
    Unapproved(Digest),
    /// A change that leads to nothing on which this request relies.
    #[error("{0} is not used by this request")]
    Unused(Thing),
    /// Something newer than this.
    #[error("an approved `{0}` cannot be verified by this version")]
    Changes(SubjectKind),
}

/// What a change of the history leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A key, in a later version.
    Key(KeyName),
    /// A policy of a contract.
    Policy(Name, Digest),
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Thing::Key(key) => key.fmt(f),
            Thing::Policy(contract, digest) => write!(f, "the policy `{digest}` of `{contract}`"),
        }
    }
}

/// A member of a message, to say what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the member of the same name")]
pub enum Member {
    Version,
    Deployment,
    Chain,
    Contract,
    Process,
    Policy,
    Definition,
    Case,
    Start,
    Requester,
    Request,
    VoteRequest,
    Voter,
    Deadline,
    Outcome,
    Decided,
    Key,
    KeyVersion,
    PublicKey,
    Format,
}

impl BundleError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            BundleError::Message { source, .. } => source.reason(),
            BundleError::Differs { member, .. } => member.reason(),
            BundleError::Unknown { .. } => "unknown-name",
            BundleError::Revoked { .. } => "revoked-key",
            BundleError::NotARequester { .. } => "not-a-requester",
            BundleError::NotAsked { .. } => "not-asked",
            BundleError::Input(_) => "wrong-input",
            BundleError::SubjectDiffers => "subject-differs",
            BundleError::MayNotDecide { .. } => "may-not-decide",
            BundleError::Stranger(_) => "stranger",
            BundleError::Ballot { source, .. } => source.reason(),
            BundleError::CancelledTooLate => "cancelled-too-late",
            BundleError::NoVotes => "no-votes",
            BundleError::TooFewVotes(_) => "too-few-votes",
            BundleError::BallotsDiffer { .. } => "ballots-differ",
            BundleError::Inclusion { source, .. } => source.reason(),
            BundleError::OtherRecord(_) => "other-record",
            BundleError::NotApproved(_) => "not-approved",
            BundleError::NothingToSign(_) => "nothing-to-sign",
            BundleError::NoAction(_) => "no-action",
            BundleError::Lapsed => "lapsed",
            BundleError::Result(_) => "bad-signature",
            BundleError::NoVersion { .. } => "other-key-version",
            BundleError::Compromised { .. } => "key-compromised",
            BundleError::NoPolicy { .. } => "unknown-policy",
            BundleError::Transitions { .. } => "other-transitions",
            BundleError::Transition(source) => source.reason(),
            BundleError::PolicyChange(source) => source.reason(),
            BundleError::History { source, .. } => source.reason(),
            BundleError::NoChange(_) => "no-change",
            BundleError::Unapproved(_) => "unapproved-transition",
            BundleError::Unused(_) => "unused-change",
            BundleError::Changes(_) => "changes-unsupported",
        }
    }
}

impl Member {
    fn reason(self) -> &'static str {
        match self {
            Member::Version => "unknown-version",
            Member::Deployment => "other-deployment",
            Member::Chain => "other-chain",
            Member::Contract => "other-contract",
            Member::Process => "other-process",
            Member::Policy => "other-policy",
            Member::Definition => "other-definition",
            Member::Case => "other-case",
            Member::Start => "other-start",
            Member::Requester => "other-requester",
            Member::Request => "other-request",
            Member::VoteRequest => "other-vote-request",
            Member::Voter => "wrong-voter",
            Member::Deadline => "wrong-deadline",
            Member::Outcome => "outcome-differs",
            Member::Decided => "decided-differs",
            Member::Key | Member::PublicKey => "other-key",
            Member::KeyVersion => "other-key-version",
            Member::Format => "other-format",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Member::Version => "version",
            Member::Deployment => "deployment",
            Member::Chain => "log",
            Member::Contract => "contract",
            Member::Process => "process",
            Member::Policy => "policy",
            Member::Definition => "process document",
            Member::Case => "case",
            Member::Start => "start",
            Member::Requester => "requester",
            Member::Request => "request",
            Member::VoteRequest => "vote request",
            Member::Voter => "voter",
            Member::Deadline => "deadline",
            Member::Outcome => "outcome",
            Member::Decided => "moment",
            Member::Key => "key",
            Member::KeyVersion => "key version",
            Member::PublicKey => "public key",
            Member::Format => "signature format",
        }
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn root(ballots: &BallotsRoot) -> String {
    format!("{} with root `{}`", ballots.count, ballots.root)
}
