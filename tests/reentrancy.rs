//! Another module runs Corral's commands in the middle of what Corral does: inside the keyspace events
//! of its writes, and while a client is being unblocked. No table may be borrowed then, so no
//! command fails, no waiting client is forgotten, and nothing panics.

mod support;
use support::*;

use std::path::PathBuf;

/// The library of `tests/reentry/module.rs`, which scripts/test.sh builds.
fn second_module() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    let library = target.join("examples/libreentry.so");
    assert!(library.exists(), "run `cargo build --example reentry` first");
    library
}

fn start() -> (Server, Client) {
    let server = Server::start();
    let mut control = server.client();
    let path = second_module().display().to_string();
    assert_eq!(control.cmd(&args!["MODULE", "LOAD", path]), simple("OK"));
    (server, control)
}

/// What runs inside the events of an inner command. It writes other keys than that one: a server that
/// is about to set the expiry of a key crashes if the key is deleted in the event before.
const INNER: [&str; 13] = [
    "LOCK.INFO job",
    "LOCK.ACQUIRE other id 600000",
    "LOCK.ACQUIRE others id 600000 SHARED",
    "LOCK.RELEASE other id",
    "CACHE.INFO k",
    "CACHE.FETCH k2 600000",
    "CACHE.SET k2 inner 600000",
    "CACHE.INVALIDATE k2",
    "TASK.INFO q",
    "TASK.PUBLISH q2 inner",
    "TASK.PUBLISH q2 inner DELAY 1 PRIORITY 3",
    "TASK.CONSUME g inner q2 100",
    "TASK.POLICY q2 LEASE 1000",
];

/// What the outer client does, and the events that its inner commands raise.
const OUTER: [&str; 12] = [
    "LOCK.ACQUIRE job me 600000",
    "LOCK.ACQUIRE job me 600000 FENCE",
    "LOCK.EXTEND job me 600000",
    "LOCK.RELEASE job me",
    "CACHE.FETCH k 600000",
    "CACHE.SET k outer 600000",
    "CACHE.INVALIDATE k STALE 600000",
    "TASK.PUBLISH q outer",
    "TASK.PUBLISH q outer PRIORITY 5",
    "TASK.PUBLISH q outer DELAY 1",
    "TASK.CONSUME g outer q 100",
    "TASK.POLICY q TRIES 5",
];

const EVENTS: [&str; 9] =
    ["set", "del", "zadd", "zrem", "xadd", "xdel", "hset", "pexpireat", "xgroup-create"];

#[test]
fn a_command_inside_the_events_of_another_one_runs_as_at_any_other_time() {
    let (server, mut control) = start();
    for inner in INNER {
        for event in EVENTS {
            // The events that replicate an expiry have other names on some servers.
            assert_eq!(control.run(format!("REENTRY.ON {event} {inner}")), simple("OK"));
            assert_eq!(control.run(format!("REENTRY.ON expire {inner}")), simple("OK"));
            for outer in OUTER {
                let reply = control.run(outer);
                assert!(!reply.is_error(), "{outer} with {inner} on {event}: {reply:?}");
            }
            assert_eq!(control.run(format!("REENTRY.ON {event}")), simple("OK"));
        }
        control.run("REENTRY.ON expire");
        control.run("FLUSHALL");
    }
    let counts = control.run("REENTRY.COUNT");
    let (run, failed) = (counts.items()[0].as_int(), counts.items()[1].as_int());
    assert!(run > 100, "{run} inner commands ran");
    assert_eq!(failed, 0, "of {run} inner commands");
    assert_eq!(info(&server, "corral", "corral_panics").as_deref(), Some("0"));
}

#[test]
fn waiting_clients_are_served_while_another_module_runs_commands_inside_the_events() {
    for inner in ["LOCK.INFO job", "LOCK.ACQUIRE other id 600000", "TASK.PUBLISH q inner"] {
        let (server, mut control) = start();
        for event in ["set", "del", "xadd"] {
            assert_eq!(control.run(format!("REENTRY.ON {event} {inner}")), simple("OK"));
        }
        run_all(&mut control, &["LOCK.ACQUIRE job me 600000", "CACHE.FETCH k 600000"]);
        let mut waiters = server.clients(3);
        for (client, command) in waiters.iter_mut().zip([
            "LOCK.ACQUIRE job you 600000 BLOCK 0",
            "CACHE.FETCH k 600000 BLOCK 0",
            "TASK.CONSUME g w q2 1 0",
        ]) {
            client.send(command);
        }
        wait_blocked(&server, 3);
        assert_eq!(control.run("LOCK.RELEASE job me"), int(1), "{inner}");
        assert_eq!(waiters[0].read(), int(1), "{inner}");
        assert_eq!(control.run("CACHE.SET k v 600000"), ok(), "{inner}");
        assert_eq!(waiters[1].read().items()[1], bulk("v"), "{inner}");
        assert!(!control.run("TASK.PUBLISH q2 p").is_error(), "{inner}");
        assert_eq!(waiters[2].read().task_payloads(), ["p"], "{inner}");
        assert_eq!(info(&server, "corral", "corral_panics").as_deref(), Some("0"), "{inner}");
    }
}

#[test]
fn a_command_inside_the_answer_to_an_unblocked_client_serves_the_waiting_clients() {
    let (server, mut control) = start();
    run_all(&mut control, &["LOCK.ACQUIRE job me 600000", "CACHE.FETCH k 600000"]);
    for (request, wake, is_served) in [
        (
            "LOCK.ACQUIRE job you 600000 BLOCK 0",
            "LOCK.RELEASE job me",
            (|reply| *reply == int(1)) as fn(&Value) -> bool,
        ),
        ("CACHE.FETCH k 600000 BLOCK 0", "CACHE.SET k v 600000", |reply| {
            reply.items()[1] == bulk("v")
        }),
        ("TASK.CONSUME g w q 1 0", "TASK.PUBLISH q p", |reply| reply.task_payloads() == ["p"]),
    ] {
        let [mut waiter, mut other] = [server.client(), server.client()];
        waiter.send(request);
        wait_blocked(&server, 1);
        other.send(format!("REENTRY.WAIT {wake}"));
        wait_blocked(&server, 2);
        assert_eq!(control.run("REENTRY.WAKE"), simple("OK"));
        assert_eq!(other.read(), simple("OK"), "{request}");
        let reply = waiter.read();
        assert!(is_served(&reply), "{request}: {reply:?}");
    }
    assert_eq!(control.run("REENTRY.COUNT"), array([int(3), int(0)]));
    assert_eq!(info(&server, "corral", "corral_panics").as_deref(), Some("0"));
}

#[test]
fn another_module_has_no_connection_to_which_a_lease_can_be_tied() {
    let (server, mut control) = start();
    run_all(&mut control, &["XADD q 1-1 payload p"]);
    for (count, (inner, key)) in (1..).zip([
        ("LOCK.ACQUIRE job me 600000 TIED", "lock:{job}"),
        ("CACHE.FETCH k 600000 TIED", "cachelock:{k}"),
        ("TASK.CONSUME g c q TIED", "none"),
    ]) {
        run_all(&mut control, &[format!("REENTRY.ON set {inner}"), "SET x y".into()]);
        assert_eq!(in_transaction(&mut control, &["SET x y"]), [ok()]);
        let both = int(2 * count);
        assert_eq!(control.run("REENTRY.COUNT"), array([both.clone(), both]), "{inner}");
        assert_eq!(control.run(format!("EXISTS {key}")), int(0), "{inner}");
        run_all(&mut control, &["REENTRY.ON set"]);
    }
    assert_eq!(control.run("XINFO GROUPS q"), array([""; 0]));
    for family in ["lock", "cache", "task"] {
        let ties = info(&server, "corral", &format!("corral_{family}_ties"));
        assert_eq!(ties.as_deref(), Some("0"));
    }
}

#[test]
fn leases_end_with_their_connection_while_another_module_runs_commands_inside_the_events() {
    const INNER: [&str; 6] = [
        "LOCK.ACQUIRE other id 600000",
        "LOCK.RELEASE other id",
        "LOCK.RELEASE tied1 c",
        "CACHE.INVALIDATE k3",
        "CACHE.FETCH k4 600000",
        "TASK.CONSUME g other q2 100",
    ];
    for inner in INNER {
        let (server, mut control) = start();
        control.publish("q2", "p");
        run_all(&mut control, &["TASK.POLICY q LEASE 0"]);
        let mut holder = server.client();
        for number in 0..5 {
            control.publish("q", "p");
            run_all(
                &mut holder,
                &[
                    format!("LOCK.ACQUIRE tied{number} c 600000 TIED"),
                    format!("CACHE.FETCH k{number} 600000 TIED"),
                    "TASK.CONSUME g c q TIED".into(),
                ],
            );
        }
        // Not in the event of the deletion: a command must not delete what is being deleted.
        for event in
            ["xadd", "del"].into_iter().filter(|event| *event != "del" || inner.contains("other"))
        {
            assert_eq!(control.run(format!("REENTRY.ON {event} {inner}")), simple("OK"));
        }
        drop(holder);
        for family in ["lock", "cache", "task"] {
            let field = format!("corral_{family}_ties");
            let is_none = || info(&server, "corral", &field).as_deref() == Some("0");
            eventually(SOON, &format!("{inner}: nothing of the {family} is tied"), is_none);
        }
        assert!(control.run("REENTRY.COUNT").items()[0].as_int() >= 5, "{inner}");
        assert_eq!(
            control.run("EXISTS lock:{tied0} lock:{tied1} lock:{tied4} cachelock:{k0}"),
            int(0)
        );
        assert_eq!(control.run("XLEN q"), int(5));
        assert_eq!(control.run("XPENDING q g - + 10").items().len(), 0);
        assert_eq!(info(&server, "corral", "corral_panics").as_deref(), Some("0"), "{inner}");
    }
}
