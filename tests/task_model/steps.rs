//! The random steps.

use super::model::*;
use proptest::prelude::*;

/// The due time of a published task.
#[derive(Clone, Copy, Debug)]
pub enum When {
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
pub enum Outcome {
    Silent,
    Fail,
    Fatal,
}

/// Which one of several: the number modulo their count.
pub type Pick = u8;

/// What ends a window of UNIQUE, beside its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    Start,
    Done,
}

/// UNIQUE and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Unique {
    pub id: u8,
    pub until: Option<Until>,
    pub last: bool,
}

impl Unique {
    /// Whether the window follows the task, or the task the window.
    pub fn follows(self) -> bool {
        self.until.is_some() || self.last
    }
}

/// Further options of PUBLISH.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub tries: Option<u8>,
    /// Whether it expires at once, or at the due time; otherwise it does not expire in this test.
    pub expires: Option<bool>,
    pub has_tenant: bool,
    pub meta: bool,
}

#[derive(Clone, Debug)]
pub enum Step {
    Publish {
        priority: usize,
        retry_count: Option<u8>,
        when: When,
        unique: Option<Unique>,
        options: Options,
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
    /// A consumer of two queues: of this one, and of another that gets this many tasks before.
    ConsumeBoth {
        group: Group,
        consumer: u8,
        count: u8,
        others: u8,
        others_first: bool,
    },
    /// A consumer waits, perhaps for two queues, and a task is published or becomes due.
    Wait {
        group: Group,
        consumer: u8,
        priority: usize,
        is_delayed: bool,
        for_both: bool,
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
        /// Whether it gets a new payload.
        payload: bool,
    },
    Retry {
        group: Group,
        which: Pick,
        retry_count: u8,
    },
    Cancel {
        which: Vec<Pick>,
        force: bool,
    },
    Reschedule {
        which: Pick,
        far: bool,
        priority: Option<usize>,
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
    /// All leases of a group expire, then this consumer asks.
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
    /// A plain client's XCLAIM for another consumer, with this number of deliveries.
    Claim {
        group: Group,
        which: Pick,
        consumer: u8,
        deliveries: u8,
    },
    /// A plain client's XACK, which leaves the entry.
    PlainAck {
        group: Group,
        which: Pick,
    },
    /// The server is killed and starts again.
    Crash,
}

pub fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => Just(When::Now),
        1 => Just(When::DelayNothing),
        2 => (0..6_u8).prop_map(When::Soon),
        2 => Just(When::DelayFar),
        1 => Just(When::AtPast),
        1 => Just(When::AtFar),
    ]
}

pub fn options() -> impl Strategy<Value = Options> {
    let options = (
        prop::option::weighted(0.2, 0..5_u8),
        prop::option::weighted(0.25, any::<bool>()),
        prop::bool::weighted(0.2),
        any::<bool>(),
    );
    options.prop_map(|(tries, expires, has_tenant, meta)| Options {
        tries,
        expires,
        has_tenant,
        meta,
    })
}

/// With a group that is created later, there must be no marks.
pub fn unique_options(groups: Groups) -> impl Strategy<Value = Unique> {
    let until = prop::option::of(prop::sample::select(&[Until::Start, Until::Done][..]));
    (0..UNIQUE_IDS, until, prop::bool::weighted(0.7)).prop_map(
        move |(id, until, last)| match groups {
            Groups::SecondLater => Unique { id, until: None, last: false },
            Groups::One | Groups::Two => Unique { id, until, last },
        },
    )
}

/// Which groups there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Groups {
    One,
    /// Two from the start.
    Two,
    /// The second one is created when it is first used.
    SecondLater,
}

pub fn group(groups: Groups) -> impl Strategy<Value = Group> + Clone {
    match groups {
        Groups::One => prop::sample::select(&[Group::A][..]),
        Groups::Two | Groups::SecondLater => prop::sample::select(&[Group::A, Group::B][..]),
    }
}

pub fn step(groups: Groups, crashes: bool) -> impl Strategy<Value = Step> {
    let group = group(groups);
    let priority = 0..PRIORITIES.len();
    let unique = 0..UNIQUE_IDS;
    let publish = (
        priority.clone(),
        prop::option::weighted(0.2, 0..4_u8),
        when(),
        prop::option::weighted(0.6, unique_options(groups)),
        options(),
    );
    let consume = (group.clone(), 0..3_u8, prop::option::of(1..6_u8), any::<bool>(), any::<bool>());
    let nack = (
        (group.clone(), any::<Pick>(), prop::bool::weighted(0.1)),
        prop::sample::select(&[Outcome::Silent, Outcome::Fail, Outcome::Fatal][..]),
        prop::option::weighted(0.4, any::<bool>()),
        any::<bool>(),
        prop::bool::weighted(0.3),
    );
    let picks = prop::collection::vec(any::<Pick>(), 1..4);
    prop_oneof![
        24 => publish.prop_map(|(priority, retry_count, when, unique, options)| {
            Step::Publish { priority, retry_count, when, unique, options }
        }),
        2 => Just(Step::Add),
        16 => consume.prop_map(|(group, consumer, count, named, meta)| {
            Step::Consume { group, consumer, count, named, meta }
        }),
        6 => (group.clone(), 0..3_u8, 1..6_u8, 0..4_u8, any::<bool>()).prop_map(
            |(group, consumer, count, others, others_first)| {
                Step::ConsumeBoth { group, consumer, count, others, others_first }
            }
        ),
        2 => (group.clone(), 0..3_u8, priority, any::<bool>(), any::<bool>()).prop_map(
            |(group, consumer, priority, is_delayed, for_both)| {
                Step::Wait { group, consumer, priority, is_delayed, for_both }
            }
        ),
        8 => (group.clone(), picks.clone(), prop::option::weighted(0.3, any::<Pick>()))
            .prop_map(|(group, leased, any)| Step::Ack { group, leased, any }),
        3 => (group.clone(), any::<Pick>(), prop::bool::weighted(0.3))
            .prop_map(|(group, which, stranger)| Step::Extend { group, which, stranger }),
        12 => nack.prop_map(|((group, which, stranger), outcome, delay, reason, payload)| {
            Step::Nack { group, which, stranger, outcome, delay, reason, payload }
        }),
        4 => (group.clone(), any::<Pick>(), 0..4_u8).prop_map(|(group, which, retry_count)| {
            Step::Retry { group, which, retry_count }
        }),
        4 => (picks, prop::bool::weighted(0.3))
            .prop_map(|(which, force)| Step::Cancel { which, force }),
        4 => (any::<Pick>(), any::<bool>(), prop::option::of(0..PRIORITIES.len())).prop_map(
            |(which, far, priority)| Step::Reschedule { which, far, priority }
        ),
        4 => prop::option::of(1..4_u8).prop_map(|count| Step::Redrive { count }),
        2 => (0..6_u8).prop_map(Step::Tries),
        2 => prop::bool::weighted(0.4).prop_map(Step::Keep),
        3 => prop::bool::weighted(0.25).prop_map(Step::Paused),
        2 => prop::sample::select(&[0, 0, 3, 6, 10][..]).prop_map(Step::Limit),
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
