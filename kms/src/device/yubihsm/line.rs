//! One session with the device, through the crate, and how the crate says that something went wrong.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::yubihsm::{Client, client};

use super::bridge::Wire;

/// One session with the device.
pub(super) struct Line {
    client: Client,
    pub(super) wire: Option<Arc<Wire>>,
    last_use: Mutex<Instant>,
    is_taken: AtomicBool,
}

impl Line {
    pub(super) fn new(client: Client, wire: Option<Arc<Wire>>, now: Instant) -> Line {
        Line { client, wire, last_use: Mutex::new(now), is_taken: AtomicBool::new(true) }
    }

    pub(super) fn last_use(&self) -> Instant {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Acquire)
    }

    /// Whoever takes it has it alone.
    pub(super) fn set_taken(&self, is_taken: bool) {
        self.is_taken.store(is_taken, Ordering::Release);
    }

    /// One call, and nothing else.
    pub(super) fn ask<T>(&self, work: impl Fn(&Client) -> Result<T, client::Error>) -> Result<T, CallError> {
        let result = guarded(|| work(&self.client));
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        result
    }
}

/// How a call failed.
pub(super) enum CallError {
    /// As the crate says.
    Client(client::Error),
    /// The crate broke off: an answer that it does not expect.
    Panic(String),
}

/// Calls the crate, which panics on some answers.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, client::Error>) -> Result<T, CallError> {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => panic.downcast_ref::<&str>().unwrap_or(&"no reason").to_string(),
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(CallError::Client),
        Err(panic) => Err(CallError::Panic(text(panic))),
    }
}

/// The device's own error code, encrypted or not.
pub(super) fn device_error(error: &CallError, wire: Option<&Wire>) -> Option<u8> {
    let CallError::Client(error) = error else { return None };
    match (error.device_error(), error.kind()) {
        // The crate has no number for this one, and panics when asked.
        (Some(yubihsm::device::ErrorKind::SshCaConstraintViolation), _) => None,
        (Some(kind), _) => Some(kind.to_u8()),
        (None, client::ErrorKind::ResponseError) => wire.map(Wire::refusal).filter(|code| *code != 0),
        _ => None,
    }
}

/// The error in words: the bridge knows better than the crate why a connection broke.
pub(super) fn describe(error: &CallError, wire: Option<&Wire>) -> String {
    match (wire.and_then(Wire::failure), error) {
        (Some(failure), _) => failure,
        (None, CallError::Client(error)) => format!("the YubiHSM: {error}"),
        (None, CallError::Panic(text)) => format!("the YubiHSM gave an answer that cannot be one: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_crate_is_an_error() {
        let result: Result<(), _> = guarded(|| panic!("missing R-MAC tag!"));
        assert!(result.is_err_and(|error| describe(&error, None).contains("missing R-MAC tag!")));
    }
}
