//! What the KMS said last about each duty that is not done, and whether it can be reached. It is kept in memory: after a
//! restart the KMS is asked again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use assent_consensus::duty::Refusal;
use assent_consensus::message::RequestId;
use assent_consensus::time::UnixMillis;
use tokio::sync::watch;

use crate::api::{DutyKind, DutyRefusal, KmsHealth};
use crate::kms_client::KmsError;
use crate::node::now;

/// The most duties of which refusals are kept.
const LIMIT: usize = 100_000;

/// Names a duty.
pub type DutyKey = (DutyKind, RequestId);

/// The refusals of duties, by duty.
pub struct DutyBook {
    /// Written by the agent, read by the API; held only to look up or set.
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    refusals: HashMap<DutyKey, DutyRefusal>,
    kms: Kms,
}

enum Kms {
    Unknown,
    Reachable,
    Unreachable { at: UnixMillis, attempts: u64, why: String },
}

impl Default for DutyBook {
    fn default() -> DutyBook {
        let inner = Inner { refusals: HashMap::new(), kms: Kms::Unknown };
        DutyBook { inner: Mutex::new(inner), changed: watch::channel(0).0 }
    }
}

impl DutyBook {
    /// Changes whenever something in the book does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What was said last about a duty that is due.
    pub fn last(&self, key: DutyKey) -> Option<DutyRefusal> {
        let inner = self.lock();
        match &inner.kms {
            // Whatever was said before, this is what it waits for now.
            Kms::Unreachable { at, attempts, why } => Some(DutyRefusal {
                at: *at,
                needs_person: false,
                attempts: *attempts,
                refusal: Refusal { reason: "kms-unreachable".into(), message: why.clone() },
            }),
            Kms::Unknown | Kms::Reachable => inner.refusals.get(&key).cloned(),
        }
    }

    /// The duties that were refused, those that need a person first.
    pub fn refused_duties(&self) -> Vec<DutyKey> {
        let inner = self.lock();
        let mut keys: Vec<_> =
            inner.refusals.iter().map(|(key, last)| (!last.needs_person, last.at, *key)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, _, key)| key).collect()
    }

    /// How many duties need a person.
    pub fn needing_a_person(&self) -> u64 {
        self.lock().refusals.values().filter(|last| last.needs_person).count() as u64
    }

    /// The KMS as last seen.
    pub fn kms(&self) -> KmsHealth {
        match &self.lock().kms {
            Kms::Unknown => KmsHealth { reachable: false, message: Some("it was not asked yet".into()) },
            Kms::Reachable => KmsHealth { reachable: true, message: None },
            Kms::Unreachable { why, .. } => KmsHealth { reachable: false, message: Some(why.clone()) },
        }
    }

    pub(super) fn set_reachable(&self) {
        let mut inner = self.lock();
        if !matches!(inner.kms, Kms::Reachable) {
            inner.kms = Kms::Reachable;
            drop(inner);
            tracing::info!("the KMS is reached");
            self.change();
        }
    }

    pub(super) fn set_unreachable(&self, error: &KmsError) {
        let mut inner = self.lock();
        let before = match &inner.kms {
            Kms::Unreachable { attempts, .. } => *attempts,
            Kms::Unknown | Kms::Reachable => 0,
        };
        inner.kms = Kms::Unreachable { at: now(), attempts: before + 1, why: error.to_string() };
        drop(inner);
        if before == 0 {
            tracing::warn!(%error, "duties wait until the KMS answers");
            self.change();
        }
    }

    /// Writes down why a duty is not done; gives how often it was tried.
    pub(super) fn refused(&self, key: DutyKey, needs_person: bool, refusal: Refusal) -> u64 {
        let mut inner = self.lock();
        let attempts = inner.refusals.get(&key).map_or(0, |last| last.attempts) + 1;
        if inner.refusals.len() < LIMIT || attempts > 1 {
            inner.refusals.insert(key, DutyRefusal { at: now(), needs_person, attempts, refusal });
        }
        drop(inner);
        self.change();
        attempts
    }

    pub(super) fn done(&self, key: DutyKey) {
        let was_there = self.lock().refusals.remove(&key).is_some();
        if was_there {
            self.change();
        }
    }

    fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
