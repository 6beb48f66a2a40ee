//! The FIFO of waiting clients.
//!
//! One mechanism for every family. A waiter stands in a [`Line`]; the lines of one name in one
//! database share a room, and a family's rooms are its [`Hall`]. All of it is in memory and on the
//! master only. The first in line is served by the command, or the timer, that freed what it waits
//! for; that costs the same whether one client waits or ten thousand.
//!
//! [`Line`] and [`Hall`] know no server. [`Waiter`] joins them to the server's blocked clients, and
//! keeps three rules: a waiter is granted or has left, never both; its answer is complete before
//! the server is told to let the client go; and a callback in which nothing may be written only
//! unlinks, marks the room as restless and arms the timer, which then looks again.

use crate::args::{Argument, Patience};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::block::{Blocked, Waits};
use crate::server::config::WAKE_BYTES;
use crate::server::{MainThread, Reply, Server, Str, timer};
use crate::task;
use crate::time::Millis;
use std::cell::{Cell, LazyCell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

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
    /// Joins at the end, at a place behind all others.
    fn join(&mut self, place: Place, waiter: T) {
        self.places.push_back((place, Some(waiter)));
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

/// The lines of one name: one for each part, such as a consumer group.
struct Room<T> {
    lines: BTreeMap<Box<[u8]>, Line<T>>,
    restless: bool,
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
    rooms: HashMap<i32, HashMap<Box<[u8]>, Room<T>>>,
    restless: VecDeque<(i32, Box<[u8]>)>,
    waiting: usize,
    next: Place,
}

impl<T> Default for Hall<T> {
    fn default() -> Self {
        Self { rooms: HashMap::new(), restless: VecDeque::new(), waiting: 0, next: 0 }
    }
}

impl<T> Hall<T> {
    fn room(&self, db: i32, name: &[u8]) -> Option<&Room<T>> {
        self.rooms.get(&db)?.get(name)
    }

    /// Joins the line at `address`.
    pub fn join(&mut self, address: &Address, waiter: T) -> Place {
        let place = self.next;
        self.next += 1;
        self.waiting += 1;
        let rooms = self.rooms.entry(address.db).or_default();
        let room = rooms
            .entry(address.name.clone())
            .or_insert_with(|| Room { lines: BTreeMap::new(), restless: false });
        room.lines.entry(address.part.clone()).or_default().join(place, waiter);
        place
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
        if !room.restless {
            room.restless = true;
            self.restless.push_back((db, name.into()));
        }
        true
    }

    /// Marks every room of the databases, or of all if there are none named.
    pub fn disturb_databases(&mut self, dbs: &[i32]) -> bool {
        let chosen = self.rooms.iter().filter(|(db, _)| dbs.is_empty() || dbs.contains(db));
        let rooms: Vec<(i32, Box<[u8]>)> =
            chosen.flat_map(|(db, rooms)| rooms.keys().map(|name| (*db, name.clone()))).collect();
        rooms.iter().fold(false, |any, (db, name)| self.disturb(*db, name) | any)
    }

    /// Whether any room is to be looked at again.
    pub fn has_restless(&self) -> bool {
        self.waiting > 0 && !self.restless.is_empty()
    }

    /// The next room to look at again.
    pub fn next_restless(&mut self) -> Option<(i32, Box<[u8]>)> {
        while let Some((db, name)) = self.restless.pop_front() {
            let room = self.rooms.get_mut(&db).and_then(|rooms| rooms.get_mut(&name));
            // A room can have emptied, and another of the same name opened, since it was marked.
            if let Some(room) = room.filter(|room| room.restless) {
                room.restless = false;
                return Some((db, name));
            }
        }
        None
    }
}

/// A family whose commands can wait.
pub trait Family: Sized + 'static {
    /// What a waiter asked for.
    type Request;

    /// Where the family's lines are.
    fn hall() -> &'static RefCell<Hall<Rc<Waiter<Self>>>>;

    /// What a waiter is told whose time ran out.
    fn nothing(request: &Self::Request) -> Reply<'static>;

    /// Serves whom it can in one room, within the budget. Called by the timer, which has selected
    /// the database. If the budget ends first, the room is disturbed again.
    fn serve(server: &Server, db: i32, name: &[u8], budget: &mut Budget);
}

/// How much may still be answered before the server looks after its other clients.
pub struct Budget {
    /// Bytes of replies.
    pub bytes: usize,
    /// Hand-overs.
    pub grants: usize,
}

impl Budget {
    /// What one wave may take: bytes by the configuration, and some milliseconds of work.
    pub fn wave() -> Self {
        const GRANTS: usize = 256;
        Self { bytes: usize::try_from(WAKE_BYTES.get()).unwrap_or(usize::MAX), grants: GRANTS }
    }

    /// One hand-over of any size.
    pub fn single() -> Self {
        Self { bytes: usize::MAX, grants: 1 }
    }

    /// Whether nothing more should be answered now.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.grants == 0
    }

    /// Takes one answer of `bytes` off. The first answer always fits, so every wave gets on.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.grants = self.grants.saturating_sub(1);
    }
}

enum State {
    /// In line.
    Waiting,
    /// Served; the answer is ready.
    Granted(Reply<'static>),
    /// Answered, or gone.
    Left,
}

/// A client in line.
pub struct Waiter<F: Family> {
    /// What it asked for.
    pub request: F::Request,
    /// Whether the client speaks RESP3.
    pub resp3: bool,
    address: Address,
    client: u64,
    place: Cell<Place>,
    state: RefCell<State>,
    blocked: Cell<Option<Blocked>>,
}

impl<F: Family> Waiter<F> {
    /// Puts the calling client at the end of the line at `address`.
    pub fn join(
        server: &Server,
        name: Str<'_>,
        part: &[u8],
        patience: Patience,
        request: F::Request,
    ) -> Result<Reply<'static>, Error> {
        let key = server.key_of(Prefix::Wait, name)?;
        let address = Address { db: server.db(), name: name.bytes().into(), part: part.into() };
        let waiter = Rc::new(Waiter {
            request,
            resp3: server.resp3(),
            client: server.client_id(),
            address,
            place: Cell::new(0),
            state: RefCell::new(State::Waiting),
            blocked: Cell::new(None),
        });
        waiter.place.set(F::hall().borrow_mut().join(&waiter.address, waiter.clone()));
        waiter.blocked.set(Some(server.block(key.borrow(), patience, waiter.clone())));
        Ok(Reply::Later)
    }

    /// The first waiter in a line whose connection still stands. One that the server is about to
    /// close is sent out of the line: nothing is ever handed to it.
    pub fn first(server: &Server, db: i32, name: &[u8], part: &[u8]) -> Option<Rc<Self>> {
        loop {
            let first = F::hall().borrow().first(db, name, part).map(|(_, w)| w.clone())?;
            if server.is_connected(first.client) {
                return Some(first);
            }
            first.leave();
        }
    }

    /// Answers a waiter with what it was granted. From here on it cannot be undone.
    pub fn grant(&self, reply: Reply<'static>) {
        self.out_of_line();
        self.state.replace(State::Granted(reply));
        if let Some(blocked) = self.blocked.take() {
            blocked.answer();
        }
    }

    fn out_of_line(&self) {
        F::hall().borrow_mut().leave(&self.address, self.place.get());
    }

    /// Leaves the line unserved. True if others wait there who should be looked at.
    fn leave(&self) -> bool {
        self.out_of_line();
        self.state.replace(State::Left);
        F::hall().borrow_mut().disturb(self.address.db, &self.address.name)
    }
}

impl<F: Family> Waits for Waiter<F> {
    fn farewell(&self, server: &Server) -> Reply<'static> {
        // Bound first: what follows borrows the state again.
        let state = self.state.replace(State::Left);
        match state {
            State::Granted(reply) => reply,
            State::Left => F::nothing(&self.request),
            State::Waiting => {
                if self.leave() {
                    timer::arm(server, Millis(0));
                }
                F::nothing(&self.request)
            }
        }
    }

    fn gone(&self, server: &Server) {
        let waits = matches!(*self.state.borrow(), State::Waiting);
        if waits && self.leave() {
            timer::arm(server, Millis(0));
        }
    }
}

/// How soon the timer looks whether paused clients may go on.
const WHILE_PAUSED: Millis = Millis(10);

/// The timer's work: looks at every restless room, in waves.
pub fn look_again(server: &Server) {
    if !server.is_master() {
        // The server has sent every waiter away, and nothing is written on a replica.
        return;
    }
    if server.writes_are_paused() {
        if task::Tasks::hall().borrow().has_restless() {
            timer::arm(server, WHILE_PAUSED);
        }
        return;
    }
    let mut budget = Budget::wave();
    serve_restless::<task::Tasks>(server, &mut budget);
}

fn serve_restless<F: Family>(server: &Server, budget: &mut Budget) {
    while !budget.is_spent() {
        let Some((db, name)) = F::hall().borrow_mut().next_restless() else {
            return;
        };
        // A look costs something even if nobody can be served.
        budget.spend(0);
        server.select(db);
        F::serve(server, db, &name, budget);
    }
    if F::hall().borrow().has_restless() {
        timer::arm(server, Millis(0));
    }
}

/// A family's lines, as a `static` holds them.
pub type Lines<F> = MainThread<LazyCell<RefCell<Hall<Rc<Waiter<F>>>>>>;

/// A family without waiters.
pub const fn no_lines<F: Family>() -> Lines<F> {
    MainThread::new(LazyCell::new(RefCell::default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What can happen to a hall.
    #[derive(Clone, Debug)]
    enum Step {
        Join(usize),
        ServeFirst(usize),
        /// The waiter that came as the n-th leaves, if it is still there.
        Leave(usize),
        Disturb(usize),
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
                        let place = hall.join(&addresses[line], arrivals);
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
                            prop_assert!(still.is_none_or(|room| !room.restless));
                        }
                    }
                }
                prop_assert_eq!(hall.len(), model.len());
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
