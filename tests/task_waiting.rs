//! Consumers that wait: when they get delayed tasks, in which shape, and what else wakes them. A
//! task comes neither early nor late, to one consumer per group, and never to a connection that has
//! closed.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded, although delayed
//! tasks and leases remain.

mod support;
use support::consumers::*;
use support::*;

use std::thread;
use std::time::{Duration, Instant};

// ---------------------------------------------------------------------------------------------
// Delayed tasks
// ---------------------------------------------------------------------------------------------

#[test]
fn a_waiting_consumer_gets_a_delayed_task_when_it_is_due() {
    let server = Checked::start();
    let mut client = server.client();
    for waits_first in [true, false] {
        for by_delay in [true, false] {
            let early = waits_first.then(|| waiter(&server, "c0"));
            let begin = client.time_ms();
            let option = if by_delay { "DELAY 120".into() } else { format!("AT {}", begin + 120) };
            let id = publish(&mut client, "p", &option);
            let due = id_ms(&id);
            assert!(due >= begin + 120, "{due} is before {begin} + 120");
            assert!(due <= client.time_ms() + 120, "{due}");
            let mut waiter = early.unwrap_or_else(|| {
                let mut waiter = server.client();
                waiter.send(wait_as("c0"));
                waiter
            });
            let got = gets(&mut waiter, "p");
            on_time(got.at, due);
            assert_eq!(got.text("original_id"), id);
            assert_eq!((got.text("retry_count"), got.idle, got.deliveries), ("0", 0, 1));
            assert_eq!(holders(&mut client, "q"), ["c0"]);
            assert_eq!(task_info(&mut client, "delayed"), 0);
            assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(1));
        }
    }
}

/// The median.
fn median(mut late: Vec<i64>) -> i64 {
    late.sort_unstable();
    late[late.len() / 2]
}

#[test]
fn most_tasks_arrive_within_milliseconds() {
    // Polling would usually be later than this.
    const MOST: i64 = 30;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 70");
    let (mut due_late, mut left_late) = (Vec::new(), Vec::new());
    for number in 0..9 {
        let mut waiters = line(&server, 2);
        let due = delay(&mut client, "p", 40 + 3 * number);
        let got = gets(&mut waiters[0], "p");
        due_late.push(got.at - due);
        // Its lease began between the due time and the reply.
        let again = gets(&mut waiters[1], "p");
        left_late.push(again.at - got.at - 70);
        assert_eq!(client.run(format!("TASK.ACK q g {}", again.id)), int(1));
    }
    assert!(median(due_late.clone()) <= MOST, "{due_late:?}");
    assert!(median(left_late.clone()) <= MOST, "{left_late:?}");
}

#[test]
fn an_earlier_due_time_comes_first_even_if_published_later() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, 3);
    let far = delay(&mut client, "far", LONG);
    let late = delay(&mut client, "late", 2000);
    let early = delay(&mut client, "early", 120);
    publish(&mut client, "now", "");
    gets(&mut waiters[0], "now");
    on_time(gets(&mut waiters[1], "early").at, early);
    on_time(gets(&mut waiters[2], "late").at, late);
    assert!(now_ms() < far);
    // The next due task is canceled, and a later one takes its place.
    let mut waiter = waiter(&server, "c3");
    let id = publish(&mut client, "withdrawn", "DELAY 1000");
    assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(1));
    let due = delay(&mut client, "next", 1200);
    on_time(gets(&mut waiter, "next").at, due);
    assert_eq!(task_info(&mut client, "delayed"), 1);
}

#[test]
fn each_queue_and_database_delivers_its_delayed_tasks_on_time() {
    let server = Checked::start();
    let places =
        [(0, "q", 320), (9, "q", 120), (3, "a{b}", 220), (9, "other", 170), (0, "x}", 120)];
    let mut expected = Vec::new();
    for (db, queue, ms) in places {
        let command = format!("TASK.CONSUME g c {queue} BLOCK 0 META");
        expected.push((waiter_in(&server, db, &command), db, queue, ms));
    }
    let mut published: Vec<_> = expected
        .into_iter()
        .map(|(waiter, db, queue, ms)| {
            let publish = format!("TASK.PUBLISH {queue} {db}-{queue} DELAY {ms}");
            let id = client_in(&server, db).run(publish);
            (id_ms(id.as_str()), waiter, format!("{db}-{queue}"))
        })
        .collect();
    published.sort_by_key(|(due, ..)| *due);
    for (due, waiter, payload) in &mut published {
        on_time(gets(waiter, payload).at, *due);
    }
}

#[test]
fn tasks_due_at_the_same_time_are_delivered_by_priority_and_then_in_order() {
    const COUNT: usize = 20;
    let server = Checked::start();
    let mut client = server.client();
    // In one wave, and in waves of one.
    for wake_bytes in [1 << 20, 1] {
        let limit = format!("CONFIG SET corral.wake-bytes {wake_bytes}");
        assert_eq!(client.run(limit), ok());
        let mut waiters = line(&server, COUNT);
        let due = client.time_ms() + 2000;
        for number in 0..COUNT {
            let priority = [0, 9, 3, 0][number % 4];
            publish(&mut client, &number.to_string(), &format!("AT {due} PRIORITY {priority}"));
        }
        assert!(client.time_ms() < due, "the machine is too slow: a task is due already");
        let mut order: Vec<_> = (0..COUNT).collect();
        order.sort_by_key(|number| [2, 0, 1, 2][number % 4]);
        for (waiter, number) in waiters.iter_mut().zip(order) {
            on_time(gets(waiter, &number.to_string()).at, due);
        }
    }
}

#[test]
fn times_in_the_far_future_keep_the_server_idle() {
    let server = Checked::start();
    let mut client = server.client();
    let last = (1_i64 << 53) - 1;
    for prepare in [
        format!("TASK.PUBLISH q far AT {last}"),
        format!("ZADD {DELAYED} +inf foreign"),
        format!("ZADD {DELAYED} 1e300 foreign"),
        format!("ZADD {DELAYED} 9223372036854775807 foreign"),
        format!("TASK.POLICY q LEASE {}", last - client.time_ms() - LONG),
        "XADD q * payload leased|TASK.CONSUME g worker q".into(),
    ] {
        run_all(&mut client, &prepare.split('|').collect::<Vec<_>>());
        let mut waiter = waiter(&server, "c");
        is_idle(&server);
        let due = delay(&mut client, "near", 60);
        on_time(gets(&mut waiter, "near").at, due);
    }
}

#[test]
fn unusual_scores_of_delayed_tasks_block_nothing() {
    let server = Checked::start();
    let mut client = server.client();
    for score in ["-inf", "-1e300", "-1", "0", "0.5", "1.999"] {
        let mut waiter = waiter(&server, "c");
        assert_eq!(client.run(format!("ZADD {DELAYED} {score} p")), int(1));
        gets(&mut waiter, "p");
    }
    // A fraction of a millisecond counts as the whole one.
    let mut waiter = waiter(&server, "c");
    let due = client.time_ms() + 60;
    assert_eq!(client.run(format!("ZADD {DELAYED} {due}.5 p")), int(1));
    on_time(gets(&mut waiter, "p").at, due);
}

#[test]
fn delayed_tasks_of_plain_clients_come_when_they_are_due() {
    let server = Checked::start();
    let mut client = server.client();
    for put in [
        "ZADD {delayed} {due} p",
        "ZADD {q}x {due} p|RENAME {q}x {delayed}",
        "ZADD {q}x {due} p|COPY {q}x {delayed}",
        "ZADD {q}x {due} p|ZRANGESTORE {delayed} {q}x 0 -1",
        // Moved to an earlier and to a later time.
        "ZADD {delayed} 9000000000000 p|ZADD {delayed} {due} p",
        "ZADD {delayed} {before} p|ZADD {delayed} {due} p",
    ] {
        let mut waiter = waiter(&server, "c");
        let now = client.time_ms();
        let due = now + 1000;
        let fill = |command: &str| {
            let command = command.replace("{delayed}", DELAYED);
            command.replace("{due}", &due.to_string()).replace("{before}", &(now + 80).to_string())
        };
        in_transaction(&mut client, &put.split('|').map(fill).collect::<Vec<_>>());
        assert!(client.time_ms() < due, "the machine is too slow: the task is due already");
        let got = gets(&mut waiter, "p");
        on_time(got.at, due);
        run_all(&mut client, &["DEL {q}x"]);
    }
}

// ---------------------------------------------------------------------------------------------
// The reply
// ---------------------------------------------------------------------------------------------

#[test]
fn each_consumer_gets_the_shape_that_it_asked_for() {
    let server = Checked::start();
    let shapes = [(false, ""), (false, "META"), (true, ""), (true, "META")];
    for options in ["", "PRIORITY 7", "DELAY 60", "DELAY 60 PRIORITY 7"] {
        for publisher_speaks_resp3 in [false, true] {
            let mut waiters = shapes.map(|(resp3, meta)| {
                let mut client = if resp3 { server.client3() } else { server.client() };
                stand(&mut client, &format!("TASK.CONSUME g c q BLOCK 0 {meta}"));
                client
            });
            let mut client =
                if publisher_speaks_resp3 { server.client3() } else { server.client() };
            for number in 0..waiters.len() {
                publish(&mut client, &number.to_string(), options);
            }
            for (number, (waiter, (resp3, meta))) in waiters.iter_mut().zip(shapes).enumerate() {
                let payload = number.to_string();
                match waiter.read() {
                    reply if meta == "META" => {
                        let got = deliveries(&reply, now_ms());
                        assert_eq!((got[0].idle, got[0].deliveries), (0, 1));
                        assert_eq!(got[0].text("payload"), payload);
                    }
                    Value::Map(streams) => {
                        assert!(resp3);
                        assert_eq!(streams[0].0, bulk("q"));
                        assert_eq!(Value::Map(streams).task_payloads(), [payload]);
                    }
                    streams => {
                        assert!(!resp3, "{streams:?}");
                        assert_eq!(streams.items()[0].items()[0], bulk("q"));
                        assert_eq!(streams.task_payloads(), [payload]);
                    }
                }
                assert_eq!(waiter.run("PING"), simple("PONG"), "nothing more came");
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Several groups
// ---------------------------------------------------------------------------------------------

#[test]
fn every_group_gets_prioritized_delayed_and_plain_tasks() {
    let server = Checked::start();
    let mut client = server.client();
    let groups = ["a", "b", "c"];
    for options in ["PRIORITY 8", "DELAY 80", "DELAY 80 PRIORITY 8"] {
        let mut first = groups.map(|group| waiter_of(&server, group));
        let mut second = groups.map(|group| waiter_of(&server, group));
        let id = publish(&mut client, "p", options);
        let got = first.each_mut().map(|waiter| gets(waiter, "p"));
        assert!(got.iter().all(|task| task.original_id() == id && task.id == got[0].id));
        still_wait(&server, 3);
        publish(&mut client, "r", options);
        second.iter_mut().for_each(|waiter| drop(gets(waiter, "r")));
    }
    // A plain entry: each group gets it under another id.
    let mut waiters = groups.map(|group| waiter_of(&server, group));
    run_all(&mut client, &["XADD priority3:{q} * payload plain"]);
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        let got = gets(waiter, "plain");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", got.id)), int(1));
    }
    for group in groups {
        let found = client.run(format!("TASK.CONSUME {group} c q META"));
        assert_eq!(found, no_tasks(), "{group} got it once");
    }
    // Leases expire for each group on its own.
    policy(&mut client, "LEASE 60");
    for group in groups {
        let mut waiter = server.client();
        waiter.send(format!("TASK.CONSUME {group} c q COUNT 6 BLOCK 0 META"));
        let got = gets_some(&mut waiter);
        assert!(got.iter().all(|task| task.deliveries == 2), "{got:?}");
    }
}

#[test]
fn a_returned_task_goes_back_to_its_group_only() {
    let server = Checked::start();
    let mut client = server.client();
    for priority in [0, 3] {
        let mut first = ["a", "b"].map(|group| waiter_of(&server, group));
        let mut second = ["a", "b"].map(|group| waiter_of(&server, group));
        let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
        first.iter_mut().for_each(|waiter| drop(gets(waiter, "p")));
        let back = format!("TASK.NACK q a c SILENT {id} DELAY 50");
        assert_eq!(client.run(back), int(1));
        let got = gets(&mut second[0], "p");
        assert_eq!((got.original_id(), got.text("group")), (&*id, "a"));
        still_wait(&server, 1);
        publish(&mut client, "next", "");
        gets(&mut second[1], "next");
        let next = client.run("TASK.CONSUME a c q META").delivered();
        assert_eq!(next.len(), 1, "{next:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// What else wakes a consumer
// ---------------------------------------------------------------------------------------------

/// Lets a consumer wait for the queue `q`, to which `act` brings the task `p`. The task is finished
/// like any other.
#[track_caller]
fn is_woken_by(prepare: &[&str], act: &[&str]) {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, prepare);
    let mut waiter = waiter(&server, "c0");
    run_all(&mut client, act);
    let got = gets(&mut waiter, "p");
    assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(1), "{act:?}");
    assert_eq!(client.run("TASK.CONSUME g c0 q META"), no_tasks());
    assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(0));
}

#[test]
fn consumers_are_woken_by_whatever_brings_a_task() {
    const STREAM: &[&str] = &["XADD {q}other 7-7 payload p"];
    const ZSET: &[&str] = &["ZADD {q}other 1 p"];
    const NOT_DUE: &[&str] = &["ZADD delayed:{q} 9000000000000 p"];
    const GROUP_PAST_IT: &[&str] =
        &["XADD priority3:{q} * payload p", "XGROUP CREATE priority3:{q} g $"];
    const STREAM_IN_5: &[&str] = &["SELECT 5", "XADD priority3:{q} * payload p", "SELECT 0"];
    const ZSET_IN_5: &[&str] = &["SELECT 5", "ZADD delayed:{q} 1 p", "SELECT 0"];
    const PAUSED: &[&str] = &["TASK.POLICY q PAUSED 1", "TASK.PUBLISH q p"];
    let rows: &[(&[&str], &[&str])] = &[
        // An entry of a priority.
        (&[], &["XADD priority3:{q} * payload p"]),
        (&[], &["XADD priority9:{q} 1-1 payload p"]),
        (&[], &["MULTI", "XADD priority1:{q} * payload p", "EXEC"]),
        (&[], &["EVAL return{redis.call('XADD',KEYS[1],'*','payload','p')} 1 priority5:{q}"]),
        // The whole stream of a priority.
        (STREAM, &["RENAME {q}other priority3:{q}"]),
        (STREAM, &["COPY {q}other priority3:{q}"]),
        (STREAM_IN_5, &["SELECT 5", "MOVE priority3:{q} 0", "SELECT 0"]),
        (STREAM_IN_5, &["SWAPDB 0 5"]),
        // The group's position in it.
        (GROUP_PAST_IT, &["XGROUP SETID priority3:{q} g 0"]),
        (GROUP_PAST_IT, &["XGROUP DESTROY priority3:{q} g"]),
        // A delayed task.
        (&[], &["ZADD delayed:{q} 1 p"]),
        (&[], &["ZINCRBY delayed:{q} 1 p"]),
        (&[], &["MULTI", "ZADD delayed:{q} 1 p", "EXEC"]),
        (&[], &["EVAL return{redis.call('ZADD',KEYS[1],'1','p')} 1 delayed:{q}"]),
        (NOT_DUE, &["ZADD delayed:{q} XX 1 p"]),
        (NOT_DUE, &["ZINCRBY delayed:{q} -9000000000000 p"]),
        // All delayed tasks.
        (ZSET, &["RENAME {q}other delayed:{q}"]),
        (ZSET, &["COPY {q}other delayed:{q}"]),
        (ZSET, &["ZRANGESTORE delayed:{q} {q}other 0 -1"]),
        (ZSET, &["ZUNIONSTORE delayed:{q} 1 {q}other"]),
        (ZSET_IN_5, &["SELECT 5", "MOVE delayed:{q} 0", "SELECT 0"]),
        (ZSET_IN_5, &["SWAPDB 5 0"]),
        (ZSET_IN_5, &["SELECT 5", "COPY delayed:{q} delayed:{q} DB 0", "SELECT 0"]),
        // The end of a pause.
        (PAUSED, &["DEL policy:{q}"]),
        (PAUSED, &["HSET policy:{q} paused 0"]),
        (PAUSED, &["HDEL policy:{q} paused"]),
        (PAUSED, &["RENAME policy:{q} {q}elsewhere"]),
        (PAUSED, &["HSET {q}policy paused 0", "RENAME {q}policy policy:{q}"]),
    ];
    for (prepare, act) in rows {
        is_woken_by(prepare, act);
    }
}

#[test]
fn consumers_are_woken_by_restore() {
    let server = Checked::start();
    let mut client = server.client();
    for (add, key) in [
        ("XADD other * payload p", "q"),
        ("XADD other * payload p", "priority6:{q}"),
        ("ZADD other 1 p", DELAYED),
    ] {
        let mut waiter = waiter(&server, "c");
        run_all(&mut client, &["DEL q", add]);
        let dump = client.run("DUMP other");
        let restore = args!["RESTORE", key, 0, dump.bytes(), "REPLACE"];
        assert_eq!(client.cmd(&restore), ok());
        gets(&mut waiter, "p");
        assert_eq!(client.run("DEL other"), int(1));
    }
}

#[test]
fn consumers_are_woken_by_a_returned_task() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "BACKOFF 80 80");
    for (back, delayed, retry_count) in [
        ("TASK.NACK q g worker SILENT {id}", false, "0"),
        ("TASK.NACK q g worker SILENT {id} DELAY 120", true, "0"),
        ("TASK.NACK q g worker FAIL {id} DELAY 0", false, "1"),
        ("TASK.NACK q g worker FAIL {id} DELAY 120", true, "1"),
        ("TASK.NACK q g worker FAIL {id}", false, "1"),
        ("TASK.RETRY q {id} p 0 q dlq 3", false, "1"),
        ("TASK.RETRY q {id} p 3 again q 3", false, "3"),
    ] {
        for priority in [0, 6] {
            let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
            worker_dies(&server);
            let mut waiter = waiter(&server, "c");
            let begin = client.time_ms();
            let replies = in_transaction(&mut client, &[back.replace("{id}", &id)]);
            let expected = if back.starts_with("TASK.NACK") { int(1) } else { ok() };
            assert_eq!(replies[0], expected, "{back}");
            let got = gets(&mut waiter, "p");
            on_time(got.at, if delayed { begin + 120 } else { begin });
            assert_eq!(got.original_id(), id, "{back}");
            assert_eq!(got.text("retry_count"), retry_count, "{back}");
            assert_eq!(got.deliveries, 1);
            assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(1));
        }
    }
    assert_eq!(task_info(&mut client, "length"), 0);
}

#[test]
fn consumers_are_woken_by_redrive() {
    let server = Checked::start();
    let mut client = server.client();
    for priority in [0, 6] {
        let mut ids = Vec::new();
        for payload in ["a", "b", "c"] {
            ids.push(publish(&mut client, payload, &format!("PRIORITY {priority}")));
            let (task, _) = worker_dies(&server);
            let nack = format!("TASK.NACK q g worker FATAL {}", task.id);
            assert_eq!(client.run(nack), int(2));
        }
        let mut waiters = line(&server, 3);
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(3));
        for ((waiter, payload), id) in waiters.iter_mut().zip(["a", "b", "c"]).zip(ids) {
            let got = gets(waiter, payload);
            assert_eq!((got.original_id(), got.text("retry_count")), (&*id, "0"));
        }
    }
}

#[test]
fn a_consumer_of_the_dead_letter_queue_is_woken_by_each_dead_letter() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "TRIES 1 LEASE 100");
    for (kill, reason) in [
        ("TASK.NACK q g worker FATAL {id} REASON broken", "broken"),
        ("TASK.NACK q g worker FAIL {id}", "failed"),
        ("TASK.CONSUME g other q BLOCK 0", "lease expired"),
    ] {
        let wait = format!("TASK.CONSUME letters u {DEAD} BLOCK 0 META");
        let mut letters = waiter_with(&server, &wait);
        let id = publish(&mut client, "p", "");
        worker_dies(&server);
        let mut killer = server.client();
        killer.send(kill.replace("{id}", &id));
        let dead = gets(&mut letters, "p");
        assert_eq!((dead.text("reason"), dead.original_id()), (reason, &*id), "{kill}");
        assert_eq!(dead.text("deliveries"), "1");
    }
    let mut letters = waiter_with(&server, &format!("TASK.CONSUME letters u {DEAD} BLOCK 0 META"));
    run_all(&mut client, &[format!("TASK.RETRY q 1-1 p 3 q {DEAD} 3")]);
    gets(&mut letters, "p");
}

#[test]
fn a_task_added_to_a_priority_stream_is_delivered_first() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, 3);
    let add = ["XADD q * payload a", "XADD priority2:{q} * payload b", "ZADD delayed:{q} 1 c"];
    in_transaction(&mut client, &add);
    let payloads = ["b", "a", "c"];
    for (waiter, payload) in waiters.iter_mut().zip(payloads) {
        let got = gets(waiter, payload);
        assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(1), "{payload}");
    }
    assert_eq!(task_info(&mut client, "length"), 0);
}

#[test]
fn a_paused_queue_delivers_nothing_until_it_resumes_and_then_everything_in_order() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 100");
    publish(&mut client, "leased", "");
    let (leased, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    policy(&mut client, "PAUSED 1");
    waiters.extend((2..5).map(|number| waiter(&server, &format!("c{number}"))));
    publish(&mut client, "a", "");
    run_all(&mut client, &["XADD q * payload b"]);
    let due = delay(&mut client, "due", 60);
    publish(&mut client, "urgent", "PRIORITY 9");
    assert_eq!(client.run("TASK.CONSUME g other q META"), no_tasks());
    client.wait_past(due.max(begin + 100) + 20);
    still_wait(&server, 5);
    is_idle(&server);
    assert_eq!(task_info(&mut client, "delayed"), 1);
    assert_eq!(holders(&mut client, "q"), ["worker"]);
    policy(&mut client, "PAUSED 0");
    for (waiter, payload) in waiters.iter_mut().zip(["leased", "urgent", "a", "b", "due"]) {
        let got = gets(waiter, payload);
        assert_eq!(got.deliveries, if payload == "leased" { 2 } else { 1 });
    }
    assert_eq!(holders(&mut client, "q").len(), 4);
    assert_eq!(client.run(format!("TASK.ACK q g {}", leased.id)), int(1));
}

// ---------------------------------------------------------------------------------------------
// Tasks that cannot be delivered
// ---------------------------------------------------------------------------------------------

#[test]
fn a_derived_key_of_another_type_holds_tasks_back_until_it_is_gone() {
    let server = Checked::start();
    let mut client = server.client();
    for key in [DELAYED, "priority5:{q}"] {
        let mut waiter = waiter(&server, "c");
        run_all(&mut client, &[format!("SET {key} text")]);
        // A call behind the waiting consumers may not get to see it.
        let refused = client.run("TASK.CONSUME g other q");
        assert!(refused.is_nil() || refused.is_error_with("WRONGTYPE "), "{key}: {refused:?}");
        still_wait(&server, 1);
        is_idle(&server);
        assert_eq!(client.run(format!("DEL {key}")), int(1));
        let due = delay(&mut client, "p", 60);
        on_time(gets(&mut waiter, "p").at, due);
        run_all(&mut client, &["DEL q"]);
    }
}

#[test]
fn a_task_that_cannot_be_dead_lettered_blocks_no_other_and_is_dead_lettered_later() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 300 TRIES 1");
    for make in ["SET", "SADD"] {
        run_all(&mut client, &[format!("{make} {DEAD} x")]);
        let poison = publish(&mut client, "poison", "");
        let (_, begin) = worker_dies(&server);
        let mut waiter = waiter(&server, "c");
        client.wait_past(begin + 300);
        // The timer has tried and tries again.
        still_wait(&server, 1);
        for payload in ["one", "two"] {
            publish(&mut client, payload, "");
            let got = gets(&mut waiter, payload);
            assert!(!client.run(format!("TASK.ACK q g {}", got.id)).is_error());
            stand(&mut waiter, &wait_as("c"));
        }
        assert!(client.leased_ids("q", "g").contains(&poison), "it is not lost");
        assert_eq!(client.run(format!("DEL {DEAD}")), int(1));
        eventually(SOON, "it is a dead letter", || {
            let dead = client.tasks_in(DEAD);
            dead.iter().any(|task| task.fields.contains(&format!("original_id={poison} ")))
        });
        assert!(!client.ids_in("q").contains(&poison));
        publish(&mut client, "last", "");
        gets(&mut waiter, "last");
        run_all(&mut client, &[format!("DEL {DEAD} q")]);
    }
}

#[test]
fn a_due_task_that_cannot_enter_its_stream_blocks_no_other() {
    let server = Checked::start();
    let mut client = server.client();
    let member = |due: i64, priority: i64, payload: &str| {
        format!("ZADD {DELAYED} {due} {due}-1001700000000000000 {priority} 0 - {payload}")
    };
    // Every group gets the others, whichever the server looks at first.
    let mut waiters = ["b", "a", "c"].map(|group| waiter_of(&server, group));
    run_all(&mut client, &["SET priority3:{q} v"]);
    let now = client.time_ms();
    // Not inline: a member with spaces is one argument.
    let add = [(30, 0, "before"), (20, 3, "urgent"), (10, 0, "behind")];
    let add = add.map(|(ago, priority, payload)| member(now - ago, priority, payload));
    client.send_raw("MULTI\r\n");
    for line in &add {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        client.send_args(&words);
    }
    client.send_raw("EXEC\r\n");
    (0..add.len() + 2).for_each(|_| assert!(!client.read().is_error()));
    let groups = ["b", "a", "c"];
    let consume = |group: &str| format!("TASK.CONSUME {group} c q BLOCK 0 META");
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        let got = gets(waiter, "before");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", got.id)), int(1));
        waiter.send(consume(group));
        let got = gets(waiter, "behind");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", got.id)), int(1));
        let refused = waiter.run(consume(group));
        assert!(refused.is_error_with("WRONGTYPE "), "{refused:?}");
    }
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(1), "it stays");
    assert_eq!(client.run("DEL priority3:{q}"), int(1));
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        waiter.send(consume(group));
        gets(waiter, "urgent");
    }
    assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
}

// ---------------------------------------------------------------------------------------------
// Random commands
// ---------------------------------------------------------------------------------------------

/// What clients may do to the queue `q` at any time. `{task}` is one of its tasks, `{p}` a
/// priority, `{soon}` a time and `{name}` a consumer.
const ANYTHING: [&str; 42] = [
    "TASK.PUBLISH q p",
    "TASK.PUBLISH q p PRIORITY {p}",
    "TASK.PUBLISH q p DELAY 15",
    "TASK.PUBLISH q p DELAY 30 PRIORITY {p}",
    "XADD q * payload p",
    "XADD priority{p}:{q} * payload p",
    "ZADD delayed:{q} {soon} {task}",
    "ZADD delayed:{q} 1 {task}",
    "TASK.ACK q g {task}",
    "TASK.ACK q h {task}",
    "TASK.NACK q g {name} SILENT {task}",
    "TASK.NACK q g {name} FAIL {task} DELAY 10",
    "TASK.NACK q h {name} FATAL {task}",
    "TASK.EXTEND q h {name} {task}",
    "TASK.RETRY q {task} p 0 q dead:{q} 3 g",
    "TASK.RETRY q {task} p 3 q dead:{q} 3 h",
    "TASK.CANCEL q {task}",
    "TASK.REDRIVE dead:{q} q",
    "TASK.POLICY q PAUSED 1",
    "TASK.POLICY q PAUSED 0",
    "TASK.CONSUME g {name} q COUNT 2",
    "TASK.CONSUME h {name} q COUNT 2",
    "XGROUP SETID q g 0",
    "XGROUP SETID priority{p}:{q} h 0",
    "XGROUP DESTROY q h",
    "XGROUP DESTROY priority{p}:{q} g",
    "XGROUP DELCONSUMER q g {name}",
    "XCLAIM q h {name} 0 {task} JUSTID",
    "XACK q g {task}",
    "XDEL q {task}",
    "XTRIM q MAXLEN 1",
    "DEL q",
    "DEL priority{p}:{q}",
    "DEL delayed:{q}",
    "RENAME q {q}old",
    "RENAME {q}old q",
    "RENAME priority{p}:{q} {q}old",
    "COPY {q}old priority{p}:{q} REPLACE",
    "COPY delayed:{q} {q}later REPLACE",
    "RENAME {q}later delayed:{q}",
    "SWAPDB 0 1",
    "FLUSHDB",
];

/// Whether the group has read all of the queue `q` and no task is overdue.
#[track_caller]
fn has_everything(client: &mut Client, group: &str) -> bool {
    let priorities = (1..=9).map(|priority| format!("priority{priority}:{{q}}"));
    let keys: Vec<_> = priorities.chain(["q".to_owned()]).collect();
    let has_read = keys.iter().all(|key| {
        let groups = client.run(format!("XINFO GROUPS {key}"));
        if groups.is_error() {
            return true;
        }
        let known = groups.items().iter().find(|known| known.get("name").as_str() == group);
        let from = known.map_or("-".to_owned(), |known| {
            format!("({}", known.get("last-delivered-id").as_str())
        });
        let unread = client.run(format!("XRANGE {key} {from} +"));
        // A copy may be for another group.
        let is_for_other = |entry: &Value| {
            entry.items()[1].field("group").is_some_and(|only| only.as_str() != group)
        };
        unread.items().iter().all(is_for_other)
    });
    let now = client.time_ms();
    has_read && client.run(format!("ZCOUNT {DELAYED} -inf {now}")) == int(0)
}

#[test]
fn no_consumer_waits_while_there_is_a_task_for_it() {
    let server = Checked::start();
    let mut client = server.client();
    let mut random = Random::new(7);
    for round in 0..40 {
        run_all(&mut client, &["FLUSHALL"]);
        // Where leases expire, all of them are checked from time to time.
        policy(&mut client, &format!("LEASE {}", [0, LONG][round % 2]));
        let mut crowd: Vec<(&str, Client)> = Vec::new();
        let mut history = Vec::new();
        for _ in 0..60 {
            if random.below(3) == 0 {
                let group = ["g", "h"][random.below(2)];
                let command = format!("TASK.CONSUME {group} c{} q BLOCK 0 META", random.below(3));
                crowd.push((group, waiter_with(&server, &command)));
                history.push(command);
            }
            let key = [format!("priority{}:{{q}}", random.below(9) + 1), "q".into()];
            let tasks = client.run(format!("XRANGE {} - +", key[random.below(2)]));
            let tasks = if tasks.is_error() { Vec::new() } else { tasks.items().to_vec() };
            let task = tasks.get(random.below(tasks.len().max(1)));
            let task = task.map_or("1-1", |task| task.items()[0].as_str());
            let soon = client.time_ms() + 20;
            let command = ANYTHING[random.below(ANYTHING.len())]
                .replace("{task}", task)
                .replace("{p}", &(random.below(9) + 1).to_string())
                .replace("{soon}", &soon.to_string())
                .replace("{name}", &format!("c{}", random.below(3)));
            history.push(format!("{command} -> {:?}", client.run(&command)));
        }
        if client.run("HGET policy:{q} paused") == bulk("1") {
            policy(&mut client, "PAUSED 0");
        }
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            crowd.retain_mut(|(_, waiter)| waiter.read_timeout(Duration::ZERO).is_none());
            let mut waits_for_nothing = |group: &str| {
                !crowd.iter().any(|(waits, _)| *waits == group)
                    || has_everything(&mut client, group)
            };
            if waits_for_nothing("g") && waits_for_nothing("h") {
                break;
            }
            assert!(Instant::now() < end, "round {round}: {history:#?}");
            thread::sleep(Duration::from_millis(5));
        }
        drop(crowd);
        eventually(SOON, "no client waits", || waiters(&mut client, "task") == 0);
    }
}

// ---------------------------------------------------------------------------------------------
// Closed connections
// ---------------------------------------------------------------------------------------------

#[test]
fn the_timer_never_delivers_to_a_connection_that_has_closed() {
    let server = Checked::start();
    let mut client = server.client();
    for exit in [Exit::Close, Exit::Reset] {
        for is_leased in [false, true] {
            run_all(&mut client, &["FLUSHALL"]);
            if is_leased {
                publish(&mut client, "p", "");
                worker_dies(&server);
            }
            let mut leaving = [0, 1, 2, 3, 4].map(|number| {
                let mut leaver = Leaver::connect(&server, exit);
                let command = format!("TASK.CONSUME g c{number} q META BLOCK");
                leaver.wait(&mut client, "task", &command, 0);
                leaver
            });
            let mut last = waiter(&server, "last");
            let ports = leaving.each_mut().map(|leaver| leaver.client().local_port());
            // The lease expires, or the task is due, while the server is stopped.
            let begin =
                if is_leased { "TASK.POLICY q LEASE 1000" } else { "TASK.PUBLISH q p DELAY 300" };
            run_all(&mut client, &[begin]);
            server.pause();
            let end = now_ms() + 1050;
            drop(leaving);
            wait_ended(&server, &ports);
            eventually(SOON, "the time has passed", || now_ms() > end);
            server.resume();
            let got = gets(&mut last, "p");
            assert_eq!(client.run(format!("TASK.EXTEND q g last {}", got.id)), int(1), "{exit:?}");
            assert_eq!(holders(&mut client, "q"), ["last"], "{exit:?}");
        }
    }
}
