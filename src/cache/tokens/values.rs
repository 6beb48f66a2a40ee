//! Every known value, by database and name, in the order in which they are forgotten, and the memory
//! that they take.

use super::changed::{Changed, Id};
use super::{Known, Recorded};
use crate::interest::Interest;
use crate::time::{Millis, Moment};
use foldhash::fast::RandomState;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::rc::Rc;

/// How long values are known, and how much memory they may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long a value is known after its lease and its record have ended.
    pub late: Millis,
    /// The bytes that all values may take.
    pub bytes: usize,
}

/// The values of one database, by a hash of their names. If two names share a hash, only one of them
/// is known.
#[derive(Debug, Default)]
struct Database {
    known: BTreeMap<u64, Known>,
    ends: BTreeSet<(Moment, u64)>,
}

/// Changes what is known about a value, its place among the ends, and the memory that is counted.
fn adjust<R>(
    known: &mut Known,
    hash: u64,
    ends: &mut BTreeSet<(Moment, u64)>,
    bytes: &mut usize,
    change: impl FnOnce(&mut Known) -> R,
) -> R {
    let (end, cost) = (known.end(), known.cost());
    let result = change(known);
    *bytes = bytes.saturating_sub(cost).saturating_add(known.cost());
    if known.end() != end {
        ends.remove(&(end, hash));
        ends.insert((known.end(), hash));
    }
    result
}

/// Every known value.
#[derive(Debug, Default)]
pub(super) struct Values {
    hashes: RandomState,
    databases: BTreeMap<i32, Database>,
    /// The values of flushed databases, which are freed step by step.
    flushed: Vec<Database>,
    bytes: usize,
    changed: Changed,
    /// The value that became known last, which always has room.
    last: Option<Id>,
    interest: Rc<Interest>,
}

impl Values {
    /// Nothing is known. The names of known values are noted in `interest`.
    pub fn new(interest: &Rc<Interest>) -> Self {
        Self { interest: interest.clone(), ..Self::default() }
    }

    /// What is known about a value.
    pub fn get(&self, db: i32, name: &[u8]) -> Option<&Known> {
        self.databases.get(&db)?.known.get(&self.hash(db, name)?)
    }

    /// The hash of a name, if its value is known.
    fn hash(&self, db: i32, name: &[u8]) -> Option<u64> {
        // Most databases have no known value, and then this costs nothing.
        let database = self.databases.get(&db)?;
        let hash = self.hashes.hash_one(name);
        database.known.get(&hash).is_some_and(|known| *known.name == *name).then_some(hash)
    }

    /// Whether nothing is known, and nothing has to be freed.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.flushed.is_empty()
    }

    /// Changes what is known about a value, if it is known. A value about which nothing has to be known
    /// any more is forgotten.
    pub fn update<R>(
        &mut self,
        db: i32,
        name: &[u8],
        change: impl FnOnce(&mut Known) -> R,
    ) -> Option<R> {
        let hash = self.hash(db, name)?;
        self.change((db, hash), change)
    }

    /// As [`Values::update`]; the value is known from now on.
    pub fn learn<R>(&mut self, db: i32, name: &[u8], change: impl FnOnce(&mut Known) -> R) -> R {
        let hash = self.hashes.hash_one(name);
        let other = self.databases.get(&db).and_then(|database| database.known.get(&hash));
        if other.is_some_and(|known| *known.name != *name) {
            self.forget_one((db, hash));
        }
        self.last = Some((db, hash));
        let Database { known, ends } = self.databases.entry(db).or_default();
        let (result, is_spent) = match known.entry(hash) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                (adjust(known, hash, ends, &mut self.bytes, change), known.is_spent())
            }
            Entry::Vacant(place) => {
                let known = place.insert(Known::new(name, &self.interest));
                let result = change(known);
                self.bytes = self.bytes.saturating_add(known.cost());
                ends.insert((known.end(), hash));
                (result, known.is_spent())
            }
        };
        if is_spent {
            self.forget_one((db, hash));
        }
        result
    }

    fn change<R>(&mut self, (db, hash): Id, change: impl FnOnce(&mut Known) -> R) -> Option<R> {
        let Database { known, ends } = self.databases.get_mut(&db)?;
        let known = known.get_mut(&hash)?;
        let result = adjust(known, hash, ends, &mut self.bytes, change);
        if known.is_spent() {
            self.forget_one((db, hash));
        }
        Some(result)
    }

    fn forget_one(&mut self, (db, hash): Id) {
        let Some(database) = self.databases.get_mut(&db) else { return };
        if let Some(known) = database.known.remove(&hash) {
            database.ends.remove(&(known.end(), hash));
            self.bytes = self.bytes.saturating_sub(known.cost());
            self.changed.remove(known.changed);
        }
        if database.known.is_empty() {
            self.databases.remove(&db);
        }
    }

    /// The queue of changed values.
    pub fn changed(&self) -> &Changed {
        &self.changed
    }

    /// Puts a value into the queue of changed values. Returns whether it was not there.
    pub fn enqueue(&mut self, db: i32, name: &[u8]) -> bool {
        let Some(hash) = self.hash(db, name) else { return false };
        let known = self.databases.get_mut(&db).and_then(|database| database.known.get_mut(&hash));
        let Some(known) = known.filter(|known| known.changed.is_none()) else { return false };
        known.changed = Some(self.changed.push((db, hash)));
        true
    }

    /// Puts a value for which the server refused to write behind all other changed values.
    pub fn requeue(&mut self, db: i32, name: &[u8], now: Moment) {
        let before = self.update(db, name, |known| known.changed.take());
        self.changed.remove(before.flatten());
        self.enqueue(db, name);
        self.changed.pause(now);
    }

    /// Takes the first changed value out of the queue: its database and name, and whether its record is
    /// void. Also `None` if its database was flushed since.
    pub fn next_changed(&mut self) -> Option<(i32, Box<[u8]>, bool)> {
        let (number, (db, hash)) = self.changed.pop()?;
        let known = self.databases.get_mut(&db)?.known.get_mut(&hash)?;
        if known.changed != Some(number) {
            return None;
        }
        known.changed = None;
        Some((db, known.name.clone(), known.void))
    }

    /// Forgets the values of these databases, or of all databases if none is given.
    pub fn forget(&mut self, dbs: &[i32]) {
        let chosen = |db: &i32| dbs.is_empty() || dbs.contains(db);
        let chosen: Vec<i32> = self.databases.keys().copied().filter(chosen).collect();
        self.flushed.extend(chosen.iter().filter_map(|db| self.databases.remove(db)));
    }

    /// Forgets up to `steps` values: those of flushed databases, then those whose time has passed, then
    /// those for which there is no room.
    pub fn sweep(&mut self, steps: usize, bounds: Bounds, now: Moment) {
        for _ in 0..steps {
            if let Some(database) = self.flushed.last_mut() {
                let first = database.ends.pop_first();
                match first.and_then(|(_, hash)| database.known.remove(&hash)) {
                    Some(known) => {
                        self.bytes = self.bytes.saturating_sub(known.cost());
                        self.changed.remove(known.changed);
                    }
                    None => drop(self.flushed.pop()),
                }
                continue;
            }
            let has_passed = |(end, _): &(Moment, Id)| now > *end + bounds.late;
            let first = self.first_to_end(None).filter(has_passed);
            let no_room = self.bytes > bounds.bytes;
            let first = first.or_else(|| no_room.then(|| self.first_to_end(self.last)).flatten());
            let Some((_, id)) = first else { return };
            self.forget_one(id);
        }
    }

    /// The value that ends first, except for one.
    fn first_to_end(&self, except: Option<Id>) -> Option<(Moment, Id)> {
        // Few databases are in use.
        let first = self.databases.iter().filter_map(|(db, database)| {
            let mut ends = database.ends.iter();
            let (end, hash) = ends.find(|(_, hash)| except != Some((*db, *hash)))?;
            Some((*end, (*db, *hash)))
        });
        first.min()
    }

    /// Whether the record is known to be kept about as long as this one.
    pub fn is_recorded(&self, db: i32, name: &[u8], record: Recorded) -> bool {
        let end = self.get(db, name).and_then(|known| known.record_end);
        end.is_some_and(|end| end + Millis(1) >= record.end)
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
