//! What the ten commands reply, and what they do to the keyspace.
//!
//! Replies are compared byte for byte, in both protocols, inline and in transactions. Every
//! argument of every command meets hostile bytes: a refused call has changed nothing. Names and
//! values are bytes; leases, locks, acknowledgements and retries keep their rules, also towards
//! clients that use the server's own commands on the same keys.

mod support;
use support::*;

const NO_GROUP: &str = "NOGROUP No such consumer group for this stream";

/// A lease that does not end during a test, and the most that a busy machine takes from it before
/// a test looks.
const LONG: i64 = 600_000;
const SLACK: i64 = 60_000;

/// The bytes of the reply.
#[track_caller]
fn wire(client: &mut Client, args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    client.send_args(args);
    client.read_raw_reply()
}

/// As [`wire`], for a command written as one line.
#[track_caller]
fn wire_of(client: &mut Client, line: &str) -> Vec<u8> {
    client.send(line);
    client.read_raw_reply()
}

/// Runs `check` for a RESP2 and a RESP3 client, each on an empty server.
fn in_both_protocols(check: impl Fn(&mut Client)) {
    let server = Server::start();
    for mut client in [server.client(), server.client3()] {
        assert_eq!(client.run("FLUSHALL"), ok());
        check(&mut client);
    }
}

/// The call replies this, and the server holds what it held before.
#[track_caller]
fn changes_nothing(client: &mut Client, args: &[impl AsRef<[u8]>], reply: Value) {
    let before = Keyspace::of(client);
    assert_eq!(client.cmd(args), reply);
    assert_eq!(Keyspace::of(client), before);
}

/// As [`changes_nothing`], for a command written as one line.
#[track_caller]
fn line_changes_nothing(client: &mut Client, line: &str, reply: Value) {
    let words: Vec<&str> = line.split(' ').collect();
    changes_nothing(client, &words, reply);
}

/// Waits until a key has gone by itself.
#[track_caller]
fn wait_gone(client: &mut Client, key: &str) {
    eventually(SOON, &format!("{key} ends"), || client.run(format!("EXISTS {key}")) == int(0));
}

/// Whether a remaining time is what is left of `ms` that were given a moment ago.
#[track_caller]
fn assert_left(client: &mut Client, key: &str, ms: i64) {
    let left = client.run(format!("PTTL {key}")).as_int();
    assert!((ms - SLACK..=ms).contains(&left), "{key}: {left} of {ms} ms are left");
}

// ---------------------------------------------------------------------------------------------
// Exact replies
// ---------------------------------------------------------------------------------------------

/// A session with every command: what is asked, and the bytes of the answer.
type Session = Vec<(&'static str, &'static str)>;

/// How the protocols differ: nil, a nil array, and the stream around its tasks.
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
        // Its time runs out.
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

/// Runs `check` for a client of each protocol, with the session that it has to see.
fn in_each_session(check: impl Fn(&mut Client, Session)) {
    for (connect, words) in [(Server::client as fn(&Server) -> _, RESP2), (Server::client3, RESP3)]
    {
        let server = Server::start();
        check(&mut connect(&server), session(words));
    }
}

/// Bytes as they are written in a source text.
fn escaped(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().escape_ascii().to_string()
}

#[test]
fn every_command_replies_exactly_as_its_contract_says() {
    in_each_session(|client, session| {
        for (line, answer) in session {
            assert_eq!(escaped(wire_of(client, line)), escaped(answer), "{line}");
        }
    });
}

#[test]
fn inline_commands_get_the_same_replies() {
    in_each_session(|client, session| {
        for (line, answer) in session {
            client.send_raw(format!("{}\r\n", line.to_lowercase()));
            assert_eq!(escaped(client.read_raw_reply()), escaped(answer), "{line}");
        }
        client.send_raw("CACHE.SET \"in\\x00line\" 'a b' 600000\r\n");
        assert_eq!(client.read(), ok());
        assert_eq!(client.cmd(&args!["GET", b"in\0line"]), bulk("a b"));
    });
}

#[test]
fn in_a_transaction_the_replies_are_the_same_and_nobody_waits() {
    in_each_session(|client, session| {
        assert_eq!(client.run("MULTI"), ok());
        for (line, _) in &session {
            assert_eq!(client.run(line), simple("QUEUED"));
        }
        let answers: String = session.iter().map(|(_, answer)| *answer).collect();
        let expected = format!("*{}\r\n{answers}", session.len());
        assert_eq!(escaped(wire_of(client, "EXEC")), escaped(expected));
    });
}

#[test]
fn in_a_script_the_replies_are_those_of_the_native_commands() {
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
                assert_eq!(escaped(&ours), escaped(theirs));
                assert!(!ours.starts_with(b"-"), "{}", escaped(ours));
            }
        });
    }
}

#[test]
fn publish_replies_the_id_of_the_entry_that_it_added() {
    in_both_protocols(|client| {
        let before = now_ms();
        let reply = client.run("TASK.PUBLISH tasks p");
        let after = now_ms();
        let Value::Bulk(id) = &reply else { panic!("not a bulk string: {reply:?}") };
        let entries = client.run("XRANGE tasks - +");
        let entry = entries.items()[0].items();
        assert_eq!(entry[0].bytes(), id);
        let fields = &entry[1];
        let timestamp: i64 = fields.get("timestamp").as_str().parse().expect("seconds");
        assert!((before / 1000..=after / 1000).contains(&timestamp), "{timestamp}");
        assert_eq!(
            *fields,
            array(["payload", "p", "timestamp", &timestamp.to_string(), "retry_count", "0"])
        );

        client.run("TASK.PUBLISH tasks p 7");
        let last = client.run("XREVRANGE tasks + - COUNT 1");
        assert_eq!(last.items()[0].items()[1].get("retry_count"), &bulk("7"));
    });
}

/// Adds tasks of all kinds, and entries that no TASK command wrote.
fn fill_with_all_kinds(client: &mut Client) {
    for payload in payloads() {
        assert!(!client.cmd(&args!["TASK.PUBLISH", "tasks", payload]).is_error());
    }
    client.run("TASK.PUBLISH tasks p 9223372036854775807");
    client.run("XADD tasks * some other fields here");
    client.cmd(&args!["XADD", "tasks", "*", "", "", b"\0", b"\r\n"]);
}

#[test]
fn consume_replies_byte_for_byte_what_xreadgroup_replies() {
    in_both_protocols(|client| {
        fill_with_all_kinds(client);
        let total = client.run("XLEN tasks").as_int();
        for group in ["ours", "theirs"] {
            assert_eq!(client.run(format!("XGROUP CREATE tasks {group} 0")), ok());
        }
        let mut delivered = 0;
        for count in [1, 2, 3, 100, 1] {
            let theirs = format!("XREADGROUP GROUP theirs c COUNT {count} STREAMS tasks >");
            let ours = wire_of(client, &format!("TASK.CONSUME ours c tasks {count}"));
            assert_eq!(escaped(ours), escaped(wire_of(client, &theirs)));
            delivered = client.run("XPENDING tasks ours").items()[0].as_int();
        }
        assert_eq!(delivered, total, "everything was delivered");
    });
}

#[test]
fn a_consumer_that_waited_gets_byte_for_byte_what_xreadgroup_replies() {
    let server = Server::start();
    let mut publisher = server.client();
    for connect in [Server::client, Server::client3] {
        assert_eq!(publisher.run("FLUSHALL"), ok());
        for group in ["ours", "theirs"] {
            assert_eq!(publisher.run(format!("XGROUP CREATE tasks {group} 0 MKSTREAM")), ok());
        }
        let (mut ours, mut theirs) = (connect(&server), connect(&server));
        let mut wake = |publish: Vec<Vec<u8>>| {
            ours.send("TASK.CONSUME ours c tasks 3 600000");
            theirs.send("XREADGROUP GROUP theirs c COUNT 3 BLOCK 600000 STREAMS tasks >");
            wait_blocked(&server, 2);
            assert!(!publisher.cmd(&publish).is_error());
            let (ours, theirs) = (ours.read_raw_reply(), theirs.read_raw_reply());
            assert!(ours == theirs, "{}\n{}", escaped(&ours), escaped(&theirs));
        };
        for payload in payloads() {
            wake(args!["TASK.PUBLISH", "tasks", payload].to_vec());
        }
        wake(args!["XADD", "tasks", "*", b"\0", b"\r\n", "", ""].to_vec());
        wake(args!["TASK.RETRY", "gone", "1-1", "p", 0, "tasks", "dead", 3].to_vec());
    }
}

#[test]
fn consume_takes_one_task_unless_told_otherwise() {
    in_both_protocols(|client| {
        let ids = ["1-1", "1-2", "1-3", "1-4"];
        add_entries(client, "tasks", &ids);
        // The group is missing, and is created at the beginning of the stream.
        assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-1"]);
        assert_eq!(client.run("TASK.CONSUME g c tasks 2").task_ids(), ["1-2", "1-3"]);
        assert_eq!(client.run("TASK.CONSUME g c tasks 2 600000").task_ids(), ["1-4"]);
        assert_eq!(pending(client, "tasks", "g"), ids);
    });
}

#[test]
fn consume_creates_what_is_missing() {
    in_both_protocols(|client| {
        assert!(client.run("TASK.CONSUME g c tasks").is_nil());
        assert_eq!(client.run("XLEN tasks"), int(0));
        let groups = client.run("XINFO GROUPS tasks");
        assert_eq!(groups.items().len(), 1);
        assert_eq!(groups.items()[0].get("name"), &bulk("g"));
        assert_eq!(groups.items()[0].get("last-delivered-id"), &bulk("0-0"));
    });
}

// ---------------------------------------------------------------------------------------------
// Hostile arguments
// ---------------------------------------------------------------------------------------------

use Kind::*;

/// The commands with all their arguments, but the options.
const FORMS: [Form; 10] = [
    Form { call: "CACHE.GET k", kinds: &[Filled("name")], required: 1, beyond: Beyond::Arity },
    Form {
        call: "CACHE.LOCK k 1000 1000",
        kinds: &[Filled("name"), Lifetime, Lifetime],
        required: 3,
        beyond: Beyond::Arity,
    },
    Form {
        call: "CACHE.SET k v 1000",
        kinds: &[Filled("name"), Bytes, Lifetime],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "LOCK.ACQUIRE free me 1000",
        kinds: &[Filled("name"), Filled("identifier"), Lifetime],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "LOCK.EXTEND job me 1000",
        kinds: &[Filled("name"), Filled("identifier"), Lifetime],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "LOCK.RELEASE job me",
        kinds: &[Filled("name"), Filled("identifier")],
        required: 2,
        beyond: Beyond::Arity,
    },
    Form {
        call: "TASK.PUBLISH tasks p 0",
        kinds: &[Filled("name"), Bytes, AtLeast(0)],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks 1 1",
        kinds: &[Filled("group"), Filled("consumer"), Filled("name"), AtLeast(1), Wait],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.ACK tasks g 1-1",
        kinds: &[Filled("name"), Filled("group"), Id],
        required: 3,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.RETRY tasks 1-1 p 0 retries dead 3 g",
        kinds: &[
            Filled("name"),
            Id,
            Bytes,
            AtLeast(0),
            Filled("name"),
            Filled("name"),
            AtLeast(0),
            KnownGroup,
        ],
        required: 7,
        beyond: Beyond::Syntax,
    },
];

/// A keyspace in which every call of [`FORMS`] succeeds and has something to change.
fn prepare(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("SET k old PX 600000"), ok());
    assert_eq!(client.run("CACHE.LOCK loading 600000 600000"), simple("LOAD"));
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    add_entries(client, "tasks", &["1-1", "1-2"]);
    add_entries(client, "retries", &["1-1"]);
    add_entries(client, "dead", &["1-1"]);
    assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-1"]);
}

#[test]
fn every_form_of_the_table_succeeds_as_it_stands() {
    assert_forms_succeed(&FORMS, prepare);
}

#[test]
fn a_hostile_argument_is_refused_or_taken_as_it_is_and_never_changes_half() {
    assert_hostile_arguments_are_harmless(&FORMS, prepare);
}

#[test]
fn missing_and_surplus_arguments_are_refused() {
    assert_the_number_of_arguments_is_checked(&FORMS, prepare);
}

#[test]
fn a_time_may_end_just_before_two_to_the_53_and_not_later() {
    assert_times_have_an_end(&FORMS, prepare);
}

#[test]
fn a_lease_of_zero_is_granted_to_nobody() {
    let server = Server::start();
    let mut client = server.client();
    for lease in [0, -1] {
        for (call, name) in [
            (format!("LOCK.ACQUIRE job one {lease}"), "lock.acquire"),
            (format!("LOCK.ACQUIRE job two {lease}"), "lock.acquire"),
            (format!("CACHE.LOCK k {lease} {lease}"), "cache.lock"),
            (format!("CACHE.LOCK k {lease} 1000"), "cache.lock"),
            (format!("CACHE.LOCK k 1000 {lease}"), "cache.lock"),
        ] {
            let refusal = error(format!("ERR invalid expire time in '{name}' command"));
            line_changes_nothing(&mut client, &call, refusal);
        }
    }
    assert_eq!(client.run("DBSIZE"), int(0));
}

// ---------------------------------------------------------------------------------------------
// Bytes
// ---------------------------------------------------------------------------------------------

/// What payloads, values, identifiers and names may be made of.
fn payloads() -> Vec<Vec<u8>> {
    let words =
        "Ā 0 -1 007 3.0 1e5 123 9223372036854775807 9223372036854775808 payload * { } {} a{b}c";
    let mut all: Vec<Vec<u8>> = words.split(' ').map(Into::into).collect();
    all.extend([&b"\0"[..], b"a\0b", b"\r\n", b"$-1\r\n+OK\r\n", b" "].map(Into::into));
    all.push((0..=255).collect());
    all.push(b"\xff\xfe\x80".to_vec());
    // Around the sizes at which servers keep a string in another form, and a very long one.
    all.extend([1, 20, 21, 44, 45, 63, 64, 127, 128, 129, 300_000].map(|len| vec![b'x'; len]));
    all
}

#[test]
fn a_cached_value_comes_back_byte_for_byte() {
    in_both_protocols(|client| {
        for value in payloads().into_iter().chain([Vec::new()]) {
            assert_eq!(client.cmd(&args!["CACHE.SET", "k", value, LONG]), ok());
            assert!(client.run("CACHE.GET k") == bulk(&value), "{}", escaped(&value));
            assert!(client.run("GET k") == bulk(&value), "{}", escaped(&value));
            // What other commands wrote, in whatever form they left it.
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
fn reading_a_cached_value_leaves_its_form_in_memory() {
    let server = Server::start();
    let mut client = server.client();
    for value in payloads() {
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
fn a_payload_comes_through_the_queue_and_every_retry_byte_for_byte() {
    in_both_protocols(|client| {
        for payload in payloads().into_iter().chain([Vec::new()]) {
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

/// The payload of the one task in a reply of CONSUME.
#[track_caller]
fn only_payload(reply: &Value) -> Vec<u8> {
    let [task] = reply.tasks() else { panic!("not one task: {reply:?}") };
    task.items()[1].get("payload").bytes().to_vec()
}

#[test]
fn identifiers_groups_and_consumers_are_kept_byte_for_byte() {
    in_both_protocols(|client| {
        for bytes in payloads() {
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

/// Names that a careless derivation, a C string or a text conversion takes for one another.
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
    // Those that are spelled like a derived key are that key: whoever names a key means it.
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
        // Each group sees the one task anew.
        for group in &names {
            let got = client.cmd(&args!["TASK.CONSUME", group, name, name, 10]);
            assert_eq!(only_payload(&got), index.to_string().as_bytes(), "{}", escaped(name));
        }
    }
    assert_eq!(client.run("DBSIZE"), int(names.len().try_into().unwrap()));
}

#[test]
fn the_keys_of_a_name_are_where_the_documentation_says() {
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
        add_entries(client, "tasks", &["1-1"]);
        assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-1"]);
        assert_eq!(client.run("TASK.ACK tasks g 1-1"), int(1));
    }
    assert_eq!(zero.run("DBSIZE"), one.run("DBSIZE"));
}

// ---------------------------------------------------------------------------------------------
// Keys of a foreign type
// ---------------------------------------------------------------------------------------------

/// How to make a key of each type.
const TYPES: [(&str, &str); 6] = [
    ("string", "SET KEY v"),
    ("list", "RPUSH KEY v"),
    ("set", "SADD KEY v"),
    ("zset", "ZADD KEY 1 v"),
    ("hash", "HSET KEY f v"),
    ("stream", "XADD KEY 1-1 f v"),
];

#[test]
fn a_key_of_a_foreign_type_is_refused_and_left_alone() {
    let server = Server::start();
    let mut client = server.client();
    for (call, key, right) in [
        ("CACHE.GET k", "k", "string"),
        ("CACHE.LOCK k 1000 1000", "k", "string"),
        ("CACHE.LOCK k 1000 1000", "cachelock:{k}", "string"),
        ("CACHE.SET k v 1000", "k", "string"),
        ("CACHE.SET k v 1000", "cachelock:{k}", "string"),
        ("LOCK.ACQUIRE job me 1000", "lock:{job}", "string"),
        ("LOCK.EXTEND job me 1000", "lock:{job}", "string"),
        ("LOCK.RELEASE job me", "lock:{job}", "string"),
        ("TASK.PUBLISH tasks p", "tasks", "stream"),
        ("TASK.CONSUME g c tasks", "tasks", "stream"),
        ("TASK.CONSUME g c tasks 1 600000", "tasks", "stream"),
        ("TASK.ACK tasks g 1-1", "tasks", "stream"),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3", "tasks", "stream"),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3 g", "tasks", "stream"),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3", "retries", "stream"),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3 g", "retries", "stream"),
        ("TASK.RETRY tasks 1-1 p 3 retries dead 3", "dead", "stream"),
    ] {
        // Shared holders are a sorted set.
        let fits = |kind| kind == right || (kind == "zset" && key.starts_with("lock:"));
        for (kind, make) in TYPES.iter().filter(|(kind, _)| !fits(*kind)) {
            prepare(&mut client);
            client.run(format!("DEL {key}"));
            assert!(!client.run(make.replace("KEY", key)).is_error());
            let before = Keyspace::of(&mut client);
            assert_eq!(client.run(call), error(WRONG_TYPE), "{call}: {key} is a {kind}");
            assert!(Keyspace::of(&mut client) == before, "{call}: {key} is a {kind}");
        }
    }
}

#[test]
fn a_key_that_a_command_does_not_use_may_be_of_any_type() {
    let server = Server::start();
    let mut client = server.client();
    for (_, make) in TYPES {
        for (call, unrelated) in [
            ("CACHE.GET k", "cachelock:{k}"),
            ("CACHE.SET k v 1000", "lock:{k}"),
            ("LOCK.ACQUIRE free me 1000", "free"),
            ("LOCK.EXTEND job me 1000", "job"),
            ("LOCK.RELEASE job me", "cachelock:{job}"),
            ("TASK.PUBLISH tasks p", "lock:{tasks}"),
            ("TASK.CONSUME g c tasks", "wait:{tasks}"),
        ] {
            prepare(&mut client);
            client.run(make.replace("KEY", unrelated));
            let reply = client.run(call);
            assert!(!reply.is_error() && reply != int(0), "{call}: {reply:?}");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// The loader's lease
// ---------------------------------------------------------------------------------------------

#[test]
fn one_loader_at_a_time_also_on_one_connection() {
    let server = Server::start();
    let (mut one, mut two) = (server.client(), server.client());
    assert_eq!(one.run("CACHE.LOCK k 600000 600000"), simple("LOAD"));
    assert_eq!(one.run("CACHE.LOCK k 600000 600000"), simple("WAIT"));
    assert_eq!(two.run("CACHE.LOCK k 600000 600000"), simple("WAIT"));
    assert_eq!(one.run("CACHE.SET k v 600000"), ok());
    // The value is there, and a client that asks for the lease gets it all the same.
    assert_eq!(two.run("CACHE.LOCK k 600000 600000"), simple("LOAD"));
    assert_eq!(one.run("CACHE.LOCK k 600000 600000"), simple("WAIT"));
}

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
fn a_lease_ends_by_itself_and_whoever_waits_does_not_prolong_it() {
    let server = Server::start();
    let mut client = server.client();
    for (ttl, timeout) in [(40, LONG), (LONG, 40)] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(format!("CACHE.LOCK k {ttl} {timeout}")), simple("LOAD"));
        eventually(SOON, "the lease ends", || {
            client.run(format!("CACHE.LOCK k {LONG} {LONG}")) == simple("LOAD")
        });
        line_changes_nothing(&mut client, "CACHE.LOCK k 1 1", simple("WAIT"));
    }
}

#[test]
fn setting_a_value_gives_it_its_time_and_ends_the_lease() {
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
    eventually(SOON, "the value ends", || client.run("CACHE.GET k") == nil());
}

#[test]
fn the_lease_on_a_value_and_the_lock_of_the_same_name_are_strangers() {
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

/// What client libraries run to release a lock and to extend it.
const RELEASE_SCRIPT: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const EXTEND_SCRIPT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
     return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";

#[test]
fn a_held_lock_is_granted_to_nobody_else_and_not_again_to_its_holder() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    for who in ["me", "you"] {
        line_changes_nothing(&mut client, &format!("LOCK.ACQUIRE job {who} 1"), int(0));
    }
    assert_left(&mut client, LOCK, 600_000);
}

#[test]
fn only_the_holder_extends_and_releases() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    let me = b"me";
    for other in [&b"you"[..], b"m", b"me ", b"me\0", b"\0me", b"ME", b"mf"] {
        changes_nothing(&mut client, &args!["LOCK.EXTEND", "job", other, 1], int(0));
        changes_nothing(&mut client, &args!["LOCK.RELEASE", "job", other], int(0));
    }
    // Longer and shorter: the lease begins anew.
    for lease in [4 * LONG, LONG] {
        assert_eq!(client.cmd(&args!["LOCK.EXTEND", "job", me, lease]), int(1));
        assert_left(&mut client, LOCK, lease);
    }
    assert_eq!(client.cmd(&args!["LOCK.RELEASE", "job", me]), int(1));
    assert_eq!(client.run("DBSIZE"), int(0));
    line_changes_nothing(&mut client, "LOCK.RELEASE job me", int(0));
    line_changes_nothing(&mut client, "LOCK.EXTEND job me 1000", int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job you 600000"), int(1));
    line_changes_nothing(&mut client, "LOCK.RELEASE job me", int(0));
}

#[test]
fn a_lock_ends_by_itself() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 40"), int(1));
    eventually(SOON, "the lock ends", || client.run("LOCK.ACQUIRE job you 600000") == int(1));
    assert_eq!(client.run("GET lock:{job}"), bulk("you"));
}

#[test]
fn a_lock_that_ended_is_neither_extended_nor_released() {
    let server = Server::start();
    let mut client = server.client();
    for call in ["LOCK.EXTEND job me 600000", "LOCK.RELEASE job me"] {
        assert_eq!(client.run("LOCK.ACQUIRE job me 20"), int(1));
        wait_gone(&mut client, LOCK);
        line_changes_nothing(&mut client, call, int(0));
        assert_eq!(client.run("DBSIZE"), int(0));
    }
}

#[test]
fn a_lock_whose_time_is_over_counts_as_ended_before_the_server_removes_it() {
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
        eventually(SOON, "its time is over", || now_ms() > end + 1);
        assert_eq!(client.run("DBSIZE"), int(1), "nobody has touched it");
        assert_eq!(client.run(call), int(reply), "{call}");
        assert_eq!(client.run("EXISTS lock:{job}"), int(reply), "{call}");
    }
}

#[test]
fn a_lock_that_a_plain_client_took_is_a_lock_for_the_commands() {
    let server = Server::start();
    let mut client = server.client();
    // With and without an end of its own.
    for take in ["SET lock:{job} me NX PX 1000000", "SET lock:{job} me NX"] {
        assert_eq!(client.run(take), ok());
        line_changes_nothing(&mut client, "LOCK.ACQUIRE job you 1000", int(0));
        line_changes_nothing(&mut client, "LOCK.RELEASE job you", int(0));
        assert_eq!(client.run("LOCK.EXTEND job me 600000"), int(1));
        assert_left(&mut client, LOCK, 600_000);
        assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
        assert_eq!(client.run("EXISTS lock:{job}"), int(0));
    }
}

#[test]
fn a_lock_that_the_commands_took_is_a_lock_for_plain_clients() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    line_changes_nothing(&mut client, "SET lock:{job} you NX PX 1000", nil());
    changes_nothing(&mut client, &args!["EVAL", RELEASE_SCRIPT, 1, LOCK, "you"], int(0));
    let extend = args!["EVAL", EXTEND_SCRIPT, 1, LOCK, "me", 4 * LONG];
    assert_eq!(client.cmd(&extend), int(1));
    assert_left(&mut client, LOCK, 4 * LONG);
    assert_eq!(client.cmd(&args!["EVAL", RELEASE_SCRIPT, 1, LOCK, "me"]), int(1));
    assert_eq!(client.run("LOCK.EXTEND job me 1000"), int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job you 600000"), int(1));
    assert_eq!(client.run("DEL lock:{job}"), int(1));
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
}

// ---------------------------------------------------------------------------------------------
// Acknowledging
// ---------------------------------------------------------------------------------------------

/// Adds entries with these ids to a stream, as TASK.PUBLISH would.
#[track_caller]
fn add_entries(client: &mut Client, stream: &str, ids: &[&str]) {
    for id in ids {
        let added =
            client.run(format!("XADD {stream} {id} payload {id} timestamp 1 retry_count 0"));
        assert_eq!(added, bulk(id));
    }
}

/// An empty server gets the stream `tasks` with these entries; each group has them all pending.
#[track_caller]
fn lease_to(client: &mut Client, groups: &[&str], ids: &[&str]) {
    assert_eq!(client.run("FLUSHALL"), ok());
    add_entries(client, "tasks", ids);
    for group in groups {
        assert_eq!(client.run(format!("TASK.CONSUME {group} c tasks 1000")).task_ids(), ids);
    }
}

fn ids_of(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|entry| entry.items()[0].as_str().to_owned()).collect()
}

/// The ids in a stream.
#[track_caller]
fn entries(client: &mut Client, stream: &str) -> Vec<String> {
    ids_of(client.run(format!("XRANGE {stream} - +")).items())
}

/// The ids that are pending in a group.
#[track_caller]
fn pending(client: &mut Client, stream: &str, group: &str) -> Vec<String> {
    ids_of(client.run(format!("XPENDING {stream} {group} - + 1000")).items())
}

#[test]
fn ack_finishes_several_tasks_and_deletes_them() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2", "1-3", "1-4"]);
    assert_eq!(client.run("TASK.ACK tasks g 1-1 1-3 1-2"), int(3));
    assert_eq!(entries(&mut client, "tasks"), ["1-4"]);
    assert_eq!(pending(&mut client, "tasks", "g"), ["1-4"]);
    line_changes_nothing(&mut client, "TASK.ACK tasks g 1-1 1-3", int(0));
    assert_eq!(client.run("TASK.ACK tasks g 1-4"), int(1));
    assert_eq!(entries(&mut client, "tasks"), [""; 0]);
    assert_eq!(client.run("EXISTS tasks"), int(1), "the queue stays, with its group");
}

#[test]
fn ack_of_what_is_not_leased_is_zero_and_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    add_entries(&mut client, "tasks", &["1-3"]);
    assert_eq!(client.run("TASK.ACK tasks g 1-1"), int(1));
    for call in [
        "TASK.ACK tasks g 1-1",         // a second time
        "TASK.ACK tasks g 1-3",         // not yet delivered
        "TASK.ACK tasks g 1-1 1-3 9-9", // nothing of all this
        "TASK.ACK tasks g 0-0",
        "TASK.ACK tasks unknown 1-2",
        "TASK.ACK missing g 1-2",
    ] {
        line_changes_nothing(&mut client, call, int(0));
    }
    assert_eq!(entries(&mut client, "tasks"), ["1-2", "1-3"]);
    assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-3"]);
}

#[test]
fn an_id_that_is_named_twice_counts_once() {
    let server = Server::start();
    let mut client = server.client();
    for groups in [&["g"][..], &["g", "h"]] {
        lease_to(&mut client, groups, &["1-1", "1-2"]);
        assert_eq!(client.run("TASK.ACK tasks g 1-1 1-1 1-1"), int(1));
        assert_eq!(pending(&mut client, "tasks", "g"), ["1-2"]);
    }
    assert_eq!(entries(&mut client, "tasks"), ["1-1", "1-2"], "the other group has it");
    assert_eq!(client.run("TASK.ACK tasks h 1-1 1-1"), int(1));
    assert_eq!(entries(&mut client, "tasks"), ["1-2"]);
}

#[test]
fn ack_of_a_mixture_deletes_only_what_is_done() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    add_entries(&mut client, "tasks", &["1-3"]);
    // Leased, not yet delivered, never there.
    assert_eq!(client.run("TASK.ACK tasks g 1-1 1-3 9-9 0-1"), int(1));
    assert_eq!(entries(&mut client, "tasks"), ["1-2", "1-3"]);
    assert_eq!(client.run("TASK.CONSUME g c tasks 10").task_ids(), ["1-3"]);

    lease_to(&mut client, &["g", "h"], &["1-1", "1-2", "1-3"]);
    assert_eq!(client.run("TASK.ACK tasks h 1-1"), int(1));
    add_entries(&mut client, "tasks", &["1-4"]);
    // Done by the other group, pending in both, foreign, not yet delivered.
    assert_eq!(client.run("TASK.ACK tasks g 1-1 1-2 9-9 1-4"), int(2));
    assert_eq!(entries(&mut client, "tasks"), ["1-2", "1-3", "1-4"]);
    assert_eq!(pending(&mut client, "tasks", "h"), ["1-2", "1-3"]);
}

#[test]
fn an_entry_is_deleted_when_the_last_of_several_groups_is_past_it() {
    let server = Server::start();
    let mut client = server.client();
    for order in [
        ["f", "g", "h"],
        ["f", "h", "g"],
        ["g", "f", "h"],
        ["g", "h", "f"],
        ["h", "f", "g"],
        ["h", "g", "f"],
    ] {
        lease_to(&mut client, &["f", "g", "h"], &["1-1", "1-2"]);
        for group in order {
            assert_eq!(entries(&mut client, "tasks"), ["1-1", "1-2"]);
            assert_eq!(client.run(format!("TASK.ACK tasks {group} 1-1")), int(1));
        }
        assert_eq!(entries(&mut client, "tasks"), ["1-2"], "{order:?}");
        for group in order {
            assert_eq!(pending(&mut client, "tasks", group), ["1-2"]);
        }
    }
}

#[test]
fn an_entry_waits_for_the_group_that_has_not_read_it() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1", "1-2"]);
    assert_eq!(client.run("XGROUP CREATE tasks late 0"), ok());
    assert_eq!(client.run("TASK.ACK tasks g 1-1 1-2"), int(2));
    assert_eq!(client.run("TASK.CONSUME late c tasks").task_ids(), ["1-1"]);
    assert_eq!(client.run("TASK.ACK tasks late 1-1"), int(1));
    assert_eq!(entries(&mut client, "tasks"), ["1-2"]);
    // A group that begins behind an entry is past it.
    assert_eq!(client.run("XGROUP CREATE tasks later $"), ok());
    assert_eq!(client.run("TASK.CONSUME late c tasks").task_ids(), ["1-2"]);
    assert_eq!(client.run("TASK.ACK tasks late 1-2"), int(1));
    assert_eq!(entries(&mut client, "tasks"), [""; 0]);
}

/// How `tasks` can become another stream: `other`, or the one of the same name in database 1. A
/// semicolon separates commands; `DUMP` stands for what `DUMP other` replies.
const WAYS_TO_BECOME_OTHER: [(&str, &str); 7] = [
    ("renamed", "RENAME other tasks"),
    ("copied", "COPY other tasks REPLACE"),
    ("restored", "RESTORE tasks 0 DUMP REPLACE"),
    ("moved from a database", "DEL tasks;SELECT 1;MOVE tasks 0;SELECT 0"),
    ("copied from a database", "SELECT 1;COPY tasks tasks DB 0 REPLACE;SELECT 0"),
    ("swapped", "SWAPDB 0 1"),
    (
        "flushed",
        "SELECT 1;COPY tasks spare;SELECT 0;FLUSHDB;SELECT 1;COPY spare tasks DB 0;SELECT 0",
    ),
];

/// The one group `g` of `tasks` becomes known by use; then this happens, where the other streams of
/// [`WAYS_TO_BECOME_OTHER`] have the groups `others`.
#[track_caller]
fn after_one_group_was_known(client: &mut Client, others: &[&str], lines: &str) {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("SELECT 1"), ok());
    for group in others {
        assert_eq!(client.run(format!("XGROUP CREATE tasks {group} 0 MKSTREAM")), ok());
    }
    assert_eq!(client.run("COPY tasks other DB 0"), int(i64::from(!others.is_empty())));
    assert_eq!(client.run("SELECT 0"), ok());
    let dump = client.run("DUMP other");
    for _ in 0..2 {
        let id = publish_to(client, "g");
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    }
    assert_eq!(client.run("XLEN tasks"), int(0), "one group deletes at once");
    for line in lines.split(';') {
        let words = line.split(' ').map(|word| match word {
            "DUMP" => dump.bytes(),
            "SCRIPT" => b"return redis.call('XGROUP', 'CREATE', 'tasks', 'h', '0')",
            word => word.as_bytes(),
        });
        let reply = client.cmd(&words.collect::<Vec<_>>());
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }
}

/// Publishes a task and leases it to a group, where it is the only one.
#[track_caller]
fn publish_to(client: &mut Client, group: &str) -> String {
    let id = client.publish("tasks", "p");
    assert_eq!(client.lease(group, "c", "tasks"), id);
    id
}

#[test]
fn a_second_group_is_noticed_however_it_came() {
    let server = Server::start();
    let mut client = server.client();
    let created = [
        ("created", "XGROUP CREATE tasks h 0"),
        ("created by a consumer", "TASK.CONSUME h c tasks"),
        ("created by a script", "EVAL SCRIPT 0"),
        ("created in a transaction", "MULTI;XGROUP CREATE tasks h 0;EXEC"),
        ("made anew", "DEL tasks;XGROUP CREATE tasks g 0 MKSTREAM;XGROUP CREATE tasks h 0"),
    ];
    for (way, lines) in created.into_iter().chain(WAYS_TO_BECOME_OTHER) {
        after_one_group_was_known(&mut client, &["g", "h"], lines);
        let id = publish_to(&mut client, "g");
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
        assert_eq!(entries(&mut client, "tasks"), [id.as_str()], "{way}: h has not read it");
        assert_eq!(client.run("TASK.CONSUME h c tasks").task_ids(), [id.as_str()], "{way}");
        assert_eq!(client.run(format!("TASK.ACK tasks h {id}")), int(1));
        assert_eq!(client.run("XLEN tasks"), int(0), "{way}");

        after_one_group_was_known(&mut client, &["g", "h"], lines);
        let id = publish_to(&mut client, "g");
        assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 retries dead 3")), ok());
        assert_eq!(pending(&mut client, "tasks", "g"), [id.as_str()], "{way}: none was named");
    }
}

#[test]
fn another_only_group_is_noticed_however_it_came() {
    let server = Server::start();
    let mut client = server.client();
    let replaced = [
        ("created and destroyed", "XGROUP CREATE tasks h 0;XGROUP DESTROY tasks g"),
        ("destroyed and created", "XGROUP DESTROY tasks g;XGROUP CREATE tasks h 0"),
        ("made anew", "DEL tasks;XGROUP CREATE tasks h 0 MKSTREAM"),
    ];
    for (way, lines) in replaced.into_iter().chain(WAYS_TO_BECOME_OTHER) {
        after_one_group_was_known(&mut client, &["h"], lines);
        let id = publish_to(&mut client, "h");
        assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 retries dead 3")), ok());
        assert_eq!(pending(&mut client, "tasks", "h"), [""; 0], "{way}");
        assert_eq!(client.run("XLEN tasks"), int(0), "{way}");
    }
}

#[test]
fn the_only_group_is_not_remembered_when_it_has_gone() {
    let server = Server::start();
    let mut client = server.client();
    for (gone, lines) in [
        ("destroyed", "XGROUP DESTROY tasks g"),
        ("made anew", "DEL tasks;XADD tasks 1-1 payload p"),
        ("made anew without a trace", "FLUSHDB;XADD tasks 1-1 payload p"),
    ] {
        after_one_group_was_known(&mut client, &[], lines);
        for count in [0, 3] {
            let call = format!("TASK.RETRY tasks 1-1 p {count} retries dead 3 g");
            line_changes_nothing(&mut client, &call, error(NO_GROUP));
        }
        line_changes_nothing(&mut client, "TASK.ACK tasks g 1-1", int(0));
        assert_eq!(client.run("XINFO GROUPS tasks"), array([""; 0]), "{gone}");
    }
}

#[test]
fn a_group_that_was_removed_holds_nothing_back() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1", "1-2"]);
    assert_eq!(client.run("TASK.ACK tasks g 1-1"), int(1));
    assert_eq!(entries(&mut client, "tasks"), ["1-1", "1-2"]);
    assert_eq!(client.run("XGROUP DESTROY tasks h"), int(1));
    assert_eq!(client.run("TASK.ACK tasks g 1-2"), int(1));
    assert_eq!(entries(&mut client, "tasks"), ["1-1"]);
}

#[test]
fn the_short_form_of_an_id_means_exactly_one_entry() {
    let server = Server::start();
    let mut client = server.client();
    for groups in [&["g"][..], &["g", "h"]] {
        // `5` is `5-0`, as everywhere else.
        lease_to(&mut client, groups, &["5-0", "5-1"]);
        for group in groups {
            assert_eq!(client.run(format!("TASK.ACK tasks {group} 5")), int(1));
            assert_eq!(pending(&mut client, "tasks", group), ["5-1"]);
        }
        assert_eq!(entries(&mut client, "tasks"), ["5-1"]);
    }
}

// ---------------------------------------------------------------------------------------------
// Retrying
// ---------------------------------------------------------------------------------------------

/// The one entry of a stream: its fields, without the time of its making.
#[track_caller]
fn only_task(client: &mut Client, stream: &str) -> Vec<(String, String)> {
    let found = client.run(format!("XRANGE {stream} - +"));
    let [entry] = found.items() else { panic!("not one entry in {stream}: {found:?}") };
    let fields = entry.items()[1].items().chunks_exact(2);
    let mut fields: Vec<_> =
        fields.map(|pair| (pair[0].as_str().to_owned(), pair[1].as_str().to_owned())).collect();
    let (name, time) = fields.remove(1);
    assert_eq!(name, "timestamp");
    let age = now_ms() / 1000 - time.parse::<i64>().expect("seconds");
    assert!((0..SLACK / 1000).contains(&age), "{time}");
    fields
}

fn task(payload: &str, retry_count: &str, original_id: &str) -> Vec<(String, String)> {
    [("payload", payload), ("retry_count", retry_count), ("original_id", original_id)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

#[test]
fn a_task_is_tried_again_and_then_goes_to_the_dead_letters() {
    let server = Server::start();
    let mut client = server.client();
    let id = client.publish("tasks", "p");
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 0 retries dead 3")), ok());
    assert_eq!(client.run("XLEN retries"), int(1));
    assert_eq!(client.run("EXISTS dead"), int(0));
    // The same id a second time, exhausted now.
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} again 3 retries dead 3")), ok());
    assert_eq!(client.run("XLEN dead"), int(1));
    assert_eq!(only_task(&mut client, "retries"), task("p", "1", &id));
    assert_eq!(only_task(&mut client, "dead"), task("again", "3", &id));
}

#[test]
fn the_limit_of_retries_is_exact() {
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
        let call = format!("TASK.RETRY tasks 1-1 p {count} retries dead {limit}");
        assert_eq!(client.run(&call), ok());
        assert_eq!(only_task(&mut client, target), task("p", written, "1-1"), "{call}");
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
            let retry = format!("TASK.RETRY tasks 1-1 p {count} retries dead 3{group}");
            assert_eq!(client.run(&retry), ok());
            assert_eq!(pending(&mut client, "tasks", "g"), ["1-2"]);
            assert_eq!(entries(&mut client, "tasks"), ["1-2"]);
            assert_eq!(client.run(format!("XLEN {target}")), int(1));
        }
    }
}

#[test]
fn with_several_groups_a_retry_finishes_the_source_for_the_named_one() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1", "1-2"]);
    assert_eq!(client.run("TASK.RETRY tasks 1-1 p 0 retries dead 3 h"), ok());
    assert_eq!(pending(&mut client, "tasks", "h"), ["1-2"]);
    assert_eq!(pending(&mut client, "tasks", "g"), ["1-1", "1-2"]);
    assert_eq!(entries(&mut client, "tasks"), ["1-1", "1-2"]);
    assert_eq!(client.run("TASK.RETRY tasks 1-1 p 0 retries dead 3 g"), ok());
    assert_eq!(pending(&mut client, "tasks", "g"), ["1-2"]);
    assert_eq!(entries(&mut client, "tasks"), ["1-2"]);
    assert_eq!(client.run("XLEN retries"), int(2));
}

#[test]
fn with_several_groups_and_none_named_the_source_stays_pending() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g", "h"], &["1-1"]);
    assert_eq!(client.run("TASK.RETRY tasks 1-1 p 0 retries dead 3"), ok());
    for group in ["g", "h"] {
        assert_eq!(pending(&mut client, "tasks", group), ["1-1"]);
    }
    assert_eq!(entries(&mut client, "tasks"), ["1-1"]);
    assert_eq!(only_task(&mut client, "retries"), task("p", "1", "1-1"));
}

#[test]
fn a_retry_keeps_what_its_group_has_not_leased() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1"]);
    add_entries(&mut client, "tasks", &["1-2"]);
    assert_eq!(client.run("TASK.RETRY tasks 1-2 p 0 retries dead 3"), ok());
    assert_eq!(entries(&mut client, "tasks"), ["1-1", "1-2"]);
    assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-2"]);
    // No group at all.
    add_entries(&mut client, "plain", &["1-1"]);
    assert_eq!(client.run("TASK.RETRY plain 1-1 p 0 retries dead 3"), ok());
    assert_eq!(entries(&mut client, "plain"), ["1-1"]);
    assert_eq!(client.run("XLEN retries"), int(2));
}

#[test]
fn a_retry_for_a_group_that_the_stream_lacks_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    for groups in [&[][..], &["g"], &["g", "h"]] {
        lease_to(&mut client, groups, &["1-1"]);
        for count in [0, 3] {
            let call = format!("TASK.RETRY tasks 1-1 p {count} retries dead 3 nobody");
            line_changes_nothing(&mut client, &call, error(NO_GROUP));
        }
    }
}

#[test]
fn a_retry_needs_no_source_for_the_payload_is_in_the_call() {
    let server = Server::start();
    let mut client = server.client();
    // A stream that was never there, with and without a group; an entry that is gone.
    for call in
        ["TASK.RETRY tasks 1-1 p 0 retries dead 3", "TASK.RETRY tasks 1-1 p 0 retries dead 3 g"]
    {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run(call), ok());
        assert_eq!(only_task(&mut client, "retries"), task("p", "1", "1-1"));
        assert_eq!(client.run("DBSIZE"), int(1), "the source is not created");

        lease_to(&mut client, &["g"], &["1-1", "1-2"]);
        assert_eq!(client.run("XDEL tasks 1-1"), int(1));
        assert_eq!(client.run(call), ok());
        assert_eq!(only_task(&mut client, "retries"), task("p", "1", "1-1"));
        assert_eq!(pending(&mut client, "tasks", "g"), ["1-2"]);
    }
}

#[test]
fn the_first_id_of_a_task_follows_it_through_all_retries() {
    let server = Server::start();
    let mut client = server.client();
    add_entries(&mut client, "tasks", &["1-1"]);
    let path = [("tasks", "first", "1"), ("first", "second", "2"), ("second", "dead", "2")];
    for (tries, (from, to, written)) in path.into_iter().enumerate() {
        let id = client.lease("g", "c", from);
        let retry = format!("TASK.RETRY {from} {id} p {tries} {to} {to} 2 g");
        assert_eq!(client.run(retry), ok());
        assert_eq!(client.run(format!("XLEN {from}")), int(0));
        assert_eq!(only_task(&mut client, to), task("p", written, "1-1"));
        assert_ne!(entries(&mut client, to), ["1-1"], "the copy has an id of its own");
    }
}

#[test]
fn a_queue_may_be_its_own_retry_stream_and_dead_letter_stream() {
    let server = Server::start();
    let mut client = server.client();
    lease_to(&mut client, &["g"], &["1-1"]);
    assert_eq!(client.run("TASK.RETRY tasks 1-1 p 0 tasks tasks 1"), ok());
    assert_eq!(pending(&mut client, "tasks", "g"), [""; 0]);
    assert_eq!(only_task(&mut client, "tasks"), task("p", "1", "1-1"));
    let id = client.lease("g", "c", "tasks");
    assert_eq!(entries(&mut client, "tasks"), [id.as_str()]);
    assert_eq!(client.run(format!("TASK.RETRY tasks {id} p 1 tasks tasks 1 g")), ok());
    assert_eq!(only_task(&mut client, "tasks"), task("p", "1", "1-1"));
    assert_ne!(entries(&mut client, "tasks"), [id.as_str()]);
}

#[test]
fn a_retry_by_the_short_form_of_an_id_concerns_that_entry_and_no_other() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("XADD tasks 5-1 payload p original_id 4-4"), bulk("5-1"));
    // `5` is `5-0`, which is not there; its neighbour is another task.
    assert_eq!(client.run("TASK.RETRY tasks 5 p 0 retries dead 3"), ok());
    assert_eq!(only_task(&mut client, "retries"), task("p", "1", "5-0"));
}
