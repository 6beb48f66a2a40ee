//! CACHE.EXTEND

use crate::args::Args;
use crate::cache::rules::Token;
use crate::cache::store::Stored;
use crate::cache::{Cx, line};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `CACHE.EXTEND key token lease_ms` renews the lease of a loader: it ends `lease_ms` from now, and the
/// reply is 1. If the lease has ended, or `token` is not its token, the reply is 0 and nothing changes.
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
        summary: c"Renews the lease of a loader if it has not ended.",
        arity: 4,
        flags: "write fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[Arg::key(c"key", 0), Arg::integer(c"token"), Arg::integer(c"lease_ms")],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, token) = (args.name()?, args.integer()?);
        Ok(Request { key, token, lease: args.lifetime()?.value })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Request { key, token, lease } = request;
        names::reject_moving_slot(cx.server, key)?;
        let mut stored = Stored::read(*cx, key)?.watch();
        if !stored.record.is_current(token) {
            return Ok(Reply::Integer(0));
        }
        stored.extend(token, stored.end_of(lease))?;
        line::serve_now(*cx, key);
        Ok(Reply::Integer(1))
    }
}
