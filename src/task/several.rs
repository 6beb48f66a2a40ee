//! One consumer that reads from several queues of one slot.
//!
//! The queues are read in the order in which they are named, until the consumer has as many tasks as it
//! asked for. If none has a task, the consumer waits in the lines of all of them, and the first queue
//! that gets one serves it. Nothing is created in a queue, and nothing is remembered of it, until it
//! holds something or a consumer waits there.

use super::consumer::Consumer;
use super::deliver::{Delivered, deliver};
use super::delivery::Shape;
use super::facts::{self, learn};
use super::rules::{ENTRIES, MOST_MOVES};
use super::store::{self, IfMissing};
use super::{Cx, EVENTS, line};
use crate::args::Parsed;
use crate::error::Error;
use crate::names::{self, WAIT};
use crate::server::{Mode, OwnedStr, Reply, Server, Str};
use crate::time::Timeout;
use crate::waiting::{self, Address, Budget, Waiter};

/// The shape of the reply.
const SHAPE: Shape = Shape::MetaOfQueues;

/// A consumer of one group in several queues.
pub struct Several<'a> {
    /// The first queue.
    pub first: Str<'a>,
    /// The others.
    pub further: &'a [Str<'a>],
    /// The group.
    pub group: Str<'a>,
    /// The name of the consumer.
    pub consumer: Str<'a>,
    /// The client to which its leases are tied, if they are.
    pub client: Option<u64>,
    /// The maximum number of tasks.
    pub count: i64,
}

/// What one look at all queues has found.
#[derive(Default)]
struct Found<'a> {
    tasks: Vec<Reply<'static>>,
    /// Queues in which there may be more to move.
    more: Vec<Str<'a>>,
    /// How many tasks were moved without being delivered.
    moved: usize,
    /// Why a task stays where it is, if one does.
    trouble: Option<Error>,
}

impl<'a> Several<'a> {
    /// Delivers what there is. If that is nothing, the client waits.
    pub fn consume(&self, cx: Cx<'_>, timeout: Option<Timeout>) -> Result<Reply<'static>, Error> {
        let server = cx.server;
        self.check(server)?;
        let found = self.look(cx)?;
        if !found.tasks.is_empty() {
            return Ok(Reply::Array(found.tasks));
        }
        // A command that returns an error has changed nothing.
        if let Some(error) = found.trouble.filter(|_| found.moved == 0) {
            return Err(error);
        }
        match timeout.filter(|_| server.may_block()) {
            Some(timeout) => self.wait(cx, timeout, &found.more),
            None => Ok(SHAPE.nothing()),
        }
    }

    fn queues(&self) -> impl Iterator<Item = Str<'a>> {
        std::iter::once(self.first).chain(self.further.iter().copied())
    }

    /// Rejects the whole request if one of the queues cannot be used, before any is read.
    fn check(&self, server: &Server) -> Result<(), Error> {
        names::reject_other_slots(server, self.queues())?;
        for queue in self.queues() {
            names::derive(WAIT, queue.bytes(), server.is_in_cluster())?;
        }
        names::reject_moving_slot(server, self.first)?;
        self.queues().try_for_each(|queue| store::expect_stream(server, queue))
    }

    fn look(&self, cx: Cx<'_>) -> Result<Found<'a>, Error> {
        let mut found = Found::default();
        // All queues together take no longer than one of them may.
        let mut budget = cx.family.queue.wave();
        let most = usize::try_from(self.count).unwrap_or(MOST_MOVES).clamp(ENTRIES, MOST_MOVES);
        for queue in self.queues() {
            let left = self.count.saturating_sub(found.tasks.len() as i64);
            if left == 0 {
                break;
            }
            if found.moved >= most {
                found.more.push(queue);
                continue;
            }
            let delivered = match self.deliver_from(cx, queue, left, &mut budget) {
                Ok(delivered) => delivered,
                // What was delivered before the error belongs to the consumer.
                Err(_) if !found.tasks.is_empty() => break,
                Err(error) => return Err(error),
            };
            found.tasks.extend(SHAPE.tasks(queue.bytes(), delivered.tasks));
            found.moved += delivered.moved;
            found.trouble = found.trouble.or(delivered.trouble);
            if delivered.more {
                found.more.push(queue);
            }
        }
        Ok(found)
    }

    /// Delivers up to `count` tasks of one queue, unless other consumers wait for them.
    fn deliver_from(
        &self,
        cx: Cx<'_>,
        queue: Str<'_>,
        count: i64,
        budget: &mut Budget,
    ) -> Result<Delivered, Error> {
        if line::serve_within(cx, queue, self.group.bytes(), budget)?
            || facts::is_empty(cx, queue, self.group)?
        {
            return Ok(Delivered::default());
        }
        let consumer = Consumer {
            cx,
            queue,
            group: self.group,
            name: self.consumer,
            client: self.client,
            if_missing: IfMissing::WhenFilled,
        };
        let number = OwnedStr::number(count);
        let count = Parsed { arg: number.borrow(), value: count };
        Ok(deliver(consumer, count, Mode::Write)?.into_delivered())
    }

    /// Puts the client into the lines of all queues.
    fn wait(
        &self,
        cx: Cx<'_>,
        timeout: Timeout,
        more: &[Str<'_>],
    ) -> Result<Reply<'static>, Error> {
        let server = cx.server;
        server.subscribe(EVENTS);
        // Each line has to be checked when its queue's next task is due.
        for queue in self.queues() {
            learn(cx, queue, self.group, IfMissing::WhenFilled)?;
        }
        let db = server.db();
        let address = Address {
            db,
            name: self.first.bytes().into(),
            part: self.group.bytes().into(),
            further: self.further.iter().map(|queue| queue.bytes().into()).collect(),
        };
        let (count, tied) = (self.count, self.client.is_some());
        let request = line::Request { count, shape: SHAPE, tied };
        if Waiter::join(cx, self.first, address, None, timeout, request, || {})?.is_none() {
            return Ok(SHAPE.nothing());
        }
        self.queues().for_each(|queue| line::reschedule(cx, queue.bytes()));
        for queue in more {
            waiting::serve_soon(cx, db, queue.bytes());
        }
        Ok(Reply::Later)
    }
}
