//! TASK.POLICY, and what a queue's policy says.

use super::{line, memory, store};
use crate::args::{Args, Argument, integer};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::config::{TASK_LEASE, TASK_TRIES};
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type};
use crate::time::Millis;

/// How a queue is to be served. What the hash of the policy does not name is as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    lease: Option<i64>,
    tries: Option<i64>,
    backoff: Option<i64>,
    backoff_max: Option<i64>,
    limit: Option<i64>,
    keep: Option<i64>,
    paused: Option<i64>,
}

impl Policy {
    /// How long a task is leased to a consumer; none is without end.
    pub fn lease(&self) -> Option<Millis> {
        Some(self.lease.unwrap_or_else(|| TASK_LEASE.get())).filter(|ms| *ms > 0).map(Millis)
    }

    /// How often a task is tried; none is without end.
    pub fn tries(&self) -> Option<i64> {
        Some(self.tries.unwrap_or_else(|| TASK_TRIES.get())).filter(|tries| *tries > 0)
    }

    /// The longest wait behind the first failure; it doubles with each one.
    pub fn backoff(&self) -> Millis {
        Millis(self.backoff.unwrap_or(1000))
    }

    /// The longest wait behind any failure.
    pub fn backoff_max(&self) -> Millis {
        Millis(self.backoff_max.unwrap_or(600_000))
    }

    /// How many tasks the queue may hold; none is without end.
    pub fn limit(&self) -> Option<i64> {
        self.limit.filter(|limit| *limit > 0)
    }

    /// Whether finished tasks stay in their stream.
    pub fn keeps(&self) -> bool {
        self.keep == Some(1)
    }

    /// Whether no task is handed out.
    pub fn is_paused(&self) -> bool {
        self.paused == Some(1)
    }

    /// The fields as the hash and TASK.INFO name them, with the values in force.
    pub fn fields(&self) -> [(&'static str, i64); 7] {
        [
            ("lease_ms", self.lease().map_or(0, |lease| lease.0)),
            ("tries", self.tries().unwrap_or(0)),
            ("backoff_base_ms", self.backoff().0),
            ("backoff_max_ms", self.backoff_max().0),
            ("limit", self.limit().unwrap_or(0)),
            ("keep", self.keeps().into()),
            ("paused", self.is_paused().into()),
        ]
    }

    fn named(&mut self) -> [(&'static str, &mut Option<i64>); 7] {
        [
            ("lease_ms", &mut self.lease),
            ("tries", &mut self.tries),
            ("backoff_base_ms", &mut self.backoff),
            ("backoff_max_ms", &mut self.backoff_max),
            ("limit", &mut self.limit),
            ("keep", &mut self.keep),
            ("paused", &mut self.paused),
        ]
    }

    /// The policy of a queue. What is no number in its hash is as by default.
    pub fn of(server: &Server, stream: Str<'_>) -> Result<Self, Error> {
        if let Some(policy) = memory::policy(server, stream) {
            return Ok(policy);
        }
        let key = server.key_of(Prefix::Policy, stream)?;
        let mut policy = Self::default();
        if server.type_of(key.borrow()) == Type::Absent {
            memory::learn_policy(server, stream, policy);
            return Ok(policy);
        }
        let names = policy.named().map(|(name, _)| OwnedStr::new(name.as_bytes()));
        let mut args = vec![key.borrow()];
        args.extend(names.iter().map(OwnedStr::borrow));
        let found = server.call(c"HMGET", Mode::Read, &args)?;
        for (index, (_, value)) in policy.named().into_iter().enumerate() {
            let stored = found.root().at(index);
            *value = stored.and_then(|stored| integer(stored.bytes())).filter(|n| *n >= 0);
        }
        memory::learn_policy(server, stream, policy);
        Ok(policy)
    }

    /// This policy with what another one names.
    fn changed_by(mut self, mut change: Self) -> Self {
        for ((_, old), (_, new)) in self.named().into_iter().zip(change.named()) {
            *old = new.or(*old);
        }
        self
    }
}

/// `TASK.POLICY stream [LEASE ms] [TRIES n] [BACKOFF base_ms max_ms] [LIMIT n] [KEEP 0|1]
/// [PAUSED 0|1]` says how a queue is to be served, in the hash `policy:{stream}`. What is not named
/// stays. 0 as LEASE, TRIES or LIMIT is without end.
pub struct SetPolicy;

/// The arguments of TASK.POLICY.
pub struct Request<'a> {
    stream: Str<'a>,
    change: Policy,
}

impl Command for SetPolicy {
    const SPEC: Spec = Spec {
        name: c"task.policy",
        summary: c"Says how a queue is to be served.",
        complexity: c"O(1), plus O(N) for N waiting consumers that can be served now.",
        since: c"0.1.0",
        arity: -4,
        flags: c"write fast",
        categories: c"write stream fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
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
    };
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

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { stream, mut change } = request;
        server.refuse_while_slot_moves(stream)?;
        store::expect_stream(server, stream)?;
        let policy = Policy::of(server, stream)?.changed_by(change);
        if policy.limit().is_some() && policy.keeps() {
            return Err(Error::LimitAndKeep);
        }
        let key = server.key_of(Prefix::Policy, stream)?;
        let named = change.named().into_iter().filter_map(|(name, value)| Some((name, (*value)?)));
        let texts: Vec<OwnedStr> = named
            .flat_map(|(name, value)| [OwnedStr::new(name.as_bytes()), OwnedStr::number(value)])
            .collect();
        let mut args = vec![key.borrow()];
        args.extend(texts.iter().map(OwnedStr::borrow));
        server.call(c"HSET", Mode::Write, &args)?;
        memory::policy_changed(server.db(), stream.bytes());
        line::look_at(server, stream.bytes());
        Ok(Reply::Simple(c"OK"))
    }
}
