//! What the module asks of each family beside its commands. `FAMILIES` in `lib.rs` has a row for
//! each, so that the server's side names none of them.

use crate::server::Server;
use crate::server::events::KeyEvent;
use crate::stats::Counter;
use crate::time::Moment;
use crate::waiting::Budget;
use std::ffi::CStr;

/// A row of the table of families.
pub struct Family {
    /// Its totals in INFO.
    pub counters: &'static [&'static Counter],
    /// The name of its gauge of waiting clients in INFO.
    pub gauge: &'static CStr,
    /// How many clients wait now.
    pub waiters: fn() -> usize,
    /// When the timer has to look at it, if at all; `now` if something is to be done.
    pub next_look: fn(now: Moment) -> Option<Moment>,
    /// The timer looks: serves whoever can be served, within a budget of its own.
    pub look_again: fn(&Server, &mut Budget),
    /// The server's periodic work: forgets what need not be remembered any more. Writes nothing.
    pub periodic: fn(&Server),
    /// Some key was changed, of which a family has asked to be told. Writes nothing.
    pub key_changed: fn(&Server, KeyEvent<'_>),
    /// Has everybody looked at again who waits in these databases, or anywhere if none is named.
    pub disturb: fn(dbs: &[i32]),
    /// Databases were flushed, swapped or loaded; none named means all of them. What was remembered
    /// of them is forgotten. A waiting client goes on waiting in the database that it has selected,
    /// as with the server's own blocking commands.
    pub databases_changed: fn(dbs: &[i32]),
    /// The module is unloaded: nobody waits, and what was remembered is dropped.
    pub forget: fn(),
}
