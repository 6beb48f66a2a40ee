//! CACHE.LOCK

use super::entry::Entry;
use super::rules::Lease;
use super::{LOADS, WAITS, line, stats};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `CACHE.LOCK key ttl_ms loader_timeout_ms` replies LOAD to the one client that shall load the
/// value, and WAIT to all others until CACHE.SET or the end of the lease, which lasts the shorter
/// of the two times. It is CACHE.FETCH's lease without value, wait or token, whatever is cached.
pub struct Lock;

/// The arguments of CACHE.LOCK.
pub struct Request<'a> {
    key: Str<'a>,
    lease: Millis,
}

impl Command for Lock {
    const SPEC: Spec = Spec {
        name: c"cache.lock",
        summary: c"Asks who loads a cached value: the caller or somebody else.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 4,
        flags: c"write deny-oom fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Insert }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0), Arg::integer(c"ttl_ms"), Arg::integer(c"loader_timeout_ms")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let key = args.name()?;
        let (ttl, loader_timeout) = (args.lifetime()?.value, args.lifetime()?.value);
        Ok(Request { key, lease: ttl.min(loader_timeout) })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        server.refuse_while_slot_moves(request.key)?;
        let mut entry = Entry::of(server, request.key)?;
        if entry.record.lease == Lease::Open && !line::is_empty(server, request.key) {
            // Whoever waits was there before.
            line::serve_now(server, request.key);
            entry = Entry::of(server, request.key)?;
        }
        if entry.record.lease != Lease::Open {
            WAITS.add(1);
            return Ok(Reply::Simple(c"WAIT"));
        }
        entry.lend(request.lease)?;
        LOADS.add(1);
        stats::loading(server.db(), request.key.bytes());
        Ok(Reply::Simple(c"LOAD"))
    }
}
