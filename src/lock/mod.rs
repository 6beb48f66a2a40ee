//! Locks: leased holders, and a FIFO of waiting clients.
//!
//! The lock `name` is the key `lock:{name}`. One exclusive holder is a string, its identifier: what
//! `SET key id NX PX ttl` writes, so clients that lock with that command and clients of this module
//! exclude each other. Shared holders are a sorted set of identifiers, scored by the end of their
//! leases. `fence:{name}` holds the last fencing token.
//!
//! Invariants: two incompatible holders never coexist, by the server's clock; the line is strictly
//! FIFO across all modes; and the command that frees the lock also writes the next holder.
//!
//! [`rules`] decides, [`store`] reads and writes the keys, [`line`] serves the waiters. The tables in
//! memory are [`ranks`] (places in the lines), [`evicted`] (leases whose key was evicted), [`ties`]
//! (holders that lose the lock with their connection) and [`stats`].

pub mod commands;
mod evicted;
mod line;
mod ranks;
mod rules;
mod stats;
mod store;
mod ties;

use crate::context::Context;
use crate::family::Family;
use crate::interest::Interest;
use crate::names::Prefix;
use crate::server::config::Setting;
use crate::server::events::{self, KeyEvent};
use crate::server::timer::OnFire;
use crate::stats::{Recent, counters};
use crate::waiting::Queue;
use evicted::Evicted;
use ranks::Ranks;
use stats::Record;
use std::rc::Rc;

/// The holder or the holders of a lock.
const LOCK: Prefix = Prefix(b"lock");
/// The last fencing token of a lock.
const FENCE: Prefix = Prefix(b"fence");

/// The classes of keyspace events that can free a lock: `DEL`, `SET`, `ZREM`, an expiry, an eviction.
/// Subscribed to when the first client waits.
const EVENTS: i32 = events::KEYS | events::STRINGS | events::SORTED_SETS;

/// The server, and the state of this family.
type Cx<'a> = Context<'a, Lock>;

/// The state of the family.
pub struct Lock {
    queue: Queue<Self>,
    ranks: Ranks,
    evicted: Evicted,
    records: Recent<Record>,
    counters: Counters,
    /// How long the last fencing token of a lock is kept after a grant, in ms.
    fence_ttl: Setting,
}

counters! {
    /// Grants.
    acquired = "lock_acquired",
    /// Requests that were not granted at once.
    contended = "lock_contended",
    /// Requests that began to wait.
    waits = "lock_waits",
    /// Waits that timed out.
    wait_timeouts = "lock_wait_timeouts",
    /// Releases by a holder.
    released = "lock_released",
    /// Leases that ended without a release, noticed at the next grant.
    expired = "lock_expired",
    /// Grants to a waiting client.
    handoffs = "lock_handoffs",
    /// Time from request to grant of clients that waited, in ms.
    wait_ms = "lock_wait_ms_sum",
    /// Leases that ended because the connection of the holder closed.
    disconnected = "lock_disconnected",
    /// Time from grant to release, in ms.
    hold_ms = "lock_hold_ms_sum",
}

impl Family for Lock {
    const WAITERS: &'static str = "lock_waiters";
    const TIES: &'static str = "lock_ties";

    fn new(on_fire: OnFire, wave_bytes: Setting, interest: &Rc<Interest>) -> Self {
        Self {
            queue: Queue::new(on_fire, wave_bytes, interest),
            ranks: Ranks::default(),
            evicted: Evicted::default(),
            records: Recent::default(),
            counters: Counters::default(),
            fence_ttl: Setting::new(c"fence-ttl-ms", 86_400_000, 1, 1 << 42),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        vec![self.fence_ttl.clone()]
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.counters.each(show);
    }

    fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
        line::key_changed(cx, event);
    }

    fn databases_changed(&self, dbs: &[i32]) {
        self.evicted.forget(dbs);
    }
}
