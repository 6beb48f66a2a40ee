//! Large numbers: the memory that a million tasks leave behind, and the latency of unrelated clients
//! beside a million delayed tasks or a hundred thousand expired leases.

use super::super::{Study, used_memory};
use super::cycle::Style;
use super::{empty_stream, payload, publish_delayed, task_in, thousands};
use crate::latency::{Sleeper, micros, millis, tail};
use crate::measure::{Effort, Lab};
use crate::support::{SOON, Server, args, eventually, module_path, now_ms};
use crate::swarm::{Event, Swarm};
use crate::table::Column;
use crate::verdict::Verdict;
use crate::wire::{Connection, encoded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The studies.
pub const STUDIES: &[Study] = &[
    Study {
        name: "memory after finished tasks",
        columns: &[
            Column("memory after finished tasks", 43, false),
            Column("tasks", 10, true),
            Column("used before", 11, true),
            Column("used after", 11, true),
            Column("per task", 10, true),
            Column("bar", 18, true),
            Column("process", 10, true),
        ],
        run: memory,
    },
    Study {
        name: "latency of other clients",
        columns: &[
            Column("latency of other clients", 45, false),
            Column("p50", 8, true),
            Column("p99", 8, true),
            Column("max", 9, true),
            Column("tasks done", 10, true),
            Column("jitter: p50, p99, max", 27, true),
        ],
        run: bystanders,
    },
];

/// The life of the tasks.
#[derive(Clone, Copy, PartialEq)]
enum Life {
    /// Published, consumed, acknowledged.
    Short,
    /// Published with a priority and a UNIQUE id to one of many queues, returned, consumed again,
    /// acknowledged.
    Long,
    /// Published, consumed and acknowledged with native commands, which keep the entry.
    Kept,
}

fn memory(effort: Effort) -> Vec<Vec<String>> {
    const KIB: f64 = 1024.0;
    let lives = [
        (Life::Short, "PUBLISH, CONSUME, ACK"),
        (Life::Long, "1,000 queues, PRIORITY, UNIQUE, NACK SILENT"),
        (Life::Kept, "XADD, XREADGROUP, XACK"),
    ];
    let rows = lives.map(|(life, label)| {
        let mut lab = Lab::new(effort);
        // The long life takes more time.
        let tasks = if life == Life::Long { effort.tasks / 4 } else { effort.tasks };
        lab.prepare(&empty_stream("tasks"));
        // One-time allocations happen before the count starts.
        process(&mut lab, life, 0..tasks / 10);
        let (used, resident) = (used_memory(&mut lab), resident_kib(&lab.server));
        process(&mut lab, life, tasks / 10..tasks * 11 / 10);
        let (used_after, resident_after) = (used_memory(&mut lab), resident_kib(&lab.server));
        let growth = used_after - used;
        // Allows for buffers, or one byte per task: a leftover of a task would be larger.
        let verdict = Verdict::at_most(growth, (256.0 * KIB).max(tasks as f64), 0.0);
        vec![
            label.into(),
            thousands(tasks),
            format!("{:.0} KiB", used / KIB),
            format!("{:.0} KiB", used_after / KIB),
            format!("{:+.2} B", growth / tasks as f64),
            if life == Life::Kept { String::new() } else { verdict.cell("no growth") },
            format!("{:+.0} KiB", resident_after - resident),
        ]
    });
    rows.into()
}

/// Takes tasks through their life, in batches.
fn process(lab: &mut Lab, life: Life, tasks: std::ops::Range<usize>) {
    const BATCH: usize = 250;
    const QUEUES: usize = 1000;
    for from in tasks.clone().step_by(BATCH) {
        let numbers = from..tasks.end.min(from + BATCH);
        let queue = |number: usize| match life {
            Life::Long => format!("tasks:{}", number % QUEUES),
            _ => "tasks".to_owned(),
        };
        let consume = |number: usize| match life {
            Life::Kept => {
                let read = args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", 1];
                encoded(&[&read[..], &args!["STREAMS", queue(number), ">"]].concat())
            }
            _ => encoded(&args!["TASK.CONSUME", "workers", "w1", queue(number)]),
        };
        let publish = |number: usize| match life {
            Life::Short => Style::Corral.publish("tasks"),
            Life::Kept => Style::Native.publish("tasks"),
            Life::Long => {
                let unique = format!("order-{number}");
                let publish = args!["TASK.PUBLISH", queue(number), payload(), "PRIORITY"];
                let rest = args![number % 10, "UNIQUE", unique, 3_600_000];
                encoded(&[&publish[..], &rest[..]].concat())
            }
        };
        send_all(lab, numbers.clone(), publish);
        let mut ids = send_all(lab, numbers.clone(), consume);
        if life == Life::Long {
            send_all(lab, numbers.clone(), |number| {
                let id = &ids[number - from];
                encoded(&args!["TASK.NACK", queue(number), "workers", "w1", "SILENT", id])
            });
            ids = send_all(lab, numbers.clone(), consume);
        }
        send_all(lab, numbers.clone(), |number| {
            let id = &ids[number - from];
            match life {
                Life::Kept => encoded(&args!["XACK", "tasks", "workers", id]),
                _ => encoded(&args!["TASK.ACK", queue(number), "workers", id]),
            }
        });
        if life == Life::Long {
            // Does not wait for the keys to expire.
            send_all(lab, numbers, |number| {
                let queue = queue(number);
                encoded(&args!["DEL", format!("unique{}:{{{queue}}}:order-{number}", queue.len())])
            });
        }
    }
}

/// Sends a command for each number in one batch, and returns the ids of the tasks in the replies.
fn send_all(
    lab: &mut Lab,
    numbers: std::ops::Range<usize>,
    command: impl Fn(usize) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let connection = &mut lab.connections[0];
    connection.send(&numbers.clone().flat_map(command).collect::<Vec<_>>());
    let ids = numbers.map(|_| {
        connection.reply(|reply| {
            assert!(!reply.starts_with(b"-") && reply != b":0\r\n", "{}", reply.escape_ascii());
            task_in(reply).map(|(id, _)| id.to_vec()).unwrap_or_default()
        })
    });
    ids.collect()
}

fn resident_kib(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The load on the server while a bystander reads.
#[derive(Clone, Copy, PartialEq)]
enum Scenario {
    /// Tasks arrive one by one, and workers wait for them.
    Quiet,
    /// The same, with very many delayed tasks.
    Delayed,
    /// The same, with very many delayed tasks that become due at the same moment.
    Due,
    /// The same, with very many leases that have expired.
    Expired,
    /// The same, after a reload of the module, which has forgotten the leases.
    Reloaded,
}

fn bystanders(effort: Effort) -> Vec<Vec<String>> {
    let leases = (effort.tasks / 10).min(100_000);
    let (delayed, leased) = (thousands(effort.tasks), thousands(leases));
    let scenarios = [
        (Scenario::Quiet, "8 workers, a task every ms".to_owned(), 0),
        (Scenario::Delayed, format!("{delayed} delayed, none due"), effort.tasks),
        (Scenario::Due, format!("{delayed} delayed, all due at once"), effort.tasks),
        (Scenario::Expired, format!("{leased} expired leases"), leases),
        (Scenario::Reloaded, format!("{leased} expired leases, module reload"), leases),
    ];
    let rows = scenarios.map(|(scenario, label, tasks)| {
        let mut lab = Lab::new(effort);
        set_up(&mut lab, scenario, tasks);
        let bystander = Bystander::start(&lab.server);
        let sleeper = Sleeper::start();
        let done = workers(&mut lab);
        let late = bystander.stop();
        vec![
            label,
            millis(late[0]),
            millis(late[1]),
            millis(late[2]),
            done.to_string(),
            sleeper.stop().map(millis).join(", "),
        ]
    });
    rows.into()
}

const QUEUE: &str = "mail:1";

/// Prepares the scenario.
fn set_up(lab: &mut Lab, scenario: Scenario, tasks: usize) {
    const LEASE_MS: usize = 1000;
    lab.prepare(&empty_stream(QUEUE));
    match scenario {
        Scenario::Quiet => {}
        Scenario::Delayed => publish_delayed(lab, QUEUE, tasks, now_ms() + 3_600_000),
        Scenario::Due => {
            // Longer than publishing takes. A late task goes into the stream immediately.
            let due = now_ms() + 1000 + tasks as i64 / 50;
            publish_delayed(lab, QUEUE, tasks, due);
            let timeout = Duration::from_millis((due - now_ms()).max(0) as u64) + SOON;
            eventually(timeout, "all tasks are due", || now_ms() > due);
        }
        Scenario::Expired | Scenario::Reloaded => {
            let policy = lab.client.cmd(&args!["TASK.POLICY", QUEUE, "LEASE", LEASE_MS]);
            assert!(!policy.is_error(), "TASK.POLICY: {policy:?}");
            for from in (0..tasks).step_by(1000) {
                let some = 1000.min(tasks - from);
                lab.connections[0].send(&Style::Corral.publish(QUEUE).repeat(some));
                (0..some).for_each(|_| lab.connections[0].expect("$"));
                let take = args!["TASK.CONSUME", "workers", "crashed", QUEUE, some];
                lab.connections[0].send(&encoded(&take));
                lab.connections[0].expect("*1");
            }
            let end = now_ms() + LEASE_MS as i64;
            eventually(SOON, "all leases have expired", || now_ms() > end);
            if scenario == Scenario::Reloaded {
                let module = module_path().display().to_string();
                for step in [vec!["UNLOAD", "corral"], vec!["LOAD", &module]] {
                    let reply = lab.client.cmd(&[&["MODULE"], &step[..]].concat());
                    assert!(!reply.is_error(), "{step:?}: {reply:?}");
                }
            }
        }
    }
}

/// Workers process tasks for some seconds while a producer publishes one every millisecond. Returns the
/// number of finished tasks.
fn workers(lab: &mut Lab) -> usize {
    const FOR: Duration = Duration::from_secs(4);
    const WORKERS: usize = 8;
    const PRODUCER: usize = WORKERS;
    let mut swarm = Swarm::new(&lab.server, WORKERS + 1);
    let publish = Style::Corral.publish(QUEUE);
    let asks: Vec<_> =
        (0..WORKERS).map(|member| Style::Corral.ask(QUEUE, &format!("w{member}"))).collect();
    (0..WORKERS).for_each(|member| swarm.send(member, &asks[member]));
    swarm.sleep(PRODUCER, Duration::ZERO);
    let (mut done, mut has_task) = (0, [false; WORKERS]);
    let end = Instant::now() + FOR;
    while let Some(event) = swarm.next(end) {
        match event {
            Event::Alarm(producer) => swarm.send(producer, &publish),
            Event::Reply(PRODUCER) => {
                swarm.reply(PRODUCER, |_| ());
                swarm.sleep(PRODUCER, Duration::from_millis(1));
            }
            Event::Reply(member) if has_task[member] => {
                swarm.reply(member, |reply| assert_eq!(reply, b":1\r\n"));
                (done, has_task[member]) = (done + 1, false);
                swarm.send(member, &asks[member]);
            }
            Event::Reply(member) => {
                let finish = swarm.reply(member, |reply| {
                    let (id, _) = task_in(reply).expect("a task");
                    Style::Corral.finish(QUEUE, id)
                });
                has_task[member] = true;
                swarm.send(member, &finish);
            }
        }
    }
    done
}

/// A client that reads a key again and again, with a pause after each read.
struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Bystander {
    fn start(server: &Server) -> Self {
        const PAUSE: Duration = Duration::from_micros(200);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut connection = Connection::to(server.addr(), 1024);
        let get = encoded(&["GET", "other:00000001"]);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while times.is_empty() || !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                connection.send(&get);
                connection.expect("$1");
                times.push(micros(start.elapsed()));
                thread::sleep(PAUSE);
            }
            times
        });
        Self { stop, thread }
    }

    /// Stops, and returns the [`tail`] of the latencies.
    fn stop(self) -> [f64; 3] {
        self.stop.store(true, Ordering::Relaxed);
        tail(self.thread.join().expect("every read is answered"))
    }
}
