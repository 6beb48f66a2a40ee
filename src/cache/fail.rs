//! CACHE.FAIL

use super::entry::Entry;
use super::rules::{Lease, REASON, Token};
use super::{FAILURES, line, tokens};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `CACHE.FAIL key token [BACKOFF ms] [REASON text]` replies 1 and ends the loader's lease without a
/// value if the token is current, else 0. The first who waits gets the lease. With BACKOFF nobody
/// loads until it ends: FETCH tells the reason (its first 1024 bytes), or gives the stale value,
/// also to those who wait.
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
        summary: c"Reports that a load failed, and can keep others from loading for a while.",
        complexity: c"O(1), plus O(N) for N clients that wait for the value.",
        since: c"0.1.0",
        arity: -3,
        flags: c"write fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
        args: &[
            Arg::key(c"key", 0),
            Arg::integer(c"token"),
            Arg::integer(c"backoff_ms").after(c"BACKOFF").optional(),
            Arg::string(c"text").after(c"REASON").optional(),
        ],
    };
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

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { key, token, backoff, reason } = request;
        server.refuse_while_slot_moves(key)?;
        let mut entry = Entry::of(server, key)?;
        if !tokens::is_newest(server, key, token) {
            if tokens::disown(server, key, token) {
                line::serve_now(server, key);
            }
            return Ok(Reply::Integer(0));
        }
        let lease = match backoff {
            None => Lease::Open,
            Some(span) => {
                let reason = reason.map(|text| text.bytes().iter().copied().take(REASON).collect());
                Lease::BackingOff(entry.end_of(span), reason)
            }
        };
        entry.set_lease(token, lease)?;
        tokens::gave_up(server, key);
        FAILURES.add(1);
        line::serve_now(server, key);
        Ok(Reply::Integer(1))
    }
}
