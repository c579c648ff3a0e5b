//! Signed messages: JWS in compact serialisation (RFC 7515), ES256 (RFC 7518), with explicit types (RFC 8725 section
//! 3.11).
//!
//! ```text
//! bytes ──parse──▶ Jws (form is right) ──▶ Signed<P> (payload is read) ──verify──▶ Verified<P>
//! ```
//!
//! The bytes that came in are kept and hashed; nothing is written anew before it is verified.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::encoding;
use crate::json::{self, JsonError};
use crate::jwk::{PublicKey, Signature, Thumbprint};

/// The largest ballot, in bytes of its compact serialisation.
pub const BALLOT_LIMIT: usize = 16 * 1024;
/// The largest other message, in bytes of its compact serialisation.
pub const MESSAGE_LIMIT: usize = 256 * 1024;

/// What a message is: its `typ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Typ {
    /// `assent-start+jws`: a requester starts a case.
    Start,
    /// `assent-vote-request+jws`: a contract asks its voters.
    VoteRequest,
    /// `assent-ballot+jws`: a voter answers.
    Ballot,
    /// `assent-decision+jws`: a contract says what was decided.
    Decision,
    /// `assent-key-transition+jws`: a key is followed by another.
    KeyTransition,
    /// `assent-change+jws`: a governing contract changes what it governs.
    Change,
    /// `assent-receipt+jws`: a validator says that a transaction is in its log.
    Receipt,
    /// `assent-cancel+jws`: a requester takes his case back.
    Cancel,
    /// `assent-recovery+jws`: recovery keys change what can no longer be voted on.
    Recovery,
}

impl Typ {
    /// Every type.
    pub const ALL: [Typ; 9] = [
        Typ::Start,
        Typ::VoteRequest,
        Typ::Ballot,
        Typ::Decision,
        Typ::KeyTransition,
        Typ::Change,
        Typ::Receipt,
        Typ::Cancel,
        Typ::Recovery,
    ];

    /// The header member `typ`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Typ::Start => "assent-start+jws",
            Typ::VoteRequest => "assent-vote-request+jws",
            Typ::Ballot => "assent-ballot+jws",
            Typ::Decision => "assent-decision+jws",
            Typ::KeyTransition => "assent-key-transition+jws",
            Typ::Change => "assent-change+jws",
            Typ::Receipt => "assent-receipt+jws",
            Typ::Cancel => "assent-cancel+jws",
            Typ::Recovery => "assent-recovery+jws",
        }
    }

    const fn limit(self) -> usize {
        match self {
            Typ::Ballot => BALLOT_LIMIT,
            _ => MESSAGE_LIMIT,
        }
    }
}

/// The payload of one type of message.
pub trait Payload: Serialize + DeserializeOwned {
    /// The type in the header of every message with this payload.
    const TYP: Typ;
}

/// Why bytes are not a message of Assent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Too large.
    #[error("the message has {length} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// Bytes of the message.
        length: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// Not three parts.
    #[error("a message must be a compact JWS: three parts of base64url with a dot between")]
    Form,
    /// A part is not canonical base64url.
    #[error("the message's {0} is not canonical unpadded base64url")]
    Encoding(&'static str),
    /// The header is not exactly the one that is allowed.
    #[error(
        "the message's header must be exactly `{{\"alg\":\"ES256\",\"kid\":\"…\",\"typ\":\"…\"}}` with a type of Assent"
    )]
    Header,
    /// Another type than expected.
    #[error("the message is of type `{found}`, not `{expected}`")]
    WrongTyp {
        /// The type that was expected.
        expected: &'static str,
        /// The type in the header.
        found: &'static str,
    },
    /// The payload does not fit its type.
    #[error("the payload of the `{typ}` is wrong: {source}")]
    Payload {
        /// The type in the header.
        typ: &'static str,
        /// What is wrong.
        source: JsonError,
    },
    /// Signed by another key than expected.
    #[error("the message is signed by key `{found}`, not by `{expected}`")]
    WrongKey {
        /// The key that was expected.
        expected: Thumbprint,
        /// The key in the header.
        found: Thumbprint,
    },
    /// The signature is not right.
    #[error("the signature of the `{0}` does not verify")]
    BadSignature(&'static str),
}

impl JwsError {
    /// The reason in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            JwsError::TooLarge { .. } => "too-large",
            JwsError::Form | JwsError::Encoding(_) | JwsError::Header | JwsError::Payload { .. } => {
                "malformed"
            }
            JwsError::WrongTyp { .. } => "wrong-typ",
            JwsError::WrongKey { .. } => "wrong-key",
            JwsError::BadSignature(_) => "bad-signature",
        }
    }
}

/// A message whose form is right: canonical base64url, the one header, 64 bytes of signature. Nothing is verified yet. Cheap
/// to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Jws {
    compact: Arc<str>,
    typ: Typ,
    kid: Thumbprint,
    payload: Arc<[u8]>,
    signature: Signature,
}

impl Jws {
    /// Reads a message of any type.
    ///
    /// # Errors
    /// [`JwsError`]
    pub fn parse(bytes: &[u8]) -> Result<Jws, JwsError> {
        if bytes.len() > MESSAGE_LIMIT {
            return Err(JwsError::TooLarge { length: bytes.len(), limit: MESSAGE_LIMIT });
        }
        let compact = std::str::from_utf8(bytes).map_err(|_| JwsError::Form)?;
        let mut parts = compact.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwsError::Form);
        };
        let header = encoding::decode(header).map_err(|_| JwsError::Encoding("header"))?;
        let (kid, typ) = read_header(&header).ok_or(JwsError::Header)?;
        if bytes.len() > typ.limit() {
            return Err(JwsError::TooLarge { length: bytes.len(), limit: typ.limit() });
        }
        Ok(Jws {
            typ,
            kid,
            payload: encoding::decode(payload).map_err(|_| JwsError::Encoding("payload"))?.into(),
            signature: encoding::decode_array(signature).map_err(|_| JwsError::Encoding("signature"))?,
            compact: compact.into(),
        })
    }

    /// The message as it came: its compact serialisation.
    pub fn as_str(&self) -> &str {
        &self.compact
    }

    /// SHA-256 of the message as it came.
    pub fn digest(&self) -> Digest {
        Digest::of(self.compact.as_bytes())
    }

    /// The type in the header.
    pub fn typ(&self) -> Typ {
        self.typ
    }

    /// The thumbprint of the key that is said to have signed.
    pub fn kid(&self) -> Thumbprint {
        self.kid
    }

    /// The payload's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whether both are the same message: same header and payload, whatever the signature.
    pub fn is_same_message(&self, other: &Jws) -> bool {
        self.signing_input() == other.signing_input()
    }

    /// Verifies that `key` signed this message.
    ///
    /// # Errors
    /// [`JwsError::WrongKey`], [`JwsError::BadSignature`]
    pub fn verify(&self, key: &PublicKey) -> Result<(), JwsError> {
        if self.kid != key.thumbprint() {
            return Err(JwsError::WrongKey { expected: key.thumbprint(), found: self.kid });
        }
        key.verify(self.signing_input(), &self.signature)
            .map_err(|_| JwsError::BadSignature(self.typ.as_str()))
    }

    fn signing_input(&self) -> &[u8] {
        let end = self.compact.rfind('.').unwrap_or(self.compact.len());
        &self.compact.as_bytes()[..end]
    }
}

/// Reads the one allowed header; `None` for any other.
fn read_header(header: &[u8]) -> Option<(Thumbprint, Typ)> {
    let rest = std::str::from_utf8(header).ok()?.strip_prefix(r#"{"alg":"ES256","kid":""#)?;
    let (kid, rest) = rest.split_at_checked(43)?;
    let typ = rest.strip_prefix(r#"","typ":""#)?.strip_suffix(r#""}"#)?;
    Some((kid.parse().ok()?, Typ::ALL.into_iter().find(|known| known.as_str() == typ)?))
}

fn header(kid: Thumbprint, typ: Typ) -> String {
    format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{}"}}"#, typ.as_str())
}

impl fmt::Debug for Jws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jws({}, {})", self.typ.as_str(), self.digest())
    }
}

impl Serialize for Jws {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.compact)
    }
}

impl<'de> Deserialize<'de> for Jws {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Jws, D::Error> {
        json::read_text(deserializer, |text| Jws::parse(text.as_bytes()))
    }
}

/// A message whose payload was read, and whose signature was not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<P> {
    jws: Jws,
    payload: P,
}

impl<P: Payload> Signed<P> {
    /// Reads a message of this type.
    ///
    /// # Errors
    /// [`JwsError`]
    pub fn parse(bytes: &[u8]) -> Result<Signed<P>, JwsError> {
        Signed::from_jws(Jws::parse(bytes)?)
    }

    /// Reads the payload of a message that should be of this type.
    ///
    /// # Errors
    /// [`JwsError::WrongTyp`], [`JwsError::Payload`]
    pub fn from_jws(jws: Jws) -> Result<Signed<P>, JwsError> {
        if jws.typ != P::TYP {
            return Err(JwsError::WrongTyp { expected: P::TYP.as_str(), found: jws.typ.as_str() });
        }
        let payload =
            json::read(&jws.payload).map_err(|source| JwsError::Payload { typ: P::TYP.as_str(), source })?;
        Ok(Signed { jws, payload })
    }

    /// The payload, which nobody vouches for yet: good to look up whose key is needed.
    pub fn unverified(&self) -> &P {
        &self.payload
    }

    /// The message.
    pub fn jws(&self) -> &Jws {
        &self.jws
    }

    /// Verifies that `key` signed this message.
    ///
    /// # Errors
    /// [`JwsError::WrongKey`], [`JwsError::BadSignature`]
    pub fn verify(self, key: &PublicKey) -> Result<Verified<P>, JwsError> {
        self.jws.verify(key)?;
        Ok(Verified(self))
    }

    /// This message, whose signature was verified before with the key that its header names.
    pub(crate) fn verified_before(self) -> Verified<P> {
        Verified(self)
    }

    /// Verifies as [`verify`](Signed::verify) does, unless `checked` says that it was done before.
    ///
    /// # Errors
    /// [`JwsError::WrongKey`], [`JwsError::BadSignature`]
    pub fn verify_with(self, key: &PublicKey, checked: &CheckedSignatures) -> Result<Verified<P>, JwsError> {
        if checked.contains(&self.jws, key) {
            return Ok(Verified(self));
        }
        self.verify(key)
    }
}

/// A message whose signature was verified with the key that its reader named. Dereferences to the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<P>(Signed<P>);

impl<P> Verified<P> {
    /// The message.
    pub fn jws(&self) -> &Jws {
        &self.0.jws
    }

    /// SHA-256 of the message as it came.
    pub fn digest(&self) -> Digest {
        self.0.jws.digest()
    }

    /// The key that signed.
    pub fn signer(&self) -> Thumbprint {
        self.0.jws.kid
    }
}

impl<P> Deref for Verified<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0.payload
    }
}

/// Signatures that were verified beforehand, many at once: which key, and the digest of which message.
#[derive(Debug, Default, Clone)]
pub struct CheckedSignatures(std::collections::BTreeSet<(Thumbprint, Digest)>);

impl CheckedSignatures {
    /// Verifies that `key` signed `jws`, and remembers it if so.
    pub fn check(&mut self, jws: &Jws, key: &PublicKey) -> bool {
        let good = jws.verify(key).is_ok();
        if good {
            self.0.insert((key.thumbprint(), jws.digest()));
        }
        good
    }

    /// Adds what another thread has verified.
    pub fn merge(&mut self, other: CheckedSignatures) {
        self.0.extend(other.0);
    }

    fn contains(&self, jws: &Jws, key: &PublicKey) -> bool {
        jws.kid == key.thumbprint() && self.0.contains(&(jws.kid, jws.digest()))
    }
}

/// A message that is yet to be signed.
#[derive(Clone, Debug)]
pub struct Unsigned<P> {
    signing_input: String,
    kid: Thumbprint,
    payload: P,
}

impl<P: Payload> Unsigned<P> {
    /// A message with this payload, to be signed by the key `kid`.
    pub fn new(kid: Thumbprint, payload: P) -> Unsigned<P> {
        let header = encoding::encode(header(kid, P::TYP).as_bytes());
        let signing_input = format!("{header}.{}", encoding::encode(&json::write(&payload)));
        Unsigned { signing_input, kid, payload }
    }

    /// The exact bytes that are signed (RFC 7515 section 5.1).
    pub fn signing_input(&self) -> &[u8] {
        self.signing_input.as_bytes()
    }

    /// SHA-256 of the bytes that are signed: what a device is asked to sign.
    pub fn digest(&self) -> Digest {
        Digest::of(self.signing_input.as_bytes())
    }

    /// The message with its signature, verified with `key`.
    ///
    /// # Errors
    /// [`JwsError::WrongKey`], [`JwsError::BadSignature`]
    pub fn attach(self, signature: &Signature, key: &PublicKey) -> Result<Verified<P>, JwsError> {
        let compact = format!("{}.{}", self.signing_input, encoding::encode(signature));
        let jws = Jws {
            compact: compact.into(),
            typ: P::TYP,
            kid: self.kid,
            payload: json::write(&self.payload).into(),
            signature: *signature,
        };
        Signed { jws, payload: self.payload }.verify(key)
    }
}

#[cfg(test)]
mod tests;
