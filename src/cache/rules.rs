//! The rules of a cached value: when it is fresh or stale, who loads it, and what FETCH replies.
//! Nothing here depends on a server, a clock or a key.
//!
//! A value may have a record beside it. The record holds the lease of the client that loads the
//! value, or the back-off after a failed load, and whether the value was soft-invalidated, which
//! makes it stale regardless of its TTL. A warm value has no record.

use crate::server::{LONGEST, decimal, integer};
use crate::time::{Millis, Moment, UnixMs};

/// Identifies one lease on one value. The tokens of a value rise.
pub type Token = i64;

/// Whether a value is cached, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// There is no value.
    Absent,
    /// There is a value. It expires at this time, if it does.
    Until(Option<UnixMs>),
}

/// The state of the load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// Nobody loads. The next client to ask becomes the loader.
    #[default]
    Open,
    /// The client with the token loads, until the lease expires.
    Loading(UnixMs),
    /// The last load failed, for this reason if one was given. Nobody loads until this time.
    BackingOff(UnixMs, Option<Vec<u8>>),
}

/// The record beside a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The state of the load.
    pub lease: Lease,
    /// The last token that was issued.
    pub token: Token,
    /// Whether the value is stale regardless of its TTL.
    pub stale: bool,
}

/// How much longer than its value a stale mark is kept.
pub const MARK: Millis = Millis(24 * 60 * 60 * 1000);

/// How many bytes of the reason of a failure are kept.
pub const REASON: usize = 1024;

impl Record {
    /// The record as of `now`. An expired lease or back-off becomes open, and without a value
    /// there is no stale mark.
    pub fn at(mut self, now: UnixMs, cached: Cached) -> Self {
        if let Lease::Loading(until) | Lease::BackingOff(until, _) = self.lease
            && until < now
        {
            self.lease = Lease::Open;
        }
        self.stale &= cached != Cached::Absent;
        self
    }

    /// The record if its token was issued before a restart or a failover. No client can store
    /// with that token any more, so another one may load immediately.
    pub fn of_unknown(mut self) -> Self {
        if let Lease::Loading(_) = self.lease {
            self.lease = Lease::Open;
        }
        self
    }

    /// The record after a client without the lease wrote or removed the value.
    pub fn ended(self) -> Self {
        Self { token: self.token, ..Self::default() }
    }

    /// Until when the record is kept. A stale mark outlives the present TTL of the value, because
    /// other clients can extend that TTL.
    pub fn end(&self, cached: Cached, now: UnixMs) -> Option<UnixMs> {
        let mark = match cached {
            Cached::Until(end) if self.stale => Some(end.unwrap_or(now)),
            _ => None,
        };
        let end = self.until().into_iter().chain(mark).max()?;
        Some(if mark.is_some() { end + MARK } else { end })
    }

    /// Whether `token` identifies the current lease.
    pub fn is_current(&self, token: Token) -> bool {
        matches!(self.lease, Lease::Loading(_)) && self.token == token
    }

    /// When the lease or the back-off expires.
    pub fn until(&self) -> Option<UnixMs> {
        match self.lease {
            Lease::Open => None,
            Lease::Loading(until) | Lease::BackingOff(until, _) => Some(until),
        }
    }

    /// The stored form: `<state> <token> <until ms> <stale 0|1> <reason>`, readable in `redis-cli`.
    pub fn encode(&self) -> Vec<u8> {
        let (state, reason) = match &self.lease {
            Lease::Open => (b"open ".as_slice(), None),
            Lease::Loading(_) => (b"loading ".as_slice(), None),
            Lease::BackingOff(_, None) => (b"failed ".as_slice(), None),
            Lease::BackingOff(_, Some(reason)) => (b"failed: ".as_slice(), Some(reason)),
        };
        let (mut token, mut until) = ([0; LONGEST], [0; LONGEST]);
        let token = decimal(self.token, &mut token);
        let until = decimal(self.until().map_or(0, |until| until.0), &mut until);
        let stale: &[u8] = if self.stale { b" 1 " } else { b" 0 " };
        [state, token, b" ", until, stale, reason.map_or(&[], Vec::as_slice)].concat()
    }

    /// Reads the stored form. Anything else counts as an empty record.
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

/// How many tokens of a value can be valid at once.
pub const TOKENS: usize = 16;

/// The valid tokens of a value: those with which a client can still store it. They are the last
/// [`TOKENS`] that were issued, except for those at or below a floor and those whose load failed.
///
/// The end of a lease does not invalidate its token. It lets another client load as well, so that a
/// load that takes longer than its lease can still be stored. A store raises the floor to its own
/// token. Any other change of the value raises it to the newest token. So a value is never replaced
/// by one whose load began earlier.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    newest: Token,
    /// The tokens above the floor, in rising order, and when each was issued; `None` after its load
    /// failed.
    given: Vec<(Token, Option<Moment>)>,
}

impl Tokens {
    /// The tokens of a record that was made without a lease or by a former process. None is valid.
    pub fn of_record(token: Token) -> Self {
        Self { newest: token, given: Vec::new() }
    }

    /// Issues a token, which is above all others.
    pub fn give(&mut self, token: Token, now: Moment) {
        if self.given.len() >= TOKENS {
            self.given.remove(0);
        }
        self.newest = token;
        self.given.reserve_exact(1);
        self.given.push((token, Some(now)));
    }

    /// The last token that was issued, valid or not.
    pub fn newest(&self) -> Token {
        self.newest
    }

    /// When a token was issued, if it is valid.
    pub fn given(&self, token: Token) -> Option<Moment> {
        self.given.iter().find(|(given, _)| *given == token)?.1
    }

    /// Whether a token is valid and the newest. Only the newest loader can give up.
    pub fn is_newest(&self, token: Token) -> bool {
        self.newest == token && self.given(token).is_some()
    }

    /// Records that a value was stored with this valid token. Returns whether it is the newest one.
    /// If it is not, the newest loader goes on and may store as well.
    pub fn stored(&mut self, token: Token) -> bool {
        self.given.retain(|(given, _)| *given > token);
        self.newest == token
    }

    /// Records that the newest loader gave up. The others may still store.
    pub fn gave_up(&mut self) {
        if let Some((_, given)) = self.given.last_mut() {
            *given = None;
        }
    }

    /// Invalidates all tokens, after a client without a token changed the value.
    pub fn end_all(&mut self) {
        self.given = Vec::new();
    }

    /// Whether no token is valid.
    pub fn are_spent(&self) -> bool {
        self.given.iter().all(|(_, given)| given.is_none())
    }

    /// The size of the list in bytes.
    pub fn size(&self) -> usize {
        self.given.capacity() * size_of::<(Token, Option<Moment>)>()
    }
}

/// The result of FETCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// The value is fresh.
    Hit,
    /// The value can be used. Another client loads it, or the back-off has not ended.
    Stale,
    /// The caller becomes the loader.
    Load,
    /// There is no value, the last load failed, and the back-off has not ended.
    Fail,
    /// There is no value, and another client loads it.
    Wait,
}

/// Decides about FETCH. A value is stale when at most `stale` of its TTL is left.
pub fn fetch(cached: Cached, record: &Record, stale: Millis, now: UnixMs) -> Fetch {
    let fresh = match cached {
        Cached::Absent => false,
        Cached::Until(_) if record.stale => false,
        Cached::Until(None) => true,
        Cached::Until(Some(end)) => now.until(end) > stale || stale == Millis(0),
    };
    match (fresh, cached, &record.lease) {
        (true, _, _) => Fetch::Hit,
        (_, _, Lease::Open) => Fetch::Load,
        (_, Cached::Until(_), _) => Fetch::Stale,
        (_, Cached::Absent, Lease::Loading(_)) => Fetch::Wait,
        (_, Cached::Absent, Lease::BackingOff(..)) => Fetch::Fail,
    }
}

/// The token of the next lease: above the last one, and not below the Unix time in µs, so that
/// tokens still rise if the last one was lost.
pub fn next_token(last: Token, unix_us: i64) -> Token {
    unix_us.max(last.saturating_add(1))
}

/// A TTL shortened by up to `percent`, so that values that were stored together do not expire
/// together. `random` is any number.
pub fn jitter(ttl: Millis, percent: i64, random: u64) -> Millis {
    let most = i128::from(ttl.0) * i128::from(percent) / 100;
    let cut = i128::from(random) % (most + 1);
    Millis((i128::from(ttl.0) - cut).max(1) as i64)
}

#[cfg(test)]
#[path = "rules_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lease_lasts_to_the_end_of_its_last_ms_and_a_stale_mark_as_long_as_its_value() {
        let of = |lease, stale| Record { lease, token: 7, stale };
        let (lease, cached) = (Lease::Loading(UnixMs(9)), Cached::Until(None));
        assert_eq!(of(lease.clone(), true).at(UnixMs(9), cached), of(lease.clone(), true));
        assert_eq!(of(lease.clone(), true).at(UnixMs(10), cached), of(Lease::Open, true));
        assert_eq!(of(lease.clone(), true).at(UnixMs(9), Cached::Absent), of(lease, false));
    }

    #[test]
    fn a_record_outlives_neither_its_process_nor_a_foreign_write() {
        let of = |lease| Record { lease, token: 7, stale: true };
        let backing_off = of(Lease::BackingOff(UnixMs(9), None));
        assert_eq!(Record::decode(&backing_off.encode()), backing_off);
        assert_eq!(of(Lease::Loading(UnixMs(9))).of_unknown(), of(Lease::Open));
        assert_eq!(backing_off.clone().of_unknown(), backing_off, "the failure still counts");
        // Tokens go on rising.
        assert_eq!(backing_off.ended(), Record { token: 7, ..Record::default() });
    }

    #[test]
    fn a_value_is_stale_when_at_most_that_much_of_its_ttl_is_left() {
        let of = |record: Record, stale| {
            let cached = |left| Cached::Until(Some(UnixMs(1_000 + left)));
            [0, 1, 9, 10, 11i64]
                .map(|left| fetch(cached(left), &record, Millis(stale), UnixMs(1_000)))
        };
        let (hit, stale, load) = (Fetch::Hit, Fetch::Stale, Fetch::Load);
        assert_eq!(of(Record::default(), 10), [load, load, load, load, hit]);
        assert_eq!(of(Record::default(), 0), [hit; 5]);
        let loading = Record { lease: Lease::Loading(UnixMs(2_000)), ..Record::default() };
        assert_eq!(of(loading, 10), [stale, stale, stale, stale, hit]);
        let invalidated = Record { stale: true, ..Record::default() };
        assert_eq!(of(invalidated, 0), [load; 5]);
    }

    #[test]
    fn of_two_loaders_the_older_one_can_only_store_first() {
        let now = Moment(0);
        let two = || Tokens { newest: 2, given: vec![(1, Some(now)), (2, Some(now))] };
        let mut tokens = two();
        assert!(!tokens.stored(1), "the newer loader goes on");
        assert_eq!((tokens.given(1), tokens.given(2)), (None, Some(now)));
        assert!(tokens.stored(2));
        assert!(tokens.are_spent());
        let mut tokens = two();
        assert!(tokens.stored(2));
        assert_eq!(tokens.given(1), None, "its load began earlier");
        // Only the newest loader gives up.
        let mut tokens = two();
        assert!(!tokens.is_newest(1));
        assert!(tokens.is_newest(2));
        tokens.gave_up();
        assert!(!tokens.is_newest(2));
        assert!(!tokens.is_newest(1), "the older one does not become the newest");
        assert_eq!(tokens.given(1), Some(now));
        assert!(!tokens.stored(1));
        assert!(tokens.are_spent());
    }

    #[test]
    fn the_last_sixteen_tokens_are_valid_except_those_of_failed_loads() {
        let mut tokens = Tokens::default();
        for token in 1..=20 {
            tokens.give(token, Moment(token));
        }
        tokens.gave_up();
        tokens.give(21, Moment(21));
        let valid = |tokens: &Tokens| (0..30).filter(|t| tokens.given(*t).is_some()).collect();
        let all: Vec<_> = valid(&tokens);
        assert_eq!(all, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21]);
        assert!(!tokens.stored(10));
        assert_eq!(valid(&tokens), all[5..]);
        tokens.end_all();
        assert!(tokens.are_spent());
        assert_eq!(tokens.newest(), 21);
    }

    proptest! {
        #[test]
        fn jitter_shortens_a_ttl_by_no_more_than_its_percentage(
            ttl in 1..1i64 << 52, percent in 0..=100i64, random: u64,
        ) {
            let shortened = jitter(Millis(ttl), percent, random).0;
            prop_assert!((1..=ttl).contains(&shortened));
            prop_assert!(i128::from(ttl - shortened) * 100 <= i128::from(ttl) * i128::from(percent));
            let most = (i128::from(ttl) * i128::from(percent) / 100) as i64;
            prop_assert_eq!(jitter(Millis(ttl), percent, most as u64).0, (ttl - most).max(1));
        }

        #[test]
        fn no_record_makes_the_decoder_panic(text: Vec<u8>) {
            let record = Record::decode(&text);
            prop_assert_eq!(Record::decode(&record.encode()).lease, record.lease);
        }
    }
}
