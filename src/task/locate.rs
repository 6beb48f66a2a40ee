//! Where a task is, by the id that PUBLISH replied or by its present one. A task that is present
//! under an id comes before one that had this id and has moved.

use super::groups::Overviews;
use super::id::{EntryId, Priority};
use super::{Cx, delayed_ids, held, moved, store};
use crate::error::Error;
use crate::server::{OwnedStr, Str, Type};

/// Where a task is.
pub enum Place {
    /// It is delayed: the member that stores it.
    Delayed(OwnedStr),
    /// It is an entry of the stream of this priority that is ready: pending in no group, and not read
    /// by all of them.
    Ready(Priority),
    /// It is an entry of that stream that is pending in a group.
    Leased(Priority),
    /// It is held until another task has ended: the member that stores it.
    Held(OwnedStr),
}

/// A task that was found.
pub struct Found {
    /// Its present id.
    pub id: EntryId,
    /// The same as an argument of inner commands.
    pub text: OwnedStr,
    /// Where it is.
    pub place: Place,
}

/// The task with this original or present id. Tasks that every group has finished are not found.
pub fn find(
    cx: Cx<'_>,
    queue: Str<'_>,
    id: EntryId,
    overviews: &mut Overviews,
) -> Result<Option<Found>, Error> {
    if let Some(found) = present(cx, queue, id, overviews)? {
        return Ok(Some(found));
    }
    match moved::present(cx, queue, id)? {
        Some(id) => present(cx, queue, id, overviews),
        None => Ok(None),
    }
}

/// The task with this present id.
pub fn present(
    cx: Cx<'_>,
    queue: Str<'_>,
    id: EntryId,
    overviews: &mut Overviews,
) -> Result<Option<Found>, Error> {
    let server = cx.server;
    let text = OwnedStr::new(id.to_string().as_bytes());
    if let Some(member) = held::find(server, queue, id)? {
        return Ok(Some(Found { id, text, place: Place::Held(member) }));
    }
    if id.priority().is_none()
        && let Some(member) = delayed_ids::find(server, queue, id)?
    {
        return Ok(Some(Found { id, text, place: Place::Delayed(member) }));
    }
    for priority in store::places(id) {
        let stream = store::stream_of(server, queue, priority)?;
        let stream = stream.borrow();
        if server.type_of(stream) != Type::Stream || !server.peek_key(stream).has_entry(id.parts())
        {
            continue;
        }
        let groups = overviews.of(cx, queue, (priority, stream))?.ok_or(Error::TaskGroups)?;
        let entry = (id, text.borrow());
        if groups.is_ready(server, stream, entry)? {
            return Ok(Some(Found { id, text, place: Place::Ready(priority) }));
        }
        if !groups.is_done(server, stream, entry)? {
            return Ok(Some(Found { id, text, place: Place::Leased(priority) }));
        }
    }
    Ok(None)
}
