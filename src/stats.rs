//! Counters for `INFO corral`, and per-name counters for the `*.INFO` commands. They only grow, and
//! live in memory.

use foldhash::fast::RandomState;
use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;

/// A total since the module was loaded.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Defines the totals of a family: a struct of counters, and the names under which INFO shows them.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $field:literal),* $(,)?) => {
        /// The totals of this family since the module was loaded.
        #[derive(Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: $crate::stats::Counter),*
        }

        impl Counters {
            /// Every total under its name in INFO, to which the server adds the prefix `corral_`.
            pub fn each(&self, mut show: impl FnMut(&'static str, u64)) {
                $(show($field, self.$name.get());)*
            }
        }
    };
}
pub(crate) use counters;

/// A bounded table of counters for the most recently used names, some thousands of them. It is
/// addressed by hash, so it allocates nothing for a name, keeps none of its bytes and never grows. Names
/// that somebody has chosen to collide can only displace each other's counters.
pub struct Recent<R>(RefCell<Table<R>>);

struct Table<R> {
    hashes: RandomState,
    rows: Vec<[Tag; WAYS]>,
    /// As many for each row as it has tags, in the same order.
    records: Vec<R>,
    clock: u64,
}

/// Which name a record belongs to, and when it was last used.
#[derive(Clone, Copy, Default)]
struct Tag {
    hash: u64,
    used: u64,
}

/// Names in a row.
const WAYS: usize = 4;

/// Rows in a table.
const ROWS: usize = 1024;

impl<R> Default for Recent<R> {
    fn default() -> Self {
        let (rows, records) = (Vec::new(), Vec::new());
        Self(RefCell::new(Table { hashes: RandomState::default(), rows, records, clock: 0 }))
    }
}

impl<R: Clone + Default> Recent<R> {
    /// A hash of bytes that are not kept themselves.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.0.borrow().hashes.hash_one(bytes)
    }

    /// Changes the record of a name. It may replace the least recently used record of its row.
    pub fn update(&self, db: i32, name: &[u8], change: impl FnOnce(&mut R)) {
        let mut table = self.0.borrow_mut();
        if let Some(record) = table.record(db, name) {
            change(record);
        }
    }

    /// The record of a name, or a blank one.
    pub fn get(&self, db: i32, name: &[u8]) -> R {
        self.0.borrow().find(db, name).cloned().unwrap_or_default()
    }
}

impl<R: Default> Table<R> {
    fn place(&self, db: i32, name: &[u8]) -> (u64, usize) {
        let hash = self.hashes.hash_one((db, name));
        (hash, hash as usize % ROWS)
    }

    fn record(&mut self, db: i32, name: &[u8]) -> Option<&mut R> {
        if self.rows.is_empty() {
            self.rows.resize_with(ROWS, Default::default);
            self.records.resize_with(ROWS * WAYS, Default::default);
        }
        self.clock += 1;
        let (hash, number) = self.place(db, name);
        let row = self.rows.get_mut(number)?;
        // The name's own place, or that of the least recently used name.
        let own = |(_, tag): &(usize, &mut Tag)| (tag.hash != hash, tag.used);
        let (way, tag) = row.iter_mut().enumerate().min_by_key(own)?;
        let record = self.records.get_mut(number * WAYS + way)?;
        if tag.hash != hash {
            *record = R::default();
        }
        *tag = Tag { hash, used: self.clock };
        Some(record)
    }

    fn find(&self, db: i32, name: &[u8]) -> Option<&R> {
        let (hash, number) = self.place(db, name);
        let way = self.rows.get(number)?.iter().position(|tag| tag.hash == hash)?;
        self.records.get(number * WAYS + way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_use_are_kept_and_idle_ones_make_room() {
        let recent = Recent::<u32>::default();
        for round in 0..100_000u32 {
            recent.update(0, b"hot", |record| *record += 1);
            recent.update(0, round.to_string().as_bytes(), |record| *record += 1);
        }
        assert_eq!(recent.get(0, b"hot"), 100_000);
        assert_eq!(recent.get(0, b"99999"), 1);
        assert_eq!(recent.get(1, b"hot"), 0);
        let kept = (0..100_000u32).filter(|n| recent.get(0, n.to_string().as_bytes()) > 0);
        assert!(kept.count() <= ROWS * WAYS);
    }
}
