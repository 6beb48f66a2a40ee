//! The order of delivery, and what must not block it: due tasks come by priority, a batch is as
//! full as COUNT asks, nil means that there is no task, and neither a task that cannot be moved nor
//! a key of another type blocks the others. Entries that XNACK returned are delivered again.

mod support;
use support::consumers::{DEAD, DELAYED};
use support::*;

const FIVE: &str = "priority5:{q}";

/// Publishes `count` tasks with the payload `low`.
#[track_caller]
fn publish_low(client: &mut Client, count: usize, options: &str) {
    let publish = format!("TASK.PUBLISH q low {options}");
    let replies = client.pipeline(&vec![publish; count]);
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

/// The payloads of the next tasks of the group `g`.
#[track_caller]
fn payloads(client: &mut Client, count: usize) -> Vec<String> {
    let tasks = client.consume("g", "c", "q", count.try_into().expect("a count"));
    tasks.iter().map(|task| task.payload().to_owned()).collect()
}

/// Adds a copy for a group to the delayed tasks, which has been due for a while.
fn add_due_copy(client: &mut Client, number: i64, group: &str, payload: &str) {
    let member = format!("{number}-1001700000000000000:1-1 0 1 {group} {payload}");
    assert_eq!(client.cmd(&["ZADD", DELAYED, &number.to_string(), &member]), int(1));
}

/// Whether the server has a command.
fn has(client: &mut Client, command: &str) -> bool {
    let known = client.run(format!("COMMAND INFO {command}"));
    !known.items()[0].is_nil()
}

// ---------------------------------------------------------------------------------------------
// The order of delivery
// ---------------------------------------------------------------------------------------------

#[test]
fn due_tasks_come_by_priority() {
    let server = Server::start();
    let mut client = server.client();
    for low in [1, 15, 16, 17, 500, 4097, 9000] {
        for waits in [false, true] {
            run_all(&mut client, &["FLUSHALL", "TASK.POLICY q PAUSED 1"]);
            // The module knows the queue now.
            assert_eq!(client.consume("g", "c", "q", 1), []);
            let due = client.time_ms() + 20;
            publish_low(&mut client, low, &format!("AT {due}"));
            client.publish_with("q", "five", &format!("AT {due} PRIORITY 5"));
            client.publish_with("q", "nine", &format!("AT {due} PRIORITY 9"));
            client.wait_past(due);
            if waits {
                let mut waiter = server.client();
                server.wait_with(&mut waiter, "TASK.CONSUME g c q COUNT 3 BLOCK 0 META");
                run_all(&mut client, &["TASK.POLICY q PAUSED 0"]);
                let got: Vec<_> = waiter
                    .read()
                    .delivered()
                    .iter()
                    .map(|task| task.payload().to_owned())
                    .collect();
                assert_eq!(got, ["nine", "five", "low"], "{low}");
            } else {
                run_all(&mut client, &["TASK.POLICY q PAUSED 0"]);
                for payload in ["nine", "five", "low"] {
                    assert_eq!(payloads(&mut client, 1), [payload], "{low}");
                }
            }
        }
    }
}

#[test]
fn due_tasks_come_by_priority_after_a_restart() {
    let mut server = Server::builder().aof(true).start();
    let mut client = server.client();
    publish_low(&mut client, 100, "DELAY 1");
    client.publish_with("q", "nine", "DELAY 2 PRIORITY 9");
    client.wait_ms(5);
    server.restart();
    let mut client = server.client();
    assert_eq!(payloads(&mut client, 2), ["nine", "low"]);
}

#[test]
fn a_batch_is_as_full_as_count_asks() {
    let server = Server::start();
    let mut client = server.client();
    // Numbers of due tasks, expired leases and new tasks.
    for [due, over, new] in
        [[1000, 0, 0], [5000, 0, 0], [0, 5000, 0], [400, 400, 400], [600, 500, 0], [3, 130, 1]]
    {
        run_all(&mut client, &["FLUSHALL", "TASK.POLICY q LEASE 20"]);
        publish_low(&mut client, over, "");
        if over > 0 {
            assert_eq!(payloads(&mut client, over).len(), over);
        }
        publish_low(&mut client, due, "DELAY 1");
        publish_low(&mut client, new, "");
        client.wait_ms(25);
        let all = due + over + new;
        // The leases of one call may have expired at the next.
        assert_eq!(
            payloads(&mut client, all - 1).len(),
            all - 1,
            "{due} due, {over} over, {new} new"
        );
    }
}

#[test]
fn nil_means_that_there_is_no_task() {
    let server = Server::start();
    let mut client = server.client();
    for others in [1, 15, 16, 17, 40, 300, 900] {
        for plain in [false, true] {
            run_all(
                &mut client,
                &["FLUSHALL", "XGROUP CREATE q g 0 MKSTREAM", "XGROUP CREATE q h 0"],
            );
            assert_eq!(client.consume("g", "c", "q", 1), []);
            for number in 0..others {
                add_due_copy(&mut client, number + 1, "h", "other");
            }
            add_due_copy(&mut client, others + 1, "g", "mine");
            if plain {
                let task = client.run("TASK.CONSUME g c q");
                assert_eq!(task.task_payloads(), ["mine"], "behind {others}");
            } else {
                assert_eq!(payloads(&mut client, 1), ["mine"], "behind {others}");
            }
            assert_eq!(payloads(&mut client, 1), [] as [&str; 0]);
            let theirs = client.consume("h", "c", "q", 5000);
            assert_eq!(theirs.len() as i64, others, "nothing is lost");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// What must not block a delivery
// ---------------------------------------------------------------------------------------------

/// Publishes tasks whose priority stream is of another type when they are due, and one behind them.
#[track_caller]
fn publish_refused(client: &mut Client, refused: usize) {
    // In one step: none of them is due before the key is written.
    let script = "local now = redis.call('TIME') \
        local due = now[1] * 1000 + math.floor(now[2] / 1000) + 700 \
        for i = 1, ARGV[1] do \
            redis.call('TASK.PUBLISH', KEYS[1], 'low', 'AT', due, 'PRIORITY', 5) end \
        redis.call('TASK.PUBLISH', KEYS[1], 'behind', 'AT', due + 1) \
        redis.call('SET', KEYS[2], 'x')";
    assert!(client.cmd(&args!["EVAL", script, 2, "q", FIVE, refused]).is_nil());
}

#[test]
fn due_tasks_that_cannot_enter_their_stream_block_nothing_behind_them() {
    let server = Server::start();
    let mut client = server.client();
    for refused in [1, 16, 17, 300, 3000] {
        for waits in [false, true] {
            run_all(&mut client, &["FLUSHALL"]);
            let mut waiter = server.client();
            let got = if waits {
                server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0");
                publish_refused(&mut client, refused);
                waiter.read()
            } else {
                publish_refused(&mut client, refused);
                eventually(SOON, "the task behind them comes", || {
                    let got = client.run("TASK.CONSUME g c q");
                    (!got.is_nil() && !got.is_error()).then_some(got)
                })
            };
            assert_eq!(got.task_payloads(), ["behind"]);
            assert_eq!(client.run("TASK.CONSUME g c q"), error(WRONG_TYPE));
            // Another one behind them, which comes while the module remembers the refusal.
            client.publish_with("q", "later", "DELAY 20");
            let got = eventually(SOON, "the later task comes", || {
                let got = client.run("TASK.CONSUME g c q");
                (!got.is_nil() && !got.is_error()).then_some(got)
            });
            assert_eq!(got.task_payloads(), ["later"]);
            // They come when they can.
            assert_eq!(client.run(format!("DEL {FIVE}")), int(1));
            let mut come = 0;
            eventually(SOON, "all come", || {
                come += payloads(&mut client, refused).len();
                come == refused
            });
        }
    }
}

#[test]
fn a_waiting_consumer_gets_the_next_due_task_after_one_that_cannot_be_moved() {
    let server = Server::start();
    let mut client = server.client();
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g w q 1 60000");
    let begin = client.time_ms();
    client.publish_with("q", "zero", "DELAY 600");
    client.publish_with("q", "five", "DELAY 100 PRIORITY 5");
    run_all(&mut client, &[format!("SET {FIVE} x")]);
    assert_eq!(waiter.read().task_payloads(), ["zero"]);
    assert!(client.time_ms() - begin < 5_000, "it came late");
}

#[test]
fn a_refused_consume_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    let add_due = |client: &mut Client| {
        let member = "1-1001700000000000000 5 0 - p";
        assert_eq!(client.cmd(&["ZADD", DELAYED, "1", member]), int(1));
    };
    for (make, with_due) in [
        (format!("SET {FIVE} x"), false),
        (format!("SET {FIVE} x"), true),
        (format!("SADD {DELAYED} x"), false),
        ("SET policy:{q} x".to_owned(), false),
    ] {
        for options in ["", " COUNT 10 META", " BLOCK 60000"] {
            run_all(&mut client, &["FLUSHALL", &make]);
            if with_due {
                add_due(&mut client);
            }
            let before = Keyspace::of(&mut client);
            for _ in 0..2 {
                let call = format!("TASK.CONSUME g c q{options}");
                assert_eq!(client.run(&call), error(WRONG_TYPE), "{make}: {call}");
                assert!(Keyspace::of(&mut client) == before, "{make}: {call}");
            }
        }
    }
}

#[test]
fn a_key_of_another_type_does_not_block_deliverable_tasks() {
    let server = Server::start();
    let mut client = server.client();
    for make in [format!("SET {FIVE} x"), format!("SADD {DELAYED} x")] {
        run_all(&mut client, &["FLUSHALL", &make]);
        client.publish_with("q", "nine", "PRIORITY 9");
        client.publish("q", "zero");
        assert_eq!(payloads(&mut client, 1), ["nine"]);
        assert_eq!(payloads(&mut client, 9), ["zero"]);
        assert_eq!(client.run("TASK.CONSUME g c q"), error(WRONG_TYPE));
    }
}

#[test]
fn leases_of_a_priority_stream_that_was_replaced_block_nothing() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["TASK.POLICY q LEASE 20"]);
    client.publish_with("q", "five", "PRIORITY 5");
    assert_eq!(payloads(&mut client, 1), ["five"]);
    in_transaction(&mut client, &[format!("DEL {FIVE}"), format!("SET {FIVE} x")]);
    client.wait_ms(25);
    client.publish("q", "zero");
    assert_eq!(payloads(&mut client, 9), ["zero"]);
}

// ---------------------------------------------------------------------------------------------
// XNACK
// ---------------------------------------------------------------------------------------------

#[test]
fn an_entry_that_xnack_returned_is_delivered_next() {
    let server = Server::start();
    let mut client = server.client();
    if !has(&mut client, "XNACK") {
        return;
    }
    for (mode, counted) in [("SILENT", 1), ("FAIL", 2)] {
        for priority in [0, 4] {
            for policy in ["LEASE 600000", "LEASE 0"] {
                for pending in [0, 3000] {
                    for waits in [false, true] {
                        run_all(
                            &mut client,
                            &["FLUSHALL".into(), format!("TASK.POLICY q {policy}")],
                        );
                        publish_low(&mut client, pending, &format!("PRIORITY {priority}"));
                        let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
                        assert_eq!(payloads(&mut client, pending + 1).len(), pending + 1);
                        let mut waiter = server.client();
                        if waits {
                            server.wait_with(&mut waiter, "TASK.CONSUME g w q BLOCK 0 META");
                        }
                        let stream = priority_stream("q", priority);
                        let nack = format!("XNACK {stream} g {mode} IDS 1 {id}");
                        let begin = client.time_ms();
                        assert_eq!(client.run(nack), int(1));
                        let got = if waits {
                            waiter.read().delivered()
                        } else {
                            client.consume("g", "w", "q", 1)
                        };
                        let took = client.time_ms() - begin;
                        let what = format!("{mode} {priority} {policy} {pending} {waits}");
                        assert_eq!(got.len(), 1, "{what}");
                        assert_eq!((&*got[0].id, got[0].idle), (&*id, 0), "{what}");
                        assert_eq!(got[0].deliveries, counted, "{what}");
                        assert!(took < 3_000, "{what}: after {took} ms");
                        assert_eq!(client.consume("g", "w", "q", 9), [], "{what}: once");
                        let ack = format!("TASK.ACK q g {id}");
                        assert_eq!(client.run(ack), int(1), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_entry_that_xnack_declares_fatal_is_dead_lettered() {
    let server = Server::start();
    let mut client = server.client();
    if !has(&mut client, "XNACK") {
        return;
    }
    for policy in ["TRIES 20", "TRIES 0", "LEASE 0"] {
        for waits in [false, true] {
            run_all(&mut client, &["FLUSHALL".into(), format!("TASK.POLICY q {policy}")]);
            let id = client.publish_with("q", "p", "");
            assert_eq!(client.lease("g", "c", "q"), id);
            let mut waiter = server.client();
            if waits {
                server.wait_with(&mut waiter, "TASK.CONSUME g w q BLOCK 0 META");
            }
            assert_eq!(client.run(format!("XNACK q g FATAL IDS 1 {id}")), int(1));
            if !waits {
                assert_eq!(client.consume("g", "c", "q", 1), []);
            }
            eventually(SOON, "it is a dead letter", || {
                client.run(format!("XLEN {DEAD}")) == int(1)
            });
            let dead = client.only_task_in(DEAD).fields;
            let expected = format!(
                "payload=p timestamp=now retry_count=1 original_id={id} reason=fatal deliveries=1"
            );
            assert_eq!(dead, expected, "{policy}");
            assert_eq!(client.leased_ids("q", "g"), [] as [&str; 0]);
            assert_eq!(client.run("XLEN q"), int(0));
        }
    }
}

#[test]
fn an_entry_that_xnack_returned_has_no_holder() {
    let server = Server::start();
    let mut client = server.client();
    if !has(&mut client, "XNACK") {
        return;
    }
    let id = client.publish("q", "p");
    client.publish("q", "other");
    assert_eq!(payloads(&mut client, 2), ["p", "other"]);
    assert_eq!(client.run(format!("XNACK q g FAIL IDS 1 {id}")), int(1));
    assert_eq!(client.run(format!("TASK.EXTEND q g c {id}")), int(0));
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id}")), int(0));
    assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(0));
    let info = client.run("TASK.INFO q");
    let group = &info.get("groups").items()[0];
    assert_eq!((group.get("ready"), group.get("leased")), (&int(1), &int(1)));
    assert!(group.get("oldest_leased_ms").as_int() < 600_000);
    // A consumer that has finished it may still acknowledge it.
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.consume("g", "c", "q", 9), []);
}
