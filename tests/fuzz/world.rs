//! The servers of a run, and what its threads share: when to stop, what failed, the last commands.

use super::grammar::Command;
use super::words::Learned;
use crate::support::{Server, Value};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How many lines of a journal are kept.
const LINES: usize = 80;

/// Faults of servers, which are not those of the module.
#[derive(Default)]
pub struct Quirks {
    /// Valkey 9.1 leaves a long argument behind a waiting command unread until more arrives.
    pub forgets: bool,
    /// Valkey 9.1 sends the long parts of a push that the client itself causes before the rest.
    pub splits_pushes: bool,
    /// Redis 7.0 sends UNBLOCKED to a client that a module has answered in the same tick.
    pub answers_twice: bool,
    /// Redis 7.0 sends pushes that a command causes in the middle of its reply, and of that of
    /// EXEC.
    pub pushes_inside: bool,
}

/// What the threads of a run share.
pub struct World {
    pub master: Server,
    /// A replica without the module.
    pub replica: Server,
    /// Loads copies of the append-only file, without the module.
    pub reader: Server,
    pub learned: Learned,
    pub began: Instant,
    /// Redis 7 and Valkey 8.0 abort when a client is unblocked whose command a pause has postponed,
    /// so pauses and CLIENT UNBLOCK exclude each other.
    pause: RwLock<()>,
    pub quirks: Quirks,
    stop: AtomicBool,
    /// At the end of a round no waiting client is touched until all are counted.
    counted: AtomicBool,
    failure: Mutex<Option<String>>,
    journals: Mutex<Vec<Arc<Journal>>>,
    pub commands: AtomicU64,
    /// The longest time of a reply to the operator, in microseconds.
    slowest: AtomicU64,
    /// For each command of the module, the number of replies and of those without an error.
    answers: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl World {
    /// A world before the first command.
    pub fn new(master: Server, replica: Server, reader: Server) -> Self {
        Self {
            master,
            replica,
            reader,
            learned: Learned::default(),
            began: Instant::now(),
            pause: RwLock::default(),
            quirks: Quirks::default(),
            stop: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            failure: Mutex::default(),
            journals: Mutex::default(),
            commands: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            answers: Mutex::default(),
        }
    }

    /// Starts a round.
    pub fn start(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.counted.store(false, Ordering::SeqCst);
        lock(&self.journals).clear();
        self.learned.forget_clients();
    }

    /// Tells the threads to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Whether the round is to end.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The waiting clients are counted.
    pub fn set_counted(&self) {
        self.counted.store(true, Ordering::SeqCst);
    }

    /// Returns at once during a round, and at its end when the waiting clients are counted.
    pub fn wait_for_count(&self) {
        while self.is_over() && !self.counted.load(Ordering::SeqCst) && self.failure().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// While this lives, no client is unblocked.
    pub fn pausing(&self) -> RwLockWriteGuard<'_, ()> {
        self.pause.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this lives, the operator pauses nothing.
    pub fn unblocking(&self) -> RwLockReadGuard<'_, ()> {
        self.pause.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a failure. The first one counts.
    pub fn fail(&self, what: String) {
        lock(&self.failure).get_or_insert(what);
        self.stop();
    }

    /// The failure, if there is one.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// The journal of a thread.
    pub fn journal(&self, name: String) -> Arc<Journal> {
        let journal = Arc::new(Journal { name, began: self.began, lines: Mutex::default() });
        lock(&self.journals).push(journal.clone());
        journal
    }

    /// All journals.
    pub fn journals(&self) -> String {
        lock(&self.journals).iter().map(|journal| journal.text()).collect()
    }

    /// Checks a reply and remembers what later commands can use.
    pub fn answered(&self, command: &Command, reply: &Value) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        self.learned.learn(command, reply);
        if let Some(why) = find_internal_error(reply) {
            self.fail(format!("{}: {why}", spell(command)));
        }
        let Some(name) = command.first() else { return };
        if !is_own(name) {
            return;
        }
        if let Value::Error(text) = reply
            && let Err(why) = check_error(text)
        {
            self.fail(format!("{}: {why}: {reply:?}", spell(command)));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let mut answers = lock(&self.answers);
        let count = answers.entry(name).or_default();
        count.0 += 1;
        count.1 += u64::from(!reply.is_error());
    }

    /// Notes how long a reply took that should come at once.
    pub fn slowest(&self, time: Duration) {
        self.slowest.fetch_max(time.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The longest of these times since the last call.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }

    /// The numbers of replies, and of those without an error.
    pub fn answers(&self) -> BTreeMap<String, (u64, u64)> {
        lock(&self.answers).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is the name of a command of the module.
pub fn is_own(name: &[u8]) -> bool {
    [&b"CACHE."[..], b"TASK.", b"LOCK."].iter().any(|family| name.starts_with(family))
}

/// An internal error of the module anywhere in a reply.
fn find_internal_error(reply: &Value) -> Option<String> {
    match reply {
        Value::Error(text) | Value::BulkError(text) => {
            let text = String::from_utf8_lossy(text);
            text.contains("internal error").then(|| text.into_owned())
        }
        Value::Array(items) => items.iter().find_map(find_internal_error),
        _ => None,
    }
}

/// Checks that an error is ASCII and begins with a code.
fn check_error(text: &[u8]) -> Result<(), &'static str> {
    if !text.is_ascii() {
        return Err("an error that is not ASCII");
    }
    let code = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    let is_code = !code.is_empty() && code.iter().all(u8::is_ascii_uppercase);
    if is_code { Ok(()) } else { Err("an error without a code") }
}

/// The last commands and replies of a thread.
pub struct Journal {
    name: String,
    began: Instant,
    lines: Mutex<VecDeque<String>>,
}

impl Journal {
    /// Adds a line.
    pub fn note(&self, line: &str) {
        let mut lines = lock(&self.lines);
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(format!("{:>9.3} {line}", self.began.elapsed().as_secs_f64()));
    }

    fn text(&self) -> String {
        let lines = lock(&self.lines);
        let lines = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        format!("--- {}\n{lines}", self.name)
    }
}

/// A command on one line, with long arguments cut.
pub fn spell(command: &Command) -> String {
    let word = |arg: &Vec<u8>| match arg.as_slice() {
        [] => "\"\"".into(),
        arg if arg.len() > 90 => format!("{}..({})", arg[..60].escape_ascii(), arg.len()),
        arg if arg.contains(&b' ') => format!("\"{}\"", arg.escape_ascii()),
        arg => arg.escape_ascii().to_string(),
    };
    command.iter().take(80).map(word).collect::<Vec<_>>().join(" ")
}

/// A reply on one line, with long strings and lists cut.
pub fn spell_reply(reply: &Value) -> String {
    fn brief(value: &Value, text: &mut String) {
        let mut list = |name: &str, items: &[Value]| {
            text.push_str(&format!("{name}{}[", items.len()));
            for item in items.iter().take(8) {
                brief(item, text);
                text.push(' ');
            }
            text.push(']');
        };
        match value {
            Value::Array(items) => list("", items),
            Value::Push(items) => list("push", items),
            Value::Set(items) => list("set", items),
            Value::Map(pairs) => {
                let both = |(key, value): &(Value, Value)| [key.clone(), value.clone()];
                list("map", &pairs.iter().take(8).flat_map(both).collect::<Vec<_>>());
            }
            Value::Bulk(bytes) | Value::Simple(bytes) if bytes.len() > 60 => {
                text.push_str(&format!("{}..({})", bytes[..30].escape_ascii(), bytes.len()));
            }
            Value::Bulk(bytes) => text.push_str(&format!("\"{}\"", bytes.escape_ascii())),
            other => text.push_str(&format!("{other:?}")),
        }
    }
    let mut text = String::new();
    brief(reply, &mut text);
    text.chars().take(400).collect()
}
