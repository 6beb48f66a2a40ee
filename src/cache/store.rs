//! A cached value and its record as they are stored: the string `key`, and the string
//! `cachelock:{key}` while there is something to record.
//!
//! How far a stored record counts also depends on what this process knows ([`super::tokens`]).
//! [`Stored::read`] only reads. [`Stored::watch`] remembers the record that was read, so that a foreign
//! write ends it.

use super::record::{self, News};
use super::rules::{Cached, Fetch, Lease, Record, Token, fetch, next_token};
use super::tokens::Recorded;
use super::{Cx, EVENTS, RECORD, ties, value};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Reply, Str, words};
use crate::time::{Millis, UnixMs};
use std::cell::OnceCell;

/// How much longer a stale mark has to last, compared with the value, before it is renewed.
const RENEW: Millis = Millis(60 * 60 * 1000);

/// A cached value and its record at one moment.
pub struct Stored<'s> {
    cx: Cx<'s>,
    key: Str<'s>,
    /// The key of the record, once it was needed.
    record_key: OnceCell<OwnedStr>,
    /// The value.
    pub cached: Cached,
    /// The record, as far as it counts.
    pub record: Record,
    len: usize,
    has_record: bool,
    news: News,
    /// Until when the record is kept, if it marks the value as stale.
    marked_until: Option<UnixMs>,
    /// Whether the server has counted a hit or a miss of the value.
    counted: bool,
    now: UnixMs,
}

impl<'s> Stored<'s> {
    fn unread(cx: Cx<'s>, key: Str<'s>) -> Self {
        Self {
            cx,
            key,
            record_key: OnceCell::new(),
            cached: Cached::Absent,
            record: Record::default(),
            len: 0,
            has_record: false,
            news: News::None,
            marked_until: None,
            counted: false,
            now: cx.server.now(),
        }
    }

    /// Reads the value at `key` and its record. A key of another type is an error.
    pub fn read(cx: Cx<'s>, key: Str<'s>) -> Result<Self, Error> {
        Self::read_with(cx, key, true)
    }

    /// As [`Stored::read`], if there can be a record: `recorded`.
    pub fn read_with(cx: Cx<'s>, key: Str<'s>, recorded: bool) -> Result<Self, Error> {
        let (server, mut stored) = (cx.server, Self::unread(cx, key));
        {
            let value = server.peek_key(key);
            if record::is_stored(value.kind())? {
                (stored.cached, stored.len) = (Cached::Until(value.deadline()), value.len());
            }
        }
        if recorded
            && let Some((record, marked_until)) = record::read(server, stored.record_key()?)?
        {
            (stored.has_record, stored.marked_until) = (true, marked_until);
            stored.record = record.at(stored.now, stored.cached);
            // A replica trusts what its master recorded.
            if server.is_master() {
                (stored.record, stored.news) = record::judge(cx, key, stored.record);
            }
        }
        Ok(stored)
    }

    /// As [`Stored::read`], for a command that replaces the value and removes the record, whatever they
    /// are: of the record only the type is read, and of the value nothing.
    pub fn read_to_fill(cx: Cx<'s>, key: Str<'s>) -> Result<Self, Error> {
        let (server, mut stored) = (cx.server, Self::unread(cx, key));
        if !cx.family.hints.is_unrecorded(server.db(), key.bytes()) {
            stored.has_record = record::is_stored(server.type_of(stored.record_key()?))?;
        }
        Ok(stored)
    }

    /// As given, after the server has counted a hit or a miss of the value, if `counted` is set.
    pub fn counted(self, counted: bool) -> Self {
        Self { counted, ..self }
    }

    fn record_key(&self) -> Result<Str<'_>, Error> {
        if let Some(key) = self.record_key.get() {
            return Ok(key.borrow());
        }
        let key = names::key_of(self.cx.server, RECORD, self.key)?;
        Ok(self.record_key.get_or_init(|| key).borrow())
    }

    /// Remembers the record that was read: from now on a foreign write ends it.
    pub fn watch(self) -> Self {
        let Cx { server, family } = self.cx;
        let Some(end) = self.record.end(self.cached, self.now) else { return self };
        let (db, key) = (server.db(), self.key.bytes());
        let (record, now, bounds) = (self.recorded(end), server.moment(), family.bounds());
        match self.news {
            News::None => return self,
            News::Record => family.tokens.watch(db, key, record, now, bounds),
            News::Moved => family.tokens.move_here(db, key, record, now, bounds),
        }
        server.subscribe(EVENTS);
        self
    }

    fn recorded(&self, end: UnixMs) -> Recorded {
        Recorded {
            token: self.record.token,
            end: self.cx.server.moment_past(end),
            marked: self.record.stale,
            deadline: match self.cached {
                Cached::Absent => None,
                Cached::Until(end) => end,
            },
        }
    }

    /// The answer to a fetch for which a value with at most `stale` left to live is stale.
    pub fn fetch(&self, stale: Millis) -> Fetch {
        fetch(self.cached, &self.record, stale, self.now)
    }

    /// The value, as a reply, for a command that is not `readonly`. `None` if there is none, or if it
    /// has expired just now.
    pub fn value(&self) -> Result<Option<Reply<'s>>, Error> {
        match self.cached {
            Cached::Until(_) => value::untracked(self.cx.server, self.key, self.len, self.counted),
            Cached::Absent => {
                self.count_miss();
                Ok(None)
            }
        }
    }

    /// Has the server count a miss of the value.
    pub fn count_miss(&self) {
        if !self.counted {
            self.cx.server.read_key(self.key);
        }
    }

    /// A copy of the value, to be kept.
    pub fn copy(&self) -> Result<Option<OwnedStr>, Error> {
        match self.cached {
            Cached::Until(_) => value::copy(self.cx.server, self.key, self.len),
            Cached::Absent => Ok(None),
        }
    }

    /// The length of the value in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// When a lease or back-off of `span` that begins now ends.
    pub fn end_of(&self, span: Millis) -> UnixMs {
        self.now + span
    }

    /// Whether no client loads because a load has failed.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.record.lease, Lease::BackingOff(..))
    }

    /// The reason of a failure, or nil.
    pub fn reason(&self) -> Reply<'static> {
        match &self.record.lease {
            Lease::BackingOff(_, Some(reason)) => Reply::bulk(reason),
            _ => Reply::Null,
        }
    }

    /// Whether the value can be stored with a token.
    pub fn is_good(&self, token: Token) -> bool {
        let Cx { server, family } = self.cx;
        let (now, late) = (server.moment(), family.bounds().late);
        family.tokens.is_good(server.db(), self.key.bytes(), token, now, late)
    }

    /// Whether a token is good and the newest: only that loader can give up.
    pub fn is_newest(&self, token: Token) -> bool {
        is_newest(self.cx, self.key, token)
    }

    /// Gives out a new lease of `span`, which is tied to `client` if that is given. Refused where the
    /// server refuses writes now.
    pub fn lend(&mut self, span: Millis, client: Option<u64>) -> Result<Token, Error> {
        let Cx { server, family } = self.cx;
        let last = self.record.token.max(family.last_token.get());
        let token = next_token(last, server.unix_us());
        let until = self.end_of(span);
        let record = Record { lease: Lease::Loading(until), token, stale: self.record.stale };
        let end = record.end(self.cached, self.now).unwrap_or(until);
        let recorded = self.put(record, end, Mode::WriteAsScript)?;
        family.last_token.set(token);
        let (db, key) = (server.db(), self.key.bytes());
        ties::lent(self.cx, key, token, until, client);
        let (end, now) = (server.moment_past(until), server.moment());
        if family.tokens.lend(db, key, recorded, end, now, family.bounds()) {
            family.counters.expired_leases.add(1);
        }
        family.count_load(db, key);
        Ok(token)
    }

    /// The current lease, which has this token, ends at `until`.
    pub fn extend(&mut self, token: Token, until: UnixMs) -> Result<(), Error> {
        self.set_lease(token, Lease::Loading(until))?;
        ties::extended(self.cx, self.key.bytes(), until);
        let Cx { server, family } = self.cx;
        family.tokens.extend(server.db(), self.key.bytes(), server.moment_past(until));
        Ok(())
    }

    /// The loader with the newest token gives up. `lease` is what follows.
    pub fn give_up(&mut self, token: Token, lease: Lease) -> Result<(), Error> {
        self.set_lease(token, lease)?;
        let Cx { server, family } = self.cx;
        family.tokens.give_up(server.db(), self.key.bytes(), server.moment());
        Ok(())
    }

    /// The current lease, which has this token, ends. The token stays good: the loader may be there
    /// still, with another connection.
    pub fn abandon(&mut self, token: Token) -> Result<(), Error> {
        self.set_lease(token, Lease::Open)
    }

    /// Replaces the lease. A value that is marked as stale stays so.
    fn set_lease(&mut self, token: Token, lease: Lease) -> Result<(), Error> {
        self.write(Record { lease, token, stale: self.record.stale }, Mode::Write)
    }

    /// Stores the value for `ttl`: with a token that is good, or without one. Returns how long the load
    /// took, if there was one. A key of another type is an error.
    pub fn fill(
        &mut self,
        value: Str<'_>,
        ttl: Millis,
        token: Option<Token>,
    ) -> Result<Option<Millis>, Error> {
        let Cx { server, family } = self.cx;
        let end = self.end_of(ttl);
        let before = server.peek_key(self.key);
        record::is_stored(before.kind())?;
        before.set(value, end)?;
        self.cached = Cached::Until(Some(end));
        let (db, key, now) = (server.db(), self.key.bytes(), server.moment());
        let (is_newest, took) = match token {
            Some(token) => family.tokens.store(db, key, token, end, now),
            None => (true, family.tokens.end_all(db, key, now)),
        };
        if is_newest {
            self.remove_record()?;
        } else if self.record.stale {
            // The newest loader goes on.
            self.write(Record { stale: false, ..self.record.clone() }, Mode::Write)?;
        }
        Ok(took)
    }

    /// Removes the value, or marks it as stale and keeps it for at most `stale`. No token is good.
    pub fn invalidate(&mut self, stale: Option<Millis>) -> Result<(), Error> {
        let Cx { server, family } = self.cx;
        family.tokens.end_all(server.db(), self.key.bytes(), server.moment());
        match (self.cached, stale) {
            (Cached::Absent, _) => self.remove_record(),
            (Cached::Until(_), None) => {
                server.peek_key(self.key).delete()?;
                self.remove_record()
            }
            (Cached::Until(before), Some(stale)) => {
                let end = before.into_iter().fold(self.end_of(stale), UnixMs::min);
                let at = server.time(end);
                server.call(c"PEXPIREAT", Mode::Write, &[self.key, at.borrow()])?;
                if !server.peek_key(self.key).exists() {
                    // The end has passed meanwhile. No event would remove the mark of a value that is gone.
                    self.cached = Cached::Absent;
                    return self.remove_record();
                }
                self.cached = Cached::Until(Some(end));
                let token = self.record.token;
                self.write(Record { lease: Lease::Open, token, stale: true }, Mode::Write)
            }
        }
    }

    /// Makes the stale mark last as long as the value, whose time-to-live others can have changed, and
    /// no longer.
    pub fn keep_mark(&mut self, mode: Mode) -> Result<(), Error> {
        let Some(until) = self.marked_until else { return Ok(()) };
        match self.record.end(self.cached, self.now) {
            Some(end) if self.record.stale && until + RENEW >= end => Ok(()),
            _ => self.write(self.record.clone(), mode),
        }
    }

    /// Like [`Stored::keep_mark`], in a command that only reads. Where the server refuses to write, the
    /// next reader tries again.
    pub fn renew_mark(&mut self) {
        if self.cx.server.is_master() && self.keep_mark(Mode::WriteAsScript).is_err() {
            self.marked_until = None;
        }
    }

    /// Writes the record, or removes one that says nothing.
    fn write(&mut self, record: Record, mode: Mode) -> Result<(), Error> {
        let Cx { server, family } = self.cx;
        let Some(end) = record.end(self.cached, self.now) else {
            self.record = record;
            return self.remove_record();
        };
        let recorded = self.put(record, end, mode)?;
        let (db, key) = (server.db(), self.key.bytes());
        if !matches!(self.record.lease, Lease::Loading(_)) {
            ties::ended(self.cx, key);
        }
        family.tokens.record(db, key, recorded, server.moment(), family.bounds());
        Ok(())
    }

    /// Stores a record that is kept until `end`.
    fn put(&mut self, record: Record, end: UnixMs, mode: Mode) -> Result<Recorded, Error> {
        let Cx { server, family } = self.cx;
        let (text, at) = (OwnedStr::new(&record.encode()), server.time(end));
        family.hints.recorded(server.db(), self.key.bytes());
        let args = [self.record_key()?, text.borrow(), words().pxat(), at.borrow()];
        server.call(c"SET", mode, &args)?;
        self.has_record = true;
        self.record = record;
        server.subscribe(EVENTS);
        Ok(self.recorded(end))
    }

    fn remove_record(&mut self) -> Result<(), Error> {
        let Cx { server, family } = self.cx;
        if self.has_record {
            server.peek_key(self.record_key()?).delete()?;
            self.has_record = false;
        }
        self.record.lease = Lease::Open;
        self.record.stale = false;
        ties::ended(self.cx, self.key.bytes());
        family.tokens.forget_record(server.db(), self.key.bytes());
        Ok(())
    }
}

/// Whether a token is good and the newest.
pub fn is_newest(cx: Cx<'_>, key: Str<'_>, token: Token) -> bool {
    let Cx { server, family } = cx;
    let (now, late) = (server.moment(), family.bounds().late);
    family.tokens.is_newest(server.db(), key.bytes(), token, now, late)
}
