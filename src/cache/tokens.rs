//! What this process knows of the values for which it gave out leases: which tokens are good, and
//! which records end when somebody else writes the value.
//!
//! Nothing else tells whether a token is good, so none outlives the process, a promotion, a flush or
//! a swap of its database; [`Tokens`] has the rules. A value is known for `corral.cache-late-ms`
//! beyond its last lease, and while its record lasts, within the bounds of `corral.cache-late-bytes`:
//! the one that ends first is forgotten first.
//!
//! A foreign write comes in the middle of any command, and nothing can be written then. It only marks
//! the value, at a cost that hardly depends on how many values are known. The timer removes its
//! record, a bounded number of them in each step; until then the mark stays.

use super::rules::{Token, Tokens};
use crate::args::Argument;
use crate::server::config::{CACHE_LATE, CACHE_LATE_BYTES};
use crate::server::events::{self, KeyEvent, subscribe};
use crate::server::{MainThread, OwnedStr, Server, Str, unix_us};
use crate::time::{Millis, Moment, UnixMs};
use crate::waiting;
use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

/// What is known of a value.
#[derive(Debug, Default)]
struct Known {
    name: Box<[u8]>,
    tokens: Tokens,
    /// When the last lease ended, or will.
    lease_end: Moment,
    /// Until when there is a record beside the value, if there is one.
    record_end: Option<Moment>,
    /// The record says that the value is stale.
    marked: bool,
    /// When the value expires, if it does.
    deadline: Option<UnixMs>,
    /// Somebody else wrote the value: its record does not count and is to be removed.
    void: bool,
    /// The lease came with its slot from another node of the cluster: it counts, its token does not.
    moved: bool,
    /// Its number in [`Table::changed`] while it is there.
    changed: Option<u64>,
}

/// A record that was written, or found, beside a value.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// Its token.
    pub token: Token,
    /// Until when it is kept.
    pub end: Moment,
    /// Whether it says that the value is stale.
    pub marked: bool,
    /// When the value expires, if it does.
    pub deadline: Option<UnixMs>,
}

impl Known {
    fn no_record(&mut self) {
        self.record_end = None;
        self.marked = false;
        self.void = false;
        self.moved = false;
    }

    fn take_in(&mut self, record: Recorded) {
        self.record_end = Some(record.end);
        self.marked = record.marked;
        self.deadline = record.deadline;
        self.void = false;
        self.moved = false;
    }

    fn end(&self) -> Moment {
        self.lease_end.max(self.record_end.unwrap_or_default())
    }

    fn is_over(&self) -> bool {
        self.tokens.are_over() && self.record_end.is_none()
    }

    /// What it takes in memory, roughly: the nodes of trees are not full.
    fn cost(&self) -> usize {
        const NODES: usize = (size_of::<(u64, Known)>() + size_of::<(Moment, u64)>()) * 3 / 2;
        const ALLOCATIONS: usize = 48;
        NODES + ALLOCATIONS + self.name.len() + self.tokens.size()
    }
}

/// What somebody else did to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Wrote or removed it: it is another value.
    Written,
    /// The server says that its time-to-live ended.
    Expired,
    /// It was evicted.
    Evicted,
    /// It expires at another time, if at all.
    Expires(Option<UnixMs>),
}

/// What the table tells of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It counts as it is.
    Known,
    /// It is from before a restart or a promotion, say: its lease does not count.
    Unknown,
    /// As [`Knowledge::Unknown`], but from a time when this process has seen every write.
    Newer,
    /// Somebody else wrote the value since: nothing in it counts.
    Void,
}

/// The values of one database, by a hash of their names. Should two names share a hash, only one of
/// them is known.
#[derive(Debug, Default)]
struct Database {
    known: BTreeMap<u64, Known>,
    ends: BTreeSet<(Moment, u64)>,
}

/// Every value that is known.
#[derive(Debug, Default)]
struct Table {
    hashes: RandomState,
    databases: BTreeMap<i32, Database>,
    /// What was known of databases that were flushed: it is freed step by step.
    flushed: Vec<Database>,
    bytes: usize,
    /// Where the timer has to look, by number.
    changed: BTreeMap<u64, (i32, u64)>,
    changes: u64,
    /// Since when every write has been seen, in unix µs, as tokens are.
    begun: Token,
    /// The last one that became known, which has room in any case.
    last: Option<(i32, u64)>,
    /// No look before this moment: the server refused the last one.
    refused_until: Moment,
}

impl Table {
    fn hash(&self, db: i32, name: &[u8]) -> Option<u64> {
        // Mostly nothing is known, and then this costs nothing.
        let database = self.databases.get(&db)?;
        let hash = self.hashes.hash_one(name);
        database.known.get(&hash).is_some_and(|known| *known.name == *name).then_some(hash)
    }

    fn of(&self, db: i32, name: &[u8]) -> Option<&Known> {
        self.databases.get(&db)?.known.get(&self.hash(db, name)?)
    }

    /// Changes what is known of a value. What need not be known any more is forgotten.
    fn change<R>(&mut self, db: i32, hash: u64, change: impl FnOnce(&mut Known) -> R) -> Option<R> {
        let database = self.databases.get_mut(&db)?;
        let known = database.known.get_mut(&hash)?;
        let (end, cost) = (known.end(), known.cost());
        let changed = change(known);
        if known.is_over() {
            self.forget_one(db, hash, end, cost);
            return Some(changed);
        }
        self.bytes = self.bytes.saturating_sub(cost).saturating_add(known.cost());
        let new_end = known.end();
        if new_end != end {
            database.ends.remove(&(end, hash));
            database.ends.insert((new_end, hash));
        }
        Some(changed)
    }

    fn forget_one(&mut self, db: i32, hash: u64, end: Moment, cost: usize) {
        let Some(database) = self.databases.get_mut(&db) else { return };
        database.ends.remove(&(end, hash));
        let known = database.known.remove(&hash);
        if database.known.is_empty() {
            self.databases.remove(&db);
        }
        self.bytes = self.bytes.saturating_sub(cost);
        if let Some(number) = known.and_then(|known| known.changed) {
            self.changed.remove(&number);
        }
    }

    /// As [`Table::change`] by name, if the value is known.
    fn update<R>(&mut self, db: i32, name: &[u8], f: impl FnOnce(&mut Known) -> R) -> Option<R> {
        let hash = self.hash(db, name)?;
        self.change(db, hash, f)
    }

    /// As [`Table::change`] by name; the value is known from now on.
    fn learn<R>(&mut self, db: i32, name: &[u8], f: impl FnOnce(&mut Known) -> R) -> Option<R> {
        let hash = self.hashes.hash_one(name);
        let other = self.databases.get(&db).and_then(|database| database.known.get(&hash));
        if let Some(other) = other.filter(|known| *known.name != *name) {
            let (end, cost) = (other.end(), other.cost());
            self.forget_one(db, hash, end, cost);
        }
        self.last = Some((db, hash));
        let Database { known, ends } = self.databases.entry(db).or_default();
        known.entry(hash).or_insert_with(|| {
            let known = Known { name: name.into(), ..Known::default() };
            self.bytes = self.bytes.saturating_add(known.cost());
            ends.insert((known.end(), hash));
            known
        });
        self.change(db, hash, f)
    }

    /// Whether the value can be stored with a token.
    fn is_good(&self, db: i32, name: &[u8], token: Token, now: Moment, late: Millis) -> bool {
        self.of(db, name).is_some_and(|known| {
            known.tokens.given(token).is_some() && now <= known.lease_end.after(late)
        })
    }

    /// A record was written or found. Its own writes come here too, so it counts.
    fn recorded(&mut self, db: i32, name: &[u8], record: Recorded) {
        self.learn(db, name, |known| {
            if known.tokens.are_over() {
                known.tokens = Tokens::of_record(record.token);
            }
            known.take_in(record);
        });
    }

    /// The record of a lease was found that was given out by another node of the cluster. Its own
    /// tokens are of the time before.
    fn moved(&mut self, db: i32, name: &[u8], record: Recorded) {
        self.learn(db, name, |known| {
            known.tokens = Tokens::of_record(record.token);
            known.take_in(record);
            known.moved = true;
        });
    }

    /// What is known of a record with this token.
    fn knowledge(
        &self,
        db: i32,
        name: &[u8],
        token: Token,
        now: Moment,
        late: Millis,
    ) -> Knowledge {
        let known = self.of(db, name);
        let newest = known.map_or(0, |known| known.tokens.newest());
        match known {
            Some(known) if known.void && token <= newest => Knowledge::Void,
            Some(known) if !known.void && token == newest && known.moved => Knowledge::Known,
            Some(_) if token == newest && self.is_good(db, name, token, now, late) => {
                Knowledge::Known
            }
            _ if token > newest && token > self.begun => Knowledge::Newer,
            _ => Knowledge::Unknown,
        }
    }

    /// A lease was given out that ends at `end`, and recorded. True if it follows one that ended by
    /// its time.
    fn lent(&mut self, db: i32, name: &[u8], token: Token, end: Moment, now: Moment) -> bool {
        let follows = self.update(db, name, |known| {
            let before = known.tokens.newest();
            let follows = known.tokens.is_newest(before) && known.lease_end < now;
            known.tokens.give(token, now);
            known.lease_end = end;
            follows
        });
        follows == Some(true)
    }

    /// Somebody else changed a value. True if the timer has to look at it.
    fn change_by_others(
        &mut self,
        db: i32,
        name: &[u8],
        change: Change,
        (unix, now): (UnixMs, Moment),
    ) -> bool {
        let Some(hash) = self.hash(db, name) else { return false };
        let number = self.changes;
        let looks = self.change(db, hash, |known| {
            let looks = match change {
                Change::Expires(deadline) => {
                    known.deadline = deadline;
                    known.marked
                }
                Change::Evicted => known.marked,
                // One that comes before the value's time was a deletion.
                Change::Expired if known.deadline.is_some_and(|end| end <= unix) => known.marked,
                Change::Expired | Change::Written => {
                    known.tokens.end_all();
                    if known.record_end.is_none_or(|end| end < now) {
                        known.no_record();
                    } else {
                        known.void = true;
                    }
                    known.void
                }
            };
            let looks = looks && known.changed.is_none();
            if looks {
                known.changed = Some(number);
            }
            looks
        });
        if looks != Some(true) {
            return false;
        }
        self.changes += 1;
        self.changed.insert(number, (db, hash));
        true
    }

    /// The next value at which the timer has to look, and whether its record is void. `None` also
    /// for one whose database was flushed since.
    fn next_changed(&mut self) -> Option<(i32, Box<[u8]>, bool)> {
        let (number, (db, hash)) = self.changed.pop_first()?;
        let known = self.databases.get_mut(&db)?.known.get_mut(&hash)?;
        if known.changed != Some(number) {
            return None;
        }
        known.changed = None;
        Some((db, known.name.clone(), known.void))
    }

    /// The server refused what the timer wanted to do there: it tries again, behind all others.
    fn look_again(&mut self, db: i32, name: &[u8]) {
        let Some(hash) = self.hash(db, name) else { return };
        let number = self.changes;
        let asked = self.change(db, hash, |known| known.changed.replace(number));
        match asked {
            Some(None) => {}
            Some(Some(before)) => drop(self.changed.remove(&before)),
            None => return,
        }
        self.changes += 1;
        self.changed.insert(number, (db, hash));
    }

    /// Databases were flushed, swapped or replaced; none named means all of them.
    fn forget(&mut self, dbs: &[i32]) {
        let gone = |db: &i32| dbs.is_empty() || dbs.contains(db);
        let gone: Vec<i32> = self.databases.keys().copied().filter(gone).collect();
        self.flushed.extend(gone.iter().filter_map(|db| self.databases.remove(db)));
        self.begun = unix_us();
    }

    /// Forgets up to `steps` values: of flushed databases, those whose time has passed, and those
    /// for which there is no room.
    fn sweep(&mut self, steps: usize, bounds: Bounds, now: Moment) {
        for _ in 0..steps {
            if let Some(database) = self.flushed.last_mut() {
                if let Some((_, hash)) = database.ends.pop_first()
                    && let Some(known) = database.known.remove(&hash)
                {
                    self.bytes = self.bytes.saturating_sub(known.cost());
                    if let Some(number) = known.changed {
                        self.changed.remove(&number);
                    }
                } else {
                    self.flushed.pop();
                }
                continue;
            }
            let passed = |(end, ..): &(Moment, i32, u64)| now > end.after(bounds.late);
            let too_much = self.bytes > bounds.bytes;
            let first = self.first(None).filter(passed);
            let first = first.or_else(|| too_much.then(|| self.first(self.last)).flatten());
            let Some((end, db, hash)) = first else { return };
            let known = self.databases.get(&db).and_then(|database| database.known.get(&hash));
            let Some(cost) = known.map(Known::cost) else { return };
            self.forget_one(db, hash, end, cost);
        }
    }

    /// The value that ends first, but for one.
    fn first(&self, but: Option<(i32, u64)>) -> Option<(Moment, i32, u64)> {
        // Few databases are in use.
        let first = self.databases.iter().filter_map(|(db, database)| {
            let mut ends = database.ends.iter();
            let (end, hash) = ends.find(|(_, hash)| but != Some((*db, *hash)))?;
            Some((*end, *db, *hash))
        });
        first.min()
    }
}

/// What is kept of leases that have ended.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    late: Millis,
    bytes: usize,
}

impl Bounds {
    fn now() -> Self {
        let bytes = usize::try_from(CACHE_LATE_BYTES.get()).unwrap_or(usize::MAX);
        Self { late: Millis(CACHE_LATE.get()), bytes }
    }
}

static TABLE: MainThread<LazyCell<RefCell<Table>>> =
    MainThread::new(LazyCell::new(|| RefCell::new(Table { begun: unix_us(), ..Table::default() })));

/// The events that matter here.
pub const EVENTS: i32 = events::KEYS | events::STRINGS;

/// How many values are forgotten with each lease that is given out: more than it adds.
const SWEEP: usize = 16;

/// How many are forgotten at each of the server's periodic calls.
const PERIODIC_SWEEP: usize = 1024;

/// How soon the timer tries again what the server refused.
const AFTER_REFUSAL: Millis = Millis(100);

/// See [`crate::family::Family::key_changed`].
pub fn key_changed(server: &Server, event: KeyEvent<'_>) {
    let db = server.db();
    if event.own || TABLE.get().borrow().of(db, event.key).is_none() {
        return;
    }
    let change = match event.name {
        b"expired" => Change::Expired,
        b"evicted" => Change::Evicted,
        b"expire" | b"persist" => {
            let key = OwnedStr::new(event.key);
            Change::Expires(server.peek_key(key.borrow()).deadline())
        }
        _ => Change::Written,
    };
    let clock = (server.now(), server.moment());
    let mut table = TABLE.get().borrow_mut();
    let looks_anyway = !table.changed.is_empty();
    let looks = table.change_by_others(db, event.key, change, clock);
    drop(table);
    if looks && !looks_anyway {
        waiting::settle(server);
    }
}

/// A lease was given out and recorded. True if it follows one that ended by its time.
pub fn lent(server: &Server, key: Str<'_>, token: Token, until: UnixMs) -> bool {
    let (now, end) = (server.moment(), server.moment_past(until));
    let (db, name) = (server.db(), key.bytes());
    let mut table = TABLE.get().borrow_mut();
    let follows = table.lent(db, name, token, end, now);
    table.sweep(SWEEP, Bounds::now(), now);
    follows
}

/// A record was written.
pub fn recorded(server: &Server, key: Str<'_>, record: Recorded) {
    subscribe(server, EVENTS);
    let (db, name) = (server.db(), key.bytes());
    let mut table = TABLE.get().borrow_mut();
    table.recorded(db, name, record);
    table.sweep(SWEEP, Bounds::now(), server.moment());
}

/// A record was found; a foreign write is to end it, whoever wrote it.
pub fn found(server: &Server, key: Str<'_>, record: Recorded) {
    let watched =
        |known: &Known| known.record_end.is_some_and(|end| end.after(Millis(1)) >= record.end);
    if !TABLE.get().borrow().of(server.db(), key.bytes()).is_some_and(watched) {
        recorded(server, key, record);
    }
}

/// There is no record any more.
pub fn no_record(server: &Server, key: Str<'_>) {
    TABLE.get().borrow_mut().update(server.db(), key.bytes(), Known::no_record);
}

/// The lease of the newest token ends at another time.
pub fn extended(server: &Server, key: Str<'_>, until: UnixMs) {
    let end = server.moment_past(until);
    let extend = |known: &mut Known| known.lease_end = end;
    TABLE.get().borrow_mut().update(server.db(), key.bytes(), extend);
}

/// The loader with the newest token has given up.
pub fn gave_up(server: &Server, key: Str<'_>) {
    let now = server.moment();
    TABLE.get().borrow_mut().update(server.db(), key.bytes(), |known| {
        known.tokens.gave_up();
        known.lease_end = known.lease_end.min(now);
    });
}

/// The value was stored with a token that was good: whether it is the newest, and how long the load
/// took.
pub fn stored(
    server: &Server,
    key: Str<'_>,
    token: Token,
    deadline: UnixMs,
) -> (bool, Option<Millis>) {
    let now = server.moment();
    let stored = TABLE.get().borrow_mut().update(server.db(), key.bytes(), |known| {
        let given = known.tokens.given(token);
        known.deadline = Some(deadline);
        (known.tokens.stored(token), given.map(|given| now.since(given)))
    });
    stored.unwrap_or((true, None))
}

/// The value was stored without a token, removed or invalidated: no token is good. How long the
/// newest load took, if one was going on.
pub fn ended(server: &Server, key: Str<'_>) -> Option<Millis> {
    let now = server.moment();
    let given = TABLE.get().borrow_mut().update(server.db(), key.bytes(), |known| {
        let given = known.tokens.given(known.tokens.newest());
        known.tokens.end_all();
        given
    });
    given.flatten().map(|given| now.since(given))
}

/// Whether the value can be stored with a token.
pub fn is_good(server: &Server, key: Str<'_>, token: Token) -> bool {
    let late = Bounds::now().late;
    TABLE.get().borrow().is_good(server.db(), key.bytes(), token, server.moment(), late)
}

/// Whether a token is good and the newest.
pub fn is_newest(server: &Server, key: Str<'_>, token: Token) -> bool {
    let newest = |known: &Known| known.tokens.newest() == token;
    TABLE.get().borrow().of(server.db(), key.bytes()).is_some_and(newest)
        && is_good(server, key, token)
}

/// What is known of a record with this token.
pub fn knowledge(server: &Server, key: Str<'_>, token: Token) -> Knowledge {
    let late = Bounds::now().late;
    TABLE.get().borrow().knowledge(server.db(), key.bytes(), token, server.moment(), late)
}

/// A lease was found that another node of the cluster gave out. A foreign write is to end it.
pub fn moved_here(server: &Server, key: Str<'_>, record: Recorded) {
    subscribe(server, EVENTS);
    let mut table = TABLE.get().borrow_mut();
    table.moved(server.db(), key.bytes(), record);
    table.sweep(SWEEP, Bounds::now(), server.moment());
}

/// The loader of a lease that another node of the cluster gave out was refused: somebody else loads.
/// True if there was such a lease.
pub fn disown(server: &Server, key: Str<'_>, token: Token) -> bool {
    let disowned = TABLE.get().borrow_mut().update(server.db(), key.bytes(), |known| {
        known.tokens.newest() == token && std::mem::take(&mut known.moved)
    });
    disowned == Some(true)
}

/// How many values the timer has to look at.
pub fn changed() -> usize {
    TABLE.get().borrow().changed.len()
}

/// The next value at which the timer has to look, if it is still known: its database and name, and
/// whether its record is to be removed.
pub fn next_changed() -> Option<(i32, Box<[u8]>, bool)> {
    TABLE.get().borrow_mut().next_changed()
}

/// The server refused what the timer wanted to do there.
pub fn look_later(server: &Server, key: Str<'_>) {
    let mut table = TABLE.get().borrow_mut();
    table.look_again(server.db(), key.bytes());
    table.refused_until = server.moment().after(AFTER_REFUSAL);
}

/// When the timer has to look at values that others changed.
pub fn next_look(now: Moment) -> Option<Moment> {
    let table = TABLE.get().borrow();
    (!table.changed.is_empty()).then(|| table.refused_until.max(now))
}

/// See [`crate::family::Family::periodic`].
pub fn periodic(server: &Server) {
    let mut table = TABLE.get().borrow_mut();
    if !table.databases.is_empty() || !table.flushed.is_empty() {
        table.sweep(PERIODIC_SWEEP, Bounds::now(), server.moment());
    }
}

/// Databases were flushed, swapped or replaced; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    TABLE.get().borrow_mut().forget(dbs);
}

/// The module is unloaded.
pub fn forget() {
    TABLE.get().take();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Millis = Millis(60_000);
    const ROOMY: Bounds = Bounds { late: LATE, bytes: usize::MAX };

    fn at(ms: i64) -> Moment {
        Moment(ms * 1000)
    }

    fn record(token: Token, end: Moment) -> Recorded {
        Recorded { token, end, marked: false, deadline: None }
    }

    /// Gives out a lease from `from` to `until`.
    fn lend(table: &mut Table, name: &str, token: Token, from: i64, until: i64) -> bool {
        table.recorded(0, name.as_bytes(), record(token, at(until)));
        table.lent(0, name.as_bytes(), token, at(until), at(from))
    }

    /// The sum of what is known agrees with the values, and everything has its end.
    fn check(table: &Table) {
        let all = table.databases.values().chain(&table.flushed);
        let cost: usize = all.flat_map(|db| db.known.values()).map(Known::cost).sum();
        assert_eq!(table.bytes, cost);
        for database in table.databases.values() {
            let ends = database.known.iter().map(|(hash, known)| (known.end(), *hash));
            assert_eq!(ends.collect::<BTreeSet<_>>(), database.ends);
            assert!(!database.known.is_empty());
        }
        for (db, database) in &table.databases {
            for (hash, known) in &database.known {
                if let Some(number) = known.changed {
                    assert_eq!(table.changed.get(&number), Some(&(*db, *hash)));
                }
            }
        }
    }

    #[test]
    fn a_token_is_good_until_some_time_after_the_last_lease() {
        let mut table = Table::default();
        assert!(!lend(&mut table, "k", 1, 0, 100));
        assert!(lend(&mut table, "k", 2, 150, 250), "it follows one that ended by its time");
        for (token, ms, good) in
            [(1, 0, true), (1, 60_250, true), (1, 60_251, false), (2, 60_250, true), (3, 0, false)]
        {
            assert_eq!(table.is_good(0, b"k", token, at(ms), LATE), good, "{token} at {ms}");
        }
        assert!(!table.is_good(0, b"other", 1, at(0), LATE));
        assert!(!table.is_good(1, b"k", 1, at(0), LATE));
        table.sweep(9, ROOMY, at(60_250));
        assert!(table.of(0, b"k").is_some());
        table.sweep(9, ROOMY, at(60_251));
        assert!(table.of(0, b"k").is_none());
        assert!(table.databases.is_empty());
        check(&table);
    }

    #[test]
    fn what_ends_first_is_forgotten_first_where_there_is_no_room() {
        let mut table = Table::default();
        for n in 0..1000 {
            // In an order that is not that of their ends.
            let token = (n * 7919 + 918) % 1000;
            lend(&mut table, &token.to_string(), token + 1, 0, token + 1);
        }
        check(&table);
        let bounds = Bounds { late: LATE, bytes: table.bytes / 2 };
        table.sweep(100, bounds, at(0));
        let known: Vec<_> =
            (0..1000).filter(|n| table.of(0, n.to_string().as_bytes()).is_some()).collect();
        assert_eq!(known, (100..1000).collect::<Vec<_>>(), "in steps");
        table.sweep(1000, bounds, at(0));
        check(&table);
        assert!(table.bytes <= bounds.bytes);
        assert!(table.of(0, b"999").is_some());
        // One of them has room in any case.
        lend(&mut table, "last", 2000, 0, 1);
        table.sweep(1000, Bounds { late: LATE, bytes: 0 }, at(0));
        assert_eq!(table.databases.get(&0).map(|database| database.known.len()), Some(1));
        assert!(table.of(0, b"last").is_some());
        check(&table);
        // Until its time has passed.
        table.sweep(1, Bounds { late: LATE, bytes: 0 }, at(60_002));
        assert!(table.databases.is_empty());
    }

    #[test]
    fn a_flushed_database_is_unknown_at_once_and_freed_step_by_step() {
        let mut table = Table::default();
        for n in 0..1000 {
            lend(&mut table, &n.to_string(), n + 1, 0, 1000);
            assert!(table.change_by_others(0, n.to_string().as_bytes(), Change::Written, CLOCK));
        }
        table.recorded(1, b"k", record(1, at(1000)));
        table.forget(&[0]);
        assert!(table.of(0, b"7").is_none());
        assert!(table.of(1, b"k").is_some());
        lend(&mut table, "7", 2000, 0, 1000);
        check(&table);
        table.sweep(999, ROOMY, at(0));
        assert_eq!(table.flushed.len(), 1);
        table.sweep(2, ROOMY, at(0));
        assert_eq!(table.flushed.len(), 0);
        assert!(table.changed.is_empty());
        assert!(table.is_good(0, b"7", 2000, at(0), LATE));
        check(&table);
        table.forget(&[]);
        assert!(table.of(1, b"k").is_none());
    }

    /// Long before every deadline here.
    const CLOCK: (UnixMs, Moment) = (UnixMs(1_000_000), Moment(0));

    #[test]
    fn a_foreign_write_marks_the_record_until_it_has_gone() {
        let mut table = Table::default();
        lend(&mut table, "k", 1, 0, 1000);
        assert!(table.change_by_others(0, b"k", Change::Written, CLOCK));
        assert!(!table.change_by_others(0, b"k", Change::Written, CLOCK), "once is enough");
        assert!(!table.is_good(0, b"k", 1, at(0), LATE));
        assert_eq!(table.next_changed(), Some((0, b"k".as_slice().into(), true)));
        assert_eq!(table.next_changed(), None);
        // The server refused to remove it.
        assert!(table.of(0, b"k").is_some_and(|known| known.void));
        table.look_again(0, b"k");
        assert_eq!(table.next_changed(), Some((0, b"k".as_slice().into(), true)));
        table.update(0, b"k", Known::no_record);
        assert!(table.of(0, b"k").is_none());
        check(&table);
        // A lease that follows counts, and its record is not removed.
        lend(&mut table, "k", 2, 0, 1000);
        table.change_by_others(0, b"k", Change::Written, CLOCK);
        lend(&mut table, "k", 3, 0, 1000);
        assert_eq!(table.next_changed(), Some((0, b"k".as_slice().into(), false)));
        assert!(table.is_good(0, b"k", 3, at(0), LATE));
        // Where no record can be there any more, nothing has to be removed.
        assert!(!table.change_by_others(0, b"k", Change::Written, (UnixMs(0), at(1001))));
        assert!(table.of(0, b"k").is_none());
        check(&table);
    }

    #[test]
    fn an_expiry_ends_a_lease_only_before_the_values_time() {
        let known = |deadline: Option<i64>, marked: bool| {
            let mut table = Table::default();
            let deadline = deadline.map(UnixMs);
            table.recorded(0, b"k", Recorded { token: 1, end: at(1000), marked, deadline });
            table.lent(0, b"k", 1, at(1000), at(0));
            table
        };
        let expired = |table: &mut Table, ms| {
            table.change_by_others(0, b"k", Change::Expired, (UnixMs(ms), at(0)))
        };
        for (deadline, ms, good) in [
            (Some(500), 499, false),
            (Some(500), 500, true),
            (Some(500), 501, true),
            (None, 1, false),
        ] {
            let mut table = known(deadline, false);
            assert_eq!(expired(&mut table, ms), !good);
            assert_eq!(table.is_good(0, b"k", 1, at(0), LATE), good, "{deadline:?} at {ms}");
        }
        // Somebody gave it another time meanwhile.
        let mut table = known(None, false);
        assert!(!table.change_by_others(0, b"k", Change::Expires(Some(UnixMs(9))), CLOCK));
        assert!(!expired(&mut table, 9));
        assert!(table.is_good(0, b"k", 1, at(0), LATE));
        // The timer looks after the mark of a stale value.
        for change in [Change::Expired, Change::Evicted, Change::Expires(None)] {
            let mut table = known(Some(9), true);
            assert!(table.change_by_others(0, b"k", change, CLOCK), "{change:?}");
            assert_eq!(table.next_changed(), Some((0, b"k".as_slice().into(), false)));
            assert!(table.is_good(0, b"k", 1, at(0), LATE));
        }
    }

    #[test]
    fn what_need_not_be_known_is_not() {
        let mut table = Table::default();
        lend(&mut table, "k", 1, 0, 100);
        table.update(0, b"k", |known| known.tokens.stored(1));
        assert!(table.of(0, b"k").is_some(), "its record is still there");
        table.update(0, b"k", Known::no_record);
        assert!(table.of(0, b"k").is_none());
        // An older one stores: the newer loader goes on.
        lend(&mut table, "k", 2, 0, 100);
        lend(&mut table, "k", 3, 200, 300);
        table.update(0, b"k", |known| known.tokens.stored(2));
        assert!(table.is_good(0, b"k", 3, at(200), LATE));
        table.update(0, b"k", |known| known.tokens.end_all());
        table.update(0, b"k", Known::no_record);
        assert_eq!((table.bytes, table.databases.len()), (0, 0));
        check(&table);
    }

    #[test]
    fn a_lease_that_came_with_its_slot_counts_until_its_loader_is_refused() {
        let mut table = Table { begun: 100, ..Table::default() };
        let known = |table: &Table, token| table.knowledge(0, b"k", token, at(0), LATE);
        assert_eq!(known(&table, 100), Knowledge::Unknown, "from before a restart");
        assert_eq!(known(&table, 101), Knowledge::Newer);
        table.moved(0, b"k", record(101, at(1000)));
        assert_eq!(known(&table, 101), Knowledge::Known);
        assert!(!table.is_good(0, b"k", 101, at(0), LATE));
        table.update(0, b"k", |known| known.moved = false);
        assert_eq!(known(&table, 101), Knowledge::Unknown);
        // The slot was away, and came back with another lease.
        lend(&mut table, "k", 102, 0, 1000);
        assert_eq!(known(&table, 103), Knowledge::Newer);
        table.moved(0, b"k", record(103, at(1000)));
        assert!(!table.is_good(0, b"k", 102, at(0), LATE));
        // What others wrote ends the older record, and no newer one.
        table.change_by_others(0, b"k", Change::Written, CLOCK);
        assert_eq!(known(&table, 103), Knowledge::Void);
        assert_eq!(known(&table, 104), Knowledge::Newer);
        check(&table);
    }
}
