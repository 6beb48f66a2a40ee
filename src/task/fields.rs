//! The further fields of a task, which its publisher chooses: the option FIELDS. Every copy of the task
//! carries them, so their number and their size are bounded.

use super::entry::{EXPIRE, TRIES};
use crate::args::{Args, Argument};
use crate::error::Error;
use crate::server::Str;
use std::collections::BTreeSet;

/// How many fields a task may have beside its own.
pub const MOST: i64 = 64;

/// How many bytes their names and values may have in all.
pub const MOST_BYTES: usize = 64 << 10;

/// The fields of a task, of a copy and of a dead letter.
const RESERVED: [&[u8]; 10] = [
    b"payload",
    b"timestamp",
    b"retry_count",
    TRIES,
    EXPIRE,
    b"original_id",
    b"group",
    b"reason",
    b"deliveries",
    b"priority",
];

/// Reads `numfields name value [name value ...]`. Returns the names, each followed by its value.
pub fn read<'a>(args: &mut Args<'a>) -> Result<&'a [Str<'a>], Error> {
    let number = args.between(1, MOST)?.unsigned_abs();
    let pairs = args.take(usize::try_from(2 * number).unwrap_or(usize::MAX))?;
    check(pairs)?;
    Ok(pairs)
}

fn check<'a, A: Argument<'a>>(pairs: &[A]) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for name in pairs.iter().step_by(2).map(|name| name.bytes()) {
        if name.is_empty() {
            return Err(Error::Empty("field name"));
        }
        if RESERVED.contains(&name) {
            return Err(Error::ReservedField);
        }
        if !names.insert(name) {
            return Err(Error::RepeatedField);
        }
    }
    let bytes = pairs.iter().fold(0usize, |sum, part| sum.saturating_add(part.bytes().len()));
    if bytes > MOST_BYTES { Err(Error::FieldBytes) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_freely_but_not_twice_and_not_from_those_of_a_task() {
        let check = |pairs: &[&'static [u8]]| check(pairs);
        assert_eq!(check(&[b"tenant", b"", b"\0", b"x", b"Payload", b"y"]), Ok(()));
        assert_eq!(check(&[b"", b"x"]), Err(Error::Empty("field name")));
        assert_eq!(check(&[b"a", b"x", b"b", b"y", b"a", b"x"]), Err(Error::RepeatedField));
        for name in RESERVED {
            assert_eq!(check(&[b"a", b"x", name, b"y"]), Err(Error::ReservedField));
        }
        // A value may be anything.
        assert_eq!(check(&[b"a", b"payload", b"b", b"payload"]), Ok(()));
    }

    #[test]
    fn names_and_values_count_for_the_bound() {
        let long = vec![b'x'; MOST_BYTES];
        let (name, value) = long.split_at(MOST_BYTES / 2);
        assert_eq!(check(&[name, value]), Ok(()));
        assert_eq!(check(&[name, value, b"y", b""]), Err(Error::FieldBytes));
    }
}
