//! Whether the server holds what the model holds.

use super::model::*;
use super::snapshot::*;
use super::steps::Groups;
use super::support::{bulk, int};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};

/// The prefixes of the keys beside the streams and the windows.
const PREFIXES: [&str; 6] = ["delayed", "dead", "policy", "taskmoved", "taskmarks", "taskheld"];

impl World<'_> {
    #[track_caller]
    pub fn look(&mut self) -> Snapshot {
        Snapshot::take(&mut self.client)
    }

    /// Checks that exactly these tasks have come to the tails of their streams, in this order, and after
    /// them those that were held until now.
    #[track_caller]
    pub fn arrive(&mut self, snapshot: &Snapshot, mut tasks: Vec<Task>, span: Span) {
        tasks.extend(self.enter(snapshot));
        for (priority, stream) in &snapshot.streams {
            let known = |id| self.entries.contains_key(id);
            let mut new = stream.iter().filter(|(id, _)| !known(id)).cloned().collect::<Vec<_>>();
            let expected: Vec<_> = tasks.iter().filter(|task| task.priority == *priority).collect();
            assert_eq!(new.len(), expected.len(), "new: {new:?}\nexpected: {expected:?}");
            let last = self.entries.keys().rfind(|id| id.priority() == *priority).copied();
            for ((id, fields), task) in new.drain(..).zip(expected) {
                assert!(last.is_none_or(|last| last < id), "{id} is not at the tail");
                assert_eq!(id.priority(), *priority, "{id} in the stream of another priority");
                task.assert_fields(&fields, span, Vec::new());
                let states = self.groups.iter().map(|group| (*group, State::Ready)).collect();
                self.entries.insert(id, Entry { task: task.clone(), fields, states });
            }
        }
    }

    /// Checks that exactly this delayed task was added.
    #[track_caller]
    pub fn arrive_delayed(
        &mut self,
        snapshot: &Snapshot,
        task: Task,
        due_in: std::ops::RangeInclusive<i64>,
    ) {
        let new = self.new_delayed(snapshot);
        let [(member, due)] = &new[..] else { panic!("not one delayed task: {new:?}") };
        let found = Member::parse(member);
        assert!(due_in.contains(due), "due at {due}, not in {due_in:?}");
        assert_eq!(i64::try_from(found.id.ms).ok(), Some(*due), "{found:?}");
        found.assert_stores(&task);
        let (id, due, member) = (found.id, *due, member.clone());
        assert!(self.delayed.iter().all(|other| other.id != id), "one id for two");
        let task = Task { is_copy: true, ..task };
        self.delayed.push(Delayed { id, due, member, task, is_moved: false });
        self.arrive(snapshot, Vec::new(), snapshot.at);
    }

    pub fn new_delayed(&self, snapshot: &Snapshot) -> Vec<(Vec<u8>, i64)> {
        let known = |member: &[u8]| self.delayed.iter().any(|delayed| delayed.member == member);
        let new = snapshot.delayed.iter().filter(|(member, _)| !known(member));
        new.cloned().collect()
    }

    /// Checks that exactly these dead letters were added, in this order.
    #[track_caller]
    pub fn dead_letter(&mut self, snapshot: &Snapshot, letters: Vec<Letter>, span: Span) {
        let new = snapshot.dead.iter().filter(|(id, _)| !self.dead.contains_key(id));
        let new: Vec<_> = new.cloned().collect();
        assert_eq!(new.len(), letters.len(), "new: {new:?}\nexpected: {letters:?}");
        self.count("dead_lettered", letters.len());
        for ((id, fields), letter) in new.into_iter().zip(letters) {
            let mut more = Fields::new();
            if let Some((reason, deliveries)) = &letter.cause {
                more.push(("reason".into(), reason.clone()));
                more.push(("deliveries".into(), deliveries.to_string().into()));
                if letter.task.priority > 0 {
                    more.push(("priority".into(), letter.task.priority.to_string().into()));
                }
            }
            letter.task.assert_fields(&fields, span, more);
            self.dead.insert(id, letter);
        }
    }

    /// Finishes an entry for a group. It goes when all groups have finished it.
    #[track_caller]
    pub fn finish(&mut self, snapshot: &Snapshot, id: Id, group: Group) {
        let entry = self.entries.get_mut(&id).expect("an entry");
        entry.states.insert(group, State::Done);
        // It is not defined whether KEEP keeps an entry whose copy took its place.
        if entry.is_done_by_all() && !(self.policy.keep && snapshot.has_entry(id)) {
            self.entries.remove(&id);
        }
    }

    /// Whether a task that could be delivered in this span has become a dead letter instead, because
    /// it has expired.
    #[track_caller]
    pub fn has_expired(&self, snapshot: &Snapshot, task: &Task, span: Span) -> bool {
        let Some(end) = task.end else { return false };
        let is_it = |fields: &Fields| {
            original(fields).map(Id::parse) == Some(task.original)
                && value_of(fields, "reason") == Some(b"expired")
        };
        let new = |(id, fields): &&(Id, Fields)| !self.dead.contains_key(id) && is_it(fields);
        let is_dead = snapshot.dead.iter().find(new).is_some();
        assert!(is_dead || end >= span.from, "it has expired: {task:?}, {span:?}");
        assert!(!is_dead || end < span.to, "it has not expired: {task:?}, {span:?}");
        is_dead
    }

    /// The copy of a task for the group that had it.
    pub fn copy_for(&self, task: &Task, group: Group, retry_count: i64) -> Task {
        let group = if self.groups.len() > 1 { Some(group) } else { task.group };
        Task { group, retry_count, is_copy: true, end: None, ..task.clone() }
    }

    /// Checks everything.
    #[track_caller]
    pub fn check(&mut self) {
        let snapshot = self.look();
        self.check_entries(&snapshot);
        let mut delayed: Vec<_> =
            self.delayed.iter().map(|delayed| (delayed.member.clone(), delayed.due)).collect();
        delayed.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        assert_eq!(snapshot.delayed, delayed, "the delayed tasks");
        let dead: Vec<_> = snapshot.dead.iter().map(|(id, _)| *id).collect();
        assert_eq!(dead, self.dead.keys().copied().collect::<Vec<_>>(), "the dead letters");
        self.check_unique(&snapshot);
        self.check_info(&snapshot);
        self.check_keys(&snapshot);
        self.check_that_each_task_is_in_one_state(&snapshot);
        self.check_moved(&snapshot);
        self.moved = snapshot.moved;
        self.check_a_state();
    }

    /// Where the tasks are that live: original id, present id, whether it is a copy.
    pub fn live(&self) -> Vec<(Id, Id, bool)> {
        let entries = self.entries.iter().filter(|(_, entry)| !entry.is_done_by_all());
        let entries = entries.map(|(id, entry)| (entry.task.original, *id, entry.task.is_copy));
        let delayed = self.delayed.iter().map(|delayed| {
            let is_copy = Member::parse(&delayed.member).original.is_some();
            (delayed.task.original, delayed.id, is_copy)
        });
        let held = self.held.iter().map(|held| (held.task.original, held.task.original, false));
        entries.chain(delayed).chain(held).collect()
    }

    /// Checks that the hash names the live tasks that have moved, and nothing else.
    #[track_caller]
    fn check_moved(&self, snapshot: &Snapshot) {
        let live = self.live();
        for (original, present) in &snapshot.moved {
            let is_live = live.iter().any(|task| (task.0, task.1) == (*original, *present));
            // The sweep has not yet noticed what a plain client has acknowledged.
            let is_done = self.entries.get(present).is_some_and(Entry::is_done_by_all);
            assert!(is_live || is_done, "{original} is said to be {present}: {live:?}");
        }
        match self.with {
            Groups::Two => assert!(snapshot.moved.is_empty(), "{:?}", snapshot.moved),
            Groups::SecondLater => {}
            Groups::One => {
                for (original, present, is_copy) in live.iter().filter(|task| task.2) {
                    let known = snapshot.moved.get(original);
                    let may_miss = self.unknown.contains(original);
                    assert!(known == Some(present) || may_miss, "{original}: {known:?} {is_copy}");
                }
            }
        }
    }

    /// Checks what TASK.STATE tells of one task, another one each time.
    #[track_caller]
    fn check_a_state(&mut self) {
        let Some(original) = self.published.get(self.turn % self.published.len().max(1)).copied()
        else {
            return;
        };
        self.turn += 7;
        if self.groups.len() > 1 || self.unknown.contains(&original) {
            return;
        }
        let state = self.client.run(format!("TASK.STATE {QUEUE} {original}"));
        let live = self.live();
        let Some((_, present, _)) = live.iter().find(|task| task.0 == original) else {
            assert!(state.is_nil(), "{original} has ended: {state:?}");
            return;
        };
        assert_eq!(state.get("id"), &bulk(present.to_string()), "{original}");
        let (name, retry_count) = match self.entries.get(present) {
            None => {
                let held = self.held.iter().find(|held| held.task.original == *present);
                let delayed = self.delayed.iter().find(|delayed| delayed.id == *present);
                match (held, delayed) {
                    (Some(held), _) => ("held", held.task.retry_count),
                    (None, delayed) => ("delayed", delayed.expect("it lives").task.retry_count),
                }
            }
            Some(entry) => {
                let lease = entry.lease(Group::A);
                if let Some(lease) = lease {
                    let name = consumer_name(lease.consumer);
                    assert_eq!(state.get("consumer"), &bulk(name), "{original}");
                    assert_eq!(state.get("deliveries"), &int(lease.deliveries), "{original}");
                } else {
                    // Higher priorities come first, then older tasks.
                    let is_before = |id: &Id| {
                        let (theirs, ours) = (id.priority(), present.priority());
                        theirs > ours || (theirs == ours && id < present)
                    };
                    let ready =
                        |(id, entry): &(&Id, &Entry)| entry.is_ready(Group::A) && is_before(id);
                    let ahead = self.entries.iter().filter(ready).count();
                    let ahead = i64::try_from(ahead).expect("few");
                    assert_eq!(state.get("ahead"), &int(ahead), "{original}");
                }
                (if lease.is_some() { "leased" } else { "ready" }, entry.task.retry_count)
            }
        };
        assert_eq!(state.get("state"), &bulk(name), "{original}");
        assert_eq!(state.get("retry_count"), &int(retry_count), "{original}");
    }

    #[track_caller]
    pub fn check_entries(&self, snapshot: &Snapshot) {
        for (priority, stream) in &snapshot.streams {
            let entries = self.entries.iter().filter(|(id, _)| id.priority() == *priority);
            let entries: Vec<_> = entries.collect();
            let ids: Vec<_> = entries.iter().map(|(id, _)| **id).collect();
            let found: Vec<_> = stream.iter().map(|(id, _)| *id).collect();
            assert_eq!(found, ids, "the entries of priority {priority}");
            for ((_, fields), (_, entry)) in stream.iter().zip(&entries) {
                assert_eq!(texts(fields), texts(&entry.fields));
            }
            for group in &self.groups {
                let leased = entries.iter().filter_map(|(id, entry)| {
                    let lease = entry.lease(*group)?;
                    Some((**id, consumer_name(lease.consumer).into_bytes(), lease.deliveries))
                });
                let leased: Vec<_> = leased.collect();
                let seen = snapshot.groups.get(&(*priority, *group));
                let pending = seen.map_or(&[][..], |seen| &seen.pending[..]);
                assert_eq!(pending, leased, "the leases of {group:?}, priority {priority}");
                for (id, entry) in &entries {
                    let is_new = seen.is_none_or(|seen| **id > seen.last);
                    assert_eq!(is_new, entry.is_ready(*group), "{id} to {group:?}: {entry:?}");
                }
            }
        }
    }

    #[track_caller]
    pub fn check_info(&self, snapshot: &Snapshot) {
        let info = &snapshot.info;
        let count = |number: usize| int(i64::try_from(number).expect("few"));
        let totals = ["length", "delayed", "dead", "waiting_consumers"].map(|name| info.get(name));
        let expected = [self.entries.len(), self.delayed.len(), self.dead.len(), 0].map(count);
        assert_eq!(totals.map(Clone::clone), expected, "{info:?}");

        for priority in PRIORITIES.into_iter().filter(|priority| *priority > 0) {
            let length = self.entries.keys().filter(|id| id.priority() == priority).count();
            let expected = (length > 0).then(|| count(length));
            let found = info.get("priorities").field(&priority.to_string());
            assert_eq!(found, expected.as_ref(), "priority {priority}: {info:?}");
        }

        let groups = info.get("groups").items();
        assert_eq!(groups.len(), self.groups.len(), "{info:?}");
        for group in &self.groups {
            let found = groups.iter().find(|found| found.get("name") == &bulk(group.name()));
            let found = found.unwrap_or_else(|| panic!("no {group:?}: {info:?}"));
            assert_eq!(found.get("leased"), &count(self.leased(*group).len()), "{info:?}");
            let ready = self.entries.values().filter(|entry| entry.is_ready(*group));
            let (own, foreign): (Vec<_>, Vec<_>) = ready.partition(|e| e.task.is_for(*group));
            // Copies for another group may count until this group is past them.
            let (least, most) = (own.len(), own.len() + foreign.len());
            let ready = usize::try_from(found.get("ready").as_int()).expect("a count");
            assert!((least..=most).contains(&ready), "not {least} to {most}: {info:?}");
            let age = found.get("oldest_leased_ms").as_int();
            let leases = self.entries.values().filter_map(|entry| entry.lease(*group));
            match leases.map(|lease| (lease.began.from, lease.began.to)).min() {
                None => assert_eq!(age, 0, "{info:?}"),
                Some((from, to)) => {
                    let ages = snapshot.at.from - to..=snapshot.at.to - from;
                    assert!(ages.contains(&age), "not {ages:?}: {info:?}");
                }
            }
        }

        let next = info.get("next_due_ms").as_int();
        match self.delayed.iter().map(|delayed| delayed.due).min() {
            None => assert_eq!(next, -1, "{info:?}"),
            Some(due) => {
                let left = (due - snapshot.at.to).max(0)..=(due - snapshot.at.from).max(0);
                assert!(left.contains(&next), "not {left:?}: {info:?}");
            }
        }

        let policy = info.get("policy");
        let found = Policy {
            lease: policy.get("lease_ms").as_int(),
            tries: policy.get("tries").as_int(),
            backoff: (
                policy.get("backoff_base_ms").as_int(),
                policy.get("backoff_max_ms").as_int(),
            ),
            limit: policy.get("limit").as_int(),
            keep: policy.get("keep").as_int() == 1,
            paused: policy.get("paused").as_int() == 1,
        };
        assert_eq!(found, self.policy);
    }

    /// Checks that there is no unknown key.
    #[track_caller]
    pub fn check_keys(&self, snapshot: &Snapshot) {
        let known = PRIORITIES.map(stream_key).into_iter();
        let known = known.chain(PREFIXES.map(key));
        let known = known.chain(self.unique.keys().map(|unique| unique_key(*unique)));
        let known: BTreeSet<_> = known.map(String::into_bytes).collect();
        let unknown: Vec<_> = snapshot.keys.difference(&known).map(|k| k.escape_ascii()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        for unique in self.unique.keys() {
            assert!(snapshot.keys.contains(unique_key(*unique).as_bytes()), "order {unique}");
        }
    }

    /// Checks that every published task is in exactly one state: ready, leased, delayed, dead or
    /// finished. This uses only what a plain client reads, and what was acknowledged or canceled.
    #[track_caller]
    pub fn check_that_each_task_is_in_one_state(&self, snapshot: &Snapshot) {
        for group in &self.groups {
            if self.with == Groups::SecondLater && *group == Group::B {
                // It gets nothing that was finished or dead before.
                continue;
            }
            let mut found: BTreeMap<Id, Vec<String>> = BTreeMap::new();
            let mut find = |id: Id, state: String| found.entry(id).or_default().push(state);
            let is_for = |fields: &Fields| {
                value_of(fields, "group").is_none_or(|name| name == group.name().as_bytes())
            };
            for (priority, stream) in &snapshot.streams {
                let seen = snapshot.groups.get(&(*priority, *group));
                for (id, fields) in stream.iter().filter(|(_, fields)| is_for(fields)) {
                    let task = original(fields).map_or(*id, Id::parse);
                    match seen {
                        Some(seen) if seen.is_pending(*id) => find(task, format!("leased {id}")),
                        Some(seen) if *id <= seen.last => {}
                        _ => find(task, format!("ready {id}")),
                    }
                }
            }
            for (member, _) in &snapshot.delayed {
                let member = Member::parse(member);
                if member.group().is_none_or(|own| own == *group) {
                    let task = member.original.unwrap_or(member.id);
                    find(task, format!("delayed {}", member.id));
                }
            }
            for held in &self.held {
                find(held.task.original, "held".into());
            }
            for (id, fields) in snapshot.dead.iter().filter(|(_, fields)| is_for(fields)) {
                let task = original(fields).map_or(*id, Id::parse);
                find(task, format!("dead {id}"));
            }
            for (id, _) in self.ended.iter().filter(|(_, by)| by == group) {
                find(*id, "done".into());
            }
            for id in &self.published {
                let states = found.remove(id).unwrap_or_default();
                assert_eq!(states.len(), 1, "the states of {id} for {group:?}: {states:?}");
            }
            assert!(found.is_empty(), "not published: {found:?}");
        }
    }

    /// Checks that the counters have grown by what was done.
    #[track_caller]
    pub fn check_counts(&mut self) {
        let now = counts(&mut self.client);
        let grown: Counts =
            now.iter().map(|(name, count)| (*name, count - self.counted[name])).collect();
        assert_eq!(grown, self.counts);
    }
}
