//! Clients that wait for one lock, and clients that wait for tasks of many queues.

use super::super::lock_waiting::{LockCrowd, LockLine};
use super::{Growth, Plan, fresh};
use crate::crowd::{PORTS, most_clients};
use crate::measure::{Contender, Effort, Lab};
use crate::support::{Random, args};
use crate::wire::Requests;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub const WAITERS: Growth = Growth {
    title: "Growth: clients that wait for one lock",
    file: "waiters.svg",
    axis: "waiting clients",
    sizes: &[1, 10, 100, 1000, 10_000, 20_000, 50_000],
    most: most_waiters,
    build: waiters,
};

pub const THEN: Growth = Growth {
    title: "Growth: queues of one TASK.CONSUME",
    file: "then.svg",
    axis: "queues that the command names",
    sizes: &[1, 2, 4, 8, 16, 32, 64],
    most: super::unlimited,
    build: then,
};

/// Clients that take the places of those that have been served.
const SPARE: usize = 100;

/// The limit of open files may allow fewer clients.
fn most_waiters(_: Effort) -> usize {
    most_clients().min(3 * PORTS) - SPARE - 1
}

fn waiters(lab: &mut Lab, most: usize) -> Plan {
    let crowd = Rc::new(RefCell::new(LockCrowd::new(lab, most + 1 + SPARE)));
    let line = Rc::new(RefCell::new(LockLine::new(&crowd, "job".into())));
    let size = Rc::new(Cell::new(0));
    let count = lab.effort.commands / 20;
    let grow = {
        let (line, size) = (Rc::clone(&line), Rc::clone(&size));
        move |lab: &mut Lab, to: usize| {
            line.borrow_mut().grow(lab, to);
            size.set(to);
        }
    };
    let served = Rc::clone(&line);
    let hand_over = Contender::custom("the lock is handed over, a client joins", move |_| {
        (0..count).for_each(|_| served.borrow_mut().hand_over());
        count
    });
    let mut random = Random::new(1);
    let replace = Contender::custom("one of them gives up, a client joins", move |lab| {
        for _ in 0..count {
            line.borrow_mut().replace(lab, 1 + random.below(size.get()));
        }
        count
    });
    let elsewhere = fresh("LOCK.ACQUIRE and RELEASE of another lock", |lab| {
        super::super::each(0..lab.effort.commands, &[":1", ":1"], |r, n| {
            r.push(&args!["LOCK.ACQUIRE", format!("other:{n}"), "owner", 60_000]);
            r.push(&args!["LOCK.RELEASE", format!("other:{n}"), "owner"]);
        })
    });
    Plan::new(grow, [hand_over, replace, elsewhere])
}

/// The queues are empty, or the last one has a task.
fn then(_: &mut Lab, _: usize) -> Plan {
    let size = Rc::new(Cell::new(1));
    let grow = {
        let size = Rc::clone(&size);
        move |lab: &mut Lab, to: usize| {
            size.set(to);
            lab.prepare(&super::super::each(0..to, &[""], |r, n| {
                r.push(&args!["DEL", queue(n)]);
                r.push(&args!["XGROUP", "CREATE", queue(n), "workers", "0", "MKSTREAM"]);
            }));
        }
    };
    let of_all = |label, make: fn(usize) -> Vec<Vec<u8>>, expected: &'static str| {
        let size = Rc::clone(&size);
        fresh(label, move |lab| {
            super::super::each(0..lab.effort.commands / 4, &[expected], |r, _| {
                r.push(&make(size.get()));
            })
        })
    };
    let last = Rc::clone(&size);
    let fill = move |lab: &mut Lab| {
        let mut requests = Requests::expecting(&[""]);
        let queue = queue(last.get() - 1);
        requests.push(&args!["DEL", queue]);
        requests.push(&args!["XGROUP", "CREATE", queue, "workers", "0", "MKSTREAM"]);
        for _ in 0..lab.effort.commands / 4 {
            requests.push(&args!["TASK.PUBLISH", queue, "payload"]);
        }
        lab.prepare(&requests);
    };
    Plan::new(
        grow,
        [
            of_all("TASK.CONSUME, nothing there", consume, "*"),
            of_all("XREADGROUP, nothing there", xreadgroup, "*-1"),
            of_all("TASK.CONSUME, a task of the last one", consume, "*1").setup_with(fill),
        ],
    )
}

fn queue(number: usize) -> String {
    format!("mail:{number}")
}

fn consume(queues: usize) -> Vec<Vec<u8>> {
    let mut command: Vec<_> = args!["TASK.CONSUME", "workers", "w1", queue(0)].into();
    if queues > 1 {
        command.extend(args!["THEN", queues - 1]);
        command.extend((1..queues).map(|number| queue(number).into_bytes()));
    }
    command
}

fn xreadgroup(queues: usize) -> Vec<Vec<u8>> {
    let mut command: Vec<_> =
        args!["XREADGROUP", "GROUP", "workers", "w1", "COUNT", 1, "STREAMS"].into();
    command.extend((0..queues).map(|number| queue(number).into_bytes()));
    command.extend((0..queues).map(|_| b">".to_vec()));
    command
}
