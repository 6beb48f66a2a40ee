//! Looking at a key without an inner command, where an inner command would cost too much. Never
//! for writing: the key API knows nothing of moving slots.

use super::api::need;
use super::{Server, Str};
use crate::time::UnixMs;
use redis_module::raw;
use std::marker::PhantomData;
use std::os::raw::c_int;
use std::ptr::NonNull;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Nothing: the key does not exist.
    Absent,
    /// A string.
    String,
    /// A stream.
    Stream,
    /// A sorted set.
    SortedSet,
    /// Any other type.
    Other,
}

/// An open key.
pub struct Key<'s> {
    raw: Option<NonNull<raw::RedisModuleKey>>,
    server: PhantomData<&'s Server>,
}

impl Server {
    /// Opens a key as a reading command does: hits and misses are counted.
    pub fn read_key(&self, name: Str<'_>) -> Key<'_> {
        self.open(name, raw::REDISMODULE_READ)
    }

    /// Opens a key without a trace in the statistics of reads. Opening for writing does that; no
    /// client that watches or tracks the key is told, see [`super::module::load`].
    pub fn peek_key(&self, name: Str<'_>) -> Key<'_> {
        self.open(name, raw::REDISMODULE_READ | raw::REDISMODULE_WRITE)
    }

    /// What a key holds.
    pub fn type_of(&self, name: Str<'_>) -> Type {
        self.peek_key(name).kind()
    }

    fn open(&self, name: Str<'_>, mode: u32) -> Key<'_> {
        // SAFETY: the context and the string are valid; null stands for a key that is absent.
        let key = unsafe { need(raw::RedisModule_OpenKey)(self.ctx, name.as_ptr(), mode as c_int) };
        Key { raw: NonNull::new(key.cast()), server: PhantomData }
    }
}

impl Key<'_> {
    /// What it holds.
    pub fn kind(&self) -> Type {
        let Some(key) = self.raw else {
            return Type::Absent;
        };
        // SAFETY: the key is open.
        match unsafe { need(raw::RedisModule_KeyType)(key.as_ptr()) } as isize {
            raw::REDISMODULE_KEYTYPE_EMPTY => Type::Absent,
            raw::REDISMODULE_KEYTYPE_STRING => Type::String,
            raw::REDISMODULE_KEYTYPE_STREAM => Type::Stream,
            raw::REDISMODULE_KEYTYPE_ZSET => Type::SortedSet,
            _ => Type::Other,
        }
    }

    /// The length of a string in bytes.
    pub fn len(&self) -> usize {
        // SAFETY: the key is open.
        self.raw.map_or(0, |key| unsafe { need(raw::RedisModule_ValueLength)(key.as_ptr()) })
    }

    /// When it expires, if it does so in the time that a clock can tell.
    pub fn deadline(&self) -> Option<UnixMs> {
        // SAFETY: the key is open.
        let at = self.raw.map(|key| unsafe { need(raw::RedisModule_GetAbsExpire)(key.as_ptr()) });
        at.filter(|at| *at >= 0).map(UnixMs).filter(|at| at.is_within_reach())
    }

    /// The bytes of a string. A value of up to 128 bytes can have a compact form in memory, which
    /// this would undo for good: read such a value with an inner GET.
    pub(super) fn long_string(&self) -> &[u8] {
        let Some(key) = self.raw else { return &[] };
        let mut len = 0;
        // SAFETY: the key is open; it is not written while this borrow lives.
        unsafe {
            let start = need(raw::RedisModule_StringDMA)(
                key.as_ptr(),
                &mut len,
                raw::REDISMODULE_READ as c_int,
            );
            if start.is_null() { &[] } else { std::slice::from_raw_parts(start.cast(), len) }
        }
    }
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.raw {
            // SAFETY: the key was opened by `open` and is closed once.
            unsafe { need(raw::RedisModule_CloseKey)(key.as_ptr()) };
        }
    }
}
