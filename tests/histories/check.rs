//! What a history must keep, checked command by command.

use super::{LOCK_TTL, TASK_LEASE};
use crate::support::Command;
use std::collections::{BTreeMap, BTreeSet};

fn word(command: &Command, index: usize) -> &str {
    let word = command.get(index).unwrap_or_else(|| panic!("too short: {command}"));
    std::str::from_utf8(word).unwrap_or_else(|_| panic!("not text: {command}"))
}

fn number(command: &Command, index: usize) -> i64 {
    word(command, index).parse().unwrap_or_else(|_| panic!("not a number: {command}"))
}

/// The argument after a keyword.
fn after<'c>(command: &'c Command, keyword: &str) -> Option<&'c str> {
    let at = command.iter().position(|arg| arg.eq_ignore_ascii_case(keyword.as_bytes()))?;
    (at + 1 < command.len()).then(|| word(command, at + 1))
}

/// The holders of a lock, and the ends of their leases.
#[derive(Clone, Default)]
struct Holders {
    exclusive: Option<(String, i64)>,
    shared: BTreeMap<String, i64>,
}

/// The locks. A lease that is stored with the end `e` began at `e - LOCK_TTL`.
#[derive(Default)]
pub struct LockHistory {
    locks: BTreeMap<String, Holders>,
    fences: BTreeMap<String, i64>,
    /// How often a lock was granted.
    pub grants: usize,
    /// Whether two readers held a lock at the same time.
    pub readers_together: bool,
}

impl LockHistory {
    /// Applies the next command.
    #[track_caller]
    pub fn apply(&mut self, command: &Command) {
        let key = command.get(1).map(|_| word(command, 1)).unwrap_or_default().to_owned();
        if command.name() == "SET" && key.starts_with("fence:") {
            let token = number(command, 2);
            let last = self.fences.insert(key, token).unwrap_or(0);
            assert!(token > last, "a token after {last}: {command}");
            return;
        }
        if !key.starts_with("lock:") {
            return;
        }
        let holders = self.locks.entry(key).or_default();
        match command.name().as_str() {
            "SET" => {
                let end: i64 = after(command, "PXAT").expect("an end").parse().expect("a time");
                let (id, now) = (word(command, 2).to_owned(), end - LOCK_TTL);
                if let Some((holder, until)) = &holders.exclusive {
                    assert!(*holder == id || *until < now, "{holder} holds it: {command}");
                }
                for (reader, until) in &holders.shared {
                    assert!(*reader == id || *until < now, "{reader} reads: {command}");
                }
                *holders = Holders { exclusive: Some((id, end)), ..Holders::default() };
                self.grants += 1;
            }
            "ZADD" => {
                let (end, id) = (number(command, 2), word(command, 3).to_owned());
                let now = end - LOCK_TTL;
                if let Some((holder, until)) = holders.exclusive.take() {
                    assert!(until < now, "{holder} holds it: {command}");
                }
                let others =
                    holders.shared.iter().any(|(reader, end)| *reader != id && *end >= now);
                self.readers_together |= others;
                self.grants += usize::from(holders.shared.insert(id, end).is_none());
            }
            "ZREM" => {
                for reader in &command[2..] {
                    holders.shared.remove(&String::from_utf8_lossy(reader).into_owned());
                }
            }
            "PEXPIREAT" => {
                let end = number(command, 2);
                if let Some(holder) = &mut holders.exclusive {
                    holder.1 = end;
                }
            }
            "DEL" | "UNLINK" => *holders = Holders::default(),
            other => panic!("{other}: {command}"),
        }
    }
}

/// The cached values. Each is a version of its row in the database, which is in the history as well.
#[derive(Default)]
pub struct CacheHistory {
    rows: BTreeMap<String, i64>,
    /// How often a value was stored.
    pub fills: usize,
}

impl CacheHistory {
    /// Applies the next command.
    #[track_caller]
    pub fn apply(&mut self, command: &Command) {
        match command.name().as_str() {
            "INCR" | "INCRBY" => {
                let row = word(command, 1).strip_prefix("db:").expect("a row").to_owned();
                *self.rows.entry(row).or_default() += 1;
            }
            "SET" => {
                let Some(page) = word(command, 1).strip_prefix("page:") else { return };
                let current = self.rows.get(page).copied().unwrap_or_default();
                assert_eq!(number(command, 2), current, "a stale value: {command}");
                self.fills += 1;
            }
            _ => {}
        }
    }
}

/// The tasks, by payload: each payload is published once.
#[derive(Default)]
pub struct TaskHistory {
    /// The payloads of entries, by stream and id.
    entries: BTreeMap<(String, String), String>,
    /// How many copies of a task there are, in streams and delayed.
    copies: BTreeMap<String, usize>,
    done: BTreeSet<String>,
    /// The consumer that holds an entry, and since when.
    holders: BTreeMap<(String, String), (String, i64)>,
    /// The tasks that have changed in this transaction.
    touched: BTreeSet<String>,
    in_transaction: bool,
    /// How often a lease began.
    pub leases: usize,
}

impl TaskHistory {
    /// Whether a task was published.
    pub fn knows(&self, payload: &str) -> bool {
        self.copies.contains_key(payload)
    }

    fn add(&mut self, payload: &str) {
        *self.copies.entry(payload.to_owned()).or_default() += 1;
        self.touched.insert(payload.to_owned());
    }

    #[track_caller]
    fn remove(&mut self, payload: &str) {
        let copies = self.copies.get_mut(payload).expect("a known task");
        *copies = copies.checked_sub(1).expect("there is a copy");
        self.touched.insert(payload.to_owned());
    }

    /// Applies the next command.
    #[track_caller]
    pub fn apply(&mut self, command: &Command) {
        let key = command.get(1).map(|_| word(command, 1)).unwrap_or_default().to_owned();
        match command.name().as_str() {
            "MULTI" => self.in_transaction = true,
            "EXEC" => self.in_transaction = false,
            "XADD" => {
                let payload = after(command, "payload").expect("a payload").to_owned();
                let id = command[2..].iter().map(|arg| String::from_utf8_lossy(arg));
                let id = id.into_iter().find(|arg| arg.contains('-')).expect("an id").into_owned();
                self.add(&payload);
                self.entries.insert((key, id), payload);
            }
            "XDEL" => {
                for id in &command[2..] {
                    let entry = (key.clone(), String::from_utf8_lossy(id).into_owned());
                    self.holders.remove(&entry);
                    if let Some(payload) = self.entries.remove(&entry) {
                        self.remove(&payload);
                    }
                }
            }
            "ZADD" => {
                let member = command.last().expect("a member");
                let member = String::from_utf8_lossy(member).into_owned();
                self.add(member.rsplit(' ').next().expect("a payload"));
            }
            "ZREM" => {
                for member in &command[2..] {
                    let member = String::from_utf8_lossy(member).into_owned();
                    self.remove(member.rsplit(' ').next().expect("a payload"));
                }
            }
            "SADD" => self.done.extend(
                command[2..].iter().map(|payload| String::from_utf8_lossy(payload).into_owned()),
            ),
            "XCLAIM" => self.claim(key, command),
            "XACK" => {
                for id in &command[3..] {
                    self.holders.remove(&(key.clone(), String::from_utf8_lossy(id).into_owned()));
                }
            }
            _ => {}
        }
        if !self.in_transaction {
            for payload in std::mem::take(&mut self.touched) {
                let is_lost = self.copies[&payload] == 0 && !self.done.contains(&payload);
                assert!(!is_lost, "{payload} disappears before it is done: {command}");
            }
        }
    }

    /// A lease begins, is renewed or ends early.
    #[track_caller]
    fn claim(&mut self, key: String, command: &Command) {
        let (consumer, id) = (word(command, 3).to_owned(), word(command, 5).to_owned());
        let since: i64 = after(command, "TIME").expect("a time").parse().expect("a time");
        self.leases += 1;
        if let Some((holder, before)) = self.holders.get(&(key.clone(), id.clone())) {
            let has_ended = before + TASK_LEASE <= since;
            assert!(
                *holder == consumer || has_ended,
                "{holder} holds it since {before}: {command}"
            );
        }
        self.holders.insert((key, id), (consumer, since));
    }
}
