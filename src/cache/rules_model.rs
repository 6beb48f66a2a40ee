//! The rules of a cached value against a model: random sequences of requests and events on one
//! value, and a plain list of the tokens that were issued.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Fetch {
        lease: i64,
        stale: i64,
        wait: bool,
        fresh: bool,
    },
    Set(i64),
    /// Stores with the `nth` token that was issued.
    SetWithToken {
        nth: usize,
        ttl: i64,
    },
    Extend {
        nth: usize,
        lease: i64,
    },
    Fail {
        nth: usize,
        backoff: Option<i64>,
    },
    Invalidate(Option<i64>),
    ForeignWrite(Option<i64>),
    ForeignDelete,
    /// Another client changes the TTL of the value.
    Touch(Option<i64>),
    Pass(i64),
    Leave(usize),
}

/// One value, its record and its waiters, as the commands treat them.
#[derive(Default)]
struct World {
    ms: i64,
    /// The number of the store that made the value, and when it expires.
    value: Option<(u64, Option<UnixMs>)>,
    record: Record,
    waiting: Vec<(u64, i64, Millis, bool)>,
    asked: u64,
    answered: u64,
    gone: u64,
    fills: u64,
    tokens: Tokens,
    /// All tokens that were issued, the one up to which none is valid, and those whose loaders gave
    /// up.
    given: Vec<Token>,
    floor: Token,
    gave_up: Vec<Token>,
    /// The current lease, which is that of the last token.
    current: Option<(Token, UnixMs)>,
}

impl World {
    fn now(&self) -> UnixMs {
        self.at(0)
    }

    fn cached(&self) -> Cached {
        self.value.map_or(Cached::Absent, |(_, end)| Cached::Until(end))
    }

    fn at(&self, span: i64) -> UnixMs {
        UnixMs(self.ms + span)
    }

    fn tell(&self, stale: Millis) -> Fetch {
        fetch(self.cached(), &self.record, stale, self.now())
    }

    fn lend(&mut self, lease: i64) {
        let token = next_token(self.given.last().copied().unwrap_or(0), self.ms * 1000);
        assert!(self.given.last().is_none_or(|last| token > *last), "tokens do not rise");
        assert!(self.current.is_none(), "two leases at once");
        self.record =
            Record { lease: Lease::Loading(self.at(lease)), token, stale: self.record.stale };
        assert_eq!(Record::decode(&self.record.encode()), self.record);
        self.tokens.give(token, Moment(self.ms * 1000));
        self.given.push(token);
        self.current = Some((token, self.at(lease)));
    }

    /// A client without a token changes the value, which removes the record.
    fn changed(&mut self, value: Option<(u64, Option<UnixMs>)>) {
        self.value = value;
        self.record = Record::default();
        self.current = None;
        self.tokens.end_all();
        self.floor = self.given.last().copied().unwrap_or(0);
    }

    fn stored(&mut self, end: Option<UnixMs>) {
        self.fills += 1;
        self.changed(Some((self.fills, end)));
        self.answered += self.waiting.drain(..).count() as u64;
    }

    /// Serves the line: its head gets what FETCH would reply now.
    fn serve(&mut self) {
        while let Some((_, lease, stale, fresh)) = self.waiting.first().copied() {
            match self.tell(stale) {
                Fetch::Load => self.lend(lease),
                Fetch::Wait => break,
                Fetch::Stale if fresh && matches!(self.record.lease, Lease::Loading(_)) => break,
                Fetch::Hit | Fetch::Stale | Fetch::Fail => {}
            }
            self.waiting.remove(0);
            self.answered += 1;
        }
    }

    fn token(&self, nth: usize) -> Token {
        // Mostly one of the last three.
        let back =
            if nth.is_multiple_of(4) { nth / 4 } else { nth / 4 % 3 } % self.given.len().max(1);
        self.given.iter().rev().nth(back).copied().unwrap_or(42)
    }

    /// Whether a token is valid, by the list.
    fn is_valid(&self, token: Token) -> bool {
        let last = self.given.iter().rev().take(TOKENS);
        last.copied().any(|given| given == token)
            && token > self.floor
            && !self.gave_up.contains(&token)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fetch { lease, stale, wait, fresh } => {
                self.asked += 1;
                let told = self.tell(Millis(stale));
                let waits = match told {
                    Fetch::Load => {
                        self.lend(lease);
                        false
                    }
                    Fetch::Wait => wait,
                    Fetch::Stale => wait && fresh && matches!(self.record.lease, Lease::Loading(_)),
                    Fetch::Hit | Fetch::Fail => false,
                };
                if waits {
                    self.waiting.push((self.asked, lease, Millis(stale), fresh));
                } else {
                    self.answered += 1;
                }
            }
            Step::Set(ttl) => self.stored(Some(self.at(ttl))),
            Step::SetWithToken { nth, ttl } => {
                let token = self.token(nth);
                let accepted = self.tokens.given(token).is_some();
                assert_eq!(accepted, self.is_valid(token));
                if accepted && self.tokens.stored(token) {
                    assert_eq!(self.given.last(), Some(&token));
                    self.stored(Some(self.at(ttl)));
                } else if accepted {
                    // The newest loader goes on.
                    assert!(self.given.last().is_some_and(|newest| *newest > token));
                    self.floor = token;
                    self.fills += 1;
                    self.value = Some((self.fills, Some(self.at(ttl))));
                    self.record.stale = false;
                    self.answered += self.waiting.drain(..).count() as u64;
                }
            }
            Step::Extend { nth, lease } => {
                let token = self.token(nth);
                let accepted = self.record.is_current(token);
                assert_eq!(accepted, self.current.is_some_and(|(current, _)| current == token));
                if accepted {
                    self.record.lease = Lease::Loading(self.at(lease));
                    self.current = Some((token, self.at(lease)));
                }
            }
            Step::Fail { nth, backoff } => {
                let token = self.token(nth);
                let accepted = self.tokens.is_newest(token);
                assert_eq!(accepted, self.is_valid(token) && self.given.last() == Some(&token));
                if accepted {
                    self.tokens.gave_up();
                    self.gave_up.push(token);
                    self.current = None;
                    self.record.lease = match backoff {
                        None => Lease::Open,
                        Some(ms) => Lease::BackingOff(self.at(ms), Some(b"no \xff\r\n".to_vec())),
                    };
                    self.record.token = token;
                    assert_eq!(Record::decode(&self.record.encode()), self.record);
                }
            }
            Step::Invalidate(stale) => {
                let token = self.record.token;
                match (stale, self.value) {
                    (Some(ms), Some((fill, end))) => {
                        let sooner = end.map_or(self.at(ms), |end| end.min(self.at(ms)));
                        self.changed(Some((fill, Some(sooner))));
                        self.record = Record { lease: Lease::Open, token, stale: true };
                    }
                    _ => self.changed(None),
                }
            }
            Step::ForeignWrite(ttl) => {
                let end = ttl.map(|ttl| self.at(ttl));
                self.stored(end);
            }
            Step::ForeignDelete => self.changed(None),
            Step::Touch(ttl) => {
                let end = ttl.map(|ttl| self.at(ttl));
                self.value = self.value.map(|(fill, _)| (fill, end));
            }
            Step::Pass(ms) => {
                let end = self.at(ms);
                // Time stops at each expiry, as the timer does.
                while self.now() < end {
                    let ends = [
                        self.record.until().map(|end| UnixMs(end.0 + 1)),
                        self.value.and_then(|(_, end)| end).map(|end| UnixMs(end.0 + 1)),
                    ];
                    let next = ends.into_iter().flatten().filter(|at| *at > self.now()).min();
                    self.ms = next.map_or(end, |next| next.min(end)).0;
                    self.time_came();
                    self.serve();
                }
            }
            Step::Leave(nth) => {
                if !self.waiting.is_empty() {
                    self.waiting.remove(nth % self.waiting.len());
                    self.gone += 1;
                }
            }
        }
        self.time_came();
        self.serve();
        self.check();
    }

    fn time_came(&mut self) {
        if self.value.is_some_and(|(_, end)| end.is_some_and(|end| end < self.now())) {
            self.value = None;
        }
        self.record = std::mem::take(&mut self.record).at(self.now(), self.cached());
        let now = self.now();
        self.current = self.current.filter(|(_, until)| *until >= now);
    }

    fn check(&self) {
        let loading = matches!(self.record.lease, Lease::Loading(_));
        assert_eq!(loading, self.current.is_some());
        if let Some((token, _)) = self.current {
            assert!(self.record.is_current(token));
            assert!(self.tokens.is_newest(token), "the loader could not store");
        }
        // A stale mark outlives the value.
        if let (true, Some((_, end))) = (self.record.stale, self.value) {
            let kept = self.record.end(self.cached(), self.now()).expect("there is a record");
            assert!(kept.0 >= end.unwrap_or(self.now()).0 + MARK.0);
        }
        assert!(self.waiting.is_empty() || loading, "a wait without a load");
        assert_eq!(
            self.asked,
            self.answered + self.gone + self.waiting.len() as u64,
            "a waiter was lost"
        );
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (ms, nth) = (1..3_000i64, any::<usize>());
    prop_oneof![
        8 => (ms.clone(), prop_oneof![Just(0), 1..2_000i64], any::<bool>(), any::<bool>())
            .prop_map(|(lease, stale, wait, fresh)| Step::Fetch { lease, stale, wait, fresh }),
        1 => ms.clone().prop_map(Step::Set),
        4 => (nth, ms.clone()).prop_map(|(nth, ttl)| Step::SetWithToken { nth, ttl }),
        2 => (nth, ms.clone()).prop_map(|(nth, lease)| Step::Extend { nth, lease }),
        3 => (nth, prop::option::of(ms.clone()))
            .prop_map(|(nth, backoff)| Step::Fail { nth, backoff }),
        2 => prop::option::of(ms.clone()).prop_map(Step::Invalidate),
        1 => prop::option::of(ms.clone()).prop_map(Step::ForeignWrite),
        1 => Just(Step::ForeignDelete),
        1 => prop::option::of(ms.clone()).prop_map(Step::Touch),
        4 => ms.prop_map(Step::Pass),
        2 => nth.prop_map(Step::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// There is at most one lease, no value is replaced by one whose load began earlier, and no
    /// client waits without a load or is forgotten.
    #[test]
    fn one_client_loads_and_no_waiter_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World { ms: 1_000_000, ..World::default() };
        for step in steps {
            world.step(step);
        }
        // Left alone, the line empties: each loader in turn lets its lease expire.
        for _ in 0..=world.waiting.len() {
            world.step(Step::Pass(10_000));
        }
        prop_assert!(world.waiting.is_empty());
    }
}
