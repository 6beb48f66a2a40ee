//! TASK.NACK

use super::id::IdArg;
use super::moves::{Leased, Obituary};
use super::policy::Policy;
use super::rules::{self, Backoff, Failure, Fate, Tried};
use super::{line, store};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `TASK.NACK stream group consumer SILENT|FAIL|FATAL id [DELAY ms] [REASON text]` gives a task back
/// that is leased to the consumer. The reply is 1 if it is tried again, 2 if it is a dead letter now,
/// 0 if it was not leased to the consumer. SILENT does not count as a try. FAIL does, and waits for
/// the back-off, or DELAY, until the policy's TRIES are used up. FATAL is not tried again.
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
}

impl Command for Nack {
    const SPEC: Spec = Spec {
        name: c"task.nack",
        summary: c"Gives a task back: to be tried again, or to the dead letters.",
        complexity: c"O(log N) for N delayed tasks; O(G) for a stream with G consumer groups.",
        since: c"0.1.0",
        arity: -6,
        flags: c"write fast",
        categories: c"write stream fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
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
        ],
    };
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
        let (mut delay, mut reason) = (None, None);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && delay.is_none() {
                delay = Some(args.span()?);
            } else if option.is("REASON") && reason.is_none() {
                reason = Some(args.any()?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { stream, group, consumer, failure, id, delay, reason })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { stream: queue, group, failure, id, delay, .. } = request;
        server.refuse_while_slot_moves(queue)?;
        let id = (id.id, id.borrow());
        let Some((priority, stream, lease)) = store::find_lease(server, queue, group, id)? else {
            return Ok(Reply::Integer(0));
        };
        if *lease.consumer != *request.consumer.bytes() {
            return Ok(Reply::Integer(0));
        }
        let leased = Leased { queue, priority, group, id };
        let Some(entry) = store::entry(server, stream.borrow(), id.1)? else {
            // Another client has deleted it: nothing is left to be given back.
            leased.finish(server)?;
            return Ok(Reply::Integer(0));
        };
        let task = entry.task();
        let policy = Policy::of(server, queue)?;
        let backoff = Backoff { base: policy.backoff(), max: policy.backoff_max() };
        let tried = Tried { before: task.retry_count, deliveries: lease.deliveries };
        match rules::give_back(failure, tried, policy.tries(), backoff, delay, server.random()) {
            Fate::Again(retry_count, delay) => {
                leased.requeue(server, task, retry_count, delay)?;
                line::hand_over_one(server, queue.bytes());
                Ok(Reply::Integer(1))
            }
            Fate::Dead(retry_count) => {
                let reason = match (request.reason, failure) {
                    (Some(reason), _) => reason.bytes(),
                    (None, Failure::Fatal) => b"fatal",
                    (None, _) => b"failed",
                };
                let obituary = Obituary { reason, deliveries: lease.deliveries };
                leased.bury(server, task, retry_count, &obituary)?;
                Ok(Reply::Integer(2))
            }
        }
    }
}
