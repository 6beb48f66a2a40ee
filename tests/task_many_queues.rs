//! One consumer over several queues: `TASK.CONSUME … THEN n stream …`. It reads them in the order in
//! which it names them, waits in all their lines with one place, is served by the first queue that
//! gets a task, and then leaves every line. Each queue keeps its own delays, priorities, leases and
//! pauses, and nothing is created in a queue before it holds something.

mod support;
use support::consumers::*;
use support::*;

use std::time::{Duration, Instant};

const SYNTAX: &str = "ERR syntax error";
const NO_PERMISSION: &str = "NOPERM this user may no longer run this command";

/// The command of a consumer of the group `g` over these queues.
fn consume(consumer: &str, queues: &[&str], options: &str) -> String {
    consume_in("g", consumer, queues, options)
}

fn consume_in(group: &str, consumer: &str, queues: &[&str], options: &str) -> String {
    let (first, further) = queues.split_first().expect("a queue");
    let (n, further) = (further.len(), further.join(" "));
    format!("TASK.CONSUME {group} {consumer} {first} THEN {n} {further} {options}").trim().into()
}

/// A consumer that waits in the lines of these queues.
#[track_caller]
fn waits(server: &Server, consumer: &str, queues: &[&str]) -> Client {
    waiter_with(server, &consume(consumer, queues, "BLOCK 0"))
}

/// A consumer that waits in the line of one queue.
#[track_caller]
fn waits_for_one(server: &Server, consumer: &str, queue: &str) -> Client {
    waiter_with(server, &format!("TASK.CONSUME g {consumer} {queue} BLOCK 0"))
}

/// Queue, payload, idle time and deliveries of each task in a reply.
#[track_caller]
fn all(reply: &Value) -> Vec<(String, String, i64, i64)> {
    let one = |task: &Value| match task.items() {
        [_, fields, idle, deliveries, queue] => (
            queue.as_str().to_owned(),
            fields.get("payload").as_str().to_owned(),
            idle.as_int(),
            deliveries.as_int(),
        ),
        _ => panic!("not five elements: {reply:?}"),
    };
    reply.items().iter().map(one).collect()
}

/// Queue and payload of each task in a reply that delivers all of them for the first time.
#[track_caller]
fn new(reply: &Value) -> Vec<(String, String)> {
    let first = |(queue, payload, idle, deliveries)| {
        assert_eq!((idle, deliveries), (0, 1), "{reply:?}");
        (queue, payload)
    };
    all(reply).into_iter().map(first).collect()
}

/// A waiting client gets one new task, and nothing else.
#[track_caller]
fn gets_new(client: &mut Client, queue: &str, payload: &str) {
    let reply = client.read();
    assert_eq!(new(&reply), [(queue.to_owned(), payload.to_owned())]);
    assert_eq!(client.run("PING"), simple("PONG"), "nothing else came");
}

/// The reply is these tasks.
#[track_caller]
fn is(reply: &Value, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(queue, payload)| (queue.to_string(), payload.to_string())).collect();
    assert_eq!(new(reply), expected);
}

#[track_caller]
fn waiting(client: &mut Client, queue: &str) -> i64 {
    client.run(format!("TASK.INFO {queue}")).get("waiting_consumers").as_int()
}

/// The names of `count` queues.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("queue-{number}")).collect()
}

/// `names` as the commands take them.
fn slices(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

// --- At once

#[test]
fn the_queues_are_read_in_the_order_named_until_count() {
    let server = Checked::start();
    for mut client in [server.client(), server.client3()] {
        assert_eq!(client.run("FLUSHALL"), ok());
        for number in 0..3 {
            client.publish("a", &format!("a{number}"));
        }
        for number in 0..9 {
            client.publish("b", &format!("b{number}"));
        }
        client.publish("c", "c0");
        let reply = client.run(consume("c", &["a", "b", "c"], "COUNT 10"));
        let (a, b) = ((0..3).map(|n| ("a", n)), (0..7).map(|n| ("b", n)));
        let expected: Vec<_> =
            a.chain(b).map(|(queue, n)| (queue.to_owned(), format!("{queue}{n}"))).collect();
        assert_eq!(new(&reply), expected);
        // The ids are those of the entries.
        let ids: Vec<_> = reply.items().iter().map(|task| task.items()[0].as_str()).collect();
        assert_eq!(client.leased_ids("a", "g"), ids[..3]);
        assert_eq!(client.leased_ids("b", "g"), ids[3..]);
        let rest = client.run(consume("c", &["c", "b", "a"], "COUNT 10 META"));
        is(&rest, &[("c", "c0"), ("b", "b7"), ("b", "b8")]);
        assert_eq!(client.run(consume("c", &["c", "b", "a"], "")), no_tasks());
    }
}

#[test]
fn each_queue_keeps_its_own_order_and_the_first_named_comes_first() {
    let server = Checked::start();
    let mut client = server.client();
    client.publish("a", "low");
    client.publish_with("b", "urgent", "PRIORITY 9");
    client.publish_with("a", "high", "PRIORITY 5");
    client.publish("b", "low");
    let reply = client.run(consume("c", &["a", "b"], "COUNT 9"));
    is(&reply, &[("a", "high"), ("a", "low"), ("b", "urgent"), ("b", "low")]);
}

#[test]
fn delayed_tasks_and_expired_leases_of_every_queue_are_delivered() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["TASK.POLICY a LEASE 20", "TASK.POLICY b LEASE 20"]);
    for queue in ["a", "b"] {
        client.publish(queue, "old");
        client.lease("g", "dead", queue);
        client.publish_with(queue, "delayed", "DELAY 20");
        client.publish(queue, "new");
    }
    client.wait_ms(60);
    let reply = client.run(consume("c", &["a", "b"], "COUNT 9"));
    let tasks = all(&reply);
    let found: Vec<_> =
        tasks.iter().map(|(queue, payload, ..)| (queue.as_str(), payload.as_str())).collect();
    let of = |queue| [(queue, "old"), (queue, "new"), (queue, "delayed")];
    assert_eq!(found, [of("a"), of("b")].concat());
    for (_, payload, idle, deliveries) in &tasks {
        let is_old = payload == "old";
        assert_eq!((*idle > 20, *deliveries), (is_old, if is_old { 2 } else { 1 }), "{tasks:?}");
    }
}

#[test]
fn a_paused_queue_does_not_hold_up_the_others() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["TASK.POLICY a PAUSED 1"]);
    client.publish("a", "held back");
    client.publish("b", "b0");
    is(&client.run(consume("c", &["a", "b"], "COUNT 9")), &[("b", "b0")]);
    let mut waiters = [waits(&server, "c0", &["a", "b"]), waits(&server, "c1", &["a", "b"])];
    client.publish("b", "b1");
    gets_new(&mut waiters[0], "b", "b1");
    run_all(&mut client, &["TASK.POLICY a PAUSED 0"]);
    gets_new(&mut waiters[1], "a", "held back");
}

#[test]
fn nothing_is_created_where_there_is_nothing() {
    let server = Checked::start();
    let mut client = server.client();
    // An empty stream, one with other groups only, and a delayed task that is not due.
    run_all(&mut client, &["XGROUP CREATE empty other 0 MKSTREAM"]);
    client.publish_with("later", "p", "DELAY 600000");
    let queues = ["absent", "empty", "later", "further"];
    changes_nothing(&mut client, &consume("c", &queues, "COUNT 9"), no_tasks());
    changes_nothing(&mut client, &consume("c", &queues, "BLOCK 1"), no_tasks());
    // The consumer waits, the queues are checked from time to time, and still nothing is created.
    let before = Keyspace::of(&mut client);
    let mut waiter = waits(&server, "c", &queues);
    client.wait_ms(1000);
    assert_eq!(Keyspace::of(&mut client), before);
    client.publish("further", "p");
    gets_new(&mut waiter, "further", "p");
    assert_eq!(client.leased_ids("further", "g").len(), 1);
    assert_eq!(client.run("EXISTS absent later"), int(0));
    assert_eq!(client.run("XINFO GROUPS empty").items().len(), 1);
}

#[test]
fn a_group_that_is_created_late_begins_at_the_first_task() {
    let server = Checked::start();
    let mut client = server.client();
    for queue in ["a", "b"] {
        client.publish(queue, "p0");
        client.publish_with(queue, "p1", "PRIORITY 3");
        assert_eq!(client.consume("other", "c", queue, 1).len(), 1);
    }
    let reply = client.run(consume("c", &["a", "b"], "COUNT 9"));
    is(&reply, &[("a", "p1"), ("a", "p0"), ("b", "p1"), ("b", "p0")]);
    // A priority alone: its queue gets the group too.
    client.publish_with("only", "p", "PRIORITY 9");
    is(&client.run(consume("c", &["a", "only"], "")), &[("only", "p")]);
    assert_eq!(client.run("XINFO GROUPS only").items().len(), 1);
}

#[test]
fn polls_of_many_names_are_not_remembered() {
    let server = Checked::start();
    let mut client = server.client();
    let round = |client: &mut Client, round: usize| {
        let names: Vec<_> = (0..64).map(|number| format!("{round}-{number}")).collect();
        assert_eq!(client.run(consume("c", &slices(&names), "")), no_tasks());
    };
    (0..50).for_each(|number| round(&mut client, number));
    // A record of a queue takes some 300 bytes.
    grows_by_less_than(&mut client, 500_000, |client| {
        (50..1050).for_each(|number| round(client, number));
    });
}

#[test]
fn an_error_is_the_reply_unless_something_was_delivered() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["CONFIG SET corral.task-groups 1"]);
    client.publish("b", "p");
    client.lease("other", "c", "b");
    let full = "TASKGROUPS the stream has as many consumer groups as corral.task-groups allows";
    changes_nothing(&mut client, &consume("c", &["a", "b", "c"], "COUNT 9"), error(full));
    client.publish("a", "p");
    is(&client.run(consume("c", &["a", "b"], "COUNT 9")), &[("a", "p")]);
    client.publish("c", "p");
    assert_eq!(client.run(consume("c", &["a", "b", "c"], "COUNT 9")), error(full));
    assert_eq!(client.run("XINFO GROUPS c"), no_tasks());
    is(&client.run(consume("c", &["a", "c", "b"], "COUNT 9")), &[("c", "p")]);
}

#[test]
fn a_key_of_another_type_is_refused_before_any_queue_is_read() {
    let server = Checked::start();
    let mut client = server.client();
    client.publish("a", "p");
    run_all(&mut client, &["SET text x", "ZADD set 1 x"]);
    for queues in [["a", "text"], ["a", "set"], ["text", "a"]] {
        for options in ["COUNT 9", "BLOCK 0"] {
            changes_nothing(&mut client, &consume("c", &queues, options), error(WRONG_TYPE));
        }
    }
    // A key that belongs to a queue is an error only where there is nothing else to reply.
    for key in ["priority4:{b}", "delayed:{b}"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        run_all(&mut client, &[format!("SET {key} x")]);
        changes_nothing(&mut client, &consume("c", &["a", "b"], ""), error(WRONG_TYPE));
        client.publish("a", "p");
        is(&client.run(consume("c", &["b", "a"], "COUNT 9")), &[("a", "p")]);
    }
}

#[test]
fn in_transactions_and_scripts_the_answer_comes_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    let command = consume("c", &["a", "b"], "BLOCK 0");
    let script = |client: &mut Client| {
        let body = "return redis.call('TASK.CONSUME', 'g', 'c', KEYS[1], 'BLOCK', 0, \
                    'THEN', 1, KEYS[2])";
        client.cmd(&["EVAL", body, "2", "a", "b"])
    };
    assert_eq!(in_transaction(&mut client, &[&command]), [no_tasks()]);
    assert_eq!(script(&mut client), no_tasks());
    client.publish("b", "p0");
    client.publish("b", "p1");
    is(&in_transaction(&mut client, &[&command])[0], &[("b", "p0")]);
    is(&script(&mut client), &[("b", "p1")]);
    assert_eq!(waiters(&mut client, "task"), 0);
}

// --- Arguments

#[test]
fn then_comes_in_any_order_and_case_and_once() {
    let server = Checked::start();
    let mut client = server.client();
    for call in [
        "TASK.CONSUME g c a THEN 2 b c",
        "TASK.CONSUME g c a then 2 b c COUNT 3 BLOCK 1",
        "TASK.CONSUME g c a COUNT 3 Then 2 b c BLOCK 1 META",
        "TASK.CONSUME g c a 3 1 META THEN 1 b",
        "TASK.CONSUME g c a 3 THEN 1 then",
        "TASK.CONSUME g c a THEN 3 META COUNT BLOCK",
        "TASK.CONSUME THEN 1 a THEN 1 b",
    ] {
        changes_nothing(&mut client, call, no_tasks());
    }
    let most = names(64);
    changes_nothing(&mut client, &consume("c", &slices(&most), ""), no_tasks());
}

/// Malformed calls. The server cannot tell the keys of most of them.
const MALFORMED: [&str; 22] = [
    "THEN",
    "THEN 1",
    "THEN 0",
    "THEN 0 b",
    "THEN -1 b",
    "THEN 2 b",
    "THEN 01 b",
    "THEN +1 b",
    "THEN 1.0 b",
    "THEN x b",
    "THEN b",
    "THEN 1 b c",
    "THEN 1 b THEN 1 c",
    "THEN 1 a",
    "THEN 2 b b",
    "THEN 3 b c b",
    "THEN 4 b COUNT 1",
    "THEN 64 b",
    "THEN 9223372036854775807 b",
    "THEN 9223372036854775808 b",
    "THEN 18446744073709551617 b",
    "COUNT 1 COUNT 1 THEN 1 b",
];

#[test]
fn a_malformed_then_is_a_syntax_error_before_any_key_is_looked_at() {
    let server = Checked::start();
    let mut admin = server.client();
    admin.publish("a", "p");
    admin.publish("b", "p");
    run_all(&mut admin, &["SET text x", "ACL SETUSER u on >p ~a +@all"]);
    let mut user = server.client();
    assert_eq!(user.run("AUTH u p"), ok());
    let mut calls: Vec<Vec<Vec<u8>>> = MALFORMED
        .iter()
        .map(|options| format!("TASK.CONSUME g c a {options}"))
        .map(|call| call.split(' ').map(Into::into).collect())
        .collect();
    let too_many: Vec<_> = (0..64).map(|number| number.to_string()).collect();
    calls.push(
        format!("TASK.CONSUME g c a THEN 64 {}", too_many.join(" "))
            .split(' ')
            .map(Into::into)
            .collect(),
    );
    for name in [&b""[..], b"a"] {
        calls.push(args!["TASK.CONSUME", "g", "c", "a", "THEN", 2, "b", name].to_vec());
    }
    calls.push(args!["TASK.CONSUME", "g", "c", "a", "COUNT", 1, "THEN\0", 1, "b"].to_vec());
    calls.push(args!["TASK.CONSUME", "g", "c", "a", "THEN", "1\0", "b"].to_vec());
    for call in calls {
        let before = Keyspace::of(&mut admin);
        assert_eq!(admin.cmd(&call), error(SYNTAX), "{call:?}");
        // Where the server can tell the keys, it says that the second one is not allowed.
        let reply = user.cmd(&call);
        assert!(reply == error(SYNTAX) || reply.is_error_with("NOPERM"), "{call:?}: {reply:?}");
        // A foreign type in the first key is not looked at.
        let mut foreign = call.clone();
        foreign[3] = b"text".to_vec();
        if call.last().is_none_or(|name| name != b"a") {
            assert_eq!(admin.cmd(&foreign), error(SYNTAX), "{foreign:?}");
        }
        assert_eq!(Keyspace::of(&mut admin), before, "{call:?}");
    }
    assert_eq!(admin.run("ACL DELUSER u"), int(1));
}

#[test]
fn names_of_any_bytes_come_back_as_they_were() {
    let server = Checked::start();
    let mut client = server.client();
    let odd: [&[u8]; 5] = [b"\0", b"a b\r\n", b"\xff\xfe", b"x}", b"{tag}:\n"];
    for queue in odd {
        client.cmd(&args!["TASK.PUBLISH", queue, queue]);
    }
    let mut call = args!["TASK.CONSUME", "g", "c", "a", "COUNT", 9, "THEN", odd.len()].to_vec();
    call.extend(odd.map(<[u8]>::to_vec));
    let reply = client.cmd(&call);
    let found: Vec<_> = reply.items().iter().map(|task| task.items()[4].bytes()).collect();
    assert_eq!(found, odd);
    let mut waiter = server.client();
    waiter.send_args(&[&call[..], &args!["BLOCK", 0]].concat());
    wait_blocked(&server, 1);
    client.cmd(&args!["TASK.PUBLISH", odd[2], "p"]);
    assert_eq!(waiter.read().items()[0].items()[4].bytes(), odd[2]);
}

#[test]
fn command_getkeys_names_every_queue() {
    let server = Checked::start();
    let mut client = server.client();
    for (options, keys) in [
        ("", &["a"][..]),
        ("THEN 2 b c", &["a", "b", "c"]),
        ("then 1 b COUNT 9 BLOCK 0", &["a", "b"]),
        ("9 0 META THEN 1 b", &["a", "b"]),
        ("BLOCK 0 THEN 3 THEN 2 c", &["a", "THEN", "2", "c"]),
    ] {
        let call = format!("TASK.CONSUME g c a {options}");
        assert_eq!(
            client.run(format!("COMMAND GETKEYS {}", call.trim_end())),
            array(keys.iter().copied())
        );
        let flags = client.run(format!("COMMAND GETKEYSANDFLAGS {}", call.trim_end()));
        let found: Vec<_> = flags
            .items()
            .iter()
            .map(|key| (key.items()[0].as_str(), words(&key.items()[1])))
            .collect();
        let expected: Vec<_> = keys.iter().map(|key| (*key, "RW access update".into())).collect();
        assert_eq!(found, expected);
    }
    for options in ["THEN 01 b", "THEN 2 b", "THEN x b", "THEN 0 b"] {
        let reply = client.run(format!("COMMAND GETKEYS TASK.CONSUME g c a {options}"));
        assert!(reply.is_error_with("ERR "), "{reply:?}");
    }
}

#[test]
fn a_user_needs_permission_for_every_queue() {
    let server = Checked::start();
    let mut admin = server.client();
    let rules = "ACL SETUSER u on >p ~a* +task.consume +ping";
    assert_eq!(admin.run(rules), ok());
    let mut user = server.client();
    assert_eq!(user.run("AUTH u p"), ok());
    admin.publish("b", "p");
    for options in ["", "COUNT 9", "BLOCK 0"] {
        for queues in [&["a", "b"][..], &["a", "a1", "b"], &["b", "a"]] {
            let reply = user.run(consume("c", queues, options));
            assert!(reply.is_error_with("NOPERM"), "{queues:?}: {reply:?}");
        }
    }
    admin.publish("a1", "p");
    is(&user.run(consume("c", &["a", "a1"], "")), &[("a1", "p")]);
    send_and_wait(&mut admin, "task", &mut user, &consume("c", &["a", "a1"], "BLOCK 0"));
    admin.publish("a1", "q");
    gets_new(&mut user, "a1", "q");
    assert_eq!(admin.run("ACL DELUSER u"), int(1));
}

// --- Waiting

#[test]
fn a_consumer_is_served_by_whichever_queue_gets_a_task_first() {
    let server = Checked::start();
    let mut client = server.client();
    let queues = ["a", "b", "c"];
    for queue in queues {
        let mut waiter = waits(&server, "w", &queues);
        assert_eq!(waiters(&mut client, "task"), 1);
        assert!(queues.iter().all(|queue| waiting(&mut client, queue) == 1));
        client.publish(queue, "p");
        gets_new(&mut waiter, queue, "p");
        assert_eq!(holders(&mut client, queue), ["w"]);
        assert_eq!(waiters(&mut client, "task"), 0);
        assert!(queues.iter().all(|queue| waiting(&mut client, queue) == 0));
        // A plain client wakes it as well.
        let mut waiter = waits(&server, "w", &queues);
        assert!(!client.run(format!("XADD {queue} * payload q")).is_error());
        gets_new(&mut waiter, queue, "q");
        run_all(&mut client, &["FLUSHALL"]);
    }
}

#[test]
fn a_delayed_task_of_any_queue_comes_when_it_is_due() {
    let server = Checked::start();
    let mut client = server.client();
    for queue in ["a", "b", "c"] {
        for waits_first in [true, false] {
            let early = waits_first.then(|| waits(&server, "c0", &["a", "b", "c"]));
            let due = id_ms(&client.publish_with(queue, "p", "DELAY 120"));
            let mut waiter = early.unwrap_or_else(|| waits(&server, "c0", &["a", "b", "c"]));
            gets_new(&mut waiter, queue, "p");
            on_time(now_ms(), due);
        }
    }
}

#[test]
fn the_lease_of_any_queue_that_expires_wakes_the_consumer() {
    let server = Checked::start();
    let mut client = server.client();
    for queue in ["a", "b"] {
        client.publish(queue, "p");
        client.lease("g", "dead", queue);
        let mut waiter = waits(&server, "c", &["a", "b"]);
        run_all(&mut client, &[format!("TASK.POLICY {queue} LEASE 60")]);
        let reply = waiter.read();
        let [(from, payload, idle, deliveries)] = &all(&reply)[..] else { panic!("{reply:?}") };
        assert_eq!((from.as_str(), payload.as_str(), *deliveries), (queue, "p", 2));
        assert!((60..60 + LATE).contains(idle), "{idle}");
        let id = reply.items()[0].items()[0].as_str();
        assert_eq!(client.run(format!("TASK.ACK {queue} g {id}")), int(1));
    }
}

#[test]
fn consumers_of_one_and_of_many_queues_stand_in_one_line() {
    let server = Checked::start();
    let mut client = server.client();
    let mut many = waits(&server, "many", &["a", "b"]);
    let mut one = waits_for_one(&server, "one", "b");
    let mut last = waits(&server, "last", &["c", "b"]);
    for (number, consumer) in ["many", "one", "last"].into_iter().enumerate() {
        client.publish("b", &number.to_string());
        assert_eq!(holders(&mut client, "b").last().map(String::as_str), Some(consumer));
    }
    gets_new(&mut many, "b", "0");
    assert_eq!(one.read().task_payloads(), ["1"]);
    gets_new(&mut last, "b", "2");
    // One that is served elsewhere leaves its place to the next.
    let mut many = waits(&server, "many", &["a", "b"]);
    let mut one = waits_for_one(&server, "one", "b");
    client.publish("a", "x");
    gets_new(&mut many, "a", "x");
    client.publish("b", "y");
    assert_eq!(one.read().task_payloads(), ["y"]);
}

#[test]
fn a_newcomer_overtakes_nobody_in_any_queue() {
    let server = Checked::start();
    let mut client = server.client();
    // One waits for `a` alone: what is in `b` is free.
    let mut one = waits_for_one(&server, "one", "a");
    client.publish("b", "free");
    is(&client.run(consume("c", &["a", "b"], "COUNT 9")), &[("b", "free")]);
    // Both commands come in one transaction, so that only the line can serve the waiter first.
    let calls = ["XADD a * payload p0", "XADD a * payload p1"].map(String::from);
    let calls = [&calls[..], &[consume("c", &["b", "a"], "COUNT 9")]].concat();
    is(&in_transaction(&mut client, &calls)[2], &[("a", "p1")]);
    assert_eq!(one.read().task_payloads(), ["p0"]);
}

#[test]
fn tasks_of_two_queues_at_once_serve_two_consumers_once_each() {
    let server = Checked::start();
    let mut client = server.client();
    let mut first = waits(&server, "c0", &["a", "b"]);
    let tasks = ["TASK.PUBLISH a p", "TASK.PUBLISH b p"];
    assert_eq!(in_transaction(&mut client, &tasks).len(), 2);
    gets_new(&mut first, "a", "p");
    assert_eq!(client.run("XPENDING a g").items()[0], int(1));
    assert_eq!(client.run("XINFO GROUPS b"), no_tasks(), "it stays ready");
    is(&client.run(consume("c", &["a", "b"], "COUNT 9")), &[("b", "p")]);
    let mut both = [waits(&server, "c0", &["a", "b"]), waits(&server, "c1", &["a", "b"])];
    in_transaction(&mut client, &["XADD b * payload q", "XADD a * payload q"]);
    let mut from: Vec<_> = both.iter_mut().map(|client| new(&client.read()).remove(0).0).collect();
    from.sort();
    assert_eq!(from, ["a", "b"]);
}

#[test]
fn a_waiter_takes_up_to_its_count_from_the_queue_that_serves_it() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiter = waiter_with(&server, &consume("c", &["a", "b"], "COUNT 2 BLOCK 0"));
    let tasks = ["0", "1", "2"].map(|payload| format!("XADD b * payload {payload}"));
    in_transaction(&mut client, &tasks);
    is(&waiter.read(), &[("b", "0"), ("b", "1")]);
}

#[test]
fn a_client_can_wait_in_64_lines() {
    let server = Checked::start();
    let mut client = server.client();
    let names = names(64);
    let queues = slices(&names);
    for serves in [0, 31, 63] {
        let mut waiter = waits(&server, "c", &queues);
        assert_eq!(waiters(&mut client, "task"), 1);
        assert!(queues.iter().all(|queue| waiting(&mut client, queue) == 1));
        client.publish(queues[serves], "p");
        gets_new(&mut waiter, queues[serves], "p");
        assert!(queues.iter().all(|queue| waiting(&mut client, queue) == 0));
    }
    is_idle(&server);
}

#[test]
fn each_group_has_its_own_lines() {
    let server = Checked::start();
    let mut client = server.client();
    let [mut g, mut h] = ["g", "h"]
        .map(|group| waiter_with(&server, &consume_in(group, "c", &["a", "b"], "BLOCK 0")));
    client.publish("b", "p");
    gets_new(&mut g, "b", "p");
    gets_new(&mut h, "b", "p");
    for group in ["g", "h"] {
        let id = client.leased_ids("b", group).remove(0);
        assert_eq!(client.run(format!("TASK.ACK b {group} {id}")), int(1));
    }
    assert_eq!(client.run("XLEN b"), int(0));
}

// --- Leaving

#[test]
fn whoever_leaves_leaves_every_line() {
    let server = Checked::start();
    let mut client = server.client();
    let queues = ["a", "b", "c"];
    for exit in EXITS {
        let mut leaver = Leaver::connect(&server, exit);
        let call = consume("c0", &queues, "BLOCK");
        leaver.wait(&mut client, "task", &call, 100);
        let mut behind = waits(&server, "c1", &["c", "b"]);
        leaver.leave(&mut client, "task", &no_tasks());
        assert_eq!(waiters(&mut client, "task"), 1, "{exit:?}");
        assert_eq!(queues.map(|queue| waiting(&mut client, queue)), [0, 1, 1], "{exit:?}");
        client.publish("b", "p");
        gets_new(&mut behind, "b", "p");
    }
}

#[test]
fn the_module_is_not_unloaded_while_a_client_waits_in_many_lines() {
    let server = Checked::start();
    let mut client = server.client();
    let names = names(64);
    let mut waiter = waits(&server, "c", &slices(&names));
    assert!(client.run("MODULE UNLOAD corral").is_error());
    client.publish(&names[40], "p");
    gets_new(&mut waiter, &names[40], "p");
    // `Checked` unloads it.
}

#[test]
fn clients_that_waited_in_many_lines_leave_no_memory_behind() {
    let server = Checked::start();
    let mut client = server.client();
    let names = names(64);
    let call = consume("c", &slices(&names), "BLOCK 1");
    let mut waiter = server.client();
    let mut round = |count: usize| {
        for _ in 0..count {
            assert_eq!(waiter.run(&call), no_tasks());
        }
    };
    round(50);
    grows_by_less_than(&mut client, 300_000, |_| round(500));
}

#[test]
fn a_demotion_unblocks_and_a_promoted_server_serves_again() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiter = waits(&server, "c", &["a", "b"]);
    assert_eq!(client.run(NO_MASTER), ok());
    assert_unblocked(&mut waiter);
    assert_eq!(waiters(&mut client, "task"), 0);
    let refused = client.run(consume("c", &["a", "b"], "BLOCK 0"));
    assert!(refused.is_error_with("READONLY "), "{refused:?}");
    assert_eq!(client.run("REPLICAOF NO ONE"), ok());
    let mut waiter = waits(&server, "c", &["a", "b"]);
    client.publish("b", "p");
    gets_new(&mut waiter, "b", "p");
}

#[test]
fn a_wait_outlasts_flushes_swaps_and_reloads() {
    let server = Checked::new(Server::builder().aof(true).start());
    let mut client = server.client();
    for event in
        ["FLUSHALL", "FLUSHDB ASYNC", "SWAPDB 0 1", "SWAPDB 9 0", "DEBUG RELOAD", "DEBUG LOADAOF"]
    {
        for serves in ["a", "b"] {
            let mut waiter = waits(&server, "c", &["a", "b"]);
            run_all(&mut client, &[event]);
            assert_eq!(waiters(&mut client, "task"), 1, "{event}");
            client.publish(serves, "p");
            gets_new(&mut waiter, serves, "p");
        }
    }
    // What comes with another database is delivered.
    run_all(&mut client, &["SELECT 1"]);
    client.publish("b", "elsewhere");
    run_all(&mut client, &["SELECT 0", "FLUSHDB"]);
    let mut waiter = waits(&server, "c", &["a", "b"]);
    run_all(&mut client, &["SWAPDB 0 1"]);
    gets_new(&mut waiter, "b", "elsewhere");
}

#[test]
fn while_writes_are_paused_nothing_is_handed_over() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiter = waits(&server, "c", &["a", "b"]);
    let pause = ["TASK.PUBLISH b p DELAY 20", "CLIENT PAUSE 600000 WRITE"];
    in_transaction(&mut client, &pause);
    client.wait_ms(60);
    assert_eq!(waiter.read_timeout(Duration::ZERO), None);
    assert_eq!(client.run("CLIENT UNPAUSE"), ok());
    gets_new(&mut waiter, "b", "p");
}

#[test]
fn a_queue_may_vanish_and_come_back_during_a_wait() {
    let server = Checked::start();
    let mut client = server.client();
    client.publish("b", "p");
    client.lease("g", "c", "b");
    for event in ["DEL b", "XGROUP DESTROY b g", "RENAME b elsewhere"] {
        let mut waiter = waits(&server, "c", &["a", "b"]);
        run_all(&mut client, &[event, "DEL b", "DEL elsewhere"]);
        client.publish("b", "again");
        gets_new(&mut waiter, "b", "again");
    }
}

// --- Refusals during a wait

#[test]
fn a_client_that_lost_the_permission_for_one_queue_is_refused() {
    let server = Checked::start();
    let mut admin = server.client();
    for (lost, serves) in [("a", "b"), ("b", "b"), ("b", "a")] {
        assert_eq!(admin.run("ACL SETUSER u on >p ~* +@all"), ok());
        let mut denied = server.client();
        assert_eq!(denied.run("AUTH u p"), ok());
        send_and_wait(&mut admin, "task", &mut denied, &consume("c", &["a", "b"], "BLOCK 0"));
        let mut behind = waits(&server, "c1", &["a", "b"]);
        let left = if lost == "a" { "b" } else { "a" };
        assert_eq!(admin.run(format!("ACL SETUSER u resetkeys ~{left}")), ok());
        admin.publish(serves, "p");
        assert_eq!(denied.read(), error(NO_PERMISSION));
        gets_new(&mut behind, serves, "p");
        assert_eq!(admin.run("ACL DELUSER u"), int(1));
    }
}

#[test]
fn another_type_in_the_place_of_one_queue_answers_the_whole_wait() {
    let server = Checked::start();
    let mut client = server.client();
    for spoiled in ["a", "b"] {
        let mut many = waits(&server, "c", &["a", "b"]);
        let mut other = waits(&server, "c", &["c", "d"]);
        run_all(&mut client, &[format!("SET {spoiled} x")]);
        assert_eq!(many.read(), error(WRONG_TYPE));
        assert_eq!(waiters(&mut client, "task"), 1);
        run_all(&mut client, &[format!("DEL {spoiled}")]);
        client.publish("d", "p");
        gets_new(&mut other, "d", "p");
    }
}

#[test]
fn a_refusal_that_passes_leaves_the_consumer_in_its_lines() {
    let server = Checked::start();
    let mut client = server.client();
    // Memory is full when the task of a queue without the group becomes due.
    let mut waiter = waits(&server, "c", &["a", "b"]);
    client.publish_with("b", "p", "DELAY 100");
    let due = now_ms() + 100;
    run_all(&mut client, &["CONFIG SET maxmemory 1"]);
    client.wait_past(due + 50);
    assert_eq!(waiters(&mut client, "task"), 1);
    assert_eq!(waiter.read_timeout(Duration::ZERO), None);
    run_all(&mut client, &["CONFIG SET maxmemory 0"]);
    gets_new(&mut waiter, "b", "p");
}

// --- What others see

#[test]
fn replicas_and_the_append_only_file_see_plain_commands() {
    let mut server = durable();
    let mut client = server.client();
    let mut tap = server.replication_tap();
    let mut waiter = waits(&server, "c", &["a", "b"]);
    client.publish("b", "p0");
    gets_new(&mut waiter, "b", "p0");
    client.publish("a", "p1");
    client.publish("b", "p2");
    is(&client.run(consume("c", &["a", "b"], "COUNT 9")), &[("a", "p1"), ("b", "p2")]);
    let effects = tap.effects();
    assert!(effects.iter().all(|effect| !effect.contains("TASK.")), "{effects:?}");
    let creates: Vec<_> = effects.iter().filter(|e| e.starts_with("XGROUP CREATE ")).collect();
    assert_eq!(creates.len(), 2, "one for each queue that held a task: {effects:?}");
    let before = contents(&server);
    drop((client, waiter, tap));
    server.stop();
    server.restart_without_module();
    assert_eq!(contents(&server), before);
    server.stop();
    server.restart();
    let mut client = server.client();
    assert_eq!(client.leased_ids("b", "g").len(), 2);
    let mut waiter = waits(&server, "c", &["a", "b"]);
    client.publish("b", "after");
    gets_new(&mut waiter, "b", "after");
}

#[test]
fn a_replica_holds_the_same() {
    let master = Checked::start();
    let replica = Server::builder().replica_of(&master).start();
    let mut client = master.client();
    let mut waiter = waits(&master, "c", &["a", "b", "c"]);
    client.publish_with("c", "p", "PRIORITY 4");
    gets_new(&mut waiter, "c", "p");
    client.publish("b", "q");
    is(&client.run(consume("c", &["a", "b", "c"], "")), &[("b", "q")]);
    wait_in_sync(&master, &replica);
    assert_eq!(replica.client().run("DEBUG DIGEST"), client.run("DEBUG DIGEST"));
    let refused = replica.client().run(consume("c", &["a", "b"], ""));
    assert!(refused.is_error_with("READONLY "), "{refused:?}");
}

// --- Much at once

#[test]
fn a_call_over_many_queues_moves_no_more_than_one_over_one_queue_may() {
    const COPIES: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let names = names(12);
    let queues = slices(&names);
    let script = "redis.call('XGROUP', 'CREATE', KEYS[1], 'g', 0, 'MKSTREAM') \
        redis.call('XGROUP', 'CREATE', KEYS[1], 'other', 0) \
        for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'payload', i, \
        'timestamp', 0, 'retry_count', 1, 'original_id', '1-1', 'group', 'other') end";
    for queue in &queues {
        assert!(client.cmd(&args!["EVAL", script, 1, queue, COPIES]).is_nil());
    }
    client.publish(queues[11], "behind all copies");
    assert_eq!(client.run(consume("c", &queues, "")), no_tasks());
    let mut touched = 0;
    for queue in &queues {
        let groups = client.run(format!("XINFO GROUPS {queue}"));
        let g = groups.items().iter().find(|group| group.get("name") == &bulk("g"));
        let last = g.expect("the group").get("last-delivered-id").as_str().to_owned();
        touched += usize::from(last != "0-0");
    }
    assert!((4..=6).contains(&touched), "{touched} of 12 queues");
    // The timer goes on for a client that waits.
    let mut waiter = waits(&server, "c", &queues);
    gets_new(&mut waiter, queues[11], "behind all copies");
}

#[test]
fn a_hand_over_does_the_same_work_in_front_of_one_consumer_and_of_two_thousand() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let queues = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let publish = |number: usize| format!("TASK.PUBLISH {} {number}", queues[number % 8]);
    // The calls of these publishes, with the number of reads apart: each queue is also checked from
    // time to time, however much is published.
    let mut calls_of = |commands: &[String]| {
        let begin = Instant::now();
        let mut calls = calls_during(&mut client, |client| {
            client.pipeline(commands);
        });
        calls.remove("xpending");
        let reads = calls.remove("xreadgroup").unwrap_or(0);
        let checks = 8 * (begin.elapsed().as_millis() as u64 / 800 + 1);
        let least = commands.len() as u64;
        assert!((least..=least + checks).contains(&reads), "{reads} reads for {least} tasks");
        calls
    };
    let line = |count: usize| -> Vec<_> {
        (0..count).map(|number| waits(&server, &format!("c{number}"), &queues)).collect()
    };
    // Afterwards each queue has its group.
    let mut first = line(8);
    calls_of(&(0..8).map(publish).collect::<Vec<_>>());
    first.iter_mut().for_each(|client| drop(client.read()));
    let mut few = line(8);
    let with_few = calls_of(&(0..8).map(publish).collect::<Vec<_>>());
    for (number, client) in few.iter_mut().enumerate() {
        gets_new(client, queues[number], &number.to_string());
    }
    assert_eq!(with_few["xadd"], 8);

    let mut crowd = line(COUNT);
    let tasks: Vec<_> = (0..COUNT).map(publish).collect();
    for some in tasks.chunks(COUNT / 2) {
        let times = |(name, count): (&String, &u64)| (name.clone(), count * some.len() as u64 / 8);
        assert_eq!(calls_of(some), with_few.iter().map(times).collect());
    }
    for (number, client) in crowd.iter_mut().enumerate() {
        gets_new(client, queues[number % 8], &number.to_string());
    }
}

#[test]
fn two_thousand_consumers_wait_in_64_lines_each_and_all_are_served_in_order() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let names = names(64);
    let queues = slices(&names);
    let mut crowd: Vec<_> =
        (0..COUNT).map(|number| waits(&server, &format!("c{number}"), &queues)).collect();
    assert_eq!(waiters(&mut client, "task"), COUNT);
    assert_eq!(waiting(&mut client, queues[63]), COUNT as i64);
    // Every third one leaves.
    for number in (0..COUNT).step_by(3) {
        crowd[number] = server.client();
    }
    let left = COUNT - COUNT.div_ceil(3);
    eventually(SOON, "the others wait", || waiters(&mut client, "task") == left);
    let random = shuffled(64);
    let mut number = 0;
    for (place, waiter) in crowd.iter_mut().enumerate() {
        if place % 3 != 0 {
            let queue = queues[random[number % 64]];
            client.publish(queue, &number.to_string());
            gets_new(waiter, queue, &number.to_string());
            number += 1;
        }
    }
    assert_eq!(waiters(&mut client, "task"), 0);
}
