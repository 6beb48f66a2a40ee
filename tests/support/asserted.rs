//! What tests of several families assert of a command: that it succeeds, changes nothing, or leaks no
//! memory; and the counters of the cache.

use super::client::{Client, spell};
use super::keyspace::Keyspace;
use super::value::Value;
use super::{SOON, eventually};

/// Runs commands, none of which may reply an error.
#[track_caller]
pub fn run_all(client: &mut Client, commands: &[impl AsRef<str>]) {
    for command in commands {
        let command = command.as_ref();
        let reply = client.run(command);
        assert!(!reply.is_error(), "{command}: {reply:?}");
    }
}

/// The command, written as one line, gets this reply and changes no key.
#[track_caller]
pub fn changes_nothing(client: &mut Client, line: &str, reply: Value) {
    call_changes_nothing(client, &line.split(' ').collect::<Vec<_>>(), reply);
}

/// As [`changes_nothing`], for a command of any bytes.
#[track_caller]
pub fn call_changes_nothing(client: &mut Client, call: &[impl AsRef<[u8]>], reply: Value) {
    let before = Keyspace::of(client);
    assert_eq!(client.cmd(call), reply, "{}", spell(call));
    assert_eq!(Keyspace::of(client), before, "{}", spell(call));
}

/// The server's memory grows by less than `most` bytes during `body`.
#[track_caller]
pub fn grows_by_less_than(client: &mut Client, most: i64, body: impl FnOnce(&mut Client)) {
    let used = |client: &mut Client| -> i64 {
        client.info("memory", "used_memory").expect("a number").parse().expect("a number")
    };
    let before = used(client);
    body(client);
    // Buffers of connections and lazy freeing take a while.
    eventually(SOON, "memory is given back", || used(client) < before + most);
}

/// A field of `CACHE.INFO`.
#[track_caller]
pub fn info_of(client: &mut Client, key: &str, field: &str) -> Value {
    client.run(format!("CACHE.INFO {key}")).get(field).clone()
}

/// A counter of the cache in `INFO corral`.
#[track_caller]
pub fn total(client: &mut Client, name: &str) -> i64 {
    let text = client.info("corral", &format!("corral_cache_{name}")).expect("a total");
    text.parse().expect("a number")
}
