//! Delivered tasks, and the shapes of TASK.CONSUME's reply.

use super::store;
use crate::server::call::CallReply;
use crate::server::resp::Element;
use crate::server::{Reply, WriteReply, Writer};

/// A task that a consumer gets.
pub struct Delivery {
    /// Its id.
    id: Reply<'static>,
    /// Its fields and their values.
    fields: Reply<'static>,
    /// How long ago its last lease began, in ms; 0 if it had none.
    idle: i64,
    /// How often it was delivered, this time included.
    deliveries: i64,
}

impl Delivery {
    /// The delivery of an entry.
    pub fn new(entry: Element<'_>, idle: i64, deliveries: i64) -> Self {
        let part = |index| entry.at(index).map_or(Reply::Null, Reply::copy);
        Self { id: part(0), fields: part(1), idle, deliveries }
    }

    /// The first delivery of an entry.
    pub fn first(entry: Element<'_>) -> Self {
        Self::new(entry, 0, 1)
    }
}

/// The shape of CONSUME's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As XREADGROUP replies; in RESP3 that is a map.
    Streams {
        /// Whether the client speaks RESP3.
        resp3: bool,
    },
    /// A list of tasks, each with its idle time and its number of deliveries.
    Meta,
    /// As [`Shape::Meta`], each also with its queue.
    MetaOfQueues,
}

impl Shape {
    /// The reply that delivers tasks of a queue.
    pub fn reply(self, queue: &[u8], tasks: Vec<Delivery>) -> Reply<'static> {
        let tasks = Reply::Array(self.tasks(queue, tasks).collect());
        let name = Reply::bulk(queue);
        match self {
            Shape::Streams { resp3: true } => Reply::Map(vec![(name, tasks)]),
            Shape::Streams { resp3: false } => Reply::Array(vec![Reply::Array(vec![name, tasks])]),
            Shape::Meta | Shape::MetaOfQueues => tasks,
        }
    }

    /// Tasks of a queue, one by one.
    pub fn tasks(self, queue: &[u8], tasks: Vec<Delivery>) -> impl Iterator<Item = Reply<'static>> {
        tasks.into_iter().map(move |task| {
            let mut parts = vec![task.id, task.fields];
            if matches!(self, Shape::Meta | Shape::MetaOfQueues) {
                parts.extend([Reply::Integer(task.idle), Reply::Integer(task.deliveries)]);
            }
            if self == Shape::MetaOfQueues {
                parts.push(Reply::bulk(queue));
            }
            Reply::Array(parts)
        })
    }

    /// The reply that delivers all entries of a reply of XREADGROUP for the first time, without a
    /// copy of them.
    pub fn forward(read: CallReply<'_>, meta: bool) -> Reply<'_> {
        if meta { Reply::Custom(Box::new(FirstDeliveries(read))) } else { Reply::Forward(read) }
    }

    /// The reply without a task.
    pub fn nothing(self) -> Reply<'static> {
        match self {
            Shape::Streams { .. } => Reply::NullArray,
            Shape::Meta | Shape::MetaOfQueues => Reply::Array(Vec::new()),
        }
    }
}

/// The entries in a reply of XREADGROUP in the shape of META.
struct FirstDeliveries<'a>(CallReply<'a>);

impl WriteReply for FirstDeliveries<'_> {
    fn write(&self, writer: &Writer<'_>) {
        let entries = store::entries(&self.0);
        writer.array(entries.map_or(0, Element::len));
        for entry in entries.into_iter().flat_map(Element::elements) {
            writer.array(entry.len() + 2);
            entry.elements().for_each(|part| writer.forward(part));
            // A new entry was not leased before, and is delivered once.
            writer.integer(0);
            writer.integer(1);
        }
    }
}
