//! What a test of the queue `q` and its group `g` says often: tasks in every state, consumers that
//! wait for them, and what these get and when.

use super::client::{Client, args};
use super::server::Server;
use super::task::{Delivered, id_ms, priority_stream};
use super::value::{Value, array, bulk, nil_array, ok, simple};
use super::waiting::{Checked, stand, waiters};
use super::{SOON, eventually, now_ms};
use std::thread;
use std::time::Duration;

/// The queue's delayed tasks.
pub const DELAYED: &str = "delayed:{q}";
/// Its dead-letter queue.
pub const DEAD: &str = "dead:{q}";

/// A time in ms that does not pass during a test.
pub const LONG: i64 = 600_000;
/// How many ms late a task may come on a busy machine.
pub const LATE: i64 = 2000;

/// The command of a consumer that waits without a time-out.
pub fn wait_as(consumer: &str) -> String {
    format!("TASK.CONSUME g {consumer} q BLOCK 0 META")
}

/// A client that waits with this command.
#[track_caller]
pub fn waiter_with(server: &Server, command: &str) -> Client {
    waiter_in(server, 0, command)
}

/// As [`waiter_with`], in a database.
#[track_caller]
pub fn waiter_in(server: &Server, db: usize, command: &str) -> Client {
    let mut client = client_in(server, db);
    stand(&mut client, command);
    client
}

/// A consumer that waits.
#[track_caller]
pub fn waiter(server: &Server, consumer: &str) -> Client {
    waiter_with(server, &wait_as(consumer))
}

/// A consumer of this group that waits.
#[track_caller]
pub fn waiter_of(server: &Server, group: &str) -> Client {
    waiter_with(server, &format!("TASK.CONSUME {group} c q BLOCK 0 META"))
}

/// The consumers `c0`, `c1`, … that wait in this order.
#[track_caller]
pub fn line(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|number| waiter(server, &format!("c{number}"))).collect()
}

/// A client in a database.
#[track_caller]
pub fn client_in(server: &Server, db: usize) -> Client {
    let mut client = server.client();
    if db > 0 {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
    }
    client
}

/// The reply with `META` where there is no task.
pub fn no_tasks() -> Value {
    array([] as [Value; 0])
}

/// A task as `META` delivers it, and when it came.
#[derive(Debug)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// Its fields.
    pub fields: Value,
    /// How long its last lease was, in ms.
    pub idle: i64,
    /// How often it has been delivered.
    pub deliveries: i64,
    /// When it came.
    pub at: i64,
}

impl Delivery {
    /// A field.
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.fields.get(field).as_str()
    }

    /// The id that PUBLISH replied.
    #[track_caller]
    pub fn original_id(&self) -> &str {
        self.fields.field("original_id").map_or(&self.id, Value::as_str)
    }
}

/// The tasks in a reply with `META`.
#[track_caller]
pub fn deliveries(reply: &Value, at: i64) -> Vec<Delivery> {
    let delivery = |task: &Value| match task.items() {
        [id, fields, idle, deliveries] => {
            let (id, fields) = (id.as_str().to_owned(), fields.clone());
            Delivery { id, fields, idle: idle.as_int(), deliveries: deliveries.as_int(), at }
        }
        _ => panic!("{reply:?}"),
    };
    reply.items().iter().map(delivery).collect()
}

/// Reads one reply with tasks, and checks that nothing else came.
#[track_caller]
pub fn gets_some(client: &mut Client) -> Vec<Delivery> {
    let reply = client.read();
    let at = now_ms();
    assert_eq!(client.run("PING"), simple("PONG"), "nothing else came");
    deliveries(&reply, at)
}

/// Reads one reply with exactly one task, and checks its payload.
#[track_caller]
pub fn gets(client: &mut Client, payload: &str) -> Delivery {
    let mut tasks = gets_some(client);
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!(tasks[0].text("payload"), payload);
    tasks.remove(0)
}

/// Reads one reply with one task from each of these clients: the payloads, sorted.
#[track_caller]
pub fn payloads_of(clients: &mut [Client]) -> Vec<String> {
    let mut payloads: Vec<_> =
        clients.iter_mut().map(|client| gets_some(client)[0].text("payload").to_owned()).collect();
    payloads.sort();
    payloads
}

/// Sets a part of the queue's policy.
#[track_caller]
pub fn policy(client: &mut Client, options: &str) {
    assert_eq!(client.run(format!("TASK.POLICY q {options}")), ok());
}

/// Publishes a task and returns its id.
#[track_caller]
pub fn publish(client: &mut Client, payload: &str, options: &str) -> String {
    client.publish_with("q", payload, options)
}

/// Publishes a task that is due in `ms`, and returns that time.
#[track_caller]
pub fn delay(client: &mut Client, payload: &str, ms: i64) -> i64 {
    id_ms(&publish(client, payload, &format!("DELAY {ms}")))
}

/// Leases the next task to `worker`, whose connection then ends. The task, and a moment just before
/// its lease began.
#[track_caller]
pub fn worker_dies(server: &Server) -> (Delivery, i64) {
    let mut worker = server.client();
    let begin = worker.time_ms();
    let reply = worker.run("TASK.CONSUME g worker q META");
    let mut tasks = deliveries(&reply, now_ms());
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    (tasks.remove(0), begin)
}

/// Checks that something due at `due` came neither early nor late.
#[track_caller]
pub fn on_time(at: i64, due: i64) {
    assert!(at >= due, "{} ms early", due - at);
    assert!(at <= due + LATE, "{} ms late", at - due);
}

/// Checks that this many clients still wait after everything that was to happen at once has
/// happened.
#[track_caller]
pub fn still_wait(server: &Server, count: usize) {
    let mut control = server.client();
    // There are no such replicas, so this returns after the time-out, which is longer than a timer
    // takes.
    assert!(matches!(control.run("WAIT 1000 20"), Value::Int(_)));
    assert_eq!(waiters(&mut control, "task"), count);
}

/// Checks that the server is idle. The time is long enough to notice a timer that is set again and
/// again.
#[track_caller]
pub fn is_idle(server: &Server) {
    const WATCHED: Duration = Duration::from_millis(200);
    let before = server.cpu_time();
    thread::sleep(WATCHED);
    let work = server.cpu_time() - before;
    assert!(work < WATCHED / 2, "{work:?} of work in {WATCHED:?}");
}

/// The consumers that hold the leases of a stream, in the order of the tasks.
#[track_caller]
pub fn holders(client: &mut Client, stream: &str) -> Vec<String> {
    client.leases(stream, "g").into_iter().map(|lease| lease.consumer).collect()
}

/// One number of `TASK.INFO q`.
#[track_caller]
pub fn task_info(client: &mut Client, field: &str) -> i64 {
    client.run("TASK.INFO q").get(field).as_int()
}

/// A server with an append-only file that is written at once.
#[track_caller]
pub fn durable() -> Checked {
    Checked::new(Server::builder().aof(true).start())
}

/// Publishes tasks with the payloads 0, 1, …
#[track_caller]
pub fn publish_many(client: &mut Client, count: usize, options: &str) {
    let options: Vec<_> = options.split_ascii_whitespace().collect();
    let script = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
        redis.call('TASK.PUBLISH', KEYS[1], i, unpack(ARGV, 3)) end";
    for first in (0..count).step_by(5000) {
        let last = (first + 5000).min(count) - 1;
        let mut call = args!["EVAL", script, 1, "q", first, last].to_vec();
        call.extend(options.iter().map(|option| option.as_bytes().to_vec()));
        assert!(client.cmd(&call).is_nil());
    }
}

/// How many sequence numbers a priority has.
pub const PER_PRIORITY: u64 = 100_000_000_000_000_000;

/// Where an id says that its task is: 0 to 9 is its priority, 10 means delayed.
#[track_caller]
pub fn priority_of(id: &str) -> u64 {
    let (_, seq) = id.split_once('-').expect("an id");
    seq.parse::<u64>().expect("a sequence number") / PER_PRIORITY
}

/// The key of the stream of a priority.
pub fn stream(priority: i64) -> String {
    priority_stream("q", priority)
}

/// Delivers the one task that is there to the consumer `c` of a group.
#[track_caller]
pub fn next(client: &mut Client, group: &str) -> Delivered {
    client.consume_only(group, "c", "q")
}

/// Delivers everything to the consumer `c` of a group: the fields of each task.
#[track_caller]
pub fn fields(client: &mut Client, group: &str) -> Vec<String> {
    client.consume(group, "c", "q", 100).into_iter().map(|task| task.fields).collect()
}

/// Empties the server, publishes a task and leases it to the groups `g` and `h`.
#[track_caller]
pub fn leased_by_two(client: &mut Client, priority: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    for group in ["g", "h"] {
        assert_eq!(client.run(format!("TASK.CONSUME {group} c q")), nil_array());
    }
    let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
    for group in ["g", "h"] {
        assert_eq!(next(client, group).id, id);
    }
    id
}

/// Empties the server, adds entries with these ids to the queue and leases them to these groups.
#[track_caller]
pub fn lease_to(client: &mut Client, groups: &[&str], ids: &[&str]) {
    assert_eq!(client.run("FLUSHALL"), ok());
    add_entries(client, "q", ids);
    for group in groups {
        assert_eq!(client.run(format!("TASK.CONSUME {group} c q 1000")).task_ids(), ids);
    }
}

/// Adds entries with these ids to a stream, as TASK.PUBLISH does.
#[track_caller]
pub fn add_entries(client: &mut Client, stream: &str, ids: &[&str]) {
    for id in ids {
        let add = format!("XADD {stream} {id} payload {id} timestamp 1 retry_count 0");
        assert_eq!(client.run(add), bulk(id));
    }
}

/// Waits until every lease of the group in a stream is older than `ms`.
#[track_caller]
pub fn wait_until_older(client: &mut Client, key: &str, ms: i64) {
    eventually(SOON, "the leases are old", || {
        let pending = client.cmd(&["XPENDING", key, "g", "-", "+", "10000"]);
        pending.is_error() || client.leases(key, "g").iter().all(|lease| lease.idle > ms)
    });
}
