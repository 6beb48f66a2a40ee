//! Hashes whose fields are the original ids of tasks: what `taskmoved:{stream}` and
//! `taskmarks:{stream}` have in common.

use super::id::EntryId;
use crate::error::Error;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Server, Str};

/// The argument of an inner command that stands for an id.
pub fn text(id: EntryId) -> OwnedStr {
    OwnedStr::new(id.to_string().as_bytes())
}

/// The key of a hash, followed by names, as the arguments of an inner command.
fn args<'a>(key: Str<'a>, names: &'a [OwnedStr]) -> Vec<Str<'a>> {
    [key].into_iter().chain(names.iter().map(OwnedStr::borrow)).collect()
}

/// What `read` makes of the values of these ids.
pub fn values<T>(
    server: &Server,
    key: Str<'_>,
    originals: impl Iterator<Item = EntryId>,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<Option<T>>, Error> {
    let names: Vec<OwnedStr> = originals.map(text).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let found = server.call(c"HMGET", Mode::Read, &args(key, &names))?;
    let value = |value: Element<'_>| if value.is_null() { None } else { read(value.bytes()) };
    Ok(found.root().elements().map(value).collect())
}

/// Sets fields: each is followed by its value.
pub fn set(server: &Server, key: Str<'_>, pairs: &[OwnedStr]) -> Result<(), Error> {
    server.call(c"HSET", Mode::Write, &args(key, pairs)).map(drop)
}

/// Removes at least one field. Returns whether the key still exists.
pub fn remove(server: &Server, key: Str<'_>, fields: &[OwnedStr]) -> Result<bool, Error> {
    server.call(c"HDEL", Mode::Write, &args(key, fields))?;
    Ok(server.peek_key(key).exists())
}
