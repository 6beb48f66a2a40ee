//! TASK.CANCEL

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str, Type};
use crate::task::groups::Overviews;
use crate::task::id::{EntryId, IdArg, Priority};
use crate::task::identity::{Birth, Move};
use crate::task::locate::{self, Found, Place};
use crate::task::{Cx, delayed, delayed_ids, entry, held, life, marks, store, ties};

/// `TASK.CANCEL stream id [id ...] [FORCE]` removes tasks that are ready, delayed or held, and replies how
/// many. A task that is leased in any group stays, unless FORCE is given. An id is the one that PUBLISH
/// replied, or the present one.
pub struct Cancel;

/// The arguments of TASK.CANCEL.
pub struct Request<'a> {
    stream: Str<'a>,
    ids: Vec<IdArg<'a>>,
    force: bool,
}

impl Command for Cancel {
    const SPEC: Spec = Spec {
        name: c"task.cancel",
        summary: c"Removes tasks that are ready or delayed, with FORCE also leased ones.",
        complexity:
            c"O(N*G) for N ids and G consumer groups; O(log(M)^2) for each of M delayed tasks.",
        since: c"0.2.0",
        arity: -3,
        flags: "write",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Delete }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"id").multiple(),
            Arg::keyword(c"force", c"FORCE").optional(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let mut ids = args.all();
        let mut force = false;
        // FORCE is no id, so it cannot be meant as one.
        if let [first @ .., last] = ids
            && !first.is_empty()
            && last.bytes().eq_ignore_ascii_case(b"FORCE")
        {
            (ids, force) = (first, true);
        }
        let ids = ids.iter().map(|id| IdArg::read(*id)).collect::<Result<_, _>>()?;
        Ok(Request { stream, ids, force })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let queue = request.stream;
        names::reject_moving_slot(server, queue)?;
        store::check_places(server, queue, request.ids.iter().map(|id| id.id))?;
        delayed::check(server, queue)?;
        let mut overviews = Overviews::default();
        // A delayed task that does not exist may be ready by now.
        for priority in Priority::ALL {
            let named = |id: &IdArg<'_>| {
                id.id.priority().is_some() && store::places(id.id).any(|place| place == priority)
            };
            if request.ids.iter().any(named) {
                expect_few_groups(cx, queue, priority, &mut overviews)?;
            }
        }
        // All of them are found before the first is removed.
        let mut found = Vec::with_capacity(request.ids.len());
        for id in &request.ids {
            found.extend(locate::find(cx, queue, id.id, &mut overviews)?);
        }
        let traces = life::traces(cx, queue)?;
        let (mut ended, mut cancelled) = (Vec::new(), 0);
        for found in &found {
            if matches!(found.place, Place::Leased(_)) && !request.force {
                continue;
            }
            // What is removed is read before, if it has to be forgotten as well.
            let end = if traces.exist() { end_of(cx, queue, found)? } else { None };
            if remove(cx, queue, found, &mut overviews)? {
                cancelled += 1;
                ended.extend(end);
            }
        }
        life::end(cx, queue, &ended)?;
        cx.family.counters.cancelled.add(cancelled);
        Ok(Reply::Integer(i64::try_from(cancelled).unwrap_or(i64::MAX)))
    }
}

/// Returns an error if a stream has too many groups to find out which tasks are ready.
fn expect_few_groups(
    cx: Cx<'_>,
    queue: Str<'_>,
    priority: Priority,
    overviews: &mut Overviews,
) -> Result<(), Error> {
    let server = cx.server;
    let stream = store::stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    let is_there = server.type_of(stream) == Type::Stream;
    if is_there && overviews.of(cx, queue, (priority, stream))?.is_none() {
        return Err(Error::TaskGroups);
    }
    Ok(())
}

/// What has to be forgotten with a task.
fn end_of(cx: Cx<'_>, queue: Str<'_>, found: &Found) -> Result<Option<Move>, Error> {
    match &found.place {
        Place::Delayed(member) => {
            let member = member.borrow().bytes();
            let group = entry::group_of(member);
            let stored = entry::decode(member, group.as_deref());
            Ok(stored.map(|stored| Move::of(&stored.task, (found.id, None), None)))
        }
        Place::Held(_) => {
            Ok(Some(Move { original: found.id, birth: Birth::Here, from: found.id, to: None }))
        }
        Place::Ready(priority) | Place::Leased(priority) => {
            let stream = store::stream_of(cx.server, queue, *priority)?;
            let ids = [(found.id, found.text.borrow())];
            Ok(life::of_entries(cx, (*priority, stream.borrow()), &ids)?.pop())
        }
    }
}

/// Removes a task. Returns whether it still existed.
fn remove(
    cx: Cx<'_>,
    queue: Str<'_>,
    found: &Found,
    overviews: &mut Overviews,
) -> Result<bool, Error> {
    let Cx { server, family } = cx;
    let (priority, leased) = match &found.place {
        Place::Delayed(member) => return delayed_ids::remove(cx, queue, member.borrow()),
        Place::Held(member) => return remove_held(cx, queue, found.id, member.borrow()),
        Place::Ready(priority) => (*priority, false),
        Place::Leased(priority) => (*priority, true),
    };
    let stream = store::stream_of(server, queue, priority)?;
    let (stream, id) = (stream.borrow(), found.text.borrow());
    let holders = match overviews.of(cx, queue, (priority, stream))? {
        Some(groups) if leased => groups.holders(server, stream, id)?,
        _ => Vec::new(),
    };
    for group in holders {
        server.call(c"XACK", Mode::Write, &[stream, group, id])?;
        let ids: [EntryId; 1] = [found.id];
        family.queues.lease_ended(
            server.db(),
            queue.bytes(),
            group.bytes(),
            priority,
            ids.iter().copied(),
        );
        ties::ended(cx, queue, group, priority, ids);
    }
    Ok(server.call(c"XDEL", Mode::Write, &[stream, id])?.root().integer() > 0)
}

/// Removes a held task.
fn remove_held(cx: Cx<'_>, queue: Str<'_>, id: EntryId, member: Str<'_>) -> Result<bool, Error> {
    let group = held::group_of(member.bytes());
    let after = held::decode(member.bytes(), group.as_deref()).map(|held| held.after);
    let gone = held::remove(cx, queue, member)?;
    if let Some(after) = after.filter(|_| gone) {
        marks::successor_gone(cx, queue, after, id)?;
    }
    Ok(gone)
}
