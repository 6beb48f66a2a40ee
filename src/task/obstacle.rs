//! What keeps every task of a queue from being delivered: keys of the queue that have another type.

use super::delayed::due_of;
use super::id::Priority;
use super::known::Priorities;
use super::{DELAYED, entry, store};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};

/// The key of another type, if there is one, that keeps every task of a queue from being delivered.
/// It is looked for before a group is created for a consumer that would only get an error.
pub fn obstacle(server: &Server, queue: Str<'_>) -> Result<Option<Error>, Error> {
    let is_empty = |stream: Str<'_>| server.peek_key(stream).entries() == 0;
    let mut closed = Priorities::default();
    for priority in Priority::ALL {
        let stream = store::stream_of(server, queue, priority)?;
        match server.type_of(stream.borrow()) {
            Type::Absent => {}
            Type::Stream if is_empty(stream.borrow()) => {}
            Type::Stream => return Ok(None),
            _ => closed.insert(priority),
        }
    }
    let key = names::key_of(server, DELAYED, queue)?;
    match server.type_of(key.borrow()) {
        Type::SortedSet => {
            const LOOKED_AT: usize = 128;
            let last = OwnedStr::number(LOOKED_AT as i64 - 1);
            let args = [key.borrow(), words().zero(), last.borrow(), words().with_scores()];
            let found = server.call(c"ZRANGE", Mode::Read, &args)?;
            let now = Some(server.now());
            let due = found.root().pairs().take_while(|(_, score)| due_of(score) <= now);
            let mut looked_at = 0;
            for (member, _) in due {
                let group = entry::group_of(member);
                let task = entry::decode(member, group.as_deref());
                if task.is_some_and(|task| !closed.contains(task.priority)) {
                    return Ok(None);
                }
                looked_at += 1;
            }
            // Later tasks may enter.
            if looked_at == LOOKED_AT {
                return Ok(None);
            }
        }
        Type::Absent => {}
        _ => return Ok(Some(Error::WrongType)),
    }
    Ok((closed != Priorities::default()).then_some(Error::WrongType))
}
