//! What each key is used for: a key has one role in a deployment (invariant I13).

use std::collections::BTreeMap;
use std::fmt;

use crate::jwk::Thumbprint;

/// What a key is used for in a deployment (invariant I13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Makes blocks final.
    Validator,
    /// Starts cases.
    Requester,
    /// Casts ballots.
    Voter,
    /// One person's key that starts cases and casts ballots.
    RequesterAndVoter,
    /// Signs vote requests and decisions.
    Contract,
    /// Signs what was approved, and never a message of Assent.
    Operational,
    /// Held offline for recovery.
    Recovery,
}

/// Which key has which role.
#[derive(Clone, Debug, Default)]
pub struct Roles(BTreeMap<Thumbprint, Role>);

/// A key that already has a role that does not go with the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key `{key}` is a {had} key already and cannot be a {wanted} key: a key has one role")]
pub struct RoleConflict {
    /// The key.
    pub key: Thumbprint,
    /// The role that it has.
    pub had: Role,
    /// The role that it was to have.
    pub wanted: Role,
}

impl Roles {
    /// The role of a key.
    pub fn get(&self, key: &Thumbprint) -> Option<Role> {
        self.0.get(key).copied()
    }

    /// Gives a key a role. Validators of two chains, voters of two contracts and requesters of two processes may be the
    /// same; a contract's, operational or recovery key has no second use at all.
    ///
    /// # Errors
    /// [`RoleConflict`], and nothing is changed.
    pub fn assign(&mut self, key: Thumbprint, wanted: Role) -> Result<(), RoleConflict> {
        use Role::{Requester, RequesterAndVoter, Validator, Voter};
        let role = match (self.get(&key), wanted) {
            (None, wanted) => wanted,
            (Some(Validator), Validator) => Validator,
            (Some(Requester), Requester) => Requester,
            (Some(Voter), Voter) => Voter,
            (Some(Requester | Voter | RequesterAndVoter), Requester | Voter | RequesterAndVoter) => {
                RequesterAndVoter
            }
            (Some(had), wanted) => return Err(RoleConflict { key, had, wanted }),
        };
        self.0.insert(key, role);
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Validator => "validator",
            Role::Requester => "requester",
            Role::Voter => "voter",
            Role::RequesterAndVoter => "requester and voter",
            Role::Contract => "contract",
            Role::Operational => "operational",
            Role::Recovery => "recovery",
        })
    }
}
