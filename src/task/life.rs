//! The end of a task: what follows it by its original id forgets it.
//!
//! A queue in which no task has moved has nothing to forget. Whether that is so is remembered, so that
//! finishing a task there costs nothing more.

use super::id::{EntryId, Priority};
use super::identity::Move;
use super::known::Traces;
use super::policy::{Policy, policy_of};
use super::{Cx, EVENTS, MOVED, moved, store};
use crate::error::Error;
use crate::names;
use crate::server::Str;

/// Which keys follow the tasks of a queue.
pub fn traces(cx: Cx<'_>, queue: Str<'_>) -> Result<Traces, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    if let Some(known) = family.queues.traces(db, name) {
        return Ok(known);
    }
    let key = names::key_of(server, MOVED, queue)?;
    let traces = Traces { moved: server.peek_key(key.borrow()).exists() };
    // Only what events keep up to date may be remembered.
    if server.is_subscribed(EVENTS) {
        family.queues.set_traces(db, name, traces);
    }
    Ok(traces)
}

/// The policy of a queue, and which keys follow its tasks.
pub fn policy_and_traces(cx: Cx<'_>, queue: Str<'_>) -> Result<(Policy, Traces), Error> {
    if let Some(known) = cx.family.queues.policy_and_traces(cx.server.db(), queue.bytes()) {
        return Ok(known);
    }
    Ok((policy_of(cx, queue)?, traces(cx, queue)?))
}

/// What has to be forgotten when these entries of a stream end.
pub fn of_entries(
    cx: Cx<'_>,
    (priority, stream): (Priority, Str<'_>),
    ids: &[(EntryId, Str<'_>)],
) -> Result<Vec<Move>, Error> {
    let mut ending = Vec::with_capacity(ids.len());
    for (id, text) in ids {
        if let Some(entry) = store::entry(cx.server, stream, *text)? {
            ending.push(Move::of(&entry.task(), (*id, Some(priority)), None));
        }
    }
    Ok(ending)
}

/// Tasks have ended. The caller has removed them in the same step.
pub fn end(cx: Cx<'_>, queue: Str<'_>, ended: &[Move]) -> Result<(), Error> {
    if ended.is_empty() { Ok(()) } else { moved::record(cx, queue, ended) }
}
