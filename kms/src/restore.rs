//! `assent-kms backup` and `restore`: a copy of the database, and the way back onto a token that holds its keys.
//!
//! A backup holds no private key in the plain. Those of a device with a wrap key are in it, wrapped by that device; all others
//! are copied by the makers' means. It is put back like this, and the state directory has a file only when all of it is done:
//!
//! ```text
//! copy ─▶ audit log verified ─▶ keys on the token, each tried ─▶ fence ─▶ epoch past the token's ─▶ in its place
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assent_consensus::digest::{Digest, Tuple};
use assent_consensus::json::{self, Integer};
use assent_consensus::time::UnixMillis;
use serde::Serialize;

use crate::admin::{NamedKey, WrappedKey};
use crate::audit::{self, AuditError, Entry, LoggedKey};
use crate::config::{Config, DeviceConfig};
use crate::daemon::{self, DaemonError};
use crate::device::yubihsm::LogKeeper;
use crate::device::{DeviceError, Devices};
use crate::device_log::DeviceLog;
use crate::duty::AHEAD;
use crate::epoch::{self, EpochError};
use crate::pins::{KeyState, Pins};
use crate::presence::{self, Difference};
use crate::store::{self, Batch, DirectoryLock, FILE, Identity, KeyRow, Store, StoreError, Writer};
use crate::trial::Trial;
use crate::whole_file;

/// Where a database is made ready, in the state directory.
const STAGING: &str = "restoring";
/// The wrapped keys of a backup, beside the database.
const WRAPPED_FILE: &str = "wrapped-keys.json";

/// A backup that was made.
#[derive(Clone, Debug, Serialize)]
pub struct BackedUp {
    /// The copy of the database.
    pub database: PathBuf,
    /// How many entries its audit log has.
    pub entries: u64,
    /// The audit log's head.
    pub head: Digest,
    /// How many keys are beside it, wrapped by their devices.
    pub wrapped: usize,
}

/// A database that was put back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The epoch that token and database have now.
    pub epoch: u64,
    /// When the backup's last entry was written.
    pub last_entry: UnixMillis,
    /// Of requests that were opened before, only what is on record is signed again.
    pub fence: UnixMillis,
    /// The keys that were brought back onto their device from wrapped copies.
    pub imported: Vec<String>,
    /// The keys that have signed a digest, each seen to fit its public half.
    pub tried: Vec<String>,
    /// The keys that sign nothing until a person resumes them, such as all of a device whose own log does not go on where
    /// the backup ends.
    pub suspended: Vec<String>,
}

/// Why there is no backup, or nothing was put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The database, its directory, a device or a PIN.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A file.
    #[error("`{}` cannot be used: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is a database.
    #[error(
        "there is a database in `{}` already, and it may know more than the backup: if it does not, move `{FILE}` and \
         everything that begins with this name elsewhere, and try again",
        path.display()
    )]
    InTheWay {
        /// The state directory.
        path: PathBuf,
    },
    /// There is a backup.
    #[error(
        "there is a backup in `{}` already, and none is written over: give another directory with `--out`, or move that one \
         elsewhere",
        path.display()
    )]
    BackupInTheWay {
        /// Its directory.
        path: PathBuf,
    },
    /// A log that was changed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another token.
    #[error("nothing was put back, since this is not a token with the backup's keys:\n{}", .0.join("\n"))]
    Keys(Vec<String>),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> RestoreError {
        DaemonError::from(error).into()
    }
}

impl From<DeviceError> for RestoreError {
    fn from(error: DeviceError) -> RestoreError {
        DaemonError::from(error).into()
    }
}

impl From<EpochError> for RestoreError {
    fn from(error: EpochError) -> RestoreError {
        DaemonError::from(error).into()
    }
}

/// A directory for a backup, in which there was none.
#[derive(Debug)]
pub struct BackupDirectory(PathBuf);

impl BackupDirectory {
    /// Makes the directory if it is not there, for this user alone. To be done before a key leaves its device.
    ///
    /// # Errors
    /// [`RestoreError::BackupInTheWay`]; [`RestoreError::Daemon`], if it cannot be made or is open to others.
    pub fn make(directory: &Path) -> Result<BackupDirectory, RestoreError> {
        if [FILE, WRAPPED_FILE].iter().any(|file| directory.join(file).symlink_metadata().is_ok()) {
            return Err(RestoreError::BackupInTheWay { path: directory.to_owned() });
        }
        store::make_directory(directory)?;
        Ok(BackupDirectory(directory.to_owned()))
    }

    /// Copies the database into it, also while the daemon runs, with keys that their devices wrapped beside it.
    ///
    /// # Errors
    /// [`RestoreError`]
    pub fn back_up(self, config: &Config, wrapped: &[WrappedKey]) -> Result<BackedUp, RestoreError> {
        let BackupDirectory(directory) = self;
        let database = directory.join(FILE);
        Store::copy(&config.state_directory, &database)?;
        if !wrapped.is_empty() {
            let path = directory.join(WRAPPED_FILE);
            whole_file::replace(&path, &json::write(&wrapped)).map_err(failed(&path))?;
        }
        let head = Store::open_reader(&directory)?.head()?;
        Ok(BackedUp { database, entries: head.number, head: head.digest, wrapped: wrapped.len() })
    }
}

/// Puts the database in the directory `from`, which is a backup or a copied state directory, into the state directory, where
/// there must be none, and behind a fence. The token's mark is made its own, so that no other copy of it starts.
///
/// # Errors
/// [`RestoreError`]; the state directory has no database then, as before.
pub async fn restore(config: &Config, from: &Path) -> Result<Restored, RestoreError> {
    let directory = &config.state_directory;
    store::make_directory(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let place = directory.join(FILE);
    if place.symlink_metadata().is_ok() {
        return Err(RestoreError::InTheWay { path: directory.clone() });
    }
    let staging = stage(directory, from)?;
    Store::migrate(&staging)?;
    let reader = Store::open_reader(&staging)?;
    audit::verify(&reader, &[])?;
    let (last, _) = reader.entry(reader.head()?.number)?;

    let (identity, pins) = (reader.identity()?, Pins::load(&reader)?);
    let writer = Arc::new(Writer::start(&staging, pins.clone())?);
    let clock = daemon::system_clock();
    let keeper = |device: &DeviceConfig| -> Option<Arc<dyn LogKeeper>> {
        let (name, directory) = (device.name.clone(), staging.clone());
        Some(Arc::new(DeviceLog::new(name, directory, pins.clone(), writer.clone(), clock.clone())))
    };
    let devices = daemon::devices(config, |_| 1, keeper)?;
    let newest = newest_mark(&devices, &identity).await?;
    let imported = import_keys(&devices, &pins.keys(), &wrapped_keys(from)?).await?;
    check_keys(&devices, &pins.keys()).await?;
    let by = Integer::saturating(u64::from(rustix::process::geteuid().as_raw()));
    let tried = try_keys(&devices, &writer, &pins, &identity, clock(), by).await?;

    let suspended =
        pins.keys().into_iter().filter(|row| row.state == KeyState::Suspended).map(|row| named(&row));
    let suspended = suspended.collect();

    let at = clock();
    // As far as the last blocks may have been ahead of the clock.
    let fence = at.after(AHEAD);
    let names: Vec<_> = devices.iter().map(|(name, _)| name.clone()).collect();
    let put = move |batch: &mut Batch<'_>| {
        names.iter().try_for_each(|device| batch.set_abreast(device))?;
        batch.set_epoch(newest)?;
        batch.put_fence(fence)?;
        batch.append(&Entry::Restored { at, by, epoch: Integer::saturating(newest + 1), fence }).map(drop)
    };
    writer.write(put).await?;
    let epoch = epoch::advance(&writer, &devices, identity.instance, newest).await?;
    for (_, pool) in devices.iter() {
        pool.finish().await?;
    }

    let ready = directory.join(format!("{FILE}.new"));
    whole_file::remove(&ready).map_err(failed(&ready))?;
    Store::copy(&staging, &ready)?;
    fs::rename(&ready, &place).map_err(failed(&place))?;
    whole_file::sync_directory(directory).map_err(failed(directory))?;
    // What is left of it is removed by the next one at the latest.
    let _ = fs::remove_dir_all(&staging);
    Ok(Restored { epoch, last_entry: last.at(), fence, imported, tried, suspended })
}

/// Copies the database, with what is in its write-ahead log, into a directory of its own.
fn stage(directory: &Path, from: &Path) -> Result<PathBuf, RestoreError> {
    let staging = directory.join(STAGING);
    if staging.symlink_metadata().is_ok() {
        fs::remove_dir_all(&staging).map_err(failed(&staging))?;
    }
    store::make_directory(&staging)?;
    for name in [FILE.to_owned(), format!("{FILE}-wal")] {
        let path = from.join(&name);
        let copy = |mut from: File| io::copy(&mut from, &mut File::create(staging.join(&name))?).map(drop);
        match File::open(&path).and_then(copy) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != FILE => {}
            copied => copied.map_err(failed(&path))?,
        }
    }
    Ok(staging)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::File { path, why: error.to_string() }
}

/// The wrapped keys of a backup, if it has any.
fn wrapped_keys(from: &Path) -> Result<Vec<WrappedKey>, RestoreError> {
    let path = from.join(WRAPPED_FILE);
    match fs::read(&path) {
        Ok(bytes) => json::read(&bytes).map_err(io::Error::other).map_err(failed(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(&path)(error)),
    }
}

/// Brings keys that a device does not hold back onto it.
async fn import_keys(
    devices: &Devices,
    rows: &[KeyRow],
    wrapped: &[WrappedKey],
) -> Result<Vec<String>, RestoreError> {
    let mut imported = Vec::new();
    for row in rows.iter().filter(|row| row.state != KeyState::Destroyed) {
        let (pool, object) = (devices.get(&row.device)?, row.object);
        let key = NamedKey::new(&row.name, Some(row.version));
        let Some(copy) = wrapped.iter().find(|copy| copy.named == key && copy.device == row.device) else {
            continue;
        };
        if pool.run(move |device| device.public_key(object)).await?.is_some() {
            continue;
        }
        let bytes = copy.wrapped.0.clone();
        let found = pool.run(move |device| device.wrap_import(&bytes)).await?;
        let what = named(row);
        if found != object {
            let wrong =
                format!("the wrapped copy of {what} is of another key: it came as {found}, not as {object}");
            return Err(RestoreError::Keys(vec![wrong]));
        }
        imported.push(what);
    }
    Ok(imported)
}

/// The newest epoch that any of the devices, which must all be there, or the database knows.
async fn newest_mark(devices: &Devices, identity: &Identity) -> Result<u64, EpochError> {
    let mut newest = identity.epoch.max(identity.pending.unwrap_or(0));
    for (_, pool) in devices.iter() {
        let marks = pool.run(|device| device.epoch_marks()).await?;
        if marks.iter().any(|mark| mark.instance != identity.instance) {
            return Err(EpochError::OtherInstance);
        }
        newest = marks.iter().map(|mark| mark.epoch).fold(newest, u64::max);
    }
    Ok(newest)
}

fn named(row: &KeyRow) -> String {
    format!("version {} of {}", row.version, row.name)
}

/// Whether the tokens hold all keys that can sign.
async fn check_keys(devices: &Devices, rows: &[KeyRow]) -> Result<(), RestoreError> {
    let can_sign = |row: &&KeyRow| matches!(row.state, KeyState::Active | KeyState::Suspended);
    let rows: Vec<KeyRow> = rows.iter().filter(can_sign).cloned().collect();
    let wrong = |(row, difference): (KeyRow, Difference)| match difference {
        Difference::Missing => format!("`{}` does not hold {}", row.device, named(&row)),
        Difference::Other => format!("`{}` has another key in the place of {}", row.device, named(&row)),
        Difference::NoDevice => {
            format!("the configuration has no `{}`, which holds {}", row.device, named(&row))
        }
    };
    match presence::differences(devices, &rows).await?.into_iter().map(wrong).collect::<Vec<_>>() {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(RestoreError::Keys(wrong)),
    }
}

/// Tries each key that is in use.
async fn try_keys(
    devices: &Devices,
    writer: &Writer,
    pins: &Pins,
    identity: &Identity,
    at: UnixMillis,
    by: Integer,
) -> Result<Vec<String>, RestoreError> {
    let mut tried = Vec::new();
    for row in pins.keys().into_iter().filter(|row| row.state == KeyState::Active) {
        let logged = LoggedKey::new(&row.name, row.version);
        let digest = Tuple::new("assent-restore-v1")
            .bytes(&identity.instance)
            .bytes(row.object.as_bytes())
            .bytes(row.public_key.thumbprint().as_bytes())
            .hash();
        tried.push(named(&row));
        let pool = devices.get(&row.device)?;
        let trial = Trial { logged, device: row.device, object: row.object, key: row.public_key, digest, by };
        trial.run(pool, writer, at).await??;
    }
    Ok(tried)
}
