//! Bundles as they are read from files and nodes: verified before anything in them is believed.

use std::collections::BTreeSet;

use assent_consensus::bundle::{self, Bundle, VerifiedBundle};
use assent_consensus::genesis::Genesis;
use assent_consensus::json;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_consensus::subject::Subject;

use super::failure::Failure;
use super::screen::quoted;

/// The largest bundle that is read, in bytes.
pub(super) const BUNDLE_LIMIT: usize = 64 << 20;

/// Verifies a bundle under `genesis`, with keys that count no more.
pub(super) fn verify<'g>(
    genesis: &'g Genesis,
    bytes: &[u8],
    revoked: &BTreeSet<Thumbprint>,
) -> Result<VerifiedBundle<'g>, Failure> {
    let bundle: Bundle = json::read(bytes).map_err(|error| invalid(format!("it is no bundle: {error}")))?;
    bundle::verify(genesis, &bundle, revoked).map_err(invalid)
}

/// Checks that a bundle proves this request of this case, and not another good one.
pub(super) fn check_is_of(
    proof: &VerifiedBundle<'_>,
    request: RequestId,
    requester: Thumbprint,
    case: &Name,
) -> Result<(), Failure> {
    let asked = (request, requester, case);
    let vote_request = &proof.vote_request;
    if asked == (vote_request.request, vote_request.requester, &vote_request.case) {
        Ok(())
    } else {
        Err(Failure::does_not_verify("the node sent a proof of another request than the one asked for"))
    }
}

/// Whether the process signs what is approved here.
pub(super) fn asks_for_a_signature(proof: &VerifiedBundle<'_>) -> bool {
    matches!(proof.subject(), Subject::Sign { .. })
        && proof.process.definition.act_on(&proof.vote_request.step).is_some()
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    // What came with the bundle stays on its line.
    Failure::does_not_verify(quoted(why))
}
