//! Locks whose record the server evicted while somebody waited for them. The holder does not know
//! that its record is gone; its lease goes on, and until its end nobody else may hold the lock.

use crate::server::{MainThread, Server};
use crate::time::UnixMs;
use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;

#[derive(Default)]
struct Ends {
    ends: HashMap<(i32, Box<[u8]>), UnixMs>,
    /// How many there may be before those that have passed are dropped: twice as many as were left
    /// the last time, so that a burst of evictions costs no more than the evictions.
    most: usize,
}

static ENDS: MainThread<LazyCell<RefCell<Ends>>> = MainThread::new(LazyCell::new(RefCell::default));

/// The record of a lock was evicted; its last lease ends at `end`.
pub fn note(server: &Server, key: &[u8], end: UnixMs) {
    const FEW: usize = 64;
    let Ends { ends, most } = &mut *ENDS.get().borrow_mut();
    if ends.len() >= *most {
        let now = server.now();
        ends.retain(|_, end| *end >= now);
        *most = ends.len() * 2 + FEW;
        ends.shrink_to(*most);
    }
    ends.insert((server.db(), key.into()), end);
}

/// Until when nobody may hold a lock because its record was evicted.
pub fn until(server: &Server, key: &[u8]) -> Option<UnixMs> {
    let ends = &ENDS.get().borrow().ends;
    if ends.is_empty() {
        return None;
    }
    let until = *ends.get(&(server.db(), key.into()))?;
    (until >= server.now()).then_some(until)
}

/// Databases were flushed, swapped or loaded; none named means all of them.
pub fn databases_changed(dbs: &[i32]) {
    let ends = &mut ENDS.get().borrow_mut().ends;
    ends.retain(|(db, _), _| !dbs.is_empty() && !dbs.contains(db));
}

/// The module is unloaded.
pub fn forget() {
    ENDS.get().take();
}
