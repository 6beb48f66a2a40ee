//! TASK.RESCHEDULE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, Reply, Str};
use crate::task::entry::{self, Task};
use crate::task::groups::{self, Overviews};
use crate::task::id::{IdArg, Priority};
use crate::task::identity::Move;
use crate::task::locate::{self, Found, Place};
use crate::task::schedule::{Plan, Waits, reschedule};
use crate::task::store::{self, Target};
use crate::task::{Cx, delayed, delayed_ids, held, line, moved};
use crate::time::{Millis, UnixMs};

/// `TASK.RESCHEDULE stream id [DELAY ms | AT unix_ms] [PRIORITY 0-9]` makes a waiting task due at
/// another time, or gives it another priority. It keeps its payload, its retry count, its further
/// fields and its original id. The reply is 1, or 0 if the task is leased or does not exist.
pub struct Reschedule;

/// The arguments of TASK.RESCHEDULE.
pub struct Request<'a> {
    stream: Str<'a>,
    id: IdArg<'a>,
    due: Option<Due>,
    priority: Option<Priority>,
}

#[derive(Clone, Copy)]
enum Due {
    In(Millis),
    At(UnixMs),
}

impl Command for Reschedule {
    const SPEC: Spec = Spec {
        name: c"task.reschedule",
        summary: c"Makes a ready or delayed task due at another time, or changes its priority.",
        complexity: c"O(log(N)^2) with N delayed tasks.",
        since: c"0.2.0",
        arity: -5,
        flags: "write",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"id"),
            Arg::one_of(
                c"due",
                &[Arg::integer(c"delay_ms").after(c"DELAY"), Arg::integer(c"unix_ms").after(c"AT")],
            )
            .optional(),
            Arg::integer(c"priority").after(c"PRIORITY").optional(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (stream, id) = (args.name()?, IdArg::read(args.any()?)?);
        let (mut due, mut priority) = (None, None);
        while let Some(option) = args.keyword() {
            if option.is("DELAY") && due.is_none() {
                due = Some(Due::In(args.span()?));
            } else if option.is("AT") && due.is_none() {
                due = Some(Due::At(args.point()?));
            } else if option.is("PRIORITY") && priority.is_none() {
                priority = Priority::new(args.between(0, 9)?.unsigned_abs());
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { stream, id, due, priority })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let queue = request.stream;
        names::reject_moving_slot(server, queue)?;
        store::expect_stream(server, queue)?;
        store::check_places(server, queue, [request.id.id].into_iter())?;
        delayed::check(server, queue)?;
        if !groups::at_most_one(cx, queue)? {
            return Err(Error::OneGroup);
        }
        let mut overviews = Overviews::default();
        let Some(found) = locate::find(cx, queue, request.id.id, &mut overviews)? else {
            return Ok(Reply::Integer(0));
        };
        let now = server.now();
        let due = request.due.map(|due| match due {
            Due::In(delay) => now + delay,
            Due::At(due) => due,
        });
        match &found.place {
            Place::Leased(_) => return Ok(Reply::Integer(0)),
            Place::Held(member) => {
                let member = member.borrow();
                let group = held::group_of(member.bytes());
                let Some(held) = held::decode(member.bytes(), group.as_deref()) else {
                    return Ok(Reply::Integer(0));
                };
                let due = due.unwrap_or(held.due);
                let priority = request.priority.unwrap_or(held.delayed.priority);
                let new = held::encode(due, held.after, found.id, priority, &held.delayed.task);
                if new != member.bytes() {
                    held::put(cx, queue, found.id, &new)?;
                    held::remove(cx, queue, member)?;
                }
            }
            Place::Delayed(member) => {
                let member = member.borrow();
                let group = entry::group_of(member.bytes());
                let Some(stored) = entry::decode(member.bytes(), group.as_deref()) else {
                    // A later version of the module has stored it, and knows what belongs to it.
                    return Ok(Reply::Integer(0));
                };
                let at = UnixMs(i64::try_from(found.id.ms()).unwrap_or(i64::MAX));
                let waits = Waits::Until(at, stored.priority);
                let plan = reschedule(waits, now, due, request.priority);
                carry_out(cx, queue, &found, stored.task, plan)?;
            }
            Place::Ready(priority) => {
                let stream = store::stream_of(server, queue, *priority)?;
                let entry = store::entry(server, stream.borrow(), found.text.borrow())?;
                let Some(entry) = entry else { return Ok(Reply::Integer(0)) };
                let plan = reschedule(Waits::Ready(*priority), now, due, request.priority);
                carry_out(cx, queue, &found, entry.task(), plan)?;
            }
        }
        Ok(Reply::Integer(1))
    }
}

/// Adds the task where it belongs from now on, and removes it from where it was.
fn carry_out<'t>(
    cx: Cx<'_>,
    queue: Str<'_>,
    found: &'t Found,
    mut task: Task<'t>,
    plan: Plan,
) -> Result<(), Error> {
    let place = match &found.place {
        Place::Delayed(_) | Place::Held(_) => None,
        Place::Ready(priority) | Place::Leased(priority) => Some(*priority),
    };
    let from = Move::of(&task, (found.id, place), None);
    task.original_id = task.original_id.or(Some(found.text.borrow().bytes()));
    let to = match plan {
        Plan::Keep => return Ok(()),
        Plan::Delay(due, priority) => delayed_ids::add(cx, queue, priority, &task, due)?,
        Plan::Enter(priority) => store::add_copy(cx, Target::Queue(queue, priority), &task, &[])?,
    };
    match &found.place {
        Place::Delayed(member) | Place::Held(member) => {
            delayed_ids::remove(cx, queue, member.borrow())?;
        }
        Place::Ready(priority) | Place::Leased(priority) => {
            let stream = store::stream_of(cx.server, queue, *priority)?;
            cx.server.call(c"XDEL", Mode::Write, &[stream.borrow(), found.text.borrow()])?;
        }
    }
    moved::record(cx, queue, &[Move { to: Some(to), ..from }])?;
    match plan {
        Plan::Enter(_) => line::hand_over_one(cx, queue.bytes()),
        _ => line::reschedule(cx, queue.bytes()),
    }
    Ok(())
}
