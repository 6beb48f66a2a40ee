//! What the commands without options reply, byte for byte: in both protocols, inline, in
//! transactions and in scripts; that names and values of any bytes survive; and the rules of leases
//! and locks, also towards plain clients on the same keys.

mod support;
use support::compare::*;
use support::*;

/// A lease that does not expire during a test, and the most that a busy machine takes between two
/// looks at the clock, in ms.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

/// Checks that the key's time to live was set to `ms` a moment ago.
#[track_caller]
fn assert_left(client: &mut Client, key: &str, ms: i64) {
    let left = client.run(format!("PTTL {key}")).as_int();
    assert!((ms - SLACK..=ms).contains(&left), "{key}: {left} of {ms} ms are left");
}

// ---------------------------------------------------------------------------------------------
// Exact replies
// ---------------------------------------------------------------------------------------------

/// Commands with the bytes of their replies.
type Session = Vec<(&'static str, &'static str)>;

/// Where the protocols differ: nil, a nil array, and a stream with its task.
const RESP2: [&str; 3] = ["$-1\r\n", "*-1\r\n", ONE_TASK];
const RESP3: [&str; 3] = ["_\r\n", "_\r\n", ONE_TASK3];
const ONE_TASK: &str = "*1\r\n*2\r\n$5\r\ntasks\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*6\r\n$7\r\npayload\r\n\
    $1\r\np\r\n$9\r\ntimestamp\r\n$1\r\n1\r\n$11\r\nretry_count\r\n$1\r\n0\r\n";
const ONE_TASK3: &str = "%1\r\n$5\r\ntasks\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*6\r\n$7\r\npayload\r\n\
    $1\r\np\r\n$9\r\ntimestamp\r\n$1\r\n1\r\n$11\r\nretry_count\r\n$1\r\n0\r\n";

fn session([nil, nil_array, task]: [&'static str; 3]) -> Session {
    vec![
        ("CACHE.GET k", nil),
        ("CACHE.LOCK k 600000 600000", "+LOAD\r\n"),
        ("CACHE.LOCK k 600000 600000", "+WAIT\r\n"),
        ("CACHE.GET k", nil),
        ("CACHE.SET k value 600000", "+OK\r\n"),
        ("CACHE.GET k", "$5\r\nvalue\r\n"),
        ("CACHE.LOCK k 600000 600000", "+LOAD\r\n"),
        ("LOCK.ACQUIRE job one 600000", ":1\r\n"),
        ("LOCK.ACQUIRE job one 600000", ":0\r\n"),
        ("LOCK.ACQUIRE job two 600000", ":0\r\n"),
        ("LOCK.EXTEND job one 600000", ":1\r\n"),
        ("LOCK.EXTEND job two 600000", ":0\r\n"),
        ("LOCK.RELEASE job two", ":0\r\n"),
        ("LOCK.RELEASE job one", ":1\r\n"),
        ("LOCK.RELEASE job one", ":0\r\n"),
        ("LOCK.ACQUIRE job two 600000", ":1\r\n"),
        ("TASK.CONSUME g c tasks", nil_array),
        ("XADD tasks 1-1 payload p timestamp 1 retry_count 0", "$3\r\n1-1\r\n"),
        ("TASK.CONSUME g c tasks 10 600000", task),
        // It times out.
        ("TASK.CONSUME g c tasks 1 1", nil_array),
        ("TASK.ACK tasks g 1-1", ":1\r\n"),
        ("TASK.ACK tasks g 1-1", ":0\r\n"),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3", "+OK\r\n"),
        ("TASK.RETRY tasks 1-1 p 3 retries dead 3", "+OK\r\n"),
        (
            "CACHE.GET tasks",
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        ),
        ("LOCK.ACQUIRE job one 0", "-ERR invalid expire time in 'lock.acquire' command\r\n"),
    ]
}

#[test]
fn every_command_replies_exactly_as_documented() {
    let server = Server::start();
    for (mut client, words) in [(server.client(), RESP2), (server.client3(), RESP3)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        for (line, reply) in session(words) {
            assert_eq!(wire_of(&mut client, line), escaped(reply), "{line}");
        }
    }
}

/// More commands whose replies are the same every time.
const MORE: [&str; 26] = [
    "TASK.POLICY tasks LEASE 600000 TRIES 3 BACKOFF 0 0 LIMIT 9",
    "TASK.CONSUME g c tasks COUNT 3",
    "TASK.CONSUME g c tasks META",
    "XADD tasks 1-1 payload a timestamp 1 retry_count 0",
    "XADD tasks 1-2 payload b timestamp 1 retry_count 0",
    "XADD priority3:{tasks} 1-300000000000000000 payload c timestamp 1 retry_count 0",
    "ZADD delayed:{tasks} 4102444800000 never",
    "TASK.CONSUME g c tasks META COUNT 2 BLOCK 0",
    "TASK.CONSUME g c tasks BLOCK 600000",
    "TASK.CONSUME g c tasks BLOCK 1",
    "TASK.EXTEND tasks g c 1-1",
    "TASK.EXTEND tasks g d 1-1",
    "TASK.NACK tasks g c FATAL 1-1 REASON why",
    "TASK.NACK tasks g c FATAL 1-1 REASON why",
    "TASK.NACK tasks g c SILENT 1-2 DELAY 600000",
    "TASK.NACK tasks g c FAIL 1-300000000000000000 DELAY 600000",
    "XADD tasks 99999999999999-1 payload d",
    "TASK.CANCEL tasks 99999999999999-1 9-9",
    "TASK.CANCEL tasks 99999999999999-1 9-9",
    "TASK.REDRIVE dead:{tasks} tasks",
    "TASK.REDRIVE dead:{tasks} tasks COUNT 5",
    "TASK.REDRIVE tasks tasks",
    "TASK.PUBLISH tasks p PRIORITY 10",
    "TASK.POLICY tasks KEEP 1",
    "TASK.INFO missing",
    "TASK.ACK tasks g 1-1",
];

#[test]
fn replies_are_the_same_inline_in_transactions_and_in_scripts() {
    let server = Server::start();
    for (mut client, protocol, words) in [(server.client(), 2, RESP2), (server.client3(), 3, RESP3)]
    {
        let mut run = |ask: &dyn Fn(&mut Client, &str) -> Vec<u8>| {
            assert_eq!(client.run("FLUSHALL"), ok());
            let basic = session(words).into_iter().map(|(line, _)| line);
            let mut replies = Vec::new();
            for line in basic.chain(["FLUSHALL"]).chain(MORE) {
                replies.push(escaped(ask(&mut client, line)));
            }
            replies
        };
        let plain = run(&|client, line| {
            client.send(line);
            client.read_raw_reply()
        });
        let inline = run(&|client, line| {
            client.send_raw(format!("{}\r\n", line.to_lowercase()));
            client.read_raw_reply()
        });
        assert_eq!(inline, plain);
        let transactions = run(&|client, line| {
            client.pipeline(&["MULTI", line]);
            client.send("EXEC");
            client.read_raw_reply().strip_prefix(b"*1\r\n").expect("one reply").to_vec()
        });
        assert_eq!(transactions, plain);
        let script =
            format!("redis.setresp({protocol}); local r = redis.pcall(unpack(ARGV)); return r");
        let scripts = run(&|client, line| {
            let mut call = args!["EVAL", script, 0].to_vec();
            call.extend(line.split(' ').map(Into::into));
            client.send_args(&call);
            client.read_raw_reply()
        });
        for (script, plain) in scripts.iter().zip(&plain) {
            // Lua has one nil, and its tables have no order.
            let is_other = ["*-1", "_", "%"].iter().any(|start| plain.starts_with(start));
            assert!(script == plain || is_other, "{script}\n{plain}");
        }
    }
    let mut client = server.client();
    client.send_raw("CACHE.SET \"in\\x00line\" 'a b' 600000\r\n");
    assert_eq!(client.read(), ok());
    assert_eq!(client.cmd(&args!["GET", b"in\0line"]), bulk("a b"));
}

#[test]
fn scripts_get_the_replies_of_the_native_commands() {
    let pairs = [
        ("CACHE.GET missing", "GET missing"),
        ("CACHE.GET text", "GET text"),
        ("CACHE.SET new v 600000", "SET other v PX 600000"),
        ("TASK.CONSUME ours c tasks 2", "XREADGROUP GROUP theirs c COUNT 2 STREAMS tasks >"),
        ("TASK.CONSUME ours c tasks 1 600000", "XREADGROUP GROUP theirs c COUNT 1 STREAMS tasks >"),
        ("TASK.ACK tasks ours 1-1 1-2", "XACK tasks theirs 1-1 1-2"),
    ];
    for setup in ["", "redis.setresp(3); "] {
        in_both_protocols(|client| {
            let script = format!("{setup}return redis.call(unpack(ARGV))");
            let mut eval = |line: &str| {
                let mut args = args!["EVAL", script, 0].to_vec();
                args.extend(line.split(' ').map(Into::into));
                wire(client, &args)
            };
            eval("SET text value");
            for id in ["1-1", "1-2", "1-3"] {
                eval(&format!("XADD tasks {id} payload p"));
            }
            for group in ["ours", "theirs"] {
                eval(&format!("XGROUP CREATE tasks {group} 0"));
            }
            for (ours, theirs) in pairs {
                let (ours, theirs) = (eval(ours), eval(theirs));
                assert_eq!(ours, theirs);
                assert!(!ours.starts_with('-'), "{ours}");
            }
        });
    }
}

// ---------------------------------------------------------------------------------------------
// Any bytes
// ---------------------------------------------------------------------------------------------

#[test]
fn a_cached_value_comes_back_byte_for_byte() {
    in_both_protocols(|client| {
        for value in any_bytes().into_iter().chain([Vec::new()]) {
            assert_eq!(client.cmd(&args!["CACHE.SET", "k", value, LONG]), ok());
            assert!(client.run("CACHE.GET k") == bulk(&value), "{}", escaped(&value));
            assert!(client.run("GET k") == bulk(&value), "{}", escaped(&value));
            // A value that another command wrote, in whatever encoding.
            client.run("DEL k");
            assert_eq!(client.cmd(&args!["APPEND", "k", value]), int(len(&value)));
            let appended = if value.is_empty() { client.run("GET k") } else { bulk(&value) };
            assert!(client.run("CACHE.GET k") == appended, "{}", escaped(&value));
        }
    });
}

fn len(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).expect("a length fits")
}

#[test]
fn reading_a_cached_value_keeps_its_encoding() {
    let server = Server::start();
    let mut client = server.client();
    for value in any_bytes() {
        client.cmd(&args!["CACHE.SET", "k", value, LONG]);
        let form = |client: &mut Client| {
            (client.run("OBJECT ENCODING k"), client.run("MEMORY USAGE k SAMPLES 0"))
        };
        let before = form(&mut client);
        client.run("CACHE.GET k");
        assert_eq!(form(&mut client), before, "{}", escaped(&value));
    }
}

#[test]
fn a_payload_survives_the_queue_and_every_retry() {
    in_both_protocols(|client| {
        for payload in any_bytes().into_iter().chain([Vec::new()]) {
            assert_eq!(client.run("FLUSHALL"), ok());
            let id = client.cmd(&args!["TASK.PUBLISH", "tasks", payload]);
            let got = client.run("TASK.CONSUME g c tasks");
            assert_eq!(only_payload(&got), payload);
            for (count, target) in [(0, "retries"), (9, "dead")] {
                let retry =
                    args!["TASK.RETRY", "tasks", id.bytes(), payload, count, "retries", "dead", 9];
                assert_eq!(client.cmd(&retry), ok());
                let got = client.run(format!("TASK.CONSUME g c {target}"));
                assert_eq!(only_payload(&got), payload);
            }
        }
    });
}

/// The payload of the only task in a reply of CONSUME.
#[track_caller]
fn only_payload(reply: &Value) -> Vec<u8> {
    let [task] = reply.tasks() else { panic!("not one task: {reply:?}") };
    task.items()[1].get("payload").bytes().to_vec()
}

#[test]
fn identifiers_groups_and_consumers_are_binary_safe() {
    in_both_protocols(|client| {
        for bytes in any_bytes() {
            assert_eq!(client.run("FLUSHALL"), ok());
            assert_eq!(client.cmd(&args!["LOCK.ACQUIRE", "job", bytes, LONG]), int(1));
            assert_eq!(client.run("GET lock:{job}"), bulk(&bytes));
            assert_eq!(client.cmd(&args!["LOCK.EXTEND", "job", bytes, LONG]), int(1));
            assert_eq!(client.cmd(&args!["LOCK.RELEASE", "job", bytes]), int(1));

            let id = client.run("TASK.PUBLISH tasks p");
            client.cmd(&args!["TASK.CONSUME", bytes, bytes, "tasks"]);
            let groups = client.run("XINFO GROUPS tasks");
            assert_eq!(groups.items()[0].get("name"), &bulk(&bytes));
            let consumers = client.cmd(&args!["XINFO", "CONSUMERS", "tasks", bytes]);
            assert_eq!(consumers.items()[0].get("name"), &bulk(&bytes));
            assert_eq!(client.cmd(&args!["TASK.ACK", "tasks", bytes, id.bytes()]), int(1));
        }
    });
}

// ---------------------------------------------------------------------------------------------
// Names
// ---------------------------------------------------------------------------------------------

/// Names that a careless derivation, a C string or a text conversion confuses.
fn similar_names() -> Vec<Vec<u8>> {
    let words = "a A Ā {a} {a a} {a}} {{a} {}a {} a{} a}b a}c :a ::a :{a} lock:{a} cachelock:{a} \
                 wait:{a} lock::{a} 1 01 1.0";
    let mut names: Vec<Vec<u8>> = words.split(' ').map(Into::into).collect();
    let blanks = ["a\0", "a\0b", "a\0c", "a\r\n", "a\r", "a\n", " a", "a "];
    names.extend(blanks.map(Into::into));
    names.extend([&b"\xff"[..], b"\xfe", b"\xc4", b"\xc4\x80\xff"].map(Into::into));
    names.extend([vec![b'a'; 1000], [vec![b'a'; 999], b"b".to_vec()].concat()]);
    names
}

#[test]
fn names_that_differ_in_any_byte_are_different_locks() {
    let server = Server::start();
    let mut client = server.client();
    let names = similar_names();
    let holder = |index: usize| format!("holder {index}");
    for (index, name) in names.iter().enumerate() {
        let grant = client.cmd(&args!["LOCK.ACQUIRE", name, holder(index), LONG]);
        assert_eq!(grant, int(1), "{}", escaped(name));
    }
    assert_eq!(client.run("DBSIZE"), int(names.len().try_into().unwrap()));
    for (index, name) in names.iter().enumerate() {
        let next = holder((index + 1) % names.len());
        assert_eq!(client.cmd(&args!["LOCK.EXTEND", name, next, LONG]), int(0));
        assert_eq!(client.cmd(&args!["LOCK.EXTEND", name, holder(index), LONG]), int(1));
        assert_eq!(client.cmd(&args!["LOCK.RELEASE", name, holder(index)]), int(1));
    }
    assert_eq!(client.run("DBSIZE"), int(0));
}

#[test]
fn names_that_differ_in_any_byte_are_different_cached_values() {
    let server = Server::start();
    let mut client = server.client();
    // A name spelled like a derived key is that key.
    let mut names = similar_names();
    names.retain(|name| !name.starts_with(b"cachelock:"));
    for name in &names {
        let lock = args!["CACHE.LOCK", name, LONG, LONG];
        assert_eq!(client.cmd(&lock), simple("LOAD"), "{}", escaped(name));
    }
    for (index, name) in names.iter().enumerate() {
        let lock = args!["CACHE.LOCK", name, LONG, LONG];
        assert_eq!(client.cmd(&lock), simple("WAIT"), "{}", escaped(name));
        assert_eq!(client.cmd(&args!["CACHE.GET", name]), nil());
        assert_eq!(client.cmd(&args!["CACHE.SET", name, index, LONG]), ok());
    }
    for (index, name) in names.iter().enumerate() {
        assert_eq!(client.cmd(&args!["CACHE.GET", name]), bulk(index.to_string()));
    }
    assert_eq!(client.run("DBSIZE"), int(names.len().try_into().unwrap()));
}

#[test]
fn names_that_differ_in_any_byte_are_different_queues_groups_and_consumers() {
    let server = Server::start();
    let mut client = server.client();
    let names = similar_names();
    for (index, name) in names.iter().enumerate() {
        client.cmd(&args!["TASK.PUBLISH", name, index]);
    }
    for (index, name) in names.iter().enumerate() {
        // Each group gets the task.
        for group in &names {
            let got = client.cmd(&args!["TASK.CONSUME", group, name, name, 10]);
            assert_eq!(only_payload(&got), index.to_string().as_bytes(), "{}", escaped(name));
        }
    }
    assert_eq!(client.run("DBSIZE"), int(names.len().try_into().unwrap()));
}

#[test]
fn the_keys_of_a_name_are_those_of_the_documentation() {
    let server = Server::start();
    let mut client = server.client();
    for (name, lock, lease) in [
        ("orders", "lock:{orders}", "cachelock:{orders}"),
        ("orders{42}", "lock::orders{42}", "cachelock::orders{42}"),
        ("{a}", "lock::{a}", "cachelock::{a}"),
        ("open{brace", "lock:{open{brace}", "cachelock:{open{brace}"),
        ("a}b", "lock:a}b", "cachelock:a}b"),
        ("filter:{}", "lock:filter:{}", "cachelock:filter:{}"),
    ] {
        assert_eq!(client.run(format!("LOCK.ACQUIRE {name} me 600000")), int(1));
        assert_eq!(client.run(format!("GET {lock}")), bulk("me"), "{name}");
        assert_eq!(client.run(format!("CACHE.LOCK {name} 600000 600000")), simple("LOAD"));
        assert_eq!(client.run(format!("EXISTS {lease} {name}")), int(1), "{name}");
        assert_eq!(client.run(format!("DEL {lock} {lease}")), int(2));
    }
    assert_eq!(client.run("DBSIZE"), int(0), "nothing else is written");
}

#[test]
fn each_database_has_its_own_locks_values_and_queues() {
    let server = Server::start();
    let (mut zero, mut one) = (server.client(), server.client());
    assert_eq!(one.run("SELECT 1"), ok());
    for client in [&mut zero, &mut one] {
        assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
        assert_eq!(client.run("CACHE.LOCK k 600000 600000"), simple("LOAD"));
        assert_eq!(client.run("CACHE.GET k"), nil());
        assert_eq!(client.run("CACHE.SET k v 600000"), ok());
        assert_eq!(client.run("TASK.POLICY tasks LIMIT 2 LEASE 9000"), ok());
        let ids = ["PRIORITY 4 UNIQUE u 600000", "DELAY 600000"]
            .map(|options| client.publish_with("tasks", "p", options));
        assert!(client.run("TASK.PUBLISH tasks p").is_error_with("TASKFULL "));
        assert_eq!(client.lease("g", "c", "tasks"), ids[0]);
        assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {}", ids[0])), int(2));
        assert_eq!(client.run("TASK.INFO tasks").get("dead"), &int(1));
        assert_eq!(client.run(format!("TASK.CANCEL tasks {}", ids[1])), int(1));
    }
    assert_eq!(zero.run("DBSIZE"), one.run("DBSIZE"));
    assert_eq!(one.run("TASK.POLICY tasks PAUSED 1"), ok());
    for (client, got) in [(&mut zero, 1), (&mut one, 0)] {
        client.publish("tasks", "p");
        assert_eq!(client.consume("g", "c", "tasks", 9).len(), got);
    }
}

// ---------------------------------------------------------------------------------------------
// The loader's lease
// ---------------------------------------------------------------------------------------------

#[test]
fn the_lease_lasts_the_shorter_of_its_two_times() {
    let server = Server::start();
    let mut client = server.client();
    for (ttl, timeout, lease) in
        [(LONG, 4 * LONG, LONG), (4 * LONG, LONG, LONG), (LONG, LONG, LONG)]
    {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(format!("CACHE.LOCK k {ttl} {timeout}")), simple("LOAD"));
        assert_left(&mut client, "cachelock:{k}", lease);
    }
}

#[test]
fn a_lease_expires_and_a_refused_call_does_not_prolong_it() {
    let server = Server::start();
    let mut client = server.client();
    for (ttl, timeout) in [(40, LONG), (LONG, 40)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(format!("CACHE.LOCK k {ttl} {timeout}")), simple("LOAD"));
        eventually(SOON, "the lease expires", || {
            client.run(format!("CACHE.LOCK k {LONG} {LONG}")) == simple("LOAD")
        });
        changes_nothing(&mut client, "CACHE.LOCK k 1 1", simple("WAIT"));
    }
}

#[test]
fn setting_a_value_sets_its_time_to_live_and_ends_the_lease() {
    let server = Server::start();
    let mut client = server.client();
    for before in ["DEL k", "SET k old", "SET k old PX 1000000"] {
        client.run(before);
        assert_eq!(client.run("CACHE.LOCK k 600000 600000"), simple("LOAD"));
        assert_eq!(client.run(format!("CACHE.SET k new {LONG}")), ok());
        assert_eq!(client.run("CACHE.GET k"), bulk("new"));
        assert_left(&mut client, "k", LONG);
        assert_eq!(client.run("EXISTS cachelock:{k}"), int(0));
    }
    assert_eq!(client.run("CACHE.SET k short 20"), ok());
    eventually(SOON, "the value expires", || client.run("CACHE.GET k") == nil());
}

#[test]
fn the_lease_and_the_lock_of_the_same_name_are_independent() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    let lock = client.run("DUMP lock:{job}");
    let end = client.run("PEXPIRETIME lock:{job}");
    assert_eq!(client.run("CACHE.LOCK job 1000 1000"), simple("LOAD"));
    assert_eq!(client.run("CACHE.SET job v 1000"), ok());
    assert_eq!(client.run("CACHE.LOCK job 600000 600000"), simple("LOAD"));
    assert_eq!(client.run("DUMP lock:{job}"), lock);
    assert_eq!(client.run("PEXPIRETIME lock:{job}"), end);
    assert_eq!(client.run("LOCK.ACQUIRE job you 1000"), int(0));

    let lease = client.run("DUMP cachelock:{job}");
    assert_eq!(client.run("LOCK.EXTEND job me 1000"), int(1));
    assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(client.run("LOCK.ACQUIRE job you 1000"), int(1));
    assert_eq!(client.run("DUMP cachelock:{job}"), lease);
    assert_left(&mut client, "cachelock:{job}", 600_000);
    assert_eq!(client.run("CACHE.LOCK job 600000 600000"), simple("WAIT"));
}

// ---------------------------------------------------------------------------------------------
// Locks
// ---------------------------------------------------------------------------------------------

const LOCK: &str = "lock:{job}";

/// The scripts with which client libraries release and extend a lock.
const RELEASE_SCRIPT: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const EXTEND_SCRIPT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
     return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";

#[test]
fn only_the_holder_extends_and_releases() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    let me = b"me";
    for other in [&b"you"[..], b"m", b"me ", b"me\0", b"\0me", b"ME", b"mf"] {
        cmd_changes_nothing(&mut client, &args!["LOCK.EXTEND", "job", other, 1], int(0));
        cmd_changes_nothing(&mut client, &args!["LOCK.RELEASE", "job", other], int(0));
    }
    // A longer and a shorter lease, each from now on.
    for lease in [4 * LONG, LONG] {
        assert_eq!(client.cmd(&args!["LOCK.EXTEND", "job", me, lease]), int(1));
        assert_left(&mut client, LOCK, lease);
    }
    assert_eq!(client.cmd(&args!["LOCK.RELEASE", "job", me]), int(1));
    assert_eq!(client.run("DBSIZE"), int(0));
    changes_nothing(&mut client, "LOCK.RELEASE job me", int(0));
    changes_nothing(&mut client, "LOCK.EXTEND job me 1000", int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job you 600000"), int(1));
    changes_nothing(&mut client, "LOCK.RELEASE job me", int(0));
}

#[test]
fn an_expired_lock_is_free_before_the_server_removes_it() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    for (call, reply) in [
        ("LOCK.EXTEND job me 600000", 0),
        ("LOCK.RELEASE job me", 0),
        ("LOCK.ACQUIRE job you 600000", 1),
    ] {
        assert_eq!(client.run("LOCK.ACQUIRE job me 10"), int(1));
        let end = client.run("PEXPIRETIME lock:{job}").as_int();
        eventually(SOON, "it has expired", || now_ms() > end + 1);
        assert_eq!(client.run("DBSIZE"), int(1), "the key is still there");
        assert_eq!(client.run(call), int(reply), "{call}");
        assert_eq!(client.run("EXISTS lock:{job}"), int(reply), "{call}");
    }
}

#[test]
fn a_lock_that_a_plain_client_took_is_held_for_the_commands() {
    let server = Server::start();
    let mut client = server.client();
    // With and without a time to live.
    for take in ["SET lock:{job} me NX PX 1000000", "SET lock:{job} me NX"] {
        assert_eq!(client.run(take), ok());
        changes_nothing(&mut client, "LOCK.ACQUIRE job you 1000", int(0));
        changes_nothing(&mut client, "LOCK.RELEASE job you", int(0));
        assert_eq!(client.run("LOCK.EXTEND job me 600000"), int(1));
        assert_left(&mut client, LOCK, 600_000);
        assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
        assert_eq!(client.run("EXISTS lock:{job}"), int(0));
    }
}

#[test]
fn a_lock_that_the_commands_took_is_held_for_plain_clients() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    changes_nothing(&mut client, "SET lock:{job} you NX PX 1000", nil());
    cmd_changes_nothing(&mut client, &args!["EVAL", RELEASE_SCRIPT, 1, LOCK, "you"], int(0));
    let extend = args!["EVAL", EXTEND_SCRIPT, 1, LOCK, "me", 4 * LONG];
    assert_eq!(client.cmd(&extend), int(1));
    assert_left(&mut client, LOCK, 4 * LONG);
    assert_eq!(client.cmd(&args!["EVAL", RELEASE_SCRIPT, 1, LOCK, "me"]), int(1));
    assert_eq!(client.run("LOCK.EXTEND job me 1000"), int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job you 600000"), int(1));
    assert_eq!(client.run("DEL lock:{job}"), int(1));
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
}
