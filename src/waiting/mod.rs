//! Clients that wait, first come, first served: one mechanism for every family.
//!
//! The lines live in memory, on the master only. The head of a line is served by the command, or the
//! timer, that freed what it waits for, at a cost that does not depend on how many clients wait. A
//! callback that may not write only unlinks the waiter, marks the name dirty and arms the family's
//! timer, which then serves the line.
//!
//! [`lines`] is the data structure, [`waiter`] connects it to the blocked clients of the server, and
//! this file drives the timer. [`ties`] are the leases that end with the connection of their client,
//! and [`connection`] ends them. Each family owns its lines, its ties, its timer and its budget.

mod budget;
pub mod connection;
mod lines;
mod ties;
mod waiter;

pub use budget::Budget;
pub use lines::{Address, Lines, Place};
pub use ties::{Tie, TieKey, Ties};
pub use waiter::{LeaveReason, Rank, Waiter};

use crate::context::Context;
use crate::error::Error;
use crate::interest::Interest;
use crate::server::config::Setting;
use crate::server::timer::{OnFire, Timer};
use crate::server::{Reply, Server};
use crate::time::{Millis, Moment, UnixMs};
use std::cell::Cell;
use std::rc::Rc;

/// A family whose clients can wait.
pub trait Waiting: Sized + 'static {
    /// What a waiting client asked for.
    type Request;

    /// A lease that is tied to the connection of its client.
    type Tied;

    /// The family's lines, ties and timer.
    fn queue(&self) -> &Queue<Self>;

    /// The reply to a waiter whose time is up.
    fn timeout_reply(cx: Context<'_, Self>, waiter: &Waiter<Self>) -> Reply<'static>;

    /// Serves the lines of one name in the selected database as far as possible within the budget;
    /// if that ends first, it marks the name dirty again. A waiter whose request can never be granted
    /// is rejected ([`Waiter::reject`]).
    fn serve(cx: Context<'_, Self>, db: i32, name: &[u8], budget: &mut Budget);

    /// A waiter has left its line unserved.
    fn left(_cx: Context<'_, Self>, _waiter: &Waiter<Self>, _why: LeaveReason) {}

    /// When the timer has to run next; `now` if there is work already.
    fn next_check(&self, now: Moment) -> Option<Moment> {
        self.queue().lines.next_check(now)
    }

    /// Work of the timer that comes before the lines are served.
    fn before_serving(_cx: Context<'_, Self>) {}

    /// The client of a tied lease is gone: ends the lease, in the selected database, if it is still the
    /// one that was tied, and marks its name dirty.
    fn end_tied(cx: Context<'_, Self>, tie: &Tie<Self::Tied>) -> Result<(), Error>;

    /// Whether a tied lease is known to be over, whose time has passed as far as known when it was
    /// tied. Does not ask the server.
    fn is_over(&self, _tie: &Tie<Self::Tied>) -> bool {
        true
    }

    /// Until when such a lease runs in fact, in the selected database, if it does. Must not write.
    fn runs_until(_cx: Context<'_, Self>, _tie: &Tie<Self::Tied>) -> Option<UnixMs> {
        None
    }
}

/// The lines of a family, the leases that are tied to connections, and the timer for both.
pub struct Queue<F: Waiting> {
    /// The lines.
    pub lines: Lines<Rc<Waiter<F>>>,
    /// The leases that end with the connection of their client.
    pub ties: Ties<F::Tied>,
    logged_too_many_ties: Cell<bool>,
    timer: Timer,
    /// How many bytes of replies one wave may take.
    wave_bytes: Setting,
}

impl<F: Waiting> Queue<F> {
    /// A queue without waiters. `on_fire` calls [`on_timer`].
    pub fn new(on_fire: OnFire, wave_bytes: Setting, interest: &Rc<Interest>) -> Self {
        Self {
            lines: Lines::new(interest),
            ties: Ties::default(),
            logged_too_many_ties: Cell::new(false),
            timer: Timer::new(on_fire),
            wave_bytes,
        }
    }

    /// The budget of one wave of replies.
    pub fn wave(&self) -> Budget {
        Budget::new(self.wave_bytes.size())
    }

    /// Fires the timer if it is late, see [`Timer::rearm_if_late`].
    pub fn rearm_if_late(&self, server: &Server) {
        self.timer.rearm_if_late(server);
    }

    /// Disarms the timer, before the module is unloaded.
    pub fn disarm(&self, server: &Server) {
        self.timer.disarm(server);
    }
}

/// How soon a timer checks whether paused clients may go on.
const WHILE_PAUSED: Millis = Millis(10);

/// How soon something is tried again that the server refused.
pub const AFTER_REFUSAL: Millis = Millis(100);

/// The work of a family's timer: ends the leases of clients that are gone, and serves every name that
/// is dirty or due, in waves.
pub fn on_timer<F: Waiting>(cx: Context<'_, F>) {
    let Context { server, family } = cx;
    let queue = family.queue();
    queue.timer.has_fired();
    if !server.is_master() {
        // The server has unblocked every client, and a replica must not write.
        return;
    }
    if server.writes_are_paused() {
        let now = server.moment();
        if next_check(&**family, now).is_some() {
            queue.timer.arm(server, now + WHILE_PAUSED);
        }
        return;
    }
    connection::end_broken(cx);
    F::before_serving(cx);
    queue.lines.mark_due_dirty(server.moment());
    let mut budget = queue.wave();
    while !budget.is_spent()
        && let Some((db, name)) = queue.lines.next_dirty()
    {
        // A check has a cost even if it serves no waiter.
        budget.spend(0);
        server.select(db);
        F::serve(cx, db, &name, &mut budget);
    }
    schedule(cx);
}

fn next_check<F: Waiting>(family: &F, now: Moment) -> Option<Moment> {
    family.next_check(now).into_iter().chain(family.queue().ties.next_check(now)).min()
}

/// Arms the family's timer for its next work, or disarms it. Called after the lines or the ties have
/// changed.
pub fn schedule<F: Waiting>(cx: Context<'_, F>) {
    let Context { server, family } = cx;
    let timer = &family.queue().timer;
    match next_check(&**family, server.moment()) {
        Some(due) => timer.arm(server, due),
        None => timer.disarm(server),
    }
}

/// Serves a name again a little later: the server refused to write, or the slot of the name migrates
/// between cluster nodes, and no event says when that ends.
pub fn retry_later<F: Waiting>(cx: Context<'_, F>, db: i32, name: &[u8]) {
    let now = cx.server.moment();
    cx.family.queue().lines.set_due(db, name, Some(now + AFTER_REFUSAL), now);
}

/// The first waiter of a line could not be served. If the cause is temporary, the line is served again
/// a little later, and the result is false. Otherwise the error is the waiter's reply, and the next
/// waiter can be served.
pub fn reject_first<F: Waiting>(
    cx: Context<'_, F>,
    db: i32,
    name: &[u8],
    error: Error,
    budget: &mut Budget,
) -> bool {
    if error.passes() {
        retry_later(cx, db, name);
        return false;
    }
    let Some(first) = Waiter::first(cx, db, name, b"") else { return false };
    first.reject(cx.server, error);
    budget.spend(0);
    true
}

/// Has the timer serve every name of these databases, or of all databases if none is given.
pub fn serve_databases_soon<F: Waiting>(cx: Context<'_, F>, dbs: &[i32]) {
    cx.family.queue().lines.mark_databases_dirty(dbs);
    schedule(cx);
}

/// Has the timer serve a name. Does nothing if no client waits for it.
pub fn serve_soon<F: Waiting>(cx: Context<'_, F>, db: i32, name: &[u8]) {
    if cx.family.queue().lines.mark_dirty(db, name) {
        schedule(cx);
    }
}
