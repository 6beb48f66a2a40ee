//! Commands that end or extend a lease, compared with scripts that do the same.

use super::super::{each, once};
use super::{TIMESTAMP, delayed, id, leased, payload, retry_stream, stream};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::verdict::Bar;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.ACK", build: ack },
    Case { name: "TASK.EXTEND", build: extend },
    Case { name: "TASK.NACK FAIL", build: nack },
    Case { name: "TASK.RETRY", build: retry },
];

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
        Contender::new("TASK.ACK", ours).setup(leased(tasks)),
        Contender::new("Lua: XACK, XDEL", lua).relay(native.relayed()).setup(leased(tasks)),
        Contender::native("XACK + XDEL", native)
            .setup(leased(tasks))
            .bar(Bar { goal: 0.90, reached: 0.84 }),
        Contender::new("MULTI, XACK, XDEL, EXEC", multi).setup(leased(tasks)),
    ]
}

/// Only the consumer that holds the lease may extend it.
fn extend(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "if not redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1] then
             return 0 end
         return #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.EXTEND", stream(n), "workers", "w1", id(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, stream(n), "workers", "w1", id(n)]);
    });
    let native = each(once(lab), &["*1"], |r, n| {
        r.push(&args!["XCLAIM", stream(n), "workers", "w1", 0, id(n), "JUSTID"]);
    });
    vec![
        Contender::new("TASK.EXTEND", ours).setup(leased(tasks)),
        Contender::new("Lua: XPENDING, XCLAIM", lua).setup(leased(tasks)),
        Contender::new("XCLAIM without a check", native).setup(leased(tasks)),
    ]
}

/// The task is delayed. The delay grows with each failure.
fn nack(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]
         if not lease then return 0 end
         local task = {}
         local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1][2]
         for field = 1, #entry, 2 do task[entry[field]] = entry[field + 1] end
         local tries = (task.retry_count or 0) + lease[4]
         if tries >= 20 then return redis.error_reply('the task has no tries left') end
         local time = redis.call('TIME')
         local wait = math.random(0, math.min(1000 * 2 ^ (tries - 1), 600000))
         local due = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + wait)
         local id = due .. '-1' .. string.format('%018.0f', time[1] * 1000000 + time[2])
         redis.call('ZADD', KEYS[2], due,
             id .. ':' .. ARGV[3] .. ' 0 ' .. tries .. ' - ' .. task.payload)
         redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
         redis.call('XDEL', KEYS[1], ARGV[3])
         return 1",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.NACK", stream(n), "workers", "w1", "FAIL", id(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, stream(n), delayed(n), "workers", "w1", id(n)]);
    });
    vec![
        Contender::new("TASK.NACK FAIL", ours).setup(leased(tasks)),
        Contender::new("Lua: XPENDING ... XDEL", lua).setup(leased(tasks)),
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
            retry_stream(n),
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
            retry_stream(n),
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
            retry_stream(n),
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
        Contender::new("TASK.RETRY", ours).setup(leased(tasks)),
        Contender::new("Lua: XADD, XACK, XDEL", lua).setup(leased(tasks)),
        Contender::new("XADD + XACK + XDEL", native).setup(leased(tasks)),
    ]
}
