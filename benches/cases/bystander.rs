//! What the module costs clients that do not use it. It listens to keyspace events from the moment
//! when somebody waits, or has a lease on a value, for the first time, and is told of writes to any
//! key from then on.

use super::{cycling, each};
use crate::measure::{Case, Contender, Lab};
use crate::support::{args, module_path};
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "GET beside Corral",
        build: |lab| beside(lab, |r, n| r.push(&args!["GET", key(n)])),
    },
    Case {
        name: "SET PX beside Corral",
        build: |lab| beside(lab, |r, n| r.push(&args!["SET", key(n), "v", "PX", 60_000])),
    },
    Case {
        name: "XADD beside Corral",
        build: |lab| {
            beside(lab, |r, n| {
                r.push(&args![
                    "XADD",
                    format!("log:{}", n % 8),
                    "MAXLEN",
                    "~",
                    1000,
                    "*",
                    "f",
                    "v"
                ]);
            })
        },
    },
];

fn key(number: usize) -> String {
    format!("user:{number:06}:name")
}

/// The same native command with the module, whose commands are in use, and without it.
fn beside(lab: &mut Lab, command: fn(&mut Requests, usize)) -> Vec<Contender> {
    let [with, without] = [(), ()].map(|()| each(cycling(lab), &[""], command));
    let load = |lab: &mut Lab| {
        let reply = lab.client.cmd(&args!["MODULE", "LOAD", module_path().display().to_string()]);
        assert!(!reply.is_error(), "the module was not loaded: {reply:?}");
        for command in [
            "TASK.CONSUME workers w1 jobs 1 1",
            "LOCK.ACQUIRE batch you 60000",
            "LOCK.ACQUIRE batch me 60000 BLOCK 1",
            "CACHE.LOCK page 3600000 3600000",
        ] {
            let reply = lab.client.run(command);
            assert!(!reply.is_error(), "{command}: {reply:?}");
        }
    };
    let unload = |lab: &mut Lab| {
        lab.client.run("DEL jobs lock:{batch} cachelock:{page}");
        let reply = lab.client.cmd(&args!["MODULE", "UNLOAD", "corral"]);
        assert!(!reply.is_error(), "the module was not unloaded: {reply:?}");
    };
    unload(lab);
    vec![
        Contender::new("with the module", with).prepared(load),
        Contender::new("without the module", without).prepared(unload).bar(0.85),
    ]
}
