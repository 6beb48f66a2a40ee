//! The commands in every state of the server: in several databases, after flushes and reloads, inside
//! transactions, scripts and functions, when memory is full, writes are refused or clients are paused.
//!
//! A command either works or changes nothing, what was granted stays granted, and a waiting consumer
//! is served as soon as possible.

mod support;
use support::*;

use std::fs;
use std::time::Duration;

/// A consumer of the group `g` that waits for one task of `tasks` in a database.
#[track_caller]
fn waiter_in(server: &Server, db: usize) -> Client {
    let mut waiter = server.client_in(db);
    server.wait_with(&mut waiter, "TASK.CONSUME g waiter tasks 1 0");
    waiter
}

/// Adds a task with a command that ends with the payload, and checks that the waiter gets it.
#[track_caller]
fn add_and_get(c: &mut Client, add: &str, payload: &str, waiter: &mut Client) {
    let added = c.run(format!("{add} {payload}"));
    assert!(!added.is_error(), "{add}: {added:?}");
    assert_eq!(waiter.read().task_payloads(), [payload], "{add}");
}

/// A waiting consumer is served within the first command, and by the timer after the second.
const ADD: [&str; 2] = ["TASK.PUBLISH tasks", "XADD tasks * payload"];

// --- Databases

#[test]
fn names_in_two_databases_are_independent() {
    let server = Server::start();
    let [mut zero, mut one] = [0, 1].map(|db| server.client_in(db));
    let mut ids = Vec::new();
    for c in [&mut zero, &mut one] {
        assert_eq!(c.run("LOCK.ACQUIRE job me 600000"), int(1));
        assert_eq!(c.run("CACHE.LOCK page 600000 600000"), simple("LOAD"));
        assert_eq!(c.run("XADD tasks 1-1 payload a"), bulk("1-1"));
        ids.push(c.lease("g", "c", "tasks"));
    }
    assert_eq!(zero.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(zero.run("CACHE.SET page text 600000"), ok());
    assert_eq!(zero.run("TASK.ACK tasks g 1-1"), int(1));
    assert_eq!(one.run("LOCK.ACQUIRE job you 1000"), int(0));
    assert_eq!(one.run("CACHE.LOCK page 1000 1000"), simple("WAIT"));
    assert_eq!(one.run("CACHE.GET page"), nil());
    assert_eq!(one.run("XLEN tasks"), int(1));
    assert_eq!(one.run("TASK.ACK tasks g 1-1"), int(1));
}

#[test]
fn the_groups_of_a_stream_are_remembered_per_database() {
    let server = Server::start();
    let [mut zero, mut one] = [0, 1].map(|db| server.client_in(db));
    // In database 0 the stream has one group, in database 1 it has two.
    for turn in 0..3 {
        let id = zero.publish("tasks", "a");
        assert_eq!(zero.lease("g", "c", "tasks"), id);
        assert_eq!(zero.run(format!("TASK.ACK tasks g {id}")), int(1));
        assert_eq!(zero.run("XLEN tasks"), int(0), "turn {turn}");

        let id = one.publish("tasks", "a");
        for (group, left) in [("g", 1), ("h", 0)] {
            assert_eq!(one.lease(group, "c", "tasks"), id);
            if group == "g" && turn == 0 {
                assert_eq!(one.run("XGROUP CREATE tasks h 0"), ok());
            }
            assert_eq!(one.run(format!("TASK.ACK tasks {group} {id}")), int(1));
            assert_eq!(one.run("XLEN tasks"), int(left), "turn {turn}, group {group}");
        }
    }
}

#[test]
fn a_consumer_that_comes_after_a_flush_waits_behind_the_others() {
    let server = Server::start();
    let mut c = server.client();
    for event in ["FLUSHALL", "DEL tasks", "SWAPDB 0 1", "XGROUP DESTROY tasks g"] {
        let mut first = waiter_in(&server, 0);
        assert!(!c.run(event).is_error());
        assert_eq!(c.run("TASK.CONSUME g second tasks"), nil_array(), "{event}");
        let mut second = server.client();
        server.wait_with(&mut second, "TASK.CONSUME g second tasks 1 0");
        for (waiter, payload) in [(&mut first, "a"), (&mut second, "b")] {
            add_and_get(&mut c, "TASK.PUBLISH tasks", payload, waiter);
        }
        assert_eq!(c.run("FLUSHALL"), ok());
    }
}

#[test]
fn waiting_consumers_survive_a_reload_of_the_append_only_file() {
    let server = Server::builder().aof(true).start();
    let mut c = server.client();
    assert_eq!(c.run("LOCK.ACQUIRE job me 600000"), int(1));
    let leased = c.publish("tasks", "leased");
    assert_eq!(c.lease("g", "c", "tasks"), leased);
    for add in ADD {
        let mut waiter = waiter_in(&server, 0);
        assert_eq!(c.run("DEBUG LOADAOF"), ok());
        add_and_get(&mut c, add, "new", &mut waiter);
    }
    assert_eq!(c.run("DEBUG LOADAOF"), ok());
    assert_eq!(c.run("LOCK.ACQUIRE job you 1000"), int(0));
    assert_eq!(c.run("XPENDING tasks g").items()[0], int(3));
    assert_eq!(c.run(format!("TASK.ACK tasks g {leased}")), int(1));
}

/// Loads the snapshot again, in place of the data or merged into it.
const RELOAD: [&str; 2] = ["DEBUG RELOAD NOSAVE", "DEBUG RELOAD NOSAVE NOFLUSH MERGE"];

/// Publishes a task, leases it to the group `g` and acknowledges it.
#[track_caller]
fn work_off(c: &mut Client) -> String {
    let id = c.publish("tasks", "a");
    assert_eq!(c.lease("g", "c", "tasks"), id);
    assert_eq!(c.run(format!("TASK.ACK tasks g {id}")), int(1));
    id
}

/// Checks that a task is deleted only once the group `h` has acknowledged it too.
#[track_caller]
fn has_two_groups(c: &mut Client) {
    let id = work_off(c);
    assert_eq!(c.run("XLEN tasks"), int(1), "the task of the other group is lost");
    assert_eq!(c.lease("h", "c", "tasks"), id);
    assert_eq!(c.run(format!("TASK.ACK tasks h {id}")), int(1));
    assert_eq!(c.run("XLEN tasks"), int(0));
}

#[test]
fn a_reload_that_brings_a_second_group_is_noticed() {
    let server = Server::start();
    let mut c = server.client();
    c.pipeline(&["XGROUP CREATE tasks g $ MKSTREAM", "XGROUP CREATE tasks h $"]);
    assert_eq!(c.run("SAVE"), ok());
    for reload in RELOAD {
        assert_eq!(c.run("XGROUP DESTROY tasks h"), int(1));
        work_off(&mut c);
        assert_eq!(c.run("XLEN tasks"), int(0));
        assert_eq!(c.run(reload), ok());
        has_two_groups(&mut c);
    }
}

#[test]
fn the_only_group_of_a_stream_may_be_replaced() {
    let server = Server::start();
    let mut c = server.client();
    // Streams that replace `tasks`: `other`, `tasks` of database 1, and that of the snapshot.
    c.pipeline(&["XGROUP CREATE tasks h 0 MKSTREAM", "SAVE", "FLUSHALL"]);
    for way in [
        &["XGROUP DESTROY tasks g", "XGROUP CREATE tasks h $"][..],
        &["DEL tasks", "XGROUP CREATE tasks h 0 MKSTREAM"],
        &["FLUSHDB", "XGROUP CREATE tasks h 0 MKSTREAM"],
        &["MULTI", "XGROUP DESTROY tasks g", "XGROUP CREATE tasks h $", "EXEC"],
        &["RENAME other tasks"],
        &["COPY other tasks REPLACE"],
        &["SWAPDB 0 1"],
        &["SELECT 1", "COPY tasks tasks DB 0 REPLACE", "SELECT 0"],
        &[RELOAD[0]],
        &[RELOAD[1]],
    ] {
        c.pipeline(&[
            "XGROUP CREATE other h 0 MKSTREAM",
            "SELECT 1",
            "XGROUP CREATE tasks h 0 MKSTREAM",
            "SELECT 0",
        ]);
        work_off(&mut c);
        for reply in c.pipeline(way) {
            assert!(!reply.is_error(), "{way:?}: {reply:?}");
        }
        let id = c.publish("tasks", "a");
        assert_eq!(c.lease("h", "c", "tasks"), id, "{way:?}");
        let retry = format!("TASK.RETRY tasks {id} a 0 again dead 3");
        let refused = c.run(format!("{retry} g"));
        assert!(refused.is_error_with("NOGROUP "), "{way:?}: {refused:?}");
        assert_eq!(c.run(retry), ok());
        assert_eq!(c.run("XLEN tasks"), int(0), "{way:?}: it is finished for h");
        assert_eq!(c.run("FLUSHALL"), ok());
    }
}

#[test]
fn a_stream_may_lose_its_only_group() {
    let server = Server::start();
    let mut c = server.client();
    work_off(&mut c);
    let id = c.publish("tasks", "a");
    assert_eq!(c.run("XGROUP DESTROY tasks g"), int(1));
    let retry = format!("TASK.RETRY tasks {id} a 0 again dead 3");
    assert!(c.run(format!("{retry} g")).is_error_with("NOGROUP "));
    assert_eq!(c.run("EXISTS again"), int(0));
    assert_eq!(c.run(retry), ok());
    assert_eq!(c.run("XLEN tasks"), int(1), "no group could finish it");
}

#[test]
fn an_acknowledgement_notices_a_group_created_in_the_same_transaction() {
    let server = Server::start();
    let mut c = server.client();
    for script in [false, true] {
        c.run("FLUSHALL");
        work_off(&mut c);
        let id = c.publish("tasks", "a");
        assert_eq!(c.lease("g", "c", "tasks"), id);
        if script {
            let create = "redis.call('XGROUP','CREATE','tasks','h',0)";
            let ack = format!("redis.call('TASK.ACK','tasks','g','{id}')");
            assert_eq!(c.cmd(&["EVAL", &format!("{create} return {ack}"), "0"]), int(1));
        } else {
            let ack = format!("TASK.ACK tasks g {id}");
            let replies = c.pipeline(&["MULTI", "XGROUP CREATE tasks h 0", &ack, "EXEC"]);
            assert_eq!(replies[3], array([ok(), int(1)]));
        }
        assert_eq!(c.lease("h", "c", "tasks"), id);
    }
}

// --- Transactions, scripts and functions

/// What a command runs in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Inside {
    Transaction,
    Script,
    Function,
}

impl Inside {
    const ALL: [Self; 3] = [Self::Transaction, Self::Script, Self::Function];

    /// A server that knows the function.
    #[track_caller]
    fn server() -> Server {
        let server = Server::start();
        let library = "#!lua name=library\n\
            local function run(_, args)\n\
                local reply\n\
                for _, line in ipairs(args) do\n\
                    local words = {}\n\
                    for word in string.gmatch(line, '%S+') do table.insert(words, word) end\n\
                    reply = redis.call(unpack(words))\n\
                end\n\
                return reply\n\
            end\n\
            redis.register_function('run', run)";
        assert_eq!(server.client().cmd(&["FUNCTION", "LOAD", library]), bulk("library"));
        server
    }

    /// Runs the lines in one step; returns the last reply.
    #[track_caller]
    fn run(self, c: &mut Client, lines: &[&str]) -> Value {
        match self {
            Self::Transaction => {
                c.pipeline(&[&["MULTI"], lines].concat());
                c.run("EXEC").items()[lines.len() - 1].clone()
            }
            Self::Script => {
                let call = |line: &&str| {
                    let words: Vec<_> = line.split(' ').map(|word| format!("'{word}'")).collect();
                    format!("redis.call({})", words.join(","))
                };
                let calls: Vec<_> = lines.iter().map(call).collect();
                c.cmd(&["EVAL", &format!("return {}", calls.join(" and ")), "0"])
            }
            Self::Function => c.cmd(&[&["FCALL", "run", "0"], lines].concat()),
        }
    }
}

#[test]
fn every_command_works_inside_transactions_scripts_and_functions() {
    let server = Inside::server();
    for (inside, resp3) in Inside::ALL.into_iter().flat_map(|i| [(i, false), (i, true)]) {
        let mut c = if resp3 { server.client3() } else { server.client() };
        let mut run = |line: &str| inside.run(&mut c, &[line]);
        let replies = [
            ("FLUSHDB", ok()),
            ("LOCK.ACQUIRE job me 600000", int(1)),
            ("LOCK.ACQUIRE job you 600000", int(0)),
            ("LOCK.EXTEND job me 600000", int(1)),
            ("LOCK.RELEASE job me", int(1)),
            ("LOCK.RELEASE job me", int(0)),
            ("CACHE.LOCK page 600000 600000", simple("LOAD")),
            ("CACHE.LOCK page 600000 600000", simple("WAIT")),
            ("CACHE.SET page text 600000", ok()),
            ("CACHE.GET page", bulk("text")),
        ];
        for (line, reply) in replies {
            assert_eq!(run(line), reply, "{line} in a {inside:?}");
        }
        for line in [
            "CACHE.GET missing",
            "TASK.CONSUME g c tasks",
            "TASK.CONSUME g c tasks 1 0",
            "TASK.CONSUME g c tasks 5 600000",
        ] {
            let reply = run(line);
            assert!(reply.is_nil(), "{line} in a {inside:?}: {reply:?}");
        }
        for task in ["done", "failed"] {
            let published = run(&format!("TASK.PUBLISH tasks {task} 2"));
            let id = published.as_str();
            let leased = run("TASK.CONSUME g c tasks 1 0");
            assert_eq!((leased.task_ids(), leased.task_payloads()), (vec![id], vec![task]));
            if task == "done" {
                assert_eq!(run(&format!("TASK.ACK tasks g {id}")), int(1));
                assert_eq!(run(&format!("TASK.ACK tasks g {id}")), int(0));
            } else {
                assert_eq!(run(&format!("TASK.RETRY tasks {id} failed 2 again dead 3")), ok());
            }
            assert_eq!(run("XLEN tasks"), int(0));
        }
        assert_eq!(run("TASK.CONSUME g c again").task_payloads(), ["failed"]);
        for (line, code) in [
            ("LOCK.ACQUIRE job me 0", "ERR invalid expire time"),
            ("TASK.PUBLISH page a", "WRONGTYPE "),
            ("TASK.RETRY again 1-1 a 0 again dead 1 nobody", "NOGROUP "),
        ] {
            let reply = run(line);
            assert!(reply.is_error_with(code), "{line} in a {inside:?}: {reply:?}");
        }
    }
    assert_eq!(blocked_clients(&server), 0);
}

#[test]
fn a_read_only_script_may_call_cache_get_only() {
    let server = Server::start();
    let mut c = server.client();
    assert_eq!(c.run("CACHE.SET page text 600000"), ok());
    let mut read_only = |line: &str| {
        let words: Vec<_> = line.split(' ').map(|word| format!("'{word}'")).collect();
        c.cmd(&["EVAL_RO", &format!("return redis.call({})", words.join(",")), "0"])
    };
    assert_eq!(read_only("CACHE.GET page"), bulk("text"));
    for line in WRITES {
        let reply = read_only(line);
        assert!(reply.is_error_with("ERR Write commands are not allowed"), "{line}: {reply:?}");
    }
    assert_eq!(c.run("DBSIZE"), int(1));
}

#[test]
fn tasks_added_inside_transactions_scripts_and_functions_wake_consumers() {
    let server = Inside::server();
    let mut c = server.client();
    for inside in Inside::ALL {
        for add in ADD {
            let mut waiters = [waiter_in(&server, 0), server.client3(), waiter_in(&server, 1)];
            server.wait_with(&mut waiters[1], "TASK.CONSUME g waiter tasks 1 0");
            let lines = ["a", "b"].map(|payload| format!("{add} {payload}"));
            let added = inside.run(&mut c, &lines.each_ref().map(String::as_str));
            for (waiter, payload) in waiters.iter_mut().zip(["a", "b"]) {
                assert_eq!(waiter.read().task_payloads(), [payload], "{add} in a {inside:?}");
            }
            let pending = c.run("XPENDING tasks g");
            assert_eq!(pending.items()[2], bulk(added.bytes()), "the second is the last leased");
            add_and_get(&mut server.client_in(1), add, "c", &mut waiters[2]);
            assert_eq!(c.run("FLUSHALL"), ok());
        }
    }
}

// --- Servers that refuse writes

/// A call of every command that writes. All of them would change something in what
/// [`refusal_changes_nothing`] prepares, where entry 1-1 is leased and 1-2 is ready.
const WRITES: [&str; 10] = [
    "LOCK.ACQUIRE free me 600000",
    "LOCK.EXTEND job me 900000",
    "LOCK.RELEASE job me",
    "CACHE.LOCK other 600000 600000",
    "CACHE.SET page new 900000",
    "TASK.PUBLISH tasks a",
    "TASK.CONSUME g c tasks",
    "TASK.CONSUME g c empty 1 0",
    "TASK.ACK tasks g 1-1",
    "TASK.RETRY tasks 1-1 a 0 again dead 3",
];

/// While the server refuses writes with an error of this code, no command changes anything and the
/// cached value can be read; afterwards every write works.
fn refusal_changes_nothing(code: &str, begin: impl Fn(&Server), end: impl Fn(&Server)) {
    let server = Server::start();
    let mut c = server.client();
    c.pipeline(&[
        "LOCK.ACQUIRE job me 600000",
        "CACHE.LOCK page 600000 600000",
        "CACHE.SET page text 600000",
        "CACHE.LOCK page 600000 600000",
        "XADD tasks 1-1 payload a",
        "TASK.CONSUME g c tasks",
        "XADD tasks 1-2 payload b",
        "XGROUP CREATE empty g 0 MKSTREAM",
    ]);
    begin(&server);
    let before = Keyspace::of(&mut c);
    for line in WRITES {
        let reply = c.run(line);
        assert!(reply.is_error_with(code), "{line}: {reply:?}");
    }
    assert_eq!(c.run("CACHE.GET page"), bulk("text"));
    assert_eq!(c.run("CACHE.GET missing"), nil());
    assert_eq!(Keyspace::of(&mut c), before);
    assert_eq!(blocked_clients(&server), 0);

    end(&server);
    for line in WRITES.into_iter().filter(|line| !line.contains("empty")) {
        let before = Keyspace::of(&mut c);
        let reply = c.run(line);
        assert!(!reply.is_error() && Keyspace::of(&mut c) != before, "{line}: {reply:?}");
        // The entry is leased again for RETRY.
        c.run("XGROUP SETID tasks g 0");
        c.run("XADD tasks 1-1 payload a");
    }
}

#[test]
fn nothing_is_written_without_enough_replicas() {
    let replicas_needed = |count: usize| {
        move |server: &Server| {
            let set = format!("CONFIG SET min-replicas-to-write {count}");
            assert_eq!(server.client().run(set), ok());
        }
    };
    refusal_changes_nothing("NOREPLICAS ", replicas_needed(1), replicas_needed(0));
}

#[test]
fn nothing_is_written_while_snapshots_fail() {
    let save_status = |server: &Server, status: &str| {
        let mut c = server.client();
        assert!(!c.run("BGSAVE").is_error());
        eventually(SOON, "the snapshot has ended", || {
            let is = |c: &mut Client, field, value| {
                c.info("persistence", field).as_deref() == Some(value)
            };
            is(&mut c, "rdb_bgsave_in_progress", "0")
                && is(&mut c, "rdb_last_bgsave_status", status)
        });
    };
    let obstacle = |server: &Server| server.dir().join("dump.rdb");
    refusal_changes_nothing(
        "MISCONF ",
        |server| {
            // A snapshot cannot take the place of a directory.
            fs::create_dir(obstacle(server)).expect("a directory");
            assert_eq!(server.client().cmd(&["CONFIG", "SET", "save", "3600 1"]), ok());
            save_status(server, "err");
        },
        |server| {
            fs::remove_dir(obstacle(server)).expect("it is empty");
            save_status(server, "ok");
        },
    );
}

#[test]
fn when_memory_is_full_only_commands_that_free_or_finish_work() {
    let server = Server::start();
    let mut c = server.client();
    c.pipeline(&[
        "LOCK.ACQUIRE job me 600000",
        "CACHE.SET page text 600000",
        "CACHE.LOCK page 600000 600000",
        "XADD tasks 1-1 payload a",
        "TASK.CONSUME g c tasks",
        "XADD tasks 1-2 payload b",
    ]);
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g waiter later 1 0");
    assert_eq!(c.run("CONFIG SET maxmemory 1"), ok());

    let before = Keyspace::of(&mut c);
    for line in [
        "LOCK.ACQUIRE free me 600000",
        "LOCK.ACQUIRE job you 600000",
        "CACHE.LOCK other 600000 600000",
        "CACHE.LOCK page 600000 600000",
        "CACHE.SET page new 900000",
        "CACHE.SET other new 900000",
        "TASK.PUBLISH tasks a",
        "TASK.PUBLISH later a",
        "TASK.RETRY tasks 1-1 a 0 again dead 3",
        "TASK.RETRY tasks 1-1 a 3 again dead 3",
        "TASK.CONSUME new c tasks",
        "TASK.CONSUME new c tasks 1 0",
        "TASK.CONSUME g c nowhere",
        "TASK.CONSUME g c nowhere 1 0",
    ] {
        let reply = c.run(line);
        assert!(reply.is_error_with("OOM "), "{line}: {reply:?}");
    }
    assert_eq!(Keyspace::of(&mut c), before);

    assert_eq!(c.run("CACHE.GET page"), bulk("text"));
    assert_eq!(c.run("LOCK.EXTEND job me 900000"), int(1));
    assert_eq!(c.run("LOCK.EXTEND job you 900000"), int(0));
    assert_eq!(c.run("LOCK.RELEASE job me"), int(1));
    assert_eq!(c.run("TASK.CONSUME g c tasks 5 0").task_ids(), ["1-2"]);
    assert_eq!(c.run("TASK.CONSUME g c tasks"), nil_array());
    assert_eq!(c.run("TASK.CONSUME g c tasks 5 1"), nil_array());
    assert_eq!(c.run("TASK.ACK tasks g 1-1 1-2"), int(2));
    assert_eq!(c.run("XLEN tasks"), int(0));
    assert_eq!(blocked_clients(&server), 1);

    assert_eq!(c.run("CONFIG SET maxmemory 0"), ok());
    add_and_get(&mut c, "TASK.PUBLISH later", "a", &mut waiter);
}

/// A task arrives while memory is full and consumers wait for `tasks`, in a stream without a group,
/// which would have to be created. Then there is enough memory again.
#[track_caller]
fn task_comes_while_memory_is_full(c: &mut Client) {
    assert_eq!(c.run("XADD ready 1-1 payload a"), bulk("1-1"));
    assert_eq!(c.run("CONFIG SET maxmemory 1"), ok());
    assert_eq!(c.run("RENAME ready tasks"), ok());
    let overtaken = c.run("TASK.CONSUME g c tasks");
    assert!(overtaken.is_error_with("OOM ") || overtaken.is_nil(), "{overtaken:?}");
    assert_eq!(c.run("CONFIG SET maxmemory 0"), ok());
}

#[test]
fn a_hand_over_that_lacks_memory_follows_when_there_is_some() {
    let server = Server::start();
    let mut c = server.client();
    let mut waiter = waiter_in(&server, 0);
    task_comes_while_memory_is_full(&mut c);
    let served = eventually(SOON, "the waiting consumer is served", || {
        assert_eq!(c.run("PING"), simple("PONG"));
        waiter.read_timeout(Duration::from_millis(10))
    });
    assert_eq!(served.task_payloads(), ["a"]);
}

#[test]
fn a_publish_serves_every_waiter_that_has_a_task() {
    let server = Server::start();
    let mut c = server.client();
    let mut waiters = [waiter_in(&server, 0), waiter_in(&server, 0)];
    task_comes_while_memory_is_full(&mut c);
    c.publish("tasks", "b");
    for (waiter, payload) in waiters.iter_mut().zip(["a", "b"]) {
        assert_eq!(waiter.read().task_payloads(), [payload]);
    }
}

// --- Pauses

#[test]
fn requests_made_while_writes_are_paused_are_answered_afterwards() {
    let server = Server::start();
    let [mut c, mut publisher, mut consumer] = [(); 3].map(|()| server.client());
    let mut waiter = waiter_in(&server, 0);
    let replies = c.pipeline(&["XADD tasks * payload a", "CLIENT PAUSE 600000 WRITE"]);
    assert_eq!(replies[1], ok());
    publisher.send("TASK.PUBLISH tasks b");
    consumer.send("TASK.CONSUME g consumer tasks 1 0");
    // All requests have arrived, and the timer has run.
    eventually(SOON, "the clients are kept back", || {
        let list = c.run("CLIENT LIST TYPE normal");
        let blocked = list.as_str().lines().filter(|client| client.contains(" flags=b "));
        blocked.count() == 3
    });
    assert_eq!(c.run("XPENDING tasks g").items()[0], int(0));
    assert_eq!(c.run("XLEN tasks"), int(1));
    assert_eq!(waiter.read_timeout(Duration::ZERO), None);
    assert_eq!(c.run("CLIENT UNPAUSE"), ok());
    assert_eq!(waiter.read().task_payloads(), ["a"]);
    assert!(!publisher.read().is_error());
    assert_eq!(consumer.read().task_payloads(), ["b"]);
}

#[test]
fn keys_that_expire_while_writes_are_paused_are_deleted_afterwards() {
    let server = Server::start();
    let mut c = server.client();
    let long = "x".repeat(1000);
    c.pipeline(&[
        "LOCK.ACQUIRE job me 50",
        "CACHE.SET short text 50",
        &format!("CACHE.SET long {long} 50"),
        "CACHE.LOCK page 50 50",
        "CLIENT PAUSE 600000 WRITE",
    ]);
    for key in ["short", "long"] {
        eventually(SOON, "the value expires", || c.run(format!("CACHE.GET {key}")) == nil());
    }
    assert_eq!(c.run("DBSIZE"), int(4), "during a pause the data stays as it is");
    let mut writers =
        ["LOCK.ACQUIRE job you 600000", "CACHE.LOCK page 600000 600000"].map(|line| {
            let mut writer = server.client();
            writer.send(line);
            writer
        });
    assert_eq!(c.run("CLIENT UNPAUSE"), ok());
    assert_eq!(writers.each_mut().map(Client::read), [int(1), simple("LOAD")]);
    assert_eq!(c.run("CACHE.GET long"), nil());
    assert_eq!(c.run("CACHE.GET short"), nil());
    assert_eq!(c.run("DBSIZE"), int(2));
}
