//! The model and the server side by side: each step is done on both.

use super::model::*;
use super::snapshot::*;
use super::steps::*;
use super::support::consumers::PER_PRIORITY;
use super::support::{Client, Server, Value, args, array, bulk, error, int, now_ms, ok};
use super::unique::{Held, Mark};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The model and the server.
pub struct World<'a> {
    pub server: &'a RefCell<Server>,
    pub client: Client,
    pub with: Groups,
    /// The end of the last command. The next one starts a millisecond later, so that leases differ in
    /// age.
    pub clock: i64,
    pub groups: Vec<Group>,
    pub entries: BTreeMap<Id, Entry>,
    pub delayed: Vec<Delayed>,
    pub dead: BTreeMap<Id, Letter>,
    pub policy: Policy,
    pub unique: BTreeMap<u8, Id>,
    pub payloads: usize,
    /// The ids of all published tasks.
    pub published: Vec<Id>,
    /// What a group has finished, and what was canceled before.
    pub ended: BTreeSet<(Id, Group)>,
    /// The present ids of tasks that have moved, as the server knows them.
    pub moved: BTreeMap<Id, Id>,
    /// The marks of UNIQUE with UNTIL or LAST, and the held tasks.
    pub marks: BTreeMap<Id, Mark>,
    pub held: Vec<Held>,
    /// The tasks that had to end before held ones entered in this step.
    pub entered_after: BTreeSet<Id>,
    /// Tasks whose present id a plain client has made useless.
    pub unknown: BTreeSet<Id>,
    /// Which task's state is checked next.
    pub turn: usize,
    /// The counters at the start, and what they must have grown by.
    pub counted: Counts,
    pub counts: Counts,
    /// Everything that was done, and how often the server was killed.
    pub totals: Counts,
    pub crashes: usize,
}

impl<'a> World<'a> {
    #[track_caller]
    pub fn new(server: &'a RefCell<Server>, with: Groups) -> Self {
        let port = server.borrow().port();
        // After a crash the later runs get a new server.
        let mut client = Client::try_connect(port).unwrap_or_else(|_| {
            let mut server = server.borrow_mut();
            server.kill9();
            server.restart();
            server.client()
        });
        assert_eq!(client.run("FLUSHALL"), ok());
        let counted = counts(&mut client);
        let mut world = Self {
            server,
            client,
            with,
            clock: 0,
            groups: Vec::new(),
            entries: BTreeMap::new(),
            delayed: Vec::new(),
            dead: BTreeMap::new(),
            policy: Policy {
                lease: 300_000,
                tries: 20,
                backoff: (1_000, 600_000),
                limit: 0,
                keep: false,
                paused: false,
            },
            unique: BTreeMap::new(),
            payloads: 0,
            published: Vec::new(),
            ended: BTreeSet::new(),
            moved: BTreeMap::new(),
            marks: BTreeMap::new(),
            held: Vec::new(),
            entered_after: BTreeSet::new(),
            unknown: BTreeSet::new(),
            turn: 0,
            counted,
            counts: COUNTERS.iter().map(|name| (*name, 0)).collect(),
            totals: Counts::new(),
            crashes: 0,
        };
        world.consume(Group::A, 0, Some(1), false, false);
        if with == Groups::Two {
            world.consume(Group::B, 0, Some(1), true, false);
        }
        // A plain client makes requeued tasks due, so that nothing depends on time.
        world.backoff(true);
        world
    }

    /// Runs a command when a task that expires a millisecond after the last one has expired.
    #[track_caller]
    pub fn ask(&mut self, args: &[Vec<u8>]) -> (Value, Span) {
        while now_ms() <= self.clock + 1 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let from = now_ms();
        let reply = self.client.cmd(args);
        let to = now_ms();
        self.clock = to;
        (reply, Span { from, to })
    }

    pub fn count(&mut self, name: &'static str, more: usize) {
        let more = i64::try_from(more).expect("not many");
        *self.counts.get_mut(name).expect("a counter") += more;
        *self.totals.entry(name).or_default() += more;
    }

    #[track_caller]
    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { priority, retry_count, when, unique, options } => {
                self.publish(PRIORITIES[priority], retry_count, when, unique, options);
            }
            Step::Add => self.add(),
            Step::Consume { group, consumer, count, named, meta } => {
                self.consume(group, consumer, count, named, meta);
            }
            Step::ConsumeBoth { group, consumer, count, others, others_first } => {
                self.consume_both(group, consumer, count, others, others_first);
            }
            Step::Wait { group, consumer, priority, is_delayed, for_both } => {
                self.wait(group, consumer, PRIORITIES[priority], is_delayed, for_both);
            }
            Step::Ack { group, ref leased, any } => self.ack(group, leased, any),
            Step::Extend { group, which, stranger } => self.extend(group, which, stranger),
            Step::Nack { group, which, stranger, outcome, delay, reason, payload } => {
                let payload = payload.then(|| self.payload());
                self.nack(group, which, stranger, outcome, delay, reason, payload);
            }
            Step::Retry { group, which, retry_count } => self.retry(group, which, retry_count),
            Step::Cancel { ref which, force } => self.cancel(which, force),
            Step::Reschedule { which, far, priority } => {
                self.reschedule(which, far, priority.map(|priority| PRIORITIES[priority]));
            }
            Step::Redrive { count } => self.redrive(count),
            Step::Tries(tries) => {
                self.policy.tries = tries.into();
                self.set_policy(&args!["TRIES", u64::from(tries)]);
            }
            Step::Keep(keep) => self.keep(keep),
            Step::Paused(paused) => {
                self.policy.paused = paused;
                self.set_policy(&args!["PAUSED", i32::from(paused)]);
            }
            Step::Limit(limit) => self.limit(limit),
            Step::Backoff(far) => self.backoff(far),
            Step::MakeDue { which } => self.make_due(which),
            Step::Expire { group, consumer, count, meta } => {
                self.expire(group, consumer, count, meta);
            }
            Step::Forget { unique } => {
                let known = self.unique.remove(&unique).is_some();
                let (reply, _) = self.ask(&args!["DEL", unique_key(unique)]);
                assert_eq!(reply, int(known.into()));
            }
            Step::Claim { group, which, consumer, deliveries } => {
                self.claim(group, which, consumer, deliveries);
            }
            Step::PlainAck { group, which } => self.plain_ack(group, which),
            Step::Crash => self.crash(),
        }
    }

    /// Whether the queue is full.
    pub fn is_full(&self) -> bool {
        let length = self.entries.len() + self.delayed.len() + self.held.len();
        self.policy.limit > 0 && i64::try_from(length).expect("not many") >= self.policy.limit
    }

    #[track_caller]
    pub fn publish(
        &mut self,
        priority: u8,
        retry_count: Option<u8>,
        when: When,
        unique: Option<Unique>,
        options: Options,
    ) {
        // A plain client has hidden the task.
        let is_hidden = |unique: &Unique| {
            self.unique.get(&unique.id).is_some_and(|id| self.unknown.contains(id))
        };
        let unique = unique.filter(|unique| !(unique.last && is_hidden(unique)));
        let before = unique.and_then(|unique| self.before(unique));
        // Nothing that depends on how long the step takes.
        let (when, options) = match (when, before) {
            (When::Soon(_), Some(_)) => (When::DelayNothing, Options { expires: None, ..options }),
            (when, Some(_)) => (when, Options { expires: None, ..options }),
            (when, None) => (when, options),
        };
        let payload = self.payload();
        let mut args = args!["TASK.PUBLISH", QUEUE, payload].to_vec();
        if let Some(count) = retry_count {
            args.push(count.to_string().into());
        }
        if priority > 0 || self.payloads.is_multiple_of(2) {
            args.extend(args!["priority", u64::from(priority)]);
        }
        let now = now_ms();
        match when {
            When::Now => {}
            When::DelayNothing => args.extend(args!["DELAY", 0]),
            When::Soon(ms) => args.extend(args!["DELAY", u64::from(ms)]),
            When::DelayFar => args.extend(args!["DELAY", FAR]),
            When::AtPast => args.extend(args!["AT", now - 1000]),
            When::AtFar => args.extend(args!["AT", now + FAR]),
        }
        if let Some(unique) = unique {
            args.extend(args!["Unique", format!("order {}", unique.id), FAR]);
            match unique.until {
                Some(Until::Start) => args.extend(args!["until", "start"]),
                Some(Until::Done) => args.extend(args!["UNTIL", "DONE"]),
                None => {}
            }
            if unique.last {
                args.extend(args!["Last"]);
            }
        }
        if let Some(tries) = options.tries {
            args.extend(args!["tries", u64::from(tries)]);
        }
        let delay = match when {
            When::Soon(ms) => i64::from(ms),
            When::DelayFar | When::AtFar => FAR,
            When::Now | When::DelayNothing | When::AtPast => 0,
        };
        // The clock may go on before the server reads it.
        let slack = if matches!(when, When::AtFar) { 1000 } else { 1 };
        let lasts = options.expires.map(|soon| delay + if soon { slack } else { 3 * FAR });
        if let Some(lasts) = lasts {
            args.extend(args!["EXPIRE", lasts]);
        }
        if options.has_tenant {
            args.extend(args!["Fields", 1, "tenant", b"blue \r\n\0"]);
        }
        if options.meta {
            args.extend(args!["META"]);
        }
        let (reply, span) = self.ask(&args);

        let (reply, outcome) = match &reply {
            Value::Array(parts) if options.meta => (&parts[0], parts[1].as_str()),
            reply => (reply, ""),
        };
        if self.groups.len() > 1 && unique.is_some_and(Unique::follows) {
            assert!(reply.is_error_with("ERR this needs a queue with at most one "), "{reply:?}");
            return;
        }
        let due = match when {
            When::Soon(1..) | When::DelayFar | When::AtFar => Some(match when {
                When::AtFar => now + FAR..=now + FAR,
                When::Soon(ms) => span.from + i64::from(ms)..=span.to + i64::from(ms),
                _ => span.from + FAR..=span.to + FAR,
            }),
            _ => None,
        };
        let task = Task {
            original: Id { ms: 0, seq: 0 },
            payload,
            priority,
            retry_count: retry_count.unwrap_or(0).into(),
            group: None,
            is_copy: false,
            is_foreign: false,
            tries: options.tries.map(i64::from),
            end: None,
            has_tenant: options.has_tenant,
        };
        if let (Some(unique), Some(before)) = (unique, before) {
            return self.follow((unique, before), (reply, outcome), task, due, span);
        }
        let known = unique.filter(|unique| !unique.last);
        if let Some(known) = known.and_then(|unique| self.unique.get(&unique.id)) {
            assert_eq!(*reply, bulk(known.to_string()), "the first task of this id");
            assert_eq!(outcome, if options.meta { "duplicate" } else { "" });
            return self.count("deduplicated", 1);
        }
        if self.is_full() {
            assert!(reply.is_error_with("TASKFULL "), "{reply:?}");
            return self.count("refused", 1);
        }
        assert_eq!(outcome, if options.meta { "added" } else { "" });
        let original = Id::parse(reply.bytes());
        let snapshot = self.look();
        let end = lasts.map(|lasts| {
            let end = snapshot.end_of(original);
            assert!((span.from + lasts..=span.to + lasts).contains(&end), "{end}: {span:?}");
            end
        });
        let task = Task { original, end, ..task };
        self.published.push(original);
        self.count("published", 1);
        if let Some(unique) = unique {
            self.unique.insert(unique.id, original);
            if unique.follows() {
                self.marks.insert(original, Mark::new(unique));
            }
        }
        match due {
            Some(due) => {
                self.count("delayed", 1);
                self.arrive_delayed(&snapshot, task, due);
            }
            None => {
                assert_eq!(original.priority(), priority, "{original}");
                self.arrive(&snapshot, vec![task], span);
            }
        }
    }

    /// A different payload for each task, some of them hostile.
    pub fn payload(&mut self) -> Vec<u8> {
        let ends: [&[u8]; 5] = [b"", b" of several words", b"\0\r\n\xff", b": 1-1 - %20", b" "];
        self.payloads += 1;
        let mut payload = self.payloads.to_string().into_bytes();
        payload.extend_from_slice(ends[self.payloads % ends.len()]);
        payload
    }

    #[track_caller]
    pub fn add(&mut self) {
        let payload = self.payload();
        let (reply, span) =
            self.ask(&args!["XADD", QUEUE, "*", "colour", "red", "payload", payload]);
        let original = Id::parse(reply.bytes());
        let task = Task {
            original,
            payload,
            priority: 0,
            retry_count: 0,
            group: None,
            is_copy: false,
            is_foreign: true,
            tries: None,
            end: None,
            has_tenant: false,
        };
        self.published.push(original);
        let snapshot = self.look();
        self.arrive(&snapshot, vec![task], span);
    }

    #[track_caller]
    pub fn extend(&mut self, group: Group, which: Pick, stranger: bool) {
        let Some(id) = self.some_leased(group, which) else { return };
        let consumer = self.entries[&id].lease(group).expect("leased").consumer;
        let name = consumer_name(consumer + u8::from(stranger));
        let (reply, span) =
            self.ask(&args!["TASK.EXTEND", QUEUE, group.name(), name, id.to_string()]);
        assert_eq!(reply, int((!stranger).into()));
        if !stranger {
            let entry = self.entries.get_mut(&id).expect("leased");
            let deliveries = entry.lease(group).expect("leased").deliveries;
            let lease = Lease { consumer, deliveries, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
        }
    }

    /// `delay`: far or 0.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "the options of a command")]
    pub fn nack(
        &mut self,
        group: Group,
        which: Pick,
        stranger: bool,
        outcome: Outcome,
        delay: Option<bool>,
        reason: bool,
        payload: Option<Vec<u8>>,
    ) {
        let Some(id) = self.some_leased(group, which) else { return };
        let lease = self.entries[&id].lease(group).expect("leased").clone();
        let name = consumer_name(lease.consumer + u8::from(stranger));
        let mode = format!("{outcome:?}");
        let mut args = args!["TASK.NACK", QUEUE, group.name(), name, mode, id.to_string()].to_vec();
        if let Some(far) = delay {
            args.extend(args!["DELAY", if far { FAR } else { 0 }]);
        }
        if reason {
            args.extend(args!["REASON", "it \r\n rains"]);
        }
        if let Some(payload) = &payload {
            args.extend(args!["Payload", payload]);
        }
        let (reply, span) = self.ask(&args);
        if stranger {
            assert_eq!(reply, int(0));
            return;
        }
        let mut task = self.entries[&id].task.clone();
        let tried = task.retry_count + lease.deliveries;
        let is_last = task.is_last(tried, &self.policy);
        task.payload = payload.unwrap_or(task.payload);
        let is_dead = outcome == Outcome::Fatal || outcome == Outcome::Fail && is_last;
        assert_eq!(reply, int(if is_dead { 2 } else { 1 }));
        let retry_count = tried - i64::from(outcome == Outcome::Silent);
        let copy = self.copy_for(&task, group, retry_count);
        let snapshot = self.look();
        self.finish(&snapshot, id, group);
        if is_dead {
            let default = if outcome == Outcome::Fatal { "fatal" } else { "failed" };
            let reason = if reason { "it \r\n rains" } else { default };
            let cause = Some((reason.into(), lease.deliveries));
            self.arrive(&snapshot, Vec::new(), span);
            return self.dead_letter(&snapshot, vec![Letter { task: copy, cause }], span);
        }
        self.count("requeued", 1);
        let delay = match delay {
            Some(true) => FAR..=FAR,
            None if outcome == Outcome::Fail => {
                let (base, max) = self.policy.backoff;
                let doubled = 1_i64.checked_shl(u32::try_from(retry_count - 1).expect("few"));
                0..=doubled.and_then(|doubled| doubled.checked_mul(base)).unwrap_or(max).min(max)
            }
            _ => 0..=0,
        };
        // A random delay may be 0.
        if *delay.end() == 0 || *delay.end() < 10 && self.new_delayed(&snapshot).is_empty() {
            self.arrive(&snapshot, vec![copy], span);
        } else {
            let due = span.from + delay.start()..=span.to + delay.end();
            self.arrive_delayed(&snapshot, copy, due);
        }
    }

    #[track_caller]
    pub fn retry(&mut self, group: Group, which: Pick, retry_count: u8) {
        const MOST: u8 = 2;
        let Some(id) = self.some_leased(group, which) else { return };
        let task = self.entries[&id].task.clone();
        let mut args = args!["TASK.RETRY", QUEUE, id.to_string(), task.payload].to_vec();
        args.extend(args![u64::from(retry_count), QUEUE, key("dead"), u64::from(MOST)]);
        if self.groups.len() > 1 || which.is_multiple_of(2) {
            args.extend(args![group.name()]);
        }
        let (reply, span) = self.ask(&args);
        assert_eq!(reply, ok());
        let goes_on = retry_count < MOST;
        let copy = self.copy_for(&task, group, i64::from(retry_count) + i64::from(goes_on));
        // It goes to the stream that the call names.
        let copy = Task { priority: 0, ..copy };
        self.count("acked", 1);
        let snapshot = self.look();
        self.finish(&snapshot, id, group);
        if goes_on {
            self.count("requeued", 1);
            self.arrive(&snapshot, vec![copy], span);
        } else {
            self.arrive(&snapshot, Vec::new(), span);
            self.dead_letter(&snapshot, vec![Letter { task: copy, cause: None }], span);
        }
    }

    #[track_caller]
    pub fn ack(&mut self, group: Group, leased: &[Pick], any: Option<Pick>) {
        if !self.groups.contains(&group) {
            return;
        }
        let mut ids: Vec<_> =
            leased.iter().filter_map(|pick| self.some_leased(group, *pick)).collect();
        ids.extend(any.map(|pick| self.any_id(pick)));
        if ids.is_empty() {
            return;
        }
        let mut args = args!["TASK.ACK", QUEUE, group.name()].to_vec();
        args.extend(ids.iter().map(|id| id.to_string().into_bytes()));
        let (reply, span) = self.ask(&args);
        let is_leased = |id: &Id| self.entries.get(id).is_some_and(|e| e.lease(group).is_some());
        let done: BTreeSet<_> = ids.iter().copied().filter(is_leased).collect();
        assert_eq!(reply, int(i64::try_from(done.len()).expect("few")));
        self.count("acked", done.len());
        let snapshot = self.look();
        for id in done {
            self.ended.insert((self.entries[&id].task.original, group));
            self.finish(&snapshot, id, group);
            assert!(!self.policy.keep || snapshot.has_entry(id), "{id} is not kept");
        }
        // Entries kept until now may go with the others.
        for id in ids {
            let is_done = self.entries.get(&id).is_some_and(Entry::is_done_by_all);
            if is_done && !self.policy.keep && !snapshot.has_entry(id) {
                self.entries.remove(&id);
            }
        }
        self.arrive(&snapshot, Vec::new(), span);
    }

    /// Any id: of an entry, a delayed or held task, a task that has moved, a dead letter, or of nothing.
    pub fn any_id(&self, pick: Pick) -> Id {
        if !self.held.is_empty() && pick.is_multiple_of(3) {
            // They are few.
            return self.held[usize::from(pick) % self.held.len()].task.original;
        }
        let ids = self.entries.keys().copied();
        let ids = ids.chain(self.delayed.iter().map(|delayed| delayed.id));
        let ids = ids.chain(self.moved.keys().copied());
        let ids = ids.chain(self.dead.keys().copied()).chain(self.published.last().copied());
        let ids: Vec<_> = ids.chain([Id { ms: 1, seq: 3 * PER_PRIORITY }]).collect();
        ids[usize::from(pick) % ids.len()]
    }

    pub fn some_leased(&self, group: Group, pick: Pick) -> Option<Id> {
        let leased = self.leased(group);
        (!leased.is_empty()).then(|| leased[usize::from(pick) % leased.len()])
    }

    #[track_caller]
    pub fn cancel(&mut self, which: &[Pick], force: bool) {
        let ids: BTreeSet<_> = which.iter().map(|pick| self.any_id(*pick)).collect();
        let mut args = args!["TASK.CANCEL", QUEUE].to_vec();
        args.extend(ids.iter().map(|id| id.to_string().into_bytes()));
        if force {
            args.extend(args!["FORCE"]);
        }
        let (reply, span) = self.ask(&args);
        let ids: Vec<_> = ids.into_iter().map(|id| self.present(id)).collect();
        let snapshot = self.look();
        let mut cancelled = 0;
        for id in ids {
            let is_ready = |entry: &Entry| {
                let is_leased = self.groups.iter().any(|group| entry.lease(*group).is_some());
                (force || !is_leased) && !entry.is_done_by_all()
            };
            let task = if self.entries.get(&id).is_some_and(is_ready) {
                let entry = self.entries.remove(&id).expect("it is there");
                let done = self.groups.iter().filter(|group| entry.is_done(**group));
                let done: Vec<_> = done.copied().collect();
                Some((entry.task, done))
            } else if let Some(nth) = self.held.iter().position(|held| held.task.original == id) {
                let held = self.held.remove(nth);
                self.successor_gone(held.after, id);
                Some((held.task, Vec::new()))
            } else {
                self.cancel_delayed(&snapshot, id, span).map(|task| (task, Vec::new()))
            };
            let Some((task, done)) = task else { continue };
            cancelled += 1;
            for group in &self.groups {
                if task.is_for(*group) && !done.contains(group) {
                    self.ended.insert((task.original, *group));
                }
            }
        }
        assert_eq!(reply, int(i64::try_from(cancelled).expect("few")));
        self.count("cancelled", cancelled);
        self.arrive(&snapshot, Vec::new(), span);
    }

    /// The present id of the task with this id.
    pub fn present(&self, id: Id) -> Id {
        let lives = self.entries.get(&id).is_some_and(|entry| !entry.is_done_by_all());
        // One that a plain client has made due is not where its id says.
        let is_delayed = self.delayed.iter().any(|delayed| delayed.id == id && !delayed.is_moved)
            || self.held.iter().any(|held| held.task.original == id);
        if lives || is_delayed { id } else { self.moved.get(&id).copied().unwrap_or(id) }
    }

    #[track_caller]
    pub fn reschedule(&mut self, which: Pick, far: bool, priority: Option<u8>) {
        let id = self.any_id(which);
        let delay = if far { FAR } else { 0 };
        let mut args = args!["TASK.RESCHEDULE", QUEUE, id.to_string(), "DELAY", delay].to_vec();
        if let Some(priority) = priority {
            args.extend(args!["PRIORITY", u64::from(priority)]);
        }
        let (reply, span) = self.ask(&args);
        if self.groups.len() > 1 {
            assert!(reply.is_error_with("ERR this needs a queue with at most one "), "{reply:?}");
            return;
        }
        let (id, snapshot) = (self.present(id), self.look());
        if let Some(nth) = self.held.iter().position(|held| held.task.original == id) {
            assert_eq!(reply, int(1), "{id}");
            let Held { after, task, .. } = self.held.remove(nth);
            let task = Task { priority: priority.unwrap_or(task.priority), ..task };
            return self.hold(&snapshot, task, after, span.from + delay..=span.to + delay);
        }
        let task = match self.entries.get(&id) {
            Some(entry) if entry.is_ready(Group::A) => {
                let stays = !far && priority.is_none_or(|priority| priority == entry.task.priority);
                (!stays).then(|| self.entries.remove(&id).expect("it is there").task)
            }
            Some(_) => {
                assert_eq!(reply, int(0), "leased or done");
                return;
            }
            None => {
                // A task that becomes due in this very millisecond stays where it is.
                let stays = self.delayed.iter().any(|delayed| {
                    delayed.id == id
                        && (span.from..=span.to).contains(&delayed.due)
                        && snapshot.has_delayed(&delayed.member)
                });
                if stays && !far && reply == int(1) {
                    return;
                }
                let task = self.cancel_delayed(&snapshot, id, span);
                assert_eq!(reply, int(task.is_some().into()), "{id}");
                if task.is_none() {
                    return;
                }
                task
            }
        };
        assert_eq!(reply, int(1), "{id}");
        let moved = task.map(|task| {
            let priority = priority.unwrap_or(task.priority);
            Task { is_copy: true, priority, ..task }
        });
        match moved {
            Some(task) if far => {
                self.arrive_delayed(&snapshot, task, span.from + FAR..=span.to + FAR);
            }
            moved => self.arrive(&snapshot, moved.into_iter().collect(), span),
        }
    }

    /// Cancels a delayed task. One that is already due may have been canceled or not.
    #[track_caller]
    pub fn cancel_delayed(&mut self, snapshot: &Snapshot, id: Id, span: Span) -> Option<Task> {
        let nth = self.delayed.iter().position(|delayed| delayed.id == id)?;
        let delayed = &self.delayed[nth];
        let is_left = snapshot.has_delayed(&delayed.member);
        assert!(!is_left || delayed.is_moved || delayed.due <= span.to, "{id} is still there");
        (!is_left).then(|| self.delayed.remove(nth).task)
    }

    #[track_caller]
    pub fn redrive(&mut self, count: Option<u8>) {
        let mut args = args!["TASK.REDRIVE", key("dead"), QUEUE].to_vec();
        if let Some(count) = count {
            args.extend(args!["COUNT", u64::from(count)]);
        }
        let (reply, span) = self.ask(&args);
        let count = count.map_or(1000, usize::from).min(self.dead.len());
        assert_eq!(reply, int(i64::try_from(count).expect("few")));
        let ids: Vec<_> = self.dead.keys().take(count).copied().collect();
        let letters: Vec<_> = ids.iter().filter_map(|id| self.dead.remove(id)).collect();
        let again = |letter: Letter| Task { retry_count: 0, ..letter.task };
        let tasks = letters.into_iter().map(again).collect();
        self.count("redriven", count);
        let snapshot = self.look();
        self.arrive(&snapshot, tasks, span);
    }

    #[track_caller]
    pub fn set_policy(&mut self, options: &[Vec<u8>]) {
        let mut args = args!["TASK.POLICY", QUEUE].to_vec();
        args.extend_from_slice(options);
        let (reply, _) = self.ask(&args);
        assert_eq!(reply, ok());
    }

    #[track_caller]
    pub fn keep(&mut self, keep: bool) {
        let (reply, _) = self.ask(&args!["TASK.POLICY", QUEUE, "KEEP", i32::from(keep)]);
        if keep && self.policy.limit > 0 {
            assert_eq!(reply, error("ERR LIMIT and KEEP 1 exclude each other"));
        } else {
            assert_eq!(reply, ok());
            self.policy.keep = keep;
        }
    }

    #[track_caller]
    pub fn limit(&mut self, limit: u8) {
        let (reply, _) = self.ask(&args!["TASK.POLICY", QUEUE, "LIMIT", u64::from(limit)]);
        if limit > 0 && self.policy.keep {
            assert_eq!(reply, error("ERR LIMIT and KEEP 1 exclude each other"));
        } else {
            assert_eq!(reply, ok());
            self.policy.limit = limit.into();
        }
    }

    /// Sets the back-off to hours or to next to nothing.
    #[track_caller]
    pub fn backoff(&mut self, far: bool) {
        let (base, max) = if far { (1000 * FAR, 1000 * FAR) } else { (1, 2) };
        self.policy.backoff = (base, max);
        self.set_policy(&args!["BACKOFF", base, max]);
    }

    #[track_caller]
    pub fn make_due(&mut self, which: Pick) {
        if self.delayed.is_empty() {
            return;
        }
        let nth = usize::from(which) % self.delayed.len();
        if self.marks.contains_key(&self.delayed[nth].task.original) {
            // Its mark would end with the next sweep.
            return;
        }
        let due = now_ms() - 1 - i64::from(which);
        let member = self.delayed[nth].member.clone();
        self.ask(&args!["ZADD", key("delayed"), "XX", due, member]);
        (self.delayed[nth].due, self.delayed[nth].is_moved) = (due, true);
        self.unknown.insert(self.delayed[nth].task.original);
    }

    #[track_caller]
    pub fn claim(&mut self, group: Group, which: Pick, consumer: u8, deliveries: u8) {
        let Some(id) = self.some_leased(group, which) else { return };
        let (stream, name) = (stream_key(id.priority()), consumer_name(consumer));
        let mut args = args!["XCLAIM", stream, group.name(), name, 0, id.to_string()].to_vec();
        args.extend(args!["RETRYCOUNT", u64::from(deliveries), "JUSTID"]);
        let (reply, span) = self.ask(&args);
        assert_eq!(reply, array([id.to_string()]));
        let entry = self.entries.get_mut(&id).expect("leased");
        let deliveries = deliveries.into();
        let lease = Lease { consumer, deliveries, began: span, is_claimed: true };
        entry.states.insert(group, State::Leased(lease));
    }

    #[track_caller]
    pub fn plain_ack(&mut self, group: Group, which: Pick) {
        let Some(id) = self.some_leased(group, which) else { return };
        if self.marks.contains_key(&self.entries[&id].task.original) {
            // Its mark would end with the next sweep.
            return;
        }
        let stream = stream_key(id.priority());
        let (reply, _) = self.ask(&args!["XACK", stream, group.name(), id.to_string()]);
        assert_eq!(reply, int(1));
        let entry = self.entries.get_mut(&id).expect("leased");
        self.ended.insert((entry.task.original, group));
        entry.states.insert(group, State::Done);
    }

    #[track_caller]
    pub fn crash(&mut self) {
        self.check_counts();
        self.crashes += 1;
        let mut server = self.server.borrow_mut();
        server.kill9();
        server.restart();
        self.client = server.client();
        drop(server);
        // The counters start at 0 in a new process.
        self.counted = counts(&mut self.client);
        self.counts.values_mut().for_each(|count| *count = 0);
    }
}
