//! Caching: one client loads a missing value; the others wait for it or use a stale value meanwhile.
//!
//! The cached value is the string `key` itself, with nothing added. The string `cachelock:{key}`, the
//! *record* of the value, exists only while a client loads the value, while loading backs off after a
//! failure, and while an invalidated value is still served as stale: see [`rules::Record`].
//!
//! Invariants: a value has at most one running lease; a value is never replaced by one whose load
//! began before it was stored, written or invalidated; exactly one waiter is asked to load, and one
//! fill answers all of them.
//!
//! [`rules`] decides, [`store`] reads and writes the keys with [`record`] and [`value`],
//! [`line`] serves the waiters, and [`foreign`] follows what other clients do to values. The tables in
//! memory are [`tokens`] (which loads may still be stored), [`fills`] (values that are being handed
//! out), [`guesses`] and [`hints`] (what was found at keys when they were last read), [`ties`] (loads that
//! end with the connection of the loader) and [`stats`].

pub mod commands;
mod fills;
mod foreign;
mod guesses;
mod hints;
mod line;
mod record;
mod rules;
mod stats;
mod store;
mod ties;
mod tokens;
mod value;

use crate::context::Context;
use crate::family::Family;
use crate::interest::Interest;
use crate::names::{self, Prefix};
use crate::server::config::Setting;
use crate::server::events::{self, KeyEvent};
use crate::server::timer::OnFire;
use crate::server::{Server, unix_us};
use crate::stats::{Recent, counters};
use crate::time::{Millis, Moment};
use crate::waiting::Queue;
use fills::Fills;
use guesses::Guesses;
use hints::Hints;
use rules::Token;
use stats::Record;
use std::cell::Cell;
use std::rc::Rc;
use tokens::{Bounds, TokenTable};

/// The record of a value.
const RECORD: Prefix = Prefix(b"cachelock");

/// The classes of keyspace events that matter to a value with a record. A write or delete by another
/// client ends its lease, and a new time-to-live moves the end of its stale mark. Subscribed to when
/// the first record is written or read. Waiters need no further events: a client waits only while
/// there is a record.
const EVENTS: i32 = events::KEYS | events::STRINGS;

/// The server, and the state of this family.
type Cx<'a> = Context<'a, Cache>;

/// The state of the family.
pub struct Cache {
    queue: Queue<Self>,
    tokens: TokenTable,
    fills: Fills,
    guesses: Guesses,
    hints: Hints,
    records: Recent<Record>,
    counters: Counters,
    /// The highest token that this process has given out: no two leases share a token.
    last_token: Cell<Token>,
    /// How long the token of a lease that has ended can still store the value, in ms.
    late_ms: Setting,
    /// How many bytes of memory the tokens of cached values may take.
    late_bytes: Setting,
}

counters! {
    /// Fresh values that were returned.
    hits = "cache_hits",
    /// Requests that found no fresh value.
    misses = "cache_misses",
    /// Stale values that were returned.
    stale = "cache_stale",
    /// Leases.
    loads = "cache_loads",
    /// Values that were stored.
    fills = "cache_fills",
    /// Values that were not stored because their token was no longer good.
    refused = "cache_refused",
    /// Requests that began to wait, or that were answered WAIT.
    waits = "cache_waits",
    /// Waiters that were answered by another client's fill.
    coalesced = "cache_coalesced",
    /// Leases given to a waiting client.
    handoffs = "cache_handoffs",
    /// Waits that timed out.
    wait_timeouts = "cache_wait_timeouts",
    /// Leases that ended by their time, noticed at the next lease.
    expired_leases = "cache_expired_leases",
    /// Leases that ended because the connection of the loader closed.
    disconnected = "cache_disconnected",
    /// Loads that failed.
    failures = "cache_failures",
    /// Time from lease to fill, in ms.
    load_ms = "cache_load_ms_sum",
}

impl Cache {
    /// A key was changed, perhaps a record by another client.
    pub fn record_changed(&self, server: &Server, key: &[u8]) {
        if let Some(name) = names::name_of(RECORD, key) {
            self.hints.recorded(server.db(), name);
        }
    }

    /// What is kept of leases that have ended.
    fn bounds(&self) -> Bounds {
        Bounds { late: Millis(self.late_ms.get()), bytes: self.late_bytes.size() }
    }
}

impl Family for Cache {
    const WAITERS: &'static str = "cache_waiters";
    const TIES: &'static str = "cache_ties";

    fn new(on_fire: OnFire, wave_bytes: Setting, interest: &Rc<Interest>) -> Self {
        Self {
            queue: Queue::new(on_fire, wave_bytes, interest),
            tokens: TokenTable::new(unix_us(), interest),
            fills: Fills::default(),
            guesses: Guesses::default(),
            hints: Hints::default(),
            records: Recent::default(),
            counters: Counters::default(),
            last_token: Cell::new(0),
            late_ms: Setting::new(c"cache-late-ms", 60_000, 0, 1 << 42),
            late_bytes: Setting::new(c"cache-late-bytes", 32 << 20, 0, 1 << 42),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        vec![self.late_ms.clone(), self.late_bytes.clone()]
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.counters.each(show);
    }

    fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
        foreign::key_changed(cx, event);
    }

    fn databases_changed(&self, dbs: &[i32]) {
        self.hints.forget();
        self.tokens.forget(dbs, unix_us());
    }

    fn periodic(&self, now: Moment) {
        self.tokens.periodic(now, self.bounds());
    }
}
