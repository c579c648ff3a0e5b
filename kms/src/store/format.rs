//! Which program made the file: one of ours, of this version, of an earlier one, or of a later one.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rusqlite::OpenFlags;

use super::{FILE, Store, StoreError, sql};

/// `PRAGMA user_version` after all migrations.
pub(super) const FORMAT: i64 = sql::MIGRATIONS.len() as i64;

impl Store {
    /// Brings the file of an earlier program up to this one's format, whole or not at all. The caller holds the
    /// [`DirectoryLock`](super::DirectoryLock).
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn migrate(directory: &Path) -> Result<(), StoreError> {
        let path = directory.join(FILE);
        if !recognise(&path)? {
            return Err(StoreError::Uninitialised { path: directory.to_owned() });
        }
        let store = Store::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let found = match store.check_format() {
            Err(StoreError::TooOld { found, .. }) => found,
            checked => return checked,
        };
        let missing = usize::try_from(found).ok().and_then(|found| sql::MIGRATIONS.get(found..));
        let missing = missing.ok_or_else(|| store.damaged("its format has a number that is none"))?;
        store.pragma("synchronous", "full")?;
        let transaction = store.sql(store.connection.unchecked_transaction())?;
        for migration in missing {
            store.sql(store.connection.execute_batch(migration))?;
        }
        store.pragma("user_version", FORMAT)?;
        store.sql(transaction.commit())?;
        tracing::info!(from = found, to = FORMAT, "the database was brought up to this program's format");
        Ok(())
    }

    pub(super) fn check_format(&self) -> Result<(), StoreError> {
        let read =
            |name| self.sql(self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        if read("application_id")? != sql::APPLICATION_ID {
            return Err(StoreError::Foreign {
                path: self.path.clone(),
                why: "an SQLite file of another program",
            });
        }
        match read("user_version")? {
            FORMAT => Ok(()),
            found if found < FORMAT => {
                Err(StoreError::TooOld { path: self.path.clone(), found, known: FORMAT })
            }
            found => Err(StoreError::TooNew { path: self.path.clone(), found, known: FORMAT }),
        }
    }
}

/// Whether there is a file, after a look that never writes: a file that is there and is no SQLite file is refused.
pub(super) fn recognise(path: &Path) -> Result<bool, StoreError> {
    let foreign = |why| Err(StoreError::Foreign { path: path.to_owned(), why });
    let failed = |error: std::io::Error| StoreError::Failed { path: path.to_owned(), why: error.to_string() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let mut magic = [0; 16];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"SQLite format 3\0" => Ok(true),
        Ok(()) => foreign("not an SQLite file"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => foreign("empty or cut off"),
        Err(error) => Err(failed(error)),
    }
}
