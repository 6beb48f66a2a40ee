//! Stored tasks and versions of the module: what another version has stored stays in place until that
//! version runs, and version 0.1.0 can follow, be promoted and replace this one without a loss.

mod support;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use support::*;

const DELAYED: &str = "delayed:{q}";

/// An id of a delayed task that is due at `ms`.
fn delayed_id(ms: i64, n: usize) -> String {
    format!("{ms}-{}", 1_000_000_000_000_000_000 + n)
}

// ---------------------------------------------------------------------------------------------
// A later version has stored a task
// ---------------------------------------------------------------------------------------------

#[test]
fn tasks_of_a_later_version_stay_and_hold_up_no_other() {
    let server = Server::start();
    let mut client = server.client();
    // More than one page, in both forms, before, between and behind the tasks of this version.
    let mut later = Vec::new();
    for n in 0..100 {
        let copy = if n % 2 == 0 { String::new() } else { ":5-0".to_owned() };
        let member = format!("{}{copy} v{} anything 0 - x", delayed_id(n, 7), 2 + n % 7);
        assert_eq!(client.cmd(&args!["ZADD", DELAYED, n, &member]), int(1));
        later.push((member, n));
    }
    for due in [0, 50, 99, 100] {
        let member = format!("{} 0 0 - at{due}", delayed_id(due, 9));
        assert_eq!(client.cmd(&args!["ZADD", DELAYED, due, member]), int(1));
    }
    client.publish_with("q", "soon", "DELAY 20 PRIORITY 9");
    let mut waiter = server.client();
    let all = client.consume("g", "c", "q", 10);
    let all: Vec<_> = all.iter().map(Delivered::payload).collect();
    assert_eq!(all, ["at0", "at50", "at99", "at100"]);
    // There is nothing else: no error, and a waiting consumer gets the next one.
    assert_eq!(client.run("TASK.CONSUME g c q COUNT 10"), nil_array());
    waiter.send("TASK.CONSUME g c q COUNT 10 BLOCK 20000");
    assert_eq!(waiter.read().task_payloads(), ["soon"]);
    assert_eq!(client.scores(DELAYED), later);
    assert_eq!(client.run("TASK.INFO q").get("delayed"), &int(100));
    assert!(client.task_total("unknown_version") >= 100);
    assert_eq!(client.task_total("promoted"), 5);
    let lines = server.log().matches("a later version of the module has stored tasks").count();
    assert_eq!(lines, 1, "{}", server.log());

    // They can be canceled, whatever is in them.
    assert_eq!(client.run(format!("TASK.CANCEL q {}", delayed_id(3, 7))), int(1));
    assert_eq!(client.run(format!("TASK.CANCEL q {}", delayed_id(4, 7))), int(1));
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(98));
}

#[test]
fn very_many_tasks_of_a_later_version_are_passed_by_in_bounded_steps() {
    const MANY: usize = 30_000;
    let server = Server::start();
    let mut client = server.client();
    for page in 0..MANY / 1000 {
        let mut call = args!["ZADD", DELAYED].to_vec();
        for n in 0..1000 {
            call.extend(args!["1", format!("{} v2 x", delayed_id(1, page * 1000 + n))]);
        }
        assert_eq!(client.cmd(&call), int(1000));
    }
    client.run(format!("ZADD {DELAYED} 2 behind"));
    // Each call goes on where the last one stopped.
    let found = (0..8).find_map(|_| client.consume("g", "c", "q", 1).pop());
    assert_eq!(found.as_ref().map(Delivered::payload), Some("behind"));
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(30_000));
    // They are left alone for a while, so that a queue costs no more because of them.
    let looks = client.task_total("unknown_version");
    for _ in 0..50 {
        assert_eq!(client.run("TASK.CONSUME g c q"), nil_array());
    }
    assert_eq!(client.task_total("unknown_version"), looks);
}

// ---------------------------------------------------------------------------------------------
// Version 0.1.0
// ---------------------------------------------------------------------------------------------

/// The library of version 0.1.0; `None` if this clone does not have its commit.
fn version_0_1() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/old_module.sh");
    let output = Process::new(script).output().expect("run scripts/old_module.sh");
    if output.status.code() == Some(3) {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).expect("a path");
    Some(PathBuf::from(path.trim_end()))
}

/// The version that a server runs: the older one has no TASK.INFO.
fn runs_this_version(client: &mut Client) -> bool {
    !client.run("TASK.INFO none").is_error()
}

/// The payloads of the tasks that [`store`] stores.
const STORED: [&str; 8] =
    ["leased", "urgent", "ready", "foreign", "soon", "copy", "marked", "options"];

/// Stores a task of every kind in a queue: leased, ready, prioritized, delayed in each form, dead, of a
/// later version. The delayed ones are due in an hour.
#[track_caller]
fn store(client: &mut Client) {
    client.publish("q", "dead");
    let id = client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
    client.publish("q", "copy");
    let id = client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.NACK q g c FAIL {id} DELAY 3600001")), int(1));
    client.run("XADD q * payload marked timestamp 1 retry_count 4 tenant blue");
    let id = client.lease("g", "c", "q");
    assert_eq!(client.run(format!("TASK.NACK q g c SILENT {id} DELAY 3600002")), int(1));
    client.publish("q", "leased");
    client.lease("g", "c", "q");
    client.run("XADD q * payload foreign tenant red");
    client.publish_with("q", "urgent", "PRIORITY 7");
    client.publish_with("q", "soon", "DELAY 3600000 UNIQUE once 7200000");
    let options = "TRIES 2 EXPIRE 86400000 FIELDS 1 tenant green";
    client.publish_with("q", "options", &format!("DELAY 3600003 PRIORITY 5 {options}"));
    client.publish_with("q", "ready", options);
    client.cmd(&args!["ZADD", DELAYED, 1, format!("{} v2 later", delayed_id(1, 1))]);
    client.run("TASK.POLICY q TRIES 9");
}

/// Delivers and acknowledges this many tasks. Leases end soon.
#[track_caller]
fn take(client: &mut Client, number: usize) -> Vec<Delivered> {
    client.run("TASK.POLICY q LEASE 1");
    let mut got = Vec::new();
    eventually(SOON, "every task is delivered", || {
        for task in client.consume("g", "d", "q", 1) {
            assert_eq!(client.run(format!("TASK.ACK q g {}", task.id)), int(1), "{task:?}");
            got.push(task);
        }
        got.len() >= number
    });
    got
}

/// Makes every delayed task due and delivers everything that [`store`] has stored.
#[track_caller]
fn deliver_all(client: &mut Client) {
    for (member, due) in client.scores(DELAYED) {
        client.cmd(&args!["ZADD", DELAYED, "XX", due - 3_600_000, member]);
    }
    let got = take(client, STORED.len());
    let payloads: Vec<_> = got.iter().map(Delivered::payload).collect();
    let mut expected = STORED;
    let mut sorted = payloads.clone();
    expected.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "{payloads:?}");
    let fields = |payload| &got.iter().find(|task| task.payload() == payload).unwrap().fields;
    assert!(fields("foreign").ends_with("tenant=red"), "{got:?}");
    assert!(fields("marked").contains("retry_count=4 tenant=blue original_id="), "{got:?}");
    for payload in ["options", "ready"] {
        let fields = fields(payload);
        assert!(fields.contains(" tries=2 expire_unix_ms="), "{got:?}");
        assert!(fields.contains(" tenant=green"), "{got:?}");
    }
    assert!(fields("copy").contains("retry_count=1 original_id="), "{got:?}");
    // What a later version has stored is still there, and what is dead can be moved back.
    assert_eq!(client.scores(DELAYED).len(), 1);
    assert_eq!(client.run("TASK.REDRIVE dead:{q} q"), int(1));
    assert_eq!(client.consume("g", "d", "q", 5).last().map(Delivered::payload), Some("dead"));
}

/// What version 0.1.0 does with the queue: it delivers what is ready in the queue's own stream, whole,
/// and touches nothing else.
#[track_caller]
fn use_with_version_0_1(client: &mut Client) {
    assert!(!runs_this_version(client));
    let kept = ["priority7:{q}", DELAYED, "dead:{q}", "policy:{q}"];
    let before = kept.map(|key| client.cmd(&["DUMP", key]));
    let got = client.run("TASK.CONSUME g old q 10");
    assert_eq!(got.task_payloads(), ["foreign", "ready"]);
    for (task, tenant) in got.tasks().iter().zip(["red", "green"]) {
        assert_eq!(task.items()[1].get("tenant"), &bulk(tenant));
    }
    let id = client.run("TASK.PUBLISH q added").as_str().to_owned();
    assert_eq!(client.run("TASK.CONSUME g old q").task_ids(), [id.as_str()]);
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.run("TASK.CONSUME g old q"), nil_array());
    let after = kept.map(|key| client.cmd(&["DUMP", key]));
    assert!(before.iter().all(|dump| !dump.is_nil()) && before == after);
}

#[test]
fn a_downgrade_loses_nothing_and_an_upgrade_goes_on() {
    let Some(old) = version_0_1() else { return };
    let mut server = Server::start();
    let mut client = server.client();
    store(&mut client);
    server.restart_with_library(&old);
    use_with_version_0_1(&mut server.client());
    server.restart();
    let mut client = server.client();
    assert!(runs_this_version(&mut client));
    deliver_all(&mut client);
}

#[test]
fn what_version_0_1_has_stored_is_delivered_after_an_upgrade() {
    let Some(old) = version_0_1() else { return };
    let mut server = Server::builder().library(&old).aof(true).start();
    let mut client = server.client();
    assert!(!runs_this_version(&mut client));
    for call in [
        "TASK.PUBLISH q first 3",
        "TASK.PUBLISH q second",
        "TASK.PUBLISH q third",
        "TASK.CONSUME g c q 2",
    ] {
        assert!(!client.run(call).is_error(), "{call}");
    }
    let id = client.tasks_in("q")[1].id.clone();
    assert_eq!(client.run(format!("TASK.RETRY q {id} second 0 q dead 1")), simple("OK"));
    server.restart_with_library(&module_path());
    let mut client = server.client();
    assert!(runs_this_version(&mut client));
    let got = take(&mut client, 3);
    let fields: Vec<_> = got.iter().map(|task| task.fields.as_str()).collect();
    let copy = format!("payload=second timestamp=now retry_count=1 original_id={id}");
    assert!(fields.contains(&"payload=first timestamp=now retry_count=3"), "{fields:?}");
    assert!(fields.contains(&"payload=third timestamp=now retry_count=0"), "{fields:?}");
    assert!(fields.contains(&copy.as_str()), "{fields:?}");
}

#[test]
fn a_replica_of_version_0_1_follows_and_is_promoted_and_so_the_other_way() {
    let Some(old) = version_0_1() else { return };
    let master = Server::start();
    let replica = Server::builder().library(&old).replica_of(&master).start();
    let mut client = master.client();
    store(&mut client);
    wait_in_sync(&master, &replica);
    assert_eq!(contents(&master), contents(&replica));

    // The older version is promoted, and works with what it knows.
    let mut promoted = replica.client();
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    use_with_version_0_1(&mut promoted);

    // The other node follows it, and is promoted in turn.
    assert_eq!(client.run(format!("REPLICAOF 127.0.0.1 {}", replica.port())), ok());
    wait_in_sync(&replica, &master);
    assert_eq!(promoted.run("TASK.CONSUME g old q"), nil_array());
    assert_eq!(contents(&replica), contents(&master));
    assert_eq!(client.run("REPLICAOF NO ONE"), ok());
    deliver_all(&mut client);
}
