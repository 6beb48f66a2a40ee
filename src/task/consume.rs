//! TASK.CONSUME

use super::desk::{Plain, Served, ServerDesk, Shape};
use super::line::{self, Tasks, Wanted};
use super::store::IfMissing;
use crate::args::{Args, Argument, Parsed, Patience};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::events::subscribe;
use crate::server::{Reply, Server, Str, words};
use crate::waiting::{Address, Waiter};

/// `TASK.CONSUME group consumer stream [count [block_ms]] [COUNT n] [BLOCK ms] [META]` leases up to
/// `count` tasks (default 1) to a consumer. A missing group is created at the beginning of the
/// stream. Tasks whose lease is over come first, the oldest before the others, then new ones by
/// their priority. With `block_ms` it waits in line for a task; 0 is without end. The reply is as
/// XREADGROUP's, nil when there is nothing; with META it is `[[id, fields, idle_ms, deliveries],
/// ...]`.
pub struct Consume;

/// The arguments of TASK.CONSUME.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    consumer: Str<'a>,
    count: Parsed<Str<'a>, i64>,
    patience: Option<Patience>,
    meta: bool,
}

impl Command for Consume {
    const SPEC: Spec = Spec {
        name: c"task.consume",
        summary: c"Leases tasks to a consumer of a group, and waits for them if asked to.",
        complexity: c"O(N) for N tasks returned or moved.",
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
            Arg::integer(c"count").after(c"COUNT").optional(),
            Arg::integer(c"block_ms").after(c"BLOCK").optional(),
            Arg::keyword(c"meta", c"META").optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        const OPTIONS: &[&str] = &["COUNT", "BLOCK", "META"];
        let group = args.filled("group")?;
        let consumer = args.filled("consumer")?;
        let stream = args.name()?;
        let (mut count, mut patience, mut meta) = (None, None, false);
        if args.more() && !args.next_is(OPTIONS) {
            count = Some(args.at_least(1)?);
            if args.more() && !args.next_is(OPTIONS) {
                patience = Some(args.patience()?);
            }
        }
        while let Some(option) = args.keyword() {
            if option.is("COUNT") && count.is_none() {
                count = Some(args.at_least(1)?);
            } else if option.is("BLOCK") && patience.is_none() {
                patience = Some(args.patience()?);
            } else if option.is("META") && !meta {
                meta = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        let count = count.unwrap_or(Parsed { arg: words().one(), value: 1 });
        Ok(Request { stream, group, consumer, count, patience, meta })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { stream: queue, group, consumer, count, patience, meta } = request;
        server.refuse_while_slot_moves(queue)?;
        let shape = || if meta { Shape::Meta } else { Shape::Streams { resp3: server.resp3() } };
        let others_wait = line::serve_before_reading(server, queue, group.bytes())?;
        let mut more = false;
        if !others_wait {
            let desk =
                ServerDesk { server, queue, group, consumer, if_missing: IfMissing::CreateAll };
            match desk.serve_plain(count, meta)? {
                Plain::Reply(tasks) => return Ok(tasks),
                Plain::Nothing => {}
                Plain::LookCloser(mut tasks) => {
                    let rest = count.value.saturating_sub(tasks.len() as i64);
                    match if rest > 0 { desk.serve(rest) } else { Ok(Served::default()) } {
                        Ok(served) => {
                            tasks.extend(served.tasks);
                            more = served.more;
                            // An error is a reply of a command that has changed nothing.
                            if let Some(error) = served.trouble
                                && tasks.is_empty()
                                && served.moved == 0
                            {
                                return Err(error);
                            }
                        }
                        Err(error) if tasks.is_empty() => return Err(error),
                        // What was handed out before the error is the consumer's.
                        Err(_) => {}
                    }
                    if !tasks.is_empty() {
                        return Ok(shape().reply(queue.bytes(), tasks));
                    }
                }
            }
        }
        match patience {
            Some(patience) if server.may_block() => {
                subscribe(server, line::EVENTS);
                let (name, part) = (queue.bytes().into(), group.bytes().into());
                let address = Address { db: server.db(), name, part };
                let consumer = consumer.bytes().into();
                let wanted = Wanted { consumer, count: count.value, shape: shape() };
                let joined =
                    Waiter::<Tasks>::join(server, queue, address, None, patience, wanted, || {})?;
                if joined.is_none() {
                    return Ok(shape().nothing());
                }
                if more {
                    line::look_at(server, queue.bytes());
                } else {
                    line::reschedule(server, queue.bytes());
                }
                Ok(Reply::Later)
            }
            _ => Ok(shape().nothing()),
        }
    }
}
