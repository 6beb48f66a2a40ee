//! TASK.PUBLISH

use super::entry::Task;
use super::id::Priority;
use super::policy::Policy;
use super::store::{self, Fields};
use super::{DEDUPLICATED, DELAYED, PUBLISHED, REFUSED, delayed, line, memory};
use crate::args::{Args, Argument, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::time::{Millis, UnixMs};

/// `TASK.PUBLISH stream payload [retry_count] [DELAY ms | AT unix_ms] [PRIORITY 0-9]
/// [UNIQUE id ms]` adds a task and replies its id. A consumer that waits gets it in the same step.
/// With DELAY or AT it waits until it is due. Tasks of a higher PRIORITY are served first. With
/// UNIQUE the reply is the first task's id, and nothing is added, while the window of `ms` lasts.
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
    };
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

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let queue = request.stream;
        server.refuse_while_slot_moves(queue)?;
        let unique = match &request.unique {
            None => None,
            Some((id, window)) => {
                let key = server.unique_key_of(queue, *id)?;
                if let Some(first) = first_of(server, key.borrow())? {
                    DEDUPLICATED.add(1);
                    return Ok(first);
                }
                Some((key, window.value))
            }
        };
        if let Some(limit) = Policy::of(server, queue)?.limit()
            && size(server, queue)? >= limit
        {
            REFUSED.add(1);
            return Err(Error::TaskFull);
        }
        let reply = request.add(server)?;
        PUBLISHED.add(1);
        if let Some((key, window)) = unique {
            remember(server, key.borrow(), window, &reply)?;
        }
        Ok(reply)
    }
}

impl Request<'_> {
    /// Adds the task, and serves whoever waits for it. The reply is its id.
    fn add<'s>(&self, server: &'s Server) -> Result<Reply<'s>, Error> {
        let queue = self.stream;
        let due = match self.when {
            When::Now | When::In(Millis(0)) => None,
            When::In(delay) => Some(UnixMs(server.now().0.saturating_add(delay.0))),
            When::At(due) => Some(due).filter(|due| *due > server.now()),
        };
        // What is not added to the queue's own stream is refused all the same if that is none.
        if due.is_some() || self.priority > Priority::LOWEST {
            store::expect_stream(server, queue)?;
        }
        if let Some(due) = due {
            let payload = Some(self.fields.payload.bytes());
            let task = Task { payload, retry_count: self.retry_count, ..Task::default() };
            let id = delayed::add(server, queue, self.priority, &task, due)?;
            DELAYED.add(1);
            line::reschedule(server, queue.bytes());
            return Ok(Reply::Bulk(id.to_string().into_bytes()));
        }
        let id = store::publish(server, queue, self.priority, &self.fields)?;
        line::hand_over_one(server, queue.bytes());
        Ok(Reply::Forward(id))
    }
}

/// The id of the first task with this unique key, if the window lasts.
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
        // Changes nothing, but a WAIT behind this covers the first task, whoever published it.
        let end = OwnedStr::number(end.0);
        server.call(c"PEXPIREAT", Mode::Write, &[key, end.borrow()])?;
    }
    Ok((!found.root().is_null()).then_some(Reply::Forward(found)))
}

/// Keeps the id of a task that is to be published once.
fn remember(server: &Server, key: Str<'_>, window: Millis, reply: &Reply<'_>) -> Result<(), Error> {
    let id = match reply {
        Reply::Forward(id) => OwnedStr::new(id.root().bytes()),
        Reply::Bulk(id) => OwnedStr::new(id),
        _ => return Err(Error::Internal),
    };
    let end = OwnedStr::number(server.now().0.saturating_add(window.0));
    let args = [key, id.borrow(), words().pxat(), end.borrow()];
    server.call(c"SET", Mode::Write, &args).map(drop)
}

/// How many tasks a queue holds: ready, leased and delayed ones.
fn size(server: &Server, queue: Str<'_>) -> Result<i64, Error> {
    let (priorities, any_delayed) = memory::places(server.db(), queue.bytes());
    let mut size = 0usize;
    for priority in Priority::ALL {
        if priority == Priority::LOWEST || priorities.contains(priority) {
            let stream = store::stream_of(server, queue, priority)?;
            size = size.saturating_add(server.peek_key(stream.borrow()).entries());
        }
    }
    if any_delayed {
        let delayed = server.key_of(Prefix::Delayed, queue)?;
        size = size.saturating_add(server.peek_key(delayed.borrow()).entries());
    }
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}
