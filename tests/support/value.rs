//! Replies as they are on the wire: every RESP2 and RESP3 type is a value of its own, so that a test
//! sees whether the server sent a simple string or a bulk string, a nil bulk or a nil array.

use std::fmt::{self, Debug, Formatter};

/// The error for a key of another type than the command works on.
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// One reply. Build expected ones with [`ok`], [`int`], [`bulk`], [`array`] and their like.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR text`
    Error(Vec<u8>),
    /// `:1`
    Int(i64),
    /// `$1`
    Bulk(Vec<u8>),
    /// `$-1`, RESP2
    NilBulk,
    /// `*-1`, RESP2
    NilArray,
    /// `*2`
    Array(Vec<Value>),
    /// `_`, RESP3
    Null,
    /// `#t`, RESP3
    Bool(bool),
    /// `,1.5`, RESP3
    Double(f64),
    /// `(123`, RESP3: the digits
    BigNumber(Vec<u8>),
    /// `!5`, RESP3
    BulkError(Vec<u8>),
    /// `=7`, RESP3: the format of three letters and the text
    Verbatim(Vec<u8>, Vec<u8>),
    /// `%1`, RESP3, in the order of the wire
    Map(Vec<(Value, Value)>),
    /// `~1`, RESP3, in the order of the wire
    Set(Vec<Value>),
    /// `>2`, RESP3
    Push(Vec<Value>),
    /// `|1`, RESP3: the attributes and the reply that follows them
    Attribute(Vec<(Value, Value)>, Box<Value>),
}

/// The simple string `OK`.
pub fn ok() -> Value {
    simple("OK")
}

/// A simple string.
pub fn simple(text: impl AsRef<[u8]>) -> Value {
    Value::Simple(text.as_ref().to_vec())
}

/// A bulk string.
pub fn bulk(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bulk(bytes.as_ref().to_vec())
}

/// An integer.
pub fn int(number: i64) -> Value {
    Value::Int(number)
}

/// An error with exactly this text.
pub fn error(text: impl AsRef<[u8]>) -> Value {
    Value::Error(text.as_ref().to_vec())
}

/// The nil bulk string of RESP2.
pub fn nil() -> Value {
    Value::NilBulk
}

/// The nil array of RESP2.
pub fn nil_array() -> Value {
    Value::NilArray
}

/// The null of RESP3.
pub fn null() -> Value {
    Value::Null
}

/// An array of values, or of what turns into values: `array(["a", "b"])`, `array([int(1), nil()])`.
pub fn array<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(Into::into).collect())
}

/// A RESP3 map.
pub fn map<K: Into<Value>, V: Into<Value>>(pairs: impl IntoIterator<Item = (K, V)>) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        bulk(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        bulk(text)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        bulk(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        bulk(bytes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bulk(bytes)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        int(number)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Value::Array(items)
    }
}

impl Value {
    /// The bytes of a string or error of any kind; panics for another type.
    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Simple(bytes)
            | Self::Error(bytes)
            | Self::Bulk(bytes)
            | Self::BulkError(bytes)
            | Self::BigNumber(bytes)
            | Self::Verbatim(_, bytes) => bytes,
            other => panic!("not a string: {other:?}"),
        }
    }

    /// The text of a string or error of any kind; panics for another type and for invalid UTF-8.
    #[track_caller]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_else(|_| panic!("not UTF-8: {self:?}"))
    }

    /// The integer; panics for another type.
    #[track_caller]
    pub fn as_int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("not an integer: {other:?}"),
        }
    }

    /// The elements of an array, a set or a push; panics for another type.
    #[track_caller]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }

    /// What stands under `key` in a RESP3 map or in the flat array that RESP2 has for one; panics for
    /// another type.
    #[track_caller]
    pub fn field(&self, key: &str) -> Option<&Value> {
        let named = |name: &Value| match name {
            Self::Bulk(bytes) | Self::Simple(bytes) => bytes == key.as_bytes(),
            _ => false,
        };
        match self {
            Self::Map(pairs) => pairs.iter().find(|(name, _)| named(name)).map(|(_, value)| value),
            Self::Array(flat) if flat.len().is_multiple_of(2) => {
                flat.chunks_exact(2).find(|pair| named(&pair[0])).map(|pair| &pair[1])
            }
            other => panic!("neither a map nor a flat array of pairs: {other:?}"),
        }
    }

    /// As [`Value::field`]; panics when there is no such field.
    #[track_caller]
    pub fn get(&self, key: &str) -> &Value {
        self.field(key).unwrap_or_else(|| panic!("no field {key:?} in {self:?}"))
    }

    /// Whether this is one of the three nils.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::NilBulk | Self::NilArray | Self::Null)
    }

    /// Whether this is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_) | Self::BulkError(_))
    }

    /// Whether this is an error whose text begins with `start`: a code (`WRONGTYPE`) or more.
    pub fn is_error_with(&self, start: &str) -> bool {
        self.is_error() && self.bytes().starts_with(start.as_bytes())
    }
}

/// Writes the value as a test writes an expected one.
impl Debug for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = |f: &mut Formatter<'_>, name: &str, items: &[Value]| {
            write!(f, "{name}(")?;
            f.debug_list().entries(items).finish()?;
            write!(f, ")")
        };
        let call = |f: &mut Formatter<'_>, name: &str, bytes: &[u8]| {
            write!(f, "{name}(\"{}\")", bytes.escape_ascii())
        };
        match self {
            Self::Simple(text) if text == b"OK" => write!(f, "ok()"),
            Self::Simple(text) => call(f, "simple", text),
            Self::Error(text) => call(f, "error", text),
            Self::Int(number) => write!(f, "int({number})"),
            Self::Bulk(bytes) => call(f, "bulk", bytes),
            Self::NilBulk => write!(f, "nil()"),
            Self::NilArray => write!(f, "nil_array()"),
            Self::Array(items) => list(f, "array", items),
            Self::Null => write!(f, "null()"),
            Self::Bool(yes) => write!(f, "Bool({yes})"),
            Self::Double(number) => write!(f, "Double({number:?})"),
            Self::BigNumber(digits) => call(f, "BigNumber", digits),
            Self::BulkError(text) => call(f, "BulkError", text),
            Self::Verbatim(format, text) => {
                call(f, "Verbatim", &[format.as_slice(), b":", text].concat())
            }
            Self::Map(pairs) => {
                write!(f, "map(")?;
                f.debug_list().entries(pairs).finish()?;
                write!(f, ")")
            }
            Self::Set(items) => list(f, "Set", items),
            Self::Push(items) => list(f, "Push", items),
            Self::Attribute(pairs, reply) => {
                f.debug_tuple("Attribute").field(pairs).field(reply).finish()
            }
        }
    }
}

/// No server sends a longer bulk string (`proto-max-bulk-len`).
const MAX_BULK: usize = 512 * 1024 * 1024;
/// No test asks for a longer array.
const MAX_ITEMS: usize = 16 * 1024 * 1024;
/// No reply is nested deeper.
const MAX_DEPTH: usize = 64;

/// Reads one value off the front of `bytes`: the value and its length on the wire, `None` when
/// `bytes` ends too early, or why this is not RESP.
pub fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, String> {
    let mut parser = Parser { bytes, position: 0 };
    match parser.value(0) {
        Ok(value) => Ok(Some((value, parser.position))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Invalid(why)) => Err(why),
    }
}

enum Stop {
    Incomplete,
    Invalid(String),
}

struct Parser<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Invalid(format!("nested deeper than {MAX_DEPTH}")));
        }
        let line = self.line()?;
        let Some((&kind, rest)) = line.split_first() else {
            return Err(Stop::Invalid("an empty line where a reply begins".into()));
        };
        Ok(match kind {
            b'+' => Value::Simple(rest.to_vec()),
            b'-' => Value::Error(rest.to_vec()),
            b':' => Value::Int(number(rest)?),
            b'$' if rest == b"-1" => Value::NilBulk,
            b'$' => Value::Bulk(self.counted(rest)?.to_vec()),
            b'*' if rest == b"-1" => Value::NilArray,
            b'*' => Value::Array(self.items(rest, depth)?),
            b'_' if rest.is_empty() => Value::Null,
            b'#' if rest == b"t" => Value::Bool(true),
            b'#' if rest == b"f" => Value::Bool(false),
            b',' => Value::Double(number(rest)?),
            b'(' => Value::BigNumber(rest.to_vec()),
            b'!' => Value::BulkError(self.counted(rest)?.to_vec()),
            b'=' => match self.counted(rest)?.split_at_checked(4) {
                Some(([format @ .., b':'], text)) => {
                    Value::Verbatim(format.to_vec(), text.to_vec())
                }
                _ => return Err(Stop::Invalid("a verbatim string without format".into())),
            },
            b'%' => Value::Map(self.pairs(rest, depth)?),
            b'~' => Value::Set(self.items(rest, depth)?),
            b'>' => Value::Push(self.items(rest, depth)?),
            b'|' => {
                let attributes = self.pairs(rest, depth)?;
                Value::Attribute(attributes, Box::new(self.value(depth + 1)?))
            }
            _ => {
                return Err(Stop::Invalid(format!("no reply: \"{}\"", line.escape_ascii())));
            }
        })
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.position..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::Incomplete)?;
        self.position += end + 1;
        rest[..end].strip_suffix(b"\r").ok_or_else(|| Stop::Invalid("a line without CR".into()))
    }

    fn counted(&mut self, length: &[u8]) -> Result<&'a [u8], Stop> {
        let length = count(length, MAX_BULK)?;
        let rest = &self.bytes[self.position..];
        let Some((body, end)) = rest.split_at_checked(length) else {
            return Err(Stop::Incomplete);
        };
        if end.len() < 2 {
            return Err(Stop::Incomplete);
        }
        if !end.starts_with(b"\r\n") {
            return Err(Stop::Invalid("a bulk string longer than its length".into()));
        }
        self.position += length + 2;
        Ok(body)
    }

    fn items(&mut self, length: &[u8], depth: usize) -> Result<Vec<Value>, Stop> {
        (0..count(length, MAX_ITEMS)?).map(|_| self.value(depth + 1)).collect()
    }

    fn pairs(&mut self, length: &[u8], depth: usize) -> Result<Vec<(Value, Value)>, Stop> {
        (0..count(length, MAX_ITEMS)?)
            .map(|_| Ok((self.value(depth + 1)?, self.value(depth + 1)?)))
            .collect()
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, Stop> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Stop::Invalid(format!("not a number: \"{}\"", text.escape_ascii())))
}

fn count(text: &[u8], most: usize) -> Result<usize, Stop> {
    match number(text)? {
        count if count <= most => Ok(count),
        count => Err(Stop::Invalid(format!("a length of {count}, more than {most}"))),
    }
}
