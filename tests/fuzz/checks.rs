//! What must hold after a round: no client waits, no panic was caught, the server is still the same
//! process, master, replica and append-only file agree, and the module can be unloaded.

use super::grammar::{Command, library};
use super::world::{World, is_own};
use crate::support::{
    Client, Server, Value, args, encode, eventually, info, module_path, now_ms, ok,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a condition may take to hold on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(50);

/// The process of a server.
pub fn identity(server: &Server) -> (u32, Option<String>) {
    (server.pid(), info(server, "server", "run_id"))
}

/// Resets what the commands and the operator may have changed.
pub fn prepare(world: &World, flush: bool) {
    let mut client = world.master.client();
    for setting in [
        "maxmemory 0 maxmemory-policy noeviction",
        "min-replicas-to-write 0",
        "corral.wake-bytes 8388608",
        "corral.fence-ttl-ms 86400000",
        "corral.task-tries 20",
        "corral.task-lease-ms 300000",
        "hz 10",
        "stream-node-max-entries 100",
        "notify-keyspace-events KEA",
    ] {
        let set = client.run(format!("CONFIG SET {setting}"));
        assert_eq!(set, ok(), "{setting}");
    }
    client.run("DEBUG SET-ACTIVE-EXPIRE 1");
    client.run("CLIENT UNPAUSE");
    if flush {
        assert_eq!(client.run("FLUSHALL"), ok());
    }
    let loaded = client.cmd(&library());
    assert!(!loaded.is_error(), "{loaded:?}");
    rewrite(world);
}

/// Rewrites the append-only file.
fn rewrite(world: &World) {
    let mut client = world.master.client();
    let idle = |client: &mut Client| {
        let fields = ["aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress"];
        fields.iter().all(|field| client.info("persistence", field).as_deref() == Some("0"))
    };
    eventually(SOON, "no child process is at work", || idle(&mut client));
    // The server may have started one by itself.
    eventually(SOON, "a rewrite begins", || !client.run("BGREWRITEAOF").is_error());
    eventually(SOON, "the append-only file is rewritten", || idle(&mut client));
    let status = client.info("persistence", "aof_last_bgrewrite_status");
    assert_eq!(status.as_deref(), Some("ok"), "of the rewrite");
}

/// Checks that the clients blocked in commands of the module are those in its lines: no client is
/// blocked after its reply, and none is counted after it has left. While replies are on their way
/// the numbers may differ for a moment.
pub fn blocked_clients_are_in_line(world: &World) {
    let mut client = world.master.client();
    let end = Instant::now() + SOON;
    loop {
        client.pipeline(&["MULTI", "INFO corral", "CLIENT LIST"]);
        let replies = client.run("EXEC");
        let [info, list] = replies.items() else { panic!("no transaction: {replies:?}") };
        let in_line: usize = (info.as_str().lines())
            .filter_map(|line| line.split_once("_waiters:")?.1.parse::<usize>().ok())
            .sum();
        let list = String::from_utf8_lossy(list.bytes()).into_owned();
        let waits = |line: &&str| {
            let field = |name| line.split(' ').find_map(|field| field.strip_prefix(name));
            let command = field("cmd=").unwrap_or_default().to_ascii_uppercase();
            is_own(command.as_bytes()) && field("flags=").is_some_and(|flags| flags.contains('b'))
        };
        let blocked: Vec<_> = list.lines().filter(waits).collect();
        if in_line == blocked.len() {
            return;
        }
        let (count, blocked) = (blocked.len(), blocked.join("\n"));
        let what = format!("{count} are blocked, {in_line} are in line");
        assert!(Instant::now() < end, "{what}:\n{blocked}");
        std::thread::sleep(POLL);
    }
}

/// Checks that no client waits, that no lease is tied to a connection and that the module has caught no panic.
pub fn no_client_waits(world: &World) {
    let mut client = world.master.client();
    let fields = [
        ("clients", "blocked_clients"),
        ("corral", "corral_cache_waiters"),
        ("corral", "corral_lock_waiters"),
        ("corral", "corral_task_waiters"),
        ("corral", "corral_cache_ties"),
        ("corral", "corral_lock_ties"),
        ("corral", "corral_task_ties"),
    ];
    for (section, field) in fields {
        let end = Instant::now() + SOON;
        loop {
            let value = client.info(section, field);
            if value.as_deref() == Some("0") {
                break;
            }
            let list = || client_list(world);
            assert!(Instant::now() < end, "{field} is {value:?}, not 0\n{}", list());
            std::thread::sleep(POLL);
        }
    }
    assert_eq!(client.info("corral", "corral_panics").as_deref(), Some("0"), "caught panics");
}

fn client_list(world: &World) -> String {
    String::from_utf8_lossy(world.master.client().run("CLIENT LIST").bytes()).into_owned()
}

/// What a server holds: expire time and value by database and key.
type Dataset = BTreeMap<(i64, Vec<u8>), (i64, String)>;

/// Checks that the replica and the append-only file hold the same as the master.
///
/// Keys that expire during the comparison are left out. Everything else must become the same;
/// timers may still be at work at first.
///
/// `DEBUG RELOAD` and `LOADAOF` drop expired keys without replicating that. A replica still has
/// them, and the next write there changes the old value. A demoted master loses what it had not
/// sent. After these (`reloaded`), replica and file start again from the data of the master.
pub fn all_agree(world: &mut World, reloaded: bool) {
    if reloaded {
        start_over(world);
    }
    let end = Instant::now() + SOON;
    loop {
        let (master, replica) = (dataset(&world.master), dataset(&world.replica));
        if let Some(difference) = difference(&master, &replica) {
            assert!(Instant::now() < end, "master and replica differ\n{difference}");
            std::thread::sleep(POLL);
            continue;
        }
        break;
    }
    // Later changes are in the next copy.
    loop {
        load_append_only_file(world);
        let (master, reader) = (dataset(&world.master), dataset(&world.reader));
        let Some(difference) = difference(&master, &reader) else { return };
        assert!(Instant::now() < end, "master and append-only file differ\n{difference}");
    }
}

/// Lets the replica synchronize again and rewrites the file.
fn start_over(world: &World) {
    let mut replica = world.replica.client();
    assert_eq!(replica.run("REPLICAOF NO ONE"), ok());
    assert_eq!(replica.run("FLUSHALL"), ok());
    assert_eq!(world.master.client().run("DEBUG CHANGE-REPL-ID"), ok());
    let port = world.master.port();
    assert_eq!(replica.run(format!("REPLICAOF 127.0.0.1 {port}")), ok());
    eventually(SOON, "the replica follows again", || {
        replica.info("replication", "master_link_status").as_deref() == Some("up")
    });
    rewrite(world);
}

/// Starts the server without the module with a copy of the master's append-only file.
fn load_append_only_file(world: &mut World) {
    const DIR: &str = "appendonlydir";
    world.reader.kill9();
    let (from, to) = (world.master.dir().join(DIR), world.reader.dir().join(DIR));
    fs::remove_dir_all(&to).unwrap_or_default();
    copy_dir(&from, &to);
    world.reader.restart();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list a directory") {
        let entry = entry.expect("an entry of a directory");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy a file");
    }
}

fn dataset(server: &Server) -> Dataset {
    let mut client = server.client();
    let keyspace = client.run("INFO keyspace");
    let keyspace = String::from_utf8_lossy(keyspace.bytes()).into_owned();
    let dbs = keyspace.lines().filter_map(|line| line.strip_prefix("db")?.split(':').next());
    let mut all = Dataset::new();
    for db in dbs.filter_map(|db| db.parse::<i64>().ok()) {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        let names = client.run("KEYS *");
        for name in names.items().iter().map(Value::bytes) {
            let end = client.cmd(&args!["PEXPIRETIME", name]).as_int();
            // It may have expired by now.
            if end >= -1 {
                all.insert((db, name.to_vec()), (end, describe(&mut client, name)));
            }
        }
    }
    all
}

/// A value, independent of its encoding.
fn describe(client: &mut Client, name: &[u8]) -> String {
    let kind = client.cmd(&args!["TYPE", name]);
    let mut sorted = |call: Vec<Vec<u8>>, size: usize| {
        let reply = client.cmd(&call);
        let mut items: Vec<_> =
            reply.items().chunks(size).map(|chunk| format!("{chunk:?}")).collect();
        items.sort_unstable();
        items.concat()
    };
    let value = match kind.as_str() {
        "string" => format!("{:?}", client.cmd(&args!["GET", name])),
        "list" => format!("{:?}", client.cmd(&args!["LRANGE", name, 0, -1])),
        "set" => sorted(args!["SMEMBERS", name].to_vec(), 1),
        "hash" => sorted(args!["HGETALL", name].to_vec(), 2),
        "zset" => format!("{:?}", client.cmd(&args!["ZRANGE", name, 0, -1, "WITHSCORES"])),
        "stream" => {
            let stream = client.cmd(&args!["XINFO", "STREAM", name, "FULL", "COUNT", 0]);
            if stream.is_error() {
                return format!("{stream:?}");
            }
            let known = ["last-generated-id", "entries"].map(|field| stream.get(field).clone());
            let groups = stream.get("groups").items().iter();
            // Not every server replicates when a consumer was seen and how many entries a group has
            // read.
            let fields = ["name", "last-delivered-id", "pending"];
            let groups = groups.map(|group| fields.map(|field| group.get(field).clone()));
            format!("{known:?} {:?}", groups.collect::<Vec<_>>())
        }
        _ => format!("{:?}", client.cmd(&args!["DUMP", name])),
    };
    format!("{} {value}", kind.as_str())
}

/// The differences, without expired keys.
fn difference(left: &Dataset, right: &Dataset) -> Option<String> {
    let now = now_ms();
    let lives = |entry: Option<&(i64, String)>| entry.is_none_or(|(end, _)| *end < 0 || *end > now);
    let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut differences = String::new();
    for key in keys {
        let (one, other) = (left.get(key), right.get(key));
        if one != other && lives(one) && lives(other) {
            let show = |entry: Option<&(i64, String)>| match entry {
                None => "nothing".into(),
                Some((end, value)) => {
                    format!("until {end}: {}", value.chars().take(4_000).collect::<String>())
                }
            };
            differences.push_str(&format!(
                "db {} {}\n  {}\n  {}\n",
                key.0,
                key.1[..key.1.len().min(80)].escape_ascii(),
                show(one),
                show(other)
            ));
        }
    }
    (!differences.is_empty()).then_some(differences)
}

/// Unloads the module and loads it again, over a new connection.
///
/// All others are closed: Redis 8.0 and later crash at the next command of a connection whose last
/// command was one of an unloaded module, and every server does if one is queued in a transaction.
pub fn the_module_is_unloaded(world: &World) {
    let mut client = world.master.client();
    eventually(SOON, "the other connections are closed", || {
        let list = client.run("CLIENT LIST TYPE normal");
        String::from_utf8_lossy(list.bytes()).lines().count() == 1
    });
    let mut refusal = Value::Null;
    eventually(SOON, &format!("the module is unloaded: {refusal:?}"), || {
        refusal = client.run("MODULE UNLOAD corral");
        refusal == ok()
    });
    assert!(client.run("COMMAND INFO lock.acquire").items()[0].is_nil(), "its commands are gone");
    let load = args!["MODULE", "LOAD", module_path().display().to_string()];
    assert_eq!(client.cmd(&load), ok(), "the module is loaded again");
}

/// Whether a server knows a command. Tries it.
pub fn knows(client: &mut Client, command: &Command) -> bool {
    let mut request = Vec::new();
    encode(&mut request, command);
    client.send_raw(&request);
    let reply = client.read();
    let refused =
        ["unknown command", "syntax error", "wrong number", "Invalid stream ID", "Unbalanced"];
    let text = if reply.is_error() { String::from_utf8_lossy(reply.bytes()) } else { "".into() };
    !refused.iter().any(|why| text.contains(why))
}
