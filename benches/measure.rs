//! Rounds, the clock and the statistics.
//!
//! The contenders of a comparison take turns, round after round, on one server process, so a slow
//! phase of the machine slows all of them down. Each round yields a ratio, and the bench reports the
//! median of these ratios. The clock is the processor time of the server's main thread, which does
//! not include the other work of the machine.

use crate::support::{Client, Server, args, module_path};
use crate::verdict::Verdict;
use crate::wire::{Connection, Requests, drive};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The number of connections that send at the same time, so that the server always has work.
pub const CONNECTIONS: usize = 4;

/// The number of keys that always exist, so that the keys of a case are not the whole keyspace and the
/// server does not resize its table in the middle of a round.
const OTHER_KEYS: usize = 80_000;

/// The receive buffer of a connection that sends measured commands, in bytes.
const BUFFER: usize = 64 * 1024;

/// The pipeline of commands that are not measured.
const SETUP_PIPELINE: usize = 500;

/// The size of the measurements.
#[derive(Clone, Copy)]
pub struct Effort {
    /// The rounds of a comparison.
    pub rounds: usize,
    /// The commands that a contender sends in a round.
    pub commands: usize,
    /// The commands that a connection sends at once.
    pub pipeline: usize,
    /// The tasks in the comparisons that depend on their number.
    pub tasks: usize,
}

/// A comparison: the first contender with each of the others.
pub struct Case {
    /// The operation of the first contender.
    pub name: &'static str,
    /// Prepares the server for the case, and returns the contenders.
    pub build: fn(&mut Lab) -> Vec<Contender>,
}

/// One way to perform an operation.
pub struct Contender {
    /// Its name in the table.
    pub label: &'static str,
    /// The least ratio of the cost of this contender to the cost of the first one.
    pub bar: Option<f64>,
    setup: Box<Setup>,
    turn: Box<Turn>,
}

type Setup = dyn FnMut(&mut Lab);
type Turn = dyn FnMut(&mut Lab) -> usize;

impl Contender {
    /// Sends these requests in every round.
    pub fn new(label: &'static str, requests: Requests) -> Self {
        Self::custom(label, move |lab| {
            lab.drive(&requests);
            requests.operations()
        })
    }

    /// Sends these requests through a module that does nothing but run them and forward the replies:
    /// the least that a command of a module costs, which runs one command of the server.
    pub fn relayed(requests: &Requests) -> Self {
        Self::new("the same, relayed by a module", requests.relayed())
    }

    /// Calls `turn` in every round. It returns the number of operations.
    pub fn custom(label: &'static str, turn: impl FnMut(&mut Lab) -> usize + 'static) -> Self {
        Self { label, bar: None, setup: Box::new(|_| {}), turn: Box::new(turn) }
    }

    /// Adds requests that prepare a round. They are not measured.
    pub fn setup(self, requests: Requests) -> Self {
        self.setup_with(move |lab| lab.prepare(&requests))
    }

    /// Adds a step that prepares a round. It is not measured.
    pub fn setup_with(mut self, mut step: impl FnMut(&mut Lab) + 'static) -> Self {
        let mut earlier = self.setup;
        self.setup = Box::new(move |lab| {
            earlier(lab);
            step(lab);
        });
        self
    }

    /// Sets a bar: the first contender costs at most 1/`bar` of the cost of this one.
    pub fn bar(mut self, bar: f64) -> Self {
        self.bar = Some(bar);
        self
    }
}

/// A server, the connections to it and its clock.
pub struct Lab {
    /// The size of the measurements.
    pub effort: Effort,
    /// The server.
    pub server: Server,
    /// A client for commands whose reply matters.
    pub client: Client,
    /// The connections that send the measured commands.
    pub connections: Vec<Connection>,
    clock: CpuClock,
}

impl Lab {
    /// Starts a server with the module, and creates some keys.
    pub fn new(effort: Effort) -> Self {
        let server = Server::start();
        let mut lab = Self {
            effort,
            client: server.client(),
            connections: (0..CONNECTIONS).map(|_| Connection::to(server.addr(), BUFFER)).collect(),
            clock: CpuClock::of(&server),
            server,
        };
        let mut others = Requests::expecting(&["+OK"]);
        for number in 0..OTHER_KEYS {
            others.push(&args!["SET", format!("other:{number:08}"), "v", "PX", 3_600_000]);
        }
        lab.prepare(&others);
        let relay = module_path().with_file_name("examples").join("librelay.so");
        let reply = lab.client.cmd(&args!["MODULE", "LOAD", relay.display().to_string()]);
        assert!(!reply.is_error(), "run `cargo build --release --example relay`: {reply:?}");
        lab
    }

    /// Sends requests over all connections, in no particular order, and waits for the replies.
    pub fn drive(&mut self, requests: &Requests) {
        drive(&mut self.connections, requests, self.effort.pipeline);
    }

    /// Sends requests in order over one connection. Used before the clock starts.
    pub fn prepare(&mut self, requests: &Requests) {
        drive(&mut self.connections[..1], requests, SETUP_PIPELINE);
    }

    /// Loads a script, and returns its digest for EVALSHA.
    pub fn script(&mut self, text: &str) -> String {
        let digest = self.client.cmd(&["SCRIPT", "LOAD", text]);
        String::from_utf8_lossy(digest.bytes()).into_owned()
    }

    fn sample(&mut self, contender: &mut Contender) -> Sample {
        (contender.setup)(self);
        let (cpu, wall) = (self.clock.now(), Instant::now());
        let operations = (contender.turn)(self);
        let wall = wall.elapsed();
        let cpu = self.clock.now() - cpu;
        let each = |time: Duration| time.as_nanos() as f64 / operations as f64;
        Sample { cpu: each(cpu), wall: each(wall) }
    }
}

/// The processor time of a server's main thread.
pub struct CpuClock(PathBuf);

impl CpuClock {
    /// The clock of a server.
    pub fn of(server: &Server) -> Self {
        Self(format!("/proc/{0}/task/{0}/schedstat", server.pid()).into())
    }

    /// The time so far.
    pub fn now(&self) -> Duration {
        // The kernel updates the figure when the thread goes to sleep, just after the last reply.
        std::thread::sleep(Duration::from_micros(200));
        let text = fs::read_to_string(&self.0)
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        let used = text.split(' ').next().and_then(|text| text.parse().ok());
        Duration::from_nanos(used.unwrap_or_else(|| panic!("no processor time in {text:?}")))
    }
}

/// The time per operation in one round, in nanoseconds.
#[derive(Clone, Copy)]
struct Sample {
    cpu: f64,
    wall: f64,
}

/// The first contender of a case compared with another one.
pub struct Row {
    /// The name of the other contender.
    pub label: &'static str,
    /// The least `cpu_ratio`.
    pub bar: Option<f64>,
    /// Processor time of the other contender / of the first one.
    pub cpu_ratio: Spread,
    /// Throughput of the first contender / of the other one.
    pub throughput_ratio: Spread,
    /// Processor time per operation of the first contender, in nanoseconds.
    pub ours: f64,
    /// Processor time per operation of the other contender, in nanoseconds.
    pub theirs: f64,
}

impl Row {
    /// The verdict, if there is a bar.
    pub fn verdict(&self) -> Option<Verdict> {
        let Spread { median, high, .. } = self.cpu_ratio;
        self.bar.map(|bar| Verdict::at_least(median, bar, high - median))
    }
}

/// Measures a case on a server of its own.
pub fn measure(case: &Case, effort: Effort) -> Vec<Row> {
    let mut lab = Lab::new(effort);
    let mut contenders = (case.build)(&mut lab);
    // The first round is a warm-up.
    let rounds: Vec<Vec<Sample>> = (0..=effort.rounds)
        .map(|_| contenders.iter_mut().map(|c| lab.sample(c)).collect())
        .skip(1)
        .collect();
    let spread = |of: &dyn Fn(&[Sample]) -> f64| {
        Spread::of(rounds.iter().map(|samples| of(samples)).collect())
    };
    let others = contenders.iter().enumerate().skip(1);
    others
        .map(|(other, contender)| Row {
            label: contender.label,
            bar: contender.bar,
            cpu_ratio: spread(&|samples| samples[other].cpu / samples[0].cpu),
            throughput_ratio: spread(&|samples| samples[other].wall / samples[0].wall),
            ours: spread(&|samples| samples[0].cpu).median,
            theirs: spread(&|samples| samples[other].cpu).median,
        })
        .collect()
}

/// A median and the quartiles around it.
#[derive(Clone, Copy)]
pub struct Spread {
    /// The lower quartile.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The upper quartile.
    pub high: f64,
}

impl Spread {
    /// The spread of some values.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            low: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            high: quantile(&values, 0.75),
        }
    }
}

/// A quantile of sorted values, interpolated between two of them.
pub fn quantile(sorted: &[f64], portion: f64) -> f64 {
    let place = portion * (sorted.len() - 1) as f64;
    let below = sorted[place as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}
