//! TASK.NACK

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Reply, Str};
use crate::task::id::IdArg;
use crate::task::moves::{GiveBack, GivenBack, Leased};
use crate::task::rules::Failure;
use crate::task::{Cx, line, store};
use crate::time::Millis;

/// `TASK.NACK stream group consumer SILENT|FAIL|FATAL id [DELAY ms] [REASON text] [PAYLOAD payload]`
/// gives back a task that is leased to the consumer. The reply is 1 if the task is retried, 2 if it went
/// to the dead-letter queue, and 0 if it was not leased to the consumer. SILENT does not count as a try.
/// FAIL counts; the retry comes after the back-off, or DELAY, until the TRIES of the task or of the
/// policy are exhausted. FATAL is not retried. With PAYLOAD the copy has this payload.
pub struct Nack;

/// The arguments of TASK.NACK.
pub struct Request<'a> {
    stream: Str<'a>,
    group: Str<'a>,
    consumer: Str<'a>,
    failure: Failure,
    id: IdArg<'a>,
    delay: Option<Millis>,
    reason: Option<Str<'a>>,
    payload: Option<Str<'a>>,
}

impl Command for Nack {
    const SPEC: Spec = Spec {
        name: c"task.nack",
        summary: c"Gives a task back, for a retry or to the dead-letter queue.",
        complexity: c"O(log N) for N delayed tasks; O(G) for a stream with G consumer groups.",
        since: c"0.2.0",
        arity: -6,
        flags: "write fast",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"group"),
            Arg::string(c"consumer"),
            Arg::one_of(
                c"failure",
                &[
                    Arg::keyword(c"silent", c"SILENT"),
                    Arg::keyword(c"fail", c"FAIL"),
                    Arg::keyword(c"fatal", c"FATAL"),
                ],
            ),
            Arg::string(c"id"),
            Arg::integer(c"delay_ms").after(c"DELAY").optional(),
            Arg::string(c"text").after(c"REASON").optional(),
            Arg::string(c"payload").after(c"PAYLOAD").optional(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let stream = args.name()?;
        let (group, consumer) = (args.filled("group")?, args.filled("consumer")?);
        let failure = match args.keyword() {
            Some(word) if word.is("SILENT") => Failure::Silent,
            Some(word) if word.is("FAIL") => Failure::Fail,
            Some(word) if word.is("FATAL") => Failure::Fatal,
            _ => return Err(Error::Syntax),
        };
        let id = IdArg::read(args.any()?)?;
        let (mut delay, mut reason, mut payload) = (None, None, None);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && delay.is_none() {
                delay = Some(args.span()?);
            } else if option.is("REASON") && reason.is_none() {
                reason = Some(args.any()?);
            } else if option.is("PAYLOAD") && payload.is_none() {
                payload = Some(args.any()?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { stream, group, consumer, failure, id, delay, reason, payload })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, group, failure, id, delay, .. } = request;
        names::reject_moving_slot(server, queue)?;
        let id = (id.id, id.borrow());
        let Some((priority, _, lease)) = store::find_lease(server, queue, group, id)? else {
            return Ok(Reply::Integer(0));
        };
        if *lease.consumer != *request.consumer.bytes() {
            return Ok(Reply::Integer(0));
        }
        let reason = match (request.reason, failure) {
            (Some(reason), _) => reason.bytes(),
            (None, Failure::Fatal) => b"fatal",
            (None, _) => b"failed",
        };
        let leased = Leased { queue, priority, group, id };
        let payload = request.payload.map(Str::bytes);
        let how = GiveBack { failure, delay, reason, payload };
        match leased.give_back(cx, lease.deliveries, &how)? {
            GivenBack::Gone => Ok(Reply::Integer(0)),
            GivenBack::Requeued => {
                line::hand_over_one(cx, queue.bytes());
                Ok(Reply::Integer(1))
            }
            GivenBack::Dead => Ok(Reply::Integer(2)),
        }
    }
}
