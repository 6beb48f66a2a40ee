//! The policy of a queue: the hash `policy:{stream}`. What the hash does not name has its default.

use super::{Cx, EVENTS, POLICY};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Str, Type, integer};
use crate::time::Millis;

/// The stored policy of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long a task is leased to a consumer, in ms; 0 means without end.
    pub lease: Option<i64>,
    /// How often a task is tried; 0 means without limit.
    pub tries: Option<i64>,
    /// The longest wait after the first failure, in ms. It doubles with each further one.
    pub backoff: Option<i64>,
    /// The longest wait after any failure, in ms.
    pub backoff_max: Option<i64>,
    /// How many tasks the queue may hold; 0 means without limit.
    pub limit: Option<i64>,
    /// Whether finished tasks stay in their stream: 0 or 1.
    pub keep: Option<i64>,
    /// Whether no task is delivered: 0 or 1.
    pub paused: Option<i64>,
}

impl Policy {
    /// How long a task is leased to a consumer. `default` is the setting for queues whose policy says
    /// nothing. `None` means without end.
    pub fn lease(&self, default: i64) -> Option<Millis> {
        Some(self.lease.unwrap_or(default)).filter(|ms| *ms > 0).map(Millis)
    }

    /// How often a task is tried. `default` is the setting for queues whose policy says nothing.
    /// `None` means without limit.
    pub fn tries(&self, default: i64) -> Option<i64> {
        Some(self.tries.unwrap_or(default)).filter(|tries| *tries > 0)
    }

    /// The longest wait after the first failure.
    pub fn backoff(&self) -> Millis {
        Millis(self.backoff.unwrap_or(1000))
    }

    /// The longest wait after any failure.
    pub fn backoff_max(&self) -> Millis {
        Millis(self.backoff_max.unwrap_or(600_000))
    }

    /// How many tasks the queue may hold. `None` means without limit.
    pub fn limit(&self) -> Option<i64> {
        self.limit.filter(|limit| *limit > 0)
    }

    /// Whether finished tasks stay in their stream.
    pub fn keeps(&self) -> bool {
        self.keep == Some(1)
    }

    /// Whether no task is delivered.
    pub fn is_paused(&self) -> bool {
        self.paused == Some(1)
    }

    /// Its fields under their names in the hash.
    pub fn named(&mut self) -> [(&'static str, &mut Option<i64>); 7] {
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

    /// This policy with the changes that another one names.
    pub fn changed_by(mut self, mut change: Self) -> Self {
        for ((_, old), (_, new)) in self.named().into_iter().zip(change.named()) {
            *old = new.or(*old);
        }
        self
    }
}

/// The policy of a queue. Fields of the hash that are not numbers have their defaults.
pub fn policy_of(cx: Cx<'_>, queue: Str<'_>) -> Result<Policy, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    if let Some(policy) = family.queues.policy(db, name) {
        return Ok(policy);
    }
    let key = names::key_of(server, POLICY, queue)?;
    let mut policy = Policy::default();
    if server.type_of(key.borrow()) != Type::Absent {
        let fields = policy.named().map(|(name, _)| OwnedStr::new(name.as_bytes()));
        let mut args = vec![key.borrow()];
        args.extend(fields.iter().map(OwnedStr::borrow));
        let found = server.call(c"HMGET", Mode::Read, &args)?;
        for (index, (_, value)) in policy.named().into_iter().enumerate() {
            let stored = found.root().at(index);
            *value = stored.and_then(|stored| integer(stored.bytes())).filter(|n| *n >= 0);
        }
    }
    // Only what events keep up to date may be remembered.
    let always = server.is_subscribed(EVENTS) && server.type_of(queue) == Type::Stream;
    family.queues.set_policy(db, name, policy, always);
    Ok(policy)
}

impl super::Task {
    /// How long a task of this queue is leased to a consumer. `None` means without end.
    pub fn lease(&self, policy: &Policy) -> Option<Millis> {
        policy.lease(self.settings.lease.get())
    }

    /// How often a task of this queue is tried. `None` means without limit.
    pub fn tries(&self, policy: &Policy) -> Option<i64> {
        policy.tries(self.settings.tries.get())
    }

    /// The effective values of a policy, under their names in the hash and in TASK.INFO.
    pub fn effective(&self, policy: &Policy) -> [(&'static str, i64); 7] {
        [
            ("lease_ms", self.lease(policy).map_or(0, |lease| lease.0)),
            ("tries", self.tries(policy).unwrap_or(0)),
            ("backoff_base_ms", policy.backoff().0),
            ("backoff_max_ms", policy.backoff_max().0),
            ("limit", policy.limit().unwrap_or(0)),
            ("keep", policy.keeps().into()),
            ("paused", policy.is_paused().into()),
        ]
    }
}
