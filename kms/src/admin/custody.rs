//! What a device says of a key, and gives away of it: an attestation, and a copy under a wrap key for a backup.

use assent_consensus::encoding;
use assent_consensus::message::KeyVersion;

use super::act::{Admin, AdminError, by};
use super::{Attestation, NamedKey, WrappedKey};
use crate::audit::{Entry, LoggedKey};
use crate::pins::KeyState;
use crate::signing::KeyName;
use crate::sockets::Peer;

impl Admin {
    /// What the device says of a key: that it was generated there, signed by the device's own key.
    ///
    /// # Errors
    /// [`AdminError::NoKey`]; [`AdminError::Device`], if the device attests nothing.
    pub async fn attest(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
    ) -> Result<Attestation, AdminError> {
        let row = self.version_of(&name, version)?;
        let certificate = self.devices.get(&row.device)?.run(move |device| device.attest(row.object)).await?;
        Ok(Attestation { certificate: encoding::Bytes(certificate) })
    }

    /// Every key that may leave its device under a wrap key, wrapped. Each is in the audit log before it leaves.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn export_wrapped(&self, peer: Peer) -> Result<Vec<WrappedKey>, AdminError> {
        let _turn = self.turn.lock().await;
        let mut wrapped = Vec::new();
        for row in self.pins.keys().into_iter().filter(|row| row.state != KeyState::Destroyed) {
            let pool = self.devices.get(&row.device)?;
            if !pool.run(|device| Ok(device.exports())).await? {
                continue;
            }
            let entry = Entry::KeyExported {
                at: (self.clock)(),
                by: by(peer),
                key: LoggedKey::new(&row.name, row.version),
                device: row.device.clone(),
            };
            self.writer.write(move |batch| batch.append(&entry).map(drop)).await?;
            let bytes = pool.run(move |device| device.wrap_export(row.object)).await?;
            tracing::warn!(key = %row.name, version = %row.version, device = %row.device, "a key left its device, wrapped");
            wrapped.push(WrappedKey {
                named: NamedKey::new(&row.name, Some(row.version)),
                device: row.device,
                wrapped: encoding::Bytes(bytes),
            });
        }
        Ok(wrapped)
    }
}
