//! The mark on the token that goes with the database: a restored copy of an older database is seen, and not used.
//!
//! The token holds `{instance, epoch}`, equal to the database's. It is advanced in three steps, each on disk before the
//! next: the database says which epoch is pending; the token gets it; the database has it. A crash between two of them
//! leaves a pair that the next start can tell from a rolled-back one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assent_consensus::name::Name;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::device::{Device, DeviceError, Devices, EpochMark, Pool};
use crate::pins::{KeyState, Pins};
use crate::reload::InForce;
use crate::store::{Batch, Identity, KeyRow, Store, StoreError, Writer};

/// Why token and database do not go together, or the epoch was not advanced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// The token is another KMS's.
    #[error(
        "the token belongs to another KMS (a data object `assent-kms-epoch` of another instance is on it): connect this \
         KMS's token, or put this KMS's own database back; each KMS has a token of its own"
    )]
    OtherInstance,
    /// The token has no mark.
    #[error(
        "the token has no mark of this KMS, though it should: it is another token with the same name, or it was initialised \
         anew; connect the right one, or restore it from its backup"
    )]
    NoMark,
    /// One of them is older.
    #[error(
        "the database is of epoch {database} and the token of {token}: the {} was put back to an older state, and signing \
         could say two things; put back the newest copy of the {} that there is, or if this is the newest: `assent-kms restore`",
        older(*database, *token),
        older(*database, *token)
    )]
    RolledBack {
        /// The database's epoch.
        database: u64,
        /// The token's.
        token: u64,
    },
    /// Another process uses a copy of the database.
    #[error(
        "the token's mark is of epoch {token}, and this KMS has put {ours} there: another KMS runs on a copy of this \
         database, and this one stops, since the two could sign different things; find out which of the two is to stay, \
         stop the other one for good, and if this one is to stay: `assent-kms restore`"
    )]
    Overtaken {
        /// The epoch that this process has put on the token.
        ours: u64,
        /// The one that is there.
        token: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which of the two is the older one.
fn older(database: u64, token: u64) -> &'static str {
    if database < token { "database" } else { "token" }
}

/// The epoch that a token and the database agree on, after a look at both; 0 for a token that has no mark and needs none
/// yet, because the database is new or none of its keys is there. `behind` is the earliest epoch that it may be of, if it
/// was not there when the epoch was advanced.
///
/// # Errors
/// [`EpochError`]
pub fn agreed(
    identity: &Identity,
    behind: Option<u64>,
    holds_keys: bool,
    device: &mut dyn Device,
) -> Result<u64, EpochError> {
    let marks = device.epoch_marks()?;
    if marks.iter().any(|mark| mark.instance != identity.instance) {
        return Err(EpochError::OtherInstance);
    }
    let newest = identity.pending.unwrap_or(identity.epoch).max(identity.epoch);
    let legal = |epoch: u64| {
        let is_behind = behind.is_some_and(|earliest| (earliest..=newest).contains(&epoch));
        epoch == identity.epoch || Some(epoch) == identity.pending || is_behind
    };
    match marks.iter().map(|mark| mark.epoch).max() {
        None if identity.epoch == 0 || !holds_keys => Ok(0),
        None => Err(EpochError::NoMark),
        Some(epoch) if legal(epoch) && epoch > 0 => Ok(epoch),
        Some(token) => Err(EpochError::RolledBack { database: identity.epoch, token }),
    }
}

/// The same for a device behind its pool.
///
/// # Errors
/// [`EpochError`]
pub async fn agreed_with(
    pool: &Pool,
    identity: Identity,
    behind: Option<u64>,
    holds_keys: bool,
) -> Result<u64, EpochError> {
    // What is wrong with the epoch is no failure of the device.
    let agreed = pool.run(move |device| match agreed(&identity, behind, holds_keys, device) {
        Err(EpochError::Device(error)) => Err(error),
        agreed => Ok(agreed),
    });
    agreed.await?
}

/// Whether keys of the table are on a device.
pub fn holds_keys(device: &Name, rows: &[KeyRow]) -> bool {
    rows.iter().any(|row| row.device == *device && row.state != KeyState::Destroyed)
}

/// Advances the epoch from the one that was agreed on, on every device that is there. One that is absent, or fails, is
/// behind from then on, and the database says so.
///
/// # Errors
/// [`EpochError`]; that of a device only if none has the new epoch.
pub async fn advance(
    writer: &Writer,
    devices: &Devices,
    instance: [u8; 16],
    from: u64,
) -> Result<u64, EpochError> {
    let _turn = devices.marking().await;
    let epoch = from + 1;
    let absent: Vec<Name> = devices.absent().cloned().collect();
    let pending = move |batch: &mut Batch<'_>| {
        batch.set_epoch(from)?;
        absent.iter().try_for_each(|device| batch.set_behind(device, from))?;
        batch.set_pending(epoch)
    };
    writer.write(pending).await?;
    let (mut abreast, mut failed) = (Vec::new(), Vec::new());
    for (name, pool) in devices.present() {
        match pool.run(move |device| device.put_epoch_mark(EpochMark { instance, epoch })).await {
            Ok(()) => abreast.push(name.clone()),
            Err(error) => failed.push((name.clone(), error)),
        }
    }
    if abreast.is_empty()
        && let Some((_, error)) = failed.pop()
    {
        return Err(error.into());
    }
    for (device, error) in &failed {
        tracing::error!(%device, %error, "the device is an epoch behind: it gets a mark with the next one");
    }
    let behind: Vec<Name> = failed.into_iter().map(|(device, _)| device).collect();
    let advanced = move |batch: &mut Batch<'_>| {
        abreast.iter().try_for_each(|device| batch.set_abreast(device))?;
        behind.iter().try_for_each(|device| batch.set_behind(device, from))?;
        batch.set_epoch(epoch)
    };
    writer.write(advanced).await?;
    Ok(epoch)
}

/// Keeps the epoch of a running KMS.
pub struct Keeping {
    /// The database.
    pub writer: Arc<Writer>,
    /// The devices with the marks.
    pub devices: Arc<Devices>,
    /// The database's instance.
    pub instance: [u8; 16],
    /// The epoch that this process has put on the devices.
    pub epoch: u64,
    /// The devices whose marks are looked at from time to time; the others keep a log that shows who else uses them.
    pub looked_at: Vec<Name>,
    /// How often, and after how many signatures the epoch is advanced.
    pub settings: InForce,
}

impl Keeping {
    /// Advances the epoch whenever enough was signed, and looks in between whether another process did. A token that cannot
    /// be written, or read, is no reason to stop signing; it is tried again.
    ///
    /// Ends with [`EpochError::Overtaken`] alone.
    pub async fn keep(mut self, mut due: tokio::sync::mpsc::Receiver<()>) -> EpochError {
        let mut looks = self.looks();
        // An advance that failed may have put its mark on a token nevertheless.
        let mut newest = self.epoch;
        loop {
            let is_due = tokio::select! {
                Some(()) = due.recv() => true,
                _ = looks.tick() => false,
                Ok(()) = self.settings.changed() => {
                    looks = self.looks();
                    continue;
                }
            };
            let names: Vec<Name> = match is_due {
                true => self.devices.iter().map(|(name, _)| name.clone()).collect(),
                false => self.looked_at.clone(),
            };
            if let Some(token) = self.found_newer(&names, newest).await {
                return EpochError::Overtaken { ours: self.epoch, token };
            }
            if !is_due {
                continue;
            }
            newest = self.epoch + 1;
            match advance(&self.writer, &self.devices, self.instance, self.epoch).await {
                Ok(next) => self.epoch = next,
                Err(error) => {
                    tracing::error!(%error, "the epoch was not advanced; it is tried again after more signatures")
                }
            }
        }
    }

    fn looks(&self) -> Interval {
        let mut looks = interval(Duration::from_millis(self.settings.borrow().epoch_look.get()));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }

    /// An epoch on one of these devices that is newer than any that this process may have put there.
    async fn found_newer(&self, names: &[Name], newest: u64) -> Option<u64> {
        let instance = self.instance;
        for (_, pool) in self.devices.present().filter(|(name, _)| names.contains(name)) {
            let Ok(marks) = pool.run(|device| device.epoch_marks()).await else { continue };
            let ours = marks.iter().filter(|mark| mark.instance == instance).map(|mark| mark.epoch);
            if let Some(token) = ours.max().filter(|epoch| *epoch > newest) {
                return Some(token);
            }
        }
        None
    }
}

/// How often a device is looked for that was absent.
const LOOK: Duration = Duration::from_secs(2);

/// Takes absent devices up again as they come back, until none is absent. One whose mark is wrong stays absent: a person has
/// to look at it, and to start the KMS again.
pub async fn take_up_absent(writer: Arc<Writer>, devices: Arc<Devices>, directory: PathBuf, pins: Pins) {
    let mut looked_for: Vec<Name> = devices.absent().cloned().collect();
    while !looked_for.is_empty() {
        tokio::time::sleep(LOOK).await;
        let mut still = Vec::new();
        for name in looked_for {
            match take_up(&writer, &devices, &directory, &pins, &name).await {
                Ok(()) => tracing::info!(device = %name, "the device is there again"),
                Err(EpochError::Device(_)) => still.push(name),
                Err(error) => {
                    tracing::error!(alarm = true, device = %name, %error, "the device stays unused");
                }
            }
        }
        looked_for = still;
    }
}

async fn take_up(
    writer: &Writer,
    devices: &Devices,
    directory: &Path,
    pins: &Pins,
    name: &Name,
) -> Result<(), EpochError> {
    let _turn = devices.marking().await;
    let (identity, behind) = {
        let store = Store::open_reader(directory)?;
        (store.identity()?, store.behind(name)?)
    };
    let Some((_, pool)) = devices.iter().find(|(known, _)| *known == name) else { return Ok(()) };
    let epoch = agreed_with(pool, identity, behind, holds_keys(name, &pins.keys())).await?;
    if epoch < identity.epoch {
        let mark = EpochMark { instance: identity.instance, epoch: identity.epoch };
        pool.run(move |device| device.put_epoch_mark(mark)).await?;
    }
    let device = name.clone();
    writer.write(move |batch| batch.set_abreast(&device)).await?;
    devices.set_present(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use assent_consensus::time::Millis;

    use super::*;
    use crate::reload::Settings;
    use crate::testing::{MemoryToken, SmallKms, in_force, main_device};

    const OURS: [u8; 16] = [1; 16];

    fn seen(epoch: u64, pending: Option<u64>, marks: &[u64]) -> Result<u64, EpochError> {
        let mut token = MemoryToken::default();
        token.token().marks = marks.iter().map(|epoch| EpochMark { instance: OURS, epoch: *epoch }).collect();
        agreed(&Identity { instance: OURS, epoch, pending }, None, true, &mut token)
    }

    #[test]
    fn a_crash_at_any_step_leaves_a_pair_that_is_accepted() {
        assert_eq!(seen(0, None, &[]), Ok(0));
        assert_eq!(seen(0, Some(1), &[]), Ok(0));
        assert_eq!(seen(0, Some(1), &[1]), Ok(1));
        assert_eq!(seen(5, None, &[5]), Ok(5));
        assert_eq!(seen(5, Some(6), &[5]), Ok(5));
        assert_eq!(seen(5, Some(6), &[5, 6]), Ok(6));
        assert_eq!(seen(5, Some(6), &[6]), Ok(6));
    }

    #[test]
    fn a_database_or_a_token_that_was_put_back_is_found() {
        assert_eq!(seen(4, None, &[5]), Err(EpochError::RolledBack { database: 4, token: 5 }));
        assert_eq!(seen(4, Some(5), &[6]), Err(EpochError::RolledBack { database: 4, token: 6 }));
        assert_eq!(seen(5, None, &[4]), Err(EpochError::RolledBack { database: 5, token: 4 }));
        assert_eq!(seen(5, Some(6), &[4]), Err(EpochError::RolledBack { database: 5, token: 4 }));
        assert_eq!(seen(5, None, &[]), Err(EpochError::NoMark));
    }

    #[test]
    fn a_device_that_was_away_may_be_behind_and_no_further_than_it_was() {
        let identity = Identity { instance: OURS, epoch: 9, pending: Some(10) };
        for (mark, legal) in [(4, false), (5, true), (7, true), (9, true), (10, true), (11, false)] {
            let mut token = MemoryToken::default();
            token.token().marks = vec![EpochMark { instance: OURS, epoch: mark }];
            let agreed = agreed(&identity, Some(5), true, &mut token);
            assert_eq!(agreed.is_ok(), legal, "{mark}: {agreed:?}");
        }
    }

    #[test]
    fn a_token_without_a_mark_is_new_if_it_holds_no_key_of_the_database() {
        let identity = Identity { instance: OURS, epoch: 5, pending: None };
        assert_eq!(agreed(&identity, None, false, &mut MemoryToken::default()), Ok(0));
        assert_eq!(agreed(&identity, None, true, &mut MemoryToken::default()), Err(EpochError::NoMark));
    }

    #[test]
    fn a_token_of_another_kms_is_refused() {
        let mut token = MemoryToken::default();
        token.token().marks = vec![EpochMark { instance: [2; 16], epoch: 5 }];
        for epoch in [0, 5] {
            let identity = Identity { instance: OURS, epoch, pending: None };
            assert_eq!(agreed(&identity, None, true, &mut token), Err(EpochError::OtherInstance));
        }
    }

    #[tokio::test]
    async fn another_process_that_takes_the_token_is_seen_and_an_advance_of_ones_own_is_not() {
        let kms = SmallKms::new().await;
        let instance = kms.store().identity().expect("read").instance;
        let epoch = advance(&kms.writer, &kms.devices, instance, 0).await.expect("advanced");
        let keeping = |epoch| Keeping {
            writer: kms.writer.clone(),
            devices: kms.devices.clone(),
            instance,
            epoch,
            looked_at: vec![main_device()],
            settings: in_force(Settings { epoch_look: Millis::new(1), ..Settings::default() }),
        };
        let (bell, due) = tokio::sync::mpsc::channel(1);
        // It fails after the mark: that one is its own, and is not taken for another's.
        kms.token.token().fails_after_mark = true;
        let kept = tokio::spawn(keeping(epoch).keep(due));
        bell.send(()).await.expect("it listens");
        while !kms.token.token().marks.iter().any(|mark| mark.epoch == epoch + 1) {
            tokio::task::yield_now().await;
        }
        kms.token.token().fails_after_mark = false;
        bell.send(()).await.expect("it listens");
        while kms.store().identity().expect("read").epoch != epoch + 1 {
            tokio::task::yield_now().await;
        }
        assert!(!kept.is_finished());
        kms.token.token().marks = vec![EpochMark { instance, epoch: epoch + 2 }];
        let ended = kept.await.expect("it does not panic");
        assert_eq!(ended, EpochError::Overtaken { ours: epoch + 1, token: epoch + 2 });
    }

    #[tokio::test]
    async fn looks_that_are_to_come_sooner_do_so_at_once() {
        let kms = SmallKms::new().await;
        let instance = kms.store().identity().expect("read").instance;
        let epoch = advance(&kms.writer, &kms.devices, instance, 0).await.expect("advanced");
        let an_hour = Settings { epoch_look: Millis::from_secs(3_600), ..Settings::default() };
        let settings = tokio::sync::watch::Sender::new(an_hour);
        let keeping = Keeping {
            writer: kms.writer.clone(),
            devices: kms.devices.clone(),
            instance,
            epoch,
            looked_at: vec![main_device()],
            settings: settings.subscribe(),
        };
        // It counts the calls.
        kms.token.token().gone_after = Some(1_000);
        let (_bell, due) = tokio::sync::mpsc::channel(1);
        let kept = tokio::spawn(keeping.keep(due));
        let pool = kms.devices.get(&main_device()).expect("it is there");
        while kms.token.token().gone_after == Some(1_000) || pool.in_use().busy > 0 {
            tokio::task::yield_now().await;
        }
        kms.token.token().marks = vec![EpochMark { instance, epoch: epoch + 1 }];
        settings.send_modify(|settings| settings.epoch_look = Millis::new(1));
        let ended = tokio::time::timeout(Duration::from_secs(60), kept).await.expect("it looks again");
        assert_eq!(ended.expect("no panic"), EpochError::Overtaken { ours: epoch, token: epoch + 1 });
    }

    #[tokio::test]
    async fn advancing_that_fails_in_the_middle_can_be_done_again() {
        let kms = SmallKms::new().await;
        let instance = kms.store().identity().expect("read").instance;
        kms.token.token().fails_after_mark = true;
        advance(&kms.writer, &kms.devices, instance, 0).await.expect_err("the token failed");
        let kms = kms.restart();
        kms.token.token().fails_after_mark = false;
        let identity = kms.store().identity().expect("read");
        let epoch = agreed(&identity, None, true, &mut kms.token.clone()).expect("a legal pair");
        assert_eq!(advance(&kms.writer, &kms.devices, instance, epoch).await, Ok(2));
        let identity = kms.store().identity().expect("read");
        assert_eq!(identity, Identity { instance, epoch: 2, pending: None });
        assert_eq!(agreed(&identity, None, true, &mut kms.token.clone()), Ok(2));
    }
}
