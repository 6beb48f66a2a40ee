//! Reading new entries for a consumer, and creating the group that it needs.

use crate::error::Error;
use crate::server::call::CallReply;
use crate::server::resp::Element;
use crate::server::{Mode, Server, Str, Type, words};
use crate::task::{Cx, groups, life};

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
    /// The maximum number of entries.
    pub count: Str<'a>,
}

/// What to do when a consumer group is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// Create it at the beginning of the stream, and the stream as well, unless memory is full.
    CreateAll,
    /// Create it at the beginning of the stream if the stream exists. A waiter had its group when it
    /// began to wait, so full memory does not prevent this: no event reports that there is memory.
    CreateGroup,
    /// As [`IfMissing::CreateAll`], but only once there is something to read. The consumer reads from
    /// several queues, and most of them may never hold a task.
    WhenFilled,
}

/// Reads new entries; `None` if there are none. With [`Mode::WriteForward`] the reply is in the
/// protocol of the calling client.
pub fn read<'s>(
    cx: Cx<'s>,
    read: &Read<'_>,
    if_missing: IfMissing,
    mode: Mode,
) -> Result<Option<CallReply<'s>>, Error> {
    let server = cx.server;
    if if_missing == IfMissing::WhenFilled && !may_hold_entries(server, read.stream) {
        return Ok(None);
    }
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
            // The first task creates the stream of a priority; the first consumer creates the
            // queue's own stream.
            let is_queue = read.stream.bytes() == read.queue.bytes();
            let exists = |stream| server.type_of(stream) != Type::Absent;
            if !exists(read.stream) && (!is_queue || if_missing == IfMissing::CreateGroup) {
                return Ok(None);
            }
            if !is_queue {
                ensure_group(cx, read.queue, read.group, if_missing)?;
            }
            create_group(cx, read.queue, (read.stream, read.group), if_missing)?;
            read_group()?
        }
        other => other?,
    };
    Ok((!reply.root().is_null()).then_some(reply))
}

/// Whether reading a stream makes sense: it has entries, or the key is of another type, which reading
/// reports.
pub fn may_hold_entries(server: &Server, stream: Str<'_>) -> bool {
    let key = server.peek_key(stream);
    match key.kind() {
        Type::Absent => false,
        Type::Stream => key.entries() > 0,
        _ => true,
    }
}

/// The entries in the reply of [`read`].
pub fn entries<'r>(reply: &'r CallReply<'_>) -> Option<Element<'r>> {
    reply.root().first_value()
}

/// Creates a consumer group of a queue, unless it exists.
pub fn ensure_group(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: Str<'_>,
    if_missing: IfMissing,
) -> Result<(), Error> {
    let absent = cx.server.type_of(queue) == Type::Absent;
    if (absent && if_missing == IfMissing::CreateGroup) || groups::exists(cx, queue, group)? {
        return Ok(());
    }
    create_group(cx, queue, (queue, group), if_missing)
}

fn create_group(
    cx: Cx<'_>,
    queue: Str<'_>,
    (stream, group): (Str<'_>, Str<'_>),
    if_missing: IfMissing,
) -> Result<(), Error> {
    groups::expect_room(cx, stream)?;
    if stream.bytes() == queue.bytes()
        && life::needs_one_group(cx, queue)?
        && groups::has_any(cx, queue)?
    {
        return Err(Error::OneGroup);
    }
    let words = words();
    let args = [words.create(), stream, group, words.zero(), words.mkstream()];
    let (args, mode) = match if_missing {
        IfMissing::CreateAll | IfMissing::WhenFilled => (args.as_slice(), Mode::WriteIfMemory),
        IfMissing::CreateGroup => (args.get(..4).unwrap_or_default(), Mode::Write),
    };
    cx.server.call(c"XGROUP", mode, args).map(drop)
}
