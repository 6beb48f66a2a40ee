//! Clients that wait for a lock: one line for each lock, under the lock's key, so that keyspace
//! events find it.

use super::ranks::{self, Known};
use super::rules::{self, Holders, Mode, Ops, Rest};
use super::stats::Grant;
use super::store::{Candidate, Stored};
use super::ties::{self, Tied};
use super::{Cx, EVENTS, Lock};
use crate::error::Error;
use crate::names;
use crate::server::events::KeyEvent;
use crate::server::{OwnedStr, Reply, Str};
use crate::time::{Millis, Moment, Timeout};
use crate::waiting::{self, Address, Budget, LeaveReason, Queue, Tie, Waiter, Waiting};
use std::rc::Rc;

/// What a waiting client asked for, beside the name of the lock and its identifier.
pub struct Request {
    /// The lease, which begins with the grant.
    pub ttl: Millis,
    /// How it is to hold the lock.
    pub mode: Mode,
    /// Whether it gets a fencing token.
    pub fence: bool,
    /// Whether the lease ends when the connection closes.
    pub tied: bool,
}

/// The name of the lock for which a client waits: the first argument of its command.
fn name(waiter: &Waiter<Lock>) -> Result<Str<'_>, Error> {
    waiter.arg(1)
}

impl Waiting for Lock {
    type Request = Request;
    type Tied = Tied;

    fn queue(&self) -> &Queue<Self> {
        &self.queue
    }

    fn timeout_reply(_cx: Cx<'_>, _waiter: &Waiter<Self>) -> Reply<'static> {
        Reply::Integer(0)
    }

    fn serve(cx: Cx<'_>, db: i32, key: &[u8], budget: &mut Budget) {
        serve_line(cx, db, key, budget);
    }

    fn left(cx: Cx<'_>, waiter: &Waiter<Self>, why: LeaveReason) {
        cx.family.ranks.left(waiter, why != LeaveReason::Rejected, cx.server.moment());
        if why == LeaveReason::TimedOut {
            cx.family.count_timeout(waiter.address.db, &waiter.address.name);
        }
    }

    fn end_tied(cx: Cx<'_>, tie: &Tie<Tied>) -> Result<(), Error> {
        ties::end(cx, &tie.lease)
    }
}

/// Another client, or an expiry, has changed a key.
pub fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
    let lines = &cx.family.queue.lines;
    if event.own || lines.is_empty() {
        return;
    }
    let db = cx.server.db();
    if event.name == b"evicted"
        && let Some(end) = lines.end(db, event.key)
    {
        cx.family.evicted.add(db, event.key, end, cx.server.now());
    }
    waiting::serve_soon(cx, db, event.key);
}

/// A lock and its line, for the rules.
struct ServerOps<'a> {
    cx: Cx<'a>,
    db: i32,
    key: &'a [u8],
    stored: Stored<'a>,
    first: Option<Rc<Waiter<Lock>>>,
    holders: Holders,
    budget: &'a mut Budget,
}

impl Ops for ServerOps<'_> {
    type Error = Error;

    fn first(&mut self) -> Option<Mode> {
        self.first = Waiter::first(self.cx, self.db, self.key, b"");
        self.first.as_ref().map(|first| first.request.mode)
    }

    fn holders(&mut self) -> Result<Holders, Error> {
        self.holders = match self.stored.holders()? {
            // Nobody will ever release it, so every waiter is rejected.
            Holders::Foreign => return Err(Error::WrongType),
            holders => holders,
        };
        Ok(self.holders)
    }

    fn grant_first(&mut self) -> Result<(), Error> {
        let Cx { server, family } = self.cx;
        let Some(first) = self.first.take() else { return Ok(()) };
        if !first.may_be_served(server, self.budget) {
            return Ok(());
        }
        let request = &first.request;
        let (name, identifier) = (name(&first)?, ranks::identifier(&first)?);
        let reply = self.stored.grant(&Candidate {
            name,
            identifier,
            ttl: request.ttl,
            mode: request.mode,
            fence: request.fence,
        })?;
        let client = request.tied.then(|| first.client());
        ties::granted(self.cx, self.key, identifier.bytes(), request.ttl, client);
        let now = server.moment();
        let grant = Grant {
            identifier: identifier.bytes(),
            now,
            waited: Some(now.since(first.since).as_u64()),
            was_free: self.holders == Holders::Free,
        };
        family.count_grant(self.db, self.key, &grant);
        family.ranks.granted(&first);
        self.budget.spend(reply.size());
        first.answer(reply);
        Ok(())
    }

    fn next_end(&mut self) -> Result<Option<Moment>, Error> {
        let Cx { server, family } = self.cx;
        // The latest known end has to survive an eviction of the key.
        let latest = server.peek_key(self.stored.key()).deadline();
        if latest.is_some() {
            family.queue.lines.set_end(self.db, self.key, latest);
        }
        let evicted = || family.evicted.until(self.db, self.key, server.now());
        let end = self.stored.next_end()?.or_else(evicted);
        // Never in the past: the server's clock inside a command can lag a little.
        let soonest = server.moment() + Millis(1);
        Ok(end.map(|end| server.moment_past(end).max(soonest)))
    }

    fn is_out_of_budget(&self) -> bool {
        self.budget.is_spent()
    }
}

/// Serves one line. A temporary refusal leaves the line as it is until a little later. Any other
/// error is the reply of the first waiter, and the next one is served.
fn serve_line(cx: Cx<'_>, db: i32, key: &[u8], budget: &mut Budget) {
    let Cx { server, family } = cx;
    let lines = &family.queue.lines;
    let Some((_, first)) = lines.first(db, key, b"") else { return };
    let moves = name(&first).and_then(|name| names::reject_moving_slot(server, name));
    if moves.is_err() {
        return waiting::retry_later(cx, db, key);
    }
    let lock_key = OwnedStr::new(key);
    let stored = Stored::at(cx, lock_key.borrow());
    let mut ops = ServerOps { cx, db, key, stored, first: None, holders: Holders::Free, budget };
    loop {
        match rules::serve(&mut ops) {
            Ok(Rest::Until(due)) => return lines.set_due(db, key, due, server.moment()),
            Err(error) if error.passes() || !ops.is_out_of_budget() => {
                if !waiting::reject_first(cx, db, key, error, ops.budget) {
                    return;
                }
            }
            Ok(Rest::OutOfBudget) | Err(_) => {
                lines.mark_dirty(db, key);
                return;
            }
        }
    }
}

/// Serves the line of a lock before another client asks for it. Returns whether clients still wait.
pub fn serve_before(cx: Cx<'_>, key: Str<'_>) -> bool {
    let Cx { server, family } = cx;
    let lines = &family.queue.lines;
    // Nothing has changed since a settled line was served.
    !lines.is_empty()
        && (lines.is_settled(server.db(), key.bytes(), b"", server.moment()) || serve_now(cx, key))
}

/// Serves the line of a lock after the lock has changed. Returns whether clients still wait.
pub fn serve_now(cx: Cx<'_>, key: Str<'_>) -> bool {
    let lines = &cx.family.queue.lines;
    if lines.is_empty() {
        return false;
    }
    let (db, key) = (cx.server.db(), key.bytes());
    if lines.len_of(db, key, b"") == 0 {
        return false;
    }
    serve_line(cx, db, key, &mut cx.family.queue.wave());
    waiting::schedule(cx);
    lines.len_of(db, key, b"") > 0
}

/// Puts the calling client into the line of a lock: at the place that its identifier holds, or held a
/// moment ago, else at the end.
pub fn wait(
    cx: Cx<'_>,
    key: Str<'_>,
    candidate: &Candidate<'_>,
    tied: bool,
    timeout: Timeout,
) -> Result<Reply<'static>, Error> {
    let Cx { server, family } = cx;
    server.subscribe(EVENTS);
    let db = server.db();
    let address = Address::of(db, key.bytes());
    let request =
        Request { ttl: candidate.ttl, mode: candidate.mode, fence: candidate.fence, tied };
    let Known { key: request_key, older, rank } =
        family.ranks.find(db, key.bytes(), candidate.identifier.bytes(), server.moment());
    // The connection that asked before is answered when this one takes its place.
    let answer_older = || older.iter().for_each(|older| older.answer(Reply::Integer(0)));
    let joined = Waiter::join(cx, candidate.name, address, rank, timeout, request, answer_older)?;
    let Some(waiter) = joined else { return Ok(Reply::Integer(0)) };
    family.ranks.joined(request_key, waiter);
    family.counters.waits.add(1);
    // A sole waiter needs a timer for the end of the lease it is waiting on, and a waiter in an old
    // place can be the next. Not here: the server cannot unblock a client inside its own command.
    if rank.is_some() || family.queue.lines.len_of(db, key.bytes(), b"") == 1 {
        family.queue.lines.mark_dirty(db, key.bytes());
    }
    waiting::schedule(cx);
    Ok(Reply::Later)
}

/// Removes an identifier from the line of a lock. Its waiting request is answered with 0.
pub fn withdraw(cx: Cx<'_>, key: Str<'_>, identifier: Str<'_>) {
    let ranks = &cx.family.ranks;
    if let Some(older) = ranks.withdraw(cx.server.db(), key.bytes(), identifier.bytes()) {
        older.answer(Reply::Integer(0));
        waiting::schedule(cx);
    }
}

/// How many clients wait for a lock, and how long the first has been waiting.
pub fn length(cx: Cx<'_>, key: Str<'_>) -> (usize, Millis) {
    let (db, lines) = (cx.server.db(), &cx.family.queue.lines);
    let first = lines.first(db, key.bytes(), b"");
    let waited = first.map_or(Millis(0), |(_, first)| cx.server.moment().since(first.since));
    (lines.len_of(db, key.bytes(), b""), waited)
}
