//! What `COMMAND INFO` and `COMMAND DOCS` reply of a command, as short texts to compare.

use super::client::Client;
use super::value::Value;
use std::collections::BTreeSet;

/// The reply of `COMMAND INFO` for a command.
#[derive(Debug, PartialEq)]
pub struct CommandInfo {
    /// The number of arguments with the name; negative: at least so many.
    pub arity: i64,
    /// The flags in alphabetical order.
    pub flags: String,
    /// The ACL categories in alphabetical order. Redis 7.0 has none for module commands.
    pub categories: String,
    /// First key, last key and step, for clients that do not use key specifications.
    pub legacy: (i64, i64, i64),
    /// Position and flags of each key specification.
    pub keys: Vec<(i64, String)>,
}

/// `COMMAND INFO` of one command.
#[track_caller]
pub fn command_info(client: &mut Client, name: &str) -> CommandInfo {
    let reply = client.run(format!("COMMAND INFO {name}"));
    let info = reply.items()[0].items();
    CommandInfo {
        arity: info[1].as_int(),
        flags: words(&info[2]),
        categories: words(&info[6]),
        legacy: (info[3].as_int(), info[4].as_int(), info[5].as_int()),
        keys: info[8].items().iter().map(|spec| key(spec, info[4].as_int())).collect(),
    }
}

/// The arguments of `COMMAND DOCS` as one line:
/// `name:key [SHARED | LIMIT n:integer] [BLOCK ms:integer]`.
#[track_caller]
pub fn command_syntax(docs: &Value) -> String {
    let one = |argument: &Value| {
        let (name, kind) = (argument.get("name").as_str(), argument.get("type").as_str());
        let inner = || argument.get("arguments").items().iter().map(syntax_of);
        let text = match kind {
            "block" => inner().collect::<Vec<_>>().join(" "),
            "oneof" => inner().collect::<Vec<_>>().join(" | "),
            "pure-token" => String::new(),
            kind => format!("{name}:{kind}"),
        };
        let token = argument.field("token").map_or("", Value::as_str);
        let text = format!("{token} {text}").trim().to_owned();
        match argument.field("flags").map(words).unwrap_or_default().as_str() {
            "" => text,
            "optional" => format!("[{text}]"),
            "multiple" => format!("{text}..."),
            other => format!("{text}<{other}>"),
        }
    };
    fn syntax_of(argument: &Value) -> String {
        command_syntax(&Value::Array(vec![argument.clone()]))
    }
    docs.items().iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The words of a list of strings, sorted and joined.
pub fn words(list: &Value) -> String {
    let words: BTreeSet<_> = list.items().iter().map(Value::as_str).collect();
    words.into_iter().collect::<Vec<_>>().join(" ")
}

/// Position and flags of a key specification: one argument, or all from there on if the command's last
/// key is -1, or the keys that follow a keyword and their number. Then it is the position of the first
/// of them, if the keyword stands as far to the left as it can.
#[track_caller]
fn key(spec: &Value, last: i64) -> (i64, String) {
    let (begin, find) = (spec.get("begin_search"), spec.get("find_keys"));
    let (starts, finds) = (begin.get("spec"), find.get("spec"));
    let number = |of: &Value, name: &str| of.get(name).as_int();
    let flags = words(spec.get("flags"));
    assert_eq!(number(finds, "keystep"), 1);
    if begin.get("type").as_str() == "keyword" {
        assert_eq!(find.get("type").as_str(), "keynum");
        assert_eq!((number(finds, "keynumidx"), number(finds, "firstkey")), (0, 1));
        return (number(starts, "startfrom") + 2, flags);
    }
    assert_eq!(begin.get("type").as_str(), "index");
    assert_eq!(find.get("type").as_str(), "range");
    assert_eq!(number(finds, "lastkey"), last.min(0));
    (number(starts, "index"), flags)
}
