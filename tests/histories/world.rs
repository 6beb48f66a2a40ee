//! Clients that work, lose their connections and come back, and servers that are killed or fail over.

use crate::support::{Command as Written, *};
use std::collections::{BTreeMap, VecDeque};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How long a run takes by default.
const SECONDS: u64 = 6;

/// How long a reply may take: much longer than the server is away, or a client waits in line.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What happens to the server.
#[derive(Clone, Copy, PartialEq)]
pub enum Strike {
    /// It is killed and starts again.
    Kill,
    /// Its replica takes its place.
    FailOver,
}

/// What clients were told about tasks. A payload is published once.
#[derive(Default)]
pub struct Told {
    /// The payloads whose publication was confirmed.
    pub accepted: Vec<String>,
    /// The payloads that were refused, because their UNIQUE id was taken.
    pub duplicates: Vec<String>,
    /// How often a reply said that.
    pub counts: BTreeMap<String, usize>,
}

impl Told {
    /// Counts a reply.
    pub fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.duplicates.extend(other.duplicates);
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

/// A client, and what the clients share.
pub struct World<'a> {
    /// Which client.
    pub name: usize,
    /// Its dice.
    pub random: Random,
    /// What it was told about its tasks.
    pub told: Told,
    /// The tasks that it published last.
    pub recent: VecDeque<(&'static str, String)>,
    /// The versions whose invalidation was confirmed, by page.
    pub versions: &'a [AtomicI64; 3],
    port: &'a AtomicU16,
    client: Option<Client>,
    names: usize,
}

impl World<'_> {
    /// A name that nobody has used.
    pub fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("{}-{}", self.name, self.names)
    }

    fn client(&mut self) -> Option<&mut Client> {
        if self.client.is_none() {
            self.client = Client::try_connect(self.port.load(SeqCst)).ok();
        }
        if self.client.is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        self.client.as_mut()
    }

    /// The reply. `None` if there is no connection any more, or if the server cannot serve now.
    #[track_caller]
    pub fn ask(&mut self, line: impl AsRef<str>) -> Option<Value> {
        let line = line.as_ref();
        match self.client()?.ask(line, TIMEOUT) {
            Ok(reply) if !reply.is_error() => return Some(reply),
            Ok(error) => {
                let passing = ["LOADING ", "READONLY ", "UNBLOCKED ", "MASTERDOWN ", "EXECABORT "];
                let passes = passing.iter().any(|code| error.is_error_with(code));
                assert!(passes, "{line}: {error:?}");
                thread::sleep(Duration::from_millis(2));
            }
            Err(Silence::TimedOut) => panic!("no reply to {line}"),
            Err(Silence::Closed) => {}
        }
        self.client = None;
        None
    }

    /// The replies of a transaction, if it was carried out for certain.
    #[track_caller]
    pub fn transaction(&mut self, commands: &[String]) -> Option<Vec<Value>> {
        self.ask("MULTI")?;
        for command in commands {
            self.ask(command)?;
        }
        Some(self.ask("EXEC")?.items().to_vec())
    }

    /// Closes the connection, as a process that is killed does.
    pub fn leave(&mut self) {
        self.client = None;
    }

    /// Hands the connection, over which a command was sent, to a process that is then killed: the kernel
    /// closes it.
    pub fn send_and_be_killed(&mut self, line: &str) {
        let request = format!("{line}\r\n");
        let sent =
            self.client().is_some_and(|client| client.try_send_raw(request.as_bytes()).is_ok());
        let Some(client) = self.client.take().filter(|_| sent) else { return };
        let mut worker = Command::new("cat");
        worker.stdin(client.into_socket()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut worker = spawn(worker).expect("start a process");
        thread::sleep(Duration::from_millis(self.random.below(40) as u64));
        worker.kill().expect("kill");
        worker.wait().expect("wait");
        self.told.count("killed processes");
    }

    /// Sends a command and closes the connection without reading the reply.
    pub fn send_and_leave(&mut self, line: &str) {
        let request = line.split(' ').collect::<Vec<_>>();
        let mut bytes = Vec::new();
        encode(&mut bytes, &request);
        if let Some(client) = self.client() {
            let _ = client.try_send_raw(&bytes);
        }
        thread::sleep(Duration::from_millis(self.random.below(20) as u64));
        self.leave();
    }
}

/// The servers of a run.
struct Servers {
    master: Server,
    replica: Option<Server>,
}

impl Servers {
    fn start(strike: Strike) -> Self {
        let server = || {
            let options = Server::builder().aof(true);
            let options = options.arg("--auto-aof-rewrite-percentage").arg(0);
            options.arg("--repl-backlog-size").arg("256mb")
        };
        let master = server().start();
        let replica = (strike == Strike::FailOver).then(|| server().replica_of(&master).start());
        Self { master, replica }
    }

    /// Returns the port of the master after the strike.
    #[track_caller]
    fn strike(&mut self) -> u16 {
        let Some(replica) = &mut self.replica else {
            self.master.kill9();
            self.master.restart();
            return self.master.port();
        };
        let role = |server: &Server| server.client().info("replication", "role");
        assert_eq!(self.master.client().run("FAILOVER"), ok());
        eventually(SOON, "the replica is the master", || {
            role(replica).as_deref() == Some("master")
        });
        std::mem::swap(&mut self.master, replica);
        let (master, replica) = (&self.master, &*replica);
        eventually(SOON, "the former master follows", || {
            replica.client().info("replication", "master_link_status").as_deref() == Some("up")
        });
        master.port()
    }

    /// Everything that was written. No node was copied as a whole since the first write, so the file
    /// of the last master has all of it.
    #[track_caller]
    fn history(&self) -> Vec<Written> {
        let history = aof_commands(&self.master);
        let begins = history.first().is_some_and(|first| *first == "SET first write");
        assert!(begins, "the history is incomplete: {:?}", history.first());
        history
    }
}

/// Kills a connection of a client, or now and then all of them. Returns how many.
fn kill_connection(control: &mut Client, random: &mut Random) -> i64 {
    if random.below(200) == 0 {
        return control.run("CLIENT KILL TYPE normal").as_int();
    }
    let list = control.run("CLIENT LIST TYPE normal");
    let me = control.id().to_string();
    let ids = list.as_str().lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
    let ids: Vec<&str> = ids.filter(|id| **id != me).collect();
    if ids.is_empty() {
        return 0;
    }
    control.run(format!("CLIENT KILL ID {}", ids[random.below(ids.len())])).as_int()
}

/// Sets a flag when it is dropped, so that the clients end when the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Reads everything that was written so far.
pub type History<'a> = &'a dyn Fn() -> Vec<Written>;

/// Lets `clients` clients work while their connections are killed and the server is struck. Then
/// `check` gets the history and what the clients were told. Leases of this family must have ended with their
/// connections.
#[track_caller]
pub fn run(
    family: &str,
    strike: Strike,
    clients: usize,
    prepare: impl Fn(&mut Client),
    work: impl Fn(&mut World<'_>) + Sync,
    check: impl Fn(&mut Client, History<'_>, Told),
) {
    let seconds = std::env::var("CORRAL_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    let mut servers = Servers::start(strike);
    let mut control = servers.master.client();
    assert_eq!(control.run("SET first write"), ok());
    prepare(&mut control);
    let (port, stop) = (AtomicU16::new(servers.master.port()), AtomicBool::new(false));
    let (versions, told) = (Default::default(), Mutex::new(Told::default()));
    let mut random = Random::new(now_ms().unsigned_abs());
    let (mut strikes, mut kills, mut ended) = (0, 0, 0);
    let has_ended = |server: &Server| -> u64 {
        let field = format!("corral_{family}_disconnected");
        let ended = server.client().info("corral", &field);
        ended.and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for name in 0..clients {
            let random = Random::new(random.below(1 << 30) as u64);
            let (port, stop, versions) = (&port, &stop, &versions);
            let (work, all_told) = (&work, &told);
            scope.spawn(move || {
                let _stop = SetOnDrop(stop);
                let (client, names) = (None, 0);
                let (told, recent) = Default::default();
                let mut world = World { name, random, told, recent, versions, port, client, names };
                while !stop.load(SeqCst) {
                    work(&mut world);
                }
                all_told.lock().expect("no client has failed").add(world.told);
            });
        }
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
        let mut next_strike = Instant::now() + Duration::from_secs(1);
        let mut control = servers.master.client();
        while (Instant::now() < end || strikes < 3) && !stop.load(SeqCst) {
            kills += kill_connection(&mut control, &mut random);
            thread::sleep(Duration::from_millis(5));
            if Instant::now() > next_strike {
                // A killed server forgets its counters.
                ended += if strike == Strike::Kill { has_ended(&servers.master) } else { 0 };
                port.store(servers.strike(), SeqCst);
                control = servers.master.client();
                strikes += 1;
                let pause = 700 + random.below(1500) as u64;
                next_strike = Instant::now() + Duration::from_millis(pause);
            }
        }
    });
    assert!(strikes >= 3, "a client has failed");
    let nodes = std::iter::once(&servers.master).chain(&servers.replica);
    ended += nodes.clone().map(has_ended).sum::<u64>();
    println!(
        "{strikes} strikes, {kills} connections killed, {ended} leases ended with their connections"
    );
    assert!(ended >= 10, "only {ended} leases ended with their connections");
    for node in nodes {
        assert_eq!(node.client().info("corral", "corral_panics").as_deref(), Some("0"));
    }
    let told = told.into_inner().expect("no client has failed");
    let mut control = servers.master.client();
    check(&mut control, &|| servers.history(), told);
    eventually(SOON, "no client waits", || waiters(&mut control, family) == 0);
}
