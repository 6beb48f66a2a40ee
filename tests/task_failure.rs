//! Tasks that fail: given back with TASK.NACK, retried with back-off, dead-lettered after their
//! tries, and redriven.

mod support;
use support::consumers::*;
use support::*;

// ---------------------------------------------------------------------------------------------
// TASK.NACK
// ---------------------------------------------------------------------------------------------

/// Empties the server, publishes a task with this retry count, and leases it to `c` of `g` with
/// this number of deliveries.
#[track_caller]
fn leased(client: &mut Client, priority: i64, before: i64, deliveries: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY q TRIES 7 BACKOFF 600000 600000"), ok());
    let id = client.publish_with("q", "p", &format!("{before} PRIORITY {priority}"));
    assert_eq!(client.lease("g", "c", "q"), id);
    let count = format!("XCLAIM {} g c 0 {id} RETRYCOUNT {deliveries} JUSTID", stream(priority));
    assert_eq!(client.run(count).items().len(), 1);
    id
}

#[test]
fn a_returned_task_is_ready_delayed_or_dead_as_its_mode_says() {
    let server = Server::start();
    let mut client = server.client();
    for (mode, before, deliveries, outcome) in [
        // SILENT, for a shutdown, does not count; earlier deliveries do.
        ("SILENT", 0, 1, "ready 0"),
        ("silent", 3, 1, "ready 3"),
        ("SILENT", 1, 5, "ready 5"),
        ("SILENT DELAY 0", 0, 1, "ready 0"),
        ("SILENT DELAY 600000", 2, 1, "delayed 2"),
        ("SILENT REASON why DELAY 600000", 0, 2, "delayed 1"),
        // A failure counts.
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
            let nack = format!("TASK.NACK q g c {word} {id} {options}");
            let (place, rest) = outcome.split_once(' ').unwrap();
            let (count, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let (earliest, expected) = (client.time_ms(), if place == "dead" { 2 } else { 1 });
            let totals = ["requeued", "dead_lettered"].map(|name| client.task_total(name));
            assert_eq!(client.run(nack.trim_end()), int(expected), "{nack}");
            let grown = ["requeued", "dead_lettered"].map(|name| client.task_total(name));
            let (requeued, dead) = (grown[0] - totals[0], grown[1] - totals[1]);
            assert_eq!((requeued, dead), (2 - expected, expected - 1), "{nack}");

            // The entry is finished, and there is exactly one copy.
            assert_eq!(client.leases(&stream(priority), "g"), [], "{nack}");
            let copy = format!("payload=p timestamp=now retry_count={count} original_id={id}");
            match place {
                "ready" => {
                    let task = client.only_task_in(&stream(priority));
                    assert_eq!(task.fields, copy, "{nack}");
                    assert_ne!(task.id, id);
                    assert_eq!(client.lease("g", "c", "q"), task.id, "{nack}");
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
                    // It is canceled once, by either id.
                    let (first, second) = if priority > 0 { (&*id, new) } else { (new, &*id) };
                    assert_eq!(client.run(format!("TASK.CANCEL q {first}")), int(1));
                    assert_eq!(client.run(format!("TASK.CANCEL q {second}")), int(0));
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
fn a_returned_task_comes_again_at_the_tail_after_its_delay() {
    let server = Server::start();
    let mut client = server.client();
    let [first, second] = ["first", "second"].map(|payload| client.publish("q", payload));
    assert_eq!(client.lease("g", "c", "q"), first);
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {first}")), int(1));
    assert_eq!(client.lease("g", "c", "q"), second);
    let again = next(&mut client, "g");
    let copy =
        |count: i64| format!("payload=first timestamp=now retry_count={count} original_id={first}");
    assert_eq!(again.fields, copy(0));
    assert_eq!((again.idle, again.deliveries), (0, 1), "it is a new entry");

    // Every copy has the original id.
    let before = client.time_ms();
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {} DELAY 40", again.id)), int(1));
    let again = eventually(SOON, "it is due", || client.consume("g", "c", "q", 9).pop());
    assert!(client.time_ms() >= before + 40);
    assert_eq!(again.fields, copy(1));
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {}", again.id)), int(2));
    let dead = client.only_task_in(DEAD).fields;
    assert_eq!(dead, format!("{} reason=fatal deliveries=1", copy(2)));
}

#[test]
fn the_back_off_doubles_up_to_its_maximum_with_full_jitter() {
    let server = Server::start();
    let mut client = server.client();
    const MOST: i64 = i64::MAX;
    assert_eq!(client.run("TASK.POLICY q TRIES 0 BACKOFF 100000 450000"), ok());
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
            client.publish_with("q", "p", &retry_count.to_string());
            let id = client.lease("g", "c", "q");
            let before = client.time_ms();
            assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id}")), int(1));
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
            client.run(format!("DEL {DELAYED} q"));
        }
        // Full jitter: anything from 0 to the longest. That all 40 are in the same half has a
        // chance of one in 2^39.
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*least < longest / 2 && *most > longest / 2, "{retry_count}: {waits:?}");
    }
    // The default is 1 s to 10 min. Then there is none at all.
    client.run("DEL policy:{q}");
    for (retry_count, longest) in [(0, 1000), (3, 8000), (15, 600_000)] {
        let id = client.publish_with("q", "p", &retry_count.to_string());
        assert_eq!(client.lease("g", "c", "q"), id);
        let before = client.time_ms();
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id}")), int(1));
        let due = client.scores(DELAYED).first().map_or(before, |(_, due)| *due);
        assert!((before..=client.time_ms() + longest).contains(&due), "{retry_count}: {due}");
        client.run(format!("DEL {DELAYED} q"));
    }
    assert_eq!(client.run("TASK.POLICY q BACKOFF 0 0"), ok());
    let id = client.publish("q", "p");
    for count in 1..10 {
        let task = next(&mut client, "g");
        assert_eq!(client.run(format!("TASK.NACK q g c FAIL {}", task.id)), int(1));
        let copy = format!("payload=p timestamp=now retry_count={count} original_id={id}");
        assert_eq!(client.only_task_in("q").fields, copy);
    }
}

#[test]
fn a_reason_is_binary_safe_and_cut_after_1024_bytes() {
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
            let nack = args!["TASK.NACK", "q", "g", "c", mode, id, "REASON", reason];
            assert_eq!(client.cmd(&nack), int(2));
            let dead = client.run(format!("XRANGE {DEAD} - +"));
            let kept = dead.items()[0].items()[1].get("reason").bytes().to_vec();
            assert!(kept == reason[..reason.len().min(1024)], "{}", kept.escape_ascii());
        }
    }
}

#[test]
fn only_the_consumer_with_the_lease_can_return_a_task() {
    let server = Server::start();
    let mut client = server.client();
    let id = leased(&mut client, 0, 0, 1);
    for mode in ["SILENT", "FAIL", "FATAL"] {
        for (group, consumer) in [("g", "other"), ("g", "C"), ("nobody", "c")] {
            let nack = format!("TASK.NACK q {group} {consumer} {mode} {id} DELAY 5 REASON r");
            changes_nothing(&mut client, &nack, int(0));
        }
    }
    // A plain client claims it.
    assert_eq!(client.run(format!("XCLAIM q g other 0 {id} JUSTID")).items().len(), 1);
    changes_nothing(&mut client, &format!("TASK.NACK q g c FATAL {id}"), int(0));
    changes_nothing(&mut client, &format!("TASK.EXTEND q g c {id}"), int(0));
    assert_eq!(client.run(format!("TASK.NACK q g other FATAL {id}")), int(2));
    // An entry that was deleted meanwhile leaves no copy.
    let id = leased(&mut client, 0, 0, 1);
    assert_eq!(client.run(format!("XDEL q {id}")), int(1));
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id}")), int(0));
    assert_eq!(client.run(format!("EXISTS {DELAYED} {DEAD}")), int(0));
    assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
}

#[test]
fn when_memory_is_full_only_publishing_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY q BACKOFF 0 0 TRIES 3"), ok());
    let ids = [(); 8].map(|()| client.publish("q", "p"));
    let urgent = client.publish_with("q", "p", "PRIORITY 3");
    let due = client.publish_with("q", "due", "DELAY 1");
    let later = client.publish_with("q", "p", "DELAY 600000");
    client.run(format!("XADD {DEAD} * payload dead"));
    assert_eq!(client.consume("g", "c", "q", 7).len(), 7);
    eventually(SOON, "it is due", || client.time_ms() > id_ms(&due));
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    for options in ["", " PRIORITY 2", " DELAY 5", " UNIQUE u 5"] {
        let call = format!("TASK.PUBLISH q p{options}");
        assert!(client.run(&call).is_error_with("OOM "), "{call}");
    }
    for (call, reply) in [
        (format!("TASK.ACK q g {} {urgent}", ids[0]), int(2)),
        (format!("TASK.EXTEND q g c {}", ids[1]), int(1)),
        (format!("TASK.NACK q g c FAIL {}", ids[1]), int(1)),
        (format!("TASK.NACK q g c FAIL {} DELAY 600000", ids[2]), int(1)),
        (format!("TASK.NACK q g c SILENT {}", ids[3]), int(1)),
        (format!("TASK.NACK q g c FATAL {} REASON r", ids[4]), int(2)),
        (format!("TASK.CANCEL q {later} {}", ids[7]), int(2)),
        (format!("TASK.REDRIVE {DEAD} q COUNT 1"), int(1)),
        ("TASK.POLICY q LIMIT 99".into(), ok()),
    ] {
        assert_eq!(client.run(&call), reply, "{call}");
    }
    let mut got: Vec<_> = fields(&mut client, "g")
        .into_iter()
        .map(|fields| fields.split(' ').next().unwrap().to_owned())
        .collect();
    got.sort();
    assert_eq!(got, ["payload=dead", "payload=due", "payload=p", "payload=p", "payload=p"]);
    assert!(!client.run("TASK.INFO q").is_error());
}

// ---------------------------------------------------------------------------------------------
// TASK.REDRIVE
// ---------------------------------------------------------------------------------------------

#[test]
fn redriven_tasks_start_with_a_retry_count_of_zero() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY q TRIES 1"), ok());
    let mut ids = Vec::new();
    for (payload, options) in [("a", "5"), ("b", "PRIORITY 7"), ("c", "")] {
        let id = client.publish_with("q", payload, options);
        assert_eq!(client.lease("g", "c", "q"), id);
        let mode = if payload == "c" { "FATAL" } else { "FAIL" };
        assert_eq!(client.run(format!("TASK.NACK q g c {mode} {id} REASON r")), int(2));
        ids.push(id);
    }
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(3));
    let total = client.task_total("redriven");
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q COUNT 1")), int(1));
    assert_eq!(client.tasks_in(DEAD).len(), 2, "the oldest goes first");
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q count 9")), int(2));
    changes_nothing(&mut client, &format!("TASK.REDRIVE {DEAD} q"), int(0));
    assert_eq!(client.task_total("redriven"), total + 3);
    let copy = |payload: &str, id: &str| {
        format!("payload={payload} timestamp=now retry_count=0 original_id={id}")
    };
    let found: Vec<_> = client.tasks_in("q").into_iter().map(|task| task.fields).collect();
    assert_eq!(found, [copy("a", &ids[0]), copy("c", &ids[2])]);
    // Each keeps its priority, and its id tells it.
    let urgent = client.only_task_in("priority7:{q}");
    assert_eq!(urgent.fields, copy("b", &ids[1]));
    let got: Vec<_> = client.consume("g", "c", "q", 9).into_iter().map(|t| t.fields).collect();
    assert_eq!(got, [copy("b", &ids[1]), copy("a", &ids[0]), copy("c", &ids[2])]);
}

#[test]
fn redrive_takes_any_stream_and_moves_1000_tasks_by_default() {
    let server = Server::start();
    let mut client = server.client();
    let lines: Vec<_> =
        (0..2100).map(|n| format!("TASK.RETRY x {n}-1 {n} 3 again letters 3")).collect();
    client.pipeline(&lines);
    assert_eq!(client.run("TASK.REDRIVE letters q"), int(1000));
    assert_eq!(client.run("TASK.REDRIVE letters q COUNT 1050"), int(1050));
    assert_eq!(client.run("TASK.REDRIVE letters q"), int(50));
    assert_eq!(client.run("XLEN letters"), int(0));
    let expected: Vec<_> = (0..2100)
        .map(|n| format!("payload={n} timestamp=now retry_count=0 original_id={n}-1"))
        .collect();
    let found: Vec<_> = client.tasks_in("q").into_iter().map(|task| task.fields).collect();
    assert!(found == expected, "each once, in order");
    for (call, refusal) in [
        ("TASK.REDRIVE q q", "ERR dead_stream and stream are the same"),
        ("TASK.REDRIVE letters q COUNT", "ERR syntax error"),
        ("TASK.REDRIVE letters q 5", "ERR syntax error"),
        ("TASK.REDRIVE letters q COUNT 5 COUNT 5", "ERR syntax error"),
        ("TASK.REDRIVE letters q COUNT 0", "ERR value is out of range, must be positive"),
    ] {
        changes_nothing(&mut client, call, error(refusal));
    }
    changes_nothing(&mut client, "TASK.REDRIVE missing q", int(0));
}

#[test]
fn redrive_continues_behind_dead_letters_that_cannot_be_moved() {
    let server = Server::start();
    let mut client = server.client();
    const REFUSED: usize = 300;
    client.run("SET priority3:{q} v");
    let add = |payload: &str, priority: i64| {
        let death = format!("reason r deliveries 1 priority {priority}");
        format!("XADD {DEAD} * payload {payload} original_id 1-1 {death}")
    };
    client.pipeline(&vec![add("refused", 3); REFUSED]);
    for payload in ["a", "b", "c"] {
        client.run(add(payload, 0));
        client.run(add("refused", 3));
    }
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q COUNT 1")), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(2));
    let refused = client.run(format!("TASK.REDRIVE {DEAD} q"));
    assert!(refused.is_error_with("WRONGTYPE "), "{refused:?}");
    assert_eq!(client.tasks_in(DEAD).len(), REFUSED + 3, "these stay");
    let found = client.run("XRANGE q - +");
    let payload = |task: &Value| task.items()[1].get("payload").as_str().to_owned();
    assert_eq!(found.items().iter().map(payload).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(client.run("DEL priority3:{q}"), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(REFUSED as i64 + 3));
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(0));
}
