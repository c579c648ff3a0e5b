//! Limiting a key: what a person says of when, and how often, it may be used.

use assent_consensus::message::KeyVersion;

use super::act::{Admin, AdminError, by};
use crate::life::{self, Limited, Limits, LimitsChange, LimitsError};
use crate::signing::KeyName;
use crate::sockets::Peer;
use crate::store::{Batch, KeyRow, Store, StoreError, Uses};

impl Admin {
    /// Changes the limits of a key, from now on. A count is of all uses since the key was made, whether they were counted
    /// before or not: the audit log has them.
    ///
    /// # Errors
    /// [`AdminError`]; nothing is changed then.
    pub async fn limit(
        &self,
        name: KeyName,
        version: Option<KeyVersion>,
        change: LimitsChange,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        let _turn = self.turn.lock().await;
        let row = self.version_of(&name, version)?;
        let (version, limits) = (row.version, change.of(&row.limits));
        let mut uses = Uses::of(&name, version, &limits);
        if limits.is_counted() {
            // A long log is read before its end is, which nobody waits for.
            let directory = self.directory.clone();
            let read = move || -> Result<Uses, StoreError> {
                uses.read_on(&Store::open_reader(&directory)?)?;
                Ok(uses)
            };
            uses = tokio::task::spawn_blocking(read).await.map_err(|_| AdminError::Broken)??;
        }
        let (at, by, key) = ((self.clock)(), by(peer), name.clone());
        let write = move |batch: &mut Batch<'_>| -> Result<Result<Limits, LimitsError>, StoreError> {
            if limits.is_counted() {
                uses.read_on(batch.store())?;
            }
            let row = batch.store().key(&key, version)?;
            let successions = batch.store().successions()?;
            let before = Limited {
                limits: &row.limits,
                state: life::state(&row, successions.after(&key, version), at),
                is_first: version.is_first(),
                used: uses.count(),
            };
            if let Err(refused) = limits.check(before, at) {
                return Ok(Err(refused));
            }
            batch.set_limits(at, Some(by), (&key, version), &limits, &uses)?;
            Ok(Ok(limits))
        };
        let limits = self.writer.write(write).await??;
        self.reload().await?;
        let limits = serde_json::to_string(&limits).unwrap_or_default();
        tracing::warn!(alarm = true, key = %name, %version, limits, "the key has other limits");
        self.pins.key_row(&name, version).ok_or(AdminError::Broken)
    }
}
