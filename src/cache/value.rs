//! Reading the bytes of a cached value. A long value is read in the server's memory, without a copy.
//! A short one can have a compact form in memory, which that would undo for good, so it is read by an
//! inner command.

use super::guesses::Guess;
use super::{Cx, RECORD};
use crate::error::Error;
use crate::names;
use crate::server::call::CallReply;
use crate::server::{Key, Mode, OwnedStr, Reply, Server, Str, Type};
use crate::time::Millis;
use std::cell::Cell;

/// The longest string that can have a compact form.
const COMPACT: usize = 128;

/// What CACHE.FETCH finds first.
pub enum Look<'s> {
    /// The value is fresh and has no record, which is the common case.
    Fresh(Reply<'s>),
    /// More has to be read to decide.
    Undecided {
        /// Whether the server has counted a hit or a miss of the value.
        counted: bool,
        /// Whether the value may have a record. If only a hint says that it has none, this is true: hints
        /// miss some changes of the key's type.
        recorded: bool,
    },
}

/// Looks at the value at `key` and its record. If the hints are right, a fresh value takes one key lookup
/// or one inner command.
pub fn look<'s>(cx: Cx<'s>, key: Str<'s>, stale: Millis) -> Result<Look<'s>, Error> {
    let Cx { server, family } = cx;
    let hint = family.hints.of(server.db(), key.bytes());
    let looked = !hint.is_unrecorded();
    if looked {
        let record_key = names::key_of(server, RECORD, key)?;
        if server.type_of(record_key.borrow()) != Type::Absent {
            return Ok(Look::Undecided { counted: false, recorded: true });
        }
        family.hints.found_no_record(server, &hint);
    }
    // A record that was not there just now is not read again, unless another module made one in an event.
    let undecided = |counted| {
        let recorded = !looked || !family.hints.is_unrecorded(server.db(), key.bytes());
        Look::Undecided { counted, recorded }
    };
    let is_fresh = |value: &Key<'_>| {
        stale == Millis(0) || value.deadline().is_none_or(|end| server.now().until(end) > stale)
    };
    match hint.guess() {
        Some(Guess::Long) => {
            let value = server.read_key(key);
            match value.kind() {
                Type::String if value.len() > COMPACT => {
                    if is_fresh(&value) {
                        return Ok(Look::Fresh(Reply::Value(value)));
                    }
                }
                Type::String => hint.found(Guess::Short),
                _ => hint.found(Guess::Absent),
            }
            Ok(undecided(true))
        }
        Some(Guess::Short) if stale == Millis(0) && !server.is_cluster_replica() => {
            let value = by_command(server, key)?;
            match &value {
                Some(Reply::Forward(value)) => hint.found(guess_of(value)),
                _ => hint.found(Guess::Absent),
            }
            Ok(value.map_or_else(|| undecided(true), Look::Fresh))
        }
        _ => {
            let len = {
                let value = server.peek_key(key);
                if value.kind() != Type::String || !is_fresh(&value) {
                    return Ok(undecided(false));
                }
                value.len()
            };
            hint.found(guess_of_len(len));
            let value = untracked(server, key, len, false)?;
            Ok(value.map_or_else(|| undecided(true), Look::Fresh))
        }
    }
}

/// Whether a string of this length can be read in the server's memory.
fn is_readable_in_memory(server: &Server, len: usize) -> bool {
    // A replica in a cluster runs no GETEX, and may undo the compact form: its memory is a copy.
    len > COMPACT || server.is_cluster_replica()
}

/// The string at `key`, whose length is `len`, for a command that is not `readonly`. The server counts
/// one read, a hit or a miss, unless it has `counted` one and the string is long. No client that tracks
/// keys is registered: a long string is not read by an inner command, and GETEX, which changes nothing
/// without options, is not `readonly` either. `None` if there is no string.
pub fn untracked<'s>(
    server: &'s Server,
    key: Str<'s>,
    len: usize,
    counted: bool,
) -> Result<Option<Reply<'s>>, Error> {
    if is_readable_in_memory(server, len) {
        let value = if counted { server.peek_key(key) } else { server.read_key(key) };
        return Ok((value.kind() == Type::String).then_some(Reply::Value(value)));
    }
    by_command(server, key)
}

fn by_command<'s>(server: &'s Server, key: Str<'s>) -> Result<Option<Reply<'s>>, Error> {
    let value = server.call(c"GETEX", Mode::ReadForward, &[key])?;
    Ok((!value.root().is_null()).then_some(Reply::Forward(value)))
}

/// Like [`untracked`], for a `readonly` command, for which the server registers its client in any case.
pub fn tracked<'s>(cx: Cx<'s>, key: Str<'s>) -> Result<Option<Reply<'s>>, Error> {
    let server = cx.server;
    let guess = cx.family.guesses.of(key.bytes());
    let found = |found| guess.into_iter().for_each(|guess| guess.set(found));
    let guess = guess.map_or(Guess::Short, Cell::get);
    // Where an inner command may follow, the look does not count as a read.
    if guess == Guess::Long || guess == Guess::Absent && !server.peek_key(key).exists() {
        let value = server.read_key(key);
        match value.kind() {
            Type::String if value.len() > COMPACT => return Ok(Some(Reply::Value(value))),
            Type::String => found(Guess::Short),
            Type::Absent => return Ok(None),
            Type::Stream | Type::SortedSet | Type::Other => return Err(Error::WrongType),
        }
    }
    let value = server.call(c"GET", Mode::ReadForward, &[key])?;
    found(guess_of(&value));
    Ok((!value.root().is_null()).then_some(Reply::Forward(value)))
}

fn guess_of_len(len: usize) -> Guess {
    if len > COMPACT { Guess::Long } else { Guess::Short }
}

/// What the reply of an inner command says of the value.
fn guess_of(value: &CallReply<'_>) -> Guess {
    let value = value.root();
    if value.is_null() { Guess::Absent } else { guess_of_len(value.bytes().len()) }
}

/// A copy of the string at `key`, whose length is `len`. `None` if there is no string.
pub fn copy(server: &Server, key: Str<'_>, len: usize) -> Result<Option<OwnedStr>, Error> {
    if is_readable_in_memory(server, len) {
        let value = server.read_key(key);
        return Ok((value.kind() == Type::String).then(|| value.copy()));
    }
    let value = server.call(c"GETEX", Mode::Read, &[key])?;
    Ok((!value.root().is_null()).then(|| OwnedStr::new(value.root().bytes())))
}
