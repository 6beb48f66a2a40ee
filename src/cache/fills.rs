//! Values that are being handed out. After a fill, every client that waited at that time gets the
//! same copy of the value, whatever happens to the key meanwhile. Large values are handed out in
//! several waves.

use super::Cache;
use crate::server::OwnedStr;
use crate::waiting::Place;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The fills that are being handed out, by database and key.
#[derive(Default)]
pub struct Fills(RefCell<BTreeMap<Name, Fill>>);

/// Database and key.
type Name = (i32, Box<[u8]>);

struct Fill {
    value: Rc<OwnedStr>,
    /// The last place in line that gets it.
    last: Place,
}

impl Fills {
    /// Hands out a value to every waiter up to the place `last`.
    pub fn add(&self, db: i32, key: &[u8], value: OwnedStr, last: Place) {
        let fill = Fill { value: Rc::new(value), last };
        self.0.borrow_mut().insert((db, key.into()), fill);
    }

    /// The value for the first waiter, which is at `place`. `None` if that waiter joined after the fill:
    /// every earlier one has been answered, so the fill is dropped.
    pub fn for_first(&self, db: i32, key: &[u8], place: Place) -> Option<Rc<OwnedStr>> {
        let fills = &mut *self.0.borrow_mut();
        if fills.is_empty() {
            return None;
        }
        let name = (db, key.into());
        let fill = fills.get(&name)?;
        if place <= fill.last {
            return Some(fill.value.clone());
        }
        fills.remove(&name);
        None
    }

    /// Drops the fill of a value, because no client waits for it.
    pub fn remove(&self, db: i32, key: &[u8]) {
        let fills = &mut *self.0.borrow_mut();
        if !fills.is_empty() {
            fills.remove(&(db, key.into()));
        }
    }
}

impl Cache {
    /// How many clients wait for a value.
    pub fn waiters(&self, db: i32, key: &[u8]) -> usize {
        let lines = &self.queue.lines;
        // Mostly no client waits anywhere.
        if lines.is_empty() { 0 } else { lines.len_of(db, key, b"") }
    }

    /// Hands out a value to every client that waits for it now.
    pub fn hand_out(&self, db: i32, key: &[u8], value: OwnedStr) {
        if self.waiters(db, key) > 0 {
            self.fills.add(db, key, value, self.queue.lines.last_place());
        }
    }
}
