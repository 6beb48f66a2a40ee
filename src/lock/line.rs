//! Clients that wait for a lock: one line for each lock.
//!
//! The room of a line has the name of the lock's key, so that keyspace events find it. A waiter
//! whose time ran out, or whose connection broke, keeps its rank for a moment, for the same
//! identifier: clients whose own socket time-out makes them ask again do not lose their turn.
//! Nobody is delayed by a rank that is only kept.

use super::evicted;
use super::holders::{Candidate, Stored};
use super::rules::{self, Desk, Holders, Mode, Rest};
use super::stats::{self, Grant};
use super::{ACQUIRED, HANDOFFS, WAIT_MS, WAIT_TIMEOUTS, WAITS};
use crate::args::{Argument, Patience};
use crate::error::Error;
use crate::server::events::{self, KeyEvent, subscribe};
use crate::server::{MainThread, OwnedStr, Reply, Server, Str};
use crate::time::{Millis, Moment};
use crate::waiting::{self, Address, Budget, Hall, Lines, Queue, Rank, Waiter, Why, no_lines};
use std::cell::{LazyCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

/// The family of clients that wait for locks.
pub struct Locks;

/// What a waiter asked for.
pub struct Wish {
    /// The name of the lock.
    pub name: Box<[u8]>,
    /// Its identifier.
    pub identifier: Box<[u8]>,
    /// Its lease, from the grant on.
    pub ttl: Millis,
    /// How it wants to hold the lock.
    pub mode: Mode,
    /// Whether it wants a fencing token.
    pub fence: bool,
}

static HALL: Lines<Locks> = no_lines();
static RANKS: MainThread<LazyCell<RefCell<Ranks>>> =
    MainThread::new(LazyCell::new(RefCell::default));

/// How long a rank is kept for an identifier that left its place.
const RANK_KEPT: Millis = Millis(1000);

/// Stands for database, key of the lock and identifier.
type Asker = u64;

/// Which identifier stands where.
#[derive(Default)]
struct Ranks {
    hashes: RandomState,
    waiting: HashMap<Asker, Rc<Waiter<Locks>>>,
    /// The rank that an identifier left, and until when it is kept.
    kept: HashMap<Asker, (Rank, Moment)>,
    forget: VecDeque<(Moment, Asker)>,
}

impl Ranks {
    fn asker(&self, db: i32, key: &[u8], identifier: &[u8]) -> Asker {
        self.hashes.hash_one((db, key, identifier))
    }

    fn asker_of(&self, waiter: &Waiter<Locks>) -> Asker {
        self.asker(waiter.address.db, &waiter.address.name, &waiter.request.identifier)
    }

    /// Forgets ranks that were kept long enough: more of them than one call adds, but not all at
    /// once.
    fn tidy(&mut self, now: Moment) {
        const AT_ONCE: usize = 16;
        for _ in 0..AT_ONCE {
            let Some((until, asker)) = self.forget.front().copied() else { break };
            if until >= now {
                break;
            }
            self.forget.pop_front();
            // It can have come back, and left again since.
            if self.kept.get(&asker).is_some_and(|(_, until)| *until < now) {
                self.kept.remove(&asker);
            }
        }
    }
}

impl Queue for Locks {
    type Request = Wish;

    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>> {
        HALL.get()
    }

    fn nothing(_server: &Server, _waiter: &Waiter<Self>) -> Reply<'static> {
        Reply::Integer(0)
    }

    fn serve(server: &Server, db: i32, key: &[u8], budget: &mut Budget) {
        serve_line(server, db, key, budget);
    }

    fn left(server: &Server, waiter: &Waiter<Self>, why: Why) {
        let now = server.moment();
        let mut ranks = RANKS.get().borrow_mut();
        let asker = ranks.asker_of(waiter);
        ranks.tidy(now);
        ranks.waiting.remove(&asker);
        if why == Why::Refused {
            return;
        }
        let until = now.after(RANK_KEPT);
        ranks.kept.insert(asker, (waiter.rank(), until));
        ranks.forget.push_back((until, asker));
        if why == Why::TimedOut {
            WAIT_TIMEOUTS.add(1);
            stats::timed_out(waiter.address.db, &waiter.address.name);
        }
    }
}

/// The events that matter here.
pub const EVENTS: i32 = events::KEYS | events::STRINGS | events::SORTED_SETS;

/// See [`crate::family::Family::key_changed`].
pub fn key_changed(server: &Server, event: KeyEvent<'_>) {
    if event.own || HALL.get().borrow().len() == 0 {
        return;
    }
    let db = server.db();
    if event.name == b"evicted" {
        let known = HALL.get().borrow().end(db, event.key);
        if let Some(end) = known {
            evicted::note(server, event.key, end);
        }
    }
    if HALL.get().borrow_mut().disturb(db, event.key) {
        waiting::settle(server);
    }
}

/// A lock and its line on the server.
struct ServerDesk<'a> {
    server: &'a Server,
    db: i32,
    key: &'a [u8],
    stored: Stored<'a>,
    first: Option<Rc<Waiter<Locks>>>,
    seen: Holders,
    budget: &'a mut Budget,
}

impl Desk for ServerDesk<'_> {
    type Error = Error;

    fn first(&mut self) -> Option<Mode> {
        self.first = Waiter::<Locks>::first(self.db, self.key, b"");
        self.first.as_ref().map(|first| first.request.mode)
    }

    fn holders(&mut self) -> Result<Holders, Error> {
        self.seen = match self.stored.holders()? {
            // Nobody will ever release it: every waiter is refused.
            Holders::Foreign => return Err(Error::WrongType),
            holders => holders,
        };
        Ok(self.seen)
    }

    fn grant_first(&mut self) -> Result<(), Error> {
        let Some(first) = self.first.take() else { return Ok(()) };
        if !first.may_be_served(self.server, self.budget) {
            return Ok(());
        }
        let wish = &first.request;
        let (name, identifier) = (OwnedStr::new(&wish.name), OwnedStr::new(&wish.identifier));
        let reply = self.stored.grant(&Candidate {
            name: name.borrow(),
            identifier: identifier.borrow(),
            ttl: wish.ttl,
            mode: wish.mode,
            fence: wish.fence,
        })?;
        let now = self.server.moment();
        let waited = now.since(first.since).0 as u64;
        ACQUIRED.add(1);
        HANDOFFS.add(1);
        WAIT_MS.add(waited);
        let grant = Grant {
            identifier: &wish.identifier,
            now,
            waited: Some(waited),
            was_free: self.seen == Holders::Free,
        };
        stats::granted(self.db, self.key, &grant);
        {
            let mut ranks = RANKS.get().borrow_mut();
            let asker = ranks.asker_of(&first);
            ranks.waiting.remove(&asker);
        }
        self.budget.spend(reply.size());
        first.answer(reply);
        Ok(())
    }

    fn next_end(&mut self) -> Result<Option<Moment>, Error> {
        // What is known of the latest end outlives an eviction.
        let latest = self.server.peek_key(self.stored.key()).deadline();
        if latest.is_some() {
            HALL.get().borrow_mut().set_end(self.db, self.key, latest);
        }
        let end = self.stored.next_end()?.or_else(|| evicted::until(self.server, self.key));
        // Never in the past: the server's clock inside a command can lag a little.
        let soonest = self.server.moment().after(Millis(1));
        Ok(end.map(|end| self.server.moment_past(end).max(soonest)))
    }

    fn is_tired(&self) -> bool {
        self.budget.is_spent()
    }
}

/// Serves one line. A refusal that passes leaves it as it is, and it is looked at again a little
/// later; any other one is the reply of the first in line, and the next is served.
fn serve_line(server: &Server, db: i32, key: &[u8], budget: &mut Budget) {
    let name = HALL.get().borrow().first(db, key, b"").map(|(_, first)| first.request.name.clone());
    let Some(name) = name else { return };
    let name = OwnedStr::new(&name);
    let lock_key = OwnedStr::new(key);
    let stored = Stored::at(server, lock_key.borrow());
    let mut desk = ServerDesk { server, db, key, stored, first: None, seen: Holders::Free, budget };
    if server.refuse_while_slot_moves(name.borrow()).is_err() {
        return waiting::look_later::<Locks>(server, db, key);
    }
    loop {
        match rules::serve(&mut desk) {
            Ok(Rest::Until(due)) => {
                let now = server.moment();
                return HALL.get().borrow_mut().set_due(db, key, due, now);
            }
            Err(error) if error.passes() => {
                return waiting::look_later::<Locks>(server, db, key);
            }
            Err(error) if !desk.is_tired() => {
                let first = Waiter::<Locks>::first(db, key, b"");
                first.into_iter().for_each(|first| first.refuse(server, error.clone()));
                desk.budget.spend(0);
            }
            Ok(Rest::Tired) | Err(_) => {
                HALL.get().borrow_mut().disturb(db, key);
                return;
            }
        }
    }
}

/// Serves the line of a lock after it changed, or before somebody new asks. True if somebody
/// still waits.
pub fn serve_now(server: &Server, key: Str<'_>) -> bool {
    if HALL.get().borrow().len() == 0 {
        return false;
    }
    let (db, key) = (server.db(), key.bytes());
    if HALL.get().borrow().len_of(db, key, b"") == 0 {
        return false;
    }
    serve_line(server, db, key, &mut Budget::wave());
    waiting::settle(server);
    HALL.get().borrow().len_of(db, key, b"") > 0
}

/// Puts the calling client into the line of a lock: at the place where its identifier stands, or
/// stood a moment ago, else at the end.
pub fn wait(
    server: &Server,
    key: Str<'_>,
    candidate: &Candidate<'_>,
    patience: Patience,
) -> Result<Reply<'static>, Error> {
    subscribe(server, EVENTS);
    let address = Address { db: server.db(), name: key.bytes().into(), part: Box::default() };
    let wish = Wish {
        name: candidate.name.bytes().into(),
        identifier: candidate.identifier.bytes().into(),
        ttl: candidate.ttl,
        mode: candidate.mode,
        fence: candidate.fence,
    };
    let (asker, older, kept) = {
        let mut ranks = RANKS.get().borrow_mut();
        let now = server.moment();
        ranks.tidy(now);
        let asker = ranks.asker(address.db, &address.name, &wish.identifier);
        let kept = ranks.kept.get(&asker).filter(|(_, until)| *until >= now);
        (asker, ranks.waiting.get(&asker).cloned(), kept.map(|(rank, _)| *rank))
    };
    let before = older.as_ref().map(|older| older.rank()).or(kept);
    // The connection that asked before is answered when this one stands in its place.
    let make_room = || older.iter().for_each(|older| older.answer(Reply::Integer(0)));
    let db = address.db;
    let joined =
        Waiter::<Locks>::join(server, candidate.name, address, before, patience, wish, make_room)?;
    let Some(waiter) = joined else { return Ok(Reply::Integer(0)) };
    {
        let mut ranks = RANKS.get().borrow_mut();
        ranks.kept.remove(&asker);
        ranks.waiting.insert(asker, waiter);
    }
    WAITS.add(1);
    // Who stands alone has to learn when the lease ends for which it waits; who took its old place
    // can be the next. Not here: a client is not answered inside its own command.
    if before.is_some() || HALL.get().borrow().len_of(db, key.bytes(), b"") == 1 {
        HALL.get().borrow_mut().disturb(db, key.bytes());
    }
    waiting::settle(server);
    Ok(Reply::Later)
}

/// Takes an identifier out of the line of a lock; its waiting request is answered with 0.
pub fn withdraw(server: &Server, key: Str<'_>, identifier: Str<'_>) {
    let older = {
        let mut ranks = RANKS.get().borrow_mut();
        if ranks.waiting.is_empty() && ranks.kept.is_empty() {
            return;
        }
        let asker = ranks.asker(server.db(), key.bytes(), identifier.bytes());
        ranks.kept.remove(&asker);
        ranks.waiting.remove(&asker)
    };
    if let Some(older) = older {
        older.answer(Reply::Integer(0));
        waiting::settle(server);
    }
}

/// How many wait for a lock, and how long the first has been waiting.
pub fn length(server: &Server, key: Str<'_>) -> (usize, Millis) {
    let (db, hall) = (server.db(), HALL.get().borrow());
    let first = hall.first(db, key.bytes(), b"").map(|(_, first)| first.since);
    let waited = first.map_or(Millis(0), |since| server.moment().since(since));
    (hall.len_of(db, key.bytes(), b""), waited)
}

/// The module is unloaded.
pub fn forget() {
    HALL.get().take();
    RANKS.get().take();
}
