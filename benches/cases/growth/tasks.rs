//! Queues, delayed tasks and groups.

use super::super::each;
use super::super::task::{payload, task_in, xadd, xreadgroup};
use super::{Growth, Plan, Size, answered, fresh, some};
use crate::measure::{Contender, Lab};
use crate::support::{args, now_ms};
use crate::wire::{Requests, bulks};
use std::cell::Cell;
use std::rc::Rc;

pub const QUEUES: Growth = Growth {
    title: "Growth: queues of a server",
    file: "queues.svg",
    axis: "queues",
    sizes: &[1, 10, 100, 1000, 10_000, 100_000],
    most: super::unlimited,
    build: queues,
};

pub const DELAYED: Growth = Growth {
    title: "Growth: delayed tasks of a queue",
    file: "delayed.svg",
    axis: "delayed tasks",
    sizes: &[0, 1000, 10_000, 100_000, 1_000_000, 10_000_000],
    most: |effort| effort.tasks,
    build: delayed,
};

pub const GROUPS: Growth = Growth {
    title: "Growth: groups of a queue",
    file: "groups.svg",
    axis: "groups",
    sizes: &[1, 2, 4, 8, 16, 32, 64],
    most: super::unlimited,
    build: groups,
};

/// Publishes a task to each of some queues, takes it and acknowledges it.
pub fn life(queue: fn(usize) -> String, size: &Size) -> [Contender; 3] {
    let [published, consumed, done] = [(); 3].map(|()| Rc::clone(size));
    let publish = fresh("TASK.PUBLISH", move |lab| {
        each(some(lab, published.get()), &["$"], |r, n| {
            r.push(&args!["TASK.PUBLISH", queue(n), payload()]);
        })
    });
    let (consume, replies) = answered("TASK.CONSUME", move |lab| {
        each(some(lab, consumed.get()), &["*1"], |r, n| {
            r.push(&args!["TASK.CONSUME", "workers", "w1", queue(n)]);
        })
    });
    let ack = fresh("TASK.ACK", move |lab| {
        let mut requests = Requests::expecting(&[":1"]);
        for (n, reply) in some(lab, done.get()).zip(replies.borrow().iter()) {
            let (id, _) = task_in(reply).expect("there is a task");
            requests.push(&args!["TASK.ACK", queue(n), "workers", id]);
        }
        requests
    });
    [publish, consume, ack]
}

fn queue(number: usize) -> String {
    format!("mail:{number:06}")
}

/// Adds to a stream that no client of the module uses, and that has one entry: what the server itself needs.
fn plain(number: usize) -> Vec<Vec<u8>> {
    let mut add = xadd(format!("plain:{number:06}"), "*").to_vec();
    add.splice(2..2, args!["MAXLEN", 1]);
    add
}

fn queues(_: &mut Lab, _: usize) -> Plan {
    let size = Size::default();
    let known = Rc::clone(&size);
    let grow = move |lab: &mut Lab, to: usize| {
        lab.prepare(&each(size.get()..to, &["*-1", "$"], |r, n| {
            r.push(&args!["TASK.CONSUME", "workers", "w1", queue(n)]);
            r.push(&plain(n));
        }));
        size.set(to);
    };
    let added = Rc::clone(&known);
    let native = fresh("XADD to as many other streams", move |lab| {
        each(some(lab, added.get()), &["$"], |r, n| r.push(&plain(n)))
    });
    Plan::new(grow, life(queue, &known).into_iter().chain([native]))
}

/// The tasks are due in some weeks, in no particular order.
fn delayed(_: &mut Lab, _: usize) -> Plan {
    const BATCH: usize = 100_000;
    const WEEKS: i64 = 3_000_000_000;
    let one = || Rc::new(Cell::new(1));
    let mut size = 0;
    let later = now_ms() + WEEKS;
    // The step is prime, so the times of neighbors are far apart.
    let due = move |number: usize| later + (number * 1_000_000_007 % 2_000_000_000) as i64;
    let grow = move |lab: &mut Lab, to: usize| {
        while size < to {
            let some = size..to.min(size + BATCH);
            size = some.end;
            lab.prepare(&each(some, &["$"], |r, n| {
                r.push(&args!["TASK.PUBLISH", queue(0), payload(), "AT", due(n)]);
            }));
        }
    };
    let (publish, replies) = answered("TASK.PUBLISH AT", move |lab| {
        each(0..lab.effort.commands, &["$"], |r, n| {
            r.push(&args!["TASK.PUBLISH", queue(0), payload(), "AT", due(n) + 1]);
        })
    });
    let again = Rc::clone(&replies);
    let reschedule = fresh("TASK.RESCHEDULE", move |_| {
        each(0..again.borrow().len(), &[":1"], |r, n| {
            let id = bulks(&again.borrow()[n])[0].to_vec();
            r.push(&args!["TASK.RESCHEDULE", queue(0), id, "AT", due(n + 7)]);
        })
    });
    let cancel = fresh("TASK.CANCEL", move |_| {
        each(0..replies.borrow().len(), &[":1"], |r, n| {
            r.push(&args!["TASK.CANCEL", queue(0), bulks(&replies.borrow()[n])[0]]);
        })
    });
    let ready = life(queue, &one()).into_iter().skip(1);
    let ready_tasks = fresh("TASK.PUBLISH", |lab| {
        each(0..lab.effort.commands, &["$"], |r, _| {
            r.push(&args!["TASK.PUBLISH", queue(0), payload()]);
        })
    });
    Plan::new(grow, [publish, reschedule, cancel, ready_tasks].into_iter().chain(ready))
}

fn group(number: usize) -> String {
    format!("group-{number}")
}

/// Each group gets each task.
fn groups(_: &mut Lab, _: usize) -> Plan {
    let size = Size::default();
    let known = Rc::clone(&size);
    let grow = move |_: &mut Lab, to: usize| size.set(to);
    let (first, last) = (Rc::clone(&known), Rc::clone(&known));
    let no_tasks = move |lab: &mut Lab| {
        let mut requests = Requests::expecting(&[""]);
        requests.push(&args!["DEL", queue(0)]);
        for n in 0..known.get() {
            requests.push(&args!["XGROUP", "CREATE", queue(0), group(n), "0", "MKSTREAM"]);
        }
        lab.prepare(&requests);
    };
    let publish = fresh("TASK.PUBLISH", |lab| {
        each(0..lab.effort.commands, &["$"], |r, _| {
            r.push(&args!["TASK.PUBLISH", queue(0), payload()]);
        })
    });
    let (consume, replies) = answered("TASK.CONSUME", |lab| {
        each(0..lab.effort.commands, &["*1"], |r, _| {
            r.push(&args!["TASK.CONSUME", group(0), "w1", queue(0)]);
        })
    });
    let id = |reply: &[u8]| task_in(reply).expect("there is a task").0.to_vec();
    let others = Rc::clone(&replies);
    // With one group, its acknowledgment is the last one.
    let ack = fresh("TASK.ACK, others have not finished the task", move |_| {
        let mut requests = Requests::expecting(&[":1"]);
        if first.get() > 1 {
            for reply in &*replies.borrow() {
                requests.push(&args!["TASK.ACK", queue(0), group(0), id(reply)]);
            }
        }
        requests
    });
    let last_ack = fresh("TASK.ACK, others have finished the task", move |lab| {
        let (ids, last) = (others.borrow(), last.get() - 1);
        let mut requests = Requests::expecting(&[""]);
        for n in 1..=last {
            let mut read = xreadgroup(queue(0), ids.len());
            read[2] = group(n).into_bytes();
            requests.push(&read);
            if n < last {
                for reply in &*ids {
                    requests.push(&args!["TASK.ACK", queue(0), group(n), id(reply)]);
                }
            }
        }
        if requests.operations() > 0 {
            lab.prepare(&requests);
        }
        let mut requests = Requests::expecting(&[":1"]);
        for reply in &*ids {
            requests.push(&args!["TASK.ACK", queue(0), group(last), id(reply)]);
        }
        requests
    });
    Plan::new(grow, [publish.setup_with(no_tasks), consume, ack, last_ack])
}
