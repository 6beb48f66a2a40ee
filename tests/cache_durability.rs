//! The cache on replicas, after a restart or a promotion, with an append-only file, while writes
//! are refused, and in a cluster. No token outlives the process that gave it out.

mod support;
use support::cached::*;
use support::*;

use std::time::Duration;

/// The command that replicas get for the record of `k`, whose text begins with `start`.
#[track_caller]
fn record(client: &mut Client, start: &str) -> String {
    let (record, end) = (client.run("GET cachelock:{k}"), end_of(client, "cachelock:{k}"));
    let text = record.bytes().escape_ascii().to_string();
    assert!(text.starts_with(start), "{text}");
    format!("SET cachelock:{{k}} {text} PXAT {end}")
}

fn end_of(client: &mut Client, key: &str) -> i64 {
    client.run(format!("PEXPIRETIME {key}")).as_int()
}

#[test]
fn effects_replicate_as_plain_commands_with_absolute_times() {
    let server = Checked::start();
    let mut client = server.client();
    let mut tap = server.replication_tap();
    let ended = "DEL cachelock:{k}";

    let token = load(&mut client, "k 60000");
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    for quiet in [
        "CACHE.FETCH k 60000",
        "CACHE.FETCH k 60000 BLOCK 1",
        "CACHE.SET k v 1000 TOKEN 1",
        "CACHE.EXTEND k 1 1000",
        "CACHE.FAIL k 1",
        "CACHE.LOCK k 1000 1000",
        "CACHE.INVALIDATE none",
        "CACHE.MGET k x",
        "CACHE.INFO k",
    ] {
        client.run(quiet);
        assert!(tap.commands().is_empty(), "{quiet}");
    }
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    let fill = format!("SET k v PXAT {}", end_of(&mut client, "k"));
    assert_eq!(tap.commands(), ["MULTI", &fill, ended, "EXEC"]);
    for quiet in ["CACHE.FETCH k 60000", "CACHE.SET k n 9000 NX"] {
        client.run(quiet);
        assert!(tap.commands().is_empty(), "{quiet}");
    }

    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let sooner = format!("PEXPIREAT k {}", end_of(&mut client, "k"));
    let soft = record(&mut client, "open ");
    assert_eq!(tap.commands(), ["MULTI", &sooner, &soft, "EXEC"]);
    let token = token_beside(&client.run("CACHE.FETCH k 300000"), &bulk("v"));
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    let fail = args!["CACHE.FAIL", "k", token, "BACKOFF", 300_000, "REASON", b"a\r\nb"];
    assert_eq!(client.cmd(&fail), int(1));
    assert_eq!(tap.commands(), [record(&mut client, &format!("failed: {token} "))]);
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    assert_eq!(tap.commands(), ["MULTI", "DEL k", ended, "EXEC"]);

    // Hand-overs by FAIL, by the timer, and after a foreign write.
    let token = load(&mut client, "k 60000");
    let mut waiters = in_line::<3>(&server, "k 60000");
    tap.commands();
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = token_in(&waiters[0].read());
    let next = record(&mut client, &format!("loading {token} "));
    assert_eq!(tap.commands(), ["MULTI", ended, &next, "EXEC"]);
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 1")), int(1));
    let token = token_in(&waiters[1].read());
    let next = record(&mut client, &format!("loading {token} "));
    // The server may have removed the expired record before.
    let commands = tap.commands();
    assert_eq!(commands.iter().filter(|command| **command == next).count(), 1, "{commands:?}");
    assert!(
        commands
            .iter()
            .all(|command| ["MULTI", "EXEC", "SET", "DEL", "UNLINK"].contains(&&*command.name()))
    );
    assert_eq!(client.run("SET k x"), ok());
    assert_eq!(waiters[2].read(), hit("x"));
    assert_eq!(tap.commands(), ["SET k x", ended]);
    // A store without a loader.
    assert_eq!(client.run("CACHE.SET k y 300000"), ok());
    assert_eq!(tap.commands(), [format!("SET k y PXAT {}", end_of(&mut client, "k"))]);
}

/// Checks that a token can neither store nor extend nor fail, and that the next request loads.
#[track_caller]
fn is_forgotten(client: &mut Client, key: &str, token: i64) {
    assert_eq!(info_of(client, key, "token"), nil());
    for call in [
        format!("CACHE.SET {key} late 300000 TOKEN {token}"),
        format!("CACHE.EXTEND {key} {token} 60000"),
        format!("CACHE.FAIL {key} {token}"),
    ] {
        let nothing = if call.starts_with("CACHE.SET") { nil() } else { int(0) };
        changes_nothing(client, &call, nothing);
    }
    let next = load(client, &format!("{key} 60000"));
    assert!(next > token, "{next} after {token}");
    changes_nothing(client, &format!("CACHE.SET {key} late 300000 TOKEN {token}"), nil());
}

#[test]
fn no_token_survives_a_crash_and_everything_else_does() {
    for aof in [true, false] {
        let mut server = Checked::new(Server::builder().aof(aof).start());
        let mut client = server.client();
        let loading = load(&mut client, "k 600000");
        assert_eq!(client.run("CACHE.LOCK locked 600000 600000"), simple("LOAD"));
        assert_eq!(client.run("CACHE.SET stale old 600000"), ok());
        assert_eq!(client.run("CACHE.INVALIDATE stale STALE 500000"), int(1));
        let failing = load(&mut client, "failing 60000");
        let fail = format!("CACHE.FAIL failing {failing} BACKOFF 600000 REASON r");
        assert_eq!(client.run(fail), int(1));
        server.kill9();
        server.restart();
        let mut client = server.client();
        is_forgotten(&mut client, "k", loading);
        assert_eq!(client.run("CACHE.LOCK locked 60000 60000"), simple("LOAD"));
        let mut waiters = in_line::<2>(&server, "k 60000");
        assert_eq!(client.run("SET k foreign"), ok());
        all_read(&mut waiters, &hit("foreign"));
        if aof {
            assert_eq!(client.run("CACHE.FETCH failing 60000"), failed("r"));
            token_beside(&client.run("CACHE.FETCH stale 60000"), &bulk("old"));
            let commands = aof_commands(&server);
            assert!(commands.iter().all(|command| !command.name().starts_with("CACHE")));
        }
    }
}

#[test]
fn no_token_survives_a_flush_a_swap_or_a_reload() {
    let server = Checked::start();
    let mut client = server.client();
    for end in ["FLUSHDB", "FLUSHALL", "SWAPDB 0 1", "DEBUG RELOAD"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let late = late(&mut client, "k");
        let loading = load(&mut client, "k 600000");
        assert_eq!(client.run(end), ok());
        for token in [late, loading] {
            assert_eq!(store(&mut client, "k", "late", token), nil(), "{end}");
            assert_eq!(client.run(format!("CACHE.EXTEND k {token} 60000")), int(0), "{end}");
            assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(0), "{end}");
        }
        // The next request loads.
        let token = load(&mut client, "k 60000");
        assert!(token > loading, "{end}");
        assert_eq!(store(&mut client, "k", "v", token), ok(), "{end}");
        assert_eq!(client.run("SWAPDB 0 1"), ok());
    }
}

#[test]
fn no_token_survives_a_promotion() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut promoted) = (master.client(), replica.client());
    let loading = load(&mut client, "k 600000");
    wait_in_sync(&master, &replica);
    assert_eq!(promoted.run("CACHE.FETCH k 60000"), wait(), "the master has a loader");
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    let record = promoted.run("GET cachelock:{k}");
    assert!(record.as_str().starts_with("loading "), "{record:?}");
    for call in ["CACHE.SET k late 9 TOKEN {}", "CACHE.EXTEND k {} 60000", "CACHE.FAIL k {}"] {
        let reply = promoted.run(call.replace("{}", &loading.to_string()));
        assert!(reply == nil() || reply == int(0), "{call}: {reply:?}");
    }
    let token = load(&mut promoted, "k 600000");
    assert!(token > loading);
    let mut waiters = in_line::<2>(&replica, "k 60000");
    assert_eq!(promoted.run("SET k foreign"), ok());
    all_read(&mut waiters, &hit("foreign"));
    assert_eq!(promoted.run("DEL k"), int(1));
    // Neither does one survive a demotion and a second promotion.
    let token = load(&mut promoted, "k 600000");
    let demote = format!("REPLICAOF 127.0.0.1 {}", master.port());
    assert_eq!(promoted.run(demote), ok());
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    assert_eq!(store(&mut promoted, "k", "late", token), nil());
    assert!(load(&mut promoted, "k 60000") > token);
}

#[test]
fn a_replica_serves_values_and_grants_no_lease() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut reader) = (master.client(), replica.client());
    assert_eq!(client.run("CACHE.SET fresh v 300000"), ok());
    refreshing(&mut client, "stale", "old");
    load(&mut client, "cold 60000");
    wait_in_sync(&master, &replica);
    assert_eq!(reader.run("CACHE.GET fresh"), bulk("v"));
    assert_eq!(reader.run("CACHE.MGET fresh none stale"), array([bulk("v"), nil(), bulk("old")]));
    assert_eq!(reader.run("CACHE.FETCH fresh 60000"), hit("v"));
    assert_eq!(reader.run("CACHE.FETCH stale 60000 STALE 600000"), stale("old"));
    assert_eq!(reader.run("CACHE.FETCH cold 60000"), wait());
    assert_eq!(info_of(&mut reader, "cold", "state"), bulk("loading"));
    for load in ["none 60000", "none 60000 BLOCK 0", "fresh 60000 STALE 600000"] {
        let reply = reader.run(format!("CACHE.FETCH {load}"));
        assert!(reply.is_error_with("READONLY "), "{load}: {reply:?}");
    }
    for write in ["SET k v 9", "LOCK k 9 9", "EXTEND k 1 9", "FAIL k 1", "INVALIDATE k"] {
        let reply = reader.run(format!("CACHE.{write}"));
        assert!(reply.is_error_with("READONLY "), "{write}: {reply:?}");
    }
    assert_eq!(reader.run("DBSIZE"), client.run("DBSIZE"));
}

#[test]
fn a_request_on_a_replica_does_not_wait_for_ever() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut reader) = (master.client(), replica.client());
    load(&mut client, "cold 60000");
    wait_in_sync(&master, &replica);
    reader.send("CACHE.FETCH cold 60000 BLOCK 0");
    // Either at once or with the value.
    assert_eq!(client.run("CACHE.SET cold v 300000"), ok());
    let reply = reader.read_timeout(Duration::from_secs(3));
    assert!(reply == Some(wait()) || reply == Some(hit("v")), "{reply:?}");
}

#[test]
fn while_writes_are_refused_only_loads_and_stores_are() {
    let server = Checked::start();
    let mut client = server.client();
    for (refuse, allow, code) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM "),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS "),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("CACHE.SET fresh v 300000"), ok());
        let token = refreshing(&mut client, "stale", "old");
        load(&mut client, "cold 60000");
        assert_eq!(client.run(refuse), ok());
        assert_eq!(client.run("CACHE.FETCH fresh 60000"), hit("v"));
        assert_eq!(client.run("CACHE.MGET fresh none"), array([bulk("v"), nil()]));
        assert_eq!(client.run("CACHE.FETCH stale 60000 STALE 600000"), stale("old"));
        assert_eq!(client.run("CACHE.FETCH cold 60000"), wait());
        assert_eq!(info_of(&mut client, "stale", "token"), int(token));
        let before = Keyspace::of(&mut client);
        for load in ["FETCH none 60000", "FETCH none 60000 BLOCK 0", "SET k v 9000", "LOCK k 9 9"] {
            let reply = client.run(format!("CACHE.{load}"));
            assert!(reply.is_error_with(code), "{load}: {reply:?}");
        }
        assert_eq!(Keyspace::of(&mut client), before);
        assert_eq!(client.run(allow), ok());
    }
}

#[test]
fn a_name_is_in_one_slot_and_nothing_is_granted_while_the_slot_moves() {
    let cluster = Cluster::start(2, Server::builder());
    for key in ["k", "{tag}k", "k{tag}", "a{b", "{k"] {
        let mut client = cluster.client_for(key);
        let token = load(&mut client, &format!("{key} 60000"));
        let mut waiters = in_line::<1>(cluster.node_for(key), &format!("{key} 60000"));
        assert_eq!(client.run(format!("CACHE.SET {key} v 300000 TOKEN {token}")), ok());
        all_read(&mut waiters, &hit("v"));
        assert_eq!(client.run(format!("CACHE.INVALIDATE {key} STALE 200000")), int(1));
        let keys = client.run(format!("CLUSTER COUNTKEYSINSLOT {}", slot_of(key)));
        assert!(keys.as_int() >= 2, "{key}: the value and its record");
        assert_eq!(client.run(format!("CACHE.INVALIDATE {key}")), int(1));
    }
    let mut client = cluster.client_for("a}b");
    let refused = client.run("CACHE.FETCH a}b 1000");
    assert_eq!(refused, error("ERR name cannot be used in cluster mode: '}' outside a hash tag"));

    let mut client = cluster.client_for("k");
    let slot = slot_of("k");
    let from = cluster.node_of_slot(slot);
    assert_eq!(client.run("CACHE.SET k v 300000"), ok());
    let cold = load(&mut client, "{k}cold 60000");
    let mut waiters = in_line::<2>(&cluster.nodes[from], "{k}cold 60000");
    let reshard = cluster.reshard(slot, 1 - from);
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("v"));
    for command in [
        "CACHE.FETCH k 60000 STALE 600000",
        "CACHE.FETCH k 60000 STALE 600000 BLOCK 0 FRESH",
        "CACHE.SET k n 9000",
        "CACHE.LOCK k 9000 9000",
        "CACHE.EXTEND k 1 9000",
        "CACHE.FAIL k 1",
        "CACHE.INVALIDATE k",
    ] {
        let reply = client.run(command);
        assert!(reply.is_error_with("TRYAGAIN "), "{command}: {reply:?}");
    }
    assert!(client.run("CACHE.FETCH {k}none 60000").is_error_with("ASK "));
    let mut target = cluster.nodes[1 - from].client();
    assert_eq!(target.run("ASKING"), ok());
    let reply = target.run("CACHE.FETCH {k}none 60000");
    assert!(reply.is_error_with("TRYAGAIN "), "{reply:?}");
    reshard.migrate_keys();
    reshard.finish();
    for waiter in &mut waiters {
        let reply = waiter.read();
        assert!(reply.is_error_with("MOVED "), "{reply:?}");
    }
    assert_eq!(target.run("CACHE.FETCH k 60000"), hit("v"));
    assert_eq!(target.run("CACHE.FETCH {k}cold 60000"), wait(), "the lease moved with the slot");
    // Its token did not: the loader is refused, and the next request loads.
    assert_eq!(target.run(format!("CACHE.SET {{k}}cold v 9000 TOKEN {cold}")), nil());
    token_in(&target.run("CACHE.FETCH {k}cold 60000"));
    for node in &cluster.nodes {
        assert_eq!(info(node, "corral", "corral_panics").as_deref(), Some("0"));
        assert_eq!(support::waiters(&mut node.client(), "cache"), 0);
    }
}
