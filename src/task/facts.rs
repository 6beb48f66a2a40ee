//! What a pass has to know of a queue and a group. It is looked up once, and then kept up to date.

use super::delayed::first_due;
use super::id::Priority;
use super::known::Priorities;
use super::policy::{Policy, policy_of};
use super::queues::Facts;
use super::store::{self, IfMissing};
use super::{Cx, DELAYED, EVENTS, groups};
use crate::error::Error;
use crate::names;
use crate::server::{Server, Str, Type};
use crate::time::UnixMs;

/// What is known of a queue and one of its groups.
pub struct Learned {
    /// The policy.
    pub policy: Policy,
    /// Whether everything is known that a pass needs. If not, the group has to be created first.
    pub met: bool,
}

/// Looks up a queue and a group, unless they are known. Only groups that exist, and those in which
/// consumers wait, are remembered.
pub fn learn(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: Str<'_>,
    if_missing: IfMissing,
) -> Result<Learned, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    store::expect_stream(server, queue)?;
    if let Some(policy) = family.queues.met(db, name, group.bytes()) {
        return Ok(Learned { policy, met: true });
    }
    server.subscribe(EVENTS);
    let policy = policy_of(cx, queue)?;
    let has_group = groups::exists(cx, queue, group)?;
    if !has_group && if_missing == IfMissing::CreateAll {
        return Ok(Learned { policy, met: false });
    }
    let (streams, due) = look_up(server, queue)?;
    let others_may_release = family.others_may_release(server);
    let facts = Facts { policy, streams, due, has_group, others_may_release };
    family.queues.meet(db, name, group.bytes(), &facts);
    Ok(Learned { policy, met: true })
}

/// Whether a queue has nothing to read for a group that does not exist there yet. Nothing is remembered.
pub fn is_empty(cx: Cx<'_>, queue: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    let Cx { server, family } = cx;
    if family.queues.met(server.db(), queue.bytes(), group.bytes()).is_some()
        || groups::exists(cx, queue, group)?
    {
        return Ok(false);
    }
    for priority in Priority::ALL {
        let stream = store::stream_of(server, queue, priority)?;
        if store::may_hold_entries(server, stream.borrow()) {
            return Ok(false);
        }
    }
    let due = due_in(server, queue)?;
    Ok(due.is_none_or(|due| due > server.now()))
}

/// The priorities above 0 that have a stream, and when the first delayed task is due.
fn look_up(server: &Server, queue: Str<'_>) -> Result<(Priorities, Option<UnixMs>), Error> {
    let mut streams = Priorities::default();
    for priority in Priority::ALL.into_iter().filter(|priority| *priority > Priority::LOWEST) {
        let key = store::stream_of(server, queue, priority)?;
        if server.type_of(key.borrow()) != Type::Absent {
            streams.insert(priority);
        }
    }
    Ok((streams, due_in(server, queue)?))
}

/// When the first delayed task is due: at once if the key is not a sorted set, so that a pass reports
/// it.
fn due_in(server: &Server, queue: Str<'_>) -> Result<Option<UnixMs>, Error> {
    let key = names::key_of(server, DELAYED, queue)?;
    match server.type_of(key.borrow()) {
        Type::Absent => Ok(None),
        Type::SortedSet => first_due(server, key.borrow()),
        _ => Ok(Some(UnixMs(0))),
    }
}
