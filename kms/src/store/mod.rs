//! The KMS's file (SQLite): keys, pins, and the audit log.
//!
//! ```text
//! many callers ─▶ Writer (one thread, one transaction and one fsync for all that wait) ─▶ file ─▶ Store (reading)
//! ```

mod batch;
mod directory;
mod error;
mod format;
mod opening;
mod policies;
mod queue;
mod sql;
#[cfg(test)]
mod tests;
mod uses;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assent_consensus::digest::Digest;
use assent_consensus::header::TrustedHeader;
use assent_consensus::json;
use assent_consensus::json::Integer;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyTransition, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind, OperationalPublicKey, VerificationKey};
use assent_consensus::standing::Successions;
use assent_consensus::time::UnixMillis;
use assent_consensus::transition::key_of;
use rusqlite::{CachedStatement, Connection, OptionalExtension};

use crate::audit::Entry;
use crate::device::ObjectId;
use crate::device::yubihsm::log::LogMark;
use crate::life::Limits;
use crate::pins::KeyState;
use crate::signing::{DutyId, KeyName};

pub use batch::{Batch, Conclusion, Intended, NewKey};
pub use directory::{DirectoryLock, check_directory, make_directory};
pub use error::StoreError;
pub use policies::PolicyRow;
pub use queue::WRITER_QUEUE;
pub use uses::{LimitReached, Uses};
pub use writer::Writer;

/// The database's name in the state directory.
pub const FILE: &str = "kms.sqlite";
/// How long another program's lock on the file is waited for, in milliseconds.
const LOCK_PATIENCE_MS: u64 = 5_000;
/// How many prepared statements a connection keeps; more than there are queries.
const STATEMENTS: usize = 64;
/// After how many pages of 4 KiB the write-ahead log is written back into the file.
const CHECKPOINT_PAGES: i64 = 4_000;
/// The writing connection's cache, in KiB: duties lie all over their table.
const CACHE_KIB: i64 = 4 * 1024;

/// One connection to the KMS's file.
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

/// Whose database this is, and how far it is (see [`crate::epoch`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 16 random bytes.
    pub instance: [u8; 16],
    /// How often the epoch was advanced; 0 until the token has its first mark.
    pub epoch: u64,
    /// The epoch that is being put on the token.
    pub pending: Option<u64>,
}

/// One row of the key table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The device that holds it.
    pub device: Name,
    /// The key pair on the device.
    pub object: ObjectId,
    /// Its name.
    pub name: KeyName,
    /// Its version.
    pub version: KeyVersion,
    /// Its public half, and how it signs.
    pub public_key: VerificationKey,
    /// Whether it was on the device before, and was taken over.
    pub is_adopted: bool,
    /// Its state.
    pub state: KeyState,
    /// The contract that governs it, once it is pinned; nothing for one that governs itself.
    pub governed_by: Option<Name>,
    /// When it was generated.
    pub created: UnixMillis,
    /// When it was activated, or pinned with a date at which it will be.
    pub activated: Option<UnixMillis>,
    /// When its state on record became that.
    pub changed: UnixMillis,
    /// What it is limited to.
    pub limits: Limits,
    /// How often it was used, if that is counted.
    pub used: u64,
}

impl KeyRow {
    /// Whether it is this version of this key.
    pub fn is(&self, name: &KeyName, version: KeyVersion) -> bool {
        self.name == *name && self.version == version
    }
}

/// How far the log of each device was read; see [`Store::device_logs`].
pub type DeviceLogs = BTreeMap<(Name, String), (u64, LogMark)>;

/// The place of the log's last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 1; 0 if there is none.
    pub number: u64,
    /// The digest that stands for the whole log.
    pub digest: Digest,
}

/// Reading.
impl Store {
    /// Has `read` see the file as it is at one moment, whatever others write meanwhile.
    ///
    /// # Errors
    /// [`StoreError`], or what `read` gives.
    pub fn at_one_moment<T, E: From<StoreError>>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let _moment = self.sql(self.connection.unchecked_transaction())?;
        read()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose database this is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn identity(&self) -> Result<Identity, StoreError> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Identity {
                instance: row.get(0)?,
                epoch: row.get::<_, i64>(1)?.cast_unsigned(),
                pending: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
            })
        };
        self.sql(self.statement(sql::KMS)?.query_row([], read))
    }

    /// The earliest epoch whose mark a device may have, if it was not there when the epoch was advanced.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn behind(&self, device: &Name) -> Result<Option<u64>, StoreError> {
        let epoch =
            self.statement(sql::BEHIND)?.query_row([device.as_str()], |row| row.get::<_, i64>(0)).optional();
        Ok(self.sql(epoch)?.map(i64::cast_unsigned))
    }

    /// All keys, in order of name and version.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let mut statement = self.statement(sql::KEYS)?;
        let mut rows = self.sql(statement.query([]))?;
        let mut keys = Vec::new();
        while let Some(row) = self.sql(rows.next())? {
            keys.push(self.key_row(row)?);
        }
        Ok(keys)
    }

    /// One version of a key, which is there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn key(&self, name: &KeyName, version: KeyVersion) -> Result<KeyRow, StoreError> {
        let row = self.keys()?.into_iter().find(|row| row.is(name, version));
        row.ok_or_else(|| self.damaged(format!("it has no row for version {version} of {name}")))
    }

    fn key_row(&self, row: &rusqlite::Row<'_>) -> Result<KeyRow, StoreError> {
        let text = |at| self.sql(row.get::<_, String>(at));
        let number =
            |at| self.sql(row.get::<_, Option<i64>>(at)).map(|number| number.map(i64::cast_unsigned));
        let wrong = |what: &str| self.damaged(format!("a row of `key` has a {what} that is none"));
        let name: Name = text(2)?.parse().map_err(|_| wrong("name"))?;
        let governed_by = self.sql(row.get::<_, Option<String>>(6))?;
        Ok(KeyRow {
            device: text(9)?.parse().map_err(|_| wrong("device"))?,
            object: ObjectId::new(&self.sql(row.get::<_, Vec<u8>>(0))?).ok_or_else(|| wrong("object"))?,
            name: match text(1)?.as_str() {
                "contract" => KeyName::Contract(name),
                _ => KeyName::Operational(name),
            },
            version: KeyVersion(number(3)?.and_then(Integer::new).ok_or_else(|| wrong("version"))?),
            public_key: self.verification_key(&text(10)?, &self.sql(row.get::<_, Vec<u8>>(4))?)?,
            is_adopted: self.sql(row.get(11))?,
            state: text(5)?.parse().map_err(|()| wrong("state"))?,
            governed_by: governed_by.map(|name| name.parse().map_err(|_| wrong("governor"))).transpose()?,
            created: UnixMillis::new(number(7)?.unwrap_or_default()),
            activated: number(8)?.map(UnixMillis::new),
            changed: UnixMillis::new(number(12)?.unwrap_or_default()),
            limits: self.limits(self.sql(row.get(13))?)?,
            used: number(14)?.unwrap_or_default(),
        })
    }

    fn verification_key(&self, algorithm: &str, bytes: &[u8]) -> Result<VerificationKey, StoreError> {
        let algorithm: Option<Algorithm> = algorithm.parse().ok();
        // Of the kinds that an algorithm fits, each has a length of its own.
        let read = |algorithm: Algorithm| {
            let kinds = KeyKind::ALL.into_iter().filter(|kind| algorithm.fits(*kind));
            let kind = kinds.into_iter().find(|kind| kind.length() == bytes.len())?;
            let public_key = OperationalPublicKey::from_bytes(kind, bytes).ok()?;
            VerificationKey::new(algorithm, public_key).ok()
        };
        let key = algorithm.and_then(read);
        key.ok_or_else(|| self.damaged("a row of `key` has a public key, or an algorithm, that is none"))
    }

    /// What the rotation that a request approved says, once that is fixed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn transition_by(&self, request: RequestId) -> Result<Option<KeyTransition>, StoreError> {
        let mut statement = self.statement(sql::TRANSITION)?;
        let found = statement.query_row([request.0.as_bytes()], |row| row.get::<_, Vec<u8>>(0)).optional();
        self.sql(found)?.map(|bytes| self.transition(&bytes)).transpose()
    }

    /// The transitions that are signed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn successions(&self) -> Result<Successions, StoreError> {
        let mut statement = self.statement(sql::TRANSITIONS)?;
        let mut rows = self.sql(statement.query([]))?;
        let mut successions = Successions::default();
        while let Some(row) = self.sql(rows.next())? {
            let says = self.transition(&self.sql(row.get::<_, Vec<u8>>(0))?)?;
            let key = key_of(&says).map_err(|error| self.damaged(error.to_string()))?;
            successions.add(key, says);
        }
        Ok(successions)
    }

    fn transition(&self, bytes: &[u8]) -> Result<KeyTransition, StoreError> {
        json::read(bytes)
            .map_err(|error| self.damaged(format!("a row of `transition` cannot be read: {error}")))
    }

    /// The bytes of the pinned genesis.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn genesis(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.sql(self.statement(sql::GENESIS)?.query_row([], |row| row.get(0)).optional())
    }

    /// The last trusted header of each ledger.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn trusted(&self) -> Result<Vec<(Name, TrustedHeader)>, StoreError> {
        let mut statement = self.statement(sql::TRUSTED)?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, [u8; 32]>(2)?))
        });
        let rows: Vec<_> = self.sql(rows.and_then(Iterator::collect))?;
        rows.into_iter()
            .map(|(chain, height, id)| {
                let chain = chain.parse().map_err(|_| self.damaged("a trusted ledger's name is none"))?;
                let height = Integer::saturating(height.cast_unsigned());
                Ok((chain, TrustedHeader { height, id: Digest::from_bytes(id) }))
            })
            .collect()
    }

    /// The voters whose ballots count no more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn suspended_voters(&self) -> Result<Vec<Thumbprint>, StoreError> {
        Ok(self.digests(sql::SUSPENDED_VOTERS)?.into_iter().map(Thumbprint::from_bytes).collect())
    }

    /// The requests that a person released.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn released(&self) -> Result<Vec<RequestId>, StoreError> {
        let digests = self.digests(sql::RELEASED)?;
        Ok(digests.into_iter().map(|bytes| RequestId(Digest::from_bytes(bytes))).collect())
    }

    /// The moment before which a request must have been opened for its signatures to be possibly unknown here; nothing if
    /// this file was never put back.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn fence(&self) -> Result<Option<UnixMillis>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| Ok(UnixMillis::new(row.get::<_, i64>(0)?.cast_unsigned()));
        self.sql(self.statement(sql::FENCE)?.query_row([], read).optional())
    }

    fn digests(&self, query: &str) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut statement = self.statement(query)?;
        let rows = statement.query_map([], |row| row.get(0));
        self.sql(rows.and_then(Iterator::collect))
    }

    /// The log's end.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn head(&self) -> Result<Head, StoreError> {
        let read = |row: &rusqlite::Row<'_>| {
            let number = row.get::<_, i64>(0)?.cast_unsigned();
            Ok(Head { number, digest: Digest::from_bytes(row.get(1)?) })
        };
        let head = self.sql(self.statement(sql::HEAD)?.query_row([], read).optional())?;
        head.ok_or_else(|| self.damaged("the audit log is empty"))
    }

    /// One entry of the log, and the head after it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn entry(&self, number: u64) -> Result<(Entry, Digest), StoreError> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, [u8; 32]>(1)?));
        let found = self.sql(self.statement(sql::ENTRY)?.query_row([integer(number)], read).optional())?;
        let (bytes, head) =
            found.ok_or_else(|| self.damaged(format!("entry {number} of the audit log is missing")))?;
        let entry = json::read(&bytes).map_err(|error| {
            self.damaged(format!("entry {number} of the audit log cannot be read: {error}"))
        })?;
        Ok((entry, Digest::from_bytes(head)))
    }

    /// Where the log says what is signed for a duty: the number of the intent, and of the result.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn duty(&self, duty: DutyId) -> Result<Option<(u64, Option<u64>)>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| {
            let result = row.get::<_, Option<i64>>(1)?;
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), result.map(i64::cast_unsigned)))
        };
        self.sql(self.statement(sql::DUTY)?.query_row([duty.digest().as_bytes()], read).optional())
    }

    /// Gives each entry of the log from number `first` on to `each`: number, bytes, and the head that the file has for it.
    ///
    /// # Errors
    /// [`StoreError`], or what `each` gives.
    pub fn each_entry<E: From<StoreError>>(
        &self,
        first: u64,
        mut each: impl FnMut(u64, &[u8], Digest) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut statement = self.statement(sql::ENTRIES)?;
        let mut rows = self.sql(statement.query([first.cast_signed()]))?;
        while let Some(row) = self.sql(rows.next())? {
            let number: i64 = self.sql(row.get(0))?;
            let bytes = self.sql(row.get_ref(1).and_then(|value| Ok(value.as_blob()?)))?;
            let head = Digest::from_bytes(self.sql(row.get(2))?);
            each(number.cast_unsigned(), bytes, head)?;
        }
        Ok(())
    }

    /// Every duty with the numbers of its entries, in order of intent.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn duties(&self) -> Result<Vec<(Digest, u64, Option<u64>)>, StoreError> {
        let mut statement = self.statement(sql::DUTIES)?;
        let rows = statement.query_map([], |row| {
            let result = row.get::<_, Option<i64>>(2)?;
            Ok((
                Digest::from_bytes(row.get(0)?),
                row.get::<_, i64>(1)?.cast_unsigned(),
                result.map(i64::cast_unsigned),
            ))
        });
        self.sql(rows.and_then(Iterator::collect))
    }

    /// How far the log of each device was read, by its name and serial number: the number of the entry that says so, and
    /// the device's last entry.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn device_logs(&self) -> Result<DeviceLogs, StoreError> {
        let mut statement = self.statement(sql::DEVICE_LOGS)?;
        let rows = statement.query_map([], |row| {
            let mark = LogMark { item: row.get(3)?, digest: row.get(4)? };
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned(), mark))
        });
        let rows: Vec<_> = self.sql(rows.and_then(Iterator::collect))?;
        let read = rows.into_iter().map(|(device, serial, number, mark)| {
            let device = device.parse().map_err(|_| self.damaged("a row of `device_log` has no name"))?;
            Ok(((device, serial), (number, mark)))
        });
        read.collect()
    }

    /// Intents without a result, by their number.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open_intents(&self) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.statement(sql::OPEN_INTENTS)?;
        let rows = statement.query_map([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()));
        self.sql(rows.and_then(Iterator::collect))
    }

    /// What SQLite finds wrong with the file.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]
    pub fn check_integrity(&self) -> Result<(), StoreError> {
        let found: String = self.sql(self.connection.query_row(sql::INTEGRITY, [], |row| row.get(0)))?;
        if found == "ok" {
            return Ok(());
        }
        // Its first line names the database, of which there is one.
        let why = found.lines().find(|line| !line.starts_with("***")).unwrap_or(&found);
        Err(self.damaged(why))
    }
}

impl Store {
    fn statement(&self, query: &str) -> Result<CachedStatement<'_>, StoreError> {
        self.sql(self.connection.prepare_cached(query))
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::sqlite(&self.path, error))
    }

    fn damaged(&self, why: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), why: why.into() }
    }

    fn pragma(&self, name: &str, value: impl rusqlite::ToSql) -> Result<(), StoreError> {
        let set = self.connection.pragma_update_and_check(None, name, value, |_| Ok(()));
        self.sql(match set {
            // Some pragmas answer, some do not.
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
            set => set,
        })
    }
}

/// A number below 2^63, as SQLite has it.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
