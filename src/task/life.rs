//! The end of a task: what follows it by its original id forgets it, and a task that was held until
//! then enters the queue.
//!
//! A queue in which no task has moved or has a mark has nothing to forget. Whether that is so is
//! remembered, so that finishing a task there costs nothing more.

use super::following::Traces;
use super::id::{EntryId, Priority};
use super::identity::{Birth, Move};
use super::policy::{Policy, policy_of};
use super::{Cx, EVENTS, HELD, MARKS, MOVED, marks, moved, store};
use crate::error::Error;
use crate::names::{self, Prefix};
use crate::server::Str;

/// Which keys follow the tasks of a queue.
pub fn traces(cx: Cx<'_>, queue: Str<'_>) -> Result<Traces, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    if let Some(known) = family.queues.traces(db, name) {
        return Ok(known);
    }
    let exists = |prefix: Prefix| -> Result<bool, Error> {
        Ok(server.peek_key(names::key_of(server, prefix, queue)?.borrow()).exists())
    };
    let traces = Traces { moved: exists(MOVED)?, marks: exists(MARKS)?, held: exists(HELD)? };
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

/// Whether a queue must not have a second group: with several groups a task has several copies, and
/// marks and held tasks follow one.
pub fn needs_one_group(cx: Cx<'_>, queue: Str<'_>) -> Result<bool, Error> {
    let Traces { marks, held, .. } = traces(cx, queue)?;
    Ok(marks || held)
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

/// Tasks have moved or ended. The caller has done that in the same step.
pub fn record(cx: Cx<'_>, queue: Str<'_>, moves: Vec<Move>) -> Result<(), Error> {
    let (moved, ended): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|m| m.to.is_some());
    moved::record(cx, queue, &moved)?;
    end(cx, queue, &ended)
}

/// Tasks have ended. The caller has removed them in the same step.
pub fn end(cx: Cx<'_>, queue: Str<'_>, ended: &[Move]) -> Result<(), Error> {
    if ended.is_empty() {
        return Ok(());
    }
    let marked = known_here(cx, queue, ended)?;
    moved::record(cx, queue, ended)?;
    marks::end(cx, queue, &marked)
}

/// Tasks were delivered that are found under these ids.
pub fn started(cx: Cx<'_>, queue: Str<'_>, delivered: &[Move]) -> Result<(), Error> {
    let marked = known_here(cx, queue, delivered)?;
    marks::started(cx, queue, &marked)
}

/// The original ids of those tasks that are present in this queue under the ids from which they move.
fn known_here(cx: Cx<'_>, queue: Str<'_>, tasks: &[Move]) -> Result<Vec<EntryId>, Error> {
    if !traces(cx, queue)?.marks {
        return Ok(Vec::new());
    }
    let originals: Vec<EntryId> = tasks.iter().map(|task| task.original).collect();
    let fields = moved::present_all(cx, queue, &originals)?;
    let is_here = |(task, field): &(&Move, Option<EntryId>)| {
        *field == Some(task.from) || (field.is_none() && task.birth != Birth::Copy)
    };
    Ok(tasks.iter().zip(fields).filter(is_here).map(|(task, _)| task.original).collect())
}
