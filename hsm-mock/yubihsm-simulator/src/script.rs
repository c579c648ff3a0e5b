//! What goes wrong, by a script that can be replaced at any time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::command::Command;
use crate::wire::ErrorCode;

/// What happens to some calls of a command.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The command, also within a session; nothing if it is any.
    pub command: Option<Command>,
    /// How many calls of it go well before.
    pub after: u64,
    /// To each which call it happens from then on: 1 is all, 2 is half of them.
    pub every: u64,
    /// How many calls it happens to; nothing if there is no end.
    pub times: Option<u64>,
    /// What happens.
    pub what: What,
}

impl Fault {
    /// Happens to every call of a command.
    pub fn of(command: Command, what: What) -> Fault {
        Fault { command: Some(command), after: 0, every: 1, times: None, what }
    }

    /// Happens to every call.
    pub fn of_all(what: What) -> Fault {
        Fault { command: None, after: 0, every: 1, times: None, what }
    }

    /// The same, but to one call alone.
    #[must_use]
    pub fn once(self) -> Fault {
        Fault { times: Some(1), ..self }
    }

    /// The same, but to every n-th call.
    #[must_use]
    pub fn every(self, every: u64) -> Fault {
        Fault { every: every.max(1), ..self }
    }

    /// The same, but after so many calls that go well.
    #[must_use]
    pub fn after(self, after: u64) -> Fault {
        Fault { after, ..self }
    }
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The device refuses it with this code, and does nothing.
    Refuse(ErrorCode),
    /// A signature by nobody's key.
    WrongKey,
    /// The device was reset right before.
    Reset,
    /// It takes so much longer, with the device busy meanwhile.
    Delay(Duration),
    /// The connector closes the connection, and the device never hears of it.
    DropCall,
    /// The connector closes the connection, and yet it was done.
    DropReply,
    /// It is done, and no answer ever comes.
    Hang,
    /// The answer comes in pieces of so many bytes, with a pause between.
    Pieces(usize, Duration),
    /// One bit of the answer is another.
    Garble,
    /// The connector has no device.
    NoDevice,
}

/// Faults, each with how many calls it saw.
#[derive(Default)]
pub(crate) struct Script(Mutex<Vec<(Fault, u64)>>);

impl Script {
    pub(crate) fn replace(&self, faults: Vec<Fault>) {
        *self.faults() = faults.into_iter().map(|fault| (fault, 0)).collect();
    }

    /// What happens to a call; the first fault that fits. All that are about this command count it.
    pub(crate) fn next(&self, command: Option<Command>) -> Option<What> {
        let mut what = None;
        for (fault, seen) in self.faults().iter_mut() {
            if fault.command.is_some() && fault.command != command {
                continue;
            }
            *seen += 1;
            let Some(place) = (*seen - 1).checked_sub(fault.after) else { continue };
            let is_hit = place.is_multiple_of(fault.every.max(1));
            let is_early = fault.times.is_none_or(|times| place / fault.every.max(1) < times);
            if is_hit && is_early && what.is_none() {
                what = Some(fault.what.clone());
            }
        }
        what
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Vec<(Fault, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_to_the_calls_that_it_names() {
        let script = Script::default();
        let fault = Fault::of(Command::SIGN_ECDSA, What::DropReply).after(1).every(2);
        script.replace(vec![Fault { times: Some(2), ..fault }]);
        assert_eq!(script.next(Some(Command::ECHO)), None);
        assert_eq!(script.next(None), None);
        let seen: Vec<_> = (0..7).map(|_| script.next(Some(Command::SIGN_ECDSA)).is_some()).collect();
        assert_eq!(seen, [false, true, false, true, false, false, false]);
        script.replace(vec![Fault::of_all(What::Garble).once()]);
        assert_eq!(script.next(None), Some(What::Garble));
        assert_eq!(script.next(None), None);
    }
}
