//! Random workloads of locks, cached values and tasks, while connections, clients and servers are
//! killed or fail over. The append-only file is the history of each run: what it says, command by
//! command, must keep the guarantees.
//!
//! * Locks: two incompatible holders never coexist, and fencing tokens rise.
//! * Cached values: nothing that is stored is older than the last invalidation.
//! * Tasks: no task disappears before it is done, and no lease is taken from a consumer before it ends.
//! * All: every request is answered, or its connection is closed.
//!
//! Some leases are tied to their connections, and some consumers take from several queues.
//! `CORRAL_CHAOS_SECONDS` makes each run longer.

mod support;
use support::*;

#[path = "histories/check.rs"]
mod check;
#[path = "histories/world.rs"]
mod world;

use check::{CacheHistory, LockHistory, TaskHistory};
use std::time::Duration;
use world::{History, Strike, World, run};

/// The lease of every lock, in ms. A deadline in the history tells when its lease began.
pub const LOCK_TTL: i64 = 300;

/// The lease of a loader, in ms.
const LOAD_LEASE: i64 = 200;

/// The lease of a task, in ms.
pub const TASK_LEASE: i64 = 400;

/// The queues. Consumers take from one of them, or from all.
const QUEUES: [&str; 3] = ["{q}a", "{q}b", "{q}c"];

/// `TIED` for most requests.
fn tied(world: &mut World<'_>) -> &'static str {
    if world.random.below(3) > 0 { " TIED" } else { "" }
}

fn nap(world: &mut World<'_>, most: usize) {
    std::thread::sleep(Duration::from_millis(world.random.below(most + 1) as u64));
}

/// One acquisition of a lock, by whatever way it ends.
fn use_lock(world: &mut World<'_>) {
    let (lock, id) = (format!("job{}", world.random.below(3)), world.fresh_name());
    let mode = if world.random.below(4) == 0 { "SHARED" } else { "FENCE" };
    let tied = tied(world);
    let acquire = format!("LOCK.ACQUIRE {lock} {id} {LOCK_TTL} {mode} BLOCK 2000{tied}");
    if world.random.below(10) == 0 {
        return world.send_and_leave(&acquire);
    }
    let Some(reply) = world.ask(&acquire) else { return };
    let token = reply.as_int();
    if token == 0 {
        return;
    }
    nap(world, 4);
    // Until this time the lease certainly runs.
    let mut end = if mode == "FENCE" { token / 1000 - 1 + LOCK_TTL } else { 0 };
    if world.random.below(3) == 0 {
        let shared = if world.random.below(4) == 0 { " SHARED" } else { "" };
        let begin = now_ms();
        let Some(kept) = world.ask(format!("LOCK.EXTEND {lock} {id} {LOCK_TTL}{shared}")) else {
            return;
        };
        assert!(kept == int(1) || now_ms() > end, "{id} has lost {lock} before its lease ended");
        end = if kept == int(1) { begin + LOCK_TTL } else { 0 };
    }
    match world.random.below(10) {
        // The lease expires.
        0 => {}
        1 | 2 => world.leave(),
        _ => {
            let Some(released) = world.ask(format!("LOCK.RELEASE {lock} {id}")) else { return };
            let had_ended = now_ms() > end;
            assert!(released == int(1) || had_ended, "{id} has lost {lock} before its lease ended");
        }
    }
}

fn check_locks(control: &mut Client, history: History<'_>) {
    let mut check = LockHistory::default();
    history().iter().for_each(|command| check.apply(command));
    assert!(check.grants > 100, "{} grants", check.grants);
    assert!(check.readers_together, "readers never held a lock together");
    for lock in ["job0", "job1", "job2"] {
        let acquire = format!("LOCK.ACQUIRE {lock} last {LOCK_TTL} BLOCK 20000");
        assert_eq!(control.run(acquire), int(1), "{lock} is free in the end");
    }
}

/// A change in the database, a read, or a load.
fn use_cache(world: &mut World<'_>) {
    let page = world.random.below(3);
    if world.random.below(8) == 0 {
        let commands = [format!("INCR db:{page}"), format!("CACHE.INVALIDATE page:{page}")];
        if let Some(replies) = world.transaction(&commands) {
            world.versions[page]
                .fetch_max(replies[0].as_int(), std::sync::atomic::Ordering::SeqCst);
        }
        return;
    }
    let least = world.versions[page].load(std::sync::atomic::Ordering::SeqCst);
    let tied = tied(world);
    let fetch = format!("CACHE.FETCH page:{page} {LOAD_LEASE} BLOCK 2000{tied}");
    if world.random.below(20) == 0 {
        return world.send_and_leave(&fetch);
    }
    let Some(reply) = world.ask(&fetch) else { return };
    let [status, value, token] = reply.items() else { panic!("{reply:?}") };
    match status.as_str() {
        "HIT" => {
            let version: i64 = value.as_str().parse().expect("a version");
            // A former master may serve an older value to the clients that it still has.
            let is_stale = version < least
                && world.ask("ROLE").is_some_and(|role| role.items()[0] == bulk("master"));
            assert!(!is_stale, "page:{page} is {version}, though {least} was invalidated");
        }
        "LOAD" => load(world, page, token.as_int()),
        "WAIT" | "FAIL" => {}
        other => panic!("{other}"),
    }
}

fn load(world: &mut World<'_>, page: usize, token: i64) {
    let Some(version) = world.ask(format!("GET db:{page}")) else { return };
    let version = if version.is_nil() { "0".to_owned() } else { version.as_str().to_owned() };
    match world.random.below(20) {
        0 | 1 => return world.leave(),
        2 => {
            world.ask(format!("CACHE.FAIL page:{page} {token} BACKOFF 20"));
            return;
        }
        3 => {
            world.ask(format!("CACHE.EXTEND page:{page} {token} {LOAD_LEASE}"));
        }
        // Longer than the lease.
        4 => std::thread::sleep(Duration::from_millis(LOAD_LEASE as u64 + 50)),
        _ => nap(world, 4),
    }
    world.ask(format!("CACHE.SET page:{page} {version} 60000 TOKEN {token}"));
}

fn check_cache(control: &mut Client, history: History<'_>) {
    let mut check = CacheHistory::default();
    history().iter().for_each(|command| check.apply(command));
    assert!(check.fills > 50, "{} fills", check.fills);
    for page in 0..3 {
        let reply = control.run(format!("CACHE.FETCH page:{page} {LOAD_LEASE} BLOCK 20000"));
        assert!(["HIT", "LOAD"].contains(&reply.items()[0].as_str()), "{reply:?}");
    }
}

/// A few tasks are published, or consumed.
fn use_queue(world: &mut World<'_>) {
    if world.name.is_multiple_of(4) { publish(world) } else { consume(world) }
}

fn publish(world: &mut World<'_>) {
    let kind = if world.random.below(50) == 0 { "poison" } else { "plain" };
    let payload = format!("{kind}-{}", world.fresh_name());
    let queue = QUEUES[world.random.below(3)];
    let option = match world.random.below(6) {
        0 => format!(" DELAY {}", world.random.below(200)),
        1 => format!(" PRIORITY {}", world.random.below(10)),
        2 => format!(" PRIORITY 5 DELAY {}", world.random.below(50)),
        _ => String::new(),
    };
    nap(world, 8);
    if world.ask(format!("TASK.PUBLISH {queue} {payload}{option}")).is_some() {
        world.confirmed.push(payload);
    }
}

fn consume(world: &mut World<'_>) {
    let count = 1 + world.random.below(3);
    let (all, tied) = (world.random.below(2) == 0, tied(world));
    let [a, b, c] = QUEUES;
    let queues = match all {
        true => format!("{a} COUNT {count} BLOCK 1000 THEN 2 {b} {c}"),
        false => format!("{} COUNT {count} BLOCK 1000 META", QUEUES[world.random.below(3)]),
    };
    let me = format!("w{}", world.name);
    let consume = format!("TASK.CONSUME g {me} {queues}{tied}");
    if world.random.below(20) == 0 {
        return world.send_and_leave(&consume);
    }
    let Some(tasks) = world.ask(&consume) else { return };
    for task in tasks.items() {
        let [id, fields, _, _, queue @ ..] = task.items() else { panic!("{tasks:?}") };
        let only = consume.split(' ').nth(3).expect("the queue").to_owned();
        let queue = queue.first().map_or(only, |queue| queue.as_str().to_owned());
        let (id, payload) = (id.as_str(), fields.get("payload").as_str().to_owned());
        if payload.starts_with("poison") || world.random.below(12) == 0 {
            return world.leave();
        }
        nap(world, 3);
        let reply = match world.random.below(10) {
            0 => world.ask(format!("TASK.NACK {queue} g {me} FAIL {id} DELAY 5")),
            1 => world.ask(format!("TASK.NACK {queue} g {me} SILENT {id}")),
            2 => {
                // Slower than the lease, unless it is renewed.
                std::thread::sleep(Duration::from_millis(TASK_LEASE as u64 / 2));
                world.ask(format!("TASK.EXTEND {queue} g {me} {id}"))
            }
            _ => world
                .ask(format!("SADD done {payload}"))
                .and_then(|_| world.ask(format!("TASK.ACK {queue} g {id}"))),
        };
        if reply.is_none() {
            return;
        }
    }
}

fn check_tasks(control: &mut Client, history: History<'_>, confirmed: &[String]) {
    // What is left is worked off.
    let [a, b, c] = QUEUES;
    eventually(Duration::from_secs(120), "every queue is empty", || {
        let line = format!("TASK.CONSUME g last {a} COUNT 100 THEN 2 {b} {c}");
        for task in control.run(line).items() {
            let [id, fields, _, _, queue] = task.items() else { panic!("{task:?}") };
            let payload = fields.get("payload").as_str();
            if !payload.starts_with("poison") {
                assert_eq!(control.run(format!("SADD done {payload}")).as_int() & !1, 0);
                control.run(format!("TASK.ACK {} g {}", queue.as_str(), id.as_str()));
            }
        }
        QUEUES.iter().all(|queue| {
            let info = control.run(format!("TASK.INFO {queue}"));
            (info.get("length"), info.get("delayed")) == (&int(0), &int(0))
        })
    });
    let mut check = TaskHistory::default();
    history().iter().for_each(|command| check.apply(command));
    let unknown: Vec<_> = confirmed.iter().filter(|payload| !check.knows(payload)).collect();
    assert!(unknown.is_empty(), "confirmed, and not in the history: {unknown:?}");
    assert!(confirmed.len() > 100, "{} tasks", confirmed.len());
    assert!(check.leases > 100, "{} leases", check.leases);
    let done = control.run("SMEMBERS done");
    let done: std::collections::BTreeSet<&str> = done.items().iter().map(Value::as_str).collect();
    let dead: Vec<String> = QUEUES
        .iter()
        .flat_map(|queue| control.run(format!("XRANGE dead::{queue} - +")).items().to_vec())
        .map(|letter| letter.items()[1].get("payload").as_str().to_owned())
        .collect();
    for payload in confirmed {
        let ended = done.contains(payload.as_str()) || dead.contains(payload);
        assert!(ended, "{payload} is lost");
        let is_dead = dead.contains(payload);
        assert!(is_dead || !payload.starts_with("poison"), "{payload} is not a dead letter");
    }
}

fn locks(strike: Strike) {
    run("lock", strike, 8, |_| {}, use_lock, |control, history, _| check_locks(control, history));
}

fn cached_values(strike: Strike) {
    run("cache", strike, 8, |_| {}, use_cache, |control, history, _| check_cache(control, history));
}

fn tasks(strike: Strike) {
    let policy = |control: &mut Client| {
        for queue in QUEUES {
            let policy = format!("LEASE {TASK_LEASE} TRIES 8 BACKOFF 5 20");
            assert_eq!(control.run(format!("TASK.POLICY {queue} {policy}")), ok());
        }
    };
    run("task", strike, 8, policy, use_queue, check_tasks);
}

#[test]
fn locks_have_one_holder_at_a_time_while_the_server_is_killed() {
    locks(Strike::Kill);
}

#[test]
fn locks_have_one_holder_at_a_time_through_failovers() {
    locks(Strike::FailOver);
}

#[test]
fn no_stale_value_is_stored_while_the_server_is_killed() {
    cached_values(Strike::Kill);
}

#[test]
fn no_stale_value_is_stored_through_failovers() {
    cached_values(Strike::FailOver);
}

#[test]
fn no_task_is_lost_or_shared_while_the_server_is_killed() {
    tasks(Strike::Kill);
}

#[test]
fn no_task_is_lost_or_shared_through_failovers() {
    tasks(Strike::FailOver);
}
