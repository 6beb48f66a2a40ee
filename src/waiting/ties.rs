//! The leases that end when the connection of their client closes. Nothing here knows a server, and no
//! borrow leaves this file.
//!
//! Each lease is tied to at most one client. The ties of a client form a chain, in the order in which
//! they were made, so that a disconnect costs O(1): it only puts the client into the queue of those
//! that are gone. The leases are then ended one by one. A lease that is tied again, or ends otherwise,
//! leaves the chain that it is in. Ties of leases whose time has passed are dropped bit by bit.

use crate::time::{Moment, UnixMs};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};

/// How many leases of a family can be tied at once.
pub const MOST_TIES: usize = 1 << 20;

/// A hash that stands for a lease; never 0, which stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TieKey(u64);

/// A lease that is tied to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tie<T> {
    /// The client.
    pub client: u64,
    /// The database of the lease.
    pub db: i32,
    /// When the lease ends by its time, as far as known.
    pub end: UnixMs,
    /// The lease.
    pub lease: T,
}

/// What became of a lease that was to be tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is tied.
    Tied,
    /// The client is gone already: the lease has to be ended.
    Broken,
    /// Too many leases are tied. This one is not.
    Full,
}

/// A tie and its neighbors in the chain of its client.
struct Link<T> {
    tie: Tie<T>,
    previous: u64,
    next: u64,
}

/// The first and the last tie of a client.
#[derive(Clone, Copy)]
struct Chain {
    first: u64,
    last: u64,
}

/// The client of ties whose lease could not be ended yet. No client has this id.
const REFUSED: u64 = 0;

/// All ties of one family.
pub struct Ties<T>(RefCell<Inner<T>>);

struct Inner<T> {
    /// How many there may be.
    most: usize,
    hashes: RandomState,
    links: HashMap<u64, Link<T>>,
    chains: HashMap<u64, Chain>,
    ends: BTreeSet<(UnixMs, u64)>,
    /// How many ties each database has.
    databases: BTreeMap<i32, usize>,
    /// Clients that are gone and whose leases have not been ended yet.
    gone: VecDeque<u64>,
    /// The client that went last. While the server frees it, it can still be granted something.
    last_gone: u64,
    /// When the leases that could not be ended are tried again.
    again: Moment,
}

impl<T> Default for Ties<T> {
    fn default() -> Self {
        Self::bounded(MOST_TIES)
    }
}

impl<T> Ties<T> {
    fn bounded(most: usize) -> Self {
        Self(RefCell::new(Inner::new(most, RandomState::new(), REFUSED)))
    }

    /// The key of a lease. Another process has other keys.
    pub fn key(&self, lease: impl Hash) -> TieKey {
        TieKey(self.0.borrow().hashes.hash_one(lease).max(1))
    }

    /// Whether no lease is tied.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().links.is_empty()
    }

    /// How many leases are tied.
    pub fn len(&self) -> usize {
        self.0.borrow().links.len()
    }

    /// Ties a lease to a client, and to no other.
    pub fn add(&self, key: TieKey, tie: Tie<T>) -> Added {
        let inner = &mut *self.0.borrow_mut();
        inner.remove(key.0);
        if inner.links.len() >= inner.most {
            return Added::Full;
        }
        let client = tie.client;
        let is_first = inner.insert(key.0, tie);
        if client != inner.last_gone {
            return Added::Tied;
        }
        // A client with other ties is in the queue already.
        if is_first {
            inner.gone.push_back(client);
        }
        Added::Broken
    }

    /// A lease is tied to no client any more.
    pub fn remove(&self, key: TieKey) {
        self.0.borrow_mut().remove(key.0);
    }

    /// A lease ends at another time.
    pub fn renew(&self, key: TieKey, end: UnixMs) {
        self.renew_with(key, |_| end);
    }

    /// As [`Ties::renew`], at a time that depends on the tie.
    pub fn renew_with(&self, key: TieKey, end: impl FnOnce(&Tie<T>) -> UnixMs) {
        let Inner { links, ends, .. } = &mut *self.0.borrow_mut();
        if let Some(link) = links.get_mut(&key.0) {
            let end = end(&link.tie);
            let before = std::mem::replace(&mut link.tie.end, end);
            ends.remove(&(before, key.0));
            ends.insert((end, key.0));
        }
    }

    /// The connection of a client has closed. Returns whether leases were tied to it.
    pub fn disconnect(&self, client: u64) -> bool {
        let inner = &mut *self.0.borrow_mut();
        inner.last_gone = client;
        let has_ties = inner.chains.contains_key(&client);
        if has_ties {
            inner.gone.push_back(client);
        }
        has_ties
    }

    /// Takes out the next lease that has to be ended.
    pub fn next_broken(&self, now: Moment) -> Option<(TieKey, Tie<T>)> {
        let inner = &mut *self.0.borrow_mut();
        while let Some(client) = inner.gone.front() {
            if let Some(found) = inner.take_first(*client) {
                return Some(found);
            }
            inner.gone.pop_front();
        }
        if inner.again > now {
            return None;
        }
        inner.take_first(REFUSED)
    }

    /// Puts leases back that could not be ended now. They are tried again at `again`.
    pub fn put_back(&self, refused: Vec<(TieKey, Tie<T>)>, again: Moment) {
        let inner = &mut *self.0.borrow_mut();
        inner.again = again;
        for (key, tie) in refused {
            // Meanwhile it can have been tied to another client.
            if !inner.links.contains_key(&key.0) {
                inner.insert(key.0, Tie { client: REFUSED, ..tie });
            }
        }
    }

    /// When leases have to be ended next, if there are any; `now` if they can be at once.
    pub fn next_check(&self, now: Moment) -> Option<Moment> {
        let inner = &mut *self.0.borrow_mut();
        while let Some(client) = inner.gone.front() {
            if inner.chains.contains_key(client) {
                return Some(now);
            }
            inner.gone.pop_front();
        }
        inner.chains.contains_key(&REFUSED).then(|| inner.again.max(now))
    }

    /// Drops ties of leases whose time has passed, at most `most`. It stops at one that `is_over` does
    /// not confirm.
    pub fn drop_ended(&self, now: UnixMs, most: usize, is_over: impl Fn(&Tie<T>) -> bool) {
        let inner = &mut *self.0.borrow_mut();
        for _ in 0..most {
            let Some(key) = inner.first_ended(now) else { return };
            if !inner.links.get(&key).is_some_and(|link| is_over(&link.tie)) {
                return;
            }
            inner.remove(key);
        }
    }

    /// Takes out a tie of a lease whose time has passed.
    pub fn take_ended(&self, now: UnixMs) -> Option<(TieKey, Tie<T>)> {
        let inner = &mut *self.0.borrow_mut();
        let key = inner.first_ended(now)?;
        inner.remove(key).map(|tie| (TieKey(key), tie))
    }

    /// Forgets the ties of these databases, or of all databases if none is given.
    pub fn forget(&self, dbs: &[i32]) {
        let inner = &mut *self.0.borrow_mut();
        let concerns = |db: &i32| dbs.is_empty() || dbs.contains(db);
        if !inner.databases.keys().any(concerns) {
            return;
        }
        if inner.databases.keys().all(concerns) {
            *inner = Inner::new(inner.most, inner.hashes.clone(), inner.last_gone);
            return;
        }
        let keys: Vec<u64> = inner
            .links
            .iter()
            .filter(|(_, link)| concerns(&link.tie.db))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            inner.remove(key);
        }
    }
}

impl<T> Inner<T> {
    fn new(most: usize, hashes: RandomState, last_gone: u64) -> Self {
        Self {
            most,
            hashes,
            links: HashMap::new(),
            chains: HashMap::new(),
            ends: BTreeSet::new(),
            databases: BTreeMap::new(),
            gone: VecDeque::new(),
            last_gone,
            again: Moment::default(),
        }
    }

    /// Adds a tie at the end of the chain of its client. Returns whether it is the only one there.
    fn insert(&mut self, key: u64, tie: Tie<T>) -> bool {
        let only = Chain { first: key, last: key };
        let chain = self.chains.entry(tie.client).or_insert(only);
        let is_only = chain.first == key;
        let previous = if is_only { 0 } else { std::mem::replace(&mut chain.last, key) };
        if let Some(previous) = self.links.get_mut(&previous) {
            previous.next = key;
        }
        self.ends.insert((tie.end, key));
        *self.databases.entry(tie.db).or_default() += 1;
        self.links.insert(key, Link { tie, previous, next: 0 });
        is_only
    }

    fn remove(&mut self, key: u64) -> Option<Tie<T>> {
        let Link { tie, previous, next } = self.links.remove(&key)?;
        self.ends.remove(&(tie.end, key));
        if let Some(number) = self.databases.get_mut(&tie.db) {
            *number -= 1;
            if *number == 0 {
                self.databases.remove(&tie.db);
            }
        }
        if let Some(previous) = self.links.get_mut(&previous) {
            previous.next = next;
        }
        if let Some(next) = self.links.get_mut(&next) {
            next.previous = previous;
        }
        if previous == 0 && next == 0 {
            self.chains.remove(&tie.client);
        } else if let Some(chain) = self.chains.get_mut(&tie.client) {
            if previous == 0 {
                chain.first = next;
            }
            if next == 0 {
                chain.last = previous;
            }
        }
        give_memory_back(&mut self.links);
        give_memory_back(&mut self.chains);
        Some(tie)
    }

    fn take_first(&mut self, client: u64) -> Option<(TieKey, Tie<T>)> {
        let key = self.chains.get(&client)?.first;
        self.remove(key).map(|tie| (TieKey(key), tie))
    }

    fn first_ended(&self, now: UnixMs) -> Option<u64> {
        self.ends.first().filter(|(end, _)| *end < now).map(|(_, key)| *key)
    }
}

/// A map that only loses its entries keeps its memory.
fn give_memory_back<V>(map: &mut HashMap<u64, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
#[path = "ties_tests.rs"]
mod tests;
