//! Clients without the module use the key of a lock while others wait for it: they delete, expire,
//! overwrite, rename or flush it, or lock it with the scripts of other libraries; and the server evicts
//! it. There are never two holders that exclude each other, and the waiters are served in order.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::lock::*;
use support::*;

use std::time::{Duration, Instant};

// --- Foreign actors

// The scripts of redis-py's Lock and of Redlock libraries.
const REDIS_PY_RELEASE: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end redis.call('del', KEYS[1]) return 1";
const REDIS_PY_EXTEND: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end \
    local expiration = redis.call('pttl', KEYS[1]) \
    if not expiration then expiration = 0 end if expiration < 0 then return 0 end \
    local newttl = ARGV[2] if ARGV[3] == '0' then newttl = ARGV[2] + expiration end \
    redis.call('pexpire', KEYS[1], newttl) return 1";
const REDIS_PY_REACQUIRE: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end \
    redis.call('pexpire', KEYS[1], ARGV[2]) return 1";
const REDLOCK_ACQUIRE: &str = "for i, key in ipairs(KEYS) do \
    if redis.call('exists', key) == 1 then return 0 end end \
    for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[1], 'PX', ARGV[2]) end return #KEYS";
const REDLOCK_EXTEND: &str = "for i, key in ipairs(KEYS) do \
    if redis.call('get', key) ~= ARGV[1] then return 0 end end \
    for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[1], 'PX', ARGV[2]) end return #KEYS";
const REDLOCK_RELEASE: &str = "local count = 0 for i, key in ipairs(KEYS) do \
    if redis.call('get', key) == ARGV[1] then redis.pcall('del', key) count = count + 1 end end \
    return count";

/// Runs a script on the key of the lock.
#[track_caller]
fn script(client: &mut Client, script: &str, args: &[&str]) -> Value {
    client.cmd(&[&["EVAL", script, "1", KEY], args].concat())
}

/// `me` holds the lock, `first` and `second` wait, and a foreign client acts: the first waiter is
/// granted without a command of the module, and the second when the first releases.
#[track_caller]
fn assert_frees(held: &str, prepare: &[&str], act: &[&[&str]]) {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut foreign = server.client();
    take(&mut foreign, "me", LONG, held);
    for command in prepare {
        let reply = foreign.run(command);
        assert!(!reply.is_error(), "{command}: {reply:?}");
    }
    let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
    for command in act {
        let reply = foreign.cmd(command);
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
    assert_granted(&mut first);
    // There is one holder, and it is not the old one.
    let mut control = server.client();
    assert_eq!(control.run(format!("GET {KEY}")), bulk("first"));
    assert_eq!(control.run("LOCK.EXTEND job me 1000"), int(0));
    assert_eq!(control.run("LOCK.RELEASE job me"), int(0));
    assert_eq!(waiting(&server), 1, "the second still waits");
    release(&mut control, "first");
    assert_granted(&mut second);
}

#[test]
fn a_foreign_delete_frees_the_lock() {
    assert_frees("", &[], &[&["DEL", KEY]]);
    assert_frees("SHARED", &[], &[&["UNLINK", KEY]]);
    assert_frees("", &[], &[&["GETDEL", KEY]]);
    assert_frees("", &[], &[&["MULTI"], &["DEL", KEY], &["EXEC"]]);
}

#[test]
fn a_foreign_expiry_time_frees_the_lock() {
    assert_frees("", &[], &[&["PEXPIRE", KEY, "0"]]);
    assert_frees("SHARED", &[], &[&["PEXPIREAT", KEY, "1"]]);
    assert_frees("", &[], &[&["PEXPIRE", KEY, "60"]]);
    assert_frees("", &[], &[&["GETEX", KEY, "PX", "60"]]);
    assert_frees("", &[], &[&["PERSIST", KEY], &["PEXPIRE", KEY, "60"]]);
}

#[test]
fn a_shared_lock_that_a_foreign_client_lets_expire_is_granted_then() {
    assert_frees("SHARED", &[], &[&["PEXPIRE", KEY, "60"]]);
}

#[test]
fn a_foreign_lock_in_its_place_is_waited_for() {
    assert_frees("", &[], &[&["SET", KEY, "foreign", "PX", "60"]]);
    assert_frees("SHARED", &[], &[&["SET", KEY, "foreign", "PX", "60"]]);
    assert_frees("", &[], &[&["SET", KEY, "foreign"], &["DEL", KEY]]);
    let foreign = ["SET", KEY, "foreign", "NX", "PX", "60"];
    assert_frees("", &[], &[&["MULTI"], &["DEL", KEY], &foreign, &["EXEC"]]);
}

#[test]
fn renaming_moving_and_copying_keys_is_noticed() {
    assert_frees("", &[], &[&["RENAME", KEY, "elsewhere"]]);
    assert_frees("SHARED", &[], &[&["MOVE", KEY, "5"]]);
    let brief = ["SET", "brief", "foreign", "PX", "60"];
    assert_frees("", &[], &[&["MULTI"], &brief, &["RENAME", "brief", KEY], &["EXEC"]]);
    assert_frees("", &[], &[&["MULTI"], &brief, &["COPY", "brief", KEY, "REPLACE"], &["EXEC"]]);
}

#[test]
fn flushing_or_swapping_the_database_frees_the_lock() {
    assert_frees("", &[], &[&["FLUSHALL"]]);
    assert_frees("SHARED", &[], &[&["FLUSHDB"]]);
    assert_frees("", &[], &[&["FLUSHALL", "ASYNC"]]);
    assert_frees("", &[], &[&["SWAPDB", "0", "5"]]);
    assert_frees("SHARED", &[], &[&["SWAPDB", "5", "0"]]);
}

#[test]
fn removing_a_shared_holder_by_hand_frees_its_place() {
    assert_frees("SHARED", &[], &[&["ZREM", KEY, "me"]]);
    assert_frees("SHARED", &[], &[&["ZREMRANGEBYSCORE", KEY, "-inf", "+inf"]]);
    assert_frees("SHARED", &[], &[&["ZPOPMIN", KEY]]);
    assert_frees("SHARED", &[], &[&["ZADD", KEY, "1", "me"]]);
    assert_frees("SHARED", &[], &[&["PERSIST", KEY], &["ZADD", KEY, "XX", "1", "me"]]);
}

#[test]
fn waiters_in_every_mode_get_wrongtype_when_the_key_changes_its_type() {
    for options in ["", "SHARED", "LIMIT 3", "FENCE"] {
        let server = Checked::start();
        let mut control = server.client();
        take(&mut control, "me", LONG, "");
        let mut waiters = line(&server, [("a", options), ("b", options), ("c", "")]);
        let list = [format!("DEL {KEY}"), format!("LPUSH {KEY} x")];
        in_transaction(&mut control, &list);
        for waiter in &mut waiters {
            assert_eq!(waiter.read(), error(WRONG_TYPE), "{options}");
        }
        assert_eq!(control.run(format!("LPOP {KEY}")), bulk("x"));
        take(&mut control, "next", LONG, "");
    }
}

#[test]
fn scripts_of_other_lock_libraries_free_the_lock() {
    for release in [REDIS_PY_RELEASE, REDLOCK_RELEASE] {
        assert_frees("", &[], &[&["EVAL", release, "1", KEY, "me"]]);
    }
    for extend in [REDIS_PY_REACQUIRE, REDLOCK_EXTEND] {
        assert_frees("", &[], &[&["EVAL", extend, "1", KEY, "me", "60"]]);
    }
}

#[test]
fn locks_of_other_libraries_and_of_the_module_exclude_each_other() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut foreign = server.client();
    let set = ["SET", KEY, "foreign", "NX", "PX", "600000"];
    type Take = fn(&mut Client) -> Value;
    let redis_py: Take = |client| client.cmd(&["SET", KEY, "foreign", "NX", "PX", "600000"]);
    let redlock: Take = |client| script(client, REDLOCK_ACQUIRE, &["foreign", "600000"]);
    for (take_lock, extend, args) in [
        (redis_py, "return 1", ["", "", ""]),
        (redlock, "return 1", ["", "", ""]),
        (redis_py, REDIS_PY_EXTEND, ["foreign", "150", "0"]),
        (redis_py, REDIS_PY_EXTEND, ["foreign", "50", "1"]),
        (redis_py, REDIS_PY_REACQUIRE, ["foreign", "250", ""]),
        (redlock, REDLOCK_EXTEND, ["foreign", "250", ""]),
    ] {
        assert!(!take_lock(&mut foreign).is_nil());
        let mut next = waiter(&server, "next", "FENCE");
        assert_eq!(foreign.run("MULTI"), ok());
        foreign.run(format!("PEXPIRE {KEY} 100"));
        script(&mut foreign, extend, &args);
        foreign.run(format!("PEXPIRETIME {KEY}"));
        let replies = foreign.run("EXEC");
        assert_eq!(replies.items()[..2], [int(1), int(1)]);
        let end = replies.items()[2].as_int();
        assert!(only_reply(&mut next).as_int() > 1);
        assert_on_time(granted_at(&mut foreign, KEY, "next", LONG), end);
        // A foreign client cannot take or release what the module granted.
        assert_eq!(foreign.cmd(&set), nil());
        assert_eq!(script(&mut foreign, REDLOCK_ACQUIRE, &["foreign", "200"]), int(0));
        for release in [REDIS_PY_RELEASE, REDLOCK_RELEASE] {
            assert_eq!(script(&mut foreign, release, &["foreign"]), int(0));
        }
        release(&mut foreign, "next");
    }
}

#[test]
fn a_lock_without_expiry_is_waited_for_until_it_is_released_or_gets_one() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
    let persist = format!("PERSIST {KEY}");
    let end = ends_after(&mut control, &["LOCK.EXTEND job me 200", &persist]);
    assert_eq!(end, -1);
    let persisted = control.time_ms();
    wait_past(&mut control, persisted + 250);
    assert_still_waiting(&server, 2);
    release(&mut control, "me");
    assert_granted(&mut first);
    let end = ends_after(&mut control, &[&persist, "LOCK.EXTEND job first 60"]);
    assert_granted(&mut second);
    assert_on_time(granted_at(&mut control, KEY, "second", LONG), end);
}

#[test]
fn an_expiry_time_beyond_every_clock_does_not_keep_the_server_busy() {
    let server = Checked::start();
    let mut control = server.client();
    for end in [1 << 53, 9_300_000_000_000_000, 18_446_744_073_710_000, i64::MAX - 1, i64::MAX] {
        take(&mut control, "me", LONG, "");
        let mut next = waiter(&server, "next", "");
        // Some servers refuse the largest of these.
        control.run(format!("PEXPIREAT {KEY} {end}"));
        let before = server.cpu_time();
        assert_eq!(server.client().run("XREAD BLOCK 200 STREAMS nothing $"), nil_array());
        let used = server.cpu_time() - before;
        assert!(used < Duration::from_millis(100), "{end}: {used:?} of 200 ms");
        assert_eq!(control.run(format!("DEL {KEY}")), int(1));
        assert_granted(&mut next);
        release(&mut control, "next");
    }
}

#[test]
fn strange_scores_among_shared_holders_do_not_block_a_writer_for_good() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for score in ["+inf", "-inf", "1e300", "-1e300", "9223372036854775807", "0.5", "-1"] {
        take(&mut control, "me", LONG, "SHARED");
        let mut next = waiter(&server, "next", "");
        assert_eq!(control.cmd(&["ZADD", KEY, score, "strange"]), int(1));
        release(&mut control, "me");
        // A member that counts as a holder stays until it is removed.
        control.cmd(&["ZREM", KEY, "strange"]);
        assert_granted(&mut next);
        release(&mut control, "next");
    }
}

/// Runs commands of a holder of the lock `job` and has the server evict all keys right behind them;
/// returns when the key of the lock would have expired.
#[track_caller]
fn evict_after(control: &mut Client, commands: &[&str]) -> i64 {
    let policy = "CONFIG SET maxmemory-policy allkeys-random";
    assert_eq!(control.run(policy), ok());
    let end = format!("PEXPIRETIME {KEY}");
    let all = [commands, &[&end, "CONFIG SET maxmemory 1", "DBSIZE"]].concat();
    let replies = control.pipeline(&all);
    assert!(replies[..commands.len()].iter().all(|reply| *reply == int(1)), "{replies:?}");
    eventually(SOON, "everything is evicted", || control.run("DBSIZE") == int(0));
    assert_eq!(control.run("CONFIG SET maxmemory 0"), ok());
    assert_ne!(control.info("stats", "evicted_keys").as_deref(), Some("0"));
    replies[commands.len()].as_int()
}

#[test]
fn an_evicted_lock_is_granted_when_its_lease_expires_and_not_before() {
    let server = Checked::start();
    let mut control = server.client();
    for held in ["", "SHARED", "FENCE"] {
        take(&mut control, "me", LONG, held);
        let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
        let end = evict_after(&mut control, &["LOCK.EXTEND job me 250"]);
        for options in ["", "SHARED", "LIMIT 9", "BLOCK 1"] {
            let call = format!("LOCK.ACQUIRE job other 1000 {options}");
            assert_eq!(control.run(call), int(0), "{options}");
        }
        assert_granted(&mut first);
        assert_on_time(granted_at(&mut control, KEY, "first", LONG), end);
        release(&mut control, "first");
        assert_granted(&mut second);
        release(&mut control, "second");
    }
}

#[test]
fn a_writer_waits_for_every_reader_of_an_evicted_lock() {
    let server = Checked::start();
    let mut control = server.client();
    for reader in ["brief", "long"] {
        take(&mut control, reader, LONG, "SHARED");
    }
    let mut writer = waiter(&server, "writer", "");
    let leases = ["LOCK.EXTEND job brief 50", "LOCK.EXTEND job long 300"];
    let end = evict_after(&mut control, &leases);
    assert_granted(&mut writer);
    assert_on_time(granted_at(&mut control, KEY, "writer", LONG), end);
}

#[test]
fn after_swapdb_waiters_stay_with_the_database_they_selected() {
    let server = Checked::start();
    let (mut zero, mut five) = (server.client(), server.client());
    assert_eq!(five.run("SELECT 5"), ok());
    take(&mut zero, "zero", LONG, "");
    take(&mut five, "five", LONG, "");
    let mut in_zero = waiter(&server, "w0", "");
    let mut in_five = server.client();
    assert_eq!(in_five.run("SELECT 5"), ok());
    send_and_wait(&mut server.client(), "lock", &mut in_five, &ask("job", "w5", LONG, ""));
    assert_eq!(zero.run("SWAPDB 0 5"), ok());
    assert_still_waiting(&server, 2);
    // What is in database 0 now was in database 5.
    release(&mut zero, "five");
    assert_granted(&mut in_zero);
    assert_eq!(zero.run(format!("GET {KEY}")), bulk("w0"));
    assert_eq!(waiting(&server), 1);
    release(&mut five, "zero");
    assert_granted(&mut in_five);
    assert_eq!(five.run(format!("GET {KEY}")), bulk("w5"));
    // A lease that comes with a swap expires on time.
    let mut next = waiter(&server, "next", "");
    let lease = ["LOCK.EXTEND job w5 60".into(), format!("PEXPIRETIME {KEY}"), "SWAPDB 0 5".into()];
    let replies = in_transaction(&mut five, &lease);
    let end = replies[1].as_int();
    assert_granted(&mut next);
    assert_on_time(granted_at(&mut zero, KEY, "next", LONG), end);
}

#[test]
fn waiters_survive_a_reload_of_the_data() {
    let server = Checked::new(Server::builder().aof(true).start());
    let mut control = server.client();
    for reload in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
        take(&mut control, "me", LONG, "SHARED");
        let [mut first, mut second] = line(&server, [("first", ""), ("second", "SHARED")]);
        assert_eq!(control.run(reload), ok());
        assert_still_waiting(&server, 2);
        release(&mut control, "me");
        assert_granted(&mut first);
        assert_eq!(control.run("LOCK.EXTEND job first 50"), int(1));
        assert_granted(&mut second);
        release(&mut control, "second");
    }
}

#[test]
fn whatever_foreign_clients_do_at_random_every_waiter_is_served_in_order() {
    const COUNT: usize = 60;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..COUNT).map(|number| format!("w{number}")).collect();
    let modes = ["FENCE", "", "SHARED", "LIMIT 2"];
    let mut clients: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| waiter(&server, id, modes[number % modes.len()]))
        .collect();
    let mut tap = server.replication_tap();
    let acts = [
        "DEL lock:{job}",
        "PEXPIRE lock:{job} 1",
        "SET lock:{job} foreign PX 5",
        "RENAME lock:{job} elsewhere",
        "SWAPDB 0 3",
        "FLUSHALL",
        "ZREMRANGEBYRANK lock:{job} 0 0",
        "ZADD lock:{job} XX 1 w2",
        "PERSIST lock:{job}",
        "LPUSH lock:{job} x",
    ];
    let mut random = Random::new(7);
    let mut left = COUNT;
    let end = Instant::now() + 3 * SOON;
    while left > 0 {
        assert!(Instant::now() < end, "{left} are never served");
        control.run(acts[random.below(acts.len())]);
        // A key of another type would block the lock for good.
        if let Value::Error(_) = control.run("LOCK.INFO job") {
            control.run(format!("DEL {KEY}"));
        }
        left = waiting(&server);
    }
    // Each waiter got one reply: it holds the lock, or a key of another type is in its place.
    let replies: Vec<_> = clients.iter_mut().map(|client| only_reply(client)).collect();
    let wrong = error(WRONG_TYPE);
    assert!(replies.iter().all(|r| *r == wrong || r.as_int() >= 1), "{replies:?}");
    let granted = ids.iter().zip(&replies).filter(|(_, reply)| **reply != wrong);
    // The replication stream shows the order of the grants.
    let commands = tap.commands();
    let order: Vec<_> =
        commands.iter().map(Command::text).filter_map(|text| grantee(&text)).collect();
    assert_eq!(order, granted.map(|(id, _)| id.clone()).collect::<Vec<_>>());
}

/// The waiter that a replicated command makes a holder of the lock `job`.
fn grantee(command: &str) -> Option<String> {
    let words: Vec<_> = command.split(' ').collect();
    let identifier = match words[..] {
        ["SET", KEY, identifier, "PXAT", _] => identifier,
        ["ZADD", KEY, _, identifier] => identifier,
        _ => return None,
    };
    identifier.starts_with('w').then(|| identifier.to_owned())
}
