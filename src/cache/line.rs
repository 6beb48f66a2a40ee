//! Clients that wait for a value: one line for each value, under its key.
//!
//! A line is served by giving its first waiter the answer that FETCH would give now. After a fill,
//! every client that waited gets the same value ([`super::fills`]), in waves within a budget of bytes.

use super::rules::{Fetch, Token};
use super::store::Stored;
use super::ties::Tied;
use super::{Cache, Cx, foreign};
use crate::error::Error;
use crate::names;
use crate::server::acl::Permission;
use crate::server::{OwnedStr, Reply, Str};
use crate::time::{Millis, Moment, Timeout};
use crate::waiting::{self, Address, Budget, LeaveReason, Queue, Tie, Waiter, Waiting};
use std::ffi::CStr;
use std::rc::Rc;

/// What a fetching client asked for.
pub struct Request {
    /// Its lease, if it has to load the value.
    pub lease: Millis,
    /// A value with at most this long to live is stale.
    pub stale: Millis,
    /// Whether it accepts a stale value only when its wait times out.
    pub fresh: bool,
    /// Whether its lease ends when its connection closes.
    pub tied: bool,
}

impl Waiting for Cache {
    type Request = Request;
    type Tied = Tied;

    fn queue(&self) -> &Queue<Self> {
        &self.queue
    }

    fn timeout_reply(cx: Cx<'_>, waiter: &Waiter<Self>) -> Reply<'static> {
        if waiter.request.fresh && waiter.permission(cx.server) == Permission::Granted {
            let key = OwnedStr::new(&waiter.address.name);
            let value = Stored::read(cx, key.borrow()).and_then(|stored| stored.watch().copy());
            if let Ok(Some(value)) = value {
                return answer(c"STALE", shared(Some(value)), Reply::Null);
            }
        }
        answer(c"WAIT", Reply::Null, Reply::Null)
    }

    fn serve(cx: Cx<'_>, db: i32, key: &[u8], budget: &mut Budget) {
        let name = OwnedStr::new(key);
        while let Err(error) = serve_line(cx, name.borrow(), budget) {
            if !waiting::reject_first(cx, db, key, error, budget) {
                return;
            }
        }
    }

    fn left(cx: Cx<'_>, waiter: &Waiter<Self>, why: LeaveReason) {
        let Address { db, name, .. } = &waiter.address;
        if cx.family.queue.lines.len_of(*db, name, b"") == 0 {
            cx.family.fills.remove(*db, name);
        }
        if why == LeaveReason::TimedOut {
            cx.family.counters.wait_timeouts.add(1);
        }
    }

    fn next_check(&self, now: Moment) -> Option<Moment> {
        let changed = self.tokens.next_check(now);
        changed.into_iter().chain(self.queue.lines.next_check(now)).min()
    }

    fn before_serving(cx: Cx<'_>) {
        foreign::check_changed(cx);
    }

    fn end_tied(cx: Cx<'_>, tie: &Tie<Tied>) -> Result<(), Error> {
        let Tied { key, token } = &tie.lease;
        let name = OwnedStr::new(key);
        let mut stored = Stored::read(cx, name.borrow())?.watch();
        if stored.record.is_current(*token) {
            stored.abandon(*token)?;
            cx.family.counters.disconnected.add(1);
            cx.family.queue.lines.mark_dirty(tie.db, key);
        }
        Ok(())
    }
}

/// The reply of a fetch: `[status, value, token]`.
pub fn answer<'a>(status: &'static CStr, value: Reply<'a>, token: Reply<'a>) -> Reply<'a> {
    Reply::Array(vec![Reply::Simple(status), value, token])
}

fn shared(value: Option<OwnedStr>) -> Reply<'static> {
    value.map_or(Reply::Null, |value| Reply::Shared(Rc::new(value)))
}

/// Serves the line of a value in the selected database, as the value is now.
fn serve_line(cx: Cx<'_>, key: Str<'_>, budget: &mut Budget) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let (db, name) = (server.db(), key.bytes());
    let lines = &family.queue.lines;
    let due = loop {
        if budget.is_spent() {
            lines.mark_dirty(db, name);
            return Ok(());
        }
        let Some(first) = Waiter::first(cx, db, name, b"") else {
            family.fills.remove(db, name);
            return Ok(());
        };
        if !first.is_permitted(server, budget) {
            continue;
        }
        if let Some(value) = family.fills.for_first(db, name, first.place) {
            family.count_coalesced(db, name);
            let reply = answer(c"HIT", Reply::Shared(value), Reply::Null);
            budget.spend(reply.size());
            first.answer(reply);
            continue;
        }
        names::reject_moving_slot(server, key)?;
        let mut stored = Stored::read(cx, key)?.watch();
        let reply = match stored.fetch(first.request.stale) {
            Fetch::Hit => match stored.copy()? {
                Some(value) => {
                    family.hand_out(db, name, value);
                    continue;
                }
                None => break None,
            },
            Fetch::Load if !first.may_be_served(server, budget) => continue,
            Fetch::Load => {
                let stale = shared(stored.copy()?);
                let client = first.request.tied.then(|| first.client());
                let token = stored.lend(first.request.lease, client)?;
                family.counters.handoffs.add(1);
                answer(c"LOAD", stale, Reply::Integer(token))
            }
            Fetch::Fail => answer(c"FAIL", stored.reason(), Reply::Null),
            Fetch::Stale if !first.request.fresh || stored.is_backing_off() => {
                family.counters.stale.add(1);
                answer(c"STALE", shared(stored.copy()?), Reply::Null)
            }
            Fetch::Stale | Fetch::Wait => break stored.record.until(),
        };
        budget.spend(reply.size());
        first.answer(reply);
    };
    let now = server.moment();
    // Never in the past: the server's clock inside a command can lag a little.
    let due = due.map(|end| server.moment_past(end).max(now + Millis(1)));
    lines.set_due(db, name, due, now);
    Ok(())
}

/// The value was stored: every client that waits gets it.
pub fn filled(cx: Cx<'_>, key: Str<'_>, value: Str<'_>) {
    let (db, name) = (cx.server.db(), key.bytes());
    if cx.family.waiters(db, name) > 0 {
        cx.family.hand_out(db, name, OwnedStr::hold(value));
        serve_now(cx, key);
    }
}

/// Serves the line of a value after its state has changed, or before another client loads it.
pub fn serve_now(cx: Cx<'_>, key: Str<'_>) {
    let (db, name) = (cx.server.db(), key.bytes());
    if cx.family.waiters(db, name) > 0 {
        Cache::serve(cx, db, name, &mut cx.family.queue.wave());
        waiting::schedule(cx);
    }
}

/// The loader with this token was refused. If another cluster node gave out its lease, the first
/// waiter may load now.
pub fn disown(cx: Cx<'_>, key: Str<'_>, token: Token) {
    if cx.family.tokens.disown(cx.server.db(), key.bytes(), token) {
        serve_now(cx, key);
    }
}

/// Puts the calling client into the line of a value. Returns whether the server lets it wait.
pub fn wait(
    cx: Cx<'_>,
    stored: &Stored<'_>,
    key: Str<'_>,
    timeout: Timeout,
    request: Request,
) -> Result<bool, Error> {
    let Cx { server, family } = cx;
    names::reject_moving_slot(server, key)?;
    let address = Address::of(server.db(), key.bytes());
    let joined = Waiter::join(cx, key, address, None, timeout, request, || {})?;
    if joined.is_none() {
        return Ok(false);
    }
    family.counters.waits.add(1);
    // The timer has to serve the line when the lease ends that the client is waiting on.
    let due = stored.record.until().map(|end| server.moment_past(end));
    family.queue.lines.set_due(server.db(), key.bytes(), due, server.moment());
    waiting::schedule(cx);
    Ok(true)
}
