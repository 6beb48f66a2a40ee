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
use crate::task::{Cx, DELAYED, delayed, fields, line, unique_key};
use crate::time::{Millis, UnixMs};
use std::ffi::CStr;

/// `TASK.PUBLISH stream payload [retry_count] [DELAY ms | AT unix_ms] [PRIORITY 0-9]
/// [UNIQUE id ms] [EXPIRE ms] [TRIES n] [FIELDS n name value ...] [META]` adds a task and replies its id.
/// A waiting consumer gets it in the same step. With DELAY or AT the task becomes ready when it is due.
/// Tasks of a higher PRIORITY are delivered first. With UNIQUE nothing is added while the deduplication
/// window of `ms` lasts, and the reply is the id of the first task. With EXPIRE the task becomes a dead
/// letter if it has not been delivered within `ms`. TRIES overrides that of the queue's policy. FIELDS
/// are further fields, which every copy carries. With META the reply is `[id, added | duplicate]`.
pub struct Publish;

/// The arguments of TASK.PUBLISH.
pub struct Request<'a> {
    stream: Str<'a>,
    payload: Str<'a>,
    retry_count: Parsed<Str<'a>, i64>,
    when: When,
    priority: Priority,
    unique: Option<(Str<'a>, Parsed<Str<'a>, Millis>)>,
    expire: Option<Millis>,
    tries: Option<Str<'a>>,
    /// Further fields, each followed by its value.
    fields: &'a [Str<'a>],
    meta: bool,
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
            Arg::integer(c"expire_ms").after(c"EXPIRE").optional(),
            Arg::integer(c"tries").after(c"TRIES").optional(),
            Arg::block(
                c"fields",
                &[
                    Arg::integer(c"numfields"),
                    Arg::block(c"field", &[Arg::string(c"name"), Arg::string(c"value")]).multiple(),
                ],
            )
            .after(c"FIELDS")
            .optional(),
            Arg::keyword(c"meta", c"META").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        const OPTIONS: &[&str] =
            &["DELAY", "AT", "PRIORITY", "UNIQUE", "EXPIRE", "TRIES", "FIELDS", "META"];
        let stream = args.name()?;
        let payload = args.any()?;
        let retry_count = if args.more() && !args.next_is(OPTIONS) {
            args.at_least(0)?
        } else {
            Parsed { arg: words().zero(), value: 0 }
        };
        let (mut when, mut priority, mut unique) = (None, None, None);
        let (mut expire, mut tries, mut fields, mut meta) = (None, None, None, false);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && when.is_none() {
                when = Some(When::In(args.span()?));
            } else if option.is("AT") && when.is_none() {
                when = Some(When::At(args.point()?));
            } else if option.is("PRIORITY") && priority.is_none() {
                priority = Priority::new(args.between(0, 9)?.unsigned_abs());
            } else if option.is("UNIQUE") && unique.is_none() {
                unique = Some((args.filled("unique id")?, args.lifetime()?));
            } else if option.is("EXPIRE") && expire.is_none() {
                expire = Some(args.lifetime()?.value);
            } else if option.is("TRIES") && tries.is_none() {
                tries = Some(args.at_least(0)?.arg);
            } else if option.is("FIELDS") && fields.is_none() {
                fields = Some(fields::read(args)?);
            } else if option.is("META") && !meta {
                meta = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request {
            stream,
            payload,
            retry_count,
            when: when.unwrap_or(When::Now),
            priority: priority.unwrap_or_default(),
            unique,
            expire,
            tries,
            fields: fields.unwrap_or_default(),
            meta,
        })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let queue = request.stream;
        let times = request.times(server)?;
        names::reject_moving_slot(server, queue)?;
        let unique = match &request.unique {
            None => None,
            Some((id, window)) => {
                let key = unique_key(server, queue, *id)?;
                if let Some(first) = first_of(server, key.borrow())? {
                    cx.family.counters.deduplicated.add(1);
                    return Ok(request.reply(first, c"duplicate"));
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
        let id = request.add(cx, &times)?;
        cx.family.counters.published.add(1);
        if let Some((key, window)) = unique {
            remember(server, key.borrow(), window, &id)?;
        }
        Ok(request.reply(id, c"added"))
    }
}

/// When a task is due, if that is later, and until when it may be delivered.
struct Times {
    due: Option<UnixMs>,
    end: Option<UnixMs>,
}

impl Request<'_> {
    /// A task that would expire before it is due is refused.
    fn times(&self, server: &Server) -> Result<Times, Error> {
        if self.when == When::Now && self.expire.is_none() {
            return Ok(Times { due: None, end: None });
        }
        let now = server.now();
        let due = match self.when {
            When::Now | When::In(Millis(0)) => None,
            When::In(delay) => Some(now + delay),
            When::At(due) => Some(due).filter(|due| *due > now),
        };
        let end = self.expire.map(|expire| now + expire);
        if end.is_some() && end <= due {
            return Err(Error::ExpireTime("task.publish"));
        }
        Ok(Times { due, end })
    }

    /// Adds the task, and serves the waiting consumers. The reply is its id.
    fn add<'s>(&self, cx: Cx<'s>, times: &Times) -> Result<Reply<'s>, Error> {
        let (server, queue, w) = (cx.server, self.stream, &cx.family.words);
        // A task that goes elsewhere is rejected as well if the queue itself is not a stream.
        if times.due.is_some() || self.priority > Priority::LOWEST {
            store::expect_stream(server, queue)?;
        }
        let mut further = Vec::new();
        if let Some(tries) = self.tries {
            further.extend([w.tries(), tries]);
        }
        let end = times.end.map(|end| OwnedStr::number(end.0));
        if let Some(end) = &end {
            further.extend([w.expire(), end.borrow()]);
        }
        further.extend(self.fields);
        let (payload, retry_count) = (self.payload, self.retry_count);
        if let Some(due) = times.due {
            let (names, values) = (further.iter().step_by(2), further.iter().skip(1).step_by(2));
            let other = names.zip(values).map(|(name, value)| (name.bytes(), value.bytes()));
            let task = Task {
                payload: Some(payload.bytes()),
                retry_count: retry_count.value,
                other: other.collect(),
                ..Task::default()
            };
            let id = delayed::add(cx, queue, self.priority, &task, due)?;
            cx.family.counters.delayed.add(1);
            line::reschedule(cx, queue.bytes());
            return Ok(Reply::Bulk(id.to_string().into_bytes()));
        }
        let fields = Fields { payload, retry_count: retry_count.arg, further: &further };
        let id = store::publish(cx, queue, self.priority, &fields)?;
        line::hand_over_one(cx, queue.bytes());
        Ok(Reply::Forward(id))
    }

    /// The reply, with what became of the task if META asks for it.
    fn reply<'s>(&self, id: Reply<'s>, outcome: &'static CStr) -> Reply<'s> {
        if self.meta { Reply::Array(vec![id, Reply::Simple(outcome)]) } else { id }
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
