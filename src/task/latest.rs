//! Publishing with LAST: the last of several publishes with the same UNIQUE id wins. It takes the place
//! of a task that waits. While that task is leased, one successor is held until it has ended.

use super::entry::{self, Task};
use super::groups::Overviews;
use super::id::{EntryId, Priority};
use super::identity::Move;
use super::locate::{self, Found, Place};
use super::mark::{self, Mark, Until};
use super::store::{self, Target};
use super::{Cx, delayed_ids, held, line, marks, moved, size};
use crate::error::Error;
use crate::server::{Mode, OwnedStr, Str, words};
use crate::time::{Millis, UnixMs};

/// A task that is published with LAST.
pub struct New<'a> {
    /// The queue.
    pub queue: Str<'a>,
    /// The UNIQUE id.
    pub unique: Str<'a>,
    /// The key of its window.
    pub window: Str<'a>,
    /// How long the window lasts.
    pub span: Millis,
    /// What else ends it.
    pub until: Until,
    /// The task.
    pub task: Task<'a>,
    /// Its priority.
    pub priority: Priority,
    /// When it is due, if that is later.
    pub due: Option<UnixMs>,
}

/// What became of it.
pub enum Outcome {
    /// It has to be added: there is no task before it.
    Add,
    /// It has taken the place of this task.
    Replaced(EntryId),
    /// It is held, under this id.
    Queued(EntryId),
}

/// Publishes a task within the window of another one.
pub fn publish(cx: Cx<'_>, new: &New<'_>) -> Result<Outcome, Error> {
    let (server, queue) = (cx.server, new.queue);
    let Some((holder, _)) = marks::holder(server, new.window)? else { return Ok(Outcome::Add) };
    let mut overviews = Overviews::default();
    let found = locate::find(cx, queue, holder, &mut overviews)?;
    let Some(found) = found else { return Ok(Outcome::Add) };
    let before = Before { cx, new, holder, found: &found };
    match &found.place {
        Place::Delayed(member) => {
            let member = member.borrow().bytes();
            let group = entry::group_of(member);
            let Some(stored) = entry::decode(member, group.as_deref()) else {
                return Ok(Outcome::Add);
            };
            let due = UnixMs(i64::try_from(found.id.ms()).unwrap_or(i64::MAX));
            let due = mark::due(due, stored.task.retry_count, new.due, server.now());
            before.replace(&stored.task, None, due)
        }
        Place::Ready(priority) => {
            let stream = store::stream_of(server, queue, *priority)?;
            match store::entry(server, stream.borrow(), found.text.borrow())? {
                Some(entry) => before.replace(&entry.task(), Some(*priority), new.due),
                None => Ok(Outcome::Add),
            }
        }
        Place::Leased(_) => {
            if size::is_full(cx, queue)? {
                cx.family.counters.refused.add(1);
                return Err(Error::TaskFull);
            }
            before.hold()
        }
        Place::Held(member) => before.replace_held(&mut overviews, member.borrow()),
    }
}

/// A task, and the one before it.
struct Before<'a> {
    cx: Cx<'a>,
    new: &'a New<'a>,
    /// The original id of the one before.
    holder: EntryId,
    /// Where that is.
    found: &'a Found,
}

impl Before<'_> {
    /// Takes the place of a task that is ready in the stream of a priority, or delayed, under its
    /// original id.
    fn replace(
        &self,
        old: &Task<'_>,
        place: Option<Priority>,
        due: Option<UnixMs>,
    ) -> Result<Outcome, Error> {
        let Self { cx, new, found, .. } = *self;
        let (queue, original) = (new.queue, self.holder.to_string());
        let mut task = new.task.clone();
        task.original_id = Some(original.as_bytes());
        task.group = old.group;
        if old.retry_count > 0 {
            task.retry_count = old.retry_count;
        }
        let value = marks::value(cx, queue, self.holder)?;
        let to = match due {
            Some(due) => delayed_ids::add(cx, queue, new.priority, &task, due)?,
            None => store::add_copy(cx, Target::Queue(queue, new.priority), &task, &[])?,
        };
        match (&found.place, place) {
            (Place::Delayed(member), _) => {
                delayed_ids::remove(cx, queue, member.borrow())?;
            }
            (_, priority) => {
                let stream = store::stream_of(cx.server, queue, priority.unwrap_or_default())?;
                let args = [stream.borrow(), found.text.borrow()];
                cx.server.call(c"XDEL", Mode::Write, &args)?;
            }
        }
        moved::record(cx, queue, &[Move::of(old, (found.id, place), Some(to))])?;
        if value.is_none() {
            // It was published without UNTIL and LAST.
            marks::set(cx, queue, self.holder, &self.mark())?;
        }
        match due {
            Some(_) => line::reschedule(cx, queue.bytes()),
            None => line::hand_over_one(cx, queue.bytes()),
        }
        Ok(Outcome::Replaced(self.holder))
    }

    /// Is held until the leased task has ended. The window is its own from now on.
    fn hold(&self) -> Result<Outcome, Error> {
        let Self { cx, new, .. } = *self;
        let (server, queue) = (cx.server, new.queue);
        let now = server.now();
        let value = marks::value(cx, queue, self.holder)?;
        let due = new.due.unwrap_or(now);
        let id = held::add(cx, queue, (self.holder, due), new.priority, &new.task)?;
        let leased = value.as_deref().and_then(Mark::parse);
        let leased = leased.unwrap_or(Mark { until: Until::Time, ..self.mark() });
        marks::set(cx, queue, self.holder, &Mark { successor: Some(id), ..leased })?;
        marks::set(cx, queue, id, &self.mark())?;
        let text = OwnedStr::new(id.to_string().as_bytes());
        let end = server.time(now + new.span);
        let args = [new.window, text.borrow(), words().pxat(), end.borrow()];
        server.call(c"SET", Mode::Write, &args)?;
        Ok(Outcome::Queued(id))
    }

    /// Takes the place of a held task, under its id.
    fn replace_held(&self, overviews: &mut Overviews, old: Str<'_>) -> Result<Outcome, Error> {
        let Self { cx, new, .. } = *self;
        let queue = new.queue;
        let group = held::group_of(old.bytes());
        let Some(held) = held::decode(old.bytes(), group.as_deref()) else {
            return Ok(Outcome::Add);
        };
        let due = new.due.unwrap_or(cx.server.now());
        let member = held::encode(due, held.after, self.holder, new.priority, &new.task);
        let is_free = locate::find(cx, queue, held.after, overviews)?.is_none();
        if member != old.bytes() {
            held::put(cx, queue, self.holder, &member)?;
            held::remove(cx, queue, old)?;
        }
        if is_free {
            // Another client has ended the task before it.
            held::enter(cx, queue, OwnedStr::new(&member).borrow())?;
        }
        Ok(Outcome::Replaced(self.holder))
    }

    fn mark(&self) -> Mark<'_> {
        Mark { until: self.new.until, successor: None, unique: self.new.unique.bytes() }
    }
}
