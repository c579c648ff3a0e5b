//! What can be wrong with the KMS's file.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the KMS's file, or its directory, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is nothing yet.
    #[error("there is no KMS in `{}`: `assent-kms init` makes one", path.display())]
    Uninitialised {
        /// The state directory.
        path: PathBuf,
    },
    /// There is one already.
    #[error("`{}` is there already: this KMS was made before", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("the state directory `{}` is in use by another `assent-kms`: stop that one first", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// Others may use it.
    #[error(
        "the state directory `{}` (mode {mode:04o}, of user {owner}) must belong to the KMS's user and be closed to all \
         others: run `chmod 700` or `chown` on it",
        path.display()
    )]
    Open {
        /// The state directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// Not ours.
    #[error("`{}` is not the file of a KMS: {why}; put the right one back, from a backup if need be", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// Made by a later program.
    #[error("`{}` has format {found}, and this program knows {known}: use the program that made it", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The latest that is known.
        known: i64,
    },
    /// Made by an earlier program.
    #[error("`{}` has format {found}, and this program needs {known}: `assent-kms serve` brings it up to that", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The one that is needed.
        known: i64,
    },
    /// Only to be read.
    #[error("`{}` cannot be written: check its owner, its mode and how its disk is mounted", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// No room.
    #[error("the disk of `{}` is full: make room; what waits goes on by itself", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Its content is wrong.
    #[error("`{}` is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// Anything else.
    #[error("`{}` cannot be used: {why}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Too much waits to be written.
    #[error("too much waits to be written: try again in a second")]
    Busy,
    /// A write may be lost.
    #[error("`{}` may have lost a write, so nothing more is written: check the disk, then start the KMS again", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error) -> StoreError {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full { path },
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged { path, why: error.to_string() }
            }
            _ => StoreError::Failed { path, why: error.to_string() },
        }
    }
}
