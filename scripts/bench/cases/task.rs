//! TASK.* beside the stream commands and the scripts of a queue on plain streams.

use super::{each, once};
use crate::crowd::{Crowd, Wish, asks};
use crate::latency::{Race, Runner};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::wire::{Requests, encoded};
use std::cell::RefCell;
use std::rc::Rc;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.PUBLISH", build: publish },
    Case { name: "TASK.PUBLISH, 1 waits elsewhere", build: |lab| publish_beside(lab, 1) },
    Case { name: "TASK.PUBLISH, 2,000 wait elsewhere", build: |lab| publish_beside(lab, CROWD) },
    Case { name: "Hand-over to the only one who waits", build: |lab| hand_over(lab, 1) },
    Case { name: "Hand-over to the first of 64", build: |lab| hand_over(lab, 64) },
    Case { name: "Hand-over to the first of 2,000", build: |lab| hand_over(lab, CROWD) },
    Case { name: "TASK.CONSUME, 1 task", build: |lab| consume(lab, 1) },
    Case { name: "TASK.CONSUME, 10 tasks", build: |lab| consume(lab, 10) },
    Case { name: "TASK.CONSUME, nothing there", build: consume_nothing },
    Case { name: "TASK.ACK", build: ack },
    Case { name: "TASK.RETRY", build: retry },
];

/// The races of clients that wait.
pub const RACES: &[Race] = &[Race { name: "a task is published", contenders: wake_ups }];

/// How many streams the tasks are spread over.
const STREAMS: usize = 8;

/// How many clients there are where tasks are handed over.
const CROWD: usize = 2000;

const TIMESTAMP: &str = "1700000000";

fn stream(number: usize) -> String {
    format!("jobs:{}", number % STREAMS)
}

fn copies(number: usize) -> String {
    format!("jobs:{}:again", number % STREAMS)
}

/// The id of an entry that a fixture made.
fn id(number: usize) -> String {
    format!("1700000000000-{}", number + 1)
}

fn payload() -> String {
    "p".repeat(100)
}

/// Empty streams, each with a group.
fn empty() -> Requests {
    each(0..STREAMS, &[""], |r, n| {
        r.push(&args!["DEL", stream(n), copies(n)]);
        r.push(&args!["XGROUP", "CREATE", stream(n), "workers", "0", "MKSTREAM"]);
    })
}

/// As many tasks as the numbers below `tasks`, ready.
fn ready(tasks: usize) -> Requests {
    let mut requests = empty();
    for n in 0..tasks {
        requests.push(&args![
            "XADD",
            stream(n),
            id(n),
            "payload",
            payload(),
            "timestamp",
            TIMESTAMP,
            "retry_count",
            0
        ]);
    }
    requests
}

/// As many tasks as the numbers below `tasks`, leased to a worker.
fn leased(tasks: usize) -> Requests {
    let mut requests = ready(tasks);
    for n in 0..STREAMS {
        requests.push(&args![
            "XREADGROUP",
            "GROUP",
            "workers",
            "w1",
            "COUNT",
            tasks,
            "STREAMS",
            stream(n),
            ">"
        ]);
    }
    requests
}

fn task_publish(lab: &Lab) -> Requests {
    each(once(lab), &["$"], |r, n| {
        r.push(&args!["TASK.PUBLISH", stream(n), payload()]);
    })
}

fn xadd(lab: &Lab) -> Requests {
    each(once(lab), &["$"], |r, n| {
        r.push(&args![
            "XADD",
            stream(n),
            "*",
            "payload",
            payload(),
            "timestamp",
            TIMESTAMP,
            "retry_count",
            0
        ]);
    })
}

fn publish(lab: &mut Lab) -> Vec<Contender> {
    vec![
        Contender::new("TASK.PUBLISH", task_publish(lab)).after(empty()),
        Contender::new("XADD", xadd(lab)).after(empty()).bar(0.85),
    ]
}

/// A crowd that waits for tasks of the stream `elsewhere`, by TASK.CONSUME.
fn consumers(stream: &'static str, size: usize) -> Wish {
    Wish {
        ask: asks(size, |member| {
            args!["TASK.CONSUME", "workers", format!("w{member}"), stream, 1, 0]
        }),
        grant: encoded(&args!["TASK.PUBLISH", stream, payload()]),
    }
}

/// The same by XREADGROUP.
fn readers(stream: &'static str, size: usize) -> Wish {
    Wish {
        ask: asks(size, |member| {
            args![
                "XREADGROUP",
                "GROUP",
                "workers",
                format!("w{member}"),
                "COUNT",
                1,
                "BLOCK",
                0,
                "STREAMS",
                stream,
                ">"
            ]
        }),
        grant: encoded(&args![
            "XADD",
            stream,
            "*",
            "payload",
            payload(),
            "timestamp",
            TIMESTAMP,
            "retry_count",
            0
        ]),
    }
}

/// An empty stream with a group.
fn empty_stream(stream: &str) -> Requests {
    let mut requests = Requests::expecting(&[""]);
    requests.push(&args!["DEL", stream]);
    requests.push(&args!["XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"]);
    requests
}

/// Publishing while `waiting` clients wait for tasks of another stream.
fn publish_beside(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    const ELSEWHERE: &str = "mail:1";
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, waiting)));
    let beside = |wish: Option<fn(&'static str, usize) -> Wish>| {
        let crowd = Rc::clone(&crowd);
        move |lab: &mut Lab| {
            let mut crowd = crowd.borrow_mut();
            crowd.disperse(lab);
            lab.arrange(&empty_stream(ELSEWHERE));
            if let Some(wish) = wish {
                crowd.gather(lab, waiting, wish(ELSEWHERE, waiting));
            }
            lab.arrange(&empty());
        }
    };
    vec![
        Contender::new("TASK.PUBLISH", task_publish(lab)).prepared(beside(Some(consumers))),
        Contender::new("TASK.PUBLISH, nobody waits", task_publish(lab))
            .prepared(beside(None))
            .bar(0.9),
        Contender::new("XADD, as many wait", xadd(lab)).prepared(beside(Some(readers))),
    ]
}

/// Publishing tasks that go to the first in line of `waiting` clients. As many are connected in
/// every case, because it costs more to talk to many clients than to few.
fn hand_over(lab: &mut Lab, waiting: usize) -> Vec<Contender> {
    const STREAM: &str = "mail:1";
    let few = waiting.min(lab.effort.pipeline);
    let crowd = Rc::new(RefCell::new(Crowd::new(lab, CROWD)));
    let contender = |label, waiting: usize, wish: fn(&'static str, usize) -> Wish| {
        let (gathering, serving) = (Rc::clone(&crowd), Rc::clone(&crowd));
        let batches = (lab.effort.commands / 10).div_ceil(few);
        let batch = wish(STREAM, 0).grant.repeat(few);
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
            lab.arrange(&empty_stream(STREAM));
            crowd.gather(lab, waiting, wish(STREAM, CROWD));
        })
    };
    let mut contenders = vec![
        contender("PUBLISH to CONSUME", waiting, consumers),
        contender("XADD to XREADGROUP BLOCK", waiting, readers),
    ];
    if waiting > few {
        contenders.push(contender("PUBLISH to CONSUME, few wait", few, consumers).bar(0.9));
    }
    contenders
}

fn consume(lab: &mut Lab, count: usize) -> Vec<Contender> {
    let tasks = lab.effort.commands;
    let calls = tasks / count;
    let ours = each(0..calls, &["*1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), count]);
    });
    let native = each(0..calls, &["*1"], |r, n| {
        r.push(&args![
            "XREADGROUP",
            "GROUP",
            "workers",
            "w1",
            "COUNT",
            count,
            "STREAMS",
            stream(n),
            ">"
        ]);
    });
    vec![
        Contender::new("TASK.CONSUME", ours).after(ready(tasks)),
        Contender::new("XREADGROUP", native).after(ready(tasks)).bar(0.85),
    ]
}

fn consume_nothing(lab: &mut Lab) -> Vec<Contender> {
    lab.arrange(&empty());
    let ours = each(once(lab), &["*-1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), 1]);
    });
    let native = each(once(lab), &["*-1"], |r, n| {
        r.push(&args![
            "XREADGROUP",
            "GROUP",
            "workers",
            "w1",
            "COUNT",
            1,
            "STREAMS",
            stream(n),
            ">"
        ]);
    });
    vec![Contender::new("TASK.CONSUME", ours), Contender::new("XREADGROUP", native)]
}

fn ack(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local done = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
         redis.call('XDEL', KEYS[1], ARGV[2])
         return done",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.ACK", stream(n), "workers", id(n)]);
    });
    let both = |r: &mut Requests, n| {
        r.push(&args!["XACK", stream(n), "workers", id(n)]);
        r.push(&args!["XDEL", stream(n), id(n)]);
    };
    let native = each(once(lab), &[":1", ":1"], both);
    let multi = each(once(lab), &["+OK", "+QUEUED", "+QUEUED", "*2"], |r, n| {
        r.push(&args!["MULTI"]);
        both(r, n);
        r.push(&args!["EXEC"]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, stream(n), "workers", id(n)]);
    });
    vec![
        Contender::new("TASK.ACK", ours).after(leased(tasks)),
        Contender::new("XACK + XDEL", native).after(leased(tasks)),
        Contender::new("MULTI, XACK, XDEL, EXEC", multi).after(leased(tasks)),
        Contender::new("Lua: XACK, XDEL", lua).after(leased(tasks)),
    ]
}

fn retry(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "redis.call('XADD', KEYS[2], '*', 'payload', ARGV[3], 'timestamp', ARGV[4],
             'retry_count', ARGV[5], 'original_id', ARGV[2])
         redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
         redis.call('XDEL', KEYS[1], ARGV[2])
         return 1",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &["+OK"], |r, n| {
        r.push(&args![
            "TASK.RETRY",
            stream(n),
            id(n),
            payload(),
            0,
            copies(n),
            "dead",
            3,
            "workers"
        ]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args![
            "EVALSHA",
            script,
            2,
            stream(n),
            copies(n),
            "workers",
            id(n),
            payload(),
            TIMESTAMP,
            1
        ]);
    });
    let native = each(once(lab), &["$", ":1", ":1"], |r, n| {
        r.push(&args![
            "XADD",
            copies(n),
            "*",
            "payload",
            payload(),
            "timestamp",
            TIMESTAMP,
            "retry_count",
            1,
            "original_id",
            id(n)
        ]);
        r.push(&args!["XACK", stream(n), "workers", id(n)]);
        r.push(&args!["XDEL", stream(n), id(n)]);
    });
    vec![
        Contender::new("TASK.RETRY", ours).after(leased(tasks)),
        Contender::new("Lua: XADD, XACK, XDEL", lua).after(leased(tasks)),
        Contender::new("XADD + XACK + XDEL", native).after(leased(tasks)),
    ]
}

/// A consumer waits for a task that another client publishes.
fn wake_ups() -> Vec<Runner> {
    const STREAM: &str = "mail:1";
    let runner = |label, wish: Wish| Runner {
        label,
        before: empty_stream(STREAM),
        wait: wish.ask.concat(),
        wake: wish.grant,
    };
    vec![
        runner("TASK.CONSUME", consumers(STREAM, 1)),
        runner("XREADGROUP BLOCK", readers(STREAM, 1)),
    ]
}
