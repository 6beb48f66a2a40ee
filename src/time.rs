//! Time as the commands see it: a span is [`Millis`], a point on the server's clock is [`UnixMs`],
//! and neither can be taken for the other.

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

/// A point in time: milliseconds since the Unix epoch, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMs(pub i64);

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
