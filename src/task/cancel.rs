//! TASK.CANCEL

use super::id::IdArg;
use super::{CANCELLED, delayed, groups, store};
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
        let mut cancelled = 0;
        for id in &request.ids {
            let gone = match id.id.priority() {
                None if delayed::remove(server, queue, id.id)? => true,
                _ => remove_ready(server, queue, id)?,
            };
            cancelled += i64::from(gone);
        }
        CANCELLED.add(cancelled as u64);
        Ok(Reply::Integer(cancelled))
    }
}

/// Removes an entry that is ready. True if it was there.
fn remove_ready(server: &Server, queue: Str<'_>, id: &IdArg<'_>) -> Result<bool, Error> {
    for priority in store::places(id.id) {
        let stream = store::stream_of(server, queue, priority)?;
        let stream = stream.borrow();
        if server.type_of(stream) == Type::Stream
            && groups::is_ready(server, queue, stream, (id.id, id.borrow()))?
            && server.call(c"XDEL", Mode::Write, &[stream, id.borrow()])?.root().integer() > 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}
