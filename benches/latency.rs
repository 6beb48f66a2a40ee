//! How long a client that waits is kept waiting once there is something for it, and how late the
//! machine is by itself.

use crate::measure::{Effort, Lab, quantile};
use crate::wire::{Connection, Requests, encoded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    let summary = |(runner, times): (Runner, Vec<f64>)| {
        let [p50, p99, _] = tail(times);
        Latency { label: runner.label, p50, p99 }
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
    micros(time)
}

/// Half of the times are at most the first, 99 of 100 at most the second, all at most the third.
pub fn tail(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|part| quantile(&times, part))
}

/// A thread that does nothing but sleep, a millisecond at a time: nobody on this machine can be
/// expected to be in time more often than this thread is.
pub struct Sleeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Sleeper {
    /// Begins to sleep.
    pub fn start() -> Self {
        const NAP: Duration = Duration::from_millis(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut late = Vec::new();
            while late.is_empty() || !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                std::thread::sleep(NAP);
                late.push(micros(start.elapsed().saturating_sub(NAP)));
            }
            late
        });
        Self { stop, thread }
    }

    /// How late it woke up, in microseconds, as [`tail`] tells it.
    pub fn stop(self) -> [f64; 3] {
        self.stop.store(true, Ordering::Relaxed);
        tail(self.thread.join().expect("the sleeper wakes up"))
    }
}

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// The time in microseconds since 1970.
pub fn now_us() -> f64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970"))
}

/// Microseconds, as milliseconds.
pub fn millis(micros: f64) -> String {
    format!("{:.2} ms", micros / 1000.0)
}
