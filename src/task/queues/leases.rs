//! What is remembered of leases, and of the walk that finds unknown ones.

use super::Queues;
use crate::task::id::{EntryId, Priority};
use crate::task::known::{Group, Position};
use crate::task::leases::RELEASED;
use crate::time::{Millis, Moment, UnixMs};

impl Queues {
    /// The oldest lease of a group: since when, which entry, and in which stream.
    pub fn oldest_lease(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
    ) -> Option<(UnixMs, EntryId, Priority)> {
        self.with_group(db, queue, group, |group| group.oldest()).flatten()
    }

    /// Leases have begun, or were renewed.
    pub fn leased(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        priority: Priority,
        ids: &[EntryId],
        now: UnixMs,
    ) {
        let default_lease = self.default_lease.get();
        self.with(db, queue, |known| {
            // Without a lease no delivery ever expires. If that changes, the sweep finds them.
            let ends = known.policy.is_none_or(|policy| policy.lease(default_lease).is_some());
            let Some(group) = known.group_mut(group) else { return };
            if ends {
                group.begin(priority, ids, now)
            } else {
                group.end(priority, ids.iter().copied())
            }
        });
    }

    /// Leases have ended.
    pub fn lease_ended(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        priority: Priority,
        ids: impl IntoIterator<Item = EntryId>,
    ) {
        self.with_group(db, queue, group, |group| group.end(priority, ids));
    }

    /// Whether the next page of the walk is due.
    pub fn is_sweep_due(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        lease: Option<Millis>,
        now: Moment,
    ) -> bool {
        self.with_group(db, queue, group, |group| group.sweep.due(lease) <= now) == Some(true)
    }

    /// Where the walk is. `None` if the group is not served here.
    pub fn sweep_position(&self, db: i32, queue: &[u8], group: &[u8]) -> Option<Option<Position>> {
        self.with_group(db, queue, group, |group| group.position)
    }

    /// The walk has found leases: ids, and since when; [`RELEASED`] if another client has returned the
    /// entry to the group. With `all` every unknown lease counts, otherwise only released ones.
    pub fn found_leases(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        priority: Priority,
        leases: &[(EntryId, UnixMs)],
        all: bool,
    ) {
        self.with_group(db, queue, group, |group| {
            for (id, since) in leases {
                if *since == RELEASED || (all && !group.knows(priority, *id)) {
                    group.begin(priority, &[*id], *since);
                }
            }
        });
    }

    /// The walk has read a page. `next` is where it goes on; `None` if it has finished.
    pub fn page_read(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        next: Option<Position>,
        lease: Option<Millis>,
        now: Moment,
    ) {
        self.with_group(db, queue, group, |group| {
            group.position = next;
            match next {
                Some(_) => group.sweep.page_read(now),
                None => group.sweep.finished(now, lease),
            }
        });
    }

    /// Begins the walk again.
    pub fn restart_sweep(&self, db: i32, queue: &[u8], group: &[u8]) {
        self.with_group(db, queue, group, Group::restart_sweep);
    }

    /// Continues a first walk, or begins a new one. Returns whether it was continued.
    pub fn hurry_sweep(&self, db: i32, queue: &[u8], group: &[u8]) -> bool {
        let continues = self.with_group(db, queue, group, |group| {
            let continues = group.sweep.hurries() && group.position.is_some();
            if !continues {
                group.restart_sweep();
            }
            continues
        });
        continues == Some(true)
    }

    /// Whether released entries are to be looked for with a higher effort, which is then due again
    /// after `every`.
    pub fn is_release_due(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        now: Moment,
        every: Millis,
    ) -> bool {
        let due = self.with_group(db, queue, group, |group| {
            let due = group.release_due.is_some_and(|due| due <= now);
            if due {
                group.release_due = Some(now + every);
            }
            due
        });
        due == Some(true)
    }

    /// The number of consumers in the group's stream that has most, if it is known.
    pub fn consumers(&self, db: i32, queue: &[u8], group: &[u8]) -> Option<i64> {
        self.with_group(db, queue, group, |group| group.consumers).flatten()
    }

    /// Remembers that number.
    pub fn set_consumers(&self, db: i32, queue: &[u8], group: &[u8], consumers: i64) {
        self.with_group(db, queue, group, |group| group.consumers = Some(consumers));
    }

    /// Whether idle consumers are to be looked for, which is then due again after `every`.
    pub fn is_tidy_due(
        &self,
        db: i32,
        queue: &[u8],
        group: &[u8],
        now: Moment,
        every: Millis,
    ) -> bool {
        let due = self.with_group(db, queue, group, |group| {
            let due = group.tidy_due <= now;
            if due {
                (group.tidy_due, group.consumers) = (now + every, None);
            }
            due
        });
        due == Some(true)
    }
}
