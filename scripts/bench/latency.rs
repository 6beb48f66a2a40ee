//! How long a client that waits is kept waiting once there is something for it.

use crate::measure::{Effort, Lab, quantile};
use crate::wire::{Connection, Requests, encoded};
use std::time::Instant;

/// How often each contender wakes its client in a round.
const WAKES: usize = 200;

/// A comparison of clients that wait.
pub struct Race {
    /// What is measured.
    pub name: &'static str,
    /// The contenders.
    pub contenders: fn() -> Vec<Runner>,
}

/// A client that waits and a command that ends the waiting.
pub struct Runner {
    /// What it is called in the table.
    pub label: &'static str,
    /// Sent before every round.
    pub before: Requests,
    /// Makes a client wait.
    pub wait: Vec<u8>,
    /// Ends its waiting.
    pub wake: Vec<u8>,
}

/// From the moment the waking command is sent to the moment the other client has its reply.
pub struct Latency {
    /// Whose it is.
    pub label: &'static str,
    /// Half of them are shorter, in microseconds.
    pub p50: f64,
    /// All but one of a hundred are shorter, in microseconds.
    pub p99: f64,
}

/// Lets the contenders run in turn.
pub fn race(race: &Race, effort: Effort) -> Vec<Latency> {
    let mut lab = Lab::new(effort);
    let mut waiter = Connection::to(lab.server.addr(), 1024);
    let mut runners: Vec<_> =
        (race.contenders)().into_iter().map(|runner| (runner, Vec::new())).collect();
    for round in 0..=effort.rounds {
        for (runner, times) in &mut runners {
            lab.arrange(&runner.before);
            for _ in 0..WAKES {
                let time = wake(&mut lab, &mut waiter, runner);
                if round > 0 {
                    times.push(time);
                }
            }
        }
    }
    let summary = |(runner, mut times): (Runner, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        Latency { label: runner.label, p50: quantile(&times, 0.5), p99: quantile(&times, 0.99) }
    };
    runners.into_iter().map(summary).collect()
}

fn wake(lab: &mut Lab, waiter: &mut Connection, runner: &Runner) -> f64 {
    let waker = &mut lab.connections[0];
    waiter.send(&runner.wait);
    // The server looks at its connections in the order in which they became ready, so the waiter
    // waits when this is answered.
    waker.send(&encoded(&["PING"]));
    waker.expect("+PONG");
    let start = Instant::now();
    waker.send(&runner.wake);
    waiter.expect("");
    let time = start.elapsed();
    waker.expect("");
    time.as_nanos() as f64 / 1000.0
}
