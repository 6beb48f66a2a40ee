//! All data of a server as one value to compare: whether a command changed anything, and whether two
//! servers hold the same.

use super::client::{Client, args};
use super::server::Server;
use super::value::Value;
use std::collections::BTreeMap;

/// The selected database: each key with its `DUMP` and expiry time, and the server's count of changes.
/// Take it while nothing is about to expire.
#[derive(Debug, PartialEq)]
pub struct Keyspace {
    keys: BTreeMap<Vec<u8>, (Value, i64)>,
    changes: String,
}

impl Keyspace {
    /// The database as it is now.
    #[track_caller]
    pub fn of(client: &mut Client) -> Self {
        let names = client.run("KEYS *");
        let mut keys = BTreeMap::new();
        // Pipelined, since this is done thousands of times.
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

    /// Whether every key is the same, even if it was written again with the same value.
    pub fn has_the_data_of(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// The data of a server as a client without the module reads it: every key with its type, expiry time
/// and value; of a stream its entries and pending entries. Unlike a dump it does not depend on the
/// server's version.
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
            // The fields of a large hash have no order.
            "hash" => {
                let fields = c.cmd(&args!["HGETALL", name]);
                let pairs = fields.items().chunks_exact(2);
                let mut pairs: Vec<_> = pairs.map(|pair| format!("{pair:?}")).collect();
                pairs.sort();
                format!("{pairs:?}")
            }
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
