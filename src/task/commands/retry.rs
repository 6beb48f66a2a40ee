//! TASK.RETRY

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{CowStr, OwnedStr, Reply, Server, Str, Type};
use crate::task::id::{EntryId, IdArg, Priority};
use crate::task::identity::{Birth, Move};
use crate::task::policy::policy_of;
use crate::task::store::{self, Ending, Entry, Target};
use crate::task::{Cx, DEAD, groups, line, moved, moves};

/// `TASK.RETRY stream id payload retry_count retry_stream dlq_stream max_retries [group]` moves a
/// failed task: to `retry_stream` with `retry_count` + 1 while `retry_count` is below `max_retries`,
/// else to `dlq_stream`. In the same step the source entry is finished for `group`, or for the only
/// group of the stream; if the stream has several groups and none is named, it stays pending. A missing
/// source entry is not an error, because the call carries the payload.
pub struct Retry;

/// The arguments of TASK.RETRY.
pub struct Request<'a> {
    stream: Str<'a>,
    id: IdArg<'a>,
    payload: Str<'a>,
    retry_count: i64,
    retry_stream: Str<'a>,
    dlq_stream: Str<'a>,
    max_retries: i64,
    group: Option<Str<'a>>,
}

impl Command for Retry {
    const SPEC: Spec = Spec {
        name: c"task.retry",
        summary: c"Moves a failed task to a retry stream or, after too many tries, to a \
                   dead-letter stream.",
        complexity: c"O(1); O(G) for a stream with G consumer groups.",
        arity: -8,
        flags: "write deny-oom",
        types: "stream",
        keys: &[
            Key { position: 1, access: Access::Delete },
            Key { position: 5, access: Access::Insert },
            Key { position: 6, access: Access::Insert },
        ],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"id"),
            Arg::string(c"payload"),
            Arg::integer(c"retry_count"),
            Arg::key(c"retry_stream", 1),
            Arg::key(c"dlq_stream", 2),
            Arg::integer(c"max_retries"),
            Arg::string(c"group").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (stream, id, payload) = (args.name()?, IdArg::read(args.any()?)?, args.any()?);
        let retry_count = args.at_least(0)?.value;
        let (retry_stream, dlq_stream) = (args.name()?, args.name()?);
        let max_retries = args.at_least(0)?.value;
        let group = if args.more() { Some(args.filled("group")?) } else { None };
        Ok(Request {
            stream,
            id,
            payload,
            retry_count,
            retry_stream,
            dlq_stream,
            max_retries,
            group,
        })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, payload, group, .. } = request;
        names::reject_other_slots(server, [queue, request.retry_stream, request.dlq_stream])?;
        names::reject_moving_slot(server, queue)?;
        let (id, text) = (request.id.id, request.id.borrow());
        let (priority, stream, source) = source(server, queue, (id, text))?;
        let stream = stream.borrow();
        let finished_for = finished_for(cx, stream, group)?;
        // Everything that can be refused comes before the first change.
        policy_of(cx, queue)?;
        let mut task = source.as_ref().map(Entry::task).unwrap_or_default();
        if names::name_of(DEAD, queue.bytes()).is_some() {
            // Clients can consume and retry dead letters as well.
            task.forget_death();
        }
        let counters = &cx.family.counters;
        let (target, retry_count, counter) = if request.retry_count < request.max_retries {
            // Below another integer, so this cannot overflow.
            (request.retry_stream, request.retry_count + 1, &counters.requeued)
        } else {
            (request.dlq_stream, request.retry_count, &counters.dead_lettered)
        };
        task.forget_expiry();
        task.payload = Some(payload.bytes());
        task.retry_count = retry_count;
        let dead = names::key_of(server, DEAD, queue)?;
        let stays = [queue.bytes(), dead.borrow().bytes()].contains(&target.bytes());
        // In another stream it is for all groups.
        task.group = None;
        let group = finished_for.as_ref().map(OwnedStr::borrow).filter(|_| stays);
        let from = Move::of(&task, (id, Some(priority)), None);
        let copy = moves::copy(cx, queue, stream, group, text, task)?;
        let to = store::add_copy(cx, Target::Queue(target, Priority::LOWEST), &copy, &[])?;
        counter.add(1);
        let goes_on = target.bytes() == queue.bytes();
        if goes_on {
            // Without its source the copy may be the second one.
            let birth = if source.is_none() { Birth::Claimed } else { from.birth };
            moved::record(cx, queue, &[Move { to: Some(to), birth, ..from }])?;
        } else if names::name_of(DEAD, queue.bytes()) == Some(target.bytes()) {
            moved::record(cx, target, &[Move { to: Some(to), birth: Birth::Claimed, ..from }])?;
        }
        if let Some(group) = &finished_for {
            let ending = if goes_on { Ending::Moves } else { Ending::Ends };
            let place = (queue, priority);
            let finished = store::finish_as(cx, place, group.borrow(), &[(id, text)], ending)?;
            counters.acked.add(finished as u64);
        }
        line::hand_over_one(cx, target.bytes());
        Ok(Reply::Simple(c"OK"))
    }
}

/// The stream that the entry is in, and the entry, if it still exists.
fn source<'a>(
    server: &'a Server,
    queue: Str<'a>,
    id: (EntryId, Str<'_>),
) -> Result<(Priority, CowStr<'a>, Option<Entry<'a>>), Error> {
    for priority in store::places(id.0) {
        let stream = store::stream_of(server, queue, priority)?;
        let found = store::entry(server, stream.borrow(), id.1)?;
        if found.is_some() {
            return Ok((priority, stream, found));
        }
    }
    Ok((Priority::LOWEST, CowStr::Given(queue), None))
}

/// The group for which the source entry is finished.
fn finished_for(
    cx: Cx<'_>,
    stream: Str<'_>,
    group: Option<Str<'_>>,
) -> Result<Option<OwnedStr>, Error> {
    match (cx.server.type_of(stream), group) {
        (Type::Absent, _) => Ok(None),
        (Type::Stream, Some(group)) if groups::has_group(cx, stream, group)? => {
            Ok(Some(OwnedStr::new(group.bytes())))
        }
        (Type::Stream, Some(_)) => Err(Error::NoGroup),
        (Type::Stream, None) => {
            Ok(groups::only_group(cx, stream)?.map(|name| OwnedStr::new(&name)))
        }
        (Type::String | Type::SortedSet | Type::Other, _) => Err(Error::WrongType),
    }
}
