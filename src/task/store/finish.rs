//! Finishing entries: they are acknowledged for a group, and deleted once every group has finished
//! them.

use super::stream_of;
use crate::error::Error;
use crate::server::{Mode, Str};
use crate::task::groups::{self, Overviews};
use crate::task::id::{EntryId, Priority};
use crate::task::policy::policy_of;
use crate::task::{Cx, ties};

/// Acknowledges entries of one stream for a group, and deletes those that every group has finished.
/// Returns how many of them were pending for the group.
pub fn finish(
    cx: Cx<'_>,
    queue: Str<'_>,
    priority: Priority,
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
) -> Result<i64, Error> {
    finish_with(cx, (queue, priority), group, ids, &mut Overviews::default())
}

/// As [`finish`], for a command that finishes entries of several streams.
pub fn finish_with(
    cx: Cx<'_>,
    (queue, priority): (Str<'_>, Priority),
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
    overviews: &mut Overviews,
) -> Result<i64, Error> {
    let Cx { server, family } = cx;
    let stream = stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    // Everything that can be refused comes before the first change.
    let keeps = policy_of(cx, queue)?.keeps();
    let texts: Vec<Str<'_>> = ids.iter().map(|(_, text)| *text).collect();
    let acknowledged = {
        let args = [&[stream, group], texts.as_slice()].concat();
        server.call(c"XACK", Mode::Write, &args)?.root().integer()
    };
    let numbers: Vec<EntryId> = ids.iter().map(|(id, _)| *id).collect();
    ties::ended(cx, queue, group, priority, &numbers);
    if acknowledged == 0 {
        return Ok(0);
    }
    family.queues.lease_ended(server.db(), queue.bytes(), group.bytes(), priority, &numbers);
    if keeps {
        return Ok(acknowledged);
    }
    // Every id was pending here, so a single group has finished all of them.
    let all_were_pending = usize::try_from(acknowledged) == Ok(ids.len());
    let done = if all_were_pending && groups::is_only(cx, queue, stream, group)? {
        texts
    } else {
        match overviews.of(cx, queue, (priority, stream))? {
            Some(groups) => {
                let mut done = Vec::with_capacity(ids.len());
                for id in ids {
                    if groups.is_done(server, stream, *id)? {
                        done.push(id.1);
                    }
                }
                done
            }
            None => {
                groups::log_too_many(cx);
                return Ok(acknowledged);
            }
        }
    };
    if !done.is_empty() {
        let args = [&[stream], done.as_slice()].concat();
        server.call(c"XDEL", Mode::Write, &args)?;
    }
    Ok(acknowledged)
}
