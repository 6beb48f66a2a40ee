//! The FIFO of waiting clients.
//!
//! One mechanism for every family. A waiter stands in a line; the lines of one name in one
//! database share a room, and a family's rooms are its [`Hall`]. All of it is in memory and on the
//! master only. The first in line is served by the command, or the timer, that freed what it waits
//! for; that costs the same whether one client waits or ten thousand.
//!
//! [`Hall`] knows no server. [`Waiter`] joins them to the server's blocked clients, and
//! keeps three rules: a waiter is answered or has left, never both; its answer is complete before
//! the server is told to let the client go; and a callback in which nothing may be written only
//! unlinks, marks the room as restless and arms the timer, which then looks again.

mod hall;

pub use hall::{Address, Hall, Place};

use crate::FAMILIES;
use crate::args::Patience;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::acl::Permission;
use crate::server::block::{Blocked, Waits};
use crate::server::config::WAKE_BYTES;
use crate::server::{MainThread, OwnedStr, Reply, Server, Str, timer};
use crate::time::{Millis, Moment};
use std::cell::{Cell, LazyCell, RefCell};
use std::rc::Rc;

/// The lines of a family, as the family knows them.
pub trait Queue: Sized + 'static {
    /// What a waiter asked for.
    type Request;

    /// Where the family's lines are.
    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>>;

    /// What a waiter is told whose time ran out.
    fn nothing(server: &Server, waiter: &Waiter<Self>) -> Reply<'static>;

    /// Serves whom it can in one room, within the budget. Called by the timer, which has selected
    /// the database. If the budget ends first, the room is disturbed again. Whoever is refused for
    /// good is told so ([`Waiter::refuse`]).
    fn serve(server: &Server, db: i32, name: &[u8], budget: &mut Budget);

    /// A waiter has left the line unserved.
    fn left(_server: &Server, _waiter: &Waiter<Self>, _why: Why) {}
}

/// Why a waiter left unserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its time ran out.
    TimedOut,
    /// The client is gone.
    Gone,
    /// Its request was refused.
    Refused,
}

/// How much may still be answered before the server looks after its other clients.
pub struct Budget {
    /// Bytes of replies.
    pub bytes: usize,
    /// Hand-overs.
    pub grants: usize,
}

impl Budget {
    /// What one wave may take: bytes by the configuration, and some milliseconds of work.
    pub fn wave() -> Self {
        const GRANTS: usize = 256;
        Self { bytes: usize::try_from(WAKE_BYTES.get()).unwrap_or(usize::MAX), grants: GRANTS }
    }

    /// Whether nothing more should be answered now.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.grants == 0
    }

    /// Takes one answer of `bytes` off. The first answer always fits, so every wave gets on.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.grants = self.grants.saturating_sub(1);
    }
}

enum State {
    /// In line.
    Waiting,
    /// Out of line; the answer is ready.
    Answered(Result<Reply<'static>, Error>),
    /// Answered, or gone.
    Left,
}

/// A place in a line, and since when it is somebody's.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    /// The place.
    pub place: Place,
    /// Since when.
    pub since: Moment,
}

/// A client in line.
pub struct Waiter<F: Queue> {
    /// What it asked for.
    pub request: F::Request,
    /// Where it stands.
    pub address: Address,
    /// Its place there.
    pub place: Place,
    /// Since when it has been waiting.
    pub since: Moment,
    client: u64,
    /// The command that it sent.
    argv: Box<[OwnedStr]>,
    state: RefCell<State>,
    blocked: Cell<Option<Blocked>>,
}

impl<F: Queue> Waiter<F> {
    /// Puts the calling client into the line at `address`: at the end, or at a place that it had
    /// before. `name` is the name that the client waits for. `None` if the server does not let it
    /// wait; `make_room` runs otherwise, before the client joins, and frees its place.
    pub fn join(
        server: &Server,
        name: Str<'_>,
        address: Address,
        before: Option<Rank>,
        patience: Patience,
        request: F::Request,
        make_room: impl FnOnce(),
    ) -> Result<Option<Rc<Self>>, Error> {
        let key = server.key_of(Prefix::Wait, name)?;
        let now = server.moment();
        let Rank { place, since } = before
            .unwrap_or_else(|| Rank { place: F::hall().borrow_mut().new_place(), since: now });
        let waiter = Rc::new(Waiter {
            request,
            client: server.client_id(),
            argv: server.hold_command(),
            address,
            place,
            since,
            state: RefCell::new(State::Waiting),
            blocked: Cell::new(None),
        });
        let Some(blocked) = server.block(key.borrow(), patience, &waiter) else {
            return Ok(None);
        };
        waiter.blocked.set(Some(blocked));
        make_room();
        F::hall().borrow_mut().join(&waiter.address, place, waiter.clone(), now);
        Ok(Some(waiter))
    }

    /// The first in a line.
    pub fn first(db: i32, name: &[u8], part: &[u8]) -> Option<Rc<Self>> {
        F::hall().borrow().first(db, name, part).map(|(_, waiter)| waiter.clone())
    }

    /// Whether something may be handed to the client that is lost if the client is gone. Where its
    /// connection no longer stands, or its user has lost the permission to run the command, it leaves
    /// the line.
    pub fn may_be_served(&self, server: &Server, budget: &mut Budget) -> bool {
        if server.is_connected(self.client) {
            return self.is_permitted(server, budget);
        }
        budget.spend(0);
        self.leave(server, Why::Gone);
        false
    }

    /// Whether the client's user may still run the command.
    pub fn permission(&self, server: &Server) -> Permission {
        server.permission(self.client, &self.argv)
    }

    /// Whether the client may still run its command. One whose user has lost the permission is told
    /// so and leaves the line.
    pub fn is_permitted(&self, server: &Server, budget: &mut Budget) -> bool {
        match self.permission(server) {
            Permission::Granted => return true,
            Permission::Denied => self.refuse(server, Error::NoPermission),
            Permission::Gone => self.leave(server, Why::Gone),
        }
        budget.spend(0);
        false
    }

    /// Lets the client go with what it was granted. It cannot be undone.
    pub fn answer(&self, reply: Reply<'static>) {
        self.let_go(Ok(reply));
    }

    /// Lets the client go with an error: its request can never be granted as it is.
    pub fn refuse(&self, server: &Server, error: Error) {
        F::left(server, self, Why::Refused);
        self.let_go(Err(error));
    }

    fn let_go(&self, outcome: Result<Reply<'static>, Error>) {
        self.out_of_line();
        self.state.replace(State::Answered(outcome));
        if let Some(blocked) = self.blocked.take() {
            blocked.answer();
        }
    }

    fn out_of_line(&self) {
        F::hall().borrow_mut().leave(&self.address, self.place);
    }

    /// Its place, and since when it has it.
    pub fn rank(&self) -> Rank {
        Rank { place: self.place, since: self.since }
    }

    /// Leaves the line unserved. Others who wait there are looked at again: they may have stood
    /// behind this one only.
    fn leave(&self, server: &Server, why: Why) {
        self.out_of_line();
        self.state.replace(State::Left);
        self.blocked.take();
        F::left(server, self, why);
        F::hall().borrow_mut().disturb(self.address.db, &self.address.name);
    }
}

impl<F: Queue> Waits for Waiter<F> {
    fn farewell(&self, server: &Server) -> Result<Reply<'static>, Error> {
        // Bound first: what follows borrows the state again.
        let state = self.state.replace(State::Left);
        match state {
            State::Answered(outcome) => return outcome,
            State::Left => {}
            State::Waiting => {
                self.leave(server, Why::TimedOut);
                settle(server);
            }
        }
        Ok(F::nothing(server, self))
    }

    fn gone(&self, server: &Server) {
        let waits = matches!(*self.state.borrow(), State::Waiting);
        if waits {
            self.leave(server, Why::Gone);
            settle(server);
        }
    }
}

/// How soon the timer looks whether paused clients may go on.
const WHILE_PAUSED: Millis = Millis(10);

/// How soon a refused line is looked at again.
const AFTER_REFUSAL: Millis = Millis(100);

/// The timer's work: looks at every room that is restless or due, in waves.
pub fn look_again(server: &Server) {
    if !server.is_master() {
        // The server has sent every waiter away, and nothing is written on a replica.
        return;
    }
    if server.writes_are_paused() {
        let now = server.moment();
        if next_look(now).is_some() {
            timer::arm(server, now.after(WHILE_PAUSED));
        }
        return;
    }
    // One family's work does not delay the waiters of another.
    FAMILIES.iter().for_each(|family| (family.look_again)(server, &mut Budget::wave()));
    settle(server);
}

/// Serves the rooms of one family that are restless or due.
pub fn serve_restless<F: Queue>(server: &Server, budget: &mut Budget) {
    F::hall().borrow_mut().disturb_due(server.moment());
    while !budget.is_spent() {
        let Some((db, name)) = F::hall().borrow_mut().next_restless() else {
            return;
        };
        // A look costs something even if nobody can be served.
        budget.spend(0);
        server.select(db);
        F::serve(server, db, &name, budget);
    }
}

/// Has a room looked at again a little later: the server refused to write, or its slot moves
/// between cluster nodes, and no event tells when that is over.
pub fn look_later<F: Queue>(server: &Server, db: i32, name: &[u8]) {
    let now = server.moment();
    F::hall().borrow_mut().set_due(db, name, Some(now.after(AFTER_REFUSAL)), now);
}

/// Has everybody looked at again who waits in these databases, or anywhere if none is named.
pub fn look_at_all(server: &Server, dbs: &[i32]) {
    FAMILIES.iter().for_each(|family| (family.disturb)(dbs));
    settle(server);
}

/// When any family has something to look at.
fn next_look(now: Moment) -> Option<Moment> {
    FAMILIES.iter().filter_map(|family| (family.next_look)(now)).min()
}

/// Sets the timer after lines have changed: for what is restless or due next, or not at all.
pub fn settle(server: &Server) {
    match next_look(server.moment()) {
        Some(due) => timer::arm(server, due),
        None => timer::disarm(server),
    }
}

/// A family's lines, as a `static` holds them.
pub type Lines<F> = MainThread<LazyCell<RefCell<Hall<Rc<Waiter<F>>>>>>;

/// A family without waiters.
pub const fn no_lines<F: Queue>() -> Lines<F> {
    MainThread::new(LazyCell::new(RefCell::default))
}
