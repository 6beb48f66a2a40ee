//! LOCK.* compared with the commands and scripts that lock libraries run on the same keys.

use super::{each, once};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
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
        Contender::relayed(&native).setup(free(lab)),
        Contender::new("SET NX PX", native).setup(free(lab)).bar(0.75),
    ]
}

fn refused(lab: &mut Lab) -> Vec<Contender> {
    lab.prepare(&held_by(lab, OTHER_OWNER, 3_600_000));
    let native = set_nx(lab, "$-1");
    vec![
        Contender::new("LOCK.ACQUIRE", acquire(lab, ":0")),
        Contender::relayed(&native),
        Contender::new("SET NX PX", native),
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
    vec![Contender::new("LOCK.EXTEND", ours), Contender::new("Lua: GET, PEXPIRE", lua).bar(1.3)]
}

fn release(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(COMPARE_AND_DELETE);
    let ours = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["LOCK.RELEASE", name(n), OWNER]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 1, key(n), OWNER]);
    });
    vec![
        Contender::new("LOCK.RELEASE", ours).setup(held_by(lab, OWNER, 60_000)),
        Contender::new("Lua: GET, DEL", lua).setup(held_by(lab, OWNER, 60_000)).bar(1.3),
    ]
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
