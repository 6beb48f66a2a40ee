//! A command that writes a string has every effect of the native command: on the data, the replicas, the
//! snapshots, the keyspace events and the clients that watch or track the key.

mod support;
use support::*;

/// A command, and the native ones that do the same.
struct Write {
    prepare: &'static [&'static str],
    ours: &'static str,
    native: &'static [&'static str],
}

const WRITES: [Write; 10] = [
    Write {
        prepare: &[],
        ours: "LOCK.ACQUIRE job me 600000",
        native: &["SET lock:{job} me PX 600000"],
    },
    Write {
        prepare: &["LOCK.ACQUIRE job me 500000"],
        ours: "LOCK.EXTEND job me 600000",
        native: &["PEXPIRE lock:{job} 600000"],
    },
    Write {
        prepare: &["LOCK.ACQUIRE job me 600000"],
        ours: "LOCK.EXTEND job me 600000 SHARED",
        native: &["DEL lock:{job}", "ZADD lock:{job} $end me", "PEXPIREAT lock:{job} $end"],
    },
    Write {
        prepare: &["LOCK.ACQUIRE job me 600000"],
        ours: "LOCK.RELEASE job me",
        native: &["DEL lock:{job}"],
    },
    Write { prepare: &[], ours: "CACHE.SET k v 600000", native: &["SET k v PX 600000"] },
    Write {
        prepare: &["SET k before"],
        ours: "CACHE.SET k v 600000",
        native: &["SET k v PX 600000"],
    },
    Write {
        prepare: &["SET k v PX $soon"],
        ours: "CACHE.SET k v 600000",
        native: &["SET k v PX 600000"],
    },
    Write {
        prepare: &["CACHE.LOCK k 600000 600000"],
        ours: "CACHE.SET k v 600000",
        native: &["SET k v PX 600000", "DEL cachelock:{k}"],
    },
    Write { prepare: &["SET k v"], ours: "CACHE.INVALIDATE k", native: &["DEL k"] },
    Write {
        prepare: &["SET k v", "CACHE.LOCK k 600000 600000"],
        ours: "CACHE.INVALIDATE k",
        native: &["DEL k", "DEL cachelock:{k}"],
    },
];

/// How soon a key expires before the command runs, in ms.
const SOON_MS: i64 = 5;

/// A server that reports everything.
struct Observed {
    server: Server,
    client: Client,
    events: Client,
    tracker: Client,
    watcher: Client,
    tap: ReplicationTap,
}

/// What can be seen of a write.
#[derive(Debug, PartialEq)]
struct Effects {
    data: Vec<String>,
    events: Vec<String>,
    propagated: Vec<String>,
    invalidated: Vec<String>,
    aborts: bool,
    changes: u64,
}

impl Observed {
    fn start() -> Self {
        let server = Server::start();
        let (mut client, mut events, mut tracker) =
            (server.client(), server.client(), server.client3());
        assert_eq!(client.run("CONFIG SET notify-keyspace-events KEAn"), ok());
        // A key that has expired is removed by the command that finds it.
        assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
        events.run("PSUBSCRIBE __key*__:*");
        assert_eq!(tracker.run("CLIENT TRACKING ON BCAST"), ok());
        let (watcher, tap) = (server.client(), server.replication_tap());
        Self { server, client, events, tracker, watcher, tap }
    }

    /// What these commands do after others. An end that was relative becomes a word.
    fn effects(&mut self, prepare: &[&str], commands: &[String]) -> Effects {
        assert_eq!(self.client.run("FLUSHALL"), ok());
        for line in prepare {
            let reply = self.client.run(line.replace("$soon", &SOON_MS.to_string()));
            assert!(!reply.is_error(), "{line}: {reply:?}");
        }
        if prepare.iter().any(|line| line.contains("$soon")) {
            let end = now_ms() + SOON_MS;
            eventually(SOON, "the key has expired", || now_ms() > end);
        }
        assert_eq!(self.watcher.run("WATCH k cachelock:{k} lock:{job}"), ok());
        self.mark("begin");
        let begin = self.changes();
        for line in commands {
            let reply = self.client.run(line);
            assert!(!reply.is_error(), "{line}: {reply:?}");
        }
        let changes = self.changes() - begin;
        let mut propagated = self.tap.commands();
        let begun = propagated.iter().position(|command| *command == "SET mark begin");
        propagated.drain(..=begun.expect("the mark"));
        let propagated = propagated.iter().map(|command| without_time(&command.text())).collect();
        self.mark("end");
        assert_eq!(self.watcher.pipeline(&["MULTI", "PING"]), [ok(), simple("QUEUED")]);
        Effects {
            data: contents(&self.server).iter().map(|line| without_time(line)).collect(),
            events: self.published(),
            propagated,
            invalidated: self.invalidated(),
            aborts: self.watcher.run("EXEC").is_nil(),
            changes,
        }
    }

    fn mark(&mut self, name: &str) {
        assert_eq!(self.client.run(format!("SET mark {name}")), ok());
    }

    fn changes(&mut self) -> u64 {
        let changes = self.client.info("persistence", "rdb_changes_since_last_save");
        changes.and_then(|changes| changes.parse().ok()).expect("a number")
    }

    /// The keyspace events between the marks.
    fn published(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        let mut marks = 0;
        while marks < 2 {
            let message = self.events.read();
            let [_, _, channel, event] = message.items() else { panic!("{message:?}") };
            let event = format!("{} {}", channel.as_str(), event.as_str());
            if event == "__keyspace@0__:mark set" {
                marks += 1;
            } else if marks == 1 && !event.contains("mark") {
                events.push(event);
            }
        }
        // The other event of the mark.
        self.events.read();
        events
    }

    /// The keys that were invalidated between the marks.
    fn invalidated(&mut self) -> Vec<String> {
        let (mut keys, mut marks) = (Vec::new(), 0);
        while marks < 2 {
            let push = self.tracker.read();
            let Value::Push(items) = &push else { panic!("not a push: {push:?}") };
            // A null stands for the whole database.
            if items[1].is_nil() {
                continue;
            }
            for key in items[1].items() {
                match key.as_str() {
                    "mark" => marks += 1,
                    key if marks == 1 => keys.push(key.to_owned()),
                    _ => {}
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }
}

/// The text with every point in time, which has thirteen digits, as a word.
fn without_time(text: &str) -> String {
    let time = |word: &str| word.len() == 13 && word.bytes().all(|byte| byte.is_ascii_digit());
    let words = text.split_inclusive([' ', ':', '"']);
    words
        .map(|word| if time(word.trim_end_matches([' ', ':', '"'])) { "T " } else { word })
        .collect()
}

#[test]
fn a_write_has_the_effects_of_the_native_command() {
    let mut observed = Observed::start();
    for Write { prepare, ours, native } in WRITES {
        let end = (now_ms() + 600_000).to_string();
        let mut native: Vec<_> = native.iter().map(|line| line.replace("$end", &end)).collect();
        if native.len() > 1 {
            native.insert(0, "MULTI".into());
            native.push("EXEC".into());
        }
        let expected = observed.effects(prepare, &native);
        assert!(expected.aborts && !expected.events.is_empty(), "{ours}: {expected:?}");
        assert_eq!(observed.effects(prepare, &[ours.into()]), expected, "{prepare:?} {ours}");
        // In a script and in a transaction, they are the same.
        let words = ours.split(' ').map(|word| format!("'{word}'")).collect::<Vec<_>>().join(",");
        let script = format!("EVAL return(redis.call({words})) 0");
        assert_eq!(
            observed.effects(prepare, std::slice::from_ref(&script)),
            expected,
            "{prepare:?} {script}"
        );
        let transaction = ["MULTI", ours, "EXEC"].map(String::from);
        let mut inside = observed.effects(prepare, &transaction);
        // Some servers propagate the frame around a single command, and some do not.
        inside.propagated.retain(|command| command != "MULTI" && command != "EXEC");
        let mut expected = expected;
        expected.propagated.retain(|command| command != "MULTI" && command != "EXEC");
        assert_eq!(inside, expected, "{prepare:?} {ours} in a transaction");
    }
}
