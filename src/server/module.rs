//! Loading and unloading.

use super::api::need;
use super::call::INNER_COMMANDS;
use super::guard::{forget_panics, guard, log, log_panics};
use super::{CLUSTER, Server, events, info, string, timer};
use crate::{COMMANDS, FAMILIES};
use redis_module::{Context, DetachedContext, MODULE_CONTEXT, RedisString, Status, raw};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Valkey 9 moves slots in one step only if every module says that it can live with that. Nothing
/// is remembered of a key that its events do not correct. Servers that do not know the bit ignore
/// it.
const HANDLE_ATOMIC_SLOT_MIGRATION: u32 = 1 << 5;

/// Called by the server when it loads the module. `args` are the module's arguments.
pub fn load(ctx: &Context, args: &[RedisString]) -> Status {
    // SAFETY: the context is valid until this function returns.
    let server = unsafe { Server::new(ctx.ctx) };
    if let Some(missing) = missing_function() {
        ctx.log_warning(missing);
        return Status::Err;
    }
    log_panics();
    let args: Vec<&[u8]> = args.iter().map(RedisString::as_slice).collect();
    let outcome = guard(Err("a bug".into()), || {
        if let Some(missing) = server.missing_command(INNER_COMMANDS) {
            let name = missing.to_str().unwrap_or_default();
            return Err(format!("the server has no command {name}, which may have been renamed"));
        }
        CLUSTER.get().set(server.flags() & raw::REDISMODULE_CTX_FLAGS_CLUSTER != 0);
        server.register_settings(&args)?;
        COMMANDS.iter().try_for_each(|entry| server.register(entry))?;
        events::subscribe_to_server(&server);
        // SAFETY: the context is valid; this replaces the information handler of the crate.
        unsafe {
            need(raw::RedisModule_RegisterInfoFunc)(ctx.ctx, Some(info::write));
            // Data is written by inner commands only, so a key that is closed is unchanged. What
            // is remembered of the data is forgotten when they are replaced.
            need(raw::RedisModule_SetModuleOptions)(
                ctx.ctx,
                (raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED
                    | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD
                    | HANDLE_ATOMIC_SLOT_MIGRATION) as i32,
            );
        }
        if server.flags() & raw::REDISMODULE_CTX_FLAGS_EVICT != 0 {
            log(
                c"warning",
                "maxmemory-policy evicts keys: locks, leases and queues may disappear. \
                 Use noeviction here and another server for what may be evicted.",
            );
        }
        Ok(())
    });
    match outcome {
        Ok(()) => Status::Ok,
        Err(reason) => {
            log(c"warning", &format!("not loaded: {reason}"));
            release();
            Status::Err
        }
    }
}

/// Called by the server before it unloads the module, which it does only while nobody waits.
pub fn unload(ctx: &Context) -> Status {
    // SAFETY: the context is valid until this function returns.
    let server = unsafe { Server::new(ctx.ctx) };
    guard((), || timer::disarm(&server));
    release();
    Status::Ok
}

/// Gives back what would otherwise stay behind when the library is unmapped.
fn release() {
    guard((), || {
        FAMILIES.iter().for_each(|family| (family.forget)());
        string::forget_words();
        events::forget();
    });
    forget_panics();
    // The crate makes a context of its own at load and never frees it.
    const { assert!(size_of::<DetachedContext>() == size_of::<AtomicPtr<raw::RedisModuleCtx>>()) };
    // SAFETY: `DetachedContext` is a structure with this one field, and nothing else uses it.
    let detached =
        unsafe { &*std::ptr::from_ref(&MODULE_CONTEXT).cast::<AtomicPtr<raw::RedisModuleCtx>>() };
    let ctx = detached.swap(std::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: the context was made by the crate at load and is freed once.
    unsafe {
        if let (false, Some(free)) = (ctx.is_null(), raw::RedisModule_FreeThreadSafeContext) {
            free(ctx);
        }
    }
}

/// Every function that is used through [`super::api::need`] must be there; a server without one
/// of them refuses the module instead of meeting the gap later.
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
            RedisModule_CallReplyArrayElement
            RedisModule_CallReplyInteger
            RedisModule_CallReplyLength
            RedisModule_CallReplyMapElement
            RedisModule_CallReplyStringPtr
            RedisModule_CallReplyType
            RedisModule_CloseKey
            RedisModule_CreateCommand
            RedisModule_CreateModuleUser
            RedisModule_CreateString
            RedisModule_CreateTimer
            RedisModule_FreeCallReply
            RedisModule_FreeModuleUser
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
            RedisModule_InfoAddFieldULongLong
            RedisModule_InfoAddSection
            RedisModule_KeyType
            RedisModule_LoadConfigs
            RedisModule_Log
            RedisModule_Milliseconds
            RedisModule_MonotonicMicroseconds
            RedisModule_OpenKey
            RedisModule_RegisterInfoFunc
            RedisModule_RegisterNumericConfig
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
