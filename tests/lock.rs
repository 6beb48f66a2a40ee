//! What the lock commands reply, store and propagate while nobody waits: their options, the three modes,
//! fencing tokens, leases, EXTEND and RELEASE, LOCK.INFO and the counters.
//!
//! A refused call changes nothing. The key of a lock expires with the latest lease in it. Replicas and
//! the append-only file see only plain commands with absolute times.

mod support;
use support::lock::{FENCE, KEY, LONG, stop_active_expiry, waiter};
use support::*;

const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
const EXPIRE_TIME: &str = "ERR invalid expire time in 'lock.acquire' command";
const OTHER_MODE: &str = "ERR identifier holds this lock in another mode";

/// Tokens and points in time lie below this: 2^53.
const END: i64 = 1 << 53;

/// Runs `LOCK.ACQUIRE job <identifier> <LONG> <options>`.
#[track_caller]
fn acquire(client: &mut Client, identifier: &str, options: &str) -> Value {
    client.run(format!("LOCK.ACQUIRE job {identifier} {LONG} {options}"))
}

/// Takes the exclusive lock and returns its fencing token.
#[track_caller]
fn token(client: &mut Client, identifier: &str) -> i64 {
    let token = acquire(client, identifier, "FENCE").as_int();
    assert!(token > 1, "{identifier} was not granted: {token}");
    token
}

/// As [`token`], and releases the lock.
#[track_caller]
fn token_of_a_moment(client: &mut Client) -> i64 {
    let token = token(client, "me");
    assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
    token
}

/// Empties the server and takes the lock once for each of these identifiers and options.
#[track_caller]
fn held_by(client: &mut Client, holders: &[(&str, &str)]) {
    assert_eq!(client.run("FLUSHALL"), ok());
    for (identifier, options) in holders {
        assert!(acquire(client, identifier, options).as_int() > 0, "{identifier} {options}");
    }
}

/// Runs a command that gives a holder a lease of `ttl` ms from now on; returns its end.
#[track_caller]
fn lease(client: &mut Client, identifier: &str, ttl: i64, command: &str) -> i64 {
    let before = client.time_ms();
    // In one transaction, so that a brief lease does not expire before it is read.
    let ends = [format!("PEXPIRETIME {KEY}"), format!("ZSCORE {KEY} {identifier}")];
    let commands = [&[command.to_owned()][..], &ends].concat();
    let replies = in_transaction(client, &commands);
    let after = client.time_ms();
    assert!(matches!(replies[0], Value::Int(1..)), "{command}: {replies:?}");
    let end = match &replies[2] {
        Value::Bulk(_) => replies[2].as_str().parse().expect("a time"),
        _ => replies[1].as_int(),
    };
    assert!((before + ttl..=after + ttl).contains(&end), "{command}: {end}");
    end
}

/// A server that does not remove expired keys by itself: only the commands handle them.
#[track_caller]
fn without_active_expiry() -> Checked {
    let server = Checked::start();
    stop_active_expiry(&server);
    server
}

/// All orders of some words.
fn orders(words: &[&str]) -> Vec<String> {
    if words.is_empty() {
        return vec![String::new()];
    }
    let mut all = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let others = [&words[..index], &words[index + 1..]].concat();
        all.extend(orders(&others).iter().map(|rest| format!("{word} {rest}").trim().to_owned()));
    }
    all
}

// --- Options

/// Every set of options that LOCK.ACQUIRE takes.
const OPTIONS: [&[&str]; 11] = [
    &[],
    &["SHARED"],
    &["LIMIT 3"],
    &["FENCE"],
    &["BLOCK 0"],
    &["BLOCK 0", "FENCE"],
    &["BLOCK 1000", "SHARED"],
    &["LIMIT 3", "BLOCK 1"],
    &["TIED"],
    &["TIED", "SHARED"],
    &["FENCE", "BLOCK 0", "TIED"],
];

#[test]
fn options_come_in_any_order_and_in_any_case() {
    let server = Checked::start();
    let mut client = server.client();
    for set in OPTIONS {
        for order in orders(set) {
            let mixed = order.replace("ED", "eD").replace('L', "l").replace('O', "o");
            for options in [order.to_lowercase(), mixed, order] {
                let reply = acquire(&mut client, "me", &options).as_int();
                assert_eq!(reply > 1, set.contains(&"FENCE"), "{options}: {reply}");
                assert!(reply >= 1, "{options}: {reply}");
                let shared = set.contains(&"LIMIT 3") || set.contains(&"SHARED");
                let kind = client.run(format!("TYPE {KEY}"));
                assert_eq!(kind, simple(if shared { "zset" } else { "string" }), "{options}");
                assert_eq!(client.run("LOCK.RELEASE job me"), int(1), "{options}");
            }
        }
    }
    for word in ["shared", "Shared", "SHARED", "exclusive", "ExClUsIvE", "EXCLUSIVE"] {
        held_by(&mut client, &[("me", "SHARED")]);
        assert_eq!(client.run(format!("LOCK.EXTEND job me 1000 {word}")), int(1));
    }
}

/// Arguments behind the lease with which LOCK.ACQUIRE is a syntax error.
const NO_OPTIONS: [&str; 27] = [
    "EXCLUSIVE",
    "NX",
    "1000",
    "LIMIT",
    "BLOCK",
    "FENCE FENCE",
    "SHARED SHARED",
    "LIMIT 3 LIMIT 3",
    "BLOCK 0 BLOCK 0",
    "SHARED LIMIT 3",
    "LIMIT 3 SHARED",
    "FENCE SHARED",
    "SHARED FENCE",
    "FENCE LIMIT 3",
    "LIMIT 3 FENCE",
    "FENCE BLOCK 0 SHARED",
    "SHARED BLOCK 0 FENCE",
    "BLOCK 0 LIMIT",
    "LIMIT 3 BLOCK",
    "LIMIT 3 3",
    "BLOCK 0 0",
    "BLOCK 0 FENCE junk",
    "FENCE BLOCK 0 FENCE",
    "SHARED BLOCK 0 shared",
    "TIED TIED",
    "TIED BLOCK 0 tied",
    "TIED 1",
];

#[test]
fn unknown_and_repeated_options_are_a_syntax_error() {
    let server = Checked::start();
    let mut client = server.client();
    for holder in ["", "me", "other"] {
        let holders = [(holder, "")];
        held_by(&mut client, if holder.is_empty() { &[] } else { &holders });
        for options in NO_OPTIONS {
            let call = format!("LOCK.ACQUIRE job me 1000 {options}");
            changes_nothing(&mut client, &call, error(SYNTAX));
        }
        for options in
            ["FENCE", "BLOCK 1", "LIMIT 2", "1", "SHARED SHARED", "SHARED EXCLUSIVE", "SHARED 1"]
        {
            let call = format!("LOCK.EXTEND job me 1000 {options}");
            changes_nothing(&mut client, &call, error(SYNTAX));
        }
        for (call, name) in [
            ("LOCK.RELEASE job me SHARED", "lock.release"),
            ("LOCK.INFO job me", "lock.info"),
            ("LOCK.INFO", "lock.info"),
        ] {
            let text = format!("ERR wrong number of arguments for '{name}' command");
            changes_nothing(&mut client, call, error(text));
        }
    }
}

#[test]
fn keywords_are_compared_with_all_their_bytes() {
    let server = Checked::start();
    let mut client = server.client();
    held_by(&mut client, &[("me", "")]);
    let mut words = vec![b"SHARED ".repeat(150_000), Vec::new()];
    let hostile: [&[u8]; 9] = [
        b"SHARED\0",
        b"\0SHARED",
        b"SHARED ",
        b" FENCE",
        b"SHARE",
        b"FENCES",
        b"\xff",
        b"FENCE\r\n",
        "ſHARED".as_bytes(),
    ];
    words.extend(hostile.map(Into::into));
    for command in ["LOCK.ACQUIRE", "LOCK.EXTEND"] {
        for word in &words {
            call_changes_nothing(
                &mut client,
                &args![command, "job", "me", 1000, word],
                error(SYNTAX),
            );
        }
    }
}

#[test]
fn a_wrong_number_behind_an_option_is_refused_before_anything_changes() {
    let server = Checked::start();
    let mut client = server.client();
    let texts =
        "abc +1 1.5 1e3 0x10 -0 01 --1 １ NaN nil 9223372036854775808 1\0 \0 \u{a0}1 SHARED";
    let mut cases: Vec<(&str, String, &str)> = Vec::new();
    for option in ["LIMIT", "BLOCK"] {
        let texts = texts.split(' ').chain(["", " 1", "1 ", "1\r\n"]);
        cases.extend(texts.map(|text| (option, text.to_owned(), NOT_AN_INTEGER)));
    }
    for (option, numbers, text) in [
        ("LIMIT", [0, -1, i64::MIN], NOT_POSITIVE),
        ("BLOCK", [-1, -1000, i64::MIN], NEGATIVE_TIMEOUT),
        ("BLOCK", [END, END - now_ms(), i64::MAX], EXPIRE_TIME),
    ] {
        cases.extend(numbers.map(|number| (option, number.to_string(), text)));
    }
    for holder in [None, Some(("me", "")), Some(("me", "SHARED")), Some(("other", ""))] {
        held_by(&mut client, holder.as_slice());
        for (option, number, text) in &cases {
            call_changes_nothing(
                &mut client,
                &args!["LOCK.ACQUIRE", "job", "me", 1000, option, number],
                error(text),
            );
        }
    }
    // The largest valid numbers are accepted.
    held_by(&mut client, &[]);
    let longest = END - now_ms() - LONG;
    let options = format!("LIMIT {} BLOCK {longest}", i64::MAX);
    assert_eq!(acquire(&mut client, "me", &options), int(1));
}

#[test]
fn identifiers_are_binary_safe_in_every_mode() {
    let server = Checked::start();
    let mut client = server.client();
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.repeat(1000);
    let identifiers: [&[u8]; 6] = [b"\0", b"a\0b", b"\r\n", b"7", &every_byte, &long];
    for mode in ["FENCE", "SHARED"] {
        for me in identifiers {
            let call = args!["LOCK.ACQUIRE", "job", me, LONG, mode];
            assert!(client.cmd(&call).as_int() > 0);
            assert!(client.cmd(&call).as_int() > 0, "again");
            let info = client.run("LOCK.INFO job");
            assert_eq!(info.get("holders").items()[0].items()[0], bulk(me));
            let other = [me, b"\0"].concat();
            assert_eq!(client.cmd(&args!["LOCK.RELEASE", "job", other]), int(0));
            assert_eq!(client.cmd(&args!["LOCK.EXTEND", "job", me, LONG, "SHARED"]), int(1));
            assert_eq!(client.cmd(&args!["LOCK.EXTEND", "job", me, LONG, "EXCLUSIVE"]), int(1));
            assert_eq!(client.cmd(&args!["LOCK.RELEASE", "job", me]), int(1));
        }
    }
    for call in ["LOCK.ACQUIRE", "LOCK.EXTEND"] {
        let empty = error("ERR identifier must not be empty");
        call_changes_nothing(&mut client, &args![call, "job", "", 1000, "SHARED"], empty);
    }
    call_changes_nothing(&mut client, &args!["LOCK.INFO", ""], error("ERR name must not be empty"));
}

// --- Modes

#[test]
fn an_exclusive_holder_excludes_every_other() {
    let server = Checked::start();
    let mut client = server.client();
    held_by(&mut client, &[("me", "")]);
    for options in ["", "SHARED", "LIMIT 1", "LIMIT 9223372036854775807", "FENCE", "BLOCK 1"] {
        let call = format!("LOCK.ACQUIRE job other 1000 {options}");
        changes_nothing(&mut client, call.trim(), int(0));
    }
    assert_eq!(client.run(format!("GET {KEY}")), bulk("me"));
}

#[test]
fn any_number_of_shared_holders_exclude_an_exclusive_one() {
    let server = Checked::start();
    let mut client = server.client();
    for number in 0..200 {
        assert_eq!(acquire(&mut client, &format!("r{number}"), "SHARED"), int(1));
    }
    assert_eq!(client.run(format!("ZCARD {KEY}")), int(200));
    for options in ["", "FENCE", "BLOCK 1", "FENCE BLOCK 1"] {
        let call = format!("LOCK.ACQUIRE job writer 1000 {options}");
        changes_nothing(&mut client, call.trim(), int(0));
    }
    for number in 0..200 {
        assert_eq!(client.run("LOCK.ACQUIRE job writer 1000"), int(0));
        assert_eq!(client.run(format!("LOCK.RELEASE job r{number}")), int(1));
    }
    assert_eq!(client.run("LOCK.ACQUIRE job writer 1000"), int(1));
}

#[test]
fn a_limit_is_exact() {
    let server = Checked::start();
    let mut client = server.client();
    for limit in [1, 2, 3, 50] {
        held_by(&mut client, &[]);
        let options = format!("LIMIT {limit}");
        for number in 0..limit {
            assert_eq!(acquire(&mut client, &format!("h{number}"), &options), int(1), "{limit}");
        }
        let full = format!("LOCK.ACQUIRE job late {LONG} {options}");
        changes_nothing(&mut client, &full, int(0));
        changes_nothing(&mut client, &format!("{full} BLOCK 1"), int(0));
        // When one leaves, one may enter.
        assert_eq!(client.run("LOCK.RELEASE job h0"), int(1));
        assert_eq!(acquire(&mut client, "late", &options), int(1));
        assert_eq!(acquire(&mut client, "h0", &options), int(0));
        assert_eq!(client.run(format!("ZCARD {KEY}")), int(limit));
    }
}

#[test]
fn a_limit_counts_every_shared_holder_and_binds_only_requests_that_name_it() {
    let server = Checked::start();
    let mut client = server.client();
    held_by(&mut client, &[("a", "SHARED"), ("b", "LIMIT 2")]);
    for (identifier, options, reply) in [
        ("c", "LIMIT 1", 0),
        ("c", "LIMIT 2", 0),
        ("c", "LIMIT 3", 1),
        ("d", "LIMIT 3", 0),
        ("d", "SHARED", 1),
        ("e", "LIMIT 9223372036854775807", 1),
        ("f", "", 0),
    ] {
        assert_eq!(acquire(&mut client, identifier, options), int(reply), "{options}");
    }
    assert_eq!(client.run(format!("ZCARD {KEY}")), int(5));
}

#[test]
fn a_holder_that_asks_again_with_an_option_gets_a_new_lease() {
    let server = Checked::start();
    let mut client = server.client();
    for (first, again) in [
        ("", "BLOCK 0"),
        ("", "FENCE"),
        ("FENCE", "BLOCK 100"),
        ("BLOCK 0", "FENCE BLOCK 0"),
        ("SHARED", "SHARED"),
        ("SHARED", "SHARED BLOCK 0"),
        // It is full for others, not for its holders.
        ("SHARED", "LIMIT 1"),
        ("LIMIT 1", "LIMIT 1 BLOCK 0"),
        ("LIMIT 1", "SHARED"),
    ] {
        held_by(&mut client, &[("me", first)]);
        for ttl in [2 * LONG, LONG / 2, LONG] {
            let command = format!("LOCK.ACQUIRE job me {ttl} {again}");
            let end = lease(&mut client, "me", ttl, &command);
            let of_key = client.run(format!("PEXPIRETIME {KEY}"));
            assert_eq!(of_key, int(end), "{first}, then {again}");
        }
        assert_eq!(client.lock_holders("job"), ["me"]);
    }
    // The bare form is the server's SET NX, for the holder too.
    for mode in ["", "SHARED"] {
        held_by(&mut client, &[("me", mode)]);
        changes_nothing(&mut client, "LOCK.ACQUIRE job me 1000", int(0));
    }
}

#[test]
fn a_holder_that_asks_for_another_mode_gets_an_error() {
    let server = Checked::start();
    let mut client = server.client();
    for (held, others) in [
        ("", &["SHARED", "LIMIT 1", "LIMIT 9 BLOCK 0", "SHARED BLOCK 0"][..]),
        ("SHARED", &["FENCE", "BLOCK 0", "FENCE BLOCK 0", "BLOCK 1"]),
        ("LIMIT 2", &["FENCE", "BLOCK 0"]),
    ] {
        held_by(&mut client, &[("me", held)]);
        for other in others {
            let call = format!("LOCK.ACQUIRE job me 1000 {other}");
            changes_nothing(&mut client, &call, error(OTHER_MODE));
        }
    }
    // An expired lease does not count as another mode.
    let server = without_active_expiry();
    let mut client = server.client();
    for (held, other) in [("SHARED", "FENCE"), ("BLOCK 0", "SHARED")] {
        let end = lease(&mut client, "me", 20, &format!("LOCK.ACQUIRE job me 20 {held}"));
        wait_past(&mut client, end);
        assert!(acquire(&mut client, "me", other).as_int() > 0, "{held}, then {other}");
        assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
    }
}

#[test]
fn a_plain_set_nx_lock_counts_as_exclusive() {
    let server = Checked::start();
    let mut client = server.client();
    for set in ["SET lock:{job} me NX PX 600000", "SET lock:{job} me"] {
        held_by(&mut client, &[]);
        assert_eq!(client.run(set), ok());
        for options in ["SHARED", "LIMIT 5", "FENCE", "BLOCK 1"] {
            let call = format!("LOCK.ACQUIRE job other 1000 {options}");
            changes_nothing(&mut client, &call, int(0));
        }
        assert!(token(&mut client, "me") > 1, "its own");
        assert_eq!(client.run("LOCK.EXTEND job me 1000 SHARED"), int(1));
    }
}

#[test]
fn a_key_of_a_foreign_type_is_wrongtype_in_every_mode() {
    let server = Checked::start();
    let mut client = server.client();
    for write in ["LPUSH lock:{job} a", "HSET lock:{job} a b", "XADD lock:{job} * a b"] {
        held_by(&mut client, &[]);
        assert!(!client.run(write).is_error());
        for call in [
            "LOCK.ACQUIRE job me 1000",
            "LOCK.ACQUIRE job me 1000 SHARED",
            "LOCK.ACQUIRE job me 1000 LIMIT 1 BLOCK 0",
            "LOCK.ACQUIRE job me 1000 FENCE BLOCK 0",
            "LOCK.EXTEND job me 1000 EXCLUSIVE",
            "LOCK.RELEASE job me",
            "LOCK.INFO job",
        ] {
            changes_nothing(&mut client, call, error(WRONG_TYPE));
        }
    }
}

// --- Fencing tokens

#[test]
fn tokens_increase_with_every_grant_and_are_stored() {
    let server = Checked::start();
    let mut client = server.client();
    let (mut last, begin) = (0, client.time_ms());
    for number in 0..50 {
        let me = format!("h{}", number % 3);
        // Granted, granted again to the holder, and granted to another identifier.
        for _ in 0..2 {
            let next = token(&mut client, &me);
            assert!(next > last && next >= begin * 1000 && next < END, "{next} after {last}");
            last = next;
            assert_eq!(client.run(format!("GET {FENCE}")), bulk(last.to_string()));
            assert_eq!(client.run(format!("GET {KEY}")), bulk(&me));
        }
        assert_eq!(acquire(&mut client, "other", "FENCE"), int(0));
        assert_eq!(client.run(format!("LOCK.RELEASE job {me}")), int(1));
    }
    // A request without FENCE uses no token.
    assert_eq!(acquire(&mut client, "me", "BLOCK 0"), int(1));
    assert_eq!(client.run(format!("GET {FENCE}")), bulk(last.to_string()));
    assert!(last <= client.time_ms() * 1000 + 1000, "by the clock");
}

#[test]
fn the_last_token_is_kept_for_a_day_or_as_configured() {
    let server = Checked::start();
    let mut client = server.client();
    for kept in [86_400_000, 5_000] {
        let before = client.time_ms();
        token_of_a_moment(&mut client);
        let after = client.time_ms();
        let end = client.run(format!("PEXPIRETIME {FENCE}")).as_int();
        assert!((before + kept..=after + kept).contains(&end), "{end}");
        assert_eq!(client.run("CONFIG SET corral.fence-ttl-ms 5000"), ok());
    }
}

#[test]
fn a_token_is_the_greater_of_the_last_one_plus_one_and_the_clock() {
    let server = Checked::start();
    let mut client = server.client();
    let ahead = (client.time_ms() + 3_600_000) * 1000;
    for last in [ahead, ahead + 1_000_000, END - 3] {
        assert_eq!(client.run(format!("SET {FENCE} {last}")), ok());
        assert_eq!(token_of_a_moment(&mut client), last + 1);
        assert_eq!(token_of_a_moment(&mut client), last + 2);
    }
    for last in [0, 1, -5, i64::MIN, client.time_ms() * 1000 - 3_600_000_000] {
        assert_eq!(client.run(format!("SET {FENCE} {last}")), ok());
        let begin = client.time_ms() * 1000;
        let next = token_of_a_moment(&mut client);
        assert!((begin..=client.time_ms() * 1000 + 1000).contains(&next), "{next}");
    }
}

#[test]
fn tokens_increase_though_the_last_one_is_deleted_in_the_same_millisecond() {
    let server = Checked::start();
    let mut client = server.client();
    let round = [
        "LOCK.ACQUIRE job me 1000 FENCE".to_owned(),
        "LOCK.RELEASE job me".to_owned(),
        format!("DEL {FENCE}"),
    ];
    let rounds: Vec<_> = round.iter().cycle().take(60).collect();
    let replies = client.pipeline(&rounds);
    let tokens: Vec<_> = replies.iter().step_by(3).map(Value::as_int).collect();
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn tokens_increase_across_a_restart_with_and_without_the_data() {
    for aof in [true, false] {
        let mut server = Checked::new(Server::builder().aof(aof).start());
        let last = token(&mut server.client(), "me");
        server.kill9();
        server.restart();
        let mut client = server.client();
        assert_eq!(client.run(format!("EXISTS {KEY} {FENCE}")), int(if aof { 2 } else { 0 }));
        client.run("LOCK.RELEASE job me");
        assert!(token(&mut client, "you") > last);
    }
}

#[test]
fn tokens_increase_across_a_failover_that_lost_the_last_grant() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut on_master, mut on_replica) = (master.client(), replica.client());
    // Ahead of the clock, so that only the record can be its source.
    let ahead = (on_master.time_ms() + 3_600_000) * 1000;
    assert_eq!(on_master.run(format!("SET fence:{{far}} {ahead}")), ok());
    assert_eq!(on_master.run("LOCK.ACQUIRE far me 600000 FENCE"), int(ahead + 1));
    let known = token_of_a_moment(&mut on_master);
    wait_in_sync(&master, &replica);
    assert_eq!(on_replica.run("REPLICAOF NO ONE"), ok());
    let lost = token(&mut on_master, "me");
    assert!(lost > known);

    assert_eq!(on_replica.run("LOCK.ACQUIRE far me 600000 FENCE"), int(ahead + 2));
    assert!(token(&mut on_replica, "you") > lost, "by the clock, which has moved on");
}

#[test]
fn an_invalid_last_token_is_an_error_of_fence() {
    let server = Checked::start();
    let mut client = server.client();
    let mut texts: Vec<String> =
        ["", "garbage", "1.5", " 1", "1 ", "+1", "007", "-0", "0x1", "1e3", "nan", "\0"]
            .map(Into::into)
            .into();
    texts.extend([END - 1, END, i64::MAX].map(|number| number.to_string()));
    texts.push("9223372036854775808".into());
    for text in &texts {
        for holder in [None, Some(("me", "")), Some(("other", ""))] {
            held_by(&mut client, holder.as_slice());
            assert_eq!(client.cmd(&["SET", FENCE, text]), ok());
            for options in ["FENCE", "FENCE BLOCK 1", "BLOCK 1 FENCE"] {
                let call = format!("LOCK.ACQUIRE job me 1000 {options}");
                // A request that is not granted needs no token.
                let reply = if holder == Some(("other", "")) { int(0) } else { error(BAD_FENCE) };
                changes_nothing(&mut client, &call, reply);
            }
        }
        held_by(&mut client, &[]);
        assert_eq!(client.cmd(&["SET", FENCE, text]), ok());
        assert_eq!(acquire(&mut client, "me", "BLOCK 1"), int(1), "no token was asked for");
    }
    for write in ["LPUSH fence:{job} 1", "ZADD fence:{job} 1 1", "HSET fence:{job} 1 1"] {
        held_by(&mut client, &[]);
        assert_eq!(client.run(write), int(1));
        changes_nothing(&mut client, "LOCK.ACQUIRE job me 1000 FENCE", error(WRONG_TYPE));
        assert_eq!(acquire(&mut client, "me", "SHARED"), int(1), "no token was asked for");
    }
    // The last possible token.
    held_by(&mut client, &[]);
    assert_eq!(client.run(format!("SET {FENCE} {}", END - 2)), ok());
    assert_eq!(token(&mut client, "me"), END - 1);
    changes_nothing(&mut client, "LOCK.ACQUIRE job me 1000 FENCE", error(BAD_FENCE));
    assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
}

#[test]
fn the_fence_key_is_derived_from_the_name_as_the_lock_key_is() {
    let server = Checked::start();
    let mut client = server.client();
    for (name, key) in [
        ("job", "fence:{job}"),
        ("a{b}c", "fence::a{b}c"),
        ("a}b", "fence:a}b"),
        ("{}", "fence:{}"),
    ] {
        let granted = client.run(format!("LOCK.ACQUIRE {name} me 1000 FENCE")).as_int();
        assert_eq!(client.cmd(&["GET", key]), bulk(granted.to_string()), "{name}");
    }
    assert_eq!(client.run("SELECT 3"), ok());
    assert_eq!(client.run("EXISTS fence:{job}"), int(0));
}

// --- Leases

#[test]
fn the_key_of_shared_holders_expires_with_the_latest_lease() {
    let server = Checked::start();
    let mut client = server.client();
    let mut leases: Vec<(&str, i64)> = Vec::new();
    for (command, identifier, ttl) in [
        ("LOCK.ACQUIRE job a 100000 SHARED", "a", 100_000),
        ("LOCK.ACQUIRE job b 300000 SHARED", "b", 300_000),
        ("LOCK.ACQUIRE job c 200000 LIMIT 5", "c", 200_000),
        ("LOCK.EXTEND job b 50000", "b", 50_000),
        ("LOCK.EXTEND job a 400000 SHARED", "a", 400_000),
        ("LOCK.ACQUIRE job a 90000 SHARED", "a", 90_000),
        ("LOCK.RELEASE job c", "c", 0),
        ("LOCK.ACQUIRE job c 500000 LIMIT 3 BLOCK 0", "c", 500_000),
        ("LOCK.RELEASE job c", "c", 0),
        ("LOCK.RELEASE job b", "b", 0),
        ("LOCK.EXTEND job a 70000 SHARED", "a", 70_000),
    ] {
        leases.retain(|(holder, _)| *holder != identifier);
        if ttl == 0 {
            assert_eq!(client.run(command), int(1));
        } else {
            leases.push((identifier, lease(&mut client, identifier, ttl, command)));
        }
        let stored = client.run(format!("ZRANGE {KEY} 0 -1"));
        leases.sort_by_key(|(_, end)| *end);
        assert_eq!(stored, array(leases.iter().map(|(holder, _)| *holder)), "{command}");
        let latest = leases.last().map(|(_, end)| *end).expect("it has a holder");
        assert_eq!(client.run(format!("PEXPIRETIME {KEY}")), int(latest), "{command}");
    }
    assert_eq!(client.run("LOCK.RELEASE job a"), int(1));
    assert_eq!(client.run(format!("EXISTS {KEY}")), int(0));
}

#[test]
fn shared_leases_expire_one_by_one_and_expired_ones_do_not_count() {
    let server = without_active_expiry();
    let mut client = server.client();
    let brief = lease(&mut client, "brief", 40, "LOCK.ACQUIRE job brief 40 LIMIT 3");
    let short = lease(&mut client, "short", 300, "LOCK.ACQUIRE job short 300 LIMIT 3");
    assert_eq!(acquire(&mut client, "long", "LIMIT 3"), int(1));

    wait_past(&mut client, brief);
    assert!(!client.lock_holders("job").contains(&"brief".into()));
    changes_nothing(&mut client, "LOCK.EXTEND job brief 1000", int(0));
    changes_nothing(&mut client, "LOCK.EXTEND job brief 1000 EXCLUSIVE", int(0));
    assert_eq!(client.run("LOCK.RELEASE job brief"), int(0));
    assert_eq!(acquire(&mut client, "next", "LIMIT 3"), int(1), "its place is free");
    assert_eq!(client.cmd(&["ZSCORE", KEY, "brief"]), nil(), "it goes with the next change");

    wait_past(&mut client, short);
    assert_eq!(acquire(&mut client, "other", "LIMIT 3"), int(1), "and so is the second");
    assert_eq!(acquire(&mut client, "more", "LIMIT 3"), int(0));
    assert_eq!(client.run("LOCK.RELEASE job short"), int(0));
    let mut holders = client.lock_holders("job");
    holders.sort();
    assert_eq!(holders, ["long", "next", "other"]);
}

#[test]
fn expired_leases_that_are_still_stored_exclude_nobody() {
    let server = Checked::start();
    let mut client = server.client();
    for options in ["", "SHARED", "LIMIT 1", "FENCE", "BLOCK 0"] {
        for made in [["ZADD", KEY, "1", "old"], ["ZADD", KEY, "1700000000000", "me"]] {
            held_by(&mut client, &[]);
            assert_eq!(client.cmd(&made), int(1));
            for call in ["LOCK.EXTEND job old 1000", "LOCK.EXTEND job me 1000 EXCLUSIVE"] {
                changes_nothing(&mut client, call, int(0));
            }
            let info = client.run("LOCK.INFO job");
            assert_eq!((info.get("mode"), info.get("holders").items()), (&bulk("free"), &[][..]));
            assert!(acquire(&mut client, "me", options).as_int() > 0, "{options}");
            assert_eq!(client.lock_holders("job"), ["me"]);
            let end = client.lease_end(KEY, "me");
            assert_eq!(client.run(format!("PEXPIRETIME {KEY}")), int(end), "{options}");
        }
    }
}

#[test]
fn a_lock_of_any_mode_expires() {
    let server = without_active_expiry();
    let mut client = server.client();
    for held in ["", "SHARED", "LIMIT 1", "FENCE"] {
        let shared = held == "SHARED" || held == "LIMIT 1";
        for next in ["", "SHARED", "LIMIT 1", "FENCE"] {
            if shared && next == "SHARED" {
                continue;
            }
            let end = lease(&mut client, "me", 10, &format!("LOCK.ACQUIRE job me 10 {held}"));
            let mut granted = 0;
            eventually(SOON, "the lease ends", || {
                granted = acquire(&mut client, "you", next).as_int();
                granted > 0
            });
            let begin = client.lease_end(KEY, "you") - LONG;
            // A key expires when the clock is past its end.
            assert!(begin > end, "{held}, then {next}: {} ms early", end - begin + 1);
            assert_eq!(client.run("LOCK.RELEASE job me"), int(0));
            assert_eq!(client.run("LOCK.RELEASE job you"), int(1));
        }
    }
}

// --- EXTEND and RELEASE

#[test]
fn extend_restarts_the_lease_and_can_change_the_mode() {
    let server = Checked::start();
    let mut client = server.client();
    for (held, to, kind) in [
        ("", "", "string"),
        ("", "EXCLUSIVE", "string"),
        ("", "SHARED", "zset"),
        ("FENCE", "SHARED", "zset"),
        ("SHARED", "", "zset"),
        ("SHARED", "SHARED", "zset"),
        ("SHARED", "EXCLUSIVE", "string"),
        ("LIMIT 1", "EXCLUSIVE", "string"),
    ] {
        held_by(&mut client, &[("me", held)]);
        for ttl in [2 * LONG, 1000] {
            let command = format!("LOCK.EXTEND job me {ttl} {to}");
            let end = lease(&mut client, "me", ttl, &command);
            assert_eq!(client.run(format!("PEXPIRETIME {KEY}")), int(end), "{held}, then {to}");
            assert_eq!(client.run(format!("TYPE {KEY}")), simple(kind), "{held}, then {to}");
        }
    }
}

#[test]
fn extend_of_a_lock_that_is_not_held_replies_0_and_changes_nothing() {
    let server = Checked::start();
    let mut client = server.client();
    for holders in [&[][..], &[("other", "")], &[("other", "SHARED"), ("third", "SHARED")]] {
        held_by(&mut client, holders);
        for to in ["", " SHARED", " EXCLUSIVE"] {
            changes_nothing(&mut client, &format!("LOCK.EXTEND job me 1000{to}"), int(0));
        }
        changes_nothing(&mut client, "LOCK.RELEASE job me", int(0));
    }
}

#[test]
fn only_a_sole_holder_can_upgrade() {
    let server = Checked::start();
    let mut client = server.client();
    held_by(&mut client, &[("a", "SHARED"), ("b", "SHARED")]);
    let upgrade = "LOCK.EXTEND job a 1000 EXCLUSIVE";
    changes_nothing(&mut client, upgrade, int(0));
    assert_eq!(client.run("LOCK.RELEASE job b"), int(1));
    assert_eq!(client.run(upgrade), int(1));
    assert_eq!(acquire(&mut client, "b", "SHARED"), int(0));
    changes_nothing(&mut client, "LOCK.EXTEND job b 1000 EXCLUSIVE", int(0));
    assert_eq!(client.run("LOCK.EXTEND job a 1000 SHARED"), int(1));
    assert_eq!(acquire(&mut client, "b", "SHARED"), int(1));
    changes_nothing(&mut client, upgrade, int(0));

    // A holder whose lease has expired does not count.
    held_by(&mut client, &[("a", "SHARED")]);
    let end = lease(&mut client, "b", 20, "LOCK.ACQUIRE job b 20 SHARED");
    wait_past(&mut client, end);
    assert_eq!(client.run(upgrade), int(1));
    assert_eq!(client.run(format!("GET {KEY}")), bulk("a"));
}

#[test]
fn release_removes_its_holder_and_no_other() {
    let server = Checked::start();
    let mut client = server.client();
    for holders in [
        &[("a", "")][..],
        &[("a", "FENCE")],
        &[("a", "SHARED")],
        &[("a", "LIMIT 1")],
        &[("a", "SHARED"), ("b", "LIMIT 2"), ("c", "SHARED")],
    ] {
        held_by(&mut client, holders);
        for (done, (holder, _)) in holders.iter().enumerate() {
            assert_eq!(client.run(format!("LOCK.RELEASE job {holder}")), int(1));
            changes_nothing(&mut client, &format!("LOCK.RELEASE job {holder}"), int(0));
            let left: Vec<_> = holders[done + 1..].iter().map(|(holder, _)| *holder).collect();
            assert_eq!(client.lock_holders("job"), left);
        }
        assert_eq!(client.run(format!("EXISTS {KEY}")), int(0));
    }
}

#[test]
fn when_memory_is_full_holders_can_extend_and_release() {
    let server = Checked::start();
    let mut client = server.client();
    for (held, to) in [("", "SHARED"), ("SHARED", "EXCLUSIVE"), ("LIMIT 1", ""), ("FENCE", "")] {
        held_by(&mut client, &[("me", held)]);
        assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
        for options in ["", "SHARED", "LIMIT 9", "FENCE", "BLOCK 0"] {
            assert!(acquire(&mut client, "you", options).is_error_with("OOM "), "{options}");
        }
        assert_eq!(client.run(format!("LOCK.EXTEND job me 1000 {to}")), int(1), "{held}");
        assert_eq!(client.lock_holders("job"), ["me"]);
        assert_eq!(client.run("LOCK.RELEASE job me"), int(1), "{held}");
        assert_eq!(client.run("LOCK.RELEASE job you"), int(0));
        assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    }
}

// --- LOCK.INFO and counters

/// The fields of LOCK.INFO, in order.
const FIELDS: [&str; 13] = [
    "mode",
    "holders",
    "fence",
    "waiters",
    "oldest_wait_ms",
    "acquired",
    "contended",
    "timeouts",
    "expired",
    "wait_ms_sum",
    "wait_ms_max",
    "hold_ms_sum",
    "hold_ms_max",
];

/// LOCK.INFO in the protocol of the client, checked for its form: the fields in order.
#[track_caller]
fn lock_info(client: &mut Client, resp3: bool) -> Vec<(String, Value)> {
    let reply = client.run("LOCK.INFO job");
    let pairs: Vec<_> = match reply {
        Value::Map(pairs) if resp3 => pairs,
        Value::Array(flat) if !resp3 => {
            flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        }
        other => panic!("{other:?}"),
    };
    let named: Vec<_> = pairs
        .into_iter()
        .map(|(name, value)| match name {
            Value::Bulk(name) => (String::from_utf8(name).expect("text"), value),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), FIELDS);
    named
}

#[test]
fn info_shows_the_holders_in_both_protocols() {
    let server = Checked::start();
    for (resp3, mut client) in [(false, server.client()), (true, server.client3())] {
        let no_token = if resp3 { null() } else { nil() };
        let never = format!("PERSIST {KEY}");
        for (prepare, mode, holders, fenced) in [
            (&[][..], "free", &[][..], false),
            (&["LOCK.ACQUIRE job a 5000000"], "exclusive", &[("a", 5_000_000)], false),
            (&["LOCK.ACQUIRE job a 5000000 FENCE"], "exclusive", &[("a", 5_000_000)], true),
            (&["LOCK.ACQUIRE job a 70000", &never], "exclusive", &[("a", -1)], false),
            (
                &["LOCK.ACQUIRE job a 900000 SHARED", "LOCK.ACQUIRE job b 800000 LIMIT 2"],
                "shared",
                &[("b", 800_000), ("a", 900_000)],
                false,
            ),
            (&["LOCK.ACQUIRE job a 70000 FENCE", "LOCK.RELEASE job a"], "free", &[], true),
        ] {
            held_by(&mut client, &[]);
            let begin = client.time_ms();
            for command in prepare {
                assert!(client.run(command).as_int() > 0, "{command}");
            }
            let info = lock_info(&mut client, resp3);
            let passed = client.time_ms() - begin;
            assert_eq!(info[0].1, bulk(mode));
            let found = info[1].1.items();
            assert_eq!(found.len(), holders.len(), "{found:?}");
            for (found, (identifier, ttl)) in found.iter().zip(holders) {
                assert_eq!(found.items()[0], bulk(identifier));
                let left = found.items()[1].as_int();
                let expected = if *ttl < 0 { -1..=-1 } else { ttl - passed..=*ttl };
                assert!(expected.contains(&left), "{left} of {ttl} after {passed}");
            }
            if fenced {
                let token = info[2].1.as_int().to_string();
                assert_eq!(client.run(format!("GET {FENCE}")), bulk(token));
            } else {
                assert_eq!(info[2].1, no_token);
            }
            assert_eq!((&info[3].1, &info[4].1), (&int(0), &int(0)), "nobody waits");
            assert!(info[5..].iter().all(|(_, count)| matches!(count, Value::Int(0..))));
        }
    }
}

#[test]
fn info_lists_the_128_shared_holders_whose_leases_expire_first() {
    let server = Checked::start();
    let mut client = server.client();
    for number in 0..200 {
        let ttl = LONG + number * 1000;
        let call = format!("LOCK.ACQUIRE job r{number} {ttl} SHARED");
        assert_eq!(client.run(call), int(1));
    }
    let first: Vec<_> = (0..128).map(|number| format!("r{number}")).collect();
    assert_eq!(client.lock_holders("job"), first);
}

#[test]
fn info_works_on_replicas_and_changes_nothing() {
    let master = Checked::start();
    let mut client = master.client();
    held_by(&mut client, &[("me", "FENCE")]);
    let before = Keyspace::of(&mut client);
    lock_info(&mut client, false);
    assert_eq!(Keyspace::of(&mut client), before);
    let script = "return redis.call('LOCK.INFO', KEYS[1])[2]";
    assert_eq!(client.cmd(&["EVAL_RO", script, "1", "job"]), bulk("exclusive"));

    let replica = Checked::new(Server::builder().replica_of(&master).start());
    assert_eq!(replica.client().lock_holders("job"), ["me"]);
}

#[test]
fn everything_that_happens_to_a_lock_is_counted() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiter = server.client();

    let first = client.time_ms();
    assert_eq!(client.run("LOCK.ACQUIRE job a 600000"), int(1));
    assert_eq!(client.run("LOCK.ACQUIRE job b 600000"), int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job b 600000 SHARED"), int(0));
    assert_eq!(client.run("LOCK.ACQUIRE job b 600000 BLOCK 30"), int(0));
    assert_eq!(client.run("LOCK.EXTEND job b 600000"), int(0));
    assert_eq!(client.run("LOCK.RELEASE job b"), int(0));
    send_and_wait(&mut client, "lock", &mut waiter, "LOCK.ACQUIRE job c 600000 BLOCK 0");
    let waits_since = client.time_ms();
    wait_past(&mut client, waits_since + 30);
    let info = client.run("LOCK.INFO job");
    assert_eq!(info.get("waiters"), &int(1));
    let oldest = info.get("oldest_wait_ms").as_int();
    assert!((30..=client.time_ms() - first).contains(&oldest), "{oldest}");
    assert_eq!(client.run("LOCK.RELEASE job a"), int(1));
    let second = client.time_ms();
    assert_eq!(waiter.read(), int(1));
    // A lease that expires unreleased.
    let end = lease(&mut client, "c", 20, "LOCK.EXTEND job c 20");
    wait_past(&mut client, end);
    assert_eq!(client.run("LOCK.ACQUIRE job d 600000 BLOCK 0"), int(1));
    assert_eq!(client.run("LOCK.ACQUIRE job d 600000 BLOCK 0"), int(1));
    assert_eq!(client.run("LOCK.RELEASE job d"), int(1));
    let last = client.time_ms();

    let info = lock_info(&mut client, false);
    let count = |name: &str| {
        let field = info.iter().find(|(field, _)| field == name);
        field.expect("a field").1.as_int()
    };
    let counts = ["acquired", "contended", "timeouts", "expired"].map(count);
    assert_eq!(counts, [4, 4, 1, 1]);
    let waited = count("wait_ms_sum");
    assert!((30..=second - first).contains(&waited), "{waited}");
    assert_eq!(count("wait_ms_max"), waited);
    let (sum, max) = (count("hold_ms_sum"), count("hold_ms_max"));
    assert!(sum >= max && max >= 30 && sum <= last - first, "{sum} {max}");

    for (name, value) in [
        ("acquired", 4),
        ("contended", 4),
        ("waits", 2),
        ("wait_timeouts", 1),
        ("released", 2),
        ("expired", 1),
        ("handoffs", 1),
        ("wait_ms_sum", waited),
        ("hold_ms_sum", sum),
        ("waiters", 0),
    ] {
        let field = client.info("corral", &format!("corral_lock_{name}"));
        assert_eq!(field, Some(value.to_string()), "{name}");
    }
}

#[test]
fn each_lock_has_its_own_counters_and_the_most_recent_locks_are_kept() {
    let server = Checked::start();
    let mut client = server.client();
    let acquired = |client: &mut Client, name: &str| {
        client.run(format!("LOCK.INFO {name}")).get("acquired").as_int()
    };
    for (db, count) in [(0, 1), (5, 3)] {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        for _ in 0..count {
            assert_eq!(acquire(&mut client, "me", "BLOCK 0"), int(1));
        }
    }
    assert_eq!((acquired(&mut client, "job"), acquired(&mut client, "other")), (3, 0));
    assert_eq!(client.run("SELECT 0"), ok());
    assert_eq!(acquired(&mut client, "job"), 1);
    // The counters of some thousands of locks are kept.
    let many: Vec<_> = (0..30_000).map(|n| format!("LOCK.ACQUIRE l{n} me {LONG}")).collect();
    for some in many.chunks(1000) {
        assert_eq!(client.pipeline(some), vec![int(1); some.len()]);
    }
    assert_eq!(acquired(&mut client, "job"), 0, "its counters are dropped");
    assert_eq!(acquired(&mut client, "l29999"), 1);
    assert_eq!(acquire(&mut client, "you", ""), int(0), "and it is held");
}

// --- Replication and crashes

/// What the commands propagated since the last call.
#[track_caller]
fn effects(tap: &mut ReplicationTap) -> Vec<String> {
    tap.commands().iter().map(Command::text).collect()
}

/// One command, or several as one transaction.
fn step<const N: usize>(commands: [String; N]) -> Vec<String> {
    if N < 2 {
        return commands.into();
    }
    ["MULTI".to_owned()].into_iter().chain(commands).chain(["EXEC".to_owned()]).collect()
}

#[test]
fn exclusive_grants_are_propagated_as_plain_keys_with_absolute_times() {
    let server = Checked::start();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    for options in ["", "BLOCK 0", "BLOCK 0"] {
        let end = lease(&mut client, "me", 9000, &format!("LOCK.ACQUIRE job me 9000 {options}"));
        assert_eq!(effects(&mut tap), [format!("SET {KEY} me PXAT {end}")], "{options}");
    }
    for to in ["", "EXCLUSIVE"] {
        let end = lease(&mut client, "me", 8000, &format!("LOCK.EXTEND job me 8000 {to}"));
        assert_eq!(effects(&mut tap), [format!("PEXPIREAT {KEY} {end}")]);
    }
    for _ in 0..2 {
        let token = token(&mut client, "me");
        let end = client.lease_end(KEY, "me");
        let kept = client.run(format!("PEXPIRETIME {FENCE}")).as_int();
        let lock = format!("SET {KEY} me PXAT {end}");
        let fence = format!("SET {FENCE} {token} PXAT {kept}");
        assert_eq!(effects(&mut tap), step([fence, lock]));
    }
    let end = lease(&mut client, "me", 7000, "LOCK.EXTEND job me 7000 SHARED");
    let zadd = format!("ZADD {KEY} {end} me");
    assert_eq!(
        effects(&mut tap),
        step([format!("DEL {KEY}"), zadd, format!("PEXPIREAT {KEY} {end}")])
    );
    let end = lease(&mut client, "me", 6000, "LOCK.EXTEND job me 6000 EXCLUSIVE");
    assert_eq!(effects(&mut tap), [format!("SET {KEY} me PXAT {end}")]);
    assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(effects(&mut tap), [format!("DEL {KEY}")]);
}

#[test]
fn shared_grants_are_propagated_as_members_and_the_latest_end() {
    let server = without_active_expiry();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    let zadd = |end: i64, who: &str| format!("ZADD {KEY} {end} {who}");
    let ends = |end: i64| format!("PEXPIREAT {KEY} {end}");

    let a = lease(&mut client, "a", 500_000, "LOCK.ACQUIRE job a 500000 SHARED");
    assert_eq!(effects(&mut tap), step([zadd(a, "a"), ends(a)]));
    let b = lease(&mut client, "b", 100_000, "LOCK.ACQUIRE job b 100000 LIMIT 2 BLOCK 0");
    assert_eq!(effects(&mut tap), [zadd(b, "b")], "the latest end is the same");
    let b = lease(&mut client, "b", 900_000, "LOCK.EXTEND job b 900000 SHARED");
    assert_eq!(effects(&mut tap), step([zadd(b, "b"), ends(b)]));
    assert_eq!(client.run("LOCK.RELEASE job b"), int(1));
    assert_eq!(effects(&mut tap), step([format!("ZREM {KEY} b"), ends(a)]));
    let b = lease(&mut client, "b", 20, "LOCK.ACQUIRE job b 20 SHARED");
    assert_eq!(effects(&mut tap), [zadd(b, "b")]);
    wait_past(&mut client, b);
    let c = lease(&mut client, "c", 100_000, "LOCK.ACQUIRE job c 100000 SHARED");
    let all = effects(&mut tap);
    assert_eq!(all, step([format!("ZREM {KEY} b"), zadd(c, "c")]));
    assert_eq!(client.run("LOCK.RELEASE job c"), int(1));
    assert_eq!(effects(&mut tap), [format!("ZREM {KEY} c")]);
    assert_eq!(client.run("LOCK.RELEASE job a"), int(1));
    assert_eq!(effects(&mut tap), [format!("ZREM {KEY} a")]);
}

/// Thousands of holders can let their leases expire, and no single call removes them all.
#[test]
fn each_change_removes_some_of_the_expired_leases() {
    const ENDED: i64 = 5000;
    let server = Checked::start();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    let fill = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], i, i) end";
    let far = client.time_ms() + 600_000;
    client.cmd(&["EVAL", fill, "1", KEY, &ENDED.to_string()]);
    assert_eq!(client.run(format!("ZADD {KEY} {far} other")), int(1));
    for (number, options) in ["SHARED", "LIMIT 9", "SHARED BLOCK 0"].iter().enumerate() {
        let before = client.run(format!("ZCARD {KEY}")).as_int();
        assert_eq!(client.run(format!("LOCK.ACQUIRE job h{number} 60000 {options}")), int(1));
        let after = client.run(format!("ZCARD {KEY}")).as_int();
        assert!((1..=200).contains(&(before - after)), "{before} to {after}");
    }
    // The rest is unlinked when no holder is left, or when an exclusive request is granted.
    for holder in ["other", "h0", "h1", "h2"] {
        assert_eq!(client.run(format!("LOCK.RELEASE job {holder}")), int(1));
    }
    let written = effects(&mut tap);
    assert!(written.contains(&format!("UNLINK {KEY}")), "{:?}", written.last());
    assert_eq!(client.run(format!("EXISTS {KEY}")), int(0));
    client.cmd(&["EVAL", fill, "1", KEY, &ENDED.to_string()]);
    effects(&mut tap);
    assert_eq!(client.run("LOCK.ACQUIRE job me 60000"), int(1));
    let end = client.lease_end(KEY, "me");
    let written = [format!("UNLINK {KEY}"), format!("SET {KEY} me PXAT {end}")];
    assert_eq!(effects(&mut tap), step(written));
}

#[test]
fn a_request_that_is_not_granted_propagates_nothing() {
    let server = Checked::start();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    held_by(&mut client, &[("a", "SHARED"), ("b", "SHARED")]);
    assert_eq!(client.run("SET fence:{bad} garbage"), ok());
    effects(&mut tap);
    for (command, reply) in [
        ("LOCK.ACQUIRE job me 1000", int(0)),
        ("LOCK.ACQUIRE job me 1000 LIMIT 2", int(0)),
        ("LOCK.ACQUIRE job me 1000 FENCE BLOCK 5", int(0)),
        ("LOCK.ACQUIRE job a 1000 BLOCK 0", error(OTHER_MODE)),
        ("LOCK.ACQUIRE bad me 1000 FENCE", error(BAD_FENCE)),
        ("LOCK.EXTEND job a 1000 EXCLUSIVE", int(0)),
        ("LOCK.EXTEND job me 1000", int(0)),
        ("LOCK.RELEASE job me", int(0)),
    ] {
        assert_eq!(client.run(command), reply, "{command}");
        assert_eq!(effects(&mut tap), [""; 0], "{command}");
    }
    client.run("LOCK.INFO job");
    assert_eq!(effects(&mut tap), [""; 0]);
}

#[test]
fn a_release_and_the_hand_over_are_one_transaction() {
    let server = Checked::start();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    held_by(&mut client, &[("me", "")]);
    let mut writers = [waiter(&server, "w1", ""), waiter(&server, "w2", "FENCE")];
    let mut readers = [waiter(&server, "r1", "SHARED"), waiter(&server, "r2", "LIMIT 2")];
    let mut last = waiter(&server, "w3", "");
    effects(&mut tap);

    assert_eq!(client.run("LOCK.RELEASE job me"), int(1));
    let end = client.lease_end(KEY, "w1");
    let free = format!("DEL {KEY}");
    assert_eq!(effects(&mut tap), step([free.clone(), format!("SET {KEY} w1 PXAT {end}")]));

    assert_eq!(client.run("LOCK.RELEASE job w1"), int(1));
    assert_eq!(writers[0].read(), int(1));
    let token = writers[1].read().as_int();
    let end = client.lease_end(KEY, "w2");
    let kept = client.run(format!("PEXPIRETIME {FENCE}")).as_int();
    let lock = format!("SET {KEY} w2 PXAT {end}");
    let fence = format!("SET {FENCE} {token} PXAT {kept}");
    assert_eq!(effects(&mut tap), step([free.clone(), fence, lock]));

    assert_eq!(client.run("LOCK.RELEASE job w2"), int(1));
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(), int(1)));
    let [r1, r2] = ["r1", "r2"].map(|reader| client.lease_end(KEY, reader));
    let zadd = |end: i64, who: &str| format!("ZADD {KEY} {end} {who}");
    let ends = |end: i64| format!("PEXPIREAT {KEY} {end}");
    let mut expected = vec![free, zadd(r1, "r1"), ends(r1), zadd(r2, "r2")];
    // Both leases start in the same millisecond, or nearly.
    if r2 != r1 {
        expected.push(ends(r2));
    }
    let all = effects(&mut tap);
    assert_eq!(all[1..all.len() - 1], expected);
    assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), ("MULTI", "EXEC"));

    assert_eq!(client.run("LOCK.RELEASE job r1"), int(1));
    assert_eq!(effects(&mut tap)[..1], [format!("ZREM {KEY} r1")]);
    assert_eq!(client.run("LOCK.RELEASE job r2"), int(1));
    assert_eq!(last.read(), int(1));
    let end = client.lease_end(KEY, "w3");
    let hand_over = [format!("ZREM {KEY} r2"), format!("SET {KEY} w3 PXAT {end}")];
    assert_eq!(effects(&mut tap), step(hand_over));
}

#[test]
fn a_hand_over_by_the_timer_deletes_the_expired_lock_and_writes_the_next_one() {
    let server = without_active_expiry();
    let (mut client, mut tap) = (server.client(), server.replication_tap());
    held_by(&mut client, &[("me", "")]);
    let mut next = waiter(&server, "you", "");
    effects(&mut tap);
    let end = lease(&mut client, "me", 60, "LOCK.EXTEND job me 60");
    assert_eq!(next.read(), int(1));
    let begin = client.lease_end(KEY, "you");
    let mut all = effects(&mut tap);
    all.retain(|effect| effect != "MULTI" && effect != "EXEC");
    // The server's settings for lazy freeing decide between the two.
    let deleted = ["DEL", "UNLINK"].map(|command| format!("{command} {KEY}"));
    assert!(deleted.contains(&all[1]), "{all:?}");
    assert_eq!(all[0], format!("PEXPIREAT {KEY} {end}"));
    assert_eq!(all[2..], [format!("SET {KEY} you PXAT {begin}")]);
}

#[test]
fn after_a_crash_locks_of_every_mode_are_as_they_were() {
    let mut server = Checked::new(Server::builder().aof(true).start());
    let mut client = server.client();
    for command in [
        "LOCK.ACQUIRE alone a 600000 FENCE",
        "LOCK.EXTEND alone a 700000",
        "LOCK.ACQUIRE many a 600000 SHARED",
        "LOCK.ACQUIRE many b 900000 LIMIT 2",
        "LOCK.ACQUIRE down a 600000",
        "LOCK.EXTEND down a 600000 SHARED",
        "LOCK.ACQUIRE up a 600000 SHARED",
        "LOCK.EXTEND up a 600000 EXCLUSIVE",
        "LOCK.ACQUIRE gone a 600000 SHARED",
        "LOCK.RELEASE gone a",
    ] {
        assert!(client.run(command).as_int() > 0, "{command}");
    }
    // Handed over just before the crash.
    held_by_also(&mut client, "next");
    let mut heir = server.client();
    send_and_wait(&mut client, "lock", &mut heir, "LOCK.ACQUIRE next heir 600000 FENCE BLOCK 0");
    assert_eq!(client.run("LOCK.RELEASE next me"), int(1));
    let token = heir.read().as_int();
    let before = everything(&mut client);
    for command in aof_commands(&server) {
        assert!(!command.name().contains('.'), "{command}");
    }

    server.kill9();
    server.restart_without_module();
    assert_eq!(everything(&mut server.client()), before, "readable without the module");
    server.kill9();
    server.restart();
    let mut client = server.client();
    assert_eq!(everything(&mut client), before);
    for (command, reply) in [
        ("LOCK.RELEASE alone a", 1),
        ("LOCK.ACQUIRE many c 600000 LIMIT 2", 0),
        ("LOCK.RELEASE many b", 1),
        ("LOCK.ACQUIRE many c 600000 LIMIT 2", 1),
        ("LOCK.ACQUIRE down b 600000 SHARED", 1),
        ("LOCK.ACQUIRE up b 600000 SHARED", 0),
        ("LOCK.ACQUIRE gone b 600000", 1),
        ("LOCK.ACQUIRE next other 600000", 0),
        ("LOCK.EXTEND next heir 600000", 1),
    ] {
        assert_eq!(client.run(command), int(reply), "{command}");
    }
    assert!(client.run("LOCK.ACQUIRE next heir 600000 FENCE").as_int() > token);
}

/// Takes another lock.
#[track_caller]
fn held_by_also(client: &mut Client, name: &str) {
    assert_eq!(client.run(format!("LOCK.ACQUIRE {name} me {LONG}")), int(1));
}

/// Every key with its value and expiry time.
#[track_caller]
fn everything(client: &mut Client) -> Vec<(Value, Value, Value)> {
    let mut keys = client.run("KEYS *").items().to_vec();
    keys.sort_by(|one, other| one.bytes().cmp(other.bytes()));
    let mut about = |key: &Value| {
        let value = match client.cmd(&args!["TYPE", key.bytes()]).as_str() {
            "zset" => client.cmd(&args!["ZRANGE", key.bytes(), 0, -1, "WITHSCORES"]),
            _ => client.cmd(&args!["GET", key.bytes()]),
        };
        (key.clone(), value, client.cmd(&args!["PEXPIRETIME", key.bytes()]))
    };
    keys.iter().map(&mut about).collect()
}
