//! Consumers that wait: one line for each group of a stream.

use super::consumer::Consumer;
use super::deliver::{Outcome, deliver};
use super::delivery::Shape;
use super::store::{self, IfMissing};
use super::ties::Tied;
use super::{Cx, Task, disconnect};
use crate::args::Parsed;
use crate::error::Error;
use crate::names;
use crate::server::events::KeyEvent;
use crate::server::{Mode, OwnedStr, Reply, Server, Str};
use crate::time::{Millis, UnixMs};
use crate::waiting::{self, Budget, Queue, Tie, Waiter, Waiting};

/// What a waiting consumer asked for, beside its name, see [`name_of`].
pub struct Request {
    /// The maximum number of tasks.
    pub count: i64,
    /// The shape of the reply.
    pub shape: Shape,
    /// Whether its leases end when its connection closes.
    pub tied: bool,
}

/// The name of a consumer that waits.
fn name_of(waiter: &Waiter<Task>) -> Result<Str<'_>, Error> {
    waiter.arg(2)
}

impl Waiting for Task {
    type Request = Request;
    type Tied = Tied;

    fn queue(&self) -> &Queue<Self> {
        &self.queue
    }

    fn timeout_reply(_cx: Cx<'_>, waiter: &Waiter<Self>) -> Reply<'static> {
        waiter.request.shape.nothing()
    }

    fn serve(cx: Cx<'_>, db: i32, stream: &[u8], budget: &mut Budget) {
        let queue = OwnedStr::new(stream);
        let outcome = names::reject_moving_slot(cx.server, queue.borrow())
            .and_then(|()| serve_all(cx, db, stream, usize::MAX, budget));
        match outcome {
            Ok(()) => set_due(cx, db, stream),
            Err(_) => waiting::retry_later(cx, db, stream),
        }
    }

    fn end_tied(cx: Cx<'_>, tie: &Tie<Tied>) -> Result<(), Error> {
        disconnect::end(cx, tie)
    }

    fn is_over(&self, tie: &Tie<Tied>) -> bool {
        self.is_tie_over(tie)
    }

    fn runs_until(cx: Cx<'_>, tie: &Tie<Tied>) -> Option<UnixMs> {
        disconnect::runs_until(cx, tie)
    }
}

/// One task was added to `stream`: in every group the first waiter gets it.
pub fn hand_over_one(cx: Cx<'_>, stream: &[u8]) {
    hand_over(cx, stream, 1);
}

/// Tasks were added to `stream`: in every group the waiters get them.
pub fn hand_over_all(cx: Cx<'_>, stream: &[u8]) {
    hand_over(cx, stream, usize::MAX);
}

fn hand_over(cx: Cx<'_>, stream: &[u8], most: usize) {
    let queue = &cx.family.queue;
    if queue.lines.is_empty() {
        return;
    }
    let db = cx.server.db();
    match serve_all(cx, db, stream, most, &mut queue.wave()) {
        Ok(()) => set_due(cx, db, stream),
        // The task has been added in any case. The timer serves the line.
        Err(_) => {
            queue.lines.mark_dirty(db, stream);
        }
    }
    waiting::schedule(cx);
}

/// The time of the next delivery may have changed.
pub fn reschedule(cx: Cx<'_>, stream: &[u8]) {
    if !cx.family.queue.lines.is_empty() {
        set_due(cx, cx.server.db(), stream);
        waiting::schedule(cx);
    }
}

/// How soon a queue is checked again of which nothing is known.
const UNKNOWN: Millis = Millis(100);

/// Sets when the lines of `stream` are checked next: when the first delayed task is due, or the first
/// lease ends.
fn set_due(cx: Cx<'_>, db: i32, stream: &[u8]) {
    let Cx { server, family } = cx;
    let groups = family.queue.lines.parts(db, stream);
    if groups.is_empty() {
        return;
    }
    // Never in the past: the server's clock inside a command can lag a little.
    let now = server.moment();
    let due = match family.queues.next_check(db, stream, &groups) {
        Some(next) => {
            // The moment at which the clock reads the due time.
            let at = next.at.map(|due| server.moment_past(due.before(Millis(1))));
            let due = [at, next.by_moment].into_iter().flatten().min();
            due.map(|due| due.max(now + Millis(1)))
        }
        // It was dropped for another queue. Then each check looks everything up again.
        None => Some(now + UNKNOWN),
    };
    family.queue.lines.set_due(db, stream, due, now);
}

/// How many consumers wait for tasks of `stream`.
pub fn length(cx: Cx<'_>, stream: &[u8]) -> usize {
    let (db, lines) = (cx.server.db(), &cx.family.queue.lines);
    lines.parts(db, stream).iter().map(|group| lines.len_of(db, stream, group)).sum()
}

/// Serves a group's line before another consumer reads. Returns whether consumers still wait: then
/// there is nothing left to read, or the rest is theirs.
pub fn serve_before_reading(cx: Cx<'_>, queue: Str<'_>, group: &[u8]) -> Result<bool, Error> {
    serve_within(cx, queue, group, &mut cx.family.queue.wave())
}

/// As [`serve_before_reading`], within a budget.
#[inline]
pub fn serve_within(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: &[u8],
    budget: &mut Budget,
) -> Result<bool, Error> {
    let nobody_waits = cx.family.queue.lines.is_empty();
    if nobody_waits { Ok(false) } else { serve_line(cx, queue, group, budget) }
}

/// As [`serve_within`], if there may be consumers that wait.
fn serve_line(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: &[u8],
    budget: &mut Budget,
) -> Result<bool, Error> {
    let lines = &cx.family.queue.lines;
    let (db, stream) = (cx.server.db(), queue.bytes());
    // The group of a clean line has nothing to deliver. If the key is not a stream, the pass reports
    // it to every waiter.
    if lines.is_clean(db, stream, group) && is_stream(cx.server, queue) {
        return Ok(true);
    }
    serve_group(cx, db, stream, group, usize::MAX, budget)?;
    waiting::schedule(cx);
    Ok(lines.first(db, stream, group).is_some())
}

/// Serves the lines of every group.
fn serve_all(
    cx: Cx<'_>,
    db: i32,
    stream: &[u8],
    most: usize,
    budget: &mut Budget,
) -> Result<(), Error> {
    // An error in one group does not affect the others.
    let mut outcome = Ok(());
    for group in &cx.family.queue.lines.parts(db, stream) {
        outcome = outcome.and(serve_group(cx, db, stream, group, most, budget));
    }
    outcome
}

/// Serves a line until it is empty, nothing is left to deliver, `most` consumers are served or the
/// budget is spent. In the last case the timer continues.
fn serve_group(
    cx: Cx<'_>,
    db: i32,
    stream: &[u8],
    group: &[u8],
    most: usize,
    budget: &mut Budget,
) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let lines = &family.queue.lines;
    let (queue, group_name) = (OwnedStr::new(stream), OwnedStr::new(group));
    let mut served = 0;
    while served < most
        && let Some(first) = Waiter::first(cx, db, stream, group)
    {
        if budget.is_spent() {
            lines.mark_dirty(db, stream);
            break;
        }
        if !first.may_be_served(server, budget) {
            continue;
        }
        let (name, count) = (name_of(&first)?, OwnedStr::number(first.request.count));
        let waits_for_several = !first.address.further.is_empty();
        let consumer = Consumer {
            cx,
            queue: queue.borrow(),
            group: group_name.borrow(),
            name,
            client: first.request.tied.then(|| first.client()),
            if_missing: if waits_for_several {
                IfMissing::WhenFilled
            } else {
                IfMissing::CreateGroup
            },
        };
        let count = Parsed { arg: count.borrow(), value: first.request.count };
        let found = match deliver(consumer, count, Mode::Write).map(Outcome::into_delivered) {
            Ok(found) => found,
            // It may be served later: once the server accepts writes, or the keys of the queue have
            // the right types.
            Err(error) if error.passes() => return Err(error),
            Err(error) if error.is_wrong_type() && is_stream(server, queue.borrow()) => {
                return Err(error);
            }
            Err(error) => {
                budget.spend(0);
                first.reject(server, error);
                continue;
            }
        };
        budget.spend_steps(found.moved);
        if found.tasks.is_empty() {
            if found.more {
                lines.mark_dirty(db, stream);
            }
            break;
        }
        let reply = first.request.shape.reply(stream, found.tasks);
        budget.spend(reply.size());
        served += 1;
        first.answer(reply);
        if found.moved > 0 {
            // Tasks have moved, perhaps to where others wait for them.
            lines.mark_dirty(db, stream);
        }
    }
    Ok(())
}

/// Whether a queue is a stream, or can become one.
fn is_stream(server: &Server, queue: Str<'_>) -> bool {
    store::expect_stream(server, queue).is_ok()
}

/// A key was changed.
pub fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
    if matches!(event.name, b"expire" | b"persist") {
        return;
    }
    let (db, queues) = (cx.server.db(), &cx.family.queues);
    queues.groups_may_have_changed(db, &event);
    if event.own {
        return;
    }
    // The key can be a queue, or belong to one.
    let belongs = queues.key_changed(db, &event);
    let ready = may_be_ready(event).then_some(event.key);
    for name in [ready, belongs].into_iter().flatten() {
        waiting::serve_soon(cx, db, name);
    }
}

/// Whether an event can have given a group something to read.
fn may_be_ready(event: KeyEvent<'_>) -> bool {
    match event.name {
        b"xadd" | b"xgroup-create" | b"xgroup-setid" | b"xgroup-destroy" => event.stream,
        b"rename_to" | b"restore" | b"copy_to" | b"move_to" => !event.stream,
        _ => false,
    }
}
