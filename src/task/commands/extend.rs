//! TASK.EXTEND

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str, words};
use crate::task::id::IdArg;
use crate::task::{Cx, store, ties};

/// `TASK.EXTEND stream group consumer id [id ...]` renews the leases of tasks: the heartbeat of a worker
/// that needs longer than the lease. The reply is 1, or 0 if the task is not leased to the consumer: it
/// has gone to another consumer, or is done. For several ids the reply is an array of these.
pub struct Extend;

/// The arguments of TASK.EXTEND.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    consumer: Str<'a>,
    ids: Vec<IdArg<'a>>,
}

/// How many ids one call takes.
const MOST: usize = 1024;

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"task.extend",
        summary: c"Renews the leases of tasks.",
        complexity: c"O(N) for N ids.",
        since: c"0.2.0",
        arity: -5,
        flags: "write fast",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::string(c"id").multiple(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let (group, consumer) = (args.filled("group")?, args.filled("consumer")?);
        let ids = args.all();
        if ids.len() > MOST {
            return Err(Error::TooManyIds);
        }
        let ids = ids.iter().map(|id| IdArg::read(*id)).collect::<Result<_, _>>()?;
        Ok(Request { stream, group, consumer, ids })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        names::reject_moving_slot(server, request.stream)?;
        if let [id] = request.ids.as_slice() {
            return request.extend(cx, id).map(Reply::Integer);
        }
        store::check_places(server, request.stream, request.ids.iter().map(|id| id.id))?;
        let extended = request.ids.iter().map(|id| request.extend(cx, id).map(Reply::Integer));
        extended.collect::<Result<_, _>>().map(Reply::Array)
    }
}

impl Request<'_> {
    /// Renews the lease of one task. Returns 1, or 0 if it is not leased to the consumer.
    fn extend(&self, cx: Cx<'_>, id: &IdArg<'_>) -> Result<i64, Error> {
        let (server, w) = (cx.server, words());
        let Self { stream: queue, group, consumer, .. } = *self;
        let text = id.borrow();
        let found = store::find_lease(server, queue, group, (id.id, text))?;
        let Some((priority, stream, _)) =
            found.filter(|(_, _, lease)| *lease.consumer == *consumer.bytes())
        else {
            return Ok(0);
        };
        let args = [stream.borrow(), group, consumer, w.zero(), text, w.just_id()];
        if server.call(c"XCLAIM", Mode::Write, &args)?.root().len() == 0 {
            // Another client has deleted the entry.
            return Ok(0);
        }
        let (db, now) = (server.db(), server.now());
        ties::renewed(cx, queue, group, priority, id.id, now);
        cx.family.queues.leased(db, queue.bytes(), group.bytes(), priority, &[id.id], now);
        Ok(1)
    }
}
