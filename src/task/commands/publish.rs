//! TASK.PUBLISH

use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::task::entry::Task;
use crate::task::id::Priority;
use crate::task::policy::policy_of;
use crate::task::store::{self, Fields};
use crate::task::{Cx, DELAYED, delayed, line, unique_key};
use crate::time::{Millis, UnixMs};

/// `TASK.PUBLISH stream payload [retry_count] [DELAY ms | AT unix_ms] [PRIORITY 0-9]
/// [UNIQUE id ms]` adds a task and replies its id. A waiting consumer gets it in the same step. With
/// DELAY or AT the task becomes ready when it is due. Tasks of a higher PRIORITY are delivered first.
/// With UNIQUE nothing is added while the deduplication window of `ms` lasts, and the reply is the id
/// of the first task.
pub struct Publish;

/// The arguments of TASK.PUBLISH.
pub struct Request<'a> {
    stream: Str<'a>,
    fields: Fields<'a>,
    retry_count: i64,
    when: When,
    priority: Priority,
    unique: Option<(Str<'a>, Parsed<Str<'a>, Millis>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    In(Millis),
    At(UnixMs),
}

impl Command for Publish {
    const SPEC: Spec = Spec {
        name: c"task.publish",
        summary: c"Adds a task to a queue.",
        complexity: c"O(1), plus O(G) for G consumer groups in which a consumer waits; O(log N) \
                      with N delayed tasks.",
        arity: -3,
        flags: "write deny-oom fast",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Insert }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"payload"),
            Arg::integer(c"retry_count").optional(),
            Arg::one_of(
                c"due",
                &[Arg::integer(c"delay_ms").after(c"DELAY"), Arg::integer(c"unix_ms").after(c"AT")],
            )
            .optional(),
            Arg::integer(c"priority").after(c"PRIORITY").optional(),
            Arg::block(c"unique", &[Arg::string(c"id"), Arg::integer(c"window_ms")])
                .after(c"UNIQUE")
                .optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let payload = args.any()?;
        let retry_count = if args.more() && !args.next_is(&["DELAY", "AT", "PRIORITY", "UNIQUE"]) {
            args.at_least(0)?
        } else {
            Parsed { arg: words().zero(), value: 0 }
        };
        let (mut when, mut priority, mut unique) = (None, None, None);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && when.is_none() {
                when = Some(When::In(args.span()?));
            } else if option.is("AT") && when.is_none() {
                when = Some(When::At(args.point()?));
            } else if option.is("PRIORITY") && priority.is_none() {
                priority = Priority::new(args.between(0, 9)?.unsigned_abs());
            } else if option.is("UNIQUE") && unique.is_none() {
                unique = Some((args.filled("unique id")?, args.lifetime()?));
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request {
            stream,
            fields: Fields { payload, retry_count: retry_count.arg },
            retry_count: retry_count.value,
            when: when.unwrap_or(When::Now),
            priority: priority.unwrap_or_default(),
            unique,
        })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let queue = request.stream;
        names::reject_moving_slot(server, queue)?;
        let unique = match &request.unique {
            None => None,
            Some((id, window)) => {
                let key = unique_key(server, queue, *id)?;
                if let Some(first) = first_of(server, key.borrow())? {
                    cx.family.counters.deduplicated.add(1);
                    return Ok(first);
                }
                Some((key, window.value))
            }
        };
        if let Some(limit) = policy_of(cx, queue)?.limit()
            && size(cx, queue)? >= limit
        {
            cx.family.counters.refused.add(1);
            return Err(Error::TaskFull);
        }
        let reply = request.add(cx)?;
        cx.family.counters.published.add(1);
        if let Some((key, window)) = unique {
            remember(server, key.borrow(), window, &reply)?;
        }
        Ok(reply)
    }
}

impl Request<'_> {
    /// Adds the task, and serves the waiting consumers. The reply is its id.
    fn add<'s>(&self, cx: Cx<'s>) -> Result<Reply<'s>, Error> {
        let (server, queue) = (cx.server, self.stream);
        let due = match self.when {
            When::Now | When::In(Millis(0)) => None,
            When::In(delay) => Some(server.now() + delay),
            When::At(due) => Some(due).filter(|due| *due > server.now()),
        };
        // A task that goes elsewhere is rejected as well if the queue itself is not a stream.
        if due.is_some() || self.priority > Priority::LOWEST {
            store::expect_stream(server, queue)?;
        }
        if let Some(due) = due {
            let payload = Some(self.fields.payload.bytes());
            let task = Task { payload, retry_count: self.retry_count, ..Task::default() };
            let id = delayed::add(cx, queue, self.priority, &task, due)?;
            cx.family.counters.delayed.add(1);
            line::reschedule(cx, queue.bytes());
            return Ok(Reply::Bulk(id.to_string().into_bytes()));
        }
        let id = store::publish(cx, queue, self.priority, &self.fields)?;
        line::hand_over_one(cx, queue.bytes());
        Ok(Reply::Forward(id))
    }
}

/// The id of the first task with this unique key, while its window lasts.
fn first_of<'s>(server: &'s Server, key: Str<'_>) -> Result<Option<Reply<'s>>, Error> {
    let (kind, end) = {
        let key = server.peek_key(key);
        (key.kind(), key.deadline())
    };
    if kind == Type::Absent {
        return Ok(None);
    }
    let found = server.call(c"GET", Mode::Read, &[key])?;
    if let Some(end) = end {
        // This changes nothing, but a WAIT after it also covers the first task, which another client
        // may have published.
        let end = OwnedStr::number(end.0);
        server.call(c"PEXPIREAT", Mode::Write, &[key, end.borrow()])?;
    }
    Ok((!found.root().is_null()).then_some(Reply::Forward(found)))
}

/// Stores the id of a task that is published once.
fn remember(server: &Server, key: Str<'_>, window: Millis, reply: &Reply<'_>) -> Result<(), Error> {
    let id = match reply {
        Reply::Forward(id) => OwnedStr::new(id.root().bytes()),
        Reply::Bulk(id) => OwnedStr::new(id),
        _ => return Err(Error::Internal),
    };
    let end = OwnedStr::number((server.now() + window).0);
    let args = [key, id.borrow(), words().pxat(), end.borrow()];
    server.call(c"SET", Mode::Write, &args).map(drop)
}

/// How many tasks a queue holds: ready, leased and delayed ones.
fn size(cx: Cx<'_>, queue: Str<'_>) -> Result<i64, Error> {
    let server = cx.server;
    let (priorities, any_delayed) = cx.family.queues.places(server.db(), queue.bytes());
    let mut size = 0usize;
    for priority in Priority::ALL {
        if priority == Priority::LOWEST || priorities.contains(priority) {
            let stream = store::stream_of(server, queue, priority)?;
            size = size.saturating_add(server.peek_key(stream.borrow()).entries());
        }
    }
    if any_delayed {
        let delayed = names::key_of(server, DELAYED, queue)?;
        size = size.saturating_add(server.peek_key(delayed.borrow()).entries());
    }
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}
