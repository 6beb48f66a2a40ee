//! Caching with leases: what `CACHE.FETCH` tells each caller, whose fill counts, and who loads next
//! when a load fails, ends or is invalidated.
//!
//! A value is loaded by one client at a time; a fill that something newer has overtaken changes
//! nothing; all who wait get the value, or else the first of them, and only the first, is told to
//! load. Every server is checked at the end: nobody waits, no panic, and the module can be unloaded.

mod support;
use support::*;

use std::thread;
use std::time::Duration;

/// `[status, value, token]` in RESP2.
fn told(status: &str, value: impl Into<Value>) -> Value {
    array([simple(status), value.into(), nil()])
}

fn hit(value: impl Into<Value>) -> Value {
    told("HIT", value)
}

fn stale(value: impl Into<Value>) -> Value {
    told("STALE", value)
}

fn failed(reason: impl Into<Value>) -> Value {
    told("FAIL", reason)
}

fn wait() -> Value {
    told("WAIT", nil())
}

/// The token of a reply that says LOAD and brings this old value.
#[track_caller]
fn token_beside(reply: &Value, old: &Value) -> i64 {
    let [status, value, Value::Int(token)] = reply.items() else { panic!("no token: {reply:?}") };
    assert_eq!((status, value), (&simple("LOAD"), old));
    assert!((1..1 << 53).contains(token), "{token}");
    *token
}

/// The token of a reply that says LOAD where there is no value.
#[track_caller]
fn token_in(reply: &Value) -> i64 {
    token_beside(reply, &nil())
}

/// `CACHE.FETCH` with these arguments, which is told to load.
#[track_caller]
fn load(client: &mut Client, args: &str) -> i64 {
    token_in(&client.run(format!("CACHE.FETCH {args}")))
}

/// A value that is stale for `STALE 600000`, and its loader's token.
#[track_caller]
fn refreshing(client: &mut Client, key: &str, value: &str) -> i64 {
    assert_eq!(client.run(format!("CACHE.SET {key} {value} 300000")), ok());
    let reply = client.run(format!("CACHE.FETCH {key} 60000 STALE 600000"));
    token_beside(&reply, &bulk(value))
}

/// Clients that stand in line in this order, each with `CACHE.FETCH args BLOCK 0`.
#[track_caller]
fn in_line<const N: usize>(server: &Server, args: &str) -> [Client; N] {
    let mut control = server.client();
    std::array::from_fn(|_| {
        let mut client = server.client();
        let command = format!("CACHE.FETCH {args} BLOCK 0");
        send_and_wait(&mut control, "cache", &mut client, &command);
        client
    })
}

/// Everybody here has been answered with this.
#[track_caller]
fn all_read(clients: &mut [Client], reply: &Value) {
    for client in clients {
        assert_eq!(client.read(), *reply);
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

/// Returns once the module has looked after every lease that a foreign write ended before.
#[track_caller]
fn after_foreign_writes(client: &mut Client) {
    load(client, "witness 60000");
    assert_eq!(client.run("SET witness w"), ok());
    let gone = || client.run("EXISTS cachelock:{witness}") == int(0);
    eventually(SOON, "the timer has run", gone);
    assert_eq!(client.run("DEL witness"), int(1));
}

// --- What FETCH tells.

#[test]
fn fetch_says_in_every_state_what_to_do_in_both_protocols() {
    let server = Checked::start();
    for (mut client, none) in [(server.client(), nil()), (server.client3(), null())] {
        let mut is = |args: &str, status: &str, value: Value| {
            let reply = client.run(format!("CACHE.FETCH {args}"));
            assert_eq!(reply, array([simple(status), value, none.clone()]), "{args}");
        };
        let mut other = server.client();
        let mut three = server.client();
        assert_eq!(three.run("FLUSHALL"), ok());
        let mut run = |line: String, reply: Value| assert_eq!(other.run(&line), reply, "{line}");
        let v = || bulk("v");

        // Absent, then loading.
        let token = load(&mut three, "k 60000");
        is("k 60000", "WAIT", none.clone());
        // Fresh.
        run(format!("CACHE.SET k v 300000 TOKEN {token}"), ok());
        is("k 60000", "HIT", v());
        is("k 60000 STALE 1000", "HIT", v());
        // Stale for those who say so.
        let reply = three.run("CACHE.FETCH k 60000 STALE 300001");
        let token = token_beside(&reply, &v());
        is("k 60000 STALE 300001", "STALE", v());
        is("k 60000 STALE 300001 BLOCK 0", "STALE", v());
        is("k 60000", "HIT", v());
        // Backing off: with a value, and without one.
        run(format!("CACHE.FAIL k {token} BACKOFF 60000 REASON broken"), int(1));
        is("k 60000 STALE 300001", "STALE", v());
        is("k 60000 STALE 300001 BLOCK 0 FRESH", "STALE", v());
        is("k 60000", "HIT", v());
        run("PEXPIRE k 1".into(), int(1));
        eventually(SOON, "the value expires", || three.run("EXISTS k") == int(0));
        is("k 60000", "FAIL", bulk("broken"));
        is("k 60000 BLOCK 0 FRESH", "FAIL", bulk("broken"));
        let token = load(&mut three, "unexplained 60000");
        run(format!("CACHE.FAIL unexplained {token} BACKOFF 60000"), int(1));
        is("unexplained 60000", "FAIL", none.clone());
        let token = load(&mut three, "empty 60000");
        three.cmd(&args!["CACHE.FAIL", "empty", token, "BACKOFF", 60000, "REASON", ""]);
        is("empty 60000", "FAIL", bulk(""));
        // Softly invalidated.
        run("CACHE.SET soft v 300000".into(), ok());
        run("CACHE.INVALIDATE soft STALE 60000".into(), int(1));
        run("CACHE.GET soft".into(), v());
        let token = token_beside(&three.run("CACHE.FETCH soft 60000"), &v());
        is("soft 60000", "STALE", v());
        run(format!("CACHE.SET soft new 300000 TOKEN {token}"), ok());
        is("soft 60000", "HIT", bulk("new"));
        // A value that somebody else wrote, without an end.
        run("SET plain 17".into(), ok());
        is("plain 60000 STALE 300000", "HIT", bulk("17"));

        // LOAD itself, with and without an old value.
        run("CACHE.SET soft v 300000".into(), ok());
        for (args, value) in [("cold 60000", none.clone()), ("soft 60000 STALE 300001", v())] {
            let reply = client.run(format!("CACHE.FETCH {args}"));
            assert!(
                matches!(reply.items(), [status, old, Value::Int(_)]
                if *status == simple("LOAD") && *old == value),
                "{reply:?}"
            );
        }
    }
}

#[test]
fn fetch_gives_every_byte_of_a_value_of_any_length() {
    let server = Checked::start();
    let mut client = server.client();
    let long = b"\0\xff\r\n".repeat(50_000);
    for value in [&b""[..], b"0", b"-17", b"\r\n$-1\r\n\0\xff", &[b'x'; 128], &[0xfe; 129], &long] {
        let token = load(&mut client, "k 60000");
        let set = args!["CACHE.SET", "k", value, 300_000, "TOKEN", token];
        assert_eq!(client.cmd(&set), ok());
        assert_eq!(client.run("CACHE.FETCH k 60000"), hit(value));
        let old = client.run("CACHE.FETCH k 60000 STALE 300001");
        token_beside(&old, &bulk(value));
        assert_eq!(client.run("CACHE.FETCH k 60000 STALE 300001"), stale(value));
        assert_eq!(client.run("CACHE.MGET k"), array([value]));
        assert_eq!(info_of(&mut client, "k", "size"), int(value.len() as i64));
        assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    }
}

#[test]
fn names_are_bytes() {
    let server = Checked::start();
    let mut client = server.client();
    for name in [&b"a\0b"[..], b"\xff\r\n", b"a}b", b"{}", b"{t}x", b"a b", &[b'n'; 70_000]] {
        let token = token_in(&client.cmd(&args!["CACHE.FETCH", name, 60_000]));
        assert_eq!(client.cmd(&args!["CACHE.FETCH", name, 60_000]), wait());
        assert_eq!(client.cmd(&args!["CACHE.EXTEND", name, token, 50_000]), int(1));
        assert_eq!(client.cmd(&args!["CACHE.FAIL", name, token]), int(1));
        assert_eq!(client.cmd(&args!["CACHE.INVALIDATE", name]), int(0));
        assert_eq!(client.run("DBSIZE"), int(0));
    }
}

#[test]
fn a_warm_key_is_a_plain_string_and_nothing_else() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run("EXISTS cachelock:{k}"), int(1));
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(client.run("KEYS *"), array(["k"]));
    assert_eq!(client.run("TYPE k"), simple("string"));
    assert_eq!(client.run("GET k"), bulk("v"));
    for _ in 0..3 {
        line_changes_nothing(&mut client, "CACHE.FETCH k 60000", hit("v"));
    }

    // Nor is anything left when a load ended otherwise.
    for end in ["CACHE.FAIL cold {}", "CACHE.SET cold v 1 TOKEN {}", "CACHE.INVALIDATE cold"] {
        let token = load(&mut client, "cold 60000");
        client.run(end.replace("{}", &token.to_string()));
        assert_eq!(client.run("EXISTS cachelock:{cold}"), int(0), "{end}");
        eventually(SOON, "nothing is cold", || client.run("EXISTS cold") == int(0));
    }
    load(&mut client, "cold 1");
    eventually(SOON, "the lease goes by itself", || client.run("KEYS *") == array(["k"]));
}

// --- Arguments.

#[test]
fn options_come_in_any_order_and_case_and_each_once() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("SET k v"), ok());
    for options in ["stale 5 block 5 fresh", "Fresh Block 5 Stale 5", "BLOCK 0 sTALE 5 FRESH"] {
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

    let syntax = || error("ERR syntax error");
    for line in [
        "CACHE.FETCH k 1000 STALE 5 STALE 5",
        "CACHE.FETCH k 1000 BLOCK 5 BLOCK 5",
        "CACHE.FETCH k 1000 BLOCK 5 FRESH FRESH",
        "CACHE.FETCH k 1000 FRESH",
        "CACHE.FETCH k 1000 FRESH STALE 5",
        "CACHE.FETCH k 1000 BLOCK",
        "CACHE.FETCH k 1000 STALE",
        "CACHE.FETCH k 1000 5",
        "CACHE.FETCH k 1000 BLOC 5",
        "CACHE.SET k v 1000 TOKEN 1 TOKEN 1",
        "CACHE.SET k v 1000 NX NX",
        "CACHE.SET k v 1000 JITTER 1 JITTER 1",
        "CACHE.SET k v 1000 TOKEN",
        "CACHE.SET k v 1000 JITTER",
        "CACHE.SET k v 1000 XX",
        "CACHE.EXTEND k 1 1000 x",
        "CACHE.FAIL k 1 BACKOFF 5 BACKOFF 5",
        "CACHE.FAIL k 1 REASON a REASON b",
        "CACHE.FAIL k 1 REASON",
        "CACHE.FAIL k 1 BACKOFF",
        "CACHE.FAIL k 1 why",
        "CACHE.INVALIDATE k STALE",
        "CACHE.INVALIDATE k STALE 5 STALE 5",
        "CACHE.INVALIDATE k 5",
    ] {
        // A wrong number of arguments is found by the server itself, in its own words.
        let words: Vec<&str> = line.split(' ').collect();
        let before = Keyspace::of(&mut client);
        let reply = client.cmd(&words);
        let arity = reply.is_error_with("ERR wrong number of arguments");
        assert!(
            reply == syntax() || (arity && line.starts_with("CACHE.EXTEND")),
            "{line}: {reply:?}"
        );
        assert_eq!(Keyspace::of(&mut client), before, "{line}");
    }
}

#[test]
fn a_hostile_argument_is_refused_before_anything_changes() {
    let server = Checked::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "v");
    let integer = || error("ERR value is not an integer or out of range");
    let expire = |name: &str| error(format!("ERR invalid expire time in '{name}' command"));
    let mut refuses = |args: &[&str], reply: &Value| {
        let (name, rest) = args.split_first().expect("a name");
        let all: Vec<&str> = [*name, "k"].into_iter().chain(rest.iter().copied()).collect();
        changes_nothing(&mut client, &all, reply.clone());
    };

    for garbage in ["", "x", "1.5", "+1", "01", " 1", "9223372036854775808", "1\0", "0x1"] {
        refuses(&["CACHE.FETCH", garbage], &integer());
        refuses(&["CACHE.FETCH", "5", "STALE", garbage], &integer());
        refuses(&["CACHE.FETCH", "5", "BLOCK", garbage], &integer());
        refuses(&["CACHE.SET", "n", "5", "TOKEN", garbage], &integer());
        refuses(&["CACHE.SET", "n", "5", "JITTER", garbage], &integer());
        refuses(&["CACHE.EXTEND", garbage, "5"], &integer());
        refuses(&["CACHE.EXTEND", "5", garbage], &integer());
        refuses(&["CACHE.FAIL", garbage], &integer());
        refuses(&["CACHE.FAIL", "5", "BACKOFF", garbage], &integer());
        refuses(&["CACHE.INVALIDATE", "STALE", garbage], &integer());
    }
    let token = token.to_string();
    for time in ["0", "-1", "9007199254740992", "9223372036854775807", "-9223372036854775808"] {
        refuses(&["CACHE.FETCH", time], &expire("cache.fetch"));
        refuses(&["CACHE.FETCH", "5", "STALE", time], &expire("cache.fetch"));
        refuses(&["CACHE.SET", "n", time, "TOKEN", &token], &expire("cache.set"));
        refuses(&["CACHE.EXTEND", &token, time], &expire("cache.extend"));
        refuses(&["CACHE.FAIL", &token, "BACKOFF", time], &expire("cache.fail"));
        refuses(&["CACHE.INVALIDATE", "STALE", time], &expire("cache.invalidate"));
    }
    for percent in ["101", "-1", "9223372036854775807", "-9223372036854775808"] {
        refuses(&["CACHE.SET", "n", "5", "JITTER", percent], &error("ERR value is out of range"));
    }
    refuses(&["CACHE.FETCH", "5", "BLOCK", "-1"], &error("ERR timeout is negative"));
    refuses(&["CACHE.FETCH", "5", "BLOCK", "9223372036854775807"], &expire("cache.fetch"));
    // Numbers, and nobody's token.
    for other in ["0", "-1", "1", "9223372036854775807", "-9223372036854775808"] {
        refuses(&["CACHE.SET", "n", "5", "TOKEN", other], &nil());
        refuses(&["CACHE.EXTEND", other, "5"], &int(0));
        refuses(&["CACHE.FAIL", other, "BACKOFF", "5", "REASON", "r"], &int(0));
    }
    let empty = error("ERR name must not be empty");
    for args in [
        &["CACHE.FETCH", "", "5"][..],
        &["CACHE.EXTEND", "", "5", "5"],
        &["CACHE.FAIL", "", "5"],
        &["CACHE.INVALIDATE", ""],
        &["CACHE.INFO", ""],
    ] {
        changes_nothing(&mut client, args, empty.clone());
    }
    assert_eq!(
        client.run(format!("CACHE.SET k n 5000 TOKEN {token}")),
        ok(),
        "it is current still"
    );
}

#[test]
fn a_reason_is_bytes_and_its_first_1024_are_kept() {
    let server = Checked::start();
    let mut client = server.client();
    let huge = b"\0\xff\r\n -ERR ".repeat(100_000);
    for reason in [&b""[..], b"\r\n+OK\r\n", b"\0", b"\xff\xfe", b" a  b ", &[b'r'; 1024], &huge] {
        let token = load(&mut client, "k 60000");
        let fail = args!["CACHE.FAIL", "k", token, "REASON", reason, "BACKOFF", 60_000];
        assert_eq!(client.cmd(&fail), int(1));
        let kept = &reason[..reason.len().min(1024)];
        assert_eq!(client.run("CACHE.FETCH k 60000"), failed(kept));
        // A waiter is told the same.
        assert_eq!(client.run("CACHE.INVALIDATE k"), int(0));
        let token = load(&mut client, "k 60000");
        let [mut waiter] = in_line(&server, "k 60000");
        let fail = args!["CACHE.FAIL", "k", token, "REASON", reason, "BACKOFF", 60_000];
        assert_eq!(client.cmd(&fail), int(1));
        assert_eq!(waiter.read(), failed(kept));
        assert_eq!(client.run("CACHE.INVALIDATE k"), int(0));
    }
}

#[test]
fn a_key_of_another_type_is_refused_and_left_alone() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("RPUSH list x");
    client.run("SADD cachelock:{k} x");
    client.run("SET k v");
    let wrong = error("WRONGTYPE Operation against a key holding the wrong kind of value");
    for key in ["list", "k"] {
        for command in [
            "CACHE.FETCH {} 1000",
            "CACHE.FETCH {} 1000 STALE 5 BLOCK 0 FRESH",
            "CACHE.SET {} v 1000",
            "CACHE.SET {} v 1000 TOKEN 1",
            "CACHE.SET {} v 1000 NX",
            "CACHE.LOCK {} 1000 1000",
            "CACHE.EXTEND {} 1 1000",
            "CACHE.FAIL {} 1",
            "CACHE.INVALIDATE {}",
            "CACHE.INVALIDATE {} STALE 5",
            "CACHE.INFO {}",
        ] {
            line_changes_nothing(&mut client, &command.replace("{}", key), wrong.clone());
        }
    }
    line_changes_nothing(&mut client, "CACHE.GET list", wrong);
    // A string that says nothing is no record.
    assert_eq!(client.run("DEL cachelock:{k} k"), int(2));
    for nonsense in ["", "x", "loading", "loading x 1 0 ", "loading 1 99999999999999999999 0 "] {
        assert_eq!(client.cmd(&["SET", "cachelock:{k}", nonsense]), ok());
        let token = load(&mut client, "k 60000");
        assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    }
}

// --- Leases and tokens.

#[test]
fn a_token_that_is_not_good_changes_nothing() {
    let server = Checked::start();
    let mut client = server.client();
    let refused = |client: &mut Client, key: &str, token: i64, why: &str| {
        let before = total(client, "refused");
        for options in ["", " NX", " JITTER 50"] {
            let set = format!("CACHE.SET {key} late 300000 TOKEN {token}{options}");
            line_changes_nothing(client, &set, nil());
        }
        assert_eq!(total(client, "refused"), before + 3, "{why}");
        line_changes_nothing(client, &format!("CACHE.EXTEND {key} {token} 1000"), int(0));
        line_changes_nothing(client, &format!("CACHE.FAIL {key} {token} BACKOFF 1000"), int(0));
    };

    // Invalidated though it never had a value.
    let first = load(&mut client, "k 60000");
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    refused(&mut client, "k", first, "invalidated");
    // While another's lease runs, and after it.
    let second = load(&mut client, "k 60000");
    assert!(second > first);
    refused(&mut client, "k", first, "another's lease");
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {second}")), ok());
    refused(&mut client, "k", first, "after another's fill");
    refused(&mut client, "k", second, "filled already");
    // Softly invalidated.
    let third = refreshing(&mut client, "k", "v");
    assert!(third > second);
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    refused(&mut client, "k", third, "softly invalidated");
    // Failed, with back-off and without.
    for backoff in ["", " BACKOFF 60000"] {
        let token = load(&mut client, "failing 60000");
        assert_eq!(client.run(format!("CACHE.FAIL failing {token}{backoff}")), int(1));
        refused(&mut client, "failing", token, "failed");
    }
    // Another's plain SET without token.
    let token = load(&mut client, "set 60000");
    assert_eq!(client.run("CACHE.SET set other 300000"), ok());
    refused(&mut client, "set", token, "set by another");
    // The lease has ended by its time, and another's load was stored.
    let token = load(&mut client, "slow 1");
    eventually(SOON, "the lease ends", || client.run("EXISTS cachelock:{slow}") == int(0));
    let next = load(&mut client, "slow 60000");
    assert!(next > token);
    assert_eq!(client.run(format!("CACHE.SET slow v 300000 TOKEN {next}")), ok());
    refused(&mut client, "slow", token, "too late");
    // The token of another key.
    let token = load(&mut client, "one 60000");
    load(&mut client, "two 60000");
    refused(&mut client, "two", token, "another's token");
    assert_eq!(client.run(format!("CACHE.SET one v 300000 TOKEN {token}")), ok());
}

#[test]
fn tokens_rise_and_never_come_twice() {
    let server = Checked::start();
    let mut client = server.client();
    let mut last = 0;
    for round in 0..200 {
        let key = round % 3;
        let token = load(&mut client, &format!("k{key} 60000"));
        assert!(token > last, "{token} after {last}");
        last = token;
        let end = ["CACHE.INVALIDATE", "DEL cachelock:{k0} cachelock:{k1}", "FLUSHALL"][round % 3];
        client.run(if round % 3 == 0 { format!("{end} k{key}") } else { end.into() });
        client.run("FLUSHALL");
    }
}

#[test]
fn a_foreign_write_voids_the_token_in_the_same_moment() {
    let server = Checked::start();
    let mut client = server.client();
    for (write, value) in [
        ("SET k foreign", bulk("foreign")),
        ("SET k foreign KEEPTTL", bulk("foreign")),
        ("APPEND k x", bulk("oldx")),
        ("DEL k", nil()),
        ("UNLINK k", nil()),
        ("GETDEL k", nil()),
        ("RENAME k elsewhere", nil()),
        ("RENAME other k", bulk("o")),
        ("COPY other k REPLACE", bulk("o")),
        ("MOVE k 5", nil()),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("SET other o"), ok());
        let token = refreshing(&mut client, "k", "old");
        let late = format!("CACHE.SET k late 300000 TOKEN {token}");
        // Valkey 8.1 leaves whoever moves a key in the other database if a module listens.
        let replies = in_transaction(&mut client, &[write, "SELECT 0", &late, "GET k"]);
        assert_eq!(replies[2..], [nil(), value], "{write}");
        let gone = || client.run("EXISTS cachelock:{k}") == int(0);
        eventually(SOON, "the record goes", gone);
        line_changes_nothing(&mut client, &late, nil());
    }
    // What only moves the end of the value is no write.
    for touch in ["PEXPIRE k 200000", "PERSIST k", "GET k", "GETEX k PX 100000", "TOUCH k"] {
        let token = refreshing(&mut client, "k", "old");
        let fill = format!("CACHE.SET k new 300000 TOKEN {token}");
        assert_eq!(in_transaction(&mut client, &[touch, &fill])[1], ok(), "{touch}");
    }
}

#[test]
fn a_lease_that_follows_a_foreign_write_at_once_is_not_lost() {
    let server = Checked::start();
    let mut client = server.client();
    refreshing(&mut client, "k", "old");
    let replies = in_transaction(&mut client, &["DEL k", "CACHE.FETCH k 60000"]);
    let token = token_in(&replies[1]);
    after_foreign_writes(&mut client);
    assert_eq!(client.run("CACHE.FETCH k 60000"), wait(), "one loads already");
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
}

#[test]
fn a_foreign_write_of_another_type_voids_the_token_for_good() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("RPUSH list x");
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run("RENAME list k"), ok());
    after_foreign_writes(&mut client);
    assert_eq!(client.run("DEL k"), int(1));
    after_foreign_writes(&mut client);
    line_changes_nothing(&mut client, &format!("CACHE.SET k late 300000 TOKEN {token}"), nil());
}

#[test]
fn a_foreign_write_after_a_soft_invalidation_is_fresh() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.SET k old 300000"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    assert_eq!(client.run("SET k new PX 300000"), ok());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("new"), "it was not invalidated");
}

#[test]
fn extend_moves_the_end_of_a_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 100000");
    let mut left = |line: String| {
        assert_eq!(client.run(&line), int(1), "{line}");
        client.run("PTTL cachelock:{k}").as_int()
    };
    assert!((200_001..=300_000).contains(&left(format!("CACHE.EXTEND k {token} 300000"))));
    assert!((1..=60_000).contains(&left(format!("CACHE.EXTEND k {token} 60000"))));
    assert_eq!(client.run("CACHE.FETCH k 1000"), wait());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    // A soft invalidation outlasts it.
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let token = token_beside(&client.run("CACHE.FETCH k 60000"), &bulk("v"));
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 1")), int(1));
    let over = || (info_of(&mut client, "k", "state") == bulk("stale")).then_some(());
    eventually(SOON, "the lease ends, the value stays stale", over);
    token_beside(&client.run("CACHE.FETCH k 60000"), &bulk("v"));
}

#[test]
fn a_failure_ends_the_lease_and_a_back_off_ends_by_itself() {
    let server = Checked::start();
    let mut client = server.client();
    // Without a value.
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = load(&mut client, "k 60000");
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 50 REASON r")), int(1));
    let again = || {
        let reply = client.run("CACHE.FETCH k 60000");
        assert!(reply == failed("r") || reply.items()[0] == simple("LOAD"), "{reply:?}");
        (reply != failed("r")).then(|| token_in(&reply))
    };
    assert!(eventually(SOON, "the back-off ends", again) > token);
    // With a stale one.
    let token = refreshing(&mut client, "s", "old");
    assert_eq!(client.run(format!("CACHE.FAIL s {token} BACKOFF 60000 REASON r")), int(1));
    assert_eq!(client.run("CACHE.FETCH s 60000 STALE 600000"), stale("old"));
    assert_eq!(client.run("CACHE.LOCK s 1000 1000"), simple("WAIT"));
    assert_eq!(client.run("CACHE.SET s new 300000"), ok(), "a fill ends the back-off");
    assert_eq!(client.run("EXISTS cachelock:{s}"), int(0));
    let token = refreshing(&mut client, "s", "old");
    assert_eq!(client.run(format!("CACHE.FAIL s {token}")), int(1));
    let reply = client.run("CACHE.FETCH s 60000 STALE 600000");
    let mut token = token_beside(&reply, &bulk("old"));
    // Whoever removes the value wants a new one.
    for end in ["CACHE.INVALIDATE s", "DEL s"] {
        assert_eq!(client.run(format!("CACHE.FAIL s {token} BACKOFF 60000")), int(1));
        assert_eq!(client.run(end), int(1));
        load(&mut client, "s 60000");
        token = refreshing(&mut client, "s", "old");
    }
}

#[test]
fn invalidate_removes_the_value_or_lets_it_live_a_little_longer() {
    let server = Checked::start();
    let mut client = server.client();
    for command in ["CACHE.INVALIDATE k", "CACHE.INVALIDATE k STALE 1000"] {
        line_changes_nothing(&mut client, command, int(0));
        load(&mut client, "k 60000");
        assert_eq!(client.run(command), int(1), "a lease was there");
        assert_eq!(client.run("DBSIZE"), int(0));
    }
    assert_eq!(client.run("SET k v"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    assert_eq!(client.run("DBSIZE"), int(0));

    // At most so long, and never longer than it would have lived.
    for (ttl, stale, most) in [("", 60_000, 60_000), (" PX 50000", 60_000, 50_000)] {
        assert_eq!(client.run(format!("SET k v{ttl}")), ok());
        assert_eq!(client.run(format!("CACHE.INVALIDATE k STALE {stale}")), int(1));
        let left = client.run("PTTL k").as_int();
        assert!((most - 40_000..=most).contains(&left), "{left}");
        assert_eq!(client.run("CACHE.GET k"), bulk("v"));
    }
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 20"), int(1));
    eventually(SOON, "it goes in time, with its record", || client.run("DBSIZE") == int(0));
}

#[test]
fn a_fill_can_spare_what_is_there_and_spread_the_ends() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.SET k v 300000 NX"), ok());
    line_changes_nothing(&mut client, "CACHE.SET k other 300000 NX", nil());
    // NX ends a lease like any fill, unless there is a value.
    let token = load(&mut client, "cold 60000");
    assert_eq!(client.run("CACHE.SET cold v 300000 NX"), ok());
    assert_eq!(client.run(format!("CACHE.EXTEND cold {token} 1000")), int(0));
    let token = refreshing(&mut client, "k", "old");
    line_changes_nothing(&mut client, &format!("CACHE.SET k n 300000 NX TOKEN {token}"), nil());
    assert_eq!(client.run(format!("CACHE.SET k n 300000 TOKEN {token}")), ok());

    let mut ttl_with = |percent: u32| {
        let set = format!("CACHE.SET j v 1000000 JITTER {percent}");
        assert_eq!(client.run(set), ok());
        client.run("PTTL j").as_int()
    };
    assert!((940_000..=1_000_000).contains(&ttl_with(0)));
    let ends: Vec<_> = (0..60).map(|_| ttl_with(50)).collect();
    assert!(ends.iter().all(|ttl| (440_000..=1_000_000).contains(ttl)), "{ends:?}");
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(last - first > 50_000, "they are spread: {ends:?}");
    assert!((0..60).map(|_| ttl_with(100)).any(|ttl| ttl < 800_000));
    assert_eq!(client.run("CACHE.SET j v 1 JITTER 100"), ok());
}

#[test]
fn lock_and_fetch_share_one_lease() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.LOCK k 60000 90000"), simple("LOAD"));
    let left = client.run("PTTL cachelock:{k}").as_int();
    assert!((1..=60_000).contains(&left), "the shorter of the two: {left}");
    assert_eq!(client.run("CACHE.FETCH k 60000"), wait());
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    let mut waiters = in_line::<2>(&server, "k 60000");
    assert_eq!(client.run("CACHE.SET k v 300000"), ok());
    all_read(&mut waiters, &hit("v"));
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("LOAD"), "whatever is cached");
    assert_eq!(client.run("CACHE.FETCH k 60000 STALE 600000"), stale("v"));
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));

    load(&mut client, "k 60000");
    assert_eq!(client.run("CACHE.LOCK k 60000 60000"), simple("WAIT"));
    // The end of LOCK's lease gives FETCH's waiter its turn.
    assert_eq!(client.run("CACHE.LOCK short 60000 200"), simple("LOAD"));
    let [mut waiter] = in_line(&server, "short 60000");
    token_in(&waiter.read());
}

#[test]
fn lock_does_not_overtake_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    load(&mut client, "k 60000");
    let [mut waiter] = in_line(&server, "k 60000");
    // The lease is gone and no timer has run.
    let replies = in_transaction(&mut client, &["DEL cachelock:{k}", "CACHE.LOCK k 60000 60000"]);
    assert_eq!(replies[1], simple("WAIT"));
    token_in(&waiter.read());
}

#[test]
fn fetch_does_not_overtake_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    load(&mut client, "k 60000");
    let mut waiters = in_line::<2>(&server, "k 60000");
    let replies = in_transaction(&mut client, &["DEL cachelock:{k}", "CACHE.FETCH k 60000"]);
    assert_eq!(replies[1], wait());
    let token = token_in(&waiters[0].read());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    all_read(&mut waiters[1..], &hit("v"));
}

// --- MGET, INFO and totals.

#[test]
fn mget_gives_what_is_a_string_and_nil_for_the_rest() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("RPUSH list x");
    client.run("ZADD zset 1 x");
    client.run("CACHE.SET a 1 300000");
    client.cmd(&args!["CACHE.SET", "b", b"\0\xff\r\n", 300_000]);
    load(&mut client, "loading 60000");
    let (hits, misses) = (total(&mut client, "hits"), total(&mut client, "misses"));
    let mget = "CACHE.MGET a list none b zset loading a";
    let b = bulk(b"\0\xff\r\n");
    let with = |none: Value| {
        let none = || none.clone();
        array([bulk("1"), none(), none(), b.clone(), none(), none(), bulk("1")])
    };
    line_changes_nothing(&mut client, mget, with(nil()));
    assert_eq!(server.client3().run(mget), with(null()));
    assert_eq!(total(&mut client, "hits"), hits + 6);
    assert_eq!(total(&mut client, "misses"), misses + 8);
    assert!(client.run("CACHE.MGET").is_error_with("ERR wrong number of arguments"));
}

#[test]
fn info_tells_of_a_value_its_loader_and_who_waits() {
    let server = Checked::start();
    let (mut two, mut client) = (server.client(), server.client3());
    let fields = "exists ttl_ms size state token lease_ms waiters hits misses loads coalesced \
                  load_ms_sum load_ms_max";
    let Value::Map(pairs) = client.run("CACHE.INFO k") else { panic!("RESP3 has a map") };
    let names: Vec<_> = pairs.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, fields.split_whitespace().map(bulk).collect::<Vec<_>>());
    let flat: Vec<_> = pairs.into_iter().flat_map(|(name, value)| [name, value]).collect();
    let flat: Vec<_> = flat.iter().map(|v| if *v == null() { nil() } else { v.clone() }).collect();
    assert_eq!(two.run("CACHE.INFO k"), array(flat));

    #[track_caller]
    fn says(client: &mut Client, expected: [(&str, Value); 5]) {
        let info = client.run("CACHE.INFO k");
        for (name, value) in expected {
            assert_eq!(*info.get(name), value, "{name} in {info:?}");
        }
    }
    let row = |exists: i64, size: i64, state: &str, token: Option<i64>, waiters: i64| {
        let token = token.map_or(null(), int);
        let state = bulk(state);
        [("exists", int(exists)), ("size", int(size)), ("state", state), ("token", token)]
            .into_iter()
            .chain([("waiters", int(waiters))])
            .collect::<Vec<_>>()
            .try_into()
            .expect("five")
    };
    says(&mut client, row(0, 0, "absent", None, 0));
    assert_eq!(info_of(&mut client, "k", "ttl_ms"), int(-2));
    let token = load(&mut two, "k 60000");
    let mut waiters = in_line::<3>(&server, "k 60000");
    says(&mut client, row(0, 0, "loading", Some(token), 3));
    let lease = info_of(&mut client, "k", "lease_ms").as_int();
    assert!((1..=60_000).contains(&lease), "{lease}");
    assert_eq!(two.run(format!("CACHE.SET k value 300000 TOKEN {token}")), ok());
    all_read(&mut waiters, &hit("value"));
    says(&mut client, row(1, 5, "fresh", None, 0));
    let ttl = info_of(&mut client, "k", "ttl_ms").as_int();
    assert!((200_000..=300_000).contains(&ttl), "{ttl}");
    assert_eq!(two.run("CACHE.INVALIDATE k STALE 100000"), int(1));
    says(&mut client, row(1, 5, "stale", None, 0));
    let token = token_beside(&two.run("CACHE.FETCH k 60000"), &bulk("value"));
    says(&mut client, row(1, 5, "loading", Some(token), 0));
    assert_eq!(two.run(format!("CACHE.FAIL k {token} BACKOFF 50000")), int(1));
    says(&mut client, row(1, 5, "backing-off", None, 0));
    let lease = info_of(&mut client, "k", "lease_ms").as_int();
    assert!((1..=50_000).contains(&lease), "{lease}");
    assert_eq!(two.run("CACHE.INVALIDATE k"), int(1));
    assert_eq!(two.run("SET k forever"), ok());
    assert_eq!(info_of(&mut client, "k", "ttl_ms"), int(-1));
    assert_eq!(two.run("CACHE.FETCH k 1000"), hit("forever"));

    let counted = client.run("CACHE.INFO k");
    let counts = ["hits", "misses", "loads", "coalesced"].map(|name| counted.get(name).as_int());
    assert_eq!(counts, [1, 5, 2, 3]);
    assert!(counted.get("load_ms_max").as_int() <= counted.get("load_ms_sum").as_int());
}

#[test]
fn totals_count_what_happened() {
    let server = Checked::start();
    let mut client = server.client();
    const NAMES: [&str; 13] = [
        "hits",
        "misses",
        "stale",
        "loads",
        "fills",
        "refused",
        "waits",
        "coalesced",
        "handoffs",
        "wait_timeouts",
        "expired_leases",
        "failures",
        "load_ms_sum",
    ];
    let all = |client: &mut Client| NAMES.map(|name| total(client, name));
    assert_eq!(all(&mut client), [0; 13]);

    let token = load(&mut client, "k 60000");
    let [mut first, mut second] = in_line(&server, "k 60000");
    assert_eq!(client.run("CACHE.FETCH k 60000 BLOCK 1"), wait());
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = token_in(&first.read());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(second.read(), hit("v"));
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), nil());
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("v"));
    refreshing(&mut client, "k", "v");
    assert_eq!(client.run("CACHE.FETCH k 60000 STALE 600000"), stale("v"));
    load(&mut client, "slow 1");
    eventually(SOON, "the lease ends", || client.run("EXISTS cachelock:{slow}") == int(0));
    load(&mut client, "slow 60000");

    let mut counts = all(&mut client);
    assert!(counts[12] < 60_000, "{counts:?}");
    counts[12] = 0;
    //         hit miss stale load fill refused wait coalesced handoff timeout expired failure
    assert_eq!(counts, [1, 8, 1, 5, 2, 1, 3, 1, 1, 1, 1, 1, 0]);
}

// --- Waiting.

#[test]
fn a_fill_answers_all_who_wait_in_their_own_protocol() {
    let server = Checked::start();
    let mut client = server.client();
    for options in ["", " NX", " JITTER 10", " TOKEN"] {
        let token = load(&mut client, "k 60000");
        let mut waiters = in_line::<3>(&server, "k 60000");
        let mut three = server.client3();
        send_and_wait(&mut client, "cache", &mut three, "CACHE.FETCH k 60000 BLOCK 60000 FRESH");
        let token = if options == " TOKEN" { format!(" {token}") } else { String::new() };
        assert_eq!(client.run(format!("CACHE.SET k v 300000{options}{token}")), ok());
        all_read(&mut waiters, &hit("v"));
        assert_eq!(three.read(), array([simple("HIT"), bulk("v"), null()]));
        assert_eq!(client.run("DEL k"), int(1));
    }
}

#[test]
fn each_failure_gives_the_next_in_line_the_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let mut token = load(&mut client, "k 60000");
    let mut waiters = in_line::<5>(&server, "k 60000");
    for (number, waiter) in waiters[..4].iter_mut().enumerate() {
        let end = match number {
            3 => "CACHE.INVALIDATE k".into(),
            _ => format!("CACHE.FAIL k {token}"),
        };
        assert_eq!(client.run(end), int(1));
        let next = token_in(&waiter.read());
        assert!(next > token);
        token = next;
        assert_eq!(support::waiters(&mut client, "cache"), 4 - number, "one and no more");
        assert_eq!(client.run("CACHE.FETCH k 60000"), wait());
    }
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 60000 REASON r")), int(1));
    assert_eq!(waiters[4].read(), failed("r"), "a back-off is told to all");
}

#[test]
fn the_end_of_a_lease_gives_the_first_in_line_the_next_one_and_not_early() {
    let server = Checked::start();
    let mut client = server.client();
    load(&mut client, "k 300");
    let end = client.run("PEXPIRETIME cachelock:{k}").as_int();
    let mut waiters = in_line::<3>(&server, "k 400");
    let mut end = end;
    for waiter in &mut waiters[..2] {
        token_in(&waiter.read());
        let now = client.time_ms();
        assert!(now > end, "{} ms early", end - now);
        assert!(now < end + 5_000, "{} ms late", now - end);
        let next = client.run("PEXPIRETIME cachelock:{k}").as_int();
        assert!(next >= end + 400, "the lease begins when it is given");
        end = next;
    }
    // EXTEND puts the end off, and brings it forward.
    let token = info_of(&mut client, "k", "token").as_int();
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 50")), int(1));
    token_in(&waiters[2].read());
}

#[test]
fn a_back_off_gives_those_who_want_it_fresh_the_stale_value() {
    let server = Checked::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "old");
    let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
    assert_eq!(client.run(format!("CACHE.FAIL k {token} BACKOFF 60000")), int(1));
    all_read(&mut waiters, &stale("old"));
}

#[test]
fn whoever_wants_it_fresh_waits_beside_a_stale_value() {
    let server = Checked::start();
    let mut client = server.client();
    let token = refreshing(&mut client, "k", "old");
    // The time is over: what is there will do.
    assert_eq!(client.run("CACHE.FETCH k 60000 STALE 600000 BLOCK 20 FRESH"), stale("old"));
    let mut waiters = in_line::<3>(&server, "k 60000 STALE 600000 FRESH");
    // A hand-over brings the old value along.
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = token_beside(&waiters[0].read(), &bulk("old"));
    assert_eq!(client.run(format!("CACHE.SET k new 300000 TOKEN {token}")), ok());
    all_read(&mut waiters[1..], &hit("new"));
}

#[test]
fn an_invalidation_gives_the_first_in_line_the_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let late = load(&mut client, "k 60000");
    let mut waiters = in_line::<2>(&server, "k 60000");
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    let token = token_in(&waiters[0].read());
    line_changes_nothing(&mut client, &format!("CACHE.SET k v 1000 TOKEN {late}"), nil());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(waiters[1].read(), hit("v"));
    // Softly: the value comes along.
    refreshing(&mut client, "k", "old");
    let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let token = token_beside(&waiters[0].read(), &bulk("old"));
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    assert_eq!(waiters[1].read(), hit("v"));
}

#[test]
fn a_foreign_value_is_given_to_all_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("SELECT 1"), ok());
    assert_eq!(client.run("SET k x"), ok());
    assert_eq!(client.run("SELECT 0"), ok());
    for write in ["SET k x", "RENAME other k", "COPY other k", "APPEND k x", "SWAPDB 0 1"] {
        assert_eq!(client.run("FLUSHDB"), ok());
        assert_eq!(client.run("SET other x"), ok());
        load(&mut client, "k 60000");
        let mut waiters = in_line::<3>(&server, "k 60000");
        let reply = client.run(write);
        assert!(!reply.is_error(), "{write}: {reply:?}");
        all_read(&mut waiters, &hit("x"));
        let gone = || client.run("EXISTS cachelock:{k}") == int(0);
        eventually(SOON, "the lease is over", gone);
    }
}

#[test]
fn a_foreign_delete_gives_the_first_in_line_the_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let ends =
        ["DEL k", "UNLINK k", "RENAME k other", "MOVE k 3", "FLUSHALL", "SWAPDB 0 1", "FLUSHDB"];
    for end in ends {
        assert_eq!(client.run("FLUSHALL"), ok());
        let token = refreshing(&mut client, "k", "old");
        let mut waiters = in_line::<2>(&server, "k 60000 STALE 600000 FRESH");
        let reply = server.client().run(end);
        assert!(!reply.is_error(), "{end}: {reply:?}");
        let next = token_in(&waiters[0].read());
        assert!(next > token, "{end}");
        assert_eq!(support::waiters(&mut client, "cache"), 1, "{end}: one and no more");
        line_changes_nothing(&mut client, &format!("CACHE.SET k v 9 TOKEN {token}"), nil());
        assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {next}")), ok());
        assert_eq!(waiters[1].read(), hit("v"), "{end}");
    }
}

#[test]
fn whoever_leaves_is_passed_over() {
    let server = Checked::start();
    let mut client = server.client();
    for exit in EXITS {
        let token = load(&mut client, "k 60000");
        let mut leaver = Leaver::connect(&server, exit);
        leaver.wait(&mut client, "cache", "CACHE.FETCH k 60000 BLOCK", 400);
        let [mut next] = in_line(&server, "k 60000");
        leaver.leave(&mut client, "cache", &wait());
        assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1), "{exit:?}");
        token_in(&next.read());
        assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    }
}

#[test]
fn a_loader_that_is_killed_is_followed_at_the_end_of_its_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let mut loader = server.client();
    load(&mut loader, "k 300");
    let [mut waiter] = in_line(&server, "k 60000");
    assert_eq!(client.run(format!("CLIENT KILL ID {}", loader.id())), int(1));
    let token = token_in(&waiter.read());
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
}

#[test]
fn databases_do_not_know_of_each_other() {
    let server = Checked::start();
    let mut one = server.client();
    let mut zero = server.client();
    assert_eq!(one.run("SELECT 1"), ok());
    let (in_zero, in_one) = (load(&mut zero, "k 60000"), load(&mut one, "k 300"));
    let mut waiter = server.client();
    assert_eq!(waiter.run("SELECT 1"), ok());
    send_and_wait(&mut zero, "cache", &mut waiter, "CACHE.FETCH k 60000 BLOCK 0");
    line_changes_nothing(&mut one, &format!("CACHE.SET k v 9 TOKEN {in_zero}"), nil());
    // The timer finds the right one.
    let token = token_in(&waiter.read());
    assert!(token > in_one);
    assert_eq!(zero.run(format!("CACHE.SET k zero 300000 TOKEN {in_zero}")), ok());
    send_and_wait(&mut zero, "cache", &mut waiter, "CACHE.FETCH k 60000 BLOCK 0");
    assert_eq!(one.run(format!("CACHE.SET k one 300000 TOKEN {token}")), ok());
    assert_eq!(waiter.read(), hit("one"));
    assert_eq!(zero.run("CACHE.FETCH k 1000"), hit("zero"));
}

#[test]
fn transactions_and_scripts_are_answered_without_waiting() {
    let server = Checked::start();
    let mut client = server.client();
    let fetch = "CACHE.FETCH k 60000 BLOCK 0";
    let replies = in_transaction(&mut client, &[fetch, fetch, "CACHE.FETCH k 60000 BLOCK 0 FRESH"]);
    token_in(&replies[0]);
    assert_eq!(replies[1..], [wait(), wait()]);
    let script =
        "return redis.call('CACHE.FETCH', KEYS[1], 60000, 'STALE', 600000, 'BLOCK', 0, 'FRESH')";
    let mut eval = |key: &str| client.cmd(&args!["EVAL", script, 1, key]);
    assert_eq!(eval("k"), wait());
    token_in(&eval("other"));
    assert_eq!(eval("other"), wait());
    refreshing(&mut client, "k", "old");
    assert_eq!(client.cmd(&args!["EVAL", script, 1, "k"]), stale("old"));
    assert_eq!(
        in_transaction(&mut client, &["CACHE.FETCH k 9 STALE 600000 BLOCK 0 FRESH"])[0],
        stale("old")
    );

    // A fill inside a transaction answers those who wait outside.
    let mut waiters = in_line::<2>(&server, "other 60000");
    let replies =
        in_transaction(&mut client, &["CACHE.SET other v 300000", "CACHE.INVALIDATE other"]);
    assert_eq!(replies, [ok(), int(1)]);
    all_read(&mut waiters, &hit("v"));
}

// --- Replication, restarts, refusals.

/// The command that replicas get for the record of `k`, whose text begins like this.
#[track_caller]
fn record(client: &mut Client, start: &str) -> String {
    let (record, end) = (client.run("GET cachelock:{k}"), end_of(client, "cachelock:{k}"));
    let text = record.bytes().escape_ascii().to_string();
    assert!(text.starts_with(start), "{text}");
    format!("SET cachelock:{{k}} {text} PXAT {end}")
}

fn end_of(client: &mut Client, key: &str) -> i64 {
    client.run(format!("PEXPIRETIME {key}")).as_int()
}

#[test]
fn what_is_replicated_is_plain_commands_with_absolute_times() {
    let server = Checked::start();
    let mut client = server.client();
    let mut tap = server.replication_tap();
    let ended = "DEL cachelock:{k}";

    let token = load(&mut client, "k 60000");
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    for quiet in [
        "CACHE.FETCH k 60000",
        "CACHE.FETCH k 60000 BLOCK 1",
        "CACHE.SET k v 1000 TOKEN 1",
        "CACHE.EXTEND k 1 1000",
        "CACHE.FAIL k 1",
        "CACHE.LOCK k 1000 1000",
        "CACHE.INVALIDATE none",
        "CACHE.MGET k x",
        "CACHE.INFO k",
    ] {
        client.run(quiet);
        assert!(tap.commands().is_empty(), "{quiet}");
    }
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {token}")), ok());
    let fill = format!("SET k v PXAT {}", end_of(&mut client, "k"));
    assert_eq!(tap.commands(), ["MULTI", &fill, ended, "EXEC"]);
    for quiet in ["CACHE.FETCH k 60000", "CACHE.SET k n 9000 NX"] {
        client.run(quiet);
        assert!(tap.commands().is_empty(), "{quiet}");
    }

    assert_eq!(client.run("CACHE.INVALIDATE k STALE 200000"), int(1));
    let sooner = format!("PEXPIREAT k {}", end_of(&mut client, "k"));
    let soft = record(&mut client, "open ");
    assert_eq!(tap.commands(), ["MULTI", &sooner, &soft, "EXEC"]);
    let token = token_beside(&client.run("CACHE.FETCH k 300000"), &bulk("v"));
    assert_eq!(tap.commands(), [record(&mut client, &format!("loading {token} "))]);
    let fail = args!["CACHE.FAIL", "k", token, "BACKOFF", 300_000, "REASON", b"a\r\nb"];
    assert_eq!(client.cmd(&fail), int(1));
    assert_eq!(tap.commands(), [record(&mut client, &format!("failed: {token} "))]);
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    assert_eq!(tap.commands(), ["MULTI", "DEL k", ended, "EXEC"]);

    // What is handed over by FAIL, by the timer, and after a foreign write.
    let token = load(&mut client, "k 60000");
    let mut waiters = in_line::<3>(&server, "k 60000");
    tap.commands();
    assert_eq!(client.run(format!("CACHE.FAIL k {token}")), int(1));
    let token = token_in(&waiters[0].read());
    let next = record(&mut client, &format!("loading {token} "));
    assert_eq!(tap.commands(), ["MULTI", ended, &next, "EXEC"]);
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 1")), int(1));
    let token = token_in(&waiters[1].read());
    let next = record(&mut client, &format!("loading {token} "));
    // The server may have had to remove the record that expired before.
    let commands = tap.commands();
    assert_eq!(commands.iter().filter(|command| **command == next).count(), 1, "{commands:?}");
    assert!(
        commands
            .iter()
            .all(|command| ["MULTI", "EXEC", "SET", "DEL", "UNLINK"].contains(&&*command.name()))
    );
    assert_eq!(client.run("SET k x"), ok());
    assert_eq!(waiters[2].read(), hit("x"));
    assert_eq!(tap.commands(), ["SET k x", ended]);
    // A fill of a key that nobody loads.
    assert_eq!(client.run("CACHE.SET k y 300000"), ok());
    assert_eq!(tap.commands(), [format!("SET k y PXAT {}", end_of(&mut client, "k"))]);
}

#[test]
fn nothing_is_written_while_clients_are_paused() {
    let server = Checked::start();
    let mut client = server.client();
    let mut tap = server.replication_tap();
    let [mut asks, mut fetches] = [server.client(), server.client()];
    assert_eq!(client.run("SET warm v"), ok());
    load(&mut client, "k 100");
    let mut waiters = in_line::<1>(&server, "k 60000");
    tap.commands();
    assert_eq!(client.run("CLIENT PAUSE 600000 WRITE"), ok());
    asks.send("CACHE.FETCH none 60000");
    fetches.send("CACHE.FETCH warm 60000");
    eventually(SOON, "the lease is over", || client.run("EXISTS cachelock:{k}") == int(0));
    assert_eq!(client.run("CACHE.GET warm"), bulk("v"));
    assert!(tap.commands().iter().all(|command| command.name() == "DEL"), "only what expired");
    assert_eq!(support::waiters(&mut client, "cache"), 1, "the lease cannot be given now");
    assert_eq!(client.run("CLIENT UNPAUSE"), ok());
    token_in(&waiters[0].read());
    token_in(&asks.read());
    assert_eq!(fetches.read(), hit("v"));
}

#[test]
fn a_back_off_outlives_a_crash_with_the_append_only_file_and_a_lease_does_not() {
    let mut server = Checked::new(Server::builder().aof(true).start());
    let token = load(&mut server.client(), "k 60000");
    let failing = load(&mut server.client(), "failing 60000");
    let fail = format!("CACHE.FAIL failing {failing} BACKOFF 600000 REASON r");
    assert_eq!(server.client().run(fail), int(1));
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.FETCH failing 60000"), failed("r"));
    assert_eq!(info_of(&mut client, "k", "token"), nil());
    line_changes_nothing(&mut client, &format!("CACHE.FAIL k {token}"), int(0));
    let next = load(&mut client, "k 60000");
    assert!(next > token);
    let mut waiters = in_line::<2>(&server, "k 60000");
    line_changes_nothing(&mut client, &format!("CACHE.SET k v 9 TOKEN {token}"), nil());
    assert_eq!(client.run(format!("CACHE.SET k v 300000 TOKEN {next}")), ok());
    all_read(&mut waiters, &hit("v"));
    for command in aof_commands(&server) {
        assert!(!command.name().starts_with("CACHE"), "{command}");
    }
}

#[test]
fn a_foreign_write_after_a_crash_is_seen_by_those_who_wait() {
    let mut server = Checked::new(Server::builder().aof(true).start());
    let token = load(&mut server.client(), "k 600000");
    server.kill9();
    server.restart();
    let mut client = server.client();
    load(&mut client, "k 600000");
    let mut waiters = in_line::<2>(&server, "k 60000");
    assert_eq!(client.run("SET k foreign"), ok());
    all_read(&mut waiters, &hit("foreign"));
    line_changes_nothing(&mut client, &format!("CACHE.SET k late 9 TOKEN {token}"), nil());
}

#[test]
fn a_fill_from_before_a_crash_that_lost_the_lease_changes_nothing() {
    let mut server = Checked::start();
    let token = load(&mut server.client(), "k 60000");
    server.kill9();
    server.restart();
    let mut client = server.client();
    line_changes_nothing(&mut client, &format!("CACHE.SET k v 9000 TOKEN {token}"), nil());
    assert!(load(&mut client, "k 60000") > token);
    line_changes_nothing(&mut client, &format!("CACHE.SET k v 9000 TOKEN {token}"), nil());
}

#[test]
fn a_replica_gives_what_it_has_and_hands_out_no_lease() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut reader) = (master.client(), replica.client());
    assert_eq!(client.run("CACHE.SET fresh v 300000"), ok());
    refreshing(&mut client, "stale", "old");
    load(&mut client, "cold 60000");
    wait_in_sync(&master, &replica);
    assert_eq!(reader.run("CACHE.GET fresh"), bulk("v"));
    assert_eq!(reader.run("CACHE.MGET fresh none stale"), array([bulk("v"), nil(), bulk("old")]));
    assert_eq!(reader.run("CACHE.FETCH fresh 60000"), hit("v"));
    assert_eq!(reader.run("CACHE.FETCH stale 60000 STALE 600000"), stale("old"));
    assert_eq!(reader.run("CACHE.FETCH cold 60000"), wait());
    assert_eq!(info_of(&mut reader, "cold", "state"), bulk("loading"));
    for load in ["none 60000", "none 60000 BLOCK 0", "fresh 60000 STALE 600000"] {
        let reply = reader.run(format!("CACHE.FETCH {load}"));
        assert!(reply.is_error_with("READONLY "), "{load}: {reply:?}");
    }
    for write in ["SET k v 9", "LOCK k 9 9", "EXTEND k 1 9", "FAIL k 1", "INVALIDATE k"] {
        let reply = reader.run(format!("CACHE.{write}"));
        assert!(reply.is_error_with("READONLY "), "{write}: {reply:?}");
    }
    assert_eq!(reader.run("DBSIZE"), client.run("DBSIZE"));
}

#[test]
fn nobody_waits_on_a_replica_where_no_fill_will_wake_him() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut reader) = (master.client(), replica.client());
    load(&mut client, "cold 60000");
    wait_in_sync(&master, &replica);
    reader.send("CACHE.FETCH cold 60000 BLOCK 0");
    // Either at once or with the value, but not never.
    assert_eq!(client.run("CACHE.SET cold v 300000"), ok());
    let reply = reader.read_timeout(Duration::from_secs(3));
    assert!(reply == Some(wait()) || reply == Some(hit("v")), "{reply:?}");
}

#[test]
fn tokens_rise_after_a_failover_and_those_from_before_it_are_refused() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut client, mut promoted) = (master.client(), replica.client());
    let filled = load(&mut client, "filled 600000");
    let foreign = load(&mut client, "foreign 600000");
    let failing = load(&mut client, "failing 600000");
    wait_in_sync(&master, &replica);
    assert_eq!(promoted.run("REPLICAOF NO ONE"), ok());
    // The new master knows none of them: the first who asks loads.
    let next = load(&mut promoted, "filled 600000");
    assert!(next > filled.max(foreign).max(failing));
    let mut waiters = in_line::<2>(&replica, "filled 60000");
    let late = format!("CACHE.SET filled late 9 TOKEN {filled}");
    line_changes_nothing(&mut promoted, &late, nil());
    let fill = format!("CACHE.SET filled v 300000 TOKEN {next}");
    assert_eq!(promoted.run(fill), ok());
    all_read(&mut waiters, &hit("v"));
    load(&mut promoted, "foreign 600000");
    let mut waiters = in_line::<2>(&replica, "foreign 60000");
    assert_eq!(promoted.run("SET foreign x"), ok());
    all_read(&mut waiters, &hit("x"));
    let late = format!("CACHE.SET foreign late 9 TOKEN {foreign}");
    line_changes_nothing(&mut promoted, &late, nil());
    line_changes_nothing(&mut promoted, &format!("CACHE.FAIL failing {failing}"), int(0));
    assert!(load(&mut promoted, "failing 60000") > failing);
}

#[test]
fn where_writes_are_refused_only_a_load_is() {
    let server = Checked::start();
    let mut client = server.client();
    for (refuse, allow, code) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM "),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS "),
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        assert_eq!(client.run("CACHE.SET fresh v 300000"), ok());
        let token = refreshing(&mut client, "stale", "old");
        load(&mut client, "cold 60000");
        assert_eq!(client.run(refuse), ok());
        assert_eq!(client.run("CACHE.FETCH fresh 60000"), hit("v"));
        assert_eq!(client.run("CACHE.MGET fresh none"), array([bulk("v"), nil()]));
        assert_eq!(client.run("CACHE.FETCH stale 60000 STALE 600000"), stale("old"));
        assert_eq!(client.run("CACHE.FETCH cold 60000"), wait());
        assert_eq!(info_of(&mut client, "stale", "token"), int(token));
        let before = Keyspace::of(&mut client);
        for load in ["FETCH none 60000", "FETCH none 60000 BLOCK 0", "SET k v 9000", "LOCK k 9 9"] {
            let reply = client.run(format!("CACHE.{load}"));
            assert!(reply.is_error_with(code), "{load}: {reply:?}");
        }
        assert_eq!(Keyspace::of(&mut client), before);
        assert_eq!(client.run(allow), ok());
    }
}

#[test]
fn a_full_server_still_ends_leases_and_serves_the_line_later() {
    let server = Checked::start();
    let mut client = server.client();
    let token = load(&mut client, "k 60000");
    let invalidated = refreshing(&mut client, "soft", "old");
    let [mut waiter] = in_line(&server, "k 60000");
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    assert_eq!(client.run(format!("CACHE.EXTEND k {token} 90000")), int(1));
    assert_eq!(client.run("CACHE.INVALIDATE soft STALE 100000"), int(1));
    assert_eq!(client.run(format!("CACHE.EXTEND soft {invalidated} 90000")), int(0));
    assert_eq!(
        client.run(format!("CACHE.FAIL k {token}")),
        int(1),
        "the refusal is not the loader's"
    );
    assert_eq!(support::waiters(&mut client, "cache"), 1);
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    assert!(token_in(&waiter.read()) > token);
}

#[test]
fn a_name_is_one_slot_and_nobody_loads_while_it_moves() {
    let cluster = Cluster::start(2, Server::builder());
    for key in ["k", "{tag}k", "k{tag}", "a{b", "{k"] {
        let mut client = cluster.client_for(key);
        let token = load(&mut client, &format!("{key} 60000"));
        let mut waiters = in_line::<1>(cluster.node_for(key), &format!("{key} 60000"));
        assert_eq!(client.run(format!("CACHE.SET {key} v 300000 TOKEN {token}")), ok());
        all_read(&mut waiters, &hit("v"));
        assert_eq!(client.run(format!("CACHE.INVALIDATE {key} STALE 200000")), int(1));
        let keys = client.run(format!("CLUSTER COUNTKEYSINSLOT {}", slot_of(key)));
        assert!(keys.as_int() >= 2, "{key}: value and record");
        assert_eq!(client.run(format!("CACHE.INVALIDATE {key}")), int(1));
    }
    let mut client = cluster.client_for("a}b");
    let refused = client.run("CACHE.FETCH a}b 1000");
    assert_eq!(refused, error("ERR name cannot be used in cluster mode: '}' outside a hash tag"));

    let mut client = cluster.client_for("k");
    let slot = slot_of("k");
    let from = cluster.node_of_slot(slot);
    assert_eq!(client.run("CACHE.SET k v 300000"), ok());
    let cold = load(&mut client, "{k}cold 60000");
    let mut waiters = in_line::<2>(&cluster.nodes[from], "{k}cold 60000");
    let reshard = cluster.reshard(slot, 1 - from);
    assert_eq!(client.run("CACHE.FETCH k 60000"), hit("v"));
    for command in [
        "CACHE.FETCH k 60000 STALE 600000",
        "CACHE.FETCH k 60000 STALE 600000 BLOCK 0 FRESH",
        "CACHE.SET k n 9000",
        "CACHE.LOCK k 9000 9000",
        "CACHE.EXTEND k 1 9000",
        "CACHE.FAIL k 1",
        "CACHE.INVALIDATE k",
    ] {
        let reply = client.run(command);
        assert!(reply.is_error_with("TRYAGAIN "), "{command}: {reply:?}");
    }
    assert!(client.run("CACHE.FETCH {k}none 60000").is_error_with("ASK "));
    let mut target = cluster.nodes[1 - from].client();
    assert_eq!(target.run("ASKING"), ok());
    let reply = target.run("CACHE.FETCH {k}none 60000");
    assert!(reply.is_error_with("TRYAGAIN "), "{reply:?}");
    reshard.migrate_keys();
    reshard.finish();
    for waiter in &mut waiters {
        let reply = waiter.read();
        assert!(reply.is_error_with("MOVED "), "{reply:?}");
    }
    assert_eq!(target.run("CACHE.FETCH k 60000"), hit("v"));
    assert_eq!(target.run("CACHE.FETCH {k}cold 60000"), wait(), "the lease moved along");
    // Its token did not: the loader is refused, and somebody else loads at once.
    assert_eq!(target.run(format!("CACHE.SET {{k}}cold v 9000 TOKEN {cold}")), nil());
    token_in(&target.run("CACHE.FETCH {k}cold 60000"));
    for node in &cluster.nodes {
        assert_eq!(info(node, "corral", "corral_panics").as_deref(), Some("0"));
        assert_eq!(waiters_of(node), 0);
    }
}

fn waiters_of(server: &Server) -> usize {
    waiters(&mut server.client(), "cache")
}

// --- What the server knows of the commands.

#[test]
fn the_commands_are_described() {
    let server = Checked::start();
    let mut client = server.client();
    for (name, arity, flags, key, syntax) in [
        (
            "cache.fetch",
            -3,
            "blocking fast module",
            "RW access update",
            "key:key lease_ms:integer [STALE stale_ms:integer] [BLOCK block_ms:integer] [FRESH]",
        ),
        (
            "cache.set",
            -4,
            "denyoom fast module write",
            "OW update",
            "key:key value:string ttl_ms:integer [TOKEN token:integer] [NX] [JITTER percent:integer]",
        ),
        (
            "cache.extend",
            4,
            "fast module write",
            "RW access update",
            "key:key token:integer lease_ms:integer",
        ),
        (
            "cache.fail",
            -3,
            "fast module write",
            "RW access update",
            "key:key token:integer [BACKOFF backoff_ms:integer] [REASON text:string]",
        ),
        (
            "cache.invalidate",
            -2,
            "fast module write",
            "RW access delete",
            "key:key [STALE stale_ms:integer]",
        ),
        ("cache.info", 2, "fast module readonly", "RO access", "key:key"),
    ] {
        let info = command_info(&mut client, name);
        // Not every server lists it.
        let listed = info.flags.replace("may_replicate ", "");
        assert_eq!((info.arity, listed.as_str()), (arity, flags), "{name}");
        assert_eq!(info.legacy, (1, 1, 1), "{name}");
        assert_eq!(info.keys, [(1, key.to_owned())], "{name}");
        let docs = client.run(format!("COMMAND DOCS {name}"));
        let docs = docs.get(name);
        assert_eq!(command_syntax(docs.get("arguments")), syntax, "{name}");
        assert!(docs.get("summary").as_str().ends_with('.'), "{name}");
        assert!(docs.get("complexity").as_str().starts_with("O("), "{name}");
    }
    assert_eq!(client.run("COMMAND GETKEYS CACHE.MGET a b c"), array(["a", "b", "c"]));
    assert_eq!(client.run("COMMAND GETKEYS CACHE.FETCH a 9 STALE 9"), array(["a"]));
    let docs = client.run("COMMAND DOCS cache.mget");
    let syntax = command_syntax(docs.get("cache.mget").get("arguments"));
    assert_eq!(syntax, "key:key...");
}

// --- Waves.

#[test]
fn ten_thousand_who_wait_are_answered_in_waves() {
    const CLIENTS: usize = 10_000;
    const SIZE: usize = 100_000;
    fn memory(client: &mut Client) -> usize {
        let peak = client.info("memory", "used_memory_peak").expect("a peak");
        peak.parse().expect("a number")
    }
    /// A gigabyte goes over the wire.
    const PATIENCE: Duration = Duration::from_secs(60);
    let options = Server::builder().arg("--maxclients").arg("12000");
    let server = Checked::new(options.start());
    let mut control = server.client();
    let token = load(&mut control, "k 600000");
    let mut clients = server.clients(CLIENTS);
    for client in &mut clients {
        client.send("CACHE.FETCH k 60000 BLOCK 0");
    }
    eventually(SOON, "all wait", || waiters(&mut control, "cache") == CLIENTS);
    assert_eq!(control.run("CONFIG SET corral.wake-bytes 4000000"), ok());

    let value = "v".repeat(SIZE);
    let expected = format!("*3\r\n+HIT\r\n${SIZE}\r\n{value}\r\n$-1\r\n");
    let set = args!["CACHE.SET", "k", value, 600_000, "TOKEN", token];
    let readers = thread::spawn(move || {
        let mut reply = vec![0; expected.len()];
        for client in &mut clients {
            client.read_exact(&mut reply);
            assert!(reply == expected.as_bytes(), "not the value");
        }
        clients
    });
    let before = memory(&mut control);
    assert_eq!(control.cmd(&set), ok());
    // Each round trip falls between two waves, or many would.
    let mut between = 0;
    let answered = || {
        assert_eq!(control.run("PING"), simple("PONG"));
        let left = waiters(&mut control, "cache");
        between += usize::from((1..CLIENTS).contains(&left));
        left == 0
    };
    eventually(PATIENCE, "all are answered", answered);
    assert!(between > 5, "others are answered between the waves: {between}");
    readers.join().expect("all got the value");
    let more = memory(&mut control) - before;
    assert!(more < SIZE * CLIENTS / 2, "the replies never lie there all at once: {more} bytes");
    assert_eq!(total(&mut control, "coalesced"), CLIENTS as i64);
    assert_eq!(total(&mut control, "loads"), 1);
}
