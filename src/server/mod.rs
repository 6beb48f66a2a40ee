//! The only code that talks to the server, and the only unsafe code: a thin safe layer over the
//! module API. It is a leaf: it knows no family, no command and no key of the module, and calls back
//! only what the module handed to it at load ([`module::Module`]).
//!
//! Every entry from C runs inside [`guard::guard`]. Every function pointer that is used without a
//! check is checked once, when the module is loaded ([`module`]).

pub mod acl;
mod api;
pub mod block;
pub mod call;
pub mod config;
pub mod events;
pub mod guard;
pub mod info;
mod integer;
mod key;
pub mod module;
pub mod register;
mod reply;
pub mod resp;
pub mod spec;
mod string;
pub mod timer;
mod write;

pub use api::MainThread;
pub use call::Mode;
pub use integer::{LONGEST, decimal, integer, leading_number};
pub use key::{Key, Type};
pub use reply::{Reply, WriteReply, Writer};
pub(crate) use string::define_words;
pub use string::{CowStr, OwnedStr, Str, words};

use crate::time::{Moment, UnixMs};
use api::need;
use block::Checks;
use config::Setting;
use events::KeyChange;
use info::Section;
use redis_module::raw;
use register::Entry;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::os::raw::c_int;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the module hands to the server layer at load: the server layer knows nothing else of it.
pub struct Module {
    /// Its name.
    pub name: &'static CStr,
    /// Its version: major * 10000 + minor * 100 + patch.
    pub version: c_int,
    /// Its version and the commit that it was built from, for people.
    pub build: Build,
    /// Its commands.
    pub commands: &'static [Entry],
    /// Creates its state, and returns its settings.
    pub load: fn(&Server) -> Vec<Setting>,
    /// The module is being unloaded: drops its state.
    pub unload: fn(&Server),
    /// A key was changed. Must not write.
    pub key_changed: fn(&Server, &KeyChange<'_>),
    /// Databases were flushed, swapped or replaced; all of them if none is named. Must not write.
    pub databases_changed: fn(&Server, &[i32]),
    /// The connection of a client has closed. Must not write.
    pub client_gone: fn(&Server, u64),
    /// A setting was changed. Must not write.
    pub settings_changed: fn(&Server),
    /// The server's periodic event. Must not write.
    pub periodic: fn(&Server),
    /// Writes the module's section of INFO.
    pub info: fn(&mut Section),
}

/// Which build of the module this is.
pub struct Build {
    /// The version, such as `1.2.3`.
    pub version: &'static str,
    /// The commit.
    pub commit: &'static str,
}

/// What the server layer itself remembers.
struct State {
    /// What the module registered at load.
    module: Cell<Option<&'static Module>>,
    /// Whether the server runs in cluster mode; fixed while it runs.
    cluster: Cell<bool>,
    /// The classes of keyspace events to which the module has subscribed.
    subscribed: Cell<c_int>,
    /// Whether it has subscribed to the ends of connections.
    sees_disconnects: Cell<bool>,
    /// Whether the module is writing right now.
    own_write: Cell<bool>,
    /// What it has cost recently to check a connection.
    checks: Cell<Checks>,
    /// The prepared words of inner commands.
    words: Cell<Option<&'static string::Words>>,
    /// The last point in time that was an argument.
    last_time: Cell<Option<(UnixMs, Rc<OwnedStr>)>>,
    /// The registered settings, to which the server holds pointers.
    settings: RefCell<Vec<Setting>>,
}

static STATE: MainThread<State> = MainThread::new(State {
    module: Cell::new(None),
    cluster: Cell::new(false),
    subscribed: Cell::new(0),
    sees_disconnects: Cell::new(false),
    own_write: Cell::new(false),
    checks: Cell::new(Checks::NONE),
    words: Cell::new(None),
    last_time: Cell::new(None),
    settings: RefCell::new(Vec::new()),
});

/// The server during one command, timer or event.
pub struct Server {
    ctx: *mut raw::RedisModuleCtx,
    /// The server has not checked an outer command, so inner commands check whether it accepts writes.
    on_own_account: bool,
    /// The arguments of the command that runs, with its name; none outside a command.
    argv: *const Str<'static>,
    argc: usize,
}

/// The server's wall clock.
pub fn now() -> UnixMs {
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

    /// The server as a timer sees it, where the server has not checked a command of a client.
    ///
    /// # Safety
    /// As for [`Server::new`].
    unsafe fn in_timer(ctx: *mut raw::RedisModuleCtx) -> Self {
        Self { ctx, on_own_account: true, argv: std::ptr::null(), argc: 0 }
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

    /// The moment at which the wall clock passes `at`, or has passed it, unless the clock is set.
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

    /// Whether this client may be blocked: not in MULTI, a script or a function, not on a replica, and
    /// not if another module runs the command without a connection.
    pub fn may_block(&self) -> bool {
        const NEVER: u32 = raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING
            | raw::REDISMODULE_CTX_FLAGS_MULTI
            | raw::REDISMODULE_CTX_FLAGS_LUA
            | raw::REDISMODULE_CTX_FLAGS_REPLICATED
            | raw::REDISMODULE_CTX_FLAGS_SLAVE;
        self.flags() & NEVER == 0 && self.is_known_client()
    }

    /// The id of the calling client, if it has a connection: not in a script or a function, not if
    /// another module runs the command, and not if the command comes from a master.
    pub fn connection(&self) -> Option<u64> {
        const NEVER: u32 = raw::REDISMODULE_CTX_FLAGS_LUA | raw::REDISMODULE_CTX_FLAGS_REPLICATED;
        let (flags, client) = (self.flags(), self.client_id());
        let has = |flag: u32| flags & flag != 0;
        // Blocking is denied in a transaction, and to the client that stands for another module, which
        // Valkey 9 knows by its id, but does not list.
        let may_be_a_module = has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING);
        let connected = !has(NEVER)
            && self.is_known_client()
            && (!may_be_a_module
                || has(raw::REDISMODULE_CTX_FLAGS_MULTI) && self.is_listed(client));
        connected.then_some(client)
    }

    fn is_known_client(&self) -> bool {
        // SAFETY: with a null structure the server only reports whether it knows the client.
        let known = unsafe {
            need(raw::RedisModule_GetClientInfoById)(std::ptr::null_mut(), self.client_id())
        };
        known == raw::REDISMODULE_OK as i32
    }

    /// Whether the client speaks RESP3.
    pub fn resp3(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_RESP3 != 0
    }

    /// Whether the server uses more memory than it may.
    pub fn is_out_of_memory(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_OOM != 0
    }

    /// Whether this is a master.
    pub fn is_master(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_MASTER != 0
    }

    /// Whether the server runs in cluster mode.
    pub fn is_in_cluster(&self) -> bool {
        STATE.get().cluster.get()
    }

    /// Whether this is a replica in a cluster, where the server rejects every inner command with the
    /// write flag.
    pub fn is_cluster_replica(&self) -> bool {
        STATE.get().cluster.get() && !self.is_master()
    }

    /// Whether a timer must not write now because clients are paused, for a failover for example. A
    /// write would abort the server.
    pub fn writes_are_paused(&self) -> bool {
        // SAFETY: takes no arguments; checked at load.
        unsafe { need(raw::RedisModule_AvoidReplicaTraffic)() != 0 }
    }
}
