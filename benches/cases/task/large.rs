//! Numbers that grow: what a million tasks leave behind in the memory, and what a million delayed
//! tasks, or very many leases that end, mean for clients that have nothing to do with them.

use super::super::{Study, verdict};
use super::cycle::Style;
use super::{empty_stream, payload, postpone, task_in, thousands};
use crate::Column;
use crate::latency::{Sleeper, micros, millis, tail};
use crate::measure::{Effort, Lab};
use crate::support::{SOON, Server, args, eventually, module_path, now_ms};
use crate::swarm::{Event, Swarm};
use crate::wire::{Connection, encoded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The studies.
pub const STUDIES: &[Study] = &[
    Study {
        name: "what tasks leave in memory",
        columns: &[
            Column("what tasks leave in memory", 43, false),
            Column("tasks", 10, true),
            Column("used before", 11, true),
            Column("used after", 11, true),
            Column("each task", 10, true),
            Column("bar", 18, true),
            Column("process", 10, true),
        ],
        run: memory,
    },
    Study {
        name: "how long others wait",
        columns: &[
            Column("how long others wait", 45, false),
            Column("p50", 8, true),
            Column("p99", 8, true),
            Column("max", 9, true),
            Column("tasks done", 10, true),
            Column("a sleeper: p50, p99, max", 27, true),
        ],
        run: bystanders,
    },
];

/// What tasks go through.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Published, consumed, acknowledged.
    Short,
    /// Published with a priority and under a unique id to one of many queues, handed back, consumed
    /// again, acknowledged.
    Long,
    /// Published, consumed and acknowledged by native commands, which leave the entry where it is.
    Kept,
}

fn memory(effort: Effort) -> Vec<Vec<String>> {
    const KIB: f64 = 1024.0;
    let ways = [
        (Way::Short, "PUBLISH, CONSUME, ACK"),
        (Way::Long, "1,000 queues, PRIORITY, UNIQUE, NACK SILENT"),
        (Way::Kept, "XADD, XREADGROUP, XACK"),
    ];
    let rows = ways.map(|(way, label)| {
        let mut lab = Lab::new(effort);
        // The longer way takes longer.
        let tasks = if way == Way::Long { effort.tasks / 4 } else { effort.tasks };
        lab.arrange(&empty_stream("tasks"));
        // What is allocated once is there before the count begins.
        go(&mut lab, way, 0..tasks / 10);
        let (used, resident) = (used_memory(&mut lab), resident_kib(&lab.server));
        go(&mut lab, way, tasks / 10..tasks * 11 / 10);
        let (used_after, resident_after) = (used_memory(&mut lab), resident_kib(&lab.server));
        let growth = used_after - used;
        // Some buffers, or a byte for each: what is kept of a task would be more.
        let flat = growth <= (256.0 * KIB).max(tasks as f64);
        vec![
            label.into(),
            thousands(tasks),
            format!("{:.0} KiB", used / KIB),
            format!("{:.0} KiB", used_after / KIB),
            format!("{:+.2} B", growth / tasks as f64),
            if way == Way::Kept { String::new() } else { verdict("flat", flat) },
            format!("{:+.0} KiB", resident_after - resident),
        ]
    });
    rows.into()
}

/// Sends tasks their way, some at a time.
fn go(lab: &mut Lab, way: Way, tasks: std::ops::Range<usize>) {
    const AT_ONCE: usize = 250;
    const QUEUES: usize = 1000;
    for from in tasks.clone().step_by(AT_ONCE) {
        let numbers = from..tasks.end.min(from + AT_ONCE);
        let queue = |number: usize| match way {
            Way::Long => format!("tasks:{}", number % QUEUES),
            _ => "tasks".to_owned(),
        };
        let consume = |number: usize| match way {
            Way::Kept => {
                let read = args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", 1];
                encoded(&[&read[..], &args!["STREAMS", queue(number), ">"]].concat())
            }
            _ => encoded(&args!["TASK.CONSUME", "workers", "w1", queue(number)]),
        };
        let publish = |number: usize| match way {
            Way::Short => Style::Corral.publish("tasks"),
            Way::Kept => Style::Native.publish("tasks"),
            Way::Long => {
                let unique = format!("order-{number}");
                let publish = args!["TASK.PUBLISH", queue(number), payload(), "PRIORITY"];
                let rest = args![number % 10, "UNIQUE", unique, 3_600_000];
                encoded(&[&publish[..], &rest[..]].concat())
            }
        };
        all(lab, numbers.clone(), publish);
        let mut ids = all(lab, numbers.clone(), consume);
        if way == Way::Long {
            all(lab, numbers.clone(), |number| {
                let id = &ids[number - from];
                encoded(&args!["TASK.NACK", queue(number), "workers", "w1", "SILENT", id])
            });
            ids = all(lab, numbers.clone(), consume);
        }
        all(lab, numbers.clone(), |number| {
            let id = &ids[number - from];
            match way {
                Way::Kept => encoded(&args!["XACK", "tasks", "workers", id]),
                _ => encoded(&args!["TASK.ACK", queue(number), "workers", id]),
            }
        });
        if way == Way::Long {
            // Sooner than it would expire.
            all(lab, numbers, |number| {
                let queue = queue(number);
                encoded(&args!["DEL", format!("unique{}:{{{queue}}}:order-{number}", queue.len())])
            });
        }
    }
}

/// Sends a command for each number at once. The ids of the tasks that the replies bring.
fn all(
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

/// The memory that the server, and with it the module, has allocated.
fn used_memory(lab: &mut Lab) -> f64 {
    let used = lab.client.info("memory", "used_memory").expect("INFO has used_memory");
    used.parse().expect("a number")
}

fn resident_kib(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What goes on while a bystander reads.
#[derive(Clone, Copy, PartialEq)]
enum Scene {
    /// Tasks come one by one, and workers wait for them.
    Quiet,
    /// The same, and very many are delayed.
    Delayed,
    /// Very many were delayed, and all of them are due at the same moment.
    Due,
    /// Somebody has leased very many, and all the leases have ended.
    Expired,
    /// The same, on a server that has just loaded the module and knows of no lease.
    Reloaded,
}

fn bystanders(effort: Effort) -> Vec<Vec<String>> {
    let leases = (effort.tasks / 10).min(100_000);
    let (delayed, leased) = (thousands(effort.tasks), thousands(leases));
    let scenes = [
        (Scene::Quiet, "8 workers, a task every ms".to_owned(), 0),
        (Scene::Delayed, format!("{delayed} delayed, none due"), effort.tasks),
        (Scene::Due, format!("{delayed} delayed, all due at once"), effort.tasks),
        (Scene::Expired, format!("{leased} leases have ended"), leases),
        (Scene::Reloaded, format!("{leased} leases, module just loaded"), leases),
    ];
    let rows = scenes.map(|(scene, label, tasks)| {
        let mut lab = Lab::new(effort);
        set(&mut lab, scene, tasks);
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

/// Makes everything ready for the workers.
fn set(lab: &mut Lab, scene: Scene, tasks: usize) {
    const LEASE_MS: usize = 1000;
    lab.arrange(&empty_stream(QUEUE));
    match scene {
        Scene::Quiet => {}
        Scene::Delayed => postpone(lab, QUEUE, tasks, now_ms() + 3_600_000),
        Scene::Due => {
            // More than publishing takes. What comes too late goes into the stream at once.
            let due = now_ms() + 1000 + tasks as i64 / 50;
            postpone(lab, QUEUE, tasks, due);
            let patience = Duration::from_millis((due - now_ms()).max(0) as u64) + SOON;
            eventually(patience, "all tasks are due", || now_ms() > due);
        }
        Scene::Expired | Scene::Reloaded => {
            let policy = lab.client.cmd(&args!["TASK.POLICY", QUEUE, "LEASE", LEASE_MS]);
            assert!(!policy.is_error(), "TASK.POLICY: {policy:?}");
            for from in (0..tasks).step_by(1000) {
                let some = 1000.min(tasks - from);
                lab.connections[0].send(&Style::Corral.publish(QUEUE).repeat(some));
                (0..some).for_each(|_| lab.connections[0].expect("$"));
                let take = args!["TASK.CONSUME", "workers", "who is gone", QUEUE, some];
                lab.connections[0].send(&encoded(&take));
                lab.connections[0].expect("*1");
            }
            let end = now_ms() + LEASE_MS as i64;
            eventually(SOON, "all leases have ended", || now_ms() > end);
            if scene == Scene::Reloaded {
                let module = module_path().display().to_string();
                for step in [vec!["UNLOAD", "corral"], vec!["LOAD", &module]] {
                    let reply = lab.client.cmd(&[&["MODULE"], &step[..]].concat());
                    assert!(!reply.is_error(), "{step:?}: {reply:?}");
                }
            }
        }
    }
}

/// Workers take one task after the other for some seconds, and a producer publishes one every
/// millisecond. How many tasks were done.
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

/// A client that reads a key again and again, with a pause in between.
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

    /// How long the replies took.
    fn stop(self) -> [f64; 3] {
        self.stop.store(true, Ordering::Relaxed);
        tail(self.thread.join().expect("every read is answered"))
    }
}
