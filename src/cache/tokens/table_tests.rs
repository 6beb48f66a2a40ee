use super::*;

const LATE: Millis = Millis(60_000);
const ROOMY: Bounds = Bounds { late: LATE, bytes: usize::MAX };

/// Long before every deadline here.
const UNIX: UnixMs = UnixMs(1_000_000);

fn at(ms: i64) -> Moment {
    Moment(ms * 1000)
}

fn record(token: Token, end: Moment) -> Recorded {
    Recorded { token, end, marked: false, deadline: None }
}

impl TokenTable {
    /// Gives out a lease from `from` to `until` on the value `k`.
    fn lend_k(&self, token: Token, from: i64, until: i64) -> bool {
        self.lend(0, b"k", record(token, at(until)), at(until), at(from), ROOMY)
    }

    fn k_is_good(&self, token: Token, ms: i64) -> bool {
        self.is_good(0, b"k", token, at(ms), LATE)
    }

    /// The value `k` is changed by another client at 0.
    fn change_k(&self, change: Change) -> bool {
        self.change(0, b"k", change, UNIX, at(0))
    }

    fn next_is_k(&self, void: bool) {
        assert_eq!(self.next_changed(), Some((0, b"k".as_slice().into(), void)));
    }

    fn check(&self) {
        self.0.borrow().values.check();
    }
}

#[test]
fn a_token_is_good_until_some_time_after_the_last_lease() {
    let table = TokenTable::new(0, &Rc::default());
    assert!(!table.lend_k(1, 0, 100));
    assert!(table.lend_k(2, 150, 250), "it follows a lease that ended by its time");
    for (token, ms, good) in
        [(1, 0, true), (1, 60_250, true), (1, 60_251, false), (2, 60_250, true), (3, 0, false)]
    {
        assert_eq!(table.k_is_good(token, ms), good, "{token} at {ms}");
    }
    assert!(!table.is_good(0, b"other", 1, at(0), LATE));
    assert!(!table.is_good(1, b"k", 1, at(0), LATE));
    table.periodic(at(60_250), ROOMY);
    assert!(table.is_known(0, b"k"));
    table.periodic(at(60_251), ROOMY);
    assert!(!table.is_known(0, b"k"));
    table.check();
}

#[test]
fn a_foreign_write_marks_the_record_until_it_is_removed() {
    let table = TokenTable::new(0, &Rc::default());
    table.lend_k(1, 0, 1000);
    assert!(table.change_k(Change::Written));
    assert!(!table.change_k(Change::Written), "one mark is enough");
    assert!(!table.k_is_good(1, 0));
    table.next_is_k(true);
    assert_eq!(table.next_changed(), None);
    // The server refused to remove it.
    table.check_later(0, b"k", at(0));
    assert_eq!(table.next_check(at(0)), Some(at(100)));
    table.next_is_k(true);
    table.forget_record(0, b"k");
    assert!(!table.is_known(0, b"k"));
    table.check();
    // The next lease counts, and its record is not removed.
    table.lend_k(2, 0, 1000);
    table.change_k(Change::Written);
    table.lend_k(3, 0, 1000);
    table.next_is_k(false);
    assert!(table.k_is_good(3, 0));
    // If there can be no record any more, nothing has to be removed.
    assert!(!table.change(0, b"k", Change::Written, UNIX, at(1001)));
    assert!(!table.is_known(0, b"k"));
    table.check();
}

#[test]
fn only_the_first_changed_value_arms_the_timer() {
    let table = TokenTable::new(0, &Rc::default());
    table.lend_k(1, 0, 1000);
    table.record(0, b"other", record(1, at(1000)), at(0), ROOMY);
    assert_eq!(table.next_check(at(5)), None);
    assert!(table.change_k(Change::Written));
    assert!(!table.change(0, b"other", Change::Written, UNIX, at(0)));
    assert_eq!((table.changed(), table.next_check(at(5))), (2, Some(at(5))));
    table.next_is_k(true);
    // A value that was refused comes behind the others.
    table.check_later(0, b"k", at(0));
    assert_eq!(table.next_changed(), Some((0, b"other".as_slice().into(), true)));
    table.next_is_k(true);
    assert_eq!((table.changed(), table.next_check(at(500))), (0, None));
    table.check();
}

#[test]
fn an_expiry_ends_a_lease_only_before_the_deadline_of_the_value() {
    let known = |deadline: Option<i64>, marked: bool| {
        let table = TokenTable::new(0, &Rc::default());
        let deadline = deadline.map(UnixMs);
        let record = Recorded { token: 1, end: at(1000), marked, deadline };
        table.lend(0, b"k", record, at(1000), at(0), ROOMY);
        table
    };
    let expire = |table: &TokenTable, ms| table.change(0, b"k", Change::Expired, UnixMs(ms), at(0));
    for (deadline, ms, good) in
        [(Some(500), 499, false), (Some(500), 500, true), (Some(500), 501, true), (None, 1, false)]
    {
        let table = known(deadline, false);
        assert_eq!(expire(&table, ms), !good);
        assert_eq!(table.k_is_good(1, 0), good, "{deadline:?} at {ms}");
    }
    // Another client has given it a deadline meanwhile.
    let table = known(None, false);
    assert!(!table.change_k(Change::Deadline(Some(UnixMs(9)))));
    assert!(!expire(&table, 9));
    assert!(table.k_is_good(1, 0));
    // The timer keeps or removes the mark of a stale value.
    for change in [Change::Expired, Change::Evicted, Change::Deadline(None)] {
        let table = known(Some(9), true);
        assert!(table.change_k(change), "{change:?}");
        table.next_is_k(false);
        assert!(table.k_is_good(1, 0));
    }
}

#[test]
fn a_value_is_known_only_as_long_as_necessary() {
    let table = TokenTable::new(0, &Rc::default());
    table.lend_k(1, 0, 100);
    table.store(0, b"k", 1, UNIX, at(50));
    assert!(table.is_known(0, b"k"), "its record is still there");
    table.forget_record(0, b"k");
    assert!(!table.is_known(0, b"k"));
    // An older loader stores; the newer one goes on.
    table.lend_k(2, 0, 100);
    table.lend_k(3, 200, 300);
    assert_eq!(table.store(0, b"k", 2, UNIX, at(250)), (false, Some(Millis(250))));
    assert!(table.k_is_good(3, 200));
    assert_eq!(table.end_all(0, b"k", at(260)), Some(Millis(60)));
    table.forget_record(0, b"k");
    assert!(table.0.borrow().values.is_empty());
    table.check();
}

#[test]
fn a_record_that_is_read_is_watched_once() {
    let table = TokenTable::new(0, &Rc::default());
    table.lend_k(1, 0, 1000);
    table.change_k(Change::Written);
    // A record that is known to be kept as long is not taken for another one.
    table.watch(0, b"k", record(1, at(1001)), at(0), ROOMY);
    assert_eq!(table.knowledge(0, b"k", 1, at(0), LATE), Knowledge::Void);
    table.watch(0, b"k", record(2, at(1002)), at(0), ROOMY);
    assert_eq!(table.knowledge(0, b"k", 2, at(0), LATE), Knowledge::Unknown);
    table.check();
}

#[test]
fn a_lease_that_came_with_its_slot_counts_until_its_loader_is_refused() {
    let table = TokenTable::new(100, &Rc::default());
    let known = |token| table.knowledge(0, b"k", token, at(0), LATE);
    let move_here = |token| table.move_here(0, b"k", record(token, at(1000)), at(0), ROOMY);
    assert_eq!(known(100), Knowledge::Unknown, "from before a restart");
    assert_eq!(known(101), Knowledge::Newer);
    move_here(101);
    assert_eq!(known(101), Knowledge::Known);
    assert!(!table.k_is_good(101, 0));
    assert!(!table.disown(0, b"k", 100));
    assert!(table.disown(0, b"k", 101));
    assert!(!table.disown(0, b"k", 101));
    assert_eq!(known(101), Knowledge::Unknown);
    // The slot was away, and came back with another lease.
    table.lend_k(102, 0, 1000);
    assert_eq!(known(103), Knowledge::Newer);
    move_here(103);
    assert!(!table.k_is_good(102, 0));
    // A foreign write voids the older record, and no newer one.
    table.change_k(Change::Written);
    assert_eq!(known(103), Knowledge::Void);
    assert_eq!(known(104), Knowledge::Newer);
    table.forget(&[], 104);
    assert_eq!(known(104), Knowledge::Unknown);
    table.check();
}
