//! Signatures that this process has verified, so that the bundle of an action need not be verified again from the ground.

use assent_consensus::bundle::{SignatureId, SignatureMemory};

use crate::recent::Recent;

/// How many are remembered at least: those of some thousands of cases, in a few megabytes.
const SIGNATURES_REMEMBERED: usize = 65_536;

/// The memory of an engine. It says that a key has signed certain bytes, which stays true; whether the key still counts is
/// asked of the pins each time.
pub(super) struct VerifiedSignatures(Recent<SignatureId, ()>);

impl Default for VerifiedSignatures {
    fn default() -> VerifiedSignatures {
        VerifiedSignatures(Recent::new(SIGNATURES_REMEMBERED))
    }
}

impl SignatureMemory for VerifiedSignatures {
    fn knows(&self, signature: SignatureId) -> bool {
        self.0.get(&signature).is_some()
    }

    fn remember(&self, signature: SignatureId) {
        self.0.put(signature, ());
    }
}
