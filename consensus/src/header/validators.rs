//! Who may make blocks final.

use crate::digest::{Digest, Tuple};
use crate::jwk::{PublicKey, Thumbprint};

/// Who may make blocks final: keys and their voting power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators(Vec<(PublicKey, u64)>);

impl Validators {
    /// Validators with a power of one each, as genesis lists them.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Validators {
        let mut validators: Vec<_> = keys.into_iter().map(|key| (key, 1)).collect();
        validators.sort_by_key(|(key, _)| key.thumbprint());
        Validators(validators)
    }

    /// H(`assent-validators-v1`, kid and power of each, in order of kid).
    pub fn hash(&self) -> Digest {
        let tuple = Tuple::new("assent-validators-v1");
        self.0
            .iter()
            .fold(tuple, |tuple, (key, power)| tuple.text(&key.thumbprint().to_string()).number(*power))
            .hash()
    }

    /// The key of a validator.
    pub fn key(&self, kid: Thumbprint) -> Option<&PublicKey> {
        self.0.iter().find(|(key, _)| key.thumbprint() == kid).map(|(key, _)| key)
    }

    /// The keys, in order of kid.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().map(|(key, _)| key)
    }

    pub(super) fn power(&self, kid: Thumbprint) -> Option<(&PublicKey, u64)> {
        self.0.iter().find(|(key, _)| key.thumbprint() == kid).map(|(key, power)| (key, *power))
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(_, power)| power).sum()
    }
}
