//! Which identifiers wait for which lock. A waiter whose time is up, or whose connection is lost,
//! keeps its place in the line for a moment, so that a client which asks again because of its own
//! socket time-out does not lose its turn. A place that is only kept delays nobody.

use super::Lock;
use crate::error::Error;
use crate::server::Str;
use crate::time::{Millis, Moment};
use crate::waiting::{Rank, Waiter};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

/// How long a place is kept for an identifier that has left it.
const KEPT: Millis = Millis(1000);

/// The identifier for which a client waits: the second argument of its command.
pub fn identifier(waiter: &Waiter<Lock>) -> Result<Str<'_>, Error> {
    waiter.arg(2)
}

/// A hash that stands for a database, the key of a lock and an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(u64);

/// The places of the identifiers that wait, or did so a moment ago.
#[derive(Default)]
pub struct Ranks(RefCell<Inner>);

#[derive(Default)]
struct Inner {
    hashes: RandomState,
    waiting: HashMap<RequestKey, Rc<Waiter<Lock>>>,
    /// The place that an identifier left, and until when it is kept.
    kept: HashMap<RequestKey, (Rank, Moment)>,
    expiries: VecDeque<(Moment, RequestKey)>,
}

/// What is known of an identifier that asks for a lock.
pub struct Known {
    /// Its key in this table.
    pub key: RequestKey,
    /// Its older request, which still waits.
    pub older: Option<Rc<Waiter<Lock>>>,
    /// The place of that request, or the one that is kept for the identifier.
    pub rank: Option<Rank>,
}

impl Ranks {
    /// Looks up an identifier that asks for the lock at `key`.
    pub fn find(&self, db: i32, key: &[u8], identifier: &[u8], now: Moment) -> Known {
        let inner = &mut *self.0.borrow_mut();
        inner.drop_expired(now);
        let key = inner.key(db, key, identifier);
        let older = inner.waiting.get(&key).cloned();
        let kept = inner.kept.get(&key).filter(|(_, until)| *until >= now).map(|(rank, _)| *rank);
        let rank = older.as_ref().map(|older| older.rank()).or(kept);
        Known { key, older, rank }
    }

    /// An identifier has begun to wait.
    pub fn joined(&self, key: RequestKey, waiter: Rc<Waiter<Lock>>) {
        let inner = &mut *self.0.borrow_mut();
        inner.kept.remove(&key);
        inner.waiting.insert(key, waiter);
    }

    /// A waiter has left its line without a grant; its place is kept for a moment if `keep` is set.
    pub fn left(&self, waiter: &Waiter<Lock>, keep: bool, now: Moment) {
        let inner = &mut *self.0.borrow_mut();
        let key = inner.key_of(waiter);
        inner.drop_expired(now);
        inner.waiting.remove(&key);
        if keep {
            let until = now + KEPT;
            inner.kept.insert(key, (waiter.rank(), until));
            inner.expiries.push_back((until, key));
        }
    }

    /// A waiter was granted the lock.
    pub fn granted(&self, waiter: &Waiter<Lock>) {
        let inner = &mut *self.0.borrow_mut();
        let key = inner.key_of(waiter);
        inner.waiting.remove(&key);
    }

    /// Forgets an identifier. Returns its request if it still waits.
    pub fn withdraw(&self, db: i32, key: &[u8], identifier: &[u8]) -> Option<Rc<Waiter<Lock>>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.waiting.is_empty() && inner.kept.is_empty() {
            return None;
        }
        let key = inner.key(db, key, identifier);
        inner.kept.remove(&key);
        inner.waiting.remove(&key)
    }
}

impl Inner {
    fn key(&self, db: i32, key: &[u8], identifier: &[u8]) -> RequestKey {
        RequestKey(self.hashes.hash_one((db, key, identifier)))
    }

    fn key_of(&self, waiter: &Waiter<Lock>) -> RequestKey {
        let identifier = identifier(waiter).map(Str::bytes).unwrap_or_default();
        self.key(waiter.address.db, &waiter.address.name, identifier)
    }

    /// Drops places that were kept long enough: more of them than one call adds, but a bounded
    /// number.
    fn drop_expired(&mut self, now: Moment) {
        const AT_ONCE: usize = 16;
        for _ in 0..AT_ONCE {
            let Some((until, key)) = self.expiries.front().copied() else { break };
            if until >= now {
                break;
            }
            self.expiries.pop_front();
            // The identifier can have come back, and left again, since.
            if self.kept.get(&key).is_some_and(|(_, until)| *until < now) {
                self.kept.remove(&key);
            }
        }
    }
}
