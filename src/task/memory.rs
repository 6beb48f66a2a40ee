//! What this process remembers of queues that are consumed here, so that a queue without delayed,
//! prioritised or expired tasks pays almost nothing for them.
//!
//! All of it can be found again in the data, and is when it has been forgotten. The commands here
//! keep it up to date; what other clients write is seen by its events, and what raises none, such as
//! a plain XCLAIM, by the sweep.

use super::id::{EntryId, Priority};
use super::leases::{Leases, RELEASED, Sweep};
use super::policy::Policy;
use super::store::{self, IfMissing};
use super::table::{Table, Weight};
use super::{groups, line};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::{self, Prefix};
use crate::server::events::{KeyEvent, are_told, subscribe};
use crate::server::{MainThread, Mode, Server, Str, Type, words};
use crate::time::{Moment, UnixMs};
use std::cell::{Cell, RefCell};

/// A set of priorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priorities(u16);

impl Priorities {
    /// All of them.
    pub const ALL: Self = Self(0x3ff);

    /// Adds one.
    pub fn insert(&mut self, priority: Priority) {
        self.0 |= 1 << priority.number();
    }

    fn insert_all(&mut self, others: Self) {
        self.0 |= others.0;
    }

    fn remove(&mut self, priority: Priority) {
        self.0 &= !(1 << priority.number());
    }

    /// Whether it is there.
    pub fn contains(self, priority: Priority) -> bool {
        self.0 & (1 << priority.number()) != 0
    }
}

/// What is known of a queue.
#[derive(Default)]
pub struct Known {
    policy: Option<Policy>,
    /// Whether what follows has been looked for.
    found: bool,
    /// Which priorities above 0 may have a stream.
    pub streams: Priorities,
    /// What is known of the delayed tasks.
    pub delayed: Delayed,
    /// By name.
    groups: Vec<(Box<[u8]>, Group)>,
    /// How many bytes the groups take.
    bytes: usize,
}

impl Weight for Known {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What is known of the delayed tasks of a queue.
#[derive(Clone, Default)]
pub struct Delayed {
    /// When the first one is due that was not refused, or before.
    pub due: Option<UnixMs>,
    /// Whether one may have a priority above 0.
    pub above_zero: bool,
    /// How many of them, behind those that were refused, are known to have none.
    pub looked_at: usize,
    /// Those that are due and that their streams have refused.
    pub refused: Option<Refused>,
}

/// Due tasks that stay where they are.
#[derive(Clone)]
pub struct Refused {
    /// How many there are before all others; some may be among those.
    pub number: usize,
    /// Why.
    pub error: Error,
    /// When they are tried again; what cures them mostly raises an event.
    pub again: Moment,
}

impl Delayed {
    /// Whether there may be one.
    fn may_be(&self) -> bool {
        self.due.is_some() || self.refused.is_some()
    }

    /// Whether one is to be let in.
    pub fn is_due(&self, now: UnixMs, moment: Moment) -> bool {
        self.due.is_some_and(|due| due <= now)
            || self.refused.as_ref().is_some_and(|refused| refused.again <= moment)
    }
}

/// What is known of a consumer group.
pub struct Group {
    /// Which priorities above 0 may hold something that the group has not read.
    pub unread: Priorities,
    /// Whether the group is known to be in the queue's own stream.
    pub ensured: bool,
    /// The leases in each stream that has had some.
    leases: Vec<(Priority, Leases)>,
    /// The walk through what is leased.
    pub sweep: Sweep,
    /// What the walk has seen last.
    pub seen: Option<(Priority, Option<EntryId>)>,
    /// When consumers that are gone are looked for next.
    pub tidy_due: Moment,
    /// When what other clients have given back is looked for next; never, where they cannot.
    pub release_due: Option<Moment>,
    /// How many consumers it has in the stream that has most, if that was asked; more than can be, if
    /// there are too many groups.
    pub consumers: Option<i64>,
}

/// How many leases are remembered in all. Beyond that the sweep finds them.
const MOST_LEASES: usize = 1 << 22;

/// How many leases are remembered.
static LEASES: MainThread<Cell<usize>> = MainThread::new(Cell::new(0));

impl Drop for Group {
    fn drop(&mut self) {
        let mine: usize = self.leases.iter().map(|(_, leases)| leases.len()).sum();
        LEASES.get().set(LEASES.get().get().saturating_sub(mine));
    }
}

/// What a consumer can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// New entries of the queue's own stream, and nothing else.
    Plain,
    /// Anything.
    Mixed,
}

impl Known {
    /// The group, as if it had just been met if it has.
    fn group(&mut self, name: &[u8]) -> Option<&mut Group> {
        let index = self.place(name).unwrap_or_else(|index| {
            let group = Group {
                unread: self.streams,
                ensured: false,
                leases: Vec::new(),
                sweep: Sweep::first(),
                seen: None,
                tidy_due: Moment::default(),
                release_due: store::others_may_release().then_some(Moment::default()),
                consumers: None,
            };
            self.groups.insert(index, (name.into(), group));
            self.bytes += size_of::<(Box<[u8]>, Group)>() + name.len();
            index
        });
        self.groups.get_mut(index).map(|(_, group)| group)
    }

    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.groups.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    fn known_group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(self.place(name).ok()?).map(|(_, group)| group)
    }

    fn known_group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        let index = self.place(name).ok()?;
        self.groups.get_mut(index).map(|(_, group)| group)
    }

    /// A task of this priority was added.
    fn added(&mut self, priority: Priority) {
        if priority > Priority::LOWEST {
            self.streams.insert(priority);
            self.groups.iter_mut().for_each(|(_, group)| group.unread.insert(priority));
        }
    }

    /// What a consumer of the group can expect now.
    fn outlook(&self, group: &[u8], now: UnixMs, moment: Moment) -> Outlook {
        let quiet = self.policy.as_ref().is_some_and(|policy| {
            !policy.is_paused()
                && !self.delayed.is_due(now, moment)
                && self.delayed.refused.is_none()
                && self.known_group(group).is_some_and(|group| {
                    group.unread == Priorities::default()
                        && group.first_end(policy).is_none_or(|end| end > now)
                        && group.next_look(policy) > moment
                })
        });
        if quiet { Outlook::Plain } else { Outlook::Mixed }
    }

    /// When there is something to do for those who wait in these groups.
    fn next_look(&self, groups: &[Box<[u8]>]) -> NextLook {
        let Some(policy) = &self.policy else { return NextLook::AT_ONCE };
        if policy.is_paused() {
            return NextLook::default();
        }
        let refused = self.delayed.refused.as_ref().map(|refused| refused.again);
        let mut look = NextLook { at: self.delayed.due, by_moment: refused };
        for name in groups {
            let Some(group) = self.known_group(name) else { return NextLook::AT_ONCE };
            look.at = [look.at, group.first_end(policy)].into_iter().flatten().min();
            let look_at = group.next_look(policy);
            look.by_moment = Some(look.by_moment.map_or(look_at, |other| other.min(look_at)));
        }
        look
    }
}

/// When there is something to do: by the server's clock, and by the monotonic one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextLook {
    /// When a task is due, or a lease ends.
    pub at: Option<UnixMs>,
    /// When a page is read, or something is tried again.
    pub by_moment: Option<Moment>,
}

impl NextLook {
    const AT_ONCE: Self = Self { at: Some(UnixMs(0)), by_moment: None };
}

impl Group {
    fn leases(&mut self, priority: Priority) -> Option<&mut Leases> {
        let here = |(known, _): &(Priority, Leases)| *known == priority;
        let index = self.leases.iter().position(here).unwrap_or_else(|| {
            self.leases.push((priority, Leases::default()));
            self.leases.len() - 1
        });
        self.leases.get_mut(index).map(|(_, leases)| leases)
    }

    /// Leases begin, or begin again.
    pub fn begin(&mut self, priority: Priority, ids: impl Iterator<Item = EntryId>, since: UnixMs) {
        let all = LEASES.get();
        let Some(leases) = self.leases(priority) else { return };
        for id in ids {
            let before = leases.len();
            if all.get() < MOST_LEASES || leases.knows(id) {
                leases.begin(id, since);
            }
            all.set(all.get().saturating_sub(before).saturating_add(leases.len()));
        }
    }

    /// Leases have ended.
    pub fn end(&mut self, priority: Priority, ids: impl Iterator<Item = EntryId>) {
        let all = LEASES.get();
        let Some(leases) = self.leases(priority) else { return };
        let before = leases.len();
        ids.for_each(|id| leases.end(id));
        all.set(all.get().saturating_sub(before).saturating_add(leases.len()));
    }

    /// Whether a lease is known.
    pub fn knows(&mut self, priority: Priority, id: EntryId) -> bool {
        self.leases(priority).is_some_and(|leases| leases.knows(id))
    }

    /// The oldest lease of all streams.
    pub fn oldest(&self) -> Option<(UnixMs, EntryId, Priority)> {
        let oldest = |(priority, leases): &(Priority, Leases)| {
            leases.oldest().map(|(since, id)| (since, id, *priority))
        };
        self.leases.iter().filter_map(oldest).min()
    }

    /// When the first lease ends.
    fn first_end(&self, policy: &Policy) -> Option<UnixMs> {
        let (since, ..) = self.oldest()?;
        if since == RELEASED {
            return Some(since);
        }
        policy.lease().map(|lease| UnixMs(since.0.saturating_add(lease.0)))
    }

    /// When the next page of the sweep is due, or what was given back is looked for.
    fn next_look(&self, policy: &Policy) -> Moment {
        let page = self.sweep.due(policy.lease());
        self.release_due.map_or(page, |due| due.min(page))
    }
}

/// How many bytes the names of queues and groups, and what is known of them, may take. Of a queue
/// that is forgotten for another one, the leases are found again by the sweep.
const REMEMBERED: usize = 32 << 20;

static QUEUES: MainThread<RefCell<Table<Known>>> =
    MainThread::new(RefCell::new(Table::new(REMEMBERED)));

/// Looks at, or changes, what is known of a queue; `None` if nothing is. No inner command may run
/// meanwhile.
pub fn with<R>(db: i32, stream: &[u8], look: impl FnOnce(&mut Known) -> R) -> Option<R> {
    QUEUES.get().borrow_mut().change(db, stream, look)
}

/// As [`with`], for one group.
pub fn with_group<R>(
    db: i32,
    stream: &[u8],
    group: &[u8],
    look: impl FnOnce(&mut Group) -> R,
) -> Option<R> {
    with(db, stream, |known| known.known_group_mut(group).map(look)).flatten()
}

/// What a consumer can expect now. Whoever gets [`Outlook::Mixed`] learns first.
pub fn outlook(db: i32, stream: &[u8], group: &[u8], now: UnixMs, moment: Moment) -> Outlook {
    let outlook = with(db, stream, |known| known.outlook(group, now, moment));
    outlook.unwrap_or(Outlook::Mixed)
}

/// What there is to know of a queue and one of its groups.
pub struct Learned {
    /// The policy.
    pub policy: Policy,
    /// Whether the queue's own stream is known to have the group, or the group waits for it.
    pub met: bool,
}

/// Learns what there is to know of a queue and a group, unless it is known. Remembered are groups
/// that are there, and those in which somebody waits.
pub fn learn(
    server: &Server,
    stream: Str<'_>,
    group: Str<'_>,
    if_missing: IfMissing,
) -> Result<Learned, Error> {
    let (db, name) = (server.db(), stream.bytes());
    store::expect_stream(server, stream)?;
    let known = with(db, name, |known| {
        let met = known.known_group(group.bytes()).is_some();
        known.policy.filter(|_| known.found && met)
    });
    if let Some(policy) = known.flatten() {
        return Ok(Learned { policy, met: true });
    }
    subscribe(server, line::EVENTS);
    store::find_out(server);
    let policy = Policy::of(server, stream)?;
    let exists = groups::exists(server, stream, group)?;
    if !exists && if_missing == IfMissing::CreateAll {
        return Ok(Learned { policy, met: false });
    }
    let (streams, due) = find(server, stream)?;
    remember(db, name, |known| {
        known.policy = Some(policy);
        if !known.found {
            known.found = true;
            known.delayed = Delayed { due, above_zero: due.is_some(), ..Delayed::default() };
        }
        known.streams.insert_all(streams);
        known.groups.iter_mut().for_each(|(_, group)| group.unread.insert_all(streams));
        if let Some(group) = known.group(group.bytes()) {
            group.ensured |= exists;
        }
    });
    Ok(Learned { policy, met: true })
}

/// Remembers the policy of a queue that is there, if the events that change it are told.
pub fn learn_policy(server: &Server, stream: Str<'_>, policy: Policy) {
    let (db, name) = (server.db(), stream.bytes());
    if with(db, name, |known| known.policy = Some(policy)).is_none()
        && are_told(line::EVENTS)
        && server.type_of(stream) == Type::Stream
    {
        remember(db, name, |known| known.policy = Some(policy));
    }
}

fn remember(db: i32, stream: &[u8], change: impl FnOnce(&mut Known)) {
    let mut queues = QUEUES.get().borrow_mut();
    if queues.get(db, stream).is_none() {
        queues.put(db, stream, Known::default());
    }
    queues.change(db, stream, change);
}

/// Which priorities above 0 may have tasks, and whether there may be delayed ones; all and yes, if
/// nothing is known.
pub fn places(db: i32, stream: &[u8]) -> (Priorities, bool) {
    let known =
        with(db, stream, |known| known.found.then_some((known.streams, known.delayed.may_be())));
    known.flatten().unwrap_or((Priorities::ALL, true))
}

/// Which priorities have streams, and when the first delayed task is due. What is no sorted set in
/// the place of the delayed tasks is met when they are let in.
fn find(server: &Server, stream: Str<'_>) -> Result<(Priorities, Option<UnixMs>), Error> {
    let mut streams = Priorities::default();
    for priority in Priority::ALL.into_iter().filter(|priority| *priority > Priority::LOWEST) {
        let key = server.key_of(Prefix::Priority(priority), stream)?;
        if server.type_of(key.borrow()) != Type::Absent {
            streams.insert(priority);
        }
    }
    let key = server.key_of(Prefix::Delayed, stream)?;
    let due = match server.type_of(key.borrow()) {
        Type::Absent => None,
        Type::SortedSet => first_due(server, key.borrow())?,
        _ => Some(UnixMs(0)),
    };
    Ok((streams, due))
}

/// When the first of the delayed tasks is due.
pub fn first_due(server: &Server, delayed: Str<'_>) -> Result<Option<UnixMs>, Error> {
    if server.type_of(delayed) == Type::Absent {
        return Ok(None);
    }
    let w = words();
    let args = [delayed, w.zero(), w.zero(), w.with_scores()];
    let first = server.call(c"ZRANGE", Mode::Read, &args)?;
    Ok(first.root().at(1).and_then(|score| due_of(score.bytes())))
}

/// The time that a score stands for; what is out of range becomes the nearest that is in it.
pub fn due_of(score: &[u8]) -> Option<UnixMs> {
    let score = std::str::from_utf8(score).ok()?.parse::<f64>().ok()?;
    Some(UnixMs(score.ceil() as i64))
}

/// The policy of a queue, if it is known.
pub fn policy(server: &Server, stream: Str<'_>) -> Option<Policy> {
    with(server.db(), stream.bytes(), |known| known.policy).flatten()
}

/// The policy has changed.
pub fn policy_changed(db: i32, stream: &[u8]) {
    with(db, stream, |known| {
        known.policy = None;
        // Without a lease nothing was looked for.
        known.groups.iter_mut().for_each(|(_, group)| {
            group.sweep = Sweep::first();
            group.seen = None;
        });
    });
}

/// A task of this priority was added.
pub fn added(db: i32, stream: &[u8], priority: Priority) {
    if priority > Priority::LOWEST {
        with(db, stream, |known| known.added(priority));
    }
}

/// A task of this priority that is due then was added.
pub fn delayed(db: i32, stream: &[u8], priority: Priority, due: UnixMs) {
    with(db, stream, |known| {
        let delayed = &mut known.delayed;
        delayed.due = Some(delayed.due.map_or(due, |known| known.min(due)));
        if priority > Priority::LOWEST {
            (delayed.above_zero, delayed.looked_at) = (true, 0);
        }
    });
}

/// The delayed tasks are not what they were, or may enter where they could not before.
pub fn delayed_changed(db: i32, stream: &[u8]) {
    with(db, stream, |known| {
        // The next look finds when the first is due.
        let due = Some(UnixMs(0));
        known.delayed = Delayed { due, above_zero: true, ..Delayed::default() };
    });
}

/// Due tasks that were refused are tried again at the next look.
pub fn try_refused_again(db: i32, stream: &[u8]) {
    with(db, stream, |known| {
        known.delayed.looked_at = 0;
        if let Some(refused) = &mut known.delayed.refused {
            refused.again = Moment::default();
        }
    });
}

/// The group has read all that the stream of this priority holds.
pub fn drained(db: i32, stream: &[u8], group: &[u8], priority: Priority) {
    with_group(db, stream, group, |group| group.unread.remove(priority));
}

/// Leases have ended.
pub fn ended(
    db: i32,
    stream: &[u8],
    group: &[u8],
    priority: Priority,
    ids: impl Iterator<Item = EntryId>,
) {
    with_group(db, stream, group, |group| group.end(priority, ids));
}

/// Leases have begun, or begun again.
pub fn begun(
    db: i32,
    stream: &[u8],
    group: &[u8],
    priority: Priority,
    ids: impl Iterator<Item = EntryId>,
    now: UnixMs,
) {
    with(db, stream, |known| {
        // Without a lease nothing ends; if that changes, the sweep finds them.
        let ends = known.policy.is_none_or(|policy| policy.lease().is_some());
        let Some(group) = known.known_group_mut(group) else { return };
        if ends { group.begin(priority, ids, now) } else { group.end(priority, ids) }
    });
}

/// When there is something to do for those who wait in these groups, if the queue is known.
pub fn next_look(db: i32, stream: &[u8], groups: &[Box<[u8]>]) -> Option<NextLook> {
    with(db, stream, |known| known.next_look(groups))
}

/// Another client has changed a key. The name of the queue to which it belongs, if it is none
/// itself.
pub fn key_changed<'k>(db: i32, event: &KeyEvent<'k>) -> Option<&'k [u8]> {
    if !event.stream || event.name == b"xgroup-destroy" {
        QUEUES.get().borrow_mut().remove(db, event.key);
    }
    if let Some(name) = keys::name_of(Prefix::Delayed, event.key) {
        delayed_changed(db, name);
        return Some(name);
    }
    if let Some(name) = keys::name_of(Prefix::Policy, event.key) {
        policy_changed(db, name);
        return Some(name);
    }
    // What is in its place can keep tasks from dying, and with it others from being handed out.
    keys::name_of(Prefix::Dead, event.key).or_else(|| stream_changed(db, event.key))
}

/// A stream has changed. The name of the queue of which it is a priority, if it is.
pub fn stream_changed(db: i32, stream: &[u8]) -> Option<&[u8]> {
    let digit = stream.strip_prefix(b"priority")?.first()?;
    let priority = Priority::new(digit.checked_sub(b'0')?.into())?;
    let name = keys::name_of(Prefix::Priority(priority), stream)?;
    added(db, name, priority);
    // What was refused may enter now.
    try_refused_again(db, name);
    Some(name)
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    QUEUES.get().borrow_mut().forget(dbs);
}
