//! What happened to each lock, for LOCK.INFO and the totals: in memory, for the locks that were
//! used last.

use super::{EXPIRED, HOLD_MS};
use crate::server::MainThread;
use crate::time::UnixMs;
use lru::LruCache;
use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;

/// The counters of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Grants.
    pub acquired: u64,
    /// Requests that were not granted at once.
    pub contended: u64,
    /// Waits that ended without a grant because their time ran out.
    pub timeouts: u64,
    /// Leases that ended without a release.
    pub expired: u64,
    /// Time from request to grant of those that waited.
    pub wait_ms_sum: u64,
    /// The longest of them.
    pub wait_ms_max: u64,
    /// Time from grant to release.
    pub hold_ms_sum: u64,
    /// The longest of them.
    pub hold_ms_max: u64,
    /// Who was granted it, by a hash of the identifier, and when; as many as fit.
    holders: Vec<(u64, UnixMs)>,
}

/// How many locks of a database are remembered.
const LOCKS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How many holders of a lock are remembered.
const HOLDERS: usize = 64;

type Records = HashMap<i32, LruCache<Box<[u8]>, Record>>;

static RECORDS: MainThread<LazyCell<RefCell<Records>>> =
    MainThread::new(LazyCell::new(RefCell::default));

static HASHES: MainThread<LazyCell<RandomState>> = MainThread::new(LazyCell::new(RandomState::new));

fn hash(identifier: &[u8]) -> u64 {
    HASHES.get().hash_one(identifier)
}

/// Locks with longer names are not remembered: what is kept here is bounded in bytes.
const LONGEST_NAME: usize = 1024;

fn with(db: i32, key: &[u8], change: impl FnOnce(&mut Record)) {
    if key.len() > LONGEST_NAME {
        return;
    }
    let mut records = RECORDS.get().borrow_mut();
    let records = records.entry(db).or_insert_with(|| LruCache::new(LOCKS));
    if let Some(record) = records.get_mut(key) {
        return change(record);
    }
    change(records.get_or_insert_mut(key.into(), Record::default));
}

/// A grant.
pub struct Grant<'a> {
    /// To whom.
    pub identifier: &'a [u8],
    /// When.
    pub now: UnixMs,
    /// How long it waited in line, in ms, if it did.
    pub waited: Option<u64>,
    /// Nobody held the lock: whoever is still remembered as a holder let its lease end.
    pub was_free: bool,
}

/// Counts a grant.
pub fn granted(db: i32, key: &[u8], grant: &Grant<'_>) {
    let identifier = hash(grant.identifier);
    with(db, key, |record| {
        if grant.was_free {
            record.expired += record.holders.len() as u64;
            EXPIRED.add(record.holders.len() as u64);
            record.holders.clear();
        } else {
            record.holders.retain(|(holder, _)| *holder != identifier);
        }
        record.acquired += 1;
        if let Some(ms) = grant.waited {
            record.wait_ms_sum += ms;
            record.wait_ms_max = record.wait_ms_max.max(ms);
        }
        if record.holders.len() < HOLDERS {
            record.holders.push((identifier, grant.now));
        }
    });
}

/// A release.
pub fn released(db: i32, key: &[u8], identifier: &[u8], now: UnixMs) {
    let identifier = hash(identifier);
    with(db, key, |record| {
        let position = record.holders.iter().position(|(holder, _)| *holder == identifier);
        if let Some(position) = position {
            let (_, since) = record.holders.swap_remove(position);
            let held = now.0.saturating_sub(since.0).max(0) as u64;
            record.hold_ms_sum += held;
            record.hold_ms_max = record.hold_ms_max.max(held);
            HOLD_MS.add(held);
        }
    });
}

/// A request that was not granted at once.
pub fn contended(db: i32, key: &[u8]) {
    with(db, key, |record| record.contended += 1);
}

/// A wait that ended without a grant.
pub fn timed_out(db: i32, key: &[u8]) {
    with(db, key, |record| record.timeouts += 1);
}

/// What is known of a lock.
pub fn of(db: i32, key: &[u8]) -> Record {
    let records = RECORDS.get().borrow();
    records.get(&db).and_then(|records| records.peek(key)).cloned().unwrap_or_default()
}

/// Forgets everything.
pub fn forget() {
    RECORDS.get().take();
}
