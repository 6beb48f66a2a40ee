//! Delivering tasks of a queue to one consumer of one group. If the queue has nothing but new entries
//! in its own stream, one XREADGROUP does it. Everything else takes a pass.

use super::Cx;
use super::consumer::{Consumer, Kept};
use super::delivery::Delivery;
use super::id::Priority;
use super::pass::Pass;
use super::rules::{MOST_MOVES, Passed};
use super::store;
use super::sweep::FEW_CONSUMERS;
use crate::args::Parsed;
use crate::error::Error;
use crate::server::call::CallReply;
use crate::server::resp::Element;
use crate::server::{Mode, Str};
use crate::time::UnixMs;

/// What was delivered.
#[derive(Default)]
pub struct Delivered {
    /// The tasks.
    pub tasks: Vec<Delivery>,
    /// How many tasks were moved without being delivered.
    pub moved: usize,
    /// Whether there may be more to move.
    pub more: bool,
    /// Why a task stays where it is, if one does. It is the consumer's error only if there is nothing
    /// else to reply.
    pub trouble: Option<Error>,
}

/// The outcome of [`deliver`].
pub enum Outcome<'a> {
    /// The reply of XREADGROUP, all of whose entries are delivered.
    Read(CallReply<'a>),
    /// Everything else.
    Tasks(Delivered),
}

impl Outcome<'_> {
    /// The tasks, copied out of the reply of XREADGROUP.
    pub fn into_delivered(self) -> Delivered {
        match self {
            Outcome::Tasks(delivered) => delivered,
            Outcome::Read(found) => {
                let entries = store::entries(&found).into_iter().flat_map(Element::elements);
                let tasks = entries.map(Delivery::first).collect();
                Delivered { tasks, ..Delivered::default() }
            }
        }
    }
}

/// Delivers up to `count` tasks. With [`Mode::WriteForward`] a reply of XREADGROUP is in the
/// protocol of the calling client.
pub fn deliver<'a>(
    consumer: Consumer<'a>,
    count: Parsed<Str<'_>, i64>,
    mode: Mode,
) -> Result<Outcome<'a>, Error> {
    let Cx { server, family } = consumer.cx;
    let (db, now, moment) = (server.db(), server.now(), server.moment());
    let (queue, group) = (consumer.queue.bytes(), consumer.group.bytes());
    let number = usize::try_from(count.value).unwrap_or(usize::MAX);
    // A pass bounds how many entries are skipped.
    if number <= MOST_MOVES && family.queues.is_plain(db, queue, group, now, moment) {
        match consumer.read(Priority::LOWEST, count.arg, mode)? {
            None => {
                if consumer.walk(None).released(FEW_CONSUMERS)? == 0 {
                    return Ok(Outcome::Tasks(Delivered::default()));
                }
            }
            Some(found) => match consumer.keep(Priority::LOWEST, &found, now) {
                Kept::All(number) => {
                    family.counters.delivered.add(number as u64);
                    return Ok(Outcome::Read(found));
                }
                Kept::Some(tasks, skipped) => {
                    return deliver_by_pass(consumer, number, now, (tasks, skipped));
                }
            },
        }
    }
    deliver_by_pass(consumer, number, now, (Vec::new(), 0))
}

/// Delivers up to `number` tasks, among them those that were read already. `skipped` others were
/// skipped.
#[cold]
fn deliver_by_pass<'a>(
    consumer: Consumer<'a>,
    number: usize,
    now: UnixMs,
    (tasks, skipped): (Vec<Delivery>, usize),
) -> Result<Outcome<'a>, Error> {
    let family = consumer.cx.family;
    let rest = number.saturating_sub(tasks.len());
    let mut pass = Pass::new(consumer, now, tasks);
    let outcome = if rest > 0 { pass.run(rest) } else { Ok(Passed::default()) };
    let (tasks, trouble) = pass.into_parts();
    family.counters.delivered.add(tasks.len() as u64);
    match (outcome, trouble) {
        // What was delivered before the error belongs to the consumer.
        (Err(error), _) if tasks.is_empty() => Err(error),
        // Nothing can be written now.
        (Ok(_), Some(error)) if tasks.is_empty() && error.passes() => Err(error),
        (outcome, trouble) => {
            let Passed { moved, more, .. } = outcome.unwrap_or_default();
            Ok(Outcome::Tasks(Delivered { tasks, moved: moved + skipped, more, trouble }))
        }
    }
}
