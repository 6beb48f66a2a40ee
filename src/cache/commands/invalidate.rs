//! CACHE.INVALIDATE

use crate::args::Args;
use crate::cache::rules::{Cached, Lease};
use crate::cache::store::Stored;
use crate::cache::{Cx, line};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `CACHE.INVALIDATE key [STALE ms]` removes a value and voids the lease of its loader in one step, so
/// that a load which began before stores nothing. With STALE, the value stays for at most that time:
/// CACHE.GET still returns it, and the next FETCH loads. It replies 1 if there was a value or a lease,
/// else 0. The first waiter gets the lease.
pub struct Invalidate;

/// The arguments of CACHE.INVALIDATE.
pub struct Request<'a> {
    key: Str<'a>,
    stale: Option<Millis>,
}

impl Command for Invalidate {
    const SPEC: Spec = Spec {
        name: c"cache.invalidate",
        summary:
            c"Removes a cached value, or marks it as stale, and voids the lease of its loader.",
        arity: -2,
        flags: "write fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Delete }],
        args: &[Arg::key(c"key", 0), Arg::integer(c"stale_ms").after(c"STALE").optional()],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let key = args.name()?;
        let stale = match args.keyword() {
            None => None,
            Some(option) if option.is("STALE") => Some(args.lifetime()?.value),
            Some(_) => return Err(Error::Syntax),
        };
        Ok(Request { key, stale })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Request { key, stale } = request;
        names::reject_moving_slot(cx.server, key)?;
        let mut stored = Stored::read(*cx, key)?.watch();
        let had_value = stored.cached != Cached::Absent;
        let had_lease = matches!(stored.record.lease, Lease::Loading(_));
        stored.invalidate(stale)?;
        line::serve_now(*cx, key);
        Ok(Reply::Integer((had_value || had_lease).into()))
    }
}
