//! The rules, model-checked: arbitrary sequences of requests and events on one lock, with holders
//! and line in memory.

use super::*;
use crate::time::Millis;
use crate::waiting::{Address, Hall, Place};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Id = u8;

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
    /// A client of the line gives up or disconnects.
    Leave {
        nth: usize,
        keeps_rank: bool,
    },
    /// Another client deletes the key.
    ForeignDelete,
}

#[derive(Clone, Debug)]
struct Wish {
    id: Id,
    mode: Mode,
    ttl: Millis,
}

/// One lock: its holders, its line, and when the timer stands.
struct World {
    now: Moment,
    holders: Vec<(Id, Held, Moment)>,
    line: Hall<Wish>,
    /// Who must be in line.
    waiting: BTreeMap<Id, Place>,
    ranks: BTreeMap<Id, Place>,
    first: Option<(Place, Wish)>,
    due: Option<Moment>,
    grants: usize,
}

const HERE: i32 = 0;

fn here() -> Address {
    Address { db: HERE, name: Box::default(), part: Box::default() }
}

impl World {
    fn new() -> Self {
        Self {
            now: Moment(1_000_000),
            holders: Vec::new(),
            line: Hall::default(),
            waiting: BTreeMap::new(),
            ranks: BTreeMap::new(),
            first: None,
            due: None,
            grants: 0,
        }
    }

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
        // Fails if two do not go together.
        self.who();
    }

    fn grant(&mut self, wish: &Wish) {
        let held = if wish.mode.is_shared() { Held::Shared } else { Held::Exclusive };
        self.hold(wish.id, held, wish.ttl.0);
        self.grants += 1;
    }

    fn serve(&mut self) {
        match serve(self) {
            Ok(Rest::Until(due)) => self.due = due,
            Ok(Rest::Tired) => panic!("the model is never tired"),
            Err(never) => match never {},
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.line.len(), self.waiting.len(), "a waiter was lost");
        let first = self.line.first(HERE, b"", b"");
        let Some((place, wish)) = first else { return };
        assert_eq!(Some(&place), self.waiting.values().min(), "somebody was overtaken");
        assert!(!self.who().admit(wish.mode), "{wish:?} waits for nothing");
        let ends = self.live().map(|(_, _, end)| *end).min();
        assert!(self.due > Some(self.now), "nobody looks again");
        assert!(self.due.map(|due| due.0 - 1) <= ends.map(|end| end.0), "looked at too late");
    }

    fn leave(&mut self, id: Id) -> Option<Place> {
        let place = self.waiting.remove(&id)?;
        assert!(self.line.leave(&here(), place).is_some());
        Some(place)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { id, mode, ttl, wait, bare } => {
                self.serve();
                let mode = if bare { Mode::Exclusive } else { mode };
                let others_wait = self.line.len() > 0;
                let held = if bare { Held::No } else { self.held(id) };
                let before = self.who();
                let wish = Wish { id, mode, ttl: Millis(ttl) };
                match acquire(before, held, mode, others_wait) {
                    Verdict::OtherMode => assert_ne!(held, Held::No),
                    Verdict::Grant => {
                        // Only a holder may be granted while others wait.
                        assert!(held != Held::No || self.line.len() == 0);
                        if let (Mode::Limit(limit), Held::No, Holders::Shared(count)) =
                            (mode, held, before)
                        {
                            assert!(count < limit);
                        }
                        self.grant(&wish);
                        self.leave(id);
                    }
                    Verdict::NotNow if wait && !bare => {
                        let place = self.leave(id).or_else(|| self.ranks.remove(&id));
                        let place = place.unwrap_or_else(|| self.line.new_place());
                        self.line.join(&here(), place, wish, self.now);
                        self.waiting.insert(id, place);
                    }
                    Verdict::NotNow => {}
                }
            }
            Step::Extend { id, to, ttl } => {
                let held = self.held(id);
                match extend(held, to, self.who() == Holders::Shared(1)) {
                    Extension::Refused => {}
                    Extension::Renew => self.hold(id, held, ttl),
                    Extension::Downgrade => self.hold(id, Held::Shared, ttl),
                    Extension::Upgrade => {
                        assert_eq!(self.live().count(), 1);
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
                // The timer goes off on its way.
                let end = Moment(self.now.0 + ms);
                while let Some(due) = self.due.filter(|due| *due <= end) {
                    self.now = due;
                    self.serve();
                }
                self.now = end;
            }
            Step::Leave { nth, keeps_rank } => {
                let id = self.waiting.keys().nth(nth % self.waiting.len().max(1)).copied();
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

impl Desk for World {
    type Error = std::convert::Infallible;

    fn first(&mut self) -> Option<Mode> {
        self.first = self.line.first(HERE, b"", b"").map(|(place, wish)| (place, wish.clone()));
        self.first.as_ref().map(|(_, wish)| wish.mode)
    }

    fn holders(&mut self) -> Result<Holders, Self::Error> {
        Ok(self.who())
    }

    fn grant_first(&mut self) -> Result<(), Self::Error> {
        let Some((place, wish)) = self.first.take() else { panic!("nobody to grant") };
        assert_eq!(Some(&place), self.waiting.values().min(), "not the first in line");
        self.grant(&wish);
        self.leave(wish.id);
        Ok(())
    }

    fn next_end(&mut self) -> Result<Option<Moment>, Self::Error> {
        Ok(self.live().map(|(_, _, end)| Moment(end.0 + 1)).min())
    }

    fn is_tired(&self) -> bool {
        false
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
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Never two incompatible holders, nobody overtaken, nobody waiting for nothing, nobody lost:
    /// checked after each of some 400,000 steps.
    #[test]
    fn holders_go_together_and_the_line_is_kept(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // Left alone, the line empties: every lease ends, and everybody has their turn.
        for _ in 0..=world.line.len() {
            world.step(Step::Pass { ms: 10_000 });
        }
        prop_assert_eq!(world.line.len(), 0);
    }

    #[test]
    fn fencing_tokens_rise_whatever_the_clock_does(
        start in prop::option::of(0..1i64 << 52),
        clocks in prop::collection::vec(0..1i64 << 52, 1..50),
    ) {
        let mut last = start;
        for clock in clocks {
            let token = next_fence(last, clock).unwrap();
            prop_assert!(last.is_none_or(|last| token > last));
            prop_assert!(token >= clock);
            last = Some(token);
        }
    }
}

#[test]
fn there_is_no_token_beyond_what_a_double_holds() {
    assert_eq!(next_fence(Some((1 << 53) - 2), 0), Some((1 << 53) - 1));
    assert_eq!(next_fence(Some((1 << 53) - 1), 0), None);
    assert_eq!(next_fence(Some(i64::MAX), 0), None);
    assert_eq!(next_fence(None, i64::MAX), None);
}
