//! Clients wait, in each of the three families: what they are replied, where a request that would
//! wait is answered at once, and that clients are served one by one in the order of their arrival.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::*;

use std::time::{Duration, Instant};

// --- Replies

#[test]
fn a_wait_that_times_out_gets_the_reply_of_an_unserved_request() {
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["CACHE.FETCH k 600000", "LOCK.ACQUIRE job me 600000"]);
    let wait2 = "*3\r\n+WAIT\r\n$-1\r\n$-1\r\n";
    let wait3 = "*3\r\n+WAIT\r\n_\r\n_\r\n";
    for (request, resp2, resp3) in [
        ("CACHE.FETCH k 600000 BLOCK", wait2, wait3),
        ("LOCK.ACQUIRE job you 600000 BLOCK", ":0\r\n", ":0\r\n"),
        ("LOCK.ACQUIRE job you 600000 SHARED BLOCK", ":0\r\n", ":0\r\n"),
        ("LOCK.ACQUIRE job you 600000 LIMIT 5 BLOCK", ":0\r\n", ":0\r\n"),
        ("LOCK.ACQUIRE job you 600000 FENCE BLOCK", ":0\r\n", ":0\r\n"),
        ("TASK.CONSUME g c q 1", "*-1\r\n", "_\r\n"),
        ("TASK.CONSUME g c q META BLOCK", "*0\r\n", "*0\r\n"),
    ] {
        for (mut client, expected) in [(server.client(), resp2), (server.client3(), resp3)] {
            for ms in [1, 60] {
                let begin = Instant::now();
                client.send(format!("{request} {ms}"));
                let reply = client.read_raw_reply().escape_ascii().to_string();
                assert_eq!(reply, expected.as_bytes().escape_ascii().to_string(), "{request}");
                assert!(begin.elapsed() >= Duration::from_millis(ms), "{request} {ms}");
            }
        }
    }
}

#[test]
fn block_0_waits_without_end_and_a_huge_timeout_can_be_unblocked() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        // The lease of a lock is added to the time-out: both end before 2^53.
        let longest = (1_i64 << 53) - now_ms() - 601_000;
        for ms in [0, longest, i64::from(i32::MAX) + 1] {
            let mut client = server.client();
            let id = client.id();
            let request = format!("{} BLOCK {ms}", line.request(1));
            send_and_wait(&mut line.control, line.family.name, &mut client, &request);
            // When this one has timed out, the server has looked after all time-outs.
            let other = line.wait(2, 150);
            let other = line.control.run(other);
            assert_eq!(other, (line.family.nothing)(), "{request}");
            assert_eq!(client.read_timeout(Duration::ZERO), None, "{request}");
            assert_eq!(line.control.run(format!("CLIENT UNBLOCK {id}")), int(1));
            assert_eq!(client.read(), (line.family.nothing)(), "{request}");
            assert_eq!(client.run("PING"), simple("PONG"), "more came after {request}");
        }
    }
}

#[test]
fn replies_keep_the_order_of_a_pipeline_that_waits() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut client = server.client();
        let [first, second, third] =
            [(1, 0), (2, 30), (3, 0)].map(|(number, ms)| line.wait(number, ms));
        let pipeline =
            ["PING one", &first, "PING two", &second, "PING three", &third, "PING four", ""];
        client.send_raw(pipeline.join("\r\n"));
        line.wait_waiting(1);
        assert_eq!(client.read(), bulk("one"));
        assert_eq!(client.read_timeout(Duration::ZERO), None);
        line.serve(1);
        line.family.assert_served(&client.read());
        assert_eq!(client.read(), bulk("two"));
        assert_eq!(client.read(), (line.family.nothing)());
        assert_eq!(client.read(), bulk("three"));
        line.serve_by_foreigner(3);
        line.family.assert_served(&client.read());
        assert_eq!(client.read(), bulk("four"));
    }
}

#[test]
fn a_client_that_turned_its_replies_off_is_served_silently() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for (number, mode) in ["OFF", "SKIP", "OFF", "SKIP"].into_iter().enumerate() {
            let mut silent = server.client();
            silent.send(format!("CLIENT REPLY {mode}"));
            line.join_with(&mut silent, 2 * number);
            let mut behind = line.join(2 * number + 1);
            if number < 2 {
                line.serve(2 * number);
            } else {
                line.serve_by_foreigner(2 * number);
            }
            line.wait_waiting(1);
            line.serve(2 * number + 1);
            line.assert_served(&mut behind);
            if mode == "OFF" {
                assert_eq!(silent.run("CLIENT REPLY ON"), ok());
            }
            assert_eq!(silent.run("PING"), simple("PONG"));
        }
    }
}

// --- Where nobody may wait

#[test]
fn in_transactions_scripts_and_functions_a_request_is_answered_at_once() {
    let server = Checked::start();
    let library = "#!lua name=library\n\
        redis.register_function('run', function(_, args) return redis.call(unpack(args)) end)";
    assert_eq!(server.client().cmd(&["FUNCTION", "LOAD", library]), bulk("library"));
    for mut line in Line::of_each_family(&server) {
        let request = line.wait(1, 0);
        let (family, client) = (line.family, &mut line.control);
        let words: Vec<_> = request.split(' ').collect();
        let script = "return redis.call(unpack(ARGV))";
        let script = [&["EVAL", script, "0"][..], &words].concat();
        let function = [&["FCALL", "run", "0"][..], &words].concat();
        let unserved = (family.nothing)();
        // A script turns a null array into a null.
        let in_lua = if unserved == nil_array() { nil() } else { unserved.clone() };
        assert_eq!(in_transaction(client, &[&request]), [unserved]);
        assert_eq!(client.cmd(&script), in_lua);
        assert_eq!(client.cmd(&function), in_lua);
        assert_eq!(waiters(client, family.name), 0);

        let ways: [&dyn Fn(&mut Client) -> Value; 3] = [
            &|client| in_transaction(client, &[&request])[0].clone(),
            &|client| client.cmd(&script),
            &|client| client.cmd(&function),
        ];
        for way in ways {
            run_all(client, &[family.free]);
            family.assert_served(&way(client));
        }
    }
}

/// Some servers let a client wait that has subscribed to a channel, others do not.
#[test]
fn a_subscribed_client_waits_or_is_answered_at_once_and_leaves_the_line_in_order() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut subscribed = server.client3();
        subscribed.run("SUBSCRIBE channel");
        for _ in 0..3 {
            let reply = subscribed.run(line.wait(1, 50));
            assert_eq!(reply, (line.family.nothing3)());
        }
        assert_eq!(line.waiting(), 0);
        let mut behind = line.join(2);
        line.serve(2);
        line.assert_served(&mut behind);
    }
}

// --- First in, first out

#[test]
fn waiters_are_served_one_by_one_in_the_order_of_their_arrival() {
    const COUNT: usize = 100;
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut clients = line.form(COUNT);
        for (number, client) in clients.iter_mut().enumerate() {
            if number % 2 == 0 {
                line.serve(number);
                assert_eq!(line.waiting(), COUNT - number - 1, "{}", line.family.name);
            } else {
                line.serve_by_foreigner(number);
            }
            line.assert_served(client);
        }
    }
}

#[test]
fn a_newcomer_does_not_overtake_the_clients_that_wait() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut clients = line.form(3);
        let newcomer = line.request(9);
        let name = line.family.name;
        // The timer has not run between the commands of one transaction.
        let replies = [line.free(0).to_owned(), newcomer.clone()];
        let replies = in_transaction(&mut line.control, &replies);
        assert_eq!(replies[1], (line.family.nothing)(), "{name}");
        line.assert_served(&mut clients[0]);
        let hand_over = line.hand_over(1);
        let replies = in_transaction(&mut line.control, &[hand_over, newcomer]);
        assert_eq!(replies[1], (line.family.nothing)(), "{name}");
        line.assert_served(&mut clients[1]);
        // One that waits joins at the end.
        let mut last = server.client();
        last.send(line.free(2));
        last.send(line.wait(9, 0));
        assert!(!last.read().is_error());
        line.assert_served(&mut clients[2]);
        line.wait_waiting(1);
        line.serve(9);
        line.assert_served(&mut last);
    }
}

#[test]
fn the_same_name_in_another_database_has_its_own_line() {
    let server = Checked::start();
    for family in &FAMILIES {
        let mut lines = [0, 9, 3].map(|db| Line::in_db(&server, family, db));
        let mut clients = lines.each_mut().map(|line| line.join(0));
        for (left, index) in [2, 0, 1].into_iter().enumerate() {
            if index == 1 {
                lines[index].serve(0);
            } else {
                lines[index].serve_by_foreigner(0);
            }
            lines[index].assert_served(&mut clients[index]);
            assert_eq!(lines[0].waiting(), 2 - left, "{}", family.name);
        }
        // In one pipeline: the timer serves a line in each of the databases.
        let mut lines = [3, 0, 7, 5].map(|db| Line::in_db(&server, family, db));
        let mut clients = lines.each_mut().map(|line| line.join(1));
        let free = [3, 0, 7, 5].map(|db| [format!("SELECT {db}"), family.free.to_owned()]);
        server.client().pipeline(&free.concat());
        for (line, client) in lines.iter_mut().zip(&mut clients) {
            line.assert_served(client);
        }
    }
}

#[test]
fn commands_on_the_key_on_which_clients_block_wake_nobody() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let key = format!("wait:{{{}}}", line.family.key);
        let mut clients = line.form(3);
        let commands = [
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
            "SET %k v PX 1",
        ];
        run_all(&mut line.control, &commands.map(|command| command.replace("%k", &key)));
        let exists = format!("EXISTS {key}");
        eventually(SOON, "the key expires", || line.control.run(&exists) == int(0));
        assert_eq!(line.waiting(), 3);
        for (number, client) in clients.iter_mut().enumerate() {
            line.serve(number);
            line.assert_served(client);
        }
    }
}

/// A lock and a queue beside a value that 400 clients get in waves of about one each.
#[test]
fn waves_of_one_family_do_not_delay_another_family() {
    const READERS: usize = 400;
    let server = Checked::new(Server::builder().arg("--corral.wake-bytes").arg(1).start());
    let [mut cache, mut lock, mut task] = Line::of_each_family(&server);
    let mut readers = cache.form(READERS);
    let (mut locked, mut worker) = (lock.join(1), task.join(1));
    // In one step: the waves have just begun when the others are due.
    let commands = ["CACHE.SET k v 600000", lock.free(1), task.free(1)];
    in_transaction(&mut server.client(), &commands);
    lock.assert_served(&mut locked);
    task.assert_served(&mut worker);
    let left = cache.waiting();
    assert!(left > READERS / 4, "only {left} of {READERS} still wait: nobody could be delayed");
    for reader in &mut readers {
        assert_eq!(reader.read().items()[0], simple("HIT"));
    }
}
