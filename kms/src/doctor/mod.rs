//! `assent-kms doctor`: everything that the KMS needs, looked at one by one, with what to do about what is wrong.

mod certificate;
mod probed;

use std::time::{Duration, Instant};

use assent_consensus::digest::Digest;
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind};
use assent_consensus::time::UnixMillis;
use serde::Serialize;

use crate::config::{Config, DeviceConfig, DriverConfig};
use crate::daemon::{self, DaemonError};
use crate::device::{Device, DeviceError, DeviceKey, ObjectId, SLOW};
use crate::epoch::{self, EpochError};
use crate::life;
use crate::pins::KeyState;
use crate::store::{self, KeyRow, Store, StoreError};

pub use probed::{Probed, probe};

/// Signatures that are made to measure the rate.
const MEASURED: u32 = 100;
/// After how many columns a line is broken.
const WIDTH: usize = 100;
/// What to do about a key that the token does not hold.
const MISSING: &str =
    "restore the token from its backup; if there is none, replace the key by a `rotate-key` case";

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is as it should be.
    pub well: bool,
    /// What was seen; if it is not well, what to do.
    pub seen: String,
    /// What is soon to be done about it, although it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

impl Finding {
    /// For people: as many lines as it takes, the first with its mark.
    fn lines(&self) -> Vec<String> {
        let mark = match (self.well, &self.notice) {
            (false, _) => "WRONG",
            (true, Some(_)) => "SOON ",
            (true, None) => "ok   ",
        };
        let (mut lines, mut line) = (Vec::new(), format!("{mark}  {}:", self.what));
        let notice = self.notice.iter().map(|notice| format!("; {notice}")).collect::<String>();
        for word in format!("{}{notice}", self.seen).split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push(std::mem::replace(&mut line, " ".repeat(mark.len() + 1)));
            }
            line.push(' ');
            line.push_str(word);
        }
        lines.push(line);
        lines
    }
}

/// Looks at everything. What cannot be looked at because of something before is left out.
pub fn examine(config: &Config) -> Report {
    let mut report = Report { findings: Vec::new() };
    let directory = store::check_directory(&config.state_directory);
    let is_usable = !matches!(directory, Err(StoreError::Uninitialised { .. } | StoreError::ReadOnly { .. }));
    report.add("state directory", directory.map(|()| config.state_directory.display().to_string()));
    if !is_usable {
        // No PIN is tried without a place for its mark.
        return report;
    }
    let store = Store::open_reader(&config.state_directory).and_then(|store| {
        store.check_integrity()?;
        Ok(store)
    });
    let now = (daemon::system_clock())();
    let rows = store.as_ref().map(|store| keys_at(store, now));
    let (store, rows) = match (&store, rows) {
        (Ok(store), Ok(Ok(rows))) => (Some(store), rows),
        (Err(error), _) | (_, Err(error)) => {
            report.bad("database", error);
            (None, Vec::new())
        }
        (_, Ok(Err(error))) => {
            report.bad("database", &error);
            (None, Vec::new())
        }
    };
    if let Some(store) = store {
        let pinned = store.genesis().map(|bytes| match bytes {
            Some(bytes) => format!("pinned to {}", Digest::of(&bytes)),
            None => "not pinned yet: `assent-kms pin genesis.json` does that".into(),
        });
        report.add("database", pinned);
        match store.fence() {
            Ok(Some(fence)) => {
                let seen = format!(
                    "put back: what was opened before {fence} and is not on record needs `assent-kms release`"
                );
                report.good("fence".into(), seen);
            }
            Ok(None) => {}
            Err(error) => report.bad("fence", &error),
        }
    }
    if let Some(tls) = &config.tls {
        report.examine_tls(tls, now, config.expiry_notice);
    }
    for device in &config.devices {
        let rows: Vec<KeyRow> = rows.iter().filter(|row| row.device == device.name).cloned().collect();
        let (of, config, has_store) = (device.clone(), config.clone(), store.is_some());
        let examined = within(device, move || {
            let mut report = Report { findings: Vec::new() };
            let store = has_store.then(|| Store::open_reader(&config.state_directory).ok()).flatten();
            report.examine_device(&config, &of, store.as_ref(), &rows, now);
            report.findings
        });
        match examined {
            Ok(findings) => report.findings.extend(findings),
            Err(error) => report.bad(&format!("token `{}`", device.name), &error),
        }
    }
    let is_configured = |row: &KeyRow| config.devices.iter().any(|device| device.name == row.device);
    for row in rows.iter().filter(|row| row.state != KeyState::Destroyed && !is_configured(row)) {
        let what = format!("{}, version {}", row.name, row.version);
        let seen =
            format!("on the device `{}`, which the configuration does not have: put it back", row.device);
        report.bad(&what, &seen);
    }
    report
}

/// All keys, each in the state that it has now.
fn keys_at(store: &Store, now: UnixMillis) -> Result<Vec<KeyRow>, StoreError> {
    let (mut rows, successions) = (store.keys()?, store.successions()?);
    for row in &mut rows {
        row.state = life::state(row, successions.after(&row.name, row.version), now);
    }
    Ok(rows)
}

/// Does what a device may keep from ever coming to an end: then the thread is left to the end of the process.
///
/// # Errors
/// [`DeviceError::Gone`], if it takes too long.
fn within<T: Send + 'static>(
    device: &DeviceConfig,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DeviceError> {
    let limit = Duration::from_millis(device.call_timeout.get()) * SLOW;
    let (give, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || give.send(work()));
    result.recv_timeout(limit).map_err(|_| {
        DeviceError::Gone(format!("a call has not returned after {limit:?}; start the token's software anew"))
    })
}

/// The error, with what to do about it where it does not say so itself.
fn advised(error: &DaemonError) -> String {
    let advice = match error {
        DaemonError::Device(DeviceError::Gone(_)) => {
            "; see that it is connected and that its software runs, and look again"
        }
        DaemonError::Device(DeviceError::Full(_)) => "; end what else uses it, or configure fewer `sessions`",
        _ => "",
    };
    format!("{error}{advice}")
}

impl Report {
    fn examine_device(
        &mut self,
        config: &Config,
        of: &DeviceConfig,
        store: Option<&Store>,
        rows: &[KeyRow],
        now: UnixMillis,
    ) {
        let report = self;
        let token = format!("token `{}`", of.name);
        let device = daemon::driver(config, of, None).and_then(|driver| Ok((driver.connect()?, driver)));
        let (mut device, _driver) = match device {
            Ok(found) => found,
            Err(error) => return report.bad(&token, &advised(&error)),
        };
        let info = device.info().map(|info| {
        let limit = info.sessions_limit.map_or("no limit said".into(), |limit| format!("at most {limit}"));
        let open = info.sessions.map_or("an unknown number".into(), |open| open.to_string());
        format!(
            "`{}` (serial {}, {} {}, firmware {}), module {}; sessions: {open} open, {limit}, {} configured",
            info.label,
            info.serial,
            info.manufacturer,
            info.model,
            info.firmware,
            info.module,
            of.sessions
        )
    });
        report.add(&token, info);
        if let Some(store) = store {
            let identity = store.identity();
            let agreed = identity
                .and_then(|identity| Ok((identity, store.behind(&of.name)?)))
                .map_err(EpochError::from)
                .and_then(|(identity, behind)| {
                    epoch::agreed(&identity, behind, !rows.is_empty(), device.as_mut())
                });
            let is_another_token = matches!(agreed, Err(EpochError::OtherInstance | EpochError::NoMark));
            report.add(
                &format!("epoch on `{}`", of.name),
                agreed.map(|epoch| match epoch {
                    0 => "the token has no mark yet: it gets one when the daemon starts".into(),
                    epoch => format!("{epoch}, on token and database"),
                }),
            );
            if is_another_token {
                // What is or is not on it says nothing of our keys.
                return;
            }
        }
        let keys = match device.list() {
            Ok(keys) => keys,
            Err(error) => return report.bad(&format!("keys on `{}`", of.name), &error),
        };
        for row in rows {
            let key = keys.iter().find(|key| key.object == row.object && key.has_private);
            let what = format!("{}, version {}", row.name, row.version);
            let is_same = |key: &DeviceKey| key.public_key.as_ref() == Some(row.public_key.public_key());
            match (row.state, key) {
            (KeyState::Suspended, _) => report.bad(
                &what,
                &"suspended: find out why from the log, then `assent-kms key resume` or `assent-kms key compromised`",
            ),
            (KeyState::Destroyed, None) => report.good(what, "destroyed".into()),
            (state, Some(key)) if is_same(key) => {
                let origin = if row.is_adopted { "; taken over, not generated by this KMS" } else { "" };
                let seen = format!("{state}, on the token as in the table{origin}");
                let notice = life::notice(row, state, now, config.expiry_notice);
                report.findings.push(Finding { what, well: true, seen, notice });
            }
            (state, Some(_)) => report.bad(&what, &format!("{state} in the table, and another key is in its place on the token: {MISSING}")),
            (state, None) => report.bad(
                &what,
                &format!("{state} in the table, and not on the token: {MISSING}"),
            ),
        }
        }
        let is_strange = |key: &&DeviceKey| {
            // Without a table nobody can tell.
            store.is_some() && key.has_private && !rows.iter().any(|row| row.object == key.object)
        };
        for key in keys.iter().filter(is_strange) {
            let seen = "on the token and not in the table: left by a creation that was cut short, or another program's";
            report.good(format!("key with CKA_ID {}", key.object), seen.into());
        }
        match of.driver {
            DriverConfig::Pkcs11 { .. } => report.measure(&of.name, device.as_mut()),
            // The daemon would find in the device's log what it did not send, and raise an alarm.
            DriverConfig::YubiHsm { .. } => {}
        }
    }

    /// Whether all is well.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.well)
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        self.findings.iter().flat_map(Finding::lines).collect()
    }

    /// How fast the token signs with one session: with a key that is made for it and destroyed, since a key of the table
    /// signs nothing that is not in the audit log.
    fn measure(&mut self, name: &Name, device: &mut dyn Device) {
        let mut measured = || {
            let (object, _) =
                device.generate(&format!("assent-doctor-{}", ObjectId::random()?), KeyKind::P256)?;
            let algorithm = Algorithm::ES256;
            let digest = algorithm.digest(b"assent-kms doctor measures how fast the token signs");
            let begun = Instant::now();
            let signed = (0..MEASURED).try_for_each(|_| device.sign(object, algorithm, &digest).map(drop));
            let rate = f64::from(MEASURED) / begun.elapsed().as_secs_f64();
            device.destroy(object)?;
            signed.map(|()| format!("{rate:.0} a second with one session"))
        };
        let measured: Result<String, DeviceError> = measured();
        self.add(&format!("signature rate of `{name}`"), measured);
    }

    fn add<E: std::fmt::Display>(&mut self, what: &str, seen: Result<String, E>) {
        match seen {
            Ok(seen) => self.good(what.into(), seen),
            Err(error) => self.bad(what, &error),
        }
    }

    fn good(&mut self, what: String, seen: String) {
        self.findings.push(Finding { what, well: true, seen, notice: None });
    }

    fn bad(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.findings.push(Finding { what: what.into(), well: false, seen: why.to_string(), notice: None });
    }
}
