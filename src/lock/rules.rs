//! The rules of a lock: which holders are compatible, who is served next, and what a repeated
//! request means. Nothing here depends on a server, a clock or a key.
//!
//! A lock is a set of leased holders with a cap. An exclusive holder is the only one. Shared holders
//! may be any number (SHARED), or fewer than a limit before each grant (LIMIT n). Both kinds are in
//! one set. The line is FIFO across all modes: only its head may be granted, and then each waiter
//! behind it, up to the first that is not compatible.

use crate::time::Moment;

/// How a client wants to hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the only holder.
    Exclusive,
    /// With any number of other shared holders: a read lock.
    Shared,
    /// With fewer than this many other shared holders at the time of the grant: a semaphore.
    Limit(u64),
}

impl Mode {
    /// Whether a holder in this mode is a shared one.
    pub fn is_shared(self) -> bool {
        self != Mode::Exclusive
    }
}

/// Who holds a lock. Holders whose lease has expired do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holders {
    /// Nobody.
    Free,
    /// One exclusive holder.
    Exclusive,
    /// This many shared holders, at least one.
    Shared(u64),
    /// Unknown: the key was evicted before the leases expired.
    Evicted,
    /// None: the key has another type than a lock.
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

/// How the identifier of a request holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not at all.
    No,
    /// As the exclusive holder.
    Exclusive,
    /// As a shared holder.
    Shared,
}

impl Held {
    /// Whether it holds the lock.
    pub fn is_held(self) -> bool {
        self != Held::No
    }
}

/// The decision about a request to acquire a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Grant it. A holder gets a new lease.
    Grant,
    /// Refuse it, or let it wait in line.
    NotNow,
    /// The identifier holds the lock in the other mode.
    OtherMode,
}

/// Decides about a request that may be a repeated one. `others_wait` is whether the line has waiters.
pub fn acquire(holders: Holders, held: Held, mode: Mode, others_wait: bool) -> Verdict {
    match held {
        Held::Exclusive if mode == Mode::Exclusive => Verdict::Grant,
        Held::Shared if mode.is_shared() => Verdict::Grant,
        Held::Exclusive | Held::Shared => Verdict::OtherMode,
        Held::No if !others_wait && holders.admit(mode) => Verdict::Grant,
        Held::No => Verdict::NotNow,
    }
}

/// What EXTEND does with a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Nothing: it does not hold the lock, or is not the only shared holder.
    Refused,
    /// Renew the lease.
    Renew,
    /// Turn the exclusive holder into a shared one.
    Downgrade,
    /// Turn the only shared holder into the exclusive one.
    Upgrade,
}

/// The mode that a holder asks for with EXTEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Become {
    /// The present one.
    Same,
    /// A shared holder.
    Shared,
    /// An exclusive holder.
    Exclusive,
}

/// Decides about EXTEND. `alone` is whether there is no other holder.
pub fn extend(held: Held, to: Become, alone: bool) -> Extension {
    match (held, to) {
        (Held::No, _) => Extension::Refused,
        (Held::Exclusive, Become::Shared) => Extension::Downgrade,
        (Held::Shared, Become::Exclusive) if alone => Extension::Upgrade,
        (Held::Shared, Become::Exclusive) => Extension::Refused,
        (Held::Exclusive | Held::Shared, _) => Extension::Renew,
    }
}

/// The fencing token that follows `previous`. It is not below the Unix time in µs, so that tokens
/// still rise if the previous one was lost. `None` if the next one would reach 2^53.
pub fn next_fence(previous: Option<i64>, unix_us: i64) -> Option<i64> {
    let next = previous.map_or(Some(unix_us), |p| p.checked_add(1).map(|p| p.max(unix_us)))?;
    (next < 1 << 53).then_some(next)
}

/// A lock and its line, on the server or in a test.
pub trait Ops {
    /// The error of a failed operation.
    type Error;

    /// The mode that the head of the line asks for.
    fn first(&mut self) -> Option<Mode>;
    /// Who holds the lock.
    fn holders(&mut self) -> Result<Holders, Self::Error>;
    /// Grants the lock to the head of the line, which leaves the line.
    fn grant_first(&mut self) -> Result<(), Self::Error>;
    /// When the earliest lease expires.
    fn next_end(&mut self) -> Result<Option<Moment>, Self::Error>;
    /// Whether the budget for the work of one step is used up.
    fn is_out_of_budget(&self) -> bool;
}

/// What remains to do for a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing until this moment; nothing at all if there is none.
    Until(Option<Moment>),
    /// The next waiter can be granted immediately.
    OutOfBudget,
}

/// Serves a line: grants the lock to its head as long as the holders admit it.
pub fn serve<D: Ops>(ops: &mut D) -> Result<Rest, D::Error> {
    while let Some(mode) = ops.first() {
        if !ops.holders()?.admit(mode) {
            return ops.next_end().map(Rest::Until);
        }
        if ops.is_out_of_budget() {
            return Ok(Rest::OutOfBudget);
        }
        ops.grant_first()?;
    }
    Ok(Rest::Until(None))
}

#[cfg(test)]
#[path = "rules_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn evicted_holders_and_a_foreign_key_admit_no_holder() {
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Limit(u64::MAX)] {
            assert!(!Holders::Evicted.admit(mode) && !Holders::Foreign.admit(mode));
        }
    }

    #[test]
    fn fencing_tokens_stay_below_two_to_the_53() {
        assert_eq!(next_fence(Some((1 << 53) - 2), 0), Some((1 << 53) - 1));
        assert_eq!(next_fence(Some((1 << 53) - 1), 0), None);
        assert_eq!(next_fence(Some(i64::MAX), 0), None);
        assert_eq!(next_fence(None, i64::MAX), None);
    }

    proptest! {
        #[test]
        fn fencing_tokens_rise_whatever_the_clock_does(
            start in prop::option::of(0..1i64 << 52),
            clocks in prop::collection::vec(0..1i64 << 52, 1..50),
        ) {
            let mut last = start;
            for clock in clocks {
                let token = next_fence(last, clock).unwrap();
                prop_assert!(last.is_none_or(|last| token > last));
                prop_assert!(token >= clock);
                last = Some(token);
            }
        }
    }
}
