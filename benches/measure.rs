//! Rounds, the clock and the statistics.
//!
//! The contenders of a comparison take turns, round after round, on one server process, so a slow
//! phase of the machine slows all of them down. Each round yields a ratio, and the bench reports the
//! median of these ratios. The clock is the processor time of the server's main thread, which does
//! not include the other work of the machine.

use crate::support::{Client, Server, args, info, module_path};
use crate::verdict::{Bar, Verdict};
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
    /// Whether only that is measured which a [`Bar`] needs: no contender without a bar, and no relay.
    pub check: bool,
    /// Whether the graphs are written.
    pub graphs: bool,
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
    bar: Option<Bar>,
    /// The number of the contender with which this one is compared.
    against: Option<usize>,
    setup: Box<Setup>,
    turn: Box<Turn>,
    relay: Option<Box<Turn>>,
    /// The number of the contender that is the relay, if the relay is a contender of its own.
    relayed_by: Option<usize>,
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

    /// The same, and also measures what a relay costs that sends them.
    pub fn native(label: &'static str, requests: Requests) -> Self {
        let relayed = requests.relayed();
        Self::new(label, requests).relay(relayed)
    }

    /// Calls `turn` in every round. It returns the number of operations.
    pub fn custom(label: &'static str, turn: impl FnMut(&mut Lab) -> usize + 'static) -> Self {
        Self {
            label,
            bar: None,
            against: Some(0),
            setup: Box::new(|_| {}),
            turn: Box::new(turn),
            relay: None,
            relayed_by: None,
        }
    }

    /// Measures in the same rounds what a module costs that does nothing but run commands of the server
    /// and forward a reply: the least that a command of a module costs. See [`Requests::relayed`].
    pub fn relay(self, relayed: Requests) -> Self {
        self.relay_custom(move |lab| {
            lab.drive(&relayed);
            relayed.operations()
        })
    }

    /// The same with a function that returns the number of operations.
    pub fn relay_custom(mut self, turn: impl FnMut(&mut Lab) -> usize + 'static) -> Self {
        self.relay = Some(Box::new(turn));
        self
    }

    /// Takes another contender, a [`Contender::subject`], as the relay of this one.
    pub fn relayed_by(mut self, contender: usize) -> Self {
        self.relayed_by = Some(contender);
        self
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

    /// Sets a bar for the ratio of the cost of this contender to the cost of the first one.
    pub fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    /// Has others compared with this one, but does not compare it with the first one. All such contenders
    /// of a case come before the others. The first contender is one without being asked.
    pub fn subject(mut self) -> Self {
        self.against = None;
        self
    }

    /// Compares this one with another than the first one.
    pub fn against(mut self, contender: usize) -> Self {
        self.against = Some(contender);
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
        Self::on(Server::start(), effort)
    }

    /// The same on a server that has been started.
    pub fn on(server: Server, effort: Effort) -> Self {
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
        if effort.check {
            return lab;
        }
        lab.load_relay();
        lab
    }

    /// Loads the relay.
    pub fn load_relay(&mut self) {
        let relay = module_path().with_file_name("examples").join("librelay.so");
        let reply = self.client.cmd(&args!["MODULE", "LOAD", relay.display().to_string()]);
        assert!(!reply.is_error(), "run `cargo build --release --example relay`: {reply:?}");
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

    /// The processor time of one operation in one round, in nanoseconds; none if the round has none.
    pub fn cost(&mut self, contender: &mut Contender) -> Option<f64> {
        Some(self.time(&mut contender.setup, &mut contender.turn).cpu).filter(|cpu| cpu.is_finite())
    }

    fn sample(&mut self, contender: &mut Contender) -> Samples {
        let own = self.time(&mut contender.setup, &mut contender.turn);
        let relay = contender.relay.as_mut().filter(|_| !self.effort.check);
        let relay = relay.map(|turn| self.time(&mut contender.setup, turn));
        Samples { own, relay }
    }

    fn time(&mut self, setup: &mut Setup, turn: &mut Turn) -> Sample {
        setup(self);
        let (cpu, wall) = (self.clock.now(), Instant::now());
        let operations = turn(self);
        let wall = wall.elapsed();
        let cpu = self.clock.now() - cpu;
        let each = |time: Duration| time.as_nanos() as f64 / operations as f64;
        Sample { cpu: each(cpu), wall: each(wall) }
    }
}

/// The product and the version of a server.
pub fn version(server: &Server) -> String {
    let field = |name| info(server, "server", name);
    match field("valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", field("redis_version").unwrap_or_default()),
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

/// What a round yields for a contender.
struct Samples {
    own: Sample,
    /// The relay that does the same.
    relay: Option<Sample>,
}

/// A contender of a case compared with another one.
pub struct Row {
    /// The name of the other contender.
    pub label: &'static str,
    /// The bar of `cpu_ratio`.
    pub bar: Option<Bar>,
    /// Processor time of the other contender / of the first one.
    pub cpu_ratio: Spread,
    /// Processor time of the other contender / of a relay that does the same: the median.
    pub relay_ratio: Option<f64>,
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
        self.bar.map(|bar| bar.verdict(median, high, self.relay_ratio))
    }
}

/// How many times as many rounds a case gets that is measured again.
const AGAIN: usize = 4;

/// Measures a case on a server of its own. If that looks like a regression, the case is measured again
/// with more rounds, and only these count: nothing else that the machine did at the time must decide.
pub fn measure(case: &Case, effort: Effort) -> Vec<Row> {
    let rows = measure_once(case, effort);
    if rows.iter().any(|row| row.verdict() == Some(Verdict::Regression)) {
        measure_once(case, Effort { rounds: effort.rounds * AGAIN, ..effort })
    } else {
        rows
    }
}

fn measure_once(case: &Case, effort: Effort) -> Vec<Row> {
    let mut lab = Lab::new(effort);
    let mut contenders = (case.build)(&mut lab);
    // The first one is only compared with; there is none if the case is not possible here.
    let Some(first) = contenders.first_mut() else { return Vec::new() };
    first.against = None;
    if effort.check {
        contenders.retain(|contender| contender.against.is_none() || contender.bar.is_some());
        if contenders.iter().all(|contender| contender.bar.is_none()) {
            return Vec::new();
        }
    }
    // The first round is a warm-up.
    let rounds: Vec<Vec<Samples>> = (0..=effort.rounds)
        .map(|_| contenders.iter_mut().map(|c| lab.sample(c)).collect())
        .skip(1)
        .collect();
    let server = version(&lab.server);
    let spread = |of: &dyn Fn(&[Samples]) -> f64| {
        Spread::of(rounds.iter().map(|samples| of(samples)).collect())
    };
    let row = |(other, contender): (usize, &Contender)| {
        let first = contender.against?;
        let relay = |samples: &[Samples]| match contender.relayed_by {
            Some(relay) => Some(samples[relay].own),
            None => samples[other].relay,
        };
        let relayed =
            rounds.iter().filter_map(|samples| Some(samples[other].own.cpu / relay(samples)?.cpu));
        let relayed: Vec<_> = relayed.collect();
        Some(Row {
            label: contender.label,
            bar: contender.bar.and_then(|bar| bar.at(effort.pipeline, &server)),
            cpu_ratio: spread(&|samples| samples[other].own.cpu / samples[first].own.cpu),
            relay_ratio: (!relayed.is_empty()).then(|| Spread::of(relayed).median),
            throughput_ratio: spread(&|samples| samples[other].own.wall / samples[first].own.wall),
            ours: spread(&|samples| samples[first].own.cpu).median,
            theirs: spread(&|samples| samples[other].own.cpu).median,
        })
    };
    contenders.iter().enumerate().filter_map(row).collect()
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
