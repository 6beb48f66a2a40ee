//! Dead letters: entries of `dead:{stream}`, with what is recorded of the death.

use super::entry::Task;
use super::id::Priority;
use super::store::{self, Target};
use super::{Cx, DEAD};
use crate::error::Error;
use crate::names;
use crate::server::{OwnedStr, Str};
use crate::waiting;

/// What a dead letter records beside the task.
pub struct DeathRecord<'a> {
    /// Why the task failed for good. The first 1024 bytes are kept.
    pub reason: &'a [u8],
    /// How often the entry was delivered.
    pub deliveries: i64,
}

impl DeathRecord<'_> {
    /// The death of a task that was not delivered in time.
    pub const EXPIRED: Self = Self { reason: b"expired", deliveries: 0 };
}

/// How many bytes of a reason are kept.
const REASON: usize = 1024;

/// Adds a dead letter.
pub fn bury(
    cx: Cx<'_>,
    queue: Str<'_>,
    priority: Priority,
    mut task: Task<'_>,
    death: &DeathRecord<'_>,
) -> Result<(), Error> {
    let w = &cx.family.words;
    task.forget_expiry();
    let reason = death.reason.get(..REASON).unwrap_or(death.reason);
    let mut last = vec![
        (w.reason(), OwnedStr::new(reason)),
        (w.deliveries(), OwnedStr::number(death.deliveries)),
    ];
    if priority > Priority::LOWEST {
        last.push((w.priority(), OwnedStr::number(priority.number().into())));
    }
    let dead = names::key_of(cx.server, DEAD, queue)?;
    store::add_copy(cx, Target::Stream(dead.borrow()), &task, &last)?;
    cx.family.counters.dead_lettered.add(1);
    // Clients can consume the dead letters as well.
    waiting::serve_soon(cx, cx.server.db(), dead.borrow().bytes());
    Ok(())
}
