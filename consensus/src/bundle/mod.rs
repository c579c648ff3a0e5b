//! Bundles: one file that proves one request offline, and the checks that make it a proof.
//!
//! ```text
//! history ─▶ what is in force: genesis, and the key transitions and policies since                      (history)
//! genesis ─▶ contract's key ─▶ vote request ─▶ policy, process, start ─▶ subject      (approval)
//!                │                  └─▶ ballots ─▶ Recount ─▶ outcome, decided
//!                └─▶ decision ◀──────────────────────────────┘ └─▶ inclusion, result   (verify)
//! ```

mod approval;
mod assembly;
mod error;
mod history;
mod signatures;
mod verify;

pub use approval::{
    Asked, Opening, Question, Recount, recount, verify_ahead, verify_start, verify_vote_request,
};
pub use assembly::{Records, complete, lineage};
pub use error::{BundleError, Member, Thing};
pub use signatures::{SignatureId, SignatureMemory, Signatures};
pub use verify::{Act, ApprovedAction, VerifiedBundle, verify, verify_under};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::genesis::Genesis;
use crate::header::Inclusion;
use crate::json::Integer;
use crate::jws::Jws;
use crate::message::{CountedMessage, DeploymentId, KeyVersion};
use crate::name::Name;
use crate::operational_key::OperationalPublicKey;
use crate::standing::Standing;
use crate::subject::SignatureFormat;

/// The proof of one request (`application/vnd.assent.bundle+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// 1
    pub version: Integer,
    /// The deployment.
    pub genesis: DeploymentId,
    /// The exact policy document.
    pub policy: Bytes,
    /// The exact process document.
    pub definition: Bytes,
    /// The start of the case.
    pub start: Jws,
    /// The vote request.
    pub vote_request: Jws,
    /// The ballots, in the order counted.
    pub ballots: Vec<CountedMessage>,
    /// The requester's cancellation; `at` is the decision's `decided`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel: Option<CountedMessage>,
    /// The decision.
    pub decision: Jws,
    /// From the contract's key in genesis to the one used.
    pub contract_transitions: Vec<TransitionPair>,
    /// From the operational key in genesis to the one used.
    pub key_transitions: Vec<TransitionPair>,
    /// Bundles of the approved changes that lead from genesis to what this request relies on, in order of `decided`.
    pub history: Vec<Bundle>,
    /// The decision's place in the consensus ledger.
    pub inclusion: Inclusion,
    /// What the approved action gave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<ActionResult>,
}

/// A key transition, signed by the one who may and by the new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransitionPair {
    /// Signed by the governing contract's key.
    pub first: Jws,
    /// Signed by the new key.
    pub new: Jws,
}

/// How a contract's key and policy came to be what they are: the key's transitions since genesis, and the bundles of the
/// approvals that led to them and to the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// From the contract's key in genesis.
    pub transitions: Vec<TransitionPair>,
    /// In order of `decided`.
    pub history: Vec<Bundle>,
}

impl Lineage {
    /// What is in force by it, for the sake of a contract's key and of this policy of its own.
    ///
    /// # Errors
    /// [`BundleError`]
    pub fn standing<'g, 'a>(
        &self,
        genesis: &'g Genesis,
        (contract, policy): (&Name, &Digest),
        signatures: impl Into<Signatures<'a>>,
    ) -> Result<Standing<'g>, BundleError> {
        let relied_on = history::Relied { transitions: &self.transitions, contract, policy };
        history::standing(genesis, relied_on, &self.history, signatures.into())
    }
}

/// What an approved action gave: a signature by an operational key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionOutput {
    /// The operational key.
    pub key: Name,
    /// Its version.
    pub version: KeyVersion,
    /// Its public key.
    pub public_key: OperationalPublicKey,
    /// The form of the signature.
    pub format: SignatureFormat,
    /// The signature, in that form.
    pub signature: Bytes,
}

/// An [`ActionOutput`] with its place in the process ledger. Members stand side by side, as in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the first five are those of `ActionOutput`")]
pub struct ActionResult {
    pub key: Name,
    pub version: KeyVersion,
    pub public_key: OperationalPublicKey,
    pub format: SignatureFormat,
    pub signature: Bytes,
    /// The `result-recorded` event.
    pub inclusion: Inclusion,
}

impl ActionResult {
    /// `output` at its place in the ledger.
    pub fn new(output: ActionOutput, inclusion: Inclusion) -> ActionResult {
        let ActionOutput { key, version, public_key, format, signature } = output;
        ActionResult { key, version, public_key, format, signature, inclusion }
    }
}

#[cfg(test)]
mod tests;
