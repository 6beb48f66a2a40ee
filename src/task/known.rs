//! What is known of one queue: a record that keeps a queue without delayed, prioritized or expired
//! tasks almost free of their cost. Beside it, what is known of a single stream. Nothing here knows a
//! server.

use super::following::Following;
use super::id::{EntryId, Priority};
use super::leases::{Leases, RELEASED, Sweep};
use super::policy::Policy;
use super::table::Weight;
use crate::error::Error;
use crate::time::{Millis, Moment, UnixMs};
use std::cell::Cell;
use std::rc::Rc;

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

    /// Adds all of another set.
    pub fn insert_all(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Removes one.
    pub fn remove(&mut self, priority: Priority) {
        self.0 &= !(1 << priority.number());
    }

    /// Whether the set contains a priority.
    pub fn contains(self, priority: Priority) -> bool {
        self.0 & (1 << priority.number()) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The consumer groups of a stream.
#[derive(Clone)]
pub enum Groups {
    /// Exactly one, of this name.
    One(Rc<[u8]>),
    /// None, or this number of them.
    Number(i64),
}

/// What is known of the delayed tasks of a queue.
#[derive(Clone, Default)]
pub struct Delayed {
    /// When the first task that was not refused is due, or an earlier time.
    pub due: Option<UnixMs>,
    /// Whether one may have a priority above 0.
    pub above_zero: bool,
    /// How many of them, after the refused ones, are known to have priority 0.
    pub looked_at: usize,
    /// Due tasks that their streams have refused, or that another version of the module has stored.
    pub refused: Option<Refused>,
}

/// Due tasks that stay where they are.
#[derive(Clone)]
pub struct Refused {
    /// How many tasks come before all that were not refused; refused ones are among them.
    pub number: usize,
    /// Why; `None` if all of them are of another version.
    pub error: Option<Error>,
    /// When they are tried again. Usually an event reports earlier that they may enter.
    pub again: Moment,
}

impl Delayed {
    /// Whether there may be a delayed task.
    pub fn may_exist(&self) -> bool {
        self.due.is_some() || self.refused.is_some()
    }

    /// Whether one may have to enter its stream.
    pub fn is_due(&self, now: UnixMs, moment: Moment) -> bool {
        self.due.is_some_and(|due| due <= now)
            || self.refused.as_ref().is_some_and(|refused| refused.again <= moment)
    }
}

/// A position in the walk through the leases of a group: a stream, and the last entry read there.
pub type Position = (Priority, Option<EntryId>);

/// What is known of a consumer group.
pub struct Group {
    /// The priorities above 0 that may hold entries which the group has not read.
    pub unread: Priorities,
    /// Whether the group is known to exist in the queue's own stream.
    pub ensured: bool,
    /// The leases of each stream that has had some.
    leases: Vec<(Priority, Leases)>,
    /// The walk through all leases.
    pub sweep: Sweep,
    /// Where that walk is, unless it has finished.
    pub position: Option<Position>,
    /// When idle consumers are looked for next.
    pub tidy_due: Moment,
    /// When released entries are looked for next, if other clients can release some.
    pub release_due: Option<Moment>,
    /// The number of consumers in the stream that has most, if it was asked for.
    pub consumers: Option<i64>,
    /// The number of leases of all groups.
    total: Rc<Cell<usize>>,
}

/// How many leases are remembered in all. The sweep finds the others.
const MOST_LEASES: usize = 1 << 22;

impl Drop for Group {
    fn drop(&mut self) {
        let mine: usize = self.leases.iter().map(|(_, leases)| leases.len()).sum();
        self.total.set(self.total.get().saturating_sub(mine));
    }
}

impl Group {
    fn new(unread: Priorities, others_may_release: bool, total: Rc<Cell<usize>>) -> Self {
        Self {
            unread,
            ensured: false,
            leases: Vec::new(),
            sweep: Sweep::first(),
            position: None,
            tidy_due: Moment::default(),
            release_due: others_may_release.then_some(Moment::default()),
            consumers: None,
            total,
        }
    }

    fn leases(&mut self, priority: Priority) -> Option<&mut Leases> {
        let here = |(known, _): &(Priority, Leases)| *known == priority;
        let index = self.leases.iter().position(here).unwrap_or_else(|| {
            self.leases.push((priority, Leases::default()));
            self.leases.len() - 1
        });
        self.leases.get_mut(index).map(|(_, leases)| leases)
    }

    /// Leases begin, or are renewed.
    pub fn begin(&mut self, priority: Priority, ids: &[EntryId], since: UnixMs) {
        let total = self.total.clone();
        let Some(leases) = self.leases(priority) else { return };
        for id in ids {
            let before = leases.len();
            if total.get() < MOST_LEASES || leases.knows(*id) {
                leases.begin(*id, since);
            }
            total.set(total.get().saturating_sub(before).saturating_add(leases.len()));
        }
    }

    /// Leases have ended.
    pub fn end(&mut self, priority: Priority, ids: impl IntoIterator<Item = EntryId>) {
        let total = self.total.clone();
        let Some(leases) = self.leases(priority) else { return };
        let before = leases.len();
        ids.into_iter().for_each(|id| leases.end(id));
        total.set(total.get().saturating_sub(before).saturating_add(leases.len()));
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

    /// Begins the walk through all leases again.
    pub fn restart_sweep(&mut self) {
        (self.sweep, self.position) = (Sweep::first(), None);
    }

    /// When the first lease ends.
    fn first_end(&self, lease: Option<Millis>) -> Option<UnixMs> {
        let oldest = self.leases.iter().filter_map(|(_, leases)| leases.oldest());
        let since = oldest.map(|(since, _)| since).min()?;
        if since == RELEASED {
            return Some(since);
        }
        lease.map(|lease| since + lease)
    }

    /// When the next page of the walk is due, or released entries are looked for.
    fn next_check(&self, lease: Option<Millis>) -> Moment {
        let page = self.sweep.due(lease);
        self.release_due.map_or(page, |due| due.min(page))
    }
}

/// When there is work for the consumers that wait: by the wall clock, and by the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextCheck {
    /// When a task is due, or a lease ends.
    pub at: Option<UnixMs>,
    /// When a page is read, or something is tried again.
    pub by_moment: Option<Moment>,
}

impl NextCheck {
    const AT_ONCE: Self = Self { at: Some(UnixMs(0)), by_moment: None };
}

/// What is known of a stream: of the queue's own, or of the stream of a priority.
#[derive(Default)]
pub struct Stream {
    /// Its groups. Events that can change them drop this.
    pub groups: Option<Groups>,
    /// The last id that this process has added. The server rejects the next one if this is out of date.
    pub last_id: Option<EntryId>,
}

impl Weight for Stream {
    fn bytes(&self) -> usize {
        match &self.groups {
            Some(Groups::One(name)) => name.len(),
            _ => 0,
        }
    }
}

/// What is known of a queue.
#[derive(Default)]
pub struct Known {
    /// The stored policy.
    pub policy: Option<Policy>,
    /// Whether the fields below have been looked up.
    pub found: bool,
    /// The priorities above 0 that may have a stream.
    pub streams: Priorities,
    /// What is known of the delayed tasks.
    pub delayed: Delayed,
    /// The keys that follow its tasks.
    pub following: Following,
    /// The groups that are served here, by name.
    groups: Vec<(Box<[u8]>, Group)>,
    /// How many bytes the groups take.
    bytes: usize,
}

impl Weight for Known {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Known {
    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.groups.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// A group that is served here.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(self.place(name).ok()?).map(|(_, group)| group)
    }

    /// A group that is served here.
    pub fn group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        let index = self.place(name).ok()?;
        self.groups.get_mut(index).map(|(_, group)| group)
    }

    /// All groups that are served here.
    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut().map(|(_, group)| group)
    }

    /// A group, which is served here from now on.
    pub fn add_group(
        &mut self,
        name: &[u8],
        others_may_release: bool,
        total: &Rc<Cell<usize>>,
    ) -> Option<&mut Group> {
        let index = self.place(name).unwrap_or_else(|index| {
            let group = Group::new(self.streams, others_may_release, total.clone());
            self.groups.insert(index, (name.into(), group));
            self.bytes += size_of::<(Box<[u8]>, Group)>() + name.len();
            index
        });
        self.groups.get_mut(index).map(|(_, group)| group)
    }

    /// A task of this priority was added.
    pub fn added(&mut self, priority: Priority) {
        if priority > Priority::LOWEST {
            self.streams.insert(priority);
            self.groups_mut().for_each(|group| group.unread.insert(priority));
        }
    }

    /// Whether the only thing that a consumer of the group can get now is new entries of the queue's
    /// own stream.
    pub fn is_plain(&self, group: &[u8], default_lease: i64, now: UnixMs, moment: Moment) -> bool {
        self.policy.as_ref().is_some_and(|policy| {
            let lease = policy.lease(default_lease);
            !policy.is_paused()
                && self.following.is_plain(lease, moment)
                && !self.delayed.is_due(now, moment)
                && self.delayed.refused.is_none()
                && self.group(group).is_some_and(|group| {
                    group.unread.is_empty()
                        && group.first_end(lease).is_none_or(|end| end > now)
                        && group.next_check(lease) > moment
                })
        })
    }

    /// When there is work for the consumers that wait in these groups.
    pub fn next_check(&self, groups: &[Box<[u8]>], default_lease: i64) -> NextCheck {
        let Some(policy) = &self.policy else { return NextCheck::AT_ONCE };
        if policy.is_paused() {
            return NextCheck::default();
        }
        if self.following.traces.is_none() {
            return NextCheck::AT_ONCE;
        }
        let lease = policy.lease(default_lease);
        let refused = self.delayed.refused.as_ref().map(|refused| refused.again);
        let page = self.following.next_page(lease);
        let by_moment = [refused, page].into_iter().flatten().min();
        let mut check = NextCheck { at: self.delayed.due, by_moment };
        for name in groups {
            let Some(group) = self.group(name) else { return NextCheck::AT_ONCE };
            check.at = [check.at, group.first_end(lease)].into_iter().flatten().min();
            let next = group.next_check(lease);
            check.by_moment = Some(check.by_moment.map_or(next, |other| other.min(next)));
        }
        check
    }
}
