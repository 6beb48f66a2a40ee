//! Replies of inner commands, read from the text of the protocol as it is. The server's own functions for
//! this build a tree of every reply first, which costs more than most inner commands.

use super::integer::{integer, leading_number};

/// The types of replies of the inner commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string, also a simple one.
    String,
    /// An error.
    Error,
    /// An integer.
    Integer,
    /// An array.
    Array,
    /// A RESP3 map.
    Map,
    /// Nothing.
    Null,
    /// Nothing instead of an array, in RESP2.
    NullArray,
    /// Anything else.
    Other,
}

/// A reply or a part of one: text of the protocol that begins with it.
#[derive(Clone, Copy)]
pub struct Element<'r>(&'r [u8]);

/// The first line of a value, and what comes after it.
struct Head<'r> {
    mark: u8,
    /// What follows the mark.
    line: &'r [u8],
    rest: &'r [u8],
}

/// The number that a line begins with, and how long the line is. `None` for anything other than
/// a few digits.
#[inline]
fn number(line: &[u8]) -> Option<(usize, usize)> {
    const MOST_DIGITS: usize = 9;
    let (number, rest) = leading_number(line)?;
    let digits = line.len() - rest.len();
    let is_number = rest.starts_with(b"\r") && digits <= MOST_DIGITS;
    is_number.then_some((number as usize, digits + 2))
}

impl<'r> Head<'r> {
    fn of(text: &'r [u8]) -> Option<Self> {
        let (mark, text) = text.split_first()?;
        // The first lines of all but simple strings and errors are short.
        let end = text.iter().position(|byte| *byte == b'\r')?;
        Some(Self { mark: *mark, line: text.get(..end)?, rest: text.get(end + 2..)? })
    }

    /// The number in the line; `None` if it is below 0 or no number.
    fn number(&self) -> Option<usize> {
        integer(self.line).and_then(|number| usize::try_from(number).ok())
    }

    /// How many values belong to this one and follow it.
    fn children(&self) -> usize {
        match self.mark {
            b'*' | b'~' | b'>' => self.number().unwrap_or(0),
            b'%' | b'|' => self.number().unwrap_or(0).saturating_mul(2),
            _ => 0,
        }
    }

    /// The bytes of a string with a length, and what comes after them.
    fn bulk(&self) -> Option<(&'r [u8], &'r [u8])> {
        if !matches!(self.mark, b'$' | b'=' | b'!') {
            return None;
        }
        let len = self.number()?;
        Some((self.rest.get(..len)?, self.rest.get(len.checked_add(2)?..)?))
    }

    /// What comes after this line, and after its string if it has one.
    fn after(&self) -> &'r [u8] {
        self.bulk().map_or(self.rest, |(_, rest)| rest)
    }
}

/// A value without the values that it contains.
pub enum Flat<'r> {
    /// A string.
    String(&'r [u8]),
    /// An integer.
    Integer(i64),
    /// An array of so many values, which follow.
    Array(usize),
    /// A map of so many pairs, which follow.
    Map(usize),
    /// Nothing.
    Null,
    /// Nothing instead of an array.
    NullArray,
}

impl<'r> Element<'r> {
    /// The reply in a text.
    pub fn new(text: &'r [u8]) -> Self {
        Self(text)
    }

    /// Its type.
    pub fn kind(self) -> Kind {
        match self.0 {
            [b'$', b'-', ..] | [b'_', ..] => Kind::Null,
            [b'*', b'-', ..] => Kind::NullArray,
            [b'$' | b'+', ..] => Kind::String,
            [b':', ..] => Kind::Integer,
            [b'*', ..] => Kind::Array,
            [b'%', ..] => Kind::Map,
            [b'-', ..] => Kind::Error,
            _ => Kind::Other,
        }
    }

    /// Whether it is nil.
    pub fn is_null(self) -> bool {
        matches!(self.kind(), Kind::Null | Kind::NullArray)
    }

    /// Its value; 0 if it is not an integer.
    pub fn integer(self) -> i64 {
        match self.kind() {
            Kind::Integer => Head::of(self.0).and_then(|head| integer(head.line)).unwrap_or(0),
            _ => 0,
        }
    }

    /// Its bytes; none if it is neither a string nor an error.
    pub fn bytes(self) -> &'r [u8] {
        let Some(head) = Head::of(self.0) else { return &[] };
        match head.mark {
            b'$' => head.bulk().map_or(&[], |(bytes, _)| bytes),
            b'+' | b'-' => head.line,
            _ => &[],
        }
    }

    /// The number of elements of an array or pairs of a map.
    pub fn len(self) -> usize {
        match self.kind() {
            Kind::Array | Kind::Map => Head::of(self.0).and_then(|head| head.number()).unwrap_or(0),
            _ => 0,
        }
    }

    /// An element of an array.
    pub fn at(self, index: usize) -> Option<Element<'r>> {
        self.elements().nth(index)
    }

    /// The elements of an array.
    pub fn elements(self) -> impl Iterator<Item = Element<'r>> {
        let head = Head::of(self.0).filter(|head| head.mark == b'*');
        let count = head.as_ref().and_then(Head::number).unwrap_or(0);
        let mut next = head.map_or(&[][..], |head| head.rest);
        // What an element contains is walked through only if another one is asked for.
        (0..count).map_while(move |index| {
            if index > 0 {
                next = Element(next).skip()?;
            }
            (!next.is_empty()).then_some(Element(next))
        })
    }

    /// The value of the first pair, of a map or of an array of pairs.
    pub fn first_value(self) -> Option<Element<'r>> {
        let mut cursor = self.cursor();
        let Some(pairs) = cursor.array() else {
            let head = Head::of(self.0).filter(|head| head.mark == b'%')?;
            head.number().filter(|pairs| *pairs > 0)?;
            return Element(head.rest).skip().map(Element);
        };
        let is_pair = pairs > 0 && cursor.array()? > 1;
        cursor.skip(1).filter(|()| is_pair).map(|()| Element(cursor.0))
    }

    /// The value after `field` in a flat list of fields and values.
    pub fn field(self, field: &[u8]) -> Option<Element<'r>> {
        self.twos().find(|(name, _)| name.bytes() == field).map(|(_, value)| value)
    }

    /// The pairs of a flat list of fields and values.
    pub fn pairs(self) -> impl Iterator<Item = (&'r [u8], &'r [u8])> {
        self.twos().map(|(name, value)| (name.bytes(), value.bytes()))
    }

    fn twos(self) -> impl Iterator<Item = (Element<'r>, Element<'r>)> {
        let mut elements = self.elements();
        std::iter::from_fn(move || Some((elements.next()?, elements.next()?)))
    }

    /// What comes after it. `None` if the text ends before.
    fn skip(self) -> Option<&'r [u8]> {
        let mut cursor = self.cursor();
        cursor.skip(1)?;
        Some(cursor.0)
    }

    /// Reads it, and then what it contains, value by value.
    pub fn cursor(self) -> Cursor<'r> {
        Cursor(self.0)
    }

    /// Itself and every value that it contains, each before those that it contains itself.
    pub fn flat(self) -> impl Iterator<Item = Flat<'r>> {
        let (mut rest, mut values) = (self.0, 1usize);
        std::iter::from_fn(move || {
            values = values.checked_sub(1)?;
            let (element, head) = (Element(rest), Head::of(rest)?);
            values = values.saturating_add(head.children());
            if let Some((bytes, after)) = head.bulk().filter(|_| head.mark == b'$') {
                rest = after;
                return Some(Flat::String(bytes));
            }
            rest = head.after();
            Some(match element.kind() {
                Kind::String | Kind::Error => Flat::String(element.bytes()),
                Kind::Integer => Flat::Integer(element.integer()),
                Kind::Array => Flat::Array(element.len()),
                Kind::Map => Flat::Map(element.len()),
                Kind::NullArray => Flat::NullArray,
                Kind::Null | Kind::Other => Flat::Null,
            })
        })
    }
}

/// Reads a reply from its beginning in one pass, which is cheaper than random access.
pub struct Cursor<'r>(&'r [u8]);

impl<'r> Cursor<'r> {
    /// The next value if it is an array, whose elements come next: how many there are.
    #[inline]
    pub fn array(&mut self) -> Option<usize> {
        let text = self.0.strip_prefix(b"*")?;
        let (elements, start) = number(text)?;
        self.0 = text.get(start..)?;
        Some(elements)
    }

    /// The next value if it is a string with a length.
    #[inline]
    pub fn string(&mut self) -> Option<&'r [u8]> {
        let text = self.0.strip_prefix(b"$")?;
        let (len, start) = number(text)?;
        self.0 = text.get(start + len + 2..)?;
        text.get(start..start + len)
    }

    /// Skips values and everything inside them. `None` if the text ends before.
    pub fn skip(&mut self, mut values: usize) -> Option<()> {
        while let Some(others) = values.checked_sub(1) {
            let mut more = 0;
            if self.string().is_none() {
                let head = Head::of(self.0)?;
                (more, self.0) = (head.children(), head.after());
            }
            values = others.saturating_add(more);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A value as a test states it.
    #[derive(Clone, Debug, PartialEq)]
    enum Value {
        Bulk(Vec<u8>),
        Simple(String),
        Integer(i64),
        Null,
        NullArray,
        Array(Vec<Value>),
    }

    fn encode(value: &Value, text: &mut Vec<u8>) {
        match value {
            Value::Bulk(bytes) => {
                text.extend(format!("${}\r\n", bytes.len()).into_bytes());
                text.extend(bytes);
                text.extend(b"\r\n");
            }
            Value::Simple(line) => text.extend(format!("+{line}\r\n").into_bytes()),
            Value::Integer(number) => text.extend(format!(":{number}\r\n").into_bytes()),
            Value::Null => text.extend(b"$-1\r\n"),
            Value::NullArray => text.extend(b"*-1\r\n"),
            Value::Array(items) => {
                text.extend(format!("*{}\r\n", items.len()).into_bytes());
                items.iter().for_each(|item| encode(item, text));
            }
        }
    }

    fn decode(element: Element<'_>) -> Value {
        match element.kind() {
            Kind::String if element.0[0] == b'+' => {
                Value::Simple(String::from_utf8(element.bytes().to_vec()).unwrap())
            }
            Kind::String => Value::Bulk(element.bytes().to_vec()),
            Kind::Integer => Value::Integer(element.integer()),
            Kind::Null => Value::Null,
            Kind::NullArray => Value::NullArray,
            Kind::Array => Value::Array(element.elements().map(decode).collect()),
            other => panic!("{other:?}"),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bulk),
            "[a-zA-Z ]{0,8}".prop_map(Value::Simple),
            any::<i64>().prop_map(Value::Integer),
            Just(Value::Null),
            Just(Value::NullArray),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn every_reply_is_read_as_it_was_written(value in values()) {
            let mut text = Vec::new();
            encode(&value, &mut text);
            prop_assert_eq!(Element(&text).skip(), Some(&[][..]));
            prop_assert_eq!(decode(Element(&text)), value);
        }

        #[test]
        fn text_of_any_content_is_read_without_a_panic(
            text in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(b"*$%:+-_~>|=!,0123456789\r\n".to_vec()),
                    any::<u8>(),
                ],
                0..60,
            ),
        ) {
            let element = Element(&text);
            let _ = (element.kind(), element.integer(), element.bytes(), element.first_value());
            let _ = (element.field(b"a"), element.skip());
            prop_assert!(element.elements().take(100).count() <= 100);
            prop_assert!(element.pairs().take(100).count() <= 100);
            prop_assert!(element.flat().take(100).count() <= 100);
        }
    }

    #[test]
    fn maps_pairs_and_fields_are_found() {
        let map = Element(b"%1\r\n$1\r\nq\r\n*2\r\n:1\r\n:2\r\n");
        assert_eq!(map.len(), 1);
        let value = map.first_value().unwrap();
        assert_eq!(value.elements().map(Element::integer).collect::<Vec<_>>(), [1, 2]);
        let array = Element(b"*1\r\n*2\r\n+q\r\n*1\r\n:7\r\n");
        assert_eq!(array.first_value().unwrap().at(0).unwrap().integer(), 7);
        assert!(Element(b"%0\r\n").first_value().is_none());
        let flat = Element(b"*4\r\n+a\r\n$1\r\n1\r\n+b\r\n_\r\n");
        assert_eq!(flat.field(b"a").unwrap().bytes(), b"1");
        assert!(flat.field(b"b").unwrap().is_null());
        assert!(flat.field(b"c").is_none());
        assert_eq!(flat.pairs().collect::<Vec<_>>(), [(&b"a"[..], &b"1"[..]), (b"b", b"")]);
    }

    #[test]
    fn an_error_is_its_line_without_the_mark() {
        let error = Element(b"-WRONGTYPE no list\r\n");
        assert_eq!((error.kind(), error.bytes()), (Kind::Error, &b"WRONGTYPE no list"[..]));
    }
}
