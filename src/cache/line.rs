//! Clients that wait for a value.
//!
//! A line is served by asking for its first what FETCH would tell it now. After a fill everybody
//! who waited gets the same held value, in waves under a budget of bytes, whatever happens to the
//! key meanwhile.

use super::entry::Entry;
use super::rules::{Fetch, Lease};
use super::{COALESCED, HANDOFFS, LOADS, STALE, WAIT_TIMEOUTS, stats, tokens};
use crate::args::Argument;
use crate::error::Error;
use crate::server::acl::Permission;
use crate::server::{MainThread, Mode, OwnedStr, Reply, Server, Str};
use crate::time::Millis;
use crate::waiting::{self, Address, Budget, Hall, Lines, Place, Queue, Waiter, Why, no_lines};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The family of clients that wait for values.
pub struct Caches;

/// What a waiter asked for.
pub struct Wish {
    /// The lease that it wants if it is to load.
    pub lease: Millis,
    /// What it takes for stale.
    pub stale: Millis,
    /// Whether a stale value is no answer before its time is over.
    pub fresh: bool,
}

/// Database and key of a value.
type Name = (i32, Box<[u8]>);

/// A fill that is still being handed out.
struct Held {
    value: Rc<OwnedStr>,
    /// The last place in line at the time of the fill.
    last: Place,
}

static HALL: Lines<Caches> = no_lines();
static HELD: MainThread<RefCell<BTreeMap<Name, Held>>> =
    MainThread::new(RefCell::new(BTreeMap::new()));

impl Queue for Caches {
    type Request = Wish;

    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>> {
        HALL.get()
    }

    fn nothing(server: &Server, waiter: &Waiter<Self>) -> Reply<'static> {
        if waiter.request.fresh && waiter.permission(server) == Permission::Granted {
            // The wait is over: what is there will do.
            let key = OwnedStr::new(&waiter.address.name);
            let value = Entry::of(server, key.borrow()).and_then(|entry| entry.copy());
            if let Ok(Some(value)) = value {
                return answer(c"STALE", Reply::Shared(Rc::new(value)), Reply::Null);
            }
        }
        answer(c"WAIT", Reply::Null, Reply::Null)
    }

    fn serve(server: &Server, db: i32, key: &[u8], budget: &mut Budget) {
        let name = OwnedStr::new(key);
        while let Err(error) = serve_line(server, db, name.borrow(), budget) {
            if error.passes() {
                return waiting::look_later::<Self>(server, db, key);
            }
            // The first one is refused, and the next is served.
            let Some(first) = Waiter::<Self>::first(db, key, b"") else { return };
            first.refuse(server, error);
            budget.spend(0);
        }
    }

    fn left(_server: &Server, waiter: &Waiter<Self>, why: Why) {
        let Address { db, name, .. } = &waiter.address;
        if HALL.get().borrow().len_of(*db, name, b"") == 0 {
            HELD.get().borrow_mut().remove(&(*db, name.clone()));
        }
        if why == Why::TimedOut {
            WAIT_TIMEOUTS.add(1);
        }
    }
}

/// `[status, value, token]`
pub fn answer<'a>(
    status: &'static std::ffi::CStr,
    value: Reply<'a>,
    token: Reply<'a>,
) -> Reply<'a> {
    Reply::Array(vec![Reply::Simple(status), value, token])
}

/// Serves the line of a value in the selected database, as it is now.
fn serve_line(server: &Server, db: i32, key: Str<'_>, budget: &mut Budget) -> Result<(), Error> {
    let due = loop {
        if budget.is_spent() {
            HALL.get().borrow_mut().disturb(db, key.bytes());
            return Ok(());
        }
        let Some(first) = Waiter::<Caches>::first(db, key.bytes(), b"") else {
            HELD.get().borrow_mut().remove(&(db, key.bytes().into()));
            return Ok(());
        };
        if !first.is_permitted(server, budget) {
            continue;
        }
        if let Some(value) = held_for(db, key.bytes(), first.place) {
            COALESCED.add(1);
            stats::coalesced(db, key.bytes());
            let reply = answer(c"HIT", Reply::Shared(value), Reply::Null);
            budget.spend(reply.size());
            first.answer(reply);
            continue;
        }
        server.refuse_while_slot_moves(key)?;
        let mut entry = Entry::of(server, key)?;
        let reply = match entry.fetch(first.request.stale) {
            Fetch::Hit => match entry.copy()? {
                Some(value) => {
                    hold(db, key.bytes(), value);
                    continue;
                }
                None => break None,
            },
            Fetch::Load if !first.may_be_served(server, budget) => continue,
            Fetch::Load => {
                let stale = entry.copy()?;
                let token = entry.lend(first.request.lease)?;
                LOADS.add(1);
                HANDOFFS.add(1);
                stats::loading(db, key.bytes());
                let stale = stale.map_or(Reply::Null, |value| Reply::Shared(Rc::new(value)));
                answer(c"LOAD", stale, Reply::Integer(token))
            }
            Fetch::Fail => answer(c"FAIL", reason(&entry), Reply::Null),
            Fetch::Stale if !first.request.fresh || entry.is_backing_off() => {
                STALE.add(1);
                let value = entry.copy()?.map_or(Reply::Null, |v| Reply::Shared(Rc::new(v)));
                answer(c"STALE", value, Reply::Null)
            }
            Fetch::Stale | Fetch::Wait => break entry.record.until(),
        };
        budget.spend(reply.size());
        first.answer(reply);
    };
    let now = server.moment();
    let due = due.map(|end| server.moment_past(end).max(now.after(Millis(1))));
    HALL.get().borrow_mut().set_due(db, key.bytes(), due, now);
    Ok(())
}

/// The reason of a failure, or nil.
pub fn reason(entry: &Entry<'_>) -> Reply<'static> {
    match &entry.record.lease {
        Lease::BackingOff(_, Some(reason)) => Reply::Bulk(reason.clone()),
        _ => Reply::Null,
    }
}

/// The value that whoever stands at `place` gets from a fill. Everybody before has got it, so for
/// somebody who came after the fill it is over.
fn held_for(db: i32, key: &[u8], place: Place) -> Option<Rc<OwnedStr>> {
    let mut all = HELD.get().borrow_mut();
    if all.is_empty() {
        return None;
    }
    let name: Name = (db, key.into());
    let held = all.get(&name)?;
    if place <= held.last {
        return Some(held.value.clone());
    }
    all.remove(&name);
    None
}

/// Everybody who waits now gets this value.
fn hold(db: i32, key: &[u8], value: OwnedStr) {
    if HALL.get().borrow().len_of(db, key, b"") == 0 {
        return;
    }
    let last = HALL.get().borrow().last_place();
    let held = Held { value: Rc::new(value), last };
    HELD.get().borrow_mut().insert((db, key.into()), held);
}

/// Whether somebody waits for the value.
pub fn is_empty(server: &Server, key: Str<'_>) -> bool {
    let hall = HALL.get().borrow();
    hall.len() == 0 || hall.len_of(server.db(), key.bytes(), b"") == 0
}

/// How many wait for the value.
pub fn length(server: &Server, key: Str<'_>) -> usize {
    HALL.get().borrow().len_of(server.db(), key.bytes(), b"")
}

/// The value was stored: all who wait get it.
pub fn filled(server: &Server, key: Str<'_>, value: Str<'_>) {
    if is_empty(server, key) {
        return;
    }
    hold(server.db(), key.bytes(), OwnedStr::hold(value));
    serve_now(server, key);
}

/// Somebody joined the line: it has to know when the lease ends for which it waits.
pub fn await_end(server: &Server, key: Str<'_>, entry: &Entry<'_>) {
    let due = entry.record.until().map(|end| server.moment_past(end));
    HALL.get().borrow_mut().set_due(server.db(), key.bytes(), due, server.moment());
    waiting::settle(server);
}

/// Serves the line of a value after its state changed.
pub fn serve_now(server: &Server, key: Str<'_>) {
    if is_empty(server, key) {
        return;
    }
    Caches::serve(server, server.db(), key.bytes(), &mut Budget::wave());
    waiting::settle(server);
}

/// How many values the timer looks at in one step.
const STEP: usize = 128;

/// Looks at values that others wrote or removed, or gave another time-to-live: removes their records,
/// serves those who wait. Called by the timer; what is left, or was refused, has another turn.
pub fn look_at_changed(server: &Server) {
    for _ in 0..STEP.min(tokens::changed()) {
        let Some((db, name, void)) = tokens::next_changed() else { continue };
        server.select(db);
        let key = OwnedStr::new(&name);
        let key = key.borrow();
        if void {
            if Entry::remove_void_record(server, key).is_err() {
                // A record that is still there is as void as before.
                tokens::look_later(server, key);
                continue;
            }
            // Whoever waits gets the value that was written, or loads.
            if !is_empty(server, key)
                && let Ok(Some(value)) = Entry::of(server, key).and_then(|entry| entry.copy())
            {
                hold(db, &name, value);
            }
        } else if let Ok(mut entry) = Entry::of(server, key)
            && entry.keep_mark(Mode::Write).is_err()
        {
            tokens::look_later(server, key);
        }
        HALL.get().borrow_mut().disturb(db, &name);
    }
}

/// The module is unloaded.
pub fn forget() {
    HALL.get().take();
    HELD.get().take();
}
