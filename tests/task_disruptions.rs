//! Waiting consumers through restarts, promotions, pauses, reloads, and changes of whole databases:
//! delayed tasks still come on time, leases still expire on time, and nothing is lost or written
//! where it must not be.

mod support;
use support::consumers::*;
use support::*;

use std::collections::BTreeMap;
use std::time::Duration;

// ---------------------------------------------------------------------------------------------
// Restarts and replicas
// ---------------------------------------------------------------------------------------------

/// Lets as many consumers wait as there are tasks, and checks that each task comes when it is due,
/// or at once if that time has passed.
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
fn after_a_restart_tasks_come_and_leases_expire_on_time() {
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
        // New tasks come as before.
        let mut waiter = waiter(&server, "new");
        publish(&mut server.client(), "new", "DELAY 20");
        gets(&mut waiter, "new");
    }
}

#[test]
fn an_earlier_due_time_comes_first_after_a_restart() {
    let mut server = durable();
    let late = delay(&mut server.client(), "late", 5000);
    server.restart();
    let mut client = server.client();
    let mut waiters = line(&server, 2);
    let early = delay(&mut client, "early", 60);
    on_time(gets(&mut waiters[0], "early").at, early);
    let got = gets(&mut waiters[1], "late");
    assert!(got.at >= late, "{} ms early", late - got.at);
}

#[test]
fn a_promoted_replica_keeps_the_times_of_its_master() {
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
    // The others are as before, and new ones come.
    let mut waiter = waiter(&replica, "c");
    let early = delay(&mut client, "early", 60);
    on_time(gets(&mut waiter, "early").at, early);
    assert!(now_ms() < far);
}

/// Nothing listens on this port: such a replica keeps its data and never gets a master.
const NO_MASTER: &str = "REPLICAOF 127.0.0.1 1";

#[test]
fn no_task_becomes_due_and_no_lease_expires_on_a_replica() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "LEASE 1500");
    publish(&mut client, "leased", "");
    let (_, begin) = worker_dies(&server);
    let waiters = line(&server, 2);
    let due = delay(&mut client, "due", 1500);
    assert_eq!(client.run(NO_MASTER), ok());
    for mut waiter in waiters {
        let got = waiter.read();
        assert!(got.is_error_with("UNBLOCKED "), "{got:?}");
    }
    let before = client.run("DEBUG DIGEST");
    client.wait_past(due.max(begin + 1500));
    // A timer would have run by the end of this.
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
fn replicas_hold_the_same_queue_after_timed_deliveries() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let mut client = master.client();
    policy(&mut client, "LEASE 0 TRIES 2");
    let mut waiters = line(&master, 4);
    publish(&mut client, "urgent", "PRIORITY 5");
    gets(&mut waiters[0], "urgent");
    delay(&mut client, "due", 60);
    gets(&mut waiters[1], "due");
    // Their leases expire twice, then they are dead letters.
    policy(&mut client, "LEASE 100");
    for waiter in &mut waiters[2..] {
        assert_eq!(gets_some(waiter)[0].deliveries, 2);
    }
    let _waiting = waiter(&master, "c4");
    eventually(SOON, "they are dead letters", || client.run(format!("XLEN {DEAD}")) == int(2));
    wait_in_sync(&master, &replica);
    assert_eq!(replica.client().run("DEBUG DIGEST"), client.run("DEBUG DIGEST"));
}

// ---------------------------------------------------------------------------------------------
// Pauses
// ---------------------------------------------------------------------------------------------

#[test]
fn nothing_is_delivered_while_writes_are_paused_and_everything_afterwards() {
    // A server with an append-only file aborts on a write during a pause.
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
        client.wait_past(begin + 400);
        // Time-outs are served; nothing is delivered.
        assert_eq!(brief.read(), no_tasks());
        assert_eq!(waiters[0].read_timeout(Duration::ZERO), None);
        assert_eq!(self::waiters(&mut client, "task"), 2);
        let unpaused = client.time_ms();
        assert_eq!(client.run("CLIENT UNPAUSE"), ok());
        let mut payloads = waiters
            .iter_mut()
            .map(|waiter| {
                let got = &gets_some(waiter)[0];
                assert!(got.at >= unpaused, "during the pause");
                got.text("payload").to_owned()
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

// ---------------------------------------------------------------------------------------------
// Whole databases
// ---------------------------------------------------------------------------------------------

#[test]
fn flushed_tasks_are_never_delivered_and_new_ones_are() {
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
        client.wait_past(due.max(begin + 400) + 20);
        still_wait(&server, 2);
        assert_eq!(task_info(&mut client, "length"), 0);
        let due = delay(&mut client, "later", 60);
        publish(&mut client, "now", "PRIORITY 5");
        gets(&mut waiters[0], "now");
        on_time(gets(&mut waiters[1], "later").at, due);
        run_all(&mut client, &["FLUSHALL"]);
    }
    // A flushed policy no longer applies.
    policy(&mut client, "PAUSED 1");
    let mut waiter = waiter(&server, "c");
    publish(&mut client, "p", "");
    still_wait(&server, 1);
    assert_eq!(client.run("FLUSHALL"), ok());
    publish(&mut client, "r", "");
    gets(&mut waiter, "r");
}

#[test]
fn delayed_tasks_and_leases_move_with_a_swapped_database() {
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
    // Nobody waits in their database until it is swapped back.
    assert_eq!(holders(&mut five, "q"), ["five"]);
    let mut waiter = waiter(&server, "c");
    policy(&mut five, "LEASE 100");
    assert_eq!(zero.run("SWAPDB 0 5"), ok());
    assert_eq!(gets(&mut waiter, "zero").deliveries, 2);
}

#[test]
fn queues_of_the_same_name_in_two_databases_are_independent() {
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
        let got = gets(&mut waiters[index], &format!("leased-{lease}"));
        on_time(got.at, begin + lease);
        assert_eq!(clients[index].run(format!("TASK.ACK q g {}", got.id)), int(1));
    }
}

#[test]
fn waiting_consumers_and_their_timers_survive_a_reload() {
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
        let got = gets(&mut waiters[1], "leased");
        on_time(got.at, begin + LEASE);
        assert_eq!(got.deliveries, 2);
        run_all(&mut client, &["FLUSHALL"]);
    }
}

#[test]
fn reloaded_tasks_go_to_waiting_consumers() {
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
        let got = gets(&mut waiters[1], "due");
        assert!(got.at >= due, "{reload}: {} ms early", due - got.at);
    }
}

#[test]
fn tasks_that_become_due_while_writes_are_refused_come_afterwards() {
    let server = Checked::start();
    let mut client = server.client();
    for (refuse, allow) in
        [("maxmemory 1", "maxmemory 0"), ("min-replicas-to-write 1", "min-replicas-to-write 0")]
    {
        policy(&mut client, "LEASE 2000");
        publish(&mut client, "leased", "");
        let (_, begin) = worker_dies(&server);
        let mut waiters = line(&server, 2);
        let due = delay(&mut client, "due", 150);
        assert_eq!(client.run(format!("CONFIG SET {refuse}")), ok());
        client.wait_past(due.max(begin + 2000) + 50);
        is_idle(&server);
        assert_eq!(client.run(format!("CONFIG SET {allow}")), ok());
        assert_eq!(payloads_of(&mut waiters), ["due", "leased"], "{refuse}");
        assert_eq!(client.run("FLUSHALL"), ok());
    }
}
