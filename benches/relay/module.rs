//! A second module for the bench: `RELAY command arg ...` runs a command of the server and forwards its
//! reply, with as little work as a module can. `RELAY.ALL count command arg ... [count command arg ...]`
//! runs several and forwards the reply of the last one. `RELAY.WAIT key` blocks its client for good.
//! `RELAY.SUBSCRIBE` subscribes to the keyspace events to which the first waiting client and the first
//! load subscribe Corral, and ignores them. They show how much of the cost of a module is the server's.

use redis_module::raw;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

type Ctx = *mut raw::RedisModuleCtx;
type Argv = *mut *mut raw::RedisModuleString;

/// How many arguments the format below has. With more, the server takes a list.
const SINGLES: usize = 10;

/// The server's format: up to ten strings, then the flags for a write that is replicated, with errors as
/// replies and the reply in the client's protocol.
const FORMAT: &CStr = c"ssssssssss!E0";

/// Runs a command, which is null if the server refuses it.
unsafe fn run(ctx: Ctx, command: &[*mut raw::RedisModuleString]) -> *mut raw::RedisModuleCallReply {
    // SAFETY: the strings and the context are valid; a format names as many strings as there are arguments,
    // and what follows them is not read.
    unsafe {
        let name = raw::RedisModule_StringPtrLen.unwrap()(command[0], ptr::null_mut());
        let args = &command[1..];
        let call = raw::RedisModule_Call.unwrap();
        match SINGLES.checked_sub(args.len()) {
            Some(room) => {
                let mut slots = [ptr::null_mut(); SINGLES];
                slots[..args.len()].copy_from_slice(args);
                let [a, b, c, d, e, f, g, h, i, j] = slots;
                call(ctx, name, FORMAT.as_ptr().add(room), a, b, c, d, e, f, g, h, i, j)
            }
            None => call(ctx, name, c"v!E0".as_ptr(), args.as_ptr(), args.len()),
        }
    }
}

/// Runs a command and forwards its reply, if it is the last one.
unsafe fn forward(ctx: Ctx, command: &[*mut raw::RedisModuleString], last: bool) {
    // SAFETY: the strings and the context are valid, and the reply is freed once.
    unsafe {
        let reply = run(ctx, command);
        if reply.is_null() {
            raw::RedisModule_ReplyWithError.unwrap()(ctx, c"ERR not relayed".as_ptr());
            return;
        }
        if last {
            raw::RedisModule_ReplyWithCallReply.unwrap()(ctx, reply);
        }
        raw::RedisModule_FreeCallReply.unwrap()(reply);
    }
}

unsafe extern "C" fn relay(ctx: Ctx, argv: Argv, argc: c_int) -> c_int {
    // SAFETY: the server gives `argc` valid arguments, at least two, and a valid context.
    unsafe { forward(ctx, &std::slice::from_raw_parts(argv, argc as usize)[1..], true) };
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn relay_all(ctx: Ctx, argv: Argv, argc: c_int) -> c_int {
    // SAFETY: the server gives `argc` valid arguments and a valid context.
    unsafe {
        let mut rest = &std::slice::from_raw_parts(argv, argc as usize)[1..];
        while let [size, after @ ..] = rest {
            let mut count = 0;
            raw::RedisModule_StringToLongLong.unwrap()(*size, &raw mut count);
            let (command, others) = after.split_at(count as usize);
            forward(ctx, command, others.is_empty());
            rest = others;
        }
    }
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn goes_on(_ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    raw::REDISMODULE_ERR as c_int
}

unsafe extern "C" fn free(_ctx: Ctx, _data: *mut c_void) {}

unsafe extern "C" fn wait(ctx: Ctx, argv: Argv, _argc: c_int) -> c_int {
    // SAFETY: the server gives two valid arguments and a valid context.
    unsafe {
        let block = raw::RedisModule_BlockClientOnKeys.unwrap();
        let (ready, none) = (Some(goes_on as _), ptr::null_mut());
        block(ctx, ready, ready, Some(free), 0, argv.add(1), 1, none);
    }
    raw::REDISMODULE_OK as c_int
}

/// The classes of events that matter to locks and cached values.
const EVENTS: c_int = raw::REDISMODULE_NOTIFY_GENERIC
    | raw::REDISMODULE_NOTIFY_EXPIRED
    | raw::REDISMODULE_NOTIFY_EVICTED
    | raw::REDISMODULE_NOTIFY_STRING
    | raw::REDISMODULE_NOTIFY_ZSET;

unsafe extern "C" fn ignore(
    _ctx: Ctx,
    _class: c_int,
    _event: *const c_char,
    _key: *mut raw::RedisModuleString,
) -> c_int {
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn subscribe(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    // SAFETY: the context is valid.
    unsafe {
        raw::RedisModule_SubscribeToKeyspaceEvents.unwrap()(ctx, EVENTS, Some(ignore));
        raw::RedisModule_ReplyWithSimpleString.unwrap()(ctx, c"OK".as_ptr())
    }
}

/// Called by the server when it loads the module.
///
/// # Safety
/// Only the server calls this, with a valid context.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the server looks for this name")]
pub unsafe extern "C" fn RedisModule_OnLoad(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    // SAFETY: the context is valid.
    unsafe {
        let api = raw::REDISMODULE_APIVER_1 as c_int;
        if raw::Export_RedisModule_Init(ctx, c"relay".as_ptr(), 1, api) != 0 {
            return raw::REDISMODULE_ERR as c_int;
        }
        let (create, flags) = (raw::RedisModule_CreateCommand.unwrap(), c"write fast".as_ptr());
        create(ctx, c"relay.all".as_ptr(), Some(relay_all), flags, 0, 0, 0);
        create(ctx, c"relay.wait".as_ptr(), Some(wait), flags, 0, 0, 0);
        create(ctx, c"relay.subscribe".as_ptr(), Some(subscribe), flags, 0, 0, 0);
        create(ctx, c"relay".as_ptr(), Some(relay), flags, 0, 0, 0)
    }
}
