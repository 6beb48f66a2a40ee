//! CACHE.SET

use super::entry::Entry;
use super::rules::{Cached, Token, jitter};
use super::{FILLS, LOAD_MS, REFUSED, line, stats, tokens};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, words};
use crate::time::Millis;

/// `CACHE.SET key value ttl_ms [TOKEN token] [NX] [JITTER percent]` stores a value for `ttl_ms`,
/// ends the loader's lease in the same step, answers all who wait for the value, and replies OK.
///
/// With TOKEN it stores only what nothing newer has replaced: no value whose load began later, and no
/// write, delete or invalidation by others; the lease itself can have ended, and if somebody else
/// loads by then, that lease goes on. With NX it stores only if there is no value. Otherwise the reply
/// is nil and nothing has changed. JITTER shortens the time-to-live at random, by up to
/// `percent`.
pub struct Set;

/// The arguments of CACHE.SET.
pub struct Request<'a> {
    key: Str<'a>,
    value: Str<'a>,
    ttl: Millis,
    token: Option<Token>,
    if_absent: bool,
    jitter: i64,
}

impl Command for Set {
    const SPEC: Spec = Spec {
        name: c"cache.set",
        summary: c"Stores a cached value, ends the loader's lease and answers all who wait.",
        complexity: c"O(1), plus O(N) for N clients that wait for the value.",
        since: c"0.1.0",
        arity: -4,
        flags: c"write deny-oom fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Overwrite }],
        legacy_keys: (1, 1, 1),
        args: &[
            Arg::key(c"key", 0),
            Arg::string(c"value"),
            Arg::integer(c"ttl_ms"),
            Arg::integer(c"token").after(c"TOKEN").optional(),
            Arg::keyword(c"nx", c"NX").optional(),
            Arg::integer(c"percent").after(c"JITTER").optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (key, value, ttl) = (args.name()?, args.any()?, args.lifetime()?.value);
        let (mut token, mut if_absent, mut jitter) = (None, false, None);
        while let Some(option) = args.keyword() {
            if option.is("TOKEN") && token.is_none() {
                token = Some(args.integer()?);
            } else if option.is("NX") && !if_absent {
                if_absent = true;
            } else if option.is("JITTER") && jitter.is_none() {
                jitter = Some(args.between(0, 100)?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { key, value, ttl, token, if_absent, jitter: jitter.unwrap_or(0) })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { key, value, ttl, token, if_absent, jitter: percent } = request;
        server.refuse_while_slot_moves(key)?;
        let mut entry = Entry::of(server, key)?;
        if token.is_some_and(|token| !tokens::is_good(server, key, token)) {
            REFUSED.add(1);
            if token.is_some_and(|token| tokens::disown(server, key, token)) {
                line::serve_now(server, key);
            }
            return Ok(Reply::Null);
        }
        if if_absent && entry.cached != Cached::Absent {
            return Ok(Reply::Null);
        }
        let ttl = if percent == 0 { ttl } else { jitter(ttl, percent, server.random()) };
        let end = entry.end_of(ttl);
        let at = OwnedStr::number(end.0);
        server.call(c"SET", Mode::Write, &[key, value, words().pxat(), at.borrow()])?;
        let (is_newest, took) = match token {
            Some(token) => tokens::stored(server, key, token, end),
            None => (true, tokens::ended(server, key)),
        };
        if is_newest {
            entry.forget()?
        } else {
            entry.replaced(end)?
        }
        FILLS.add(1);
        if let Some(took) = took {
            LOAD_MS.add(took.0 as u64);
            stats::loaded(server.db(), key.bytes(), took.0 as u64);
        }
        line::filled(server, key, value);
        Ok(Reply::Simple(c"OK"))
    }
}
