//! TASK.INFO

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::task::groups::{text, with_groups};
use crate::task::id::{EntryId, Priority};
use crate::task::leases::RELEASED;
use crate::task::policy::policy_of;
use crate::task::{Cx, DEAD, DELAYED, delayed, held, line, store};
use crate::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};

/// `TASK.INFO stream` returns a map: `length` (entries in all its streams), `delayed`, `held`, `dead`,
/// `oldest_ready_ms` (the age of the oldest entry that some group has not read; 0 without one),
/// `next_due_ms` (until the first delayed task is due; 0 if it is, -1 without one), `priorities`
/// (entries by priority above 0), `waiting_consumers`, `groups` (for each its `name`, the number of
/// `ready` and `leased` tasks, its `consumers`, and `oldest_leased_ms`) and the effective `policy`.
pub struct Info;

/// How many entries are counted one by one for all groups together. Beyond that the server's own
/// estimate is reported.
const COUNTED: usize = 10_000;

/// How many consumers a group may have for their names to be looked at.
const NAMED: i64 = 1000;

/// How many leases are looked at for the oldest.
const LOOKED_AT: i64 = 128;

impl Command for Info {
    const SPEC: Spec = Spec {
        name: c"task.info",
        summary: c"Returns the state of a queue, its groups and its policy.",
        complexity: c"O(G) for G consumer groups; O(C) for C consumers where there are priorities.",
        since: c"0.2.0",
        arity: 2,
        flags: "readonly",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Read }],
        args: &[Arg::key(c"stream", 0)],
    };
    type Family = crate::task::Task;
    type Request<'a> = Str<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Str<'a>, Error> {
        args.name()
    }

    fn run<'a>(queue: Str<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let now = server.now();
        let mut groups: BTreeMap<Box<[u8]>, Group> = BTreeMap::new();
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
                look_at_groups(cx, (priority, stream), entries, &mut groups, budgets)?;
            oldest = [oldest, first_ready].into_iter().flatten().min();
        }
        let delayed_key = names::key_of(server, DELAYED, queue)?;
        let next_due = match delayed::first_due(server, delayed_key.borrow())? {
            None => -1,
            Some(due) => now.until(due).0,
        };
        let dead = names::key_of(server, DEAD, queue)?;
        store::expect_stream(server, dead.borrow())?;
        let policy = cx.family.effective(&policy_of(cx, queue)?);
        let policy = policy.map(|(name, value)| (name, Reply::Integer(value)));
        let age = |since: UnixMs| now.since(since).0;
        let known = |name: &[u8]| {
            let known = cx.family.queues.oldest_lease(server.db(), queue.bytes(), name);
            let known = known.filter(|(since, ..)| *since != RELEASED);
            known.map_or(0, |(since, ..)| age(since))
        };
        for (name, group) in &mut groups {
            if group.streams.len() > 1 && group.consumers <= NAMED {
                group.consumers = count_consumers(server, queue, name, &group.streams)?;
            }
        }
        let groups = groups.into_iter().map(|(name, group)| {
            // What the server reports is exact for the leases that were looked at.
            let leased = group.oldest_leased.max(if group.unseen { known(&name) } else { 0 });
            Reply::map([
                ("name", Reply::Bulk(name.into())),
                ("ready", Reply::Integer(group.ready)),
                ("leased", Reply::Integer(group.leased)),
                ("consumers", Reply::Integer(group.consumers)),
                ("oldest_leased_ms", Reply::Integer(leased)),
            ])
        });
        let count = |key: Str<'_>| Reply::Integer(server.peek_key(key).entries() as i64);
        Ok(Reply::map([
            ("length", Reply::Integer(length)),
            ("delayed", count(delayed_key.borrow())),
            ("held", Reply::Integer(held::number(server, queue)? as i64)),
            ("dead", count(dead.borrow())),
            ("oldest_ready_ms", Reply::Integer(oldest.map_or(0, age))),
            ("next_due_ms", Reply::Integer(next_due)),
            ("priorities", Reply::Map(priorities)),
            ("waiting_consumers", Reply::Integer(line::length(cx, queue.bytes()) as i64)),
            ("groups", Reply::Array(groups.collect())),
            ("policy", Reply::map(policy)),
        ]))
    }
}

/// What is reported of a group, over all streams of the queue.
#[derive(Default)]
struct Group {
    ready: i64,
    leased: i64,
    /// In the stream that has most.
    consumers: i64,
    /// The streams in which the group exists.
    streams: Vec<Priority>,
    oldest_leased: i64,
    /// Whether it has leases that were not looked at.
    unseen: bool,
}

/// Adds up what one stream reports of its groups. Returns when the first entry was added that some
/// group has not read, or that exists if there is no group.
fn look_at_groups(
    cx: Cx<'_>,
    (priority, stream): (Priority, Str<'_>),
    entries: i64,
    all: &mut BTreeMap<Box<[u8]>, Group>,
    (budget, leases): (&mut usize, &mut usize),
) -> Result<Option<UnixMs>, Error> {
    let server = cx.server;
    with_groups(server, stream, |groups| {
        let name_of = |info: Element<'_>| Box::from(text(info, b"name").unwrap_or_default());
        let here: BTreeSet<Box<[u8]>> = groups.elements().map(name_of).collect();
        // A group appears in the stream of a priority when it first reads from it.
        let missing = all.iter_mut().filter(|(name, _)| !here.contains(*name));
        let missing = missing.map(|(_, group)| group.ready += entries).count();
        let unread_by_all = missing > 0 || here.is_empty();
        let mut oldest =
            if unread_by_all { after(server, stream, EntryId::default(), 1).1 } else { None };
        for info in groups.elements() {
            let number = |field: &[u8]| info.field(field).map_or(0, Element::integer);
            let last = text(info, b"last-delivered-id").and_then(EntryId::parse);
            let most = (*budget).max(1);
            let (counted, first) = after(server, stream, last.unwrap_or_default(), most);
            *budget = budget.saturating_sub(counted);
            let ready = if counted < most {
                counted as i64
            } else {
                number(b"lag").min(entries).max(counted as i64)
            };
            oldest = [oldest, first].into_iter().flatten().min();
            let (pending, consumers) = (number(b"pending"), number(b"consumers"));
            let name = OwnedStr::new(&name_of(info));
            // An entry that another client has returned to the group is pending without a consumer.
            let released = match pending {
                1.. if cx.family.others_may_release(server) && consumers <= NAMED => {
                    store::released(server, stream, name.borrow())?
                }
                _ => 0,
            };
            let group = all.entry(name_of(info)).or_default();
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

/// How many entries follow an id, at most `most`, and when the first of them was added.
fn after(server: &Server, stream: Str<'_>, last: EntryId, most: usize) -> (usize, Option<UnixMs>) {
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
