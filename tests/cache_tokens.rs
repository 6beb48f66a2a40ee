//! Which loads are stored: the end of a lease only lets somebody else load as well, and a value is
//! never replaced by one whose load began before it was stored, written or invalidated.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// The token and the old value of a reply that says LOAD.
fn token_of(reply: &Value) -> Option<(i64, Value)> {
    let [status, old, Value::Int(token)] = reply.items() else { return None };
    (*status == simple("LOAD")).then(|| (*token, old.clone()))
}

/// `CACHE.FETCH` with these arguments, which is told to load: its token.
#[track_caller]
fn load(client: &mut Client, args: &str) -> i64 {
    let reply = client.run(format!("CACHE.FETCH {args}"));
    let Some((token, _)) = token_of(&reply) else { panic!("{args}: {reply:?}") };
    token
}

/// A token whose lease has ended, and nobody else has asked since.
#[track_caller]
fn late(client: &mut Client, key: &str) -> i64 {
    let token = load(client, &format!("{key} 1"));
    let record = format!("EXISTS cachelock:{{{key}}}");
    eventually(SOON, "the lease ends", || client.run(&record) == int(0));
    token
}

/// What `CACHE.SET key value TOKEN token` replies.
#[track_caller]
fn store(client: &mut Client, key: &str, value: &str, token: i64) -> Value {
    client.run(format!("CACHE.SET {key} {value} 300000 TOKEN {token}"))
}

#[track_caller]
fn hit(value: &str) -> Value {
    array([simple("HIT"), bulk(value), nil()])
}

/// No store, extension or failure with this token is accepted.
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

// --- The end of a lease.

#[test]
fn a_load_that_takes_longer_than_its_lease_is_stored() {
    let server = Checked::start();
    let mut client = server.client();
    let token = late(&mut client, "k");
    // Nobody loads, and nothing tells of it.
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
fn of_two_loaders_the_one_that_began_first_may_store_first() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "one", first), ok());
    // The other goes on: its lease stands, and its value replaces the first.
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
fn of_two_loaders_the_one_that_began_first_does_not_replace_what_the_other_stored() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = late(&mut client, "k");
    assert_eq!(store(&mut client, "k", "two", second), ok());
    is_refused(&mut client, "k", first);
    assert_eq!(client.run("CACHE.GET k"), bulk("two"));
    // The same where a third loads by then.
    let third = load(&mut client, "k 60000 STALE 600000");
    is_refused(&mut client, "k", first);
    assert_eq!(info_of(&mut client, "k", "token"), int(third));
    assert_eq!(store(&mut client, "k", "three", third), ok());
}

#[test]
fn a_store_by_an_older_loader_answers_those_who_wait_and_leaves_the_newer_one_its_lease() {
    let server = Checked::start();
    let (mut client, mut control) = (server.client(), server.client());
    let first = late(&mut client, "k");
    let second = load(&mut client, "k 600000");
    let mut waiters = server.clients(3);
    for waiter in &mut waiters {
        send_and_wait(&mut control, "cache", waiter, "CACHE.FETCH k 60000 BLOCK 0");
    }
    assert_eq!(store(&mut client, "k", "one", first), ok());
    for waiter in &mut waiters {
        assert_eq!(waiter.read(), hit("one"));
    }
    assert_eq!(info_of(&mut client, "k", "state"), bulk("loading"));
    assert_eq!(store(&mut client, "k", "two", second), ok());
}

#[test]
fn only_the_newest_loader_gives_up_or_asks_for_more_time() {
    let server = Checked::start();
    let mut client = server.client();
    let first = late(&mut client, "k");
    let second = late(&mut client, "k");
    changes_nothing(&mut client, &format!("CACHE.FAIL k {first} BACKOFF 60000"), int(0));
    changes_nothing(&mut client, &format!("CACHE.EXTEND k {first} 60000"), int(0));
    changes_nothing(&mut client, &format!("CACHE.EXTEND k {second} 60000"), int(0));
    // After its lease it still counts that the newest failed.
    let fail = format!("CACHE.FAIL k {second} BACKOFF 600000 REASON down");
    assert_eq!(client.run(&fail), int(1));
    assert_eq!(client.run("CACHE.FETCH k 60000"), array([simple("FAIL"), bulk("down"), nil()]));
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    is_refused(&mut client, "k", second);
    // The older one was not asked to give up.
    assert_eq!(store(&mut client, "k", "one", first), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("one"));
    // Without a back-off the next who asks loads.
    let token = late(&mut client, "other");
    changes_nothing(&mut client, &format!("CACHE.FAIL other {token}"), int(1));
    is_refused(&mut client, "other", token);
    load(&mut client, "other 60000");
    assert_eq!(total(&mut client, "failures"), 2);
}

#[test]
fn whatever_else_changes_the_value_ends_every_token_of_it() {
    let server = Checked::start();
    let mut client = server.client();
    for change in [
        "CACHE.SET k other 300000",
        "CACHE.INVALIDATE k",
        "CACHE.INVALIDATE k STALE 200000",
        "SET k foreign",
        "APPEND k x",
        "DEL k",
        "UNLINK k",
        "RENAME k elsewhere",
    ] {
        for value in [true, false] {
            assert_eq!(client.run("FLUSHALL"), ok());
            if value {
                assert_eq!(client.run("CACHE.SET k v 300000"), ok());
            } else if ["DEL", "UNLINK", "RENAME"].iter().any(|word| change.starts_with(word)) {
                // It changes nothing and raises no event.
                continue;
            }
            let [first, second, third] = ["1 STALE 600000", "1 STALE 600000", "60000 STALE 600000"]
                .map(|args| {
                    let token = load(&mut client, &format!("k {args}"));
                    let ended = || info_of(&mut client, "k", "state") != bulk("loading");
                    if args.starts_with("1 ") {
                        eventually(SOON, "the lease ends", ended);
                    }
                    token
                });
            client.run(change);
            for token in [first, second, third] {
                let late = format!("CACHE.SET k late 300000 TOKEN {token}");
                assert_eq!(client.run(&late), nil(), "{change}, value: {value}");
                assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(0), "{change}");
            }
        }
    }
}

#[test]
fn a_foreign_write_long_after_the_lease_ends_its_token() {
    let server = Checked::start();
    let mut client = server.client();
    for change in ["SET k foreign", "CACHE.SET k other 300000", "CACHE.INVALIDATE k"] {
        let token = late(&mut client, "k");
        client.run(change);
        assert_eq!(store(&mut client, "k", "late", token), nil(), "{change}");
        client.run("CACHE.INVALIDATE k");
    }
}

#[test]
fn the_last_sixteen_tokens_of_a_value_are_good() {
    let server = Checked::start();
    let mut client = server.client();
    let tokens: Vec<_> = (0..18).map(|_| late(&mut client, "k")).collect();
    for token in &tokens[..2] {
        is_refused(&mut client, "k", *token);
    }
    for token in &tokens[2..] {
        assert_eq!(store(&mut client, "k", "v", *token), ok(), "one after the other");
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
    let first = load(&mut client, "k 1");
    let second = eventually(SOON, "the lease ends", || {
        token_of(&client.run("CACHE.FETCH k 600000")).map(|(token, _)| token)
    });
    assert_eq!(store(&mut client, "k", "one", first), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("one"), "it is fresh");
    assert_eq!(info_of(&mut client, "k", "token"), int(second));
    assert_eq!(store(&mut client, "k", "two", second), ok());
    assert_eq!(client.run("KEYS *"), array(["k"]));
}

/// 30 clients want one value again and again, and each load takes longer than its lease.
#[test]
fn a_database_that_is_slower_than_the_lease_is_cached_all_the_same() {
    let server = Server::start();
    let callers: Vec<_> = (0..30)
        .map(|_| {
            let mut client = server.client();
            thread::spawn(move || {
                let (mut loads, mut stored) = (0, 0);
                let end = Instant::now() + SOON;
                loop {
                    assert!(Instant::now() < end, "nobody has got a value");
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
    // One load each 500 ms until the first is stored, which takes 700; more on a busy machine.
    assert!(loads <= 8, "{loads} loads");
    let mut client = server.client();
    assert_eq!(total(&mut client, "wait_timeouts"), 0);
    assert_eq!(total(&mut client, "loads"), i64::from(loads));
}

// --- How long, and how much.

#[test]
fn a_token_is_good_for_a_while_after_its_lease_as_configured() {
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
    // With nothing beyond the lease it is still good during it.
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 0"), ok());
    let token = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "v", token), ok());
    // What was remembered longer is good longer.
    assert_eq!(client.run("CONFIG SET corral.cache-late-ms 600000"), ok());
    let token = late(&mut client, "other");
    assert_eq!(store(&mut client, "other", "v", token), ok());
}

#[test]
fn what_is_remembered_of_leases_is_bounded_in_bytes() {
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
    // The records have expired, and the server has removed them.
    eventually(SOON, "the records are gone", || client.run("DBSIZE") == int(0));
    let grown = memory(&mut client) - before;
    assert!(grown < 5_000_000, "20,000 names of 1,000 bytes: {grown} bytes");
    is_refused(&mut client, "first", first);
    assert_eq!(store(&mut client, &format!("{long}19:999"), "v", last), ok());
    // Whoever loads has room in any case.
    assert_eq!(client.run("CONFIG SET corral.cache-late-bytes 0"), ok());
    let token = load(&mut client, "k 60000");
    assert_eq!(store(&mut client, "k", "v", token), ok());
}

#[test]
fn what_is_remembered_of_leases_that_ended_is_given_back_though_nobody_asks_for_anything() {
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

// --- No token outlives what the process has seen.

#[test]
fn no_token_outlives_a_flush_a_swap_or_a_reload() {
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
        // The first who asks loads at once.
        let token = load(&mut client, "k 60000");
        assert!(token > loading, "{end}");
        assert_eq!(store(&mut client, "k", "v", token), ok(), "{end}");
        assert_eq!(client.run("SWAPDB 0 1"), ok());
    }
}

#[test]
fn no_token_outlives_a_restart_and_the_first_who_asks_loads() {
    let mut server = Checked::new(Server::builder().aof(true).start());
    let mut client = server.client();
    let loading = load(&mut client, "k 600000");
    let locked = client.run("CACHE.LOCK locked 600000 600000");
    assert_eq!(locked, simple("LOAD"));
    assert_eq!(client.run("CACHE.SET stale old 600000"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE stale STALE 500000"), int(1));
    let failing = load(&mut client, "failing 60000");
    assert_eq!(client.run(format!("CACHE.FAIL failing {failing} BACKOFF 600000")), int(1));
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(client.run("SET k foreign"), ok());
    is_refused(&mut client, "k", loading);
    assert_eq!(client.run("DEL k"), int(1));
    let token = load(&mut client, "k 60000");
    assert!(token > loading);
    assert_eq!(store(&mut client, "k", "v", token), ok());
    assert_eq!(client.run("CACHE.LOCK locked 60000 60000"), simple("LOAD"));
    // What does not depend on a token stands.
    assert_eq!(client.run("CACHE.FETCH failing 60000"), array([simple("FAIL"), nil(), nil()]));
    let reply = client.run("CACHE.FETCH stale 60000");
    assert_eq!(reply.items()[..2], [simple("LOAD"), bulk("old")]);
}

#[test]
fn no_token_outlives_a_promotion() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut promoted) = (master.client(), replica.client());
    let loading = load(&mut client, "k 600000");
    wait_in_sync(&master, &replica);
    let wait = array([simple("WAIT"), nil(), nil()]);
    assert_eq!(promoted.run("CACHE.FETCH k 60000"), wait, "as its master says");
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    is_refused(&mut promoted, "k", loading);
    let token = load(&mut promoted, "k 600000");
    assert!(token > loading);
    // Nor a demotion and a second promotion.
    let port = master.port();
    assert_eq!(promoted.run(format!("REPLICAOF 127.0.0.1 {port}")), ok());
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    is_refused(&mut promoted, "k", token);
}

#[test]
fn whoever_waits_while_the_data_are_replaced_loads_at_once() {
    let server = Checked::start();
    let (mut client, mut control, mut waiter) = (server.client(), server.client(), server.client());
    load(&mut client, "k 600000");
    send_and_wait(&mut control, "cache", &mut waiter, "CACHE.FETCH k 60000 BLOCK 0");
    assert_eq!(client.run("DEBUG RELOAD"), ok());
    assert_eq!(waiter.read().items()[0], simple("LOAD"));
}

// --- A soft invalidation.

#[test]
fn a_soft_invalidation_lives_as_long_as_the_value_whatever_becomes_of_its_time_to_live() {
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
        let stale = array([simple("STALE"), bulk("old"), nil()]);
        assert_eq!(client.run("CACHE.FETCH k 60000"), stale, "{touch}");
        assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
        assert_eq!(client.run("CACHE.GET k"), bulk("old"));
        assert_eq!(info_of(&mut client, "k", "state"), bulk("stale"), "{touch}");
        assert_eq!(client.run("CACHE.SET k new 60000"), ok());
        assert_eq!(client.run("CACHE.FETCH k 60000"), hit("new"));
        assert_eq!(client.run("KEYS *"), array(["k"]), "{touch}");
    }
}

#[test]
fn the_mark_of_a_soft_invalidation_is_kept_for_a_day_beyond_the_value() {
    const DAY: i64 = 86_400_000;
    let server = Checked::start();
    let mut client = server.client();
    let left = |client: &mut Client| client.run("PTTL cachelock:{k}").as_int();
    assert_eq!(client.run("CACHE.SET k old 600000"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 500000"), int(1));
    assert!((DAY + 400_000..=DAY + 500_000).contains(&left(&mut client)));
    // Whoever prolongs the value prolongs the mark.
    assert_eq!(client.run(format!("PEXPIRE k {}", 30 * DAY)), int(1));
    eventually(SOON, "the mark lasts longer", || left(&mut client) > 31 * DAY - 100_000);
    // Without an end it is renewed at each look.
    assert_eq!(client.run("PERSIST k"), int(1));
    assert_eq!(client.run("PEXPIRE cachelock:{k} 1000000"), int(1));
    load(&mut client, "k 600000");
    assert!(left(&mut client) > DAY - 100_000);
    assert_eq!(client.run("PEXPIRE cachelock:{k} 1000000"), int(1));
    client.run("CACHE.FETCH k 60000");
    assert!(left(&mut client) > DAY - 100_000);
}

#[test]
fn the_mark_of_a_soft_invalidation_goes_with_the_value() {
    let server = Checked::start();
    let mut client = server.client();
    let mut gone = |what: &str| {
        let gone = || client.run("EXISTS cachelock:{k}") == int(0);
        eventually(SOON, what, gone);
    };
    let mut other = server.client();
    let mut soft = |ms: u32| {
        assert_eq!(other.run("CACHE.SET k old 600000"), ok());
        assert_eq!(other.run(format!("CACHE.INVALIDATE k STALE {ms}")), int(1));
    };
    let mut third = server.client();
    soft(1);
    gone("it expires");
    soft(300_000);
    assert_eq!(third.run("DEL k"), int(1));
    gone("somebody removes it");
    soft(300_000);
    assert_eq!(third.run("SET k new"), ok());
    assert_eq!(third.run("CACHE.FETCH k 60000"), hit("new"));
    gone("somebody writes it");
    soft(300_000);
    assert_eq!(third.run("EXPIRE k 0"), int(1));
    gone("somebody lets it expire");
}

// --- Others who change the value.

#[test]
fn an_expiry_before_its_time_is_a_deletion_and_ends_the_lease() {
    let server = Checked::start();
    let mut client = server.client();
    for delete in
        ["EXPIRE k 0", "PEXPIREAT k 1000", "EXPIREAT k 1", "SET k x PXAT 1000", "GETEX k PXAT 1000"]
    {
        for ttl in ["300000", "PERSIST"] {
            assert_eq!(client.run("CACHE.SET k old 300000"), ok());
            let token = load(&mut client, "k 600000 STALE 600000");
            if ttl == "PERSIST" {
                client.run("PERSIST k");
            } else {
                client.run("PEXPIRE k 200000");
            }
            client.run(delete);
            assert_eq!(client.run("EXISTS k"), int(0), "{delete}");
            assert_eq!(store(&mut client, "k", "late", token), nil(), "{delete}, {ttl}");
            load(&mut client, "k 1");
        }
    }
}

#[test]
fn a_value_that_expires_in_its_time_leaves_its_loader_alone() {
    let server = Checked::start();
    let mut client = server.client();
    for touch in ["", "PEXPIRE k 30"] {
        let ttl = if touch.is_empty() { 50 } else { 300_000 };
        let token = eventually(SOON, "it is refreshed while it lives", || {
            assert_eq!(client.run(format!("CACHE.SET k old {ttl}")), ok());
            let told = token_of(&client.run("CACHE.FETCH k 600000 STALE 600000"));
            told.filter(|(_, old)| *old == bulk("old")).map(|(token, _)| token)
        });
        if !touch.is_empty() {
            client.run(touch);
        }
        eventually(SOON, "it expires", || client.run("EXISTS k") == int(0));
        assert_eq!(info_of(&mut client, "k", "token"), int(token), "{touch}");
        assert_eq!(store(&mut client, "k", "new", token), ok(), "{touch}");
    }
}

#[test]
fn a_lease_that_a_foreign_write_ended_stays_ended_while_the_server_refuses_to_remove_its_record() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 600000");
    let refuse = "CONFIG SET min-replicas-to-write 1";
    assert_eq!(in_transaction(&mut client, &["SET k foreign", refuse]), [ok(), ok()]);
    // The timer has tried several times.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(client.run("EXISTS cachelock:{k}"), int(1));
    assert_eq!(info_of(&mut client, "k", "state"), bulk("fresh"));
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("foreign"));
    assert_eq!(client.run("CONFIG SET min-replicas-to-write 0"), ok());
    assert_eq!(store(&mut client, "k", "late", token), nil());
    assert_eq!(client.run("CACHE.GET k"), bulk("foreign"));
    eventually(SOON, "the record goes", || client.run("EXISTS cachelock:{k}") == int(0));
}

#[test]
fn one_write_of_a_hundred_thousand_values_that_are_loaded_keeps_nobody_waiting() {
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
    // Their records go step by step, and others are answered in between.
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
fn what_others_write_is_copied_only_for_those_who_wait() {
    let server = Checked::start();
    let (mut client, mut control) = (server.client(), server.client());
    load(&mut client, "k 600000");
    load(&mut client, "waited 600000");
    let value = vec![b'x'; 100_000];
    let calls = calls_during(&mut client, |client| {
        assert_eq!(client.cmd(&args!["SET", "k", &value[..]]), ok());
        assert_eq!(client.run("SET k short"), ok());
        let gone = || client.run("EXISTS cachelock:{k}") == int(0);
        eventually(SOON, "the record goes", gone);
    });
    let read: BTreeMap<_, _> = calls.iter().filter(|(name, _)| name.starts_with("get")).collect();
    assert!(read.is_empty(), "{read:?}");
    let mut waiter = server.client();
    send_and_wait(&mut control, "cache", &mut waiter, "CACHE.FETCH waited 600000 BLOCK 0");
    assert_eq!(client.cmd(&args!["SET", "waited", &value[..]]), ok());
    assert_eq!(waiter.read(), array([simple("HIT"), Value::Bulk(value), nil()]));
}

#[test]
fn whoever_waits_for_a_value_is_told_that_its_key_holds_another_type() {
    let server = Checked::start();
    let (mut client, mut control) = (server.client(), server.client());
    load(&mut client, "k 600000");
    let mut waiters = server.clients(2);
    for waiter in &mut waiters {
        send_and_wait(&mut control, "cache", waiter, "CACHE.FETCH k 60000 BLOCK 0");
    }
    client.run("RPUSH list x");
    assert_eq!(client.run("RENAME list k"), ok());
    for waiter in &mut waiters {
        assert!(waiter.read().is_error_with("WRONGTYPE "));
    }
    assert_eq!(client.run("DEL k"), int(1));
    load(&mut client, "k 60000");
}

#[test]
fn whoever_lost_the_permission_while_it_waited_gets_no_value() {
    let server = Checked::start();
    let (mut client, mut control) = (server.client(), server.client());
    assert_eq!(client.run("ACL SETUSER u on nopass ~* +@all"), ok());
    let token = load(&mut client, "k 600000");
    let mut waiters = server.clients(3);
    for (nth, waiter) in waiters.iter_mut().enumerate() {
        if nth == 1 {
            assert_eq!(waiter.run("AUTH u x"), ok());
        }
        send_and_wait(&mut control, "cache", waiter, "CACHE.FETCH k 60000 BLOCK 0");
    }
    assert_eq!(client.run("ACL SETUSER u resetkeys ~other"), ok());
    assert_eq!(store(&mut client, "k", "v", token), ok());
    assert_eq!(waiters[0].read(), hit("v"));
    let reply = waiters[1].read_timeout(Duration::from_secs(5)).expect("it is told");
    assert!(reply.is_error_with("NOPERM "), "{reply:?}");
    assert_eq!(waiters[2].read(), hit("v"));
}

// --- What the server counts and whom it tells.

/// Values of every length and form in memory: a number, one in a block with its key, and long ones.
fn values(client: &mut Client) -> Vec<String> {
    let lengths = [1, 44, 45, 128, 129, 100_000];
    assert_eq!(client.run("SET number 12345"), ok());
    for length in lengths {
        assert_eq!(client.cmd(&args!["SET", format!("v{length}"), vec![b'x'; length]]), ok());
    }
    lengths.iter().map(|length| format!("v{length}")).chain(["number".into()]).collect()
}

#[test]
fn fetch_registers_no_key_for_client_side_caching_whatever_the_size_of_the_value() {
    let server = Checked::start();
    let (mut tracker, mut client) = (server.client3(), server.client());
    let keys = values(&mut client);
    assert_eq!(client.run("CACHE.SET refreshed v 300000"), ok());
    assert_eq!(tracker.run("CLIENT TRACKING ON"), ok());
    for key in &keys {
        assert_eq!(tracker.run(format!("CACHE.FETCH {key} 60000")).items()[0], simple("HIT"));
    }
    for args in
        ["refreshed 60000 STALE 600000", "refreshed 60000 STALE 600000", "cold 60000", "cold 60000"]
    {
        tracker.run(format!("CACHE.FETCH {args}"));
    }
    let tracked = client.info("stats", "tracking_total_keys");
    assert_eq!(tracked.as_deref(), Some("0"));
    // CACHE.GET does, like GET.
    for (nth, key) in (1..).zip(&keys) {
        tracker.run(format!("CACHE.GET {key}"));
        let tracked = client.info("stats", "tracking_total_keys").expect("a number");
        assert_eq!(tracked, nth.to_string(), "{key}");
    }
}

#[test]
fn fetch_is_one_hit_or_one_miss_of_the_server_whatever_the_size_of_the_value() {
    let server = Checked::start();
    let mut client = server.client();
    let keys = values(&mut client);
    assert_eq!(client.run("CACHE.SET refreshed v 300000"), ok());
    let mut counted = |call: &str| {
        let counts = |client: &mut Client| {
            ["keyspace_hits", "keyspace_misses"].map(|name| {
                let count = client.info("stats", name).expect("a number");
                count.parse::<i64>().expect("a number")
            })
        };
        let before = counts(&mut client);
        client.run(call);
        let after = counts(&mut client);
        [after[0] - before[0], after[1] - before[1]]
    };
    for key in &keys {
        assert_eq!(counted(&format!("CACHE.FETCH {key} 60000")), [1, 0], "{key}");
        assert_eq!(counted(&format!("CACHE.FETCH {key} 60000 STALE 1")), [1, 0], "{key}");
    }
    // Refreshed by the first, stale for the second.
    for _ in 0..2 {
        assert_eq!(counted("CACHE.FETCH refreshed 60000 STALE 600000"), [1, 0]);
    }
    // Loaded by the first.
    for _ in 0..2 {
        assert_eq!(counted("CACHE.FETCH cold 60000"), [0, 1]);
    }
    for quiet in
        ["CACHE.INFO cold", "CACHE.INFO v1", "CACHE.LOCK cold 9 9", "CACHE.EXTEND cold 1 9"]
    {
        assert_eq!(counted(quiet), [0, 0], "{quiet}");
    }
}

#[test]
fn to_fetch_a_value_leaves_it_in_the_compact_form_that_it_has_in_memory() {
    let server = Checked::start();
    let mut client = server.client();
    for key in values(&mut client) {
        let form = client.run(format!("OBJECT ENCODING {key}"));
        for args in ["60000", "60000 STALE 1", "60000 STALE 600000"] {
            client.run(format!("CACHE.FETCH {key} {args}"));
        }
        assert_eq!(client.run(format!("OBJECT ENCODING {key}")), form, "{key}");
    }
}
