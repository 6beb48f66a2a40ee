//! Delayed tasks: members of the sorted set `delayed:{stream}`, scored by when they are due.

use super::dead::{DeathRecord, bury};
use super::entry;
use super::id::Priority;
use super::identity::Move;
use super::known::{Delayed, Priorities, Refused};
use super::rules::Entered;
use super::store::{self, Target};
use super::{Cx, DELAYED, life};
use crate::error::Error;
use crate::names;
use crate::server::guard::log;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::{Millis, Moment, UnixMs};

/// How many tasks the first page has, and how many any page has at most.
const FIRST_PAGE: usize = 16;
const PAGE: usize = 1024;

/// How many bytes a page should have. Its length follows from the tasks of the page before.
const PAGE_BYTES: usize = 1 << 20;

/// The limit of bytes that are read beyond the tasks that were asked for.
const BYTES: usize = 8 << 20;

/// The limit of the work of one call, where looking at a task costs 1.
const EFFORT: usize = 16_384;

/// The cost of moving a task into its stream.
const ENTRY: usize = 8;

/// How long refused tasks are left alone. Usually an event reports earlier that they may enter.
const AFTER_REFUSAL: Millis = Millis(1_000);

/// How long tasks that another version of the module has stored are left alone.
const AFTER_UNKNOWN: Millis = Millis(60_000);

/// Later than every other moment.
const NEVER: Moment = Moment(i64::MAX);

/// The result of moving due tasks into their streams.
#[derive(Default)]
pub struct Promoted {
    /// How many were moved, and whether more are due.
    pub entered: Entered,
    /// Why a task was refused, if one was.
    pub trouble: Option<Error>,
}

/// Which tasks a walk moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those of a priority above 0.
    AboveZero,
    /// All of them.
    All,
}

/// A walk through the due tasks, in the order in which they became due. It passes by what a stream
/// refuses and what another version of the module has stored, so that these do not hold up the others.
struct Walk<'a> {
    cx: Cx<'a>,
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
    /// Whether it has passed by a task of another version.
    any_unknown: bool,
    /// Whether the server refuses every write now.
    stopped: bool,
}

/// How a page ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Others follow that may be due.
    Open,
    /// The next task, if there is one, is due at this time.
    Due(Option<UnixMs>),
}

impl Walk<'_> {
    /// Reads the next page of at most `most` tasks. Returns how many of them stay, and how it ends.
    fn next_page(&mut self, which: Which, most: usize) -> Result<(usize, End), Error> {
        let (cx, server) = (self.cx, self.cx.server);
        let (w, length) = (words(), self.page.min(most).max(1));
        let (first, bytes) = (self.rank, self.bytes);
        let (from, to) =
            (OwnedStr::number(first as i64), OwnedStr::number((first + length - 1) as i64));
        let args = [self.key, from.borrow(), to.borrow(), w.with_scores()];
        let found = server.call(c"ZRANGE", Mode::Read, &args)?;
        let (mut gone, mut expired) = (Vec::<OwnedStr>::new(), 0);
        let mut moves = Vec::<Move>::new();
        let mut end = if found.root().len() < 2 * length { End::Due(None) } else { End::Open };
        for (member, score) in found.root().pairs() {
            let due = due_of(score).unwrap_or(UnixMs(i64::MAX));
            if due > self.now {
                end = End::Due(Some(due));
                break;
            }
            self.bytes = self.bytes.saturating_add(member.len());
            self.effort += 1;
            let group = entry::group_of(member);
            let Some(task) = entry::decode(member, group.as_deref()) else {
                self.rank += 1;
                if which == Which::All {
                    self.any_unknown = true;
                    cx.family.counters.unknown_version.add(1);
                    log_unknown_version(cx, self.key);
                }
                continue;
            };
            let priority = task.priority;
            let stays = which == Which::AboveZero && priority == Priority::LOWEST;
            if !stays && !self.closed.contains(priority) {
                let expires = task.task.has_expired(self.now);
                match enter(cx, self.queue, task, expires) {
                    Ok(moved) => {
                        gone.push(OwnedStr::new(member));
                        expired += u64::from(expires);
                        moves.extend(moved);
                        continue;
                    }
                    Err(error) => {
                        self.stopped = error.passes();
                        self.trouble = Some(error);
                        if !expires {
                            self.closed.insert(priority);
                        }
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
            life::record(cx, self.queue, moves)?;
            self.entered += gone.len();
            self.effort += gone.len() * ENTRY;
            cx.family.counters.expired.add(expired);
            cx.family.counters.promoted.add(gone.len() as u64 - expired);
        }
        let average = (self.bytes - bytes) / length;
        self.page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE);
        Ok((self.rank - first, end))
    }

    fn is_spent(&self) -> bool {
        self.stopped || self.effort >= EFFORT || self.bytes >= BYTES
    }
}

/// Moves due tasks into their streams: all those of a priority above 0, and of the others between
/// `least` and `most`, if that many are due.
pub fn promote(
    cx: Cx<'_>,
    queue: Str<'_>,
    (least, most): (usize, usize),
    now: UnixMs,
) -> Result<Promoted, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    let key = names::key_of(server, DELAYED, queue)?;
    let key = key.borrow();
    let moment = server.moment();
    let remember = |delayed| family.queues.set_delayed(db, name, delayed);
    match server.type_of(key) {
        Type::Absent => {
            remember(Delayed::default());
            return Ok(Promoted::default());
        }
        Type::SortedSet => {}
        _ => {
            let error = Error::WrongType;
            let again = moment + AFTER_REFUSAL;
            let refused = Some(Refused { number: 0, error: Some(error.clone()), again });
            remember(Delayed { refused, above_zero: true, ..Delayed::default() });
            return Ok(Promoted { entered: Entered::default(), trouble: Some(error) });
        }
    }
    let known = family.queues.delayed(db, name);
    let mut known = known.unwrap_or(Delayed { above_zero: true, ..Delayed::default() });
    // Tasks that were refused before are skipped until they are tried again.
    if known.refused.as_ref().is_some_and(|refused| refused.again <= moment) {
        (known.refused, known.looked_at) = (None, 0);
    }
    let (first, trouble, again) = match known.refused {
        Some(Refused { number, error, again }) => (number, error, Some(again)),
        None => (0, None, None),
    };
    let mut walk = Walk {
        cx,
        queue,
        key,
        now,
        rank: first.saturating_add(known.looked_at),
        page: FIRST_PAGE,
        entered: 0,
        effort: 0,
        bytes: 0,
        closed: Priorities::default(),
        any_unknown: again.is_some() && trouble.is_none(),
        trouble,
        stopped: false,
    };
    // Tasks of a higher priority come first, wherever they are: none of a lower one may be delivered
    // before them.
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
    // Refused tasks are tried again once all others were looked at.
    let pause = if walk.trouble.is_some() { AFTER_REFUSAL } else { AFTER_UNKNOWN };
    let again = match again {
        _ if more => NEVER,
        Some(again) if again < NEVER => again.min(moment + pause),
        _ => moment + pause,
    };
    let stay = !walk.stopped && (walk.trouble.is_some() || walk.any_unknown);
    let error = walk.trouble.clone();
    known.refused = stay.then_some(Refused { number: walk.rank, error, again });
    remember(known);
    let spent = walk.is_spent() || walk.rank - first >= EFFORT / 2;
    let entered = Entered { number: walk.entered, more, spent };
    Ok(Promoted { entered, trouble: walk.trouble })
}

/// Logs, once, that a task stays where it is because another version of the module has stored it.
fn log_unknown_version(cx: Cx<'_>, key: Str<'_>) {
    if !cx.family.logged_unknown_version.replace(true) {
        let key = key.bytes().get(..128).unwrap_or(key.bytes()).escape_ascii();
        log(
            c"warning",
            &format!(
                "a later version of the module has stored tasks in {key}: they wait for it there"
            ),
        );
    }
}

/// Moves a task into its stream, or to the dead-letter queue if it has expired. Only a task with an id
/// has moved from one to another.
fn enter(
    cx: Cx<'_>,
    queue: Str<'_>,
    delayed: entry::Delayed<'_>,
    expires: bool,
) -> Result<Option<Move>, Error> {
    let id = delayed.id.map(|id| id.to_string());
    let mut task = delayed.task;
    let from = delayed.id.map(|id| Move::of(&task, (id, None), None));
    task.original_id = task.original_id.or(id.as_ref().map(|id| id.as_bytes()));
    if expires {
        bury(cx, queue, delayed.priority, task, &DeathRecord::EXPIRED)?;
        return Ok(from);
    }
    let to = store::add_copy(cx, Target::Queue(queue, delayed.priority), &task, &[])?;
    Ok(from.map(|from| Move { to: Some(to), ..from }))
}

/// Returns WRONGTYPE if the key of the delayed tasks is not a sorted set.
pub fn check(server: &Server, queue: Str<'_>) -> Result<(), Error> {
    let key = names::key_of(server, DELAYED, queue)?;
    match server.type_of(key.borrow()) {
        Type::Absent | Type::SortedSet => Ok(()),
        _ => Err(Error::WrongType),
    }
}

/// When the first delayed task is due.
pub fn first_due(server: &Server, delayed: Str<'_>) -> Result<Option<UnixMs>, Error> {
    if server.type_of(delayed) == Type::Absent {
        return Ok(None);
    }
    let w = words();
    let args = [delayed, w.zero(), w.zero(), w.with_scores()];
    let first = server.call(c"ZRANGE", Mode::Read, &args)?;
    Ok(first.root().at(1).and_then(|score| due_of(score.bytes())))
}

/// The time that a score stands for. Scores out of range become the nearest time within it.
pub fn due_of(score: &[u8]) -> Option<UnixMs> {
    let score = std::str::from_utf8(score).ok()?.parse::<f64>().ok()?;
    Some(UnixMs(score.ceil() as i64))
}
