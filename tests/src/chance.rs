//! Numbers by chance that a seed repeats: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014). Good enough to draw tests; never for a secret.

/// A source of numbers, the same for the same seed.
pub struct Chance(u64);

impl Chance {
    /// The source that `seed` names.
    pub fn of(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both of them among the possible ones.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "there must be a number to choose");
        // The bias is far below anything that a test could notice.
        low + self.bits() % (high - low + 1)
    }

    /// A place in something of `length` entries.
    pub fn place(&mut self, length: usize) -> usize {
        let last = u64::try_from(length).expect("a length fits in 64 bits") - 1;
        usize::try_from(self.between(0, last)).expect("it is below a length")
    }

    /// One of the entries.
    pub fn one<'e, T>(&mut self, entries: &'e [T]) -> &'e T {
        &entries[self.place(entries.len())]
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// The entries in another order.
    pub fn shuffle<T>(&mut self, entries: &mut [T]) {
        for last in (1..entries.len()).rev() {
            entries.swap(last, self.place(last + 1));
        }
    }
}

/// A seed that nobody chose: the clock.
pub fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Short enough to be typed; a clock before 1970 gives a seed as good as any.
    now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ (now.as_secs() << 8) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_every_number_comes() {
        let numbers = |seed| {
            let mut chance = Chance::of(seed);
            (0..200).map(|_| chance.between(3, 6)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        for number in 3..=6 {
            assert!(numbers(7).contains(&number));
        }
        assert!(numbers(7).iter().all(|number| (3..=6).contains(number)));
    }
}
