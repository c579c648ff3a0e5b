//! The state directory: one KMS uses it at a time, and nobody else may look into it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use assent_edge::private_file;
use rustix::fs::Access;

use super::StoreError;

/// The right to use a state directory, held as long as this lives.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code, reason = "held for its lock")] File);

impl DirectoryLock {
    /// Takes it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it; [`StoreError::Uninitialised`] without a directory.
    pub fn take(directory: &Path) -> Result<DirectoryLock, StoreError> {
        let path = directory.join("lock");
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::Uninitialised { path: directory.to_owned() },
            _ => StoreError::Failed { path: path.clone(), why: error.to_string() },
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Makes the state directory if it is not there, for this user alone.
///
/// # Errors
/// [`StoreError::Failed`]; [`StoreError::Open`], if others may use it.
pub fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let failed =
        |error: std::io::Error| StoreError::Failed { path: directory.to_owned(), why: error.to_string() };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    check_directory(directory)
}

/// Refuses a state directory that others than its owner, who is this user or root, can change or read, or that this user
/// cannot write.
///
/// # Errors
/// [`StoreError::Open`], [`StoreError::ReadOnly`], [`StoreError::Uninitialised`], [`StoreError::Failed`]
pub fn check_directory(directory: &Path) -> Result<(), StoreError> {
    let metadata = std::fs::metadata(directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::Uninitialised { path: directory.to_owned() },
        _ => StoreError::Failed { path: directory.to_owned(), why: error.to_string() },
    })?;
    if private_file::check(&metadata).is_err() {
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        return Err(StoreError::Open { path: directory.to_owned(), mode, owner });
    }
    let needed = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::access(directory, needed).map_err(|_| StoreError::ReadOnly { path: directory.to_owned() })
}
