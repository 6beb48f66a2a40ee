//! Consumers that wait, and time: a delayed task comes to them when it is due and a task whose
//! worker died when its lease is over, never early and soon after; so do all others that anything
//! brings, in order, each to one of them, and none to a connection that has ended. However much
//! comes at once, nothing is lost and other clients have their turn.
//!
//! Every test ends with an empty line, no panic counted and a module that can be unloaded, though
//! delayed tasks and leases are left.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const DELAYED: &str = "delayed:{q}";
const DEAD: &str = "dead:{q}";

/// A time in ms that does not pass during a test.
const LONG: i64 = 600_000;
/// How many ms late a task may come on a machine that does other things too.
const LATE: i64 = 2000;

/// The command of a consumer of the group `g` that waits without end for a task of the queue `q`.
fn wait_as(consumer: &str) -> String {
    format!("TASK.CONSUME g {consumer} q BLOCK 0 META")
}

/// A client that stands in line with this command.
#[track_caller]
fn waiter_with(server: &Server, command: &str) -> Client {
    waiter_in(server, 0, command)
}

/// As [`waiter_with`], in a database.
#[track_caller]
fn waiter_in(server: &Server, db: usize, command: &str) -> Client {
    let mut client = client_in(server, db);
    stand(&mut client, command);
    client
}

/// A consumer of the group `g` in line for the queue `q`.
#[track_caller]
fn waiter(server: &Server, consumer: &str) -> Client {
    waiter_with(server, &wait_as(consumer))
}

/// The consumers `c0`, `c1`, … in line for the queue `q`, in this order.
#[track_caller]
fn line(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|number| waiter(server, &format!("c{number}"))).collect()
}

#[track_caller]
fn client_in(server: &Server, db: usize) -> Client {
    let mut client = server.client();
    if db > 0 {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
    }
    client
}

/// A task as `META` tells it, and when it came.
#[derive(Debug)]
struct Delivery {
    id: String,
    fields: Value,
    /// For how long it was leased before, in ms.
    idle: i64,
    /// How often it has been delivered.
    deliveries: i64,
    at: i64,
}

impl Delivery {
    #[track_caller]
    fn text(&self, field: &str) -> &str {
        self.fields.get(field).as_str()
    }

    /// The id that PUBLISH replied.
    #[track_caller]
    fn original_id(&self) -> &str {
        self.fields.field("original_id").map_or(&self.id, Value::as_str)
    }
}

/// The tasks in a reply with `META`.
#[track_caller]
fn deliveries(reply: &Value, at: i64) -> Vec<Delivery> {
    let delivery = |task: &Value| match task.items() {
        [id, fields, idle, deliveries] => {
            let (id, fields) = (id.as_str().to_owned(), fields.clone());
            Delivery { id, fields, idle: idle.as_int(), deliveries: deliveries.as_int(), at }
        }
        _ => panic!("{reply:?}"),
    };
    reply.items().iter().map(delivery).collect()
}

/// Reads the tasks that a consumer is told of, and nothing behind them.
#[track_caller]
fn gets_some(client: &mut Client) -> Vec<Delivery> {
    let reply = client.read();
    let at = now_ms();
    assert_eq!(client.run("PING"), simple("PONG"), "nothing more came");
    deliveries(&reply, at)
}

/// Reads the one task that a consumer is told of, and nothing behind it.
#[track_caller]
fn gets(client: &mut Client, payload: &str) -> Delivery {
    let mut told = gets_some(client);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].text("payload"), payload);
    told.remove(0)
}

/// Sets a part of the policy of the queue `q`.
#[track_caller]
fn policy(client: &mut Client, what: &str) {
    assert_eq!(client.run(format!("TASK.POLICY q {what}")), ok());
}

/// Publishes a task to the queue `q` and returns its id.
#[track_caller]
fn publish(client: &mut Client, payload: &str, options: &str) -> String {
    client.publish_with("q", payload, options)
}

/// When the task with this id is due.
#[track_caller]
fn due_of(id: &str) -> i64 {
    let (due, _) = id.split_once('-').expect("an id");
    due.parse().expect("a time")
}

/// Publishes a task that is due in `ms`; when that is.
#[track_caller]
fn delay(client: &mut Client, payload: &str, ms: i64) -> i64 {
    due_of(&publish(client, payload, &format!("DELAY {ms}")))
}

/// Leases the next task of the queue `q` to `worker`, whose connection ends then. The task, and the
/// moment before its lease began.
#[track_caller]
fn worker_dies(server: &Server) -> (Delivery, i64) {
    let mut worker = server.client();
    let begin = worker.time_ms();
    let reply = worker.run("TASK.CONSUME g worker q META");
    let mut told = deliveries(&reply, now_ms());
    assert_eq!(told.len(), 1, "{told:?}");
    (told.remove(0), begin)
}

/// What came `at` this moment came on time, when it was to come at `due`.
#[track_caller]
fn on_time(at: i64, due: i64) {
    assert!(at >= due, "{} ms early", due - at);
    assert!(at <= due + LATE, "{} ms late", at - due);
}

/// Waits until the clock is past this point.
#[track_caller]
fn wait_past(client: &mut Client, end: i64) {
    eventually(SOON, "the clock goes on", || client.time_ms() > end);
}

/// Nobody is served: so many wait still, after everything that was to be done at once is done.
#[track_caller]
fn still_wait(server: &Server, count: usize) {
    let mut control = server.client();
    // For so many replicas it waits in vain, and longer than a timer takes.
    assert!(matches!(control.run("WAIT 1000 20"), Value::Int(_)));
    assert_eq!(waiters(&mut control, "task"), count);
}

/// The server has next to nothing to do, for as long as a timer that is set again and again would
/// show.
#[track_caller]
fn is_idle(server: &Server) {
    const WATCHED: Duration = Duration::from_millis(200);
    let before = server.cpu_time();
    thread::sleep(WATCHED);
    let work = server.cpu_time() - before;
    assert!(work < WATCHED / 2, "{work:?} of work in {WATCHED:?}");
}

/// The consumers of the group `g` that the tasks of a stream are leased to, in the order of the
/// tasks.
#[track_caller]
fn holders(client: &mut Client, stream: &str) -> Vec<String> {
    client.leases(stream, "g").into_iter().map(|lease| lease.consumer).collect()
}

/// One number of `TASK.INFO q`.
#[track_caller]
fn task_info(client: &mut Client, field: &str) -> i64 {
    client.run("TASK.INFO q").get(field).as_int()
}

/// A server with an append-only file that is written at once.
#[track_caller]
fn durable() -> Checked {
    Checked::new(Server::builder().aof(true).start())
}

// ---------------------------------------------------------------------------------------------
// Tasks that are due later
// ---------------------------------------------------------------------------------------------

#[test]
fn a_delayed_task_comes_to_the_one_who_waits_when_it_is_due() {
    let server = Checked::start();
    let mut client = server.client();
    for waits_first in [true, false] {
        for by_delay in [true, false] {
            let early = waits_first.then(|| waiter(&server, "c0"));
            let begin = client.time_ms();
            let option = if by_delay { "DELAY 120".into() } else { format!("AT {}", begin + 120) };
            let id = publish(&mut client, "p", &option);
            let due = due_of(&id);
            assert!(due >= begin + 120, "{due} is before {begin} + 120");
            assert!(due <= client.time_ms() + 120, "{due}");
            let mut waiter = early.unwrap_or_else(|| {
                let mut waiter = server.client();
                waiter.send(wait_as("c0"));
                waiter
            });
            let told = gets(&mut waiter, "p");
            on_time(told.at, due);
            assert_eq!(told.text("original_id"), id);
            assert_eq!((told.text("retry_count"), told.idle, told.deliveries), ("0", 0, 1));
            assert_eq!(holders(&mut client, "q"), ["c0"]);
            assert_eq!(task_info(&mut client, "delayed"), 0);
            assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(1));
        }
    }
}

/// The middle one of how many ms late something came.
fn median(mut late: Vec<i64>) -> i64 {
    late.sort_unstable();
    late[late.len() / 2]
}

#[test]
fn most_tasks_come_to_the_millisecond_or_some_milliseconds_later() {
    // Whoever looks from time to time is later than that more often than not.
    const MOST: i64 = 30;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 70");
    let (mut due_late, mut left_late) = (Vec::new(), Vec::new());
    for number in 0..9 {
        let mut waiters = line(&server, 2);
        let due = delay(&mut client, "p", 40 + 3 * number);
        let told = gets(&mut waiters[0], "p");
        due_late.push(told.at - due);
        // Its lease began some time between the due time and the reply.
        let again = gets(&mut waiters[1], "p");
        left_late.push(again.at - told.at - 70);
        assert_eq!(client.run(format!("TASK.ACK q g {}", again.id)), int(1));
    }
    assert!(median(due_late.clone()) <= MOST, "{due_late:?}");
    assert!(median(left_late.clone()) <= MOST, "{left_late:?}");
}

#[test]
fn an_earlier_task_that_is_published_later_is_served_first() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, 3);
    let far = delay(&mut client, "far", LONG);
    let late = delay(&mut client, "late", 2000);
    let early = delay(&mut client, "early", 120);
    publish(&mut client, "now", "");
    gets(&mut waiters[0], "now");
    on_time(gets(&mut waiters[1], "early").at, early);
    on_time(gets(&mut waiters[2], "late").at, late);
    assert!(now_ms() < far);
    // One that takes the place of the next, which is withdrawn.
    let mut waiter = waiter(&server, "c3");
    let id = publish(&mut client, "withdrawn", "DELAY 1000");
    assert_eq!(client.run(format!("TASK.CANCEL q {id}")), int(1));
    let due = delay(&mut client, "next", 1200);
    on_time(gets(&mut waiter, "next").at, due);
    assert_eq!(task_info(&mut client, "delayed"), 1);
}

#[test]
fn tasks_of_several_queues_and_databases_come_each_at_its_time() {
    let server = Checked::start();
    let places =
        [(0, "q", 320), (9, "q", 120), (3, "a{b}", 220), (9, "other", 170), (0, "x}", 120)];
    let mut expected = Vec::new();
    for (db, queue, ms) in places {
        let command = format!("TASK.CONSUME g c {queue} BLOCK 0 META");
        expected.push((waiter_in(&server, db, &command), db, queue, ms));
    }
    let mut published: Vec<_> = expected
        .into_iter()
        .map(|(waiter, db, queue, ms)| {
            let publish = format!("TASK.PUBLISH {queue} {db}-{queue} DELAY {ms}");
            let id = client_in(&server, db).run(publish);
            (due_of(id.as_str()), waiter, format!("{db}-{queue}"))
        })
        .collect();
    published.sort_by_key(|(due, ..)| *due);
    for (due, waiter, payload) in &mut published {
        on_time(gets(waiter, payload).at, *due);
    }
}

#[test]
fn tasks_that_are_due_at_once_go_down_the_line_by_priority_and_then_in_their_order() {
    const COUNT: usize = 20;
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, COUNT);
    let due = client.time_ms() + 2000;
    for number in 0..COUNT {
        let priority = [0, 9, 3, 0][number % 4];
        publish(&mut client, &number.to_string(), &format!("AT {due} PRIORITY {priority}"));
    }
    assert!(client.time_ms() < due, "a slow machine: none is due yet");
    let mut order: Vec<_> = (0..COUNT).collect();
    order.sort_by_key(|number| [2, 0, 1, 2][number % 4]);
    for (waiter, number) in waiters.iter_mut().zip(order) {
        on_time(gets(waiter, &number.to_string()).at, due);
    }
}

#[test]
fn what_is_due_at_once_is_handed_out_in_waves_and_in_order() {
    const COUNT: usize = 30;
    let server = Checked::start();
    let mut client = server.client();
    assert_eq!(client.run("CONFIG SET corral.wake-bytes 1"), ok());
    let mut waiters = line(&server, COUNT);
    let due = client.time_ms() + 600;
    for number in 0..COUNT {
        publish(&mut client, &number.to_string(), &format!("AT {due}"));
    }
    for (number, waiter) in waiters.iter_mut().enumerate() {
        on_time(gets(waiter, &number.to_string()).at, due);
    }
}

#[test]
fn one_task_is_for_one_of_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, 5);
    for (number, options) in ["DELAY 60", "PRIORITY 5", "DELAY 60 PRIORITY 9"].iter().enumerate() {
        publish(&mut client, "p", options);
        gets(&mut waiters[number], "p");
        still_wait(&server, 4 - number);
    }
    assert_eq!(waiters[3].read_timeout(Duration::ZERO), None);
}

#[test]
fn one_whose_time_runs_out_leaves_the_task_to_the_next() {
    let server = Checked::start();
    let mut client = server.client();
    let mut brief = waiter_with(&server, "TASK.CONSUME g brief q BLOCK 100 META");
    let mut next = waiter(&server, "next");
    let due = delay(&mut client, "p", 300);
    assert_eq!(brief.read(), array([] as [Value; 0]));
    on_time(gets(&mut next, "p").at, due);
    // Nobody waits when the next is due, and it is there for whoever asks then.
    let due = delay(&mut client, "q", 300);
    assert_eq!(brief.run("TASK.CONSUME g brief q BLOCK 1 META"), array([] as [Value; 0]));
    wait_past(&mut client, due);
    let found = brief.run("TASK.CONSUME g brief q META");
    assert_eq!(deliveries(&found, now_ms())[0].text("payload"), "q");
}

#[test]
fn a_waiter_takes_up_to_its_count_of_what_is_due() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = [3, 10, 1].map(|count| {
        waiter_with(&server, &format!("TASK.CONSUME g c q COUNT {count} BLOCK 0 META"))
    });
    let due = client.time_ms() + 500;
    for payload in ["1", "2", "3", "4", "5"] {
        publish(&mut client, payload, &format!("AT {due}"));
    }
    let payloads = |client: &mut Client| {
        let told = gets_some(client);
        told.iter().map(|task| task.text("payload").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(payloads(&mut waiters[0]), ["1", "2", "3"]);
    assert_eq!(payloads(&mut waiters[1]), ["4", "5"]);
    still_wait(&server, 1);
    publish(&mut client, "6", "DELAY 1");
    assert_eq!(payloads(&mut waiters[2]), ["6"]);
}

#[test]
fn a_time_beyond_every_clock_does_not_occupy_the_server() {
    let server = Checked::start();
    let mut client = server.client();
    let last = (1_i64 << 53) - 1;
    for prepare in [
        format!("TASK.PUBLISH q far AT {last}"),
        format!("ZADD {DELAYED} +inf foreign"),
        format!("ZADD {DELAYED} 1e300 foreign"),
        format!("ZADD {DELAYED} 9223372036854775807 foreign"),
        format!("TASK.POLICY q LEASE {}", last - client.time_ms() - LONG),
        "XADD q * payload leased|TASK.CONSUME g worker q".into(),
    ] {
        run_all(&mut client, &prepare.split('|').collect::<Vec<_>>());
        let mut waiter = waiter(&server, "c");
        is_idle(&server);
        let due = delay(&mut client, "near", 60);
        on_time(gets(&mut waiter, "near").at, due);
    }
}

#[test]
fn strange_times_of_foreign_tasks_stop_nobody() {
    let server = Checked::start();
    let mut client = server.client();
    for score in ["-inf", "-1e300", "-1", "0", "0.5", "1.999"] {
        let mut waiter = waiter(&server, "c");
        assert_eq!(client.run(format!("ZADD {DELAYED} {score} p")), int(1));
        gets(&mut waiter, "p");
    }
    // A fraction of a millisecond is not over before the millisecond is.
    let mut waiter = waiter(&server, "c");
    let due = client.time_ms() + 60;
    assert_eq!(client.run(format!("ZADD {DELAYED} {due}.5 p")), int(1));
    on_time(gets(&mut waiter, "p").at, due);
}

// ---------------------------------------------------------------------------------------------
// Restarts, replicas
// ---------------------------------------------------------------------------------------------

/// As many consumers come as there are tasks, and each task comes to one of them when it is due, or
/// at once if that was before.
#[track_caller]
fn come_on_time<const N: usize>(
    server: &Server,
    due: [(&str, i64); N],
) -> BTreeMap<String, Delivery> {
    let mut waiters: Vec<_> = due.iter().map(|_| server.client()).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        waiter.send(wait_as(&format!("c{number}")));
    }
    let since = now_ms();
    let mut came = BTreeMap::new();
    eventually(SOON, "all of them come", || {
        waiters.retain_mut(|waiter| {
            let Some(reply) = waiter.read_timeout(Duration::ZERO) else { return true };
            for task in deliveries(&reply, now_ms()) {
                assert_eq!(waiter.run(format!("TASK.ACK q g {}", task.id)), int(1));
                came.insert(task.text("payload").to_owned(), task);
            }
            false
        });
        waiters.is_empty()
    });
    assert_eq!(came.len(), N, "{came:?}");
    for (payload, due) in due {
        let at = came[payload].at;
        assert!(at >= due, "{payload}: {} ms early", due - at);
        assert!(at <= due.max(since) + LATE, "{payload}: {} ms late", at - due.max(since));
    }
    came
}

#[test]
fn after_a_restart_tasks_come_when_they_are_due_and_leases_end_on_time() {
    const LEASE: i64 = 1000;
    for crash in [false, true] {
        let mut server = durable();
        let mut client = server.client();
        policy(&mut client, &format!("LEASE {LEASE}"));
        publish(&mut client, "leased", "PRIORITY 2");
        let (leased, begin) = worker_dies(&server);
        let late = delay(&mut client, "late", 1200);
        let early = delay(&mut client, "early", 20);
        drop(client);
        if crash {
            server.kill9();
        }
        server.restart();
        let due = [("early", early), ("late", late), ("leased", begin + LEASE)];
        let came = come_on_time(&server, due);
        let again = &came["leased"];
        assert_eq!((&again.id, again.deliveries), (&leased.id, 2));
        assert!(again.idle >= LEASE, "{}", again.idle);
        assert_eq!(came["late"].deliveries, 1);
        // What is new comes as ever.
        let mut waiter = waiter(&server, "new");
        publish(&mut server.client(), "new", "DELAY 20");
        gets(&mut waiter, "new");
    }
}

#[test]
fn an_earlier_task_that_is_published_after_a_restart_comes_first() {
    let mut server = durable();
    let late = delay(&mut server.client(), "late", 5000);
    server.restart();
    let mut client = server.client();
    let mut waiters = line(&server, 2);
    let early = delay(&mut client, "early", 60);
    on_time(gets(&mut waiters[0], "early").at, early);
    let told = gets(&mut waiters[1], "late");
    assert!(told.at >= late, "{} ms early", late - told.at);
}

#[test]
fn a_promoted_replica_goes_on_with_the_times_of_its_master() {
    const LEASE: i64 = 1000;
    let mut master = Server::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let mut client = master.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    for payload in ["plain", "urgent"] {
        let options = if payload == "urgent" { "PRIORITY 7" } else { "" };
        publish(&mut client, payload, options);
    }
    let leased = [worker_dies(&master), worker_dies(&master)];
    let due = delay(&mut client, "due", 1200);
    let far = delay(&mut client, "far", LONG);
    wait_in_sync(&master, &replica);
    drop(client);
    master.kill9();
    let mut client = replica.client();
    assert_eq!(client.run("REPLICAOF NO ONE"), ok());
    let [(urgent, first), (plain, second)] = &leased;
    let due = [("due", due), ("plain", second + LEASE), ("urgent", first + LEASE)];
    let came = come_on_time(&replica, due);
    for task in [urgent, plain] {
        let again = &came[task.text("payload")];
        assert_eq!((&again.id, again.deliveries), (&task.id, 2));
    }
    // The others are as they were, and there are new ones.
    let mut waiter = waiter(&replica, "c");
    let early = delay(&mut client, "early", 60);
    on_time(gets(&mut waiter, "early").at, early);
    assert!(now_ms() < far);
}

/// A port on which nobody listens: a replica of it keeps its data and never gets a master.
const NO_MASTER: &str = "REPLICAOF 127.0.0.1 1";

#[test]
fn nothing_becomes_due_and_no_lease_ends_on_a_replica() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 1500");
    publish(&mut client, "leased", "");
    let (_, begin) = worker_dies(&server);
    let waiters = line(&server, 2);
    let due = delay(&mut client, "due", 1500);
    assert_eq!(client.run(NO_MASTER), ok());
    for mut waiter in waiters {
        let told = waiter.read();
        assert!(told.is_error_with("UNBLOCKED "), "{told:?}");
    }
    let before = client.run("DEBUG DIGEST");
    wait_past(&mut client, due.max(begin + 1500));
    // What a timer does is done when this time is up.
    assert_eq!(client.run("XREAD BLOCK 50 STREAMS nothing $"), nil_array());
    assert_eq!(client.run("DEBUG DIGEST"), before);
    let refused = server.client().run(wait_as("c"));
    assert!(refused.is_error_with("READONLY "), "{refused:?}");

    assert_eq!(client.run("REPLICAOF NO ONE"), ok());
    let mut waiters = [(); 2].map(|()| server.client());
    let mut payloads = waiters.each_mut().map(|waiter| {
        waiter.send(wait_as("c"));
        gets_some(waiter)[0].text("payload").to_owned()
    });
    payloads.sort();
    assert_eq!(payloads, ["due", "leased"]);
}

#[test]
fn a_replica_of_a_queue_with_waiters_is_faithful() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let mut client = master.client();
    policy(&mut client, "LEASE 0 TRIES 2");
    let mut waiters = line(&master, 4);
    publish(&mut client, "urgent", "PRIORITY 5");
    gets(&mut waiters[0], "urgent");
    delay(&mut client, "due", 60);
    gets(&mut waiters[1], "due");
    // Their leases end, and again, and then they are dead.
    policy(&mut client, "LEASE 100");
    for waiter in &mut waiters[2..] {
        assert_eq!(gets_some(waiter)[0].deliveries, 2);
    }
    let _waiting = waiter(&master, "c4");
    eventually(SOON, "they are dead", || client.run(format!("XLEN {DEAD}")) == int(2));
    wait_in_sync(&master, &replica);
    assert_eq!(replica.client().run("DEBUG DIGEST"), client.run("DEBUG DIGEST"));
}

// ---------------------------------------------------------------------------------------------
// Leases that end
// ---------------------------------------------------------------------------------------------

#[test]
fn a_task_whose_worker_died_comes_to_the_one_who_waits_when_its_lease_is_over() {
    const LEASE: i64 = 200;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    for waits_first in [true, false] {
        for priority in [0, 9] {
            let early = if waits_first {
                // The first in line becomes the worker.
                let mut worker = waiter(&server, "worker");
                let next = waiter(&server, "c0");
                let begin = client.time_ms();
                let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
                gets(&mut worker, "p");
                Some((next, begin, id))
            } else {
                None
            };
            let (mut next, begin, id) = early.unwrap_or_else(|| {
                let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
                let (_, begin) = worker_dies(&server);
                (waiter(&server, "c0"), begin, id)
            });
            let told = gets(&mut next, "p");
            on_time(told.at, begin + LEASE);
            assert_eq!((&told.id, told.deliveries), (&id, 2));
            assert!((LEASE..=LEASE + LATE).contains(&told.idle), "{}", told.idle);
            let stream = if priority == 9 { "priority9:{q}" } else { "q" };
            assert_eq!(holders(&mut client, stream), ["c0"]);
            assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
            assert_eq!(task_info(&mut client, "length"), 0);
        }
    }
}

#[test]
fn leases_end_one_after_the_other_and_go_down_the_line() {
    const LEASE: i64 = 2000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    for payload in ["a", "b", "c"] {
        publish(&mut client, payload, "");
    }
    let leased: Vec<_> = (0..3)
        .map(|_| {
            let leased = worker_dies(&server);
            wait_past(&mut client, leased.1 + 60);
            leased
        })
        .collect();
    let mut waiters = line(&server, 3);
    for (waiter, (task, begin)) in waiters.iter_mut().zip(leased) {
        let told = gets(waiter, task.text("payload"));
        on_time(told.at, begin + LEASE);
    }
}

#[test]
fn leases_that_end_at_once_go_down_the_line_in_the_order_of_the_tasks() {
    const COUNT: usize = 20;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 2000");
    for number in 0..COUNT {
        publish(&mut client, &number.to_string(), "");
    }
    let begin = client.time_ms();
    let taken = client.run(format!("TASK.CONSUME g worker q COUNT {COUNT}"));
    assert_eq!(taken.task_ids().len(), COUNT);
    let mut waiters = line(&server, COUNT);
    for (number, waiter) in waiters.iter_mut().enumerate() {
        let told = gets(waiter, &number.to_string());
        on_time(told.at, begin + 2000);
        assert_eq!(told.deliveries, 2);
    }
}

#[test]
fn who_stands_behind_one_that_gets_the_task_of_a_dead_worker_gets_the_next_right_after() {
    let server = Checked::start();
    let mut client = server.client();
    // The next lease ends, and what is leased is looked at again, long after the test.
    policy(&mut client, &format!("LEASE {LONG}"));
    for count in [2, 5] {
        let left = publish(&mut client, "left", "");
        run_all(&mut client, &["DEL q"]);
        run_all(
            &mut client,
            &[format!("XADD q {left} payload left"), "XGROUP CREATE q g 0".into()],
        );
        client.run("XREADGROUP GROUP g worker STREAMS q >");
        let end = client.time_ms() + 1500;
        let idle = format!("XCLAIM q g worker 0 {left} IDLE {} JUSTID", LONG - 1500);
        assert_eq!(client.run(idle), array([&*left]));
        let mut waiters = line(&server, count);
        // The server is busy when the lease ends; a task is published before it looks at its timers.
        let busy = (end - client.time_ms()).max(0) + 300;
        let mut lines = vec![format!("DEBUG SLEEP {}", busy as f64 / 1000.0)];
        lines.extend((1..count).map(|_| "TASK.PUBLISH q next".to_owned()));
        let replies = client.pipeline(&lines);
        assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
        let told = gets(&mut waiters[0], "left");
        assert_eq!((&told.id, told.deliveries), (&left, 2));
        waiters[1..].iter_mut().for_each(|waiter| drop(gets(waiter, "next")));
        run_all(&mut client, &["DEL q"]);
    }
}

#[test]
fn a_worker_that_extends_its_lease_keeps_its_task_for_as_long() {
    const LEASE: i64 = 2000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    let id = publish(&mut client, "p", "");
    worker_dies(&server);
    let mut next = waiter(&server, "c");
    let mut begin = 0;
    for _ in 0..5 {
        begin = client.time_ms();
        assert_eq!(client.run(format!("TASK.EXTEND q g worker {id}")), int(1));
        wait_past(&mut client, begin + 60);
    }
    let told = gets(&mut next, "p");
    on_time(told.at, begin + LEASE);
    assert_eq!(told.deliveries, 2);
}

#[test]
fn a_task_that_was_finished_comes_to_nobody_when_its_lease_would_be_over() {
    let server = Checked::start();
    let mut client = server.client();
    for finish in [
        "TASK.ACK q g {id}",
        "TASK.NACK q g worker FATAL {id}",
        "TASK.RETRY q {id} p 0 elsewhere dead 3 g",
        // Whatever a foreign client ends.
        "XACK q g {id}",
        "XDEL q {id}",
        "XTRIM q MAXLEN 0",
        "XGROUP DELCONSUMER q g worker",
        "XGROUP DESTROY q g",
        "DEL q",
        "RENAME q elsewhere",
        "PEXPIRE q 30",
        "FLUSHALL",
    ] {
        policy(&mut client, "LEASE 400");
        let mut next = waiter(&server, "c");
        let mut worker = server.client();
        // The one who waits gets it, and waits again.
        let id = publish(&mut client, "p", "");
        gets(&mut next, "p");
        assert_eq!(client.run(format!("XCLAIM q g worker 0 {id} JUSTID")), array([&*id]));
        let begin = client.time_ms();
        stand(&mut next, &wait_as("c"));
        run_all(&mut worker, &[finish.replace("{id}", &id)]);
        let expected = if finish.starts_with("XGROUP DESTROY") { "p" } else { "next" };
        wait_past(&mut client, begin + 450);
        if expected == "next" {
            still_wait(&server, 1);
            publish(&mut client, "next", "");
        }
        let told = gets(&mut next, expected);
        assert_eq!(told.deliveries, 1, "{finish}");
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_consumer_that_waits_gets_back_what_it_has_not_finished() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 120");
    publish(&mut client, "p", "");
    let begin = client.time_ms();
    assert_eq!(client.run("TASK.CONSUME g same q META").items().len(), 1);
    let mut same = waiter(&server, "same");
    let told = gets(&mut same, "p");
    on_time(told.at, begin + 120);
    assert_eq!(told.deliveries, 2);
}

#[test]
fn a_lease_of_a_client_that_does_not_know_the_module_ends_too() {
    const LEASE: i64 = 300;
    // How long it may take until it is found.
    const SWEEP: i64 = 1000;
    const PRIORITY: &str = "priority3:{q}";
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    let mut begins = Vec::new();
    for (number, (queue, id)) in
        [("q", "1-1"), (PRIORITY, "1-300000000000000000")].iter().enumerate()
    {
        run_all(&mut client, &[format!("XGROUP CREATE {queue} g 0 MKSTREAM")]);
        run_all(&mut client, &[format!("XADD {queue} {id} payload p{number}")]);
        begins.push(client.time_ms());
        let read = client.run(format!("XREADGROUP GROUP g plain STREAMS {queue} >"));
        assert_eq!(read.task_payloads(), [format!("p{number}")]);
    }
    let mut waiters = line(&server, 2);
    let mut told: Vec<_> = waiters.iter_mut().flat_map(gets_some).collect();
    told.sort_by_key(|task| task.text("payload").to_owned());
    for (task, begin) in told.iter().zip(begins) {
        assert!(task.at >= begin + LEASE, "{} ms early", begin + LEASE - task.at);
        assert!(task.at <= begin + LEASE + SWEEP + LATE, "late: {} ms", task.at - begin);
        assert_eq!(task.deliveries, 2);
        assert!(task.idle >= LEASE, "{}", task.idle);
    }
}

#[test]
fn what_a_plain_client_leased_with_an_id_of_another_place_comes_again_with_a_right_one() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 200 TRIES 3");
    // The same id in the queue's own stream, leased by somebody else.
    run_all(&mut client, &["XADD q 5-5 payload other", "XADD priority3:{q} 5-5 payload p"]);
    run_all(&mut client, &["XGROUP CREATE q g 0", "XGROUP CREATE priority3:{q} g 0"]);
    client.run("XREADGROUP GROUP g plain STREAMS priority3:{q} >");
    let mut first = waiter(&server, "first");
    let other = gets(&mut first, "other").id;
    assert_eq!(client.run(format!("TASK.ACK q g {other}")), int(1));
    let mut second = waiter(&server, "second");
    let told = gets(&mut second, "p");
    let (id, class) = (&told.id, "-300000000000000000");
    assert!(id.ends_with(class), "{id}");
    // The try of the plain client counts.
    assert_eq!((told.text("original_id"), told.text("retry_count")), ("5-5", "1"));
    assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    assert_eq!(client.run("XLEN priority3:{q}"), int(0));
    assert_eq!(client.run("XLEN q"), int(0));
}

#[test]
fn a_task_that_a_foreign_client_claims_is_its_own_for_a_lease() {
    const LEASE: i64 = 1500;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    let id = publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut next = waiter(&server, "c");
    wait_past(&mut client, begin + 150);
    let claimed = client.time_ms();
    assert_eq!(client.run(format!("XCLAIM q g foreign 0 {id} JUSTID")), array([&*id]));
    let told = gets(&mut next, "p");
    assert!(told.at >= claimed + LEASE, "{} ms early", claimed + LEASE - told.at);
    assert!(told.at <= claimed + LEASE + 1000 + LATE, "late: {} ms", told.at - claimed);
}

#[test]
fn a_lease_without_end_ends_when_the_policy_says_so() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 0");
    publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut next = waiter(&server, "c");
    wait_past(&mut client, begin + 200);
    still_wait(&server, 1);
    policy(&mut client, "LEASE 100");
    assert_eq!(gets(&mut next, "p").deliveries, 2);
}

#[test]
fn a_changed_lease_holds_for_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    for (first, second) in [(LONG, 400), (LONG, 60), (1500, 2000)] {
        policy(&mut client, &format!("LEASE {first}"));
        let id = publish(&mut client, "p", "");
        let (_, begin) = worker_dies(&server);
        let mut next = waiter(&server, "c");
        wait_past(&mut client, begin + 100);
        let changed = client.time_ms();
        policy(&mut client, &format!("LEASE {second}"));
        let told = gets(&mut next, "p");
        assert!(told.at >= begin + second, "{} ms early", begin + second - told.at);
        assert!(told.at <= changed.max(begin + second) + LATE, "late");
        assert_eq!(client.run(format!("TASK.ACK q g {id}")), int(1));
    }
}

#[test]
fn lease_and_tries_are_those_of_the_configuration_where_no_policy_says_otherwise() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(
        &mut client,
        &["CONFIG SET corral.task-lease-ms 200", "CONFIG SET corral.task-tries 2"],
    );
    publish(&mut client, "p", "");
    let (_, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    let told = gets(&mut waiters[0], "p");
    on_time(told.at, begin + 200);
    assert_eq!(told.deliveries, 2);
    let mut undertaker = waiter_with(&server, &format!("TASK.CONSUME g u {DEAD} BLOCK 0 META"));
    let dead = gets(&mut undertaker, "p");
    on_time(dead.at, begin + 400);
    assert_eq!(dead.text("deliveries"), "2");
    still_wait(&server, 1);

    // The policy of a queue is above it.
    policy(&mut client, "TRIES 0 LEASE 60");
    publish(&mut client, "p", "");
    gets(&mut waiters[1], "p");
    for deliveries in 2..=4 {
        let mut next = server.client();
        next.send(wait_as("c"));
        assert_eq!(gets(&mut next, "p").deliveries, deliveries);
    }
    // So is 0, which is without end, there.
    run_all(&mut client, &["CONFIG SET corral.task-lease-ms 0", "DEL policy:{q}"]);
    let waiting = waiter(&server, "c");
    let now = client.time_ms();
    wait_past(&mut client, now + 150);
    still_wait(&server, 1);
    drop(waiting);
}

#[test]
fn a_task_that_kills_every_worker_that_waits_for_it_ends_among_the_dead_letters() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 60 TRIES 3");
    for priority in [0, 4] {
        let undertake = format!("TASK.CONSUME g undertaker {DEAD} BLOCK 0 META");
        let mut undertaker = waiter_with(&server, &undertake);
        let mut worker = waiter(&server, "worker-1");
        let id = publish(&mut client, "poison", &format!("PRIORITY {priority}"));
        for number in 1..=3 {
            assert_eq!(gets(&mut worker, "poison").deliveries, number);
            // It dies of it, and the next one comes.
            drop(worker);
            worker = server.client();
            worker.send(wait_as(&format!("worker-{}", number + 1)));
        }
        let dead = gets(&mut undertaker, "poison");
        assert_eq!(dead.text("reason"), "lease expired");
        assert_eq!(dead.text("deliveries"), "3");
        assert_eq!(dead.original_id(), id);
        // The last one lives, waits, and works.
        still_wait(&server, 1);
        publish(&mut client, "wholesome", "");
        let told = gets(&mut worker, "wholesome");
        assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(1));
        assert_eq!(task_info(&mut client, "length"), 0);
        assert_eq!(client.run(format!("TASK.ACK {DEAD} g {}", dead.id)), int(1));
    }
}

// ---------------------------------------------------------------------------------------------
// What a consumer that waits is told
// ---------------------------------------------------------------------------------------------

#[test]
fn one_that_waited_in_vain_is_told_so_in_its_own_shape() {
    let server = Checked::start();
    delay(&mut server.client(), "far", LONG);
    for (mut client, nothing) in [(server.client(), "*-1\r\n"), (server.client3(), "_\r\n")] {
        for (meta, nothing) in [("", nothing), ("META", "*0\r\n")] {
            let begin = Instant::now();
            client.send(format!("TASK.CONSUME g c q BLOCK 40 {meta}"));
            assert_eq!(client.read_raw_reply(), nothing.as_bytes(), "{meta}");
            assert!(begin.elapsed() >= Duration::from_millis(40));
        }
    }
}

#[test]
fn everyone_who_waits_is_told_of_a_task_in_the_shape_that_it_asked_for() {
    let server = Checked::start();
    let shapes = [(false, ""), (false, "META"), (true, ""), (true, "META")];
    for options in ["", "PRIORITY 7", "DELAY 60", "DELAY 60 PRIORITY 7"] {
        for publisher_speaks_resp3 in [false, true] {
            let mut waiters = shapes.map(|(resp3, meta)| {
                let mut client = if resp3 { server.client3() } else { server.client() };
                stand(&mut client, &format!("TASK.CONSUME g c q BLOCK 0 {meta}"));
                client
            });
            let mut client =
                if publisher_speaks_resp3 { server.client3() } else { server.client() };
            for number in 0..waiters.len() {
                publish(&mut client, &number.to_string(), options);
            }
            for (number, (waiter, (resp3, meta))) in waiters.iter_mut().zip(shapes).enumerate() {
                let payload = number.to_string();
                match waiter.read() {
                    reply if meta == "META" => {
                        let told = deliveries(&reply, now_ms());
                        assert_eq!((told[0].idle, told[0].deliveries), (0, 1));
                        assert_eq!(told[0].text("payload"), payload);
                    }
                    Value::Map(streams) => {
                        assert!(resp3);
                        assert_eq!(streams[0].0, bulk("q"));
                        assert_eq!(Value::Map(streams).task_payloads(), [payload]);
                    }
                    streams => {
                        assert!(!resp3, "{streams:?}");
                        assert_eq!(streams.items()[0].items()[0], bulk("q"));
                        assert_eq!(streams.task_payloads(), [payload]);
                    }
                }
                assert_eq!(waiter.run("PING"), simple("PONG"), "nothing more came");
            }
        }
    }
}

#[test]
fn where_nobody_may_wait_the_answer_comes_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    delay(&mut client, "far", LONG);
    let nothing = array([] as [Value; 0]);
    let call = "TASK.CONSUME g c q BLOCK 0";
    let replies = in_transaction(&mut client, &[call.into(), format!("{call} META")]);
    assert_eq!(replies, [nil_array(), nothing.clone()]);
    let script = |client: &mut Client, meta: &str| {
        let call = format!("'TASK.CONSUME', 'g', 'c', KEYS[1], 'BLOCK', 0{meta}");
        client.cmd(&["EVAL", &format!("return redis.call({call})"), "1", "q"])
    };
    assert!(script(&mut client, "").is_nil());
    assert_eq!(script(&mut client, ", 'META'"), nothing);
    // What is due, or left by a worker that died, they find.
    policy(&mut client, "LEASE 60");
    let due = delay(&mut client, "a", 20);
    wait_past(&mut client, due + 10);
    let found = in_transaction(&mut client, &[format!("{call} META")]);
    assert_eq!(deliveries(&found[0], now_ms())[0].text("payload"), "a");
    let now = client.time_ms();
    wait_past(&mut client, now + 80);
    let found = deliveries(&script(&mut client, ", 'META'"), now_ms());
    assert_eq!((found[0].text("payload"), found[0].deliveries), ("a", 2));
}

#[test]
fn everybody_of_several_groups_is_served() {
    let server = Checked::start();
    let mut client = server.client();
    let groups = ["a", "b", "c"];
    let wait = |group: &str| {
        let command = format!("TASK.CONSUME {group} c q BLOCK 0 META");
        waiter_with(&server, &command)
    };
    for options in ["PRIORITY 8", "DELAY 80", "DELAY 80 PRIORITY 8"] {
        let mut first = groups.map(wait);
        let mut second = groups.map(wait);
        let id = publish(&mut client, "p", options);
        let told = first.each_mut().map(|waiter| gets(waiter, "p"));
        assert!(told.iter().all(|task| task.original_id() == id && task.id == told[0].id));
        still_wait(&server, 3);
        publish(&mut client, "r", options);
        second.iter_mut().for_each(|waiter| drop(gets(waiter, "r")));
    }
    // A plain entry, which gets another id in each group.
    let mut waiters = groups.map(wait);
    run_all(&mut client, &["XADD priority3:{q} * payload plain"]);
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        let told = gets(waiter, "plain");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", told.id)), int(1));
    }
    for group in groups {
        let found = client.run(format!("TASK.CONSUME {group} c q META"));
        assert_eq!(found, array([] as [Value; 0]), "{group} has got it once");
    }
    // The leases of each end for it alone.
    policy(&mut client, "LEASE 60");
    for group in groups {
        let mut waiter = server.client();
        waiter.send(format!("TASK.CONSUME {group} c q COUNT 6 BLOCK 0 META"));
        let told = gets_some(&mut waiter);
        assert!(told.iter().all(|task| task.deliveries == 2), "{told:?}");
    }
}

#[test]
fn what_one_group_gives_back_comes_to_that_group_only() {
    let server = Checked::start();
    let mut client = server.client();
    let wait = |group: &str| {
        let command = format!("TASK.CONSUME {group} c q BLOCK 0 META");
        waiter_with(&server, &command)
    };
    for priority in [0, 3] {
        let mut first = ["a", "b"].map(wait);
        let mut second = ["a", "b"].map(wait);
        let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
        first.iter_mut().for_each(|waiter| drop(gets(waiter, "p")));
        let back = format!("TASK.NACK q a c SILENT {id} DELAY 50");
        assert_eq!(client.run(back), int(1));
        let told = gets(&mut second[0], "p");
        assert_eq!((told.original_id(), told.text("group")), (&*id, "a"));
        still_wait(&server, 1);
        publish(&mut client, "next", "");
        gets(&mut second[1], "next");
        let next = client.run("TASK.CONSUME a c q META").delivered();
        assert_eq!(next.len(), 1, "{next:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// What else brings a task
// ---------------------------------------------------------------------------------------------

/// A consumer waits for the queue `q`; `act` brings it the task `p`, which is finished like any
/// other then.
#[track_caller]
fn is_woken_by(prepare: &[&str], act: &[&str]) {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, prepare);
    let mut waiter = waiter(&server, "c0");
    run_all(&mut client, act);
    let told = gets(&mut waiter, "p");
    assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(1), "{act:?}");
    assert_eq!(client.run("TASK.CONSUME g c0 q META"), array([] as [Value; 0]));
    assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(0));
}

#[test]
fn a_waiter_is_woken_by_a_task_of_any_priority() {
    let server = Checked::start();
    let mut client = server.client();
    for priority in 0..=9 {
        let mut waiter = waiter(&server, "c");
        let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
        let told = gets(&mut waiter, "p");
        assert_eq!(told.id, id);
        let (_, seq) = id.split_once('-').expect("an id");
        let seq: u64 = seq.parse().expect("a number");
        assert_eq!(seq / 100_000_000_000_000_000, priority);
    }
}

#[test]
fn a_waiter_is_woken_by_a_plain_entry_of_a_priority() {
    is_woken_by(&[], &["XADD priority3:{q} * payload p"]);
    is_woken_by(&[], &["XADD priority9:{q} 1-1 payload p"]);
    is_woken_by(&[], &["MULTI", "XADD priority1:{q} * payload p", "EXEC"]);
    is_woken_by(
        &[],
        &["EVAL return{redis.call('XADD',KEYS[1],'*','payload','p')} 1 priority5:{q}"],
    );
}

#[test]
fn a_waiter_is_woken_by_a_priority_that_is_put_in_place() {
    let other = "XADD {q}other 7-7 payload p";
    is_woken_by(&[other], &["RENAME {q}other priority3:{q}"]);
    is_woken_by(&[other], &["COPY {q}other priority3:{q}"]);
    is_woken_by(
        &["SELECT 5", "XADD priority3:{q} * payload p"],
        &["MOVE priority3:{q} 0", "SELECT 0"],
    );
    let in_five = ["SELECT 5", "XADD priority3:{q} * payload p", "SELECT 0"];
    is_woken_by(&in_five, &["SWAPDB 0 5"]);
}

#[test]
fn a_waiter_is_woken_by_a_change_of_its_group_in_a_priority() {
    let behind = ["XADD priority3:{q} * payload p", "XGROUP CREATE priority3:{q} g $"];
    is_woken_by(&behind, &["XGROUP SETID priority3:{q} g 0"]);
    is_woken_by(&behind, &["XGROUP DESTROY priority3:{q} g"]);
}

#[test]
fn a_waiter_is_woken_by_a_plain_member_of_the_delayed_tasks() {
    is_woken_by(&[], &["ZADD delayed:{q} 1 p"]);
    is_woken_by(&[], &["ZINCRBY delayed:{q} 1 p"]);
    is_woken_by(&[], &["MULTI", "ZADD delayed:{q} 1 p", "EXEC"]);
    is_woken_by(&[], &["EVAL return{redis.call('ZADD',KEYS[1],'1','p')} 1 delayed:{q}"]);
    is_woken_by(&["ZADD delayed:{q} 9000000000000 p"], &["ZADD delayed:{q} XX 1 p"]);
    is_woken_by(&["ZADD delayed:{q} 9000000000000 p"], &["ZINCRBY delayed:{q} -9000000000000 p"]);
}

#[test]
fn a_waiter_is_woken_by_delayed_tasks_that_are_put_in_place() {
    let other = "ZADD {q}other 1 p";
    is_woken_by(&[other], &["RENAME {q}other delayed:{q}"]);
    is_woken_by(&[other], &["COPY {q}other delayed:{q}"]);
    is_woken_by(&[other], &["ZRANGESTORE delayed:{q} {q}other 0 -1"]);
    is_woken_by(&[other], &["ZUNIONSTORE delayed:{q} 1 {q}other"]);
    is_woken_by(&["SELECT 5", "ZADD delayed:{q} 1 p"], &["MOVE delayed:{q} 0", "SELECT 0"]);
    let in_five = ["SELECT 5", "ZADD delayed:{q} 1 p", "SELECT 0"];
    is_woken_by(&in_five, &["SWAPDB 5 0"]);
    is_woken_by(&in_five, &["SELECT 5", "COPY delayed:{q} delayed:{q} DB 0", "SELECT 0"]);
}

#[test]
fn a_waiter_is_woken_by_what_is_restored() {
    let server = Checked::start();
    let mut client = server.client();
    for (add, key) in [
        ("XADD other * payload p", "q"),
        ("XADD other * payload p", "priority6:{q}"),
        ("ZADD other 1 p", DELAYED),
    ] {
        let mut waiter = waiter(&server, "c");
        run_all(&mut client, &["DEL q", add]);
        let dump = client.run("DUMP other");
        let restore = args!["RESTORE", key, 0, dump.bytes(), "REPLACE"];
        assert_eq!(client.cmd(&restore), ok());
        gets(&mut waiter, "p");
        assert_eq!(client.run("DEL other"), int(1));
    }
}

#[test]
fn foreign_tasks_that_are_not_due_come_when_they_are() {
    let server = Checked::start();
    let mut client = server.client();
    for put in [
        "ZADD {delayed} {due} p",
        "ZADD {q}x {due} p|RENAME {q}x {delayed}",
        "ZADD {q}x {due} p|COPY {q}x {delayed}",
        "ZADD {q}x {due} p|ZRANGESTORE {delayed} {q}x 0 -1",
        // Sooner than before, and later.
        "ZADD {delayed} 9000000000000 p|ZADD {delayed} {due} p",
        "ZADD {delayed} {before} p|ZADD {delayed} {due} p",
    ] {
        let mut waiter = waiter(&server, "c");
        let now = client.time_ms();
        let due = now + 1000;
        let fill = |command: &str| {
            let command = command.replace("{delayed}", DELAYED);
            command.replace("{due}", &due.to_string()).replace("{before}", &(now + 80).to_string())
        };
        in_transaction(&mut client, &put.split('|').map(fill).collect::<Vec<_>>());
        assert!(client.time_ms() < due, "a slow machine: it is not due yet");
        let told = gets(&mut waiter, "p");
        on_time(told.at, due);
        run_all(&mut client, &["DEL {q}x"]);
    }
}

#[test]
fn a_key_of_another_type_in_the_way_keeps_tasks_back_until_it_is_gone() {
    let server = Checked::start();
    let mut client = server.client();
    for key in [DELAYED, "priority5:{q}"] {
        let mut waiter = waiter(&server, "c");
        run_all(&mut client, &[format!("SET {key} text")]);
        // Whoever stands behind the line may not come to see it.
        let refused = client.run("TASK.CONSUME g other q");
        assert!(refused.is_nil() || refused.is_error_with("WRONGTYPE "), "{key}: {refused:?}");
        still_wait(&server, 1);
        is_idle(&server);
        assert_eq!(client.run(format!("DEL {key}")), int(1));
        let due = delay(&mut client, "p", 60);
        on_time(gets(&mut waiter, "p").at, due);
        run_all(&mut client, &["DEL q"]);
    }
}

#[test]
fn a_task_that_cannot_die_keeps_back_no_other_and_dies_when_it_can() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 300 TRIES 1");
    for make in ["SET", "SADD"] {
        run_all(&mut client, &[format!("{make} {DEAD} x")]);
        let poison = publish(&mut client, "poison", "");
        let (_, begin) = worker_dies(&server);
        let mut waiter = waiter(&server, "c");
        wait_past(&mut client, begin + 300);
        // The timer has tried, and tries again.
        still_wait(&server, 1);
        for payload in ["one", "two"] {
            publish(&mut client, payload, "");
            let told = gets(&mut waiter, payload);
            assert!(!client.run(format!("TASK.ACK q g {}", told.id)).is_error());
            stand(&mut waiter, &wait_as("c"));
        }
        assert!(client.leased_ids("q", "g").contains(&poison), "it is not lost");
        assert_eq!(client.run(format!("DEL {DEAD}")), int(1));
        eventually(SOON, "it dies", || {
            let dead = client.tasks_in(DEAD);
            dead.iter().any(|task| task.fields.contains(&format!("original_id={poison} ")))
        });
        assert!(!client.ids_in("q").contains(&poison));
        publish(&mut client, "last", "");
        gets(&mut waiter, "last");
        run_all(&mut client, &[format!("DEL {DEAD} q")]);
    }
}

#[test]
fn a_due_task_without_a_place_keeps_back_no_other() {
    let server = Checked::start();
    let mut client = server.client();
    let wait = |group: &str| {
        let command = format!("TASK.CONSUME {group} c q BLOCK 0 META");
        waiter_with(&server, &command)
    };
    let member = |due: i64, priority: i64, payload: &str| {
        format!("ZADD {DELAYED} {due} {due}-1001700000000000000 {priority} 0 - {payload}")
    };
    // No group waits in vain, whichever the server looks at first.
    let mut waiters = ["b", "a", "c"].map(wait);
    run_all(&mut client, &["SET priority3:{q} v"]);
    let now = client.time_ms();
    // No inline command: a member is one argument.
    let add = [(30, 0, "before"), (20, 3, "urgent"), (10, 0, "behind")];
    let add = add.map(|(ago, priority, payload)| member(now - ago, priority, payload));
    client.send_raw("MULTI\r\n");
    for line in &add {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        client.send_args(&words);
    }
    client.send_raw("EXEC\r\n");
    (0..add.len() + 2).for_each(|_| assert!(!client.read().is_error()));
    let groups = ["b", "a", "c"];
    let consume = |group: &str| format!("TASK.CONSUME {group} c q BLOCK 0 META");
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        let told = gets(waiter, "before");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", told.id)), int(1));
        waiter.send(consume(group));
        let told = gets(waiter, "behind");
        assert_eq!(client.run(format!("TASK.ACK q {group} {}", told.id)), int(1));
        let refused = waiter.run(consume(group));
        assert!(refused.is_error_with("WRONGTYPE "), "{refused:?}");
    }
    assert_eq!(client.run(format!("ZCARD {DELAYED}")), int(1), "it stays");
    assert_eq!(client.run("DEL priority3:{q}"), int(1));
    for (waiter, group) in waiters.iter_mut().zip(groups) {
        waiter.send(consume(group));
        gets(waiter, "urgent");
    }
    assert_eq!(client.run(format!("EXISTS {DELAYED}")), int(0));
}

#[test]
fn a_waiter_is_woken_by_what_a_worker_gives_back() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "BACKOFF 80 80");
    for (back, delayed, retry_count) in [
        ("TASK.NACK q g worker SILENT {id}", false, "0"),
        ("TASK.NACK q g worker SILENT {id} DELAY 120", true, "0"),
        ("TASK.NACK q g worker FAIL {id} DELAY 0", false, "1"),
        ("TASK.NACK q g worker FAIL {id} DELAY 120", true, "1"),
        ("TASK.NACK q g worker FAIL {id}", false, "1"),
        ("TASK.RETRY q {id} p 0 q dlq 3", false, "1"),
        ("TASK.RETRY q {id} p 3 again q 3", false, "3"),
    ] {
        for priority in [0, 6] {
            let id = publish(&mut client, "p", &format!("PRIORITY {priority}"));
            worker_dies(&server);
            let mut waiter = waiter(&server, "c");
            let begin = client.time_ms();
            let replies = in_transaction(&mut client, &[back.replace("{id}", &id)]);
            let expected = if back.starts_with("TASK.NACK") { int(1) } else { ok() };
            assert_eq!(replies[0], expected, "{back}");
            let told = gets(&mut waiter, "p");
            on_time(told.at, if delayed { begin + 120 } else { begin });
            assert_eq!(told.original_id(), id, "{back}");
            assert_eq!(told.text("retry_count"), retry_count, "{back}");
            assert_eq!(told.deliveries, 1);
            assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(1));
        }
    }
    assert_eq!(task_info(&mut client, "length"), 0);
}

#[test]
fn a_waiter_is_woken_by_what_is_redriven() {
    let server = Checked::start();
    let mut client = server.client();
    for priority in [0, 6] {
        let mut ids = Vec::new();
        for payload in ["a", "b", "c"] {
            ids.push(publish(&mut client, payload, &format!("PRIORITY {priority}")));
            let (task, _) = worker_dies(&server);
            let nack = format!("TASK.NACK q g worker FATAL {}", task.id);
            assert_eq!(client.run(nack), int(2));
        }
        let mut waiters = line(&server, 3);
        assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(3));
        for ((waiter, payload), id) in waiters.iter_mut().zip(["a", "b", "c"]).zip(ids) {
            let told = gets(waiter, payload);
            assert_eq!((told.original_id(), told.text("retry_count")), (&*id, "0"));
        }
    }
}

#[test]
fn one_who_waits_for_dead_letters_is_woken_by_each() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "TRIES 1 LEASE 100");
    for (kill, reason) in [
        ("TASK.NACK q g worker FATAL {id} REASON broken", "broken"),
        ("TASK.NACK q g worker FAIL {id}", "failed"),
        ("TASK.CONSUME g other q BLOCK 0", "lease expired"),
    ] {
        let wait = format!("TASK.CONSUME undertakers u {DEAD} BLOCK 0 META");
        let mut undertaker = waiter_with(&server, &wait);
        let id = publish(&mut client, "p", "");
        worker_dies(&server);
        let mut killer = server.client();
        killer.send(kill.replace("{id}", &id));
        let dead = gets(&mut undertaker, "p");
        assert_eq!((dead.text("reason"), dead.original_id()), (reason, &*id), "{kill}");
        assert_eq!(dead.text("deliveries"), "1");
    }
    let mut undertaker =
        waiter_with(&server, &format!("TASK.CONSUME undertakers u {DEAD} BLOCK 0 META"));
    run_all(&mut client, &[format!("TASK.RETRY q 1-1 p 3 q {DEAD} 3")]);
    gets(&mut undertaker, "p");
}

#[test]
fn a_paused_queue_serves_nobody_and_then_all_in_order() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 100");
    publish(&mut client, "leased", "");
    let (leased, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    policy(&mut client, "PAUSED 1");
    waiters.extend((2..5).map(|number| waiter(&server, &format!("c{number}"))));
    publish(&mut client, "a", "");
    run_all(&mut client, &["XADD q * payload b"]);
    let due = delay(&mut client, "due", 60);
    publish(&mut client, "urgent", "PRIORITY 9");
    assert_eq!(client.run("TASK.CONSUME g other q META"), array([] as [Value; 0]));
    wait_past(&mut client, due.max(begin + 100) + 20);
    still_wait(&server, 5);
    is_idle(&server);
    assert_eq!(task_info(&mut client, "delayed"), 1);
    assert_eq!(holders(&mut client, "q"), ["worker"]);
    policy(&mut client, "PAUSED 0");
    for (waiter, payload) in waiters.iter_mut().zip(["leased", "urgent", "a", "b", "due"]) {
        let told = gets(waiter, payload);
        assert_eq!(told.deliveries, if payload == "leased" { 2 } else { 1 });
    }
    assert_eq!(holders(&mut client, "q").len(), 4);
    assert_eq!(client.run(format!("TASK.ACK q g {}", leased.id)), int(1));
}

#[test]
fn a_pause_that_a_foreign_client_ends_is_over() {
    let paused = ["TASK.POLICY q PAUSED 1", "TASK.PUBLISH q p"];
    is_woken_by(&paused, &["DEL policy:{q}"]);
    is_woken_by(&paused, &["HSET policy:{q} paused 0"]);
    is_woken_by(&paused, &["HDEL policy:{q} paused"]);
    is_woken_by(&paused, &["RENAME policy:{q} {q}elsewhere"]);
    is_woken_by(&paused, &["HSET {q}policy paused 0", "RENAME {q}policy policy:{q}"]);
}

#[test]
fn after_a_priority_was_added_by_hand_its_task_is_served_before_others() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, 3);
    let add = ["XADD q * payload a", "XADD priority2:{q} * payload b", "ZADD delayed:{q} 1 c"];
    in_transaction(&mut client, &add);
    let payloads = ["b", "a", "c"];
    for (waiter, payload) in waiters.iter_mut().zip(payloads) {
        let told = gets(waiter, payload);
        assert_eq!(client.run(format!("TASK.ACK q g {}", told.id)), int(1), "{payload}");
    }
    assert_eq!(task_info(&mut client, "length"), 0);
}

/// What clients may do to the queue `q` at any time; `{task}` is a task of it, `{p}` a priority,
/// `{soon}` a time and `{name}` a consumer.
const ANYTHING: [&str; 42] = [
    "TASK.PUBLISH q p",
    "TASK.PUBLISH q p PRIORITY {p}",
    "TASK.PUBLISH q p DELAY 15",
    "TASK.PUBLISH q p DELAY 30 PRIORITY {p}",
    "XADD q * payload p",
    "XADD priority{p}:{q} * payload p",
    "ZADD delayed:{q} {soon} {task}",
    "ZADD delayed:{q} 1 {task}",
    "TASK.ACK q g {task}",
    "TASK.ACK q h {task}",
    "TASK.NACK q g {name} SILENT {task}",
    "TASK.NACK q g {name} FAIL {task} DELAY 10",
    "TASK.NACK q h {name} FATAL {task}",
    "TASK.EXTEND q h {name} {task}",
    "TASK.RETRY q {task} p 0 q dead:{q} 3 g",
    "TASK.RETRY q {task} p 3 q dead:{q} 3 h",
    "TASK.CANCEL q {task}",
    "TASK.REDRIVE dead:{q} q",
    "TASK.POLICY q PAUSED 1",
    "TASK.POLICY q PAUSED 0",
    "TASK.CONSUME g {name} q COUNT 2",
    "TASK.CONSUME h {name} q COUNT 2",
    "XGROUP SETID q g 0",
    "XGROUP SETID priority{p}:{q} h 0",
    "XGROUP DESTROY q h",
    "XGROUP DESTROY priority{p}:{q} g",
    "XGROUP DELCONSUMER q g {name}",
    "XCLAIM q h {name} 0 {task} JUSTID",
    "XACK q g {task}",
    "XDEL q {task}",
    "XTRIM q MAXLEN 1",
    "DEL q",
    "DEL priority{p}:{q}",
    "DEL delayed:{q}",
    "RENAME q {q}old",
    "RENAME {q}old q",
    "RENAME priority{p}:{q} {q}old",
    "COPY {q}old priority{p}:{q} REPLACE",
    "COPY delayed:{q} {q}later REPLACE",
    "RENAME {q}later delayed:{q}",
    "SWAPDB 0 1",
    "FLUSHDB",
];

/// Whether nothing is left in the queue `q` that a group has not read, and no task is overdue.
#[track_caller]
fn has_everything(client: &mut Client, group: &str) -> bool {
    let priorities = (1..=9).map(|priority| format!("priority{priority}:{{q}}"));
    let keys: Vec<_> = priorities.chain(["q".to_owned()]).collect();
    let has_read = keys.iter().all(|key| {
        let groups = client.run(format!("XINFO GROUPS {key}"));
        if groups.is_error() {
            return true;
        }
        let known = groups.items().iter().find(|known| known.get("name").as_str() == group);
        let from = known.map_or("-".to_owned(), |known| {
            format!("({}", known.get("last-delivered-id").as_str())
        });
        let unread = client.run(format!("XRANGE {key} {from} +"));
        // A copy may be for another group.
        let is_for_other = |entry: &Value| {
            entry.items()[1].field("group").is_some_and(|only| only.as_str() != group)
        };
        unread.items().iter().all(is_for_other)
    });
    let now = client.time_ms();
    has_read && client.run(format!("ZCOUNT {DELAYED} -inf {now}")) == int(0)
}

#[test]
fn whatever_is_done_at_random_nobody_waits_while_there_is_something() {
    let server = Checked::start();
    let mut client = server.client();
    let mut random = Random::new(7);
    for round in 0..40 {
        run_all(&mut client, &["FLUSHALL"]);
        // Where leases have an end, all of them are looked at from time to time.
        policy(&mut client, &format!("LEASE {}", [0, LONG][round % 2]));
        let mut crowd: Vec<(&str, Client)> = Vec::new();
        let mut history = Vec::new();
        for _ in 0..60 {
            if random.below(3) == 0 {
                let group = ["g", "h"][random.below(2)];
                let command = format!("TASK.CONSUME {group} c{} q BLOCK 0 META", random.below(3));
                crowd.push((group, waiter_with(&server, &command)));
                history.push(command);
            }
            let key = [format!("priority{}:{{q}}", random.below(9) + 1), "q".into()];
            let tasks = client.run(format!("XRANGE {} - +", key[random.below(2)]));
            let tasks = if tasks.is_error() { Vec::new() } else { tasks.items().to_vec() };
            let task = tasks.get(random.below(tasks.len().max(1)));
            let task = task.map_or("1-1", |task| task.items()[0].as_str());
            let soon = client.time_ms() + 20;
            let command = ANYTHING[random.below(ANYTHING.len())]
                .replace("{task}", task)
                .replace("{p}", &(random.below(9) + 1).to_string())
                .replace("{soon}", &soon.to_string())
                .replace("{name}", &format!("c{}", random.below(3)));
            history.push(format!("{command} -> {:?}", client.run(&command)));
        }
        if client.run("HGET policy:{q} paused") == bulk("1") {
            policy(&mut client, "PAUSED 0");
        }
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            crowd.retain_mut(|(_, waiter)| waiter.read_timeout(Duration::ZERO).is_none());
            let mut waits_for_nothing = |group: &str| {
                !crowd.iter().any(|(waits, _)| *waits == group)
                    || has_everything(&mut client, group)
            };
            if waits_for_nothing("g") && waits_for_nothing("h") {
                break;
            }
            assert!(Instant::now() < end, "round {round}: {history:#?}");
            thread::sleep(Duration::from_millis(5));
        }
        drop(crowd);
        eventually(SOON, "nobody waits", || waiters(&mut client, "task") == 0);
    }
}

// ---------------------------------------------------------------------------------------------
// Leaving the line
// ---------------------------------------------------------------------------------------------

#[test]
fn when_one_leaves_in_any_way_the_next_gets_what_is_due_or_left() {
    let server = Checked::start();
    let mut client = server.client();
    let nothing = array([] as [Value; 0]);
    for exit in EXITS {
        let stand_in_line = || {
            let mut first = Leaver::connect(&server, exit);
            let mut control = server.client();
            let command = "TASK.CONSUME g first q META BLOCK";
            first.wait(&mut control, "task", command, 100);
            (first, waiter(&server, "second"))
        };
        let (mut first, mut second) = stand_in_line();
        // The timer stands when it leaves, and is needed earlier.
        delay(&mut client, "far", LONG);
        first.leave(&mut client, "task", &nothing);
        let due = delay(&mut client, "delayed", 60);
        on_time(gets(&mut second, "delayed").at, due);
        assert_eq!(holders(&mut client, "q"), ["second"], "{exit:?}");

        let (mut first, mut second) = stand_in_line();
        first.leave(&mut client, "task", &nothing);
        policy(&mut client, "LEASE 60");
        assert_eq!(gets(&mut second, "delayed").deliveries, 2, "{exit:?}");
        run_all(&mut client, &["FLUSHALL"]);
    }
}

/// Five of six in line end their connections while the server is stopped, and a task comes: when the
/// server goes on, it finds all of that at once. `prepare` is run before the line forms and `begin`
/// when it stands; `command` is sent to the stopped server, or else `ms` pass.
#[track_caller]
fn comes_to_the_living(prepare: impl Fn(&Server), begin: &str, command: &str, ms: i64) {
    let server = Checked::start();
    let mut client = server.client();
    for exit in [Exit::Close, Exit::Reset] {
        run_all(&mut client, &["FLUSHALL"]);
        prepare(&server);
        let mut leaving = [0, 1, 2, 3, 4].map(|number| {
            let mut member = Leaver::connect(&server, exit);
            let command = format!("TASK.CONSUME g c{number} q META BLOCK");
            member.wait(&mut client, "task", &command, 0);
            member
        });
        let mut last = waiter(&server, "last");
        let ports = leaving.each_mut().map(|member| member.client().local_port());
        in_transaction(&mut client, &[begin]);
        server.pause();
        let stopped = now_ms();
        drop(leaving);
        wait_ended(&server, &ports);
        client.send(command);
        eventually(SOON, "the time passes", || now_ms() > stopped + ms);
        server.resume();
        assert!(!client.read().is_error(), "{command}");
        let told = gets(&mut last, "p");
        let extend = format!("TASK.EXTEND q g last {}", told.id);
        assert_eq!(client.run(extend), int(1), "{exit:?} {command}");
        let leased = client.run("TASK.INFO q").get("groups").items()[0].get("leased").as_int();
        assert_eq!(leased, 1, "{exit:?} {command}");
    }
}

#[test]
fn what_comes_as_connections_end_goes_to_one_that_stands() {
    for command in [
        "TASK.PUBLISH q p PRIORITY 4",
        "XADD priority4:{q} * payload p",
        "ZADD delayed:{q} 1 p",
        "TASK.POLICY q PAUSED 0",
    ] {
        let paused = |server: &Server| {
            if command.starts_with("TASK.POLICY") {
                policy(&mut server.client(), "PAUSED 1");
                publish(&mut server.client(), "p", "");
            }
        };
        comes_to_the_living(paused, "PING", command, 0);
    }
}

#[test]
fn what_becomes_due_as_connections_end_goes_to_one_that_stands() {
    comes_to_the_living(|_| (), "TASK.PUBLISH q p DELAY 300", "PING", 350);
}

#[test]
fn what_is_left_by_a_worker_as_connections_end_goes_to_one_that_stands() {
    let leased = |server: &Server| {
        publish(&mut server.client(), "p", "");
        worker_dies(server);
    };
    comes_to_the_living(leased, "TASK.POLICY q LEASE 1000", "PING", 1050);
}

#[test]
fn what_comes_in_the_moment_in_which_the_first_is_sent_away_goes_to_the_next() {
    let server = Checked::start();
    let mut control = server.client();
    for send_away in [
        "CLIENT KILL ID {id}",
        "ACL DELUSER {user}",
        "CLIENT UNBLOCK {id} TIMEOUT",
        "CLIENT UNBLOCK {id} ERROR",
    ] {
        for (prepare, act) in [
            ("", "TASK.PUBLISH q p PRIORITY 3"),
            ("", "ZADD delayed:{q} 1 p"),
            ("TASK.POLICY q PAUSED 1|TASK.PUBLISH q p DELAY 1", "TASK.POLICY q PAUSED 0"),
            ("TASK.PUBLISH q p|TASK.CONSUME g worker q", "TASK.POLICY q LEASE 1"),
            ("XADD dead:{q} * payload p", "TASK.REDRIVE dead:{q} q"),
        ] {
            run_all(&mut control, &["FLUSHALL"]);
            let prepare: Vec<_> =
                prepare.split('|').filter(|command| !command.is_empty()).collect();
            run_all(&mut control, &prepare);
            let now = control.time_ms();
            wait_past(&mut control, now + 5);
            let mut first = server.client();
            let id = first.id();
            let user = format!("user{id}");
            let allow = format!("ACL SETUSER {user} on nopass ~* &* +@all");
            assert_eq!(control.run(allow), ok());
            assert_eq!(first.run(format!("AUTH {user} x")), ok());
            stand(&mut first, &wait_as("first"));
            let mut second = waiter(&server, "second");
            let send_away = send_away.replace("{id}", &id.to_string()).replace("{user}", &user);
            let commands = [&send_away, act];
            let replies = in_transaction(&mut control, &commands);
            assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
            gets(&mut second, "p");
            if let Ok(told) = first.try_read(Duration::from_secs(5)) {
                let nothing = array([] as [Value; 0]);
                let sent_away = told == nothing || told.is_error_with("UNBLOCKED ");
                assert!(sent_away, "{commands:?}: {told:?}");
            }
        }
    }
}

#[test]
fn the_module_stays_while_somebody_waits_and_can_go_afterwards_whatever_is_left() {
    let server = Server::start();
    let module = module_path();
    let nothing = array([] as [Value; 0]);
    for exit in EXITS {
        let mut control = server.client();
        policy(&mut control, &format!("LEASE {LONG}"));
        publish(&mut control, "leased", "");
        worker_dies(&server);
        delay(&mut control, "far", LONG);
        let mut waiter = Leaver::connect(&server, exit);
        waiter.wait(&mut control, "task", "TASK.CONSUME g c q META BLOCK", 200);
        let refused = control.run("MODULE UNLOAD corral");
        assert!(refused.is_error(), "{refused:?}");
        waiter.leave(&mut control, "task", &nothing);
        drop(waiter);
        // One round trip of what was to be done at once, and no more.
        still_wait(&server, 0);
        assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
        assert_eq!(control.run("MODULE UNLOAD corral"), ok(), "{exit:?}");
        assert_eq!(control.run(format!("ZCARD {DELAYED}")), int(1));
        let load = args!["MODULE", "LOAD", module.to_str().expect("a path")];
        assert_eq!(control.cmd(&load), ok());
        // What was left is known: the lease and the delayed task.
        let mut waiter = self::waiter(&server, "c");
        policy(&mut control, "LEASE 1");
        assert_eq!(gets(&mut waiter, "leased").deliveries, 2);
        run_all(&mut control, &["FLUSHALL"]);
    }
}

// ---------------------------------------------------------------------------------------------
// Pauses, whole databases
// ---------------------------------------------------------------------------------------------

#[test]
fn while_writes_are_paused_nothing_is_handed_over_and_everything_afterwards() {
    // A server that has to log what it writes dies of a write during a pause.
    let server = durable();
    let mut client = server.client();
    policy(&mut client, "LEASE 300 TRIES 2");
    for priority in [0, 5] {
        publish(&mut client, "leased", &format!("PRIORITY {priority}"));
        let (_, begin) = worker_dies(&server);
        let mut waiters = line(&server, 2);
        let mut brief = waiter_with(&server, "TASK.CONSUME g brief q BLOCK 600 META");
        let replies = in_transaction(
            &mut client,
            &[
                format!("TASK.PUBLISH q due DELAY 60 PRIORITY {priority}"),
                "CLIENT PAUSE 600000 WRITE".into(),
            ],
        );
        assert_eq!(replies[1], ok());
        wait_past(&mut client, begin + 400);
        // The server looks after time-outs, and hands nothing over.
        assert_eq!(brief.read(), array([] as [Value; 0]));
        assert_eq!(waiters[0].read_timeout(Duration::ZERO), None);
        assert_eq!(self::waiters(&mut client, "task"), 2);
        let unpaused = client.time_ms();
        assert_eq!(client.run("CLIENT UNPAUSE"), ok());
        let mut payloads = waiters
            .iter_mut()
            .map(|waiter| {
                let told = &gets_some(waiter)[0];
                assert!(told.at >= unpaused, "in the pause");
                told.text("payload").to_owned()
            })
            .collect::<Vec<_>>();
        payloads.sort();
        assert_eq!(payloads, ["due", "leased"]);
        let mut waiter = waiter(&server, "c");
        publish(&mut client, "next", "PRIORITY 9");
        gets(&mut waiter, "next");
        run_all(&mut client, &["DEL q priority5:{q} priority9:{q}"]);
    }
}

#[test]
fn a_pause_of_everybody_over_what_is_due_and_over_a_lease_is_survived() {
    const PAUSE: i64 = 700;
    let server = durable();
    let mut client = server.client();
    policy(&mut client, "LEASE 250 TRIES 2");
    publish(&mut client, "leased", "");
    worker_dies(&server);
    let mut waiters = line(&server, 3);
    let gone = waiters.remove(0);
    let mut brief = waiter_with(&server, "TASK.CONSUME g brief q BLOCK 400 META");
    let begin = client.time_ms();
    in_transaction(
        &mut client,
        &["TASK.PUBLISH q due DELAY 50".into(), format!("CLIENT PAUSE {PAUSE} ALL")],
    );
    drop(gone);
    assert_eq!(brief.read(), array([] as [Value; 0]));
    let mut payloads = Vec::new();
    for waiter in &mut waiters {
        let told = waiter.read();
        let told = deliveries(&told, now_ms());
        assert!(told[0].at >= begin + PAUSE, "in the pause");
        payloads.push(told[0].text("payload").to_owned());
    }
    payloads.sort();
    assert_eq!(payloads, ["due", "leased"]);
}

#[test]
fn what_a_flush_removes_comes_to_nobody_and_what_follows_does() {
    let server = Checked::start();
    let mut client = server.client();
    for flush in ["FLUSHALL", "FLUSHALL ASYNC", "FLUSHDB", "transaction"] {
        policy(&mut client, "LEASE 400");
        publish(&mut client, "leased", "PRIORITY 5");
        let (_, begin) = worker_dies(&server);
        let mut waiters = line(&server, 2);
        let due = delay(&mut client, "due", 300);
        if flush == "transaction" {
            in_transaction(&mut client, &["FLUSHALL"]);
        } else {
            assert_eq!(client.run(flush), ok());
        }
        wait_past(&mut client, due.max(begin + 400) + 20);
        still_wait(&server, 2);
        assert_eq!(task_info(&mut client, "length"), 0);
        let due = delay(&mut client, "later", 60);
        publish(&mut client, "now", "PRIORITY 5");
        gets(&mut waiters[0], "now");
        on_time(gets(&mut waiters[1], "later").at, due);
        run_all(&mut client, &["FLUSHALL"]);
    }
    // A policy that was flushed is over, too.
    policy(&mut client, "PAUSED 1");
    let mut waiter = waiter(&server, "c");
    publish(&mut client, "p", "");
    still_wait(&server, 1);
    assert_eq!(client.run("FLUSHALL"), ok());
    publish(&mut client, "r", "");
    gets(&mut waiter, "r");
}

#[test]
fn what_is_due_comes_with_a_database_that_is_swapped_in() {
    let server = Checked::start();
    let [mut zero, mut five] = [0, 5].map(|db| client_in(&server, db));
    let mut in_zero = line(&server, 2);
    let mut in_five = waiter_in(&server, 5, &wait_as("five"));
    let of_zero = delay(&mut zero, "zero", 400);
    let of_five = delay(&mut five, "five", 200);
    let second_of_five = delay(&mut five, "second", 300);
    assert_eq!(zero.run("SWAPDB 0 5"), ok());
    on_time(gets(&mut in_zero[0], "five").at, of_five);
    on_time(gets(&mut in_zero[1], "second").at, second_of_five);
    on_time(gets(&mut in_five, "zero").at, of_zero);
    // Nobody waits where they are leased, and then they come back.
    assert_eq!(holders(&mut five, "q"), ["five"]);
    let mut waiter = waiter(&server, "c");
    policy(&mut five, "LEASE 100");
    assert_eq!(zero.run("SWAPDB 0 5"), ok());
    assert_eq!(gets(&mut waiter, "zero").deliveries, 2);
}

#[test]
fn queues_of_one_name_in_two_databases_do_not_concern_each_other() {
    let server = Checked::start();
    let dbs = [0, 9];
    let mut clients = dbs.map(|db| client_in(&server, db));
    let mut begins = Vec::new();
    for (client, lease) in clients.iter_mut().zip([200, 450]) {
        policy(client, &format!("LEASE {lease}"));
        publish(client, &format!("leased-{lease}"), "");
        begins.push((client.time_ms(), lease));
        assert_eq!(client.run("TASK.CONSUME g worker q META").items().len(), 1);
    }
    let mut waiters = dbs.map(|db| waiter_in(&server, db, &wait_as("c")));
    for (index, (begin, lease)) in begins.into_iter().enumerate() {
        let told = gets(&mut waiters[index], &format!("leased-{lease}"));
        on_time(told.at, begin + lease);
        assert_eq!(clients[index].run(format!("TASK.ACK q g {}", told.id)), int(1));
    }
    // Of two databases only one is paused, and has a priority.
    let mut waiters = dbs.map(|db| waiter_in(&server, db, &wait_as("d")));
    policy(&mut clients[0], "PAUSED 1 LEASE 0");
    policy(&mut clients[1], "LEASE 0");
    // Of two that are due the urgent one comes first, so that the one in the other database waits.
    let urgent = due_of(&publish(&mut clients[0], "urgent", "PRIORITY 4 DELAY 100"));
    publish(&mut clients[1], "urgent", &format!("PRIORITY 4 DELAY {LONG}"));
    let dues = clients.each_mut().map(|client| delay(client, "due", 60));
    on_time(gets(&mut waiters[1], "due").at, dues[1]);
    wait_past(&mut clients[0], urgent.max(dues[0]));
    still_wait(&server, 1);
    policy(&mut clients[0], "PAUSED 0");
    gets(&mut waiters[0], "urgent");
}

#[test]
fn those_who_wait_outlast_a_reload_of_the_data_with_all_its_times() {
    const LEASE: i64 = 2500;
    let server = durable();
    let mut client = server.client();
    for reload in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
        policy(&mut client, &format!("LEASE {LEASE}"));
        publish(&mut client, "leased", "PRIORITY 3");
        let (_, begin) = worker_dies(&server);
        let mut waiters = line(&server, 2);
        let due = delay(&mut client, "due", 1500);
        assert_eq!(client.run(reload), ok());
        still_wait(&server, 2);
        on_time(gets(&mut waiters[0], "due").at, due);
        let told = gets(&mut waiters[1], "leased");
        on_time(told.at, begin + LEASE);
        assert_eq!(told.deliveries, 2);
        run_all(&mut client, &["FLUSHALL"]);
    }
}

#[test]
fn tasks_that_come_with_a_reload_go_to_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    publish(&mut client, "urgent", "PRIORITY 3");
    let due = delay(&mut client, "due", 300);
    assert_eq!(client.run("SAVE"), ok());
    for reload in ["DEBUG RELOAD NOSAVE", "DEBUG RELOAD NOSAVE NOFLUSH MERGE"] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let mut waiters = line(&server, 2);
        assert_eq!(client.run(reload), ok());
        gets(&mut waiters[0], "urgent");
        let told = gets(&mut waiters[1], "due");
        assert!(told.at >= due, "{reload}: {} ms early", due - told.at);
    }
}

#[test]
fn what_became_due_while_memory_was_full_is_not_lost() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 2000");
    publish(&mut client, "leased", "");
    let (_, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    let due = delay(&mut client, "due", 150);
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    wait_past(&mut client, due.max(begin + 2000) + 50);
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    let mut payloads: Vec<_> =
        waiters.iter_mut().map(|waiter| gets_some(waiter)[0].text("payload").to_owned()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, ["due", "leased"]);
}

#[test]
fn what_became_due_while_writes_were_refused_comes_afterwards() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 400");
    publish(&mut client, "leased", "");
    let (_, begin) = worker_dies(&server);
    let mut waiters = line(&server, 2);
    let due = delay(&mut client, "due", 100);
    assert_eq!(client.run("CONFIG SET min-replicas-to-write 1"), ok());
    wait_past(&mut client, due.max(begin + 400) + 20);
    is_idle(&server);
    assert_eq!(client.run("CONFIG SET min-replicas-to-write 0"), ok());
    let mut payloads: Vec<_> =
        waiters.iter_mut().map(|waiter| gets_some(waiter)[0].text("payload").to_owned()).collect();
    payloads.sort();
    assert_eq!(payloads, ["due", "leased"]);
}

// ---------------------------------------------------------------------------------------------
// Names of consumers
// ---------------------------------------------------------------------------------------------

/// The checksum at the end of what DUMP replies.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 }
        })
    })
}

/// Puts a stream back as if everything that its consumers did had been `ms` earlier.
#[track_caller]
fn age(client: &mut Client, stream: &str, ms: i64) {
    let now = client.time_ms();
    let mut dump = client.cmd(&args!["DUMP", stream]).bytes().to_vec();
    let end = dump.len() - 8;
    // Times of consumers are the only ones that are stored like this.
    let mut place = 0;
    while place + 8 <= end {
        let bytes: [u8; 8] = dump[place..place + 8].try_into().expect("eight bytes");
        let time = i64::from_le_bytes(bytes);
        if (now - 60_000..=now).contains(&time) {
            dump[place..place + 8].copy_from_slice(&(time - ms).to_le_bytes());
            place += 8;
        } else {
            place += 1;
        }
    }
    let crc = crc64(&dump[..end]);
    dump[end..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(client.cmd(&args!["RESTORE", stream, 0, dump, "REPLACE"]), ok());
}

/// The names of the consumers of the group `g`.
#[track_caller]
fn consumers(client: &mut Client, stream: &str) -> Vec<String> {
    let consumers = client.run(format!("XINFO CONSUMERS {stream} g"));
    let name = |consumer: &Value| consumer.get("name").as_str().to_owned();
    consumers.items().iter().map(name).collect()
}

#[test]
fn names_of_consumers_that_were_not_seen_for_an_hour_and_have_nothing_are_dropped() {
    const HOUR: i64 = 3_600_000;
    let server = Checked::start();
    let mut client = server.client();
    for (ms, dropped) in [(HOUR + 60_000, true), (HOUR - 120_000, false)] {
        run_all(&mut client, &["FLUSHALL", "TASK.POLICY q LEASE 86400000"]);
        publish(&mut client, "p", "");
        worker_dies(&server);
        for name in ["gone-1", "gone-2"] {
            assert_eq!(client.run(format!("XGROUP CREATECONSUMER q g {name}")), int(1));
        }
        age(&mut client, "q", ms);
        let look = "TASK.CONSUME g fresh q META";
        let nothing = array([] as [Value; 0]);
        if dropped {
            eventually(SOON, "the names are dropped", || {
                assert_eq!(client.run(look), nothing);
                // A name may be made by asking, or by getting something.
                consumers(&mut client, "q").iter().all(|name| !name.starts_with("gone"))
            });
        } else {
            for _ in 0..10 {
                assert_eq!(client.run(look), nothing);
            }
            assert!(consumers(&mut client, "q").contains(&"gone-1".to_owned()));
        }
        // Whoever has something to finish stays.
        assert!(consumers(&mut client, "q").contains(&"worker".to_owned()));
        assert_eq!(holders(&mut client, "q"), ["worker"]);
    }
}

// ---------------------------------------------------------------------------------------------
// Much at once
// ---------------------------------------------------------------------------------------------

/// For how long the server may work before any client has its turn. Several times what it takes: on
/// a machine that others use, part of their time counts as the server's. Without a bound it would be
/// half a second and more.
const TURN: Duration = Duration::from_millis(200);

/// Runs `body` while another client asks for an answer all the time, and sees that the server never
/// works for long before it gets one. What the machine does meanwhile does not count.
#[track_caller]
fn others_have_their_turn<T>(server: &Server, body: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    let mut bystander = server.client();
    let (outcome, longest) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let (begin, before) = (Instant::now(), server.cpu_time());
                assert_eq!(bystander.run("PING"), simple("PONG"));
                let (waited, work) = (begin.elapsed(), server.cpu_time() - before);
                longest = longest.max(work.min(waited));
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        let until_here = Over(&over);
        let outcome = body();
        drop(until_here);
        (outcome, watch.join().expect("it always gets an answer"))
    });
    assert!(longest < TURN, "a client had to wait for {longest:?} of work");
    outcome
}

/// Publishes tasks with the payloads 0, 1, … to the queue `q`.
#[track_caller]
fn publish_many(client: &mut Client, count: usize, options: &str) {
    let options: Vec<_> = options.split_ascii_whitespace().collect();
    let script = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
        redis.call('TASK.PUBLISH', KEYS[1], i, unpack(ARGV, 3)) end";
    for first in (0..count).step_by(5000) {
        let last = (first + 5000).min(count) - 1;
        let (first, last) = (first.to_string(), last.to_string());
        let call = [&["EVAL", script, "1", "q", &first, &last], &options[..]].concat();
        assert!(client.cmd(&call).is_nil());
    }
}

/// Workers that wait for tasks finish `count` of them; `begin` is run when they wait. The payloads
/// in order, each with how often it had been delivered.
#[track_caller]
fn work_off(server: &Server, count: usize, begin: impl FnOnce()) -> Vec<(usize, i64)> {
    const WORKERS: usize = 4;
    let done = AtomicUsize::new(0);
    let give_up = Instant::now() + 3 * SOON;
    let worker = |name: usize| {
        let mut client = server.client();
        let mut mine = Vec::new();
        while done.load(Ordering::Relaxed) < count && Instant::now() < give_up {
            let call = format!("TASK.CONSUME g w{name} q COUNT 200 BLOCK 1000 META");
            let told = client.run(call);
            let told = told.items();
            if told.is_empty() {
                continue;
            }
            let ids = told.iter().map(|task| task.items()[0].as_str());
            let ack: Vec<_> = ["TASK.ACK", "q", "g"].into_iter().chain(ids).collect();
            assert_eq!(client.cmd(&ack), int(told.len().try_into().expect("a length")));
            done.fetch_add(told.len(), Ordering::Relaxed);
            mine.extend(told.iter().map(|task| {
                let payload = task.items()[1].get("payload").as_str();
                (payload.parse().expect("a number"), task.items()[3].as_int())
            }));
        }
        mine
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|name| scope.spawn(move || worker(name))).collect();
        let mut control = server.client();
        eventually(SOON, "they wait", || waiters(&mut control, "task") >= WORKERS);
        begin();
        workers.into_iter().flat_map(|worker| worker.join().expect("it works")).collect()
    });
    all.sort_unstable();
    all
}

/// The numbers below `count`, each with how often its task was delivered.
fn each_delivered(count: usize, times: i64) -> Vec<(usize, i64)> {
    (0..count).map(|number| (number, times)).collect()
}

#[test]
fn a_hundred_thousand_tasks_that_are_due_at_once_delay_nobody() {
    const COUNT: usize = 100_000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "PAUSED 1");
    publish_many(&mut client, COUNT, "DELAY 1");
    let now = client.time_ms();
    wait_past(&mut client, now + 5);
    let mut elsewhere = waiter_with(&server, "TASK.CONSUME g c elsewhere BLOCK 0 META");
    let got = others_have_their_turn(&server, || {
        work_off(&server, COUNT, || {
            let due = due_of(&client.publish_with("elsewhere", "p", "DELAY 100"));
            policy(&mut client, "PAUSED 0");
            on_time(gets(&mut elsewhere, "p").at, due);
        })
    });
    assert!(got == each_delivered(COUNT, 1), "lost, or delivered twice");
    assert_eq!((task_info(&mut client, "length"), task_info(&mut client, "delayed")), (0, 0));
}

#[test]
fn one_who_waits_for_one_task_is_served_at_once_though_a_hundred_thousand_are_due() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "PAUSED 1");
    publish_many(&mut client, 100_000, "DELAY 1");
    let mut waiters = line(&server, 3);
    others_have_their_turn(&server, || {
        let begin = client.time_ms();
        policy(&mut client, "PAUSED 0");
        for (number, waiter) in waiters.iter_mut().enumerate() {
            on_time(gets(waiter, &number.to_string()).at, begin);
        }
        still_wait(&server, 0);
    });
}

/// Has a worker that dies have the tasks 0, 1, …, each leased `ms` ago, however long it takes to make
/// them.
#[track_caller]
fn lease_many(client: &mut Client, count: usize, ms: i64) {
    run_all(client, &["XGROUP CREATE q g 0 MKSTREAM"]);
    publish_many(client, count, "");
    let claim = "local last = '0-0' \
        for _, task in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 2000)) do \
        last = task[1] \
        redis.call('XCLAIM', KEYS[1], 'g', 'worker', 0, last, 'IDLE', ARGV[2], \
        'RETRYCOUNT', 1, 'FORCE', 'JUSTID', 'LASTID', last) end return last";
    let mut last = "0-0".to_owned();
    for _ in (0..count).step_by(2000) {
        let reply = client.cmd(&args!["EVAL", claim, 1, "q", format!("({last}"), ms]);
        reply.as_str().clone_into(&mut last);
    }
    let leased = int(count.try_into().expect("a length"));
    assert_eq!(client.run("XPENDING q g").items()[0], leased);
}

/// A lease that is long enough for any worker to finish what it gets.
const LEASE: i64 = 60_000;

#[test]
fn twenty_thousand_leases_that_end_at_once_delay_nobody() {
    const COUNT: usize = 20_000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 0");
    lease_many(&mut client, COUNT, LEASE + 1);
    let got = others_have_their_turn(&server, || {
        work_off(&server, COUNT, || policy(&mut client, &format!("LEASE {LEASE}")))
    });
    assert!(got == each_delivered(COUNT, 2), "lost, or delivered twice");
    assert_eq!(task_info(&mut client, "length"), 0);
}

#[test]
fn twenty_thousand_leases_that_ended_during_a_restart_delay_nobody() {
    const COUNT: usize = 20_000;
    let mut server = durable();
    let mut client = server.client();
    policy(&mut client, &format!("LEASE {LEASE}"));
    policy(&mut client, "PAUSED 1");
    lease_many(&mut client, COUNT, LEASE - 500);
    let end = client.time_ms() + 500;
    server.kill9();
    eventually(SOON, "the leases are over", || now_ms() > end);
    server.restart();
    let mut client = server.client();
    let got = others_have_their_turn(&server, || {
        work_off(&server, COUNT, || policy(&mut client, "PAUSED 0"))
    });
    assert!(got == each_delivered(COUNT, 2), "lost, or delivered twice");
    assert_eq!(task_info(&mut client, "length"), 0);
}

#[test]
fn ten_thousand_copies_for_another_group_are_passed_by() {
    const COUNT: usize = 10_000;
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM", "XGROUP CREATE q other 0"]);
    let script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'payload', i, \
        'timestamp', 0, 'retry_count', 1, 'original_id', '1-1', 'group', 'other') end \
        return redis.call('XADD', KEYS[1], '*', 'payload', 'p')";
    let add = |client: &mut Client| {
        let id = client.cmd(&args!["EVAL", script, 1, "q", COUNT]);
        assert!(matches!(id, Value::Bulk(_)), "{id:?}");
    };
    let mut waiter = waiter(&server, "c");
    policy(&mut client, "PAUSED 1");
    add(&mut client);
    others_have_their_turn(&server, || {
        policy(&mut client, "PAUSED 0");
        // How long it takes to pass them is a matter of the machine.
        let told = waiter.read_timeout(3 * SOON).expect("the task behind all copies");
        assert_eq!(deliveries(&told, 0)[0].text("payload"), "p");
    });
    // One who does not wait passes some of them with each look.
    add(&mut client);
    others_have_their_turn(&server, || {
        eventually(SOON, "all are passed", || {
            let found = client.run("TASK.CONSUME g c q META");
            let found = deliveries(&found, 0);
            found.first().map(|task| assert_eq!(task.text("payload"), "p"))
        });
    });
    assert_eq!(client.run("XPENDING q g").items()[0], int(2));
    let found = client.run(format!("TASK.CONSUME other c q COUNT {} META", 3 * COUNT));
    assert_eq!(found.items().len(), 2 * COUNT + 2);
}

#[test]
fn a_line_of_two_thousand_is_served_by_what_is_due_at_once() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let mut crowd = server.clients(COUNT);
    for (number, waiter) in crowd.iter_mut().enumerate() {
        waiter.send(wait_as(&format!("c{number}")));
    }
    eventually(SOON, "all of them wait", || waiters(&mut client, "task") == COUNT);
    let due = client.time_ms() + 5000;
    publish_many(&mut client, COUNT, &format!("AT {due}"));
    assert!(client.time_ms() < due, "a slow machine: none is due yet");
    let mut payloads = Vec::new();
    others_have_their_turn(&server, || {
        for waiter in &mut crowd {
            let reply = waiter.read();
            let told = deliveries(&reply, now_ms());
            assert_eq!(told.len(), 1);
            assert!(told[0].at >= due);
            payloads.push(told[0].text("payload").parse::<usize>().expect("a number"));
        }
    });
    payloads.sort_unstable();
    assert_eq!(payloads, (0..COUNT).collect::<Vec<_>>());
    assert_eq!(client.run("XPENDING q g").items()[0], int(COUNT.try_into().expect("a length")));
}

#[test]
fn two_thousand_queues_are_each_served_when_their_task_is_due() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let mut crowd = server.clients(COUNT);
    for (number, waiter) in crowd.iter_mut().enumerate() {
        waiter.send(format!("TASK.CONSUME g c q{number} BLOCK 0 META"));
    }
    eventually(SOON, "all of them wait", || waiters(&mut client, "task") == COUNT);
    let due = client.time_ms() + 5000;
    let script = "for i = 1, #KEYS do redis.call('TASK.PUBLISH', KEYS[i], i, 'AT', ARGV[1]) end";
    let names = (0..COUNT).map(|number| format!("q{number}"));
    let call = ["EVAL".into(), script.into(), COUNT.to_string()].into_iter().chain(names);
    let call: Vec<_> = call.chain([due.to_string()]).collect();
    assert!(client.cmd(&call).is_nil());
    assert!(client.time_ms() < due, "a slow machine: none is due yet");
    others_have_their_turn(&server, || {
        for waiter in &mut crowd {
            let reply = waiter.read();
            let told = deliveries(&reply, now_ms());
            assert_eq!(told.len(), 1);
            assert!(told[0].at >= due, "{} ms early", due - told[0].at);
        }
    });
}
