//! The rules, model-checked: arbitrary sequences of requests and events on one value, against a
//! plain description of what may happen.

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
    Set {
        ttl: i64,
    },
    /// Fill with the n-th token that was ever given out.
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
    Invalidate {
        stale: Option<i64>,
    },
    ForeignWrite {
        ttl: Option<i64>,
    },
    ForeignDelete,
    /// Somebody else gives the value another time-to-live.
    Touch {
        ttl: Option<i64>,
    },
    Pass {
        ms: i64,
    },
    Leave {
        nth: usize,
    },
}

/// One value, its record, and those who wait, as the commands treat them.
struct World {
    now: UnixMs,
    /// The number of the fill that made the value, and its end.
    value: Option<(u64, Option<UnixMs>)>,
    record: Record,
    waiting: Vec<(u64, i64, Millis, bool)>,
    asked: u64,
    answered: u64,
    gone: u64,
    fills: u64,
    tokens: Tokens,
    /// By the plain description: every token that was given out, the one up to which none is good,
    /// and those whose loaders gave up.
    given: Vec<Token>,
    floor: Token,
    gave_up: Vec<Token>,
    /// The lease that runs: that of the last token.
    current: Option<(Token, UnixMs)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: UnixMs(1_000_000),
            value: None,
            record: Record::default(),
            waiting: Vec::new(),
            asked: 0,
            answered: 0,
            gone: 0,
            fills: 0,
            tokens: Tokens::default(),
            given: Vec::new(),
            floor: 0,
            gave_up: Vec::new(),
            current: None,
        }
    }

    fn cached(&self) -> Cached {
        self.value.map_or(Cached::Absent, |(_, end)| Cached::Until(end))
    }

    fn at(&self, span: i64) -> UnixMs {
        UnixMs(self.now.0 + span)
    }

    fn tell(&self, stale: Millis) -> Fetch {
        fetch(self.cached(), &self.record, stale, self.now)
    }

    fn lend(&mut self, lease: i64) {
        let token = next_token(self.given.last().copied().unwrap_or(0), self.now.0 * 1000);
        assert!(self.given.last().is_none_or(|last| token > *last), "a token came twice");
        assert!(self.current.is_none(), "two leases at once");
        self.record =
            Record { lease: Lease::Loading(self.at(lease)), token, stale: self.record.stale };
        // What is stored is what is read.
        assert_eq!(Record::decode(&self.record.encode()), self.record);
        self.tokens.give(token, Moment(self.now.0 * 1000));
        self.given.push(token);
        self.current = Some((token, self.at(lease)));
    }

    /// Somebody who does not load changed the value, and there is no record any more.
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

    /// The line: the first is told what FETCH would tell it now.
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
        // Mostly one of the last.
        let back =
            if nth.is_multiple_of(4) { nth / 4 } else { nth / 4 % 3 } % self.given.len().max(1);
        self.given.iter().rev().nth(back).copied().unwrap_or(42)
    }

    /// Whether a token is good, by the plain description.
    fn is_good(&self, token: Token) -> bool {
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
            Step::Set { ttl } => self.stored(Some(self.at(ttl))),
            Step::SetWithToken { nth, ttl } => {
                let token = self.token(nth);
                let accepted = self.tokens.given(token).is_some();
                assert_eq!(accepted, self.is_good(token));
                if accepted && self.tokens.stored(token) {
                    assert_eq!(self.given.last(), Some(&token));
                    self.stored(Some(self.at(ttl)));
                } else if accepted {
                    // The client that loads now goes on.
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
                assert_eq!(accepted, self.is_good(token) && self.given.last() == Some(&token));
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
            Step::Invalidate { stale } => {
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
            Step::ForeignWrite { ttl } => {
                let waited = !self.waiting.is_empty();
                let end = ttl.map(|ttl| self.at(ttl));
                self.stored(end);
                assert!(!waited || self.waiting.is_empty());
            }
            Step::ForeignDelete => self.changed(None),
            Step::Touch { ttl } => {
                let end = ttl.map(|ttl| self.at(ttl));
                self.value = self.value.map(|(fill, _)| (fill, end));
            }
            Step::Pass { ms } => {
                let end = self.at(ms);
                // Whatever ends on the way has its moment, the timer's included.
                while self.now < end {
                    let ends = [
                        self.record.until().map(|end| UnixMs(end.0 + 1)),
                        self.value.and_then(|(_, end)| end).map(|end| UnixMs(end.0 + 1)),
                    ];
                    let next = ends.into_iter().flatten().filter(|at| *at > self.now).min();
                    self.now = next.map_or(end, |next| next.min(end));
                    self.time_came();
                    self.serve();
                }
            }
            Step::Leave { nth } => {
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
        if self.value.is_some_and(|(_, end)| end.is_some_and(|end| end < self.now)) {
            self.value = None;
        }
        self.record = std::mem::take(&mut self.record).at(self.now, self.cached());
        self.current = self.current.filter(|(_, until)| *until >= self.now);
    }

    fn check(&self) {
        let loading = matches!(self.record.lease, Lease::Loading(_));
        assert_eq!(loading, self.current.is_some());
        if let Some((token, _)) = self.current {
            assert!(self.record.is_current(token));
            assert!(self.tokens.is_newest(token), "a lease runs whose fill is refused");
        }
        // A mark outlives the value, whatever becomes of its time-to-live.
        if let (true, Some((_, end))) = (self.record.stale, self.value) {
            let kept = self.record.end(self.cached(), self.now).expect("there is a record");
            assert!(kept.0 >= end.unwrap_or(self.now).0 + MARK.0);
        }
        // Whoever waits, waits for somebody who loads.
        assert!(self.waiting.is_empty() || loading, "a wait without a load");
        assert_eq!(
            self.asked,
            self.answered + self.gone + self.waiting.len() as u64,
            "one is lost"
        );
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (ms, nth) = (1..3_000i64, any::<usize>());
    // Mostly the newest token.
    prop_oneof![
        8 => (ms.clone(), prop_oneof![Just(0), 1..2_000i64], any::<bool>(), any::<bool>())
            .prop_map(|(lease, stale, wait, fresh)| Step::Fetch { lease, stale, wait, fresh }),
        1 => ms.clone().prop_map(|ttl| Step::Set { ttl }),
        4 => (nth, ms.clone()).prop_map(|(nth, ttl)| Step::SetWithToken { nth, ttl }),
        2 => (nth, ms.clone()).prop_map(|(nth, lease)| Step::Extend { nth, lease }),
        3 => (nth, prop::option::of(ms.clone()))
            .prop_map(|(nth, backoff)| Step::Fail { nth, backoff }),
        2 => prop::option::of(ms.clone()).prop_map(|stale| Step::Invalidate { stale }),
        1 => prop::option::of(ms.clone()).prop_map(|ttl| Step::ForeignWrite { ttl }),
        1 => Just(Step::ForeignDelete),
        1 => prop::option::of(ms.clone()).prop_map(|ttl| Step::Touch { ttl }),
        4 => ms.prop_map(|ms| Step::Pass { ms }),
        2 => nth.prop_map(|nth| Step::Leave { nth }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// At most one lease that runs, no value replaced by one whose load began earlier, nobody lost,
    /// nobody waiting without a load: checked after each of some 400,000 steps.
    #[test]
    fn one_loads_and_nobody_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // Left alone, everybody has a turn: each loader in turn lets its lease end.
        for _ in 0..=world.waiting.len() {
            world.step(Step::Pass { ms: 10_000 });
        }
        prop_assert!(world.waiting.is_empty());
    }

    #[test]
    fn jitter_only_shortens_and_by_no_more_than_was_asked(
        ttl in 1..1i64 << 52, percent in 0..=100i64, random: u64,
    ) {
        let shortened = jitter(Millis(ttl), percent, random).0;
        prop_assert!((1..=ttl).contains(&shortened));
        prop_assert!(i128::from(ttl - shortened) * 100 <= i128::from(ttl) * i128::from(percent));
    }

    #[test]
    fn no_bytes_in_a_record_make_it_panic(text: Vec<u8>) {
        let record = Record::decode(&text);
        prop_assert_eq!(Record::decode(&record.encode()).lease, record.lease);
    }
}

#[test]
fn of_two_loaders_either_may_store_first_and_the_older_one_not_last() {
    let now = Moment(0);
    let two = || {
        let mut tokens = Tokens::default();
        tokens.give(1, now);
        tokens.give(2, now);
        tokens
    };
    let mut tokens = two();
    assert!(!tokens.stored(1), "the newer loader goes on");
    assert_eq!((tokens.given(1), tokens.given(2)), (None, Some(now)));
    assert!(tokens.stored(2));
    assert!(tokens.are_over());
    let mut tokens = two();
    assert!(tokens.stored(2));
    assert_eq!(tokens.given(1), None, "it began earlier");
    // Only the newest gives up.
    let mut tokens = two();
    assert!(!tokens.is_newest(1));
    assert!(tokens.is_newest(2));
    tokens.gave_up();
    assert!(!tokens.is_newest(2));
    assert!(!tokens.is_newest(1), "it is not the newest for that");
    assert_eq!(tokens.given(1), Some(now));
    assert!(!tokens.stored(1));
    assert!(tokens.are_over());
}

#[test]
fn the_last_sixteen_tokens_are_good_whatever_became_of_some_of_them() {
    let mut tokens = Tokens::default();
    for token in 1..=20 {
        tokens.give(token, Moment(token));
    }
    tokens.gave_up();
    tokens.give(21, Moment(21));
    let good: Vec<_> = (0..30).filter(|token| tokens.given(*token).is_some()).collect();
    assert_eq!(good, (6..=19).chain([21]).collect::<Vec<_>>());
    assert!(!tokens.stored(10));
    let good: Vec<_> = (0..30).filter(|token| tokens.given(*token).is_some()).collect();
    assert_eq!(good, (11..=19).chain([21]).collect::<Vec<_>>());
    tokens.end_all();
    assert!(tokens.are_over());
    assert_eq!(tokens.newest(), 21);
}
