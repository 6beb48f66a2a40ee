use super::*;
use proptest::prelude::*;

const NOW: Moment = Moment(1_000_000);
const LATER: Moment = Moment(2_000_000);

/// What can happen to the ties. Leases, clients and databases are few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Add {
        lease: u8,
        client: u64,
        end: i64,
    },
    Remove(u8),
    Renew(u8, i64),
    Disconnect(u64),
    /// Ends the next leases; those in the set are refused.
    EndBroken {
        most: usize,
        refused: u8,
    },
    DropEnded {
        now: i64,
        most: usize,
        kept: u8,
    },
    TakeEnded(i64),
    Forget(Vec<i32>),
}

fn step() -> impl Strategy<Value = Step> {
    let lease = 0..12u8;
    prop_oneof![
        8 => (lease.clone(), 1..5u64, 0..9i64)
            .prop_map(|(lease, client, end)| Step::Add { lease, client, end }),
        2 => lease.clone().prop_map(Step::Remove),
        2 => (lease, 0..9i64).prop_map(|(lease, end)| Step::Renew(lease, end)),
        3 => (1..5u64).prop_map(Step::Disconnect),
        4 => (0..5usize, any::<u8>())
            .prop_map(|(most, refused)| Step::EndBroken { most, refused }),
        1 => (0..9i64, 0..4usize, any::<u8>())
            .prop_map(|(now, most, kept)| Step::DropEnded { now, most, kept }),
        1 => (0..9i64).prop_map(Step::TakeEnded),
        1 => prop::collection::vec(0..3i32, 0..3).prop_map(Step::Forget),
    ]
}

/// The same in a plain list, in the order in which the ties were made.
#[derive(Default)]
struct Model {
    ties: Vec<(u8, Tie<u8>)>,
    /// The clients that are gone, in their order; [`REFUSED`] is always the last.
    gone: Vec<u64>,
    last_gone: u64,
}

impl Model {
    fn remove(&mut self, lease: u8) {
        self.ties.retain(|(other, _)| *other != lease);
    }

    fn of(&self, client: u64) -> impl Iterator<Item = u8> {
        let ties = self.ties.iter().filter(move |(_, tie)| tie.client == client);
        ties.map(|(lease, _)| *lease)
    }

    /// The leases that have to be ended, in their order.
    fn broken(&self) -> Vec<u8> {
        self.gone.iter().chain([&REFUSED]).flat_map(|client| self.of(*client)).collect()
    }

    fn ended(&self, now: i64) -> Option<(i64, u8)> {
        let ends = self.ties.iter().map(|(lease, tie)| (tie.end.0, *lease));
        ends.filter(|(end, _)| *end < now).min_by_key(|(end, _)| *end)
    }
}

fn db_of(lease: u8) -> i32 {
    i32::from(lease % 3)
}

fn is_in(set: u8, lease: u8) -> bool {
    set & (1 << (lease % 8)) != 0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn exactly_the_leases_of_clients_that_are_gone_are_ended_and_each_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (ties, mut model) = (Ties::default(), Model::default());
        for step in steps {
            match step {
                Step::Add { lease, client, end } => {
                    // No client comes back once it is gone, but the last one can still get a lease.
                    if model.gone.contains(&client) && model.last_gone != client {
                        continue;
                    }
                    let tie = Tie { client, db: db_of(lease), end: UnixMs(end), lease };
                    let is_gone = model.last_gone == client;
                    let expected = if is_gone { Added::Broken } else { Added::Tied };
                    prop_assert_eq!(ties.add(ties.key(lease), tie.clone()), expected);
                    model.remove(lease);
                    model.ties.push((lease, tie));
                }
                Step::Remove(lease) => {
                    ties.remove(ties.key(lease));
                    model.remove(lease);
                }
                Step::Renew(lease, end) => {
                    ties.renew(ties.key(lease), UnixMs(end));
                    model.ties.iter_mut().filter(|(other, _)| *other == lease)
                        .for_each(|(_, tie)| tie.end = UnixMs(end));
                }
                Step::Disconnect(client) if !model.gone.contains(&client) => {
                    let has_ties = model.of(client).count() > 0;
                    prop_assert_eq!(ties.disconnect(client), has_ties);
                    model.gone.push(client);
                    model.last_gone = client;
                }
                Step::Disconnect(_) => {}
                Step::EndBroken { most, refused } => {
                    let mut put_back = Vec::new();
                    for _ in 0..most {
                        let expected = model.broken().first().copied();
                        let found = ties.next_broken(NOW);
                        prop_assert_eq!(found.as_ref().map(|(_, tie)| tie.lease), expected);
                        let Some((key, tie)) = found else { break };
                        model.remove(tie.lease);
                        if is_in(refused, tie.lease) {
                            put_back.push((key, tie));
                        }
                    }
                    let refused: Vec<_> = put_back.iter().map(|(_, tie)| tie.clone()).collect();
                    ties.put_back(put_back, NOW);
                    model.ties.extend(
                        refused.into_iter().map(|tie| (tie.lease, Tie { client: REFUSED, ..tie })),
                    );
                }
                Step::DropEnded { now, most, kept } => {
                    ties.drop_ended(UnixMs(now), most, |tie| !is_in(kept, tie.lease));
                    // Of leases that end at the same time, any can be the first.
                    let is_dropped = |(lease, _): &(u8, Tie<u8>)| ties.is_free(*lease);
                    let (dropped, left): (Vec<_>, _) = model.ties.drain(..).partition(is_dropped);
                    model.ties = left;
                    prop_assert!(dropped.len() <= most);
                    for (lease, tie) in &dropped {
                        prop_assert!(tie.end.0 < now && !is_in(kept, *lease));
                    }
                    let first = model.ended(now).map(|(end, _)| end);
                    let stops = dropped.len() == most
                        || first.is_none()
                        || model.ties.iter().any(|(lease, tie)| {
                            Some(tie.end.0) == first && is_in(kept, *lease)
                        });
                    prop_assert!(stops);
                }
                Step::TakeEnded(now) => {
                    let found = ties.take_ended(UnixMs(now));
                    let expected = model.ended(now).map(|(end, _)| UnixMs(end));
                    prop_assert_eq!(found.as_ref().map(|(_, tie)| tie.end), expected);
                    if let Some((_, tie)) = found {
                        model.remove(tie.lease);
                    }
                }
                Step::Forget(dbs) => {
                    ties.forget(&dbs);
                    model.ties.retain(|(_, tie)| !dbs.is_empty() && !dbs.contains(&tie.db));
                }
            }
            prop_assert_eq!(ties.len(), model.ties.len());
            prop_assert_eq!(ties.is_empty(), model.ties.is_empty());
            for (lease, tie) in &model.ties {
                prop_assert_eq!(&ties.0.borrow().links[&ties.key(*lease).0].tie, tie);
            }
            let is_broken = !model.broken().is_empty();
            prop_assert_eq!(ties.next_check(NOW), is_broken.then_some(NOW));
            let inner = ties.0.borrow();
            prop_assert_eq!(inner.ends.len(), inner.links.len());
            prop_assert_eq!(inner.databases.values().sum::<usize>(), inner.links.len());
        }
        ties.forget(&[]);
        let inner = ties.0.borrow();
        prop_assert!(inner.chains.is_empty() && inner.databases.is_empty());
    }
}

impl Ties<u8> {
    fn is_free(&self, lease: u8) -> bool {
        !self.0.borrow().links.contains_key(&self.key(lease).0)
    }
}

fn tie(client: u64, end: i64, lease: u32) -> Tie<u32> {
    Tie { client, db: 0, end: UnixMs(end), lease }
}

#[test]
fn what_was_refused_is_tried_again_after_a_while_and_delays_no_other() {
    let ties = Ties::default();
    for lease in 0..4 {
        ties.add(ties.key(lease), tie(1 + u64::from(lease % 2), 9, lease));
    }
    ties.disconnect(1);
    let refused: Vec<_> = std::iter::from_fn(|| ties.next_broken(NOW)).collect();
    assert_eq!(refused.iter().map(|(_, tie)| tie.lease).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(ties.next_check(NOW), None);
    // Meanwhile one of them is tied to another client.
    ties.add(ties.key(2), tie(7, 9, 2));
    ties.put_back(refused, LATER);
    assert_eq!(ties.next_check(NOW), Some(LATER));
    assert!(ties.next_broken(NOW).is_none());
    ties.disconnect(2);
    assert_eq!(ties.next_check(NOW), Some(NOW));
    let next = |now| ties.next_broken(now).map(|(_, tie)| tie.lease);
    assert_eq!([next(NOW), next(NOW), next(NOW)], [Some(1), Some(3), None]);
    assert_eq!([next(LATER), next(LATER)], [Some(0), None]);
    assert_eq!((ties.len(), ties.next_check(LATER)), (1, None));
}

#[test]
fn no_more_leases_are_tied_than_the_bound_and_their_memory_comes_back() {
    const MOST: usize = 10_000;
    let ties = Ties::bounded(MOST);
    for lease in 0..MOST as u32 {
        assert_eq!(ties.add(ties.key(lease), tie(1, i64::from(lease), lease)), Added::Tied);
    }
    assert_eq!(ties.add(ties.key(u32::MAX), tie(1, 0, 0)), Added::Full);
    // One that is tied already can be tied again.
    assert_eq!(ties.add(ties.key(5u32), tie(2, 5, 5)), Added::Tied);
    ties.drop_ended(UnixMs(i64::MAX), MOST - 10, |_| true);
    assert_eq!(ties.len(), 10);
    assert!(ties.0.borrow().links.capacity() < 200);
    assert_eq!(ties.add(ties.key(u32::MAX), tie(1, 0, 0)), Added::Tied);
}
