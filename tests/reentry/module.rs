//! A second module for `tests/reentrancy.rs`: it runs commands in the middle of what Corral does.
//!
//! `REENTRY.ON event command [arg ...]` runs a command inside every keyspace event of that name,
//! unless one is running already. `REENTRY.WAIT command [arg ...]` blocks its client, and runs the
//! command inside the callback that answers it; `REENTRY.WAKE` unblocks that client. `REENTRY.COUNT`
//! replies how many commands have run, and how many of them replied an error.

use redis_module::raw;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

type Ctx = *mut raw::RedisModuleCtx;
type Argv = *mut *mut raw::RedisModuleString;

/// A command and its arguments.
type Command = Vec<Vec<u8>>;

#[derive(Default)]
struct State {
    /// The commands, by the event in which they run.
    on: RefCell<Vec<(Vec<u8>, Command)>>,
    running: Cell<bool>,
    run: Cell<i64>,
    failed: Cell<i64>,
    /// The blocked client, and what runs when it is answered.
    blocked: Cell<Option<*mut raw::RedisModuleBlockedClient>>,
    command: RefCell<Command>,
}

thread_local! {
    // The server calls a module on its main thread only.
    static STATE: State = State::default();
}

/// # Safety
/// `argv` are `argc` valid strings.
unsafe fn arguments(argv: Argv, argc: c_int) -> Vec<Vec<u8>> {
    (1..argc as usize)
        .map(|index| {
            let mut len = 0;
            // SAFETY: see above.
            unsafe {
                let text = raw::RedisModule_StringPtrLen.unwrap()(*argv.add(index), &mut len);
                std::slice::from_raw_parts(text.cast::<u8>(), len).to_vec()
            }
        })
        .collect()
}

/// Runs a command, as a client would.
///
/// # Safety
/// `ctx` is a valid context.
unsafe fn run(ctx: Ctx, command: &[Vec<u8>]) {
    let name = CString::new(command[0].clone()).unwrap();
    // SAFETY: the context is valid, and the format names a vector of strings and its length.
    unsafe {
        let args: Vec<_> = command[1..]
            .iter()
            .map(|arg| raw::RedisModule_CreateString.unwrap()(ctx, arg.as_ptr().cast(), arg.len()))
            .collect();
        let call = raw::RedisModule_Call.unwrap();
        let reply = call(ctx, name.as_ptr(), c"v!E".as_ptr(), args.as_ptr(), args.len());
        let failed = reply.is_null()
            || raw::RedisModule_CallReplyType.unwrap()(reply) as isize
                == raw::REDISMODULE_REPLY_ERROR;
        STATE.with(|state| {
            state.run.set(state.run.get() + 1);
            state.failed.set(state.failed.get() + i64::from(failed));
        });
        if !reply.is_null() {
            raw::RedisModule_FreeCallReply.unwrap()(reply);
        }
        args.iter().for_each(|arg| raw::RedisModule_FreeString.unwrap()(ctx, *arg));
    }
}

unsafe extern "C" fn key_changed(
    ctx: Ctx,
    _class: c_int,
    event: *const c_char,
    _key: *mut raw::RedisModuleString,
) -> c_int {
    STATE.with(|state| {
        if state.running.replace(true) {
            return;
        }
        // SAFETY: the server gives a valid context and event.
        let event = unsafe { CStr::from_ptr(event) }.to_bytes();
        let commands: Vec<_> =
            state.on.borrow().iter().filter(|(on, _)| on == event).cloned().collect();
        for (_, command) in commands {
            // SAFETY: as above.
            unsafe { run(ctx, &command) };
        }
        state.running.set(false);
    });
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn on(ctx: Ctx, argv: Argv, argc: c_int) -> c_int {
    // SAFETY: the server gives valid arguments and a valid context.
    unsafe {
        let mut args = arguments(argv, argc);
        STATE.with(|state| {
            let event = args.remove(0);
            state.on.borrow_mut().retain(|(on, _)| *on != event);
            if !args.is_empty() {
                state.on.borrow_mut().push((event, args));
            }
        });
        raw::RedisModule_ReplyWithSimpleString.unwrap()(ctx, c"OK".as_ptr())
    }
}

unsafe extern "C" fn answer(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    let command = STATE.with(|state| state.command.borrow().clone());
    // SAFETY: the server gives a valid context.
    unsafe {
        run(ctx, &command);
        raw::RedisModule_ReplyWithSimpleString.unwrap()(ctx, c"OK".as_ptr())
    }
}

unsafe extern "C" fn key_ready(_ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    raw::REDISMODULE_ERR as c_int
}

unsafe extern "C" fn free(_ctx: Ctx, _data: *mut c_void) {}

unsafe extern "C" fn wait(ctx: Ctx, argv: Argv, argc: c_int) -> c_int {
    // SAFETY: the server gives valid arguments and a valid context.
    unsafe {
        let args = arguments(argv, argc);
        let mut key = raw::RedisModule_CreateString.unwrap()(ctx, c"reentry".as_ptr(), 7);
        let blocked = raw::RedisModule_BlockClientOnKeys.unwrap()(
            ctx,
            Some(key_ready),
            Some(answer),
            Some(free),
            0,
            &mut key,
            1,
            ptr::null_mut(),
        );
        raw::RedisModule_FreeString.unwrap()(ctx, key);
        STATE.with(|state| {
            state.blocked.set(Some(blocked));
            state.command.replace(args);
        });
    }
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn wake(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    // SAFETY: the server gives a valid context; the client is still blocked.
    unsafe {
        if let Some(blocked) = STATE.with(|state| state.blocked.take()) {
            raw::RedisModule_UnblockClient.unwrap()(blocked, ptr::null_mut());
        }
        raw::RedisModule_ReplyWithSimpleString.unwrap()(ctx, c"OK".as_ptr())
    }
}

unsafe extern "C" fn count(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    // SAFETY: the server gives a valid context.
    unsafe {
        raw::RedisModule_ReplyWithArray.unwrap()(ctx, 2);
        let (run, failed) = STATE.with(|state| (state.run.get(), state.failed.get()));
        raw::RedisModule_ReplyWithLongLong.unwrap()(ctx, run);
        raw::RedisModule_ReplyWithLongLong.unwrap()(ctx, failed)
    }
}

/// Called by the server when it loads the module.
///
/// # Safety
/// Only the server calls this, with a valid context.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the server looks for this name")]
pub unsafe extern "C" fn RedisModule_OnLoad(ctx: Ctx, _argv: Argv, _argc: c_int) -> c_int {
    type Handler = unsafe extern "C" fn(Ctx, Argv, c_int) -> c_int;
    let commands: [(&CStr, Handler); 4] = [
        (c"reentry.on", on),
        (c"reentry.wait", wait),
        (c"reentry.wake", wake),
        (c"reentry.count", count),
    ];
    // SAFETY: the context is valid.
    unsafe {
        let api = raw::REDISMODULE_APIVER_1 as c_int;
        if raw::Export_RedisModule_Init(ctx, c"reentry".as_ptr(), 1, api) != 0 {
            return raw::REDISMODULE_ERR as c_int;
        }
        for (name, handler) in commands {
            let (create, flags) = (raw::RedisModule_CreateCommand.unwrap(), c"write".as_ptr());
            create(ctx, name.as_ptr(), Some(handler), flags, 0, 0, 0);
        }
        let classes = raw::REDISMODULE_NOTIFY_GENERIC
            | raw::REDISMODULE_NOTIFY_STRING
            | raw::REDISMODULE_NOTIFY_ZSET
            | raw::REDISMODULE_NOTIFY_STREAM
            | raw::REDISMODULE_NOTIFY_HASH;
        raw::RedisModule_SubscribeToKeyspaceEvents.unwrap()(
            ctx,
            classes as c_int,
            Some(key_changed),
        )
    }
}
