//! Cached values in the hands of many clients whose loaders finish, fail, hang past their lease or
//! are killed, while what they load changes and is invalidated, against a database that counts.
//!
//! Two things have to come out: every load has a cause, so that there are as many as the events
//! allow; and nobody reads what had been invalidated before they asked.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a test goes on at most.
const DEADLINE: Duration = Duration::from_secs(25);

/// How long clients wait for a value: longer than a test goes on.
const PATIENCE: u32 = 60_000;

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// One of the family's totals.
#[track_caller]
fn total(control: &mut Client, name: &str) -> usize {
    let count = control.info("corral", &format!("corral_cache_{name}"));
    number(&count.unwrap_or_else(|| panic!("no total of {name}")))
}

/// Nobody waits, nothing panicked, and beside the warm value of `page` there is nothing.
#[track_caller]
fn assert_page_is_warm(control: &mut Client) {
    eventually(SOON, "nobody waits", || waiters(control, "cache") == 0);
    // Somebody may have begun to load when an older load was stored.
    let fresh = || *control.run("CACHE.INFO page").get("state") == bulk("fresh");
    eventually(SOON, "nobody loads", fresh);
    assert_eq!(control.run("KEYS *"), array(["page"]));
    assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
}

/// Clients that have asked for `page` one after the other, without their replies.
struct Queue {
    control: Client,
    clients: Vec<Client>,
}

impl Queue {
    /// All but the first wait, in their order.
    fn start(server: &Server, count: usize, lease: u32) -> Self {
        let mut control = server.client();
        let mut clients = server.clients(count);
        for (nth, client) in clients.iter_mut().enumerate() {
            client.send(format!("CACHE.FETCH page {lease} BLOCK {PATIENCE}"));
            if nth == 0 {
                let asked = || !control.run("CACHE.INFO page").get("token").is_nil();
                eventually(SOON, "the first has the lease", asked);
            }
        }
        let mut queue = Self { control, clients };
        eventually(SOON, "all others wait", || queue.total("waits") == count - 1);
        queue
    }

    /// Reads that the first of the queue is to load, and takes it out; its connection and token.
    #[track_caller]
    fn next_loader(&mut self) -> (Client, i64) {
        let mut loader = self.clients.remove(0);
        let reply = loader.read();
        let [status, value, token] = reply.items() else { panic!("{reply:?}") };
        assert_eq!((status, value), (&simple("LOAD"), &nil()));
        (loader, token.as_int())
    }

    /// The loader stores, and all who are left get the value: none of them was told to load.
    #[track_caller]
    fn fill(mut self, mut loader: Client, token: i64) -> Self {
        assert_eq!(loader.run(format!("CACHE.SET page html 60000 TOKEN {token}")), ok());
        for client in &mut self.clients {
            assert_eq!(client.read(), array([simple("HIT"), bulk("html"), nil()]));
        }
        assert_page_is_warm(&mut self.control);
        self
    }

    #[track_caller]
    fn total(&mut self, name: &str) -> usize {
        total(&mut self.control, name)
    }
}

#[test]
fn a_hundred_clients_on_one_cold_key_load_once() {
    let server = Server::start();
    let mut queue = Queue::start(&server, 100, 60_000);
    let (loader, token) = queue.next_loader();
    queue = queue.fill(loader, token);
    let totals = ["loads", "fills", "coalesced"].map(|name| queue.total(name));
    assert_eq!(totals, [1, 1, 99]);
}

#[test]
fn a_loader_that_hangs_past_its_lease_hands_over_to_exactly_one_and_replaces_nothing_newer() {
    const HANGING: usize = 4;
    const HANG: u32 = 300;
    let server = Server::start();
    let start = now_ms();
    let mut queue = Queue::start(&server, 100, HANG);
    let mut hanging: Vec<_> = (0..HANGING).map(|_| queue.next_loader()).collect();
    // The next one does better; on a busy machine perhaps only a later one.
    let (mut loader, token) = loop {
        let (mut loader, token) = queue.next_loader();
        if loader.run(format!("CACHE.EXTEND page {token} 60000")) == int(1) {
            break (loader, token);
        }
        hanging.push((loader, token));
    };
    for (client, old) in &mut hanging {
        assert_eq!(client.run(format!("CACHE.EXTEND page {old} 60000")), int(0));
        assert_eq!(client.run(format!("CACHE.FAIL page {old}")), int(0));
    }
    assert_eq!(loader.run("CACHE.GET page"), nil());
    let hung = hanging.len();
    let tokens: Vec<_> = hanging.iter().map(|(_, old)| *old).chain([token]).collect();
    // A token is the time at which it was given out, in µs: not before the lease before was over.
    for (nth, token) in (0..).zip(&tokens) {
        assert!(token / 1000 >= start + nth * i64::from(HANG), "{start} {tokens:?}");
    }
    assert_eq!(queue.total("expired_leases"), hung);
    queue = queue.fill(loader, token);
    for (client, old) in &mut hanging {
        assert_eq!(client.run(format!("CACHE.SET page late 60000 TOKEN {old}")), nil());
        assert_eq!(client.run("CACHE.GET page"), bulk("html"));
    }
    let totals = ["loads", "fills", "handoffs", "refused"].map(|name| queue.total(name));
    assert_eq!(totals, [hung + 1, 1, hung, hung]);
}

#[test]
fn a_load_that_fails_goes_to_the_next_in_line_and_to_nobody_else() {
    const FAILING: usize = 60;
    let server = Server::start();
    let mut queue = Queue::start(&server, 100, 60_000);
    for _ in 0..FAILING {
        let (mut loader, token) = queue.next_loader();
        assert_eq!(loader.run(format!("CACHE.FAIL page {token}")), int(1));
        assert_eq!(loader.run(format!("CACHE.SET page late 60000 TOKEN {token}")), nil());
    }
    let (loader, token) = queue.next_loader();
    queue = queue.fill(loader, token);
    let totals = ["loads", "failures", "coalesced"].map(|name| queue.total(name));
    assert_eq!(totals, [FAILING + 1, FAILING, 99 - FAILING]);
}

#[test]
fn a_lease_passes_over_clients_that_were_killed() {
    let server = Server::start();
    let mut queue = Queue::start(&server, 100, 60_000);
    let (mut loader, token) = queue.next_loader();
    let ids = ids_by_port(&mut queue.control);
    // Every third in line is left.
    let mut nth = 0;
    let mut killed = Vec::new();
    let clients = std::mem::take(&mut queue.clients);
    for mut client in clients {
        nth += 1;
        if nth % 3 == 0 {
            queue.clients.push(client);
            continue;
        }
        if nth % 3 == 1 {
            let id = &ids[&client.local_port()];
            assert_eq!(queue.control.run(format!("CLIENT KILL ID {id}")), int(1));
            assert_eq!(client.try_read(SOON), Err(Silence::Closed));
            killed.push(client);
        }
    }
    let left = queue.clients.len();
    assert_eq!((left, killed.len()), (33, 33));
    let have_left = || waiters(&mut queue.control, "cache") == left;
    eventually(SOON, "the others have left the line", have_left);
    assert_eq!(loader.run(format!("CACHE.FAIL page {token}")), int(1));
    let (loader, token) = queue.next_loader();
    queue = queue.fill(loader, token);
    let totals = ["loads", "coalesced"].map(|name| queue.total(name));
    assert_eq!(totals, [2, left - 1]);
}

#[test]
fn a_lease_given_out_right_after_a_foreign_write_is_not_ended_by_it() {
    let server = Server::start();
    let (mut control, mut waiter) = (server.client(), server.client());
    // Each in one tick: the first lease is ended by a foreign write, and a second one begins.
    for (round, foreign) in [["SET page x", "DEL page"], ["SET page x", "CACHE.INVALIDATE page"]]
        .into_iter()
        .enumerate()
    {
        assert_eq!(control.run("FLUSHALL"), ok());
        let fetch = "CACHE.FETCH page 60000";
        let replies = control.pipeline(&[fetch, foreign[0], foreign[1], fetch]);
        let [first, .., second] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(second.items()[0], simple("LOAD"), "round {round}: {replies:?}");
        let (first, second) = (first.items()[2].as_int(), second.items()[2].as_int());
        assert!(second > first);
        // Whatever the foreign write set off has happened when a later wait has ended.
        let told = waiter.run(format!("{fetch} BLOCK 50"));
        assert_eq!(told, array([simple("WAIT"), nil(), nil()]), "round {round}: two load");
        assert_eq!(control.run(format!("CACHE.SET page html 60000 TOKEN {first}")), nil());
        assert_eq!(control.run(format!("CACHE.SET page html 60000 TOKEN {second}")), ok());
    }
}

/// How long a lease lasts under fire, in ms.
const LEASE: i64 = 250;

/// What a loader will come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fills,
    ExtendsAndFills,
    Fails,
    FailsForAWhile,
    HangsPastItsLease,
    IsKilled,
    IsOvertaken,
}

const FATES: [Fate; 7] = [
    Fate::Fills,
    Fate::ExtendsAndFills,
    Fate::Fails,
    Fate::FailsForAWhile,
    Fate::HangsPastItsLease,
    Fate::IsKilled,
    Fate::IsOvertaken,
];

/// What a client is about.
enum Doing {
    Nothing,
    /// It has asked when this version had been invalidated.
    Asking {
        least: u64,
        patient: bool,
        /// When, in unix ms.
        at: i64,
    },
    /// It loads, and has read this version.
    Loading {
        token: i64,
        version: u64,
        fate: Fate,
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

/// Every lease that anybody heard of, by its token. Times are in unix ms.
#[derive(Default)]
struct Leases {
    /// Those of which clients were told; none of them ends by itself before this time.
    told: BTreeMap<i64, i64>,
    /// How they ended, and not before when.
    ends: BTreeMap<i64, (End, i64)>,
    /// Fills after the lease: while another loads, whose lease then is followed by no load for its
    /// end alone.
    late_fills: usize,
}

impl Leases {
    /// A client that asked at a time was told to load. Only one does: whoever had a lease before had
    /// lost it, or its time had come, when this one began.
    fn told(&mut self, token: i64, asked: i64) {
        assert!(!self.told.contains_key(&token), "one token for two");
        let before = self.told.range(..token).next_back().map(|(token, _)| *token);
        let over = before.map(|before| self.must_be_over(before, began(token)));
        self.told.insert(token, over.unwrap_or(asked).max(asked) + LEASE);
        if let Some(after) = self.told.range(token + 1..).next().map(|(token, _)| *token) {
            self.must_be_over(token, began(after));
        }
    }

    /// Sees to it that a lease was over at a time. It was not before the one that is returned.
    fn must_be_over(&mut self, token: i64, at: i64) -> i64 {
        let late = (End::Late, self.told.get(&token).copied().unwrap_or(at));
        let (how, end) = *self.ends.entry(token).or_insert(late);
        if how == End::Filled && end > at && late.1 <= at {
            // Its fill came after its lease, and after the next one had begun.
            self.ends.insert(token, late);
            self.late_fills += 1;
            return late.1;
        }
        assert!(end <= at, "{token} was not over at {at}, but at {end} at the soonest");
        end
    }

    /// A load was stored, by what was sent at a time.
    fn filled(&mut self, token: i64, sent: i64) {
        match self.ends.get(&token) {
            Some((End::Late, _)) => self.late_fills += 1,
            _ => self.end(token, End::Filled, sent),
        }
    }

    /// A lease ended, by what was sent at a time.
    fn end(&mut self, token: i64, end: End, sent: i64) {
        let before = self.ends.insert(token, (end, sent));
        assert_eq!(before, None, "a lease that was over was {end:?}");
    }

    fn count(&self, end: End) -> usize {
        self.ends.values().filter(|(found, _)| *found == end).count()
    }
}

/// When a lease began, at the latest: its token is the time in µs.
fn began(token: i64) -> i64 {
    token / 1000
}

/// A thousand clients, a database and somebody who changes it.
struct World<'a> {
    server: &'a Server,
    control: Client,
    random: Random,
    end: Instant,
    /// Whether values are also invalidated softly.
    soft: bool,
    /// What is in the database. Every change is followed by an INVALIDATE.
    version: u64,
    /// What was in the database at the last INVALIDATE that is over.
    invalidated: u64,
    /// What is in the cache is what is in the database.
    fresh: bool,
    leases: Leases,
    /// Fresh values that were invalidated.
    removed: usize,
    /// Fills with a token that was not good.
    refused: usize,
    /// Values that clients were given.
    reads: usize,
    /// Connections that were closed or killed.
    killed: usize,
    /// No more accidents.
    calm: bool,
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
            calm: false,
        }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.random.below(count) == 0
    }

    /// What has happened so far.
    fn seen(&self) -> String {
        let ends = [End::Filled, End::Failed, End::Invalidated, End::Late];
        let ends = ends.map(|end| (end, self.leases.count(end)));
        let (late, refused, killed) = (self.leases.late_fills, self.refused, self.killed);
        format!("{ends:?}, {late} late fills, {refused} refused, {killed} killed")
    }

    /// Whether everything has happened often enough.
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
            // Its time came between the two commands.
            ("loading", false) if !exists => {
                self.leases.must_be_over(info.get("token").as_int(), now_ms());
            }
            ("fresh", true) => self.removed += 1,
            (_, had) => assert_eq!(had, exists, "{info:?}"),
        }
    }

    fn ask(&mut self, reader: &mut Reader) {
        let patient = !self.one_in(8);
        let block = if patient { PATIENCE } else { 10 };
        let fresh = if self.soft && !self.one_in(4) { " FRESH" } else { "" };
        let at = now_ms();
        reader.client.send(format!("CACHE.FETCH page {LEASE} BLOCK {block}{fresh}"));
        reader.doing = Doing::Asking { least: self.invalidated, patient, at };
    }

    /// A version that was read off the cache.
    fn read(&mut self, value: &Value) -> u64 {
        self.reads += 1;
        let version = number(value.as_str());
        assert!(version <= self.version, "nobody wrote {version}");
        version
    }

    /// Takes in what a client was told, and what it does now.
    fn hear(&mut self, reply: &Value, least: u64, patient: bool, at: i64) -> Doing {
        assert!(matches!(reply, Value::Array(_)), "{reply:?}");
        let [status, value, token] = reply.items() else { panic!("{reply:?}") };
        match status.as_str() {
            "HIT" => {
                let version = self.read(value);
                assert!(version >= least, "{version}, though {least} had been invalidated");
            }
            "STALE" => {
                assert!(self.soft);
                self.read(value);
            }
            "WAIT" => assert!(!patient, "it went home long before its time"),
            "FAIL" => assert_eq!(*value, bulk("broken")),
            "LOAD" => {
                let token = token.as_int();
                self.leases.told(token, at);
                let fate = FATES[self.random.below(FATES.len())];
                let fate = if self.calm { Fate::Fills } else { fate };
                let ms = match fate {
                    Fate::HangsPastItsLease => LEASE as u64 + 20,
                    _ => self.random.below(10) as u64,
                };
                let due = Instant::now() + Duration::from_millis(ms);
                return Doing::Loading { token, version: self.version, fate, due };
            }
            other => panic!("{other}"),
        }
        Doing::Nothing
    }

    /// The server says that a token is not good. Its lease must not have been either.
    fn note_refusal(&mut self, token: i64) {
        self.leases.must_be_over(token, now_ms());
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

    /// A load is over, one way or the other.
    fn finish(&mut self, reader: &mut Reader, token: i64, version: u64, fate: Fate) {
        reader.doing = Doing::Nothing;
        let client = &mut reader.client;
        match fate {
            Fate::Fills | Fate::HangsPastItsLease => self.fill(client, token, version),
            Fate::ExtendsAndFills => {
                let from = now_ms();
                match client.run(format!("CACHE.EXTEND page {token} {LEASE}")).as_int() {
                    1 => drop(self.leases.told.insert(token, from + LEASE)),
                    _ => self.note_refusal(token),
                }
                self.fill(client, token, version);
            }
            Fate::Fails => self.fail(client, token, ""),
            Fate::FailsForAWhile => self.fail(client, token, " BACKOFF 20 REASON broken"),
            Fate::IsKilled => self.kill(reader),
            Fate::IsOvertaken => {
                self.change();
                self.fill(client, token, version);
            }
        }
    }

    /// Ends a connection from one side or the other; another client takes its place.
    fn kill(&mut self, reader: &mut Reader) {
        self.killed += 1;
        if self.one_in(2) {
            let killed = self.control.run(format!("CLIENT KILL ID {}", reader.id));
            assert_eq!(killed, int(1));
            // What it was told before counts, but it can do nothing any more.
            loop {
                match (reader.client.try_read(SOON), &reader.doing) {
                    (Ok(reply), &Doing::Asking { least, patient, at }) => {
                        reader.doing = self.hear(&reply, least, patient, at);
                    }
                    (Ok(reply), _) => panic!("nobody asked: {reply:?}"),
                    (Err(silence), _) => break assert_eq!(silence, Silence::Closed),
                }
            }
        }
        *reader = Reader::connect(self.server);
    }

    /// One step of one client; whether something happened.
    fn step(&mut self, reader: &mut Reader) -> bool {
        match reader.doing {
            Doing::Nothing => {
                if !self.one_in(4) {
                    return false;
                }
                self.ask(reader);
            }
            Doing::Asking { least, patient, at } => match reader.client.try_read(Duration::ZERO) {
                Ok(reply) => reader.doing = self.hear(&reply, least, patient, at),
                Err(Silence::TimedOut) => return false,
                Err(Silence::Closed) => panic!("nobody killed it"),
            },
            Doing::Loading { token, version, fate, due } => {
                if Instant::now() < due {
                    return false;
                }
                self.finish(reader, token, version, fate);
            }
        }
        true
    }

    /// All clients do a step each.
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

    /// Lets everything happen, then calms down until everybody has read what is in the database.
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
        self.calm = true;
        let is_loading = |reader: &Reader| matches!(reader.doing, Doing::Loading { .. });
        while !self.fresh || readers.iter().any(is_loading) {
            self.sweep(readers);
        }
        for reader in readers {
            if let Doing::Asking { least, patient, at } = reader.doing {
                let reply = reader.client.read();
                reader.doing = self.hear(&reply, least, patient, at);
            }
            let reply = reader.client.run(format!("CACHE.FETCH page {LEASE}"));
            let version = self.version.to_string();
            assert_eq!(reply, array([simple("HIT"), bulk(version), nil()]));
        }
    }

    /// Every load had a cause, and the server counts as we do.
    fn check(&mut self) {
        assert_page_is_warm(&mut self.control);
        let leases = &mut self.leases;
        // Those whose value had been stored by an older loader before they ended.
        let told: Vec<_> = leases.told.keys().copied().collect();
        for token in told {
            if !leases.ends.contains_key(&token) {
                leases.must_be_over(token, now_ms());
            }
        }
        let leases = &self.leases;
        let [filled, failed, invalidated, late] =
            [End::Filled, End::Failed, End::Invalidated, End::Late].map(|end| leases.count(end));
        let known = leases.ends.len();
        let loads = total(&mut self.control, "loads");
        // Told to a connection that was closed before it was read, and then late.
        let unheard = loads.checked_sub(known).expect("no load that the server does not count");
        assert!(unheard <= self.killed, "{unheard} loads were told to nobody");
        let causes = 1 + failed + invalidated + self.removed + late + unheard;
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

/// `loads` is what the database was asked; the many thousand reads come from the cache.
fn a_thousand_clients_under_fire(soft: bool) {
    let server = Server::start();
    let mut readers: Vec<_> = (0..1000).map(|_| Reader::connect(&server)).collect();
    let mut world = World::new(&server, soft);
    readers.iter_mut().for_each(|reader| world.ask(reader));
    world.run(&mut readers);
    drop(readers);
    world.check();
    let loads = world.leases.told.len();
    assert!(world.reads > 50 * loads, "{} reads and {loads} loads", world.reads);
}

#[test]
fn a_thousand_clients_load_as_often_as_the_events_allow_and_never_read_what_was_invalidated() {
    a_thousand_clients_under_fire(false);
}

#[test]
fn a_thousand_clients_do_so_too_where_values_are_invalidated_softly() {
    a_thousand_clients_under_fire(true);
}
