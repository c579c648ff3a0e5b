//! Attachments on the process ledger: documents that subjects name by digest. They must be here before the start that leads
//! to them, and a policy that its contract could not have is refused then (invariant I9).

use super::layout::{self, Key};
use super::process::ProcessContracts;
use super::{Context, Rejection, State};
use crate::digest::Digest;
use crate::event::EventBytes;
use crate::name::Name;
use crate::policy::{DOCUMENT_LIMIT, Policy};
use crate::policy_change::check_policy;
use crate::subject::Subject;
use crate::transaction::Transaction;

fn attachment_key(digest: &Digest) -> Key {
    Key::table("attachment").digest(digest)
}

/// The contract that could have an attachment as its policy. The state keeps no documents, so this is found out when one
/// comes. Why one is none is no part of the state: what a finding says is not the same in every version.
fn policy_key(digest: &Digest) -> Key {
    Key::table("attached-policy").digest(digest)
}

/// The height of the block with an attachment.
pub(super) fn attached(state: &dyn State, digest: &Digest) -> Option<u64> {
    layout::read(state, &attachment_key(digest))
}

impl ProcessContracts {
    pub(super) fn attach(
        &self,
        state: &mut dyn State,
        transaction: &Transaction,
        context: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let (digest, document) = (transaction.digest(), transaction.bytes());
        if attached(state, &digest).is_some() {
            let message = format!("the attachment `{digest}` is here already");
            return Err(Rejection::new("already-attached", message));
        }
        layout::write(state, &attachment_key(&digest), &context.height);
        if document.len() <= DOCUMENT_LIMIT
            && let Ok(policy) = Policy::parse(document)
            && check_policy(&self.registry().standing(state), policy.name(), &policy).is_ok()
        {
            layout::write(state, &policy_key(&digest), policy.name());
        }
        Ok(Vec::new())
    }
}

/// Checks that the document that a subject names by digest is here, and is what it must be.
pub(super) fn check_attachment(state: &dyn State, subject: &Subject) -> Result<(), Rejection> {
    let digest = match subject {
        Subject::ChangePolicy { to: digest, .. }
        | Subject::ChangeProcess { to: Some(digest), .. }
        | Subject::AddContract { policy: digest, .. }
        | Subject::Webhook { digest, .. }
        | Subject::SignSet { manifest: digest, .. } => digest,
        _ => return Ok(()),
    };
    if attached(state, digest).is_none() {
        let message =
            format!("the subject names the document `{digest}`, which is not here: send it before the start");
        return Err(Rejection::new("unknown-attachment", message));
    }
    let Subject::ChangePolicy { contract, .. } = subject else { return Ok(()) };
    let why = match layout::read::<Name>(state, &policy_key(digest)) {
        Some(name) if name == *contract => return Ok(()),
        Some(name) => format!("it is a policy of `{name}`"),
        None => "`assent policy check` says why, unless it is that a voter's key has one role already".into(),
    };
    let message = format!("the document `{digest}` is no policy that `{contract}` could have: {why}");
    Err(Rejection::new("bad-policy", message))
}
