//! The argument cursor: bytes in, typed values out.
//!
//! A command takes its arguments one by one and ends with [`Args::finish`], which rejects leftovers.
//! All checks happen here, before the first write.

use crate::error::Error;
use crate::server::{Str, integer};
use crate::time::{Millis, Timeout, UnixMs};

/// One argument: a string of the server, or plain bytes in the unit tests.
pub trait Argument<'a>: Copy {
    /// The bytes of the argument.
    fn bytes(self) -> &'a [u8];
}

impl<'a> Argument<'a> for Str<'a> {
    fn bytes(self) -> &'a [u8] {
        Str::bytes(self)
    }
}

/// A number or time together with the argument that it was read from, which inner commands reuse.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<A, T> {
    /// The argument, to be passed on.
    pub arg: A,
    /// Its meaning.
    pub value: T,
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

/// The arguments of one call that have not been read yet.
pub struct Args<'a, A = Str<'a>> {
    rest: &'a [A],
    command: &'static str,
    now: fn() -> UnixMs,
}

impl<'a, A: Argument<'a>> Args<'a, A> {
    /// A cursor over `rest`, the arguments after the name of `command`. `now` reads the wall clock.
    pub fn new(rest: &'a [A], command: &'static str, now: fn() -> UnixMs) -> Self {
        Self { rest, command, now }
    }

    /// Whether arguments are left.
    pub fn more(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The next argument; any bytes are valid.
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

    /// The next `number` arguments; any bytes are valid.
    pub fn take(&mut self, number: usize) -> Result<&'a [A], Error> {
        let (taken, rest) = self.rest.split_at_checked(number).ok_or(Error::Syntax)?;
        self.rest = rest;
        Ok(taken)
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

    /// A span in milliseconds: at least 0, and it ends before 2^53.
    pub fn span(&mut self) -> Result<Millis, Error> {
        let value = Millis(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        if value < Millis(0) || !self.ends_in_time(value) {
            return Err(Error::ExpireTime(self.command));
        }
        Ok(value)
    }

    /// A point in time in milliseconds since the Unix epoch: at least 0 and below 2^53.
    pub fn point(&mut self) -> Result<UnixMs, Error> {
        let value = UnixMs(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        if value < UnixMs(0) || !value.is_storable() {
            return Err(Error::ExpireTime(self.command));
        }
        Ok(value)
    }

    /// Whether the next argument is one of these words, in any case.
    pub fn next_is(&self, words: &[&str]) -> bool {
        let next = self.rest.first().map(|arg| Keyword(arg.bytes()));
        next.is_some_and(|next| words.iter().any(|word| next.is(word)))
    }

    /// How long to wait, in milliseconds; 0 means without limit.
    pub fn timeout(&mut self) -> Result<Timeout, Error> {
        let value = Millis(integer(self.any()?.bytes()).ok_or(Error::NotAnInteger)?);
        match value {
            Millis(..0) => Err(Error::NegativeTimeout),
            Millis(0) => Ok(Timeout::Never),
            _ if !self.ends_in_time(value) => Err(Error::ExpireTime(self.command)),
            _ => Ok(Timeout::After(value)),
        }
    }

    /// The next argument, if any, as a keyword. Options come in any order and in any case.
    pub fn keyword(&mut self) -> Option<Keyword<'a>> {
        if self.more() { self.any().ok().map(|arg| Keyword(arg.bytes())) } else { None }
    }

    /// Whether a span that begins now ends before 2^53. Realistic spans need no look at the clock.
    fn ends_in_time(&self, span: Millis) -> bool {
        const CENTURY: Millis = Millis(100 * 366 * 24 * 3_600_000);
        span < CENTURY || (self.now)().checked_add(span).is_some()
    }

    /// Rejects arguments that the command has not read.
    pub fn finish(&self) -> Result<(), Error> {
        if self.more() { Err(Error::Syntax) } else { Ok(()) }
    }
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
    fn leftover_arguments_are_a_syntax_error() {
        let mut args = cursor(&[b"a", b"b"]);
        assert_eq!(args.any().unwrap(), b"a");
        assert_eq!(args.finish(), Err(Error::Syntax));
        assert_eq!(args.any().unwrap(), b"b");
        assert_eq!(args.finish(), Ok(()));
        assert_eq!(args.any(), Err(Error::Syntax));
    }

    #[test]
    fn invalid_times_get_the_error_text_of_the_server() {
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
    fn a_timeout_of_zero_never_ends_and_a_negative_one_is_an_error() {
        let timeout = |text: &[u8]| cursor(&[text]).timeout();
        assert_eq!(timeout(b"0"), Ok(Timeout::Never));
        assert_eq!(timeout(b"1"), Ok(Timeout::After(Millis(1))));
        assert_eq!(timeout(b"-1"), Err(Error::NegativeTimeout));
        assert_eq!(timeout(b"9007199254740992"), Err(Error::ExpireTime("test.command")));
        assert_eq!(timeout(b"x"), Err(Error::NotAnInteger));
    }

    #[test]
    fn an_empty_name_gets_an_error_that_says_which_argument() {
        assert_eq!(cursor(&[b""]).name(), Err(Error::Empty("name")));
        assert_eq!(cursor(&[b"\0"]).name().unwrap(), b"\0");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_cursor_panic(bytes: Vec<u8>) {
            let _ = cursor(&[&bytes]).lifetime();
            let _ = cursor(&[&bytes]).timeout();
            let _ = cursor(&[&bytes]).at_least(0);
        }
    }
}
