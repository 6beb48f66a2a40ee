//! Rounds, the clock and the statistics.
//!
//! What is compared runs in turn, round after round, on one server process, so that whatever slows
//! the machine down for a while slows all of them down. A ratio is taken within each round, and the
//! median of these is reported. The clock is the processor time of the server's main thread, which
//! does not see what else the machine does.

use crate::support::{Client, Server, args};
use crate::wire::{Connection, Requests, drive};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many connections send at the same time, so that the server always has work.
pub const CONNECTIONS: usize = 4;

/// Keys that are always there, so that the names of a case are not the whole keyspace and its table
/// is not resized in the middle of a round.
const OTHER_KEYS: usize = 80_000;

/// How many bytes of replies a connection that sends what is measured takes at once.
const ROOM: usize = 64 * 1024;

/// How many commands that nobody measures are sent at once.
const ARRANGED_AT_ONCE: usize = 500;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often each contender has its turn.
    pub rounds: usize,
    /// How many commands it sends in a turn.
    pub commands: usize,
    /// How many of them are sent at once on a connection.
    pub pipeline: usize,
    /// How many tasks there are where it is their number that matters.
    pub tasks: usize,
}

/// A comparison: the first contender with each of the others.
pub struct Case {
    /// What the first contender does.
    pub name: &'static str,
    /// Prepares what is there for the whole case, and the contenders.
    pub build: fn(&mut Lab) -> Vec<Contender>,
}

/// One way to do a thing.
pub struct Contender {
    /// What it is called in the table.
    pub label: &'static str,
    /// The least ratio of this contender's cost to that of the first one, where there is a goal.
    pub bar: Option<f64>,
    before: Box<Step>,
    turn: Box<Turn>,
}

type Step = dyn FnMut(&mut Lab);
type Turn = dyn FnMut(&mut Lab) -> usize;

impl Contender {
    /// Sends `turn` in every round, and before the clock starts what [`Contender::after`] says.
    pub fn new(label: &'static str, turn: Requests) -> Self {
        Self::custom(label, move |lab| {
            lab.drive(&turn);
            turn.operations()
        })
    }

    /// Does `turn` in every round, which returns how many operations it did.
    pub fn custom(label: &'static str, turn: impl FnMut(&mut Lab) -> usize + 'static) -> Self {
        Self { label, bar: None, before: Box::new(|_| {}), turn: Box::new(turn) }
    }

    /// What is sent before every round, while the clock stands.
    pub fn after(self, before: Requests) -> Self {
        self.prepared(move |lab| lab.arrange(&before))
    }

    /// What is done before every round, while the clock stands.
    pub fn prepared(mut self, mut before: impl FnMut(&mut Lab) + 'static) -> Self {
        let mut earlier = self.before;
        self.before = Box::new(move |lab| {
            earlier(lab);
            before(lab);
        });
        self
    }

    /// The goal: the first contender costs at most 1/`bar` of what this one costs.
    pub fn bar(mut self, bar: f64) -> Self {
        self.bar = Some(bar);
        self
    }
}

/// A server, the connections to it and its clock.
pub struct Lab {
    /// How much is measured.
    pub effort: Effort,
    /// The server.
    pub server: Server,
    /// For whatever needs a reply.
    pub client: Client,
    /// The connections that send what is measured.
    pub connections: Vec<Connection>,
    clock: Clock,
}

impl Lab {
    /// A fresh server with the module and some keys.
    pub fn new(effort: Effort) -> Self {
        let server = Server::start();
        let mut lab = Self {
            effort,
            client: server.client(),
            connections: (0..CONNECTIONS).map(|_| Connection::to(server.addr(), ROOM)).collect(),
            clock: Clock::of(&server),
            server,
        };
        let mut others = Requests::expecting(&["+OK"]);
        for number in 0..OTHER_KEYS {
            others.push(&args!["SET", format!("other:{number:08}"), "v", "PX", 3_600_000]);
        }
        lab.arrange(&others);
        lab
    }

    /// Sends requests over all connections and waits for the replies. No order is kept.
    pub fn drive(&mut self, requests: &Requests) {
        drive(&mut self.connections, requests, self.effort.pipeline);
    }

    /// Sends requests in their order, for what has to be there before the clock starts.
    pub fn arrange(&mut self, requests: &Requests) {
        drive(&mut self.connections[..1], requests, ARRANGED_AT_ONCE);
    }

    /// Loads a script; the reply is the digest by which it is called.
    pub fn script(&mut self, text: &str) -> String {
        let digest = self.client.cmd(&["SCRIPT", "LOAD", text]);
        String::from_utf8_lossy(digest.bytes()).into_owned()
    }

    fn sample(&mut self, contender: &mut Contender) -> Sample {
        (contender.before)(self);
        let (cpu, wall) = (self.clock.now(), Instant::now());
        let operations = (contender.turn)(self);
        let wall = wall.elapsed();
        let cpu = self.clock.now() - cpu;
        let each = |time: Duration| time.as_nanos() as f64 / operations as f64;
        Sample { cpu: each(cpu), wall: each(wall) }
    }
}

/// Tells the processor time that a server's main thread has used.
pub struct Clock(PathBuf);

impl Clock {
    /// The clock of a server.
    pub fn of(server: &Server) -> Self {
        Self(format!("/proc/{0}/task/{0}/schedstat", server.pid()).into())
    }

    /// The time so far.
    pub fn now(&self) -> Duration {
        // The kernel brings the figure up to date when the thread goes to sleep, just after the
        // last reply.
        std::thread::sleep(Duration::from_micros(200));
        let text = fs::read_to_string(&self.0)
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        let used = text.split(' ').next().and_then(|text| text.parse().ok());
        Duration::from_nanos(used.unwrap_or_else(|| panic!("no processor time in {text:?}")))
    }
}

/// What an operation took in one round, in nanoseconds.
#[derive(Clone, Copy)]
struct Sample {
    cpu: f64,
    wall: f64,
}

/// How the first contender of a case compares with another one.
pub struct Row {
    /// What it is compared with.
    pub label: &'static str,
    /// The goal for the processor ratio.
    pub bar: Option<f64>,
    /// Processor time of the other one / of the first one.
    pub cpu_ratio: Spread,
    /// Throughput of the first one / of the other one.
    pub throughput_ratio: Spread,
    /// Processor time of the first one in nanoseconds.
    pub ours: f64,
    /// Processor time of the other one in nanoseconds.
    pub theirs: f64,
}

/// Measures a case on a server of its own.
pub fn measure(case: &Case, effort: Effort) -> Vec<Row> {
    let mut lab = Lab::new(effort);
    let mut contenders = (case.build)(&mut lab);
    // The first round warms up and is not counted.
    let rounds: Vec<Vec<Sample>> = (0..=effort.rounds)
        .map(|_| contenders.iter_mut().map(|c| lab.sample(c)).collect())
        .skip(1)
        .collect();
    let over_rounds = |of: &dyn Fn(&[Sample]) -> f64| {
        Spread::of(rounds.iter().map(|samples| of(samples)).collect())
    };
    let others = contenders.iter().enumerate().skip(1);
    others
        .map(|(other, contender)| Row {
            label: contender.label,
            bar: contender.bar,
            cpu_ratio: over_rounds(&|samples| samples[other].cpu / samples[0].cpu),
            throughput_ratio: over_rounds(&|samples| samples[other].wall / samples[0].wall),
            ours: over_rounds(&|samples| samples[0].cpu).median,
            theirs: over_rounds(&|samples| samples[other].cpu).median,
        })
        .collect()
}

/// A median and the quartiles around it.
#[derive(Clone, Copy)]
pub struct Spread {
    /// A quarter of the values is below.
    pub low: f64,
    /// Half of the values is below.
    pub median: f64,
    /// A quarter of the values is above.
    pub high: f64,
}

impl Spread {
    /// That of some values.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            low: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            high: quantile(&values, 0.75),
        }
    }
}

/// The value below which this part of the sorted values lies, between two of them if need be.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let below = sorted[place as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}
