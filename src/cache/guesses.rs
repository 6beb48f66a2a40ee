//! What was found at a key when it was last read. A long value is read in the server's memory, a short
//! one by an inner command ([`super::value`]), and none by neither, so CACHE.GET looks up a key only
//! once if it can guess which. A wrong guess costs a second look. The table fits into the caches of a
//! processor: a larger one, such as that of [`super::hints`], costs more than it spares.

use foldhash::fast::RandomState;
use std::cell::Cell;
use std::hash::BuildHasher;

/// How many guesses are kept.
const GUESSES: usize = 1 << 14;

/// What is probably at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// A short value.
    Short,
    /// A long value.
    Long,
    /// Nothing.
    Absent,
}

/// A guess for each hash of a key.
pub struct Guesses {
    hashes: RandomState,
    guesses: Box<[Cell<Guess>]>,
}

impl Default for Guesses {
    fn default() -> Self {
        let guesses = vec![Cell::new(Guess::Short); GUESSES].into_boxed_slice();
        Self { hashes: RandomState::default(), guesses }
    }
}

impl Guesses {
    /// The guess for a key, to be changed if it was wrong. Keys can share one.
    pub fn of(&self, key: &[u8]) -> Option<&Cell<Guess>> {
        self.guesses.get(self.hashes.hash_one(key) as usize % GUESSES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_remembered() {
        let guesses = Guesses::default();
        let guess = || guesses.of(b"a").unwrap();
        assert_eq!(guess().get(), Guess::Short);
        guess().set(Guess::Absent);
        assert_eq!(guess().get(), Guess::Absent);
    }
}
