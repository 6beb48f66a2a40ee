//! TASK.RETRY: the copy in the retry stream or the dead-letter stream, the end of the source entry,
//! and what happens if the source, its group or the policy is not there.

mod support;
use support::consumers::*;
use support::*;

const NO_GROUP: &str = "NOGROUP No such consumer group for this stream";

/// The fields of a copy.
fn task(payload: &str, retry_count: &str, original_id: &str) -> String {
    format!("payload={payload} timestamp=now retry_count={retry_count} original_id={original_id}")
}

#[test]
fn a_task_is_retried_below_max_retries_and_dead_lettered_from_there() {
    let server = Server::start();
    let mut client = server.client();
    const MOST: &str = "9223372036854775807";
    for (count, limit, target, written) in [
        ("0", "0", "dead", "0"),
        ("0", "1", "retries", "1"),
        ("2", "3", "retries", "3"),
        ("3", "3", "dead", "3"),
        ("4", "3", "dead", "4"),
        ("9223372036854775806", MOST, "retries", MOST),
        (MOST, MOST, "dead", MOST),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let call = format!("TASK.RETRY q 1-1 p {count} retries dead {limit}");
        assert_eq!(client.run(&call), ok());
        assert_eq!(client.only_task_in(target).fields, task("p", written, "1-1"), "{call}");
        assert_eq!(client.run("DBSIZE"), int(1), "{call}");
    }
}

#[test]
fn a_retry_finishes_the_source_for_the_only_group() {
    let server = Server::start();
    let mut client = server.client();
    for (count, target) in [(0, "retries"), (3, "dead")] {
        for group in ["", " g"] {
            lease_to(&mut client, &["g"], &["1-1", "1-2"]);
            let retry = format!("TASK.RETRY q 1-1 p {count} retries dead 3{group}");
            assert_eq!(client.run(&retry), ok());
            assert_eq!(client.leased_ids("q", "g"), ["1-2"]);
            assert_eq!(client.ids_in("q"), ["1-2"]);
            assert_eq!(client.run(format!("XLEN {target}")), int(1));
        }
    }
}

#[test]
fn with_several_groups_a_retry_finishes_the_source_for_the_named_group() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1", "1-2"]);
    assert_eq!(client.run("TASK.RETRY q 1-1 p 0 retries dead 3 h"), ok());
    assert_eq!(client.leased_ids("q", "h"), ["1-2"]);
    assert_eq!(client.leased_ids("q", "g"), ["1-1", "1-2"]);
    assert_eq!(client.ids_in("q"), ["1-1", "1-2"]);
    assert_eq!(client.run("TASK.RETRY q 1-1 p 0 retries dead 3 g"), ok());
    assert_eq!(client.leased_ids("q", "g"), ["1-2"]);
    assert_eq!(client.ids_in("q"), ["1-2"]);
    assert_eq!(client.run("XLEN retries"), int(2));
}

#[test]
fn with_several_groups_and_none_named_the_source_stays_pending() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1"]);
    assert_eq!(client.run("TASK.RETRY q 1-1 p 0 retries dead 3"), ok());
    for group in ["g", "h"] {
        assert_eq!(client.leased_ids("q", group), ["1-1"]);
    }
    assert_eq!(client.ids_in("q"), ["1-1"]);
    assert_eq!(client.only_task_in("retries").fields, task("p", "1", "1-1"));
}

#[test]
fn a_retry_leaves_a_source_that_is_not_leased() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1"]);
    add_entries(&mut client, "q", &["1-2"]);
    assert_eq!(client.run("TASK.RETRY q 1-2 p 0 retries dead 3"), ok());
    assert_eq!(client.ids_in("q"), ["1-1", "1-2"]);
    assert_eq!(client.run("TASK.CONSUME g c q").task_ids(), ["1-2"]);
    // There is no group at all.
    add_entries(&mut client, "plain", &["1-1"]);
    assert_eq!(client.run("TASK.RETRY plain 1-1 p 0 retries dead 3"), ok());
    assert_eq!(client.ids_in("plain"), ["1-1"]);
    assert_eq!(client.run("XLEN retries"), int(2));
}

#[test]
fn a_retry_for_an_unknown_group_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    for groups in [&[][..], &["g"], &["g", "h"]] {
        lease_to(&mut client, groups, &["1-1"]);
        for count in [0, 3] {
            let call = format!("TASK.RETRY q 1-1 p {count} retries dead 3 nobody");
            changes_nothing(&mut client, &call, error(NO_GROUP));
        }
    }
}

#[test]
fn a_retry_needs_no_source_entry() {
    let server = Server::start();
    let mut client = server.client();
    // The stream is missing; then the entry is.
    for call in ["TASK.RETRY q 1-1 p 0 retries dead 3", "TASK.RETRY q 1-1 p 0 retries dead 3 g"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(call), ok());
        assert_eq!(client.only_task_in("retries").fields, task("p", "1", "1-1"));
        assert_eq!(client.run("DBSIZE"), int(1), "the source is not created");
        assert_eq!(client.run(call), ok());
        assert_eq!(client.run("XLEN retries"), int(2), "a repeated retry adds a task");

        lease_to(&mut client, &["g"], &["1-1", "1-2"]);
        assert_eq!(client.run("XDEL q 1-1"), int(1));
        assert_eq!(client.run(call), ok());
        assert_eq!(client.only_task_in("retries").fields, task("p", "1", "1-1"));
        assert_eq!(client.leased_ids("q", "g"), ["1-2"]);
    }
}

#[test]
fn every_retry_keeps_the_original_id() {
    let server = Server::start();
    let mut client = server.client();
    add_entries(&mut client, "q", &["1-1"]);
    let path = [("q", "first", "1"), ("first", "second", "2"), ("second", "dead", "2")];
    for (tries, (from, to, written)) in path.into_iter().enumerate() {
        let id = client.lease("g", "c", from);
        let retry = format!("TASK.RETRY {from} {id} p {tries} {to} {to} 2 g");
        assert_eq!(client.run(retry), ok());
        assert_eq!(client.run(format!("XLEN {from}")), int(0));
        assert_eq!(client.only_task_in(to).fields, task("p", written, "1-1"));
        assert_ne!(client.ids_in(to), ["1-1"], "the copy has an id of its own");
    }
}

#[test]
fn a_queue_may_be_its_own_retry_stream_and_dead_letter_stream() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1"]);
    assert_eq!(client.run("TASK.RETRY q 1-1 p 0 q q 1"), ok());
    assert_eq!(client.leased_ids("q", "g"), [""; 0]);
    assert_eq!(client.only_task_in("q").fields, task("p", "1", "1-1"));
    let id = client.lease("g", "c", "q");
    assert_eq!(client.ids_in("q"), [id.as_str()]);
    assert_eq!(client.run(format!("TASK.RETRY q {id} p 1 q q 1 g")), ok());
    assert_eq!(client.only_task_in("q").fields, task("p", "1", "1-1"));
    assert_ne!(client.ids_in("q"), [id.as_str()]);
}

#[test]
fn a_short_id_names_exactly_one_entry() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("XADD q 5-1 payload p original_id 4-4"), bulk("5-1"));
    // `5` is `5-0`, which does not exist; `5-1` is another task.
    assert_eq!(client.run("TASK.RETRY q 5 p 0 retries dead 3"), ok());
    assert_eq!(client.only_task_in("retries").fields, task("p", "1", "5-0"));
}

#[test]
fn a_retry_into_the_same_stream_is_for_the_group_that_retries() {
    let server = Server::start();
    let mut client = server.client();
    for (count, written) in [(0, 1), (3, 3)] {
        let id = leased_by_two(&mut client, 0);
        let retry = format!("TASK.RETRY q {id} again {count} q q 3");
        assert_eq!(client.run(format!("{retry} g")), ok());
        let copy = format!("payload=again timestamp=now retry_count={written} original_id={id}");
        assert_eq!(client.consume("h", "c", "q", 9), []);
        assert_eq!(fields(&mut client, "g"), [format!("{copy} group=g")]);
        // Without a group the source stays pending for both, and both get the copy.
        let id = leased_by_two(&mut client, 0);
        let retry = format!("TASK.RETRY q {id} again {count} q q 3");
        assert_eq!(client.run(&retry), ok());
        let copy = format!("payload=again timestamp=now retry_count={written} original_id={id}");
        for group in ["g", "h"] {
            assert_eq!(fields(&mut client, group), [copy.as_str()]);
            assert!(client.leased_ids("q", group).contains(&id));
        }
        // In another stream the copy names no group.
        let id = leased_by_two(&mut client, 0);
        assert_eq!(client.run(format!("TASK.RETRY q {id} p {count} other other 3 g")), ok());
        let copy = format!("payload=p timestamp=now retry_count={written} original_id={id}");
        assert_eq!(client.only_task_in("other").fields, copy);
    }
    // A copy in the queue's own dead letters names the group, for it may be redriven.
    let id = leased_by_two(&mut client, 0);
    assert_eq!(client.run(format!("TASK.RETRY q {id} p 3 other {DEAD} 3 h")), ok());
    let dead = client.only_task_in(DEAD).fields;
    assert_eq!(dead, format!("payload=p timestamp=now retry_count=3 original_id={id} group=h"));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    assert_eq!(client.consume("g", "c", "q", 9), []);
    assert_eq!(next(&mut client, "h").fields, dead.replace("retry_count=3", "retry_count=0"));
    // With a single group the copy names none.
    assert_eq!(client.run("FLUSHALL"), ok());
    let id = client.publish("q", "p");
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 q dead 3 g")), ok());
    let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
    assert_eq!(client.only_task_in("q").fields, copy);
}

#[test]
fn a_retry_finishes_a_task_of_any_priority() {
    let server = Server::start();
    let mut client = server.client();
    for group in ["", " g"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("q", "p", "PRIORITY 5");
        assert_eq!(client.lease("g", "c", "q"), id);
        assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 again dead 3{group}")), ok());
        assert_eq!(client.leases("priority5:{q}", "g"), []);
        assert_eq!(client.run("XLEN priority5:{q}"), int(0));
        let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
        assert_eq!(client.only_task_in("again").fields, copy);
    }
    // A dead letter that is consumed and retried is an ordinary task.
    let id = client.publish_with("q", "p", "PRIORITY 5");
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
    let letter = client.lease("letters", "c", DEAD);
    let retry = format!("TASK.RETRY {DEAD} {letter} new 0 q x 3 letters");
    assert_eq!(client.run(retry), ok());
    let copy = format!("payload=new timestamp=now retry_count=1 original_id={id}");
    assert_eq!(client.only_task_in("q").fields, copy);
    assert_eq!(client.run(format!("XLEN {DEAD}")), int(0));
}

#[test]
fn a_retry_finishes_a_task_of_a_priority_whose_queue_has_no_stream_of_its_own() {
    let server = Server::start();
    let mut client = server.client();
    for (group, known) in [("", false), (" g", false), ("", true), (" g", true)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let id = client.publish_with("q", "p", "PRIORITY 3");
        if known {
            assert_eq!(client.lease("g", "c", "q"), id);
            assert_eq!(client.run("DEL q"), int(1));
        } else {
            assert_eq!(client.run("XGROUP CREATE priority3:{q} g 0"), ok());
            client.run("XREADGROUP GROUP g c STREAMS priority3:{q} >");
        }
        assert_eq!(client.leased_ids("priority3:{q}", "g"), [&*id]);
        assert_eq!(client.run(format!("TASK.RETRY q {id} p 0 q dead 3{group}")), ok());
        assert_eq!(client.leases("priority3:{q}", "g"), []);
        assert_eq!(client.run("XLEN priority3:{q}"), int(0));
        let copy = format!("payload=p timestamp=now retry_count=1 original_id={id}");
        assert_eq!(fields(&mut client, "g"), [copy], "it comes once");
        // A named group must be one that has the task.
        assert!(client.run(format!("TASK.RETRY q {id} p 0 x x 3 h")).is_error_with("NOGROUP "));
    }
}

#[test]
fn a_retry_refused_for_the_type_of_the_policy_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    for make in ["SET policy:{q} v", "XADD policy:{q} 1-1 f v"] {
        for count in [0, 3] {
            for group in ["", " g"] {
                assert_eq!(client.run("FLUSHALL"), ok());
                client.run(make);
                let id = client.run("XADD q * payload p").as_str().to_owned();
                assert_eq!(client.run("XGROUP CREATE q g 0"), ok());
                client.run("XREADGROUP GROUP g c STREAMS q >");
                let retry = format!("TASK.RETRY q {id} p {count} q q 3{group}");
                for _ in 0..2 {
                    changes_nothing(&mut client, &retry, error(WRONG_TYPE));
                }
                assert_eq!(client.leased_ids("q", "g"), [&*id]);
                // Without that key the task moves, once.
                assert_eq!(client.run("DEL policy:{q}"), int(1));
                assert_eq!(client.run(&retry), ok());
                assert_eq!(client.leases("q", "g"), []);
                let copy = client.only_task_in("q").fields;
                assert!(copy.ends_with(&format!("original_id={id}")), "{copy}");
            }
        }
    }
}

#[test]
fn a_retry_keeps_fields_that_have_the_names_of_those_of_a_dead_letter() {
    let server = Server::start();
    let mut client = server.client();
    let own = "reason=mine deliveries=3 priority=high";
    let add = format!("XADD q * payload p retry_count 1 {}", own.replace('=', " "));
    let id = client.run(add).as_str().to_owned();
    assert_eq!(client.lease("g", "c", "q"), id);
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
    let copy =
        |count: i64| format!("payload=p timestamp=now retry_count={count} {own} original_id={id}");
    // First a copy, with the original id behind its own fields, then a copy of that copy.
    for count in [1, 2] {
        let task = next(&mut client, "g");
        assert_eq!(task.fields, copy(count));
        let retry = format!("TASK.RETRY q {} p {count} q dlq 9", task.id);
        assert_eq!(client.run(retry), ok());
        assert_eq!(client.only_task_in("q").fields, copy(count + 1));
    }
}
