//! The memory of what the module stores, and of what it keeps beside that: waiting clients, leases,
//! ties. The other column has the same without the module, as far as there is such a thing; the
//! difference is the module's own.

use super::{Study, each};
use crate::crowd::{Crowd, Wait};
use crate::measure::{Effort, Lab};
use crate::support::{SOON, args, eventually};
use crate::table::Column;
use crate::verdict::Budget;
use crate::wire::{Requests, encoded};
use std::time::Duration;

/// The study.
pub const STUDIES: &[Study] = &[Study {
    name: "memory of one",
    columns: &[
        Column("memory of one", 38, false),
        Column("bytes", 8, true),
        Column("compared with", 34, false),
        Column("bytes", 8, true),
        Column("difference", 10, true),
        Column("bar", 12, true),
    ],
    run,
}];

/// How many clients wait.
const WAITERS: usize = 2_000;

/// How many of everything else there are.
const MANY: usize = 20_000;

/// What the memory of one is measured of.
enum Subject {
    /// A command of one connection, which stores `MANY` of them.
    Stored(fn(usize) -> Vec<Vec<u8>>),
    /// A command on which each of `WAITERS` clients waits.
    Waiter(fn(usize) -> Vec<u8>),
}

/// What a thing may need that is stored on the server.
const SMALL: Budget = Budget { goal: 100.0, reached: 60.0 };

struct Row {
    label: &'static str,
    /// Commands before the memory is measured.
    before: fn(&mut Requests, usize),
    ours: Subject,
    other: Option<(&'static str, Subject)>,
    /// The most that the difference may be, or the whole if there is nothing to compare with.
    bar: Option<Budget>,
}

fn nothing(_: &mut Requests, _: usize) {}

fn task(number: usize) -> String {
    format!("{number:0>100}")
}

/// The server itself needs some 35 KB for each client that a module blocks.
const BLOCKED: &str = "any client that a module blocks";

fn set(key: String) -> Vec<Vec<u8>> {
    args!["SET", key, "owner-1", "PX", 3_600_000].into()
}

fn xadd() -> Vec<Vec<u8>> {
    args!["XADD", "tasks", "*", "payload", task(0), "timestamp", 1_700_000_000, "retry_count", 0]
        .into()
}

fn publish(number: usize, options: &[&str]) -> Vec<Vec<u8>> {
    let command = args!["TASK.PUBLISH", "tasks", task(number)];
    let options = options.iter().map(|option| option.as_bytes().to_vec());
    command.into_iter().chain(options).collect()
}

fn unique(number: usize, options: &[&str]) -> Vec<Vec<u8>> {
    let id = format!("order-{number}");
    publish(number, &[&["UNIQUE", &id, "3600000"], options].concat())
}

/// Tasks that wait in the queue, with a group.
fn ready(requests: &mut Requests, number: usize) {
    if number == 0 {
        requests.push(&args!["XGROUP", "CREATE", "tasks", "workers", 0, "MKSTREAM"]);
    }
    requests.push(&xadd());
}

fn held(requests: &mut Requests, number: usize) {
    if number == 0 {
        requests.push(&args!["LOCK.ACQUIRE", "job", "owner-1", 3_600_000]);
        requests.push(&args!["CACHE.FETCH", "page", 3_600_000]);
        requests.push(&args!["XGROUP", "CREATE", "tasks", "workers", 0, "MKSTREAM"]);
    }
}

const ROWS: &[Row] = &[
    Row {
        label: "client that waits for a lock",
        before: held,
        ours: Subject::Waiter(|n| {
            encoded(&args!["LOCK.ACQUIRE", "job", format!("w{n}"), 60_000, "BLOCK", 0])
        }),
        other: Some((
            BLOCKED,
            Subject::Waiter(|n| {
                encoded(&args!["RELAY.WAIT", "job", format!("w{n}"), 60_000, "BLOCK", 0])
            }),
        )),
        bar: Some(Budget { goal: 300.0, reached: 347.0 }),
    },
    Row {
        label: "client that waits for a value",
        before: held,
        ours: Subject::Waiter(|_| encoded(&args!["CACHE.FETCH", "page", 60_000, "BLOCK", 0])),
        other: Some((
            BLOCKED,
            Subject::Waiter(|_| encoded(&args!["RELAY.WAIT", "page", 60_000, "BLOCK", 0])),
        )),
        bar: Some(Budget { goal: 300.0, reached: 298.0 }),
    },
    Row {
        label: "client that waits for a task",
        before: held,
        ours: Subject::Waiter(|n| {
            encoded(&args!["TASK.CONSUME", "workers", format!("w{n}"), "tasks", "BLOCK", 0])
        }),
        other: Some((
            BLOCKED,
            Subject::Waiter(|n| {
                encoded(&args!["RELAY.WAIT", "workers", format!("w{n}"), "tasks", "BLOCK", 0])
            }),
        )),
        bar: Some(Budget { goal: 300.0, reached: 390.0 }),
    },
    Row {
        label: "lock",
        before: nothing,
        ours: Subject::Stored(|n| {
            args!["LOCK.ACQUIRE", format!("job:{n:06}"), "owner-1", 3_600_000].into()
        }),
        other: Some(("SET NX PX", Subject::Stored(|n| set(format!("lock:{{job:{n:06}}}"))))),
        bar: Some(SMALL),
    },
    Row {
        label: "lock, TIED, beyond the lock",
        before: nothing,
        ours: Subject::Stored(|n| {
            args!["LOCK.ACQUIRE", format!("job:{n:06}"), "owner-1", 3_600_000, "TIED"].into()
        }),
        other: Some(("SET NX PX", Subject::Stored(|n| set(format!("lock:{{job:{n:06}}}"))))),
        bar: None,
    },
    Row {
        label: "shared holder of one lock",
        before: nothing,
        ours: Subject::Stored(|n| {
            args!["LOCK.ACQUIRE", "job", format!("reader-{n:06}"), 3_600_000, "SHARED"].into()
        }),
        other: Some((
            "ZADD",
            Subject::Stored(|n| {
                args!["ZADD", "lock:{job}", 1_700_000_000_000 + n, format!("reader-{n:06}")].into()
            }),
        )),
        bar: Some(SMALL),
    },
    Row {
        label: "lease of a load",
        before: nothing,
        ours: Subject::Stored(|n| args!["CACHE.FETCH", format!("page:{n:06}"), 3_600_000].into()),
        other: Some((
            "SET NX PX",
            Subject::Stored(|n| {
                let (key, token) = (format!("cachelock:{{page:{n:06}}}"), "1700000000000000");
                args!["SET", key, token, "NX", "PX", 3_600_000].into()
            }),
        )),
        bar: None,
    },
    Row {
        label: "cached value of 32 bytes",
        before: nothing,
        ours: Subject::Stored(|n| {
            args!["CACHE.SET", format!("page:{n:06}"), "v".repeat(32), 3_600_000].into()
        }),
        other: Some((
            "SET PX",
            Subject::Stored(|n| {
                args!["SET", format!("page:{n:06}"), "v".repeat(32), "PX", 3_600_000].into()
            }),
        )),
        bar: Some(SMALL),
    },
    Row {
        label: "task of 100 bytes",
        before: nothing,
        ours: Subject::Stored(|n| publish(n, &[])),
        other: Some(("XADD", Subject::Stored(|_| xadd()))),
        bar: Some(SMALL),
    },
    Row {
        label: "lease of a task",
        before: ready,
        ours: Subject::Stored(|_| args!["TASK.CONSUME", "workers", "w1", "tasks"].into()),
        other: Some((
            "XREADGROUP",
            Subject::Stored(|_| {
                args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", 1, "STREAMS", "tasks", ">"]
                    .into()
            }),
        )),
        bar: Some(SMALL),
    },
    Row {
        label: "delayed task of 100 bytes",
        before: nothing,
        ours: Subject::Stored(|n| publish(n, &["DELAY", "3600000"])),
        other: Some((
            "ZADD",
            Subject::Stored(|n| {
                let due = 1_700_000_000_000 + n;
                let member = format!("{due}-1001700000000{n:06} 0 0 - {}", task(n));
                args!["ZADD", "delayed:{tasks}", due, member].into()
            }),
        )),
        bar: Some(SMALL),
    },
    Row {
        label: "task with UNIQUE",
        before: nothing,
        ours: Subject::Stored(|n| unique(n, &[])),
        other: Some(("task", Subject::Stored(|n| publish(n, &[])))),
        bar: None,
    },
    Row {
        label: "task with UNIQUE UNTIL DONE",
        before: nothing,
        ours: Subject::Stored(|n| unique(n, &["UNTIL", "DONE"])),
        other: Some(("task with UNIQUE", Subject::Stored(|n| unique(n, &[])))),
        bar: None,
    },
    Row {
        label: "empty queue with a group",
        before: nothing,
        ours: Subject::Stored(|n| {
            args!["TASK.CONSUME", "workers", "w1", format!("tasks:{n:06}")].into()
        }),
        other: Some((
            "XGROUP CREATE",
            Subject::Stored(|n| {
                let queue = format!("tasks:{n:06}");
                args!["XGROUP", "CREATE", queue, "workers", 0, "MKSTREAM"].into()
            }),
        )),
        bar: None,
    },
];

fn run(effort: Effort) -> Vec<Vec<String>> {
    ROWS.iter()
        .map(|row| {
            let ours = bytes(effort, row, &row.ours);
            let other =
                row.other.as_ref().map(|(label, other)| (*label, bytes(effort, row, other)));
            let difference = ours - other.map_or(0.0, |(_, bytes)| bytes);
            let bar =
                row.bar.map(|bar| bar.verdict(difference).cell(&format!("<= {:.0}", bar.goal)));
            vec![
                row.label.into(),
                format!("{ours:.0}"),
                other.map_or(String::new(), |(label, _)| label.into()),
                other.map_or(String::new(), |(_, bytes)| format!("{bytes:.0}")),
                format!("{difference:+.0}"),
                bar.unwrap_or_default(),
            ]
        })
        .collect()
}

/// The memory of one, on a server of its own.
fn bytes(effort: Effort, row: &Row, subject: &Subject) -> f64 {
    let mut lab = Lab::new(effort);
    match subject {
        Subject::Stored(command) => {
            let before = each(0..MANY, &[""], row.before);
            if before.operations() > 0 {
                lab.prepare(&before);
            }
            let start = settled_memory(&mut lab);
            lab.prepare(&each(0..MANY, &[""], |requests, n| requests.push(&command(n))));
            (settled_memory(&mut lab) - start) / MANY as f64
        }
        Subject::Waiter(command) => {
            let before = each(0..1, &[""], row.before);
            lab.prepare(&before);
            let mut crowd = Crowd::new(&mut lab, WAITERS);
            let start = settled_memory(&mut lab);
            let commands = (0..WAITERS).map(command).collect();
            crowd.gather(&mut lab, WAITERS, Wait { commands, wake: Vec::new() });
            (settled_memory(&mut lab) - start) / WAITERS as f64
        }
    }
}

/// The memory that the server and the module have allocated, as soon as it no longer changes: the server
/// frees the buffers of idle clients after some seconds.
fn settled_memory(lab: &mut Lab) -> f64 {
    let mut last = 0.0;
    let mut same = 0;
    eventually(SOON, "the memory no longer changes", || {
        std::thread::sleep(Duration::from_millis(400));
        let used = super::used_memory(lab);
        let changed = (used - last).abs() > used / 1000.0;
        same = if changed { 0 } else { same + 1 };
        last = used;
        same >= 8
    });
    last
}
