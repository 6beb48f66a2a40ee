//! Adding entries: new tasks, and copies of tasks that move.

use super::stream_of;
use crate::error::Error;
use crate::server::call::CallReply;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::task::Cx;
use crate::task::entry::Task;
use crate::task::id::{EntryId, Priority};
use crate::waiting;
use std::cell::Cell;
use std::rc::Rc;

/// The fields of a task that is published.
pub struct Fields<'a> {
    /// Its payload.
    pub payload: Str<'a>,
    /// How often it was tried before.
    pub retry_count: Str<'a>,
    /// Further fields, each followed by its value.
    pub further: &'a [Str<'a>],
}

/// Adds a new task to its stream. The reply is its id. The caller serves the waiting consumers.
pub fn publish<'s>(
    cx: Cx<'s>,
    queue: Str<'_>,
    priority: Priority,
    fields: &Fields<'_>,
) -> Result<CallReply<'s>, Error> {
    let w = &cx.family.words;
    let (second, payload) = (cx.family.clock.second(cx.server), fields.payload);
    let now = second.borrow();
    let first = [w.payload(), payload, w.timestamp(), now, w.retry_count(), fields.retry_count];
    if fields.further.is_empty() {
        add(cx, queue, priority, &first)
    } else {
        add(cx, queue, priority, &[&first, fields.further].concat())
    }
}

/// Adds an entry to the stream of a priority.
fn add<'s>(
    cx: Cx<'s>,
    queue: Str<'_>,
    priority: Priority,
    fields: &[Str<'_>],
) -> Result<CallReply<'s>, Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), queue.bytes());
    if priority == Priority::LOWEST {
        let reply = add_as(server, queue, words().any_id(), fields)?;
        // A stream that was named as a queue can be the priority of another queue.
        if let Some(other) = family.queues.stream_changed(db, name) {
            waiting::serve_soon(cx, db, other);
        }
        return Ok(reply);
    }
    let stream = stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    let known = match family.queues.last_id(db, stream.bytes()) {
        Some(id) => Some(id),
        None => stored_last_id(server, stream)?,
    };
    let reply = match add_after(cx, stream, priority, known, fields) {
        // Another client has added to the stream since.
        Err(Error::Server(_)) => {
            let last = stored_last_id(server, stream)?;
            add_after(cx, stream, priority, last, fields)?
        }
        other => other?,
    };
    family.queues.added(db, name, priority);
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
    // The common case needs no allocation.
    match args.get_mut(..2 + fields.len()) {
        Some(args) => {
            let all = [stream, id].into_iter().chain(fields.iter().copied());
            args.iter_mut().zip(all).for_each(|(place, arg)| *place = arg);
            server.call(c"XADD", Mode::Write, args)
        }
        None => server.call(c"XADD", Mode::Write, &[&[stream, id], fields].concat()),
    }
}

fn add_after<'s>(
    cx: Cx<'s>,
    stream: Str<'_>,
    priority: Priority,
    last: Option<EntryId>,
    fields: &[Str<'_>],
) -> Result<CallReply<'s>, Error> {
    let Cx { server, family } = cx;
    // If no id is left in the stream, the server rejects this one.
    let id = EntryId::next(priority, last, server.now()).or(last).unwrap_or(EntryId::LAST);
    let text = OwnedStr::new(id.to_string().as_bytes());
    let reply = add_as(server, stream, text.borrow(), fields)?;
    family.queues.set_last_id(server.db(), stream.bytes(), id);
    Ok(reply)
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
    /// To a stream that was named.
    Stream(Str<'a>),
}

/// Adds a copy of a task and returns its id. The fields in `last` follow those of the task.
pub fn add_copy(
    cx: Cx<'_>,
    target: Target<'_>,
    task: &Task<'_>,
    last: &[(Str<'_>, OwnedStr)],
) -> Result<EntryId, Error> {
    let w = &cx.family.words;
    let second = cx.family.clock.second(cx.server);
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
    // They come before the fields of a copy, because they can have the same names.
    fields.extend(other.iter().map(OwnedStr::borrow));
    if let Some(original_id) = &original_id {
        fields.extend([w.original_id(), original_id.borrow()]);
    }
    if let Some(group) = &group {
        fields.extend([w.group(), group.borrow()]);
    }
    fields.extend(last.iter().flat_map(|(field, value)| [*field, value.borrow()]));
    let added = match target {
        Target::Queue(queue, priority) => add(cx, queue, priority, &fields)?,
        Target::Stream(stream) => add_as(cx.server, stream, words().any_id(), &fields)?,
    };
    EntryId::parse(added.root().bytes()).ok_or(Error::Internal)
}

/// The current second as a string, which is created once a second.
#[derive(Default)]
pub struct Clock(Cell<Option<(i64, Rc<OwnedStr>)>>);

impl Clock {
    fn second(&self, server: &Server) -> Rc<OwnedStr> {
        let now = server.now().seconds();
        let text = match self.0.take() {
            Some((second, text)) if second == now => text,
            _ => Rc::new(OwnedStr::number(now)),
        };
        self.0.set(Some((now, text.clone())));
        text
    }
}
