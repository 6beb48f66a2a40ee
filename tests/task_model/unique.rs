//! UNIQUE with UNTIL and LAST in the model: marks, windows that end with their tasks, tasks that are
//! replaced, and tasks that are held until another one has ended. What has ended is found after each
//! step, by comparing the marks with the tasks that live.

use super::model::*;
use super::snapshot::*;
use super::steps::*;
use super::support::{Value, int};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What is counted beside the server's counters: publishes that were held, or replaced another one.
pub const TOTALS: [&str; 2] = ["queued", "replaced"];

/// A mark of a task.
#[derive(Clone, Debug)]
pub struct Mark {
    /// `None`: the window ends by its time.
    pub until: Option<Until>,
    pub unique: u8,
    /// The task that is held until this one has ended.
    pub successor: Option<Id>,
}

impl Mark {
    pub fn new(unique: Unique) -> Self {
        Self { until: unique.until, unique: unique.id, successor: None }
    }

    fn text(&self) -> String {
        let until = match self.until {
            Some(Until::Start) => "start",
            Some(Until::Done) => "done",
            None => "time",
        };
        let successor = self.successor.map_or_else(|| "-".into(), |id| id.to_string());
        format!("{until} {successor} order {}", self.unique)
    }
}

/// A held task. Its id is the original one.
#[derive(Clone, Debug)]
pub struct Held {
    pub due: i64,
    /// The original id of the task that has to end before.
    pub after: Id,
    pub task: Task,
    pub member: Vec<u8>,
}

/// The place of the task that a publish with LAST finds.
enum Found {
    Held(usize),
    Delayed(usize),
    Ready(Id),
    Leased,
}

impl World<'_> {
    fn found(&self, original: Id) -> Option<Found> {
        if let Some(nth) = self.held.iter().position(|held| held.task.original == original) {
            return Some(Found::Held(nth));
        }
        let present = self.present(original);
        if let Some(nth) = self.delayed.iter().position(|delayed| delayed.id == present) {
            return Some(Found::Delayed(nth));
        }
        let entry = self.entries.get(&present).filter(|entry| !entry.is_done_by_all())?;
        Some(if entry.is_ready(Group::A) { Found::Ready(present) } else { Found::Leased })
    }

    /// The task that a publish with LAST finds, by its original id.
    pub fn before(&self, unique: Unique) -> Option<Id> {
        let holder = self.unique.get(&unique.id).filter(|_| unique.last)?;
        self.found(*holder).map(|_| *holder)
    }

    /// A publish with LAST has found the task `before`. `task` is what it published; it is due in
    /// `due_in`, if that is later.
    #[track_caller]
    pub fn follow(
        &mut self,
        (unique, before): (Unique, Id),
        (reply, outcome): (&Value, &str),
        task: Task,
        due_in: Option<RangeInclusive<i64>>,
        span: Span,
    ) {
        let found = self.found(before).expect("it lives");
        let snapshot = self.look();
        let soon = span.from..=span.to;
        if matches!(found, Found::Leased) {
            if self.is_full() {
                assert!(reply.is_error_with("TASKFULL "), "{reply:?}");
                return self.count("refused", 1);
            }
            assert!(["queued", ""].contains(&outcome), "{outcome}");
            let original = Id::parse(reply.bytes());
            self.published.push(original);
            self.count("published", 1);
            *self.totals.entry("queued").or_default() += 1;
            let task = Task { original, ..task };
            self.hold(&snapshot, task, before, due_in.unwrap_or(soon));
            let leased = Mark { until: None, ..Mark::new(unique) };
            let mark = self.marks.entry(before).or_insert(leased);
            mark.successor = Some(original);
            self.marks.insert(original, Mark::new(unique));
            self.unique.insert(unique.id, original);
            return;
        }
        assert_eq!(Id::parse(reply.bytes()), before);
        assert!(["replaced", ""].contains(&outcome), "{outcome}");
        self.count("deduplicated", 1);
        *self.totals.entry("replaced").or_default() += 1;
        let task = Task { original: before, ..task };
        let (old, back_off) = match found {
            Found::Held(nth) => {
                let after = self.held.remove(nth).after;
                return self.hold(&snapshot, task, after, due_in.unwrap_or(soon));
            }
            Found::Delayed(nth) => {
                let old = self.delayed.remove(nth);
                assert!(!snapshot.has_delayed(&old.member), "{old:?} is still there");
                let back_off = (old.task.retry_count > 0).then_some(old.due);
                (old.task, back_off)
            }
            Found::Ready(id) => (self.entries.remove(&id).expect("it is there").task, None),
            Found::Leased => unreachable!("it is held"),
        };
        let retry_count = if old.retry_count > 0 { old.retry_count } else { task.retry_count };
        let task = Task { retry_count, group: old.group, is_copy: true, ..task };
        self.marks.entry(before).or_insert(Mark::new(unique));
        let due_in = match (due_in, back_off) {
            (Some(due), Some(end)) => Some(*due.start().max(&end)..=*due.end().max(&end)),
            (None, Some(end)) => Some(end..=end),
            (due, None) => due,
        };
        match due_in.filter(|_| !self.new_delayed(&snapshot).is_empty()) {
            Some(due_in) => self.arrive_delayed(&snapshot, task, due_in),
            None => {
                // What is in back-off may be due by now.
                assert!(back_off.is_none_or(|end| end <= span.to), "{task:?} is early");
                self.arrive(&snapshot, vec![task], span);
            }
        }
    }

    /// Takes in the member that stores a held task.
    #[track_caller]
    pub fn hold(
        &mut self,
        snapshot: &Snapshot,
        task: Task,
        after: Id,
        due_in: RangeInclusive<i64>,
    ) {
        let parts = |member: &[u8]| {
            let words: Vec<_> = member.splitn(3, |byte| *byte == b' ').collect();
            let [due, after, rest] = words[..] else { panic!("no held task: {member:?}") };
            (number(due), Id::parse(after), rest.to_vec())
        };
        let members = snapshot.held.iter().map(|member| (member, parts(member)));
        let mut members = members.filter(|(_, parts)| Member::parse(&parts.2).id == task.original);
        let (member, (due, behind, rest)) = members.next().expect("the held task");
        assert!(members.next().is_none(), "{task:?} is held twice");
        assert!(due_in.contains(&due), "due at {due}, not in {due_in:?}");
        assert_eq!(behind, after, "{task:?}");
        let found = Member::parse(&rest);
        assert_eq!(found.original, None, "{found:?}");
        found.assert_stores(&task);
        self.held.push(Held { due, after, task, member: member.clone() });
    }

    /// Takes out the held tasks that have entered the queue. Those that are delayed are taken in;
    /// returns the others, in their order.
    #[track_caller]
    pub fn enter(&mut self, snapshot: &Snapshot) -> Vec<Task> {
        let is_left = |held: &Held| snapshot.held.contains(&held.member);
        let (left, entered): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(is_left);
        self.held = left;
        let mut ready = BTreeMap::new();
        for Held { due, after, task, .. } in entered {
            self.entered_after.insert(after);
            *self.totals.entry("entered").or_default() += 1;
            let task = Task { is_copy: true, ..task };
            let original = task.original;
            let is_it =
                |(member, _): &(Vec<u8>, i64)| Member::parse(member).original == Some(original);
            if let Some((member, found)) = self.new_delayed(snapshot).into_iter().find(is_it) {
                assert_eq!(found, due, "{task:?}");
                let parsed = Member::parse(&member);
                parsed.assert_stores(&task);
                let id = parsed.id;
                self.delayed.push(Delayed { id, due, member, task, is_moved: false });
                continue;
            }
            assert!(due <= snapshot.at.to, "{task:?} enters early");
            let text = task.original.to_string().into_bytes();
            let entries = snapshot.streams.values().flatten();
            let mut ids = entries.filter(|(_, fields)| original_is(fields, &text));
            let (id, _) = ids.next().unwrap_or_else(|| panic!("{task:?} is not in the queue"));
            ready.insert(*id, task);
        }
        ready.into_values().collect()
    }

    /// A task was delivered.
    pub fn started(&mut self, original: Id) {
        if self.marks.get(&original).is_some_and(|mark| mark.until == Some(Until::Start)) {
            self.end_mark(original);
        }
    }

    /// Removes a mark, and the window that ends with it.
    fn end_mark(&mut self, original: Id) {
        let Some(mark) = self.marks.remove(&original) else { return };
        if mark.until.is_some() && self.unique.get(&mark.unique) == Some(&original) {
            self.unique.remove(&mark.unique);
        }
    }

    /// A held task is canceled while the task before it lives.
    pub fn successor_gone(&mut self, after: Id, gone: Id) {
        if let Some(mark) = self.marks.get_mut(&after).filter(|mark| mark.successor == Some(gone)) {
            mark.successor = None;
            if let Some(holder) = self.unique.get_mut(&mark.unique).filter(|id| **id == gone) {
                *holder = after;
            }
        }
    }

    /// Ends the marks of the tasks that have ended, and checks what is left.
    #[track_caller]
    pub fn check_unique(&mut self, snapshot: &Snapshot) {
        let live: BTreeSet<Id> = self.live().into_iter().map(|(original, ..)| original).collect();
        let ended: Vec<Id> = self.marks.keys().filter(|id| !live.contains(id)).copied().collect();
        ended.into_iter().for_each(|original| self.end_mark(original));
        for after in std::mem::take(&mut self.entered_after) {
            assert!(!live.contains(&after), "a task has not waited until {after} has ended");
        }
        for held in &self.held {
            assert!(live.contains(&held.after), "nothing keeps {held:?}");
        }
        let marks = self.marks.iter().map(|(id, mark)| (*id, mark.text()));
        assert_eq!(snapshot.marks, marks.collect(), "the marks");
        assert_eq!(snapshot.windows, self.unique, "the windows");
        let members: BTreeSet<_> = self.held.iter().map(|held| held.member.clone()).collect();
        assert_eq!(snapshot.held.iter().cloned().collect::<BTreeSet<_>>(), members, "held");
        let number = i64::try_from(self.held.len()).expect("few");
        assert_eq!(snapshot.info.get("held"), &int(number));
    }
}

fn original_is(fields: &Fields, text: &[u8]) -> bool {
    original(fields) == Some(text)
}
