//! What happened to each lock, for LOCK.INFO and the totals: in memory, for the locks that were
//! used last.

use super::{EXPIRED, HOLD_MS};
use crate::server::MainThread;
use crate::stats::Recent;
use crate::time::Moment;
use std::cell::{LazyCell, RefCell};

/// The counters of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Grants.
    pub acquired: u64,
    /// Requests that were not granted at once.
    pub contended: u64,
    /// Waits that ended without a grant because their time ran out.
    pub timeouts: u64,
    /// Leases that ended without a release.
    pub expired: u64,
    /// Time from request to grant of those that waited.
    pub wait_ms_sum: u64,
    /// The longest of them.
    pub wait_ms_max: u64,
    /// Time from grant to release.
    pub hold_ms_sum: u64,
    /// The longest of them.
    pub hold_ms_max: u64,
    /// Who was granted it, by a hash of the identifier, and when; as many as fit.
    holders: Vec<(u64, Moment)>,
}

/// How many holders of a lock are remembered.
const HOLDERS: usize = 64;

static RECORDS: MainThread<LazyCell<RefCell<Recent<Record>>>> =
    MainThread::new(LazyCell::new(RefCell::default));

fn with(db: i32, key: &[u8], change: impl FnOnce(&mut Record)) {
    if let Some(record) = RECORDS.get().borrow_mut().of_mut(db, key) {
        change(record);
    }
}

fn hash(identifier: &[u8]) -> u64 {
    RECORDS.get().borrow().hash(identifier)
}

/// A grant.
pub struct Grant<'a> {
    /// To whom.
    pub identifier: &'a [u8],
    /// When.
    pub now: Moment,
    /// How long it waited in line, in ms, if it did.
    pub waited: Option<u64>,
    /// Nobody held the lock: whoever is still remembered as a holder let its lease end.
    pub was_free: bool,
}

/// Counts a grant.
pub fn granted(db: i32, key: &[u8], grant: &Grant<'_>) {
    let identifier = hash(grant.identifier);
    with(db, key, |record| {
        if grant.was_free {
            record.expired += record.holders.len() as u64;
            EXPIRED.add(record.holders.len() as u64);
            record.holders.clear();
        } else {
            record.holders.retain(|(holder, _)| *holder != identifier);
        }
        record.acquired += 1;
        if let Some(ms) = grant.waited {
            record.wait_ms_sum += ms;
            record.wait_ms_max = record.wait_ms_max.max(ms);
        }
        if record.holders.len() < HOLDERS {
            record.holders.push((identifier, grant.now));
        }
    });
}

/// A release.
pub fn released(db: i32, key: &[u8], identifier: &[u8], now: Moment) {
    let identifier = hash(identifier);
    with(db, key, |record| {
        let position = record.holders.iter().position(|(holder, _)| *holder == identifier);
        if let Some(position) = position {
            let (_, since) = record.holders.swap_remove(position);
            let held = now.since(since).0 as u64;
            record.hold_ms_sum += held;
            record.hold_ms_max = record.hold_ms_max.max(held);
            HOLD_MS.add(held);
        }
    });
}

/// A request that was not granted at once.
pub fn contended(db: i32, key: &[u8]) {
    with(db, key, |record| record.contended += 1);
}

/// A wait that ended without a grant.
pub fn timed_out(db: i32, key: &[u8]) {
    with(db, key, |record| record.timeouts += 1);
}

/// What is known of a lock.
pub fn of(db: i32, key: &[u8]) -> Record {
    RECORDS.get().borrow().of(db, key).cloned().unwrap_or_default()
}

/// Forgets everything.
pub fn forget() {
    RECORDS.get().take();
}
