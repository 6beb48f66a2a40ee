//! The rules, model-checked: arbitrary sequences of requests and events on one queue that is kept
//! in memory, against a plain description of what may become of each of its tasks.

use super::super::id::EntryId;
use super::super::leases::{Leases, RELEASED, Sweep};
use super::*;
use crate::time::{Moment, UnixMs};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

/// A group, and a consumer, by number.
type Group = usize;
type Consumer = u8;

/// What a task is for one group, by where it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Delayed,
    Ready,
    Leased,
    Dead,
    Done,
}

/// An entry of a stream, a delayed task or a dead letter.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The number of its task, which is its payload as well.
    task: usize,
    retry_count: i64,
    original: Option<EntryId>,
    group: Option<Group>,
    /// The number of the addition to a stream by which it came.
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    consumer: Consumer,
    since: UnixMs,
    deliveries: i64,
}

/// A consumer group in one stream.
#[derive(Default)]
struct Reader {
    last: EntryId,
    pending: BTreeMap<EntryId, Lease>,
}

#[derive(Default)]
struct Stream {
    entries: BTreeMap<EntryId, Entry>,
    last: Option<EntryId>,
    groups: BTreeMap<Group, Reader>,
}

impl Stream {
    /// What the entry is for this group; done if it is for another one.
    fn state(&self, group: Group, id: EntryId, entry: &Entry) -> State {
        let reader = self.groups.get(&group);
        if entry.group.is_some_and(|only| only != group) {
            State::Done
        } else if reader.is_none_or(|reader| id > reader.last) {
            State::Ready
        } else if reader.is_some_and(|reader| reader.pending.contains_key(&id)) {
            State::Leased
        } else {
            State::Done
        }
    }

    fn unread(&self, group: Group) -> impl Iterator<Item = &Entry> {
        let ready =
            move |(id, entry): &(&EntryId, &Entry)| self.state(group, **id, entry) == State::Ready;
        self.entries.iter().filter(ready).map(|(_, entry)| entry)
    }
}

/// What the process remembers of a group, as in `memory`.
struct Remembered {
    unread: BTreeSet<Priority>,
    leases: BTreeMap<Priority, Leases>,
    sweep: Sweep,
    seen: Option<(Priority, Option<EntryId>)>,
    /// The same leases, plainly.
    known: BTreeMap<(Priority, EntryId), UnixMs>,
}

impl Remembered {
    fn oldest(&self) -> Option<(UnixMs, EntryId, Priority)> {
        let oldest = |(priority, leases): (&Priority, &Leases)| {
            leases.oldest().map(|(since, id)| (since, id, *priority))
        };
        self.leases.iter().filter_map(oldest).min()
    }
}

/// What the process remembers of the queue, until it starts anew.
struct Memory {
    streams: BTreeSet<Priority>,
    due: Option<UnixMs>,
    groups: BTreeMap<Group, Remembered>,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    lease: Option<Millis>,
    tries: Option<i64>,
    backoff: Backoff,
    limit: Option<usize>,
    keep: bool,
    paused: bool,
}

/// What must be true of a task for one group, whatever the streams say.
#[derive(Clone, Copy, Debug)]
struct Told {
    done: bool,
    /// How often it was tried, as far as that counts.
    tried: i64,
    /// Whether TRIES holds for the next delivery: not for the first one, whatever its publisher has
    /// told of earlier tries, nor for the one after SILENT, which did not count.
    counted: bool,
    priority: Priority,
}

struct Published {
    id: EntryId,
    told: Vec<Told>,
}

/// What one pass did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Entered(Priority, UnixMs, EntryId),
    Settled,
    Again(UnixMs, EntryId, Priority),
    Buried(UnixMs, EntryId, Priority),
    New(Priority, u64),
    Skipped,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    lease: Option<i64>,
    tries: Option<i64>,
    backoff: (i64, i64),
    limit: Option<usize>,
    keep: bool,
    paused: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        many: usize,
        priority: u64,
        retry_count: i64,
        delay: i64,
    },
    Consume {
        group: Group,
        consumer: Consumer,
        count: usize,
    },
    Ack {
        group: Group,
        nth: usize,
        many: usize,
    },
    Extend {
        group: Group,
        nth: usize,
        /// If it is not the one that has it.
        by: Option<Consumer>,
    },
    Nack {
        group: Group,
        nth: usize,
        by: Option<Consumer>,
        failure: Failure,
        delay: Option<i64>,
        random: u64,
    },
    Retry {
        group: Group,
        nth: usize,
        most: i64,
    },
    Cancel {
        nth: usize,
    },
    CancelDelayed {
        nth: usize,
    },
    Redrive {
        count: usize,
    },
    Policy(Change),
    /// CONFIG SET, of which nothing here is told.
    Setting {
        lease: Option<i64>,
    },
    Pass {
        ms: i64,
    },
    /// The process starts anew, or another one is promoted.
    Restart,
    SecondGroup,
    /// XADD by a plain client.
    PlainAdd {
        priority: u64,
    },
    /// XREADGROUP by a plain client.
    PlainRead {
        group: Group,
        priority: u64,
        count: usize,
    },
    /// XCLAIM by a plain client.
    PlainClaim {
        group: Group,
        nth: usize,
        consumer: Consumer,
    },
    /// XNACK by a plain client.
    PlainNack {
        group: Group,
        nth: usize,
        failure: Failure,
    },
    /// XACK by a plain client.
    PlainAck {
        group: Group,
        nth: usize,
    },
    /// XDEL by a plain client.
    PlainDelete {
        nth: usize,
    },
}

/// A change of state that a step may bring, for one group and one task or for all of them.
struct May(Option<Group>, Option<usize>, State, State);

struct World {
    now: UnixMs,
    moment: Moment,
    last_us: i64,
    added: u64,
    streams: BTreeMap<Priority, Stream>,
    delayed: BTreeMap<(UnixMs, EntryId), (Priority, Entry)>,
    dead: VecDeque<(Priority, Entry)>,
    policy: Policy,
    /// The greatest TRIES so far.
    tries: Option<i64>,
    /// Whether finished entries were ever kept.
    kept: bool,
    /// Entries in a page of the sweep.
    page: usize,
    memory: Option<Memory>,
    groups: usize,
    tasks: Vec<Published>,
    /// Where each task was for each group before this step.
    states: Vec<Vec<State>>,
}

impl World {
    fn new(groups: usize, page: usize) -> Self {
        let mut world = Self {
            now: UnixMs(1_000_000),
            moment: Moment(1_000_000),
            last_us: 0,
            added: 0,
            streams: BTreeMap::from([(Priority::LOWEST, Stream::default())]),
            delayed: BTreeMap::new(),
            dead: VecDeque::new(),
            policy: Policy {
                lease: Some(Millis(2_000)),
                tries: Some(4),
                backoff: Backoff { base: Millis(100), max: Millis(5_000) },
                limit: None,
                keep: false,
                paused: false,
            },
            tries: Some(4),
            kept: false,
            page,
            memory: None,
            groups,
            tasks: Vec::new(),
            states: Vec::new(),
        };
        for group in 0..groups {
            world.queue().groups.insert(group, Reader::default());
        }
        world
    }

    fn queue(&mut self) -> &mut Stream {
        self.streams.get_mut(&Priority::LOWEST).unwrap()
    }

    fn stream(&mut self, priority: Priority) -> &mut Stream {
        self.streams.entry(priority).or_default()
    }

    /// Time passes, or somebody sets the server's clock back.
    fn pass(&mut self, ms: i64) {
        self.now = self.at(ms);
        self.moment = self.moment.after(Millis(ms.max(0)));
    }

    fn at(&self, span: i64) -> UnixMs {
        UnixMs(self.now.0 + span)
    }

    // What the server and `store` do.

    /// An entry comes to the tail of a stream with this id, or the next one.
    fn add(&mut self, priority: Priority, id: Option<EntryId>, mut entry: Entry) -> EntryId {
        entry.order = self.added;
        self.added += 1;
        let now = self.now;
        let stream = self.stream(priority);
        let id = id.or_else(|| EntryId::next(priority, stream.last, now)).unwrap();
        assert!(Some(id) > stream.last);
        stream.last = Some(id);
        stream.entries.insert(id, entry);
        if priority > Priority::LOWEST
            && let Some(memory) = &mut self.memory
        {
            memory.streams.insert(priority);
            for group in memory.groups.values_mut() {
                group.unread.insert(priority);
            }
        }
        id
    }

    fn delay(&mut self, priority: Priority, entry: Entry, due: UnixMs) -> EntryId {
        let id = loop {
            self.last_us = (self.now.0 * 1_000).max(self.last_us + 1);
            let id = EntryId::delayed(due, self.last_us);
            // After a restart it may be one that was given before.
            if !self.delayed.contains_key(&(due, id)) {
                break id;
            }
        };
        self.delayed.insert((due, id), (priority, entry));
        if let Some(memory) = &mut self.memory {
            memory.due = Some(memory.due.map_or(due, |known| known.min(due)));
        }
        id
    }

    fn is_only(&self, priority: Priority, group: Group) -> bool {
        let only =
            |priority| self.streams.get(priority).is_some_and(|s| s.groups.keys().eq([&group]));
        [Priority::LOWEST, priority].iter().all(only)
    }

    /// The entry is acknowledged for the group, and deleted if every group is past it. Whether it
    /// was pending.
    fn finish(&mut self, priority: Priority, group: Group, id: EntryId) -> bool {
        let reader = self.stream(priority).groups.get_mut(&group);
        if reader.is_none_or(|reader| reader.pending.remove(&id).is_none()) {
            return false;
        }
        self.ended(group, priority, id);
        let stream = &self.streams[&priority];
        let is_past = |group: &Group| {
            stream.groups.get(group).is_some_and(|r| id <= r.last && !r.pending.contains_key(&id))
        };
        let all_past = || self.streams[&Priority::LOWEST].groups.keys().all(is_past);
        if !self.policy.keep && (self.is_only(priority, group) || all_past()) {
            self.stream(priority).entries.remove(&id);
        }
        true
    }

    /// What the copy of an entry carries.
    fn copy(&self, priority: Priority, group: Group, id: EntryId, retry_count: i64) -> Entry {
        let entry = self.streams[&priority].entries[&id];
        let only = if self.is_only(priority, group) { None } else { Some(group) };
        Entry {
            retry_count,
            original: entry.original.or(Some(id)),
            group: entry.group.or(only),
            ..entry
        }
    }

    fn bury(&mut self, priority: Priority, group: Group, id: EntryId, retry_count: i64) {
        let copy = self.copy(priority, group, id, retry_count);
        self.dead.push_back((priority, copy));
        assert!(self.finish(priority, group, id));
    }

    /// An entry whose id points elsewhere comes again with another one.
    fn place_anew(&mut self, priority: Priority, group: Group, id: EntryId) {
        let copy = self.copy(priority, group, id, self.streams[&priority].entries[&id].retry_count);
        self.add(priority, None, copy);
        assert!(self.finish(priority, group, id));
    }

    /// XREADGROUP.
    fn read(
        &mut self,
        priority: Priority,
        group: Group,
        consumer: Consumer,
        most: usize,
    ) -> Vec<(EntryId, Entry)> {
        let since = self.now;
        let Some(stream) = self.streams.get_mut(&priority) else { return Vec::new() };
        let reader = stream.groups.entry(group).or_default();
        let behind = (std::ops::Bound::Excluded(reader.last), std::ops::Bound::Unbounded);
        let found: Vec<_> =
            stream.entries.range(behind).take(most).map(|(id, entry)| (*id, *entry)).collect();
        for (id, _) in &found {
            reader.last = *id;
            reader.pending.insert(*id, Lease { consumer, since, deliveries: 1 });
        }
        found
    }

    /// A task was given to somebody, as this entry for the time that `deliveries` says.
    fn delivered(&mut self, group: Group, entry: &Entry, deliveries: i64) {
        let told = &mut self.tasks[entry.task].told[group];
        // Once it counts as failed for good (XNACK FATAL), the entry counts as one attempt, also
        // when the count was lowered (XNACK SILENT) and then raised to the greatest number again.
        told.tried = match deliveries {
            i64::MAX => entry.retry_count.saturating_add(1),
            _ => told.tried.saturating_add(1),
        };
        told.counted = true;
    }

    // What `memory` and `sweep` do.

    fn remembered(&mut self, group: Group) -> Option<&mut Remembered> {
        self.memory.as_mut()?.groups.get_mut(&group)
    }

    fn learn(&mut self, group: Group) {
        let streams: BTreeSet<_> =
            self.streams.keys().copied().filter(|priority| *priority > Priority::LOWEST).collect();
        let due = self.delayed.keys().next().map(|(due, _)| *due);
        let memory =
            self.memory.get_or_insert_with(|| Memory { streams, due, groups: BTreeMap::new() });
        let unread = memory.streams.clone();
        memory.groups.entry(group).or_insert_with(|| Remembered {
            unread,
            leases: BTreeMap::new(),
            sweep: Sweep::first(),
            seen: None,
            known: BTreeMap::new(),
        });
    }

    fn begun(&mut self, group: Group, priority: Priority, id: EntryId, since: UnixMs) {
        if let Some(group) = self.remembered(group) {
            group.leases.entry(priority).or_default().begin(id, since);
            group.known.insert((priority, id), since);
        }
    }

    fn ended(&mut self, group: Group, priority: Priority, id: EntryId) {
        if let Some(group) = self.remembered(group) {
            if let Some(leases) = group.leases.get_mut(&priority) {
                leases.end(id);
            }
            group.known.remove(&(priority, id));
        }
    }

    /// One page of the walk, if it is due; how many of its entries nobody has, and whether it was
    /// the last.
    fn sweep(&mut self, name: Group, searches: bool) -> (usize, bool) {
        let Self { now, moment, page, memory, streams, policy, .. } = self;
        let memory = memory.as_mut().unwrap();
        let group = memory.groups.get_mut(&name).unwrap();
        if group.sweep.due(policy.lease) > *moment && !searches {
            return (0, true);
        }
        let walks = policy.lease.is_some() || group.seen.is_some() || searches;
        let mut next = group.seen.or(Some((Priority::LOWEST, None)));
        let (mut found, mut released) = (0, 0);
        while walks
            && found < *page
            && let Some((priority, last)) = next
        {
            let pending = streams.get(&priority).and_then(|stream| stream.groups.get(&name));
            let leases: Vec<_> = pending
                .into_iter()
                .flat_map(|reader| &reader.pending)
                .filter(|(id, _)| last.is_none_or(|last| **id > last))
                .take(*page)
                .map(|(id, lease)| (*id, lease.since))
                .collect();
            found += leases.len();
            next = match leases.last() {
                Some((last, _)) if leases.len() >= *page => Some((priority, Some(*last))),
                _ => memory.streams.iter().find(|p| **p > priority).map(|next| (*next, None)),
            };
            let known = group.leases.entry(priority).or_default();
            for (id, since) in leases {
                assert_eq!(known.knows(id), group.known.contains_key(&(priority, id)));
                released += usize::from(since == RELEASED);
                if since == RELEASED || (policy.lease.is_some() && !known.knows(id)) {
                    let since = since.min(*now);
                    known.begin(id, since);
                    group.known.insert((priority, id), since);
                }
            }
        }
        let finished = next.is_none() || !walks;
        group.seen = next.filter(|_| !finished);
        if finished {
            group.sweep.finished(*moment, policy.lease);
        } else {
            group.sweep.page_read(*moment);
        }
        (released, finished)
    }

    /// What other clients have given back.
    fn released(&self, group: Group) -> usize {
        let readers = self.streams.values().filter_map(|stream| stream.groups.get(&group));
        let pending = readers.flat_map(|reader| reader.pending.values());
        pending.filter(|lease| lease.since == RELEASED).count()
    }

    fn find_released(&mut self, name: Group) {
        let number = self.released(name);
        if number == 0 {
            return;
        }
        let begin = |group: &mut Remembered| (group.sweep, group.seen) = (Sweep::first(), None);
        let group = self.remembered(name).unwrap();
        let goes_on = group.sweep.hurries() && group.seen.is_some();
        if !goes_on {
            begin(group);
        }
        let (mut is_whole, mut left) = (!goes_on, number);
        loop {
            let (found, finished) = self.sweep(name, true);
            left = left.saturating_sub(found);
            if left == 0 || (finished && is_whole) {
                break;
            }
            if finished {
                begin(self.remembered(name).unwrap());
                (is_whole, left) = (true, number);
            }
        }
    }

    // What the commands do.

    fn size(&self) -> usize {
        self.streams.values().map(|stream| stream.entries.len()).sum::<usize>() + self.delayed.len()
    }

    fn published(&mut self, id: EntryId, priority: Priority, retry_count: i64) {
        let told = Told { done: false, tried: retry_count, counted: false, priority };
        self.tasks.push(Published { id, told: vec![told; self.groups] });
    }

    fn publish(&mut self, priority: Priority, retry_count: i64, delay: i64) {
        if self.policy.limit.is_some_and(|limit| self.size() >= limit) {
            return;
        }
        let task = self.tasks.len();
        let entry = Entry { task, retry_count, original: None, group: None, order: 0 };
        let id = if delay > 0 {
            self.delay(priority, entry, self.at(delay))
        } else {
            self.add(priority, None, entry)
        };
        self.published(id, priority, retry_count);
    }

    /// CONSUME without BLOCK: one pass.
    fn consume(&mut self, group: Group, consumer: Consumer, count: usize) -> Passed {
        self.learn(group);
        if self.policy.paused {
            return Passed::default();
        }
        self.sweep(group, false);
        self.find_released(group);
        let over = self.known_as_it_is_and_over(group);
        let tries = self.policy.tries;
        let mut desk = InMemory { world: self, group, consumer, events: Vec::new() };
        let Ok(passed) = pass(&mut desk, count, tries);
        let events = desk.events;
        self.check_pass(group, count, passed, &events, &over);
        passed
    }

    /// The `nth` lease of a group of which the entry is there, and where its id points.
    fn leased(&self, group: Group, nth: usize) -> Option<(Priority, EntryId, Lease, Entry)> {
        let found = |lease: &(Priority, EntryId, Lease, Entry)| !is_misplaced(lease.0, lease.1);
        let leases: Vec<_> = self
            .streams
            .iter()
            .flat_map(|(priority, stream)| {
                let reader = stream.groups.get(&group);
                reader.into_iter().flat_map(|reader| &reader.pending).filter_map(|(id, lease)| {
                    Some((*priority, *id, *lease, *stream.entries.get(id)?))
                })
            })
            .filter(found)
            .collect();
        leases.get(nth % leases.len().max(1)).copied()
    }

    /// The same, if this consumer has it.
    fn leased_to(
        &self,
        consumer: Option<Consumer>,
        group: Group,
        nth: usize,
    ) -> Option<(Priority, EntryId, Lease, Entry)> {
        let lease = self.leased(group, nth).filter(|(.., lease, _)| lease.since != RELEASED)?;
        consumer.is_none_or(|consumer| consumer == lease.2.consumer).then_some(lease)
    }

    /// The `nth` entry of all streams.
    fn entry(&self, nth: usize) -> Option<(Priority, EntryId, Entry)> {
        let number: usize = self.streams.values().map(|stream| stream.entries.len()).sum();
        let mut entries = self.streams.iter().flat_map(|(priority, stream)| {
            stream.entries.iter().map(|(id, entry)| (*priority, *id, *entry))
        });
        entries.nth(nth % number.max(1))
    }

    fn nack(
        &mut self,
        group: Group,
        (priority, id, lease, entry): (Priority, EntryId, Lease, Entry),
        failure: Failure,
        delay: Option<i64>,
        random: u64,
    ) -> May {
        let tried = Tried { before: entry.retry_count, deliveries: lease.deliveries };
        let Policy { tries, backoff, .. } = self.policy;
        let told = &mut self.tasks[entry.task].told[group];
        assert_eq!(tried.in_all(), told.tried);
        let fate = give_back(failure, tried, tries, backoff, delay.map(Millis), random);
        let may = |to| May(Some(group), Some(entry.task), State::Leased, to);
        match fate {
            Fate::Again(retry_count, wait) => {
                assert_ne!(failure, Failure::Fatal);
                if failure == Failure::Silent {
                    // It has not been tried.
                    told.tried -= 1;
                    told.counted = false;
                    assert_eq!(wait.0, delay.unwrap_or(0));
                } else {
                    assert!(tries.is_none_or(|tries| told.tried < tries), "tried too often");
                    let wanted = delay.map_or(0..=backoff.max.0, |delay| delay..=delay);
                    assert!(wanted.contains(&wait.0));
                }
                assert_eq!(retry_count, told.tried);
                let copy = self.copy(priority, group, id, retry_count);
                let to = if wait > Millis(0) {
                    self.delay(priority, copy, self.at(wait.0));
                    State::Delayed
                } else {
                    self.add(priority, None, copy);
                    State::Ready
                };
                assert!(self.finish(priority, group, id));
                may(to)
            }
            Fate::Dead(retry_count) => {
                let enough = tried.is_fatal() || tries.is_some_and(|tries| told.tried >= tries);
                assert!(failure == Failure::Fatal || (failure == Failure::Fail && enough));
                assert_eq!(retry_count, told.tried);
                self.bury(priority, group, id, retry_count);
                may(State::Dead)
            }
        }
    }

    fn redrive(&mut self, count: usize) {
        for _ in 0..count.min(self.dead.len()) {
            let Some((priority, entry)) = self.dead.pop_front() else { break };
            for (group, told) in self.tasks[entry.task].told.iter_mut().enumerate() {
                if entry.group.is_none_or(|only| only == group) {
                    (told.tried, told.counted) = (0, false);
                }
            }
            self.add(priority, None, Entry { retry_count: 0, ..entry });
        }
    }

    /// The entry is deleted: nobody gets its task any more.
    fn delete(&mut self, priority: Priority, id: EntryId) {
        let stream = self.streams.get_mut(&priority).unwrap();
        let entry = stream.entries.remove(&id).unwrap();
        for (group, told) in self.tasks[entry.task].told.iter_mut().enumerate() {
            told.done |= stream.state(group, id, &entry) != State::Done;
        }
    }

    fn change_policy(&mut self, change: Change) {
        let (base, max) = change.backoff;
        self.policy = Policy {
            lease: change.lease.map(Millis),
            tries: change.tries,
            backoff: Backoff { base: Millis(base), max: Millis(base + max) },
            limit: change.limit.filter(|_| !change.keep),
            keep: change.keep,
            paused: change.paused,
        };
        self.tries = self.tries.zip(change.tries).map(|(a, b)| a.max(b));
        self.kept |= change.keep;
        if let Some(memory) = &mut self.memory {
            for group in memory.groups.values_mut() {
                (group.sweep, group.seen) = (Sweep::first(), None);
            }
        }
    }

    /// A second group begins at the beginning of each stream.
    fn second_group(&mut self) {
        self.groups = 2;
        self.queue().groups.insert(1, Reader::default());
        let found = self.found().pop().unwrap();
        for (found, task) in found.into_iter().zip(&mut self.tasks) {
            let (done, first) = (found.is_none(), task.told[0]);
            let (_, tried, priority) = found.unwrap_or((State::Done, 0, first.priority));
            task.told.push(Told { done, tried, counted: false, priority });
        }
    }

    /// Takes a step. What it may have changed, beside adding tasks.
    fn step(&mut self, step: Step) {
        let may = self.take(step.clone());
        let after = self.check();
        for (group, (before, after)) in self.states.iter().zip(&after).enumerate() {
            for (task, (from, to)) in before.iter().zip(after).enumerate() {
                let allows = |may: &May| {
                    may.0.is_none_or(|only| only == group)
                        && may.1.is_none_or(|only| only == task)
                        && (may.2, may.3) == (*from, *to)
                };
                assert!(
                    from == to || may.iter().any(allows),
                    "{step:?} took task {task} from {from:?} to {to:?} for group {group}"
                );
            }
        }
        self.states = after;
    }

    fn take(&mut self, step: Step) -> Vec<May> {
        use State::{Dead, Delayed, Done, Leased, Ready};
        match step {
            Step::Publish { many, priority, retry_count, delay } => {
                for n in 0..many {
                    // Bulks are due one by one, the last first.
                    let delay = if delay > 0 { delay + (many - n) as i64 / 2 } else { 0 };
                    self.publish(Priority::new(priority).unwrap(), retry_count, delay);
                }
                Vec::new()
            }
            Step::Consume { group, consumer, count } => {
                let group = group % self.groups;
                self.consume(group, consumer, count);
                if self.policy.paused {
                    return Vec::new();
                }
                let mine = |from, to| May(Some(group), None, from, to);
                vec![
                    May(None, None, Delayed, Ready),
                    mine(Delayed, Leased),
                    mine(Ready, Leased),
                    mine(Leased, Dead),
                    // One that a plain client had, with an id that pointed elsewhere.
                    mine(Leased, Ready),
                ]
            }
            Step::Ack { group, nth, many } => {
                let group = group % self.groups;
                let mut may = Vec::new();
                for _ in 0..many {
                    let Some((priority, id, _, entry)) = self.leased(group, nth) else { break };
                    assert!(self.finish(priority, group, id));
                    assert!(!self.finish(priority, group, id), "acknowledged twice");
                    self.tasks[entry.task].told[group].done = true;
                    may.push(May(Some(group), Some(entry.task), Leased, Done));
                }
                may
            }
            Step::Extend { group, nth, by } => {
                let (group, now) = (group % self.groups, self.now);
                if let Some((priority, id, ..)) = self.leased_to(by, group, nth) {
                    let reader = self.stream(priority).groups.get_mut(&group).unwrap();
                    reader.pending.get_mut(&id).unwrap().since = now;
                    self.begun(group, priority, id, now);
                }
                Vec::new()
            }
            Step::Nack { group, nth, by, failure, delay, random } => {
                let group = group % self.groups;
                match self.leased_to(by, group, nth) {
                    Some(lease) => vec![self.nack(group, lease, failure, delay, random)],
                    None => Vec::new(),
                }
            }
            Step::Retry { group, nth, most } => {
                let group = group % self.groups;
                let Some((priority, id, _, entry)) = self.leased(group, nth) else {
                    return Vec::new();
                };
                let again = entry.retry_count < most;
                let retry_count = entry.retry_count + i64::from(again);
                let copy = self.copy(priority, group, id, retry_count);
                // Here the caller counts.
                let told = &mut self.tasks[entry.task].told[group];
                (told.tried, told.counted) = (retry_count, false);
                if again {
                    self.add(priority, None, copy);
                } else {
                    // Such a dead letter tells nothing of its priority.
                    told.priority = Priority::LOWEST;
                    self.dead.push_back((Priority::LOWEST, copy));
                }
                assert!(self.finish(priority, group, id));
                vec![May(Some(group), Some(entry.task), Leased, if again { Ready } else { Dead })]
            }
            Step::Cancel { nth } => {
                let Some((priority, id, entry)) = self.entry(nth) else { return Vec::new() };
                let stream = &self.streams[&priority];
                let mut readers = (0..self.groups).map(|group| stream.groups.get(&group));
                let unread = readers.any(|reader| reader.is_none_or(|reader| id > reader.last));
                let is_leased = |reader: &Reader| reader.pending.contains_key(&id);
                if unread && !is_misplaced(priority, id) && !stream.groups.values().any(is_leased) {
                    self.delete(priority, id);
                }
                vec![May(None, Some(entry.task), Ready, Done)]
            }
            Step::CancelDelayed { nth } => {
                let key = self.delayed.keys().nth(nth % self.delayed.len().max(1)).copied();
                let Some((_, entry)) = key.and_then(|key| self.delayed.remove(&key)) else {
                    return Vec::new();
                };
                for (group, told) in self.tasks[entry.task].told.iter_mut().enumerate() {
                    told.done |= entry.group.is_none_or(|only| only == group);
                }
                vec![May(entry.group, Some(entry.task), Delayed, Done)]
            }
            Step::Redrive { count } => {
                self.redrive(count);
                vec![May(None, None, Dead, Ready)]
            }
            Step::Policy(change) => {
                self.change_policy(change);
                Vec::new()
            }
            Step::Setting { lease } => {
                self.policy.lease = lease.map(Millis);
                Vec::new()
            }
            Step::Pass { ms } => {
                self.pass(ms);
                Vec::new()
            }
            Step::Restart => {
                self.memory = None;
                self.last_us = 0;
                Vec::new()
            }
            Step::SecondGroup => {
                // With finished entries it would begin with those.
                if self.groups == 1 && !self.kept {
                    self.second_group();
                }
                Vec::new()
            }
            Step::PlainAdd { priority } => {
                let priority = Priority::new(priority).unwrap();
                let task = self.tasks.len();
                let entry = Entry { task, retry_count: 0, original: None, group: None, order: 0 };
                let last = self.stream(priority).last;
                // As the server numbers: with the next id of this ms, or the first of the next one.
                let last_here = last.filter(|last| last.ms() >= self.now.0.unsigned_abs());
                let class = last_here.and_then(EntryId::priority).unwrap_or_default();
                let id = self.add(priority, EntryId::next(class, last, self.now), entry);
                self.published(id, priority, 0);
                Vec::new()
            }
            Step::PlainRead { group, priority, count } => {
                let (group, priority) = (group % self.groups, Priority::new(priority).unwrap());
                let stream = self.stream(priority);
                let unread = stream.unread(group).count();
                let others = |entry: &Entry| entry.group.is_some_and(|only| only != group);
                // Plain clients do not know that they must skip.
                if stream.entries.values().any(others) {
                    return Vec::new();
                }
                let found = self.read(priority, group, 9, count);
                assert_eq!(found.len(), count.min(unread));
                found.iter().for_each(|(_, entry)| self.delivered(group, entry, 1));
                vec![May(Some(group), None, Ready, Leased)]
            }
            Step::PlainClaim { group, nth, consumer } => {
                let (group, since) = (group % self.groups, self.now);
                if let Some((priority, id, lease, entry)) = self.leased(group, nth) {
                    let reader = self.stream(priority).groups.get_mut(&group).unwrap();
                    let deliveries = lease.deliveries.saturating_add(1);
                    reader.pending.insert(id, Lease { consumer, since, deliveries });
                    // One that can never succeed counts no deliveries any more.
                    if lease.deliveries < i64::MAX {
                        self.delivered(group, &entry, deliveries);
                    }
                }
                Vec::new()
            }
            Step::PlainNack { group, nth, failure } => {
                let group = group % self.groups;
                if let Some((priority, id, lease, entry)) = self.leased(group, nth) {
                    let told = &mut self.tasks[entry.task].told[group];
                    let deliveries = match failure {
                        Failure::Silent if lease.deliveries < i64::MAX => {
                            told.tried -= i64::from(lease.deliveries > 0);
                            told.counted = false;
                            (lease.deliveries - 1).max(0)
                        }
                        Failure::Silent => {
                            // The server counts down from the number that stood for no count.
                            told.tried = entry.retry_count.saturating_add(i64::MAX - 1);
                            i64::MAX - 1
                        }
                        Failure::Fail => lease.deliveries,
                        Failure::Fatal => {
                            told.tried = entry.retry_count + 1;
                            i64::MAX
                        }
                    };
                    let reader = self.stream(priority).groups.get_mut(&group).unwrap();
                    let lease = Lease { consumer: Consumer::MAX, since: RELEASED, deliveries };
                    reader.pending.insert(id, lease);
                }
                Vec::new()
            }
            Step::PlainAck { group, nth } => {
                let group = group % self.groups;
                let Some((priority, id, _, entry)) = self.leased(group, nth) else {
                    return Vec::new();
                };
                self.stream(priority).groups.get_mut(&group).unwrap().pending.remove(&id);
                self.tasks[entry.task].told[group].done = true;
                vec![May(Some(group), Some(entry.task), Leased, Done)]
            }
            Step::PlainDelete { nth } => {
                let Some((priority, id, entry)) = self.entry(nth) else { return Vec::new() };
                self.delete(priority, id);
                let may = |from| May(None, Some(entry.task), from, Done);
                vec![may(Ready), may(Leased)]
            }
        }
    }

    // What must be true.

    fn is_over(&self, since: UnixMs) -> bool {
        let lease = self.policy.lease;
        since == RELEASED || lease.is_some_and(|lease| since.0 + lease.0 <= self.now.0)
    }

    /// The leases of a group that are known for what they are, and over, the oldest first.
    fn known_as_it_is_and_over(&self, group: Group) -> Vec<(UnixMs, EntryId, Priority)> {
        let known = &self.memory.as_ref().unwrap().groups[&group].known;
        let mut over = Vec::new();
        for (priority, stream) in &self.streams {
            let pending = stream.groups.get(&group).into_iter().flat_map(|group| &group.pending);
            over.extend(pending.filter_map(|(id, pending)| {
                let is_known = known.get(&(*priority, *id)) == Some(&pending.since);
                let is_over = self.is_over(pending.since);
                let is_there = stream.entries.contains_key(id) && !is_misplaced(*priority, *id);
                (is_known && is_over && is_there).then_some((pending.since, *id, *priority))
            }));
        }
        over.sort();
        over
    }

    fn check_pass(
        &self,
        group: Group,
        count: usize,
        passed: Passed,
        events: &[Event],
        over: &[(UnixMs, EntryId, Priority)],
    ) {
        let bound = count.clamp(MOVES, MOST_MOVES);
        let in_vain = count.clamp(IN_VAIN, MOST_MOVES);
        let number = |wanted: fn(&Event) -> bool| events.iter().filter(|e| wanted(e)).count();
        let entered = number(|event| matches!(event, Event::Entered(..)));
        let again = number(|event| matches!(event, Event::Again(..)));
        let settled = number(|event| matches!(event, Event::Settled | Event::Buried(..)));
        let new = number(|event| matches!(event, Event::New(..)));
        let skipped = number(|event| matches!(event, Event::Skipped));

        // It told what it did, and did no more than it may.
        assert_eq!(passed.delivered, again + new);
        assert_eq!(passed.moved, entered + settled + again + skipped);
        assert!(passed.delivered <= count);
        assert!(settled <= in_vain);
        // A batch is read as a whole: only the last one can be too long.
        assert!(skipped < in_vain + bound);
        // A batch is full, and nil means nothing, unless a good deal was moved in vain.
        let enough = if passed.delivered == 0 { in_vain } else { bound };
        let spent = settled.max(skipped) >= enough || entered >= count.clamp(ENTRIES, MOST_MOVES);
        assert!(!passed.more || passed.delivered == count || spent);

        // Whatever else was done between them, the consumer got what was given before it got what
        // is new.
        let got = events.iter().filter(|event| matches!(event, Event::Again(..) | Event::New(..)));
        assert!(got.is_sorted_by_key(|event| matches!(event, Event::New(..))));

        // What is due enters in the order in which it is due, each priority by itself.
        for priority in Priority::ALL {
            let due = events.iter().filter_map(|event| match event {
                Event::Entered(its, due, id) if *its == priority => Some((*due, *id)),
                _ => None,
            });
            assert!(due.is_sorted());
        }
        let is_due = |(key, _): &(&(UnixMs, EntryId), _)| key.0 <= self.now;
        let mut due = self.delayed.iter().filter(is_due);
        let above_zero = due.clone().any(|(_, (priority, _))| *priority > Priority::LOWEST);
        assert!(count == 0 || !above_zero, "a task of a higher priority was left behind");
        assert!(passed.more || due.next().is_none(), "a task that is due was left");

        // Leases that are over, the oldest first, before what is new.
        let given = events.iter().filter_map(|event| match event {
            Event::Again(since, id, priority) | Event::Buried(since, id, priority) => {
                Some((*since, *id, *priority))
            }
            _ => None,
        });
        let known: BTreeSet<_> = over.iter().copied().collect();
        let given: Vec<_> = given.filter(|lease| known.contains(lease)).collect();
        assert_eq!(over.get(..given.len()), Some(given.as_slice()), "not the oldest first");
        let known = self.memory.as_ref().unwrap().groups[&group].known.values().min();
        let left = known.is_some_and(|since| self.is_over(*since));
        assert!(again == count || settled >= bound || !left, "a lease that is over was left");

        // What is new by its priority, and within one in the order in which it was added.
        let news: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::New(priority, order) => Some((*priority, *order)),
                _ => None,
            })
            .collect();
        assert!(news.is_sorted_by(|(a, first), (b, next)| a > b || (a == b && first < next)));
        let unread = |priority: Priority| self.streams.get(&priority).map(|s| s.unread(group));
        if let Some((priority, order)) = news.last().copied() {
            let above = |next: &Priority| *next > priority;
            for above in Priority::ALL.into_iter().filter(above) {
                assert_eq!(unread(above).into_iter().flatten().count(), 0, "{above:?} comes first");
            }
            assert!(unread(priority).into_iter().flatten().all(|next| next.order > order));
        }

        // Whoever was told that there is no more has not been lied to.
        if passed.delivered < count && !passed.more {
            assert!(!left && self.released(group) == 0);
            for priority in Priority::ALL {
                assert_eq!(unread(priority).into_iter().flatten().count(), 0, "{priority:?}");
            }
        }
    }

    /// Where each task is for each group, how often it was tried and with which priority; `None`
    /// where it is done.
    fn found(&self) -> Vec<Vec<Option<(State, i64, Priority)>>> {
        let mut found = vec![vec![None; self.tasks.len()]; self.groups];
        let mut put = |group: Group, entry: &Entry, state, tried, priority| {
            let place: &mut Option<_> = &mut found[group][entry.task];
            assert_eq!(*place, None, "task {} is twice there for group {group}", entry.task);
            *place = Some((state, tried, priority));
        };
        let is_for = |entry: &Entry, group| entry.group.is_none_or(|only| only == group);
        for group in 0..self.groups {
            for (priority, stream) in &self.streams {
                for (id, entry) in &stream.entries {
                    let state = stream.state(group, *id, entry);
                    let lease = stream.groups.get(&group).and_then(|group| group.pending.get(id));
                    let deliveries = lease.map_or(0, |lease| lease.deliveries);
                    let tried = Tried { before: entry.retry_count, deliveries }.in_all();
                    if state != State::Done {
                        put(group, entry, state, tried, *priority);
                    }
                }
            }
            for (priority, entry) in self.delayed.values().filter(|(_, e)| is_for(e, group)) {
                put(group, entry, State::Delayed, entry.retry_count, *priority);
            }
            for (priority, entry) in self.dead.iter().filter(|(_, e)| is_for(e, group)) {
                put(group, entry, State::Dead, entry.retry_count, *priority);
            }
        }
        found
    }

    /// Every task is in one place for each group, and nothing that is remembered misleads.
    fn check(&self) -> Vec<Vec<State>> {
        let found = self.found();
        // It tells truly what it has been through.
        for (group, found) in found.iter().enumerate() {
            for (task, (found, published)) in found.iter().zip(&self.tasks).enumerate() {
                let told = published.told[group];
                assert_eq!(found.is_none(), told.done, "task {task} for group {group}");
                if let Some((_, tried, priority)) = found {
                    assert_eq!((*tried, *priority), (told.tried, told.priority), "task {task}");
                }
            }
        }
        let original = |entry: &Entry, id| {
            assert_eq!(entry.original.or(id), Some(self.tasks[entry.task].id), "{entry:?}");
        };
        for stream in self.streams.values() {
            stream.entries.iter().for_each(|(id, entry)| original(entry, Some(*id)));
        }
        self.delayed.iter().for_each(|((_, id), (_, entry))| original(entry, Some(*id)));
        self.dead.iter().for_each(|(_, entry)| original(entry, None));

        // What is remembered hides nothing.
        if let Some(memory) = &self.memory {
            self.check_memory(memory);
        }
        let state = |found: &Option<(State, _, _)>| found.map_or(State::Done, |(state, ..)| state);
        found.iter().map(|found| found.iter().map(state).collect()).collect()
    }

    fn check_memory(&self, memory: &Memory) {
        let due = self.delayed.keys().next().map(|(due, _)| *due);
        assert!(due.is_none_or(|due| memory.due.is_some_and(|known| known <= due)));
        for (name, group) in &memory.groups {
            let oldest = group.known.iter().map(|((p, id), since)| (*since, *id, *p)).min();
            assert_eq!(group.oldest(), oldest);
            for (priority, stream) in self.streams.iter().skip(1) {
                let unread = stream.unread(*name).next().is_some();
                assert!(
                    !unread || group.unread.contains(priority),
                    "{priority:?} is not looked at"
                );
            }
        }
    }

    /// Left alone with a consumer of each group that acknowledges everything, the queue comes to an
    /// end: whatever was published is done, or a dead letter.
    fn drain(&mut self, count: usize) {
        self.policy.paused = false;
        self.policy.lease = Some(Millis(1_000_000));
        // Everything is due, and every lease over.
        self.pass(10_000_000);
        for group in 0..self.groups {
            self.serve(group, count);
            // A plain client may have leased something behind the walk.
            self.pass(61_000);
            self.serve(group, count);
            let mut readers = self.streams.values().filter_map(|stream| stream.groups.get(&group));
            assert!(readers.all(|reader| reader.pending.is_empty()), "a lease was forgotten");
        }
        let states = self.check();
        let mut states = states.iter().flatten();
        assert!(states.all(|state| matches!(state, State::Dead | State::Done)));
        assert!(self.delayed.is_empty());
    }

    /// Calls until there is nothing more to get, and all that is leased was looked at.
    fn serve(&mut self, group: Group, count: usize) {
        let work = self.added as usize + self.delayed.len();
        for _ in 0..100 + 3 * work {
            let passed = self.consume(group, 0, count);
            for priority in Priority::ALL {
                let Some(stream) = self.streams.get(&priority) else { continue };
                let pending = stream.groups.get(&group).into_iter().flat_map(|r| &r.pending);
                let given = pending.filter(|(_, lease)| lease.since == self.now);
                let given: Vec<_> = given.map(|(id, _)| (*id, stream.entries[id].task)).collect();
                for (id, task) in given {
                    assert!(self.finish(priority, group, id));
                    self.tasks[task].told[group].done = true;
                }
            }
            let (now, lease) = (self.moment, self.policy.lease);
            let Remembered { sweep, seen, .. } = self.remembered(group).unwrap();
            let swept = seen.is_none() && sweep.due(lease) > now;
            if swept && !passed.more && passed.delivered == 0 {
                return;
            }
            self.pass(100);
        }
        panic!("no end to it");
    }
}

/// Whether an id tells of another stream than the one in which it is.
fn is_misplaced(priority: Priority, id: EntryId) -> bool {
    priority > Priority::LOWEST && id.priority() != Some(priority)
}

/// The queue as one consumer sees it, in memory.
struct InMemory<'w> {
    world: &'w mut World,
    group: Group,
    consumer: Consumer,
    events: Vec<Event>,
}

struct Over {
    priority: Priority,
    id: EntryId,
    lease: Lease,
    entry: Entry,
}

impl Desk for InMemory<'_> {
    type Error = Infallible;
    type Lease = Over;

    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Infallible> {
        assert!(0 < least && least <= most);
        let world = &mut *self.world;
        let memory = world.memory.as_mut().unwrap();
        if memory.due.is_none_or(|due| due > world.now) {
            return Ok(Entered::default());
        }
        let now = world.now;
        let due = world.delayed.iter().take_while(|(key, _)| key.0 <= now);
        let (others, above_zero): (Vec<_>, Vec<_>) =
            due.partition(|(_, (priority, _))| *priority == Priority::LOWEST);
        let enter = above_zero.into_iter().chain(others.into_iter().take(most));
        let keys: Vec<_> = enter.map(|(key, _)| *key).collect();
        for key in &keys {
            let (priority, entry) = world.delayed.remove(key).unwrap();
            let original = entry.original.or(Some(key.1));
            world.add(priority, None, Entry { original, ..entry });
            self.events.push(Event::Entered(priority, key.0, key.1));
        }
        let next = world.delayed.keys().next().map(|(due, _)| *due);
        let memory = world.memory.as_mut().unwrap();
        memory.due = next;
        let more = next.is_some_and(|due| due <= now);
        Ok(Entered { number: keys.len(), more, spent: false })
    }

    fn oldest(&mut self) -> Result<Oldest<Over>, Infallible> {
        let (world, group) = (&mut *self.world, self.group);
        let Some((since, id, priority)) = world.remembered(group).unwrap().oldest() else {
            return Ok(Oldest::Lasts);
        };
        if !world.is_over(since) {
            return Ok(Oldest::Lasts);
        }
        let stream = &world.streams[&priority];
        let pending = stream.groups.get(&group).and_then(|group| group.pending.get(&id)).copied();
        let entry = stream.entries.get(&id).copied();
        let Some(pending) = pending else {
            world.ended(group, priority, id);
            self.events.push(Event::Settled);
            return Ok(Oldest::Settled);
        };
        if !world.is_over(pending.since) {
            let since = pending.since.min(world.now);
            world.begun(group, priority, id, since);
            self.events.push(Event::Settled);
            return Ok(Oldest::Settled);
        }
        let Some(entry) = entry else {
            assert!(world.finish(priority, group, id));
            self.events.push(Event::Settled);
            return Ok(Oldest::Settled);
        };
        if is_misplaced(priority, id) {
            // What plain clients tried before it came here does not count.
            world.tasks[entry.task].told[group].tried = entry.retry_count;
            world.place_anew(priority, group, id);
            self.events.push(Event::Settled);
            return Ok(Oldest::Settled);
        }
        let tried = Tried { before: entry.retry_count, deliveries: pending.deliveries };
        Ok(Oldest::Over(Over { priority, id, lease: pending, entry }, tried))
    }

    fn reclaim(&mut self, over: Over) -> Result<(), Infallible> {
        let Over { priority, id, lease, entry } = over;
        let (world, group, consumer) = (&mut *self.world, self.group, self.consumer);
        let told = world.tasks[entry.task].told[group];
        assert!(world.policy.tries.is_none_or(|tries| told.tried < tries), "tried too often");
        let lease_began = lease.since;
        let since = world.now;
        let deliveries = lease.deliveries + 1;
        let reader = world.stream(priority).groups.get_mut(&group).unwrap();
        reader.pending.insert(id, Lease { consumer, since, deliveries });
        world.begun(group, priority, id, since);
        world.delivered(group, &entry, deliveries);
        self.events.push(Event::Again(lease_began, id, priority));
        Ok(())
    }

    fn bury(&mut self, over: Over) -> Result<(), Infallible> {
        let Over { priority, id, lease, entry } = over;
        let told = self.world.tasks[entry.task].told[self.group];
        let tried = Tried { before: entry.retry_count, deliveries: lease.deliveries };
        let enough = self.world.policy.tries.is_some_and(|tries| told.tried >= tries);
        assert!(enough || tried.is_fatal(), "buried alive");
        self.world.bury(priority, self.group, id, tried.in_all());
        self.events.push(Event::Buried(lease.since, id, priority));
        Ok(())
    }

    fn may_hold(&self, priority: Priority) -> bool {
        let group = &self.world.memory.as_ref().unwrap().groups[&self.group];
        priority == Priority::LOWEST || group.unread.contains(&priority)
    }

    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Infallible> {
        let (world, group) = (&mut *self.world, self.group);
        assert!(most > 0);
        let found = world.read(priority, group, self.consumer, most);
        let mut batch = Batch::default();
        for (id, entry) in &found {
            let is_mine = entry.group.is_none_or(|only| only == group);
            if is_mine && !is_misplaced(priority, *id) {
                let told = world.tasks[entry.task].told[group];
                let limit = world.tries.filter(|_| told.counted);
                assert!(limit.is_none_or(|tries| told.tried < tries), "tried too often");
                world.begun(group, priority, *id, world.now);
                world.delivered(group, entry, 1);
                self.events.push(Event::New(priority, entry.order));
                batch.delivered += 1;
                continue;
            }
            if is_mine {
                world.place_anew(priority, group, *id);
            } else {
                assert!(world.finish(priority, group, *id));
            }
            self.events.push(Event::Skipped);
            batch.skipped += 1;
        }
        if found.len() < most && batch.skipped == 0 {
            world.remembered(group).unwrap().unread.remove(&priority);
        }
        Ok(batch)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (group, nth, consumer) = (0..2usize, any::<usize>(), 0..3u8);
    let many = || prop_oneof![30 => 1..5usize, 1 => 100..300usize];
    let priority = || prop_oneof![2 => Just(0u64), 1 => 0..10u64, 1 => 4..6u64];
    let delay = || prop_oneof![3 => Just(0i64), 1 => 1..3_000i64];
    let by = || prop_oneof![4 => Just(None), 1 => (0..3u8).prop_map(Some)];
    let failure = || {
        prop_oneof![
            Just(Failure::Silent),
            Just(Failure::Fail),
            Just(Failure::Fail),
            Just(Failure::Fatal)
        ]
    };
    let sometimes = || prop_oneof![4 => Just(false), 1 => Just(true)];
    let lease = || prop_oneof![1 => Just(None), 6 => (1..5_000i64).prop_map(Some)];
    let change = (
        lease(),
        prop_oneof![1 => Just(None), 6 => (1..6i64).prop_map(Some)],
        (0..2_000i64, 0..8_000i64),
        prop::option::of(0..400usize),
        sometimes(),
        sometimes(),
    );
    prop_oneof![
        12 => (many(), priority(), prop_oneof![4 => Just(0i64), 1 => 0..8i64], delay())
            .prop_map(|(many, priority, retry_count, delay)| {
                Step::Publish { many, priority, retry_count, delay }
            }),
        24 => (group.clone(), consumer.clone(), many())
            .prop_map(|(group, consumer, count)| Step::Consume { group, consumer, count }),
        6 => (group.clone(), nth, many())
            .prop_map(|(group, nth, many)| Step::Ack { group, nth, many }),
        2 => (group.clone(), nth, by())
            .prop_map(|(group, nth, by)| Step::Extend { group, nth, by }),
        10 => (group.clone(), nth, by(), failure(), prop::option::of(delay()), any::<u64>())
            .prop_map(|(group, nth, by, failure, delay, random)| {
                Step::Nack { group, nth, by, failure, delay, random }
            }),
        2 => (group.clone(), nth, 0..4i64)
            .prop_map(|(group, nth, most)| Step::Retry { group, nth, most }),
        1 => nth.prop_map(|nth| Step::Cancel { nth }),
        1 => nth.prop_map(|nth| Step::CancelDelayed { nth }),
        2 => many().prop_map(|count| Step::Redrive { count }),
        2 => change.prop_map(|(lease, tries, backoff, limit, keep, paused)| {
            Step::Policy(Change { lease, tries, backoff, limit, keep, paused })
        }),
        1 => lease().prop_map(|lease| Step::Setting { lease }),
        // The clock may be set back a little.
        14 => prop_oneof![1 => -5..0i64, 8 => 0..50i64, 12 => 0..4_000i64, 1 => 0..100_000i64]
            .prop_map(|ms| Step::Pass { ms }),
        2 => Just(Step::Restart),
        1 => Just(Step::SecondGroup),
        2 => priority().prop_map(|priority| Step::PlainAdd { priority }),
        2 => (group.clone(), priority(), many())
            .prop_map(|(group, priority, count)| Step::PlainRead { group, priority, count }),
        2 => (group.clone(), nth, consumer)
            .prop_map(|(group, nth, consumer)| Step::PlainClaim { group, nth, consumer }),
        3 => (group.clone(), nth, failure())
            .prop_map(|(group, nth, failure)| Step::PlainNack { group, nth, failure }),
        1 => (group, nth).prop_map(|(group, nth)| Step::PlainAck { group, nth }),
        1 => nth.prop_map(|nth| Step::PlainDelete { nth }),
    ]
}

/// A queue that has as much of everything as it is told.
#[derive(Clone, Copy, Debug)]
struct Plenty {
    due: usize,
    /// Leases that turn out not to be over, that are over after enough tries, and before.
    settled: usize,
    spent: usize,
    over: usize,
    /// Entries for another group, which come before those for this one.
    others: usize,
    new: usize,
}

impl Desk for Plenty {
    type Error = Infallible;
    type Lease = ();

    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Infallible> {
        assert!(0 < least && least <= most && most <= MOST_MOVES);
        let number = most.min(self.due);
        self.due -= number;
        self.new += number;
        Ok(Entered { number, more: self.due > 0, spent: false })
    }

    fn oldest(&mut self) -> Result<Oldest<()>, Infallible> {
        let tried = |deliveries| Tried { before: 0, deliveries };
        Ok(match self {
            Self { settled: 1.., .. } => {
                self.settled -= 1;
                Oldest::Settled
            }
            Self { spent: 1.., .. } => Oldest::Over((), tried(5)),
            Self { over: 1.., .. } => Oldest::Over((), tried(4)),
            _ => Oldest::Lasts,
        })
    }

    fn reclaim(&mut self, (): ()) -> Result<(), Infallible> {
        self.over -= 1;
        Ok(())
    }

    fn bury(&mut self, (): ()) -> Result<(), Infallible> {
        self.spent -= 1;
        Ok(())
    }

    fn may_hold(&self, priority: Priority) -> bool {
        priority == Priority::LOWEST
    }

    fn read(&mut self, _: Priority, most: usize) -> Result<Batch, Infallible> {
        let skipped = most.min(self.others);
        self.others -= skipped;
        let delivered = self.new.min(most - skipped);
        self.new -= delivered;
        Ok(Batch { delivered, skipped })
    }
}

#[test]
fn a_pass_is_bounded_and_keeps_nothing_back_for_ever_whatever_there_is() {
    const MANY: usize = 1 << 40;
    let amounts = [0, 1, MANY];
    for count in [0, 1, 2, 127, 128, 129, 16_383, 16_384, 16_385, 1 << 20] {
        for n in 0..amounts.len().pow(6) {
            let amount = |place: u32| amounts[n / amounts.len().pow(place) % amounts.len()];
            let before = Plenty {
                due: amount(0),
                settled: amount(1),
                spent: amount(2),
                over: amount(3),
                others: amount(4),
                new: amount(5),
            };
            let mut after = before;
            let Ok(passed) = pass(&mut after, count, Some(5));
            let seen = || format!("{count} of {before:?}: {passed:?}, {after:?}");

            let bound = count.clamp(MOVES, MOST_MOVES);
            let in_vain = count.clamp(IN_VAIN, MOST_MOVES);
            let promoted = before.due - after.due;
            let given_again = before.over - after.over;
            let settled = before.settled - after.settled + before.spent - after.spent;
            let skipped = before.others - after.others;
            assert!(settled <= in_vain, "{}", seen());
            assert!(given_again <= count.min(MOST_MOVES), "{}", seen());
            // The last round is as long as any.
            let most_due = count.clamp(ENTRIES, MOST_MOVES) + MOST_MOVES.min(2 * bound);
            assert!(promoted < most_due, "{}", seen());
            // A batch is read as a whole: only the last one can be too long.
            assert!(skipped < in_vain + bound, "{}", seen());
            let moved = promoted + settled + given_again + skipped;
            assert_eq!(passed.moved, moved, "{}", seen());
            let read = before.new + promoted - after.new;
            assert_eq!(passed.delivered, given_again + read, "{}", seen());
            assert!(passed.delivered <= count, "{}", seen());

            let leases = after.settled + after.spent + after.over;
            if !passed.more && count > 0 {
                assert_eq!(after.due, 0, "{}", seen());
                let all = leases + after.others + after.new;
                assert!(passed.delivered == count || all == 0, "{}", seen());
            }
            // A batch is as full as it can be, unless a good deal was moved in vain.
            let enough = if passed.delivered == 0 { in_vain } else { bound };
            let in_vain = settled.max(skipped) >= enough;
            let full =
                passed.delivered == count || leases + after.due + after.others + after.new == 0;
            assert!(
                full || in_vain || promoted.max(given_again) >= count.min(MOST_MOVES),
                "{}",
                seen()
            );
            // Nothing waits behind any number of something else.
            if count > 0 {
                assert!(promoted > 0 || before.due == 0, "{}", seen());
                assert!(settled + given_again > 0 || leases == 0, "{}", seen());
                assert!(passed.delivered > 0 || skipped > 0 || after.new == 0, "{}", seen());
            }
        }
    }
}

#[test]
fn the_longest_wait_doubles_up_to_its_bound() {
    let backoff = Backoff { base: Millis(1_000), max: Millis(600_000) };
    let longest = |n| (0..=600_000).map(|random| backoff.wait(n, random).0).max();
    for (n, ms) in [(1, 1_000), (2, 2_000), (10, 512_000), (11, 600_000), (i64::MAX, 600_000)] {
        assert_eq!(longest(n), Some(ms), "{n}");
    }
    // Each wait is as likely as the others.
    let waits: BTreeSet<_> = (7..7 + 1_001).map(|random| backoff.wait(1, random)).collect();
    assert_eq!(waits, (0..=1_000).map(Millis).collect());
}

#[test]
fn the_last_try_is_the_one_that_policy_names() {
    let tried = |before, deliveries| Tried { before, deliveries };
    let backoff = Backoff { base: Millis(0), max: Millis(0) };
    let fail = |tried, tries| give_back(Failure::Fail, tried, tries, backoff, None, 0);
    assert_eq!(fail(tried(0, 1), Some(1)), Fate::Dead(1));
    assert_eq!(fail(tried(1, 1), Some(3)), Fate::Again(2, Millis(0)));
    assert_eq!(fail(tried(2, 1), Some(3)), Fate::Dead(3));
    assert_eq!(fail(tried(0, 3), Some(3)), Fate::Dead(3));
    assert_eq!(fail(tried(i64::MAX, 7), None), Fate::Again(i64::MAX, Millis(0)));
    // Another client has said that it can never succeed.
    assert_eq!(fail(tried(2, i64::MAX), None), Fate::Dead(3));
    assert_eq!(fail(tried(i64::MAX, 1), Some(i64::MAX)), Fate::Dead(i64::MAX));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, a task is in one place for each group, and nothing is lost.
    #[test]
    fn every_task_is_in_one_place_until_it_is_done(
        groups in 1..=2usize,
        page in prop_oneof![Just(2usize), Just(7), Just(128)],
        steps in prop::collection::vec(step(), 1..120),
        count in prop_oneof![Just(1usize), Just(3), Just(200)],
    ) {
        let mut world = World::new(groups, page);
        for step in steps {
            world.step(step);
        }
        world.drain(count);
    }

    /// A lease that a plain client took is found in time, and one that this process has forgotten
    /// by as many calls as it has pages.
    #[test]
    fn leases_that_nobody_told_of_are_found(
        lease in prop_oneof![1..3_000i64, 3_000..150_000i64],
        often in 1..20i64,
        began in 0..200_000i64,
        number in 1..100usize,
        page in prop_oneof![Just(7usize), Just(128)],
        priority in 0..10u64,
        restart: bool,
        at_first_without_lease: bool,
    ) {
        let mut world = World::new(1, page);
        world.policy.tries = None;
        world.policy.lease = Some(Millis(lease)).filter(|_| !at_first_without_lease);
        let every = (lease / often).max(50);
        // The walk was anywhere.
        let start = world.now;
        while world.now.0 < start.0 + began {
            world.consume(0, 0, 1);
            world.pass(every);
        }
        let leased = |world: &World, since| {
            let pending = world.streams.values().flat_map(|stream| &stream.groups[&0].pending);
            pending.filter(|(_, lease)| lease.since == since).count()
        };
        world.publish(Priority::new(priority).unwrap(), 0, 0);
        world.consume(0, 0, 1);
        (0..number).for_each(|_| world.publish(Priority::LOWEST, 0, 0));
        let taken = world.now;
        world.read(Priority::LOWEST, 0, 9, number);
        (0..number).for_each(|task| world.tasks[task + 1].told[0].tried += 1);
        world.check();
        assert_eq!(leased(&world, taken), number + 1);
        world.policy.lease = Some(Millis(lease));
        if restart {
            world.memory = None;
        }
        if restart || at_first_without_lease {
            world.pass(lease);
            for _ in 0..=(number + 1).div_ceil(page) {
                world.consume(0, 0, 1_000);
            }
        } else {
            let walk = (2 + number / page) as i64 * (100 + every);
            let found = taken.0 + lease.clamp(1_000, 60_000) + every + walk;
            let end = found.max(taken.0 + lease) + every + walk;
            while world.now.0 < end {
                world.pass(every.min(end - world.now.0));
                world.consume(0, 0, 1_000);
                let known = world.memory.as_ref().unwrap().groups[&0].known.len();
                prop_assert!(known == number + 1 || world.now.0 < found);
            }
        }
        prop_assert_eq!(leased(&world, taken), 0);
    }

    #[test]
    fn no_number_makes_a_wait_too_long(base: i64, max: i64, n: i64, random: u64) {
        for (base, max, n) in [(base, max, n), (base % 5_000, max % 500_000, n % 80)] {
            let backoff = Backoff { base: Millis(base), max: Millis(max) };
            let doublings = n.saturating_sub(1).clamp(0, 62) as u32;
            let longest = (i128::from(base) << doublings).min(max.into()).max(0);
            prop_assert!((0..=longest).contains(&backoff.wait(n, random).0.into()));
            let longest = i64::try_from(longest).unwrap();
            prop_assert_eq!(backoff.wait(n, longest as u64).0, longest);
        }
    }

    #[test]
    fn what_becomes_of_a_task_depends_on_nothing_but_its_failure_and_its_tries(
        before in prop_oneof![any::<i64>(), -3..30i64],
        deliveries in prop_oneof![any::<i64>(), -3..30i64],
        tries in prop::option::of(prop_oneof![any::<i64>(), 0..30i64]),
        base: i64,
        max: i64,
        delay: Option<i64>,
        random: u64,
    ) {
        let tried = Tried { before, deliveries };
        let backoff = Backoff { base: Millis(base), max: Millis(max) };
        let fatal = deliveries == i64::MAX;
        let all = before.saturating_add(if fatal { 1 } else { deliveries });
        let after =
            |failure| give_back(failure, tried, tries, backoff, delay.map(Millis), random);
        let uncounted = all.saturating_sub(1).max(0);
        prop_assert_eq!(
            after(Failure::Silent),
            Fate::Again(uncounted, Millis(delay.unwrap_or(0)))
        );
        prop_assert_eq!(after(Failure::Fatal), Fate::Dead(all));
        let enough = fatal || tries.is_some_and(|tries| all >= tries);
        prop_assert_eq!(tried.is_enough(tries), enough);
        match after(Failure::Fail) {
            Fate::Dead(count) => prop_assert!(enough && count == all),
            Fate::Again(count, wait) => {
                prop_assert!(!enough && count == all);
                match delay {
                    Some(delay) => prop_assert_eq!(wait.0, delay),
                    None => prop_assert_eq!(wait, backoff.wait(all, random)),
                }
            }
        }
    }
}
