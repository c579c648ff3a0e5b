//! Why something is not shown.

use crate::json::JsonError;
use crate::jwk::Thumbprint;
use crate::message::DeploymentId;
use crate::name::Name;

/// Why something is not shown to be final, or not shown to be in what is final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The header cannot be read.
    #[error("the header cannot be read: {0}")]
    Header(JsonError),
    /// Of another deployment.
    #[error("the header is of deployment `{found}`, not `{expected}`")]
    OtherDeployment {
        /// The deployment that was expected.
        expected: DeploymentId,
        /// The one in the header.
        found: DeploymentId,
    },
    /// Of another log.
    #[error("the header is of `{found}`, not of `{expected}`")]
    OtherChain {
        /// The name that was expected.
        expected: Name,
        /// The one in the header.
        found: Name,
    },
    /// The certificate is for another block.
    #[error("the certificate is not for this header")]
    OtherBlock,
    /// A signature by nobody that is known, or twice by the same.
    #[error("the certificate has a signature by `{0}`, who is no validator or signed twice")]
    Stranger(Thumbprint),
    /// A signature in the certificate is wrong.
    #[error("the certificate's signature by `{0}` does not verify")]
    BadSignature(Thumbprint),
    /// Not more than two thirds of the voting power.
    #[error("the certificate has {found} of {total} votes, and needs more than two thirds")]
    TooFew {
        /// The voting power that signed.
        found: u64,
        /// All voting power.
        total: u64,
    },
    /// The path does not lead to the header's root.
    #[error("the event is not in the header's block: its path does not lead to `events_root`")]
    NotIncluded,
    /// The size is not the header's count.
    #[error("`size` is {found}, but the header's `events_count` is {expected}")]
    WrongSize {
        /// The header's count.
        expected: u64,
        /// The proof's size.
        found: u64,
    },
    /// An earlier header is not before this one.
    #[error("the header of height {earlier} does not come before the header of height {later}")]
    NotBefore {
        /// Height of the header that should be earlier.
        earlier: u64,
        /// Height of the later header.
        later: u64,
    },
}

impl ProofError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            ProofError::Header(_) => "malformed-header",
            ProofError::OtherDeployment { .. } => "other-deployment",
            ProofError::OtherChain { .. } => "other-chain",
            ProofError::OtherBlock => "other-block",
            ProofError::Stranger(_) => "unknown-validator",
            ProofError::BadSignature(_) => "bad-certificate",
            ProofError::TooFew { .. } => "not-final",
            ProofError::NotIncluded | ProofError::WrongSize { .. } => "not-in-log",
            ProofError::NotBefore { .. } => "not-before",
        }
    }
}
