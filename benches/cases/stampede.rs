//! CACHE.FETCH and what goes with it: the price of a read, and many clients that miss a value at the
//! same time, beside what clients do about that on their own.

use super::lock_waiting::EVERY;
use super::{NAMES, Study, cycling, each, named_once, once, shuffled, verdict};
use crate::Column;
use crate::latency::millis;
use crate::measure::{Case, Contender, Lab, quantile};
use crate::support::{Random, SOON, Server, args};
use crate::swarm::{Event, Swarm};
use crate::wire::encoded;
use std::time::{Duration, Instant};

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "CACHE.FETCH, hit, 300 bytes", build: hit },
    Case { name: "CACHE.MGET, 10 keys, 300 bytes", build: many },
    Case { name: "CACHE.FETCH, load, CACHE.SET TOKEN", build: cycle },
];

/// The studies.
pub const STUDIES: &[Study] = &[
    Study {
        name: "many miss a cached value",
        columns: &[
            Column("many miss a cached value", 30, false),
            Column("by", 25, false),
            Column("loads", 6, true),
            Column("commands", 8, true),
            Column("last answer", 11, true),
            Column("bar", 12, true),
        ],
        run: |_| stampedes(),
    },
    Study {
        name: "a cached value expires, and again",
        columns: &[
            Column("a cached value expires, and again", 34, false),
            Column("by", 27, false),
            Column("reads", 6, true),
            Column("loads", 5, true),
            Column("at a time", 9, true),
            Column("bar", 8, true),
            Column("misses", 6, true),
            Column("bar", 8, true),
        ],
        run: |_| steady(),
    },
];

fn key(number: usize) -> String {
    format!("user:{number:06}:profile")
}

/// Where a client keeps a lease that Corral knows nothing of.
fn lease_key(number: usize) -> String {
    format!("loading:{{{}}}", key(number))
}

fn value() -> String {
    "v".repeat(300)
}

fn store_all(lab: &mut Lab) {
    let values = each(0..NAMES, &["+OK"], |r, n| {
        r.push(&args!["SET", key(n), value(), "PX", 3_600_000]);
    });
    lab.arrange(&values);
}

fn hit(lab: &mut Lab) -> Vec<Contender> {
    store_all(lab);
    let ours = each(cycling(lab), &["*3"], |r, n| r.push(&args!["CACHE.FETCH", key(n), 5000]));
    let stale = each(cycling(lab), &["*3"], |r, n| {
        r.push(&args!["CACHE.FETCH", key(n), 5000, "STALE", 1000, "BLOCK", 5000]);
    });
    let get = |command: &str| each(cycling(lab), &["$3"], |r, n| r.push(&args![command, key(n)]));
    vec![
        Contender::new("CACHE.FETCH", ours),
        Contender::new("GET", get("GET")).bar(0.75),
        Contender::new("CACHE.FETCH STALE BLOCK", stale),
        Contender::new("CACHE.GET", get("CACHE.GET")),
    ]
}

fn many(lab: &mut Lab) -> Vec<Contender> {
    store_all(lab);
    let contender = |command: &'static str| {
        let calls = shuffled(lab.effort.commands / 10, NAMES);
        let requests = each(calls, &["*10"], |r, n| {
            let keys = (0..10).map(|place| key((n + place * 997) % NAMES));
            r.push(&std::iter::once(command.to_string()).chain(keys).collect::<Vec<_>>());
        });
        Contender::new(command, requests)
    };
    vec![contender("CACHE.MGET"), contender("MGET")]
}

/// A miss: take the lease, store the value, give the lease back.
fn cycle(lab: &mut Lab) -> Vec<Contender> {
    const AT_ONCE: usize = 256;
    let commands = lab.effort.commands;
    let absent = || each(0..commands, &[":"], |r, n| r.push(&args!["DEL", key(n)]));
    let numbers: Vec<_> = once(lab).collect();
    let asks: Vec<_> =
        numbers.iter().map(|n| encoded(&args!["CACHE.FETCH", key(*n), 60_000])).collect();
    let (count, stored, named) = (numbers.len(), value(), numbers.clone());
    let ours = Contender::custom("FETCH, SET TOKEN", move |lab| {
        let connection = &mut lab.connections[0];
        for (asks, numbers) in asks.chunks(AT_ONCE).zip(named.chunks(AT_ONCE)) {
            connection.send(&asks.concat());
            let mut fills = Vec::new();
            for number in numbers {
                let token = connection.reply(|reply| Told::by(reply).token);
                let token = token.expect("nobody loads this");
                let fill = args!["CACHE.SET", key(*number), stored, 60_000, "TOKEN", token];
                fills.extend(encoded(&fill));
            }
            connection.send(&fills);
            numbers.iter().for_each(|_| connection.expect("+OK"));
        }
        count
    });
    let script = lab.script(
        "if redis.call('get', KEYS[2]) == ARGV[3] then redis.call('del', KEYS[2])
            redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2]) return 1 else return 0 end",
    );
    let by_hand = |lua: bool| {
        let token = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
        let (mut asks, mut fills) = (Vec::new(), Vec::new());
        for number in &numbers {
            let (key, lease) = (key(*number), lease_key(*number));
            let read = encoded(&args!["GET", key]);
            asks.push([read, encoded(&args!["SET", lease, token, "NX", "PX", 60_000])].concat());
            fills.push(if lua {
                encoded(&args!["EVALSHA", script, 2, key, lease, value(), 60_000, token])
            } else {
                let store = encoded(&args!["SET", key, value(), "PX", 60_000]);
                [store, encoded(&args!["DEL", lease])].concat()
            });
        }
        move |lab: &mut Lab| {
            let connection = &mut lab.connections[0];
            for (asks, fills) in asks.chunks(AT_ONCE).zip(fills.chunks(AT_ONCE)) {
                connection.send(&asks.concat());
                for _ in asks {
                    connection.expect("$-1");
                    connection.expect("+OK");
                }
                connection.send(&fills.concat());
                for _ in fills {
                    connection.expect(if lua { ":1" } else { "+OK" });
                    if !lua {
                        connection.expect(":1");
                    }
                }
            }
            count
        }
    };
    vec![
        ours.after(absent()),
        Contender::custom("GET, SET NX; SET, DEL", by_hand(false)).after(absent()),
        Contender::custom("GET, SET NX; Lua: SET, DEL", by_hand(true)).after(absent()),
    ]
}

/// All clients ask for a key that is not there.
fn stampedes() -> Vec<Vec<String>> {
    const ROUNDS: usize = 5;
    const LOAD: Duration = Duration::from_millis(50);
    let server = Server::start();
    let mut rows = Vec::new();
    for size in [100, 1000] {
        let of_size = [Shield::Fetch, Shield::Poll, Shield::Nothing].map(|shield| {
            let mut swarm = Some(Swarm::new(&server, size));
            let mut figures: [Vec<f64>; 3] = Default::default();
            for round in 0..ROUNDS {
                let keys = vec![format!("cold:{}:{size}:{round}", shield as u32); size];
                let swarm_now = swarm.take().expect("it comes back after each round");
                let mut readers = Readers::new(swarm_now, vec![shield; size], keys, 60_000);
                let (loads, last) = stampede(&mut readers, LOAD);
                figures[0].push(loads as f64);
                figures[1].push(readers.swarm.sent as f64);
                figures[2].push(last.as_nanos() as f64 / 1000.0);
                swarm = Some(readers.swarm);
            }
            let [loads, commands, last] = figures.map(|mut figures| {
                figures.sort_by(f64::total_cmp);
                [0.5, 1.0].map(|part| quantile(&figures, part))
            });
            let ours = shield == Shield::Fetch;
            vec![
                format!("{size} clients, 50 ms to load"),
                shield.label().into(),
                format!("{:.0}", loads[0]),
                format!("{:.0}", commands[0]),
                millis(last[0]),
                if ours { verdict("1 load", loads[1] <= 1.0) } else { String::new() },
            ]
        });
        rows.extend(named_once(of_size.into()));
    }
    rows
}

/// How often the value was loaded, and how long after the first fill the last client had it.
fn stampede(readers: &mut Readers, load: Duration) -> (usize, Duration) {
    let size = readers.keys.len();
    let (mut loads, mut answered, mut filled) = (0, 0, None);
    readers.swarm.sent = 0;
    (0..size).for_each(|member| readers.ask(member));
    let end = Instant::now() + SOON;
    while answered < size {
        match readers.next(end).expect("everybody has the value soon") {
            News::Load { member, .. } => {
                loads += 1;
                readers.load(member, load);
            }
            News::Loaded(member) => {
                filled.get_or_insert_with(Instant::now);
                readers.fill(member);
            }
            News::Answered(_) => answered += 1,
            News::Refused(_) | News::Alarm(_) => {}
        }
    }
    (loads, filled.map_or(Duration::ZERO, |since| since.elapsed()))
}

/// Workers that ask for a value again and again, which expires again and again.
fn steady() -> Vec<Vec<String>> {
    const FOR: Duration = Duration::from_millis(4500);
    const WORKERS: usize = 50;
    const TTL_MS: usize = 400;
    const LOAD: Duration = Duration::from_millis(10);
    const THINK_US: usize = 50_000;
    const SHIELDS: [Shield; 5] =
        [Shield::FetchStale, Shield::Fetch, Shield::XFetch, Shield::Poll, Shield::Nothing];
    let server = Server::start();
    let mut client = server.client();
    let key = |shield: usize| format!("hot:{shield}");
    let shield_of = |member: usize| member / WORKERS;
    let size = WORKERS * SHIELDS.len();
    let mut readers = Readers::new(
        Swarm::new(&server, size),
        (0..size).map(|member| SHIELDS[shield_of(member)]).collect(),
        (0..size).map(|member| key(shield_of(member))).collect(),
        TTL_MS,
    );
    let mut random = Random::new(3);
    // Everything is there to begin with, so all misses are misses after the warm-up.
    for shield in 0..SHIELDS.len() {
        client.cmd(&args!["CACHE.SET", key(shield), value(), TTL_MS]);
    }
    let mut think = move || Duration::from_micros(random.below(THINK_US) as u64);
    (0..size).for_each(|member| readers.swarm.sleep(member, think()));
    let mut tallies = SHIELDS.map(|_| Tally::default());
    let end = Instant::now() + FOR;
    while let Some(news) = readers.next(end) {
        match news {
            News::Load { member, miss } => {
                let tally = &mut tallies[shield_of(member)];
                tally.loads += 1;
                tally.loading += 1;
                tally.at_a_time = tally.at_a_time.max(tally.loading);
                tally.misses += usize::from(miss);
                tally.cold = miss;
                readers.load(member, LOAD);
            }
            News::Loaded(member) => {
                let shield = shield_of(member);
                if SHIELDS[shield].waits() && tallies[shield].cold {
                    // Those who wait for this missed the value, too.
                    let others = &readers.states[shield * WORKERS..][..WORKERS];
                    let waiting = others.iter().filter(|state| **state == State::Reading);
                    tallies[shield].misses += waiting.count();
                }
                readers.fill(member);
            }
            News::Answered(member) => {
                let tally = &mut tallies[shield_of(member)];
                tally.reads += 1;
                tally.loading -= usize::from(readers.filled(member));
                readers.swarm.sleep(member, think());
            }
            News::Refused(member) => tallies[shield_of(member)].misses += 1,
            News::Alarm(member) => readers.ask(member),
        }
    }
    let rows = SHIELDS.iter().zip(&tallies).map(|(shield, tally)| {
        let misses = tally.misses;
        let one = if shield.waits() { verdict("1", tally.at_a_time <= 1) } else { String::new() };
        let none = *shield == Shield::FetchStale;
        vec![
            "50 workers, TTL 400 ms, load 10 ms".into(),
            shield.label().into(),
            tally.reads.to_string(),
            tally.loads.to_string(),
            tally.at_a_time.to_string(),
            one,
            misses.to_string(),
            if none { verdict("0", misses == 0) } else { String::new() },
        ]
    });
    named_once(rows.collect())
}

#[derive(Default)]
struct Tally {
    reads: usize,
    loads: usize,
    /// How many load now, and how many did at most.
    loading: usize,
    at_a_time: usize,
    misses: usize,
    /// Whether the load that goes on replaces nothing.
    cold: bool,
}

/// What protects the source from clients that miss a value at the same time.
#[derive(Clone, Copy, PartialEq)]
enum Shield {
    /// CACHE.FETCH, waiting for the value.
    Fetch,
    /// The same, with a value that is loaded again before it expires.
    FetchStale,
    /// A lease by SET NX; those who do not get it look again after 100 ms.
    Poll,
    /// Each client loads again before the value expires, with a probability that grows.
    XFetch,
    Nothing,
}

impl Shield {
    /// Whether those who miss the value wait in the server.
    fn waits(self) -> bool {
        matches!(self, Self::Fetch | Self::FetchStale)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Fetch => "CACHE.FETCH BLOCK",
            Self::FetchStale => "CACHE.FETCH BLOCK STALE 100",
            Self::Poll => "SET NX, look every 100 ms",
            Self::XFetch => "XFetch: GET, PTTL",
            Self::Nothing => "GET, nothing else",
        }
    }
}

/// What CACHE.FETCH replied.
struct Told {
    loads: bool,
    miss: bool,
    token: Option<i64>,
}

impl Told {
    fn by(reply: &[u8]) -> Self {
        let loads = reply.starts_with(b"*3\r\n+LOAD\r\n");
        let answered = loads
            || [&b"*3\r\n+HIT\r\n"[..], b"*3\r\n+STALE\r\n"]
                .iter()
                .any(|start| reply.starts_with(start));
        assert!(answered, "neither a value nor a lease: {}", reply.escape_ascii());
        let last = reply.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        let token = if loads { String::from_utf8_lossy(last).trim().parse().ok() } else { None };
        Self { loads, miss: reply.starts_with(b"*3\r\n+LOAD\r\n$-1"), token }
    }
}

/// Clients that want a value and load it if need be.
struct Readers {
    swarm: Swarm,
    shields: Vec<Shield>,
    keys: Vec<String>,
    ttl_ms: usize,
    states: Vec<State>,
    tokens: Vec<i64>,
    random: Random,
    value: String,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// With its own load or with another one's.
    Idle {
        filled: bool,
    },
    Reading,
    /// Asking for a lease.
    Leasing,
    /// Until it looks again.
    Pausing,
    Loading,
    Filling,
}

/// What has become of a reader.
enum News {
    /// It has to load the value. A miss: it has no other.
    Load { member: usize, miss: bool },
    /// It has loaded it.
    Loaded(usize),
    /// It has the value.
    Answered(usize),
    /// It found nothing and has no lease. It will look again.
    Refused(usize),
    /// What it slept for is over.
    Alarm(usize),
}

impl Readers {
    fn new(swarm: Swarm, shields: Vec<Shield>, keys: Vec<String>, ttl_ms: usize) -> Self {
        let size = keys.len();
        Self {
            swarm,
            shields,
            keys,
            ttl_ms,
            states: vec![State::Idle { filled: false }; size],
            tokens: vec![0; size],
            random: Random::new(4),
            value: value(),
        }
    }

    fn lease_key(&self, member: usize) -> String {
        format!("loading:{{{}}}", self.keys[member])
    }

    /// Whether the last answer of a reader was its own load.
    fn filled(&self, member: usize) -> bool {
        self.states[member] == State::Idle { filled: true }
    }

    fn ask(&mut self, member: usize) {
        let key = &self.keys[member];
        let ask = match self.shields[member] {
            Shield::Fetch => encoded(&args!["CACHE.FETCH", key, 5000, "BLOCK", 10_000]),
            Shield::FetchStale => {
                encoded(&args!["CACHE.FETCH", key, 5000, "STALE", 100, "BLOCK", 10_000])
            }
            Shield::XFetch => {
                self.swarm.sent += 1;
                [encoded(&args!["GET", key]), encoded(&args!["PTTL", key])].concat()
            }
            Shield::Poll | Shield::Nothing => encoded(&args!["GET", key]),
        };
        self.send(member, State::Reading, &ask);
    }

    fn load(&mut self, member: usize, time: Duration) {
        self.states[member] = State::Loading;
        self.swarm.sleep(member, time);
    }

    fn fill(&mut self, member: usize) {
        let (key, value, ttl) = (&self.keys[member], &self.value, self.ttl_ms);
        let fill = match self.shields[member] {
            Shield::Fetch | Shield::FetchStale => {
                encoded(&args!["CACHE.SET", key, value, ttl, "TOKEN", self.tokens[member]])
            }
            Shield::Poll => {
                self.swarm.sent += 1;
                let store = encoded(&args!["SET", key, value, "PX", ttl]);
                [store, encoded(&args!["DEL", self.lease_key(member)])].concat()
            }
            Shield::XFetch | Shield::Nothing => encoded(&args!["SET", key, value, "PX", ttl]),
        };
        self.send(member, State::Filling, &fill);
    }

    fn send(&mut self, member: usize, state: State, command: &[u8]) {
        self.states[member] = state;
        self.swarm.send(member, command);
    }

    /// What happens next, if it happens before the `end`.
    fn next(&mut self, end: Instant) -> Option<News> {
        loop {
            let member = match self.swarm.next(end)? {
                Event::Reply(member) => member,
                Event::Alarm(member) => match self.states[member] {
                    State::Pausing => {
                        self.ask(member);
                        continue;
                    }
                    State::Loading => return Some(News::Loaded(member)),
                    _ => return Some(News::Alarm(member)),
                },
            };
            let news = match self.states[member] {
                State::Leasing => Some(self.leased(member)),
                State::Filling => {
                    self.swarm.reply(member, |_| ());
                    if self.shields[member] == Shield::Poll {
                        self.swarm.reply(member, |_| ());
                    }
                    self.states[member] = State::Idle { filled: true };
                    Some(News::Answered(member))
                }
                _ => self.read(member),
            };
            if news.is_some() {
                return news;
            }
        }
    }

    fn leased(&mut self, member: usize) -> News {
        if self.swarm.reply(member, |reply| reply == b"+OK\r\n") {
            return News::Load { member, miss: true };
        }
        self.states[member] = State::Pausing;
        self.swarm.sleep(member, EVERY);
        News::Refused(member)
    }

    fn read(&mut self, member: usize) -> Option<News> {
        let shield = self.shields[member];
        let (loads, miss) = match shield {
            _ if shield.waits() => {
                let told = self.swarm.reply(member, Told::by);
                self.tokens[member] = told.token.unwrap_or_default();
                (told.loads, told.miss)
            }
            _ => {
                let miss = self.swarm.reply(member, |reply| reply == b"$-1\r\n");
                (miss || shield == Shield::XFetch && self.early(member), miss)
            }
        };
        if shield == Shield::Poll && miss {
            let lease = encoded(&args!["SET", self.lease_key(member), "me", "NX", "PX", 5000]);
            self.send(member, State::Leasing, &lease);
            return None;
        }
        if loads {
            return Some(News::Load { member, miss });
        }
        self.states[member] = State::Idle { filled: false };
        Some(News::Answered(member))
    }

    /// Whether to load early: the time that a load takes, times an exponential variable, is more than
    /// the time that is left.
    fn early(&mut self, member: usize) -> bool {
        const LOAD_MS: f64 = 10.0;
        let left = self.swarm.reply(member, |reply| {
            String::from_utf8_lossy(&reply[1..]).trim().parse().unwrap_or(0.0)
        });
        let chance = (self.random.below(1 << 24) + 1) as f64 / f64::from(1 << 24);
        -chance.ln() * LOAD_MS >= left
    }
}
