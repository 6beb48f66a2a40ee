//! What this process remembers of the queues that it serves and of their streams, within bounds in
//! bytes.
//!
//! All of it can be rebuilt from the data, and is after it was forgotten. The commands keep it up to
//! date. Keyspace events report what other clients write, and the sweep finds what raises no event,
//! such as a plain XCLAIM. No borrow of a table leaves this folder.

mod leases;
mod traces;

use super::id::{EntryId, Priority};
use super::known::{Delayed, Group, Groups, Known, NextCheck, Priorities, Stream};
use super::policy::Policy;
use super::table::Table;
use super::{DEAD, DELAYED, HELD, MARKS, MOVED, POLICY};
use crate::interest::Interest;
use crate::names::{self, Prefix};
use crate::server::config::Setting;
use crate::server::events::KeyEvent;
use crate::time::{Moment, UnixMs};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How many bytes the records of queues may take, with their names. If a record is dropped to make
/// room, the sweep finds the leases of its queue again.
const QUEUE_BYTES: usize = 32 << 20;

/// How many bytes the records of streams may take, with their names. They have a bound of their own,
/// because every client that publishes with a priority adds one.
const STREAM_BYTES: usize = 6 << 20;

/// The records of all queues and streams, by database and name.
pub struct Queues {
    queues: RefCell<Table<Known>>,
    streams: RefCell<Table<Stream>>,
    /// The number of leases of all groups.
    leases: Rc<Cell<usize>>,
    /// The lease of a queue whose policy names none.
    default_lease: Setting,
}

/// What was looked up of a queue and one of its groups.
pub struct Facts {
    /// The stored policy.
    pub policy: Policy,
    /// The priorities above 0 that have a stream.
    pub streams: Priorities,
    /// When the first delayed task is due.
    pub due: Option<UnixMs>,
    /// Whether the queue's own stream has the group.
    pub has_group: bool,
    /// Whether other clients can return entries to the group.
    pub others_may_release: bool,
}

impl Queues {
    /// Empty tables. The names in them are noted in `interest`.
    pub fn new(default_lease: Setting, interest: &Rc<Interest>) -> Self {
        let queues = RefCell::new(Table::new(QUEUE_BYTES, interest));
        let streams = RefCell::new(Table::new(STREAM_BYTES, interest));
        Self { queues, streams, leases: Rc::default(), default_lease }
    }

    fn with<R>(&self, db: i32, queue: &[u8], change: impl FnOnce(&mut Known) -> R) -> Option<R> {
        self.queues.borrow_mut().change(db, queue, change)
    }

    fn with_group<R>(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        change: impl FnOnce(&mut Group) -> R,
    ) -> Option<R> {
        self.with(db, queue, |known| known.group_mut(group).map(change)).flatten()
    }

    fn remember(&self, db: i32, queue: &[u8], change: impl FnOnce(&mut Known)) {
        let mut table = self.queues.borrow_mut();
        if table.get(db, queue).is_none() {
            table.put(db, queue, Known::default());
        }
        table.change(db, queue, change);
    }

    fn remember_stream(&self, db: i32, stream: &[u8], change: impl FnOnce(&mut Stream)) {
        let mut table = self.streams.borrow_mut();
        if table.get(db, stream).is_none() {
            table.put(db, stream, Stream::default());
        }
        table.change(db, stream, change);
    }

    /// Forgets the queues of these databases, or of all databases if none is given.
    pub fn forget(&self, dbs: &[i32]) {
        self.queues.borrow_mut().forget(dbs);
        self.streams.borrow_mut().forget(dbs);
    }
}

/// Policy and groups.
impl Queues {
    /// The policy of a queue, if it is known.
    pub fn policy(&self, db: i32, queue: &[u8]) -> Option<Policy> {
        self.with(db, queue, |known| known.policy).flatten()
    }

    /// Remembers the policy of a queue that is known, or of any queue if `always` is set.
    pub fn set_policy(&self, db: i32, queue: &[u8], policy: Policy, always: bool) {
        if self.with(db, queue, |known| known.policy = Some(policy)).is_none() && always {
            self.remember(db, queue, |known| known.policy = Some(policy));
        }
    }

    /// The policy has changed.
    pub fn policy_changed(&self, db: i32, queue: &[u8]) {
        self.with(db, queue, |known| {
            known.policy = None;
            // Under a policy without lease nothing was swept.
            known.groups_mut().for_each(Group::restart_sweep);
        });
    }

    /// The groups of a stream, if they are known.
    pub fn groups(&self, db: i32, stream: &[u8]) -> Option<Groups> {
        self.streams.borrow().get(db, stream)?.groups.clone()
    }

    /// Remembers the groups of a stream.
    pub fn set_groups(&self, db: i32, stream: &[u8], groups: Groups) {
        self.remember_stream(db, stream, |known| known.groups = Some(groups));
    }

    /// The policy of a queue, if everything is known that a pass for this group needs.
    pub fn met(&self, db: i32, queue: &[u8], group: &[u8]) -> Option<Policy> {
        let met = |known: &mut Known| {
            known.policy.filter(|_| known.found && known.group(group).is_some())
        };
        self.with(db, queue, met).flatten()
    }

    /// Remembers what was looked up of a queue and a group, which is served here from now on.
    pub fn meet(&self, db: i32, queue: &[u8], group: &[u8], facts: &Facts) {
        self.remember(db, queue, |known| {
            known.policy = Some(facts.policy);
            if !known.found {
                known.found = true;
                let due = facts.due;
                known.delayed = Delayed { due, above_zero: due.is_some(), ..Delayed::default() };
            }
            known.streams.insert_all(facts.streams);
            known.groups_mut().for_each(|group| group.unread.insert_all(facts.streams));
            if let Some(group) = known.add_group(group, facts.others_may_release, &self.leases) {
                group.ensured |= facts.has_group;
            }
        });
    }

    /// Whether the group has to be created in the queue's own stream before it reads from the stream
    /// of a priority.
    pub fn needs_group(&self, db: i32, queue: &[u8], group: &[u8]) -> bool {
        let needs = |group: &mut Group| !group.ensured && !group.unread.is_empty();
        self.with_group(db, queue, group, needs) == Some(true)
    }

    /// The group exists in the queue's own stream.
    pub fn has_group(&self, db: i32, queue: &[u8], group: &[u8]) {
        self.with_group(db, queue, group, |group| group.ensured = true);
    }

    /// Whether the only thing that a consumer of the group can get now is new entries of the queue's
    /// own stream. False if too little is known.
    pub fn is_plain(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        now: UnixMs,
        moment: Moment,
    ) -> bool {
        let lease = self.default_lease.get();
        self.with(db, queue, |known| known.is_plain(group, lease, now, moment)) == Some(true)
    }

    /// When there is work for the consumers that wait in these groups, if the queue is known.
    pub fn next_check(&self, db: i32, queue: &[u8], groups: &[Box<[u8]>]) -> Option<NextCheck> {
        let lease = self.default_lease.get();
        let check = |known: &mut Known| known.found.then(|| known.next_check(groups, lease));
        self.with(db, queue, check).flatten()
    }
}

/// Streams and delayed tasks.
impl Queues {
    /// The last id that this process has added to a stream.
    pub fn last_id(&self, db: i32, stream: &[u8]) -> Option<EntryId> {
        self.streams.borrow().get(db, stream)?.last_id
    }

    /// This process has added an entry to a stream.
    pub fn set_last_id(&self, db: i32, stream: &[u8], id: EntryId) {
        self.remember_stream(db, stream, |known| known.last_id = Some(id));
    }

    /// The priorities above 0 that may have a stream, if they were looked up.
    pub fn streams(&self, db: i32, queue: &[u8]) -> Option<Priorities> {
        self.with(db, queue, |known| known.found.then_some(known.streams)).flatten()
    }

    /// The priorities above 0 that may have tasks, and whether there may be delayed ones: all and
    /// true if nothing is known.
    pub fn places(&self, db: i32, queue: &[u8]) -> (Priorities, bool) {
        let places =
            |known: &mut Known| known.found.then_some((known.streams, known.delayed.may_exist()));
        self.with(db, queue, places).flatten().unwrap_or((Priorities::ALL, true))
    }

    /// A task of this priority was added.
    pub fn added(&self, db: i32, queue: &[u8], priority: Priority) {
        if priority > Priority::LOWEST {
            self.with(db, queue, |known| known.added(priority));
        }
    }

    /// Whether the stream of a priority may hold entries that the group has not read.
    pub fn may_hold(&self, db: i32, queue: &[u8], group: &[u8], priority: Priority) -> bool {
        let unread = |group: &mut Group| group.unread.contains(priority);
        priority == Priority::LOWEST || self.with_group(db, queue, group, unread) != Some(false)
    }

    /// The group has read everything in the stream of this priority.
    pub fn drained(&self, db: i32, queue: &[u8], group: &[u8], priority: Priority) {
        self.with_group(db, queue, group, |group| group.unread.remove(priority));
    }

    /// What is known of the delayed tasks, if they were looked up.
    pub fn delayed(&self, db: i32, queue: &[u8]) -> Option<Delayed> {
        self.with(db, queue, |known| known.found.then(|| known.delayed.clone())).flatten()
    }

    /// Replaces what is known of the delayed tasks.
    pub fn set_delayed(&self, db: i32, queue: &[u8], delayed: Delayed) {
        self.with(db, queue, |known| known.delayed = delayed);
    }

    /// A delayed task was added.
    pub fn delayed_added(&self, db: i32, queue: &[u8], priority: Priority, due: UnixMs) {
        self.with(db, queue, |known| {
            let delayed = &mut known.delayed;
            delayed.due = Some(delayed.due.map_or(due, |known| known.min(due)));
            if priority > Priority::LOWEST {
                (delayed.above_zero, delayed.looked_at) = (true, 0);
            }
        });
    }

    /// The delayed tasks were changed by another client.
    fn delayed_changed(&self, db: i32, queue: &[u8]) {
        // The next check finds out when the first one is due.
        let delayed = Delayed { due: Some(UnixMs(0)), above_zero: true, ..Delayed::default() };
        self.set_delayed(db, queue, delayed);
    }

    /// Due tasks that were refused are tried again at the next check.
    pub fn retry_refused(&self, db: i32, queue: &[u8]) {
        self.with(db, queue, |known| {
            known.delayed.looked_at = 0;
            if let Some(refused) = &mut known.delayed.refused {
                refused.again = Moment::default();
            }
        });
    }
}

/// The keys that follow the tasks of a queue.
const TRACES: [Prefix; 3] = [MOVED, MARKS, HELD];

/// The queue to which a key belongs, if it is derived from one. Called for every write of the server.
pub fn owner(key: &[u8]) -> Option<&[u8]> {
    match key.first()? {
        b'd' => names::name_of(DELAYED, key).or_else(|| names::name_of(DEAD, key)),
        b'p' => names::name_of(POLICY, key).or_else(|| Some(priority_of(key)?.1)),
        b't' => TRACES.iter().find_map(|prefix| names::name_of(*prefix, key)),
        _ => None,
    }
}

/// The priority and the queue of a stream, if it is that of a priority above 0.
fn priority_of(stream: &[u8]) -> Option<(Priority, &[u8])> {
    let digit = stream.strip_prefix(b"priority")?.first()?;
    let priority = Priority::new(digit.checked_sub(b'0')?.into())?;
    Some((priority, names::name_of(priority.prefix(), stream)?))
}

/// Keyspace events.
impl Queues {
    /// A key was changed. Returns the name of the queue to which the key belongs, if it is derived
    /// from one.
    pub fn key_changed<'k>(&self, db: i32, event: &KeyEvent<'k>) -> Option<&'k [u8]> {
        if !event.stream || event.name == b"xgroup-destroy" {
            self.queues.borrow_mut().remove(db, event.key);
        }
        if let Some(name) = names::name_of(DELAYED, event.key) {
            self.delayed_changed(db, name);
            return Some(name);
        }
        if let Some(name) = names::name_of(POLICY, event.key) {
            self.policy_changed(db, name);
            return Some(name);
        }
        if let Some(name) = TRACES.iter().find_map(|prefix| names::name_of(*prefix, event.key)) {
            self.traces_changed(db, name);
            return Some(name);
        }
        // A key of another type in its place keeps tasks from being dead-lettered, and these keep
        // others from being delivered.
        if let Some(name) = names::name_of(DEAD, event.key) {
            self.retry_refused(db, name);
            return Some(name);
        }
        self.stream_changed(db, event.key)
    }

    /// A stream was changed. Returns the queue of which it is a priority, if it is one.
    pub fn stream_changed<'k>(&self, db: i32, stream: &'k [u8]) -> Option<&'k [u8]> {
        let (priority, name) = priority_of(stream)?;
        self.added(db, name, priority);
        // Tasks that it has refused may enter now.
        self.retry_refused(db, name);
        Some(name)
    }

    /// Drops what is known of the groups of a stream if an event, also of this module, can have
    /// changed them: all but those that only touch entries and consumers.
    pub fn groups_may_have_changed(&self, db: i32, event: &KeyEvent<'_>) {
        if !event.stream || matches!(event.name, b"xgroup-create" | b"xgroup-destroy") {
            self.streams.borrow_mut().change(db, event.key, |known| known.groups = None);
        }
    }
}
