//! TASK.INFO

use super::groups::{text, with_groups};
use super::id::{EntryId, Priority};
use super::leases::RELEASED;
use super::policy::Policy;
use super::{line, memory, store};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};

/// `TASK.INFO stream` tells of a queue: `length` (entries in all its streams), `delayed`, `dead`,
/// `oldest_ready_ms` (how long the oldest entry that some group has not read is there; 0 without
/// one), `next_due_ms` (until the first delayed task is due; 0 if it is, -1 without one),
/// `priorities` (entries by priority above 0), `waiting_consumers`, `groups` (of each its `name`, how
/// many tasks are `ready` and `leased`, its `consumers`, and `oldest_leased_ms`) and the `policy` in
/// force.
pub struct Info;

/// How many entries are counted one by one for all groups together; beyond that the server's own
/// estimate is told.
const COUNTED: usize = 10_000;

/// How many consumers a group may have for their names to be looked at.
const NAMED: i64 = 1000;

/// How many leases are looked at for the oldest.
const LOOKED_AT: i64 = 128;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"task.info",
        summary: c"Tells of a queue, its groups and its policy.",
        complexity: c"O(G) for G consumer groups; O(C) for C consumers where there are priorities.",
        since: c"0.1.0",
        arity: 2,
        flags: c"readonly",
        categories: c"read stream slow",
        keys: &[Key { position: 1, access: Access::Read }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"stream", 0)],
    };
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(queue: Str<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let now = server.now();
        let mut groups: BTreeMap<Box<[u8]>, Group> = BTreeMap::new();
        store::find_out(server);
        let (mut length, mut oldest, mut budget, mut leases) = (0, None, COUNTED, COUNTED);
        let mut priorities = Vec::new();
        for priority in Priority::ALL {
            let stream = store::stream_of(server, queue, priority)?;
            let stream = stream.borrow();
            match server.type_of(stream) {
                Type::Absent => continue,
                Type::Stream => {}
                _ => return Err(Error::WrongType),
            }
            let entries = server.peek_key(stream).entries() as i64;
            length += entries;
            if priority > Priority::LOWEST && entries > 0 {
                let number = priority.number().to_string();
                priorities.push((Reply::Bulk(number.into_bytes()), Reply::Integer(entries)));
            }
            let budgets = (&mut budget, &mut leases);
            let first_ready =
                look_at_groups(server, (priority, stream), entries, &mut groups, budgets)?;
            oldest = [oldest, first_ready].into_iter().flatten().min();
        }
        let delayed = server.key_of(Prefix::Delayed, queue)?;
        let next_due = match memory::first_due(server, delayed.borrow())? {
            None => -1,
            Some(due) => due.0.saturating_sub(now.0).max(0),
        };
        let dead = server.key_of(Prefix::Dead, queue)?;
        store::expect_stream(server, dead.borrow())?;
        let policy = Policy::of(server, queue)?;
        let age = |since: UnixMs| now.0.saturating_sub(since.0).max(0);
        let known = |name: &[u8]| {
            let known = memory::with_group(server.db(), queue.bytes(), name, |g| g.oldest());
            let known = known.flatten().filter(|(since, ..)| *since != RELEASED);
            known.map_or(0, |(since, ..)| age(since))
        };
        for (name, group) in &mut groups {
            if group.streams.len() > 1 && group.consumers <= NAMED {
                group.consumers = count_consumers(server, queue, name, &group.streams)?;
            }
        }
        let groups = groups.into_iter().map(|(name, group)| {
            // The server's word is exact, for as many leases as were looked at.
            let leased = group.oldest_leased.max(if group.unseen { known(&name) } else { 0 });
            Reply::Map(vec![
                field("name", Reply::Bulk(name.into())),
                field("ready", Reply::Integer(group.ready)),
                field("leased", Reply::Integer(group.leased)),
                field("consumers", Reply::Integer(group.consumers)),
                field("oldest_leased_ms", Reply::Integer(leased)),
            ])
        });
        let count = |key: Str<'_>| Reply::Integer(server.peek_key(key).entries() as i64);
        Ok(Reply::Map(vec![
            field("length", Reply::Integer(length)),
            field("delayed", count(delayed.borrow())),
            field("dead", count(dead.borrow())),
            field("oldest_ready_ms", Reply::Integer(oldest.map_or(0, age))),
            field("next_due_ms", Reply::Integer(next_due)),
            field("priorities", Reply::Map(priorities)),
            field("waiting_consumers", Reply::Integer(line::length(server, queue.bytes()) as i64)),
            field("groups", Reply::Array(groups.collect())),
            field(
                "policy",
                Reply::Map(
                    policy.fields().map(|(name, value)| field(name, Reply::Integer(value))).into(),
                ),
            ),
        ]))
    }
}

fn field<'a>(name: &str, value: Reply<'a>) -> (Reply<'a>, Reply<'a>) {
    (Reply::Bulk(name.as_bytes().to_vec()), value)
}

/// What is told of a group, over all streams of the queue.
#[derive(Default)]
struct Group {
    ready: i64,
    leased: i64,
    /// In the stream that has most.
    consumers: i64,
    /// Those in which the group is known.
    streams: Vec<Priority>,
    oldest_leased: i64,
    /// Whether it has leases that were not looked at.
    unseen: bool,
}

/// Adds what one stream tells of its groups. The reply is when the first entry was added that some
/// group has not read, or nobody, if there is no group.
fn look_at_groups(
    server: &Server,
    (priority, stream): (Priority, Str<'_>),
    entries: i64,
    all: &mut BTreeMap<Box<[u8]>, Group>,
    (budget, leases): (&mut usize, &mut usize),
) -> Result<Option<UnixMs>, Error> {
    with_groups(server, stream, |groups| {
        let name_of = |told: Element<'_>| Box::from(text(told, b"name").unwrap_or_default());
        let here: BTreeSet<Box<[u8]>> = groups.elements().map(name_of).collect();
        // A group comes into the stream of a priority when it first reads from it.
        let missing = all.iter_mut().filter(|(name, _)| !here.contains(*name));
        let missing = missing.map(|(_, group)| group.ready += entries).count();
        let unread_by_all = missing > 0 || here.is_empty();
        let mut oldest =
            if unread_by_all { behind(server, stream, EntryId::default(), 1).1 } else { None };
        for told in groups.elements() {
            let number = |field: &[u8]| told.field(field).map_or(0, Element::integer);
            let last = text(told, b"last-delivered-id").and_then(EntryId::parse);
            let most = (*budget).max(1);
            let (counted, first) = behind(server, stream, last.unwrap_or_default(), most);
            *budget = budget.saturating_sub(counted);
            let ready = if counted < most {
                counted as i64
            } else {
                number(b"lag").min(entries).max(counted as i64)
            };
            oldest = [oldest, first].into_iter().flatten().min();
            let (pending, consumers) = (number(b"pending"), number(b"consumers"));
            let name = OwnedStr::new(&name_of(told));
            // What another client has given back to the group is pending, but nobody has it.
            let released = match pending {
                1.. if store::others_may_release() && consumers <= NAMED => {
                    store::released(server, stream, name.borrow())?
                }
                _ => 0,
            };
            let group = all.entry(name_of(told)).or_default();
            group.ready += ready + released;
            group.leased += pending - released;
            group.streams.push(priority);
            group.consumers = group.consumers.max(consumers);
            let (seen, longest) = match pending {
                1.. if *leases > 0 => longest_lease(server, stream, name.borrow())?,
                _ => (0, 0),
            };
            *leases = leases.saturating_sub(seen);
            group.oldest_leased = group.oldest_leased.max(longest);
            group.unseen |= (seen as i64) < pending;
        }
        Ok(oldest)
    })?
}

/// How many entries come behind an id, `most` at the most, and when the first was added.
fn behind(server: &Server, stream: Str<'_>, last: EntryId, most: usize) -> (usize, Option<UnixMs>) {
    let (count, first) = server.peek_key(stream).entries_behind(last.parts(), most);
    (count, first.map(|(ms, _)| UnixMs(i64::try_from(ms).unwrap_or(i64::MAX))))
}

/// How many different consumers a group has in these streams of a queue.
fn count_consumers(
    server: &Server,
    queue: Str<'_>,
    group: &[u8],
    streams: &[Priority],
) -> Result<i64, Error> {
    let group = OwnedStr::new(group);
    let mut names: BTreeSet<Box<[u8]>> = BTreeSet::new();
    for priority in streams {
        let stream = store::stream_of(server, queue, *priority)?;
        let args = [words().consumers(), stream.borrow(), group.borrow()];
        let consumers = server.call(c"XINFO", Mode::Read, &args)?;
        names.extend(consumers.root().elements().filter_map(|c| text(c, b"name")).map(Box::from));
    }
    Ok(names.len() as i64)
}

/// How many of a group's leases are looked at, and how long ago the oldest of them began, in ms.
fn longest_lease(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<(usize, i64), Error> {
    let w = words();
    let count = OwnedStr::number(LOOKED_AT);
    let args = [stream, group, w.minimum(), w.maximum(), count.borrow()];
    let leases = server.call(c"XPENDING", Mode::Read, &args)?;
    let idle = |lease: Element<'_>| lease.at(2).map_or(0, Element::integer);
    let longest = leases.root().elements().map(idle).max();
    Ok((leases.root().len(), longest.unwrap_or(0).max(0)))
}
