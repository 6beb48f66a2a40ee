//! The writes of strings that most commands consist of, through an open key. An inner command would look
//! up the command and the key again, and prepare arguments and a reply, which costs more than the write.
//!
//! Each of them has the effects of the command that it is named after: on the data, the replicas, the
//! append-only file, WATCH, client tracking and keyspace events. Only MONITOR and the statistics of
//! commands do not show it. The key API does not check whether a slot migrates or whether the server
//! accepts writes: so in a cluster, and in a timer, the command runs.

use super::api::need;
use super::events::{STRINGS, own_write};
use super::guard::log;
use super::module::close_changed;
use super::{Key, Mode, Server, Str, words};
use crate::error::Error;
use crate::time::UnixMs;
use redis_module::raw;
use std::ffi::CStr;
use std::os::raw::c_int;
use std::ptr::NonNull;

const OK: c_int = raw::REDISMODULE_OK as c_int;

/// A keyspace event: its class and its name.
type Event = (c_int, &'static CStr);

const SET: Event = (STRINGS, c"set");
const EXPIRE: Event = (raw::REDISMODULE_NOTIFY_GENERIC as c_int, c"expire");
const DEL: Event = (raw::REDISMODULE_NOTIFY_GENERIC as c_int, c"del");

impl Key<'_> {
    /// `SET key value PXAT at`. The key must be open for writing.
    pub fn set(self, value: Str<'_>, at: UnixMs) -> Result<(), Error> {
        let end = self.server.time(at);
        let args = [self.name, value, words().pxat(), end.borrow()];
        // Replacing a value through the key API would reset its access frequency, which matters to an LFU
        // eviction policy, so only new keys are created this way.
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
    /// would have to undo the compact form that a short value gets otherwise. The event `new`, of which
    /// only modules can see more than the name, is raised when the value is still filled with zeros.
    pub fn set_plain(self, value: Str<'_>, at: UnixMs) -> Result<(), Error> {
        let end = self.server.time(at);
        let args = [self.name, value, words().pxat(), end.borrow()];
        let value = value.bytes();
        self.write(c"SET", &args, false, &[SET, EXPIRE], |key| {
            let mut len = 0;
            // SAFETY: the key is open; the server has allocated `len` bytes for this value.
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

    /// Writes through the key API if the key's existence matches `exists`; otherwise runs the command.
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
        let _own = own_write();
        if write(open) != [OK; CALLS] {
            // A key that was created in vain must not stay.
            // SAFETY: the key is open.
            if !exists && unsafe { need(raw::RedisModule_DeleteKey)(open) } != OK {
                log(c"warning", "a key that could not be written completely was left behind");
            }
            return Err(Error::Internal);
        }
        // Whatever runs inside an event can change the key.
        close_changed(self);
        let replicated = server.replicate(command, args);
        let (ctx, name) = (server.ctx, name.as_ptr());
        // SAFETY: the context and the string are valid.
        unsafe {
            for (class, event) in events {
                // Refused only where no event may be raised.
                need(raw::RedisModule_NotifyKeyspaceEvent)(ctx, *class, event.as_ptr(), name);
            }
        }
        replicated
    }
}

impl Server {
    /// Propagates a command, of at most four arguments, that has been carried out.
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
