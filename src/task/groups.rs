//! The consumer groups of a stream, and which entries all of them have finished.
//!
//! In the common case a stream has exactly one group. That is remembered, so that an acknowledgment
//! costs XACK and XDEL and nothing else. Every event that can change the groups drops it.
//!
//! The server reports all groups of a stream or none. So CONSUME creates no more than
//! `corral.task-groups`, and if other clients have created more, this file does not ask for them.

use super::id::{EntryId, Priority};
use super::known::Groups;
use super::{Cx, EVENTS, store};
use crate::error::Error;
use crate::server::guard::log;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The groups of an existing stream.
fn groups_of(cx: Cx<'_>, stream: Str<'_>) -> Result<Groups, Error> {
    let Cx { server, family } = cx;
    let (db, key) = (server.db(), stream.bytes());
    if let Some(known) = family.queues.groups(db, key) {
        return Ok(known);
    }
    server.subscribe(EVENTS);
    let number = {
        let info = server.call(c"XINFO", Mode::Read, &[words().stream(), stream])?;
        info.root().field(b"groups").map_or(0, Element::integer)
    };
    let only = match number {
        1 => with_groups(server, stream, |groups| {
            groups.at(0).and_then(|group| text(group, b"name")).map(Into::into)
        })?,
        _ => None,
    };
    let groups = only.map_or(Groups::Number(number), Groups::One);
    family.queues.set_groups(db, key, groups.clone());
    Ok(groups)
}

/// The name of the stream's only group, if it has exactly one.
pub fn only_group(cx: Cx<'_>, stream: Str<'_>) -> Result<Option<Rc<[u8]>>, Error> {
    match groups_of(cx, stream)? {
        Groups::One(name) => Ok(Some(name)),
        Groups::Number(_) => Ok(None),
    }
}

/// How many groups an existing stream has.
fn number(cx: Cx<'_>, stream: Str<'_>) -> Result<i64, Error> {
    match groups_of(cx, stream)? {
        Groups::One(_) => Ok(1),
        Groups::Number(number) => Ok(number),
    }
}

/// Whether a stream has too many groups to ask the server for all of them.
pub fn are_too_many(cx: Cx<'_>, stream: Str<'_>) -> Result<bool, Error> {
    Ok(number(cx, stream)? > cx.family.settings.groups.get())
}

/// Whether a queue has at most one group.
pub fn at_most_one(cx: Cx<'_>, queue: Str<'_>) -> Result<bool, Error> {
    Ok(cx.server.type_of(queue) != Type::Stream || number(cx, queue)? <= 1)
}

/// Whether a queue has a group.
pub fn has_any(cx: Cx<'_>, queue: Str<'_>) -> Result<bool, Error> {
    Ok(cx.server.type_of(queue) == Type::Stream && number(cx, queue)? > 0)
}

/// Returns an error if a stream may not get another group.
pub fn expect_room(cx: Cx<'_>, stream: Str<'_>) -> Result<(), Error> {
    let most = cx.family.settings.groups.get();
    let is_full = cx.server.type_of(stream) == Type::Stream && number(cx, stream)? >= most;
    if is_full { Err(Error::TaskGroups) } else { Ok(()) }
}

/// Whether a stream exists and has a group of this name.
pub fn exists(cx: Cx<'_>, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    Ok(cx.server.type_of(stream) == Type::Stream && has_group(cx, stream, group)?)
}

/// Whether an existing stream has a group of this name.
pub fn has_group(cx: Cx<'_>, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    match cx.family.queues.groups(cx.server.db(), stream.bytes()) {
        Some(Groups::One(name)) => Ok(*name == *group.bytes()),
        _ => store::has_group(cx.server, stream, group),
    }
}

/// Whether `group` is the only group of the queue and of this stream of the queue.
pub fn is_only(cx: Cx<'_>, queue: Str<'_>, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    let only = |stream| -> Result<bool, Error> {
        Ok(only_group(cx, stream)?.is_some_and(|only| *only == *group.bytes()))
    };
    if queue.bytes() == stream.bytes() || cx.server.type_of(queue) != Type::Stream {
        return only(stream);
    }
    Ok(only(stream)? && only(queue)?)
}

/// What the server reports of a group.
struct GroupInfo {
    name: OwnedStr,
    /// The last entry that it has read.
    last: Option<EntryId>,
    /// Whether it has pending entries.
    leases: bool,
}

/// What the server reports of all groups of a stream.
pub struct Overview {
    groups: Vec<GroupInfo>,
    /// The groups that count; `None` if a group that counts is missing in this stream.
    counting: Option<Vec<usize>>,
}

impl Overview {
    /// Asks the server; `None` if there are too many.
    fn ask(cx: Cx<'_>, queue: Str<'_>, stream: Str<'_>) -> Result<Option<Self>, Error> {
        let server = cx.server;
        let is_queue = queue.bytes() == stream.bytes() || server.type_of(queue) != Type::Stream;
        if are_too_many(cx, stream)? || (!is_queue && are_too_many(cx, queue)?) {
            return Ok(None);
        }
        fn name_of(group: Element<'_>) -> &[u8] {
            text(group, b"name").unwrap_or_default()
        }
        // A group appears in the stream of a priority when it first reads from it, and no entry is
        // finished before that. A group that was destroyed in the queue itself no longer counts.
        let named: BTreeSet<Box<[u8]>> = if is_queue {
            BTreeSet::new()
        } else {
            with_groups(server, queue, |groups| {
                groups.elements().map(|group| name_of(group).into()).collect()
            })?
        };
        with_groups(server, stream, |here| {
            let groups: Vec<GroupInfo> = here
                .elements()
                .map(|group| GroupInfo {
                    name: OwnedStr::new(name_of(group)),
                    last: text(group, b"last-delivered-id").and_then(EntryId::parse),
                    leases: group.field(b"pending").is_none_or(|pending| pending.integer() != 0),
                })
                .collect();
            let counts = |group: &GroupInfo| named.contains(group.name.borrow().bytes());
            let counting: Vec<usize> = groups
                .iter()
                .enumerate()
                .filter(|(_, group)| named.is_empty() || counts(group))
                .map(|(index, _)| index)
                .collect();
            let all_here = named.is_empty() || counting.len() == named.len();
            Some(Self { groups, counting: all_here.then_some(counting) })
        })
    }

    /// Whether every group that counts has read an entry. True if none counts.
    fn all_have_read(&self, id: EntryId) -> bool {
        self.counting.as_ref().is_some_and(|counting| {
            let mut groups = counting.iter().filter_map(|index| self.groups.get(*index));
            groups.all(|group| Some(id) <= group.last)
        })
    }

    fn is_leased(&self, server: &Server, stream: Str<'_>, id: Str<'_>) -> Result<bool, Error> {
        for group in self.groups.iter().filter(|group| group.leases) {
            if store::pending(server, stream, group.name.borrow(), id)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether every group has finished an entry: it has read it, and the entry is not pending.
    pub fn is_done(
        &self,
        server: &Server,
        stream: Str<'_>,
        id: (EntryId, Str<'_>),
    ) -> Result<bool, Error> {
        Ok(self.all_have_read(id.0) && !self.is_leased(server, stream, id.1)?)
    }

    /// Whether an entry, if it exists, is ready: pending in no group, and not read by all of them.
    pub fn is_ready(
        &self,
        server: &Server,
        stream: Str<'_>,
        id: (EntryId, Str<'_>),
    ) -> Result<bool, Error> {
        let nobody = self.counting.as_ref().is_some_and(Vec::is_empty);
        Ok((nobody || !self.all_have_read(id.0)) && !self.is_leased(server, stream, id.1)?)
    }

    /// The groups in which an entry is pending.
    pub fn holders(
        &self,
        server: &Server,
        stream: Str<'_>,
        id: Str<'_>,
    ) -> Result<Vec<Str<'_>>, Error> {
        let mut holders = Vec::new();
        for group in self.groups.iter().filter(|group| group.leases) {
            if store::pending(server, stream, group.name.borrow(), id)?.is_some() {
                holders.push(group.name.borrow());
            }
        }
        Ok(holders)
    }
}

/// The groups of the streams of one queue. A command asks for each stream at most once.
#[derive(Default)]
pub struct Overviews(BTreeMap<Priority, Option<Overview>>);

impl Overviews {
    /// The groups of the existing stream of a priority; `None` if there are too many.
    pub fn of(
        &mut self,
        cx: Cx<'_>,
        queue: Str<'_>,
        (priority, stream): (Priority, Str<'_>),
    ) -> Result<Option<&Overview>, Error> {
        Ok(match self.0.entry(priority) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(place) => place.insert(Overview::ask(cx, queue, stream)?).as_ref(),
        })
    }
}

/// How many consumers a group has in an existing stream, unless there are too many groups.
pub fn consumers(cx: Cx<'_>, stream: Str<'_>, group: Str<'_>) -> Result<Option<i64>, Error> {
    if are_too_many(cx, stream)? {
        return Ok(None);
    }
    with_groups(cx.server, stream, |groups| {
        let mut groups = groups.elements();
        let this = groups.find(|info| text(*info, b"name") == Some(group.bytes()));
        Some(this.and_then(|info| info.field(b"consumers")).map_or(0, Element::integer))
    })
}

/// Logs, once, that finished entries are not deleted.
pub fn log_too_many(cx: Cx<'_>) {
    if !cx.family.logged_too_many_groups.replace(true) {
        log(
            c"warning",
            "a stream has more consumer groups than corral.task-groups: finished tasks are \
             acknowledged there, but not deleted",
        );
    }
}

/// A field of what the server reports of a group.
pub fn text<'r>(group: Element<'r>, field: &[u8]) -> Option<&'r [u8]> {
    group.field(field).map(Element::bytes)
}

/// Looks at what the server reports of the groups of a stream.
pub fn with_groups<T>(
    server: &Server,
    stream: Str<'_>,
    look: impl FnOnce(Element<'_>) -> T,
) -> Result<T, Error> {
    let reply = server.call(c"XINFO", Mode::Read, &[words().groups(), stream])?;
    Ok(look(reply.root()))
}
