//! CACHE.GET

use super::entry::string;
use super::{HITS, MISSES};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str, Type};

/// `CACHE.GET key` replies the cached value, or nil.
pub struct Get;

impl Command for Get {
    const SPEC: Spec = Spec {
        name: c"cache.get",
        summary: c"Returns a cached value.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 2,
        flags: c"readonly fast",
        categories: c"read string fast",
        keys: &[Key { position: 1, access: Access::Read }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0)],
    };
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(name: Str<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let (kind, len) = {
            let key = server.peek_key(name);
            (key.kind(), key.len())
        };
        match kind {
            Type::String => {
                HITS.add(1);
                Ok(string(server, name, len)?.unwrap_or(Reply::Null))
            }
            Type::Absent => {
                MISSES.add(1);
                // The server counts the miss as well.
                server.read_key(name);
                Ok(Reply::Null)
            }
            Type::Stream | Type::SortedSet | Type::Other => Err(Error::WrongType),
        }
    }
}
