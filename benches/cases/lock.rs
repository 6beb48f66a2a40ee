//! LOCK.* compared with the commands and scripts that lock libraries run on the same keys.

use super::{each, once};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::verdict::Bar;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case { name: "LOCK.ACQUIRE, granted", build: granted },
    Case { name: "LOCK.ACQUIRE, refused", build: refused },
    Case { name: "LOCK.EXTEND", build: extend },
    Case { name: "LOCK.RELEASE", build: release },
    Case { name: "LOCK.ACQUIRE + LOCK.RELEASE", build: cycle },
];

/// The scripts of redis-py, redlock-py, node-redlock and the documentation of SET.
const COMPARE_AND_DELETE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
const COMPARE_AND_EXPIRE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end";

const OWNER: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
const OTHER_OWNER: &str = "0e37df36-f698-11e6-8dd4-cb9ced3df976";

fn name(number: usize) -> String {
    format!("order:{number:06}")
}

/// The key of a lock, for LOCK.* and for the libraries.
fn key(number: usize) -> String {
    format!("lock:{{{}}}", name(number))
}

fn held_by(lab: &Lab, owner: &str, ttl: i64) -> Requests {
    each(0..lab.effort.commands, &["+OK"], |r, n| {
        r.push(&args!["SET", key(n), owner, "PX", ttl]);
    })
}

fn free(lab: &Lab) -> Requests {
    each(0..lab.effort.commands, &[":"], |r, n| {
        r.push(&args!["DEL", key(n)]);
    })
}

fn acquire(lab: &Lab, expected: &'static str) -> Requests {
    each(once(lab), &[expected], |r, n| {
        r.push(&args!["LOCK.ACQUIRE", name(n), OWNER, 30_000]);
    })
}

fn set_nx(lab: &Lab, expected: &'static str) -> Requests {
    each(once(lab), &[expected], |r, n| {
        r.push(&args!["SET", key(n), OWNER, "NX", "PX", 30_000]);
    })
}

fn granted(lab: &mut Lab) -> Vec<Contender> {
    let native = set_nx(lab, "+OK");
    vec![
        Contender::new("LOCK.ACQUIRE", acquire(lab, ":1")).setup(free(lab)),
        Contender::native("SET NX PX", native)
            .setup(free(lab))
            .bar(Bar { goal: 0.80, reached: 0.74 }),
    ]
}

fn refused(lab: &mut Lab) -> Vec<Contender> {
    lab.prepare(&held_by(lab, OTHER_OWNER, 3_600_000));
    let native = set_nx(lab, "$-1");
    vec![
        Contender::new("LOCK.ACQUIRE", acquire(lab, ":0")),
        Contender::native("SET NX PX", native).bar(Bar { goal: 0.85, reached: 0.82 }),
    ]
}

fn extend(lab: &mut Lab) -> Vec<Contender> {
    lab.prepare(&held_by(lab, OWNER, 3_600_000));
    let script = lab.script(COMPARE_AND_EXPIRE);
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["LOCK.EXTEND", name(n), OWNER, 3_600_000]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, key(n), OWNER, 3_600_000]);
    });
    let inner = each(once(lab), &["$", ":1"], |r, n| {
        r.push(&args!["GET", key(n)]);
        r.push(&args!["PEXPIRE", key(n), 3_600_000]);
    });
    let mut contenders = vec![
        Contender::new("LOCK.EXTEND", ours),
        Contender::new("Lua: GET, PEXPIRE", lua)
            .relay(inner.relayed())
            .bar(Bar { goal: 1.6, reached: 1.95 }),
    ];
    if knows(lab, &["SET", "probe", "v", "IFEQ", "v", "PX", "1"]) {
        let native = each(once(lab), &["+OK"], |r, n| {
            r.push(&args!["SET", key(n), OWNER, "IFEQ", OWNER, "PX", 3_600_000]);
        });
        contenders
            .push(Contender::native("SET IFEQ PX", native).bar(Bar { goal: 0.75, reached: 0.95 }));
    }
    contenders
}

/// Whether the server knows a command with these options. Those that compare are of Redis 8.4.
fn knows(lab: &mut Lab, command: &[&str]) -> bool {
    !lab.client.cmd(command).is_error()
}

fn release(lab: &mut Lab) -> Vec<Contender> {
    let knows_delex = knows(lab, &["DELEX", "probe", "IFEQ", "v"]);
    let script = lab.script(COMPARE_AND_DELETE);
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["LOCK.RELEASE", name(n), OWNER]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, key(n), OWNER]);
    });
    let inner = each(once(lab), &["$", ":1"], |r, n| {
        r.push(&args!["GET", key(n)]);
        r.push(&args!["DEL", key(n)]);
    });
    let held = |contender: Contender| contender.setup(held_by(lab, OWNER, 60_000));
    let mut contenders = vec![
        held(Contender::new("LOCK.RELEASE", ours)),
        held(Contender::new("Lua: GET, DEL", lua).relay(inner.relayed()))
            .bar(Bar { goal: 1.6, reached: 1.55 }),
    ];
    if knows_delex {
        let native = each(once(lab), &[":1"], |r, n| {
            r.push(&args!["DELEX", key(n), "IFEQ", OWNER]);
        });
        contenders.push(
            held(Contender::native("DELEX IFEQ", native)).bar(Bar { goal: 0.75, reached: 0.65 }),
        );
    }
    contenders
}

/// Acquire a lock and release it.
fn cycle(lab: &mut Lab) -> Vec<Contender> {
    lab.prepare(&free(lab));
    let script = lab.script(COMPARE_AND_DELETE);
    let ours = each(once(lab), &[":1", ":1"], |r, n| {
        r.push(&args!["LOCK.ACQUIRE", name(n), OWNER, 30_000]);
        r.push(&args!["LOCK.RELEASE", name(n), OWNER]);
    });
    let lua = each(once(lab), &["+OK", ":1"], |r, n| {
        r.push(&args!["SET", key(n), OWNER, "NX", "PX", 30_000]);
        r.push(&args!["EVALSHA", script, 1, key(n), OWNER]);
    });
    vec![
        Contender::new("LOCK.ACQUIRE + RELEASE", ours),
        Contender::new("SET NX PX + Lua: GET, DEL", lua),
    ]
}
