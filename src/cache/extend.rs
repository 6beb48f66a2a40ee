//! CACHE.EXTEND

use super::entry::Entry;
use super::rules::{Lease, Token};
use super::{line, tokens};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `CACHE.EXTEND key token lease_ms` replies 1 and lets the loader's lease end `lease_ms` from now
/// if the token is that of the lease, else 0. A lease that has ended is not extended.
pub struct Extend;

/// The arguments of CACHE.EXTEND.
pub struct Request<'a> {
    key: Str<'a>,
    token: Token,
    lease: Millis,
}

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"cache.extend",
        summary: c"Starts the lease of a loader anew, if it has not ended.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 4,
        flags: c"write fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0), Arg::integer(c"token"), Arg::integer(c"lease_ms")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, token) = (args.name()?, args.integer()?);
        Ok(Request { key, token, lease: args.lifetime()?.value })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { key, token, lease } = request;
        server.refuse_while_slot_moves(key)?;
        let mut entry = Entry::of(server, key)?;
        if !entry.record.is_current(token) {
            return Ok(Reply::Integer(0));
        }
        let until = entry.end_of(lease);
        entry.set_lease(token, Lease::Loading(until))?;
        tokens::extended(server, key, until);
        line::serve_now(server, key);
        Ok(Reply::Integer(1))
    }
}
