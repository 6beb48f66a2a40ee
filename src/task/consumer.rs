//! One consumer of a group: how it reads new entries, and which of them it keeps.

use super::delivery::Delivery;
use super::entry::Task;
use super::id::{EntryId, Priority};
use super::moves::Leased;
use super::store::{self, IfMissing, Read};
use super::sweep::Walk;
use super::ties::{self, Receiver};
use super::{Cx, groups};
use crate::error::Error;
use crate::server::call::CallReply;
use crate::server::resp::{Cursor, Element};
use crate::server::{Mode, OwnedStr, Str};
use crate::time::{Millis, UnixMs};

/// A consumer of a group.
#[derive(Clone, Copy)]
pub struct Consumer<'a> {
    /// The server.
    pub cx: Cx<'a>,
    /// The queue.
    pub queue: Str<'a>,
    /// The group.
    pub group: Str<'a>,
    /// Its name.
    pub name: Str<'a>,
    /// The client to which its leases are tied, if they are.
    pub client: Option<u64>,
    /// What to do when the group is missing.
    pub if_missing: IfMissing,
}

/// The entries of a batch that are delivered.
pub enum Kept {
    /// All of them: this many.
    All(usize),
    /// Only these; the number of others was skipped.
    Some(Vec<Delivery>, usize),
}

impl<'a> Consumer<'a> {
    /// The walk through the leases of the group.
    pub fn walk(&self, lease: Option<Millis>) -> Walk<'a> {
        Walk { cx: self.cx, queue: self.queue, group: self.group, lease }
    }

    /// Reads new entries of the stream of a priority.
    pub fn read(
        &self,
        priority: Priority,
        count: Str<'_>,
        mode: Mode,
    ) -> Result<Option<CallReply<'a>>, Error> {
        let Self { cx, queue, group, name, if_missing, .. } = *self;
        let stream = store::stream_of(cx.server, queue, priority)?;
        let read = Read { queue, stream: stream.borrow(), group, consumer: name, count };
        store::read(cx, &read, if_missing, mode)
    }

    /// Keeps the entries of a batch that the consumer gets. Copies for another group are finished for
    /// this one, tasks that have expired become dead letters, and entries whose id belongs to another
    /// stream are added again with a correct id.
    pub fn keep(&self, priority: Priority, found: &CallReply<'_>, now: UnixMs) -> Kept {
        let Some(entries) = store::entries(found) else { return Kept::All(0) };
        let mut cursor = entries.cursor();
        let all = cursor.array().unwrap_or(0);
        let (mut few, mut many) = ([EntryId::LAST; FEW], Vec::new());
        let ids = few.get_mut(..all).unwrap_or_else(|| {
            many.resize(all, EntryId::LAST);
            &mut many
        });
        if read_plain(priority, cursor, ids).is_some() {
            self.begin(priority, ids, now);
            return Kept::All(all);
        }
        self.select(priority, entries, now)
    }

    /// As [`Consumer::keep`], for a batch in which some entries may be special.
    fn select(&self, priority: Priority, entries: Element<'_>, now: UnixMs) -> Kept {
        let all = entries.len();
        let (mut ids, mut kept) = (Vec::with_capacity(all), Vec::new());
        let (mut misplaced, mut of_others, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_group = None;
        for entry in entries.elements() {
            let id = entry.at(0).and_then(|id| EntryId::parse(id.bytes()));
            let id = id.unwrap_or(EntryId::LAST);
            let task = special_task(entry);
            if task.as_ref().is_some_and(|task| !self.is_for_us(task, &mut last_group)) {
                of_others.push((id, text_of(entry)));
            } else if let Some(task) = task.filter(|task| task.has_expired(now)) {
                expired.push((id, text_of(entry), task));
            } else if is_misplaced(priority, id) {
                misplaced.push((id, entry));
            } else {
                ids.push(id);
                kept.push(entry);
            }
        }
        self.begin(priority, &ids, now);
        let skipped = all - kept.len();
        if skipped == 0 {
            return Kept::All(all);
        }
        let tasks = kept.into_iter().map(Delivery::first).collect();
        // What is refused stays leased, and is tried again when the lease expires.
        for (id, entry) in misplaced {
            let text = text_of(entry);
            let task = Task::of(entry.at(1).into_iter().flat_map(Element::pairs));
            let _ = self.leased(priority, (id, text.borrow())).reinsert(self.cx, task);
        }
        for (id, text, task) in expired {
            let leased = self.leased(priority, (id, text.borrow()));
            let _ = leased.expire(self.cx, self.name, task);
        }
        if !of_others.is_empty() {
            let ids: Vec<_> = of_others.iter().map(|(id, text)| (*id, text.borrow())).collect();
            let _ = store::finish(self.cx, self.queue, priority, self.group, &ids);
        }
        Kept::Some(tasks, skipped)
    }

    /// The leases of entries begin that are delivered for the first time.
    fn begin(&self, priority: Priority, ids: &[EntryId], now: UnixMs) {
        let Cx { server, family } = self.cx;
        let (queue, group) = (self.queue.bytes(), self.group.bytes());
        family.queues.leased(server.db(), queue, group, priority, ids, now);
        if self.client.is_some() || !family.queue.ties.is_empty() {
            self.tie(priority, ids, 1, now);
        }
    }

    /// Ties deliveries to the client of the consumer, if that is wanted.
    pub fn tie(&self, priority: Priority, ids: &[EntryId], deliveries: i64, now: UnixMs) {
        let Self { cx, queue, group, name, client, .. } = *self;
        ties::delivered(
            cx,
            Receiver { queue, group, name, client },
            priority,
            ids,
            deliveries,
            now,
        );
    }

    /// An entry that is pending in the group.
    pub fn leased<'x>(&'x self, priority: Priority, id: (EntryId, Str<'x>)) -> Leased<'x> {
        Leased { queue: self.queue, priority, group: self.group, id }
    }

    /// Whether the group gets a task. A copy for a group that no longer exists is for every group.
    /// `last` caches the answer for the group that was asked about last.
    fn is_for_us(&self, task: &Task<'_>, last: &mut Option<(OwnedStr, bool)>) -> bool {
        let Some(group) = task.group else { return true };
        if group == self.group.bytes() {
            return true;
        }
        if let Some((_, gone)) = last.as_ref().filter(|(name, _)| name.borrow().bytes() == group) {
            return *gone;
        }
        let name = OwnedStr::new(group);
        let exists = groups::exists(self.cx, self.queue, name.borrow()).unwrap_or(true);
        *last = Some((name, !exists));
        !exists
    }
}

/// The largest batch whose ids need no allocation.
const FEW: usize = 16;

/// How many fields and values an entry added by a plain PUBLISH has.
const PUBLISHED: usize = 6;

/// Reads the ids of the entries of a batch. `None` if some entry may not be deliverable to every
/// consumer.
fn read_plain(priority: Priority, mut cursor: Cursor<'_>, ids: &mut [EntryId]) -> Option<()> {
    let mut before = 0;
    for place in ids {
        // The fields of the last entry need not be read.
        cursor.skip(before)?;
        cursor.array()?;
        let id = EntryId::parse(cursor.string()?)?;
        before = cursor.array().filter(|fields| *fields <= PUBLISHED)?;
        if is_misplaced(priority, id) {
            return None;
        }
        *place = id;
    }
    Some(())
}

/// The task in an entry; `None` if it cannot be for one group only, nor expire, because it has no more
/// fields than a plain PUBLISH adds.
fn special_task(entry: Element<'_>) -> Option<Task<'_>> {
    let fields = entry.at(1).filter(|fields| fields.len() > PUBLISHED)?;
    Some(Task::of(fields.pairs()))
}

/// The id of an entry.
fn text_of(entry: Element<'_>) -> OwnedStr {
    OwnedStr::new(entry.at(0).map_or(&[], Element::bytes))
}

/// Whether an id belongs to another stream than the one in which its entry is. Other clients may add
/// any id to the queue's own stream.
pub fn is_misplaced(priority: Priority, id: EntryId) -> bool {
    priority > Priority::LOWEST && id.priority() != Some(priority)
}
