//! What is compared. A case is a row of one of these tables: a name and a function that prepares
//! the contenders, the command of this module first.

pub mod bystander;
pub mod cache;
pub mod lock;
pub mod lock_waiting;
pub mod stampede;
pub mod task;

pub use task::punctual::{VICTIM, be_victim};

use crate::Column;
use crate::latency::Race;
use crate::measure::{Case, Effort, Lab};
use crate::wire::Requests;

/// Every case, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let cases = [
        cache::CASES,
        stampede::CASES,
        lock::CASES,
        lock_waiting::CASES,
        task::publish::CASES,
        task::consume::CASES,
        task::finish::CASES,
        task::waiting::CASES,
        bystander::CASES,
    ];
    cases.into_iter().flatten()
}

/// Every race, in the order of the table.
pub fn races() -> impl Iterator<Item = &'static Race> {
    task::waiting::RACES.iter()
}

/// What needs a table of its own.
pub struct Study {
    /// What is studied.
    pub name: &'static str,
    /// The columns of its table.
    pub columns: &'static [Column],
    /// Makes the rows of its table. A cell that ends in [`MISSED`] tells of a goal that was not met.
    pub run: fn(Effort) -> Vec<Vec<String>>,
}

/// Every study, in the order of their tables.
pub fn studies() -> impl Iterator<Item = &'static Study> {
    let studies = [
        lock_waiting::STUDIES,
        stampede::STUDIES,
        task::cycle::STUDIES,
        task::punctual::STUDIES,
        task::large::STUDIES,
    ];
    studies.into_iter().flatten()
}

/// How the cell of a goal ends that was not met.
pub const MISSED: &str = "MISSED";

/// The cell of a goal.
fn verdict(goal: &str, met: bool) -> String {
    format!("{goal} {}", if met { "ok" } else { MISSED })
}

/// Leaves the name of what is compared in the first row only.
fn named_once(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.iter_mut().skip(1).for_each(|row| row[0].clear());
    rows
}

/// How many names there are where a name can be used again.
const NAMES: usize = 10_000;

/// The numbers of a round where each name is used once.
fn once(lab: &Lab) -> impl Iterator<Item = usize> + use<> {
    shuffled(lab.effort.commands, lab.effort.commands)
}

/// The numbers of a round where names can be used again.
fn cycling(lab: &Lab) -> impl Iterator<Item = usize> + use<> {
    shuffled(lab.effort.commands, NAMES)
}

/// Numbers below `names`, `count` of them, in an order in which neighbours are not close.
fn shuffled(count: usize, names: usize) -> impl Iterator<Item = usize> {
    // A prime: each number comes once before the first comes again.
    (0..count).map(move |index| index * 1_000_003 % names)
}

/// An operation for each number; its replies begin with `expected`.
fn each(
    numbers: impl IntoIterator<Item = usize>,
    expected: &[&'static str],
    operation: impl Fn(&mut Requests, usize),
) -> Requests {
    let mut requests = Requests::expecting(expected);
    for number in numbers {
        operation(&mut requests, number);
    }
    requests
}
