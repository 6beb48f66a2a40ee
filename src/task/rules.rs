//! The rules of a queue: what a consumer gets next, what becomes of a task that failed, how long it
//! waits before it is tried again. Nothing here knows a server, a clock or a key.
//!
//! At every instant a task is in exactly one of these states: delayed, ready, leased, dead, done.

use super::id::Priority;
use crate::time::Millis;

/// How often a task was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Before this entry: its field `retry_count`.
    pub before: i64,
    /// As this entry: the server's count of deliveries.
    pub deliveries: i64,
}

impl Tried {
    /// Whether another client has said that the task can never succeed: `XNACK … FATAL` writes the
    /// greatest number in the place of the count of deliveries.
    pub fn is_fatal(self) -> bool {
        self.deliveries == i64::MAX
    }

    /// How often this entry was delivered; once, where the count is lost.
    pub fn as_this_entry(self) -> i64 {
        if self.is_fatal() { 1 } else { self.deliveries }
    }

    /// In all, this time included.
    pub fn in_all(self) -> i64 {
        self.before.saturating_add(self.as_this_entry())
    }

    /// Whether it is not tried again. `tries`: how often at most.
    pub fn is_enough(self, tries: Option<i64>) -> bool {
        self.is_fatal() || tries.is_some_and(|tries| self.in_all() >= tries)
    }
}

/// How a consumer gives a task back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It has not been tried: the worker stops, or it is too soon. Not counted.
    Silent,
    /// It failed, and may be tried again.
    Fail,
    /// It can never succeed.
    Fatal,
}

/// What becomes of a task that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A copy with this retry count is ready after a delay.
    Again(i64, Millis),
    /// A copy with this retry count goes to the dead letters.
    Dead(i64),
}

/// The waits between the tries of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait behind the first failure; it doubles with each one.
    pub base: Millis,
    /// The longest wait behind any failure.
    pub max: Millis,
}

impl Backoff {
    /// The wait behind the `n`-th failure, the first being 1: anything from 0 to
    /// `base * 2^(n-1)`, or `max` if that is less. Such "full jitter" spreads tasks that failed
    /// together best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    pub fn wait(self, n: i64, random: u64) -> Millis {
        let doublings = u32::try_from(n.saturating_sub(1).clamp(0, 62)).unwrap_or(0);
        let longest = self.base.0.saturating_mul(1 << doublings).min(self.max.0).max(0);
        // The remainder favours no wait that anybody could notice.
        Millis((random % (longest as u64 + 1)) as i64)
    }
}

/// Decides what becomes of a task that is given back. `delay` is what the consumer asked for.
pub fn give_back(
    failure: Failure,
    tried: Tried,
    tries: Option<i64>,
    backoff: Backoff,
    delay: Option<Millis>,
    random: u64,
) -> Fate {
    let count = tried.in_all();
    match failure {
        Failure::Silent => Fate::Again(count.saturating_sub(1).max(0), delay.unwrap_or(Millis(0))),
        Failure::Fail if !tried.is_enough(tries) => {
            Fate::Again(count, delay.unwrap_or_else(|| backoff.wait(count, random)))
        }
        Failure::Fail | Failure::Fatal => Fate::Dead(count),
    }
}

/// What the oldest lease of a group turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest<L> {
    /// There is none, or it lasts.
    Lasts,
    /// It was not what it was taken for: ended, or begun again. The next one may be over.
    Settled,
    /// It is over.
    Over(L, Tried),
}

/// What came of reading new entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tasks that the consumer gets.
    pub delivered: usize,
    /// Entries that it does not get: copies for another group, or with an id of another place.
    pub skipped: usize,
}

/// What came of letting tasks enter that are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// How many entered their streams.
    pub number: usize,
    /// Whether others are due that have not been looked at.
    pub more: bool,
    /// Whether that was as much as may be done in one call.
    pub spent: bool,
}

/// A queue as one consumer of one group sees it.
pub trait Desk {
    /// What can go wrong.
    type Error;
    /// A lease that is over.
    type Lease;

    /// Lets tasks that are due enter their streams: those of a priority above 0, and at most `most`
    /// of the others; `least`, if there are as many.
    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Self::Error>;

    /// Looks at the oldest lease of the group.
    fn oldest(&mut self) -> Result<Oldest<Self::Lease>, Self::Error>;

    /// Gives the task of a lease that is over to the consumer.
    fn reclaim(&mut self, lease: Self::Lease) -> Result<(), Self::Error>;

    /// Moves the task of a lease that is over to the dead letters.
    fn bury(&mut self, lease: Self::Lease) -> Result<(), Self::Error>;

    /// Whether the stream of a priority may hold something that the group has not read.
    fn may_hold(&self, priority: Priority) -> bool;

    /// Reads at most `most` new entries of a priority for the consumer.
    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Self::Error>;
}

/// What came of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Tasks that the consumer gets.
    pub delivered: usize,
    /// Tasks that were promoted, reclaimed, buried or skipped.
    pub moved: usize,
    /// Whether the pass has moved as many as it may: there may be more.
    pub more: bool,
}

/// How many tasks a pass buries and skips at least, if there are so many.
pub const MOVES: usize = 128;

/// How many it buries and skips at least before it finds nothing to deliver.
pub const IN_VAIN: usize = 1024;

/// How many it moves of each kind at most, however many are asked for: the server has other clients.
pub const MOST_MOVES: usize = 16_384;

/// How many tasks that are due enter at least, if there are so many, before a pass gives up to find
/// one for its consumer.
pub const ENTRIES: usize = 4096;

/// Serves a consumer that asks for `count` tasks: what is due enters, what was leased for too long
/// is given out again or buried, the oldest first, then new tasks come by their priority. Moves that
/// bring the consumer nothing are bounded; the pass goes on for longer while it has delivered
/// nothing.
pub fn pass<D: Desk>(desk: &mut D, count: usize, tries: Option<i64>) -> Result<Passed, D::Error> {
    let mut passed = Passed::default();
    let (mut entered, mut reclaimed, mut settled, mut skipped) = (0, 0, 0, 0);
    let (mut bound, in_vain) = (count.clamp(MOVES, MOST_MOVES), count.clamp(IN_VAIN, MOST_MOVES));
    while passed.delivered < count {
        let wanted = (count - passed.delivered).min(MOST_MOVES);
        // Due tasks enter a little faster than they are asked for, so that no call is much dearer
        // than another.
        let least = wanted.max(MOVES / 8);
        let due = desk.promote(least, (2 * least).min(MOST_MOVES))?;
        entered += due.number;
        passed.moved += due.number;
        while passed.delivered < count && reclaimed < MOST_MOVES && settled < bound {
            match desk.oldest()? {
                Oldest::Lasts => break,
                Oldest::Settled => settled += 1,
                Oldest::Over(lease, tried) if tried.is_enough(tries) => {
                    settled += 1;
                    desk.bury(lease)?;
                }
                Oldest::Over(lease, _) => {
                    (reclaimed, passed.delivered) = (reclaimed + 1, passed.delivered + 1);
                    desk.reclaim(lease)?;
                }
            }
            passed.moved += 1;
        }
        // What is new is not kept back by what was moved before, but by what has to be skipped:
        // something of a higher priority may stand behind that.
        for priority in Priority::ALL.into_iter().rev() {
            while passed.delivered < count && skipped < bound && desk.may_hold(priority) {
                let wanted = (count - passed.delivered).min(count.clamp(MOVES, MOST_MOVES));
                let batch = desk.read(priority, wanted)?;
                passed.delivered += batch.delivered;
                passed.moved += batch.skipped;
                skipped += batch.skipped;
                // What was skipped can have come again behind the rest.
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
            // It goes on for longer before it says that there is nothing.
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
