//! What the server holds: all keys of the queue, read like a plain client, TASK.INFO, and the tasks
//! in a reply of TASK.CONSUME.

use super::model::*;
use super::support::{Client, Value, bulk, now_ms};
use std::collections::{BTreeMap, BTreeSet};

/// All keys, read like a plain client, and TASK.INFO.
pub struct Snapshot {
    pub at: Span,
    pub streams: BTreeMap<u8, Vec<(Id, Fields)>>,
    /// By priority and group, where the stream has the group.
    pub groups: BTreeMap<(u8, Group), Seen>,
    /// Members and their scores.
    pub delayed: Vec<(Vec<u8>, i64)>,
    pub dead: Vec<(Id, Fields)>,
    /// Original ids and present ones.
    pub moved: BTreeMap<Id, Id>,
    pub marks: BTreeMap<Id, String>,
    pub held: Vec<Vec<u8>>,
    /// The tasks of the windows of UNIQUE.
    pub windows: BTreeMap<u8, Id>,
    pub info: Value,
    pub keys: BTreeSet<Vec<u8>>,
}

impl Snapshot {
    #[track_caller]
    pub fn take(client: &mut Client) -> Self {
        let from = now_ms();
        // Group names have spaces, so this is not a pipeline of lines.
        for priority in PRIORITIES {
            let key = stream_key(priority);
            client.send_args(&["XRANGE", &key, "-", "+"]);
            client.send_args(&["XINFO", "GROUPS", &key]);
            for group in [Group::A, Group::B] {
                client.send_args(&["XPENDING", &key, group.name(), "-", "+", "10000"]);
            }
        }
        client.send_args(&["ZRANGE", &key("delayed"), "0", "-1", "WITHSCORES"]);
        client.send_args(&["XRANGE", &key("dead"), "-", "+"]);
        client.send_args(&["HGETALL", &key("taskmoved")]);
        client.send_args(&["HGETALL", &key("taskmarks")]);
        client.send_args(&["ZRANGE", &key("taskheld"), "0", "-1"]);
        for unique in 0..UNIQUE_IDS {
            client.send_args(&["GET", &unique_key(unique)]);
        }
        client.send_args(&["TASK.INFO", QUEUE]);
        client.send_args(&["KEYS", "*"]);

        let (mut streams, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for priority in PRIORITIES {
            streams.insert(priority, entries_of(&client.read()));
            let known = client.read();
            for group in [Group::A, Group::B] {
                let pending = client.read();
                let named = |found: &&Value| found.get("name") == &bulk(group.name());
                let known = (!known.is_error()).then(|| known.items().iter().find(named));
                let Some(known) = known.flatten() else {
                    let is_missing = pending.is_error() || pending.items().is_empty();
                    assert!(is_missing, "{pending:?}");
                    continue;
                };
                let pending = pending.items().iter().map(|one| match one.items() {
                    [id, consumer, _, deliveries] => {
                        (Id::parse(id.bytes()), consumer.bytes().to_vec(), deliveries.as_int())
                    }
                    _ => panic!("XPENDING: {one:?}"),
                });
                let last = Id::parse(known.get("last-delivered-id").bytes());
                groups.insert((priority, group), Seen { last, pending: pending.collect() });
            }
        }
        let delayed = client.read();
        let scored = |pair: &[Value]| {
            let score = pair[1].as_str().parse::<f64>().expect("a score");
            (pair[0].bytes().to_vec(), score as i64)
        };
        let delayed = delayed.items().chunks_exact(2).map(scored).collect();
        let dead = entries_of(&client.read());
        let moved = fields_of(&client.read());
        let moved = moved.iter().map(|(from, to)| (Id::parse(from), Id::parse(to))).collect();
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let marks = fields_of(&client.read());
        let marks = marks.iter().map(|(id, mark)| (Id::parse(id), text(mark))).collect();
        let held = client.read();
        let held = held.items().iter().map(|member| member.bytes().to_vec()).collect();
        let windows = (0..UNIQUE_IDS).filter_map(|unique| {
            let holder = client.read();
            (!holder.is_nil()).then(|| (unique, Id::parse(holder.bytes())))
        });
        let windows = windows.collect();
        let info = client.read();
        assert!(!info.is_error(), "TASK.INFO: {info:?}");
        let keys = client.read();
        let keys = keys.items().iter().map(|key| key.bytes().to_vec()).collect();
        let at = Span { from, to: now_ms() };
        Self { at, streams, groups, delayed, dead, moved, marks, held, windows, info, keys }
    }

    /// When the task with this id expires, as it is stored.
    #[track_caller]
    pub fn end_of(&self, id: Id) -> i64 {
        if !id.is_delayed() {
            let entry = self.streams[&id.priority()].iter().find(|(found, _)| *found == id);
            let (_, fields) = entry.expect("the entry");
            return number(value_of(fields, END).expect("an end"));
        }
        let is_it = |(member, _): &&(Vec<u8>, i64)| Member::parse(member).id == id;
        let (member, _) = self.delayed.iter().find(is_it).expect("the delayed task");
        let name = format!("{}:{END}13:", END.len()).into_bytes();
        let at = member.windows(name.len()).position(|part| *part == name).expect("an end");
        number(&member[at + name.len()..][..13])
    }

    pub fn has_entry(&self, id: Id) -> bool {
        self.streams[&id.priority()].iter().any(|(found, _)| *found == id)
    }

    pub fn has_delayed(&self, member: &[u8]) -> bool {
        self.delayed.iter().any(|(found, _)| found == member)
    }

    pub fn is_leased(&self, id: Id, group: Group) -> bool {
        self.groups.get(&(id.priority(), group)).is_some_and(|seen| seen.is_pending(id))
    }
}

/// The position of a group in a stream.
pub struct Seen {
    pub last: Id,
    /// Id, consumer, deliveries.
    pub pending: Vec<(Id, Vec<u8>, i64)>,
}

impl Seen {
    pub fn is_pending(&self, id: Id) -> bool {
        self.pending.iter().any(|(pending, ..)| *pending == id)
    }
}

#[track_caller]
pub fn fields_of(list: &Value) -> Fields {
    let pair = |pair: &[Value]| (pair[0].bytes().to_vec(), pair[1].bytes().to_vec());
    list.items().chunks_exact(2).map(pair).collect()
}

#[track_caller]
pub fn entries_of(range: &Value) -> Vec<(Id, Fields)> {
    let entry = |entry: &Value| match entry.items() {
        [id, fields] => (Id::parse(id.bytes()), fields_of(fields)),
        _ => panic!("no entry: {entry:?}"),
    };
    range.items().iter().map(entry).collect()
}

/// The words of a member of the delayed tasks.
#[derive(Debug)]
pub struct Member<'a> {
    pub id: Id,
    pub original: Option<Id>,
    pub priority: i64,
    pub retry_count: i64,
    /// Whether the payload is a list of all fields: a plus sign follows the retry count.
    pub has_more: bool,
    /// Percent-encoded.
    pub group: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Member<'a> {
    #[track_caller]
    pub fn parse(member: &'a [u8]) -> Self {
        let words: Vec<_> = member.splitn(5, |byte| *byte == b' ').collect();
        let [ids, priority, retry_count, group, payload] = words[..] else {
            panic!("not five words: {}", member.escape_ascii());
        };
        let mut ids = ids.split(|byte| *byte == b':').map(Id::parse);
        let (retry_count, has_more) = match retry_count.strip_suffix(b"+") {
            Some(retry_count) => (retry_count, true),
            None => (retry_count, false),
        };
        Self {
            id: ids.next().expect("one at least"),
            original: ids.next(),
            priority: number(priority),
            retry_count: number(retry_count),
            has_more,
            group,
            payload,
        }
    }

    /// Checks that this stores a task.
    #[track_caller]
    pub fn assert_stores(&self, task: &Task) {
        assert!(self.id.is_delayed(), "{self:?}");
        assert_eq!(self.original.unwrap_or(self.id), task.original, "{self:?}");
        assert_eq!(self.original.is_some(), task.is_copy, "{self:?}");
        assert_eq!(self.priority, i64::from(task.priority), "{self:?}");
        assert_eq!(self.retry_count, task.retry_count, "{self:?}");
        assert_eq!(self.group(), task.group, "{self:?}");
        let further = task.further();
        assert_eq!(self.has_more, !further.is_empty(), "{self:?}");
        let payload = if further.is_empty() {
            task.payload.clone()
        } else {
            let fields = [("payload", task.payload.clone())].into_iter().chain(further);
            let parts = fields.flat_map(|(name, value)| [name.into(), value]);
            let encode = |part: Vec<u8>| [format!("{}:", part.len()).as_bytes(), &part].concat();
            parts.flat_map(encode).collect()
        };
        assert_eq!(self.payload, payload, "{self:?}");
    }

    #[track_caller]
    pub fn group(&self) -> Option<Group> {
        match self.group {
            b"-" => None,
            b"A" => Some(Group::A),
            other => {
                // Spaces and percent signs must be encoded; more may be.
                let text = String::from_utf8_lossy(other);
                let text = text.replace("%20", " ").replace("%25", "%");
                let text = text.replace("%2D", "-").replace("%2d", "-");
                assert_eq!(text, Group::B.name());
                Some(Group::B)
            }
        }
    }
}

/// A delivered task.
#[derive(Debug)]
pub struct Given {
    pub id: Id,
    pub fields: Fields,
    /// The length of its last lease, and the number of deliveries.
    pub meta: Option<(i64, i64)>,
}

impl Given {
    #[track_caller]
    pub fn read(reply: &Value, meta: bool) -> Vec<Self> {
        assert!(!reply.is_error(), "TASK.CONSUME: {reply:?}");
        let tasks = if meta { reply.items() } else { reply.tasks() };
        let given = |task: &Value| match task.items() {
            [id, fields, more @ ..] => {
                let meta = match more {
                    [idle, deliveries] if meta => Some((idle.as_int(), deliveries.as_int())),
                    [] if !meta => None,
                    _ => panic!("TASK.CONSUME: {reply:?}"),
                };
                Self { id: Id::parse(id.bytes()), fields: fields_of(fields), meta }
            }
            _ => panic!("TASK.CONSUME: {reply:?}"),
        };
        tasks.iter().map(given).collect()
    }

    #[track_caller]
    pub fn assert_meta(&self, idle: std::ops::RangeInclusive<i64>, deliveries: i64) {
        if let Some((found, count)) = self.meta {
            assert!(idle.contains(&found), "idle for {found}, not {idle:?}");
            assert_eq!(count, deliveries);
        }
    }
}

/// The counters of `INFO corral`.
pub const COUNTERS: [&str; 13] = [
    "published",
    "delivered",
    "acked",
    "requeued",
    "dead_lettered",
    "expired",
    "reclaimed",
    "delayed",
    "promoted",
    "deduplicated",
    "refused",
    "cancelled",
    "redriven",
];

pub type Counts = BTreeMap<&'static str, i64>;

pub fn counts(client: &mut Client) -> Counts {
    let count = |name: &&'static str| {
        let count = client.info("corral", &format!("corral_task_{name}"));
        (*name, number(count.unwrap_or_else(|| panic!("no total of {name}")).as_bytes()))
    };
    COUNTERS.iter().map(count).collect()
}
