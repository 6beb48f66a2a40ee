//! Which entries of a stream are leased in a group since when, as far as this process knows, the
//! oldest first. Nothing here knows a server.
//!
//! What is remembered is a hint: whoever acts on it asks the server first. A lease that is not known
//! here, such as one that a plain client took, is found by a sweep.

use super::id::EntryId;
use crate::time::{Millis, Moment, UnixMs};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How many leases of one stream and group are remembered. Beyond that the sweep finds them.
const REMEMBERED: usize = 1 << 20;

/// Since when a lease is that nobody has: another client has given the entry back to the group by
/// `XNACK`. It is over, whatever the policy says.
pub const RELEASED: UnixMs = UnixMs(0);

/// The leases of one stream in one group.
#[derive(Default)]
pub struct Leases {
    /// First deliveries: both times and ids rise. One that has ended leaves a gap, and gaps are
    /// closed when they outnumber the leases.
    rising: VecDeque<(EntryId, Option<UnixMs>)>,
    live: usize,
    /// All others: leases that began again, or that were found later.
    since: HashMap<EntryId, UnixMs>,
    others: BTreeSet<(UnixMs, EntryId)>,
}

impl Leases {
    /// A lease begins, or begins again.
    pub fn begin(&mut self, id: EntryId, now: UnixMs) {
        // The last one is never a gap.
        let is_next = |(last, since): &(EntryId, Option<UnixMs>)| *last < id && *since <= Some(now);
        let rises = self.rising.back().is_none_or(is_next);
        // One that comes behind all others is known to these only if it is one of them.
        if !rises || !self.since.is_empty() {
            self.end(id);
        }
        if self.len() >= REMEMBERED {
            return;
        }
        // By its end the last one can have become another.
        if rises || self.rising.back().is_none_or(is_next) {
            self.rising.push_back((id, Some(now)));
            self.live += 1;
        } else {
            self.since.insert(id, now);
            self.others.insert((now, id));
        }
    }

    /// A lease has ended.
    pub fn end(&mut self, id: EntryId) {
        if let Some(since) = self.since.remove(&id) {
            self.others.remove(&(since, id));
            return;
        }
        let Some(since) = self.place(id).and_then(|index| self.rising.get_mut(index)) else {
            return;
        };
        if since.1.take().is_none() {
            return;
        }
        self.live -= 1;
        while self.rising.front().is_some_and(|(_, since)| since.is_none()) {
            self.rising.pop_front();
        }
        while self.rising.back().is_some_and(|(_, since)| since.is_none()) {
            self.rising.pop_back();
        }
        if self.rising.len() > 2 * self.live + 64 {
            self.rising.retain(|(_, since)| since.is_some());
            self.rising.shrink_to(2 * self.live + 64);
        }
    }

    fn place(&self, id: EntryId) -> Option<usize> {
        self.rising.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.live + self.others.len()
    }

    /// Whether a lease is known.
    pub fn knows(&self, id: EntryId) -> bool {
        let in_order = self.place(id).and_then(|index| self.rising.get(index));
        self.since.contains_key(&id) || in_order.is_some_and(|(_, since)| since.is_some())
    }

    /// The oldest lease, and since when it is.
    pub fn oldest(&self) -> Option<(UnixMs, EntryId)> {
        // The front is never a gap.
        let rising = self.rising.front().and_then(|(id, since)| Some(((*since)?, *id)));
        [rising, self.others.first().copied()].into_iter().flatten().min()
    }
}

/// A walk through everything that is leased in a group, page by page. The first one fills what a
/// start, or a promotion, has left unknown, and hurries; those after it look for what plain clients
/// have leased, and take their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    due: Moment,
    hurries: bool,
    /// Whether the last one found nothing because there was no lease.
    was_idle: bool,
}

impl Sweep {
    /// The first one, which is due at once.
    pub fn first() -> Self {
        Self { due: Moment::default(), hurries: true, was_idle: false }
    }

    /// When the next page is due; `lease` is what the policy says.
    pub fn due(&self, lease: Option<Millis>) -> Moment {
        if self.was_idle && lease.is_some() { Moment::default() } else { self.due }
    }

    /// Whether pages follow each other without a pause.
    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// A page was read, and more follow.
    pub fn page_read(&mut self, now: Moment) {
        const PAUSE: Millis = Millis(100);
        self.due = if self.hurries { now } else { now.after(PAUSE) };
    }

    /// All pages were read, or need not be; `lease` is what the policy says.
    pub fn finished(&mut self, now: Moment, lease: Option<Millis>) {
        const SELDOM: Millis = Millis(600_000);
        let pause = lease.map_or(SELDOM, |lease| lease.clamp(Millis(1_000), Millis(60_000)));
        self.due = now.after(pause);
        self.hurries = false;
        self.was_idle = lease.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(n: u8) -> EntryId {
        EntryId::parse(format!("{n}-0").as_bytes()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Against a map from id to time.
        #[test]
        fn the_oldest_lease_is_always_known(
            steps in prop::collection::vec((any::<bool>(), any::<u8>(), -1..3i64), 1..400),
        ) {
            let (mut leases, mut model) = (Leases::default(), BTreeMap::new());
            let (mut now, mut next) = (1_000, 0u8);
            for (begins, n, passed) in steps {
                now += passed;
                let touched = if begins {
                    // Most begin in the order of their ids.
                    next = next.wrapping_add(1);
                    let n = if n % 3 == 0 { n } else { next };
                    leases.begin(id(n), UnixMs(now));
                    model.insert(id(n), UnixMs(now));
                    n
                } else {
                    let oldest = leases.oldest().map(|(_, id)| id);
                    let ended = oldest.filter(|_| n % 2 == 0).unwrap_or(id(n));
                    leases.end(ended);
                    model.remove(&ended);
                    n
                };
                let oldest = model.iter().map(|(id, since)| (*since, *id)).min();
                prop_assert_eq!(leases.oldest(), oldest);
                prop_assert_eq!(leases.live + leases.others.len(), model.len());
                prop_assert!(leases.rising.len() <= 2 * leases.live + 64);
                for n in [touched, touched.wrapping_mul(31)] {
                    prop_assert_eq!(leases.knows(id(n)), model.contains_key(&id(n)));
                }
            }
        }
    }

    #[test]
    fn finished_leases_leave_no_memory_behind() {
        let mut leases = Leases::default();
        for n in 0..1_000_000u64 {
            leases.begin(EntryId::parse(format!("{n}-0").as_bytes()).unwrap(), UnixMs(n as i64));
            if n >= 50 {
                leases.end(EntryId::parse(format!("{}-0", n - 50).as_bytes()).unwrap());
            }
        }
        assert_eq!(leases.live, 50);
        assert!(leases.rising.capacity() < 1_000, "{}", leases.rising.capacity());
    }
}
