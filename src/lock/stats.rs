//! What happened to each lock, for LOCK.INFO and the totals: in memory, for the most recently used
//! locks.

use super::Lock;
use crate::time::Moment;

/// The counters of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Grants.
    pub acquired: u64,
    /// Requests that were not granted at once.
    pub contended: u64,
    /// Waits that timed out.
    pub timeouts: u64,
    /// Leases that ended without a release.
    pub expired: u64,
    /// Time from request to grant of clients that waited, in ms.
    pub wait_ms_sum: u64,
    /// The longest of them.
    pub wait_ms_max: u64,
    /// Time from grant to release, in ms.
    pub hold_ms_sum: u64,
    /// The longest of them.
    pub hold_ms_max: u64,
    holders: Granted,
}

/// A hash of the identifier of each holder, and when it was granted; as many as fit. The only holder of
/// an exclusive lock takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Granted {
    first: Option<(u64, Moment)>,
    others: Vec<(u64, Moment)>,
}

impl Granted {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn clear(&mut self) {
        self.first = None;
        self.others.clear();
    }

    fn add(&mut self, holder: u64, since: Moment) {
        if self.first.is_none() {
            self.first = Some((holder, since));
        } else if self.len() < HOLDERS {
            self.others.push((holder, since));
        }
    }

    /// Removes a holder, and returns since when it has held the lock.
    fn remove(&mut self, holder: u64) -> Option<Moment> {
        if let Some((first, since)) = self.first
            && first == holder
        {
            self.first = self.others.pop();
            return Some(since);
        }
        let position = self.others.iter().position(|(other, _)| *other == holder)?;
        Some(self.others.swap_remove(position).1)
    }
}

/// How many holders of a lock are remembered.
const HOLDERS: usize = 64;

/// A grant.
pub struct Grant<'a> {
    /// The new holder.
    pub identifier: &'a [u8],
    /// When it was granted.
    pub now: Moment,
    /// How long the holder waited in line, in ms, if it did.
    pub waited: Option<u64>,
    /// The lock had no holder: the leases of all remembered holders have ended.
    pub was_free: bool,
}

impl Lock {
    /// Counts a grant.
    pub fn count_grant(&self, db: i32, key: &[u8], grant: &Grant<'_>) {
        let identifier = self.records.hash(grant.identifier);
        self.counters.acquired.add(1);
        self.records.update(db, key, |record| {
            if grant.was_free {
                let expired = record.holders.len() as u64;
                record.expired += expired;
                self.counters.expired.add(expired);
                record.holders.clear();
            } else {
                record.holders.remove(identifier);
            }
            record.acquired += 1;
            if let Some(ms) = grant.waited {
                record.wait_ms_sum += ms;
                record.wait_ms_max = record.wait_ms_max.max(ms);
            }
            record.holders.add(identifier, grant.now);
        });
        if let Some(ms) = grant.waited {
            self.counters.handoffs.add(1);
            self.counters.wait_ms.add(ms);
        }
    }

    /// Counts a release.
    pub fn count_release(&self, db: i32, key: &[u8], identifier: &[u8], now: Moment) {
        self.counters.released.add(1);
        self.count_hold(db, key, identifier, now);
    }

    /// Counts a lease that ended because the connection of the holder closed.
    pub fn count_disconnect(&self, db: i32, key: &[u8], identifier: &[u8], now: Moment) {
        self.counters.disconnected.add(1);
        self.count_hold(db, key, identifier, now);
    }

    fn count_hold(&self, db: i32, key: &[u8], identifier: &[u8], now: Moment) {
        let identifier = self.records.hash(identifier);
        self.records.update(db, key, |record| {
            if let Some(since) = record.holders.remove(identifier) {
                let held = now.since(since).as_u64();
                record.hold_ms_sum += held;
                record.hold_ms_max = record.hold_ms_max.max(held);
                self.counters.hold_ms.add(held);
            }
        });
    }

    /// Counts a request that was not granted at once.
    pub fn count_contended(&self, db: i32, key: &[u8]) {
        self.counters.contended.add(1);
        self.records.update(db, key, |record| record.contended += 1);
    }

    /// Counts a wait that timed out.
    pub fn count_timeout(&self, db: i32, key: &[u8]) {
        self.counters.wait_timeouts.add(1);
        self.records.update(db, key, |record| record.timeouts += 1);
    }
}
