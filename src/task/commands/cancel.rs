//! TASK.CANCEL

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str, Type};
use crate::task::groups::Overviews;
use crate::task::id::{IdArg, Priority};
use crate::task::{Cx, delayed, store};

/// `TASK.CANCEL stream id [id ...]` removes tasks that are ready or delayed, and replies how many. A
/// task that is leased in any group stays.
pub struct Cancel;

/// The arguments of TASK.CANCEL.
pub struct Request<'a> {
    stream: Str<'a>,
    ids: Vec<IdArg<'a>>,
}

impl Command for Cancel {
    const SPEC: Spec = Spec {
        name: c"task.cancel",
        summary: c"Removes tasks that are ready or delayed.",
        complexity:
            c"O(N*G) for N ids and G consumer groups; O(log(M)^2) for each of M delayed tasks.",
        since: c"0.2.0",
        arity: -3,
        flags: "write",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Delete }],
        args: &[Arg::key(c"stream", 0), Arg::string(c"id").multiple()],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let ids = args.all().iter().map(|id| IdArg::read(*id)).collect::<Result<_, _>>()?;
        Ok(Request { stream, ids })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let queue = request.stream;
        names::reject_moving_slot(server, queue)?;
        store::check_places(server, queue, request.ids.iter().map(|id| id.id))?;
        delayed::check(server, queue)?;
        let mut overviews = Overviews::default();
        // A delayed task that does not exist may be ready by now, but its id names no stream.
        for priority in Priority::ALL {
            let named = |id: &IdArg<'_>| {
                id.id.priority().is_some() && store::places(id.id).any(|place| place == priority)
            };
            if request.ids.iter().any(named) {
                expect_few_groups(cx, queue, priority, &mut overviews)?;
            }
        }
        let mut cancelled = 0;
        for id in &request.ids {
            let gone = match id.id.priority() {
                None if delayed::remove(cx, queue, id.id)? => true,
                _ => remove_ready(cx, queue, id, &mut overviews)?,
            };
            cancelled += i64::from(gone);
        }
        cx.family.counters.cancelled.add(cancelled as u64);
        Ok(Reply::Integer(cancelled))
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

/// Removes an entry that is ready. Returns whether it existed.
fn remove_ready(
    cx: Cx<'_>,
    queue: Str<'_>,
    id: &IdArg<'_>,
    overviews: &mut Overviews,
) -> Result<bool, Error> {
    let server = cx.server;
    for priority in store::places(id.id) {
        let stream = store::stream_of(server, queue, priority)?;
        let stream = stream.borrow();
        if server.type_of(stream) != Type::Stream {
            continue;
        }
        let groups = overviews.of(cx, queue, (priority, stream))?;
        let is_ready = match groups {
            Some(groups) => groups.is_ready(server, stream, (id.id, id.borrow()))?,
            None => false,
        };
        if is_ready
            && server.call(c"XDEL", Mode::Write, &[stream, id.borrow()])?.root().integer() > 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}
