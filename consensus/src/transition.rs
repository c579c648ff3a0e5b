//! Key transitions: whether a pair of messages leads from a key's last version to its next one (DESIGN section 6).
//!
//! ```text
//! approved `rotate-key` ─▶ payload ─▶ first: signed by the governing contract, with the version that signed the decision
//!                                └──▶ new:   signed by the new key
//! ```

use crate::bundle::{Signatures, TransitionPair};
use crate::digest::Digest;
use crate::genesis::{ContractEntry, Role, RoleConflict};
use crate::jwk::Thumbprint;
use crate::jws::{JwsError, Signed, Verified};
use crate::message::{KeyTransition, KeyVersion, TransitionReason};
use crate::name::Name;
use crate::operational_key::Algorithm;
use crate::policy::Policy;
use crate::standing::{KeyName, Standing, compromised_at};
use crate::subject::Subject;
use crate::time::UnixMillis;

/// Why a pair of messages is not the next transition of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// A message is malformed, or not signed by whom it must be signed.
    #[error("the {what} message of the key transition: {source}")]
    Message {
        /// `first` or `new`.
        what: &'static str,
        /// What is wrong.
        source: JwsError,
    },
    /// The two say different things.
    #[error("the two messages of the key transition do not say the same")]
    PayloadsDiffer,
    /// Another deployment's.
    #[error("the key transition is for another deployment")]
    OtherDeployment,
    /// Neither a contract's nor an operational key, or both.
    #[error("a key transition must name either a `key` or a `contract`")]
    Target,
    /// Genesis has no such key.
    #[error("there is no such key: {0}")]
    Unknown(KeyName),
    /// Not the next version.
    #[error("the key transition leads to version {found} of {key}, and the next one is {expected}")]
    Version {
        /// Which key.
        key: KeyName,
        /// The version that it leads to.
        found: KeyVersion,
        /// The next one.
        expected: KeyVersion,
    },
    /// Not from the last version.
    #[error("the key transition leads from the key `{found}`, and the last version of {key} is `{expected}`")]
    From {
        /// Which key.
        key: KeyName,
        /// From where it leads.
        found: Thumbprint,
        /// From where it must lead.
        expected: Thumbprint,
    },
    /// Signed by somebody else than the governing contract, or by a version of its key that is retired or compromised.
    #[error("the key transition is signed by `{found}`, which is no key of `{governor}` that may sign it")]
    Governor {
        /// Who alone may sign.
        governor: Name,
        /// Who did.
        found: Thumbprint,
    },
    /// A key that has a role.
    #[error(transparent)]
    Role(#[from] RoleConflict),
    /// A key transition cannot name such a key.
    #[error("{0} signs by {1}: a key transition can name ES256 keys alone")]
    Algorithm(KeyName, Algorithm),
    /// It begins before the version before it, or before it was approved.
    #[error("the key transition activates its version at {found}, and not after {after}")]
    Activates {
        /// When.
        found: UnixMillis,
        /// When at the earliest.
        after: UnixMillis,
    },
    /// The old version ends before what it has begun.
    #[error(
        "the key transition retires the old version at {found}, and what it has begun ends at {expected} at the latest"
    )]
    Retires {
        /// When.
        found: UnixMillis,
        /// When at the earliest.
        expected: UnixMillis,
    },
    /// Not what was approved.
    #[error("the key transition is not what was approved: its {0} is another one")]
    NotApproved(&'static str),
}

impl TransitionError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            TransitionError::Message { source, .. } => source.reason(),
            TransitionError::PayloadsDiffer => "transition-differs",
            TransitionError::OtherDeployment => "other-deployment",
            TransitionError::Target | TransitionError::Unknown(_) => "unknown-key",
            TransitionError::Version { .. } => "other-key-version",
            TransitionError::From { .. } => "other-key",
            TransitionError::Governor { .. } => "wrong-key",
            TransitionError::Role(_) => "role-conflict",
            TransitionError::Algorithm(..) => "other-algorithm",
            TransitionError::Activates { .. } => "too-early",
            TransitionError::Retires { .. } => "retires-too-early",
            TransitionError::NotApproved(_) => "not-approved",
        }
    }
}

/// A transition that leads to the next version of its key.
#[derive(Clone, Debug)]
pub struct VerifiedTransition {
    /// The key.
    pub key: KeyName,
    /// The message that the new key signed.
    pub new: Verified<KeyTransition>,
    /// The governing contract.
    pub governor: Name,
    /// The version of its key that signed the first message.
    pub governor_version: KeyVersion,
}

/// What was approved.
#[derive(Clone, Copy, Debug)]
pub struct Approval<'a> {
    /// The contract that decided.
    pub contract: &'a Name,
    /// The decision's digest.
    pub decision: Digest,
    /// When it was decided.
    pub decided: UnixMillis,
    /// The version of the governing contract's key that signed it.
    pub key_version: KeyVersion,
    /// What was asked.
    pub subject: &'a Subject,
}

/// Why a key is rotated, by the subject that asks for it: `compromise` says that the old version is not trusted any more, and
/// every other reason is one for a rotation by plan.
pub fn reason_of(subject: &Subject) -> TransitionReason {
    match subject {
        Subject::RotateKey { reason, .. } if reason.as_str() == "compromise" => TransitionReason::Compromise,
        _ => TransitionReason::Rotation,
    }
}

/// The key that a `rotate-key` or `destroy-key` is about; nothing if it is neither.
pub fn target_of(subject: &Subject) -> Option<KeyName> {
    match subject {
        Subject::RotateKey { key, contract, .. } | Subject::DestroyKey { key, contract, .. } => {
            joined(contract.as_ref(), key.as_ref())
        }
        _ => None,
    }
}

/// The key that a transition is about.
///
/// # Errors
/// [`TransitionError::Target`]
pub fn key_of(says: &KeyTransition) -> Result<KeyName, TransitionError> {
    joined(says.contract.as_ref(), says.key.as_ref()).ok_or(TransitionError::Target)
}

fn joined(contract: Option<&Name>, key: Option<&Name>) -> Option<KeyName> {
    match (contract, key) {
        (Some(contract), None) => Some(KeyName::Contract(contract.clone())),
        (None, Some(key)) => Some(KeyName::Operational(key.clone())),
        _ => None,
    }
}

/// Verifies that a pair of messages leads to the next version of its key, as far as that can be seen without the approval:
/// see [`VerifiedTransition::confirm`].
///
/// # Errors
/// [`TransitionError`]
pub fn verify<'a>(
    standing: &Standing<'_>,
    pair: &TransitionPair,
    signatures: impl Into<Signatures<'a>>,
) -> Result<VerifiedTransition, TransitionError> {
    let signatures = signatures.into();
    let message = |what| move |source| TransitionError::Message { what, source };
    let first = Signed::<KeyTransition>::from_jws(pair.first.clone()).map_err(message("first"))?;
    let new = Signed::<KeyTransition>::from_jws(pair.new.clone()).map_err(message("new"))?;
    if pair.first.payload() != pair.new.payload() {
        return Err(TransitionError::PayloadsDiffer);
    }
    let says = new.unverified().clone();
    let genesis = standing.genesis();
    if says.deployment != genesis.id() {
        return Err(TransitionError::OtherDeployment);
    }
    let key = key_of(&says)?;
    let governor = governor(standing, &key)?;
    check_line(standing, &key, &says)?;
    check_times(standing, &key, governor, &says)?;

    let signer = pair.first.kid();
    let stranger = || TransitionError::Governor { governor: governor.name.clone(), found: signer };
    let governor_version = version_of(standing, governor, signer).ok_or_else(stranger)?;
    let governor_key = standing.contract_key(governor, governor_version).ok_or_else(stranger)?;
    if signatures.are_revoked(signer) {
        return Err(stranger());
    }
    signatures.verify(first, governor_key).map_err(message("first"))?;
    let new = signatures.verify(new, &says.to).map_err(message("new"))?;
    Ok(VerifiedTransition { key, new, governor: governor.name.clone(), governor_version })
}

impl VerifiedTransition {
    /// Compares with what was approved.
    ///
    /// # Errors
    /// [`TransitionError::NotApproved`], [`TransitionError::Activates`]
    pub fn confirm(&self, approval: &Approval<'_>) -> Result<(), TransitionError> {
        let says = &*self.new;
        let differs = |what| Err(TransitionError::NotApproved(what));
        if says.decision != approval.decision {
            return differs("decision");
        }
        if !matches!(approval.subject, Subject::RotateKey { .. })
            || target_of(approval.subject).as_ref() != Some(&self.key)
        {
            return differs("key");
        }
        if says.reason != reason_of(approval.subject) {
            return differs("reason");
        }
        if self.governor != *approval.contract {
            return differs("governing contract");
        }
        if self.governor_version != approval.key_version {
            return differs("governing contract's key version");
        }
        if says.activates < approval.decided {
            return Err(TransitionError::Activates { found: says.activates, after: approval.decided });
        }
        Ok(())
    }
}

/// The contract that alone may replace a key.
///
/// # Errors
/// [`TransitionError::Unknown`]
pub fn governor<'g>(standing: &Standing<'g>, key: &KeyName) -> Result<&'g ContractEntry, TransitionError> {
    let genesis = standing.genesis();
    let name = match key {
        KeyName::Contract(name) => {
            genesis.contract(name).map(|contract| contract.governed_by.as_ref().unwrap_or(&contract.name))
        }
        KeyName::Operational(name) => genesis.key(name).map(|key| &key.governed_by),
    };
    name.and_then(|name| genesis.contract(name)).ok_or_else(|| TransitionError::Unknown(key.clone()))
}

/// The earliest moment at which the old version of a key may be retired: what it has begun is over then.
pub fn earliest_retirement(
    standing: &Standing<'_>,
    key: &KeyName,
    governor: &ContractEntry,
    activates: UnixMillis,
) -> UnixMillis {
    let contract = match key {
        KeyName::Contract(name) => standing.genesis().contract(name),
        KeyName::Operational(_) => None,
    };
    activates.after(standing.longest(contract.unwrap_or(governor), activates, Policy::deadline))
}

fn check_line(standing: &Standing<'_>, key: &KeyName, says: &KeyTransition) -> Result<(), TransitionError> {
    let unknown = || TransitionError::Unknown(key.clone());
    let (version, last) = standing.last(key).ok_or_else(unknown)?;
    if says.version != version.next() {
        let (key, found, expected) = (key.clone(), says.version, version.next());
        return Err(TransitionError::Version { key, found, expected });
    }
    if says.from != last {
        return Err(TransitionError::From { key: key.clone(), found: says.from, expected: last });
    }
    let wanted = match key {
        KeyName::Contract(_) => Role::Contract,
        KeyName::Operational(name) => {
            let algorithm = standing.genesis().key(name).ok_or_else(unknown)?.key.algorithm();
            if algorithm != Algorithm::ES256 {
                return Err(TransitionError::Algorithm(key.clone(), algorithm));
            }
            Role::Operational
        }
    };
    let to = says.to.thumbprint();
    match standing.role(&to) {
        None => Ok(()),
        Some(had) => Err(RoleConflict { key: to, had, wanted }.into()),
    }
}

fn check_times(
    standing: &Standing<'_>,
    key: &KeyName,
    governor: &ContractEntry,
    says: &KeyTransition,
) -> Result<(), TransitionError> {
    if let Some(before) = standing.transitions(key).last()
        && says.activates <= before.activates
    {
        return Err(TransitionError::Activates { found: says.activates, after: before.activates });
    }
    let expected = earliest_retirement(standing, key, governor, says.activates);
    match says.old_retires < expected {
        true => Err(TransitionError::Retires { found: says.old_retires, expected }),
        false => Ok(()),
    }
}

/// The version of a contract's key that has this thumbprint, unless it was compromised.
fn version_of(standing: &Standing<'_>, contract: &ContractEntry, signer: Thumbprint) -> Option<KeyVersion> {
    let transitions = standing.transitions(&KeyName::Contract(contract.name.clone()));
    let first = (contract.key.thumbprint() == signer).then(KeyVersion::first);
    let later = || transitions.iter().find(|to| to.to.thumbprint() == signer).map(|to| to.version);
    first.or_else(later).filter(|version| compromised_at(transitions, *version).is_none())
}
