//! CACHE.FETCH

use super::entry::{Entry, plainly_fresh};
use super::line::{self, Caches, Wish, answer};
use super::rules::Fetch as Told;
use super::{HITS, LOADS, MISSES, STALE, WAITS, stats};
use crate::args::{Args, Argument, Patience};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;
use crate::waiting::{Address, Waiter};

/// `CACHE.FETCH key lease_ms [STALE ms] [BLOCK ms] [FRESH]` replies `[status, value, token]`: what
/// the caller shall do, in one round trip.
///
/// HIT: the value is fresh. STALE: it can be used, somebody else refreshes it or loading backs off.
/// LOAD: the caller loads, with a lease of `lease_ms` that `token` names, and the old value if
/// there is one. FAIL: there is no value and loading backs off; the value is the reason. WAIT:
/// somebody else loads. With BLOCK a caller waits for the value instead; with FRESH also where a
/// stale one is there. A value with at most STALE ms to live is stale.
///
/// It is not flagged as writing: only LOAD writes, so HIT and STALE go on where the server refuses
/// writes. It does not register the key for client-side caching.
pub struct Fetch;

/// The arguments of CACHE.FETCH.
pub struct Request<'a> {
    key: Str<'a>,
    wish: Wish,
    patience: Option<Patience>,
}

impl Command for Fetch {
    const SPEC: Spec = Spec {
        name: c"cache.fetch",
        summary: c"Returns a cached value, or says who loads it, and waits for it if asked to.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: -3,
        flags: c"may-replicate fast blocking",
        categories: c"read write string fast blocking",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
        args: &[
            Arg::key(c"key", 0),
            Arg::integer(c"lease_ms"),
            Arg::integer(c"stale_ms").after(c"STALE").optional(),
            Arg::integer(c"block_ms").after(c"BLOCK").optional(),
            Arg::keyword(c"fresh", c"FRESH").optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, lease) = (args.name()?, args.lifetime()?.value);
        let (mut stale, mut patience, mut fresh) = (None, None, false);
        while let Some(option) = args.keyword() {
            if option.is("STALE") && stale.is_none() {
                stale = Some(args.lifetime()?.value);
            } else if option.is("BLOCK") && patience.is_none() {
                patience = Some(args.patience()?);
            } else if option.is("FRESH") && !fresh {
                fresh = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        if fresh && patience.is_none() {
            return Err(Error::Syntax);
        }
        let wish = Wish { lease, stale: stale.unwrap_or(Millis(0)), fresh };
        Ok(Request { key, wish, patience })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { key, wish, patience } = request;
        if let Some(value) = plainly_fresh(server, key, wish.stale)? {
            return Ok(hit(server, key, value));
        }
        let mut entry = Entry::of(server, key)?;
        let told = entry.fetch(wish.stale);
        if told == Told::Hit
            && let Some(value) = entry.value()?
        {
            return Ok(hit(server, key, value));
        }
        MISSES.add(1);
        stats::missed(server.db(), key.bytes());
        // Whoever waits was there before.
        let in_line = !line::is_empty(server, key);
        if in_line && told == Told::Load {
            line::serve_now(server, key);
            entry = Entry::of(server, key)?;
        }
        let told = entry.fetch(wish.stale);
        if told == Told::Stale {
            entry.renew_mark();
        }
        match told {
            Told::Load | Told::Hit => {
                server.refuse_while_slot_moves(key)?;
                let token = entry.lend(wish.lease)?;
                LOADS.add(1);
                stats::loading(server.db(), key.bytes());
                let old = entry.value()?.unwrap_or(Reply::Null);
                return Ok(answer(c"LOAD", old, Reply::Integer(token)));
            }
            Told::Fail => {
                // Counts the miss.
                entry.value()?;
                return Ok(answer(c"FAIL", line::reason(&entry), Reply::Null));
            }
            Told::Stale if !wish.fresh || entry.is_backing_off() => {}
            Told::Stale | Told::Wait => {
                if let Some(patience) = patience.filter(|_| server.may_block()) {
                    server.refuse_while_slot_moves(key)?;
                    let name = key.bytes().into();
                    let address = Address { db: server.db(), name, part: Box::default() };
                    let joined =
                        Waiter::<Caches>::join(server, key, address, None, patience, wish, || {})?;
                    if joined.is_some() {
                        WAITS.add(1);
                        if told == Told::Wait {
                            // Counts the miss.
                            entry.value()?;
                        }
                        line::await_end(server, key, &entry);
                        return Ok(Reply::Later);
                    }
                }
            }
        }
        match entry.value()? {
            Some(value) => {
                STALE.add(1);
                Ok(answer(c"STALE", value, Reply::Null))
            }
            None => {
                WAITS.add(1);
                Ok(answer(c"WAIT", Reply::Null, Reply::Null))
            }
        }
    }
}

fn hit<'a>(server: &Server, key: Str<'_>, value: Reply<'a>) -> Reply<'a> {
    HITS.add(1);
    stats::hit(server.db(), key.bytes());
    answer(c"HIT", value, Reply::Null)
}
