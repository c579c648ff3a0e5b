//! Changes of policies: whether a document may follow a contract's policy, and whether a statement of the governing contract
//! puts it there (DESIGN section 6, Changes).
//!
//! ```text
//! approved `change-policy` (contract, from, to) ─▶ from: the last one     to: the document, linted, its voters in no other role
//!                                                       └─▶ statement, signed by the governing contract ─▶ in force from `effective`
//! ```

use std::sync::Arc;

use crate::digest::Digest;
use crate::genesis::{Role, RoleConflict};
use crate::message::Change;
use crate::name::Name;
use crate::policy::{Policy, PolicyError};
use crate::standing::{AdoptedPolicy, Standing};
use crate::time::UnixMillis;
use crate::transition::Approval;

/// Why a policy cannot follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyChangeError {
    /// Genesis has no such contract.
    #[error("there is no consensus contract `{0}`")]
    Unknown(Name),
    /// Another policy than the last one is to be followed.
    #[error("the policy `{found}` of `{contract}` is not the last one, which is `{expected}`")]
    From {
        /// Whose.
        contract: Name,
        /// The one that is to be followed.
        found: Digest,
        /// The last one.
        expected: Digest,
    },
    /// It was approved before the one that it is to follow: that one came to be since, and nobody who approved knew of it.
    #[error(
        "the change of `{contract}` was decided at {found}, and the policy that it is to follow at {after}, not before it"
    )]
    Overtaken {
        /// Whose.
        contract: Name,
        /// When it was decided.
        found: UnixMillis,
        /// When the last one was.
        after: UnixMillis,
    },
    /// Another document than the one that is named.
    #[error("the document is `{found}`, and the policy that `{contract}` is to have is `{expected}`")]
    Document {
        /// Whose.
        contract: Name,
        /// The document's digest.
        found: Digest,
        /// The one that was named.
        expected: Digest,
    },
    /// No policy, or one that could never approve, or could approve with no approving ballot (invariant I9).
    #[error("the document is no policy that `{contract}` could have: {source}")]
    Policy {
        /// Whose.
        contract: Name,
        /// All findings.
        source: PolicyError,
    },
    /// The policy of another contract.
    #[error(
        "the document is a policy for `{found}`, not for `{expected}`: its `name` must be the contract's"
    )]
    Name {
        /// The policy's name.
        found: Name,
        /// The contract's.
        expected: Name,
    },
    /// A voter's key that has another role.
    #[error("a voter of the policy: {0}")]
    Role(#[from] RoleConflict),
    /// Not what was approved.
    #[error("the change is not what was approved: its {0} is another one")]
    NotApproved(&'static str),
    /// Too early, or when the approval had lapsed.
    #[error("the change is effective at {found}, and not after {after} and by {by}")]
    Effective {
        /// When.
        found: UnixMillis,
        /// It must be later than this.
        after: UnixMillis,
        /// And no later than this.
        by: UnixMillis,
    },
}

impl PolicyChangeError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            PolicyChangeError::Unknown(_) => "unknown-contract",
            PolicyChangeError::From { .. } => "policy-not-in-force",
            PolicyChangeError::Overtaken { .. } => "overtaken",
            PolicyChangeError::Document { .. } => "other-document",
            PolicyChangeError::Policy { .. } => "bad-policy",
            PolicyChangeError::Name { .. } => "other-contract",
            PolicyChangeError::Role(_) => "role-conflict",
            PolicyChangeError::NotApproved(_) => "not-approved",
            PolicyChangeError::Effective { .. } => "wrong-effective",
        }
    }
}

/// Checks that `from` is the last policy of a contract, and was approved before the change that is to follow it. A policy can
/// come back; what was approved when it was there before does not.
///
/// # Errors
/// [`PolicyChangeError::Unknown`], [`PolicyChangeError::From`], [`PolicyChangeError::Overtaken`]
pub fn check_from(
    standing: &Standing<'_>,
    contract: &Name,
    from: &Digest,
    decided: UnixMillis,
) -> Result<(), PolicyChangeError> {
    let unknown = || PolicyChangeError::Unknown(contract.clone());
    let entry = standing.genesis().contract(contract).ok_or_else(unknown)?;
    let expected = standing.last_policy(entry);
    if expected != *from {
        return Err(PolicyChangeError::From { contract: contract.clone(), found: *from, expected });
    }
    match standing.policies(contract).last() {
        Some(last) if decided <= last.decided => {
            let (found, after) = (decided, last.decided);
            Err(PolicyChangeError::Overtaken { contract: contract.clone(), found, after })
        }
        _ => Ok(()),
    }
}

/// Reads the document of the policy `to`, and checks that a contract could have it.
///
/// # Errors
/// [`PolicyChangeError::Document`], [`PolicyChangeError::Policy`], [`PolicyChangeError::Name`],
/// [`PolicyChangeError::Role`]
pub fn check_document(
    standing: &Standing<'_>,
    contract: &Name,
    to: &Digest,
    document: &[u8],
) -> Result<Arc<Policy>, PolicyChangeError> {
    let found = Digest::of(document);
    if found != *to {
        return Err(PolicyChangeError::Document { contract: contract.clone(), found, expected: *to });
    }
    let broken = |source| PolicyChangeError::Policy { contract: contract.clone(), source };
    let policy = Policy::parse(document).map_err(broken)?;
    check_policy(standing, contract, &policy)?;
    Ok(Arc::new(policy))
}

/// Checks that a contract could have a policy: that it is named so, and that its voters' keys have no other role.
///
/// # Errors
/// [`PolicyChangeError::Name`], [`PolicyChangeError::Role`]
pub fn check_policy(
    standing: &Standing<'_>,
    contract: &Name,
    policy: &Policy,
) -> Result<(), PolicyChangeError> {
    if policy.name() != contract {
        let (found, expected) = (policy.name().clone(), contract.clone());
        return Err(PolicyChangeError::Name { found, expected });
    }
    for voter in policy.voters() {
        let key = voter.key.thumbprint();
        match standing.role(&key) {
            None | Some(Role::Requester | Role::Voter | Role::RequesterAndVoter) => {}
            Some(had) => return Err(RoleConflict { key, had, wanted: Role::Voter }.into()),
        }
    }
    Ok(())
}

/// Compares a statement of the governing contract with what was approved, and may be done until `act_by`: the policy that
/// it puts into force. Its signature is for the caller to verify.
///
/// # Errors
/// [`PolicyChangeError::NotApproved`], [`PolicyChangeError::Effective`]
pub fn confirm(
    standing: &Standing<'_>,
    says: &Change,
    (contract, to): (&Name, &Digest),
    approval: &Approval<'_>,
    act_by: UnixMillis,
) -> Result<AdoptedPolicy, PolicyChangeError> {
    if says.decision != approval.decision {
        return Err(PolicyChangeError::NotApproved("decision"));
    }
    if says.subject != *approval.subject {
        return Err(PolicyChangeError::NotApproved("subject"));
    }
    let last = standing.policies(contract).last().map(|last| last.latest);
    let after = last.map_or(approval.decided, |last| last.max(approval.decided));
    if says.effective <= after || says.effective > act_by {
        return Err(PolicyChangeError::Effective { found: says.effective, after, by: act_by });
    }
    let (decided, effective) = (approval.decided, says.effective);
    Ok(AdoptedPolicy { digest: *to, decided, earliest: effective, latest: effective })
}
