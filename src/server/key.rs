//! Reading a key without an inner command where that would cost too much. [`super::write`] has the only
//! writes: the key API does not check migrating slots.

use super::api::need;
use super::{OwnedStr, Server, Str};
use crate::time::UnixMs;
use redis_module::raw;
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

/// An open key. It must be closed before anything else can change the key.
pub struct Key<'s> {
    pub(super) raw: Option<NonNull<raw::RedisModuleKey>>,
    pub(super) server: &'s Server,
    pub(super) name: Str<'s>,
}

impl Server {
    /// Opens a key as a reading command does: the server counts a hit or a miss.
    pub fn read_key<'s>(&'s self, name: Str<'s>) -> Key<'s> {
        self.open(name, raw::REDISMODULE_READ)
    }

    /// Opens a key without counting a hit or a miss, which means opening it for writing. Clients that
    /// watch or track the key are not notified, see [`super::module`].
    pub fn peek_key<'s>(&'s self, name: Str<'s>) -> Key<'s> {
        self.open(name, raw::REDISMODULE_READ | raw::REDISMODULE_WRITE)
    }

    /// What a key holds.
    pub fn type_of(&self, name: Str<'_>) -> Type {
        self.peek_key(name).kind()
    }

    fn open<'s>(&'s self, name: Str<'s>, mode: u32) -> Key<'s> {
        // SAFETY: the context and the string are valid; null stands for a key that is absent.
        let key = unsafe { need(raw::RedisModule_OpenKey)(self.ctx, name.as_ptr(), mode as c_int) };
        Key { raw: NonNull::new(key.cast()), server: self, name }
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

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.kind() != Type::Absent
    }

    /// Whether it is a hash.
    pub fn is_hash(&self) -> bool {
        // SAFETY: the key is open.
        let kind = self.raw.map(|key| unsafe { need(raw::RedisModule_KeyType)(key.as_ptr()) });
        kind.map(|kind| kind as isize) == Some(raw::REDISMODULE_KEYTYPE_HASH)
    }

    /// The number of entries of a stream or members of a sorted set; 0 of anything else.
    pub fn entries(&self) -> usize {
        if matches!(self.kind(), Type::Stream | Type::SortedSet) { self.len() } else { 0 }
    }

    /// The length of a string in bytes.
    pub fn len(&self) -> usize {
        // SAFETY: the key is open.
        self.raw.map_or(0, |key| unsafe { need(raw::RedisModule_ValueLength)(key.as_ptr()) })
    }

    /// When it expires, unless that is too far away to be stored.
    pub fn deadline(&self) -> Option<UnixMs> {
        // Redis 8.2 and later crash if the key is open for writing and absent.
        let key = self.raw.filter(|_| self.kind() != Type::Absent);
        // SAFETY: the key is open and exists.
        let at = key.map(|key| unsafe { need(raw::RedisModule_GetAbsExpire)(key.as_ptr()) });
        at.filter(|at| *at >= 0).map(UnixMs).filter(|at| at.is_storable())
    }

    /// Walks through the entries of a stream after an id, at most `most` of them. Returns how many
    /// there are, and the id of the first.
    pub fn entries_behind(&self, last: (u64, u64), most: usize) -> (usize, Option<(u64, u64)>) {
        self.walk(raw::REDISMODULE_STREAM_ITERATOR_EXCLUSIVE, last, None, most)
    }

    /// How many entries a stream has between two ids, without these, counted up to `most`.
    pub fn entries_between(&self, first: (u64, u64), last: (u64, u64), most: usize) -> usize {
        self.walk(raw::REDISMODULE_STREAM_ITERATOR_EXCLUSIVE, first, Some(last), most).0
    }

    /// Whether it is a stream with an entry of this id.
    pub fn has_entry(&self, id: (u64, u64)) -> bool {
        self.walk(0, id, Some(id), 1).0 > 0
    }

    /// Walks through entries of a stream, to the last one if no end is given.
    fn walk(
        &self,
        flags: u32,
        from: (u64, u64),
        to: Option<(u64, u64)>,
        most: usize,
    ) -> (usize, Option<(u64, u64)>) {
        let Some(key) = self.raw.filter(|_| self.kind() == Type::Stream) else {
            return (0, None);
        };
        let id = |(ms, seq)| raw::RedisModuleStreamID { ms, seq };
        let (mut from, mut to) = (id(from), to.map(id));
        let (mut count, mut first) = (0, None);
        // SAFETY: the key is open and a stream; without an end the walk goes to the last entry; it
        // is stopped before the key is closed.
        unsafe {
            let started = need(raw::RedisModule_StreamIteratorStart)(
                key.as_ptr(),
                flags as c_int,
                &mut from,
                to.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut),
            );
            if started != raw::REDISMODULE_OK as c_int {
                return (0, None);
            }
            let (mut id, mut fields) = (raw::RedisModuleStreamID { ms: 0, seq: 0 }, 0);
            while count < most
                && need(raw::RedisModule_StreamIteratorNextID)(key.as_ptr(), &mut id, &mut fields)
                    == raw::REDISMODULE_OK as c_int
            {
                first = first.or(Some((id.ms, id.seq)));
                count += 1;
                // The walk does not advance, and the server crashes, unless every field is read.
                while need(raw::RedisModule_StreamIteratorNextField)(
                    key.as_ptr(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                ) == raw::REDISMODULE_OK as c_int
                {}
            }
            need(raw::RedisModule_StreamIteratorStop)(key.as_ptr());
        }
        (count, first)
    }

    /// Whether it is this string, which this module stores for a short time: a string of this length
    /// loses its compact encoding.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.len() == bytes.len() && self.long_string() == bytes
    }

    /// A copy of a string. It undoes the compact encoding that a short string can have in memory, so
    /// it is for long strings, and for those that this module stores for a short time.
    pub fn copy(&self) -> OwnedStr {
        OwnedStr::new(self.long_string())
    }

    /// The bytes of a string. A value of up to 128 bytes can have a compact encoding in memory, which
    /// this undoes for good. An inner GET leaves it as it is.
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
