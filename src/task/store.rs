//! The inner commands of the queue.

use super::entry::Task;
use super::groups::{self, Overviews};
use super::id::{EntryId, Priority};
use super::line;
use super::memory::{self, Priorities};
use super::policy::Policy;
use super::table::{Table, Weight};
use crate::args::{Argument, integer};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::call::{CallReply, Element};
use crate::server::{CowStr, MainThread, Mode, OwnedStr, Server, Str, Type, words};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The stream that holds the tasks of a priority.
pub fn stream_of<'a>(
    server: &Server,
    queue: Str<'a>,
    priority: Priority,
) -> Result<CowStr<'a>, Error> {
    if priority == Priority::LOWEST {
        return Ok(CowStr::Given(queue));
    }
    Ok(CowStr::Made(server.key_of(Prefix::Priority(priority), queue)?))
}

/// Refuses what is no stream in the place of one.
pub fn expect_stream(server: &Server, stream: Str<'_>) -> Result<(), Error> {
    match server.type_of(stream) {
        Type::Absent | Type::Stream => Ok(()),
        _ => Err(Error::WrongType),
    }
}

/// The fields of a task that is published.
pub struct Fields<'a> {
    /// Its payload.
    pub payload: Str<'a>,
    /// How often it was tried before.
    pub retry_count: Str<'a>,
}

/// Adds a new task to its stream; the reply is its id. Whoever waits for it is served by the caller.
pub fn publish<'s>(
    server: &'s Server,
    queue: Str<'_>,
    priority: Priority,
    fields: &Fields<'_>,
) -> Result<CallReply<'s>, Error> {
    let w = words();
    let (second, payload) = (timestamp(server), fields.payload);
    let now = second.borrow();
    let fields = [w.payload(), payload, w.timestamp(), now, w.retry_count(), fields.retry_count];
    add(server, queue, priority, &fields)
}

/// Adds an entry to the stream of a priority.
fn add<'s>(
    server: &'s Server,
    queue: Str<'_>,
    priority: Priority,
    fields: &[Str<'_>],
) -> Result<CallReply<'s>, Error> {
    let stream = stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    let reply = if priority == Priority::LOWEST {
        add_as(server, stream, words().any_id(), fields)?
    } else {
        let known = last_id(server, stream)?;
        match add_behind(server, stream, priority, known, fields) {
            // Another client has added to the stream since.
            Err(Error::Server(_)) => {
                let last = stored_last_id(server, stream)?;
                add_behind(server, stream, priority, last, fields)?
            }
            other => other?,
        }
    };
    if priority > Priority::LOWEST {
        memory::added(server.db(), queue.bytes(), priority);
    } else if let Some(name) = memory::stream_changed(server.db(), queue.bytes()) {
        // What is a queue of its own here is a priority of another.
        line::look_at(server, name);
    }
    Ok(reply)
}

fn add_as<'s>(
    server: &'s Server,
    stream: Str<'_>,
    id: Str<'_>,
    fields: &[Str<'_>],
) -> Result<CallReply<'s>, Error> {
    const ROOM: usize = 10;
    let mut args = [id; ROOM];
    // The common case without an allocation.
    match args.get_mut(..2 + fields.len()) {
        Some(args) => {
            let all = [stream, id].into_iter().chain(fields.iter().copied());
            args.iter_mut().zip(all).for_each(|(place, arg)| *place = arg);
            server.call(c"XADD", Mode::Write, args)
        }
        None => server.call(c"XADD", Mode::Write, &[&[stream, id], fields].concat()),
    }
}

fn add_behind<'s>(
    server: &'s Server,
    stream: Str<'_>,
    priority: Priority,
    last: Option<EntryId>,
    fields: &[Str<'_>],
) -> Result<CallReply<'s>, Error> {
    // A stream that has no id left refuses this one in the server's words.
    let id = EntryId::next(priority, last, server.now()).or(last).unwrap_or(EntryId::LAST);
    let text = OwnedStr::new(id.to_string().as_bytes());
    let reply = add_as(server, stream, text.borrow(), fields)?;
    LAST_IDS.get().borrow_mut().put(server.db(), stream.bytes(), id);
    Ok(reply)
}

impl Weight for EntryId {
    fn bytes(&self) -> usize {
        0
    }
}

/// How many bytes the names of streams may take of which the last id is remembered.
const REMEMBERED: usize = 2 << 20;

/// The id that was last made here for the streams of priorities. It spares asking the server; if it
/// is wrong, the server refuses the next one.
static LAST_IDS: MainThread<RefCell<Table<EntryId>>> =
    MainThread::new(RefCell::new(Table::new(REMEMBERED)));

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    LAST_IDS.get().borrow_mut().forget(dbs);
}

fn last_id(server: &Server, stream: Str<'_>) -> Result<Option<EntryId>, Error> {
    let known = LAST_IDS.get().borrow().get(server.db(), stream.bytes()).copied();
    match known {
        Some(id) => Ok(Some(id)),
        None => stored_last_id(server, stream),
    }
}

fn stored_last_id(server: &Server, stream: Str<'_>) -> Result<Option<EntryId>, Error> {
    match server.type_of(stream) {
        Type::Absent => Ok(None),
        Type::Stream => {
            let info = server.call(c"XINFO", Mode::Read, &[words().stream(), stream])?;
            let last = info.root().field(b"last-generated-id");
            Ok(last.and_then(|id| EntryId::parse(id.bytes())))
        }
        _ => Err(Error::WrongType),
    }
}

/// Where a copy of a task is added.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// To a queue, with a priority.
    Queue(Str<'a>, Priority),
    /// To a stream that is named.
    Stream(Str<'a>),
}

/// Adds a copy of a task. `last` are fields that come behind those of the task.
pub fn add_copy(
    server: &Server,
    target: Target<'_>,
    task: &Task<'_>,
    last: &[(Str<'_>, OwnedStr)],
) -> Result<(), Error> {
    let w = words();
    let second = timestamp(server);
    let payload = task.payload.map(OwnedStr::new);
    let retry_count = OwnedStr::number(task.retry_count);
    let original_id = task.original_id.map(OwnedStr::new);
    let group = task.group.map(OwnedStr::new);
    let other: Vec<OwnedStr> = task
        .other
        .iter()
        .flat_map(|(field, value)| [field, value].map(|x| OwnedStr::new(x)))
        .collect();
    let mut fields = Vec::with_capacity(10 + 2 * last.len() + other.len());
    if let Some(payload) = &payload {
        fields.extend([w.payload(), payload.borrow()]);
    }
    fields.extend([w.timestamp(), second.borrow(), w.retry_count(), retry_count.borrow()]);
    // Before those that make it a copy: one of them can be named like one of these.
    fields.extend(other.iter().map(OwnedStr::borrow));
    if let Some(original_id) = &original_id {
        fields.extend([w.original_id(), original_id.borrow()]);
    }
    if let Some(group) = &group {
        fields.extend([w.group_field(), group.borrow()]);
    }
    fields.extend(last.iter().flat_map(|(field, value)| [*field, value.borrow()]));
    match target {
        Target::Queue(queue, priority) => add(server, queue, priority, &fields).map(drop),
        Target::Stream(stream) => add_as(server, stream, w.any_id(), &fields).map(drop),
    }
}

/// The second that it is, as a string that is made once a second.
static SECOND: MainThread<Cell<Option<Second>>> = MainThread::new(Cell::new(None));

type Second = (i64, Rc<OwnedStr>);

fn timestamp(server: &Server) -> Rc<OwnedStr> {
    let now = server.now().seconds();
    let text = match SECOND.get().take() {
        Some((second, text)) if second == now => text,
        _ => Rc::new(OwnedStr::number(now)),
    };
    SECOND.get().set(Some((now, text.clone())));
    text
}

/// The module is unloaded.
pub fn forget() {
    SECOND.get().take();
}

/// A read of new entries for one consumer.
pub struct Read<'a> {
    /// The queue.
    pub queue: Str<'a>,
    /// The stream of one of its priorities.
    pub stream: Str<'a>,
    /// The consumer group.
    pub group: Str<'a>,
    /// The consumer.
    pub consumer: Str<'a>,
    /// How many entries at most.
    pub count: Str<'a>,
}

/// What to do when a consumer group is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// Create it at the beginning of the stream, and the stream as well, if there is memory.
    CreateAll,
    /// Create it at the beginning of the stream, if there is a stream. Whoever waits had its group
    /// when it began to wait, so this is not refused for memory: no event tells that there is some.
    CreateGroup,
}

/// Reads new entries; `None` if there are none. With [`Mode::WriteForward`] the reply is in the
/// calling client's protocol.
pub fn read<'s>(
    server: &'s Server,
    read: &Read<'_>,
    if_missing: IfMissing,
    mode: Mode,
) -> Result<Option<CallReply<'s>>, Error> {
    let words = words();
    let args = [
        words.group(),
        read.group,
        read.consumer,
        words.count(),
        read.count,
        words.streams(),
        read.stream,
        words.new_entries(),
    ];
    let read_group = || server.call(c"XREADGROUP", mode, &args);
    let reply = match read_group() {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => {
            // The stream of a priority is made by its first task; the queue's own by its first
            // consumer.
            let is_queue = read.stream.bytes() == read.queue.bytes();
            let exists = |stream| server.type_of(stream) != Type::Absent;
            if !exists(read.stream) && (!is_queue || if_missing == IfMissing::CreateGroup) {
                return Ok(None);
            }
            if !is_queue {
                ensure_group(server, read.queue, read.group, if_missing)?;
            }
            create_group(server, read.stream, read.group, if_missing)?;
            read_group()?
        }
        other => other?,
    };
    Ok((!reply.root().is_null()).then_some(reply))
}

/// Creates a consumer group of a queue, unless it is there.
pub fn ensure_group(
    server: &Server,
    queue: Str<'_>,
    group: Str<'_>,
    if_missing: IfMissing,
) -> Result<(), Error> {
    let absent = server.type_of(queue) == Type::Absent;
    if (absent && if_missing == IfMissing::CreateGroup) || groups::exists(server, queue, group)? {
        return Ok(());
    }
    create_group(server, queue, group, if_missing)
}

fn create_group(
    server: &Server,
    stream: Str<'_>,
    group: Str<'_>,
    if_missing: IfMissing,
) -> Result<(), Error> {
    groups::expect_room(server, stream)?;
    let words = words();
    let args = [words.create(), stream, group, words.zero(), words.mkstream()];
    let (args, mode) = match if_missing {
        IfMissing::CreateAll => (args.as_slice(), Mode::WriteIfMemory),
        IfMissing::CreateGroup => (args.get(..4).unwrap_or_default(), Mode::Write),
    };
    server.call(c"XGROUP", mode, args).map(drop)
}

/// Whether a stream that is there has a group of this name.
pub fn has_group(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    let w = words();
    // Whatever it has leased, none of it is told.
    let args = [stream, group, w.minimum(), w.maximum(), w.zero()];
    match server.call(c"XPENDING", Mode::Read, &args) {
        Ok(_) => Ok(true),
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this server has a command by which other clients give entries back to a group, so that
/// nobody has them: XNACK, of which no event tells.
static RELEASES: MainThread<Cell<Option<bool>>> = MainThread::new(Cell::new(None));

/// See [`RELEASES`]; false until [`find_out`] was called.
pub fn others_may_release() -> bool {
    RELEASES.get().get() == Some(true)
}

/// Asks the server which commands it has, once.
pub fn find_out(server: &Server) {
    if RELEASES.get().get().is_none() {
        RELEASES.get().set(Some(server.has_command(c"XNACK")));
    }
}

/// The entries in the reply of [`read`].
pub fn entries<'r>(reply: &'r CallReply<'_>) -> Option<Element<'r>> {
    reply.root().first_value()
}

/// An entry of a stream.
pub struct Entry<'s>(CallReply<'s>);

impl Entry<'_> {
    /// The entry: its id and its fields.
    pub fn whole(&self) -> Option<Element<'_>> {
        self.0.root().at(0)
    }

    /// The task that it holds.
    pub fn task(&self) -> Task<'_> {
        let fields = self.whole().and_then(|entry| entry.at(1));
        Task::of(fields.into_iter().flat_map(Element::pairs))
    }
}

/// The entry with this id, if it is there.
pub fn entry<'s>(
    server: &'s Server,
    stream: Str<'_>,
    id: Str<'_>,
) -> Result<Option<Entry<'s>>, Error> {
    let found = Entry(server.call(c"XRANGE", Mode::Read, &[stream, id, id])?);
    Ok(found.whole().is_some().then_some(found))
}

/// What the server knows of a lease.
pub struct Pending {
    /// The consumer; empty where nobody has the entry any more.
    pub consumer: Box<[u8]>,
    /// How long ago it began, in ms; [`NOBODY`] where nobody has the entry any more.
    pub idle: i64,
    /// How often the entry was delivered.
    pub deliveries: i64,
}

/// What the server tells in the place of how long ago a lease began, where another client has given
/// the entry back to the group.
pub const NOBODY: i64 = -1;

/// How many entries of a stream are pending in a group, but leased to nobody. O(N) for N consumers.
pub fn released(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<i64, Error> {
    let summary = match server.call(c"XPENDING", Mode::Read, &[stream, group]) {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => return Ok(0),
        other => other?,
    };
    let all = summary.root().at(0).map_or(0, Element::integer);
    let number = |of: Element<'_>| of.at(1).and_then(|number| integer(number.bytes())).unwrap_or(0);
    let consumers = summary.root().at(3);
    let leased: i64 = consumers.into_iter().flat_map(Element::elements).map(number).sum();
    Ok(all.saturating_sub(leased).max(0))
}

/// The lease of an entry in a group, if there is one.
pub fn pending(
    server: &Server,
    stream: Str<'_>,
    group: Str<'_>,
    id: Str<'_>,
) -> Result<Option<Pending>, Error> {
    let args = [stream, group, id, id, words().one()];
    let reply = match server.call(c"XPENDING", Mode::Read, &args) {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => return Ok(None),
        other => other?,
    };
    Ok(reply.root().at(0).and_then(|lease| {
        Some(Pending {
            consumer: lease.at(1)?.bytes().into(),
            idle: lease.at(2)?.integer(),
            deliveries: lease.at(3)?.integer(),
        })
    }))
}

/// The stream in which an entry is leased to a group, and how: where its id points, or else in the
/// queue's own stream, where other clients may add whatever id they like.
pub fn find_lease<'a>(
    server: &Server,
    queue: Str<'a>,
    group: Str<'_>,
    id: (EntryId, Str<'_>),
) -> Result<Option<(Priority, CowStr<'a>, Pending)>, Error> {
    for priority in places(id.0) {
        let stream = stream_of(server, queue, priority)?;
        if let Some(lease) = pending(server, stream.borrow(), group, id.1)? {
            return Ok(Some((priority, stream, lease)));
        }
    }
    Ok(None)
}

/// The streams in which an entry of this id may be, the likely one first.
pub fn places(id: EntryId) -> impl Iterator<Item = Priority> {
    let above_zero = id.priority().filter(|priority| *priority > Priority::LOWEST);
    above_zero.into_iter().chain([Priority::LOWEST])
}

/// Refuses ids that point to what is no stream, before anything is changed.
pub fn check_places(
    server: &Server,
    queue: Str<'_>,
    ids: impl Iterator<Item = EntryId>,
) -> Result<(), Error> {
    let mut seen = Priorities::default();
    for priority in ids.flat_map(places) {
        if seen.contains(priority) {
            continue;
        }
        seen.insert(priority);
        expect_stream(server, stream_of(server, queue, priority)?.borrow())?;
    }
    Ok(())
}

/// Acknowledges entries of one stream for a group, and deletes those that every group is past. The
/// number is that of the entries which were pending for the group.
pub fn finish(
    server: &Server,
    queue: Str<'_>,
    priority: Priority,
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
) -> Result<i64, Error> {
    finish_with(server, (queue, priority), group, ids, &mut Overviews::default())
}

/// As [`finish`], where more is finished in the same command.
pub fn finish_with(
    server: &Server,
    (queue, priority): (Str<'_>, Priority),
    group: Str<'_>,
    ids: &[(EntryId, Str<'_>)],
    overviews: &mut Overviews,
) -> Result<i64, Error> {
    let stream = stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    // Whatever can be refused comes before the first change.
    let keeps = Policy::of(server, queue)?.keeps();
    let texts: Vec<Str<'_>> = ids.iter().map(|(_, text)| *text).collect();
    let acknowledged = {
        let args = [&[stream, group], texts.as_slice()].concat();
        server.call(c"XACK", Mode::Write, &args)?.root().integer()
    };
    if acknowledged == 0 {
        return Ok(0);
    }
    memory::ended(
        server.db(),
        queue.bytes(),
        group.bytes(),
        priority,
        ids.iter().map(|(id, _)| *id),
    );
    if keeps {
        return Ok(acknowledged);
    }
    // Every id was pending here, so with a single group everybody is past all of them.
    let all_were_pending = usize::try_from(acknowledged) == Ok(ids.len());
    let done = if all_were_pending && groups::is_only(server, queue, stream, group)? {
        texts
    } else {
        match overviews.of(server, queue, (priority, stream))? {
            Some(groups) => {
                let mut done = Vec::with_capacity(ids.len());
                for id in ids {
                    if groups.is_done(server, stream, *id)? {
                        done.push(id.1);
                    }
                }
                done
            }
            None => {
                groups::tell_of_too_many();
                return Ok(acknowledged);
            }
        }
    };
    if !done.is_empty() {
        let args = [&[stream], done.as_slice()].concat();
        server.call(c"XDEL", Mode::Write, &args)?;
    }
    Ok(acknowledged)
}
