//! CACHE.MGET

use super::{HITS, MISSES};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str};

/// `CACHE.MGET key [key ...]` replies an array of the cached values; nil where there is none, and
/// where the key is no string, as the server's own MGET does.
pub struct Mget;

impl Command for Mget {
    const SPEC: Spec = Spec {
        name: c"cache.mget",
        summary: c"Returns several cached values.",
        complexity: c"O(N) for N keys.",
        since: c"0.1.0",
        arity: -2,
        flags: c"readonly fast",
        categories: c"read string fast",
        keys: &[Key { position: 1, access: Access::ReadAll }],
        legacy_keys: (1, -1, 1),
        args: &[Arg::key(c"key", 0).multiple()],
    };
    type Request<'a> = &'a [Str<'a>];

    fn parse<'a>(args: &mut Args<'a>) -> Result<&'a [Str<'a>], Error> {
        let keys = args.all();
        Ok(keys)
    }

    fn run<'a>(keys: &'a [Str<'a>], server: &'a Server) -> Result<Reply<'a>, Error> {
        let values = server.call(c"MGET", Mode::ReadForward, keys)?;
        let hits = values.root().elements().filter(|value| !value.is_null()).count();
        HITS.add(hits as u64);
        MISSES.add(keys.len().saturating_sub(hits) as u64);
        Ok(Reply::Forward(values))
    }
}
