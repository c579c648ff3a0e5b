//! Destruction: what an approved `destroy-key` becomes. The statement that the key is gone is signed first, and is nobody's
//! before it is true.

use assent_consensus::message::{Change, KeyTransition, KeyVersion};
use assent_consensus::subject::Subject;
use assent_consensus::time::{Millis, UnixMillis};

use super::{ApprovedChanges, Changed, Mandate, set_state};
use crate::life;
use crate::pins::KeyState;
use crate::signing::{KeyName, Purpose, SigningError};
use crate::store::KeyRow;

/// An approved destruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destruction {
    /// What approved it.
    pub mandate: Mandate,
    /// The key.
    pub key: KeyName,
    /// Which version of it.
    pub version: KeyVersion,
    /// The subject, as it was approved.
    pub subject: Subject,
    /// How long after its deadline a request may be decided.
    pub grace: Millis,
}

impl ApprovedChanges {
    /// Destroys a version of a key on its device, once nothing can be begun or finished with it.
    ///
    /// # Errors
    /// [`SigningError`]
    pub async fn destroy(&self, destruction: Destruction) -> Result<Changed, SigningError> {
        let _turn = self.turn.lock().await;
        let Destruction { mandate, key, version, subject, grace } = destruction;
        let genesis = self.genesis()?;
        let overlap = self.overlap(&genesis, &mandate, &key, grace)?;
        let unknown = || SigningError::UnknownKey { key: key.clone(), version };
        let row = self.pins.key_row(&key, version).ok_or_else(unknown)?;
        let now = (self.clock)();
        let state = self.pins.state_at(&row, now);
        let may_go = state.may_become(KeyState::Destroyed) && !self.is_needed(&row, overlap, now);
        if state != KeyState::Destroyed && !may_go {
            return Err(SigningError::KeyInUse { key, version, state });
        }
        let says = Change {
            deployment: self.genesis()?.id(),
            subject,
            decision: mandate.decision,
            effective: mandate.decided,
        };
        let (change, audit) = self.sign(Purpose::Change, mandate.request, mandate.key(), says).await?;
        if row.state != KeyState::Destroyed {
            self.destroy_on_device(&row).await?;
            let (name, at) = (key.clone(), (self.clock)());
            let why = format!("the decision `{}`", mandate.decision);
            let written = self.writer.write(move |batch| {
                let row = batch.store().key(&name, version)?;
                let state = life::record(batch, &row, at)?;
                set_state(batch, at, (&name, version), (state, KeyState::Destroyed), &why)
            });
            written.await?;
            self.reload().await?;
            tracing::warn!(alarm = true, %key, %version, "the key is destroyed");
        }
        Ok(Changed { change, audit })
    }

    /// Whether a contract's version that a date or a limit has deactivated may have opened a request that is not over. One
    /// that was rotated is deactivated only then.
    fn is_needed(&self, row: &KeyRow, overlap: Millis, now: UnixMillis) -> bool {
        let is_retired = |next: &KeyTransition| next.old_retires <= now;
        let successions = self.pins.successions();
        if matches!(row.name, KeyName::Operational(_))
            || successions.after(&row.name, row.version).is_some_and(is_retired)
        {
            return false;
        }
        match row.state {
            KeyState::Deactivated => now < row.changed.after(overlap),
            KeyState::Active | KeyState::Suspended => true,
            KeyState::PreActivation | KeyState::Compromised | KeyState::Destroyed => false,
        }
    }
}
