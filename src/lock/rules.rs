//! The rules of a lock: who may hold it together, who is served next, what a repeated request
//! means. Nothing here knows a server, a clock or a key.
//!
//! A lock is a set of leased holders with a cap. An exclusive holder is alone. Shared holders are
//! any number (SHARED) or fewer than a limit before each grant (LIMIT n); both kinds share the set.
//! The line is strictly first come, first served across all modes: only its first may be granted,
//! and with it whoever follows and is compatible.

use crate::time::Moment;

/// How a client wants to hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With any number of other shared holders: a read lock.
    Shared,
    /// With other shared holders, fewer than this many at the time of the grant: a semaphore.
    Limit(u64),
}

impl Mode {
    /// Whether a holder in this mode is one of the shared set.
    pub fn is_shared(self) -> bool {
        self != Mode::Exclusive
    }
}

/// Who holds a lock now. Holders whose lease is over do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holders {
    /// Nobody.
    Free,
    /// One, alone.
    Exclusive,
    /// This many shared holders, at least one.
    Shared(u64),
    /// Unknown: their record was evicted, and their leases are not over.
    Evicted,
    /// None: a key of another type is in the place of the lock.
    Foreign,
}

impl Holders {
    /// Whether one more holder may join.
    pub fn admit(self, mode: Mode) -> bool {
        match (self, mode) {
            (Holders::Free, _) => true,
            (Holders::Shared(_), Mode::Shared) => true,
            (Holders::Shared(count), Mode::Limit(limit)) => count < limit,
            (Holders::Shared(_), Mode::Exclusive) => false,
            (Holders::Exclusive | Holders::Evicted | Holders::Foreign, _) => false,
        }
    }
}

/// How the asking identifier holds the lock already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not at all.
    No,
    /// Alone.
    Exclusive,
    /// As one of the shared set.
    Shared,
}

/// What a request to acquire comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is granted; a holder that asks again gets a new lease.
    Grant,
    /// Not now: refused, or to the end of the line.
    NotNow,
    /// The identifier holds it in the other mode.
    OtherMode,
}

/// Decides a request that may be sent again. `others_wait`: somebody stands in line.
pub fn acquire(holders: Holders, held: Held, mode: Mode, others_wait: bool) -> Verdict {
    match held {
        Held::Exclusive if mode == Mode::Exclusive => Verdict::Grant,
        Held::Shared if mode.is_shared() => Verdict::Grant,
        Held::Exclusive | Held::Shared => Verdict::OtherMode,
        Held::No if !others_wait && holders.admit(mode) => Verdict::Grant,
        Held::No => Verdict::NotNow,
    }
}

/// What EXTEND does to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Nothing: it holds no lock, or cannot hold it alone.
    Refused,
    /// Its lease starts again.
    Renew,
    /// From alone to shared.
    Downgrade,
    /// From the only shared holder to alone.
    Upgrade,
}

/// What a holder asks EXTEND to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Become {
    /// What it is.
    Same,
    /// A shared holder.
    Shared,
    /// An exclusive holder.
    Exclusive,
}

/// Decides EXTEND. `alone`: there is no other holder.
pub fn extend(held: Held, to: Become, alone: bool) -> Extension {
    match (held, to) {
        (Held::No, _) => Extension::Refused,
        (Held::Exclusive, Become::Shared) => Extension::Downgrade,
        (Held::Shared, Become::Exclusive) if alone => Extension::Upgrade,
        (Held::Shared, Become::Exclusive) => Extension::Refused,
        (Held::Exclusive | Held::Shared, _) => Extension::Renew,
    }
}

/// The fencing token that follows `previous`: larger, and not below the unix time in µs, so that
/// tokens go on rising when the last one was lost. `None` if there is none below 2^53.
pub fn next_fence(previous: Option<i64>, unix_us: i64) -> Option<i64> {
    let next = previous.map_or(Some(unix_us), |p| p.checked_add(1).map(|p| p.max(unix_us)))?;
    (next < 1 << 53).then_some(next)
}

/// A lock and its line, as the rules see them and act on them. The server is one implementation,
/// the model of the tests is another.
pub trait Desk {
    /// Why something cannot be seen or done.
    type Error;

    /// The mode that the first in line asks for.
    fn first(&mut self) -> Option<Mode>;
    /// Who holds the lock now.
    fn holders(&mut self) -> Result<Holders, Self::Error>;
    /// Makes the first in line a holder, and lets it go.
    fn grant_first(&mut self) -> Result<(), Self::Error>;
    /// When the lock may admit one more by itself: the end of the earliest lease.
    fn next_end(&mut self) -> Result<Option<Moment>, Self::Error>;
    /// Whether enough was done for now.
    fn is_tired(&self) -> bool;
}

/// What is left after a line was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nobody waits, or it is known when to look again.
    Until(Option<Moment>),
    /// More could be granted at once.
    Tired,
}

/// Serves a line: the first, and whoever follows while the lock admits it.
pub fn serve<D: Desk>(desk: &mut D) -> Result<Rest, D::Error> {
    while let Some(mode) = desk.first() {
        if !desk.holders()?.admit(mode) {
            return desk.next_end().map(Rest::Until);
        }
        if desk.is_tired() {
            return Ok(Rest::Tired);
        }
        desk.grant_first()?;
    }
    Ok(Rest::Until(None))
}

#[cfg(test)]
#[path = "rules_model.rs"]
mod model;
