//! Stream entry ids: `<ms>-<seq>`, both unsigned 64-bit, in the order in which entries were added.

use crate::args::Argument;
use crate::error::Error;
use crate::server::{OwnedStr, Str};
use std::fmt;

/// The id of a stream entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    ms: u64,
    seq: u64,
}

impl EntryId {
    /// Reads `<ms>-<seq>`; `<ms>` alone means `<ms>-0`, as in the server's own commands, which
    /// take up to 127 characters, zeros in front included.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > 127 {
            return None;
        }
        let mut parts = text.splitn(2, |b| *b == b'-');
        let ms = decimal(parts.next()?)?;
        let seq = parts.next().map_or(Some(0), decimal)?;
        Some(Self { ms, seq })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An id among the arguments, in the one form that means the same entry to every inner command:
/// as the end of a range, `5` would mean all entries of that millisecond.
pub enum IdArg<'a> {
    /// As the caller wrote it.
    Given(Str<'a>),
    /// Written out.
    Made(OwnedStr),
}

impl<'a> IdArg<'a> {
    /// Reads an argument; what is no entry id is refused in the server's words.
    pub fn read(arg: Str<'a>) -> Result<Self, Error> {
        let id = EntryId::parse(arg.bytes()).ok_or(Error::StreamId)?.to_string();
        Ok(if id.as_bytes() == arg.bytes() {
            IdArg::Given(arg)
        } else {
            IdArg::Made(OwnedStr::new(id.as_bytes()))
        })
    }

    /// The id, as long as this value lives.
    pub fn borrow(&self) -> Str<'_> {
        match self {
            IdArg::Given(arg) => *arg,
            IdArg::Made(made) => made.borrow(),
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_and_broken_ids_are_no_ids() {
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
        fn no_bytes_make_it_panic(text: Vec<u8>) {
            let _ = EntryId::parse(&text);
        }
    }
}
