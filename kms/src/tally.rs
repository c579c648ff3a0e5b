//! How often things happened since the start, by what they were.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts by key. The keys are of a kind of which there are few: words of this program, never what comes from outside.
pub(crate) struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally(Mutex::default())
    }
}

impl<K: Ord + Clone> Tally<K> {
    /// One more of `key`.
    pub(crate) fn count(&self, key: K) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// All that was counted.
    pub(crate) fn counts(&self) -> BTreeMap<K, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
