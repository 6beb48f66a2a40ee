//! Real clients use locks while their connections are killed, and real processes while they are killed
//! or stopped until their lease has expired. The protected data is written in two steps, so that two
//! holders at the same time would lose an update.
//!
//! No update is lost while the holder holds the lock, and the fencing token of a holder whose lease has
//! expired keeps it from writing.

mod support;
use support::*;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test may take.
const DEADLINE: Duration = Duration::from_secs(25);

/// What the kills have hit, and the deadline of the test.
struct Fire {
    /// Requests for the lock.
    asking: AtomicUsize,
    /// Commands that were sent under the lock.
    holding: AtomicUsize,
    end: Instant,
}

impl Fire {
    fn new() -> Self {
        let end = Instant::now() + DEADLINE;
        Self { asking: AtomicUsize::new(0), holding: AtomicUsize::new(0), end }
    }

    fn has_hit(&self, least: usize) -> bool {
        self.asking.load(SeqCst) >= least && self.holding.load(SeqCst) >= least
    }

    /// Kills random connections one after another until the test has ended.
    fn burn(&self, server: &Server, is_over: impl Fn() -> bool) {
        let mut control = server.client();
        let me = control.id().to_string();
        let mut random = Random::new(1);
        while !is_over() && Instant::now() < self.end {
            let mut ids: Vec<_> = ids_by_port(&mut control).into_values().collect();
            ids.retain(|id| *id != me);
            if !ids.is_empty() {
                control.run(format!("CLIENT KILL ID {}", ids[random.below(ids.len())]));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A client whose connection is killed now and then: it reconnects and repeats what got no reply.
struct Worker<'a> {
    server: &'a Server,
    client: Client,
    fire: &'a Fire,
    random: Random,
    name: usize,
    acquisitions: usize,
}

impl<'a> Worker<'a> {
    fn new(server: &'a Server, fire: &'a Fire, name: usize) -> Self {
        let (client, random) = (server.client(), Random::new(name as u64));
        Self { server, client, fire, random, name, acquisitions: 0 }
    }

    /// The server's reply; if the connection breaks there is none, and a new connection.
    #[track_caller]
    fn try_ask(&mut self, line: &str) -> Option<Value> {
        assert!(Instant::now() < self.fire.end, "not done in time: {line}");
        match self.client.ask(line, DEADLINE) {
            Ok(value) => return Some(value),
            Err(Silence::Closed) => self.client = self.server.client(),
            Err(Silence::TimedOut) => panic!("no answer to {line}"),
        }
        None
    }

    /// The server's reply, repeated until there is one: under the lock every command may be sent twice.
    #[track_caller]
    fn ask(&mut self, line: impl AsRef<str>) -> Value {
        loop {
            match self.try_ask(line.as_ref()) {
                Some(value) => return value,
                None => self.fire.holding.fetch_add(1, SeqCst),
            };
        }
    }

    /// The number in a key.
    #[track_caller]
    fn number(&mut self, key: &str) -> usize {
        match self.ask(format!("GET {key}")) {
            Value::NilBulk => 0,
            number => number.as_str().parse().expect("a number"),
        }
    }

    /// Waits until it holds the lock `job`. The lease is longer than the test. When the connection
    /// breaks it asks again: now with the same identifier, now with another one.
    #[track_caller]
    fn acquire(&mut self, mode: &str) -> String {
        let mut id = self.new_identifier();
        loop {
            match self.try_ask(&format!("LOCK.ACQUIRE job {id} 60000 BLOCK 5000 {mode}")) {
                Some(Value::Int(1)) => return id,
                Some(Value::Int(0)) => {}
                Some(other) => panic!("LOCK.ACQUIRE: {other:?}"),
                None => {
                    self.fire.asking.fetch_add(1, SeqCst);
                    if self.random.below(2) == 0 {
                        // It may have been granted without the client knowing.
                        self.release(&id);
                        id = self.new_identifier();
                    }
                }
            }
        }
    }

    fn new_identifier(&mut self) -> String {
        self.acquisitions += 1;
        format!("{}-{}", self.name, self.acquisitions)
    }

    #[track_caller]
    fn release(&mut self, id: &str) {
        let released = self.ask(format!("LOCK.RELEASE job {id}"));
        assert!([int(0), int(1)].contains(&released), "{released:?}");
    }
}

/// Long enough for another holder to interfere, if there were one.
fn linger() {
    thread::sleep(Duration::from_millis(1));
}

#[track_caller]
fn assert_nobody_holds_or_waits(server: &Server) {
    let info = server.client().run("LOCK.INFO job");
    assert_eq!((info.get("mode"), info.get("waiters")), (&bulk("free"), &int(0)));
}

#[test]
fn no_increment_is_lost_under_a_lock_while_connections_are_killed() {
    const WORKERS: usize = 8;
    let server = Checked::start();
    let fire = Fire::new();
    let (confirmed, inside) = (AtomicUsize::new(0), AtomicBool::new(false));
    let is_over = || confirmed.load(SeqCst) >= 400 && fire.has_hit(20);

    thread::scope(|scope| {
        for name in 0..WORKERS {
            let mut worker = Worker::new(&server, &fire, name);
            let (confirmed, inside, is_over) = (&confirmed, &inside, &is_over);
            scope.spawn(move || {
                while !is_over() {
                    let id = worker.acquire("");
                    assert!(!inside.swap(true, SeqCst), "two holders");
                    let count = worker.number("counter");
                    linger();
                    assert_eq!(worker.ask(format!("SET counter {}", count + 1)), ok());
                    confirmed.fetch_add(1, SeqCst);
                    inside.store(false, SeqCst);
                    worker.release(&id);
                }
            });
        }
        fire.burn(&server, is_over);
    });
    assert_eq!(server.client().run("GET counter"), bulk(confirmed.into_inner().to_string()));
    assert_nobody_holds_or_waits(&server);
}

#[test]
fn readers_never_see_half_of_what_a_writer_writes() {
    const WRITERS: usize = 3;
    const READERS: usize = 5;
    let server = Checked::start();
    let fire = Fire::new();
    let (reads, writes, downgrades) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (reading, writing) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Readers hold the lock together, also with a writer that has downgraded.
    let (together, joined) = (AtomicBool::new(false), AtomicBool::new(false));
    let is_over = || {
        let enough = |count: &AtomicUsize, least| count.load(SeqCst) >= least;
        let mixed = together.load(SeqCst) && joined.load(SeqCst);
        mixed
            && enough(&reads, 200)
            && enough(&writes, 100)
            && enough(&downgrades, 20)
            && fire.has_hit(20)
    };
    let pair = |worker: &mut Worker<'_>| {
        let first = worker.number("first");
        linger();
        (first, worker.number("second"))
    };
    let write = |worker: &mut Worker<'_>| {
        let id = worker.acquire("");
        assert!(!writing.swap(true, SeqCst), "two writers");
        assert_eq!(reading.load(SeqCst), 0, "a writer among readers");
        let (count, same) = pair(worker);
        assert_eq!(count, same);
        let count = count + 1;
        assert_eq!(worker.ask(format!("SET first {count}")), ok());
        linger();
        assert_eq!(worker.ask(format!("SET second {count}")), ok());
        writes.fetch_add(1, SeqCst);
        writing.store(false, SeqCst);
        if count.is_multiple_of(2) {
            assert_eq!(worker.ask(format!("LOCK.EXTEND job {id} 60000 SHARED")), int(1));
            for _ in 0..5 {
                assert_eq!(pair(worker), (count, count), "another writer came in between");
            }
            joined.fetch_or(reading.load(SeqCst) > 0, SeqCst);
            downgrades.fetch_add(1, SeqCst);
        }
        worker.release(&id);
    };
    let read = |worker: &mut Worker<'_>| {
        let id = worker.acquire("SHARED");
        let others = reading.fetch_add(1, SeqCst);
        together.fetch_or(others > 0, SeqCst);
        let (first, second) = pair(worker);
        assert_eq!(first, second, "half of an update was seen");
        assert!(!writing.load(SeqCst), "a writer among readers");
        reads.fetch_add(1, SeqCst);
        reading.fetch_sub(1, SeqCst);
        worker.release(&id);
    };

    thread::scope(|scope| {
        for name in 0..WRITERS + READERS {
            let mut worker = Worker::new(&server, &fire, name);
            let (is_over, write, read) = (&is_over, &write, &read);
            scope.spawn(move || {
                while !is_over() {
                    if name < WRITERS { write(&mut worker) } else { read(&mut worker) }
                }
            });
        }
        fire.burn(&server, is_over);
    });
    let count = bulk(writes.into_inner().to_string());
    assert_eq!(server.client().run("MGET first second"), array([count.clone(), count]));
    assert_nobody_holds_or_waits(&server);
}

// The module must not unblock a client within the command that blocks it: Redis 7.2 aborts. These are
// two ways to be granted at that moment.

#[test]
fn a_request_granted_at_its_kept_rank_does_not_crash_the_server() {
    let server = Checked::start();
    let mut control = server.client();
    let [mut writer, mut reader, mut next, mut again] = [0; 4].map(|_| server.client());
    let ask = "LOCK.ACQUIRE job reader 60000 SHARED BLOCK 0";
    assert_eq!(writer.run("LOCK.ACQUIRE job writer 60000"), int(1));
    let reader_id = reader.id();
    send_and_wait(&mut control, "lock", &mut reader, ask);
    send_and_wait(&mut control, "lock", &mut next, "LOCK.ACQUIRE job next 60000 BLOCK 0");

    let kill = format!("CLIENT KILL ID {reader_id}");
    let replies = control.pipeline(&[&kill, "LOCK.EXTEND job writer 60000 SHARED"]);
    again.send(ask);
    assert_eq!(replies, [int(1), int(1)]);
    assert_eq!(again.read(), int(1), "it stands before the next writer again");

    assert_eq!(again.run("LOCK.RELEASE job reader"), int(1));
    assert_eq!(writer.run("LOCK.RELEASE job writer"), int(1));
    assert_eq!(next.read(), int(1));
}

#[test]
fn a_reader_that_joins_while_a_crowd_is_served_does_not_crash_the_server() {
    const CROWD: usize = 700;
    let server = Checked::start();
    let mut control = server.client();
    assert_eq!(control.run("LOCK.ACQUIRE job writer 60000"), int(1));
    let mut crowd = server.clients(CROWD);
    for (number, reader) in crowd.iter_mut().enumerate() {
        reader.send(format!("LOCK.ACQUIRE job {number} 60000 SHARED BLOCK 0"));
    }
    eventually(SOON, "all wait", || waiters(&mut control, "lock") == CROWD);

    let late = "LOCK.ACQUIRE job late 60000 SHARED BLOCK 0";
    assert_eq!(control.pipeline(&["LOCK.RELEASE job writer", late]), [int(1), int(1)]);
    assert!(crowd.iter_mut().all(|reader| reader.read() == int(1)));
}

/// Set for worker processes: the ports of the server and of the resource.
const WORKER: &str = "CORRAL_TEST_LOCK_WORKER";

/// The lease of worker processes: much longer than a section takes, and shorter than a stop.
const LEASE_MS: u64 = 400;

/// The protected resource: a number in a service that every worker process talks to, and that refuses
/// writes with an old fencing token.
#[derive(Default)]
struct Resource {
    number: u64,
    /// The highest token seen so far, in reads too: an older holder must not write between the read and
    /// the write of a newer one.
    seen: i64,
    /// The token of the last write.
    written: i64,
    /// Sections that read the number.
    sections: usize,
    /// Refused writes with an old token, each of which would have undone an update.
    refused: usize,
}

impl Resource {
    /// The number of this section, and the value.
    fn read(&mut self, token: i64) -> Option<(usize, u64)> {
        assert_ne!(token, self.seen, "one token for two");
        if token < self.seen {
            return None;
        }
        self.seen = token;
        self.sections += 1;
        Some((self.sections, self.number))
    }

    fn write(&mut self, token: i64, number: u64) -> bool {
        if token < self.seen {
            self.refused += usize::from(number <= self.number);
            return false;
        }
        assert_eq!(number, self.number + 1, "an update was lost");
        (self.number, self.written) = (number, token);
        true
    }
}

/// A worker process; it dies with this value.
struct Process(Child);

impl Process {
    fn start(server: &Server, resource: SocketAddr) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut command = Command::new(program);
        command
            .args(["--exact", "this_process_is_a_worker_if_started_as_one", "--nocapture"])
            .env(WORKER, format!("{} {}", server.port(), resource.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self(spawn(command).expect("start a worker"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call. The process has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("proc is there");
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
}

/// Lines to and from the other end of a connection.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("set_read_timeout");
        stream.set_nodelay(true).expect("set_nodelay");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let line = format!("{}\n", line.as_ref());
        self.0.get_mut().write_all(line.as_bytes()).expect("the other end is there");
    }

    /// The words of the next line; `None` when the other end has closed.
    fn hear(&mut self) -> Option<Vec<String>> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(1..) => Some(line.split_whitespace().map(str::to_owned).collect()),
            _ => None,
        }
    }
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

/// A worker process: it increments the resource under the lock, repeatedly.
#[test]
fn this_process_is_a_worker_if_started_as_one() {
    let Ok(ports) = std::env::var(WORKER) else { return };
    let (server, resource) = ports.split_once(' ').expect("two ports");
    let mut server = Client::connect(number(server));
    let resource = TcpStream::connect((Ipv4Addr::LOCALHOST, number(resource)));
    let mut resource = Lines::new(resource.expect("the resource is there"));
    let pid = std::process::id();
    resource.say(pid.to_string());

    for round in 0.. {
        let id = format!("{pid}-{round}");
        let acquire = format!("LOCK.ACQUIRE job {id} {LEASE_MS} FENCE BLOCK 5000");
        let token = loop {
            match server.run(&acquire).as_int() {
                0 => {}
                token => break token,
            }
        };
        resource.say(format!("read {token}"));
        let Some(answer) = resource.hear() else { return };
        if let [number] = answer.as_slice() {
            resource.say(format!("write {token} {}", self::number::<u64>(number) + 1));
            resource.hear();
        }
        let extended = server.run(format!("LOCK.EXTEND job {id} {LEASE_MS}")).as_int();
        let released = server.run(format!("LOCK.RELEASE job {id}")).as_int();
        resource.say(format!("done {extended} {released}"));
    }
}

/// The test's side of the worker processes: it serves the resource, and stops and kills them.
#[derive(Default)]
struct Overseer {
    resource: Mutex<Resource>,
    /// How many were stopped. Locked while one is stopped, so that the others go on.
    stops: Mutex<usize>,
}

impl Overseer {
    const STOPS: usize = 8;
    const UPDATES: u64 = 60;
    const KILLED_IN_SECTION: usize = 10;

    fn resource(&self) -> MutexGuard<'_, Resource> {
        self.resource.lock().expect("nobody panicked here")
    }

    fn is_over(&self) -> bool {
        let stopped_enough = self.stops.try_lock().is_ok_and(|stops| *stops >= Self::STOPS);
        stopped_enough && self.resource().number >= Self::UPDATES
    }

    /// Stops a process until a later holder of the lock has written, unless another one is stopped or
    /// enough have been.
    fn stop_until_overtaken(&self, pid: i32, token: i64) -> bool {
        let free = self.stops.try_lock().ok().filter(|stops| **stops < Self::STOPS);
        let Some(mut stops) = free else { return false };
        signal(pid, libc::SIGSTOP);
        eventually(SOON, "the worker is stopped", || is_stopped(pid));
        eventually(SOON, "another worker writes", || self.resource().written > token);
        signal(pid, libc::SIGCONT);
        *stops += 1;
        true
    }

    /// Serves one worker. Every fourth section is stopped when it has read the number, and every
    /// other fourth when its request to write is on the way.
    fn serve(&self, mut worker: Lines) {
        let end = Instant::now() + DEADLINE;
        let pid = number(&worker.hear().expect("its process id")[0]);
        let (mut section, mut overtaken) = (0, false);
        while let Some(request) = worker.hear() {
            assert!(Instant::now() < end, "not done in time");
            match request.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["read", token] => {
                    let token = number(token);
                    let Some((nth, value)) = self.resource().read(token) else {
                        worker.say("too late");
                        continue;
                    };
                    section = nth;
                    if section == Self::KILLED_IN_SECTION {
                        return signal(pid, libc::SIGKILL);
                    }
                    overtaken = section % 4 == 1 && self.stop_until_overtaken(pid, token);
                    worker.say(value.to_string());
                }
                ["write", token, value] => {
                    let token = number(token);
                    overtaken |= section % 4 == 3 && self.stop_until_overtaken(pid, token);
                    let written = self.resource().write(token, number(value));
                    assert!(!(written && overtaken), "an old token was accepted");
                    worker.say("noted");
                }
                ["done", extended, released] => {
                    if overtaken {
                        assert_eq!((extended, released), ("0", "0"), "it held nothing any more");
                    }
                    overtaken = false;
                    if self.is_over() {
                        return;
                    }
                }
                _ => panic!("{request:?}"),
            }
        }
    }
}

#[test]
fn no_update_is_lost_when_processes_are_stopped_beyond_their_lease() {
    const PROCESSES: usize = 5;
    let server = Checked::start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    listener.set_nonblocking(true).expect("set_nonblocking");
    let address = listener.local_addr().expect("an address");
    let processes: Vec<_> = (0..PROCESSES).map(|_| Process::start(&server, address)).collect();

    let overseer = Overseer::default();
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            let (stream, _) = eventually(SOON, "a worker connects", || listener.accept().ok());
            stream.set_nonblocking(false).expect("set_nonblocking");
            scope.spawn(|| overseer.serve(Lines::new(stream)));
        }
    });

    let resource = overseer.resource();
    let stops = *overseer.stops.lock().expect("nobody panicked here");
    assert!(resource.number >= Overseer::UPDATES && stops >= Overseer::STOPS);
    assert!(resource.sections > Overseer::KILLED_IN_SECTION, "nobody was killed");
    // Without the token each of these would have undone an update.
    assert!(resource.refused >= stops, "{} of {stops}", resource.refused);
    drop(processes);
}
