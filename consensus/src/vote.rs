//! What a voter can say, and what a request can come to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a voter says to a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// For it.
    Approve,
    /// Against it.
    Reject,
    /// Neither; counts where a quorum is asked for.
    Abstain,
}

/// What a request came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The rule became true before the deadline.
    Approved,
    /// The rule became false before the deadline, or was still open at it and the policy says to reject then.
    Rejected,
    /// The rule was still open at the deadline.
    Expired,
    /// The requester took it back while it was open.
    Cancelled,
}

impl Choice {
    /// The word that stands in a ballot.
    pub const fn as_str(self) -> &'static str {
        match self {
            Choice::Approve => "approve",
            Choice::Reject => "reject",
            Choice::Abstain => "abstain",
        }
    }
}

impl Outcome {
    /// The word that stands in a decision.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Approved => "approved",
            Outcome::Rejected => "rejected",
            Outcome::Expired => "expired",
            Outcome::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
