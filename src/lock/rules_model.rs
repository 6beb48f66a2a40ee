//! The rules of a lock against a model: random sequences of requests and events on one lock, whose
//! holders and line are plain collections.

use super::*;
use crate::time::Millis;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Id = u8;
type Place = u64;

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        id: Id,
        mode: Mode,
        ttl: i64,
        wait: bool,
        bare: bool,
    },
    Extend {
        id: Id,
        to: Become,
        ttl: i64,
    },
    Release {
        id: Id,
    },
    /// Time passes.
    Pass {
        ms: i64,
    },
    /// A waiter times out or disconnects.
    Leave {
        nth: usize,
        keeps_rank: bool,
    },
    /// Another client deletes the key.
    ForeignDelete,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: Id,
    mode: Mode,
    ttl: Millis,
}

/// One lock, its line, and its timer.
#[derive(Default)]
struct World {
    now: Moment,
    holders: Vec<(Id, Held, Moment)>,
    line: BTreeMap<Place, Request>,
    last_place: Place,
    /// The places of waiters that timed out and may come back.
    ranks: BTreeMap<Id, Place>,
    due: Option<Moment>,
    /// How many grants one call may make, and how many the present one has left.
    budget: usize,
    left: usize,
}

impl World {
    fn live(&self) -> impl Iterator<Item = &(Id, Held, Moment)> {
        self.holders.iter().filter(|(_, _, end)| *end >= self.now)
    }

    fn who(&self) -> Holders {
        let live: Vec<_> = self.live().collect();
        match live.as_slice() {
            [] => Holders::Free,
            [(_, Held::Exclusive, _)] => Holders::Exclusive,
            many => {
                let shared = many.iter().all(|(_, held, _)| *held == Held::Shared);
                assert!(shared, "incompatible holders: {many:?}");
                Holders::Shared(many.len() as u64)
            }
        }
    }

    fn held(&self, id: Id) -> Held {
        self.live().find(|(holder, ..)| *holder == id).map_or(Held::No, |(_, held, _)| *held)
    }

    fn hold(&mut self, id: Id, held: Held, ttl: i64) {
        let end = Moment(self.now.0 + ttl);
        self.holders.retain(|(holder, _, end)| *holder != id && *end >= self.now);
        self.holders.push((id, held, end));
        // Fails if two holders are not compatible.
        self.who();
    }

    fn grant(&mut self, request: Request) {
        let held = if request.mode.is_shared() { Held::Shared } else { Held::Exclusive };
        self.hold(request.id, held, request.ttl.0);
    }

    fn serve(&mut self) {
        loop {
            self.left = self.budget;
            match serve(self) {
                Ok(Rest::Until(due)) => {
                    self.due = due;
                    break;
                }
                Ok(Rest::OutOfBudget) => {
                    assert_eq!(self.left, 0, "stopped early");
                    let (_, first) = self.line.first_key_value().expect("somebody waits");
                    assert!(self.who().admit(first.mode), "{first:?} has to wait, budget or not");
                }
                Err(never) => match never {},
            }
        }
        self.check();
    }

    fn check(&self) {
        let Some((_, first)) = self.line.first_key_value() else { return };
        assert!(!self.who().admit(first.mode), "{first:?} waits for nothing");
        let ends = self.live().map(|(_, _, end)| *end).min();
        assert!(self.due > Some(self.now), "the timer is not set");
        assert!(self.due.map(|due| due.0 - 1) <= ends.map(|end| end.0), "the timer is late");
    }

    fn leave(&mut self, id: Id) -> Option<Place> {
        let place = *self.line.iter().find(|(_, request)| request.id == id)?.0;
        self.line.remove(&place);
        Some(place)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { id, mode, ttl, wait, bare } => {
                self.serve();
                let mode = if bare { Mode::Exclusive } else { mode };
                let others_wait = !self.line.is_empty();
                let held = if bare { Held::No } else { self.held(id) };
                let before = self.who();
                let request = Request { id, mode, ttl: Millis(ttl) };
                match acquire(before, held, mode, others_wait) {
                    Verdict::OtherMode => assert_ne!(held, Held::No),
                    Verdict::Grant => {
                        // Only a holder may be granted while others wait.
                        assert!(held != Held::No || self.line.is_empty());
                        if let (Mode::Limit(limit), Held::No, Holders::Shared(count)) =
                            (mode, held, before)
                        {
                            assert!(count < limit);
                        }
                        self.grant(request);
                        self.leave(id);
                    }
                    Verdict::NotNow if wait && !bare => {
                        let place = self.leave(id).or_else(|| self.ranks.remove(&id));
                        self.last_place += 1;
                        self.line.insert(place.unwrap_or(self.last_place), request);
                    }
                    Verdict::NotNow => {}
                }
            }
            Step::Extend { id, to, ttl } => {
                let held = self.held(id);
                let alone = self.who() == Holders::Shared(1);
                let wanted = match to {
                    Become::Same => held,
                    Become::Shared => Held::Shared,
                    Become::Exclusive => Held::Exclusive,
                };
                match extend(held, to, alone) {
                    Extension::Refused => assert!(held != wanted && !alone || held == Held::No),
                    Extension::Renew => {
                        assert_eq!(held, wanted);
                        self.hold(id, held, ttl);
                    }
                    Extension::Downgrade => {
                        assert_eq!(held, Held::Exclusive);
                        self.hold(id, Held::Shared, ttl);
                    }
                    Extension::Upgrade => {
                        assert_eq!((held, self.live().count()), (Held::Shared, 1));
                        self.hold(id, Held::Exclusive, ttl);
                    }
                }
            }
            Step::Release { id } => {
                self.holders.retain(|(holder, ..)| *holder != id);
                self.leave(id);
                self.ranks.remove(&id);
            }
            Step::Pass { ms } => {
                // The timer fires on the way.
                let end = Moment(self.now.0 + ms);
                while let Some(due) = self.due.filter(|due| *due <= end) {
                    self.now = due;
                    self.serve();
                }
                self.now = end;
            }
            Step::Leave { nth, keeps_rank } => {
                let waiters = self.line.values().map(|request| request.id);
                let id = waiters.clone().nth(nth % waiters.count().max(1));
                if let Some(id) = id
                    && let Some(place) = self.leave(id)
                    && keeps_rank
                {
                    self.ranks.insert(id, place);
                }
            }
            Step::ForeignDelete => self.holders.clear(),
        }
        self.serve();
    }
}

impl Ops for World {
    type Error = std::convert::Infallible;

    fn first(&mut self) -> Option<Mode> {
        self.line.first_key_value().map(|(_, request)| request.mode)
    }

    fn holders(&mut self) -> Result<Holders, Self::Error> {
        Ok(self.who())
    }

    fn grant_first(&mut self) -> Result<(), Self::Error> {
        let (_, request) = self.line.pop_first().expect("somebody waits");
        self.left = self.left.checked_sub(1).expect("the budget is used up");
        self.grant(request);
        Ok(())
    }

    fn next_end(&mut self) -> Result<Option<Moment>, Self::Error> {
        Ok(self.live().map(|(_, _, end)| Moment(end.0 + 1)).min())
    }

    fn is_out_of_budget(&self) -> bool {
        self.left == 0
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        2 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        1 => (1..4u64).prop_map(Mode::Limit),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (id, ttl) = (0..8u8, 1..2_000i64);
    let to = prop_oneof![Just(Become::Same), Just(Become::Shared), Just(Become::Exclusive)];
    prop_oneof![
        8 => (id.clone(), mode(), ttl.clone(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(id, mode, ttl, wait, bare)| Step::Acquire { id, mode, ttl, wait, bare }),
        3 => (id.clone(), to, ttl).prop_map(|(id, to, ttl)| Step::Extend { id, to, ttl }),
        4 => id.prop_map(|id| Step::Release { id }),
        3 => (0..1_500i64).prop_map(|ms| Step::Pass { ms }),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(nth, keeps_rank)| Step::Leave { nth, keeps_rank }),
        1 => Just(Step::ForeignDelete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Holders are always compatible, no waiter is overtaken or forgotten, and none waits although
    /// the lock would admit it.
    #[test]
    fn holders_are_compatible_and_the_line_is_fifo(
        budget in 1..4usize,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World { now: Moment(1_000_000), budget, ..World::default() };
        for step in steps {
            world.step(step);
        }
        // Left alone, the line empties: every lease expires, and every waiter has its turn.
        for _ in 0..=world.line.len() {
            world.step(Step::Pass { ms: 10_000 });
        }
        prop_assert_eq!(world.line.len(), 0);
    }
}
