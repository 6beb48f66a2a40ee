//! Many clients on one cached value whose loaders finish, fail, hang past their lease or are
//! killed, while the database changes and the value is invalidated.
//!
//! Two things must hold: every load has a cause, so there are only as many as the events allow, and
//! no client reads a value that was invalidated before its request.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest time of a test.
const DEADLINE: Duration = Duration::from_secs(50);

/// How long clients wait for a value, in ms: longer than a test takes.
const BLOCK: u32 = 60_000;

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// One of the totals of the cache.
#[track_caller]
fn total(control: &mut Client, name: &str) -> usize {
    let count = control.info("corral", &format!("corral_cache_{name}"));
    number(&count.unwrap_or_else(|| panic!("no total of {name}")))
}

/// Checks that no client waits, no panic was counted, and `page` is the only key and fresh.
#[track_caller]
fn assert_page_is_warm(control: &mut Client) {
    eventually(SOON, "no client waits", || waiters(control, "cache") == 0);
    // A newer loader may still be at work.
    let fresh = || *control.run("CACHE.INFO page").get("state") == bulk("fresh");
    eventually(SOON, "there is no loader", fresh);
    assert_eq!(control.run("KEYS *"), array(["page"]));
    assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
}

/// The lease during the chaos, in ms.
const LEASE: i64 = 250;

/// What a loader does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Fills,
    ExtendsAndFills,
    Fails,
    FailsForAWhile,
    HangsPastItsLease,
    IsKilled,
    IsOvertaken,
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::Fills,
    Outcome::ExtendsAndFills,
    Outcome::Fails,
    Outcome::FailsForAWhile,
    Outcome::HangsPastItsLease,
    Outcome::IsKilled,
    Outcome::IsOvertaken,
];

/// The state of a client.
enum Doing {
    Nothing,
    /// It has sent a request, after this version had been invalidated.
    Asking {
        least: u64,
        waits: bool,
        /// The time of the request, in unix ms.
        at: i64,
    },
    /// It loads, and has read this version from the database.
    Loading {
        token: i64,
        version: u64,
        outcome: Outcome,
        due: Instant,
    },
}

struct Reader {
    client: Client,
    id: i64,
    doing: Doing,
}

impl Reader {
    fn connect(server: &Server) -> Self {
        let mut client = server.client();
        let id = client.id();
        Self { client, id, doing: Doing::Nothing }
    }
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Filled,
    Failed,
    Invalidated,
    Late,
}

/// All leases that clients know of, by token. Times are in unix ms.
#[derive(Default)]
struct Leases {
    /// The leases of loaders, and the time before which each cannot expire.
    granted: BTreeMap<i64, i64>,
    /// How each ended, and the earliest time of that.
    ends: BTreeMap<i64, (End, i64)>,
    /// Stores after the lease. The newer loader, whose lease then ends, causes no further load.
    late_fills: usize,
}

impl Leases {
    /// A client became the loader. There is only one: the lease before had ended when this one
    /// began.
    fn grant(&mut self, token: i64, asked: i64) {
        assert!(!self.granted.contains_key(&token), "one token for two");
        let before = self.granted.range(..token).next_back().map(|(token, _)| *token);
        let over = before.map(|before| self.must_have_ended(before, began(token)));
        self.granted.insert(token, over.unwrap_or(asked).max(asked) + LEASE);
        if let Some(after) = self.granted.range(token + 1..).next().map(|(token, _)| *token) {
            self.must_have_ended(token, began(after));
        }
    }

    /// Checks that a lease had ended at a time. Returns the earliest time of its end.
    fn must_have_ended(&mut self, token: i64, at: i64) -> i64 {
        let late = (End::Late, self.granted.get(&token).copied().unwrap_or(at));
        let (how, end) = *self.ends.entry(token).or_insert(late);
        if how == End::Filled && end > at && late.1 <= at {
            // Its store came after its lease, when the next one had begun.
            self.ends.insert(token, late);
            self.late_fills += 1;
            return late.1;
        }
        assert!(end <= at, "{token} had not ended at {at}: its end is {end} at the earliest");
        end
    }

    /// A load was stored by a command sent at this time.
    fn filled(&mut self, token: i64, sent: i64) {
        match self.ends.get(&token) {
            Some((End::Late, _)) => self.late_fills += 1,
            _ => self.end(token, End::Filled, sent),
        }
    }

    /// A lease was ended by a command sent at this time.
    fn end(&mut self, token: i64, end: End, sent: i64) {
        let before = self.ends.insert(token, (end, sent));
        assert_eq!(before, None, "a lease that had ended was {end:?}");
    }

    fn count(&self, end: End) -> usize {
        self.ends.values().filter(|(found, _)| *found == end).count()
    }
}

/// The latest time at which a lease began: its token is the time in µs.
fn began(token: i64) -> i64 {
    token / 1000
}

/// A thousand clients, and a database that changes.
struct World<'a> {
    server: &'a Server,
    control: Client,
    random: Random,
    end: Instant,
    /// Whether values are also invalidated softly.
    soft: bool,
    /// The version in the database. An INVALIDATE follows every change.
    version: u64,
    /// The version at the last completed INVALIDATE.
    invalidated: u64,
    /// The cache holds this version.
    fresh: bool,
    leases: Leases,
    /// Fresh values that were invalidated.
    removed: usize,
    /// Stores with a token that was no longer good.
    refused: usize,
    /// Values that clients got.
    reads: usize,
    /// Connections that were closed or killed.
    killed: usize,
    /// No more failures are caused.
    quiet: bool,
}

impl<'a> World<'a> {
    fn new(server: &'a Server, soft: bool) -> Self {
        Self {
            server,
            control: server.client(),
            random: Random::new(u64::from(soft) + 7),
            end: Instant::now() + DEADLINE,
            soft,
            version: 1,
            invalidated: 1,
            fresh: false,
            leases: Leases::default(),
            removed: 0,
            refused: 0,
            reads: 0,
            killed: 0,
            quiet: false,
        }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.random.below(count) == 0
    }

    /// The events so far.
    fn seen(&self) -> String {
        let ends = [End::Filled, End::Failed, End::Invalidated, End::Late];
        let ends = ends.map(|end| (end, self.leases.count(end)));
        let (late, refused, killed) = (self.leases.late_fills, self.refused, self.killed);
        format!("{ends:?}, {late} late fills, {refused} refused, {killed} killed")
    }

    /// Whether every event has happened often enough.
    fn has_seen_enough(&self) -> bool {
        let least = |end, least| self.leases.count(end) >= least;
        least(End::Filled, 15)
            && least(End::Failed, 10)
            && least(End::Invalidated, 10)
            && least(End::Late, 6)
            && self.refused >= 10
            && self.killed >= 100
    }

    /// Changes the database and invalidates what was cached.
    fn change(&mut self) {
        self.version += 1;
        let soft = if self.soft && self.one_in(2) { " STALE 60000" } else { "" };
        let invalidate = format!("CACHE.INVALIDATE page{soft}");
        let sent = now_ms();
        let replies = in_transaction(&mut self.control, &["CACHE.INFO page", &invalidate]);
        let [info, had] = &replies[..] else { panic!("{replies:?}") };
        self.invalidated = self.version;
        self.fresh = false;
        let (state, exists) = (info.get("state").as_str(), *info.get("exists") == int(1));
        match (state, had.as_int() == 1) {
            ("loading", true) => {
                self.leases.end(info.get("token").as_int(), End::Invalidated, sent);
            }
            // It expired between the two commands.
            ("loading", false) if !exists => {
                self.leases.must_have_ended(info.get("token").as_int(), now_ms());
            }
            ("fresh", true) => self.removed += 1,
            (_, had) => assert_eq!(had, exists, "{info:?}"),
        }
    }

    fn ask(&mut self, reader: &mut Reader) {
        let waits = !self.one_in(8);
        let block = if waits { BLOCK } else { 10 };
        let fresh = if self.soft && !self.one_in(4) { " FRESH" } else { "" };
        let at = now_ms();
        reader.client.send(format!("CACHE.FETCH page {LEASE} BLOCK {block}{fresh}"));
        reader.doing = Doing::Asking { least: self.invalidated, waits, at };
    }

    /// A version from the cache.
    fn read(&mut self, value: &Value) -> u64 {
        self.reads += 1;
        let version = number(value.as_str());
        assert!(version <= self.version, "version {version} was never written");
        version
    }

    /// Takes in a reply, and returns what the client does next.
    fn take_reply(&mut self, reply: &Value, least: u64, waits: bool, at: i64) -> Doing {
        assert!(matches!(reply, Value::Array(_)), "{reply:?}");
        let [status, value, token] = reply.items() else { panic!("{reply:?}") };
        match status.as_str() {
            "HIT" => {
                let version = self.read(value);
                assert!(version >= least, "{version}, although it was invalidated at {least}");
            }
            "STALE" => {
                assert!(self.soft);
                self.read(value);
            }
            "WAIT" => assert!(!waits, "it timed out too early"),
            "FAIL" => assert_eq!(*value, bulk("broken")),
            "LOAD" => {
                let token = token.as_int();
                self.leases.grant(token, at);
                let outcome = OUTCOMES[self.random.below(OUTCOMES.len())];
                let outcome = if self.quiet { Outcome::Fills } else { outcome };
                let ms = match outcome {
                    Outcome::HangsPastItsLease => LEASE as u64 + 20,
                    _ => self.random.below(10) as u64,
                };
                let due = Instant::now() + Duration::from_millis(ms);
                return Doing::Loading { token, version: self.version, outcome, due };
            }
            other => panic!("{other}"),
        }
        Doing::Nothing
    }

    /// The server refused a token: its lease must have ended.
    fn note_refusal(&mut self, token: i64) {
        self.leases.must_have_ended(token, now_ms());
    }

    fn fill(&mut self, client: &mut Client, token: i64, version: u64) {
        let sent = now_ms();
        let reply = client.run(format!("CACHE.SET page {version} 600000 TOKEN {token}"));
        if reply == nil() {
            self.refused += 1;
            return self.note_refusal(token);
        }
        assert_eq!(reply, ok());
        self.leases.filled(token, sent);
        assert!(version >= self.invalidated, "a stale fill");
        self.fresh = true;
    }

    fn fail(&mut self, client: &mut Client, token: i64, backoff: &str) {
        let sent = now_ms();
        let line = format!("CACHE.FAIL page {token}{backoff}");
        match client.run(line).as_int() {
            1 => self.leases.end(token, End::Failed, sent),
            _ => self.note_refusal(token),
        }
    }

    /// Ends a load.
    fn finish(&mut self, reader: &mut Reader, token: i64, version: u64, outcome: Outcome) {
        reader.doing = Doing::Nothing;
        let client = &mut reader.client;
        match outcome {
            Outcome::Fills | Outcome::HangsPastItsLease => self.fill(client, token, version),
            Outcome::ExtendsAndFills => {
                let from = now_ms();
                match client.run(format!("CACHE.EXTEND page {token} {LEASE}")).as_int() {
                    1 => drop(self.leases.granted.insert(token, from + LEASE)),
                    _ => self.note_refusal(token),
                }
                self.fill(client, token, version);
            }
            Outcome::Fails => self.fail(client, token, ""),
            Outcome::FailsForAWhile => self.fail(client, token, " BACKOFF 20 REASON broken"),
            Outcome::IsKilled => self.kill(reader),
            Outcome::IsOvertaken => {
                self.change();
                self.fill(client, token, version);
            }
        }
    }

    /// Closes a connection from one side or the other, and opens another one.
    fn kill(&mut self, reader: &mut Reader) {
        self.killed += 1;
        if self.one_in(2) {
            let killed = self.control.run(format!("CLIENT KILL ID {}", reader.id));
            assert_eq!(killed, int(1));
            // Replies before that count.
            loop {
                match (reader.client.try_read(SOON), &reader.doing) {
                    (Ok(reply), &Doing::Asking { least, waits, at }) => {
                        reader.doing = self.take_reply(&reply, least, waits, at);
                    }
                    (Ok(reply), _) => panic!("a reply without a request: {reply:?}"),
                    (Err(silence), _) => break assert_eq!(silence, Silence::Closed),
                }
            }
        }
        *reader = Reader::connect(self.server);
    }

    /// One step of a client. Whether something happened.
    fn step(&mut self, reader: &mut Reader) -> bool {
        match reader.doing {
            Doing::Nothing => {
                if !self.one_in(4) {
                    return false;
                }
                self.ask(reader);
            }
            Doing::Asking { least, waits, at } => match reader.client.try_read(Duration::ZERO) {
                Ok(reply) => reader.doing = self.take_reply(&reply, least, waits, at),
                Err(Silence::TimedOut) => return false,
                Err(Silence::Closed) => panic!("the server closed it"),
            },
            Doing::Loading { token, version, outcome, due } => {
                if Instant::now() < due {
                    return false;
                }
                self.finish(reader, token, version, outcome);
            }
        }
        true
    }

    /// One step of each client.
    fn sweep(&mut self, readers: &mut [Reader]) {
        assert!(Instant::now() < self.end, "not done in time: {}", self.seen());
        let mut happened = false;
        for reader in readers {
            happened |= self.step(reader);
        }
        if !happened {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets every event happen, then lets all clients read the present version.
    fn run(&mut self, readers: &mut [Reader]) {
        while !self.has_seen_enough() {
            self.sweep(readers);
            let rarely = if self.fresh { 4 } else { 30 };
            if self.one_in(rarely) {
                self.change();
            }
            if self.one_in(2) {
                let nth = self.random.below(readers.len());
                self.kill(&mut readers[nth]);
            }
        }
        self.quiet = true;
        let is_loading = |reader: &Reader| matches!(reader.doing, Doing::Loading { .. });
        while !self.fresh || readers.iter().any(is_loading) {
            self.sweep(readers);
        }
        for reader in readers {
            if let Doing::Asking { least, waits, at } = reader.doing {
                let reply = reader.client.read();
                reader.doing = self.take_reply(&reply, least, waits, at);
            }
            let reply = reader.client.run(format!("CACHE.FETCH page {LEASE}"));
            let version = self.version.to_string();
            assert_eq!(reply, array([simple("HIT"), bulk(version), nil()]));
        }
    }

    /// Checks that every load had a cause, and that the counters agree.
    fn check(&mut self) {
        assert_page_is_warm(&mut self.control);
        let leases = &mut self.leases;
        // Leases that ended after an older loader had stored.
        let granted: Vec<_> = leases.granted.keys().copied().collect();
        for token in granted {
            if !leases.ends.contains_key(&token) {
                leases.must_have_ended(token, now_ms());
            }
        }
        let leases = &self.leases;
        let [filled, failed, invalidated, late] =
            [End::Filled, End::Failed, End::Invalidated, End::Late].map(|end| leases.count(end));
        let known = leases.ends.len();
        let loads = total(&mut self.control, "loads");
        // The LOAD went to a connection that was closed, and the lease expired.
        let unread = loads.checked_sub(known).expect("every load is counted");
        assert!(unread <= self.killed, "{unread} loads without a loader");
        let causes = 1 + failed + invalidated + self.removed + late + unread;
        let late_fills = leases.late_fills;
        assert!(loads <= causes, "{loads} loads and {causes} causes");
        assert!(
            causes - loads <= late_fills,
            "{causes} causes and {loads} loads, {late_fills} late"
        );
        let names = ["fills", "failures", "refused"];
        let totals = names.map(|name| total(&mut self.control, name));
        assert_eq!(totals, [filled + late_fills, failed, self.refused]);
    }
}

/// Runs the chaos with 1,000 clients, and checks that most reads come from the cache.
fn run_chaos(soft: bool) {
    let server = Server::start();
    let mut readers: Vec<_> = (0..1000).map(|_| Reader::connect(&server)).collect();
    let mut world = World::new(&server, soft);
    readers.iter_mut().for_each(|reader| world.ask(reader));
    world.run(&mut readers);
    drop(readers);
    world.check();
    let loads = world.leases.granted.len();
    assert!(world.reads > 50 * loads, "{} reads and {loads} loads", world.reads);
}

#[test]
fn a_thousand_clients_load_only_with_a_cause_and_read_no_invalidated_value() {
    run_chaos(false);
}

#[test]
fn a_thousand_clients_load_only_with_a_cause_under_soft_invalidation() {
    run_chaos(true);
}
