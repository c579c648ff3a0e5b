//! Statements of governing contracts on both ledgers: the process ledger records one as the result of its case, and the
//! consensus ledger takes over what it must go by, the policies of its contracts.
//!
//! ```text
//! approved `destroy-key`   ─▶ acting ─Change─▶ result-recorded, changed
//! approved `change-policy` ─▶ acting ─Change─▶ result-recorded, changed ─RelayedChange─▶ changed
//!                                              not decided any more: └─▶ request-refused ...
//! ```

use serde::{Deserialize, Serialize};

use super::answer::Acting;
use super::consensus::{ConsensusContracts, LIVE};
use super::layout::{self, DUTY, Key};
use super::process::ProcessContracts;
use super::record::{Answer, Opened, RequestState};
use super::registry::Registry;
use super::request::{call, known, opened, put_status, remove_live, shown, status};
use super::{Context, Rejection, State};
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::event::{ConsensusEvent, EventBytes, ProcessEvent};
use crate::header::Inclusion;
use crate::jws::{Jws, Signed, Verified};
use crate::message::{Change, RequestId};
use crate::name::Name;
use crate::policy_change::{self, PolicyChangeError};
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::transition::{Approval, target_of};
use crate::vote::Outcome;

const POLICIES: &str = "policies";
/// Requests that approved a change of a key or policy, by the digest of their decision.
const APPROVED: &str = "approved";

/// A policy that followed another, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedPolicy {
    /// What the governing contract says.
    pub says: Change,
    /// The digest of the policy.
    pub to: Digest,
    /// The message.
    pub change: Jws,
    /// The request that approved it.
    pub request: RequestId,
    /// When that was decided.
    pub decided: UnixMillis,
    /// The height of `changed`.
    pub height: u64,
}

impl RecordedPolicy {
    /// The contract whose policy it is.
    pub fn contract(&self) -> Option<&Name> {
        match &self.says.subject {
            Subject::ChangePolicy { contract, .. } => Some(contract),
            _ => None,
        }
    }
}

/// An approval that changes something, as the consensus ledger knows it.
pub(super) struct Approved {
    pub(super) request: RequestId,
    pub(super) subject: Subject,
    opened: Opened,
    decision: Digest,
    decided: UnixMillis,
}

impl Approved {
    pub(super) fn approval(&self) -> Approval<'_> {
        let Approved { subject, opened, decision, decided, .. } = self;
        Approval {
            contract: &opened.contract,
            decision: *decision,
            decided: *decided,
            key_version: opened.key_version,
            subject,
        }
    }
}

/// The policies that followed a contract's policy of genesis, in order.
pub(super) fn policies(state: &dyn State, contract: &Name) -> Vec<RecordedPolicy> {
    layout::read(state, &Key::table(POLICIES).part(contract.as_str())).unwrap_or_default()
}

/// The policies of all contracts, in order of contract.
pub(super) fn all_policies(state: &dyn State) -> Vec<RecordedPolicy> {
    let lists = state.scan(Key::table(POLICIES).as_bytes(), usize::MAX).into_iter();
    lists.filter_map(|(_, list)| serde_json::from_slice::<Vec<_>>(&list).ok()).flatten().collect()
}

fn document_key(contract: &Name, digest: &Digest) -> Key {
    Key::table("policy").part(contract.as_str()).bytes(b"/").digest(digest)
}

/// The document of a policy that followed that of genesis.
pub(super) fn policy_document(state: &dyn State, contract: &Name, digest: &Digest) -> Option<Vec<u8>> {
    state.get(document_key(contract, digest).as_bytes())
}

/// Remembers which request a change of a key or policy was approved by.
pub(super) fn note_approval(state: &mut dyn State, request: RequestId, decision: &Digest) {
    let is_change =
        |subject: &Subject| target_of(subject).is_some() || matches!(subject, Subject::ChangePolicy { .. });
    if call(state, request).is_some_and(|call| is_change(&call.subject)) {
        let key = Key::table(APPROVED).digest(decision);
        state.put(key.as_bytes(), request.0.as_bytes().to_vec());
    }
}

/// Checks a policy that a statement puts into force against what is in force on this ledger, and puts it there.
fn adopt(
    registry: &Registry,
    state: &mut dyn State,
    change: &Verified<Change>,
    document: Option<&Bytes>,
    (request, approval): (RequestId, &Approval<'_>),
    act_by: UnixMillis,
    context: &Context<'_>,
) -> Result<(), Rejection> {
    let Subject::ChangePolicy { contract, from, to, .. } = approval.subject else {
        return Err(Rejection::new("not-approved", "the change is not one of a policy"));
    };
    let Some(Bytes(document)) = document else {
        let message = format!("the document of the policy `{to}` did not come with the change");
        return Err(Rejection::new("no-document", message));
    };
    let standing = registry.standing(state);
    policy_change::check_from(&standing, contract, from, approval.decided).map_err(rejected)?;
    policy_change::check_document(&standing, contract, to, document).map_err(rejected)?;
    policy_change::confirm(&standing, change, (contract, to), approval, act_by).map_err(rejected)?;

    let mut list = policies(state, contract);
    let (says, height) = (Change::clone(change), context.height);
    let (to, decided) = (*to, approval.decided);
    list.push(RecordedPolicy { says, to, change: change.jws().clone(), request, decided, height });
    layout::write(state, &Key::table(POLICIES).part(contract.as_str()), &list);
    state.put(document_key(contract, &to).as_bytes(), document.clone());
    Ok(())
}

fn rejected(error: PolicyChangeError) -> Rejection {
    Rejection::new(error.reason(), error.to_string())
}

impl ProcessContracts {
    /// Takes the governing contract's statement of what it changed: the result of its case. A version of a key that is
    /// destroyed has signed nothing for long, so that nothing more comes of it; a policy is put into force.
    pub(super) fn change(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        document: Option<&Bytes>,
        audit: Digest,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Change>::from_jws(jws.clone())?;
        self.registry().check_deployment(signed.unverified().deployment)?;
        let (request, asked) = self.approved(state, signed.unverified().decision)?;
        self.walk_on(state, &asked, |contracts, state, walk| {
            let acting = Acting::of(walk, &asked, request, context)?;
            let subject = acting.subject(walk, &asked)?;
            let Some(Answer::Decided { decision, decided, key_version, .. }) = asked.answer else {
                return Err(Rejection::new("not-due", "the case has no decision"));
            };
            let registry = contracts.registry();
            let key = registry.contract_key(state, registry.contract(&asked.contract)?, key_version)?;
            let change = signed.verify_with(&key, context.checked)?;
            let approval =
                Approval { contract: &asked.contract, decision, decided, key_version, subject: &subject };
            match subject {
                Subject::DestroyKey { .. } if document.is_none() && change.subject == subject => {}
                Subject::ChangePolicy { .. } => {
                    let approved = (request, &approval);
                    adopt(registry, state, &change, document, approved, acting.act_by(), context)?;
                }
                _ => return Err(Rejection::new("not-approved", "the change is not what was approved")),
            }
            let change = change.digest();
            walk.events.push(ProcessEvent::Changed { subject, change }.to_bytes());
            acting.done(contracts, state, walk, &asked, (change, audit), context)
        })
    }
}

impl ConsensusContracts {
    /// Takes over a policy of one of its contracts.
    pub(super) fn relayed_change(
        &self,
        state: &mut dyn State,
        jws: &Jws,
        document: &Bytes,
        inclusion: &Inclusion,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let signed = Signed::<Change>::from_jws(jws.clone())?;
        let says = signed.unverified();
        self.registry().check_deployment(says.deployment)?;
        let Subject::ChangePolicy { contract, .. } = &says.subject else {
            return Err(super::not_taken("change"));
        };
        self.contract(contract)?;
        if policies(state, contract).iter().any(|recorded| recorded.change.is_same_message(jws)) {
            let message = format!("this policy of `{contract}` is recorded already");
            return Err(Rejection::new("already-changed", message));
        }
        self.check_told(inclusion, jws.digest())?;
        let approved = self.approved(state, says.decision)?;
        let governor = self.contract(&approved.opened.contract)?;
        let key = self.registry().contract_key(state, governor, approved.opened.key_version)?;
        let change = signed.verify_with(&key, context.checked)?;
        let policy = self.registry().policy(state, governor, &approved.opened.policy)?;
        let act_by = approved.decided.after(policy.act_within());
        let approval = (approved.request, &approved.approval());
        adopt(self.registry(), state, &change, Some(document), approval, act_by, context)?;

        let Approved { subject, .. } = approved;
        let mut events = vec![ConsensusEvent::Changed { subject, change: change.digest() }.to_bytes()];
        events.extend(self.refuse_called(state, context));
        Ok(events)
    }

    /// What this ledger knows to be approved by a decision: the request and its subject.
    pub(super) fn approved(&self, state: &dyn State, decision: Digest) -> Result<Approved, Rejection> {
        let unknown = || {
            let message = format!("no decision `{decision}` on a key or policy is recorded here");
            Rejection::new("unknown-decision", message)
        };
        let found = state.get(Key::table(APPROVED).digest(&decision).as_bytes());
        let bytes = found.and_then(|bytes| bytes.try_into().ok()).ok_or_else(unknown)?;
        let request = RequestId(Digest::from_bytes(bytes));
        let RequestState::Decided { outcome: Outcome::Approved, decided, .. } = known(state, request)?.state
        else {
            return Err(unknown());
        };
        let opened = opened(state, request).ok_or_else(unknown)?;
        let subject = call(state, request).ok_or_else(unknown)?.subject;
        Ok(Approved { request, subject, opened, decision, decided })
    }

    /// Checks that an event of a process ledger tells of a change.
    pub(super) fn check_told(&self, inclusion: &Inclusion, change: Digest) -> Result<(), Rejection> {
        match ProcessEvent::parse(&inclusion.event.0) {
            Ok(ProcessEvent::Changed { change: told, .. }) if told == change => {}
            _ => {
                let message = "the event that was carried does not tell of this change";
                return Err(Rejection::new("not-a-change", message));
            }
        }
        self.registry().check_process_chain(&inclusion.chain)?;
        self.registry().check_inclusion(inclusion)
    }

    /// Ends what was called and is not open yet, where its contract decides it no more.
    fn refuse_called(&self, state: &mut dyn State, context: &Context<'_>) -> Vec<EventBytes> {
        let live = state.scan(Key::table(LIVE).as_bytes(), usize::MAX);
        let requests = live.into_iter().filter_map(|(_, value)| value.try_into().ok());
        let mut events = Vec::new();
        for request in requests.map(|bytes| RequestId(Digest::from_bytes(bytes))).collect::<Vec<_>>() {
            let called = |status: &_| matches!(status, RequestState::Called);
            let Some(mut status) = status(state, request).filter(|status| called(&status.state)) else {
                continue;
            };
            let Some(call) = call(state, request) else { continue };
            let contract = self.contract(&call.contract);
            let why = contract.ok().and_then(|it| self.registry().refusal(state, it, &call.subject));
            let Some(why) = why.map(|why| shown(&why)) else { continue };
            DUTY.remove(state, status.heights.called, request);
            remove_live(state, &status);
            status.state = RequestState::Refused { why: why.clone() };
            status.heights.ended = Some(context.height);
            put_status(state, request, &status);
            events.push(ConsensusEvent::RequestRefused { request, why }.to_bytes());
        }
        events
    }
}
