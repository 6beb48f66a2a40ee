//! TASK.PUBLISH: at a later time, with a priority, once within a window, within a limit; the ids,
//! keys and entries that it makes.

mod support;
use support::compare::*;
use support::consumers::{PER_PRIORITY, priority_of};
use support::*;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const SYNTAX: &str = "ERR syntax error";
const FULL: &str = "TASKFULL the queue holds as many tasks as its policy allows";

/// A time that does not pass during a test, in ms, and the most that a busy machine takes between
/// two looks at the clock.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

/// Checks that a repeated publish replies the first id and changes no data. It does write the key
/// of its window again, so that `WAIT` waits for the first publish.
#[track_caller]
fn is_a_duplicate(client: &mut Client, line: &str, id: &str) {
    let before = Keyspace::of(client);
    assert_eq!(client.run(line), bulk(id), "{line}");
    assert!(Keyspace::of(client).has_the_data_of(&before), "{line}");
}

// ---------------------------------------------------------------------------------------------
// Options
// ---------------------------------------------------------------------------------------------

#[test]
fn options_come_in_any_order_and_case_after_the_retry_count() {
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
    // These are payloads with a retry count.
    client.run("FLUSHALL");
    for payload in ["DELAY", "UNIQUE", "priority"] {
        client.publish_with("tasks", payload, "5");
    }
    let fields = |payload| format!("payload={payload} timestamp=now retry_count=5");
    let stored: Vec<_> = client.tasks_in("tasks").into_iter().map(|task| task.fields).collect();
    assert_eq!(stored, ["DELAY", "UNIQUE", "priority"].map(fields));
}

#[test]
fn unknown_and_repeated_options_are_refused() {
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
        "PRIORITY 1 MORE",
        "META META",
        "0 DELAY 1 PRIORITY",
    ] {
        changes_nothing(&mut client, &format!("TASK.PUBLISH tasks p {options}"), error(SYNTAX));
    }
    // In place of the retry count.
    for word in ["NX", "DELAY\0", "DELA", "DELAYS"] {
        cmd_changes_nothing(
            &mut client,
            &args!["TASK.PUBLISH", "tasks", "p", word, 1],
            error(NOT_AN_INTEGER),
        );
    }
}

// ---------------------------------------------------------------------------------------------
// Delayed tasks
// ---------------------------------------------------------------------------------------------

#[test]
fn a_delayed_task_is_a_member_of_a_sorted_set_until_it_is_due() {
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
        assert!(priority_of(&second) == 10 && second > first, "{second}");
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
        assert_eq!(priority_of(&task.id), priority, "{}", task.id);
        assert_eq!(client.ids_in(key), [task.id.as_str()]);
        assert_eq!(client.run("EXISTS delayed:{tasks}"), int(0));
        // The first id is no longer valid.
        changes_nothing(&mut client, &format!("TASK.CANCEL tasks {id}"), int(0));
        changes_nothing(&mut client, &format!("TASK.ACK tasks g {id}"), int(0));
        changes_nothing(&mut client, &format!("TASK.EXTEND tasks g c {id}"), int(0));
        changes_nothing(&mut client, &format!("TASK.NACK tasks g c FAIL {id}"), int(0));
        assert_eq!(client.run(format!("TASK.ACK tasks g {}", task.id)), int(1));
    }
}

#[test]
fn tasks_become_due_in_the_order_of_their_times() {
    let server = Server::start();
    let mut client = server.client();
    // All are published before the first is due, on a slow machine too.
    let start = client.time_ms() + 1500;
    for index in shuffled(20) {
        client.publish_with("tasks", &index.to_string(), &format!("AT {}", start + index as i64));
    }
    // Tasks due at the same time come in the order of publication.
    for index in 20..30 {
        client.publish_with("tasks", &index.to_string(), &format!("AT {}", start + 30));
    }
    client.wait_past(start + 30);
    let ready = client.publish("tasks", "ready before");
    let got = client.consume_payloads("g", "tasks", 100);
    assert_eq!(got.len(), 31, "{got:?}");
    let due: Vec<_> = got.into_iter().filter(|payload| payload != "ready before").collect();
    assert_eq!(due, (0..30).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_eq!(client.run(format!("TASK.ACK tasks g {ready}")), int(1));
}

#[test]
fn a_past_time_means_now() {
    let server = Server::start();
    let mut client = server.client();
    let now = client.time_ms();
    for at in ["DELAY 0".to_owned(), "AT 0".into(), "AT 1".into(), format!("AT {now}")] {
        let id = client.publish_with("tasks", "p", &at);
        assert_eq!(priority_of(&id), 0, "{at}");
        let task = client.only_task_in("tasks");
        assert_eq!((task.id, &*task.fields), (id, "payload=p timestamp=now retry_count=0"), "{at}");
        assert_eq!(client.run("DBSIZE"), int(1), "{at}");
        let id = client.publish_with("tasks", "p", &format!("{at} PRIORITY 2"));
        assert_eq!(priority_of(&id), 2, "{at}");
        assert_eq!(client.ids_in("priority2:{tasks}"), [id]);
        client.run("FLUSHALL");
    }
}

// ---------------------------------------------------------------------------------------------
// UNIQUE
// ---------------------------------------------------------------------------------------------

#[test]
fn within_its_window_a_task_is_published_once() {
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
    // Ended by a client, and by itself.
    assert_eq!(client.run("DEL unique5:{tasks}:u"), int(1));
    let second = client.publish_with("tasks", "a", "UNIQUE u 30");
    assert_ne!(second, id);
    eventually(SOON, "the window ends", || {
        client.publish_with("tasks", "a", "UNIQUE u 30") != second
    });
}

#[test]
fn unique_ids_are_binary_safe_and_belong_to_one_queue() {
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
    cmd_changes_nothing(&mut client, &call, error("ERR unique id must not be empty"));
}

// ---------------------------------------------------------------------------------------------
// Keys and ids
// ---------------------------------------------------------------------------------------------

#[test]
fn the_keys_of_a_queue_are_those_of_the_documentation() {
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
        // The dead letters, and the priority.
        assert_eq!(client.consume("g", "c", name, 10).len(), 2);
        assert_eq!(client.run(format!("TASK.NACK {name} g c FATAL {id}")), int(2));
        let dead = keys.split(' ').next().unwrap().replace("priority3", "dead");
        assert_eq!(client.run(format!("XLEN {dead}")), int(1), "{dead}");
        assert_eq!(client.run("DBSIZE"), int(6), "{name}");
    }
}

#[test]
fn ids_of_one_priority_always_rise() {
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
        assert!(
            ids.iter().all(|(_, seq)| seq / PER_PRIORITY == ids[0].1 / PER_PRIORITY),
            "{options}"
        );
    }
}

#[test]
fn ids_stay_within_their_priority_to_the_last_possible_id() {
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
        // Without and with a last id that the module remembers.
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
    // A stream that is gone does not count.
    for gone in ["FLUSHALL", "DEL priority3:{tasks}", "SWAPDB 0 1"] {
        client.publish_with("tasks", "p", "PRIORITY 3");
        assert!(!client.run(gone).is_error());
        let id = client.publish_with("tasks", "p", "PRIORITY 3");
        assert_eq!(priority_of(&id), 3, "{id}");
        assert_eq!(client.ids_in("priority3:{tasks}"), [id], "{gone}");
    }
}

// ---------------------------------------------------------------------------------------------
// LIMIT
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
            changes_nothing(client, &call, error(FULL));
        }
        let after = (client.task_total("published"), client.task_total("refused"));
        assert_eq!(after, (before.0, before.1 + 6));
    };
    refuses(&mut client);
    // A repeated publish is not a new task.
    is_a_duplicate(&mut client, "TASK.PUBLISH tasks p UNIQUE u 1000", &unique);
    // Leased tasks count; finished and canceled ones do not.
    assert_eq!(client.consume("g", "c", "tasks", 2).len(), 2);
    refuses(&mut client);
    for room in [format!("TASK.ACK tasks g {ready}"), format!("TASK.CANCEL tasks {delayed}")] {
        assert_eq!(client.run(room), int(1));
        client.publish("tasks", "p");
        refuses(&mut client);
    }
    // A limit below the length removes nothing; a higher one, or none, lets more in.
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 1"), ok());
    refuses(&mut client);
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 5"), ok());
    client.publish("tasks", "p");
    refuses(&mut client);
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 0"), ok());
    client.publish("tasks", "p");
    // Another queue has its own limit.
    client.publish("others", "p");
}

#[test]
fn returned_and_redriven_tasks_may_enter_a_full_queue() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LIMIT 2 BACKOFF 0 0"), ok());
    let delayed = client.publish_with("tasks", "delayed", "DELAY 30");
    let id = client.publish("tasks", "p");
    client.wait_past(id_ms(&delayed));
    assert_eq!(client.consume("g", "c", "tasks", 10).len(), 2, "one was delayed");
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
