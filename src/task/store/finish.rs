//! Finishing entries: they are acknowledged for a group, and deleted once every group has finished
//! them.

use super::stream_of;
use crate::error::Error;
use crate::server::{Mode, Str};
use crate::task::groups::{self, Overviews};
use crate::task::id::{EntryId, Priority};
use crate::task::identity::Move;
use crate::task::{Cx, life, ties};

/// What becomes of the tasks whose entries are finished.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They end with their entries.
    Ends,
    /// They go on under other ids.
    Moves,
}

/// Acknowledges entries of one stream for a group, and deletes those that every group has finished.
/// Their tasks have ended then. Returns how many of them were pending for the group.
pub fn finish(
    cx: Cx<'_>,
    queue: Str<'_>,
    priority: Priority,
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
) -> Result<i64, Error> {
    finish_as(cx, (queue, priority), group, ids, Ending::Ends)
}

/// As [`finish`], for tasks that end or go on.
pub fn finish_as(
    cx: Cx<'_>,
    place: (Str<'_>, Priority),
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
    ending: Ending,
) -> Result<i64, Error> {
    finish_with(cx, place, group, ids, (ending, &mut Overviews::default()))
}

/// As [`finish_as`], for a command that finishes entries of several streams.
pub fn finish_with(
    cx: Cx<'_>,
    (queue, priority): (Str<'_>, Priority),
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
    (ending, overviews): (Ending, &mut Overviews),
) -> Result<i64, Error> {
    let Cx { server, family } = cx;
    let stream = stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    // Everything that can be refused comes before the first change.
    let (policy, traces) = life::policy_and_traces(cx, queue)?;
    let ended = if traces.exist() && ending == Ending::Ends {
        life::of_entries(cx, (priority, stream), ids)?
    } else {
        Vec::new()
    };
    let acknowledged = match ids {
        // For one id the arguments need no memory of their own.
        [(_, text)] => server.call(c"XACK", Mode::Write, &[stream, group, *text]),
        _ => server.call(c"XACK", Mode::Write, &args(&[stream, group], ids)),
    };
    let acknowledged = acknowledged?.root().integer();
    let numbers = || ids.iter().map(|(id, _)| *id);
    ties::ended(cx, queue, group, priority, numbers());
    if acknowledged == 0 {
        return Ok(0);
    }
    family.queues.lease_ended(server.db(), queue.bytes(), group.bytes(), priority, numbers());
    if policy.keeps() && ended.is_empty() {
        return Ok(acknowledged);
    }
    // Every id was pending here, so a single group has finished all of them.
    let all_were_pending = usize::try_from(acknowledged) == Ok(ids.len());
    let done = if all_were_pending && groups::is_only(cx, queue, stream, group)? {
        None
    } else {
        match overviews.of(cx, queue, (priority, stream))? {
            Some(groups) => {
                let mut done = Vec::with_capacity(ids.len());
                for id in ids {
                    if groups.is_done(server, stream, *id)? {
                        done.push(*id);
                    }
                }
                Some(done)
            }
            None => {
                groups::log_too_many(cx);
                return Ok(acknowledged);
            }
        }
    };
    if !policy.keeps() {
        match done.as_deref().unwrap_or(ids) {
            [] => {}
            [(_, text)] => drop(server.call(c"XDEL", Mode::Write, &[stream, *text])?),
            done => drop(server.call(c"XDEL", Mode::Write, &args(&[stream], done))?),
        }
    }
    if !ended.is_empty() {
        let is_done = |ended: &Move| {
            done.as_ref().is_none_or(|done| done.iter().any(|(id, _)| *id == ended.from))
        };
        life::end(cx, queue, &ended.into_iter().filter(is_done).collect::<Vec<_>>())?;
    }
    Ok(acknowledged)
}

/// The arguments of an inner command that end with ids.
fn args<'a>(first: &[Str<'a>], ids: &[(EntryId, Str<'a>)]) -> Vec<Str<'a>> {
    first.iter().copied().chain(ids.iter().map(|(_, text)| *text)).collect()
}
