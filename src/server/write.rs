//! The writes of strings that most commands consist of, through an open key. An inner command would look
//! up the command and the key again, and prepare arguments and a reply, which costs more than the write.
//!
//! Each of them has every effect of the command that it is named after: on the data, the replicas, the
//! append-only file, WATCH, client tracking and keyspace events. The key API does not check whether a
//! slot migrates or whether the server accepts writes: so in a cluster, and in a timer, the command runs.

use super::api::need;
use super::{Key, Mode, Server, Str, events, words};
use crate::error::Error;
use crate::time::UnixMs;
use redis_module::raw;
use std::ffi::CStr;
use std::os::raw::c_int;
use std::ptr::NonNull;

/// A keyspace event: its class and its name.
type Event = (c_int, &'static CStr);

const SET: Event = (events::STRINGS, c"set");
const EXPIRE: Event = (raw::REDISMODULE_NOTIFY_GENERIC as c_int, c"expire");
const OK: c_int = raw::REDISMODULE_OK as c_int;

const DEL: Event = (raw::REDISMODULE_NOTIFY_GENERIC as c_int, c"del");

impl Key<'_> {
    /// `SET key value PXAT at`. The key must be open for writing.
    pub fn set(self, value: Str<'_>, at: UnixMs) -> Result<(), Error> {
        let end = self.server.time(at);
        let args = [self.name, value, words().pxat(), end.borrow()];
        // A value that is replaced through the key API loses how often it was used.
        self.write(c"SET", &args, false, &[SET, EXPIRE], |key| {
            // SAFETY: the key is open, and the server takes its own reference to the value.
            unsafe {
                [
                    need(raw::RedisModule_StringSet)(key, value.as_ptr()),
                    need(raw::RedisModule_SetAbsExpire)(key, at.0),
                ]
            }
        })
    }

    /// As [`Key::set`], for a value that is not empty and will be compared with [`Key::holds`], which
    /// would have to undo the compact form that a short value gets otherwise.
    pub fn set_plain(self, value: Str<'_>, at: UnixMs) -> Result<(), Error> {
        let end = self.server.time(at);
        let args = [self.name, value, words().pxat(), end.borrow()];
        let value = value.bytes();
        self.write(c"SET", &args, false, &[SET, EXPIRE], |key| {
            let mut len = 0;
            // SAFETY: the key is open; the server has allocated `len` bytes that nobody else sees.
            unsafe {
                let created = need(raw::RedisModule_StringTruncate)(key, value.len());
                const WRITE: c_int = raw::REDISMODULE_WRITE as c_int;
                let start = need(raw::RedisModule_StringDMA)(key, &mut len, WRITE);
                let is_whole = created == OK && !start.is_null() && len == value.len();
                if is_whole {
                    value.as_ptr().copy_to_nonoverlapping(start.cast(), len);
                }
                let expires = need(raw::RedisModule_SetAbsExpire)(key, at.0);
                [if is_whole { OK } else { raw::REDISMODULE_ERR as c_int }, expires]
            }
        })
    }

    /// `PEXPIREAT key at`, where `at` is in the future.
    pub fn expire_at(self, at: UnixMs) -> Result<(), Error> {
        let end = self.server.time(at);
        let args = [self.name, end.borrow()];
        // SAFETY: the key is open.
        let expire = |key| [unsafe { need(raw::RedisModule_SetAbsExpire)(key, at.0) }];
        self.write(c"PEXPIREAT", &args, true, &[EXPIRE], expire)
    }

    /// `DEL key`, of a string.
    pub fn delete(self) -> Result<(), Error> {
        // SAFETY: the key is open.
        let delete = |key| [unsafe { need(raw::RedisModule_DeleteKey)(key) }];
        let args = [self.name];
        self.write(c"DEL", &args, true, &[DEL], delete)
    }

    /// Writes through the key API if the key `exists`, or does not, or else runs the command.
    fn write<const CALLS: usize>(
        self,
        command: &'static CStr,
        args: &[Str<'_>],
        exists: bool,
        events: &[Event],
        write: impl FnOnce(*mut raw::RedisModuleKey) -> [c_int; CALLS],
    ) -> Result<(), Error> {
        let (server, name) = (self.server, self.name);
        let fits = self.exists() == exists && !server.on_own_account && !server.is_in_cluster();
        let Some(open) = self.raw.filter(|_| fits).map(NonNull::as_ptr) else {
            drop(self);
            return server.call(command, Mode::Write, args).map(drop);
        };
        let _own = events::own_write();
        if write(open) != [OK; CALLS] {
            return Err(Error::Internal);
        }
        // Whatever runs inside an event can change the key.
        drop(self);
        server.replicate(command, args)?;
        let (ctx, name) = (server.ctx, name.as_ptr());
        // SAFETY: the context and the string are valid.
        let signals = unsafe {
            need(raw::RedisModule_SignalModifiedKey)(ctx, name);
            let notify = need(raw::RedisModule_NotifyKeyspaceEvent);
            events.iter().all(|(class, event)| notify(ctx, *class, event.as_ptr(), name) == OK)
        };
        if signals { Ok(()) } else { Err(Error::Internal) }
    }
}

impl Server {
    /// Propagates a command, of at most four arguments, that had been carried out.
    fn replicate(&self, command: &'static CStr, args: &[Str<'_>]) -> Result<(), Error> {
        const FORMAT: &CStr = c"ssss";
        let mut slots = [std::ptr::null_mut(); 4];
        slots.iter_mut().zip(args).for_each(|(slot, arg)| *slot = arg.as_ptr());
        let [a, b, c, d] = slots;
        let room = slots.len().checked_sub(args.len()).ok_or(Error::Internal)?;
        let format = FORMAT.to_bytes_with_nul().get(room..).ok_or(Error::Internal)?;
        let (ctx, command, format) = (self.ctx, command.as_ptr(), format.as_ptr().cast());
        // SAFETY: the context and the strings are valid; the format is the end of a C string and names
        // as many strings as there are arguments.
        let replicated =
            unsafe { need(raw::RedisModule_Replicate)(ctx, command, format, a, b, c, d) };
        if replicated == OK { Ok(()) } else { Err(Error::Internal) }
    }
}
