//! CACHE.FETCH: the cost of a read, and many clients that miss a value at the same time, compared with
//! client-side remedies.

use super::lock_waiting::POLL_INTERVAL;
use super::{NAMES, Study, cycling, each, name_once, once, shuffled};
use crate::latency::{Sleeper, millis};
use crate::measure::{Case, Contender, Lab, quantile};
use crate::support::{Random, SOON, Server, args};
use crate::swarm::{Event, Swarm};
use crate::table::Column;
use crate::verdict::{Bar, Verdict};
use crate::wire::{Requests, encoded};
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
        name: "many clients miss a value",
        columns: &[
            Column("many clients miss a value", 30, false),
            Column("client", 25, false),
            Column("loads", 6, true),
            Column("commands", 8, true),
            Column("last reply", 10, true),
            Column("bar", 12, true),
        ],
        run: |_| stampedes(),
    },
    Study {
        name: "a value expires repeatedly",
        columns: &[
            Column("a value expires repeatedly", 34, false),
            Column("client", 27, false),
            Column("reads", 6, true),
            Column("loads", 5, true),
            Column("concurrent", 10, true),
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

/// The key of a lease that clients manage themselves.
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
    lab.prepare(&values);
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
        Contender::native("GET", get("GET")).bar(Bar { goal: 0.72, reached: 0.64 }),
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
        (command, requests)
    };
    let [(ours, cached), (native, plain)] = ["CACHE.MGET", "MGET"].map(contender);
    vec![
        Contender::new(ours, cached),
        Contender::native(native, plain).bar(Bar { goal: 0.92, reached: 0.85 }),
    ]
}

/// A miss: take the lease, store the value, release the lease.
fn cycle(lab: &mut Lab) -> Vec<Contender> {
    let commands = lab.effort.commands;
    let delete_all = || each(0..commands, &[":"], |r, n| r.push(&args!["DEL", key(n)]));
    let numbers: Vec<_> = once(lab).collect();
    let asks =
        each(numbers.iter().copied(), &["*"], |r, n| r.push(&args!["CACHE.FETCH", key(n), 60_000]));
    let (keys, loaded) = (numbers.clone(), value());
    let ours = Contender::custom("FETCH, SET TOKEN", move |lab| {
        let connection = &mut lab.connections[0];
        for (batch, keys) in keys.chunks(lab.effort.pipeline).enumerate() {
            let from = batch * lab.effort.pipeline;
            connection.send(asks.bytes_of(from..from + keys.len()));
            let mut fills = Vec::new();
            for number in keys {
                let token = connection.reply(token);
                let token = token.expect("no other client loads the key");
                let fill = args!["CACHE.SET", key(*number), loaded, 60_000, "TOKEN", token];
                fills.extend(encoded(&fill));
            }
            connection.send(&fills);
            keys.iter().for_each(|_| connection.expect("+OK"));
        }
        keys.len()
    });
    let token = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    let script = lab.script(
        "if redis.call('get', KEYS[2]) == ARGV[3] then redis.call('del', KEYS[2])
            redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2]) return 1 else return 0 end",
    );
    let asks = || {
        each(numbers.iter().copied(), &["$-1", "+OK"], |r, n| {
            r.push(&args!["GET", key(n)]);
            r.push(&args!["SET", lease_key(n), token, "NX", "PX", 60_000]);
        })
    };
    let fills = each(numbers.iter().copied(), &["+OK", ":1"], |r, n| {
        r.push(&args!["SET", key(n), value(), "PX", 60_000]);
        r.push(&args!["DEL", lease_key(n)]);
    });
    let lua = each(numbers.iter().copied(), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, key(n), lease_key(n), value(), 60_000, token]);
    });
    // The value is stored after the reply to the read, so these alternate.
    let steps = |asks: Requests, fills: Requests| {
        move |lab: &mut Lab| {
            let (count, pipeline) = (asks.operations(), lab.effort.pipeline);
            for from in (0..count).step_by(pipeline) {
                let batch = from..count.min(from + pipeline);
                asks.exchange(&mut lab.connections[0], batch.clone());
                fills.exchange(&mut lab.connections[0], batch);
            }
            count
        }
    };
    let relay = steps(asks().relayed(), fills.relayed());
    vec![
        ours.setup(delete_all()),
        Contender::custom("GET, SET NX; SET, DEL", steps(asks(), fills))
            .relay_custom(relay)
            .setup(delete_all())
            .bar(Bar { goal: 0.75, reached: 0.60 }),
        Contender::custom("GET, SET NX; Lua: SET, DEL", steps(asks(), lua)).setup(delete_all()),
    ]
}

/// All clients request a missing key at once.
fn stampedes() -> Vec<Vec<String>> {
    const ROUNDS: usize = 5;
    const LOAD: Duration = Duration::from_millis(50);
    let server = Server::start();
    let mut rows = Vec::new();
    for size in [100, 1000] {
        let of_size = [Strategy::Fetch, Strategy::Poll, Strategy::Nothing].map(|strategy| {
            let mut swarm = Some(Swarm::new(&server, size));
            let mut figures: [Vec<f64>; 3] = Default::default();
            for round in 0..ROUNDS {
                let keys = vec![format!("cold:{}:{size}:{round}", strategy as u32); size];
                let swarm_now = swarm.take().expect("each round returns the swarm");
                let mut readers = Readers::new(swarm_now, vec![strategy; size], keys, 60_000);
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
            let ours = strategy == Strategy::Fetch;
            let verdict = Verdict::at_most(loads[1], 1.0, 0.0);
            vec![
                format!("{size} clients, 50 ms to load"),
                strategy.label().into(),
                format!("{:.0}", loads[0]),
                format!("{:.0}", commands[0]),
                millis(last[0]),
                if ours { verdict.cell("1 load") } else { String::new() },
            ]
        });
        rows.extend(name_once(of_size.into()));
    }
    rows
}

/// The number of loads, and the time from the first fill to the last reply.
fn stampede(readers: &mut Readers, load: Duration) -> (usize, Duration) {
    let size = readers.keys.len();
    let (mut loads, mut answered, mut filled) = (0, 0, None);
    readers.swarm.sent = 0;
    (0..size).for_each(|member| readers.ask(member));
    let end = Instant::now() + SOON;
    while answered < size {
        match readers.next(end).expect("every client gets the value soon") {
            Progress::Load { member, .. } => {
                loads += 1;
                readers.load(member, load);
            }
            Progress::Loaded(member) => {
                filled.get_or_insert_with(Instant::now);
                readers.fill(member);
            }
            Progress::Answered(_) => answered += 1,
            Progress::Refused(_) | Progress::Alarm(_) => {}
        }
    }
    (loads, filled.map_or(Duration::ZERO, |since| since.elapsed()))
}

/// Workers that read a value which expires again and again.
fn steady() -> Vec<Vec<String>> {
    const DURATION: Duration = Duration::from_millis(4500);
    const WORKERS: usize = 50;
    const TTL_MS: usize = 400;
    const LOAD: Duration = Duration::from_millis(10);
    const MAX_PAUSE_US: usize = 50_000;
    // A refresh starts within the last 100 ms of a value and takes 10 ms. If the machine pauses for
    // longer than the rest, the value expires.
    const SLACK_US: f64 = 90_000.0;
    const STRATEGIES: [Strategy; 5] = [
        Strategy::FetchStale,
        Strategy::Fetch,
        Strategy::XFetch,
        Strategy::Poll,
        Strategy::Nothing,
    ];
    let server = Server::start();
    let mut client = server.client();
    let key = |strategy: usize| format!("hot:{strategy}");
    let strategy_of = |member: usize| member / WORKERS;
    let size = WORKERS * STRATEGIES.len();
    let mut readers = Readers::new(
        Swarm::new(&server, size),
        (0..size).map(|member| STRATEGIES[strategy_of(member)]).collect(),
        (0..size).map(|member| key(strategy_of(member))).collect(),
        TTL_MS,
    );
    let mut random = Random::new(3);
    // Every key exists at the start, so no miss is due to a cold cache.
    for strategy in 0..STRATEGIES.len() {
        client.cmd(&args!["CACHE.SET", key(strategy), value(), TTL_MS]);
    }
    let mut pause = move || Duration::from_micros(random.below(MAX_PAUSE_US) as u64);
    (0..size).for_each(|member| readers.swarm.sleep(member, pause()));
    let mut tallies = STRATEGIES.map(|_| Tally::default());
    let sleeper = Sleeper::start();
    let end = Instant::now() + DURATION;
    while let Some(progress) = readers.next(end) {
        match progress {
            Progress::Load { member, miss } => {
                let tally = &mut tallies[strategy_of(member)];
                tally.loads += 1;
                tally.loading += 1;
                tally.concurrent = tally.concurrent.max(tally.loading);
                tally.misses += usize::from(miss);
                tally.cold = miss;
                readers.load(member, LOAD);
            }
            Progress::Loaded(member) => {
                let strategy = strategy_of(member);
                if STRATEGIES[strategy].waits() && tallies[strategy].cold {
                    // The clients that wait for this load missed the value, too.
                    let others = &readers.states[strategy * WORKERS..][..WORKERS];
                    let waiting = others.iter().filter(|state| **state == State::Reading);
                    tallies[strategy].misses += waiting.count();
                }
                readers.fill(member);
            }
            Progress::Answered(member) => {
                let tally = &mut tallies[strategy_of(member)];
                tally.reads += 1;
                tally.loading -= usize::from(readers.filled(member));
                readers.swarm.sleep(member, pause());
            }
            Progress::Refused(member) => tallies[strategy_of(member)].misses += 1,
            Progress::Alarm(member) => readers.ask(member),
        }
    }
    let jitter = sleeper.stop()[2];
    let noise = if jitter > SLACK_US { f64::INFINITY } else { 0.0 };
    let rows = STRATEGIES.iter().zip(&tallies).map(|(strategy, tally)| {
        let misses = tally.misses;
        let one_load = Verdict::at_most(tally.concurrent as f64, 1.0, 0.0);
        let no_miss = Verdict::at_most(misses as f64, 0.0, noise);
        let ours = |is_ours, verdict: Verdict, bar| match is_ours {
            true => verdict.cell(bar),
            false => String::new(),
        };
        vec![
            "50 workers, TTL 400 ms, load 10 ms".into(),
            strategy.label().into(),
            tally.reads.to_string(),
            tally.loads.to_string(),
            tally.concurrent.to_string(),
            ours(strategy.waits(), one_load, "1"),
            misses.to_string(),
            ours(*strategy == Strategy::FetchStale, no_miss, "0"),
        ]
    });
    name_once(rows.collect())
}

#[derive(Default)]
struct Tally {
    reads: usize,
    loads: usize,
    /// The loads in progress, and their maximum.
    loading: usize,
    concurrent: usize,
    misses: usize,
    /// Whether the load in progress replaces no value.
    cold: bool,
}

/// How clients that miss a value at the same time spare the source.
#[derive(Clone, Copy, PartialEq)]
enum Strategy {
    /// CACHE.FETCH, waiting for the value.
    Fetch,
    /// The same, with a refresh before the value expires.
    FetchStale,
    /// A lease with SET NX. Clients without the lease look again after 100 ms.
    Poll,
    /// Each client refreshes the value before it expires, with a rising probability.
    XFetch,
    Nothing,
}

impl Strategy {
    /// Whether clients that miss the value wait on the server.
    fn waits(self) -> bool {
        matches!(self, Self::Fetch | Self::FetchStale)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Fetch => "CACHE.FETCH BLOCK",
            Self::FetchStale => "CACHE.FETCH BLOCK STALE 100",
            Self::Poll => "SET NX, poll every 100 ms",
            Self::XFetch => "XFetch: GET, PTTL",
            Self::Nothing => "GET without protection",
        }
    }
}

/// A reply of CACHE.FETCH.
struct Fetched {
    loads: bool,
    miss: bool,
    token: Option<i64>,
}

impl Fetched {
    fn parse(reply: &[u8]) -> Self {
        let loads = reply.starts_with(b"*3\r\n+LOAD\r\n");
        let answered = loads
            || [&b"*3\r\n+HIT\r\n"[..], b"*3\r\n+STALE\r\n"]
                .iter()
                .any(|start| reply.starts_with(start));
        assert!(answered, "neither a value nor a load: {}", reply.escape_ascii());
        let last = reply.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        let token = if loads { String::from_utf8_lossy(last).trim().parse().ok() } else { None };
        Self { loads, miss: reply.starts_with(b"*3\r\n+LOAD\r\n$-1"), token }
    }
}

/// The token of a client that is to load the value.
pub fn token(reply: &[u8]) -> Option<i64> {
    Fetched::parse(reply).token
}

/// Clients that read a value and load it if necessary.
struct Readers {
    swarm: Swarm,
    strategies: Vec<Strategy>,
    keys: Vec<String>,
    ttl_ms: usize,
    states: Vec<State>,
    tokens: Vec<i64>,
    random: Random,
    value: String,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Whether its last value came from its own load.
    Idle {
        filled: bool,
    },
    Reading,
    /// Requests a lease.
    Leasing,
    /// Sleeps until the next poll.
    Pausing,
    Loading,
    Filling,
}

/// A step of a reader.
enum Progress {
    /// It must load the value. On a miss there is no old value.
    Load { member: usize, miss: bool },
    /// It has loaded the value.
    Loaded(usize),
    /// It has received the value.
    Answered(usize),
    /// It found no value and got no lease. It looks again later.
    Refused(usize),
    /// Its sleep has ended.
    Alarm(usize),
}

impl Readers {
    fn new(swarm: Swarm, strategies: Vec<Strategy>, keys: Vec<String>, ttl_ms: usize) -> Self {
        let size = keys.len();
        Self {
            swarm,
            strategies,
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

    /// Whether the last value of a reader came from its own load.
    fn filled(&self, member: usize) -> bool {
        self.states[member] == State::Idle { filled: true }
    }

    fn ask(&mut self, member: usize) {
        let key = &self.keys[member];
        let ask = match self.strategies[member] {
            Strategy::Fetch => encoded(&args!["CACHE.FETCH", key, 5000, "BLOCK", 10_000]),
            Strategy::FetchStale => {
                encoded(&args!["CACHE.FETCH", key, 5000, "STALE", 100, "BLOCK", 10_000])
            }
            Strategy::XFetch => {
                self.swarm.sent += 1;
                [encoded(&args!["GET", key]), encoded(&args!["PTTL", key])].concat()
            }
            Strategy::Poll | Strategy::Nothing => encoded(&args!["GET", key]),
        };
        self.send(member, State::Reading, &ask);
    }

    fn load(&mut self, member: usize, time: Duration) {
        self.states[member] = State::Loading;
        self.swarm.sleep(member, time);
    }

    fn fill(&mut self, member: usize) {
        let (key, value, ttl) = (&self.keys[member], &self.value, self.ttl_ms);
        let fill = match self.strategies[member] {
            Strategy::Fetch | Strategy::FetchStale => {
                encoded(&args!["CACHE.SET", key, value, ttl, "TOKEN", self.tokens[member]])
            }
            Strategy::Poll => {
                self.swarm.sent += 1;
                let store = encoded(&args!["SET", key, value, "PX", ttl]);
                [store, encoded(&args!["DEL", self.lease_key(member)])].concat()
            }
            Strategy::XFetch | Strategy::Nothing => encoded(&args!["SET", key, value, "PX", ttl]),
        };
        self.send(member, State::Filling, &fill);
    }

    fn send(&mut self, member: usize, state: State, command: &[u8]) {
        self.states[member] = state;
        self.swarm.send(member, command);
    }

    /// Waits for the next step of any reader until `end`.
    fn next(&mut self, end: Instant) -> Option<Progress> {
        loop {
            let member = match self.swarm.next(end)? {
                Event::Reply(member) => member,
                Event::Alarm(member) => match self.states[member] {
                    State::Pausing => {
                        self.ask(member);
                        continue;
                    }
                    State::Loading => return Some(Progress::Loaded(member)),
                    _ => return Some(Progress::Alarm(member)),
                },
            };
            let progress = match self.states[member] {
                State::Leasing => Some(self.leased(member)),
                State::Filling => {
                    self.swarm.reply(member, |_| ());
                    if self.strategies[member] == Strategy::Poll {
                        self.swarm.reply(member, |_| ());
                    }
                    self.states[member] = State::Idle { filled: true };
                    Some(Progress::Answered(member))
                }
                _ => self.read(member),
            };
            if progress.is_some() {
                return progress;
            }
        }
    }

    fn leased(&mut self, member: usize) -> Progress {
        if self.swarm.reply(member, |reply| reply == b"+OK\r\n") {
            return Progress::Load { member, miss: true };
        }
        self.states[member] = State::Pausing;
        self.swarm.sleep(member, POLL_INTERVAL);
        Progress::Refused(member)
    }

    fn read(&mut self, member: usize) -> Option<Progress> {
        let strategy = self.strategies[member];
        let (loads, miss) = match strategy {
            _ if strategy.waits() => {
                let fetched = self.swarm.reply(member, Fetched::parse);
                self.tokens[member] = fetched.token.unwrap_or_default();
                (fetched.loads, fetched.miss)
            }
            _ => {
                let miss = self.swarm.reply(member, |reply| reply == b"$-1\r\n");
                // Takes the second reply even on a miss.
                let early = strategy == Strategy::XFetch && self.early(member);
                (miss || early, miss)
            }
        };
        if strategy == Strategy::Poll && miss {
            let lease = encoded(&args!["SET", self.lease_key(member), "me", "NX", "PX", 5000]);
            self.send(member, State::Leasing, &lease);
            return None;
        }
        if loads {
            return Some(Progress::Load { member, miss });
        }
        self.states[member] = State::Idle { filled: false };
        Some(Progress::Answered(member))
    }

    /// Whether to refresh early: the duration of a load times an exponential variable exceeds the
    /// remaining time-to-live.
    fn early(&mut self, member: usize) -> bool {
        const LOAD_MS: f64 = 10.0;
        let left = self.swarm.reply(member, |reply| {
            String::from_utf8_lossy(&reply[1..]).trim().parse().unwrap_or(0.0)
        });
        let chance = (self.random.below(1 << 24) + 1) as f64 / f64::from(1 << 24);
        -chance.ln() * LOAD_MS >= left
    }
}
