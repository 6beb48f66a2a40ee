//! What a server propagates: to its replicas, seen by a [`ReplicationTap`], and into its append-only
//! file, read by [`aof_commands`].

use super::client::Client;
use super::server::Server;
use super::value::{Value, ok, parse};
use super::{SOON, eventually, now_ms};
use std::fmt::{self, Debug, Display, Formatter};
use std::fs;
use std::ops::Deref;

/// One propagated command: its arguments, the name first. Compares with its text, the arguments
/// escaped and joined by blanks: `assert_eq!(tap.commands(), ["MULTI", "SET k v", "EXEC"])`.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Vec<Vec<u8>>);

impl Command {
    /// The name, in capitals.
    pub fn name(&self) -> String {
        self.0
            .first()
            .map_or_else(String::new, |name| name.to_ascii_uppercase().escape_ascii().to_string())
    }

    /// All arguments, escaped and joined by blanks.
    pub fn text(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|arg| arg.escape_ascii().to_string()).collect();
        words.join(" ")
    }

    /// Whether this belongs to the stream itself: a change of the database or a keep-alive.
    pub fn is_housekeeping(&self) -> bool {
        matches!(self.name().as_str(), "SELECT" | "PING" | "REPLCONF")
    }

    #[track_caller]
    fn from_value(value: &Value) -> Self {
        Self(value.items().iter().map(|arg| arg.bytes().to_vec()).collect())
    }
}

impl Deref for Command {
    type Target = [Vec<u8>];
    fn deref(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Debug for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl PartialEq<str> for Command {
    fn eq(&self, text: &str) -> bool {
        self.text() == text
    }
}

impl PartialEq<&str> for Command {
    fn eq(&self, text: &&str) -> bool {
        self == *text
    }
}

impl PartialEq<String> for Command {
    fn eq(&self, text: &String) -> bool {
        self == text.as_str()
    }
}

/// A replica that follows a server and stores nothing: it yields the commands as they come.
pub struct ReplicationTap {
    link: Client,
    control: Client,
    /// How much of the replication stream has been read.
    offset: u64,
    /// When this tap was started, in unix ms.
    since: i64,
}

impl ReplicationTap {
    /// What was propagated since the last call, except SELECT, PING and REPLCONF. It includes every
    /// effect that precedes this call, up to the server's present offset.
    #[track_caller]
    pub fn commands(&mut self) -> Vec<Command> {
        let mut commands = self.all_commands();
        commands.retain(|command| !command.is_housekeeping());
        commands
    }

    /// As [`ReplicationTap::commands`], with nothing left out.
    #[track_caller]
    pub fn all_commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        let end = master_offset(&mut self.control);
        while self.offset < end {
            let raw = self.link.read_raw_reply();
            self.offset += u64::try_from(raw.len()).expect("a length fits 64 bits");
            match parse(&raw) {
                Ok(Some((value, _))) => commands.push(Command::from_value(&value)),
                _ => panic!("not a command: \"{}\"", raw.escape_ascii()),
            }
        }
        self.acknowledge();
        commands
    }

    /// What was propagated since the last call, in the words of Redis 7.0. Newer servers word a
    /// delivery differently: they add an `XGROUP SETID`, and since 8.6 the `XCLAIM` carries the
    /// group's previous position. The creation of consumers is left out, since each server creates
    /// them at another moment. The time of a delivery, which must lie within the test, becomes `now`.
    /// A command of the module fails the test.
    #[track_caller]
    pub fn effects(&mut self) -> Vec<String> {
        let commands: Vec<String> = self.commands().iter().map(Command::text).collect();
        let mut effects = Vec::new();
        for (at, text) in commands.iter().enumerate() {
            let words: Vec<&str> = text.split(' ').collect();
            assert!(!words[0].contains('.'), "a command of the module: {text}");
            match words[..] {
                ["XGROUP", "SETID" | "CREATECONSUMER", ..] => {}
                ["XCLAIM", ..] => effects.push(self.claim(&words, &commands[at..])),
                _ => effects.push(text.clone()),
            }
        }
        // What was left out may have made a transaction of a single command, or of none.
        for length in [3, 2] {
            let is_short = |w: &[String]| w[0] == "MULTI" && w[length - 1] == "EXEC";
            while let Some(at) = effects.windows(length).position(is_short) {
                effects.remove(at + length - 1);
                effects.remove(at);
            }
        }
        effects
    }

    /// A delivery as Redis 7.0 words it: `LASTID` is the group's position after it. A newer server
    /// sends that with one of the commands that follow.
    #[track_caller]
    fn claim(&self, words: &[&str], following: &[String]) -> String {
        let [_, key, group, consumer, idle, id, "TIME", time, ref options @ .., "LASTID", last] =
            *words
        else {
            panic!("not the XCLAIM of a delivery: {words:?}")
        };
        let time: i64 = time.parse().expect("the time is a number");
        assert!((self.since..=now_ms()).contains(&time), "{words:?}");
        let position = if id_parts(last) < id_parts(id) {
            let set = format!("XGROUP SETID {key} {group} ");
            let moved = following.iter().any(|later| {
                let to = later.strip_prefix(&set).and_then(|rest| rest.split(' ').next());
                to.is_some_and(|to| id_parts(to) >= id_parts(id))
            });
            assert!(moved, "the group stays behind {id}: {following:?}");
            id
        } else {
            last
        };
        let options = options.join(" ");
        format!("XCLAIM {key} {group} {consumer} {idle} {id} TIME now {options} LASTID {position}")
    }

    #[track_caller]
    fn follow(server: &Server) -> Self {
        let mut link = server.client();
        assert_eq!(link.run(format!("REPLCONF listening-port {}", link.local_port())), ok());
        assert_eq!(link.run("REPLCONF capa eof capa psync2"), ok());
        link.send("PSYNC ? -1");
        let answer = link.read();
        let answer = answer.as_str();
        let offset = match answer.split(' ').collect::<Vec<_>>()[..] {
            ["FULLRESYNC", _, offset] => offset.parse().expect("the offset is a number"),
            _ => panic!("PSYNC: {answer}"),
        };
        skip_rdb(&mut link);
        let mut tap = Self { link, control: server.client(), offset, since: now_ms() };
        let place = format!("ip=127.0.0.1,port={},state=online", tap.link.local_port());
        eventually(SOON, "the tap is online", || {
            tap.control.run("INFO replication").as_str().contains(&place)
        });
        // After a diskless transfer the stream begins when an online replica acknowledges.
        tap.acknowledge();
        tap
    }

    #[track_caller]
    fn acknowledge(&mut self) {
        self.link.send(format!("REPLCONF ACK {}", self.offset));
    }
}

impl Server {
    /// Begins to watch what this server propagates to its replicas.
    #[track_caller]
    pub fn replication_tap(&self) -> ReplicationTap {
        ReplicationTap::follow(self)
    }
}

/// The two numbers of an entry's id.
#[track_caller]
fn id_parts(id: &str) -> (u64, u64) {
    let parts =
        id.split_once('-').and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
    parts.unwrap_or_else(|| panic!("no id: {id}"))
}

/// Reads past the snapshot that precedes the stream: `$<length>` when it came by way of a disk, else
/// `$EOF:<mark>`, and the mark again at its end. Line feeds before it are signs of life.
#[track_caller]
fn skip_rdb(link: &mut Client) {
    let header = loop {
        let header = link.read_raw_line();
        if header != b"\n" {
            break header;
        }
    };
    let header = header.trim_ascii_end();
    if let Some(mark) = header.strip_prefix(b"$EOF:") {
        link.read_raw_through(mark);
    } else {
        let length = header.strip_prefix(b"$").and_then(|digits| std::str::from_utf8(digits).ok());
        let length = length.and_then(|digits| digits.parse().ok());
        link.read_raw(length.unwrap_or_else(|| panic!("no RDB: \"{}\"", header.escape_ascii())));
    }
}

#[track_caller]
fn master_offset(client: &mut Client) -> u64 {
    let offset = client.info("replication", "master_repl_offset").expect("INFO has the offset");
    offset.parse().expect("the offset is a number")
}

/// Waits until the replica has everything that the master has written up to now.
#[track_caller]
pub fn wait_in_sync(master: &Server, replica: &Server) {
    wait_until_synced(&mut master.client(), &mut replica.client());
}

/// As [`wait_in_sync`], over connections that are there.
#[track_caller]
pub fn wait_until_synced(master: &mut Client, replica: &mut Client) {
    let end = master_offset(master);
    eventually(SOON, "the replica is in sync", || {
        let offset = replica.info("replication", "slave_repl_offset")?.parse::<u64>().ok()?;
        let link = replica.info("replication", "master_link_status")?;
        (link == "up" && offset >= end).then_some(())
    });
}

/// The commands in the append-only file, in order, except SELECT. A base file in RDB format, which is
/// what a rewrite leaves, is passed over; half a command at the end of a file too.
#[track_caller]
pub fn aof_commands(server: &Server) -> Vec<Command> {
    let dir = server.dir().join("appendonlydir");
    let manifest =
        fs::read_to_string(dir.join("appendonly.aof.manifest")).expect("an AOF manifest");
    let mut commands = Vec::new();
    for line in manifest.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let ["file", name, "seq", _, "type", "b" | "i", ..] = words[..] else {
            continue;
        };
        if !name.ends_with(".rdb") {
            let file = fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            commands.extend(commands_in(&file));
        }
    }
    commands.retain(|command| !command.is_housekeeping());
    commands
}

#[track_caller]
fn commands_in(mut file: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    while !file.is_empty() {
        // Annotations such as `#TS:1700000000`.
        if file.starts_with(b"#") {
            let end = file.iter().position(|&byte| byte == b'\n').unwrap_or(file.len() - 1);
            file = &file[end + 1..];
            continue;
        }
        match parse(file) {
            Ok(Some((value, length))) => {
                commands.push(Command::from_value(&value));
                file = &file[length..];
            }
            Ok(None) => break,
            Err(why) => panic!("AOF: {why}"),
        }
    }
    commands
}
