//! Consumers that wait: one line for each group of a stream.

use super::store::{self, IfMissing, Read};
use super::{DELIVERED, groups};
use crate::error::Error;
use crate::server::events::{self, KeyEvent, Listener};
use crate::server::{MainThread, Mode, OwnedStr, Reply, Server};
use crate::waiting::{self, Budget, Hall, Lines, Queue, Waiter, no_lines};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The family of waiting consumers.
pub struct Tasks;

/// What a waiting consumer asked for.
pub struct Wanted {
    /// Its name.
    pub consumer: Box<[u8]>,
    /// How many tasks at most.
    pub count: i64,
}

static HALL: Lines<Tasks> = no_lines();

impl Queue for Tasks {
    type Request = Wanted;

    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>> {
        HALL.get()
    }

    fn nothing(_server: &Server, _waiter: &Waiter<Self>) -> Reply<'static> {
        Reply::NullArray
    }

    fn serve(server: &Server, db: i32, stream: &[u8], budget: &mut Budget) {
        let parts = HALL.get().borrow().parts(db, stream);
        for group in parts {
            match serve_group(server, db, stream, &group, usize::MAX, budget) {
                // What cures it raises an event.
                Ok(()) | Err(Error::WrongType) => {}
                Err(Error::Server(refused)) if refused.code() == "WRONGTYPE" => {}
                Err(_) => waiting::look_later::<Self>(server, db, stream),
            }
        }
    }
}

/// One task was added to `stream`: in every group the first in line gets it.
pub fn hand_over_one(server: &Server, stream: &[u8]) {
    if HALL.get().borrow().len() == 0 {
        return;
    }
    let db = server.db();
    let groups = HALL.get().borrow().parts(db, stream);
    for group in groups {
        // The task is published whatever becomes of this: then the timer looks.
        if serve_group(server, db, stream, &group, 1, &mut Budget::wave()).is_err() {
            HALL.get().borrow_mut().disturb(db, stream);
        }
    }
    waiting::settle(server);
}

/// Serves a group's line before somebody new reads. True if some still wait after that: then
/// there is nothing left to read, or what is left is theirs.
pub fn serve_before_reading(server: &Server, stream: &[u8], group: &[u8]) -> Result<bool, Error> {
    if HALL.get().borrow().len() == 0 {
        return Ok(false);
    }
    let db = server.db();
    serve_group(server, db, stream, group, usize::MAX, &mut Budget::wave())?;
    waiting::settle(server);
    Ok(HALL.get().borrow().first(db, stream, group).is_some())
}

/// Serves a line until it is empty, nothing is left to read, `most` are served or the budget is
/// spent; then the timer goes on.
fn serve_group(
    server: &Server,
    db: i32,
    stream: &[u8],
    group: &[u8],
    most: usize,
    budget: &mut Budget,
) -> Result<(), Error> {
    let (stream_key, group_name) = (OwnedStr::new(stream), OwnedStr::new(group));
    let mut served = 0;
    while served < most
        && let Some(first) = Waiter::<Tasks>::first(db, stream, group)
    {
        if budget.is_spent() {
            HALL.get().borrow_mut().disturb(db, stream);
            break;
        }
        if !first.is_connected(server, budget) {
            continue;
        }
        let consumer = OwnedStr::new(&first.request.consumer);
        let count = OwnedStr::number(first.request.count);
        let read = Read {
            stream: stream_key.borrow(),
            group: group_name.borrow(),
            consumer: consumer.borrow(),
            count: count.borrow(),
        };
        let Some(found) = store::read(server, &read, IfMissing::CreateGroup, Mode::Write)? else {
            break;
        };
        let Some(entries) = store::entries(&found) else {
            break;
        };
        DELIVERED.add(entries.len() as u64);
        let (name, tasks) = (Reply::Bulk(stream.to_vec()), Reply::copy(entries));
        let reply = if first.resp3 {
            Reply::Map(vec![(name, tasks)])
        } else {
            Reply::Array(vec![Reply::Array(vec![name, tasks])])
        };
        budget.spend(reply.size());
        served += 1;
        first.answer(reply);
    }
    Ok(())
}

static SUBSCRIBED: MainThread<Cell<bool>> = MainThread::new(Cell::new(false));

impl Listener for Tasks {
    const CLASSES: i32 = events::STREAMS | events::KEYS;

    fn subscribed() -> &'static Cell<bool> {
        SUBSCRIBED.get()
    }

    fn key_changed(server: &Server, event: KeyEvent<'_>) {
        if groups::may_change(event) {
            groups::forget(server.db(), event.key);
        }
        let ready = !event.own && may_be_ready(event);
        if ready && Self::hall().borrow_mut().disturb(server.db(), event.key) {
            waiting::settle(server);
        }
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
