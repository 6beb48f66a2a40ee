//! CACHE.INFO

use super::entry::Entry;
use super::rules::{Cached, Fetch, Lease};
use super::{line, stats};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `CACHE.INFO key` tells of a cached value: `exists`, `ttl_ms` (-1 without an end, -2 without a
/// value), `size` in bytes, `state` (absent, fresh, stale, loading or backing-off), `token` (nil
/// where nobody loads), `lease_ms` (what is left of the lease or back-off), `waiters`, and the
/// counters of this value since it was last forgotten (some thousands are remembered).
pub struct Info;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"cache.info",
        summary: c"Tells of a cached value, who loads it and who waits.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 2,
        flags: c"readonly fast",
        categories: c"read string fast",
        keys: &[Key { position: 1, access: Access::Read }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"key", 0)],
    };
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(key: Str<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let entry = Entry::of(server, key)?;
        let now = server.now();
        let left = |end: crate::time::UnixMs| end.0.saturating_sub(now.0).max(0);
        let ttl = match entry.cached {
            Cached::Absent => -2,
            Cached::Until(None) => -1,
            Cached::Until(Some(end)) => left(end),
        };
        let state: &[u8] = match (&entry.record.lease, entry.fetch(Millis(0))) {
            (Lease::Loading(_), _) => b"loading",
            (Lease::BackingOff(..), _) => b"backing-off",
            (Lease::Open, Fetch::Hit) => b"fresh",
            (Lease::Open, _) if entry.cached == Cached::Absent => b"absent",
            (Lease::Open, _) => b"stale",
        };
        let token = match entry.record.lease {
            Lease::Loading(_) => Reply::Integer(entry.record.token),
            _ => Reply::Null,
        };
        let record = stats::of(server.db(), key.bytes());
        let counters = [
            ("hits", record.hits),
            ("misses", record.misses),
            ("loads", record.loads),
            ("coalesced", record.coalesced),
            ("load_ms_sum", record.load_ms_sum),
            ("load_ms_max", record.load_ms_max),
        ];
        let exists = entry.cached != Cached::Absent;
        let text = |text: &[u8]| Reply::Bulk(text.to_vec());
        let mut fields = vec![
            (text(b"exists"), Reply::Integer(exists.into())),
            (text(b"ttl_ms"), Reply::Integer(ttl)),
            (text(b"size"), Reply::Integer(entry.size() as i64)),
            (text(b"state"), text(state)),
            (text(b"token"), token),
            (text(b"lease_ms"), Reply::Integer(entry.record.until().map_or(0, left))),
            (text(b"waiters"), Reply::Integer(line::length(server, key) as i64)),
        ];
        fields.extend(counters.map(|(name, n)| (text(name.as_bytes()), Reply::Integer(n as i64))));
        Ok(Reply::Map(fields))
    }
}
