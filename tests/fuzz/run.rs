//! Random commands against a real server with the module, by many connections at once, beside a
//! replica and an append-only file that do not know it.
//!
//! `make fuzz SECONDS=60`; `SEED=n` says the same again (when what is said meets is another matter,
//! so a fault may need some runs), `SERVER=path` is the server. It runs in rounds of some seconds,
//! with all checks after each, and exits with 1 at the first thing that is wrong.

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

/// How many threads have connections at once; some of them have many.
const THREADS: u64 = 20;

/// How long a round takes, without its checks.
const ROUND: Duration = Duration::from_secs(8);

/// How often the main thread looks after the others.
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
    println!("\n=== the last that the connections said");
    println!("{}", world.journals());
    println!("=== the master's clients\n{}", clients(&world));
    println!("=== the master's log\n{}", world.master.log_excerpt());
    if world.replica.has_crashed() {
        println!("=== the replica's log\n{}", world.replica.log_excerpt());
    }
    println!("=== FAILED: {failure}");
    println!("=== {}", server_binary().display());
    println!("=== again: make fuzz SEED={seed} SECONDS={}", length.as_secs());
    // A server that crashed would say so again.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(world)));
    ExitCode::FAILURE
}

/// What a panic says.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a text".into())
}

/// Rounds, until the time is over or something is wrong.
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
        // The last of four: so a short run has what a comparison says most about.
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
        checks::nobody_waits(world);
        assert_eq!(checks::identity(&world.master), identity, "the process is the same");
        let before = world.commands.load(Ordering::Relaxed);
        let slowest = world.take_slowest().as_millis();
        println!("round {number}: {before} commands; the operator waited {slowest} ms at most");
        checks::all_agree(world, reload);
        checks::the_module_is_unloaded(world);
    }
}

/// One round: everybody acts for so long.
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
        let count = || world.failure().is_none().then(|| checks::who_waits_is_in_line(world));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(count)) {
            world.fail(text_of(&*panic));
        }
        world.count_is_over();
    });
}

/// The grammars of what a server knows: all of it, and that after which replicas are the same.
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
    // Valkey 8.1 and later propagate MOVE, and COPY to another database, so that master, replica and
    // file may differ.
    if valkey.is_some() {
        leave_out.extend(["MOVE ", "COPY $key $key DB"]);
    }
    // Under load Valkey 9.1 now and then begins it again and again, until its stack is used up.
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

/// Who is connected, and who waits, if the server still answers.
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

/// What was reached, so that one sees whether the grammar is worth anything.
fn summarize(world: &World) {
    let commands = world.commands.load(Ordering::Relaxed);
    println!("\n{commands} commands; of those of the module, answered and not with an error:");
    for (name, (all, good)) in world.answers() {
        println!("  {name:<16} {all:>8} {good:>8}");
    }
}
