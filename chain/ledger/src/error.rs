//! What can go wrong with a ledger, in words that say what to do.

use std::path::{Path, PathBuf};

use assent_consensus::digest::Digest;
use assent_consensus::header::ProofError;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use rusqlite::ffi::ErrorCode;

/// Why a ledger cannot be opened, read, or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened.
    #[error("`{}` cannot be opened: {why}; check that its folder exists and that this user may read and write it", .path.display())]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// Another process has it.
    #[error("`{}` is in use by another process; stop that one first, since a ledger has one writer", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("`{}` is not a ledger ({why}); it is left as it is: name another file, or restore this one from a backup", .path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// Written by a newer version.
    #[error("`{}` has format {found}, and this version reads up to {known}; use a newer version", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that is known.
        known: i64,
    },
    /// Of another deployment.
    #[error("`{}` belongs to deployment `{found}`, not to `{expected}`; name the right genesis file, or another ledger", .path.display())]
    OtherDeployment {
        /// The file.
        path: PathBuf,
        /// The deployment that was expected.
        expected: DeploymentId,
        /// The one in the file.
        found: DeploymentId,
    },
    /// Another ledger of the deployment.
    #[error("`{}` is the ledger `{found}`, not `{expected}`; name the right file", .path.display())]
    OtherChain {
        /// The file.
        path: PathBuf,
        /// The ledger that was expected.
        expected: Name,
        /// The one in the file.
        found: String,
    },
    /// No space is left.
    #[error("no space is left for `{}`; nothing was recorded: make room, then try again", .path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Somebody holds a lock for too long.
    #[error("`{}` is locked by another program; end it (a database shell, or a backup), then try again", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("`{}` is damaged ({why}); stop, keep the file, and restore it from a backup or from another replica", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The file cannot be written.
    #[error("`{}` cannot be written; check its permissions and those of its folder, and that the disk is not mounted read-only", .path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Any other failure of the disk or the store.
    #[error("`{}` failed: {why}; check the disk, then start again", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// The store's reason.
        why: String,
    },
    /// Every connection for reading is in use.
    #[error("`{}` is being read by too many at once; try again", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// There is no such block or event.
    #[error("{what} is not in the log, whose newest block is {tip}")]
    NotThere {
        /// What was asked for.
        what: String,
        /// The height of the newest block.
        tip: u64,
    },
    /// The header that somebody trusts is not in this ledger.
    #[error("the trusted header of height {height} is not in `{}`; one of the two was restored or forked", .path.display())]
    NotAncestor {
        /// The file.
        path: PathBuf,
        /// The trusted header's height.
        height: u64,
    },
    /// A block was refused.
    #[error("block {height} is refused: {why}")]
    Refused {
        /// The block's height.
        height: u64,
        /// The reason.
        why: BlockError,
    },
    /// The validator's key did not sign.
    #[error("the validator's key could not sign: {0}")]
    Signer(String),
    /// The key is not the ledger's only validator.
    #[error("key `{0}` is not the only validator of this ledger; use the key that genesis names")]
    NotTheValidator(String),
    /// The driver ended because of a defect.
    #[error("the log's writer has ended unexpectedly; start again")]
    Ended,
}

/// Why a block is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Another height than the next.
    #[error("the next block is {expected}")]
    NotNext {
        /// The next height.
        expected: u64,
    },
    /// Another block of that height is final already.
    #[error("block `{0}` of that height is final already")]
    Fork(Digest),
    /// The time is not after the block before.
    #[error("its time {found} is not after {before}")]
    Time {
        /// The time of the block before.
        before: u64,
        /// The time in the header.
        found: u64,
    },
    /// The time is too far ahead.
    #[error("its time {found} is over 10 s ahead of {now}")]
    Ahead {
        /// This replica's clock.
        now: u64,
        /// The time in the header.
        found: u64,
    },
    /// Nothing is in it, and nothing was due.
    #[error("it has no transaction, and nothing was due")]
    Empty,
    /// A transaction is there already.
    #[error("transaction `{0}` is in the log already")]
    Repeated(Digest),
    /// A transaction is rejected.
    #[error("transaction `{digest}` is rejected: {message}")]
    Rejected {
        /// The transaction.
        digest: Digest,
        /// The contract's reason.
        message: String,
    },
    /// A member of the header is another than execution gives.
    #[error("`{0}` in its header is not what its transactions give")]
    Differs(&'static str),
    /// What is stored is not what execution gives.
    #[error("the stored {0} are not what its transactions give")]
    StoredDiffers(&'static str),
    /// The bytes cannot be read.
    #[error("its {what} cannot be read: {why}")]
    Unreadable {
        /// Which part.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The certificate does not make it final.
    #[error(transparent)]
    NotFinal(#[from] ProofError),
}

impl LedgerError {
    /// Whether the file must not be used any more.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            LedgerError::Damaged { .. } | LedgerError::NotALedger { .. } | LedgerError::Refused { .. }
        )
    }

    /// What SQLite's error means for the file at `path`.
    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error) -> LedgerError {
        let path = path.to_owned();
        let why = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(code, _) => match code.code {
                ErrorCode::DiskFull => LedgerError::Full { path },
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => LedgerError::Locked { path },
                ErrorCode::DatabaseCorrupt => LedgerError::Damaged { path, why },
                ErrorCode::NotADatabase => LedgerError::NotALedger { path, why },
                ErrorCode::ReadOnly | ErrorCode::PermissionDenied => LedgerError::ReadOnly { path },
                ErrorCode::CannotOpen => LedgerError::CannotOpen { path, why },
                _ => LedgerError::Store { path, why },
            },
            rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => LedgerError::Damaged { path, why },
            _ => LedgerError::Store { path, why },
        }
    }
}
