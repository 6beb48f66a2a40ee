//! Stream entry ids: `<ms>-<seq>`, both unsigned 64-bit integers, in the order of the entries.
//!
//! The sequence number encodes where a task is, so that every command takes the same queue name:
//! divided by 10^17 it is the priority from 0 to 9, 11 for a held task, or else a delayed one. Every id that
//! is made here fits into a pair of signed 64-bit integers.

use crate::error::Error;
use crate::names::Prefix;
use crate::server::{CowStr, OwnedStr, Str, leading_number};
use crate::time::UnixMs;
use std::fmt;

/// How many sequence numbers each priority has.
const CLASS: u64 = 100_000_000_000_000_000;

/// A priority from 0 (the default) to 9 (served first).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// The default. Its stream has the name of the queue.
    pub const LOWEST: Self = Self(0);

    /// All priorities, the lowest first.
    pub const ALL: [Self; 10] =
        [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8), Self(9)];

    /// The priority with this number.
    pub fn new(value: u64) -> Option<Self> {
        u8::try_from(value).ok().filter(|value| *value < 10).map(Self)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The prefix of the key of its stream. The stream of priority 0 is the name of the queue itself.
    pub const fn prefix(self) -> Prefix {
        const ALL: [&[u8]; 9] = [
            b"priority1",
            b"priority2",
            b"priority3",
            b"priority4",
            b"priority5",
            b"priority6",
            b"priority7",
            b"priority8",
            b"priority9",
        ];
        match self.0 {
            1 => Prefix(ALL[0]),
            2 => Prefix(ALL[1]),
            3 => Prefix(ALL[2]),
            4 => Prefix(ALL[3]),
            5 => Prefix(ALL[4]),
            6 => Prefix(ALL[5]),
            7 => Prefix(ALL[6]),
            8 => Prefix(ALL[7]),
            9 => Prefix(ALL[8]),
            _ => Prefix(b"priority0"),
        }
    }
}

/// The id of a stream entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    ms: u64,
    seq: u64,
}

impl EntryId {
    /// The greatest id.
    pub const LAST: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// The id of a delayed task that is due at `due` and was added at `us` µs since the Unix epoch.
    /// Ids are ordered by `due`, then by `us`.
    pub fn delayed(due: UnixMs, us: i64) -> Self {
        let (ms, us) = (u64::try_from(due.0).unwrap_or(0), u64::try_from(us).unwrap_or(0));
        Self { ms, seq: (10 * CLASS).saturating_add(us) }
    }

    /// The next id at `now` in the stream of this priority, which is above 0, after the `last` one.
    /// None if no id is left.
    pub fn next(priority: Priority, last: Option<Self>, now: UnixMs) -> Option<Self> {
        let now = u64::try_from(now.0).unwrap_or(0);
        let first = u64::from(priority.0) * CLASS;
        let Some(last) = last else { return Some(Self { ms: now, seq: first }) };
        let fresh = Self { ms: now.max(last.ms), seq: first };
        if fresh > last {
            return Some(fresh);
        }
        let following = last.seq.checked_add(1).map(|seq| Self { ms: last.ms, seq });
        if let Some(following) = following.filter(|id| id.priority() == Some(priority)) {
            return Some(following);
        }
        last.ms.checked_add(1).map(|ms| Self { ms, seq: first })
    }

    /// The priority that it encodes; none if it is that of a delayed task.
    pub fn priority(self) -> Option<Priority> {
        Priority::new(self.seq / CLASS)
    }

    /// The milliseconds and the sequence number.
    pub fn parts(self) -> (u64, u64) {
        (self.ms, self.seq)
    }

    /// The milliseconds: when the entry was added, or when the delayed task is due.
    pub fn ms(self) -> u64 {
        self.ms
    }

    /// The id of a held task that is due at `due` and was published at `us` µs since the Unix epoch.
    pub fn held(due: UnixMs, us: i64) -> Self {
        let (ms, us) = (u64::try_from(due.0).unwrap_or(0), u64::try_from(us).unwrap_or(0));
        Self { ms, seq: (11 * CLASS).saturating_add(us) }
    }

    /// The order of a held task; none if it is no id of one.
    pub fn order(self) -> Option<u64> {
        (self.seq / CLASS == 11).then_some(self.seq % CLASS)
    }

    /// When the task was published that got this id.
    pub fn published(self) -> UnixMs {
        let has_time = self.seq >= 10 * CLASS;
        let ms = if has_time { self.seq % CLASS / 1000 } else { self.ms };
        UnixMs(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    /// Parses `<ms>-<seq>`. `<ms>` alone means `<ms>-0`. As in the server, an id has at most 127
    /// characters, leading zeros included.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::read(text).map(|(id, _)| id)
    }

    /// As [`EntryId::parse`], and whether the text has the form in which the server writes it.
    fn read(text: &[u8]) -> Option<(Self, bool)> {
        if text.len() > 127 {
            return None;
        }
        let (ms, rest) = leading_number(text)?;
        let Some((dash, digits)) = rest.split_first() else {
            return Some((Self { ms, seq: 0 }, false));
        };
        let (seq, rest) = leading_number(digits).filter(|_| *dash == b'-')?;
        let plain = |part: &[u8]| !part.starts_with(b"0") || part.get(1).is_none_or(|b| *b == b'-');
        rest.is_empty().then_some((Self { ms, seq }, plain(text) && plain(digits)))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An id argument, in the form in which every inner command understands it as one entry: at the
/// end of a range, `5` would mean all entries of that millisecond.
pub struct IdArg<'a> {
    /// The id.
    pub id: EntryId,
    text: CowStr<'a>,
}

impl<'a> IdArg<'a> {
    /// Parses an argument, or returns the error of the server.
    pub fn read(arg: Str<'a>) -> Result<Self, Error> {
        let (id, is_canonical) = EntryId::read(arg.bytes()).ok_or(Error::StreamId)?;
        let text = if is_canonical {
            CowStr::Given(arg)
        } else {
            CowStr::Made(OwnedStr::new(id.to_string().as_bytes()))
        };
        Ok(Self { id, text })
    }

    /// The argument of an inner command.
    pub fn borrow(&self) -> Str<'_> {
        self.text.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_and_malformed_ids_are_rejected() {
        for text in
            ["", "-", "+", "$", ">", "*", "1-", "-1", "1-*", "1-1-1", "a-1", "1 -1", "1-1\0"]
        {
            assert_eq!(EntryId::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(EntryId::parse(b"18446744073709551616-0"), None);
        assert_eq!(EntryId::parse(&[b'0'; 127]), EntryId::parse(b"0"));
        assert_eq!(EntryId::parse(&[b'0'; 128]), None);
        assert_eq!(EntryId::parse(b"5"), EntryId::parse(b"5-0"));
    }

    proptest! {
        #[test]
        fn ids_are_ordered_by_time_and_then_by_sequence(a: (u64, u64), b: (u64, u64)) {
            let parse = |(ms, seq): (u64, u64)| EntryId::parse(format!("{ms}-{seq}").as_bytes());
            prop_assert_eq!(parse(a).unwrap().cmp(&parse(b).unwrap()), a.cmp(&b));
            prop_assert_eq!(parse(a).unwrap().to_string(), format!("{}-{}", a.0, a.1));
        }

        #[test]
        fn a_canonical_id_is_in_the_form_of_the_server(text in "[0-2]{0,3}-?[0-2]{0,3}") {
            if let Some((id, is_canonical)) = EntryId::read(text.as_bytes()) {
                prop_assert_eq!(is_canonical, id.to_string() == text);
            }
        }

        #[test]
        fn the_next_id_follows_the_last_and_encodes_its_priority(
            priority in 1..=9u64,
            last in prop::option::of((any::<u64>(), any::<u64>())),
            now in 0..1i64 << 53,
            close: bool,
        ) {
            let priority = Priority::new(priority).unwrap();
            let last = last.map(|(ms, seq)| EntryId {
                ms: if close { now as u64 + ms % 3 - 1 } else { ms },
                seq: if close { seq % (11 * CLASS) } else { seq },
            });
            let next = EntryId::next(priority, last, UnixMs(now));
            if let Some(next) = next {
                prop_assert_eq!(next.priority(), Some(priority));
                prop_assert!(Some(next) > last);
                prop_assert!(next.ms >= now as u64);
            } else {
                prop_assert_eq!(last.unwrap().ms, u64::MAX);
            }
        }

        #[test]
        fn ids_of_delayed_tasks_rise_and_encode_no_priority(
            due in 0..1i64 << 53,
            us in 0..1i64 << 55,
        ) {
            let id = EntryId::delayed(UnixMs(due), us);
            prop_assert_eq!(id.priority(), None);
            prop_assert!(id < EntryId::delayed(UnixMs(due), us + 1));
            prop_assert!(i64::try_from(id.seq).is_ok());
        }

        #[test]
        fn a_number_that_does_not_fit_is_no_part_of_an_id(ms: u128, seq: u64, digits in 60..128u32) {
            let ms = ms >> (128 - digits);
            let id = EntryId::parse(format!("{ms}-{seq}").as_bytes());
            let fits = u64::try_from(ms).ok().map(|ms| EntryId { ms, seq });
            prop_assert_eq!(id, fits);
        }

        #[test]
        fn no_input_makes_the_parser_panic(text: Vec<u8>) {
            let _ = EntryId::parse(&text);
        }
    }
}
