//! TASK.ACK

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::task::few::Few;
use crate::task::groups::Overviews;
use crate::task::id::{IdArg, Priority};
use crate::task::store::Ending;
use crate::task::{Cx, store};

/// `TASK.ACK stream group id [id ...]` finishes tasks for a group and replies how many of them were
/// leased to it. A task that every group has finished is deleted, unless the policy keeps it.
pub struct Ack;

/// The arguments of TASK.ACK.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    ids: Few<IdArg<'a>>,
}

impl Command for Ack {
    const SPEC: Spec = Spec {
        name: c"task.ack",
        summary: c"Finishes tasks for a consumer group.",
        complexity: c"O(N) for N ids; O(N*G) for a stream with G consumer groups.",
        arity: -4,
        flags: "write fast",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Delete }],
        args: &[Arg::key(c"stream", 0), Arg::string(c"group"), Arg::string(c"id").multiple()],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (stream, group) = (args.name()?, args.filled("group")?);
        let ids = args.all().iter().map(|id| IdArg::read(*id)).collect::<Result<_, _>>()?;
        Ok(Request { stream, group, ids })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, group, ids } = request;
        names::reject_moving_slot(server, queue)?;
        let ids: Few<_> = ids.iter().map(|id| (id.id, id.borrow())).collect();
        let plain = ids.iter().all(|(id, _)| id.priority() == Some(Priority::LOWEST));
        let acknowledged = if plain {
            store::finish(cx, queue, Priority::LOWEST, group, &ids)?
        } else {
            store::check_places(server, queue, ids.iter().map(|(id, _)| *id))?;
            let (mut acknowledged, mut overviews) = (0, Overviews::default());
            for id in ids.iter().copied() {
                for priority in store::places(id.0) {
                    let place = (queue, priority);
                    let found = store::finish_with(
                        cx,
                        place,
                        group,
                        &[id],
                        (Ending::Ends, &mut overviews),
                    )?;
                    acknowledged += found;
                    if found > 0 {
                        break;
                    }
                }
            }
            acknowledged
        };
        cx.family.counters.acked.add(acknowledged as u64);
        Ok(Reply::Integer(acknowledged))
    }
}
