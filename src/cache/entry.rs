//! A cached value and the record beside it, as they are stored: the string `key`, and the string
//! `cachelock:{key}` while there is something to record.

use super::rules::{Cached, Fetch, Lease, Record, Token, fetch, next_token};
use super::{EXPIRED_LEASES, line};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{MainThread, Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::time::{Millis, UnixMs};
use std::cell::Cell;

/// Up to this length a string can have a compact form in memory, which looking at its bytes would
/// undo.
const COMPACT: usize = 128;

/// The highest token given out by this process: two leases never share one.
static LAST_TOKEN: MainThread<Cell<Token>> = MainThread::new(Cell::new(0));

/// A cached value and its record at one moment.
pub struct Entry<'s> {
    server: &'s Server,
    key: Str<'s>,
    record_key: OwnedStr,
    /// The value.
    pub cached: Cached,
    /// What is known beside it.
    pub record: Record,
    len: usize,
    stored: bool,
    now: UnixMs,
}

impl<'s> Entry<'s> {
    /// Looks at `key`. A value or record of a foreign type is an error.
    pub fn of(server: &'s Server, key: Str<'s>) -> Result<Self, Error> {
        let record_key = server.key_of(Prefix::CacheLock, key)?;
        let now = server.now();
        let (cached, len) = {
            let value = server.peek_key(key);
            match value.kind() {
                Type::Absent => (Cached::Absent, 0),
                Type::String => (Cached::Until(value.deadline()), value.len()),
                Type::Stream | Type::SortedSet | Type::Other => return Err(Error::WrongType),
            }
        };
        let stored = match server.type_of(record_key.borrow()) {
            Type::Absent => false,
            Type::String => true,
            Type::Stream | Type::SortedSet | Type::Other => return Err(Error::WrongType),
        };
        let record = if stored {
            let text = server.call(c"GET", Mode::Read, &[record_key.borrow()])?;
            Record::decode(text.root().bytes()).at(now)
        } else {
            Record::default()
        };
        if stored
            && server.is_master()
            && let Some(end) = end_of_record(cached, &record)
        {
            line::adopt(server, key, record.token, end);
        }
        let mut entry = Self { server, key, record_key, cached, record, len, stored, now };
        if line::is_void(server.db(), key.bytes(), entry.record.token) {
            entry.record.lease = Lease::Open;
            entry.record.stale = false;
        }
        Ok(entry)
    }

    /// What a caller is told for whom a value with `stale` left to live is stale.
    pub fn fetch(&self, stale: Millis) -> Fetch {
        fetch(self.cached, &self.record, stale, self.now)
    }

    /// The value, as a reply. `None` where it went in this very moment.
    pub fn value(&self) -> Result<Option<Reply<'s>>, Error> {
        match self.cached {
            Cached::Absent => Ok(None),
            Cached::Until(_) => string(self.server, self.key, self.len),
        }
    }

    /// A copy of the value, to be kept.
    pub fn copy(&self) -> Result<Option<OwnedStr>, Error> {
        let value = self.server.call(c"GET", Mode::Read, &[self.key])?;
        Ok((!value.root().is_null()).then(|| OwnedStr::new(value.root().bytes())))
    }

    /// Gives out a new lease of `span`. Refused where the server refuses writes now.
    pub fn lend(&mut self, span: Millis) -> Result<Token, Error> {
        let token =
            next_token(self.record.token.max(LAST_TOKEN.get().get()), self.server.unix_us());
        let until = self.end_of(span);
        let record = Record { lease: Lease::Loading(until), token, stale: self.record.stale };
        self.store(record, Mode::WriteAsScript)?;
        LAST_TOKEN.get().set(token);
        if line::lent(self.server, self.key, token, self.now, until) {
            EXPIRED_LEASES.add(1);
        }
        Ok(token)
    }

    /// Writes the record, or removes one that says nothing.
    pub fn store(&mut self, record: Record, mode: Mode) -> Result<(), Error> {
        if record.is_empty() {
            self.record = record;
            return self.forget();
        }
        let end = end_of_record(self.cached, &record).unwrap_or(self.now);
        let (text, at) = (OwnedStr::new(&record.encode()), OwnedStr::number(end.0));
        let args = [self.record_key.borrow(), text.borrow(), words().pxat(), at.borrow()];
        self.server.call(c"SET", mode, &args)?;
        if !matches!(record.lease, Lease::Loading(_)) {
            line::adopt(self.server, self.key, record.token, end);
        }
        self.stored = true;
        self.record = record;
        Ok(())
    }

    /// Removes the record of a lease, whatever the key holds.
    pub fn drop_record(server: &Server, key: Str<'_>, token: Token) -> Result<(), Error> {
        let record_key = server.key_of(Prefix::CacheLock, key)?;
        if server.type_of(record_key.borrow()) != Type::String {
            return Ok(());
        }
        let same = {
            let text = server.call(c"GET", Mode::Read, &[record_key.borrow()])?;
            Record::decode(text.root().bytes()).token == token
        };
        if same {
            server.call(c"DEL", Mode::Write, &[record_key.borrow()])?;
        }
        Ok(())
    }

    /// Removes the record.
    pub fn forget(&mut self) -> Result<(), Error> {
        if self.stored {
            self.server.call(c"DEL", Mode::Write, &[self.record_key.borrow()])?;
            self.stored = false;
        }
        self.record.lease = Lease::Open;
        self.record.stale = false;
        Ok(())
    }

    /// When a lease or back-off of `span` that begins now ends.
    pub fn end_of(&self, span: Millis) -> UnixMs {
        UnixMs(self.now.0.saturating_add(span.0))
    }

    /// Whether nobody loads because a load failed.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.record.lease, Lease::BackingOff(..))
    }

    /// The length of the value in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Replaces the lease; a value that was invalidated softly stays so.
    pub fn set_lease(&mut self, lease: Lease) -> Result<(), Error> {
        let stale = self.record.stale && self.cached != Cached::Absent;
        self.store(Record { lease, token: self.record.token, stale }, Mode::Write)
    }
}

/// Until when a record says something: the end of the lease or back-off, and of a value that was
/// invalidated softly.
fn end_of_record(cached: Cached, record: &Record) -> Option<UnixMs> {
    let value_end = match cached {
        Cached::Until(end) if record.stale => end,
        _ => None,
    };
    record.until().into_iter().chain(value_end).max()
}

/// The value at `key` if it is fresh and nothing is recorded beside it, which is what most callers
/// find: told with two looks and no inner command for a long value. `None` where there is more to
/// know.
pub fn plainly_fresh<'s>(
    server: &'s Server,
    key: Str<'s>,
    stale: Millis,
) -> Result<Option<Reply<'s>>, Error> {
    let record_key = server.key_of(Prefix::CacheLock, key)?;
    if server.type_of(record_key.borrow()) != Type::Absent {
        return Ok(None);
    }
    let value = server.peek_key(key);
    let lasts = stale == Millis(0)
        || value.deadline().is_none_or(|end| end.0.saturating_sub(server.now().0) > stale.0);
    match (value.kind(), value.len()) {
        (Type::String, len) if lasts && len > COMPACT => Ok(Some(Reply::Value(value))),
        (Type::String, len) if lasts => {
            drop(value);
            string(server, key, len)
        }
        _ => Ok(None),
    }
}

/// The string at `key`, whose length was found to be `len`. It counts as one read in the server's
/// own statistics. `None` where it went in this very moment.
pub fn string<'s>(
    server: &'s Server,
    key: Str<'s>,
    len: usize,
) -> Result<Option<Reply<'s>>, Error> {
    if len > COMPACT {
        let key = server.read_key(key);
        return Ok((key.kind() == Type::String).then_some(Reply::Value(key)));
    }
    let value = server.call(c"GET", Mode::ReadForward, &[key])?;
    Ok((!value.root().is_null()).then_some(Reply::Forward(value)))
}
