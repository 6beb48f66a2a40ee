//! TASK.* beside the stream commands and the scripts of a queue on plain streams. Here is what the
//! files of this folder share: the queues, their tasks and the native commands.

pub mod consume;
pub mod cycle;
pub mod finish;
pub mod large;
pub mod publish;
pub mod punctual;
pub mod waiting;

use super::each;
use crate::measure::Lab;
use crate::support::args;
use crate::wire::{Requests, bulks};

/// How many streams the tasks are spread over.
const STREAMS: usize = 8;

const TIMESTAMP: &str = "1700000000";

fn stream(number: usize) -> String {
    format!("jobs:{}", number % STREAMS)
}

/// Where the tasks of one priority are.
fn of_priority(priority: usize, number: usize) -> String {
    format!("priority{priority}:{{{}}}", stream(number))
}

fn delayed(number: usize) -> String {
    format!("delayed:{{{}}}", stream(number))
}

fn policy(number: usize) -> String {
    format!("policy:{{{}}}", stream(number))
}

fn copies(number: usize) -> String {
    format!("jobs:{}:again", number % STREAMS)
}

/// The id of an entry that a fixture made.
fn id(number: usize) -> String {
    format!("1700000000000-{}", number + 1)
}

fn payload() -> String {
    "p".repeat(100)
}

/// XADD of a task as TASK.PUBLISH would add it.
fn xadd(stream: impl AsRef<str>, id: impl AsRef<str>) -> [Vec<u8>; 9] {
    let payload = payload();
    args![
        "XADD",
        stream.as_ref(),
        id.as_ref(),
        "payload",
        payload,
        "timestamp",
        TIMESTAMP,
        "retry_count",
        0
    ]
}

/// XREADGROUP of the new tasks of a stream.
fn xreadgroup(stream: impl AsRef<str>, count: usize) -> [Vec<u8>; 9] {
    let stream = stream.as_ref();
    args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", count, "STREAMS", stream, ">"]
}

/// A stream without entries, with a group.
fn empty_stream(stream: &str) -> Requests {
    let mut requests = Requests::expecting(&[""]);
    requests.push(&args!["DEL", stream]);
    requests.push(&args!["XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"]);
    requests
}

/// Empty queues, each with a group and without a policy.
fn empty() -> Requests {
    each(0..STREAMS, &[""], |r, n| {
        let all = [stream(n), copies(n), of_priority(5, n), delayed(n), policy(n)];
        r.push(&["DEL".into()].into_iter().chain(all).collect::<Vec<String>>());
        r.push(&args!["XGROUP", "CREATE", stream(n), "workers", "0", "MKSTREAM"]);
    })
}

/// As many tasks as the numbers below `tasks`, ready.
fn ready(tasks: usize) -> Requests {
    let mut requests = empty();
    for n in 0..tasks {
        requests.push(&xadd(stream(n), id(n)));
    }
    requests
}

/// As many tasks as the numbers below `tasks`, leased to a worker.
fn leased(tasks: usize) -> Requests {
    let mut requests = ready(tasks);
    for n in 0..STREAMS {
        requests.push(&xreadgroup(stream(n), tasks));
    }
    requests
}

/// The id and the payload of the one task in a reply, `None` where there is none.
fn task_in(reply: &[u8]) -> Option<(&[u8], &[u8])> {
    match bulks(reply)[..] {
        [_stream, id, b"payload", payload, ..] => Some((id, payload)),
        _ => None,
    }
}

/// Publishes as many tasks that are due at a time, however many.
fn postpone(lab: &mut Lab, queue: &str, tasks: usize, due: i64) {
    const AT_ONCE: usize = 100_000;
    for from in (0..tasks).step_by(AT_ONCE) {
        let some = AT_ONCE.min(tasks - from);
        let requests = each(0..some, &["$"], |r, _| {
            r.push(&args!["TASK.PUBLISH", queue, payload(), "AT", due]);
        });
        lab.arrange(&requests);
    }
}

/// A number as people read it: `1,000,000`.
fn thousands(number: usize) -> String {
    let mut text = number.to_string();
    let mut place = text.len();
    while place > 3 {
        place -= 3;
        text.insert(place, ',');
    }
    text
}
