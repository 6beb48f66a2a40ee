//! What a history of locks or of cached values must keep, checked command by command.

use super::LOCK_TTL;
use crate::support::Command;
use std::collections::BTreeMap;

/// An argument.
#[track_caller]
pub fn word(command: &Command, index: usize) -> &str {
    let word = command.get(index).unwrap_or_else(|| panic!("too short: {command}"));
    std::str::from_utf8(word).unwrap_or_else(|_| panic!("not text: {command}"))
}

fn number(command: &Command, index: usize) -> i64 {
    word(command, index).parse().unwrap_or_else(|_| panic!("not a number: {command}"))
}

/// The argument after a keyword.
#[track_caller]
pub fn after<'c>(command: &'c Command, keyword: &str) -> Option<&'c str> {
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
