//! Clients that wait for a lock: LOCK.ACQUIRE BLOCK compared with the ways of lock libraries.

use super::{Study, name_once};
use crate::crowd::{Ready, can_connect, connect};
use crate::latency::{Sleeper, micros, millis, now_us};
use crate::measure::{Case, Contender, Lab, quantile};
use crate::support::{Random, SOON, Server, args, eventually};
use crate::swarm::{Event, Swarm};
use crate::table::Column;
use crate::verdict::{Bar, Verdict};
use crate::wire::{Connection, encoded};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases.
pub const CASES: &[Case] = &[Case {
    name: "Lock handed over, 10,000 waiters",
    build: |lab| hand_overs(lab, [10_000, 1000, 10]),
}];

/// The studies.
pub const STUDIES: &[Study] = &[
    Study {
        name: "a lock is handed over",
        columns: &[
            Column("a lock is handed over", 30, false),
            Column("client", 24, false),
            Column("p50", 9, true),
            Column("p99", 9, true),
            Column("hand-overs", 10, true),
            Column("bar", 21, true),
            Column("p50 jitter", 10, true),
        ],
        run: |_| latency(),
    },
    Study {
        name: "workers share a lock",
        columns: &[
            Column("workers share a lock", 30, false),
            Column("client", 24, false),
            Column("acquired/s", 10, true),
            Column("commands each", 13, true),
            Column("bar", 12, true),
            Column("min/max", 7, true),
            Column("bar", 14, true),
        ],
        run: |_| fairness(),
    },
    Study {
        name: "a lock's lease expires",
        columns: &[
            Column("a lock's lease expires", 31, false),
            Column("client", 24, false),
            Column("p50 late", 9, true),
            Column("p99 late", 9, true),
            Column("max late", 9, true),
            Column("leases", 6, true),
            Column("bar (max)", 15, true),
            Column("max jitter", 10, true),
        ],
        run: |_| expiry(),
    },
];

/// The script with which redis-py releases a lock.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/// The script with which python-redis-lock releases a lock.
const RELEASE_AND_SIGNAL: &str = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 else
    redis.call('del', KEYS[2]) redis.call('lpush', KEYS[2], 1) redis.call('pexpire', KEYS[2], ARGV[2])
    redis.call('del', KEYS[1]) return 1 end";

/// A lease that never expires during a measurement.
const LEASE_MS: u64 = 30_000;

/// The polling interval of redis-py and many other clients.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How a client waits for a lock.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// LOCK.ACQUIRE BLOCK.
    Corral,
    /// SET NX at intervals until it succeeds, as redis-py does.
    Poll,
    /// SET NX, then BLPOP of a list to which every release pushes an element, as python-redis-lock does.
    Signal,
}

const STYLES: [Style; 3] = [Style::Corral, Style::Poll, Style::Signal];

impl Style {
    fn label(self) -> &'static str {
        match self {
            Self::Corral => "LOCK.ACQUIRE BLOCK",
            Self::Poll => "SET NX every 100 ms",
            Self::Signal => "SET NX + BLPOP a signal",
        }
    }
}

/// The time from the release of a lock to the reply of the client that waits for it. Each lock has
/// two clients. A holder keeps the lock for up to 105 ms, so that polls fall on any moment.
fn latency() -> Vec<Vec<String>> {
    const PAIRS: usize = 20;
    const DURATION: Duration = Duration::from_secs(2);
    let server = Server::start();
    let rows = STYLES.map(|style| {
        let sleeper = Sleeper::start();
        let mut random = Random::new(1);
        let mut times = Vec::new();
        let mut workers = Workers::new(&server, style, 2 * PAIRS, |member| {
            format!("{}:pair{}", style.label().replace(' ', "-"), member / 2)
        });
        let mut released = [None; PAIRS];
        (0..PAIRS).for_each(|pair| workers.ask(2 * pair));
        let end = Instant::now() + DURATION;
        while let Some(progress) = workers.next(end) {
            match progress {
                Progress::Granted(member) => {
                    if let Some(since) = released[member / 2].take() {
                        times.push(micros(Instant::now() - since));
                    }
                    let hold = 5_000 + random.below(100_000);
                    workers.swarm.sleep(member, Duration::from_micros(hold as u64));
                    if workers.states[member ^ 1] == State::Idle {
                        workers.ask(member ^ 1);
                    }
                }
                Progress::Alarm(member) => {
                    released[member / 2] = Some(Instant::now());
                    workers.release(member);
                }
                Progress::Released(member) => {
                    if workers.states[member ^ 1] == State::Holding {
                        workers.ask(member);
                    }
                }
            }
        }
        times.sort_by(f64::total_cmp);
        let p50 = quantile(&times, 0.5);
        let jitter = sleeper.stop()[0];
        let verdict = Verdict::in_time(p50, 500.0, jitter);
        let bar = (style == Style::Corral).then(|| verdict.cell("p50 <= 0.5 ms"));
        vec![
            "to the only waiter".into(),
            style.label().into(),
            millis(p50),
            millis(quantile(&times, 0.99)),
            times.len().to_string(),
            bar.unwrap_or_default(),
            millis(jitter),
        ]
    });
    name_once(rows.into())
}

/// Workers acquire a lock, hold it for a millisecond, release it and ask again immediately.
fn fairness() -> Vec<Vec<String>> {
    const HOLD: Duration = Duration::from_millis(1);
    const DURATION: Duration = Duration::from_millis(2000);
    let server = Server::start();
    let mut rows = Vec::new();
    for size in [8, 32] {
        let of_size = STYLES.map(|style| {
            let mut workers = Workers::new(&server, style, size, |_| {
                format!("{}:{size}", style.label().replace(' ', "-"))
            });
            let mut grants = vec![0_usize; size];
            (0..size).for_each(|member| workers.ask(member));
            let end = Instant::now() + DURATION;
            while let Some(progress) = workers.next(end) {
                match progress {
                    Progress::Granted(member) => {
                        grants[member] += 1;
                        workers.swarm.sleep(member, HOLD);
                    }
                    Progress::Alarm(member) => workers.release(member),
                    Progress::Released(member) => workers.ask(member),
                }
            }
            let all: usize = grants.iter().sum();
            let each = workers.swarm.sent as f64 / all as f64;
            let least = grants.iter().copied().min().unwrap_or(0);
            let most = grants.iter().copied().max().unwrap_or(0);
            let fairness = least as f64 / most as f64;
            let ours = style == Style::Corral;
            // Workers that still wait at the end have sent a command without a grant.
            let waiting = size as f64 / all as f64;
            // With strict FIFO the grants of two workers differ by one at the end.
            let one_grant = 1.0 / most as f64;
            let bar =
                |verdict: Verdict, text| if ours { verdict.cell(text) } else { String::new() };
            vec![
                format!("{size} workers, 1 ms each"),
                style.label().into(),
                format!("{:.0}", all as f64 / DURATION.as_secs_f64()),
                format!("{each:.2}"),
                bar(Verdict::at_most(each - waiting, 2.0, 0.0), "<= 2"),
                format!("{fairness:.2}"),
                bar(Verdict::at_least(fairness, 0.95, one_grant), ">= 0.95"),
            ]
        });
        rows.extend(name_once(of_size.into()));
    }
    rows
}

/// The time from the expiry of a crashed holder's lease to the grant to a waiter.
fn expiry() -> Vec<Vec<String>> {
    const LOCKS: usize = 16;
    const DURATION: Duration = Duration::from_millis(1500);
    let server = Server::start();
    let mut client = server.client();
    let mut rows = Vec::new();
    for volatile in [0, 1_000_000] {
        for from in (0..volatile).step_by(100_000) {
            let fill = "for n = ARGV[1], ARGV[1] + 99999 do
                redis.call('SET', 'volatile:' .. n, 'v', 'PX', 3600000 + n % 1000) end";
            let reply = client.cmd(&args!["EVAL", fill, 0, from]);
            assert!(!reply.is_error(), "the keys were not created: {reply:?}");
        }
        let of_size = STYLES.map(|style| {
            let mut random = Random::new(2);
            let mut workers = Workers::new(&server, style, LOCKS, |member| {
                format!("{}:{volatile}:{member}", style.label().replace(' ', "-"))
            });
            let mut deadlines = [0_i64; LOCKS];
            let mut late = Vec::new();
            let mut hold = |workers: &mut Workers, deadlines: &mut [i64], member: usize| {
                let key = workers.key(member);
                let ttl = 50 + random.below(150);
                client.cmd(&args!["SET", key, "crashed holder", "PX", ttl]);
                // A client of the third style knows the expiry, and checks 1 ms later.
                workers.timeouts[member] = (ttl + 1) as f64 / 1000.0;
                deadlines[member] = client.cmd(&args!["PEXPIRETIME", key]).as_int();
                workers.ask(member);
            };
            (0..LOCKS).for_each(|member| hold(&mut workers, &mut deadlines, member));
            let end = Instant::now() + DURATION;
            let sleeper = Sleeper::start();
            while let Some(progress) = workers.next(end) {
                match progress {
                    Progress::Granted(member) => {
                        late.push(now_us() - deadlines[member] as f64 * 1000.0);
                        workers.release(member);
                    }
                    Progress::Released(member) => hold(&mut workers, &mut deadlines, member),
                    Progress::Alarm(_) => {}
                }
            }
            let jitter = sleeper.stop()[2];
            late.sort_by(f64::total_cmp);
            let most = quantile(&late, 1.0);
            let verdict = Verdict::in_time(most, 5000.0, jitter);
            let bar = (style == Style::Corral).then(|| verdict.cell("<= 5 ms"));
            let label = match volatile {
                0 => "no other key has a TTL",
                _ => "1,000,000 other keys have a TTL",
            };
            vec![
                label.into(),
                match style {
                    Style::Signal => "SET NX, BLPOP for PTTL".into(),
                    _ => style.label().into(),
                },
                millis(quantile(&late, 0.5)),
                millis(quantile(&late, 0.99)),
                millis(most),
                late.len().to_string(),
                bar.unwrap_or_default(),
                millis(jitter),
            ]
        });
        rows.extend(name_once(of_size.into()));
    }
    rows
}

/// Locks with lines of different lengths, all at the same time. The same number of connections takes
/// part in each, because talking to many clients costs more than talking to few.
fn hand_overs(lab: &mut Lab, lengths: [usize; 3]) -> Vec<Contender> {
    const SPARE: usize = 6000;
    let size = lengths.iter().sum::<usize>() + lengths.len() + SPARE;
    if !can_connect(size) {
        return Vec::new();
    }
    let crowd = Rc::new(RefCell::new(LockCrowd::new(lab, size)));
    let labels = ["10,000 waiters", "1,000 waiters", "10 waiters"];
    let contenders = lengths.iter().zip(labels).map(|(length, label)| {
        let mut line = LockLine::new(&crowd, format!("line:{length}"));
        line.grow(lab, *length);
        let count = lab.effort.commands / 20;
        Contender::custom(label, move |_| {
            (0..count).for_each(|_| line.hand_over());
            count
        })
    });
    let mut contenders: Vec<_> = contenders.collect();
    let last = contenders.pop().expect("there are three lines");
    contenders.push(last.bar(Bar { goal: 0.9, reached: 0.9 }));
    contenders
}

/// Clients that wait for locks, and others that are idle.
pub struct LockCrowd {
    members: Vec<Connection>,
    ready: Ready,
    ids: Vec<String>,
    idle: VecDeque<usize>,
}

impl LockCrowd {
    /// Connects `size` clients, all of them idle.
    pub fn new(lab: &mut Lab, size: usize) -> Self {
        let (members, ids) = connect(lab, size);
        Self { ready: Ready::new(&members), members, ids, idle: (0..size).collect() }
    }
}

/// The holder of a lock and the clients that wait for it, in their order.
pub struct LockLine {
    name: String,
    crowd: Rc<RefCell<LockCrowd>>,
    line: VecDeque<usize>,
}

impl LockLine {
    /// One client holds the lock.
    pub fn new(crowd: &Rc<RefCell<LockCrowd>>, name: String) -> Self {
        let mut line = Self { name, crowd: Rc::clone(crowd), line: VecDeque::new() };
        line.join();
        line.crowd.borrow_mut().members[line.line[0]].expect(":1");
        line
    }

    /// Makes that many clients wait.
    pub fn grow(&mut self, lab: &mut Lab, waiting: usize) {
        (self.line.len()..=waiting).for_each(|_| self.join());
        let info = args!["LOCK.INFO", self.name];
        eventually(SOON, "all clients wait", || {
            let waiters = lab.client.cmd(&info).field("waiters").map(crate::support::Value::as_int);
            waiters == Some(waiting as i64)
        });
    }

    fn join(&mut self) {
        const LEASE: usize = 3_600_000;
        let mut crowd = self.crowd.borrow_mut();
        let member = crowd.idle.pop_front().expect("there are spare clients");
        let id = format!("w{member}");
        let ask = args!["LOCK.ACQUIRE", self.name, id, LEASE, "BLOCK", LEASE];
        crowd.members[member].send(&encoded(&ask));
        self.line.push_back(member);
    }

    /// The holder releases the lock, the next client gets it, and another one joins the line.
    pub fn hand_over(&mut self) {
        let holder = self.line.pop_front().expect("the lock has a holder");
        let release = encoded(&args!["LOCK.RELEASE", self.name, format!("w{holder}")]);
        let mut crowd = self.crowd.borrow_mut();
        crowd.members[holder].send(&release);
        let (mut released, mut granted) = (false, None);
        while !released || granted.is_none() {
            for member in crowd.ready.next() {
                crowd.members[member].expect(":1");
                released |= member == holder;
                granted = granted.or(Some(member).filter(|member| *member != holder));
            }
        }
        crowd.idle.push_back(holder);
        drop(crowd);
        // It is the first one, unless two joined at almost the same time.
        let place = self.line.iter().position(|member| Some(*member) == granted);
        let next = self.line.remove(place.expect("a waiting client")).expect("a place in the line");
        self.line.push_front(next);
        self.join();
    }

    /// One of the waiting clients gives up, and another one joins the line.
    pub fn replace(&mut self, lab: &mut Lab, place: usize) {
        let member = self.line.remove(place).expect("a waiting client");
        let mut crowd = self.crowd.borrow_mut();
        let unblock = encoded(&["CLIENT", "UNBLOCK", &crowd.ids[member]]);
        // It may have joined a moment ago, and not wait yet.
        while !lab.connections[0].ask(&unblock, |reply| reply == b":1\r\n") {}
        crowd.members[member].expect(":0");
        crowd.idle.push_back(member);
        drop(crowd);
        self.join();
    }
}

/// Clients of one style, each of which wants one lock.
struct Workers {
    swarm: Swarm,
    style: Style,
    release: String,
    states: Vec<State>,
    names: Vec<String>,
    /// How long each waits for a signal, in seconds.
    timeouts: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Idle,
    Asking,
    /// Sleeps until the next poll.
    Pausing,
    /// Waits for a signal.
    Waiting,
    Holding,
    Releasing,
}

/// A step of a worker.
enum Progress {
    Granted(usize),
    Released(usize),
    /// Its sleep has ended.
    Alarm(usize),
}

impl Workers {
    fn new(server: &Server, style: Style, size: usize, name: impl Fn(usize) -> String) -> Self {
        let script = if style == Style::Signal { RELEASE_AND_SIGNAL } else { RELEASE };
        let digest = server.client().cmd(&["SCRIPT", "LOAD", script]);
        Self {
            swarm: Swarm::new(server, size),
            style,
            release: String::from_utf8_lossy(digest.bytes()).into_owned(),
            states: vec![State::Idle; size],
            names: (0..size).map(name).collect(),
            timeouts: vec![LEASE_MS as f64 / 1000.0; size],
        }
    }

    fn key(&self, member: usize) -> String {
        format!("lock:{{{}}}", self.names[member])
    }

    fn signal(&self, member: usize) -> String {
        format!("lock-signal:{{{}}}", self.names[member])
    }

    fn ask(&mut self, member: usize) {
        let (name, id) = (&self.names[member], format!("worker {member}"));
        let ask = match self.style {
            Style::Corral => encoded(&args!["LOCK.ACQUIRE", name, id, LEASE_MS, "BLOCK", LEASE_MS]),
            _ => encoded(&args!["SET", self.key(member), id, "NX", "PX", LEASE_MS]),
        };
        self.send(member, State::Asking, &ask);
    }

    fn release(&mut self, member: usize) {
        let (name, id) = (&self.names[member], format!("worker {member}"));
        let (script, key) = (&self.release, self.key(member));
        let release = match self.style {
            Style::Corral => encoded(&args!["LOCK.RELEASE", name, id]),
            Style::Poll => encoded(&args!["EVALSHA", script, 1, key, id]),
            Style::Signal => {
                encoded(&args!["EVALSHA", script, 2, key, self.signal(member), id, 1000])
            }
        };
        self.send(member, State::Releasing, &release);
    }

    fn send(&mut self, member: usize, state: State, command: &[u8]) {
        self.states[member] = state;
        self.swarm.send(member, command);
    }

    /// Waits for the next step of any worker until `end`.
    fn next(&mut self, end: Instant) -> Option<Progress> {
        loop {
            let member = match self.swarm.next(end)? {
                Event::Alarm(member) if self.states[member] == State::Pausing => {
                    self.ask(member);
                    continue;
                }
                Event::Alarm(member) => return Some(Progress::Alarm(member)),
                Event::Reply(member) => member,
            };
            match self.states[member] {
                State::Waiting => {
                    self.swarm.reply(member, |_| ());
                    self.ask(member);
                }
                State::Releasing => {
                    self.swarm.reply(member, |reply| assert_eq!(reply, b":1\r\n"));
                    self.states[member] = State::Idle;
                    return Some(Progress::Released(member));
                }
                _ if self.swarm.reply(member, |reply| matches!(reply, b":1\r\n" | b"+OK\r\n")) => {
                    self.states[member] = State::Holding;
                    return Some(Progress::Granted(member));
                }
                _ if self.style == Style::Poll => {
                    self.states[member] = State::Pausing;
                    self.swarm.sleep(member, POLL_INTERVAL);
                }
                _ => {
                    assert!(self.style == Style::Signal, "LOCK.ACQUIRE was refused");
                    let timeout = self.timeouts[member].to_string();
                    let wait = encoded(&args!["BLPOP", self.signal(member), timeout]);
                    self.send(member, State::Waiting, &wait);
                }
            }
        }
    }
}
