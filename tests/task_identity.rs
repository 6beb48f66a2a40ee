//! One id for the life of a task: the id that PUBLISH replied names it in CANCEL, RESCHEDULE, STATE
//! and REDRIVE … ID, whatever copies were made. ACK, NACK and EXTEND take the delivered id alone.
//! `taskmoved:{q}` has a field for a live task that has moved, and nothing else.

mod support;
use support::consumers::{DEAD, DELAYED, stream};
use support::*;

const MOVED: &str = "taskmoved:{q}";
const FAR: &str = "600000";

/// The fields of the hash, in order.
#[track_caller]
fn moved(client: &mut Client) -> Vec<(String, String)> {
    let all = client.run(format!("HGETALL {MOVED}"));
    let text = |value: &Value| value.as_str().to_owned();
    let pairs = all.items().chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1])));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

/// Checks that the hash names exactly this task.
#[track_caller]
fn moved_to(client: &mut Client, original: &str, present: &str) {
    assert_eq!(moved(client), [(original.to_owned(), present.to_owned())]);
}

/// Checks that nothing follows a task.
#[track_caller]
fn nothing_moved(client: &mut Client) {
    assert_eq!(client.run(format!("EXISTS {MOVED}")), int(0), "{:?}", moved(client));
}

/// What TASK.STATE tells of one field; nil if the task is not there.
#[track_caller]
fn state(client: &mut Client, id: &str, field: &str) -> Value {
    let state = client.run(format!("TASK.STATE q {id}"));
    if state.is_nil() { state } else { state.get(field).clone() }
}

/// The id of the only delayed task.
#[track_caller]
fn delayed_id(client: &mut Client) -> String {
    let [(member, _)] = &client.scores(DELAYED)[..] else { panic!("not one") };
    member.split([' ', ':']).next().expect("an id").to_owned()
}

/// A task that has moved once, in one of many ways: its original id, its present id.
#[track_caller]
fn a_moved_task(client: &mut Client, way: &str) -> (String, String) {
    assert_eq!(client.run("FLUSHALL"), ok());
    let publish = |client: &mut Client, options: &str| client.publish_with("q", "p", options);
    let leased = |client: &mut Client, options: &str| {
        let id = publish(client, options);
        assert_eq!(client.lease("g", "c", "q"), id);
        id
    };
    match way {
        "promoted" => {
            let id = publish(client, "DELAY 1");
            client.wait_past(id_ms(&id));
            let copy = client.lease("g", "c", "q");
            (id, copy)
        }
        "given back" => {
            let id = leased(client, "");
            assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
            (id, client.only_task_in("q").id)
        }
        "given back, with a priority" => {
            let id = leased(client, "PRIORITY 7");
            assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
            (id, client.only_task_in(&stream(7)).id)
        }
        "backing off" => {
            let id = leased(client, "PRIORITY 2");
            assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id} DELAY {FAR}")), int(1));
            (id, delayed_id(client))
        }
        "retried" => {
            let id = leased(client, "");
            assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 q {DEAD} 3")), ok());
            (id, client.only_task_in("q").id)
        }
        "redriven" => {
            let id = leased(client, "");
            assert_eq!(client.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
            nothing_moved(client);
            assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
            (id, client.only_task_in("q").id)
        }
        "rescheduled" => {
            let id = publish(client, "");
            let call = format!("TASK.RESCHEDULE q {id} DELAY {FAR}");
            assert_eq!(client.run(call), int(1));
            (id, delayed_id(client))
        }
        _ => {
            assert_eq!(way, "misplaced");
            assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
            client.run("XADD priority3:{q} 5-5 payload p");
            let copy = client.consume_only("g", "c", "q").id;
            ("5-5".into(), copy)
        }
    }
}

const WAYS: [&str; 8] = [
    "promoted",
    "given back",
    "given back, with a priority",
    "backing off",
    "retried",
    "redriven",
    "rescheduled",
    "misplaced",
];

#[test]
fn a_task_keeps_its_first_id_through_every_move() {
    let server = Server::start();
    let mut client = server.client();
    for way in WAYS {
        let (original, present) = a_moved_task(&mut client, way);
        assert_ne!(original, present, "{way}");
        moved_to(&mut client, &original, &present);
        for id in [&original, &present] {
            assert_eq!(state(&mut client, id, "id"), bulk(&present), "{way}");
        }
        let leased = ["promoted", "misplaced"].contains(&way);
        let cancel = format!("TASK.CANCEL q {original}");
        assert_eq!(client.run(&cancel), int((!leased).into()), "{way}");
        assert_eq!(client.run(format!("{cancel} FORCE")), int(leased.into()), "{way}");
        nothing_moved(&mut client);
        assert_eq!(state(&mut client, &original, "id"), nil_array(), "{way}");
    }
}

#[test]
fn the_way_out_forgets_the_first_id() {
    let server = Server::start();
    let mut client = server.client();
    for way in WAYS {
        for end in ["ACK", "FATAL", "FORCE", "RETRY", "KEEP", "present"] {
            let (original, present) = a_moved_task(&mut client, way);
            let is_delayed = client.run(format!("EXISTS {DELAYED}")) == int(1);
            if end == "present" {
                assert_eq!(client.run(format!("TASK.CANCEL q {present} FORCE")), int(1));
                nothing_moved(&mut client);
                continue;
            }
            let mut id = present;
            if is_delayed {
                assert_eq!(client.run(format!("TASK.RESCHEDULE q {original} DELAY 0")), int(1));
            }
            if !["promoted", "misplaced"].contains(&way) {
                id = client.lease("g", "c", "q");
            }
            moved_to(&mut client, &original, &id);
            let (call, reply) = match end {
                "FATAL" => (format!("TASK.NACK q g c FATAL {id}"), int(2)),
                "FORCE" => (format!("TASK.CANCEL q {original} FORCE"), int(1)),
                "RETRY" => (format!("TASK.RETRY q {id} p 0 elsewhere {DEAD} 3"), ok()),
                _ => (format!("TASK.ACK q g {id}"), int(1)),
            };
            if end == "KEEP" {
                assert_eq!(client.run("TASK.POLICY q KEEP 1"), ok());
            }
            assert_eq!(client.run(&call), reply, "{way}: {call}");
            nothing_moved(&mut client);
            assert_eq!(client.run("EXISTS taskmoved:{elsewhere}"), int(0));
            for id in [&original, &id] {
                assert_eq!(state(&mut client, id, "state"), nil_array(), "{way}: {call}");
                assert_eq!(client.run(format!("TASK.CANCEL q {id} FORCE")), int(0));
            }
        }
    }
}

#[test]
fn a_task_that_never_moves_has_no_field() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("q", "ready");
    let id = client.lease("g", "c", "q");
    client.publish_with("q", "delayed", "DELAY 600000 PRIORITY 3");
    client.publish_with("q", "once", "UNIQUE u 600000");
    let (lines, end) = (["TASK.EXTEND q g c ID", "TASK.NACK q g c FATAL ID"], "EXISTS q");
    for line in lines {
        client.run(line.replace("ID", &id));
        nothing_moved(&mut client);
    }
    assert_eq!(client.run(end), int(1));
}

/// The id that was delivered is the only one that its worker can use: another worker has the copy.
#[test]
fn an_id_of_an_earlier_delivery_is_void_for_ever() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 4] {
        for keep in [0, 1] {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run(format!("TASK.POLICY q KEEP {keep}")), ok());
            let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
            assert_eq!(client.lease("g", "a", "q"), id);
            assert_eq!(client.run(format!("TASK.NACK q g a FAIL {id} DELAY 0")), int(1));
            let copy = client.lease("g", "b", "q");
            for late in [
                format!("TASK.ACK q g {id}"),
                format!("TASK.EXTEND q g a {id}"),
                format!("TASK.EXTEND q g b {id}"),
                format!("TASK.NACK q g a FAIL {id}"),
                format!("TASK.NACK q g b FATAL {id}"),
            ] {
                changes_nothing(&mut client, &late, int(0));
            }
            assert_eq!(client.leased_ids(&stream(priority), "g"), [copy.as_str()]);
            // With the live id in the same call, too.
            assert_eq!(client.run(format!("TASK.ACK q g {id} {copy}")), int(1));
            nothing_moved(&mut client);
            assert_eq!(state(&mut client, &id, "state"), nil_array());
        }
    }
}

/// Other clients may choose any id. What is present under an id is meant, not what once had it.
#[test]
fn a_present_id_comes_before_one_that_has_moved() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish_with("q", "first", &format!("DELAY {FAR}"));
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {id} DELAY 0")), int(1));
    let copy = client.lease("g", "c", "q");
    // A plain client adds another task under the same id.
    assert_eq!(client.run(format!("XADD q {id} payload second")), bulk(&id));
    assert_eq!(state(&mut client, &id, "state"), bulk("ready"));
    assert_eq!(client.run(format!("TASK.CANCEL q {id} FORCE")), int(1));
    assert_eq!(client.ids_in("q"), [copy.as_str()]);
    assert_eq!(state(&mut client, &id, "id"), bulk(&copy));
    // When the other one moves, the first keeps its field.
    let second = format!("{}-{}", id_ms(&id), 1_900_000_000_000_000_000_u64);
    client.run(format!("XADD q {second} payload third"));
    client.run(format!("HSET {MOVED} {second} {copy}"));
    assert_eq!(client.lease("g", "d", "q"), second);
    assert_eq!(client.run(format!("TASK.NACK q g d SILENT {second}")), int(1));
    assert_eq!(client.run(format!("HGET {MOVED} {second}")), bulk(&copy));
}

/// Two queues use the same ids. A copy from another queue is not known here by its original id.
#[test]
fn a_queue_knows_only_the_tasks_that_were_born_in_it() {
    let server = Server::start();
    let mut client = server.client();
    client.run("XADD other 5-1 payload p");
    assert_eq!(client.lease("g", "c", "other"), "5-1");
    assert_eq!(client.run("TASK.RETRY other 5-1 p 0 q dead 3"), ok());
    for round in 0..3 {
        let id = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1), "{round}");
        nothing_moved(&mut client);
        assert_eq!(state(&mut client, "5-1", "state"), nil_array());
        changes_nothing(&mut client, "TASK.CANCEL q 5-1 FORCE", int(0));
    }
}

#[test]
fn what_other_clients_end_is_forgotten_by_the_sweep() {
    let server = Server::start();
    let mut client = server.client();
    for (way, end) in [
        ("given back", "XDEL q ID"),
        ("given back", "XTRIM q MAXLEN 0"),
        ("promoted", "XACK q g ID"),
        ("promoted", "XDEL q ID"),
        ("backing off", "ZREMRANGEBYRANK delayed:{q} 0 -1"),
        ("backing off", "DEL delayed:{q}"),
        ("rescheduled", "DEL delayed:{q}"),
        ("promoted", "HSET taskmoved:{q} no-id 7"),
        ("promoted", "HSET taskmoved:{q} 7-7 no"),
    ] {
        let (original, present) = a_moved_task(&mut client, way);
        assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
        client.run(end.replace("ID", &present));
        let stays = end.starts_with("HSET");
        eventually(SOON, end, || {
            assert!(client.consume("g", "c", "q", 9).len() < 2);
            match &moved(&mut client)[..] {
                [] => !stays,
                [(one, _)] => stays && *one == original,
                _ => false,
            }
        });
    }
}

/// A large hash is walked through in pages.
#[test]
fn the_sweep_forgets_many_tasks_and_keeps_those_that_live() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
    let call: Vec<String> = (0..2_000).map(|n| format!("HSET {MOVED} {n}-1 {n}-2")).collect();
    client.pipeline(&call);
    let live = client.publish_with("q", "p", &format!("DELAY {FAR}"));
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {live} DELAY 700000")), int(1));
    let present = delayed_id(&mut client);
    // A waiting consumer is enough: the timer does it.
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0");
    eventually(SOON, "only the live task is known", || {
        client.run(format!("HLEN {MOVED}")) == int(1)
    });
    moved_to(&mut client, &live, &present);
}

#[test]
fn with_several_groups_a_task_has_only_its_present_ids() {
    let server = Server::start();
    let mut client = server.client();
    for group in ["g", "h"] {
        assert_eq!(client.run(format!("TASK.CONSUME {group} c q")), nil_array());
    }
    let id = client.publish_with("q", "p", "DELAY 1");
    client.wait_past(id_ms(&id));
    let copy = client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {copy}")), int(1));
    nothing_moved(&mut client);
    changes_nothing(&mut client, &format!("TASK.CANCEL q {id} FORCE"), int(0));
    let several = error("ERR this needs a queue with at most one consumer group");
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {copy} DELAY 5"), several);
    // A second group may come later. Then a field goes when its task moves or ends.
    assert_eq!(client.run("FLUSHALL"), ok());
    let (original, present) = a_moved_task(&mut client, "given back");
    assert_eq!(client.consume("h", "c", "q", 9).len(), 1);
    assert_eq!(client.lease("g", "c", "q"), present);
    moved_to(&mut client, &original, &present);
    assert_eq!(client.run(format!("TASK.ACK q g {present}")), int(1));
    moved_to(&mut client, &original, &present);
    assert_eq!(client.run(format!("TASK.ACK q h {present}")), int(1));
    nothing_moved(&mut client);
}

#[test]
fn cancel_with_force_takes_a_task_from_its_worker() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        for groups in [&["g"][..], &["g", "h"]] {
            assert_eq!(client.run("FLUSHALL"), ok());
            for group in groups {
                assert_eq!(client.run(format!("TASK.CONSUME {group} c q")), nil_array());
            }
            let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
            for group in groups {
                assert_eq!(client.lease(group, "c", "q"), id);
            }
            let cancelled = client.task_total("cancelled");
            changes_nothing(&mut client, &format!("TASK.CANCEL q {id}"), int(0));
            assert_eq!(client.run(format!("TASK.CANCEL q {id} force")), int(1));
            assert_eq!(client.task_total("cancelled"), cancelled + 1);
            // Its worker learns it.
            for group in groups {
                for call in [
                    format!("TASK.EXTEND q {group} c {id}"),
                    format!("TASK.NACK q {group} c FAIL {id}"),
                    format!("TASK.ACK q {group} {id}"),
                    format!("TASK.CANCEL q {id} FORCE"),
                ] {
                    changes_nothing(&mut client, &call, int(0));
                }
                assert_eq!(client.leases(&stream(priority), group), []);
            }
            assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0));
        }
    }
    // One call for tasks of every state.
    assert_eq!(client.run("FLUSHALL"), ok());
    let leased = client.publish("q", "p");
    client.lease("g", "c", "q");
    let ready = client.publish("q", "p");
    let delayed = client.publish_with("q", "p", "DELAY 600000");
    let call = format!("TASK.CANCEL q {leased} {ready} {delayed} {ready} 7-7 FORCE");
    assert_eq!(client.run(call), int(3));
    assert_eq!(client.run(format!("EXISTS {DELAYED} {MOVED}")), int(0));
    assert_eq!(client.run("XLEN q"), int(0));
}

#[test]
fn state_tells_where_a_task_is() {
    let server = Server::start();
    for (mut client, none, missing) in
        [(server.client(), nil(), nil_array()), (server.client3(), null(), null())]
    {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("TASK.POLICY q LEASE 60000 BACKOFF 0 0"), ok());
        let ask = |client: &mut Client, id: &str| client.run(format!("TASK.STATE q {id}"));
        let delayed = client.publish_with("q", "p", "4 DELAY 600000");
        let found = ask(&mut client, &delayed);
        let names = [
            "state",
            "id",
            "due_ms",
            "consumer",
            "lease_left_ms",
            "deliveries",
            "retry_count",
            "ahead",
        ];
        let due = found.get("due_ms").as_int();
        assert!((500_000..=600_000).contains(&due), "{due}");
        let values = [
            bulk("delayed"),
            bulk(&delayed),
            int(due),
            none.clone(),
            none.clone(),
            int(0),
            int(4),
            none.clone(),
        ];
        let pairs = names.into_iter().map(bulk).zip(values);
        let flat = pairs.clone().flat_map(|(name, value)| [name, value]);
        assert!([map(pairs), array(flat)].contains(&found), "{found:?}");
        // Before any group has come, a task is ready.
        let ids: Vec<_> = (0..3).map(|_| client.publish("q", "p")).collect();
        let high = client.publish_with("q", "p", "PRIORITY 5");
        for (id, ahead) in ids.iter().zip([1, 2, 3]).chain([(&high, 0)]) {
            let found = ask(&mut client, id);
            let fields = ["state", "id", "ahead"].map(|name| found.get(name).clone());
            assert_eq!(fields, [bulk("ready"), bulk(id), int(ahead)]);
        }
        assert_eq!(client.consume("g", "worker", "q", 2).len(), 2);
        let found = ask(&mut client, &high);
        assert_eq!(found.get("state"), &bulk("leased"));
        assert_eq!(found.get("consumer"), &bulk("worker"));
        assert_eq!(found.get("deliveries"), &int(1));
        assert_eq!((found.get("ahead"), found.get("due_ms")), (&none, &none));
        let left = found.get("lease_left_ms").as_int();
        assert!((1..=60_000).contains(&left), "{left}");
        assert_eq!(state(&mut client, &ids[0], "state"), bulk("leased"));
        assert_eq!(state(&mut client, &ids[1], "ahead"), int(0));
        assert_eq!(state(&mut client, &ids[2], "ahead"), int(1));
        // A retry.
        assert_eq!(client.run(format!("TASK.NACK q g worker FAIL {high}")), int(1));
        assert_eq!(state(&mut client, &high, "retry_count"), int(1));
        assert_eq!(state(&mut client, &high, "deliveries"), int(0));
        // Done, kept and unknown ones are not there.
        assert_eq!(client.run(format!("TASK.ACK q g {}", ids[0])), int(1));
        assert_eq!(ask(&mut client, &ids[0]), missing);
        assert_eq!(client.run("TASK.POLICY q KEEP 1"), ok());
        let kept = client.lease("g", "worker", "q");
        assert_eq!(client.run(format!("TASK.ACK q g {kept}")), int(1));
        assert_eq!(client.run(format!("XRANGE {} {kept} {kept}", stream(5))).items().len(), 1);
        assert_eq!(ask(&mut client, &kept), missing);
        assert_eq!(ask(&mut client, "7-7"), missing);
        assert_eq!(client.run("TASK.STATE nothing 7-7"), missing);
        // A lease without end.
        assert_eq!(client.run("TASK.POLICY q LEASE 0"), ok());
        let held = client.lease("g", "worker", "q");
        assert_eq!(state(&mut client, &held, "lease_left_ms"), none);
    }
}

#[test]
fn state_counts_no_more_than_ten_thousand_tasks_ahead() {
    let server = Server::start();
    let mut client = server.client();
    let many: Vec<String> = (0..6_000)
        .flat_map(|_| ["TASK.PUBLISH q p".to_owned(), "TASK.PUBLISH q p PRIORITY 3".into()])
        .collect();
    client.pipeline(&many);
    let last = client.publish("q", "p");
    assert_eq!(state(&mut client, &last, "ahead"), int(10_000));
    let high = client.publish_with("q", "p", "PRIORITY 3");
    assert_eq!(state(&mut client, &high, "ahead"), int(6_000));
}

#[test]
fn with_several_groups_state_is_asked_for_one_of_them() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    assert_eq!(client.lease("g", "c", "q"), id);
    client.run("XGROUP CREATE q h 0");
    let several = error("ERR the queue has several consumer groups, so GROUP must name one");
    changes_nothing(&mut client, &format!("TASK.STATE q {id}"), several);
    let of = |client: &mut Client, id: &str, group: &str| {
        let state = client.run(format!("TASK.STATE q {id} GROUP {group}"));
        if state.is_nil() { state } else { state.get("state").clone() }
    };
    assert_eq!(of(&mut client, &id, "g"), bulk("leased"));
    assert_eq!(of(&mut client, &id, "h"), bulk("ready"));
    let none = error("NOGROUP No such consumer group for this stream");
    assert_eq!(client.run(format!("TASK.STATE q {id} GROUP nobody")), none);
    // A copy is for the group that returned the task.
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
    let copy = client.ids_in("q").pop().expect("a copy");
    assert_eq!(of(&mut client, &id, "g"), nil_array());
    assert_eq!(of(&mut client, &copy, "g"), bulk("ready"));
    assert_eq!(of(&mut client, &copy, "h"), nil_array());
    assert_eq!(of(&mut client, &id, "h"), bulk("ready"));
}

#[test]
fn a_waiting_task_is_rescheduled_in_one_step() {
    let server = Server::start();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    let run = |client: &mut Client, line: String| {
        assert_eq!(client.run(&line), int(1), "{line}");
    };
    client.run("TASK.CONSUME g c q");
    // Later, with everything that it carries.
    let id = client.run("XADD q * payload p retry_count 3 tenant acme").as_str().to_owned();
    run(&mut client, format!("TASK.RESCHEDULE q {id} DELAY {FAR} PRIORITY 4"));
    assert_eq!(client.run("XLEN q"), int(0));
    let present = delayed_id(&mut client);
    moved_to(&mut client, &id, &present);
    let due = state(&mut client, &id, "due_ms").as_int();
    assert!((500_000..=600_000).contains(&due), "{due}");
    // To the same time again: nothing changes.
    let at = id_ms(&present);
    tap.effects();
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} AT {at}"), int(1));
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {present} PRIORITY 4"), int(1));
    assert_eq!(tap.effects(), [""; 0]);
    // Sooner.
    let member = client.scores(DELAYED).remove(0).0;
    run(&mut client, format!("TASK.RESCHEDULE q {id} AT {}", at - 1));
    let sooner = client.scores(DELAYED).remove(0).0;
    let new = delayed_id(&mut client);
    let effects = tap.effects();
    let expected = [
        "MULTI".into(),
        format!("ZADD {DELAYED} NX {} {sooner}", at - 1),
        format!("ZREM {DELAYED} {member}"),
        format!("HSET {MOVED} {id} {new}"),
        "EXEC".into(),
    ];
    assert_eq!(effects, expected);
    // Another priority, then now: a waiting consumer gets it in the same step.
    run(&mut client, format!("TASK.RESCHEDULE q {id} PRIORITY 9"));
    assert!(client.scores(DELAYED)[0].0.contains(&format!(":{id} 9 3+ - ")));
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
    run(&mut client, format!("TASK.RESCHEDULE q {id} DELAY 0"));
    let got = waiter.read().delivered().remove(0);
    let fields = format!("payload=p timestamp=now retry_count=3 tenant=acme original_id={id}");
    assert_eq!(got.fields, fields);
    assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
    moved_to(&mut client, &id, &got.id);
    // It is leased now.
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} DELAY 5"), int(0));
    changes_nothing(&mut client, "TASK.RESCHEDULE q 7-7 DELAY 5", int(0));
    assert_eq!(client.run(format!("TASK.ACK q g {}", got.id)), int(1));
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} DELAY 5"), int(0));
    nothing_moved(&mut client);
    // A ready task that is to be due now keeps its place; with another priority it moves.
    let first = client.publish("q", "first");
    client.publish("q", "second");
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {first} DELAY 0"), int(1));
    run(&mut client, format!("TASK.RESCHEDULE q {first} PRIORITY 1"));
    assert_eq!(client.consume_payloads("g", "q", 9), ["first", "second"]);
}

#[test]
fn an_invalid_request_to_reschedule_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    for (options, text) in [
        ("NOW 1", "ERR syntax error"),
        ("DELAY 1 DELAY 1", "ERR syntax error"),
        ("DELAY 1 AT 1", "ERR syntax error"),
        ("DELAY 1 PRIORITY", "ERR syntax error"),
        ("PRIORITY 10", "ERR value is out of range"),
        ("PRIORITY -1", "ERR value is out of range"),
        ("PRIORITY x", "ERR value is not an integer or out of range"),
        ("DELAY -1", "ERR invalid expire time in 'task.reschedule' command"),
        ("AT -1", "ERR invalid expire time in 'task.reschedule' command"),
        ("DELAY 9007199254740992", "ERR invalid expire time in 'task.reschedule' command"),
    ] {
        changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} {options}"), error(text));
    }
    let bad = error("ERR Invalid stream ID specified as stream command argument");
    changes_nothing(&mut client, "TASK.RESCHEDULE q x DELAY 1", bad);
    // A key of another type where the task would go.
    let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
    client.run("SET priority3:{q} x");
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} PRIORITY 3"), error(wrong));
    client.run(format!("SET {DELAYED} x"));
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {id} DELAY 3"), error(wrong));
}

#[test]
fn dead_letters_are_redriven_by_their_ids() {
    let server = Server::start();
    let mut client = server.client();
    let die = |client: &mut Client, options: &str| {
        let id = client.publish_with("q", options, options);
        client.wait_past(id_ms(&id));
        let copy = client.lease("g", "c", "q");
        assert_eq!(client.run(format!("TASK.NACK q g c FATAL {copy}")), int(2));
        // So that no task has the id of a letter.
        client.wait_ms(1);
        id
    };
    let ids = ["", "DELAY 1", "PRIORITY 3", "1", "2", "3"].map(|options| die(&mut client, options));
    nothing_moved(&mut client);
    let letters = client.ids_in(DEAD);
    let redrive = |ids: &[&str]| format!("TASK.REDRIVE {DEAD} q ID {}", ids.join(" "));
    // By the original id, also of a delayed task, and by the letter's own.
    assert_eq!(client.run(redrive(&[&ids[1], "7-7", &letters[3], &ids[1]])), int(2));
    let left = [&letters[0], &letters[2], &letters[4], &letters[5]].map(Clone::clone);
    assert_eq!(client.ids_in(DEAD), left);
    let tasks = client.tasks_in("q");
    let fields = |payload: &str, id: &str| {
        format!("payload={payload} timestamp=now retry_count=0 original_id={id}")
    };
    let found: Vec<_> = tasks.iter().map(|task| task.fields.clone()).collect();
    assert_eq!(found, [fields("DELAY 1", &ids[1]), fields("1", &ids[3])]);
    // They are known by their original ids again.
    assert_eq!(state(&mut client, &ids[1], "state"), bulk("ready"));
    // Twice: it is no longer dead.
    changes_nothing(&mut client, &redrive(&[&ids[1]]), int(0));
    assert_eq!(client.run(redrive(&[&ids[2]])), int(1));
    assert_eq!(state(&mut client, &ids[2], "ahead"), int(0));
    let syntax = error("ERR syntax error");
    for options in ["ID", "COUNT 1 ID 1-1", "COUNT", "IDS 1-1"] {
        let call = format!("TASK.REDRIVE {DEAD} q {options}");
        changes_nothing(&mut client, &call, syntax.clone());
    }
    let bad = error("ERR Invalid stream ID specified as stream command argument");
    changes_nothing(&mut client, &redrive(&[&ids[0], "COUNT"]), bad);
    // In another queue their ids are those of other tasks.
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} other ID {}", ids[0])), int(1));
    assert_eq!(client.run("EXISTS taskmoved:{other}"), int(0));
}

/// The search for an original id goes through a bounded number of dead letters.
#[test]
fn a_dead_letter_is_found_among_thousands() {
    let server = Server::start();
    let mut client = server.client();
    // They died before: the search does not look at them.
    let old: Vec<String> = (1..20_000).map(|n| format!("XADD {DEAD} {n}-0 payload p")).collect();
    client.pipeline(&old);
    let id = client.publish("q", "p");
    let later: Vec<String> = (0..5_000).map(|_| format!("XADD {DEAD} * payload p")).collect();
    client.pipeline(&later);
    client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q ID {id}")), int(1));
    assert_eq!(state(&mut client, &id, "state"), bulk("ready"));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q ID 19000-0 12000-0")), int(2));
}

#[test]
fn everything_works_when_memory_is_full() {
    let server = Server::start();
    let mut client = server.client();
    let delayed = client.publish_with("q", "p", "DELAY 600000");
    let ready = client.publish("q", "p");
    client.run("TASK.CONSUME g c q");
    client.run("CONFIG SET maxmemory 1");
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {ready}")), int(1));
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {delayed} DELAY 0")), int(1));
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {ready} DELAY 5000")), int(1));
    assert_eq!(moved(&mut client).len(), 2);
    assert_eq!(client.run(format!("TASK.CANCEL q {ready} {delayed}")), int(2));
    nothing_moved(&mut client);
}

#[test]
fn a_key_of_another_type_in_its_place_costs_only_the_first_ids() {
    let server = Server::start();
    let mut client = server.client();
    client.run(format!("SET {MOVED} x"));
    let id = client.publish_with("q", "p", "DELAY 1");
    client.wait_past(id_ms(&id));
    let mut copy = client.lease("g", "c", "q");
    for _ in 0..2 {
        assert_eq!(client.run(format!("TASK.NACK q g c SILENT {copy}")), int(1));
        copy = client.lease("g", "c", "q");
    }
    changes_nothing(&mut client, &format!("TASK.CANCEL q {id} FORCE"), int(0));
    assert_eq!(client.run(format!("TASK.STATE q {id}")), nil_array());
    assert_eq!(client.run(format!("TASK.ACK q g {copy}")), int(1));
    assert_eq!(client.run(format!("GET {MOVED}")), bulk("x"));
    // It may appear while the hash is known, and go again.
    client.run(format!("DEL {MOVED}"));
    let (original, present) = a_moved_task(&mut client, "given back");
    client.run(format!("SET {MOVED} x"));
    assert_eq!(client.lease("g", "c", "q"), present);
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {present}")), int(1));
    client.run(format!("DEL {MOVED}"));
    changes_nothing(&mut client, &format!("TASK.CANCEL q {original}"), int(0));
}

/// Whether the hash exists is remembered, and events correct it.
#[test]
fn what_is_remembered_of_the_hash_follows_other_clients() {
    let server = Server::start();
    let mut client = server.client();
    for change in [
        "DEL taskmoved:{q}",
        "RENAME taskmoved:{q} away",
        "HDEL taskmoved:{q} ORIGINAL",
        "FLUSHALL",
        "PEXPIRE taskmoved:{q} 1",
    ] {
        let (original, present) = a_moved_task(&mut client, "given back");
        client.run("DEL away");
        let id = client.lease("g", "c", "q");
        assert_eq!(id, present);
        client.run(change.replace("ORIGINAL", &original));
        eventually(SOON, "it is gone", || client.run(format!("EXISTS {MOVED}")) == int(0));
        let acked = i64::from(change != "FLUSHALL");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(acked), "{change}");
        // It comes back by another client, who names a task that lives.
        let next = client.publish("q", "p");
        assert_eq!(client.lease("g", "c", "q"), next);
        client.run(format!("HSET {MOVED} 9-9 {next}"));
        assert_eq!(state(&mut client, "9-9", "id"), bulk(&next), "{change}");
        client.run(format!("DEL {MOVED}"));
        assert_eq!(client.run(format!("TASK.ACK q g {next}")), int(1));
    }
}

#[test]
fn a_replica_and_a_restarted_server_know_the_first_ids() {
    let mut server = Server::builder().aof(true).start();
    let replica = Server::builder().replica_of(&server).start();
    let plain = Server::builder().module(false).replica_of(&server).start();
    let mut client = server.client();
    let (original, present) = a_moved_task(&mut client, "backing off");
    let done = client.publish("q", "p");
    assert_eq!(client.lease("g", "c", "q"), done);
    assert_eq!(client.run(format!("TASK.ACK q g {done}")), int(1));
    for other in [&replica, &plain] {
        wait_in_sync(&server, other);
        assert_eq!(contents(other), contents(&server));
    }
    let mut reader = replica.client();
    let found = reader.run(format!("TASK.STATE q {original}"));
    assert_eq!(found.get("id"), &bulk(&present));
    for write in ["TASK.CANCEL q ID FORCE", "TASK.RESCHEDULE q ID DELAY 5"] {
        assert!(reader.run(write.replace("ID", &original)).is_error_with("READONLY "));
    }
    server.kill9();
    server.restart();
    let mut client = server.client();
    moved_to(&mut client, &original, &present);
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {original} DELAY 0")), int(1));
    let id = client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    nothing_moved(&mut client);
}

#[test]
fn the_commands_work_in_transactions_and_scripts() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    client.run("TASK.CONSUME g c q");
    for line in [
        "MULTI".to_owned(),
        format!("TASK.NACK q g c SILENT {id}"),
        format!("TASK.RESCHEDULE q {id} DELAY {FAR}"),
        format!("TASK.STATE q {id}"),
        format!("TASK.RESCHEDULE q {id} DELAY 0"),
    ] {
        client.run(line);
    }
    let replies = client.run("EXEC");
    let [nack, later, state, now] = replies.items() else { panic!("{replies:?}") };
    assert_eq!((nack, later, now), (&int(1), &int(1), &int(1)));
    assert_eq!(state.get("state"), &bulk("delayed"));
    let script = "redis.call('TASK.RESCHEDULE',KEYS[1],ARGV[1],'DELAY','5000') \
                  return redis.call('TASK.CANCEL',KEYS[1],ARGV[1])";
    assert_eq!(client.cmd(&["EVAL", script, "1", "q", &id]), int(1));
    nothing_moved(&mut client);
    assert_eq!(client.run("XLEN q"), int(0));
}
