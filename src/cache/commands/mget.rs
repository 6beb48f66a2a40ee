//! CACHE.MGET

use crate::args::Args;
use crate::cache::Cx;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Str};

/// `CACHE.MGET key [key ...]` returns an array of cached values, with nil for a key that does not exist
/// or is not a string, as the server's own MGET does.
pub struct Mget;

impl Command for Mget {
    const SPEC: Spec = Spec {
        name: c"cache.mget",
        summary: c"Returns several cached values.",
        complexity: c"O(N) for N keys.",
        arity: -2,
        flags: "readonly fast",
        types: "string",
        keys: &[Key { position: 1, access: Access::ReadAll }],
        args: &[Arg::key(c"key", 0).multiple()],
        ..Spec::DEFAULT
    };
    type Family = crate::cache::Cache;
    type Request<'a> = &'a [Str<'a>];

    fn parse<'a>(args: &mut Args<'a>) -> Result<&'a [Str<'a>], Error> {
        Ok(args.all())
    }

    fn run<'a>(keys: &'a [Str<'a>], cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let values = server.call(c"MGET", Mode::ReadForward, keys)?;
        let hits = values.root().elements().filter(|value| !value.is_null()).count();
        family.counters.hits.add(hits as u64);
        family.counters.misses.add(keys.len().saturating_sub(hits) as u64);
        Ok(Reply::Forward(values))
    }
}
