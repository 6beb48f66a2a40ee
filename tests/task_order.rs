//! What a consumer gets first, and what may stand in its way: due tasks come by their priority, a
//! batch is as full as its COUNT, and nil means that there is nothing. What one task or one key
//! cannot do keeps back no other. However a queue is prepared, one call does a bounded amount of
//! work and remembers a bounded number of bytes.

mod support;
use support::*;

use std::time::{Duration, Instant};

const DELAYED: &str = "delayed:{q}";
const FIVE: &str = "priority5:{q}";
const DEAD: &str = "dead:{q}";
const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// Waits until the server's clock is past a moment.
#[track_caller]
fn wait_past(client: &mut Client, end: i64) {
    eventually(SOON, "time passes", || client.time_ms() > end);
}

/// Publishes `count` tasks with the payload `low`, and then one with another payload and options.
#[track_caller]
fn publish_low(client: &mut Client, count: usize, options: &str) {
    let publish = format!("TASK.PUBLISH q low {options}");
    let replies = client.pipeline(&vec![publish; count]);
    assert!(replies.iter().all(|reply| !reply.is_error()));
}

/// The payloads of what a consumer of the group `g` is given.
#[track_caller]
fn payloads(client: &mut Client, count: usize) -> Vec<String> {
    let tasks = client.consume("g", "c", "q", count.try_into().expect("a count"));
    tasks.iter().map(payload_of).collect()
}

fn payload_of(task: &Delivered) -> String {
    let payload = task.fields.split(' ').find_map(|field| field.strip_prefix("payload="));
    payload.expect("a payload").to_owned()
}

/// A delayed task of a group, as a copy of it is stored, that has been due for a while.
fn add_due_copy(client: &mut Client, number: i64, group: &str, payload: &str) {
    let member = format!("{number}-1001700000000000000:1-1 0 1 {group} {payload}");
    assert_eq!(client.cmd(&["ZADD", DELAYED, &number.to_string(), &member]), int(1));
}

/// Whether the server has a command.
fn has(client: &mut Client, command: &str) -> bool {
    let known = client.run(format!("COMMAND INFO {command}"));
    !known.items()[0].is_nil()
}

/// How long the server works on one command.
#[track_caller]
fn work(server: &Server, client: &mut Client, call: &[impl AsRef<[u8]>]) -> (Value, Duration) {
    let (begin, before) = (Instant::now(), server.cpu_time());
    let reply = client.cmd(call);
    (reply, (server.cpu_time() - before).min(begin.elapsed()))
}

/// For how long a server may work on one command before any other client has its turn.
const TURN: Duration = Duration::from_millis(150);

// ---------------------------------------------------------------------------------------------
// The order
// ---------------------------------------------------------------------------------------------

#[test]
fn a_due_task_of_a_higher_priority_is_never_behind_a_lower_one() {
    let server = Server::start();
    let mut client = server.client();
    for low in [1, 15, 16, 17, 500, 4097, 9000] {
        for waits in [false, true] {
            run_all(&mut client, &["FLUSHALL", "TASK.POLICY q PAUSED 1"]);
            // The queue is known, or not.
            assert_eq!(client.consume("g", "c", "q", 1), []);
            let due = client.time_ms() + 20;
            publish_low(&mut client, low, &format!("AT {due}"));
            client.publish_with("q", "five", &format!("AT {due} PRIORITY 5"));
            client.publish_with("q", "nine", &format!("AT {due} PRIORITY 9"));
            wait_past(&mut client, due);
            if waits {
                let mut waiter = server.client();
                server.wait_with(&mut waiter, "TASK.CONSUME g c q COUNT 3 BLOCK 0 META");
                run_all(&mut client, &["TASK.POLICY q PAUSED 0"]);
                let told: Vec<_> = waiter.read().delivered().iter().map(payload_of).collect();
                assert_eq!(told, ["nine", "five", "low"], "{low}");
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
fn after_a_restart_due_tasks_still_come_by_their_priority() {
    let mut server = Server::builder().aof(true).start();
    let mut client = server.client();
    publish_low(&mut client, 100, "DELAY 1");
    client.publish_with("q", "nine", "DELAY 2 PRIORITY 9");
    let now = client.time_ms();
    wait_past(&mut client, now + 5);
    server.restart();
    let mut client = server.client();
    assert_eq!(payloads(&mut client, 2), ["nine", "low"]);
}

#[test]
fn a_batch_is_as_full_as_count_asks() {
    let server = Server::start();
    let mut client = server.client();
    // Of what is due, what was leased for too long, and what is new, as many as there are.
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
        let now = client.time_ms();
        wait_past(&mut client, now + 25);
        let all = due + over + new;
        // What one call leases may be over again at the next one.
        assert_eq!(
            payloads(&mut client, all - 1).len(),
            all - 1,
            "{due} due, {over} over, {new} new"
        );
    }
}

#[test]
fn nil_means_that_there_is_nothing() {
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
// What stands in the way
// ---------------------------------------------------------------------------------------------

/// Publishes tasks of a priority that has no place when they are due, and one behind them.
#[track_caller]
fn publish_refused(client: &mut Client, refused: usize) {
    // In one step: none of them is due before its place is taken.
    let script = "local now = redis.call('TIME') \
        local due = now[1] * 1000 + math.floor(now[2] / 1000) + 700 \
        for i = 1, ARGV[1] do \
            redis.call('TASK.PUBLISH', KEYS[1], 'low', 'AT', due, 'PRIORITY', 5) end \
        redis.call('TASK.PUBLISH', KEYS[1], 'behind', 'AT', due + 1) \
        redis.call('SET', KEYS[2], 'x')";
    assert!(client.cmd(&args!["EVAL", script, 2, "q", FIVE, refused]).is_nil());
}

#[test]
fn due_tasks_without_a_place_keep_back_nothing_behind_them() {
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
                eventually(SOON, "it is not kept back", || {
                    let got = client.run("TASK.CONSUME g c q");
                    (!got.is_nil() && !got.is_error()).then_some(got)
                })
            };
            assert_eq!(got.task_payloads(), ["behind"]);
            assert_eq!(client.run("TASK.CONSUME g c q"), error(WRONG_TYPE));
            // Another one behind them, which comes while they are known to be refused.
            client.publish_with("q", "later", "DELAY 20");
            let got = eventually(SOON, "it comes", || {
                let got = client.run("TASK.CONSUME g c q");
                (!got.is_nil() && !got.is_error()).then_some(got)
            });
            assert_eq!(got.task_payloads(), ["later"]);
            // And they come when they can.
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
fn any_number_of_refused_tasks_is_passed_by() {
    const REFUSED: i64 = 100_000;
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &[format!("SET {FIVE} x")]);
    let script = "for i = 1, ARGV[1] do \
        redis.call('ZADD', KEYS[1], i, i .. '-1001700000000000000 5 0 - p') end";
    assert!(client.cmd(&args!["EVAL", script, 1, DELAYED, REFUSED]).is_nil());
    let behind = format!("{}-1001700000000000000 0 0 - behind", REFUSED + 1);
    assert_eq!(client.cmd(&args!["ZADD", DELAYED, REFUSED + 1, behind]), int(1));
    let got = eventually(SOON, "it is not kept back", || {
        let (got, took) = work(&server, &mut client, &["TASK.CONSUME", "g", "c", "q"]);
        assert!(took < TURN, "{took:?}");
        (!got.is_nil() && !got.is_error()).then_some(got)
    });
    assert_eq!(got.task_payloads(), ["behind"]);
}

#[test]
fn a_refused_task_comes_to_the_one_who_waits_once_it_has_a_place() {
    let server = Server::start();
    let mut client = server.client();
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
    run_all(&mut client, &[format!("SET {FIVE} x")]);
    let due = client.time_ms() + 20;
    client.publish_with("q", "five", &format!("AT {due} PRIORITY 5"));
    client.publish_with("q", "nine", &format!("AT {} PRIORITY 9", due + 20));
    assert_eq!(payload_of(&waiter.read().delivered()[0]), "nine");
    assert_eq!(client.run(format!("DEL {FIVE}")), int(1));
    waiter.send("TASK.CONSUME g c q BLOCK 0 META");
    assert_eq!(payload_of(&waiter.read().delivered()[0]), "five");
}

#[test]
fn a_line_is_looked_at_again_after_a_task_of_it_was_refused() {
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
fn a_refused_consumer_leaves_nothing_behind() {
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
fn a_foreign_key_beside_tasks_that_can_be_delivered_is_passed_by() {
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
fn leases_of_a_priority_that_is_no_stream_any_more_keep_back_nothing() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["TASK.POLICY q LEASE 20"]);
    client.publish_with("q", "five", "PRIORITY 5");
    assert_eq!(payloads(&mut client, 1), ["five"]);
    in_transaction(&mut client, &[format!("DEL {FIVE}"), format!("SET {FIVE} x")]);
    let now = client.time_ms();
    wait_past(&mut client, now + 25);
    client.publish("q", "zero");
    assert_eq!(payloads(&mut client, 9), ["zero"]);
}

#[test]
fn whoever_waits_is_told_that_its_queue_is_no_stream_any_more() {
    let server = Server::start();
    let mut client = server.client();
    for make in ["SET q x", "HSET q f v"] {
        let mut waiters: Vec<_> = ["g", "g", "h"]
            .iter()
            .map(|group| {
                let mut waiter = server.client();
                server.wait_with(&mut waiter, &format!("TASK.CONSUME {group} c q BLOCK 0"));
                waiter
            })
            .collect();
        let mut elsewhere = server.client();
        server.wait_with(&mut elsewhere, "TASK.CONSUME g c other BLOCK 0");
        in_transaction(&mut client, &["DEL q", make]);
        for waiter in &mut waiters {
            assert_eq!(waiter.read(), error(WRONG_TYPE), "{make}");
        }
        client.publish("other", "p");
        assert_eq!(elsewhere.read().task_payloads(), ["p"]);
        run_all(&mut client, &["DEL q"]);
    }
}

// ---------------------------------------------------------------------------------------------
// What other clients give back
// ---------------------------------------------------------------------------------------------

#[test]
fn what_xnack_gives_back_is_delivered_at_the_next_look() {
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
                        let told = if waits {
                            waiter.read().delivered()
                        } else {
                            client.consume("g", "w", "q", 1)
                        };
                        let took = client.time_ms() - begin;
                        let what = format!("{mode} {priority} {policy} {pending} {waits}");
                        assert_eq!(told.len(), 1, "{what}");
                        assert_eq!((&*told[0].id, told[0].idle), (&*id, 0), "{what}");
                        assert_eq!(told[0].deliveries, counted, "{what}");
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
fn what_xnack_declares_fatal_is_a_dead_letter() {
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
            eventually(SOON, "it dies", || client.run(format!("XLEN {DEAD}")) == int(1));
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
fn what_was_given_back_belongs_to_nobody_until_it_is_delivered() {
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
    // Whoever has finished it all the same may say so.
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.consume("g", "c", "q", 9), []);
}

// ---------------------------------------------------------------------------------------------
// Bounds
// ---------------------------------------------------------------------------------------------

#[test]
fn consume_creates_no_more_groups_than_the_setting_says() {
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
        // Those that are there go on; one that goes makes room.
        assert_eq!(client.consume("g", "c", "q", 1), []);
        assert_eq!(client.run("XGROUP DESTROY q h"), int(1));
        if priority > 0 {
            run_all(&mut client, &["XGROUP DESTROY priority3:{q} h"]);
        }
        assert_eq!(client.lease("third", "c", "q"), id);
    }
}

#[test]
fn where_plain_clients_have_created_too_many_groups_nothing_asks_for_them() {
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
    assert_eq!(client.run("XLEN q"), int(1), "it is not deleted");
    let told = server.log().matches("more consumer groups than corral.task-groups").count();
    assert_eq!(told, 1);
    let ready = client.publish("q", "p");
    let refused = client.run(format!("TASK.CANCEL q {ready}"));
    assert!(refused.is_error_with("TASKGROUPS "), "{refused:?}");
    // As before, once there are few of them.
    run_all(&mut client, &["XGROUP DESTROY q i"]);
    assert_eq!(client.run(format!("TASK.CANCEL q {ready}")), int(1));
    let id = client.publish("q", "p");
    for group in ["g", "h"] {
        assert_eq!(client.lease(group, "c", "q"), id);
        assert_eq!(client.run(format!("TASK.ACK q {group} {id}")), int(1));
    }
    assert!(!client.ids_in("q").contains(&id));
}

#[test]
fn no_number_of_groups_makes_one_call_long() {
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
fn no_number_of_consumer_names_makes_one_call_long() {
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

#[test]
fn a_group_that_is_refused_for_want_of_memory_is_not_remembered() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("q", "p");
    assert_eq!(payloads(&mut client, 1), ["p"]);
    run_all(&mut client, &["CONFIG SET maxmemory 1"]);
    let padding = "x".repeat(100_000);
    grows_by_less_than(&mut client, 5_000_000, |client| {
        for queue in ["q", "absent"] {
            for number in 0..200 {
                let group = format!("{number}{padding}");
                let refused = client.cmd(&["TASK.CONSUME", &group, "c", queue]);
                assert!(refused.is_error_with("OOM "), "{refused:?}");
            }
        }
        for number in 0..200 {
            let refused = client.cmd(&["TASK.CONSUME", "g", "c", &format!("{number}{padding}")]);
            assert!(refused.is_error_with("OOM "), "{refused:?}");
        }
    });
}

#[test]
fn names_that_are_only_asked_about_are_not_remembered() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("q", "p");
    assert_eq!(payloads(&mut client, 1), ["p"]);
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
fn what_is_remembered_of_many_queues_has_a_bound_in_bytes() {
    let server = Server::start();
    let mut client = server.client();
    let padding = "x".repeat(1_000_000);
    client.publish("q", "p");
    assert_eq!(payloads(&mut client, 1), ["p"]);
    let used = |client: &mut Client| -> i64 {
        client.info("memory", "used_memory").expect("a number").parse().expect("a number")
    };
    // Each name of a queue is in the keyspace once, and that of its group once more.
    let before = used(&mut client);
    for number in 0..100 {
        let name = format!("{number}{padding}");
        assert!(client.cmd(&["TASK.CONSUME", &name, "c", &name]).is_nil());
    }
    let grown = used(&mut client) - before;
    assert!(grown < 290_000_000, "{grown}");
}
