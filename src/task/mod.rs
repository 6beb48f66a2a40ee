//! Tasks: a reliable queue on plain streams.
//!
//! A task is an entry of the stream `name` with the fields `payload`, `timestamp` (unix s) and
//! `retry_count`, in that order. It is ready until a consumer of a group reads it, leased while it
//! is pending there, and done when every group has acknowledged it: then the entry is deleted. A
//! task that failed is added to a retry stream or a dead-letter stream, with its `original_id`, in
//! the same step that finishes it here.
//!
//! Invariant: while a consumer waits in a group's line, the group has nothing to read. Whatever
//! adds an entry serves the line in the same step; what other clients add is seen by its event.

pub mod ack;
pub mod consume;
mod groups;
mod id;
mod line;
pub mod publish;
pub mod retry;
mod store;

pub use line::Tasks;

use crate::server::events::Listener;
use crate::stats::Counter;
use crate::waiting::Family;

static PUBLISHED: Counter = Counter::new(c"task_published");
static DELIVERED: Counter = Counter::new(c"task_delivered");
static ACKED: Counter = Counter::new(c"task_acked");
static REQUEUED: Counter = Counter::new(c"task_requeued");
static DEAD_LETTERED: Counter = Counter::new(c"task_dead_lettered");

/// The family's totals.
pub static COUNTERS: &[&Counter] = &[&PUBLISHED, &DELIVERED, &ACKED, &REQUEUED, &DEAD_LETTERED];

/// How many consumers wait now.
pub fn waiters() -> usize {
    Tasks::hall().borrow().len()
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    groups::forget_all();
    Tasks::hall().borrow_mut().disturb_databases(dbs);
}

/// The module is unloaded: nobody waits, and what was remembered is dropped.
pub fn forget() {
    groups::forget_all();
    store::forget();
    Tasks::hall().take();
    Tasks::subscribed().set(false);
}
