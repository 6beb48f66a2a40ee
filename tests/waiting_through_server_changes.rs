//! The server changes while clients wait, in each of the three families: it pauses its clients, is
//! demoted, flushes, swaps or reloads its databases, changes permissions, or its clock is set; and a
//! key of another type takes the place of the one that the clients wait for.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::*;

use std::time::{Duration, Instant};

// --- Pauses

/// A server that logs every write: one that is made during a pause would stop it.
fn durable_server() -> Checked {
    Checked::new(Server::builder().aof(true).start())
}

#[test]
fn while_writes_are_paused_nothing_is_handed_over_and_everything_is_afterwards() {
    let server = durable_server();
    for mut line in Line::of_each_family(&server) {
        let mut clients = line.form(2);
        let mut brief = server.client();
        line.wait_with(&mut brief, 2, 400);
        let free_and_pause = [line.free(0), "CLIENT PAUSE 600000 WRITE"];
        in_transaction(&mut line.control, &free_and_pause);
        // Time-outs are looked after during a pause.
        assert_eq!(brief.read(), (line.family.nothing)());
        assert_eq!(line.waiting(), 2, "{}", line.family.name);
        assert_eq!(clients[0].read_timeout(Duration::ZERO), None);
        assert_eq!(line.control.run("CLIENT UNPAUSE"), ok());
        line.assert_served(&mut clients[0]);
        line.serve(1);
        line.assert_served(&mut clients[1]);
    }
}

#[test]
fn clients_may_time_out_and_disconnect_while_all_clients_are_paused() {
    const PAUSE: u32 = 700;
    let server = durable_server();
    for mut line in Line::of_each_family(&server) {
        let leaves = line.join(0);
        let mut next = line.join(1);
        let mut brief = server.client();
        line.wait_with(&mut brief, 2, 400);
        let begin = Instant::now();
        let free_and_pause = [line.free(1).to_owned(), format!("CLIENT PAUSE {PAUSE} ALL")];
        in_transaction(&mut line.control, &free_and_pause);
        drop(leaves);
        assert_eq!(brief.read(), (line.family.nothing)());
        line.family.assert_served(&next.read());
        // The server counts whole milliseconds.
        let paused = Duration::from_millis(u64::from(PAUSE - 1));
        assert!(begin.elapsed() >= paused, "{}: served in the pause", line.family.name);
        line.wait_waiting(0);
    }
}

// --- Replicas

#[test]
fn a_demotion_unblocks_all_clients_and_after_a_promotion_they_can_wait_again() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for _ in 0..3 {
            line.renew();
            let mut clients = line.form(30);
            assert_eq!(line.control.run(NO_MASTER), ok());
            clients.iter_mut().for_each(assert_unblocked);
            assert_eq!(line.waiting(), 0);
            // A replica may still tell what is cached.
            let request = line.wait(31, 0);
            let refused = server.client().run(&request);
            let waits_no_more = line.family.is_nothing(&refused) && line.family.name == "cache";
            assert!(refused.is_error_with("READONLY ") || waits_no_more, "{refused:?}");
            assert_eq!(line.control.run("REPLICAOF NO ONE"), ok());
            line.renew();
            let mut client = line.join(0);
            line.serve(0);
            line.assert_served(&mut client);
        }
    }
}

#[test]
fn nothing_is_written_on_a_replica_for_clients_that_waited_on_the_master() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for _ in 0..3 {
            line.renew();
            let mut clients = line.form(3);
            // It comes free, and the server is a replica before the timer runs.
            let commands = [line.free(0), "DEBUG DIGEST", NO_MASTER];
            let replies = line.control.pipeline(&commands);
            assert_eq!(replies[2], ok());
            clients.iter_mut().for_each(assert_unblocked);
            // A timer that was set has run when this has timed out.
            assert_eq!(server.client().run("XREAD BLOCK 50 STREAMS nothing $"), nil_array());
            assert_eq!(line.control.run("DEBUG DIGEST"), replies[1], "{}", line.family.name);
            assert_eq!(line.control.run("REPLICAOF NO ONE"), ok());
        }
    }
}

#[test]
fn a_demoted_master_becomes_a_faithful_replica() {
    let (server, master) = (Checked::start(), Checked::start());
    let mut lines = Line::of_each_family(&server);
    let mut clients: Vec<_> = lines.iter_mut().flat_map(|line| line.form(10)).collect();
    let free = lines.each_mut().map(|line| line.free(0).to_owned());
    let follow = [format!("REPLICAOF 127.0.0.1 {}", master.port())];
    server.client().pipeline(&[&free[..], &follow].concat());
    clients.iter_mut().for_each(assert_unblocked);
    let in_sync = || {
        wait_in_sync(&master, &server);
        let digest = |server: &Server| server.client().run("DEBUG DIGEST");
        assert_eq!(digest(&server), digest(&master));
    };
    in_sync();
    for mut line in Line::of_each_family(&master) {
        let mut clients = line.form(2);
        line.serve(0);
        line.assert_served(&mut clients[0]);
        line.serve_by_foreigner(1);
        line.assert_served(&mut clients[1]);
        in_sync();
    }
}

// --- Whole databases

#[test]
fn a_line_outlasts_flushes_swaps_and_reloads_of_its_database() {
    let server = durable_server();
    for mut line in Line::of_each_family(&server) {
        for (event, empties) in [
            (&["FLUSHALL"][..], true),
            (&["FLUSHALL ASYNC"], true),
            (&["FLUSHDB"], true),
            (&["FLUSHDB ASYNC"], true),
            (&["MULTI", "FLUSHALL", "EXEC"], true),
            (&["EVAL redis.call('FLUSHALL') 0"], true),
            (&["SWAPDB 0 1"], true),
            (&["SWAPDB 9 0"], true),
            (&["DEBUG RELOAD"], false),
            (&["DEBUG LOADAOF"], false),
        ] {
            line.renew();
            let mut clients = line.form(3);
            run_all(&mut line.control, event);
            let mut next = 0;
            let family = line.family;
            let serves = if empties { family.served_by_flush } else { family.served_by_reload };
            if serves {
                line.assert_served(&mut clients[next]);
                line.went_to(next);
                next += 1;
            }
            let newcomer = line.request(9);
            let reply = line.control.run(newcomer);
            assert_eq!(reply, (line.family.nothing)(), "{event:?}");
            assert_eq!(line.waiting(), 3 - next, "{} {event:?}", line.family.name);
            line.serve(next);
            line.assert_served(&mut clients[next]);
            if next < 2 {
                line.serve_by_foreigner(next + 1);
                line.assert_served(&mut clients[next + 1]);
            }
            drop(clients);
            line.wait_waiting(0);
        }
    }
}

// --- Permissions

const NO_PERMISSION: &str = "NOPERM this user may no longer run this command";

#[test]
fn a_client_that_lost_its_permission_is_refused_and_the_next_one_is_served() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let command = format!("-{}", line.family.command);
        for rule in [&command, "-@all", "resetkeys ~other", "nocommands"] {
            line.renew();
            assert_eq!(line.control.run("ACL SETUSER u on >p ~* +@all"), ok());
            let mut denied = server.client();
            assert_eq!(denied.run("AUTH u p"), ok());
            line.join_with(&mut denied, 1);
            let mut behind = line.join(2);
            assert_eq!(line.control.run(format!("ACL SETUSER u {rule}")), ok());
            line.serve(2);
            assert_eq!(denied.read(), error(NO_PERMISSION), "{rule}");
            line.assert_served(&mut behind);
            // Some servers crash when a module is unloaded whose command a rule names.
            assert_eq!(line.control.run("ACL DELUSER u"), int(1));
        }
    }
}

#[test]
fn a_user_needs_no_permission_beyond_the_command_and_the_key_to_be_served() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let rules = format!("~{} +{}", line.family.key, line.family.command);
        assert_eq!(line.control.run(format!("ACL SETUSER u on >p {rules}")), ok());
        let mut client = server.client();
        assert_eq!(client.run("AUTH u p"), ok());
        line.join_with(&mut client, 1);
        line.serve(1);
        line.family.assert_served(&client.read());
        assert_eq!(line.control.run("ACL DELUSER u"), int(1));
    }
}

// --- Keys of another type

#[test]
fn clients_that_wait_get_wrongtype_when_another_type_takes_the_place_of_their_key() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut clients = line.form(3);
        in_transaction(&mut line.control, line.family.spoil);
        for client in &mut clients {
            assert_eq!(client.read(), error(WRONG_TYPE), "{}", line.family.name);
        }
        let newcomer = line.wait(9, 0);
        assert_eq!(line.control.run(newcomer), error(WRONG_TYPE), "{}", line.family.name);
    }
}

#[test]
fn clients_get_wrongtype_soon_though_the_clock_was_set_back() {
    let clock = WallClock::new();
    for family in &FAMILIES {
        clock.ahead(Duration::ZERO);
        let server = Checked::new(clock.of(Server::builder()).start());
        let mut line = Line::new(&server, family);
        let mut client = line.join(1);
        clock.behind(Duration::from_secs(3600));
        in_transaction(&mut line.control, family.spoil);
        assert_eq!(client.read(), error(WRONG_TYPE), "{}", family.name);
    }
}

// --- The clock

#[test]
fn a_clock_that_is_set_past_the_end_of_a_lease_serves_the_waiters_soon() {
    let clock = WallClock::new();
    let server = Checked::new(clock.of(Server::builder()).start());
    let mut control = server.client();
    let leases = [
        "CACHE.FETCH k 20000",
        "LOCK.ACQUIRE job me 20000",
        "LOCK.ACQUIRE shared me 20000 SHARED",
        "TASK.PUBLISH q p DELAY 20000",
    ];
    run_all(&mut control, &leases);
    let requests = FAMILIES.map(|family| format!("{} BLOCK 0", (family.request)(1)));
    let mut clients = [(); 4].map(|()| server.client());
    for ((client, family), request) in clients.iter_mut().zip(FAMILIES).zip(&requests) {
        send_and_wait(&mut control, family.name, client, request);
    }
    let exclusive = "LOCK.ACQUIRE shared you 600000 BLOCK 0";
    send_and_wait(&mut control, "lock", &mut clients[3], exclusive);

    clock.ahead(Duration::from_secs(60));
    assert_eq!(clients[0].read().items()[0], simple("LOAD"));
    assert_eq!(clients[1].read(), int(1));
    assert_eq!(clients[2].read().task_payloads(), ["p"]);
    assert_eq!(clients[3].read(), int(1));
}

#[test]
fn a_clock_that_is_set_by_an_hour_keeps_nobody_waiting() {
    let hour = Duration::from_secs(3600);
    for ahead in [true, false] {
        let clock = WallClock::new();
        let server = Checked::new(clock.of(Server::builder()).start());
        let mut control = server.client();
        // Leases that outlast the change of the clock.
        run_all(&mut control, &["CACHE.FETCH k 100000000", "LOCK.ACQUIRE job me 100000000"]);
        let mut clients = FAMILIES.map(|family| {
            let mut client = server.client();
            let request = format!("{} BLOCK 0", (family.request)(1));
            send_and_wait(&mut control, family.name, &mut client, &request);
            client
        });
        if ahead {
            clock.ahead(hour);
        } else {
            clock.behind(hour);
        }
        // The server reads the clock now and then, and measures by the old one until then.
        let is_set = |time: Value| (time.unix_ms() - now_ms()).abs() > 1_800_000;
        eventually(SOON, "the server sees the new time", || is_set(control.run("TIME")));

        // An event, a timer, and a look without either.
        let [cache, lock, task] = &mut clients;
        assert_eq!(control.run("DEL lock:{job}"), int(1));
        assert_eq!(lock.read(), int(1));
        control.run("TASK.PUBLISH q p DELAY 50");
        assert_eq!(task.read().task_payloads(), ["p"]);
        assert_eq!(control.run("LPUSH k x"), int(1));
        assert_eq!(cache.read(), error(WRONG_TYPE), "ahead: {ahead}");
    }
}
