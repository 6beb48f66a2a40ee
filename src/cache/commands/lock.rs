//! CACHE.LOCK

use crate::args::Args;
use crate::cache::rules::Lease;
use crate::cache::store::Stored;
use crate::cache::{Cx, line};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `CACHE.LOCK key ttl_ms loader_timeout_ms` replies LOAD to the one client that has to load the value,
/// and WAIT to all others until CACHE.SET or the end of the lease, which lasts the shorter of the two
/// times. It gives out the same lease as CACHE.FETCH, without value, wait or token, and even if a fresh
/// value is cached.
pub struct Lock;

/// The arguments of CACHE.LOCK.
pub struct Request<'a> {
    key: Str<'a>,
    lease: Millis,
}

impl Command for Lock {
    const SPEC: Spec = Spec {
        name: c"cache.lock",
        summary: c"Asks whether the caller or another client loads a cached value.",
        arity: 4,
        flags: "write deny-oom fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Insert }],
        args: &[Arg::key(c"key", 0), Arg::integer(c"ttl_ms"), Arg::integer(c"loader_timeout_ms")],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let key = args.name()?;
        let (ttl, loader_timeout) = (args.lifetime()?.value, args.lifetime()?.value);
        Ok(Request { key, lease: ttl.min(loader_timeout) })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Request { key, lease } = request;
        names::reject_moving_slot(cx.server, key)?;
        let mut stored = Stored::read(*cx, key)?.watch();
        if stored.record.lease == Lease::Open && cx.family.waiters(cx.server.db(), key.bytes()) > 0
        {
            // Clients that wait already come first.
            line::serve_now(*cx, key);
            stored = Stored::read(*cx, key)?.watch();
        }
        if stored.record.lease != Lease::Open {
            cx.family.counters.waits.add(1);
            return Ok(Reply::Simple(c"WAIT"));
        }
        stored.lend(lease, None)?;
        Ok(Reply::Simple(c"LOAD"))
    }
}
