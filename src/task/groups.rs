//! Which groups a stream has, and which entries every one of them is past.
//!
//! That a stream has exactly one group, the common case, is remembered, so that an
//! acknowledgement costs XACK and XDEL and nothing else. Every event that can change it makes the
//! module ask again.

use super::id::EntryId;
use super::{line, store};
use crate::args::Argument;
use crate::error::Error;
use crate::server::call::Element;
use crate::server::events::{KeyEvent, subscribe};
use crate::server::{MainThread, Mode, OwnedStr, Server, Str, Type, words};
use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The only group of each stream that is known to have just one, by database.
type Only = BTreeMap<i32, HashMap<Box<[u8]>, Rc<[u8]>>>;

static ONLY: MainThread<LazyCell<RefCell<Only>>> = MainThread::new(LazyCell::new(RefCell::default));

/// How many streams of a database are remembered; beyond that all are asked about anew.
const REMEMBERED: usize = 4096;

/// The name of the stream's only group, if it has exactly one.
pub fn only_group(server: &Server, stream: Str<'_>) -> Result<Option<Rc<[u8]>>, Error> {
    let (db, key) = (server.db(), stream.bytes());
    if let Some(name) = ONLY.get().borrow().get(&db).and_then(|known| known.get(key)) {
        return Ok(Some(name.clone()));
    }
    subscribe(server, line::EVENTS);
    let only: Option<Rc<[u8]>> = with_groups(server, stream, |groups| {
        let name = groups.at(0).and_then(|g| text(g, b"name"));
        name.filter(|_| groups.len() == 1).map(Into::into)
    })?;
    if let Some(name) = &only {
        let mut known = ONLY.get().borrow_mut();
        let known = known.entry(db).or_default();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key.into(), name.clone());
    }
    Ok(only)
}

/// Whether the stream has a group of this name.
pub fn has_group(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    match only_group(server, stream)? {
        Some(name) => Ok(*name == *group.bytes()),
        None => with_groups(server, stream, |groups| {
            groups.elements().any(|g| text(g, b"name") == Some(group.bytes()))
        }),
    }
}

/// Whether there is such a stream, and it has a group of this name.
pub fn exists(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    Ok(server.type_of(stream) == Type::Stream && has_group(server, stream, group)?)
}

/// Whether `group` is the only one of the queue, and of this stream of it.
pub fn is_only(
    server: &Server,
    queue: Str<'_>,
    stream: Str<'_>,
    group: Str<'_>,
) -> Result<bool, Error> {
    let only = |stream| -> Result<bool, Error> {
        Ok(only_group(server, stream)?.is_some_and(|only| *only == *group.bytes()))
    };
    if queue.bytes() == stream.bytes() || server.type_of(queue) != Type::Stream {
        return only(stream);
    }
    Ok(only(stream)? && only(queue)?)
}

/// Those of `ids` that every group of the queue is past in this stream of it: the group has read as
/// far and has not got the entry pending.
pub fn done_everywhere<'a>(
    server: &Server,
    queue: Str<'_>,
    stream: Str<'_>,
    ids: &[(EntryId, Str<'a>)],
) -> Result<Vec<Str<'a>>, Error> {
    let named = names(server, queue, stream)?;
    with_groups(server, stream, |groups| {
        let Some(counting) = counting(&named, groups) else { return Ok(Vec::new()) };
        let mut done = Vec::with_capacity(ids.len());
        for id in ids {
            let read_by_all = counting.iter().all(|group| has_read(*group, id.0));
            if read_by_all && !is_leased(server, stream, groups, id.1)? {
                done.push(id.1);
            }
        }
        Ok(done)
    })?
}

/// The names of the groups of a queue, if `stream` is another one of its streams and there are any.
fn names(server: &Server, queue: Str<'_>, stream: Str<'_>) -> Result<Vec<Box<[u8]>>, Error> {
    if queue.bytes() == stream.bytes() || server.type_of(queue) != Type::Stream {
        return Ok(Vec::new());
    }
    with_groups(server, queue, |groups| {
        groups.elements().filter_map(|group| text(group, b"name")).map(Into::into).collect()
    })
}

/// The groups of a stream that count. The queue's groups come into the stream of a priority when
/// they first read from it: none if one of them is not here yet. One that was destroyed in the queue
/// counts no longer.
fn counting<'r>(named: &[Box<[u8]>], groups: Element<'r>) -> Option<Vec<Element<'r>>> {
    if named.is_empty() {
        return Some(groups.elements().collect());
    }
    let here = |name: &[u8]| groups.elements().find(|group| text(*group, b"name") == Some(name));
    named.iter().map(|name| here(name)).collect()
}

/// Whether a group has read as far as an entry.
fn has_read(group: Element<'_>, id: EntryId) -> bool {
    Some(id) <= text(group, b"last-delivered-id").and_then(EntryId::parse)
}

/// Whether an entry is leased in any group of a stream.
fn is_leased(
    server: &Server,
    stream: Str<'_>,
    groups: Element<'_>,
    id: Str<'_>,
) -> Result<bool, Error> {
    for group in groups.elements() {
        let nothing = group.field(b"pending").is_some_and(|pending| pending.integer() == 0);
        let name = OwnedStr::new(text(group, b"name").unwrap_or_default());
        if !nothing && store::pending(server, stream, name.borrow(), id)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an entry, if it is there, is ready: leased in no group, and not read by every one.
pub fn is_ready(
    server: &Server,
    queue: Str<'_>,
    stream: Str<'_>,
    id: (EntryId, Str<'_>),
) -> Result<bool, Error> {
    let named = names(server, queue, stream)?;
    with_groups(server, stream, |groups| {
        let counting = counting(&named, groups);
        let all_read = counting.is_some_and(|counting| {
            !counting.is_empty() && counting.iter().all(|group| has_read(*group, id.0))
        });
        Ok(!all_read && !is_leased(server, stream, groups, id.1)?)
    })?
}

/// A field of what the server tells of a group.
pub fn text<'r>(group: Element<'r>, field: &[u8]) -> Option<&'r [u8]> {
    group.field(field).map(Element::bytes)
}

/// Looks at what the server tells of the groups of a stream.
pub fn with_groups<T>(
    server: &Server,
    stream: Str<'_>,
    look: impl FnOnce(Element<'_>) -> T,
) -> Result<T, Error> {
    let reply = server.call(c"XINFO", Mode::Read, &[words().groups(), stream])?;
    Ok(look(reply.root()))
}

/// Whether an event can change what is remembered of a stream: all but those that only touch
/// entries and consumers.
pub fn may_change(event: KeyEvent<'_>) -> bool {
    !event.stream || matches!(event.name, b"xgroup-create" | b"xgroup-destroy")
}

/// Forgets what is known of a stream.
pub fn forget(db: i32, stream: &[u8]) {
    if let Some(known) = ONLY.get().borrow_mut().get_mut(&db) {
        known.remove(stream);
    }
}

/// Forgets everything.
pub fn forget_all() {
    ONLY.get().take();
}
