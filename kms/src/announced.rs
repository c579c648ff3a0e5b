//! What was announced in the log, so that it is not said at each look.

use std::collections::HashMap;
use std::hash::Hash;

use assent_consensus::time::{Millis, UnixMillis};

/// After how long one thing is announced again.
const AGAIN: Millis = Millis::from_secs(24 * 3_600);

/// When each thing was last announced.
pub(crate) struct Announced<T>(HashMap<T, UnixMillis>);

impl<T> Default for Announced<T> {
    fn default() -> Announced<T> {
        Announced(HashMap::new())
    }
}

impl<T: Eq + Hash> Announced<T> {
    /// Whether it is to be announced now, which is noted.
    pub(crate) fn is_due(&mut self, what: T, now: UnixMillis) -> bool {
        self.0.retain(|_, last| last.after(AGAIN) > now);
        let is_due = !self.0.contains_key(&what);
        if is_due {
            self.0.insert(what, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_announced_once_a_day() {
        let mut announced = Announced::default();
        let at = |hours: u64| UnixMillis::new(1).after(Millis::from_secs(hours * 3_600));
        assert!(announced.is_due("one", at(0)));
        assert!(!announced.is_due("one", at(23)));
        assert!(announced.is_due("other", at(23)));
        assert!(announced.is_due("one", at(24)));
        assert!(!announced.is_due("other", at(24)));
    }
}
