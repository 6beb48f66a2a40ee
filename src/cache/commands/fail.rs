//! CACHE.FAIL

use crate::args::Args;
use crate::cache::rules::{Lease, REASON, Token};
use crate::cache::store::Stored;
use crate::cache::{Cx, line};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `CACHE.FAIL key token [BACKOFF ms] [REASON text]` ends the loader's lease without a value. It replies
/// 1, or 0 if `token` is not the newest token of the value or is no longer good; then nothing changes.
/// The first waiter gets the lease. With BACKOFF, no client loads until the back-off ends:
/// FETCH returns the reason (its first 1024 bytes) or the stale value, to waiters too.
pub struct Fail;

/// The arguments of CACHE.FAIL.
pub struct Request<'a> {
    key: Str<'a>,
    token: Token,
    backoff: Option<Millis>,
    reason: Option<Str<'a>>,
}

impl Command for Fail {
    const SPEC: Spec = Spec {
        name: c"cache.fail",
        summary:
            c"Reports that a load failed. Optionally keeps other clients from loading for a while.",
        complexity: c"O(1), plus O(N) for N clients that wait for the value.",
        arity: -3,
        flags: "write fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"key", 0),
            Arg::integer(c"token"),
            Arg::integer(c"backoff_ms").after(c"BACKOFF").optional(),
            Arg::string(c"text").after(c"REASON").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, token) = (args.name()?, args.integer()?);
        let (mut backoff, mut reason) = (None, None);
        while let Some(option) = args.keyword() {
            if option.is("BACKOFF") && backoff.is_none() {
                backoff = Some(args.lifetime()?.value);
            } else if option.is("REASON") && reason.is_none() {
                reason = Some(args.any()?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { key, token, backoff, reason })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let Request { key, token, backoff, reason } = request;
        names::reject_moving_slot(server, key)?;
        let mut stored = Stored::read(*cx, key)?.watch();
        if !stored.is_newest(token) {
            line::disown(*cx, key, token);
            return Ok(Reply::Integer(0));
        }
        let lease = match backoff {
            None => Lease::Open,
            Some(span) => {
                let reason = reason.map(|text| text.bytes().iter().copied().take(REASON).collect());
                Lease::BackingOff(stored.end_of(span), reason)
            }
        };
        stored.give_up(token, lease)?;
        family.counters.failures.add(1);
        line::serve_now(*cx, key);
        Ok(Reply::Integer(1))
    }
}
