//! Consumers that wait: who is woken by what, in which order, and with which reply; that whoever
//! leaves the line leaves it cleanly, so that every task goes to a client that is still there; and
//! that a line of thousands costs a publisher no more than a line of one.
//!
//! Every test ends with an empty line, no panic counted and a module that can be unloaded.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Deref, Range};
use std::thread;
use std::time::{Duration, Instant};

/// A server that must be in order when the test is over, see [`Checked::check`].
struct Checked(Server);

impl Deref for Checked {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Checked {
    fn start() -> Self {
        Self(Server::start())
    }

    /// All connections of the test are closed: nobody waits, nothing went wrong, and nothing keeps
    /// the module from going.
    fn check(&self) {
        wait_waiting(self, 0);
        assert_eq!(info(self, "corral", "corral_panics").as_deref(), Some("0"));
        let mut client = self.client();
        eventually(SOON, "the module is unloaded", || client.run("MODULE UNLOAD corral") == ok());
        assert_eq!(client.run("PING"), simple("PONG"));
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.check();
        }
    }
}

/// How many consumers wait, as the module counts them.
#[track_caller]
fn waiting(client: &mut Client) -> usize {
    let count = client.info("corral", "corral_task_waiters");
    count.and_then(|text| text.parse().ok()).expect("a gauge")
}

/// Waits until exactly this many consumers wait, and no other client is blocked.
#[track_caller]
fn wait_waiting(server: &Server, count: usize) {
    let mut client = server.client();
    eventually(SOON, &format!("{count} consumers wait"), || waiting(&mut client) == count);
    wait_blocked(server, count);
}

/// The command of a consumer that waits for ever.
fn consume(group: &str, consumer: &str, stream: &str) -> String {
    format!("TASK.CONSUME {group} {consumer} {stream} 1 0")
}

/// Has everybody send a command that waits, one behind the other.
#[track_caller]
fn stand_in_line<T>(server: &Server, all: &mut [T], wait: impl Fn(usize, &mut T)) {
    let mut control = server.client();
    let before = waiting(&mut control);
    for (index, one) in all.iter_mut().enumerate() {
        wait(index, one);
        eventually(SOON, "the next one waits", || waiting(&mut control) == before + index + 1);
    }
}

/// Has the clients send a command each and wait, one behind the other.
#[track_caller]
fn line_up(server: &Server, clients: &mut [Client], command: impl Fn(usize) -> String) {
    stand_in_line(server, clients, |index, client| client.send(command(index)));
}

/// Consumers `c0`, `c1`, … of the group `g` of a stream, who wait in this order.
#[track_caller]
fn line(server: &Server, stream: &str, count: usize) -> Vec<Client> {
    let mut clients = server.clients(count);
    line_up(server, &mut clients, |index| consume("g", &format!("c{index}"), stream));
    clients
}

/// One consumer `c0` that waits in the group `g`.
#[track_caller]
fn waiter(server: &Server, stream: &str) -> Client {
    line(server, stream, 1).remove(0)
}

/// Reads a reply that brings exactly one task, and nothing behind it.
#[track_caller]
fn gets(client: &mut Client, payload: &str) {
    assert_eq!(client.read().task_payloads(), [payload]);
    assert_eq!(client.run("PING"), simple("PONG"), "nothing more came");
}

/// The command of a client that adds a task without this module.
fn xadd(stream: &str, payload: &str) -> String {
    format!("XADD {stream} * payload {payload} timestamp 0 retry_count 0")
}

/// The consumers of the group `g` that tasks of a stream are leased to, in the order of the tasks.
#[track_caller]
fn holders(client: &mut Client, stream: &str) -> Vec<String> {
    let pending = client.run(format!("XPENDING {stream} g - + 100000"));
    let consumer = |entry: &Value| entry.items()[1].as_str().to_owned();
    pending.items().iter().map(consumer).collect()
}

/// The port and the id of a client in CLIENT LIST.
#[track_caller]
fn port_and_id(line: &str) -> (u16, &str) {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
    let port = field("addr=").and_then(|address| address.rsplit_once(':')?.1.parse().ok());
    (port.expect("a port"), field("id=").expect("an id"))
}

/// The numbers below `count` in an order that looks random and is always the same.
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for end in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (end as u64 + 1)).expect("below the count");
        numbers.swap(end, other);
    }
    numbers
}

/// `MULTI`, the commands, `EXEC` in one write; what EXEC replies.
#[track_caller]
fn transaction(client: &mut Client, commands: &[String]) -> Vec<Value> {
    let multi = ["MULTI".to_owned()];
    let exec = ["EXEC".to_owned()];
    let lines = [&multi[..], commands, &exec[..]].concat();
    let replies = client.pipeline(&lines);
    replies.last().expect("EXEC has a reply").items().to_vec()
}

// --- What a waiting consumer is told

#[test]
fn an_empty_queue_is_waited_for_and_then_the_reply_is_a_null_array() {
    let server = Checked::start();
    let cases = [(server.client(), &b"*-1\r\n"[..]), (server.client3(), b"_\r\n")];
    for (mut client, null) in cases {
        for block in [1, 60, 400] {
            let begin = Instant::now();
            client.send(format!("TASK.CONSUME g c s 1 {block}"));
            assert_eq!(client.read_raw_reply(), null);
            assert!(begin.elapsed() >= Duration::from_millis(block));
        }
    }
}

#[test]
fn a_block_of_zero_has_no_end() {
    let server = Checked::start();
    let mut forever = waiter(&server, "s");
    let mut others = server.clients(2);
    for block in [1, 50, 500] {
        // All that the server does about time-outs, it has done when this one has run out.
        let outcome = others[0].run(format!("TASK.CONSUME g other other 1 {block}"));
        assert_eq!(outcome, nil_array());
        assert_eq!(forever.read_timeout(Duration::ZERO), None);
    }
    wait_waiting(&server, 1);
    others[1].publish("s", "p");
    gets(&mut forever, "p");
}

#[test]
fn where_nobody_may_wait_the_answer_comes_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    let command = consume("g", "c", "s");
    assert_eq!(transaction(&mut client, &[command]), [nil_array()]);
    let script = "return redis.call('TASK.CONSUME', 'g', 'c', KEYS[1], 1, 0) == false";
    assert_eq!(client.cmd(&["EVAL", script, "1", "s"]), int(1));
    client.publish("s", "p");
    let found = transaction(&mut client, &[consume("g", "c", "s")]);
    assert_eq!(found[0].task_payloads(), ["p"]);
}

#[test]
fn a_waiter_gets_byte_for_byte_what_xreadgroup_replies_on_its_own_connection() {
    let server = Checked::start();
    let connect = |resp3| {
        if resp3 { server.client3() } else { server.client() }
    };
    // PUBLISH answers within the command; what XADD adds is handed over by the timer.
    for command in ["TASK.PUBLISH s p", "XADD s * payload p k v"] {
        for (publisher, consumer) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut publisher, mut waiter) = (connect(publisher), connect(consumer));
            waiter.send(consume("g", "c", "s"));
            wait_waiting(&server, 1);
            assert!(matches!(publisher.run(command), Value::Bulk(_)));
            let woken = waiter.read_raw_reply();

            let mut reader = connect(consumer);
            assert_eq!(reader.run("XGROUP CREATE s plain 0"), ok());
            reader.send("XREADGROUP GROUP plain c STREAMS s >");
            let plain = reader.read_raw_reply();
            assert_eq!(woken.escape_ascii().to_string(), plain.escape_ascii().to_string());
            assert_eq!(woken.starts_with(b"%1\r\n"), consumer, "a map in RESP3 only");
            assert_eq!(publisher.run("DEL s"), int(1));
        }
    }
}

#[test]
fn the_protocol_of_a_connection_can_change_between_two_waits() {
    let server = Checked::start();
    let mut waiter = server.client();
    let wait = consume("g", "c", "s");
    waiter.send_raw(format!("{wait}\r\nHELLO 3\r\n{wait}\r\nHELLO 2\r\n{wait}\r\n"));
    for (payload, resp3) in [("a", false), ("b", true), ("c", false)] {
        wait_waiting(&server, 1);
        server.client().publish("s", payload);
        let reply = waiter.read();
        assert_eq!(reply.task_payloads(), [payload]);
        assert_eq!(matches!(reply, Value::Map(_)), resp3);
        if payload != "c" {
            waiter.read();
        }
    }
}

#[test]
fn bytes_survive_on_the_way_to_a_waiter() {
    let server = Checked::start();
    let mut publisher = server.client();
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.repeat(4096);
    let (stream, group) = (b"s\0\r\n\xff".as_slice(), b"g\0\xff".as_slice());
    for resp3 in [false, true] {
        for payload in [b"".as_slice(), b"\r\n", &every_byte, &long] {
            for command in ["TASK.PUBLISH", "XADD"] {
                let mut waiter = if resp3 { server.client3() } else { server.client() };
                waiter.send_args(&args!["TASK.CONSUME", group, b"c\0", stream, 1, 0]);
                wait_waiting(&server, 1);
                let id = if command == "XADD" {
                    publisher.cmd(&args!["XADD", stream, "*", "payload", payload])
                } else {
                    publisher.cmd(&args!["TASK.PUBLISH", stream, payload])
                };
                let reply = waiter.read();
                let (name, entries) = match &reply {
                    Value::Map(pairs) => (&pairs[0].0, &pairs[0].1),
                    reply => (&reply.items()[0].items()[0], &reply.items()[0].items()[1]),
                };
                assert_eq!(name, &bulk(stream));
                assert_eq!(entries.items()[0].items()[0], id);
                let got = entries.items()[0].items()[1].get("payload");
                assert!(got.bytes() == payload, "{} bytes by {command}", payload.len());
            }
        }
    }
}

#[test]
fn replies_come_in_the_order_of_a_pipeline_that_waits() {
    let server = Checked::start();
    let mut client = server.client();
    let wait = consume("g", "c", "s");
    let short = "TASK.CONSUME g c s 1 30";
    let lines = ["PING one", &wait, "PING two", short, "PING three", &wait, "PING four", ""];
    client.send_raw(lines.join("\r\n"));
    wait_waiting(&server, 1);
    assert_eq!(client.read(), bulk("one"));
    assert_eq!(client.read_timeout(Duration::ZERO), None);
    server.client().publish("s", "a");
    assert_eq!(client.read().task_payloads(), ["a"]);
    assert_eq!(client.read(), bulk("two"));
    assert_eq!(client.read(), nil_array());
    assert_eq!(client.read(), bulk("three"));
    assert!(matches!(server.client().run(xadd("s", "b")), Value::Bulk(_)));
    assert_eq!(client.read().task_payloads(), ["b"]);
    assert_eq!(client.read(), bulk("four"));
}

// --- What wakes a waiting consumer

/// A consumer waits on the stream `s`; `act` brings it the task `p`.
#[track_caller]
fn is_woken_by(prepare: &[&str], act: &[&str]) {
    let server = Checked::start();
    let mut client = server.client();
    for line in prepare {
        let reply = client.run(line);
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }
    let mut waiter = waiter(&server, "s");
    for line in act {
        let reply = client.run(line);
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }
    gets(&mut waiter, "p");
    assert_eq!(holders(&mut client, "s"), ["c0"]);
}

#[test]
fn a_waiter_is_woken_by_publish() {
    is_woken_by(&[], &["TASK.PUBLISH s p"]);
}

#[test]
fn a_waiter_is_woken_by_publish_in_a_transaction() {
    is_woken_by(&[], &["MULTI", "TASK.PUBLISH s p", "EXEC"]);
}

#[test]
fn a_waiter_is_woken_by_publish_in_a_script() {
    is_woken_by(&[], &["EVAL return{redis.call('TASK.PUBLISH',KEYS[1],'p')} 1 s"]);
}

#[test]
fn a_waiter_is_woken_by_retry_into_the_retry_stream() {
    is_woken_by(&[], &["TASK.RETRY source 1-1 p 0 s dlq 3"]);
}

#[test]
fn a_waiter_is_woken_by_retry_into_the_dead_letter_stream() {
    is_woken_by(&[], &["TASK.RETRY source 1-1 p 3 again s 3"]);
}

#[test]
fn a_waiter_is_woken_by_retry_into_the_source_stream_itself() {
    let server = Checked::start();
    let mut client = server.client();
    client.publish("s", "old");
    let id = client.lease("g", "worker", "s");
    let mut waiter = waiter(&server, "s");
    assert_eq!(client.run(format!("TASK.RETRY s {id} p 0 s dlq 3")), ok());
    gets(&mut waiter, "p");
    assert_eq!(client.run("XLEN s"), int(1));
}

#[test]
fn a_waiter_is_woken_by_xadd() {
    is_woken_by(&[], &["XADD s * payload p"]);
}

#[test]
fn a_waiter_is_woken_by_xadd_in_a_script() {
    is_woken_by(&[], &["EVAL return{redis.call('XADD',KEYS[1],'*','payload','p')} 1 s"]);
}

#[test]
fn a_waiter_is_woken_by_rename() {
    is_woken_by(&["XADD other * payload p"], &["RENAME other s"]);
}

#[test]
fn a_waiter_is_woken_by_restore() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("XADD other * payload p");
    let dump = client.run("DUMP other");
    let mut waiter = waiter(&server, "s");
    assert_eq!(client.cmd(&args!["RESTORE", "s", 0, dump.bytes(), "REPLACE"]), ok());
    gets(&mut waiter, "p");
}

#[test]
fn a_waiter_is_woken_by_copy() {
    is_woken_by(&["XADD other * payload p"], &["COPY other s REPLACE"]);
}

#[test]
fn a_waiter_is_woken_by_copy_from_another_database() {
    let prepare = ["SELECT 5", "XADD s * payload p", "SELECT 0"];
    is_woken_by(&prepare, &["SELECT 5", "COPY s s DB 0 REPLACE", "SELECT 0"]);
}

#[test]
fn a_waiter_is_woken_by_move() {
    let prepare = ["SELECT 5", "XADD s * payload p", "SELECT 0"];
    is_woken_by(&prepare, &["DEL s", "SELECT 5", "MOVE s 0", "SELECT 0"]);
}

#[test]
fn a_waiter_is_woken_by_swapdb() {
    let prepare = ["SELECT 5", "XADD s * payload p", "SELECT 0"];
    is_woken_by(&prepare, &["SWAPDB 5 0"]);
}

#[test]
fn a_waiter_is_woken_by_xgroup_setid() {
    let prepare = ["XADD s * payload p", "XGROUP CREATE s g $"];
    is_woken_by(&prepare, &["XGROUP SETID s g 0"]);
}

#[test]
fn a_waiter_is_woken_by_xgroup_destroy_for_its_group_begins_anew() {
    let prepare = ["XADD s * payload p", "XGROUP CREATE s g $"];
    is_woken_by(&prepare, &["XGROUP DESTROY s g"]);
}

#[test]
fn a_waiter_whose_group_begins_anew_is_served_when_memory_is_full() {
    let prepare = ["XADD s * payload p", "XGROUP CREATE s g $"];
    is_woken_by(&prepare, &["CONFIG SET maxmemory 1", "XGROUP DESTROY s g"]);
}

#[test]
fn a_waiter_is_woken_by_xgroup_create() {
    let prepare = ["XADD s 1-1 payload old", "XADD s 1-2 payload p", "XGROUP CREATE s g $"];
    let again = ["MULTI", "XGROUP DESTROY s g", "XGROUP CREATE s g 1-1", "EXEC"];
    is_woken_by(&prepare, &again);
}

#[test]
fn a_waiter_outlasts_what_happens_to_whole_databases() {
    let server = Checked::start();
    let mut client = server.client();
    for (index, event) in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 7", "DEBUG RELOAD"].iter().enumerate() {
        let mut waiter = waiter(&server, "s");
        assert_eq!(client.run(event), ok());
        wait_waiting(&server, 1);
        let payload = index.to_string();
        client.publish("s", &payload);
        gets(&mut waiter, &payload);
    }
}

#[test]
fn a_task_that_is_added_while_writes_are_paused_waits_for_their_end() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, "s", 2);
    let mut impatient = server.client();
    impatient.send("TASK.CONSUME g impatient other 1 400");
    wait_waiting(&server, 3);
    let pause = "CLIENT PAUSE 600000 WRITE".to_owned();
    assert_eq!(transaction(&mut client, &[xadd("s", "a"), pause])[1], ok());
    // The server looks after time-outs, and hands nothing over.
    assert_eq!(impatient.read(), nil_array());
    assert_eq!(waiting(&mut client), 2);
    assert_eq!(waiters[0].read_timeout(Duration::ZERO), None);
    assert_eq!(client.run("CLIENT UNPAUSE"), ok());
    gets(&mut waiters[0], "a");
    client.publish("s", "b");
    gets(&mut waiters[1], "b");
}

#[test]
fn clients_may_leave_while_everybody_is_paused() {
    let server = Checked::start();
    let mut client = server.client();
    let mut clients = server.clients(4);
    line_up(&server, &mut clients, |index| {
        let block = [400, 0, 0, 0][index];
        format!("TASK.CONSUME g c{index} s 1 {block}")
    });
    let killed = clients.remove(1);
    drop(clients.remove(1));
    let pause = "CLIENT PAUSE 1500 ALL".to_owned();
    let add_and_pause = [xadd("s", "a"), pause];
    assert_eq!(transaction(&mut client, &add_and_pause)[1], ok());
    drop(killed);
    assert_eq!(clients[0].read(), nil_array());
    gets(&mut clients[1], "a");
    assert_eq!(holders(&mut client, "s"), ["c3"]);
}

// --- Who is served

#[test]
fn waiters_are_served_one_task_each_in_the_order_of_their_arrival() {
    let server = Checked::start();
    let mut publisher = server.client();
    for count in [2, 10, 200] {
        let stream = format!("s{count}");
        let mut waiters = line(&server, &stream, count);
        for number in 0..count {
            publisher.publish(&stream, &number.to_string());
            assert_eq!(waiting(&mut publisher), count - number - 1);
        }
        for (number, waiter) in waiters.iter_mut().enumerate() {
            gets(waiter, &number.to_string());
        }
        let order: Vec<_> = (0..count).map(|number| format!("c{number}")).collect();
        assert_eq!(holders(&mut publisher, &stream), order);
    }
}

#[test]
fn waiters_that_are_served_by_the_timer_keep_their_order() {
    let server = Checked::start();
    let mut publisher = server.client();
    // Some waves of some hand-overs each.
    assert_eq!(publisher.run("CONFIG SET corral.wake-bytes 2000"), ok());
    let mut waiters = line(&server, "s", 200);
    let tasks: Vec<_> = (0..200).map(|number| xadd("s", &number.to_string())).collect();
    transaction(&mut publisher, &tasks);
    for (number, waiter) in waiters.iter_mut().enumerate() {
        gets(waiter, &number.to_string());
    }
}

#[test]
fn a_consumer_may_wait_on_several_connections() {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut clients = server.clients(3);
    line_up(&server, &mut clients, |_| consume("g", "same", "s"));
    for (number, client) in clients.iter_mut().enumerate() {
        publisher.publish("s", &number.to_string());
        gets(client, &number.to_string());
    }
    assert_eq!(holders(&mut publisher, "s"), ["same"; 3]);
}

#[test]
fn every_group_gets_every_task() {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut clients = server.clients(8);
    let groups = ["a", "b", "c", "d"];
    line_up(&server, &mut clients, |index| consume(groups[index % 4], &format!("c{index}"), "s"));
    publisher.publish("s", "first");
    wait_waiting(&server, 4);
    transaction(&mut publisher, &[xadd("s", "second")]);
    for (index, client) in clients.iter_mut().enumerate() {
        gets(client, if index < 4 { "first" } else { "second" });
    }
}

#[test]
fn streams_and_databases_do_not_concern_each_other() {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut clients = server.clients(4);
    let places = [(0, "s"), (0, "t"), (9, "s"), (9, "t")];
    for (client, (db, stream)) in clients.iter_mut().zip(places) {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        client.send(consume("g", "c", stream));
    }
    wait_waiting(&server, 4);
    for number in shuffled(4) {
        let (db, stream) = places[number];
        let still = waiting(&mut publisher);
        assert_eq!(publisher.run(format!("SELECT {db}")), ok());
        let task = xadd(stream, &number.to_string());
        let add = if number % 2 == 0 { format!("TASK.PUBLISH {stream} {number}") } else { task };
        assert!(!publisher.run(add).is_error());
        gets(&mut clients[number], &number.to_string());
        assert_eq!(waiting(&mut publisher), still - 1);
    }
}

#[test]
fn tasks_for_several_databases_may_come_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    let dbs = [3, 0, 7, 5];
    let mut clients = server.clients(dbs.len());
    for (client, db) in clients.iter_mut().zip(dbs) {
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        client.send(consume("g", "c", "s"));
    }
    wait_waiting(&server, dbs.len());
    let add = dbs.map(|db| [format!("SELECT {db}"), xadd("s", &db.to_string())]);
    client.pipeline(&add.concat());
    for (client, db) in clients.iter_mut().zip(dbs) {
        gets(client, &db.to_string());
    }
}

#[test]
fn a_waiter_takes_up_to_its_count_of_a_burst() {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut clients = server.clients(3);
    line_up(&server, &mut clients, |index| {
        let count = [3, 10, 1][index];
        format!("TASK.CONSUME g c{index} s {count} 0")
    });
    let burst: Vec<_> = ["1", "2", "3", "4", "5"].map(|payload| xadd("s", payload)).to_vec();
    transaction(&mut publisher, &burst);
    assert_eq!(clients[0].read().task_payloads(), ["1", "2", "3"]);
    assert_eq!(clients[1].read().task_payloads(), ["4", "5"]);
    wait_waiting(&server, 1);
    publisher.publish("s", "6");
    gets(&mut clients[2], "6");
}

#[test]
fn a_publish_in_a_burst_is_handed_over_by_itself() {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut waiter = server.client();
    waiter.send("TASK.CONSUME g c s 10 0");
    wait_waiting(&server, 1);
    let burst: Vec<_> = ["1", "2", "3"].map(|p| format!("TASK.PUBLISH s {p}")).to_vec();
    transaction(&mut publisher, &burst);
    gets(&mut waiter, "1");
    assert_eq!(waiter.run("TASK.CONSUME g c s 10").task_payloads(), ["2", "3"]);
}

#[test]
fn a_new_consumer_does_not_overtake_those_who_wait() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, "s", 3);
    // The timer has not run between the commands of one pipeline.
    let replies = client.pipeline(&[&xadd("s", "a"), "TASK.CONSUME g new s"]);
    assert_eq!(replies[1], nil_array());
    gets(&mut waiters[0], "a");
    let add = [xadd("s", "b"), xadd("s", "c"), xadd("s", "d")].join("\r\n");
    client.send_raw(format!("{add}\r\nTASK.CONSUME g new s 10 0\r\n"));
    for _ in 0..3 {
        client.read();
    }
    assert_eq!(client.read().task_payloads(), ["d"]);
    gets(&mut waiters[1], "b");
    gets(&mut waiters[2], "c");
}

#[test]
fn a_new_consumer_that_waits_stands_behind_the_others() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line(&server, "s", 1);
    client.send_raw(format!("{}\r\n{}\r\n", xadd("s", "a"), consume("g", "new", "s")));
    gets(&mut waiters[0], "a");
    client.read();
    wait_waiting(&server, 1);
    server.client().publish("s", "b");
    gets(&mut client, "b");
}

// --- Leaving the line

/// How a consumer leaves the line without a task.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exit {
    TimeOut,
    Close,
    Reset,
    Kill,
    UnblockTimeOut,
    UnblockError,
}

const EXITS: [Exit; 6] =
    [Exit::TimeOut, Exit::Close, Exit::Reset, Exit::Kill, Exit::UnblockTimeOut, Exit::UnblockError];

/// A consumer in line that may leave.
struct Member {
    client: Option<Client>,
    id: i64,
    exit: Exit,
}

impl Member {
    fn connect(server: &Server, exit: Exit) -> Self {
        let mut client = server.client();
        let id = client.id();
        if exit == Exit::Reset {
            // To close a socket with something unread in it resets the connection.
            client.send("PING");
        }
        Self { client: Some(client), id, exit }
    }

    /// Stands in line until it is served or leaves.
    fn wait(&mut self, consumer: &str, stream: &str, time_out: u32) {
        let block = if self.exit == Exit::TimeOut { time_out } else { 0 };
        self.client().send(format!("TASK.CONSUME g {consumer} {stream} 1 {block}"));
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is still connected")
    }

    /// Leaves, and sees to it that the connection is as it should be then.
    #[track_caller]
    fn leave(&mut self, control: &mut Client) {
        let before = waiting(control);
        let unblock = format!("CLIENT UNBLOCK {}", self.id);
        let mut unblock = |how| {
            let unblock = format!("{unblock} {how}");
            eventually(SOON, "a waiter is unblocked", || control.run(&unblock) == int(1));
        };
        match self.exit {
            Exit::TimeOut => assert_eq!(self.client().read(), nil_array()),
            Exit::Close | Exit::Reset => {
                self.client = None;
                eventually(SOON, "the server sees the end", || waiting(control) < before);
                return;
            }
            Exit::Kill => {
                assert_eq!(control.run(format!("CLIENT KILL ID {}", self.id)), int(1));
                assert_eq!(self.client().try_read(SOON), Err(Silence::Closed));
                return;
            }
            Exit::UnblockTimeOut => {
                unblock("TIMEOUT");
                assert_eq!(self.client().read(), nil_array());
            }
            Exit::UnblockError => {
                unblock("ERROR");
                assert!(self.client().read().is_error_with("UNBLOCKED "));
            }
        }
        assert_eq!(self.client().run("PING"), simple("PONG"), "nothing more came");
    }

    /// Reads a reply that brings exactly one task.
    #[track_caller]
    fn gets(&mut self, payload: &str) {
        if self.exit == Exit::Reset {
            assert_eq!(self.client().read(), simple("PONG"));
        }
        gets(self.client(), payload);
    }
}

/// How long those in [`members`] wait who leave by a time-out: longer than a line takes to form.
const TIME_OUT: u32 = 2000;

/// Consumers `c0`, `c1`, … of the group `g` of a stream, who wait in this order.
#[track_caller]
fn members(server: &Server, stream: &str, exits: impl IntoIterator<Item = Exit>) -> Vec<Member> {
    let mut members: Vec<_> = exits.into_iter().map(|exit| Member::connect(server, exit)).collect();
    stand_in_line(server, &mut members, |index, member| {
        member.wait(&format!("c{index}"), stream, TIME_OUT);
    });
    members
}

#[test]
fn when_one_leaves_the_next_in_line_is_served() {
    let server = Checked::start();
    let mut control = server.client();
    for exit in EXITS {
        let mut lines = [0, 1, 2].map(|place| {
            let mut exits = [Exit::Close; 3];
            exits[place] = exit;
            (place, members(&server, &format!("s{place}"), exits))
        });
        for (place, line) in &mut lines {
            let stream = format!("s{place}");
            line.remove(*place).leave(&mut control);
            control.publish(&stream, "a");
            line[0].gets("a");
            control.run(xadd(&stream, "b"));
            line[1].gets("b");
            let mut names = vec!["c0", "c1", "c2"];
            names.remove(*place);
            assert_eq!(holders(&mut control, &stream), names, "{exit:?}");
            assert_eq!(control.run(format!("DEL {stream}")), int(1));
        }
        wait_waiting(&server, 0);
    }
}

#[test]
fn a_consumer_that_was_sent_away_can_wait_again_and_gets_only_new_answers() {
    let server = Checked::start();
    let mut control = server.client();
    for exit in [Exit::TimeOut, Exit::UnblockTimeOut, Exit::UnblockError] {
        let mut member = Member::connect(&server, exit);
        for round in 0..3 {
            member.wait("c", "s", 100);
            member.leave(&mut control);
            member.client().send(consume("g", "c", "s"));
            wait_waiting(&server, 1);
            control.publish("s", &round.to_string());
            member.gets(&round.to_string());
        }
    }
}

#[test]
fn half_of_a_line_leaves_in_any_order_and_all_others_are_served_in_theirs() {
    const COUNT: usize = 200;
    let server = Checked::start();
    let mut control = server.client();
    let exits = EXITS.into_iter().filter(|exit| *exit != Exit::TimeOut).cycle();
    let mut members = members(&server, "s", exits.take(COUNT));
    let mut leaving = shuffled(COUNT);
    let mut living = leaving.split_off(COUNT / 2);
    living.sort_unstable();
    for index in leaving {
        members[index].leave(&mut control);
    }
    wait_waiting(&server, living.len());
    for (number, index) in living.iter().enumerate() {
        control.publish("s", &number.to_string());
        members[*index].gets(&number.to_string());
    }
    let expected: Vec<_> = living.iter().map(|index| format!("c{index}")).collect();
    assert_eq!(holders(&mut control, "s"), expected);
}

#[test]
fn all_leave_but_the_last() {
    let server = Checked::start();
    let mut control = server.client();
    let mut waiters = line(&server, "s", 100);
    let mut last = waiters.pop().expect("the last");
    drop(waiters);
    wait_waiting(&server, 1);
    control.publish("s", "p");
    gets(&mut last, "p");
    assert_eq!(holders(&mut control, "s"), ["c99"]);
}

/// Whether none of these connections stands any longer, as the server's machine knows without the
/// server.
fn all_closed(server: &Server, client_ports: &[u16]) -> bool {
    const ESTABLISHED: &str = "01";
    let port = |word: &str| u16::from_str_radix(word.rsplit_once(':')?.1, 16).ok();
    let connections = fs::read_to_string("/proc/net/tcp").expect("proc is there");
    !connections.lines().skip(1).any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let client = port(words[2]).expect("a port");
        port(words[1]) == Some(server.port())
            && words[3] == ESTABLISHED
            && client_ports.contains(&client)
    })
}

/// Five of six in line close their connections and a task is added, both while the server is
/// stopped: when it goes on, it finds all of that at once. To whom the task goes, of each round.
#[track_caller]
fn all_at_once(exit: Exit, closed_first: bool, command: &str) -> Vec<String> {
    let server = Checked::start();
    let mut publisher = server.client();
    let mut round = || {
        let mut leaving = members(&server, "s", [exit; 6]);
        let mut living = leaving.pop().expect("the last");
        let ports = leaving.iter_mut().map(|member| member.client().local_port());
        let ports: Vec<_> = ports.collect();
        server.pause();
        if !closed_first {
            publisher.send(command);
        }
        drop(leaving);
        eventually(SOON, "the connections are closed", || all_closed(&server, &ports));
        if closed_first {
            publisher.send(command);
        }
        server.resume();
        assert!(!publisher.read().is_error());
        eventually(SOON, "the five are gone", || waiting(&mut publisher) <= 1);
        let holder = holders(&mut publisher, "s");
        assert_eq!(holder.len(), 1, "{holder:?}");
        if holder[0] != "c5" {
            wait_waiting(&server, 1);
            publisher.publish("s", "p");
        }
        living.gets("p");
        assert_eq!(publisher.run("DEL s"), int(1));
        holder[0].clone()
    };
    (0..3).map(|_| round()).collect()
}

#[test]
fn no_task_is_published_to_a_connection_that_was_closed_before() {
    assert_eq!(all_at_once(Exit::Close, true, "TASK.PUBLISH s p"), ["c5"; 3]);
}

#[test]
fn no_task_is_published_to_a_connection_that_was_reset_before() {
    assert_eq!(all_at_once(Exit::Reset, true, "TASK.PUBLISH s p"), ["c5"; 3]);
}

#[test]
fn no_retry_is_given_to_a_connection_that_was_closed_before() {
    assert_eq!(all_at_once(Exit::Close, true, "TASK.RETRY source 1-1 p 0 s dlq 1"), ["c5"; 3]);
}

#[test]
fn no_foreign_task_is_given_to_a_connection_that_was_closed_before() {
    assert_eq!(all_at_once(Exit::Close, true, "XADD s * payload p"), ["c5"; 3]);
}

#[test]
fn no_task_is_published_to_a_connection_that_was_closed_right_after() {
    assert_eq!(all_at_once(Exit::Close, false, "TASK.PUBLISH s p"), ["c5"; 3]);
}

#[test]
fn no_foreign_task_is_given_to_a_connection_that_was_closed_right_after() {
    assert_eq!(all_at_once(Exit::Close, false, "XADD s * payload p"), ["c5"; 3]);
}

/// Ways to send away the client with the id `{id}` and the user `{user}`, and whether that closes its
/// connection.
const SEND_AWAY: [(&str, bool); 4] = [
    ("CLIENT KILL ID {id}", true),
    // The server marks such clients and frees them later.
    ("ACL DELUSER {user}", true),
    ("CLIENT UNBLOCK {id} TIMEOUT", false),
    ("CLIENT UNBLOCK {id} ERROR", false),
];

/// The consumers `first` and `second` wait on the stream `s`, and both commands come at once: in a
/// transaction, or in one pipeline. The two consumers.
#[track_caller]
fn at_once(server: &Server, commands: [&str; 2], in_transaction: bool) -> [Client; 2] {
    let mut control = server.client();
    let (mut first, mut second) = (server.client(), server.client());
    let id = first.id();
    let user = format!("user{id}");
    let allow = format!("ACL SETUSER {user} on nopass ~* &* +@all");
    assert_eq!(control.run(allow), ok());
    assert_eq!(first.run(format!("AUTH {user} x")), ok());
    for (count, (client, name)) in
        [(&mut first, "first"), (&mut second, "second")].into_iter().enumerate()
    {
        client.send(consume("g", name, "s"));
        wait_waiting(server, count + 1);
    }
    let fill = |text: &str| text.replace("{user}", &user).replace("{id}", &id.to_string());
    let commands = commands.map(fill);
    let replies = if in_transaction {
        transaction(&mut control, &commands)
    } else {
        control.pipeline(&commands)
    };
    assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
    [first, second]
}

/// A task is added right before or right after the first in line is sent away in each way, in a
/// pipeline and in a transaction.
#[track_caller]
fn each_race(add: &str, add_first: bool, check: impl Fn(&Server, [Client; 2], &str, bool)) {
    let server = Checked::start();
    let mut control = server.client();
    for (send_away, closes) in SEND_AWAY {
        for in_transaction in [false, true] {
            let commands = if add_first { [add, send_away] } else { [send_away, add] };
            let clients = at_once(&server, commands, in_transaction);
            check(&server, clients, send_away, closes);
            wait_waiting(&server, 0);
            assert_eq!(control.run("DEL s"), int(1));
        }
    }
}

#[track_caller]
fn second_is_served(server: &Server, clients: [Client; 2], send_away: &str, closes: bool) {
    let [mut first, mut second] = clients;
    gets(&mut second, "p");
    assert_eq!(holders(&mut server.client(), "s"), ["second"], "{send_away}");
    if closes {
        assert_eq!(first.try_read(SOON), Err(Silence::Closed), "{send_away}");
    } else {
        let told = first.read();
        assert!(told.is_nil() || told.is_error_with("UNBLOCKED "), "{send_away}: {told:?}");
        assert_eq!(first.run("PING"), simple("PONG"));
    }
}

#[test]
fn what_is_published_in_the_moment_after_one_was_sent_away_goes_to_the_next() {
    each_race("TASK.PUBLISH s p", false, second_is_served);
}

#[test]
fn what_is_added_in_the_moment_after_one_was_sent_away_goes_to_the_next() {
    each_race("XADD s * payload p", false, second_is_served);
}

#[test]
fn what_is_added_in_the_moment_before_one_is_sent_away_goes_to_the_next() {
    each_race("XADD s * payload p", true, second_is_served);
}

#[test]
fn what_is_published_in_the_moment_before_one_is_sent_away_is_leased_to_that_one() {
    each_race("TASK.PUBLISH s p", true, |server, clients, send_away, closes| {
        let [mut first, mut second] = clients;
        let mut control = server.client();
        assert_eq!(holders(&mut control, "s"), ["first"], "{send_away}");
        if send_away.ends_with("ERROR") {
            // The server sends the error into what is already answered: some versions instead of
            // the answer, some behind it.
            let told = first.read();
            assert!(told.is_error_with("UNBLOCKED ") || told.task_payloads() == ["p"], "{told:?}");
        } else if !closes {
            gets(&mut first, "p");
        }
        control.publish("s", "q");
        gets(&mut second, "q");
    });
}

#[test]
fn a_task_that_comes_as_the_time_runs_out_is_either_handed_over_or_left_alone() {
    const BLOCK: u64 = 40;
    let server = Checked::start();
    let mut control = server.client();
    for round in 0..20 {
        let mut waiter = server.client();
        waiter.send(format!("TASK.CONSUME g c s 1 {BLOCK}"));
        if round < 5 {
            // When the server goes on, it finds the task and the end of the time at once.
            server.pause();
            thread::sleep(Duration::from_millis(BLOCK));
            control.send("TASK.PUBLISH s p");
            server.resume();
        } else {
            thread::sleep(Duration::from_millis(BLOCK - 2 + round % 5));
            control.send("TASK.PUBLISH s p");
        }
        assert!(matches!(control.read(), Value::Bulk(_)));
        let reply = waiter.read();
        assert_eq!(waiter.run("PING"), simple("PONG"), "nothing more came");
        let (payloads, leased) = (reply.task_payloads(), holders(&mut control, "s"));
        match payloads[..] {
            [] => assert_eq!(leased, [""; 0]),
            _ => assert_eq!((payloads, leased), (vec!["p"], vec!["c".to_owned()])),
        }
        assert_eq!(control.run("XLEN s"), int(1));
        assert_eq!(control.run("DEL s"), int(1));
    }
}

#[test]
fn the_module_stays_while_somebody_waits() {
    let server = Checked::start();
    let mut control = server.client();
    let mut waiter = waiter(&server, "s");
    assert!(control.run("MODULE UNLOAD corral").is_error());
    control.publish("s", "p");
    gets(&mut waiter, "p");
}

// --- Demotion

/// A port on which nobody listens: a replica of it keeps its data and never gets a master.
const NO_MASTER: &str = "REPLICAOF 127.0.0.1 1";

#[test]
fn a_demotion_sends_everybody_away_and_a_promotion_takes_them_back() {
    let server = Checked::start();
    let mut control = server.client();
    for round in 0..3 {
        let waiters = line(&server, "s", 50);
        assert_eq!(waiting(&mut control), waiters.len());
        assert_eq!(control.run(NO_MASTER), ok());
        for mut waiter in waiters {
            assert!(waiter.read().is_error_with("UNBLOCKED "));
        }
        wait_waiting(&server, 0);
        let refused = server.client().run(consume("g", "c", "s"));
        assert!(refused.is_error_with("READONLY "), "{refused:?}");

        assert_eq!(control.run("REPLICAOF NO ONE"), ok());
        let mut waiter = waiter(&server, "s");
        control.publish("s", &round.to_string());
        gets(&mut waiter, &round.to_string());
    }
}

#[test]
fn nothing_is_written_on_a_replica_for_those_who_waited_on_the_master() {
    let server = Checked::start();
    let mut control = server.client();
    let digest = |client: &mut Client| client.run("DEBUG DIGEST").as_str().to_owned();
    for round in 0..5 {
        let waiters = line(&server, "s", 3);
        // There is something for those who wait, and the server is a replica before it looks.
        let replies = control.pipeline(&[&xadd("s", "a"), "DEBUG DIGEST", NO_MASTER]);
        assert_eq!(replies[2], ok());
        for mut waiter in waiters {
            assert!(waiter.read().is_error_with("UNBLOCKED "));
        }
        // What was going to be written is written when this time is up.
        assert_eq!(server.client().run("XREAD BLOCK 50 STREAMS nothing $"), nil_array());
        assert_eq!(digest(&mut control), replies[1].as_str());
        assert_eq!(holders(&mut control, "s"), vec!["late"; round]);

        assert_eq!(control.run("REPLICAOF NO ONE"), ok());
        let found = control.run("TASK.CONSUME g late s");
        assert_eq!(found.task_payloads(), ["a"]);
    }
}

#[test]
fn a_demoted_master_becomes_a_faithful_replica() {
    let server = Checked::start();
    let master = Checked::start();
    let (mut control, mut master_control) = (server.client(), master.client());
    master_control.publish("s", "of the master");
    let waiters = line(&server, "s", 20);
    let follow = format!("REPLICAOF 127.0.0.1 {}", master.port());
    control.pipeline(&[xadd("s", "lost"), follow]);
    for mut waiter in waiters {
        assert!(waiter.read().is_error_with("UNBLOCKED "));
    }
    wait_in_sync(&master, &server);
    assert_eq!(control.run("DEBUG DIGEST"), master_control.run("DEBUG DIGEST"));
    // A task on the way through a replica wakes nobody there.
    let mut waiter = waiter(&master, "t");
    master_control.publish("t", "p");
    gets(&mut waiter, "p");
    wait_in_sync(&master, &server);
    assert_eq!(control.run("DEBUG DIGEST"), master_control.run("DEBUG DIGEST"));
    assert_eq!(control.run("REPLICAOF NO ONE"), ok());
    let found = control.run(consume("g", "c", "s"));
    assert_eq!(found.task_payloads(), ["of the master"]);
}

// --- What others do to the keys

#[test]
fn whoever_writes_the_key_of_the_line_does_not_disturb_those_who_wait() {
    let server = Checked::start();
    let mut control = server.client();
    for (stream, key) in
        [("s", "wait:{s}"), ("queue:{tag}", "wait::queue:{tag}"), ("a}b", "wait:a}b")]
    {
        let mut waiters = line(&server, stream, 10);
        for command in [
            "SET %k v",
            "APPEND %k v",
            "GETDEL %k",
            "LPUSH %k a b",
            "DEL %k",
            "ZADD %k 1 a",
            "RENAME %k x",
            "RENAME x %k",
            "DEL %k",
            "XADD %k * payload p",
            "DEL %k",
        ] {
            let reply = control.run(command.replace("%k", key));
            assert!(!reply.is_error(), "{command}: {reply:?}");
        }
        assert_eq!(control.run(format!("SET {key} v PX 1")), ok());
        eventually(SOON, "the key expires", || control.run(format!("EXISTS {key}")) == int(0));
        wait_waiting(&server, 10);
        for (number, waiter) in waiters.iter_mut().enumerate() {
            control.publish(stream, &number.to_string());
            gets(waiter, &number.to_string());
        }
    }
}

#[test]
fn a_stream_may_go_and_come_back_while_consumers_wait() {
    let server = Checked::start();
    let mut control = server.client();
    for go in ["DEL s", "UNLINK s", "RENAME s elsewhere", "PEXPIRE s 0", "XTRIM s MAXLEN 0"] {
        let mut waiters = line(&server, "s", 3);
        let reply = control.run(go);
        assert!(!reply.is_error(), "{go}: {reply:?}");
        assert_eq!(control.run("PING"), simple("PONG"));
        wait_waiting(&server, 3);
        control.publish("s", "a");
        gets(&mut waiters[0], "a");
        control.run(xadd("s", "b"));
        gets(&mut waiters[1], "b");
        control.run("DEL s");
        control.run(xadd("s", "c"));
        gets(&mut waiters[2], "c");
        control.run("DEL s elsewhere");
    }
}

#[test]
fn those_who_wait_are_told_of_another_type_and_not_whoever_writes_it() {
    let server = Checked::start();
    let mut control = server.client();
    for write in ["SET s text", "COPY text s REPLACE", "RENAME list s"] {
        let mut waiters = line(&server, "s", 2);
        assert_eq!(control.run("SET text of-another-type"), ok());
        assert_eq!(control.run("LPUSH list a"), int(1));
        assert!(!control.run(write).is_error(), "{write}");
        for waiter in &mut waiters {
            let told = waiter.read();
            assert!(told.is_error_with("WRONGTYPE "), "{write}: {told:?}");
        }
        // So is a new consumer, who does not stand in line.
        let refused = control.run(consume("g", "new", "s"));
        assert!(refused.is_error_with("WRONGTYPE "), "{refused:?}");
        wait_waiting(&server, 0);
        // A retry that ends elsewhere does not care.
        assert_eq!(control.run("TASK.RETRY source 1-1 p 0 t dlq 3"), ok());
        assert_eq!(control.run("FLUSHALL"), ok());
    }
}

// --- Thousands

/// Consumers `c0`, `c1`, … of the group `g` of the stream `s`, who wait in whatever order.
#[track_caller]
fn crowd(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = server.clients(count);
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(consume("g", &format!("c{index}"), "s"));
    }
    wait_waiting(server, count);
    clients
}

/// Reads the reply of everybody in a crowd, which brings exactly one task; the payloads in order.
#[track_caller]
fn gets_one_each<'a>(crowd: impl IntoIterator<Item = &'a mut Client>) -> Vec<usize> {
    let mut crowd: Vec<_> = crowd.into_iter().collect();
    crowd.iter_mut().for_each(|client| client.send("PING"));
    let mut payloads = Vec::new();
    for client in crowd {
        let reply = client.read();
        assert_eq!(client.read(), simple("PONG"), "nothing more came");
        assert_eq!(reply.task_payloads().len(), 1);
        payloads.push(reply.task_payloads()[0].parse().expect("a number"));
    }
    payloads.sort_unstable();
    payloads
}

/// The numbers of a range.
fn all(numbers: Range<usize>) -> Vec<usize> {
    numbers.collect()
}

/// How often each command was called during `body`.
#[track_caller]
fn calls_during(client: &mut Client, body: impl FnOnce(&mut Client)) -> BTreeMap<String, u64> {
    assert_eq!(client.run("CONFIG RESETSTAT"), ok());
    body(client);
    let stats = client.run("INFO commandstats");
    let line = |line: &str| {
        let (name, values) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count = values.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), count))
    };
    let mut calls: BTreeMap<_, _> = stats.as_str().lines().filter_map(line).collect();
    calls.remove("config|resetstat");
    // A look at the connection, which is spared where many connections make it dear.
    calls.remove("client|list");
    // The look at every line, which comes from time to time, however much is published.
    calls.remove("xpending");
    calls
}

#[test]
fn a_publish_costs_the_same_in_front_of_one_consumer_and_of_two_thousand() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut publisher = server.client();
    let mut one = waiter(&server, "s");
    let with_one = calls_during(&mut publisher, |client| {
        client.publish("s", "one");
    });
    gets(&mut one, "one");
    assert_eq!(with_one["task.publish"], 1);

    let mut crowd = crowd(&server, COUNT);
    let tasks: Vec<_> = (0..COUNT).map(|number| format!("TASK.PUBLISH s {number}")).collect();
    for some in tasks.chunks(COUNT / 2) {
        let with_many = calls_during(&mut publisher, |client| {
            client.pipeline(some);
        });
        let times = |(name, count): (&String, &u64)| (name.clone(), count * some.len() as u64);
        assert_eq!(with_many, with_one.iter().map(times).collect());
    }
    assert_eq!(waiting(&mut publisher), 0);
    assert_eq!(gets_one_each(&mut crowd), all(0..COUNT));
}

#[test]
fn a_publish_costs_the_same_among_many_connections() {
    const COUNT: usize = 2000;
    let server = Checked(Server::builder().arg("--maxclients").arg("12000").start());
    let mut publisher = server.client();
    let tasks: Vec<_> = (0..COUNT).map(|number| format!("TASK.PUBLISH s {number}")).collect();
    let mut work = || {
        let mut crowd = crowd(&server, COUNT);
        let before = server.cpu_time();
        for some in tasks.chunks(500) {
            publisher.pipeline(some);
        }
        let work = server.cpu_time() - before;
        assert_eq!(gets_one_each(&mut crowd), all(0..COUNT));
        work
    };
    let among_few = work();
    let idle = server.clients(8000);
    let among_many = work();
    drop(idle);
    // A processor's cache explains some difference; looking at every connection is far beyond it.
    let most = 2 * among_few + Duration::from_millis(50);
    assert!(among_many < most, "{among_few:?} became {among_many:?}");
}

#[test]
fn a_great_transaction_serves_everybody_who_waits() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut control = server.client();
    let mut crowd = crowd(&server, COUNT);
    let tasks: Vec<_> = (0..COUNT).map(|number| xadd("s", &number.to_string())).collect();
    assert_eq!(transaction(&mut control, &tasks).len(), COUNT);
    assert_eq!(gets_one_each(&mut crowd), all(0..COUNT));
    assert_eq!(control.run("XPENDING s g").items()[0], int(COUNT as i64));
}

/// A server that answers in waves of one reply.
fn in_smallest_waves() -> Checked {
    let server = Checked::start();
    assert_eq!(server.client().run("CONFIG SET corral.wake-bytes 1"), ok());
    server
}

#[test]
fn a_great_transaction_serves_those_who_wait_in_waves() {
    const COUNT: usize = 500;
    let server = in_smallest_waves();
    let mut control = server.client();
    let mut crowd = crowd(&server, COUNT);
    let tasks: Vec<_> = (0..COUNT).map(|number| xadd("s", &number.to_string())).collect();
    assert_eq!(transaction(&mut control, &tasks).len(), COUNT);
    let mut still = vec![waiting(&mut control)];
    while still.last() != Some(&0) {
        still.push(waiting(&mut control));
    }
    assert_eq!(gets_one_each(&mut crowd), all(0..COUNT));
    // Between two waves other clients have their turn.
    still.dedup();
    assert!(still.len() > 10, "{still:?}");
}

#[test]
fn nobody_overtakes_those_who_wait_for_the_next_wave() {
    let server = in_smallest_waves();
    let mut waiters = line(&server, "s", 4);
    let (mut client, mut publisher) = (server.client(), server.client());
    let add = ["0", "1", "2", "3", "4", "5"].map(|payload| xadd("s", payload)).join("\r\n");
    let publish = "TASK.PUBLISH s 6";
    client.send_raw(format!(
        "{add}\r\nTASK.CONSUME g new s\r\n{publish}\r\nTASK.CONSUME g new s 10 0\r\n"
    ));
    for _ in 0..6 {
        assert!(matches!(client.read(), Value::Bulk(_)));
    }
    assert_eq!(client.read(), nil_array(), "what is there belongs to those who wait");
    assert!(matches!(client.read(), Value::Bulk(_)));
    assert_eq!(client.read().task_payloads(), ["4", "5", "6"]);
    for (number, waiter) in waiters.iter_mut().enumerate() {
        gets(waiter, &number.to_string());
    }
    assert_eq!(publisher.run("TASK.CONSUME g new s"), nil_array());
}

#[test]
fn ten_thousand_wait_and_half_of_them_are_killed() {
    const COUNT: usize = 10_000;
    let server = Checked(Server::builder().arg("--maxclients").arg("12000").start());
    let mut control = server.client();
    let mut crowd = crowd(&server, COUNT);
    let ids = control.run("CLIENT LIST TYPE normal");
    let ids: BTreeMap<u16, &str> = ids.as_str().lines().map(port_and_id).collect();
    let kill = |index: usize| format!("CLIENT KILL ID {}", ids[&crowd[index].local_port()]);
    let kills: Vec<_> = shuffled(COUNT).drain(COUNT / 2..).map(kill).collect();
    for some in kills.chunks(500) {
        assert_eq!(control.pipeline(some), vec![int(1); some.len()]);
    }
    wait_waiting(&server, COUNT / 2);
    let tasks: Vec<_> = (0..COUNT / 2).map(|number| format!("TASK.PUBLISH s {number}")).collect();
    for some in tasks.chunks(500) {
        control.pipeline(some);
    }
    assert_eq!(waiting(&mut control), 0);
    crowd.retain_mut(|client| !client.is_closed());
    assert_eq!(gets_one_each(&mut crowd), all(0..COUNT / 2));
    assert_eq!(holders(&mut control, "s").len(), COUNT / 2);
}

#[test]
fn those_who_waited_leave_no_memory_behind() {
    let server = Checked::start();
    let mut control = server.client();
    let memory = |client: &mut Client| {
        let used = client.info("memory", "used_memory").expect("a number");
        used.parse::<u64>().expect("a number")
    };
    let mut round = |count: usize| {
        let mut crowd = crowd(&server, count);
        // Some are served, some close while there is a stream and the others when it is gone.
        control.pipeline(&vec!["TASK.PUBLISH s p"; count / 3]);
        crowd.truncate(count / 2);
        assert_eq!(control.run("DEL s"), int(1));
        drop(crowd);
        wait_waiting(&server, 0);
        memory(&mut control)
    };
    // With what the server itself keeps for a few blocked clients; it gives back the rest of that
    // bit by bit.
    let before = round(10);
    for _ in 0..8 {
        round(250);
    }
    eventually(SOON, "the memory comes back", || memory(&mut control) <= before);
}
