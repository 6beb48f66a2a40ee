//! Waiting clients leave unserved, in each of the three families: they time out, disconnect, or are
//! killed or unblocked. The next in line is served, nothing is handed to a connection that has ended,
//! nothing stays behind, and the module can be unloaded once no client waits.
//!
//! Every test ends with no client waiting, no panic counted and the module unloaded.

mod support;
use support::*;

use std::thread;
use std::time::Duration;

/// How long a client waits that leaves by a time-out: longer than a short line takes to form.
const TIMEOUT: u32 = 1000;

/// Serves these clients, which are the first in line with these numbers, in their order.
#[track_caller]
fn assert_served_in_order(line: &mut Line, clients: impl IntoIterator<Item = (usize, Leaver)>) {
    for (number, mut client) in clients {
        line.serve(number);
        line.family.assert_served(&client.read());
    }
}

#[test]
fn when_a_client_leaves_the_others_are_served_in_their_order() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for (exit, place) in EXITS.into_iter().flat_map(|exit| [0, 1, 2].map(|at| (exit, at))) {
            line.renew();
            let mut exits = [Exit::Close; 3];
            exits[place] = exit;
            let clients = line.form_leavers(exits, TIMEOUT);
            let mut clients: Vec<_> = clients.into_iter().enumerate().collect();
            line.leave(&mut clients.remove(place).1);
            assert_eq!(line.waiting(), 2, "{} {exit:?} {place}", line.family.name);
            assert_served_in_order(&mut line, clients);
        }
    }
}

#[test]
fn a_client_that_was_unblocked_can_wait_again_and_gets_only_new_replies() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for exit in [Exit::TimeOut, Exit::UnblockTimeOut, Exit::UnblockError] {
            let mut client = Leaver::connect(&server, exit);
            for round in 0..2 {
                line.wait_as(&mut client, 2 * round, TIMEOUT);
                line.leave(&mut client);
                line.join_with(client.client(), 2 * round + 1);
                line.serve(2 * round + 1);
                line.family.assert_served(&client.read());
            }
        }
    }
}

#[test]
fn half_of_a_line_leaves_in_any_order_and_the_others_are_served_in_theirs() {
    const COUNT: usize = 100;
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let exits = EXITS.into_iter().filter(|exit| *exit != Exit::TimeOut).cycle();
        let clients = line.form_leavers(exits.take(COUNT), 0);
        let mut clients: Vec<_> = clients.into_iter().map(Some).collect();
        for index in &shuffled(COUNT)[..COUNT / 2] {
            line.leave(&mut clients[*index].take().expect("it leaves once"));
        }
        line.wait_waiting(COUNT / 2);
        let rest = clients.into_iter().enumerate();
        assert_served_in_order(&mut line, rest.filter_map(|(n, client)| Some((n, client?))));
    }
}

/// Five of six clients disconnect and the first in line is to be served, both while the server is
/// stopped: when it goes on, it finds all of that at once.
#[test]
fn nothing_is_handed_to_a_connection_that_has_ended() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for exit in [Exit::Close, Exit::Reset] {
            for (by_module, closed_first) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                line.renew();
                let mut clients = line.form_leavers([exit; 6], 0);
                let mut last = clients.pop().expect("six clients");
                let ports = clients.iter_mut().map(|client| client.client().local_port());
                let ports: Vec<_> = ports.collect();
                let command = if by_module { line.hand_over(5) } else { line.free(5).into() };
                server.pause();
                if !closed_first {
                    line.control.send(&command);
                }
                drop(clients);
                wait_ended(&server, &ports);
                if closed_first {
                    line.control.send(&command);
                }
                server.resume();
                assert!(!line.control.read().is_error(), "{command}");
                line.family.assert_served(&last.read());
                line.wait_waiting(0);
            }
        }
    }
}

/// Where the first in line is sent away and what it waits for comes free, in one transaction or one
/// pipeline.
#[derive(Clone, Copy, Debug)]
struct Race {
    send_away: &'static str,
    closes: bool,
    in_transaction: bool,
    by_module: bool,
}

/// The first of two clients is sent away in a race.
#[track_caller]
fn race(server: &Server, line: &mut Line, race: Race, send_away_first: bool) {
    let (mut first, control) = (server.client(), &mut line.control);
    let id = first.id();
    let user = format!("user{id}");
    let allow = format!("ACL SETUSER {user} on nopass ~* &* +@all");
    assert_eq!(control.run(allow), ok());
    assert_eq!(first.run(format!("AUTH {user} any")), ok());
    line.join_with(&mut first, 1);
    let mut second = line.join(2);
    let send_away = race.send_away.replace("{id}", &id.to_string()).replace("{user}", &user);
    // A command of the module serves at once, the timer only after both commands.
    let to_first = race.by_module && !send_away_first;
    let to = if to_first { 1 } else { 2 };
    let serve = if race.by_module { line.hand_over(to) } else { line.free(to).into() };
    let commands = if send_away_first { [send_away, serve] } else { [serve, send_away] };
    let replies = if race.in_transaction {
        in_transaction(&mut line.control, &commands)
    } else {
        line.control.pipeline(&commands)
    };
    assert!(replies.iter().all(|reply| !reply.is_error()), "{commands:?}: {replies:?}");
    if to_first {
        assert_eq!(line.waiting(), 1, "{commands:?}");
        line.serve(2);
    }
    line.assert_served(&mut second);
    if !race.closes {
        let reply = first.read();
        // The server may send the error into a reply that is already there: some versions instead
        // of it, some behind it.
        let is_expected =
            if to_first { line.family.is_served(&reply) } else { line.family.is_nothing(&reply) };
        let is_unblocked = reply.is_error_with("UNBLOCKED ");
        assert!(is_expected || is_unblocked, "{commands:?}: {reply:?}");
    } else if !to_first {
        assert_eq!(first.try_read(SOON), Err(Silence::Closed), "{commands:?}");
    }
    drop(first);
    line.control.run(format!("ACL DELUSER {user}"));
    line.wait_waiting(0);
}

#[test]
fn in_a_race_with_its_removal_a_client_is_served_or_the_next_one_is() {
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        for (send_away, closes) in SEND_AWAY {
            for number in 0..8 {
                let [in_transaction, by_module, send_away_first] =
                    [1, 2, 4].map(|bit| number & bit != 0);
                line.renew();
                let scene = Race { send_away, closes, in_transaction, by_module };
                race(&server, &mut line, scene, send_away_first);
            }
        }
    }
}

/// With so many connections, Valkey 9 takes too long to find one, and the module no longer looks at each
/// before it serves its client.
#[test]
fn among_many_connections_too_a_client_whose_user_is_deleted_is_passed_over() {
    let server = Checked::start();
    let _crowd = server.clients(4000);
    for mut line in Line::of_each_family(&server) {
        for in_transaction in [false, true] {
            line.renew();
            for (number, mut client) in line.form(20).into_iter().enumerate() {
                line.serve(number);
                line.assert_served(&mut client);
            }
            line.renew();
            let scene = Race {
                send_away: "ACL DELUSER {user}",
                closes: true,
                in_transaction,
                by_module: false,
            };
            race(&server, &mut line, scene, false);
        }
    }
}

#[test]
fn in_a_race_with_its_timeout_a_client_is_served_or_nothing_is_taken() {
    const BLOCK: u64 = 40;
    let server = Checked::start();
    for family in &FAMILIES {
        let mut line = Line::new(&server, family);
        for round in 0..15 {
            line.renew();
            let mut waiter = server.client();
            stand(&mut waiter, &line.wait(1, BLOCK as u32));
            let command = line.hand_over(1);
            if round < 5 {
                // When the server goes on, it finds the command and the time-out at once.
                server.pause();
                thread::sleep(Duration::from_millis(BLOCK));
                line.control.send(&command);
                server.resume();
            } else {
                thread::sleep(Duration::from_millis(BLOCK - 2 + round % 5));
                line.control.send(&command);
            }
            assert!(!line.control.read().is_error(), "{command}");
            let reply = waiter.read();
            assert_eq!(waiter.run("PING"), simple("PONG"), "more came");
            // Either this client has it, or it is there for the next one.
            let next = line.request(2);
            let next = line.control.run(next);
            if family.is_nothing(&reply) {
                family.assert_served(&next);
            } else {
                family.assert_served(&reply);
                assert!(family.is_nothing(&next), "{}: {next:?}", family.name);
            }
        }
    }
}

/// How the last waiting client goes, before the module is unloaded.
#[derive(Clone, Copy, Debug)]
enum End {
    Left(Exit),
    ServedByCommand,
    ServedByTimer,
}

#[test]
fn the_module_cannot_be_unloaded_while_a_client_waits_and_can_afterwards() {
    let server = Server::start();
    let ends = EXITS.map(End::Left).into_iter().chain([End::ServedByCommand, End::ServedByTimer]);
    for end in ends {
        for family in &FAMILIES {
            let mut line = Line::new(&server, family);
            let exit = if let End::Left(exit) = end { exit } else { Exit::Close };
            let mut waiter = line.form_leavers([exit], TIMEOUT).remove(0);
            let refusal = line.control.run("MODULE UNLOAD corral");
            assert!(refusal.is_error(), "{end:?}: {refusal:?}");
            assert!(refusal.as_str().contains("blocked clients"), "{end:?}: {refusal:?}");
            match end {
                End::Left(_) => line.leave(&mut waiter),
                End::ServedByCommand => line.serve(0),
                End::ServedByTimer => line.serve_by_foreigner(0),
            }
            if !matches!(end, End::Left(_)) {
                family.assert_served(&waiter.read());
            }
            drop(waiter);
            wait_blocked(&server, 0);
            let mut control = server.client();
            assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
            let unload = || control.run("MODULE UNLOAD corral") == ok();
            eventually(SOON, &format!("{}: unloaded after {end:?}", family.name), unload);
            let load = args!["MODULE", "LOAD", module_path().to_str().expect("a path")];
            assert_eq!(control.cmd(&load), ok());
            assert_eq!(control.run("FLUSHALL"), ok());
        }
    }
}

#[test]
fn half_of_thousands_of_waiting_clients_are_killed_and_the_others_are_served_in_order() {
    const COUNT: usize = 4000;
    let server = Checked::start();
    for mut line in Line::of_each_family(&server) {
        let mut clients = line.form(COUNT);
        let ids = ids_by_port(&mut line.control);
        let mut living = shuffled(COUNT);
        let killed = living.split_off(COUNT / 2);
        living.sort_unstable();
        let kill = |index: &usize| format!("CLIENT KILL ID {}", ids[&clients[*index].local_port()]);
        let kills: Vec<_> = killed.iter().map(kill).collect();
        for some in kills.chunks(500) {
            assert_eq!(line.control.pipeline(some), vec![int(1); some.len()]);
        }
        line.wait_waiting(COUNT / 2);
        for some in living.chunks(500) {
            let serve: Vec<_> = some.iter().map(|number| line.hand_over(*number)).collect();
            assert!(line.control.pipeline(&serve).iter().all(|reply| !reply.is_error()));
        }
        assert_eq!(line.waiting(), 0, "{}", line.family.name);
        for number in living {
            line.family.assert_served(&clients[number].read());
        }
        for number in killed {
            assert_eq!(clients[number].try_read(SOON), Err(Silence::Closed));
        }
    }
}

#[test]
fn clients_that_waited_leave_no_memory_behind() {
    let server = Checked::start();
    let mut control = server.client();
    let used = |client: &mut Client| -> u64 {
        client.info("memory", "used_memory").expect("a number").parse().expect("a number")
    };
    for family in &FAMILIES {
        let mut round = |count: usize| {
            let mut line = Line::new(&server, family);
            let mut clients = line.form(count);
            // Some are served; some leave while there is something in the database, and the others
            // when there is nothing any more.
            (0..count / 3).for_each(|number| line.serve(number));
            clients.truncate(count / 2);
            assert_eq!(control.run("FLUSHALL"), ok());
            drop(clients);
            line.wait_waiting(0);
            assert_eq!(control.run("FLUSHALL"), ok());
            drop(line);
            wait_blocked(&server, 0);
            used(&mut control)
        };
        // The server keeps something for a few blocked clients, and gives back the rest of what it
        // needed for many bit by bit.
        let before = round(10);
        for _ in 0..6 {
            round(200);
        }
        let is_back = || used(&mut control) <= before;
        eventually(SOON, &format!("{}: the memory comes back", family.name), is_back);
    }
}
