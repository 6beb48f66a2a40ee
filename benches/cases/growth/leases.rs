//! Leases of tasks, locks and loads, and leases that are tied to one connection.

use super::super::each;
use super::super::stampede::token;
use super::super::task::{payload, task_in, xadd};
use super::tasks::life;
use super::{Growth, Plan, answered, fresh};
use crate::measure::Lab;
use crate::support::args;
use crate::wire::Requests;
use std::cell::Cell;
use std::rc::Rc;

pub const LEASES: Growth = Growth {
    title: "Growth: leases",
    file: "leases.svg",
    axis: "leases of tasks in one queue, as many locks, as many loads",
    sizes: &[0, 1000, 10_000, 100_000, 1_000_000],
    most: |effort| effort.tasks,
    build: leases,
};

pub const TIES: Growth = Growth {
    title: "Growth: tied leases of one connection",
    file: "ties.svg",
    axis: "locks that are tied to the connection",
    sizes: &[0, 10, 100, 1000, 10_000, 100_000],
    most: super::unlimited,
    build: ties,
};

/// A lease that does not expire during a measurement.
const LEASE: usize = 36_000_000;

fn queue(_: usize) -> String {
    "mail".into()
}

fn leases(lab: &mut Lab, _: usize) -> Plan {
    const BATCH: usize = 50_000;
    let mut requests = Requests::expecting(&[""]);
    requests.push(&args!["XGROUP", "CREATE", queue(0), "workers", 0, "MKSTREAM"]);
    requests.push(&args!["TASK.POLICY", queue(0), "LEASE", LEASE]);
    lab.prepare(&requests);
    let mut size = 0;
    let grow = move |lab: &mut Lab, to: usize| {
        while size < to {
            let some = size..to.min(size + BATCH);
            size = some.end;
            lab.prepare(&each(some, &[""], |r, n| {
                r.push(&xadd(queue(0), "*"));
                r.push(&args!["TASK.CONSUME", "workers", "w1", queue(0)]);
                r.push(&args!["LOCK.ACQUIRE", format!("held:{n}"), "owner", LEASE]);
                r.push(&args!["CACHE.FETCH", format!("page:{n}"), LEASE]);
            }));
        }
    };
    let [publish, consume, ack] = life(queue, &Rc::new(Cell::new(1)));
    let acquire = fresh("LOCK.ACQUIRE", |lab| {
        each(0..lab.effort.commands, &[":1"], |r, n| {
            r.push(&args!["LOCK.ACQUIRE", format!("job:{n}"), "owner", LEASE]);
        })
    });
    let release = fresh("LOCK.RELEASE", |lab| {
        each(0..lab.effort.commands, &[":1"], |r, n| {
            r.push(&args!["LOCK.RELEASE", format!("job:{n}"), "owner"]);
        })
    });
    let (load, replies) = answered("CACHE.FETCH, load", |lab| {
        each(0..lab.effort.commands, &["*"], |r, n| {
            r.push(&args!["CACHE.FETCH", format!("value:{n}"), LEASE]);
        })
    });
    let store = fresh("CACHE.SET TOKEN", move |_| {
        let mut requests = Requests::expecting(&["+OK"]);
        for (n, reply) in replies.borrow().iter().enumerate() {
            let token = token(reply).expect("nobody else loads it");
            requests.push(&args!["CACHE.SET", format!("value:{n}"), "v", 1, "TOKEN", token]);
        }
        requests
    });
    // What the values of this round leave must not answer the next one.
    let load = load.setup_with(|lab| {
        lab.prepare(&each(0..lab.effort.commands, &[":"], |r, n| {
            r.push(&args!["DEL", format!("value:{n}")]);
        }));
    });
    Plan::new(grow, [publish, consume, ack, acquire, release, load, store])
}

fn ties(_: &mut Lab, _: usize) -> Plan {
    let mut size = 0;
    let grow = move |lab: &mut Lab, to: usize| {
        if size == to {
            return;
        }
        lab.prepare(&each(size..to, &[":1"], |r, n| {
            r.push(&args!["LOCK.ACQUIRE", format!("held:{n}"), "owner", LEASE, "TIED"]);
        }));
        size = to;
    };
    let acquire = fresh("LOCK.ACQUIRE TIED", |lab| {
        each(0..lab.effort.commands, &[":1"], |r, n| {
            r.push(&args!["LOCK.ACQUIRE", format!("job:{n}"), "owner", LEASE, "TIED"]);
        })
    });
    let release = fresh("LOCK.RELEASE", |lab| {
        each(0..lab.effort.commands, &[":1"], |r, n| {
            r.push(&args!["LOCK.RELEASE", format!("job:{n}"), "owner"]);
        })
    });
    let (consume, replies) = answered("TASK.CONSUME TIED", |lab| {
        each(0..lab.effort.commands, &["*1"], |r, _| {
            r.push(&args!["TASK.CONSUME", "workers", "w1", queue(0), "TIED"]);
        })
    });
    let consume = consume.setup_with(|lab| {
        lab.prepare(&each(0..lab.effort.commands, &["$"], |r, _| {
            r.push(&args!["TASK.PUBLISH", queue(0), payload()]);
        }));
    });
    let ack = fresh("TASK.ACK", move |_| {
        let mut requests = Requests::expecting(&[":1"]);
        for reply in &*replies.borrow() {
            let (id, _) = task_in(reply).expect("there is a task");
            requests.push(&args!["TASK.ACK", queue(0), "workers", id]);
        }
        requests
    });
    Plan::new(grow, [acquire, release, consume, ack])
}
