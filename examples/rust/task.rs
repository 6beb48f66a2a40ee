//! A task as docs/wire.md describes it, and what becomes of it.

use crate::client::{lock, ms};
use redis::{Cmd, cmd};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub const GROUP: &str = "workers";
/// How long a task waits that no handler here knows. During a deploy, a newer worker takes it.
pub const UNKNOWN_DELAY: Duration = Duration::from_secs(10);

/// Why a handler has not done a task.
pub enum Failure {
    /// The task is retried with back-off.
    Error(String),
    /// The task goes to the dead-letter queue.
    Fatal(String),
    /// The task is returned, and the try does not count.
    Later(Duration),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}

/// An element of a reply of `TASK.CONSUME … THEN`: id, fields, idle_ms, deliveries, queue.
pub type Delivery = (String, HashMap<String, Vec<u8>>, u64, u64, String);

pub struct Task {
    pub queue: String,
    /// Selects the handler.
    pub name: String,
    /// The same in every try.
    pub id: String,
    /// From 1.
    pub attempt: u64,
    pub fields: HashMap<String, Vec<u8>>,
    /// The id for commands.
    pub entry: String,
    pub lease: Mutex<Lease>,
}

pub struct Lease {
    pub consumer: String,
    pub ends: Instant,
    pub interrupted: bool,
}

impl Task {
    pub fn new((entry, fields, _, deliveries, queue): Delivery, lease: Lease) -> Self {
        let field = |name| Some(String::from_utf8_lossy(fields.get(name)?).into_owned());
        let failed: u64 = field("retry_count").and_then(|count| count.parse().ok()).unwrap_or(0);
        Self {
            queue,
            name: field("task").unwrap_or_else(|| "default".into()),
            id: field("original_id").unwrap_or_else(|| entry.clone()),
            attempt: failed + deliveries,
            fields,
            entry,
            lease: Mutex::new(lease),
        }
    }

    /// Whether the lease is lost, or the worker has to stop. A task that takes long looks now and then.
    pub fn interrupted(&self) -> bool {
        let lease = lock(&self.lease);
        lease.interrupted || Instant::now() >= lease.ends
    }

    /// The payload: the arguments of the handler by name.
    pub fn arguments(&self) -> Result<Map<String, Value>, Failure> {
        match self.fields.get("content-type").map(Vec::as_slice) {
            None | Some(b"application/json") => {}
            Some(_) => return Err(Failure::Fatal("unknown content-type".into())),
        }
        let payload = self.fields.get("payload").map_or(b"".as_slice(), Vec::as_slice);
        serde_json::from_slice(payload)
            .map_err(|error| Failure::Fatal(format!("the payload is not a JSON object: {error}")))
    }

    /// The command that ends a try.
    pub fn report(&self, outcome: &Result<(), Failure>) -> Cmd {
        let consumer = lock(&self.lease).consumer.clone();
        let nack = |how: &str, option: &str| {
            let mut nack = cmd("TASK.NACK");
            nack.arg(&[&self.queue, GROUP, &consumer, how, &self.entry, option]);
            nack
        };
        match outcome {
            Ok(()) => cmd("TASK.ACK").arg(&[&self.queue, GROUP, &self.entry]).clone(),
            Err(Failure::Error(reason)) => nack("FAIL", "REASON").arg(reason).clone(),
            Err(Failure::Fatal(reason)) => nack("FATAL", "REASON").arg(reason).clone(),
            Err(Failure::Later(delay)) => nack("SILENT", "DELAY").arg(ms(*delay)).clone(),
        }
    }
}
