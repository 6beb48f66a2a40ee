//! Punctuality: delayed tasks that become due, and leases of killed workers that expire.

use super::super::lock_waiting::POLL_INTERVAL;
use super::super::{Study, name_once};
use super::cycle::Style;
use super::{empty_stream, publish_delayed, task_in, thousands};
use crate::latency::{Sleeper, millis, now_us, tail};
use crate::measure::{Effort, Lab};
use crate::support::{Random, SOON, args, eventually, now_ms, spawn};
use crate::swarm::{Event, Swarm};
use crate::table::Column;
use crate::verdict::Verdict;
use crate::wire::{Connection, bulks, encoded};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The studies.
pub const STUDIES: &[Study] = &[
    Study {
        name: "a delayed task is due",
        columns: &[
            Column("a delayed task is due", 30, false),
            Column("client", 27, false),
            Column("p50 late", 9, true),
            Column("p99 late", 9, true),
            Column("max late", 9, true),
            Column("bar (p50, p99)", 20, true),
            Column("jitter: p50, p99, max", 27, true),
        ],
        run: delays,
    },
    Study {
        name: "a killed worker's lease expires",
        columns: &[
            Column("a killed worker's lease expires", 34, false),
            Column("client", 30, false),
            Column("p50 late", 9, true),
            Column("p99 late", 9, true),
            Column("max late", 9, true),
            Column("bar (max)", 15, true),
            Column("jitter: p50, p99, max", 27, true),
        ],
        run: recoveries,
    },
];

/// The option that turns this program into a worker that will be killed.
pub const VICTIM: &str = "--victim";

/// A script that moves due tasks to a stream.
const MOVE_DUE: &str = "
    local time = redis.call('TIME')
    local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)
    for _, task in ipairs(due) do
        redis.call('XADD', KEYS[2], '*', 'payload', string.match(task, '%S+$'),
            'timestamp', time[1], 'retry_count', 0)
        redis.call('ZREM', KEYS[1], task)
    end
    return #due";

/// A thousand tasks become due at random times within four seconds while consumers wait. The lateness of
/// a task is the time from its due time to its delivery.
fn delays(effort: Effort) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for others in [0, effort.tasks] {
        let of_size = [Style::Corral, Style::Native].map(|style| {
            let mut lab = Lab::new(effort);
            lab.prepare(&empty_stream(REMINDERS));
            publish_delayed(&mut lab, REMINDERS, others, now_ms() + 3_600_000);
            let (late, jitter) = reminders(&mut lab, style);
            let ours = style == Style::Corral;
            let p50 = Verdict::in_time(late[0], 2000.0, jitter[0]);
            let p99 = Verdict::in_time(late[1], 5000.0, jitter[1]);
            vec![
                match others {
                    0 => "no other tasks".into(),
                    _ => format!("{} other delayed tasks", thousands(others)),
                },
                if ours { "TASK.PUBLISH AT" } else { "Lua, polled every 100 ms" }.into(),
                millis(late[0]),
                millis(late[1]),
                millis(late[2]),
                if ours { p50.max(p99).cell("<= 2, <= 5 ms") } else { String::new() },
                jitter.map(millis).join(", "),
            ]
        });
        rows.extend(name_once(of_size.into()));
    }
    rows
}

/// The queue, and the key of its delayed tasks.
const REMINDERS: &str = "reminders";
const DELAYED: &str = "delayed:{reminders}";

/// The lateness of the tasks, and the jitter of the machine in the same time.
fn reminders(lab: &mut Lab, style: Style) -> ([f64; 3], [f64; 3]) {
    const TASKS: usize = 1000;
    const CONSUMERS: usize = 16;
    /// The client that moves due tasks when native commands are measured.
    const MOVER: usize = CONSUMERS;
    let script = lab.script(MOVE_DUE);
    let move_due = encoded(&args!["EVALSHA", script, 2, DELAYED, REMINDERS]);
    let asks: Vec<_> =
        (0..CONSUMERS).map(|member| style.ask(REMINDERS, &format!("w{member}"))).collect();
    let mut swarm = Swarm::new(&lab.server, CONSUMERS + 1);
    (0..CONSUMERS).for_each(|member| swarm.send(member, &asks[member]));
    let mut random = Random::new(5);
    let first = now_ms() + 500;
    for number in 0..TASKS {
        let due = first + random.below(4000) as i64;
        let reply = match style {
            Style::Corral => lab.client.cmd(&args!["TASK.PUBLISH", REMINDERS, due, "AT", due]),
            Style::Native => {
                let member = format!("{due}-1{number:018} 0 0 - {due}");
                lab.client.cmd(&args!["ZADD", DELAYED, due, member])
            }
        };
        assert!(!reply.is_error(), "the task was not published: {reply:?}");
    }
    let sleeper = Sleeper::start();
    if style == Style::Native {
        swarm.sleep(MOVER, POLL_INTERVAL);
    }
    let mut late = Vec::with_capacity(TASKS);
    while late.len() < TASKS {
        match swarm.next(Instant::now() + SOON).expect("a task is due soon") {
            Event::Alarm(mover) => swarm.send(mover, &move_due),
            Event::Reply(MOVER) => {
                swarm.reply(MOVER, |_| ());
                swarm.sleep(MOVER, POLL_INTERVAL);
            }
            Event::Reply(member) => {
                let now = now_us();
                let due = swarm.reply(member, |reply| {
                    let (_, payload) = task_in(reply).expect("a task");
                    String::from_utf8_lossy(payload)
                        .parse::<f64>()
                        .expect("the payload is the due time")
                });
                late.push(now - due * 1000.0);
                swarm.send(member, &asks[member]);
            }
        }
    }
    (tail(late), sleeper.stop())
}

/// The lease of the workers that are killed.
const LEASE_MS: i64 = 1000;

/// Each worker is a process with one task. It is killed while another worker waits. The lateness is the
/// time from the expiry of the lease to the next delivery.
fn recoveries(effort: Effort) -> Vec<Vec<String>> {
    const ROUNDS: usize = 4;
    let mut lab = Lab::new(effort);
    let rows = [Style::Corral, Style::Native].map(|style| {
        let sleeper = Sleeper::start();
        let late = (0..ROUNDS).flat_map(|round| after_kills(&mut lab, style, round));
        let late = tail(late.collect());
        let jitter = sleeper.stop();
        let verdict = Verdict::in_time(late[2], 50_000.0, jitter[2]);
        let ours = style == Style::Corral;
        vec![
            "to a waiting consumer".into(),
            if ours { "TASK.CONSUME" } else { "XREADGROUP BLOCK, XAUTOCLAIM" }.into(),
            millis(late[0]),
            millis(late[1]),
            millis(late[2]),
            if ours { verdict.cell("<= 50 ms") } else { String::new() },
            jitter.map(millis).join(", "),
        ]
    });
    name_once(rows.into())
}

fn after_kills(lab: &mut Lab, style: Style, round: usize) -> Vec<f64> {
    const WORKERS: usize = 16;
    let queues: Vec<_> =
        (0..WORKERS).map(|number| format!("shift:{}:{round}:{number}", style as u32)).collect();
    for queue in &queues {
        lab.prepare(&empty_stream(queue));
        if style == Style::Corral {
            let reply = lab.client.cmd(&args!["TASK.POLICY", queue, "LEASE", LEASE_MS]);
            assert!(!reply.is_error(), "TASK.POLICY: {reply:?}");
        }
        lab.connections[0].send(&style.publish(queue));
        lab.connections[0].expect("$");
    }
    let mut swarm = Swarm::new(&lab.server, WORKERS);
    let victims = queues.iter().map(|queue| victim(lab.server.port(), style, queue));
    let mut victims: Vec<_> = victims.collect();
    let ends: Vec<_> = queues.iter().map(|queue| lease_end(lab, queue)).collect();
    let mut successors = Successors::new(style, &queues, round);
    (0..WORKERS).for_each(|member| successors.ask(&mut swarm, member));
    for victim in &mut victims {
        victim.kill().expect("kill a worker");
        victim.wait().expect("a killed worker ends");
    }
    let killed = now_us();
    let (mut late, mut recovered) = (Vec::new(), 0);
    while recovered < WORKERS {
        let Some(Event::Reply(member)) = swarm.next(Instant::now() + SOON) else {
            panic!("{recovered} of {WORKERS} tasks were delivered again");
        };
        if successors.took_over(&mut swarm, member) {
            recovered += 1;
            let end = ends[member] as f64 * 1000.0;
            // On a very busy machine the lease may expire before the kill.
            if killed < end {
                late.push(now_us() - end);
            }
        }
    }
    late
}

/// The consumers that wait to take over. With native commands they alternate between a read of one
/// second and an attempt to claim.
struct Successors {
    style: Style,
    queues: Vec<String>,
    claiming: Vec<bool>,
    random: Random,
}

impl Successors {
    fn new(style: Style, queues: &[String], round: usize) -> Self {
        let (queues, claiming) = (queues.to_vec(), vec![false; queues.len()]);
        Self { style, queues, claiming, random: Random::new(round as u64) }
    }

    fn ask(&mut self, swarm: &mut Swarm, member: usize) {
        let timeout = 1 + self.random.below(1000);
        self.read(swarm, member, timeout);
    }

    fn read(&mut self, swarm: &mut Swarm, member: usize, timeout: usize) {
        let queue = &self.queues[member];
        self.claiming[member] = false;
        let ask = match self.style {
            Style::Corral => self.style.ask(queue, "successor"),
            Style::Native => {
                let read =
                    args!["XREADGROUP", "GROUP", "workers", "successor", "COUNT", 1, "BLOCK"];
                let rest = args![timeout, "STREAMS", queue, ">"];
                encoded(&[&read[..], &rest[..]].concat())
            }
        };
        swarm.send(member, &ask);
    }

    /// Whether the reply has the task. Otherwise the member tries again.
    fn took_over(&mut self, swarm: &mut Swarm, member: usize) -> bool {
        if swarm.reply(member, |reply| bulks(reply).contains(&&b"payload"[..])) {
            return true;
        }
        assert!(self.style == Style::Native, "a wait without a timeout ended without a task");
        if self.claiming[member] {
            self.read(swarm, member, 1000);
        } else {
            let queue = &self.queues[member];
            let claim = args!["XAUTOCLAIM", queue, "workers", "successor", LEASE_MS, 0, "COUNT", 1];
            self.claiming[member] = true;
            swarm.send(member, &encoded(&claim));
        }
        false
    }
}

/// Starts a process that leases the only task of a queue and then does nothing.
fn victim(port: u16, style: Style, queue: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    let style = if style == Style::Corral { "corral" } else { "native" };
    command.args([VICTIM, &port.to_string(), style, queue]).stdin(Stdio::null());
    spawn(command).expect("start a worker")
}

/// Runs in that process.
pub fn run_victim(args: &[String]) -> ! {
    let [port, style, queue] = args else { panic!("{VICTIM} PORT STYLE QUEUE") };
    let style = if style == "corral" { Style::Corral } else { Style::Native };
    let port = port.parse().expect("a port");
    let mut connection = Connection::to(([127, 0, 0, 1], port).into(), 1024);
    connection.send(&style.ask(queue, "victim"));
    connection.expect("*1");
    loop {
        std::thread::park();
    }
}

/// Waits until the only task of a queue is leased, and returns the expiry of the lease.
fn lease_end(lab: &mut Lab, queue: &str) -> i64 {
    eventually(SOON, "the worker has its task", || {
        let info = lab.client.cmd(&args!["XINFO", "STREAM", queue, "FULL"]);
        let group = info.get("groups").items().first()?;
        let lease = group.get("pending").items().first()?;
        Some(lease.items()[2].as_int() + LEASE_MS)
    })
}
