//! Hostile arguments in every position of every command: each is refused and changes nothing, or is
//! accepted as it is.

use super::client::Client;
use super::keyspace::Keyspace;
use super::server::Server;
use super::value::{error, simple};
use super::{args, now_ms};

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const OUT_OF_RANGE: &str = "ERR value is out of range";
const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
const SYNTAX: &str = "ERR syntax error";
const STREAM_ID: &str = "ERR Invalid stream ID specified as stream command argument";
const NO_GROUP: &str = "NOGROUP No such consumer group for this stream";

/// Every point in time is below this: 2^53.
const END_OF_TIME: i64 = 1 << 53;

/// The longest delay of a busy machine between two reads of the clock, in ms.
const SLACK: i64 = 60_000;

/// How many bytes the fields of a task may have.
const FIELD_BYTES: usize = 65_536;

/// The kind of an argument, which decides what is refused.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any bytes.
    Bytes,
    /// Any bytes, but not empty; the word is that of the error.
    Filled(&'static str),
    /// The name of a group that must exist.
    KnownGroup,
    /// A time-to-live or lease: at least 1.
    Lifetime,
    /// A span of time: at least 0.
    Span,
    /// A span of time of at most this; a longer one is out of range.
    SpanUpTo(i64),
    /// A point in time.
    Point,
    /// A time-out.
    Wait,
    /// An integer of at least this.
    AtLeast(i64),
    /// An integer within these bounds.
    Between(i64, i64),
    /// Exactly this integer; anything else is a syntax error.
    Exactly(i64),
    /// Any bytes, but not empty, which is a syntax error.
    FilledOrSyntax,
    /// The number of fields, of which there are two.
    FieldCount,
    /// The name of a field.
    FieldName,
    /// The value of a field.
    FieldValue,
    /// The id of an entry.
    Id,
    /// The name of an option.
    Keyword,
    /// The name of an option in a position where an integer of at least this is valid too, in which
    /// case the arguments behind it mean something else.
    KeywordOr(i64),
}
use Kind::*;

/// How a command refuses surplus arguments.
#[derive(Clone, Copy)]
pub enum Beyond {
    /// The server's own refusal.
    Arity,
    /// A syntax error.
    Syntax,
    /// It accepts them: they are ids.
    MoreIds,
}

/// A command with all its arguments, which succeeds after the test's preparation.
pub struct Form {
    /// The call.
    pub call: &'static str,
    /// The kinds of its arguments.
    pub kinds: &'static [Kind],
    /// How many arguments it needs at least.
    pub required: usize,
    /// How it refuses surplus arguments.
    pub beyond: Beyond,
}

impl Form {
    fn words(&self) -> Vec<Vec<u8>> {
        self.call.split(' ').map(Into::into).collect()
    }

    /// The name as it stands in error texts.
    fn name(&self) -> String {
        self.call.split(' ').next().expect("a name").to_lowercase()
    }

    /// The error for an argument of this kind, if it is refused.
    fn refusal(&self, kind: Kind, hostile: &Hostile) -> Option<String> {
        let expire_time = || Some(format!("ERR invalid expire time in '{}' command", self.name()));
        let ends_in_time = |ms: i64| ms.checked_add(now_ms()).is_some_and(|end| end < END_OF_TIME);
        match (kind, hostile.number) {
            (Bytes, _) => None,
            (Filled(word), _) if hostile.bytes.is_empty() => {
                Some(format!("ERR {word} must not be empty"))
            }
            (Filled(_), _) => None,
            (KnownGroup, _) if hostile.bytes.is_empty() => {
                Some("ERR group must not be empty".into())
            }
            (KnownGroup, _) => Some(NO_GROUP.into()),
            (Id, _) => (!hostile.is_id).then(|| STREAM_ID.into()),
            (Keyword, _) => Some(SYNTAX.into()),
            (Exactly(this), number) => (number != Some(this)).then(|| SYNTAX.into()),
            (FilledOrSyntax, _) => hostile.bytes.is_empty().then(|| SYNTAX.into()),
            (FieldName, _) if hostile.bytes.is_empty() => {
                Some("ERR field name must not be empty".into())
            }
            (FieldName | FieldValue, _) => (hostile.bytes.len() > FIELD_BYTES)
                .then(|| "ERR FIELDS takes at most 65536 bytes".into()),
            (_, None) => Some(NOT_AN_INTEGER.into()),
            // With fewer fields, the names and values behind them are no options.
            (FieldCount, Some(1)) => Some(SYNTAX.into()),
            (FieldCount, _) => Some(OUT_OF_RANGE.into()),
            (KeywordOr(least), Some(number)) if number < least => Some(NOT_POSITIVE.into()),
            (KeywordOr(_), _) => Some(SYNTAX.into()),
            (Lifetime, Some(..1)) | (Span | SpanUpTo(_) | Point, Some(..0)) => expire_time(),
            (Wait, Some(..0)) => Some(NEGATIVE_TIMEOUT.into()),
            (Lifetime | Span | SpanUpTo(_) | Wait, Some(ms)) if !ends_in_time(ms) => expire_time(),
            (SpanUpTo(most), Some(ms)) => (ms > most).then(|| OUT_OF_RANGE.into()),
            (Point, Some(END_OF_TIME..)) => expire_time(),
            (Lifetime | Span | Point | Wait, _) => None,
            (AtLeast(least), Some(number)) => (number < least).then(|| NOT_POSITIVE.into()),
            (Between(least, most), Some(number)) => {
                (!(least..=most).contains(&number)).then(|| OUT_OF_RANGE.into())
            }
        }
    }
}

/// A hostile argument.
struct Hostile {
    bytes: Vec<u8>,
    /// Its value as an integer, if it has the canonical form.
    number: Option<i64>,
    /// Whether it is the id of an entry. The server knows `<ms>` and `<ms>-<seq>`.
    is_id: bool,
}

fn hostile_arguments() -> Vec<Hostile> {
    let bytes = |bytes: &[u8]| Hostile { bytes: bytes.into(), number: None, is_id: false };
    let number = |number: i64| Hostile {
        bytes: number.to_string().into(),
        number: Some(number),
        is_id: number >= 0,
    };
    let id = |text: &str| Hostile { bytes: text.into(), number: None, is_id: true };
    let words = "abc +1 1.5 1e3 0x10 -0 -01 --1 １ Ā NaN nil %s%n * $ > - + 1- -1-1 1-* 1-1-1 (1-1";
    let texts = words.split(' ').chain(["", "\0", "\r\n", " 1", "1 ", "1\0", "1\n"]);
    let mut all: Vec<_> = texts.map(|text| bytes(text.as_bytes())).collect();
    all.extend([bytes(b"\xff"), bytes(b"\xc3\x28"), bytes(&vec![b'x'; 1 << 20])]);
    // Longer than any id that the server parses.
    all.push(bytes(&[&[b'0'; 200][..], b"1"].concat()));
    all.extend([-1, 0, 1, i64::MIN, i64::MAX, END_OF_TIME, END_OF_TIME - now_ms()].map(number));
    all.extend(["01", "00", "1-01", "9223372036854775808", "18446744073709551615"].map(id));
    all.push(id("18446744073709551615-18446744073709551615"));
    all.extend(
        ["18446744073709551616", "1-18446744073709551616"].map(|text| bytes(text.as_bytes())),
    );
    all
}

/// A call is refused with this text and changes nothing.
#[track_caller]
fn assert_refused(client: &mut Client, before: &Keyspace, call: &[Vec<u8>], text: &str) {
    let spelled = || {
        let words = call.iter().map(|word| word[..word.len().min(60)].escape_ascii().to_string());
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(client.cmd(call), error(text), "{}", spelled());
    assert!(Keyspace::of(client) == *before, "{} has changed something", spelled());
    assert_eq!(client.run("PING"), simple("PONG"), "after {}", spelled());
}

/// Creates the keys with which every call of a table succeeds and has something to change.
type Prepare = fn(&mut Client);

/// Every form of the table succeeds as it stands, so that a changed call is refused for the changed
/// argument.
#[track_caller]
pub fn assert_forms_succeed(forms: &[Form], prepare: Prepare) {
    let server = Server::start();
    let mut client = server.client();
    for form in forms {
        prepare(&mut client);
        let reply = client.cmd(&form.words());
        assert!(!reply.is_error() && !reply.is_nil(), "{}: {reply:?}", form.call);
        assert_ne!(reply, super::int(0), "{}", form.call);
        assert_eq!(form.words().len(), form.kinds.len() + 1, "{}", form.call);
    }
}

/// A hostile argument in any position is refused and changes nothing, or is accepted.
#[track_caller]
pub fn assert_hostile_arguments_are_harmless(forms: &[Form], prepare: Prepare) {
    let server = Server::start();
    let mut client = server.client();
    let hostiles = hostile_arguments();
    for form in forms {
        prepare(&mut client);
        let mut before = Keyspace::of(&mut client);
        for (index, kind) in form.kinds.iter().enumerate() {
            for hostile in &hostiles {
                let mut call = form.words();
                call[index + 1].clone_from(&hostile.bytes);
                if let Some(text) = form.refusal(*kind, hostile) {
                    assert_refused(&mut client, &before, &call, &text);
                } else {
                    let reply = client.cmd(&call);
                    let shown = hostile.bytes[..hostile.bytes.len().min(60)].escape_ascii();
                    assert!(!reply.is_error(), "{} {kind:?} {shown}: {reply:?}", form.call);
                    assert_eq!(client.run("PING"), simple("PONG"));
                    prepare(&mut client);
                    before = Keyspace::of(&mut client);
                }
            }
        }
    }
}

/// Too few arguments are refused, and so are surplus ones.
#[track_caller]
pub fn assert_the_number_of_arguments_is_checked(forms: &[Form], prepare: Prepare) {
    let server = Server::start();
    let mut client = server.client();
    prepare(&mut client);
    let before = Keyspace::of(&mut client);
    for form in forms {
        let arity = format!("ERR wrong number of arguments for '{}' command", form.name());
        let call = form.words();
        for given in 0..form.required {
            assert_refused(&mut client, &before, &call[..=given], &arity);
        }
        let text = match form.beyond {
            Beyond::Arity => &arity,
            Beyond::Syntax => SYNTAX,
            Beyond::MoreIds => STREAM_ID,
        };
        for surplus in [&b""[..], b"junk", b"\0", b"\xff", b"NOSUCHOPTION"] {
            for times in 1..=3 {
                let mut call = call.clone();
                call.extend(std::iter::repeat_n(surplus.to_vec(), times));
                assert_refused(&mut client, &before, &call, text);
            }
        }
    }
}

/// A time must end before 2^53.
#[track_caller]
pub fn assert_times_have_an_end(forms: &[Form], prepare: Prepare) {
    let server = Server::start();
    let mut client = server.client();
    for form in forms {
        for (index, kind) in form.kinds.iter().enumerate() {
            // The server uses the clock of this machine, which only goes forward.
            let (first, last) = match kind {
                Lifetime | Span | Wait => (END_OF_TIME - now_ms(), END_OF_TIME - now_ms() - SLACK),
                Point => (END_OF_TIME, END_OF_TIME - 1),
                _ => continue,
            };
            prepare(&mut client);
            let before = Keyspace::of(&mut client);
            let mut call = form.words();
            call[index + 1] = args![first][0].clone();
            let text = format!("ERR invalid expire time in '{}' command", form.name());
            assert_refused(&mut client, &before, &call, &text);
            call[index + 1] = args![last][0].clone();
            let reply = client.cmd(&call);
            assert!(!reply.is_error(), "{}: {reply:?}", form.call);
        }
    }
}
