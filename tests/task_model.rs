//! The queue against a model of it: random steps run on a real server and on plain lists in memory.
//! After every step the server's keys, read like a plain client, and `TASK.INFO` must agree with
//! the lists: each task is in exactly one state, the order is kept, and every copy has the id that
//! PUBLISH replied.
//!
//! The steps differ in every run. A failure prints a seed: set `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` to repeat the run; a larger `PROPTEST_CASES` makes it longer.

#[path = "task_model/check.rs"]
mod check;
#[path = "task_model/deliver.rs"]
mod deliver;
#[path = "task_model/model.rs"]
mod model;
#[path = "task_model/snapshot.rs"]
mod snapshot;
#[path = "task_model/steps.rs"]
mod steps;
mod support;
#[path = "task_model/unique.rs"]
mod unique;
#[path = "task_model/world.rs"]
mod world;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use snapshot::{COUNTERS, Counts};
use std::cell::{Cell, RefCell};
use steps::{Groups, step};
use support::*;
use world::World;

/// Runs random steps on a server and on the model, once per case.
#[track_caller]
fn run(server: Server, with: Groups, crashes: bool, cases: u32) {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = from_env("PROPTEST_RNG_SEED").unwrap_or_else(|| now_ms().unsigned_abs());
    let given = from_env("PROPTEST_CASES").and_then(|cases| u32::try_from(cases).ok());
    let cases = given.unwrap_or(cases);
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // Each one is a run on the server.
        max_shrink_iters: 400,
        max_shrink_time: 40_000,
        ..ProptestConfig::default()
    };
    let server = RefCell::new(server);
    let steps = prop::collection::vec(step(with, crashes), 1..150);
    let (totals, killed) = (RefCell::new(Counts::new()), Cell::new(0));
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let mut world = World::new(&server, with);
        world.check();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.check_counts();
        for (name, count) in &world.totals {
            *totals.borrow_mut().entry(name).or_default() += count;
        }
        killed.set(killed.get() + world.crashes);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} repeats this:\n{failure}");
    }
    let (totals, killed) = (totals.into_inner(), killed.get());
    println!("PROPTEST_RNG_SEED={seed}, {cases} cases, killed {killed} times: {totals:?}");
    // Few cases need not do everything.
    if cases >= FEWEST {
        let of_one_group: &[&str] = if with == Groups::One { &unique::TOTALS } else { &[] };
        for name in COUNTERS.iter().chain(of_one_group) {
            assert!(totals.get(name).is_some_and(|count| *count > 0), "nothing was {name}");
        }
        assert_eq!(killed > 0, crashes);
    }
}

/// From this number of cases on, every counter has grown.
const FEWEST: u32 = 20;

#[test]
fn a_queue_with_one_group_agrees_with_the_model() {
    run(Server::start(), Groups::One, false, 35);
}

#[test]
fn a_queue_with_two_groups_agrees_with_the_model() {
    run(Server::start(), Groups::Two, false, 35);
}

#[test]
fn a_queue_with_a_later_second_group_agrees_with_the_model() {
    run(Server::start(), Groups::SecondLater, false, 35);
}

#[test]
fn a_queue_agrees_with_the_model_when_the_server_is_killed_between_steps() {
    run(Server::builder().aof(true).start(), Groups::Two, true, 20);
}
