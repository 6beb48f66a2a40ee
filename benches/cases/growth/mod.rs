//! How the server time of an operation depends on the number of things that are there beside it. Each
//! measurement prints its figures, and draws a graph into `docs/growth`.

mod leases;
mod lines;
mod tasks;

use super::task::thousands;
use super::{Study, shuffled};
use crate::graph::Graph;
use crate::measure::{Contender, Effort, Lab, version};
use crate::support::Server;
use crate::table::Column;
use crate::wire::{Requests, drive};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

const COLUMNS: &[Column] = &[
    Column("growth", 38, false),
    Column("operation", 41, false),
    Column("server time", 72, false),
];

/// The studies.
pub const STUDIES: &[Study] = &[
    Study { name: lines::WAITERS.title, columns: COLUMNS, run: |e| measure(&lines::WAITERS, e) },
    Study { name: tasks::QUEUES.title, columns: COLUMNS, run: |e| measure(&tasks::QUEUES, e) },
    Study { name: tasks::DELAYED.title, columns: COLUMNS, run: |e| measure(&tasks::DELAYED, e) },
    Study { name: leases::LEASES.title, columns: COLUMNS, run: |e| measure(&leases::LEASES, e) },
    Study { name: tasks::GROUPS.title, columns: COLUMNS, run: |e| measure(&tasks::GROUPS, e) },
    Study { name: lines::THEN.title, columns: COLUMNS, run: |e| measure(&lines::THEN, e) },
    Study { name: leases::TIES.title, columns: COLUMNS, run: |e| measure(&leases::TIES, e) },
];

/// A measurement.
struct Growth {
    title: &'static str,
    /// The name of its file.
    file: &'static str,
    /// What the sizes count.
    axis: &'static str,
    sizes: &'static [usize],
    /// The largest size that is possible here.
    most: fn(Effort) -> usize,
    /// Prepares the server. The sizes grow up to the given one.
    build: fn(&mut Lab, usize) -> Plan,
}

/// What is measured at each size.
struct Plan {
    /// Makes the size as large as given; it has been smaller.
    grow: Box<Grow>,
    operations: Vec<Contender>,
}

type Grow = dyn FnMut(&mut Lab, usize);

impl Plan {
    fn new(
        grow: impl FnMut(&mut Lab, usize) + 'static,
        operations: impl IntoIterator<Item = Contender>,
    ) -> Self {
        Self { grow: Box::new(grow), operations: operations.into_iter().collect() }
    }
}

/// A size that the operations know, too.
type Size = Rc<Cell<usize>>;

/// There is no limit but the largest size.
const fn unlimited(_: Effort) -> usize {
    usize::MAX
}

fn measure(growth: &Growth, effort: Effort) -> Vec<Vec<String>> {
    let effort =
        Effort { rounds: effort.rounds.min(7), commands: effort.commands.min(4000), ..effort };
    let most = (growth.most)(effort);
    let mut sizes: Vec<_> = growth.sizes.iter().copied().filter(|size| *size <= most).collect();
    if sizes.len() < growth.sizes.len() && most != effort.tasks {
        sizes.push(most);
    }
    let mut lab = Lab::on(server(), effort);
    let mut plan = (growth.build)(&mut lab, sizes[sizes.len() - 1]);
    let mut lines: Vec<_> =
        plan.operations.iter().map(|operation| (operation.label, Vec::new())).collect();
    for size in &sizes {
        (plan.grow)(&mut lab, *size);
        let mut costs = vec![Vec::new(); lines.len()];
        // The first round is a warm-up.
        for round in 0..=effort.rounds {
            for (operation, costs) in plan.operations.iter_mut().zip(&mut costs) {
                let cost = lab.cost(operation);
                costs.extend(cost.filter(|_| round > 0).map(|nanos| nanos / 1000.0));
            }
        }
        for ((_, values), costs) in lines.iter_mut().zip(costs) {
            // The sizes are measured one after the other, and not in turn: the least of the rounds. Other
            // work of the machine makes a round slower, never faster.
            values.push(costs.into_iter().min_by(f64::total_cmp));
        }
    }
    let names: Vec<_> = sizes.iter().copied().map(thousands).collect();
    if effort.graphs {
        let title = format!("{}, {}", growth.title, version(&lab.server));
        let graph = Graph { title: &title, axis: growth.axis, sizes: &names, lines: &lines };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/growth").join(growth.file);
        let written = graph.write(&path);
        assert!(written.is_ok(), "{}: {written:?}", path.display());
    }
    let rows = lines.into_iter().map(|(label, values)| {
        let of_size = names
            .iter()
            .zip(values)
            .filter_map(|(size, value)| value.map(|micros| format!("{size}: {micros:.1} us")));
        vec![growth.title.into(), label.into(), of_size.collect::<Vec<_>>().join("; ")]
    });
    super::name_once(rows.collect())
}

/// A server with several addresses, for more connections than one address has ports.
fn server() -> Server {
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    addresses.into_iter().fold(Server::builder().arg("--bind"), |server, at| server.arg(at)).start()
}

/// An operation whose requests are made anew in each round, before the clock starts. They are sent over
/// one connection.
fn fresh(label: &'static str, make: impl Fn(&mut Lab) -> Requests + 'static) -> Contender {
    let made = Rc::new(RefCell::new(Requests::expecting(&[""])));
    let used = Rc::clone(&made);
    let operation = Contender::custom(label, move |lab| {
        let requests = used.borrow();
        drive(&mut lab.connections[..1], &requests, lab.effort.pipeline);
        requests.operations()
    });
    operation.setup_with(move |lab| *made.borrow_mut() = make(lab))
}

/// The replies to the operations of the last round.
type Replies = Rc<RefCell<Vec<Vec<u8>>>>;

/// The same, and keeps the replies.
fn answered(
    label: &'static str,
    make: impl Fn(&mut Lab) -> Requests + 'static,
) -> (Contender, Replies) {
    let (made, replies) = (Rc::new(RefCell::new(Requests::expecting(&[""]))), Replies::default());
    let (used, kept) = (Rc::clone(&made), Rc::clone(&replies));
    let operation = Contender::custom(label, move |lab| {
        let requests = used.borrow();
        let (count, pipeline) = (requests.operations(), lab.effort.pipeline);
        for from in (0..count).step_by(pipeline) {
            let batch = from..count.min(from + pipeline);
            let connection = &mut lab.connections[0];
            connection.send(requests.bytes_of(batch.clone()));
            kept.borrow_mut().extend(batch.map(|_| connection.reply(<[u8]>::to_vec)));
        }
        count
    });
    let emptied = Rc::clone(&replies);
    let operation = operation.setup_with(move |lab| {
        emptied.borrow_mut().clear();
        *made.borrow_mut() = make(lab);
    });
    (operation, replies)
}

/// The numbers of a round: some of the given size, all of a smaller one again and again.
fn some(lab: &Lab, size: usize) -> impl Iterator<Item = usize> + use<> {
    shuffled(lab.effort.commands, size.max(1))
}
