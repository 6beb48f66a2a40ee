//! Moves of a leased task from one place to another: a copy is added and the entry is finished, in
//! one step.

use super::dead::{DeathRecord, bury};
use super::entry::Task;
use super::id::{EntryId, Priority};
use super::identity::Move;
use super::policy::policy_of;
use super::rules::{self, Attempts, Backoff, Failure, Outcome};
use super::store::{self, Ending, Target};
use super::{Cx, delayed_ids, groups, moved};
use crate::error::Error;
use crate::server::{Mode, Str, words};
use crate::time::Millis;

/// An entry that is pending in a group.
pub struct Leased<'a> {
    /// The queue.
    pub queue: Str<'a>,
    /// Which of its streams.
    pub priority: Priority,
    /// The group.
    pub group: Str<'a>,
    /// The id.
    pub id: (EntryId, Str<'a>),
}

/// The copy of a task whose entry `id` is finished for a group. It carries the original id and, if the
/// queue has several groups, the group it is for.
pub fn copy<'t>(
    cx: Cx<'_>,
    queue: Str<'_>,
    stream: Str<'_>,
    group: Option<Str<'t>>,
    id: Str<'t>,
    mut task: Task<'t>,
) -> Result<Task<'t>, Error> {
    task.original_id = task.original_id.or(Some(id.bytes()));
    if let Some(group) = group
        && task.group.is_none()
        && !groups::is_only(cx, queue, stream, group)?
    {
        task.group = Some(group.bytes());
    }
    Ok(task)
}

/// How a task is given back.
pub struct GiveBack<'a> {
    /// Why.
    pub failure: Failure,
    /// The wait before a retry, in place of the back-off.
    pub delay: Option<Millis>,
    /// The reason that a dead letter records.
    pub reason: &'a [u8],
    /// The new payload, if it gets one.
    pub payload: Option<&'a [u8]>,
}

/// What became of a task that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// It is retried.
    Requeued,
    /// It is a dead letter.
    Dead,
    /// Another client had deleted the entry: there was nothing left to give back.
    Gone,
}

impl Leased<'_> {
    /// Gives the task back, which was delivered `deliveries` times as this entry.
    pub fn give_back(
        &self,
        cx: Cx<'_>,
        deliveries: i64,
        how: &GiveBack<'_>,
    ) -> Result<GivenBack, Error> {
        let stream = store::stream_of(cx.server, self.queue, self.priority)?;
        let Some(entry) = store::entry(cx.server, stream.borrow(), self.id.1)? else {
            self.finish(cx)?;
            return Ok(GivenBack::Gone);
        };
        let mut task = entry.task();
        if let Some(payload) = how.payload {
            let is_longer = payload.len() > task.payload.map_or(0, <[u8]>::len);
            // The rest of the step only moves the task, and works when memory is full.
            if is_longer && cx.server.is_out_of_memory() {
                return Err(Error::OutOfMemory);
            }
            task.payload = Some(payload);
        }
        let policy = policy_of(cx, self.queue)?;
        let backoff = Backoff { base: policy.backoff(), max: policy.backoff_max() };
        let tries = task.tries(cx.family.tries(&policy));
        let attempts = Attempts { before: task.retry_count, deliveries, tries };
        match rules::give_back(how.failure, attempts, backoff, how.delay, cx.server.random()) {
            Outcome::Retry(retry_count, delay) => {
                self.requeue(cx, task, retry_count, delay)?;
                Ok(GivenBack::Requeued)
            }
            Outcome::DeadLetter(retry_count) => {
                let death = DeathRecord { reason: how.reason, deliveries };
                self.dead_letter(cx, task, retry_count, &death)?;
                Ok(GivenBack::Dead)
            }
        }
    }

    fn copy<'t>(&'t self, cx: Cx<'_>, mut task: Task<'t>, count: i64) -> Result<Task<'t>, Error> {
        task.retry_count = count;
        let stream = store::stream_of(cx.server, self.queue, self.priority)?;
        copy(cx, self.queue, stream.borrow(), Some(self.group), self.id.1, task)
    }

    /// Makes the task ready again after a delay, at the end of its stream.
    pub fn requeue(
        &self,
        cx: Cx<'_>,
        mut task: Task<'_>,
        retry_count: i64,
        delay: Millis,
    ) -> Result<(), Error> {
        let from = self.origin(&task);
        task.forget_expiry();
        let task = self.copy(cx, task, retry_count)?;
        let to = if delay > Millis(0) {
            let due = cx.server.now() + delay;
            delayed_ids::add(cx, self.queue, self.priority, &task, due)?
        } else {
            store::add_copy(cx, Target::Queue(self.queue, self.priority), &task, &[])?
        };
        cx.family.counters.requeued.add(1);
        self.leave(cx, Move { to: Some(to), ..from })
    }

    /// Moves the task to the dead-letter queue.
    pub fn dead_letter(
        &self,
        cx: Cx<'_>,
        task: Task<'_>,
        retry_count: i64,
        death: &DeathRecord<'_>,
    ) -> Result<(), Error> {
        let task = self.copy(cx, task, retry_count)?;
        bury(cx, self.queue, self.priority, task, death)?;
        self.finish(cx)
    }

    /// Adds an entry whose id belongs to another stream again, at the end, with an id of this one.
    pub fn reinsert(&self, cx: Cx<'_>, task: Task<'_>) -> Result<(), Error> {
        let (from, retry_count) = (self.origin(&task), task.retry_count);
        let task = self.copy(cx, task, retry_count)?;
        let to = store::add_copy(cx, Target::Queue(self.queue, self.priority), &task, &[])?;
        self.leave(cx, Move { to: Some(to), ..from })
    }

    /// The move of the task from here, without its aim.
    fn origin(&self, task: &Task<'_>) -> Move {
        Move::of(task, (self.id.0, Some(self.priority)), None)
    }

    /// Finishes the entry of a task that goes on under another id.
    fn leave(&self, cx: Cx<'_>, moved: Move) -> Result<(), Error> {
        moved::record(cx, self.queue, &[moved])?;
        let place = (self.queue, self.priority);
        store::finish_as(cx, place, self.group, &[self.id], Ending::Moves).map(drop)
    }

    /// Moves a task that was read, and has not been delivered in time, to the dead-letter queue. If
    /// that is refused, the entry stays pending as one that was never delivered.
    pub fn expire(&self, cx: Cx<'_>, consumer: Str<'_>, task: Task<'_>) -> Result<(), Error> {
        let retry_count = task.retry_count;
        let outcome = self.dead_letter(cx, task, retry_count, &DeathRecord::EXPIRED);
        if outcome.is_ok() {
            cx.family.counters.expired.add(1);
        } else {
            let stream = store::stream_of(cx.server, self.queue, self.priority)?;
            let (w, zero) = (words(), words().zero());
            let id = self.id.1;
            let args =
                [stream.borrow(), self.group, consumer, zero, id, w.retries(), zero, w.just_id()];
            cx.server.call(c"XCLAIM", Mode::Write, &args)?;
        }
        outcome
    }

    /// Finishes the entry, and with it the task, for the group.
    pub fn finish(&self, cx: Cx<'_>) -> Result<(), Error> {
        store::finish(cx, self.queue, self.priority, self.group, &[self.id]).map(drop)
    }
}
