//! CACHE.INVALIDATE

use super::entry::Entry;
use super::rules::{Cached, Lease, Record};
use super::{line, tokens};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, OwnedStr, Reply, Server, Str};
use crate::time::Millis;

/// `CACHE.INVALIDATE key [STALE ms]` removes a value and voids the lease of whoever loads it, in one
/// step, so that a load which began before stores nothing. With STALE the value stays for at most
/// that time: CACHE.GET still sees it, the next FETCH loads. Replies 1 if a value or a lease was
/// there, else 0. The first who waits gets the lease.
pub struct Invalidate;

/// The arguments of CACHE.INVALIDATE.
pub struct Request<'a> {
    key: Str<'a>,
    stale: Option<Millis>,
}

impl Command for Invalidate {
    const SPEC: Spec = Spec {
        name: c"cache.invalidate",
        summary: c"Removes a cached value, or makes it stale, and voids the lease of its loader.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: -2,
        flags: c"write fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Delete }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0), Arg::integer(c"stale_ms").after(c"STALE").optional()],
    };
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

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { key, stale } = request;
        server.refuse_while_slot_moves(key)?;
        let mut entry = Entry::of(server, key)?;
        let had_value = entry.cached != Cached::Absent;
        let had_lease = matches!(entry.record.lease, Lease::Loading(_));
        tokens::ended(server, key);
        match stale.filter(|_| had_value) {
            None => {
                if had_value {
                    server.call(c"DEL", Mode::Write, &[key])?;
                }
                entry.forget()?;
            }
            Some(stale) => {
                let end = entry.end_of(stale);
                let sooner = match entry.cached {
                    Cached::Until(Some(before)) => before.min(end),
                    _ => end,
                };
                let at = OwnedStr::number(sooner.0);
                server.call(c"PEXPIREAT", Mode::Write, &[key, at.borrow()])?;
                entry.cached = Cached::Until(Some(sooner));
                let token = entry.record.token;
                entry.store(Record { lease: Lease::Open, token, stale: true }, Mode::Write)?;
            }
        }
        line::serve_now(server, key);
        Ok(Reply::Integer((had_value || had_lease).into()))
    }
}
