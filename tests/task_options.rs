//! The options of one task: further fields (FIELDS), its own number of tries (TRIES), an end for its
//! first delivery (EXPIRE), what became of a publish (META), a new payload for a retry (NACK … PAYLOAD),
//! and one heartbeat for several tasks (EXTEND).

mod support;
use support::consumers::*;
use support::*;

/// The fields of the only task of the queue, wherever it is: what its copies carry.
#[track_caller]
fn only_fields(client: &mut Client, key: &str) -> String {
    client.only_task_in(key).fields
}

/// Publishes a task that expires after this many ms and waits until it has expired.
#[track_caller]
fn publish_expired(client: &mut Client, payload: &str, options: &str) -> String {
    let id = client.publish_with("q", payload, &format!("EXPIRE 1 {options}"));
    client.wait_ms(2);
    id
}

/// The dead letters: reason, number of deliveries and payload of each.
#[track_caller]
fn dead(client: &mut Client) -> Vec<String> {
    let letters = client.cmd(&["XRANGE", DEAD, "-", "+"]);
    let letter = |entry: &Value| {
        let fields = &entry.items()[1];
        let text = |name: &str| fields.get(name).as_str().to_owned();
        format!("{} {} {}", text("reason"), text("deliveries"), text("payload"))
    };
    letters.items().iter().map(letter).collect()
}

// ---------------------------------------------------------------------------------------------
// FIELDS
// ---------------------------------------------------------------------------------------------

const FURTHER: &str = "FIELDS 2 tenant blue traceparent 00-1-2-01";
const CARRIED: &str = "tenant=blue traceparent=00-1-2-01";

#[test]
fn every_copy_of_a_task_carries_its_further_fields() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let options = format!("{FURTHER} PRIORITY {priority}");
        // New.
        let id = client.publish_with("q", "p", &options);
        let first = only_fields(&mut client, &stream(priority));
        assert_eq!(first, format!("payload=p timestamp=now retry_count=0 {CARRIED}"));
        // Retried, at once and after a delay.
        let copy = |count: i64| {
            format!("payload=p timestamp=now retry_count={count} {CARRIED} original_id={id}")
        };
        let entry = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {entry} DELAY 0")), int(1));
        assert_eq!(only_fields(&mut client, &stream(priority)), copy(1));
        let entry = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {entry} DELAY 1")), int(1));
        client.wait_ms(2);
        let task = client.consume_only("g", "c", "q");
        assert_eq!(task.fields, copy(2));
        // Dead.
        assert_eq!(client.run(format!("TASK.NACK q g c FATAL {}", task.id)), int(2));
        let died = if priority > 0 { " priority=6" } else { "" };
        let letter = format!("{} reason=fatal deliveries=1{died}", copy(3));
        assert_eq!(only_fields(&mut client, DEAD), letter);
        // Redriven.
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        assert_eq!(only_fields(&mut client, &stream(priority)), copy(0));
        // Dead because its lease expired too often.
        run_all(&mut client, &["TASK.POLICY q LEASE 1 TRIES 1"]);
        client.lease("g", "c", "q");
        client.wait_ms(2);
        assert_eq!(client.consume("g", "c", "q", 1), []);
        let letter = format!("{} reason=lease\\x20expired deliveries=1{died}", copy(1));
        assert_eq!(
            only_fields(&mut client, DEAD).replace("lease expired", "lease\\x20expired"),
            letter
        );
        // Moved by RETRY.
        run_all(&mut client, &["TASK.POLICY q LEASE 600000 TRIES 0"]);
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        let entry = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.RETRY q {entry} new 4 retries dead 9")), simple("OK"));
        assert_eq!(only_fields(&mut client, "retries"), copy(5).replace("=p ", "=new "));
        // Delayed.
        assert_eq!(client.run("DEL retries"), int(1));
        let id = client.publish_with("q", "p", &format!("{options} DELAY 1"));
        client.wait_ms(2);
        let task = client.consume_only("g", "c", "q");
        let copy = format!("payload=p timestamp=now retry_count=0 {CARRIED} original_id={id}");
        assert_eq!(task.fields, copy);
    }
}

#[test]
fn the_fields_of_a_plain_entry_are_carried_alike() {
    let server = Server::start();
    let mut client = server.client();
    for delay in [0, 1] {
        assert_eq!(client.run("FLUSHALL"), ok());
        // In any place, and with no field that PUBLISH adds.
        client.run("XADD q 1-1 tenant blue payload p tries 3 traceparent 00-1-2-01");
        client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL 1-1 DELAY {delay}")), int(1));
        client.wait_ms(delay + 1);
        let task = client.consume_only("g", "c", "q");
        let carried = "tenant=blue tries=3 traceparent=00-1-2-01";
        let copy = format!("payload=p timestamp=now retry_count=1 {carried} original_id=1-1");
        assert_eq!(task.fields, copy);
        assert_eq!(client.run(format!("TASK.NACK q g c FATAL {}", task.id)), int(2));
        assert!(only_fields(&mut client, DEAD).contains(carried));
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        assert_eq!(only_fields(&mut client, "q"), copy.replace("count=1", "count=0"));
    }
}

#[test]
fn further_fields_are_any_bytes() {
    let server = Server::start();
    let mut client = server.client();
    let (name, value) = (b"\0\r\n\xff :".to_vec(), b"$3\r\n\0\xc3 5:".to_vec());
    for delay in [0, 1] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let call = args![
            "TASK.PUBLISH",
            "q",
            b"\0p",
            "DELAY",
            delay,
            "FIELDS",
            2,
            &name,
            &value,
            "-",
            b""
        ];
        assert!(!client.cmd(&call).is_error());
        client.wait_ms(delay + 1);
        let mut found = client.run("TASK.CONSUME g c q");
        for count in 1..3 {
            let task = &found.tasks()[0];
            let fields = task.items()[1].items();
            let pair = |at: usize| (fields[at].bytes(), fields[at + 1].bytes());
            assert_eq!(pair(0), (&b"payload"[..], &b"\0p"[..]));
            assert_eq!(pair(6), (&name[..], &value[..]));
            assert_eq!(pair(8), (&b"-"[..], &b""[..]));
            let id = task.items()[0].as_str();
            assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id} DELAY 1")), int(1), "{count}");
            client.wait_ms(2);
            found = client.run("TASK.CONSUME g c q");
        }
    }
}

#[test]
fn fields_that_are_not_allowed_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    let mut refuses = |options: &str, text: &str| {
        let line = format!("TASK.PUBLISH q p {options}");
        changes_nothing(&mut client, &line, error(text));
    };
    let (syntax, range) = ("ERR syntax error", "ERR value is out of range");
    for (options, text) in [
        ("FIELDS", syntax),
        ("FIELDS 1", syntax),
        ("FIELDS 1 a", syntax),
        ("FIELDS 2 a 1", syntax),
        ("FIELDS 2 a 1 b", syntax),
        ("FIELDS 1 a 1 b", syntax),
        ("FIELDS 1 a 1 b 2", syntax),
        ("FIELDS 1 a 1 FIELDS 1 b 2", syntax),
        ("FIELDS 0", range),
        ("FIELDS 65 a 1", range),
        ("FIELDS -1 a 1", range),
        ("FIELDS 01 a 1", "ERR value is not an integer or out of range"),
        ("FIELDS 2 a 1 a 1", "ERR FIELDS names a field twice"),
    ] {
        refuses(options, text);
    }
    let reserved = "ERR FIELDS names a field that tasks have themselves";
    for name in [
        "payload",
        "timestamp",
        "retry_count",
        "original_id",
        "group",
        "reason",
        "deliveries",
        "priority",
        "tries",
        "expire_unix_ms",
    ] {
        refuses(&format!("FIELDS 2 a 1 {name} 2"), reserved);
        refuses(&format!("DELAY 5 UNIQUE u 5000 FIELDS 1 {name} 2"), reserved);
    }
    let mut call = args!["TASK.PUBLISH", "q", "p", "FIELDS", 2, "a", "1", b"", "2"].to_vec();
    call_changes_nothing(&mut client, &call, error("ERR field name must not be empty"));
    let long = vec![b'x'; 65_534];
    call[7..].clone_from_slice(&args!["b", &long]);
    call_changes_nothing(&mut client, &call, error("ERR FIELDS takes at most 65536 bytes"));
    // The bound itself, and as many fields as there may be.
    call[8].truncate(65_533);
    assert!(!client.cmd(&call).is_error());
    let pairs: String = (0..64).map(|n| format!(" f{n} {n}")).collect();
    client.publish_with("q", "p", &format!("FIELDS 64{pairs} PRIORITY 3"));
    assert!(only_fields(&mut client, "priority3:{q}").ends_with("f62=62 f63=63"));
    // A field may have the name of an option.
    client.publish_with("q", "p", "FIELDS 2 DELAY 5 META x PRIORITY 4");
    assert!(only_fields(&mut client, "priority4:{q}").ends_with("DELAY=5 META=x"));
}

#[test]
fn a_copy_for_one_of_several_groups_carries_fields_and_tries() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM", "XGROUP CREATE q h 0"]);
    let id = client.publish_with("q", "p", &format!("TRIES 2 {FURTHER}"));
    for group in ["g", "h"] {
        assert_eq!(client.lease(group, "c", "q"), id);
    }
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id} DELAY 0")), int(1));
    assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
    assert_eq!(client.consume("h", "c", "q", 9), []);
    let task = client.consume_only("g", "c", "q");
    let copy = format!("tries=2 {CARRIED} original_id={id} group=g");
    assert!(task.fields.ends_with(&copy), "{task:?}");
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {}", task.id)), int(2));
    let letter = only_fields(&mut client, DEAD);
    assert!(letter.ends_with(&format!("{copy} reason=failed deliveries=1")), "{letter}");
}

// ---------------------------------------------------------------------------------------------
// TRIES
// ---------------------------------------------------------------------------------------------

#[test]
fn the_tries_of_a_task_come_before_those_of_its_queue() {
    let server = Server::start();
    let mut client = server.client();
    // The task is dead after this many failures; 0: never.
    for (of_queue, own, dead_after) in
        [(20, 1, 1), (20, 3, 3), (1, 3, 3), (1, 0, 0), (0, 2, 2), (2, 2, 2)]
    {
        for delay in [0, 1] {
            assert_eq!(client.run("FLUSHALL"), ok());
            policy(&mut client, &format!("TRIES {of_queue}"));
            let options = format!("TRIES {own} DELAY {delay}");
            client.publish_with("q", "p", &options);
            for failure in 1..5 {
                client.wait_ms(delay + 1);
                let task = client.consume_only("g", "c", "q");
                assert!(task.fields.contains(&format!(" tries={own}")), "{task:?}");
                let nack = format!("TASK.NACK q g c FAIL {} DELAY {delay}", task.id);
                let expected = if failure == dead_after { 2 } else { 1 };
                assert_eq!(client.run(nack), int(expected), "{of_queue} {options} {failure}");
                if failure == dead_after {
                    break;
                }
            }
        }
    }
}

#[test]
fn the_tries_of_a_task_count_when_its_lease_expires_and_after_a_redrive() {
    let server = Server::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 1 TRIES 1");
    client.publish_with("q", "p", "TRIES 3");
    for round in 0..2 {
        for deliveries in 1..=3 {
            assert_eq!(client.consume_only("g", "c", "q").deliveries, deliveries, "{round}");
            client.wait_ms(2);
        }
        assert_eq!(client.consume("g", "c", "q", 9), []);
        assert_eq!(dead(&mut client), ["lease expired 3 p"]);
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    }
}

#[test]
fn a_plain_entry_may_name_its_tries_and_an_invalid_number_is_ignored() {
    let server = Server::start();
    let mut client = server.client();
    for (field, expected) in [
        ("tries 1", 2),
        ("tries 2", 1),
        ("tries 0", 1),
        ("tries -1", 2),
        ("tries 01", 2),
        ("tries x", 2),
        ("tries 9223372036854775808", 2),
        ("tries 9223372036854775807", 1),
        // The first one counts.
        ("tries 2 tries 1", 1),
        ("TRIES 2", 2),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        policy(&mut client, "TRIES 1");
        client.run(format!("XADD q * {field} payload p"));
        let id = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id}")), int(expected), "{field}");
    }
}

#[test]
fn the_tries_of_a_task_count_for_an_entry_that_xnack_returned() {
    let server = Server::start();
    let mut client = server.client();
    if client.run("COMMAND INFO XNACK").items()[0].is_nil() {
        return;
    }
    policy(&mut client, "TRIES 1");
    let id = client.publish_with("q", "p", "TRIES 2");
    for _ in 0..2 {
        assert_eq!(client.lease("g", "c", "q"), id);
        assert_eq!(client.run(format!("XNACK q g FAIL IDS 1 {id}")), int(1));
    }
    assert_eq!(client.consume("g", "c", "q", 9), []);
    assert_eq!(dead(&mut client), ["failed 2 p"]);
}

// ---------------------------------------------------------------------------------------------
// EXPIRE
// ---------------------------------------------------------------------------------------------

#[test]
fn a_task_that_is_not_delivered_in_time_is_dead_lettered() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        // The group exists or not, and other tasks stand before and behind.
        for (pending, count) in [(0, 1), (3, 1), (3, 10), (500, 1000)] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let option = format!("PRIORITY {priority}");
            let before = client.task_total("expired");
            if pending > 0 {
                client.publish_with("q", "first", &option);
            }
            let id = publish_expired(&mut client, "late", &format!("{option} {FURTHER} TRIES 9"));
            for _ in 0..pending {
                client.publish_with("q", "late", &format!("{option} EXPIRE 1"));
            }
            client.publish_with("q", "last", &format!("{option} EXPIRE 600000"));
            client.wait_ms(2);
            let mut got = Vec::new();
            while let tasks = client.consume("g", "c", "q", count)
                && !tasks.is_empty()
            {
                got.extend(tasks);
            }
            let payloads: Vec<_> = got.iter().map(Delivered::payload).collect();
            let expected = ["first", "last"];
            assert_eq!(payloads, expected[usize::from(pending == 0)..], "{pending} {count}");
            let grown = client.task_total("expired") - before;
            assert_eq!(grown, 1 + pending, "{pending} {count}");
            let letters = client.tasks_in(DEAD);
            assert_eq!(letters.len() as i64, 1 + pending);
            let letter = format!(
                "payload=late timestamp=now retry_count=0 tries=9 {CARRIED} original_id={id} \
                 reason=expired deliveries=0{}",
                if priority > 0 { " priority=6" } else { "" }
            );
            assert_eq!(letters[0].fields, letter);
            // Nothing of it is left.
            assert_eq!(client.leases(&stream(priority), "g").len(), got.len());
            assert_eq!(client.ids_in(&stream(priority)).len(), got.len());
        }
    }
}

#[test]
fn a_task_that_was_delivered_in_time_does_not_expire_any_more() {
    let server = Server::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 600000 TRIES 0");
    let end = client.time_ms() + 300;
    let id = client.publish_with("q", "p", "EXPIRE 300 FIELDS 1 a 1");
    let task = client.consume_only("g", "c", "q");
    let stored: Vec<_> = task.fields.split(' ').collect();
    let &["payload=p", "timestamp=now", "retry_count=0", expires, "a=1"] = &stored[..] else {
        panic!("{task:?}")
    };
    let stored: i64 = expires.strip_prefix("expire_unix_ms=").unwrap().parse().unwrap();
    assert!((end..end + LATE).contains(&stored), "{stored} is not {end}");
    client.wait_past(stored);
    // It is still leased, is delivered again when the lease has expired, and its copies have no end.
    policy(&mut client, "LEASE 1");
    assert_eq!(client.consume_only("g", "d", "q").deliveries, 2);
    policy(&mut client, "LEASE 600000");
    assert_eq!(client.run(format!("TASK.NACK q g d SILENT {id}")), int(1));
    let copy = format!("payload=p timestamp=now retry_count=1 a=1 original_id={id}");
    let task = client.consume_only("g", "c", "q");
    assert_eq!(task.fields, copy);
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {} DELAY 1", task.id)), int(1));
    client.wait_ms(2);
    assert_eq!(client.consume_only("g", "c", "q").fields, copy.replace("count=1", "count=2"));
    assert_eq!(client.task_total("expired"), 0);
}

#[test]
fn a_redriven_task_does_not_expire() {
    let server = Server::start();
    let mut client = server.client();
    publish_expired(&mut client, "p", "PRIORITY 2");
    assert_eq!(client.consume("g", "c", "q", 9), []);
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    let task = client.consume_only("g", "c", "q");
    assert!(!task.fields.contains("expire"), "{task:?}");
    assert_eq!(priority_of(&task.id), 2);
}

#[test]
fn a_delayed_task_can_expire_before_it_enters() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let totals = ["expired", "promoted"].map(|name| client.task_total(name));
        let option = format!("PRIORITY {priority}");
        let id = client.publish_with("q", "late", &format!("DELAY 1 EXPIRE 2 {option} {FURTHER}"));
        client.publish_with("q", "soon", &format!("DELAY 1 EXPIRE 600000 {option}"));
        client.wait_ms(3);
        let task = client.consume_only("g", "c", "q");
        assert_eq!(task.payload(), "soon");
        assert!(task.fields.contains(" expire_unix_ms="), "{task:?}");
        let letter = only_fields(&mut client, DEAD);
        assert!(
            letter.contains(&format!(
                "retry_count=0 {CARRIED} original_id={id} reason=expired deliveries=0"
            )),
            "{letter}"
        );
        assert_eq!(letter.ends_with(" priority=6"), priority == 6, "{letter}");
        assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
        let grown = ["expired", "promoted"].map(|name| client.task_total(name));
        assert_eq!([grown[0] - totals[0], grown[1] - totals[1]], [1, 1]);
    }
}

#[test]
fn the_end_must_come_after_the_due_time() {
    let server = Server::start();
    let mut client = server.client();
    let expire = error("ERR invalid expire time in 'task.publish' command");
    for options in [
        "EXPIRE 0",
        "EXPIRE -1",
        "EXPIRE 9007199254740992",
        "DELAY 1000 EXPIRE 1000",
        "EXPIRE 1000 DELAY 1001",
        "EXPIRE 1000 DELAY 9000000000000",
        "AT 4102444800000 EXPIRE 60000",
        "EXPIRE 1 DELAY 5 UNIQUE u 5000 META",
    ] {
        let line = format!("TASK.PUBLISH q p {options}");
        changes_nothing(&mut client, &line, expire.clone());
    }
    for options in
        ["EXPIRE", "EXPIRE 5 EXPIRE 5", "TRIES", "TRIES 1 TRIES 1", "META META", "EXPIRE 5 x"]
    {
        let line = format!("TASK.PUBLISH q p {options}");
        changes_nothing(&mut client, &line, error("ERR syntax error"));
    }
    for options in ["DELAY 0 EXPIRE 1", "AT 5 EXPIRE 1", "DELAY 1000 EXPIRE 1001"] {
        client.publish_with("q", "p", options);
    }
}

#[test]
fn in_each_group_a_task_expires_by_itself() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM", "XGROUP CREATE q h 0"]);
    let id = client.publish_with("q", "p", "EXPIRE 500");
    assert_eq!(client.lease("g", "c", "q"), id);
    client.wait_ms(501);
    assert_eq!(client.consume("h", "c", "q", 9), []);
    let letter = only_fields(&mut client, DEAD);
    let end = format!("original_id={id} group=h reason=expired deliveries=0");
    assert!(letter.ends_with(&end), "{letter}");
    // The first group works on it undisturbed.
    assert_eq!(client.leased_ids("q", "g"), [&*id]);
    assert_eq!(client.run(format!("TASK.EXTEND q g c {id}")), int(1));
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.run("XLEN q"), int(0));
    // Moved back, it is for the group in which it expired.
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    assert_eq!(client.consume("g", "c", "q", 9), []);
    assert_eq!(client.consume_only("h", "c", "q").payload(), "p");
}

#[test]
fn a_waiting_consumer_is_served_in_time_and_not_with_what_has_expired() {
    let server = Server::start();
    let mut client = server.client();
    let mut waits = waiter(&server, "w");
    // In time, as it is handed over in the same step.
    let id = client.publish_with("q", "p", "EXPIRE 1");
    assert_eq!(waits.read().delivered()[0].id, id);
    // While the queue is paused, tasks expire. Then a waiter gets what is left.
    policy(&mut client, "PAUSED 1");
    let mut waits = waiter(&server, "w");
    for _ in 0..300 {
        client.publish_with("q", "late", "EXPIRE 1");
    }
    client.wait_ms(2);
    client.publish_with("q", "fresh", "EXPIRE 600000");
    policy(&mut client, "PAUSED 0");
    assert_eq!(waits.read().delivered()[0].payload(), "fresh");
    assert_eq!(client.task_total("expired"), 300);
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(300));
}

#[test]
fn very_many_expired_tasks_are_moved_in_bounded_steps() {
    const MANY: i64 = 3_000;
    let server = Server::start();
    let mut client = server.client();
    let calls: Vec<_> = (0..MANY).map(|_| "TASK.PUBLISH q late EXPIRE 1").collect();
    for call in &calls {
        client.send(call);
    }
    for _ in &calls {
        assert!(!client.read().is_error());
    }
    client.wait_ms(2);
    let id = client.publish("q", "last");
    // A call moves about a thousand before it says that there is nothing.
    let mut calls = 1;
    while client.consume("g", "c", "q", 1).is_empty() {
        calls += 1;
        assert!(calls < 10);
    }
    assert!(calls > 1);
    assert_eq!(client.leased_ids("q", "g"), [id]);
    assert_eq!(client.task_total("expired"), MANY);
}

#[test]
fn an_expired_task_that_cannot_be_dead_lettered_is_never_delivered() {
    let server = Server::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 1");
    client.run(format!("SET {DEAD} x"));
    let id = publish_expired(&mut client, "late", "");
    client.publish_with("q", "delayed", "DELAY 1 EXPIRE 2");
    client.wait_ms(3);
    for payload in ["first", "second"] {
        let next = client.publish("q", payload);
        let mut got = Vec::new();
        eventually(SOON, "the others are delivered", || {
            got = client
                .run("TASK.CONSUME g c q")
                .task_ids()
                .iter()
                .map(ToString::to_string)
                .collect();
            !got.is_empty()
        });
        assert_eq!(got, [&*next]);
        assert_eq!(client.run(format!("TASK.ACK q g {next}")), int(1));
    }
    assert_eq!(client.leased_ids("q", "g"), [id]);
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(1));
    assert_eq!(client.task_total("expired"), 0);
    // Once it can be, it is.
    assert_eq!(client.run(format!("DEL {DEAD}")), int(1));
    eventually(SOON, "both are dead letters", || {
        assert_eq!(client.consume("g", "c", "q", 9), []);
        client.run(format!("XLEN {DEAD}")) == int(2)
    });
    assert_eq!(client.task_total("expired"), 2);
    assert_eq!(client.run("XLEN q"), int(0));
    let mut letters = dead(&mut client);
    letters.sort_unstable();
    assert_eq!(letters, ["expired 0 delayed", "expired 0 late"]);
}

#[test]
fn a_plain_entry_may_name_its_end_and_an_invalid_one_is_ignored() {
    let server = Server::start();
    let mut client = server.client();
    for (value, expires) in [("1", true), ("0", true), ("-1", false), ("x", false), ("01", false)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        client.run(format!("XADD q * expire_unix_ms {value} payload p timestamp 1 retry_count 0"));
        assert_eq!(client.consume("g", "c", "q", 9).is_empty(), expires, "{value}");
    }
}

// ---------------------------------------------------------------------------------------------
// META
// ---------------------------------------------------------------------------------------------

#[test]
fn meta_says_whether_a_task_was_added() {
    let server = Server::start();
    for mut client in [server.client(), server.client3()] {
        for options in ["", "PRIORITY 3", "DELAY 60000", "TRIES 2 EXPIRE 60000 FIELDS 1 a 1"] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let line = format!("TASK.PUBLISH q p UNIQUE u 60000 {options} meta");
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let first = client.run(&line);
            let [id, added] = first.items() else { panic!("{first:?}") };
            assert!(matches!(id, Value::Bulk(_)), "{id:?}");
            assert_eq!(added, &simple("added"));
            assert_eq!(client.run(&line), array([id.clone(), simple("duplicate")]));
            // The window remembers the same id for a call without META.
            assert_eq!(client.run("TASK.PUBLISH q p UNIQUE u 60000"), *id);
        }
        let reply = client.run("TASK.PUBLISH q p META");
        assert_eq!(reply.items()[1], simple("added"));
    }
}

// ---------------------------------------------------------------------------------------------
// NACK … PAYLOAD
// ---------------------------------------------------------------------------------------------

#[test]
fn a_returned_task_can_get_a_new_payload() {
    let server = Server::start();
    let mut client = server.client();
    for (mode, key) in [
        ("SILENT", "q"),
        ("FAIL DELAY 0", "q"),
        ("FATAL", DEAD),
        ("FATAL REASON why", DEAD),
        ("FAIL DELAY 600000", DELAYED),
    ] {
        for payload in ["", "state-2", "\0 \r\n\u{e9}"] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let id = client.publish_with("q", "state-1", FURTHER);
            client.lease("g", "c", "q");
            let (word, options) = mode.split_once(' ').unwrap_or((mode, ""));
            let mut call =
                args!["TASK.NACK", "q", "g", "c", word, &id, "Payload", payload].to_vec();
            call.extend(options.split_whitespace().map(Into::into));
            let expected = if key == DEAD { 2 } else { 1 };
            assert_eq!(client.cmd(&call), int(expected), "{mode}");
            if key == DELAYED {
                let [(member, _)] = &client.scores(DELAYED)[..] else { panic!("not one") };
                let stored = format!("7:payload{}:{payload}6:tenant4:blue", payload.len());
                assert!(member.contains(&stored), "{member:?}");
            } else {
                let entry = client.cmd(&["XRANGE", key, "-", "+"]);
                let fields = &entry.items()[0].items()[1];
                assert_eq!(fields.get("payload"), &bulk(payload), "{mode}");
                assert_eq!(fields.get("tenant"), &bulk("blue"), "{mode}");
                assert_eq!(fields.get("original_id"), &bulk(&*id), "{mode}");
            }
        }
    }
    // Only the consumer that has it can change it.
    assert_eq!(client.run("FLUSHALL"), ok());
    let id = client.publish("q", "p");
    client.lease("g", "c", "q");
    changes_nothing(&mut client, &format!("TASK.NACK q g d FAIL {id} PAYLOAD x"), int(0));
    for options in ["PAYLOAD", "PAYLOAD a PAYLOAD b", "PAYLOAD a b"] {
        let line = format!("TASK.NACK q g c FAIL {id} {options}");
        changes_nothing(&mut client, &line, error("ERR syntax error"));
    }
}

#[test]
fn full_memory_refuses_a_longer_payload_and_nothing_else_of_nack() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "four");
    client.lease("g", "c", "q");
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    let line = format!("TASK.NACK q g c FAIL {id} DELAY 0 PAYLOAD five5");
    let refused = client.run(&line);
    assert!(refused.is_error_with("OOM"), "{refused:?}");
    assert_eq!(client.leased_ids("q", "g"), [&*id]);
    let line = format!("TASK.NACK q g c FAIL {id} DELAY 0 PAYLOAD 4444");
    assert_eq!(client.run(&line), int(1));
    // A publish with any option is refused.
    for options in ["EXPIRE 5", "TRIES 5", "FIELDS 1 a 1", "META"] {
        let refused = client.run(format!("TASK.PUBLISH q p {options}"));
        assert!(refused.is_error_with("OOM"), "{refused:?}");
    }
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    assert_eq!(client.consume_only("g", "c", "q").payload(), "4444");
}

// ---------------------------------------------------------------------------------------------
// EXTEND with several ids
// ---------------------------------------------------------------------------------------------

#[test]
fn one_heartbeat_renews_several_leases() {
    let server = Server::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 600000");
    let mut ids: Vec<_> = ["", "PRIORITY 9", "", "PRIORITY 4"]
        .map(|options| client.publish_with("q", "p", options))
        .into();
    assert_eq!(client.consume("g", "c", "q", 3).len(), 3);
    assert_eq!(client.consume("g", "d", "q", 1).len(), 1);
    // Priority 9 first, then 4, then in the order of publishing: the last one belongs to `d`.
    let other = ids.remove(2);
    let ready = client.publish("q", "p");
    for stream in ["q", "priority9:{q}", "priority4:{q}"] {
        wait_until_older(&mut client, stream, 50);
    }
    let line = format!(
        "TASK.EXTEND q g c {} {other} {} {ready} 9-9 {} {}",
        ids[0], ids[1], ids[2], ids[0]
    );
    assert_eq!(client.run(line), array([1, 0, 1, 0, 0, 1, 1].map(int)));
    for stream in ["q", "priority9:{q}", "priority4:{q}"] {
        for lease in client.leases(stream, "g") {
            assert_eq!(lease.idle < 50, lease.id != other, "{lease:?}");
            assert_eq!(lease.deliveries, 1);
        }
    }
    assert_eq!(client.run(format!("TASK.EXTEND q g c {}", ids[0])), int(1));
    assert_eq!(
        client.run(format!("TASK.EXTEND q g d {other} {}", ids[0])),
        array([int(1), int(0)])
    );
    assert_eq!(client.run("TASK.EXTEND none g c 1-1 1-2"), array([int(0), int(0)]));
    assert_eq!(client.run("TASK.EXTEND q none c 1-1 1-2"), array([int(0), int(0)]));
}

#[test]
fn an_extend_with_an_invalid_id_or_too_many_renews_nothing() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    client.lease("g", "c", "q");
    wait_until_older(&mut client, "q", 50);
    let urgent = "5-900000000000000000";
    client.run("SET priority9:{q} x");
    let many = format!("{id} ").repeat(1024);
    for (ids, text) in [
        (format!("{id} x"), "ERR Invalid stream ID specified as stream command argument"),
        (format!("{id} {urgent}"), WRONG_TYPE),
        (format!("{many}{id}"), "ERR a call takes at most 1024 ids"),
    ] {
        let line = format!("TASK.EXTEND q g c {ids}");
        assert_eq!(client.run(line), error(text));
        assert!(client.leases("q", "g")[0].idle >= 50, "{text}");
    }
    let reply = client.run(format!("TASK.EXTEND q g c {}", many.trim_end()));
    assert_eq!(reply.items().len(), 1024);
    assert!(reply.items().iter().all(|renewed| *renewed == int(1)));
}

// ---------------------------------------------------------------------------------------------
// Effects
// ---------------------------------------------------------------------------------------------

#[test]
fn effects_are_plain_commands_with_absolute_times() {
    let server = Server::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM"]);
    let mut tap = server.replication_tap();
    let begin = client.time_ms();
    let id = client.publish_with(
        "q",
        "p",
        "EXPIRE 50 TRIES 2 FIELDS 1 a 1 META".trim_end_matches(" META"),
    );
    let effects = tap.effects();
    let [added] = &effects[..] else { panic!("{effects:?}") };
    let words: Vec<_> = added.split(' ').collect();
    assert_eq!(words[..3], ["XADD", "q", &id]);
    assert_eq!(words[7..11], ["retry_count", "0", "tries", "2"], "{added}");
    assert_eq!((words[11], &words[13..]), ("expire_unix_ms", &["a", "1"][..]), "{added}");
    let end: i64 = words[12].parse().unwrap();
    assert!((begin + 50..=client.time_ms() + 50).contains(&end));
    client.wait_past(end);
    assert_eq!(client.consume("g", "c", "q", 1), []);
    let commands: Vec<_> = tap.effects();
    let names: Vec<_> = commands.iter().map(|text| text.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["MULTI", "XCLAIM", "XADD", "XACK", "XDEL", "EXEC"], "{commands:?}");
    assert!(commands[2].contains(" reason expired deliveries 0"), "{commands:?}");
}

#[test]
fn the_options_work_in_a_transaction_and_in_a_script() {
    let server = Server::start();
    let mut client = server.client();
    let publish = "TASK.PUBLISH q p EXPIRE 600000 TRIES 2 FIELDS 1 a 1 META";
    let replies = in_transaction(&mut client, &[publish, "TASK.CONSUME g c q"]);
    assert_eq!(replies[0].items()[1], simple("added"));
    assert_eq!(replies[1].task_payloads(), ["p"]);
    let id = replies[0].items()[0].as_str().to_owned();
    let replies = in_transaction(
        &mut client,
        &[
            format!("TASK.EXTEND q g c {id} {id}"),
            format!("TASK.NACK q g c FAIL {id} DELAY 0 PAYLOAD new"),
        ],
    );
    assert_eq!(replies, [array([int(1), int(1)]), int(1)]);
    let script =
        "return redis.call('TASK.PUBLISH', KEYS[1], 's', 'FIELDS', 1, 'a', '2', 'META')[2]";
    assert_eq!(client.cmd(&["EVAL", script, "1", "q"]), simple("added"));
    assert_eq!(client.consume_payloads("g", "q", 5), ["new", "s"]);
}

#[test]
fn the_options_survive_a_restart_and_the_append_only_file() {
    let mut server = Server::builder().aof(true).start();
    let mut client = server.client();
    client.publish_with("q", "ready", &format!("TRIES 1 EXPIRE 600000 {FURTHER}"));
    client.publish_with("q", "late", "EXPIRE 1");
    client.publish_with("q", "delayed", &format!("TRIES 1 DELAY 1 EXPIRE 600000 {FURTHER}"));
    let stored = contents(&server);
    server.restart_without_module();
    assert_eq!(contents(&server), stored);
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(contents(&server), stored);
    client.wait_ms(2);
    let tasks = client.consume("g", "c", "q", 9);
    let mut payloads: Vec<_> = tasks.iter().map(Delivered::payload).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, ["delayed", "ready"]);
    assert_eq!(dead(&mut client), ["expired 0 late"]);
    for task in &tasks {
        assert!(task.fields.contains(CARRIED), "{task:?}");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {}", task.id)), int(2), "{task:?}");
    }
}
