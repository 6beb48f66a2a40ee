//! Locks: leased holders, and a line for those who wait.
//!
//! The lock `name` is the key `lock:{name}`. One exclusive holder is a string, its identifier: what
//! `SET key id NX PX ttl` writes, so clients that lock with that command and clients of this module
//! exclude each other. Shared holders are a sorted set of identifiers by the end of their leases.
//! `fence:{name}` keeps the last fencing token.
//!
//! Invariants: there are never two incompatible holders, by the server's clock; the line is first
//! come, first served across all modes, and nobody passes it; whoever frees the lock writes the
//! next holder in the same step.
//!
//! [`rules`] decides, [`holders`] stores, [`line`] lets clients wait, [`evicted`] bars, [`stats`] counts.

pub mod acquire;
mod evicted;
pub mod extend;
mod holders;
pub mod info;
mod line;
pub mod release;
mod rules;
mod stats;

pub use line::Locks;

use crate::family::Family;
use crate::stats::Counter;
use crate::waiting::{Queue, serve_restless};

static ACQUIRED: Counter = Counter::new(c"lock_acquired");
static CONTENDED: Counter = Counter::new(c"lock_contended");
static WAITS: Counter = Counter::new(c"lock_waits");
static WAIT_TIMEOUTS: Counter = Counter::new(c"lock_wait_timeouts");
static RELEASED: Counter = Counter::new(c"lock_released");
static EXPIRED: Counter = Counter::new(c"lock_expired");
static HANDOFFS: Counter = Counter::new(c"lock_handoffs");
static WAIT_MS: Counter = Counter::new(c"lock_wait_ms_sum");
static HOLD_MS: Counter = Counter::new(c"lock_hold_ms_sum");

const COUNTERS: &[&Counter] = &[
    &ACQUIRED,
    &CONTENDED,
    &WAITS,
    &WAIT_TIMEOUTS,
    &RELEASED,
    &EXPIRED,
    &HANDOFFS,
    &WAIT_MS,
    &HOLD_MS,
];

/// The family's row in the table.
pub const FAMILY: Family = Family {
    counters: COUNTERS,
    gauge: c"lock_waiters",
    waiters: || Locks::hall().borrow().len(),
    next_look: |now| Locks::hall().borrow().next_look(now),
    look_again: serve_restless::<Locks>,
    periodic: |_| {},
    key_changed: line::key_changed,
    disturb: |dbs| Locks::hall().borrow_mut().disturb_databases(dbs),
    databases_changed: evicted::databases_changed,
    forget: || {
        evicted::forget();
        line::forget();
        stats::forget();
    },
};
