//! TASK.CANCEL

use super::groups::Overviews;
use super::id::{IdArg, Priority};
use super::{CANCELLED, delayed, store};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str, Type};

/// `TASK.CANCEL stream id [id ...]` removes tasks that nobody has begun: ready or delayed ones. The
/// reply is their number; a task that is leased in any group stays.
pub struct Cancel;

/// The arguments of TASK.CANCEL.
pub struct Request<'a> {
    stream: Str<'a>,
    ids: Vec<IdArg<'a>>,
}

impl Command for Cancel {
    const SPEC: Spec = Spec {
        name: c"task.cancel",
        summary: c"Removes tasks that no consumer has begun.",
        complexity:
            c"O(N*G) for N ids and G consumer groups; O(log(M)^2) for each of M delayed tasks.",
        since: c"0.1.0",
        arity: -3,
        flags: c"write",
        categories: c"write stream slow",
        keys: &[Key { position: 1, access: Access::Delete }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"stream", 0), Arg::string(c"id").multiple()],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let ids = args.all().iter().map(|id| IdArg::read(*id)).collect::<Result<_, _>>()?;
        Ok(Request { stream, ids })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let queue = request.stream;
        server.refuse_while_slot_moves(queue)?;
        store::check_places(server, queue, request.ids.iter().map(|id| id.id))?;
        delayed::check(server, queue)?;
        let mut overviews = Overviews::default();
        // Of a delayed task that is not there, the id is sought among the ready ones: no trouble.
        for priority in Priority::ALL {
            let named = |id: &IdArg<'_>| {
                id.id.priority().is_some() && store::places(id.id).any(|place| place == priority)
            };
            if request.ids.iter().any(named) {
                expect_few_groups(server, queue, priority, &mut overviews)?;
            }
        }
        let mut cancelled = 0;
        for id in &request.ids {
            let gone = match id.id.priority() {
                None if delayed::remove(server, queue, id.id)? => true,
                _ => remove_ready(server, queue, id, &mut overviews)?,
            };
            cancelled += i64::from(gone);
        }
        CANCELLED.add(cancelled as u64);
        Ok(Reply::Integer(cancelled))
    }
}

/// Refuses to look for ready tasks where a stream has more groups than the server can be asked for.
fn expect_few_groups(
    server: &Server,
    queue: Str<'_>,
    priority: Priority,
    overviews: &mut Overviews,
) -> Result<(), Error> {
    let stream = store::stream_of(server, queue, priority)?;
    let stream = stream.borrow();
    let is_there = server.type_of(stream) == Type::Stream;
    if is_there && overviews.of(server, queue, (priority, stream))?.is_none() {
        return Err(Error::TaskGroups);
    }
    Ok(())
}

/// Removes an entry that is ready. True if it was there.
fn remove_ready(
    server: &Server,
    queue: Str<'_>,
    id: &IdArg<'_>,
    overviews: &mut Overviews,
) -> Result<bool, Error> {
    for priority in store::places(id.id) {
        let stream = store::stream_of(server, queue, priority)?;
        let stream = stream.borrow();
        if server.type_of(stream) != Type::Stream {
            continue;
        }
        let groups = overviews.of(server, queue, (priority, stream))?;
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
