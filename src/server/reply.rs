//! What a command answers.

use super::Server;
use super::api::need;
use super::call::{CallReply, Element, Kind};
use super::key::Key;
use super::string::OwnedStr;
use crate::args::Argument;
use crate::error::Error;
use redis_module::raw;
use std::ffi::{CStr, CString};
use std::os::raw::{c_int, c_long};
use std::rc::Rc;

/// Finds a part of a reply.
pub type PartOf = for<'r> fn(&'r CallReply<'_>) -> Option<Element<'r>>;

/// A reply. In RESP3 nil is null; else both protocols see the same.
pub enum Reply<'a> {
    /// An integer.
    Integer(i64),
    /// A status such as `OK`.
    Simple(&'static CStr),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// A bulk string that several replies share.
    Shared(Rc<OwnedStr>),
    /// Nil in the place of a string.
    Null,
    /// Nil in the place of an array.
    NullArray,
    /// An array.
    Array(Vec<Reply<'a>>),
    /// Pairs: a map in RESP3, a flat array in RESP2.
    Map(Vec<(Reply<'a>, Reply<'a>)>),
    /// The reply of an inner command, byte for byte.
    Forward(CallReply<'a>),
    /// The arrays in a part of the reply of an inner command, each with two integers added.
    Extended(CallReply<'a>, PartOf, [i64; 2]),
    /// The string that an open key holds.
    Value(Key<'a>),
    /// None yet: the client waits.
    Later,
}

impl Reply<'static> {
    /// A copy of an inner reply that outlives it.
    pub fn copy(element: Element<'_>) -> Self {
        match element.kind() {
            Kind::Integer => Reply::Integer(element.integer()),
            Kind::String => Reply::Bulk(element.bytes().to_vec()),
            Kind::Array => Reply::Array(element.elements().map(Reply::copy).collect()),
            Kind::Null | Kind::Error | Kind::Map | Kind::Other => Reply::Null,
        }
    }
}

impl Reply<'_> {
    /// Roughly the bytes that the reply takes on the wire.
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
                    need(raw::RedisModule_ReplyWithArray)(ctx, items.len() as c_long);
                    items.iter().for_each(|item| self.send(item));
                }
                Reply::Map(pairs) => {
                    need(raw::RedisModule_ReplyWithMap)(ctx, pairs.len() as c_long);
                    pairs.iter().for_each(|(key, value)| {
                        self.send(key);
                        self.send(value);
                    });
                }
                Reply::Forward(reply) => self.forward(reply.root()),
                Reply::Extended(reply, part, added) => {
                    let items = part(reply);
                    let len = items.map_or(0, Element::len);
                    need(raw::RedisModule_ReplyWithArray)(ctx, len as c_long);
                    for item in items.into_iter().flat_map(Element::elements) {
                        let len = item.len() + added.len();
                        need(raw::RedisModule_ReplyWithArray)(ctx, len as c_long);
                        item.elements().for_each(|element| self.forward(element));
                        added.iter().for_each(|number| self.send(&Reply::Integer(*number)));
                    }
                }
                Reply::Value(key) => self.send_bulk(key.long_string()),
                Reply::Later => {}
            }
        }
    }

    /// Sends an inner reply, or a part of one. The server refuses one of another protocol.
    fn forward(&self, element: Element<'_>) {
        // SAFETY: the context is valid and the reply lives.
        let sent = unsafe { need(raw::RedisModule_ReplyWithCallReply)(self.ctx, element.as_ptr()) };
        if sent != raw::REDISMODULE_OK as c_int {
            self.answer(&Err(Error::Internal));
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
