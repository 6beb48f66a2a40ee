//! The only code that talks to the server, and the only unsafe code: a thin safe layer over the
//! module API. What the families see of it is [`Server`], [`Str`], [`Reply`] and [`block::Waits`].
//!
//! Every entry from C runs inside [`guard::guard`]; every function pointer that is used without a
//! check is checked once, when the module is loaded ([`module`]).

pub mod acl;
pub mod api;
pub mod block;
pub mod call;
pub mod config;
pub mod events;
pub mod guard;
pub mod info;
pub mod key;
#[cfg_attr(test, expect(dead_code, reason = "unit tests run without a server"))]
pub mod module;
pub mod register;
pub mod reply;
pub mod string;
pub mod timer;

pub use api::MainThread;
pub use call::Mode;
pub use key::{Key, Type};
pub use reply::Reply;
pub use string::{CowStr, OwnedStr, Str, words};

use crate::args::Argument;
use crate::error::Error;
use crate::keys::{self, Prefix};
use crate::time::{Moment, UnixMs};
use api::need;
use redis_module::raw;
use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The server during one command, timer or event.
pub struct Server {
    ctx: *mut raw::RedisModuleCtx,
    /// Nobody has asked the server whether it accepts writes now: inner commands ask.
    on_own_account: bool,
    /// The arguments of the command that runs, with its name; none outside a command.
    argv: *const Str<'static>,
    argc: usize,
}

/// Whether the server runs in cluster mode; fixed while it runs.
static CLUSTER: MainThread<Cell<bool>> = MainThread::new(Cell::new(false));

/// The server's clock.
fn now() -> UnixMs {
    // SAFETY: takes no arguments; checked at load.
    UnixMs(unsafe { need(raw::RedisModule_Milliseconds)() })
}

/// The server's clock in µs since the Unix epoch.
pub fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0)
}

impl Server {
    /// The server as a callback from C sees it.
    ///
    /// # Safety
    /// `ctx` is the context that the server gave to the callback which is running now, and the
    /// value is dropped before the callback returns.
    unsafe fn new(ctx: *mut raw::RedisModuleCtx) -> Self {
        Self { ctx, on_own_account: false, argv: std::ptr::null(), argc: 0 }
    }

    /// The server as a command sees it.
    ///
    /// # Safety
    /// As for [`Server::new`]; `argv` are the arguments of the command.
    unsafe fn in_command(ctx: *mut raw::RedisModuleCtx, argv: &[Str<'_>]) -> Self {
        Self { ctx, on_own_account: false, argv: argv.as_ptr().cast(), argc: argv.len() }
    }

    /// The server as a timer sees it, in which no client's command was admitted before.
    ///
    /// # Safety
    /// As for [`Server::new`].
    unsafe fn in_timer(ctx: *mut raw::RedisModuleCtx) -> Self {
        Self { ctx, on_own_account: true, argv: std::ptr::null(), argc: 0 }
    }

    /// The command that runs, kept beyond its end.
    pub fn hold_command(&self) -> Box<[OwnedStr]> {
        if self.argv.is_null() {
            return Box::default();
        }
        // SAFETY: the arguments live as long as the command, and this value no longer than it.
        let argv = unsafe { std::slice::from_raw_parts(self.argv, self.argc) };
        argv.iter().map(|arg| OwnedStr::hold(*arg)).collect()
    }

    /// The server's clock.
    pub fn now(&self) -> UnixMs {
        now()
    }

    /// The server's clock in µs since the Unix epoch.
    pub fn unix_us(&self) -> i64 {
        unix_us()
    }

    /// The monotonic clock.
    pub fn moment(&self) -> Moment {
        // SAFETY: takes no arguments; checked at load.
        let us = unsafe { need(raw::RedisModule_MonotonicMicroseconds)() };
        Moment(i64::try_from(us).unwrap_or(i64::MAX))
    }

    /// When the server's clock will be past `at`, or was, if nobody sets it.
    pub fn moment_past(&self, at: UnixMs) -> Moment {
        let first_us = at.0.saturating_add(1).saturating_mul(1000);
        let left = first_us.saturating_sub(self.unix_us());
        Moment(self.moment().0.saturating_add(left))
    }

    /// The selected database.
    pub fn db(&self) -> i32 {
        // SAFETY: the context is valid, see `new`.
        unsafe { need(raw::RedisModule_GetSelectedDb)(self.ctx) }
    }

    /// Selects a database. Only for timers: in a command it would move the client.
    pub fn select(&self, db: i32) {
        // SAFETY: the context is valid, see `new`; the number came from `db`.
        unsafe { need(raw::RedisModule_SelectDb)(self.ctx, db) };
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: eight bytes are written to eight bytes.
        unsafe { need(raw::RedisModule_GetRandomBytes)(bytes.as_mut_ptr(), bytes.len()) };
        u64::from_ne_bytes(bytes)
    }

    fn flags(&self) -> u32 {
        // SAFETY: the context is valid, see `new`.
        unsafe { need(raw::RedisModule_GetContextFlags)(self.ctx) as u32 }
    }

    /// Whether this client may be made to wait: not in MULTI, a script or a function, not on a
    /// replica, and not where another module calls without a connection behind it.
    pub fn may_block(&self) -> bool {
        const NEVER: u32 = raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING
            | raw::REDISMODULE_CTX_FLAGS_MULTI
            | raw::REDISMODULE_CTX_FLAGS_LUA
            | raw::REDISMODULE_CTX_FLAGS_REPLICATED
            | raw::REDISMODULE_CTX_FLAGS_SLAVE;
        // SAFETY: with a null structure the server only tells whether it knows the client.
        self.flags() & NEVER == 0
            && unsafe {
                need(raw::RedisModule_GetClientInfoById)(std::ptr::null_mut(), self.client_id())
            } == raw::REDISMODULE_OK as i32
    }

    /// Whether the client speaks RESP3.
    pub fn resp3(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_RESP3 != 0
    }

    /// Whether this is a master.
    pub fn is_master(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_MASTER != 0
    }

    /// Whether the server runs in cluster mode.
    pub fn is_in_cluster(&self) -> bool {
        CLUSTER.get().get()
    }

    /// Whether this is a replica in a cluster, where no inner command that is flagged as writing
    /// runs, whatever it does.
    pub fn is_cluster_replica(&self) -> bool {
        CLUSTER.get().get() && !self.is_master()
    }

    /// Whether a timer must not write now: clients are paused, for a failover say. A write would
    /// abort the server.
    pub fn writes_are_paused(&self) -> bool {
        // SAFETY: takes no arguments; checked at load.
        unsafe { need(raw::RedisModule_AvoidReplicaTraffic)() != 0 }
    }

    /// The key that belongs to `name`, see [`keys::derive`].
    pub fn key_of(&self, prefix: Prefix, name: Str<'_>) -> Result<OwnedStr, Error> {
        Ok(OwnedStr::concat(&keys::derive(prefix, name.bytes(), CLUSTER.get().get())?))
    }

    /// The key of a task that is published once, see [`keys::unique`].
    pub fn unique_key_of(&self, name: Str<'_>, id: Str<'_>) -> Result<OwnedStr, Error> {
        Ok(OwnedStr::new(&keys::unique(name.bytes(), id.bytes(), CLUSTER.get().get())?))
    }

    /// Refuses names that do not share a cluster slot. The server does this itself, but for the
    /// keys in a legacy range only.
    pub fn refuse_other_slots<const N: usize>(&self, names: [Str<'_>; N]) -> Result<(), Error> {
        let mut slots = names.iter().map(|name| keys::slot(name.bytes()));
        let first = slots.next();
        if CLUSTER.get().get() && slots.any(|slot| Some(slot) != first) {
            return Err(Error::CrossSlot);
        }
        Ok(())
    }

    /// Refuses a command that writes while the slot of `name` moves between cluster nodes: the
    /// name is often no key, so the server would send the client on to the other node, which would
    /// grant as well. The server refuses an inner command on two keys that do not exist exactly
    /// while their slot is migrated or imported.
    pub fn refuse_while_slot_moves(&self, name: Str<'_>) -> Result<(), Error> {
        if !CLUSTER.get().get() {
            return Ok(());
        }
        let wait = self.key_of(Prefix::Wait, name)?;
        let lock = self.key_of(Prefix::Lock, name)?;
        match self.call(c"EXISTS", Mode::Read, &[wait.borrow(), lock.borrow()]) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::SlotMoves),
        }
    }
}
