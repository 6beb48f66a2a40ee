//! A pass over random queues: it serves the tasks in the right order, stays within its bounds, and
//! never leaves a task behind for good. `tests/task_model.rs` tests how tasks move through the keys
//! of a real server.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::convert::Infallible;

/// More than any pass may move.
const MANY: usize = 1 << 40;

/// What TRIES says in these tests.
const TRIES: i64 = 5;

/// Items in order, as pairs of an item and how often it repeats, at least once.
type Row<T> = VecDeque<(T, usize)>;

fn row<T>(parts: impl IntoIterator<Item = (T, usize)>) -> Row<T> {
    parts.into_iter().filter(|(_, number)| *number > 0).collect()
}

fn length<T>(row: &Row<T>) -> usize {
    row.iter().map(|(_, number)| number).sum()
}

/// Takes up to `most` equal items from the front.
fn take<T: Copy>(row: &mut Row<T>, most: usize) -> Option<(T, usize)> {
    let (first, number) = row.front_mut()?;
    let (first, taken) = (*first, most.min(*number));
    *number -= taken;
    if *number == 0 {
        row.pop_front();
    }
    Some((first, taken))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Running,
    /// Released or renewed since.
    Settled,
    Expired(Attempts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Ours,
    /// For another group.
    Foreign,
    /// With an id of another stream: it is added again at the end.
    Misplaced,
}

/// How much a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moves {
    rounds: usize,
    promoted: usize,
    reclaimed: usize,
    dead: usize,
    /// Leases that were checked and not delivered, dead-lettered ones included.
    settled: usize,
    skipped: usize,
    new: usize,
}

impl Moves {
    fn delivered(&self) -> usize {
        self.reclaimed + self.new
    }
}

/// A queue, as the numbers of its tasks. It checks each operation of a pass.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Tasks that are due, the earliest first. A retry may be for another group.
    due: Row<(Priority, Entry)>,
    /// The oldest first. Nothing behind a running one has expired.
    leases: Row<Lease>,
    streams: [Row<Entry>; 10],
    /// Whether the group may have something to read in a stream.
    unread: [bool; 10],
    /// How many tasks can be promoted before the work allowed in one call is used up.
    promotable: Option<usize>,
    /// How many tasks the consumer asks for.
    count: usize,
    moves: Moves,
    /// Whether the last promotion used up its work.
    spent: bool,
    /// Whether more was due after the last promotion.
    more: bool,
    /// Whether the larger bound holds, because the smaller one was reached in vain.
    in_vain: bool,
}

impl Queue {
    fn add(&mut self, priority: Priority, entry: Entry, number: usize) {
        let index = usize::from(priority.number());
        if number > 0 {
            self.streams[index].push_back((entry, number));
            self.unread[index] = true;
        }
    }

    /// How many leases at the front are not running.
    fn open_leases(&self) -> usize {
        self.leases.iter().map_while(|(l, number)| (*l != Lease::Running).then_some(number)).sum()
    }

    fn unread(&self) -> usize {
        self.streams.iter().map(length).sum()
    }

    fn ours(&self) -> usize {
        let due = self.due.iter().map(|((_, entry), number)| (*entry, *number));
        let entries = due.chain(self.streams.iter().flatten().copied());
        entries.map(|(entry, number)| if entry == Entry::Foreign { 0 } else { number }).sum()
    }

    fn is_empty(&self) -> bool {
        length(&self.due) + self.open_leases() + self.unread() == 0
    }

    fn bound(&self) -> usize {
        self.count.clamp(if self.in_vain { IN_VAIN } else { MOVES }, MOST_MOVES)
    }

    fn wanted(&self) -> usize {
        self.count - self.moves.delivered()
    }
}

impl Ops for Queue {
    type Error = Infallible;
    type Lease = Lease;

    fn promote(&mut self, least: usize, most: usize) -> Result<Entered, Infallible> {
        assert!(least >= MOVES / 8 && least >= self.wanted().min(MOST_MOVES), "{least} is slow");
        assert!(most >= (2 * least).min(MOST_MOVES) && most <= MOST_MOVES);
        if self.moves.rounds > 0 {
            let is_bound = self.moves.settled.max(self.moves.skipped) >= self.bound();
            assert!(is_bound || (self.more && !self.spent), "another round for nothing");
            assert!(
                !is_bound || self.moves.delivered() == 0,
                "goes on although something was delivered"
            );
            self.in_vain |= is_bound;
        }
        self.moves.rounds += 1;
        let (mut number, mut left, mut kept) = (0, most, Row::new());
        let mut allowed = self.promotable.unwrap_or(MANY);
        while allowed > 0
            && let Some(((priority, entry), due)) = self.due.pop_front()
        {
            let is_lowest = priority == Priority::LOWEST;
            let taken = due.min(allowed).min(if is_lowest { left } else { MANY });
            self.add(priority, entry, taken);
            (number, allowed) = (number + taken, allowed - taken);
            left -= if is_lowest { taken } else { 0 };
            kept.extend((due > taken).then_some(((priority, entry), due - taken)));
        }
        kept.append(&mut self.due);
        self.due = kept;
        self.moves.promoted += number;
        self.more = !self.due.is_empty();
        self.spent = allowed == 0;
        Ok(Entered { number, more: self.more, spent: self.spent })
    }

    fn oldest(&mut self) -> Result<Oldest<Lease>, Infallible> {
        assert!(self.moves.rounds > 0, "due tasks enter first");
        assert!(self.moves.settled < self.bound() && self.moves.reclaimed < MOST_MOVES);
        let oldest = self.leases.front().map_or(Lease::Running, |(lease, _)| *lease);
        if oldest != Lease::Running {
            take(&mut self.leases, 1);
        }
        Ok(match oldest {
            Lease::Running => Oldest::Running,
            Lease::Expired(attempts) => Oldest::Expired(oldest, attempts),
            Lease::Settled => {
                self.moves.settled += 1;
                Oldest::Settled
            }
        })
    }

    fn reclaim(&mut self, lease: Lease) -> Result<(), Infallible> {
        let Lease::Expired(attempts) = lease else { panic!("{lease:?} is reclaimed") };
        assert!(attempts.in_all() < TRIES && !attempts.is_fatal(), "one attempt too many");
        assert_eq!(self.moves.new, 0, "new tasks came before expired leases");
        self.moves.reclaimed += 1;
        Ok(())
    }

    fn dead_letter(&mut self, lease: Lease) -> Result<(), Infallible> {
        let Lease::Expired(attempts) = lease else { panic!("{lease:?} is dead-lettered") };
        assert!(attempts.in_all() >= TRIES || attempts.is_fatal(), "an attempt was left");
        self.moves.dead += 1;
        self.moves.settled += 1;
        Ok(())
    }

    fn may_hold(&self, priority: Priority) -> bool {
        self.unread[usize::from(priority.number())]
    }

    fn read(&mut self, priority: Priority, most: usize) -> Result<Batch, Infallible> {
        let index = usize::from(priority.number());
        let moves = self.moves;
        let leases_done = self.open_leases() == 0 || moves.reclaimed >= MOST_MOVES;
        assert!(leases_done || moves.settled >= self.bound(), "expired leases come first");
        assert!(self.may_hold(priority) && moves.skipped < self.bound());
        assert!(0 < most && most <= self.wanted().min(self.count.clamp(MOVES, MOST_MOVES)));
        let above = &self.streams[index + 1..];
        assert_eq!(above.iter().map(length).sum::<usize>(), 0, "a higher priority comes first");
        let (mut batch, mut again) = (Batch::default(), 0);
        while batch.delivered + batch.skipped < most
            && let left = most - batch.delivered - batch.skipped
            && let Some((entry, number)) = take(&mut self.streams[index], left)
        {
            match entry {
                Entry::Ours => batch.delivered += number,
                Entry::Foreign => batch.skipped += number,
                Entry::Misplaced => {
                    (batch.skipped, again) = (batch.skipped + number, again + number)
                }
            }
        }
        self.unread[index] = batch.skipped > 0 || batch.delivered == most;
        self.add(priority, Entry::Ours, again);
        self.moves.new += batch.delivered;
        self.moves.skipped += batch.skipped;
        Ok(batch)
    }
}

/// One pass over a queue, and what must be true of it.
fn serve(queue: &mut Queue, count: usize) -> Passed {
    *queue = Queue { count, moves: Moves::default(), in_vain: false, ..std::mem::take(queue) };
    let before = queue.clone();
    let Ok(passed) = pass(queue, count);
    let (after, moves) = (&*queue, queue.moves);
    let seen = || format!("{count} of {before:?}: {passed:?}, {after:?}");

    let bound = count.clamp(MOVES, MOST_MOVES);
    let in_vain = count.clamp(IN_VAIN, MOST_MOVES);
    let entries = count.clamp(ENTRIES, MOST_MOVES);
    assert_eq!(passed.delivered, moves.delivered(), "{}", seen());
    let moved = moves.promoted + moves.reclaimed + moves.settled + moves.skipped;
    assert_eq!(passed.moved, moved, "{}", seen());
    assert!(passed.delivered <= count, "{}", seen());
    assert!(moves.settled <= in_vain && moves.reclaimed <= MOST_MOVES, "{}", seen());
    // A batch is read as a whole: only the last one can exceed the bound.
    assert!(moves.skipped < in_vain + bound, "{}", seen());
    // The last round is as long as any.
    let lowest = |queue: &Queue| {
        let due = queue.due.iter().filter(|((priority, _), _)| *priority == Priority::LOWEST);
        due.map(|(_, number)| number).sum::<usize>()
    };
    let promoted = lowest(&before) - lowest(after);
    assert!(promoted < entries + MOST_MOVES.min(2 * bound), "{}", seen());

    // A batch is full unless the queue is empty, or the pass reached a bound.
    let reached = if passed.delivered == 0 { in_vain } else { bound };
    let is_bound = moves.settled.max(moves.skipped) >= reached
        || moves.promoted >= entries
        || moves.reclaimed >= MOST_MOVES
        || after.spent;
    assert!(passed.delivered == count || after.is_empty() || is_bound, "{}", seen());
    // `more` is false only if nothing is left to do, and true only for a reason.
    let due = length(&after.due);
    assert!(!passed.more || due > 0 || is_bound, "{}", seen());
    assert!(passed.more || count == 0 || due == 0, "{}", seen());
    assert!(passed.more || passed.delivered == count || after.is_empty(), "{}", seen());
    // No kind of move starves another.
    if count > 0 {
        let (leases, unread) = (after.open_leases(), after.unread());
        assert!(moves.promoted > 0 || length(&before.due) == 0, "{}", seen());
        assert!(moves.settled + moves.reclaimed > 0 || leases == 0, "{}", seen());
        assert!(passed.delivered + moves.skipped > 0 || unread == 0, "{}", seen());
    }
    passed
}

fn expired(before: i64, deliveries: i64) -> Lease {
    Lease::Expired(Attempts { before, deliveries, tries: Some(TRIES) })
}

fn amount() -> impl Strategy<Value = usize> {
    prop_oneof![60 => 0..6usize, 3 => 100..300usize, 1 => 900..1_200usize, 1 => 3_000..20_000usize]
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![3 => Just(0), 1 => 0..10u64].prop_map(|number| Priority::new(number).unwrap())
}

fn queue() -> impl Strategy<Value = Queue> {
    let lease = prop_oneof![
        1 => Just(Lease::Running),
        2 => Just(Lease::Settled),
        1 => Just(expired(0, i64::MAX)),
        6 => (0..4i64, 1..4i64).prop_map(|(before, deliveries)| expired(before, deliveries)),
    ];
    let entry =
        prop_oneof![3 => Just(Entry::Ours), 2 => Just(Entry::Foreign), 1 => Just(Entry::Misplaced)];
    let due = prop_oneof![2 => Just(Entry::Ours), 1 => Just(Entry::Foreign)];
    let promotable = prop_oneof![4 => Just(None), 1 => (1..5_000usize).prop_map(Some)];
    let few = 0..6;
    (
        prop::collection::vec(((priority(), due), amount()), few.clone()),
        prop::collection::vec((lease, amount()), few.clone()),
        prop::collection::vec((priority(), entry, amount()), few),
        promotable,
    )
        .prop_map(|(due, leases, entries, promotable)| {
            let (due, leases) = (row(due), row(leases));
            let mut queue = Queue { due, leases, promotable, ..Queue::default() };
            for (priority, entry, number) in entries {
                queue.add(priority, entry, number);
            }
            queue
        })
}

#[test]
fn a_pass_keeps_its_bounds_however_much_there_is() {
    let amounts = [0, 1, MANY];
    for count in [0, 1, 2, 127, 128, 129, MOST_MOVES, 1 << 20] {
        for n in 0..amounts.len().pow(6) {
            let amount = |place: u32| amounts[n / amounts.len().pow(place) % amounts.len()];
            let leases = [
                (Lease::Settled, amount(1)),
                (expired(0, TRIES), amount(2)),
                (expired(0, TRIES - 1), amount(3)),
            ];
            let mut queue = Queue {
                due: row([((Priority::LOWEST, Entry::Ours), amount(0))]),
                leases: row(leases),
                ..Queue::default()
            };
            queue.add(Priority::LOWEST, Entry::Foreign, amount(4));
            queue.add(Priority::LOWEST, Entry::Ours, amount(5));
            serve(&mut queue, count);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A consumer that asks again and again gets every task once, and none of another group.
    #[test]
    fn every_task_is_delivered_or_dead_lettered(
        mut queue in queue(),
        steps in prop::collection::vec((priority(), amount(), amount()), 0..6),
        count in prop_oneof![1..4usize, 100..200usize, 1_000..3_000usize],
    ) {
        let has_expired = |queue: &Queue, exhausted: bool| {
            let leases = queue.leases.iter().take_while(|(lease, _)| *lease != Lease::Running);
            let expired = leases.filter(|(lease, _)| match lease {
                Lease::Expired(attempts) => attempts.are_exhausted() == exhausted,
                _ => false,
            });
            expired.map(|(_, number)| number).sum::<usize>()
        };
        let mut left = queue.ours() + has_expired(&queue, false);
        let mut dead = has_expired(&queue, true);
        for (priority, added, count) in steps {
            queue.add(priority, Entry::Ours, added);
            left += added;
            left -= serve(&mut queue, count).delivered;
            dead -= queue.moves.dead;
        }
        let all = |queue: &Queue| length(&queue.due) + length(&queue.leases) + queue.unread();
        let count = count.max(all(&queue) / 64);
        let mut calls = 10 + 2 * all(&queue);
        loop {
            let passed = serve(&mut queue, count);
            left -= passed.delivered;
            dead -= queue.moves.dead;
            if passed.delivered == 0 && !passed.more {
                break;
            }
            calls = calls.checked_sub(1).expect("the passes come to no end");
        }
        prop_assert!(queue.is_empty());
        prop_assert_eq!((left, dead), (0, 0));
    }
}
