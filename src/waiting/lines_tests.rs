use super::*;
use proptest::prelude::*;

const NOW: Moment = Moment(1_000_000);

/// What can happen to the lines.
#[derive(Clone, Debug)]
enum Step {
    /// A waiter joins these lines, all of one database and part.
    Join(usize, Vec<usize>),
    ServeFirst(usize),
    /// The waiter that came as the n-th leaves, if it is still there.
    Leave(usize),
    MarkDirty(usize),
    SetDue(usize, Option<i64>),
    MarkDatabaseDirty(i32),
    ServeDirty,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// One for each line.
fn addresses() -> Vec<Address> {
    let mut all = Vec::new();
    for db in [0, 1] {
        for name in NAMES {
            for part in ["", "g"] {
                all.push(Address {
                    part: part.as_bytes().into(),
                    ..Address::of(db, name.as_bytes())
                });
            }
        }
    }
    all
}

const LINES: usize = 12;

/// The line of a name that lies beside another line: in the same database, for the same part.
fn beside(line: usize, name: usize) -> usize {
    line / 6 * 6 + name * 2 + line % 2
}

/// A waiter of the model.
struct Waits {
    arrival: usize,
    place: Place,
    /// In the order in which it named them.
    lines: Vec<usize>,
    at: Address,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LINES, prop::sample::subsequence(vec![0, 1, 2], 1..=3).prop_shuffle())
            .prop_map(|(line, names)| Step::Join(line, names)),
        3 => (0..LINES).prop_map(Step::ServeFirst),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => (0..LINES).prop_map(Step::MarkDirty),
        1 => (0..LINES, prop::option::of(0..10_000_000i64))
            .prop_map(|(line, us)| Step::SetDue(line, us)),
        1 => (0..2).prop_map(Step::MarkDatabaseDirty),
        1 => Just(Step::ServeDirty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Against a plain list of the waiters in order of arrival.
    #[test]
    fn the_first_to_arrive_is_served_first_and_no_waiter_is_lost(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let addresses = addresses();
        let all = Lines::new(&Rc::default());
        let mut model: Vec<Waits> = Vec::new();
        let mut dirty: Vec<(i32, Box<[u8]>)> = Vec::new();
        let mut arrivals = 0;
        for step in steps {
            match step {
                Step::Join(line, names) => {
                    let place = all.new_place();
                    let lines: Vec<_> =
                        names.into_iter().map(|name| beside(line, name)).collect();
                    let mut at = addresses[lines[0]].clone();
                    at.further =
                        lines[1..].iter().map(|line| addresses[*line].name.clone()).collect();
                    all.join(&at, place, arrivals, NOW);
                    model.push(Waits { arrival: arrivals, place, lines, at });
                    arrivals += 1;
                }
                Step::ServeFirst(line) => {
                    let at = &addresses[line];
                    let expected = model.iter().position(|waits| waits.lines.contains(&line));
                    let first = all.first(at.db, &at.name, &at.part);
                    prop_assert_eq!(
                        first,
                        expected.map(|index| (model[index].place, model[index].arrival))
                    );
                    if let (Some((place, waiter)), Some(index)) = (first, expected) {
                        // It leaves all its lines, whichever serves it.
                        let Waits { at, .. } = model.remove(index);
                        prop_assert_eq!(all.leave(&at, place), Some(waiter));
                        prop_assert_eq!(all.leave(&at, place), None);
                    }
                }
                Step::Leave(n) if !model.is_empty() => {
                    let Waits { arrival, place, at, .. } = model.remove(n % model.len());
                    prop_assert_eq!(all.leave(&at, place), Some(arrival));
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
            for (line, at) in addresses.iter().enumerate() {
                let here = inner.get(at.db, &at.name).and_then(|name| name.lines.get(&at.part));
                prop_assert_eq!(
                    here.map_or(0, |line| line.waiting),
                    model.iter().filter(|waits| waits.lines.contains(&line)).count()
                );
            }
            let lines = names().flat_map(|name| name.lines.values());
            prop_assert!(lines.into_iter().all(|line| line.waiting > 0));
        }
    }
}

fn waits_in(model: &[Waits], addresses: &[Address], name: &(i32, Box<[u8]>)) -> bool {
    let lines = || model.iter().flat_map(|waits| &waits.lines).map(|line| &addresses[*line]);
    lines().any(|at| at.db == name.0 && at.name == name.1)
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
