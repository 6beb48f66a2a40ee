//! The values of the variables of the grammar: names, bytes, numbers, times, and ids, tokens and
//! dumps from earlier replies.
//!
//! There are few names, so that the connections meet. A variable always draws the same number of
//! random numbers, so a connection sends the same commands in every run of a seed, except for
//! values from replies.

use super::dice::Dice;
use crate::support::{Value, now_ms};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// An argument.
pub type Bytes = Vec<u8>;

/// The first ones are used most. Each of the others is unusual in one way.
const CACHED: [&[u8]; 3] = [b"c1", b"c2", b"user{7}:c"];
const QUEUES: [&[u8]; 3] = [b"q1", b"q2", b"q{7}"];
const LOCKS: [&[u8]; 3] = [b"l1", b"l2", b"{7}l"];
const ODD_NAMES: [&[u8]; 22] = [
    b"",
    b"\0",
    b"a\0b",
    b"x\r\ny",
    b"\r\n$5\r\nhello\r\n",
    "Ā".as_bytes(),
    b"\xff\xfe",
    b"\xc3\x28",
    b"a}b",
    b"filter:{}",
    b"{}",
    b"{",
    b"}",
    b"}{",
    b"{a}{b}",
    b"{{a}}",
    b" ",
    b"wait:{l1}",
    b"lock:{l1}",
    b"delayed:{q1}",
    b"priority3:{q1}",
    b"%s%n",
];
const GROUPS: [&[u8]; 4] = [b"g", b"h", b"g", b"B %20-"];
const CONSUMERS: [&[u8]; 4] = [b"w1", b"w2", b"w3", b"\xff\0w"];
const IDENTIFIERS: [&[u8]; 6] = [b"A", b"B", b"C", b"D", b"\0\xff", b"12345"];
const FIELDS: [&[u8]; 6] = [b"tenant", b"", b"tries", b"group", b"\0\r\n", b"a"];
const UNIQUE: [&[u8]; 3] = [b"u", b"v", b"\r\n"];
const VALUES: [&[u8]; 10] =
    [b"v", b"", b"1", b"\0", b"a\r\nb", b"\xff\xc3", b"nil", b"-1", b"hello world", b"loading 1 1"];
const RECORDS: [&[u8]; 9] = [
    b"loading 1 9007199254740991 0 ",
    b"loading 9007199254740991 1 1 x",
    b"failed: 5 99999999999999 0 why",
    b"failed 5 1 1 ",
    b"open 7 0 1 ",
    b"open -1 -1 2 ",
    b"loading",
    b"",
    b"9007199254740990",
];
const MEMBERS: [&[u8]; 12] = [
    b"1795374441799-1001795374381799123 0 0 - payload",
    b"1795374441799-1001795374381799123:5-5 9 3 g p",
    b"1-1 3 99999999999999999999 - x",
    b"1795374441799-1001795374381799123 0 0+ - 7:payload1:p14:expire_unix_ms1:1",
    b"1795374441799-1001795374381799124:5-5 9 1+ g 5:tries1:25:tries1:x",
    b"1795374441799-1001795374381799123 v2 x",
    b"1-1000000000000000000:5-5 v7",
    b"x",
    b"",
    b"1-1000000000000000000 10 0 %zz p",
    b"A",
    b"B",
];
const NUMBERS: [&[u8]; 23] = [
    b"0",
    b"-1",
    b"1",
    b"-9223372036854775808",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"9007199254740992",
    b"9007199254740991",
    b"01",
    b"+1",
    b"1.5",
    b"1e3",
    b"0x10",
    b" 1",
    b"1\0",
    b"",
    b"abc",
    b"NaN",
    b"inf",
    b"-0",
    b"4294967296",
    "１".as_bytes(),
];
const ODD_IDS: [&[u8]; 14] = [
    b"0",
    b"0-0",
    b"1-1",
    b"-",
    b"+",
    b"*",
    b"$",
    b">",
    b"(1-1",
    b"1-*",
    b"18446744073709551615-18446744073709551615",
    b"1-500000000000000000",
    b"1-1000000000000000000",
    b"1-1-1",
];

/// The latest values from replies, for all connections together.
#[derive(Default)]
pub struct Learned(Mutex<Facts>);

#[derive(Default)]
struct Facts {
    ids: HashMap<Bytes, VecDeque<Bytes>>,
    tokens: HashMap<Bytes, Bytes>,
    dumps: VecDeque<Bytes>,
    clients: VecDeque<i64>,
}

/// How many ids of a queue, dumps and connections are remembered.
const REMEMBERED: usize = 24;

impl Learned {
    fn with<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers what later commands can use.
    pub fn learn(&self, command: &[Bytes], reply: &Value) {
        let Some(name) = command.first() else { return };
        let subject = match name.as_slice() {
            b"TASK.CONSUME" => command.get(3),
            b"XREADGROUP" => return self.learn_ids(b"q1", reply),
            b"DUMP" => {
                if let Value::Bulk(dump) = reply
                    && dump.len() < 5_000
                {
                    self.with(|facts| remember(&mut facts.dumps, dump.clone()));
                }
                return;
            }
            name if name.starts_with(b"X") || name.starts_with(b"TASK.") => command.get(1),
            b"CACHE.FETCH" => {
                if let (Some(key), Value::Array(items)) = (command.get(1), reply)
                    && let Some(Value::Int(token)) = items.get(2)
                {
                    let token = token.to_string().into_bytes();
                    self.with(|facts| facts.tokens.insert(key.clone(), token));
                }
                return;
            }
            _ => return,
        };
        if let Some(subject) = subject {
            self.learn_ids(subject, reply);
        }
    }

    fn learn_ids(&self, subject: &[u8], reply: &Value) {
        match reply {
            Value::Bulk(text) if is_id(text) => self.with(|facts| {
                if facts.ids.len() < 64 || facts.ids.contains_key(subject) {
                    remember(facts.ids.entry(subject.into()).or_default(), text.clone());
                }
            }),
            Value::Array(items) => {
                // A task that TASK.CONSUME delivers with THEN ends with its queue.
                let subject = match items.as_slice() {
                    [Value::Bulk(_), _, Value::Int(_), Value::Int(_), Value::Bulk(queue)] => queue,
                    _ => subject,
                };
                items.iter().take(50).for_each(|item| self.learn_ids(subject, item));
            }
            Value::Map(pairs) => {
                pairs.iter().take(50).for_each(|(_, item)| self.learn_ids(subject, item));
            }
            _ => {}
        }
    }

    /// Adds a connection.
    pub fn connected(&self, id: i64) {
        self.with(|facts| remember(&mut facts.clients, id));
    }

    /// Forgets the ids of clients after a round.
    pub fn forget_clients(&self) {
        self.with(|facts| facts.clients.clear());
    }
}

fn remember<T>(these: &mut VecDeque<T>, one: T) {
    if these.len() >= REMEMBERED {
        these.pop_front();
    }
    these.push_back(one);
}

fn is_id(text: &[u8]) -> bool {
    text.len() > 10
        && text.contains(&b'-')
        && text.iter().all(|&byte| byte == b'-' || byte.is_ascii_digit())
}

/// One of the remembered values. Draws one number.
fn recent<'a, T>(dice: &mut Dice, these: &'a VecDeque<T>) -> Option<&'a T> {
    let place = dice.below(REMEMBERED * 60);
    these.get(place % these.len().max(1))
}

/// The derived key of a name.
fn derived(prefix: &str, name: &[u8]) -> Bytes {
    let tag = name.iter().position(|&byte| byte == b'{').and_then(|open| {
        let close = name[open..].iter().position(|&byte| byte == b'}')?;
        (close > 1).then_some(())
    });
    match tag {
        Some(()) => [prefix.as_bytes(), b"::", name].concat(),
        None if !name.contains(&b'}') => [prefix.as_bytes(), b":{", name, b"}"].concat(),
        None => [prefix.as_bytes(), b":", name].concat(),
    }
}

/// Replaces variables.
pub struct Words<'a> {
    pub dice: &'a mut Dice,
    pub learned: &'a Learned,
    /// The name in this command, whose remembered values fit.
    subject: Bytes,
}

impl<'a> Words<'a> {
    /// For one command.
    pub fn new(dice: &'a mut Dice, learned: &'a Learned) -> Self {
        Self { dice, learned, subject: Bytes::new() }
    }

    /// The value of a variable.
    pub fn word(&mut self, variable: &str) -> Bytes {
        match variable {
            "cache" => self.name(&CACHED),
            "queue" => self.name(&QUEUES),
            "lock" => self.name(&LOCKS),
            "key" => self.any_key(),
            "str" => {
                let name = self.subject_of(&CACHED);
                let lock = self.dice.pick(&LOCKS).to_vec();
                match self.dice.below(5) {
                    0 | 1 => name,
                    2 => derived("cachelock", &name),
                    3 => derived("lock", &lock),
                    _ => derived("fence", &lock),
                }
            }
            "lockkey" => {
                let name = self.subject_of(&LOCKS);
                derived("lock", &name)
            }
            "delayed" => {
                let name = self.subject_of(&QUEUES);
                derived("delayed", &name)
            }
            "policy" => {
                let name = self.subject_of(&QUEUES);
                derived("policy", &name)
            }
            "moved" => {
                let name = self.subject_of(&QUEUES);
                derived(["taskmoved", "taskmarks", "taskheld"][self.dice.below(3)], &name)
            }
            "dead" => {
                let name = self.subject_of(&QUEUES);
                derived("dead", &name)
            }
            "stream" => {
                let name = self.subject_of(&QUEUES);
                match self.dice.below(10) {
                    0 => derived("dead", &name),
                    1 => derived("priority9", &name),
                    2 => derived("priority5", &name),
                    _ => name,
                }
            }
            "group" => self.one_of(&GROUPS),
            "consumer" => self.one_of(&CONSUMERS),
            "ident" => self.one_of(&IDENTIFIERS),
            "uniq" => self.one_of(&UNIQUE),
            "field" => self.one_of(&FIELDS),
            "value" => self.value(),
            "record" => self.one_of(&RECORDS),
            "member" => self.one_of(&MEMBERS),
            "ms" => self.number(&[1, 2, 5, 20, 50, 100, 300, 1_000, 60_000]),
            "lease" => self.number(&[1, 5, 20, 50, 50, 200, 1_000]),
            "span" => self.number(&[0, 0, 1, 5, 20, 50, 100, 1_000, 60_000]),
            "block" => self.number(&[0, 1, 5, 20, 20, 50, 100, 300, 60_000]),
            "count" => self.number(&[1, 1, 2, 3, 10, 100, 1_000]),
            "n" => self.number(&[0, 1, 2, 3, 5, 10]),
            "tries" => self.number(&[0, 1, 2, 3, 5, 20]),
            "bit" => self.number(&[0, 0, 0, 1]),
            "prio" => self.number(&[0, 1, 3, 5, 9, 9, 10]),
            "pct" => self.number(&[0, 10, 50, 100]),
            "db" => self.number(&[0, 0, 0, 1, 2]),
            "index" => self.number(&[-3, -1, 0, 1, 2, 100]),
            "seconds" => self.number(&[0, 1, 2, 100]),
            "score" => {
                let later = now_ms() + [-1_000, -1, 0, 5, 50, 1_000, 60_000][self.dice.below(7)];
                let odd = *self.dice.pick(&["inf", "-inf", "0", "1.5", "1e300", "nan"]);
                let odd_one = self.dice.percent(8);
                if odd_one { odd.into() } else { later.to_string().into() }
            }
            "point" => {
                let later = now_ms() + [-1_000, 0, 5, 50, 200, 1_000, 60_000][self.dice.below(7)];
                let odd = self.dice.pick(&NUMBERS).to_vec();
                if self.dice.percent(4) { odd } else { later.to_string().into() }
            }
            "id" => self.id(),
            "token" => self.token(),
            "dump" => {
                let dice = &mut *self.dice;
                let dump = self.learned.with(|facts| recent(dice, &facts.dumps).cloned());
                dump.unwrap_or_else(|| b"\0\x01x\x0b\0".to_vec())
            }
            "client" => {
                let dice = &mut *self.dice;
                let id = self.learned.with(|facts| recent(dice, &facts.clients).copied());
                id.unwrap_or(999_999).to_string().into()
            }
            "channel" => self.one_of(&[b"ch", b"__keyspace@0__:q1", b"__keyevent@0__:set", b""]),
            "pattern" => self.one_of(&[b"*", b"__key*", b"c?", b"[", b""]),
            other => panic!("the grammar has no variable ${other}"),
        }
    }

    /// Hostile bytes.
    pub fn hostile(&mut self) -> Bytes {
        match self.dice.below(12) {
            0..=4 => self.dice.pick(&NUMBERS).to_vec(),
            5..=8 => self.dice.pick(&ODD_NAMES).to_vec(),
            9 => self.dice.pick(&ODD_IDS).to_vec(),
            10 => vec![b'x'; [300, 5_000, 70_000, 1 << 20][self.dice.below(4)]],
            _ => [&[b'0'; 200][..], b"1"].concat(),
        }
    }

    fn one_of(&mut self, these: &[&[u8]]) -> Bytes {
        let one = self.dice.pick(these).to_vec();
        let odd = self.dice.pick(&ODD_NAMES).to_vec();
        if self.dice.percent(2) { odd } else { one }
    }

    /// Mostly a name of the family, which becomes the name of the command.
    fn name(&mut self, family: &[&[u8]; 3]) -> Bytes {
        let usual = family[[0, 0, 0, 0, 1, 1, 2][self.dice.below(7)]].to_vec();
        let foreign = self.dice.pick(&[CACHED[0], QUEUES[0], LOCKS[0]]).to_vec();
        let odd = self.dice.pick(&ODD_NAMES).to_vec();
        let long = vec![b'n'; 2_000];
        let name = match self.dice.below(100) {
            0..=3 => odd,
            4..=5 => foreign,
            6 => long,
            _ => usual,
        };
        if self.subject.is_empty() {
            self.subject.clone_from(&name);
        }
        name
    }

    /// A key derived from a name.
    fn subject_of(&mut self, family: &[&[u8]; 3]) -> Bytes {
        self.name(family)
    }

    fn any_key(&mut self) -> Bytes {
        let cached = self.name(&CACHED);
        let queue = self.name(&QUEUES);
        let lock = self.name(&LOCKS);
        let unique = self.dice.pick(&UNIQUE).to_vec();
        let priority = self.dice.within(1, 9);
        match self.dice.below(21) {
            0..=3 => cached,
            4..=7 => queue,
            8 => lock,
            9..=10 => derived("cachelock", &cached),
            11..=12 => derived("lock", &lock),
            13 => derived("fence", &lock),
            14 => derived(&format!("priority{priority}"), &queue),
            15 => derived("priority9", &queue),
            16 => derived("delayed", &queue),
            17 => derived("dead", &queue),
            18 => derived(
                ["policy", "taskmoved", "taskmarks", "taskheld"][self.dice.below(4)],
                &queue,
            ),
            19 => {
                let prefix = format!("unique{}", queue.len());
                [derived(&prefix, &queue), b":".to_vec(), unique].concat()
            }
            _ => derived("wait", &[&queue, &lock, &cached][self.dice.below(3)][..]),
        }
    }

    fn value(&mut self) -> Bytes {
        let short = self.dice.pick(&VALUES).to_vec();
        let length = [20, 100, 127, 128, 129, 2_000, 20_000][self.dice.below(7)];
        match self.dice.below(200) {
            0 => vec![b'V'; 1 << 20],
            1..=50 => vec![b'v'; length],
            _ => short,
        }
    }

    /// Mostly one of these.
    fn number(&mut self, these: &[i64]) -> Bytes {
        let usual = self.dice.pick(these).to_string().into_bytes();
        let odd = self.dice.pick(&NUMBERS).to_vec();
        if self.dice.percent(3) { odd } else { usual }
    }

    fn id(&mut self) -> Bytes {
        let odd = self.dice.pick(&ODD_IDS).to_vec();
        let subject = self.subject.as_slice();
        let dice = &mut *self.dice;
        let known = self.learned.with(|facts| match facts.ids.get(subject) {
            Some(ids) => recent(dice, ids).cloned(),
            None => recent(dice, &VecDeque::new()).cloned(),
        });
        if self.dice.percent(6) { odd } else { known.unwrap_or_else(|| b"1-1".to_vec()) }
    }

    fn token(&mut self) -> Bytes {
        let odd = self.dice.pick(&NUMBERS).to_vec();
        let subject = self.subject.as_slice();
        let known = self.learned.with(|facts| facts.tokens.get(subject).cloned());
        if self.dice.percent(8) { odd } else { known.unwrap_or_else(|| b"7".to_vec()) }
    }
}
