//! The leases of a consumer group that this process knows, the oldest first. Nothing here depends
//! on a server.
//!
//! A remembered lease is a hint: the caller asks the server before acting on it. A sweep finds the
//! leases that are not remembered, such as those that a plain client took.

use super::id::EntryId;
use crate::time::{Millis, Moment, UnixMs};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How many leases of one stream and group are remembered. The sweep finds the others.
const REMEMBERED: usize = 1 << 20;

/// Stands for the start of a lease without a consumer: another client gave the entry back to the
/// group with `XNACK`. Such a lease has expired, whatever the policy says.
pub const RELEASED: UnixMs = UnixMs(0);

/// The leases of one stream in one group.
#[derive(Default)]
pub struct Leases {
    /// First deliveries: times and ids both rise. A lease that ends leaves a gap. The gaps are
    /// removed once they outnumber the leases.
    rising: VecDeque<(EntryId, Option<UnixMs>)>,
    live: usize,
    /// The other leases: renewed ones, and those that a sweep found.
    since: HashMap<EntryId, UnixMs>,
    others: BTreeSet<(UnixMs, EntryId)>,
}

impl Leases {
    /// Remembers a lease that begins or is renewed.
    pub fn begin(&mut self, id: EntryId, now: UnixMs) {
        // The last one is never a gap.
        let is_next = |(last, since): &(EntryId, Option<UnixMs>)| *last < id && *since <= Some(now);
        let rises = self.rising.back().is_none_or(is_next);
        // An id that follows all of `rising` can only be known among the others.
        if !rises || !self.since.is_empty() {
            self.end(id);
        }
        if self.len() >= REMEMBERED {
            return;
        }
        // Ending the former lease may have changed the last one.
        if rises || self.rising.back().is_none_or(is_next) {
            self.rising.push_back((id, Some(now)));
            self.live += 1;
        } else {
            self.since.insert(id, now);
            self.others.insert((now, id));
        }
    }

    /// Forgets a lease that has ended.
    pub fn end(&mut self, id: EntryId) {
        // Mostly there are no others, and then no hash is needed.
        if !self.since.is_empty()
            && let Some(since) = self.since.remove(&id)
        {
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
        // Tasks are mostly finished in the order in which they were delivered.
        if self.rising.front().is_some_and(|(first, _)| *first == id) {
            return Some(0);
        }
        self.rising.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// How many leases are known.
    pub fn len(&self) -> usize {
        self.live + self.others.len()
    }

    /// Whether a lease is known.
    pub fn knows(&self, id: EntryId) -> bool {
        let in_order = self.place(id).and_then(|index| self.rising.get(index));
        self.since.contains_key(&id) || in_order.is_some_and(|(_, since)| since.is_some())
    }

    /// The oldest lease, and when it began.
    pub fn oldest(&self) -> Option<(UnixMs, EntryId)> {
        // The front is never a gap.
        let rising = self.rising.front().and_then(|(id, since)| Some(((*since)?, *id)));
        match self.others.first() {
            None => rising,
            Some(other) => Some(rising.map_or(*other, |rising| rising.min(*other))),
        }
    }
}

/// A walk through all leases of a group, page by page. The first walk hurries: after a restart or a
/// failover no lease is known. The later ones look for leases that plain clients took, and pause
/// between pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    due: Moment,
    hurries: bool,
    /// Whether the last walk read nothing, because leases did not expire.
    was_idle: bool,
}

/// A walk that is due and pauses between pages.
impl Default for Sweep {
    fn default() -> Self {
        Self { due: Moment::default(), hurries: false, was_idle: false }
    }
}

impl Sweep {
    /// The first walk, which is due immediately.
    pub fn first() -> Self {
        Self { due: Moment::default(), hurries: true, was_idle: false }
    }

    /// When the next page is due. `lease` is the one of the policy.
    pub fn due(&self, lease: Option<Millis>) -> Moment {
        if self.was_idle && lease.is_some() { Moment::default() } else { self.due }
    }

    /// Whether the pages follow each other without a pause.
    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// Records that a page was read and more follow.
    pub fn page_read(&mut self, now: Moment) {
        const PAUSE: Millis = Millis(100);
        self.due = if self.hurries { now } else { now + PAUSE };
    }

    /// Records the end of a walk, or that none is needed. `lease` is the one of the policy.
    pub fn finished(&mut self, now: Moment, lease: Option<Millis>) {
        const SELDOM: Millis = Millis(600_000);
        let pause = lease.map_or(SELDOM, |lease| lease.clamp(Millis(1_000), Millis(60_000)));
        self.due = now + pause;
        self.hurries = false;
        self.was_idle = lease.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(ms: i64) -> Moment {
        Moment::default() + Millis(ms)
    }

    fn id(n: u8) -> EntryId {
        EntryId::parse(format!("{n}-0").as_bytes()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Compares the leases with a map from id to time.
        #[test]
        fn the_oldest_lease_is_always_known(
            steps in prop::collection::vec((any::<bool>(), any::<u8>(), -1..3i64), 1..400),
        ) {
            let (mut leases, mut model) = (Leases::default(), BTreeMap::new());
            let (mut now, mut next) = (1_000, 0u8);
            for (begins, n, passed) in steps {
                now += passed;
                let touched = if begins {
                    // Most leases begin in the order of their ids.
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

        /// The first walk reads a page with each call. Each later walk starts one lease after the
        /// former one, but at least a second and at most a minute, and pauses between pages.
        #[test]
        fn each_page_is_read_again_in_time_and_not_too_often(
            lease in prop_oneof![1..3_000i64, 3_000..150_000i64],
            often in 1..20i64,
            pages in 1..20usize,
        ) {
            let every = (lease / often).max(50);
            let pause = lease.clamp(1_000, 60_000);
            let (mut sweep, mut read) = (Sweep::first(), Vec::new());
            for now in (0..10_000i64).map(|call| call * every) {
                if sweep.due(Some(Millis(lease))) > at(now) {
                    continue;
                }
                prop_assert_eq!(sweep.hurries(), read.len() < pages);
                read.push(now);
                if read.len() % pages > 0 {
                    sweep.page_read(at(now));
                } else {
                    sweep.finished(at(now), Some(Millis(lease)));
                }
                if read.len() == 3 * pages {
                    break;
                }
            }
            prop_assert_eq!(read.len(), 3 * pages);
            for (index, times) in read.windows(2).enumerate() {
                let wait = match index + 1 {
                    next if next % pages == 0 => pause,
                    next if next < pages => every,
                    _ => 100,
                };
                prop_assert!((wait..wait + every).contains(&(times[1] - times[0])));
            }
        }
    }

    #[test]
    fn finished_leases_leave_no_memory_behind() {
        let mut leases = Leases::default();
        for n in 0..1_000_000u64 {
            leases.begin(EntryId::parse(format!("{n}-0").as_bytes()).unwrap(), UnixMs(n as i64));
            // The first one stays leased, so that the others leave gaps behind it.
            if n > 50 {
                leases.end(EntryId::parse(format!("{}-0", n - 50).as_bytes()).unwrap());
            }
        }
        assert_eq!(leases.live, 51);
        assert!(leases.rising.capacity() < 1_000, "{}", leases.rising.capacity());
    }

    #[test]
    fn without_a_lease_sweeps_are_rare_until_the_policy_sets_one() {
        let lease = Some(Millis(30_000));
        let mut sweep = Sweep::first();
        assert_eq!(sweep.due(None), at(0));
        sweep.finished(at(5), None);
        assert!(!sweep.hurries());
        assert_eq!(sweep.due(None), at(600_005));
        // The policy may change without a notice, by CONFIG SET.
        assert_eq!(sweep.due(lease), at(0));
        sweep.finished(at(7), lease);
        assert_eq!((sweep.due(lease), sweep.due(None)), (at(30_007), at(30_007)));
    }

    #[test]
    fn no_more_leases_are_remembered_than_the_bound() {
        let mut leases = Leases::default();
        let id = |n| EntryId::delayed(UnixMs(n), 0);
        (0..REMEMBERED as i64 + 10).for_each(|n| leases.begin(id(n), UnixMs(n)));
        assert_eq!(leases.len(), REMEMBERED);
        leases.end(id(7));
        leases.begin(id(3), UnixMs(1 << 40));
        leases.begin(id(1 << 30), UnixMs(1 << 41));
        leases.begin(id(1 << 31), UnixMs(1 << 42));
        assert_eq!(leases.len(), REMEMBERED);
        assert!(leases.knows(id(3)) && leases.knows(id(1 << 30)) && !leases.knows(id(1 << 31)));
    }
}
