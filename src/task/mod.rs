//! Tasks: a reliable queue on plain streams.
//!
//! At every instant a task is in exactly one of these states:
//!
//! * *delayed*: a member of the sorted set `delayed:{stream}` ([`delayed`], [`entry`]);
//! * *ready*: an entry of the stream that a group has not read: `stream` itself, or
//!   `priority<1-9>:{stream}` for a higher priority ([`store`]);
//! * *leased*: an entry that is pending for a consumer of the group ([`leases`], [`sweep`]);
//! * *dead*: an entry of `dead:{stream}` ([`moves`]);
//! * *done*: every group has acknowledged it, and the entry is deleted ([`groups`]).
//!
//! What a consumer gets next, and what becomes of a task that failed, is decided in [`rules`];
//! [`desk`] carries it out on the server. The sequence part of an id tells where its task is
//! ([`id`]). Every move is one step: the copy is added and the entry finished, or neither. A copy
//! carries its `original_id` and, where a stream has several groups, the `group` that it is for.
//!
//! Invariant: while a consumer waits in a group's line ([`line`]), the group has nothing to hand out.
//! Whatever adds a task serves the line in the same step; what other clients add is seen by its
//! event; for what comes with time there is the timer, as long as somebody waits.
//!
//! [`memory`] is what this process knows of the queues that are consumed here. All of it can be found
//! again in the data.

pub mod ack;
pub mod cancel;
pub mod consume;
mod delayed;
mod desk;
mod entry;
pub mod extend;
mod groups;
mod id;
pub mod info;
mod leases;
mod line;
mod memory;
mod moves;
pub mod nack;
pub mod policy;
pub mod publish;
pub mod redrive;
pub mod retry;
mod rules;
mod store;
mod sweep;
mod table;

pub use id::Priority;
pub use line::Tasks;

use crate::family::Family;
use crate::stats::Counter;
use crate::waiting::{Queue, serve_restless};

static PUBLISHED: Counter = Counter::new(c"task_published");
static DELIVERED: Counter = Counter::new(c"task_delivered");
static ACKED: Counter = Counter::new(c"task_acked");
static REQUEUED: Counter = Counter::new(c"task_requeued");
static DEAD_LETTERED: Counter = Counter::new(c"task_dead_lettered");
static RECLAIMED: Counter = Counter::new(c"task_reclaimed");
static DELAYED: Counter = Counter::new(c"task_delayed");
static PROMOTED: Counter = Counter::new(c"task_promoted");
static DEDUPLICATED: Counter = Counter::new(c"task_deduplicated");
static REFUSED: Counter = Counter::new(c"task_refused");
static CANCELLED: Counter = Counter::new(c"task_cancelled");
static REDRIVEN: Counter = Counter::new(c"task_redriven");

const COUNTERS: &[&Counter] = &[
    &PUBLISHED,
    &DELIVERED,
    &ACKED,
    &REQUEUED,
    &DEAD_LETTERED,
    &RECLAIMED,
    &DELAYED,
    &PROMOTED,
    &DEDUPLICATED,
    &REFUSED,
    &CANCELLED,
    &REDRIVEN,
];

/// The family's row in the table.
pub const FAMILY: Family = Family {
    counters: COUNTERS,
    gauge: c"task_waiters",
    waiters: || Tasks::hall().borrow().len(),
    next_look: |now| Tasks::hall().borrow().next_look(now),
    look_again: serve_restless::<Tasks>,
    periodic: |_| {},
    key_changed: line::key_changed,
    disturb: |dbs| Tasks::hall().borrow_mut().disturb_databases(dbs),
    databases_changed: |dbs| {
        groups::databases_changed(dbs);
        memory::databases_changed(dbs);
        store::databases_changed(dbs);
    },
    forget: || {
        groups::databases_changed(&[]);
        memory::databases_changed(&[]);
        store::databases_changed(&[]);
        store::forget();
        delayed::forget();
        Tasks::hall().take();
    },
};
