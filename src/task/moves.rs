//! Moves of a leased task from one place to another: a copy is added and the entry is finished, in
//! one step.

use super::entry::Task;
use super::id::{EntryId, Priority};
use super::store::{self, Target};
use super::{Cx, DEAD, delayed, groups};
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

impl Leased<'_> {
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
        let task = self.copy(cx, task, retry_count)?;
        if delay > Millis(0) {
            let due = cx.server.now() + delay;
            delayed::add(cx, self.queue, self.priority, &task, due)?;
        } else {
            let target = Target::Queue(self.queue, self.priority);
            store::add_copy(cx, target, &task, &[])?;
        }
        cx.family.counters.requeued.add(1);
        self.finish(cx)
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
        let retry_count = task.retry_count;
        let task = self.copy(cx, task, retry_count)?;
        store::add_copy(cx, Target::Queue(self.queue, self.priority), &task, &[])?;
        self.finish(cx)
    }

    /// Finishes the entry for the group.
    pub fn finish(&self, cx: Cx<'_>) -> Result<(), Error> {
        store::finish(cx, self.queue, self.priority, self.group, &[self.id]).map(drop)
    }
}
