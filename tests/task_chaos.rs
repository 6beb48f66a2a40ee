//! Consumer processes that are killed while they work, on servers that are killed and restarted or
//! replaced by a replica.
//!
//! One thing must hold: every task whose publish was confirmed was run by a consumer, which writes
//! that down before it acknowledges the task, or is a dead letter, as is every task that kills its
//! consumers. Nothing is lost; some tasks run twice.
//!
//! `CORRAL_CHAOS_SECONDS` makes a test longer.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long processes are killed by default.
const SECONDS: u64 = 8;

/// How long the rest of the tasks may take.
const DRAIN: Duration = Duration::from_secs(60);

/// The lease, in ms.
const LEASE: u64 = 300;

/// How often a task is delivered before it is dead-lettered.
const TRIES: usize = 6;

/// The limit of the queue, so that the consumers keep up.
const LIMIT: usize = 400;

/// The environment variable of consumer processes: their directory.
const CONSUMER: &str = "CORRAL_TEST_TASK_CONSUMER";

/// How long a reply may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a task behaves. Its payload begins with this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    /// Takes longer than the lease, which is extended.
    Slow,
    /// Fails once.
    Flaky,
    /// Is put off sometimes.
    Snoozed,
    /// Cannot be done, and its consumer knows.
    Bad,
    /// Kills its consumer.
    Poison,
}

impl Kind {
    /// The percentages.
    const SHARES: [(Self, usize); 6] = [
        (Self::Plain, 78),
        (Self::Slow, 1),
        (Self::Flaky, 12),
        (Self::Snoozed, 5),
        (Self::Bad, 3),
        (Self::Poison, 1),
    ];

    fn random(random: &mut Random) -> Self {
        let mut number = random.below(100);
        for (kind, share) in Self::SHARES {
            if number < share {
                return kind;
            }
            number -= share;
        }
        unreachable!("the percentages add up to 100")
    }

    #[track_caller]
    fn of(payload: &str) -> Self {
        let (name, _) = payload.split_once('-').unwrap_or_default();
        let kinds = Self::SHARES.into_iter().map(|(kind, _)| kind);
        let found = kinds.into_iter().find(|kind| format!("{kind:?}") == name);
        found.unwrap_or_else(|| panic!("an unknown payload: {payload}"))
    }
}

/// The common directory of the processes. It holds the port of the master and the notes of each
/// consumer.
struct Place(PathBuf);

impl Place {
    fn port_file(&self) -> PathBuf {
        self.0.join("port")
    }

    /// Writes down where the master is.
    fn set_master(&self, server: &Server) {
        let new = self.0.join("port.new");
        fs::write(&new, server.port().to_string()).expect("write the port");
        fs::rename(new, self.port_file()).expect("the port is replaced at once");
    }

    fn port(&self) -> u16 {
        let port = fs::read_to_string(self.port_file()).expect("there is a port");
        port.parse().expect("the port is a number")
    }

    /// The notes of a consumer.
    fn notes(&self, pid: u32) -> PathBuf {
        self.0.join(format!("consumer-{pid}"))
    }
}

/// A connection to the current master.
struct Line<'a> {
    place: &'a Place,
    client: Option<Client>,
    /// Why there was no reply the last time.
    refusal: String,
}

impl<'a> Line<'a> {
    fn new(place: &'a Place) -> Self {
        Self { place, client: None, refusal: String::new() }
    }

    /// The reply, if there is one. A broken connection is replaced the next time.
    #[track_caller]
    fn try_ask(&mut self, line: &str) -> Option<Value> {
        if self.client.is_none() {
            self.client = Client::try_connect(self.place.port()).ok();
        }
        let answer = self.client.as_mut().map(|client| client.ask(line, TIMEOUT));
        match answer {
            Some(Ok(value)) if !value.is_error() => return Some(value),
            Some(Ok(full)) if full.is_error_with("TASKFULL ") => {
                self.refusal = format!("{full:?}");
                thread::sleep(Duration::from_millis(20));
                return None;
            }
            Some(Ok(error)) => {
                self.refusal = format!("{error:?}");
                let passing = ["LOADING ", "READONLY ", "UNBLOCKED ", "MASTERDOWN "];
                let is_passing = passing.iter().any(|code| error.is_error_with(code));
                assert!(is_passing, "{line}: {error:?}");
            }
            Some(Err(Silence::TimedOut)) => panic!("no reply to {line}"),
            Some(Err(Silence::Closed)) | None => self.refusal = "no connection".into(),
        }
        self.client = None;
        thread::sleep(Duration::from_millis(5));
        None
    }

    /// The reply. The command may be sent several times.
    #[track_caller]
    fn ask(&mut self, line: impl AsRef<str>) -> Value {
        let end = Instant::now() + DRAIN;
        loop {
            if let Some(value) = self.try_ask(line.as_ref()) {
                return value;
            }
            let (line, refusal) = (line.as_ref(), &self.refusal);
            assert!(Instant::now() < end, "no reply to {line}: {refusal}");
        }
    }
}

/// Publishes tasks until it is stopped.
struct Producer<'a> {
    line: Line<'a>,
    name: usize,
    random: Random,
    /// Whether a publish is confirmed only when a replica has it.
    is_replicated: bool,
    /// The ids of the confirmed tasks, by payload.
    published: BTreeMap<String, String>,
}

impl<'a> Producer<'a> {
    fn new(place: &'a Place, name: usize, is_replicated: bool) -> Self {
        let (line, random) = (Line::new(place), Random::new(name as u64 + 1));
        Self { line, name, random, is_replicated, published: BTreeMap::new() }
    }

    fn run(mut self, stop: &AtomicBool) -> BTreeMap<String, String> {
        while !stop.load(SeqCst) {
            self.publish();
            thread::sleep(Duration::from_millis(self.random.below(8) as u64));
        }
        self.published
    }

    /// Publishes a task until that is confirmed. With UNIQUE it is one task.
    fn publish(&mut self) {
        let number = self.published.len();
        // One of each kind first.
        let first = Kind::SHARES.get(number).map(|(kind, _)| *kind);
        let kind = first.unwrap_or_else(|| Kind::random(&mut self.random));
        let payload = format!("{kind:?}-{}-{number}", self.name);
        let mut publish = format!("TASK.PUBLISH tasks {payload} UNIQUE {payload} 3600000");
        match self.random.below(4) {
            0 => publish += &format!(" DELAY {}", self.random.below(300)),
            1 => publish += &format!(" PRIORITY {}", self.random.below(10)),
            2 => publish += &format!(" PRIORITY 7 DELAY {}", self.random.below(50)),
            _ => {}
        }
        loop {
            let id = self.line.ask(&publish);
            if !self.is_replicated || self.is_at_replica() {
                self.published.insert(payload, id.as_str().to_owned());
                return;
            }
        }
    }

    /// Waits until a replica has what this connection wrote. False if the connection breaks.
    fn is_at_replica(&mut self) -> bool {
        loop {
            match self.line.try_ask("WAIT 1 500").map(|count| count.as_int()) {
                Some(0) => {}
                count => return count.is_some(),
            }
        }
    }
}

/// A consumer process.
struct Consumer<'a> {
    line: Line<'a>,
    name: String,
    random: Random,
    notes: File,
}

impl<'a> Consumer<'a> {
    fn new(place: &'a Place) -> Self {
        let pid = std::process::id();
        let notes = File::options().append(true).create(true).open(place.notes(pid));
        Self {
            line: Line::new(place),
            name: format!("consumer-{pid}"),
            random: Random::new(pid.into()),
            notes: notes.expect("a file for notes"),
        }
    }

    fn run(mut self) -> ! {
        loop {
            let count = 1 + self.random.below(3);
            let consume =
                format!("TASK.CONSUME workers {} tasks COUNT {count} BLOCK 500 META", self.name);
            let Some(tasks) = self.line.try_ask(&consume) else { continue };
            for task in tasks.items() {
                let [id, fields, _, deliveries] = task.items() else { panic!("{tasks:?}") };
                self.work(id.as_str(), fields, deliveries.as_int());
            }
        }
    }

    /// Writes a note, which survives the death of this process.
    fn note(&mut self, what: &str, original: &str, payload: &str) {
        let line = format!("{what} {original} {payload}\n");
        self.notes.write_all(line.as_bytes()).expect("write a note");
    }

    fn work(&mut self, id: &str, fields: &Value, deliveries: i64) {
        let payload = fields.get("payload").as_str();
        let original = fields.field("original_id").map_or(id, Value::as_str);
        let is_new = fields.get("retry_count").as_str() == "0" && deliveries == 1;
        self.note("took", original, payload);
        let outcome = match Kind::of(payload) {
            Kind::Poison => die(),
            Kind::Bad => Some(format!("FATAL {id} REASON bad")),
            Kind::Flaky if is_new => Some(format!("FAIL {id}")),
            Kind::Snoozed if self.random.below(2) == 0 => {
                Some(format!("SILENT {id} DELAY {}", self.random.below(100)))
            }
            Kind::Slow => {
                for _ in 0..6 {
                    thread::sleep(Duration::from_millis(LEASE / 4));
                    self.line.ask(format!("TASK.EXTEND tasks workers {} {id}", self.name));
                }
                None
            }
            Kind::Plain | Kind::Flaky | Kind::Snoozed => {
                thread::sleep(Duration::from_millis(self.random.below(4) as u64));
                None
            }
        };
        // Any reply will do: the lease may have expired, or this may be the second time.
        if let Some(outcome) = outcome {
            self.line.ask(format!("TASK.NACK tasks workers {} {outcome}", self.name));
            self.note("gave", original, payload);
        } else {
            self.note("done", original, payload);
            self.line.ask(format!("TASK.ACK tasks workers {id}"));
        }
    }
}

/// Kills this process.
fn die() -> ! {
    // SAFETY: plain system calls; the first one does not return.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::_exit(1)
    }
}

/// Not a test of its own: the consumer processes run this.
#[test]
fn consumer_process() {
    if let Some(place) = std::env::var_os(CONSUMER) {
        Consumer::new(&Place(place.into())).run();
    }
}

/// The consumer processes. Dropping this kills them.
struct Consumers<'a> {
    place: &'a Place,
    running: Vec<Child>,
    /// How many were killed.
    killed: usize,
    /// How many were started.
    started: usize,
}

impl<'a> Consumers<'a> {
    const COUNT: usize = 6;

    fn new(place: &'a Place) -> Self {
        Self { place, running: Vec::new(), killed: 0, started: 0 }
    }

    /// Replaces dead processes. Only a poison task or this test kills them.
    #[track_caller]
    fn tend(&mut self) {
        self.running.retain_mut(|consumer| {
            let Some(status) = consumer.try_wait().expect("try_wait") else { return true };
            assert_eq!(status.signal(), Some(libc::SIGKILL), "a consumer failed: {status}");
            false
        });
        while self.running.len() < Self::COUNT {
            let program = std::env::current_exe().expect("the path of this program");
            let mut command = Command::new(program);
            command
                .args(["--exact", "consumer_process"])
                .arg("--nocapture")
                .env(CONSUMER, &self.place.0)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            self.running.push(spawn(command).expect("start a consumer"));
            self.started += 1;
        }
    }

    /// Kills one of them.
    fn kill(&mut self, random: &mut Random) {
        let nth = random.below(self.running.len());
        let mut consumer = self.running.swap_remove(nth);
        // A poison task may have killed it before.
        self.killed += usize::from(consumer.try_wait().expect("try_wait").is_none());
        consumer.kill().expect("kill");
        consumer.wait().expect("wait");
    }
}

impl Drop for Consumers<'_> {
    fn drop(&mut self) {
        for consumer in &mut self.running {
            let _ = consumer.kill();
            let _ = consumer.wait();
        }
    }
}

/// Sets a flag when it is dropped, so that threads end when a test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// What happened to all tasks.
#[derive(Default)]
struct Ledger {
    /// Confirmed ids, by payload.
    published: BTreeMap<String, String>,
    /// How often a task was run, and its payload, by original id.
    done: BTreeMap<String, (usize, String)>,
    /// Payload and reason of the dead letters, by original id.
    dead: BTreeMap<String, (String, String)>,
    /// How many consumers were killed while they had a task.
    killed_at_work: usize,
}

impl Ledger {
    /// Reads the notes of a consumer.
    fn read_notes(&mut self, notes: &Path) {
        let mut in_hand = false;
        let notes = fs::read_to_string(notes).expect("read notes");
        for line in notes.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [what, original, payload] = words[..] else { panic!("half a note: {line}") };
            in_hand = what == "took" && Kind::of(payload) != Kind::Poison;
            if what == "done" {
                let done = self.done.entry(original.into()).or_insert((0, payload.into()));
                done.0 += 1;
                assert_eq!(done.1, payload, "two tasks with one id");
            }
        }
        self.killed_at_work += usize::from(in_hand);
    }

    #[track_caller]
    fn read_dead(&mut self, control: &mut Client) {
        for letter in control.run("XRANGE dead:{tasks} - +").items() {
            let fields = &letter.items()[1];
            let [payload, reason, original] =
                ["payload", "reason", "original_id"].map(|name| fields.get(name).as_str());
            let before = self.dead.insert(original.into(), (payload.into(), reason.into()));
            assert_eq!(before, None, "{original} is a dead letter twice");
        }
    }

    fn is_ended(&self, id: &str) -> bool {
        self.done.contains_key(id) || self.dead.contains_key(id)
    }

    /// Checks that nothing is lost and that the right tasks are dead letters. `unique`: every
    /// payload is one task.
    #[track_caller]
    fn check(&self, unique: bool) {
        let lost = self.published.values().filter(|id| !self.is_ended(id));
        let lost: Vec<_> = lost.collect();
        let times: usize = self.done.values().map(|(times, _)| times).sum();
        println!(
            "published={} done={} dead={} duplicated={} lost={}",
            self.published.len(),
            self.done.len(),
            self.dead.len(),
            times - self.done.len(),
            lost.len(),
        );
        assert_eq!(lost.len(), 0, "{lost:?}");

        let done = self.done.iter().map(|(id, (_, payload))| (id, payload));
        let dead = self.dead.iter().map(|(id, (payload, _))| (id, payload));
        for (id, payload) in done.chain(dead) {
            let confirmed = self.published.get(payload);
            assert!(confirmed.is_some(), "the publish of {payload} was not confirmed");
            assert!(!unique || confirmed == Some(id), "{payload} is two tasks: {confirmed:?} {id}");
        }

        let mut ends: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
        for (payload, id) in &self.published {
            let kind = Kind::of(payload);
            let ends = ends.entry(kind).or_default();
            ends.0 += usize::from(self.done.contains_key(id));
            ends.1 += usize::from(self.dead.contains_key(id));
            let reason = self.dead.get(id).map(|(_, reason)| reason.as_str());
            match kind {
                Kind::Poison => assert_eq!(reason, Some("lease expired"), "{payload}"),
                Kind::Bad => assert!(matches!(reason, Some("bad" | "lease expired")), "{payload}"),
                Kind::Flaky => assert!(matches!(reason, None | Some("failed" | "lease expired"))),
                _ => assert!(matches!(reason, None | Some("lease expired")), "{reason:?}"),
            }
        }
        assert_eq!(ends.len(), Kind::SHARES.len(), "not every kind: {ends:?}");
        // Most plain tasks are run; a few lose their consumers too often.
        let (done, dead) = ends[&Kind::Plain];
        assert!(dead * 5 <= done, "{ends:?}");
    }
}

/// Lets producers publish and consumers work while consumers are killed at random and `strike` hits
/// the server from time to time. Then waits until the queue is empty. After a strike, `master` is
/// the master.
#[track_caller]
fn chaos<S>(
    servers: &mut S,
    is_replicated: bool,
    master: impl Fn(&S) -> &Server,
    strike: impl Fn(&mut S, &Place),
) -> Ledger {
    const PRODUCERS: usize = 3;
    const STRIKES: usize = 3;
    let dir: TempDir = tempfile::tempdir().expect("a directory");
    let place = Place(dir.path().into());
    place.set_master(master(servers));
    let mut control = master(servers).client();
    let policy = format!("LEASE {LEASE} TRIES {TRIES} BACKOFF 10 100 LIMIT {LIMIT}");
    assert_eq!(control.run(format!("TASK.POLICY tasks {policy}")), ok());
    if is_replicated {
        // The replica needs some time.
        eventually(SOON, "the replica has the policy", || control.run("WAIT 1 500") == int(1));
    }

    let seconds = std::env::var("CORRAL_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let (mut ledger, mut strikes) = (Ledger::default(), 0);
    let mut random = Random::new(now_ms().unsigned_abs());
    let mut consumers = Consumers::new(&place);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|name| Producer::new(&place, name, is_replicated))
            .map(|producer| scope.spawn(|| producer.run(&stop)))
            .collect();
        let mut next_strike = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end || strikes < STRIKES {
            assert!(Instant::now() < end + DRAIN, "not done in time");
            consumers.tend();
            if Instant::now() > next_strike {
                strike(servers, &place);
                strikes += 1;
                next_strike =
                    Instant::now() + Duration::from_millis(700 + random.below(1500) as u64);
            }
            thread::sleep(Duration::from_millis(random.below(150) as u64));
            consumers.kill(&mut random);
        }
        stop.store(true, SeqCst);
        // They may have to wait for room for their last task.
        while !producers.iter().all(ScopedJoinHandle::is_finished) {
            consumers.tend();
            thread::sleep(Duration::from_millis(20));
        }
        for producer in producers {
            ledger.published.extend(producer.join().expect("a producer failed"));
        }
    });

    let mut control = master(servers).client();
    let end = Instant::now() + DRAIN;
    loop {
        consumers.tend();
        let info = control.run("TASK.INFO tasks");
        if (info.get("length"), info.get("delayed")) == (&int(0), &int(0)) {
            break;
        }
        assert!(Instant::now() < end, "the queue is not empty: {info:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let (started, killed) = (consumers.started, consumers.killed);
    drop(consumers);
    for file in fs::read_dir(&place.0).expect("read the directory") {
        let file = file.expect("a file").path();
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("consumer-")) {
            ledger.read_notes(&file);
        }
    }
    ledger.read_dead(&mut control);
    let at_work = ledger.killed_at_work;
    println!("killed: {strikes} servers, {killed} consumers, {started} started, {at_work} at work");
    assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
    let groups = control.run("TASK.INFO tasks");
    assert_eq!(groups.get("groups").items()[0].get("leased"), &int(0), "{groups:?}");
    ledger
}

#[test]
fn no_task_is_lost_when_consumers_and_the_server_are_killed() {
    let mut server = Server::builder().aof(true).start();
    let ledger = chaos(
        &mut server,
        false,
        |server| server,
        |server, _| {
            server.kill9();
            server.restart();
        },
    );
    ledger.check(true);
    assert!(ledger.killed_at_work >= 3, "{} consumers were killed at work", ledger.killed_at_work);
}

/// A master and its replica.
struct Pair {
    master: Server,
    replica: Server,
}

impl Pair {
    fn start() -> Self {
        let master = Server::start();
        let replica = Server::builder().replica_of(&master).start();
        // The replica needs some time.
        let mut control = master.client();
        assert_eq!(control.run("SET first write"), ok());
        eventually(SOON, "the replica follows", || control.run("WAIT 1 500") == int(1));
        Self { master, replica }
    }

    /// Promotes the replica, which misses what its master still does. Then the master is killed,
    /// and the new one gets a replica.
    fn fail_over(&mut self, place: &Place) {
        assert_eq!(self.replica.client().run("REPLICAOF NO ONE"), ok());
        thread::sleep(Duration::from_millis(50));
        self.master.kill9();
        place.set_master(&self.replica);
        let replica = Server::builder().replica_of(&self.replica).start();
        self.master = std::mem::replace(&mut self.replica, replica);
    }
}

#[test]
fn no_task_that_a_replica_confirmed_is_lost_in_a_failover() {
    let mut pair = Pair::start();
    let ledger = chaos(&mut pair, true, |pair| &pair.master, Pair::fail_over);
    ledger.check(false);
    assert!(ledger.killed_at_work >= 3, "{} consumers were killed at work", ledger.killed_at_work);
}
