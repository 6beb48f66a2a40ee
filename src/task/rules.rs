//! The rules of a queue: which tasks a consumer gets next, what happens to a task that is given
//! back, and how long it waits before a retry. Nothing here depends on a server, a clock or a key.
//!
//! A task is always in exactly one state: delayed, ready, leased, dead or done.

use super::id::Priority;
use crate::time::Millis;

/// How often a task was attempted, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// Before it became this entry: the field `retry_count`.
    pub before: i64,
    /// As this entry: the delivery counter of the server.
    pub deliveries: i64,
    /// The maximum of the total; `None` means without limit.
    pub tries: Option<i64>,
}

impl Attempts {
    /// Whether another client marked the task as one that can never succeed: `XNACK … FATAL` sets
    /// the delivery counter to its maximum.
    pub fn is_fatal(self) -> bool {
        self.deliveries == i64::MAX
    }

    /// How often this entry was delivered. FATAL overwrites the counter, so it then counts as one.
    pub fn as_this_entry(self) -> i64 {
        if self.is_fatal() { 1 } else { self.deliveries }
    }

    /// The total, including the current delivery.
    pub fn in_all(self) -> i64 {
        self.before.saturating_add(self.as_this_entry())
    }

    /// Whether the task has no attempt left.
    pub fn are_exhausted(self) -> bool {
        self.is_fatal() || self.tries.is_some_and(|tries| self.in_all() >= tries)
    }
}

/// Why a consumer gives a task back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was not attempted: the worker stops, or it is too early. This does not count.
    Silent,
    /// The attempt failed, and a retry may succeed.
    Fail,
    /// It can never succeed.
    Fatal,
}

/// What happens to a task that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A copy with this retry count becomes ready after the delay.
    Retry(i64, Millis),
    /// A copy with this retry count goes to the dead-letter queue.
    DeadLetter(i64),
}

/// The back-off between the attempts of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure. It doubles with each further one.
    pub base: Millis,
    /// The longest wait after any failure.
    pub max: Millis,
}

impl Backoff {
    /// The wait after failure number `n`, counted from 1: a random time from 0 to
    /// `base * 2^(n-1)`, capped at `max`. This "full jitter" is the best way to spread tasks that
    /// failed together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    pub fn wait(self, n: i64, random: u64) -> Millis {
        let doublings = u32::try_from(n.saturating_sub(1).clamp(0, 62)).unwrap_or(0);
        let longest = self.base.0.saturating_mul(1 << doublings).min(self.max.0).max(0);
        // The bias of the modulus is too small to matter.
        Millis((random % (longest as u64 + 1)) as i64)
    }
}

/// Decides what happens to a task that is given back. `delay` is the one that the consumer asked
/// for.
pub fn give_back(
    failure: Failure,
    attempts: Attempts,
    backoff: Backoff,
    delay: Option<Millis>,
    random: u64,
) -> Outcome {
    let count = attempts.in_all();
    match failure {
        Failure::Silent => {
            Outcome::Retry(count.saturating_sub(1).max(0), delay.unwrap_or(Millis(0)))
        }
        Failure::Fail if !attempts.are_exhausted() => {
            Outcome::Retry(count, delay.unwrap_or_else(|| backoff.wait(count, random)))
        }
        Failure::Fail | Failure::Fatal => Outcome::DeadLetter(count),
    }
}

/// The state of the oldest lease of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest<L> {
    /// There is no lease, or it has not expired.
    Running,
    /// The lease had been released or renewed, and its record is now correct. The next lease may
    /// have expired.
    Settled,
    /// It has expired.
    Expired(L, Attempts),
}

/// The result of reading new entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tasks that the consumer gets.
    pub delivered: usize,
    /// Entries that it does not get: copies for another group, and entries whose id belongs to
    /// another stream.
    pub skipped: usize,
}

/// The result of moving due tasks into their streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// How many were moved.
    pub number: usize,
    /// Whether more tasks are due.
    pub more: bool,
    /// Whether the work allowed in one call is used up.
    pub spent: bool,
}

/// What a pass does with a queue, for one consumer of one group.
pub trait Ops {
    /// The error of a failed operation.
    type Error;
    /// An expired lease.
    type Lease;

    /// Moves due tasks into their streams: all those of a priority above 0, and of the others
    /// between `least` and `most`, if that many are due.
    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Self::Error>;

    /// Checks the oldest lease of the group.
    fn oldest(&mut self) -> Result<Oldest<Self::Lease>, Self::Error>;

    /// Delivers the task of an expired lease to the consumer.
    fn reclaim(&mut self, lease: Self::Lease) -> Result<(), Self::Error>;

    /// Moves the task of an expired lease to the dead-letter queue.
    fn dead_letter(&mut self, lease: Self::Lease) -> Result<(), Self::Error>;

    /// Whether the stream of a priority may hold entries that the group has not read.
    fn may_hold(&self, priority: Priority) -> bool;

    /// Reads up to `most` new entries of a priority for the consumer.
    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Self::Error>;
}

/// The result of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Tasks that the consumer gets.
    pub delivered: usize,
    /// Leases that were checked, tasks that were promoted, and entries that were skipped.
    pub moved: usize,
    /// Whether the pass stopped at one of its bounds, so that there may be more to do.
    pub more: bool,
}

/// A pass may dead-letter or settle this many leases, and skip this many entries, or as many as
/// were asked for if that is more.
pub const MOVES: usize = 128;

/// The same bound for a pass that has found nothing to deliver so far.
pub const IN_VAIN: usize = 1024;

/// The bound of every kind of move, however many tasks were asked for: other clients wait for the
/// server meanwhile.
pub const MOST_MOVES: usize = 16_384;

/// A pass that looks for more tasks for its consumer may move this many due tasks, or as many as
/// were asked for if that is more.
pub const ENTRIES: usize = 4096;

/// Serves a consumer that asks for `count` tasks. First, due tasks move into their streams. Then
/// the tasks of expired leases are delivered again or dead-lettered, the oldest lease first. New
/// tasks follow, those of the highest priority first. Moves that deliver nothing are bounded, with
/// a larger bound while the consumer has nothing yet.
pub fn pass<O: Ops>(ops: &mut O, count: usize) -> Result<Passed, O::Error> {
    let mut passed = Passed::default();
    let (mut entered, mut reclaimed, mut settled, mut skipped) = (0, 0, 0, 0);
    let (mut bound, in_vain) = (count.clamp(MOVES, MOST_MOVES), count.clamp(IN_VAIN, MOST_MOVES));
    while passed.delivered < count {
        let wanted = (count - passed.delivered).min(MOST_MOVES);
        // Due tasks enter a little faster than consumers ask for them. So a backlog shrinks, and no
        // call takes much longer than another.
        let least = wanted.max(MOVES / 8);
        let due = ops.promote(least, (2 * least).min(MOST_MOVES))?;
        entered += due.number;
        passed.moved += due.number;
        while passed.delivered < count && reclaimed < MOST_MOVES && settled < bound {
            match ops.oldest()? {
                Oldest::Running => break,
                Oldest::Settled => settled += 1,
                Oldest::Expired(lease, attempts) if attempts.are_exhausted() => {
                    settled += 1;
                    ops.dead_letter(lease)?;
                }
                Oldest::Expired(lease, _) => {
                    (reclaimed, passed.delivered) = (reclaimed + 1, passed.delivered + 1);
                    ops.reclaim(lease)?;
                }
            }
            passed.moved += 1;
        }
        // Leases do not count against new tasks, but skipped entries do: tasks of a higher priority
        // may stand behind them.
        for priority in Priority::ALL.into_iter().rev() {
            while passed.delivered < count && skipped < bound && ops.may_hold(priority) {
                let wanted = (count - passed.delivered).min(count.clamp(MOVES, MOST_MOVES));
                let batch = ops.read(priority, wanted)?;
                passed.delivered += batch.delivered;
                passed.moved += batch.skipped;
                skipped += batch.skipped;
                // A skipped entry may have been added again at the end of the stream.
                if batch.skipped == 0 && batch.delivered < wanted {
                    break;
                }
            }
        }
        let is_bound = settled.max(skipped) >= bound;
        let spent = is_bound
            || due.spent
            || entered >= count.clamp(ENTRIES, MOST_MOVES)
            || reclaimed >= MOST_MOVES;
        passed.more = due.more || spent;
        if passed.delivered == 0 && is_bound && bound < in_vain {
            bound = in_vain;
        } else if !due.more || spent {
            break;
        }
    }
    Ok(passed)
}

#[cfg(test)]
#[path = "rules_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_longest_wait_doubles_up_to_its_maximum() {
        let backoff = Backoff { base: Millis(1_000), max: Millis(600_000) };
        let longest = |n| (0..=600_000).map(|random| backoff.wait(n, random).0).max();
        for (n, ms) in [(1, 1_000), (2, 2_000), (10, 512_000), (11, 600_000), (i64::MAX, 600_000)] {
            assert_eq!(longest(n), Some(ms), "{n}");
        }
        // All waits are equally likely.
        let waits: BTreeSet<_> = (7..7 + 1_001).map(|random| backoff.wait(1, random)).collect();
        assert_eq!(waits, (0..=1_000).map(Millis).collect());
    }

    #[test]
    fn a_task_has_as_many_attempts_as_tries_says() {
        let attempts = |before, deliveries| Attempts { before, deliveries, tries: None };
        let backoff = Backoff { base: Millis(0), max: Millis(0) };
        let fail = |attempts, tries| {
            give_back(Failure::Fail, Attempts { tries, ..attempts }, backoff, None, 0)
        };
        assert_eq!(fail(attempts(0, 1), Some(1)), Outcome::DeadLetter(1));
        assert_eq!(fail(attempts(1, 1), Some(3)), Outcome::Retry(2, Millis(0)));
        assert_eq!(fail(attempts(2, 1), Some(3)), Outcome::DeadLetter(3));
        assert_eq!(fail(attempts(0, 3), Some(3)), Outcome::DeadLetter(3));
        assert_eq!(fail(attempts(i64::MAX, 7), None), Outcome::Retry(i64::MAX, Millis(0)));
        // Another client marked it as one that can never succeed.
        assert_eq!(fail(attempts(2, i64::MAX), None), Outcome::DeadLetter(3));
        assert_eq!(fail(attempts(i64::MAX, 1), Some(i64::MAX)), Outcome::DeadLetter(i64::MAX));
    }

    proptest! {
        #[test]
        fn no_number_makes_a_wait_too_long(base: i64, max: i64, n: i64, random: u64) {
            for (base, max, n) in [(base, max, n), (base % 5_000, max % 500_000, n % 80)] {
                let backoff = Backoff { base: Millis(base), max: Millis(max) };
                let doublings = n.saturating_sub(1).clamp(0, 62) as u32;
                let longest = (i128::from(base) << doublings).min(max.into()).max(0);
                prop_assert!((0..=longest).contains(&backoff.wait(n, random).0.into()));
                let longest = i64::try_from(longest).unwrap();
                prop_assert_eq!(backoff.wait(n, longest as u64).0, longest);
            }
        }

        #[test]
        fn the_outcome_depends_on_the_failure_and_the_attempts_alone(
            before in prop_oneof![any::<i64>(), -3..30i64],
            deliveries in prop_oneof![any::<i64>(), -3..30i64, Just(i64::MAX)],
            tries in prop::option::of(prop_oneof![any::<i64>(), 0..30i64]),
            (base, max) in any::<(i64, i64)>(),
            delay: Option<i64>,
            random: u64,
        ) {
            let attempts = Attempts { before, deliveries, tries };
            let backoff = Backoff { base: Millis(base), max: Millis(max) };
            let fatal = deliveries == i64::MAX;
            let all = before.saturating_add(if fatal { 1 } else { deliveries });
            let after =
                |failure| give_back(failure, attempts, backoff, delay.map(Millis), random);
            let uncounted = all.saturating_sub(1).max(0);
            prop_assert_eq!(
                after(Failure::Silent),
                Outcome::Retry(uncounted, Millis(delay.unwrap_or(0)))
            );
            prop_assert_eq!(after(Failure::Fatal), Outcome::DeadLetter(all));
            let exhausted = fatal || tries.is_some_and(|tries| all >= tries);
            let wait = delay.map_or_else(|| backoff.wait(all, random), Millis);
            let expected =
                if exhausted { Outcome::DeadLetter(all) } else { Outcome::Retry(all, wait) };
            prop_assert_eq!(attempts.are_exhausted(), exhausted);
            prop_assert_eq!(after(Failure::Fail), expected);
        }
    }
}
