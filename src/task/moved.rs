//! `taskmoved:{stream}`: a hash from the original id of a task to its present one. [`identity`] has
//! the rules. A field is written in the step that moves the task and removed in the step that ends it.
//! What other clients end is found by the sweep ([`super::traces`]).
//!
//! [`identity`]: super::identity

use super::hash::{self, text};
use super::id::EntryId;
use super::identity::{Change, Move};
use super::{Cx, MOVED, groups};
use crate::error::Error;
use crate::names;
use crate::server::{OwnedStr, Str};

/// The key, unless it exists and is not a hash: then tasks have only their present ids.
fn key(cx: Cx<'_>, queue: Str<'_>) -> Result<Option<(OwnedStr, bool)>, Error> {
    let key = names::key_of(cx.server, MOVED, queue)?;
    let (exists, is_hash) = {
        let open = cx.server.peek_key(key.borrow());
        (open.exists(), open.is_hash())
    };
    Ok((!exists || is_hash).then_some((key, exists)))
}

/// The fields of these original ids.
fn fields(
    cx: Cx<'_>,
    key: Str<'_>,
    originals: impl Iterator<Item = EntryId>,
) -> Result<Vec<Option<EntryId>>, Error> {
    hash::values(cx.server, key, originals, EntryId::parse)
}

/// The present id of a task that has moved.
pub fn present(cx: Cx<'_>, queue: Str<'_>, original: EntryId) -> Result<Option<EntryId>, Error> {
    Ok(present_all(cx, queue, &[original])?.into_iter().flatten().next())
}

/// The present ids of tasks that have moved.
pub fn present_all(
    cx: Cx<'_>,
    queue: Str<'_>,
    originals: &[EntryId],
) -> Result<Vec<Option<EntryId>>, Error> {
    match key(cx, queue)? {
        Some((key, true)) => fields(cx, key.borrow(), originals.iter().copied()),
        _ => Ok(vec![None; originals.len()]),
    }
}

/// Tasks have moved or ended. The caller has done that in the same step.
pub fn record(cx: Cx<'_>, queue: Str<'_>, moves: &[Move]) -> Result<(), Error> {
    let Some((key, exists)) = key(cx, queue)? else { return Ok(()) };
    let key = key.borrow();
    let any_goes_on = moves.iter().any(|moved| moved.to.is_some());
    if moves.is_empty() || (!exists && !any_goes_on) {
        return Ok(());
    }
    let only_one = any_goes_on && groups::at_most_one(cx, queue)?;
    let asked = |moved: &&Move| exists && moved.needs_field(only_one);
    let asked_for = moves.iter().filter(asked).map(|moved| moved.original);
    let mut found = fields(cx, key, asked_for)?.into_iter();
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for moved in moves {
        let field = if asked(&moved) { found.next().flatten() } else { None };
        match moved.change(field, only_one) {
            Change::Keep => {}
            Change::Set(to) => set.extend([text(moved.original), text(to)]),
            Change::Remove => removed.push(text(moved.original)),
        }
    }
    if !set.is_empty() {
        hash::set(cx.server, key, &set)?;
        cx.family.queues.set_moved(cx.server.db(), queue.bytes(), true);
    }
    remove(cx, queue, key, &removed)
}

/// Removes fields.
pub fn remove(cx: Cx<'_>, queue: Str<'_>, key: Str<'_>, fields: &[OwnedStr]) -> Result<(), Error> {
    if fields.is_empty() {
        return Ok(());
    }
    let exists = hash::remove(cx.server, key, fields)?;
    cx.family.queues.set_moved(cx.server.db(), queue.bytes(), exists);
    Ok(())
}
