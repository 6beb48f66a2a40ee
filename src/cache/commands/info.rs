//! CACHE.INFO

use crate::args::Args;
use crate::cache::Cx;
use crate::cache::rules::{Cached, Fetch, Lease};
use crate::cache::store::Stored;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Str};
use crate::time::{Millis, UnixMs};

/// `CACHE.INFO key` returns a map: `exists`, `ttl_ms` (-1 without an end, -2 without a value), `size` in
/// bytes, `state` (absent, fresh, stale, loading or backing-off), `token` (nil if no client loads),
/// `lease_ms` (what is left of the lease or back-off), `waiters`, and the counters of this value, which
/// are kept in memory for some thousands of recently used values.
pub struct Info;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"cache.info",
        summary: c"Returns the state, lease, waiters and counters of a cached value.",
        arity: 2,
        flags: "readonly fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::Read }],
        args: &[Arg::key(c"key", 0)],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(key: Str<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let stored = Stored::read(*cx, key)?.watch();
        let now = server.now();
        let left = |end: UnixMs| now.until(end).0;
        let ttl = match stored.cached {
            Cached::Absent => -2,
            Cached::Until(None) => -1,
            Cached::Until(Some(end)) => left(end),
        };
        let exists = stored.cached != Cached::Absent;
        let state: &[u8] = match (&stored.record.lease, stored.fetch(Millis(0))) {
            (Lease::Loading(_), _) => b"loading",
            (Lease::BackingOff(..), _) => b"backing-off",
            (Lease::Open, Fetch::Hit) => b"fresh",
            (Lease::Open, _) if !exists => b"absent",
            (Lease::Open, _) => b"stale",
        };
        let token = match stored.record.lease {
            Lease::Loading(_) => Reply::Integer(stored.record.token),
            _ => Reply::Null,
        };
        let record = family.records.get(server.db(), key.bytes());
        Ok(Reply::map([
            ("exists", Reply::Integer(exists.into())),
            ("ttl_ms", Reply::Integer(ttl)),
            ("size", Reply::Integer(stored.size() as i64)),
            ("state", Reply::bulk(state)),
            ("token", token),
            ("lease_ms", Reply::Integer(stored.record.until().map_or(0, left))),
            ("waiters", Reply::Integer(family.waiters(server.db(), key.bytes()) as i64)),
            ("hits", Reply::number(record.hits)),
            ("misses", Reply::number(record.misses)),
            ("loads", Reply::number(record.loads)),
            ("coalesced", Reply::number(record.coalesced)),
            ("load_ms_sum", Reply::number(record.load_ms_sum)),
            ("load_ms_max", Reply::number(record.load_ms_max)),
        ]))
    }
}
