//! What happened to each cached value, for CACHE.INFO and the totals: in memory, for the most recently
//! fetched values.

use super::Cache;
use crate::time::Millis;

/// The counters of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// FETCH found the value fresh.
    pub hits: u64,
    /// FETCH found no fresh value.
    pub misses: u64,
    /// Leases.
    pub loads: u64,
    /// Waiters that were answered by another client's fill.
    pub coalesced: u64,
    /// Time from lease to fill, in ms.
    pub load_ms_sum: u64,
    /// The longest of them.
    pub load_ms_max: u64,
}

impl Cache {
    /// Counts a fetch that found a fresh value.
    pub fn count_hit(&self, db: i32, key: &[u8]) {
        self.counters.hits.add(1);
        self.records.update(db, key, |record| record.hits += 1);
    }

    /// Counts a fetch that found no fresh value.
    pub fn count_miss(&self, db: i32, key: &[u8]) {
        self.counters.misses.add(1);
        self.records.update(db, key, |record| record.misses += 1);
    }

    /// Counts a lease.
    pub fn count_load(&self, db: i32, key: &[u8]) {
        self.counters.loads.add(1);
        self.records.update(db, key, |record| record.loads += 1);
    }

    /// Counts a value that was stored, and how long its load took if it had a lease.
    pub fn count_fill(&self, db: i32, key: &[u8], took: Option<Millis>) {
        self.counters.fills.add(1);
        if let Some(ms) = took.map(Millis::as_u64) {
            self.counters.load_ms.add(ms);
            self.records.update(db, key, |record| {
                record.load_ms_sum += ms;
                record.load_ms_max = record.load_ms_max.max(ms);
            });
        }
    }

    /// Counts a waiter that was answered by another client's fill.
    pub fn count_coalesced(&self, db: i32, key: &[u8]) {
        self.counters.coalesced.add(1);
        self.records.update(db, key, |record| record.coalesced += 1);
    }
}
