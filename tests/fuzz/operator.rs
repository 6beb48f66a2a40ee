//! One connection that does what operators do: it changes settings, pauses, fills memory, flushes,
//! rewrites the append-only file, kills and unblocks clients.

use super::dice::Dice;
use super::grammar::{Command, Grammar, UNPAUSE, plain};
use super::world::{World, spell, spell_reply};
use crate::support::{Client, Server, Silence, Value, encode, ok};
use std::thread;
use std::time::{Duration, Instant};

/// How long any reply may take.
const SOON: Duration = Duration::from_secs(40);

/// Operates until the round ends, and ends by then what it has begun.
pub fn operate(world: &World, grammar: &Grammar, seed: u64, reload: bool) {
    let journal = world.journal("operator".into());
    let mut dice = Dice::new(seed, 0x0f);
    let mut client = None;
    let mut say = |command: &Command| {
        journal.note(&format!("> {}", spell(command)));
        match ask(world, &mut client, command) {
            Ok(reply) => journal.note(&format!("< {}", spell_reply(&reply))),
            Err(why) => world.fail(format!("the operator's {}: {why}", spell(command))),
        }
    };
    while !world.is_over() {
        let (command, then) = grammar.operator(&mut dice, &world.learned, reload);
        let lasts = Duration::from_millis(dice.within(1, 300));
        let pause = Duration::from_millis(dice.within(1, 60));
        if reload && dice.percent(3) {
            journal.note("demotes the master for a while");
            if let Err(why) = demote(world, lasts) {
                world.fail(format!("the operator's {why}"));
            }
        }
        let unblocks = command.get(1).is_some_and(|word| word == b"UNBLOCK");
        let pauses = then.as_ref().is_some_and(|then| *then == plain(UNPAUSE));
        let pausing = pauses.then(|| world.pausing());
        let unblocking = unblocks.then(|| world.unblocking());
        say(&command);
        if let Some(then) = then {
            thread::sleep(lasts);
            say(&then);
        }
        drop((pausing, unblocking));
        thread::sleep(pause);
    }
}

/// Makes the master a replica of its replica for a while. No client can wait on a replica, and
/// nothing writes there.
fn demote(world: &World, lasts: Duration) -> Result<(), String> {
    let ask = |server: &Server, line: &str| {
        let client = Client::try_connect(server.port());
        let reply = client.map_err(|error| error.to_string())?.ask(line, SOON);
        match reply {
            Ok(reply) if reply == ok() => Ok(()),
            other => Err(format!("{line}: {other:?}")),
        }
    };
    let follow = |server: &Server| format!("REPLICAOF 127.0.0.1 {}", server.port());
    ask(&world.replica, "REPLICAOF NO ONE")?;
    ask(&world.master, &follow(&world.replica))?;
    thread::sleep(lasts);
    ask(&world.master, "REPLICAOF NO ONE")?;
    ask(&world.replica, &follow(&world.master))
}

/// Runs a command over a lasting connection.
fn ask(world: &World, client: &mut Option<Client>, command: &Command) -> Result<Value, String> {
    let began = Instant::now();
    let mut request = Vec::new();
    encode(&mut request, command);
    // It may have been closed since the last command, but not twice.
    for _ in 0..2 {
        let connection = match client {
            Some(connection) => connection,
            None => {
                let connection = Client::try_connect(world.master.port());
                client.insert(connection.map_err(|error| error.to_string())?)
            }
        };
        let sent = connection.try_send_raw(&request);
        match sent.map_err(|_| Silence::Closed).and_then(|()| connection.try_read(SOON)) {
            Ok(reply) => {
                world.slowest(began.elapsed());
                return Ok(reply);
            }
            Err(Silence::TimedOut) => return Err(format!("no reply in {SOON:?}")),
            Err(Silence::Closed) => *client = None,
        }
    }
    Err("the server closed the connection".into())
}
