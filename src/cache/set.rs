//! CACHE.SET

use super::entry::Entry;
use super::rules::{Cached, Token, jitter};
use super::{FILLS, LOAD_MS, REFUSED, line, stats};
use crate::args::{Args, Argument, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, words};
use crate::time::Millis;

/// `CACHE.SET key value ttl_ms [TOKEN token] [NX] [JITTER percent]` stores a value for `ttl_ms`,
/// ends the loader's lease in the same step, answers all who wait for the value, and replies OK.
///
/// With TOKEN it stores only while that lease is current, with NX only if there is no value; else
/// the reply is nil and nothing has changed. JITTER shortens the time-to-live at random, by up to
/// `percent`.
pub struct Set;

/// The arguments of CACHE.SET.
pub struct Request<'a> {
    key: Str<'a>,
    value: Str<'a>,
    ttl: Parsed<Str<'a>, Millis>,
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
        let (key, value, ttl) = (args.name()?, args.any()?, args.lifetime()?);
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
        if token.is_some_and(|token| !entry.record.is_current(token)) {
            REFUSED.add(1);
            return Ok(Reply::Null);
        }
        if if_absent && entry.cached != Cached::Absent {
            return Ok(Reply::Null);
        }
        let shortened;
        let ttl = if percent == 0 {
            ttl.arg
        } else {
            shortened = OwnedStr::number(jitter(ttl.value, percent, server.random()).0);
            shortened.borrow()
        };
        server.call(c"SET", Mode::Write, &[key, value, words().px(), ttl])?;
        entry.forget()?;
        FILLS.add(1);
        if let Some(took) = line::ended(server, key) {
            LOAD_MS.add(took.0 as u64);
            stats::loaded(server.db(), key.bytes(), took.0 as u64);
        }
        line::filled(server, key, value);
        Ok(Reply::Simple(c"OK"))
    }
}
