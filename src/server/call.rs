//! Inner commands. Nearly every change of data is one, so that replication, keyspace events, client
//! tracking and the rules of cluster and memory are the server's own. The exception is [`super::write`].

use super::api::need;
use super::resp::{Element, Kind};
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
        let reply =
            CallReply { raw: NonNull::new(reply).ok_or(Error::Internal)?, life: PhantomData };
        let root = reply.root();
        if root.kind() == Kind::Error {
            return Err(Error::Server(ServerError::new(root.bytes())));
        }
        Ok(reply)
    }
}

/// The reply of an inner command. It must not outlive the command, timer or event that made it.
pub struct CallReply<'s> {
    raw: NonNull<raw::RedisModuleCallReply>,
    life: PhantomData<&'s ()>,
}

impl CallReply<'_> {
    /// The reply, to look into.
    pub fn root(&self) -> Element<'_> {
        let mut len = 0;
        // SAFETY: the reply lives as long as this value, and its text is not changed.
        unsafe {
            let text = need(raw::RedisModule_CallReplyProto)(self.raw.as_ptr(), &mut len);
            if text.is_null() {
                return Element::new(&[]);
            }
            Element::new(std::slice::from_raw_parts(text.cast(), len))
        }
    }

    pub(super) fn as_ptr(&self) -> *mut raw::RedisModuleCallReply {
        self.raw.as_ptr()
    }
}

impl Drop for CallReply<'_> {
    fn drop(&mut self) {
        // SAFETY: the reply was made by `call`, and the lifetime keeps it inside its context.
        unsafe { need(raw::RedisModule_FreeCallReply)(self.raw.as_ptr()) };
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
            // What is written through a key is a command in a cluster.
            let calls = [".call(", ".write("].into_iter().flat_map(|way| text.split(way).skip(1));
            let calls = calls.map(str::trim_start);
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
