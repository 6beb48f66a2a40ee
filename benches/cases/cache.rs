//! CACHE.* compared with GET, SET and a lease that clients take with SET NX.

use super::{NAMES, cycling, each, once, shuffled};
use crate::measure::{Case, Contender, Lab};
use crate::support::args;
use crate::verdict::Bar;
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "CACHE.GET, 300 bytes",
        build: |lab| hit(lab, 300, Bar { goal: 0.92, reached: 0.90 }),
    },
    Case {
        name: "CACHE.GET, 32 bytes",
        build: |lab| hit(lab, 32, Bar { goal: 0.80, reached: 0.69 }),
    },
    Case { name: "CACHE.GET, miss", build: miss },
    Case { name: "CACHE.SET, new key, 32 bytes", build: |lab| set(lab, 32, true) },
    Case { name: "CACHE.SET, new key, 300 bytes", build: |lab| set(lab, 300, true) },
    Case { name: "CACHE.SET, overwriting 32 bytes", build: |lab| set(lab, 32, false) },
    Case { name: "CACHE.SET, overwriting 300 bytes", build: |lab| set(lab, 300, false) },
    Case { name: "CACHE.SET, releasing a lease", build: fill },
    Case { name: "CACHE.LOCK, LOAD", build: |lab| lease(lab, true) },
    Case { name: "CACHE.LOCK, WAIT", build: |lab| lease(lab, false) },
];

fn key(number: usize) -> String {
    format!("user:{number:06}:profile")
}

fn lease_key(number: usize) -> String {
    format!("cachelock:{{{}}}", key(number))
}

fn value(bytes: usize) -> String {
    "v".repeat(bytes)
}

fn set_all(names: usize, bytes: usize) -> Requests {
    each(0..names, &["+OK"], |r, n| {
        r.push(&args!["SET", key(n), value(bytes), "PX", 3_600_000]);
    })
}

/// No key has a lease.
fn unleased(names: usize) -> Requests {
    each(0..names, &[""], |r, n| {
        r.push(&args!["CACHE.SET", key(n), "v", 3_600_000]);
        r.push(&args!["DEL", lease_key(n)]);
    })
}

/// Every key has a lease, which the module itself writes.
fn leased(names: usize) -> Requests {
    let mut requests = unleased(names);
    for n in 0..names {
        requests.push(&args!["CACHE.LOCK", key(n), 3_600_000, 3_600_000]);
    }
    requests
}

fn hit(lab: &mut Lab, bytes: usize, bar: Bar) -> Vec<Contender> {
    lab.prepare(&set_all(NAMES, bytes));
    let [ours, get] = read(lab, "$3");
    vec![ours, get.bar(bar)]
}

fn miss(lab: &mut Lab) -> Vec<Contender> {
    read(lab, "$-1").into()
}

fn read(lab: &Lab, expected: &'static str) -> [Contender; 2] {
    let [ours, native] = ["CACHE.GET", "GET"]
        .map(|command| each(cycling(lab), &[expected], |r, n| r.push(&args![command, key(n)])));
    [Contender::new("CACHE.GET", ours), Contender::native("GET", native)]
}

/// No key has a lease. CACHE.SET looks for one, plain SET does not.
fn set(lab: &mut Lab, bytes: usize, new: bool) -> Vec<Contender> {
    let (commands, value) = (lab.effort.commands, value(bytes));
    let names = if new { commands } else { NAMES };
    let requests = |expected: &[&'static str], operation: &dyn Fn(&mut Requests, usize)| {
        each(shuffled(commands, names), expected, operation)
    };
    let ours = requests(&["+OK"], &|r, n| r.push(&args!["CACHE.SET", key(n), value, 60_000]));
    let set = |r: &mut Requests, n| r.push(&args!["SET", key(n), value, "PX", 60_000]);
    let native = requests(&["+OK"], &set);
    let both = requests(&["+OK", ":0"], &|r, n| {
        set(r, n);
        r.push(&args!["DEL", lease_key(n)]);
    });
    let contenders = vec![
        Contender::new("CACHE.SET", ours),
        Contender::native("SET PX", native).bar(Bar { goal: 0.70, reached: 0.56 }),
        Contender::native("SET PX + DEL", both),
    ];
    if !new {
        return contenders;
    }
    let delete_all = || each(0..commands, &[":"], |r, n| r.push(&args!["DEL", key(n)]));
    contenders.into_iter().map(|contender| contender.setup(delete_all())).collect()
}

/// A loader stores its value.
fn fill(lab: &mut Lab) -> Vec<Contender> {
    let script = lab.script(
        "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) redis.call('DEL', KEYS[2]) return 1",
    );
    let leases = || leased(lab.effort.commands);
    let value = value(300);
    let ours = each(once(lab), &["+OK"], |r, n| {
        r.push(&args!["CACHE.SET", key(n), value, 60_000]);
    });
    let native = each(once(lab), &["+OK", ":1"], |r, n| {
        r.push(&args!["SET", key(n), value, "PX", 60_000]);
        r.push(&args!["DEL", lease_key(n)]);
    });
    let lua = each(once(lab), &[":1"], |r, n| {
        r.push(&args!["EVALSHA", script, 2, key(n), lease_key(n), value, 60_000]);
    });
    vec![
        Contender::new("CACHE.SET", ours).setup(leases()),
        Contender::new("Lua: SET PX, DEL", lua).relay(native.relayed()).setup(leases()),
        Contender::native("SET PX + DEL", native).setup(leases()),
    ]
}

fn lease(lab: &mut Lab, granted: bool) -> Vec<Contender> {
    let script = lab.script(
        "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
            return redis.status_reply('LOAD') else return redis.status_reply('WAIT') end",
    );
    let [ours, native] = if granted { ["+LOAD", "+OK"] } else { ["+WAIT", "$-1"] };
    let token = "1700000000000000";
    let lock = each(once(lab), &[ours], |r, n| {
        r.push(&args!["CACHE.LOCK", key(n), 60_000, 60_000]);
    });
    let set = each(once(lab), &[native], |r, n| {
        r.push(&args!["SET", lease_key(n), token, "NX", "PX", 60_000]);
    });
    let lua = each(once(lab), &[ours], |r, n| {
        r.push(&args!["EVALSHA", script, 1, lease_key(n), token, 60_000]);
    });
    if !granted {
        lab.prepare(&leased(lab.effort.commands));
    }
    let setup = |contender: Contender| {
        if granted { contender.setup(unleased(lab.effort.commands)) } else { contender }
    };
    vec![
        setup(Contender::new("CACHE.LOCK", lock)),
        setup(Contender::new("Lua: SET NX PX", lua).relay(set.relayed())),
        setup(Contender::native("SET NX PX", set)),
    ]
}
