//! Registers the commands with the server, together with their documentation.

use super::api::need;
use super::guard::guard;
use super::spec::{Access, Arg, ArgKind, Key, Spec};
use super::string::arguments;
use super::{Server, Str};
use redis_module::raw;
use std::ffi::{CStr, CString};
use std::os::raw::{c_int, c_uint};
use std::ptr;

/// A command's entry from C.
pub type Handler = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    *mut *mut raw::RedisModuleString,
    c_int,
) -> c_int;

/// A command as the server layer sees it.
pub trait Handle {
    /// Runs the command and replies. `args` begins with the name.
    fn handle<'a>(server: &'a Server, args: &'a [Str<'a>]);
}

/// A row of the table of commands.
pub struct Entry {
    /// Its specification.
    pub spec: Spec,
    /// Its entry from C.
    pub handler: Handler,
}

/// The entry from C of a command.
///
/// # Safety
/// Only the server calls it, with a valid context and `argc` valid arguments.
pub unsafe extern "C" fn handler<H: Handle>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the server gives a valid context and valid arguments for the time of this call.
    let (server, args) = unsafe {
        let args = arguments(argv, argc);
        (Server::in_command(ctx, args), args)
    };
    guard((), || H::handle(&server, args));
    raw::REDISMODULE_OK as c_int
}

impl Server {
    /// Registers one command.
    pub(super) fn register(&self, entry: &Entry) -> Result<(), &'static str> {
        let spec = &entry.spec;
        let (first, last, step) = spec.legacy_keys();
        let text = |text: &str| CString::new(text).map_err(|_| "a specification contains NUL");
        let (flags, categories) = (text(spec.flags)?, text(&spec.categories())?);
        // SAFETY: the context is the one of loading; the server copies the flags, and the other strings
        // live for ever.
        let (created, command) = unsafe {
            let created = need(raw::RedisModule_CreateCommand)(
                self.ctx,
                spec.name.as_ptr(),
                Some(entry.handler),
                flags.as_ptr(),
                first,
                last,
                step,
            );
            (created, need(raw::RedisModule_GetCommand)(self.ctx, spec.name.as_ptr()))
        };
        if created != raw::REDISMODULE_OK as c_int || command.is_null() {
            return Err("the server rejected a command");
        }
        describe(command, spec)?;
        // SAFETY: a function that only newer servers have; the command was created above.
        unsafe {
            if let Some(set_categories) = raw::RedisModule_SetCommandACLCategories {
                set_categories(command, categories.as_ptr());
            }
        }
        Ok(())
    }
}

/// The version of the structures below, for servers that know newer ones.
static INFO_VERSION: InfoVersion = InfoVersion(raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
});

struct InfoVersion(raw::RedisModuleCommandInfoVersion);

// SAFETY: plain numbers that nobody writes.
unsafe impl Sync for InfoVersion {}

fn describe(command: *mut raw::RedisModuleCommand, spec: &Spec) -> Result<(), &'static str> {
    // SAFETY: all-zero is the end mark of the server's key specification lists.
    let end = unsafe { std::mem::zeroed() };
    let mut keys: Vec<_> = spec.keys.iter().map(key_spec).chain([end]).collect();
    let mut nested = Vec::new();
    let mut args = arg_list(spec.args, &mut nested);
    let info = raw::RedisModuleCommandInfo {
        version: &INFO_VERSION.0,
        summary: spec.summary.as_ptr(),
        complexity: spec.complexity.as_ptr(),
        since: spec.since.as_ptr(),
        history: ptr::null_mut(),
        tips: ptr::null(),
        arity: spec.arity,
        key_specs: keys.as_mut_ptr(),
        args: args.as_mut_ptr(),
    };
    // SAFETY: the server copies the description; every list ends with a zeroed element and lives
    // until the call returns.
    match unsafe { need(raw::RedisModule_SetCommandInfo)(command, &info) } as isize {
        raw::REDISMODULE_OK => Ok(()),
        _ => Err("the server rejected the description of a command"),
    }
}

fn key_spec(key: &Key) -> raw::RedisModuleCommandKeySpec {
    let access = match key.access {
        Access::Read | Access::ReadAll => {
            raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS
        }
        Access::Overwrite => raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_UPDATE,
        Access::Insert => raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_INSERT,
        Access::Update | Access::UpdateBehind(_) => {
            raw::REDISMODULE_CMD_KEY_RW
                | raw::REDISMODULE_CMD_KEY_ACCESS
                | raw::REDISMODULE_CMD_KEY_UPDATE
        }
        Access::Delete => {
            raw::REDISMODULE_CMD_KEY_RW
                | raw::REDISMODULE_CMD_KEY_ACCESS
                | raw::REDISMODULE_CMD_KEY_DELETE
        }
    };
    // SAFETY: zeroed is valid for this structure of numbers and pointers; the union members that
    // are written are those that the types beside them announce. The range of length 1: last key
    // and limit 0, step 1. The number of keys is the first argument behind the keyword.
    unsafe {
        let mut spec: raw::RedisModuleCommandKeySpec = std::mem::zeroed();
        spec.flags = access.into();
        if let Access::UpdateBehind(keyword) = key.access {
            spec.begin_search_type =
                raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_KEYWORD;
            spec.bs.keyword.keyword = keyword.as_ptr();
            spec.bs.keyword.startfrom = key.position;
            spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_KEYNUM;
            spec.fk.keynum.keynumidx = 0;
            spec.fk.keynum.firstkey = 1;
            spec.fk.keynum.keystep = 1;
            return spec;
        }
        spec.begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
        spec.bs.index.pos = key.position;
        spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
        spec.fk.range.keystep = 1;
        if matches!(key.access, Access::ReadAll) {
            spec.fk.range.lastkey = -1;
        }
        spec
    }
}

/// The server's form of an argument list. Lists inside it are kept alive in `nested`.
fn arg_list(
    args: &[Arg],
    nested: &mut Vec<Vec<raw::RedisModuleCommandArg>>,
) -> Vec<raw::RedisModuleCommandArg> {
    // SAFETY: zeroed is valid for this structure of numbers and pointers, and all-zero is the
    // end mark of the list.
    let blank: raw::RedisModuleCommandArg = unsafe { std::mem::zeroed() };
    let mut list: Vec<_> = args
        .iter()
        .map(|arg| {
            let mut raw_arg = blank;
            raw_arg.name = arg.name.as_ptr();
            raw_arg.token = arg.token.map_or(ptr::null(), CStr::as_ptr);
            raw_arg.key_spec_index = -1;
            raw_arg.type_ = match arg.kind {
                ArgKind::Key(index) => {
                    raw_arg.key_spec_index = index;
                    raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY
                }
                ArgKind::String => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING,
                ArgKind::Integer => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER,
                ArgKind::Keyword => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN,
                ArgKind::Block(inner) => {
                    raw_arg.subargs = sublist(inner, nested);
                    raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK
                }
                ArgKind::OneOf(inner) => {
                    raw_arg.subargs = sublist(inner, nested);
                    raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF
                }
            };
            let flags: c_uint = [
                (arg.optional, raw::REDISMODULE_CMD_ARG_OPTIONAL),
                (arg.multiple, raw::REDISMODULE_CMD_ARG_MULTIPLE),
            ]
            .iter()
            .filter_map(|(set, flag)| set.then_some(*flag))
            .sum();
            raw_arg.flags = flags as c_int;
            raw_arg
        })
        .collect();
    list.push(blank);
    list
}

/// A list inside a list.
fn sublist(
    args: &[Arg],
    nested: &mut Vec<Vec<raw::RedisModuleCommandArg>>,
) -> *mut raw::RedisModuleCommandArg {
    let mut list = arg_list(args, nested);
    let start = list.as_mut_ptr();
    // Moving the list does not move its elements.
    nested.push(list);
    start
}
