//! What a voter must see beside a subject that names documents by digest: for a change of a policy, what changes, and what
//! the policy says then.

use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::name::Name;
use assent_consensus::policy::Policy;
use assent_consensus::subject::Subject;
use similar::TextDiff;

use crate::client::Client;

use super::failure::Failure;
use super::policy;
use super::screen::{Screen, quoted};

/// Lines around each change that are shown with it.
const CONTEXT: usize = 3;

/// A change of a policy, with both documents.
pub(super) struct Proposal {
    from: Vec<u8>,
    to: Policy,
}

/// The documents of a change, each of which is what the subject names; nothing if the subject names none.
pub(super) async fn fetch(
    client: &Client,
    genesis: &Genesis,
    subject: &Subject,
) -> Result<Option<Proposal>, Failure> {
    let Subject::ChangePolicy { contract, from, to, .. } = subject else { return Ok(None) };
    let from = document(client, genesis, contract, from).await?;
    let to = document(client, genesis, contract, to).await?;
    let to = Policy::parse(&to).map_err(|error| {
        Failure::does_not_verify(format!(
            "nothing was signed: what `{contract}` is to have is no policy that could be in force:\n{error}"
        ))
    })?;
    Ok(Some(Proposal { from, to }))
}

/// The document of this digest, of genesis or as the node has it.
async fn document(
    client: &Client,
    genesis: &Genesis,
    contract: &Name,
    digest: &Digest,
) -> Result<Vec<u8>, Failure> {
    let of_genesis = genesis.contract(contract).filter(|contract| contract.policy.digest() == *digest);
    if let Some(contract) = of_genesis {
        return Ok(contract.policy.document().to_vec());
    }
    let bytes = client.attachment(*digest).await?;
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(Failure::does_not_verify(format!(
            "nothing was signed: the node sent another document than the policy `{digest}` of `{contract}`"
        ))),
    }
}

impl Proposal {
    pub(super) fn present(&self, screen: &Screen) -> Result<(), Failure> {
        let text = |document: &[u8]| String::from_utf8_lossy(document).into_owned();
        let (from, to) = (text(&self.from), text(self.to.document()));
        let diff = TextDiff::from_lines(&from, &to);
        screen.line("")?;
        screen.line("what changes")?;
        for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
            screen.line(format!("  {}", hunk.header()))?;
            for change in hunk.iter_changes() {
                screen.line(format!(
                    "  {}{}",
                    change.tag(),
                    quoted(change.value().trim_end_matches('\n'))
                ))?;
            }
        }
        screen.line("")?;
        screen.line("what it will be")?;
        policy::describe(screen, &self.to)?;
        let warnings = self.to.warnings();
        warnings.iter().try_for_each(|finding| screen.line(format!("warning    {}", finding.message)))
    }
}
