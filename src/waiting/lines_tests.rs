use super::*;
use proptest::prelude::*;

const NOW: Moment = Moment(1_000_000);

/// What can happen to the lines.
#[derive(Clone, Debug)]
enum Step {
    Join(usize),
    ServeFirst(usize),
    /// The waiter that came as the n-th leaves, if it is still there.
    Leave(usize),
    MarkDirty(usize),
    SetDue(usize, Option<i64>),
    MarkDatabaseDirty(i32),
    ServeDirty,
}

fn addresses() -> Vec<Address> {
    let mut all = Vec::new();
    for db in [0, 1] {
        for name in ["a", "b"] {
            for part in ["", "g"] {
                let (name, part) = (name.as_bytes().into(), part.as_bytes().into());
                all.push(Address { db, name, part });
            }
        }
    }
    all
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8usize).prop_map(Step::Join),
        3 => (0..8usize).prop_map(Step::ServeFirst),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => (0..8usize).prop_map(Step::MarkDirty),
        1 => (0..8usize, prop::option::of(0..10_000_000i64))
            .prop_map(|(line, us)| Step::SetDue(line, us)),
        1 => (0..2).prop_map(Step::MarkDatabaseDirty),
        1 => Just(Step::ServeDirty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Against a plain list of (arrival, line, place) in order of arrival.
    #[test]
    fn the_first_to_arrive_is_served_first_and_no_waiter_is_lost(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let addresses = addresses();
        let all = Lines::default();
        let mut model: Vec<(usize, usize, Place)> = Vec::new();
        let mut dirty: Vec<(i32, Box<[u8]>)> = Vec::new();
        let mut arrivals = 0;
        for step in steps {
            match step {
                Step::Join(line) => {
                    let place = all.new_place();
                    all.join(&addresses[line], place, arrivals, NOW);
                    model.push((arrivals, line, place));
                    arrivals += 1;
                }
                Step::ServeFirst(line) => {
                    let at = &addresses[line];
                    let expected = model.iter().position(|(_, l, _)| *l == line);
                    let first = all.first(at.db, &at.name, &at.part);
                    prop_assert_eq!(
                        first,
                        expected.map(|index| (model[index].2, model[index].0))
                    );
                    if let (Some((place, waiter)), Some(index)) = (first, expected) {
                        prop_assert_eq!(all.leave(at, place), Some(waiter));
                        prop_assert_eq!(all.leave(at, place), None);
                        model.remove(index);
                    }
                }
                Step::Leave(n) if !model.is_empty() => {
                    let (waiter, line, place) = model.remove(n % model.len());
                    prop_assert_eq!(all.leave(&addresses[line], place), Some(waiter));
                }
                Step::Leave(_) => {}
                Step::MarkDirty(line) => {
                    let at = &addresses[line];
                    let waited_for = all.mark_dirty(at.db, &at.name);
                    let name = (at.db, at.name.clone());
                    prop_assert_eq!(waited_for, waits_in(&model, &addresses, &name));
                    if waited_for {
                        dirty.push(name);
                    }
                }
                Step::SetDue(line, us) => {
                    let at = &addresses[line];
                    let due = us.map(|us| Moment(NOW.0 + us));
                    all.set_due(at.db, &at.name, due, NOW);
                }
                Step::MarkDatabaseDirty(db) => {
                    all.mark_databases_dirty(&[db]);
                    let here = addresses.iter().filter(|at| at.db == db);
                    dirty.extend(here.map(|at| (at.db, at.name.clone())));
                }
                Step::ServeDirty => {
                    while let Some(name) = all.next_dirty() {
                        prop_assert!(dirty.contains(&name));
                        prop_assert!(waits_in(&model, &addresses, &name));
                        dirty.retain(|other| *other != name);
                    }
                    // Names that were not returned have lost their waiters since.
                    for name in dirty.drain(..) {
                        let inner = all.0.borrow();
                        prop_assert!(
                            inner.get(name.0, &name.1).is_none_or(|name| name.dirty.is_none())
                        );
                    }
                }
            }
            prop_assert_eq!(all.len(), model.len());
            let inner = all.0.borrow();
            // Nothing is kept of names that are gone, and every other one is checked in time.
            let names = || inner.names.values().flat_map(HashMap::values);
            prop_assert_eq!(inner.due.len(), names().count());
            prop_assert_eq!(
                inner.dirty.len(),
                names().filter(|name| name.dirty.is_some()).count()
            );
            prop_assert!(names().all(|name| name.due <= NOW + CHECK));
            let lines: usize = names()
                .flat_map(|name| name.lines.values())
                .map(|line| line.waiting)
                .sum();
            prop_assert_eq!(lines, model.len());
        }
    }
}

fn waits_in(
    model: &[(usize, usize, Place)],
    addresses: &[Address],
    name: &(i32, Box<[u8]>),
) -> bool {
    model.iter().any(|(_, l, _)| addresses[*l].db == name.0 && addresses[*l].name == name.1)
}

#[test]
fn a_line_that_empties_from_the_middle_keeps_no_gaps() {
    let mut line = Line::default();
    (0..10_000).for_each(|place| line.join(place, place));
    for place in (0..10_000).filter(|place| place % 100 != 0) {
        assert_eq!(line.leave(place), Some(place));
    }
    assert!(line.places.len() <= 2 * line.waiting + 16, "{} places", line.places.len());
    for place in (0..10_000).step_by(100) {
        assert_eq!(line.first().map(|(place, _)| place), Some(place));
        line.leave(place);
    }
    assert_eq!(line.places.len(), 0);
}
