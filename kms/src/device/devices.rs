//! The devices of a KMS, by name.

use assent_consensus::name::Name;

use super::{DeviceError, Pool};

/// Each device of the configuration behind its pool, in the configuration's order; at least one.
pub struct Devices {
    first: (Name, Pool),
    others: Vec<(Name, Pool)>,
}

impl Devices {
    /// One device.
    pub fn new(name: Name, pool: Pool) -> Devices {
        Devices { first: (name, pool), others: Vec::new() }
    }

    /// One more. Names are unique: the configuration was checked.
    pub fn push(&mut self, name: Name, pool: Pool) {
        self.others.push((name, pool));
    }

    /// The device on which keys are made unless another one is asked for.
    pub fn first(&self) -> &Name {
        &self.first.0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Pool)> {
        std::iter::once(&self.first).chain(&self.others).map(|(name, pool)| (name, pool))
    }

    /// A device by its name.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the configuration has none of this name.
    pub fn get(&self, name: &Name) -> Result<&Pool, DeviceError> {
        let found = self.iter().find(|(known, _)| *known == name).map(|(_, pool)| pool);
        found.ok_or_else(|| {
            let known: Vec<String> = self.iter().map(|(name, _)| format!("`{name}`")).collect();
            DeviceError::Setup(format!(
                "the configuration has no device `{name}`, only {}: keys on it sign nothing until it is there again",
                known.join(", ")
            ))
        })
    }
}
