//! A cached value and the record beside it, as they are stored: the string `key`, and the string
//! `cachelock:{key}` while there is something to record.

use super::EXPIRED_LEASES;
use super::rules::{Cached, Fetch, Lease, REASON, Record, Token, fetch, next_token};
use super::tokens::{self, Knowledge, Recorded};
use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Key, MainThread, Mode, OwnedStr, Reply, Server, Str, Type, words};
use crate::time::{Millis, UnixMs};
use std::cell::Cell;

/// Up to this length a string can have a compact form in memory, which looking at its bytes would
/// undo.
const COMPACT: usize = 128;

/// How much longer the mark of a stale value has to last before the record is written anew for it.
const RENEW: Millis = Millis(60 * 60 * 1000);

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
    /// Until when a record that marks the value as stale is kept.
    marked_until: Option<UnixMs>,
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
        let (stored, marked_until, record) = {
            let record = server.peek_key(record_key.borrow());
            match record.kind() {
                Type::Absent => (false, None, Record::default()),
                Type::String => {
                    let found = decode(&record);
                    let marked_until = record.deadline().filter(|_| found.stale);
                    (true, marked_until, found.at(now, cached))
                }
                Type::Stream | Type::SortedSet | Type::Other => return Err(Error::WrongType),
            }
        };
        let entry =
            Self { server, key, record_key, cached, record, len, stored, marked_until, now };
        // What a master recorded counts on its replicas as it is.
        Ok(if stored && server.is_master() { entry.into_known() } else { entry })
    }

    /// The entry as it counts by what this process knows of the record.
    fn into_known(mut self) -> Self {
        let record = std::mem::take(&mut self.record);
        self.record = match tokens::knowledge(self.server, self.key, record.token) {
            Knowledge::Known => record,
            // Its slot came from another node, whose tokens are refused here; but whoever loads
            // is not joined by another as long as it has not been told so.
            Knowledge::Newer
                if self.server.is_in_cluster() && matches!(record.lease, Lease::Loading(_)) =>
            {
                self.record = record;
                if let Some(end) = self.record.end(self.cached, self.now) {
                    tokens::moved_here(self.server, self.key, self.as_recorded(end));
                }
                return self;
            }
            Knowledge::Newer | Knowledge::Unknown => record.of_unknown(),
            Knowledge::Void => return Self { record: record.ended(), ..self },
        };
        if let Some(end) = self.record.end(self.cached, self.now) {
            tokens::found(self.server, self.key, self.as_recorded(end));
        }
        self
    }

    fn as_recorded(&self, end: UnixMs) -> Recorded {
        Recorded {
            token: self.record.token,
            end: self.server.moment_past(end),
            marked: self.record.stale,
            deadline: match self.cached {
                Cached::Absent => None,
                Cached::Until(end) => end,
            },
        }
    }

    /// What a caller is told for whom a value with `stale` left to live is stale.
    pub fn fetch(&self, stale: Millis) -> Fetch {
        fetch(self.cached, &self.record, stale, self.now)
    }

    /// The value, as a reply. `None` where there is none, or it went in this very moment.
    pub fn value(&self) -> Result<Option<Reply<'s>>, Error> {
        match self.cached {
            Cached::Until(_) => untracked(self.server, self.key, self.len),
            Cached::Absent => {
                // The server counts the miss as well.
                self.server.read_key(self.key);
                Ok(None)
            }
        }
    }

    /// A copy of the value, to be kept.
    pub fn copy(&self) -> Result<Option<OwnedStr>, Error> {
        if self.cached == Cached::Absent {
            return Ok(None);
        }
        if has_no_compact_form(self.server, self.len) {
            let value = self.server.read_key(self.key);
            return Ok((value.kind() == Type::String).then(|| value.copy()));
        }
        let value = self.server.call(c"GETEX", Mode::Read, &[self.key])?;
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
        if tokens::lent(self.server, self.key, token, until) {
            EXPIRED_LEASES.add(1);
        }
        Ok(token)
    }

    /// Writes the record, or removes one that says nothing.
    pub fn store(&mut self, record: Record, mode: Mode) -> Result<(), Error> {
        let Some(end) = record.end(self.cached, self.now) else {
            self.record = record;
            return self.forget();
        };
        let (text, at) = (OwnedStr::new(&record.encode()), OwnedStr::number(end.0));
        let args = [self.record_key.borrow(), text.borrow(), words().pxat(), at.borrow()];
        self.server.call(c"SET", mode, &args)?;
        self.stored = true;
        self.record = record;
        tokens::recorded(self.server, self.key, self.as_recorded(end));
        Ok(())
    }

    /// Removes the record of a value that somebody else wrote, whatever the value is now.
    pub fn remove_void_record(server: &Server, key: Str<'_>) -> Result<(), Error> {
        let record_key = server.key_of(Prefix::CacheLock, key)?;
        let token = {
            let record = server.peek_key(record_key.borrow());
            (record.kind() == Type::String).then(|| decode(&record).token)
        };
        // Another one can have come in its place.
        if let Some(token) = token
            && tokens::knowledge(server, key, token) == Knowledge::Void
        {
            server.call(c"DEL", Mode::Write, &[record_key.borrow()])?;
        }
        tokens::no_record(server, key);
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
        tokens::no_record(self.server, self.key);
        Ok(())
    }

    /// Sees to it that the mark of a stale value lasts as long as the value, whose time-to-live others
    /// can have changed, and no longer.
    pub fn keep_mark(&mut self, mode: Mode) -> Result<(), Error> {
        let Some(until) = self.marked_until else { return Ok(()) };
        let lasts = |end: UnixMs| until.0.saturating_add(RENEW.0) >= end.0;
        match self.record.end(self.cached, self.now) {
            Some(end) if self.record.stale && lasts(end) => Ok(()),
            _ => self.store(self.record.clone(), mode),
        }
    }

    /// As [`Entry::keep_mark`], for a look that only reads: where the server refuses to write, the next
    /// look tries again.
    pub fn renew_mark(&mut self) {
        if self.server.is_master() && self.keep_mark(Mode::WriteAsScript).is_err() {
            self.marked_until = None;
        }
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

    /// Replaces the lease, or the record of one that has ended; a value that was invalidated softly
    /// stays so.
    pub fn set_lease(&mut self, token: Token, lease: Lease) -> Result<(), Error> {
        self.store(Record { lease, token, stale: self.record.stale }, Mode::Write)
    }

    /// A value was stored that expires at `end`; the current loader goes on.
    pub fn replaced(&mut self, end: UnixMs) -> Result<(), Error> {
        self.cached = Cached::Until(Some(end));
        if !self.record.stale {
            return Ok(());
        }
        self.store(Record { stale: false, ..self.record.clone() }, Mode::Write)
    }
}

/// Reads the record that an open key holds. What is longer than any record says nothing.
fn decode(record: &Key<'_>) -> Record {
    const LONGEST: usize = 128 + REASON;
    if record.len() > LONGEST {
        return Record::default();
    }
    Record::decode(record.copy().borrow().bytes())
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
    let len = {
        let value = server.peek_key(key);
        let lasts = stale == Millis(0)
            || value.deadline().is_none_or(|end| end.0.saturating_sub(server.now().0) > stale.0);
        if value.kind() != Type::String || !lasts {
            return Ok(None);
        }
        value.len()
    };
    untracked(server, key, len)
}

/// Whether a string of this length can be looked at in the server's memory.
fn has_no_compact_form(server: &Server, len: usize) -> bool {
    // On a replica in a cluster there is no other way, and its memory is not the data's own.
    len > COMPACT || server.is_cluster_replica()
}

/// The string at `key`, whose length was found to be `len`, for a command that is not `readonly`. It
/// counts as one read in the server's own statistics, a hit or a miss. No client that tracks keys is
/// registered for it: a long string is not read by an inner command, and GETEX, which changes nothing
/// without options, is not `readonly` either. `None` where there is no string.
fn untracked<'s>(server: &'s Server, key: Str<'s>, len: usize) -> Result<Option<Reply<'s>>, Error> {
    if has_no_compact_form(server, len) {
        let key = server.read_key(key);
        return Ok((key.kind() == Type::String).then_some(Reply::Value(key)));
    }
    let value = server.call(c"GETEX", Mode::ReadForward, &[key])?;
    Ok((!value.root().is_null()).then_some(Reply::Forward(value)))
}

/// As [`untracked`], for a command that is `readonly`, so that the server registers its client
/// anyway.
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
