//! Several groups on one queue: each group gets every task once, what one group returns is for that
//! group only, and an entry is deleted when every group is past it.

mod support;
use support::consumers::*;
use support::*;

#[test]
fn an_entry_of_a_priority_stays_for_a_group_that_has_not_read_that_priority() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("XGROUP CREATE q late 0 MKSTREAM"), ok());
        let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
        for (group, left) in [("g", 1), ("h", 1), ("late", 0)] {
            assert_eq!(next(&mut client, group).id, id);
            assert_eq!(client.run(format!("TASK.ACK q {group} {id}")), int(1));
            assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(left));
        }
    }
}

#[test]
fn a_task_returned_by_one_group_is_hidden_from_the_others() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for nack in ["SILENT ID", "FAIL ID DELAY 0", "FAIL ID DELAY 5", "FATAL ID"] {
            let id = leased_by_two(&mut client, priority);
            let call = format!("TASK.NACK q g c {}", nack.replace("ID", &id));
            assert!(client.run(call).as_int() > 0, "{nack}");
            if nack.starts_with("FATAL") {
                let dead = client.only_task_in(DEAD).fields;
                assert!(
                    dead.contains(&format!(" original_id={id} group=g reason=fatal ")),
                    "{dead}"
                );
                assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
            }
            // The other group asks first, several times.
            for _ in 0..3 {
                assert_eq!(client.consume("h", "c", "q", 9), [], "{nack}");
            }
            let again = eventually(SOON, "the copy comes", || {
                assert_eq!(client.consume("h", "c", "q", 9), [], "{nack}");
                client.consume("g", "c", "q", 9).pop()
            });
            let count = i64::from(nack.starts_with("FAIL"));
            let copy = format!("timestamp=now retry_count={count} original_id={id} group=g");
            assert_eq!(again.fields, format!("payload=p {copy}"), "{nack}");
            // The skipped copy is not pending there and does not keep the entry.
            assert_eq!(client.leased_ids(&stream(priority), "h"), [id.as_str()], "{nack}");
            assert_eq!(client.run(format!("TASK.ACK q g {}", again.id)), int(1));
            assert_eq!(client.consume("h", "c", "q", 9), []);
            assert_eq!(client.ids_in(&stream(priority)), [id.as_str()], "{nack}");
            assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
            assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0), "{nack}");
        }
    }
}

#[test]
fn a_skipped_copy_is_deleted_when_the_last_group_skips_it() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
    assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
    let copy = next(&mut client, "g").id;
    assert_eq!(client.run(format!("TASK.ACK q g {copy}")), int(1));
    assert_eq!(client.ids_in("q"), [copy.as_str()], "h has not reached it");
    // Whatever else h gets in that call.
    let task = client.publish("q", "task");
    for (count, expected) in [(1, 1), (9, 0)] {
        let got = client.consume("h", "c", "q", count);
        assert_eq!(got.len(), expected, "{got:?}");
    }
    assert_eq!(client.ids_in("q"), [task.as_str()]);
    assert_eq!(client.leased_ids("q", "h"), [task.as_str()]);
}

#[test]
fn with_one_group_a_copy_names_no_group_and_a_later_group_sees_it() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
    let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
    assert_eq!(fields(&mut client, "g"), [copy.as_str()]);
    assert_eq!(fields(&mut client, "late"), [copy.as_str()]);
    // With a second group, however it was created, a copy names its group.
    for come in ["TASK.CONSUME h c q", "XGROUP CREATE q h $"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        for _ in 0..2 {
            let id = client.publish("q", "p");
            assert_eq!(client.lease("g", "c", "q"), id);
            assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
        }
        client.run(come);
        let id = client.publish("q", "p");
        assert_eq!(client.lease("g", "c", "q"), id);
        assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
        let copy = &client.tasks_in("q")[1].fields;
        assert!(copy.ends_with(&format!("original_id={id} group=g")), "{come}: {copy}");
        // With one group again, it does not.
        assert_eq!(client.run("XGROUP DESTROY q h"), int(1));
        let id = next(&mut client, "g").id;
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
        let for_both = client.ids_in("q").join(" ");
        assert_eq!(client.run(format!("XDEL q {for_both}")), int(1));
        let id = client.publish("q", "p");
        assert_eq!(client.lease("g", "c", "q"), id);
        assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
        assert!(!client.only_task_in("q").fields.contains("group="), "{come}");
    }
}

#[test]
fn a_group_of_any_name_gets_its_copies_back() {
    let server = Server::start();
    let mut client = server.client();
    let groups: [&[u8]; 9] =
        [b"-", b"%", b"%2D", b"a b", b"\0", b"\r\n", b"\xff", "Ā".as_bytes(), b"g:1/2+3"];
    for group in groups {
        assert_eq!(client.run("FLUSHALL"), ok());
        let consume = |client: &mut Client| {
            let reply = client.cmd(&args!["TASK.CONSUME", group, "c", "q", "META"]);
            reply.items().first().map(|task| {
                let id = task.items()[0].as_str().to_owned();
                (id, task.items()[1].field("group").cloned())
            })
        };
        assert_eq!(client.run("TASK.CONSUME other c q"), nil_array());
        assert_eq!(consume(&mut client), None);
        client.publish("q", "p");
        let (id, named) = consume(&mut client).expect("a task");
        assert_eq!(named, None);
        let nack = args!["TASK.NACK", "q", group, "c", "FAIL", id, "DELAY", 1];
        assert_eq!(client.cmd(&nack), int(1));
        let (id, named) = eventually(SOON, "the copy comes", || consume(&mut client));
        assert_eq!(named, Some(bulk(group)), "{}", group.escape_ascii());
        assert_eq!(client.cmd(&args!["TASK.ACK", "q", group, id]), int(1));
        assert_eq!(fields(&mut client, "other").len(), 1, "the published task");
    }
}

#[test]
fn a_task_is_dead_lettered_for_one_group_only() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
    assert_eq!(client.run("TASK.POLICY q LEASE 20 TRIES 2"), ok());
    eventually(SOON, "it is a dead letter", || {
        client.consume("g", "c", "q", 1);
        client.run(format!("XLEN {DEAD}")) == int(1)
    });
    assert_eq!(client.run("TASK.POLICY q LEASE 0"), ok());
    let dead = client.only_task_in(DEAD).fields;
    let copy = format!("payload=p timestamp=now retry_count=2 original_id={id} group=g");
    assert_eq!(dead, format!("{copy} reason=lease expired deliveries=2"));
    assert!(!client.ids_in("q").contains(&id), "both groups are past the entry");
    let other = client.publish("q", "other");
    assert_eq!(next(&mut client, "h").id, other);
    // Redriven, it is for the same group.
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    assert_eq!(client.consume("h", "c", "q", 9), []);
    let redriven: Vec<_> = fields(&mut client, "g");
    let copy = format!("payload=p timestamp=now retry_count=0 original_id={id} group=g");
    assert!(redriven.contains(&copy), "{redriven:?}");
}

#[test]
fn a_copy_for_a_destroyed_group_goes_to_the_others() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for back in ["SILENT ID", "FAIL ID DELAY 0", "FAIL ID DELAY 1", "FATAL ID"] {
            let id = leased_by_two(&mut client, priority);
            let nack = format!("TASK.NACK q g c {}", back.replace("ID", &id));
            assert!(client.run(&nack).as_int() > 0, "{nack}");
            assert_eq!(client.run("XGROUP DESTROY q g"), int(1));
            if back.starts_with("FATAL") {
                assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
            }
            let what = format!("{nack}: the other group gets it");
            let copy = eventually(SOON, &what, || client.consume("h", "c", "q", 9).pop());
            assert!(copy.fields.contains(&format!("original_id={id}")), "{nack}: {copy:?}");
            assert_eq!(client.run(format!("TASK.ACK q h {} {id}", copy.id)), int(2));
        }
    }
}

#[test]
fn an_entry_that_another_group_has_leased_is_never_deleted() {
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    // The queue's own stream loses one group or is made anew.
    for lose in ["DEL q", "XGROUP DESTROY q h"] {
        for end in ["TASK.ACK q h ID", "TASK.NACK q h c SILENT ID"] {
            let id = leased_by_two(&mut client, 3);
            client.publish_with("q", "next", "PRIORITY 3");
            assert_eq!(client.run(lose), int(1));
            assert_eq!(next(&mut client, "g").fields.split(' ').next(), Some("payload=next"));
            assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
            assert_eq!(client.leased_ids(key, "h"), [&*id], "{lose}");
            assert!(client.ids_in(key).contains(&id), "{lose}: it was deleted");
            assert_eq!(client.run(end.replace("ID", &id)), int(1), "{lose}: {end}");
            assert!(!client.ids_in(key).contains(&id), "{lose}: no group has it leased");
        }
    }
    // A group that a plain client uses, for this priority only.
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
    let id = client.publish_with("q", "p", "PRIORITY 3");
    assert_eq!(client.run(format!("XGROUP CREATE {key} plain 0")), ok());
    let read = client.run(format!("XREADGROUP GROUP plain p STREAMS {key} >"));
    assert_eq!(read.task_ids(), [&*id]);
    assert_eq!(next(&mut client, "g").id, id);
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.ids_in(key), [&*id]);
    assert_eq!(client.run(format!("TASK.ACK q plain {id}")), int(1));
    assert_eq!(client.ids_in(key), [""; 0]);
}

#[test]
fn a_group_is_created_in_the_queue_even_if_it_only_gets_a_priority() {
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    for lose in ["DEL q", "XGROUP DESTROY q h"] {
        leased_by_two(&mut client, 3);
        let id = client.publish_with("q", "p", "PRIORITY 3");
        client.publish_with("q", "p", "PRIORITY 3");
        assert_eq!(client.run(lose), int(1));
        for group in ["g", "h"] {
            // The batch is full, so no other stream is read.
            assert_eq!(client.lease(group, "c", "q"), id);
        }
        let groups = client.run("XINFO GROUPS q");
        let mut names: Vec<_> = groups.items().iter().map(|g| g.get("name").as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["g", "h"], "{lose}");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
        assert!(client.ids_in(key).contains(&id), "{lose}: h has it");
        assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
        assert!(!client.ids_in(key).contains(&id), "{lose}");
    }
}

/// Dead-letters a task for the group `g`, one of two, and returns its id.
#[track_caller]
fn dead_for_one(client: &mut Client, priority: i64) -> String {
    let id = leased_by_two(client, priority);
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
    assert!(client.only_task_in(DEAD).fields.contains(" group=g "));
    id
}

#[test]
fn a_dead_letter_of_an_absent_group_goes_to_all_groups() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for first in ["XGROUP CREATE other x 0 MKSTREAM", "XADD other * x y", "PING"] {
            let id = dead_for_one(&mut client, priority);
            client.run(first);
            assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} other")), int(1));
            let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
            let mut last = String::new();
            for group in ["x", "y"] {
                let got = client.consume(group, "c", "other", 9);
                let found: Vec<_> = got.iter().filter(|task| task.fields == copy).collect();
                assert_eq!(found.len(), 1, "{first}: {group} gets {got:?}");
                last.clone_from(&found[0].id);
            }
            for group in ["x", "y"] {
                assert_eq!(client.run(format!("TASK.ACK other {group} {last}")), int(1));
            }
            assert!(!client.ids_in(&priority_stream("other", priority)).contains(&last));
        }
        // If the group is there, only that group gets it.
        let id = dead_for_one(&mut client, priority);
        for group in ["g", "x"] {
            assert_eq!(client.run(format!("XGROUP CREATE other {group} 0 MKSTREAM")), ok());
        }
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} other")), int(1));
        assert_eq!(client.consume("x", "c", "other", 9), []);
        let copy = format!("payload=p timestamp=now retry_count=0 original_id={id} group=g");
        assert_eq!(client.consume_only("g", "c", "other").fields, copy);
    }
}

#[test]
fn a_dead_letter_of_a_replaced_group_goes_to_the_present_groups() {
    let server = Server::start();
    let mut client = server.client();
    for (priority, replace) in [(0, ""), (0, "XGROUP CREATE q new $"), (3, "")] {
        let id = dead_for_one(&mut client, priority);
        assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
        assert_eq!(client.run("XGROUP DESTROY q g"), int(1));
        if !replace.is_empty() {
            assert_eq!(client.run(replace), ok());
        }
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
        assert_eq!(fields(&mut client, "h"), [copy.as_str()], "{replace}");
        if !replace.is_empty() {
            assert_eq!(fields(&mut client, "new"), [copy], "{replace}");
        }
    }
}
