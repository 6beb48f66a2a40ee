//! Replies.

use super::Server;
use super::api::need;
use super::call::CallReply;
use super::key::Key;
use super::resp::{Element, Flat, Kind};
use super::string::OwnedStr;
use crate::error::Error;
use redis_module::raw;
use std::ffi::{CStr, CString};
use std::os::raw::{c_int, c_long};
use std::rc::Rc;

/// A reply that a family writes itself.
pub trait WriteReply {
    /// Writes it, as exactly one value.
    fn write(&self, writer: &Writer<'_>);
}

/// Writes a reply value by value.
pub struct Writer<'a>(&'a Server);

impl Writer<'_> {
    /// Begins an array of `len` values, which follow.
    pub fn array(&self, len: usize) {
        // SAFETY: the context is valid, see `Server::new`.
        unsafe { need(raw::RedisModule_ReplyWithArray)(self.0.ctx, len as c_long) };
    }

    /// Writes an integer.
    pub fn integer(&self, value: i64) {
        self.0.send(&Reply::Integer(value));
    }

    /// Writes a part of the reply of an inner command.
    pub fn forward(&self, element: Element<'_>) {
        element.flat().for_each(|value| self.0.send_flat(value));
    }
}

/// A reply. It is the same in both protocols, except for maps and for nil, which is null in RESP3.
pub enum Reply<'a> {
    /// An integer.
    Integer(i64),
    /// A status such as `OK`.
    Simple(&'static CStr),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// A bulk string that several replies share.
    Shared(Rc<OwnedStr>),
    /// Nil instead of a string.
    Null,
    /// Nil instead of an array.
    NullArray,
    /// An array.
    Array(Vec<Reply<'a>>),
    /// Pairs: a map in RESP3, a flat array in RESP2.
    Map(Vec<(Reply<'a>, Reply<'a>)>),
    /// The reply of an inner command, byte for byte.
    Forward(CallReply<'a>),
    /// Written by the family itself.
    Custom(Box<dyn WriteReply + 'a>),
    /// The string in an open key.
    Value(Key<'a>),
    /// None yet: the client is blocked. Or none any more: it was sent.
    Later,
}

impl<'a> Reply<'a> {
    /// A bulk string.
    pub fn bulk(bytes: &[u8]) -> Self {
        Reply::Bulk(bytes.to_vec())
    }

    /// A map with these fields.
    pub fn map(fields: impl IntoIterator<Item = (&'static str, Reply<'a>)>) -> Self {
        let pair = |(name, value): (&str, Reply<'a>)| (Reply::bulk(name.as_bytes()), value);
        Reply::Map(fields.into_iter().map(pair).collect())
    }

    /// A number. Counters beyond 2^63 do not occur.
    pub fn number(value: u64) -> Self {
        Reply::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl Reply<'static> {
    /// A copy of an inner reply that outlives it.
    pub fn copy(element: Element<'_>) -> Self {
        match element.kind() {
            Kind::Integer => Reply::Integer(element.integer()),
            Kind::String => Reply::Bulk(element.bytes().to_vec()),
            Kind::Array => Reply::Array(element.elements().map(Reply::copy).collect()),
            Kind::NullArray => Reply::NullArray,
            Kind::Null | Kind::Error | Kind::Map | Kind::Other => Reply::Null,
        }
    }
}

impl Reply<'_> {
    /// The approximate size of the reply in bytes.
    pub fn size(&self) -> usize {
        match self {
            Reply::Bulk(bytes) => bytes.len() + 16,
            Reply::Shared(text) => text.borrow().bytes().len() + 16,
            Reply::Array(items) => items.iter().map(Reply::size).sum::<usize>() + 16,
            Reply::Map(pairs) => pairs.iter().map(|(k, v)| k.size() + v.size()).sum::<usize>() + 16,
            _ => 16,
        }
    }
}

impl Server {
    /// Sends the outcome of a command to its client.
    pub fn answer(&self, outcome: &Result<Reply<'_>, Error>) {
        match outcome {
            Ok(reply) => self.send(reply),
            Err(error) => {
                let text = CString::new(error.to_string()).unwrap_or_default();
                // SAFETY: the context is valid; the text is a C string without line breaks.
                unsafe { need(raw::RedisModule_ReplyWithError)(self.ctx, text.as_ptr()) };
            }
        }
    }

    /// Sends an array as the reply of a command that has nothing left to do.
    pub fn send_array(&self, items: &[Reply<'_>]) -> Reply<'static> {
        // SAFETY: the context is valid, see `Server::new`.
        unsafe { need(raw::RedisModule_ReplyWithArray)(self.ctx, items.len() as c_long) };
        items.iter().for_each(|item| self.send(item));
        Reply::Later
    }

    fn send(&self, reply: &Reply<'_>) {
        let ctx = self.ctx;
        // SAFETY: the context is valid, see `Server::new`; all pointers live through each call.
        unsafe {
            match reply {
                Reply::Integer(value) => {
                    need(raw::RedisModule_ReplyWithLongLong)(ctx, *value);
                }
                Reply::Simple(text) => {
                    need(raw::RedisModule_ReplyWithSimpleString)(ctx, text.as_ptr());
                }
                Reply::Bulk(bytes) => self.send_bulk(bytes),
                Reply::Shared(text) => self.send_bulk(text.borrow().bytes()),
                Reply::Null => {
                    need(raw::RedisModule_ReplyWithNull)(ctx);
                }
                Reply::NullArray => {
                    need(raw::RedisModule_ReplyWithNullArray)(ctx);
                }
                Reply::Array(items) => {
                    self.send_array(items);
                }
                Reply::Map(pairs) => {
                    need(raw::RedisModule_ReplyWithMap)(ctx, pairs.len() as c_long);
                    pairs.iter().for_each(|(key, value)| {
                        self.send(key);
                        self.send(value);
                    });
                }
                Reply::Forward(reply) => self.forward(reply),
                Reply::Custom(reply) => reply.write(&Writer(self)),
                Reply::Value(key) => self.send_bulk(key.long_string()),
                Reply::Later => {}
            }
        }
    }

    /// Sends a reply of an inner command. The server rejects one in another protocol.
    fn forward(&self, reply: &CallReply<'_>) {
        // SAFETY: the context is valid and the reply lives.
        let sent = unsafe { need(raw::RedisModule_ReplyWithCallReply)(self.ctx, reply.as_ptr()) };
        if sent != raw::REDISMODULE_OK as c_int {
            self.answer(&Err(Error::Internal));
        }
    }

    fn send_flat(&self, value: Flat<'_>) {
        let ctx = self.ctx;
        // SAFETY: the context is valid.
        unsafe {
            match value {
                Flat::String(bytes) => self.send_bulk(bytes),
                Flat::Integer(number) => {
                    need(raw::RedisModule_ReplyWithLongLong)(ctx, number);
                }
                Flat::Array(len) => {
                    need(raw::RedisModule_ReplyWithArray)(ctx, len as c_long);
                }
                Flat::Map(pairs) => {
                    need(raw::RedisModule_ReplyWithMap)(ctx, pairs as c_long);
                }
                Flat::Null => {
                    need(raw::RedisModule_ReplyWithNull)(ctx);
                }
                Flat::NullArray => {
                    need(raw::RedisModule_ReplyWithNullArray)(ctx);
                }
            }
        }
    }

    fn send_bulk(&self, bytes: &[u8]) {
        // SAFETY: the context is valid and the server copies the bytes.
        unsafe {
            need(raw::RedisModule_ReplyWithStringBuffer)(
                self.ctx,
                bytes.as_ptr().cast(),
                bytes.len(),
            );
        }
    }
}
