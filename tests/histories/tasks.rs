//! Producers, workers and operators of three queues.

use crate::support::consumers::priority_of;
use crate::support::*;
use crate::task_history::{End, MODES, Mode, TaskHistory, base};
use crate::world::{History, Strike, Told, World, run};
use crate::{nap, tied};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The lease of a task, in ms.
pub const TASK_LEASE: i64 = 400;

/// The queues. Consumers take from one of them, or from all.
const QUEUES: [&str; 3] = ["{q}a", "{q}b", "{q}c"];

/// The keys that follow tasks.
const TRACES: [&str; 4] = ["taskmoved", "taskmarks", "taskheld", "delayed"];

/// The longest that the rest of the tasks may take.
const DRAIN: Duration = Duration::from_secs(120);

/// Runs clients of the queues while the server is struck.
pub fn run_with(strike: Strike) {
    let policy = |control: &mut Client| {
        for queue in QUEUES {
            let policy = format!("LEASE {TASK_LEASE} TRIES 8 BACKOFF 5 20");
            assert_eq!(control.run(format!("TASK.POLICY {queue} {policy}")), ok());
        }
    };
    run("task", strike, 8, policy, use_queue, check_tasks);
}

/// A few tasks are published, consumed, or moved by an operator.
fn use_queue(world: &mut World<'_>) {
    match (world.name.is_multiple_of(4), world.random.below(5)) {
        (true, 0) => operate(world),
        (true, _) => publish_some(world),
        (false, _) => consume(world),
    }
}

fn queue(world: &mut World<'_>) -> &'static str {
    QUEUES[world.random.below(QUEUES.len())]
}

/// Publishes a task, or several with the same UNIQUE id.
fn publish_some(world: &mut World<'_>) {
    nap(world, 8);
    let queue = queue(world);
    let mode = MODES.get(world.random.below(2 * MODES.len())).copied();
    let times = if mode.is_some() { 1 + world.random.below(3) } else { 1 };
    for _ in 0..times {
        publish(world, queue, mode);
    }
}

fn publish(world: &mut World<'_>, queue: &'static str, mode: Option<Mode>) {
    let random = &mut world.random;
    let (mut kind, mut options) = ("plain".to_owned(), String::new());
    if let Some(Mode { name, options: until, window }) = mode {
        kind = format!("{name}{}", random.below(2));
        options = format!(" UNIQUE {kind} {window} {until}");
    } else if random.below(25) == 0 {
        kind = "poison".into();
    }
    let delay = [0, 0, 0, random.below(50), random.below(200)][random.below(5)];
    if delay > 0 {
        options += &format!(" DELAY {delay}");
    }
    if random.below(3) == 0 {
        options += &format!(" PRIORITY {}", random.below(10));
    }
    if random.below(12) == 0 {
        options += &format!(" EXPIRE {}", delay + 1 + random.below(200));
    }
    if random.below(12) == 0 {
        options += &format!(" TRIES {}", 1 + random.below(4));
    }
    if random.below(6) == 0 {
        options += &format!(" FIELDS 1 tenant t{}", random.below(9));
    }
    let payload = format!("{kind}-{}", world.fresh_name());
    let reply = world.ask(format!("TASK.PUBLISH {queue} {payload}{options} META"));
    let Some(reply) = reply else { return };
    let [id, what] = reply.items() else { panic!("{reply:?}") };
    world.told.count(what.as_str());
    match what.as_str() {
        "duplicate" => world.told.duplicates.push(payload),
        _ => world.told.accepted.push(payload),
    }
    world.recent.push_back((queue, id.as_str().to_owned()));
    if world.recent.len() > 12 {
        world.recent.pop_front();
    }
}

/// Looks for a task, moves it, cancels it, or redrives a dead letter.
fn operate(world: &mut World<'_>) {
    let recent = world.recent.len();
    if recent == 0 {
        return;
    }
    let (queue, id) = world.recent[world.random.below(recent)].clone();
    match world.random.below(11) {
        0 | 1 => {
            let Some(state) = world.ask(format!("TASK.STATE {queue} {id}")) else { return };
            let name = if state.is_nil() { "gone" } else { state.get("state").as_str() };
            world.told.count(&format!("seen {name}"));
            if name == "leased" {
                let id = state.get("id").as_str();
                for call in ["TASK.EXTEND # g stranger %", "TASK.NACK # g stranger FATAL %"] {
                    let call = call.replace('#', queue).replace('%', id);
                    let reply = world.ask(&call);
                    assert!(reply.is_none_or(|reply| reply == int(0)), "{call} has an effect");
                }
            }
        }
        2 | 3 => {
            let when = match world.random.below(3) {
                0 => format!("DELAY {}", world.random.below(300)),
                1 => format!("PRIORITY {}", world.random.below(10)),
                _ => "DELAY 0 PRIORITY 9".to_owned(),
            };
            let done = world.ask(format!("TASK.RESCHEDULE {queue} {id} {when}"));
            if done == Some(int(1)) {
                world.told.count("rescheduled");
            }
        }
        4 | 5 => cancel(world, queue, &id, ""),
        6 => cancel(world, queue, &id, " FORCE"),
        7 | 8 => delete(world, queue, &id),
        _ => redrive(world, queue),
    }
}

/// Cancels a task. The history says in the same transaction that it may disappear.
fn cancel(world: &mut World<'_>, queue: &str, id: &str, force: &str) {
    let intent = format!("SET cancelling {queue}/{id}");
    let cancel = format!("TASK.CANCEL {queue} {id}{force}");
    if let Some(replies) = world.transaction(&[intent, cancel])
        && replies[1] == int(1)
    {
        world.told.count(&format!("cancelled{force}"));
    }
}

/// Deletes a task as a plain client does. Nothing else is told, except the history.
fn delete(world: &mut World<'_>, queue: &str, id: &str) {
    let Some(state) = world.ask(format!("TASK.STATE {queue} {id}")) else { return };
    if state.is_nil() || !["ready", "leased"].contains(&state.get("state").as_str()) {
        return;
    }
    let present = state.get("id").as_str();
    let key = match priority_of(present) {
        0 => queue.to_owned(),
        priority => format!("priority{priority}::{queue}"),
    };
    let delete = [
        format!("SET deleting {queue}/{id}"),
        format!("XACK {key} g {present}"),
        format!("XDEL {key} {present}"),
    ];
    if let Some(replies) = world.transaction(&delete)
        && replies[2] == int(1)
    {
        world.told.count("deleted");
    }
}

/// Redrives one of the last dead letters, by its original id. Poison is seldom redriven.
fn redrive(world: &mut World<'_>, queue: &str) {
    let Some(letters) = world.ask(format!("XREVRANGE dead::{queue} + - COUNT 20")) else { return };
    let with_poison = world.random.below(20) == 0;
    let is_fit = |letter: &&Value| {
        with_poison || !letter.items()[1].get("payload").as_str().starts_with("poison")
    };
    let letters: Vec<&Value> = letters.items().iter().filter(is_fit).collect();
    if letters.is_empty() {
        return;
    }
    let letter = letters[world.random.below(letters.len())];
    let id = letter.items()[1].get("original_id").as_str().to_owned();
    let redriven = world.ask(format!("TASK.REDRIVE dead::{queue} {queue} ID {id}"));
    if redriven == Some(int(1)) {
        world.told.count("redriven");
    }
}

/// A worker takes a few tasks. It may die at any time.
fn consume(world: &mut World<'_>) {
    let count = 1 + world.random.below(3);
    let (all, tied) = (world.random.below(2) == 0, tied(world));
    let [a, b, c] = QUEUES;
    let only = queue(world);
    let queues = match all {
        true => format!("{a} COUNT {count} BLOCK 1000 THEN 2 {b} {c}"),
        false => format!("{only} COUNT {count} BLOCK 1000 META"),
    };
    let me = format!("w{}", world.name);
    let consume = format!("TASK.CONSUME g {me} {queues}{tied}");
    match world.random.below(40) {
        0 => return world.send_and_be_killed(&consume),
        1 | 2 => return world.send_and_leave(&consume),
        _ => {}
    }
    let Some(tasks) = world.ask(&consume) else { return };
    let tasks: Vec<(String, String, String)> = tasks
        .items()
        .iter()
        .map(|task| {
            let [id, fields, _, _, queue @ ..] = task.items() else { panic!("{task:?}") };
            let queue = queue.first().map_or(only, Value::as_str);
            (queue.to_owned(), id.as_str().to_owned(), fields.get("payload").as_str().to_owned())
        })
        .collect();
    if world.random.below(5) == 0 {
        heartbeat(world, &me, &tasks);
    }
    for (queue, id, payload) in tasks {
        if payload.starts_with("poison") || world.random.below(20) == 0 {
            return world.leave();
        }
        // Those with a UNIQUE id are published again meanwhile.
        nap(world, if payload.starts_with("plain") { 3 } else { 25 });
        if work(world, &me, &queue, &id, &payload).is_none() {
            return;
        }
    }
}

/// One call renews the leases of all tasks of a queue.
fn heartbeat(world: &mut World<'_>, me: &str, tasks: &[(String, String, String)]) {
    nap(world, 30);
    for queue in QUEUES {
        let mut ids: Vec<&str> =
            tasks.iter().filter(|task| task.0 == queue).map(|task| task.1.as_str()).collect();
        let Some(first) = ids.first().copied() else { continue };
        if ids.len() == 1 {
            // The same id twice is renewed twice.
            ids.push(first);
        }
        let extend = format!("TASK.EXTEND {queue} g {me} {}", ids.join(" "));
        let Some(kept) = world.ask(&extend) else { return };
        assert_eq!(kept.items().len(), ids.len(), "{extend}: {kept:?}");
        world.told.count("heartbeats for several");
    }
}

/// A worker finishes a task, returns it, or takes too long.
fn work(world: &mut World<'_>, me: &str, queue: &str, id: &str, payload: &str) -> Option<Value> {
    let how = match world.random.below(40) {
        0..=3 => "FAIL",
        4 | 5 => "FAIL DELAY 5",
        6 => "FATAL",
        7 | 8 => "SILENT",
        9 => "SILENT DELAY 30",
        10 | 11 => "SILENT PAYLOAD",
        12 => "FAIL PAYLOAD",
        13 => {
            // Slower than the lease, unless it is renewed.
            std::thread::sleep(Duration::from_millis(TASK_LEASE as u64 / 2));
            return world.ask(format!("TASK.EXTEND {queue} g {me} {id}"));
        }
        _ => {
            world.ask(format!("SADD done {}", base(payload)))?;
            return world.ask(format!("TASK.ACK {queue} g {id}"));
        }
    };
    let (failure, options) = how.split_once(' ').unwrap_or((how, ""));
    let options = match options {
        "PAYLOAD" => format!("PAYLOAD {}+{}", base(payload), world.random.below(100)),
        options => options.to_owned(),
    };
    world.ask(format!("TASK.NACK {queue} g {me} {failure} {id} {options}"))
}

/// Works off what is left.
fn drain(control: &mut Client) {
    let [a, b, c] = QUEUES;
    eventually(DRAIN, "every queue is empty, and nothing follows a task", || {
        let line = format!("TASK.CONSUME g last {a} COUNT 100 THEN 2 {b} {c}");
        for task in control.run(line).items() {
            let [id, fields, _, _, queue] = task.items() else { panic!("{task:?}") };
            let payload = fields.get("payload").as_str();
            if !payload.starts_with("poison") {
                control.run(format!("SADD done {}", base(payload)));
                control.run(format!("TASK.ACK {} g {}", queue.as_str(), id.as_str()));
            }
        }
        QUEUES.iter().all(|queue| {
            let info = control.run(format!("TASK.INFO {queue}"));
            let waiting = ["length", "delayed", "held"].map(|field| info.get(field).as_int());
            let keys = TRACES.map(|prefix| format!("{prefix}::{queue}")).join(" ");
            waiting == [0, 0, 0] && control.run(format!("EXISTS {keys}")) == int(0)
        })
    });
}

/// The keys that are there in the end.
fn check_keys(control: &mut Client) {
    let keys = control.run("KEYS *");
    for key in keys.items().iter().map(Value::as_str) {
        let is_expected = match key.split_once("::") {
            Some((prefix, queue)) => {
                let (queue, unique) = queue.split_once(':').unwrap_or((queue, ""));
                let is_window = prefix == "unique4" && unique.starts_with("time");
                let is_stream = prefix.strip_prefix("priority").is_some_and(|n| n.len() == 1);
                QUEUES.contains(&queue)
                    && (is_window || is_stream || ["dead", "policy"].contains(&prefix))
            }
            None => {
                ["first", "done", "cancelling", "deleting"].contains(&key) || QUEUES.contains(&key)
            }
        };
        assert!(is_expected, "{key} is left");
    }
    for gauge in ["waiters", "ties"] {
        eventually(SOON, gauge, || control.task_total(gauge) == 0);
    }
}

fn check_tasks(control: &mut Client, history: History<'_>, told: Told) {
    drain(control);
    check_keys(control);
    let mut check = TaskHistory::default();
    history().iter().for_each(|command| check.apply(command));
    for payload in &told.accepted {
        assert!(check.knows(payload), "{payload} was accepted, and is not in the history");
    }
    for payload in &told.duplicates {
        assert!(!check.knows(payload), "{payload} was refused, and is in the history");
    }
    let (dead, rest) = check.rest();
    assert!(rest.is_empty(), "left in the end: {rest:?}");
    let letters: BTreeSet<String> = QUEUES
        .iter()
        .flat_map(|queue| control.run(format!("XRANGE dead::{queue} - +")).items().to_vec())
        .map(|letter| base(letter.items()[1].get("payload").as_str()).to_owned())
        .collect();
    assert_eq!(letters, dead, "the dead letters are those of the history");
    let mut ends = BTreeMap::<String, usize>::new();
    for (payload, end) in check.ends() {
        let is_dead = dead.contains(payload);
        assert_eq!(end.is_none(), is_dead, "{payload} is lost, or dead after its end");
        let may_end = [Some(End::Cancelled), Some(End::Deleted), None].contains(&end);
        assert!(may_end || !payload.starts_with("poison"), "{payload} was done");
        let end = end.map_or_else(|| "dead".to_owned(), |end| format!("{end:?}").to_lowercase());
        *ends.entry(end).or_default() += 1;
    }
    let published: usize = ends.values().sum();
    println!(
        "{published} published: {ends:?}; {} leases, {} held, {} redriven, {} expired; told: {:?}",
        check.leases, check.held_tasks, check.redriven, check.expired, told.counts
    );
    assert!(told.accepted.len() > 100, "{} tasks", told.accepted.len());
    assert!(check.leases > 100, "{} leases", check.leases);
    for what in ["done", "dead", "cancelled", "replaced"] {
        assert!(ends.contains_key(what), "no task was {what}: {ends:?}");
    }
    // On a slow machine a short run does little.
    if told.accepted.len() > 1000 {
        for what in ["duplicate", "queued", "rescheduled", "deleted", "heartbeats for several"] {
            assert!(told.counts.contains_key(what), "no {what}: {:?}", told.counts);
        }
    }
}
