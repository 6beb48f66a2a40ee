//! Helpers of the tests of waiting clients: how many wait, how one leaves the line, what a hand-over
//! costs, and a server that is checked at the end of a test.

use super::client::{Client, Silence};
use super::server::{Server, wait_blocked};
use super::value::{Value, ok, simple};
use super::{SOON, eventually};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::thread;

/// A server that is checked at the end of the test: no client waits, no panic was counted, and the
/// module can be unloaded. Declare it before the connections, so that it is dropped last.
pub struct Checked(Server);

impl Checked {
    /// A standalone server with the module.
    #[track_caller]
    pub fn start() -> Self {
        Self(Server::start())
    }

    /// Checks this server.
    pub fn new(server: Server) -> Self {
        Self(server)
    }

    fn check(&self) {
        let mut client = self.client();
        for family in ["cache", "lock", "task"] {
            eventually(SOON, "no client waits", || waiters(&mut client, family) == 0);
        }
        wait_blocked(self, 0);
        assert_eq!(client.info("corral", "corral_panics").as_deref(), Some("0"));
        eventually(SOON, "the module is unloaded", || client.run("MODULE UNLOAD corral") == ok());
        assert_eq!(client.run("PING"), simple("PONG"));
    }
}

impl Deref for Checked {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Checked {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.check();
        }
    }
}

/// How many clients of a family (`cache`, `lock`, `task`) wait, as the module counts them.
#[track_caller]
pub fn waiters(client: &mut Client, family: &str) -> usize {
    let count = client.info("corral", &format!("corral_{family}_waiters"));
    count.and_then(|text| text.parse().ok()).expect("a gauge")
}

/// Has a client send a command of a family that waits, and waits until the module counts it.
#[track_caller]
pub fn send_and_wait(control: &mut Client, family: &str, client: &mut Client, command: &str) {
    let before = waiters(control, family);
    client.send(command);
    let what = format!("one more waits after {command}");
    eventually(SOON, &what, || waiters(control, family) == before + 1);
}

/// Has a client send a command that waits, and waits until the server has executed it. The wait may
/// have ended by then.
#[track_caller]
pub fn stand(client: &mut Client, command: &str) {
    // Both commands come in one write, and the server executes both before it sends the reply.
    client.send_raw(format!("PING\r\n{command}\r\n"));
    assert_eq!(client.read(), simple("PONG"));
}

/// The numbers below `count` in an order that looks random and is always the same.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut random = Random::new(count as u64);
    for end in (1..count).rev() {
        numbers.swap(end, random.below(end + 1));
    }
    numbers
}

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next number, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("below a usize")
    }
}

/// `MULTI`, the commands, `EXEC` in one write; returns the replies in that of `EXEC`.
#[track_caller]
pub fn in_transaction(client: &mut Client, commands: &[impl AsRef<str>]) -> Vec<Value> {
    let commands = commands.iter().map(AsRef::as_ref);
    let lines: Vec<_> = ["MULTI"].into_iter().chain(commands).chain(["EXEC"]).collect();
    let replies = client.pipeline(&lines);
    replies.last().expect("EXEC has a reply").items().to_vec()
}

/// How often each command was called during `body`, including inner calls.
#[track_caller]
pub fn calls_during(client: &mut Client, body: impl FnOnce(&mut Client)) -> BTreeMap<String, u64> {
    assert_eq!(client.run("CONFIG RESETSTAT"), ok());
    body(client);
    let stats = client.run("INFO commandstats");
    let line = |line: &str| {
        let (name, values) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count = values.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), count))
    };
    let mut calls: BTreeMap<_, _> = stats.as_str().lines().filter_map(line).collect();
    calls.remove("config|resetstat");
    // The module checks the connection of a waiter, unless there are very many connections.
    calls.remove("client|list");
    calls
}

/// The ids of all normal clients by their local ports.
#[track_caller]
pub fn ids_by_port(control: &mut Client) -> BTreeMap<u16, String> {
    let list = control.run("CLIENT LIST TYPE normal");
    let port_and_id = |line: &str| {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
        let (_, port) = field("addr=")?.rsplit_once(':')?;
        Some((port.parse().ok()?, field("id=")?.to_owned()))
    };
    list.as_str().lines().map(|line| port_and_id(line).expect("a client")).collect()
}

/// A port on which nobody listens: a replica of it keeps its data and never gets a master.
pub const NO_MASTER: &str = "REPLICAOF 127.0.0.1 1";

/// Commands that send a client away, with its id and user to be filled in, and whether they close its
/// connection. The server only marks the clients of a deleted user and closes them later.
pub const SEND_AWAY: [(&str, bool); 4] = [
    ("CLIENT KILL ID {id}", true),
    ("ACL DELUSER {user}", true),
    ("CLIENT UNBLOCK {id} TIMEOUT", false),
    ("CLIENT UNBLOCK {id} ERROR", false),
];

/// Reads the error of a waiting client that the server has unblocked.
#[track_caller]
pub fn assert_unblocked(client: &mut Client) {
    let reply = client.read();
    assert!(reply.is_error_with("UNBLOCKED "), "{reply:?}");
}

/// Waits until the server's clock is past this point.
#[track_caller]
pub fn wait_past(client: &mut Client, end: i64) {
    eventually(SOON, "the clock goes on", || client.time_ms() > end);
}

/// How a waiting client leaves the line unserved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exit {
    /// It times out.
    TimeOut,
    /// Its connection is closed.
    Close,
    /// Its connection is reset.
    Reset,
    /// `CLIENT KILL`
    Kill,
    /// `CLIENT UNBLOCK … TIMEOUT`
    UnblockTimeOut,
    /// `CLIENT UNBLOCK … ERROR`
    UnblockError,
}

/// Every way to leave.
pub const EXITS: [Exit; 6] =
    [Exit::TimeOut, Exit::Close, Exit::Reset, Exit::Kill, Exit::UnblockTimeOut, Exit::UnblockError];

/// A waiting client and its way to leave.
pub struct Leaver {
    client: Option<Client>,
    id: i64,
    exit: Exit,
}

impl Leaver {
    /// Connects a client that leaves in this way.
    #[track_caller]
    pub fn connect(server: &Server, exit: Exit) -> Self {
        let mut client = server.client();
        let id = client.id();
        if exit == Exit::Reset {
            // Closing a socket with unread data resets the connection.
            client.send("PING");
        }
        Self { client: Some(client), id, exit }
    }

    /// Its connection.
    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is still connected")
    }

    /// Waits with a command whose last argument, the time-out, is added: `time_out` if it is to time
    /// out, else 0.
    #[track_caller]
    pub fn wait(&mut self, control: &mut Client, family: &str, command: &str, time_out: u32) {
        let block = if self.exit == Exit::TimeOut { time_out } else { 0 };
        let command = format!("{command} {block}");
        send_and_wait(control, family, self.client(), &command);
    }

    /// Leaves, and checks the connection: a client that stays connected gets `nothing` or the error
    /// `UNBLOCKED`.
    #[track_caller]
    pub fn leave(&mut self, control: &mut Client, family: &str, nothing: &Value) {
        let before = waiters(control, family);
        let unblock = format!("CLIENT UNBLOCK {}", self.id);
        match self.exit {
            Exit::TimeOut => assert_eq!(self.client().read(), *nothing),
            Exit::Close | Exit::Reset => {
                self.client = None;
                let gone = || waiters(control, family) < before;
                return eventually(SOON, "the server sees that the connection has ended", gone);
            }
            Exit::Kill => {
                assert_eq!(control.run(format!("CLIENT KILL ID {}", self.id)), Value::Int(1));
                assert_eq!(self.client().try_read(SOON), Err(Silence::Closed));
                return;
            }
            Exit::UnblockTimeOut => {
                assert_eq!(control.run(format!("{unblock} TIMEOUT")), Value::Int(1));
                assert_eq!(self.client().read(), *nothing);
            }
            Exit::UnblockError => {
                assert_eq!(control.run(format!("{unblock} ERROR")), Value::Int(1));
                assert!(self.client().read().is_error_with("UNBLOCKED "));
            }
        }
        assert_eq!(self.client().run("PING"), simple("PONG"), "more came");
    }

    /// Reads the reply of the wait and checks that no other follows.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        if self.exit == Exit::Reset {
            assert_eq!(self.client().read(), simple("PONG"));
        }
        let reply = self.client().read();
        assert_eq!(self.client().run("PING"), simple("PONG"), "more came");
        reply
    }
}

/// Waits until the kernel has closed the server's side of the connections from these ports, whether or
/// not the server, which may be stopped, has noticed.
#[track_caller]
pub fn wait_ended(server: &Server, ports: &[u16]) {
    const CLOSE_WAIT: &str = "08";
    let port = |address: &str| {
        let (_, port) = address.split_once(':').expect("an address");
        u16::from_str_radix(port, 16).expect("a port")
    };
    eventually(SOON, "the connections have ended", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a list of sockets");
        // Local address, remote address, state. Connections that were reset are no longer listed.
        let ended = |line: &str| match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [_, local, remote, state, ..] => {
                port(local) != server.port()
                    || !ports.contains(&port(remote))
                    || state == CLOSE_WAIT
            }
            _ => panic!("{line}"),
        };
        sockets.lines().skip(1).all(ended)
    });
}
