//! CACHE.GET

use crate::args::Args;
use crate::cache::{Cx, value};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Str};

/// `CACHE.GET key` returns a cached value, or nil.
pub struct Get;

impl Command for Get {
    const SPEC: Spec = Spec {
        name: c"cache.get",
        summary: c"Returns a cached value.",
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
        let value = value::tracked(*cx, key)?;
        let counters = &cx.family.counters;
        let counter = if value.is_some() { &counters.hits } else { &counters.misses };
        counter.add(1);
        Ok(value.unwrap_or(Reply::Null))
    }
}
