//! Inner commands. Every change of data is one, so that replication, keyspace events, client tracking
//! and the rules of cluster and memory are the server's own.

use super::api::need;
use super::{Server, Str, events};
use crate::error::{Error, ServerError};
use redis_module::raw;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// How an inner command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Changes nothing.
    Read,
    /// Changes nothing; the reply is in the client's protocol and can be forwarded.
    ReadForward,
    /// Changes data; replicated. In a timer, where the server has not checked an outer command, it is
    /// rejected like a client's write, but not because of memory.
    Write,
    /// Changes data; replicated; rejected when memory is full, even if the outer command is not.
    WriteIfMemory,
    /// Changes data; replicated; rejected like a write in a script: on a replica, when memory or disk
    /// is full, with too few replicas. For outer commands without the write flag.
    WriteAsScript,
    /// Changes data; replicated; the reply is in the client's protocol and can be forwarded.
    WriteForward,
}

/// Every inner command. The module does not load if one of them is missing, for example because of
/// `rename-command`: a step could then fail half-way. CLIENT is optional.
pub(super) const INNER_COMMANDS: &[&CStr] = &[
    c"DEL",
    c"EXISTS",
    c"GET",
    c"GETEX",
    c"HDEL",
    c"HMGET",
    c"HSCAN",
    c"HSET",
    c"MGET",
    c"PEXPIREAT",
    c"SET",
    c"UNLINK",
    c"XACK",
    c"XADD",
    c"XCLAIM",
    c"XDEL",
    c"XGROUP",
    c"XINFO",
    c"XPENDING",
    c"XRANGE",
    c"XREADGROUP",
    c"ZADD",
    c"ZCOUNT",
    c"ZRANGE",
    c"ZRANGEBYSCORE",
    c"ZREM",
    c"ZSCORE",
];

/// How many single strings the formats below have.
const SINGLES: usize = 10;

impl Mode {
    /// The server's format: strings, then flags. With fewer strings a suffix of it is used.
    const fn singles(self, on_own_account: bool) -> &'static CStr {
        match self {
            Mode::Write if on_own_account => c"ssssssssss!ES",
            Mode::Read => c"ssssssssssE",
            Mode::ReadForward => c"ssssssssssE0",
            Mode::WriteAsScript => c"ssssssssss!ESM",
            Mode::Write => c"ssssssssss!E",
            Mode::WriteIfMemory => c"ssssssssss!EM",
            Mode::WriteForward => c"ssssssssss!E0",
        }
    }

    /// The server's format for a list of strings of any length.
    const fn list(self, on_own_account: bool) -> &'static CStr {
        match self {
            Mode::Write if on_own_account => c"v!ES",
            Mode::Read => c"vE",
            Mode::ReadForward => c"vE0",
            Mode::WriteAsScript => c"v!ESM",
            Mode::Write => c"v!E",
            Mode::WriteIfMemory => c"v!EM",
            Mode::WriteForward => c"v!E0",
        }
    }
}

impl Server {
    /// Runs an inner command. An error reply is an `Err`.
    pub fn call<'s>(
        &'s self,
        command: &'static CStr,
        mode: Mode,
        args: &[Str<'_>],
    ) -> Result<CallReply<'s>, Error> {
        let call = need(
            // SAFETY: a plain read; the pointers are filled in before any command runs.
            unsafe { raw::RedisModule_Call },
        );
        // The caller of a writing command serves the waiters itself.
        let _own = (!matches!(mode, Mode::Read | Mode::ReadForward)).then(events::own_write);
        let (ctx, name) = (self.ctx, command.as_ptr());
        // With single strings the server does not have to grow a list.
        let room = SINGLES.checked_sub(args.len());
        let format =
            room.and_then(|room| mode.singles(self.on_own_account).to_bytes_with_nul().get(room..));
        let reply = match format {
            Some(format) => {
                let mut slots = [std::ptr::null_mut(); SINGLES];
                slots.iter_mut().zip(args).for_each(|(slot, arg)| *slot = arg.as_ptr());
                let [a, b, c, d, e, f, g, h, i, j] = slots;
                // SAFETY: the context is valid; the format is the end of a C string and names as
                // many strings as there are arguments; what follows them is not read. The server
                // takes its own references to the strings that it keeps.
                unsafe { call(ctx, name, format.as_ptr().cast(), a, b, c, d, e, f, g, h, i, j) }
            }
            // SAFETY: as above; `v` takes a pointer to string pointers, which is what `Str` is,
            // and their number.
            None => unsafe {
                call(ctx, name, mode.list(self.on_own_account).as_ptr(), args.as_ptr(), args.len())
            },
        };
        let reply = CallReply {
            element: Element {
                raw: NonNull::new(reply).ok_or(Error::Internal)?,
                life: PhantomData,
            },
        };
        match reply.root().kind() {
            Kind::Error => Err(Error::Server(ServerError::new(reply.root().bytes()))),
            _ => Ok(reply),
        }
    }
}

/// The types of replies of the inner commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string, also a simple one.
    String,
    /// An error.
    Error,
    /// An integer.
    Integer,
    /// An array.
    Array,
    /// A RESP3 map.
    Map,
    /// Nothing.
    Null,
    /// Anything else.
    Other,
}

/// A reply or a part of one.
#[derive(Clone, Copy)]
pub struct Element<'r> {
    raw: NonNull<raw::RedisModuleCallReply>,
    life: PhantomData<&'r ()>,
}

impl<'r> Element<'r> {
    /// Its type.
    pub fn kind(self) -> Kind {
        // SAFETY: the reply lives for 'r.
        match unsafe { need(raw::RedisModule_CallReplyType)(self.raw.as_ptr()) } as isize {
            raw::REDISMODULE_REPLY_STRING => Kind::String,
            raw::REDISMODULE_REPLY_ERROR => Kind::Error,
            raw::REDISMODULE_REPLY_INTEGER => Kind::Integer,
            raw::REDISMODULE_REPLY_ARRAY => Kind::Array,
            raw::REDISMODULE_REPLY_MAP => Kind::Map,
            raw::REDISMODULE_REPLY_NULL => Kind::Null,
            _ => Kind::Other,
        }
    }

    /// Whether it is nil.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Its value; 0 if it is not an integer.
    pub fn integer(self) -> i64 {
        match self.kind() {
            // SAFETY: the reply lives for 'r and is an integer.
            Kind::Integer => unsafe { need(raw::RedisModule_CallReplyInteger)(self.raw.as_ptr()) },
            _ => 0,
        }
    }

    /// Its bytes; none if it is neither a string nor an error.
    pub fn bytes(self) -> &'r [u8] {
        let mut len = 0;
        // SAFETY: the reply lives for 'r; the pointer is null for other types.
        unsafe {
            let start = need(raw::RedisModule_CallReplyStringPtr)(self.raw.as_ptr(), &mut len);
            if start.is_null() { &[] } else { std::slice::from_raw_parts(start.cast(), len) }
        }
    }

    /// The number of elements of an array or pairs of a map.
    pub fn len(self) -> usize {
        match self.kind() {
            // SAFETY: the reply lives for 'r and has a length.
            Kind::Array | Kind::Map => unsafe {
                need(raw::RedisModule_CallReplyLength)(self.raw.as_ptr())
            },
            _ => 0,
        }
    }

    fn wrap(raw: *mut raw::RedisModuleCallReply) -> Option<Element<'r>> {
        NonNull::new(raw).map(|raw| Element { raw, life: PhantomData })
    }

    /// An element of an array.
    pub fn at(self, index: usize) -> Option<Element<'r>> {
        // SAFETY: the reply lives for 'r; null for an index or type that is out of place.
        Self::wrap(unsafe {
            need(raw::RedisModule_CallReplyArrayElement)(self.raw.as_ptr(), index)
        })
    }

    /// The elements of an array.
    pub fn elements(self) -> impl Iterator<Item = Element<'r>> {
        let len = if self.kind() == Kind::Array { self.len() } else { 0 };
        (0..len).filter_map(move |index| self.at(index))
    }

    /// The value of the first pair, of a map or of an array of pairs.
    pub fn first_value(self) -> Option<Element<'r>> {
        if self.kind() != Kind::Map {
            return self.at(0)?.at(1);
        }
        let mut value = std::ptr::null_mut();
        // SAFETY: the reply lives for 'r and is a map; the key is not asked for.
        unsafe {
            need(raw::RedisModule_CallReplyMapElement)(
                self.raw.as_ptr(),
                0,
                std::ptr::null_mut(),
                &mut value,
            );
        }
        Self::wrap(value)
    }

    /// The value after `field` in a flat list of fields and values.
    pub fn field(self, field: &[u8]) -> Option<Element<'r>> {
        let position = (0..self.len())
            .step_by(2)
            .find(|index| self.at(*index).is_some_and(|name| name.bytes() == field))?;
        self.at(position + 1)
    }

    /// The pairs of a flat list of fields and values.
    pub fn pairs(self) -> impl Iterator<Item = (&'r [u8], &'r [u8])> {
        let pair = move |index| Some((self.at(index)?.bytes(), self.at(index + 1)?.bytes()));
        (0..self.len()).step_by(2).filter_map(pair)
    }

    pub(super) fn as_ptr(self) -> *mut raw::RedisModuleCallReply {
        self.raw.as_ptr()
    }
}

/// The reply of an inner command. It must not outlive the command, timer or event that made it.
pub struct CallReply<'s> {
    element: Element<'s>,
}

impl CallReply<'_> {
    /// The reply, to look into.
    pub fn root(&self) -> Element<'_> {
        self.element
    }
}

impl Drop for CallReply<'_> {
    fn drop(&mut self) {
        // SAFETY: the reply was made by `call`, and the lifetime keeps it inside its context.
        unsafe { need(raw::RedisModule_FreeCallReply)(self.element.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn inner_commands(folder: &Path, found: &mut Vec<String>) {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                inner_commands(&path, found);
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let calls = text.split(".call(").skip(1).map(str::trim_start);
            let names = calls.filter_map(|call| call.strip_prefix("c\"")?.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }

    #[test]
    fn every_inner_command_is_checked_at_load() {
        let mut used = Vec::new();
        inner_commands(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut used);
        used.sort();
        used.dedup();
        used.retain(|name| name != "CLIENT");
        let checked: Vec<_> = INNER_COMMANDS.iter().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(used, checked);
    }
}
