//! Helpers of the tests of locks, most of which are about the lock `job`:
//! `use support::lock::*;`.

use super::client::Client;
use super::server::Server;
use super::value::{Value, int, ok, simple};
use super::waiting::{in_transaction, send_and_wait, waiters};

/// The error where the last fencing token cannot be followed by another.
pub const BAD_FENCE: &str = "ERR the last fencing token of this lock is not a valid token";

/// The key of the lock `job`.
pub const KEY: &str = "lock:{job}";
/// The key of its last fencing token.
pub const FENCE: &str = "fence:{job}";

/// A lease that does not end during a test.
pub const LONG: i64 = 600_000;
/// How late a grant may be on a busy machine.
pub const LATE: i64 = 2000;
/// How long an identifier keeps its rank after its request has timed out.
pub const RANK_KEPT: i64 = 1000;

/// A request for a lock that waits without end.
pub fn ask(name: &str, identifier: &str, ttl: i64, options: &str) -> String {
    format!("LOCK.ACQUIRE {name} {identifier} {ttl} {options} BLOCK 0")
}

/// Takes the lock `job`, which is free for this request.
#[track_caller]
pub fn take(client: &mut Client, identifier: &str, ttl: i64, options: &str) {
    let reply = client.run(format!("LOCK.ACQUIRE job {identifier} {ttl} {options}"));
    assert!(matches!(reply, Value::Int(1..)), "{identifier}: {reply:?}");
}

/// As [`take`]; returns the end of the lease.
#[track_caller]
pub fn take_until(client: &mut Client, identifier: &str, ttl: i64, options: &str) -> i64 {
    let take = format!("LOCK.ACQUIRE job {identifier} {ttl} {options}");
    ends_after(client, &[take])
}

/// Runs commands of a holder of the lock `job` in one transaction, so that a brief lease does not
/// expire between them; returns when the key expires.
#[track_caller]
pub fn ends_after(client: &mut Client, commands: &[impl AsRef<str>]) -> i64 {
    let commands = commands.iter().map(|command| command.as_ref().to_owned());
    let commands: Vec<_> = commands.chain([format!("PEXPIRETIME {KEY}")]).collect();
    let replies = in_transaction(client, &commands);
    let (end, replies) = replies.split_last().expect("replies");
    assert!(replies.iter().all(|reply| *reply == int(1) || *reply == ok()), "{replies:?}");
    end.as_int()
}

/// Extends the lease of the holder of the lock `job`, or shortens it; returns its end.
#[track_caller]
pub fn extend(client: &mut Client, identifier: &str, ttl: i64) -> i64 {
    ends_after(client, &[format!("LOCK.EXTEND job {identifier} {ttl}")])
}

/// Releases the lock `job`.
#[track_caller]
pub fn release(client: &mut Client, identifier: &str) {
    assert_eq!(client.run(format!("LOCK.RELEASE job {identifier}")), int(1), "{identifier}");
}

/// A client that waits for the lock `job`, to hold it for long.
#[track_caller]
pub fn waiter(server: &Server, identifier: &str, options: &str) -> Client {
    waiter_with(server, &ask("job", identifier, LONG, options))
}

/// A client that waits with this command.
#[track_caller]
pub fn waiter_with(server: &Server, command: &str) -> Client {
    let mut client = server.client();
    send_and_wait(&mut server.client(), "lock", &mut client, command);
    client
}

/// Clients that wait for the lock `job` in this order: identifiers and modes.
#[track_caller]
pub fn line<const N: usize>(server: &Server, waiters: [(&str, &str); N]) -> [Client; N] {
    waiters.map(|(identifier, options)| waiter(server, identifier, options))
}

/// Reads one reply and checks that no other follows.
#[track_caller]
pub fn only_reply(client: &mut Client) -> Value {
    let reply = client.read();
    assert_eq!(client.run("PING"), simple("PONG"), "more came");
    reply
}

/// The client is granted the lock.
#[track_caller]
pub fn assert_granted(client: &mut Client) {
    assert_eq!(only_reply(client), int(1));
}

/// How many clients wait for locks.
#[track_caller]
pub fn waiting(server: &Server) -> usize {
    waiters(&mut server.client(), "lock")
}

/// So many clients still wait once the server has done all that it does at once.
#[track_caller]
pub fn assert_still_waiting(server: &Server, count: usize) {
    // There are no replicas, so this takes 20 ms: longer than the module's timer.
    assert!(matches!(server.client().run("WAIT 1000 20"), Value::Int(_)));
    assert_eq!(waiting(server), count);
}

/// When a holder was granted a lease of `ttl` ms, by the server's clock.
#[track_caller]
pub fn granted_at(client: &mut Client, key: &str, identifier: &str, ttl: i64) -> i64 {
    client.lease_end(key, identifier) - ttl
}

/// A lock whose lease ended at `end` was granted after that, and soon.
#[track_caller]
pub fn assert_on_time(granted_at: i64, end: i64) {
    assert!(granted_at > end, "granted {} ms early", end + 1 - granted_at);
    assert!(granted_at <= end + LATE, "granted {} ms late", granted_at - end);
}

/// The holders of the lock `job` in alphabetical order.
#[track_caller]
pub fn sorted_holders(client: &mut Client) -> Vec<String> {
    let mut holders = client.lock_holders("job");
    holders.sort();
    holders
}

/// Turns off the server's active expiry, so that only the module's timer sees a lease end.
#[track_caller]
pub fn stop_active_expiry(server: &Server) {
    assert_eq!(server.client().run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
}

/// Unblocks a waiting client.
#[track_caller]
pub fn unblock(control: &mut Client, id: i64) {
    assert_eq!(control.run(format!("CLIENT UNBLOCK {id}")), int(1));
}

impl Client {
    /// The identifiers of the holders of a lock, in the order in which their leases end.
    #[track_caller]
    pub fn lock_holders(&mut self, name: &str) -> Vec<String> {
        let info = self.run(format!("LOCK.INFO {name}"));
        let id = |holder: &Value| holder.items()[0].as_str().to_owned();
        info.get("holders").items().iter().map(id).collect()
    }

    /// When the lease of a holder ends, in unix ms by the server's clock.
    #[track_caller]
    pub fn lease_end(&mut self, key: &str, identifier: &str) -> i64 {
        if self.cmd(&["TYPE", key]).as_str() == "string" {
            assert_eq!(self.cmd(&["GET", key]).as_str(), identifier);
            return self.cmd(&["PEXPIRETIME", key]).as_int();
        }
        let score = self.cmd(&["ZSCORE", key, identifier]);
        score.as_str().parse().unwrap_or_else(|_| panic!("{identifier} has no lease: {score:?}"))
    }

    /// The server's clock in unix ms.
    #[track_caller]
    pub fn time_ms(&mut self) -> i64 {
        self.run("TIME").unix_ms()
    }
}

impl Value {
    /// A reply of `TIME` in unix ms.
    #[track_caller]
    pub fn unix_ms(&self) -> i64 {
        let number = |part: usize| self.items()[part].as_str().parse::<i64>().expect("a number");
        number(0) * 1000 + number(1) / 1000
    }
}
