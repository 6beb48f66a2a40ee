//! A waiting client. Three rules keep it consistent: it is answered or it leaves, never both; its
//! reply is complete before the server is asked to unblock it; and a callback that may not write
//! leaves the work to the timer.

use super::{Address, Budget, Place, Waiting, schedule};
use crate::context::Context;
use crate::error::Error;
use crate::names::{self, WAIT};
use crate::server::acl::{HeldCommand, Permission};
use crate::server::block::{Blocked, Waits};
use crate::server::{Reply, Server, Str};
use crate::time::{Moment, Timeout};
use std::cell::Cell;
use std::rc::Rc;

/// Why a waiter left its line unserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// Its time was up.
    TimedOut,
    /// The client is gone.
    Gone,
    /// Its request was rejected.
    Rejected,
}

enum State {
    /// In line.
    Waiting,
    /// Out of line; the reply is ready. Most waiters have none, so it has memory of its own.
    Answered(Box<Result<Reply<'static>, Error>>),
    /// Answered, or gone.
    Left,
}

/// A place in a line, and since when its client has held it.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    /// The place.
    pub place: Place,
    /// Since when.
    pub since: Moment,
}

/// A client in line.
pub struct Waiter<F: Waiting> {
    /// What it asked for.
    pub request: F::Request,
    /// Its line, or its lines.
    pub address: Address,
    /// Its place there, the same in every line.
    pub place: Place,
    /// Since when it has been waiting.
    pub since: Moment,
    family: Rc<F>,
    /// The command that it sent.
    command: HeldCommand,
    state: Cell<State>,
    blocked: Cell<Option<Blocked>>,
}

impl<F: Waiting> Waiter<F> {
    /// Puts the calling client into the lines at `address`: at the end, or at a place that it had
    /// before. `name` is the name that the client waits for, or one of them. Returns `None` if the server does not
    /// let this client wait. Otherwise `before_joining` runs just before the client joins, and frees
    /// its place.
    pub fn join(
        cx: Context<'_, F>,
        name: Str<'_>,
        address: Address,
        rank: Option<Rank>,
        timeout: Timeout,
        request: F::Request,
        before_joining: impl FnOnce(),
    ) -> Result<Option<Rc<Self>>, Error> {
        let Context { server, family } = cx;
        let lines = &family.queue().lines;
        let key = names::key_of(server, WAIT, name)?;
        let now = server.moment();
        let Rank { place, since } =
            rank.unwrap_or_else(|| Rank { place: lines.new_place(), since: now });
        let waiter = Rc::new(Waiter {
            request,
            family: family.clone(),
            command: server.hold_command(),
            address,
            place,
            since,
            state: Cell::new(State::Waiting),
            blocked: Cell::new(None),
        });
        let Some(blocked) = server.block(key.borrow(), timeout, &waiter) else {
            return Ok(None);
        };
        waiter.blocked.set(Some(blocked));
        before_joining();
        lines.join(&waiter.address, place, waiter.clone(), now);
        Ok(Some(waiter))
    }

    /// The first in a line.
    pub fn first(cx: Context<'_, F>, db: i32, name: &[u8], part: &[u8]) -> Option<Rc<Self>> {
        cx.family.queue().lines.first(db, name, part).map(|(_, waiter)| waiter)
    }

    /// The id of the client.
    pub fn client(&self) -> u64 {
        self.command.client
    }

    /// An argument of its command; 0 is the name of the command.
    pub fn arg(&self, index: usize) -> Result<Str<'_>, Error> {
        self.command.arg(index).ok_or(Error::Internal)
    }

    /// Its place, and since when it has held it.
    pub fn rank(&self) -> Rank {
        Rank { place: self.place, since: self.since }
    }

    /// Whether the client's user may still run the command.
    pub fn permission(&self, server: &Server) -> Permission {
        self.command.permission(server)
    }

    /// Whether the client can be given something that would be lost with its connection. If the
    /// connection is closed, or its user may no longer run the command, the waiter leaves the line.
    pub fn may_be_served(&self, server: &Server, budget: &mut Budget) -> bool {
        if server.is_connected(self.client()) {
            return self.is_permitted(server, budget);
        }
        budget.spend(0);
        self.leave(server, LeaveReason::Gone);
        false
    }

    /// Whether the client may still run its command. If its user has lost the permission, the waiter
    /// leaves the line with an error.
    pub fn is_permitted(&self, server: &Server, budget: &mut Budget) -> bool {
        match self.permission(server) {
            Permission::Granted => return true,
            Permission::Denied => self.reject(server, Error::NoPermission),
            Permission::Gone => self.leave(server, LeaveReason::Gone),
        }
        budget.spend(0);
        false
    }

    /// Unblocks the client with what it was granted. This cannot be undone.
    pub fn answer(&self, reply: Reply<'static>) {
        self.unblock(Ok(reply));
    }

    /// Unblocks the client with an error: its request can never be granted as it is.
    pub fn reject(&self, server: &Server, error: Error) {
        F::left(self.context(server), self, LeaveReason::Rejected);
        self.unblock(Err(error));
    }

    fn unblock(&self, outcome: Result<Reply<'static>, Error>) {
        self.leave_line();
        self.state.replace(State::Answered(Box::new(outcome)));
        if let Some(blocked) = self.blocked.take() {
            blocked.unblock();
        }
    }

    fn leave_line(&self) {
        self.family.queue().lines.leave(&self.address, self.place);
    }

    fn context<'a>(&'a self, server: &'a Server) -> Context<'a, F> {
        Context { server, family: &self.family }
    }

    /// Leaves its lines unserved. The names become dirty: others may have been blocked only by this
    /// waiter.
    fn leave(&self, server: &Server, why: LeaveReason) {
        self.leave_line();
        self.state.replace(State::Left);
        self.blocked.take();
        F::left(self.context(server), self, why);
        for name in self.address.names() {
            self.family.queue().lines.mark_dirty(self.address.db, name);
        }
    }
}

impl<F: Waiting> Waits for Waiter<F> {
    fn on_unblock(&self, server: &Server) -> Result<Reply<'static>, Error> {
        match self.state.replace(State::Left) {
            State::Answered(outcome) => return *outcome,
            State::Left => {}
            State::Waiting => {
                self.leave(server, LeaveReason::TimedOut);
                schedule(self.context(server));
            }
        }
        Ok(F::timeout_reply(self.context(server), self))
    }

    fn on_disconnect(&self, server: &Server) {
        match self.state.replace(State::Left) {
            State::Waiting => {
                self.leave(server, LeaveReason::Gone);
                schedule(self.context(server));
            }
            other => self.state.set(other),
        }
    }
}
