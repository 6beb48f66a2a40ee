//! Counters for `INFO corral`. They only grow, and every name begins with its family.

use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A total since the module was loaded.
pub struct Counter {
    /// The field's name in INFO; the server puts `corral_` before it.
    pub name: &'static CStr,
    value: AtomicU64,
}

impl Counter {
    /// A counter at 0.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, value: AtomicU64::new(0) }
    }

    /// Counts `n` more. Commands run on one thread, so no atomic read-modify-write is paid for.
    pub fn add(&self, n: u64) {
        self.value.store(self.get().wrapping_add(n), Relaxed);
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// Panics that the guard caught: bugs of this module.
pub static PANICS: Counter = Counter::new(c"panics");

/// What is remembered of the names that were used last, some thousands of them: a table of small
/// rows by hash. It costs no allocation for each name, keeps none of their bytes, and never grows.
pub struct Recent<R> {
    hashes: RandomState,
    rows: Vec<[Tag; WAYS]>,
    /// As many for each row as it has tags, in the same order.
    records: Vec<R>,
    clock: u64,
}

/// Whose record stands in a place, and when it was used.
#[derive(Clone, Copy, Default)]
struct Tag {
    hash: u64,
    used: u64,
}

/// Names in a row.
const WAYS: usize = 4;

/// Rows in a table.
const ROWS: usize = 1024;

impl<R: Default> Default for Recent<R> {
    fn default() -> Self {
        Self { hashes: RandomState::new(), rows: Vec::new(), records: Vec::new(), clock: 0 }
    }
}

impl<R: Default> Recent<R> {
    /// The hash of anything that is not kept itself.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.hashes.hash_one(bytes)
    }

    fn place(&self, db: i32, name: &[u8]) -> (u64, usize) {
        let hash = self.hashes.hash_one((db, name));
        (hash, hash as usize % ROWS)
    }

    /// What is remembered of a name, to be changed. The one of its row that was used longest ago
    /// is forgotten for it.
    pub fn of_mut(&mut self, db: i32, name: &[u8]) -> Option<&mut R> {
        if self.rows.is_empty() {
            self.rows.resize_with(ROWS, Default::default);
            self.records.resize_with(ROWS * WAYS, Default::default);
        }
        self.clock += 1;
        let (hash, number) = self.place(db, name);
        let row = self.rows.get_mut(number)?;
        // The name's own place, or that of the one which was used longest ago.
        let own = |(_, tag): &(usize, &mut Tag)| (tag.hash != hash, tag.used);
        let (way, tag) = row.iter_mut().enumerate().min_by_key(own)?;
        let record = self.records.get_mut(number * WAYS + way)?;
        if tag.hash != hash {
            *record = R::default();
        }
        *tag = Tag { hash, used: self.clock };
        Some(record)
    }

    /// What is remembered of a name, if anything.
    pub fn of(&self, db: i32, name: &[u8]) -> Option<&R> {
        let (hash, number) = self.place(db, name);
        let way = self.rows.get(number)?.iter().position(|tag| tag.hash == hash)?;
        self.records.get(number * WAYS + way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_use_are_remembered_and_those_that_are_not_make_room() {
        let mut recent = Recent::<u32>::default();
        for round in 0..100_000u32 {
            *recent.of_mut(0, b"hot").unwrap() += 1;
            *recent.of_mut(0, round.to_string().as_bytes()).unwrap() += 1;
        }
        assert_eq!(recent.of(0, b"hot"), Some(&100_000));
        assert_eq!(recent.of(0, b"99999"), Some(&1));
        assert_eq!(recent.of(1, b"hot"), None);
        let kept = (0..100_000u32).filter(|n| recent.of(0, n.to_string().as_bytes()).is_some());
        assert!(kept.count() <= ROWS * WAYS);
    }
}
