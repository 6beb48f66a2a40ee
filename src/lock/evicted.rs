//! Locks whose key the server evicted while clients waited for them. The holder does not know that
//! its key is gone. Its lease continues, and no other client may hold the lock until it ends.

use crate::time::UnixMs;
use std::cell::RefCell;
use std::collections::HashMap;

/// The ends of leases whose keys were evicted.
#[derive(Default)]
pub struct Evicted(RefCell<Ends>);

#[derive(Default)]
struct Ends {
    ends: HashMap<(i32, Box<[u8]>), UnixMs>,
    /// How many entries there may be before expired ones are dropped: twice as many as were left the
    /// last time, so that the cost of dropping them is proportional to the evictions.
    most: usize,
}

impl Evicted {
    /// The key of a lock was evicted whose last lease ends at `end`.
    pub fn add(&self, db: i32, key: &[u8], end: UnixMs, now: UnixMs) {
        const FEW: usize = 64;
        let Ends { ends, most } = &mut *self.0.borrow_mut();
        if ends.len() >= *most {
            ends.retain(|_, end| *end >= now);
            *most = ends.len() * 2 + FEW;
            ends.shrink_to(*most);
        }
        ends.insert((db, key.into()), end);
    }

    /// Until when nobody may hold a lock because its key was evicted.
    pub fn until(&self, db: i32, key: &[u8], now: UnixMs) -> Option<UnixMs> {
        let ends = &self.0.borrow().ends;
        if ends.is_empty() {
            return None;
        }
        let until = *ends.get(&(db, key.into()))?;
        (until >= now).then_some(until)
    }

    /// Forgets the locks of these databases, or of all databases if none is given.
    pub fn forget(&self, dbs: &[i32]) {
        let ends = &mut self.0.borrow_mut().ends;
        ends.retain(|(db, _), _| !dbs.is_empty() && !dbs.contains(db));
    }
}
