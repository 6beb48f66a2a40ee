//! Tasks: a reliable queue on plain streams.
//!
//! A task is always in exactly one of these states:
//!
//! * *delayed*: a member of the sorted set `delayed:{stream}` ([`delayed`], [`entry`]);
//! * *ready*: an entry of the stream that a group has not read: of `stream` itself, or of
//!   `priority<1-9>:{stream}` for a higher priority ([`store`]);
//! * *leased*: a pending entry of a consumer of the group ([`leases`], [`sweep`]);
//! * *dead*: an entry of `dead:{stream}` ([`moves`]);
//! * *done*: acknowledged by every group, so the entry is deleted ([`groups`]).
//!
//! [`rules`] decides what a consumer gets next and what happens to a failed task; [`pass`] carries it
//! out on the server. The sequence part of an id encodes which stream its task is in ([`id`]). Every
//! move is one step: the copy is added and the entry finished, or neither. A copy carries its
//! `original_id` and, if the stream has several groups, the `group` it is for.
//!
//! Invariant: while a consumer waits in the line of a group ([`line`]), the group has nothing to
//! deliver. A command that adds a task also serves the line. Keyspace events report what other clients
//! add, and the timer handles what becomes due.
//!
//! [`queues`] is what this process knows of the queues that it serves. All of it can be rebuilt from
//! the data. [`ties`] are the leases that end with the connection of the consumer, and [`disconnect`]
//! ends them.

pub mod commands;
mod consumer;
mod dead;
mod delayed;
mod delayed_ids;
mod deliver;
mod delivery;
mod disconnect;
mod entry;
mod facts;
mod few;
mod fields;
mod following;
mod groups;
mod hash;
mod held;
mod id;
mod identity;
mod known;
mod latest;
mod leases;
mod letters;
mod life;
mod line;
mod locate;
mod mark;
mod marks;
mod moved;
mod moves;
mod obstacle;
mod pass;
mod policy;
mod queues;
mod rules;
mod schedule;
mod several;
mod size;
mod store;
mod sweep;
mod table;
mod ties;
mod traces;
mod words;

use crate::context::Context;
use crate::error::Error;
use crate::family::Family;
use crate::interest::Interest;
use crate::names::{self, Prefix};
use crate::server::config::Setting;
use crate::server::events::{self, KeyEvent};
use crate::server::timer::OnFire;
use crate::server::{OwnedStr, Server, Str};
use crate::stats::counters;
use crate::waiting::Queue;
use queues::Queues;
use std::cell::Cell;
use std::rc::Rc;
use store::Clock;
use ties::LastPlace;
use words::Words;

/// Tasks that are not due.
const DELAYED: Prefix = Prefix(b"delayed");
/// Dead letters.
const DEAD: Prefix = Prefix(b"dead");
/// The policy of a queue.
const POLICY: Prefix = Prefix(b"policy");
/// The present ids of tasks that have moved.
const MOVED: Prefix = Prefix(b"taskmoved");
/// The UNIQUE ids of tasks that were published with UNTIL or LAST.
const MARKS: Prefix = Prefix(b"taskmarks");
/// Tasks that wait until another one has ended.
const HELD: Prefix = Prefix(b"taskheld");
/// The deduplication window of a published task, see [`unique_key`].
const UNIQUE: Prefix = Prefix(b"unique");

/// The classes of keyspace events that can add a task, or change what is known of a queue: `XADD`,
/// `XGROUP`, `ZADD`, `HSET`, `DEL`, `RENAME`. Subscribed to when the first consumer waits, or when the
/// first fact about a queue is remembered.
const EVENTS: i32 = events::STREAMS | events::KEYS | events::SORTED_SETS | events::HASHES;

/// The server, and the state of this family.
type Cx<'a> = Context<'a, Task>;

/// The state of the family.
pub struct Task {
    queue: Queue<Self>,
    queues: Queues,
    words: Words,
    clock: Clock,
    /// The µs of the last id of a delayed or held task, see [`Task::next_us`].
    last_us: Cell<i64>,
    /// The place of the last delivery whose lease was tied to a connection.
    last_place: LastPlace,
    /// Whether the server has XNACK, once that is known: with it other clients return entries to a
    /// group, and no event reports that.
    has_xnack: Cell<Option<bool>>,
    /// Whether the log says already that finished tasks are not deleted.
    logged_too_many_groups: Cell<bool>,
    /// Whether the log says already that a delayed task of another version was found.
    logged_unknown_version: Cell<bool>,
    counters: Counters,
    settings: Settings,
}

/// The settings of the family.
struct Settings {
    /// How many consumer groups a stream may have before TASK.CONSUME creates no further one. The
    /// server reports all groups of a stream or none.
    groups: Setting,
    /// How long a task is leased to a consumer, in ms, unless the queue's policy says otherwise; 0
    /// means without end.
    lease: Setting,
    /// How often a task is tried, unless the queue's policy says otherwise; 0 means without limit.
    tries: Setting,
}

counters! {
    /// Tasks added by TASK.PUBLISH.
    published = "task_published",
    /// Deliveries to consumers.
    delivered = "task_delivered",
    /// Tasks finished by TASK.ACK or TASK.RETRY.
    acked = "task_acked",
    /// Tasks that were given back and are retried.
    requeued = "task_requeued",
    /// Tasks moved to the dead-letter queue.
    dead_lettered = "task_dead_lettered",
    /// Tasks that were dead-lettered because they were not delivered in time.
    expired = "task_expired",
    /// Deliveries of tasks whose lease had expired.
    reclaimed = "task_reclaimed",
    /// Leases that ended because the connection of the consumer closed.
    disconnected = "task_disconnected",
    /// Tasks published with a delay.
    delayed = "task_delayed",
    /// Delayed tasks that became ready.
    promoted = "task_promoted",
    /// Publishes answered with the id of an earlier task.
    deduplicated = "task_deduplicated",
    /// Publishes rejected because the queue was full.
    refused = "task_refused",
    /// Tasks removed by TASK.CANCEL.
    cancelled = "task_cancelled",
    /// Dead letters moved back by TASK.REDRIVE.
    redriven = "task_redriven",
    /// Due tasks left where they are because another version of the module has stored them. Each is
    /// counted whenever it is looked at.
    unknown_version = "task_unknown_version",
}

impl Family for Task {
    const WAITERS: &'static str = "task_waiters";
    const TIES: &'static str = "task_ties";

    fn new(on_fire: OnFire, wave_bytes: Setting, interest: &Rc<Interest>) -> Self {
        let lease = Setting::new(c"task-lease-ms", 300_000, 0, 1 << 42);
        Self {
            queue: Queue::new(on_fire, wave_bytes, interest),
            queues: Queues::new(lease.clone(), interest),
            words: Words::new(),
            clock: Clock::default(),
            last_us: Cell::new(0),
            last_place: LastPlace::default(),
            has_xnack: Cell::new(None),
            logged_too_many_groups: Cell::new(false),
            logged_unknown_version: Cell::new(false),
            counters: Counters::default(),
            settings: Settings {
                groups: Setting::new(c"task-groups", 256, 1, 1_000_000),
                lease,
                tries: Setting::new(c"task-tries", 20, 0, 1_000_000_000),
            },
        }
    }

    fn settings(&self) -> Vec<Setting> {
        let Settings { groups, lease, tries } = &self.settings;
        vec![groups.clone(), lease.clone(), tries.clone()]
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.counters.each(show);
    }

    fn owner(key: &[u8]) -> Option<&[u8]> {
        queues::owner(key)
    }

    fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
        line::key_changed(cx, event);
    }

    fn databases_changed(&self, dbs: &[i32]) {
        self.queues.forget(dbs);
    }
}

impl Task {
    /// The server's clock in µs, but later than what this returned last: ids of delayed and held tasks
    /// rise.
    fn next_us(&self, server: &Server) -> i64 {
        let us = server.unix_us().max(self.last_us.get().saturating_add(1));
        self.last_us.set(us);
        us
    }

    /// Whether other clients can return entries to a group, so that nobody holds them.
    fn others_may_release(&self, server: &Server) -> bool {
        if self.has_xnack.get().is_none() {
            self.has_xnack.set(Some(server.has_command(c"XNACK")));
        }
        self.has_xnack.get() == Some(true)
    }
}

/// The key that remembers a task which is published once for each `id`. The length of the name says
/// where the id begins.
fn unique_key(server: &Server, name: Str<'_>, id: Str<'_>) -> Result<OwnedStr, Error> {
    let [prefix, before, queue, after] =
        names::derive(UNIQUE, name.bytes(), server.is_in_cluster())?;
    let length = queue.len().to_string();
    Ok(OwnedStr::concat(&[prefix, length.as_bytes(), before, queue, after, b":", id.bytes()]))
}
