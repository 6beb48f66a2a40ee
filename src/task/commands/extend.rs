//! TASK.EXTEND

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str, words};
use crate::task::id::IdArg;
use crate::task::{Cx, store, ties};

/// `TASK.EXTEND stream group consumer id` renews the lease of a task: the heartbeat of a worker that
/// needs longer than the lease. The reply is 1, or 0 if the task is not leased to the consumer: it has
/// gone to another consumer, or is done.
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
        summary: c"Renews the lease of a task.",
        complexity: c"O(1)",
        since: c"0.2.0",
        arity: 5,
        flags: "write fast",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::string(c"id"),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let (group, consumer) = (args.filled("group")?, args.filled("consumer")?);
        Ok(Request { stream, group, consumer, id: IdArg::read(args.any()?)? })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, group, consumer, id } = request;
        names::reject_moving_slot(server, queue)?;
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
        let (db, now) = (server.db(), server.now());
        ties::renewed(cx, queue, group, priority, id.id, now);
        cx.family.queues.leased(db, queue.bytes(), group.bytes(), priority, &[id.id], now);
        Ok(Reply::Integer(1))
    }
}
