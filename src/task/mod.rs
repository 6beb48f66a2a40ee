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

use crate::family::Family;
use crate::server::events::Listener;
use crate::stats::Counter;
use crate::waiting::{Queue, serve_restless};

static PUBLISHED: Counter = Counter::new(c"task_published");
static DELIVERED: Counter = Counter::new(c"task_delivered");
static ACKED: Counter = Counter::new(c"task_acked");
static REQUEUED: Counter = Counter::new(c"task_requeued");
static DEAD_LETTERED: Counter = Counter::new(c"task_dead_lettered");

const COUNTERS: &[&Counter] = &[&PUBLISHED, &DELIVERED, &ACKED, &REQUEUED, &DEAD_LETTERED];

/// The family's row in the table.
pub const FAMILY: Family = Family {
    counters: COUNTERS,
    gauge: c"task_waiters",
    waiters: || Tasks::hall().borrow().len(),
    next_look: |now| Tasks::hall().borrow().next_look(now),
    look_again: serve_restless::<Tasks>,
    databases_changed: |dbs| {
        groups::forget_all();
        Tasks::hall().borrow_mut().disturb_databases(dbs);
    },
    forget: || {
        groups::forget_all();
        store::forget();
        Tasks::hall().take();
        Tasks::subscribed().set(false);
    },
};
