//! TASK.PUBLISH compared with XADD, and each of its options with a script that does the same.

use super::super::{each, once};
use super::{TIMESTAMP, delayed, empty_queues, payload, policy, priority_stream, stream, xadd};
use crate::measure::{Case, Contender, Lab};
use crate::support::{args, now_ms};
use crate::verdict::Bar;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.PUBLISH", build: publish },
    Case { name: "TASK.PUBLISH, queue with LIMIT", build: limited },
    Case { name: "TASK.PUBLISH PRIORITY", build: with_priority },
    Case { name: "TASK.PUBLISH DELAY", build: with_delay },
    Case { name: "TASK.PUBLISH UNIQUE, new id", build: |lab| unique(lab, true) },
    Case { name: "TASK.PUBLISH UNIQUE, duplicate", build: |lab| unique(lab, false) },
];

/// Publishes to each queue in turn.
pub fn plain(lab: &Lab) -> Requests {
    each(once(lab), &["$"], |r, n| {
        r.push(&args!["TASK.PUBLISH", stream(n), payload()]);
    })
}

/// The same with XADD.
pub fn native(lab: &Lab) -> Requests {
    each(once(lab), &["$"], |r, n| r.push(&xadd(stream(n), "*")))
}

fn publish(lab: &mut Lab) -> Vec<Contender> {
    let native = native(lab);
    vec![
        Contender::new("TASK.PUBLISH", plain(lab)).setup(empty_queues()),
        Contender::native("XADD", native)
            .setup(empty_queues())
            .bar(Bar { goal: 0.85, reached: 0.76 }),
    ]
}

/// No queue reaches the limit of its policy.
fn limited(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local limit = tonumber(redis.call('HGET', KEYS[1], 'limit') or 0)
         local length = redis.call('ZCARD', KEYS[2])
         for key = 3, 12 do length = length + redis.call('XLEN', KEYS[key]) end
         if limit > 0 and length >= limit then return redis.error_reply('TASKFULL') end
         return redis.call('XADD', KEYS[3], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0)",
    );
    let with = |option: &'static str, value: usize| {
        let mut requests = empty_queues();
        for n in 0..super::STREAMS {
            requests.push(&args!["TASK.POLICY", stream(n), option, value]);
        }
        requests
    };
    let limit = || with("LIMIT", 1_000_000);
    let lua = each(once(lab), &["$"], |r, n| {
        let keys = [policy(n), delayed(n), stream(n)];
        let keys = keys.into_iter().chain((1..10).map(|priority| priority_stream(priority, n)));
        let mut call = vec!["EVALSHA".to_owned(), script.clone(), "12".to_owned()];
        call.extend(keys.chain([payload(), TIMESTAMP.into()]));
        r.push(&call);
    });
    vec![
        Contender::new("LIMIT", plain(lab)).setup(limit()),
        Contender::new("Lua: HGET, ZCARD, XLEN, XADD", lua).setup(limit()),
        Contender::new("policy without LIMIT", plain(lab)).setup(with("TRIES", 5)),
        Contender::new("no policy", plain(lab)).setup(empty_queues()),
    ]
}

fn with_priority(lab: &mut Lab) -> Vec<Contender> {
    // The id contains the priority and always rises: the id of the current time, or else the next one.
    let script = lab.script(
        "local time = redis.call('TIME')
         local ms = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
         local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
         local id = ms .. '-500000000000000000'
         if last and string.sub(last[1], 1, #ms) >= ms then
             id = string.sub(last[1], 1, #ms) .. '-*' end
         return redis.call('XADD', KEYS[1], id, 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0)",
    );
    let ours = each(once(lab), &["$"], |r, n| {
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "PRIORITY", 5]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, priority_stream(5, n), payload(), TIMESTAMP]);
    });
    let native = each(once(lab), &["$"], |r, n| r.push(&xadd(priority_stream(5, n), "*")));
    vec![
        Contender::new("PRIORITY 5", ours).setup(empty_queues()),
        Contender::new("Lua: TIME, XREVRANGE, XADD", lua).setup(empty_queues()),
        Contender::new("XADD to a separate stream", native).setup(empty_queues()),
    ]
}

fn with_delay(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local time = redis.call('TIME')
         local micros = time[1] * 1000000 + time[2]
         local due = string.format('%.0f', math.floor(micros / 1000) + ARGV[1])
         local id = due .. '-1' .. string.format('%018.0f', micros)
         redis.call('ZADD', KEYS[1], 'NX', due, id .. ' 0 0 - ' .. ARGV[2])
         return id",
    );
    let delay = |n: usize| 60_000 + n % 1000 * 10;
    let ours = each(once(lab), &["$"], |r, n| {
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "DELAY", delay(n)]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, delayed(n), delay(n), payload()]);
    });
    let now = now_ms();
    let native = each(once(lab), &[":1"], |r, n| {
        let due = now + delay(n) as i64;
        let member = format!("{due}-1{n:018} 0 0 - {}", payload());
        r.push(&args!["ZADD", delayed(n), due, member]);
    });
    vec![
        Contender::new("DELAY", ours).setup(empty_queues()),
        Contender::new("Lua: TIME, ZADD", lua).setup(empty_queues()),
        Contender::new("ZADD, client clock", native).setup(empty_queues()),
    ]
}

fn unique(lab: &mut Lab, first: bool) -> Vec<Contender> {
    let script = lab.script(
        "local id = redis.call('GET', KEYS[2])
         if id then return id end
         id = redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0)
         redis.call('SET', KEYS[2], id, 'PX', ARGV[3])
         return id",
    );
    let key = |n: usize| format!("unique{}:{{{}}}:order-{n}", stream(n).len(), stream(n));
    let ours = each(once(lab), &["$"], |r, n| {
        let id = format!("order-{n}");
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "UNIQUE", id, 3_600_000]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, stream(n), key(n), payload(), TIMESTAMP, 3_600_000]);
    });
    let known = |lab: &Lab| {
        each(0..lab.effort.commands, &[""], |r, n| match first {
            true => r.push(&args!["DEL", key(n)]),
            false => r.push(&args!["SET", key(n), "1700000000000-1", "PX", 3_600_000]),
        })
    };
    vec![
        Contender::new("UNIQUE", ours).setup(empty_queues()).setup(known(lab)),
        Contender::new(if first { "Lua: GET, XADD, SET PX" } else { "Lua: GET" }, lua)
            .setup(empty_queues())
            .setup(known(lab)),
    ]
}
