//! TASK.CONSUME compared with XREADGROUP: alone, with TASK.ACK, and on queues with more than one stream.

use super::super::{each, once};
use super::{
    STREAMS, delayed, empty_queues, id, payload, priority_stream, ready, stream, xadd, xreadgroup,
};
use crate::measure::{CONNECTIONS, Case, Contender, Lab};
use crate::support::args;
use crate::verdict::Bar;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "TASK.CONSUME, 1 task",
        build: |lab| consume(lab, 1, Bar { goal: 0.85, reached: 0.86 }),
    },
    Case {
        name: "TASK.CONSUME, 10 tasks",
        build: |lab| consume(lab, 10, Bar { goal: 0.88, reached: 0.90 }),
    },
    Case { name: "TASK.CONSUME, empty queue", build: consume_from_empty },
    Case { name: "TASK.CONSUME + TASK.ACK", build: consume_and_ack },
    Case { name: "TASK.CONSUME, delayed, PRIORITY 5", build: mixed },
    Case { name: "TASK.CONSUME, from PRIORITY 5", build: from_priority },
    Case { name: "TASK.CONSUME, other queues are busy", build: busy_neighbors },
];

fn ours(lab: &Lab) -> Requests {
    each(once(lab), &["*1"], |r, n| r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n)]))
}

fn native(lab: &Lab) -> Requests {
    each(once(lab), &["*1"], |r, n| r.push(&xreadgroup(stream(n), 1)))
}

fn consume(lab: &mut Lab, count: usize, bar: Bar) -> Vec<Contender> {
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
        Contender::new("TASK.CONSUME", ours).setup(ready(tasks)),
        Contender::native("XREADGROUP", native).setup(ready(tasks)).bar(bar),
        Contender::new("TASK.CONSUME META", meta).setup(ready(tasks)),
    ]
}

fn consume_from_empty(lab: &mut Lab) -> Vec<Contender> {
    lab.prepare(&empty_queues());
    let ours = each(once(lab), &["*-1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", stream(n), 1]);
    });
    let native = each(once(lab), &["*-1"], |r, n| r.push(&xreadgroup(stream(n), 1)));
    vec![
        Contender::new("TASK.CONSUME", ours),
        Contender::native("XREADGROUP", native).bar(Bar { goal: 0.80, reached: 0.66 }),
    ]
}

/// The commands of a worker for each task. Each connection has its own stream, so the id of the next
/// task is known in advance and the acknowledgment can be sent with the read.
fn consume_and_ack(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local done = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
         redis.call('XDEL', KEYS[1], ARGV[2])
         return done",
    );
    let (tasks, pipeline) = (lab.effort.commands, lab.effort.pipeline);
    let own_stream = |n: usize| stream(n / pipeline % CONNECTIONS);
    let tasks_ready = || {
        let mut requests = empty_queues();
        for n in 0..tasks {
            requests.push(&xadd(own_stream(n), id(n)));
        }
        requests
    };
    let ours = each(0..tasks, &["*1", ":1"], |r, n| {
        r.push(&args!["TASK.CONSUME", "workers", "w1", own_stream(n)]);
        r.push(&args!["TASK.ACK", own_stream(n), "workers", id(n)]);
    });
    let native = each(0..tasks, &["*1", ":1", ":1"], |r, n| {
        r.push(&xreadgroup(own_stream(n), 1));
        r.push(&args!["XACK", own_stream(n), "workers", id(n)]);
        r.push(&args!["XDEL", own_stream(n), id(n)]);
    });
    let multi = each(0..tasks, &["*1", "+OK", "+QUEUED", "+QUEUED", "*2"], |r, n| {
        r.push(&xreadgroup(own_stream(n), 1));
        r.push(&args!["MULTI"]);
        r.push(&args!["XACK", own_stream(n), "workers", id(n)]);
        r.push(&args!["XDEL", own_stream(n), id(n)]);
        r.push(&args!["EXEC"]);
    });
    let lua = each(0..tasks, &["*1", ":1"], |r, n| {
        r.push(&xreadgroup(own_stream(n), 1));
        r.push(&args!["EVALSHA", script, 1, own_stream(n), "workers", id(n)]);
    });
    vec![
        Contender::new("CONSUME, ACK", ours).setup(tasks_ready()),
        Contender::new("XREADGROUP, XACK, XDEL", native).setup(tasks_ready()),
        Contender::new("XREADGROUP, MULTI ... EXEC", multi).setup(tasks_ready()),
        Contender::new("XREADGROUP, Lua: XACK, XDEL", lua).setup(tasks_ready()),
    ]
}

/// A script that does the work of TASK.CONSUME: it checks for due tasks, then reads the streams from
/// the highest priority down.
fn read_all(lab: &mut Lab) -> Requests {
    let script = lab.script(
        "local time = redis.call('TIME')
         local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
         if redis.call('ZRANGE', KEYS[3], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1] then
             return redis.error_reply('a delayed task is due') end
         for key = 1, 2 do
             local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1,
                 'STREAMS', KEYS[key], '>')
             if found then return found end
         end
         return false",
    );
    each(once(lab), &["*1"], |r, n| {
        let keys = [priority_stream(5, n), stream(n), delayed(n)];
        let call = ["EVALSHA".into(), script.clone(), "3".into()].into_iter().chain(keys);
        r.push(&call.chain(["workers".into(), "w1".into()]).collect::<Vec<String>>());
    })
}

/// The queues have ready tasks, delayed tasks and leased tasks of a higher priority.
fn mixed(lab: &mut Lab) -> Vec<Contender> {
    const DELAYED: usize = 100;
    let tasks = lab.effort.commands;
    let mixed_queues = || {
        let mut requests = empty_queues();
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
    let lua = read_all(lab);
    vec![
        Contender::new("TASK.CONSUME", ours(lab)).setup(mixed_queues()),
        Contender::new("Lua: ZRANGE, 2 XREADGROUP", lua).setup(mixed_queues()),
        Contender::new("TASK.CONSUME, ready tasks only", ours(lab)).setup(ready(tasks)),
        Contender::new("XREADGROUP", native(lab)).setup(mixed_queues()),
    ]
}

/// All ready tasks have a higher priority.
fn from_priority(lab: &mut Lab) -> Vec<Contender> {
    let tasks_ready = |lab: &Lab| {
        let mut requests = empty_queues();
        for n in 0..STREAMS {
            let group =
                args!["XGROUP", "CREATE", priority_stream(5, n), "workers", "0", "MKSTREAM"];
            requests.push(&group);
        }
        for n in 0..lab.effort.commands {
            let id = format!("1700000000000-5{:017}", n + 1);
            requests.push(&xadd(priority_stream(5, n), id));
        }
        requests
    };
    let lua = read_all(lab);
    let native = each(once(lab), &["*1"], |r, n| r.push(&xreadgroup(priority_stream(5, n), 1)));
    vec![
        Contender::new("TASK.CONSUME", ours(lab)).setup(tasks_ready(lab)),
        Contender::new("Lua: ZRANGE, XREADGROUP", lua).setup(tasks_ready(lab)),
        Contender::new("XREADGROUP of that stream", native).setup(tasks_ready(lab)),
        Contender::new("TASK.CONSUME, PRIORITY 0", ours(lab)).setup(ready(lab.effort.commands)),
    ]
}

/// Other queues of the server have delayed tasks and tasks of a higher priority. These have none.
fn busy_neighbors(lab: &mut Lab) -> Vec<Contender> {
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
    let no_others = || {
        each(0..OTHERS, &[":"], |r, n| {
            let derived = ["delayed", "priority5"].map(|prefix| format!("{prefix}:{{mail:{n}}}"));
            r.push(&args!["DEL", format!("mail:{n}"), derived[0], derived[1]]);
        })
    };
    let tasks_ready = || ready(tasks);
    vec![
        Contender::new("TASK.CONSUME", ours(lab))
            .setup(no_others())
            .setup(others())
            .setup(tasks_ready()),
        Contender::new("TASK.CONSUME, no other queues", ours(lab))
            .setup(no_others())
            .setup(tasks_ready())
            .bar(Bar { goal: 0.9, reached: 0.99 }),
        Contender::new("XREADGROUP", native(lab)).setup(no_others()).setup(tasks_ready()),
    ]
}
