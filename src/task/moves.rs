//! Moves of a leased task from one place to another: a copy is added and the entry is finished, in
//! one step.

use super::entry::Task;
use super::id::{EntryId, Priority};
use super::identity::Move;
use super::policy::policy_of;
use super::rules::{self, Attempts, Backoff, Failure, Outcome};
use super::store::{self, Ending, Target};
use super::{Cx, DEAD, delayed, groups, moved};
use crate::error::Error;
use crate::names;
use crate::server::{OwnedStr, Str};
use crate::time::Millis;
use crate::waiting;

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

/// What a dead letter records beside the task.
pub struct DeathRecord<'a> {
    /// Why the task failed for good. The first 1024 bytes are kept.
    pub reason: &'a [u8],
    /// How often the entry was delivered.
    pub deliveries: i64,
}

/// How many bytes of a reason are kept.
const REASON: usize = 1024;

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
        let task = entry.task();
        let policy = policy_of(cx, self.queue)?;
        let backoff = Backoff { base: policy.backoff(), max: policy.backoff_max() };
        let attempts = Attempts { before: task.retry_count, deliveries };
        let (tries, random) = (cx.family.tries(&policy), cx.server.random());
        match rules::give_back(how.failure, attempts, tries, backoff, how.delay, random) {
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
        task: Task<'_>,
        retry_count: i64,
        delay: Millis,
    ) -> Result<(), Error> {
        let from = self.origin(&task);
        let task = self.copy(cx, task, retry_count)?;
        let to = if delay > Millis(0) {
            let due = cx.server.now() + delay;
            delayed::add(cx, self.queue, self.priority, &task, due)?
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
        let w = &cx.family.words;
        let task = self.copy(cx, task, retry_count)?;
        let reason = death.reason.get(..REASON).unwrap_or(death.reason);
        let mut last = vec![
            (w.reason(), OwnedStr::new(reason)),
            (w.deliveries(), OwnedStr::number(death.deliveries)),
        ];
        if self.priority > Priority::LOWEST {
            last.push((w.priority(), OwnedStr::number(self.priority.number().into())));
        }
        let dead = names::key_of(cx.server, DEAD, self.queue)?;
        store::add_copy(cx, Target::Stream(dead.borrow()), &task, &last)?;
        cx.family.counters.dead_lettered.add(1);
        // Clients can consume the dead letters as well.
        waiting::serve_soon(cx, cx.server.db(), dead.borrow().bytes());
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

    /// Finishes the entry, and with it the task, for the group.
    pub fn finish(&self, cx: Cx<'_>) -> Result<(), Error> {
        store::finish(cx, self.queue, self.priority, self.group, &[self.id]).map(drop)
    }
}
