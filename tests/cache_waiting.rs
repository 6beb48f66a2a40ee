//! Clients that wait for a value: a store answers all of them, any other end of a load makes the
//! first of them, and only the first, the loader.

mod support;
use support::cached::*;
use support::*;

use std::thread;
use std::time::Duration;

#[test]
fn a_store_answers_all_waiting_clients_in_their_protocol() {
    let server = Checked::start();
    let mut client = server.client();
    for options in ["", " NX", " JITTER 10", " TOKEN"] {
        let token = load(&mut client, "k 60000");
        let mut waiters = in_line::<3>(&server, "k 60000");
        let mut three = server.client3();
        send_and_wait(&mut client, "cache", &mut three, "CACHE.FETCH k 60000 BLOCK 60000 FRESH");
        let token = if options == " TOKEN" { format!(" {token}") } else { String::new() };
        assert_eq!(client.run(format!("CACHE.SET k v 300000{options}{token}")), ok());
        all_read(&mut waiters, &hit("v"));
        assert_eq!(three.read(), array([simple("HIT"), bulk("v"), null()]));
        assert_eq!(client.run("DEL k"), int(1));
    }
}

#[test]
fn each_failure_hands_the_lease_to_the_next_client() {
    let server = Checked::start();
    let mut client = server.client();
    let mut token = load(&mut client, "k 60000");
    let mut waiters = in_line::<5>(&server, "k 60000");
    for (number, waiter) in waiters[..4].iter_mut().enumerate() {
        let end = match number {
            3 => "CACHE.INVALIDATE k".into(),
            _ => format!("CACHE.FAIL k {token}"),
        };
        assert_eq!(client.run(end), int(1));
        let next = token_in(&waiter.read());
        assert!(next > token);
        token = next;
        assert_eq!(
            support::waiters(&mut client, "cache"),
            4 - number,
            "only one client gets the lease"
        );
        assert_eq!(client.run("CACHE.FETCH k 60000"), wait());
    }
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 60000 REASON r")), int(1));
    assert_eq!(waiters[4].read(), failed("r"), "a back-off answers all");
}

#[test]
fn an_expired_lease_goes_to_the_first_waiting_client_on_time() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 60000");
    let mut waiters = in_line::<3>(&server, "k 1500");
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 300")), int(1));
    let mut end = client.run("PEXPIRETIME cachelock:{k}").as_int();
    for waiter in &mut waiters[..2] {
        token_in(&waiter.read());
        let now = client.time_ms();
        assert!(now > end, "{} ms early", end - now);
        assert!(now < end + 5_000, "{} ms late", now - end);
        let next = client.run("PEXPIRETIME cachelock:{k}").as_int();
        assert!(next >= end + 1500, "the lease begins with the hand-over");
        end = next;
    }
    // EXTEND moves the end back and forth.
    let token = info_of(&mut client, "k", "token").as_int();
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 50")), int(1));
    token_in(&waiters[2].read());
}

#[test]
fn a_back_off_gives_waiting_fresh_requests_the_stale_value() {
    let server = Checked::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "old");
    let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 60000")), int(1));
    all_read(&mut waiters, &stale("old"));
}

#[test]
fn a_fresh_request_waits_although_there_is_a_stale_value() {
    let server = Checked::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "old");
    // After the time-out it gets the stale value.
    assert_eq!(client.run("CACHE.FETCH k 60000 STALE 600000 BLOCK 20 FRESH"), stale("old"));
    let mut waiters = in_line::<3>(&server, "k 60000 STALE 600000 FRESH");
    // A hand-over includes the old value.
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = token_beside(&waiters[0].read(), &bulk("old"));
    assert_eq!(client.run(format!("CACHE.SET k new 300000 TOKEN {token}")), ok());
    all_read(&mut waiters[1..], &hit("new"));
}

#[test]
fn an_invalidation_makes_the_first_waiting_client_the_loader() {
    let server = Checked::start();
    let mut client = server.client();
    let late = load(&mut client, "k 60000");
    let mut waiters = in_line::<2>(&server, "k 60000");
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    let token = token_in(&waiters[0].read());
    changes_nothing(&mut client, &format!("CACHE.SET k v 1000 TOKEN {late}"), nil());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(waiters[1].read(), hit("v"));
    // A soft invalidation includes the old value.
    refreshing(&mut client, "k", "old");
    let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let token = token_beside(&waiters[0].read(), &bulk("old"));
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(waiters[1].read(), hit("v"));
}

#[test]
fn a_foreign_value_answers_all_waiting_clients() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("SELECT 1"), ok());
    assert_eq!(client.run("SET k x"), ok());
    assert_eq!(client.run("SELECT 0"), ok());
    for write in ["SET k x", "RENAME other k", "COPY other k", "APPEND k x", "SWAPDB 0 1"] {
        assert_eq!(client.run("FLUSHDB"), ok());
        assert_eq!(client.run("SET other x"), ok());
        load(&mut client, "k 60000");
        let mut waiters = in_line::<3>(&server, "k 60000");
        let reply = client.run(write);
        assert!(!reply.is_error(), "{write}: {reply:?}");
        all_read(&mut waiters, &hit("x"));
        wait_until_gone(&mut client, "cachelock:{k}");
    }
}

#[test]
fn a_foreign_delete_makes_the_first_waiting_client_the_loader() {
    let server = Checked::start();
    let mut client = server.client();
    let ends =
        ["DEL k", "UNLINK k", "RENAME k other", "MOVE k 3", "FLUSHALL", "SWAPDB 0 1", "FLUSHDB"];
    for end in ends {
        assert_eq!(client.run("FLUSHALL"), ok());
        let token = refreshing(&mut client, "k", "old");
        let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
        let reply = server.client().run(end);
        assert!(!reply.is_error(), "{end}: {reply:?}");
        let next = token_in(&waiters[0].read());
        assert!(next > token, "{end}");
        assert_eq!(support::waiters(&mut client, "cache"), 1, "{end}: only one");
        changes_nothing(&mut client, &format!("CACHE.SET k v 9 TOKEN {token}"), nil());
        assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {next}")), ok());
        assert_eq!(waiters[1].read(), hit("v"), "{end}");
    }
}

#[test]
fn new_requests_do_not_overtake_waiting_clients() {
    let server = Server::start();
    let mut client = server.client();
    for (request, reply) in
        [("CACHE.LOCK k 60000 60000", simple("WAIT")), ("CACHE.FETCH k 60000", wait())]
    {
        load(&mut client, "k 60000");
        let mut waiters = in_line::<2>(&server, "k 60000");
        // The lease is gone and no timer has run.
        assert_eq!(in_transaction(&mut client, &["DEL cachelock:{k}", request])[1], reply);
        let token = token_in(&waiters[0].read());
        assert_eq!(store(&mut client, "k", "v", token), ok());
        all_read(&mut waiters[1..], &hit("v"));
        assert_eq!(client.run("DEL k"), int(1));
    }
}

#[test]
fn a_killed_loader_is_replaced_when_its_lease_expires() {
    let server = Checked::start();
    let mut client = server.client();
    let mut loader = server.client();
    let token = load(&mut loader, "k 60000");
    let [mut waiter] = in_line(&server, "k 60000");
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 300")), int(1));
    assert_eq!(client.run(format!("CLIENT KILL ID {}", loader.id())), int(1));
    let token = token_in(&waiter.read());
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
}

#[test]
fn nothing_is_written_while_clients_are_paused() {
    let server = Checked::start();
    let mut client = server.client();
    let mut tap = server.replication_tap();
    let [mut asks, mut fetches] = [server.client(), server.client()];
    assert_eq!(client.run("SET warm v"), ok());
    let token = load(&mut client, "k 60000");
    let mut waiters = in_line::<1>(&server, "k 60000");
    // The lease expires during the pause.
    let shorten = format!("CACHE.EXTEND k {token} 100");
    let replies = in_transaction(&mut client, &[&shorten, "CLIENT PAUSE 600000 WRITE"]);
    assert_eq!(replies, [int(1), ok()]);
    tap.commands();
    asks.send("CACHE.FETCH none 60000");
    fetches.send("CACHE.FETCH warm 60000");
    wait_until_gone(&mut client, "cachelock:{k}");
    assert_eq!(client.run("CACHE.GET warm"), bulk("v"));
    assert!(tap.commands().iter().all(|command| command.name() == "DEL"), "only expired keys");
    assert_eq!(support::waiters(&mut client, "cache"), 1, "no hand-over now");
    assert_eq!(client.run("CLIENT UNPAUSE"), ok());
    token_in(&waiters[0].read());
    token_in(&asks.read());
    assert_eq!(fetches.read(), hit("v"));
}

#[test]
fn with_full_memory_leases_end_and_the_hand_over_comes_later() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 60000");
    let invalidated = refreshing(&mut client, "soft", "old");
    let [mut waiter] = in_line(&server, "k 60000");
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(client.run("CACHE.INVALIDATE soft STALE 100000"), int(1));
    assert_eq!(client.run(format!("CACHE.EXTEND soft {invalidated} 90000")), int(0));
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1), "the loader gets no error");
    assert_eq!(waiters(&mut client, "cache"), 1);
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    assert!(token_in(&waiter.read()) > token);
}

#[test]
fn ten_thousand_waiting_clients_are_answered_in_waves() {
    const CLIENTS: usize = 10_000;
    const SIZE: usize = 100_000;
    fn memory(client: &mut Client) -> usize {
        let peak = client.info("memory", "used_memory_peak").expect("a peak");
        peak.parse().expect("a number")
    }
    /// A gigabyte is sent.
    const TIMEOUT: Duration = Duration::from_secs(60);
    let options = Server::builder().arg("--maxclients").arg("12000");
    let server = Checked::new(options.start());
    let mut control = server.client();
    let token = load(&mut control, "k 600000");
    let mut clients = server.clients(CLIENTS);
    for client in &mut clients {
        client.send("CACHE.FETCH k 60000 BLOCK 0");
    }
    eventually(SOON, "all wait", || waiters(&mut control, "cache") == CLIENTS);
    assert_eq!(control.run("CONFIG SET corral.wake-bytes 4000000"), ok());

    let value = "v".repeat(SIZE);
    let expected = format!("*3\r\n+HIT\r\n${SIZE}\r\n{value}\r\n$-1\r\n");
    let set = args!["CACHE.SET", "k", value, 600_000, "TOKEN", token];
    let readers = thread::spawn(move || {
        let mut reply = vec![0; expected.len()];
        for client in &mut clients {
            client.read_exact(&mut reply);
            assert!(reply == expected.as_bytes(), "not the value");
        }
        clients
    });
    let before = memory(&mut control);
    assert_eq!(control.cmd(&set), ok());
    // Round trips between two waves.
    let mut between = 0;
    let answered = || {
        assert_eq!(control.run("PING"), simple("PONG"));
        let left = waiters(&mut control, "cache");
        between += usize::from((1..CLIENTS).contains(&left));
        left == 0
    };
    eventually(TIMEOUT, "all are answered", answered);
    assert!(between > 5, "only {between} round trips between the waves");
    readers.join().expect("all clients have the value");
    let more = memory(&mut control) - before;
    assert!(more < SIZE * CLIENTS / 2, "all replies were in memory at once: {more} bytes");
    assert_eq!(total(&mut control, "coalesced"), CLIENTS as i64);
    assert_eq!(total(&mut control, "loads"), 1);
}
