//! CACHE.SET

use crate::args::Args;
use crate::cache::rules::{Cached, Token, jitter};
use crate::cache::store::{self, Stored};
use crate::cache::{Cx, line};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `CACHE.SET key value ttl_ms [TOKEN token] [NX] [JITTER percent]` stores a value for `ttl_ms`, ends
/// the loader's lease in the same step, answers every client that waits for the value, and replies OK.
///
/// With TOKEN, it stores the value only if nothing newer has replaced it: no value whose load began
/// later, and no write, delete or invalidation by another client. The lease itself may have ended. If
/// another client loads by then, that lease goes on. With NX, it stores the value only if there is
/// none. Otherwise the reply is nil and nothing has changed. JITTER shortens the time-to-live at
/// random, by up to `percent`.
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
        summary: c"Stores a cached value, ends the loader's lease and answers every waiter.",
        complexity: c"O(1), plus O(N) for N clients that wait for the value.",
        arity: -4,
        flags: "write deny-oom fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Overwrite }],
        args: &[
            Arg::key(c"key", 0),
            Arg::string(c"value"),
            Arg::integer(c"ttl_ms"),
            Arg::integer(c"token").after(c"TOKEN").optional(),
            Arg::keyword(c"nx", c"NX").optional(),
            Arg::integer(c"percent").after(c"JITTER").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
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

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let Request { key, value, ttl, token, if_absent, jitter: percent } = request;
        names::reject_moving_slot(server, key)?;
        // Such a store succeeds and ends every lease. In a cluster the record can be that of another node.
        let is_final = !if_absent
            && !server.is_in_cluster()
            && token.is_none_or(|token| store::is_newest(*cx, key, token));
        let mut stored = if is_final {
            Stored::read_to_fill(*cx, key)?
        } else {
            Stored::read(*cx, key)?.watch()
        };
        if let Some(token) = token.filter(|token| !stored.is_good(*token)) {
            family.counters.refused.add(1);
            line::disown(*cx, key, token);
            return Ok(Reply::Null);
        }
        if if_absent && stored.cached != Cached::Absent {
            return Ok(Reply::Null);
        }
        let ttl = if percent == 0 { ttl } else { jitter(ttl, percent, server.random()) };
        let took = stored.fill(value, ttl, token)?;
        family.count_fill(server.db(), key.bytes(), took);
        line::filled(*cx, key, value);
        Ok(Reply::Simple(c"OK"))
    }
}
