//! What outlives the commands of the queue: every move is propagated as one step of plain commands;
//! replicas, with the module or without, and the append-only file hold the same; a crash or a
//! failover in the middle of everything loses no task and does none twice.

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};

const DELAYED: &str = "delayed:{tasks}";
const DEAD: &str = "dead:{tasks}";

/// The key of the stream of a priority.
fn stream(priority: i64) -> String {
    priority_stream("tasks", priority)
}

/// The one task that a consumer of a group is given.
#[track_caller]
fn next(client: &mut Client, group: &str) -> Delivered {
    client.consume_only(group, "c", "tasks")
}

/// An empty server gets one task, leased to `c` of `g`, which is not tried again by itself soon.
#[track_caller]
fn leased(client: &mut Client, priority: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY tasks BACKOFF 600000 600000"), ok());
    let id = client.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
    assert_eq!(client.lease("g", "c", "tasks"), id);
    id
}

/// What was propagated must be one step: a single command, or one transaction. Its commands in an
/// order that does not depend on how the step is made.
#[track_caller]
fn one_step(tap: &mut ReplicationTap) -> Vec<String> {
    let mut effects = tap.effects();
    if effects.len() > 1 {
        assert_eq!(effects.remove(0), "MULTI", "{effects:?}");
        assert_eq!(effects.pop().as_deref(), Some("EXEC"), "{effects:?}");
        assert!(!effects.iter().any(|effect| effect == "MULTI"), "{effects:?}");
    }
    effects.sort();
    effects
}

/// The XADD that made the one entry of a stream.
#[track_caller]
fn xadd(client: &mut Client, key: &str) -> String {
    let entries = client.run(format!("XRANGE {key} - +"));
    let [entry] = entries.items() else { panic!("not one entry in {key}: {entries:?}") };
    let fields: Vec<_> = entry.items()[1].items().iter().map(Value::as_str).collect();
    format!("XADD {key} {} {}", entry.items()[0].as_str(), fields.join(" "))
}

/// The ZADD that made the one delayed task.
#[track_caller]
fn zadd(client: &mut Client) -> String {
    let [(member, due)] = &client.scores(DELAYED)[..] else { panic!("not one") };
    format!("ZADD {DELAYED} NX {due} {member}")
}

#[test]
fn every_move_is_propagated_as_one_step_of_plain_commands() {
    let server = Server::start();
    let (mut c, mut tap) = (server.client(), server.replication_tap());
    // `P` is a priority, for the stream of which these are the commands.
    for priority in [0, 8] {
        let key = stream(priority);
        let (c, tap) = (&mut c, &mut tap);
        let fresh = |c: &mut Client, tap: &mut ReplicationTap| {
            let id = leased(c, priority);
            tap.effects();
            id
        };
        let done = |id: &str| [format!("XACK {key} g {id}"), format!("XDEL {key} {id}")];
        let sorted = |mut commands: Vec<String>| {
            commands.sort();
            commands
        };

        // Published, and once for all.
        assert_eq!(c.run("FLUSHALL"), ok());
        tap.effects();
        c.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
        assert_eq!(one_step(tap), [xadd(c, &key)]);
        assert_eq!(c.run(format!("DEL {key}")), int(1));
        tap.effects();
        let id = c.publish_with("tasks", "p", &format!("PRIORITY {priority} UNIQUE u 600000"));
        let end = c.run("PEXPIRETIME unique5:{tasks}:u").as_int();
        let unique = format!("SET unique5:{{tasks}}:u {id} PXAT {end}");
        assert_eq!(one_step(tap), sorted(vec![unique, xadd(c, &key)]));
        // A duplicate writes the end of the window as it is, so that WAIT waits for the first one.
        assert_eq!(c.publish_with("tasks", "p", "UNIQUE u 5"), id);
        assert_eq!(one_step(tap), [format!("PEXPIREAT unique5:{{tasks}}:u {end}")]);
        c.run("FLUSHALL");
        tap.effects();
        c.publish_with("tasks", "p", &format!("PRIORITY {priority} DELAY 600000"));
        assert_eq!(one_step(tap), [zadd(c)]);

        // Given back.
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[xadd(c, &key)]].concat()));
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK tasks g c FAIL {id} DELAY 600000")), int(1));
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[zadd(c)]].concat()));
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK tasks g c FATAL {id}")), int(2));
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[xadd(c, DEAD)]].concat()));

        // Alive again.
        let letter = c.only_task_in(DEAD).id;
        assert_eq!(c.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
        assert_eq!(one_step(tap), sorted(vec![xadd(c, &key), format!("XDEL {DEAD} {letter}")]));

        // Extended, reclaimed, buried.
        let id = fresh(c, tap);
        let claim = |consumer: &str, count: i64| {
            let options = format!("TIME now RETRYCOUNT {count} FORCE JUSTID LASTID {id}");
            format!("XCLAIM {key} g {consumer} 0 {id} {options}")
        };
        assert_eq!(c.run(format!("TASK.EXTEND tasks g c {id}")), int(1));
        assert_eq!(one_step(tap), [claim("c", 1)]);
        assert_eq!(c.run("TASK.POLICY tasks LEASE 20"), ok());
        assert_eq!(tap.effects(), ["HSET policy:{tasks} lease_ms 20"]);
        eventually(SOON, "it is reclaimed", || !c.consume("g", "d", "tasks", 9).is_empty());
        assert_eq!(one_step(tap), [claim("d", 2)]);
        assert_eq!(c.run("TASK.POLICY tasks TRIES 2"), ok());
        tap.effects();
        eventually(SOON, "it is buried", || {
            assert_eq!(c.consume("g", "d", "tasks", 9), []);
            c.run(format!("XLEN {DEAD}")) == int(1)
        });
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[xadd(c, DEAD)]].concat()));

        // Due, and delivered with it.
        c.run(format!("DEL {DEAD}"));
        let id = c.publish_with("tasks", "p", &format!("PRIORITY {priority} DELAY 1"));
        let member = format!("{id} {priority} 0 - p");
        eventually(SOON, "it is due", || c.time_ms() > id_ms(&id));
        tap.effects();
        let task = next(c, "g").id;
        let options = format!("TIME now RETRYCOUNT 1 FORCE JUSTID LASTID {task}");
        let delivery = format!("XCLAIM {key} g c 0 {task} {options}");
        let moved = vec![xadd(c, &key), format!("ZREM {DELAYED} {member}"), delivery];
        assert_eq!(one_step(tap), sorted(moved));

        // Cancelled: ready and delayed in one call.
        let ready = c.publish_with("tasks", "p", &format!("PRIORITY {priority}"));
        let delayed = c.publish_with("tasks", "p", &format!("PRIORITY {priority} DELAY 600000"));
        tap.effects();
        assert_eq!(c.run(format!("TASK.CANCEL tasks {ready} {delayed}")), int(2));
        let gone =
            [format!("XDEL {key} {ready}"), format!("ZREM {DELAYED} {delayed} {priority} 0 - p")];
        assert_eq!(one_step(tap), sorted(gone.into()));
        assert_eq!(c.run(format!("TASK.ACK tasks g {task}")), int(1));
        assert_eq!(one_step(tap), sorted(done(&task).into()));
    }
}

#[test]
fn copies_for_others_and_misplaced_entries_are_put_right_in_one_step() {
    let server = Server::start();
    let (mut c, mut tap) = (server.client(), server.replication_tap());
    let id = leased(&mut c, 0);
    assert_eq!(next(&mut c, "h").id, id);
    assert_eq!(c.run(format!("TASK.NACK tasks g c SILENT {id}")), int(1));
    let copy = c.ids_in("tasks").remove(1);
    tap.effects();
    assert_eq!(c.consume("h", "c", "tasks", 9), []);
    let names = |effects: &[String]| -> Vec<String> {
        effects.iter().map(|e| e.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    let effects = one_step(&mut tap);
    assert_eq!(names(&effects), ["XACK tasks", "XCLAIM tasks"], "{effects:?}");
    assert!(effects.iter().all(|effect| effect.contains(&copy)), "{effects:?}");

    assert_eq!(c.run("FLUSHALL"), ok());
    assert_eq!(c.run("TASK.CONSUME g c tasks"), nil_array());
    c.run("XADD priority3:{tasks} 5-5 payload p");
    assert_eq!(c.run("XGROUP CREATE priority3:{tasks} g 0"), ok());
    tap.effects();
    assert_eq!(c.consume("g", "c", "tasks", 9).len(), 1);
    let effects = one_step(&mut tap);
    let expected = ["XACK", "XADD", "XCLAIM", "XCLAIM", "XDEL"];
    assert_eq!(names(&effects), expected.map(|name| format!("{name} priority3:{{tasks}}")));
}

/// A mixture of all commands and of what plain clients do, which a few consumers run in turn. What
/// was published and not cancelled is acknowledged exactly once: each payload, and how often.
struct Mixture {
    random: Random,
    published: usize,
    cancelled: BTreeSet<String>,
    acked: BTreeMap<String, usize>,
    /// What consumers have been given: id, payload, consumer.
    held: Vec<(String, String, &'static str)>,
    /// Ids of what was published, with the payloads.
    ids: Vec<(String, String)>,
}

impl Mixture {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            published: 0,
            cancelled: BTreeSet::new(),
            acked: BTreeMap::new(),
            held: Vec::new(),
            ids: Vec::new(),
        }
    }

    #[track_caller]
    fn consume(&mut self, client: &mut Client, consumer: &'static str, count: usize) -> usize {
        let tasks = client.consume("g", consumer, "tasks", i64::try_from(count).unwrap());
        for task in &tasks {
            let payload = task.fields.split(' ').next().unwrap();
            let payload = payload.strip_prefix("payload=").expect("a payload").to_owned();
            self.held.push((task.id.clone(), payload, consumer));
        }
        tasks.len()
    }

    #[track_caller]
    fn ack(&mut self, client: &mut Client, index: usize) {
        let (id, payload, _) = self.held.swap_remove(index);
        if client.run(format!("TASK.ACK tasks g {id}")) == int(1) {
            *self.acked.entry(payload).or_default() += 1;
        }
    }

    /// Publishes a task, or adds one as a plain client does.
    #[track_caller]
    fn publish(&mut self, client: &mut Client) {
        let unique = format!("UNIQUE {} 600000", self.random.below(9));
        let options = [
            "",
            "",
            "1",
            "PRIORITY 3",
            "PRIORITY 9",
            "DELAY 5",
            "DELAY 20 PRIORITY 2",
            &unique,
            "XADD tasks",
            "XADD priority3:{tasks}",
            "ZADD",
        ];
        let options = options[self.random.below(options.len())];
        let payload = format!("task-{}", self.published);
        let reply = match options.split_once(' ') {
            Some(("XADD", key)) => client.run(format!("XADD {key} * payload {payload} own field")),
            _ if options == "ZADD" => {
                client.run(format!("ZADD {DELAYED} {} {payload}", now_ms() + 3))
            }
            _ => client.run(format!("TASK.PUBLISH tasks {payload} {options}")),
        };
        assert!(!reply.is_error(), "{options}: {reply:?}");
        // Within its window it is another task's id.
        if options == unique && self.ids.iter().any(|(id, _)| bulk(id) == reply) {
            return;
        }
        self.published += 1;
        // What plain clients add may have the id of another task.
        if options.starts_with(['X', 'Z']) {
            return;
        }
        self.ids.push((reply.as_str().to_owned(), payload));
    }

    /// One random step.
    #[track_caller]
    fn step(&mut self, client: &mut Client) {
        let consumer = ["one", "two", "three"][self.random.below(3)];
        match self.random.below(20) {
            0..6 => self.publish(client),
            6..11 => {
                let count = 1 + self.random.below(4);
                self.consume(client, consumer, count);
            }
            11..13 if !self.held.is_empty() => {
                let index = self.random.below(self.held.len());
                self.ack(client, index);
            }
            13..17 if !self.held.is_empty() => {
                let index = self.random.below(self.held.len());
                let (id, _, consumer) = self.held.swap_remove(index);
                let nacks = [
                    "SILENT ID",
                    "SILENT ID DELAY 5",
                    "FAIL ID",
                    "FAIL ID DELAY 0",
                    "FAIL ID REASON why",
                    "FATAL ID",
                ];
                let nack = nacks[self.random.below(nacks.len())].replace("ID", &id);
                assert!(!client.run(format!("TASK.NACK tasks g {consumer} {nack}")).is_error());
            }
            17 if !self.held.is_empty() => {
                let (id, _, consumer) = &self.held[self.random.below(self.held.len())];
                assert!(!client.run(format!("TASK.EXTEND tasks g {consumer} {id}")).is_error());
            }
            18 if !self.ids.is_empty() => {
                let (id, payload) = self.ids[self.random.below(self.ids.len())].clone();
                if client.run(format!("TASK.CANCEL tasks {id}")) == int(1) {
                    assert!(self.cancelled.insert(payload), "it was there once");
                }
            }
            19 => {
                let count = 1 + self.random.below(3);
                let redrive = format!("TASK.REDRIVE {DEAD} tasks COUNT {count}");
                assert!(!client.run(redrive).is_error());
                let lease = 5 + self.random.below(40);
                assert_eq!(client.run(format!("TASK.POLICY tasks LEASE {lease}")), ok());
            }
            _ => {}
        }
    }

    /// Works until nothing is left.
    #[track_caller]
    fn drain(&mut self, client: &mut Client) {
        assert_eq!(client.run("TASK.POLICY tasks LEASE 20 TRIES 0"), ok());
        eventually(SOON, "everything is done", || {
            client.run(format!("TASK.REDRIVE {DEAD} tasks"));
            self.consume(client, "last", 100);
            while !self.held.is_empty() {
                self.ack(client, 0);
            }
            let told = client.run("TASK.INFO tasks");
            ["length", "delayed", "dead"].iter().all(|field| told.get(field) == &int(0))
        });
        let wrong = (0..self.published).map(|n| format!("task-{n}")).filter(|payload| {
            let times = self.acked.get(payload).copied().unwrap_or(0);
            times != usize::from(!self.cancelled.contains(payload))
        });
        let wrong: Vec<_> = wrong.map(|payload| (self.acked.get(&payload), payload)).collect();
        assert!(wrong.is_empty(), "not exactly once: {wrong:?}");
        assert!(self.acked.len() > 100 && !self.cancelled.is_empty());
    }
}

/// Two servers hold the same.
#[track_caller]
fn assert_same(one: &Server, other: &Server) {
    let differ: Vec<_> =
        contents(one).into_iter().zip(contents(other)).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(contents(one).len(), contents(other).len());
}

#[test]
fn after_a_mixture_of_everything_replicas_and_a_restart_have_the_same_and_nothing_is_lost() {
    let mut master = Server::builder().aof(true).start();
    let replicas =
        [true, false].map(|module| Server::builder().module(module).replica_of(&master).start());
    let mut client = master.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20 TRIES 3 BACKOFF 0 20"), ok());
    let mut mixture = Mixture::new(7);
    for _ in 0..600 {
        mixture.step(&mut client);
    }
    for server in &replicas {
        wait_in_sync(&master, server);
        assert_same(server, &master);
    }
    let before = contents(&master);
    master.kill9();
    master.restart();
    assert!(contents(&master) == before, "the restart has changed something");
    let mut client = master.client();
    for _ in 0..200 {
        mixture.step(&mut client);
    }
    mixture.drain(&mut client);
    let promoted = &replicas[0];
    wait_in_sync(&master, promoted);
    assert_same(promoted, &master);
    assert_eq!(client.info("corral", "corral_panics").as_deref(), Some("0"));
}

#[test]
fn a_promoted_replica_goes_on_where_the_master_stopped() {
    let mut master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let mut client = master.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 20 TRIES 5 BACKOFF 0 20"), ok());
    let mut mixture = Mixture::new(11);
    for _ in 0..300 {
        mixture.step(&mut client);
    }
    wait_in_sync(&master, &replica);
    assert_same(&replica, &master);
    // A replica moves nothing by itself.
    let mut reader = replica.client();
    for call in [
        "TASK.PUBLISH tasks p DELAY 5",
        "TASK.CONSUME g c tasks COUNT 5 META",
        "TASK.EXTEND tasks g one 1-1",
        "TASK.NACK tasks g one FAIL 1-1",
        "TASK.CANCEL tasks 1-1",
        "TASK.REDRIVE dead:{tasks} tasks",
        "TASK.POLICY tasks LIMIT 5",
    ] {
        assert!(reader.run(call).is_error_with("READONLY "), "{call}");
    }
    assert_same(&replica, &master);
    master.kill9();
    assert_eq!(reader.run("REPLICAOF NO ONE"), ok());
    for _ in 0..200 {
        mixture.step(&mut reader);
    }
    mixture.drain(&mut reader);
}

#[test]
fn wait_behind_a_repeated_unique_publish_waits_for_the_first_one() {
    let master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let (mut first, mut again) = (master.client(), master.client());
    for options in ["", "DELAY 600000", "PRIORITY 3"] {
        assert_eq!(first.run("FLUSHALL"), ok());
        assert_eq!(first.run("WAIT 1 20000"), int(1));
        replica.pause();
        let id = first.publish_with("tasks", "p", &format!("{options} UNIQUE u 600000"));
        // Its reply was lost, and the client asks again on another connection.
        assert_eq!(again.publish_with("tasks", "p", &format!("{options} UNIQUE u 600000")), id);
        assert_eq!(again.run("WAIT 1 20"), int(0), "the replica has not got it");
        replica.resume();
        assert_eq!(again.run("WAIT 1 20000"), int(1));
    }
}

#[test]
fn after_a_crash_every_state_of_a_task_is_there_and_a_full_queue_is_full() {
    let mut server = Server::builder().aof(true).start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY tasks LEASE 60000 LIMIT 5 TRIES 2"), ok());
    let ids = ["PRIORITY 5", "", "UNIQUE u 600000", ""]
        .map(|options| client.publish_with("tasks", "p", options));
    let delayed = client.publish_with("tasks", "p", "DELAY 600000");
    assert_eq!(client.consume("g", "c", "tasks", 2).len(), 2);
    assert_eq!(client.run(format!("TASK.NACK tasks g c FATAL {}", ids[0])), int(2));
    client.publish("tasks", "p");
    // The lease is as old as it was, wherever the server has been meanwhile.
    let old = format!("XCLAIM tasks g c 0 {} IDLE 100000 JUSTID", ids[1]);
    assert_eq!(client.run(old).items().len(), 1);
    let before = contents(&server);
    server.kill9();
    server.restart();
    assert_eq!(contents(&server), before);
    let mut client = server.client();
    assert_eq!(
        client.run("TASK.PUBLISH tasks p"),
        error("TASKFULL the queue holds as many tasks as its policy allows")
    );
    assert_eq!(client.run("TASK.PUBLISH tasks p UNIQUE u 5"), bulk(&ids[2]));
    let got = client.consume("g", "other", "tasks", 1);
    let mut got = if got[0].id == ids[1] { got } else { client.consume("g", "other", "tasks", 1) };
    let task = got.remove(0);
    assert_eq!((&task.id, task.deliveries), (&ids[1], 2), "the lease is over");
    assert!(task.idle >= 100_000, "{}", task.idle);
    assert_eq!(client.run(format!("TASK.CANCEL tasks {delayed}")), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} tasks")), int(1));
    assert_eq!(client.run("XLEN priority5:{tasks}"), int(1));
}
