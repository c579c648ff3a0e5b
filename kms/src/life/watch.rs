//! Watching over keys: what has become of them is put on record, and what is about to is announced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assent_consensus::message::KeyVersion;
use assent_consensus::time::{Millis, UnixMillis};

use super::record;
use crate::announced::Announced;
use crate::moment::Moment;
use crate::pins::{KeyState, Pins};
use crate::reload::InForce;
use crate::signing::{Clock, KeyName};
use crate::store::{KeyRow, Store, StoreError, Writer};

/// How often it is looked what has become of keys. Their state does not wait for that, only its entry in the log.
const LOOK: Duration = Duration::from_secs(10);
/// Seconds.
const DAY: u64 = 24 * 3_600;
/// From how many hundredths of its uses on a key is soon used up.
const SOON_USED_UP: u64 = 90;

/// What is soon to become of a key, and what to do about it: it is deactivated within `notice`, or 90 % of its uses are
/// gone.
pub fn notice(row: &KeyRow, state: KeyState, now: UnixMillis, notice: Millis) -> Option<String> {
    if !matches!(state, KeyState::PreActivation | KeyState::Active | KeyState::Suspended) {
        return None;
    }
    let date = row.limits.deactivates.filter(|date| *date <= now.after(notice)).map(|date| {
        let left = date.get().saturating_sub(now.get()) / 1_000;
        // In whole days, or in whole minutes on the last one.
        let left = left - left % if left < DAY { 60 } else { DAY };
        let left = humantime::format_duration(Duration::from_secs(left));
        format!("is to be deactivated at {}, in {left}", Moment(date))
    });
    let uses = row
        .limits
        .uses
        .map(|uses| uses.get())
        .filter(|uses| u128::from(row.used) * 100 >= u128::from(*uses) * u128::from(SOON_USED_UP));
    let uses = uses.map(|uses| format!("has {} of {uses} uses left", uses.saturating_sub(row.used)));
    let soon = match (date, uses) {
        (None, None) => return None,
        (Some(one), None) | (None, Some(one)) => one,
        (Some(date), Some(uses)) => format!("{date}, and {uses}"),
    };
    Some(format!("{soon}: approve a `rotate-key` case before that"))
}

/// Looks after keys for as long as the daemon runs: announces what is soon to become of them, by the settings in force.
pub async fn keep_watch(
    writer: Arc<Writer>,
    pins: Pins,
    directory: PathBuf,
    clock: Clock,
    settings: InForce,
) {
    let mut announced = Announced::default();
    loop {
        if let Err(error) = look(&writer, &pins, &directory, clock()).await {
            tracing::error!(%error, "what became of keys is not on record; it is tried again");
        }
        let before = settings.borrow().expiry_notice;
        announce(&pins, clock(), before, &mut announced);
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts on record what has become of keys.
pub(crate) async fn look(
    writer: &Writer,
    pins: &Pins,
    directory: &Path,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let has_moved = |row: &KeyRow| pins.state_at(row, now) != row.state;
    if !pins.keys().iter().any(has_moved) {
        return Ok(());
    }
    let write = writer.write(move |batch| {
        let mut moved = Vec::new();
        // From the file: it may be on record already.
        for row in batch.store().keys()? {
            let state = record(batch, &row, now)?;
            if state != row.state {
                moved.push((row.name, row.version, state));
            }
        }
        Ok(moved)
    });
    for (key, version, state) in write.await? {
        tracing::warn!(alarm = true, %key, %version, "the key is now {state}");
    }
    let (pins, directory) = (pins.clone(), directory.to_owned());
    let reload = move || pins.reload(&Store::open_reader(&directory)?);
    tokio::task::spawn_blocking(reload).await.map_err(|_| StoreError::Busy)?
}

fn announce(pins: &Pins, now: UnixMillis, before: Millis, announced: &mut Announced<(KeyName, KeyVersion)>) {
    for row in pins.keys() {
        let Some(soon) = notice(&row, pins.state_at(&row, now), now, before) else { continue };
        let (key, version) = (row.name, row.version);
        if announced.is_due((key.clone(), version), now) {
            tracing::warn!(%key, %version, "the key {soon}");
        }
    }
}
