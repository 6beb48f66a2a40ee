//! Which values were long when they were last read. A long value is read in the server's memory and a
//! short one by an inner command ([`super::value`]), so CACHE.GET looks up a key only once if it can
//! guess which. A wrong guess costs a second look, and makes the server count one read too many.

use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::hash::BuildHasher;

/// How many guesses are kept.
const GUESSES: usize = 1 << 14;

/// A bit for each hash of a key.
pub struct LongValues {
    hashes: RandomState,
    bits: RefCell<Box<[u64]>>,
}

impl Default for LongValues {
    fn default() -> Self {
        let bits = vec![0; GUESSES / 64].into_boxed_slice();
        Self { hashes: RandomState::default(), bits: RefCell::new(bits) }
    }
}

impl LongValues {
    fn place(&self, key: &[u8]) -> (usize, u64) {
        let bit = self.hashes.hash_one(key) as usize % GUESSES;
        (bit / 64, 1 << (bit % 64))
    }

    /// Whether the value of a key is probably long.
    pub fn contains(&self, key: &[u8]) -> bool {
        let (word, bit) = self.place(key);
        self.bits.borrow().get(word).is_some_and(|word| word & bit != 0)
    }

    /// Remembers whether the value of a key is long.
    pub fn set(&self, key: &[u8], is_long: bool) {
        let (word, bit) = self.place(key);
        if let Some(word) = self.bits.borrow_mut().get_mut(word) {
            *word = if is_long { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_length_of_a_value_is_remembered() {
        let values = LongValues::default();
        assert!(!values.contains(b"a"));
        values.set(b"a", true);
        values.set(b"a", true);
        assert!(values.contains(b"a"));
        values.set(b"a", false);
        assert!(!values.contains(b"a"));
    }
}
