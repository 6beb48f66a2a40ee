//! The stored holders of a lock: `lock:{name}` is a string, the identifier of the exclusive holder, or
//! a sorted set of shared holders, scored by the end of their leases. The key expires with the latest
//! lease. Members whose lease has expired do not count; each change removes some of them. A lease
//! runs until the clock has passed its end, which is stored as an absolute time, because the server
//! counts a relative one from the start of a long script or transaction.

use super::rules::{Held, Holders, Mode, next_fence};
use super::{Cx, FENCE};
use crate::error::Error;
use crate::names;
use crate::server::resp::Element;
use crate::server::{Key, Mode as Call, OwnedStr, Reply, Server, Str, Type, integer, words};
use crate::time::{Millis, UnixMs};
use std::rc::Rc;

/// A request to become a holder.
pub struct Candidate<'a> {
    /// The name of the lock.
    pub name: Str<'a>,
    /// The identifier of the new holder.
    pub identifier: Str<'a>,
    /// Its lease, which begins with the grant.
    pub ttl: Millis,
    /// How it is to hold the lock.
    pub mode: Mode,
    /// Whether it gets a fencing token.
    pub fence: bool,
}

/// How an identifier holds a lock; valid until anything else can change the lock.
pub enum Holding<'s> {
    /// Not at all.
    No,
    /// As the exclusive holder. The key of the lock is open.
    Exclusive(Key<'s>),
    /// As a shared holder.
    Shared,
}

impl Holding<'_> {
    /// As the rules see it.
    pub fn held(&self) -> Held {
        match self {
            Holding::No => Held::No,
            Holding::Exclusive(_) => Held::Exclusive,
            Holding::Shared => Held::Shared,
        }
    }
}

/// The identifier of a holder and the end of its lease, if it has one.
pub type Holder = (Vec<u8>, Option<UnixMs>);

/// How many holders with expired leases one call removes.
const EXPIRED_AT_ONCE: usize = 128;

/// The stored state of one lock.
pub struct Stored<'s> {
    cx: Cx<'s>,
    server: &'s Server,
    key: Str<'s>,
}

impl<'s> Stored<'s> {
    /// The lock at `key`, the key derived from its name.
    pub fn at(cx: Cx<'s>, key: Str<'s>) -> Self {
        Self { cx, server: cx.server, key }
    }

    /// Its key.
    pub fn key(&self) -> Str<'s> {
        self.key
    }

    /// Its current holders.
    pub fn holders(&self) -> Result<Holders, Error> {
        self.holders_in(self.server.type_of(self.key))
    }

    /// Its current holders, if its key is of this type.
    pub fn holders_in(&self, kind: Type) -> Result<Holders, Error> {
        Ok(match kind {
            Type::Absent if self.evicted() => Holders::Evicted,
            Type::Absent => Holders::Free,
            Type::String => Holders::Exclusive,
            Type::SortedSet => match self.live()? {
                0 => Holders::Free,
                count => Holders::Shared(count),
            },
            Type::Stream | Type::Other => Holders::Foreign,
        })
    }

    /// Whether the key was evicted while a lease was running, which has not ended yet.
    pub fn evicted(&self) -> bool {
        let (db, now) = (self.server.db(), self.server.now());
        self.cx.family.evicted.until(db, self.key.bytes(), now).is_some()
    }

    /// How `identifier` holds it now. A key of another type is an error.
    pub fn held(&self, identifier: Str<'_>) -> Result<Held, Error> {
        Ok(self.find(identifier)?.held())
    }

    /// As [`Stored::held`], for a caller that changes the lock immediately.
    pub fn find(&self, identifier: Str<'_>) -> Result<Holding<'s>, Error> {
        let lock = self.server.peek_key(self.key);
        match lock.kind() {
            Type::Absent => return Ok(Holding::No),
            Type::String if lock.holds(identifier.bytes()) => return Ok(Holding::Exclusive(lock)),
            Type::String => return Ok(Holding::No),
            Type::SortedSet => drop(lock),
            Type::Stream | Type::Other => return Err(Error::WrongType),
        }
        let score = self.server.call(c"ZSCORE", Call::Read, &[self.key, identifier])?;
        // Other clients may write a lease without an end.
        let runs = !score.root().is_null()
            && deadline(score.root().bytes()).is_none_or(|end| end >= self.server.now());
        Ok(if runs { Holding::Shared } else { Holding::No })
    }

    /// The number of shared holders whose lease has not expired.
    fn live(&self) -> Result<u64, Error> {
        let now = OwnedStr::number(self.server.now().0);
        let args = [self.key, now.borrow(), words().infinity()];
        Ok(self.server.call(c"ZCOUNT", Call::Read, &args)?.root().integer() as u64)
    }

    /// The end of the earliest lease, if it has one.
    pub fn next_end(&self) -> Result<Option<UnixMs>, Error> {
        let key_end = self.server.peek_key(self.key).deadline();
        match self.server.type_of(self.key) {
            Type::SortedSet => {
                let now = OwnedStr::number(self.server.now().0);
                let w = words();
                let args = [
                    self.key,
                    now.borrow(),
                    w.infinity(),
                    w.with_scores(),
                    w.limit(),
                    w.zero(),
                    w.one(),
                ];
                let first = self.server.call(c"ZRANGEBYSCORE", Call::Read, &args)?;
                let first = first.root().at(1).and_then(|score| deadline(score.bytes()));
                // Another client may have set the key to expire earlier.
                Ok(first.into_iter().chain(key_end).min())
            }
            _ => Ok(key_end),
        }
    }

    /// The holders and the ends of their leases, the earliest first, at most `limit`.
    pub fn list(&self, limit: i64) -> Result<Vec<Holder>, Error> {
        let w = words();
        match self.server.type_of(self.key) {
            Type::String => {
                let holder = self.server.call(c"GET", Call::Read, &[self.key])?;
                let end = self.server.peek_key(self.key).deadline();
                Ok(vec![(holder.root().bytes().to_vec(), end)])
            }
            Type::SortedSet => {
                let (now, limit) = (OwnedStr::number(self.server.now().0), OwnedStr::number(limit));
                let args = [
                    self.key,
                    now.borrow(),
                    w.infinity(),
                    w.with_scores(),
                    w.limit(),
                    w.zero(),
                    limit.borrow(),
                ];
                let found = self.server.call(c"ZRANGEBYSCORE", Call::Read, &args)?;
                let flat: Vec<_> = found.root().elements().collect();
                let pair = |pair: &[Element<'_>]| match pair {
                    [id, score] => Some((id.bytes().to_vec(), deadline(score.bytes()))),
                    _ => None,
                };
                Ok(flat.chunks(2).filter_map(pair).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Makes the candidate a holder without checking the rules. Its lease begins now. The reply is 1,
    /// or the fencing token.
    pub fn grant(&self, candidate: &Candidate<'_>) -> Result<Reply<'static>, Error> {
        // The token comes first: if the rest is refused, a token is lost, but no lock is held without
        // one.
        let token = if candidate.fence { Some(self.spend_token(candidate.name)?) } else { None };
        if candidate.mode.is_shared() {
            self.share(candidate.identifier, candidate.ttl)?;
        } else {
            self.own(candidate.identifier, candidate.ttl)?;
        }
        Ok(Reply::Integer(token.unwrap_or(1)))
    }

    /// Stores and returns the next fencing token.
    fn spend_token(&self, name: Str<'_>) -> Result<i64, Error> {
        let key = names::key_of(self.server, FENCE, name)?;
        let previous = last_token(self.server, key.borrow())?;
        let token = next_fence(previous, self.server.unix_us()).ok_or(Error::Fence)?;
        let (text, end) =
            (OwnedStr::number(token), self.end_of(Millis(self.cx.family.fence_ttl.get())));
        let args = [key.borrow(), text.borrow(), words().pxat(), end.borrow()];
        self.server.call(c"SET", Call::Write, &args)?;
        Ok(token)
    }

    /// The end of a lease that begins now.
    fn end_of(&self, ttl: Millis) -> Rc<OwnedStr> {
        self.server.time(self.server.now() + ttl)
    }

    /// Makes `identifier` the exclusive holder, replacing what was there.
    pub fn own(&self, identifier: Str<'_>, ttl: Millis) -> Result<(), Error> {
        let mut lock = self.server.peek_key(self.key);
        if lock.entries() > EXPIRED_AT_ONCE {
            drop(lock);
            // Freeing that many expired holders would block the server.
            self.server.call(c"UNLINK", Call::Write, &[self.key])?;
            lock = self.server.peek_key(self.key);
        }
        self.own_quickly(lock, identifier, ttl)
    }

    /// Makes `identifier` the exclusive holder of a lock whose key, already open, does not exist or can
    /// be freed quickly.
    pub fn own_quickly(
        &self,
        lock: Key<'_>,
        identifier: Str<'_>,
        ttl: Millis,
    ) -> Result<(), Error> {
        lock.set_plain(identifier, self.server.now() + ttl)
    }

    /// Makes `identifier` a shared holder, or renews its lease.
    pub fn share(&self, identifier: Str<'_>, ttl: Millis) -> Result<(), Error> {
        let end = self.end_of(ttl);
        self.drop_expired()?;
        self.server.call(c"ZADD", Call::Write, &[self.key, end.borrow(), identifier])?;
        self.expire_with_latest()
    }

    /// From exclusive to shared in one step.
    pub fn downgrade(&self, lock: Key<'_>, identifier: Str<'_>, ttl: Millis) -> Result<(), Error> {
        lock.delete()?;
        self.share(identifier, ttl)
    }

    /// Renews the lease of the exclusive holder.
    pub fn renew(&self, lock: Key<'_>, ttl: Millis) -> Result<(), Error> {
        lock.expire_at(self.server.now() + ttl)
    }

    /// Removes a holder.
    pub fn remove(&self, identifier: Str<'_>, holding: Holding<'_>) -> Result<(), Error> {
        match holding {
            Holding::No => Ok(()),
            Holding::Exclusive(lock) => lock.delete(),
            Holding::Shared => {
                self.server.call(c"ZREM", Call::Write, &[self.key, identifier])?;
                self.drop_expired()?;
                self.expire_with_latest()
            }
        }
    }

    /// Removes some holders with expired leases: more than one call can add, but a bounded number.
    fn drop_expired(&self) -> Result<(), Error> {
        if self.server.type_of(self.key) != Type::SortedSet {
            return Ok(());
        }
        let before_now = OwnedStr::new(format!("({}", self.server.now().0).as_bytes());
        let (w, most) = (words(), OwnedStr::number(EXPIRED_AT_ONCE as i64));
        let args =
            [self.key, w.minus_infinity(), before_now.borrow(), w.limit(), w.zero(), most.borrow()];
        let expired = self.server.call(c"ZRANGEBYSCORE", Call::Read, &args)?;
        let expired: Vec<OwnedStr> =
            expired.root().elements().map(|id| OwnedStr::new(id.bytes())).collect();
        if expired.is_empty() {
            return Ok(());
        }
        let args: Vec<_> =
            [self.key].into_iter().chain(expired.iter().map(OwnedStr::borrow)).collect();
        self.server.call(c"ZREM", Call::Write, &args).map(drop)
    }

    /// Makes the key expire with the latest lease, so that it disappears even without the module.
    fn expire_with_latest(&self) -> Result<(), Error> {
        let w = words();
        let latest = {
            let args = [self.key, w.last(), w.last(), w.with_scores()];
            let last = self.server.call(c"ZRANGE", Call::Read, &args)?;
            last.root().at(1).and_then(|score| deadline(score.bytes()))
        };
        let Some(latest) = latest else { return Ok(()) };
        let now = self.server.now();
        if latest < now {
            // There is no holder. An expiry would free all members in one step, however many there are.
            return self.server.call(c"UNLINK", Call::Write, &[self.key]).map(drop);
        }
        // The server deletes a key at once if its deadline is not in the future.
        let end = latest.max(now + Millis(1));
        if self.server.peek_key(self.key).deadline() == Some(end) {
            return Ok(());
        }
        let at = self.server.time(end);
        self.server.call(c"PEXPIREAT", Call::Write, &[self.key, at.borrow()]).map(drop)
    }
}

/// The last fencing token, if one is stored.
pub fn last_token(server: &Server, key: Str<'_>) -> Result<Option<i64>, Error> {
    if server.type_of(key) == Type::Absent {
        return Ok(None);
    }
    let last = server.call(c"GET", Call::Read, &[key])?;
    integer(last.root().bytes()).ok_or(Error::Fence).map(Some)
}

/// The end of a lease from the score of a sorted set; none if it is too far away.
fn deadline(score: &[u8]) -> Option<UnixMs> {
    let score: f64 = std::str::from_utf8(score).ok()?.parse().ok()?;
    Some(UnixMs(score as i64)).filter(|end| end.is_storable())
}
