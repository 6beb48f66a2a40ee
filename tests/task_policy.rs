//! TASK.POLICY and TASK.INFO: a policy is a plain hash that any client may write, with the
//! configuration behind it; paused queues and queues that keep finished tasks; what INFO tells of a
//! queue, in both protocols, on replicas, and of queues that do not exist.

mod support;
use support::*;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const OUT_OF_RANGE: &str = "ERR value is out of range";
const SYNTAX: &str = "ERR syntax error";
const FULL: &str = "TASKFULL the queue holds as many tasks as its policy allows";
const LIMIT_AND_KEEP: &str = "ERR LIMIT and KEEP 1 exclude each other";

/// A time that does not pass during a test, in ms, and the most that a busy machine takes between
/// two looks at the clock.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

// ---------------------------------------------------------------------------------------------
// Policies
// ---------------------------------------------------------------------------------------------

/// The fields of a policy with their defaults.
const POLICY: [(&str, i64); 7] = [
    ("lease_ms", 300_000),
    ("tries", 20),
    ("backoff_base_ms", 1000),
    ("backoff_max_ms", 600_000),
    ("limit", 0),
    ("keep", 0),
    ("paused", 0),
];

/// The policy that applies, from TASK.INFO.
#[track_caller]
fn policy(client: &mut Client) -> Vec<(String, i64)> {
    let info = client.run("TASK.INFO tasks");
    let policy = info.get("policy").items().chunks_exact(2);
    policy.map(|pair| (pair[0].as_str().to_owned(), pair[1].as_int())).collect()
}

/// The default policy with these changes.
fn policy_with(changes: &[(&str, i64)]) -> Vec<(String, i64)> {
    let value = |(name, default): (&str, i64)| {
        let change = changes.iter().find(|(changed, _)| *changed == name);
        (name.to_owned(), change.map_or(default, |(_, value)| *value))
    };
    POLICY.map(value).to_vec()
}

#[test]
fn each_option_sets_fields_of_a_plain_hash_and_leaves_the_others() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(policy(&mut client), policy_with(&[]));
    assert_eq!(client.run("EXISTS tasks policy:{tasks}"), int(0));
    let mut said: Vec<(&str, i64)> = Vec::new();
    for (options, fields) in [
        ("LEASE 5000", &[("lease_ms", 5000)][..]),
        ("tries 3", &[("tries", 3)]),
        ("Backoff 10 20", &[("backoff_base_ms", 10), ("backoff_max_ms", 20)]),
        ("LIMIT 9", &[("limit", 9)]),
        ("PAUSED 1", &[("paused", 1)]),
        ("LIMIT 0 KEEP 1", &[("limit", 0), ("keep", 1)]),
        (
            "PAUSED 0 KEEP 0 LEASE 0 TRIES 0 LIMIT 0 BACKOFF 0 0",
            &[
                ("paused", 0),
                ("keep", 0),
                ("lease_ms", 0),
                ("tries", 0),
                ("limit", 0),
                ("backoff_base_ms", 0),
                ("backoff_max_ms", 0),
            ],
        ),
    ] {
        assert_eq!(client.run(format!("TASK.POLICY tasks {options}")), ok());
        said.retain(|(name, _)| fields.iter().all(|(changed, _)| changed != name));
        said.extend(fields);
        assert_eq!(policy(&mut client), policy_with(&said), "{options}");
        assert_eq!(client.run("HLEN policy:{tasks}").as_int(), said.len() as i64, "{options}");
        for (name, value) in &said {
            let stored = client.run(format!("HGET policy:{{tasks}} {name}"));
            assert_eq!(stored, bulk(value.to_string()), "{options}: {name}");
        }
        assert_eq!(client.run("PTTL policy:{tasks}"), int(-1), "it does not expire");
    }
    assert_eq!(client.run("DBSIZE"), int(1), "nothing else is written");
}

#[test]
fn invalid_and_contradictory_options_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks TRIES 5"), ok());
    const EXPIRE: &str = "ERR invalid expire time in 'task.policy' command";
    for (options, refusal) in [
        ("LEASE", "ERR wrong number of arguments for 'task.policy' command"),
        ("LEASE 5 LEASE 5", SYNTAX),
        ("LEASE 5 TRIES", SYNTAX),
        ("BACKOFF 5", SYNTAX),
        ("BACKOFF 1 2 BACKOFF 1 2", SYNTAX),
        ("PAUSED 1 PAUSED 0", SYNTAX),
        ("DELAY 5", SYNTAX),
        ("5 5", SYNTAX),
        ("LEASE -1", EXPIRE),
        ("LEASE 9007199254740992", EXPIRE),
        ("BACKOFF -1 5", EXPIRE),
        ("BACKOFF 5 4", OUT_OF_RANGE),
        ("BACKOFF 5 9007199254740992", EXPIRE),
        ("TRIES -1", NOT_POSITIVE),
        ("LIMIT -1", NOT_POSITIVE),
        ("LIMIT 9223372036854775808", NOT_AN_INTEGER),
        ("KEEP 2", OUT_OF_RANGE),
        ("PAUSED -1", OUT_OF_RANGE),
        ("PAUSED yes", NOT_AN_INTEGER),
        ("LIMIT 5 KEEP 1", LIMIT_AND_KEEP),
        ("KEEP 1 LIMIT 5", LIMIT_AND_KEEP),
        ("TRIES 3 KEEP 1 LIMIT 5", LIMIT_AND_KEEP),
    ] {
        changes_nothing(&mut client, &format!("TASK.POLICY tasks {options}"), error(refusal));
    }
    // In two calls.
    for (first, second, back) in [("LIMIT 5", "KEEP 1", "LIMIT 0"), ("KEEP 1", "LIMIT 5", "KEEP 0")]
    {
        assert_eq!(client.run(format!("TASK.POLICY tasks {first}")), ok());
        let call = format!("TASK.POLICY tasks {second}");
        changes_nothing(&mut client, &call, error(LIMIT_AND_KEEP));
        assert_eq!(client.run(format!("TASK.POLICY tasks {back}")), ok());
    }
}

#[test]
fn what_a_plain_client_writes_into_a_policy_applies_at_once() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("tasks", "p");
    assert_eq!(client.run("HSET policy:{tasks} limit 1 lease_ms 7 foreign field"), int(3));
    assert_eq!(policy(&mut client), policy_with(&[("limit", 1), ("lease_ms", 7)]));
    assert_eq!(client.run("TASK.PUBLISH tasks p"), error(FULL));
    assert_eq!(client.run("HINCRBY policy:{tasks} limit 1"), int(2));
    client.publish("tasks", "p");
    assert_eq!(client.run("TASK.PUBLISH tasks p"), error(FULL));
    assert_eq!(client.run("HDEL policy:{tasks} limit"), int(1));
    client.publish("tasks", "p");
    // Other values count as the default.
    for nonsense in ["x", "-1", "1.5", "9223372036854775808", "01"] {
        client.run(format!("HSET policy:{{tasks}} limit {nonsense} tries {nonsense}"));
        assert_eq!(policy(&mut client), policy_with(&[("lease_ms", 7)]), "{nonsense}");
        client.publish("tasks", "p");
    }
    // A renamed policy, and none.
    assert_eq!(client.run("TASK.POLICY others PAUSED 1"), ok());
    assert_eq!(client.run("RENAME policy:{others} policy:{tasks}"), ok());
    assert_eq!(policy(&mut client), policy_with(&[("paused", 1)]));
    assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
    assert_eq!(client.run("DEL policy:{tasks}"), int(1));
    assert_eq!(policy(&mut client), policy_with(&[]));
    assert_eq!(client.consume_payloads("g", "tasks", 1), ["p"]);
    for line in ["HSET policy:{tasks} paused 1", "FLUSHALL"] {
        assert!(!client.run(line).is_error());
    }
    client.publish("tasks", "p");
    assert_eq!(
        client.consume_payloads("g", "tasks", 1),
        ["p"],
        "a flushed policy no longer applies"
    );
}

#[test]
fn the_configuration_applies_where_a_policy_says_nothing() {
    let server = Server::builder().module_arg("task-tries").module_arg(7).start();
    let mut client = server.client();
    assert_eq!(policy(&mut client), policy_with(&[("tries", 7)]));
    assert_eq!(client.run("CONFIG SET corral.task-lease-ms 1234 corral.task-tries 0"), ok());
    assert_eq!(policy(&mut client), policy_with(&[("tries", 0), ("lease_ms", 1234)]));
    assert_eq!(client.run("TASK.POLICY tasks TRIES 3 LEASE 0"), ok());
    assert_eq!(policy(&mut client), policy_with(&[("tries", 3), ("lease_ms", 0)]));
}

#[test]
fn whichever_command_comes_first_all_tasks_are_delivered() {
    let server = Server::start();
    let mut client = server.client();
    for forget in [
        "PING",
        "XGROUP CREATE tasks other 0;XGROUP DESTROY tasks other",
        "RENAME tasks elsewhere;RENAME elsewhere tasks",
        "DEL tasks",
        "DEBUG RELOAD",
    ] {
        for learn in [
            "TASK.POLICY tasks LIMIT 9",
            "HSET policy:{tasks} limit 9",
            "TASK.PUBLISH tasks p",
            "TASK.PUBLISH tasks p PRIORITY 2",
            "TASK.PUBLISH tasks p DELAY 600000",
            "TASK.ACK tasks g 1-1",
            "TASK.INFO tasks",
            "TASK.CONSUME other c tasks",
        ] {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.run("TASK.POLICY tasks LEASE 600000"), ok());
            assert_eq!(client.run("TASK.CONSUME g c tasks"), nil_array());
            client.publish_with("tasks", "urgent", "PRIORITY 9");
            let due = client.publish_with("tasks", "due", "DELAY 1 PRIORITY 5");
            for line in forget.split(';').chain([learn]) {
                assert!(!client.run(line).is_error(), "{line}");
            }
            client.wait_past(id_ms(&due));
            let got = client.consume_payloads("g", "tasks", 100);
            let first: Vec<_> = got.iter().take(2).collect();
            assert_eq!(first, ["urgent", "due"], "{forget}; {learn}");
        }
    }
}

#[test]
fn a_paused_queue_delivers_nothing_and_does_everything_else() {
    let server = Server::start();
    let mut client = server.client();
    let leased = client.publish("tasks", "leased");
    let failed = client.publish("tasks", "failed");
    assert_eq!(client.consume("g", "c", "tasks", 2).len(), 2);
    assert_eq!(client.run("TASK.POLICY tasks PAUSED 1 LEASE 1"), ok());
    client.publish("tasks", "ready");
    client.publish_with("tasks", "urgent", "PRIORITY 9");
    client.publish_with("tasks", "due", "DELAY 1");
    client.wait_ms(20);
    // Neither ready tasks nor due ones nor expired leases, with and without waiting.
    for options in ["9", "9 20", "9 META"] {
        let reply = client.run(format!("TASK.CONSUME g c tasks {options}"));
        assert!(reply.is_nil() || reply == array([""; 0]), "{reply:?}");
    }
    assert_eq!(client.run("TASK.CONSUME new c tasks 9"), nil_array());
    assert_eq!(client.run("XGROUP DESTROY tasks new"), int(1), "the group was created");
    assert_eq!(client.run(format!("TASK.EXTEND tasks g c {leased}")), int(1));
    assert_eq!(client.run(format!("TASK.ACK tasks g {leased}")), int(1));
    assert_eq!(client.run(format!("TASK.NACK tasks g c SILENT {failed}")), int(1));
    assert_eq!(client.consume_payloads("g", "tasks", 9), [""; 0]);
    assert_eq!(client.run("TASK.POLICY tasks PAUSED 0 LEASE 0"), ok());
    let mut got = client.consume_payloads("g", "tasks", 9);
    assert_eq!(got.remove(0), "urgent");
    got.sort();
    assert_eq!(got, ["due", "failed", "ready"]);
}

#[test]
fn with_keep_finished_tasks_stay_in_their_streams() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks KEEP 1"), ok());
    let ids = ["", "PRIORITY 4"].map(|options| client.publish_with("tasks", "p", options));
    for group in ["g", "h"] {
        assert_eq!(client.consume(group, "c", "tasks", 9).len(), 2);
        assert_eq!(client.run(format!("TASK.ACK tasks {group} {}", ids.join(" "))), int(2));
        changes_nothing(&mut client, &format!("TASK.ACK tasks {group} {}", ids[0]), int(0));
        assert_eq!(client.consume(group, "c", "tasks", 9), [], "they are finished");
    }
    // A finished task cannot be canceled.
    changes_nothing(&mut client, &format!("TASK.CANCEL tasks {}", ids.join(" ")), int(0));
    assert_eq!(client.ids_in("tasks"), [ids[0].as_str()]);
    assert_eq!(client.ids_in("priority4:{tasks}"), [ids[1].as_str()]);
    // A later group gets the kept tasks.
    assert_eq!(client.consume("late", "c", "tasks", 9).len(), 2);
    assert_eq!(client.run("TASK.POLICY tasks KEEP 0"), ok());
    assert_eq!(client.run(format!("TASK.ACK tasks late {}", ids.join(" "))), int(2));
    assert_eq!(client.run("XLEN tasks"), int(0));
    assert_eq!(client.run("XLEN priority4:{tasks}"), int(0));
}

// ---------------------------------------------------------------------------------------------
// TASK.INFO
// ---------------------------------------------------------------------------------------------

const INFO_FIELDS: [&str; 10] = [
    "length",
    "delayed",
    "held",
    "dead",
    "oldest_ready_ms",
    "next_due_ms",
    "priorities",
    "waiting_consumers",
    "groups",
    "policy",
];

/// The pairs of a map, in both protocols.
#[track_caller]
fn pairs(value: &Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(pairs) => pairs.clone(),
        flat => {
            flat.items().chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        }
    }
}

/// The reply of `TASK.INFO`, with its fields checked.
#[track_caller]
fn info(client: &mut Client, resp3: bool) -> Value {
    let reply = client.run("TASK.INFO tasks");
    assert_eq!(matches!(reply, Value::Map(_)), resp3, "{reply:?}");
    for (field, names) in [("", &INFO_FIELDS[..]), ("policy", &POLICY.map(|(name, _)| name))] {
        let part = if field.is_empty() { &reply } else { reply.get(field) };
        assert_eq!(matches!(part, Value::Map(_)), resp3, "{part:?}");
        let found: Vec<_> = pairs(part).into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, names.iter().map(bulk).collect::<Vec<_>>());
    }
    for group in reply.get("groups").items() {
        let found: Vec<_> = pairs(group).into_iter().map(|(name, _)| name).collect();
        let names = ["name", "ready", "leased", "consumers", "oldest_leased_ms"];
        assert_eq!(found, names.map(bulk));
    }
    reply
}

#[test]
fn info_describes_a_queue_in_both_protocols() {
    let server = Server::start();
    for (mut client, resp3) in [(server.client(), false), (server.client3(), true)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        for priority in [0, 0, 0, 3, 9, 9] {
            client.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
        }
        client.publish_with("tasks", "p", "DELAY 500000");
        client.publish_with("tasks", "p", &format!("DELAY {LONG}"));
        client.run("XADD dead:{tasks} * payload p");
        assert_eq!(client.consume("g", "one", "tasks", 3).len(), 3);
        assert_eq!(client.consume("g", "two", "tasks", 1).len(), 1);
        assert_eq!(client.consume("h", "three", "tasks", 1).len(), 1);

        let queue = info(&mut client, resp3);
        for (field, value) in
            [("length", 6), ("delayed", 2), ("held", 0), ("dead", 1), ("waiting_consumers", 0)]
        {
            assert_eq!(queue.get(field), &int(value), "{field}");
        }
        let due = queue.get("next_due_ms").as_int();
        assert!((500_000 - SLACK..=500_000).contains(&due), "{due}");
        let age = queue.get("oldest_ready_ms").as_int();
        assert!((0..SLACK).contains(&age), "{age}");
        let priorities = pairs(queue.get("priorities"));
        assert_eq!(priorities, [("3".into(), int(1)), ("9".into(), int(2))]);
        let groups = queue.get("groups").items();
        let of = |group: &Value| {
            let number = |field| group.get(field).as_int();
            let age = number("oldest_leased_ms");
            assert!((0..SLACK).contains(&age), "{age}");
            let name = group.get("name").as_str().to_owned();
            (name, number("ready"), number("leased"), number("consumers"))
        };
        let mut groups: Vec<_> = groups.iter().map(of).collect();
        groups.sort();
        assert_eq!(groups, [("g".into(), 2, 4, 2), ("h".into(), 5, 1, 1)]);
        let policy: Vec<_> = POLICY.map(|(name, value)| (bulk(name), int(value))).to_vec();
        assert_eq!(pairs(queue.get("policy")), policy);
    }
}

#[test]
fn info_tells_the_age_of_tasks_and_leases() {
    let server = Server::start();
    let mut client = server.client();
    let now = client.time_ms();
    // An id tells when its entry was added.
    client.run(format!("XADD tasks {}-0 payload old", now - 100_000));
    client
        .run(format!("XADD priority5:{{tasks}} {}-500000000000000000 payload old", now - 200_000));
    client.run(format!("XADD tasks {now}-0 payload new"));
    let age = |client: &mut Client, field: &str| client.run("TASK.INFO tasks").get(field).as_int();
    let is_about = |found: i64, ms: i64| (ms..ms + SLACK).contains(&found);
    let found = age(&mut client, "oldest_ready_ms");
    assert!(is_about(found, 200_000), "no group has read any: {found}");
    for expected in [100_000, 0, 0] {
        assert_eq!(client.consume("g", "c", "tasks", 1).len(), 1);
        let found = age(&mut client, "oldest_ready_ms");
        assert!(is_about(found, expected), "{found}, not {expected}");
    }
    assert_eq!(age(&mut client, "oldest_ready_ms"), 0, "all are leased");
    let id = client.leased_ids("tasks", "g").remove(0);
    client.run(format!("XCLAIM tasks g c 0 {id} IDLE 300000 JUSTID"));
    let queue = client.run("TASK.INFO tasks");
    let found = queue.get("groups").items()[0].get("oldest_leased_ms").as_int();
    assert!(is_about(found, 300_000), "{found}");

    assert_eq!(age(&mut client, "next_due_ms"), -1);
    client.publish_with("tasks", "p", "DELAY 1");
    client.wait_ms(5);
    assert_eq!(age(&mut client, "next_due_ms"), 0, "it has not been delivered");
}

#[test]
fn info_of_a_missing_queue_is_empty_and_creates_nothing() {
    let server = Server::start();
    for (mut client, resp3) in [(server.client(), false), (server.client3(), true)] {
        let queue = info(&mut client, resp3);
        for (field, value) in [
            ("length", 0),
            ("delayed", 0),
            ("held", 0),
            ("dead", 0),
            ("oldest_ready_ms", 0),
            ("next_due_ms", -1),
            ("waiting_consumers", 0),
        ] {
            assert_eq!(queue.get(field), &int(value), "{field}");
        }
        assert_eq!(pairs(queue.get("priorities")), []);
        assert_eq!(queue.get("groups"), &array([""; 0]));
        assert_eq!(client.run("DBSIZE"), int(0));
        // A queue with a priority only.
        client.publish_with("tasks", "p", "PRIORITY 2");
        let queue = info(&mut client, resp3);
        assert_eq!(queue.get("length"), &int(1));
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}

#[test]
fn info_counts_waiting_consumers() {
    let server = Server::start();
    let mut client = server.client();
    let mut waiters = ["g", "g", "h"].map(|group| {
        let mut waiter = server.client();
        server.wait_with(&mut waiter, &format!("TASK.CONSUME {group} c tasks BLOCK 0"));
        waiter
    });
    let mut other = server.client();
    server.wait_with(&mut other, "TASK.CONSUME g c others BLOCK 0");
    let waiting =
        |client: &mut Client| client.run("TASK.INFO tasks").get("waiting_consumers").as_int();
    assert_eq!(waiting(&mut client), 3);
    client.publish("tasks", "p");
    for waiter in [0, 2] {
        assert_eq!(waiters[waiter].read().task_payloads(), ["p"]);
    }
    assert_eq!(waiting(&mut client), 1);
}

#[test]
fn info_answers_on_a_replica_and_in_read_only_scripts() {
    let master = Server::start();
    let mut client = master.client();
    client.run("TASK.POLICY tasks LIMIT 9");
    client.publish("tasks", "p");
    client.publish_with("tasks", "p", "PRIORITY 2");
    client.publish_with("tasks", "p", "DELAY 600000");
    assert_eq!(client.consume("g", "c", "tasks", 1).len(), 1);
    let replica = Server::builder().replica_of(&master).start();
    wait_in_sync(&master, &replica);
    let mut reader = replica.client();
    for field in ["length", "delayed", "dead", "priorities", "policy"] {
        let theirs = client.run("TASK.INFO tasks");
        assert_eq!(reader.run("TASK.INFO tasks").get(field), theirs.get(field), "{field}");
    }
    let groups = reader.run("TASK.INFO tasks").get("groups").clone();
    assert_eq!(groups.items()[0].get("leased"), &int(1));
    assert_eq!(groups.items()[0].get("ready"), &int(1));
    let script = "return redis.call('TASK.INFO', KEYS[1])";
    assert!(!client.cmd(&["EVAL_RO", script, "1", "tasks"]).is_error());
    let changes = client.info("persistence", "rdb_changes_since_last_save");
    client.run("TASK.INFO tasks");
    assert_eq!(client.info("persistence", "rdb_changes_since_last_save"), changes);
}

#[test]
fn info_is_exact_for_hundreds_of_groups_and_thousands_of_tasks() {
    const GROUPS: usize = 300;
    const TASKS: usize = 5000;
    let server = Server::start();
    let mut client = server.client();
    let create = |name: &str, from: &str| format!("XGROUP CREATE tasks {name} {from} MKSTREAM");
    let lines: Vec<_> = (0..GROUPS).map(|n| create(&format!("g{n}"), "0")).collect();
    assert!(client.pipeline(&lines).iter().all(|reply| *reply == ok()));
    client.pipeline(&vec!["TASK.PUBLISH tasks p"; TASKS - 2]);
    client.pipeline(&["TASK.PUBLISH tasks p PRIORITY 4"; 2]);
    assert_eq!(client.run(create("late", "$")), ok());
    // Every tenth group has begun.
    let taken = |n: usize| if n.is_multiple_of(10) { n / 10 + 3 } else { 0 };
    for n in (0..GROUPS).filter(|n| taken(*n) > 0) {
        let reply = client.run(format!("TASK.CONSUME g{n} c tasks {}", taken(n)));
        assert_eq!(reply.task_ids().len(), taken(n));
    }
    let queue = client.run("TASK.INFO tasks");
    let number = |value: usize| int(value as i64);
    assert_eq!(queue.get("length"), &number(TASKS));
    let groups = queue.get("groups").items();
    assert_eq!(groups.len(), GROUPS + 1);
    for group in groups {
        let name = group.get("name").as_str();
        let (ready, leased) = match name.strip_prefix('g') {
            Some(n) => {
                let leased = taken(n.parse().unwrap());
                (TASKS - leased, leased)
            }
            // It has not read the two tasks of a priority.
            None => (2, 0),
        };
        assert_eq!(group.get("ready"), &number(ready), "{name}");
        assert_eq!(group.get("leased"), &number(leased), "{name}");
        assert_eq!(group.get("consumers"), &number(leased.min(1)), "{name}");
    }
    let age = queue.get("oldest_ready_ms").as_int();
    assert!((0..SLACK).contains(&age), "{age}");
}
