//! Attachments on the process ledger: documents that subjects name by digest. They must be here before the start that leads
//! to them, and a policy that its contract could not have is refused then (invariant I9).

use serde::{Deserialize, Serialize};

use super::layout::{self, Key};
use super::process::ProcessContracts;
use super::registry::Registry;
use super::request::shown;
use super::{Context, Rejection, State};
use crate::digest::Digest;
use crate::event::EventBytes;
use crate::name::{DisplayText, Name};
use crate::policy::{DOCUMENT_LIMIT, Policy};
use crate::policy_change::check_policy;
use crate::subject::Subject;
use crate::transaction::Transaction;

/// Whether an attachment is a policy that its contract could have. The state keeps no documents, so this is found out when
/// one comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Verdict {
    /// It is one of this contract's.
    PolicyOf(Name),
    /// It is none, and why.
    NoPolicy(DisplayText),
}

fn attachment_key(digest: &Digest) -> Key {
    Key::table("attachment").digest(digest)
}

fn verdict_key(digest: &Digest) -> Key {
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
        if document.len() <= DOCUMENT_LIMIT {
            let verdict = verdict(self.registry(), state, document);
            layout::write(state, &verdict_key(&digest), &verdict);
        }
        Ok(Vec::new())
    }
}

fn verdict(registry: &Registry, state: &dyn State, document: &[u8]) -> Verdict {
    let no_policy = |why: String| Verdict::NoPolicy(shown(&why));
    match Policy::parse(document) {
        Ok(policy) => match check_policy(&registry.standing(state), policy.name(), &policy) {
            Ok(()) => Verdict::PolicyOf(policy.name().clone()),
            Err(error) => no_policy(error.to_string()),
        },
        Err(error) => no_policy(error.findings().first().map_or(String::new(), ToString::to_string)),
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
    let why = match layout::read(state, &verdict_key(digest)) {
        Some(Verdict::PolicyOf(name)) if name == *contract => return Ok(()),
        Some(Verdict::PolicyOf(name)) => format!("it is a policy of `{name}`"),
        Some(Verdict::NoPolicy(why)) => why.to_string(),
        None => format!("it has more than {DOCUMENT_LIMIT} bytes"),
    };
    let message = format!("the document `{digest}` is no policy that `{contract}` could have: {why}");
    Err(Rejection::new("bad-policy", message))
}
