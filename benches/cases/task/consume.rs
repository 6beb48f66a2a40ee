//! TASK.CONSUME beside XREADGROUP, alone and together with TASK.ACK, and in queues that have more
//! than one stream to look at.

use super::super::{each, once};
use super::{STREAMS, delayed, empty, id, of_priority, payload, ready, stream, xadd, xreadgroup};
use crate::measure::{CONNECTIONS, Case, Contender, Lab};
use crate::support::args;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.CONSUME, 1 task", build: |lab| consume(lab, 1) },
    Case { name: "TASK.CONSUME, 10 tasks", build: |lab| consume(lab, 10) },
    Case { name: "TASK.CONSUME, nothing there", build: consume_nothing },
    Case { name: "TASK.CONSUME + TASK.ACK", build: consume_and_ack },
    Case { name: "TASK.CONSUME, beside delayed, urgent", build: beside_others },
    Case { name: "TASK.CONSUME, from PRIORITY 5", build: urgent },
    Case { name: "TASK.CONSUME, others have delayed ones", build: beside_queues },
];

fn ours(lab: &Lab) -> Requests {
    each(once(lab), &["*1"], |r, n| r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n)]))
}

fn native(lab: &Lab) -> Requests {
    each(once(lab), &["*1"], |r, n| r.push(&xreadgroup(stream(n), 1)))
}

fn consume(lab: &mut Lab, count: usize) -> Vec<Contender> {
    let tasks = lab.effort.commands;
    let calls = tasks / count;
    let ours = each(0..calls, &["*1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), count]);
    });
    let native = each(0..calls, &["*1"], |r, n| r.push(&xreadgroup(stream(n), count)));
    let meta = each(0..calls, &["*"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), "COUNT", count, "META"]);
    });
    vec![
        Contender::new("TASK.CONSUME", ours).after(ready(tasks)),
        Contender::new("XREADGROUP", native).after(ready(tasks)).bar(0.85),
        Contender::new("TASK.CONSUME META", meta).after(ready(tasks)),
    ]
}

fn consume_nothing(lab: &mut Lab) -> Vec<Contender> {
    lab.arrange(&empty());
    let ours = each(once(lab), &["*-1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), 1]);
    });
    let native = each(once(lab), &["*-1"], |r, n| r.push(&xreadgroup(stream(n), 1)));
    vec![Contender::new("TASK.CONSUME", ours), Contender::new("XREADGROUP", native)]
}

/// What a worker sends for each task. A connection has a stream of its own, so that what it reads
/// next is known when it is sent, and the acknowledgement can follow at once.
fn consume_and_ack(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local done = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
         redis.call('XDEL', KEYS[1], ARGV[2])
         return done",
    );
    let (tasks, pipeline) = (lab.effort.commands, lab.effort.pipeline);
    let of_connection = |n: usize| stream(n / pipeline % CONNECTIONS);
    let there = || {
        let mut requests = empty();
        for n in 0..tasks {
            requests.push(&xadd(of_connection(n), id(n)));
        }
        requests
    };
    let ours = each(0..tasks, &["*1", ":1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", of_connection(n)]);
        r.push(&args!["TASK.ACK", of_connection(n), "workers", id(n)]);
    });
    let native = each(0..tasks, &["*1", ":1", ":1"], |r, n| {
        r.push(&xreadgroup(of_connection(n), 1));
        r.push(&args!["XACK", of_connection(n), "workers", id(n)]);
        r.push(&args!["XDEL", of_connection(n), id(n)]);
    });
    let multi = each(0..tasks, &["*1", "+OK", "+QUEUED", "+QUEUED", "*2"], |r, n| {
        r.push(&xreadgroup(of_connection(n), 1));
        r.push(&args!["MULTI"]);
        r.push(&args!["XACK", of_connection(n), "workers", id(n)]);
        r.push(&args!["XDEL", of_connection(n), id(n)]);
        r.push(&args!["EXEC"]);
    });
    let lua = each(0..tasks, &["*1", ":1"], |r, n| {
        r.push(&xreadgroup(of_connection(n), 1));
        r.push(&args!["EVALSHA", script, 1, of_connection(n), "workers", id(n)]);
    });
    vec![
        Contender::new("CONSUME, ACK", ours).after(there()),
        Contender::new("XREADGROUP, XACK, XDEL", native).after(there()),
        Contender::new("XREADGROUP, MULTI ... EXEC", multi).after(there()),
        Contender::new("XREADGROUP, Lua: XACK, XDEL", lua).after(there()),
    ]
}

/// What TASK.CONSUME looks at before it reads: tasks that are due, and then the urgent ones.
fn look_everywhere(lab: &mut Lab) -> Requests {
    let script = lab.script(
        "local time = redis.call('TIME')
         local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
         if redis.call('ZRANGE', KEYS[3], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1] then
             return redis.error_reply('there is one to be moved') end
         for key = 1, 2 do
             local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1,
                 'STREAMS', KEYS[key], '>')
             if found then return found end
         end
         return false",
    );
    each(once(lab), &["*1"], |r, n| {
        let keys = [of_priority(5, n), stream(n), delayed(n)];
        let call = ["EVALSHA".into(), script.clone(), "3".into()].into_iter().chain(keys);
        r.push(&call.chain(["workers".into(), "w1".into()]).collect::<Vec<String>>());
    })
}

/// The queues have ready tasks, delayed ones and urgent ones, of which the latter are leased.
fn beside_others(lab: &mut Lab) -> Vec<Contender> {
    const DELAYED: usize = 100;
    let tasks = lab.effort.commands;
    let busy = || {
        let mut requests = empty();
        for n in 0..STREAMS {
            requests.push(&args!["TASK.PUBLISH", stream(n), payload(), "PRIORITY", 5]);
            requests.push(&args!["TASK.CONSUME", "workers", "w2", stream(n)]);
            for _ in 0..DELAYED {
                requests.push(&args!["TASK.PUBLISH", stream(n), payload(), "DELAY", 3_600_000]);
            }
        }
        for n in 0..tasks {
            requests.push(&xadd(stream(n), id(n)));
        }
        requests
    };
    let lua = look_everywhere(lab);
    vec![
        Contender::new("TASK.CONSUME", ours(lab)).after(busy()),
        Contender::new("Lua: ZRANGE, 2 XREADGROUP", lua).after(busy()),
        Contender::new("TASK.CONSUME, nothing else", ours(lab)).after(ready(tasks)),
        Contender::new("XREADGROUP", native(lab)).after(busy()),
    ]
}

/// All ready tasks are urgent.
fn urgent(lab: &mut Lab) -> Vec<Contender> {
    let there = |lab: &Lab| {
        let mut requests = empty();
        for n in 0..STREAMS {
            let group = args!["XGROUP", "CREATE", of_priority(5, n), "workers", "0", "MKSTREAM"];
            requests.push(&group);
        }
        for n in 0..lab.effort.commands {
            let id = format!("1700000000000-5{:017}", n + 1);
            requests.push(&xadd(of_priority(5, n), id));
        }
        requests
    };
    let lua = look_everywhere(lab);
    let native = each(once(lab), &["*1"], |r, n| r.push(&xreadgroup(of_priority(5, n), 1)));
    vec![
        Contender::new("TASK.CONSUME", ours(lab)).after(there(lab)),
        Contender::new("Lua: ZRANGE, XREADGROUP", lua).after(there(lab)),
        Contender::new("XREADGROUP of that stream", native).after(there(lab)),
        Contender::new("TASK.CONSUME, PRIORITY 0", ours(lab)).after(ready(lab.effort.commands)),
    ]
}

/// Other queues of the server have delayed and urgent tasks, these have none.
fn beside_queues(lab: &mut Lab) -> Vec<Contender> {
    const OTHERS: usize = 1000;
    let tasks = lab.effort.commands;
    let others = || {
        each(0..OTHERS, &[""], |r, n| {
            let other = format!("mail:{n}");
            r.push(&args!["TASK.PUBLISH", other, payload(), "DELAY", 3_600_000]);
            r.push(&args!["TASK.PUBLISH", other, payload(), "PRIORITY", 5]);
            r.push(&args!["TASK.CONSUME", "workers", "w2", other]);
        })
    };
    let nothing = || {
        each(0..OTHERS, &[":"], |r, n| {
            let derived = ["delayed", "priority5"].map(|prefix| format!("{prefix}:{{mail:{n}}}"));
            r.push(&args!["DEL", format!("mail:{n}"), derived[0], derived[1]]);
        })
    };
    let here = || ready(tasks);
    vec![
        Contender::new("TASK.CONSUME", ours(lab)).after(nothing()).after(others()).after(here()),
        Contender::new("TASK.CONSUME, no others", ours(lab))
            .after(nothing())
            .after(here())
            .bar(0.9),
        Contender::new("XREADGROUP", native(lab)).after(nothing()).after(here()),
    ]
}
