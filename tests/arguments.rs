//! What every command refuses: hostile, missing and surplus arguments, times beyond 2^53, and keys
//! of another type. A refused call replies the documented error and changes nothing.

mod support;
use Kind::*;
use support::cached::*;
use support::compare::*;
use support::consumers::add_entries;
use support::*;

/// The commands without their options.
const BASIC: [Form; 10] = [
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

/// The options of the queue's commands.
const TASK: [Form; 23] = [
    Form {
        call: "TASK.PUBLISH tasks p 0 DELAY 1000 PRIORITY 3 UNIQUE u 1000",
        kinds: &[
            Filled("name"),
            Bytes,
            AtLeast(0),
            Keyword,
            Span,
            Keyword,
            Between(0, 9),
            Keyword,
            Filled("unique id"),
            Lifetime,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.PUBLISH tasks p UNIQUE u 1000 UNTIL DONE LAST META",
        kinds: &[
            Filled("name"),
            Bytes,
            KeywordOr(0),
            Filled("unique id"),
            Lifetime,
            Keyword,
            Keyword,
            Keyword,
            Keyword,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.PUBLISH tasks p AT 5 UNIQUE u 1000",
        kinds: &[
            Filled("name"),
            Bytes,
            KeywordOr(0),
            Point,
            Keyword,
            Filled("unique id"),
            Lifetime,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.PUBLISH tasks p 0 EXPIRE 9000 TRIES 5 FIELDS 2 a 1 b 2 META",
        kinds: &[
            Filled("name"),
            Bytes,
            AtLeast(0),
            Keyword,
            Lifetime,
            Keyword,
            AtLeast(0),
            Keyword,
            FieldCount,
            FieldName,
            FieldValue,
            FieldName,
            FieldValue,
            Keyword,
        ],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks COUNT 1 BLOCK 1 META TIED",
        kinds: &[
            Filled("group"),
            Filled("consumer"),
            Filled("name"),
            KeywordOr(1),
            AtLeast(1),
            Keyword,
            Wait,
            Keyword,
            Keyword,
        ],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks 1 1 META",
        kinds: &[Filled("group"), Filled("consumer"), Filled("name"), AtLeast(1), Wait, Keyword],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CONSUME g c tasks COUNT 1 BLOCK 1 THEN 2 more others",
        kinds: &[
            Filled("group"),
            Filled("consumer"),
            Filled("name"),
            KeywordOr(1),
            AtLeast(1),
            Keyword,
            Wait,
            Keyword,
            Exactly(2),
            FilledOrSyntax,
            FilledOrSyntax,
        ],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.EXTEND tasks g c 1-1",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Id],
        required: 4,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.EXTEND tasks g c 1-1 1-2",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Id, Id],
        required: 4,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.NACK tasks g c FAIL 1-1 PAYLOAD new",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Keyword, Id, Keyword, Bytes],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.NACK tasks g c SILENT 1-1 DELAY 1000",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Keyword, Id, Keyword, Span],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.NACK tasks g c FAIL 1-1 DELAY 1000 REASON why",
        kinds: &[
            Filled("name"),
            Filled("group"),
            Filled("consumer"),
            Keyword,
            Id,
            Keyword,
            Span,
            Keyword,
            Bytes,
        ],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.NACK tasks g c FATAL 1-1 REASON why",
        kinds: &[Filled("name"), Filled("group"), Filled("consumer"), Keyword, Id, Keyword, Bytes],
        required: 5,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.CANCEL tasks 1-2",
        kinds: &[Filled("name"), Id],
        required: 2,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.CANCEL tasks 4102444800000-1001700000000000000",
        kinds: &[Filled("name"), Id],
        required: 2,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.REDRIVE dead:{tasks} tasks COUNT 1",
        kinds: &[Filled("name"), Filled("name"), Keyword, AtLeast(1)],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.REDRIVE dead:{tasks} tasks ID 1-0",
        kinds: &[Filled("name"), Filled("name"), Keyword, Id],
        required: 2,
        beyond: Beyond::MoreIds,
    },
    Form {
        call: "TASK.RESCHEDULE tasks 1-2 DELAY 1000 PRIORITY 3",
        kinds: &[Filled("name"), Id, Keyword, Span, Keyword, Between(0, 9)],
        required: 4,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.RESCHEDULE tasks 4102444800000-1001700000000000000 AT 5",
        kinds: &[Filled("name"), Id, Keyword, Point],
        required: 4,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.STATE tasks 1-1 GROUP g",
        kinds: &[Filled("name"), Id, Keyword, KnownGroup],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.POLICY tasks LEASE 1000 TRIES 3 BACKOFF 0 9 LIMIT 9 PAUSED 0",
        kinds: &[
            Filled("name"),
            Keyword,
            Span,
            Keyword,
            AtLeast(0),
            Keyword,
            SpanUpTo(9),
            Span,
            Keyword,
            AtLeast(0),
            Keyword,
            Between(0, 1),
        ],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "TASK.POLICY tasks KEEP 1",
        kinds: &[Filled("name"), Keyword, Between(0, 1)],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form { call: "TASK.INFO tasks", kinds: &[Filled("name")], required: 1, beyond: Beyond::Arity },
];

/// The commands of the cache that take no token. Any integer may be a token: see
/// [`the_commands_that_take_a_token_refuse_hostile_arguments`].
const CACHE: [Form; 4] = [
    Form {
        call: "CACHE.FETCH k 1000 STALE 5 BLOCK 5 FRESH TIED",
        kinds: &[Filled("name"), Lifetime, Keyword, Lifetime, Keyword, Wait, Keyword, Keyword],
        required: 2,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "CACHE.SET new v 1000 NX JITTER 50",
        kinds: &[Filled("name"), Bytes, Lifetime, Keyword, Keyword, Between(0, 100)],
        required: 3,
        beyond: Beyond::Syntax,
    },
    Form {
        call: "CACHE.INVALIDATE k STALE 5",
        kinds: &[Filled("name"), Keyword, Lifetime],
        required: 1,
        beyond: Beyond::Syntax,
    },
    Form { call: "CACHE.INFO k", kinds: &[Filled("name")], required: 1, beyond: Beyond::Arity },
];

/// Makes a keyspace in which every call of a table succeeds and has something to change.
type Prepare = fn(&mut Client);

/// Each table with its keyspace.
const TABLES: [(&[Form], Prepare); 3] =
    [(&BASIC, prepare_basic), (&TASK, prepare_tasks), (&CACHE, prepare_cache)];

/// A keyspace in which every call of [`BASIC`] succeeds and has something to change.
fn prepare_basic(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("SET k old PX 600000"), ok());
    assert_eq!(client.run("CACHE.LOCK loading 600000 600000"), simple("LOAD"));
    assert_eq!(client.run("LOCK.ACQUIRE job me 600000"), int(1));
    add_entries(client, "tasks", &["1-1", "1-2"]);
    add_entries(client, "retries", &["1-1"]);
    add_entries(client, "dead", &["1-1"]);
    assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-1"]);
}

/// The ids of the delayed task that [`prepare_tasks`] adds, which is due in the year 2100, and of
/// its task of a priority.
const DELAYED: &str = "4102444800000-1001700000000000000";
const URGENT: &str = "1-300000000000000000";

/// A queue in which every call of [`TASK`] succeeds and has something to change: `1-1` is leased to
/// `c` of `g`, the rest is ready.
fn prepare_tasks(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    for id in ["1-1", "1-2", "1-3"] {
        client.run(format!("XADD tasks {id} payload p timestamp 1 retry_count 0"));
    }
    assert_eq!(client.lease("g", "c", "tasks"), "1-1");
    client.run(format!("XADD priority3:{{tasks}} {URGENT} payload p"));
    let member = format!("{DELAYED} 0 0 - p");
    assert_eq!(client.cmd(&["ZADD", "delayed:{tasks}", "4102444800000", &member]), int(1));
    client.run("XADD dead:{tasks} 1-1 payload p original_id 1-0 reason r deliveries 1 priority 3");
    assert_eq!(client.run("HSET policy:{tasks} lease_ms 0"), int(1));
}

/// A keyspace in which every call of [`CACHE`] succeeds and has something to change.
fn prepare_cache(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("CACHE.SET k v 600000"), ok());
}

// ---------------------------------------------------------------------------------------------
// Arguments
// ---------------------------------------------------------------------------------------------

#[test]
fn every_call_of_the_tables_succeeds() {
    for (forms, prepare) in TABLES {
        assert_forms_succeed(forms, prepare);
    }
}

#[test]
fn a_hostile_argument_of_a_basic_command_is_refused_or_taken_as_it_is() {
    assert_hostile_arguments_are_harmless(&BASIC, prepare_basic);
}

#[test]
fn a_hostile_argument_of_a_task_command_is_refused_or_taken_as_it_is() {
    assert_hostile_arguments_are_harmless(&TASK, prepare_tasks);
}

#[test]
fn a_hostile_argument_of_a_cache_command_is_refused_or_taken_as_it_is() {
    assert_hostile_arguments_are_harmless(&CACHE, prepare_cache);
}

#[test]
fn missing_and_surplus_arguments_are_refused() {
    for (forms, prepare) in TABLES {
        assert_the_number_of_arguments_is_checked(forms, prepare);
    }
}

#[test]
fn a_time_must_end_before_two_to_the_53() {
    for (forms, prepare) in TABLES {
        assert_times_have_an_end(forms, prepare);
    }
}

#[test]
fn the_commands_that_take_a_token_refuse_hostile_arguments() {
    let server = Server::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "v").to_string();
    let integer = || error("ERR value is not an integer or out of range");
    let expire = |name: &str| error(format!("ERR invalid expire time in '{name}' command"));
    let mut refuses =
        |args: &[&str], reply: &Value| cmd_changes_nothing(&mut client, args, reply.clone());
    for garbage in ["", "x", "1.5", "+1", "01", " 1", "9223372036854775808", "1\0", "0x1"] {
        refuses(&["CACHE.SET", "k", "n", "5", "TOKEN", garbage], &integer());
        refuses(&["CACHE.EXTEND", "k", garbage, "5"], &integer());
        refuses(&["CACHE.EXTEND", "k", "5", garbage], &integer());
        refuses(&["CACHE.FAIL", "k", garbage], &integer());
        refuses(&["CACHE.FAIL", "k", "5", "BACKOFF", garbage], &integer());
    }
    for time in ["0", "-1", "9007199254740992", "9223372036854775807", "-9223372036854775808"] {
        refuses(&["CACHE.SET", "k", "n", time, "TOKEN", &token], &expire("cache.set"));
        refuses(&["CACHE.EXTEND", "k", &token, time], &expire("cache.extend"));
        refuses(&["CACHE.FAIL", "k", &token, "BACKOFF", time], &expire("cache.fail"));
    }
    // Integers that are not the token.
    for other in ["0", "-1", "1", "9223372036854775807", "-9223372036854775808"] {
        refuses(&["CACHE.SET", "k", "n", "5", "TOKEN", other], &nil());
        refuses(&["CACHE.EXTEND", "k", other, "5"], &int(0));
        refuses(&["CACHE.FAIL", "k", other, "BACKOFF", "5", "REASON", "r"], &int(0));
    }
    let empty = error("ERR name must not be empty");
    refuses(&["CACHE.EXTEND", "", "5", "5"], &empty);
    refuses(&["CACHE.FAIL", "", "5"], &empty);
    assert_eq!(
        store(&mut client, "k", "n", token.parse().unwrap()),
        ok(),
        "the token is still good"
    );
}

#[test]
fn the_options_of_the_cache_come_in_any_order_and_case_and_once() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("SET k v"), ok());
    for options in [
        "stale 5 block 5 fresh",
        "Fresh Block 5 Stale 5",
        "BLOCK 0 sTALE 5 FRESH",
        "tied",
        "stale 5 Tied block 5 fresh",
        "TIED Fresh Block 5 Stale 5",
    ] {
        assert_eq!(client.run(format!("cache.fetch k 1000 {options}")), hit("v"), "{options}");
    }
    let token = load(&mut client, "other 60000");
    for options in [format!("jitter 5 nx token {token}"), format!("Nx Token {token} Jitter 0")] {
        let reply = client.run(format!("CACHE.SET other v 9000 {options}"));
        assert!(reply == ok() || reply == nil(), "{reply:?}");
    }
    for options in ["reason why backoff 60000", "BackOff 60000 Reason why"] {
        let token = load(&mut client, "third 60000");
        assert_eq!(client.run(format!("CACHE.FAIL third {token} {options}")), int(1));
        assert_eq!(client.run("CACHE.FETCH third 60000"), failed("why"));
        assert_eq!(client.run("CACHE.INVALIDATE third"), int(0));
    }

    for line in [
        "CACHE.FETCH k 1000 STALE 5 STALE 5",
        "CACHE.FETCH k 1000 BLOCK 5 BLOCK 5",
        "CACHE.FETCH k 1000 BLOCK 5 FRESH FRESH",
        "CACHE.FETCH k 1000 FRESH",
        "CACHE.FETCH k 1000 FRESH STALE 5",
        "CACHE.FETCH k 1000 TIED TIED",
        "CACHE.FETCH k 1000 TIED BLOCK 5 tied",
        "CACHE.FETCH k 1000 BLOCK",
        "CACHE.SET k v 1000 TOKEN 1 TOKEN 1",
        "CACHE.SET k v 1000 NX NX",
        "CACHE.SET k v 1000 JITTER 1 JITTER 1",
        "CACHE.SET k v 1000 TOKEN",
        "CACHE.FAIL k 1 BACKOFF 5 BACKOFF 5",
        "CACHE.FAIL k 1 REASON a REASON b",
        "CACHE.FAIL k 1 REASON",
        "CACHE.FAIL k 1 why",
        "CACHE.INVALIDATE k STALE 5 STALE 5",
    ] {
        changes_nothing(&mut client, line, error("ERR syntax error"));
    }
}

// ---------------------------------------------------------------------------------------------
// Keys of another type
// ---------------------------------------------------------------------------------------------

/// A command that makes a key of each type.
const TYPES: [(&str, &str); 6] = [
    ("string", "SET KEY v"),
    ("list", "RPUSH KEY v"),
    ("set", "SADD KEY v"),
    ("zset", "ZADD KEY 1 v"),
    ("hash", "HSET KEY f v"),
    ("stream", "XADD KEY 1-1 f v"),
];

/// Checks that this call, after `prepare`, replies WRONGTYPE and changes nothing if the key is of a
/// type that is not one of `right`.
#[track_caller]
fn refuses_other_types(
    client: &mut Client,
    prepare: Prepare,
    call: &str,
    key: &str,
    right: &[&str],
) {
    for (kind, make) in TYPES.iter().filter(|(kind, _)| !right.contains(kind)) {
        prepare(client);
        client.run(format!("DEL {key}"));
        assert!(!client.run(make.replace("KEY", key)).is_error());
        let before = Keyspace::of(client);
        assert_eq!(client.run(call), error(WRONG_TYPE), "{call}: {key} is a {kind}");
        assert!(Keyspace::of(client) == before, "{call}: {key} is a {kind}");
    }
}

#[test]
fn the_basic_commands_refuse_a_key_of_another_type() {
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
        // Shared holders of a lock are a sorted set.
        let right = [right, if key.starts_with("lock:") { "zset" } else { right }];
        refuses_other_types(&mut client, prepare_basic, call, key, &right);
    }
}

#[test]
fn the_cache_refuses_a_key_of_another_type() {
    let server = Server::start();
    let mut client = server.client();
    for call in [
        "CACHE.FETCH k 1000",
        "CACHE.FETCH k 1000 STALE 5 BLOCK 0 FRESH",
        "CACHE.SET k v 1000 TOKEN 1",
        "CACHE.SET k v 1000 NX",
        "CACHE.EXTEND k 1 1000",
        "CACHE.FAIL k 1",
        "CACHE.INVALIDATE k",
        "CACHE.INVALIDATE k STALE 5",
        "CACHE.INFO k",
    ] {
        for key in ["k", "cachelock:{k}"] {
            refuses_other_types(&mut client, prepare_cache, call, key, &["string"]);
        }
    }
    // A string without meaning is not a record of a lease.
    for nonsense in ["", "x", "loading", "loading x 1 0 ", "loading 1 99999999999999999999 0 "] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.cmd(&["SET", "cachelock:{k}", nonsense]), ok());
        let token = load(&mut client, "k 60000");
        assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    }
}

#[test]
fn the_queue_refuses_a_derived_key_of_another_type() {
    let server = Server::start();
    let mut client = server.client();
    let tasks = "tasks";
    let (urgent, delayed, dead) = ("priority3:{tasks}", "delayed:{tasks}", "dead:{tasks}");
    let (policy, unique) = ("policy:{tasks}", "unique5:{tasks}:u");
    let by_urgent = |call: &str| call.replace("ID", URGENT);
    let by_delayed = |call: &str| call.replace("ID", DELAYED);
    for (call, keys) in [
        ("TASK.PUBLISH tasks p".to_owned(), &[tasks, policy][..]),
        ("TASK.PUBLISH tasks p PRIORITY 3".into(), &[tasks, urgent, policy]),
        ("TASK.PUBLISH tasks p DELAY 5000".into(), &[tasks, delayed, policy]),
        ("TASK.PUBLISH tasks p UNIQUE u 1000".into(), &[tasks, unique, policy]),
        (
            "TASK.PUBLISH tasks p PRIORITY 3 DELAY 9000 UNIQUE u 1000".into(),
            &[tasks, delayed, unique, policy],
        ),
        // A key of another type in the place of other tasks does not stop a delivery.
        ("TASK.CONSUME g c tasks".into(), &[tasks, policy]),
        ("TASK.CONSUME g c tasks COUNT 9 BLOCK 600000 META".into(), &[tasks, policy]),
        ("TASK.CONSUME g c more BLOCK 600000 THEN 2 tasks most".into(), &[tasks, policy]),
        ("TASK.ACK tasks g 1-1".into(), &[tasks, policy]),
        (by_urgent("TASK.ACK tasks g 1-1 ID"), &[tasks, urgent, policy]),
        ("TASK.EXTEND tasks g c 1-1".into(), &[tasks]),
        (by_urgent("TASK.EXTEND tasks g c ID"), &[urgent]),
        ("TASK.NACK tasks g c FAIL 1-1".into(), &[tasks, delayed, policy]),
        ("TASK.NACK tasks g c SILENT 1-1 DELAY 1000".into(), &[tasks, delayed]),
        ("TASK.NACK tasks g c FATAL 1-1".into(), &[tasks, dead]),
        (by_urgent("TASK.NACK tasks g c FATAL ID"), &[urgent]),
        ("TASK.CANCEL tasks 1-2".into(), &[tasks]),
        (by_urgent("TASK.CANCEL tasks 1-2 ID"), &[tasks, urgent]),
        (by_delayed("TASK.CANCEL tasks 1-2 ID"), &[tasks, delayed]),
        ("TASK.REDRIVE dead:{tasks} tasks".into(), &[tasks, dead, urgent]),
        ("TASK.REDRIVE dead:{tasks} tasks ID 1-0".into(), &[tasks, dead, urgent]),
        ("TASK.RESCHEDULE tasks 1-2 PRIORITY 3".into(), &[tasks, urgent, delayed]),
        (by_urgent("TASK.RESCHEDULE tasks ID DELAY 5000"), &[tasks, urgent, delayed]),
        ("TASK.STATE tasks 1-1".into(), &[tasks, delayed, policy]),
        (by_urgent("TASK.STATE tasks ID"), &[tasks, urgent, delayed]),
        ("TASK.POLICY tasks TRIES 3".into(), &[tasks, policy]),
        ("TASK.INFO tasks".into(), &[tasks, urgent, delayed, dead, policy]),
    ] {
        for key in keys {
            let right = match *key {
                key if key == delayed => "zset",
                key if key == policy => "hash",
                key if key == unique => "string",
                _ => "stream",
            };
            refuses_other_types(&mut client, prepare_tasks, &call, key, &[right]);
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
            ("TASK.RESCHEDULE tasks 1-2 DELAY 5000", "taskmoved:{tasks}"),
            ("TASK.CANCEL tasks 1-1 FORCE", "taskmoved:{tasks}"),
        ] {
            prepare_basic(&mut client);
            client.run(make.replace("KEY", unrelated));
            let reply = client.run(call);
            assert!(!reply.is_error() && reply != int(0), "{call}: {reply:?}");
        }
    }
}
