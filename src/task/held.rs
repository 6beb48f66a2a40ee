//! Held tasks: members of the sorted set `taskheld:{stream}`, scored by the order in which they were
//! published. Each waits until another task has ended.
//!
//! A member is `<due> <original id of the other task> <member as in delayed:{stream}>`. The id of a held
//! task contains its order, so it is found by its score. A member of another form is left alone.

use super::entry::{self, Task};
use super::id::{EntryId, Priority};
use super::identity::{Birth, Move};
use super::store::{self, Target};
use super::{Cx, HELD, delayed_ids, moved};
use crate::error::Error;
use crate::names;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Server, Str, Type, integer, words};
use crate::time::UnixMs;
use crate::waiting;

/// A held task, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<'a> {
    /// When it is due, unless it is to be ready at once.
    pub due: UnixMs,
    /// The task that has to end before.
    pub after: EntryId,
    /// The id, the priority and the task.
    pub delayed: entry::Delayed<'a>,
}

/// The member that stores a task.
pub fn encode(
    due: UnixMs,
    after: EntryId,
    id: EntryId,
    priority: Priority,
    task: &Task<'_>,
) -> Vec<u8> {
    let mut member = format!("{} {after} ", due.0).into_bytes();
    member.extend(entry::encode(id, priority, task));
    member
}

/// The part of a member that has the form of a delayed task.
fn rest(member: &[u8]) -> Option<(UnixMs, EntryId, &[u8])> {
    let mut words = member.splitn(3, |byte| *byte == b' ');
    let due = words.next().and_then(integer).filter(|due| *due >= 0).map(UnixMs)?;
    let after = words.next().and_then(EntryId::parse)?;
    Some((due, after, words.next()?))
}

/// The decoded group of a member, from which the result of [`decode`] borrows.
pub fn group_of(member: &[u8]) -> Option<Vec<u8>> {
    entry::group_of(rest(member)?.2)
}

/// The task that a member stores; `None` if it has another form. `group` is the result of [`group_of`].
pub fn decode<'a>(member: &'a [u8], group: Option<&'a [u8]>) -> Option<Held<'a>> {
    let (due, after, rest) = rest(member)?;
    let delayed = entry::decode(rest, group)?;
    delayed.id.filter(|id| id.order().is_some())?;
    Some(Held { due, after, delayed })
}

/// Returns WRONGTYPE if the key is not a sorted set.
pub fn check(server: &Server, queue: Str<'_>) -> Result<(), Error> {
    let key = names::key_of(server, HELD, queue)?;
    match server.type_of(key.borrow()) {
        Type::Absent | Type::SortedSet => Ok(()),
        _ => Err(Error::WrongType),
    }
}

/// How many tasks are held.
pub fn number(server: &Server, queue: Str<'_>) -> Result<usize, Error> {
    let key = names::key_of(server, HELD, queue)?;
    let key = server.peek_key(key.borrow());
    Ok(if key.kind() == Type::SortedSet { key.entries() } else { 0 })
}

/// Up to `most` members from an order on, with their orders.
pub fn page(
    server: &Server,
    queue: Str<'_>,
    from: u64,
    most: usize,
) -> Result<Vec<(OwnedStr, u64)>, Error> {
    let key = names::key_of(server, HELD, queue)?;
    let key = key.borrow();
    if server.type_of(key) != Type::SortedSet {
        return Ok(Vec::new());
    }
    let (w, from) = (words(), OwnedStr::new(from.to_string().as_bytes()));
    let most = OwnedStr::number(most as i64);
    let args =
        [key, from.borrow(), w.infinity(), w.with_scores(), w.limit(), w.zero(), most.borrow()];
    let found = server.call(c"ZRANGEBYSCORE", Mode::Read, &args)?;
    let order = |score: &[u8]| std::str::from_utf8(score).ok()?.parse::<f64>().ok();
    let member = |(member, score): (&[u8], &[u8])| {
        // A score out of range becomes the nearest number within it.
        (OwnedStr::new(member), order(score).unwrap_or_default() as u64)
    };
    Ok(found.root().pairs().map(member).collect())
}

/// The member that stores the task with this id.
pub fn find(server: &Server, queue: Str<'_>, id: EntryId) -> Result<Option<OwnedStr>, Error> {
    let Some(order) = id.order() else { return Ok(None) };
    let key = names::key_of(server, HELD, queue)?;
    let key = key.borrow();
    if server.type_of(key) != Type::SortedSet {
        return Ok(None);
    }
    // Other clients may add members with the same score: a few are looked at.
    const LOOKED_AT: i64 = 16;
    let (w, order) = (words(), OwnedStr::new(order.to_string().as_bytes()));
    let most = OwnedStr::number(LOOKED_AT);
    let args = [key, order.borrow(), order.borrow(), w.limit(), w.zero(), most.borrow()];
    let found = server.call(c"ZRANGEBYSCORE", Mode::Read, &args)?;
    let is_it = |member: &Element<'_>| {
        let group = group_of(member.bytes());
        decode(member.bytes(), group.as_deref()).and_then(|held| held.delayed.id) == Some(id)
    };
    let member = found.root().elements().find(is_it);
    Ok(member.map(|member| OwnedStr::new(member.bytes())))
}

/// Holds a task under a new id until the task `after` has ended.
pub fn add(
    cx: Cx<'_>,
    queue: Str<'_>,
    (after, due): (EntryId, UnixMs),
    priority: Priority,
    task: &Task<'_>,
) -> Result<EntryId, Error> {
    let id = EntryId::held(due, cx.family.next_us(cx.server));
    put(cx, queue, id, &encode(due, after, id, priority, task))?;
    Ok(id)
}

/// Stores a member.
pub fn put(cx: Cx<'_>, queue: Str<'_>, id: EntryId, member: &[u8]) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let key = names::key_of(server, HELD, queue)?;
    let order = OwnedStr::new(id.order().unwrap_or(0).to_string().as_bytes());
    let member = OwnedStr::new(member);
    let args = [key.borrow(), order.borrow(), member.borrow()];
    server.call(c"ZADD", Mode::Write, &args)?;
    family.queues.set_held(server.db(), queue.bytes(), true);
    Ok(())
}

/// Removes a member. Returns whether it existed.
pub fn remove(cx: Cx<'_>, queue: Str<'_>, member: Str<'_>) -> Result<bool, Error> {
    let Cx { server, family } = cx;
    let key = names::key_of(server, HELD, queue)?;
    let gone = server.call(c"ZREM", Mode::Write, &[key.borrow(), member])?.root().integer() > 0;
    let exists = server.peek_key(key.borrow()).exists();
    family.queues.set_held(server.db(), queue.bytes(), exists);
    Ok(gone)
}

/// Adds a held task to the queue, because the task before it has ended. The timer serves the waiting
/// consumers.
pub fn enter(cx: Cx<'_>, queue: Str<'_>, member: Str<'_>) -> Result<(), Error> {
    let group = group_of(member.bytes());
    let Some(held) = decode(member.bytes(), group.as_deref()) else { return Ok(()) };
    let Some(id) = held.delayed.id else { return Ok(()) };
    let (priority, mut task, text) = (held.delayed.priority, held.delayed.task, id.to_string());
    task.original_id = task.original_id.or(Some(text.as_bytes()));
    let to = if held.due > cx.server.now() {
        delayed_ids::add(cx, queue, priority, &task, held.due)?
    } else {
        store::add_copy(cx, Target::Queue(queue, priority), &task, &[])?
    };
    remove(cx, queue, member)?;
    moved::record(cx, queue, &[Move { original: id, birth: Birth::Here, from: id, to: Some(to) }])?;
    waiting::serve_soon(cx, cx.server.db(), queue.bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_encoded_task_decodes_to_itself(
            (due, order) in (0..1i64 << 53, 0..1i64 << 53),
            after: (u64, u64),
            priority in 0..10u64,
            payload: Vec<u8>,
            retry_count in 0..9i64,
            group in prop::option::of("[a-z %]{1,5}"),
        ) {
            let id = EntryId::held(UnixMs(due), order);
            let after = EntryId::parse(format!("{}-{}", after.0, after.1).as_bytes()).unwrap();
            let priority = Priority::new(priority).unwrap();
            let group = group.as_deref().map(str::as_bytes);
            let task =
                Task { payload: Some(&payload), retry_count, group, ..Task::default() };
            let member = encode(UnixMs(due), after, id, priority, &task);
            let found = group_of(&member);
            let delayed = entry::Delayed { id: Some(id), priority, task };
            let held = Held { due: UnixMs(due), after, delayed };
            prop_assert_eq!(decode(&member, found.as_deref()), Some(held));
            prop_assert_eq!(id.order(), u64::try_from(order).ok());
        }

        #[test]
        fn no_member_makes_the_decoder_panic(member: Vec<u8>, text in "[-0-9:+ %a]{0,60}") {
            for member in [member, text.into_bytes()] {
                let _ = decode(&member, group_of(&member).as_deref());
            }
        }
    }
}
