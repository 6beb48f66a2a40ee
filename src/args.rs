//! The argument cursor: bytes in, typed values out.
//!
//! A command takes its arguments one by one and ends with [`Args::finish`], which refuses what is
//! left over. All checks happen here, before the first write.

use crate::error::Error;
use crate::server::Str;
use crate::time::{Millis, UnixMs};

/// One argument. The server's strings are passed on to inner commands as they are, without a copy.
pub trait Argument<'a>: Copy {
    /// The bytes of the argument.
    fn bytes(self) -> &'a [u8];
}

/// A number or time together with the argument that it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<A, T> {
    /// The argument, to be passed on.
    pub arg: A,
    /// Its meaning.
    pub value: T,
}

/// How long a client is willing to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `0`: without end.
    Forever,
    /// At most this long, at least 1 ms.
    For(Millis),
}

/// The name of an option.
#[derive(Clone, Copy)]
pub struct Keyword<'a>(&'a [u8]);

impl Keyword<'_> {
    /// Whether it is this word, in any case.
    pub fn is(self, word: &str) -> bool {
        self.0.eq_ignore_ascii_case(word.as_bytes())
    }
}

/// The arguments of one call that have not been taken yet.
pub struct Args<'a, A = Str<'a>> {
    rest: &'a [A],
    command: &'static str,
    now: fn() -> UnixMs,
}

impl<'a, A: Argument<'a>> Args<'a, A> {
    /// A cursor over `rest`, the arguments behind the name of `command`, by the clock `now`.
    pub fn new(rest: &'a [A], command: &'static str, now: fn() -> UnixMs) -> Self {
        Self { rest, command, now }
    }

    /// Whether arguments are left.
    pub fn more(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The next argument, whatever its bytes.
    pub fn any(&mut self) -> Result<A, Error> {
        let (first, rest) = self.rest.split_first().ok_or(Error::Syntax)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next argument, which must not be empty; `what` names it in the error.
    pub fn filled(&mut self, what: &'static str) -> Result<A, Error> {
        let arg = self.any()?;
        if arg.bytes().is_empty() { Err(Error::Empty(what)) } else { Ok(arg) }
    }

    /// The name of a lock, stream or cached value.
    pub fn name(&mut self) -> Result<A, Error> {
        self.filled("name")
    }

    /// Every argument that is left.
    pub fn all(&mut self) -> &'a [A] {
        std::mem::take(&mut self.rest)
    }

    /// An integer of at least `least`.
    pub fn at_least(&mut self, least: i64) -> Result<Parsed<A, i64>, Error> {
        let arg = self.any()?;
        let value = integer(arg.bytes()).ok_or(Error::NotAnInteger)?;
        if value < least { Err(Error::NotPositive) } else { Ok(Parsed { arg, value }) }
    }

    /// An integer.
    pub fn integer(&mut self) -> Result<i64, Error> {
        integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)
    }

    /// An integer from `least` to `most`.
    pub fn between(&mut self, least: i64, most: i64) -> Result<i64, Error> {
        let value = integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?;
        if (least..=most).contains(&value) { Ok(value) } else { Err(Error::OutOfRange) }
    }

    /// A time-to-live or lease in milliseconds: at least 1, and its end is before 2^53.
    pub fn lifetime(&mut self) -> Result<Parsed<A, Millis>, Error> {
        let arg = self.any()?;
        let value = Millis(integer(arg.bytes()).ok_or(Error::NotAnInteger)?);
        if value < Millis(1) || !self.ends_in_time(value) {
            return Err(Error::ExpireTime(self.command));
        }
        Ok(Parsed { arg, value })
    }

    /// A span of time in milliseconds from 0 on, which ends before 2^53.
    pub fn span(&mut self) -> Result<Millis, Error> {
        let value = Millis(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        if value < Millis(0) || !self.ends_in_time(value) {
            return Err(Error::ExpireTime(self.command));
        }
        Ok(value)
    }

    /// A point in time in milliseconds since the Unix epoch, from 0 on and before 2^53.
    pub fn point(&mut self) -> Result<UnixMs, Error> {
        let value = UnixMs(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        if value < UnixMs(0) || !value.is_within_reach() {
            return Err(Error::ExpireTime(self.command));
        }
        Ok(value)
    }

    /// Whether the next argument is one of these words, in any case.
    pub fn next_is(&self, words: &[&str]) -> bool {
        let next = self.rest.first().map(|arg| Keyword(arg.bytes()));
        next.is_some_and(|next| words.iter().any(|word| next.is(word)))
    }

    /// How long to wait, in milliseconds; 0 is without end.
    pub fn patience(&mut self) -> Result<Patience, Error> {
        let value = Millis(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        match value {
            Millis(..0) => Err(Error::NegativeTimeout),
            Millis(0) => Ok(Patience::Forever),
            _ if !self.ends_in_time(value) => Err(Error::ExpireTime(self.command)),
            _ => Ok(Patience::For(value)),
        }
    }

    /// The next argument, if there is one, as a keyword: options come in any order and any case.
    pub fn keyword(&mut self) -> Option<Keyword<'a>> {
        if self.more() { self.any().ok().map(|arg| Keyword(arg.bytes())) } else { None }
    }

    /// Whether a span from now on ends before 2^53. Looking at the clock is spared for all spans
    /// that people use.
    fn ends_in_time(&self, span: Millis) -> bool {
        const CENTURY: Millis = Millis(100 * 366 * 24 * 3_600_000);
        span < CENTURY || (self.now)().after(span).is_some()
    }

    /// Refuses arguments that no rule of the command has taken.
    pub fn finish(&self) -> Result<(), Error> {
        if self.more() { Err(Error::Syntax) } else { Ok(()) }
    }
}

/// A decimal signed 64-bit integer in the one form in which the server itself writes it: no sign
/// `+`, no leading zero, no blank.
pub fn integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [] | [b'0', ..] => return None,
        _ => {}
    }
    digits.iter().try_fold(0i64, |value, byte| {
        let digit = i64::from(byte.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        let value = value.checked_mul(10)?;
        if negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl<'a> Argument<'a> for &'a [u8] {
        fn bytes(self) -> &'a [u8] {
            self
        }
    }

    fn cursor<'a>(args: &'a [&'a [u8]]) -> Args<'a, &'a [u8]> {
        Args::new(args, "test.command", || UnixMs(1_700_000_000_000))
    }

    #[test]
    fn what_is_left_over_is_a_syntax_error() {
        let mut args = cursor(&[b"a", b"b"]);
        assert_eq!(args.any().unwrap(), b"a");
        assert_eq!(args.finish(), Err(Error::Syntax));
        assert_eq!(args.any().unwrap(), b"b");
        assert_eq!(args.finish(), Ok(()));
        assert_eq!(args.any(), Err(Error::Syntax));
    }

    #[test]
    fn hostile_times_are_refused_with_the_words_of_the_server() {
        let lifetime = |text: &[u8]| cursor(&[text]).lifetime().map(|p| p.value);
        assert_eq!(lifetime(b"1"), Ok(Millis(1)));
        for text in ["0", "-1", "9007199254740992", "9223372036854775807"] {
            assert_eq!(lifetime(text.as_bytes()), Err(Error::ExpireTime("test.command")), "{text}");
        }
        for text in ["", "1.5", "1e3", " 1", "1 ", "+1", "01", "abc", "9223372036854775808", "\0"] {
            assert_eq!(lifetime(text.as_bytes()), Err(Error::NotAnInteger), "{text:?}");
        }
    }

    #[test]
    fn zero_patience_has_no_end_and_negative_patience_is_an_error() {
        let patience = |text: &[u8]| cursor(&[text]).patience();
        assert_eq!(patience(b"0"), Ok(Patience::Forever));
        assert_eq!(patience(b"1"), Ok(Patience::For(Millis(1))));
        assert_eq!(patience(b"-1"), Err(Error::NegativeTimeout));
        assert_eq!(patience(b"9007199254740992"), Err(Error::ExpireTime("test.command")));
        assert_eq!(patience(b"x"), Err(Error::NotAnInteger));
    }

    #[test]
    fn an_empty_name_is_refused_by_its_word() {
        assert_eq!(cursor(&[b""]).name(), Err(Error::Empty("name")));
        assert_eq!(cursor(&[b"\0"]).name().unwrap(), b"\0");
    }

    proptest! {
        #[test]
        fn an_integer_has_exactly_one_form(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn whatever_is_read_is_written_back_the_same(text in "[-+ 0-9]{0,22}") {
            if let Some(value) = integer(text.as_bytes()) {
                prop_assert_eq!(value.to_string(), text);
            } else {
                prop_assert!(text.parse::<i64>().map_or(true, |value| value.to_string() != text));
            }
        }

        #[test]
        fn no_bytes_make_the_cursor_panic(bytes: Vec<u8>) {
            let _ = cursor(&[&bytes]).lifetime();
            let _ = cursor(&[&bytes]).patience();
            let _ = cursor(&[&bytes]).at_least(0);
        }
    }
}
