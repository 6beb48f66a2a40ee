//! Replication, persistence, crashes and failovers of all families. Every effect replicates as
//! plain commands with absolute times, the effects of one step as one transaction. So the
//! append-only file, a snapshot and replicas hold the same data, readable without the module, and
//! work goes on after a crash or a failover. A replica refuses writes.

mod support;
use support::compare::xadd;
use support::*;

/// A server with a tap on its replication stream.
struct Watched {
    c: Client,
    tap: ReplicationTap,
    since: i64,
    server: Server,
}

impl Watched {
    #[track_caller]
    fn start() -> Self {
        let server = Server::start();
        let (c, tap, since) = (server.client(), server.replication_tap(), now_ms());
        Self { c, tap, since, server }
    }

    /// What was replicated since the last call: see [`ReplicationTap::effects`].
    #[track_caller]
    fn effects(&mut self) -> Vec<String> {
        self.tap.effects()
    }

    /// When a key expires. Checks that this is `ttl` ms after a time during the test.
    #[track_caller]
    fn end(&mut self, key: &str, ttl: i64) -> i64 {
        let end = self.c.cmd(&["PEXPIRETIME", key]).as_int();
        assert!((self.since + ttl..=now_ms() + ttl).contains(&end), "{key} expires at {end}");
        end
    }

    /// A consumer of the group that waits for a task of the stream.
    #[track_caller]
    fn waiter(&self, group: &str, stream: &str) -> Client {
        let mut waiter = self.server.client();
        let consume = format!("TASK.CONSUME {group} {group}-waits {stream} 1 0");
        self.server.wait_with(&mut waiter, &consume);
        waiter
    }
}

/// The XCLAIM that replicates a first delivery.
fn delivery(stream: &str, group: &str, consumer: &str, id: &str) -> String {
    let options = format!("TIME now RETRYCOUNT 1 FORCE JUSTID LASTID {id}");
    format!("XCLAIM {stream} {group} {consumer} 0 {id} {options}")
}

/// The commands as one transaction.
fn transaction<const N: usize>(commands: [String; N]) -> Vec<String> {
    let commands = commands.into_iter();
    ["MULTI".to_owned()].into_iter().chain(commands).chain(["EXEC".to_owned()]).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn locks_replicate_as_plain_keys_with_absolute_times() {
    let mut w = Watched::start();
    assert_eq!(w.c.run("LOCK.ACQUIRE job me 10000"), int(1));
    let end = w.end("lock:{job}", 10_000);
    assert_eq!(w.effects(), [format!("SET lock:{{job}} me PXAT {end}")]);

    assert_eq!(w.c.run("LOCK.EXTEND job me 20000"), int(1));
    let end = w.end("lock:{job}", 20_000);
    assert_eq!(w.effects(), [format!("PEXPIREAT lock:{{job}} {end}")]);

    assert_eq!(w.c.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(w.effects(), ["DEL lock:{job}"]);
}

#[test]
fn an_expired_lock_is_deleted_on_replicas_before_the_next_grant() {
    let mut w = Watched::start();
    assert_eq!(w.c.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    assert_eq!(w.c.run("LOCK.ACQUIRE job me 1"), int(1));
    w.effects();
    eventually(SOON, "the lease ends", || w.c.run("LOCK.ACQUIRE job you 10000") == int(1));
    let end = w.end("lock:{job}", 10_000);
    let mut effects = w.effects();
    effects.retain(|effect| effect != "MULTI" && effect != "EXEC");
    // Which of the two depends on the server's lazy freeing.
    assert!(["DEL lock:{job}", "UNLINK lock:{job}"].contains(&effects[0].as_str()), "{effects:?}");
    assert_eq!(effects[1..], [format!("SET lock:{{job}} you PXAT {end}")]);
}

#[test]
fn cached_values_and_leases_replicate_as_plain_keys_with_absolute_times() {
    let mut w = Watched::start();
    assert_eq!(w.c.run("CACHE.LOCK page 30000 5000"), simple("LOAD"));
    let lease = w.c.run("GET cachelock:{page}").as_str().to_owned();
    let end = w.end("cachelock:{page}", 5000);
    assert_eq!(w.effects(), [format!("SET cachelock:{{page}} {lease} PXAT {end}")]);

    assert_eq!(w.c.run("CACHE.SET page text 10000"), ok());
    let end = w.end("page", 10_000);
    let set = format!("SET page text PXAT {end}");
    assert_eq!(w.effects(), transaction([set, "DEL cachelock:{page}".into()]));

    assert_eq!(w.c.run("CACHE.SET page new 20000"), ok());
    let end = w.end("page", 20_000);
    assert_eq!(w.effects(), [format!("SET page new PXAT {end}")], "there was no lease");
}

#[test]
fn tasks_replicate_as_stream_commands() {
    let mut w = Watched::start();
    assert_eq!(w.c.run("TASK.CONSUME g c tasks"), nil_array());
    assert_eq!(w.effects(), ["XGROUP CREATE tasks g 0 MKSTREAM"]);

    let first = w.c.publish("tasks", "a");
    let second = w.c.run("TASK.PUBLISH tasks b 3").as_str().to_owned();
    let added = [xadd(&mut w.c, "tasks", &first), xadd(&mut w.c, "tasks", &second)];
    assert!(added[0].contains(" payload a ") && added[0].ends_with(" retry_count 0"), "{added:?}");
    assert!(added[1].contains(" payload b ") && added[1].ends_with(" retry_count 3"), "{added:?}");
    assert_eq!(w.effects(), added);

    assert_eq!(w.c.run("TASK.CONSUME g c tasks 2").task_ids(), [&first, &second]);
    let delivered = [&first, &second].map(|id| delivery("tasks", "g", "c", id));
    assert_eq!(w.effects(), transaction(delivered));

    assert_eq!(w.c.run(format!("TASK.ACK tasks g {first} {second}")), int(2));
    let both = format!("{first} {second}");
    let finished = [format!("XACK tasks g {both}"), format!("XDEL tasks {both}")];
    assert_eq!(w.effects(), transaction(finished));
}

#[test]
fn a_delivery_that_creates_its_group_is_one_transaction() {
    let mut w = Watched::start();
    let id = w.c.publish("tasks", "a");
    w.effects();
    assert_eq!(w.c.lease("g", "c", "tasks"), id);
    let created = "XGROUP CREATE tasks g 0 MKSTREAM".to_owned();
    assert_eq!(w.effects(), transaction([created, delivery("tasks", "g", "c", &id)]));
}

#[test]
fn ack_deletes_an_entry_on_replicas_when_every_group_is_past_it() {
    let mut w = Watched::start();
    let id = w.c.publish("tasks", "a");
    for group in ["g", "h"] {
        assert_eq!(w.c.lease(group, "c", "tasks"), id);
    }
    w.effects();
    assert_eq!(w.c.run(format!("TASK.ACK tasks g {id}")), int(1));
    assert_eq!(w.effects(), [format!("XACK tasks g {id}")]);
    assert_eq!(w.c.run(format!("TASK.ACK tasks h {id}")), int(1));
    let last = [format!("XACK tasks h {id}"), format!("XDEL tasks {id}")];
    assert_eq!(w.effects(), transaction(last));
}

#[test]
fn a_retry_is_one_transaction_of_the_copy_and_the_end_of_the_source() {
    let mut w = Watched::start();
    for (retry_count, target) in [(0, "again"), (3, "dead")] {
        let id = w.c.publish("tasks", "a");
        assert_eq!(w.c.lease("g", "c", "tasks"), id);
        w.effects();
        let retry = format!("TASK.RETRY tasks {id} a {retry_count} again dead 3");
        assert_eq!(w.c.run(retry), ok());
        let copies = w.c.cmd(&["XRANGE", target, "-", "+"]);
        let copy = copies.items()[0].items()[0].as_str();
        let moved = [
            xadd(&mut w.c, target, copy),
            format!("XACK tasks g {id}"),
            format!("XDEL tasks {id}"),
        ];
        assert!(moved[0].ends_with(&format!(" original_id {id}")), "{moved:?}");
        assert_eq!(w.effects(), transaction(moved));
    }
}

#[test]
fn a_publish_and_its_deliveries_are_one_transaction() {
    let mut w = Watched::start();
    let mut waiters = ["g", "h"].map(|group| w.waiter(group, "tasks"));
    w.effects();
    let id = w.c.publish("tasks", "a");
    for waiter in &mut waiters {
        assert_eq!(waiter.read().task_ids(), [&id]);
    }
    let added = xadd(&mut w.c, "tasks", &id);
    let delivered =
        ["g", "h"].map(|group| delivery("tasks", group, &format!("{group}-waits"), &id));
    let [to_g, to_h] = delivered;
    assert_eq!(w.effects(), transaction([added, to_g, to_h]));
}

#[test]
fn a_retry_and_its_delivery_are_one_transaction() {
    let mut w = Watched::start();
    let id = w.c.publish("tasks", "a");
    assert_eq!(w.c.lease("g", "c", "tasks"), id);
    let mut waiter = w.waiter("again-g", "again");
    w.effects();
    assert_eq!(w.c.run(format!("TASK.RETRY tasks {id} a 0 again dead 3")), ok());
    let reply = waiter.read();
    let copy = reply.task_ids()[0];
    let moved = [
        xadd(&mut w.c, "again", copy),
        format!("XACK tasks g {id}"),
        format!("XDEL tasks {id}"),
        delivery("again", "again-g", "again-g-waits", copy),
    ];
    assert_eq!(w.effects(), transaction(moved));
}

#[test]
fn a_delivery_by_the_timer_is_one_transaction_with_the_group_that_it_creates() {
    let mut w = Watched::start();
    for has_group in [true, false] {
        let mut waiter = w.waiter("g", "tasks");
        if !has_group {
            assert_eq!(w.c.run("DEL tasks"), int(1));
        }
        w.effects();
        let id = w.c.run("XADD tasks * payload a").as_str().to_owned();
        assert_eq!(waiter.read().task_ids(), [&id]);
        let added = xadd(&mut w.c, "tasks", &id);
        let delivered = delivery("tasks", "g", "g-waits", &id);
        let expected = if has_group {
            vec![added, delivered]
        } else {
            let created = "XGROUP CREATE tasks g 0".to_owned();
            [vec![added], transaction([created, delivered])].concat()
        };
        assert_eq!(w.effects(), expected);
    }
}

#[test]
fn effects_inside_a_transaction_or_script_belong_to_it() {
    let mut w = Watched::start();
    let lines = ["LOCK.ACQUIRE job me 10000", "TASK.PUBLISH tasks a", "CACHE.LOCK page 9000 9000"];
    let call = |line: &str| {
        let words: Vec<_> = line.split(' ').map(|word| format!("'{word}'")).collect();
        format!("redis.call({})", words.join(","))
    };
    let script = lines.map(call).join(" ");
    for inside in ["MULTI", "EVAL"] {
        if inside == "MULTI" {
            w.c.pipeline(&[&["MULTI"], &lines[..], &["EXEC"]].concat());
        } else {
            assert!(w.c.cmd(&["EVAL", &script, "0"]).is_nil());
        }
        let names: Vec<_> =
            w.effects().iter().map(|e| e.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["MULTI", "SET", "XADD", "SET", "EXEC"], "inside {inside}");
        assert_eq!(w.c.run("FLUSHALL"), ok());
        w.effects();
    }
}

#[test]
fn calls_that_are_refused_or_change_nothing_replicate_nothing() {
    let mut w = Watched::start();
    let id = w.c.publish("tasks", "a");
    assert_eq!(w.c.lease("g", "c", "tasks"), id);
    w.c.pipeline(&[
        "LOCK.ACQUIRE job me 100000",
        "CACHE.LOCK page 100000 100000",
        "RPUSH list x",
        "RPUSH lock:{listed} x",
        "RPUSH cachelock:{listed} x",
    ]);
    w.effects();
    let before = contents(&w.server);
    let retry = format!("TASK.RETRY tasks {id} a 0");
    let unchanged: &[(&str, Value)] = &[
        ("LOCK.ACQUIRE job you 1000", int(0)),
        ("LOCK.ACQUIRE job me 1000", int(0)),
        ("LOCK.EXTEND job you 1000", int(0)),
        ("LOCK.EXTEND free me 1000", int(0)),
        ("LOCK.RELEASE job you", int(0)),
        ("LOCK.RELEASE free me", int(0)),
        ("CACHE.LOCK page 1000 1000", simple("WAIT")),
        ("CACHE.GET page", nil()),
        ("TASK.CONSUME g c tasks 5", nil_array()),
        ("TASK.CONSUME g c tasks 5 1", nil_array()),
        ("TASK.ACK tasks g 1-1", int(0)),
        ("TASK.ACK tasks nobody 1-1", int(0)),
        ("TASK.ACK missing g 1-1", int(0)),
    ];
    for (line, reply) in unchanged {
        assert_eq!(w.c.run(line), *reply, "{line}");
        assert_eq!(w.effects(), NOTHING, "{line}");
    }
    let refused = [
        ("LOCK.ACQUIRE free me 0", "ERR "),
        ("LOCK.ACQUIRE listed me 1000", "WRONGTYPE "),
        ("LOCK.EXTEND job me -1", "ERR "),
        ("LOCK.EXTEND listed me 1000", "WRONGTYPE "),
        ("LOCK.RELEASE listed me", "WRONGTYPE "),
        ("CACHE.LOCK other 0 1000", "ERR "),
        ("CACHE.LOCK list 1000 1000", "WRONGTYPE "),
        ("CACHE.LOCK listed 1000 1000", "WRONGTYPE "),
        ("CACHE.SET page text x", "ERR "),
        ("CACHE.SET list text 1000", "WRONGTYPE "),
        ("CACHE.SET listed text 1000", "WRONGTYPE "),
        ("CACHE.GET list", "WRONGTYPE "),
        ("TASK.PUBLISH tasks a -1", "ERR "),
        ("TASK.PUBLISH list a", "WRONGTYPE "),
        ("TASK.CONSUME g c tasks 0", "ERR "),
        ("TASK.CONSUME g c new 1 -1", "ERR "),
        ("TASK.CONSUME g c list", "WRONGTYPE "),
        ("TASK.ACK tasks g x", "ERR "),
        ("TASK.ACK list g 1-1", "WRONGTYPE "),
        (&format!("{retry} list dead 3"), "WRONGTYPE "),
        (&format!("{retry} again list 0"), "WRONGTYPE "),
        (&format!("{retry} again dead 3 nobody"), "NOGROUP "),
        ("TASK.RETRY list 1-1 a 0 again dead 3", "WRONGTYPE "),
    ];
    for (line, code) in refused {
        let reply = w.c.run(line);
        assert!(reply.is_error_with(code), "{line}: {reply:?}");
        assert_eq!(w.effects(), NOTHING, "{line}");
    }
    assert_eq!(contents(&w.server), before);
}

/// The tasks that [`populate`] made, by their state.
struct Tasks {
    leased: String,
    handed_over: String,
    ready: String,
    again: String,
    dead: String,
}

/// Makes locks, cached values and tasks in every state. The queue is `tasks`, the group `g`.
#[track_caller]
fn populate(server: &Server) -> Tasks {
    let mut c = server.client();
    let replies = c.pipeline(&[
        "LOCK.ACQUIRE job me 600000",
        "LOCK.EXTEND job me 700000",
        "LOCK.ACQUIRE done me 600000",
        "LOCK.RELEASE done me",
        "LOCK.ACQUIRE brief me 1",
        "CACHE.LOCK page 600000 600000",
        "CACHE.SET page text 500000",
        "CACHE.LOCK slow 600000 400000",
    ]);
    let one = || int(1);
    let load = || simple("LOAD");
    assert_eq!(replies, [one(), one(), one(), one(), one(), load(), ok(), load()]);

    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g waiter tasks 1 0");
    let handed_over = c.publish("tasks", "handed over");
    assert_eq!(waiter.read().task_ids(), [&handed_over]);

    let [done, leased, failed, lost, ready] =
        ["done", "leased", "failed", "lost", "ready"].map(|payload| c.publish("tasks", payload));
    for id in [&done, &leased, &failed, &lost] {
        assert_eq!(c.lease("g", "c", "tasks"), *id);
    }
    assert_eq!(c.run(format!("TASK.ACK tasks g {done}")), int(1));
    assert_eq!(c.run(format!("TASK.RETRY tasks {failed} failed 0 again dead 3")), ok());
    assert_eq!(c.run(format!("TASK.RETRY tasks {lost} lost 3 again dead 3")), ok());
    let mut copy = |stream: &str| {
        let entries = c.cmd(&["XRANGE", stream, "-", "+"]);
        let [entry] = entries.items() else { panic!("not one entry in {stream}: {entries:?}") };
        entry.items()[0].as_str().to_owned()
    };
    let (again, dead) = (copy("again"), copy("dead"));
    Tasks { leased, handed_over, ready, again, dead }
}

/// Goes on working with what [`populate`] made.
#[track_caller]
fn work_goes_on(server: &Server, tasks: &Tasks) {
    let mut c = server.client();
    assert_eq!(c.run("LOCK.ACQUIRE job you 1000"), int(0), "it is held");
    assert_eq!(c.run("LOCK.ACQUIRE done you 1000"), int(1), "it was released");
    eventually(SOON, "the lease expires, whether the server runs or not", || {
        c.run("LOCK.ACQUIRE brief you 600000") == int(1)
    });
    assert_eq!(c.run("LOCK.EXTEND job me 1000000"), int(1));
    assert_eq!(c.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(c.run("CACHE.GET page"), bulk("text"));
    assert_eq!(c.run("CACHE.LOCK slow 600000 600000"), simple("LOAD"), "its loader is forgotten");
    assert_eq!(c.run("CACHE.LOCK slow 1000 1000"), simple("WAIT"), "it is being loaded");
    assert_eq!(c.run("CACHE.SET slow text 600000"), ok());
    assert_eq!(c.run("CACHE.LOCK slow 1000 1000"), simple("LOAD"));

    let mut waiter = server.client();
    waiter.send("TASK.CONSUME g waiter tasks 5 0");
    assert_eq!(waiter.read().task_ids(), [&tasks.ready], "the others are leased");
    for id in [&tasks.leased, &tasks.handed_over, &tasks.ready] {
        assert_eq!(c.run(format!("TASK.ACK tasks g {id}")), int(1));
        assert_eq!(c.run(format!("TASK.ACK tasks g {id}")), int(0));
    }
    assert_eq!(c.run("XLEN tasks"), int(0));
    assert_eq!(c.lease("g", "c", "again"), tasks.again);
    assert_eq!(c.lease("g", "c", "dead"), tasks.dead);

    for publish in ["TASK.PUBLISH tasks a", "XADD tasks * payload a"] {
        server.wait_with(&mut waiter, "TASK.CONSUME g waiter tasks 1 0");
        let id = c.run(publish);
        assert_eq!(waiter.read().task_ids(), [id.as_str()], "{publish}");
    }
}

/// What a server holds, without the lock that expires during the test.
#[track_caller]
fn contents(server: &Server) -> Vec<String> {
    let mut contents = support::contents(server);
    contents.retain(|line| !line.starts_with("lock:{brief}"));
    contents
}

/// Rewrites the append-only file.
#[track_caller]
fn rewrite_aof(server: &Server) {
    let mut c = server.client();
    assert!(!c.run("BGREWRITEAOF").is_error());
    eventually(SOON, "the file is rewritten", || {
        let mut is = |field, value: &str| c.info("persistence", field).as_deref() == Some(value);
        is("aof_rewrite_in_progress", "0") && is("aof_rewrite_scheduled", "0")
    });
    let status = c.info("persistence", "aof_last_bgrewrite_status");
    assert_eq!(status.as_deref(), Some("ok"));
}

/// A way to keep the data on disk.
struct Persistence {
    name: &'static str,
    options: Builder,
    /// Saves the data before the server crashes.
    save: fn(&Server),
}

fn ways_to_persist() -> [Persistence; 4] {
    let log = || Server::builder().aof(true);
    let commands = log().arg("--aof-use-rdb-preamble").arg("no");
    let snapshot = |server: &Server| assert_eq!(server.client().run("SAVE"), ok());
    [
        Persistence { name: "an append-only file", options: log(), save: |_| () },
        Persistence {
            name: "an append-only file rewritten as a snapshot",
            options: log(),
            save: rewrite_aof,
        },
        Persistence {
            name: "an append-only file rewritten as commands",
            options: commands,
            save: rewrite_aof,
        },
        Persistence { name: "a snapshot", options: Server::builder(), save: snapshot },
    ]
}

#[test]
fn after_a_crash_the_data_are_complete_and_work_goes_on() {
    for Persistence { name, options, save } in ways_to_persist() {
        eprintln!("with {name}");
        let mut server = options.start();
        let tasks = populate(&server);
        save(&server);
        let before = contents(&server);
        assert_eq!(before.len(), 6, "{before:?}");
        server.kill9();
        server.restart();
        assert_eq!(contents(&server), before);
        work_goes_on(&server, &tasks);
    }
}

#[test]
fn a_server_without_the_module_reads_the_same_data() {
    for Persistence { name, options, save } in ways_to_persist() {
        eprintln!("with {name}");
        let mut server = options.start();
        let tasks = populate(&server);
        save(&server);
        let before = contents(&server);
        server.kill9();
        server.restart_without_module();
        assert_eq!(contents(&server), before);

        let mut c = server.client();
        assert!(c.run("CACHE.GET page").is_error_with("ERR unknown command"));
        assert_eq!(c.run("GET lock:{job}"), bulk("me"));
        assert_eq!(c.run("GET page"), bulk("text"));
        assert!(c.run("GET cachelock:{slow}").as_str().starts_with("loading "));
        let entries = c.run("XRANGE tasks - +");
        let payloads = entries.items().iter().map(|entry| entry.items()[1].get("payload").as_str());
        assert_eq!(payloads.collect::<Vec<_>>(), ["handed over", "leased", "ready"]);
        let pending = c.run("XPENDING tasks g - + 10");
        let pending =
            pending.items().iter().map(|p| [p.items()[0].as_str(), p.items()[1].as_str()]);
        let expected = [[&*tasks.handed_over, "waiter"], [&*tasks.leased, "c"]];
        assert_eq!(pending.collect::<Vec<_>>(), expected);

        // With the module again, which goes on from what was done without it.
        assert_eq!(c.run(format!("XACK tasks g {}", tasks.leased)), int(1));
        assert_eq!(c.run("DEL lock:{job}"), int(1));
        server.restart();
        let mut c = server.client();
        assert_eq!(c.run(format!("TASK.ACK tasks g {}", tasks.leased)), int(0));
        assert_eq!(c.run("LOCK.ACQUIRE job you 1000"), int(1));
    }
}

#[test]
fn the_append_only_file_holds_what_replicas_get() {
    let server = Server::builder().aof(true).start();
    let mut tap = server.replication_tap();
    populate(&server);
    // A key that expires between the two looks would be in only one of them.
    eventually(SOON, "the brief lease expires", || {
        server.client().run("EXISTS lock:{brief}") == int(0)
    });
    let (sent, logged) = (tap.commands(), aof_commands(&server));
    assert!(sent.len() > 20, "{sent:?}");
    assert_eq!(logged, sent);
}

#[test]
fn replicas_hold_the_same_data_with_and_without_the_module() {
    let master = Server::start();
    let replica = |module| Server::builder().module(module).replica_of(&master).start();
    let mut replicas = vec![replica(true), replica(false)];
    populate(&master);
    replicas.extend([replica(true), replica(false)]);
    let before = contents(&master);
    for replica in &replicas {
        wait_in_sync(&master, replica);
        assert_eq!(contents(replica), before);
    }
}

#[test]
fn after_the_promotion_of_a_replica_work_goes_on() {
    let mut master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let tasks = populate(&master);
    wait_in_sync(&master, &replica);
    master.kill9();
    assert_eq!(replica.client().run("REPLICAOF NO ONE"), ok());
    work_goes_on(&replica, &tasks);
}

#[test]
fn after_a_planned_failover_work_goes_on_and_waiting_clients_get_an_error() {
    let master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let tasks = populate(&master);
    let mut waiter = master.client();
    master.wait_with(&mut waiter, "TASK.CONSUME g waiter other 1 0");
    wait_in_sync(&master, &replica);
    assert_eq!(master.client().run("FAILOVER"), ok());
    let reply = waiter.read();
    assert!(reply.is_error_with("UNBLOCKED "), "{reply:?}");
    eventually(SOON, "the replica takes over", || {
        info(&replica, "replication", "role").as_deref() == Some("master")
    });
    work_goes_on(&replica, &tasks);
    wait_in_sync(&replica, &master);
    assert_eq!(contents(&master), contents(&replica));
    assert_eq!(info(&master, "corral", "corral_task_waiters").as_deref(), Some("0"));
}

#[test]
fn a_replica_refuses_writes_and_answers_reads() {
    let master = Server::start();
    let tasks = populate(&master);
    let replica = Server::builder().replica_of(&master).start();
    let before = contents(&replica);
    let mut c = replica.client();
    for line in [
        "LOCK.ACQUIRE free me 1000",
        "LOCK.EXTEND job me 1000",
        "LOCK.RELEASE job me",
        "CACHE.LOCK other 1000 1000",
        "CACHE.SET page new 1000",
        "TASK.PUBLISH tasks a",
        "TASK.CONSUME g c tasks",
        "TASK.CONSUME g c tasks 1 0",
        &format!("TASK.ACK tasks g {}", tasks.leased),
        &format!("TASK.RETRY tasks {} a 0 again dead 3", tasks.leased),
        "TASK.PUBLISH tasks p DELAY 5",
        "TASK.CONSUME g c tasks COUNT 5 META",
        "TASK.EXTEND tasks g one 1-1",
        "TASK.NACK tasks g one FAIL 1-1",
        "TASK.CANCEL tasks 1-1",
        "TASK.REDRIVE dead tasks",
        "TASK.POLICY tasks LIMIT 5",
    ] {
        let reply = c.run(line);
        assert!(reply.is_error_with("READONLY "), "{line}: {reply:?}");
    }
    assert_eq!(c.run("CACHE.GET page"), bulk("text"));
    assert_eq!(c.run("CACHE.GET missing"), nil());
    assert_eq!(contents(&replica), before);
    assert_eq!(contents(&master), before);
}

#[test]
fn a_replica_returns_no_expired_value() {
    let master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let mut c = master.client();
    // Only an access would delete the keys on the master, and there is none.
    assert_eq!(c.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    let long = "x".repeat(1000);
    assert_eq!(c.run("CACHE.SET short text 50"), ok());
    assert_eq!(c.run(format!("CACHE.SET long {long} 50")), ok());
    assert_eq!(c.run("CACHE.SET kept text 600000"), ok());
    wait_in_sync(&master, &replica);
    let mut r = replica.client();
    for key in ["short", "long"] {
        eventually(SOON, "the value has expired", || r.run(format!("CACHE.GET {key}")) == nil());
    }
    assert_eq!(r.run("CACHE.GET kept"), bulk("text"));
    assert_eq!(r.run("DBSIZE"), int(3), "the keys are there until the master deletes them");
    assert_eq!(c.run("CACHE.GET long"), nil());
    wait_in_sync(&master, &replica);
    assert_eq!(r.run("DBSIZE"), int(2));
}

#[test]
fn a_full_resynchronization_discards_what_is_remembered_of_a_stream() {
    let other = Server::start();
    let server = Server::builder().arg("--repl-diskless-load").arg("swapdb").start();
    let mut c = server.client();
    let id = c.publish("tasks", "a");
    assert_eq!(c.lease("g", "c", "tasks"), id);
    assert_eq!(c.run(format!("TASK.ACK tasks g {id}")), int(1), "tasks has one group");

    let id = other.client().publish("tasks", "b");
    for group in ["g", "h"] {
        assert_eq!(other.client().lease(group, "c", "tasks"), id);
    }
    assert_eq!(c.run(format!("REPLICAOF 127.0.0.1 {}", other.port())), ok());
    wait_in_sync(&other, &server);
    assert_eq!(c.run("REPLICAOF NO ONE"), ok());
    assert_eq!(c.run(format!("TASK.ACK tasks g {id}")), int(1));
    assert_eq!(c.run("XLEN tasks"), int(1), "h has not finished it");
    assert_eq!(c.run(format!("TASK.ACK tasks h {id}")), int(1));
    assert_eq!(c.run("XLEN tasks"), int(0));
}

#[test]
fn wait_after_a_command_waits_for_its_effects() {
    let master = Server::start();
    let replica = Server::builder().replica_of(&master).start();
    let mut c = master.client();
    let mut waiter = master.client();
    master.wait_with(&mut waiter, "TASK.CONSUME g waiter tasks 1 0");
    assert_eq!(c.run("LOCK.ACQUIRE before me 600000"), int(1));
    assert_eq!(c.run("WAIT 1 20000"), int(1));

    replica.pause();
    let mut others = [master.client(), master.client()];
    assert_eq!(others[0].run("LOCK.ACQUIRE job me 600000"), int(1));
    let id = others[1].publish("tasks", "a");
    assert_eq!(waiter.read().task_ids(), [id]);
    let mut all = others.into_iter().chain([waiter]).collect::<Vec<_>>();
    for client in &mut all {
        assert_eq!(client.run("WAIT 1 20"), int(0), "the replica does not have it");
    }
    replica.resume();
    for client in &mut all {
        assert_eq!(client.run("WAIT 1 20000"), int(1));
    }
}
