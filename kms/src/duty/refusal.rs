//! Why a duty, or a batch as a whole, is refused; and which refusals the audit log has already.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use assent_consensus::bundle::BundleError;
use assent_consensus::duty::{BATCH_LIMIT, DutyAnswer, Refusal};
use assent_consensus::header::ProofError;
use assent_consensus::message::RequestId;
use assent_consensus::policy_change::PolicyChangeError;

use crate::signing::{DutyId, Purpose, SigningError};

/// The most refusals that are put into the audit log between two starts of the KMS; all are traced, and all are answered.
pub(super) const RECORD_LIMIT: usize = 65_536;
/// The most characters of a refusal's sentence.
const SENTENCE_LIMIT: usize = 1_000;

/// Why a duty is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) remedy: Remedy,
    /// The reason in a word that programs can rely on.
    pub(super) reason: &'static str,
    /// The reason in a sentence.
    pub(super) message: String,
    /// Whether the audit log should have it: not what a device or a full queue says.
    pub(super) is_verdict: bool,
}

/// What could help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same duty later.
    Time,
    /// A person who looks at it.
    Person,
}

impl Refused {
    /// A duty that a person must look at.
    pub(super) fn person(reason: &'static str, message: impl Into<String>) -> Refused {
        Refused { remedy: Remedy::Person, reason, message: message.into(), is_verdict: true }
    }

    /// A duty that may be done later.
    pub(super) fn retry(reason: &'static str, message: impl Into<String>) -> Refused {
        Refused { remedy: Remedy::Time, reason, message: message.into(), is_verdict: true }
    }

    pub(super) fn answer(self) -> DutyAnswer {
        let message = self.message.chars().take(SENTENCE_LIMIT).collect();
        let refusal = Refusal { reason: self.reason.into(), message };
        match self.remedy {
            Remedy::Time => DutyAnswer::Retry(refusal),
            Remedy::Person => DutyAnswer::NeedsPerson(refusal),
        }
    }
}

/// Something else is on record for the duty.
pub(super) fn other_order(purpose: Purpose, request: RequestId) -> Refused {
    let (reason, what) = match purpose {
        Purpose::VoteRequest => ("other-vote-request", "another vote request"),
        Purpose::Decision => ("other-decision", "another decision"),
        Purpose::Action => ("other-action", "another signature"),
        Purpose::TransitionFirst | Purpose::TransitionNew => ("other-transition", "another key transition"),
        Purpose::Change => ("other-change", "another change"),
    };
    Refused::person(reason, format!("{what} was recorded for the request `{request}`"))
}

impl From<BundleError> for Refused {
    fn from(error: BundleError) -> Refused {
        Refused::person(error.reason(), error.to_string())
    }
}

impl From<PolicyChangeError> for Refused {
    fn from(error: PolicyChangeError) -> Refused {
        Refused::person(error.reason(), error.to_string())
    }
}

impl From<SigningError> for Refused {
    fn from(error: SigningError) -> Refused {
        let remedy = if error.is_retry() { Remedy::Time } else { Remedy::Person };
        let is_verdict = match error {
            SigningError::Conflict { .. } | SigningError::Lapsing { .. } | SigningError::PolicyChange(_) => {
                true
            }
            SigningError::KeyNotActive { .. } => remedy == Remedy::Person,
            _ => false,
        };
        Refused { remedy, reason: error.reason(), message: error.to_string(), is_verdict }
    }
}

/// Why nothing of a batch is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchRefusal {
    /// There is nothing to go by yet.
    #[error("this KMS has no deployment yet: run `assent-kms pin genesis.json` on its host")]
    NotPinned,
    /// Too much is being done already.
    #[error("the KMS is busy: try again in a second")]
    Busy,
    /// More than [`BATCH_LIMIT`] duties.
    #[error("the batch has {0} duties, and at most {BATCH_LIMIT} are allowed: send them in several batches")]
    TooManyDuties(usize),
    /// A ledger that genesis does not have.
    #[error("the pinned genesis has no log `{0}`")]
    UnknownChain(String),
    /// Two headers of one ledger.
    #[error("the batch has two headers of the log `{0}`: send one for each log")]
    TwoHeaders(String),
    /// The header is behind one that was trusted before.
    #[error(
        "the header of height {found} of the log `{chain}` is behind the trusted one of height {trusted}: ask \
         `GET /v1/trusted` again and send a header from there on"
    )]
    StaleHeader {
        /// The ledger.
        chain: String,
        /// The height in the batch.
        found: u64,
        /// The trusted height.
        trusted: u64,
    },
    /// The header does not follow on the trusted one.
    #[error(
        "the header of height {found} of the log `{chain}` does not follow on the trusted one of height {trusted}: ask \
         `GET /v1/trusted` again, and if that does not help the log has forked, and a person must look at it"
    )]
    OtherLine {
        /// The ledger.
        chain: String,
        /// The height in the batch.
        found: u64,
        /// The trusted height.
        trusted: u64,
    },
    /// The header is not final.
    #[error("the header of the log `{chain}` is not shown to be final: {source}")]
    NotFinal {
        /// The ledger.
        chain: String,
        /// What is wrong.
        source: ProofError,
    },
    /// The trusted header cannot be written.
    #[error(transparent)]
    Storage(SigningError),
    /// An error of this program.
    #[error("the verification broke off; the KMS's own log says where")]
    Broken,
}

impl BatchRefusal {
    /// Whether the audit log should have it: a header that is not final, or not on the trusted line, is no accident.
    pub(super) fn is_verdict(&self) -> bool {
        matches!(self, BatchRefusal::NotFinal { .. } | BatchRefusal::OtherLine { .. })
    }

    /// The reason in a word that programs can rely on.
    pub fn code(&self) -> &'static str {
        match self {
            BatchRefusal::NotPinned => "not-pinned",
            BatchRefusal::Busy => "busy",
            BatchRefusal::TooManyDuties(_) => "too-many-duties",
            BatchRefusal::UnknownChain(_) => "unknown-chain",
            BatchRefusal::TwoHeaders(_) => "two-headers",
            BatchRefusal::StaleHeader { .. } => "stale-header",
            BatchRefusal::OtherLine { .. } => "other-line",
            BatchRefusal::NotFinal { source, .. } => source.reason(),
            BatchRefusal::Storage(error) => error.reason(),
            BatchRefusal::Broken => "broken",
        }
    }
}

/// Which refusals are in the audit log since the KMS started, so that one that comes again and again is there once.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashSet<(DutyId, &'static str)>>);

impl Refusals {
    /// Whether this refusal is to be put into the audit log now: it is new, and there are not too many.
    pub(super) fn note(&self, duty: DutyId, reason: &'static str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < RECORD_LIMIT && known.insert((duty, reason))
    }

    /// Forgets one that could not be written, so that it is tried again.
    pub(super) fn forget(&self, duty: DutyId, reason: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(duty, reason));
    }
}
