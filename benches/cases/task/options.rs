//! The options of TASK.PUBLISH and the commands for a single task, compared with the scripts that a user
//! of plain streams would write for the same purpose.

use super::super::{each, once};
use super::{STREAMS, TIMESTAMP, delayed, empty_queues, id, leased, payload, ready, stream, xadd};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "TASK.PUBLISH FIELDS 2", build: fields },
    Case { name: "TASK.PUBLISH EXPIRE TRIES", build: expire },
    Case { name: "TASK.PUBLISH UNIQUE META", build: meta },
    Case { name: "TASK.PUBLISH UNIQUE UNTIL DONE", build: until_done },
    Case { name: "TASK.ACK, UNIQUE UNTIL DONE", build: ack_until_done },
    Case { name: "TASK.PUBLISH UNIQUE LAST, replaces", build: replaces },
    Case { name: "TASK.NACK PAYLOAD", build: payload_of_nack },
    Case { name: "TASK.EXTEND, 10 ids", build: extend_many },
    Case { name: "TASK.STATE, leased", build: state },
    Case { name: "TASK.RESCHEDULE, delayed", build: reschedule },
    Case { name: "TASK.CANCEL FORCE, leased", build: cancel },
    Case { name: "TASK.REDRIVE ID", build: redrive },
];

const WINDOW: usize = 3_600_000;

/// The key of a unique id, one for each number.
fn unique(n: usize) -> String {
    format!("unique{}:{{{}}}:order-{n}", stream(n).len(), stream(n))
}

fn of_queue(kind: &str, n: usize) -> String {
    format!("{kind}:{{{}}}", stream(n))
}

/// No task is unique or has moved, and there are no dead letters.
fn nothing_known(tasks: usize) -> Requests {
    let mut requests = each(0..STREAMS, &[""], |r, n| {
        let kinds = ["taskmarks", "taskheld", "taskmoved", "dead"];
        let keys = kinds.map(|kind| of_queue(kind, n));
        r.push(&["DEL".to_owned()].into_iter().chain(keys).collect::<Vec<_>>());
    });
    for n in 0..tasks {
        requests.push(&args!["DEL", unique(n)]);
    }
    requests
}

/// Each task has a unique id until it is done, as the module stores it, and as the scripts of this file do.
fn all_unique(tasks: usize) -> Requests {
    let mut requests = nothing_known(tasks);
    for n in 0..tasks {
        requests.push(&args!["SET", unique(n), id(n), "PX", WINDOW]);
        let mark = format!("done - order-{n}");
        requests.push(&args!["HSET", of_queue("taskmarks", n), id(n), mark]);
    }
    requests
}

/// A command and the script that a user would write, each after the same preparation.
fn both(
    ours: (&'static str, Requests),
    script: (&'static str, Requests),
    setup: impl Fn() -> Vec<Requests>,
) -> Vec<Contender> {
    let contender = |(label, requests)| {
        setup().into_iter().fold(Contender::new(label, requests), Contender::setup)
    };
    vec![contender(ours), contender(script)]
}

fn fields(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "return redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0, unpack(ARGV, 3))",
    );
    let further = ["tenant", "blue", "lang", "en"];
    let ours = each(once(lab), &["$"], |r, n| {
        let [a, b, c, d] = further;
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "FIELDS", 2, a, b, c, d]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        let [a, b, c, d] = further;
        r.push(&args!["EVALSHA", script, 1, stream(n), payload(), TIMESTAMP, a, b, c, d]);
    });
    both(("FIELDS", ours), ("Lua: XADD", lua), || vec![empty_queues()])
}

fn expire(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local time = redis.call('TIME')
         local ends = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3])
         return redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0, 'tries', ARGV[4], 'expire_unix_ms', ends)",
    );
    let ours = each(once(lab), &["$"], |r, n| {
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "EXPIRE", WINDOW, "TRIES", 5]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, stream(n), payload(), TIMESTAMP, WINDOW, 5]);
    });
    both(("EXPIRE TRIES", ours), ("Lua: TIME, XADD", lua), || vec![empty_queues()])
}

/// A script with the window that each of the options below has too.
const PUBLISH_UNIQUE: &str = "local id = redis.call('GET', KEYS[2])
     if id then return {id, 'duplicate'} end
     id = redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
         'retry_count', 0, 'unique', KEYS[2])
     redis.call('SET', KEYS[2], id, 'PX', ARGV[3])
     return {id, 'added'}";

/// TASK.PUBLISH with UNIQUE and further options, and the script for it.
fn publish_unique(lab: &mut Lab, label: &'static str, options: &[&str]) -> Vec<Contender> {
    let script = lab.script(PUBLISH_UNIQUE);
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &["*2"], |r, n| {
        let command =
            args!["TASK.PUBLISH", stream(n), payload(), "UNIQUE", format!("order-{n}"), WINDOW];
        let options = options.iter().map(|option| option.as_bytes().to_vec());
        r.push(&command.into_iter().chain(options).collect::<Vec<_>>());
    });
    let lua = each(once(lab), &["*2"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, stream(n), unique(n), payload(), TIMESTAMP, WINDOW]);
    });
    both((label, ours), ("Lua: GET, XADD, SET PX", lua), || {
        vec![empty_queues(), nothing_known(tasks)]
    })
}

fn meta(lab: &mut Lab) -> Vec<Contender> {
    publish_unique(lab, "UNIQUE META", &["META"])
}

fn until_done(lab: &mut Lab) -> Vec<Contender> {
    publish_unique(lab, "UNTIL DONE", &["UNTIL", "DONE", "META"])
}

/// The end of a task ends its window too.
fn ack_until_done(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
         redis.call('XDEL', KEYS[1], ARGV[2])
         if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
         return 1",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.ACK", stream(n), "workers", id(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, stream(n), unique(n), "workers", id(n)]);
    });
    both(("TASK.ACK", ours), ("Lua: XACK, XDEL, GET, DEL", lua), || {
        vec![leased(tasks), all_unique(tasks)]
    })
}

/// The task that waits is replaced.
fn replaces(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local old = redis.call('GET', KEYS[2])
         if old then redis.call('XDEL', KEYS[1], old) end
         local id = redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1], 'timestamp', ARGV[2],
             'retry_count', 0)
         if old then redis.call('SET', KEYS[2], id, 'KEEPTTL')
         else redis.call('SET', KEYS[2], id, 'PX', ARGV[3]) end
         return id",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &["$"], |r, n| {
        let id = format!("order-{n}");
        r.push(&args!["TASK.PUBLISH", stream(n), payload(), "UNIQUE", id, WINDOW, "LAST"]);
    });
    let lua = each(once(lab), &["$"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, stream(n), unique(n), payload(), TIMESTAMP, WINDOW]);
    });
    both(("LAST", ours), ("Lua: GET, XDEL, XADD, SET", lua), || {
        vec![ready(tasks), all_unique(tasks)]
    })
}

/// The task is ready again at once, with a payload that says how far it got.
fn payload_of_nack(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]
         if not lease then return 0 end
         redis.call('XADD', KEYS[1], '*', 'payload', ARGV[4], 'timestamp', ARGV[5],
             'retry_count', 0, 'original_id', ARGV[3])
         redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
         redis.call('XDEL', KEYS[1], ARGV[3])
         return 1",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        let q = stream(n);
        r.push(&args!["TASK.NACK", q, "workers", "w1", "SILENT", id(n), "PAYLOAD", payload()]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        let q = stream(n);
        r.push(&args!["EVALSHA", script, 1, q, "workers", "w1", id(n), payload(), TIMESTAMP]);
    });
    both(("PAYLOAD", ours), ("Lua: XPENDING, XADD, XACK, XDEL", lua), || {
        vec![leased(tasks), nothing_known(0)]
    })
}

/// One heartbeat for all tasks of a worker.
fn extend_many(lab: &mut Lab) -> Vec<Contender> {
    const IDS: usize = 10;
    let script = lab.script(
        "local mine = {}
         for place = 3, #ARGV do
             local id = ARGV[place]
             if redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1] then
                 mine[#mine + 1] = id end
         end
         if #mine == 0 then return 0 end
         mine[#mine + 1] = 'JUSTID'
         return #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(mine))",
    );
    let tasks = lab.effort.commands;
    // The tasks of one stream.
    let ids = |n: usize| (0..IDS).map(move |at| id((n + at * STREAMS) % tasks));
    let calls = tasks / IDS;
    let ours = each(0..calls, &["*10"], |r, n| {
        let command = args!["TASK.EXTEND", stream(n), "workers", "w1"];
        r.push(&command.into_iter().chain(ids(n).map(String::into_bytes)).collect::<Vec<_>>());
    });
    let lua = each(0..calls, &[":10"], |r, n| {
        let command = args!["EVALSHA", script, 1, stream(n), "workers", "w1"];
        r.push(&command.into_iter().chain(ids(n).map(String::into_bytes)).collect::<Vec<_>>());
    });
    both(("10 ids", ours), ("Lua: XPENDING 10 times, XCLAIM", lua), || vec![leased(tasks)])
}

fn state(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
         local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
         if not entry then return false end
         local retries
         for field = 1, #entry[2], 2 do
             if entry[2][field] == 'retry_count' then retries = entry[2][field + 1] end
         end
         if not lease then return {'ready', ARGV[2], retries} end
         return {'leased', ARGV[2], lease[2], lease[3], lease[4], retries}",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &["*"], |r, n| r.push(&args!["TASK.STATE", stream(n), id(n)]));
    let lua = each(once(lab), &["*"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, stream(n), "workers", id(n)]);
    });
    both(("TASK.STATE", ours), ("Lua: XPENDING, XRANGE", lua), || vec![leased(tasks)])
}

/// A delayed task becomes due later.
fn reschedule(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "local found = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[2], 'BYSCORE')
         for _, member in ipairs(found) do
             if string.sub(member, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
                 redis.call('ZADD', KEYS[1], 'XX', ARGV[3], member)
                 return 1
             end
         end
         return 0",
    );
    let tasks = lab.effort.commands;
    let due = |n: usize| 4_000_000_000_000 + n;
    let name = |n: usize| format!("{}-1{n:018}", due(n));
    let setup = || {
        let mut requests = empty_queues();
        for n in 0..tasks {
            let member = format!("{} 0 0 - {}", name(n), payload());
            requests.push(&args!["ZADD", delayed(n), due(n), member]);
        }
        requests
    };
    let later = |n: usize| due(n) + 600_000;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.RESCHEDULE", stream(n), name(n), "AT", later(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, delayed(n), name(n), due(n), later(n)]);
    });
    both(("RESCHEDULE", ours), ("Lua: ZRANGE BYSCORE, ZADD", lua), || {
        vec![setup(), nothing_known(0)]
    })
}

fn cancel(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
         return redis.call('XDEL', KEYS[1], ARGV[2])",
    );
    let tasks = lab.effort.commands;
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.CANCEL", stream(n), id(n), "FORCE"]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, stream(n), "workers", id(n)]);
    });
    both(("FORCE", ours), ("Lua: XACK, XDEL", lua), || vec![leased(tasks), nothing_known(0)])
}

/// Named by the id that its publication returned: 100 tasks have died between that and its death.
fn redrive(lab: &mut Lab) -> Vec<Contender> {
    const LATER: usize = 100;
    let script = lab.script(
        "local from = ARGV[1]
         repeat
             local letters = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
             for _, letter in ipairs(letters) do
                 local payload, original
                 for field = 1, #letter[2], 2 do
                     if letter[2][field] == 'payload' then payload = letter[2][field + 1] end
                     if letter[2][field] == 'original_id' then original = letter[2][field + 1] end
                 end
                 if original == ARGV[1] then
                     redis.call('XADD', KEYS[2], '*', 'payload', payload, 'timestamp', ARGV[2],
                         'retry_count', 0, 'original_id', ARGV[1])
                     return redis.call('XDEL', KEYS[1], letter[1])
                 end
                 from = '(' .. letter[1]
             end
         until #letters == 0
         return 0",
    );
    let tasks = lab.effort.commands;
    let original = |n: usize| format!("{}-0", 1_700_000_000_000 + n);
    let setup = || {
        let mut requests = nothing_known(0);
        for n in 0..tasks {
            let id = format!("{}-1", 1_700_000_000_000 + n + STREAMS * LATER);
            let mut letter = xadd(of_queue("dead", n), id).to_vec();
            letter.extend(args!["original_id", original(n), "reason", "fatal", "deliveries", 1]);
            requests.push(&letter);
        }
        requests
    };
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["TASK.REDRIVE", of_queue("dead", n), stream(n), "ID", original(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        let (dead, queue) = (of_queue("dead", n), stream(n));
        r.push(&args!["EVALSHA", script, 2, dead, queue, original(n), TIMESTAMP]);
    });
    both(("REDRIVE ID", ours), ("Lua: XRANGE, XADD, XDEL", lua), || vec![empty_queues(), setup()])
}
