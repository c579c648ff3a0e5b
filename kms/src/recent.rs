//! A memory of bounded size for what was met of late.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Remembers at least the last `half` things, and at most twice as many: those of the time before the last `half` are
/// forgotten all at once.
pub(crate) struct Recent<K, V> {
    half: usize,
    ages: Mutex<Ages<K, V>>,
}

struct Ages<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(crate) fn new(half: usize) -> Recent<K, V> {
        Recent { half, ages: Mutex::new(Ages { young: HashMap::new(), old: HashMap::new() }) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.young.get(key).or_else(|| ages.old.get(key)).cloned()
    }

    pub(crate) fn put(&self, key: K, value: V) {
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        if ages.young.len() >= self.half {
            ages.old = std::mem::take(&mut ages.young);
        }
        ages.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_half_is_always_remembered_and_never_more_than_twice_that() {
        let recent = Recent::new(4);
        for number in 0..100 {
            recent.put(number, number);
            for late in (number - 3).max(0)..=number {
                assert_eq!(recent.get(&late), Some(late));
            }
            assert!((0..=number).filter(|number| recent.get(number).is_some()).count() <= 8);
        }
        assert_eq!(recent.get(&90), None);
    }
}
