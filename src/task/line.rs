//! Consumers that wait: one line for each group of a stream.

use super::desk::{ServerDesk, Shape};
use super::store::{self, IfMissing};
use super::{groups, memory};
use crate::args::Argument;
use crate::error::Error;
use crate::server::events::{self, KeyEvent};
use crate::server::{OwnedStr, Reply, Server, Str};
use crate::time::{Millis, UnixMs};
use crate::waiting::{self, Budget, Hall, Lines, Queue, Waiter, no_lines};
use std::cell::RefCell;
use std::rc::Rc;

/// The family of waiting consumers.
pub struct Tasks;

/// What a waiting consumer asked for.
pub struct Wanted {
    /// Its name.
    pub consumer: Box<[u8]>,
    /// How many tasks at most.
    pub count: i64,
    /// In which shape.
    pub shape: Shape,
}

static HALL: Lines<Tasks> = no_lines();

impl Queue for Tasks {
    type Request = Wanted;

    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>> {
        HALL.get()
    }

    fn nothing(_server: &Server, waiter: &Waiter<Self>) -> Reply<'static> {
        waiter.request.shape.nothing()
    }

    fn serve(server: &Server, db: i32, stream: &[u8], budget: &mut Budget) {
        let queue = OwnedStr::new(stream);
        let outcome = server
            .refuse_while_slot_moves(queue.borrow())
            .and_then(|()| serve_all(server, db, stream, usize::MAX, budget));
        match outcome {
            Ok(()) => schedule(server, db, stream),
            Err(_) => waiting::look_later::<Self>(server, db, stream),
        }
    }
}

/// One task was added to `stream`: in every group the first in line gets it.
pub fn hand_over_one(server: &Server, stream: &[u8]) {
    hand_over(server, stream, 1);
}

/// Tasks were added to `stream`: in every group those who wait get them.
pub fn hand_over_all(server: &Server, stream: &[u8]) {
    hand_over(server, stream, usize::MAX);
}

fn hand_over(server: &Server, stream: &[u8], most: usize) {
    if HALL.get().borrow().len() == 0 {
        return;
    }
    let db = server.db();
    // The task is there whatever becomes of this: then the timer looks.
    match serve_all(server, db, stream, most, &mut Budget::wave()) {
        Ok(()) => schedule(server, db, stream),
        Err(_) => {
            HALL.get().borrow_mut().disturb(db, stream);
        }
    }
    waiting::settle(server);
}

/// Somebody may be served: whoever waits for `stream` is looked at by the timer, right after this.
pub fn look_at(server: &Server, stream: &[u8]) {
    if HALL.get().borrow_mut().disturb(server.db(), stream) {
        waiting::settle(server);
    }
}

/// When there will be something to hand out has changed.
pub fn reschedule(server: &Server, stream: &[u8]) {
    if HALL.get().borrow().len() > 0 {
        schedule(server, server.db(), stream);
        waiting::settle(server);
    }
}

/// How soon a queue is looked at of which nothing is known.
const FORGOTTEN: Millis = Millis(100);

/// Sets when whoever waits for `stream` is looked at again: when the first delayed task is due or
/// the first lease ends.
fn schedule(server: &Server, db: i32, stream: &[u8]) {
    let groups = HALL.get().borrow().parts(db, stream);
    if groups.is_empty() {
        return;
    }
    // Never in the past: the server's clock inside a command can lag a little.
    let now = server.moment();
    let due = match memory::next_look(db, stream, &groups) {
        Some(next) => {
            // The moment at which the clock reads the due time.
            let at = next.at.map(|due| server.moment_past(UnixMs(due.0.saturating_sub(1))));
            let due = [at, next.by_moment].into_iter().flatten().min();
            due.map(|due| due.max(now.after(Millis(1))))
        }
        // It was forgotten for another queue: then everything is learned anew at each look.
        None => Some(now.after(FORGOTTEN)),
    };
    HALL.get().borrow_mut().set_due(db, stream, due, now);
}

/// How many consumers wait for tasks of `stream`.
pub fn length(server: &Server, stream: &[u8]) -> usize {
    let (db, hall) = (server.db(), HALL.get().borrow());
    hall.parts(db, stream).iter().map(|group| hall.len_of(db, stream, group)).sum()
}

/// Serves a group's line before somebody new reads. True if some still wait after that: then
/// there is nothing left to read, or what is left is theirs.
pub fn serve_before_reading(server: &Server, queue: Str<'_>, group: &[u8]) -> Result<bool, Error> {
    if HALL.get().borrow().len() == 0 {
        return Ok(false);
    }
    let (db, stream) = (server.db(), queue.bytes());
    // A calm line has nothing to be handed out. Whoever comes to what is no stream is told so.
    let calm = HALL.get().borrow().is_calm(db, stream, group);
    if calm && is_stream(server, queue) {
        return Ok(true);
    }
    serve_group(server, db, stream, group, usize::MAX, &mut Budget::wave())?;
    waiting::settle(server);
    Ok(HALL.get().borrow().first(db, stream, group).is_some())
}

/// Serves the lines of every group.
fn serve_all(
    server: &Server,
    db: i32,
    stream: &[u8],
    most: usize,
    budget: &mut Budget,
) -> Result<(), Error> {
    let groups = HALL.get().borrow().parts(db, stream);
    // One group's trouble is not another's.
    let mut outcome = Ok(());
    for group in &groups {
        outcome = outcome.and(serve_group(server, db, stream, group, most, budget));
    }
    outcome
}

/// Serves a line until it is empty, nothing is left to hand out, `most` are served or the budget is
/// spent; then the timer goes on.
fn serve_group(
    server: &Server,
    db: i32,
    stream: &[u8],
    group: &[u8],
    most: usize,
    budget: &mut Budget,
) -> Result<(), Error> {
    let (queue, group_name) = (OwnedStr::new(stream), OwnedStr::new(group));
    let mut served = 0;
    while served < most
        && let Some(first) = Waiter::<Tasks>::first(db, stream, group)
    {
        if budget.is_spent() {
            HALL.get().borrow_mut().disturb(db, stream);
            break;
        }
        if !first.may_be_served(server, budget) {
            continue;
        }
        let consumer = OwnedStr::new(&first.request.consumer);
        let desk = ServerDesk {
            server,
            queue: queue.borrow(),
            group: group_name.borrow(),
            consumer: consumer.borrow(),
            if_missing: IfMissing::CreateGroup,
        };
        let found = match desk.serve(first.request.count) {
            Ok(found) => found,
            // It may be served later: when the server takes writes, or what belongs to the queue is
            // what it ought to be.
            Err(error) if error.passes() => return Err(error),
            Err(error) if error.is_wrong_type() && is_stream(server, queue.borrow()) => {
                return Err(error);
            }
            Err(error) => {
                budget.spend(0);
                first.refuse(server, error);
                continue;
            }
        };
        budget.grants = budget.grants.saturating_sub(found.moved);
        if found.tasks.is_empty() {
            if found.more {
                HALL.get().borrow_mut().disturb(db, stream);
            }
            break;
        }
        let reply = first.request.shape.reply(stream, found.tasks);
        budget.spend(reply.size());
        served += 1;
        first.answer(reply);
        if found.moved > 0 {
            // It got what others were looking for, or more came to light: they are served by the
            // timer, right after this.
            HALL.get().borrow_mut().disturb(db, stream);
        }
    }
    Ok(())
}

/// Whether a queue is a stream, or may become one.
fn is_stream(server: &Server, queue: Str<'_>) -> bool {
    store::expect_stream(server, queue).is_ok()
}

/// The events that matter here.
pub const EVENTS: i32 = events::STREAMS | events::KEYS | events::SORTED_SETS | events::HASHES;

/// See [`crate::family::Family::key_changed`].
pub fn key_changed(server: &Server, event: KeyEvent<'_>) {
    if matches!(event.name, b"expire" | b"persist") {
        return;
    }
    let db = server.db();
    if groups::may_change(event) {
        groups::forget(db, event.key);
    }
    if event.own {
        return;
    }
    // Of the queue itself, or of what belongs to it.
    let belongs = memory::key_changed(db, &event);
    let ready = may_be_ready(event).then_some(event.key);
    for name in [ready, belongs].into_iter().flatten() {
        look_at(server, name);
    }
}

/// Whether an event can have brought a group something to read.
fn may_be_ready(event: KeyEvent<'_>) -> bool {
    match event.name {
        b"xadd" | b"xgroup-create" | b"xgroup-setid" | b"xgroup-destroy" => event.stream,
        b"rename_to" | b"restore" | b"copy_to" | b"move_to" => !event.stream,
        _ => false,
    }
}
