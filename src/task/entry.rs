//! The contents of a task, and how a delayed task is stored. Nothing here depends on a server.
//!
//! A member of `delayed:{stream}` is `<id> <priority> <retry_count> <group> <payload>`. The group is
//! percent-encoded, or `-` if there is none. In a copy, `:` and the original id follow the id. A
//! task with additional fields has a `+` after its retry count, and instead of the payload all its
//! fields and values, each as `<length>:<bytes>`. This is version 1, which needs no mark. Any other
//! version is `<id> v<version> …` or `<id>:<original id> v<version> …`: this one leaves it alone. A
//! member of any other form, which another client added, is the payload of a task: nothing is lost.

use super::id::{EntryId, Priority};
use crate::server::integer;
use crate::time::UnixMs;

/// The field that says how often this task is tried. Any publisher can set it.
pub const TRIES: &[u8] = b"tries";

/// The field that says until when a task may be delivered for the first time, in unix ms.
pub const EXPIRE: &[u8] = b"expire_unix_ms";

/// A field and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The contents of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task<'a> {
    /// The payload. Entries that other clients added may have none.
    pub payload: Option<&'a [u8]>,
    /// How often it was attempted before.
    pub retry_count: i64,
    /// In a copy of a task, the id that PUBLISH replied.
    pub original_id: Option<&'a [u8]>,
    /// In a copy for one consumer group, that group.
    pub group: Option<&'a [u8]>,
    /// All other fields.
    pub other: Vec<Pair<'a>>,
}

impl<'a> Task<'a> {
    /// Reads a task from the fields of its entry. An invalid retry count is 0.
    pub fn of(fields: impl Iterator<Item = Pair<'a>>) -> Self {
        let mut task = Self::default();
        let (mut retry_count, mut timestamp) = (None, None);
        let mut before: &[u8] = b"";
        for (field, value) in fields {
            let behind = std::mem::replace(&mut before, field);
            let place = match field {
                b"payload" => &mut task.payload,
                b"retry_count" => &mut retry_count,
                b"timestamp" => &mut timestamp,
                b"original_id" => &mut task.original_id,
                // Only in a copy is this field ours: publishers may use the name too.
                b"group" if behind == b"original_id" => &mut task.group,
                _ => {
                    task.other.push((field, value));
                    continue;
                }
            };
            if place.is_none() {
                *place = Some(value);
            } else {
                task.other.push((field, value));
            }
        }
        // An original id that is not an id is ignored.
        task.original_id = task.original_id.filter(|id| EntryId::parse(id).is_some());
        if task.original_id.is_none()
            && let Some(group) = task.group.take()
        {
            task.other.push((b"group", group));
        }
        task.retry_count = retry_count.and_then(integer).filter(|n| *n >= 0).unwrap_or(0);
        task
    }

    fn number(&self, name: &[u8]) -> Option<i64> {
        let (_, value) = self.other.iter().find(|(field, _)| *field == name)?;
        integer(value).filter(|number| *number >= 0)
    }

    /// How often it is tried, where `None` means without limit: as its own field says, or by default
    /// as its queue says. An invalid field is ignored.
    pub fn tries(&self, of_queue: Option<i64>) -> Option<i64> {
        self.number(TRIES).map_or(of_queue, |tries| Some(tries).filter(|tries| *tries > 0))
    }

    /// Whether the time for its first delivery has passed.
    pub fn has_expired(&self, now: UnixMs) -> bool {
        self.number(EXPIRE).is_some_and(|end| end < now.0)
    }

    /// Removes the time for its first delivery: it was delivered, or is dead.
    pub fn forget_expiry(&mut self) {
        self.other.retain(|(field, _)| *field != EXPIRE);
    }

    /// Removes the last fields of a dead letter, which describe its death: `reason`, `deliveries`
    /// and `priority`, which is there if it was above 0 and is returned. Dead letters that other
    /// clients wrote keep their fields of these names.
    pub fn forget_death(&mut self) -> Option<&'a [u8]> {
        let named = |index: usize, name: &[u8]| {
            let index = self.other.len().checked_sub(index)?;
            self.other.get(index).filter(|(field, _)| *field == name).map(|(_, value)| *value)
        };
        let priority = named(1, b"priority");
        let last = if priority.is_some() { 1 } else { 0 };
        let is_ours = self.original_id.is_some()
            && named(last + 1, b"deliveries").is_some()
            && named(last + 2, b"reason").is_some();
        if !is_ours {
            return None;
        }
        self.other.truncate(self.other.len().saturating_sub(last + 2));
        priority
    }
}

/// A delayed task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed<'a> {
    /// Its id. A member that another client added has none.
    pub id: Option<EntryId>,
    /// The priority of the stream to which it will be added.
    pub priority: Priority,
    /// The task.
    pub task: Task<'a>,
}

/// The member that stores a task until it is due.
pub fn encode(id: EntryId, priority: Priority, task: &Task<'_>) -> Vec<u8> {
    let mut member = id.to_string().into_bytes();
    if let Some(original) = task.original_id {
        member.push(b':');
        member.extend(original);
    }
    let own_fields = !task.other.is_empty() || task.payload.is_none();
    let mark = if own_fields { "+" } else { "" };
    member.extend(format!(" {} {}{mark} ", priority.number(), task.retry_count).into_bytes());
    encode_group(task.group, &mut member);
    member.push(b' ');
    if own_fields {
        let payload = task.payload.map(|payload| (b"payload".as_slice(), payload));
        for (field, value) in payload.iter().chain(&task.other) {
            for part in [field, value] {
                member.extend(format!("{}:", part.len()).into_bytes());
                member.extend(*part);
            }
        }
    } else {
        member.extend(task.payload.unwrap_or_default());
    }
    member
}

/// The decoded group of a member, from which the result of [`decode`] borrows.
pub fn group_of(member: &[u8]) -> Option<Vec<u8>> {
    member.splitn(5, |b| *b == b' ').nth(3).filter(|group| *group != b"-").and_then(decode_group)
}

/// The task that a member stores; `None` if another version of the module has stored it, in a form
/// that this one cannot read. `group` is the result of [`group_of`].
pub fn decode<'a>(member: &'a [u8], group: Option<&'a [u8]>) -> Option<Delayed<'a>> {
    if has_unknown_version(member) {
        return None;
    }
    let foreign = || Delayed {
        id: None,
        priority: Priority::LOWEST,
        task: Task { payload: Some(member), ..Task::default() },
    };
    Some(read(member, group).unwrap_or_else(foreign))
}

fn has_unknown_version(member: &[u8]) -> bool {
    let mut words = member.splitn(3, |b| *b == b' ');
    let has_id = words.next().and_then(ids).is_some();
    let version = words.next().and_then(|word| integer(word.strip_prefix(b"v")?));
    has_id && version.is_some_and(|version| version > 0)
}

fn read<'a>(member: &'a [u8], group: Option<&'a [u8]>) -> Option<Delayed<'a>> {
    let mut parts = member.splitn(5, |b| *b == b' ');
    let (id, original_id) = ids(parts.next()?)?;
    let priority = integer(parts.next()?).and_then(|n| Priority::new(u64::try_from(n).ok()?))?;
    let retry_count = parts.next()?;
    let (retry_count, own_fields) = match retry_count.strip_suffix(b"+") {
        Some(retry_count) => (retry_count, true),
        None => (retry_count, false),
    };
    let retry_count = integer(retry_count).filter(|n| *n >= 0)?;
    let named = parts.next()? != b"-";
    let rest = parts.next()?;
    let mut task = if own_fields {
        let fields = pairs(rest)?;
        let mut fields = fields.into_iter().peekable();
        let payload = fields.next_if(|(field, _)| field == b"payload").map(|(_, payload)| payload);
        Task { payload, other: fields.collect(), ..Task::default() }
    } else {
        Task { payload: Some(rest), ..Task::default() }
    };
    task.retry_count = retry_count;
    task.original_id = original_id;
    task.group = if named { Some(group?) } else { None };
    Some(Delayed { id: Some(id), priority, task })
}

/// The id of a member, and the original id in a copy.
fn ids(word: &[u8]) -> Option<(EntryId, Option<&[u8]>)> {
    let mut words = word.splitn(2, |b| *b == b':');
    let id = EntryId::parse(words.next()?).filter(|id| id.priority().is_none())?;
    Some((id, words.next()))
}

fn pairs(mut text: &[u8]) -> Option<Vec<Pair<'_>>> {
    let mut pairs = Vec::new();
    while !text.is_empty() {
        let (field, rest) = part(text)?;
        let (value, rest) = part(rest)?;
        pairs.push((field, value));
        text = rest;
    }
    Some(pairs)
}

/// The bytes of the leading `<length>:<bytes>`, and the rest of the text.
fn part(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|b| *b == b':')?;
    let length = integer(text.get(..colon)?).and_then(|n| usize::try_from(n).ok())?;
    text.get(colon + 1..)?.split_at_checked(length)
}

fn encode_group(group: Option<&[u8]>, member: &mut Vec<u8>) {
    match group {
        None => member.push(b'-'),
        // A bare `-` means no group.
        Some(b"-") => member.extend(b"%2D"),
        Some(group) => {
            for byte in group {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        member.push(*byte);
                    }
                    _ => member.extend(format!("%{byte:02X}").into_bytes()),
                }
            }
        }
    }
}

fn decode_group(text: &[u8]) -> Option<Vec<u8>> {
    let mut group = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        group.push(match byte {
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                u8::try_from(16 * digit()? + digit()?).ok()?
            }
            _ => *byte,
        });
    }
    Some(group)
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
