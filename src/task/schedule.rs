//! What it takes to make a waiting task due at another time. Nothing here depends on a server.

use super::id::Priority;
use crate::time::UnixMs;

/// A task that is not leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It is delayed until this time, and then has this priority.
    Until(UnixMs, Priority),
    /// It is ready, with this priority.
    Ready(Priority),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It stays where it is.
    Keep,
    /// It is delayed until this time, and then has this priority.
    Delay(UnixMs, Priority),
    /// It is ready, at the end of the stream of this priority.
    Enter(Priority),
}

/// What becomes of a task at `now` that is to be due at another time, or to have another priority. A
/// ready task that is to be due now keeps its place.
pub fn reschedule(
    waits: Waits,
    now: UnixMs,
    due: Option<UnixMs>,
    priority: Option<Priority>,
) -> Plan {
    let (due_before, priority_before) = match waits {
        Waits::Until(due, priority) => (due, priority),
        Waits::Ready(priority) => (now, priority),
    };
    let (due, priority) = (due.unwrap_or(due_before), priority.unwrap_or(priority_before));
    let stays = match waits {
        Waits::Until(..) => due == due_before,
        Waits::Ready(_) => due <= now,
    };
    if stays && priority == priority_before {
        Plan::Keep
    } else if due > now {
        Plan::Delay(due, priority)
    } else {
        Plan::Enter(priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The task is then where the request says, and a second request of the same kind changes
        /// nothing.
        #[test]
        fn a_task_gets_what_was_asked_for_and_keeps_the_rest(
            delayed in prop::option::of(0..20i64),
            before in 0..10u64,
            now in 0..20i64,
            due in prop::option::of((0..20i64).prop_map(UnixMs)),
            priority in prop::option::of((0..10u64).prop_map(|number| Priority::new(number).unwrap())),
        ) {
            let (now, before) = (UnixMs(now), Priority::new(before).unwrap());
            let waits = match delayed {
                Some(due) => Waits::Until(UnixMs(due), before),
                None => Waits::Ready(before),
            };
            let plan = reschedule(waits, now, due, priority);
            let after = match plan {
                Plan::Keep => waits,
                Plan::Delay(due, priority) => Waits::Until(due, priority),
                Plan::Enter(priority) => Waits::Ready(priority),
            };
            let (is_due, has) = match after {
                Waits::Until(due, priority) => (due, priority),
                Waits::Ready(priority) => (now, priority),
            };
            prop_assert_eq!(has, priority.unwrap_or(before));
            let wanted = due.or(delayed.map(UnixMs)).unwrap_or(now);
            prop_assert_eq!(is_due.max(now), wanted.max(now));
            prop_assert_eq!(reschedule(after, now, due, priority), Plan::Keep);
            if plan == Plan::Keep {
                prop_assert!(priority.unwrap_or(before) == before);
            }
        }
    }
}
