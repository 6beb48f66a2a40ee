//! TASK.PUBLISH … UNIQUE id ms [UNTIL START|DONE] [LAST]: a deduplication window that ends with its
//! task, and publishes of which the last one wins. `taskmarks:{q}` has a field for each live task that
//! was published so, and `taskheld:{q}` the tasks that wait until another one has ended.

mod support;
use support::consumers::{DEAD, DELAYED, stream};
use support::*;

const MARKS: &str = "taskmarks:{q}";
const HELD: &str = "taskheld:{q}";
const MOVED: &str = "taskmoved:{q}";
const WINDOW: &str = "unique1:{q}:u";
const FAR: i64 = 600_000;

const DONE: &str = "UNIQUE u 600000 UNTIL DONE";
const START: &str = "UNIQUE u 600000 UNTIL START";
const LAST: &str = "UNIQUE u 600000 UNTIL DONE LAST";

/// Publishes, and returns the id and what became of the task.
#[track_caller]
fn publish(client: &mut Client, payload: &str, options: &str) -> (String, String) {
    let reply = client.run(format!("TASK.PUBLISH q {payload} {options} META"));
    match reply.items() {
        [id, what] => (id.as_str().to_owned(), what.as_str().to_owned()),
        _ => panic!("{options}: {reply:?}"),
    }
}

/// As [`publish`], for a certain outcome. Returns the id.
#[track_caller]
fn publishes(client: &mut Client, payload: &str, options: &str, expected: &str) -> String {
    let (id, what) = publish(client, payload, options);
    assert_eq!(what, expected, "{payload} {options}");
    id
}

/// The fields of a hash, in order.
#[track_caller]
fn fields(client: &mut Client, key: &str) -> Vec<(String, String)> {
    let all = client.run(format!("HGETALL {key}"));
    let text = |value: &Value| value.as_str().to_owned();
    let pairs = all.items().chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1])));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

#[track_caller]
fn marked(client: &mut Client, id: &str, mark: &str) {
    assert_eq!(fields(client, MARKS), [(id.to_owned(), mark.to_owned())]);
}

/// Checks that no mark, no held task, no moved task and no window is left.
#[track_caller]
fn nothing_is_left(client: &mut Client, what: &str) {
    let keys = client.run(format!("EXISTS {MARKS} {HELD} {MOVED} {WINDOW}"));
    assert_eq!(keys, int(0), "{what}: {:?}", client.run("KEYS *"));
}

#[track_caller]
fn state(client: &mut Client, id: &str) -> String {
    let state = client.run(format!("TASK.STATE q {id}"));
    if state.is_nil() { "gone".into() } else { state.get("state").as_str().to_owned() }
}

#[track_caller]
fn ack(client: &mut Client, id: &str) {
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
}

// ---------------------------------------------------------------------------------------------
// UNTIL
// ---------------------------------------------------------------------------------------------

#[test]
fn the_window_ends_with_the_first_delivery_or_with_the_task() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 4] {
        for (options, mark) in [(START, "start - u"), (DONE, "done - u")] {
            assert_eq!(client.run("FLUSHALL"), ok());
            let options = &format!("{options} PRIORITY {priority}");
            let id = publishes(&mut client, "first", options, "added");
            marked(&mut client, &id, mark);
            assert_eq!(publishes(&mut client, "again", options, "duplicate"), id);
            assert_eq!(client.lease("g", "c", "q"), id);
            if mark.starts_with("start") {
                nothing_is_left(&mut client, options);
                let next = publishes(&mut client, "next", options, "added");
                assert_ne!(next, id);
                ack(&mut client, &id);
                // It is the window of another task by now.
                marked(&mut client, &next, mark);
                assert_eq!(client.run(format!("GET {WINDOW}")), bulk(&next));
            } else {
                assert_eq!(publishes(&mut client, "again", options, "duplicate"), id);
                ack(&mut client, &id);
                nothing_is_left(&mut client, options);
                assert_ne!(publishes(&mut client, "next", options, "added"), id);
            }
        }
    }
}

/// A consumer that waits gets the task in the step that publishes it.
#[test]
fn a_task_that_is_handed_over_at_once_has_started() {
    let server = Server::start();
    let mut client = server.client();
    for (options, is_left) in [(START, 0), (DONE, 2)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let mut waiter = server.client();
        server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
        let id = publishes(&mut client, "p", options, "added");
        assert_eq!(waiter.read().delivered()[0].id, id);
        assert_eq!(client.run(format!("EXISTS {MARKS} {WINDOW}")), int(is_left), "{options}");
        ack(&mut client, &id);
        nothing_is_left(&mut client, options);
    }
}

#[test]
fn the_window_ends_with_its_time_at_the_latest() {
    let server = Server::start();
    let mut client = server.client();
    let first = publishes(&mut client, "p", "UNIQUE u 30 UNTIL DONE", "added");
    eventually(SOON, "it ends", || client.run(format!("EXISTS {WINDOW}")) == int(0));
    let second = publishes(&mut client, "p", DONE, "added");
    assert_eq!(client.consume("g", "c", "q", 2).len(), 2);
    // The end of the first one leaves the window of the second alone.
    ack(&mut client, &first);
    assert_eq!(publishes(&mut client, "p", DONE, "duplicate"), second);
    ack(&mut client, &second);
    nothing_is_left(&mut client, "time");
}

/// Every way out, after every kind of move.
#[test]
fn the_mark_goes_with_its_task_on_every_way_out() {
    let server = Server::start();
    let mut client = server.client();
    for options in [START, DONE, LAST] {
        for moved in ["", "NACK", "DELAY", "RESCHEDULE", "RETRY"] {
            for end in ["ACK", "FATAL", "CANCEL", "FORCE", "RETRY", "KEEP", "REDRIVE", "TRIES"] {
                let what = &format!("{options} {moved} {end}");
                assert_eq!(client.run("FLUSHALL"), ok());
                client.run("TASK.POLICY q LEASE 20 BACKOFF 0 0");
                let delay = if moved == "DELAY" { "DELAY 1" } else { "" };
                let id = publishes(&mut client, "p", &format!("{options} {delay}"), "added");
                let mut leased = String::new();
                match moved {
                    "NACK" | "RETRY" => {
                        assert_eq!(client.lease("g", "c", "q"), id);
                        let call = if moved == "NACK" {
                            format!("TASK.NACK q g c FAIL {id}")
                        } else {
                            format!("TASK.RETRY q {id} p 0 q {DEAD} 3")
                        };
                        assert!(!client.run(call).is_error(), "{what}");
                    }
                    "RESCHEDULE" => {
                        assert_eq!(
                            client.run(format!("TASK.RESCHEDULE q {id} PRIORITY 3")),
                            int(1)
                        );
                    }
                    "DELAY" => client.wait_past(id_ms(&id)),
                    _ => {}
                }
                if end != "CANCEL" {
                    leased = client.lease("g", "c", "q");
                } else if moved == "DELAY" {
                    leased = client.lease("g", "c", "q");
                    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {leased}")), int(1));
                }
                match end {
                    "ACK" => ack(&mut client, &leased),
                    "KEEP" => {
                        client.run("TASK.POLICY q KEEP 1");
                        ack(&mut client, &leased);
                    }
                    "FATAL" | "REDRIVE" => {
                        assert_eq!(client.run(format!("TASK.NACK q g c FATAL {leased}")), int(2));
                    }
                    "CANCEL" => assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(1)),
                    "FORCE" => assert_eq!(client.run(format!("TASK.CANCEL q {id} FORCE")), int(1)),
                    "RETRY" => {
                        let call = format!("TASK.RETRY q {leased} p 0 other {DEAD} 3");
                        assert_eq!(client.run(call), ok());
                    }
                    _ => {
                        // Its lease expires once too often.
                        client.run("TASK.POLICY q TRIES 1");
                        eventually(SOON, "it is dead", || {
                            client.run("TASK.CONSUME g c q");
                            client.run(format!("XLEN {DEAD}")) == int(1)
                        });
                    }
                }
                if end == "REDRIVE" {
                    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
                    // It has no mark any more: another one may be published.
                    assert_eq!(client.run(format!("EXISTS {MARKS} {WINDOW}")), int(0), "{what}");
                    publishes(&mut client, "p", options, "added");
                } else {
                    nothing_is_left(&mut client, what);
                }
            }
        }
    }
}

#[test]
fn what_other_clients_end_ends_the_mark_by_the_sweep() {
    let server = Server::start();
    let mut client = server.client();
    for options in [START, DONE, LAST] {
        for (lease, end) in [
            (false, "XDEL q ID"),
            (false, "XTRIM q MAXLEN 0"),
            (true, "XACK q g ID"),
            (true, "XDEL q ID"),
            (true, "DEL q"),
        ] {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
            assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
            let id = publishes(&mut client, "p", options, "added");
            if lease {
                // A plain client reads it: nothing reports that it has started.
                client.run("XREADGROUP GROUP g c STREAMS q >");
                assert_eq!(client.run(format!("HLEN {MARKS}")), int(1));
            }
            client.run(end.replace("ID", &id));
            eventually(SOON, end, || {
                assert_eq!(client.consume("g", "c", "q", 9), [], "{options} {end}");
                client.run(format!("EXISTS {MARKS} {WINDOW}")) == int(0)
            });
        }
    }
    // A plain client that reads the task has started it.
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY q LEASE 600000"), ok());
    assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
    publishes(&mut client, "p", START, "added");
    client.run("XREADGROUP GROUP g c STREAMS q >");
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
    eventually(SOON, "it has started", || client.run(format!("EXISTS {WINDOW}")) == int(0));
    nothing_is_left(&mut client, "XREADGROUP");
}

/// After the only group was destroyed, a task is ready again for the next one, unless that begins at
/// the end.
#[test]
fn the_mark_follows_the_task_through_the_end_of_its_group() {
    let server = Server::start();
    let mut client = server.client();
    for (create, is_left) in [("", true), ("XGROUP CREATE q g $", false)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
        let id = publishes(&mut client, "p", DONE, "added");
        assert_eq!(client.lease("g", "c", "q"), id);
        assert_eq!(client.run("XGROUP DESTROY q g"), int(1));
        if is_left {
            assert_eq!(client.lease("h", "c", "q"), id);
            assert_eq!(publishes(&mut client, "p", DONE, "duplicate"), id);
            assert_eq!(client.run(format!("TASK.ACK q h {id}")), int(1));
        } else {
            assert_eq!(client.run(create), ok());
            eventually(SOON, "the sweep", || {
                assert_eq!(client.consume("g", "c", "q", 9), []);
                client.run(format!("EXISTS {MARKS}")) == int(0)
            });
        }
        nothing_is_left(&mut client, create);
    }
}

#[test]
fn a_large_number_of_marks_is_swept_in_pages() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
    let calls: Vec<String> = (0..1_000)
        .flat_map(|n| [format!("HSET {MARKS} {n}-1 \"done\""), format!("HSET {MARKS} x{n} y")])
        .collect();
    client.pipeline(&calls);
    let id = publishes(&mut client, "p", &format!("{DONE} DELAY {FAR}"), "added");
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0");
    eventually(SOON, "one is left", || client.run(format!("HLEN {MARKS}")) == int(1));
    marked(&mut client, &id, "done - u");
}

// ---------------------------------------------------------------------------------------------
// LAST
// ---------------------------------------------------------------------------------------------

#[test]
fn a_later_publish_takes_the_place_of_a_waiting_task() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
    // A ready task goes to the tail, under its first id.
    let id = publishes(&mut client, "one", LAST, "added");
    client.publish("q", "between");
    let end = client.run(format!("PEXPIRETIME {WINDOW}"));
    client.wait_ms(2);
    assert_eq!(publishes(&mut client, "two", LAST, "replaced"), id);
    assert_eq!(client.run(format!("PEXPIRETIME {WINDOW}")), end, "the window is not renewed");
    assert_eq!(client.run("XLEN q"), int(2));
    assert_eq!(state(&mut client, &id), "ready");
    // Another priority.
    assert_eq!(publishes(&mut client, "three", &format!("{LAST} PRIORITY 6"), "replaced"), id);
    assert_eq!((client.run("XLEN q"), client.run(format!("XLEN {}", stream(6)))), (int(1), int(1)));
    // Later, sooner, and now again.
    assert_eq!(publishes(&mut client, "four", &format!("{LAST} DELAY {FAR}"), "replaced"), id);
    assert_eq!(state(&mut client, &id), "delayed");
    assert_eq!(publishes(&mut client, "five", &format!("{LAST} DELAY 500"), "replaced"), id);
    assert_eq!(client.scores(DELAYED).len(), 1);
    let due = client.run(format!("TASK.STATE q {id}")).get("due_ms").as_int();
    assert!(due <= 500, "{due}");
    assert_eq!(publishes(&mut client, "six", &format!("{LAST} PRIORITY 1"), "replaced"), id);
    assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
    // Its worker gets the last payload, and the key of all attempts.
    let tasks = client.consume("g", "c", "q", 9);
    let [six, between] = &tasks[..] else { panic!("{tasks:?}") };
    assert_eq!(six.fields, format!("payload=six timestamp=now retry_count=0 original_id={id}"));
    assert_eq!(between.payload(), "between");
    ack(&mut client, &six.id.clone());
    nothing_is_left(&mut client, "replaced");
}

#[test]
fn a_task_in_back_off_gets_the_last_payload_and_keeps_its_time_and_its_tries() {
    let server = Server::start();
    let mut client = server.client();
    let id = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id} DELAY {FAR}")), int(1));
    let due = client.scores(DELAYED)[0].1;
    for options in ["", "DELAY 5"] {
        assert_eq!(publishes(&mut client, "two", &format!("{LAST} {options}"), "replaced"), id);
        let [(member, at)] = &client.scores(DELAYED)[..] else { panic!("not one") };
        assert_eq!(*at, due);
        assert!(member.ends_with(&format!(":{id} 0 1 - two")), "{member}");
    }
    let later = &format!("{LAST} AT {}", due + 1000);
    assert_eq!(publishes(&mut client, "three", later, "replaced"), id);
    assert_eq!(client.scores(DELAYED)[0].1, due + 1000);
}

#[test]
fn while_a_task_is_leased_one_successor_is_held() {
    let server = Server::start();
    let mut client = server.client();
    let first = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), first);
    let held = publishes(&mut client, "two", LAST, "queued");
    assert_ne!(held, first);
    let marks = [(first.clone(), format!("done {held} u")), (held.clone(), "done - u".to_owned())];
    assert_eq!(fields(&mut client, MARKS), marks);
    assert_eq!(state(&mut client, &held), "held");
    assert_eq!(client.run("TASK.INFO q").get("held"), &int(1));
    for payload in ["three", "four", "four"] {
        assert_eq!(publishes(&mut client, payload, LAST, "replaced"), held);
        assert_eq!(client.run(format!("ZCARD {HELD}")), int(1));
    }
    // Nothing else is delivered, and neither is it a duplicate for a publish without LAST.
    assert_eq!(client.consume("g", "d", "q", 9), []);
    assert_eq!(publishes(&mut client, "five", DONE, "duplicate"), held);
    // A retry of the first one lets it wait.
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {first} DELAY 0")), int(1));
    assert_eq!(state(&mut client, &held), "held");
    let again = client.consume_only("g", "c", "q");
    assert_eq!(again.payload(), "one");
    ack(&mut client, &again.id);
    assert_eq!(state(&mut client, &held), "ready");
    assert_eq!(client.run(format!("EXISTS {HELD}")), int(0));
    marked(&mut client, &held, "done - u");
    // While it waits it is replaced, and its own successor is held again.
    assert_eq!(publishes(&mut client, "six", LAST, "replaced"), held);
    let second = client.consume_only("g", "c", "q");
    assert_eq!(
        second.fields,
        format!("payload=six timestamp=now retry_count=0 original_id={held}")
    );
    let third = publishes(&mut client, "seven", LAST, "queued");
    ack(&mut client, &second.id);
    let last = client.consume_only("g", "c", "q");
    assert_eq!((last.payload(), state(&mut client, &third)), ("seven", "leased".to_owned()));
    ack(&mut client, &last.id);
    nothing_is_left(&mut client, "successors");
}

#[test]
fn the_held_task_enters_whatever_ends_the_first_one() {
    let server = Server::start();
    let mut client = server.client();
    for priority in [0, 5] {
        for end in ["ACK", "FATAL", "FORCE", "RETRY", "XACK", "XDEL", "expired window", "no marks"]
        {
            let what = &format!("{end}, priority {priority}");
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run("TASK.POLICY q LEASE 600000"), ok());
            let options = &format!("{LAST} PRIORITY {priority}");
            let key = &stream(priority);
            let first = publishes(&mut client, "one", options, "added");
            assert_eq!(client.lease("g", "c", "q"), first);
            let held = publishes(&mut client, "two", options, "queued");
            let mut waiter = server.client();
            server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
            let (call, reply) = match end {
                "FATAL" => (format!("TASK.NACK q g c FATAL {first}"), int(2)),
                "FORCE" => (format!("TASK.CANCEL q {first} FORCE"), int(1)),
                "RETRY" => (format!("TASK.RETRY q {first} p 0 other {DEAD} 3"), ok()),
                "XACK" => (format!("XACK {key} g {first}"), int(1)),
                "XDEL" => (format!("XDEL {key} {first}"), int(1)),
                _ => {
                    let gone = if end == "no marks" { MARKS } else { WINDOW };
                    assert_eq!(client.run(format!("DEL {gone}")), int(1));
                    (format!("TASK.ACK q g {first}"), int(1))
                }
            };
            assert_eq!(client.run(&call), reply, "{what}");
            if end == "XDEL" {
                // The entry is gone, and its lease is not: that is noticed when it has expired.
                assert_eq!(client.run("TASK.POLICY q LEASE 100"), ok());
            }
            let got =
                waiter.read_timeout(SOON).unwrap_or_else(|| panic!("{what}")).delivered().remove(0);
            let fields = format!("payload=two timestamp=now retry_count=0 original_id={held}");
            assert_eq!(got.fields, fields, "{what}");
            ack(&mut client, &got.id);
            eventually(SOON, what, || {
                client.run("TASK.CONSUME g c q");
                client.run(format!("EXISTS {HELD} {MOVED} {MARKS}")) == int(0)
            });
            if end != "no marks" {
                nothing_is_left(&mut client, what);
            }
        }
    }
}

#[test]
fn a_held_task_is_canceled_rescheduled_and_delayed() {
    let server = Server::start();
    let mut client = server.client();
    let first = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), first);
    let held = publishes(&mut client, "two", LAST, "queued");
    assert_eq!(client.run(format!("TASK.CANCEL q {held}")), int(1));
    assert_eq!(state(&mut client, &held), "gone");
    // The window is that of the first one again.
    marked(&mut client, &first, "done - u");
    assert_eq!(client.run(format!("GET {WINDOW}")), bulk(&first));
    assert!(client.run(format!("PTTL {WINDOW}")).as_int() > 0);
    let held = publishes(&mut client, "three", &format!("{LAST} DELAY {FAR}"), "queued");
    let due = client.run(format!("TASK.STATE q {held}")).get("due_ms").as_int();
    assert!((FAR - 60_000..=FAR).contains(&due), "{due}");
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {held} PRIORITY 8")), int(1));
    changes_nothing(&mut client, &format!("TASK.RESCHEDULE q {held} PRIORITY 8"), int(1));
    assert_eq!(state(&mut client, &held), "held");
    ack(&mut client, &first);
    assert_eq!(state(&mut client, &held), "delayed");
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {held} DELAY 0")), int(1));
    let got = client.consume_only("g", "c", "q");
    assert!(got.id.ends_with("-800000000000000000"), "{got:?}");
    ack(&mut client, &got.id);
    nothing_is_left(&mut client, "delayed");
    // Due at once, after all.
    let first = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), first);
    let held = publishes(&mut client, "two", &format!("{LAST} DELAY {FAR}"), "queued");
    assert_eq!(client.run(format!("TASK.RESCHEDULE q {held} DELAY 0")), int(1));
    ack(&mut client, &first);
    assert_eq!(client.consume_payloads("g", "q", 9), ["two"]);
}

/// Without UNTIL the window is a time. LAST loses nothing there either.
#[test]
fn without_until_the_last_publish_wins_within_its_time() {
    let server = Server::start();
    let mut client = server.client();
    let options = "UNIQUE u 600000 LAST";
    let first = publishes(&mut client, "one", options, "added");
    marked(&mut client, &first, "time - u");
    assert_eq!(publishes(&mut client, "two", options, "replaced"), first);
    let got = client.consume_only("g", "c", "q");
    let held = publishes(&mut client, "three", options, "queued");
    ack(&mut client, &got.id);
    // Its window lasts.
    assert_eq!(client.run(format!("GET {WINDOW}")), bulk(&held));
    let got = client.consume_only("g", "c", "q");
    ack(&mut client, &got.id);
    assert_eq!(client.run(format!("EXISTS {MARKS} {HELD} {MOVED}")), int(0));
    assert_eq!(publishes(&mut client, "four", "UNIQUE u 600000", "duplicate"), held);
    let next = publishes(&mut client, "five", options, "added");
    assert_ne!(next, held);
    // A task that was published without LAST is replaced, too.
    assert_eq!(client.run("FLUSHALL"), ok());
    let plain = publishes(&mut client, "one", "UNIQUE u 600000", "added");
    assert_eq!(publishes(&mut client, "two", LAST, "replaced"), plain);
    marked(&mut client, &plain, "done - u");
    let got = client.consume_only("g", "c", "q");
    ack(&mut client, &got.id);
    nothing_is_left(&mut client, "plain first");
    let plain = publishes(&mut client, "one", "UNIQUE u 600000", "added");
    assert_eq!(client.lease("g", "c", "q"), plain);
    let held = publishes(&mut client, "two", LAST, "queued");
    ack(&mut client, &plain);
    assert_eq!(state(&mut client, &held), "ready");
}

/// Republishing does not put a task off for longer than its window.
#[test]
fn republishing_starves_no_task() {
    let server = Server::start();
    let mut client = server.client();
    let first = publishes(&mut client, "p", "UNIQUE u 200 LAST DELAY 150", "added");
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
    let got = eventually(SOON, "it is delivered although it is always put off", || {
        publish(&mut client, "p", "UNIQUE u 200 LAST DELAY 150");
        waiter.read_timeout(std::time::Duration::from_millis(20))
    });
    assert!(got.delivered()[0].fields.ends_with(&format!("original_id={first}")), "{got:?}");
}

#[test]
fn many_publishers_and_one_worker_lose_nothing_and_run_one_at_a_time() {
    let server = Server::start();
    let publishers = 50;
    let rounds = 20;
    let mut clients = server.clients(publishers);
    let mut worker = server.client();
    let mut watcher = server.client();
    let mut last = String::new();
    let mut worked = Vec::new();
    worker.send("TASK.CONSUME g c q BLOCK 0 META");
    for round in 0..rounds {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("TASK.PUBLISH q {round}-{n} {LAST} META"));
        }
        for client in &mut clients {
            assert!(!client.read().is_error());
        }
        // The server has taken the requests in some order: the last one is what waits.
        let live = watcher.run("TASK.INFO q");
        let waits = live.get("length").as_int() + live.get("held").as_int();
        assert!(waits <= 2, "one active and one waiting: {live:?}");
        if let Some(reply) = worker.read_timeout(std::time::Duration::from_millis(5)) {
            let task = reply.delivered().remove(0);
            worked.push(task.payload().to_owned());
            assert_eq!(watcher.run(format!("TASK.ACK q g {}", task.id)), int(1));
            worker.send("TASK.CONSUME g c q BLOCK 0 META");
        }
        if round + 1 == rounds {
            last = format!("{round}-final");
            publish(&mut watcher, &last, LAST);
        }
    }
    eventually(SOON, "the last payload is worked on", || {
        if let Some(reply) = worker.read_timeout(std::time::Duration::from_millis(50)) {
            let task = reply.delivered().remove(0);
            worked.push(task.payload().to_owned());
            assert_eq!(watcher.run(format!("TASK.ACK q g {}", task.id)), int(1));
            worker.send("TASK.CONSUME g c q BLOCK 0 META");
        }
        worked.last() == Some(&last)
    });
    nothing_is_left(&mut watcher, "many publishers");
    assert_eq!(watcher.run("XLEN q"), int(0));
}

// ---------------------------------------------------------------------------------------------
// Refusals, replication, other circumstances
// ---------------------------------------------------------------------------------------------

#[test]
fn a_queue_with_marks_has_at_most_one_group() {
    let server = Server::start();
    let mut client = server.client();
    let several = error("ERR this needs a queue with at most one consumer group");
    for options in [START, DONE, "UNIQUE u 600000 LAST"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = publishes(&mut client, "p", options, "added");
        // The first group may come later, the second may not.
        assert_eq!(client.lease("g", "c", "q"), id);
    }
    assert_eq!(client.run("FLUSHALL"), ok());
    publishes(&mut client, "p", DONE, "added");
    let id = client.lease("g", "c", "q");
    changes_nothing(&mut client, "TASK.CONSUME h c q", several.clone());
    changes_nothing(&mut client, "TASK.CONSUME h c q BLOCK 10", several.clone());
    ack(&mut client, &id);
    assert_eq!(client.run("TASK.CONSUME h c q"), nil_array());
    for options in [START, DONE, "UNIQUE u 600000 LAST"] {
        changes_nothing(&mut client, &format!("TASK.PUBLISH q p {options}"), several.clone());
    }
    publishes(&mut client, "p", "UNIQUE u 600000", "added");
    assert_eq!(client.consume("h", "c", "q", 9).len(), 1);
}

#[test]
fn invalid_options_change_nothing() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("q", "p");
    for options in [
        "UNTIL DONE",
        "LAST",
        "UNIQUE u 5 UNTIL",
        "UNIQUE u 5 UNTIL NEVER",
        "UNIQUE u 5 UNTIL DONE UNTIL DONE",
        "UNIQUE u 5 LAST LAST",
        "UNIQUE u 5 META META",
        "UNIQUE u 5 UNTIL LAST",
        "UNIQUE u UNTIL DONE",
    ] {
        let reply = client.run(format!("TASK.PUBLISH q p {options}"));
        assert!(reply.is_error(), "{options}: {reply:?}");
    }
    assert_eq!(client.run("DBSIZE"), int(1));
    // In any order and case.
    for options in ["last unique u 600000 until done", "META UNTIL Done LAST UNIQUE u 600000"] {
        let reply = client.run(format!("TASK.PUBLISH q p {options}"));
        assert!(!reply.is_error(), "{reply:?}");
    }
    assert_eq!(client.run("XLEN q"), int(2));
    // A full queue takes what replaces, and nothing else.
    assert_eq!(client.run("TASK.POLICY q LIMIT 2"), ok());
    publishes(&mut client, "again", LAST, "replaced");
    assert_eq!(client.consume("g", "c", "q", 2).len(), 2);
    let full = error("TASKFULL the queue holds as many tasks as its policy allows");
    changes_nothing(&mut client, &format!("TASK.PUBLISH q p {LAST}"), full.clone());
    assert_eq!(client.run("TASK.POLICY q LIMIT 3"), ok());
    publishes(&mut client, "p", LAST, "queued");
    changes_nothing(&mut client, "TASK.PUBLISH q p", full);
    publishes(&mut client, "q", LAST, "replaced");
}

#[test]
fn keys_of_another_type_are_refused_or_left_alone() {
    let server = Server::start();
    let mut client = server.client();
    let wrong = error("WRONGTYPE Operation against a key holding the wrong kind of value");
    client.run(format!("SET {MARKS} x"));
    changes_nothing(&mut client, &format!("TASK.PUBLISH q p {DONE}"), wrong.clone());
    client.run(format!("DEL {MARKS}"));
    let id = publishes(&mut client, "p", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), id);
    client.run(format!("SET {HELD} x"));
    changes_nothing(&mut client, &format!("TASK.PUBLISH q p {LAST}"), wrong);
    ack(&mut client, &id);
    assert_eq!(client.run(format!("DEL {HELD}")), int(1));
    nothing_is_left(&mut client, "another type");
    // What another client wrote there, in another form, stays.
    let id = publishes(&mut client, "p", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), id);
    client.run(format!("ZADD {HELD} 5 foreign 6 5|1-1|v9"));
    let held = publishes(&mut client, "q", LAST, "queued");
    ack(&mut client, &id);
    assert_eq!(state(&mut client, &held), "ready");
    assert_eq!(client.run(format!("ZCARD {HELD}")), int(2));
    // A held task whose stream is of another type stays held until that is gone.
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY q LEASE 1000"), ok());
    let id = publishes(&mut client, "p", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), id);
    let held = publishes(&mut client, "q", &format!("{LAST} PRIORITY 3"), "queued");
    client.run("SET priority3:{q} x");
    ack(&mut client, &id);
    assert_eq!(client.run(format!("ZCARD {HELD}")), int(1));
    client.run("DEL priority3:{q}");
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c q BLOCK 0 META");
    let got = waiter.read_timeout(SOON).expect("it enters").delivered().remove(0);
    assert!(got.fields.ends_with(&format!("original_id={held}")));
}

#[test]
fn every_step_replicates_as_plain_commands() {
    let server = Server::start();
    let (mut c, mut tap) = (server.client(), server.replication_tap());
    assert_eq!(c.run("TASK.CONSUME g c q"), nil_array());
    let step = |tap: &mut ReplicationTap| {
        let mut effects = tap.effects();
        assert_eq!(effects.remove(0), "MULTI", "{effects:?}");
        assert_eq!(effects.pop().as_deref(), Some("EXEC"), "{effects:?}");
        let kept = |effect: &String| !effect.starts_with("XADD ") && !effect.starts_with("XCLAIM ");
        effects.retain(kept);
        effects
    };
    tap.effects();
    let first = publishes(&mut c, "one", LAST, "added");
    let end = c.run(format!("PEXPIRETIME {WINDOW}")).as_int();
    let set = format!("SET {WINDOW} {first} PXAT {end}");
    assert_eq!(step(&mut tap), [set, format!("HSET {MARKS} {first} done - u")]);
    let old = c.only_task_in("q").id;
    publishes(&mut c, "two", LAST, "replaced");
    let new = c.only_task_in("q").id;
    let moved = [format!("XDEL q {old}"), format!("HSET {MOVED} {first} {new}")];
    assert_eq!(step(&mut tap), moved);
    assert_eq!(c.lease("g", "c", "q"), new);
    tap.effects();
    let held = publishes(&mut c, "three", LAST, "queued");
    let end = c.run(format!("PEXPIRETIME {WINDOW}")).as_int();
    let [(member, order)] = &c.scores(HELD)[..] else { panic!("not one") };
    let expected = [
        format!("ZADD {HELD} {order} {member}"),
        format!("HSET {MARKS} {first} done {held} u"),
        format!("HSET {MARKS} {held} done - u"),
        format!("SET {WINDOW} {held} PXAT {end}"),
    ];
    assert_eq!(step(&mut tap), expected);
    let member = member.clone();
    ack(&mut c, &new);
    let entered = c.only_task_in("q").id;
    let expected = [
        format!("XACK q g {new}"),
        format!("XDEL q {new}"),
        format!("HDEL {MOVED} {first}"),
        format!("ZREM {HELD} {member}"),
        format!("HSET {MOVED} {held} {entered}"),
        format!("HDEL {MARKS} {first}"),
    ];
    assert_eq!(step(&mut tap), expected);
    assert_eq!(c.lease("g", "c", "q"), entered);
    tap.effects();
    ack(&mut c, &entered);
    let expected = [
        format!("XACK q g {entered}"),
        format!("XDEL q {entered}"),
        format!("HDEL {MOVED} {held}"),
        format!("DEL {WINDOW}"),
        format!("HDEL {MARKS} {held}"),
    ];
    assert_eq!(step(&mut tap), expected);
}

#[test]
fn replicas_and_a_restarted_server_go_on() {
    let mut server = Server::builder().aof(true).start();
    let replica = Server::builder().replica_of(&server).start();
    let mut client = server.client();
    let first = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), first);
    let held = publishes(&mut client, "two", LAST, "queued");
    wait_in_sync(&server, &replica);
    assert_eq!(contents(&replica), contents(&server));
    assert_eq!(replica.client().run(format!("TASK.STATE q {held}")).get("state"), &bulk("held"));
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(publishes(&mut client, "three", LAST, "replaced"), held);
    ack(&mut client, &first);
    assert_eq!(client.consume_payloads("g", "q", 9), ["three"]);
}

#[test]
fn everything_ends_when_memory_is_full() {
    let server = Server::start();
    let mut client = server.client();
    let first = publishes(&mut client, "one", LAST, "added");
    assert_eq!(client.lease("g", "c", "q"), first);
    publishes(&mut client, "two", LAST, "queued");
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    assert!(client.run(format!("TASK.PUBLISH q p {LAST}")).is_error_with("OOM "));
    ack(&mut client, &first);
    let got = client.consume_only("g", "c", "q");
    ack(&mut client, &got.id);
    nothing_is_left(&mut client, "full");
}

#[test]
fn transactions_and_scripts_publish_and_finish() {
    let server = Server::start();
    let mut client = server.client();
    let script = "local first = redis.call('TASK.PUBLISH',KEYS[1],'one','UNIQUE','u','600000','LAST') \
                  redis.call('TASK.CONSUME','g','c',KEYS[1]) \
                  local held = redis.call('TASK.PUBLISH',KEYS[1],'two','UNIQUE','u','600000','LAST','META') \
                  redis.call('TASK.ACK',KEYS[1],'g',first) \
                  return held";
    let reply = client.cmd(&["EVAL", script, "1", "q"]);
    assert_eq!(reply.items()[1], simple("queued"), "{reply:?}");
    assert_eq!(client.consume_payloads("g", "q", 9), ["two"]);
}
