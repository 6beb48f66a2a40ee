//! What is remembered of keys, by database and name, in a bounded number of bytes: when there is no
//! room, others are forgotten. Nothing here knows a server.

use crate::interest::{Interest, Interesting};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What takes memory beside its own size.
pub trait Weight {
    /// How many bytes it holds elsewhere. Cheap to ask.
    fn bytes(&self) -> usize;
}

/// The keys of one database.
type Keys<V> = IndexMap<Box<[u8]>, (V, Interesting), RandomState>;

/// What is remembered of keys.
pub struct Table<V> {
    /// By database, of which few are used, and name.
    keys: BTreeMap<i32, Keys<V>>,
    bytes: usize,
    most: usize,
    /// The place of the next key to forget.
    hand: usize,
    interest: Rc<Interest>,
}

impl<V: Weight> Table<V> {
    /// An empty table that takes about `most` bytes at most. Its keys are noted in `interest`.
    pub fn new(most: usize, interest: &Rc<Interest>) -> Self {
        Self { keys: BTreeMap::new(), bytes: 0, most, hand: 0, interest: interest.clone() }
    }

    fn cost(key: &[u8], value: &V) -> usize {
        const OVERHEAD: usize = 48;
        OVERHEAD + size_of::<(V, Interesting)>() + key.len() + value.bytes()
    }

    /// What is remembered of a key.
    pub fn get(&self, db: i32, key: &[u8]) -> Option<&V> {
        self.keys.get(&db)?.get(key).map(|(value, _)| value)
    }

    /// Looks at, or changes, what is remembered of a key. Others may be forgotten for it.
    pub fn change<R>(
        &mut self,
        db: i32,
        key: &[u8],
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let (value, _) = self.keys.get_mut(&db)?.get_mut(key)?;
        let before = value.bytes();
        let result = change(value);
        let after = value.bytes();
        if before != after {
            self.bytes = self.bytes.saturating_sub(before).saturating_add(after);
            self.make_room(db, key);
        }
        Some(result)
    }

    /// Remembers a key. What does not fit even alone is not remembered.
    pub fn put(&mut self, db: i32, key: &[u8], value: V) {
        self.remove(db, key);
        let cost = Self::cost(key, &value);
        if cost > self.most {
            return;
        }
        self.bytes += cost;
        self.keys.entry(db).or_default().insert(key.into(), (value, self.interest.in_name(key)));
        self.make_room(db, key);
    }

    /// Forgets others than this one until there is room, from one place to the next: what is in use comes
    /// back at once, and then stays until all others have had their turn.
    fn make_room(&mut self, db: i32, key: &[u8]) {
        while self.bytes > self.most {
            self.hand = self.hand.wrapping_add(1);
            let hand = self.hand;
            let other = self.keys.iter().find_map(|(other_db, keys)| {
                let mut places = [hand, hand.wrapping_add(1)].into_iter();
                places.find_map(|place| {
                    let (other, _) = keys.get_index(place.checked_rem(keys.len())?)?;
                    ((*other_db, &**other) != (db, key)).then(|| (*other_db, other.clone()))
                })
            });
            let Some((db, other)) = other else { return };
            self.remove(db, &other);
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, db: i32, key: &[u8]) {
        let Some(keys) = self.keys.get_mut(&db) else { return };
        let Some((value, _)) = keys.swap_remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(Self::cost(key, &value));
        if keys.is_empty() {
            self.keys.remove(&db);
        } else if keys.capacity() > 64 && keys.len() < keys.capacity() / 8 {
            keys.shrink_to(2 * keys.len());
        }
    }

    /// Forgets the keys of these databases, or all if none is named.
    pub fn forget(&mut self, dbs: &[i32]) {
        if dbs.is_empty() {
            // A map that only loses its keys keeps some of its memory.
            self.keys = BTreeMap::new();
        }
        self.keys.retain(|db, _| !dbs.contains(db));
        let all = self.keys.values().flatten();
        self.bytes = all.map(|(key, (value, _))| Self::cost(key, value)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Weight for Vec<u8> {
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Whatever is put, changed and forgotten, it knows its size and keeps its bound, and what
        /// was put last is there if it fits.
        #[test]
        fn it_never_takes_more_than_it_may(
            most in 0..2_000usize,
            steps in prop::collection::vec((0..4u8, 0..2i32, 0..40usize, 0..900usize), 1..200),
        ) {
            let mut table = Table::new(most, &Rc::default());
            for (what, db, key, size) in steps {
                let key = vec![b'x'; key];
                match what {
                    0 | 1 => {
                        table.put(db, &key, vec![0; size]);
                        let fits = Table::cost(&key, &vec![0; size]) <= most;
                        prop_assert_eq!(table.get(db, &key).is_some(), fits);
                    }
                    2 => {
                        let there = table.get(db, &key).is_some();
                        let changed = table.change(db, &key, |value| value.truncate(size / 2));
                        prop_assert_eq!(changed.is_some(), there);
                    }
                    _ if size < 50 => table.forget(&[db]),
                    _ => table.remove(db, &key),
                }
                let all = table.keys.values().flatten();
                let bytes: usize = all.map(|(key, (value, _))| Table::cost(key, value)).sum();
                prop_assert_eq!(table.bytes, bytes);
                prop_assert!(bytes <= most);
            }
        }
    }

    #[test]
    fn keys_in_use_stay_when_the_table_is_full() {
        const HOT: u32 = 100;
        const ROUNDS: u32 = 200;
        let most = 1_000 * Table::cost(&[0; 4], &Vec::new());
        let mut table = Table::new(most, &Rc::default());
        (0..4_000u32).for_each(|n| table.put(0, &n.to_le_bytes(), Vec::new()));
        let mut missed = 0;
        for round in 0..ROUNDS {
            for n in 0..HOT {
                if table.get(0, &n.to_le_bytes()).is_none() {
                    table.put(0, &n.to_le_bytes(), Vec::new());
                    missed += 1;
                }
            }
            table.put(0, &(10_000 + round).to_le_bytes(), Vec::new());
        }
        // Once each in the first round, and seldom later.
        assert!(missed < 2 * HOT, "{missed} of {} were forgotten", HOT * ROUNDS);
    }

    #[test]
    fn a_table_that_empties_gives_its_memory_back() {
        let mut table = Table::new(1 << 30, &Rc::default());
        for n in 0..100_000u32 {
            table.put(0, &n.to_le_bytes(), Vec::new());
        }
        for n in 0..99_990u32 {
            table.remove(0, &n.to_le_bytes());
        }
        assert!(table.keys[&0].capacity() < 200);
    }
}
