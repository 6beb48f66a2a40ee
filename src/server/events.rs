//! What other clients do to keys that somebody waits for.
//!
//! Keyspace events are subscribed to when the first client waits or the first fact about a key is
//! remembered, not before: every write of the server pays for a subscription. A callback writes
//! nothing; it marks a line and arms the timer.

use super::api::need;
use super::guard::guard;
use super::{MainThread, Server, timer};
use crate::{FAMILIES, waiting};
use redis_module::raw;
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::os::raw::{c_int, c_void};

static QUIET: MainThread<Cell<bool>> = MainThread::new(Cell::new(false));

/// Events of every type of key: deleted, renamed, restored, its expiry changed, expired, evicted.
pub const KEYS: c_int = raw::REDISMODULE_NOTIFY_GENERIC
    | raw::REDISMODULE_NOTIFY_EXPIRED
    | raw::REDISMODULE_NOTIFY_EVICTED;
/// Events of streams.
pub const STREAMS: c_int = raw::REDISMODULE_NOTIFY_STREAM;
/// Events of strings.
pub const STRINGS: c_int = raw::REDISMODULE_NOTIFY_STRING;
/// Events of sorted sets.
pub const SORTED_SETS: c_int = raw::REDISMODULE_NOTIFY_ZSET;
/// Events of hashes.
pub const HASHES: c_int = raw::REDISMODULE_NOTIFY_HASH;

/// What happened to a key.
#[derive(Clone, Copy)]
pub struct KeyEvent<'a> {
    /// The server's word, such as `xadd` or `rename_to`.
    pub name: &'a [u8],
    /// The key.
    pub key: &'a [u8],
    /// Whether it is an event of the stream type.
    pub stream: bool,
    /// Whether this module itself causes it and looks after those who wait.
    pub own: bool,
}

/// The classes of events that were asked for since the module was loaded.
static ASKED: MainThread<Cell<c_int>> = MainThread::new(Cell::new(0));

/// Asks for classes of keyspace events, each once: every write of the server pays for each
/// subscription. Every family is told.
pub fn subscribe(server: &Server, classes: c_int) {
    let missing = classes & !ASKED.get().get();
    if missing != 0 {
        ASKED.get().set(ASKED.get().get() | missing);
        // SAFETY: the context belongs to this module.
        unsafe {
            need(raw::RedisModule_SubscribeToKeyspaceEvents)(server.ctx, missing, Some(key_changed))
        };
    }
}

/// Whether all these classes were asked for: what is remembered of keys is then kept up to date.
pub fn are_told(classes: c_int) -> bool {
    ASKED.get().get() & classes == classes
}

/// The module is unloaded, and the server forgets its subscriptions.
pub(super) fn forget() {
    ASKED.get().set(0);
}

/// Until the returned value is dropped, also by a panic, events are the module's own.
pub(super) fn quiet() -> Quiet {
    Quiet(QUIET.get().replace(true))
}

pub(super) struct Quiet(bool);

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.get().set(self.0);
    }
}

unsafe extern "C" fn key_changed(
    ctx: *mut raw::RedisModuleCtx,
    class: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    let mut len = 0;
    // SAFETY: the server gives a valid context, event name and key for the time of this call.
    let (server, event) = unsafe {
        let start = need(raw::RedisModule_StringPtrLen)(key, &mut len);
        let event = KeyEvent {
            name: CStr::from_ptr(event).to_bytes(),
            key: std::slice::from_raw_parts(start.cast(), len),
            stream: class & raw::REDISMODULE_NOTIFY_STREAM != 0,
            own: QUIET.get().get(),
        };
        (Server::new(ctx), event)
    };
    guard((), || FAMILIES.iter().for_each(|family| (family.key_changed)(&server, event)));
    raw::REDISMODULE_OK as c_int
}

/// Subscribes to the events of whole databases, which raise no keyspace events, and to the server's
/// periodic work.
pub(super) fn subscribe_to_server(server: &Server) {
    for (id, callback) in [
        (raw::REDISMODULE_EVENT_FLUSHDB, flushed as Callback),
        (raw::REDISMODULE_EVENT_SWAPDB, swapped),
        (raw::REDISMODULE_EVENT_LOADING, loaded),
        (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, replaced),
        (raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, replaced),
        (raw::REDISMODULE_EVENT_CRON_LOOP, periodic),
    ] {
        let event = raw::RedisModuleEvent { id, dataver: 1 };
        // SAFETY: the context is the one of loading; an unknown event is refused, not misread.
        unsafe { need(raw::RedisModule_SubscribeToServerEvent)(server.ctx, event, Some(callback)) };
    }
}

/// See [`crate::family::Family::databases_changed`].
fn databases_changed(server: &Server, dbs: &[i32]) {
    guard((), || {
        FAMILIES.iter().for_each(|family| (family.databases_changed)(dbs));
        waiting::look_at_all(server, dbs);
    });
}

type Callback =
    unsafe extern "C" fn(*mut raw::RedisModuleCtx, raw::RedisModuleEvent, u64, *mut c_void);

unsafe extern "C" fn flushed(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    phase: u64,
    data: *mut c_void,
) {
    // SAFETY: the server gives a valid context and the structure that belongs to the event.
    let (server, info) = unsafe { (Server::new(ctx), data.cast::<raw::RedisModuleFlushInfo>()) };
    if phase == raw::REDISMODULE_SUBEVENT_FLUSHDB_END {
        // SAFETY: as above.
        let db = unsafe { info.as_ref() }.map(|info| info.dbnum).filter(|db| *db >= 0);
        databases_changed(&server, db.as_slice());
    }
}

unsafe extern "C" fn swapped(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _phase: u64,
    data: *mut c_void,
) {
    // SAFETY: the server gives a valid context and the structure that belongs to the event.
    let (server, info) = unsafe { (Server::new(ctx), data.cast::<raw::RedisModuleSwapDbInfo>()) };
    // SAFETY: as above.
    if let Some(info) = unsafe { info.as_ref() } {
        let both = [info.dbnum_first, info.dbnum_second];
        databases_changed(&server, &both);
    }
}

unsafe extern "C" fn loaded(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    phase: u64,
    _data: *mut c_void,
) {
    if matches!(
        phase,
        raw::REDISMODULE_SUBEVENT_LOADING_ENDED | raw::REDISMODULE_SUBEVENT_LOADING_FAILED
    ) {
        // SAFETY: the server gives a valid context.
        let server = unsafe { Server::new(ctx) };
        databases_changed(&server, &[]);
    }
}

/// The server's periodic work: ten times a second, unless `hz` says otherwise.
unsafe extern "C" fn periodic(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _phase: u64,
    _data: *mut c_void,
) {
    // SAFETY: the server gives a valid context.
    let server = unsafe { Server::new(ctx) };
    guard((), || {
        timer::rearm_if_late(&server);
        FAMILIES.iter().for_each(|family| (family.periodic)(&server));
    });
}

/// A replica has replaced its data by what it loaded beside them, or has given that up; or it was
/// promoted, or a master became a replica: what the other one did has not been seen here.
unsafe extern "C" fn replaced(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _phase: u64,
    _data: *mut c_void,
) {
    // SAFETY: the server gives a valid context.
    let server = unsafe { Server::new(ctx) };
    databases_changed(&server, &[]);
}
