//! A pass over a queue, for one consumer of one group: [`rules::pass`], carried out on the server.

use super::consumer::{Consumer, Kept, is_misplaced};
use super::dead::DeathRecord;
use super::delivery::Delivery;
use super::entry::Task;
use super::facts::learn;
use super::id::{EntryId, Priority};
use super::identity::Move;
use super::leases::RELEASED;
use super::policy::Policy;
use super::rules::{self, Attempts, Batch, Entered, Oldest, Ops, Passed};
use super::store::{self, Entry, IfMissing, RELEASED_IDLE};
use super::{Cx, delayed, life, obstacle, ties, traces};
use crate::error::Error;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, words};
use crate::time::{Millis, UnixMs};
use crate::waiting;

/// A pass.
pub struct Pass<'a> {
    consumer: Consumer<'a>,
    now: UnixMs,
    policy: Policy,
    tasks: Vec<Delivery>,
    /// Why a task stays where it is, if one does. It does not hold up the others.
    trouble: Option<Error>,
}

/// A lease that has expired.
pub struct ExpiredLease<'s> {
    priority: Priority,
    id: EntryId,
    text: OwnedStr,
    entry: Entry<'s>,
    /// [`RELEASED_IDLE`] if another client has returned the entry to the group.
    idle: i64,
    attempts: Attempts,
}

impl<'a> Pass<'a> {
    /// A pass for a consumer that has got these tasks already.
    pub fn new(consumer: Consumer<'a>, now: UnixMs, tasks: Vec<Delivery>) -> Self {
        Self { consumer, now, policy: Policy::default(), tasks, trouble: None }
    }

    /// The delivered tasks, and why a task stays where it is, if one does.
    pub fn into_parts(self) -> (Vec<Delivery>, Option<Error>) {
        (self.tasks, self.trouble)
    }

    /// Delivers up to `count` tasks.
    pub fn run(&mut self, count: usize) -> Result<Passed, Error> {
        let Consumer { cx, queue, group, if_missing, .. } = self.consumer;
        let learned = learn(cx, queue, group, if_missing)?;
        self.policy = learned.policy;
        if !learned.met {
            // A consumer that gets an error leaves no group behind.
            if !self.policy.is_paused()
                && let Some(error) = obstacle::obstacle(cx.server, queue)?
            {
                return Err(error);
            }
            store::ensure_group(cx, queue, group, if_missing)?;
            learn(cx, queue, group, if_missing)?;
        }
        if self.policy.is_paused() {
            // From here on no entry is deleted that the group has not read.
            if if_missing != IfMissing::WhenFilled {
                store::ensure_group(cx, queue, group, if_missing)?;
            }
            return Ok(Passed::default());
        }
        let walk = self.consumer.walk(self.lease());
        walk.read_due_page()?;
        walk.find_released()?;
        traces::sweep(cx, queue, self.lease())?;
        self.ensure_group()?;
        rules::pass(self, count)
    }

    fn lease(&self) -> Option<Millis> {
        self.consumer.cx.family.lease(&self.policy)
    }

    /// Database, queue and group.
    fn names(&self) -> (i32, &'a [u8], &'a [u8]) {
        let Consumer { cx, queue, group, .. } = self.consumer;
        (cx.server.db(), queue.bytes(), group.bytes())
    }

    /// Creates the group in the queue's own stream before it reads from the stream of a priority: the
    /// groups of the queue's own stream are those that count.
    fn ensure_group(&self) -> Result<(), Error> {
        let Consumer { cx, queue, group, if_missing, .. } = self.consumer;
        let (db, name, group_name) = self.names();
        if cx.family.queues.needs_group(db, name, group_name)
            && (if_missing != IfMissing::WhenFilled || self.has_unread()?)
        {
            store::ensure_group(cx, queue, group, if_missing)?;
            cx.family.queues.has_group(db, name, group_name);
        }
        Ok(())
    }

    /// Whether the stream of a priority above 0 has entries that the group may not have read.
    fn has_unread(&self) -> Result<bool, Error> {
        let Consumer { cx, queue, .. } = self.consumer;
        for priority in Priority::ALL.into_iter().filter(|priority| *priority > Priority::LOWEST) {
            let stream = store::stream_of(cx.server, queue, priority)?;
            if self.may_hold(priority) && cx.server.peek_key(stream.borrow()).entries() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tasks of a stream are delivered, perhaps for the first time.
    fn started<'t>(
        &self,
        priority: Priority,
        tasks: impl Iterator<Item = (EntryId, Task<'t>)>,
    ) -> Result<(), Error> {
        let Consumer { cx, queue, .. } = self.consumer;
        if !life::traces(cx, queue)?.marks {
            return Ok(());
        }
        let moves = tasks.map(|(id, task)| Move::of(&task, (id, Some(priority)), None));
        life::started(cx, queue, &moves.collect::<Vec<_>>())
    }

    /// Forgets a lease that cannot be dealt with now. The sweep finds it again.
    fn put_off(&mut self, priority: Priority, id: EntryId, error: Error) {
        let (db, queue, group) = self.names();
        self.consumer.cx.family.queues.lease_ended(db, queue, group, priority, [id]);
        self.trouble = Some(error);
    }
}

impl<'a> Ops for Pass<'a> {
    type Error = Error;
    type Lease = ExpiredLease<'a>;

    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Error> {
        let Consumer { cx, queue, .. } = self.consumer;
        let (db, name, _) = self.names();
        if let Some(known) = cx.family.queues.delayed(db, name)
            && !known.is_due(self.now, cx.server.moment())
        {
            let refused = known.refused.and_then(|refused| refused.error);
            self.trouble = refused.or(self.trouble.take());
            return Ok(Entered::default());
        }
        let promoted = delayed::promote(cx, queue, (least, most), self.now)?;
        self.trouble = promoted.trouble.or(self.trouble.take());
        if promoted.entered.number > 0 {
            // Other groups can have waiting consumers.
            waiting::serve_soon(cx, db, name);
        }
        Ok(promoted.entered)
    }

    fn oldest(&mut self) -> Result<Oldest<ExpiredLease<'a>>, Error> {
        let Consumer { cx, queue, group, name: consumer, .. } = self.consumer;
        let Cx { server, family } = cx;
        let (db, name, group_name) = self.names();
        let lease = self.lease();
        let has_expired = |since: UnixMs, idle: Millis| {
            since == RELEASED || lease.is_some_and(|lease| idle >= lease)
        };
        let oldest = family.queues.oldest_lease(db, name, group_name);
        let Some((since, id, priority)) = oldest else { return Ok(Oldest::Running) };
        if !has_expired(since, self.now.since(since)) {
            return Ok(Oldest::Running);
        }
        let stream = store::stream_of(server, queue, priority)?;
        let text = OwnedStr::new(id.to_string().as_bytes());
        let pending = match store::pending(server, stream.borrow(), group, text.borrow()) {
            // A priority key that is not a stream holds no lease.
            Err(error) if priority > Priority::LOWEST && error.is_wrong_type() => {
                self.trouble = Some(error);
                None
            }
            other => other?,
        };
        let Some(pending) = pending else {
            family.queues.lease_ended(db, name, group_name, priority, [id]);
            ties::ended(cx, queue, group, priority, [id]);
            return Ok(Oldest::Settled);
        };
        let since = store::lease_start(self.now, pending.idle);
        if !has_expired(since, Millis(pending.idle)) {
            family.queues.leased(db, name, group_name, priority, &[id], since);
            return Ok(Oldest::Settled);
        }
        let Some(entry) = store::entry(server, stream.borrow(), text.borrow())? else {
            // Another client has deleted the entry: there is nothing left to deliver.
            store::finish(cx, queue, priority, group, &[(id, text.borrow())])?;
            return Ok(Oldest::Settled);
        };
        let task = entry.task();
        let attempts = Attempts {
            before: task.retry_count,
            deliveries: pending.deliveries,
            tries: task.tries(family.tries(&self.policy)),
        };
        let leased = self.consumer.leased(priority, (id, text.borrow()));
        if pending.deliveries == 0 && pending.idle != RELEASED_IDLE && task.has_expired(self.now) {
            // It could not become a dead letter when it was read.
            if let Err(error) = leased.expire(cx, consumer, task) {
                self.put_off(priority, id, error);
            }
            return Ok(Oldest::Settled);
        }
        if is_misplaced(priority, id) {
            // Another client has read it. With this id it could never be finished.
            let mut task = task;
            task.forget_expiry();
            task.retry_count = attempts.in_all();
            if let Err(error) = leased.reinsert(cx, task) {
                self.put_off(priority, id, error);
            }
            return Ok(Oldest::Settled);
        }
        let lease = ExpiredLease { priority, id, text, entry, idle: pending.idle, attempts };
        Ok(Oldest::Expired(lease, attempts))
    }

    fn reclaim(&mut self, lease: ExpiredLease<'a>) -> Result<(), Error> {
        let Consumer { cx, queue, group, name, .. } = self.consumer;
        let w = words();
        let stream = store::stream_of(cx.server, queue, lease.priority)?;
        let deliveries = lease.attempts.deliveries.saturating_add(1);
        let count = OwnedStr::number(deliveries);
        let (text, zero) = (lease.text.borrow(), w.zero());
        let args =
            [stream.borrow(), group, name, zero, text, w.retries(), count.borrow(), w.just_id()];
        cx.server.call(c"XCLAIM", Mode::Write, &args)?;
        self.consumer.tie(lease.priority, &[lease.id], deliveries, self.now);
        let (db, queue, group) = self.names();
        cx.family.queues.leased(db, queue, group, lease.priority, &[lease.id], self.now);
        cx.family.counters.reclaimed.add(1);
        self.started(lease.priority, [(lease.id, lease.entry.task())].into_iter())?;
        if let Some(entry) = lease.entry.whole() {
            self.tasks.push(Delivery::new(entry, lease.idle.max(0), deliveries));
        }
        Ok(())
    }

    fn dead_letter(&mut self, lease: ExpiredLease<'a>) -> Result<(), Error> {
        let attempts = lease.attempts;
        let reason: &[u8] = match lease.idle {
            _ if attempts.is_fatal() => b"fatal",
            RELEASED_IDLE => b"failed",
            _ => b"lease expired",
        };
        let death = DeathRecord { reason, deliveries: attempts.as_this_entry() };
        let leased = self.consumer.leased(lease.priority, (lease.id, lease.text.borrow()));
        let (cx, task) = (self.consumer.cx, lease.entry.task());
        if let Err(error) = leased.dead_letter(cx, task, attempts.in_all(), &death) {
            self.put_off(lease.priority, lease.id, error);
        }
        Ok(())
    }

    fn may_hold(&self, priority: Priority) -> bool {
        let (db, queue, group) = self.names();
        self.consumer.cx.family.queues.may_hold(db, queue, group, priority)
    }

    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Error> {
        let count = OwnedStr::number(i64::try_from(most).unwrap_or(i64::MAX));
        let found = match self.consumer.read(priority, count.borrow(), Mode::Write) {
            // A priority key that is not a stream does not hold up the other priorities.
            Err(error) if priority > Priority::LOWEST && !error.passes() => {
                self.trouble = Some(error);
                return Ok(Batch::default());
            }
            other => other?,
        };
        let batch = match &found {
            None => Batch::default(),
            Some(found) => match self.consumer.keep(priority, found, self.now) {
                Kept::All(delivered) => {
                    let entries = store::entries(found).into_iter().flat_map(Element::elements);
                    self.tasks.extend(entries.map(Delivery::first));
                    Batch { delivered, skipped: 0 }
                }
                Kept::Some(tasks, skipped) => {
                    let delivered = tasks.len();
                    self.tasks.extend(tasks);
                    Batch { delivered, skipped }
                }
            },
        };
        if let Some(found) = &found {
            let entries = store::entries(found).into_iter().flat_map(Element::elements);
            let ids = entries.map(|entry| (entry.at(0).map(Element::bytes), entry.at(1)));
            let tasks = ids.filter_map(|(id, fields)| {
                Some((id.and_then(EntryId::parse)?, Task::of(fields?.pairs())))
            });
            self.started(priority, tasks)?;
        }
        if batch.delivered < most && batch.skipped == 0 {
            let (db, queue, group) = self.names();
            self.consumer.cx.family.queues.drained(db, queue, group, priority);
        }
        Ok(batch)
    }
}
