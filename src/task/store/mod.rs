//! The inner commands of a queue: which stream an entry is in, and how entries are added ([`add`]),
//! read ([`read`]), looked up ([`lookup`]) and finished ([`finish`]).

mod add;
mod finish;
mod lookup;
mod read;

pub use add::{Clock, Fields, Target, add_copy, publish};
pub use finish::{Ending, finish, finish_as, finish_with};
pub use lookup::{
    Entry, Pending, RELEASED_IDLE, entry, find_lease, has_group, lease_start, pending, released,
};
pub use read::{IfMissing, Read, ensure_group, entries, may_hold_entries, read};

use super::id::{EntryId, Priority};
use super::known::Priorities;
use crate::error::Error;
use crate::names;
use crate::server::{CowStr, Server, Str, Type};

/// The stream that holds the tasks of a priority.
pub fn stream_of<'a>(
    server: &Server,
    queue: Str<'a>,
    priority: Priority,
) -> Result<CowStr<'a>, Error> {
    if priority == Priority::LOWEST {
        return Ok(CowStr::Given(queue));
    }
    Ok(CowStr::Made(names::key_of(server, priority.prefix(), queue)?))
}

/// Returns WRONGTYPE if the key exists and is not a stream.
pub fn expect_stream(server: &Server, stream: Str<'_>) -> Result<(), Error> {
    match server.type_of(stream) {
        Type::Absent | Type::Stream => Ok(()),
        _ => Err(Error::WrongType),
    }
}

/// The priorities whose streams may hold an entry with this id, the likeliest first. Other clients
/// may add any id to the queue's own stream.
pub fn places(id: EntryId) -> impl Iterator<Item = Priority> {
    let above_zero = id.priority().filter(|priority| *priority > Priority::LOWEST);
    above_zero.into_iter().chain([Priority::LOWEST])
}

/// Returns an error if an id belongs to a key that is not a stream, before anything is changed.
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
