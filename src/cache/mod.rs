//! Caching: one client loads a missing value, the others wait or go on with what they have.
//!
//! The cached value is the string `key` itself, nothing added. While a client loads it, while
//! loading backs off, and while the value is to be refreshed whatever its time-to-live says, the
//! string `cachelock:{key}` tells so: see [`rules::Record`].
//!
//! Invariants: a value has at most one lease that runs; a value is never replaced by one whose load
//! began before it was stored, written or invalidated; of all who wait, one is told to load, and a
//! fill answers them all.
//!
//! [`rules`] decides, [`entry`] stores, [`tokens`] knows what can still be stored, [`line`] lets clients
//! wait, [`stats`] counts.

mod entry;
pub mod extend;
pub mod fail;
pub mod fetch;
pub mod get;
pub mod info;
pub mod invalidate;
mod line;
pub mod lock;
pub mod mget;
mod rules;
pub mod set;
mod stats;
mod tokens;

pub use line::Caches;

use crate::family::Family;
use crate::stats::Counter;
use crate::waiting::{Queue, serve_restless};

static HITS: Counter = Counter::new(c"cache_hits");
static MISSES: Counter = Counter::new(c"cache_misses");
static STALE: Counter = Counter::new(c"cache_stale");
static LOADS: Counter = Counter::new(c"cache_loads");
static FILLS: Counter = Counter::new(c"cache_fills");
static REFUSED: Counter = Counter::new(c"cache_refused");
static WAITS: Counter = Counter::new(c"cache_waits");
static COALESCED: Counter = Counter::new(c"cache_coalesced");
static HANDOFFS: Counter = Counter::new(c"cache_handoffs");
static WAIT_TIMEOUTS: Counter = Counter::new(c"cache_wait_timeouts");
static EXPIRED_LEASES: Counter = Counter::new(c"cache_expired_leases");
static FAILURES: Counter = Counter::new(c"cache_failures");
static LOAD_MS: Counter = Counter::new(c"cache_load_ms_sum");

const COUNTERS: &[&Counter] = &[
    &HITS,
    &MISSES,
    &STALE,
    &LOADS,
    &FILLS,
    &REFUSED,
    &WAITS,
    &COALESCED,
    &HANDOFFS,
    &WAIT_TIMEOUTS,
    &EXPIRED_LEASES,
    &FAILURES,
    &LOAD_MS,
];

/// The family's row in the table.
pub const FAMILY: Family = Family {
    counters: COUNTERS,
    gauge: c"cache_waiters",
    waiters: || Caches::hall().borrow().len(),
    next_look: |now| {
        let changed = tokens::next_look(now);
        changed.into_iter().chain(Caches::hall().borrow().next_look(now)).min()
    },
    look_again: |server, budget| {
        line::look_at_changed(server);
        serve_restless::<Caches>(server, budget);
    },
    periodic: tokens::periodic,
    key_changed: tokens::key_changed,
    disturb: |dbs| Caches::hall().borrow_mut().disturb_databases(dbs),
    databases_changed: tokens::databases_changed,
    forget: || {
        line::forget();
        tokens::forget();
        stats::forget();
    },
};
