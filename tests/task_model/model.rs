//! What the model knows: tasks, the entries and delayed tasks that carry them, leases, the policy.

use super::support::consumers::PER_PRIORITY;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};

pub const QUEUE: &str = "tasks";

/// Another queue. It holds something during one step at most.
pub const OTHER: &str = "other";

/// The priorities that are used: the default, the highest, and one between.
pub const PRIORITIES: [u8; 3] = [0, 3, 9];

/// A time that does not pass during a test, in ms.
pub const FAR: i64 = 3_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    A,
    B,
}

impl Group {
    /// The second name has to be encoded among other words.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B %20-",
        }
    }
}

/// An id of a task, in the order in which entries are added to a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub ms: u64,
    pub seq: u64,
}

impl Id {
    #[track_caller]
    pub fn parse(text: &[u8]) -> Self {
        let parse = || {
            let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
            Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
        };
        parse().unwrap_or_else(|| panic!("no id: {}", text.escape_ascii()))
    }

    /// The priority of the stream to which it points.
    pub fn priority(self) -> u8 {
        u8::try_from(self.seq / PER_PRIORITY).expect("the sequence of a task of a priority")
    }

    pub fn is_delayed(self) -> bool {
        self.seq >= 10 * PER_PRIORITY
    }
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl Debug for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// The time of a command, in unix ms.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: i64,
    pub to: i64,
}

pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What every copy of a task has.
#[derive(Clone, Debug)]
pub struct Task {
    /// What PUBLISH replied.
    pub original: Id,
    pub payload: Vec<u8>,
    pub priority: u8,
    pub retry_count: i64,
    /// The only group that gets it; `None`: all.
    pub group: Option<Group>,
    /// Whether it is no longer the entry that PUBLISH added.
    pub is_copy: bool,
    /// Added by a plain client, with one more field and without those of PUBLISH.
    pub is_foreign: bool,
    /// How often it is tried, if it says so itself; 0: without limit.
    pub tries: Option<i64>,
    /// Until when it may be delivered for the first time. Copies that were made later have no end.
    pub end: Option<i64>,
    /// Whether it has a field of its publisher's.
    pub has_tenant: bool,
}

/// The name of the field that says until when a task may be delivered for the first time.
pub const END: &str = "expire_unix_ms";

impl Task {
    pub fn is_for(&self, group: Group) -> bool {
        self.group.is_none_or(|own| own == group)
    }

    /// The fields behind those that every task has.
    pub fn further(&self) -> Vec<(&'static str, Vec<u8>)> {
        let tries = self.tries.map(|tries| ("tries", tries.to_string().into()));
        let end = self.end.map(|end| (END, end.to_string().into()));
        let tenant = self.has_tenant.then(|| ("tenant", "blue \r\n\0".into()));
        let colour = self.is_foreign.then(|| ("colour", "red".into()));
        [tries, end, tenant, colour].into_iter().flatten().collect()
    }

    /// Whether it is dead after this number of tries.
    pub fn is_last(&self, tried: i64, policy: &Policy) -> bool {
        let tries = self.tries.unwrap_or(policy.tries);
        tries > 0 && tried >= tries
    }

    /// The fields of its entry without the timestamp; a dead letter has more.
    pub fn fields(&self) -> Fields {
        let mut fields = vec![("payload", self.payload.clone())];
        if self.is_copy || !self.is_foreign {
            fields.push(("retry_count", self.retry_count.to_string().into()));
        }
        fields.extend(self.further());
        if self.is_copy {
            fields.push(("original_id", self.original.to_string().into()));
        }
        if let Some(group) = self.group {
            fields.push(("group", group.name().into()));
        }
        fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    /// Checks its fields, which were added in this span, followed by those of a dead letter.
    #[track_caller]
    pub fn assert_fields(&self, found: &Fields, added: Span, letter: Fields) {
        let mut expected = self.fields();
        if self.is_copy || !self.is_foreign {
            let seconds = number(value_of(found, "timestamp").expect("a timestamp"));
            let seconds_of = added.from / 1000..=added.to / 1000;
            assert!(seconds_of.contains(&seconds), "{seconds} is not in {seconds_of:?}");
            expected.insert(1, ("timestamp".into(), seconds.to_string().into()));
        }
        expected.extend(letter);
        let mut found = found.clone();
        if self.is_foreign {
            // The place of other fields is not defined.
            expected.sort();
            found.sort();
        }
        assert_eq!(texts(&found), texts(&expected), "the fields of {self:?}");
    }
}

pub fn texts(fields: &Fields) -> Vec<String> {
    let text = |(name, value): &(Vec<u8>, Vec<u8>)| {
        format!("{}={}", name.escape_ascii(), value.escape_ascii())
    };
    fields.iter().map(text).collect()
}

pub fn value_of<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    let found = fields.iter().find(|(found, _)| found == name.as_bytes());
    found.map(|(_, value)| value.as_slice())
}

#[track_caller]
pub fn number(text: &[u8]) -> i64 {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("no number: {}", text.escape_ascii()))
}

/// The state of an entry for a group.
#[derive(Clone, Debug)]
pub enum State {
    Ready,
    Leased(Lease),
    Done,
}

#[derive(Clone, Debug)]
pub struct Lease {
    pub consumer: u8,
    pub deliveries: i64,
    /// When it began.
    pub began: Span,
    /// A plain client has claimed it: the module need not know when it began.
    pub is_claimed: bool,
}

/// An entry of one of the streams.
#[derive(Clone, Debug)]
pub struct Entry {
    pub task: Task,
    pub fields: Fields,
    pub states: BTreeMap<Group, State>,
}

impl Entry {
    pub fn lease(&self, group: Group) -> Option<&Lease> {
        match self.states.get(&group) {
            Some(State::Leased(lease)) => Some(lease),
            _ => None,
        }
    }

    pub fn is_ready(&self, group: Group) -> bool {
        matches!(self.states.get(&group), Some(State::Ready))
    }

    pub fn is_done(&self, group: Group) -> bool {
        matches!(self.states.get(&group), Some(State::Done))
    }

    pub fn is_done_by_all(&self) -> bool {
        self.states.values().all(|state| matches!(state, State::Done))
    }
}

/// A delayed task.
#[derive(Clone, Debug)]
pub struct Delayed {
    pub id: Id,
    pub due: i64,
    pub member: Vec<u8>,
    pub task: Task,
    /// A plain client has made it due: its score differs from its id.
    pub is_moved: bool,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    pub task: Task,
    /// Reason and deliveries, which RETRY does not add.
    pub cause: Option<(Vec<u8>, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub lease: i64,
    pub tries: i64,
    pub backoff: (i64, i64),
    pub limit: i64,
    pub keep: bool,
    pub paused: bool,
}

pub fn stream_key(priority: u8) -> String {
    if priority == 0 { QUEUE.into() } else { format!("priority{priority}:{{{QUEUE}}}") }
}

pub fn key(prefix: &str) -> String {
    format!("{prefix}:{{{QUEUE}}}")
}

/// How many UNIQUE ids there are.
pub const UNIQUE_IDS: u8 = 3;

pub fn unique_key(id: u8) -> String {
    format!("unique{}:{{{QUEUE}}}:order {id}", QUEUE.len())
}

pub fn consumer_name(consumer: u8) -> String {
    format!("worker {consumer}")
}

pub fn original(fields: &Fields) -> Option<&[u8]> {
    value_of(fields, "original_id")
}
