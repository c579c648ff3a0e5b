//! Which signatures count, and which of them were verified before.
//!
//! The KMS meets most signatures more than once: the start of a case when its vote request is due and again when its action
//! is, a ballot with the decision and again with the action. Whether a key has signed exactly these bytes with exactly this
//! signature never changes, so it is worked out once; whether the key still counts is asked every time.

use std::collections::BTreeSet;

use crate::digest::{Digest, Tuple};
use crate::jwk::{BadSignature, PublicKey, Signature, Thumbprint};
use crate::jws::{Jws, JwsError, Payload, Signed, Verified};

/// Names one verification: a key, the exact bytes that it signed, and the exact signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SignatureId(Digest);

/// Remembers verifications that succeeded.
pub trait SignatureMemory: Send + Sync {
    /// Whether this one did.
    fn knows(&self, signature: SignatureId) -> bool;

    /// This one did.
    fn remember(&self, signature: SignatureId);
}

/// Which signatures count: all but those by revoked keys.
#[derive(Clone, Copy)]
pub struct Signatures<'a> {
    revoked: &'a BTreeSet<Thumbprint>,
    memory: Option<&'a dyn SignatureMemory>,
}

impl SignatureId {
    /// Of a message, which names its key.
    pub fn of_message(jws: &Jws) -> SignatureId {
        let kid = jws.kid();
        SignatureId(Tuple::new("message").bytes(kid.as_bytes()).text(jws.as_str()).hash())
    }

    fn of_digest(key: &PublicKey, digest: &Digest, signature: &Signature) -> SignatureId {
        let tuple = Tuple::new("digest").bytes(key.thumbprint().as_bytes()).bytes(digest.as_bytes());
        SignatureId(tuple.bytes(signature).hash())
    }
}

impl<'a> From<&'a BTreeSet<Thumbprint>> for Signatures<'a> {
    /// All but those by `revoked` keys, each verified anew.
    fn from(revoked: &'a BTreeSet<Thumbprint>) -> Signatures<'a> {
        Signatures { revoked, memory: None }
    }
}

impl<'a> Signatures<'a> {
    /// The same, but one that `memory` knows is not verified again.
    #[must_use]
    pub fn with_memory(self, memory: &'a dyn SignatureMemory) -> Signatures<'a> {
        Signatures { memory: Some(memory), ..self }
    }

    /// Whether a message was verified before.
    pub fn know(&self, message: &Jws) -> bool {
        self.memory.is_some_and(|memory| memory.knows(SignatureId::of_message(message)))
    }

    /// Whether signatures by this key count no more.
    pub(crate) fn are_revoked(&self, key: Thumbprint) -> bool {
        self.revoked.contains(&key)
    }

    /// Verifies that `key` signed a message.
    pub(crate) fn verify<P: Payload>(
        &self,
        message: Signed<P>,
        key: &PublicKey,
    ) -> Result<Verified<P>, JwsError> {
        // The id says what the message says of its key: another one is found out by verifying.
        let id = self.memory.filter(|_| message.jws().kid() == key.thumbprint());
        let Some(memory) = id else { return message.verify(key) };
        let id = SignatureId::of_message(message.jws());
        if memory.knows(id) {
            return Ok(message.verified_before());
        }
        let verified = message.verify(key)?;
        memory.remember(id);
        Ok(verified)
    }

    /// Verifies that `key` signed a digest.
    pub(crate) fn verify_digest(
        &self,
        key: &PublicKey,
        digest: &Digest,
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let Some(memory) = self.memory else { return key.verify_digest(digest, signature) };
        let id = SignatureId::of_digest(key, digest, signature);
        if !memory.knows(id) {
            key.verify_digest(digest, signature)?;
            memory.remember(id);
        }
        Ok(())
    }
}
