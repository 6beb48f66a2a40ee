//! One id for the life of a task: the decisions. Nothing here depends on a server.
//!
//! The id that PUBLISH replied is the *original* id. A task that moves gets another entry, so its
//! *present* id differs. `taskmoved:{stream}` maps the original id to the present one, for tasks that
//! have moved and are neither done nor dead. An original id belongs to the queue in which it was
//! born: a copy that came from another queue has no field, because two queues use the same ids.

use super::entry::Task;
use super::id::{EntryId, Priority};

/// How much the queue knows of the original id of a task that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// The task moves for the first time, so the id under which it was found is the original one.
    Here,
    /// The task is a copy. It was born here only if the field names it.
    Copy,
    /// The task was born here, or another client chose its id. A task that has the field keeps it.
    Claimed,
}

/// A task that changes its present id, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The original id.
    pub original: EntryId,
    /// What is known of it.
    pub birth: Birth,
    /// The id that the task had.
    pub from: EntryId,
    /// The id that it has now; `None` if it has ended.
    pub to: Option<EntryId>,
}

/// What happens to the field of an original id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// It names this present id.
    Set(EntryId),
    /// It is removed.
    Remove,
}

/// The original id of a task that is found under `id`, and what is known of it. `place` is the
/// priority of its stream; `None` if the task is delayed.
pub fn origin(task: &Task<'_>, id: EntryId, place: Option<Priority>) -> (EntryId, Birth) {
    match task.original_id.and_then(EntryId::parse) {
        Some(original) => (original, Birth::Copy),
        // Only PUBLISH makes ids that name the place where they are. Other clients may add any id.
        None if id.priority() == place => (id, Birth::Here),
        None => (id, Birth::Claimed),
    }
}

impl Move {
    /// The move of a task that is found under `from`.
    pub fn of(
        task: &Task<'_>,
        (from, place): (EntryId, Option<Priority>),
        to: Option<EntryId>,
    ) -> Self {
        let (original, birth) = origin(task, from, place);
        Self { original, birth, from, to }
    }

    /// What happens to the field of the original id, which holds `present` now. With several consumer
    /// groups (`only_one` is false) a task has a copy for each, so no field is set.
    pub fn change(&self, present: Option<EntryId>, only_one: bool) -> Change {
        let is_ours = present == Some(self.from);
        match self.to.filter(|_| only_one) {
            Some(to) => {
                let may_set = match self.birth {
                    Birth::Here => true,
                    Birth::Copy => is_ours,
                    Birth::Claimed => is_ours || present.is_none(),
                };
                if may_set { Change::Set(to) } else { Change::Keep }
            }
            None if is_ours => Change::Remove,
            None => Change::Keep,
        }
    }

    /// Whether the field has to be read for [`Move::change`].
    pub fn needs_field(&self, only_one: bool) -> bool {
        self.birth != Birth::Here || self.to.is_none() || !only_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(n: u64) -> EntryId {
        EntryId::parse(format!("{n}-0").as_bytes()).unwrap()
    }

    #[test]
    fn only_an_id_that_names_its_place_is_certainly_our_own() {
        let delayed = EntryId::parse(b"5-1000000000000000007").unwrap();
        let high = EntryId::parse(b"5-300000000000000000").unwrap();
        let (task, priority) = (Task::default(), |number| Priority::new(number));
        let birth = |id, place| origin(&task, id, place).1;
        assert_eq!(birth(id(5), priority(0)), Birth::Here);
        assert_eq!(birth(high, priority(3)), Birth::Here);
        assert_eq!(birth(delayed, None), Birth::Here);
        for (id, place) in [(id(5), priority(3)), (high, priority(0)), (delayed, priority(0))] {
            assert_eq!(origin(&task, id, place), (id, Birth::Claimed));
        }
        let copy = Task { original_id: Some(b"4-0"), ..Task::default() };
        assert_eq!(origin(&copy, id(5), priority(0)), (id(4), Birth::Copy));
    }

    /// A task of the model: its original id, its present id, and whether it was born in this queue.
    type Live = (u64, u64, bool);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Tasks are born here, arrive from another queue with any original id, move and end. The
        /// fields then name exactly the tasks of this queue that live and have moved.
        #[test]
        fn the_fields_name_the_tasks_of_this_queue_that_have_moved(
            steps in prop::collection::vec((0..5u8, any::<u16>()), 1..120),
        ) {
            let (mut fields, mut live) = (BTreeMap::<EntryId, EntryId>::new(), Vec::<Live>::new());
            let (mut next, mut born) = (1_000, 0);
            let apply = |fields: &mut BTreeMap<EntryId, EntryId>, moved: Move| {
                let field = fields.get(&moved.original).copied();
                let known = field.filter(|_| moved.needs_field(true));
                match moved.change(known, true) {
                    Change::Keep => {}
                    Change::Set(to) => drop(fields.insert(moved.original, to)),
                    Change::Remove => drop(fields.remove(&moved.original)),
                }
            };
            for (step, n) in steps {
                let index = usize::from(n) % live.len().max(1);
                match (step, live.get(index).copied()) {
                    (0, _) | (_, None) => {
                        born += 1;
                        live.push((born, born, true));
                    }
                    (1, _) => {
                        next += 1;
                        live.push((u64::from(n) % (born + 3), next, false));
                    }
                    (step, Some((original, present, ours))) => {
                        let birth = if original == present { Birth::Here } else { Birth::Copy };
                        let (original_id, from) = (id(original), id(present));
                        next += 1;
                        let to = (step > 2).then_some(id(next));
                        apply(&mut fields, Move { original: original_id, birth, from, to });
                        if to.is_some() {
                            live[index] = (original, next, ours);
                        } else {
                            live.remove(index);
                        }
                    }
                }
                let expected: BTreeMap<_, _> = live
                    .iter()
                    .filter(|(original, present, ours)| *ours && original != present)
                    .map(|(original, present, _)| (id(*original), id(*present)))
                    .collect();
                prop_assert_eq!(&fields, &expected);
            }
        }

        /// With several groups no field is set, and a field that names the task goes.
        #[test]
        fn several_groups_leave_no_field(original in 0..9u64, from in 0..9u64, to: bool, field in 0..9u64) {
            for birth in [Birth::Here, Birth::Copy, Birth::Claimed] {
                let to = to.then_some(id(100));
                let moved = Move { original: id(original), birth, from: id(from), to };
                let expected = if field == from { Change::Remove } else { Change::Keep };
                prop_assert_eq!(moved.change(Some(id(field)), false), expected);
            }
        }
    }
}
