//! Integers as the server writes them.

/// Parses a signed 64-bit integer in the one form that the server itself writes: no `+`, no leading
/// zeros, no spaces.
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

/// The number that a text begins with, in any number of digits, and what follows it. `None` if there are
/// no digits, or if it does not fit.
#[inline]
pub fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    /// A number of this many digits always fits.
    const SHORT: usize = 19;
    let (mut value, mut places) = (0u64, 0);
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = if places < SHORT {
            value * 10 + u64::from(digit)
        } else {
            value.checked_mul(10)?.checked_add(digit.into())?
        };
        places += 1;
    }
    text.get(places..).filter(|_| places > 0).map(|rest| (value, rest))
}

/// The longest decimal form of a signed 64-bit integer.
pub const LONGEST: usize = 20;

/// Writes the decimal form of an integer at the end of a buffer. Returns that part of it.
pub fn decimal(value: i64, buffer: &mut [u8; LONGEST]) -> &[u8] {
    let (mut rest, mut len) = (value.unsigned_abs(), 0);
    let mut places = buffer.iter_mut().rev();
    for place in places.by_ref() {
        *place = b'0' + (rest % 10) as u8;
        (rest, len) = (rest / 10, len + 1);
        if rest == 0 {
            break;
        }
    }
    if value < 0
        && let Some(place) = places.next()
    {
        (*place, len) = (b'-', len + 1);
    }
    buffer.get(LONGEST - len..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_and_the_greatest_integer_have_a_decimal_form() {
        for value in [i64::MIN, i64::MAX, 0] {
            assert_eq!(decimal(value, &mut [0; LONGEST]), value.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn the_decimal_form_is_that_of_the_standard_library(value: i64, digits in 0..64u32) {
            let value = value >> digits;
            let mut buffer = [0; LONGEST];
            let written = String::from_utf8_lossy(decimal(value, &mut buffer)).into_owned();
            prop_assert_eq!(written, value.to_string());
        }

        #[test]
        fn an_integer_has_exactly_one_form(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn a_parsed_integer_prints_as_the_same_text(text in "[-+ 0-9]{0,22}") {
            if let Some(value) = integer(text.as_bytes()) {
                prop_assert_eq!(value.to_string(), text);
            } else {
                prop_assert!(text.parse::<i64>().map_or(true, |value| value.to_string() != text));
            }
        }
    }
}
