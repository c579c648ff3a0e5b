//! P-256 public keys as JWKs (RFC 7517), and the thumbprints that name them (RFC 7638).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest as LcDigest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::encoding;
use crate::json;

/// A P-256 public key: a point known to be on the curve. Cheap to clone. Written as a JWK of exactly the members
/// `crv, kty, x, y`, coordinates of 32 bytes in base64url.
#[derive(Clone)]
pub struct PublicKey {
    point: [u8; 65],
    thumbprint: Thumbprint,
    parsed: Arc<ParsedPublicKey>,
}

/// The RFC 7638 SHA-256 thumbprint of a key's JWK, written as 43 characters of base64url. It names the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thumbprint([u8; 32]);

/// An ES256 signature: r and s, 32 bytes each (RFC 7518 section 3.4).
pub type Signature = [u8; 64];

/// Why something is not a P-256 public key, or not its thumbprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A coordinate is not 32 bytes of base64url.
    #[error("a JWK's coordinates must each be 32 bytes in unpadded base64url")]
    Coordinate,
    /// The coordinates are no point of the curve.
    #[error("the JWK's coordinates are not a point on P-256")]
    NotOnCurve,
    /// Another kind of key.
    #[error("a JWK must be exactly `crv` \"P-256\", `kty` \"EC\", `x` and `y`")]
    Kind,
    /// Not a thumbprint.
    #[error("a thumbprint must be 43 characters of unpadded base64url")]
    Thumbprint,
}

/// The signature is not one of this key over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// The key whose uncompressed point (SEC 1 section 2.3.3: 4, x, y) is `point`.
    ///
    /// # Errors
    /// [`KeyError::NotOnCurve`]
    pub fn from_point(point: [u8; 65]) -> Result<PublicKey, KeyError> {
        if point[0] != 4 {
            return Err(KeyError::NotOnCurve);
        }
        let parsed =
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| KeyError::NotOnCurve)?;
        let (x, y) = (encoding::encode(&point[1..33]), encoding::encode(&point[33..]));
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let thumbprint = Thumbprint(*Digest::of(canonical.as_bytes()).as_bytes());
        Ok(PublicKey { point, thumbprint, parsed: Arc::new(parsed) })
    }

    /// The uncompressed point, 65 bytes.
    pub fn point(&self) -> &[u8; 65] {
        &self.point
    }

    /// The thumbprint that names this key.
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// Verifies an ES256 signature over SHA-256 of `message`. Any valid s is accepted.
    ///
    /// # Errors
    /// [`BadSignature`]
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        self.parsed.verify_sig(message, signature).map_err(|_| BadSignature)
    }

    /// Verifies an ES256 signature over a digest that was computed before.
    ///
    /// # Errors
    /// [`BadSignature`]
    pub fn verify_digest(&self, digest: &Digest, signature: &Signature) -> Result<(), BadSignature> {
        let digest =
            LcDigest::import_less_safe(digest.as_bytes(), &digest::SHA256).map_err(|_| BadSignature)?;
        self.parsed.verify_digest_sig(&digest, signature).map_err(|_| BadSignature)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.point == other.point
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk<'a> {
    crv: std::borrow::Cow<'a, str>,
    kty: std::borrow::Cow<'a, str>,
    x: std::borrow::Cow<'a, str>,
    y: std::borrow::Cow<'a, str>,
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Jwk {
            crv: "P-256".into(),
            kty: "EC".into(),
            x: encoding::encode(&self.point[1..33]).into(),
            y: encoding::encode(&self.point[33..]).into(),
        }
        .serialize(serializer)
    }
}

impl TryFrom<Jwk<'_>> for PublicKey {
    type Error = KeyError;

    fn try_from(jwk: Jwk<'_>) -> Result<PublicKey, KeyError> {
        if jwk.crv != "P-256" || jwk.kty != "EC" {
            return Err(KeyError::Kind);
        }
        let mut point = [4; 65];
        for (coordinate, text) in [(1, &jwk.x), (33, &jwk.y)] {
            let bytes = encoding::decode_array::<32>(text).map_err(|_| KeyError::Coordinate)?;
            point[coordinate..coordinate + 32].copy_from_slice(&bytes);
        }
        PublicKey::from_point(point)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        Jwk::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl Thumbprint {
    /// The thumbprint of these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Thumbprint {
        Thumbprint(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Thumbprint {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Thumbprint, KeyError> {
        encoding::decode_array(text).map(Thumbprint).map_err(|_| KeyError::Thumbprint)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&encoding::encode(&self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Thumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Thumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Thumbprint, D::Error> {
        json::read_text(deserializer, str::parse)
    }
}
