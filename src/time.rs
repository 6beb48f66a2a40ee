//! Time, in types that cannot be mixed up: [`Millis`] is a span, [`UnixMs`] a point on the server's
//! wall clock and [`Moment`] a point on the monotonic clock.
//!
//! Stored deadlines use the wall clock, which an operator can set. What only this process remembers,
//! such as when to check something again, uses the monotonic clock.

use std::ops::Add;

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

/// A point on the server's wall clock, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMs(pub i64);

/// A point on the monotonic clock, in microseconds since an arbitrary start. It has no meaning in
/// another process and is never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

/// How long a client is willing to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `BLOCK 0`: without limit.
    Never,
    /// At most this long, at least 1 ms.
    After(Millis),
}

/// Every point in time lies before this one: a sorted set stores deadlines as doubles, which are
/// exact below 2^53.
const END: i64 = 1 << 53;

impl Millis {
    /// The span as an unsigned number of milliseconds; 0 if it is negative.
    pub fn as_u64(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl UnixMs {
    /// The point `span` after this one, unless it is too far away to be stored.
    pub fn checked_add(self, span: Millis) -> Option<UnixMs> {
        self.0.checked_add(span.0).map(UnixMs).filter(|end| end.is_storable())
    }

    /// Whether a sorted set can store this point exactly.
    pub fn is_storable(self) -> bool {
        self.0 < END
    }

    /// How long ago `earlier` was; 0 if it is in the future.
    pub fn since(self, earlier: UnixMs) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).max(0))
    }

    /// The time left until `later`; 0 if it has passed.
    pub fn until(self, later: UnixMs) -> Millis {
        later.since(self)
    }

    /// The point `span` before this one.
    pub fn before(self, span: Millis) -> UnixMs {
        UnixMs(self.0.saturating_sub(span.0))
    }

    /// Whole seconds since the Unix epoch.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl Add<Millis> for UnixMs {
    type Output = UnixMs;

    /// Saturates.
    fn add(self, span: Millis) -> UnixMs {
        UnixMs(self.0.saturating_add(span.0))
    }
}

impl Moment {
    /// How long ago `earlier` was, in whole milliseconds; 0 if it is in the future.
    pub fn since(self, earlier: Moment) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).max(0) / 1000)
    }

    /// The time left until `later`, rounded up to whole milliseconds; 0 if it has passed.
    pub fn until(self, later: Moment) -> Millis {
        Millis(later.0.saturating_sub(self.0).max(0).saturating_add(999) / 1000)
    }
}

impl Add<Millis> for Moment {
    type Output = Moment;

    /// Saturates.
    fn add(self, span: Millis) -> Moment {
        Moment(self.0.saturating_add(span.0.saturating_mul(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_stays_below_two_to_the_53() {
        let now = UnixMs(1_700_000_000_000);
        assert_eq!(now.checked_add(Millis(1)), Some(UnixMs(1_700_000_000_001)));
        assert_eq!(now.checked_add(Millis(END - now.0)), None);
        assert_eq!(now.checked_add(Millis(END - now.0 - 1)), Some(UnixMs(END - 1)));
        assert_eq!(now.checked_add(Millis(i64::MAX)), None);
    }

    #[test]
    fn spans_are_never_negative() {
        assert_eq!(UnixMs(5).since(UnixMs(7)), Millis(0));
        assert_eq!(UnixMs(5).until(UnixMs(7)), Millis(2));
        assert_eq!(Moment(5_000).until(Moment(6_001)), Millis(2));
        assert_eq!(Moment(i64::MAX) + Millis(1), Moment(i64::MAX));
    }
}
