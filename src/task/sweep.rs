//! The walk through what is leased in a group, page by page: it finds the leases that this process
//! does not know, and consumers that are gone.

use super::id::{EntryId, Priority};
use super::memory;
use super::policy::Policy;
use super::store;
use crate::args::Argument;
use crate::error::Error;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::UnixMs;

/// Entries in a page.
const PAGE: usize = 128;

/// Reads about one page, if it is due.
pub fn look(
    server: &Server,
    queue: Str<'_>,
    group: Str<'_>,
    policy: &Policy,
    now: UnixMs,
) -> Result<(), Error> {
    let (db, name, group_name) = (server.db(), queue.bytes(), group.bytes());
    let due = memory::with_group(db, name, group_name, |group| {
        (group.sweep.due(policy.lease()) <= now).then_some(group.seen)
    });
    let Some(Some(seen)) = due else { return Ok(()) };
    let mut next = seen.or(Some((Priority::LOWEST, None)));
    let mut found = 0;
    // Without a lease nothing ends.
    while policy.lease().is_some()
        && found < PAGE
        && let Some((priority, last)) = next
    {
        let leases = page(server, queue, group, priority, last)?;
        found += leases.len();
        next = match leases.last() {
            Some((last, _)) if leases.len() >= PAGE => Some((priority, Some(*last))),
            _ => next_stream(db, name, priority),
        };
        memory::with_group(db, name, group_name, |group| {
            let Some(known) = group.leases(priority) else { return };
            for (id, idle) in leases {
                if !known.knows(id) {
                    known.begin(id, UnixMs(now.0.saturating_sub(idle)));
                }
            }
        });
    }
    let finished = next.is_none() || policy.lease().is_none();
    memory::with_group(db, name, group_name, |group| {
        group.seen = next.filter(|_| !finished);
        if finished {
            group.sweep.finished(now, policy.lease());
        } else {
            group.sweep.page_read(now);
        }
    });
    if finished { tidy(server, queue, group, now) } else { Ok(()) }
}

/// The stream that follows that of a priority.
fn next_stream(db: i32, queue: &[u8], priority: Priority) -> Option<(Priority, Option<EntryId>)> {
    let streams = memory::with(db, queue, |known| known.streams)?;
    let mut above = Priority::ALL.into_iter().filter(|next| *next > priority);
    above.find(|next| streams.contains(*next)).map(|next| (next, None))
}

/// At most a page of the leases behind `last`: ids, and how long ago they began, in ms.
fn page(
    server: &Server,
    queue: Str<'_>,
    group: Str<'_>,
    priority: Priority,
    last: Option<EntryId>,
) -> Result<Vec<(EntryId, i64)>, Error> {
    let stream = store::stream_of(server, queue, priority)?;
    let w = words();
    let behind = last.map(|id| OwnedStr::new(format!("({id}").as_bytes()));
    let from = behind.as_ref().map_or(w.minimum(), OwnedStr::borrow);
    let count = OwnedStr::number(PAGE as i64);
    let args = [stream.borrow(), group, from, w.maximum(), count.borrow()];
    let reply = match server.call(c"XPENDING", Mode::Read, &args) {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let lease =
        |lease: Element<'_>| Some((EntryId::parse(lease.at(0)?.bytes())?, lease.at(2)?.integer()));
    Ok(reply.root().elements().filter_map(lease).collect())
}

/// How long a consumer without leases must have been idle to be taken for gone, in ms.
const GONE: i64 = 3_600_000;

/// How often consumers that are gone are looked for, in ms.
const EVERY: i64 = 600_000;

/// How much longer to wait for each consumer that a group has, in ms: the server tells of all of
/// them or of none, which takes it about 5 µs each.
const EVERY_EACH: i64 = 50;

/// How many consumers are dropped at once.
const DROPPED: usize = 10_000;

/// Drops consumers that are gone: names that no worker uses any more would pile up.
fn tidy(server: &Server, queue: Str<'_>, group: Str<'_>, now: UnixMs) -> Result<(), Error> {
    let (db, name, group_name) = (server.db(), queue.bytes(), group.bytes());
    let due = memory::with_group(db, name, group_name, |group| group.tidy_due);
    if due.is_none_or(|due| due > now) {
        return Ok(());
    }
    let mut consumers = 0;
    let mut next = Some(Priority::LOWEST);
    while let Some(priority) = next {
        let stream = store::stream_of(server, queue, priority)?;
        if server.type_of(stream.borrow()) == Type::Stream {
            consumers += drop_idle(server, stream.borrow(), group)?;
        }
        next = next_stream(db, name, priority).map(|(priority, _)| priority);
    }
    let pause = EVERY.saturating_add(EVERY_EACH.saturating_mul(consumers));
    memory::with_group(db, name, group_name, |group| {
        group.tidy_due = UnixMs(now.0.saturating_add(pause));
    });
    Ok(())
}

/// Drops consumers of one stream. How many it had.
fn drop_idle(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<i64, Error> {
    let w = words();
    let reply = match server.call(c"XINFO", Mode::Read, &[w.consumers(), stream, group]) {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => return Ok(0),
        other => other?,
    };
    let is_gone = |consumer: &Element<'_>| {
        let number = |field| consumer.field(field).map(Element::integer);
        number(b"pending".as_slice()) == Some(0) && number(b"idle") >= Some(GONE)
    };
    let gone = reply.root().elements().filter(is_gone).take(DROPPED);
    for consumer in gone {
        let name = OwnedStr::new(consumer.field(b"name").map_or(&[], Element::bytes));
        let args = [w.del_consumer(), stream, group, name.borrow()];
        server.call(c"XGROUP", Mode::Write, &args)?;
    }
    Ok(reply.root().len() as i64)
}
