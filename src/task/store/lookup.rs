//! Looking up entries and their leases.

use super::{places, stream_of};
use crate::error::Error;
use crate::server::call::CallReply;
use crate::server::resp::Element;
use crate::server::{CowStr, Mode, Server, Str, integer, words};
use crate::task::entry::Task;
use crate::task::id::{EntryId, Priority};
use crate::task::leases::RELEASED;
use crate::time::{Millis, UnixMs};

/// An entry of a stream.
pub struct Entry<'s>(CallReply<'s>);

impl Entry<'_> {
    /// The entry: its id and its fields.
    pub fn whole(&self) -> Option<Element<'_>> {
        self.0.root().at(0)
    }

    /// The task in it.
    pub fn task(&self) -> Task<'_> {
        let fields = self.whole().and_then(|entry| entry.at(1));
        Task::of(fields.into_iter().flat_map(Element::pairs))
    }
}

/// The entry with this id, if it exists.
pub fn entry<'s>(
    server: &'s Server,
    stream: Str<'_>,
    id: Str<'_>,
) -> Result<Option<Entry<'s>>, Error> {
    let found = Entry(server.call(c"XRANGE", Mode::Read, &[stream, id, id])?);
    Ok(found.whole().is_some().then_some(found))
}

/// A pending entry, as the server reports it.
pub struct Pending {
    /// The consumer; empty if another client has returned the entry to the group.
    pub consumer: Box<[u8]>,
    /// How long ago the lease began, in ms; [`RELEASED_IDLE`] if another client has returned the entry
    /// to the group.
    pub idle: i64,
    /// How often the entry was delivered.
    pub deliveries: i64,
}

/// The idle time that the server reports for an entry which another client has returned to the group
/// with XNACK.
pub const RELEASED_IDLE: i64 = -1;

/// When a lease began that has lasted for `idle` ms at `now`: [`RELEASED`] for [`RELEASED_IDLE`], and
/// never that for a real lease, whatever time another client has claimed it with.
pub fn lease_start(now: UnixMs, idle: i64) -> UnixMs {
    if idle == RELEASED_IDLE {
        RELEASED
    } else {
        now.before(Millis(idle)).max(UnixMs(RELEASED.0 + 1))
    }
}

/// How many entries of a stream are pending in a group without a consumer. O(N) for N consumers.
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

/// The lease of an entry in a group, and the stream that the entry is in.
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

/// Whether an existing stream has a group of this name.
pub fn has_group(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    let w = words();
    // A count of 0: the pending entries do not matter here.
    let args = [stream, group, w.minimum(), w.maximum(), w.zero()];
    match server.call(c"XPENDING", Mode::Read, &args) {
        Ok(_) => Ok(true),
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => Ok(false),
        Err(error) => Err(error),
    }
}
