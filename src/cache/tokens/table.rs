//! The table of tokens: [`Values`] behind a `RefCell` that is never borrowed outside this file.

use super::super::rules::Token;
use super::values::{Bounds, Values};
use super::{Change, Knowledge, Known, Recorded, knowledge};
use crate::interest::Interest;
use crate::time::{Millis, Moment, UnixMs};
use std::cell::RefCell;
use std::rc::Rc;

/// How many values are forgotten at each record and lease: more than one adds.
const SWEEP: usize = 16;

/// How many are forgotten at each of the server's periodic events.
const PERIODIC_SWEEP: usize = 1024;

/// What is known about values and their tokens.
pub struct TokenTable(RefCell<Table>);

struct Table {
    values: Values,
    /// Since when this process has seen every write, in µs since the Unix epoch, as tokens are.
    begun: Token,
}

impl TokenTable {
    /// An empty table, which sees every write from `begun` on, in µs since the Unix epoch.
    pub fn new(begun: Token, interest: &Rc<Interest>) -> Self {
        Self(RefCell::new(Table { values: Values::new(interest), begun }))
    }

    fn update<R>(&self, db: i32, key: &[u8], change: impl FnOnce(&mut Known) -> R) -> Option<R> {
        self.0.borrow_mut().values.update(db, key, change)
    }

    /// Whether anything is known about a value.
    pub fn is_known(&self, db: i32, key: &[u8]) -> bool {
        self.0.borrow().values.get(db, key).is_some()
    }

    /// Whether the value can be stored with a token.
    pub fn is_good(&self, db: i32, key: &[u8], token: Token, now: Moment, late: Millis) -> bool {
        let table = self.0.borrow();
        table.values.get(db, key).is_some_and(|known| known.is_good(token, now, late))
    }

    /// Whether a token is good and the newest.
    pub fn is_newest(&self, db: i32, key: &[u8], token: Token, now: Moment, late: Millis) -> bool {
        let table = self.0.borrow();
        let known = table.values.get(db, key).filter(|known| known.tokens.newest() == token);
        known.is_some_and(|known| known.is_good(token, now, late))
    }

    /// How far a record with this token counts.
    pub fn knowledge(
        &self,
        db: i32,
        key: &[u8],
        token: Token,
        now: Moment,
        late: Millis,
    ) -> Knowledge {
        let Table { values, begun } = &*self.0.borrow();
        knowledge(values.get(db, key), token, *begun, now, late)
    }

    /// A record was written.
    pub fn record(&self, db: i32, key: &[u8], record: Recorded, now: Moment, bounds: Bounds) {
        let values = &mut self.0.borrow_mut().values;
        values.learn(db, key, |known| known.record(record));
        values.sweep(SWEEP, bounds, now);
    }

    /// A record was read. From now on a foreign write ends it, no matter which process wrote it.
    pub fn watch(&self, db: i32, key: &[u8], record: Recorded, now: Moment, bounds: Bounds) {
        let is_watched = self.0.borrow().values.is_recorded(db, key, record);
        if !is_watched {
            self.record(db, key, record, now, bounds);
        }
    }

    /// The record of a lease was read that another cluster node gave out. From now on a foreign write
    /// ends it.
    pub fn move_here(&self, db: i32, key: &[u8], record: Recorded, now: Moment, bounds: Bounds) {
        let values = &mut self.0.borrow_mut().values;
        values.learn(db, key, |known| known.move_here(record));
        values.sweep(SWEEP, bounds, now);
    }

    /// There is no record any more.
    pub fn forget_record(&self, db: i32, key: &[u8]) {
        self.update(db, key, Known::forget_record);
    }

    /// A lease was given out that ends at `end`, and its record was written. Returns whether it follows
    /// a lease that ended by its time.
    pub fn lend(
        &self,
        db: i32,
        key: &[u8],
        record: Recorded,
        end: Moment,
        now: Moment,
        bounds: Bounds,
    ) -> bool {
        let values = &mut self.0.borrow_mut().values;
        let follows = values.learn(db, key, |known| {
            known.record(record);
            known.lend(record.token, end, now)
        });
        values.sweep(SWEEP, bounds, now);
        follows
    }

    /// The lease of the newest token ends at another time.
    pub fn extend(&self, db: i32, key: &[u8], end: Moment) {
        self.update(db, key, |known| known.lease_end = end);
    }

    /// The loader with the newest token has given up.
    pub fn give_up(&self, db: i32, key: &[u8], now: Moment) {
        self.update(db, key, |known| {
            known.tokens.gave_up();
            known.lease_end = known.lease_end.min(now);
        });
    }

    /// The value was stored with a token that was good. Returns whether that token is the newest, and
    /// how long the load took.
    pub fn store(
        &self,
        db: i32,
        key: &[u8],
        token: Token,
        deadline: UnixMs,
        now: Moment,
    ) -> (bool, Option<Millis>) {
        let stored = self.update(db, key, |known| {
            let given = known.tokens.given(token);
            known.deadline = Some(deadline);
            (known.tokens.stored(token), given.map(|given| now.since(given)))
        });
        stored.unwrap_or((true, None))
    }

    /// The value was stored without a token, removed or invalidated: no token is good. Returns how long
    /// the newest load took, if one was running.
    pub fn end_all(&self, db: i32, key: &[u8], now: Moment) -> Option<Millis> {
        let given = self.update(db, key, |known| {
            let given = known.tokens.given(known.tokens.newest());
            known.tokens.end_all();
            given
        });
        given.flatten().map(|given| now.since(given))
    }

    /// The loader whose lease another cluster node gave out was refused: another client may load.
    /// Returns whether there was such a lease.
    pub fn disown(&self, db: i32, key: &[u8], token: Token) -> bool {
        let disowned = self.update(db, key, |known| {
            known.tokens.newest() == token && std::mem::take(&mut known.moved)
        });
        disowned == Some(true)
    }

    /// A value was changed by another client or by the server, now, which is `unix` on the wall clock.
    /// Returns whether the timer has to be armed: it has to check this value, and none had to be
    /// checked before.
    pub fn change(&self, db: i32, key: &[u8], change: Change, unix: UnixMs, now: Moment) -> bool {
        let values = &mut self.0.borrow_mut().values;
        let is_first = values.changed().len() == 0;
        let check = values.update(db, key, |known| known.change(change, unix, now));
        check == Some(true) && values.enqueue(db, key) && is_first
    }

    /// How many changed values the timer has to check.
    pub fn changed(&self) -> usize {
        self.0.borrow().values.changed().len()
    }

    /// The next changed value, if it is still known: its database and name, and whether its record has
    /// to be removed.
    pub fn next_changed(&self) -> Option<(i32, Box<[u8]>, bool)> {
        self.0.borrow_mut().values.next_changed()
    }

    /// The server refused to write what a changed value needs: it is checked again a little later.
    pub fn check_later(&self, db: i32, key: &[u8], now: Moment) {
        self.0.borrow_mut().values.requeue(db, key, now);
    }

    /// When the timer has to check a changed value.
    pub fn next_check(&self, now: Moment) -> Option<Moment> {
        self.0.borrow().values.changed().next_check(now)
    }

    /// The server's periodic event: forgets values that need not be known.
    pub fn periodic(&self, now: Moment, bounds: Bounds) {
        let values = &mut self.0.borrow_mut().values;
        if !values.is_empty() {
            values.sweep(PERIODIC_SWEEP, bounds, now);
        }
    }

    /// Forgets the values of these databases, or of all databases if none is given. Every write from
    /// `begun` on is seen.
    pub fn forget(&self, dbs: &[i32], begun: Token) {
        let table = &mut *self.0.borrow_mut();
        table.values.forget(dbs);
        table.begun = begun;
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
