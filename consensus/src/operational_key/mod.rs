//! Keys that sign what was approved, and the algorithms that they sign by: those of RFC 7518 section 3.1 that stock tools
//! verify. Assent's own messages are ES256 alone ([`crate::jws`]).
//!
//! ```text
//! algorithm  key                    what is signed                                 RawSignature
//! ES256      P-256                  SHA-256                                        r and s, 32 bytes each
//! ES384      P-384                  SHA-384 of a message, SHA-256 of a file        r and s, 48 bytes each
//! RS256      RSA of 3072, 4096 bits SHA-256, RSASSA-PKCS1-v1_5 (RFC 8017)          as long as the modulus
//! PS256      the same               SHA-256, RSASSA-PSS, MGF1 SHA-256, salt 32     as long as the modulus
//! ```

pub(crate) mod der;
mod key_file;
mod public_key;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::digest::Digest;
use crate::jwk::{BadSignature, PublicKey, Thumbprint};

pub use key_file::KeyFile;
pub use public_key::{OperationalKeyError, OperationalPublicKey};

/// How a key signs, for its whole life (RFC 7518 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384; with SHA-256 where a file's digest is signed.
    ES384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256, and a salt of 32 bytes.
    PS256,
}

/// What a device generates: the kind of a key pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyKind {
    /// A point on P-256.
    P256,
    /// A point on P-384.
    P384,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

/// A digest of what is signed: all that a device is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageDigest {
    /// SHA-256.
    Sha256(Digest),
    /// SHA-384.
    Sha384([u8; 48]),
}

/// A signature as its algorithm has it, with nothing around it: r and s for ECDSA, each as long as the curve's order; for
/// RSA as many bytes as the modulus has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawSignature(pub Vec<u8>);

/// A public key with the one algorithm by which its signatures are verified. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerificationKey {
    algorithm: Algorithm,
    public_key: OperationalPublicKey,
}

/// A key cannot sign by this algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`alg` is {algorithm}, and the key is {kind}: {algorithm} needs {}", .algorithm.needs())]
pub struct WrongAlgorithm {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What the key is.
    pub kind: KeyKind,
}

impl VerificationKey {
    /// This key by this algorithm.
    ///
    /// # Errors
    /// [`WrongAlgorithm`]
    pub fn new(
        algorithm: Algorithm,
        public_key: OperationalPublicKey,
    ) -> Result<VerificationKey, WrongAlgorithm> {
        match algorithm.fits(public_key.kind()) {
            true => Ok(VerificationKey { algorithm, public_key }),
            false => Err(WrongAlgorithm { algorithm, kind: public_key.kind() }),
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key.
    pub fn public_key(&self) -> &OperationalPublicKey {
        &self.public_key
    }

    /// The thumbprint that names the key.
    pub fn thumbprint(&self) -> Thumbprint {
        self.public_key.thumbprint()
    }

    /// Verifies a signature over a digest that was computed before. Any valid s is accepted.
    ///
    /// # Errors
    /// [`BadSignature`]
    pub fn verify(&self, digest: &MessageDigest, signature: &RawSignature) -> Result<(), BadSignature> {
        self.public_key.verify(self.algorithm, digest, signature)
    }
}

/// A P-256 key signs by ES256.
impl From<PublicKey> for VerificationKey {
    fn from(key: PublicKey) -> VerificationKey {
        VerificationKey { algorithm: Algorithm::ES256, public_key: key.into() }
    }
}

impl PartialEq<PublicKey> for VerificationKey {
    fn eq(&self, key: &PublicKey) -> bool {
        self.algorithm == Algorithm::ES256 && self.thumbprint() == key.thumbprint()
    }
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 4] = [Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::PS256];

    /// Its name, as in `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::RS256 => "RS256",
            Algorithm::PS256 => "PS256",
        }
    }

    /// Whether a key of this kind can sign by it.
    pub const fn fits(self, kind: KeyKind) -> bool {
        matches!(
            (self, kind),
            (Algorithm::ES256, KeyKind::P256)
                | (Algorithm::ES384, KeyKind::P384)
                | (Algorithm::RS256 | Algorithm::PS256, KeyKind::Rsa3072 | KeyKind::Rsa4096)
        )
    }

    /// Whether it is ECDSA, whose signatures have a form in DER.
    pub const fn is_ecdsa(self) -> bool {
        matches!(self, Algorithm::ES256 | Algorithm::ES384)
    }

    /// The digest of a message that is signed whole, such as the signing input of a JWS.
    pub fn digest(self, message: &[u8]) -> MessageDigest {
        match self {
            Algorithm::ES384 => MessageDigest::Sha384(Sha384::digest(message).into()),
            Algorithm::ES256 | Algorithm::RS256 | Algorithm::PS256 => {
                MessageDigest::Sha256(Digest::of(message))
            }
        }
    }

    const fn needs(self) -> &'static str {
        match self {
            Algorithm::ES256 => "one on P-256",
            Algorithm::ES384 => "one on P-384",
            Algorithm::RS256 | Algorithm::PS256 => "RSA of 3072 or 4096 bits",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm must be `ES256`, `ES384`, `RS256` or `PS256`")]
pub struct AlgorithmError;

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Algorithm, AlgorithmError> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(AlgorithmError)
    }
}

/// A key of so many bits cannot be made for an algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an {algorithm} key cannot have {bits} bits: only RS256 and PS256 leave a choice, 3072 or 4096")]
pub struct WrongBits {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What was asked for.
    pub bits: u64,
}

impl KeyKind {
    /// What is generated for an algorithm. Without `bits` an RSA key has 4096: signatures of releases are verified for many
    /// years, and made seldom.
    ///
    /// # Errors
    /// [`WrongBits`]
    pub fn new(algorithm: Algorithm, bits: Option<u64>) -> Result<KeyKind, WrongBits> {
        match (algorithm, bits) {
            (Algorithm::ES256, None) => Ok(KeyKind::P256),
            (Algorithm::ES384, None) => Ok(KeyKind::P384),
            (Algorithm::RS256 | Algorithm::PS256, Some(3072)) => Ok(KeyKind::Rsa3072),
            (Algorithm::RS256 | Algorithm::PS256, None | Some(4096)) => Ok(KeyKind::Rsa4096),
            (_, Some(bits)) => Err(WrongBits { algorithm, bits }),
        }
    }

    /// Every kind.
    pub const ALL: [KeyKind; 4] = [KeyKind::P256, KeyKind::P384, KeyKind::Rsa3072, KeyKind::Rsa4096];

    /// How many bytes [`OperationalPublicKey::as_bytes`] gives for it: those of an uncompressed point, or of a modulus.
    pub const fn length(self) -> usize {
        match self {
            KeyKind::P256 => 65,
            KeyKind::P384 => 97,
            KeyKind::Rsa3072 => 384,
            KeyKind::Rsa4096 => 512,
        }
    }

    /// How many bytes a [`RawSignature`] by it has.
    pub const fn signature_length(self) -> usize {
        match self {
            KeyKind::P256 => 64,
            KeyKind::P384 => 96,
            KeyKind::Rsa3072 | KeyKind::Rsa4096 => self.length(),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KeyKind::P256 => "P-256",
            KeyKind::P384 => "P-384",
            KeyKind::Rsa3072 => "RSA-3072",
            KeyKind::Rsa4096 => "RSA-4096",
        })
    }
}

impl MessageDigest {
    /// Its bytes: 32 or 48.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            MessageDigest::Sha256(digest) => digest.as_bytes(),
            MessageDigest::Sha384(bytes) => bytes,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
