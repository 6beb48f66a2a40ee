//! Clients that wait for tasks: what they cost the one who publishes, and how soon they are served.

use super::publish::{by_hand, plain};
use super::{empty, empty_stream, payload, xadd};
use crate::crowd::{Crowd, Wish, asks};
use crate::latency::{Race, Runner};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::wire::{Requests, encoded};
use std::cell::RefCell;
use std::rc::Rc;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.PUBLISH, 1 waits elsewhere", build: |lab| publish_beside(lab, 1) },
    Case { name: "TASK.PUBLISH, 2,000 wait elsewhere", build: |lab| publish_beside(lab, CROWD) },
    Case { name: "TASK.PUBLISH, 2,000 in another group", build: publish_to_others },
    Case { name: "Hand-over to the only one who waits", build: |lab| hand_over(lab, 1) },
    Case { name: "Hand-over to the first of 64", build: |lab| hand_over(lab, 64) },
    Case { name: "Hand-over to the first of 2,000", build: |lab| hand_over(lab, CROWD) },
];

/// The races of clients that wait.
pub const RACES: &[Race] = &[Race { name: "a task is published", contenders: wake_ups }];

/// How many clients there are where tasks are handed over.
const CROWD: usize = 2000;

/// The stream for whose tasks somebody waits.
const STREAM: &str = "mail:1";

/// A crowd that waits for tasks by TASK.CONSUME.
fn consumers(size: usize) -> Wish {
    Wish {
        ask: asks(size, |member| {
            args!["TASK.CONSUME", "workers", format!("w{member}"), STREAM, 1, 0]
        }),
        grant: encoded(&args!["TASK.PUBLISH", STREAM, payload()]),
    }
}

/// The same by XREADGROUP.
fn readers(size: usize) -> Wish {
    Wish {
        ask: asks(size, |member| {
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
        grant: encoded(&xadd(STREAM, "*")),
    }
}

/// Publishing while `waiting` clients wait for tasks of another stream.
fn publish_beside(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, waiting)));
    let beside = |wish: Option<fn(usize) -> Wish>| {
        let crowd = Rc::clone(&crowd);
        move |lab: &mut Lab| {
            let mut crowd = crowd.borrow_mut();
            crowd.disperse(lab);
            lab.arrange(&empty_stream(STREAM));
            if let Some(wish) = wish {
                crowd.gather(lab, waiting, wish(waiting));
            }
            lab.arrange(&empty());
        }
    };
    vec![
        Contender::new("TASK.PUBLISH", plain(lab)).prepared(beside(Some(consumers))),
        Contender::new("TASK.PUBLISH, nobody waits", plain(lab)).prepared(beside(None)).bar(0.9),
        Contender::new("XADD, as many wait", by_hand(lab)).prepared(beside(Some(readers))),
    ]
}

/// Publishing to a queue with two groups. Nobody waits in one of them; in the other one `waiting`
/// clients do, and each task goes to the first of them.
fn publish_to_others(lab: &mut Lab) -> Vec<Contender> {
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    let few = lab.effort.pipeline;
    let two_groups = || {
        let mut requests = empty_stream(STREAM);
        requests.push(&args!["XGROUP", "CREATE", STREAM, "others", "0"]);
        requests
    };
    let nobody = (Rc::clone(&crowd), consumers(0).grant.repeat(few));
    let batches = (lab.effort.commands / 10).div_ceil(few);
    let in_vain = Contender::custom("PUBLISH, nobody waits", move |lab| {
        for _ in 0..batches {
            lab.connections[0].send(&nobody.1);
            (0..few).for_each(|_| lab.connections[0].expect("$"));
        }
        batches * few
    });
    let in_vain = in_vain.prepared(move |lab| {
        nobody.0.borrow_mut().disperse(lab);
        lab.arrange(&two_groups());
    });
    vec![
        served(lab, &crowd, "PUBLISH to CONSUME", CROWD, consumers, two_groups),
        served(lab, &crowd, "PUBLISH to CONSUME, 16 wait", few, consumers, two_groups).bar(0.9),
        served(lab, &crowd, "XADD to XREADGROUP BLOCK", CROWD, readers, two_groups),
        in_vain,
    ]
}

/// Publishing tasks that go to the first in line of `waiting` clients. As many are connected in
/// every case, because it costs more to talk to many clients than to few.
fn hand_over(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    let few = waiting.min(lab.effort.pipeline);
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    let one_group = || empty_stream(STREAM);
    let mut contenders = vec![
        served(lab, &crowd, "PUBLISH to CONSUME", waiting, consumers, one_group),
        served(lab, &crowd, "XADD to XREADGROUP BLOCK", waiting, readers, one_group),
    ];
    if waiting > few {
        let few = served(lab, &crowd, "PUBLISH to CONSUME, few wait", few, consumers, one_group);
        contenders.push(few.bar(0.9));
    }
    contenders
}

/// Publishes as many tasks at once as there are to be served at once, and sees them served.
fn served(
    lab: &Lab,
    crowd: &Rc<RefCell<Crowd>>,
    label: &'static str,
    waiting: usize,
    wish: fn(usize) -> Wish,
    queue: fn() -> Requests,
) -> Contender {
    let few = waiting.min(lab.effort.pipeline);
    let (gathering, serving) = (Rc::clone(crowd), Rc::clone(crowd));
    let batches = (lab.effort.commands / 10).div_ceil(few);
    let batch = wish(0).grant.repeat(few);
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
    Contender::custom(label, turn).prepared(move |lab| {
        let mut crowd = gathering.borrow_mut();
        crowd.disperse(lab);
        lab.arrange(&queue());
        crowd.gather(lab, waiting, wish(CROWD));
    })
}

/// A consumer waits for a task that another client publishes.
fn wake_ups() -> Vec<Runner> {
    let runner = |label, wish: Wish| Runner {
        label,
        before: empty_stream(STREAM),
        wait: wish.ask.concat(),
        wake: wish.grant,
    };
    let urgent = encoded(&args!["TASK.PUBLISH", STREAM, payload(), "PRIORITY", 5]);
    vec![
        runner("TASK.CONSUME", consumers(1)),
        runner("XREADGROUP BLOCK", readers(1)),
        runner("TASK.CONSUME, PRIORITY 5", Wish { grant: urgent, ..consumers(1) }),
    ]
}
