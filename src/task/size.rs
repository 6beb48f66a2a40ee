//! How many tasks a queue holds, and whether that is as many as its policy allows.

use super::id::Priority;
use super::policy::policy_of;
use super::{Cx, DELAYED, held, life, store};
use crate::error::Error;
use crate::names;
use crate::server::Str;

/// Whether a queue takes no more tasks.
pub fn is_full(cx: Cx<'_>, queue: Str<'_>) -> Result<bool, Error> {
    match policy_of(cx, queue)?.limit() {
        Some(limit) => Ok(size(cx, queue)? >= limit),
        None => Ok(false),
    }
}

/// How many tasks a queue holds: ready, leased, delayed and held ones.
fn size(cx: Cx<'_>, queue: Str<'_>) -> Result<i64, Error> {
    let server = cx.server;
    let (priorities, any_delayed) = cx.family.queues.places(server.db(), queue.bytes());
    let mut size = 0usize;
    for priority in Priority::ALL {
        if priority == Priority::LOWEST || priorities.contains(priority) {
            let stream = store::stream_of(server, queue, priority)?;
            size = size.saturating_add(server.peek_key(stream.borrow()).entries());
        }
    }
    if any_delayed {
        let delayed = names::key_of(server, DELAYED, queue)?;
        size = size.saturating_add(server.peek_key(delayed.borrow()).entries());
    }
    if life::traces(cx, queue)?.held {
        size = size.saturating_add(held::number(server, queue)?);
    }
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}
