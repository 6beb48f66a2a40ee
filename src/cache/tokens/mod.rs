//! What this process knows about the values for which it gave out leases: which tokens are good, and
//! whose records end when another client writes the value.
//!
//! Nothing else decides whether a token is good, so no token outlives the process, a promotion, or a
//! flush or swap of its database. A value is known until `corral.cache-late-ms` after its last lease
//! and the end of its record, within the bound of `corral.cache-late-bytes`: the value that ends first
//! is forgotten first.
//!
//! A foreign write can come in the middle of any command, when nothing can be written. It only marks
//! the value, at a cost that hardly depends on how many values are known. The mark stays until the
//! timer has removed the record.
//!
//! This file has the rules of one value; [`values`] holds all of them, and [`table`] is what the rest
//! of the family uses.

mod changed;
mod table;
mod values;

pub use table::TokenTable;
pub use values::Bounds;

use super::rules::{Token, Tokens};
use crate::interest::{Interest, Interesting};
use crate::time::{Millis, Moment, UnixMs};
use std::rc::Rc;

/// A record that was written, or read.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// Its token.
    pub token: Token,
    /// Until when it is kept.
    pub end: Moment,
    /// Whether it marks the value as stale.
    pub marked: bool,
    /// When the value expires, if it does.
    pub deadline: Option<UnixMs>,
}

/// What another client, or the server, did to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written or removed: it is another value now.
    Written,
    /// The server says that its time-to-live ended.
    Expired,
    /// The server evicted it.
    Evicted,
    /// It has another deadline, or none.
    Deadline(Option<UnixMs>),
}

/// How far a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It counts as it is.
    Known,
    /// It is older than what this process knows, such as one from before a restart or a promotion. Its
    /// lease does not count.
    Unknown,
    /// As [`Knowledge::Unknown`], but it was made after this process began to see every write.
    Newer,
    /// Another client has written the value since. Nothing in it counts.
    Void,
}

/// What is known about one value.
#[derive(Debug, Default)]
struct Known {
    name: Box<[u8]>,
    tokens: Tokens,
    /// When the last lease ends, or ended.
    lease_end: Moment,
    /// Until when the record is kept, if there is one.
    record_end: Option<Moment>,
    /// The record marks the value as stale.
    marked: bool,
    /// When the value expires, if it does.
    deadline: Option<UnixMs>,
    /// Another client has written the value: the record does not count and has to be removed.
    void: bool,
    /// The lease came with its slot from another cluster node: it counts, but its token is not good.
    moved: bool,
    /// Its number in the queue of changed values while it is there.
    changed: Option<u64>,
    _interest: Option<Interesting>,
}

impl Known {
    /// Nothing is known yet.
    fn new(name: &[u8], interest: &Rc<Interest>) -> Self {
        let _interest = Some(interest.in_name(name));
        Self { name: name.into(), _interest, ..Self::default() }
    }

    /// The record is gone.
    fn forget_record(&mut self) {
        self.record_end = None;
        self.marked = false;
        self.void = false;
        self.moved = false;
    }

    /// A record was written, or read. The module's own writes come here too, so it counts.
    fn record(&mut self, record: Recorded) {
        if self.tokens.are_spent() {
            self.tokens = Tokens::of_record(record.token);
        }
        self.take(record);
    }

    /// The record of a lease was read that another cluster node gave out. The tokens known here are
    /// older.
    fn move_here(&mut self, record: Recorded) {
        self.tokens = Tokens::of_record(record.token);
        self.take(record);
        self.moved = true;
    }

    fn take(&mut self, record: Recorded) {
        self.record_end = Some(record.end);
        self.marked = record.marked;
        self.deadline = record.deadline;
        self.void = false;
        self.moved = false;
    }

    /// A lease was given out that ends at `end`, and recorded. Returns whether it follows a lease that
    /// ended by its time.
    fn lend(&mut self, token: Token, end: Moment, now: Moment) -> bool {
        let previous = self.tokens.newest();
        let follows = self.tokens.is_newest(previous) && self.lease_end < now;
        self.tokens.give(token, now);
        self.lease_end = end;
        follows
    }

    /// The value was changed by another client or by the server, now, which is `unix` on the wall clock.
    /// Returns whether the timer has to check its record.
    fn change(&mut self, change: Change, unix: UnixMs, now: Moment) -> bool {
        match change {
            Change::Deadline(deadline) => {
                self.deadline = deadline;
                self.marked
            }
            Change::Evicted => self.marked,
            // An expiry before the deadline was a deletion: some servers report it so.
            Change::Expired if self.deadline.is_some_and(|end| end <= unix) => self.marked,
            Change::Expired | Change::Written => {
                self.tokens.end_all();
                if self.record_end.is_none_or(|end| end < now) {
                    self.forget_record();
                } else {
                    self.void = true;
                }
                self.void
            }
        }
    }

    /// Whether the value can be stored with a token.
    fn is_good(&self, token: Token, now: Moment, late: Millis) -> bool {
        self.tokens.given(token).is_some() && now <= self.lease_end + late
    }

    /// When its last lease and its record end.
    fn end(&self) -> Moment {
        self.lease_end.max(self.record_end.unwrap_or_default())
    }

    /// Whether it can be forgotten.
    fn is_spent(&self) -> bool {
        self.tokens.are_spent() && self.record_end.is_none()
    }

    /// Roughly the bytes of memory that it takes. Tree nodes are not full.
    fn cost(&self) -> usize {
        const NODES: usize = (size_of::<(u64, Known)>() + size_of::<(Moment, u64)>()) * 3 / 2;
        const ALLOCATIONS: usize = 48;
        NODES + ALLOCATIONS + self.name.len() + self.tokens.size()
    }
}

/// How far a record with this token counts. `begun` is the time from which this process has seen every
/// write, in µs since the Unix epoch, as tokens are.
fn knowledge(
    known: Option<&Known>,
    token: Token,
    begun: Token,
    now: Moment,
    late: Millis,
) -> Knowledge {
    let newest = known.map_or(0, |known| known.tokens.newest());
    match known {
        Some(known) if known.void && token <= newest => Knowledge::Void,
        Some(known) if !known.void && known.moved && token == newest => Knowledge::Known,
        Some(known) if token == newest && known.is_good(token, now, late) => Knowledge::Known,
        _ if token > newest && token > begun => Knowledge::Newer,
        _ => Knowledge::Unknown,
    }
}
