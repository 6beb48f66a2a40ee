//! Leases of tasks: when they expire and who gets the task then, how they are extended, what
//! happens to a task that kills its workers, and to leases that plain clients took.

mod support;
use support::consumers::*;
use support::*;

/// The most that a busy machine takes between two looks at the clock, in ms.
const SLACK: i64 = 60_000;

// ---------------------------------------------------------------------------------------------
// Consumers that do not wait
// ---------------------------------------------------------------------------------------------

#[test]
fn an_expired_lease_goes_to_the_next_consumer() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 6] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("TASK.POLICY q LEASE 50"), ok());
        let published = client.publish_with("q", "p", &format!("2 PRIORITY {priority}"));
        let before = client.time_ms();
        let first = client.consume("g", "one", "q", 9);
        assert_eq!(first.len(), 1);
        let reclaimed = client.task_total("reclaimed");
        let second =
            eventually(SOON, "the lease ends", || client.consume("g", "two", "q", 9).pop());
        assert!(client.time_ms() >= before + 50, "it came early");
        assert_eq!((&second.id, &second.fields), (&published, &first[0].fields));
        assert_eq!(second.deliveries, 2);
        assert!((50..SLACK).contains(&second.idle), "{}", second.idle);
        assert_eq!(client.task_total("reclaimed"), reclaimed + 1);
        let lease = client.leases(&stream(priority), "g").remove(0);
        assert_eq!((&*lease.consumer, lease.deliveries), ("two", 2));
        // The first consumer has no lease any more.
        assert_eq!(client.run("TASK.POLICY q LEASE 0"), ok());
        for call in ["EXTEND q g one", "NACK q g one FAIL"] {
            changes_nothing(&mut client, &format!("TASK.{call} {published}"), int(0));
        }
        assert_eq!(client.run(format!("TASK.EXTEND q g two {published}")), int(1));
        assert_eq!(client.run(format!("TASK.ACK q g {published}")), int(1));
    }
}

#[test]
fn expired_leases_come_first_and_the_oldest_before_the_others() {
    let server = Server::start();
    let mut client = server.client();
    let plain = client.publish("q", "a");
    assert_eq!(client.lease("g", "one", "q"), plain);
    // Leased at different times, not in the order of the ids.
    let mut oldest = vec![plain];
    for (payload, options) in [("b", "PRIORITY 9"), ("c", ""), ("d", "PRIORITY 1"), ("e", "")] {
        let now = client.time_ms();
        eventually(SOON, "the clock goes on", || client.time_ms() > now + 2);
        let id = client.publish_with("q", payload, options);
        assert_eq!(client.lease("g", "one", "q"), id);
        oldest.push(id);
    }
    let ready = ["PRIORITY 9", ""].map(|options| client.publish_with("q", "x", options));
    for (key, ids) in [("q", 3), ("priority9:{q}", 1), ("priority1:{q}", 1)] {
        assert_eq!(client.leased_ids(key, "g").len(), ids);
        wait_until_older(&mut client, key, 20);
    }
    assert_eq!(client.run("TASK.POLICY q LEASE 20"), ok());
    let reply = client.run("TASK.CONSUME g two q 2");
    assert_eq!(reply.task_ids(), oldest[..2], "also in the shape of XREADGROUP");
    assert_eq!(client.run("TASK.POLICY q LEASE 0"), ok(), "these do not expire again");
    wait_until_older(&mut client, "q", 20);
    assert_eq!(client.run("TASK.POLICY q LEASE 20"), ok());
    let got = client.consume("g", "two", "q", 100);
    let is_old = |id: &String| oldest.contains(id);
    let ids: Vec<_> = got.iter().map(|task| task.id.clone()).collect();
    assert_eq!(ids.iter().filter(|id| is_old(id)).count(), ids.len() - 2, "{ids:?}");
    assert_eq!(ids[ids.len() - 2..], ready);
    let at = |id: &String| ids.iter().position(|found| found == id);
    assert!(at(&oldest[2]) < at(&oldest[3]) && at(&oldest[3]) < at(&oldest[4]), "{ids:?}");
    assert!(got[..ids.len() - 2].iter().all(|task| task.deliveries >= 2 && task.idle >= 20));
}

#[test]
fn a_lease_is_as_long_as_the_policy_says_or_else_the_configuration() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("q", "p");
    assert_eq!(client.lease("g", "one", "q"), id);
    // An old lease, found by the first call after the data are loaded.
    let old = format!("XCLAIM q g one 0 {id} IDLE 400000 JUSTID");
    let mut gets = |settings: &str| {
        assert_eq!(client.run(&old).items().len(), 1);
        for line in settings.split(';').filter(|line| !line.is_empty()) {
            assert_eq!(client.run(line), ok(), "{line}");
        }
        assert_eq!(client.run("DEBUG RELOAD"), ok());
        // Two calls: the first may not find all leases.
        let mut got = client.consume("g", "one", "q", 1);
        got.extend(client.consume("g", "one", "q", 1));
        got.len()
    };
    assert_eq!(gets(""), 1, "the default is 5 minutes");
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 500000"), 0);
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 400000"), 1);
    assert_eq!(gets("CONFIG SET corral.task-lease-ms 0"), 0, "0: no end");
    assert_eq!(gets("TASK.POLICY q LEASE 400000"), 1, "the policy takes precedence");
    assert_eq!(gets("TASK.POLICY q LEASE 500000;CONFIG SET corral.task-lease-ms 5"), 0);
    assert_eq!(gets("TASK.POLICY q LEASE 0"), 0);
}

// ---------------------------------------------------------------------------------------------
// Waiting consumers
// ---------------------------------------------------------------------------------------------

#[test]
fn a_waiting_consumer_gets_the_task_of_a_dead_worker_when_its_lease_expires() {
    const LEASE: i64 = 200;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    for waits_first in [true, false] {
        for priority in [0, 9] {
            let early = if waits_first {
                // The first in line becomes the worker.
                let mut worker = waiter(&server, "worker");
                let next = waiter(&server, "c0");
                let begin = client.time_ms();
                let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
                gets(&mut worker, "p");
                Some((next, begin, id))
            } else {
                None
            };
            let (mut next, begin, id) = early.unwrap_or_else(|| {
                let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
                let (_, begin) = worker_dies(&server);
                (waiter(&server, "c0"), begin, id)
            });
            let got = gets(&mut next, "p");
            on_time(got.at, begin + LEASE);
            assert_eq!((&got.id, got.deliveries), (&id, 2));
            assert!((LEASE..=LEASE + LATE).contains(&got.idle), "{}", got.idle);
            let stream = if priority == 9 { "priority9:{q}" } else { "q" };
            assert_eq!(holders(&mut client, stream), ["c0"]);
            assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
            assert_eq!(task_info(&mut client, "length"), 0);
        }
    }
}

#[test]
fn expired_leases_go_down_the_line_in_their_order() {
    const LEASE: i64 = 4000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    // Leases that expire one after the other, and all at once.
    for (batches, size) in [(3, 1), (1, 20)] {
        let count = batches * size;
        (0..count).for_each(|number| drop(publish(&mut client, &number.to_string(), "")));
        let begins: Vec<_> = (0..batches)
            .map(|_| {
                let begin = client.time_ms();
                let taken = client.run(format!("TASK.CONSUME g worker q COUNT {size}"));
                assert_eq!(taken.task_ids().len(), size);
                client.wait_ms(60);
                begin
            })
            .collect();
        let mut waiters = line(&server, count);
        for (number, waiter) in waiters.iter_mut().enumerate() {
            let got = gets(waiter, &number.to_string());
            on_time(got.at, begins[number / size] + LEASE);
            assert_eq!(got.deliveries, 2);
        }
        run_all(&mut client, &["DEL q"]);
    }
}

#[test]
fn the_consumers_behind_one_that_gets_an_expired_lease_get_new_tasks_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    // No other lease expires, and no sweep runs, during the test.
    policy(&mut client, &format!("LEASE {LONG}"));
    for count in [2, 5] {
        let left = publish(&mut client, "left", "");
        run_all(&mut client, &["DEL q"]);
        run_all(
            &mut client,
            &[format!("XADD q {left} payload left"), "XGROUP CREATE q g 0".into()],
        );
        client.run("XREADGROUP GROUP g worker STREAMS q >");
        let end = client.time_ms() + 1500;
        let idle = format!("XCLAIM q g worker 0 {left} IDLE {} JUSTID", LONG - 1500);
        assert_eq!(client.run(idle), array([&*left]));
        let mut waiters = line(&server, count);
        // The server is busy when the lease expires; tasks are published before its timers run.
        let busy = (end - client.time_ms()).max(0) + 300;
        let mut lines = vec![format!("DEBUG SLEEP {}", busy as f64 / 1000.0)];
        lines.extend((1..count).map(|_| "TASK.PUBLISH q next".to_owned()));
        let replies = client.pipeline(&lines);
        assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
        let got = gets(&mut waiters[0], "left");
        assert_eq!((&got.id, got.deliveries), (&left, 2));
        waiters[1..].iter_mut().for_each(|waiter| drop(gets(waiter, "next")));
        run_all(&mut client, &["DEL q"]);
    }
}

#[test]
fn an_extended_lease_expires_later() {
    const LEASE: i64 = 2000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    for waits in [true, false] {
        let id = publish(&mut client, "p", "");
        worker_dies(&server);
        let mut next = if waits { waiter(&server, "c") } else { server.client() };
        let mut begin = 0;
        for _ in 0..5 {
            begin = client.time_ms();
            assert_eq!(client.run(format!("TASK.EXTEND q g worker {id}")), int(1));
            client.wait_past(begin + 60);
        }
        let got = if waits {
            let got = gets(&mut next, "p");
            on_time(got.at, begin + LEASE);
            got
        } else {
            let ask = || deliveries(&next.run("TASK.CONSUME g c q META"), now_ms()).pop();
            let got = eventually(SOON, "the lease expires", ask);
            assert!(got.at >= begin + LEASE, "{} ms early", begin + LEASE - got.at);
            got
        };
        assert_eq!((&got.id, got.deliveries), (&id, 2));
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    }
}

#[test]
fn a_finished_task_is_not_delivered_again_when_its_lease_would_expire() {
    let server = Checked::start();
    let mut client = server.client();
    for finish in [
        "TASK.ACK q g {id}",
        "TASK.NACK q g worker FATAL {id}",
        "TASK.RETRY q {id} p 0 elsewhere dead 3 g",
        // What plain clients do.
        "XACK q g {id}",
        "XDEL q {id}",
        "XTRIM q MAXLEN 0",
        "XGROUP DELCONSUMER q g worker",
        "XGROUP DESTROY q g",
        "DEL q",
        "RENAME q elsewhere",
        "PEXPIRE q 30",
        "FLUSHALL",
    ] {
        policy(&mut client, "LEASE 400");
        let mut next = waiter(&server, "c");
        let mut worker = server.client();
        // The waiting consumer gets it, and waits again.
        let id = publish(&mut client, "p", "");
        gets(&mut next, "p");
        assert_eq!(client.run(format!("XCLAIM q g worker 0 {id} JUSTID")), array([&*id]));
        let begin = client.time_ms();
        stand(&mut next, &wait_as("c"));
        run_all(&mut worker, &[finish.replace("{id}", &id)]);
        let expected = if finish.starts_with("XGROUP DESTROY") { "p" } else { "next" };
        client.wait_past(begin + 450);
        if expected == "next" {
            still_wait(&server, 1);
            publish(&mut client, "next", "");
        }
        let got = gets(&mut next, expected);
        assert_eq!(got.deliveries, 1, "{finish}");
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_waiting_consumer_gets_its_own_expired_task_again() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 120");
    publish(&mut client, "p", "");
    let begin = client.time_ms();
    assert_eq!(client.run("TASK.CONSUME g same q META").items().len(), 1);
    let mut same = waiter(&server, "same");
    let got = gets(&mut same, "p");
    on_time(got.at, begin + 120);
    assert_eq!(got.deliveries, 2);
}

#[test]
fn a_lease_without_end_expires_once_the_policy_sets_one() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 0");
    publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut next = waiter(&server, "c");
    client.wait_past(begin + 200);
    still_wait(&server, 1);
    policy(&mut client, "LEASE 100");
    assert_eq!(gets(&mut next, "p").deliveries, 2);
}

#[test]
fn a_changed_lease_applies_to_waiting_consumers() {
    let server = Checked::start();
    let mut client = server.client();
    for (first, second) in [(LONG, 400), (LONG, 60), (1500, 2000)] {
        policy(&mut client, &format!("LEASE {first}"));
        let id = publish(&mut client, "p", "");
        let (_, begin) = worker_dies(&server);
        let mut next = waiter(&server, "c");
        client.wait_past(begin + 100);
        let changed = client.time_ms();
        policy(&mut client, &format!("LEASE {second}"));
        let got = gets(&mut next, "p");
        assert!(got.at >= begin + second, "{} ms early", begin + second - got.at);
        assert!(got.at <= changed.max(begin + second) + LATE, "late");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    }
}

#[test]
fn without_a_policy_lease_and_tries_are_those_of_the_configuration() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(
        &mut client,
        &["CONFIG SET corral.task-lease-ms 200", "CONFIG SET corral.task-tries 2"],
    );
    publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    let got = gets(&mut waiters[0], "p");
    on_time(got.at, begin + 200);
    assert_eq!(got.deliveries, 2);
    let mut letters = waiter_with(&server, &format!("TASK.CONSUME g u {DEAD} BLOCK 0 META"));
    let dead = gets(&mut letters, "p");
    on_time(dead.at, begin + 400);
    assert_eq!(dead.text("deliveries"), "2");
    still_wait(&server, 1);
}

// ---------------------------------------------------------------------------------------------
// Tasks that kill their workers
// ---------------------------------------------------------------------------------------------

#[test]
fn a_task_that_kills_its_workers_is_dead_lettered_after_its_tries() {
    let server = Server::start();
    let mut client = server.client();
    for (priority, before, tries) in [(0, 0, 3), (4, 0, 3), (0, 2, 3), (0, 0, 1), (0, 7, 3)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let totals = ["reclaimed", "dead_lettered"].map(|name| client.task_total(name));
        assert_eq!(client.run(format!("TASK.POLICY q LEASE 20 TRIES {tries}")), ok());
        let id = client.publish_with("q", "p", &format!("{before} PRIORITY {priority}"));
        let mut deliveries = Vec::new();
        eventually(SOON, "it is a dead letter", || {
            for task in client.consume("g", "c", "q", 9) {
                assert_eq!(task.id, id);
                deliveries.push(task.deliveries);
            }
            client.run(format!("XLEN {DEAD}")) == int(1)
        });
        // It is tried at least once.
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
        assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
        let grown = ["reclaimed", "dead_lettered"].map(|name| client.task_total(name));
        assert_eq!((grown[0] - totals[0], grown[1] - totals[1]), (times - 1, 1));
    }
}

// ---------------------------------------------------------------------------------------------
// Leases of plain clients
// ---------------------------------------------------------------------------------------------

#[test]
fn a_lease_that_a_plain_client_took_expires() {
    const LEASE: i64 = 300;
    // The longest time until the sweep finds it.
    const SWEEP: i64 = 1000;
    const PRIORITY: &str = "priority3:{q}";
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    let mut begins = Vec::new();
    for (number, (queue, id)) in
        [("q", "1-1"), (PRIORITY, "1-300000000000000000")].iter().enumerate()
    {
        run_all(&mut client, &[format!("XGROUP CREATE {queue} g 0 MKSTREAM")]);
        run_all(&mut client, &[format!("XADD {queue} {id} payload p{number}")]);
        begins.push(client.time_ms());
        let read = client.run(format!("XREADGROUP GROUP g plain STREAMS {queue} >"));
        assert_eq!(read.task_payloads(), [format!("p{number}")]);
    }
    let mut waiters = line(&server, 2);
    let mut got: Vec<_> = waiters.iter_mut().flat_map(gets_some).collect();
    got.sort_by_key(|task| task.text("payload").to_owned());
    for (task, begin) in got.iter().zip(begins) {
        assert!(task.at >= begin + LEASE, "{} ms early", begin + LEASE - task.at);
        assert!(task.at <= begin + LEASE + SWEEP + LATE, "late: {} ms", task.at - begin);
        assert_eq!(task.deliveries, 2);
        assert!(task.idle >= LEASE, "{}", task.idle);
    }
}

#[test]
fn a_task_claimed_by_a_plain_client_stays_with_it_for_a_lease() {
    const LEASE: i64 = 1500;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    let id = publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut next = waiter(&server, "c");
    client.wait_past(begin + 150);
    let claimed = client.time_ms();
    assert_eq!(client.run(format!("XCLAIM q g foreign 0 {id} JUSTID")), array([&*id]));
    let got = gets(&mut next, "p");
    assert!(got.at >= claimed + LEASE, "{} ms early", claimed + LEASE - got.at);
    assert!(got.at <= claimed + LEASE + 1000 + LATE, "late: {} ms", got.at - claimed);
}

// ---------------------------------------------------------------------------------------------
// Idle consumers
// ---------------------------------------------------------------------------------------------

/// The checksum at the end of a DUMP.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 }
        })
    })
}

/// Moves everything that the consumers of a stream did `ms` into the past.
#[track_caller]
fn age(client: &mut Client, stream: &str, ms: i64) {
    let now = client.time_ms();
    let mut dump = client.cmd(&args!["DUMP", stream]).bytes().to_vec();
    let end = dump.len() - 8;
    // Only the times of consumers are stored like this.
    let mut place = 0;
    while place + 8 <= end {
        let bytes: [u8; 8] = dump[place..place + 8].try_into().expect("eight bytes");
        let time = i64::from_le_bytes(bytes);
        if (now - 60_000..=now).contains(&time) {
            dump[place..place + 8].copy_from_slice(&(time - ms).to_le_bytes());
            place += 8;
        } else {
            place += 1;
        }
    }
    let crc = crc64(&dump[..end]);
    dump[end..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(client.cmd(&args!["RESTORE", stream, 0, dump, "REPLACE"]), ok());
}

/// The names of the consumers of the group `g`.
#[track_caller]
fn consumers(client: &mut Client, stream: &str) -> Vec<String> {
    let consumers = client.run(format!("XINFO CONSUMERS {stream} g"));
    let name = |consumer: &Value| consumer.get("name").as_str().to_owned();
    consumers.items().iter().map(name).collect()
}

#[test]
fn consumers_without_tasks_are_dropped_after_an_idle_hour() {
    const HOUR: i64 = 3_600_000;
    let server = Checked::start();
    let mut client = server.client();
    for (ms, dropped) in [(HOUR + 60_000, true), (HOUR - 120_000, false)] {
        run_all(&mut client, &["FLUSHALL", "TASK.POLICY q LEASE 86400000"]);
        publish(&mut client, "p", "");
        worker_dies(&server);
        for name in ["gone-1", "gone-2"] {
            assert_eq!(client.run(format!("XGROUP CREATECONSUMER q g {name}")), int(1));
        }
        age(&mut client, "q", ms);
        let look = "TASK.CONSUME g fresh q META";
        let nothing = no_tasks();
        if dropped {
            eventually(SOON, "the names are dropped", || {
                assert_eq!(client.run(look), nothing);
                // Some servers create a consumer when it asks, some when it gets a task.
                consumers(&mut client, "q").iter().all(|name| !name.starts_with("gone"))
            });
        } else {
            for _ in 0..10 {
                assert_eq!(client.run(look), nothing);
            }
            assert!(consumers(&mut client, "q").contains(&"gone-1".to_owned()));
        }
        // A consumer with leases stays.
        assert!(consumers(&mut client, "q").contains(&"worker".to_owned()));
        assert_eq!(holders(&mut client, "q"), ["worker"]);
    }
}
