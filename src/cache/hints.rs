//! What was found when a key was last read: two hints that spare CACHE.FETCH most of its lookups.
//!
//! A [`Guess`] can be out of date, and then costs a second look, but it is never that of another key.
//!
//! The other hint, that a value has no record, is right: the server reports every command that stores a
//! string at its key. A key of another type there is no record; nothing is written where the hint is all
//! that is known. Databases that are loaded, flushed or swapped, and changes of the role, end all hints. A
//! cluster has none, because keys come with their slot, and a replica none, so that it decides from the
//! data alone.

use super::EVENTS;
use super::guesses::Guess;
use crate::server::Server;
use foldhash::fast::RandomState;
use std::cell::{Cell, OnceCell};
use std::hash::BuildHasher;

/// How many keys have hints. Two keys can share a place, and then the last one has it.
const KEYS: usize = 1 << 16;

/// Whether the server reports every record that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It does, and a record that is absent now is known to be absent until its key is reported.
    Clear,
    /// It does not say enough.
    None,
}

/// The hints of the keys that were read last.
#[derive(Default)]
pub struct Hints {
    hashes: RandomState,
    /// A hash that stands for a key and a database, and the hints in its last bits.
    places: OnceCell<Box<[Cell<u64>]>>,
    sight: Cell<Sight>,
    /// Hints of earlier epochs do not count.
    epoch: Cell<u64>,
}

/// The bits of a [`Guess`].
const GUESS: u64 = 0b011;

/// The value has no record.
const UNRECORDED: u64 = 0b100;

impl Hints {
    /// The hints of a key.
    pub fn of(&self, db: i32, key: &[u8]) -> Hint<'_> {
        // An odd factor keeps different epochs and databases apart.
        let other = (self.epoch.get() << 32 | u64::from(db.unsigned_abs()))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = self.hashes.hash_one(key) ^ other;
        let places = self.places.get_or_init(|| vec![Cell::default(); KEYS].into());
        let place = places.get((hash >> 32) as usize % KEYS);
        Hint { place, tag: hash & !(GUESS | UNRECORDED) }
    }

    /// Whether a value is known to have no record.
    pub fn is_unrecorded(&self, db: i32, key: &[u8]) -> bool {
        self.sight.get() == Sight::Clear && self.of(db, key).is_unrecorded()
    }

    /// A record is written, or its key was changed.
    pub fn recorded(&self, db: i32, key: &[u8]) {
        if self.sight.get() == Sight::Clear {
            self.of(db, key).set(UNRECORDED, 0);
        }
    }

    /// The record of a value was looked for, and there is none.
    pub fn found_no_record(&self, server: &Server, hint: &Hint<'_>) {
        if self.sight.get() == Sight::Unknown {
            let clear = !server.is_in_cluster() && server.is_master();
            self.sight.set(if clear { Sight::Clear } else { Sight::None });
        }
        if self.sight.get() == Sight::Clear {
            server.subscribe(EVENTS);
            hint.set(UNRECORDED, UNRECORDED);
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
    place: Option<&'a Cell<u64>>,
    tag: u64,
}

impl Hint<'_> {
    fn bits(&self) -> u64 {
        let place = self.place.map_or(0, Cell::get);
        if place & !(GUESS | UNRECORDED) == self.tag { place & (GUESS | UNRECORDED) } else { 0 }
    }

    fn set(&self, mask: u64, bits: u64) {
        if let Some(place) = self.place {
            place.set(self.tag | self.bits() & !mask | bits);
        }
    }

    /// What is probably at the key, if it was read recently.
    pub fn guess(&self) -> Option<Guess> {
        match self.bits() & GUESS {
            1 => Some(Guess::Short),
            2 => Some(Guess::Long),
            3 => Some(Guess::Absent),
            _ => None,
        }
    }

    /// What was found at the key.
    pub fn found(&self, what: Guess) {
        let bits = match what {
            Guess::Short => 1,
            Guess::Long => 2,
            Guess::Absent => 3,
        };
        if self.bits() & GUESS != bits {
            self.set(GUESS, bits);
        }
    }

    /// Whether the value is known to have no record.
    pub fn is_unrecorded(&self) -> bool {
        self.bits() & UNRECORDED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_remembered() {
        let hints = Hints::default();
        let hint = || hints.of(0, b"a");
        assert_eq!(hint().guess(), None);
        for guess in [Guess::Short, Guess::Absent, Guess::Long] {
            hint().found(guess);
            assert_eq!(hint().guess(), Some(guess));
        }
        assert_eq!(hints.of(0, b"b").guess(), None);
        assert_eq!(hints.of(1, b"a").guess(), None);
    }

    #[test]
    fn a_record_and_a_new_epoch_end_the_hint_that_there_is_none() {
        let hints = Hints::default();
        hints.sight.set(Sight::Clear);
        let learn = || hints.of(3, b"a").set(UNRECORDED, UNRECORDED);
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
            hints.of(0, key).set(UNRECORDED, UNRECORDED);
        }
        let known = all.iter().filter(|key| hints.of(0, *key).is_unrecorded()).count();
        assert!(known <= KEYS && known > KEYS / 2);
    }
}
