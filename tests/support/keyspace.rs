//! All that a server holds, as one value to compare: whether a command has changed anything.

use super::client::{Client, args};
use super::value::Value;
use std::collections::BTreeMap;

/// Everything in the selected database: each key with its `DUMP` and the time of its end, and how
/// many changes the server has counted. Take it while nothing is about to expire.
#[derive(Debug, PartialEq)]
pub struct Keyspace {
    keys: BTreeMap<Vec<u8>, (Value, i64)>,
    changes: String,
}

impl Keyspace {
    /// What the server holds now.
    #[track_caller]
    pub fn of(client: &mut Client) -> Self {
        let names = client.run("KEYS *");
        let mut keys = BTreeMap::new();
        for name in names.items() {
            let name = name.bytes();
            let value = client.cmd(&args!["DUMP", name]);
            let end = client.cmd(&args!["PEXPIRETIME", name]).as_int();
            keys.insert(name.to_vec(), (value, end));
        }
        let changes = client.info("persistence", "rdb_changes_since_last_save");
        Self { keys, changes: changes.expect("INFO counts changes") }
    }
}
