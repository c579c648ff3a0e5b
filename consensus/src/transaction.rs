//! Transactions: the bytes of one JWS, of an attachment, or of a carrier (JSON) for what proves itself.

use serde::{Deserialize, Serialize};

use crate::bundle::{ActionOutput, TransitionPair};
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::header::Inclusion;
use crate::json::{self, JsonError};
use crate::jws::{Jws, JwsError, MESSAGE_LIMIT};
use crate::policy::DOCUMENT_LIMIT;

/// The largest attachment, in bytes.
pub const ATTACHMENT_LIMIT: usize = 4 * 1024 * 1024;

/// The largest carrier, in bytes.
const CARRIER_LIMIT: usize = 4 * MESSAGE_LIMIT + 2 * DOCUMENT_LIMIT;

/// A transaction whose form is right, with its exact bytes.
#[derive(Clone, Debug)]
pub struct Transaction {
    bytes: Vec<u8>,
    digest: Digest,
    content: Content,
}

/// What a transaction is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A signed message.
    Message(Jws),
    /// Something that proves itself.
    Carrier(Box<Carrier>),
    /// A document that a subject names by digest.
    Attachment,
}

/// Unsigned JSON around what proves itself. The first member, `carrier`, says what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "carrier", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Carrier {
    /// To the consensus ledger: a `call` event of the process ledger.
    Call {
        /// The event and its proof.
        inclusion: Inclusion,
    },
    /// To the consensus ledger: a vote request that the KMS signed.
    VoteRequest {
        /// The message.
        vote_request: Jws,
        /// The KMS's audit head after its intent.
        audit: Digest,
    },
    /// To the consensus ledger: a decision that the KMS signed.
    Decision {
        /// The message.
        decision: Jws,
        /// The KMS's audit head after its intent.
        audit: Digest,
    },
    /// To the process ledger: how a request ended, by an event of the consensus ledger (`decision-recorded`,
    /// `request-refused` or `request-void`).
    Answer {
        /// The decision, if there is one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        decision: Option<Jws>,
        /// The event and its proof.
        inclusion: Inclusion,
    },
    /// To the process ledger: the key transition that an approved `rotate-key` gave.
    Transition {
        /// The two messages.
        transition: TransitionPair,
        /// The KMS's audit head after those signatures.
        audit: Digest,
    },
    /// To the process ledger: the statement of what an approved `destroy-key` or `change-policy` changed.
    Change {
        /// The message.
        change: Jws,
        /// The exact document of the policy that it puts into force.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        document: Option<Bytes>,
        /// The KMS's audit head after its signature.
        audit: Digest,
    },
    /// To the consensus ledger: a key transition, by the `changed` event of the process ledger.
    RelayedTransition {
        /// The two messages.
        transition: TransitionPair,
        /// The event and its proof.
        inclusion: Inclusion,
    },
    /// To the consensus ledger: a policy, by the `changed` event of the process ledger.
    RelayedChange {
        /// The governing contract's statement.
        change: Jws,
        /// The exact document of the policy.
        document: Bytes,
        /// The event and its proof.
        inclusion: Inclusion,
    },
    /// To the process ledger: what an action gave.
    Result {
        /// The digest of the decision that approved the action.
        decision: Digest,
        /// What it gave.
        output: ActionOutput,
        /// The KMS's audit head after that signature.
        audit: Digest,
    },
}

impl Carrier {
    /// The head of the KMS's audit log that came with it, if it is a result of the KMS's.
    pub fn audit(&self) -> Option<Digest> {
        match self {
            Carrier::VoteRequest { audit, .. }
            | Carrier::Decision { audit, .. }
            | Carrier::Transition { audit, .. }
            | Carrier::Change { audit, .. }
            | Carrier::Result { audit, .. } => Some(*audit),
            Carrier::Call { .. }
            | Carrier::Answer { .. }
            | Carrier::RelayedTransition { .. }
            | Carrier::RelayedChange { .. } => None,
        }
    }
}

/// Why bytes are not a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Neither empty nor too large is allowed.
    #[error("the transaction has {length} bytes; 1 to {limit} are allowed")]
    Size {
        /// Bytes of the transaction.
        length: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// A message of the wrong form.
    #[error(transparent)]
    Message(#[from] JwsError),
    /// A carrier of the wrong form.
    #[error("the carrier cannot be read: {0}")]
    Carrier(#[from] JsonError),
}

impl Transaction {
    /// Reads a transaction. Bytes that begin like a JWS of Assent are one, bytes that begin like a carrier are one, and
    /// all others are an attachment.
    ///
    /// # Errors
    /// [`TransactionError`]
    pub fn parse(bytes: Vec<u8>) -> Result<Transaction, TransactionError> {
        let (content, limit) = if bytes.starts_with(b"eyJ") {
            (Content::Message(Jws::parse(&bytes)?), MESSAGE_LIMIT)
        } else if bytes.starts_with(b"{\"carrier\":") {
            // A carrier's size is bounded before it is parsed: it holds a message, a document and paths at most.
            check_size(bytes.len(), CARRIER_LIMIT)?;
            (Content::Carrier(Box::new(json::read(&bytes)?)), CARRIER_LIMIT)
        } else {
            (Content::Attachment, ATTACHMENT_LIMIT)
        };
        check_size(bytes.len(), limit)?;
        Ok(Transaction { digest: Digest::of(&bytes), bytes, content })
    }

    /// The exact bytes: the leaf of the block's transaction tree.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it is.
    pub fn content(&self) -> &Content {
        &self.content
    }
}

fn check_size(length: usize, limit: usize) -> Result<(), TransactionError> {
    if (1..=limit).contains(&length) { Ok(()) } else { Err(TransactionError::Size { length, limit }) }
}
