//! The rules of a cached value: fresh, stale, loading, failed, and what each caller is told.
//! Nothing here knows a server, a clock or a key.
//!
//! Beside a value there can be a record. It tells of one lease, with which one client loads the
//! value; or of a failure, after which nobody loads until the back-off ends; and whether the value
//! was invalidated softly, so that it is stale whatever its time-to-live says. No record means that
//! none of this is the case: a warm value has nothing beside it.

use crate::args::integer;
use crate::time::{Millis, Moment, UnixMs};

/// Names one lease on one value. Tokens of a value rise.
pub type Token = i64;

/// A cached value, as far as the rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// There is none.
    Absent,
    /// There is one, until this time if it expires.
    Until(Option<UnixMs>),
}

/// Who loads, or why nobody does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// Nobody; whoever asks next.
    #[default]
    Open,
    /// Whoever has the token, until the lease ends.
    Loading(UnixMs),
    /// Nobody, until the back-off ends; the last load failed for this reason, if one was given.
    BackingOff(UnixMs, Option<Vec<u8>>),
}

/// What is known beside a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who loads.
    pub lease: Lease,
    /// The last token that was given out.
    pub token: Token,
    /// The value is stale whatever its time-to-live says.
    pub stale: bool,
}

/// How long the mark that a value is stale is kept beyond the value's end.
pub const MARK: Millis = Millis(24 * 60 * 60 * 1000);

/// How much of a failure's reason is kept, in bytes.
pub const REASON: usize = 1024;

impl Record {
    /// The record as it counts at `now` beside this value: a lease or back-off that has expired is
    /// open, and where there is no value nothing is stale.
    pub fn at(mut self, now: UnixMs, cached: Cached) -> Self {
        if let Lease::Loading(until) | Lease::BackingOff(until, _) = self.lease
            && until < now
        {
            self.lease = Lease::Open;
        }
        self.stale &= cached != Cached::Absent;
        self
    }

    /// The record of a lease that this process does not know: one from before a restart or a
    /// promotion. Nobody can store with it, so somebody else may load at once.
    pub fn of_unknown(mut self) -> Self {
        if let Lease::Loading(_) = self.lease {
            self.lease = Lease::Open;
        }
        self
    }

    /// The record after somebody else wrote or removed the value.
    pub fn ended(self) -> Self {
        Self { token: self.token, ..Self::default() }
    }

    /// Until when the record is kept beside this value. A mark that the value is stale outlives the
    /// value's time-to-live as it is now, because others can prolong that.
    pub fn end(&self, cached: Cached, now: UnixMs) -> Option<UnixMs> {
        let mark = match cached {
            Cached::Until(end) if self.stale => Some(end.unwrap_or(now)),
            _ => None,
        };
        let end = self.until().into_iter().chain(mark).max()?;
        Some(if mark.is_some() { UnixMs(end.0.saturating_add(MARK.0)) } else { end })
    }

    /// Whether `token` names the lease that is current.
    pub fn is_current(&self, token: Token) -> bool {
        matches!(self.lease, Lease::Loading(_)) && self.token == token
    }

    /// When the lease or back-off ends.
    pub fn until(&self) -> Option<UnixMs> {
        match self.lease {
            Lease::Open => None,
            Lease::Loading(until) | Lease::BackingOff(until, _) => Some(until),
        }
    }

    /// The stored form: `<state> <token> <until ms> <stale 0|1> <reason>`, readable in `redis-cli`.
    pub fn encode(&self) -> Vec<u8> {
        let (state, reason) = match &self.lease {
            Lease::Open => ("open", None),
            Lease::Loading(_) => ("loading", None),
            Lease::BackingOff(_, None) => ("failed", None),
            Lease::BackingOff(_, Some(reason)) => ("failed:", Some(reason)),
        };
        let until = self.until().map_or(0, |until| until.0);
        let head = format!("{state} {} {until} {} ", self.token, u8::from(self.stale));
        [head.as_bytes(), reason.map_or(&[], Vec::as_slice)].concat()
    }

    /// Reads the stored form. What somebody else wrote there says nothing.
    pub fn decode(text: &[u8]) -> Self {
        Self::try_decode(text).unwrap_or_default()
    }

    fn try_decode(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(5, |b| *b == b' ');
        let state = parts.next()?;
        let token = integer(parts.next()?)?;
        let until = UnixMs(integer(parts.next()?)?);
        let stale = parts.next()? == b"1";
        let reason = parts.next()?;
        let lease = match state {
            b"open" => Lease::Open,
            b"loading" => Lease::Loading(until),
            b"failed" => Lease::BackingOff(until, None),
            b"failed:" => Lease::BackingOff(until, Some(reason.to_vec())),
            _ => return None,
        };
        Some(Self { lease, token, stale })
    }
}

/// How many tokens of a value can be good at once: the last ones that were given out.
pub const TOKENS: usize = 16;

/// The tokens with which a value can still be stored: the last [`TOKENS`] that were given out for it,
/// as far as they are above its floor and their loaders have not given up.
///
/// The end of a lease does not touch its token, it only lets somebody else load as well: a load that
/// takes longer than its lease is still stored. What raises the floor is a store, to the token it was
/// made with, and whatever else changes the value, to the newest token. So a value is never replaced
/// by one whose load began earlier.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    newest: Token,
    /// Those above the floor, rising; with each, when it was given out, unless its loader gave up.
    given: Vec<(Token, Option<Moment>)>,
}

impl Tokens {
    /// For a record that was made without a lease, or before this process knew the value: no token
    /// is good.
    pub fn of_record(token: Token) -> Self {
        Self { newest: token, given: Vec::new() }
    }

    /// Gives out a token, which is above all others.
    pub fn give(&mut self, token: Token, now: Moment) {
        if self.given.len() >= TOKENS {
            self.given.remove(0);
        }
        self.newest = token;
        self.given.reserve_exact(1);
        self.given.push((token, Some(now)));
    }

    /// The last token that was given out, good or not.
    pub fn newest(&self) -> Token {
        self.newest
    }

    /// When a token was given out, if it is good.
    pub fn given(&self, token: Token) -> Option<Moment> {
        self.given.iter().find(|(given, _)| *given == token)?.1
    }

    /// Whether a token is good and the newest: only that loader can give up or ask for more time.
    pub fn is_newest(&self, token: Token) -> bool {
        self.newest == token && self.given(token).is_some()
    }

    /// A value was stored with this token, which was good. True if it is the newest; otherwise the
    /// newest loader goes on, and may store as well.
    pub fn stored(&mut self, token: Token) -> bool {
        self.given.retain(|(given, _)| *given > token);
        self.newest == token
    }

    /// The newest loader has given up. Others may still store.
    pub fn gave_up(&mut self) {
        if let Some((_, given)) = self.given.last_mut() {
            *given = None;
        }
    }

    /// Somebody else stored, removed or invalidated the value: no token is good.
    pub fn end_all(&mut self) {
        self.given = Vec::new();
    }

    /// Whether no token is good.
    pub fn are_over(&self) -> bool {
        self.given.iter().all(|(_, given)| given.is_none())
    }

    /// The bytes that this takes, beside itself.
    pub fn size(&self) -> usize {
        self.given.capacity() * size_of::<(Token, Option<Moment>)>()
    }
}

/// What FETCH tells a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// The value is fresh.
    Hit,
    /// The value can be used; it is being refreshed, or loading backs off.
    Stale,
    /// The caller loads.
    Load,
    /// There is no value, the last load failed and loading backs off.
    Fail,
    /// There is no value, and somebody else loads.
    Wait,
}

/// Decides FETCH. A value with no more than `stale` left to live is stale.
pub fn fetch(cached: Cached, record: &Record, stale: Millis, now: UnixMs) -> Fetch {
    let fresh = match cached {
        Cached::Absent => false,
        Cached::Until(_) if record.stale => false,
        Cached::Until(None) => true,
        Cached::Until(Some(end)) => end.0.saturating_sub(now.0) > stale.0 || stale.0 == 0,
    };
    match (fresh, cached, &record.lease) {
        (true, _, _) => Fetch::Hit,
        (_, _, Lease::Open) => Fetch::Load,
        (_, Cached::Until(_), _) => Fetch::Stale,
        (_, Cached::Absent, Lease::Loading(_)) => Fetch::Wait,
        (_, Cached::Absent, Lease::BackingOff(..)) => Fetch::Fail,
    }
}

/// The token of the next lease: above every one that was given out, and not below the unix time in
/// µs, so that tokens go on rising when the last one was lost.
pub fn next_token(last: Token, unix_us: i64) -> Token {
    unix_us.max(last.saturating_add(1))
}

/// A time-to-live that is shortened by up to `percent`, so that values which were stored together
/// do not expire together. `random` is any number.
pub fn jitter(ttl: Millis, percent: i64, random: u64) -> Millis {
    let most = i128::from(ttl.0) * i128::from(percent) / 100;
    let cut = i128::from(random) % (most + 1);
    Millis((i128::from(ttl.0) - cut).max(1) as i64)
}

#[cfg(test)]
#[path = "rules_model.rs"]
mod model;
