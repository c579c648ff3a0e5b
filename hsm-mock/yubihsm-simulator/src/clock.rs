//! The device's clock, which a test can put forward.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A clock that several hold. It shows the time since it was made.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Face>);

#[derive(Debug)]
struct Face {
    /// Nothing, if only [`Clock::advance`] moves it.
    since: Option<Instant>,
    ahead: Mutex<Duration>,
}

impl Clock {
    /// Goes with time.
    pub fn running() -> Clock {
        Clock(Arc::new(Face { since: Some(Instant::now()), ahead: Mutex::default() }))
    }

    /// Stands still but for [`advance`](Self::advance).
    pub fn standing() -> Clock {
        Clock(Arc::new(Face { since: None, ahead: Mutex::default() }))
    }

    /// Puts it forward.
    pub fn advance(&self, by: Duration) {
        *self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// What it shows.
    pub fn now(&self) -> Duration {
        let ahead = *self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.since.map_or(ahead, |since| since.elapsed() + ahead)
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::running()
    }
}
