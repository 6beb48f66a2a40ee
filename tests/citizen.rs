//! The module as a part of its server: COMMAND describes its commands, ACL rules apply to them as to
//! native ones, INFO and CONFIG show its counters and settings, the module loads, refuses to load and
//! unloads without a trace, and WATCH and CLIENT TRACKING see exactly the keys that changed.

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};

// --- COMMAND

/// A command and what the server must know of it.
struct Described {
    /// A call of it, in capitals, with every argument.
    call: &'static str,
    arity: i64,
    flags: &'static str,
    categories: &'static str,
    /// First key, last key and step, for clients that know no key specifications.
    legacy: (i64, i64, i64),
    /// Position and flags of each key.
    keys: &'static [(i64, &'static str)],
    /// The arguments in COMMAND DOCS.
    docs: &'static str,
}

const COMMANDS: [Described; 25] = [
    Described {
        call: "CACHE.GET k",
        arity: 2,
        flags: "fast module readonly",
        categories: "@fast @read @string",
        legacy: (1, 1, 1),
        keys: &[(1, "RO access")],
        docs: "key:key",
    },
    Described {
        call: "CACHE.LOCK k 600000 600000",
        arity: 4,
        flags: "denyoom fast module write",
        categories: "@fast @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW insert")],
        docs: "key:key ttl_ms:integer loader_timeout_ms:integer",
    },
    Described {
        call: "CACHE.SET k v 600000",
        arity: -4,
        flags: "denyoom fast module write",
        categories: "@fast @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "OW update")],
        docs: "key:key value:string ttl_ms:integer [TOKEN token:integer] [NX] \
               [JITTER percent:integer]",
    },
    Described {
        call: "CACHE.FETCH k 600000",
        arity: -3,
        flags: "blocking fast module",
        categories: "@blocking @fast @read @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "key:key lease_ms:integer [STALE stale_ms:integer] [BLOCK block_ms:integer] \
               [FRESH] [TIED]",
    },
    Described {
        call: "CACHE.EXTEND k 1 600000",
        arity: 4,
        flags: "fast module write",
        categories: "@fast @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "key:key token:integer lease_ms:integer",
    },
    Described {
        call: "CACHE.FAIL k 1",
        arity: -3,
        flags: "fast module write",
        categories: "@fast @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "key:key token:integer [BACKOFF backoff_ms:integer] [REASON text:string]",
    },
    Described {
        call: "CACHE.INVALIDATE k",
        arity: -2,
        flags: "fast module write",
        categories: "@fast @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access delete")],
        docs: "key:key [STALE stale_ms:integer]",
    },
    Described {
        call: "CACHE.INFO k",
        arity: 2,
        flags: "fast module readonly",
        categories: "@fast @read @string",
        legacy: (1, 1, 1),
        keys: &[(1, "RO access")],
        docs: "key:key",
    },
    Described {
        call: "CACHE.MGET k",
        arity: -2,
        flags: "fast module readonly",
        categories: "@fast @read @string",
        legacy: (1, -1, 1),
        keys: &[(1, "RO access")],
        docs: "key:key...",
    },
    Described {
        call: "LOCK.INFO k",
        arity: 2,
        flags: "fast module readonly",
        categories: "@fast @read @sortedset @string",
        legacy: (1, 1, 1),
        keys: &[(1, "RO access")],
        docs: "lock_name:key",
    },
    Described {
        call: "LOCK.ACQUIRE k me 600000",
        arity: -4,
        flags: "blocking denyoom fast module write",
        categories: "@blocking @fast @sortedset @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW insert")],
        docs: "lock_name:key identifier:string ttl_ms:integer [SHARED | LIMIT n:integer] \
               [BLOCK block_ms:integer] [FENCE] [TIED]",
    },
    Described {
        call: "LOCK.EXTEND k me 600000",
        arity: -4,
        flags: "fast module write",
        categories: "@fast @sortedset @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "lock_name:key identifier:string ttl_ms:integer [SHARED | EXCLUSIVE]",
    },
    Described {
        call: "LOCK.RELEASE k me",
        arity: 3,
        flags: "fast module write",
        categories: "@fast @sortedset @string @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access delete")],
        docs: "lock_name:key identifier:string",
    },
    Described {
        call: "TASK.PUBLISH s p 0",
        arity: -3,
        flags: "denyoom fast module write",
        categories: "@fast @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW insert")],
        docs: "stream:key payload:string [retry_count:integer] \
               [DELAY delay_ms:integer | AT unix_ms:integer] [PRIORITY priority:integer] \
               [UNIQUE id:string window_ms:integer [UNTIL START | DONE] [LAST]] [EXPIRE expire_ms:integer] \
               [TRIES tries:integer] [FIELDS numfields:integer name:string value:string...] \
               [META]",
    },
    Described {
        call: "TASK.CONSUME g c s THEN 1 s-more COUNT 1 BLOCK 1",
        arity: -4,
        flags: "blocking module movablekeys write",
        categories: "@blocking @slow @stream @write",
        legacy: (3, 3, 1),
        keys: &[(3, "RW access update"), (6, "RW access update")],
        docs: "group:string consumer:string stream:key [count:integer [block_ms:integer]] \
               [COUNT count:integer] [BLOCK block_ms:integer] [META] [TIED] \
               [THEN numstreams:integer stream:key...]",
    },
    Described {
        call: "TASK.RETRY s 1-1 p 0 s-retries s-dead 3 g",
        arity: -8,
        flags: "denyoom module movablekeys write",
        categories: "@slow @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access delete"), (5, "RW insert"), (6, "RW insert")],
        docs: "stream:key id:string payload:string retry_count:integer retry_stream:key \
               dlq_stream:key max_retries:integer [group:string]",
    },
    Described {
        call: "TASK.ACK s g 1-1",
        arity: -4,
        flags: "fast module write",
        categories: "@fast @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access delete")],
        docs: "stream:key group:string id:string...",
    },
    Described {
        call: "TASK.EXTEND s g c 1-1",
        arity: -5,
        flags: "fast module write",
        categories: "@fast @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "stream:key group:string consumer:string id:string...",
    },
    Described {
        call: "TASK.NACK s g c FAIL 1-1 DELAY 600000 REASON why",
        arity: -6,
        flags: "fast module write",
        categories: "@fast @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "stream:key group:string consumer:string SILENT | FAIL | FATAL id:string \
               [DELAY delay_ms:integer] [REASON text:string] [PAYLOAD payload:string]",
    },
    Described {
        call: "TASK.CANCEL s 1-1 FORCE",
        arity: -3,
        flags: "module write",
        categories: "@slow @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access delete")],
        docs: "stream:key id:string... [FORCE]",
    },
    Described {
        call: "TASK.RESCHEDULE s 1-1 DELAY 5 PRIORITY 3",
        arity: -5,
        flags: "module write",
        categories: "@slow @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "stream:key id:string [DELAY delay_ms:integer | AT unix_ms:integer] \
               [PRIORITY priority:integer]",
    },
    Described {
        call: "TASK.STATE s 1-1 GROUP g",
        arity: -3,
        flags: "module readonly",
        categories: "@read @slow @stream",
        legacy: (1, 1, 1),
        keys: &[(1, "RO access")],
        docs: "stream:key id:string [GROUP group:string]",
    },
    Described {
        call: "TASK.REDRIVE s-dead s COUNT 1",
        arity: -3,
        flags: "module write",
        categories: "@slow @stream @write",
        legacy: (1, 2, 1),
        keys: &[(1, "RW access delete"), (2, "RW insert")],
        docs: "dead_stream:key stream:key [COUNT count:integer | ID id:string...]",
    },
    Described {
        call: "TASK.POLICY s LEASE 600000",
        arity: -4,
        flags: "fast module write",
        categories: "@fast @stream @write",
        legacy: (1, 1, 1),
        keys: &[(1, "RW access update")],
        docs: "stream:key [LEASE lease_ms:integer] [TRIES tries:integer] \
               [BACKOFF base_ms:integer max_ms:integer] [LIMIT limit:integer] [KEEP keep:integer] \
               [PAUSED paused:integer]",
    },
    Described {
        call: "TASK.INFO s",
        arity: 2,
        flags: "module readonly",
        categories: "@read @slow @stream",
        legacy: (1, 1, 1),
        keys: &[(1, "RO access")],
        docs: "stream:key",
    },
];

impl Described {
    fn name(&self) -> &str {
        self.call.split(' ').next().expect("a name")
    }

    fn words(&self) -> Vec<&str> {
        self.call.split(' ').collect()
    }
}

/// Redis 7.0 knows no ACL categories of module commands.
fn knows_categories(client: &mut Client) -> bool {
    let version = client.info("server", "redis_version").expect("INFO has the version");
    !version.starts_with("7.0.")
}

#[test]
fn command_info_shows_arity_flags_keys_and_categories() {
    let server = Server::start();
    let mut client = server.client();
    let knows_categories = knows_categories(&mut client);
    for command in COMMANDS {
        let expected = CommandInfo {
            arity: command.arity,
            flags: command.flags.into(),
            categories: if knows_categories { command.categories.into() } else { String::new() },
            legacy: command.legacy,
            keys: command.keys.iter().map(|(at, flags)| (*at, (*flags).into())).collect(),
        };
        let name = command.name().to_lowercase();
        assert_eq!(command_info(&mut client, &name), expected, "{name}");
    }
}

#[test]
fn command_getkeys_finds_every_key_and_nothing_else() {
    let server = Server::start();
    let mut client = server.client();
    for command in COMMANDS {
        let words = command.words();
        let keys = command.keys.iter().map(|(at, _)| words[usize::try_from(*at).unwrap()]);
        let reply = client.run(format!("COMMAND GETKEYS {}", command.call));
        assert_eq!(reply, array(keys), "{}", command.call);
    }
    assert_eq!(client.run("COMMAND GETKEYS TASK.CONSUME group consumer here"), array(["here"]));
    assert_eq!(
        client.run("COMMAND GETKEYS TASK.RETRY from 1-1 p 0 retries dead 3"),
        array(["from", "retries", "dead"])
    );
}

#[test]
fn command_docs_are_complete() {
    let server = Server::start();
    for mut client in [server.client(), server.client3()] {
        for command in COMMANDS {
            let name = command.name().to_lowercase();
            let reply = client.run(format!("COMMAND DOCS {name}"));
            let docs = reply.get(&name);
            let added =
                ["cancel", "extend", "info", "nack", "policy", "redrive", "reschedule", "state"];
            let is_later = added.iter().any(|added| name == format!("task.{added}"));
            let since = if is_later { "0.2.0" } else { "0.1.0" };
            for (field, value) in [("group", "module"), ("module", "corral"), ("since", since)] {
                assert_eq!(docs.get(field), &bulk(value), "{name}");
            }
            let (summary, complexity) = (docs.get("summary"), docs.get("complexity"));
            assert!(summary.as_str().len() > 10 && summary.as_str().ends_with('.'), "{name}");
            assert!(!summary.as_str().contains("  "), "{name}: {summary:?}");
            assert!(complexity.as_str().starts_with("O("), "{name}: {complexity:?}");
            assert_eq!(command_syntax(docs.get("arguments")), command.docs, "{name}");
        }
    }
}

#[test]
fn the_module_and_its_commands_are_listed() {
    let server = Server::start();
    let mut client = server.client();
    let list = client.run("MODULE LIST");
    let corral = list.items().iter().find(|module| module.get("name") == &bulk("corral"));
    let [major, minor, patch] = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    ]
    .map(|part| part.parse::<i64>().unwrap());
    let version = major * 10000 + minor * 100 + patch;
    assert_eq!(corral.expect("it is loaded").get("ver"), &int(version));

    let names: BTreeSet<_> = COMMANDS.iter().map(|command| command.name().to_lowercase()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&client.run("COMMAND LIST FILTERBY MODULE corral")), names);
}

// --- ACL

/// A connection as a user with these rules.
#[track_caller]
fn user(server: &Server, name: &str, rules: &str) -> Client {
    let mut client = server.client();
    assert_eq!(client.run(format!("ACL SETUSER {name} reset on nopass {rules}")), ok());
    assert_eq!(client.run(format!("AUTH {name} any")), ok());
    client
}

/// Whether ACL DRYRUN allows a user with these rules to run this.
#[track_caller]
fn may(client: &mut Client, rules: &str, call: &str) -> bool {
    assert_eq!(client.run(format!("ACL SETUSER other reset on nopass {rules}")), ok());
    match client.run(format!("ACL DRYRUN other {call}")) {
        Value::Simple(text) => text == b"OK",
        Value::Bulk(refusal) => {
            let refusal = String::from_utf8(refusal).expect("text");
            assert!(refusal.contains("no permissions"), "{call}: {refusal}");
            false
        }
        other => panic!("{call}: {other:?}"),
    }
}

#[test]
fn acl_categories_allow_and_deny_the_commands() {
    let server = Server::start();
    let mut client = server.client();
    let knows_categories = knows_categories(&mut client);
    for category in ["@read", "@write", "@string", "@stream", "@fast", "@slow", "@blocking"] {
        for command in COMMANDS {
            let belongs = command.categories.split(' ').any(|own| own == category);
            let allowed = may(&mut client, &format!("~* +{category}"), command.call);
            let left = may(&mut client, &format!("~* +@all -{category}"), command.call);
            let expected = knows_categories && belongs;
            assert_eq!((allowed, left), (expected, !expected), "{category}: {}", command.call);
        }
    }
}

#[test]
fn each_command_is_allowed_and_denied_by_its_name() {
    let server = Server::start();
    let mut client = server.client();
    for command in COMMANDS {
        let name = command.name().to_lowercase();
        for other in COMMANDS {
            let allowed = may(&mut client, &format!("~* +{name}"), other.call);
            let left = may(&mut client, &format!("~* +@all -{name}"), other.call);
            let same = other.name() == command.name();
            assert_eq!((allowed, left), (same, !same), "{name}: {}", other.call);
        }
    }
}

#[test]
fn permission_for_a_name_covers_the_keys_derived_from_it() {
    let server = Server::start();
    let mut admin = server.client();
    let mut shop = user(&server, "shop", "~orders* +@all");
    for (call, reply) in [
        ("CACHE.LOCK orders 600000 600000", simple("LOAD")),
        ("CACHE.SET orders v 600000", ok()),
        ("CACHE.GET orders", bulk("v")),
        ("LOCK.ACQUIRE orders me 600000", int(1)),
        ("LOCK.EXTEND orders me 600000", int(1)),
        ("LOCK.RELEASE orders me", int(1)),
        ("TASK.CONSUME g c orders:tasks", nil_array()),
        ("TASK.ACK orders:tasks g 1-1", int(0)),
        ("TASK.RETRY orders:tasks 1-1 p 0 orders:retries orders:dead 3 g", ok()),
        ("TASK.EXTEND orders:tasks g c 1-1", int(0)),
        ("TASK.NACK orders:tasks g c FAIL 1-1", int(0)),
        ("TASK.CANCEL orders:tasks 1-1", int(0)),
        ("TASK.REDRIVE orders:dead orders:tasks", int(0)),
        ("TASK.POLICY orders:tasks BACKOFF 600000 600000", ok()),
    ] {
        assert_eq!(shop.run(call), reply, "{call}");
    }
    assert!(!shop.run("TASK.PUBLISH orders:tasks p").is_error());
    assert_eq!(shop.run("TASK.CONSUME g c orders:tasks").task_ids().len(), 1);
    // The same permission covers every key that belongs to the queue.
    let id = shop.run("TASK.PUBLISH orders:tasks p PRIORITY 5 UNIQUE u 600000");
    let later = shop.run("TASK.PUBLISH orders:tasks p DELAY 600000");
    assert_eq!(shop.run("TASK.CONSUME g c orders:tasks").task_ids(), [id.as_str()]);
    assert_eq!(shop.run(format!("TASK.EXTEND orders:tasks g c {}", id.as_str())), int(1));
    assert_eq!(shop.run(format!("TASK.NACK orders:tasks g c FATAL {}", id.as_str())), int(2));
    assert_eq!(shop.run(format!("TASK.CANCEL orders:tasks {}", later.as_str())), int(1));
    assert_eq!(shop.run("TASK.INFO orders:tasks").get("dead"), &int(1));
    // It also covers a wait.
    server.wait_with(&mut shop, "TASK.CONSUME g c orders:tasks 1 600000");
    assert!(!admin.run("TASK.PUBLISH orders:tasks p").is_error());
    assert_eq!(shop.read().task_ids().len(), 1);

    // It does not cover these keys when the client names them.
    assert_eq!(shop.run("LOCK.ACQUIRE orders me 600000"), int(1));
    for call in [
        "GET lock:{orders}",
        "DEL lock:{orders}",
        "EXISTS cachelock:{orders}",
        "XLEN dead:{orders:tasks}",
        "HGETALL policy:{orders:tasks}",
        "XLEN priority5:{orders:tasks}",
    ] {
        assert!(shop.run(call).is_error_with("NOPERM"), "{call}");
    }
}

#[test]
fn a_name_without_permission_is_refused_in_every_position() {
    let server = Server::start();
    let mut admin = server.client();
    let mut shop = user(&server, "shop", "~k ~s* +@all");
    for command in COMMANDS {
        let right = shop.run(command.call);
        assert!(!right.is_error(), "{}: {right:?}", command.call);
        for (at, _) in command.keys {
            let mut call = command.words();
            call[usize::try_from(*at).unwrap()] = "other";
            let before = Keyspace::of(&mut admin);
            let reply = shop.cmd(&call);
            assert!(reply.is_error_with("NOPERM"), "{call:?}: {reply:?}");
            assert_eq!(Keyspace::of(&mut admin), before);
        }
    }
}

#[test]
fn read_and_write_permissions_are_distinguished() {
    let server = Server::start();
    let mut client = server.client();
    for (call, read, write) in [
        ("CACHE.GET k", true, false),
        ("CACHE.LOCK k 1000 1000", false, true),
        ("CACHE.SET k v 1000", false, true),
        ("LOCK.ACQUIRE k me 1000", false, true),
        ("TASK.PUBLISH k p", false, true),
        // It reads the stream and writes leases.
        ("TASK.CONSUME g c k", false, false),
        ("TASK.EXTEND k g c 1-1", false, false),
        ("TASK.NACK k g c FAIL 1-1", false, false),
        ("TASK.CANCEL k 1-1", false, false),
        ("TASK.POLICY k LIMIT 5", false, false),
        ("TASK.INFO k", true, false),
    ] {
        assert_eq!(may(&mut client, "%R~k +@all", call), read, "{call}");
        assert_eq!(may(&mut client, "%W~k +@all", call), write, "{call}");
        assert!(may(&mut client, "%RW~k +@all", call), "{call}");
    }
    // The source is read and written, the other two streams only written.
    let retry = "TASK.RETRY k 1-1 p 0 r d 3";
    assert!(may(&mut client, "%RW~k %W~r %W~d +@all", retry));
    assert!(!may(&mut client, "%RW~k %W~r %R~d +@all", retry));
    assert!(!may(&mut client, "%R~k %W~r %W~d +@all", retry));
    let redrive = "TASK.REDRIVE d k";
    assert!(may(&mut client, "%RW~d %W~k +@all", redrive));
    assert!(!may(&mut client, "%RW~d %R~k +@all", redrive));
    assert!(!may(&mut client, "%R~d %W~k +@all", redrive));
}

#[test]
fn a_user_needs_no_other_command_to_consume() {
    let server = Server::start();
    let mut admin = server.client();
    let mut worker = user(&server, "worker", "~* -@all +task.consume");
    // It creates the stream and the group, waits, and is served.
    assert_eq!(worker.run("TASK.CONSUME g c tasks"), nil_array());
    server.wait_with(&mut worker, "TASK.CONSUME g c tasks 1 600000");
    let id = admin.run("XADD tasks * payload p");
    assert_eq!(worker.read().task_ids(), [id.as_str()]);
    // It promotes due tasks, moves dead ones to the dead-letter queue and reclaims the others.
    for (id, member) in [("1-1", "dead"), ("1-2", "due")] {
        admin.run(format!("XADD priority5:{{tasks}} {id} payload {member}"));
        admin.run(format!("ZADD delayed:{{tasks}} 1 {member}"));
    }
    admin.run("TASK.POLICY tasks LEASE 20 TRIES 1");
    eventually(SOON, "everything is dead", || {
        worker.run("TASK.CONSUME g c tasks 9");
        admin.run("XLEN dead:{tasks}") == int(5)
    });
    for call in ["TASK.ACK tasks g 1-1", "XACK tasks g 1-1", "XREADGROUP GROUP g c STREAMS tasks >"]
    {
        assert!(worker.run(call).is_error_with("NOPERM"), "{call}");
    }
}

// --- INFO and the server's own statistics

/// The fields of `INFO corral` that are numbers.
#[track_caller]
fn counters(client: &mut Client) -> BTreeMap<String, i64> {
    let text = client.run("INFO corral");
    let mut lines = text.as_str().lines();
    assert_eq!(lines.next(), Some("# corral"));
    lines
        .map(|line| line.split_once(':').expect("a field"))
        .filter(|(name, _)| !["corral_version", "corral_build"].contains(name))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[test]
fn info_and_the_log_say_which_build_this_is() {
    let server = Server::start();
    let mut client = server.client();
    let version = client.info("corral", "corral_version").expect("a version");
    let build = client.info("corral", "corral_build").expect("a build");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert!(!build.is_empty() && build.bytes().all(|b| b.is_ascii_graphic()), "{build:?}");
    let line = format!("<corral> loaded: version {version}, build {build}");
    assert_eq!(server.log().matches(&line).count(), 1, "{}", server.log());
}

/// How a set of numbers differs from what it was before: only what has changed.
fn growth(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<(String, i64)> {
    // Sums of durations differ from run to run.
    let counts = after.iter().filter(|(name, _)| !name.ends_with("_ms_sum"));
    let changed = counts.filter(|(name, value)| before.get(*name) != Some(value));
    changed.map(|(name, value)| (name.clone(), value - before.get(name).unwrap_or(&0))).collect()
}

const FIELDS: [&str; 30] = [
    "corral_panics",
    "corral_cache_hits",
    "corral_cache_misses",
    "corral_cache_loads",
    "corral_cache_waits",
    "corral_cache_fills",
    "corral_lock_acquired",
    "corral_lock_contended",
    "corral_lock_released",
    "corral_task_published",
    "corral_task_delivered",
    "corral_task_acked",
    "corral_task_requeued",
    "corral_task_dead_lettered",
    "corral_task_reclaimed",
    "corral_task_expired",
    "corral_task_delayed",
    "corral_task_promoted",
    "corral_task_deduplicated",
    "corral_task_refused",
    "corral_task_cancelled",
    "corral_task_redriven",
    "corral_task_unknown_version",
    "corral_task_waiters",
    "corral_cache_disconnected",
    "corral_cache_ties",
    "corral_lock_disconnected",
    "corral_lock_ties",
    "corral_task_disconnected",
    "corral_task_ties",
];

#[test]
fn info_has_a_section_of_the_module() {
    let server = Server::start();
    let mut client = server.client();
    let counters = counters(&mut client);
    for field in FIELDS {
        assert_eq!(counters.get(field), Some(&0), "{field}");
    }
    for name in counters.keys() {
        assert!(name.starts_with("corral_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
    }
    for (section, has_it) in [
        ("INFO", false),
        ("INFO all", false),
        ("INFO default", false),
        ("INFO everything", true),
        ("INFO modules", true),
        ("INFO CORRAL", true),
        ("INFO server corral", true),
        ("INFO server", false),
    ] {
        let text = client.run(section);
        for field in FIELDS {
            let line = format!("\r\n{field}:0\r\n");
            assert_eq!(text.as_str().contains(&line), has_it, "{section}: {field}");
        }
        assert_eq!(text.as_str().contains("# corral\r\n"), has_it, "{section}");
    }
}

#[test]
fn every_counter_counts_what_its_name_says() {
    let server = Server::start();
    let mut client = server.client();
    client.run("RPUSH list v");
    client.cmd(&args!["SET", "long", vec![b'x'; 1000]]);
    // Entries with known ids.
    for id in ["1-1", "1-2", "1-3"] {
        client.run(format!("XADD tasks {id} payload p timestamp 1 retry_count 0"));
    }
    for (call, grown) in [
        ("CACHE.GET k", "cache_misses=1"),
        ("CACHE.LOCK k 600000 600000", "cache_loads=1"),
        ("CACHE.LOCK k 600000 600000", "cache_waits=1"),
        ("CACHE.SET k v 600000", "cache_fills=1"),
        ("CACHE.GET k", "cache_hits=1"),
        ("CACHE.GET long", "cache_hits=1"),
        ("CACHE.GET list", ""),
        ("CACHE.SET list v 600000", ""),
        ("CACHE.SET k v 0", ""),
        ("CACHE.LOCK list 600000 600000", ""),
        ("LOCK.ACQUIRE job me 600000", "lock_acquired=1"),
        ("LOCK.ACQUIRE job me 600000", "lock_contended=1"),
        ("LOCK.ACQUIRE job you 0", ""),
        ("LOCK.EXTEND job me 600000", ""),
        ("LOCK.RELEASE job you", ""),
        ("LOCK.RELEASE job me", "lock_released=1"),
        ("LOCK.RELEASE job me", ""),
        ("TASK.CONSUME g c tasks 2", "task_delivered=2"),
        ("TASK.CONSUME g c tasks 2", "task_delivered=1"),
        ("TASK.CONSUME g c tasks 2", ""),
        ("TASK.CONSUME g c tasks 1 1", ""),
        ("TASK.CONSUME g c list", ""),
        ("TASK.ACK tasks g 1-1 1-1 9-9", "task_acked=1"),
        ("TASK.ACK tasks g 1-1", ""),
        // The source entry is finished.
        ("TASK.RETRY tasks 1-2 p 0 retries dead 3", "task_acked=1 task_requeued=1"),
        ("TASK.RETRY tasks 1-2 p 0 retries dead 3", "task_requeued=1"),
        ("TASK.RETRY tasks 1-3 p 3 retries dead 3 g", "task_acked=1 task_dead_lettered=1"),
        ("TASK.RETRY tasks 1-3 p 3 retries list 3 g", ""),
        ("TASK.PUBLISH tasks p", "task_published=1"),
        ("TASK.PUBLISH list p", ""),
        ("TASK.PUBLISH tasks p -1", ""),
        ("XADD tasks * payload p", ""),
        ("XADD other 1-1 payload p retry_count 0", ""),
        ("XADD other 1-2 payload p retry_count 0", ""),
        ("XADD other 1-3 payload p retry_count 0", ""),
        ("TASK.POLICY other LIMIT 6 TRIES 2", ""),
        ("TASK.POLICY list LIMIT 6", ""),
        ("TASK.CONSUME g c other 3", "task_delivered=3"),
        ("TASK.EXTEND other g c 1-1", ""),
        ("TASK.EXTEND other g c 9-9", ""),
        ("TASK.NACK other g c SILENT 1-1", "task_requeued=1"),
        ("TASK.NACK other g c FAIL 1-2 DELAY 600000", "task_requeued=1"),
        ("TASK.NACK other g c FATAL 1-3", "task_dead_lettered=1"),
        ("TASK.NACK other g c FATAL 1-3", ""),
        ("TASK.NACK other g c NEVER 1-3", ""),
        ("TASK.REDRIVE dead:{other} other", "task_redriven=1"),
        ("TASK.REDRIVE dead:{other} other", ""),
        ("TASK.PUBLISH other p DELAY 600000", "task_delayed=1 task_published=1"),
        ("XADD late 1-1 payload p timestamp 1 retry_count 0 expire_unix_ms 1", ""),
        ("TASK.CONSUME g c late", "task_dead_lettered=1 task_expired=1"),
        ("TASK.PUBLISH other p UNIQUE u 600000", "task_published=1"),
        ("TASK.PUBLISH other p UNIQUE u 600000", "task_deduplicated=1"),
        ("TASK.PUBLISH other p PRIORITY 3", "task_published=1"),
        ("TASK.PUBLISH other p", "task_refused=1"),
        ("XADD other 9999999999999-1 payload p", ""),
        ("TASK.CANCEL other 9999999999999-1 9-9", "task_cancelled=1"),
        ("TASK.CANCEL other 9999999999999-1", ""),
        ("ZADD delayed:{other} 1 p", ""),
        ("TASK.CONSUME g c other", "task_delivered=1 task_promoted=1"),
        ("TASK.INFO other", ""),
        ("SET lock:{plain} me", ""),
        ("CONFIG RESETSTAT", ""),
    ] {
        let before = counters(&mut client);
        client.run(call);
        let grown: Vec<_> = grown
            .split_ascii_whitespace()
            .map(|field| field.split_once('=').expect("name and number"))
            .map(|(name, number)| (format!("corral_{name}"), number.parse().expect("a number")))
            .collect();
        assert_eq!(growth(&before, &counters(&mut client)), grown, "{call}");
    }
}

#[test]
fn waiting_consumers_are_counted_while_they_wait() {
    let server = Server::start();
    let mut client = server.client();
    let before = counters(&mut client);
    let mut waiters = [server.client(), server.client3(), server.client()];
    for waiter in &mut waiters {
        server.wait_with(waiter, "TASK.CONSUME g c tasks 10 600000");
    }
    let waiting = counters(&mut client);
    assert_eq!(growth(&before, &waiting), [("corral_task_waiters".to_owned(), 3)]);
    // One is served by a publish, one by a plain entry, and one is unblocked.
    client.run("TASK.PUBLISH tasks p");
    client.run("XADD tasks * payload p");
    let [first, second, third] = &mut waiters;
    for served in [first, second] {
        assert_eq!(served.read().task_ids().len(), 1);
    }
    let id = blocked_id(&mut client);
    assert_eq!(client.run(format!("CLIENT UNBLOCK {id}")), int(1));
    assert_eq!(third.read(), nil_array());
    let grown = [("corral_task_delivered".to_owned(), 2), ("corral_task_published".to_owned(), 1)];
    assert_eq!(growth(&before, &counters(&mut client)), grown);
}

/// The id of the one client that is blocked.
#[track_caller]
fn blocked_id(client: &mut Client) -> String {
    let list = client.run("CLIENT LIST");
    let blocked = list.as_str().lines().find(|line| line.contains("flags=b"));
    let id = blocked.and_then(|line| line.split(' ').next()?.strip_prefix("id="));
    id.expect("a blocked client").to_owned()
}

/// The server's own counters: hits and misses, and errors by their code.
#[track_caller]
fn server_counts(client: &mut Client) -> BTreeMap<String, i64> {
    let text = client.run("INFO everything");
    let lines = text.as_str().lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.starts_with("keyspace_") || name.starts_with("errorstat_"))
        .map(|(name, value)| {
            let value = value.strip_prefix("count=").unwrap_or(value);
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[track_caller]
fn counts_of_server(client: &mut Client, call: &str) -> Vec<(String, i64)> {
    let before = server_counts(client);
    client.run(call);
    growth(&before, &server_counts(client))
}

#[test]
fn a_cache_read_counts_as_one_hit_or_miss_of_the_server() {
    let server = Server::start();
    let mut client = server.client();
    client.run("SET short v");
    client.run("SET number 12345");
    client.cmd(&args!["SET", "long", vec![b'x'; 100_000]]);
    client.run("SET gone v PX 1");
    eventually(SOON, "a value ends", || client.run("EXISTS gone") == int(0));
    for key in ["short", "number", "long"] {
        let counts = counts_of_server(&mut client, &format!("CACHE.GET {key}"));
        assert_eq!(counts, [("keyspace_hits".to_owned(), 1)], "{key}");
    }
    for key in ["gone", "missing"] {
        let counts = counts_of_server(&mut client, &format!("CACHE.GET {key}"));
        assert_eq!(counts, [("keyspace_misses".to_owned(), 1)], "{key}");
    }
}

#[test]
fn the_server_counts_each_refusal_once_and_no_error_in_what_succeeds() {
    let server = Server::start();
    let mut client = server.client();
    client.run("RPUSH list v");
    for (call, code) in [
        ("TASK.CONSUME g c tasks", None), // creates stream and group
        ("TASK.CONSUME h c tasks", None),
        ("TASK.PUBLISH tasks p", None),
        ("TASK.ACK missing g 1-1", None),
        ("TASK.RETRY missing 1-1 p 0 retries dead 3 g", None),
        ("TASK.PUBLISH tasks p PRIORITY 3", None),
        ("XADD priority3:{tasks} 9999999999999-5 payload p", None),
        ("TASK.PUBLISH tasks p PRIORITY 3", None), // after a foreign id
        ("TASK.CONSUME g c tasks 9", None),        // creates the group there
        ("TASK.EXTEND tasks nobody c 1-1", None),
        ("TASK.NACK missing g c FAIL 1-1", None),
        ("TASK.CANCEL missing 1-1", None),
        ("TASK.INFO missing", None),
        ("TASK.POLICY tasks LIMIT 1", None),
        ("TASK.PUBLISH tasks p", Some("TASKFULL")),
        ("TASK.REDRIVE list tasks", Some("WRONGTYPE")),
        ("TASK.PUBLISH list p", Some("WRONGTYPE")),
        ("TASK.CONSUME g c list", Some("WRONGTYPE")),
        ("TASK.RETRY missing 1-1 p 0 list dead 3", Some("WRONGTYPE")),
        ("CACHE.SET list v 1000", Some("WRONGTYPE")),
        ("CACHE.SET k v 0", Some("ERR")),
        ("TASK.RETRY tasks 1-1 p 0 retries dead 3 nobody", Some("NOGROUP")),
        ("CACHE.GET", Some("ERR")),
    ] {
        let mut counts = counts_of_server(&mut client, call);
        counts.retain(|(name, _)| name.starts_with("errorstat_"));
        let expected = code.map(|code| (format!("errorstat_{code}"), 1));
        assert_eq!(counts, Vec::from_iter(expected), "{call}");
    }
}

// --- Settings and arguments

#[track_caller]
fn wake_bytes(client: &mut Client) -> String {
    client.run("CONFIG GET corral.wake-bytes").get("corral.wake-bytes").as_str().to_owned()
}

/// Values of `wake-bytes` that are out of range or not integers.
const NO_WAKE_BYTES: [&str; 8] =
    ["0", "-1", "4294967297", "9223372036854775808", "1.5", "x", "1kb", "+1"];

#[test]
fn config_set_accepts_settings_within_their_range() {
    let mut server = Server::start();
    let mut client = server.client();
    let settings = client.run("CONFIG GET corral.*");
    assert_eq!(settings.items().len(), 14, "every setting");
    for (name, default, least, most) in [
        ("corral.cache-late-bytes", "33554432", "0", "4398046511104"),
        ("corral.cache-late-ms", "60000", "0", "4398046511104"),
        ("corral.fence-ttl-ms", "86400000", "1", "4398046511104"),
        ("corral.task-groups", "256", "1", "1000000"),
        ("corral.task-lease-ms", "300000", "0", "4398046511104"),
        ("corral.task-tries", "20", "0", "1000000000"),
        ("corral.wake-bytes", "8388608", "1", "4294967296"),
    ] {
        assert_eq!(settings.get(name), &bulk(default), "the default of {name}");
        for (value, is_taken) in [(least, true), (most, true), ("-1", false)] {
            let reply = client.run(format!("CONFIG SET {name} {value}"));
            assert_eq!(reply == ok(), is_taken, "{name} {value}: {reply:?}");
        }
        let beyond = most.parse::<i64>().expect("a number") + 1;
        assert!(client.run(format!("CONFIG SET {name} {beyond}")).is_error(), "{name}");
        assert_eq!(client.run(format!("CONFIG GET {name}")).get(name), &bulk(most));
        assert_eq!(client.run(format!("CONFIG SET {name} {default}")), ok());
    }
    for value in ["1", "4294967296", "1000"] {
        assert_eq!(client.run(format!("CONFIG SET corral.wake-bytes {value}")), ok());
        assert_eq!(wake_bytes(&mut client), value);
    }
    // CONFIG SET reads +1 as an integer on some servers.
    for value in NO_WAKE_BYTES.iter().filter(|value| **value != "+1") {
        let reply = client.run(format!("CONFIG SET corral.wake-bytes {value}"));
        assert!(reply.is_error_with("ERR"), "{value}: {reply:?}");
        assert_eq!(wake_bytes(&mut client), "1000", "after {value}");
    }
    assert_eq!(client.cmd(&args!["CONFIG", "SET", "CORRAL.Wake-Bytes", 2000]), ok());
    assert_eq!(client.run("CONFIG REWRITE"), ok());
    server.restart();
    assert_eq!(wake_bytes(&mut server.client()), "2000");
}

#[test]
fn settings_come_from_load_arguments_or_the_configuration() {
    let from_argument = Server::builder().module_arg("wake-bytes").module_arg(1000);
    let by_other_case = Server::builder().module_arg("WAKE-BYTES").module_arg(1000);
    let from_configuration = Server::builder().arg("--corral.wake-bytes").arg(1000);
    // The configuration wins, since CONFIG REWRITE writes it.
    let from_both = from_configuration.clone().module_arg("wake-bytes").module_arg(1);
    for builder in [from_argument, by_other_case, from_configuration, from_both] {
        assert_eq!(wake_bytes(&mut builder.clone().start().client()), "1000", "{builder:?}");
    }
}

/// Arguments with which the module does not load, and the reason in the log.
fn refused_arguments() -> Vec<(Vec<&'static str>, &'static str)> {
    let mut refused = vec![
        (vec!["wake-bytes"], "a module argument has no value"),
        (vec!["nonsense"], "a module argument has no value"),
        (vec!["wake-bytes", "1000", "nonsense"], "a module argument has no value"),
        (vec!["nonsense", "1000"], "unknown module argument"),
        (vec!["corral.wake-bytes", "1000"], "unknown module argument"),
        (vec!["wake-bytes", "1000", "nonsense", "1"], "unknown module argument"),
        (vec!["", ""], "unknown module argument"),
    ];
    let no_value = "a module argument is not an integer within its range";
    refused.extend(NO_WAKE_BYTES.map(|value| (vec!["wake-bytes", value], no_value)));
    refused
}

#[test]
fn a_wrong_load_argument_keeps_the_server_from_starting() {
    for (arguments, why) in refused_arguments() {
        let builder = arguments.iter().fold(Server::builder(), Builder::module_arg);
        let Err(log) = builder.try_start() else { panic!("{arguments:?} loads") };
        assert!(log.contains(why), "{arguments:?}: {log}");
    }
    let configured = Server::builder().arg("--corral.wake-bytes").arg(0);
    assert!(configured.try_start().is_err(), "0 from the configuration");
}

#[test]
fn a_refused_load_leaves_nothing_behind() {
    let server = Server::builder().module(false).start();
    let mut client = server.client();
    let path = module_path().display().to_string();
    let is_absent = |client: &mut Client| {
        client.run("CACHE.GET k").is_error_with("ERR unknown command")
            && client.run("CONFIG GET corral.*") == array([""; 0])
            && client.run("INFO corral") == bulk("")
    };
    assert!(is_absent(&mut client));
    let mut loads: Vec<Vec<String>> = Vec::new();
    for (arguments, _) in refused_arguments() {
        let load = [&["MODULE", "LOAD", &path][..], &arguments].concat();
        loads.push(load.into_iter().map(Into::into).collect());
    }
    for wrong in ["CONFIG corral.nonsense 1", "CONFIG corral.wake-bytes 0", "ARGS nonsense 1"] {
        let load = format!("MODULE LOADEX {path} {wrong}");
        loads.push(load.split(' ').map(Into::into).collect());
    }
    for load in loads {
        assert!(client.cmd(&load).is_error(), "{load:?}");
        assert!(is_absent(&mut client), "{load:?}");
    }
    let load = format!("MODULE LOADEX {path} CONFIG corral.wake-bytes 7 ARGS wake-bytes 5");
    assert_eq!(client.run(load), ok());
    assert_eq!(wake_bytes(&mut client), "7");
    assert_eq!(client.run("CACHE.GET k"), nil());
}

// --- Loading and unloading

#[track_caller]
fn load(client: &mut Client) {
    let loaded = client.cmd(&args!["MODULE", "LOAD", module_path().display().to_string()]);
    assert_eq!(loaded, ok());
}

#[test]
fn a_server_with_renamed_commands_does_not_load_the_module() {
    for name in ["DEL", "XDEL", "ZREM", "XINFO", "PEXPIREAT", "EXISTS", "XREADGROUP", "UNLINK"] {
        let builder = Server::builder().arg("--rename-command").arg(name).arg("renamed");
        let Err(log) = builder.try_start() else { panic!("loaded without {name}") };
        assert!(log.contains(&format!("no command {name}")), "{log}");
    }
    // The module can do without these.
    for name in ["CLIENT", "COMMAND", "FLUSHALL"] {
        let builder = Server::builder().arg("--rename-command").arg(name).arg("renamed");
        let server = builder.start();
        assert_eq!(server.client().run("LOCK.ACQUIRE job me 1000"), int(1));
    }
}

/// Unloads the module, if need be after a moment.
#[track_caller]
fn unload(client: &mut Client) {
    eventually(SOON, "the module is unloaded", || client.run("MODULE UNLOAD corral") == ok());
}

#[test]
fn data_survives_unloading_and_loading_the_module() {
    let server = Server::start();
    let mut client = server.client();
    client.run("LOCK.ACQUIRE job me 600000");
    client.run("CACHE.SET k v 600000");
    client.run("CACHE.LOCK loading 600000 600000");
    client.run("XADD tasks 1-1 payload p timestamp 1 retry_count 0");
    client.run("TASK.CONSUME g c tasks");
    client.run("TASK.POLICY tasks LEASE 600000 LIMIT 4");
    let urgent = client.run("TASK.PUBLISH tasks p PRIORITY 4");
    let later = client.run("TASK.PUBLISH tasks p DELAY 600000 UNIQUE u 600000");
    let before = Keyspace::of(&mut client);

    assert_eq!(client.run("MODULE UNLOAD corral"), ok());
    for command in COMMANDS {
        assert!(client.run(command.call).is_error_with("ERR unknown command"), "{}", command.call);
    }
    assert_eq!(client.run("CONFIG GET corral.*"), array([""; 0]));
    assert_eq!(client.run("INFO corral"), bulk(""));
    assert_eq!(Keyspace::of(&mut client), before);

    load(&mut client);
    for (call, reply) in [
        ("LOCK.ACQUIRE job you 1000", int(0)),
        ("LOCK.RELEASE job me", int(1)),
        ("CACHE.GET k", bulk("v")),
        // A load in progress is forgotten.
        ("CACHE.LOCK loading 1000 1000", simple("LOAD")),
        ("TASK.ACK tasks g 1-1", int(1)),
        ("TASK.PUBLISH tasks p UNIQUE u 600000", later.clone()),
        (&format!("TASK.CANCEL tasks {} {}", urgent.as_str(), later.as_str()), int(2)),
    ] {
        assert_eq!(client.run(call), reply, "{call}");
    }
    assert_eq!(counters(&mut client)["corral_lock_contended"], 1, "counters begin anew");
}

#[test]
fn what_the_module_remembers_of_a_stream_goes_when_it_is_unloaded() {
    let server = Server::start();
    let mut client = server.client();
    let finish = |client: &mut Client, id: &str| {
        client.run(format!("XADD tasks {id} payload p timestamp 1 retry_count 0"));
        assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids().len(), 1);
        assert_eq!(client.run(format!("TASK.ACK tasks g {id}")), int(1));
    };
    finish(&mut client, "1-1");
    assert_eq!(client.run("XLEN tasks"), int(0), "one group deletes at once");
    unload(&mut client);
    assert_eq!(client.run("XGROUP CREATE tasks h 0"), ok());
    load(&mut client);
    finish(&mut client, "1-2");
    assert_eq!(client.run("XLEN tasks"), int(1), "the other group has not read it");

    // It notices again what other clients do.
    assert_eq!(client.run("XGROUP DESTROY tasks h"), int(1));
    finish(&mut client, "1-3");
    assert_eq!(client.run("XGROUP CREATE tasks h $"), ok());
    finish(&mut client, "1-4");
    assert_eq!(client.run("XLEN tasks"), int(2));
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c tasks 1 600000");
    client.run("XADD tasks 1-5 payload p");
    assert_eq!(waiter.read().task_ids().len(), 1);
}

#[test]
fn loading_the_module_twice_is_refused_and_harmless() {
    let server = Server::start();
    let mut client = server.client();
    let mut waiter = server.client();
    server.wait_with(&mut waiter, "TASK.CONSUME g c tasks 1 600000");
    let again = args!["MODULE", "LOAD", module_path().display().to_string()];
    assert!(client.cmd(&again).is_error());
    client.run("TASK.PUBLISH tasks p");
    assert_eq!(waiter.read().task_ids().len(), 1);
    assert_eq!(counters(&mut client)["corral_task_delivered"], 1, "it is the same module");
    for command in COMMANDS {
        let reply = client.run(command.call);
        assert!(!reply.is_error(), "{}: {reply:?}", command.call);
    }
    settle(&mut waiter);
    unload(&mut client);
    load(&mut client);
}

/// Has a connection run a command of the server. When the next command comes, Redis 8.0 looks at the
/// last one of the connection, even if it was one of a module that has been unloaded.
#[track_caller]
fn settle(client: &mut Client) {
    assert_eq!(client.run("PING"), simple("PONG"));
}

/// Loads the module, uses all of it, and unloads it.
fn cycle(client: &mut Client, waiter: &mut Client) {
    load(client);
    for command in COMMANDS {
        client.run(command.call);
    }
    waiter.send("TASK.CONSUME g c waiting 1 600000");
    eventually(SOON, "it waits", || counters(client)["corral_task_waiters"] == 1);
    client.run("TASK.PUBLISH waiting p");
    waiter.read();
    settle(waiter);
    client.run("CONFIG GET corral.*");
    client.run("CACHE.SET k v 0");
    unload(client);
    client.run("FLUSHALL");
}

#[test]
fn loading_and_unloading_repeatedly_leaks_no_memory() {
    let server = Server::builder().module(false).start();
    let many_cycles = |count: usize| {
        let (mut client, mut waiter) = (server.client(), server.client());
        (0..count).for_each(|_| cycle(&mut client, &mut waiter));
    };
    let used = || info(&server, "memory", "used_memory").unwrap().parse::<i64>().unwrap();
    many_cycles(30);
    let before = used();
    many_cycles(100);
    // Buffers of closed connections are freed a little later; a leak stays.
    let mut least = i64::MAX;
    eventually(SOON, "memory is as before", || {
        least = least.min(used() - before);
        assert!(least < 1 << 20, "{least} bytes more after 100 cycles");
        least < 100 * 24
    });
}

// --- WATCH and CLIENT TRACKING

/// Commands that leave all keys as they are.
const LEAVE_ALONE: [&str; 45] = [
    "CACHE.GET k",
    "CACHE.GET long",
    "CACHE.GET missing",
    "CACHE.GET list",
    "CACHE.LOCK loading 1000 1000",
    "CACHE.LOCK k 0 1000",
    "CACHE.LOCK list 1000 1000",
    "CACHE.SET k other 0",
    "CACHE.SET k other 1000 NOSUCHOPTION",
    "CACHE.SET list other 1000",
    "LOCK.ACQUIRE job you 1000",
    "LOCK.ACQUIRE job me 1000",
    "LOCK.ACQUIRE missing me 0",
    "LOCK.EXTEND job you 1000",
    "LOCK.EXTEND missing me 1000",
    "LOCK.RELEASE job you",
    "LOCK.RELEASE missing me",
    "TASK.PUBLISH tasks p -1",
    "TASK.PUBLISH list p",
    "TASK.ACK tasks g 9-9",
    "TASK.ACK tasks nobody 1-1",
    "TASK.RETRY tasks 1-1 p 0 list dead 3 g",
    "TASK.RETRY tasks 1-1 p 0 retries dead 3 nobody",
    "TASK.CONSUME g c tasks",
    "TASK.PUBLISH full p",
    "TASK.PUBLISH full p PRIORITY 3",
    "TASK.PUBLISH full p DELAY 600000",
    "TASK.PUBLISH tasks p DELAY 1 AT 1",
    "TASK.PUBLISH tasks p UNIQUE u 0",
    "TASK.EXTEND tasks g other 1-1",
    "TASK.EXTEND tasks g c 9-9",
    "TASK.EXTEND missing g c 1-1",
    "TASK.EXTEND list g c 1-1",
    "TASK.NACK tasks g other FAIL 1-1",
    "TASK.NACK tasks g c FATAL 9-9",
    "TASK.NACK missing g c SILENT 1-1",
    "TASK.NACK tasks g c NEVER 1-1",
    "TASK.CANCEL tasks 1-1 9-9 9-1000000000000000000",
    "TASK.CANCEL missing 1-1",
    "TASK.REDRIVE missing tasks",
    "TASK.REDRIVE list tasks",
    "TASK.POLICY tasks LIMIT -1",
    "TASK.POLICY full KEEP 1",
    "TASK.INFO tasks",
    "TASK.INFO missing",
];

/// Commands that change keys, and the keys.
const CHANGE: [(&str, &[&str]); 17] = [
    ("CACHE.LOCK k 600000 600000", &["cachelock:{k}"]),
    ("CACHE.SET k other 600000", &["k", "cachelock:{k}"]),
    ("LOCK.EXTEND job me 600000", &["lock:{job}"]),
    ("LOCK.RELEASE job me", &["lock:{job}"]),
    ("LOCK.ACQUIRE job you 600000", &["lock:{job}"]),
    ("TASK.PUBLISH tasks p", &["tasks"]),
    ("TASK.RETRY gone 1-1 p 0 retries dead 3", &["retries"]),
    ("TASK.RETRY gone 1-1 p 3 retries dead 3", &["dead"]),
    ("TASK.NACK tasks g c SILENT 1-1", &["tasks", "taskmoved:{tasks}"]),
    ("TASK.PUBLISH tasks p PRIORITY 3", &["priority3:{tasks}"]),
    ("TASK.PUBLISH tasks p DELAY 600000", &["delayed:{tasks}"]),
    ("TASK.PUBLISH other p UNIQUE u 600000", &["other", "unique5:{other}:u"]),
    ("TASK.POLICY tasks LIMIT 9", &["policy:{tasks}"]),
    ("TASK.NACK urgent g c FATAL 1-1", &["dead:{urgent}", "urgent"]),
    ("TASK.REDRIVE dead:{urgent} urgent", &["dead:{urgent}", "urgent", "taskmoved:{urgent}"]),
    ("TASK.CANCEL single 1-1", &["single"]),
    ("TASK.ACK last g 1-1", &["last"]),
];

const WATCHED: &str = "k long list missing loading cachelock:{k} cachelock:{loading} \
    cachelock:{list} lock:{job} lock:{missing} job tasks retries dead wait:{tasks} full other \
    urgent single last priority3:{full} delayed:{full} policy:{full} priority3:{tasks} delayed:{tasks} \
    policy:{tasks} dead:{tasks} unique5:{tasks}:u unique5:{other}:u dead:{urgent}";

fn prepare_watched(client: &mut Client) {
    assert_eq!(client.run("FLUSHALL"), ok());
    client.run("SET k v");
    client.cmd(&args!["SET", "long", vec![b'x'; 1000]]);
    client.run("RPUSH list v");
    client.run("CACHE.LOCK loading 600000 600000");
    client.run("LOCK.ACQUIRE job me 600000");
    client.run("XADD tasks 1-1 payload p");
    assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids().len(), 1);
    client.run("XADD full 1-1 payload p");
    client.run("HSET policy:{full} limit 1");
    client.run("XADD single 1-1 payload p");
    for queue in ["urgent", "last"] {
        client.run(format!("XADD {queue} 1-1 payload p"));
        assert_eq!(client.run(format!("TASK.CONSUME g c {queue}")).task_ids().len(), 1);
    }
}

#[test]
fn a_command_that_changes_nothing_aborts_no_watching_transaction() {
    let server = Server::start();
    let (mut watcher, mut client) = (server.client(), server.client());
    prepare_watched(&mut client);
    let mut transaction_goes_through = |call: &str| {
        assert_eq!(watcher.run(format!("WATCH {WATCHED}")), ok());
        client.run(call);
        assert_eq!(watcher.pipeline(&["MULTI", "PING"]), [ok(), simple("QUEUED")]);
        !watcher.run("EXEC").is_nil()
    };
    for call in LEAVE_ALONE {
        assert!(transaction_goes_through(call), "{call}");
    }
    for (call, _) in CHANGE {
        assert!(!transaction_goes_through(call), "{call}");
    }
}

/// The keys of all invalidations up to that of the key `end`, in order.
#[track_caller]
fn invalidated(tracker: &mut Client, end: &str) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        let push = tracker.read();
        let Value::Push(items) = &push else { panic!("not a push: {push:?}") };
        assert_eq!(items[0], bulk("invalidate"));
        // A null would mean that the database was flushed.
        assert!(!items[1].is_nil(), "{push:?}");
        for key in items[1].items() {
            if key.as_str() == end {
                return keys;
            }
            keys.push(key.as_str().to_owned());
        }
    }
}

#[test]
fn client_tracking_reports_exactly_the_keys_that_change() {
    let server = Server::start();
    let (mut tracker, mut client) = (server.client3(), server.client());
    prepare_watched(&mut client);
    assert_eq!(tracker.run("CLIENT TRACKING ON BCAST"), ok());
    for call in LEAVE_ALONE {
        client.run(call);
        client.run("INCR end");
        assert_eq!(invalidated(&mut tracker, "end"), [""; 0], "{call}");
    }
    for (call, keys) in CHANGE {
        client.run(call);
        client.run("INCR end");
        let mut invalid = invalidated(&mut tracker, "end");
        invalid.sort();
        invalid.dedup();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        assert_eq!(invalid, keys, "{call}");
    }
}

#[test]
fn a_value_read_by_cache_get_is_tracked() {
    let server = Server::start();
    let (mut tracker, mut client) = (server.client3(), server.client());
    prepare_watched(&mut client);
    assert_eq!(tracker.run("CLIENT TRACKING ON"), ok());
    for key in ["k", "long", "missing"] {
        tracker.run(format!("CACHE.GET {key}"));
        tracker.run("GET end");
        client.run(format!("CACHE.SET {key} new 600000"));
        client.run("INCR end");
        assert_eq!(invalidated(&mut tracker, "end"), [key]);
    }
    // A lock that a plain client reads.
    tracker.run("GET lock:{job}");
    tracker.run("GET end");
    client.run("LOCK.RELEASE job me");
    client.run("INCR end");
    assert_eq!(invalidated(&mut tracker, "end"), ["lock:{job}"]);
}
