//! A consumer waits and a task arrives: which commands wake it, byte for byte what it gets, how many
//! tasks it takes of a burst, and that every group and every wave is served in order. In
//! front of thousands of consumers a publish costs no more than in front of one.
//!
//! What holds for waiting clients of every family is in waiting.rs and the files beside it; delayed
//! tasks and leases that end are in task_waiting.rs. Every test ends with no client waiting, no panic
//! counted and the module unloaded.

mod support;
use support::*;

use std::ops::Range;
use std::time::Duration;

/// The command of a consumer that waits without end.
fn consume(group: &str, consumer: &str, stream: &str) -> String {
    format!("TASK.CONSUME {group} {consumer} {stream} 1 0")
}

/// Consumers with these requests, in line in this order.
#[track_caller]
fn line_of(server: &Server, requests: &[impl AsRef<str>]) -> Vec<Client> {
    let mut clients = server.clients(requests.len());
    for (client, request) in clients.iter_mut().zip(requests) {
        stand(client, request.as_ref());
    }
    wait_blocked(server, requests.len());
    clients
}

/// The consumers `c0`, `c1`, … of the group `g`, in line for the stream `s` in this order.
#[track_caller]
fn line(server: &Server, count: usize) -> Vec<Client> {
    let request = |number| consume("g", &format!("c{number}"), "s");
    line_of(server, &(0..count).map(request).collect::<Vec<_>>())
}

/// Reads a reply that brings exactly one task, and nothing behind it.
#[track_caller]
fn gets(client: &mut Client, payload: &str) {
    assert_eq!(client.read().task_payloads(), [payload]);
    assert_eq!(client.run("PING"), simple("PONG"), "more came");
}

/// Reads the replies of consumers of one task each; the payloads in order.
#[track_caller]
fn gets_one_each(clients: &mut [Client]) -> Vec<usize> {
    clients.iter_mut().for_each(|client| client.send("PING"));
    let mut payloads = Vec::new();
    for client in clients {
        let reply = client.read();
        assert_eq!(client.read(), simple("PONG"), "more came");
        assert_eq!(reply.task_payloads().len(), 1);
        payloads.push(reply.task_payloads()[0].parse().expect("a number"));
    }
    payloads.sort_unstable();
    payloads
}

/// The command of a client that adds a task without the module.
fn xadd(payload: impl ToString) -> String {
    format!("XADD s * payload {} timestamp 0 retry_count 0", payload.to_string())
}

/// Such commands for the numbers of a range.
fn xadds(numbers: Range<usize>) -> Vec<String> {
    numbers.map(xadd).collect()
}

/// The consumers that have leased tasks of the group `g`, in the order of the tasks.
#[track_caller]
fn holders(client: &mut Client) -> Vec<String> {
    client.leases("s", "g").into_iter().map(|lease| lease.consumer).collect()
}

/// How many consumers wait.
#[track_caller]
fn waiting(client: &mut Client) -> usize {
    waiters(client, "task")
}

// --- Replies

#[test]
fn a_waiter_gets_byte_for_byte_what_xreadgroup_replies_on_its_connection() {
    let server = Checked::start();
    let connect = |resp3| if resp3 { server.client3() } else { server.client() };
    // A publish hands over within the command; what XADD adds is handed over by the timer.
    for command in ["TASK.PUBLISH s p", "XADD s * payload p k v"] {
        for (publisher, consumer) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut publisher, mut waiter) = (connect(publisher), connect(consumer));
            stand(&mut waiter, &consume("g", "c", "s"));
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
fn a_connection_can_change_its_protocol_between_two_waits() {
    let server = Checked::start();
    let mut waiter = server.client();
    for (payload, hello) in [("a", "HELLO 2"), ("b", "HELLO 3"), ("c", "HELLO 2")] {
        waiter.run(hello);
        stand(&mut waiter, &consume("g", "c", "s"));
        server.client().publish("s", payload);
        let reply = waiter.read();
        assert_eq!(reply.task_payloads(), [payload]);
        assert_eq!(matches!(reply, Value::Map(_)), hello == "HELLO 3");
    }
}

#[test]
fn names_and_payloads_of_any_bytes_reach_a_waiter() {
    let server = Checked::start();
    let mut publisher = server.client();
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.repeat(4096);
    let (stream, group) = (b"s\0\r\n\xff".as_slice(), b"g\0\xff".as_slice());
    for resp3 in [false, true] {
        for payload in [b"".as_slice(), b"\r\n", &every_byte, &long] {
            let xadd = args!["XADD", stream, "*", "payload", payload].to_vec();
            let publish = args!["TASK.PUBLISH", stream, payload].to_vec();
            for command in [xadd, publish] {
                let mut waiter = if resp3 { server.client3() } else { server.client() };
                waiter.send_args(&args!["TASK.CONSUME", group, b"c\0", stream, 1, 0]);
                wait_blocked(&server, 1);
                let id = publisher.cmd(&command);
                let reply = waiter.read();
                let name = match &reply {
                    Value::Map(pairs) => &pairs[0].0,
                    reply => &reply.items()[0].items()[0],
                };
                assert_eq!(name, &bulk(stream));
                let [task] = reply.tasks() else { panic!("not one task") };
                assert_eq!(task.items()[0], id);
                let got = task.items()[1].get("payload").bytes();
                assert!(got == payload, "{} bytes", payload.len());
            }
        }
    }
}

// --- What wakes a consumer

#[test]
fn a_waiter_is_woken_by_every_command_that_brings_a_task() {
    let server = Checked::start();
    let mut client = server.client();
    let in_db_5 = &["SELECT 5", "XADD s * payload p", "SELECT 0"][..];
    let at_the_end = &["XADD s * payload p", "XGROUP CREATE s g $"][..];
    let other = &["XADD other * payload p"][..];
    for (prepare, act) in [
        (&[][..], &["TASK.PUBLISH s p"][..]),
        (&[], &["TASK.RETRY source 1-1 p 0 s dlq 3"]),
        (&[], &["TASK.RETRY source 1-1 p 3 again s 3"]),
        (&["XADD s 1-1 payload o", "TASK.CONSUME g w s"], &["TASK.RETRY s 1-1 p 0 s dlq 3"]),
        (&[], &["XADD s * payload p"]),
        (other, &["RENAME other s"]),
        (other, &["COPY other s REPLACE"]),
        (in_db_5, &["SELECT 5", "COPY s s DB 0 REPLACE", "SELECT 0"]),
        (in_db_5, &["DEL s", "SELECT 5", "MOVE s 0", "SELECT 0"]),
        (in_db_5, &["SWAPDB 5 0"]),
        (at_the_end, &["XGROUP SETID s g 0"]),
        // The group begins anew, when memory is full too.
        (at_the_end, &["XGROUP DESTROY s g"]),
        (at_the_end, &["CONFIG SET maxmemory 1", "XGROUP DESTROY s g"]),
        (
            &["XADD s 1-1 payload old", "XADD s 1-2 payload p", "XGROUP CREATE s g $"],
            &["MULTI", "XGROUP DESTROY s g", "XGROUP CREATE s g 1-1", "EXEC"],
        ),
    ] {
        run_all(&mut client, prepare);
        let mut waiter = line(&server, 1).remove(0);
        run_all(&mut client, act);
        let reply = waiter.read();
        assert_eq!(reply.task_payloads(), ["p"], "{act:?}");
        assert_eq!(holders(&mut client), ["c0"], "{act:?}");
        run_all(&mut client, &["CONFIG SET maxmemory 0", "FLUSHALL"]);
    }
}

#[test]
fn a_waiter_is_woken_by_restore() {
    let server = Checked::start();
    let mut client = server.client();
    client.run("XADD other * payload p");
    let dump = client.run("DUMP other");
    let mut waiter = line(&server, 1).remove(0);
    assert_eq!(client.cmd(&args!["RESTORE", "s", 0, dump.bytes(), "REPLACE"]), ok());
    gets(&mut waiter, "p");
}

#[test]
fn a_stream_may_vanish_and_come_back_while_consumers_wait() {
    let server = Checked::start();
    let mut client = server.client();
    for vanish in ["DEL s", "UNLINK s", "RENAME s elsewhere", "PEXPIRE s 0", "XTRIM s MAXLEN 0"] {
        let mut waiters = line(&server, 3);
        run_all(&mut client, &[vanish, "PING"]);
        assert_eq!(waiting(&mut client), 3, "{vanish}");
        client.publish("s", "a");
        gets(&mut waiters[0], "a");
        client.run(xadd("b"));
        gets(&mut waiters[1], "b");
        run_all(&mut client, &["DEL s", &xadd("c")]);
        gets(&mut waiters[2], "c");
        client.run("DEL s elsewhere");
    }
}

#[test]
fn a_foreign_type_is_an_error_for_the_consumers_and_not_for_its_writer() {
    let server = Checked::start();
    let mut client = server.client();
    for write in ["SET s text", "COPY text s REPLACE", "RENAME list s"] {
        run_all(&mut client, &["SET text of-another-type", "LPUSH list a"]);
        let mut waiters = line(&server, 2);
        run_all(&mut client, &[write]);
        for waiter in &mut waiters {
            assert_eq!(waiter.read(), error(WRONG_TYPE), "{write}");
        }
        assert_eq!(client.run(consume("g", "new", "s")), error(WRONG_TYPE));
        assert_eq!(waiting(&mut client), 0);
        // A retry that ends in another stream is not concerned.
        run_all(&mut client, &["TASK.RETRY source 1-1 p 0 t dlq 3", "FLUSHALL"]);
    }
}

// --- Who is served with what

#[test]
fn waiters_that_are_served_in_waves_keep_their_order() {
    const COUNT: usize = 200;
    let server = Checked::start();
    let mut client = server.client();
    // Several waves of several tasks each.
    assert_eq!(client.run("CONFIG SET corral.wake-bytes 2000"), ok());
    let mut waiters = line(&server, COUNT);
    in_transaction(&mut client, &xadds(0..COUNT));
    for (number, waiter) in waiters.iter_mut().enumerate() {
        gets(waiter, &number.to_string());
    }
}

#[test]
fn a_consumer_may_wait_on_several_connections() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line_of(&server, &vec![consume("g", "same", "s"); 3]);
    for (number, waiter) in waiters.iter_mut().enumerate() {
        client.publish("s", &number.to_string());
        gets(waiter, &number.to_string());
    }
    assert_eq!(holders(&mut client), ["same"; 3]);
}

#[test]
fn every_group_gets_every_task() {
    let server = Checked::start();
    let mut client = server.client();
    let groups = ["a", "b", "c", "d", "a", "b", "c", "d"];
    let mut waiters = line_of(&server, &groups.map(|group| consume(group, "c", "s")));
    client.publish("s", "first");
    assert_eq!(waiting(&mut client), 4);
    client.run(xadd("second"));
    for (number, waiter) in waiters.iter_mut().enumerate() {
        gets(waiter, if number < 4 { "first" } else { "second" });
    }
}

#[test]
fn a_task_wakes_only_the_consumers_of_its_stream() {
    let server = Checked::start();
    let mut client = server.client();
    let mut waiters = line_of(&server, &["s", "t", "u"].map(|stream| consume("g", "c", stream)));
    let add = [(1, "XADD t * payload p"), (2, "TASK.PUBLISH u p"), (0, "XADD s * payload p")];
    for (left, (number, add)) in [2, 1, 0].into_iter().zip(add) {
        client.run(add);
        gets(&mut waiters[number], "p");
        assert_eq!(waiting(&mut client), left, "{add}");
    }
}

#[test]
fn a_waiter_takes_up_to_its_count_of_a_burst() {
    let server = Checked::start();
    let mut client = server.client();
    let requests = [3, 10, 1].map(|count| format!("TASK.CONSUME g c s {count} 0"));
    let mut waiters = line_of(&server, &requests);
    in_transaction(&mut client, &xadds(1..6));
    assert_eq!(waiters[0].read().task_payloads(), ["1", "2", "3"]);
    assert_eq!(waiters[1].read().task_payloads(), ["4", "5"]);
    assert_eq!(waiting(&mut client), 1);
    client.publish("s", "6");
    gets(&mut waiters[2], "6");
}

#[test]
fn a_publish_in_a_burst_is_handed_over_alone() {
    let server = Checked::start();
    let mut waiter = line_of(&server, &["TASK.CONSUME g c s 10 0"]).remove(0);
    let burst = [1, 2, 3].map(|payload| format!("TASK.PUBLISH s {payload}"));
    in_transaction(&mut server.client(), &burst);
    gets(&mut waiter, "1");
    assert_eq!(waiter.run("TASK.CONSUME g c s 10").task_payloads(), ["2", "3"]);
}

#[test]
fn a_newcomer_takes_what_a_burst_leaves_after_the_waiters() {
    let server = Checked::start();
    let mut waiters = line(&server, 2);
    let burst = [&xadds(0..3)[..], &["TASK.CONSUME g new s 10 0".into()]].concat();
    let replies = server.client().pipeline(&burst);
    assert_eq!(replies[3].task_payloads(), ["2"]);
    gets(&mut waiters[0], "0");
    gets(&mut waiters[1], "1");
}

/// A server that hands over in waves of one reply.
fn in_smallest_waves() -> Checked {
    let server = Checked::start();
    assert_eq!(server.client().run("CONFIG SET corral.wake-bytes 1"), ok());
    server
}

#[test]
fn a_newcomer_does_not_overtake_the_clients_that_wait_for_the_next_wave() {
    let server = in_smallest_waves();
    let mut waiters = line(&server, 4);
    let consume_and_publish =
        ["TASK.CONSUME g new s", "TASK.PUBLISH s 6", "TASK.CONSUME g new s 9 0"];
    let commands = [xadds(0..6), consume_and_publish.map(String::from).to_vec()].concat();
    let replies = server.client().pipeline(&commands);
    assert_eq!(replies[6], nil_array(), "what is there belongs to the waiters");
    assert_eq!(replies[8].task_payloads(), ["4", "5", "6"]);
    for (number, waiter) in waiters.iter_mut().enumerate() {
        gets(waiter, &number.to_string());
    }
    assert_eq!(server.client().run("TASK.CONSUME g new s"), nil_array());
}

// --- Thousands

#[test]
fn a_publish_does_the_same_work_in_front_of_one_consumer_and_of_two_thousand() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut publisher = server.client();
    let publish = |number: usize| format!("TASK.PUBLISH s {number}");
    let mut calls_of = |commands: &[String]| {
        let mut calls = calls_during(&mut publisher, |client| {
            client.pipeline(commands);
        });
        // The look at every line, which comes from time to time, however much is published.
        calls.remove("xpending");
        calls
    };
    let mut one = line(&server, 1);
    let with_one = calls_of(&[publish(0)]);
    gets(&mut one[0], "0");
    assert_eq!(with_one["task.publish"], 1);

    let mut crowd = line(&server, COUNT);
    let tasks: Vec<_> = (0..COUNT).map(publish).collect();
    for some in tasks.chunks(COUNT / 2) {
        let times = |(name, count): (&String, &u64)| (name.clone(), count * some.len() as u64);
        assert_eq!(calls_of(some), with_one.iter().map(times).collect());
    }
    assert_eq!(gets_one_each(&mut crowd), (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn a_publish_costs_the_same_among_many_connections() {
    const COUNT: usize = 2000;
    let server = Checked::new(Server::builder().arg("--maxclients").arg("12000").start());
    let mut publisher = server.client();
    let tasks: Vec<_> = (0..COUNT).map(|number| format!("TASK.PUBLISH s {number}")).collect();
    let mut work = || {
        let mut crowd = line(&server, COUNT);
        let before = server.cpu_time();
        for some in tasks.chunks(500) {
            publisher.pipeline(some);
        }
        let work = server.cpu_time() - before;
        assert_eq!(gets_one_each(&mut crowd), (0..COUNT).collect::<Vec<_>>());
        work
    };
    let among_few = work();
    let idle = server.clients(8000);
    let among_many = work();
    drop(idle);
    // A processor's cache explains some difference; a look at every connection costs far more.
    let most = 2 * among_few + Duration::from_millis(50);
    assert!(among_many < most, "{among_few:?} became {among_many:?}");
}

#[test]
fn a_great_transaction_serves_all_consumers_that_wait() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let mut crowd = line(&server, COUNT);
    assert_eq!(in_transaction(&mut client, &xadds(0..COUNT)).len(), COUNT);
    assert_eq!(gets_one_each(&mut crowd), (0..COUNT).collect::<Vec<_>>());
    assert_eq!(client.run("XPENDING s g").items()[0], int(COUNT as i64));
}

#[test]
fn other_clients_have_their_turn_between_two_waves() {
    const COUNT: usize = 500;
    let server = in_smallest_waves();
    let mut client = server.client();
    let mut crowd = line(&server, COUNT);
    in_transaction(&mut client, &xadds(0..COUNT));
    let mut left = vec![waiting(&mut client)];
    while left.last() != Some(&0) {
        left.push(waiting(&mut client));
    }
    assert_eq!(gets_one_each(&mut crowd), (0..COUNT).collect::<Vec<_>>());
    left.dedup();
    assert!(left.len() > 10, "{left:?}");
}
