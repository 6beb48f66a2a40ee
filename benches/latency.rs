//! The time from a command that wakes a waiting client to the reply of that client, and the jitter of
//! the machine.

use crate::measure::{Effort, Lab, quantile};
use crate::wire::{Connection, Requests, encoded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wake-ups of each contender in a round.
const WAKES: usize = 200;

/// A comparison of commands on which a client waits.
pub struct LatencyCase {
    /// The event that wakes the client.
    pub name: &'static str,
    /// Creates the contenders.
    pub build: fn() -> Vec<LatencyContender>,
}

/// A command on which a client waits, and a command that wakes it.
pub struct LatencyContender {
    /// Its name in the table.
    pub label: &'static str,
    /// Prepares a round.
    pub setup: Requests,
    /// The command on which the client waits.
    pub wait: Vec<u8>,
    /// The command that wakes it.
    pub wake: Vec<u8>,
}

/// The times of a contender, in microseconds.
pub struct LatencyRow {
    /// Its name in the table.
    pub label: &'static str,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// Measures the contenders in turn, round after round.
pub fn measure_latency(case: &LatencyCase, effort: Effort) -> Vec<LatencyRow> {
    let mut lab = Lab::new(effort);
    let mut waiter = Connection::to(lab.server.addr(), 1024);
    let mut contenders: Vec<_> =
        (case.build)().into_iter().map(|contender| (contender, Vec::new())).collect();
    for round in 0..=effort.rounds {
        for (contender, times) in &mut contenders {
            lab.prepare(&contender.setup);
            for _ in 0..WAKES {
                let time = wake(&mut lab, &mut waiter, contender);
                // The first round is a warm-up.
                if round > 0 {
                    times.push(time);
                }
            }
        }
    }
    let row = |(contender, times): (LatencyContender, Vec<f64>)| {
        let [p50, p99, _] = tail(times);
        LatencyRow { label: contender.label, p50, p99 }
    };
    contenders.into_iter().map(row).collect()
}

fn wake(lab: &mut Lab, waiter: &mut Connection, contender: &LatencyContender) -> f64 {
    let waker = &mut lab.connections[0];
    waiter.send(&contender.wait);
    // The server reads its connections in the order in which they become ready, so the waiter is
    // blocked when the PING is answered.
    waker.send(&encoded(&["PING"]));
    waker.expect("+PONG");
    let start = Instant::now();
    waker.send(&contender.wake);
    waiter.expect("");
    let time = start.elapsed();
    waker.expect("");
    micros(time)
}

/// The median, the 99th percentile and the maximum.
pub fn tail(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|part| quantile(&times, part))
}

/// Measures the jitter of the machine: a thread sleeps for a millisecond at a time and notes how late
/// it wakes up. No other thread can be expected to be more punctual.
pub struct Sleeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Sleeper {
    /// Starts the thread.
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

    /// Stops the thread, and returns the [`tail`] of its lateness in microseconds.
    pub fn stop(self) -> [f64; 3] {
        self.stop.store(true, Ordering::Relaxed);
        tail(self.thread.join().expect("the sleeper does not panic"))
    }
}

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// The wall clock, in microseconds since the Unix epoch.
pub fn now_us() -> f64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past the epoch"))
}

/// Formats microseconds as milliseconds.
pub fn millis(micros: f64) -> String {
    format!("{:.2} ms", micros / 1000.0)
}
