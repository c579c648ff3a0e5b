//! What every duty is checked against: pins, own clock, and the anchors of its batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use assent_consensus::bundle::{Signatures, verify_ahead};
use assent_consensus::genesis::{ContractEntry, Genesis, KeyEntry};
use assent_consensus::header::{EventProof, SealedHeader};
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::VerificationKey;
use assent_consensus::standing::{Standing, Successions};
use assent_consensus::time::{Millis, UnixMillis};

use super::anchors::BatchAnchors;
use super::claimed::Claimed;
use super::order::Prepared;
use super::refusal::Refused;
use super::vault::Vault;
use super::verified::VerifiedSignatures;
use crate::changes::{Destruction, PolicyChange, Rotation};
use crate::pins::{KeyState, PinnedKey};
use crate::signing::{DutyId, KeyName, Order, Purpose};

/// How far a moment on a ledger may lie ahead of the KMS's clock.
pub(crate) const AHEAD: Millis = Millis::from_secs(60);
/// From how many ballots on a second thread saves more time than it takes to wake it.
const WORTH_HELP: usize = 6;
const NOBODY: &BTreeSet<Thumbprint> = &BTreeSet::new();

/// What the duties of one batch are checked against.
pub(super) struct Checker {
    pub(super) genesis: Arc<Genesis>,
    pub(super) successions: Arc<Successions>,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    /// How long after the deadline an outcome that ballots made is signed without a person.
    pub(super) grace: Millis,
    pub(super) anchors: BatchAnchors,
    pub(super) verified: Arc<VerifiedSignatures>,
}

/// What is to be done for a duty.
pub(super) enum Task {
    /// Something is signed.
    Sign(Prepared),
    /// A key is followed by its next version.
    Rotate(Rotation),
    /// A version of a key is destroyed.
    Destroy(Destruction),
    /// A contract's policy is followed by another.
    ChangePolicy(PolicyChange),
}

impl Checker {
    /// Verifies a duty, and makes what is to be signed for it.
    pub(super) fn check(&self, claimed: &Claimed) -> Result<Task, Refused> {
        match claimed {
            Claimed::VoteRequest { start, call, due, request } => {
                self.vote_request(start, call, due, *request).map(Task::Sign)
            }
            Claimed::Decision { vote_request, ballots, cancel, due, claim } => {
                self.decision(vote_request, ballots, cancel.as_ref(), due, claim).map(Task::Sign)
            }
            Claimed::Action { bundle, document, due, claim } => {
                self.action(bundle, document.as_ref(), due, claim)
            }
        }
    }

    /// Whether so many ballots are to be verified that a second thread helps.
    pub(super) fn needs_help(&self, claimed: &Claimed) -> bool {
        let Some((_, ballots)) = claimed.ballots() else { return false };
        ballots.len() >= WORTH_HELP && ballots.last().is_some_and(|last| !self.signatures().know(&last.jws))
    }

    /// Helps a thread that checks a duty with its ballots; what it says of the duty is that one's to say.
    pub(super) fn help(&self, claimed: &Claimed) {
        if let Some((vote_request, ballots)) = claimed.ballots() {
            // The other thread comes upon what does not verify, and says so.
            let _ = verify_ahead(&self.standing(), vote_request, ballots, self.signatures());
        }
    }

    /// Verifies that an event is final on the line of headers that this KMS trusts; the header of its block.
    pub(super) fn check_event(
        &self,
        chain: &Name,
        proof: &EventProof,
        what: &str,
    ) -> Result<SealedHeader, Refused> {
        let Some(anchor) = self.anchors.of(chain) else {
            let message = format!("the batch has no header of the log `{chain}`, which the {what} needs");
            return Err(Refused::person("no-finality", message));
        };
        anchor.check(proof).map_err(|error| {
            let message = format!("the {what} is not shown to be in the log `{chain}`: {error}");
            Refused::person(error.reason(), message)
        })
    }

    /// The key of a contract in this version.
    pub(super) fn contract_key(
        &self,
        contract: &ContractEntry,
        version: KeyVersion,
    ) -> Result<PinnedKey, Refused> {
        let name = KeyName::Contract(contract.name.clone());
        let key = self.vault.key_version(&name, version, (self.clock)());
        let expected = self.standing().contract_key(contract, version).cloned().map(VerificationKey::from);
        expect(&name, key, expected)
    }

    /// The key of a contract that is in force at `now`.
    pub(super) fn contract_key_at(
        &self,
        contract: &ContractEntry,
        now: UnixMillis,
    ) -> Result<PinnedKey, Refused> {
        let name = KeyName::Contract(contract.name.clone());
        let key = in_force(&name, self.vault.key(&name, now))?;
        let expected = self.standing().contract_key(contract, key.version).cloned();
        expect(&name, Some(key), expected.map(VerificationKey::from))
    }

    /// An operational key in the version that is in force, or in the one with which the request's action was begun.
    pub(super) fn operational_key(&self, entry: &KeyEntry, request: RequestId) -> Result<PinnedKey, Refused> {
        let (name, now) = (KeyName::Operational(entry.name.clone()), (self.clock)());
        let mut key = in_force(&name, self.vault.key(&name, now))?;
        if !key.version.is_first()
            && let Some(ordered) = self.ordered(Purpose::Action, request)?
        {
            key = self.vault.key_version(&name, ordered.version, now).unwrap_or(key);
        }
        let expected = self.standing().operational_key(entry, key.version);
        expect(&name, Some(key), expected)
    }

    /// Refuses a key that is in no state to begin this, unless it is begun.
    pub(super) fn check_active(
        &self,
        name: &KeyName,
        key: &PinnedKey,
        (purpose, request): (Purpose, RequestId),
    ) -> Result<(), Refused> {
        match key.state {
            KeyState::Active => Ok(()),
            KeyState::Deactivated if self.ordered(purpose, request)?.is_some() => Ok(()),
            KeyState::Deactivated if self.successions.after(name, key.version).is_some() => {
                Err(not_yet_active(name, key.version.next()))
            }
            state => Err(not_in_use(name, key.version, state)),
        }
    }

    /// What is in force.
    pub(super) fn standing(&self) -> Standing<'_> {
        Standing::new(&self.genesis, self.successions.clone())
    }

    /// What is on disk to be signed for a duty.
    pub(super) fn ordered(
        &self,
        purpose: Purpose,
        request: RequestId,
    ) -> Result<Option<Arc<Order>>, Refused> {
        Ok(self.vault.ordered(DutyId::of(purpose, request))?)
    }

    /// Signatures count whoever made them (who is suspended is looked at one by one, so that the refusal names him), and
    /// those that were verified before need not be again.
    pub(super) fn signatures(&self) -> Signatures<'_> {
        Signatures::from(NOBODY).with_memory(&*self.verified)
    }

    /// Refuses what a suspended key has signed.
    pub(super) fn check_not_suspended(&self, key: Thumbprint, what: &str) -> Result<(), Refused> {
        if !self.vault.is_suspended(key) {
            return Ok(());
        }
        let message = format!("the {what} is by the key `{key}`, which a person has suspended on this KMS");
        Err(Refused::person("suspended", message))
    }
}

/// The key that is in force, unless its transition is still being signed, or its activation date is still to come.
fn in_force(name: &KeyName, key: Option<PinnedKey>) -> Result<PinnedKey, Refused> {
    match key {
        Some(key) if key.state == KeyState::PreActivation => Err(not_yet_active(name, key.version)),
        Some(key) => Ok(key),
        None => Err(Refused::person("unknown-key", format!("{name} is not on this KMS"))),
    }
}

/// A key of the pinned deployment, which must be the one that genesis, or an approved transition, names.
fn expect(
    name: &KeyName,
    key: Option<PinnedKey>,
    expected: Option<VerificationKey>,
) -> Result<PinnedKey, Refused> {
    match (key, expected) {
        (Some(key), Some(expected)) if key.public_key == expected => Ok(key),
        (Some(key), Some(expected)) => {
            let found = key.public_key.thumbprint();
            let message = format!("{name} is `{found}` here, and `{}` in genesis", expected.thumbprint());
            Err(Refused::person("other-key", message))
        }
        _ => Err(Refused::person("unknown-key", format!("{name} is not on this KMS in this version"))),
    }
}

/// Refuses what was signed with a key that is not trusted any more.
pub(super) fn check_trusted(name: &KeyName, key: &PinnedKey) -> Result<(), Refused> {
    match key.state {
        KeyState::Active | KeyState::Deactivated | KeyState::Destroyed => Ok(()),
        state @ (KeyState::PreActivation | KeyState::Suspended | KeyState::Compromised) => {
            Err(not_in_use(name, key.version, state))
        }
    }
}

fn not_yet_active(name: &KeyName, version: KeyVersion) -> Refused {
    let message = format!("version {version} of {name} is not active yet");
    Refused { is_verdict: false, ..Refused::retry("key-not-yet-active", message) }
}

fn not_in_use(name: &KeyName, version: KeyVersion, state: KeyState) -> Refused {
    let reason = match state {
        KeyState::Suspended => "key-suspended",
        KeyState::Compromised => "key-compromised",
        _ => "key-not-active",
    };
    Refused::person(reason, format!("version {version} of {name} is {state}: nothing is signed on its word"))
}
