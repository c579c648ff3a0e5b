//! What the log of a device says, in the audit log: every entry that is a use is one that this KMS sent, or a finding.
//!
//! ```text
//! YubiHSM's log ─ read, compared ─▶ LogReport ─▶ DeviceLog: one transaction ─▶ acknowledged to the device
//!                                                  ├─ entry `device-log`: what is ours one by one, and the findings
//!                                                  ├─ where the device's log was read to
//!                                                  └─ keys that somebody else used, suspended
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use assent_consensus::encoding::Bytes;
use assent_consensus::json::{self, Integer};
use assent_consensus::name::Name;

use crate::audit::{DeviceUse, Entry, LoggedKey, shortened};
use crate::device::ObjectId;
use crate::device::yubihsm::log::{Finding, LogEntry};
use crate::device::yubihsm::{self, LogKeeper, LogReport, LogResume};
use crate::pins::{KeyState, Pins};
use crate::signing::Clock;
use crate::store::{Batch, KeyRow, Store, StoreError, Writer};

/// Puts what the log of one device says into the audit log.
pub struct DeviceLog {
    device: Name,
    directory: PathBuf,
    pins: Pins,
    writer: Arc<Writer>,
    clock: Clock,
}

impl DeviceLog {
    /// For the device of this name; the database is in `directory`.
    pub fn new(device: Name, directory: PathBuf, pins: Pins, writer: Arc<Writer>, clock: Clock) -> DeviceLog {
        DeviceLog { device, directory, pins, writer, clock }
    }

    /// The object of the key that an intent is about, if this device holds it.
    fn object_of(&self, entry: Entry) -> Option<ObjectId> {
        let order = entry.into_order()?;
        let row = self.pins.key_row(&order.key, order.version)?;
        (row.device == self.device).then_some(row.object)
    }

    /// In memory, and at once: what is suspected signs nothing even if that cannot be written.
    fn suspend_at_once(&self, findings: &[Finding]) {
        let rows = self.pins.keys();
        for (row, to, _) in suspects(&rows, &self.device, findings) {
            self.pins.set_key_state(&row.name, row.version, to);
        }
    }

    fn alarm(&self, report: &LogReport) {
        for finding in &report.findings {
            match finding.is_alarm() {
                true => {
                    tracing::error!(alarm = true, device = %self.device, serial = report.serial, %finding, "the device's log")
                }
                false => {
                    tracing::warn!(device = %self.device, serial = report.serial, %finding, "the device's log")
                }
            }
        }
    }
}

impl LogKeeper for DeviceLog {
    fn resume(&self, serial: &str) -> Result<LogResume, String> {
        let read = || -> Result<LogResume, StoreError> {
            let store = Store::open_reader(&self.directory)?;
            let place = (self.device.clone(), serial.to_owned());
            let Some((number, mark)) = store.device_logs()?.remove(&place) else {
                return Ok(LogResume::default());
            };
            let mut intents = store.open_intents()?;
            let mut signed_with = Vec::new();
            store.each_entry(number + 1, |_, bytes, _| {
                match json::read(bytes) {
                    // Signed after the reading, or while it was under way.
                    Ok(Entry::Result { intent, .. }) => intents.push(intent.get()),
                    Ok(entry) => signed_with.extend(self.object_of(entry)),
                    // One that cannot be read is for `audit verify` to find.
                    Err(_) => {}
                }
                Ok::<(), StoreError>(())
            })?;
            intents.retain(|intent| *intent <= number);
            for intent in intents {
                signed_with.extend(self.object_of(store.entry(intent)?.0));
            }
            Ok(LogResume { mark: Some(mark), signed_with })
        };
        read().map_err(|error| error.to_string())
    }

    fn keep(&self, report: &LogReport) -> Result<(), String> {
        self.alarm(report);
        self.suspend_at_once(&report.findings);
        let at = (self.clock)();
        let entry = Entry::DeviceLog {
            at,
            device: self.device.clone(),
            serial: report.serial.clone(),
            entries: Integer::saturating(u64::from(report.entries)),
            last: integer(report.last.item),
            digest: Bytes(report.last.digest.to_vec()),
            ours: report.matched.iter().map(device_use).collect(),
            findings: report.findings.iter().map(|finding| shortened(&finding.to_string())).collect(),
        };
        let (device, serial, mark) = (self.device.clone(), report.serial.clone(), report.last);
        let findings = report.findings.clone();
        let write = move |batch: &mut Batch<'_>| {
            let number = batch.append(&entry)?.number;
            batch.set_device_log(&device, &serial, number, mark)?;
            let (rows, mut suspended) = (batch.store().keys()?, Vec::new());
            for (row, to, finding) in suspects(&rows, &device, &findings) {
                batch.set_key_state(&row.name, row.version, to, at)?;
                batch.append(&Entry::KeyState {
                    at,
                    by: None,
                    key: LoggedKey::new(&row.name, row.version),
                    from: row.state.to_string(),
                    to: to.to_string(),
                    why: shortened(&finding.to_string()),
                })?;
                suspended.push((row.name.clone(), row.version, to));
            }
            Ok(suspended)
        };
        let suspended = self.writer.write_blocking(write).map_err(|error| error.to_string())?;
        for (key, version, state) in suspended {
            tracing::error!(
                alarm = true, %key, %version, device = %self.device,
                "the key is {state}: somebody else used it, or may have"
            );
        }
        // Once more: the pins may have been read from the file meanwhile.
        self.suspend_at_once(&report.findings);
        Ok(())
    }
}

/// Keys of a device that could sign, what becomes of them, and the finding for which they must not.
fn suspects<'r>(
    rows: &'r [KeyRow],
    device: &Name,
    findings: &'r [Finding],
) -> Vec<(&'r KeyRow, KeyState, &'r Finding)> {
    let suspect = |row: &'r KeyRow| {
        let to = row.state.under_suspicion()?;
        let number = yubihsm::object_number(&row.object)?;
        let finding = findings.iter().find(|finding| finding.suspects(number))?;
        Some((row, to, finding))
    };
    rows.iter().filter(|row| row.device == *device).filter_map(suspect).collect()
}

fn device_use(entry: &LogEntry) -> DeviceUse {
    DeviceUse {
        item: integer(entry.item),
        command: integer(entry.command.into()),
        object: integer(entry.target),
    }
}

fn integer(number: u16) -> Integer {
    Integer::saturating(number.into())
}

#[cfg(test)]
mod tests;
