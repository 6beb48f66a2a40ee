//! Consumers that wait: their cost for publishers, the cost of a hand-over and its latency.

use super::publish::{native, plain};
use super::{empty_queues, empty_stream, payload, xadd};
use crate::crowd::{Crowd, Wait, commands};
use crate::latency::{LatencyCase, LatencyContender};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::verdict::Bar;
use crate::wire::{Requests, encoded};
use std::cell::RefCell;
use std::rc::Rc;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.PUBLISH, 1 waits elsewhere", build: |lab| publish_elsewhere(lab, 1) },
    Case { name: "TASK.PUBLISH, 2,000 wait elsewhere", build: |lab| publish_elsewhere(lab, CROWD) },
    Case { name: "TASK.PUBLISH, 2,000 wait in one group", build: publish_to_two_groups },
    Case { name: "TASK hand-over, 1 waiter", build: |lab| hand_over(lab, 1) },
    Case { name: "TASK hand-over, 64 waiters", build: |lab| hand_over(lab, 64) },
    Case { name: "TASK hand-over, 2,000 waiters", build: |lab| hand_over(lab, CROWD) },
    Case { name: "TASK hand-over, waiters in 1, 8 and 64 queues", build: hand_over_from_several },
];

/// The latency cases.
pub const LATENCIES: &[LatencyCase] =
    &[LatencyCase { name: "a task is published", build: wake_ups }];

/// However many clients wait, the cost is that of few.
const FLAT: Bar = Bar { goal: 0.9, reached: 0.9 };

/// The number of connected clients in the hand-over cases.
const CROWD: usize = 2000;

/// The stream on which clients wait.
const STREAM: &str = "mail:1";

/// A crowd that waits with TASK.CONSUME.
fn consumers(size: usize) -> Wait {
    Wait {
        commands: commands(size, |member| {
            args!["TASK.CONSUME", "workers", format!("w{member}"), STREAM, 1, 0]
        }),
        wake: encoded(&args!["TASK.PUBLISH", STREAM, payload()]),
    }
}

/// The queues that a client names, the one that gets the tasks last.
fn several(queues: usize) -> impl Iterator<Item = String> {
    (0..queues).rev().map(|number| format!("mail:{}", number + 1))
}

/// A crowd whose members wait for tasks of `QUEUES` queues.
fn consumers_of<const QUEUES: usize>(size: usize) -> Wait {
    let command = |member| {
        let mut command: Vec<Vec<u8>> =
            args!["TASK.CONSUME", "workers", format!("w{member}"), "mail:0", "BLOCK", 0].to_vec();
        command.extend(args!["THEN", QUEUES - 1]);
        command.extend(several(QUEUES - 1).map(Into::into));
        encoded(&command)
    };
    Wait { commands: (0..size).map(command).collect(), ..consumers(0) }
}

/// The same with XREADGROUP.
fn readers_of<const QUEUES: usize>(size: usize) -> Wait {
    let command = |member| {
        let mut command: Vec<Vec<u8>> =
            args!["XREADGROUP", "GROUP", "workers", format!("w{member}"), "COUNT", 1].to_vec();
        command.extend(args!["BLOCK", 0, "STREAMS"]);
        command.extend(several(QUEUES).map(Into::into));
        command.extend((0..QUEUES).map(|_| b">".to_vec()));
        encoded(&command)
    };
    Wait { commands: (0..size).map(command).collect(), ..readers(0) }
}

/// A crowd that waits with XREADGROUP.
fn readers(size: usize) -> Wait {
    Wait {
        commands: commands(size, |member| {
            let name = format!("w{member}");
            args![
                "XREADGROUP",
                "GROUP",
                "workers",
                name,
                "COUNT",
                1,
                "BLOCK",
                0,
                "STREAMS",
                STREAM,
                ">"
            ]
        }),
        wake: encoded(&xadd(STREAM, "*")),
    }
}

/// Publishing while `waiting` clients wait for tasks of another stream.
fn publish_elsewhere(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, waiting)));
    let with = |wait: Option<fn(usize) -> Wait>| {
        let crowd = Rc::clone(&crowd);
        move |lab: &mut Lab| {
            let mut crowd = crowd.borrow_mut();
            crowd.disperse(lab);
            lab.prepare(&empty_stream(STREAM));
            if let Some(wait) = wait {
                crowd.gather(lab, waiting, wait(waiting));
            }
            lab.prepare(&empty_queues());
        }
    };
    vec![
        Contender::new("TASK.PUBLISH", plain(lab)).setup_with(with(Some(consumers))),
        Contender::new("TASK.PUBLISH, no waiters", plain(lab)).setup_with(with(None)).bar(FLAT),
        Contender::new("XADD, as many waiters", native(lab)).setup_with(with(Some(readers))),
    ]
}

/// Publishing to a queue with two groups. The clients wait in one of them, and each task goes to the
/// first waiter.
fn publish_to_two_groups(lab: &mut Lab) -> Vec<Contender> {
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    let few = lab.effort.pipeline;
    let two_groups = || {
        let mut requests = empty_stream(STREAM);
        requests.push(&args!["XGROUP", "CREATE", STREAM, "others", "0"]);
        requests
    };
    let unserved = (Rc::clone(&crowd), consumers(0).wake.repeat(few));
    let batches = (lab.effort.commands / 10).div_ceil(few);
    let no_waiters = Contender::custom("PUBLISH, no waiters", move |lab| {
        for _ in 0..batches {
            lab.connections[0].send(&unserved.1);
            (0..few).for_each(|_| lab.connections[0].expect("$"));
        }
        batches * few
    });
    let no_waiters = no_waiters.setup_with(move |lab| {
        unserved.0.borrow_mut().disperse(lab);
        lab.prepare(&two_groups());
    });
    vec![
        served(lab, &crowd, "PUBLISH to CONSUME", CROWD, consumers, two_groups),
        served(lab, &crowd, "PUBLISH to CONSUME, few waiters", few, consumers, two_groups)
            .bar(FLAT),
        served(lab, &crowd, "XADD to XREADGROUP BLOCK", CROWD, readers, two_groups),
        no_waiters,
    ]
}

/// Publishing tasks that go to the first of `waiting` clients. The same number of clients is connected
/// in every case, because talking to many clients costs more than talking to few.
fn hand_over(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    let few = waiting.min(lab.effort.pipeline);
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    let one_group = || empty_stream(STREAM);
    let mut contenders = vec![
        served(lab, &crowd, "PUBLISH to CONSUME", waiting, consumers, one_group),
        served(lab, &crowd, "XADD to XREADGROUP BLOCK", waiting, readers, one_group),
    ];
    if waiting > few {
        let few = served(lab, &crowd, "PUBLISH to CONSUME, few waiters", few, consumers, one_group);
        contenders.push(few.bar(FLAT));
    }
    contenders
}

/// Publishing tasks of one queue that go to the first of 64 clients, each of which waits for tasks of
/// several queues. Each client that was served waits again, so joining the lines is part of it.
fn hand_over_from_several(lab: &mut Lab) -> Vec<Contender> {
    const WAITING: usize = 64;
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    fn groups() -> Requests {
        let mut requests = empty_stream("mail:0");
        several(WAITING).for_each(|stream| {
            requests.push(&args!["DEL", stream]);
            requests.push(&args!["XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"]);
        });
        requests
    }
    let case = |label, wait| served(lab, &crowd, label, WAITING, wait, groups);
    vec![
        case("PUBLISH to CONSUME, 1 queue", consumers),
        case("PUBLISH to CONSUME, 8 queues", consumers_of::<8>),
        case("PUBLISH to CONSUME, 64 queues", consumers_of::<64>),
        case("XADD to XREADGROUP BLOCK, 8 streams", readers_of::<8>),
        case("XADD to XREADGROUP BLOCK, 64 streams", readers_of::<64>),
    ]
}

/// Publishes tasks in batches, and waits until the waiters have received them.
fn served(
    lab: &Lab,
    crowd: &Rc<RefCell<Crowd>>,
    label: &'static str,
    waiting: usize,
    wait: fn(usize) -> Wait,
    queue: fn() -> Requests,
) -> Contender {
    let few = waiting.min(lab.effort.pipeline);
    let (gathering, serving) = (Rc::clone(crowd), Rc::clone(crowd));
    let batches = (lab.effort.commands / 10).div_ceil(few);
    let batch = wait(0).wake.repeat(few);
    let turn = move |lab: &mut Lab| {
        for _ in 0..batches {
            lab.connections[0].send(&batch);
            serving.borrow_mut().serve(few);
            for _ in 0..few {
                lab.connections[0].expect("$");
            }
        }
        batches * few
    };
    Contender::custom(label, turn).setup_with(move |lab| {
        let mut crowd = gathering.borrow_mut();
        crowd.disperse(lab);
        lab.prepare(&queue());
        crowd.gather(lab, waiting, wait(CROWD));
    })
}

/// A consumer waits for a task that another client publishes.
fn wake_ups() -> Vec<LatencyContender> {
    let contender = |label, wait: Wait| LatencyContender {
        label,
        setup: empty_stream(STREAM),
        wait: wait.commands.concat(),
        wake: wait.wake,
    };
    let priority = encoded(&args!["TASK.PUBLISH", STREAM, payload(), "PRIORITY", 5]);
    vec![
        contender("TASK.CONSUME", consumers(1)),
        contender("XREADGROUP BLOCK", readers(1)),
        contender("TASK.CONSUME, PRIORITY 5", Wait { wake: priority, ..consumers(1) }),
    ]
}
