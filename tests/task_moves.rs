//! How a task gets from one place to the next: given back and tried again, dead and revived,
//! reclaimed from a consumer that is gone, due, retried; and what plain clients do to a queue
//! meanwhile. A move loses nothing and does nothing twice. With several groups each of them has
//! every task to itself.

mod support;
use support::*;

use std::collections::BTreeSet;

/// A time that does not pass during a test, and the most that a busy machine takes between two
/// looks at the clock.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

const DELAYED: &str = "delayed:{tasks}";
const DEAD: &str = "dead:{tasks}";

/// The key of the stream of a priority.
fn stream(priority: i64) -> String {
    priority_stream("tasks", priority)
}

/// The one task that a consumer of a group is given.
#[track_caller]
fn next(client: &mut Client, group: &str) -> Delivered {
    client.consume_only(group, "c", "tasks")
}

/// The fields of all that a consumer of a group is given.
#[track_caller]
fn fields(client: &mut Client, group: &str) -> Vec<String> {
    client.consume(group, "c", "tasks", 100).into_iter().map(|task| task.fields).collect()
}

/// Waits until nothing that is leased in a group of these streams has been so for less than `ms`.
#[track_caller]
fn wait_until_idle(client: &mut Client, key: &str, group: &str, ms: i64) {
    eventually(SOON, "leases are over", || {
        let pending = client.cmd(&["XPENDING", key, group, "-", "+", "10000"]);
        pending.is_error() || client.leases(key, group).iter().all(|lease| lease.idle > ms)
    });
}

// ---------------------------------------------------------------------------------------------
// Giving a task back
// ---------------------------------------------------------------------------------------------

/// An empty server gets one task, leased to `c` of `g`: tried so often before, and delivered so
/// often since.
#[track_caller]
fn leased(client: &mut Client, priority: i64, before: i64, deliveries: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY tasks TRIES 7 BACKOFF 600000 600000"), ok());
    let id = client.publish_with("tasks", "p", &format!("{before} PRIORITY {priority}"));
    assert_eq!(client.lease("g", "c", "tasks"), id);
    let count = format!("XCLAIM {} g c 0 {id} RETRYCOUNT {deliveries} JUSTID", stream(priority));
    assert_eq!(client.run(count).items().len(), 1);
    id
}

#[test]
fn a_task_that_is_given_back_is_ready_delayed_or_dead_as_the_mode_says() {
    let server = Server::start();
    let mut client = server.client();
    for (mode, before, deliveries, outcome) in [
        // Shutting down counts as no try, but earlier deliveries do.
        ("SILENT", 0, 1, "ready 0"),
        ("silent", 3, 1, "ready 3"),
        ("SILENT", 1, 5, "ready 5"),
        ("SILENT DELAY 0", 0, 1, "ready 0"),
        ("SILENT DELAY 600000", 2, 1, "delayed 2"),
        ("SILENT REASON why DELAY 600000", 0, 2, "delayed 1"),
        // A failure does.
        ("FAIL", 0, 1, "delayed 1"),
        ("Fail", 3, 3, "delayed 6"),
        ("FAIL DELAY 0", 0, 1, "ready 1"),
        ("FAIL DELAY 0 REASON why", 2, 3, "ready 5"),
        ("FAIL DELAY 600000", 0, 2, "delayed 2"),
        ("FAIL", 6, 1, "dead 7 failed"),
        ("FAIL", 0, 7, "dead 7 failed"),
        ("FAIL", 9, 3, "dead 12 failed"),
        ("FAIL DELAY 5", 6, 1, "dead 7 failed"),
        ("FAIL REASON bad", 6, 1, "dead 7 bad"),
        ("FAIL DELAY 5 REASON bad", 4, 4, "dead 8 bad"),
        ("FATAL", 0, 1, "dead 1 fatal"),
        ("fatal", 2, 2, "dead 4 fatal"),
        ("FATAL DELAY 600000", 0, 1, "dead 1 fatal"),
        ("FATAL REASON bad DELAY 5", 0, 1, "dead 1 bad"),
    ] {
        for priority in [0, 4] {
            let id = leased(&mut client, priority, before, deliveries);
            let (word, options) = mode.split_once(' ').unwrap_or((mode, ""));
            let nack = format!("TASK.NACK tasks g c {word} {id} {options}");
            let (place, rest) = outcome.split_once(' ').unwrap();
            let (count, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let (earliest, expected) = (client.time_ms(), if place == "dead" { 2 } else { 1 });
            let totals = ["requeued", "dead_lettered"].map(|name| client.task_total(name));
            assert_eq!(client.run(nack.trim_end()), int(expected), "{nack}");
            let grown = ["requeued", "dead_lettered"].map(|name| client.task_total(name));
            let (requeued, dead) = (grown[0] - totals[0], grown[1] - totals[1]);
            assert_eq!((requeued, dead), (2 - expected, expected - 1), "{nack}");

            // The entry is finished, and its copy is in exactly one place.
            assert_eq!(client.leases(&stream(priority), "g"), [], "{nack}");
            let copy = format!("payload=p timestamp=now retry_count={count} original_id={id}");
            match place {
                "ready" => {
                    let task = client.only_task_in(&stream(priority));
                    assert_eq!(task.fields, copy, "{nack}");
                    assert_ne!(task.id, id);
                    assert_eq!(client.lease("g", "c", "tasks"), task.id, "{nack}");
                    assert_eq!(client.run(format!("EXISTS {DELAYED} {DEAD}")), int(0));
                }
                "delayed" => {
                    let [(member, due)] = &client.scores(DELAYED)[..] else { panic!("not one") };
                    let (new, rest) = member.split_once(':').unwrap();
                    assert_eq!(rest, format!("{id} {priority} {count} - p"), "{nack}");
                    assert_eq!(id_ms(new), *due, "{nack}");
                    assert!((earliest..=client.time_ms() + LONG).contains(due), "{nack}: {due}");
                    assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0));
                    assert_eq!(client.run(format!("EXISTS {DEAD}")), int(0));
                    // It can be cancelled by the id that it has now.
                    assert_eq!(client.run(format!("TASK.CANCEL tasks {id}")), int(0));
                    assert_eq!(client.run(format!("TASK.CANCEL tasks {new}")), int(1));
                }
                _ => {
                    let mut dead = format!("{copy} reason={reason} deliveries={deliveries}");
                    if priority > 0 {
                        dead += &format!(" priority={priority}");
                    }
                    assert_eq!(client.only_task_in(DEAD).fields, dead, "{nack}");
                    assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0));
                    assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
                }
            }
            changes_nothing(&mut client, nack.trim_end(), int(0));
        }
    }
}

#[test]
fn a_task_that_was_given_back_comes_again_after_its_delay_and_at_the_tail() {
    let server = Server::start();
    let mut client = server.client();
    let [first, second] = ["first", "second"].map(|payload| client.publish("tasks", payload));
    assert_eq!(client.lease("g", "c", "tasks"), first);
    assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {first}")), int(1));
    assert_eq!(client.lease("g", "c", "tasks"), second);
    let again = next(&mut client, "g");
    let copy =
        |count: i64| format!("payload=first timestamp=now retry_count={count} original_id={first}");
    assert_eq!(again.fields, copy(0));
    assert_eq!((again.idle, again.deliveries), (0, 1), "it is a new entry");

    // The first id follows it through every copy.
    let before = client.time_ms();
    assert_eq!(client.run(format!("TASK.NACK tasks g c FAIL {} DELAY 40", again.id)), int(1));
    let again = eventually(SOON, "it is due", || client.consume("g", "c", "tasks", 9).pop());
    assert!(client.time_ms() >= before + 40);
    assert_eq!(again.fields, copy(1));
    assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {}", again.id)), int(2));
    let dead = client.only_task_in(DEAD).fields;
    assert_eq!(dead, format!("{} reason=fatal deliveries=1", copy(2)));
}

#[test]
fn the_back_off_doubles_with_each_failure_up_to_its_maximum_and_is_spread() {
    let server = Server::start();
    let mut client = server.client();
    const MOST: i64 = i64::MAX;
    assert_eq!(client.run("TASK.POLICY tasks TRIES 0 BACKOFF 100000 450000"), ok());
    for (retry_count, longest) in [
        (0, 100_000),
        (1, 200_000),
        (2, 400_000),
        (3, 450_000),
        (62, 450_000),
        (63, 450_000),
        (1000, 450_000),
        (MOST - 1, 450_000),
        (MOST, 450_000),
    ] {
        let mut waits = Vec::new();
        for _ in 0..40 {
            client.publish_with("tasks", "p", &retry_count.to_string());
            let id = client.lease("g", "c", "tasks");
            let before = client.time_ms();
            assert_eq!(client.run(format!("TASK.NACK tasks g c FAIL {id}")), int(1));
            let after = client.time_ms();
            let due = match &client.scores(DELAYED)[..] {
                [(member, due)] => {
                    let count = retry_count.saturating_add(1);
                    assert!(member.ends_with(&format!(":{id} 0 {count} - p")), "{member}");
                    *due
                }
                [] => after, // A wait of 0.
                many => panic!("{many:?}"),
            };
            assert!((before..=after + longest).contains(&due), "{retry_count}: {due}");
            waits.push(due - before);
            client.run(format!("DEL {DELAYED} tasks"));
        }
        // Full jitter: anything between nothing and the longest. None of 40 in the lower or in the
        // upper half would be a chance of one in 2^39.
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*least < longest / 2 && *most > longest / 2, "{retry_count}: {waits:?}");
    }
    // By default, from 1 s to 10 min; and none at all.
    client.run("DEL policy:{tasks}");
    for (retry_count, longest) in [(0, 1000), (3, 8000), (15, 600_000)] {
        let id = client.publish_with("tasks", "p", &retry_count.to_string());
        assert_eq!(client.lease("g", "c", "tasks"), id);
        let before = client.time_ms();
        assert_eq!(client.run(format!("TASK.NACK tasks g c FAIL {id}")), int(1));
        let due = client.scores(DELAYED).first().map_or(before, |(_, due)| *due);
        assert!((before..=client.time_ms() + longest).contains(&due), "{retry_count}: {due}");
        client.run(format!("DEL {DELAYED} tasks"));
    }
    assert_eq!(client.run("TASK.POLICY tasks BACKOFF 0 0"), ok());
    let id = client.publish("tasks", "p");
    for count in 1..10 {
        let task = next(&mut client, "g");
        assert_eq!(client.run(format!("TASK.NACK tasks g c FAIL {}", task.id)), int(1));
        let copy = format!("payload=p timestamp=now retry_count={count} original_id={id}");
        assert_eq!(client.only_task_in("tasks").fields, copy);
    }
}

#[test]
fn a_reason_is_bytes_and_its_first_1024_are_kept() {
    let server = Server::start();
    let mut client = server.client();
    let reasons = [
        b"\0".to_vec(),
        b"\r\n-ERR\r\n".into(),
        b"\xff\xfe".into(),
        "Ā".into(),
        b"REASON".into(),
        (0..=255).collect(),
        vec![b'x'; 1023],
        vec![b'x'; 1024],
        vec![b'x'; 1025],
        vec![b'\n'; 100_000],
        Vec::new(),
    ];
    for mode in ["FATAL", "FAIL"] {
        for reason in &reasons {
            let id = leased(&mut client, 0, 6, 1);
            let nack = args!["TASK.NACK", "tasks", "g", "c", mode, id, "REASON", reason];
            assert_eq!(client.cmd(&nack), int(2));
            let dead = client.run(format!("XRANGE {DEAD} - +"));
            let kept = dead.items()[0].items()[1].get("reason").bytes().to_vec();
            assert!(kept == reason[..reason.len().min(1024)], "{}", kept.escape_ascii());
        }
    }
}

#[test]
fn only_the_consumer_that_has_the_lease_gives_a_task_back() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased(&mut client, 0, 0, 1);
    for mode in ["SILENT", "FAIL", "FATAL"] {
        for (group, consumer) in [("g", "other"), ("g", "C"), ("nobody", "c")] {
            let nack = format!("TASK.NACK tasks {group} {consumer} {mode} {id} DELAY 5 REASON r");
            changes_nothing(&mut client, &nack, int(0));
        }
    }
    // A plain client takes it over.
    assert_eq!(client.run(format!("XCLAIM tasks g other 0 {id} JUSTID")).items().len(), 1);
    changes_nothing(&mut client, &format!("TASK.NACK tasks g c FATAL {id}"), int(0));
    changes_nothing(&mut client, &format!("TASK.EXTEND tasks g c {id}"), int(0));
    assert_eq!(client.run(format!("TASK.NACK tasks g other FATAL {id}")), int(2));
    // An entry that somebody has deleted meanwhile leaves no copy.
    let id = leased(&mut client, 0, 0, 1);
    assert_eq!(client.run(format!("XDEL tasks {id}")), int(1));
    assert_eq!(client.run(format!("TASK.NACK tasks g c FAIL {id}")), int(0));
    assert_eq!(client.run(format!("EXISTS {DELAYED} {DEAD}")), int(0));
    assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
}

#[test]
fn when_memory_is_full_only_publishing_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks BACKOFF 0 0 TRIES 3"), ok());
    let ids = [(); 8].map(|()| client.publish("tasks", "p"));
    let urgent = client.publish_with("tasks", "p", "PRIORITY 3");
    let due = client.publish_with("tasks", "due", "DELAY 1");
    let later = client.publish_with("tasks", "p", "DELAY 600000");
    client.run(format!("XADD {DEAD} * payload dead"));
    assert_eq!(client.consume("g", "c", "tasks", 7).len(), 7);
    eventually(SOON, "it is due", || client.time_ms() > id_ms(&due));
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    for options in ["", " PRIORITY 2", " DELAY 5", " UNIQUE u 5"] {
        let call = format!("TASK.PUBLISH tasks p{options}");
        assert!(client.run(&call).is_error_with("OOM "), "{call}");
    }
    for (call, reply) in [
        (format!("TASK.ACK tasks g {} {urgent}", ids[0]), int(2)),
        (format!("TASK.EXTEND tasks g c {}", ids[1]), int(1)),
        (format!("TASK.NACK tasks g c FAIL {}", ids[1]), int(1)),
        (format!("TASK.NACK tasks g c FAIL {} DELAY 600000", ids[2]), int(1)),
        (format!("TASK.NACK tasks g c SILENT {}", ids[3]), int(1)),
        (format!("TASK.NACK tasks g c FATAL {} REASON r", ids[4]), int(2)),
        (format!("TASK.CANCEL tasks {later} {}", ids[7]), int(2)),
        (format!("TASK.REDRIVE {DEAD} tasks COUNT 1"), int(1)),
        ("TASK.POLICY tasks LIMIT 99".into(), ok()),
    ] {
        assert_eq!(client.run(&call), reply, "{call}");
    }
    let mut got: Vec<_> = fields(&mut client, "g")
        .into_iter()
        .map(|fields| fields.split(' ').next().unwrap().to_owned())
        .collect();
    got.sort();
    assert_eq!(got, ["payload=dead", "payload=due", "payload=p", "payload=p", "payload=p"]);
    assert!(!client.run("TASK.INFO tasks").is_error());
}

// ---------------------------------------------------------------------------------------------
// Leases that end
// ---------------------------------------------------------------------------------------------

#[test]
fn a_task_whose_lease_is_over_goes_to_the_next_who_asks() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("TASK.POLICY tasks LEASE 50"), ok());
        let published = client.publish_with("tasks", "p", &format!("2 PRIORITY {priority}"));
        let before = client.time_ms();
        let first = client.consume("g", "one", "tasks", 9);
        assert_eq!(first.len(), 1);
        let reclaimed = client.task_total("reclaimed");
        let second =
            eventually(SOON, "the lease ends", || client.consume("g", "two", "tasks", 9).pop());
        assert!(client.time_ms() >= before + 50, "not before its time");
        assert_eq!((&second.id, &second.fields), (&published, &first[0].fields));
        assert_eq!(second.deliveries, 2);
        assert!((50..SLACK).contains(&second.idle), "{}", second.idle);
        assert_eq!(client.task_total("reclaimed"), reclaimed + 1);
        let lease = client.leases(&stream(priority), "g").remove(0);
        assert_eq!((&*lease.consumer, lease.deliveries), ("two", 2));
        // Who had it first has nothing to say any more.
        assert_eq!(client.run("TASK.POLICY tasks LEASE 0"), ok());
        for call in ["EXTEND tasks g one", "NACK tasks g one FAIL"] {
            changes_nothing(&mut client, &format!("TASK.{call} {published}"), int(0));
        }
        assert_eq!(client.run(format!("TASK.EXTEND tasks g two {published}")), int(1));
        assert_eq!(client.run(format!("TASK.ACK tasks g {published}")), int(1));
    }
}

#[test]
fn reclaimed_tasks_come_first_the_oldest_before_the_others() {
    let server = Server::start();
    let mut client = server.client();
    let plain = client.publish("tasks", "a");
    assert_eq!(client.lease("g", "one", "tasks"), plain);
    // At different times, and not in the order of their ids.
    let mut oldest = vec![plain];
    for (payload, options) in [("b", "PRIORITY 9"), ("c", ""), ("d", "PRIORITY 1"), ("e", "")] {
        let now = client.time_ms();
        eventually(SOON, "the clock goes on", || client.time_ms() > now + 2);
        let id = client.publish_with("tasks", payload, options);
        assert_eq!(client.lease("g", "one", "tasks"), id);
        oldest.push(id);
    }
    let ready = ["PRIORITY 9", ""].map(|options| client.publish_with("tasks", "x", options));
    for (key, ids) in [("tasks", 3), ("priority9:{tasks}", 1), ("priority1:{tasks}", 1)] {
        assert_eq!(client.leased_ids(key, "g").len(), ids);
        wait_until_idle(&mut client, key, "g", 20);
    }
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20"), ok());
    let reply = client.run("TASK.CONSUME g two tasks 2");
    assert_eq!(reply.task_ids(), oldest[..2], "in the shape of XREADGROUP, too");
    assert_eq!(client.run("TASK.POLICY tasks LEASE 0"), ok(), "those do not end again");
    wait_until_idle(&mut client, "tasks", "g", 20);
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20"), ok());
    let got = client.consume("g", "two", "tasks", 100);
    let is_old = |id: &String| oldest.contains(id);
    let ids: Vec<_> = got.iter().map(|task| task.id.clone()).collect();
    assert_eq!(ids.iter().filter(|id| is_old(id)).count(), ids.len() - 2, "{ids:?}");
    assert_eq!(ids[ids.len() - 2..], ready);
    let at = |id: &String| ids.iter().position(|found| found == id);
    assert!(at(&oldest[2]) < at(&oldest[3]) && at(&oldest[3]) < at(&oldest[4]), "{ids:?}");
    assert!(got[..ids.len() - 2].iter().all(|task| task.deliveries >= 2 && task.idle >= 20));
}

#[test]
fn an_extended_lease_ends_later() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 200"), ok());
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease("g", "one", "tasks"), id);
    let mut extended = 0;
    for _ in 0..3 {
        let start = client.time_ms();
        eventually(SOON, "half of the lease is over", || client.time_ms() > start + 100);
        extended = client.time_ms();
        assert_eq!(client.run(format!("TASK.EXTEND tasks g one {id}")), int(1));
    }
    let task = eventually(SOON, "the lease ends", || client.consume("g", "two", "tasks", 1).pop());
    assert!(client.time_ms() >= extended + 200);
    assert_eq!((task.id, task.deliveries), (id, 2));
}

#[test]
fn a_lease_is_as_long_as_the_policy_or_else_the_settings_say() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease("g", "one", "tasks"), id);
    // Leased for a while: found by whoever looks first after the data were loaded.
    let old = format!("XCLAIM tasks g one 0 {id} IDLE 400000 JUSTID");
    let mut gets = |settings: &str| {
        assert_eq!(client.run(&old).items().len(), 1);
        for line in settings.split(';').filter(|line| !line.is_empty()) {
            assert_eq!(client.run(line), ok(), "{line}");
        }
        assert_eq!(client.run("DEBUG RELOAD"), ok());
        // Two looks: the first one may be busy with finding the leases.
        let mut got = client.consume("g", "one", "tasks", 1);
        got.extend(client.consume("g", "one", "tasks", 1));
        got.len()
    };
    assert_eq!(gets(""), 1, "by default it is 5 minutes");
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 500000"), 0);
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 400000"), 1);
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 0"), 0, "0 is without end");
    assert_eq!(gets("TASK.POLICY tasks LEASE 400000"), 1, "the queue's own word counts");
    assert_eq!(gets("TASK.POLICY tasks LEASE 500000;CONFIG SET corral.task-lease-ms 5"), 0);
    assert_eq!(gets("TASK.POLICY tasks LEASE 0"), 0);
}

#[test]
fn a_lease_that_a_plain_client_took_ends_too() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 30"), ok());
    // The queue is known before.
    assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
    for priority in [0, 2] {
        let id = client.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
        let key = stream(priority);
        if priority > 0 {
            assert_eq!(client.run(format!("XGROUP CREATE {key} g 0")), ok());
        }
        let read = client.run(format!("XREADGROUP GROUP g plain STREAMS {key} >"));
        assert_eq!(read.task_ids(), [id.as_str()]);
        let task = eventually(SOON, "it is found", || client.consume("g", "c", "tasks", 9).pop());
        assert_eq!((&task.id, task.deliveries), (&id, 2));
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    }
}

#[test]
fn a_task_that_kills_its_workers_ends_in_the_dead_letters() {
    let server = Server::start();
    let mut client = server.client();
    for (priority, before, tries) in [(0, 0, 3), (4, 0, 3), (0, 2, 3), (0, 0, 1), (0, 7, 3)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let totals = ["reclaimed", "dead_lettered"].map(|name| client.task_total(name));
        assert_eq!(client.run(format!("TASK.POLICY tasks LEASE 20 TRIES {tries}")), ok());
        let id = client.publish_with("tasks", "p", &format!("{before} PRIORITY {priority}"));
        let mut deliveries = Vec::new();
        eventually(SOON, "it is dead", || {
            for task in client.consume("g", "c", "tasks", 9) {
                assert_eq!(task.id, id);
                deliveries.push(task.deliveries);
            }
            client.run(format!("XLEN {DEAD}")) == int(1)
        });
        // It is tried once in any case: PUBLISH was told to.
        let times = (tries - before).max(1);
        assert_eq!(deliveries, (1..=times).collect::<Vec<_>>(), "{before} of {tries}");
        let mut dead = format!(
            "payload=p timestamp=now retry_count={} original_id={id} reason=lease expired \
             deliveries={times}",
            before + times
        );
        if priority > 0 {
            dead += &format!(" priority={priority}");
        }
        assert_eq!(client.only_task_in(DEAD).fields, dead);
        assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0));
        assert_eq!(client.leases(&stream(priority), "g"), []);
        assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
        let grown = ["reclaimed", "dead_lettered"].map(|name| client.task_total(name));
        assert_eq!((grown[0] - totals[0], grown[1] - totals[1]), (times - 1, 1));
    }
}

#[test]
fn one_call_moves_a_bounded_number_of_tasks() {
    let server = Server::start();
    let mut client = server.client();
    const MANY: usize = 300;
    // Dead ones: more of them while there is nothing to deliver.
    for (many, ready, most) in [(5000, 0, 1024), (MANY, MANY, 128)] {
        client.run("FLUSHALL");
        assert_eq!(client.run("TASK.POLICY tasks LEASE 20 TRIES 1"), ok());
        client.pipeline(&vec!["TASK.PUBLISH tasks p"; many]);
        assert_eq!(client.consume("g", "c", "tasks", 10_000).len(), many);
        wait_until_idle(&mut client, "tasks", "g", 20);
        client.pipeline(&vec!["TASK.PUBLISH tasks p"; ready]);
        let mut dead = 0;
        while dead < many as i64 {
            assert_eq!(client.consume("g", "c", "tasks", 1).len(), ready.min(1));
            let now = client.run(format!("XLEN {DEAD}")).as_int();
            assert!((1..=most).contains(&(now - dead)), "{dead} and then {now}");
            dead = now;
        }
    }
    // Due ones.
    client.run("FLUSHALL");
    client.pipeline(&vec!["TASK.PUBLISH tasks p DELAY 1"; MANY]);
    let start = client.time_ms();
    eventually(SOON, "all are due", || client.time_ms() > start + 5);
    let (mut seen, mut left) = (1, MANY as i64);
    while left > 0 {
        assert_eq!(client.consume("g", "c", "tasks", 1).len(), 1);
        let now = client.run(format!("ZCARD {DELAYED}")).as_int();
        assert!((1..=128).contains(&(left - now)), "{left} and then {now}");
        (seen, left) = (seen + 1, now);
    }
    assert_eq!(client.consume("g", "c", "tasks", 1000).len() + seen - 1, MANY);
    // As many as are asked for, if that is more.
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20"), ok());
    wait_until_idle(&mut client, "tasks", "g", 20);
    let again = client.consume("g", "other", "tasks", 1000);
    assert_eq!(again.iter().map(|task| &task.id).collect::<BTreeSet<_>>().len(), MANY);
    assert!(again.iter().all(|task| task.deliveries == 2));
}

// ---------------------------------------------------------------------------------------------
// Several groups
// ---------------------------------------------------------------------------------------------

/// Two groups that have both leased the one task of an empty server.
#[track_caller]
fn leased_by_two(client: &mut Client, priority: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    for group in ["g", "h"] {
        assert_eq!(client.run(format!("TASK.CONSUME {group} c tasks")), nil_array());
    }
    let id = client.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
    for group in ["g", "h"] {
        assert_eq!(next(client, group).id, id);
    }
    id
}

#[test]
fn an_entry_goes_when_every_group_is_past_it_in_every_priority() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for order in [["g", "h"], ["h", "g"]] {
            let id = leased_by_two(&mut client, priority);
            for (group, left) in order.into_iter().zip([1, 0]) {
                assert_eq!(client.run(format!("TASK.ACK tasks {group} {id}")), int(1));
                assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(left));
            }
        }
        // A group of the queue that has not looked at this priority yet is not past it.
        assert_eq!(client.run("XGROUP CREATE tasks late 0"), ok());
        let id = client.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
        for group in ["g", "h"] {
            assert_eq!(next(&mut client, group).id, id);
            assert_eq!(client.run(format!("TASK.ACK tasks {group} {id}")), int(1));
        }
        assert_eq!(next(&mut client, "late").id, id);
        assert_eq!(client.run(format!("TASK.ACK tasks late {id}")), int(1));
        assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0));
    }
}

#[test]
fn what_is_given_back_for_one_group_is_not_seen_by_the_others() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for nack in ["SILENT ID", "FAIL ID DELAY 0", "FAIL ID DELAY 5", "FATAL ID"] {
            let id = leased_by_two(&mut client, priority);
            let call = format!("TASK.NACK tasks g c {}", nack.replace("ID", &id));
            assert!(client.run(call).as_int() > 0, "{nack}");
            if nack.starts_with("FATAL") {
                let dead = client.only_task_in(DEAD).fields;
                assert!(
                    dead.contains(&format!(" original_id={id} group=g reason=fatal ")),
                    "{dead}"
                );
                assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
            }
            // The other group asks first, and again and again.
            for _ in 0..3 {
                assert_eq!(client.consume("h", "c", "tasks", 9), [], "{nack}");
            }
            let again = eventually(SOON, "it comes", || {
                assert_eq!(client.consume("h", "c", "tasks", 9), [], "{nack}");
                client.consume("g", "c", "tasks", 9).pop()
            });
            let count = i64::from(nack.starts_with("FAIL"));
            let copy = format!("timestamp=now retry_count={count} original_id={id} group=g");
            assert_eq!(again.fields, format!("payload=p {copy}"), "{nack}");
            // What it has skipped is not pending there, and holds nothing back.
            assert_eq!(client.leased_ids(&stream(priority), "h"), [id.as_str()], "{nack}");
            assert_eq!(client.run(format!("TASK.ACK tasks g {}", again.id)), int(1));
            assert_eq!(client.consume("h", "c", "tasks", 9), []);
            assert_eq!(client.ids_in(&stream(priority)), [id.as_str()], "{nack}");
            assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
            assert_eq!(client.run(format!("XLEN {}", stream(priority))), int(0), "{nack}");
        }
    }
}

#[test]
fn a_skipped_copy_goes_when_the_last_group_skips_it() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
    assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
    let copy = next(&mut client, "g").id;
    assert_eq!(client.run(format!("TASK.ACK tasks g {copy}")), int(1));
    assert_eq!(client.ids_in("tasks"), [copy.as_str()], "h has not come to it");
    // Whatever else h gets in the same call.
    let task = client.publish("tasks", "task");
    for (count, expected) in [(1, 1), (9, 0)] {
        let got = client.consume("h", "c", "tasks", count);
        assert_eq!(got.len(), expected, "{got:?}");
    }
    assert_eq!(client.ids_in("tasks"), [task.as_str()]);
    assert_eq!(client.leased_ids("tasks", "h"), [task.as_str()]);
}

#[test]
fn with_one_group_a_copy_names_none_and_a_later_group_sees_it() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
    let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
    assert_eq!(fields(&mut client, "g"), [copy.as_str()]);
    assert_eq!(fields(&mut client, "late"), [copy.as_str()]);
    // From now on there are two, however the second one came.
    for come in ["TASK.CONSUME h c tasks", "XGROUP CREATE tasks h $"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        for _ in 0..2 {
            let id = client.publish("tasks", "p");
            assert_eq!(client.lease("g", "c", "tasks"), id);
            assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
        }
        client.run(come);
        let id = client.publish("tasks", "p");
        assert_eq!(client.lease("g", "c", "tasks"), id);
        assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
        let copy = &client.tasks_in("tasks")[1].fields;
        assert!(copy.ends_with(&format!("original_id={id} group=g")), "{come}: {copy}");
        // And from now on there is one again.
        assert_eq!(client.run("XGROUP DESTROY tasks h"), int(1));
        let id = next(&mut client, "g").id;
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
        let for_both = client.ids_in("tasks").join(" ");
        assert_eq!(client.run(format!("XDEL tasks {for_both}")), int(1));
        let id = client.publish("tasks", "p");
        assert_eq!(client.lease("g", "c", "tasks"), id);
        assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
        assert!(!client.only_task_in("tasks").fields.contains("group="), "{come}");
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
            let reply = client.cmd(&args!["TASK.CONSUME", group, "c", "tasks", "META"]);
            reply.items().first().map(|task| {
                let id = task.items()[0].as_str().to_owned();
                (id, task.items()[1].field("group").cloned())
            })
        };
        assert_eq!(client.run("TASK.CONSUME other c tasks"), nil_array());
        assert_eq!(consume(&mut client), None);
        client.publish("tasks", "p");
        let (id, named) = consume(&mut client).expect("a task");
        assert_eq!(named, None);
        let nack = args!["TASK.NACK", "tasks", group, "c", "FAIL", id, "DELAY", 1];
        assert_eq!(client.cmd(&nack), int(1));
        let (id, named) = eventually(SOON, "it comes again", || consume(&mut client));
        assert_eq!(named, Some(bulk(group)), "{}", group.escape_ascii());
        assert_eq!(client.cmd(&args!["TASK.ACK", "tasks", group, id]), int(1));
        assert_eq!(fields(&mut client, "other").len(), 1, "what was published");
    }
}

#[test]
fn a_poison_task_dies_for_one_group_only() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20 TRIES 2"), ok());
    eventually(SOON, "it is dead", || {
        client.consume("g", "c", "tasks", 1);
        client.run(format!("XLEN {DEAD}")) == int(1)
    });
    assert_eq!(client.run("TASK.POLICY tasks LEASE 0"), ok());
    let dead = client.only_task_in(DEAD).fields;
    let copy = format!("payload=p timestamp=now retry_count=2 original_id={id} group=g");
    assert_eq!(dead, format!("{copy} reason=lease expired deliveries=2"));
    assert!(!client.ids_in("tasks").contains(&id), "both groups are past the entry");
    let other = client.publish("tasks", "other");
    assert_eq!(next(&mut client, "h").id, other);
    // Alive again, it is for the same group.
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
    assert_eq!(client.consume("h", "c", "tasks", 9), []);
    let revived: Vec<_> = fields(&mut client, "g");
    let copy = format!("payload=p timestamp=now retry_count=0 original_id={id} group=g");
    assert!(revived.contains(&copy), "{revived:?}");
}

#[test]
fn a_copy_for_a_group_that_is_gone_is_for_the_others() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 3] {
        for back in ["SILENT ID", "FAIL ID DELAY 0", "FAIL ID DELAY 1", "FATAL ID"] {
            let id = leased_by_two(&mut client, priority);
            let nack = format!("TASK.NACK tasks g c {}", back.replace("ID", &id));
            assert!(client.run(&nack).as_int() > 0, "{nack}");
            assert_eq!(client.run("XGROUP DESTROY tasks g"), int(1));
            if back.starts_with("FATAL") {
                assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
            }
            let what = format!("{nack}: the other group gets it");
            let copy = eventually(SOON, &what, || client.consume("h", "c", "tasks", 9).pop());
            assert!(copy.fields.contains(&format!("original_id={id}")), "{nack}: {copy:?}");
            assert_eq!(client.run(format!("TASK.ACK tasks h {} {id}", copy.id)), int(2));
        }
    }
}

#[test]
fn what_another_group_has_leased_of_a_priority_is_never_deleted() {
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    // The queue's own stream comes back with one of the groups, or loses one of them.
    for lose in ["DEL tasks", "XGROUP DESTROY tasks h"] {
        for end in ["TASK.ACK tasks h ID", "TASK.NACK tasks h c SILENT ID"] {
            let id = leased_by_two(&mut client, 3);
            client.publish_with("tasks", "next", "PRIORITY 3");
            assert_eq!(client.run(lose), int(1));
            assert_eq!(next(&mut client, "g").fields.split(' ').next(), Some("payload=next"));
            assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
            assert_eq!(client.leased_ids(key, "h"), [&*id], "{lose}");
            assert!(client.ids_in(key).contains(&id), "{lose}: it is deleted");
            assert_eq!(client.run(end.replace("ID", &id)), int(1), "{lose}: {end}");
            assert!(!client.ids_in(key).contains(&id), "{lose}: now nobody has it");
        }
    }
    // A group that only a plain client uses, and only there.
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
    let id = client.publish_with("tasks", "p", "PRIORITY 3");
    assert_eq!(client.run(format!("XGROUP CREATE {key} plain 0")), ok());
    let read = client.run(format!("XREADGROUP GROUP plain p STREAMS {key} >"));
    assert_eq!(read.task_ids(), [&*id]);
    assert_eq!(next(&mut client, "g").id, id);
    assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    assert_eq!(client.ids_in(key), [&*id]);
    assert_eq!(client.run(format!("TASK.ACK tasks plain {id}")), int(1));
    assert_eq!(client.ids_in(key), [""; 0]);
}

#[test]
fn a_group_counts_in_its_queue_though_it_gets_nothing_but_priorities() {
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    for lose in ["DEL tasks", "XGROUP DESTROY tasks h"] {
        leased_by_two(&mut client, 3);
        let id = client.publish_with("tasks", "p", "PRIORITY 3");
        client.publish_with("tasks", "p", "PRIORITY 3");
        assert_eq!(client.run(lose), int(1));
        for group in ["g", "h"] {
            // As many as it asks for, so that it comes to no other stream.
            assert_eq!(client.lease(group, "c", "tasks"), id);
        }
        let groups = client.run("XINFO GROUPS tasks");
        let mut names: Vec<_> = groups.items().iter().map(|g| g.get("name").as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["g", "h"], "{lose}");
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
        assert!(client.ids_in(key).contains(&id), "{lose}: h has it");
        assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
        assert!(!client.ids_in(key).contains(&id), "{lose}");
    }
}

// ---------------------------------------------------------------------------------------------
// TASK.RETRY
// ---------------------------------------------------------------------------------------------

#[test]
fn a_retry_into_its_own_stream_is_for_the_group_that_retries() {
    let server = Server::start();
    let mut client = server.client();
    for (count, written) in [(0, 1), (3, 3)] {
        let id = leased_by_two(&mut client, 0);
        let retry = format!("TASK.RETRY tasks {id} again {count} tasks tasks 3");
        assert_eq!(client.run(format!("{retry} g")), ok());
        let copy = format!("payload=again timestamp=now retry_count={written} original_id={id}");
        assert_eq!(client.consume("h", "c", "tasks", 9), []);
        assert_eq!(fields(&mut client, "g"), [format!("{copy} group=g")]);
        // Without a name the source stays pending for both, and the copy is for both.
        let id = leased_by_two(&mut client, 0);
        let retry = format!("TASK.RETRY tasks {id} again {count} tasks tasks 3");
        assert_eq!(client.run(&retry), ok());
        let copy = format!("payload=again timestamp=now retry_count={written} original_id={id}");
        for group in ["g", "h"] {
            assert_eq!(fields(&mut client, group), [copy.as_str()]);
            assert!(client.leased_ids("tasks", group).contains(&id));
        }
        // Into other streams it goes as ever.
        let id = leased_by_two(&mut client, 0);
        assert_eq!(client.run(format!("TASK.RETRY tasks {id} p {count} other other 3 g")), ok());
        let copy = format!("payload=p timestamp=now retry_count={written} original_id={id}");
        assert_eq!(client.only_task_in("other").fields, copy);
    }
    // The queue's own dead letters come back one day.
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 3 other {DEAD} 3 h")), ok());
    let dead = client.only_task_in(DEAD).fields;
    assert_eq!(dead, format!("payload=p timestamp=now retry_count=3 original_id={id} group=h"));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
    assert_eq!(client.consume("g", "c", "tasks", 9), []);
    assert_eq!(next(&mut client, "h").fields, dead.replace("retry_count=3", "retry_count=0"));
    // With a single group a copy is for everybody.
    assert_eq!(client.run("FLUSHALL"), ok());
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 tasks dead 3 g")), ok());
    let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
    assert_eq!(client.only_task_in("tasks").fields, copy);
}

#[test]
fn a_retry_finishes_a_task_of_any_priority() {
    let server = Server::start();
    let mut client = server.client();
    for group in ["", " g"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("tasks", "p", "PRIORITY 5");
        assert_eq!(client.lease("g", "c", "tasks"), id);
        assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 again dead 3{group}")), ok());
        assert_eq!(client.leases("priority5:{tasks}", "g"), []);
        assert_eq!(client.run("XLEN priority5:{tasks}"), int(0));
        let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
        assert_eq!(client.only_task_in("again").fields, copy);
    }
    // Dead letters, consumed and retried, are no dead letters any more.
    let id = client.publish_with("tasks", "p", "PRIORITY 5");
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {id}")), int(2));
    let letter = client.lease("undertakers", "c", DEAD);
    let retry = format!("TASK.RETRY {DEAD} {letter} new 0 tasks x 3 undertakers");
    assert_eq!(client.run(retry), ok());
    let copy = format!("payload=new timestamp=now retry_count=1 original_id={id}");
    assert_eq!(client.only_task_in("tasks").fields, copy);
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(0));
}

#[test]
fn the_stream_of_a_priority_can_be_named_like_any_other() {
    let server = Server::start();
    let mut client = server.client();
    let urgent = "priority3:{tasks}";
    for call in [
        format!("TASK.PUBLISH {urgent} p"),
        format!("TASK.RETRY x 1-1 p 0 {urgent} dead 3"),
        format!("TASK.REDRIVE letters {urgent}"),
    ] {
        for waits in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            client.run("XADD letters * payload p");
            // The queue is known to be calm.
            for _ in 0..3 {
                assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
            }
            let mut waiter = server.client();
            if waits {
                server.wait_with(&mut waiter, "TASK.CONSUME g c tasks BLOCK 0 META");
            }
            assert!(!client.run(&call).is_error());
            let got = if waits {
                waiter.read().delivered()
            } else {
                client.consume("g", "c", "tasks", 9)
            };
            assert_eq!(got.len(), 1, "{call}");
            assert_eq!(client.leased_ids(urgent, "g"), [got[0].id.as_str()], "{call}");
            assert_eq!(client.run(format!("TASK.ACK tasks g {}", got[0].id)), int(1));
        }
    }
}

#[test]
fn a_retry_that_a_foreign_policy_refuses_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    let refusal = "WRONGTYPE Operation against a key holding the wrong kind of value";
    for make in ["SET policy:{tasks} v", "XADD policy:{tasks} 1-1 f v"] {
        for count in [0, 3] {
            for group in ["", " g"] {
                assert_eq!(client.run("FLUSHALL"), ok());
                client.run(make);
                let id = client.run("XADD tasks * payload p").as_str().to_owned();
                assert_eq!(client.run("XGROUP CREATE tasks g 0"), ok());
                client.run("XREADGROUP GROUP g c STREAMS tasks >");
                let retry = format!("TASK.RETRY tasks {id} p {count} tasks tasks 3{group}");
                for _ in 0..2 {
                    changes_nothing(&mut client, &retry, error(refusal));
                }
                assert_eq!(client.leased_ids("tasks", "g"), [&*id]);
                // Once it is gone, the task is moved, and is there once.
                assert_eq!(client.run("DEL policy:{tasks}"), int(1));
                assert_eq!(client.run(&retry), ok());
                assert_eq!(client.leases("tasks", "g"), []);
                let copy = client.only_task_in("tasks").fields;
                assert!(copy.ends_with(&format!("original_id={id}")), "{copy}");
            }
        }
    }
}

#[test]
fn a_retry_finishes_a_task_of_a_priority_whose_queue_has_no_stream_of_its_own() {
    let server = Server::start();
    let mut client = server.client();
    for (group, known) in [("", false), (" g", false), ("", true), (" g", true)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("tasks", "p", "PRIORITY 3");
        if known {
            assert_eq!(client.lease("g", "c", "tasks"), id);
            assert_eq!(client.run("DEL tasks"), int(1));
        } else {
            assert_eq!(client.run("XGROUP CREATE priority3:{tasks} g 0"), ok());
            client.run("XREADGROUP GROUP g c STREAMS priority3:{tasks} >");
        }
        assert_eq!(client.leased_ids("priority3:{tasks}", "g"), [&*id]);
        assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 tasks dead 3{group}")), ok());
        assert_eq!(client.leases("priority3:{tasks}", "g"), []);
        assert_eq!(client.run("XLEN priority3:{tasks}"), int(0));
        let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
        assert_eq!(fields(&mut client, "g"), [copy], "it runs once");
        // Which group that is has to be one of those that have the task.
        assert!(client.run(format!("TASK.RETRY tasks {id} p 0 x x 3 h")).is_error_with("NOGROUP "));
    }
}

#[test]
fn a_retry_keeps_fields_that_only_a_dead_letter_loses() {
    let server = Server::start();
    let mut client = server.client();
    let own = "reason=mine deliveries=3 priority=high";
    let add = format!("XADD tasks * payload p retry_count 1 {}", own.replace('=', " "));
    let id = client.run(add).as_str().to_owned();
    assert_eq!(client.lease("g", "c", "tasks"), id);
    assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
    let copy =
        |count: i64| format!("payload=p timestamp=now retry_count={count} {own} original_id={id}");
    // First as a copy, which has its first id behind its own fields, and then as a copy of that.
    for count in [1, 2] {
        let task = next(&mut client, "g");
        assert_eq!(task.fields, copy(count));
        let retry = format!("TASK.RETRY tasks {} p {count} tasks dlq 9", task.id);
        assert_eq!(client.run(retry), ok());
        assert_eq!(fields_of(&mut client), copy(count + 1));
    }
}

// ---------------------------------------------------------------------------------------------
// TASK.REDRIVE
// ---------------------------------------------------------------------------------------------

#[test]
fn dead_letters_come_back_as_if_they_had_never_been_tried() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks TRIES 1"), ok());
    let mut ids = Vec::new();
    for (payload, options) in [("a", "5"), ("b", "PRIORITY 7"), ("c", "")] {
        let id = client.publish_with("tasks", payload, options);
        assert_eq!(client.lease("g", "c", "tasks"), id);
        let mode = if payload == "c" { "FATAL" } else { "FAIL" };
        assert_eq!(client.run(format!("TASK.NACK tasks g c {mode} {id} REASON r")), int(2));
        ids.push(id);
    }
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(3));
    let total = client.task_total("redriven");
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks COUNT 1")), int(1));
    assert_eq!(client.tasks_in(DEAD).len(), 2, "the oldest one goes first");
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks count 9")), int(2));
    changes_nothing(&mut client, &format!("TASK.REDRIVE {DEAD} tasks"), int(0));
    assert_eq!(client.task_total("redriven"), total + 3);
    let copy = |payload: &str, id: &str| {
        format!("payload={payload} timestamp=now retry_count=0 original_id={id}")
    };
    let found: Vec<_> = client.tasks_in("tasks").into_iter().map(|task| task.fields).collect();
    assert_eq!(found, [copy("a", &ids[0]), copy("c", &ids[2])]);
    // With its priority, and an id that tells it.
    let urgent = client.only_task_in("priority7:{tasks}");
    assert_eq!(urgent.fields, copy("b", &ids[1]));
    let got: Vec<_> = client.consume("g", "c", "tasks", 9).into_iter().map(|t| t.fields).collect();
    assert_eq!(got, [copy("b", &ids[1]), copy("a", &ids[0]), copy("c", &ids[2])]);
}

#[test]
fn redrive_takes_any_stream_and_moves_a_thousand_at_most_unless_told_otherwise() {
    let server = Server::start();
    let mut client = server.client();
    let lines: Vec<_> =
        (0..2100).map(|n| format!("TASK.RETRY x {n}-1 {n} 3 again letters 3")).collect();
    client.pipeline(&lines);
    assert_eq!(client.run("TASK.REDRIVE letters tasks"), int(1000));
    assert_eq!(client.run("TASK.REDRIVE letters tasks COUNT 1050"), int(1050));
    assert_eq!(client.run("TASK.REDRIVE letters tasks"), int(50));
    assert_eq!(client.run("XLEN letters"), int(0));
    let expected: Vec<_> = (0..2100)
        .map(|n| format!("payload={n} timestamp=now retry_count=0 original_id={n}-1"))
        .collect();
    let found: Vec<_> = client.tasks_in("tasks").into_iter().map(|task| task.fields).collect();
    assert!(found == expected, "each once and in order");
    for (call, refusal) in [
        ("TASK.REDRIVE tasks tasks", "ERR dead_stream and stream are the same"),
        ("TASK.REDRIVE letters tasks COUNT", "ERR syntax error"),
        ("TASK.REDRIVE letters tasks 5", "ERR syntax error"),
        ("TASK.REDRIVE letters tasks COUNT 5 COUNT 5", "ERR syntax error"),
        ("TASK.REDRIVE letters tasks COUNT 0", "ERR value is out of range, must be positive"),
    ] {
        changes_nothing(&mut client, call, error(refusal));
    }
    changes_nothing(&mut client, "TASK.REDRIVE missing tasks", int(0));
}

#[test]
fn redrive_serves_those_who_wait() {
    let server = Server::start();
    let mut client = server.client();
    for payload in ["a", "b"] {
        client.run(format!("XADD {DEAD} * payload {payload}"));
    }
    let mut waiters = [(); 3].map(|()| {
        let mut waiter = server.client();
        server.wait_with(&mut waiter, "TASK.CONSUME g c tasks BLOCK 0");
        waiter
    });
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(2));
    for (waiter, payload) in waiters.iter_mut().zip(["a", "b"]) {
        assert_eq!(waiter.read().task_payloads(), [payload]);
    }
}

/// A dead letter of the group `g`, one of two; the id of its task.
#[track_caller]
fn dead_for_one(client: &mut Client, priority: i64) -> String {
    let id = leased_by_two(client, priority);
    assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {id}")), int(2));
    assert!(client.only_task_in(DEAD).fields.contains(" group=g "));
    id
}

#[test]
fn a_dead_letter_of_a_group_comes_to_everybody_where_that_group_is_not() {
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
        // Where it is, it is that group's own.
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
fn a_dead_letter_of_a_group_that_was_replaced_comes_to_those_that_are_there() {
    let server = Server::start();
    let mut client = server.client();
    for (priority, replace) in [(0, ""), (0, "XGROUP CREATE tasks new $"), (3, "")] {
        let id = dead_for_one(&mut client, priority);
        assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
        assert_eq!(client.run("XGROUP DESTROY tasks g"), int(1));
        if !replace.is_empty() {
            assert_eq!(client.run(replace), ok());
        }
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
        let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
        assert_eq!(fields(&mut client, "h"), [copy.as_str()], "{replace}");
        if !replace.is_empty() {
            assert_eq!(fields(&mut client, "new"), [copy], "{replace}");
        }
    }
}

#[test]
fn redrive_goes_on_behind_letters_that_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    const REFUSED: usize = 300;
    client.run("SET priority3:{tasks} v");
    let add = |payload: &str, priority: i64| {
        let death = format!("reason r deliveries 1 priority {priority}");
        format!("XADD {DEAD} * payload {payload} original_id 1-1 {death}")
    };
    client.pipeline(&vec![add("refused", 3); REFUSED]);
    for payload in ["a", "b", "c"] {
        client.run(add(payload, 0));
        client.run(add("refused", 3));
    }
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks COUNT 1")), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(2));
    let refused = client.run(format!("TASK.REDRIVE {DEAD} tasks"));
    assert!(refused.is_error_with("WRONGTYPE "), "{refused:?}");
    assert_eq!(client.tasks_in(DEAD).len(), REFUSED + 3, "those stay");
    let found = client.run("XRANGE tasks - +");
    let payload = |task: &Value| task.items()[1].get("payload").as_str().to_owned();
    assert_eq!(found.items().iter().map(payload).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(client.run("DEL priority3:{tasks}"), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(REFUSED as i64 + 3));
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(0));
}

// ---------------------------------------------------------------------------------------------
// What other clients add
// ---------------------------------------------------------------------------------------------

#[test]
fn fields_of_its_own_stay_with_a_task_wherever_it_goes() {
    let server = Server::start();
    let mut client = server.client();
    let own = "colour red payload second x y x z";
    let kept = "colour=red payload=second x=y x=z";
    for (fields, payload) in [
        ("colour red payload p payload second x y x z retry_count 2".to_owned(), "payload=p "),
        (format!("payload p {own} retry_count 2"), "payload=p "),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.run(format!("XADD tasks * {fields}")).as_str().to_owned();
        assert_eq!(client.lease("g", "c", "tasks"), id);
        let mut current = id.clone();
        let mut count = 2;
        let copy = |count: i64| {
            format!("{payload}timestamp=now retry_count={count} {kept} original_id={id}")
        };
        for nack in ["FAIL ID DELAY 0", "FAIL ID DELAY 2", "SILENT ID"] {
            let call = format!("TASK.NACK tasks g c {}", nack.replace("ID", &current));
            assert_eq!(client.run(call), int(1), "{nack}");
            count += i64::from(nack.starts_with("FAIL"));
            let task = eventually(SOON, "it comes", || client.consume("g", "c", "tasks", 9).pop());
            assert_eq!(task.fields, copy(count), "{nack}");
            current = task.id;
        }
        assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {current} REASON r")), int(2));
        let dead = client.only_task_in(DEAD).fields;
        assert_eq!(dead, format!("{} reason=r deliveries=1", copy(count + 1)));
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
        assert_eq!(fields_of(&mut client), copy(0));
    }
}

/// The fields of the one task in `tasks`.
#[track_caller]
fn fields_of(client: &mut Client) -> String {
    client.only_task_in("tasks").fields
}

#[test]
fn a_field_named_group_of_a_plain_entry_is_a_field_like_any_other() {
    let server = Server::start();
    let mut client = server.client();
    for own in ["colour red retry_count 0 group admins", "group admins", "group admins x y"] {
        for several in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            if several {
                assert_eq!(client.run("TASK.CONSUME h c tasks"), nil_array());
            }
            let id = client.run(format!("XADD tasks * payload p {own}")).as_str().to_owned();
            let mut task = next(&mut client, "g");
            assert_eq!(task.id, id);
            for call in [
                "TASK.NACK tasks g c SILENT ID",
                "TASK.NACK tasks g c FAIL ID DELAY 2",
                "TASK.NACK tasks g c FATAL ID",
                "TASK.RETRY tasks ID p 0 tasks x 9 g",
            ] {
                let reply = client.run(call.replace("ID", &task.id));
                assert!(!reply.is_error() && reply != int(0), "{call}: {reply:?}");
                if call.contains("FATAL") {
                    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
                }
                let what = format!("{own}: it comes again after {call}");
                task = eventually(SOON, &what, || client.consume("g", "c", "tasks", 9).pop());
                let has = |field: &str| task.fields.split(' ').any(|found| found == field);
                assert!(has("group=admins") && has(&format!("original_id={id}")), "{task:?}");
                assert_eq!(has("group=g"), several, "{task:?}");
            }
            if several {
                assert_eq!(next(&mut client, "h").id, id, "what was added, and no copy");
            }
        }
    }
}

#[test]
fn an_entry_without_the_fields_of_a_task_is_a_task_like_any_other() {
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
            let id = client.run(format!("XADD tasks * {fields}")).as_str().to_owned();
            let task = next(&mut client, "g");
            assert_eq!(task.id, id);
            let nack = format!("TASK.NACK tasks g c FAIL {id} DELAY {delay}");
            assert_eq!(client.run(nack), int(1));
            let task = eventually(SOON, "it comes", || client.consume("g", "c", "tasks", 9).pop());
            let copy = format!("{payload}timestamp=now retry_count=1{other} original_id={id}");
            assert_eq!(task.fields, copy, "{fields}");
        }
    }
    // Bytes of every kind, also in the names of fields.
    for delay in [0, 2] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let own: [&[u8]; 4] = [b"\0\r\n", b"5:\xff", b"", b" a b "];
        let id = client.cmd(&args!["XADD", "tasks", "*", own[0], own[1], own[2], own[3]]);
        assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), [id.as_str()]);
        let nack = format!("TASK.NACK tasks g c SILENT {} DELAY {delay}", id.as_str());
        assert_eq!(client.run(nack), int(1));
        let fields = eventually(SOON, "it comes", || {
            let reply = client.run("TASK.CONSUME g c tasks META");
            reply.items().first().map(|task| task.items()[1].items().to_vec())
        });
        assert!(fields.windows(4).any(|fields| *fields == own.map(bulk)), "{fields:?}");
    }
}

#[test]
fn a_member_that_a_plain_client_added_to_the_delayed_tasks_is_a_payload() {
    let server = Server::start();
    let mut client = server.client();
    // Nobody has asked yet, and somebody has.
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
        }
        // Some of them look almost as if they were made here.
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
        let reply = client.run("TASK.CONSUME g c tasks 100");
        let found: Vec<_> =
            reply.tasks().iter().map(|task| task.items()[1].get("payload").bytes()).collect();
        let mut expected = vec![&b"first"[..], members[0], b"between"];
        expected.extend(&members[1..]);
        assert_eq!(found, expected);
        let names = reply.tasks()[0].items()[1].items().iter().step_by(2);
        let names: Vec<_> = names.map(Value::as_str).collect();
        assert_eq!(names, ["payload", "timestamp", "retry_count"], "it has no first id");
        assert_eq!(client.run(format!("ZRANGE {DELAYED} 0 -1")), array(["never"]));
    }
}

#[test]
fn a_plain_client_may_change_when_a_task_is_due() {
    let server = Server::start();
    let mut client = server.client();
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
        }
        let id = client.publish_with("tasks", "p", "DELAY 600000");
        let member = client.scores(DELAYED).remove(0).0;
        assert_eq!(client.cmd(&["ZADD", DELAYED, "XX", "5", &member]), int(0));
        assert_eq!(client.run("TASK.INFO tasks").get("next_due_ms"), &int(0));
        let copy = format!("payload=p timestamp=now retry_count=0 original_id={id}");
        assert_eq!(fields(&mut client, "g"), [copy]);
        // Or whether there is one.
        let id = client.publish_with("tasks", "p", "DELAY 5");
        assert_eq!(client.run(format!("DEL {DELAYED}")), int(1));
        eventually(SOON, "it would be due", || client.time_ms() > id_ms(&id) + 5);
        assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
    }
}

#[test]
fn a_queue_that_takes_another_place_goes_on_there() {
    let server = Server::start();
    let mut client = server.client();
    // Valkey 8.1 leaves a connection in the other database after a MOVE.
    for way in [
        "RENAME other tasks;RENAME priority3:{other} priority3:{tasks};\
         RENAME delayed:{other} delayed:{tasks}",
        "COPY other tasks;COPY priority3:{other} priority3:{tasks};\
         COPY delayed:{other} delayed:{tasks}",
        "COPY other tasks;RENAME priority3:{other} priority3:{tasks};\
         ZUNIONSTORE delayed:{tasks} 1 delayed:{other}",
        "COPY other tasks;COPY priority3:{other} priority3:{tasks};\
         ZRANGESTORE delayed:{tasks} delayed:{other} 0 -1",
        "RESTORE tasks 0 DUMP(other);RESTORE priority3:{tasks} 0 DUMP(priority3:{other});\
         RESTORE delayed:{tasks} 0 DUMP(delayed:{other})",
        "SELECT 1;RENAME other tasks;RENAME priority3:{other} priority3:{tasks};\
         RENAME delayed:{other} delayed:{tasks};SELECT 0;SWAPDB 0 1",
        "SELECT 1;RENAME other tasks;RENAME priority3:{other} priority3:{tasks};\
         RENAME delayed:{other} delayed:{tasks};MOVE tasks 0;SELECT 1;\
         MOVE priority3:{tasks} 0;SELECT 1;MOVE delayed:{tasks} 0;SELECT 0",
    ] {
        for known in [false, true] {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run("CONFIG SET corral.task-lease-ms 20"), ok());
            if known {
                // The queue is known here, and is calm.
                assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
                assert_eq!(client.run("DEL tasks"), int(1));
                assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
                assert_eq!(client.run("DEL tasks"), int(1));
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
                for task in client.consume("g", "two", "tasks", 1) {
                    assert_eq!(client.run(format!("TASK.ACK tasks g {}", task.id)), int(1));
                    let payload = task.fields.split(' ').next().unwrap().to_owned();
                    assert!(got.insert(payload), "{way}: twice: {task:?}");
                }
                got.len() == 4
            });
        }
    }
}

#[test]
fn what_other_clients_delete_stops_nobody() {
    let server = Server::start();
    let mut client = server.client();
    for gone in [
        "XDEL tasks ID",
        "XTRIM tasks MAXLEN 0",
        "XACK tasks g ID",
        "DEL tasks",
        "XGROUP DESTROY tasks g",
        "XGROUP DELCONSUMER tasks g one",
        "FLUSHALL",
        "DEL priority3:{tasks} delayed:{tasks}",
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("CONFIG SET corral.task-lease-ms 20"), ok());
        let id = client.publish("tasks", "p");
        assert_eq!(client.lease("g", "one", "tasks"), id);
        client.publish_with("tasks", "p", "PRIORITY 3");
        client.publish_with("tasks", "p", "DELAY 1");
        client.run(gone.replace("ID", &id));
        wait_until_idle(&mut client, "tasks", "g", 20);
        eventually(SOON, "another id comes", || client.time_ms() > id_ms(&id));
        let next = client.publish("tasks", "next");
        eventually(SOON, &format!("the next task comes after {gone}"), || {
            let got = client.consume("g", "two", "tasks", 100);
            got.iter().any(|task| task.id == next)
        });
        for call in ["EXTEND tasks g one ID", "NACK tasks g one FAIL ID", "ACK tasks g ID"] {
            let reply = client.run(format!("TASK.{}", call.replace("ID", &id)));
            assert!(!reply.is_error(), "{gone}: {call}: {reply:?}");
        }
        assert_eq!(client.run(format!("TASK.ACK tasks g {next}")), int(1), "{gone}");
    }
}

#[test]
fn a_delayed_task_is_found_among_many_and_among_those_of_other_clients() {
    let server = Server::start();
    let mut client = server.client();
    let due = client.time_ms() + LONG;
    let ids: Vec<_> = (0..50)
        .map(|n| client.publish_with("tasks", &n.to_string(), &format!("AT {due}")))
        .collect();
    let others: Vec<_> = (0..20)
        .map(|n| client.publish_with("tasks", "p", &format!("AT {}", due - 10 + n)))
        .collect();
    // Due at the same time, and sorted before, between and behind.
    for member in ["", "!", "0", "0-0 0 0 - p", "1", "5-5", &ids[25], "9", "zzz", "~"] {
        assert_eq!(client.cmd(&["ZADD", DELAYED, &due.to_string(), member]), int(1));
    }
    for index in shuffled(50) {
        let id = &ids[index];
        assert_eq!(client.run(format!("TASK.CANCEL tasks {id}")), int(1), "{index}: {id}");
        assert_eq!(client.run(format!("TASK.CANCEL tasks {id}")), int(0), "{index}: {id}");
    }
    assert_eq!(client.run(format!("TASK.CANCEL tasks {}", others.join(" "))), int(20));
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(10), "the others stay");
}

#[test]
fn an_entry_that_can_have_no_right_id_keeps_back_no_other() {
    const LAST: &str = "18446744073709551615-18446744073709551615";
    let server = Server::start();
    let mut client = server.client();
    let key = &stream(3);
    for known in [false, true] {
        assert_eq!(client.run("FLUSHALL"), ok());
        if known {
            assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
        }
        let mut ids = [(); 3].map(|()| client.publish_with("tasks", "p", "PRIORITY 3")).to_vec();
        // No id is left behind this one.
        client.run(format!("XADD {key} {LAST} payload x"));
        ids.push(client.publish("tasks", "plain"));
        let mut got = client.consume("g", "c", "tasks", 10);
        got.extend(client.consume("g", "c", "tasks", 10));
        assert_eq!(
            got.iter().map(|task| &task.id).collect::<Vec<_>>(),
            ids.iter().collect::<Vec<_>>()
        );
        assert_eq!(client.run(format!("TASK.ACK tasks g {}", ids.join(" "))), int(4));
        assert_eq!(client.ids_in(key), [LAST], "it is not lost");
        // Nor does it when the lease that it has is over.
        assert_eq!(client.run("TASK.POLICY tasks LEASE 20"), ok());
        wait_until_idle(&mut client, key, "g", 20);
        let id = client.publish("tasks", "next");
        let next =
            eventually(SOON, "the next comes", || client.consume("g", "c", "tasks", 9).pop());
        assert_eq!(next.id, id);
        assert_eq!(client.ids_in(key), [LAST], "it is not lost");
    }
}

#[test]
fn to_finish_one_of_two_tasks_of_the_same_id_finishes_no_other() {
    let server = Server::start();
    let mut client = server.client();
    // Its own queue's and a priority's; a plain client has leased the latter.
    for key in ["tasks", "priority3:{tasks}"] {
        assert_eq!(client.run(format!("XADD {key} 5-5 payload {key}")), bulk("5-5"));
        assert_eq!(client.run(format!("XGROUP CREATE {key} g 0")), ok());
    }
    client.run("XREADGROUP GROUP g plain STREAMS priority3:{tasks} >");
    assert_eq!(client.run("TASK.POLICY tasks LEASE 600000"), ok());
    let own = next(&mut client, "g");
    assert_eq!(own.id, "5-5");
    wait_until_idle(&mut client, "priority3:{tasks}", "g", 20);
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20"), ok());
    let other = eventually(SOON, "it is reclaimed", || {
        let got = client.consume("g", "c", "tasks", 9);
        got.into_iter().find(|task| task.id != "5-5")
    });
    assert_eq!(client.run("TASK.POLICY tasks LEASE 0"), ok(), "no other lease ends");
    let copy = "payload=priority3:{tasks} timestamp=now retry_count=1 original_id=5-5";
    assert_eq!(other.fields, copy);
    assert_eq!(client.run(format!("TASK.EXTEND tasks g c {}", other.id)), int(1));
    assert_eq!(client.run(format!("TASK.ACK tasks g {}", other.id)), int(1));
    assert_eq!(client.leased_ids("tasks", "g"), ["5-5"], "that of the other task");
    assert_eq!(client.run("TASK.ACK tasks g 5-5"), int(1));
    assert_eq!(client.run("EXISTS dead:{tasks}"), int(0));
    assert_eq!(client.run("XLEN tasks"), int(0));
    assert_eq!(client.run("XLEN priority3:{tasks}"), int(0));
}
