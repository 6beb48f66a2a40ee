//! Adding a delayed task, finding it by its id, and removing it.

use super::entry::{self, Task};
use super::id::{EntryId, Priority};
use super::{Cx, DELAYED};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::UnixMs;

/// Adds a task that is due later.
pub fn add(
    cx: Cx<'_>,
    queue: Str<'_>,
    priority: Priority,
    task: &Task<'_>,
    due: UnixMs,
) -> Result<EntryId, Error> {
    let Cx { server, family } = cx;
    let key = names::key_of(server, DELAYED, queue)?;
    let score = OwnedStr::number(due.0);
    loop {
        let id = EntryId::delayed(due, family.next_us(server));
        let member = OwnedStr::new(&entry::encode(id, priority, task));
        let args = [key.borrow(), words().nx(), score.borrow(), member.borrow()];
        // The id can exist if another server created it whose clock was ahead. Then the next one is
        // tried.
        if server.call(c"ZADD", Mode::Write, &args)?.root().integer() > 0 {
            family.queues.delayed_added(server.db(), queue.bytes(), priority, due);
            return Ok(id);
        }
    }
}

/// The member that stores the task with this id.
pub fn find(server: &Server, queue: Str<'_>, id: EntryId) -> Result<Option<OwnedStr>, Error> {
    let key = names::key_of(server, DELAYED, queue)?;
    let key = key.borrow();
    if server.type_of(key) != Type::SortedSet {
        return Ok(None);
    }
    let due = OwnedStr::new(id.ms().to_string().as_bytes());
    let before = OwnedStr::new(format!("({}", id.ms()).as_bytes());
    let count = |from: Str<'_>, to: Str<'_>| -> Result<i64, Error> {
        Ok(server.call(c"ZCOUNT", Mode::Read, &[key, from, to])?.root().integer())
    };
    let first = count(words().minus_infinity(), before.borrow())?;
    let last = first.saturating_add(count(due.borrow(), due.borrow())?);
    let member_at = |rank: i64| {
        let rank = OwnedStr::number(rank);
        server.call(c"ZRANGE", Mode::Read, &[key, rank.borrow(), rank.borrow()])
    };
    // Members with the same score are sorted by their bytes. In a copy a colon and the original id
    // follow the id.
    for begin in [format!("{id} "), format!("{id}:")] {
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = member_at(middle)?;
            let is_before = found.root().at(0).is_some_and(|m| m.bytes() < begin.as_bytes());
            if is_before { low = middle + 1 } else { high = middle }
        }
        let found = member_at(low)?;
        let found = found.root().at(0).filter(|m| m.bytes().starts_with(begin.as_bytes()));
        if let Some(member) = found {
            return Ok(Some(OwnedStr::new(member.bytes())));
        }
    }
    Ok(None)
}

/// Removes a member that [`find`] has found. Returns whether it still existed.
pub fn remove(cx: Cx<'_>, queue: Str<'_>, member: Str<'_>) -> Result<bool, Error> {
    let key = names::key_of(cx.server, DELAYED, queue)?;
    let gone = cx.server.call(c"ZREM", Mode::Write, &[key.borrow(), member])?.root().integer() > 0;
    // The number of refused tasks may have changed.
    cx.family.queues.retry_refused(cx.server.db(), queue.bytes());
    Ok(gone)
}
