//! How the file is made, opened and copied.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use assent_consensus::digest::Digest;
use assent_consensus::time::UnixMillis;
use rusqlite::{Connection, OpenFlags};

use super::format::{FORMAT, recognise};
use super::{
    Batch, CACHE_KIB, CHECKPOINT_PAGES, FILE, Head, LOCK_PATIENCE_MS, STATEMENTS, Store, StoreError, sql,
};
use crate::audit::Entry;
use crate::whole_file;

impl Store {
    /// Makes the file, whole or not at all, with a new instance and the first entry of its log.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if it is there already.
    pub fn create(directory: &Path, at: UnixMillis) -> Result<(), StoreError> {
        let path = directory.join(FILE);
        if recognise(&path)? {
            return Err(StoreError::Exists { path });
        }
        let failed =
            |error: std::io::Error| StoreError::Failed { path: path.clone(), why: error.to_string() };
        let new = directory.join("kms.sqlite.new");
        for leftover in [new.clone(), directory.join("kms.sqlite.new-journal")] {
            whole_file::remove(&leftover).map_err(failed)?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let store = Store::connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let transaction = store.sql(store.connection.unchecked_transaction())?;
        for migration in sql::MIGRATIONS {
            store.sql(store.connection.execute_batch(migration))?;
        }
        store.pragma("application_id", sql::APPLICATION_ID)?;
        store.pragma("user_version", FORMAT)?;
        store.sql(store.connection.execute(sql::INSERT_KMS, [instance]).map(drop))?;
        let mut batch = Batch::new(&store, Head { number: 0, digest: Digest::ZERO });
        batch
            .append(&Entry::Created { at, instance: assent_consensus::encoding::Bytes(instance.to_vec()) })?;
        store.sql(transaction.commit())?;
        store.connection.close().map_err(|(_, error)| StoreError::sqlite(&path, error))?;
        std::fs::rename(&new, &path).map_err(failed)?;
        whole_file::sync_directory(directory).map_err(failed)
    }

    /// Opens the file for writing. The caller holds the [`DirectoryLock`].
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn open(directory: &Path) -> Result<Store, StoreError> {
        let store = Store::open_with(directory, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // A file without permission to write is opened for reading by SQLite, silently.
        if store.sql(store.connection.is_readonly("main"))? {
            return Err(StoreError::ReadOnly { path: store.path });
        }
        store.pragma("journal_mode", "wal")?;
        store.pragma("synchronous", "full")?;
        store.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)?;
        store.pragma("cache_size", -CACHE_KIB)?;
        Ok(store)
    }

    /// Opens the file for reading only.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open_reader(directory: &Path) -> Result<Store, StoreError> {
        let store = Store::open_with(directory, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        store.pragma("query_only", true)?;
        Ok(store)
    }

    /// Writes the file of a directory as it is now, whole, into a new file, for this user alone. Others may write meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Exists`] if the new file is there already.
    pub fn copy(directory: &Path, path: &Path) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => StoreError::Exists { path: path.to_owned() },
            _ => StoreError::Failed { path: path.to_owned(), why: error.to_string() },
        };
        let store = Store::open_with(directory, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let name = path.to_str().ok_or_else(|| failed(std::io::Error::other("its name is not UTF-8")))?;
        store.sql(store.connection.execute(sql::COPY, [name]))?;
        file.sync_all().map_err(failed)?;
        whole_file::sync_directory(path.parent().unwrap_or(Path::new("."))).map_err(failed)
    }

    pub(super) fn open_with(directory: &Path, flags: OpenFlags) -> Result<Store, StoreError> {
        let path = directory.join(FILE);
        if !recognise(&path)? {
            return Err(StoreError::Uninitialised { path: directory.to_owned() });
        }
        let store = Store::connect(&path, flags)?;
        store.check_format()?;
        Ok(store)
    }

    pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Store, StoreError> {
        let to_error = |error| StoreError::sqlite(path, error);
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(to_error)?;
        connection.busy_timeout(Duration::from_millis(LOCK_PATIENCE_MS)).map_err(to_error)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let store = Store { connection, path: path.into() };
        store.pragma("trusted_schema", false)?;
        store.pragma("temp_store", "file")?;
        Ok(store)
    }
}
