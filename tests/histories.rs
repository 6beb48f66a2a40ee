//! Random workloads of locks, cached values and tasks, while connections, clients and servers are
//! killed or fail over. The append-only file is the history of each run: what it says, command by
//! command, must keep the guarantees.
//!
//! * Locks: two incompatible holders never coexist, and fencing tokens rise.
//! * Cached values: nothing that is stored is older than the last invalidation.
//! * Tasks: see [`task_history`].
//! * All: every request is answered, or its connection is closed.
//!
//! Some leases are tied to their connections, and some consumers take from several queues.
//! `CORRAL_CHAOS_SECONDS` makes each run longer.

mod support;
use support::*;

#[path = "histories/check.rs"]
mod check;
#[path = "histories/task_history.rs"]
mod task_history;
#[path = "histories/tasks.rs"]
mod tasks;
#[path = "histories/world.rs"]
mod world;

use check::{CacheHistory, LockHistory};
use std::time::Duration;
use world::{History, Strike, World, run};

/// The lease of every lock, in ms. A deadline in the history tells when its lease began.
pub const LOCK_TTL: i64 = 300;

/// The lease of a loader, in ms.
const LOAD_LEASE: i64 = 200;

/// `TIED` for most requests.
pub fn tied(world: &mut World<'_>) -> &'static str {
    if world.random.below(3) > 0 { " TIED" } else { "" }
}

/// Sleeps for up to `most` ms.
pub fn nap(world: &mut World<'_>, most: usize) {
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

fn locks(strike: Strike) {
    run("lock", strike, 8, |_| {}, use_lock, |control, history, _| check_locks(control, history));
}

fn cached_values(strike: Strike) {
    run("cache", strike, 8, |_| {}, use_cache, |control, history, _| check_cache(control, history));
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
    tasks::run_with(Strike::Kill);
}

#[test]
fn no_task_is_lost_or_shared_through_failovers() {
    tasks::run_with(Strike::FailOver);
}
