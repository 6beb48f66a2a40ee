//! Lines, rooms and halls: who waits where, in which order, and what is to be looked at again when.
//! Nothing here knows a server.

use crate::time::{Millis, Moment, UnixMs};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// A waiter's place in its line. Places rise in the order of arrival, and none is given twice.
pub type Place = u64;

/// A line: first come, first served. Leaving from the middle leaves a gap; gaps are closed when
/// they outnumber the waiters, so every operation is O(1), or O(log n) to find a place, amortised.
struct Line<T> {
    places: VecDeque<(Place, Option<T>)>,
    waiting: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), waiting: 0 }
    }
}

impl<T> Line<T> {
    /// Joins at a place: a new one at the end, or one that its waiter had before.
    fn join(&mut self, place: Place, waiter: T) {
        match self.places.binary_search_by_key(&place, |(place, _)| *place) {
            // The gap that the waiter left is still there.
            Ok(index) => {
                if let Some(gap) = self.places.get_mut(index) {
                    gap.1 = Some(waiter);
                }
            }
            Err(index) => self.places.insert(index, (place, Some(waiter))),
        }
        self.waiting += 1;
    }

    /// The first in line.
    fn first(&self) -> Option<(Place, &T)> {
        self.places.iter().find_map(|(place, waiter)| waiter.as_ref().map(|w| (*place, w)))
    }

    /// Leaves, from wherever it stands.
    fn leave(&mut self, place: Place) -> Option<T> {
        let index = self.places.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let waiter = self.places.get_mut(index)?.1.take()?;
        self.waiting -= 1;
        while self.places.front().is_some_and(|(_, waiter)| waiter.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.waiting + 16 {
            self.places.retain(|(_, waiter)| waiter.is_some());
        }
        Some(waiter)
    }
}

/// Every room is looked at this often at least: some of what can change there raises no event, and
/// the wall clock, which decides when leases expire, can be set.
pub const LOOK: Millis = Millis(800);

/// The lines of one name: one for each part, such as a consumer group.
struct Room<T> {
    lines: BTreeMap<Box<[u8]>, Line<T>>,
    /// Its number in [`Hall::restless`] while it is there.
    restless: Option<u64>,
    /// When it is looked at next whatever happens: in [`LOOK`] at the latest.
    due: Moment,
    end: Option<UnixMs>,
}

/// Where a line is: database, name and part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The database.
    pub db: i32,
    /// The name that everybody in the room waits for.
    pub name: Box<[u8]>,
    /// The part of it, such as a consumer group; empty where names have no parts.
    pub part: Box<[u8]>,
}

/// All lines of one family.
pub struct Hall<T> {
    /// By database, of which few are used, and name.
    rooms: BTreeMap<i32, HashMap<Box<[u8]>, Room<T>>>,
    /// The rooms to be looked at now, in the order in which they were disturbed.
    restless: BTreeMap<u64, (i32, Box<[u8]>)>,
    /// How many rooms were disturbed so far.
    disturbed: u64,
    due: BTreeSet<(Moment, i32, Box<[u8]>)>,
    waiting: usize,
    next: Place,
}

impl<T> Default for Hall<T> {
    fn default() -> Self {
        Self {
            rooms: BTreeMap::new(),
            restless: BTreeMap::new(),
            disturbed: 0,
            due: BTreeSet::new(),
            waiting: 0,
            next: 0,
        }
    }
}

impl<T> Hall<T> {
    fn room(&self, db: i32, name: &[u8]) -> Option<&Room<T>> {
        self.rooms.get(&db)?.get(name)
    }

    /// A place behind all others.
    pub fn new_place(&mut self) -> Place {
        self.next += 1;
        self.next
    }

    /// The last place that was given to anybody.
    pub fn last_place(&self) -> Place {
        self.next
    }

    /// Joins the line at `address`, at a [`Hall::new_place`] or one that the waiter had before and
    /// nobody else has now.
    pub fn join(&mut self, address: &Address, place: Place, waiter: T, now: Moment) {
        self.waiting += 1;
        let rooms = self.rooms.entry(address.db).or_default();
        let room = rooms.entry(address.name.clone()).or_insert_with(|| {
            let due = now.after(LOOK);
            self.due.insert((due, address.db, address.name.clone()));
            Room { lines: BTreeMap::new(), restless: None, due, end: None }
        });
        room.lines.entry(address.part.clone()).or_default().join(place, waiter);
    }

    /// Leaves the line at `address`; an empty line, room and database are forgotten.
    pub fn leave(&mut self, address: &Address, place: Place) -> Option<T> {
        let rooms = self.rooms.get_mut(&address.db)?;
        let room = rooms.get_mut(&address.name)?;
        let line = room.lines.get_mut(&address.part)?;
        let waiter = line.leave(place)?;
        self.waiting -= 1;
        if line.waiting == 0 {
            room.lines.remove(&address.part);
        }
        if room.lines.is_empty() {
            self.due.remove(&(room.due, address.db, address.name.clone()));
            if let Some(number) = room.restless {
                self.restless.remove(&number);
            }
            rooms.remove(&address.name);
        }
        if rooms.is_empty() {
            self.rooms.remove(&address.db);
        }
        Some(waiter)
    }

    /// The first in a line.
    pub fn first(&self, db: i32, name: &[u8], part: &[u8]) -> Option<(Place, &T)> {
        self.room(db, name)?.lines.get(part)?.first()
    }

    /// Whether somebody waits in a line and nothing has happened since it was looked at.
    pub fn is_calm(&self, db: i32, name: &[u8], part: &[u8]) -> bool {
        let room = self.room(db, name);
        room.is_some_and(|room| room.restless.is_none() && room.lines.contains_key(part))
    }

    /// The parts of a name for which somebody waits.
    pub fn parts(&self, db: i32, name: &[u8]) -> Vec<Box<[u8]>> {
        self.room(db, name).map(|room| room.lines.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many wait in all lines.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Marks a room, if there is one, to be looked at again. True if somebody waits there.
    pub fn disturb(&mut self, db: i32, name: &[u8]) -> bool {
        let room = self.rooms.get_mut(&db).and_then(|rooms| rooms.get_mut(name));
        let Some(room) = room else { return false };
        if room.restless.is_none() {
            self.disturbed += 1;
            room.restless = Some(self.disturbed);
            self.restless.insert(self.disturbed, (db, name.into()));
        }
        true
    }

    /// Marks every room of the databases, or of all if there are none named.
    pub fn disturb_databases(&mut self, dbs: &[i32]) {
        let chosen = self.rooms.iter().filter(|(db, _)| dbs.is_empty() || dbs.contains(db));
        let rooms: Vec<(i32, Box<[u8]>)> =
            chosen.flat_map(|(db, rooms)| rooms.keys().map(|name| (*db, name.clone()))).collect();
        for (db, name) in rooms {
            self.disturb(db, &name);
        }
    }

    /// How many wait in one line.
    pub fn len_of(&self, db: i32, name: &[u8], part: &[u8]) -> usize {
        let line = self.room(db, name).and_then(|room| room.lines.get(part));
        line.map_or(0, |line| line.waiting)
    }

    /// Sets when a room, if there is one, is to be looked at again: when something is due there, or
    /// in [`LOOK`] from now.
    pub fn set_due(&mut self, db: i32, name: &[u8], due: Option<Moment>, now: Moment) {
        let room = self.rooms.get_mut(&db).and_then(|rooms| rooms.get_mut(name));
        let Some(room) = room else { return };
        let latest = now.after(LOOK);
        let due = due.map_or(latest, |due| due.min(latest));
        let before = std::mem::replace(&mut room.due, due);
        if before != due {
            self.due.remove(&(before, db, name.into()));
            self.due.insert((due, db, name.into()));
        }
    }

    /// Remembers when what everybody in a room waits for was known to end.
    pub fn set_end(&mut self, db: i32, name: &[u8], end: Option<UnixMs>) {
        let room = self.rooms.get_mut(&db).and_then(|rooms| rooms.get_mut(name));
        if let Some(room) = room {
            room.end = end;
        }
    }

    /// When what everybody in a room waits for was known to end.
    pub fn end(&self, db: i32, name: &[u8]) -> Option<UnixMs> {
        self.room(db, name)?.end
    }

    /// Marks every room whose time has come.
    pub fn disturb_due(&mut self, now: Moment) {
        while let Some((due, _, _)) = self.due.first()
            && *due <= now
        {
            let Some((_, db, name)) = self.due.first().cloned() else { return };
            self.disturb(db, &name);
            self.set_due(db, &name, None, now);
        }
    }

    /// When the next room is to be looked at; `now` if one is restless.
    pub fn next_look(&self, now: Moment) -> Option<Moment> {
        if self.waiting == 0 {
            None
        } else if self.restless.is_empty() {
            self.due.first().map(|(due, _, _)| *due)
        } else {
            Some(now)
        }
    }

    /// The next room to look at again.
    pub fn next_restless(&mut self) -> Option<(i32, Box<[u8]>)> {
        let (_, (db, name)) = self.restless.pop_first()?;
        if let Some(room) = self.rooms.get_mut(&db).and_then(|rooms| rooms.get_mut(&name)) {
            room.restless = None;
        }
        Some((db, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Moment = Moment(1_000_000);

    /// What can happen to a hall.
    #[derive(Clone, Debug)]
    enum Step {
        Join(usize),
        ServeFirst(usize),
        /// The waiter that came as the n-th leaves, if it is still there.
        Leave(usize),
        Disturb(usize),
        SetDue(usize, Option<i64>),
        DisturbDatabase(i32),
        LookAgain,
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
            1 => (0..8usize).prop_map(Step::Disturb),
            1 => (0..8usize, prop::option::of(0..10_000_000i64))
                .prop_map(|(line, us)| Step::SetDue(line, us)),
            1 => (0..2).prop_map(Step::DisturbDatabase),
            1 => Just(Step::LookAgain),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Against a plain list of (arrival, line, place) in order of arrival.
        #[test]
        fn whoever_came_first_is_first_and_nobody_is_lost(
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let addresses = addresses();
            let mut hall = Hall::default();
            let mut model: Vec<(usize, usize, Place)> = Vec::new();
            let mut restless: Vec<(i32, Box<[u8]>)> = Vec::new();
            let mut arrivals = 0;
            for step in steps {
                match step {
                    Step::Join(line) => {
                        let place = hall.new_place();
                        hall.join(&addresses[line], place, arrivals, NOW);
                        model.push((arrivals, line, place));
                        arrivals += 1;
                    }
                    Step::ServeFirst(line) => {
                        let at = &addresses[line];
                        let expected = model.iter().position(|(_, l, _)| *l == line);
                        let first = hall.first(at.db, &at.name, &at.part).map(|(p, w)| (p, *w));
                        prop_assert_eq!(
                            first,
                            expected.map(|index| (model[index].2, model[index].0))
                        );
                        if let (Some((place, waiter)), Some(index)) = (first, expected) {
                            prop_assert_eq!(hall.leave(at, place), Some(waiter));
                            prop_assert_eq!(hall.leave(at, place), None);
                            model.remove(index);
                        }
                    }
                    Step::Leave(n) if !model.is_empty() => {
                        let (waiter, line, place) = model.remove(n % model.len());
                        prop_assert_eq!(hall.leave(&addresses[line], place), Some(waiter));
                    }
                    Step::Leave(_) => {}
                    Step::Disturb(line) => {
                        let at = &addresses[line];
                        let somebody = hall.disturb(at.db, &at.name);
                        let room = (at.db, at.name.clone());
                        prop_assert_eq!(somebody, waits_in(&model, &addresses, &room));
                        if somebody {
                            restless.push(room);
                        }
                    }
                    Step::SetDue(line, us) => {
                        let at = &addresses[line];
                        let due = us.map(|us| Moment(NOW.0 + us));
                        hall.set_due(at.db, &at.name, due, NOW);
                    }
                    Step::DisturbDatabase(db) => {
                        hall.disturb_databases(&[db]);
                        let here = addresses.iter().filter(|at| at.db == db);
                        restless.extend(here.map(|at| (at.db, at.name.clone())));
                    }
                    Step::LookAgain => {
                        while let Some(room) = hall.next_restless() {
                            prop_assert!(restless.contains(&room));
                            prop_assert!(waits_in(&model, &addresses, &room));
                            restless.retain(|other| *other != room);
                        }
                        // What was not named again has emptied since it was disturbed.
                        for room in restless.drain(..) {
                            let still = hall.rooms.get(&room.0).and_then(|r| r.get(&room.1));
                            prop_assert!(still.is_none_or(|room| room.restless.is_none()));
                        }
                    }
                }
                prop_assert_eq!(hall.len(), model.len());
                // Nothing is kept of rooms that are gone, and every other one is looked at in time.
                let rooms = || hall.rooms.values().flat_map(HashMap::values);
                prop_assert_eq!(hall.due.len(), rooms().count());
                prop_assert_eq!(
                    hall.restless.len(),
                    rooms().filter(|room| room.restless.is_some()).count()
                );
                prop_assert!(rooms().all(|room| room.due <= NOW.after(LOOK)));
                let lines: usize = hall.rooms.values().flat_map(HashMap::values)
                    .flat_map(|room| room.lines.values())
                    .map(|line| line.waiting)
                    .sum();
                prop_assert_eq!(lines, model.len());
            }
        }
    }

    fn waits_in(
        model: &[(usize, usize, Place)],
        addresses: &[Address],
        room: &(i32, Box<[u8]>),
    ) -> bool {
        model.iter().any(|(_, l, _)| addresses[*l].db == room.0 && addresses[*l].name == room.1)
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
}
