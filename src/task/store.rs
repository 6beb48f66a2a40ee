//! The inner commands of the queue.

use super::{ACKED, groups};
use crate::error::Error;
use crate::server::call::{CallReply, Element};
use crate::server::{MainThread, Mode, OwnedStr, Server, Str, Type, words};
use std::cell::Cell;
use std::rc::Rc;

/// What a task carries.
pub struct Task<'a> {
    /// Its payload.
    pub payload: Str<'a>,
    /// How often it was tried before.
    pub retry_count: Str<'a>,
    /// The id of the first publish, in a copy of a task.
    pub original_id: Option<Str<'a>>,
}

/// Adds a task to a stream; the reply is its id. Whoever waits for it is served by the caller.
pub fn add<'s>(
    server: &'s Server,
    stream: Str<'_>,
    task: &Task<'_>,
) -> Result<CallReply<'s>, Error> {
    let w = words();
    let second = timestamp(server);
    let now = second.borrow();
    let (any_id, payload, retry_count) = (w.any_id(), w.payload(), w.retry_count());
    let plain =
        [stream, any_id, payload, task.payload, w.timestamp(), now, retry_count, task.retry_count];
    match task.original_id {
        None => server.call(c"XADD", Mode::Write, &plain),
        Some(original) => {
            let copy = [plain.as_slice(), &[w.original_id(), original]].concat();
            server.call(c"XADD", Mode::Write, &copy)
        }
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
    /// The stream.
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
            let no_stream = server.type_of(read.stream) == Type::Absent;
            if no_stream && if_missing == IfMissing::CreateGroup {
                return Ok(None);
            }
            create_group(server, read, if_missing)?;
            read_group()?
        }
        other => other?,
    };
    Ok((!reply.root().is_null()).then_some(reply))
}

fn create_group(server: &Server, read: &Read<'_>, if_missing: IfMissing) -> Result<(), Error> {
    let words = words();
    let args = [words.create(), read.stream, read.group, words.zero(), words.mkstream()];
    let (args, mode) = match if_missing {
        IfMissing::CreateAll => (args.as_slice(), Mode::WriteIfMemory),
        IfMissing::CreateGroup => (args.get(..4).unwrap_or_default(), Mode::Write),
    };
    server.call(c"XGROUP", mode, args).map(drop)
}

/// The entries in the reply of [`read`].
pub fn entries<'r>(reply: &'r CallReply<'_>) -> Option<Element<'r>> {
    reply.root().first_value()
}

/// The value of a field of an entry, if the entry and the field are there.
pub fn field_of(
    server: &Server,
    stream: Str<'_>,
    id: Str<'_>,
    field: &[u8],
) -> Result<Option<OwnedStr>, Error> {
    let found = server.call(c"XRANGE", Mode::Read, &[stream, id, id])?;
    let fields = found.root().at(0).and_then(|entry| entry.at(1));
    Ok(fields.and_then(|f| f.field(field)).map(|value| OwnedStr::new(value.bytes())))
}

/// Acknowledges entries for a group, and deletes those that every group is past. The number is
/// that of the entries which were pending for the group.
pub fn finish(
    server: &Server,
    stream: Str<'_>,
    group: Str<'_>,
    ids: &[Str<'_>],
) -> Result<i64, Error> {
    let acknowledged = {
        let args = [&[stream, group], ids].concat();
        server.call(c"XACK", Mode::Write, &args)?.root().integer()
    };
    if acknowledged == 0 {
        return Ok(0);
    }
    ACKED.add(acknowledged as u64);
    // Every id was pending here, so with a single group everybody is past all of them.
    let all_were_pending = usize::try_from(acknowledged) == Ok(ids.len());
    let done = if all_were_pending && groups::only_group(server, stream)?.is_some() {
        ids.to_vec()
    } else {
        groups::done_everywhere(server, stream, ids)?
    };
    if !done.is_empty() {
        let args = [&[stream], done.as_slice()].concat();
        server.call(c"XDEL", Mode::Write, &args)?;
    }
    Ok(acknowledged)
}
