//! What the queue's commands reply and store: publishing at a time, with a priority, once for all
//! and within a limit; what a consumer is given, in which order and in which shape; the ends of a
//! lease and of a task.
//!
//! Replies are exact in both protocols. Every argument of every form meets hostile bytes, and every
//! derived key a foreign type: a refused call has changed nothing. What moves a task is in
//! `task_moves.rs`, what replicas see of it in `task_durability.rs`; policies, and what TASK.INFO
//! tells, are in `task_policy.rs`.

mod support;
use Kind::*;
use support::*;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
const SYNTAX: &str = "ERR syntax error";
const FULL: &str = "TASKFULL the queue holds as many tasks as its policy allows";

/// A time that does not pass during a test, and the most that a busy machine takes between two
/// looks at the clock.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

/// How many sequence numbers a priority has.
const CLASS: u64 = 100_000_000_000_000_000;

/// Where the task of an id is: 0 to 9 is its priority, 10 is not due.
fn class(id: &str) -> u64 {
    let (_, seq) = id.split_once('-').expect("an id");
    seq.parse::<u64>().expect("a sequence number") / CLASS
}

/// Runs `check` for a RESP2 and a RESP3 client, each on an empty server.
fn in_both_protocols(check: impl Fn(&mut Client)) {
    let server = Server::start();
    for mut client in [server.client(), server.client3()] {
        assert_eq!(client.run("FLUSHALL"), ok());
        check(&mut client);
    }
}

/// The call replies this, and the server holds what it held before.
#[track_caller]
fn changes_nothing(client: &mut Client, args: &[impl AsRef<[u8]>], reply: Value) {
    let before = Keyspace::of(client);
    let shown = || {
        let words = args.iter().map(|word| word.as_ref().escape_ascii().to_string());
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(client.cmd(args), reply, "{}", shown());
    assert_eq!(Keyspace::of(client), before, "{}", shown());
}

/// As [`changes_nothing`], for a command written as one line.
#[track_caller]
fn line_changes_nothing(client: &mut Client, line: &str, reply: Value) {
    changes_nothing(client, &line.split(' ').collect::<Vec<_>>(), reply);
}

/// A task that was published before is not published again: the reply is its id, and all keys are
/// what they were. The key of its window is written as it is, so that `WAIT` waits for the task.
#[track_caller]
fn is_a_duplicate(client: &mut Client, line: &str, id: &str) {
    let before = Keyspace::of(client);
    assert_eq!(client.run(line), bulk(id), "{line}");
    assert!(Keyspace::of(client).has_the_data_of(&before), "{line}");
}

/// The payloads of what the next CONSUME delivers.
#[track_caller]
fn payloads(client: &mut Client, group: &str, count: i64) -> Vec<String> {
    let reply = client.run(format!("TASK.CONSUME {group} c tasks {count}"));
    reply.task_payloads().into_iter().map(str::to_owned).collect()
}

/// Waits until the server's clock is past this point.
#[track_caller]
fn wait_past(client: &mut Client, ms: i64) {
    eventually(SOON, "the clock goes on", || client.time_ms() > ms);
}

// ---------------------------------------------------------------------------------------------
// Publishing
// ---------------------------------------------------------------------------------------------

#[test]
fn options_of_publish_come_in_any_order_and_case_behind_the_retry_count() {
    let server = Server::start();
    let mut client = server.client();
    for options in [
        "DELAY 60000 PRIORITY 3 UNIQUE u 600000",
        "unique u 600000 Delay 60000 pRIORITY 3",
        "Priority 3 Unique u 600000 DELAY 60000",
    ] {
        for (count, written) in [("", 0), ("7 ", 7)] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let id = client.publish_with("tasks", "p", &format!("{count}{options}"));
            let member = format!("{id} 3 {written} - p");
            assert_eq!(client.scores("delayed:{tasks}"), [(member, id_ms(&id))], "{options}");
            assert_eq!(client.run("GET unique5:{tasks}:u"), bulk(&id));
            assert_eq!(client.run("DBSIZE"), int(2), "{options}");
        }
    }
    // Without options these are a payload and a retry count.
    client.run("FLUSHALL");
    for payload in ["DELAY", "UNIQUE", "priority"] {
        client.publish_with("tasks", payload, "5");
    }
    let fields = |payload| format!("payload={payload} timestamp=now retry_count=5");
    let stored: Vec<_> = client.tasks_in("tasks").into_iter().map(|task| task.fields).collect();
    assert_eq!(stored, ["DELAY", "UNIQUE", "priority"].map(fields));
}

#[test]
fn what_is_no_option_of_publish_or_comes_twice_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("tasks", "p");
    for options in [
        "DELAY",
        "AT",
        "PRIORITY",
        "UNIQUE",
        "UNIQUE u",
        "DELAY 1 AT 1",
        "AT 1 DELAY 1",
        "DELAY 1 DELAY 1",
        "AT 1 AT 1",
        "PRIORITY 1 PRIORITY 1",
        "UNIQUE u 1 UNIQUE v 1",
        "DELAY 1 0",
        "0 0",
        "0 NX",
        "PRIORITY 1 META",
        "0 DELAY 1 PRIORITY",
    ] {
        line_changes_nothing(
            &mut client,
            &format!("TASK.PUBLISH tasks p {options}"),
            error(SYNTAX),
        );
    }
    // In the place of the retry count.
    for word in ["NX", "DELAY\0", "DELA", "DELAYS"] {
        changes_nothing(
            &mut client,
            &args!["TASK.PUBLISH", "tasks", "p", word, 1],
            error(NOT_AN_INTEGER),
        );
    }
}

#[test]
fn a_delayed_task_lies_in_a_sorted_set_until_it_is_due() {
    in_both_protocols(|client| {
        let before = client.time_ms();
        let first = client.publish_with("tasks", "p", "4 DELAY 60000");
        let after = client.time_ms();
        assert!((before + 60_000..=after + 60_000).contains(&id_ms(&first)), "{first}");
        // The sequence is 10^18 and the microsecond of the call.
        let (_, seq) = first.split_once('-').unwrap();
        let us = seq.parse::<i64>().unwrap() - 1_000_000_000_000_000_000;
        assert!((before * 1000..=after * 1000 + 999).contains(&us), "{first}");

        let second = client.publish_with("tasks", "q q", &format!("AT {}", id_ms(&first)));
        assert_eq!(id_ms(&second), id_ms(&first));
        assert!(class(&second) == 10 && second > first, "{second}");
        let due = id_ms(&first);
        let waiting = [(format!("{first} 0 4 - p"), due), (format!("{second} 0 0 - q q"), due)];
        assert_eq!(client.scores("delayed:{tasks}"), waiting);
        assert_eq!(client.run("EXISTS tasks"), int(0));
        assert!(client.run("TASK.CONSUME g c tasks 10").is_nil());
        assert_eq!(client.run("XLEN tasks"), int(0));
    });
}

#[test]
fn a_task_enters_the_stream_when_it_is_due_and_not_before() {
    let server = Server::start();
    let mut client = server.client();
    for (options, priority, key) in
        [("DELAY 40", 0, "tasks"), ("DELAY 40 PRIORITY 6", 6, "priority6:{tasks}")]
    {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("tasks", "p", &format!("4 {options}"));
        let task = eventually(SOON, "the task is due", || {
            let task = client.consume("g", "c", "tasks", 10).pop();
            assert!(task.is_none() || client.time_ms() >= id_ms(&id), "{task:?} came early");
            task
        });
        let fields = format!("payload=p timestamp=now retry_count=4 original_id={id}");
        assert_eq!(task.fields, fields);
        assert_eq!((task.idle, task.deliveries), (0, 1));
        assert_eq!(class(&task.id), priority, "{}", task.id);
        assert_eq!(client.ids_in(key), [task.id.as_str()]);
        assert_eq!(client.run("EXISTS delayed:{tasks}"), int(0));
        // The first id means nothing any more.
        line_changes_nothing(&mut client, &format!("TASK.CANCEL tasks {id}"), int(0));
        line_changes_nothing(&mut client, &format!("TASK.ACK tasks g {id}"), int(0));
        line_changes_nothing(&mut client, &format!("TASK.EXTEND tasks g c {id}"), int(0));
        line_changes_nothing(&mut client, &format!("TASK.NACK tasks g c FAIL {id}"), int(0));
        assert_eq!(client.run(format!("TASK.ACK tasks g {}", task.id)), int(1));
    }
}

#[test]
fn tasks_become_due_in_the_order_of_their_times() {
    let server = Server::start();
    let mut client = server.client();
    let start = client.time_ms() + 40;
    for index in shuffled(20) {
        client.publish_with("tasks", &index.to_string(), &format!("AT {}", start + index as i64));
    }
    // Of those that are due at the same time the first that was published comes first.
    for index in 20..30 {
        client.publish_with("tasks", &index.to_string(), &format!("AT {}", start + 30));
    }
    wait_past(&mut client, start + 30);
    let ready = client.publish("tasks", "ready before");
    let got = payloads(&mut client, "g", 100);
    assert_eq!(got.len(), 31, "{got:?}");
    let due: Vec<_> = got.into_iter().filter(|payload| payload != "ready before").collect();
    assert_eq!(due, (0..30).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_eq!(client.run(format!("TASK.ACK tasks g {ready}")), int(1));
}

#[test]
fn a_time_that_is_over_means_now() {
    let server = Server::start();
    let mut client = server.client();
    let now = client.time_ms();
    for at in ["DELAY 0".to_owned(), "AT 0".into(), "AT 1".into(), format!("AT {now}")] {
        let id = client.publish_with("tasks", "p", &at);
        assert_eq!(class(&id), 0, "{at}");
        let task = client.only_task_in("tasks");
        assert_eq!((task.id, &*task.fields), (id, "payload=p timestamp=now retry_count=0"), "{at}");
        assert_eq!(client.run("DBSIZE"), int(1), "{at}");
        let id = client.publish_with("tasks", "p", &format!("{at} PRIORITY 2"));
        assert_eq!(class(&id), 2, "{at}");
        assert_eq!(client.ids_in("priority2:{tasks}"), [id]);
        client.run("FLUSHALL");
    }
}

#[test]
fn within_its_window_a_task_is_published_once_whatever_the_other_options() {
    let server = Server::start();
    let mut client = server.client();
    for (options, key) in [
        ("", "tasks"),
        ("PRIORITY 8", "priority8:{tasks}"),
        ("DELAY 60000", "delayed:{tasks}"),
        ("3 AT 5", "tasks"),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("tasks", "a", &format!("{options} UNIQUE u {LONG}"));
        assert_eq!(client.run(format!("EXISTS {key}")), int(1));
        assert_eq!(client.run("GET unique5:{tasks}:u"), bulk(&id));
        let left = client.run("PTTL unique5:{tasks}:u").as_int();
        assert!((LONG - SLACK..=LONG).contains(&left), "{left}");
        let before = (client.task_total("published"), client.task_total("deduplicated"));
        let again =
            ["UNIQUE u 1", "9 UNIQUE u 900000", "DELAY 5 PRIORITY 4 UNIQUE u 1", "UNIQUE u 1 AT 1"];
        for again in again {
            is_a_duplicate(&mut client, &format!("TASK.PUBLISH tasks b {again}"), &id);
        }
        let after = (client.task_total("published"), client.task_total("deduplicated"));
        assert_eq!(after, (before.0, before.1 + 4), "{options}");
    }
}

#[test]
fn a_window_outlives_its_task_and_ends_with_its_time() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish_with("tasks", "a", "UNIQUE u 600000");
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    is_a_duplicate(&mut client, "TASK.PUBLISH tasks a UNIQUE u 600000", &id);
    // Ended by hand, and by itself.
    assert_eq!(client.run("DEL unique5:{tasks}:u"), int(1));
    let second = client.publish_with("tasks", "a", "UNIQUE u 30");
    assert_ne!(second, id);
    eventually(SOON, "the window ends", || {
        client.publish_with("tasks", "a", "UNIQUE u 30") != second
    });
}

#[test]
fn unique_ids_are_bytes_and_belong_to_one_queue() {
    let server = Server::start();
    let mut client = server.client();
    let ids: [&[u8]; 9] =
        [b"u", b"U", b"u\0", b"u\0v", b"u\r\n", b" u", b"\xff", b"{x}", "Ā".as_bytes()];
    let queues: [&[u8]; 6] = [b"a", b"a:u", b"{a}", b"a}b", b"a\0", b"\xff\r\n"];
    let mut seen = Vec::new();
    for queue in queues {
        for id in ids {
            let call = args!["TASK.PUBLISH", queue, "p", "UNIQUE", id, LONG];
            let reply = client.cmd(&call);
            assert!(!reply.is_error(), "{reply:?}");
            assert_eq!(client.cmd(&call), reply, "a second time");
            seen.push(reply.as_str().to_owned());
        }
        assert_eq!(client.cmd(&args!["XLEN", queue]), int(9));
    }
    assert_eq!(client.run("DBSIZE"), int(6 + 54));
    let call = args!["TASK.PUBLISH", "a", "p", "UNIQUE", "", LONG];
    changes_nothing(&mut client, &call, error("ERR unique id must not be empty"));
}

#[test]
fn the_keys_of_a_queue_are_where_the_documentation_says() {
    let server = Server::start();
    let mut client = server.client();
    for (name, keys) in [
        ("orders", "priority3:{orders} delayed:{orders} policy:{orders} unique6:{orders}:u"),
        ("a{b}", "priority3::a{b} delayed::a{b} policy::a{b} unique4::a{b}:u"),
        ("{a}", "priority3::{a} delayed::{a} policy::{a} unique3::{a}:u"),
        ("a{b", "priority3:{a{b} delayed:{a{b} policy:{a{b} unique3:{a{b}:u"),
        ("a}b", "priority3:a}b delayed:a}b policy:a}b unique3:a}b:u"),
        ("{}", "priority3:{} delayed:{} policy:{} unique2:{}:u"),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(format!("TASK.POLICY {name} BACKOFF {LONG} {LONG}")), ok());
        client.publish_with(name, "p", "PRIORITY 3 UNIQUE u 600000");
        client.publish_with(name, "p", "DELAY 600000");
        let id = client.publish(name, "p");
        assert_eq!(client.run(format!("EXISTS {name} {keys}")), int(5), "{name}");
        assert_eq!(client.run("DBSIZE"), int(5), "{name}");
        // Dead letters, and what is left of the priority.
        assert_eq!(client.consume("g", "c", name, 10).len(), 2);
        assert_eq!(client.run(format!("TASK.NACK {name} g c FATAL {id}")), int(2));
        let dead = keys.split(' ').next().unwrap().replace("priority3", "dead");
        assert_eq!(client.run(format!("XLEN {dead}")), int(1), "{dead}");
        assert_eq!(client.run("DBSIZE"), int(6), "{name}");
    }
}

// ---------------------------------------------------------------------------------------------
// Limits
// ---------------------------------------------------------------------------------------------

#[test]
fn a_full_queue_refuses_every_kind_of_task_and_trims_nothing() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 4"), ok());
    let ready = client.publish("tasks", "ready");
    client.publish_with("tasks", "urgent", "PRIORITY 5");
    let delayed = client.publish_with("tasks", "delayed", "DELAY 600000");
    let unique = client.publish_with("tasks", "unique", "UNIQUE u 600000");
    let refuses = |client: &mut Client| {
        let before = (client.task_total("published"), client.task_total("refused"));
        for options in ["", " 3", " PRIORITY 5", " DELAY 5", " AT 1", " UNIQUE new 1000"] {
            let call = format!("TASK.PUBLISH tasks p{options}");
            line_changes_nothing(client, &call, error(FULL));
        }
        let after = (client.task_total("published"), client.task_total("refused"));
        assert_eq!(after, (before.0, before.1 + 6));
    };
    refuses(&mut client);
    // What is there already is no new task.
    is_a_duplicate(&mut client, "TASK.PUBLISH tasks p UNIQUE u 1000", &unique);
    // Leased tasks count, finished and cancelled ones do not.
    assert_eq!(client.consume("g", "c", "tasks", 2).len(), 2);
    refuses(&mut client);
    for room in [format!("TASK.ACK tasks g {ready}"), format!("TASK.CANCEL tasks {delayed}")] {
        assert_eq!(client.run(room), int(1));
        client.publish("tasks", "p");
        refuses(&mut client);
    }
    // A limit below what is there removes nothing; a greater one, or none, lets more in.
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 1"), ok());
    refuses(&mut client);
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 5"), ok());
    client.publish("tasks", "p");
    refuses(&mut client);
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 0"), ok());
    client.publish("tasks", "p");
    // Another queue has its own.
    client.publish("others", "p");
}

#[test]
fn what_comes_back_into_a_full_queue_is_not_refused() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 2 BACKOFF 0 0"), ok());
    let delayed = client.publish_with("tasks", "delayed", "DELAY 30");
    let id = client.publish("tasks", "p");
    wait_past(&mut client, id_ms(&delayed));
    assert_eq!(client.consume("g", "c", "tasks", 10).len(), 2, "one was promoted");
    for mode in ["FAIL", "SILENT"] {
        let id = client.leases("tasks", "g").into_iter().map(|lease| lease.id).next().unwrap();
        assert_eq!(client.run(format!("TASK.NACK tasks g c {mode} {id}")), int(1));
        assert_eq!(client.run("TASK.PUBLISH tasks p"), error(FULL));
    }
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 tasks dead 3")), ok());
    assert_eq!(
        client.run("XADD dead:{tasks} * payload p"),
        client.ids_in("dead:{tasks}")[0].as_str().into()
    );
    assert_eq!(client.run("TASK.REDRIVE dead:{tasks} tasks"), int(1));
    assert_eq!(client.run("TASK.PUBLISH tasks p"), error(FULL));
}

// ---------------------------------------------------------------------------------------------
// Priorities
// ---------------------------------------------------------------------------------------------

#[test]
fn higher_priorities_come_first_and_each_in_the_order_of_publishing() {
    in_both_protocols(|client| {
        let priorities = [0, 5, 9, 1, 3, 2, 8, 4, 7, 6];
        for round in 0..3 {
            for priority in priorities {
                let payload = format!("{priority}-{round}");
                let id = client.publish_with("tasks", &payload, &format!("PRIORITY {priority}"));
                assert_eq!(class(&id), priority, "{id}");
            }
        }
        let expected: Vec<_> =
            (0..10).rev().flat_map(|p| (0..3).map(move |round| format!("{p}-{round}"))).collect();
        let mut got = Vec::new();
        for count in [1, 4, 1, 100] {
            for task in client.consume("g", "c", "tasks", count) {
                let payload = task.fields.split(' ').next().unwrap().to_owned();
                let payload = payload.strip_prefix("payload=").unwrap().to_owned();
                // The id tells where the task is.
                let key = match class(&task.id) {
                    0 => "tasks".to_owned(),
                    priority => format!("priority{priority}:{{tasks}}"),
                };
                let found = client.run(format!("XRANGE {key} {id} {id}", id = task.id));
                assert_eq!(found.items().len(), 1, "{} in {key}", task.id);
                assert!(payload.starts_with(&class(&task.id).to_string()), "{payload}");
                got.push(payload);
            }
        }
        assert_eq!(got, expected);
        assert_eq!(client.consume("g", "c", "tasks", 100), []);
    });
}

#[test]
fn ids_of_one_priority_rise_however_fast_they_are_made() {
    let server = Server::start();
    let mut client = server.client();
    for options in ["", " PRIORITY 1", " PRIORITY 9", " DELAY 600000"] {
        let lines = vec![format!("TASK.PUBLISH tasks p{options}"); 500];
        let ids = client.pipeline(&lines);
        let parts = |id: &Value| {
            let (ms, seq) = id.as_str().split_once('-').unwrap();
            (ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap())
        };
        let ids: Vec<_> = ids.iter().map(parts).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{options}: {ids:?}");
        assert!(ids.iter().all(|(_, seq)| seq / CLASS == ids[0].1 / CLASS), "{options}");
    }
}

#[test]
fn ids_stay_in_their_class_to_the_end_of_the_stream() {
    let server = Server::start();
    let mut client = server.client();
    for (last, next) in [
        ("9999999999999-300000000000000007", Some("9999999999999-300000000000000008")),
        ("9999999999999-399999999999999999", Some("10000000000000-300000000000000000")),
        ("9999999999999-5", Some("9999999999999-300000000000000000")),
        ("9999999999999-18446744073709551615", Some("10000000000000-300000000000000000")),
        (
            "18446744073709551615-300000000000000000",
            Some("18446744073709551615-300000000000000001"),
        ),
        ("18446744073709551615-399999999999999999", None),
        ("18446744073709551615-18446744073709551615", None),
    ] {
        // Nothing is known, and the last id that was made here is.
        for known in [false, true] {
            let queue = format!("{last}-{known}");
            let key = format!("priority3:{{{queue}}}");
            if known {
                client.publish_with(&queue, "p", "PRIORITY 3");
            }
            assert_eq!(client.run(format!("XADD {key} {last} payload p")), bulk(last));
            let call = format!("TASK.PUBLISH {queue} p PRIORITY 3");
            if let Some(next) = next {
                assert_eq!(client.run(call), bulk(next), "behind {last}");
            } else {
                let before = Keyspace::of(&mut client);
                let reply = client.run(call);
                assert!(reply.is_error_with("ERR "), "{reply:?}");
                assert!(Keyspace::of(&mut client) == before, "behind {last}");
            }
        }
    }
    // What is gone is no hindrance.
    for gone in ["FLUSHALL", "DEL priority3:{tasks}", "SWAPDB 0 1"] {
        client.publish_with("tasks", "p", "PRIORITY 3");
        assert!(!client.run(gone).is_error());
        let id = client.publish_with("tasks", "p", "PRIORITY 3");
        assert_eq!(class(&id), 3, "{id}");
        assert_eq!(client.ids_in("priority3:{tasks}"), [id], "{gone}");
    }
}

#[test]
fn one_reply_lists_every_priority_under_the_name_of_the_queue() {
    let server = Server::start();
    let (mut resp2, mut resp3) = (server.client(), server.client3());
    let publish = |client: &mut Client| {
        let low = client.publish("tasks", "low");
        let high = client.publish_with("tasks", "high", "PRIORITY 7");
        let entry = |id: &str, payload: &str, time: &Value| {
            let fields = array([
                bulk("payload"),
                bulk(payload),
                bulk("timestamp"),
                time.clone(),
                bulk("retry_count"),
                bulk("0"),
            ]);
            array([bulk(id), fields])
        };
        let mut time = |key: &str| {
            client.run(format!("XRANGE {key} - +")).items()[0].items()[1].get("timestamp").clone()
        };
        let (late, early) = (time("tasks"), time("priority7:{tasks}"));
        array([entry(&high, "high", &early), entry(&low, "low", &late)])
    };
    let expected = publish(&mut resp2);
    let reply = resp2.run("TASK.CONSUME g c tasks 5");
    assert_eq!(reply, array([array([bulk("tasks"), expected])]));
    assert_eq!(resp2.run("FLUSHALL"), ok());
    let expected = publish(&mut resp3);
    let reply = resp3.run("TASK.CONSUME g c tasks 5");
    assert_eq!(reply, map([(bulk("tasks"), expected)]));
}

#[test]
fn every_group_sees_every_priority() {
    let server = Server::start();
    let mut client = server.client();
    let low = client.publish("tasks", "low");
    let high = client.publish_with("tasks", "high", "PRIORITY 7");
    for group in ["g", "h"] {
        assert_eq!(payloads(&mut client, group, 9), ["high", "low"]);
    }
    for (group, left) in [("g", 1), ("h", 0)] {
        assert_eq!(client.run(format!("TASK.ACK tasks {group} {high} {low}")), int(2));
        assert_eq!(client.run("XLEN tasks"), int(left));
        assert_eq!(client.run("XLEN priority7:{tasks}"), int(left));
    }
    // As many as there are.
    assert_eq!(payloads(&mut client, "later", i64::MAX), [""; 0]);
    // A group that is new to a priority that came later.
    let later = client.publish_with("tasks", "later", "PRIORITY 2");
    for group in ["g", "h", "i"] {
        assert_eq!(client.lease(group, "c", "tasks"), later);
    }
}

#[test]
fn a_task_that_a_plain_client_added_to_a_priority_gets_an_id_that_tells_it() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["5-1", "9999999999999-7", "6-300000000000000000", "6-1000000000000000000"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let key = "priority4:{tasks}";
        client.run(format!("XADD {key} {id} colour red payload x retry_count 2"));
        let [task] = &client.consume("g", "c", "tasks", 9)[..] else { panic!("not one task") };
        assert_eq!(class(&task.id), 4, "{}", task.id);
        assert_eq!(client.ids_in(key), [task.id.as_str()], "instead of {id}");
        assert_eq!(
            task.fields,
            format!("payload=x timestamp=now retry_count=2 colour=red original_id={id}")
        );
        assert_eq!((task.idle, task.deliveries), (0, 1));
        // And what is published behind it has one, too, and comes behind it.
        let next = client.publish_with("tasks", "y", "PRIORITY 4");
        assert_eq!(class(&next), 4, "{next}");
        assert_eq!(client.lease("g", "c", "tasks"), next);
        assert_eq!(client.run(format!("TASK.ACK tasks g {} {next}", task.id)), int(2));
        assert_eq!(client.run(format!("XLEN {key}")), int(0));
    }
}

#[test]
fn an_id_that_is_not_where_it_points_is_sought_in_the_stream() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["5-300000000000000000", "5-1000000000000000000", "5-18446744073709551615"] {
        for has_priority in [false, true] {
            let prepare = |client: &mut Client| {
                assert_eq!(client.run("FLUSHALL"), ok());
                client.run(format!("XADD tasks {id} payload x"));
                if has_priority {
                    let other = client.publish_with("tasks", "y", "PRIORITY 3");
                    assert_eq!(client.lease("g", "c", "tasks"), other);
                }
            };
            prepare(&mut client);
            assert_eq!(client.run(format!("TASK.CANCEL tasks {id}")), int(1), "{id}");
            assert_eq!(client.run("XLEN tasks"), int(0));
            for (call, reply, left) in [
                (format!("TASK.EXTEND tasks g c {id}"), 1, 1),
                (format!("TASK.ACK tasks g {id}"), 1, 0),
                (format!("TASK.NACK tasks g c FATAL {id}"), 2, 0),
            ] {
                prepare(&mut client);
                assert_eq!(client.lease("g", "c", "tasks"), id);
                assert_eq!(client.run(&call), int(reply), "{call}");
                assert_eq!(client.run("XLEN tasks"), int(left), "{call}");
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Consuming
// ---------------------------------------------------------------------------------------------

#[test]
fn options_of_consume_stand_behind_the_positional_arguments_in_any_order_and_case() {
    let server = Server::start();
    let mut client = server.client();
    for options in [
        "2",
        "COUNT 2",
        "count 2 Block 1",
        "BLOCK 1 COUNT 2",
        "2 1",
        "2 BLOCK 1",
        "2 META",
        "2 1 META",
        "META COUNT 2",
        "BLOCK 1 Meta COUNT 2",
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let ids = ["a", "b", "c"].map(|payload| client.publish("tasks", payload));
        let meta = options.to_lowercase().contains("meta");
        let call = format!("TASK.CONSUME g c tasks {options}");
        let read = |reply: Value| -> Vec<String> {
            if meta {
                reply.delivered().into_iter().map(|task| task.id).collect()
            } else {
                reply.task_ids().into_iter().map(str::to_owned).collect()
            }
        };
        assert_eq!(read(client.run(&call)), ids[..2], "{options}");
        assert_eq!(read(client.run(&call)), ids[2..], "{options}");
        let nothing = if meta { array([""; 0]) } else { nil_array() };
        assert_eq!(client.run(&call), nothing, "{options}");
    }
}

#[test]
fn what_is_no_option_of_consume_or_comes_twice_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("tasks", "p");
    for options in [
        "COUNT",
        "BLOCK",
        "2 COUNT",
        "2 COUNT 2",
        "2 1 COUNT 2",
        "2 1 BLOCK 1",
        "2 1 1",
        "META 2",
        "META META",
        "COUNT 2 2",
        "COUNT 2 COUNT 2",
        "BLOCK 1 BLOCK 1",
        "2 1 META META",
        "META NOACK",
    ] {
        line_changes_nothing(
            &mut client,
            &format!("TASK.CONSUME g c tasks {options}"),
            error(SYNTAX),
        );
    }
    for (options, refusal) in [
        ("NOACK", NOT_AN_INTEGER),
        ("2 NOACK", NOT_AN_INTEGER),
        ("COUNT x", NOT_AN_INTEGER),
        ("COUNT 0", NOT_POSITIVE),
        ("COUNT -1", NOT_POSITIVE),
        ("BLOCK x", NOT_AN_INTEGER),
        ("BLOCK -1", NEGATIVE_TIMEOUT),
        ("BLOCK 9007199254740992", "ERR invalid expire time in 'task.consume' command"),
    ] {
        line_changes_nothing(
            &mut client,
            &format!("TASK.CONSUME g c tasks {options}"),
            error(refusal),
        );
    }
}

/// Names of queues that a C string or a text conversion would spoil.
const NAMES: [&[u8]; 8] =
    [b"a\0b", b"a\0c", b"\r\n", b"a\r\nb", b"\xff\xfe", b"{\0}\xff", b"a}\0", "Ā".as_bytes()];

#[test]
fn a_plain_queue_of_any_name_replies_byte_for_byte_what_xreadgroup_replies() {
    in_both_protocols(|client| {
        for name in NAMES {
            for payload in [&b"p"[..], b"\0", b"\r\n", b"\xff", b""] {
                assert!(!client.cmd(&args!["TASK.PUBLISH", name, payload]).is_error());
            }
            client.cmd(&args!["XADD", name, "*", b"\0", b"\r\n", "", ""]);
            for group in [&b"ours\0"[..], b"theirs\0"] {
                assert_eq!(client.cmd(&args!["XGROUP", "CREATE", name, group, 0]), ok());
            }
            // The last one finds nothing, with and without waiting for it.
            for (ours, count) in [
                (&["COUNT", "2"][..], "2"),
                (&["1"], "1"),
                (&["BLOCK", "5", "COUNT", "9"], "9"),
                (&["COUNT", "9"], "9"),
                (&["BLOCK", "1"], "1"),
            ] {
                let mut call = args!["TASK.CONSUME", b"ours\0", b"c\r\n", name].to_vec();
                call.extend(ours.iter().map(|word| (*word).into()));
                client.send_args(&call);
                let ours = client.read_raw_reply();
                let call = args![
                    "XREADGROUP",
                    "GROUP",
                    b"theirs\0",
                    b"c\r\n",
                    "COUNT",
                    count,
                    "STREAMS",
                    name,
                    ">"
                ];
                client.send_args(&call);
                let theirs = client.read_raw_reply();
                assert!(ours == theirs, "{}\n{}", ours.escape_ascii(), theirs.escape_ascii());
            }
        }
    });
}

#[test]
fn with_meta_a_reply_has_one_shape_in_both_protocols() {
    let server = Server::start();
    let expected = "*2\r\n\
        *4\r\n$3\r\n1-1\r\n*4\r\n$7\r\npayload\r\n$1\r\np\r\n$5\r\na\r\nb\0\r\n$0\r\n\r\n:0\r\n:1\r\n\
        *4\r\n$3\r\n1-2\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n:0\r\n:1\r\n";
    for mut client in [server.client(), server.client3()] {
        let mut wire = |line: &str| {
            client.send(line);
            client.read_raw_reply().escape_ascii().to_string()
        };
        wire("FLUSHALL");
        let nothing = "*0\r\n".escape_default().to_string();
        assert_eq!(wire("TASK.CONSUME g c tasks META"), nothing);
        client.cmd(&args!["XADD", "tasks", "1-1", "payload", "p", b"a\r\nb\0", ""]);
        client.run("XADD tasks 1-2 x y");
        let mut wire = |line: &str| {
            client.send(line);
            client.read_raw_reply().escape_ascii().to_string()
        };
        let expected = expected.as_bytes().escape_ascii().to_string();
        assert_eq!(wire("TASK.CONSUME g c tasks COUNT 5 META"), expected);
        assert_eq!(wire("TASK.CONSUME g c tasks COUNT 5 META BLOCK 1"), nothing);
        // Where nobody may wait.
        wire("MULTI");
        wire("TASK.CONSUME g c tasks BLOCK 0 META");
        assert_eq!(wire("EXEC"), "*1\r\n*0\r\n".escape_default().to_string());
    }
}

#[test]
fn block_waits_by_name_and_is_answered_in_the_shape_that_was_asked_for() {
    let server = Server::start();
    let mut publisher = server.client();
    for connect in [Server::client, Server::client3] {
        for (options, publish) in [("", ""), ("", "PRIORITY 9"), ("", "DELAY 30 PRIORITY 2")] {
            assert_eq!(publisher.run("FLUSHALL"), ok());
            let (mut plain, mut meta) = (connect(&server), connect(&server));
            server
                .wait_with(&mut plain, &format!("TASK.CONSUME g c tasks BLOCK 0 COUNT 5{options}"));
            server.wait_with(&mut meta, "TASK.CONSUME h c tasks META BLOCK 600000");
            let id = publisher.publish_with("tasks", "p", publish);
            let reply = plain.read();
            assert_eq!(reply.task_payloads(), ["p"], "{publish}");
            let [task] = &meta.read().delivered()[..] else { panic!("not one task") };
            assert_eq!(task.id, reply.task_ids()[0]);
            assert_eq!((task.idle, task.deliveries), (0, 1));
            assert!(publish.contains("DELAY") || task.id == id);
        }
    }
    let mut client = server.client();
    client.run("FLUSHALL");
    assert_eq!(client.run("TASK.CONSUME g c tasks BLOCK 1"), nil_array());
    let script = "return redis.call('TASK.CONSUME', 'g', 'c', 'tasks', 'BLOCK', '0')";
    assert_eq!(client.cmd(&["EVAL", script, "0"]), nil());
}

/// A session with all commands of the queue whose replies are the same every time.
const SESSION: [&str; 26] = [
    "TASK.POLICY tasks LEASE 600000 TRIES 3 BACKOFF 0 0 LIMIT 9",
    "TASK.CONSUME g c tasks COUNT 3",
    "TASK.CONSUME g c tasks META",
    "XADD tasks 1-1 payload a timestamp 1 retry_count 0",
    "XADD tasks 1-2 payload b timestamp 1 retry_count 0",
    "XADD priority3:{tasks} 1-300000000000000000 payload c timestamp 1 retry_count 0",
    "ZADD delayed:{tasks} 4102444800000 never",
    "TASK.CONSUME g c tasks META COUNT 2 BLOCK 0",
    "TASK.CONSUME g c tasks BLOCK 600000",
    "TASK.CONSUME g c tasks BLOCK 1",
    "TASK.EXTEND tasks g c 1-1",
    "TASK.EXTEND tasks g d 1-1",
    "TASK.NACK tasks g c FATAL 1-1 REASON why",
    "TASK.NACK tasks g c FATAL 1-1 REASON why",
    "TASK.NACK tasks g c SILENT 1-2 DELAY 600000",
    "TASK.NACK tasks g c FAIL 1-300000000000000000 DELAY 600000",
    "XADD tasks 99999999999999-1 payload d",
    "TASK.CANCEL tasks 99999999999999-1 9-9",
    "TASK.CANCEL tasks 99999999999999-1 9-9",
    "TASK.REDRIVE dead:{tasks} tasks",
    "TASK.REDRIVE dead:{tasks} tasks COUNT 5",
    "TASK.REDRIVE tasks tasks",
    "TASK.PUBLISH tasks p PRIORITY 10",
    "TASK.POLICY tasks KEEP 1",
    "TASK.INFO missing",
    "TASK.ACK tasks g 1-1",
];

#[test]
fn replies_are_the_same_inline_in_transactions_and_in_scripts() {
    let server = Server::start();
    for (mut client, protocol) in [(server.client(), 2), (server.client3(), 3)] {
        let mut session = |ask: &dyn Fn(&mut Client, &str) -> Vec<u8>| {
            assert_eq!(client.run("FLUSHALL"), ok());
            SESSION.map(|line| ask(&mut client, line).escape_ascii().to_string())
        };
        let plain = session(&|client, line| {
            client.send(line);
            client.read_raw_reply()
        });
        let refused = plain.iter().filter(|reply| reply.starts_with('-')).count();
        assert_eq!(refused, 3, "{plain:#?}");
        let inline = session(&|client, line| {
            client.send_raw(format!("{}\r\n", line.to_lowercase()));
            client.read_raw_reply()
        });
        assert_eq!(inline, plain);
        let transactions = session(&|client, line| {
            client.pipeline(&["MULTI", line]);
            client.send("EXEC");
            client.read_raw_reply().strip_prefix(b"*1\r\n").expect("one reply").to_vec()
        });
        assert_eq!(transactions, plain);
        let scripts = session(&|client, line| {
            let script = format!(
                "redis.setresp({protocol}); \
                 local reply = redis.pcall(unpack(ARGV)); \
                 return reply"
            );
            let mut call = args!["EVAL", script, 0].to_vec();
            call.extend(line.split(' ').map(Into::into));
            client.send_args(&call);
            client.read_raw_reply()
        });
        for (script, plain) in scripts.iter().zip(&plain) {
            // Lua has one nil, and its tables have no order.
            let is_other = ["*-1", "_", "%"].iter().any(|start| plain.starts_with(start));
            assert!(script == plain || is_other, "{script}\n{plain}");
        }
    }
}

#[test]
fn a_task_of_any_bytes_comes_through_every_stage_of_a_queue_of_any_name() {
    let server = Server::start();
    let mut client = server.client();
    let payloads =
        [b"\0\r\n\xff $-1\r\n+OK \x80".to_vec(), Vec::new(), b" ".into(), vec![b'x'; 1 << 20]];
    let payload_of = |entry: &Value| entry.items()[1].get("payload").bytes().to_vec();
    for (name, payload) in NAMES.iter().zip(payloads.iter().cycle()) {
        assert_eq!(client.run("FLUSHALL"), ok());
        for group in [b"g\0", b"h\xff"] {
            // Two groups, so that copies are for one of them.
            client.cmd(&args!["TASK.CONSUME", group, "c", name]);
        }
        let consumer = b"c \r\n\xff";
        let consume = |client: &mut Client, group: &[u8]| {
            let reply = client.cmd(&args!["TASK.CONSUME", group, consumer, name, 9, "META"]);
            let [entry] = reply.items() else { panic!("not one task: {reply:?}") };
            assert!(payload_of(entry) == *payload);
            entry.items()[0].as_str().to_owned()
        };
        assert_eq!(client.cmd(&args!["TASK.POLICY", name, "LEASE", 0, "TRIES", 9]), ok());
        client.cmd(&args!["TASK.PUBLISH", name, payload, "PRIORITY", 5, "DELAY", 1]);
        eventually(SOON, "it is due", || {
            let next = client.cmd(&args!["TASK.INFO", name]).get("next_due_ms").as_int();
            next == 0
        });
        let id = consume(&mut client, b"g\0");
        assert_eq!(client.cmd(&args!["TASK.EXTEND", name, b"g\0", consumer, id]), int(1));
        let nack = args!["TASK.NACK", name, b"g\0", consumer, "FAIL", id, "DELAY", 0];
        assert_eq!(client.cmd(&nack), int(1));
        let id = consume(&mut client, b"g\0");
        let reason = b"why\0\r\n\xff";
        let nack = args!["TASK.NACK", name, b"g\0", consumer, "FATAL", id, "REASON", reason];
        assert_eq!(client.cmd(&nack), int(2));
        let info = client.cmd(&args!["TASK.INFO", name]);
        assert_eq!(info.get("dead"), &int(1));
        let keys = client.run("KEYS dead*");
        let dead = keys.items()[0].bytes();
        let letters = client.cmd(&args!["XRANGE", dead, "-", "+"]);
        assert!(payload_of(&letters.items()[0]) == *payload);
        assert_eq!(letters.items()[0].items()[1].get("reason"), &bulk(reason));
        assert_eq!(letters.items()[0].items()[1].get("group"), &bulk(b"g\0"));
        assert_eq!(client.cmd(&args!["TASK.REDRIVE", dead, name]), int(1));
        // The other group sees what was published, and not what is for the first.
        let other = consume(&mut client, b"h\xff");
        let id = consume(&mut client, b"g\0");
        assert_ne!(other, id);
        for (group, id) in [(&b"g\0"[..], id), (b"h\xff", other)] {
            assert_eq!(client.cmd(&args!["TASK.ACK", name, group, id]), int(1));
        }
        let info = client.cmd(&args!["TASK.INFO", name]);
        for field in ["length", "delayed", "dead"] {
            assert_eq!(info.get(field), &int(0), "{field}");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// The end of a task, and of a lease
// ---------------------------------------------------------------------------------------------

#[test]
fn ack_takes_ids_of_every_class_in_one_call() {
    let server = Server::start();
    let mut client = server.client();
    let options = ["", "PRIORITY 1", "PRIORITY 5", "PRIORITY 9"];
    let ids: Vec<_> =
        options.iter().flat_map(|o| [o, o]).map(|o| client.publish_with("tasks", "p", o)).collect();
    let ready = client.publish_with("tasks", "ready", "PRIORITY 1");
    let delayed = client.publish_with("tasks", "delayed", "DELAY 600000");
    assert_eq!(client.consume("g", "c", "tasks", 4).len(), 4);
    let all = ids.join(" ");
    // Of priority 5 and 9; then nothing of it again.
    assert_eq!(client.run(format!("TASK.ACK tasks g {all} {ready} {delayed} {all}")), int(4));
    line_changes_nothing(&mut client, &format!("TASK.ACK tasks g {all} {delayed}"), int(0));
    assert_eq!(client.consume("g", "c", "tasks", 4).len(), 4);
    assert_eq!(client.run(format!("TASK.ACK tasks g {delayed} {} {} 9-9", ids[0], ids[2])), int(2));
    assert_eq!(client.ids_in("tasks"), [ids[1].as_str()]);
    assert_eq!(client.leased_ids("priority1:{tasks}", "g"), [&*ids[3], &*ready]);
    assert_eq!(client.run("ZCARD delayed:{tasks}"), int(1));
    assert_eq!(client.task_total("acked"), 6);
    // Groups and streams that are not there.
    line_changes_nothing(&mut client, &format!("TASK.ACK tasks nobody {all}"), int(0));
    line_changes_nothing(&mut client, &format!("TASK.ACK missing g {all}"), int(0));
}

#[test]
fn the_short_form_of_an_id_means_exactly_one_entry() {
    let server = Server::start();
    let mut client = server.client();
    for short in ["5", "05", "5-00", "0005-0"] {
        for (call, reply) in [
            ("TASK.EXTEND tasks g c ID", 1),
            ("TASK.NACK tasks g c SILENT ID", 1),
            ("TASK.NACK tasks g c FAIL ID DELAY 600000", 1),
            ("TASK.NACK tasks g c FATAL ID", 2),
            ("TASK.ACK tasks g ID", 1),
        ] {
            assert_eq!(client.run("FLUSHALL"), ok());
            for id in ["5-0", "5-1"] {
                client.run(format!("XADD tasks {id} payload p"));
            }
            assert_eq!(client.consume("g", "c", "tasks", 9).len(), 2);
            assert_eq!(client.run(call.replace("ID", short)), int(reply), "{call} {short}");
            let is_left = call.contains("EXTEND");
            let left = client.leased_ids("tasks", "g");
            assert_eq!(left, if is_left { vec!["5-0", "5-1"] } else { vec!["5-1"] }, "{call}");
            let copies = client.run("XRANGE dead:{tasks} - +");
            for copy in copies.items() {
                assert_eq!(copy.items()[1].get("original_id"), &bulk("5-0"));
            }
            for (member, _) in client.scores("delayed:{tasks}") {
                assert!(member.contains(":5-0 "), "{member}");
            }
        }
        assert_eq!(client.run("XADD ready 5-1 payload p"), bulk("5-1"));
        line_changes_nothing(&mut client, &format!("TASK.CANCEL ready {short}"), int(0));
        client.run("DEL ready");
    }
}

#[test]
fn extend_begins_the_lease_again_and_counts_as_no_delivery() {
    let server = Server::start();
    let mut client = server.client();
    for (options, key) in [("", "tasks"), ("PRIORITY 5", "priority5:{tasks}")] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("tasks", "p", options);
        assert_eq!(client.lease("g", "c", "tasks"), id);
        // The lease is 100 s old.
        let old = format!("XCLAIM {key} g c 0 {id} IDLE 100000 JUSTID");
        assert_eq!(client.run(&old).items().len(), 1);
        assert!(client.leases(key, "g")[0].idle >= 100_000);
        assert_eq!(client.run(format!("TASK.EXTEND tasks g c {id}")), int(1));
        let lease = client.leases(key, "g").remove(0);
        assert!(lease.idle < SLACK, "{lease:?}");
        assert_eq!((&*lease.consumer, lease.deliveries), ("c", 1));
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    }
}

#[test]
fn extend_of_what_is_not_leased_to_this_consumer_is_zero_and_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    for options in ["", "PRIORITY 5"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let [done, leased, ready] = [(); 3].map(|()| client.publish_with("tasks", "p", options));
        let delayed = client.publish_with("tasks", "p", "DELAY 600000");
        for id in [&done, &leased] {
            assert_eq!(client.lease("g", "c", "tasks"), *id);
        }
        assert_eq!(client.run(format!("TASK.ACK tasks g {done}")), int(1));
        for (group, consumer, id) in [
            ("g", "c", &done),
            ("g", "c", &ready),
            ("g", "c", &delayed),
            ("g", "other", &leased),
            ("g", "C", &leased),
            ("nobody", "c", &leased),
        ] {
            for call in ["TASK.EXTEND", "TASK.NACK"] {
                let mode = if call == "TASK.NACK" { "FAIL " } else { "" };
                let line = format!("{call} tasks {group} {consumer} {mode}{id}");
                line_changes_nothing(&mut client, &line, int(0));
            }
        }
        line_changes_nothing(&mut client, &format!("TASK.EXTEND missing g c {leased}"), int(0));
        line_changes_nothing(&mut client, &format!("TASK.NACK missing g c FATAL {leased}"), int(0));
    }
}

#[test]
fn cancel_takes_away_what_nobody_has_leased() {
    let server = Server::start();
    let mut client = server.client();
    let leased = client.publish_with("tasks", "leased", "PRIORITY 9");
    assert_eq!(client.lease("g", "c", "tasks"), leased);
    let low = client.publish("tasks", "low");
    let high = client.publish_with("tasks", "high", "PRIORITY 3");
    let stays = client.publish("tasks", "stays");
    let delayed = client.publish_with("tasks", "delayed", "DELAY 600000");
    let urgent = client.publish_with("tasks", "urgent", "DELAY 600000 PRIORITY 3");
    let all = format!("{leased} {low} {high} {delayed} 9-9 {low}");
    assert_eq!(client.run(format!("TASK.CANCEL tasks {all}")), int(3));
    line_changes_nothing(&mut client, &format!("TASK.CANCEL tasks {all}"), int(0));
    assert_eq!(client.run(format!("TASK.CANCEL tasks {urgent}")), int(1));
    assert_eq!(client.run("EXISTS delayed:{tasks}"), int(0));
    assert_eq!(client.ids_in("tasks"), [stays.as_str()]);
    assert_eq!(client.task_total("cancelled"), 4);
    assert_eq!(client.lease("g", "c", "tasks"), stays, "the others are not delivered");
    line_changes_nothing(&mut client, &format!("TASK.CANCEL missing {all}"), int(0));

    // What one of several groups has leased is not cancelled for the other one.
    assert_eq!(client.run("FLUSHALL"), ok());
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run("XGROUP CREATE tasks h 0"), ok());
    line_changes_nothing(&mut client, &format!("TASK.CANCEL tasks {id}"), int(0));
    assert_eq!(client.lease("h", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    line_changes_nothing(&mut client, &format!("TASK.CANCEL tasks {id}"), int(0));
    assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
    // A stream without any group.
    client.run("XADD plain 1-1 payload p");
    assert_eq!(client.run("TASK.CANCEL plain 1-1 1-2"), int(1));
}

#[test]
fn what_is_sent_twice_does_what_the_documentation_says() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks BACKOFF 600000 600000"), ok());
    // A publish is a duplicate, unless it says which task it is.
    assert_ne!(client.publish("tasks", "a"), client.publish("tasks", "a"));
    let once = [(); 2].map(|()| client.publish_with("tasks", "b", "UNIQUE once 60000"));
    assert_eq!(once[0], once[1]);
    // What was delivered is not delivered again while its lease lasts.
    let first = client.consume("g", "c", "tasks", 2);
    let second = client.consume("g", "c", "tasks", 2);
    assert_eq!((first.len(), second.len()), (2, 1));
    let [one, two] = [&first[0].id, &first[1].id];
    // These are safe, or 0 though done.
    for (call, replies) in [
        (format!("TASK.EXTEND tasks g c {one}"), [1, 1]),
        (format!("TASK.ACK tasks g {one}"), [1, 0]),
        (format!("TASK.NACK tasks g c FAIL {two}"), [1, 0]),
        (format!("TASK.NACK tasks g c FATAL {}", once[0]), [2, 0]),
        ("TASK.REDRIVE dead:{tasks} tasks".into(), [1, 0]),
    ] {
        assert_eq!(client.run(&call), int(replies[0]), "{call}");
        let before = Keyspace::of(&mut client);
        assert_eq!(client.run(&call), int(replies[1]), "{call}");
        assert!(replies[1] == 1 || Keyspace::of(&mut client) == before, "{call}");
    }
    let delayed = client.publish_with("tasks", "p", "DELAY 600000");
    for reply in [1, 0] {
        assert_eq!(client.run(format!("TASK.CANCEL tasks {delayed}")), int(reply));
    }
    // A policy is the same after the second time.
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 7 LEASE 5"), ok());
    let policy = client.run("HGETALL policy:{tasks}");
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 7 LEASE 5"), ok());
    assert_eq!(client.run("HGETALL policy:{tasks}"), policy);
    // A retry is a duplicate.
    for length in 1..=2 {
        assert_eq!(client.run("TASK.RETRY tasks 1-1 p 0 again dead 3"), ok());
        assert_eq!(client.run("XLEN again"), int(length));
    }
}

// ---------------------------------------------------------------------------------------------
// Hostile arguments, and keys of a foreign type
// ---------------------------------------------------------------------------------------------

const FORMS: [Form; 14] = [
    Form {
        call: "TASK.PUBLISH tasks p 0 DELAY 1000 PRIORITY 3 UNIQUE u 1000",
        kinds: &[
            Filled("name"),
            Bytes,
            AtLeast(0),
            Keyword,
            Span,
            Keyword,
            Between(0, 9),
            Keyword,
            Filled("unique id"),
            Lifetime,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.PUBLISH tasks p AT 5 UNIQUE u 1000",
        kinds: &[
            Filled("name"),
            Bytes,
            KeywordOr(0),
            Point,
            Keyword,
            Filled("unique id"),
            Lifetime,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks COUNT 1 BLOCK 1 META",
        kinds: &[
            Filled("group"),
            Filled("consumer"),
            Filled("name"),
            KeywordOr(1),
            AtLeast(1),
            Keyword,
            Wait,
            Keyword,
        ],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks 1 1 META",
        kinds: &[Filled("group"), Filled("consumer"), Filled("name"), AtLeast(1), Wait, Keyword],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.EXTEND tasks g c 1-1",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Id],
        required: 4,
        beyond: Beyond::Arity,
    },
    Form {
        call: "TASK.NACK tasks g c SILENT 1-1 DELAY 1000",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Keyword, Id, Keyword, Span],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.NACK tasks g c FAIL 1-1 DELAY 1000 REASON why",
        kinds: &[
            Filled("name"),
            Filled("group"),
            Filled("consumer"),
            Keyword,
            Id,
            Keyword,
            Span,
            Keyword,
            Bytes,
        ],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.NACK tasks g c FATAL 1-1 REASON why",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Keyword, Id, Keyword, Bytes],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CANCEL tasks 1-2",
        kinds: &[Filled("name"), Id],
        required: 2,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.CANCEL tasks 4102444800000-1001700000000000000",
        kinds: &[Filled("name"), Id],
        required: 2,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.REDRIVE dead:{tasks} tasks COUNT 1",
        kinds: &[Filled("name"), Filled("name"), Keyword, AtLeast(1)],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.POLICY tasks LEASE 1000 TRIES 3 BACKOFF 0 9 LIMIT 9 PAUSED 0",
        kinds: &[
            Filled("name"),
            Keyword,
            Span,
            Keyword,
            AtLeast(0),
            Keyword,
            SpanUpTo(9),
            Span,
            Keyword,
            AtLeast(0),
            Keyword,
            Between(0, 1),
        ],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.POLICY tasks KEEP 1",
        kinds: &[Filled("name"), Keyword, Between(0, 1)],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form { call: "TASK.INFO tasks", kinds: &[Filled("name")], required: 1, beyond: Beyond::Arity },
];

/// The id of the delayed task that [`prepare`] adds; it is due in the year 2100.
const DELAYED: &str = "4102444800000-1001700000000000000";
const URGENT: &str = "1-300000000000000000";

/// A queue in which every call of [`FORMS`] succeeds and has something to change: `1-1` is leased
/// to `c` of `g`, the rest is ready.
fn prepare(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    for id in ["1-1", "1-2", "1-3"] {
        client.run(format!("XADD tasks {id} payload p timestamp 1 retry_count 0"));
    }
    assert_eq!(client.lease("g", "c", "tasks"), "1-1");
    client.run(format!("XADD priority3:{{tasks}} {URGENT} payload p"));
    let member = format!("{DELAYED} 0 0 - p");
    assert_eq!(client.cmd(&["ZADD", "delayed:{tasks}", "4102444800000", &member]), int(1));
    client.run("XADD dead:{tasks} 1-1 payload p original_id 1-0 reason r deliveries 1 priority 3");
    assert_eq!(client.run("HSET policy:{tasks} lease_ms 0"), int(1));
}

#[test]
fn every_form_of_the_table_succeeds_as_it_stands() {
    assert_forms_succeed(&FORMS, prepare);
}

#[test]
fn a_hostile_argument_is_refused_or_taken_as_it_is_and_never_changes_half() {
    assert_hostile_arguments_are_harmless(&FORMS, prepare);
}

#[test]
fn missing_and_surplus_arguments_are_refused() {
    assert_the_number_of_arguments_is_checked(&FORMS, prepare);
}

#[test]
fn a_time_may_end_just_before_two_to_the_53_and_not_later() {
    assert_times_have_an_end(&FORMS, prepare);
}

/// How to make a key of each type.
const TYPES: [(&str, &str); 6] = [
    ("string", "SET KEY v"),
    ("list", "RPUSH KEY v"),
    ("set", "SADD KEY v"),
    ("zset", "ZADD KEY 1 v"),
    ("hash", "HSET KEY f v"),
    ("stream", "XADD KEY 1-1 f v"),
];

#[test]
fn a_derived_key_of_a_foreign_type_is_refused_and_left_alone() {
    let server = Server::start();
    let mut client = server.client();
    let tasks = "tasks";
    let (urgent, delayed, dead) = ("priority3:{tasks}", "delayed:{tasks}", "dead:{tasks}");
    let (policy, unique) = ("policy:{tasks}", "unique5:{tasks}:u");
    let by_urgent = |call: &str| call.replace("ID", URGENT);
    let by_delayed = |call: &str| call.replace("ID", DELAYED);
    for (call, keys) in [
        ("TASK.PUBLISH tasks p".to_owned(), &[tasks, policy][..]),
        ("TASK.PUBLISH tasks p PRIORITY 3".into(), &[tasks, urgent, policy]),
        ("TASK.PUBLISH tasks p DELAY 5000".into(), &[tasks, delayed, policy]),
        ("TASK.PUBLISH tasks p UNIQUE u 1000".into(), &[tasks, unique, policy]),
        (
            "TASK.PUBLISH tasks p PRIORITY 3 DELAY 9000 UNIQUE u 1000".into(),
            &[tasks, delayed, unique, policy],
        ),
        // What lies in the place of other tasks keeps back none that can be delivered.
        ("TASK.CONSUME g c tasks".into(), &[tasks, policy]),
        ("TASK.CONSUME g c tasks COUNT 9 BLOCK 600000 META".into(), &[tasks, policy]),
        ("TASK.ACK tasks g 1-1".into(), &[tasks, policy]),
        (by_urgent("TASK.ACK tasks g 1-1 ID"), &[tasks, urgent, policy]),
        ("TASK.EXTEND tasks g c 1-1".into(), &[tasks]),
        (by_urgent("TASK.EXTEND tasks g c ID"), &[urgent]),
        ("TASK.NACK tasks g c FAIL 1-1".into(), &[tasks, delayed, policy]),
        ("TASK.NACK tasks g c SILENT 1-1 DELAY 1000".into(), &[tasks, delayed]),
        ("TASK.NACK tasks g c FATAL 1-1".into(), &[tasks, dead]),
        (by_urgent("TASK.NACK tasks g c FATAL ID"), &[urgent]),
        ("TASK.CANCEL tasks 1-2".into(), &[tasks]),
        (by_urgent("TASK.CANCEL tasks 1-2 ID"), &[tasks, urgent]),
        (by_delayed("TASK.CANCEL tasks 1-2 ID"), &[tasks, delayed]),
        ("TASK.REDRIVE dead:{tasks} tasks".into(), &[tasks, dead, urgent]),
        ("TASK.POLICY tasks TRIES 3".into(), &[tasks, policy]),
        ("TASK.INFO tasks".into(), &[tasks, urgent, delayed, dead, policy]),
    ] {
        for key in keys {
            let right = match *key {
                key if key == delayed => "zset",
                key if key == policy => "hash",
                key if key == unique => "string",
                _ => "stream",
            };
            for (kind, make) in TYPES.iter().filter(|(kind, _)| *kind != right) {
                prepare(&mut client);
                client.run(format!("DEL {key}"));
                assert!(!client.run(make.replace("KEY", key)).is_error());
                let before = Keyspace::of(&mut client);
                assert_eq!(client.run(&call), error(WRONG_TYPE), "{call}: {key} is a {kind}");
                assert!(Keyspace::of(&mut client) == before, "{call}: {key} is a {kind}");
            }
        }
    }
}

#[test]
fn where_a_part_of_the_work_is_refused_nothing_is_lost_or_done_twice() {
    let server = Server::start();
    let mut client = server.client();
    // Dead letters are moved up to the first that cannot be moved.
    prepare(&mut client);
    client.run("DEL priority3:{tasks} dead:{tasks}");
    client.run("RPUSH priority3:{tasks} v");
    client.run("XADD dead:{tasks} 1-1 payload a");
    client.run("XADD dead:{tasks} 1-2 payload b original_id 1-0 reason r deliveries 1 priority 3");
    assert_eq!(client.run("TASK.REDRIVE dead:{tasks} tasks"), int(1));
    assert_eq!(client.ids_in("dead:{tasks}"), ["1-2"]);
    line_changes_nothing(&mut client, "TASK.REDRIVE dead:{tasks} tasks", error(WRONG_TYPE));
    // Of two due tasks the second one has no place.
    prepare(&mut client);
    client.run("DEL priority3:{tasks}");
    client.cmd(&["ZADD", "delayed:{tasks}", "1", "1-1001700000000000000 0 0 - a"]);
    client.cmd(&["ZADD", "delayed:{tasks}", "2", "2-1001700000000000000 3 0 - b"]);
    client.run("RPUSH priority3:{tasks} v");
    assert_eq!(payloads(&mut client, "g", 9), ["p", "p", "a"], "each of them once");
    for _ in 0..3 {
        assert_eq!(client.run("TASK.CONSUME g c tasks 9"), error(WRONG_TYPE));
    }
    assert_eq!(client.run("DEL priority3:{tasks}"), int(1));
    assert_eq!(payloads(&mut client, "g", 9), ["b"]);
    // A batch of which one id is nonsense.
    for call in ["TASK.CANCEL tasks 1-2 x", "TASK.ACK tasks g 1-1 x"] {
        let refusal = "ERR Invalid stream ID specified as stream command argument";
        line_changes_nothing(&mut client, call, error(refusal));
    }
}

#[test]
fn each_database_has_its_own_queues() {
    let server = Server::start();
    let (mut zero, mut one) = (server.client(), server.client());
    assert_eq!(one.run("SELECT 1"), ok());
    for client in [&mut zero, &mut one] {
        assert_eq!(client.run("TASK.POLICY tasks LIMIT 2 LEASE 9000"), ok());
        let ids = ["PRIORITY 4 UNIQUE u 600000", "DELAY 600000"]
            .map(|options| client.publish_with("tasks", "p", options));
        assert_eq!(client.run("TASK.PUBLISH tasks p"), error(FULL));
        assert_eq!(client.lease("g", "c", "tasks"), ids[0]);
        assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {}", ids[0])), int(2));
        assert_eq!(client.run("TASK.INFO tasks").get("dead"), &int(1));
        assert_eq!(client.run(format!("TASK.CANCEL tasks {}", ids[1])), int(1));
    }
    assert_eq!(one.run("TASK.POLICY tasks PAUSED 1"), ok());
    for (client, got) in [(&mut zero, 1), (&mut one, 0)] {
        client.publish("tasks", "p");
        assert_eq!(client.consume("g", "c", "tasks", 9).len(), got);
    }
}
