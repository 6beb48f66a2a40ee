//! A lease expires while clients wait: the next one is granted on time and never early, whatever else
//! expires, after the lease was extended or shortened, in each
//! database, after a pause and after a failover. On a
//! replica and while a slot moves nobody is granted.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::lock::*;
use support::*;

use std::time::Duration;

// --- Leases that expire

#[test]
fn the_next_waiter_is_granted_when_the_lease_expires_and_never_early() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for ttl in [40, 130] {
        for (held, next) in [("", ""), ("", "SHARED"), ("SHARED", ""), ("LIMIT 1", "LIMIT 1")] {
            let end = take_until(&mut control, "me", ttl, held);
            let mut client = server.client();
            client.send(ask("job", "you", LONG, next));
            assert_granted(&mut client);
            assert_on_time(granted_at(&mut control, KEY, "you", LONG), end);
            assert_eq!(control.run("LOCK.EXTEND job me 1000"), int(0));
            release(&mut control, "you");
        }
    }
}

#[test]
fn thousands_of_other_expiring_keys_do_not_delay_a_grant() {
    let server = Checked::start();
    let mut control = server.client();
    let fill = "for i = 1, 30000 do redis.call('SET', 'volatile:' .. i, i, 'PX', 1 + i % 400) end";
    for ttl in [50, 200] {
        let end = take_until(&mut control, "me", ttl, "");
        let mut client = server.client();
        client.send(ask("job", "you", LONG, ""));
        assert_eq!(control.cmd(&["EVAL", fill, "0"]), nil());
        assert_granted(&mut client);
        assert_on_time(granted_at(&mut control, KEY, "you", LONG), end);
        release(&mut control, "you");
    }
}

/// The server's own expiry times count from the start of a script or transaction.
#[test]
fn a_lease_granted_late_in_a_transaction_starts_at_the_grant() {
    const TTL: i64 = 60_000;
    /// Runs a command 300 ms after the start of its transaction; returns the earliest start of its
    /// lease.
    #[track_caller]
    fn late(control: &mut Client, command: &str) -> i64 {
        let before = control.time_ms();
        let replies = in_transaction(control, &["DEBUG SLEEP 0.3", command]);
        assert!(matches!(replies[1], Value::Int(1..)), "{command}: {replies:?}");
        before + 300
    }
    for options in ["", "SHARED", "FENCE"] {
        let server = Checked::start();
        let mut control = server.client();
        take(&mut control, "writer", LONG, "");
        let mut client = server.client();
        let wait = format!("LOCK.ACQUIRE job you {TTL} {options} BLOCK 0");
        send_and_wait(&mut control, "lock", &mut client, &wait);
        let begin = late(&mut control, "LOCK.RELEASE job writer");
        assert!(only_reply(&mut client).as_int() >= 1);
        assert!(control.lease_end(KEY, "you") >= begin + TTL, "handed over: {options}");
        release(&mut control, "you");
        for command in
            [format!("LOCK.ACQUIRE job me {TTL} {options}"), format!("LOCK.EXTEND job me {TTL}")]
        {
            let begin = late(&mut control, &command);
            assert!(control.lease_end(KEY, "me") >= begin + TTL, "{command}");
        }
    }
}

#[test]
fn leases_that_are_not_extended_expire_one_after_another() {
    const TTL: i64 = 15;
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> =
        ids.iter().map(|id| waiter_with(&server, &ask("job", id, TTL, "FENCE"))).collect();
    let mut tap = server.replication_tap();
    let begin = control.time_ms();
    release(&mut control, "h");
    clients.iter_mut().for_each(|client| assert!(only_reply(client).as_int() > 1));
    // The replication stream shows each grant and its end.
    let commands = tap.commands();
    let grants: Vec<_> = commands.iter().map(Command::text).collect();
    let start = format!("SET {KEY} ");
    let grants: Vec<_> = grants
        .iter()
        .filter_map(|text| text.strip_prefix(&start)?.split_once(" PXAT "))
        .map(|(id, end)| (id, end.parse::<i64>().expect("a time")))
        .collect();
    assert_eq!(grants.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    let mut previous = begin - 1;
    for (_, end) in grants {
        assert_on_time(end - TTL, previous);
        previous = end;
    }
}

#[test]
fn each_shared_lease_expires_separately() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    let holders = ["early", "middle", "late"];
    for holder in holders {
        take(&mut control, holder, LONG, "LIMIT 3");
    }
    let [mut first, mut second, mut writer] =
        line(&server, [("first", "LIMIT 3"), ("second", "LIMIT 3"), ("writer", "")]);
    let leases = [("early", 60), ("middle", 230), ("late", 400)];
    let leases = leases.map(|(holder, ttl)| format!("LOCK.EXTEND job {holder} {ttl}"));
    let scores = holders.map(|holder| format!("ZSCORE {KEY} {holder}"));
    let replies = in_transaction(&mut control, &[leases, scores].concat());
    let ends: Vec<i64> =
        replies[3..].iter().map(|score| score.as_str().parse().expect("a time")).collect();
    assert_granted(&mut first);
    assert_on_time(granted_at(&mut control, KEY, "first", LONG), ends[0]);
    assert_granted(&mut second);
    assert_on_time(granted_at(&mut control, KEY, "second", LONG), ends[1]);
    // The writer waits for the last of the others.
    release(&mut control, "second");
    let end = extend(&mut control, "first", 100);
    assert!(end >= ends[2] || end >= ends[1] + 100);
    assert_granted(&mut writer);
    assert_on_time(granted_at(&mut control, KEY, "writer", LONG), end);
}

#[test]
fn extending_or_shortening_the_lease_moves_the_grant() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for (held, again, option) in [
        ("", "LOCK.EXTEND job me", ""),
        ("", "LOCK.ACQUIRE job me", "BLOCK 0"),
        ("SHARED", "LOCK.EXTEND job me", ""),
        ("SHARED", "LOCK.ACQUIRE job me", "SHARED"),
    ] {
        // Longer, shorter, and longer again.
        for ttls in [&[60, 250, 150][..], &[60, LONG, 100]] {
            take(&mut control, "me", LONG, held);
            let mut next = waiter(&server, "you", "");
            let again = |ttl: &i64| format!("{again} {ttl} {option}");
            let end = ends_after(&mut control, &ttls.iter().map(again).collect::<Vec<_>>());
            assert_granted(&mut next);
            assert_on_time(granted_at(&mut control, KEY, "you", LONG), end);
            release(&mut control, "you");
        }
    }
    // Again while the timer is armed. Each lease is long enough to be extended in time.
    take(&mut control, "me", LONG, "");
    let mut next = waiter(&server, "you", "");
    let mut end = 0;
    for _ in 0..5 {
        let now = control.time_ms();
        end = extend(&mut control, "me", 2000);
        wait_past(&mut control, now + 60);
    }
    assert_granted(&mut next);
    assert_on_time(granted_at(&mut control, KEY, "you", LONG), end);
}

#[test]
fn locks_of_several_names_and_databases_expire_each_at_its_time() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    let places =
        [(0, "job", 260), (9, "job", 60), (3, "a{b}", 160), (9, "other", 110), (0, "x", 60)];
    let mut ends = Vec::new();
    let mut clients: Vec<_> = places
        .iter()
        .map(|(db, name, ttl)| {
            assert_eq!(control.run(format!("SELECT {db}")), ok());
            let key =
                if *name == "a{b}" { "lock::a{b}".into() } else { format!("lock:{{{name}}}") };
            let take = format!("LOCK.ACQUIRE {name} me {ttl}");
            let replies = in_transaction(&mut control, &[take, format!("PEXPIRETIME {key}")]);
            assert_eq!(replies[0], int(1));
            ends.push((key, replies[1].as_int()));
            let mut client = server.client();
            assert_eq!(client.run(format!("SELECT {db}")), ok());
            client.send(ask(name, "you", LONG, ""));
            client
        })
        .collect();
    for ((client, (db, ..)), (key, end)) in clients.iter_mut().zip(places).zip(ends) {
        assert_granted(client);
        assert_eq!(control.run(format!("SELECT {db}")), ok());
        assert_on_time(granted_at(&mut control, &key, "you", LONG), end);
    }
}

#[test]
fn a_lease_that_expires_while_writes_are_paused_is_handed_over_afterwards() {
    let server = Checked::start();
    let mut control = server.client();
    for held in ["", "SHARED"] {
        take(&mut control, "me", LONG, held);
        let mut first = waiter(&server, "first", "");
        let mut leaver = server.client();
        let leave = format!("LOCK.ACQUIRE job leaver {LONG} BLOCK 400");
        send_and_wait(&mut control, "lock", &mut leaver, &leave);
        let pause = ["LOCK.EXTEND job me 50", "CLIENT PAUSE 600000 WRITE"];
        let end = ends_after(&mut control, &pause);
        wait_past(&mut control, end + 100);
        // The server handles time-outs during the pause, and hands nothing over.
        assert_eq!(leaver.read(), int(0));
        assert_eq!(waiting(&server), 1);
        assert_eq!(first.read_timeout(Duration::ZERO), None);
        let unpaused = control.time_ms();
        assert_eq!(control.run("CLIENT UNPAUSE"), ok());
        assert_granted(&mut first);
        assert_on_time(granted_at(&mut control, KEY, "first", LONG), unpaused - 1);
        release(&mut control, "first");
    }
}

// --- Replicas and cluster nodes

#[test]
fn a_lease_that_expires_on_a_replica_is_free_after_its_promotion() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "SHARED");
    let mut client = waiter(&server, "a", "");
    let brief = ["LOCK.EXTEND job me 300", "PEXPIRETIME lock:{job}", NO_MASTER];
    let end = control.pipeline(&brief)[1].as_int();
    assert_unblocked(&mut client);
    wait_past(&mut control, end + 20);
    assert_eq!(control.lock_holders("job"), [""; 0]);
    assert_eq!(control.run("REPLICAOF NO ONE"), ok());
    take(&mut control, "you", LONG, "");
}

#[test]
fn a_promoted_replica_continues_with_the_locks_of_its_master() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut on_master, mut on_replica) = (master.client(), replica.client());
    take(&mut on_master, "r1", LONG, "SHARED");
    take(&mut on_master, "r2", 400, "SHARED");
    let end = on_master.lease_end(KEY, "r2");
    let mut there = waiter(&master, "w", "");
    wait_in_sync(&master, &replica);
    assert_eq!(on_replica.run("REPLICAOF NO ONE"), ok());
    let mut here = waiter(&replica, "w", "FENCE");
    let mut reader = waiter(&replica, "r3", "SHARED");
    release(&mut on_replica, "r1");
    assert!(only_reply(&mut here).as_int() > 1);
    assert_on_time(granted_at(&mut on_replica, KEY, "w", LONG), end);
    release(&mut on_replica, "w");
    assert_granted(&mut reader);
    release(&mut on_master, "r1");
    assert_granted(&mut there);
}

#[test]
fn while_a_slot_moves_nobody_is_granted_and_the_waiters_are_redirected() {
    let cluster = Cluster::start(2, Server::builder());
    let slot = slot_of("job");
    let from = cluster.node_of_slot(slot);
    let to = 1 - from;
    let [source, target] = [from, to].map(|node| &cluster.nodes[node]);
    let (mut at_source, mut at_target) = (source.client(), target.client());
    let try_again = |reply: Value, what: &str| {
        assert!(reply.is_error_with("TRYAGAIN "), "{what}: {reply:?}");
    };
    take(&mut at_source, "brief", 300, "SHARED");
    take(&mut at_source, "me", LONG, "SHARED");
    let end = at_source.lease_end(KEY, "brief");
    let mut clients = line(source, [("w1", ""), ("w2", "FENCE")]);

    let reshard = cluster.reshard(slot, to);
    let calls = [
        "LOCK.ACQUIRE job new 1000 SHARED",
        "LOCK.ACQUIRE job new 1000 BLOCK 0",
        "LOCK.RELEASE job me",
        "LOCK.EXTEND job me 1000",
    ];
    for moved in [false, true] {
        if moved {
            assert!(reshard.migrate_keys() >= 1);
        }
        for call in calls {
            // The server redirects a client that names a missing key.
            assert!(at_source.run(call).is_error_with("ASK "), "{call}");
            assert_eq!(at_target.run("ASKING"), ok());
            try_again(at_target.run(call), call);
        }
        // A lease expires and the key is gone from this node: nobody may be granted.
        wait_past(&mut at_source, end + 10);
        assert_still_waiting(source, 2);
    }
    reshard.finish();
    for client in &mut clients {
        let reply = client.read();
        assert!(reply.is_error_with("MOVED "), "{reply:?}");
    }
    assert_eq!(waiting(source), 0);
    assert_eq!(at_target.lock_holders("job"), ["me"]);
    for call in calls {
        assert!(at_source.run(call).is_error_with("MOVED "), "{call}");
    }

    // They ask again at the new node.
    let [mut w1, mut w2] = line(target, [("w1", ""), ("w2", "FENCE")]);
    assert_eq!(at_target.run("LOCK.ACQUIRE job thief 1000"), int(0));
    release(&mut at_target, "me");
    assert_granted(&mut w1);
    release(&mut at_target, "w1");
    assert!(only_reply(&mut w2).as_int() > 1);
    drop((w1, w2, clients, at_source, at_target));
    for node in cluster.nodes {
        drop(Checked::new(node));
    }
}
