//! What is remembered of the keys that follow the tasks of a queue by their original ids.

use super::Queues;
use crate::task::following::{Position, Traces};
use crate::task::policy::Policy;
use crate::time::{Millis, Moment};

impl Queues {
    /// Which keys follow the tasks of a queue, if that is known.
    pub fn traces(&self, db: i32, queue: &[u8]) -> Option<Traces> {
        self.with(db, queue, |known| known.following.traces).flatten()
    }

    /// The policy of a queue, and which keys follow its tasks, if both are known.
    pub fn policy_and_traces(&self, db: i32, queue: &[u8]) -> Option<(Policy, Traces)> {
        self.with(db, queue, |known| known.policy.zip(known.following.traces)).flatten()
    }

    /// Remembers which keys follow the tasks of a queue that is known.
    pub fn set_traces(&self, db: i32, queue: &[u8], traces: Traces) {
        self.with(db, queue, |known| known.following.traces = Some(traces));
    }

    /// The hash of the tasks that have moved exists now, or no longer does.
    pub fn set_moved(&self, db: i32, queue: &[u8], moved: bool) {
        let set = |known: &mut Traces| known.moved = moved;
        self.with(db, queue, |known| known.following.traces.as_mut().map(set));
    }

    /// The hash of marks exists now, or no longer does.
    pub fn set_marks(&self, db: i32, queue: &[u8], marks: bool) {
        let set = |known: &mut Traces| known.marks = marks;
        self.with(db, queue, |known| known.following.traces.as_mut().map(set));
    }

    /// There are held tasks now, or no longer.
    pub fn set_held(&self, db: i32, queue: &[u8], held: bool) {
        let set = |known: &mut Traces| known.held = held;
        self.with(db, queue, |known| known.following.traces.as_mut().map(set));
    }

    /// Another client has changed one of the keys.
    pub fn traces_changed(&self, db: i32, queue: &[u8]) {
        self.with(db, queue, |known| known.following.traces = None);
    }

    /// Whether the next page of the walk through the keys is due, and where it begins.
    pub fn traces_position(
        &self,
        db: i32,
        queue: &[u8],
        lease: Option<Millis>,
        now: Moment,
    ) -> Option<Position> {
        let position = |known: &mut super::Known| {
            let due = known.following.next_page(lease);
            due.filter(|due| *due <= now).map(|_| known.following.position)
        };
        self.with(db, queue, position).flatten()
    }

    /// The walk has read a page. It continues at `next`, if it has not finished.
    pub fn trace_page_read(
        &self,
        db: i32,
        queue: &[u8],
        next: Option<Position>,
        lease: Option<Millis>,
        now: Moment,
    ) {
        self.with(db, queue, |known| known.following.page_read(next, lease, now));
    }
}
