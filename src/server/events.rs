//! What other clients do to keys and databases.
//!
//! The module subscribes to a class of keyspace events when a family first needs it, because every
//! write of the server pays for a subscription. It is not taken back when nothing is remembered any
//! more, which only Redis 8.2 and later can do: an event that concerns nobody costs one look. The
//! callbacks write nothing.

use super::api::need;
use super::guard::guard;
use super::{Module, STATE, Server};
use crate::error::Error;
use redis_module::server_events::{LoadingSubevent, ServerRole, register_server_events};
use redis_module::{Context, raw};
use std::ffi::{CStr, c_char};
use std::os::raw::{c_int, c_void};

/// Events of keys of every type: deleted, renamed, restored, expiry changed, expired, evicted.
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

/// A change of a key. Nearly all changes concern nobody, so the details are read only for the others.
pub struct KeyChange<'a> {
    /// The key.
    pub key: &'a [u8],
    class: c_int,
    /// The name of the event, which is valid as long as the key.
    name: *const c_char,
}

impl<'a> KeyChange<'a> {
    /// What happened.
    pub fn event(&self) -> KeyEvent<'a> {
        KeyEvent {
            // SAFETY: the server gives a valid name, see the field.
            name: unsafe { CStr::from_ptr(self.name) }.to_bytes(),
            key: self.key,
            stream: self.class & raw::REDISMODULE_NOTIFY_STREAM != 0,
            own: STATE.get().own_write.get(),
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy)]
pub struct KeyEvent<'a> {
    /// The name of the event, such as `xadd` or `rename_to`.
    pub name: &'a [u8],
    /// The key.
    pub key: &'a [u8],
    /// Whether it is an event of the stream type.
    pub stream: bool,
    /// Whether this module is writing, and serves the waiters itself afterwards. What another module writes
    /// inside the events of that write counts as well; it is noticed at the next check.
    pub own: bool,
}

impl Server {
    /// Subscribes to classes of keyspace events, each of them once.
    pub fn subscribe(&self, classes: c_int) {
        let subscribed = &STATE.get().subscribed;
        let missing = classes & !subscribed.get();
        if missing != 0 {
            subscribed.set(subscribed.get() | missing);
            // SAFETY: the context belongs to this module.
            unsafe {
                need(raw::RedisModule_SubscribeToKeyspaceEvents)(
                    self.ctx,
                    missing,
                    Some(key_changed),
                )
            };
        }
    }

    /// Whether the module has subscribed to all these classes, so that what it remembers of keys
    /// stays up to date.
    pub fn is_subscribed(&self, classes: c_int) -> bool {
        STATE.get().subscribed.get() & classes == classes
    }
}

impl Server {
    /// Subscribes to the ends of connections, once. Only what is tied to a connection needs them, and
    /// with a subscription the server looks up the address of every client that comes or goes.
    pub fn subscribe_to_disconnects(&self) -> Result<(), Error> {
        let subscribed = &STATE.get().sees_disconnects;
        if !subscribed.get() {
            subscribe(self, raw::REDISMODULE_EVENT_CLIENT_CHANGE, client_changed)
                .map_err(|_| Error::Internal)?;
            subscribed.set(true);
        }
        Ok(())
    }
}

/// Marks keyspace events as the module's own until the returned value is dropped.
pub(super) fn own_write() -> OwnWrite {
    OwnWrite(STATE.get().own_write.replace(true))
}

pub(super) struct OwnWrite(bool);

impl Drop for OwnWrite {
    fn drop(&mut self) {
        STATE.get().own_write.set(self.0);
    }
}

fn with_module(call: impl FnOnce(&Module)) {
    guard((), || {
        if let Some(module) = STATE.get().module.get() {
            call(module);
        }
    });
}

unsafe extern "C" fn key_changed(
    ctx: *mut raw::RedisModuleCtx,
    class: c_int,
    name: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    let mut len = 0;
    // SAFETY: the server gives a valid context, event name and key for the time of this call.
    let (server, key) = unsafe {
        let start = need(raw::RedisModule_StringPtrLen)(key, &mut len);
        (Server::new(ctx), std::slice::from_raw_parts(start.cast(), len))
    };
    with_module(|module| (module.key_changed)(&server, &KeyChange { key, class, name }));
    raw::REDISMODULE_OK as c_int
}

/// Subscribes to the events of whole databases, which raise no keyspace events, to changes of the
/// replication role, and to the server's periodic event.
pub(super) fn subscribe_to_server(server: &Server) -> Result<(), &'static str> {
    for (id, callback) in [
        (raw::REDISMODULE_EVENT_FLUSHDB, flushed as Callback),
        (raw::REDISMODULE_EVENT_SWAPDB, swapped),
        (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, replaced),
        (raw::REDISMODULE_EVENT_CRON_LOOP, periodic),
    ] {
        subscribe(server, id, callback)?;
    }
    // Those for loading and for changes of the role.
    register_server_events(&Context::new(server.ctx)).map_err(|_| REJECTED)
}

const REJECTED: &str = "the server rejected a subscription";

fn subscribe(server: &Server, id: u64, callback: Callback) -> Result<(), &'static str> {
    let event = raw::RedisModuleEvent { id, dataver: 1 };
    // SAFETY: the context belongs to this module; an unknown event is rejected, not misread.
    let subscribed =
        unsafe { need(raw::RedisModule_SubscribeToServerEvent)(server.ctx, event, Some(callback)) };
    if subscribed == raw::REDISMODULE_OK as c_int { Ok(()) } else { Err(REJECTED) }
}

fn databases_changed(server: &Server, dbs: &[i32]) {
    with_module(|module| (module.databases_changed)(server, dbs));
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

#[redis_module_macros::loading_event_handler]
fn loaded(ctx: &Context, phase: LoadingSubevent) {
    if matches!(phase, LoadingSubevent::Ended | LoadingSubevent::Failed) {
        // SAFETY: the crate passes on the context that the server gave to its callback.
        let server = unsafe { Server::new(ctx.ctx) };
        databases_changed(&server, &[]);
    }
}

/// This process has not seen what the other master wrote.
#[redis_module_macros::role_changed_event_handler]
fn role_changed(ctx: &Context, _role: ServerRole) {
    // SAFETY: as above.
    let server = unsafe { Server::new(ctx.ctx) };
    databases_changed(&server, &[]);
}

/// The server's periodic event: ten times a second, unless `hz` says otherwise.
unsafe extern "C" fn periodic(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _phase: u64,
    _data: *mut c_void,
) {
    // SAFETY: the server gives a valid context.
    let server = unsafe { Server::new(ctx) };
    with_module(|module| (module.periodic)(&server));
}

/// A client has come or gone. The server says so while it frees the client, before the callback of one
/// that is blocked.
unsafe extern "C" fn client_changed(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    phase: u64,
    data: *mut c_void,
) {
    if phase != raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED {
        return;
    }
    // SAFETY: the server gives a valid context and the structure that belongs to the event.
    let (server, info) =
        unsafe { (Server::new(ctx), data.cast::<raw::RedisModuleClientInfo>().as_ref()) };
    if let Some(info) = info {
        with_module(|module| (module.client_gone)(&server, info.id));
    }
}

/// A replica has finished or aborted a load beside its data.
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
