//! What is to be decided: the typed subject that a voter sees in full and signs for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json::{Integer, JsonError, Members, Value};
use crate::jwk::PublicKey;
use crate::name::{DisplayText, Name};
use crate::operational_key::{Algorithm, OperationalPublicKey};

/// The most members that a subject's `context` may have.
pub const CONTEXT_LIMIT: usize = 8;

/// The thing to be decided, tagged by `kind`. Members are written in the order of declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are those of the table in DESIGN section 6")]
pub enum Subject {
    /// Sign one artifact with an operational key.
    Sign {
        key: Name,
        name: DisplayText,
        digest: Digest,
        size: Integer,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Record a decision; the recorded decision is the result.
    Record {
        title: DisplayText,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        text: Option<DisplayText>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        digest: Option<Digest>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Call a webhook with a body.
    Webhook {
        url: DisplayText,
        digest: Digest,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Replace a key by its next version. Exactly one of `key` and `contract`.
    RotateKey {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<Name>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        contract: Option<Name>,
        reason: DisplayText,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Destroy one version of a key. Exactly one of `key` and `contract`.
    DestroyKey {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<Name>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        contract: Option<Name>,
        version: Integer,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Replace a contract's policy; `from` must still be in force.
    ChangePolicy {
        contract: Name,
        from: Digest,
        to: Digest,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Add, replace or remove a process.
    ChangeProcess {
        process: Name,
        governed_by: Name,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        from: Option<Digest>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        to: Option<Digest>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Add a consensus contract.
    AddContract {
        contract: Name,
        chain: Name,
        governed_by: Name,
        policy: Digest,
        jwk: PublicKey,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Add an operational key.
    AddKey {
        key: Name,
        governed_by: Name,
        alg: Algorithm,
        format: SignatureFormat,
        jwk: OperationalPublicKey,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Sign every artifact of a manifest.
    SignSet {
        key: Name,
        manifest: Digest,
        count: Integer,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
    /// Replace a chain's validators, by the hashes of both sets.
    ChangeValidators {
        chain: Name,
        from: Digest,
        to: Digest,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<Context>,
    },
}

/// The kind of a subject, without its members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is the kind of the subject of the same name")]
pub enum SubjectKind {
    Sign,
    Record,
    Webhook,
    RotateKey,
    DestroyKey,
    ChangePolicy,
    ChangeProcess,
    AddContract,
    AddKey,
    SignSet,
    ChangeValidators,
}

/// What is governed: the thing that a subject acts on. Each has one governing contract, which alone decides on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// An operational key.
    Key(&'a Name),
    /// A consensus contract.
    Contract(&'a Name),
    /// A process.
    Process(&'a Name),
    /// A chain.
    Chain(&'a Name),
    /// Something new, to be governed by this contract.
    New {
        /// The contract that will govern it, and so decides on it.
        governed_by: &'a Name,
    },
    /// Nothing but the record: any contract whose policy lists the kind decides.
    Nothing,
}

/// What an operational key's signature looks like, one for its whole life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureFormat {
    /// Over SHA-256 of the file: ECDSA-Sig-Value (RFC 3279 section 2.2.3), or the bytes of an RSA signature.
    Der,
    /// Over SHA-256 of the file: r and s, or the bytes of an RSA signature.
    Raw,
    /// A DSSE v1 envelope of an in-toto Statement v1.
    Dsse,
    /// A compact JWS of the same statement.
    Jws,
}

/// Up to [`CONTEXT_LIMIT`] members of display text that the voter sees and signs for: commit, ticket, origin, reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Context(Members);

impl Context {
    /// Names and texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text.as_str())),
            _ => None,
        })
    }
}

impl TryFrom<Members> for Context {
    type Error = String;

    fn try_from(members: Members) -> Result<Context, String> {
        if members.is_empty() || members.len() > CONTEXT_LIMIT {
            return Err(format!("`context` must have 1 to {CONTEXT_LIMIT} members"));
        }
        for (name, value) in members.iter() {
            name.parse::<DisplayText>().map_err(|error| format!("a name in `context`: {error}"))?;
            match value {
                Value::String(text) => {
                    text.parse::<DisplayText>().map_err(|error| format!("`context`.`{name}`: {error}"))?;
                }
                _ => return Err(format!("`context`.`{name}` must be text")),
            }
        }
        Ok(Context(members))
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Context, D::Error> {
        Members::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl Subject {
    /// Reads a subject from a JSON value whose members may be in any order.
    ///
    /// # Errors
    /// A member is missing, unknown or of the wrong form.
    pub fn from_value(value: &Value) -> Result<Subject, JsonError> {
        let subject: Subject = serde_json::from_slice(&crate::json::write(value))?;
        subject.check().map_err(|message| JsonError::Shape { message })?;
        Ok(subject)
    }

    /// Checks what the members' own types do not: that exactly one of `key` and `contract` is there.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Subject::RotateKey { key, contract, .. } | Subject::DestroyKey { key, contract, .. }
                if key.is_some() == contract.is_some() =>
            {
                Err(format!("a `{}` must name either a `key` or a `contract`", self.kind()))
            }
            Subject::ChangeProcess { from: None, to: None, .. } => {
                Err("a `change-process` must have `from`, `to` or both".into())
            }
            _ => Ok(()),
        }
    }

    /// The kind.
    pub fn kind(&self) -> SubjectKind {
        match self {
            Subject::Sign { .. } => SubjectKind::Sign,
            Subject::Record { .. } => SubjectKind::Record,
            Subject::Webhook { .. } => SubjectKind::Webhook,
            Subject::RotateKey { .. } => SubjectKind::RotateKey,
            Subject::DestroyKey { .. } => SubjectKind::DestroyKey,
            Subject::ChangePolicy { .. } => SubjectKind::ChangePolicy,
            Subject::ChangeProcess { .. } => SubjectKind::ChangeProcess,
            Subject::AddContract { .. } => SubjectKind::AddContract,
            Subject::AddKey { .. } => SubjectKind::AddKey,
            Subject::SignSet { .. } => SubjectKind::SignSet,
            Subject::ChangeValidators { .. } => SubjectKind::ChangeValidators,
        }
    }

    /// What it acts on.
    pub fn target(&self) -> Target<'_> {
        match self {
            Subject::Sign { key, .. } | Subject::SignSet { key, .. } => Target::Key(key),
            Subject::Record { .. } | Subject::Webhook { .. } => Target::Nothing,
            Subject::RotateKey { key: Some(key), .. } | Subject::DestroyKey { key: Some(key), .. } => {
                Target::Key(key)
            }
            Subject::RotateKey { contract: Some(contract), .. }
            | Subject::DestroyKey { contract: Some(contract), .. }
            | Subject::ChangePolicy { contract, .. } => Target::Contract(contract),
            Subject::RotateKey { .. } | Subject::DestroyKey { .. } => Target::Nothing,
            Subject::ChangeProcess { governed_by, from: None, .. } => Target::New { governed_by },
            Subject::ChangeProcess { process, .. } => Target::Process(process),
            Subject::AddContract { governed_by, .. } | Subject::AddKey { governed_by, .. } => {
                Target::New { governed_by }
            }
            Subject::ChangeValidators { chain, .. } => Target::Chain(chain),
        }
    }
}

impl SubjectKind {
    /// The word that stands in `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            SubjectKind::Sign => "sign",
            SubjectKind::Record => "record",
            SubjectKind::Webhook => "webhook",
            SubjectKind::RotateKey => "rotate-key",
            SubjectKind::DestroyKey => "destroy-key",
            SubjectKind::ChangePolicy => "change-policy",
            SubjectKind::ChangeProcess => "change-process",
            SubjectKind::AddContract => "add-contract",
            SubjectKind::AddKey => "add-key",
            SubjectKind::SignSet => "sign-set",
            SubjectKind::ChangeValidators => "change-validators",
        }
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl SignatureFormat {
    /// The word that stands in `format`.
    pub const fn as_str(self) -> &'static str {
        match self {
            SignatureFormat::Der => "der",
            SignatureFormat::Raw => "raw",
            SignatureFormat::Dsse => "dsse",
            SignatureFormat::Jws => "jws",
        }
    }
}

impl fmt::Display for SignatureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
