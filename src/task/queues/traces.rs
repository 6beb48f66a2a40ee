//! What is remembered of the keys that follow the tasks of a queue by their original ids.

use super::Queues;
use crate::task::known::Traces;
use crate::task::policy::Policy;
use crate::time::{Millis, Moment};

impl Queues {
    /// Which keys follow the tasks of a queue, if that is known.
    pub fn traces(&self, db: i32, queue: &[u8]) -> Option<Traces> {
        self.with(db, queue, |known| known.traces).flatten()
    }

    /// The policy of a queue, and which keys follow its tasks, if both are known.
    pub fn policy_and_traces(&self, db: i32, queue: &[u8]) -> Option<(Policy, Traces)> {
        self.with(db, queue, |known| known.policy.zip(known.traces)).flatten()
    }

    /// Remembers which keys follow the tasks of a queue that is known.
    pub fn set_traces(&self, db: i32, queue: &[u8], traces: Traces) {
        self.with(db, queue, |known| known.traces = Some(traces));
    }

    /// The hash of the tasks that have moved exists now, or no longer does.
    pub fn set_moved(&self, db: i32, queue: &[u8], moved: bool) {
        let set = |known: &mut Traces| known.moved = moved;
        self.with(db, queue, |known| known.traces.as_mut().map(set));
    }

    /// Another client has changed one of the keys.
    pub fn traces_changed(&self, db: i32, queue: &[u8]) {
        self.with(db, queue, |known| known.traces = None);
    }

    /// Whether the next page of the walk through the keys is due, and where it begins.
    pub fn traces_position(
        &self,
        db: i32,
        queue: &[u8],
        lease: Option<Millis>,
        now: Moment,
    ) -> Option<u64> {
        let position = |known: &mut super::Known| {
            let due = known.next_trace_page(lease);
            due.filter(|due| *due <= now).map(|_| known.traces_position)
        };
        self.with(db, queue, position).flatten()
    }

    /// The walk has read a page. It continues at `next`; 0 means that it has finished.
    pub fn trace_page_read(
        &self,
        db: i32,
        queue: &[u8],
        next: u64,
        lease: Option<Millis>,
        now: Moment,
    ) {
        self.with(db, queue, |known| known.trace_page_read(next, lease, now));
    }
}
