//! Leases that end when the connection of their client closes (`TIED`), in each of the three families:
//! whatever ends the connection, the next client in line gets what was leased, once; nothing of another
//! client is taken away; and what is tied to no connection any more ends by its time only.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::*;

use std::collections::BTreeSet;
use std::process::Command as Process;
use std::time::Duration;

/// What clients lease with TIED, in one family.
struct Scene<'a> {
    family: &'static Family,
    server: &'a Server,
    /// A connection that leases nothing.
    control: Client,
    /// The number of the first client of this round.
    first: usize,
}

impl<'a> Scene<'a> {
    /// A scene for each family, one after the other.
    fn of_each_family(server: &'a Server) -> impl Iterator<Item = Self> {
        FAMILIES.each_ref().into_iter().map(move |family| {
            let mut scene = Self { family, server, control: server.client(), first: 0 };
            scene.renew();
            scene
        })
    }

    /// Begins anew with one thing to lease, which nobody has.
    #[track_caller]
    fn renew(&mut self) {
        run_all(&mut self.control, &["FLUSHALL"]);
        if self.family.name == "task" {
            run_all(&mut self.control, &["TASK.PUBLISH q p"]);
        }
        self.first += 1000;
    }

    /// The request of client `number` that does not wait.
    fn request(&self, number: usize) -> String {
        (self.family.request)(self.first + number)
    }

    fn tied(&self, number: usize) -> String {
        format!("{} TIED", self.request(number))
    }

    /// Client `number` leases it.
    #[track_caller]
    fn take(&self, client: &mut Client, number: usize) {
        self.family.assert_served(&client.run(self.tied(number)));
    }

    /// A new connection that has leased it as client 0.
    #[track_caller]
    fn holder(&self) -> Client {
        let mut client = self.server.client();
        self.take(&mut client, 0);
        client
    }

    /// A new connection that waits as client `number`.
    #[track_caller]
    fn waiter(&mut self, number: usize) -> Client {
        let mut client = self.server.client();
        let command = format!("{} BLOCK 0", self.tied(number));
        send_and_wait(&mut self.control, self.family.name, &mut client, &command);
        client
    }

    /// A command by which another connection renews the lease of client 0.
    #[track_caller]
    fn extend(&mut self) -> String {
        match self.family.name {
            "cache" => {
                let token = info_of(&mut self.control, "k", "token").as_int();
                format!("CACHE.EXTEND k {token} 600000")
            }
            "lock" => format!("LOCK.EXTEND job w{} 600000", self.first),
            _ => {
                let lease = self.control.leases("q", "g").remove(0);
                format!("TASK.EXTEND q g {} {}", lease.consumer, lease.id)
            }
        }
    }

    /// The lease of client 0 ends, and another client leases it.
    #[track_caller]
    fn pass_on(&mut self, other: &mut Client, request: &str) {
        let (lose, then) = match self.family.name {
            "cache" => ("CACHE.INVALIDATE k", "PING"),
            "lock" => ("DEL lock:{job}", "PING"),
            _ => ("TASK.POLICY q LEASE 1", "TASK.POLICY q LEASE 300000"),
        };
        run_all(&mut self.control, &[lose]);
        self.control.wait_ms(3);
        // In one write, so that no time passes in between.
        self.family.assert_served(&other.pipeline(&[request, then])[0]);
    }

    /// Whether somebody has it.
    #[track_caller]
    fn is_leased(&mut self) -> bool {
        match self.family.name {
            "cache" => info_of(&mut self.control, "k", "state") == bulk("loading"),
            "lock" => self.control.run("EXISTS lock:{job}") == int(1),
            _ => {
                let leased = self.control.run("XPENDING q g - + 10");
                let expired = self.control.run("XPENDING q g IDLE 300000 - + 10");
                // Before the first delivery there is no group.
                !leased.is_error() && leased.items().len() > expired.items().len()
            }
        }
    }

    #[track_caller]
    fn number(&mut self, of: &str) -> i64 {
        let field = format!("corral_{}_{of}", self.family.name);
        self.control.info("corral", &field).expect(&field).parse().expect("a number")
    }

    #[track_caller]
    fn wait_free(&mut self) {
        let what = format!("{}: the lease ends", self.family.name);
        eventually(SOON, &what, || !self.is_leased());
    }

    /// Waits until the server has noticed the end of a connection.
    #[track_caller]
    fn wait_gone(&mut self, id: i64) {
        let list = format!("CLIENT LIST ID {id}");
        let list = || self.control.run(&list).bytes().is_empty();
        eventually(SOON, "the server closes the connection", list);
    }

    /// Closes a connection, after which its leases still run.
    #[track_caller]
    fn close_in_vain(&mut self, mut client: Client) {
        let id = client.id();
        let ended = self.number("disconnected");
        drop(client);
        self.wait_gone(id);
        // The timer has run when this has timed out.
        assert_eq!(self.server.client().run("XREAD BLOCK 20 STREAMS nothing $"), nil_array());
        assert!(self.is_leased(), "{}", self.family.name);
        assert_eq!(self.number("disconnected"), ended);
    }

    /// Closes a connection, after which its lease ends.
    #[track_caller]
    fn close(&mut self, client: Client) {
        let ended = self.number("disconnected");
        assert!(self.is_leased(), "{}", self.family.name);
        drop(client);
        self.wait_free();
        assert_eq!(self.number("disconnected"), ended + 1);
        assert_eq!(self.number("ties"), 0);
    }
}

// --- How a connection ends

#[test]
fn when_a_process_is_killed_the_next_client_in_line_gets_its_lease() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf '{}\\r\\n' >&3; exec sleep 1000",
            server.port(),
            scene.tied(0),
        );
        let mut process = Process::new("bash");
        process.args(["-c", &script]);
        let mut process = spawn(process).expect("bash runs");
        eventually(SOON, "the process has the lease", || scene.is_leased());
        assert_eq!(scene.number("ties"), 1);
        let (mut second, mut third) = (scene.waiter(1), scene.waiter(2));
        process.kill().expect("kill -9");
        process.wait().expect("it ends");
        scene.family.assert_served(&second.read());
        assert_eq!(scene.number("disconnected"), 1);
        // The lease of a client that waited is tied as well.
        drop(second);
        scene.family.assert_served(&third.read());
        assert_eq!((scene.number("disconnected"), scene.number("ties")), (2, 1));
        scene.close(third);
    }
}

/// Ends a connection from the side of the client or from the side of the server.
type End = fn(&mut Client, Client);

fn close(_: &mut Client, client: Client) {
    drop(client);
}

fn reset(_: &mut Client, mut client: Client) {
    // Closing a socket with unread data resets the connection.
    client.send("PING");
    client.end_requests();
}

fn half_close(control: &mut Client, mut client: Client) {
    let id = client.id();
    client.end_requests();
    let list = format!("CLIENT LIST ID {id}");
    eventually(SOON, "it is closed", || control.run(&list).bytes().is_empty());
}

fn quit(_: &mut Client, mut client: Client) {
    client.send("QUIT");
    assert_eq!(client.read(), ok());
    assert_eq!(client.try_read(SOON), Err(Silence::Closed));
}

fn violate_the_protocol(_: &mut Client, mut client: Client) {
    client.send_raw("*1\r\nnonsense\r\n");
    assert!(client.read().is_error_with("ERR Protocol error"));
    assert_eq!(client.try_read(SOON), Err(Silence::Closed));
}

fn kill(control: &mut Client, mut client: Client) {
    let kill = format!("CLIENT KILL ID {}", client.id());
    assert_eq!(control.run(kill), int(1));
    assert_eq!(client.try_read(SOON), Err(Silence::Closed));
}

fn kill_itself(_: &mut Client, mut client: Client) {
    let kill = format!("CLIENT KILL ID {} SKIPME no", client.id());
    assert_eq!(client.run(kill), int(1));
    assert_eq!(client.try_read(SOON), Err(Silence::Closed));
}

fn lose_the_user(control: &mut Client, mut client: Client) {
    assert_eq!(control.run("ACL SETUSER fleeting on nopass ~* &* +@all"), ok());
    assert_eq!(client.run("AUTH fleeting any"), ok());
    assert_eq!(control.run("ACL DELUSER fleeting"), int(1));
    assert_eq!(client.try_read(SOON), Err(Silence::Closed));
}

fn overflow_the_output(control: &mut Client, mut client: Client) {
    let limit = "CONFIG SET client-output-buffer-limit";
    let limit = |to: &str| args![&limit[..6], &limit[7..10], &limit[11..], to];
    assert_eq!(control.cmd(&limit("normal 1000000 0 0")), ok());
    assert_eq!(control.cmd(&args!["SET", "{k}long", vec![b'x'; 400_000]]), ok());
    let id = client.id();
    let list = format!("CLIENT LIST ID {id}");
    // It does not read what it asks for.
    eventually(SOON, "it is closed", || {
        let _ = client.try_send_raw(&b"GET {k}long\r\n".repeat(20));
        control.run(&list).bytes().is_empty()
    });
    assert_eq!(control.cmd(&limit("normal 0 0 0")), ok());
}

fn take_too_much_memory(control: &mut Client, mut client: Client) {
    let id = client.id();
    let list = format!("CLIENT LIST ID {id}");
    assert_eq!(control.run("CLIENT NO-EVICT on"), ok());
    assert_eq!(control.run("CONFIG SET maxmemory-clients 3mb"), ok());
    // A command that never ends fills the input buffer.
    client.send_raw("*2\r\n$4\r\nPING\r\n$100000000\r\n");
    eventually(SOON, "it is evicted", || {
        let _ = client.try_send_raw(&[b'x'; 200_000]);
        control.run(&list).bytes().is_empty()
    });
    assert_eq!(control.run("CONFIG SET maxmemory-clients 0"), ok());
}

fn idle_too_long(control: &mut Client, mut client: Client) {
    assert_eq!(control.run("CONFIG SET timeout 2"), ok());
    assert_eq!(client.run("PING"), simple("PONG"));
    eventually(SOON, "the server closes it", || {
        assert_eq!(control.run("PING"), simple("PONG"));
        client.is_closed()
    });
    assert_eq!(control.run("CONFIG SET timeout 0"), ok());
}

#[test]
fn however_a_connection_ends_its_lease_ends() {
    let ends: [(&str, End); 11] = [
        ("closed", close),
        ("reset", reset),
        ("half closed", half_close),
        ("QUIT", quit),
        ("protocol error", violate_the_protocol),
        ("CLIENT KILL", kill),
        ("CLIENT KILL of itself", kill_itself),
        ("ACL DELUSER", lose_the_user),
        ("output buffer", overflow_the_output),
        ("maxmemory-clients", take_too_much_memory),
        ("timeout", idle_too_long),
    ];
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        for (count, (how, end)) in (1..).zip(ends) {
            scene.renew();
            let holder = scene.holder();
            end(&mut scene.control, holder);
            eventually(SOON, &format!("{}, {how}", scene.family.name), || !scene.is_leased());
            assert_eq!((scene.number("disconnected"), scene.number("ties")), (count, 0), "{how}");
        }
    }
}

#[test]
fn a_peer_that_vanishes_keeps_its_lease_until_keepalive_notices() {
    let server = Checked::start();
    let mut control = server.client();
    assert_eq!(control.run("CONFIG SET tcp-keepalive 1"), ok());
    for mut scene in Scene::of_each_family(&server) {
        let mut holder = scene.holder();
        let id = holder.id();
        match holder.vanish() {
            Ok(()) => scene.wait_free(),
            Err(mut silent) => {
                // Without the permission for that: a client that only says nothing is still there.
                let probes = format!("XREAD BLOCK 2500 STREAMS nothing{id} $");
                assert_eq!(scene.server.client().run(probes), nil_array());
                assert!(scene.is_leased());
                assert_eq!(silent.run("PING"), simple("PONG"));
                scene.close(silent);
            }
        }
        assert_eq!(scene.number("disconnected"), 1);
    }
}

#[test]
fn a_lease_ends_with_its_connection_with_threads_for_io() {
    let server = Checked::new(Server::builder().arg("--io-threads").arg("2").start());
    for mut scene in Scene::of_each_family(&server) {
        for count in 1..=30 {
            scene.renew();
            let mut holder = scene.holder();
            let mut next = scene.waiter(1);
            if count % 2 == 0 {
                drop(holder);
            } else {
                let kill = format!("CLIENT KILL ID {}", holder.id());
                assert_eq!(scene.control.run(kill), int(1));
            }
            scene.family.assert_served(&next.read());
            assert_eq!(scene.number("ties"), 1);
            scene.close(next);
        }
        assert_eq!(scene.number("disconnected"), 60);
    }
}

// --- Whose lease it is

#[test]
fn a_lease_without_the_option_outlives_its_connection() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        let mut holder = server.client();
        scene.family.assert_served(&holder.run(scene.request(0)));
        assert_eq!(scene.number("ties"), 0);
        scene.close_in_vain(holder);
    }
}

#[test]
fn what_a_client_does_with_its_connection_keeps_the_tie() {
    let server = Checked::start();
    let mut control = server.client();
    run_all(&mut control, &["ACL SETUSER other on nopass ~* &* +@all"]);
    for mut scene in Scene::of_each_family(&server) {
        let mut holder = scene.holder();
        let changes = ["SELECT 3", "AUTH other any", "HELLO 2", "RESET", "CLIENT SETNAME x"];
        for change in changes {
            assert!(!holder.run(change).is_error(), "{change}");
            assert_eq!(scene.number("ties"), 1, "{change}");
        }
        assert!(matches!(holder.run("HELLO 3"), Value::Map(_)));
        assert!(!holder.run("SUBSCRIBE channel").is_error());
        scene.close(holder);
    }
}

#[test]
fn another_connection_may_renew_the_lease_which_stays_tied() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        let holder = scene.holder();
        let (extend, mut other) = (scene.extend(), server.client());
        assert_eq!(other.run(extend), int(1));
        scene.close_in_vain(other);
        assert_eq!(scene.number("ties"), 1);
        scene.close(holder);
    }
}

#[test]
fn in_a_transaction_a_lease_is_tied_to_the_connection() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        let mut holder = server.client();
        let wait = format!("{} BLOCK 0", scene.tied(0));
        scene.family.assert_served(&in_transaction(&mut holder, &[wait])[0]);
        assert_eq!(scene.number("ties"), 1);
        scene.close(holder);
        // It is killed before it gets the lease, and closed after it.
        scene.renew();
        let mut holder = server.client();
        let commands = [format!("CLIENT KILL ID {} SKIPME no", holder.id()), scene.tied(1)];
        let lines: Vec<_> =
            ["MULTI", &commands[0], &commands[1], "EXEC"].map(str::to_owned).to_vec();
        lines.iter().for_each(|line| holder.send(line));
        while holder.try_read(SOON).is_ok() {}
        scene.wait_free();
        assert_eq!((scene.number("disconnected"), scene.number("ties")), (2, 0));
    }
}

#[test]
fn a_script_has_no_connection_and_changes_nothing() {
    const ERROR: &str = "ERR TIED needs a connection";
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        let name = scene.family.name;
        let words: Vec<_> = scene.tied(0).split(' ').map(|word| format!("'{word}'")).collect();
        let call = format!("return redis.call({})", words.join(","));
        let function = format!("redis.register_function('{name}', function() {call} end)");
        let library = format!("#!lua name={name}\n{function}");
        let (key, control) = (scene.family.key, &mut scene.control);
        assert_eq!(control.cmd(&args!["FUNCTION", "LOAD", library]), bulk(name));
        let before = control.run("DEBUG DIGEST");
        for call in [args!["EVAL", call, 1, key], args!["FCALL", name, 1, key]] {
            let reply = control.cmd(&call);
            assert!(reply.is_error_with(ERROR), "{reply:?}");
        }
        assert_eq!(control.run("DEBUG DIGEST"), before);
        assert_eq!((scene.number("ties"), scene.number("waiters")), (0, 0));
        assert!(!scene.is_leased());
    }
}

#[test]
fn when_another_client_has_it_meanwhile_that_client_keeps_it() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        for tied in [false, true] {
            scene.renew();
            let holder = scene.holder();
            let mut other = server.client();
            let request = if tied { scene.tied(1) } else { scene.request(1) };
            scene.pass_on(&mut other, &request);
            scene.close_in_vain(holder);
            assert_eq!(scene.number("ties"), i64::from(tied));
            if tied {
                scene.close(other);
            } else {
                scene.close_in_vain(other);
            }
        }
    }
}

#[test]
fn a_client_that_is_served_and_killed_at_once_leaves_it_to_the_next() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        for round in 0..20 {
            scene.renew();
            let holder = scene.holder();
            let (mut second, mut third) = (scene.waiter(1), scene.waiter(2));
            let kill = format!("CLIENT KILL ID {}", {
                let port = second.local_port();
                ids_by_port(&mut scene.control)[&port].clone()
            });
            if round % 2 == 0 {
                // Waiting, it is killed before the lease ends.
                assert_eq!(scene.control.run(kill), int(1));
                drop(holder);
            } else {
                drop(holder);
                scene.family.assert_served(&second.read());
                assert_eq!(scene.control.run(kill), int(1));
            }
            scene.family.assert_served(&third.read());
            assert_eq!(scene.number("ties"), 1, "round {round}");
            scene.close(third);
        }
    }
}

// --- Many

/// Leases `count` things with one connection.
#[track_caller]
fn take_many(scene: &mut Scene<'_>, client: &mut Client, count: usize) {
    match scene.family.name {
        "task" => {
            let publish = vec!["TASK.PUBLISH many p"; count];
            assert_eq!(scene.control.pipeline(&publish).len(), count);
            let taken = client.run(format!("TASK.CONSUME g c many {count} TIED"));
            assert_eq!(taken.task_ids().len(), count);
        }
        name => {
            let take = |number: usize| match name {
                "lock" => format!("LOCK.ACQUIRE many{number} c 600000 TIED"),
                _ => format!("CACHE.FETCH many{number} 600000 TIED"),
            };
            let lines: Vec<_> = (0..count).map(take).collect();
            for lines in lines.chunks(500) {
                let replies = client.pipeline(lines);
                assert!(replies.iter().all(|reply| scene.family.is_served(reply)));
            }
        }
    }
    assert_eq!(scene.number("ties"), count as i64);
}

/// How many of them are still leased.
#[track_caller]
fn leased_of_many(scene: &mut Scene<'_>) -> usize {
    match scene.family.name {
        "task" => {
            let all = scene.control.run("XPENDING many g - + 100000").items().len();
            all - scene.control.run("XPENDING many g IDLE 300000 - + 100000").items().len()
        }
        "lock" => scene.control.run("KEYS lock:*").items().len(),
        _ => scene.control.run("KEYS cachelock:*").items().len(),
    }
}

#[test]
fn ten_thousand_leases_of_one_connection_end_step_by_step() {
    const COUNT: usize = 10_000;
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        run_all(&mut scene.control, &["FLUSHALL"]);
        let mut holder = server.client();
        take_many(&mut scene, &mut holder, COUNT);
        assert_eq!(leased_of_many(&mut scene), COUNT);
        drop(holder);
        let mut seen = BTreeSet::new();
        eventually(SOON, "all of them end", || {
            let ended = scene.number("disconnected");
            seen.insert(ended);
            ended == COUNT as i64
        });
        // The server attends to this client between two steps, each of which ends at most 128.
        let between: Vec<_> = seen.into_iter().filter(|ended| *ended % 10_000 != 0).collect();
        assert!(between.len() > 5, "{}: {between:?}", scene.family.name);
        assert!(between.iter().all(|ended| ended % 128 == 0), "{between:?}");
        assert_eq!((scene.number("ties"), leased_of_many(&mut scene)), (0, 0));
    }
}

#[test]
fn when_a_thousand_connections_end_at_once_each_lease_ends_once() {
    const COUNT: usize = 1000;
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        run_all(&mut scene.control, &["FLUSHALL"]);
        if scene.family.name == "task" {
            let publish = vec!["TASK.PUBLISH many p"; COUNT];
            scene.control.pipeline(&publish);
        }
        let mut clients = server.clients(COUNT);
        for (number, client) in clients.iter_mut().enumerate() {
            let take = match scene.family.name {
                "task" => format!("TASK.CONSUME g c{number} many TIED"),
                "lock" => format!("LOCK.ACQUIRE many{number} c 600000 TIED"),
                _ => format!("CACHE.FETCH many{number} 600000 TIED"),
            };
            scene.family.assert_served(&client.run(take));
        }
        let mut bystander = server.client();
        // Half of them while the server is stopped, so that it finds all of that at once.
        let others = clients.split_off(COUNT / 2);
        let ports: Vec<_> = clients.iter().map(Client::local_port).collect();
        server.pause();
        drop(clients);
        wait_ended(&server, &ports);
        server.resume();
        drop(others);
        eventually(SOON, "all of them end", || {
            assert_eq!(bystander.run("PING"), simple("PONG"));
            scene.number("disconnected") == COUNT as i64
        });
        assert_eq!((scene.number("ties"), leased_of_many(&mut scene)), (0, 0));
        if scene.family.name == "task" {
            // Each is delivered once more.
            let again = scene.control.consume("g", "c", "many", 2 * COUNT as i64);
            assert_eq!(again.len(), COUNT);
            assert!(again.iter().all(|task| task.deliveries == 2));
        }
    }
}

#[test]
fn ties_go_with_the_leases_that_end_otherwise() {
    let server = Checked::start();
    let mut holder = server.client();
    for mut scene in Scene::of_each_family(&server) {
        // They are renewed, finished, or end by their time.
        let name = scene.family.name;
        let mut tokens = Vec::new();
        for number in 0..300 {
            let command = match name {
                "lock" => format!(
                    "LOCK.ACQUIRE l{number} c {} TIED",
                    if number < 100 { 600_000 } else { 1 }
                ),
                "cache" => {
                    format!("CACHE.FETCH l{number} {} TIED", if number < 100 { 600_000 } else { 1 })
                }
                _ => {
                    run_all(&mut scene.control, &["TASK.PUBLISH tasks p"]);
                    "TASK.CONSUME g c tasks TIED META".to_owned()
                }
            };
            tokens.push(holder.run(command));
        }
        match name {
            "lock" => (0..100).for_each(|number| {
                assert_eq!(scene.control.run(format!("LOCK.RELEASE l{number} c")), int(1));
            }),
            "cache" => (0..100).for_each(|number| {
                let token = tokens[number].items()[2].as_int();
                let end = match number % 4 {
                    0 => format!("CACHE.SET l{number} v 60000 TOKEN {token}"),
                    1 => format!("CACHE.SET l{number} v 60000"),
                    2 => format!("CACHE.FAIL l{number} {token} BACKOFF 60000"),
                    _ => format!("CACHE.INVALIDATE l{number}"),
                };
                assert!(!scene.control.run(end).is_error());
            }),
            _ => {
                let ids = scene.control.leased_ids("tasks", "g");
                assert_eq!(ids.len(), 300);
                for (number, id) in ids.iter().enumerate() {
                    let end = match number % 4 {
                        0 => format!("TASK.ACK tasks g {id}"),
                        1 => format!("TASK.NACK tasks g c FAIL {id}"),
                        2 => format!("TASK.RETRY tasks {id} p 0 other dead 3"),
                        // No event says this. The tie ends when the lease would have.
                        _ => format!("XACK tasks g {id}"),
                    };
                    assert!(!scene.control.run(end).is_error());
                }
                assert_eq!(scene.number("ties"), 75);
                run_all(&mut scene.control, &["TASK.POLICY tasks LEASE 1"]);
                // Those ties last as long as the lease did when they were made.
                run_all(&mut scene.control, &["FLUSHALL"]);
            }
        }
        let what = format!("{name}: no tie is left");
        eventually(SOON, &what, || scene.number("ties") == 0);
        assert_eq!(scene.number("disconnected"), 0);
    }
}

// --- The server changes

#[test]
fn while_writes_are_paused_leases_stand_and_end_afterwards() {
    // A write during the pause would stop a server that logs every write.
    let server = Checked::new(Server::builder().aof(true).start());
    for mut scene in Scene::of_each_family(&server) {
        for paused in ["WRITE", "ALL"] {
            scene.renew();
            let mut holder = scene.holder();
            let (id, mut next) = (holder.id(), scene.waiter(1));
            let before = scene.number("disconnected");
            // A pause of all clients cannot be ended.
            let ms = if paused == "ALL" { 300 } else { 600_000 };
            assert_eq!(scene.control.run(format!("CLIENT PAUSE {ms} {paused}")), ok());
            drop(holder);
            if paused == "WRITE" {
                scene.wait_gone(id);
                assert!(scene.is_leased());
                assert_eq!((scene.number("disconnected"), scene.number("ties")), (before, 1));
                assert_eq!(scene.control.run("CLIENT UNPAUSE"), ok());
            }
            scene.family.assert_served(&next.read());
            assert_eq!(scene.number("disconnected"), before + 1);
            scene.close(next);
        }
    }
}

#[test]
fn on_a_replica_nothing_is_tied_and_nothing_is_written() {
    let server = Checked::start();
    for mut scene in Scene::of_each_family(&server) {
        for closes_first in [false, true] {
            scene.renew();
            let holder = scene.holder();
            let before = scene.control.run("DEBUG DIGEST");
            if closes_first {
                // Both reach the server at once.
                let port = [holder.local_port()];
                scene.control.send("PING");
                server.pause();
                drop(holder);
                wait_ended(&server, &port);
                scene.control.send(NO_MASTER);
                server.resume();
                scene.control.read();
                scene.control.read();
            } else {
                assert_eq!(scene.control.run(NO_MASTER), ok());
                assert_eq!(scene.number("ties"), 0);
                drop(holder);
            }
            assert_eq!(server.client().run("XREAD BLOCK 30 STREAMS nothing $"), nil_array());
            let after = scene.control.run("DEBUG DIGEST");
            if !closes_first {
                assert_eq!(after, before, "{}", scene.family.name);
            }
            assert_eq!(scene.number("ties"), 0);
            assert_eq!(scene.control.run("REPLICAOF NO ONE"), ok());
            if !closes_first && scene.family.name != "cache" {
                assert!(scene.is_leased());
            }
        }
    }
}

#[test]
fn ties_do_not_outlive_their_data() {
    let mut server = Server::builder().aof(true).start();
    for drop_data in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "DEBUG RELOAD"] {
        for mut scene in Scene::of_each_family(&server) {
            let mut other = server.client();
            let holder = scene.holder();
            run_all(&mut scene.control, &[drop_data]);
            assert_eq!(scene.number("ties"), 0, "{drop_data}");
            // The same lease of another client, which comes after that.
            run_all(&mut scene.control, &["FLUSHALL"]);
            scene.renew();
            scene.family.assert_served(&other.run(scene.request(0)));
            scene.close_in_vain(holder);
        }
    }
    // Another database keeps its ties.
    for mut scene in Scene::of_each_family(&server) {
        let holder = scene.holder();
        run_all(&mut server.client_in(3), &["FLUSHDB", "SWAPDB 3 4"]);
        assert_eq!(scene.number("ties"), 1);
        scene.close(holder);
    }
    // A new process knows no connection of the old one.
    run_all(&mut server.client(), &["FLUSHALL"]);
    let holders = FAMILIES.each_ref().map(|family| {
        let mut holder = server.client();
        run_all(&mut holder, &["TASK.PUBLISH q p"]);
        family.assert_served(&holder.run(format!("{} TIED", (family.request)(0))));
        holder
    });
    server.kill9();
    server.restart();
    drop(holders);
    let mut control = server.client();
    assert_eq!(control.run("EXISTS lock:{job} cachelock:{k}"), int(2));
    assert_eq!(control.run("XPENDING q g - + 10").items().len(), 1);
}

#[test]
fn the_module_can_be_unloaded_while_leases_are_tied() {
    let server = Server::start();
    let mut holders = Vec::new();
    for _ in 0..3 {
        for scene in Scene::of_each_family(&server) {
            holders.push(scene.holder());
        }
        let mut control = server.client();
        assert_eq!(control.run("MODULE UNLOAD corral"), ok());
        // The server no longer reports disconnects to it.
        holders.clear();
        for _ in 0..20 {
            server.client().id();
        }
        let load = args!["MODULE", "LOAD", module_path().to_str().expect("a path")];
        assert_eq!(control.cmd(&load), ok());
        assert_eq!(control.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_log_of_ended_leases_holds_plain_commands_only() {
    let mut server = Server::builder().aof(true).start();
    for lease in ["300000", "0"] {
        for mut scene in Scene::of_each_family(&server) {
            run_all(&mut scene.control, &[format!("TASK.POLICY q LEASE {lease}")]);
            let holder = scene.holder();
            let mut next = scene.waiter(1);
            drop(holder);
            scene.family.assert_served(&next.read());
            let ended = scene.number("disconnected");
            drop(next);
            eventually(SOON, "the lease ends", || scene.number("disconnected") == ended + 1);
        }
    }
    for command in aof_commands(&server) {
        assert!(!command.name().contains('.'), "{}", command.text());
        let text = command.text();
        assert!(!text.contains(" IDLE ") && !text.contains("TIED"), "{text}");
    }
    let before = contents(&server);
    server.stop();
    server.restart_without_module();
    assert_eq!(contents(&server), before);
}

// --- One family

#[test]
fn a_shared_holder_leaves_the_lock_to_the_others_when_it_disconnects() {
    let server = Checked::start();
    let mut control = server.client();
    let mut readers = server.clients(3);
    for (number, reader) in readers.iter_mut().enumerate() {
        let acquire = format!("LOCK.ACQUIRE job r{number} 600000 SHARED TIED");
        assert_eq!(reader.run(acquire), int(1));
    }
    let mut writer = server.client();
    let wait = "LOCK.ACQUIRE job w 600000 FENCE BLOCK 0 TIED";
    send_and_wait(&mut control, "lock", &mut writer, wait);
    for left in (0..3).rev() {
        assert_eq!(control.run("ZCARD lock:{job}"), int(left + 1));
        readers.pop();
        if left > 0 {
            eventually(SOON, "a reader leaves", || control.run("ZCARD lock:{job}") == int(left));
            assert_eq!(writer.read_timeout(Duration::ZERO), None);
        }
    }
    assert!(writer.read().as_int() > 1);
    // A change of its mode keeps the tie.
    assert_eq!(control.run("LOCK.EXTEND job w 600000 SHARED"), int(1));
    assert_eq!(control.run("LOCK.EXTEND job w 600000 EXCLUSIVE"), int(1));
    drop(writer);
    eventually(SOON, "the writer leaves", || control.run("EXISTS lock:{job}") == int(0));
}

#[test]
fn an_identifier_is_tied_to_the_connection_that_acquired_it_last() {
    let server = Checked::start();
    let mut control = server.client();
    let held = |control: &mut Client| control.run("EXISTS lock:{job}") == int(1);
    for second in ["FENCE", "FENCE TIED"] {
        let (mut first, mut other) = (server.client(), server.client());
        assert!(first.run("LOCK.ACQUIRE job me 600000 FENCE TIED").as_int() > 1);
        assert!(other.run(format!("LOCK.ACQUIRE job me 600000 {second}")).as_int() > 1);
        let id = first.id();
        drop(first);
        let list = format!("CLIENT LIST ID {id}");
        eventually(SOON, "it is closed", || control.run(&list).bytes().is_empty());
        assert_eq!(server.client().run("XREAD BLOCK 20 STREAMS nothing $"), nil_array());
        assert!(held(&mut control), "{second}");
        drop(other);
        if second.ends_with("TIED") {
            eventually(SOON, "the lock is free", || !held(&mut control));
        } else {
            assert_eq!(server.client().run("XREAD BLOCK 20 STREAMS nothing $"), nil_array());
            assert!(held(&mut control));
            run_all(&mut control, &["LOCK.RELEASE job me"]);
        }
    }
}

#[test]
fn a_lock_of_another_type_is_left_alone() {
    let server = Checked::start();
    let mut control = server.client();
    let mut holder = server.client();
    assert_eq!(holder.run("LOCK.ACQUIRE job me 600000 TIED"), int(1));
    run_all(&mut control, &["DEL lock:{job}", "LPUSH lock:{job} me"]);
    drop(holder);
    let ties = |control: &mut Client| control.info("corral", "corral_lock_ties");
    eventually(SOON, "the tie is dropped", || ties(&mut control).as_deref() == Some("0"));
    assert_eq!(control.run("LLEN lock:{job}"), int(1));
    assert_eq!(control.info("corral", "corral_lock_disconnected").as_deref(), Some("0"));
}

#[test]
fn the_token_of_a_loader_that_disconnected_is_still_good() {
    let server = Checked::start();
    let mut control = server.client();
    for (stale, second) in [(false, false), (false, true), (true, false), (true, true)] {
        run_all(&mut control, &["FLUSHALL"]);
        if stale {
            run_all(&mut control, &["CACHE.SET k old 600000", "CACHE.INVALIDATE k STALE 600000"]);
        }
        let mut loader = server.client();
        let token = loader.run("CACHE.FETCH k 600000 TIED").items()[2].as_int();
        let disconnected = total(&mut control, "disconnected");
        drop(loader);
        eventually(SOON, "the lease ends", || total(&mut control, "disconnected") > disconnected);
        assert_eq!(control.run(format!("CACHE.EXTEND k {token} 1000")), int(0));
        let expired = total(&mut control, "expired_leases");
        let mut next = 0;
        if second {
            let reply = control.run("CACHE.FETCH k 600000");
            assert_eq!(reply.items()[0], simple("LOAD"));
            assert_eq!(reply.items()[1] == bulk("old"), stale, "the stale mark is still there");
            next = reply.items()[2].as_int();
            assert_eq!(total(&mut control, "expired_leases"), expired);
        }
        assert_eq!(control.run(format!("CACHE.SET k first 600000 TOKEN {token}")), ok());
        assert_eq!(control.run("GET k"), bulk("first"));
        if second {
            assert_eq!(control.run(format!("CACHE.SET k second 600000 TOKEN {next}")), ok());
        }
        assert_eq!(control.run(format!("CACHE.SET k late 600000 TOKEN {token}")), nil());
    }
}

#[test]
fn only_a_load_is_tied() {
    let server = Checked::start();
    let mut control = server.client();
    let mut client = server.client();
    run_all(&mut control, &["CACHE.SET hit v 600000", "CACHE.FETCH wait 600000"]);
    run_all(&mut control, &["CACHE.SET stale v 1000", "CACHE.FETCH stale 600000 STALE 600000"]);
    for (fetch, status) in [
        ("CACHE.FETCH hit 600000 TIED", "HIT"),
        ("CACHE.FETCH stale 600000 STALE 600000 TIED", "STALE"),
        ("CACHE.FETCH wait 600000 TIED", "WAIT"),
    ] {
        assert_eq!(client.run(fetch).items()[0], simple(status));
        assert_eq!(total(&mut control, "ties"), 0);
    }
    let mut waiter = server.client();
    send_and_wait(&mut control, "cache", &mut waiter, "CACHE.FETCH wait 600000 BLOCK 0 TIED");
    run_all(&mut control, &["CACHE.SET wait v 600000"]);
    assert_eq!(waiter.read().items()[0], simple("HIT"));
    assert_eq!(total(&mut control, "ties"), 0);
}

/// A connection that has consumed what is there.
#[track_caller]
fn worker(server: &Server, consume: &str, count: usize) -> Client {
    let mut worker = server.client();
    assert_eq!(worker.run(consume).items().len(), count, "{consume}");
    worker
}

#[test]
fn tasks_of_every_priority_and_group_are_delivered_again_when_their_worker_disconnects() {
    let server = Checked::start();
    let mut control = server.client();
    for priority in [0, 0, 1, 9] {
        control.publish_with("q", "p", &format!("PRIORITY {priority}"));
    }
    let workers = ["g", "h"]
        .map(|group| worker(&server, &format!("TASK.CONSUME {group} c q 10 META TIED"), 4));
    // A reclaimed task is tied as well as a new one.
    drop(workers);
    eventually(SOON, "all end", || control.task_total("disconnected") == 8);
    let again = ["g", "h"].map(|group| {
        let worker = worker(&server, &format!("TASK.CONSUME {group} d q 10 META TIED"), 4);
        for lease in control.leases("q", group) {
            assert_eq!((lease.consumer.as_str(), lease.deliveries), ("d", 2));
        }
        worker
    });
    assert_eq!(control.task_total("reclaimed"), 8);
    drop(again);
    eventually(SOON, "all end", || control.task_total("disconnected") == 16);
    for group in ["g", "h"] {
        let tasks = control.consume(group, "e", "q", 10);
        assert_eq!(tasks.len(), 4);
        assert!(tasks.iter().all(|task| task.deliveries == 3));
    }
    assert_eq!(control.info("corral", "corral_task_ties").as_deref(), Some("0"));
}

#[test]
fn a_task_that_kills_its_worker_becomes_a_dead_letter() {
    for (lease, reason) in [(300_000, "lease expired"), (0, "disconnected")] {
        let server = Checked::start();
        let mut control = server.client();
        run_all(&mut control, &[format!("TASK.POLICY q LEASE {lease} TRIES 3")]);
        let id = control.publish("q", "poison");
        for number in 1..=3 {
            drop(worker(&server, "TASK.CONSUME g c q 1 META TIED", 1));
            eventually(SOON, "the lease ends", || control.task_total("disconnected") == number);
        }
        assert_eq!(control.run("TASK.CONSUME g c q"), nil_array());
        let dead = control.only_task_in("dead:{q}");
        let fields = format!("retry_count=3 original_id={id} reason={reason}");
        let fields = fields.replace("lease expired", "lease");
        assert!(dead.fields.contains(&fields), "{dead:?}");
        assert_eq!(control.run("XPENDING q g - + 10").items().len(), 0);
    }
}

#[test]
fn without_leases_a_task_goes_back_to_the_queue_at_once() {
    let server = Checked::start();
    let mut control = server.client();
    run_all(&mut control, &["TASK.POLICY q LEASE 0 BACKOFF 600000 600000"]);
    for priority in [0, 5] {
        let id = control.publish_with("q", "p", &format!("PRIORITY {priority}"));
        let first = worker(&server, "TASK.CONSUME g c q 1 META TIED", 1);
        let mut second = server.client();
        server.wait_with(&mut second, "TASK.CONSUME g d q BLOCK 0 TIED META");
        drop(first);
        let reply = second.read();
        let (copy, fields) = (&reply.items()[0].items()[0], &reply.items()[0].items()[1]);
        let value = |name| {
            let at = fields.items().iter().position(|field| *field == bulk(name));
            fields.items()[at.expect("the field") + 1].clone()
        };
        assert_eq!([value("retry_count"), value("original_id")], [bulk("1"), bulk(&*id)]);
        let id = copy.as_str();
        assert_eq!(second.run(format!("TASK.ACK q g {id}")), int(1));
        assert_eq!(control.run("DBSIZE"), int(2 + i64::from(priority > 0)));
    }
}

#[test]
fn a_paused_queue_delivers_the_task_when_it_goes_on() {
    let server = Checked::start();
    let mut control = server.client();
    control.publish("q", "p");
    let first = worker(&server, "TASK.CONSUME g c q 1 META TIED", 1);
    run_all(&mut control, &["TASK.POLICY q PAUSED 1"]);
    let mut second = server.client();
    server.wait_with(&mut second, "TASK.CONSUME g d q BLOCK 0");
    drop(first);
    eventually(SOON, "the lease ends", || control.task_total("disconnected") == 1);
    assert_eq!(control.run("XPENDING q g IDLE 300000 - + 10").items().len(), 1);
    assert_eq!(second.read_timeout(Duration::ZERO), None);
    run_all(&mut control, &["TASK.POLICY q PAUSED 0"]);
    assert_eq!(second.read().task_payloads(), ["p"]);
}

#[test]
fn what_plain_clients_did_with_a_task_counts() {
    let server = Checked::start();
    let mut control = server.client();
    // What happens, and whether the lease is still the one that was tied.
    for (what, is_tied) in [
        ("XCLAIM q g c 0 {id} JUSTID", true),
        ("XCLAIM q g c 0 {id}", false),
        ("XCLAIM q g other 0 {id} JUSTID", false),
        ("XACK q g {id}", false),
        ("XDEL q {id}", false),
        ("XGROUP DELCONSUMER q g c", false),
        ("XGROUP DESTROY q g", false),
        ("DEL q", false),
    ] {
        run_all(&mut control, &["FLUSHALL"]);
        let before = control.task_total("disconnected");
        let id = control.publish("q", "p");
        let holder = worker(&server, "TASK.CONSUME g c q 1 META TIED", 1);
        run_all(&mut control, &[what.replace("{id}", &id)]);
        drop(holder);
        let ties = |control: &mut Client| control.info("corral", "corral_task_ties");
        eventually(SOON, what, || ties(&mut control).as_deref() == Some("0"));
        let ended = control.task_total("disconnected") - before;
        assert_eq!(ended, i64::from(is_tied || what.starts_with("XDEL")), "{what}");
    }
}

#[test]
fn a_longer_lease_keeps_the_ties_of_running_tasks() {
    let server = Checked::start();
    let mut control = server.client();
    for longer in [600_000, 0] {
        run_all(&mut control, &["FLUSHALL", "TASK.POLICY q LEASE 150"]);
        control.publish("q", "p");
        let before = control.task_total("disconnected");
        let mut holder = server.client();
        // In one write, so that no time passes in between.
        let change = format!("TASK.POLICY q LEASE {longer}");
        let replies = holder.pipeline(&["TASK.CONSUME g c q 1 META TIED", &change]);
        assert_eq!((replies[0].items().len(), &replies[1]), (1, &ok()));
        // The time of the old lease passes, and the server's periodic event looks.
        assert_eq!(server.client().run("XREAD BLOCK 600 STREAMS nothing $"), nil_array());
        assert_eq!(control.info("corral", "corral_task_ties").as_deref(), Some("1"));
        drop(holder);
        eventually(SOON, "it ends", || control.task_total("disconnected") == before + 1);
        assert_eq!(control.consume_payloads("g", "q", 1), ["p"]);
    }
}

#[test]
fn ties_end_with_the_time_of_their_lease_and_those_without_an_end_are_looked_up() {
    let clock = WallClock::new();
    let server = Checked::new(clock.of(Server::builder()).start());
    let mut control = server.client();
    let mut holder = server.client();
    let ties = |control: &mut Client| control.info("corral", "corral_task_ties").expect("a gauge");
    // The first of two tasks is finished by a plain client, which no event reports.
    for (queue, lease) in [("short", 60_000), ("endless", 0)] {
        run_all(&mut control, &[format!("TASK.POLICY {queue} LEASE {lease}")]);
        let ids = ["a", "b"].map(|payload| control.publish(queue, payload));
        let consume = format!("TASK.CONSUME g c {queue} 2 META TIED");
        assert_eq!(holder.run(consume).items().len(), 2);
        assert_eq!(control.run(format!("XACK {queue} g {}", ids[0])), int(1));
    }
    assert_eq!(ties(&mut control), "4");
    clock.ahead(Duration::from_secs(62));
    eventually(SOON, "those of the short leases are dropped", || ties(&mut control) == "2");
    clock.ahead(Duration::from_secs(700));
    eventually(SOON, "that of the finished task is dropped", || ties(&mut control) == "1");
    clock.ahead(Duration::from_secs(2_000));
    // It is looked up again and again, and lasts as long as its lease.
    assert_eq!(server.client().run("XREAD BLOCK 300 STREAMS nothing $"), nil_array());
    assert_eq!(ties(&mut control), "1");
    drop(holder);
    eventually(SOON, "the lease ends", || control.task_total("disconnected") == 1);
    assert_eq!(ties(&mut control), "0");
    assert_eq!(control.consume_payloads("g", "endless", 2), ["b"]);
}
