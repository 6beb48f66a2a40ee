//! LOCK.INFO

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::lock::rules::Holders;
use crate::lock::store::{Stored, last_token};
use crate::lock::{Cx, FENCE, LOCK, line};
use crate::names;
use crate::server::{Reply, Str};

/// `LOCK.INFO lock_name` returns a map: `mode` (free, exclusive or shared), `holders` (identifier and
/// remaining ms of each, -1 without an end; the 128 whose leases end first), `fence` (the last token,
/// or nil), `waiters`, `oldest_wait_ms`, and the counters of this lock, which are kept in memory for
/// some thousands of recently used locks.
pub struct Info;

/// How many holders are listed.
const LISTED: i64 = 128;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"lock.info",
        summary: c"Returns the holders, waiters and counters of a lock.",
        complexity: c"O(log N) for a lock with N shared holders.",
        arity: 2,
        flags: "readonly fast",
        types: "string sortedset",
        keys: &[Key { position: 1, access: Access::Read }],
        args: &[Arg::key(c"lock_name", 0)],
        ..Spec::DEFAULT
    };
    type Family = crate::lock::Lock;
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(name: Str<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let key = names::key_of(server, LOCK, name)?;
        let key = key.borrow();
        let stored = Stored::at(*cx, key);
        let mode: &[u8] = match stored.holders()? {
            Holders::Free => b"free",
            // The holder of an evicted key is unknown, but its lease still excludes all others.
            Holders::Exclusive | Holders::Evicted => b"exclusive",
            Holders::Shared(_) => b"shared",
            Holders::Foreign => return Err(Error::WrongType),
        };
        let now = server.now();
        let holders = if mode == b"free" { Vec::new() } else { stored.list(LISTED)? };
        let holders = holders.into_iter().map(|(identifier, end)| {
            let left = end.map_or(-1, |end| now.until(end).0);
            Reply::Array(vec![Reply::Bulk(identifier), Reply::Integer(left)])
        });
        let fence = names::key_of(server, FENCE, name)?;
        // An invalid token is reported as none.
        let fence = last_token(server, fence.borrow()).ok().flatten();
        let fence = fence.map_or(Reply::Null, Reply::Integer);
        let (waiters, waited) = line::length(*cx, key);
        let record = family.records.get(server.db(), key.bytes());
        Ok(Reply::map([
            ("mode", Reply::bulk(mode)),
            ("holders", Reply::Array(holders.collect())),
            ("fence", fence),
            ("waiters", Reply::Integer(waiters as i64)),
            ("oldest_wait_ms", Reply::Integer(waited.0)),
            ("acquired", Reply::number(record.acquired)),
            ("contended", Reply::number(record.contended)),
            ("timeouts", Reply::number(record.timeouts)),
            ("expired", Reply::number(record.expired)),
            ("wait_ms_sum", Reply::number(record.wait_ms_sum)),
            ("wait_ms_max", Reply::number(record.wait_ms_max)),
            ("hold_ms_sum", Reply::number(record.hold_ms_sum)),
            ("hold_ms_max", Reply::number(record.hold_ms_max)),
        ]))
    }
}
