//! Tasks that are not due: members of the sorted set `delayed:{stream}`, scored by when they are.

use super::entry::{self, Task};
use super::id::{EntryId, Priority};
use super::store::{self, Target};
use super::{PROMOTED, memory};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{MainThread, Mode, OwnedStr, Server, Str, Type, words};
use crate::time::UnixMs;
use std::cell::Cell;

/// The µs of the last id that was made: ids rise.
static LAST_US: MainThread<Cell<i64>> = MainThread::new(Cell::new(0));

/// Adds a task that is due later. Its id is valid until then.
pub fn add(
    server: &Server,
    queue: Str<'_>,
    priority: Priority,
    task: &Task<'_>,
    due: UnixMs,
) -> Result<EntryId, Error> {
    let key = server.key_of(Prefix::Delayed, queue)?;
    let score = OwnedStr::number(due.0);
    loop {
        let us = server.unix_us().max(LAST_US.get().get().saturating_add(1));
        LAST_US.get().set(us);
        let id = EntryId::delayed(due, us);
        let member = OwnedStr::new(&entry::encode(id, priority, task));
        let args = [key.borrow(), words().nx(), score.borrow(), member.borrow()];
        // The id can be taken if another server gave it whose clock was ahead: then the next one.
        if server.call(c"ZADD", Mode::Write, &args)?.root().integer() > 0 {
            memory::delayed(server.db(), queue.bytes(), due);
            return Ok(id);
        }
    }
}

/// How many tasks enter their streams in one inner read.
const PAGE: usize = 1024;

/// What came of letting tasks enter.
#[derive(Default)]
pub struct Promoted {
    /// How many entered.
    pub entered: usize,
    /// Why one could not, if one could not.
    pub trouble: Option<Error>,
}

/// Lets at most `most` tasks that are due enter their streams, those that were due first before the
/// others.
pub fn promote(
    server: &Server,
    queue: Str<'_>,
    most: usize,
    now: UnixMs,
) -> Result<Promoted, Error> {
    let key = server.key_of(Prefix::Delayed, queue)?;
    let key = key.borrow();
    if server.type_of(key) == Type::Absent {
        memory::with(server.db(), queue.bytes(), |known| known.due = None);
        return Ok(Promoted::default());
    }
    let w = words();
    let (until, limit) = (OwnedStr::number(now.0), OwnedStr::number(most.min(PAGE) as i64));
    let args = [key, w.minus_infinity(), until.borrow(), w.limit(), w.zero(), limit.borrow()];
    let due = server.call(c"ZRANGEBYSCORE", Mode::Read, &args)?;
    let mut gone = vec![key];
    let mut trouble = None;
    let members: Vec<OwnedStr> =
        due.root().elements().map(|member| OwnedStr::new(member.bytes())).collect();
    for member in &members {
        match enter(server, queue, member.borrow().bytes()) {
            Ok(()) => gone.push(member.borrow()),
            // It stays; the others may be luckier.
            Err(error) => trouble = Some(error),
        }
    }
    let entered = gone.len().saturating_sub(1);
    if entered > 0 {
        server.call(c"ZREM", Mode::Write, &gone)?;
        PROMOTED.add(entered as u64);
    }
    let next = memory::first_due(server, key)?;
    memory::with(server.db(), queue.bytes(), |known| known.due = next);
    Ok(Promoted { entered, trouble })
}

/// A task enters its stream.
fn enter(server: &Server, queue: Str<'_>, member: &[u8]) -> Result<(), Error> {
    let group = entry::group_of(member);
    let mut delayed = entry::decode(member, group.as_deref());
    let id = delayed.id.map(|id| id.to_string());
    delayed.task.original_id = delayed.task.original_id.or(id.as_ref().map(|id| id.as_bytes()));
    store::add_copy(server, Target::Queue(queue, delayed.priority), &delayed.task, &[])
}

/// Refuses what is no sorted set in the place of the delayed tasks.
pub fn check(server: &Server, queue: Str<'_>) -> Result<(), Error> {
    let key = server.key_of(Prefix::Delayed, queue)?;
    match server.type_of(key.borrow()) {
        Type::Absent | Type::SortedSet => Ok(()),
        _ => Err(Error::WrongType),
    }
}

/// Removes the task of this id. True if it was there.
pub fn remove(server: &Server, queue: Str<'_>, id: EntryId) -> Result<bool, Error> {
    let key = server.key_of(Prefix::Delayed, queue)?;
    let key = key.borrow();
    if server.type_of(key) == Type::Absent {
        return Ok(false);
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
    // Members that are due together are in the order of their bytes. The original id of a copy
    // stands behind a colon.
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
            let member = OwnedStr::new(member.bytes());
            server.call(c"ZREM", Mode::Write, &[key, member.borrow()])?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The module is unloaded.
pub fn forget() {
    LAST_US.get().set(0);
}
