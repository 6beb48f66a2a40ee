//! Whose load is stored. One client loads at a time; the end of a lease lets another one load as
//! well, but a value is never replaced by a load that began before it was stored, written or
//! invalidated. Also what CACHE.EXTEND, CACHE.FAIL and CACHE.LOCK do to a lease, and what plain
//! clients do to the value.

mod support;
use support::cached::*;
use support::*;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Checks that a token can neither store nor extend nor fail.
#[track_caller]
fn is_refused(client: &mut Client, key: &str, token: i64) {
    changes_nothing(client, &format!("CACHE.SET {key} late 300000 TOKEN {token}"), nil());
    changes_nothing(client, &format!("CACHE.EXTEND {key} {token} 60000"), int(0));
    changes_nothing(client, &format!("CACHE.FAIL {key} {token} BACKOFF 60000"), int(0));
}

#[track_caller]
fn memory(client: &mut Client) -> i64 {
    client.info("memory", "used_memory").expect("a number").parse().expect("a number")
}

/// Returns when the module has removed the records of all leases that foreign writes ended before.
#[track_caller]
fn after_foreign_writes(client: &mut Client) {
    load(client, "witness 60000");
    assert_eq!(client.run("SET witness w"), ok());
    wait_until_gone(client, "cachelock:{witness}");
    assert_eq!(client.run("DEL witness"), int(1));
}

// ---------------------------------------------------------------------------------------------
// Tokens
// ---------------------------------------------------------------------------------------------

#[test]
fn a_token_is_refused_after_its_load_has_ended() {
    let server = Server::start();
    let mut client = server.client();
    let refused = |client: &mut Client, key: &str, token: i64, why: &str| {
        let before = total(client, "refused");
        for options in ["", " NX", " JITTER 50"] {
            let set = format!("CACHE.SET {key} late 300000 TOKEN {token}{options}");
            changes_nothing(client, &set, nil());
        }
        assert_eq!(total(client, "refused"), before + 3, "{why}");
        is_refused(client, key, token);
    };
    // Each ends a load of `k`, whose token is `{}`.
    for end in [
        "CACHE.INVALIDATE k",
        "CACHE.SET k v 300000 TOKEN {}",
        "CACHE.SET k other 300000",
        "CACHE.FAIL k {}",
        "CACHE.FAIL k {} BACKOFF 60000",
    ] {
        let token = load(&mut client, "k 60000");
        assert!(!client.run(end.replace("{}", &token.to_string())).is_error());
        refused(&mut client, "k", token, end);
        assert_eq!(client.run("FLUSHALL"), ok());
    }
    // Another lease, then another store.
    let first = load(&mut client, "k 60000");
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    let second = load(&mut client, "k 60000");
    assert!(second > first);
    refused(&mut client, "k", first, "another lease");
    assert_eq!(store(&mut client, "k", "v", second), ok());
    refused(&mut client, "k", first, "another store");
    // The token of another key.
    load(&mut client, "other 60000");
    let token = load(&mut client, "one 60000");
    refused(&mut client, "other", token, "another key");
    assert_eq!(store(&mut client, "one", "v", token), ok());
}

#[test]
fn tokens_always_rise() {
    let server = Checked::start();
    let mut client = server.client();
    let mut last = 0;
    for round in 0..200 {
        let key = round % 3;
        let token = load(&mut client, &format!("k{key} 60000"));
        assert!(token > last, "{token} after {last}");
        last = token;
        let end = ["CACHE.INVALIDATE", "DEL cachelock:{k0} cachelock:{k1}", "FLUSHALL"][round % 3];
        client.run(if round % 3 == 0 { format!("{end} k{key}") } else { end.into() });
        client.run("FLUSHALL");
    }
}

#[test]
fn a_load_that_takes_longer_than_its_lease_is_stored() {
    let server = Checked::start();
    let mut client = server.client();
    let token = late(&mut client, "k");
    // There is no loader, and INFO shows none.
    assert_eq!(info_of(&mut client, "k", "state"), bulk("absent"));
    assert_eq!(info_of(&mut client, "k", "token"), nil());
    assert_eq!(info_of(&mut client, "k", "lease_ms"), int(0));
    changes_nothing(&mut client, &format!("CACHE.EXTEND k {token} 60000"), int(0));
    assert_eq!(store(&mut client, "k", "v", token), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("v"));
    assert_eq!(client.run("KEYS *"), array(["k"]));
    is_refused(&mut client, "k", token);
    assert_eq!(["fills", "refused"].map(|name| total(&mut client, name)), [1, 1]);
}

#[test]
fn of_two_loaders_the_older_may_store_first() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "one", first), ok());
    // The newer one keeps its lease, and its value replaces the first.
    assert_eq!(info_of(&mut client, "k", "token"), int(second));
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("one"));
    is_refused(&mut client, "k", first);
    assert_eq!(client.run(format!("CACHE.EXTEND k {second} 60000")), int(1));
    assert_eq!(store(&mut client, "k", "two", second), ok());
    assert_eq!(client.run("CACHE.GET k"), bulk("two"));
    assert_eq!(client.run("KEYS *"), array(["k"]));
    is_refused(&mut client, "k", second);
}

#[test]
fn of_two_loaders_the_older_does_not_replace_the_value_of_the_newer() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = late(&mut client, "k");
    assert_eq!(store(&mut client, "k", "two", second), ok());
    is_refused(&mut client, "k", first);
    assert_eq!(client.run("CACHE.GET k"), bulk("two"));
    // Neither does it while a third one loads.
    let third = reload(&mut client, "k 60000 STALE 600000");
    is_refused(&mut client, "k", first);
    assert_eq!(info_of(&mut client, "k", "token"), int(third));
    assert_eq!(store(&mut client, "k", "three", third), ok());
}

#[test]
fn a_store_by_an_older_loader_answers_all_waiters_and_keeps_the_newer_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = load(&mut client, "k 600000");
    let mut waiters = in_line::<3>(&server, "k 60000");
    assert_eq!(store(&mut client, "k", "one", first), ok());
    all_read(&mut waiters, &hit("one"));
    assert_eq!(info_of(&mut client, "k", "state"), bulk("loading"));
    assert_eq!(store(&mut client, "k", "two", second), ok());
}

#[test]
fn only_the_newest_loader_can_fail_or_extend() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = late(&mut client, "k");
    changes_nothing(&mut client, &format!("CACHE.FAIL k {first} BACKOFF 60000"), int(0));
    changes_nothing(&mut client, &format!("CACHE.EXTEND k {first} 60000"), int(0));
    changes_nothing(&mut client, &format!("CACHE.EXTEND k {second} 60000"), int(0));
    // The newest may fail even after its lease.
    let fail = format!("CACHE.FAIL k {second} BACKOFF 600000 REASON down");
    assert_eq!(client.run(&fail), int(1));
    assert_eq!(client.run("CACHE.FETCH k 60000"), failed("down"));
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    is_refused(&mut client, "k", second);
    // The older one is still good.
    assert_eq!(store(&mut client, "k", "one", first), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("one"));
    // Without a back-off the next request loads.
    let token = late(&mut client, "other");
    changes_nothing(&mut client, &format!("CACHE.FAIL other {token}"), int(1));
    is_refused(&mut client, "other", token);
    load(&mut client, "other 60000");
    assert_eq!(total(&mut client, "failures"), 2);
}

#[test]
fn the_last_sixteen_tokens_of_a_key_are_good() {
    let server = Checked::start();
    let mut client = server.client();
    let tokens: Vec<_> = (0..18).map(|_| late(&mut client, "k")).collect();
    for token in &tokens[..2] {
        is_refused(&mut client, "k", *token);
    }
    for token in &tokens[2..] {
        assert_eq!(store(&mut client, "k", "v", *token), ok(), "{token}");
    }
    for token in tokens {
        is_refused(&mut client, "k", token);
    }
}

#[test]
fn a_soft_invalidation_ends_with_the_store_of_any_load_that_began_after_it() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.SET k old 300000"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let first = reload(&mut client, "k 1");
    let second =
        eventually(SOON, "the lease ends", || token_of(&client.run("CACHE.FETCH k 600000")));
    assert_eq!(store(&mut client, "k", "one", first), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("one"), "the value is fresh");
    assert_eq!(info_of(&mut client, "k", "token"), int(second));
    assert_eq!(store(&mut client, "k", "two", second), ok());
    assert_eq!(client.run("KEYS *"), array(["k"]));
}

/// 30 clients read one value, and each load takes longer than its lease.
#[test]
fn a_database_slower_than_the_lease_is_still_cached() {
    let server = Server::start();
    let callers: Vec<_> = (0..30)
        .map(|_| {
            let mut client = server.client();
            thread::spawn(move || {
                let (mut loads, mut stored) = (0, 0);
                let end = Instant::now() + SOON;
                loop {
                    assert!(Instant::now() < end, "no client has a value");
                    let reply = client.run("CACHE.FETCH page 500 BLOCK 5000");
                    let [status, _, token] = reply.items() else { panic!("{reply:?}") };
                    match status.as_str() {
                        "HIT" => return (loads, stored),
                        "LOAD" => {
                            loads += 1;
                            thread::sleep(Duration::from_millis(700));
                            let reply = store(&mut client, "page", "html", token.as_int());
                            stored += i32::from(reply == ok());
                        }
                        other => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    let done: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("a caller")).collect();
    let loads: i32 = done.iter().map(|(loads, _)| loads).sum();
    let stored: i32 = done.iter().map(|(_, stored)| stored).sum();
    assert!(stored >= 1, "{stored} of {loads} stored");
    // One load every 500 ms until the first is stored after 700 ms; more on a busy machine.
    assert!(loads <= 8, "{loads} loads");
    let mut client = server.client();
    assert_eq!(total(&mut client, "wait_timeouts"), 0);
    assert_eq!(total(&mut client, "loads"), i64::from(loads));
}

// ---------------------------------------------------------------------------------------------
// What is remembered of leases
// ---------------------------------------------------------------------------------------------

#[test]
fn a_token_is_good_for_the_configured_time_after_its_lease() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(
        client.run("CONFIG GET corral.cache-late-ms"),
        array(["corral.cache-late-ms", "60000"])
    );
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 1"), ok());
    let token = late(&mut client, "k");
    thread::sleep(Duration::from_millis(50));
    is_refused(&mut client, "k", token);
    // With 0 it is good only during its lease.
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 0"), ok());
    let token = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "v", token), ok());
    // A longer time.
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 600000"), ok());
    let token = late(&mut client, "other");
    assert_eq!(store(&mut client, "other", "v", token), ok());
}

#[test]
fn the_memory_for_leases_is_bounded() {
    let server = Checked::start();
    let mut client = server.client();
    let bytes = ["corral.cache-late-bytes", "33554432"];
    assert_eq!(client.run("CONFIG GET corral.cache-late-bytes"), array(bytes));
    assert_eq!(client.run("CONFIG SET corral.cache-late-bytes 100000"), ok());
    let first = late(&mut client, "first");
    let before = memory(&mut client);
    let long = "x".repeat(1000);
    let mut last = 0;
    for round in 0..20 {
        let asks: Vec<_> = (0..1000).map(|n| format!("CACHE.FETCH {long}{round}:{n} 1")).collect();
        for reply in client.pipeline(&asks) {
            last = reply.items()[2].as_int();
        }
    }
    // The server has removed the expired records.
    eventually(SOON, "the records are gone", || client.run("DBSIZE") == int(0));
    let grown = memory(&mut client) - before;
    assert!(grown < 5_000_000, "20,000 names of 1,000 bytes: {grown} bytes");
    is_refused(&mut client, "first", first);
    assert_eq!(store(&mut client, &format!("{long}19:999"), "v", last), ok());
    // A running lease is always remembered.
    assert_eq!(client.run("CONFIG SET corral.cache-late-bytes 0"), ok());
    let token = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "v", token), ok());
}

#[test]
fn the_memory_of_expired_leases_is_freed_without_any_request() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 100"), ok());
    load(&mut client, "warm-up 1");
    let before = memory(&mut client);
    for round in 0..50 {
        let asks: Vec<_> = (0..1000).map(|n| format!("CACHE.FETCH {round}:{n} 1")).collect();
        client.pipeline(&asks);
    }
    let grown = || {
        let grown = memory(&mut client) - before;
        (client.run("DBSIZE") == int(0)).then_some(grown).filter(|grown| *grown < 2_000_000)
    };
    eventually(SOON, "50,000 leases are forgotten", grown);
}

// ---------------------------------------------------------------------------------------------
// Leases
// ---------------------------------------------------------------------------------------------

#[test]
fn extend_moves_the_end_of_a_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 100000");
    let mut left = |line: String| {
        assert_eq!(client.run(&line), int(1), "{line}");
        client.run("PTTL cachelock:{k}").as_int()
    };
    assert!((200_001..=300_000).contains(&left(format!("CACHE.EXTEND k {token} 300000"))));
    assert!((1..=60_000).contains(&left(format!("CACHE.EXTEND k {token} 60000"))));
    assert_eq!(client.run("CACHE.FETCH k 1000"), wait());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    // A soft invalidation outlasts the lease.
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let token = token_beside(&client.run("CACHE.FETCH k 60000"), &bulk("v"));
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 1")), int(1));
    let over = || (info_of(&mut client, "k", "state") == bulk("stale")).then_some(());
    eventually(SOON, "the lease expires and the value stays stale", over);
    token_beside(&client.run("CACHE.FETCH k 60000"), &bulk("v"));
}

#[test]
fn a_failure_ends_the_lease_and_a_back_off_expires() {
    let server = Checked::start();
    let mut client = server.client();
    // Without a value.
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 50 REASON r")), int(1));
    let again = || {
        let reply = client.run("CACHE.FETCH k 60000");
        assert!(reply == failed("r") || reply.items()[0] == simple("LOAD"), "{reply:?}");
        (reply != failed("r")).then(|| token_in(&reply))
    };
    assert!(eventually(SOON, "the back-off ends", again) > token);
    // With a stale value.
    let token = refreshing(&mut client, "s", "old");
    assert_eq!(client.run(format!("CACHE.FAIL s {token} BACKOFF 60000 REASON r")), int(1));
    assert_eq!(client.run("CACHE.FETCH s 60000 STALE 600000"), stale("old"));
    assert_eq!(client.run("CACHE.LOCK s 1000 1000"), simple("WAIT"));
    assert_eq!(client.run("CACHE.SET s new 300000"), ok(), "a store ends the back-off");
    assert_eq!(client.run("EXISTS cachelock:{s}"), int(0));
    let token = refreshing(&mut client, "s", "old");
    assert_eq!(client.run(format!("CACHE.FAIL s {token}")), int(1));
    let reply = client.run("CACHE.FETCH s 60000 STALE 600000");
    let mut token = token_beside(&reply, &bulk("old"));
    // A removal ends the back-off.
    for end in ["CACHE.INVALIDATE s", "DEL s"] {
        assert_eq!(client.run(format!("CACHE.FAIL s {token} BACKOFF 60000")), int(1));
        assert_eq!(client.run(end), int(1));
        load(&mut client, "s 60000");
        token = refreshing(&mut client, "s", "old");
    }
}

#[test]
fn lock_and_fetch_share_one_lease() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.LOCK k 60000 90000"), simple("LOAD"));
    let left = client.run("PTTL cachelock:{k}").as_int();
    assert!((1..=60_000).contains(&left), "the shorter of the two: {left}");
    assert_eq!(client.run("CACHE.FETCH k 60000"), wait());
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    let mut waiters = in_line::<2>(&server, "k 60000");
    assert_eq!(client.run("CACHE.SET k v 300000"), ok());
    all_read(&mut waiters, &hit("v"));
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("LOAD"), "although there is a value");
    assert_eq!(client.run("CACHE.FETCH k 60000 STALE 600000"), stale("v"));
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));

    load(&mut client, "k 60000");
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    // When the lease of LOCK expires, the waiting FETCH loads.
    assert_eq!(client.run("CACHE.LOCK short 60000 1500"), simple("LOAD"));
    let [mut waiter] = in_line(&server, "short 60000");
    token_in(&waiter.read());
}

// ---------------------------------------------------------------------------------------------
// Writes of plain clients
// ---------------------------------------------------------------------------------------------

#[test]
fn every_change_of_the_value_voids_all_its_tokens_at_once() {
    let server = Server::start();
    let mut client = server.client();
    for (write, value) in [
        ("CACHE.SET k other 300000", bulk("other")),
        ("CACHE.INVALIDATE k", nil()),
        ("CACHE.INVALIDATE k STALE 200000", bulk("old")),
        ("SET k foreign", bulk("foreign")),
        ("SET k foreign KEEPTTL", bulk("foreign")),
        ("APPEND k x", bulk("oldx")),
        ("DEL k", nil()),
        ("UNLINK k", nil()),
        ("GETDEL k", nil()),
        ("RENAME k elsewhere", nil()),
        ("RENAME other k", bulk("o")),
        ("COPY other k REPLACE", bulk("o")),
        ("MOVE k 5", nil()),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("SET other o"), ok());
        assert_eq!(client.run("CACHE.SET k old 300000"), ok());
        // Two leases that have expired and one that has not.
        let tokens = [1, 1, 60_000].map(|lease| {
            let token = reload(&mut client, &format!("k {lease} STALE 600000"));
            if lease == 1 {
                wait_until_gone(&mut client, "cachelock:{k}");
            }
            token
        });
        let late = tokens.map(|token| format!("CACHE.SET k late 300000 TOKEN {token}"));
        // Valkey 8.1 leaves the connection in the other database after MOVE if a module is loaded.
        let commands = [write, "SELECT 0", &late[0], &late[1], &late[2], "GET k"];
        let replies = in_transaction(&mut client, &commands);
        assert_eq!(replies[2..], [nil(), nil(), nil(), value], "{write}");
        if !write.ends_with("STALE 200000") {
            wait_until_gone(&mut client, "cachelock:{k}");
        }
        for token in tokens {
            is_refused(&mut client, "k", token);
        }
    }
    // A change of the time to live is not a change of the value.
    for touch in ["PEXPIRE k 200000", "PERSIST k", "GET k", "GETEX k PX 100000", "TOUCH k"] {
        let token = refreshing(&mut client, "k", "old");
        let store = format!("CACHE.SET k new 300000 TOKEN {token}");
        assert_eq!(in_transaction(&mut client, &[touch, &store])[1], ok(), "{touch}");
    }
}

#[test]
fn a_write_of_a_missing_value_voids_its_tokens() {
    let server = Server::start();
    let mut client = server.client();
    for write in ["SET k foreign", "APPEND k x", "CACHE.SET k other 300000", "CACHE.INVALIDATE k"] {
        let token = late(&mut client, "k");
        client.run(write);
        is_refused(&mut client, "k", token);
        client.run("CACHE.INVALIDATE k");
    }
}

#[test]
fn a_lease_right_after_a_foreign_write_stands() {
    let server = Server::start();
    let mut client = server.client();
    for writes in [["SET k x", "DEL k"], ["SET k x", "CACHE.INVALIDATE k"], ["DEL k", "PING"]] {
        let first = refreshing(&mut client, "k", "old");
        let [write, then] = writes;
        let replies = in_transaction(&mut client, &[write, then, "CACHE.FETCH k 60000"]);
        let second = token_in(&replies[2]);
        after_foreign_writes(&mut client);
        assert_eq!(client.run("CACHE.FETCH k 60000"), wait(), "{writes:?}: the lease stands");
        is_refused(&mut client, "k", first);
        assert_eq!(store(&mut client, "k", "v", second), ok());
    }
}

#[test]
fn a_foreign_write_of_another_type_voids_the_token_for_good() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("RPUSH list x");
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run("RENAME list k"), ok());
    after_foreign_writes(&mut client);
    assert_eq!(client.run("DEL k"), int(1));
    after_foreign_writes(&mut client);
    changes_nothing(&mut client, &format!("CACHE.SET k late 300000 TOKEN {token}"), nil());
}

#[test]
fn an_early_expiry_is_a_deletion_and_ends_the_lease() {
    let server = Checked::start();
    let mut client = server.client();
    for delete in
        ["EXPIRE k 0", "PEXPIREAT k 1000", "EXPIREAT k 1", "SET k x PXAT 1000", "GETEX k PXAT 1000"]
    {
        for ttl in ["300000", "PERSIST"] {
            assert_eq!(client.run("CACHE.SET k old 300000"), ok());
            let token = reload(&mut client, "k 600000 STALE 600000");
            if ttl == "PERSIST" {
                client.run("PERSIST k");
            } else {
                client.run("PEXPIRE k 200000");
            }
            client.run(delete);
            assert_eq!(client.run("EXISTS k"), int(0), "{delete}");
            assert_eq!(store(&mut client, "k", "late", token), nil(), "{delete}, {ttl}");
            reload(&mut client, "k 1");
        }
    }
}

#[test]
fn a_value_that_expires_on_time_keeps_its_loader() {
    let server = Checked::start();
    let mut client = server.client();
    for touch in ["", "PEXPIRE k 30"] {
        let ttl = if touch.is_empty() { 50 } else { 300_000 };
        let token = eventually(SOON, "it is loaded before it expires", || {
            assert_eq!(client.run(format!("CACHE.SET k old {ttl}")), ok());
            let reply = client.run("CACHE.FETCH k 600000 STALE 600000");
            token_of(&reply).filter(|_| reply.items()[1] == bulk("old"))
        });
        if !touch.is_empty() {
            client.run(touch);
        }
        wait_until_gone(&mut client, "k");
        assert_eq!(info_of(&mut client, "k", "token"), int(token), "{touch}");
        assert_eq!(store(&mut client, "k", "new", token), ok(), "{touch}");
    }
}

#[test]
fn a_lease_ended_by_a_foreign_write_stays_ended_while_writes_are_refused() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 600000");
    let refuse = "CONFIG SET min-replicas-to-write 1";
    assert_eq!(in_transaction(&mut client, &["SET k foreign", refuse]), [ok(), ok()]);
    // The timer tries several times.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(client.run("EXISTS cachelock:{k}"), int(1));
    assert_eq!(info_of(&mut client, "k", "state"), bulk("fresh"));
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("foreign"));
    assert_eq!(client.run("CONFIG SET min-replicas-to-write 0"), ok());
    assert_eq!(store(&mut client, "k", "late", token), nil());
    assert_eq!(client.run("CACHE.GET k"), bulk("foreign"));
    wait_until_gone(&mut client, "cachelock:{k}");
}

#[test]
fn one_write_of_a_hundred_thousand_loading_keys_blocks_no_client() {
    const KEYS: usize = 100_000;
    let server = Checked::start();
    let (mut client, mut other) = (server.client(), server.client());
    let keys: Vec<_> = (0..KEYS).map(|n| format!("k{n}")).collect();
    for chunk in keys.chunks(1000) {
        let asks: Vec<_> = chunk.iter().map(|key| format!("CACHE.FETCH {key} 600000")).collect();
        client.pipeline(&asks);
    }
    let token = load(&mut client, "last 600000");
    let values: Vec<_> = keys.iter().map(|key| format!("{key} v")).collect();
    assert_eq!(client.run(format!("MSET {} last v", values.join(" "))), ok());
    // The records go step by step, and other clients are served in between.
    let mut answered = 0;
    let end = Instant::now() + 3 * SOON;
    while other.run("EXISTS cachelock:{last}") == int(1) {
        assert!(Instant::now() < end, "the records are still there");
        answered += 1;
    }
    assert!(answered > 50, "{answered}");
    assert_eq!(other.run("DBSIZE"), int(1 + KEYS as i64));
    assert_eq!(store(&mut client, "last", "late", token), nil());
    assert_eq!(client.run("CACHE.FETCH k7 60000"), hit("v"));
}

#[test]
fn a_foreign_value_is_copied_only_for_waiting_clients() {
    let server = Checked::start();
    let mut client = server.client();
    load(&mut client, "k 600000");
    load(&mut client, "waited 600000");
    let value = vec![b'x'; 100_000];
    let calls = calls_during(&mut client, |client| {
        assert_eq!(client.cmd(&args!["SET", "k", &value[..]]), ok());
        assert_eq!(client.run("SET k short"), ok());
        wait_until_gone(client, "cachelock:{k}");
    });
    let read: BTreeMap<_, _> = calls.iter().filter(|(name, _)| name.starts_with("get")).collect();
    assert!(read.is_empty(), "{read:?}");
    let [mut waiter] = in_line(&server, "waited 600000");
    assert_eq!(client.cmd(&args!["SET", "waited", &value[..]]), ok());
    assert_eq!(waiter.read(), hit(Value::Bulk(value)));
}

// ---------------------------------------------------------------------------------------------
// Soft invalidation
// ---------------------------------------------------------------------------------------------

#[test]
fn a_soft_invalidation_lasts_as_long_as_the_value() {
    let server = Checked::start();
    let mut client = server.client();
    for touch in
        ["PERSIST k", "PEXPIRE k 600000", "GETEX k PERSIST", "GETEX k PX 600000", "EXPIRE k 600"]
    {
        assert_eq!(client.run("CACHE.SET k old 60000"), ok());
        let soft = Instant::now();
        assert_eq!(client.run("CACHE.INVALIDATE k STALE 100"), int(1));
        client.run(touch);
        if client.run("EXISTS k") == int(0) {
            assert!(soft.elapsed() > Duration::from_millis(90), "{touch}");
            continue;
        }
        thread::sleep(Duration::from_millis(200));
        let reply = client.run("CACHE.FETCH k 60000");
        assert_eq!(reply.items()[..2], [simple("LOAD"), bulk("old")], "{touch}");
        let token = reply.items()[2].as_int();
        assert_eq!(client.run("CACHE.FETCH k 60000"), stale("old"), "{touch}");
        assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
        assert_eq!(client.run("CACHE.GET k"), bulk("old"));
        assert_eq!(info_of(&mut client, "k", "state"), bulk("stale"), "{touch}");
        assert_eq!(client.run("CACHE.SET k new 60000"), ok());
        assert_eq!(client.run("CACHE.FETCH k 60000"), hit("new"));
        assert_eq!(client.run("KEYS *"), array(["k"]), "{touch}");
    }
}

#[test]
fn the_record_of_a_soft_invalidation_outlasts_the_value_by_a_day() {
    const DAY: i64 = 86_400_000;
    let server = Checked::start();
    let mut client = server.client();
    let left = |client: &mut Client| client.run("PTTL cachelock:{k}").as_int();
    assert_eq!(client.run("CACHE.SET k old 600000"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 500000"), int(1));
    assert!((DAY + 400_000..=DAY + 500_000).contains(&left(&mut client)));
    // A longer time to live prolongs it.
    assert_eq!(client.run(format!("PEXPIRE k {}", 30 * DAY)), int(1));
    eventually(SOON, "the record lasts longer", || left(&mut client) > 31 * DAY - 100_000);
    // Without a time to live each FETCH renews it.
    assert_eq!(client.run("PERSIST k"), int(1));
    assert_eq!(client.run("PEXPIRE cachelock:{k} 1000000"), int(1));
    reload(&mut client, "k 600000");
    assert!(left(&mut client) > DAY - 100_000);
    assert_eq!(client.run("PEXPIRE cachelock:{k} 1000000"), int(1));
    client.run("CACHE.FETCH k 60000");
    assert!(left(&mut client) > DAY - 100_000);
}

#[test]
fn the_record_of_a_soft_invalidation_goes_with_the_value() {
    let server = Server::start();
    let mut client = server.client();
    for (stale_ms, end) in
        [(1, "PING"), (300_000, "DEL k"), (300_000, "SET k new"), (300_000, "EXPIRE k 0")]
    {
        assert_eq!(client.run("CACHE.SET k old 600000"), ok());
        assert_eq!(client.run(format!("CACHE.INVALIDATE k STALE {stale_ms}")), int(1));
        assert!(!client.run(end).is_error());
        if end.starts_with("SET") {
            assert_eq!(client.run("CACHE.FETCH k 60000"), hit("new"));
        }
        wait_until_gone(&mut client, "cachelock:{k}");
    }
}

/// The token in a LOAD reply.
fn token_of(reply: &Value) -> Option<i64> {
    let [status, _, Value::Int(token)] = reply.items() else { return None };
    (*status == simple("LOAD")).then_some(*token)
}
