//! What an operational key signs when a signature is approved, and what the result looks like: the four formats of
//! DESIGN section 6.
//!
//! ```text
//! format  what the key signs                                       what the result is
//! der     the file                                                 ECDSA-Sig-Value (RFC 3279 section 2.2.3)
//! raw     the file                                                 r and s, 32 bytes each
//! dsse    PAE of an in-toto Statement v1 (DSSE v1)                 DSSE v1 envelope in JSON
//! jws     the same statement in a compact JWS (RFC 7515)           that JWS
//! ```
//!
//! A signature has one form in each format: what verifies is exactly what [`Artifact::assemble`] makes of r and s.

mod der;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::encoding;
use crate::json;
use crate::jwk::{PublicKey, Signature, Thumbprint};
use crate::message::RequestId;
use crate::name::DisplayText;
use crate::subject::SignatureFormat;

/// The `typ` of a JWS over a statement; none of Assent's messages has it.
pub const STATEMENT_TYP: &str = "in-toto+jws";
/// The `payloadType` of a DSSE envelope over a statement.
pub const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// The `_type` of a statement.
pub const STATEMENT_VERSION: &str = "https://in-toto.io/Statement/v1";
/// The `predicateType` of a statement.
pub const PREDICATE_TYPE: &str = "urn:assent:approval:v1";

/// An approved artifact: all that a signature over it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The form of the signature: that of the key for its whole life.
    pub format: SignatureFormat,
    /// Its name, as approved.
    pub name: DisplayText,
    /// SHA-256 of the file, as approved.
    pub digest: Digest,
    /// The request that approved it.
    pub request: RequestId,
    /// The digest of the policy by which it was approved.
    pub policy: Digest,
    /// The digest of the decision.
    pub decision: Digest,
}

/// What a device is asked to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSign {
    /// SHA-256 of bytes that are not here: those of the file.
    Digest(Digest),
    /// These bytes.
    Message(Vec<u8>),
}

/// The bytes are no signature by the key over the artifact, or not in its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no signature by this key over this artifact in its one form")]
pub struct BadArtifactSignature;

impl ToSign {
    /// The SHA-256 digest that is signed.
    pub fn digest(&self) -> Digest {
        match self {
            ToSign::Digest(digest) => *digest,
            ToSign::Message(bytes) => Digest::of(bytes),
        }
    }
}

impl Artifact {
    /// What the key `kid` signs.
    pub fn to_sign(&self, kid: Thumbprint) -> ToSign {
        match self.format {
            SignatureFormat::Der | SignatureFormat::Raw => ToSign::Digest(self.digest),
            SignatureFormat::Dsse => ToSign::Message(pae(&self.statement())),
            SignatureFormat::Jws => ToSign::Message(self.signing_input(kid).into_bytes()),
        }
    }

    /// The result: the signature of the key `kid` over [`to_sign`](Artifact::to_sign), in its format.
    pub fn assemble(&self, kid: Thumbprint, signature: &Signature) -> Vec<u8> {
        match self.format {
            SignatureFormat::Der => der::encode(signature),
            SignatureFormat::Raw => signature.to_vec(),
            SignatureFormat::Dsse => json::write(&Envelope {
                payload: Base64::encode_string(&self.statement()),
                payload_type: STATEMENT_TYPE.into(),
                signatures: [EnvelopeSignature {
                    keyid: kid,
                    // As stock verifiers of DSSE expect it of ECDSA keys.
                    sig: Base64::encode_string(&der::encode(signature)),
                }],
            }),
            SignatureFormat::Jws => {
                format!("{}.{}", self.signing_input(kid), encoding::encode(signature)).into_bytes()
            }
        }
    }

    /// Verifies that `result` is a signature by `key` over this artifact, in the one form that it has.
    ///
    /// # Errors
    /// [`BadArtifactSignature`]
    pub fn verify(&self, key: &PublicKey, result: &[u8]) -> Result<(), BadArtifactSignature> {
        let signature = self.signature(result).ok_or(BadArtifactSignature)?;
        if self.assemble(key.thumbprint(), &signature) != result {
            return Err(BadArtifactSignature);
        }
        let digest = self.to_sign(key.thumbprint()).digest();
        key.verify_digest(&digest, &signature).map_err(|_| BadArtifactSignature)
    }

    /// r and s of a result, whatever else stands in it.
    fn signature(&self, result: &[u8]) -> Option<Signature> {
        match self.format {
            SignatureFormat::Der => der::decode(result),
            SignatureFormat::Raw => result.try_into().ok(),
            SignatureFormat::Dsse => {
                let envelope: Envelope = json::read(result).ok()?;
                let [EnvelopeSignature { sig, .. }] = &envelope.signatures;
                der::decode(&Base64::decode_vec(sig).ok()?)
            }
            SignatureFormat::Jws => {
                let (_, signature) = std::str::from_utf8(result).ok()?.rsplit_once('.')?;
                encoding::decode_array(signature).ok()
            }
        }
    }

    /// The in-toto Statement v1 that names the file and the approval.
    fn statement(&self) -> Vec<u8> {
        let sha256 = self.digest.to_string().trim_start_matches("sha256:").to_owned();
        json::write(&Statement {
            version: STATEMENT_VERSION,
            subject: [StatementSubject { name: &self.name, digest: StatementDigest { sha256 } }],
            predicate_type: PREDICATE_TYPE,
            predicate: Predicate { request: self.request, policy: self.policy, decision: self.decision },
        })
    }

    fn signing_input(&self, kid: Thumbprint) -> String {
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{STATEMENT_TYP}"}}"#);
        format!("{}.{}", encoding::encode(header.as_bytes()), encoding::encode(&self.statement()))
    }
}

/// DSSE v1's pre-authentication encoding of a statement.
fn pae(statement: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("DSSEv1 {} {STATEMENT_TYPE} {} ", STATEMENT_TYPE.len(), statement.len()).into_bytes();
    bytes.extend_from_slice(statement);
    bytes
}

#[derive(Serialize)]
struct Statement<'a> {
    #[serde(rename = "_type")]
    version: &'a str,
    subject: [StatementSubject<'a>; 1],
    #[serde(rename = "predicateType")]
    predicate_type: &'a str,
    predicate: Predicate,
}

#[derive(Serialize)]
struct StatementSubject<'a> {
    name: &'a DisplayText,
    digest: StatementDigest,
}

#[derive(Serialize)]
struct StatementDigest {
    sha256: String,
}

#[derive(Serialize)]
struct Predicate {
    request: RequestId,
    policy: Digest,
    decision: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: [EnvelopeSignature; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    keyid: Thumbprint,
    sig: String,
}

#[cfg(test)]
mod tests;
