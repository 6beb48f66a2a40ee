//! All that a server holds, as one value to compare: whether a command has changed anything, and
//! whether two servers hold the same.

use super::client::{Client, args};
use super::server::Server;
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
        // All are asked for before the first answer is read: this is done thousands of times.
        for name in names.items() {
            client.send_args(&args!["DUMP", name.bytes()]);
            client.send_args(&args!["PEXPIRETIME", name.bytes()]);
        }
        for name in names.items() {
            let (value, end) = (client.read(), client.read().as_int());
            keys.insert(name.bytes().to_vec(), (value, end));
        }
        let changes = client.info("persistence", "rdb_changes_since_last_save");
        Self { keys, changes: changes.expect("INFO counts changes") }
    }

    /// Whether every key is the same, though something may have been written: its own value anew.
    pub fn has_the_data_of(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// What a server holds, as any client without the module reads it: every key with its type, the
/// time of its end and its value; of a stream its entries and who has got which of them since when.
/// Unlike a dump it is the same on every server that holds the same.
#[track_caller]
pub fn contents(server: &Server) -> Vec<String> {
    let mut c = server.client();
    let names = c.run("KEYS *");
    let mut names: Vec<_> = names.items().iter().map(Value::bytes).collect();
    names.sort_unstable();
    let mut describe = |name: &&[u8]| {
        let end = c.cmd(&args!["PEXPIRETIME", name]).as_int();
        let value = match c.cmd(&args!["TYPE", name]).as_str() {
            "string" => format!("{:?}", c.cmd(&args!["GET", name])),
            "zset" => format!("{:?}", c.cmd(&args!["ZRANGE", name, 0, -1, "WITHSCORES"])),
            "stream" => {
                let stream = c.cmd(&args!["XINFO", "STREAM", name, "FULL", "COUNT", 0]);
                let known = ["last-generated-id", "entries"].map(|field| stream.get(field).clone());
                let groups = stream.get("groups").items().iter();
                let fields = ["name", "last-delivered-id", "pending"];
                let groups = groups.map(|group| fields.map(|field| group.get(field).clone()));
                format!("{known:?} {:?}", groups.collect::<Vec<_>>())
            }
            _ => format!("{:?}", c.cmd(&args!["DUMP", name])),
        };
        format!("{} until {end}: {value}", name.escape_ascii())
    };
    names.iter().map(&mut describe).collect()
}
