//! A queue on the server, as one consumer of one group sees it: see [`rules::pass`].

use super::entry::Task;
use super::id::{EntryId, Priority};
use super::leases::RELEASED;
use super::memory::{self, Outlook, Priorities};
use super::moves::{Leased, Obituary};
use super::policy::Policy;
use super::rules::{self, Batch, Desk, Entered, MOST_MOVES, Oldest, Passed, Tried};
use super::store::{self, Entry, IfMissing, NOBODY, Read};
use super::sweep::{FEW, Walk};
use super::{DELIVERED, RECLAIMED, delayed, groups, line};
use crate::args::{Argument, Parsed};
use crate::error::Error;
use crate::server::call::{CallReply, Element};
use crate::server::{Mode, OwnedStr, Reply, Server, Str, words};
use crate::time::UnixMs;

/// A task that a consumer gets.
pub struct Delivery {
    /// Its id.
    pub id: Reply<'static>,
    /// Its fields and their values.
    pub fields: Reply<'static>,
    /// How long ago its last lease began, in ms; 0 if it had none.
    pub idle: i64,
    /// How often it was delivered, this time included.
    pub deliveries: i64,
}

/// What META tells of a task that is delivered for the first time: `idle` and `deliveries`.
const FIRST: [i64; 2] = [0, 1];

impl Delivery {
    fn new(entry: Element<'_>, idle: i64, deliveries: i64) -> Self {
        let part = |index| entry.at(index).map_or(Reply::Null, Reply::copy);
        Self { id: part(0), fields: part(1), idle, deliveries }
    }

    fn first(entry: Element<'_>) -> Self {
        let [idle, deliveries] = FIRST;
        Self::new(entry, idle, deliveries)
    }
}

/// The shape of CONSUME's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As XREADGROUP replies; in RESP3 that is a map.
    Streams {
        /// Whether the client speaks RESP3.
        resp3: bool,
    },
    /// A list of tasks, with what is known of each.
    Meta,
}

impl Shape {
    /// The reply that hands out tasks of a queue.
    pub fn reply(self, queue: &[u8], tasks: Vec<Delivery>) -> Reply<'static> {
        let whole = |task: Delivery| match self {
            Shape::Streams { .. } => Reply::Array(vec![task.id, task.fields]),
            Shape::Meta => Reply::Array(vec![
                task.id,
                task.fields,
                Reply::Integer(task.idle),
                Reply::Integer(task.deliveries),
            ]),
        };
        let tasks = Reply::Array(tasks.into_iter().map(whole).collect());
        let name = Reply::Bulk(queue.to_vec());
        match self {
            Shape::Streams { resp3: true } => Reply::Map(vec![(name, tasks)]),
            Shape::Streams { resp3: false } => Reply::Array(vec![Reply::Array(vec![name, tasks])]),
            Shape::Meta => tasks,
        }
    }

    /// The reply that there is nothing.
    pub fn nothing(self) -> Reply<'static> {
        match self {
            Shape::Streams { .. } => Reply::NullArray,
            Shape::Meta => Reply::Array(Vec::new()),
        }
    }
}

/// What is left of a batch that was read.
enum Kept {
    /// All of it: this many.
    All(usize),
    /// The others were skipped.
    Some(Vec<Delivery>, usize),
}

/// What [`ServerDesk::serve_plain`] comes to.
pub enum Plain<'a> {
    /// The server's own reply.
    Reply(Reply<'a>),
    /// There is nothing.
    Nothing,
    /// These tasks, and perhaps others: they are not the only ones, or some had to be skipped.
    LookCloser(Vec<Delivery>),
}

/// A queue as one consumer of one group sees it.
pub struct ServerDesk<'a> {
    /// The server.
    pub server: &'a Server,
    /// The queue.
    pub queue: Str<'a>,
    /// The group.
    pub group: Str<'a>,
    /// The consumer.
    pub consumer: Str<'a>,
    /// What to do when the group is missing.
    pub if_missing: IfMissing,
}

/// What came of serving a consumer.
#[derive(Default)]
pub struct Served {
    /// What it gets.
    pub tasks: Vec<Delivery>,
    /// Tasks that were moved without being delivered.
    pub moved: usize,
    /// Whether there may be more to move.
    pub more: bool,
    /// Why a task stays where it is, if one does: no trouble of this consumer, unless there is
    /// nothing else to say.
    pub trouble: Option<Error>,
}

impl<'a> ServerDesk<'a> {
    /// Hands out up to `count` tasks.
    pub fn serve(&self, count: i64) -> Result<Served, Error> {
        let now = self.server.now();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let db = self.server.db();
        let mut pass =
            Pass { desk: self, now, policy: Policy::default(), tasks: Vec::new(), trouble: None };
        let (queue, group) = (self.queue.bytes(), self.group.bytes());
        let outcome = match memory::outlook(db, queue, group, now, self.server.moment()) {
            Outlook::Plain if count <= MOST_MOVES => {
                pass.read(Priority::LOWEST, count).and_then(|batch| {
                    let nothing = batch.delivered + batch.skipped == 0;
                    if batch.skipped == 0 && !(nothing && store::others_may_release()) {
                        return Ok(Passed { delivered: batch.delivered, ..Passed::default() });
                    }
                    // What comes behind the skipped, or was given back, may be for this group.
                    let rest = pass.run(count.saturating_sub(batch.delivered))?;
                    Ok(Passed { moved: rest.moved + batch.skipped, ..rest })
                })
            }
            _ => pass.run(count),
        };
        let (tasks, trouble) = (pass.tasks, pass.trouble);
        DELIVERED.add(tasks.len() as u64);
        match (outcome, trouble) {
            // What was handed out before the error is the consumer's.
            (Err(error), _) if tasks.is_empty() => Err(error),
            // Nothing can be written now.
            (Ok(_), Some(error)) if tasks.is_empty() && error.passes() => Err(error),
            (outcome, trouble) => {
                let Passed { moved, more, .. } = outcome.unwrap_or_default();
                Ok(Served { tasks, moved, more, trouble })
            }
        }
    }

    fn walk(&self, policy: &Policy) -> Walk<'a> {
        let ServerDesk { server, queue, group, .. } = *self;
        Walk { server, queue, group, lease: policy.lease() }
    }

    /// Hands out up to `count` tasks, if there is nothing but new ones, without a copy of them.
    pub fn serve_plain(&self, count: Parsed<Str<'_>, i64>, meta: bool) -> Result<Plain<'a>, Error> {
        let (now, db) = (self.server.now(), self.server.db());
        let (queue, group) = (self.queue.bytes(), self.group.bytes());
        // What is skipped is bounded by looking closer.
        let few = usize::try_from(count.value).is_ok_and(|count| count <= MOST_MOVES);
        let moment = self.server.moment();
        if !few || memory::outlook(db, queue, group, now, moment) == Outlook::Mixed {
            return Ok(Plain::LookCloser(Vec::new()));
        }
        let Some(found) = self.read_new(self.queue, count.arg, Mode::WriteForward)? else {
            return Ok(match self.walk(&Policy::default()).released(FEW)? {
                0 => Plain::Nothing,
                _ => Plain::LookCloser(Vec::new()),
            });
        };
        match self.keep(Priority::LOWEST, &found, now) {
            Kept::All(number) => {
                DELIVERED.add(number as u64);
                let reply = if meta {
                    Reply::Extended(found, store::entries, FIRST)
                } else {
                    Reply::Forward(found)
                };
                Ok(Plain::Reply(reply))
            }
            Kept::Some(tasks, _) => {
                DELIVERED.add(tasks.len() as u64);
                Ok(Plain::LookCloser(tasks))
            }
        }
    }

    fn read_new(
        &self,
        stream: Str<'_>,
        count: Str<'_>,
        mode: Mode,
    ) -> Result<Option<CallReply<'a>>, Error> {
        let ServerDesk { queue, group, consumer, .. } = *self;
        let read = Read { queue, stream, group, consumer, count };
        store::read(self.server, &read, self.if_missing, mode)
    }

    /// Keeps what the consumer gets of a batch that was read, and finishes the rest for the group:
    /// copies that are for another one, and entries whose id points elsewhere, which come again with
    /// a right one.
    fn keep(&self, priority: Priority, found: &CallReply<'_>, now: UnixMs) -> Kept {
        let Some(entries) = store::entries(found) else { return Kept::All(0) };
        let (db, queue, group) = (self.server.db(), self.queue.bytes(), self.group.bytes());
        let all = entries.len();
        let (mut ids, mut kept) = (Vec::with_capacity(all), Vec::new());
        let (mut misplaced, mut of_others) = (Vec::new(), Vec::new());
        let mut gone = None;
        for entry in entries.elements() {
            let id = entry.at(0).and_then(|id| EntryId::parse(id.bytes()));
            let id = id.unwrap_or(EntryId::LAST);
            if !entry.at(1).is_none_or(|fields| self.is_for_us(fields, &mut gone)) {
                of_others.push((id, text_of(entry)));
            } else if is_misplaced(priority, id) {
                misplaced.push((id, entry));
            } else {
                ids.push(id);
                kept.push(entry);
            }
        }
        memory::begun(db, queue, group, priority, ids.iter().copied(), now);
        let skipped = all - kept.len();
        if skipped == 0 {
            return Kept::All(all);
        }
        let tasks = kept.into_iter().map(Delivery::first).collect();
        // What is refused stays leased, and is tried again when that is over.
        for (id, entry) in misplaced {
            let text = text_of(entry);
            let leased =
                Leased { queue: self.queue, priority, group: self.group, id: (id, text.borrow()) };
            let task = Task::of(entry.at(1).into_iter().flat_map(Element::pairs));
            let _ = leased.place_anew(self.server, task);
        }
        if !of_others.is_empty() {
            let ids: Vec<_> = of_others.iter().map(|(id, text)| (*id, text.borrow())).collect();
            let _ = store::finish(self.server, self.queue, priority, self.group, &ids);
        }
        Kept::Some(tasks, skipped)
    }

    /// Whether the group gets an entry with these fields. What PUBLISH adds has three of them, and
    /// what is for one group only more than that. What is for a group that is gone is for all.
    /// Of the group that was asked about last, `last` remembers whether it is gone.
    fn is_for_us(&self, fields: Element<'_>, last: &mut Option<(OwnedStr, bool)>) -> bool {
        const PUBLISHED: usize = 6;
        if fields.len() <= PUBLISHED {
            return true;
        }
        let Some(group) = Task::of(fields.pairs()).group else { return true };
        if group == self.group.bytes() {
            return true;
        }
        if let Some((_, gone)) = last.as_ref().filter(|(name, _)| name.borrow().bytes() == group) {
            return *gone;
        }
        let name = OwnedStr::new(group);
        let exists = groups::exists(self.server, self.queue, name.borrow()).unwrap_or(true);
        *last = Some((name, !exists));
        !exists
    }
}

/// The id of an entry.
fn text_of(entry: Element<'_>) -> OwnedStr {
    OwnedStr::new(entry.at(0).map_or(&[], Element::bytes))
}

/// Whether an id points elsewhere than to the stream in which it is. In the queue's own stream
/// other clients may add whatever id they like.
fn is_misplaced(priority: Priority, id: EntryId) -> bool {
    priority > Priority::LOWEST && id.priority() != Some(priority)
}

/// One pass.
struct Pass<'d, 'a> {
    desk: &'d ServerDesk<'a>,
    now: UnixMs,
    policy: Policy,
    tasks: Vec<Delivery>,
    /// Why a task stays where it is, if one does. It does not keep back the others.
    trouble: Option<Error>,
}

/// A lease that is over.
struct Over<'s> {
    priority: Priority,
    id: EntryId,
    text: OwnedStr,
    entry: Entry<'s>,
    /// [`NOBODY`] if another client has given it back.
    idle: i64,
    tried: Tried,
}

impl Pass<'_, '_> {
    fn run(&mut self, count: usize) -> Result<Passed, Error> {
        let ServerDesk { server, queue, group, if_missing, .. } = *self.desk;
        let learned = memory::learn(server, queue, group, if_missing)?;
        self.policy = learned.policy;
        if !learned.met {
            // A consumer that is refused leaves no group behind.
            if !self.policy.is_paused()
                && let Some(error) = delayed::obstacle(server, queue)?
            {
                return Err(error);
            }
            store::ensure_group(server, queue, group, if_missing)?;
            memory::learn(server, queue, group, if_missing)?;
        }
        if self.policy.is_paused() {
            // From here on nothing is deleted that the group has not seen.
            store::ensure_group(server, queue, group, if_missing)?;
            return Ok(Passed::default());
        }
        let walk = self.desk.walk(&self.policy);
        walk.look()?;
        walk.find_released()?;
        self.ensure_group()?;
        let tries = self.policy.tries();
        rules::pass(self, count, tries)
    }

    /// A queue that has priorities has the group in its own stream before one of them is read:
    /// there it counts.
    fn ensure_group(&self) -> Result<(), Error> {
        let ServerDesk { server, queue, group, if_missing, .. } = *self.desk;
        let (db, name, group_name) = (server.db(), queue.bytes(), group.bytes());
        let needed = memory::with_group(db, name, group_name, |group| {
            !group.ensured && group.unread != Priorities::default()
        });
        if needed == Some(true) {
            store::ensure_group(server, queue, group, if_missing)?;
            memory::with_group(db, name, group_name, |group| group.ensured = true);
        }
        Ok(())
    }

    fn leased<'x>(&'x self, over: &'x Over<'_>) -> Leased<'x> {
        Leased {
            queue: self.desk.queue,
            priority: over.priority,
            group: self.desk.group,
            id: (over.id, over.text.borrow()),
        }
    }
}

impl<'a> Desk for Pass<'_, 'a> {
    type Error = Error;
    type Lease = Over<'a>;

    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Error> {
        let ServerDesk { server, queue, .. } = *self.desk;
        let moment = server.moment();
        let known = memory::with(server.db(), queue.bytes(), |known| {
            let refused = known.delayed.refused.as_ref().map(|refused| refused.error.clone());
            (known.delayed.is_due(self.now, moment), refused)
        });
        let (is_due, refused) = known.unwrap_or((true, None));
        if !is_due {
            self.trouble = refused.or(self.trouble.take());
            return Ok(Entered::default());
        }
        let promoted = delayed::promote(server, queue, (least, most), self.now)?;
        self.trouble = promoted.trouble.or(self.trouble.take());
        if promoted.entered.number > 0 {
            // Other groups may wait for them.
            line::look_at(server, queue.bytes());
        }
        Ok(promoted.entered)
    }

    fn oldest(&mut self) -> Result<Oldest<Over<'a>>, Error> {
        let ServerDesk { server, queue, group, .. } = *self.desk;
        let (db, name, group_name) = (server.db(), queue.bytes(), group.bytes());
        let lease = self.policy.lease();
        let ends = |since: UnixMs, idle: i64| {
            since == RELEASED || lease.is_some_and(|lease| idle >= lease.0)
        };
        let oldest = memory::with_group(db, name, group_name, |group| group.oldest()).flatten();
        let Some((since, id, priority)) = oldest else { return Ok(Oldest::Lasts) };
        if !ends(since, self.now.0.saturating_sub(since.0)) {
            return Ok(Oldest::Lasts);
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
            memory::ended(db, name, group_name, priority, [id].into_iter());
            return Ok(Oldest::Settled);
        };
        let since = match pending.idle {
            NOBODY => RELEASED,
            idle => UnixMs(self.now.0.saturating_sub(idle)),
        };
        if !ends(since, pending.idle) {
            memory::begun(db, name, group_name, priority, [id].into_iter(), since);
            return Ok(Oldest::Settled);
        }
        let Some(entry) = store::entry(server, stream.borrow(), text.borrow())? else {
            // Another client has deleted it: nothing is left to be done.
            store::finish(server, queue, priority, group, &[(id, text.borrow())])?;
            return Ok(Oldest::Settled);
        };
        let tried = Tried { before: entry.task().retry_count, deliveries: pending.deliveries };
        if is_misplaced(priority, id) {
            // Another client leased it. With this id it could never be finished.
            let leased = Leased { queue, priority, group, id: (id, text.borrow()) };
            let mut task = entry.task();
            task.retry_count = tried.in_all();
            if let Err(error) = leased.place_anew(server, task) {
                self.trouble = Some(error);
                memory::ended(db, name, group_name, priority, [id].into_iter());
            }
            return Ok(Oldest::Settled);
        }
        Ok(Oldest::Over(Over { priority, id, text, entry, idle: pending.idle, tried }, tried))
    }

    fn reclaim(&mut self, over: Over<'a>) -> Result<(), Error> {
        let ServerDesk { server, queue, group, consumer, .. } = *self.desk;
        let w = words();
        let stream = store::stream_of(server, queue, over.priority)?;
        let deliveries = over.tried.deliveries.saturating_add(1);
        let count = OwnedStr::number(deliveries);
        let (text, zero) = (over.text.borrow(), w.zero());
        let args = [
            stream.borrow(),
            group,
            consumer,
            zero,
            text,
            w.retries(),
            count.borrow(),
            w.just_id(),
        ];
        server.call(c"XCLAIM", Mode::Write, &args)?;
        let ids = [over.id].into_iter();
        memory::begun(server.db(), queue.bytes(), group.bytes(), over.priority, ids, self.now);
        RECLAIMED.add(1);
        if let Some(entry) = over.entry.whole() {
            self.tasks.push(Delivery::new(entry, over.idle.max(0), deliveries));
        }
        Ok(())
    }

    fn bury(&mut self, over: Over<'a>) -> Result<(), Error> {
        let tried = over.tried;
        let reason: &[u8] = match over.idle {
            _ if tried.is_fatal() => b"fatal",
            NOBODY => b"failed",
            _ => b"lease expired",
        };
        let obituary = Obituary { reason, deliveries: tried.as_this_entry() };
        let task = over.entry.task();
        let buried = self.leased(&over).bury(self.desk.server, task, tried.in_all(), &obituary);
        if let Err(error) = buried {
            // It stays leased until the sweep finds it again.
            self.trouble = Some(error);
            let ServerDesk { server, queue, group, .. } = *self.desk;
            let ids = [over.id].into_iter();
            memory::ended(server.db(), queue.bytes(), group.bytes(), over.priority, ids);
        }
        Ok(())
    }

    fn may_hold(&self, priority: Priority) -> bool {
        let ServerDesk { server, queue, group, .. } = *self.desk;
        let unread = memory::with_group(server.db(), queue.bytes(), group.bytes(), |group| {
            group.unread.contains(priority)
        });
        priority == Priority::LOWEST || unread.unwrap_or(true)
    }

    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Error> {
        let ServerDesk { server, queue, group, .. } = *self.desk;
        let stream = store::stream_of(server, queue, priority)?;
        let count = OwnedStr::number(i64::try_from(most).unwrap_or(i64::MAX));
        let drained = || memory::drained(server.db(), queue.bytes(), group.bytes(), priority);
        let found = match self.desk.read_new(stream.borrow(), count.borrow(), Mode::Write) {
            // A priority key that is not a stream holds up no other.
            Err(error) if priority > Priority::LOWEST && !error.passes() => {
                self.trouble = Some(error);
                return Ok(Batch::default());
            }
            other => other?,
        };
        let Some(found) = found else {
            drained();
            return Ok(Batch::default());
        };
        let batch = match self.desk.keep(priority, &found, self.now) {
            Kept::All(number) => {
                let entries = store::entries(&found).into_iter().flat_map(Element::elements);
                self.tasks.extend(entries.map(|entry| Delivery::first(entry)));
                Batch { delivered: number, skipped: 0 }
            }
            Kept::Some(tasks, skipped) => {
                let delivered = tasks.len();
                self.tasks.extend(tasks);
                Batch { delivered, skipped }
            }
        };
        if batch.delivered + batch.skipped < most && batch.skipped == 0 {
            drained();
        }
        Ok(batch)
    }
}
