//! LOCK.EXTEND

use super::holder::held_by;
use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str};
use crate::time::Millis;

/// `LOCK.EXTEND lock_name identifier ttl_ms` replies 1 and lets the lease end `ttl_ms` from now if
/// `identifier` still holds the lock, else 0. A lock that was lost is never resurrected.
pub struct Extend;

/// The arguments of LOCK.EXTEND.
pub struct Request<'a> {
    name: Str<'a>,
    identifier: Str<'a>,
    ttl: Parsed<Str<'a>, Millis>,
}

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"lock.extend",
        summary: c"Starts the lease of a lock anew, if the caller still holds it.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: -4,
        flags: c"write fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"lock_name", 0), Arg::string(c"identifier"), Arg::integer(c"ttl_ms")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (name, identifier) = (args.name()?, args.filled("identifier")?);
        Ok(Request { name, identifier, ttl: args.lifetime()? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Some(key) = held_by(server, request.name, request.identifier)? else {
            return Ok(Reply::Integer(0));
        };
        let args = [key.borrow(), request.ttl.arg];
        let extended = server.call(c"PEXPIRE", Mode::Write, &args)?.root().integer();
        Ok(Reply::Integer(extended))
    }
}
