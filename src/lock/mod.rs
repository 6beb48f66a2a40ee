//! Locks: one holder at a time, for the time of a lease.
//!
//! The lock `name` is the string `lock:{name}`: the holder's identifier, which expires with the
//! lease. That is what `SET key id NX PX ttl` writes, so clients that lock with that command and
//! clients of this module exclude each other. Invariant: whoever is told 1 by ACQUIRE or EXTEND is
//! the only holder until the lease ends, by the server's clock.

pub mod acquire;
pub mod extend;
mod holder;
pub mod release;

use crate::stats::Counter;

static ACQUIRED: Counter = Counter::new(c"lock_acquired");
static CONTENDED: Counter = Counter::new(c"lock_contended");
static RELEASED: Counter = Counter::new(c"lock_released");

/// The family's totals.
pub static COUNTERS: &[&Counter] = &[&ACQUIRED, &CONTENDED, &RELEASED];
