//! What plain clients do to a queue: entries and delayed tasks that they add, change, move and
//! delete. Each becomes a task like any other, and nothing of it stops a consumer.

mod support;
use support::consumers::*;
use support::*;

use std::collections::BTreeSet;

#[test]
fn own_fields_stay_with_a_task() {
    let server = Server::start();
    let mut client = server.client();
    let own = "colour red payload second x y x z";
    let kept = "colour=red payload=second x=y x=z";
    for (fields, payload) in [
        ("colour red payload p payload second x y x z retry_count 2".to_owned(), "payload=p "),
        (format!("payload p {own} retry_count 2"), "payload=p "),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.run(format!("XADD q * {fields}")).as_str().to_owned();
        assert_eq!(client.lease("g", "c", "q"), id);
        let mut current = id.clone();
        let mut count = 2;
        let copy = |count: i64| {
            format!("{payload}timestamp=now retry_count={count} {kept} original_id={id}")
        };
        for nack in ["FAIL ID DELAY 0", "FAIL ID DELAY 2", "SILENT ID"] {
            let call = format!("TASK.NACK q g c {}", nack.replace("ID", &current));
            assert_eq!(client.run(call), int(1), "{nack}");
            count += i64::from(nack.starts_with("FAIL"));
            let task =
                eventually(SOON, "the copy comes", || client.consume("g", "c", "q", 9).pop());
            assert_eq!(task.fields, copy(count), "{nack}");
            current = task.id;
        }
        assert_eq!(client.run(format!("TASK.NACK q g c FATAL {current} REASON r")), int(2));
        let dead = client.only_task_in(DEAD).fields;
        assert_eq!(dead, format!("{} reason=r deliveries=1", copy(count + 1)));
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        assert_eq!(client.only_task_in("q").fields, copy(0));
    }
}

#[test]
fn a_field_named_group_is_an_ordinary_field() {
    let server = Server::start();
    let mut client = server.client();
    for own in ["colour red retry_count 0 group admins", "group admins", "group admins x y"] {
        for several in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            if several {
                assert_eq!(client.run("TASK.CONSUME h c q"), nil_array());
            }
            let id = client.run(format!("XADD q * payload p {own}")).as_str().to_owned();
            let mut task = next(&mut client, "g");
            assert_eq!(task.id, id);
            for call in [
                "TASK.NACK q g c SILENT ID",
                "TASK.NACK q g c FAIL ID DELAY 2",
                "TASK.NACK q g c FATAL ID",
                "TASK.RETRY q ID p 0 q x 9 g",
            ] {
                let reply = client.run(call.replace("ID", &task.id));
                assert!(!reply.is_error() && reply != int(0), "{call}: {reply:?}");
                if call.contains("FATAL") {
                    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
                }
                let what = format!("{own}: it comes again after {call}");
                task = eventually(SOON, &what, || client.consume("g", "c", "q", 9).pop());
                let has = |field: &str| task.fields.split(' ').any(|found| found == field);
                assert!(has("group=admins") && has(&format!("original_id={id}")), "{task:?}");
                assert_eq!(has("group=g"), several, "{task:?}");
            }
            if several {
                assert_eq!(next(&mut client, "h").id, id, "the entry, and no copy");
            }
        }
    }
}

#[test]
fn an_entry_without_the_usual_fields_is_a_task() {
    let server = Server::start();
    let mut client = server.client();
    for (fields, payload, other) in [
        ("x y", "", " x=y"),
        ("payload p", "payload=p ", ""),
        ("payload p retry_count x", "payload=p ", ""),
        ("payload p retry_count -5", "payload=p ", ""),
        ("payload p retry_count 1.5", "payload=p ", ""),
        ("payload p retry_count 9223372036854775808", "payload=p ", ""),
        ("retry_count 0 timestamp 5 payload p", "payload=p ", ""),
    ] {
        for delay in [0, 2] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let id = client.run(format!("XADD q * {fields}")).as_str().to_owned();
            let task = next(&mut client, "g");
            assert_eq!(task.id, id);
            let nack = format!("TASK.NACK q g c FAIL {id} DELAY {delay}");
            assert_eq!(client.run(nack), int(1));
            let task =
                eventually(SOON, "the copy comes", || client.consume("g", "c", "q", 9).pop());
            let copy = format!("{payload}timestamp=now retry_count=1{other} original_id={id}");
            assert_eq!(task.fields, copy, "{fields}");
        }
    }
    // Any bytes, also in the names of fields.
    for delay in [0, 2] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let own: [&[u8]; 4] = [b"\0\r\n", b"5:\xff", b"", b" a b "];
        let id = client.cmd(&args!["XADD", "q", "*", own[0], own[1], own[2], own[3]]);
        assert_eq!(client.run("TASK.CONSUME g c q").task_ids(), [id.as_str()]);
        let nack = format!("TASK.NACK q g c SILENT {} DELAY {delay}", id.as_str());
        assert_eq!(client.run(nack), int(1));
        let fields = eventually(SOON, "the copy comes", || {
            let reply = client.run("TASK.CONSUME g c q META");
            reply.items().first().map(|task| task.items()[1].items().to_vec())
        });
        assert!(fields.windows(4).any(|fields| *fields == own.map(bulk)), "{fields:?}");
    }
}

#[test]
fn a_member_added_to_the_delayed_tasks_is_a_payload() {
    let server = Server::start();
    let mut client = server.client();
    // Before the first call, and after one.
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
        }
        // Some of them look almost like those of the module.
        let members: [&[u8]; 9] = [
            b"hello",
            b"",
            b"\0\r\n\xff",
            b"1-1 0 0 - p",
            b"1-1001700000000000000 0 0 -",
            b"1-1001700000000000000 10 0 - p",
            b"1-1001700000000000000 0 -1 - p",
            b"1-1001700000000000000 0 x - p",
            b"5-5001700000000000000+ a b c d",
        ];
        for (score, member) in members.iter().enumerate() {
            assert_eq!(client.cmd(&args!["ZADD", DELAYED, score, member]), int(1));
        }
        client.run(format!("ZADD {DELAYED} +inf never"));
        client.run(format!("ZADD {DELAYED} -inf first"));
        client.run(format!("ZADD {DELAYED} 0.5 between"));
        let reply = client.run("TASK.CONSUME g c q 100");
        let found: Vec<_> =
            reply.tasks().iter().map(|task| task.items()[1].get("payload").bytes()).collect();
        let mut expected = vec![&b"first"[..], members[0], b"between"];
        expected.extend(&members[1..]);
        assert_eq!(found, expected);
        let names = reply.tasks()[0].items()[1].items().iter().step_by(2);
        let names: Vec<_> = names.map(Value::as_str).collect();
        assert_eq!(names, ["payload", "timestamp", "retry_count"], "it has no original id");
        assert_eq!(client.run(format!("ZRANGE {DELAYED} 0 -1")), array(["never"]));
    }
}

#[test]
fn a_changed_score_changes_when_a_task_is_due() {
    let server = Server::start();
    let mut client = server.client();
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
        }
        let id = client.publish_with("q", "p", "DELAY 600000");
        let member = client.scores(DELAYED).remove(0).0;
        assert_eq!(client.cmd(&["ZADD", DELAYED, "XX", "5", &member]), int(0));
        assert_eq!(client.run("TASK.INFO q").get("next_due_ms"), &int(0));
        let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
        assert_eq!(fields(&mut client, "g"), [copy]);
        // A removed member never becomes due.
        let id = client.publish_with("q", "p", "DELAY 5");
        assert_eq!(client.run(format!("DEL {DELAYED}")), int(1));
        eventually(SOON, "it would be due", || client.time_ms() > id_ms(&id) + 5);
        assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
    }
}

#[test]
fn a_renamed_copied_restored_or_moved_queue_goes_on() {
    let server = Server::start();
    let mut client = server.client();
    // Valkey 8.1 leaves the connection in the other database after MOVE.
    for way in [
        "RENAME other q;RENAME priority3:{other} priority3:{q};\
         RENAME delayed:{other} delayed:{q}",
        "COPY other q;COPY priority3:{other} priority3:{q};\
         COPY delayed:{other} delayed:{q}",
        "COPY other q;RENAME priority3:{other} priority3:{q};\
         ZUNIONSTORE delayed:{q} 1 delayed:{other}",
        "COPY other q;COPY priority3:{other} priority3:{q};\
         ZRANGESTORE delayed:{q} delayed:{other} 0 -1",
        "RESTORE q 0 DUMP(other);RESTORE priority3:{q} 0 DUMP(priority3:{other});\
         RESTORE delayed:{q} 0 DUMP(delayed:{other})",
        "SELECT 1;RENAME other q;RENAME priority3:{other} priority3:{q};\
         RENAME delayed:{other} delayed:{q};SELECT 0;SWAPDB 0 1",
        "SELECT 1;RENAME other q;RENAME priority3:{other} priority3:{q};\
         RENAME delayed:{other} delayed:{q};MOVE q 0;SELECT 1;\
         MOVE priority3:{q} 0;SELECT 1;MOVE delayed:{q} 0;SELECT 0",
    ] {
        for known in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run("CONFIG SET corral.task-lease-ms 20"), ok());
            if known {
                // The module knows this queue and that it is empty.
                assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
                assert_eq!(client.run("DEL q"), int(1));
                assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
                assert_eq!(client.run("DEL q"), int(1));
            }
            if way.starts_with("SELECT 1") {
                client.run("SELECT 1");
            }
            let leased = client.publish("other", "leased");
            assert_eq!(client.lease("g", "one", "other"), leased);
            client.publish("other", "ready");
            client.publish_with("other", "urgent", "PRIORITY 3");
            client.publish_with("other", "due", "DELAY 1");
            for line in way.split(';') {
                let words: Vec<_> = line.split_ascii_whitespace().collect();
                let mut dump = |word: &str| match word.strip_prefix("DUMP(") {
                    Some(key) => client.cmd(&["DUMP", key.trim_end_matches(')')]).bytes().to_vec(),
                    None => word.as_bytes().to_vec(),
                };
                let words: Vec<_> = words.into_iter().map(&mut dump).collect();
                let reply = client.cmd(&words);
                assert!(!reply.is_error() && reply != int(0), "{line}: {reply:?}");
            }
            let mut got = BTreeSet::new();
            eventually(SOON, &format!("everything comes after {way}"), || {
                for task in client.consume("g", "two", "q", 1) {
                    assert_eq!(client.run(format!("TASK.ACK q g {}", task.id)), int(1));
                    let payload = task.fields.split(' ').next().unwrap().to_owned();
                    assert!(got.insert(payload), "{way}: twice: {task:?}");
                }
                got.len() == 4
            });
        }
    }
}

#[test]
fn deletions_stop_no_consumer() {
    let server = Server::start();
    let mut client = server.client();
    for gone in [
        "XDEL q ID",
        "XTRIM q MAXLEN 0",
        "XACK q g ID",
        "DEL q",
        "XGROUP DESTROY q g",
        "XGROUP DELCONSUMER q g one",
        "FLUSHALL",
        "DEL priority3:{q} delayed:{q}",
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("CONFIG SET corral.task-lease-ms 20"), ok());
        let id = client.publish("q", "p");
        assert_eq!(client.lease("g", "one", "q"), id);
        client.publish_with("q", "p", "PRIORITY 3");
        client.publish_with("q", "p", "DELAY 1");
        client.run(gone.replace("ID", &id));
        wait_until_older(&mut client, "q", 20);
        eventually(SOON, "the clock goes on", || client.time_ms() > id_ms(&id));
        let next = client.publish("q", "next");
        eventually(SOON, &format!("the next task comes after {gone}"), || {
            let got = client.consume("g", "two", "q", 100);
            got.iter().any(|task| task.id == next)
        });
        for call in ["EXTEND q g one ID", "NACK q g one FAIL ID", "ACK q g ID"] {
            let reply = client.run(format!("TASK.{}", call.replace("ID", &id)));
            assert!(!reply.is_error(), "{gone}: {call}: {reply:?}");
        }
        assert_eq!(client.run(format!("TASK.ACK q g {next}")), int(1), "{gone}");
    }
}

#[test]
fn a_delayed_task_is_found_among_many_and_among_foreign_members() {
    let server = Server::start();
    let mut client = server.client();
    let due = client.time_ms() + LONG;
    let ids: Vec<_> =
        (0..50).map(|n| client.publish_with("q", &n.to_string(), &format!("AT {due}"))).collect();
    let others: Vec<_> =
        (0..20).map(|n| client.publish_with("q", "p", &format!("AT {}", due - 10 + n))).collect();
    // Due at the same time, sorted before, between and behind them.
    for member in ["", "!", "0", "0-0 0 0 - p", "1", "5-5", &ids[25], "9", "zzz", "~"] {
        assert_eq!(client.cmd(&["ZADD", DELAYED, &due.to_string(), member]), int(1));
    }
    for index in shuffled(50) {
        let id = &ids[index];
        assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(1), "{index}: {id}");
        assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(0), "{index}: {id}");
    }
    assert_eq!(client.run(format!("TASK.CANCEL q {}", others.join(" "))), int(20));
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(10), "the foreign members stay");
}

#[test]
fn an_entry_added_to_a_priority_is_delivered_under_an_id_of_that_priority() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["5-1", "9999999999999-7", "6-300000000000000000", "6-1000000000000000000"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let key = "priority4:{q}";
        client.run(format!("XADD {key} {id} colour red payload x retry_count 2"));
        let [task] = &client.consume("g", "c", "q", 9)[..] else { panic!("not one task") };
        assert_eq!(priority_of(&task.id), 4, "{}", task.id);
        assert_eq!(client.ids_in(key), [task.id.as_str()], "instead of {id}");
        assert_eq!(
            task.fields,
            format!("payload=x timestamp=now retry_count=2 colour=red original_id={id}")
        );
        assert_eq!((task.idle, task.deliveries), (0, 1));
        // A task published afterwards comes behind it.
        let next = client.publish_with("q", "y", "PRIORITY 4");
        assert_eq!(priority_of(&next), 4, "{next}");
        assert_eq!(client.lease("g", "c", "q"), next);
        assert_eq!(client.run(format!("TASK.ACK q g {} {next}", task.id)), int(2));
        assert_eq!(client.run(format!("XLEN {key}")), int(0));
    }
}

#[test]
fn an_id_that_points_elsewhere_is_looked_up_in_the_queue() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["5-300000000000000000", "5-1000000000000000000", "5-18446744073709551615"] {
        for has_priority in [false, true] {
            let prepare = |client: &mut Client| {
                assert_eq!(client.run("FLUSHALL"), ok());
                client.run(format!("XADD q {id} payload x"));
                if has_priority {
                    let other = client.publish_with("q", "y", "PRIORITY 3");
                    assert_eq!(client.lease("g", "c", "q"), other);
                }
            };
            prepare(&mut client);
            assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(1), "{id}");
            assert_eq!(client.run("XLEN q"), int(0));
            for (call, reply, left) in [
                (format!("TASK.EXTEND q g c {id}"), 1, 1),
                (format!("TASK.ACK q g {id}"), 1, 0),
                (format!("TASK.NACK q g c FATAL {id}"), 2, 0),
            ] {
                prepare(&mut client);
                assert_eq!(client.lease("g", "c", "q"), id);
                assert_eq!(client.run(&call), int(reply), "{call}");
                assert_eq!(client.run("XLEN q"), int(left), "{call}");
            }
        }
    }
}

#[test]
fn the_stream_of_a_priority_can_be_written_by_its_own_name() {
    let server = Server::start();
    let mut client = server.client();
    let urgent = "priority3:{q}";
    for call in [
        format!("TASK.PUBLISH {urgent} p"),
        format!("TASK.RETRY x 1-1 p 0 {urgent} dead 3"),
        format!("TASK.REDRIVE letters {urgent}"),
    ] {
        for waits in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            client.run("XADD letters * payload p");
            // The module knows that the queue is empty.
            for _ in 0..3 {
                assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
            }
            let mut waiter = server.client();
            if waits {
                server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
            }
            assert!(!client.run(&call).is_error());
            let got =
                if waits { waiter.read().delivered() } else { client.consume("g", "c", "q", 9) };
            assert_eq!(got.len(), 1, "{call}");
            assert_eq!(client.leased_ids(urgent, "g"), [got[0].id.as_str()], "{call}");
            assert_eq!(client.run(format!("TASK.ACK q g {}", got[0].id)), int(1));
        }
    }
}

#[test]
fn an_entry_that_cannot_get_an_id_of_its_priority_blocks_no_other() {
    const LAST: &str = "18446744073709551615-18446744073709551615";
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
        }
        let mut ids = [(); 3].map(|()| client.publish_with("q", "p", "PRIORITY 3")).to_vec();
        // There is no id behind this one.
        client.run(format!("XADD {key} {LAST} payload x"));
        ids.push(client.publish("q", "plain"));
        let mut got = client.consume("g", "c", "q", 10);
        got.extend(client.consume("g", "c", "q", 10));
        assert_eq!(
            got.iter().map(|task| &task.id).collect::<Vec<_>>(),
            ids.iter().collect::<Vec<_>>()
        );
        assert_eq!(client.run(format!("TASK.ACK q g {}", ids.join(" "))), int(4));
        assert_eq!(client.ids_in(key), [LAST], "it is not lost");
        // Neither does it when its lease has expired.
        assert_eq!(client.run("TASK.POLICY q LEASE 20"), ok());
        wait_until_older(&mut client, key, 20);
        let id = client.publish("q", "next");
        let next =
            eventually(SOON, "the next task comes", || client.consume("g", "c", "q", 9).pop());
        assert_eq!(next.id, id);
        assert_eq!(client.ids_in(key), [LAST], "it is not lost");
    }
}

#[test]
fn finishing_one_of_two_tasks_with_the_same_id_leaves_the_other() {
    let server = Server::start();
    let mut client = server.client();
    // One in the queue's own stream and one of a priority, which a plain client has leased.
    for key in ["q", "priority3:{q}"] {
        assert_eq!(client.run(format!("XADD {key} 5-5 payload {key}")), bulk("5-5"));
        assert_eq!(client.run(format!("XGROUP CREATE {key} g 0")), ok());
    }
    client.run("XREADGROUP GROUP g plain STREAMS priority3:{q} >");
    assert_eq!(client.run("TASK.POLICY q LEASE 600000"), ok());
    let own = next(&mut client, "g");
    assert_eq!(own.id, "5-5");
    wait_until_older(&mut client, "priority3:{q}", 20);
    assert_eq!(client.run("TASK.POLICY q LEASE 20"), ok());
    let other = eventually(SOON, "it is reclaimed", || {
        let got = client.consume("g", "c", "q", 9);
        got.into_iter().find(|task| task.id != "5-5")
    });
    assert_eq!(client.run("TASK.POLICY q LEASE 0"), ok(), "no other lease expires");
    let copy = "payload=priority3:{q} timestamp=now retry_count=1 original_id=5-5";
    assert_eq!(other.fields, copy);
    assert_eq!(client.run(format!("TASK.EXTEND q g c {}", other.id)), int(1));
    assert_eq!(client.run(format!("TASK.ACK q g {}", other.id)), int(1));
    assert_eq!(client.leased_ids("q", "g"), ["5-5"], "the lease of the other task");
    assert_eq!(client.run("TASK.ACK q g 5-5"), int(1));
    assert_eq!(client.run("EXISTS dead:{q}"), int(0));
    assert_eq!(client.run("XLEN q"), int(0));
    assert_eq!(client.run("XLEN priority3:{q}"), int(0));
}
