//! CACHE.SET

use super::FILLS;
use super::lease::Lease;
use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str, words};
use crate::time::Millis;

/// `CACHE.SET key value ttl_ms` stores a value for `ttl_ms`, ends the loader's lease in the same
/// step and replies OK.
pub struct Set;

/// The arguments of CACHE.SET.
pub struct Request<'a> {
    key: Str<'a>,
    value: Str<'a>,
    ttl: Parsed<Str<'a>, Millis>,
}

impl Command for Set {
    const SPEC: Spec = Spec {
        name: c"cache.set",
        summary: c"Stores a cached value and ends the loader's lease.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: -4,
        flags: c"write deny-oom fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Overwrite }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0), Arg::string(c"value"), Arg::integer(c"ttl_ms")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        Ok(Request { key: args.name()?, value: args.any()?, ttl: args.lifetime()? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let lease = Lease::of(server, request.key)?;
        let args = [request.key, request.value, words().px(), request.ttl.arg];
        server.call(c"SET", Mode::Write, &args)?;
        lease.end(server)?;
        FILLS.add(1);
        Ok(Reply::Simple(c"OK"))
    }
}
