//! What is known of the keys that follow the tasks of a queue by their original ids, and of the walk
//! through them. Nothing here knows a server.

use super::leases::Sweep;
use crate::time::{Millis, Moment};

/// Which of these keys a queue has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Whether `taskmoved:{stream}` exists.
    pub moved: bool,
    /// Whether `taskmarks:{stream}` exists.
    pub marks: bool,
    /// Whether `taskheld:{stream}` exists.
    pub held: bool,
}

impl Traces {
    /// Whether there is one.
    pub fn exist(self) -> bool {
        self != Self::default()
    }
}

/// A position in the walk through these keys: which of them, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A cursor of the hash of tasks that have moved.
    Moved(u64),
    /// A cursor of the hash of marks.
    Marks(u64),
    /// An order of the held tasks.
    Held(u64),
}

impl Default for Position {
    fn default() -> Self {
        Self::Moved(0)
    }
}

/// How often the keys are walked through in a queue whose leases never end.
const EVERY: Option<Millis> = Some(Millis(60_000));

/// What is known.
#[derive(Default)]
pub struct Following {
    /// Which keys there are.
    pub traces: Option<Traces>,
    /// Where the walk is.
    pub position: Position,
    sweep: Sweep,
}

impl Following {
    /// When the next page of the walk is due, if there is one. `lease` is the one of the policy.
    pub fn next_page(&self, lease: Option<Millis>) -> Option<Moment> {
        let walks = self.traces.is_some_and(Traces::exist);
        walks.then(|| self.sweep.due(lease.or(EVERY)))
    }

    /// The walk has read a page. It continues at `next`, if it has not finished.
    pub fn page_read(&mut self, next: Option<Position>, lease: Option<Millis>, now: Moment) {
        self.position = next.unwrap_or_default();
        match next {
            None => self.sweep.finished(now, lease.or(EVERY)),
            Some(_) => self.sweep.page_read(now),
        }
    }

    /// Whether the next delivery has nothing to do with these keys.
    pub fn is_plain(&self, lease: Option<Millis>, now: Moment) -> bool {
        self.traces.is_some_and(|traces| !traces.marks)
            && self.next_page(lease).is_none_or(|due| due > now)
    }
}
