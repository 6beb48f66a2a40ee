//! Finishing tasks: TASK.ACK, TASK.EXTEND and TASK.CANCEL; when an entry is deleted; and groups
//! that come and go while the module remembers how many there are.

mod support;
use support::consumers::*;
use support::*;

const NO_GROUP: &str = "NOGROUP No such consumer group for this stream";

/// The most that a busy machine takes between two looks at the clock, in ms.
const SLACK: i64 = 60_000;

// ---------------------------------------------------------------------------------------------
// TASK.ACK
// ---------------------------------------------------------------------------------------------

#[test]
fn ack_of_a_task_that_is_not_leased_returns_0_and_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    add_entries(&mut client, "q", &["1-3"]);
    assert_eq!(client.run("TASK.ACK q g 1-1"), int(1));
    for call in [
        "TASK.ACK q g 1-1",         // a second time
        "TASK.ACK q g 1-3",         // not yet delivered
        "TASK.ACK q g 1-1 1-3 9-9", // none of these
        "TASK.ACK q g 0-0",
        "TASK.ACK q unknown 1-2",
        "TASK.ACK missing g 1-2",
    ] {
        changes_nothing(&mut client, call, int(0));
    }
    assert_eq!(client.ids_in("q"), ["1-2", "1-3"]);
    assert_eq!(client.run("TASK.CONSUME g c q").task_ids(), ["1-3"]);
}

#[test]
fn an_id_given_twice_counts_once() {
    let server = Server::start();
    let mut client = server.client();
    for groups in [&["g"][..], &["g", "h"]] {
        lease_to(&mut client, groups, &["1-1", "1-2"]);
        assert_eq!(client.run("TASK.ACK q g 1-1 1-1 1-1"), int(1));
        assert_eq!(client.leased_ids("q", "g"), ["1-2"]);
    }
    assert_eq!(client.ids_in("q"), ["1-1", "1-2"], "the other group has it");
    assert_eq!(client.run("TASK.ACK q h 1-1 1-1"), int(1));
    assert_eq!(client.ids_in("q"), ["1-2"]);
}

#[test]
fn ack_deletes_only_the_finished_ones_of_several_ids() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    add_entries(&mut client, "q", &["1-3"]);
    // Leased, not delivered, unknown.
    assert_eq!(client.run("TASK.ACK q g 1-1 1-3 9-9 0-1"), int(1));
    assert_eq!(client.ids_in("q"), ["1-2", "1-3"]);
    assert_eq!(client.run("TASK.CONSUME g c q 10").task_ids(), ["1-3"]);

    lease_to(&mut client, &["g", "h"], &["1-1", "1-2", "1-3"]);
    assert_eq!(client.run("TASK.ACK q h 1-1"), int(1));
    add_entries(&mut client, "q", &["1-4"]);
    // Finished by the other group, pending in both, unknown, not delivered.
    assert_eq!(client.run("TASK.ACK q g 1-1 1-2 9-9 1-4"), int(2));
    assert_eq!(client.ids_in("q"), ["1-2", "1-3", "1-4"]);
    assert_eq!(client.leased_ids("q", "h"), ["1-2", "1-3"]);
}

#[test]
fn an_entry_is_deleted_when_the_last_of_several_groups_is_past_it() {
    let server = Server::start();
    let mut client = server.client();
    for order in [
        ["f", "g", "h"],
        ["f", "h", "g"],
        ["g", "f", "h"],
        ["g", "h", "f"],
        ["h", "f", "g"],
        ["h", "g", "f"],
    ] {
        lease_to(&mut client, &["f", "g", "h"], &["1-1", "1-2"]);
        for group in order {
            assert_eq!(client.ids_in("q"), ["1-1", "1-2"]);
            assert_eq!(client.run(format!("TASK.ACK q {group} 1-1")), int(1));
        }
        assert_eq!(client.ids_in("q"), ["1-2"], "{order:?}");
        for group in order {
            assert_eq!(client.leased_ids("q", group), ["1-2"]);
        }
    }
}

#[test]
fn an_entry_stays_for_a_group_that_has_not_read_it() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    assert_eq!(client.run("XGROUP CREATE q late 0"), ok());
    assert_eq!(client.run("TASK.ACK q g 1-1 1-2"), int(2));
    assert_eq!(client.run("TASK.CONSUME late c q").task_ids(), ["1-1"]);
    assert_eq!(client.run("TASK.ACK q late 1-1"), int(1));
    assert_eq!(client.ids_in("q"), ["1-2"]);
    // A group that begins behind the entry is past it.
    assert_eq!(client.run("XGROUP CREATE q later $"), ok());
    assert_eq!(client.run("TASK.CONSUME late c q").task_ids(), ["1-2"]);
    assert_eq!(client.run("TASK.ACK q late 1-2"), int(1));
    assert_eq!(client.ids_in("q"), [""; 0]);
    assert_eq!(client.run("EXISTS q"), int(1), "the queue keeps its groups");
}

#[test]
fn ack_takes_ids_of_all_priorities_in_one_call() {
    let server = Server::start();
    let mut client = server.client();
    let options = ["", "PRIORITY 1", "PRIORITY 5", "PRIORITY 9"];
    let ids: Vec<_> =
        options.iter().flat_map(|o| [o, o]).map(|o| client.publish_with("q", "p", o)).collect();
    let ready = client.publish_with("q", "ready", "PRIORITY 1");
    let delayed = client.publish_with("q", "delayed", "DELAY 600000");
    assert_eq!(client.consume("g", "c", "q", 4).len(), 4);
    let all = ids.join(" ");
    // The leased tasks of priority 9 and 5, once.
    assert_eq!(client.run(format!("TASK.ACK q g {all} {ready} {delayed} {all}")), int(4));
    changes_nothing(&mut client, &format!("TASK.ACK q g {all} {delayed}"), int(0));
    assert_eq!(client.consume("g", "c", "q", 4).len(), 4);
    assert_eq!(client.run(format!("TASK.ACK q g {delayed} {} {} 9-9", ids[0], ids[2])), int(2));
    assert_eq!(client.ids_in("q"), [ids[1].as_str()]);
    assert_eq!(client.leased_ids("priority1:{q}", "g"), [&*ids[3], &*ready]);
    assert_eq!(client.run("ZCARD delayed:{q}"), int(1));
    assert_eq!(client.task_total("acked"), 6);
    // Missing groups and streams.
    changes_nothing(&mut client, &format!("TASK.ACK q nobody {all}"), int(0));
    changes_nothing(&mut client, &format!("TASK.ACK missing g {all}"), int(0));
}

#[test]
fn a_short_id_names_exactly_one_entry() {
    let server = Server::start();
    let mut client = server.client();
    for short in ["5", "05", "5-00", "0005-0"] {
        for (call, reply) in [
            ("TASK.EXTEND q g c ID", 1),
            ("TASK.NACK q g c SILENT ID", 1),
            ("TASK.NACK q g c FAIL ID DELAY 600000", 1),
            ("TASK.NACK q g c FATAL ID", 2),
            ("TASK.ACK q g ID", 1),
        ] {
            assert_eq!(client.run("FLUSHALL"), ok());
            for id in ["5-0", "5-1"] {
                client.run(format!("XADD q {id} payload p"));
            }
            assert_eq!(client.consume("g", "c", "q", 9).len(), 2);
            assert_eq!(client.run(call.replace("ID", short)), int(reply), "{call} {short}");
            let is_left = call.contains("EXTEND");
            let left = client.leased_ids("q", "g");
            assert_eq!(left, if is_left { vec!["5-0", "5-1"] } else { vec!["5-1"] }, "{call}");
            let copies = client.run("XRANGE dead:{q} - +");
            for copy in copies.items() {
                assert_eq!(copy.items()[1].get("original_id"), &bulk("5-0"));
            }
            for (member, _) in client.scores("delayed:{q}") {
                assert!(member.contains(":5-0 "), "{member}");
            }
        }
        assert_eq!(client.run("XADD ready 5-1 payload p"), bulk("5-1"));
        changes_nothing(&mut client, &format!("TASK.CANCEL ready {short}"), int(0));
        client.run("DEL ready");
    } // With several groups.
    lease_to(&mut client, &["g", "h"], &["5-0", "5-1"]);
    for group in ["g", "h"] {
        assert_eq!(client.run(format!("TASK.ACK q {group} 5")), int(1));
        assert_eq!(client.leased_ids("q", group), ["5-1"]);
    }
    assert_eq!(client.ids_in("q"), ["5-1"]);
}

// ---------------------------------------------------------------------------------------------
// How many groups there are
// ---------------------------------------------------------------------------------------------

/// How `q` can become another stream: `other`, or the stream of the same name in database 1. A
/// semicolon separates commands; `DUMP` stands for the reply of `DUMP other`.
const WAYS_TO_BECOME_OTHER: [(&str, &str); 7] = [
    ("renamed", "RENAME other q"),
    ("copied", "COPY other q REPLACE"),
    ("restored", "RESTORE q 0 DUMP REPLACE"),
    ("moved from a database", "DEL q;SELECT 1;MOVE q 0;SELECT 0"),
    ("copied from a database", "SELECT 1;COPY q q DB 0 REPLACE;SELECT 0"),
    ("swapped", "SWAPDB 0 1"),
    ("flushed", "SELECT 1;COPY q spare;SELECT 0;FLUSHDB;SELECT 1;COPY spare q DB 0;SELECT 0"),
];

/// Makes the module learn that `q` has the one group `g`, then runs `lines`. The other streams of
/// [`WAYS_TO_BECOME_OTHER`] have the groups `others`.
#[track_caller]
fn after_one_group_was_known(client: &mut Client, others: &[&str], lines: &str) {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("SELECT 1"), ok());
    for group in others {
        assert_eq!(client.run(format!("XGROUP CREATE q {group} 0 MKSTREAM")), ok());
    }
    assert_eq!(client.run("COPY q other DB 0"), int(i64::from(!others.is_empty())));
    assert_eq!(client.run("SELECT 0"), ok());
    let dump = client.run("DUMP other");
    for _ in 0..2 {
        let id = publish_to(client, "g");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    }
    assert_eq!(client.run("XLEN q"), int(0), "with one group ACK deletes");
    for line in lines.split(';') {
        let words = line.split(' ').map(|word| match word {
            "DUMP" => dump.bytes(),
            "SCRIPT" => b"return redis.call('XGROUP', 'CREATE', 'q', 'h', '0')",
            word => word.as_bytes(),
        });
        let reply = client.cmd(&words.collect::<Vec<_>>());
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }
}

/// Publishes a task and leases it to a group that has no other.
#[track_caller]
fn publish_to(client: &mut Client, group: &str) -> String {
    let id = client.publish("q", "p");
    assert_eq!(client.lease(group, "c", "q"), id);
    id
}

#[test]
fn a_second_group_is_noticed_however_it_appears() {
    let server = Server::start();
    let mut client = server.client();
    let created = [
        ("created", "XGROUP CREATE q h 0"),
        ("created by a consumer", "TASK.CONSUME h c q"),
        ("created by a script", "EVAL SCRIPT 0"),
        ("created in a transaction", "MULTI;XGROUP CREATE q h 0;EXEC"),
        ("made anew", "DEL q;XGROUP CREATE q g 0 MKSTREAM;XGROUP CREATE q h 0"),
    ];
    for (way, lines) in created.into_iter().chain(WAYS_TO_BECOME_OTHER) {
        after_one_group_was_known(&mut client, &["g", "h"], lines);
        let id = publish_to(&mut client, "g");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
        assert_eq!(client.ids_in("q"), [id.as_str()], "{way}: h has not read it");
        assert_eq!(client.run("TASK.CONSUME h c q").task_ids(), [id.as_str()], "{way}");
        assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
        assert_eq!(client.run("XLEN q"), int(0), "{way}");

        after_one_group_was_known(&mut client, &["g", "h"], lines);
        let id = publish_to(&mut client, "g");
        assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 retries dead 3")), ok());
        assert_eq!(client.leased_ids("q", "g"), [id.as_str()], "{way}: none was named");
    }
}

#[test]
fn a_replaced_group_is_noticed_however_it_appears() {
    let server = Server::start();
    let mut client = server.client();
    let replaced = [
        ("created and destroyed", "XGROUP CREATE q h 0;XGROUP DESTROY q g"),
        ("destroyed and created", "XGROUP DESTROY q g;XGROUP CREATE q h 0"),
        ("made anew", "DEL q;XGROUP CREATE q h 0 MKSTREAM"),
    ];
    for (way, lines) in replaced.into_iter().chain(WAYS_TO_BECOME_OTHER) {
        after_one_group_was_known(&mut client, &["h"], lines);
        let id = publish_to(&mut client, "h");
        assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 retries dead 3")), ok());
        assert_eq!(client.leased_ids("q", "h"), [""; 0], "{way}");
        assert_eq!(client.run("XLEN q"), int(0), "{way}");
    }
}

#[test]
fn a_group_is_forgotten_when_it_is_gone() {
    let server = Server::start();
    let mut client = server.client();
    for (gone, lines) in [
        ("destroyed", "XGROUP DESTROY q g"),
        ("made anew", "DEL q;XADD q 1-1 payload p"),
        ("made anew without a trace", "FLUSHDB;XADD q 1-1 payload p"),
    ] {
        after_one_group_was_known(&mut client, &[], lines);
        for count in [0, 3] {
            let call = format!("TASK.RETRY q 1-1 p {count} retries dead 3 g");
            changes_nothing(&mut client, &call, error(NO_GROUP));
        }
        changes_nothing(&mut client, "TASK.ACK q g 1-1", int(0));
        assert_eq!(client.run("XINFO GROUPS q"), array([""; 0]), "{gone}");
    }
}

#[test]
fn a_destroyed_group_keeps_no_entries() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1", "1-2"]);
    assert_eq!(client.run("TASK.ACK q g 1-1"), int(1));
    assert_eq!(client.ids_in("q"), ["1-1", "1-2"]);
    assert_eq!(client.run("XGROUP DESTROY q h"), int(1));
    assert_eq!(client.run("TASK.ACK q g 1-2"), int(1));
    assert_eq!(client.ids_in("q"), ["1-1"]);
}

// ---------------------------------------------------------------------------------------------
// TASK.EXTEND and TASK.CANCEL
// ---------------------------------------------------------------------------------------------

#[test]
fn extend_restarts_the_lease_and_is_not_a_delivery() {
    let server = Server::start();
    let mut client = server.client();
    for (options, key) in [("", "q"), ("PRIORITY 5", "priority5:{q}")] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("q", "p", options);
        assert_eq!(client.lease("g", "c", "q"), id);
        // Make the lease 100 s old.
        let old = format!("XCLAIM {key} g c 0 {id} IDLE 100000 JUSTID");
        assert_eq!(client.run(&old).items().len(), 1);
        assert!(client.leases(key, "g")[0].idle >= 100_000);
        assert_eq!(client.run(format!("TASK.EXTEND q g c {id}")), int(1));
        let lease = client.leases(key, "g").remove(0);
        assert!(lease.idle < SLACK, "{lease:?}");
        assert_eq!((&*lease.consumer, lease.deliveries), ("c", 1));
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    }
}

#[test]
fn extend_and_nack_of_a_task_not_leased_to_the_consumer_return_0() {
    let server = Server::start();
    let mut client = server.client();
    for options in ["", "PRIORITY 5"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let [done, leased, ready] = [(); 3].map(|()| client.publish_with("q", "p", options));
        let delayed = client.publish_with("q", "p", "DELAY 600000");
        for id in [&done, &leased] {
            assert_eq!(client.lease("g", "c", "q"), *id);
        }
        assert_eq!(client.run(format!("TASK.ACK q g {done}")), int(1));
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
                let line = format!("{call} q {group} {consumer} {mode}{id}");
                changes_nothing(&mut client, &line, int(0));
            }
        }
        changes_nothing(&mut client, &format!("TASK.EXTEND missing g c {leased}"), int(0));
        changes_nothing(&mut client, &format!("TASK.NACK missing g c FATAL {leased}"), int(0));
    }
}

#[test]
fn cancel_removes_tasks_that_are_not_leased() {
    let server = Server::start();
    let mut client = server.client();
    let leased = client.publish_with("q", "leased", "PRIORITY 9");
    assert_eq!(client.lease("g", "c", "q"), leased);
    let low = client.publish("q", "low");
    let high = client.publish_with("q", "high", "PRIORITY 3");
    let stays = client.publish("q", "stays");
    let delayed = client.publish_with("q", "delayed", "DELAY 600000");
    let urgent = client.publish_with("q", "urgent", "DELAY 600000 PRIORITY 3");
    let all = format!("{leased} {low} {high} {delayed} 9-9 {low}");
    assert_eq!(client.run(format!("TASK.CANCEL q {all}")), int(3));
    changes_nothing(&mut client, &format!("TASK.CANCEL q {all}"), int(0));
    assert_eq!(client.run(format!("TASK.CANCEL q {urgent}")), int(1));
    assert_eq!(client.run("EXISTS delayed:{q}"), int(0));
    assert_eq!(client.ids_in("q"), [stays.as_str()]);
    assert_eq!(client.task_total("cancelled"), 4);
    assert_eq!(client.lease("g", "c", "q"), stays, "canceled q are not delivered");
    changes_nothing(&mut client, &format!("TASK.CANCEL missing {all}"), int(0));

    // A task that one of several groups has leased is not canceled.
    assert_eq!(client.run("FLUSHALL"), ok());
    let id = client.publish("q", "p");
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run("XGROUP CREATE q h 0"), ok());
    changes_nothing(&mut client, &format!("TASK.CANCEL q {id}"), int(0));
    assert_eq!(client.lease("h", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    changes_nothing(&mut client, &format!("TASK.CANCEL q {id}"), int(0));
    assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
    // A stream without groups.
    client.run("XADD plain 1-1 payload p");
    assert_eq!(client.run("TASK.CANCEL plain 1-1 1-2"), int(1));
}
