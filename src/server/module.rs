//! Loading and unloading.
//!
//! The crate's `redis_module!` is not used: its load function leaks a context, and logs a warning on
//! every server that lacks its defragmentation callbacks.

use super::api::need;
use super::call::INNER_COMMANDS;
use super::guard::{forget_panics, guard, log, log_panics};
use super::{Build, Key, Module, STATE, Server, Str, events, info, string};
use redis_module::raw;
use std::os::raw::c_int;

/// Valkey 9 moves slots in one step only if every module declares that it supports this. Keyspace
/// events correct whatever is remembered of a key. Servers that do not know the bit ignore it.
const HANDLE_ATOMIC_SLOT_MIGRATION: u32 = 1 << 5;

/// The options of the module. Most keys that are open for writing are only read, so closing one does not
/// mean that it was changed.
const OPTIONS: c_int =
    OPTIONS_OF_A_CHANGE | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED as c_int;

/// The options while a key is closed that was changed.
const OPTIONS_OF_A_CHANGE: c_int =
    (raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD | HANDLE_ATOMIC_SLOT_MIGRATION) as c_int;

/// Closes a key that was changed: clients that watch or track it are notified. The function of the API
/// that does only that counts a hit or a miss on Redis 8.6.
pub(super) fn close_changed(key: Key<'_>) {
    let ctx = key.server.ctx;
    // SAFETY: the context belongs to this module; nothing else runs before the options are restored.
    unsafe {
        need(raw::RedisModule_SetModuleOptions)(ctx, OPTIONS_OF_A_CHANGE);
        drop(key);
        need(raw::RedisModule_SetModuleOptions)(ctx, OPTIONS);
    }
}

/// Exports the two functions that the server calls, for a constant [`Module`].
macro_rules! export {
    ($module:expr) => {
        /// Called by the server when it loads the module.
        ///
        /// # Safety
        /// Only the server calls this, with a valid context and `argc` valid strings.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(non_snake_case, reason = "the server looks for this name")]
        pub unsafe extern "C" fn RedisModule_OnLoad(
            ctx: *mut redis_module::raw::RedisModuleCtx,
            argv: *mut *mut redis_module::raw::RedisModuleString,
            argc: std::os::raw::c_int,
        ) -> std::os::raw::c_int {
            // SAFETY: the server keeps the promises above.
            unsafe { $crate::server::module::on_load(ctx, argv, argc, $module) }
        }

        /// Called by the server before it unloads the module, which it does only while no client
        /// waits.
        ///
        /// # Safety
        /// Only the server calls this, with a valid context.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(non_snake_case, reason = "the server looks for this name")]
        pub unsafe extern "C" fn RedisModule_OnUnload(
            ctx: *mut redis_module::raw::RedisModuleCtx,
        ) -> std::os::raw::c_int {
            // SAFETY: the server keeps the promise above.
            unsafe { $crate::server::module::on_unload(ctx) }
        }
    };
}
pub(crate) use export;

/// Loads the module.
///
/// # Safety
/// `ctx` is the context of loading, and `argv` are the `argc` arguments of the module.
pub unsafe fn on_load(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
    module: &'static Module,
) -> c_int {
    const API: c_int = raw::REDISMODULE_APIVER_1 as c_int;
    // SAFETY: the context is valid, and the name a C string that lives for ever. Nothing is
    // allocated before this has found the server's allocator.
    let known =
        unsafe { raw::Export_RedisModule_Init(ctx, module.name.as_ptr(), module.version, API) };
    if known != raw::REDISMODULE_OK as c_int {
        return raw::REDISMODULE_ERR as c_int;
    }
    if let Some(missing) = missing_function() {
        // Without the API there may be no way to say so.
        // SAFETY: a plain read.
        if unsafe { raw::RedisModule_Log }.is_some() {
            log(c"warning", &format!("not loaded: the server has no {missing}"));
        }
        return raw::REDISMODULE_ERR as c_int;
    }
    log_panics();
    // SAFETY: the server gives a valid context and arguments until this function returns.
    let (server, args) = unsafe { (Server::new(ctx), string::arguments(argv, argc)) };
    match guard(Err("a bug".into()), || load(&server, args, module)) {
        Ok(()) => raw::REDISMODULE_OK as c_int,
        Err(reason) => {
            log(c"warning", &format!("not loaded: {reason}"));
            release(&server);
            raw::REDISMODULE_ERR as c_int
        }
    }
}

fn load(server: &Server, args: &[Str<'_>], module: &'static Module) -> Result<(), String> {
    if let Some(missing) = server.missing_command(INNER_COMMANDS) {
        let name = missing.to_str().unwrap_or_default();
        return Err(format!("the server has no command {name}, which may have been renamed"));
    }
    let state = STATE.get();
    state.module.set(Some(module));
    state.cluster.set(server.flags() & raw::REDISMODULE_CTX_FLAGS_CLUSTER != 0);
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.bytes()).collect();
    server.register_settings((module.load)(server), &args)?;
    module.commands.iter().try_for_each(|entry| server.register(entry))?;
    events::subscribe_to_server(server)?;
    // SAFETY: the context is the one of loading.
    unsafe {
        need(raw::RedisModule_RegisterInfoFunc)(server.ctx, Some(info::write));
        need(raw::RedisModule_SetModuleOptions)(server.ctx, OPTIONS);
    }
    if server.flags() & raw::REDISMODULE_CTX_FLAGS_EVICT != 0 {
        log(
            c"warning",
            "maxmemory-policy evicts keys: locks, leases and queues may disappear. \
             Use noeviction here, and another server for data that may be evicted.",
        );
    }
    let Build { version, commit } = &module.build;
    log(c"notice", &format!("loaded: version {version}, build {commit}"));
    Ok(())
}

/// Unloads the module.
///
/// # Safety
/// `ctx` is the context of unloading.
pub unsafe fn on_unload(ctx: *mut raw::RedisModuleCtx) -> c_int {
    // SAFETY: the context is valid until this function returns.
    release(&unsafe { Server::new(ctx) });
    raw::REDISMODULE_OK as c_int
}

/// Frees what would otherwise stay behind when the library is unmapped.
fn release(server: &Server) {
    guard((), || {
        let state = STATE.get();
        if let Some(module) = state.module.take() {
            (module.unload)(server);
        }
        string::forget_words();
        state.settings.take();
        state.subscribed.set(0);
        state.sees_disconnects.set(false);
    });
    forget_panics();
}

/// The first function used through [`super::api::need`] that the server lacks. Such a server rejects
/// the module at load instead of crashing later.
fn missing_function() -> Option<&'static str> {
    /// One list of names gives both the texts and the pointers.
    macro_rules! functions {
        ($($name:ident)*) => { [$((stringify!($name), is_there(raw::$name))),*] };
    }
    fn is_there<F>(function: Option<F>) -> bool {
        function.is_some()
    }
    // SAFETY: the pointers were filled in before `load` and are only read.
    let functions = unsafe {
        functions! {
            RedisModule_ACLCheckCommandPermissions
            RedisModule_AvoidReplicaTraffic
            RedisModule_BlockClientOnKeys
            RedisModule_Call
            RedisModule_CallReplyProto
            RedisModule_CloseKey
            RedisModule_CreateCommand
            RedisModule_CreateString
            RedisModule_CreateTimer
            RedisModule_DeleteKey
            RedisModule_FreeCallReply
            RedisModule_FreeModuleUser
            RedisModule_FreeServerInfo
            RedisModule_FreeString
            RedisModule_GetAbsExpire
            RedisModule_GetRandomBytes
            RedisModule_HoldString
            RedisModule_GetBlockedClientPrivateData
            RedisModule_GetClientId
            RedisModule_GetClientInfoById
            RedisModule_GetClientUserNameById
            RedisModule_GetCommand
            RedisModule_GetContextFlags
            RedisModule_GetModuleUserFromUserName
            RedisModule_GetSelectedDb
            RedisModule_GetServerInfo
            RedisModule_InfoAddFieldString
            RedisModule_InfoAddFieldULongLong
            RedisModule_InfoAddSection
            RedisModule_KeyType
            RedisModule_LoadConfigs
            RedisModule_Log
            RedisModule_Milliseconds
            RedisModule_MonotonicMicroseconds
            RedisModule_NotifyKeyspaceEvent
            RedisModule_OpenKey
            RedisModule_RegisterInfoFunc
            RedisModule_RegisterNumericConfig
            RedisModule_Replicate
            RedisModule_ReplyWithArray
            RedisModule_ReplyWithCallReply
            RedisModule_ReplyWithError
            RedisModule_ReplyWithLongLong
            RedisModule_ReplyWithMap
            RedisModule_ReplyWithNull
            RedisModule_ReplyWithNullArray
            RedisModule_ReplyWithSimpleString
            RedisModule_ReplyWithStringBuffer
            RedisModule_SelectDb
            RedisModule_ServerInfoGetFieldUnsigned
            RedisModule_SetAbsExpire
            RedisModule_SetCommandInfo
            RedisModule_SetDisconnectCallback
            RedisModule_SetModuleOptions
            RedisModule_StopTimer
            RedisModule_StreamIteratorNextField
            RedisModule_StreamIteratorNextID
            RedisModule_StreamIteratorStart
            RedisModule_StreamIteratorStop
            RedisModule_StringDMA
            RedisModule_StringPtrLen
            RedisModule_StringSet
            RedisModule_StringTruncate
            RedisModule_SubscribeToKeyspaceEvents
            RedisModule_SubscribeToServerEvent
            RedisModule_UnblockClient
            RedisModule_ValueLength
        }
    };
    functions.into_iter().find_map(|(name, present)| (!present).then_some(name))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_needed_function_is_checked_at_load() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server");
        let checked = include_str!("module.rs");
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for used in text.split("need(raw::").skip(1) {
                let name = used.split(')').next().unwrap();
                let is_checked = checked.contains(&format!("            {name}\n"));
                assert!(is_checked || !name.starts_with("RedisModule_"), "{name} is not checked");
            }
        }
    }
}
