//! Caching: one client loads a missing value, the others wait or go on with what they have.
//!
//! The cached value is the string `key` itself, nothing added. While a client loads it, the string
//! `cachelock:{key}` is the loader's lease: `loading <token>`, where the token is the unix time of
//! the lease in µs. Invariant: of all who ask for the lease, one is told LOAD until the lease ends
//! by its time or by CACHE.SET.

pub mod get;
mod lease;
pub mod lock;
pub mod set;

use crate::stats::Counter;

static HITS: Counter = Counter::new(c"cache_hits");
static MISSES: Counter = Counter::new(c"cache_misses");
static LOADS: Counter = Counter::new(c"cache_loads");
static WAITS: Counter = Counter::new(c"cache_waits");
static FILLS: Counter = Counter::new(c"cache_fills");

/// The family's totals.
pub static COUNTERS: &[&Counter] = &[&HITS, &MISSES, &LOADS, &WAITS, &FILLS];
