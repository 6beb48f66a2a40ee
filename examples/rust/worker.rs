//! A worker: it waits for tasks of several queues, keeps their leases while they run, and returns what it cannot finish.

use crate::client::{Redis, every, lock, ms, new_id};
use crate::task::{Delivery, Failure, GROUP, Lease, Task, UNKNOWN_DELAY};
use redis::{Connection, RedisResult, Value, cmd, from_redis_value};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one request waits; a stop takes as long.
const WAIT: Duration = Duration::from_secs(2);

pub type Handler = Box<dyn Fn(&Task) -> Result<(), Failure> + Send + Sync>;
type Key = (String, String);

pub struct Worker {
    pub redis: Arc<Redis>,
    /// The first one comes first.
    pub queues: Vec<&'static str>,
    pub handlers: HashMap<&'static str, Handler>,
    pub concurrency: usize,
    /// What still runs that long after the stop is returned.
    pub stop_after: Duration,
    pub running: Running,
}

/// The tasks that run, by queue and entry, and the number of their threads.
#[derive(Default)]
pub struct Running {
    tasks: Mutex<HashMap<Key, Arc<Task>>>,
    threads: Mutex<usize>,
    fewer: Condvar,
}

impl Running {
    /// Whether there are at most `most` threads, after waiting for that.
    fn falls_to(&self, most: usize, patience: Duration) -> bool {
        let waited = self.fewer.wait_timeout_while(lock(&self.threads), patience, |n| *n > most);
        *waited.unwrap_or_else(PoisonError::into_inner).0 <= most
    }

    fn tasks(&self) -> Vec<Arc<Task>> {
        lock(&self.tasks).values().cloned().collect()
    }
}

impl Worker {
    /// Works until `stop` is set.
    pub fn run(self, stop: &AtomicBool) -> RedisResult<()> {
        let worker = Arc::new(self);
        let lease = worker.lease()?; // an error: Corral is missing, or the server. A supervisor tries again
        let heartbeat = every(lease / 3, {
            let worker = worker.clone();
            move || {
                worker.beat(lease);
                true
            }
        });
        let waiting = worker.fetch(stop, lease);
        worker.finish();
        drop(heartbeat);
        drop(waiting); // not before: the leases are tied to it
        Ok(())
    }

    /// The shortest lease of the queues.
    fn lease(&self) -> RedisResult<Duration> {
        let mut shortest = Duration::from_secs(86_400); // for queues whose leases never expire
        for queue in &self.queues {
            let mut info: HashMap<String, Value> = self.redis.ask(cmd("TASK.INFO").arg(queue))?;
            let policy = info.remove("policy").unwrap_or(Value::Nil);
            let policy: HashMap<String, u64> = from_redis_value(policy)?;
            match policy.get("lease_ms") {
                None | Some(0) => {}
                Some(lease) => shortest = shortest.min(Duration::from_millis(*lease)),
            }
        }
        Ok(shortest)
    }

    /// Asks for a task whenever one can start at once. What arrives after the stop goes back. Returns the connection.
    fn fetch(self: &Arc<Self>, stop: &AtomicBool, lease: Duration) -> Option<Connection> {
        let mut waiting: Option<(Connection, String)> = None;
        while !stop.load(Ordering::Relaxed) {
            if !self.running.falls_to(self.concurrency - 1, WAIT) {
                continue;
            }
            let consumed = match &mut waiting {
                Some((connection, consumer)) => self.consume(connection, consumer, lease),
                None => self.redis.connect(WAIT).map(|connection| {
                    waiting = Some((connection, new_id()));
                    None
                }),
            };
            match consumed {
                Ok(None) => {}
                Ok(Some(task)) if !self.starts(&task) => {}
                Ok(Some(task)) if stop.load(Ordering::Relaxed) => {
                    self.end(&task, &Err(Failure::Later(Duration::ZERO)));
                }
                Ok(Some(task)) => self.spawn(task),
                Err(error) => {
                    eprintln!("TASK.CONSUME: {error}"); // a failover, a restart, a slot that is being moved
                    // An error of the server does not end the leases that are tied to this connection. If it has become
                    // a replica, the address may lead to another one.
                    if matches!(error.code(), None | Some("READONLY" | "UNBLOCKED")) {
                        waiting = None;
                    }
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
        waiting.map(|(connection, _)| connection)
    }

    /// With `TIED` the leases also end when this connection closes, so the tasks of a process that is killed are
    /// delivered again at once.
    fn consume(
        &self,
        connection: &mut Connection,
        consumer: &str,
        lease: Duration,
    ) -> RedisResult<Option<Arc<Task>>> {
        let mut consume = cmd("TASK.CONSUME");
        consume
            .arg(&[GROUP, consumer, self.queues[0], "BLOCK"])
            .arg(ms(WAIT))
            .arg(&["META", "TIED"]);
        consume.arg("THEN").arg(self.queues.len() - 1).arg(&self.queues[1..]);
        let tasks: Vec<Delivery> = consume.query(connection)?;
        let ends = Instant::now() + lease;
        Ok(tasks.into_iter().next().map(|delivery| {
            let lease = Lease { consumer: consumer.to_owned(), ends, interrupted: false };
            Arc::new(Task::new(delivery, lease))
        }))
    }

    /// Notes a task as running. One that runs here already, because its lease had expired, is not started again.
    fn starts(&self, task: &Arc<Task>) -> bool {
        let mut tasks = lock(&self.running.tasks);
        let here = tasks.entry(key(task)).or_insert_with(|| task.clone());
        if Arc::ptr_eq(here, task) {
            return true;
        }
        let (mut lease, new) = (lock(&here.lease), lock(&task.lease));
        lease.consumer.clone_from(&new.consumer);
        lease.ends = new.ends;
        false
    }

    fn spawn(self: &Arc<Self>, task: Arc<Task>) {
        *lock(&self.running.threads) += 1;
        let worker = self.clone();
        thread::spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| worker.call(&task)));
            let mut outcome = outcome.unwrap_or_else(|_| Err(Failure::Error("panic".into())));
            if outcome.is_err() && task.interrupted() {
                outcome = Err(Failure::Later(Duration::ZERO)); // it has not failed
            }
            worker.end(&task, &outcome);
            *lock(&worker.running.threads) -= 1;
            worker.running.fewer.notify_all();
        });
    }

    fn call(&self, task: &Task) -> Result<(), Failure> {
        let Some(handler) = self.handlers.get(task.name.as_str()) else {
            eprintln!("{} {}: no handler for the task {:?}", task.queue, task.id, task.name);
            return Err(Failure::Later(UNKNOWN_DELAY));
        };
        handler(task)
    }

    /// Reports the outcome, again until the server answers. Otherwise the task would run once more.
    fn end(&self, task: &Arc<Task>, outcome: &Result<(), Failure>) {
        if lock(&self.running.tasks).remove(&key(task)).is_none() {
            return; // `finish` has returned it
        }
        let report = task.report(outcome);
        for tries in 0.. {
            let Err(error) = self.redis.ask::<i64>(&report) else { break };
            eprintln!("{} {}: {error}", task.queue, task.id);
            let refused = error.code().is_some();
            if refused || tries == 10 {
                return; // it is delivered again when its lease expires
            }
            thread::sleep(Duration::from_millis(500));
        }
        let how = match outcome {
            Ok(()) => "done".into(),
            Err(Failure::Error(reason) | Failure::Fatal(reason)) => reason.clone(),
            Err(Failure::Later(delay)) => format!("again in {delay:?}"),
        };
        eprintln!("{} {}: {}, try {}: {how}", task.queue, task.id, task.name, task.attempt);
    }

    /// Renews the leases of all tasks that run, with one command per queue.
    fn beat(&self, lease: Duration) {
        let mut held: HashMap<Key, Vec<Arc<Task>>> = HashMap::new();
        for task in self.running.tasks() {
            let by = (task.queue.clone(), lock(&task.lease).consumer.clone());
            held.entry(by).or_default().push(task);
        }
        for ((queue, consumer), tasks) in held {
            let mut extend = cmd("TASK.EXTEND");
            extend.arg(&[&queue, GROUP, &consumer]);
            for task in &tasks {
                extend.arg(&task.entry);
            }
            let asked = Instant::now();
            let renewed = self.redis.ask(&extend).and_then(|reply| match reply {
                Value::Int(one) => Ok(vec![one]), // for one id it is no array
                several => Ok(from_redis_value(several)?),
            });
            match renewed {
                Ok(renewed) => {
                    for (task, renewed) in tasks.iter().zip(renewed) {
                        let mut now = lock(&task.lease);
                        if renewed == 1 {
                            now.ends = asked + lease;
                        } else if now.consumer == consumer {
                            now.interrupted = true; // another worker has it
                        }
                    }
                }
                Err(error) => eprintln!("TASK.EXTEND: {error}"), // again, until they expire
            }
        }
    }

    /// Waits for what runs, interrupts it when the time is up, and returns what still runs.
    fn finish(&self) {
        eprintln!("stopping: {} tasks run", self.running.tasks().len());
        if self.running.falls_to(0, self.stop_after) {
            return;
        }
        for task in self.running.tasks() {
            lock(&task.lease).interrupted = true;
        }
        if self.running.falls_to(0, Duration::from_secs(2)) {
            return;
        }
        for task in self.running.tasks() {
            self.end(&task, &Err(Failure::Later(Duration::ZERO)));
        }
    }
}

fn key(task: &Task) -> Key {
    (task.queue.clone(), task.entry.clone())
}
