//! Bounds: whatever a queue holds, one call works for a short time, moves a bounded number of tasks
//! and remembers a bounded number of bytes.

mod support;
use support::consumers::*;
use support::*;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the server may work on one command.
const TURN: Duration = Duration::from_millis(150);

/// The reply of a command and how long the server worked on it.
#[track_caller]
fn work(server: &Server, client: &mut Client, call: &[impl AsRef<[u8]>]) -> (Value, Duration) {
    let (begin, before) = (Instant::now(), server.cpu_time());
    let reply = client.cmd(call);
    (reply, (server.cpu_time() - before).min(begin.elapsed()))
}

// ---------------------------------------------------------------------------------------------
// Steps of one call
// ---------------------------------------------------------------------------------------------

#[test]
fn one_call_moves_a_bounded_number_of_tasks() {
    let server = Server::start();
    let mut client = server.client();
    const MANY: usize = 300;
    // Dead letters: more of them while there is nothing to deliver.
    for (many, ready, most) in [(5000, 0, 1024), (MANY, MANY, 128)] {
        client.run("FLUSHALL");
        assert_eq!(client.run("TASK.POLICY q LEASE 20 TRIES 1"), ok());
        client.pipeline(&vec!["TASK.PUBLISH q p"; many]);
        assert_eq!(client.consume("g", "c", "q", 10_000).len(), many);
        wait_until_older(&mut client, "q", 20);
        client.pipeline(&vec!["TASK.PUBLISH q p"; ready]);
        let mut dead = 0;
        while dead < many as i64 {
            assert_eq!(client.consume("g", "c", "q", 1).len(), ready.min(1));
            let now = client.run(format!("XLEN {DEAD}")).as_int();
            assert!((1..=most).contains(&(now - dead)), "{dead} and then {now}");
            dead = now;
        }
    }
    // Due tasks.
    client.run("FLUSHALL");
    client.pipeline(&vec!["TASK.PUBLISH q p DELAY 1"; MANY]);
    let start = client.time_ms();
    eventually(SOON, "all are due", || client.time_ms() > start + 5);
    let (mut seen, mut left) = (1, MANY as i64);
    while left > 0 {
        assert_eq!(client.consume("g", "c", "q", 1).len(), 1);
        let now = client.run(format!("ZCARD {DELAYED}")).as_int();
        assert!((1..=128).contains(&(left - now)), "{left} and then {now}");
        (seen, left) = (seen + 1, now);
    }
    assert_eq!(client.consume("g", "c", "q", 1000).len() + seen - 1, MANY);
    // As many as COUNT asks for, if that is more.
    assert_eq!(client.run("TASK.POLICY q LEASE 20"), ok());
    wait_until_older(&mut client, "q", 20);
    let again = client.consume("g", "other", "q", 1000);
    assert_eq!(again.iter().map(|task| &task.id).collect::<BTreeSet<_>>().len(), MANY);
    assert!(again.iter().all(|task| task.deliveries == 2));
}

#[test]
fn a_task_comes_behind_any_number_of_tasks_that_cannot_be_moved() {
    const REFUSED: i64 = 100_000;
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &[format!("SET {} x", stream(5))]);
    let script = "for i = 1, ARGV[1] do \
        redis.call('ZADD', KEYS[1], i, i .. '-1001700000000000000 5 0 - p') end";
    assert!(client.cmd(&args!["EVAL", script, 1, DELAYED, REFUSED]).is_nil());
    let behind = format!("{}-1001700000000000000 0 0 - behind", REFUSED + 1);
    assert_eq!(client.cmd(&args!["ZADD", DELAYED, REFUSED + 1, behind]), int(1));
    let got = eventually(SOON, "the task behind them comes", || {
        let (got, took) = work(&server, &mut client, &["TASK.CONSUME", "g", "c", "q"]);
        assert!(took < TURN, "{took:?}");
        (!got.is_nil() && !got.is_error()).then_some(got)
    });
    assert_eq!(got.task_payloads(), ["behind"]);
}

#[test]
fn calls_stay_short_with_twenty_thousand_groups() {
    const GROUPS: usize = 20_000;
    let server = Server::start();
    let mut client = server.client();
    let script = "for i = 1, ARGV[1] do redis.call('XGROUP', 'CREATE', KEYS[1], 'g' .. i, 0, 'MKSTREAM') end";
    assert!(client.cmd(&args!["EVAL", script, 1, "q", GROUPS]).is_nil());
    let ids: Vec<_> = (0..200).map(|_| client.publish("q", "p")).collect();
    let call = |words: &[&str], ids: &[String]| -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).chain(ids.iter().cloned()).collect()
    };
    let (reply, took) = work(&server, &mut client, &["TASK.CONSUME", "g1", "c", "q", "100"]);
    assert_eq!(reply.task_ids().len(), 100);
    assert!(took < TURN, "CONSUME {took:?}");
    let (reply, took) = work(&server, &mut client, &call(&["TASK.ACK", "q", "g1"], &ids[..50]));
    assert_eq!(reply, int(50));
    assert!(took < TURN, "ACK {took:?}");
    let nack = ["TASK.NACK", "q", "g1", "c", "FAIL", &ids[60]];
    let (reply, took) = work(&server, &mut client, &nack);
    assert_eq!(reply, int(1));
    assert!(took < TURN, "NACK {took:?}");
    let (_, took) = work(&server, &mut client, &call(&["TASK.CANCEL", "q"], &ids[100..]));
    assert!(took < TURN, "CANCEL {took:?}");
}

#[test]
fn calls_stay_short_with_three_hundred_thousand_consumers() {
    const NAMES: usize = 300_000;
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM"]);
    let script = "for i = ARGV[1], ARGV[2] do \
        redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], 'g', 'c' .. i) end";
    for first in (0..NAMES).step_by(10_000) {
        let call = args!["EVAL", script, 1, "q", first, first + 9_999];
        assert!(client.cmd(&call).is_nil());
    }
    client.publish("q", "p");
    for _ in 0..3 {
        let (reply, took) = work(&server, &mut client, &["TASK.CONSUME", "g", "c", "q"]);
        assert!(!reply.is_error(), "{reply:?}");
        assert!(took < TURN, "{took:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------

#[test]
fn consume_creates_at_most_as_many_groups_as_configured() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["CONFIG SET corral.task-groups 2"]);
    for priority in [0, 3] {
        run_all(&mut client, &["FLUSHALL"]);
        let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
        for group in ["g", "h"] {
            assert_eq!(client.lease(group, "c", "q"), id);
        }
        let before = Keyspace::of(&mut client);
        for options in ["", " BLOCK 60000", " META"] {
            let refused = client.run(format!("TASK.CONSUME third c q{options}"));
            assert!(refused.is_error_with("TASKGROUPS "), "{refused:?}");
            assert!(Keyspace::of(&mut client) == before);
        }
        // Present groups go on, and a destroyed one makes room.
        assert_eq!(client.consume("g", "c", "q", 1), []);
        assert_eq!(client.run("XGROUP DESTROY q h"), int(1));
        if priority > 0 {
            run_all(&mut client, &["XGROUP DESTROY priority3:{q} h"]);
        }
        assert_eq!(client.lease("third", "c", "q"), id);
    }
}

#[test]
fn above_the_limit_of_groups_ack_deletes_nothing_and_cancel_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["CONFIG SET corral.task-groups 2"]);
    for group in ["g", "h", "i"] {
        run_all(&mut client, &[format!("XGROUP CREATE q {group} 0 MKSTREAM")]);
    }
    let id = client.publish("q", "p");
    for group in ["g", "h", "i"] {
        assert_eq!(client.lease(group, "c", "q"), id);
        assert_eq!(client.run(format!("TASK.ACK q {group} {id}")), int(1));
    }
    assert_eq!(client.run("XLEN q"), int(1), "the entry is kept");
    let warnings = server.log().matches("more consumer groups than corral.task-groups").count();
    assert_eq!(warnings, 1);
    let ready = client.publish("q", "p");
    let refused = client.run(format!("TASK.CANCEL q {ready}"));
    assert!(refused.is_error_with("TASKGROUPS "), "{refused:?}");
    // With fewer groups everything is as before.
    run_all(&mut client, &["XGROUP DESTROY q i"]);
    assert_eq!(client.run(format!("TASK.CANCEL q {ready}")), int(1));
    let id = client.publish("q", "p");
    for group in ["g", "h"] {
        assert_eq!(client.lease(group, "c", "q"), id);
        assert_eq!(client.run(format!("TASK.ACK q {group} {id}")), int(1));
    }
    assert!(!client.ids_in("q").contains(&id));
}

// ---------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------

#[test]
fn refused_groups_and_queues_are_not_remembered() {
    let padding = "x".repeat(500);
    for (refuse, code) in [("SET q text", "WRONGTYPE "), ("CONFIG SET maxmemory 1", "OOM ")] {
        let server = Server::start();
        let mut client = server.client();
        client.publish("q", "p");
        assert_eq!(client.consume_payloads("g", "q", 1), ["p"]);
        assert_eq!(client.run(refuse), ok());
        // Names of more than 10 MB.
        grows_by_less_than(&mut client, 4_000_000, |client| {
            for hundred in 0..200 {
                let consume = |n| match (code, n % 2) {
                    ("OOM ", 0) => format!("TASK.CONSUME g c {hundred}-{n}{padding}"),
                    _ => format!("TASK.CONSUME {hundred}-{n}{padding} c q"),
                };
                let replies = client.pipeline(&(0..100).map(consume).collect::<Vec<_>>());
                assert!(replies.iter().all(|reply| reply.is_error_with(code)));
            }
        });
    }
}

#[test]
fn unknown_names_in_calls_are_not_remembered() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("q", "p");
    assert_eq!(client.consume_payloads("g", "q", 1), ["p"]);
    let padding = "x".repeat(1_000);
    grows_by_less_than(&mut client, 5_000_000, |client| {
        for round in 0..200 {
            let calls = |n: i64| {
                let name = format!("{round}-{n}{padding}");
                let rest = ["g 1-1", "g c 1-1", ""];
                ["ACK", "EXTEND", "INFO"]
                    .into_iter()
                    .zip(rest)
                    .map(move |(command, rest)| format!("TASK.{command} {name} {rest}"))
                    .collect::<Vec<_>>()
            };
            client.pipeline(&(0..100).flat_map(calls).collect::<Vec<_>>());
        }
    });
}

#[test]
fn the_memory_for_many_queues_is_bounded() {
    let server = Server::start();
    let mut client = server.client();
    let padding = "x".repeat(1_000_000);
    client.publish("q", "p");
    assert_eq!(client.consume_payloads("g", "q", 1), ["p"]);
    let used = |client: &mut Client| -> i64 {
        client.info("memory", "used_memory").expect("a number").parse().expect("a number")
    };
    // The keyspace holds each name of a queue, and that of its group.
    let before = used(&mut client);
    for number in 0..100 {
        let name = format!("{number}{padding}");
        assert!(client.cmd(&["TASK.CONSUME", &name, "c", &name]).is_nil());
    }
    let grown = used(&mut client) - before;
    assert!(grown < 290_000_000, "{grown}");
}

#[test]
fn leases_that_never_expire_are_not_remembered() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 0"), ok());
    let round = |client: &mut Client| {
        client.pipeline(&vec!["XADD tasks * payload p"; 1000]);
        let reply = client.run("TASK.CONSUME g c tasks 1000");
        let ids = reply.task_ids().join(" ");
        // A plain client finishes them without the knowledge of the module.
        assert_eq!(client.run(format!("XACK tasks g {ids}")), int(1000));
        assert_eq!(client.run(format!("XDEL tasks {ids}")), int(1000));
    };
    round(&mut client);
    // An id and a time for each of 100,000 tasks.
    grows_by_less_than(&mut client, 2_000_000, |client| (0..100).for_each(|_| round(client)));
}

#[test]
fn flushed_queues_are_not_remembered() {
    let server = Server::start();
    let mut client = server.client();
    let name = "x".repeat(1_000_000);
    client.publish_with("tasks", "p", "PRIORITY 1");
    // 20 MB of names.
    grows_by_less_than(&mut client, 5_000_000, |client| {
        for n in 0..20 {
            client.publish_with(&format!("{name}{n}"), "p", "PRIORITY 1");
        }
        assert_eq!(client.run("FLUSHALL"), ok());
    });
}
