//! The queue against a model of it: random steps are done on a real server and, side by side, on
//! plain lists in memory. After every step the server's keys, as any plain client reads them, and
//! `TASK.INFO` must say what the lists say: each task in exactly one state, the order kept, every
//! copy with the id that PUBLISH replied.
//!
//! The steps are others in every run. A failure prints the seed: `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` with the numbers that it prints repeat the run, a larger `PROPTEST_CASES` makes
//! it longer.

mod support;
use support::*;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Display, Formatter};
use std::time::Duration;

const QUEUE: &str = "tasks";

/// The priorities that are used: the default, the highest, and one between.
const PRIORITIES: [u8; 3] = [0, 3, 9];

/// As good as for ever, in ms.
const FAR: i64 = 3_600_000;

/// How many tasks that are due enter the streams with one call, at least.
const PROMOTED: usize = 16;

/// How many sequence numbers of ids a priority has.
const CLASS: u64 = 100_000_000_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    A,
    B,
}

impl Group {
    /// The second name must be encoded where it stands among other words.
    fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B %20-",
        }
    }
}

/// An id of a task, in the order in which entries are added to a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    ms: u64,
    seq: u64,
}

impl Id {
    #[track_caller]
    fn parse(text: &[u8]) -> Self {
        let parse = || {
            let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
            Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
        };
        parse().unwrap_or_else(|| panic!("no id: {}", text.escape_ascii()))
    }

    /// The priority of the stream to which it points.
    fn priority(self) -> u8 {
        u8::try_from(self.seq / CLASS).expect("the sequence of a task of a priority")
    }

    fn is_delayed(self) -> bool {
        self.seq >= 10 * CLASS
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

/// From when to when a command was under way, in unix ms.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: i64,
    to: i64,
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What every copy of a task carries.
#[derive(Clone, Debug)]
struct Task {
    /// What PUBLISH replied.
    original: Id,
    payload: Vec<u8>,
    priority: u8,
    retry_count: i64,
    /// The only group that is to have it; none if all are.
    group: Option<Group>,
    /// Whether it is not the entry any more that PUBLISH added.
    is_copy: bool,
    /// Added by a plain client, with a field more and without those that PUBLISH adds.
    is_foreign: bool,
}

impl Task {
    fn is_for(&self, group: Group) -> bool {
        self.group.is_none_or(|own| own == group)
    }

    /// The fields of its entry in a stream, without the time; a dead letter has some more.
    fn fields(&self) -> Fields {
        let mut fields = vec![("payload", self.payload.clone())];
        if self.is_copy || !self.is_foreign {
            fields.push(("retry_count", self.retry_count.to_string().into()));
        }
        if self.is_copy {
            fields.push(("original_id", self.original.to_string().into()));
        }
        if let Some(group) = self.group {
            fields.push(("group", group.name().into()));
        }
        if self.is_foreign {
            fields.push(("colour", "red".into()));
        }
        fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    /// Sees that these are its fields, added in this span, and behind them those of a dead letter.
    #[track_caller]
    fn assert_fields(&self, found: &Fields, added: Span, letter: Fields) {
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
            // Where fields of others stand among ours is nobody's business.
            expected.sort();
            found.sort();
        }
        assert_eq!(texts(&found), texts(&expected), "the fields of {self:?}");
    }
}

fn texts(fields: &Fields) -> Vec<String> {
    let text = |(name, value): &(Vec<u8>, Vec<u8>)| {
        format!("{}={}", name.escape_ascii(), value.escape_ascii())
    };
    fields.iter().map(text).collect()
}

fn value_of<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    let found = fields.iter().find(|(found, _)| found == name.as_bytes());
    found.map(|(_, value)| value.as_slice())
}

#[track_caller]
fn number(text: &[u8]) -> i64 {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("no number: {}", text.escape_ascii()))
}

/// How far a group is with an entry.
#[derive(Clone, Debug)]
enum State {
    Ready,
    Leased(Lease),
    Done,
}

#[derive(Clone, Debug)]
struct Lease {
    consumer: u8,
    deliveries: i64,
    /// When it began.
    began: Span,
    /// A plain client has moved it: the server's module need not know when it began.
    is_claimed: bool,
}

/// An entry of one of the streams.
#[derive(Clone, Debug)]
struct Entry {
    task: Task,
    fields: Fields,
    states: BTreeMap<Group, State>,
}

impl Entry {
    fn lease(&self, group: Group) -> Option<&Lease> {
        match self.states.get(&group) {
            Some(State::Leased(lease)) => Some(lease),
            _ => None,
        }
    }

    fn is_ready(&self, group: Group) -> bool {
        matches!(self.states.get(&group), Some(State::Ready))
    }

    fn is_done(&self, group: Group) -> bool {
        matches!(self.states.get(&group), Some(State::Done))
    }

    fn is_done_by_all(&self) -> bool {
        self.states.values().all(|state| matches!(state, State::Done))
    }
}

/// A task that is not due.
#[derive(Clone, Debug)]
struct Delayed {
    id: Id,
    due: i64,
    member: Vec<u8>,
    task: Task,
    /// A plain client has made it due: it is not where its id says.
    is_moved: bool,
}

/// A dead letter.
#[derive(Clone, Debug)]
struct Letter {
    task: Task,
    /// Reason and deliveries, which RETRY does not tell.
    cause: Option<(Vec<u8>, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    lease: i64,
    tries: i64,
    backoff: (i64, i64),
    limit: i64,
    keep: bool,
    paused: bool,
}

/// All that there is, as plain clients read it, and what INFO says of it.
struct Snapshot {
    at: Span,
    streams: BTreeMap<u8, Vec<(Id, Fields)>>,
    /// By priority and group, if the stream of that priority has the group.
    groups: BTreeMap<(u8, Group), Seen>,
    /// Members and their scores.
    delayed: Vec<(Vec<u8>, i64)>,
    dead: Vec<(Id, Fields)>,
    info: Value,
    keys: BTreeSet<Vec<u8>>,
}

/// How far a group is with a stream.
struct Seen {
    last: Id,
    /// Id, consumer, deliveries.
    pending: Vec<(Id, Vec<u8>, i64)>,
}

impl Seen {
    fn is_pending(&self, id: Id) -> bool {
        self.pending.iter().any(|(pending, ..)| *pending == id)
    }
}

fn stream_key(priority: u8) -> String {
    if priority == 0 { QUEUE.into() } else { format!("priority{priority}:{{{QUEUE}}}") }
}

fn key(prefix: &str) -> String {
    format!("{prefix}:{{{QUEUE}}}")
}

fn unique_key(id: u8) -> String {
    format!("unique{}:{{{QUEUE}}}:order {id}", QUEUE.len())
}

fn consumer_name(consumer: u8) -> String {
    format!("worker {consumer}")
}

#[track_caller]
fn fields_of(list: &Value) -> Fields {
    let pair = |pair: &[Value]| (pair[0].bytes().to_vec(), pair[1].bytes().to_vec());
    list.items().chunks_exact(2).map(pair).collect()
}

#[track_caller]
fn entries_of(range: &Value) -> Vec<(Id, Fields)> {
    let entry = |entry: &Value| match entry.items() {
        [id, fields] => (Id::parse(id.bytes()), fields_of(fields)),
        _ => panic!("no entry: {entry:?}"),
    };
    range.items().iter().map(entry).collect()
}

impl Snapshot {
    #[track_caller]
    fn take(client: &mut Client) -> Self {
        let from = now_ms();
        // Group names have blanks in them, which a pipeline of lines has not.
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
        let info = client.read();
        assert!(!info.is_error(), "TASK.INFO: {info:?}");
        let keys = client.read();
        let keys = keys.items().iter().map(|key| key.bytes().to_vec()).collect();
        Self { at: Span { from, to: now_ms() }, streams, groups, delayed, dead, info, keys }
    }

    fn has_entry(&self, id: Id) -> bool {
        self.streams[&id.priority()].iter().any(|(found, _)| *found == id)
    }

    fn has_delayed(&self, member: &[u8]) -> bool {
        self.delayed.iter().any(|(found, _)| found == member)
    }

    fn is_leased(&self, id: Id, group: Group) -> bool {
        self.groups.get(&(id.priority(), group)).is_some_and(|seen| seen.is_pending(id))
    }
}

/// The words of a member of the delayed tasks.
#[derive(Debug)]
struct Member<'a> {
    id: Id,
    original: Option<Id>,
    priority: i64,
    retry_count: i64,
    /// Whether all fields stand in the place of the payload: a plus sign behind the retry count.
    has_more: bool,
    /// Percent-encoded.
    group: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Member<'a> {
    #[track_caller]
    fn parse(member: &'a [u8]) -> Self {
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

    #[track_caller]
    fn group(&self) -> Option<Group> {
        match self.group {
            b"-" => None,
            b"A" => Some(Group::A),
            other => {
                // Whatever else is encoded: blanks and percent signs must be.
                let text = String::from_utf8_lossy(other);
                let text = text.replace("%20", " ").replace("%25", "%");
                let text = text.replace("%2D", "-").replace("%2d", "-");
                assert_eq!(text, Group::B.name());
                Some(Group::B)
            }
        }
    }
}

/// What is counted in `INFO corral`.
const COUNTERS: [&str; 12] = [
    "published",
    "delivered",
    "acked",
    "requeued",
    "dead_lettered",
    "reclaimed",
    "delayed",
    "promoted",
    "deduplicated",
    "refused",
    "cancelled",
    "redriven",
];

type Counts = BTreeMap<&'static str, i64>;

fn counts(client: &mut Client) -> Counts {
    let count = |name: &&'static str| {
        let count = client.info("corral", &format!("corral_task_{name}"));
        (*name, number(count.unwrap_or_else(|| panic!("no total of {name}")).as_bytes()))
    };
    COUNTERS.iter().map(count).collect()
}

/// When a task is published to be done.
#[derive(Clone, Copy, Debug)]
enum When {
    Now,
    /// `DELAY 0`
    DelayNothing,
    /// `DELAY` of some ms.
    Soon(u8),
    DelayFar,
    AtPast,
    AtFar,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Silent,
    Fail,
    Fatal,
}

/// Which of many: the number modulo their count.
type Pick = u8;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        priority: usize,
        retry_count: Option<u8>,
        when: When,
        unique: Option<u8>,
    },
    /// A plain XADD.
    Add,
    Consume {
        group: Group,
        consumer: u8,
        count: Option<u8>,
        named: bool,
        meta: bool,
    },
    /// A consumer waits, and a task is published, or becomes due.
    Wait {
        group: Group,
        consumer: u8,
        priority: usize,
        is_delayed: bool,
    },
    Ack {
        group: Group,
        leased: Vec<Pick>,
        any: Option<Pick>,
    },
    Extend {
        group: Group,
        which: Pick,
        stranger: bool,
    },
    Nack {
        group: Group,
        which: Pick,
        stranger: bool,
        outcome: Outcome,
        delay: Option<bool>,
        reason: bool,
    },
    Retry {
        group: Group,
        which: Pick,
        retry_count: u8,
    },
    Cancel {
        which: Vec<Pick>,
    },
    Redrive {
        count: Option<u8>,
    },
    Tries(u8),
    Keep(bool),
    Paused(bool),
    Limit(u8),
    Backoff(bool),
    /// A plain client makes a delayed task due.
    MakeDue {
        which: Pick,
    },
    /// All leases of a group are over when this consumer comes.
    Expire {
        group: Group,
        consumer: u8,
        count: u8,
        meta: bool,
    },
    /// A plain client ends the window of a unique id.
    Forget {
        unique: u8,
    },
    /// A plain client's XCLAIM: another consumer has the lease, and has been given it so often.
    Claim {
        group: Group,
        which: Pick,
        consumer: u8,
        deliveries: u8,
    },
    /// A plain client's XACK, which leaves the entry where it is.
    PlainAck {
        group: Group,
        which: Pick,
    },
    /// The server is killed, and starts again.
    Crash,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => Just(When::Now),
        1 => Just(When::DelayNothing),
        2 => (0..6_u8).prop_map(When::Soon),
        2 => Just(When::DelayFar),
        1 => Just(When::AtPast),
        1 => Just(When::AtFar),
    ]
}

/// How the groups come to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Groups {
    One,
    /// Both are there from the start.
    Two,
    /// The second one comes when it is needed.
    SecondLater,
}

fn group(groups: Groups) -> impl Strategy<Value = Group> + Clone {
    match groups {
        Groups::One => prop::sample::select(&[Group::A][..]),
        Groups::Two | Groups::SecondLater => prop::sample::select(&[Group::A, Group::B][..]),
    }
}

fn step(groups: Groups, crashes: bool) -> impl Strategy<Value = Step> {
    let group = group(groups);
    let priority = 0..PRIORITIES.len();
    let unique = 0..3_u8;
    let publish = (
        priority.clone(),
        prop::option::weighted(0.2, 0..4_u8),
        when(),
        prop::option::weighted(0.3, unique.clone()),
    );
    let consume = (group.clone(), 0..3_u8, prop::option::of(1..6_u8), any::<bool>(), any::<bool>());
    let nack = (
        (group.clone(), any::<Pick>(), prop::bool::weighted(0.1)),
        prop::sample::select(&[Outcome::Silent, Outcome::Fail, Outcome::Fatal][..]),
        prop::option::weighted(0.4, any::<bool>()),
        any::<bool>(),
    );
    let picks = prop::collection::vec(any::<Pick>(), 1..4);
    prop_oneof![
        24 => publish.prop_map(|(priority, retry_count, when, unique)| {
            Step::Publish { priority, retry_count, when, unique }
        }),
        2 => Just(Step::Add),
        16 => consume.prop_map(|(group, consumer, count, named, meta)| {
            Step::Consume { group, consumer, count, named, meta }
        }),
        2 => (group.clone(), 0..3_u8, priority, any::<bool>()).prop_map(
            |(group, consumer, priority, is_delayed)| {
                Step::Wait { group, consumer, priority, is_delayed }
            }
        ),
        8 => (group.clone(), picks.clone(), prop::option::weighted(0.3, any::<Pick>()))
            .prop_map(|(group, leased, any)| Step::Ack { group, leased, any }),
        3 => (group.clone(), any::<Pick>(), prop::bool::weighted(0.3))
            .prop_map(|(group, which, stranger)| Step::Extend { group, which, stranger }),
        12 => nack.prop_map(|((group, which, stranger), outcome, delay, reason)| {
            Step::Nack { group, which, stranger, outcome, delay, reason }
        }),
        4 => (group.clone(), any::<Pick>(), 0..4_u8).prop_map(|(group, which, retry_count)| {
            Step::Retry { group, which, retry_count }
        }),
        4 => picks.prop_map(|which| Step::Cancel { which }),
        4 => prop::option::of(1..4_u8).prop_map(|count| Step::Redrive { count }),
        2 => (0..6_u8).prop_map(Step::Tries),
        2 => prop::bool::weighted(0.4).prop_map(Step::Keep),
        3 => prop::bool::weighted(0.25).prop_map(Step::Paused),
        2 => prop::sample::select(&[0, 0, 6, 10, 14][..]).prop_map(Step::Limit),
        2 => any::<bool>().prop_map(Step::Backoff),
        6 => any::<Pick>().prop_map(|which| Step::MakeDue { which }),
        2 => (group.clone(), any::<Pick>(), 0..3_u8, 1..6_u8).prop_map(
            |(group, which, consumer, deliveries)| {
                Step::Claim { group, which, consumer, deliveries }
            }
        ),
        1 => (group.clone(), any::<Pick>())
            .prop_map(|(group, which)| Step::PlainAck { group, which }),
        8 => (group, 0..3_u8, 1..6_u8, any::<bool>()).prop_map(|(group, consumer, count, meta)| {
            Step::Expire { group, consumer, count, meta }
        }),
        1 => unique.prop_map(|unique| Step::Forget { unique }),
        1 => Just(if crashes { Step::Crash } else { Step::Add }),
    ]
}

/// The model, and the server beside it.
struct World<'a> {
    server: &'a RefCell<Server>,
    client: Client,
    with: Groups,
    /// When the last command was over: the next one comes in a later millisecond, so that leases
    /// are of different ages.
    clock: i64,
    groups: Vec<Group>,
    entries: BTreeMap<Id, Entry>,
    delayed: Vec<Delayed>,
    dead: BTreeMap<Id, Letter>,
    policy: Policy,
    unique: BTreeMap<u8, Id>,
    payloads: usize,
    /// The ids of all that were published.
    published: Vec<Id>,
    /// What a group has done, and what was cancelled before a group had done it.
    ended: BTreeSet<(Id, Group)>,
    /// What was counted before, and what has to be counted since.
    counted: Counts,
    counts: Counts,
    /// All that was done, and how often the server was killed.
    totals: Counts,
    crashes: usize,
}

impl<'a> World<'a> {
    #[track_caller]
    fn new(server: &'a RefCell<Server>, with: Groups) -> Self {
        let port = server.borrow().port();
        // One that crashed must not make every later run fail.
        let mut client = Client::try_connect(port).unwrap_or_else(|_| {
            let mut server = server.borrow_mut();
            server.kill9();
            server.restart();
            server.client()
        });
        assert_eq!(client.run("FLUSHALL"), ok());
        let counted = counts(&mut client);
        let mut world = Self {
            server,
            client,
            with,
            clock: 0,
            groups: Vec::new(),
            entries: BTreeMap::new(),
            delayed: Vec::new(),
            dead: BTreeMap::new(),
            policy: Policy {
                lease: 300_000,
                tries: 20,
                backoff: (1_000, 600_000),
                limit: 0,
                keep: false,
                paused: false,
            },
            unique: BTreeMap::new(),
            payloads: 0,
            published: Vec::new(),
            ended: BTreeSet::new(),
            counted,
            counts: COUNTERS.iter().map(|name| (*name, 0)).collect(),
            totals: Counts::new(),
            crashes: 0,
        };
        world.consume(Group::A, 0, Some(1), false, false);
        if with == Groups::Two {
            world.consume(Group::B, 0, Some(1), true, false);
        }
        // Requeued tasks shall come back by a plain client's hand, not by chance.
        world.backoff(true);
        world
    }

    /// Asks in a new millisecond.
    #[track_caller]
    fn ask(&mut self, args: &[Vec<u8>]) -> (Value, Span) {
        while now_ms() <= self.clock {
            std::thread::sleep(Duration::from_micros(100));
        }
        let from = now_ms();
        let reply = self.client.cmd(args);
        let to = now_ms();
        self.clock = to;
        (reply, Span { from, to })
    }

    fn count(&mut self, name: &'static str, more: usize) {
        let more = i64::try_from(more).expect("not many");
        *self.counts.get_mut(name).expect("a counter") += more;
        *self.totals.entry(name).or_default() += more;
    }

    #[track_caller]
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { priority, retry_count, when, unique } => {
                self.publish(PRIORITIES[priority], retry_count, when, unique);
            }
            Step::Add => self.add(),
            Step::Consume { group, consumer, count, named, meta } => {
                self.consume(group, consumer, count, named, meta);
            }
            Step::Wait { group, consumer, priority, is_delayed } => {
                self.wait(group, consumer, PRIORITIES[priority], is_delayed);
            }
            Step::Ack { group, ref leased, any } => self.ack(group, leased, any),
            Step::Extend { group, which, stranger } => self.extend(group, which, stranger),
            Step::Nack { group, which, stranger, outcome, delay, reason } => {
                self.nack(group, which, stranger, outcome, delay, reason);
            }
            Step::Retry { group, which, retry_count } => self.retry(group, which, retry_count),
            Step::Cancel { ref which } => self.cancel(which),
            Step::Redrive { count } => self.redrive(count),
            Step::Tries(tries) => {
                self.policy.tries = tries.into();
                self.set_policy(&args!["TRIES", u64::from(tries)]);
            }
            Step::Keep(keep) => self.keep(keep),
            Step::Paused(paused) => {
                self.policy.paused = paused;
                self.set_policy(&args!["PAUSED", i32::from(paused)]);
            }
            Step::Limit(limit) => self.limit(limit),
            Step::Backoff(far) => self.backoff(far),
            Step::MakeDue { which } => self.make_due(which),
            Step::Expire { group, consumer, count, meta } => {
                self.expire(group, consumer, count, meta);
            }
            Step::Forget { unique } => {
                let known = self.unique.remove(&unique).is_some();
                let (reply, _) = self.ask(&args!["DEL", unique_key(unique)]);
                assert_eq!(reply, int(known.into()));
            }
            Step::Claim { group, which, consumer, deliveries } => {
                self.claim(group, which, consumer, deliveries);
            }
            Step::PlainAck { group, which } => self.plain_ack(group, which),
            Step::Crash => self.crash(),
        }
    }

    /// Whether the policy allows no more tasks.
    fn is_full(&self) -> bool {
        let length = self.entries.len() + self.delayed.len();
        self.policy.limit > 0 && i64::try_from(length).expect("not many") >= self.policy.limit
    }

    #[track_caller]
    fn publish(&mut self, priority: u8, retry_count: Option<u8>, when: When, unique: Option<u8>) {
        let payload = self.payload();
        let mut args = args!["TASK.PUBLISH", QUEUE, payload].to_vec();
        if let Some(count) = retry_count {
            args.push(count.to_string().into());
        }
        if priority > 0 || self.payloads.is_multiple_of(2) {
            args.extend(args!["priority", u64::from(priority)]);
        }
        let now = now_ms();
        match when {
            When::Now => {}
            When::DelayNothing => args.extend(args!["DELAY", 0]),
            When::Soon(ms) => args.extend(args!["DELAY", u64::from(ms)]),
            When::DelayFar => args.extend(args!["DELAY", FAR]),
            When::AtPast => args.extend(args!["AT", now - 1000]),
            When::AtFar => args.extend(args!["AT", now + FAR]),
        }
        if let Some(unique) = unique {
            args.extend(args!["Unique", format!("order {unique}"), FAR]);
        }
        let (reply, span) = self.ask(&args);

        if let Some(known) = unique.and_then(|unique| self.unique.get(&unique)) {
            assert_eq!(reply, bulk(known.to_string()), "the first task of this id");
            return self.count("deduplicated", 1);
        }
        if self.is_full() {
            assert!(reply.is_error_with("TASKFULL "), "{reply:?}");
            return self.count("refused", 1);
        }
        let original = Id::parse(reply.bytes());
        let task = Task {
            original,
            payload,
            priority,
            retry_count: retry_count.unwrap_or(0).into(),
            group: None,
            is_copy: false,
            is_foreign: false,
        };
        self.published.push(original);
        self.count("published", 1);
        if let Some(unique) = unique {
            self.unique.insert(unique, original);
        }
        let snapshot = self.look();
        match when {
            When::Soon(1..) | When::DelayFar | When::AtFar => {
                let due = match when {
                    When::AtFar => now + FAR..=now + FAR,
                    When::Soon(ms) => span.from + i64::from(ms)..=span.to + i64::from(ms),
                    _ => span.from + FAR..=span.to + FAR,
                };
                self.count("delayed", 1);
                self.arrive_delayed(&snapshot, task, due);
            }
            _ => {
                assert_eq!(original.priority(), priority, "{original}");
                self.arrive(&snapshot, vec![task], span);
            }
        }
    }

    /// A payload of its own for each task; some are hostile.
    fn payload(&mut self) -> Vec<u8> {
        let ends: [&[u8]; 5] = [b"", b" of several words", b"\0\r\n\xff", b": 1-1 - %20", b" "];
        self.payloads += 1;
        let mut payload = self.payloads.to_string().into_bytes();
        payload.extend_from_slice(ends[self.payloads % ends.len()]);
        payload
    }

    #[track_caller]
    fn add(&mut self) {
        let payload = self.payload();
        let (reply, span) =
            self.ask(&args!["XADD", QUEUE, "*", "colour", "red", "payload", payload]);
        let original = Id::parse(reply.bytes());
        let task = Task {
            original,
            payload,
            priority: 0,
            retry_count: 0,
            group: None,
            is_copy: false,
            is_foreign: true,
        };
        self.published.push(original);
        let snapshot = self.look();
        self.arrive(&snapshot, vec![task], span);
    }

    #[track_caller]
    fn look(&mut self) -> Snapshot {
        Snapshot::take(&mut self.client)
    }

    /// These tasks have come to the tails of the streams of their priorities, in this order, and
    /// nothing else has come.
    #[track_caller]
    fn arrive(&mut self, snapshot: &Snapshot, tasks: Vec<Task>, span: Span) {
        for (priority, stream) in &snapshot.streams {
            let known = |id| self.entries.contains_key(id);
            let mut new = stream.iter().filter(|(id, _)| !known(id)).cloned().collect::<Vec<_>>();
            let expected: Vec<_> = tasks.iter().filter(|task| task.priority == *priority).collect();
            assert_eq!(new.len(), expected.len(), "new: {new:?}\nexpected: {expected:?}");
            let last = self.entries.keys().rfind(|id| id.priority() == *priority).copied();
            for ((id, fields), task) in new.drain(..).zip(expected) {
                assert!(last.is_none_or(|last| last < id), "{id} is not at the tail");
                assert_eq!(id.priority(), *priority, "{id} in the stream of another priority");
                task.assert_fields(&fields, span, Vec::new());
                let states = self.groups.iter().map(|group| (*group, State::Ready)).collect();
                self.entries.insert(id, Entry { task: task.clone(), fields, states });
            }
        }
    }

    /// This task has come to the delayed ones, and nothing else has.
    #[track_caller]
    fn arrive_delayed(
        &mut self,
        snapshot: &Snapshot,
        task: Task,
        due_in: std::ops::RangeInclusive<i64>,
    ) {
        let new = self.new_delayed(snapshot);
        let [(member, due)] = &new[..] else { panic!("not one delayed: {new:?}") };
        let found = Member::parse(member);
        assert!(due_in.contains(due), "due at {due}, not in {due_in:?}");
        assert!(found.id.is_delayed(), "{found:?}");
        assert_eq!(i64::try_from(found.id.ms).ok(), Some(*due), "{found:?}");
        let original = found.original.unwrap_or(found.id);
        assert_eq!(original, task.original, "{found:?}");
        assert_eq!(found.original.is_some(), task.is_copy, "{found:?}");
        assert_eq!(found.priority, i64::from(task.priority), "{found:?}");
        assert_eq!(found.retry_count, task.retry_count, "{found:?}");
        assert_eq!(found.group(), task.group, "{found:?}");
        assert_eq!(found.has_more, task.is_foreign, "{found:?}");
        let payload = if task.is_foreign {
            let length = task.payload.len();
            [format!("7:payload{length}:").as_bytes(), &task.payload, b"6:colour3:red"].concat()
        } else {
            task.payload.clone()
        };
        assert_eq!(found.payload, payload, "{found:?}");
        let (id, due, member) = (found.id, *due, member.clone());
        assert!(self.delayed.iter().all(|other| other.id != id), "one id for two");
        let task = Task { is_copy: true, ..task };
        self.delayed.push(Delayed { id, due, member, task, is_moved: false });
        self.arrive(snapshot, Vec::new(), snapshot.at);
    }

    fn new_delayed(&self, snapshot: &Snapshot) -> Vec<(Vec<u8>, i64)> {
        let known = |member: &[u8]| self.delayed.iter().any(|delayed| delayed.member == member);
        let new = snapshot.delayed.iter().filter(|(member, _)| !known(member));
        new.cloned().collect()
    }

    /// These have become dead letters, in this order, and nothing else has.
    #[track_caller]
    fn die(&mut self, snapshot: &Snapshot, letters: Vec<Letter>, span: Span) {
        let new = snapshot.dead.iter().filter(|(id, _)| !self.dead.contains_key(id));
        let new: Vec<_> = new.cloned().collect();
        assert_eq!(new.len(), letters.len(), "new: {new:?}\nexpected: {letters:?}");
        self.count("dead_lettered", letters.len());
        for ((id, fields), letter) in new.into_iter().zip(letters) {
            let mut more = Fields::new();
            if let Some((reason, deliveries)) = &letter.cause {
                more.push(("reason".into(), reason.clone()));
                more.push(("deliveries".into(), deliveries.to_string().into()));
                if letter.task.priority > 0 {
                    more.push(("priority".into(), letter.task.priority.to_string().into()));
                }
            }
            letter.task.assert_fields(&fields, span, more);
            self.dead.insert(id, letter);
        }
    }

    /// A group is done with an entry, which goes if all are.
    #[track_caller]
    fn finish(&mut self, snapshot: &Snapshot, id: Id, group: Group) {
        let entry = self.entries.get_mut(&id).expect("an entry");
        entry.states.insert(group, State::Done);
        // Nothing says whether what was acknowledged because a copy took its place is kept, too.
        if entry.is_done_by_all() && !(self.policy.keep && snapshot.has_entry(id)) {
            self.entries.remove(&id);
        }
    }

    /// What is a copy now, for the group that had it.
    fn copy_for(&self, task: &Task, group: Group, retry_count: i64) -> Task {
        let group = if self.groups.len() > 1 { Some(group) } else { task.group };
        Task { group, retry_count, is_copy: true, ..task.clone() }
    }

    #[track_caller]
    fn consume(&mut self, group: Group, consumer: u8, count: Option<u8>, named: bool, meta: bool) {
        let mut args = args!["TASK.CONSUME", group.name(), consumer_name(consumer), QUEUE].to_vec();
        if meta && named {
            args.extend(args!["meta"]);
        }
        match count {
            Some(count) if named => args.extend(args!["Count", u64::from(count)]),
            Some(count) => args.extend(args![u64::from(count)]),
            None => {}
        }
        if meta && !named {
            args.extend(args!["META"]);
        }
        let (reply, span) = self.ask(&args);
        self.consumed(group, consumer, count.unwrap_or(1).into(), false, &reply, meta, span);
    }

    /// A CONSUME was answered; `all_expired`: the group's leases were all over.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "all that there is to know of one command")]
    fn consumed(
        &mut self,
        group: Group,
        consumer: u8,
        count: usize,
        all_expired: bool,
        reply: &Value,
        meta: bool,
        span: Span,
    ) {
        let given = Given::read(reply, meta);
        let snapshot = self.look();
        if !self.groups.contains(&group) {
            self.groups.push(group);
            for entry in self.entries.values_mut() {
                entry.states.insert(group, State::Ready);
            }
        }
        if self.policy.paused {
            assert_eq!(given.len(), 0, "{given:?}");
            return;
        }
        self.promote(&snapshot, span);
        let expired = if all_expired { self.leased(group) } else { Vec::new() };
        let reclaimed = self.reclaim(&snapshot, group, consumer, &expired, count, &given, span);
        self.deliver_new(&snapshot, group, consumer, count - reclaimed, &given[reclaimed..], span);
        self.count("delivered", given.len());
        self.count("reclaimed", reclaimed);
    }

    /// What was due has entered the streams, by its time.
    #[track_caller]
    fn promote(&mut self, snapshot: &Snapshot, span: Span) {
        let mut due = Vec::new();
        self.delayed.sort_by(|a, b| (a.due, &a.member).cmp(&(b.due, &b.member)));
        for delayed in std::mem::take(&mut self.delayed) {
            let is_left = snapshot.has_delayed(&delayed.member);
            let must = delayed.due < span.from && due.len() < PROMOTED;
            let may = delayed.due <= span.to && self.delayed.is_empty();
            assert!(!must || !is_left, "due, and not promoted: {delayed:?}");
            assert!(may || is_left, "promoted before its time, or its turn: {delayed:?}");
            if is_left { self.delayed.push(delayed) } else { due.push(delayed.task) }
        }
        self.count("promoted", due.len());
        self.arrive(snapshot, due, span);
    }

    /// Entries that a group has leased, by the age of the lease.
    fn leased(&self, group: Group) -> Vec<Id> {
        let leased = self.entries.iter().filter_map(|(id, entry)| {
            let lease = entry.lease(group)?;
            Some((lease.began.from, *id))
        });
        let mut leased: Vec<_> = leased.collect();
        leased.sort_unstable();
        leased.into_iter().map(|(_, id)| id).collect()
    }

    /// Leases that were over begin anew, the oldest first, or their tasks are dead. How many tasks
    /// were given out so.
    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "all that there is to know of one command")]
    fn reclaim(
        &mut self,
        snapshot: &Snapshot,
        group: Group,
        consumer: u8,
        expired: &[Id],
        count: usize,
        given: &[Given],
        span: Span,
    ) -> usize {
        let lease = |world: &Self, id: &Id| world.entries[id].lease(group).expect("leased").clone();
        let tried = |world: &Self, id: &Id| {
            world.entries[id].task.retry_count + lease(world, id).deliveries
        };
        let tries = self.policy.tries;
        let is_over = |world: &Self, id: &Id| tries > 0 && tried(world, id) >= tries;
        let (over, live): (Vec<Id>, Vec<Id>) = expired.iter().partition(|id| is_over(self, id));
        let reclaimed = live.len().min(count);
        assert!(given.len() >= reclaimed, "{given:?} of {live:?}");
        // Where one was moved by a plain client, nobody knows the order.
        let is_ordered = !expired.iter().any(|id| lease(self, id).is_claimed);
        let age = |world: &Self, id: &Id| {
            if is_ordered { lease(world, id).began.from } else { 0 }
        };
        let found: Vec<_> = given[..reclaimed].iter().map(|given| given.id).collect();
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), reclaimed, "one twice: {found:?}");
        for (found, oldest) in found.iter().zip(&live) {
            assert!(live.contains(found), "{found} was given out of turn: {live:?}");
            // Leases that began with one command are as old as each other.
            assert_eq!(age(self, found), age(self, oldest), "not the oldest first: {found}");
        }
        // A call that has all it wants need not bury what is younger.
        let youngest = found.last().filter(|_| reclaimed == count).map(|id| age(self, id));
        let mut buried = Vec::new();
        for id in over {
            let must = youngest.is_none_or(|youngest| age(self, &id) < youngest);
            let is_left = snapshot.is_leased(id, group);
            assert!(!(must && is_left), "{id} was tried often enough");
            if !is_left {
                buried.push(id);
            }
        }
        let letter = |world: &Self, id: &Id| {
            let cause = Some((b"lease expired".to_vec(), lease(world, id).deliveries));
            let task = &world.entries[id].task;
            Letter { task: world.copy_for(task, group, tried(world, id)), cause }
        };
        // Of one age in any order: it is read off the letters.
        let originals: Vec<_> = snapshot.dead.iter().map(|(_, fields)| original(fields)).collect();
        let place = |world: &Self, id: &Id| {
            let task = &world.entries[id].task;
            let text = task.original.to_string().into_bytes();
            originals.iter().rposition(|found| *found == Some(&text[..]))
        };
        buried.sort_by_key(|id| (age(self, id), place(self, id)));
        let letters = buried.iter().map(|id| letter(self, id)).collect();
        self.die(snapshot, letters, span);
        for id in buried {
            self.finish(snapshot, id, group);
        }
        for given in &given[..reclaimed] {
            let entry = self.entries.get_mut(&given.id).expect("leased");
            assert_eq!(texts(&given.fields), texts(&entry.fields));
            let old = entry.lease(group).expect("leased");
            let idle = span.from - old.began.to..=span.to - old.began.from;
            given.assert_meta(idle, old.deliveries + 1);
            let deliveries = old.deliveries + 1;
            let lease = Lease { consumer, deliveries, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
        }
        reclaimed
    }

    /// New entries were given out: higher priorities first, and each in its order.
    #[track_caller]
    fn deliver_new(
        &mut self,
        snapshot: &Snapshot,
        group: Group,
        consumer: u8,
        count: usize,
        given: &[Given],
        span: Span,
    ) {
        let ready = self.entries.iter().filter(|(_, entry)| entry.is_ready(group));
        let mut ready: Vec<_> = ready.map(|(id, _)| *id).collect();
        ready.sort_by_key(|id| (u8::MAX - id.priority(), *id));
        let mut expected = Vec::new();
        for id in ready {
            if expected.len() == count {
                break;
            }
            if self.entries[&id].task.is_for(group) {
                expected.push(id);
            } else {
                self.finish(snapshot, id, group);
            }
        }
        let found: Vec<_> = given.iter().map(|given| given.id).collect();
        assert_eq!(found, expected, "what is ready, in order");
        for given in given {
            let entry = self.entries.get_mut(&given.id).expect("ready");
            assert_eq!(texts(&given.fields), texts(&entry.fields));
            given.assert_meta(0..=0, 1);
            let lease = Lease { consumer, deliveries: 1, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
        }
    }

    /// Whether a CONSUME would have nothing to do.
    fn has_nothing_for(&self, group: Group) -> bool {
        let is_near = |delayed: &Delayed| delayed.due < now_ms() + FAR / 10;
        self.groups.contains(&group)
            && !self.entries.values().any(|entry| entry.is_ready(group))
            && !self.delayed.iter().any(is_near)
    }

    #[track_caller]
    fn wait(&mut self, group: Group, consumer: u8, priority: u8, is_delayed: bool) {
        if self.policy.paused || self.is_full() || !self.has_nothing_for(group) {
            return;
        }
        let consume = args![
            "TASK.CONSUME",
            group.name(),
            consumer_name(consumer),
            QUEUE,
            "META",
            "BLOCK",
            60_000
        ];
        if is_delayed {
            self.publish(priority, None, When::Soon(10), None);
            let (reply, span) = self.ask(&consume);
            return self.consumed(group, consumer, 1, false, &reply, true, span);
        }
        let mut waiter = self.server.borrow().client();
        let from = now_ms();
        waiter.send_args(&consume);
        eventually(SOON, "it waits", || waiters(&mut self.client, "task") == 1);
        let (info, _) = self.ask(&args!["TASK.INFO", QUEUE]);
        assert_eq!(info.get("waiting_consumers"), &int(1));
        self.publish(priority, None, When::Now, None);
        let reply = waiter.read();
        let span = Span { from, to: now_ms() };
        self.consumed(group, consumer, 1, false, &reply, true, span);
    }

    /// All ids there are: in the streams, delayed, and some that nobody has.
    fn any_id(&self, pick: Pick) -> Id {
        let ids = self.entries.keys().copied();
        let ids = ids.chain(self.delayed.iter().map(|delayed| delayed.id));
        let ids = ids.chain(self.dead.keys().copied()).chain(self.published.last().copied());
        let ids: Vec<_> = ids.chain([Id { ms: 1, seq: 3 * CLASS }]).collect();
        ids[usize::from(pick) % ids.len()]
    }

    fn some_leased(&self, group: Group, pick: Pick) -> Option<Id> {
        let leased = self.leased(group);
        (!leased.is_empty()).then(|| leased[usize::from(pick) % leased.len()])
    }

    #[track_caller]
    fn ack(&mut self, group: Group, leased: &[Pick], any: Option<Pick>) {
        if !self.groups.contains(&group) {
            return;
        }
        let mut ids: Vec<_> =
            leased.iter().filter_map(|pick| self.some_leased(group, *pick)).collect();
        ids.extend(any.map(|pick| self.any_id(pick)));
        if ids.is_empty() {
            return;
        }
        let mut args = args!["TASK.ACK", QUEUE, group.name()].to_vec();
        args.extend(ids.iter().map(|id| id.to_string().into_bytes()));
        let (reply, _) = self.ask(&args);
        let is_leased = |id: &Id| self.entries.get(id).is_some_and(|e| e.lease(group).is_some());
        let done: BTreeSet<_> = ids.iter().copied().filter(is_leased).collect();
        assert_eq!(reply, int(i64::try_from(done.len()).expect("few")));
        self.count("acked", done.len());
        let snapshot = self.look();
        for id in done {
            self.ended.insert((self.entries[&id].task.original, group));
            self.finish(&snapshot, id, group);
            assert!(!self.policy.keep || snapshot.has_entry(id), "{id} is not kept");
        }
        // What had been kept until now may go together with the others.
        for id in ids {
            let is_done = self.entries.get(&id).is_some_and(Entry::is_done_by_all);
            if is_done && !self.policy.keep && !snapshot.has_entry(id) {
                self.entries.remove(&id);
            }
        }
    }

    #[track_caller]
    fn extend(&mut self, group: Group, which: Pick, stranger: bool) {
        let Some(id) = self.some_leased(group, which) else { return };
        let consumer = self.entries[&id].lease(group).expect("leased").consumer;
        let name = consumer_name(consumer + u8::from(stranger));
        let (reply, span) =
            self.ask(&args!["TASK.EXTEND", QUEUE, group.name(), name, id.to_string()]);
        assert_eq!(reply, int((!stranger).into()));
        if !stranger {
            let entry = self.entries.get_mut(&id).expect("leased");
            let deliveries = entry.lease(group).expect("leased").deliveries;
            let lease = Lease { consumer, deliveries, began: span, is_claimed: false };
            entry.states.insert(group, State::Leased(lease));
        }
    }

    /// `delay`: far, or nothing.
    #[track_caller]
    fn nack(
        &mut self,
        group: Group,
        which: Pick,
        stranger: bool,
        outcome: Outcome,
        delay: Option<bool>,
        reason: bool,
    ) {
        let Some(id) = self.some_leased(group, which) else { return };
        let lease = self.entries[&id].lease(group).expect("leased").clone();
        let name = consumer_name(lease.consumer + u8::from(stranger));
        let mode = format!("{outcome:?}");
        let mut args = args!["TASK.NACK", QUEUE, group.name(), name, mode, id.to_string()].to_vec();
        if let Some(far) = delay {
            args.extend(args!["DELAY", if far { FAR } else { 0 }]);
        }
        if reason {
            args.extend(args!["REASON", "it \r\n rains"]);
        }
        let (reply, span) = self.ask(&args);
        if stranger {
            assert_eq!(reply, int(0));
            return;
        }
        let task = self.entries[&id].task.clone();
        let tried = task.retry_count + lease.deliveries;
        let is_last = self.policy.tries > 0 && tried >= self.policy.tries;
        let is_dead = outcome == Outcome::Fatal || outcome == Outcome::Fail && is_last;
        assert_eq!(reply, int(if is_dead { 2 } else { 1 }));
        let retry_count = tried - i64::from(outcome == Outcome::Silent);
        let copy = self.copy_for(&task, group, retry_count);
        let snapshot = self.look();
        self.finish(&snapshot, id, group);
        if is_dead {
            let default = if outcome == Outcome::Fatal { "fatal" } else { "failed" };
            let reason = if reason { "it \r\n rains" } else { default };
            let cause = Some((reason.into(), lease.deliveries));
            self.arrive(&snapshot, Vec::new(), span);
            return self.die(&snapshot, vec![Letter { task: copy, cause }], span);
        }
        self.count("requeued", 1);
        let delay = match delay {
            Some(true) => FAR..=FAR,
            None if outcome == Outcome::Fail => {
                let (base, max) = self.policy.backoff;
                let doubled = 1_i64.checked_shl(u32::try_from(retry_count - 1).expect("few"));
                0..=doubled.and_then(|doubled| doubled.checked_mul(base)).unwrap_or(max).min(max)
            }
            _ => 0..=0,
        };
        // A random delay may be none.
        if *delay.end() == 0 || *delay.end() < 10 && self.new_delayed(&snapshot).is_empty() {
            self.arrive(&snapshot, vec![copy], span);
        } else {
            let due = span.from + delay.start()..=span.to + delay.end();
            self.arrive_delayed(&snapshot, copy, due);
        }
    }

    #[track_caller]
    fn retry(&mut self, group: Group, which: Pick, retry_count: u8) {
        const MOST: u8 = 2;
        let Some(id) = self.some_leased(group, which) else { return };
        let task = self.entries[&id].task.clone();
        let mut args = args!["TASK.RETRY", QUEUE, id.to_string(), task.payload].to_vec();
        args.extend(args![u64::from(retry_count), QUEUE, key("dead"), u64::from(MOST)]);
        if self.groups.len() > 1 || which.is_multiple_of(2) {
            args.extend(args![group.name()]);
        }
        let (reply, span) = self.ask(&args);
        assert_eq!(reply, ok());
        let goes_on = retry_count < MOST;
        let copy = self.copy_for(&task, group, i64::from(retry_count) + i64::from(goes_on));
        // It goes to the stream that is named in the call.
        let copy = Task { priority: 0, ..copy };
        self.count("acked", 1);
        let snapshot = self.look();
        self.finish(&snapshot, id, group);
        if goes_on {
            self.count("requeued", 1);
            self.arrive(&snapshot, vec![copy], span);
        } else {
            self.arrive(&snapshot, Vec::new(), span);
            self.die(&snapshot, vec![Letter { task: copy, cause: None }], span);
        }
    }

    #[track_caller]
    fn cancel(&mut self, which: &[Pick]) {
        let ids: BTreeSet<_> = which.iter().map(|pick| self.any_id(*pick)).collect();
        let mut args = args!["TASK.CANCEL", QUEUE].to_vec();
        args.extend(ids.iter().map(|id| id.to_string().into_bytes()));
        let (reply, span) = self.ask(&args);
        let snapshot = self.look();
        let mut cancelled = 0;
        for id in ids {
            let is_ready = |entry: &Entry| {
                let is_leased = self.groups.iter().any(|group| entry.lease(*group).is_some());
                !is_leased && !entry.is_done_by_all()
            };
            let task = if self.entries.get(&id).is_some_and(is_ready) {
                let entry = self.entries.remove(&id).expect("it is there");
                let done = self.groups.iter().filter(|group| entry.is_done(**group));
                let done: Vec<_> = done.copied().collect();
                Some((entry.task, done))
            } else {
                self.cancel_delayed(&snapshot, id, span).map(|task| (task, Vec::new()))
            };
            let Some((task, done)) = task else { continue };
            cancelled += 1;
            for group in &self.groups {
                if task.is_for(*group) && !done.contains(group) {
                    self.ended.insert((task.original, *group));
                }
            }
        }
        assert_eq!(reply, int(i64::try_from(cancelled).expect("few")));
        self.count("cancelled", cancelled);
    }

    /// A delayed task that is cancelled; one that is due already may be or not.
    #[track_caller]
    fn cancel_delayed(&mut self, snapshot: &Snapshot, id: Id, span: Span) -> Option<Task> {
        let nth = self.delayed.iter().position(|delayed| delayed.id == id)?;
        let delayed = &self.delayed[nth];
        let is_left = snapshot.has_delayed(&delayed.member);
        assert!(!is_left || delayed.is_moved || delayed.due <= span.to, "{id} is still there");
        (!is_left).then(|| self.delayed.remove(nth).task)
    }

    #[track_caller]
    fn redrive(&mut self, count: Option<u8>) {
        let mut args = args!["TASK.REDRIVE", key("dead"), QUEUE].to_vec();
        if let Some(count) = count {
            args.extend(args!["COUNT", u64::from(count)]);
        }
        let (reply, span) = self.ask(&args);
        let count = count.map_or(1000, usize::from).min(self.dead.len());
        assert_eq!(reply, int(i64::try_from(count).expect("few")));
        let ids: Vec<_> = self.dead.keys().take(count).copied().collect();
        let letters: Vec<_> = ids.iter().filter_map(|id| self.dead.remove(id)).collect();
        let again = |letter: Letter| Task { retry_count: 0, ..letter.task };
        let tasks = letters.into_iter().map(again).collect();
        self.count("redriven", count);
        let snapshot = self.look();
        self.arrive(&snapshot, tasks, span);
    }

    #[track_caller]
    fn set_policy(&mut self, options: &[Vec<u8>]) {
        let mut args = args!["TASK.POLICY", QUEUE].to_vec();
        args.extend_from_slice(options);
        let (reply, _) = self.ask(&args);
        assert_eq!(reply, ok());
    }

    #[track_caller]
    fn keep(&mut self, keep: bool) {
        let (reply, _) = self.ask(&args!["TASK.POLICY", QUEUE, "KEEP", i32::from(keep)]);
        if keep && self.policy.limit > 0 {
            assert_eq!(reply, error("ERR LIMIT and KEEP 1 exclude each other"));
        } else {
            assert_eq!(reply, ok());
            self.policy.keep = keep;
        }
    }

    #[track_caller]
    fn limit(&mut self, limit: u8) {
        let (reply, _) = self.ask(&args!["TASK.POLICY", QUEUE, "LIMIT", u64::from(limit)]);
        if limit > 0 && self.policy.keep {
            assert_eq!(reply, error("ERR LIMIT and KEEP 1 exclude each other"));
        } else {
            assert_eq!(reply, ok());
            self.policy.limit = limit.into();
        }
    }

    /// Failed tasks come back in hours, or at once.
    #[track_caller]
    fn backoff(&mut self, far: bool) {
        let (base, max) = if far { (1000 * FAR, 1000 * FAR) } else { (1, 2) };
        self.policy.backoff = (base, max);
        self.set_policy(&args!["BACKOFF", base, max]);
    }

    #[track_caller]
    fn make_due(&mut self, which: Pick) {
        if self.delayed.is_empty() {
            return;
        }
        let nth = usize::from(which) % self.delayed.len();
        let due = now_ms() - 1 - i64::from(which);
        let member = self.delayed[nth].member.clone();
        self.ask(&args!["ZADD", key("delayed"), "XX", due, member]);
        (self.delayed[nth].due, self.delayed[nth].is_moved) = (due, true);
    }

    #[track_caller]
    fn expire(&mut self, group: Group, consumer: u8, count: u8, meta: bool) {
        let old = self.policy.lease;
        self.set_policy(&args!["LEASE", 1]);
        let youngest = self.entries.values().filter_map(|entry| entry.lease(group));
        let youngest = youngest.map(|lease| lease.began.to).max().unwrap_or(0);
        eventually(SOON, "the leases are over", || now_ms() > youngest + 2);
        let name = consumer_name(consumer);
        let mut args = args!["TASK.CONSUME", group.name(), name, QUEUE, u64::from(count)].to_vec();
        if meta {
            args.extend(args!["META"]);
        }
        let (reply, span) = self.ask(&args);
        self.set_policy(&args!["LEASE", old]);
        self.consumed(group, consumer, count.into(), true, &reply, meta, span);
    }

    #[track_caller]
    fn claim(&mut self, group: Group, which: Pick, consumer: u8, deliveries: u8) {
        let Some(id) = self.some_leased(group, which) else { return };
        let (stream, name) = (stream_key(id.priority()), consumer_name(consumer));
        let mut args = args!["XCLAIM", stream, group.name(), name, 0, id.to_string()].to_vec();
        args.extend(args!["RETRYCOUNT", u64::from(deliveries), "JUSTID"]);
        let (reply, span) = self.ask(&args);
        assert_eq!(reply, array([id.to_string()]));
        let entry = self.entries.get_mut(&id).expect("leased");
        let deliveries = deliveries.into();
        let lease = Lease { consumer, deliveries, began: span, is_claimed: true };
        entry.states.insert(group, State::Leased(lease));
    }

    #[track_caller]
    fn plain_ack(&mut self, group: Group, which: Pick) {
        let Some(id) = self.some_leased(group, which) else { return };
        let stream = stream_key(id.priority());
        let (reply, _) = self.ask(&args!["XACK", stream, group.name(), id.to_string()]);
        assert_eq!(reply, int(1));
        let entry = self.entries.get_mut(&id).expect("leased");
        self.ended.insert((entry.task.original, group));
        entry.states.insert(group, State::Done);
    }

    #[track_caller]
    fn crash(&mut self) {
        self.check_counts();
        self.crashes += 1;
        let mut server = self.server.borrow_mut();
        server.kill9();
        server.restart();
        self.client = server.client();
        drop(server);
        // The totals are those of a process.
        self.counted = counts(&mut self.client);
        self.counts.values_mut().for_each(|count| *count = 0);
    }

    /// The server says what the model says.
    #[track_caller]
    fn check(&mut self) {
        let snapshot = self.look();
        self.check_entries(&snapshot);
        let mut delayed: Vec<_> =
            self.delayed.iter().map(|delayed| (delayed.member.clone(), delayed.due)).collect();
        delayed.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        assert_eq!(snapshot.delayed, delayed, "the delayed tasks");
        let dead: Vec<_> = snapshot.dead.iter().map(|(id, _)| *id).collect();
        assert_eq!(dead, self.dead.keys().copied().collect::<Vec<_>>(), "the dead letters");
        self.check_info(&snapshot);
        self.check_keys(&snapshot);
        self.check_that_each_task_is_in_one_state(&snapshot);
    }

    #[track_caller]
    fn check_entries(&self, snapshot: &Snapshot) {
        for (priority, stream) in &snapshot.streams {
            let entries = self.entries.iter().filter(|(id, _)| id.priority() == *priority);
            let entries: Vec<_> = entries.collect();
            let ids: Vec<_> = entries.iter().map(|(id, _)| **id).collect();
            let found: Vec<_> = stream.iter().map(|(id, _)| *id).collect();
            assert_eq!(found, ids, "the entries of priority {priority}");
            for ((_, fields), (_, entry)) in stream.iter().zip(&entries) {
                assert_eq!(texts(fields), texts(&entry.fields));
            }
            for group in &self.groups {
                let leased = entries.iter().filter_map(|(id, entry)| {
                    let lease = entry.lease(*group)?;
                    Some((**id, consumer_name(lease.consumer).into_bytes(), lease.deliveries))
                });
                let leased: Vec<_> = leased.collect();
                let seen = snapshot.groups.get(&(*priority, *group));
                let pending = seen.map_or(&[][..], |seen| &seen.pending[..]);
                assert_eq!(pending, leased, "the leases of {group:?}, priority {priority}");
                for (id, entry) in &entries {
                    let is_new = seen.is_none_or(|seen| **id > seen.last);
                    assert_eq!(is_new, entry.is_ready(*group), "{id} to {group:?}: {entry:?}");
                }
            }
        }
    }

    #[track_caller]
    fn check_info(&self, snapshot: &Snapshot) {
        let info = &snapshot.info;
        let count = |number: usize| int(i64::try_from(number).expect("few"));
        let totals = ["length", "delayed", "dead", "waiting_consumers"].map(|name| info.get(name));
        let expected = [self.entries.len(), self.delayed.len(), self.dead.len(), 0].map(count);
        assert_eq!(totals.map(Clone::clone), expected, "{info:?}");

        for priority in PRIORITIES.into_iter().filter(|priority| *priority > 0) {
            let length = self.entries.keys().filter(|id| id.priority() == priority).count();
            let expected = (length > 0).then(|| count(length));
            let found = info.get("priorities").field(&priority.to_string());
            assert_eq!(found, expected.as_ref(), "priority {priority}: {info:?}");
        }

        let groups = info.get("groups").items();
        assert_eq!(groups.len(), self.groups.len(), "{info:?}");
        for group in &self.groups {
            let found = groups.iter().find(|found| found.get("name") == &bulk(group.name()));
            let found = found.unwrap_or_else(|| panic!("no {group:?}: {info:?}"));
            assert_eq!(found.get("leased"), &count(self.leased(*group).len()), "{info:?}");
            let ready = self.entries.values().filter(|entry| entry.is_ready(*group));
            let (own, foreign): (Vec<_>, Vec<_>) = ready.partition(|e| e.task.is_for(*group));
            // What another group is to do may be counted until this one is past it.
            let (least, most) = (own.len(), own.len() + foreign.len());
            let ready = usize::try_from(found.get("ready").as_int()).expect("a count");
            assert!((least..=most).contains(&ready), "not {least} to {most}: {info:?}");
            let age = found.get("oldest_leased_ms").as_int();
            let leases = self.entries.values().filter_map(|entry| entry.lease(*group));
            match leases.map(|lease| (lease.began.from, lease.began.to)).min() {
                None => assert_eq!(age, 0, "{info:?}"),
                Some((from, to)) => {
                    let ages = snapshot.at.from - to..=snapshot.at.to - from;
                    assert!(ages.contains(&age), "not {ages:?}: {info:?}");
                }
            }
        }

        let next = info.get("next_due_ms").as_int();
        match self.delayed.iter().map(|delayed| delayed.due).min() {
            None => assert_eq!(next, -1, "{info:?}"),
            Some(due) => {
                let left = (due - snapshot.at.to).max(0)..=(due - snapshot.at.from).max(0);
                assert!(left.contains(&next), "not {left:?}: {info:?}");
            }
        }

        let policy = info.get("policy");
        let found = Policy {
            lease: policy.get("lease_ms").as_int(),
            tries: policy.get("tries").as_int(),
            backoff: (
                policy.get("backoff_base_ms").as_int(),
                policy.get("backoff_max_ms").as_int(),
            ),
            limit: policy.get("limit").as_int(),
            keep: policy.get("keep").as_int() == 1,
            paused: policy.get("paused").as_int() == 1,
        };
        assert_eq!(found, self.policy);
    }

    /// There is no key that nobody knows of.
    #[track_caller]
    fn check_keys(&self, snapshot: &Snapshot) {
        let known = PRIORITIES.map(stream_key).into_iter();
        let known = known.chain(["delayed", "dead", "policy"].map(key));
        let known = known.chain(self.unique.keys().map(|unique| unique_key(*unique)));
        let known: BTreeSet<_> = known.map(String::into_bytes).collect();
        let unknown: Vec<_> = snapshot.keys.difference(&known).map(|k| k.escape_ascii()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        for unique in self.unique.keys() {
            assert!(snapshot.keys.contains(unique_key(*unique).as_bytes()), "order {unique}");
        }
    }

    /// Every published task is to be found once: it is ready, leased, delayed, dead or done. This
    /// looks at nothing but what plain clients read, and at what was acknowledged or cancelled.
    #[track_caller]
    fn check_that_each_task_is_in_one_state(&self, snapshot: &Snapshot) {
        for group in &self.groups {
            if self.with == Groups::SecondLater && *group == Group::B {
                // What was done, or dead, before it came is not for it.
                continue;
            }
            let mut found: BTreeMap<Id, Vec<String>> = BTreeMap::new();
            let mut find = |id: Id, state: String| found.entry(id).or_default().push(state);
            let is_for = |fields: &Fields| {
                value_of(fields, "group").is_none_or(|name| name == group.name().as_bytes())
            };
            for (priority, stream) in &snapshot.streams {
                let seen = snapshot.groups.get(&(*priority, *group));
                for (id, fields) in stream.iter().filter(|(_, fields)| is_for(fields)) {
                    let task = original(fields).map_or(*id, Id::parse);
                    match seen {
                        Some(seen) if seen.is_pending(*id) => find(task, format!("leased {id}")),
                        Some(seen) if *id <= seen.last => {}
                        _ => find(task, format!("ready {id}")),
                    }
                }
            }
            for (member, _) in &snapshot.delayed {
                let member = Member::parse(member);
                if member.group().is_none_or(|own| own == *group) {
                    let task = member.original.unwrap_or(member.id);
                    find(task, format!("delayed {}", member.id));
                }
            }
            for (id, fields) in snapshot.dead.iter().filter(|(_, fields)| is_for(fields)) {
                let task = original(fields).map_or(*id, Id::parse);
                find(task, format!("dead {id}"));
            }
            for (id, _) in self.ended.iter().filter(|(_, by)| by == group) {
                find(*id, "done".into());
            }
            for id in &self.published {
                let states = found.remove(id).unwrap_or_default();
                assert_eq!(states.len(), 1, "the states of {id} for {group:?}: {states:?}");
            }
            assert!(found.is_empty(), "nobody published {found:?}");
        }
    }

    /// The totals have grown by what was done.
    #[track_caller]
    fn check_counts(&mut self) {
        let now = counts(&mut self.client);
        let grown: Counts =
            now.iter().map(|(name, count)| (*name, count - self.counted[name])).collect();
        assert_eq!(grown, self.counts);
    }
}

fn original(fields: &Fields) -> Option<&[u8]> {
    value_of(fields, "original_id")
}

/// A task that a consumer was given.
#[derive(Debug)]
struct Given {
    id: Id,
    fields: Fields,
    /// How long the lease before had been, and how manieth delivery this is.
    meta: Option<(i64, i64)>,
}

impl Given {
    #[track_caller]
    fn read(reply: &Value, meta: bool) -> Vec<Self> {
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
    fn assert_meta(&self, idle: std::ops::RangeInclusive<i64>, deliveries: i64) {
        if let Some((found, count)) = self.meta {
            assert!(idle.contains(&found), "idle for {found}, not {idle:?}");
            assert_eq!(count, deliveries);
        }
    }
}

/// Does random steps on a server and on the model, as often as there are cases.
#[track_caller]
fn run(server: Server, with: Groups, crashes: bool, cases: u32) {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = from_env("PROPTEST_RNG_SEED").unwrap_or_else(|| now_ms().unsigned_abs());
    let given = from_env("PROPTEST_CASES").and_then(|cases| u32::try_from(cases).ok());
    let cases = given.unwrap_or(cases);
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // Each of them is a run on the server.
        max_shrink_iters: 400,
        max_shrink_time: 40_000,
        ..ProptestConfig::default()
    };
    let server = RefCell::new(server);
    let steps = prop::collection::vec(step(with, crashes), 1..150);
    let (totals, killed) = (RefCell::new(Counts::new()), Cell::new(0));
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let mut world = World::new(&server, with);
        world.check();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.check_counts();
        for (name, count) in &world.totals {
            *totals.borrow_mut().entry(name).or_default() += count;
        }
        killed.set(killed.get() + world.crashes);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} repeats this:\n{failure}");
    }
    let (totals, killed) = (totals.into_inner(), killed.get());
    println!("PROPTEST_RNG_SEED={seed}, {cases} cases, killed {killed} times: {totals:?}");
    // A few steps need not do everything, but many do.
    if cases >= FEWEST {
        assert!(COUNTERS.iter().all(|name| totals.get(name).is_some_and(|count| *count > 0)));
        assert_eq!(killed > 0, crashes);
    }
}

/// In so many cases everything happens.
const FEWEST: u32 = 20;

#[test]
fn the_queue_of_one_group_is_what_the_model_says() {
    run(Server::start(), Groups::One, false, 35);
}

#[test]
fn the_queue_of_two_groups_is_what_the_model_says() {
    run(Server::start(), Groups::Two, false, 35);
}

#[test]
fn the_queue_is_what_the_model_says_when_a_second_group_comes_later() {
    run(Server::start(), Groups::SecondLater, false, 35);
}

#[test]
fn the_queue_is_what_the_model_says_when_the_server_is_killed_between_steps() {
    run(Server::builder().aof(true).start(), Groups::Two, true, 20);
}
