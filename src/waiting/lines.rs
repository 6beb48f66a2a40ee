//! The lines of a family: which clients wait for which name, in which order, and when each name has
//! to be checked again.
//!
//! A name whose state may have changed is *dirty* until it is served. Every other name is due for a
//! check at a known moment. Nothing here knows a server, and no borrow leaves this file.

use crate::interest::{Interest, Interesting};
use crate::time::{Millis, Moment, UnixMs};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// A waiter's place in its line. Places rise in the order of arrival, and each is given out once.
pub type Place = u64;

/// A FIFO. Leaving from the middle leaves a gap; gaps are closed when they outnumber the waiters, so
/// every operation costs O(1) amortized, or O(log n) to find a place.
struct Line<T> {
    places: VecDeque<(Place, Option<T>)>,
    waiting: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), waiting: 0 }
    }
}

impl<T> Line<T> {
    /// Joins at a place: a new one at the end, or one that the waiter had before.
    fn join(&mut self, place: Place, waiter: T) {
        match self.places.binary_search_by_key(&place, |(place, _)| *place) {
            // The gap that the waiter left is still there.
            Ok(index) => {
                if let Some(gap) = self.places.get_mut(index) {
                    gap.1 = Some(waiter);
                }
            }
            Err(index) => self.places.insert(index, (place, Some(waiter))),
        }
        self.waiting += 1;
    }

    /// The first in line.
    fn first(&self) -> Option<(Place, &T)> {
        self.places.iter().find_map(|(place, waiter)| waiter.as_ref().map(|w| (*place, w)))
    }

    /// Leaves, from any place.
    fn leave(&mut self, place: Place) -> Option<T> {
        let index = self.places.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let waiter = self.places.get_mut(index)?.1.take()?;
        self.waiting -= 1;
        while self.places.front().is_some_and(|(_, waiter)| waiter.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.waiting + 16 {
            self.places.retain(|(_, waiter)| waiter.is_some());
        }
        Some(waiter)
    }
}

/// Every name is checked at least this often: some changes raise no event, and the wall clock, which
/// decides when leases expire, can be set.
const CHECK: Millis = Millis(800);

/// The lines of one name: one for each part, such as a consumer group.
struct NameLines<T> {
    lines: BTreeMap<Box<[u8]>, Line<T>>,
    /// Its number in [`Inner::dirty`] while it is dirty.
    dirty: Option<u64>,
    /// When it is checked next at the latest: within [`CHECK`].
    due: Moment,
    end: Option<UnixMs>,
    _interest: Interesting,
}

/// Where a client waits: in the line of one name, or in the lines of several. It has the same place in
/// all of them, joins them together and leaves them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The database.
    pub db: i32,
    /// The name that the client waits for, or the first one.
    pub name: Box<[u8]>,
    /// The part of each name, such as a consumer group; empty where names have no parts.
    pub part: Box<[u8]>,
    /// Further names. All names of an address differ.
    pub further: Box<[Box<[u8]>]>,
}

impl Address {
    /// The one line of a name without parts.
    pub fn of(db: i32, name: &[u8]) -> Self {
        Self { db, name: name.into(), part: Box::default(), further: Box::default() }
    }

    /// Every name that the client waits for.
    pub fn names(&self) -> impl Iterator<Item = &Box<[u8]>> {
        std::iter::once(&self.name).chain(&self.further)
    }
}

/// All lines of one family.
pub struct Lines<T>(RefCell<Inner<T>>);

struct Inner<T> {
    /// By database, of which few are used, and name.
    names: BTreeMap<i32, HashMap<Box<[u8]>, NameLines<T>>>,
    /// The dirty names, in the order in which they became dirty.
    dirty: BTreeMap<u64, (i32, Box<[u8]>)>,
    /// How often a name has become dirty so far.
    marks: u64,
    due: BTreeSet<(Moment, i32, Box<[u8]>)>,
    /// How many clients wait. One that waits for several names counts once.
    waiting: usize,
    next: Place,
    interest: Rc<Interest>,
}

impl<T> Lines<T> {
    /// No lines. The names for which clients wait are noted in `interest`.
    pub fn new(interest: &Rc<Interest>) -> Self {
        Self(RefCell::new(Inner {
            names: BTreeMap::new(),
            dirty: BTreeMap::new(),
            marks: 0,
            due: BTreeSet::new(),
            waiting: 0,
            next: 0,
            interest: interest.clone(),
        }))
    }
}

impl<T: Clone> Lines<T> {
    /// A place behind all others.
    pub fn new_place(&self) -> Place {
        let inner = &mut *self.0.borrow_mut();
        inner.next += 1;
        inner.next
    }

    /// The last place that was given out.
    pub fn last_place(&self) -> Place {
        self.0.borrow().next
    }

    /// Joins every line at `address`: at a [`Lines::new_place`], or at one that the waiter had before
    /// and that is free.
    pub fn join(&self, address: &Address, place: Place, waiter: T, now: Moment) {
        let inner = &mut *self.0.borrow_mut();
        inner.waiting += 1;
        let names = inner.names.entry(address.db).or_default();
        for name in address.names() {
            let lines = names.entry(name.clone()).or_insert_with(|| {
                let due = now + CHECK;
                inner.due.insert((due, address.db, name.clone()));
                let _interest = inner.interest.in_name(name);
                NameLines { lines: BTreeMap::new(), dirty: None, due, end: None, _interest }
            });
            lines.lines.entry(address.part.clone()).or_default().join(place, waiter.clone());
        }
    }

    /// Leaves every line at `address`. Empty lines, names and databases are dropped.
    pub fn leave(&self, address: &Address, place: Place) -> Option<T> {
        self.0.borrow_mut().leave(address, place)
    }

    /// The first in a line, with its place.
    pub fn first(&self, db: i32, name: &[u8], part: &[u8]) -> Option<(Place, T)> {
        let inner = self.0.borrow();
        let (place, waiter) = inner.get(db, name)?.lines.get(part)?.first()?;
        Some((place, waiter.clone()))
    }

    /// Whether clients wait in a line whose name is not dirty.
    pub fn is_clean(&self, db: i32, name: &[u8], part: &[u8]) -> bool {
        let inner = self.0.borrow();
        let name = inner.get(db, name);
        name.is_some_and(|name| name.dirty.is_none() && name.lines.contains_key(part))
    }

    /// Whether clients wait in a line whose name is neither dirty nor due for a check.
    pub fn is_settled(&self, db: i32, name: &[u8], part: &[u8], now: Moment) -> bool {
        let inner = self.0.borrow();
        let name = inner.get(db, name).filter(|name| name.dirty.is_none() && name.due > now);
        name.is_some_and(|name| name.lines.contains_key(part))
    }

    /// The parts of a name for which clients wait.
    pub fn parts(&self, db: i32, name: &[u8]) -> Vec<Box<[u8]>> {
        let inner = self.0.borrow();
        inner.get(db, name).map(|name| name.lines.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many clients wait in all lines.
    pub fn len(&self) -> usize {
        self.0.borrow().waiting
    }

    /// Whether no client waits anywhere.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many clients wait in one line.
    pub fn len_of(&self, db: i32, name: &[u8], part: &[u8]) -> usize {
        let inner = self.0.borrow();
        let line = inner.get(db, name).and_then(|name| name.lines.get(part));
        line.map_or(0, |line| line.waiting)
    }

    /// Marks a name dirty. Returns whether clients wait for it.
    pub fn mark_dirty(&self, db: i32, name: &[u8]) -> bool {
        self.0.borrow_mut().mark_dirty(db, name)
    }

    /// Marks every name of these databases dirty, or of all databases if none is given.
    pub fn mark_databases_dirty(&self, dbs: &[i32]) {
        let inner = &mut *self.0.borrow_mut();
        let chosen = inner.names.iter().filter(|(db, _)| dbs.is_empty() || dbs.contains(db));
        let names: Vec<(i32, Box<[u8]>)> =
            chosen.flat_map(|(db, names)| names.keys().map(|name| (*db, name.clone()))).collect();
        for (db, name) in names {
            inner.mark_dirty(db, &name);
        }
    }

    /// Sets when a name is checked next: at `due`, and within [`CHECK`] at the latest.
    pub fn set_due(&self, db: i32, name: &[u8], due: Option<Moment>, now: Moment) {
        self.0.borrow_mut().set_due(db, name, due, now);
    }

    /// Remembers the known end of what the clients of a name wait for.
    pub fn set_end(&self, db: i32, name: &[u8], end: Option<UnixMs>) {
        let inner = &mut *self.0.borrow_mut();
        if let Some(name) = inner.get_mut(db, name) {
            name.end = end;
        }
    }

    /// The known end of what the clients of a name wait for.
    pub fn end(&self, db: i32, name: &[u8]) -> Option<UnixMs> {
        self.0.borrow().get(db, name)?.end
    }

    /// Marks every name that is due dirty.
    pub fn mark_due_dirty(&self, now: Moment) {
        let inner = &mut *self.0.borrow_mut();
        while let Some((due, _, _)) = inner.due.first()
            && *due <= now
        {
            let Some((_, db, name)) = inner.due.first().cloned() else { return };
            inner.mark_dirty(db, &name);
            inner.set_due(db, &name, None, now);
        }
    }

    /// When the next name has to be served or checked; `now` if one is dirty.
    pub fn next_check(&self, now: Moment) -> Option<Moment> {
        let inner = self.0.borrow();
        if inner.waiting == 0 {
            None
        } else if inner.dirty.is_empty() {
            inner.due.first().map(|(due, _, _)| *due)
        } else {
            Some(now)
        }
    }

    /// The name that has been dirty longest. It is clean from now on.
    pub fn next_dirty(&self) -> Option<(i32, Box<[u8]>)> {
        let inner = &mut *self.0.borrow_mut();
        let (_, (db, name)) = inner.dirty.pop_first()?;
        if let Some(name) = inner.get_mut(db, &name) {
            name.dirty = None;
        }
        Some((db, name))
    }
}

impl<T> Inner<T> {
    fn get(&self, db: i32, name: &[u8]) -> Option<&NameLines<T>> {
        self.names.get(&db)?.get(name)
    }

    fn get_mut(&mut self, db: i32, name: &[u8]) -> Option<&mut NameLines<T>> {
        self.names.get_mut(&db)?.get_mut(name)
    }

    fn leave(&mut self, address: &Address, place: Place) -> Option<T> {
        let mut left = None;
        for name in address.names() {
            left = self.leave_name(address.db, name, &address.part, place).or(left);
        }
        self.waiting -= usize::from(left.is_some());
        left
    }

    fn leave_name(&mut self, db: i32, name: &[u8], part: &[u8], place: Place) -> Option<T> {
        let names = self.names.get_mut(&db)?;
        let lines = names.get_mut(name)?;
        let line = lines.lines.get_mut(part)?;
        let waiter = line.leave(place)?;
        if line.waiting == 0 {
            lines.lines.remove(part);
        }
        if lines.lines.is_empty() {
            self.due.remove(&(lines.due, db, name.into()));
            if let Some(number) = lines.dirty {
                self.dirty.remove(&number);
            }
            names.remove(name);
        }
        if names.is_empty() {
            self.names.remove(&db);
        }
        Some(waiter)
    }

    fn mark_dirty(&mut self, db: i32, name: &[u8]) -> bool {
        let mark = self.marks + 1;
        let Some(lines) = self.get_mut(db, name) else { return false };
        if lines.dirty.is_none() {
            lines.dirty = Some(mark);
            self.marks = mark;
            self.dirty.insert(mark, (db, name.into()));
        }
        true
    }

    fn set_due(&mut self, db: i32, name: &[u8], due: Option<Moment>, now: Moment) {
        let Some(lines) = self.get_mut(db, name) else { return };
        let latest = now + CHECK;
        let due = due.map_or(latest, |due| due.min(latest));
        let before = std::mem::replace(&mut lines.due, due);
        if before != due {
            self.due.remove(&(before, db, name.into()));
            self.due.insert((due, db, name.into()));
        }
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
