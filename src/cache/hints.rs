//! What was found when a key was last read: two hints that spare CACHE.FETCH and CACHE.GET most of their
//! lookups.
//!
//! A [`Guess`] says whether the value was long, short or absent: a long one is read in the server's
//! memory, a short one by an inner command ([`super::value`]). It can be out of date, or that of another
//! key: all values of an application tend to be alike. A wrong guess costs a second look.
//!
//! The other hint, that a value has no record, is never wrong. From the first one on, the server reports
//! every key that is created, by whichever command or module. Databases that are loaded, flushed or
//! swapped, and changes of the role, end all hints. A replica has none, because it keeps expired keys,
//! which its master overwrites without creating them. A cluster has none, because keys come with
//! their slot.

use crate::server::{Server, events};
use foldhash::fast::RandomState;
use std::cell::{Cell, OnceCell};
use std::hash::BuildHasher;

/// How many guesses are kept. They are small enough to stay in the processor's first cache.
const GUESSES: usize = 1 << 14;

/// How many keys can be known to have no record. Two keys can share a place, and then the last one has
/// it.
const KEYS: usize = 1 << 16;

/// What is probably at a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guess {
    /// A short value.
    #[default]
    Short,
    /// A long value.
    Long,
    /// Nothing.
    Absent,
}

/// Whether the server reports every key that is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It does, and a record that is absent now is known to be absent until a key is created.
    Clear,
    /// It does not say enough.
    None,
}

/// The hints of the keys that were read last.
#[derive(Default)]
pub struct Hints {
    hashes: RandomState,
    guesses: OnceCell<Box<[Cell<Guess>]>>,
    /// The hash of a key and a database whose last bit says whether the value is known to have no record.
    places: OnceCell<Box<[Cell<u64>]>>,
    sight: Cell<Sight>,
    /// Hints of earlier epochs do not count.
    epoch: Cell<u64>,
}

/// The value has no record.
const UNRECORDED: u64 = 1;

impl Hints {
    /// The hints of a key.
    pub fn of(&self, db: i32, key: &[u8]) -> Hint<'_> {
        // An odd factor keeps different epochs and databases apart.
        let other = (self.epoch.get() << 32 | u64::from(db.unsigned_abs()))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = self.hashes.hash_one(key) ^ other;
        let guesses = self.guesses.get_or_init(|| vec![Cell::default(); GUESSES].into());
        let places = self.places.get_or_init(|| vec![Cell::default(); KEYS].into());
        let at = (hash >> 32) as usize;
        Hint {
            guess: guesses.get(at % GUESSES),
            place: places.get(at % KEYS),
            tag: hash & !UNRECORDED,
        }
    }

    /// Whether a value is known to have no record.
    pub fn is_unrecorded(&self, db: i32, key: &[u8]) -> bool {
        self.sight.get() == Sight::Clear && self.of(db, key).is_unrecorded()
    }

    /// A record is written, or a key was created that can be one.
    pub fn recorded(&self, db: i32, key: &[u8]) {
        if self.sight.get() == Sight::Clear {
            self.of(db, key).set_unrecorded(false);
        }
    }

    /// The record of a value was looked for, and there is none.
    pub fn found_no_record(&self, server: &Server, hint: &Hint<'_>) {
        if self.sight.get() == Sight::Unknown {
            let clear = !server.is_in_cluster() && server.is_master();
            self.sight.set(if clear { Sight::Clear } else { Sight::None });
        }
        if self.sight.get() == Sight::Clear {
            // Subscribed to here and not at load: every key that any client creates costs a little more.
            server.subscribe(events::CREATIONS);
            hint.set_unrecorded(true);
        }
    }

    /// Databases were loaded, flushed or swapped, or the role has changed.
    pub fn forget(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.sight.set(Sight::Unknown);
    }
}

/// The hints of one key. Calls of the server between a look and a change do no harm.
pub struct Hint<'a> {
    guess: Option<&'a Cell<Guess>>,
    place: Option<&'a Cell<u64>>,
    tag: u64,
}

impl Hint<'_> {
    /// What is probably at the key.
    pub fn guess(&self) -> Guess {
        self.guess.map_or(Guess::Short, Cell::get)
    }

    /// What was found at the key.
    pub fn found(&self, what: Guess) {
        if let Some(guess) = self.guess.filter(|guess| guess.get() != what) {
            guess.set(what);
        }
    }

    /// Whether the value is known to have no record.
    pub fn is_unrecorded(&self) -> bool {
        self.place.is_some_and(|place| place.get() == self.tag | UNRECORDED)
    }

    fn set_unrecorded(&self, unrecorded: bool) {
        if let Some(place) = self.place {
            if unrecorded {
                place.set(self.tag | UNRECORDED);
            } else if self.is_unrecorded() {
                place.set(self.tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_remembered() {
        let hints = Hints::default();
        let hint = || hints.of(0, b"a");
        assert_eq!(hint().guess(), Guess::Short);
        for guess in [Guess::Long, Guess::Absent, Guess::Short] {
            hint().found(guess);
            assert_eq!(hint().guess(), guess);
        }
    }

    #[test]
    fn a_record_and_a_new_epoch_end_the_hint_that_there_is_none() {
        let hints = Hints::default();
        hints.sight.set(Sight::Clear);
        let learn = || hints.of(3, b"a").set_unrecorded(true);
        let knows = || hints.of(3, b"a").is_unrecorded();
        learn();
        hints.recorded(2, b"a");
        hints.recorded(3, b"b");
        assert!(knows());
        hints.recorded(3, b"a");
        assert!(!knows());
        learn();
        hints.of(3, b"a").found(Guess::Long);
        assert!(knows());
        hints.forget();
        assert!(!knows());
    }

    #[test]
    fn a_key_that_takes_a_place_leaves_no_hint_to_the_key_before() {
        let hints = Hints::default();
        let all: Vec<_> = (0..200_000u32).map(u32::to_le_bytes).collect();
        for key in &all {
            hints.of(0, key).set_unrecorded(true);
        }
        let known = all.iter().filter(|key| hints.of(0, *key).is_unrecorded()).count();
        assert!(known <= KEYS && known > KEYS / 2);
    }
}
