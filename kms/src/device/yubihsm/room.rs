//! How full the device's log may be, as far as this process can know.

/// Counts commands, each of which takes a place of the device's log when the device does it.
#[derive(Debug, Default)]
pub(super) struct Room {
    begun: u64,
    ended: u64,
    /// Places that were used at the last reading, less those that were emptied.
    read: u32,
    /// Commands that had ended before the last reading: their entries are in it. Those of all others may be.
    in_reading: u64,
}

impl Room {
    /// At most so many places are used.
    pub(super) fn used(&self) -> u32 {
        self.read.saturating_add(u32::try_from(self.begun - self.in_reading).unwrap_or(u32::MAX))
    }

    /// A command is about to be sent.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }

    /// The same, unless `limit` places may be used.
    pub(super) fn begin_below(&mut self, limit: u32) -> bool {
        let is_room = self.used() < limit;
        if is_room {
            self.begin();
        }
        is_room
    }

    /// A command was answered, or will not be.
    pub(super) fn end(&mut self) {
        self.ended += 1;
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// A reading that was begun when `ended` commands had ended shows `used` entries.
    pub(super) fn was_read(&mut self, ended: u64, used: u32) {
        (self.in_reading, self.read) = (ended, used);
    }

    /// What the last reading showed is acknowledged, and the acknowledgement has an entry of its own.
    pub(super) fn was_emptied(&mut self) {
        self.read = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_ends_during_a_reading_may_or_may_not_be_in_it() {
        let mut room = Room::default();
        (0..3).for_each(|_| room.begin());
        room.end();
        let ended = room.ended();
        room.end();
        room.was_read(ended, 1);
        assert_eq!(room.used(), 3, "the one in the reading, and two that may come after it");
        room.was_emptied();
        assert!(room.begin_below(4) && !room.begin_below(4));
    }
}
