//! TASK.CONSUME in the model: due tasks enter the streams, expired leases are reclaimed or
//! dead-lettered, new entries are delivered. The model takes what the server chose where it may
//! choose.

use super::model::*;
use super::snapshot::*;
use super::steps::*;
use super::support::{SOON, Value, args, bulk, eventually, int, now_ms, waiters};
use super::world::World;
use std::collections::BTreeSet;

/// How many due tasks one call moves at least.
pub const PROMOTED: usize = 16;

impl World<'_> {
    #[track_caller]
    pub fn consume(
        &mut self,
        group: Group,
        consumer: u8,
        count: Option<u8>,
        named: bool,
        meta: bool,
    ) {
        let mut args = args!["TASK.CONSUME", group.name(), consumer_name(consumer), QUEUE].to_vec();
        if meta && named {
            args.extend(args!["meta"]);
        }
        match count {
            Some(count) if named => args.extend(args!["Count", u64::from(count)]),
            Some(count) => args.extend(args![u64::from(count)]),
            None => {}
        }
        if meta && !named {
            args.extend(args!["META"]);
        }
        let (reply, span) = self.ask(&args);
        self.consumed(group, consumer, count.unwrap_or(1).into(), false, &reply, meta, span);
    }

    /// A consumer of two queues, of which the other one gets plain entries.
    #[track_caller]
    pub fn consume_both(
        &mut self,
        group: Group,
        consumer: u8,
        count: u8,
        others: u8,
        others_first: bool,
    ) {
        if !self.groups.contains(&group) {
            // With THEN it depends on what is there whether the group is created.
            return self.consume(group, consumer, Some(count), true, true);
        }
        for number in 0..others {
            self.client.cmd(&args!["XADD", OTHER, "*", "payload", u64::from(number)]);
        }
        let queues = if others_first { [OTHER, QUEUE] } else { [QUEUE, OTHER] };
        let (reply, span) = self.ask(&args![
            "TASK.CONSUME",
            group.name(),
            consumer_name(consumer),
            queues[0],
            "COUNT",
            u64::from(count),
            "THEN",
            1,
            queues[1]
        ]);
        let (given, of_other) = by_queue(&reply);
        let (count, others) = (usize::from(count), usize::from(others));
        let room = if others_first { count } else { count - given.items().len() };
        let payloads: Vec<_> = of_other.iter().map(|task| task.items()[1].get("payload")).collect();
        let expected: Vec<_> =
            (0..others.min(room)).map(|number| bulk(number.to_string())).collect();
        assert_eq!(payloads, expected.iter().collect::<Vec<_>>(), "{reply:?}");
        let order: Vec<_> = reply.items().iter().map(|task| task.items()[4].as_str()).collect();
        assert!(order.is_sorted_by_key(|queue| *queue != queues[0]), "{order:?}");
        assert!(!self.client.cmd(&args!["DEL", OTHER]).is_error());
        self.count("delivered", of_other.len());
        let left = if others_first { count - of_other.len() } else { count };
        if left == 0 {
            // The queue was not read.
            assert_eq!(given.items().len(), 0, "{reply:?}");
        } else {
            self.consumed(group, consumer, left, false, &given, true, span);
        }
    }

    /// Takes in the reply of a CONSUME. `all_expired`: all leases of the group had expired.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "the parts of one reply")]
    pub fn consumed(
        &mut self,
        group: Group,
        consumer: u8,
        count: usize,
        all_expired: bool,
        reply: &Value,
        meta: bool,
        span: Span,
    ) {
        let given = Given::read(reply, meta);
        let snapshot = self.look();
        if !self.groups.contains(&group) {
            self.groups.push(group);
            for entry in self.entries.values_mut() {
                entry.states.insert(group, State::Ready);
            }
        }
        if self.policy.paused {
            assert_eq!(given.len(), 0, "{given:?}");
            return;
        }
        let mut letters = self.promote(&snapshot, span);
        let expired = if all_expired { self.leased(group) } else { Vec::new() };
        let (reclaimed, dead) =
            self.reclaim(&snapshot, group, consumer, &expired, count, &given, span);
        letters.extend(dead);
        let new = &given[reclaimed..];
        letters.extend(self.deliver_new(&snapshot, group, consumer, count - reclaimed, new, span));
        self.dead_letter(&snapshot, letters, span);
        self.count("delivered", given.len());
        self.count("reclaimed", reclaimed);
    }

    /// Moves due tasks into the streams, in the order of their times. Returns those that have expired.
    #[track_caller]
    pub fn promote(&mut self, snapshot: &Snapshot, span: Span) -> Vec<Letter> {
        let mut due = Vec::new();
        self.delayed.sort_by(|a, b| (a.due, &a.member).cmp(&(b.due, &b.member)));
        for delayed in std::mem::take(&mut self.delayed) {
            let is_left = snapshot.has_delayed(&delayed.member);
            let must = delayed.due < span.from && due.len() < PROMOTED;
            let may = delayed.due <= span.to && self.delayed.is_empty();
            assert!(!must || !is_left, "due but not moved: {delayed:?}");
            assert!(may || is_left, "moved too early or out of order: {delayed:?}");
            if is_left { self.delayed.push(delayed) } else { due.push(delayed.task) }
        }
        let (mut late, due): (Vec<Task>, Vec<Task>) =
            due.into_iter().partition(|task| self.has_expired(snapshot, task, span));
        self.count("promoted", due.len());
        self.count("expired", late.len());
        self.arrive(snapshot, due, span);
        // Higher priorities are looked at first.
        late.sort_by_key(|task| task.priority == 0);
        let letter = |task: Task| Letter {
            task: Task { end: None, ..task },
            cause: Some((b"expired".to_vec(), 0)),
        };
        late.into_iter().map(letter).collect()
    }

    /// The entries that a group has leased, by the age of the lease.
    pub fn leased(&self, group: Group) -> Vec<Id> {
        let leased = self.entries.iter().filter_map(|(id, entry)| {
            let lease = entry.lease(group)?;
            Some((lease.began.from, *id))
        });
        let mut leased: Vec<_> = leased.collect();
        leased.sort_unstable();
        leased.into_iter().map(|(_, id)| id).collect()
    }

    /// Reclaims expired leases, the oldest first, or dead-letters their tasks. Returns how many
    /// tasks were delivered, and the dead letters.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "the parts of one reply")]
    pub fn reclaim(
        &mut self,
        snapshot: &Snapshot,
        group: Group,
        consumer: u8,
        expired: &[Id],
        count: usize,
        given: &[Given],
        span: Span,
    ) -> (usize, Vec<Letter>) {
        let lease = |world: &Self, id: &Id| world.entries[id].lease(group).expect("leased").clone();
        let tried = |world: &Self, id: &Id| {
            world.entries[id].task.retry_count + lease(world, id).deliveries
        };
        let is_over =
            |world: &Self, id: &Id| world.entries[id].task.is_last(tried(world, id), &world.policy);
        let (over, live): (Vec<Id>, Vec<Id>) = expired.iter().partition(|id| is_over(self, id));
        let reclaimed = live.len().min(count);
        assert!(given.len() >= reclaimed, "{given:?} of {live:?}");
        // After a claim of a plain client the order is not defined.
        let is_ordered = !expired.iter().any(|id| lease(self, id).is_claimed);
        let age = |world: &Self, id: &Id| {
            if is_ordered { lease(world, id).began.from } else { 0 }
        };
        let found: Vec<_> = given[..reclaimed].iter().map(|given| given.id).collect();
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), reclaimed, "one twice: {found:?}");
        for (found, oldest) in found.iter().zip(&live) {
            assert!(live.contains(found), "{found} was given out of turn: {live:?}");
            // Leases of one command have the same age.
            assert_eq!(age(self, found), age(self, oldest), "not the oldest first: {found}");
        }
        // A full batch need not dead-letter younger leases.
        let youngest = found.last().filter(|_| reclaimed == count).map(|id| age(self, id));
        let mut dead = Vec::new();
        for id in over {
            let must = youngest.is_none_or(|youngest| age(self, &id) < youngest);
            let is_left = snapshot.is_leased(id, group);
            assert!(!(must && is_left), "{id} was not dead-lettered");
            if !is_left {
                dead.push(id);
            }
        }
        let letter = |world: &Self, id: &Id| {
            let cause = Some((b"lease expired".to_vec(), lease(world, id).deliveries));
            let task = &world.entries[id].task;
            Letter { task: world.copy_for(task, group, tried(world, id)), cause }
        };
        // Leases of the same age come in any order, that of the dead letters.
        let originals: Vec<_> = snapshot.dead.iter().map(|(_, fields)| original(fields)).collect();
        let place = |world: &Self, id: &Id| {
            let task = &world.entries[id].task;
            let text = task.original.to_string().into_bytes();
            originals.iter().rposition(|found| *found == Some(&text[..]))
        };
        dead.sort_by_key(|id| (age(self, id), place(self, id)));
        let letters: Vec<_> = dead.iter().map(|id| letter(self, id)).collect();
        for id in dead {
            self.finish(snapshot, id, group);
        }
        for given in &given[..reclaimed] {
            let entry = self.entries.get_mut(&given.id).expect("leased");
            assert_eq!(texts(&given.fields), texts(&entry.fields));
            let old = entry.lease(group).expect("leased");
            let idle = span.from - old.began.to..=span.to - old.began.from;
            given.assert_meta(idle, old.deliveries + 1);
            let deliveries = old.deliveries + 1;
            let lease = Lease { consumer, deliveries, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
        }
        (reclaimed, letters)
    }

    /// Delivers new entries: higher priorities first, each in its order. Returns those that have
    /// expired.
    #[track_caller]
    pub fn deliver_new(
        &mut self,
        snapshot: &Snapshot,
        group: Group,
        consumer: u8,
        count: usize,
        given: &[Given],
        span: Span,
    ) -> Vec<Letter> {
        let ready = self.entries.iter().filter(|(_, entry)| entry.is_ready(group));
        let mut ready: Vec<_> = ready.map(|(id, _)| *id).collect();
        ready.sort_by_key(|id| (u8::MAX - id.priority(), *id));
        let (mut expected, mut letters) = (Vec::new(), Vec::new());
        for id in ready {
            if expected.len() == count {
                break;
            }
            let task = self.entries[&id].task.clone();
            if !task.is_for(group) {
                self.finish(snapshot, id, group);
            } else if self.has_expired(snapshot, &task, span) {
                let task = self.copy_for(&task, group, task.retry_count);
                letters.push(Letter { task, cause: Some((b"expired".to_vec(), 0)) });
                self.count("expired", 1);
                self.finish(snapshot, id, group);
            } else {
                expected.push(id);
            }
        }
        let found: Vec<_> = given.iter().map(|given| given.id).collect();
        assert_eq!(found, expected, "the ready tasks, in order");
        for given in given {
            let entry = self.entries.get_mut(&given.id).expect("ready");
            assert_eq!(texts(&given.fields), texts(&entry.fields));
            given.assert_meta(0..=0, 1);
            let lease = Lease { consumer, deliveries: 1, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
            let original = entry.task.original;
            self.started(original);
        }
        letters
    }

    /// Whether there is nothing to deliver.
    pub fn has_nothing_for(&self, group: Group) -> bool {
        let is_near = |delayed: &Delayed| delayed.due < now_ms() + FAR / 10;
        self.groups.contains(&group)
            && !self.entries.values().any(|entry| entry.is_ready(group))
            && !self.delayed.iter().any(is_near)
    }

    #[track_caller]
    pub fn wait(
        &mut self,
        group: Group,
        consumer: u8,
        priority: u8,
        is_delayed: bool,
        for_both: bool,
    ) {
        if self.policy.paused || self.is_full() || !self.has_nothing_for(group) {
            return;
        }
        let first = if for_both { OTHER } else { QUEUE };
        let name = consumer_name(consumer);
        let mut consume =
            args!["TASK.CONSUME", group.name(), name, first, "META", "BLOCK", 60_000].to_vec();
        if for_both {
            consume.extend(args!["THEN", 1, QUEUE]);
        }
        let of_queue = |reply: Value| if for_both { by_queue(&reply).0 } else { reply };
        if is_delayed {
            self.publish(priority, None, When::Soon(10), None, Options::default());
            let (reply, span) = self.ask(&consume);
            let reply = of_queue(reply);
            return self.consumed(group, consumer, 1, false, &reply, true, span);
        }
        let mut waiter = self.server.borrow().client();
        let from = now_ms();
        waiter.send_args(&consume);
        eventually(SOON, "the consumer waits", || waiters(&mut self.client, "task") == 1);
        let (info, _) = self.ask(&args!["TASK.INFO", QUEUE]);
        assert_eq!(info.get("waiting_consumers"), &int(1));
        self.publish(priority, None, When::Now, None, Options::default());
        let reply = of_queue(waiter.read());
        let span = Span { from, to: now_ms() };
        self.consumed(group, consumer, 1, false, &reply, true, span);
    }

    #[track_caller]
    pub fn expire(&mut self, group: Group, consumer: u8, count: u8, meta: bool) {
        let old = self.policy.lease;
        self.set_policy(&args!["LEASE", 1]);
        let youngest = self.entries.values().filter_map(|entry| entry.lease(group));
        let youngest = youngest.map(|lease| lease.began.to).max().unwrap_or(0);
        eventually(SOON, "the leases have expired", || now_ms() > youngest + 2);
        let name = consumer_name(consumer);
        let mut args = args!["TASK.CONSUME", group.name(), name, QUEUE, u64::from(count)].to_vec();
        if meta {
            args.extend(args!["META"]);
        }
        let (reply, span) = self.ask(&args);
        self.set_policy(&args!["LEASE", old]);
        self.consumed(group, consumer, count.into(), true, &reply, meta, span);
    }
}

/// A reply with THEN: the tasks of the queue as META delivers them, and the whole tasks of the other.
#[track_caller]
fn by_queue(reply: &Value) -> (Value, Vec<Value>) {
    assert!(!reply.is_error(), "TASK.CONSUME: {reply:?}");
    let (mut of_queue, mut of_other) = (Vec::new(), Vec::new());
    for task in reply.items() {
        let (queue, rest) = task.items().split_last().expect("five elements");
        match queue.as_str() {
            QUEUE => of_queue.push(Value::Array(rest.to_vec())),
            OTHER => of_other.push(task.clone()),
            _ => panic!("{reply:?}"),
        }
    }
    (Value::Array(of_queue), of_other)
}
