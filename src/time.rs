//! Time as the commands see it: a span is [`Millis`], a point on the server's clock is [`UnixMs`], a
//! point on the monotonic clock is [`Moment`], and none can be taken for another.
//!
//! What is stored is measured by the server's clock, which somebody can set. What this process only
//! remembers, such as when it looks at something again, is measured by the monotonic clock.

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

/// A point in time: milliseconds since the Unix epoch, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMs(pub i64);

/// A point on the monotonic clock, in microseconds since some moment in the past. It means nothing to
/// another process, and is never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// The point `span` after this one.
    pub fn after(self, span: Millis) -> Moment {
        Moment(self.0.saturating_add(span.0.saturating_mul(1000)))
    }

    /// How long ago `earlier` was; 0 if it is still to come.
    pub fn since(self, earlier: Moment) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).max(0) / 1000)
    }

    /// The whole milliseconds until `later`, rounded up; 0 if it has passed.
    pub fn until(self, later: Moment) -> Millis {
        Millis(later.0.saturating_sub(self.0).max(0).saturating_add(999) / 1000)
    }
}

/// Every point in time lies before this one: a sorted set keeps deadlines as doubles, which are
/// exact below 2^53.
const END: i64 = 1 << 53;

impl UnixMs {
    /// The point `span` after this one, if it can be represented.
    pub fn after(self, span: Millis) -> Option<UnixMs> {
        self.0.checked_add(span.0).filter(|end| *end < END).map(UnixMs)
    }

    /// Whether it is a point in time that this module works with.
    pub fn is_within_reach(self) -> bool {
        self.0 < END
    }

    /// Whole seconds since the Unix epoch.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_stays_below_two_to_the_53() {
        let now = UnixMs(1_700_000_000_000);
        assert_eq!(now.after(Millis(1)), Some(UnixMs(1_700_000_000_001)));
        assert_eq!(now.after(Millis(END - now.0)), None);
        assert_eq!(now.after(Millis(END - now.0 - 1)), Some(UnixMs(END - 1)));
        assert_eq!(now.after(Millis(i64::MAX)), None);
    }
}
