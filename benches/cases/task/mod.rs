//! TASK.* compared with the stream commands and the scripts of a queue on plain streams. This file has
//! the shared pieces: the queues, their tasks and the native commands.

pub mod consume;
pub mod cycle;
pub mod finish;
pub mod large;
pub mod options;
pub mod publish;
pub mod timing;
pub mod waiting;

use super::each;
use crate::measure::Lab;
use crate::support::args;
use crate::wire::{Requests, bulks};

/// The number of streams that share the tasks.
const STREAMS: usize = 8;

const TIMESTAMP: &str = "1700000000";

fn stream(number: usize) -> String {
    format!("jobs:{}", number % STREAMS)
}

/// The stream of one priority.
fn priority_stream(priority: usize, number: usize) -> String {
    format!("priority{priority}:{{{}}}", stream(number))
}

fn delayed(number: usize) -> String {
    format!("delayed:{{{}}}", stream(number))
}

fn policy(number: usize) -> String {
    format!("policy:{{{}}}", stream(number))
}

fn retry_stream(number: usize) -> String {
    format!("jobs:{}:again", number % STREAMS)
}

/// The id of an entry that [`ready`] adds.
fn id(number: usize) -> String {
    format!("1700000000000-{}", number + 1)
}

/// A payload of 100 bytes.
pub fn payload() -> String {
    "p".repeat(100)
}

/// XADD with the fields that TASK.PUBLISH writes.
pub fn xadd(stream: impl AsRef<str>, id: impl AsRef<str>) -> [Vec<u8>; 9] {
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

/// XREADGROUP of new entries.
pub fn xreadgroup(stream: impl AsRef<str>, count: usize) -> [Vec<u8>; 9] {
    let stream = stream.as_ref();
    args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", count, "STREAMS", stream, ">"]
}

/// An empty stream with a group.
fn empty_stream(stream: &str) -> Requests {
    let mut requests = Requests::expecting(&[""]);
    requests.push(&args!["DEL", stream]);
    requests.push(&args!["XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"]);
    requests
}

/// Empty queues, each with a group and without a policy.
fn empty_queues() -> Requests {
    each(0..STREAMS, &[""], |r, n| {
        let all = [stream(n), retry_stream(n), priority_stream(5, n), delayed(n), policy(n)];
        r.push(&["DEL".into()].into_iter().chain(all).collect::<Vec<String>>());
        r.push(&args!["XGROUP", "CREATE", stream(n), "workers", "0", "MKSTREAM"]);
    })
}

/// `tasks` ready tasks, spread over the queues.
fn ready(tasks: usize) -> Requests {
    let mut requests = empty_queues();
    for n in 0..tasks {
        requests.push(&xadd(stream(n), id(n)));
    }
    requests
}

/// The same tasks, leased to the consumer `w1`.
fn leased(tasks: usize) -> Requests {
    let mut requests = ready(tasks);
    for n in 0..STREAMS {
        requests.push(&xreadgroup(stream(n), tasks));
    }
    requests
}

/// The id and the payload of the only task in a reply, if there is one.
pub fn task_in(reply: &[u8]) -> Option<(&[u8], &[u8])> {
    match bulks(reply)[..] {
        [_stream, id, b"payload", payload, ..] => Some((id, payload)),
        _ => None,
    }
}

/// Publishes tasks that are due at a given time.
fn publish_delayed(lab: &mut Lab, queue: &str, tasks: usize, due: i64) {
    const BATCH: usize = 100_000;
    for from in (0..tasks).step_by(BATCH) {
        let some = BATCH.min(tasks - from);
        let requests = each(0..some, &["$"], |r, _| {
            r.push(&args!["TASK.PUBLISH", queue, payload(), "AT", due]);
        });
        lab.prepare(&requests);
    }
}

/// Formats a number with separators: `1,000,000`.
pub fn thousands(number: usize) -> String {
    let mut text = number.to_string();
    let mut place = text.len();
    while place > 3 {
        place -= 3;
        text.insert(place, ',');
    }
    text
}
