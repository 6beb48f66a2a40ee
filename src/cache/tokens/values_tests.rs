use super::super::Change;
use super::*;
use crate::time::UnixMs;

const LATE: Millis = Millis(60_000);
const ROOMY: Bounds = Bounds { late: LATE, bytes: usize::MAX };

fn at(ms: i64) -> Moment {
    Moment(ms * 1000)
}

impl Values {
    /// Checks that the accounting agrees with the values, and that each of them is where it belongs.
    pub fn check(&self) {
        let all = self.databases.values().chain(&self.flushed);
        let cost: usize = all.flat_map(|db| db.known.values()).map(Known::cost).sum();
        assert_eq!(self.bytes, cost);
        for (db, database) in &self.databases {
            let ends = database.known.iter().map(|(hash, known)| (known.end(), *hash));
            assert_eq!(ends.collect::<BTreeSet<_>>(), database.ends);
            assert!(!database.known.is_empty());
            for (hash, known) in &database.known {
                if let Some(number) = known.changed {
                    assert_eq!(self.changed.get(number), Some((*db, *hash)));
                }
            }
        }
    }
}

/// Gives out a lease that begins at 0.
fn lend(values: &mut Values, name: &str, token: i64, until: i64) {
    let record = Recorded { token, end: at(until), marked: false, deadline: None };
    values.learn(0, name.as_bytes(), |known| {
        known.record(record);
        known.lend(token, at(until), at(0));
    });
}

fn is_known(values: &Values, name: &str) -> bool {
    values.get(0, name.as_bytes()).is_some()
}

#[test]
fn the_value_that_ends_first_is_forgotten_first_if_there_is_no_room() {
    let mut values = Values::default();
    for n in 0..1000 {
        // In another order than that of their ends.
        let token = (n * 7919 + 918) % 1000;
        lend(&mut values, &token.to_string(), token + 1, token + 1);
    }
    values.check();
    let bounds = Bounds { late: LATE, bytes: values.bytes / 2 };
    values.sweep(100, bounds, at(0));
    let known: Vec<_> = (0..1000).filter(|n| is_known(&values, &n.to_string())).collect();
    assert_eq!(known, (100..1000).collect::<Vec<_>>(), "in steps");
    values.sweep(1000, bounds, at(0));
    values.check();
    assert!(values.bytes <= bounds.bytes);
    assert!(is_known(&values, "999"));
    // The last value has room in any case, until its time has passed.
    lend(&mut values, "last", 2000, 1);
    let no_room = Bounds { late: LATE, bytes: 0 };
    values.sweep(1000, no_room, at(0));
    assert_eq!(values.databases.get(&0).map(|database| database.known.len()), Some(1));
    assert!(is_known(&values, "last"));
    values.check();
    values.sweep(1, no_room, at(60_002));
    assert!(values.is_empty());
}

#[test]
fn a_flushed_database_is_unknown_at_once_and_freed_step_by_step() {
    let mut values = Values::default();
    for n in 0..1000 {
        let name = n.to_string();
        lend(&mut values, &name, n + 1, 1000);
        let write = |known: &mut Known| known.change(Change::Written, UnixMs(1_000_000), at(0));
        assert_eq!(values.update(0, name.as_bytes(), write), Some(true));
        assert!(values.enqueue(0, name.as_bytes()));
    }
    let record = Recorded { token: 1, end: at(1000), marked: false, deadline: None };
    values.learn(1, b"k", |known| known.record(record));
    values.forget(&[0]);
    assert!(!is_known(&values, "7"));
    assert!(values.get(1, b"k").is_some());
    lend(&mut values, "7", 2000, 1000);
    values.check();
    values.sweep(999, ROOMY, at(0));
    assert_eq!(values.flushed.len(), 1);
    values.sweep(2, ROOMY, at(0));
    assert_eq!(values.flushed.len(), 0);
    assert_eq!(values.changed().len(), 0);
    assert!(values.get(0, b"7").is_some_and(|known| known.is_good(2000, at(0), LATE)));
    values.check();
    values.forget(&[]);
    assert!(values.get(1, b"k").is_none());
}
