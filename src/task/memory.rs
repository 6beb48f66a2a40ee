//! What this process remembers of queues that are consumed here, so that a queue without delayed,
//! prioritised or expired tasks pays almost nothing for them.
//!
//! All of it can be found again in the data, and is when it has been forgotten. The commands here
//! keep it up to date; what other clients write is seen by its events, and what raises none, such as
//! a plain XCLAIM, by the sweep.

use super::id::{EntryId, Priority};
use super::leases::{Leases, Sweep};
use super::policy::Policy;
use super::{line, store};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::{self, Prefix};
use crate::server::events::{KeyEvent, are_told, subscribe};
use crate::server::{MainThread, Mode, Server, Str, Type, words};
use crate::time::UnixMs;
use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeMap, HashMap};

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
    /// When the first delayed task is due, or before.
    pub due: Option<UnixMs>,
    /// By name.
    groups: Vec<(Box<[u8]>, Group)>,
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
    pub tidy_due: UnixMs,
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
                tidy_due: UnixMs(0),
            };
            self.groups.insert(index, (name.into(), group));
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
    fn outlook(&self, group: &[u8], now: UnixMs) -> Outlook {
        let quiet = self.policy.as_ref().is_some_and(|policy| {
            !policy.is_paused()
                && self.due.is_none_or(|due| due > now)
                && self.known_group(group).is_some_and(|group| {
                    group.unread == Priorities::default() && group.next_look(policy) > now
                })
        });
        if quiet { Outlook::Plain } else { Outlook::Mixed }
    }

    /// When there is something to do for those who wait in these groups.
    fn next_look(&self, groups: &[Box<[u8]>]) -> Option<UnixMs> {
        let Some(policy) = &self.policy else { return Some(UnixMs(0)) };
        if policy.is_paused() {
            return None;
        }
        let groups = groups.iter().map(|name| match self.known_group(name) {
            Some(group) => group.next_look(policy),
            None => UnixMs(0),
        });
        groups.chain(self.due).min()
    }
}

impl Group {
    /// What is known of the leases in one stream.
    pub fn leases(&mut self, priority: Priority) -> Option<&mut Leases> {
        let here = |(known, _): &(Priority, Leases)| *known == priority;
        let index = self.leases.iter().position(here).unwrap_or_else(|| {
            self.leases.push((priority, Leases::default()));
            self.leases.len() - 1
        });
        self.leases.get_mut(index).map(|(_, leases)| leases)
    }

    /// The oldest lease of all streams.
    pub fn oldest(&self) -> Option<(UnixMs, EntryId, Priority)> {
        let oldest = |(priority, leases): &(Priority, Leases)| {
            leases.oldest().map(|(since, id)| (since, id, *priority))
        };
        self.leases.iter().filter_map(oldest).min()
    }

    /// When the first lease ends, or the next page of the sweep is due.
    fn next_look(&self, policy: &Policy) -> UnixMs {
        let lease = policy.lease();
        let end = lease.and_then(|lease| {
            let (since, ..) = self.oldest()?;
            Some(UnixMs(since.0.saturating_add(lease.0)))
        });
        let page = self.sweep.due(lease);
        end.map_or(page, |end| end.min(page))
    }
}

/// By database, of which few are used, and name.
type Queues = BTreeMap<i32, HashMap<Box<[u8]>, Known>>;

static QUEUES: MainThread<LazyCell<RefCell<Queues>>> =
    MainThread::new(LazyCell::new(RefCell::default));

/// How many queues of a database are remembered. Of one that is forgotten for another, the leases
/// are found again by the sweep.
const REMEMBERED: usize = 65_536;

/// Looks at, or changes, what is known of a queue; `None` if nothing is. No inner command may run
/// meanwhile.
pub fn with<R>(db: i32, stream: &[u8], look: impl FnOnce(&mut Known) -> R) -> Option<R> {
    QUEUES.get().borrow_mut().get_mut(&db)?.get_mut(stream).map(look)
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
pub fn outlook(db: i32, stream: &[u8], group: &[u8], now: UnixMs) -> Outlook {
    let outlook = with(db, stream, |known| known.outlook(group, now));
    outlook.unwrap_or(Outlook::Mixed)
}

/// Learns what there is to know of a queue and a group, unless it is known, and tells the policy.
pub fn learn(server: &Server, stream: Str<'_>, group: &[u8]) -> Result<Policy, Error> {
    let (db, name) = (server.db(), stream.bytes());
    // A group is remembered only where it can be.
    store::expect_stream(server, stream)?;
    let known = with(db, name, |known| {
        known.group(group);
        (known.policy, known.found)
    });
    if let Some((Some(policy), true)) = known {
        return Ok(policy);
    }
    subscribe(server, line::EVENTS);
    let policy = Policy::of(server, stream)?;
    let (streams, due) = find(server, stream)?;
    remember(db, name, |known| {
        known.policy = Some(policy);
        (known.found, known.streams, known.due) = (true, streams, due);
        known.groups.iter_mut().for_each(|(_, group)| group.unread.insert_all(streams));
        known.group(group);
    });
    Ok(policy)
}

/// Remembers the policy of a queue, if the events that change it are told.
pub fn learn_policy(server: &Server, stream: Str<'_>, policy: Policy) {
    if are_told(line::EVENTS) {
        remember(server.db(), stream.bytes(), |known| known.policy = Some(policy));
    }
}

fn remember(db: i32, stream: &[u8], change: impl FnOnce(&mut Known)) {
    let mut queues = QUEUES.get().borrow_mut();
    let queues = queues.entry(db).or_default();
    if queues.len() >= REMEMBERED
        && !queues.contains_key(stream)
        && let Some(other) = queues.keys().next().cloned()
    {
        queues.remove(&other);
    }
    change(queues.entry(stream.into()).or_default());
}

/// Which priorities above 0 may have tasks, and whether there may be delayed ones; all and yes, if
/// nothing is known.
pub fn places(db: i32, stream: &[u8]) -> (Priorities, bool) {
    let known =
        with(db, stream, |known| known.found.then_some((known.streams, known.due.is_some())));
    known.flatten().unwrap_or((Priorities::ALL, true))
}

/// Which priorities have streams, and when the first delayed task is due.
fn find(server: &Server, stream: Str<'_>) -> Result<(Priorities, Option<UnixMs>), Error> {
    let mut streams = Priorities::default();
    for priority in Priority::ALL.into_iter().filter(|priority| *priority > Priority::LOWEST) {
        let key = server.key_of(Prefix::Priority(priority), stream)?;
        if server.type_of(key.borrow()) != Type::Absent {
            streams.insert(priority);
        }
    }
    let key = server.key_of(Prefix::Delayed, stream)?;
    Ok((streams, first_due(server, key.borrow())?))
}

/// When the first of the delayed tasks is due.
pub fn first_due(server: &Server, delayed: Str<'_>) -> Result<Option<UnixMs>, Error> {
    if server.type_of(delayed) == Type::Absent {
        return Ok(None);
    }
    let w = words();
    let args = [delayed, w.zero(), w.zero(), w.with_scores()];
    let first = server.call(c"ZRANGE", Mode::Read, &args)?;
    let score = first.root().at(1).map(|score| score.bytes());
    let score = score.and_then(|score| std::str::from_utf8(score).ok()?.parse::<f64>().ok());
    // What is out of range becomes the nearest that is in it.
    Ok(score.map(|score| UnixMs(score as i64)))
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

/// A task that is due then was added.
pub fn delayed(db: i32, stream: &[u8], due: UnixMs) {
    with(db, stream, |known| {
        known.due = Some(known.due.map_or(due, |known| known.min(due)));
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
    with_group(db, stream, group, |group| {
        if let Some(leases) = group.leases(priority) {
            ids.for_each(|id| leases.end(id));
        }
    });
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
        let group = known.known_group_mut(group).filter(|_| ends);
        if let Some(leases) = group.and_then(|group| group.leases(priority)) {
            ids.for_each(|id| leases.begin(id, now));
        }
    });
}

/// When there is something to do for those who wait in these groups: now, if nothing is known.
pub fn next_look(db: i32, stream: &[u8], groups: &[Box<[u8]>]) -> Option<UnixMs> {
    with(db, stream, |known| known.next_look(groups)).unwrap_or(Some(UnixMs(0)))
}

/// Another client has changed a key. The name of the queue to which it belongs, if it is none
/// itself.
pub fn key_changed<'k>(db: i32, event: &KeyEvent<'k>) -> Option<&'k [u8]> {
    if (!event.stream || event.name == b"xgroup-destroy")
        && let Some(queues) = QUEUES.get().borrow_mut().get_mut(&db)
    {
        queues.remove(event.key);
    }
    if let Some(name) = keys::name_of(Prefix::Delayed, event.key) {
        // Whoever looks next sees when the first is due.
        delayed(db, name, UnixMs(0));
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
    Some(name)
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    let mut queues = QUEUES.get().borrow_mut();
    queues.retain(|db, _| !dbs.is_empty() && !dbs.contains(db));
}

/// The module is unloaded.
pub fn forget() {
    QUEUES.get().take();
}
