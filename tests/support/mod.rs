//! Fixtures: real servers on this machine's loopback, and a client that sees exact wire types.
//!
//! ```ignore
//! mod support;
//! use support::*;
//!
//! #[test]
//! fn a_released_lock_goes_to_the_client_that_waits() {
//!     let server = Server::start();
//!     let mut holder = server.client();
//!     let mut waiter = server.client();
//!
//!     assert_eq!(holder.run("LOCK.ACQUIRE job me 10000"), int(1));
//!     waiter.send("LOCK.ACQUIRE job you 10000 BLOCK 5000");
//!     wait_blocked(&server, 1);
//!
//!     assert_eq!(holder.run("LOCK.RELEASE job me"), int(1));
//!     assert_eq!(waiter.read(), int(1));
//!     assert_eq!(holder.cmd(&args!["LOCK.EXTEND", "job", b"\0binary", 1000]), int(0));
//! }
//! ```
//!
//! Every wait has a deadline. Everything that was started stops when its value is dropped, when the
//! test panics, and when the test process dies. A server that crashed, or logged that it would, fails
//! the test that dropped it.
//!
//! `server` starts and stops servers, `client` talks to them, `value` is what they reply,
//! `replication` sees what they propagate, `keyspace` what they hold, `cluster` puts several together;
//! `process` is what they need of the machine, `clock` a wall clock that can be set. `waiting`, `task`
//! and `lock` are helpers for tests of these, `family` is the table of the families, `described` is what
//! the server knows of a command, `hostile` is the table of hostile arguments.
#![allow(dead_code, unused_imports)]

mod asserted;
pub mod cached;
mod client;
mod clock;
mod cluster;
pub mod compare;
pub mod consumers;
mod described;
mod family;
mod hostile;
mod keyspace;
pub mod lock;
mod process;
mod replication;
mod server;
mod task;
mod value;
mod waiting;

pub use asserted::{
    call_changes_nothing, changes_nothing, grows_by_less_than, info_of, run_all, total,
};
pub(crate) use client::args;
pub use client::{Arg, Client, Silence, encode};
pub use clock::WallClock;
pub use cluster::{Cluster, Reshard, slot_of};
pub use described::{CommandInfo, command_info, command_syntax, words};
pub use family::{FAMILIES, Family, Line};
pub use hostile::{
    Beyond, Form, Kind, assert_forms_succeed, assert_hostile_arguments_are_harmless,
    assert_the_number_of_arguments_is_checked, assert_times_have_an_end,
};
pub use keyspace::{Keyspace, contents};
pub use lock::BAD_FENCE;
pub use process::{Port, allow_many_files, python_with, spawn};
pub use replication::{Command, ReplicationTap, aof_commands, wait_in_sync};
pub use server::{
    Builder, Server, blocked_clients, info, module_path, server_binary, wait_blocked,
};
pub use task::{Delivered, Lease, Task, id_ms, priority_stream};
pub use value::{
    Value, WRONG_TYPE, array, bulk, error, int, map, nil, nil_array, null, ok, parse, simple,
};
pub use waiting::{
    Checked, EXITS, Exit, Leaver, NO_MASTER, Random, SEND_AWAY, assert_unblocked, calls_during,
    ids_by_port, in_transaction, send_and_wait, shuffled, stand, wait_ended, wait_past, waiters,
};

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long fixtures wait for what happens soon: much longer than it takes, for busy machines.
pub const SOON: Duration = Duration::from_secs(20);

/// How long a poll waits before it looks again.
const POLL: Duration = Duration::from_millis(5);

/// What a condition polled by [`eventually`] returns: `true`, or `Some` of what it found.
pub trait Outcome {
    /// What a condition that holds returns.
    type Found;
    /// `Some` once the condition holds.
    fn found(self) -> Option<Self::Found>;
}

impl Outcome for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Outcome for Option<T> {
    type Found = T;
    fn found(self) -> Option<T> {
        self
    }
}

/// Polls until `condition` holds and returns what it found; panics with `what` when `deadline` has
/// passed: `eventually(SOON, "the key expires", || client.run("EXISTS k") == int(0))`.
#[track_caller]
pub fn eventually<O: Outcome>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> O,
) -> O::Found {
    let end = Instant::now() + deadline;
    loop {
        let last = Instant::now() >= end;
        if let Some(found) = condition().found() {
            return found;
        }
        assert!(!last, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// The time of this machine, which is also the servers', in milliseconds since 1970.
pub fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    i64::try_from(elapsed.as_millis()).expect("the time fits an integer")
}
