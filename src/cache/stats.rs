//! What happened to each cached value, for CACHE.INFO: in memory, for the values that were fetched
//! last.

use crate::server::MainThread;
use crate::stats::Recent;
use std::cell::{LazyCell, RefCell};

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

static RECORDS: MainThread<LazyCell<RefCell<Recent<Record>>>> =
    MainThread::new(LazyCell::new(RefCell::default));

fn with(db: i32, key: &[u8], change: impl FnOnce(&mut Record)) {
    if let Some(record) = RECORDS.get().borrow_mut().of_mut(db, key) {
        change(record);
    }
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
    RECORDS.get().borrow().of(db, key).cloned().unwrap_or_default()
}

/// Forgets everything.
pub fn forget() {
    RECORDS.get().take();
}
