//! Replication and persistence of the queue: every move replicates as one step of plain commands,
//! replicas and the append-only file hold the same, and a crash loses no task and runs none twice.

mod support;
use support::compare;
use support::consumers::{DEAD, DELAYED, next, stream};
use support::*;

use std::collections::{BTreeMap, BTreeSet};

/// Empties the server, publishes a task and leases it to `c` of `g`. Its back-off is long.
#[track_caller]
fn leased(client: &mut Client, priority: i64) -> String {
    assert_eq!(client.run("FLUSHALL"), ok());
    assert_eq!(client.run("TASK.POLICY q BACKOFF 600000 600000"), ok());
    let id = client.publish_with("q", "p", &format!("PRIORITY {priority}"));
    assert_eq!(client.lease("g", "c", "q"), id);
    id
}

/// Checks that what was replicated is one step, a single command or a transaction, and returns its
/// commands, sorted.
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

/// The XADD that made the only entry of a stream.
#[track_caller]
fn xadd(client: &mut Client, key: &str) -> String {
    let id = client.only_task_in(key).id;
    compare::xadd(client, key, &id)
}

/// The hash of the tasks that have moved.
const MOVED: &str = "taskmoved:{q}";

/// The id of the only delayed task.
#[track_caller]
fn delayed_id(client: &mut Client) -> String {
    let [(member, _)] = &client.scores(DELAYED)[..] else { panic!("not one") };
    member.split([' ', ':']).next().expect("an id").to_owned()
}

/// The ZADD that made the only delayed task.
#[track_caller]
fn zadd(client: &mut Client) -> String {
    let [(member, due)] = &client.scores(DELAYED)[..] else { panic!("not one") };
    format!("ZADD {DELAYED} NX {due} {member}")
}

#[test]
fn every_move_replicates_as_one_step_of_plain_commands() {
    let server = Server::start();
    let (mut c, mut tap) = (server.client(), server.replication_tap());
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

        // Published, and published once.
        assert_eq!(c.run("FLUSHALL"), ok());
        tap.effects();
        c.publish_with("q", "p", &format!("PRIORITY {priority}"));
        assert_eq!(one_step(tap), [xadd(c, &key)]);
        assert_eq!(c.run(format!("DEL {key}")), int(1));
        tap.effects();
        let id = c.publish_with("q", "p", &format!("PRIORITY {priority} UNIQUE u 600000"));
        let end = c.run("PEXPIRETIME unique1:{q}:u").as_int();
        let unique = format!("SET unique1:{{q}}:u {id} PXAT {end}");
        assert_eq!(one_step(tap), sorted(vec![unique, xadd(c, &key)]));
        // A repeated publish writes the end of the window again, so that WAIT waits for the first.
        assert_eq!(c.publish_with("q", "p", "UNIQUE u 5"), id);
        assert_eq!(one_step(tap), [format!("PEXPIREAT unique1:{{q}}:u {end}")]);
        c.run("FLUSHALL");
        tap.effects();
        c.publish_with("q", "p", &format!("PRIORITY {priority} DELAY 600000"));
        assert_eq!(one_step(tap), [zadd(c)]);

        // Returned.
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
        let moved = |id: &str, to: &str| format!("HSET {MOVED} {id} {to}");
        let copy = c.only_task_in(&key).id;
        let here = [xadd(c, &key), moved(&id, &copy)];
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &here].concat()));
        assert_eq!(c.lease("g", "c", "q"), copy);
        tap.effects();
        assert_eq!(c.run(format!("TASK.ACK q g {copy}")), int(1));
        let gone = [format!("HDEL {MOVED} {id}")];
        assert_eq!(one_step(tap), sorted([&done(&copy)[..], &gone].concat()));
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK q g c FAIL {id} DELAY 600000")), int(1));
        let later = [zadd(c), moved(&id, &delayed_id(c))];
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &later].concat()));
        let id = fresh(c, tap);
        assert_eq!(c.run(format!("TASK.NACK q g c FATAL {id}")), int(2));
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[xadd(c, DEAD)]].concat()));

        // Redriven.
        let letter = c.only_task_in(DEAD).id;
        assert_eq!(c.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
        let here = [xadd(c, &key), moved(&id, &c.only_task_in(&key).id)];
        assert_eq!(one_step(tap), sorted([&here[..], &[format!("XDEL {DEAD} {letter}")]].concat()));

        // Extended, reclaimed, dead-lettered.
        let id = fresh(c, tap);
        let claim = |consumer: &str, count: i64| {
            let options = format!("TIME now RETRYCOUNT {count} FORCE JUSTID LASTID {id}");
            format!("XCLAIM {key} g {consumer} 0 {id} {options}")
        };
        assert_eq!(c.run(format!("TASK.EXTEND q g c {id}")), int(1));
        assert_eq!(one_step(tap), [claim("c", 1)]);
        assert_eq!(c.run("TASK.POLICY q LEASE 20"), ok());
        assert_eq!(tap.effects(), ["HSET policy:{q} lease_ms 20"]);
        eventually(SOON, "it is reclaimed", || !c.consume("g", "d", "q", 9).is_empty());
        assert_eq!(one_step(tap), [claim("d", 2)]);
        assert_eq!(c.run("TASK.POLICY q TRIES 2"), ok());
        tap.effects();
        eventually(SOON, "it is a dead letter", || {
            assert_eq!(c.consume("g", "d", "q", 9), []);
            c.run(format!("XLEN {DEAD}")) == int(1)
        });
        assert_eq!(one_step(tap), sorted([&done(&id)[..], &[xadd(c, DEAD)]].concat()));

        // Due and delivered in one step.
        c.run(format!("DEL {DEAD}"));
        let id = c.publish_with("q", "p", &format!("PRIORITY {priority} DELAY 1"));
        let member = format!("{id} {priority} 0 - p");
        eventually(SOON, "it is due", || c.time_ms() > id_ms(&id));
        tap.effects();
        let task = next(c, "g").id;
        let options = format!("TIME now RETRYCOUNT 1 FORCE JUSTID LASTID {task}");
        let delivery = format!("XCLAIM {key} g c 0 {task} {options}");
        let entered =
            vec![xadd(c, &key), format!("ZREM {DELAYED} {member}"), moved(&id, &task), delivery];
        assert_eq!(one_step(tap), sorted(entered));

        // Canceled: a ready and a delayed task in one call.
        let ready = c.publish_with("q", "p", &format!("PRIORITY {priority}"));
        let delayed = c.publish_with("q", "p", &format!("PRIORITY {priority} DELAY 600000"));
        tap.effects();
        assert_eq!(c.run(format!("TASK.CANCEL q {ready} {delayed}")), int(2));
        let gone =
            [format!("XDEL {key} {ready}"), format!("ZREM {DELAYED} {delayed} {priority} 0 - p")];
        assert_eq!(one_step(tap), sorted(gone.into()));
        assert_eq!(c.run(format!("TASK.ACK q g {task}")), int(1));
        let gone = [format!("HDEL {MOVED} {id}")];
        assert_eq!(one_step(tap), sorted([&done(&task)[..], &gone].concat()));
    }
}

#[test]
fn skipped_copies_and_misplaced_entries_replicate_as_one_step() {
    let server = Server::start();
    let (mut c, mut tap) = (server.client(), server.replication_tap());
    let id = leased(&mut c, 0);
    assert_eq!(next(&mut c, "h").id, id);
    assert_eq!(c.run(format!("TASK.NACK q g c SILENT {id}")), int(1));
    let copy = c.ids_in("q").remove(1);
    tap.effects();
    assert_eq!(c.consume("h", "c", "q", 9), []);
    let names = |effects: &[String]| -> Vec<String> {
        effects.iter().map(|e| e.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    let effects = one_step(&mut tap);
    assert_eq!(names(&effects), ["XACK q", "XCLAIM q"], "{effects:?}");
    assert!(effects.iter().all(|effect| effect.contains(&copy)), "{effects:?}");

    assert_eq!(c.run("FLUSHALL"), ok());
    assert_eq!(c.run("TASK.CONSUME g c q"), nil_array());
    c.run("XADD priority3:{q} 5-5 payload p");
    assert_eq!(c.run("XGROUP CREATE priority3:{q} g 0"), ok());
    tap.effects();
    assert_eq!(c.consume("g", "c", "q", 9).len(), 1);
    let effects = one_step(&mut tap);
    let expected = ["XACK", "XADD", "XCLAIM", "XCLAIM", "XDEL"];
    let expected = expected.map(|name| format!("{name} priority3:{{q}}"));
    assert_eq!(names(&effects), [&[format!("HSET {MOVED}")], &expected[..]].concat());
}

/// Random commands of the queue and of plain clients, run by a few consumers in turn. Every task
/// that is published and not canceled must be acknowledged exactly once.
struct Work {
    random: Random,
    published: usize,
    cancelled: BTreeSet<String>,
    acked: BTreeMap<String, usize>,
    /// Delivered tasks: id, payload, consumer.
    held: Vec<(String, String, &'static str)>,
    /// Published tasks: id, payload.
    ids: Vec<(String, String)>,
}

impl Work {
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
        let tasks = client.consume("g", consumer, "q", i64::try_from(count).unwrap());
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
        if client.run(format!("TASK.ACK q g {id}")) == int(1) {
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
            "XADD q",
            "XADD priority3:{q}",
            "ZADD",
        ];
        let options = options[self.random.below(options.len())];
        let payload = format!("task-{}", self.published);
        let reply = match options.split_once(' ') {
            Some(("XADD", key)) => client.run(format!("XADD {key} * payload {payload} own field")),
            _ if options == "ZADD" => {
                client.run(format!("ZADD {DELAYED} {} {payload}", now_ms() + 3))
            }
            _ => client.run(format!("TASK.PUBLISH q {payload} {options}")),
        };
        assert!(!reply.is_error(), "{options}: {reply:?}");
        // Within the window it is the id of another task.
        if options == unique && self.ids.iter().any(|(id, _)| bulk(id) == reply) {
            return;
        }
        self.published += 1;
        // An entry of a plain client may have the id of another task.
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
                assert!(!client.run(format!("TASK.NACK q g {consumer} {nack}")).is_error());
            }
            17 if !self.held.is_empty() => {
                let (id, _, consumer) = &self.held[self.random.below(self.held.len())];
                assert!(!client.run(format!("TASK.EXTEND q g {consumer} {id}")).is_error());
            }
            18 if !self.ids.is_empty() => {
                let (id, payload) = self.ids[self.random.below(self.ids.len())].clone();
                if client.run(format!("TASK.CANCEL q {id}")) == int(1) {
                    assert!(self.cancelled.insert(payload), "canceled twice");
                }
            }
            19 => {
                let count = 1 + self.random.below(3);
                let redrive = format!("TASK.REDRIVE {DEAD} q COUNT {count}");
                assert!(!client.run(redrive).is_error());
                let lease = 5 + self.random.below(40);
                assert_eq!(client.run(format!("TASK.POLICY q LEASE {lease}")), ok());
            }
            _ => {}
        }
    }

    /// Works until the queue is empty.
    #[track_caller]
    fn drain(&mut self, client: &mut Client) {
        assert_eq!(client.run("TASK.POLICY q LEASE 20 TRIES 0"), ok());
        eventually(SOON, "everything is done", || {
            client.run(format!("TASK.REDRIVE {DEAD} q"));
            self.consume(client, "last", 100);
            while !self.held.is_empty() {
                self.ack(client, 0);
            }
            let queue = client.run("TASK.INFO q");
            ["length", "delayed", "dead"].iter().all(|field| queue.get(field) == &int(0))
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

/// Checks that two servers hold the same.
#[track_caller]
fn assert_same(one: &Server, other: &Server) {
    let differ: Vec<_> =
        contents(one).into_iter().zip(contents(other)).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(contents(one).len(), contents(other).len());
}

#[test]
fn after_random_work_replicas_and_a_restarted_server_hold_the_same_and_nothing_is_lost() {
    let mut master = Server::builder().aof(true).start();
    let replicas =
        [true, false].map(|module| Server::builder().module(module).replica_of(&master).start());
    let mut client = master.client();
    assert_eq!(client.run("TASK.POLICY q LEASE 20 TRIES 3 BACKOFF 0 20"), ok());
    let mut work = Work::new(7);
    for _ in 0..600 {
        work.step(&mut client);
    }
    for server in &replicas {
        wait_in_sync(&master, server);
        assert_same(server, &master);
    }
    let before = contents(&master);
    master.kill9();
    master.restart();
    assert!(contents(&master) == before, "the restart changed something");
    let mut client = master.client();
    for _ in 0..200 {
        work.step(&mut client);
    }
    work.drain(&mut client);
    let promoted = &replicas[0];
    wait_in_sync(&master, promoted);
    assert_same(promoted, &master);
    assert_eq!(client.info("corral", "corral_panics").as_deref(), Some("0"));
}

#[test]
fn wait_after_a_repeated_unique_publish_waits_for_the_first() {
    let master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let (mut first, mut again) = (master.client(), master.client());
    for options in ["", "DELAY 600000", "PRIORITY 3"] {
        assert_eq!(first.run("FLUSHALL"), ok());
        assert_eq!(first.run("WAIT 1 20000"), int(1));
        replica.pause();
        let id = first.publish_with("q", "p", &format!("{options} UNIQUE u 600000"));
        // The reply was lost, and the client repeats the publish on another connection.
        assert_eq!(again.publish_with("q", "p", &format!("{options} UNIQUE u 600000")), id);
        assert_eq!(again.run("WAIT 1 20"), int(0), "the replica does not have it");
        replica.resume();
        assert_eq!(again.run("WAIT 1 20000"), int(1));
    }
}

#[test]
fn after_a_crash_every_task_is_in_its_state_and_a_full_queue_is_full() {
    let mut server = Server::builder().aof(true).start();
    let mut client = server.client();
    assert_eq!(client.run("TASK.POLICY q LEASE 60000 LIMIT 5 TRIES 2"), ok());
    let ids = ["PRIORITY 5", "", "UNIQUE u 600000", ""]
        .map(|options| client.publish_with("q", "p", options));
    let delayed = client.publish_with("q", "p", "DELAY 600000");
    assert_eq!(client.consume("g", "c", "q", 2).len(), 2);
    assert_eq!(client.run(format!("TASK.NACK q g c FATAL {}", ids[0])), int(2));
    client.publish("q", "p");
    // The lease keeps its age during the crash.
    let old = format!("XCLAIM q g c 0 {} IDLE 100000 JUSTID", ids[1]);
    assert_eq!(client.run(old).items().len(), 1);
    let before = contents(&server);
    server.kill9();
    server.restart();
    assert_eq!(contents(&server), before);
    let mut client = server.client();
    assert_eq!(
        client.run("TASK.PUBLISH q p"),
        error("TASKFULL the queue holds as many tasks as its policy allows")
    );
    assert_eq!(client.run("TASK.PUBLISH q p UNIQUE u 5"), bulk(&ids[2]));
    let got = client.consume("g", "other", "q", 1);
    let mut got = if got[0].id == ids[1] { got } else { client.consume("g", "other", "q", 1) };
    let task = got.remove(0);
    assert_eq!((&task.id, task.deliveries), (&ids[1], 2), "the lease has expired");
    assert!(task.idle >= 100_000, "{}", task.idle);
    assert_eq!(client.run(format!("TASK.CANCEL q {delayed}")), int(1));
    assert_eq!(client.run(format!("TASK.REDRIVE {DEAD} q")), int(1));
    assert_eq!(client.run("XLEN priority5:{q}"), int(1));
}
