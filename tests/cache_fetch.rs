//! What CACHE.FETCH and CACHE.MGET reply in every state, what CACHE.INFO and the totals tell, and
//! what the server sees of a read: its statistics, client-side caching, COMMAND DOCS. Values, names
//! and reasons are binary-safe.

mod support;
use support::cached::*;
use support::*;

// ---------------------------------------------------------------------------------------------
// Replies
// ---------------------------------------------------------------------------------------------

#[test]
fn fetch_tells_the_state_in_both_protocols() {
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
        // Stale for requests that say so.
        let reply = three.run("CACHE.FETCH k 60000 STALE 300001");
        let token = token_beside(&reply, &v());
        is("k 60000 STALE 300001", "STALE", v());
        is("k 60000 STALE 300001 BLOCK 0", "STALE", v());
        is("k 60000", "HIT", v());
        // Backing off, with a value and without one.
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
        // A value without a time to live, from a plain client.
        run("SET plain 17".into(), ok());
        is("plain 60000 STALE 300000", "HIT", bulk("17"));

        // LOAD, with and without an old value.
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
fn values_of_any_bytes_and_length_are_returned() {
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
fn names_are_binary_safe() {
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
fn a_reason_is_binary_safe_and_cut_after_1024_bytes() {
    let server = Checked::start();
    let mut client = server.client();
    let huge = b"\0\xff\r\n -ERR ".repeat(100_000);
    for reason in [&b""[..], b"\r\n+OK\r\n", b"\0", b"\xff\xfe", b" a  b ", &[b'r'; 1024], &huge] {
        let token = load(&mut client, "k 60000");
        let fail = args!["CACHE.FAIL", "k", token, "REASON", reason, "BACKOFF", 60_000];
        assert_eq!(client.cmd(&fail), int(1));
        let kept = &reason[..reason.len().min(1024)];
        assert_eq!(client.run("CACHE.FETCH k 60000"), failed(kept));
        // A waiting client gets the same.
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
        changes_nothing(&mut client, "CACHE.FETCH k 60000", hit("v"));
    }

    // Nothing is left behind when a load ends in another way.
    for end in ["CACHE.FAIL cold {}", "CACHE.SET cold v 1 TOKEN {}", "CACHE.INVALIDATE cold"] {
        let token = load(&mut client, "cold 60000");
        client.run(end.replace("{}", &token.to_string()));
        assert_eq!(client.run("EXISTS cachelock:{cold}"), int(0), "{end}");
        eventually(SOON, "the value is gone", || client.run("EXISTS cold") == int(0));
    }
    load(&mut client, "cold 1");
    eventually(SOON, "the lease expires", || client.run("KEYS *") == array(["k"]));
}

#[test]
fn transactions_and_scripts_do_not_wait() {
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

    // A store in a transaction answers waiting clients.
    let mut waiters = in_line::<2>(&server, "other 60000");
    let replies =
        in_transaction(&mut client, &["CACHE.SET other v 300000", "CACHE.INVALIDATE other"]);
    assert_eq!(replies, [ok(), int(1)]);
    all_read(&mut waiters, &hit("v"));
}

#[test]
fn mget_returns_strings_and_nil_for_everything_else() {
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
    changes_nothing(&mut client, mget, with(nil()));
    assert_eq!(server.client3().run(mget), with(null()));
    assert_eq!(total(&mut client, "hits"), hits + 6);
    assert_eq!(total(&mut client, "misses"), misses + 8);
    assert!(client.run("CACHE.MGET").is_error_with("ERR wrong number of arguments"));
}

#[test]
fn nx_keeps_an_existing_value_and_jitter_shortens_the_time_to_live() {
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CACHE.SET k v 300000 NX"), ok());
    changes_nothing(&mut client, "CACHE.SET k other 300000 NX", nil());
    // NX ends a lease like any store, unless there is a value.
    let token = load(&mut client, "cold 60000");
    assert_eq!(client.run("CACHE.SET cold v 300000 NX"), ok());
    assert_eq!(client.run(format!("CACHE.EXTEND cold {token} 1000")), int(0));
    let token = refreshing(&mut client, "k", "old");
    changes_nothing(&mut client, &format!("CACHE.SET k n 300000 NX TOKEN {token}"), nil());
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
    assert!(last - first > 50_000, "{ends:?}");
    assert!((0..60).map(|_| ttl_with(100)).any(|ttl| ttl < 800_000));
    assert_eq!(client.run("CACHE.SET j v 1 JITTER 100"), ok());
}

#[test]
fn invalidate_removes_the_value_or_keeps_it_for_a_while() {
    let server = Checked::start();
    let mut client = server.client();
    for command in ["CACHE.INVALIDATE k", "CACHE.INVALIDATE k STALE 1000"] {
        changes_nothing(&mut client, command, int(0));
        load(&mut client, "k 60000");
        assert_eq!(client.run(command), int(1), "there was a lease");
        assert_eq!(client.run("DBSIZE"), int(0));
    }
    assert_eq!(client.run("SET k v"), ok());
    assert_eq!(client.run("CACHE.INVALIDATE k"), int(1));
    assert_eq!(client.run("DBSIZE"), int(0));

    // At most that long, and never longer than its time to live.
    for (ttl, stale, most) in [("", 60_000, 60_000), (" PX 50000", 60_000, 50_000)] {
        assert_eq!(client.run(format!("SET k v{ttl}")), ok());
        assert_eq!(client.run(format!("CACHE.INVALIDATE k STALE {stale}")), int(1));
        let left = client.run("PTTL k").as_int();
        assert!((most - 40_000..=most).contains(&left), "{left}");
        assert_eq!(client.run("CACHE.GET k"), bulk("v"));
    }
    assert_eq!(client.run("CACHE.INVALIDATE k STALE 20"), int(1));
    eventually(SOON, "value and record expire", || client.run("DBSIZE") == int(0));
}

#[test]
fn each_database_has_its_own_values_and_leases() {
    let server = Checked::start();
    let mut one = server.client();
    let mut zero = server.client();
    assert_eq!(one.run("SELECT 1"), ok());
    let (in_zero, in_one) = (load(&mut zero, "k 60000"), load(&mut one, "k 60000"));
    let mut waiter = server.client();
    assert_eq!(waiter.run("SELECT 1"), ok());
    send_and_wait(&mut zero, "cache", &mut waiter, "CACHE.FETCH k 60000 BLOCK 0");
    changes_nothing(&mut one, &format!("CACHE.SET k v 9 TOKEN {in_zero}"), nil());
    // The timer serves the right database.
    assert_eq!(one.run(format!("CACHE.EXTEND k {in_one} 300")), int(1));
    let token = token_in(&waiter.read());
    assert!(token > in_one);
    assert_eq!(zero.run(format!("CACHE.SET k zero 300000 TOKEN {in_zero}")), ok());
    send_and_wait(&mut zero, "cache", &mut waiter, "CACHE.FETCH k 60000 BLOCK 0");
    assert_eq!(one.run(format!("CACHE.SET k one 300000 TOKEN {token}")), ok());
    assert_eq!(waiter.read(), hit("one"));
    assert_eq!(zero.run("CACHE.FETCH k 1000"), hit("zero"));
}

// ---------------------------------------------------------------------------------------------
// Information
// ---------------------------------------------------------------------------------------------

#[test]
fn info_describes_the_value_its_loader_and_its_waiters() {
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
fn the_totals_count_every_event() {
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
    wait_until_gone(&mut client, "cachelock:{slow}");
    load(&mut client, "slow 60000");

    let mut counts = all(&mut client);
    assert!(counts[12] < 60_000, "{counts:?}");
    counts[12] = 0;
    //         hit miss stale load fill refused wait coalesced handoff timeout expired failure
    assert_eq!(counts, [1, 8, 1, 5, 2, 1, 3, 1, 1, 1, 1, 1, 0]);
}

/// Makes values of every encoding in memory: a number, short ones and long ones.
fn values(client: &mut Client) -> Vec<String> {
    let lengths = [1, 44, 45, 128, 129, 100_000];
    assert_eq!(client.run("SET number 12345"), ok());
    for length in lengths {
        assert_eq!(client.cmd(&args!["SET", format!("v{length}"), vec![b'x'; length]]), ok());
    }
    lengths.iter().map(|length| format!("v{length}")).chain(["number".into()]).collect()
}

#[test]
fn fetch_registers_no_key_for_client_side_caching() {
    let server = Checked::start();
    let (mut tracker, mut client) = (server.client3(), server.client());
    let keys = values(&mut client);
    assert_eq!(client.run("CACHE.SET refreshed v 300000"), ok());
    assert_eq!(tracker.run("CLIENT TRACKING ON"), ok());
    for key in &keys {
        assert_eq!(tracker.run(format!("CACHE.FETCH {key} 60000")).items()[0], simple("HIT"));
    }
    for args in
        ["refreshed 60000 STALE 600000", "refreshed 60000 STALE 600000", "cold 60000", "cold 60000"]
    {
        tracker.run(format!("CACHE.FETCH {args}"));
    }
    let tracked = client.info("stats", "tracking_total_keys");
    assert_eq!(tracked.as_deref(), Some("0"));
    // CACHE.GET does, like GET.
    for (nth, key) in (1..).zip(&keys) {
        tracker.run(format!("CACHE.GET {key}"));
        let tracked = client.info("stats", "tracking_total_keys").expect("a number");
        assert_eq!(tracked, nth.to_string(), "{key}");
    }
}

#[test]
fn fetch_is_one_keyspace_hit_or_miss() {
    let server = Checked::start();
    let mut client = server.client();
    let keys = values(&mut client);
    assert_eq!(client.run("CACHE.SET refreshed v 300000"), ok());
    let mut counted = |call: &str| {
        let counts = |client: &mut Client| {
            ["keyspace_hits", "keyspace_misses"].map(|name| {
                let count = client.info("stats", name).expect("a number");
                count.parse::<i64>().expect("a number")
            })
        };
        let before = counts(&mut client);
        client.run(call);
        let after = counts(&mut client);
        [after[0] - before[0], after[1] - before[1]]
    };
    for key in &keys {
        assert_eq!(counted(&format!("CACHE.FETCH {key} 60000")), [1, 0], "{key}");
        assert_eq!(counted(&format!("CACHE.FETCH {key} 60000 STALE 1")), [1, 0], "{key}");
    }
    // The first call loads, the second gets the stale value.
    for _ in 0..2 {
        assert_eq!(counted("CACHE.FETCH refreshed 60000 STALE 600000"), [1, 0]);
    }
    // The first call loads.
    for _ in 0..2 {
        assert_eq!(counted("CACHE.FETCH cold 60000"), [0, 1]);
    }
    for quiet in
        ["CACHE.INFO cold", "CACHE.INFO v1", "CACHE.LOCK cold 9 9", "CACHE.EXTEND cold 1 9"]
    {
        assert_eq!(counted(quiet), [0, 0], "{quiet}");
    }
}

#[test]
fn fetch_keeps_the_encoding_of_a_value() {
    let server = Checked::start();
    let mut client = server.client();
    for key in values(&mut client) {
        let form = client.run(format!("OBJECT ENCODING {key}"));
        for args in ["60000", "60000 STALE 1", "60000 STALE 600000"] {
            client.run(format!("CACHE.FETCH {key} {args}"));
        }
        assert_eq!(client.run(format!("OBJECT ENCODING {key}")), form, "{key}");
    }
}

#[test]
fn command_info_and_docs_describe_the_commands() {
    let server = Checked::start();
    let mut client = server.client();
    for (name, arity, flags, key, syntax) in [
        (
            "cache.fetch",
            -3,
            "blocking fast module",
            "RW access update",
            "key:key lease_ms:integer [STALE stale_ms:integer] [BLOCK block_ms:integer] [FRESH] \
             [TIED]",
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
        // Some servers do not list this flag.
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
