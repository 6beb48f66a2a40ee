//! The three families of commands as a waiting client sees them, in one table, so that what holds for
//! all of them is tested once: a test loops over [`FAMILIES`] and plays its scene with a [`Line`].

use super::client::Client;
use super::server::Server;
use super::value::{Value, array, int, nil, nil_array, null, ok, simple};
use super::waiting::{Exit, Leaver, send_and_wait, stand, waiters};
use super::{SOON, eventually, run_all};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One family: a command that waits for one name, and what other clients do to that name.
pub struct Family {
    /// Its name in the counters: `corral_<name>_waiters`.
    pub name: &'static str,
    /// The command that waits, as ACL rules spell it.
    pub command: &'static str,
    /// The key that the command names.
    pub key: &'static str,
    /// Commands that take what the clients wait for.
    pub occupy: &'static [&'static str],
    /// The request of client `number`, which does not wait. See [`Line::request`].
    pub request: fn(usize) -> String,
    /// The module's command that serves the first waiter at once, given the present holder.
    hand_over: fn(&str) -> String,
    /// A plain command after which the module's timer serves the first waiter.
    pub free: &'static str,
    /// Puts a key of another type in the place of the one that the clients wait for.
    pub spoil: &'static [&'static str],
    /// Whether the first waiter is served when the database is emptied.
    pub served_by_flush: bool,
    /// Whether it is served when the data is loaded again.
    pub served_by_reload: bool,
    /// The reply of a request that was not served, in RESP2.
    pub nothing: fn() -> Value,
    /// The same in RESP3.
    pub nothing3: fn() -> Value,
    /// Whether a reply that is neither an error nor `nothing` serves the request.
    serves: fn(&Value) -> bool,
}

/// All families.
pub const FAMILIES: [Family; 3] = [
    Family {
        name: "cache",
        command: "cache.fetch",
        key: "k",
        occupy: &["CACHE.FETCH k 600000"],
        request: |_| "CACHE.FETCH k 600000".into(),
        hand_over: |_| "CACHE.INVALIDATE k".into(),
        // A write and a deletion by another client end the lease.
        free: "EVAL redis.call('SET',KEYS[1],'x')redis.call('DEL',KEYS[1]) 1 k",
        spoil: &["DEL k", "LPUSH k x"],
        served_by_flush: true,
        served_by_reload: true,
        nothing: || array([simple("WAIT"), nil(), nil()]),
        nothing3: || array([simple("WAIT"), null(), null()]),
        serves: |reply| {
            reply.items()[0] == simple("HIT")
                || reply.items()[0] == simple("LOAD") && reply.items()[2].as_int() > 0
        },
    },
    Family {
        name: "lock",
        command: "lock.acquire",
        key: "job",
        occupy: &["LOCK.ACQUIRE job me 600000"],
        request: |number| format!("LOCK.ACQUIRE job w{number} 600000"),
        hand_over: |holder| format!("LOCK.RELEASE job {holder}"),
        free: "DEL lock:{job}",
        spoil: &["DEL lock:{job}", "LPUSH lock:{job} x"],
        served_by_flush: true,
        served_by_reload: false,
        nothing: || int(0),
        nothing3: || int(0),
        serves: |reply| *reply == int(1),
    },
    Family {
        name: "task",
        command: "task.consume",
        key: "q",
        occupy: &[],
        request: |number| format!("TASK.CONSUME g w{number} q"),
        hand_over: |_| "TASK.PUBLISH q p".into(),
        free: "XADD q * payload p",
        spoil: &["DEL q", "SET q x"],
        served_by_flush: false,
        served_by_reload: false,
        nothing: nil_array,
        nothing3: null,
        serves: |reply| reply.task_payloads() == ["p"],
    },
];

impl Family {
    /// Whether a reply serves the request.
    pub fn is_served(&self, reply: &Value) -> bool {
        !reply.is_error() && !self.is_nothing(reply) && (self.serves)(reply)
    }

    /// The reply serves the request.
    #[track_caller]
    pub fn assert_served(&self, reply: &Value) {
        assert!(self.is_served(reply), "{} is not served: {reply:?}", self.name);
    }

    /// Whether this is the reply of a request that was not served, in either protocol.
    pub fn is_nothing(&self, reply: &Value) -> bool {
        *reply == (self.nothing)() || *reply == (self.nothing3)()
    }
}

/// What the clients of one family wait for, in one database: it is taken, so they wait in line.
pub struct Line<'a> {
    /// The family.
    pub family: &'a Family,
    /// A connection that does not wait.
    pub control: Client,
    server: &'a Server,
    db: usize,
    /// The number of client 0 among those of all lines: a lock knows its clients by identifiers.
    first: usize,
    /// Who has the lock.
    holder: String,
}

impl<'a> Line<'a> {
    /// An empty line in database 0.
    #[track_caller]
    pub fn new(server: &'a Server, family: &'a Family) -> Self {
        Self::in_db(server, family, 0)
    }

    /// An empty line in a database.
    #[track_caller]
    pub fn in_db(server: &'a Server, family: &'a Family, db: usize) -> Self {
        let mut control = server.client_in(db);
        run_all(&mut control, family.occupy);
        Self { family, control, server, db, first: unused_numbers(), holder: "me".into() }
    }

    /// Empties the server and begins anew, with clients that have not waited before.
    #[track_caller]
    pub fn renew(&mut self) {
        run_all(&mut self.control, &["FLUSHALL"]);
        run_all(&mut self.control, self.family.occupy);
        self.first = unused_numbers();
        self.holder = "me".into();
    }

    /// The request of client `number`, which does not wait.
    pub fn request(&self, number: usize) -> String {
        (self.family.request)(self.first + number)
    }

    /// The request of client `number` that waits for at most `ms`; without end if that is 0.
    pub fn wait(&self, number: usize, ms: u32) -> String {
        format!("{} BLOCK {ms}", self.request(number))
    }

    /// A line for each family.
    #[track_caller]
    pub fn of_each_family(server: &'a Server) -> [Self; 3] {
        FAMILIES.each_ref().map(|family| Self::new(server, family))
    }

    /// A new connection that waits as client `number`.
    #[track_caller]
    pub fn join(&mut self, number: usize) -> Client {
        let mut client = self.server.client_in(self.db);
        self.join_with(&mut client, number);
        client
    }

    /// Has a connection wait as client `number`.
    #[track_caller]
    pub fn join_with(&mut self, client: &mut Client, number: usize) {
        self.wait_with(client, number, 0);
    }

    /// Has a connection wait as client `number` for at most `ms`, which must not end before it is
    /// seen to wait.
    #[track_caller]
    pub fn wait_with(&mut self, client: &mut Client, number: usize, ms: u32) {
        let command = self.wait(number, ms);
        send_and_wait(&mut self.control, self.family.name, client, &command);
    }

    /// The clients 0, 1, … in line, in this order.
    #[track_caller]
    pub fn form(&mut self, count: usize) -> Vec<Client> {
        let before = self.waiting();
        let mut clients = self.server.clients(count);
        for (number, client) in clients.iter_mut().enumerate() {
            if self.db != 0 {
                assert_eq!(client.run(format!("SELECT {}", self.db)), ok());
            }
            let command = self.wait(number, 0);
            stand(client, &command);
        }
        self.wait_waiting(before + count);
        clients
    }

    /// The clients 0, 1, … in line, each of which may leave in its way; a time-out takes `ms`.
    #[track_caller]
    pub fn form_leavers(&mut self, exits: impl IntoIterator<Item = Exit>, ms: u32) -> Vec<Leaver> {
        let mut leavers = Vec::new();
        for (number, exit) in exits.into_iter().enumerate() {
            let mut leaver = Leaver::connect(self.server, exit);
            self.wait_as(&mut leaver, number, ms);
            leavers.push(leaver);
        }
        leavers
    }

    /// Has a client that may leave wait as client `number`.
    #[track_caller]
    pub fn wait_as(&mut self, leaver: &mut Leaver, number: usize, ms: u32) {
        let command = format!("{} BLOCK", self.request(number));
        leaver.wait(&mut self.control, self.family.name, &command, ms);
    }

    /// Has a client leave in its way.
    #[track_caller]
    pub fn leave(&mut self, leaver: &mut Leaver) {
        leaver.leave(&mut self.control, self.family.name, &(self.family.nothing)());
    }

    /// The module's command that serves the first in line, which is client `number`. Run it before
    /// the next is asked for.
    pub fn hand_over(&mut self, number: usize) -> String {
        let command = (self.family.hand_over)(&self.holder);
        self.went_to(number);
        command
    }

    /// Serves client `number`, the first in line, by a command of the module.
    #[track_caller]
    pub fn serve(&mut self, number: usize) {
        let command = self.hand_over(number);
        run_all(&mut self.control, &[command]);
    }

    /// The plain command after which client `number`, the first in line, is served.
    pub fn free(&mut self, number: usize) -> &'static str {
        self.went_to(number);
        self.family.free
    }

    /// Has client `number`, the first in line, served after a plain command of another client.
    #[track_caller]
    pub fn serve_by_foreigner(&mut self, number: usize) {
        let command = self.free(number);
        run_all(&mut self.control, &[command]);
    }

    /// Client `number` has been served without a command of this line.
    pub fn went_to(&mut self, number: usize) {
        self.holder = format!("w{}", self.first + number);
    }

    /// Reads the reply that serves a client, and nothing behind it.
    #[track_caller]
    pub fn assert_served(&self, client: &mut Client) {
        self.family.assert_served(&client.read());
        assert_eq!(client.run("PING"), simple("PONG"), "{}: more came", self.family.name);
    }

    /// How many clients of the family wait.
    #[track_caller]
    pub fn waiting(&mut self) -> usize {
        waiters(&mut self.control, self.family.name)
    }

    /// Waits until so many clients of the family wait.
    #[track_caller]
    pub fn wait_waiting(&mut self, count: usize) {
        let what = format!("{count} clients wait");
        eventually(SOON, &what, || self.waiting() == count);
    }
}

/// The first of a million numbers that no other line uses.
fn unused_numbers() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1_000_000);
    NEXT.fetch_add(1_000_000, Ordering::Relaxed)
}
