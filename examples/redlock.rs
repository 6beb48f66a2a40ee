//! Redlock: one lock on N independent masters. A client holds it if it holds it on a majority.
//!
//! ```sh
//! cargo run --example redlock -- NAME TTL_MS HOST:PORT HOST:PORT HOST:PORT...
//! ```
//!
//! Each master's part is one LOCK.ACQUIRE, LOCK.EXTEND or LOCK.RELEASE; the rest is this client. It
//! follows Salvatore Sanfilippo, "Distributed Locks with Redis"
//! (<https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/>).
//!
//! **What it promises.** While a majority of the masters is up and can be reached, somebody gets
//! the lock, and a minority that dies takes no lock with it. There are never two holders within
//! their validity, as long as the clocks of masters and clients run at nearly the same rate, and
//! no master forgets a lease before its time.
//!
//! **What it does not promise.**
//! - The holder does not stop when its validity ends. A pause of the process (garbage collection,
//!   swapping, a suspended machine) can fall between its last look at [`Lock::validity`] and its
//!   write; so can a slow network. Then two of them write.
//! - A clock that jumps ends leases early. A master that restarts without its last writes (no AOF,
//!   or not `appendfsync always`) grants again what it had granted: keep it away from clients for
//!   as long as the longest lease. A replica that was promoted may have missed the last writes too.
//! - Order: a majority has no common counter, so Redlock gives no fencing token.
//!
//! Martin Kleppmann, "How to do distributed locking" (2016,
//! <https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html>), explains why a
//! lock with a lease saves work, but cannot protect data by itself. What protects them is the
//! resource: it refuses a token older than one it has seen, or compares a version in the same step
//! in which it writes. The token comes from one master, with `LOCK.ACQUIRE … FENCE`. A client
//! that needs the token needs that master, and gains little from the others.

use redis::{Client, Cmd, Connection, RedisError, RedisResult, Value, cmd};
use std::collections::hash_map::RandomState;
use std::fmt::{self, Display, Formatter};
use std::hash::{BuildHasher, Hasher};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the servers may take to answer, connecting included. They are asked all at once, so
    /// one that does not answer costs this much, and so do several. Keep it well below the lease.
    pub server_timeout: Duration,
    /// How often the lock is asked for before it is refused.
    pub attempts: u32,
    /// The longest pause between two attempts. Each is a random part of it, so that clients that
    /// split the votes do not do so again.
    pub retry_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server_timeout: Duration::from_millis(50),
            attempts: 3,
            retry_delay: Duration::from_millis(200),
        }
    }
}

/// Why there is no lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Only this many servers agreed.
    NoMajority(usize),
    /// A majority agreed, but too late: nothing would be left of the lease.
    TooLate,
    /// The lock is lost: its validity has expired, or a majority no longer has it.
    Lost,
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMajority(agreed) => write!(f, "no majority: {agreed} servers agreed"),
            Self::TooLate => f.write_str("a majority agreed too late"),
            Self::Lost => f.write_str("the lock is lost"),
        }
    }
}

impl std::error::Error for Error {}

/// A client of N independent masters. It has one connection to each and holds one lock at a time:
/// every thread has its own.
pub struct Redlock {
    servers: Vec<Server>,
    options: Options,
}

/// The answers to one question.
struct Votes {
    yes: usize,
    no: usize,
}

/// What a majority agreed to.
struct Lease {
    agreed: usize,
    valid_until: Instant,
}

impl Redlock {
    /// A client of the servers at these addresses, `host:port`. Nothing is connected yet; names
    /// are looked up with each connection and for as long as that takes, so better give numbers.
    pub fn new<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> RedisResult<Self> {
        let servers = addresses.into_iter().map(|address| Server::new(address.as_ref()));
        Ok(Self { servers: servers.collect::<RedisResult<_>>()?, options })
    }

    /// Acquires a lock on a majority of the servers, in a bounded number of attempts.
    pub fn acquire(&mut self, name: &str, ttl: Duration) -> Result<Lock<'_>, Error> {
        let mut attempt = 1;
        loop {
            // A new one each time: the release of a failed attempt can arrive late, and must not
            // hit the next one.
            let identifier = format!("{:016x}{:016x}", random(), random());
            match self.attempt(name, &identifier, ttl) {
                Ok(lease) => {
                    let name = name.to_owned();
                    return Ok(Lock { redlock: self, name, identifier, lease, released: false });
                }
                Err(error) if attempt >= self.options.attempts => return Err(error),
                Err(_) => attempt += 1,
            }
            thread::sleep(self.options.retry_delay.mul_f64(random() as f64 / u64::MAX as f64));
        }
    }

    fn attempt(&mut self, name: &str, identifier: &str, ttl: Duration) -> Result<Lease, Error> {
        let start = Instant::now();
        let votes = self.ask_all(lock_command("LOCK.ACQUIRE", name, identifier).arg(millis(ttl)));
        let granted = self.decide(&votes, start, ttl);
        if granted.is_err() {
            self.release_all(name, identifier);
        }
        granted
    }

    /// A lease is granted, or extended, if a majority says so and something is left of it.
    fn decide(&self, votes: &Votes, start: Instant, ttl: Duration) -> Result<Lease, Error> {
        if votes.yes < self.majority() {
            return Err(Error::NoMajority(votes.yes));
        }
        let valid_until = end_of_validity(start, ttl).filter(|end| *end > Instant::now());
        let lease = valid_until.map(|valid_until| Lease { agreed: votes.yes, valid_until });
        lease.ok_or(Error::TooLate)
    }

    /// Releases on every server, regardless of its earlier replies: a lost reply may have been a 1.
    fn release_all(&mut self, name: &str, identifier: &str) -> usize {
        self.ask_all(&lock_command("LOCK.RELEASE", name, identifier)).yes
    }

    fn majority(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    fn ask_all(&mut self, command: &Cmd) -> Votes {
        let deadline = Instant::now() + self.options.server_timeout;
        let mut votes = Votes { yes: 0, no: 0 };
        thread::scope(|scope| {
            let ask = |server| scope.spawn(move || Server::ask(server, command, deadline));
            let asked: Vec<_> = self.servers.iter_mut().map(ask).collect();
            for answer in asked {
                match answer.join() {
                    Ok(Ok(Value::Int(1))) => votes.yes += 1,
                    Ok(Ok(Value::Int(0))) => votes.no += 1,
                    // No answer, or an error, says nothing about who holds the lock.
                    _ => {}
                }
            }
        });
        votes
    }
}

/// A lock that is held. Dropping it releases it on all servers, within their time-out.
pub struct Lock<'a> {
    redlock: &'a mut Redlock,
    name: String,
    identifier: String,
    lease: Lease,
    released: bool,
}

impl Lock<'_> {
    /// What stands for this acquisition on every server.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// How many servers agreed to the lease.
    pub fn agreed(&self) -> usize {
        self.lease.agreed
    }

    /// For how long the lock is still surely held. It only grows by [`Lock::extend`], and zero
    /// stays zero. Look at it before every step that cannot be undone.
    pub fn validity(&self) -> Duration {
        self.lease.valid_until.saturating_duration_since(Instant::now())
    }

    /// Renews the lease on a majority of the servers. Call it after a third of the validity: after
    /// [`Error::NoMajority`] and [`Error::TooLate`] the lock is held until its validity ends, so
    /// there is time to try again.
    pub fn extend(&mut self, ttl: Duration) -> Result<(), Error> {
        let start = Instant::now();
        if self.lease.valid_until <= start {
            return Err(Error::Lost);
        }
        let mut command = lock_command("LOCK.EXTEND", &self.name, &self.identifier);
        let votes = self.redlock.ask_all(command.arg(millis(ttl)));
        if votes.no > self.redlock.servers.len() - self.redlock.majority() {
            self.lease.valid_until = start;
            return Err(Error::Lost);
        }
        // A shorter lease counts as soon as one server has agreed to it.
        let shorter = end_of_validity(start, ttl).unwrap_or(start);
        self.lease.valid_until = self.lease.valid_until.min(shorter);
        self.lease = self.redlock.decide(&votes, start, ttl)?;
        Ok(())
    }

    /// Releases the lock on all servers; how many of them say that it was held until now.
    pub fn release(mut self) -> usize {
        self.released = true;
        self.redlock.release_all(&self.name, &self.identifier)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if !self.released {
            self.redlock.release_all(&self.name, &self.identifier);
        }
    }
}

/// One master, and the connection to it while there is one.
struct Server {
    client: Client,
    connection: Option<Connection>,
}

impl Server {
    fn new(address: &str) -> RedisResult<Self> {
        Ok(Self { client: Client::open(format!("redis://{address}"))?, connection: None })
    }

    /// Asks one thing. A connection that did not answer in time is kept, so that a release comes
    /// behind the acquisition that was not answered; it skips the late reply.
    fn ask(&mut self, command: &Cmd, deadline: Instant) -> RedisResult<Value> {
        loop {
            let kept = self.connection.take();
            let may_be_stale = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.client.get_connection_with_timeout(left(deadline))?,
            };
            let sent = send(&mut connection, command, deadline);
            let reply = sent.and_then(|()| {
                let reply = receive(&mut connection, deadline);
                if reply.as_ref().err().is_none_or(RedisError::is_timeout) {
                    self.connection = Some(connection);
                }
                reply
            });
            match reply {
                // It broke while nobody used it.
                Err(error) if may_be_stale && error.is_connection_dropped() => {}
                reply => return reply,
            }
        }
    }
}

fn send(connection: &mut Connection, command: &Cmd, deadline: Instant) -> RedisResult<()> {
    connection.set_write_timeout(Some(left(deadline)))?;
    connection.send_packed_command(&command.get_packed_command())
}

fn receive(connection: &mut Connection, deadline: Instant) -> RedisResult<Value> {
    loop {
        connection.set_read_timeout(Some(left(deadline)))?;
        let reply = connection.recv_response()?;
        if !matches!(reply, Value::Push { .. }) {
            return Ok(reply);
        }
    }
}

/// The time until a deadline, at least 1 ms: after a write the client must read once, because only
/// then the connection knows that a reply is missing.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn lock_command(command: &str, name: &str, identifier: &str) -> Cmd {
    let mut command = cmd(command);
    command.arg(name).arg(identifier);
    command
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

/// When a lease that was asked for at `start` may be over on the first server: it may have begun
/// at once, and that server's clock may run faster, by 1 % and 2 ms for its resolution.
fn end_of_validity(start: Instant, ttl: Duration) -> Option<Instant> {
    let drift = ttl / 100 + Duration::from_millis(2);
    start.checked_add(ttl.checked_sub(drift)?)
}

/// 64 random bits: the keys of a standard hasher come from the operating system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

// Tests include this file as a module, without its program.
#[allow(dead_code)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, ttl_ms, servers @ ..] = args.as_slice() else { return usage() };
    let Ok(ttl_ms @ 1..) = ttl_ms.parse() else { return usage() };
    if servers.is_empty() {
        return usage();
    }
    match run(name, Duration::from_millis(ttl_ms), servers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redlock: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(dead_code)]
fn usage() -> ExitCode {
    eprintln!("usage: redlock NAME TTL_MS HOST:PORT...");
    ExitCode::from(2)
}

#[allow(dead_code)]
fn run(name: &str, ttl: Duration, servers: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let count = servers.len();
    let defaults = Options::default();
    let options = Options { server_timeout: defaults.server_timeout.min(ttl / 10), ..defaults };
    let mut redlock = Redlock::new(servers, options)?;
    let mut lock = redlock.acquire(name, ttl)?;
    let (agreed, identifier) = (lock.agreed(), lock.identifier());
    println!("acquired {name} as {identifier}: {agreed} of {count} servers");
    println!("valid for {:?}", lock.validity());

    thread::sleep(lock.validity() / 3);
    println!("a third of it later: valid for {:?}", lock.validity());
    lock.extend(ttl)?;
    println!("extended: {} of {count} servers, valid for {:?}", lock.agreed(), lock.validity());

    println!("released: {} of {count} servers", lock.release());
    Ok(())
}
