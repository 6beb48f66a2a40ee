//! TASK.PUBLISH

use super::store::{self, Task};
use super::{PUBLISHED, line};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str, words};

/// `TASK.PUBLISH stream payload [retry_count]` adds a task and replies its id. A consumer that
/// waits gets it in the same step.
pub struct Publish;

/// The arguments of TASK.PUBLISH.
pub struct Request<'a> {
    stream: Str<'a>,
    task: Task<'a>,
}

impl Command for Publish {
    const SPEC: Spec = Spec {
        name: c"task.publish",
        summary: c"Adds a task to a queue.",
        complexity: c"O(1), plus O(G) for G consumer groups in which a consumer waits.",
        since: c"0.1.0",
        arity: -3,
        flags: c"write deny-oom fast",
        categories: c"write stream fast",
        keys: &[Key { position: 1, access: Access::Insert }],
        legacy_keys: (1, 1, 1),
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"payload"),
            Arg::integer(c"retry_count").optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let payload = args.any()?;
        let retry_count = if args.more() { args.at_least(0)?.arg } else { words().zero() };
        Ok(Request { stream, task: Task { payload, retry_count, original_id: None } })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        server.refuse_while_slot_moves(request.stream)?;
        let id = store::add(server, request.stream, &request.task)?;
        PUBLISHED.add(1);
        line::hand_over_one(server, request.stream.bytes());
        Ok(Reply::Forward(id))
    }
}
