//! The cost of the module for clients that do not use it. The module subscribes to keyspace events when
//! a client waits, or holds the lease of a load, for the first time. From then on the server reports
//! every write to the module. The relay receives the same events and ignores them, which shows how much of
//! the cost is the server's.

use super::{cycling, each};
use crate::crowd::{await_blocked, can_connect, connect};
use crate::measure::{Case, Contender, Lab};
use crate::support::{args, module_path};
use crate::verdict::Bar;
use crate::wire::{Connection, Requests, encoded};
use std::cell::RefCell;
use std::rc::Rc;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "Other clients, Corral loaded",
        build: |lab| compare(lab, 0, Bar { goal: 0.98, reached: 1.00 }),
    },
    Case {
        name: "Other clients, 10,000 wait and load",
        build: |lab| compare(lab, 10_000, Bar { goal: 0.93, reached: 0.87 }),
    },
];

/// Commands of clients that do not use the module, each with a name for the comparison. SET comes before
/// those that need its keys.
const COMMANDS: [(&str, &str, Command); 4] = [
    ("SET PX", "SET PX without the module", |r, n| {
        r.push(&args!["SET", key(n), "v", "PX", 60_000]);
    }),
    ("GET", "GET without the module", |r, n| r.push(&args!["GET", key(n)])),
    ("XADD", "XADD without the module", |r, n| {
        let log = format!("log:{}", n % 8);
        r.push(&args!["XADD", log, "MAXLEN", "~", 1000, "*", "f", "v"]);
    }),
    ("DEL", "DEL without the module", |r, n| r.push(&args!["DEL", key(n)])),
];

type Command = fn(&mut Requests, usize);

/// The number of locks for which the others wait.
const LOCKS: usize = 100;

fn key(number: usize) -> String {
    format!("user:{number:06}:name")
}

/// The same native commands with the module in use and without the module. That many other clients
/// wait for locks, and that many values are being loaded.
fn compare(lab: &mut Lab, others: usize, bar: Bar) -> Vec<Contender> {
    if !can_connect(others) {
        return Vec::new();
    }
    // A module that nobody uses receives no events.
    let has_relay = others > 0 && !lab.effort.check;
    let others = Rc::new(RefCell::new(Others::new(lab, others)));
    let contender = |label, command, present: Present| {
        let others = Rc::clone(&others);
        let requests = each(cycling(lab), &[""], command);
        Contender::new(label, requests).setup_with(move |lab| others.borrow_mut().set(lab, present))
    };
    let with = COMMANDS.map(|(label, _, command)| contender(label, command, Present::Corral));
    let relays = COMMANDS.map(|(label, _, command)| contender(label, command, Present::Relay));
    let without = COMMANDS.map(|(_, label, command)| contender(label, command, Present::Nothing));
    let without = without.into_iter().enumerate().map(|(number, contender)| {
        let contender = contender.against(number).bar(bar);
        if has_relay { contender.relayed_by(COMMANDS.len() + number) } else { contender }
    });
    let relays = relays.into_iter().filter(|_| has_relay);
    with.into_iter().chain(relays).map(Contender::subject).chain(without).collect()
}

/// What is subscribed to keyspace events.
#[derive(Clone, Copy, PartialEq)]
enum Present {
    /// No module. The relay is loaded for other cases, but has not subscribed.
    Nothing,
    /// The module, once a client that uses it has waited or loaded.
    Corral,
    /// The relay.
    Relay,
}

/// The module and the clients that use it. Without the module, the clients are connected all the same.
struct Others {
    members: Vec<Connection>,
    ids: Vec<String>,
    present: Present,
}

impl Others {
    fn new(lab: &mut Lab, count: usize) -> Self {
        let (members, ids) = connect(lab, count);
        unload(lab, "corral");
        Self { members, ids, present: Present::Nothing }
    }

    fn set(&mut self, lab: &mut Lab, present: Present) {
        if self.present == present {
            return;
        }
        match self.present {
            Present::Nothing => {}
            Present::Corral => self.leave(lab),
            // A subscription ends with its module.
            Present::Relay => {
                unload(lab, "relay");
                lab.load_relay();
            }
        }
        match present {
            Present::Nothing => {}
            Present::Corral => self.enter(lab),
            Present::Relay => assert!(!lab.client.run("RELAY.SUBSCRIBE").is_error()),
        }
        self.present = present;
    }

    fn enter(&mut self, lab: &mut Lab) {
        let reply = lab.client.cmd(&args!["MODULE", "LOAD", module_path().display().to_string()]);
        assert!(!reply.is_error(), "the module was not loaded: {reply:?}");
        let count = self.members.len();
        if count == 0 {
            return;
        }
        lab.prepare(&each(0..LOCKS, &[":1"], |r, n| {
            r.push(&args!["LOCK.ACQUIRE", format!("batch:{n}"), "owner", 3_600_000]);
        }));
        lab.prepare(&each(0..count, &["*"], |r, n| {
            r.push(&args!["CACHE.FETCH", format!("page:{n}"), 3_600_000]);
        }));
        for (number, member) in self.members.iter_mut().enumerate() {
            let (lock, owner) = (format!("batch:{}", number % LOCKS), format!("w{number}"));
            member.send(&encoded(&args!["LOCK.ACQUIRE", lock, owner, 60_000, "BLOCK", 0]));
        }
        await_blocked(lab, count);
    }

    fn leave(&mut self, lab: &mut Lab) {
        let mut requests = Requests::expecting(&[":"]);
        for id in &self.ids {
            requests.push(&args!["CLIENT", "UNBLOCK", id]);
        }
        (0..LOCKS).for_each(|n| requests.push(&args!["DEL", format!("lock:{{batch:{n}}}")]));
        (0..self.ids.len())
            .for_each(|n| requests.push(&args!["DEL", format!("cachelock:{{page:{n}}}")]));
        if !self.ids.is_empty() {
            lab.prepare(&requests);
            // Redis 8.0 and later crash at the next command of a client whose last one was of the module.
            let ping = encoded(&["PING"]);
            self.members.iter_mut().for_each(|member| {
                member.expect(":0");
                member.send(&ping);
            });
            self.members.iter_mut().for_each(|member| member.expect("+PONG"));
        }
        unload(lab, "corral");
    }
}

fn unload(lab: &mut Lab, module: &str) {
    let reply = lab.client.cmd(&args!["MODULE", "UNLOAD", module]);
    assert!(!reply.is_error(), "{module} was not unloaded: {reply:?}");
}
