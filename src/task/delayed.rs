//! Tasks that are not due: members of the sorted set `delayed:{stream}`, scored by when they are.

use super::PROMOTED;
use super::entry::{self, Delayed, Task};
use super::id::{EntryId, Priority};
use super::memory::{self, Priorities, Refused};
use super::rules::Entered;
use super::store::{self, Target};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{MainThread, Mode, OwnedStr, Server, Str, Type, words};
use crate::time::{Millis, Moment, UnixMs};
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
            memory::delayed(server.db(), queue.bytes(), priority, due);
            return Ok(id);
        }
    }
}

/// How many tasks are read at once, at first and at most.
const FIRST_PAGE: usize = 16;
const PAGE: usize = 1024;

/// How many bytes a page has about, if its tasks are like those of the one before.
const PAGE_BYTES: usize = 1 << 20;

/// How many bytes of tasks are read at most that nobody asks for.
const BYTES: usize = 8 << 20;

/// How much one call does at most for tasks that nobody asks for: to look at one costs 1.
const EFFORT: usize = 16_384;

/// What it costs to let a task enter.
const ENTRY: usize = 8;

/// How long tasks that were refused are left alone: what cures it mostly raises an event.
const AFTER_REFUSAL: Millis = Millis(1_000);

/// No moment comes behind it.
const NEVER: Moment = Moment(i64::MAX);

/// What came of letting tasks enter.
#[derive(Default)]
pub struct Promoted {
    /// How many entered, and whether others are due.
    pub entered: Entered,
    /// Why one could not enter, if one could not.
    pub trouble: Option<Error>,
}

/// Which tasks a walk lets in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those of a priority above 0.
    AboveZero,
    /// All of them.
    All,
}

/// A walk through the tasks that are due, those that were due first before the others. What is
/// refused stays and is passed by: it keeps back nobody.
struct Walk<'a> {
    server: &'a Server,
    queue: Str<'a>,
    key: Str<'a>,
    now: UnixMs,
    /// The rank of the next task.
    rank: usize,
    page: usize,
    entered: usize,
    effort: usize,
    bytes: usize,
    /// The priorities whose streams have refused a task.
    closed: Priorities,
    /// Why the last one was refused.
    trouble: Option<Error>,
    /// Whether nothing at all can be written now.
    stopped: bool,
}

/// How a page ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Others follow that may be due.
    Open,
    /// The next task is due then, if there is one.
    Due(Option<UnixMs>),
}

impl Walk<'_> {
    /// Reads the next page of at most `most` tasks. How many of them stay, and how it ends.
    fn next_page(&mut self, which: Which, most: usize) -> Result<(usize, End), Error> {
        let (server, w, length) = (self.server, words(), self.page.min(most).max(1));
        let (first, bytes) = (self.rank, self.bytes);
        let (from, to) =
            (OwnedStr::number(first as i64), OwnedStr::number((first + length - 1) as i64));
        let args = [self.key, from.borrow(), to.borrow(), w.with_scores()];
        let found = server.call(c"ZRANGE", Mode::Read, &args)?;
        let mut gone: Vec<OwnedStr> = Vec::new();
        let mut end = if found.root().len() < 2 * length { End::Due(None) } else { End::Open };
        for (member, score) in found.root().pairs() {
            let due = memory::due_of(score).unwrap_or(UnixMs(i64::MAX));
            if due > self.now {
                end = End::Due(Some(due));
                break;
            }
            self.bytes = self.bytes.saturating_add(member.len());
            self.effort += 1;
            let group = entry::group_of(member);
            let task = entry::decode(member, group.as_deref());
            let priority = task.priority;
            let stays = which == Which::AboveZero && priority == Priority::LOWEST;
            if !stays && !self.closed.contains(priority) {
                match enter(server, self.queue, task) {
                    Ok(()) => {
                        gone.push(OwnedStr::new(member));
                        continue;
                    }
                    Err(error) => {
                        self.stopped = error.passes();
                        self.trouble = Some(error);
                        self.closed.insert(priority);
                    }
                }
            }
            if self.stopped {
                break;
            }
            self.rank += 1;
        }
        if !gone.is_empty() {
            let args: Vec<Str<'_>> =
                [self.key].into_iter().chain(gone.iter().map(OwnedStr::borrow)).collect();
            server.call(c"ZREM", Mode::Write, &args)?;
            self.entered += gone.len();
            self.effort += gone.len() * ENTRY;
            PROMOTED.add(gone.len() as u64);
        }
        let average = (self.bytes - bytes) / length;
        self.page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE);
        Ok((self.rank - first, end))
    }

    fn is_spent(&self) -> bool {
        self.stopped || self.effort >= EFFORT || self.bytes >= BYTES
    }
}

/// Lets tasks that are due enter their streams: those of a priority above 0, and at most `most` of
/// the others; `least`, if there are as many.
pub fn promote(
    server: &Server,
    queue: Str<'_>,
    (least, most): (usize, usize),
    now: UnixMs,
) -> Result<Promoted, Error> {
    let (db, name) = (server.db(), queue.bytes());
    let key = server.key_of(Prefix::Delayed, queue)?;
    let key = key.borrow();
    let moment = server.moment();
    let remember = |delayed| memory::with(db, name, |known| known.delayed = delayed);
    match server.type_of(key) {
        Type::Absent => {
            remember(memory::Delayed::default());
            return Ok(Promoted::default());
        }
        Type::SortedSet => {}
        _ => {
            let error = Error::WrongType;
            let again = moment.after(AFTER_REFUSAL);
            let refused = Some(Refused { number: 0, error: error.clone(), again });
            remember(memory::Delayed { refused, above_zero: true, ..memory::Delayed::default() });
            return Ok(Promoted { entered: Entered::default(), trouble: Some(error) });
        }
    }
    let known = memory::with(db, name, |known| known.delayed.clone());
    let mut known = known.unwrap_or(memory::Delayed { above_zero: true, ..Default::default() });
    // What was refused before is passed by until it is tried again.
    if known.refused.as_ref().is_some_and(|refused| refused.again <= moment) {
        (known.refused, known.looked_at) = (None, 0);
    }
    let (first, trouble, again) = match known.refused {
        Some(Refused { number, error, again }) => (number, Some(error), Some(again)),
        None => (0, None, None),
    };
    let mut walk = Walk {
        server,
        queue,
        key,
        now,
        rank: first.saturating_add(known.looked_at),
        page: FIRST_PAGE,
        entered: 0,
        effort: 0,
        bytes: 0,
        closed: Priorities::default(),
        trouble,
        stopped: false,
    };
    // First those of a higher priority, wherever they are: a lower one is never delivered before.
    let mut ahead = End::Open;
    while known.above_zero && ahead == End::Open && !walk.is_spent() {
        let (stay, end) = walk.next_page(Which::AboveZero, usize::MAX)?;
        known.looked_at += stay;
        ahead = end;
    }
    if ahead == End::Due(None) && walk.trouble.is_none() {
        known.above_zero = false;
    }
    walk.rank = first;
    let begin = walk.entered;
    let mut end = End::Open;
    loop {
        let entered = walk.entered - begin;
        if end != End::Open
            || walk.stopped
            || entered >= most
            || (entered >= least && walk.bytes >= BYTES)
            || walk.rank - first >= EFFORT / 2
        {
            break;
        }
        let before = walk.entered;
        let (stay, now) = walk.next_page(Which::All, most - entered)?;
        known.looked_at = known.looked_at.saturating_sub(stay + walk.entered - before);
        end = now;
    }
    let more = end == End::Open && !walk.stopped;
    known.due = match end {
        End::Due(due) if !walk.stopped => due,
        _ => Some(now),
    };
    // They are tried again when all others were looked at.
    let again = match again {
        _ if more => NEVER,
        Some(again) if again < NEVER => again,
        _ => moment.after(AFTER_REFUSAL),
    };
    let error = walk.trouble.clone().filter(|_| !walk.stopped);
    known.refused = error.map(|error| Refused { number: walk.rank, error, again });
    remember(known);
    let spent = walk.is_spent() || walk.rank - first >= EFFORT / 2;
    let entered = Entered { number: walk.entered, more, spent };
    Ok(Promoted { entered, trouble: walk.trouble })
}

/// A task enters its stream.
fn enter(server: &Server, queue: Str<'_>, delayed: Delayed<'_>) -> Result<(), Error> {
    let id = delayed.id.map(|id| id.to_string());
    let mut task = delayed.task;
    task.original_id = task.original_id.or(id.as_ref().map(|id| id.as_bytes()));
    store::add_copy(server, Target::Queue(queue, delayed.priority), &task, &[])
}

/// What keeps every task of a queue from being delivered that has none in its own stream, if
/// anything does: a key of a foreign type. Looked at before a group is created for it.
pub fn obstacle(server: &Server, queue: Str<'_>) -> Result<Option<Error>, Error> {
    let is_empty = |stream: Str<'_>| server.peek_key(stream).entries() == 0;
    let mut closed = Priorities::default();
    for priority in Priority::ALL {
        let stream = store::stream_of(server, queue, priority)?;
        match server.type_of(stream.borrow()) {
            Type::Absent => {}
            Type::Stream if is_empty(stream.borrow()) => {}
            Type::Stream => return Ok(None),
            _ => closed.insert(priority),
        }
    }
    let key = server.key_of(Prefix::Delayed, queue)?;
    match server.type_of(key.borrow()) {
        Type::SortedSet => {
            const LOOKED_AT: usize = 128;
            let last = OwnedStr::number(LOOKED_AT as i64 - 1);
            let args = [key.borrow(), words().zero(), last.borrow(), words().with_scores()];
            let found = server.call(c"ZRANGE", Mode::Read, &args)?;
            let now = Some(server.now());
            let due = found.root().pairs().take_while(|(_, score)| memory::due_of(score) <= now);
            let mut looked_at = 0;
            for (member, _) in due {
                let group = entry::group_of(member);
                if !closed.contains(entry::decode(member, group.as_deref()).priority) {
                    return Ok(None);
                }
                looked_at += 1;
            }
            // What comes behind those may enter.
            if looked_at == LOOKED_AT {
                return Ok(None);
            }
        }
        Type::Absent => {}
        _ => return Ok(Some(Error::WrongType)),
    }
    Ok((closed != Priorities::default()).then_some(Error::WrongType))
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
            // Those that were refused are not as many as before.
            memory::try_refused_again(server.db(), queue.bytes());
            return Ok(true);
        }
    }
    Ok(false)
}

/// The module is unloaded.
pub fn forget() {
    LAST_US.get().set(0);
}
