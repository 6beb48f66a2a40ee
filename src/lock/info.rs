//! LOCK.INFO

use super::holders::{Stored, last_token};
use super::rules::Holders;
use super::{line, stats};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Reply, Server, Str};

/// `LOCK.INFO lock_name` tells who holds a lock and who waits for it: `mode` (free, exclusive or
/// shared), `holders` (arrays of identifier and remaining ms, -1 without an end; the earliest 128),
/// `fence` (the last token, or nil), `waiters`, `oldest_wait_ms`, and the counters of this lock
/// since it was last forgotten (some thousands of locks are remembered).
pub struct Info;

/// How many holders are listed.
const LISTED: i64 = 128;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"lock.info",
        summary: c"Tells who holds a lock and who waits for it.",
        complexity: c"O(log N) for a lock with N shared holders.",
        since: c"0.1.0",
        arity: 2,
        flags: c"readonly fast",
        categories: c"read string sortedset fast",
        keys: &[Key { position: 1, access: Access::Read }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"lock_name", 0)],
    };
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(name: Str<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let key = server.key_of(Prefix::Lock, name)?;
        let key = key.borrow();
        let stored = Stored::at(server, key);
        let mode: &[u8] = match stored.holders()? {
            Holders::Free => b"free",
            // Nobody is known, and nobody else may have it.
            Holders::Exclusive | Holders::Evicted => b"exclusive",
            Holders::Shared(_) => b"shared",
            Holders::Foreign => return Err(Error::WrongType),
        };
        let now = server.now();
        let holders = if mode == b"free" { Vec::new() } else { stored.list(LISTED)? };
        let holders = holders.into_iter().map(|(identifier, end)| {
            let left = end.map_or(-1, |end| end.0.saturating_sub(now.0).max(0));
            Reply::Array(vec![Reply::Bulk(identifier), Reply::Integer(left)])
        });
        let fence = server.key_of(Prefix::Fence, name)?;
        // What is no token is nobody's; who holds the lock can be told all the same.
        let fence = last_token(server, fence.borrow()).ok().flatten();
        let fence = fence.map_or(Reply::Null, Reply::Integer);
        let (waiters, waited) = line::length(server, key);
        let record = stats::of(server.db(), key.bytes());
        let counters = [
            ("acquired", record.acquired),
            ("contended", record.contended),
            ("timeouts", record.timeouts),
            ("expired", record.expired),
            ("wait_ms_sum", record.wait_ms_sum),
            ("wait_ms_max", record.wait_ms_max),
            ("hold_ms_sum", record.hold_ms_sum),
            ("hold_ms_max", record.hold_ms_max),
        ];
        let text = |text: &[u8]| Reply::Bulk(text.to_vec());
        let mut fields = vec![
            (text(b"mode"), text(mode)),
            (text(b"holders"), Reply::Array(holders.collect())),
            (text(b"fence"), fence),
            (text(b"waiters"), Reply::Integer(waiters as i64)),
            (text(b"oldest_wait_ms"), Reply::Integer(waited.0)),
        ];
        fields.extend(counters.map(|(name, n)| (text(name.as_bytes()), Reply::Integer(n as i64))));
        Ok(Reply::Map(fields))
    }
}
