//! TASK.CONSUME

use super::DELIVERED;
use super::line::{self, Tasks, Wanted};
use super::store::{self, IfMissing, Read};
use crate::args::{Args, Argument, Parsed, Patience};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::events::subscribe;
use crate::server::{Mode, Reply, Server, words};
use crate::waiting::{Address, Waiter};

/// `TASK.CONSUME group consumer stream [count [block_ms]]` leases up to `count` tasks (default 1)
/// to a consumer, as XREADGROUP does. A missing group is created at the beginning of the stream.
/// With `block_ms` it waits in line for a task; 0 is without end.
pub struct Consume;

/// The arguments of TASK.CONSUME.
pub struct Request<'a> {
    read: Read<'a>,
    count: i64,
    patience: Option<Patience>,
}

impl Command for Consume {
    const SPEC: Spec = Spec {
        name: c"task.consume",
        summary: c"Leases tasks to a consumer of a group, and waits for them if asked to.",
        complexity: c"O(N) for N tasks returned.",
        since: c"0.1.0",
        arity: -4,
        flags: c"write blocking",
        categories: c"write stream slow blocking",
        keys: &[Key { position: 3, access: Access::Update }],
        legacy_keys: (3, 3, 1),
        args: &[
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::key(c"stream", 0),
            Arg::block(c"limits", &[Arg::integer(c"count"), Arg::integer(c"block_ms").optional()])
                .optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let group = args.filled("group")?;
        let consumer = args.filled("consumer")?;
        let stream = args.name()?;
        let count =
            if args.more() { args.at_least(1)? } else { Parsed { arg: words().one(), value: 1 } };
        let patience = if args.more() { Some(args.patience()?) } else { None };
        let read = Read { stream, group, consumer, count: count.arg };
        Ok(Request { read, count: count.value, patience })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let read = &request.read;
        server.refuse_while_slot_moves(read.stream)?;
        let others_wait =
            line::serve_before_reading(server, read.stream.bytes(), read.group.bytes())?;
        if !others_wait {
            let found = store::read(server, read, IfMissing::CreateAll, Mode::WriteForward)?;
            if let Some(reply) = found {
                DELIVERED.add(store::entries(&reply).map_or(0, |entries| entries.len()) as u64);
                return Ok(Reply::Forward(reply));
            }
        }
        match request.patience {
            Some(patience) if server.may_block() => {
                subscribe::<Tasks>(server);
                let (name, part) = (read.stream.bytes().into(), read.group.bytes().into());
                let address = Address { db: server.db(), name, part };
                let consumer = read.consumer.bytes().into();
                let wanted = Wanted { consumer, count: request.count };
                Waiter::<Tasks>::join(server, read.stream, address, None, patience, wanted)?;
                Ok(Reply::Later)
            }
            _ => Ok(Reply::NullArray),
        }
    }
}
