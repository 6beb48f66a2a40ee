//! CACHE.FETCH

use crate::args::Args;
use crate::cache::Cx;
use crate::cache::line;
use crate::cache::rules;
use crate::cache::store::Stored;
use crate::cache::value::{self, Look};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::{Millis, Timeout};
use crate::waiting::connection;
use std::ffi::CStr;

/// `CACHE.FETCH key lease_ms [STALE ms] [BLOCK ms] [FRESH] [TIED]` replies `[status, value, token]`: in
/// one round trip, what the client has to do.
///
/// HIT: the value is fresh. STALE: the value can be used; another client refreshes it, or loading backs
/// off. LOAD: the client has to load the value, with a lease of `lease_ms` that is named by `token`; the
/// old value is included if there is one. FAIL: there is no value and loading backs off; the value in
/// the reply is the reason. WAIT: another client loads.
///
/// A value with at most STALE ms to live is stale. With BLOCK, the client waits for the value instead
/// of getting WAIT; with FRESH, instead of getting STALE too. With TIED, a lease also ends when the
/// connection of the client closes.
///
/// The command is not flagged as writing. Only LOAD writes, so the other answers still work where the
/// server refuses writes. It does not register the key for client-side caching.
pub struct Fetch;

/// The arguments of CACHE.FETCH.
pub struct Request<'a> {
    key: Str<'a>,
    wanted: line::Request,
    timeout: Option<Timeout>,
}

impl Command for Fetch {
    const SPEC: Spec = Spec {
        name: c"cache.fetch",
        summary: c"Returns a cached value, or says who loads it. Optionally waits for the value.",
        arity: -3,
        flags: "may-replicate fast blocking",
        types: "string",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"key", 0),
            Arg::integer(c"lease_ms"),
            Arg::integer(c"stale_ms").after(c"STALE").optional(),
            Arg::integer(c"block_ms").after(c"BLOCK").optional(),
            Arg::keyword(c"fresh", c"FRESH").optional(),
            Arg::keyword(c"tied", c"TIED").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, lease) = (args.name()?, args.lifetime()?.value);
        let (mut stale, mut timeout, mut fresh, mut tied) = (None, None, false, false);
        while let Some(option) = args.keyword() {
            if option.is("STALE") && stale.is_none() {
                stale = Some(args.lifetime()?.value);
            } else if option.is("BLOCK") && timeout.is_none() {
                timeout = Some(args.timeout()?);
            } else if option.is("FRESH") && !fresh {
                fresh = true;
            } else if option.is("TIED") && !tied {
                tied = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        if fresh && timeout.is_none() {
            return Err(Error::Syntax);
        }
        let wanted = line::Request { lease, stale: stale.unwrap_or(Millis(0)), fresh, tied };
        Ok(Request { key, wanted, timeout })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let Request { key, wanted, timeout } = request;
        let client = if wanted.tied { Some(connection::connection(*cx)?) } else { None };
        let (counted, recorded) = match value::look(*cx, key, wanted.stale)? {
            Look::Fresh(value) => return Ok(hit(*cx, key, value)),
            Look::Undecided { counted, recorded } => (counted, recorded),
        };
        let mut stored = Stored::read_with(*cx, key, recorded)?.watch().counted(counted);
        let mut outcome = stored.fetch(wanted.stale);
        if outcome == rules::Fetch::Hit
            && let Some(value) = stored.value()?
        {
            return Ok(hit(*cx, key, value));
        }
        family.count_miss(server.db(), key.bytes());
        if outcome == rules::Fetch::Load && family.waiters(server.db(), key.bytes()) > 0 {
            // Clients that wait already come first.
            line::serve_now(*cx, key);
            stored = Stored::read(*cx, key)?.watch().counted(counted);
            outcome = stored.fetch(wanted.stale);
        }
        if outcome == rules::Fetch::Stale {
            stored.renew_mark();
        }
        match outcome {
            rules::Fetch::Load | rules::Fetch::Hit => {
                names::reject_moving_slot(server, key)?;
                let token = stored.lend(wanted.lease, client)?;
                let old = stored.value()?.unwrap_or(Reply::Null);
                return Ok(answer(*cx, c"LOAD", old, Reply::Integer(token)));
            }
            rules::Fetch::Fail => {
                stored.count_miss();
                return Ok(answer(*cx, c"FAIL", stored.reason(), Reply::Null));
            }
            rules::Fetch::Stale if !wanted.fresh || stored.is_backing_off() => {}
            rules::Fetch::Stale | rules::Fetch::Wait => {
                if let Some(timeout) = timeout
                    && server.may_block()
                    && line::wait(*cx, &stored, key, timeout, wanted)?
                {
                    if outcome == rules::Fetch::Wait {
                        stored.count_miss();
                    }
                    return Ok(Reply::Later);
                }
            }
        }
        match stored.value()? {
            Some(value) => {
                family.counters.stale.add(1);
                Ok(answer(*cx, c"STALE", value, Reply::Null))
            }
            None => {
                family.counters.waits.add(1);
                Ok(answer(*cx, c"WAIT", Reply::Null, Reply::Null))
            }
        }
    }
}

fn hit(cx: Cx<'_>, key: Str<'_>, value: Reply<'_>) -> Reply<'static> {
    cx.family.count_hit(cx.server.db(), key.bytes());
    answer(cx, c"HIT", value, Reply::Null)
}

/// Sends the reply, which needs no memory of its own that way.
fn answer(cx: Cx<'_>, status: &'static CStr, value: Reply<'_>, token: Reply<'_>) -> Reply<'static> {
    cx.server.send_array(&[Reply::Simple(status), value, token])
}
