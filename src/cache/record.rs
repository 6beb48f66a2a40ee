//! Reading the record of a value, and what it is worth to this process ([`super::tokens`]).

use super::rules::{Lease, REASON, Record, Token};
use super::tokens::Knowledge;
use super::{Cx, RECORD, ties};
use crate::error::Error;
use crate::names;
use crate::server::{Key, Server, Str, Type};
use crate::time::UnixMs;

/// What has to be remembered of a record that was read.
pub enum News {
    /// Nothing.
    None,
    /// The record.
    Record,
    /// The record, of a lease that another cluster node gave out.
    Moved,
}

/// Whether a value or a record is stored at a key. A key of another type is an error.
pub fn is_stored(kind: Type) -> Result<bool, Error> {
    match kind {
        Type::Absent => Ok(false),
        Type::String => Ok(true),
        Type::Stream | Type::SortedSet | Type::Other => Err(Error::WrongType),
    }
}

/// A record as it is stored, and until when it is kept if it marks the value as stale.
pub type Found = (Record, Option<UnixMs>);

/// The record that is stored at `key`.
pub fn read(server: &Server, key: Str<'_>) -> Result<Option<Found>, Error> {
    let record = server.peek_key(key);
    if !is_stored(record.kind())? {
        return Ok(None);
    }
    let found = decode(&record);
    let marked_until = if found.stale { record.deadline() } else { None };
    Ok(Some((found, marked_until)))
}

/// Reads the record that an open key holds. A string longer than any record says nothing.
fn decode(record: &Key<'_>) -> Record {
    const LONGEST: usize = 128 + REASON;
    if record.len() > LONGEST {
        return Record::default();
    }
    Record::decode(record.copy().borrow().bytes())
}

/// What counts of a record that was read, and what has to be remembered of it.
pub fn judge(cx: Cx<'_>, key: Str<'_>, record: Record) -> (Record, News) {
    let is_loading = matches!(record.lease, Lease::Loading(_));
    match knowledge(cx, key, record.token) {
        Knowledge::Known => (record, News::Record),
        // The lease came with its slot from another node, and its token is not good here. But no other
        // client loads until the loader knows that.
        Knowledge::Newer if cx.server.is_in_cluster() && is_loading => (record, News::Moved),
        Knowledge::Newer | Knowledge::Unknown => (record.of_unknown(), News::Record),
        Knowledge::Void => (record.ended(), News::None),
    }
}

/// How far a record with this token counts.
fn knowledge(cx: Cx<'_>, key: Str<'_>, token: Token) -> Knowledge {
    let Cx { server, family } = cx;
    let (now, late) = (server.moment(), family.bounds().late);
    family.tokens.knowledge(server.db(), key.bytes(), token, now, late)
}

/// Removes the record of a value that another client has written, without regard to the value.
pub fn remove_void(cx: Cx<'_>, key: Str<'_>) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let record_key = names::key_of(server, RECORD, key)?;
    let token = {
        let record = server.peek_key(record_key.borrow());
        (record.kind() == Type::String).then(|| decode(&record).token)
    };
    // It can have been replaced by another record.
    if let Some(token) = token
        && knowledge(cx, key, token) == Knowledge::Void
    {
        server.peek_key(record_key.borrow()).delete()?;
        ties::ended(cx, key.bytes());
    }
    family.tokens.forget_record(server.db(), key.bytes());
    Ok(())
}
