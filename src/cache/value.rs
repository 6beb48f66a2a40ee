//! Reading the bytes of a cached value. A long value is read in the server's memory, without a copy.
//! A short one can have a compact form in memory, which that would undo for good, so it is read by an
//! inner command.

use super::RECORD;
use super::guesses::{Guess, Guesses};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type};
use crate::time::Millis;
use std::cell::Cell;

/// The longest string that can have a compact form.
const COMPACT: usize = 128;

/// The value at `key` if it is fresh and has no record, which is the common case: it takes two key
/// lookups, and no inner command for a long value. `None` if more has to be read to decide.
pub fn plainly_fresh<'s>(
    server: &'s Server,
    key: Str<'s>,
    stale: Millis,
) -> Result<Option<Reply<'s>>, Error> {
    let record_key = names::key_of(server, RECORD, key)?;
    if server.type_of(record_key.borrow()) != Type::Absent {
        return Ok(None);
    }
    let len = {
        let value = server.peek_key(key);
        let is_fresh = stale == Millis(0)
            || value.deadline().is_none_or(|end| server.now().until(end) > stale);
        if value.kind() != Type::String || !is_fresh {
            return Ok(None);
        }
        value.len()
    };
    untracked(server, key, len)
}

/// Whether a string of this length can be read in the server's memory.
fn is_readable_in_memory(server: &Server, len: usize) -> bool {
    // A replica in a cluster runs no GETEX, and may undo the compact form: its memory is a copy.
    len > COMPACT || server.is_cluster_replica()
}

/// The string at `key`, whose length is `len`, for a command that is not `readonly`. The server counts
/// one read, a hit or a miss. No client that tracks keys is registered: a long string is not read by
/// an inner command, and GETEX, which changes nothing without options, is not `readonly` either.
/// `None` if there is no string.
pub fn untracked<'s>(
    server: &'s Server,
    key: Str<'s>,
    len: usize,
) -> Result<Option<Reply<'s>>, Error> {
    if is_readable_in_memory(server, len) {
        return Ok(in_memory(server, key));
    }
    let value = server.call(c"GETEX", Mode::ReadForward, &[key])?;
    Ok((!value.root().is_null()).then_some(Reply::Forward(value)))
}

/// Like [`untracked`], for a `readonly` command, for which the server registers its client in any case.
pub fn tracked<'s>(
    server: &'s Server,
    key: Str<'s>,
    guesses: &Guesses,
) -> Result<Option<Reply<'s>>, Error> {
    let guess = guesses.of(key.bytes());
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
    if value.root().is_null() {
        found(Guess::Absent);
        return Ok(None);
    }
    found(if value.root().bytes().len() > COMPACT { Guess::Long } else { Guess::Short });
    Ok(Some(Reply::Forward(value)))
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

fn in_memory<'s>(server: &'s Server, key: Str<'s>) -> Option<Reply<'s>> {
    let value = server.read_key(key);
    (value.kind() == Type::String).then_some(Reply::Value(value))
}
