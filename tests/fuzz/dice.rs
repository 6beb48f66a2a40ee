//! Random numbers that a seed repeats.

/// Pseudo-random numbers (SplitMix64).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// One of many independent sequences of a seed.
    pub fn new(seed: u64, sequence: u64) -> Self {
        let mut dice = Self(seed ^ sequence.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self(dice.next() ^ sequence)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("a usize fits 64 bits");
        usize::try_from(self.next() % end).expect("below a usize")
    }

    /// A number from `first` to `last`.
    pub fn within(&mut self, first: u64, last: u64) -> u64 {
        first + self.next() % (last - first + 1)
    }

    /// True in this percentage of calls.
    pub fn percent(&mut self, often: u64) -> bool {
        self.next() % 100 < often
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        &these[self.below(these.len())]
    }

    /// One of these, by weight.
    pub fn weighted<'a, T>(&mut self, these: &'a [(u32, T)]) -> &'a T {
        let total: usize = these.iter().map(|(weight, _)| *weight as usize).sum();
        let mut left = self.below(total);
        for (weight, item) in these {
            match left.checked_sub(*weight as usize) {
                Some(rest) => left = rest,
                None => return item,
            }
        }
        &these[0].1
    }
}
