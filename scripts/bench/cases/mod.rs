//! What is compared. A case is a row of one of these tables: a name and a function that prepares
//! the contenders, the command of this module first.

pub mod bystander;
pub mod cache;
pub mod lock;
pub mod task;

use crate::latency::Race;
use crate::measure::{Case, Lab};
use crate::wire::Requests;

/// Every case, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [cache::CASES, lock::CASES, task::CASES, bystander::CASES].into_iter().flatten()
}

/// Every race, in the order of the table.
pub fn races() -> impl Iterator<Item = &'static Race> {
    task::RACES.iter()
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
