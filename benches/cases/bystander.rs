//! The cost of the module for clients that do not use it. The module subscribes to keyspace events when
//! a client waits, or holds the lease of a load, for the first time. From then on the server reports
//! every write to the module.

use super::{cycling, each};
use crate::measure::{Case, Contender, Lab};
use crate::support::{args, module_path};
use crate::wire::Requests;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "GET, with Corral loaded",
        build: |lab| compare(lab, |r, n| r.push(&args!["GET", key(n)])),
    },
    Case {
        name: "SET PX, with Corral loaded",
        build: |lab| compare(lab, |r, n| r.push(&args!["SET", key(n), "v", "PX", 60_000])),
    },
    Case {
        name: "XADD, with Corral loaded",
        build: |lab| {
            compare(lab, |r, n| {
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

/// The same native command with the module in use and without the module.
fn compare(lab: &mut Lab, command: fn(&mut Requests, usize)) -> Vec<Contender> {
    let [with, without] = [(), ()].map(|()| each(cycling(lab), &[""], command));
    let load = |lab: &mut Lab| {
        let reply = lab.client.cmd(&args!["MODULE", "LOAD", module_path().display().to_string()]);
        assert!(!reply.is_error(), "the module was not loaded: {reply:?}");
        for command in [
            "TASK.CONSUME workers w1 jobs 1 1",
            "LOCK.ACQUIRE batch owner-1 60000",
            "LOCK.ACQUIRE batch owner-2 60000 BLOCK 1",
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
        Contender::new("with the module", with).setup_with(load),
        Contender::new("without the module", without).setup_with(unload).bar(0.85),
    ]
}
