//! The thread that keeps sessions alive and reads the device's log.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Shared;

/// A session that idled this long is used for a moment, so that the device does not close it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Ends when this is dropped.
pub(super) struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(shared: Arc<Shared>) -> std::io::Result<Watch> {
        let (stop, stopped) = mpsc::channel();
        let pause = shared.settings.log_poll.min(KEEP_ALIVE / 3);
        let work = move || {
            let mut next = Instant::now() + shared.settings.log_poll;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                shared.keep_alive(KEEP_ALIVE);
                if Instant::now() >= next {
                    shared.read_log_or_say();
                    next = Instant::now() + shared.settings.log_poll;
                }
            }
        };
        let thread = std::thread::Builder::new().name("yubihsm-watch".into()).spawn(work)?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing left to do.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn read_log_or_say(&self) {
        if let Err(error) = self.read_log() {
            tracing::error!(alarm = true, %error, "the log of the YubiHSM cannot be read");
        }
    }

    /// Uses each session that is taken and idled for `limit`.
    pub(super) fn keep_alive(&self, limit: Duration) {
        for line in self.idle_lines(limit) {
            if let Err(failure) = self.call(&line, None, |client| client.echo(b"assent".as_slice())) {
                tracing::debug!(error = %failure.error, "a session with the YubiHSM broke while it was idle");
            }
        }
    }
}
