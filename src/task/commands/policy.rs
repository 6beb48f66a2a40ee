//! TASK.POLICY

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Reply, Str};
use crate::task::policy::{Policy, policy_of};
use crate::task::{Cx, POLICY, store};
use crate::waiting;

/// `TASK.POLICY stream [LEASE ms] [TRIES n] [BACKOFF base_ms max_ms] [LIMIT n] [KEEP 0|1]
/// [PAUSED 0|1]` sets the policy of a queue, in the hash `policy:{stream}`. Options that are not given
/// keep their values. 0 as LEASE, TRIES or LIMIT means without limit.
pub struct SetPolicy;

/// The arguments of TASK.POLICY.
pub struct Request<'a> {
    stream: Str<'a>,
    change: Policy,
}

impl Command for SetPolicy {
    const SPEC: Spec = Spec {
        name: c"task.policy",
        summary: c"Sets the policy of a queue.",
        complexity: c"O(1), plus O(N) for N waiting consumers that can be served now.",
        since: c"0.2.0",
        arity: -4,
        types: "stream",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::integer(c"lease_ms").after(c"LEASE").optional(),
            Arg::integer(c"tries").after(c"TRIES").optional(),
            Arg::block(c"backoff", &[Arg::integer(c"base_ms"), Arg::integer(c"max_ms")])
                .after(c"BACKOFF")
                .optional(),
            Arg::integer(c"limit").after(c"LIMIT").optional(),
            Arg::integer(c"keep").after(c"KEEP").optional(),
            Arg::integer(c"paused").after(c"PAUSED").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let mut change = Policy::default();
        while let Some(option) = args.keyword() {
            if option.is("LEASE") && change.lease.is_none() {
                change.lease = Some(args.span()?.0);
            } else if option.is("TRIES") && change.tries.is_none() {
                change.tries = Some(args.at_least(0)?.value);
            } else if option.is("BACKOFF") && change.backoff.is_none() {
                let (base, max) = (args.span()?.0, args.span()?.0);
                if max < base {
                    return Err(Error::OutOfRange);
                }
                (change.backoff, change.backoff_max) = (Some(base), Some(max));
            } else if option.is("LIMIT") && change.limit.is_none() {
                change.limit = Some(args.at_least(0)?.value);
            } else if option.is("KEEP") && change.keep.is_none() {
                change.keep = Some(args.between(0, 1)?);
            } else if option.is("PAUSED") && change.paused.is_none() {
                change.paused = Some(args.between(0, 1)?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { stream, change })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, mut change } = request;
        names::reject_moving_slot(server, queue)?;
        store::expect_stream(server, queue)?;
        let policy = policy_of(cx, queue)?.changed_by(change);
        if policy.limit().is_some() && policy.keeps() {
            return Err(Error::LimitAndKeep);
        }
        let key = names::key_of(server, POLICY, queue)?;
        let named = change.named().into_iter().filter_map(|(name, value)| Some((name, (*value)?)));
        let texts: Vec<OwnedStr> = named
            .flat_map(|(name, value)| [OwnedStr::new(name.as_bytes()), OwnedStr::number(value)])
            .collect();
        let mut args = vec![key.borrow()];
        args.extend(texts.iter().map(OwnedStr::borrow));
        server.call(c"HSET", Mode::Write, &args)?;
        cx.family.queues.policy_changed(server.db(), queue.bytes());
        waiting::serve_soon(cx, server.db(), queue.bytes());
        Ok(Reply::Simple(c"OK"))
    }
}
