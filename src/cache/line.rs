//! Clients that wait for a value, and what this process remembers of the leases it gave out.
//!
//! A line is served by asking for its first what FETCH would tell it now. After a fill everybody
//! who waited gets the same held value, in waves under a budget of bytes, whatever happens to the
//! key meanwhile.
//!
//! A foreign write or delete of the value ends its lease. The event callback, which may not write,
//! marks the lease as void; the timer removes its record right after.

use super::entry::Entry;
use super::rules::{Fetch, Lease, Token};
use super::{COALESCED, HANDOFFS, LOADS, STALE, WAIT_TIMEOUTS, stats};
use crate::args::Argument;
use crate::error::Error;
use crate::server::events::{self, KeyEvent, subscribe};
use crate::server::{MainThread, OwnedStr, Reply, Server, Str};
use crate::time::{Millis, UnixMs};
use crate::waiting::{self, Address, Budget, Hall, Lines, Place, Queue, Waiter, Why, no_lines};
use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeSet, HashMap};
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

/// A record that a foreign write voids: of a lease, or of a soft invalidation.
struct Lent {
    token: Token,
    /// When this process gave out the lease.
    since: Option<UnixMs>,
    until: UnixMs,
    void: bool,
}

/// A fill that is still being handed out.
struct Held {
    value: Rc<OwnedStr>,
    /// The last place in line at the time of the fill.
    last: Place,
}

#[derive(Default)]
struct Memory {
    lent: HashMap<Name, Lent>,
    ends: BTreeSet<(UnixMs, Name)>,
    void: Vec<Name>,
    held: HashMap<Name, Held>,
}

static HALL: Lines<Caches> = no_lines();
static MEMORY: MainThread<LazyCell<RefCell<Memory>>> =
    MainThread::new(LazyCell::new(RefCell::default));

impl Queue for Caches {
    type Request = Wish;

    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>> {
        HALL.get()
    }

    fn nothing(server: &Server, waiter: &Waiter<Self>) -> Reply<'static> {
        if waiter.request.fresh {
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
            // The first is told, and the next served.
            let Some(first) = Waiter::<Self>::first(db, key, b"") else { return };
            first.refuse(server, error);
            budget.spend(0);
        }
    }

    fn left(_server: &Server, waiter: &Waiter<Self>, why: Why) {
        let Address { db, name, .. } = &waiter.address;
        if HALL.get().borrow().len_of(*db, name, b"") == 0 {
            MEMORY.get().borrow_mut().held.remove(&(*db, name.clone()));
        }
        if why == Why::TimedOut {
            WAIT_TIMEOUTS.add(1);
        }
    }
}

/// The events that matter here.
pub const EVENTS: i32 = events::KEYS | events::STRINGS;

/// See [`crate::family::Family::key_changed`].
pub fn key_changed(server: &Server, event: KeyEvent<'_>) {
    // That a value expires or is evicted, or lives longer or shorter, is no news for its loader.
    if event.own || matches!(event.name, b"expired" | b"evicted" | b"expire" | b"persist") {
        return;
    }
    let mut memory = MEMORY.get().borrow_mut();
    if memory.lent.is_empty() {
        return;
    }
    let name = (server.db(), Box::from(event.key));
    let Some(lent) = memory.lent.get_mut(&name) else { return };
    if !std::mem::replace(&mut lent.void, true) {
        memory.void.push(name);
    }
    drop(memory);
    waiting::settle(server);
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
            MEMORY.get().borrow_mut().held.remove(&(db, key.bytes().into()));
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
    let mut memory = MEMORY.get().borrow_mut();
    if memory.held.is_empty() {
        return None;
    }
    let name: Name = (db, key.into());
    let held = memory.held.get(&name)?;
    if place <= held.last {
        return Some(held.value.clone());
    }
    memory.held.remove(&name);
    None
}

/// Everybody who waits now gets this value.
fn hold(db: i32, key: &[u8], value: OwnedStr) {
    if HALL.get().borrow().len_of(db, key, b"") == 0 {
        return;
    }
    let last = HALL.get().borrow().last_place();
    let held = Held { value: Rc::new(value), last };
    MEMORY.get().borrow_mut().held.insert((db, key.into()), held);
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

impl Memory {
    /// Remembers a record until a minute after its end.
    fn remember(&mut self, name: Name, lent: Lent, now: UnixMs) -> Option<Lent> {
        while let Some((end, _)) = self.ends.first()
            && end.0.saturating_add(60_000) < now.0
        {
            let Some((end, name)) = self.ends.pop_first() else { break };
            if self.lent.get(&name).is_some_and(|lent| lent.until == end) {
                self.lent.remove(&name);
            }
        }
        self.ends.insert((lent.until, name.clone()));
        let before = self.lent.insert(name.clone(), lent);
        if let Some(before) = &before
            && self.lent.get(&name).is_some_and(|lent| lent.until != before.until)
        {
            self.ends.remove(&(before.until, name));
        }
        before
    }

    fn forget(&mut self, name: &Name) -> Option<Lent> {
        let lent = self.lent.remove(name)?;
        self.ends.remove(&(lent.until, name.clone()));
        Some(lent)
    }
}

/// A lease was given out. True if it follows one that ended by its time.
pub fn lent(server: &Server, key: Str<'_>, token: Token, now: UnixMs, until: UnixMs) -> bool {
    subscribe(server, EVENTS);
    let name = (server.db(), key.bytes().into());
    let lent = Lent { token, since: Some(now), until, void: false };
    let before = MEMORY.get().borrow_mut().remember(name, lent, now);
    before.is_some_and(|before| before.since.is_some() && before.until < now && !before.void)
}

/// A record was read, or made, that a foreign write is to void, though no lease was given out
/// here: it was there before a restart or a promotion, or tells of a soft invalidation.
pub fn adopt(server: &Server, key: Str<'_>, token: Token, until: UnixMs) {
    let name: Name = (server.db(), key.bytes().into());
    let mut memory = MEMORY.get().borrow_mut();
    if memory.lent.get(&name).is_none_or(|lent| lent.token != token) {
        let lent = Lent { token, since: None, until, void: false };
        memory.remember(name, lent, server.now());
        drop(memory);
        subscribe(server, EVENTS);
    }
}

/// The end of a lease was moved.
pub fn moved(server: &Server, key: Str<'_>, until: UnixMs) {
    let mut memory = MEMORY.get().borrow_mut();
    let name: Name = (server.db(), key.bytes().into());
    if let Some(lent) = memory.lent.get_mut(&name) {
        let before = std::mem::replace(&mut lent.until, until);
        memory.ends.remove(&(before, name.clone()));
        memory.ends.insert((until, name));
    }
}

/// A lease ended: by a fill, a failure or an invalidation. How long it lasted, if that is known.
pub fn ended(server: &Server, key: Str<'_>) -> Option<Millis> {
    let mut memory = MEMORY.get().borrow_mut();
    if memory.lent.is_empty() {
        return None;
    }
    let lent = memory.forget(&(server.db(), key.bytes().into()))?;
    Some(Millis(server.now().0.saturating_sub(lent.since?.0).max(0)))
}

/// Whether a foreign write ended the lease that a record tells of.
pub fn is_void(db: i32, key: &[u8], token: Token) -> bool {
    let memory = MEMORY.get().borrow();
    if memory.void.is_empty() {
        return false;
    }
    memory.lent.get(&(db, key.into())).is_some_and(|lent| lent.void && lent.token == token)
}

/// Whether records of void leases are still there.
pub fn has_void() -> bool {
    !MEMORY.get().borrow().void.is_empty()
}

/// Removes the records of void leases and serves those who wait. Called by the timer.
pub fn drop_void(server: &Server) {
    let void = std::mem::take(&mut MEMORY.get().borrow_mut().void);
    for name in void {
        let token = {
            let mut memory = MEMORY.get().borrow_mut();
            // A new lease can have been given out since.
            match memory.lent.get(&name).filter(|lent| lent.void).map(|lent| lent.token) {
                Some(token) => {
                    memory.forget(&name);
                    Some(token)
                }
                None => None,
            }
        };
        let (db, key) = name;
        server.select(db);
        let key_name = OwnedStr::new(&key);
        if let Some(token) = token
            && Entry::drop_record(server, key_name.borrow(), token).is_ok()
            && let Ok(Some(value)) = Entry::of(server, key_name.borrow()).and_then(|e| e.copy())
        {
            // Whoever waits gets the value that was written, or loads.
            hold(db, &key, value);
        }
        HALL.get().borrow_mut().disturb(db, &key);
    }
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    let mut memory = MEMORY.get().borrow_mut();
    let stays = |db: &i32| !dbs.is_empty() && !dbs.contains(db);
    memory.lent.retain(|(db, _), _| stays(db));
    memory.ends.retain(|(_, (db, _))| stays(db));
    memory.void.retain(|(db, _)| stays(db));
}

/// The module is unloaded.
pub fn forget() {
    HALL.get().take();
    MEMORY.get().take();
}
