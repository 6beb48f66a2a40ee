//! What a test of the queue says often: publish a task, lease one, read the tasks in a reply or in
//! a stream, let a consumer wait.

use super::client::{Client, args};
use super::server::{Server, blocked_clients, wait_blocked};
use super::value::Value;
use super::{SOON, eventually, now_ms};

/// A task in a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its fields in order: `name=value`, joined by spaces. A `timestamp` of the last minute reads
    /// `now`.
    pub fields: String,
}

/// A task as `TASK.CONSUME … META` delivers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// Its id.
    pub id: String,
    /// As [`Task::fields`].
    pub fields: String,
    /// How long its last lease was, in ms; 0 for a first delivery.
    pub idle: i64,
    /// How often the entry was delivered, this time included.
    pub deliveries: i64,
}

impl Delivered {
    /// The payload, which has no spaces.
    #[track_caller]
    pub fn payload(&self) -> &str {
        let payload = self.fields.split(' ').find_map(|field| field.strip_prefix("payload="));
        payload.expect("a payload")
    }
}

/// A lease of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The task.
    pub id: String,
    /// The consumer that holds it.
    pub consumer: String,
    /// How old it is, in ms.
    pub idle: i64,
    /// How often it was delivered.
    pub deliveries: i64,
}

/// The milliseconds of an id.
#[track_caller]
pub fn id_ms(id: &str) -> i64 {
    let (ms, _) = id.split_once('-').expect("an id");
    ms.parse().expect("milliseconds")
}

/// The key of the stream that holds the tasks of a priority. The name of the queue has no hash tag.
pub fn priority_stream(queue: &str, priority: i64) -> String {
    if priority == 0 { queue.into() } else { format!("priority{priority}:{{{queue}}}") }
}

impl Server {
    /// Sends a command that has to wait, and returns when the client is blocked.
    #[track_caller]
    pub fn wait_with(&self, client: &mut Client, line: &str) {
        let blocked = blocked_clients(self);
        client.send(line);
        wait_blocked(self, blocked + 1);
    }
}

impl Client {
    /// Publishes a task and returns its id.
    #[track_caller]
    pub fn publish(&mut self, stream: &str, payload: &str) -> String {
        self.publish_with(stream, payload, "")
    }

    /// As [`Client::publish`], with a retry count or options.
    #[track_caller]
    pub fn publish_with(&mut self, stream: &str, payload: &str, options: &str) -> String {
        let mut call = vec!["TASK.PUBLISH", stream, payload];
        call.extend(options.split_ascii_whitespace());
        let id = self.cmd(&call);
        assert!(matches!(id, Value::Bulk(_)), "{call:?}: {id:?}");
        id.as_str().to_owned()
    }

    /// Leases the next task of a group to a consumer and returns its id; panics if there is none.
    #[track_caller]
    pub fn lease(&mut self, group: &str, consumer: &str, stream: &str) -> String {
        let tasks = self.cmd(&["TASK.CONSUME", group, consumer, stream]);
        match tasks.task_ids()[..] {
            [id] => id.to_owned(),
            _ => panic!("not one task: {tasks:?}"),
        }
    }

    /// What `TASK.CONSUME … COUNT count META` delivers.
    #[track_caller]
    pub fn consume(
        &mut self,
        group: &str,
        consumer: &str,
        stream: &str,
        count: i64,
    ) -> Vec<Delivered> {
        let call = args!["TASK.CONSUME", group, consumer, stream, "COUNT", count, "META"];
        self.cmd(&call).delivered()
    }

    /// Delivers the one task that is there to a consumer of a group; panics if it is not exactly
    /// one.
    #[track_caller]
    pub fn consume_only(&mut self, group: &str, consumer: &str, stream: &str) -> Delivered {
        let mut tasks = self.consume(group, consumer, stream, 100);
        assert_eq!(tasks.len(), 1, "{group}: {tasks:?}");
        tasks.remove(0)
    }

    /// The payloads of the tasks that the next `TASK.CONSUME … COUNT count` delivers.
    #[track_caller]
    pub fn consume_payloads(&mut self, group: &str, stream: &str, count: i64) -> Vec<String> {
        let reply = self.run(format!("TASK.CONSUME {group} c {stream} COUNT {count}"));
        reply.task_payloads().into_iter().map(str::to_owned).collect()
    }

    /// Waits until the server's clock is past this time.
    #[track_caller]
    pub fn wait_past(&mut self, ms: i64) {
        eventually(SOON, "the clock goes on", || self.time_ms() > ms);
    }

    /// Waits until this many ms have passed on the server's clock.
    #[track_caller]
    pub fn wait_ms(&mut self, ms: i64) {
        let now = self.time_ms();
        self.wait_past(now + ms);
    }

    /// The tasks in a stream.
    #[track_caller]
    pub fn tasks_in(&mut self, key: &str) -> Vec<Task> {
        self.cmd(&["XRANGE", key, "-", "+"]).items().iter().map(task).collect()
    }

    /// The ids of the tasks in a stream.
    #[track_caller]
    pub fn ids_in(&mut self, key: &str) -> Vec<String> {
        self.tasks_in(key).into_iter().map(|task| task.id).collect()
    }

    /// The one task in a stream.
    #[track_caller]
    pub fn only_task_in(&mut self, key: &str) -> Task {
        let mut tasks = self.tasks_in(key);
        assert_eq!(tasks.len(), 1, "in {key}: {tasks:?}");
        tasks.remove(0)
    }

    /// The members of a sorted set with their scores, in order.
    #[track_caller]
    pub fn scores(&mut self, key: &str) -> Vec<(String, i64)> {
        let members = self.cmd(&["ZRANGE", key, "0", "-1"]);
        let mut score = |member: &Value| {
            let score = self.cmd(&args!["ZSCORE", key, member.bytes()]);
            let score = match score {
                #[expect(clippy::cast_possible_truncation, reason = "scores are whole numbers")]
                Value::Double(score) => score as i64,
                text => text.as_str().parse().expect("a whole number"),
            };
            (member.as_str().to_owned(), score)
        };
        members.items().iter().map(&mut score).collect()
    }

    /// The leases of a group in a stream, in the order of the ids.
    #[track_caller]
    pub fn leases(&mut self, key: &str, group: &str) -> Vec<Lease> {
        let pending = self.cmd(&["XPENDING", key, group, "-", "+", "10000"]);
        let lease = |entry: &Value| {
            let entry = entry.items();
            let text = |index: usize| entry[index].as_str().to_owned();
            let (idle, deliveries) = (entry[2].as_int(), entry[3].as_int());
            Lease { id: text(0), consumer: text(1), idle, deliveries }
        };
        pending.items().iter().map(lease).collect()
    }

    /// The ids of the tasks that a group has leased.
    #[track_caller]
    pub fn leased_ids(&mut self, key: &str, group: &str) -> Vec<String> {
        self.leases(key, group).into_iter().map(|lease| lease.id).collect()
    }

    /// One of the module's counters: `client.task_total("published")`.
    #[track_caller]
    pub fn task_total(&mut self, name: &str) -> i64 {
        let total = self.info("corral", &format!("corral_task_{name}"));
        total.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no counter {name}"))
    }
}

impl Value {
    /// The ids of the tasks in a reply of `TASK.CONSUME`, in order; none in a nil. Panics for any
    /// other reply, also an error.
    #[track_caller]
    pub fn task_ids(&self) -> Vec<&str> {
        self.tasks().iter().map(|task| task.items()[0].as_str()).collect()
    }

    /// As [`Value::task_ids`], the payloads.
    #[track_caller]
    pub fn task_payloads(&self) -> Vec<&str> {
        self.tasks().iter().map(|task| task.items()[1].get("payload").as_str()).collect()
    }

    /// As [`Value::task_ids`], the entries.
    #[track_caller]
    pub fn tasks(&self) -> &[Value] {
        match self {
            nil if nil.is_nil() => &[],
            Self::Map(streams) => streams[0].1.items(),
            streams => streams.items()[0].items()[1].items(),
        }
    }

    /// The tasks in a reply of `TASK.CONSUME … META`. Panics for any other reply, also an error.
    #[track_caller]
    pub fn delivered(&self) -> Vec<Delivered> {
        let one = |entry: &Value| {
            let Task { id, fields } = task(entry);
            let [_, _, idle, deliveries] = entry.items() else { panic!("not META: {entry:?}") };
            Delivered { id, fields, idle: idle.as_int(), deliveries: deliveries.as_int() }
        };
        self.items().iter().map(one).collect()
    }
}

/// A task from the entry of a stream.
#[track_caller]
fn task(entry: &Value) -> Task {
    let now = now_ms() / 1000;
    let field = |pair: &[Value]| {
        let (name, value) = (pair[0].as_str(), pair[1].as_str());
        let time = value.parse::<i64>().ok().filter(|_| name == "timestamp");
        let is_now = time.is_some_and(|time| (now - 60..=now).contains(&time));
        format!("{name}={}", if is_now { "now" } else { value })
    };
    let fields = entry.items()[1].items().chunks_exact(2).map(field).collect::<Vec<_>>();
    Task { id: entry.items()[0].as_str().to_owned(), fields: fields.join(" ") }
}
