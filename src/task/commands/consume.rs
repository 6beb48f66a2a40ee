//! TASK.CONSUME

use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str, integer, words};
use crate::task::consumer::Consumer;
use crate::task::deliver::{Outcome, deliver};
use crate::task::delivery::Shape;
use crate::task::line;
use crate::task::several::Several;
use crate::task::store::IfMissing;
use crate::task::{Cx, EVENTS};
use crate::time::Timeout;
use crate::waiting::{self, Address, Waiter, connection};
use std::collections::BTreeSet;

/// `TASK.CONSUME group consumer stream [count [block_ms]] [COUNT n] [BLOCK ms] [META] [TIED] [THEN n
/// stream ...]` leases up to `count` tasks (default 1) to a consumer. A missing group is created at the
/// beginning of the stream. Tasks whose lease has expired come first, the oldest lease first, then new
/// ones by priority. With `block_ms` the client waits in line for a task; 0 means without limit. The
/// reply has the form of XREADGROUP's, and is nil if there is no task. With META it is `[[id, fields,
/// idle_ms, deliveries], ...]`. With TIED, the leases also end when the connection of the client closes.
/// With THEN the consumer reads from further queues as well, and each task of the reply ends with its
/// queue.
pub struct Consume;

/// The arguments of TASK.CONSUME.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    consumer: Str<'a>,
    count: Parsed<Str<'a>, i64>,
    timeout: Option<Timeout>,
    meta: bool,
    tied: bool,
    further: &'a [Str<'a>],
}

/// How many queues can follow THEN.
const FURTHER: i64 = 63;

impl Command for Consume {
    const SPEC: Spec = Spec {
        name: c"task.consume",
        summary: c"Leases tasks to a consumer of a group. Optionally waits for them.",
        complexity: c"O(N) for N tasks returned or moved.",
        arity: -4,
        flags: "write blocking",
        types: "stream",
        keys: &[
            Key { position: 3, access: Access::Update },
            Key { position: 4, access: Access::UpdateBehind(c"THEN") },
        ],
        args: &[
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::key(c"stream", 0),
            Arg::block(c"limits", &[Arg::integer(c"count"), Arg::integer(c"block_ms").optional()])
                .optional(),
            Arg::integer(c"count").after(c"COUNT").optional(),
            Arg::integer(c"block_ms").after(c"BLOCK").optional(),
            Arg::keyword(c"meta", c"META").optional(),
            Arg::keyword(c"tied", c"TIED").optional(),
            Arg::block(
                c"further",
                &[Arg::integer(c"numstreams"), Arg::key(c"stream", 1).multiple()],
            )
            .after(c"THEN")
            .optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        const OPTIONS: &[&str] = &["COUNT", "BLOCK", "META", "TIED", "THEN"];
        let group = args.filled("group")?;
        let consumer = args.filled("consumer")?;
        let stream = args.name()?;
        let (mut count, mut timeout, mut meta, mut tied) = (None, None, false, false);
        let mut further: &[Str<'_>] = &[];
        if args.more() && !args.next_is(OPTIONS) {
            count = Some(args.at_least(1)?);
            if args.more() && !args.next_is(OPTIONS) {
                timeout = Some(args.timeout()?);
            }
        }
        while let Some(option) = args.keyword() {
            if option.is("COUNT") && count.is_none() {
                count = Some(args.at_least(1)?);
            } else if option.is("BLOCK") && timeout.is_none() {
                timeout = Some(args.timeout()?);
            } else if option.is("META") && !meta {
                meta = true;
            } else if option.is("TIED") && !tied {
                tied = true;
            } else if option.is("THEN") && further.is_empty() {
                further = further_queues(args, stream)?;
            } else {
                return Err(Error::Syntax);
            }
        }
        let count = count.unwrap_or(Parsed { arg: words().one(), value: 1 });
        Ok(Request { stream, group, consumer, count, timeout, meta, tied, further })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, group, consumer, count, timeout, meta, tied, further } =
            request;
        let client = if tied { Some(connection::connection(cx)?) } else { None };
        if !further.is_empty() {
            let count = count.value;
            let several = Several { first: queue, further, group, consumer, client, count };
            return several.consume(cx, timeout);
        }
        names::reject_moving_slot(server, queue)?;
        // Mostly the reply is forwarded, and then the protocol does not matter.
        let shape = || if meta { Shape::Meta } else { Shape::Streams { resp3: server.resp3() } };
        let nothing = || if meta { Shape::Meta } else { Shape::Streams { resp3: false } }.nothing();
        let others_wait = line::serve_before_reading(cx, queue, group.bytes())?;
        let mut more = false;
        if !others_wait {
            let if_missing = IfMissing::CreateAll;
            let consumer = Consumer { cx, queue, group, name: consumer, client, if_missing };
            match deliver(consumer, count, Mode::WriteForward)? {
                Outcome::Read(found) => return Ok(Shape::forward(found, meta)),
                Outcome::Tasks(found) if !found.tasks.is_empty() => {
                    return Ok(shape().reply(queue.bytes(), found.tasks));
                }
                Outcome::Tasks(found) => {
                    // A command that returns an error has changed nothing.
                    if let Some(error) = found.trouble.filter(|_| found.moved == 0) {
                        return Err(error);
                    }
                    more = found.more;
                }
            }
        }
        let Some(timeout) = timeout.filter(|_| server.may_block()) else {
            return Ok(nothing());
        };
        server.subscribe(EVENTS);
        let (db, name) = (server.db(), queue.bytes());
        let part = group.bytes().into();
        let address = Address { db, name: name.into(), part, further: Box::default() };
        let request = line::Request { count: count.value, shape: shape(), tied };
        let joined = Waiter::join(cx, queue, address, None, timeout, request, || {})?;
        if joined.is_none() {
            return Ok(nothing());
        }
        if more {
            waiting::serve_soon(cx, db, name);
        } else {
            line::reschedule(cx, name);
        }
        Ok(Reply::Later)
    }
}

/// The queues behind THEN. The server cannot tell which keys a command has if their number is not
/// canonical or does not fit. Then it has checked the user's permission for none of them, so nothing
/// may be looked at.
fn further_queues<'a>(args: &mut Args<'a>, first: Str<'a>) -> Result<&'a [Str<'a>], Error> {
    let number = integer(args.any()?.bytes()).filter(|number| (1..=FURTHER).contains(number));
    let further = args.take(number.ok_or(Error::Syntax)? as usize)?;
    let mut seen = BTreeSet::from([first.bytes()]);
    let is_new = |queue: &Str<'a>| !queue.bytes().is_empty() && seen.insert(queue.bytes());
    if further.iter().all(is_new) { Ok(further) } else { Err(Error::Syntax) }
}
