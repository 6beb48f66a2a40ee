//! TASK.PUBLISH

use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::task::entry::Task;
use crate::task::id::{EntryId, Priority};
use crate::task::latest::{New, Outcome};
use crate::task::mark::{Mark, Until};
use crate::task::store::{self, Fields};
use crate::task::{
    Cx, delayed, delayed_ids, fields, groups, held, latest, line, marks, size, unique_key,
};
use crate::time::{Millis, UnixMs};
use std::ffi::CStr;

/// `TASK.PUBLISH stream payload [retry_count] [DELAY ms | AT unix_ms] [PRIORITY 0-9]
/// [UNIQUE id ms [UNTIL START|DONE] [LAST]] [EXPIRE ms] [TRIES n] [FIELDS n name value ...] [META]` adds a task and replies its id.
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
    unique: Option<Unique<'a>>,
    expire: Option<Millis>,
    tries: Option<Str<'a>>,
    /// Further fields, each followed by its value.
    fields: &'a [Str<'a>],
    meta: bool,
}

/// The deduplication window of a task.
struct Unique<'a> {
    id: Str<'a>,
    window: Millis,
    /// What else ends the window.
    until: Option<Until>,
    /// Whether a later task takes the place of an earlier one.
    last: bool,
}

impl Unique<'_> {
    /// Whether the window follows the task.
    fn follows(&self) -> bool {
        self.until.is_some() || self.last
    }
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
            Arg::block(
                c"unique",
                &[
                    Arg::string(c"id"),
                    Arg::integer(c"window_ms"),
                    Arg::one_of(
                        c"end",
                        &[Arg::keyword(c"start", c"START"), Arg::keyword(c"done", c"DONE")],
                    )
                    .after(c"UNTIL")
                    .optional(),
                    Arg::keyword(c"last", c"LAST").optional(),
                ],
            )
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
        const OPTIONS: &[&str] = &[
            "DELAY", "AT", "PRIORITY", "UNIQUE", "UNTIL", "LAST", "EXPIRE", "TRIES", "FIELDS",
            "META",
        ];
        let stream = args.name()?;
        let payload = args.any()?;
        let retry_count = if args.more() && !args.next_is(OPTIONS) {
            args.at_least(0)?
        } else {
            Parsed { arg: words().zero(), value: 0 }
        };
        let (mut when, mut priority, mut unique) = (None, None, None);
        let (mut until, mut last) = (None, false);
        let (mut expire, mut tries, mut fields, mut meta) = (None, None, None, false);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && when.is_none() {
                when = Some(When::In(args.span()?));
            } else if option.is("AT") && when.is_none() {
                when = Some(When::At(args.point()?));
            } else if option.is("PRIORITY") && priority.is_none() {
                priority = Priority::new(args.between(0, 9)?.unsigned_abs());
            } else if option.is("UNIQUE") && unique.is_none() {
                unique = Some((args.filled("unique id")?, args.lifetime()?.value));
            } else if option.is("UNTIL") && until.is_none() {
                until = match args.keyword() {
                    Some(end) if end.is("START") => Some(Until::Start),
                    Some(end) if end.is("DONE") => Some(Until::Done),
                    _ => return Err(Error::Syntax),
                };
            } else if option.is("LAST") && !last {
                last = true;
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
        if unique.is_none() && (until.is_some() || last) {
            return Err(Error::Syntax);
        }
        Ok(Request {
            stream,
            payload,
            retry_count,
            when: when.unwrap_or(When::Now),
            priority: priority.unwrap_or_default(),
            unique: unique.map(|(id, window)| Unique { id, window, until, last }),
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
        let window = match &request.unique {
            None => None,
            Some(unique) => {
                let window = unique_key(server, queue, unique.id)?;
                if unique.follows() {
                    store::expect_stream(server, queue)?;
                    marks::check(server, queue)?;
                    if !groups::at_most_one(cx, queue)? {
                        return Err(Error::OneGroup);
                    }
                }
                let before = if unique.last {
                    request.replace(cx, unique, window.borrow(), &times)?
                } else {
                    first_of(server, window.borrow())?.map(|first| (first, c"duplicate"))
                };
                if let Some((id, outcome)) = before {
                    let counters = &cx.family.counters;
                    let queued = outcome == c"queued";
                    if queued { &counters.published } else { &counters.deduplicated }.add(1);
                    return Ok(request.reply(id, outcome));
                }
                Some((window, unique))
            }
        };
        if size::is_full(cx, queue)? {
            cx.family.counters.refused.add(1);
            return Err(Error::TaskFull);
        }
        let id = request.add(cx, &times)?;
        cx.family.counters.published.add(1);
        if let Some((window, unique)) = window {
            let text = id_in(&id)?;
            remember(server, window.borrow(), unique.window, text)?;
            if unique.follows()
                && let Some(original) = EntryId::parse(text)
            {
                let until = unique.until.unwrap_or(Until::Time);
                let mark = Mark { until, successor: None, unique: unique.id.bytes() };
                marks::set(cx, queue, original, &mark)?;
            }
        }
        // Nobody gets the task before everything about it is stored.
        match times.due {
            Some(_) => line::reschedule(cx, queue.bytes()),
            None => line::hand_over_one(cx, queue.bytes()),
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

    /// The fields beside those of every task, each followed by its value. `end` is until when the task
    /// may be delivered.
    fn further<'x>(&'x self, cx: Cx<'x>, end: Option<&'x OwnedStr>) -> Vec<Str<'x>> {
        let w = &cx.family.words;
        let mut further = Vec::new();
        if let Some(tries) = self.tries {
            further.extend([w.tries(), tries]);
        }
        if let Some(end) = end {
            further.extend([w.expire(), end.borrow()]);
        }
        further.extend(self.fields);
        further
    }

    /// The task, as it is stored while it waits for something.
    fn task<'x>(&'x self, further: &'x [Str<'x>]) -> Task<'x> {
        let (names, values) = (further.iter().step_by(2), further.iter().skip(1).step_by(2));
        let other = names.zip(values).map(|(name, value)| (name.bytes(), value.bytes()));
        Task {
            payload: Some(self.payload.bytes()),
            retry_count: self.retry_count.value,
            other: other.collect(),
            ..Task::default()
        }
    }

    /// Takes the place of an earlier task, or is held behind it, unless there is none.
    fn replace<'s>(
        &self,
        cx: Cx<'_>,
        unique: &Unique<'_>,
        window: Str<'_>,
        times: &Times,
    ) -> Result<Option<(Reply<'s>, &'static CStr)>, Error> {
        let (server, queue) = (cx.server, self.stream);
        delayed::check(server, queue)?;
        held::check(server, queue)?;
        let end = times.end.map(|end| OwnedStr::number(end.0));
        let further = self.further(cx, end.as_ref());
        let new = New {
            queue,
            unique: unique.id,
            window,
            span: unique.window,
            until: unique.until.unwrap_or(Until::Time),
            task: self.task(&further),
            priority: self.priority,
            due: times.due,
        };
        let id = |id: EntryId| Reply::Bulk(id.to_string().into_bytes());
        Ok(match latest::publish(cx, &new)? {
            Outcome::Add => None,
            Outcome::Replaced(holder) => Some((id(holder), c"replaced")),
            Outcome::Queued(successor) => Some((id(successor), c"queued")),
        })
    }

    /// Adds the task. The reply is its id.
    fn add<'s>(&self, cx: Cx<'s>, times: &Times) -> Result<Reply<'s>, Error> {
        let (server, queue) = (cx.server, self.stream);
        // A task that goes elsewhere is rejected as well if the queue itself is not a stream.
        if times.due.is_some() || self.priority > Priority::LOWEST {
            store::expect_stream(server, queue)?;
        }
        let end = times.end.map(|end| OwnedStr::number(end.0));
        let further = self.further(cx, end.as_ref());
        if let Some(due) = times.due {
            let id = delayed_ids::add(cx, queue, self.priority, &self.task(&further), due)?;
            cx.family.counters.delayed.add(1);
            return Ok(Reply::Bulk(id.to_string().into_bytes()));
        }
        let (payload, retry_count) = (self.payload, self.retry_count.arg);
        let fields = Fields { payload, retry_count, further: &further };
        Ok(Reply::Forward(store::publish(cx, queue, self.priority, &fields)?))
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
        let end = server.time(end);
        server.call(c"PEXPIREAT", Mode::Write, &[key, end.borrow()])?;
    }
    Ok((!found.root().is_null()).then_some(Reply::Forward(found)))
}

/// The id in a reply.
fn id_in<'r>(reply: &'r Reply<'_>) -> Result<&'r [u8], Error> {
    match reply {
        Reply::Forward(id) => Ok(id.root().bytes()),
        Reply::Bulk(id) => Ok(id),
        _ => Err(Error::Internal),
    }
}

/// Stores the id of a task that is published once.
fn remember(server: &Server, key: Str<'_>, window: Millis, id: &[u8]) -> Result<(), Error> {
    server.peek_key(key).set(OwnedStr::new(id).borrow(), server.now() + window)
}
