//! The file: opening it safely, and its rows as values.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assent_consensus::digest::Digest;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{Certificate, SealedHeader};
use assent_consensus::json;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use rusqlite::{CachedStatement, Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::error::LedgerError;
use crate::sql;

/// How long a program that holds a lock on the file is waited for, in milliseconds.
const LOCK_PATIENCE_MS: u64 = 5_000;
/// How many prepared statements a connection keeps; more than there are queries.
const STATEMENTS: usize = 48;
/// After how many pages of 4 KiB the write-ahead log is written back into the file.
const CHECKPOINT_PAGES: i64 = 4_000;
/// A connection's cache, in KiB.
const CACHE_KIB: i64 = 32 * 1024;

/// One connection to a ledger's file.
pub(crate) struct Store {
    connection: Connection,
    path: Arc<Path>,
}

/// One block's row.
#[derive(Clone, Debug)]
pub(crate) struct BlockRow {
    pub header: SealedHeader,
    pub certificate: Certificate,
    pub first_transaction: u64,
    pub first_event: u64,
}

/// Where a transaction is recorded.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRow {
    pub bytes: Vec<u8>,
    pub height: u64,
    pub index: u64,
}

/// The right to write a ledger, held as long as this lives: a lock on a file beside it. It is not on the ledger's file
/// itself, because closing that would drop SQLite's own locks (POSIX fcntl).
#[derive(Debug)]
pub(crate) struct WriterLock(#[allow(dead_code, reason = "held for its lock")] File);

impl WriterLock {
    pub(crate) fn take(path: &Path) -> Result<WriterLock, LedgerError> {
        let cannot = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull => LedgerError::Full { path: path.to_owned() },
            std::io::ErrorKind::ReadOnlyFilesystem => LedgerError::ReadOnly { path: path.to_owned() },
            _ => LedgerError::CannotOpen { path: path.to_owned(), why: error.to_string() },
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(beside(path, ".lock"))
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(WriterLock(file)),
            Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }
}

impl Store {
    /// Opens the file for writing; makes it if there is none. The caller holds the [`WriterLock`].
    pub(crate) fn open(path: &Path, deployment: DeploymentId, chain: &Name) -> Result<Store, LedgerError> {
        if !recognise(path)? {
            create(path, deployment, chain)?;
        }
        let store = Store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        store.check_format()?;
        store.check_owner(deployment, chain)?;
        // A file without permission to write is opened for reading by SQLite, silently.
        if store.sql(store.connection.is_readonly("main"))? {
            return Err(LedgerError::ReadOnly { path: path.to_owned() });
        }
        store.pragma("journal_mode", "wal")?;
        store.pragma("synchronous", "full")?;
        store.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)?;
        Ok(store)
    }

    /// Opens the file for reading only.
    pub(crate) fn open_reader(path: &Path) -> Result<Store, LedgerError> {
        let store = Store::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        store.pragma("query_only", true)?;
        Ok(store)
    }

    /// Opens a ledger for reading only, after all checks that need no replay.
    pub(crate) fn open_existing(
        path: &Path,
        deployment: DeploymentId,
        chain: &Name,
    ) -> Result<Store, LedgerError> {
        if !recognise(path)? {
            return Err(LedgerError::CannotOpen {
                path: path.to_owned(),
                why: "there is no such file".into(),
            });
        }
        let store = Store::open_reader(path)?;
        store.check_format()?;
        store.check_owner(deployment, chain)?;
        Ok(store)
    }

    /// An empty ledger in a file without a name, which goes with its connection.
    pub(crate) fn scratch(deployment: DeploymentId, chain: &Name) -> Result<Store, LedgerError> {
        let store = Store::connect(Path::new(""), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        store.pragma("synchronous", "off")?;
        store.create_tables(deployment, chain)?;
        Ok(store)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Store, LedgerError> {
        let to_error = |error| LedgerError::sqlite(path, error);
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(to_error)?;
        connection.busy_timeout(Duration::from_millis(LOCK_PATIENCE_MS)).map_err(to_error)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let store = Store { connection, path: path.into() };
        store.pragma("cache_size", -CACHE_KIB)?;
        store.pragma("trusted_schema", false)?;
        store.pragma("temp_store", "file")?;
        Ok(store)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Does `work` in one read transaction, so that all of it sees one state of the file.
    pub(crate) fn reading<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let transaction = self.begin(TransactionBehavior::Deferred)?;
        let result = work(self);
        drop(transaction);
        result
    }

    /// Does `work` in one write transaction: all of it is on disk when this returns, or none of it ever is.
    pub(crate) fn writing<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let transaction = self.begin(TransactionBehavior::Immediate)?;
        let result = work(self)?;
        self.sql(transaction.commit())?;
        Ok(result)
    }

    /// Begins a read transaction that lasts until [`Store::end`].
    pub(crate) fn begin_reading(&self) -> Result<(), LedgerError> {
        self.sql(self.connection.execute_batch("BEGIN DEFERRED"))?;
        // A deferred transaction sees the state of its first read.
        self.tip().map(drop)
    }

    /// Ends a transaction that [`Store::begin_reading`] began.
    pub(crate) fn end(&self) -> Result<(), LedgerError> {
        self.sql(self.connection.execute_batch("ROLLBACK"))
    }

    fn begin(&self, behavior: TransactionBehavior) -> Result<rusqlite::Transaction<'_>, LedgerError> {
        self.sql(rusqlite::Transaction::new_unchecked(&self.connection, behavior))
    }

    pub(crate) fn statement(&self, query: &str) -> Result<CachedStatement<'_>, LedgerError> {
        self.sql(self.connection.prepare_cached(query))
    }

    pub(crate) fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, LedgerError> {
        result.map_err(|error| LedgerError::sqlite(&self.path, error))
    }

    pub(crate) fn damaged(&self, why: impl Into<String>) -> LedgerError {
        LedgerError::Damaged { path: self.path.to_path_buf(), why: why.into() }
    }

    pub(crate) fn pragma(&self, name: &str, value: impl rusqlite::ToSql) -> Result<(), LedgerError> {
        self.sql(self.connection.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|error| {
            match error {
                // Some pragmas answer, some do not.
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                error => Err(error),
            }
        }))
    }

    fn create_tables(&self, deployment: DeploymentId, chain: &Name) -> Result<(), LedgerError> {
        self.writing(|store| {
            for migration in sql::MIGRATIONS {
                store.sql(store.connection.execute_batch(migration))?;
            }
            store.pragma("application_id", sql::APPLICATION_ID)?;
            store.pragma("user_version", FORMAT)?;
            store.sql(
                store
                    .statement(sql::INSERT_LEDGER)?
                    .execute((deployment.0.as_bytes(), chain.as_str()))
                    .map(drop),
            )
        })
    }

    fn check_format(&self) -> Result<(), LedgerError> {
        let read =
            |name| self.sql(self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        if read("application_id")? != sql::APPLICATION_ID {
            return Err(LedgerError::NotALedger {
                path: self.path.to_path_buf(),
                why: "an SQLite file of another program".into(),
            });
        }
        // There is one format yet; an older one will be migrated here.
        match read("user_version")? {
            FORMAT => Ok(()),
            found => Err(LedgerError::TooNew { path: self.path.to_path_buf(), found, known: FORMAT }),
        }
    }

    fn check_owner(&self, deployment: DeploymentId, chain: &Name) -> Result<(), LedgerError> {
        let (found, name): ([u8; 32], String) =
            self.sql(self.statement(sql::LEDGER)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let found = DeploymentId(Digest::from_bytes(found));
        if found != deployment {
            return Err(LedgerError::OtherDeployment {
                path: self.path.to_path_buf(),
                expected: deployment,
                found,
            });
        }
        if name != chain.as_str() {
            return Err(LedgerError::OtherChain {
                path: self.path.to_path_buf(),
                expected: chain.clone(),
                found: name,
            });
        }
        Ok(())
    }
}

/// Rows.
impl Store {
    pub(crate) fn tip(&self) -> Result<Option<BlockRow>, LedgerError> {
        self.block_row(sql::TIP, [])
    }

    pub(crate) fn block(&self, height: u64) -> Result<Option<BlockRow>, LedgerError> {
        match i64::try_from(height) {
            Ok(height) => self.block_row(sql::BLOCK, [height]),
            Err(_) => Ok(None),
        }
    }

    fn block_row(&self, query: &str, params: impl rusqlite::Params) -> Result<Option<BlockRow>, LedgerError> {
        let mut statement = self.statement(query)?;
        let mut rows = self.sql(statement.query(params))?;
        let Some(row) = self.sql(rows.next())? else { return Ok(None) };
        let blob = |at| self.sql(row.get_ref(at).and_then(|value| Ok(value.as_blob()?)));
        let number = |at| self.sql(row.get::<_, i64>(at)).map(i64::cast_unsigned);
        Ok(Some(BlockRow {
            header: SealedHeader::parse(blob(0)?)
                .map_err(|error| self.damaged(format!("a header cannot be read: {error}")))?,
            certificate: json::read(blob(1)?)
                .map_err(|error| self.damaged(format!("a certificate cannot be read: {error}")))?,
            first_transaction: number(2)?,
            first_event: number(3)?,
        }))
    }

    pub(crate) fn transactions(&self, block: &BlockRow) -> Result<Vec<Vec<u8>>, LedgerError> {
        let end = block.header.header().transactions_total.get();
        self.blobs(sql::RECORDED_IN, block.first_transaction, end)
    }

    pub(crate) fn events(&self, block: &BlockRow) -> Result<Vec<EventBytes>, LedgerError> {
        let count = block.header.header().events_count.get();
        let blobs = self.blobs(sql::EVENTS_IN, block.first_event, block.first_event.saturating_add(count))?;
        Ok(blobs.into_iter().map(EventBytes).collect())
    }

    fn blobs(&self, query: &str, from: u64, to: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut statement = self.statement(query)?;
        let rows = self.sql(statement.query_map((integer(from), integer(to)), |row| row.get(0)))?;
        let blobs: Vec<Vec<u8>> = self.sql(rows.collect())?;
        if blobs.len() as u64 == to.saturating_sub(from) {
            Ok(blobs)
        } else {
            Err(self.damaged(format!("of rows {from} to {to} only {} are there", blobs.len())))
        }
    }

    pub(crate) fn recorded(&self, digest: Digest) -> Result<Option<RecordedRow>, LedgerError> {
        let mut statement = self.statement(sql::RECORDED_BY_PREFIX)?;
        let mut rows = self.sql(statement.query([prefix(digest)]))?;
        while let Some(row) = self.sql(rows.next())? {
            let bytes = self.sql(row.get_ref(0).and_then(|value| Ok(value.as_blob()?)))?;
            if Digest::of(bytes) == digest {
                let number = |at| self.sql(row.get::<_, i64>(at)).map(i64::cast_unsigned);
                return Ok(Some(RecordedRow {
                    bytes: bytes.to_vec(),
                    height: number(1)?,
                    index: number(2)?,
                }));
            }
        }
        Ok(None)
    }

    pub(crate) fn subtree(&self, level: u32, place: u64) -> Result<Digest, LedgerError> {
        let mut statement = self.statement(sql::SUBTREE)?;
        let hash = self.sql(statement.query_row((level, integer(place)), |row| row.get(0)))?;
        Ok(Digest::from_bytes(hash))
    }
}

/// A number below 2^53, as SQLite has it.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The first 8 bytes of a digest: what transactions are found by.
pub(crate) fn prefix(digest: Digest) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    i64::from_be_bytes(first)
}

/// `PRAGMA user_version` after all migrations.
const FORMAT: i64 = sql::MIGRATIONS.len() as i64;

/// Whether there is a file, after a look that never writes: a file that is there and is no SQLite file is refused.
fn recognise(path: &Path) -> Result<bool, LedgerError> {
    let not = |why: &str| Err(LedgerError::NotALedger { path: path.to_owned(), why: why.into() });
    let cannot =
        |error: std::io::Error| LedgerError::CannotOpen { path: path.to_owned(), why: error.to_string() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match beside(path, "-wal").try_exists().map_err(cannot)? {
                false => Ok(false),
                true => not("the file is gone, but its `-wal` file is there"),
            };
        }
        Err(error) => return Err(cannot(error)),
    };
    if file.metadata().map_err(cannot)?.is_dir() {
        return not("a directory");
    }
    let mut magic = [0; 16];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"SQLite format 3\0" => Ok(true),
        Ok(()) => not("not an SQLite file"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => not("empty or cut off"),
        Err(error) => Err(cannot(error)),
    }
}

/// Makes a new ledger under another name and renames it when it is whole, so that a crash leaves all or nothing.
fn create(path: &Path, deployment: DeploymentId, chain: &Name) -> Result<(), LedgerError> {
    let new = beside(path, ".new");
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => LedgerError::Full { path: path.to_owned() },
        _ => LedgerError::CannotOpen { path: path.to_owned(), why: error.to_string() },
    };
    for leftover in [new.clone(), beside(&new, "-journal")] {
        match std::fs::remove_file(leftover) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    let store = Store::connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    store.create_tables(deployment, chain)?;
    store.connection.close().map_err(|(_, error)| LedgerError::sqlite(path, error))?;
    std::fs::rename(&new, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// The path with something at its end.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// What a query finds at most once.
pub(crate) fn optional<T>(result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    result.optional()
}
