//! The comparisons. A case has a name and a function that creates the contenders, the command of this
//! module first.

pub mod bystander;
pub mod cache;
pub mod footprint;
pub mod growth;
pub mod lock;
pub mod lock_waiting;
pub mod stampede;
pub mod task;

pub use task::timing::{VICTIM, run_victim};

use crate::latency::LatencyCase;
use crate::measure::{Case, Effort, Lab};
use crate::table::Column;
use crate::wire::Requests;

/// All cases, in the order of the table. To check the bars, those that have none are left out.
pub fn all(check: bool) -> impl Iterator<Item = &'static Case> {
    let cases = [
        cache::CASES,
        stampede::CASES,
        lock::CASES,
        lock_waiting::CASES,
        task::publish::CASES,
        task::consume::CASES,
        task::finish::CASES,
        if check { &[] } else { task::options::CASES },
        task::waiting::CASES,
        bystander::CASES,
    ];
    cases.into_iter().flatten()
}

/// All latency cases, in the order of the table.
pub fn latencies() -> impl Iterator<Item = &'static LatencyCase> {
    task::waiting::LATENCIES.iter()
}

/// A measurement with a table of its own.
pub struct Study {
    /// What it measures.
    pub name: &'static str,
    /// The columns of its table. The first two name a row.
    pub columns: &'static [Column],
    /// Measures, and returns the rows. The cell of a bar comes from [`crate::verdict::Verdict::cell`].
    pub run: fn(Effort) -> Vec<Vec<String>>,
}

/// All studies, in the order of their tables.
pub fn studies() -> impl Iterator<Item = &'static Study> {
    let studies = [
        lock_waiting::STUDIES,
        stampede::STUDIES,
        task::cycle::STUDIES,
        task::timing::STUDIES,
        task::large::STUDIES,
        footprint::STUDIES,
        growth::STUDIES,
    ];
    studies.into_iter().flatten()
}

/// The memory that the server and the module have allocated, in bytes.
fn used_memory(lab: &mut Lab) -> f64 {
    let used = lab.client.info("memory", "used_memory").expect("INFO has used_memory");
    used.parse().expect("a number")
}

/// Keeps the name of a group in its first row only.
fn name_once(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.iter_mut().skip(1).for_each(|row| row[0].clear());
    rows
}

/// The number of names where a round may use a name more than once.
const NAMES: usize = 10_000;

/// The numbers of a round that uses each name once.
fn once(lab: &Lab) -> impl Iterator<Item = usize> + use<> {
    shuffled(lab.effort.commands, lab.effort.commands)
}

/// The numbers of a round that may use a name more than once.
fn cycling(lab: &Lab) -> impl Iterator<Item = usize> + use<> {
    shuffled(lab.effort.commands, NAMES)
}

/// `count` numbers below `names`, in an order that separates neighbors.
fn shuffled(count: usize, names: usize) -> impl Iterator<Item = usize> {
    // With a prime step every number appears once before the first one repeats.
    (0..count).map(move |index| index * 1_000_003 % names)
}

/// One operation for each number. Its replies begin with `expected`.
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
