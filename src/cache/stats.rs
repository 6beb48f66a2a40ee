//! What happened to each cached value, for CACHE.INFO: in memory, for the values that were fetched
//! last.

use crate::server::MainThread;
use lru::LruCache;
use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroUsize;

/// The counters of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// FETCH found it fresh.
    pub hits: u64,
    /// FETCH found no fresh value.
    pub misses: u64,
    /// Leases given out.
    pub loads: u64,
    /// Waiters that were answered by another client's fill.
    pub coalesced: u64,
    /// Time from lease to fill, in ms.
    pub load_ms_sum: u64,
    /// The longest of them.
    pub load_ms_max: u64,
}

/// How many values of a database are remembered.
const VALUES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

type Records = HashMap<i32, LruCache<Box<[u8]>, Record>>;

static RECORDS: MainThread<LazyCell<RefCell<Records>>> =
    MainThread::new(LazyCell::new(RefCell::default));

/// Values with longer names are not remembered: what is kept here is bounded in bytes.
const LONGEST_NAME: usize = 1024;

fn with(db: i32, key: &[u8], change: impl FnOnce(&mut Record)) {
    if key.len() > LONGEST_NAME {
        return;
    }
    let mut records = RECORDS.get().borrow_mut();
    let records = records.entry(db).or_insert_with(|| LruCache::new(VALUES));
    if let Some(record) = records.get_mut(key) {
        return change(record);
    }
    change(records.get_or_insert_mut(key.into(), Record::default));
}

/// FETCH found a fresh value.
pub fn hit(db: i32, key: &[u8]) {
    with(db, key, |record| record.hits += 1);
}

/// FETCH found no fresh value.
pub fn missed(db: i32, key: &[u8]) {
    with(db, key, |record| record.misses += 1);
}

/// A lease was given out.
pub fn loading(db: i32, key: &[u8]) {
    with(db, key, |record| record.loads += 1);
}

/// A load took this long.
pub fn loaded(db: i32, key: &[u8], ms: u64) {
    with(db, key, |record| {
        record.load_ms_sum += ms;
        record.load_ms_max = record.load_ms_max.max(ms);
    });
}

/// A waiter was answered by another client's fill.
pub fn coalesced(db: i32, key: &[u8]) {
    with(db, key, |record| record.coalesced += 1);
}

/// What is known of a value.
pub fn of(db: i32, key: &[u8]) -> Record {
    let records = RECORDS.get().borrow();
    records.get(&db).and_then(|records| records.peek(key)).cloned().unwrap_or_default()
}

/// Forgets everything.
pub fn forget() {
    RECORDS.get().take();
}
