//! The devices of a KMS, by name.

use std::sync::atomic::{AtomicBool, Ordering};

use assent_consensus::name::Name;
use tokio::sync::{Mutex, MutexGuard};

use super::{DeviceError, Pool};

/// Each device of the configuration behind its pool, in the configuration's order; at least one. One that did not answer
/// at the start is used only when its epoch mark has been looked at: see [`crate::epoch`].
pub struct Devices {
    first: Entry,
    others: Vec<Entry>,
    marking: Mutex<()>,
}

struct Entry {
    name: Name,
    pool: Pool,
    is_absent: AtomicBool,
}

impl Entry {
    fn new(name: Name, pool: Pool) -> Entry {
        Entry { name, pool, is_absent: AtomicBool::new(false) }
    }
}

impl Devices {
    /// One device.
    pub fn new(name: Name, pool: Pool) -> Devices {
        Devices { first: Entry::new(name, pool), others: Vec::new(), marking: Mutex::default() }
    }

    /// One more. Names are unique: the configuration was checked.
    pub fn push(&mut self, name: Name, pool: Pool) {
        self.others.push(Entry::new(name, pool));
    }

    /// The device on which keys are made unless another one is asked for.
    pub fn first(&self) -> &Name {
        &self.first.name
    }

    /// All of them, absent ones too.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Pool)> {
        self.entries().map(|entry| (&entry.name, &entry.pool))
    }

    /// Those that are not absent.
    pub fn present(&self) -> impl Iterator<Item = (&Name, &Pool)> {
        let present = self.entries().filter(|entry| !entry.is_absent.load(Ordering::Acquire));
        present.map(|entry| (&entry.name, &entry.pool))
    }

    /// The names of those that are absent.
    pub fn absent(&self) -> impl Iterator<Item = &Name> {
        let absent = self.entries().filter(|entry| entry.is_absent.load(Ordering::Acquire));
        absent.map(|entry| &entry.name)
    }

    /// Nothing is done with this device until it is [present](Devices::set_present).
    pub fn set_absent(&self, name: &Name) {
        self.set(name, true);
    }

    /// Its mark was looked at, and is right.
    pub fn set_present(&self, name: &Name) {
        self.set(name, false);
    }

    fn set(&self, name: &Name, is_absent: bool) {
        for entry in self.entries().filter(|entry| entry.name == *name) {
            entry.is_absent.store(is_absent, Ordering::Release);
        }
    }

    /// The right to change epoch marks, which one has at a time.
    pub async fn marking(&self) -> MutexGuard<'_, ()> {
        self.marking.lock().await
    }

    /// A device by its name.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the configuration has none of this name; [`DeviceError::Gone`], if it is absent.
    pub fn get(&self, name: &Name) -> Result<&Pool, DeviceError> {
        match self.entries().find(|entry| entry.name == *name) {
            Some(entry) if entry.is_absent.load(Ordering::Acquire) => Err(DeviceError::Gone(format!(
                "the device `{name}` has not answered rightly since the KMS was started: the log says why"
            ))),
            Some(entry) => Ok(&entry.pool),
            None => {
                let known: Vec<String> = self.iter().map(|(name, _)| format!("`{name}`")).collect();
                Err(DeviceError::Setup(format!(
                    "the configuration has no device `{name}`, only {}: keys on it sign nothing until it is there again",
                    known.join(", ")
                )))
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.others)
    }
}
