//! CACHE.GET

use super::{HITS, MISSES};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str, Type};

/// `CACHE.GET key` replies the cached value, or nil.
pub struct Get;

/// Up to this length a value can have a compact form in memory, which looking at its bytes would
/// undo.
const COMPACT: usize = 128;

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
            Type::String => HITS.add(1),
            Type::Absent => MISSES.add(1),
            Type::Stream | Type::SortedSet | Type::Other => return Err(Error::WrongType),
        }
        // Each of these counts as one read in the server's own statistics.
        match kind {
            Type::String if len <= COMPACT => {
                server.call(c"GET", Mode::Read, &[name]).map(Reply::Forward)
            }
            Type::String => Ok(Reply::Value(server.read_key(name))),
            _ => {
                server.read_key(name);
                Ok(Reply::Null)
            }
        }
    }
}
