//! How a task that is leased gets from one place to another: a copy is added, and the entry is
//! finished, in one step.

use super::entry::Task;
use super::id::{EntryId, Priority};
use super::store::{self, Target};
use super::{DEAD_LETTERED, REQUEUED, delayed, groups, line};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{OwnedStr, Server, Str, words};
use crate::time::{Millis, UnixMs};

/// An entry that is leased in a group.
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

/// Why a task is dead.
pub struct Obituary<'a> {
    /// The reason, of which the first 1024 bytes are kept.
    pub reason: &'a [u8],
    /// How often the entry was delivered.
    pub deliveries: i64,
}

/// How much of a reason is kept.
const REASON: usize = 1024;

/// The copy of a task whose entry `id` is finished for a group: it tells its first id and, if the
/// queue has several groups, the one that it is for.
pub fn copy<'t>(
    server: &Server,
    queue: Str<'_>,
    stream: Str<'_>,
    group: Option<Str<'t>>,
    id: Str<'t>,
    mut task: Task<'t>,
) -> Result<Task<'t>, Error> {
    task.original_id = task.original_id.or(Some(id.bytes()));
    if let Some(group) = group
        && task.group.is_none()
        && !groups::is_only(server, queue, stream, group)?
    {
        task.group = Some(group.bytes());
    }
    Ok(task)
}

impl Leased<'_> {
    fn copy<'t>(
        &'t self,
        server: &Server,
        mut task: Task<'t>,
        count: i64,
    ) -> Result<Task<'t>, Error> {
        task.retry_count = count;
        let stream = store::stream_of(server, self.queue, self.priority)?;
        copy(server, self.queue, stream.borrow(), Some(self.group), self.id.1, task)
    }

    /// The task is ready again after a delay, at the tail.
    pub fn requeue(
        &self,
        server: &Server,
        task: Task<'_>,
        retry_count: i64,
        delay: Millis,
    ) -> Result<(), Error> {
        let task = self.copy(server, task, retry_count)?;
        if delay > Millis(0) {
            let due = UnixMs(server.now().0.saturating_add(delay.0));
            delayed::add(server, self.queue, self.priority, &task, due)?;
        } else {
            let target = Target::Queue(self.queue, self.priority);
            store::add_copy(server, target, &task, &[])?;
        }
        REQUEUED.add(1);
        self.finish(server)
    }

    /// The task goes to the dead letters.
    pub fn bury(
        &self,
        server: &Server,
        task: Task<'_>,
        retry_count: i64,
        obituary: &Obituary<'_>,
    ) -> Result<(), Error> {
        let w = words();
        let task = self.copy(server, task, retry_count)?;
        let reason = obituary.reason.get(..REASON).unwrap_or(obituary.reason);
        let mut last = vec![
            (w.reason(), OwnedStr::new(reason)),
            (w.deliveries(), OwnedStr::number(obituary.deliveries)),
        ];
        if self.priority > Priority::LOWEST {
            last.push((w.priority(), OwnedStr::number(self.priority.number().into())));
        }
        let dead = server.key_of(Prefix::Dead, self.queue)?;
        store::add_copy(server, Target::Stream(dead.borrow()), &task, &last)?;
        DEAD_LETTERED.add(1);
        // Somebody may consume the dead letters.
        line::look_at(server, dead.borrow().bytes());
        self.finish(server)
    }

    /// An entry whose id points elsewhere comes again, at the tail, with one that tells where it is.
    pub fn place_anew(&self, server: &Server, task: Task<'_>) -> Result<(), Error> {
        let retry_count = task.retry_count;
        let task = self.copy(server, task, retry_count)?;
        store::add_copy(server, Target::Queue(self.queue, self.priority), &task, &[])?;
        self.finish(server)
    }

    /// The entry is finished for the group.
    pub fn finish(&self, server: &Server) -> Result<(), Error> {
        store::finish(server, self.queue, self.priority, self.group, &[self.id]).map(drop)
    }
}
