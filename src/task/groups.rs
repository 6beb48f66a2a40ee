//! Which groups a stream has, and which entries every one of them is past.
//!
//! That a stream has exactly one group, the common case, is remembered, so that an
//! acknowledgement costs XACK and XDEL and nothing else. Every event that can change it makes the
//! module ask again.
//!
//! The server tells of all groups of a stream or of none. So CONSUME creates no more than
//! `corral.task-groups`, and where plain clients have created more, nothing here asks for them.

use super::id::{EntryId, Priority};
use super::table::{Table, Weight};
use super::{line, store};
use crate::args::Argument;
use crate::error::Error;
use crate::server::call::Element;
use crate::server::config::TASK_GROUPS;
use crate::server::events::{KeyEvent, subscribe};
use crate::server::guard::log;
use crate::server::{MainThread, Mode, OwnedStr, Server, Str, Type, words};
use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The groups of a stream.
#[derive(Clone)]
enum Groups {
    /// Only the one of this name.
    One(Rc<[u8]>),
    /// None, or this number of them.
    Number(i64),
}

impl Weight for Groups {
    fn bytes(&self) -> usize {
        match self {
            Groups::One(name) => name.len(),
            Groups::Number(_) => 0,
        }
    }
}

/// How many bytes the names of streams and groups may take that are remembered.
const REMEMBERED: usize = 4 << 20;

static KNOWN: MainThread<RefCell<Table<Groups>>> =
    MainThread::new(RefCell::new(Table::new(REMEMBERED)));

/// The groups of a stream that is there.
fn groups_of(server: &Server, stream: Str<'_>) -> Result<Groups, Error> {
    let (db, key) = (server.db(), stream.bytes());
    if let Some(known) = KNOWN.get().borrow().get(db, key) {
        return Ok(known.clone());
    }
    subscribe(server, line::EVENTS);
    let number = {
        let told = server.call(c"XINFO", Mode::Read, &[words().stream(), stream])?;
        told.root().field(b"groups").map_or(0, Element::integer)
    };
    let only = match number {
        1 => with_groups(server, stream, |groups| {
            groups.at(0).and_then(|group| text(group, b"name")).map(Into::into)
        })?,
        _ => None,
    };
    let groups = only.map_or(Groups::Number(number), Groups::One);
    KNOWN.get().borrow_mut().put(db, key, groups.clone());
    Ok(groups)
}

/// The name of the stream's only group, if it has exactly one.
pub fn only_group(server: &Server, stream: Str<'_>) -> Result<Option<Rc<[u8]>>, Error> {
    match groups_of(server, stream)? {
        Groups::One(name) => Ok(Some(name)),
        Groups::Number(_) => Ok(None),
    }
}

/// How many groups a stream has that is there.
fn number(server: &Server, stream: Str<'_>) -> Result<i64, Error> {
    match groups_of(server, stream)? {
        Groups::One(_) => Ok(1),
        Groups::Number(number) => Ok(number),
    }
}

/// Whether the server is not asked for all groups of a stream: there are too many.
pub fn are_too_many(server: &Server, stream: Str<'_>) -> Result<bool, Error> {
    Ok(number(server, stream)? > TASK_GROUPS.get())
}

/// Refuses one more group where there are as many as there may be.
pub fn expect_room(server: &Server, stream: Str<'_>) -> Result<(), Error> {
    let is_full =
        server.type_of(stream) == Type::Stream && number(server, stream)? >= TASK_GROUPS.get();
    if is_full { Err(Error::TaskGroups) } else { Ok(()) }
}

/// Whether a stream, if it is there, has a group of this name.
pub fn exists(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    Ok(server.type_of(stream) == Type::Stream && has_group(server, stream, group)?)
}

/// Whether a stream that is there has a group of this name.
pub fn has_group(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<bool, Error> {
    let only = match KNOWN.get().borrow().get(server.db(), stream.bytes()) {
        Some(Groups::One(name)) => Some(**name == *group.bytes()),
        _ => None,
    };
    match only {
        Some(is_it) => Ok(is_it),
        None => store::has_group(server, stream, group),
    }
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

/// A group, as the server told of it.
struct Told {
    name: OwnedStr,
    /// How far it has read.
    last: Option<EntryId>,
    /// Whether it has leased anything.
    leases: bool,
}

/// The groups of a stream of a queue, as the server told of them.
pub struct Overview {
    groups: Vec<Told>,
    /// Which of them count; none where one is missing that does.
    counting: Option<Vec<usize>>,
}

impl Overview {
    /// Asks the server; `None` if there are too many.
    fn ask(server: &Server, queue: Str<'_>, stream: Str<'_>) -> Result<Option<Self>, Error> {
        let is_queue = queue.bytes() == stream.bytes() || server.type_of(queue) != Type::Stream;
        if are_too_many(server, stream)? || (!is_queue && are_too_many(server, queue)?) {
            return Ok(None);
        }
        fn name_of(group: Element<'_>) -> &[u8] {
            text(group, b"name").unwrap_or_default()
        }
        // The queue's groups come into the stream of a priority when they first read from it: an
        // entry is not finished before. One that was destroyed in the queue counts no longer.
        let named: BTreeSet<Box<[u8]>> = if is_queue {
            BTreeSet::new()
        } else {
            with_groups(server, queue, |groups| {
                groups.elements().map(|group| name_of(group).into()).collect()
            })?
        };
        with_groups(server, stream, |here| {
            let groups: Vec<Told> = here
                .elements()
                .map(|group| Told {
                    name: OwnedStr::new(name_of(group)),
                    last: text(group, b"last-delivered-id").and_then(EntryId::parse),
                    leases: group.field(b"pending").is_none_or(|pending| pending.integer() != 0),
                })
                .collect();
            let counts = |group: &Told| named.contains(group.name.borrow().bytes());
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

    /// Whether every group that counts has read as far as an entry; there may be none.
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

    /// Whether every group is past an entry: it has read as far and has not got it pending.
    pub fn is_done(
        &self,
        server: &Server,
        stream: Str<'_>,
        id: (EntryId, Str<'_>),
    ) -> Result<bool, Error> {
        Ok(self.all_have_read(id.0) && !self.is_leased(server, stream, id.1)?)
    }

    /// Whether an entry, if it is there, is ready: leased in no group, and not read by every one.
    pub fn is_ready(
        &self,
        server: &Server,
        stream: Str<'_>,
        id: (EntryId, Str<'_>),
    ) -> Result<bool, Error> {
        let nobody = self.counting.as_ref().is_some_and(Vec::is_empty);
        Ok((nobody || !self.all_have_read(id.0)) && !self.is_leased(server, stream, id.1)?)
    }
}

/// The groups of the streams of one queue, each asked for once in a command.
#[derive(Default)]
pub struct Overviews(BTreeMap<Priority, Option<Overview>>);

impl Overviews {
    /// The groups of the stream of a priority, which is there; `None` if there are too many.
    pub fn of(
        &mut self,
        server: &Server,
        queue: Str<'_>,
        (priority, stream): (Priority, Str<'_>),
    ) -> Result<Option<&Overview>, Error> {
        Ok(match self.0.entry(priority) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(place) => place.insert(Overview::ask(server, queue, stream)?).as_ref(),
        })
    }
}

/// How many consumers a group has in a stream that is there, unless there are too many groups.
pub fn consumers(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<Option<i64>, Error> {
    if are_too_many(server, stream)? {
        return Ok(None);
    }
    with_groups(server, stream, |groups| {
        let mut groups = groups.elements();
        let this = groups.find(|told| text(*told, b"name") == Some(group.bytes()));
        Some(this.and_then(|told| told.field(b"consumers")).map_or(0, Element::integer))
    })
}

/// Tells the log, once, that finished entries stay where they are.
pub fn tell_of_too_many() {
    static TOLD: MainThread<Cell<bool>> = MainThread::new(Cell::new(false));
    if !TOLD.get().replace(true) {
        log(
            c"warning",
            "a stream has more consumer groups than corral.task-groups: finished tasks are \
             acknowledged there, but not deleted",
        );
    }
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
    KNOWN.get().borrow_mut().remove(db, stream);
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    KNOWN.get().borrow_mut().forget(dbs);
}
