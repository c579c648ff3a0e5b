//! Public keys of every kind as JWKs (RFC 7517, RFC 7518 section 6), and what verifies with them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest as LcDigest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Algorithm, KeyKind, MessageDigest, RawSignature, der};
use crate::digest::Digest;
use crate::encoding;
use crate::jwk::{BadSignature, PublicKey, Thumbprint};

/// The one public exponent that an RSA key may have, 65537: so a modulus is one key, and has one thumbprint.
const EXPONENT: [u8; 3] = [1, 0, 1];
/// The DER of a SubjectPublicKeyInfo (RFC 5480) on P-256 up to its point.
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The public half of a key that a device signs with. Cheap to clone. Written as a JWK of exactly the members
/// `crv, kty, x, y` or `e, kty, n`.
#[derive(Clone)]
pub struct OperationalPublicKey(Arc<Key>);

struct Key {
    kind: KeyKind,
    bytes: Vec<u8>,
    thumbprint: Thumbprint,
    parsed: Parsed,
}

/// The same key for each way to verify with it.
enum Parsed {
    P256(PublicKey),
    P384 { sha256: ParsedPublicKey, sha384: ParsedPublicKey },
    Rsa { pkcs1: ParsedPublicKey, pss: ParsedPublicKey },
}

/// Why something is not a public key that a device may sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationalKeyError {
    /// Of no kind that is known.
    #[error(
        "a public key must be one on P-256 or P-384 (`kty` \"EC\", `crv`, `x`, `y`), or RSA of 3072 or 4096 bits with the \
         exponent 65537 (`kty` \"RSA\", `n`, `e` \"AQAB\")"
    )]
    Kind,
    /// A coordinate or modulus is not as long as it must be.
    #[error("the JWK's `{0}` must be {1} bytes in unpadded base64url")]
    Length(&'static str, usize),
    /// The coordinates are no point of the curve.
    #[error("the JWK's coordinates are not a point on {0}")]
    NotOnCurve(KeyKind),
    /// The number is not one that an RSA key can have.
    #[error("the modulus is none of an {0} key: it must be odd and have all its bits")]
    Modulus(KeyKind),
}

impl OperationalPublicKey {
    /// The key of these bytes: an uncompressed point (SEC 1 section 2.3.3: 4, x, y), or a modulus, most significant byte
    /// first, whose exponent is 65537.
    ///
    /// # Errors
    /// [`OperationalKeyError`]
    pub fn from_bytes(kind: KeyKind, bytes: &[u8]) -> Result<OperationalPublicKey, OperationalKeyError> {
        match kind {
            KeyKind::P256 => {
                let not_on_curve = OperationalKeyError::NotOnCurve(kind);
                let point = bytes.try_into().map_err(|_| not_on_curve.clone())?;
                PublicKey::from_point(point).map(OperationalPublicKey::from).map_err(|_| not_on_curve)
            }
            KeyKind::P384 => OperationalPublicKey::on_p384(bytes),
            KeyKind::Rsa3072 | KeyKind::Rsa4096 => OperationalPublicKey::rsa(kind, bytes),
        }
    }

    fn on_p384(point: &[u8]) -> Result<OperationalPublicKey, OperationalKeyError> {
        let kind = KeyKind::P384;
        let not_on_curve = || OperationalKeyError::NotOnCurve(kind);
        if point.len() != kind.length() || point[0] != 4 {
            return Err(not_on_curve());
        }
        let parse = |algorithm| ParsedPublicKey::new(algorithm, point).map_err(|_| not_on_curve());
        let (x, y) = (encoding::encode(&point[1..49]), encoding::encode(&point[49..]));
        let canonical = format!(r#"{{"crv":"P-384","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Ok(OperationalPublicKey::of(Key {
            kind,
            bytes: point.to_vec(),
            thumbprint: thumbprint(&canonical),
            parsed: Parsed::P384 {
                sha256: parse(&ECDSA_P384_SHA256_ASN1)?,
                sha384: parse(&ECDSA_P384_SHA384_ASN1)?,
            },
        }))
    }

    fn rsa(kind: KeyKind, modulus: &[u8]) -> Result<OperationalPublicKey, OperationalKeyError> {
        let wrong = || OperationalKeyError::Modulus(kind);
        let is_full = modulus.len() == kind.length() && modulus[0] & 0x80 != 0;
        if !is_full || modulus[modulus.len() - 1] & 1 == 0 {
            return Err(wrong());
        }
        let components = RsaPublicKeyComponents { n: modulus, e: &EXPONENT[..] };
        let parse = |algorithm| components.to_parsed_public_key(algorithm).map_err(|_| wrong());
        let (e, n) = (encoding::encode(&EXPONENT), encoding::encode(modulus));
        Ok(OperationalPublicKey::of(Key {
            kind,
            bytes: modulus.to_vec(),
            thumbprint: thumbprint(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)),
            parsed: Parsed::Rsa {
                pkcs1: parse(&RSA_PKCS1_2048_8192_SHA256)?,
                pss: parse(&RSA_PSS_2048_8192_SHA256)?,
            },
        }))
    }

    /// The RSA key of a modulus and an exponent, most significant byte first, whatever zeros stand before them.
    ///
    /// # Errors
    /// [`OperationalKeyError`]
    pub fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<OperationalPublicKey, OperationalKeyError> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let kinds = [KeyKind::Rsa3072, KeyKind::Rsa4096];
        let kind = kinds.into_iter().find(|kind| kind.length() == modulus.len() && exponent == EXPONENT);
        OperationalPublicKey::rsa(kind.ok_or(OperationalKeyError::Kind)?, modulus)
    }

    fn of(key: Key) -> OperationalPublicKey {
        OperationalPublicKey(Arc::new(key))
    }

    /// What it is.
    pub fn kind(&self) -> KeyKind {
        self.0.kind
    }

    /// The uncompressed point, or the modulus: [`KeyKind::length`] bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The key as one on P-256; nothing if it is another.
    pub fn as_p256(&self) -> Option<&PublicKey> {
        match &self.0.parsed {
            Parsed::P256(key) => Some(key),
            _ => None,
        }
    }

    /// The thumbprint that names this key.
    pub fn thumbprint(&self) -> Thumbprint {
        self.0.thumbprint
    }

    /// The key as SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) in DER; nothing if it cannot be written.
    pub fn to_spki_der(&self) -> Option<Vec<u8>> {
        match &self.0.parsed {
            Parsed::P256(key) => Some([&P256_INFO[..], key.point()].concat()),
            Parsed::P384 { sha256: key, .. } | Parsed::Rsa { pkcs1: key, .. } => {
                key.as_der().ok().map(|der| der.as_ref().to_vec())
            }
        }
    }

    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        digest: &MessageDigest,
        signature: &RawSignature,
    ) -> Result<(), BadSignature> {
        if signature.0.len() != self.0.kind.signature_length() {
            return Err(BadSignature);
        }
        let sha256 = |digest: &Digest| LcDigest::import_less_safe(digest.as_bytes(), &digest::SHA256);
        let (key, imported, signature) = match (&self.0.parsed, algorithm, digest) {
            (Parsed::P256(key), Algorithm::ES256, MessageDigest::Sha256(digest)) => {
                let signature = signature.0.as_slice().try_into().map_err(|_| BadSignature)?;
                return key.verify_digest(digest, signature);
            }
            (Parsed::P384 { sha256: key, .. }, Algorithm::ES384, MessageDigest::Sha256(digest)) => {
                (key, sha256(digest), Cow::Owned(der::encode(&signature.0)))
            }
            (Parsed::P384 { sha384: key, .. }, Algorithm::ES384, MessageDigest::Sha384(digest)) => (
                key,
                LcDigest::import_less_safe(digest, &digest::SHA384),
                Cow::Owned(der::encode(&signature.0)),
            ),
            (Parsed::Rsa { pkcs1: key, .. }, Algorithm::RS256, MessageDigest::Sha256(digest))
            | (Parsed::Rsa { pss: key, .. }, Algorithm::PS256, MessageDigest::Sha256(digest)) => {
                (key, sha256(digest), Cow::Borrowed(&signature.0[..]))
            }
            _ => return Err(BadSignature),
        };
        let imported = imported.map_err(|_| BadSignature)?;
        key.verify_digest_sig(&imported, &signature).map_err(|_| BadSignature)
    }
}

fn thumbprint(canonical: &str) -> Thumbprint {
    Thumbprint::from_bytes(*Digest::of(canonical.as_bytes()).as_bytes())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

impl From<PublicKey> for OperationalPublicKey {
    fn from(key: PublicKey) -> OperationalPublicKey {
        OperationalPublicKey::of(Key {
            kind: KeyKind::P256,
            bytes: key.point().to_vec(),
            thumbprint: key.thumbprint(),
            parsed: Parsed::P256(key),
        })
    }
}

impl PartialEq for OperationalPublicKey {
    fn eq(&self, other: &OperationalPublicKey) -> bool {
        self.0.kind == other.0.kind && self.0.bytes == other.0.bytes
    }
}

impl Eq for OperationalPublicKey {}

impl fmt::Debug for OperationalPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationalPublicKey({}, {})", self.0.kind, self.0.thumbprint)
    }
}

/// A JWK as it is written: members in the order of RFC 7638.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Ec { crv: &'static str, kty: &'static str, x: String, y: String },
    Rsa { e: String, kty: &'static str, n: String },
}

/// A JWK as it is read: members in any order.
#[derive(Deserialize)]
#[serde(tag = "kty", deny_unknown_fields)]
enum Read {
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { e: String, n: String },
}

impl Serialize for OperationalPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ec = |crv| {
            let (x, y) = self.0.bytes[1..].split_at(self.0.bytes.len() / 2);
            Written::Ec { crv, kty: "EC", x: encoding::encode(x), y: encoding::encode(y) }
        };
        match self.0.kind {
            KeyKind::P256 => ec("P-256"),
            KeyKind::P384 => ec("P-384"),
            KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
                let (e, n) = (encoding::encode(&EXPONENT), encoding::encode(&self.0.bytes));
                Written::Rsa { e, kty: "RSA", n }
            }
        }
        .serialize(serializer)
    }
}

impl TryFrom<Read> for OperationalPublicKey {
    type Error = OperationalKeyError;

    fn try_from(jwk: Read) -> Result<OperationalPublicKey, OperationalKeyError> {
        match jwk {
            Read::Ec { crv, x, y } => {
                let kind = match crv.as_str() {
                    "P-256" => KeyKind::P256,
                    "P-384" => KeyKind::P384,
                    _ => return Err(OperationalKeyError::Kind),
                };
                let length = kind.length() / 2;
                let mut point = vec![4];
                for (name, text) in [("x", &x), ("y", &y)] {
                    let bytes = encoding::decode(text).ok().filter(|bytes| bytes.len() == length);
                    point.extend(bytes.ok_or(OperationalKeyError::Length(name, length))?);
                }
                OperationalPublicKey::from_bytes(kind, &point)
            }
            Read::Rsa { e, n } => {
                let modulus = encoding::decode(&n).map_err(|_| OperationalKeyError::Kind)?;
                let kinds = [KeyKind::Rsa3072, KeyKind::Rsa4096];
                let kind = kinds.into_iter().find(|kind| kind.length() == modulus.len());
                let is_exponent = encoding::decode(&e).is_ok_and(|exponent| exponent == EXPONENT);
                OperationalPublicKey::rsa(
                    kind.filter(|_| is_exponent).ok_or(OperationalKeyError::Kind)?,
                    &modulus,
                )
            }
        }
    }
}

impl<'de> Deserialize<'de> for OperationalPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OperationalPublicKey, D::Error> {
        Read::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}
