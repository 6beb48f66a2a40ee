//! TASK.EXTEND

use super::id::IdArg;
use super::{memory, store};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str, words};

/// `TASK.EXTEND stream group consumer id` begins the lease of a task anew: the heartbeat of a worker
/// that needs longer than the lease. The reply is 1, or 0 if the task is not leased to the consumer:
/// then somebody else has it, or it is done.
pub struct Extend;

/// The arguments of TASK.EXTEND.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    consumer: Str<'a>,
    id: IdArg<'a>,
}

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"task.extend",
        summary: c"Begins the lease of a task anew.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 5,
        flags: c"write fast",
        categories: c"write stream fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::string(c"id"),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let (group, consumer) = (args.filled("group")?, args.filled("consumer")?);
        Ok(Request { stream, group, consumer, id: IdArg::read(args.any()?)? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { stream: queue, group, consumer, id } = request;
        server.refuse_while_slot_moves(queue)?;
        let text = id.borrow();
        let found = store::find_lease(server, queue, group, (id.id, text))?;
        let Some((priority, stream, _)) =
            found.filter(|(_, _, lease)| *lease.consumer == *consumer.bytes())
        else {
            return Ok(Reply::Integer(0));
        };
        let w = words();
        let args = [stream.borrow(), group, consumer, w.zero(), text, w.just_id()];
        if server.call(c"XCLAIM", Mode::Write, &args)?.root().len() == 0 {
            // Another client has deleted the entry.
            return Ok(Reply::Integer(0));
        }
        let (db, ids) = (server.db(), [id.id].into_iter());
        memory::begun(db, queue.bytes(), group.bytes(), priority, ids, server.now());
        Ok(Reply::Integer(1))
    }
}
