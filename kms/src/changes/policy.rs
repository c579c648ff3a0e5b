//! Changes of policies: what an approved `change-policy` becomes.
//!
//! ```text
//! approval ─▶ what the change says, with its moment, on disk ─▶ signed by the governing contract's key ─▶ pinned
//! ```
//!
//! From the moment at which the new policy is effective nothing is opened by the old one, also while the signature is still
//! missing: the duty is told to come again.

use std::sync::{Arc, PoisonError};

use assent_consensus::digest::Digest;
use assent_consensus::jws::Jws;
use assent_consensus::message::Change;
use assent_consensus::name::Name;
use assent_consensus::policy::Policy;
use assent_consensus::policy_change::{check_from, confirm};
use assent_consensus::standing::{AdoptedPolicy, Standing};
use assent_consensus::subject::Subject;
use assent_consensus::time::{Millis, UnixMillis};
use assent_consensus::transition::Approval;

use super::{ApprovedChanges, Changed, LEAD, Mandate};
use crate::audit::Entry;
use crate::pins::{AwaitedPolicy, KeyState};
use crate::signing::{DutyId, Order, Purpose, SigningError};
use crate::store::PolicyRow;

/// An approved change of a policy.
#[derive(Clone, Debug)]
pub struct PolicyChange {
    /// What approved it.
    pub mandate: Mandate,
    /// Whose policy it is.
    pub contract: Name,
    /// The policy that it follows.
    pub from: Digest,
    /// The policy.
    pub policy: Arc<Policy>,
    /// The subject, as it was approved.
    pub subject: Subject,
}

impl ApprovedChanges {
    /// Puts a policy into force; once for a request, the same again gives the same statement.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn change_policy(&self, change: PolicyChange) -> Result<Changed, SigningError> {
        let _turn = self.turn.lock().await;
        let request = change.mandate.request;
        let recorded = self.reader.lock().unwrap_or_else(PoisonError::into_inner).policy_by(request)?;
        let says = match recorded {
            Some(says) => says,
            None => self.fix(&change).await?,
        };
        let effective = says.effective;
        let (message, audit) = self.sign(Purpose::Change, request, change.mandate.key(), says).await?;
        self.pin(change, effective, message.clone()).await?;
        Ok(Changed { change: message, audit })
    }

    /// Whether a contract is to go by a policy at `now` whose change is not signed yet, and still may be.
    pub fn awaits_policy(&self, contract: &Name, now: UnixMillis) -> bool {
        let is_now = |awaited: &AwaitedPolicy| awaited.effective <= now && now < awaited.act_by;
        let awaited = self.pins.awaited_policy(contract).filter(is_now);
        awaited.is_some_and(|awaited| {
            match self.signing.ordered(DutyId::of(Purpose::Change, awaited.request)) {
                Ok(Some(order)) => !self.is_lost(&order, now),
                Ok(None) | Err(_) => true,
            }
        })
    }

    /// Whether the key of an order signs nothing any more, whatever comes.
    fn is_lost(&self, order: &Order, now: UnixMillis) -> bool {
        let key = self.pins.key_version(&order.key, order.version, now);
        key.is_none_or(|key| matches!(key.state, KeyState::Compromised | KeyState::Destroyed))
    }

    /// Fixes what the change says, and writes it down.
    async fn fix(&self, change: &PolicyChange) -> Result<Change, SigningError> {
        let genesis = self.genesis()?;
        let standing = Standing::new(&genesis, self.pins.successions());
        let PolicyChange { mandate, contract, from, policy, subject } = change;
        mandate.check_in_time((self.clock)())?;
        check_from(&standing, contract, from, mandate.decided)?;
        // With another moment it cannot be signed, if another change was put in its place since.
        self.check_not_ordered(Purpose::Change, mandate.request)?;
        let approval = Approval {
            contract: &mandate.governor,
            decision: mandate.decision,
            decided: mandate.decided,
            key_version: mandate.governor_version,
            subject,
        };
        let last = standing.policies(contract).last().map_or(mandate.decided, |last| last.latest);
        // What a version of a key that is replaced has begun is over when it retires: by the policies of before.
        let keys = self.pins.keys().into_iter().filter(|row| !row.version.is_first());
        let activated = keys.filter_map(|row| row.activated).fold(last, Ord::max);
        let after = activated.max(mandate.decided).after(Millis::new(1));
        loop {
            let effective = (self.clock)().after(LEAD).max(after);
            let (deployment, decision) = (genesis.id(), mandate.decision);
            let says = Change { deployment, subject: subject.clone(), decision, effective };
            confirm(&standing, &says, (contract, &policy.digest()), &approval, mandate.act_by)?;
            let (contract, document) = (contract.clone(), policy.document().to_vec());
            let (request, decided, act_by) = (mandate.request, mandate.decided, mandate.act_by);
            let row = PolicyRow {
                request,
                decided,
                contract,
                says: says.clone(),
                document,
                act_by,
                is_signed: false,
            };
            self.writer.write(move |batch| batch.insert_policy(&row)).await?;
            self.reload().await?;
            // If the disk took longer than that, requests may have been opened by the old policy meanwhile.
            if (self.clock)() < effective {
                return Ok(says);
            }
        }
    }

    /// Puts the policy into force.
    async fn pin(
        &self,
        change: PolicyChange,
        effective: UnixMillis,
        message: Jws,
    ) -> Result<(), SigningError> {
        let genesis = self.genesis()?;
        let PolicyChange { mandate, contract, from, policy, .. } = change;
        let to = policy.digest();
        let standing = Standing::new(&genesis, self.pins.successions());
        let is_it = |known: &AdoptedPolicy| known.digest == to && known.latest == effective;
        if standing.policies(&contract).iter().any(is_it) {
            return Ok(());
        }
        let (at, decision, name) = ((self.clock)(), mandate.decision, contract.clone());
        let written = self.writer.write(move |batch| {
            batch.complete_policy(mandate.request, &contract, &to, &message)?;
            batch.append(&Entry::PolicyChanged { at, contract, from, to, effective, decision }).map(drop)
        });
        written.await?;
        self.reload().await?;
        tracing::warn!(contract = %name, policy = %to, "a new policy is pinned");
        Ok(())
    }
}
