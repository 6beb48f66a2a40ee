//! CACHE.FETCH and CACHE.SET remember which values have no record. What they remember is right however
//! a record comes into being: each test lets them learn that there is none, and then creates one.

mod support;
use support::cached::*;
use support::*;

/// A record that marks the value as stale, as another process of the module has left it.
const MARK: &str = "open 1 0 1 ";

/// The key of the record of `k`.
const RECORD: &str = "cachelock:{k}";

/// Stores `k`, and fetches it until the module knows all that it remembers of it.
fn learn(client: &mut Client, value: &str) {
    assert_eq!(client.cmd(&args!["SET", "k", value, "PX", 600_000]), ok());
    for _ in 0..3 {
        assert_eq!(client.run("CACHE.FETCH k 60000"), hit(value));
    }
}

/// A long value and a short one are read in different ways.
fn values() -> [String; 2] {
    ["v".repeat(300), "v".into()]
}

/// `k` is served as stale now: the next client loads.
#[track_caller]
fn is_marked(client: &mut Client, value: &str, how: &str) {
    let reply = client.run("CACHE.FETCH k 60000");
    assert_eq!(reply.items().first(), Some(&simple("LOAD")), "{how}: {reply:?}");
    token_beside(&reply, &bulk(value));
}

#[test]
fn a_record_is_noticed_however_it_is_created() {
    let server = Checked::start();
    let (mut client, mut other) = (server.client(), server.client());
    let script = "return redis.call('SET', KEYS[1], ARGV[1])";
    let dump = {
        client.cmd(&args!["SET", "mark", MARK]);
        client.run("DUMP mark").bytes().to_vec()
    };
    let ways: Vec<(&str, Vec<Vec<Vec<u8>>>)> = vec![
        ("SET", vec![args!["SET", RECORD, MARK].into()]),
        ("MSET", vec![args!["MSET", RECORD, MARK].into()]),
        ("SETNX", vec![args!["SETNX", RECORD, MARK].into()]),
        ("APPEND", vec![args!["APPEND", RECORD, MARK].into()]),
        ("SETRANGE", vec![args!["SETRANGE", RECORD, 0, MARK].into()]),
        ("RENAME", vec![args!["SET", "mark", MARK].into(), args!["RENAME", "mark", RECORD].into()]),
        ("COPY", vec![args!["SET", "mark", MARK].into(), args!["COPY", "mark", RECORD].into()]),
        ("RESTORE", vec![args!["RESTORE", RECORD, 0, dump].into()]),
        (
            "BITOP",
            vec![args!["SET", "mark", MARK].into(), args!["BITOP", "OR", RECORD, "mark"].into()],
        ),
        ("EVAL", vec![args!["EVAL", script, 1, RECORD, MARK].into()]),
        (
            "MULTI",
            vec![args!["MULTI"].into(), args!["SET", RECORD, MARK].into(), args!["EXEC"].into()],
        ),
        ("INVALIDATE", vec![args!["CACHE.INVALIDATE", "k", "STALE", 600_000].into()]),
    ];
    for value in values() {
        for (how, commands) in &ways {
            learn(&mut client, &value);
            for command in commands {
                let reply = other.cmd(command);
                assert!(!reply.is_error(), "{how}: {reply:?}");
            }
            is_marked(&mut client, &value, how);
            assert_eq!(client.run("FLUSHALL"), ok());
        }
        learn(&mut client, &value);
        // Not used again: Valkey 8.1 leaves it in the other database.
        let mut elsewhere = server.client_in(1);
        elsewhere.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(elsewhere.cmd(&args!["MOVE", RECORD, 0]), int(1));
        is_marked(&mut client, &value, "MOVE");
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_key_of_a_foreign_type_is_left_alone() {
    let server = Checked::start();
    let mut client = server.client();
    for command in [
        "LPUSH cachelock:{k} x",
        "SADD cachelock:{k} x",
        "HSET cachelock:{k} x x",
        "ZADD cachelock:{k} 1 x",
        "XADD cachelock:{k} * x x",
        "XGROUP CREATE cachelock:{k} g 0 MKSTREAM",
        "SORT list STORE cachelock:{k}",
        "ZUNIONSTORE cachelock:{k} 1 zset",
    ] {
        client.run("RPUSH list 1 2");
        client.run("ZADD zset 1 x");
        learn(&mut client, "v");
        assert!(!client.run(command).is_error(), "{command}");
        let before = client.run("DUMP cachelock:{k}");
        for fresh in ["CACHE.FETCH k 60000", "CACHE.SET k v 1000"] {
            client.run(fresh);
        }
        // Whatever needs a record is refused.
        for wrong in ["CACHE.INVALIDATE k STALE 1000", "CACHE.FETCH k 60000 STALE 2000"] {
            let reply = client.run(wrong);
            let refused = reply.is_error() && reply.as_str().starts_with("WRONGTYPE");
            assert!(refused, "{command}, {wrong}: {reply:?}");
        }
        assert_eq!(client.run("DUMP cachelock:{k}"), before, "{command}");
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_store_removes_a_record_that_came_later() {
    let server = Checked::start();
    let mut client = server.client();
    for value in values() {
        learn(&mut client, &value);
        client.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(client.cmd(&args!["CACHE.SET", "k", &value, 600_000]), ok());
        assert_eq!(client.cmd(&args!["EXISTS", RECORD]), int(0));
        assert_eq!(client.run("CACHE.FETCH k 60000"), hit(value.as_str()));
    }
}

#[test]
fn databases_are_kept_apart() {
    let server = Checked::start();
    let (mut zero, mut three) = (server.client(), server.client_in(3));
    for value in values() {
        learn(&mut zero, &value);
        learn(&mut three, &value);
        three.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(zero.run("CACHE.FETCH k 60000"), hit(value.as_str()));
        is_marked(&mut three, &value, "another database");
        learn(&mut zero, &value);
        three.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(three.run("SWAPDB 0 3"), ok());
        is_marked(&mut zero, &value, "SWAPDB");
        assert_eq!(zero.run("FLUSHALL"), ok());
        learn(&mut three, &value);
        assert_eq!(three.run("FLUSHDB"), ok());
        three.cmd(&args!["SET", "k", &value]);
        three.cmd(&args!["SET", RECORD, MARK]);
        is_marked(&mut three, &value, "FLUSHDB");
        assert_eq!(zero.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_record_is_noticed_that_a_load_brings_back() {
    let server = Checked::start();
    let mut client = server.client();
    for value in values() {
        client.cmd(&args!["SET", "k", &value]);
        client.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(client.run("SAVE"), ok());
        assert_eq!(client.cmd(&args!["DEL", RECORD]), int(1));
        learn(&mut client, &value);
        assert_eq!(client.run("DEBUG RELOAD NOSAVE"), ok());
        is_marked(&mut client, &value, "DEBUG RELOAD");
    }
}

#[test]
fn a_record_is_noticed_that_the_master_writes() {
    let (master, replica) = (Server::start(), Server::start());
    let (mut writer, mut reader) = (master.client(), replica.client());
    let port = master.port();
    for value in values() {
        // A full synchronization replaces the data.
        learn(&mut reader, &value);
        writer.cmd(&args!["SET", "k", &value]);
        writer.cmd(&args!["SET", RECORD, MARK]);
        assert_eq!(reader.run(format!("REPLICAOF 127.0.0.1 {port}")), ok());
        wait_in_sync(&master, &replica);
        let refused = |reply: Value| reply.is_error() && reply.as_str().starts_with("READONLY");
        assert!(refused(reader.run("CACHE.FETCH k 60000")));
        // The replica follows the master, and is promoted.
        writer.cmd(&args!["DEL", RECORD]);
        wait_in_sync(&master, &replica);
        for _ in 0..3 {
            assert_eq!(reader.run("CACHE.FETCH k 60000"), hit(value.as_str()));
        }
        // A replica keeps expired keys, and its master overwrites them.
        writer.cmd(&args!["SET", RECORD, MARK, "PX", 1]);
        wait_in_sync(&master, &replica);
        eventually(SOON, "the record expires", || {
            reader.run("CACHE.FETCH k 60000") == hit(value.as_str())
        });
        writer.cmd(&args!["SET", RECORD, MARK]);
        wait_in_sync(&master, &replica);
        assert!(refused(reader.run("CACHE.FETCH k 60000")));
        assert_eq!(reader.run("REPLICAOF NO ONE"), ok());
        is_marked(&mut reader, &value, "promotion");
    }
}

#[test]
fn the_server_counts_one_read_for_each_fetch() {
    let server = Checked::start();
    let mut client = server.client();
    let [long, short] = values();
    let mut reads = |command: &str, hits: i64, misses: i64| {
        let mut stat = |field: &str| {
            client.info("stats", field).and_then(|text| text.parse::<i64>().ok()).unwrap()
        };
        let before = [stat("keyspace_hits"), stat("keyspace_misses")];
        let reply = client.run(command);
        assert!(!reply.is_error(), "{command}: {reply:?}");
        let mut stat = |field: &str| {
            client.info("stats", field).and_then(|text| text.parse::<i64>().ok()).unwrap()
        };
        let after = [stat("keyspace_hits"), stat("keyspace_misses")];
        let counted = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(counted, [hits, misses], "{command}");
    };
    for value in [long.as_str(), short.as_str()] {
        reads(&format!("SET k {value} PX 60000"), 0, 0);
        for _ in 0..3 {
            reads("CACHE.FETCH k 60000", 1, 0);
            reads("CACHE.FETCH k 60000 STALE 10", 1, 0);
        }
        // Stale: the old value comes along with the lease, and then to others.
        reads("CACHE.FETCH k 60000 STALE 60001", 1, 0);
        reads("CACHE.FETCH k 60000 STALE 60001", 1, 0);
        reads("CACHE.INVALIDATE k", 0, 0);
        reads(&format!("SET k {value}"), 0, 0);
        reads("CACHE.FETCH k 60000", 1, 0);
        reads("CACHE.FETCH k 60000", 1, 0);
        // Absent: a lease, and others who wait for it.
        reads("DEL k", 0, 0);
        reads("CACHE.FETCH k 60000", 0, 1);
        reads("CACHE.FETCH k 60000", 0, 1);
        reads("DEL cachelock:{k}", 0, 0);
    }
}
