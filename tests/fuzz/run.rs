//! Random commands from many connections to a real server with the module, which has a replica and
//! an append-only file. Both are read without the module.
//!
//! `make fuzz SECONDS=60`. `SEED=n` repeats the commands; their timing differs, so a failure may
//! need several runs. `SERVER=path` names the server. It runs in rounds of some seconds with all
//! checks after each, and exits with 1 at the first failure.

#[path = "../support/mod.rs"]
mod support;

mod actor;
mod checks;
mod dice;
mod grammar;
mod operator;
mod words;
mod world;

use actor::Actor;
use dice::Dice;
use grammar::{Grammar, HISTORY, plain};
use std::any::Any;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use support::{Client, Server, Value, server_binary};
use world::{Quirks, World};

/// How many threads have connections. Some have many.
const THREADS: u64 = 20;

/// The length of a round without its checks.
const ROUND: Duration = Duration::from_secs(8);

/// How often the main thread checks the others.
const POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name| number(name).map(|text| text.parse::<u64>());
    let (Ok(seconds), Ok(seed)) = (number("SECONDS").transpose(), number("SEED").transpose())
    else {
        eprintln!("SECONDS and SEED are numbers");
        return ExitCode::from(2);
    };
    let length = Duration::from_secs(seconds.unwrap_or(60));
    let random = || RandomState::new().build_hasher().finish() % 1_000_000_000;
    let seed = seed.unwrap_or_else(random);
    println!("SEED={seed} {}", server_binary().display());

    let mut world = World::new(
        Server::builder()
            .aof(true)
            .arg("--appendfsync")
            .arg("everysec")
            .arg("--maxclients")
            .arg("2000")
            .start(),
        Server::builder().module(false).start(),
        Server::builder().module(false).aof(true).start(),
    );
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut world, seed, length)));
    if let Err(panic) = outcome {
        world.fail(text_of(&*panic));
    }
    for (who, server) in [("master", &world.master), ("replica", &world.replica)] {
        if server.has_crashed() {
            world.fail(format!("the {who} crashed"));
        }
    }
    summarize(&world);
    let Some(failure) = world.failure() else {
        return ExitCode::SUCCESS;
    };
    println!("\n=== the last commands and replies");
    println!("{}", world.journals());
    println!("=== the master's clients\n{}", clients(&world));
    println!("=== the master's log\n{}", world.master.log_excerpt());
    if world.replica.has_crashed() {
        println!("=== the replica's log\n{}", world.replica.log_excerpt());
    }
    println!("=== FAILED: {failure}");
    println!("=== {}", server_binary().display());
    println!("=== again: make fuzz SEED={seed} SECONDS={}", length.as_secs());
    // A crashed server would fail again when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(world)));
    ExitCode::FAILURE
}

/// The message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a message".into())
}

/// Runs rounds until the time has passed or something fails.
fn run(world: &mut World, seed: u64, length: Duration) {
    let port = world.master.port();
    world.replica.client().run(format!("REPLICAOF 127.0.0.1 {port}"));
    support::wait_in_sync(&world.master, &world.replica);
    let grammars = learn_grammar(world);
    let identity = checks::identity(&world.master);
    let mut dice = Dice::new(seed, 0);
    let end = Instant::now() + length;
    let mut number = 0;
    while number == 0 || Instant::now() + POLL < end {
        number += 1;
        let seed = dice.within(0, u64::MAX - 1);
        let flush = dice.percent(50);
        // The last of four, so that a short run has rounds with an exact comparison.
        let reload = number % 4 == 0;
        let left = end.saturating_duration_since(Instant::now());
        checks::prepare(world, flush);
        world.start();
        let grammar = if reload { &grammars.all } else { &grammars.compared };
        act(world, grammar, seed, reload, ROUND.min(left));
        if world.failure().is_some() {
            return;
        }
        checks::prepare(world, false);
        checks::no_client_waits(world);
        assert_eq!(checks::identity(&world.master), identity, "the server was restarted");
        let before = world.commands.load(Ordering::Relaxed);
        let slowest = world.take_slowest().as_millis();
        println!("round {number}: {before} commands; the operator waited {slowest} ms at most");
        checks::all_agree(world, reload);
        checks::the_module_is_unloaded(world);
    }
}

/// One round of this length.
fn act(world: &World, grammar: &Grammar, seed: u64, reload: bool, length: Duration) {
    let end = Instant::now() + length;
    thread::scope(|scope| {
        for number in 1..=THREADS {
            scope.spawn(move || Actor::new(world, grammar, seed, number).act());
        }
        let operator = scope.spawn(move || operator::operate(world, grammar, seed, reload));
        while Instant::now() < end && !world.is_over() {
            thread::sleep(POLL);
        }
        world.stop();
        let _ = operator.join();
        let count =
            || world.failure().is_none().then(|| checks::blocked_clients_are_in_line(world));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(count)) {
            world.fail(text_of(&*panic));
        }
        world.set_counted();
    });
}

/// The commands that the server knows: all, and those that replicate exactly.
struct Grammars {
    all: Grammar,
    compared: Grammar,
}

fn learn_grammar(world: &mut World) -> Grammars {
    let mut client = world.reader.client();
    client.run("XADD probe 1-1 f v");
    client.run("XGROUP CREATE probe g 0");
    let valkey = client.info("server", "valkey_version");
    let version = client.info("server", "redis_version").expect("INFO has the version");
    let old = version.starts_with("7.0");
    let valkey_9 = valkey.as_ref().is_some_and(|version| version.starts_with("9."));
    world.quirks = Quirks {
        forgets: valkey_9,
        splits_pushes: valkey_9,
        answers_twice: old,
        pushes_inside: old,
    };
    let mut leave_out = Vec::new();
    // Valkey 8.1 and later replicate MOVE and COPY to another database in a way that may leave
    // master, replica and file different.
    if valkey.is_some() {
        leave_out.extend(["MOVE ", "COPY $key $key DB"]);
    }
    // Under load Valkey 9.1 sometimes restarts it until its stack overflows.
    if valkey_9 {
        leave_out.push("DEBUG LOADAOF");
    }
    // See `World::pausing`.
    if valkey.as_ref().map_or(version.starts_with("7."), |version| version.starts_with("8.0")) {
        leave_out.push("CLIENT UNBLOCK $client [(TIMEOUT|ERROR)]");
    }
    // See `Quirks::answers_twice`.
    if old {
        leave_out.push("(TIMEOUT|ERROR)");
    }
    let mut has = |command: &_| {
        client.cmd(&plain("SET probes v"));
        checks::knows(&mut client, command)
    };
    let all = Grammar::new(&mut has, &leave_out);
    leave_out.push(HISTORY);
    let compared = Grammar::new(&mut has, &leave_out);
    client.run("FLUSHALL");
    Grammars { all, compared }
}

/// The connected and the waiting clients, if the server still replies.
fn clients(world: &World) -> String {
    let ask = |line: &str| {
        let mut client = Client::try_connect(world.master.port()).ok()?;
        match client.ask(line, Duration::from_secs(5)) {
            Ok(Value::Bulk(text)) => Some(String::from_utf8_lossy(&text).into_owned()),
            _ => None,
        }
    };
    ["CLIENT LIST", "INFO corral"].iter().filter_map(|line| ask(line)).collect()
}

/// Prints how often each command succeeded, which tells whether the grammar is any good.
fn summarize(world: &World) {
    let commands = world.commands.load(Ordering::Relaxed);
    println!("\n{commands} commands; of the module, all and those without an error:");
    for (name, (all, good)) in world.answers() {
        println!("  {name:<16} {all:>8} {good:>8}");
    }
}
