//! What an operational key signs when a signature is approved, and what the result looks like: the four formats of
//! DESIGN section 6.
//!
//! ```text
//! format  what the key signs                              what the result is
//! der     SHA-256 of the file                             ECDSA-Sig-Value (RFC 3279 section 2.2.3); RSA: as in raw
//! raw     SHA-256 of the file                             r and s, 32 or 48 bytes each; RSA: the signature's bytes
//! dsse    PAE of an in-toto Statement v1 (DSSE v1)        DSSE v1 envelope in JSON, its signature as in der
//! jws     the same statement in a compact JWS (RFC 7515)  that JWS
//! ```
//!
//! A file is known by its SHA-256, so that is what a key on P-384 signs of it too (`openssl dgst -sha256`). A message is
//! hashed as the key's algorithm says (RFC 7518 section 3.1): with SHA-384 for ES384.
//!
//! A signature has one form in each format: what verifies is exactly what [`Artifact::assemble`] makes of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::encoding;
use crate::json;
use crate::jwk::Thumbprint;
use crate::message::RequestId;
use crate::name::DisplayText;
use crate::operational_key::{Algorithm, MessageDigest, RawSignature, VerificationKey, der};
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
    /// The digest that a key of this algorithm signs.
    pub fn digest(&self, algorithm: Algorithm) -> MessageDigest {
        match self {
            ToSign::Digest(digest) => MessageDigest::Sha256(*digest),
            ToSign::Message(bytes) => algorithm.digest(bytes),
        }
    }
}

impl Artifact {
    /// What `key` signs.
    pub fn to_sign(&self, key: &VerificationKey) -> ToSign {
        match self.format {
            SignatureFormat::Der | SignatureFormat::Raw => ToSign::Digest(self.digest),
            SignatureFormat::Dsse => ToSign::Message(pae(&self.statement())),
            SignatureFormat::Jws => ToSign::Message(self.signing_input(key).into_bytes()),
        }
    }

    /// The result: the signature of `key` over [`to_sign`](Artifact::to_sign), in its format.
    pub fn assemble(&self, key: &VerificationKey, signature: &RawSignature) -> Vec<u8> {
        match self.format {
            SignatureFormat::Der => to_der(key, signature),
            SignatureFormat::Raw => signature.0.clone(),
            SignatureFormat::Dsse => json::write(&Envelope {
                payload: STANDARD.encode(self.statement()),
                payload_type: STATEMENT_TYPE.into(),
                signatures: [EnvelopeSignature {
                    keyid: key.thumbprint(),
                    // As stock verifiers of DSSE expect it of ECDSA keys.
                    sig: STANDARD.encode(to_der(key, signature)),
                }],
            }),
            SignatureFormat::Jws => {
                format!("{}.{}", self.signing_input(key), encoding::encode(&signature.0)).into_bytes()
            }
        }
    }

    /// Verifies that `result` is a signature by `key` over this artifact, in the one form that it has.
    ///
    /// # Errors
    /// [`BadArtifactSignature`]
    pub fn verify(&self, key: &VerificationKey, result: &[u8]) -> Result<(), BadArtifactSignature> {
        let signature = self.signature(key, result).ok_or(BadArtifactSignature)?;
        if self.assemble(key, &signature) != result {
            return Err(BadArtifactSignature);
        }
        let digest = self.to_sign(key).digest(key.algorithm());
        key.verify(&digest, &signature).map_err(|_| BadArtifactSignature)
    }

    /// The signature in a result, whatever else stands there.
    fn signature(&self, key: &VerificationKey, result: &[u8]) -> Option<RawSignature> {
        match self.format {
            SignatureFormat::Der => from_der(key, result.to_vec()),
            SignatureFormat::Raw => of_length(key, result.to_vec()),
            SignatureFormat::Dsse => {
                let envelope: Envelope = json::read(result).ok()?;
                let [EnvelopeSignature { sig, .. }] = &envelope.signatures;
                from_der(key, STANDARD.decode(sig).ok()?)
            }
            SignatureFormat::Jws => {
                let (_, signature) = std::str::from_utf8(result).ok()?.rsplit_once('.')?;
                of_length(key, encoding::decode(signature).ok()?)
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

    fn signing_input(&self, key: &VerificationKey) -> String {
        let (algorithm, kid) = (key.algorithm(), key.thumbprint());
        let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}","typ":"{STATEMENT_TYP}"}}"#);
        format!("{}.{}", encoding::encode(header.as_bytes()), encoding::encode(&self.statement()))
    }
}

/// The form in DER that ECDSA signatures have, and RSA ones need not.
fn to_der(key: &VerificationKey, signature: &RawSignature) -> Vec<u8> {
    match key.algorithm().is_ecdsa() {
        true => der::encode(&signature.0),
        false => signature.0.clone(),
    }
}

fn from_der(key: &VerificationKey, bytes: Vec<u8>) -> Option<RawSignature> {
    match key.algorithm().is_ecdsa() {
        true => der::decode(&bytes, key.public_key().kind().signature_length()).map(RawSignature),
        false => of_length(key, bytes),
    }
}

fn of_length(key: &VerificationKey, bytes: Vec<u8>) -> Option<RawSignature> {
    (bytes.len() == key.public_key().kind().signature_length()).then_some(RawSignature(bytes))
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
