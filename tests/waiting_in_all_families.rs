//! What holds for waiting clients of every family: whoever loses the permission to run the command,
//! or waits for a key that another type has taken, is told so; a client that the server does not let
//! wait is answered at once; a clock that is set keeps nobody waiting; and one family's work does not
//! delay another's.

mod support;
use support::*;

use std::time::Duration;

const NO_PERMISSION: &str = "NOPERM this user may no longer run this command";

/// A family, as a client that waits meets it.
struct Family {
    name: &'static str,
    /// Makes the commands below wait.
    begin: &'static [&'static str],
    /// Waits without end; each client with an identifier of its own.
    wait: fn(usize) -> String,
    /// As `wait`, for so many milliseconds.
    wait_for: fn(u32) -> String,
    /// Whether this is the reply of a wait that ended without anything.
    is_nothing: fn(&Value) -> bool,
    /// Ends the wait of the first client at least.
    hand_over: &'static str,
    /// Puts a key of another type where the client waits.
    spoil: &'static [&'static str],
    /// The key that a user needs.
    key: &'static str,
}

const FAMILIES: [Family; 3] = [
    Family {
        name: "cache",
        begin: &["CACHE.FETCH k 600000"],
        wait: |_| "CACHE.FETCH k 600000 BLOCK 0".into(),
        wait_for: |ms| format!("CACHE.FETCH k 600000 BLOCK {ms}"),
        is_nothing: |reply| reply.items().first() == Some(&simple("WAIT")),
        hand_over: "CACHE.SET k v 600000",
        spoil: &["DEL k", "LPUSH k x"],
        key: "k",
    },
    Family {
        name: "lock",
        begin: &["LOCK.ACQUIRE job me 600000"],
        wait: |number| format!("LOCK.ACQUIRE job w{number} 600000 BLOCK 0"),
        wait_for: |ms| format!("LOCK.ACQUIRE job w 600000 BLOCK {ms}"),
        is_nothing: |reply| *reply == int(0),
        hand_over: "LOCK.RELEASE job me",
        spoil: &["DEL lock:{job}", "LPUSH lock:{job} x"],
        key: "job",
    },
    Family {
        name: "task",
        begin: &[],
        wait: |number| format!("TASK.CONSUME g w{number} q 1 0"),
        wait_for: |ms| format!("TASK.CONSUME g w q 1 {ms}"),
        is_nothing: |reply| *reply == nil_array() || *reply == null(),
        hand_over: "TASK.PUBLISH q payload",
        spoil: &["DEL q", "SET q x"],
        key: "q",
    },
];

/// A client of its own that waits.
#[track_caller]
fn waiter(server: &Server, family: &Family, number: usize) -> Client {
    let mut client = server.client();
    wait_with(server, family, &mut client, number);
    client
}

#[track_caller]
fn wait_with(server: &Server, family: &Family, client: &mut Client, number: usize) {
    send_and_wait(&mut server.client(), family.name, client, &(family.wait)(number));
}

fn begin(server: &Server, family: &Family) -> Client {
    let mut control = server.client();
    for command in family.begin {
        assert!(!control.run(command).is_error(), "{command}");
    }
    control
}

#[test]
fn whoever_lost_the_permission_while_waiting_is_refused_and_the_next_is_served() {
    for family in FAMILIES {
        let command = (family.wait)(0).split(' ').next().expect("a command").to_lowercase();
        let rules =
            [format!("-{command}"), "-@all".into(), "resetkeys ~other".into(), "nocommands".into()];
        for rule in rules {
            let server = Checked::start();
            let mut control = begin(&server, &family);
            assert_eq!(control.run("ACL SETUSER u on >p ~* +@all"), ok());
            let mut denied = server.client();
            assert_eq!(denied.run("AUTH u p"), ok());
            wait_with(&server, &family, &mut denied, 1);
            let mut behind = waiter(&server, &family, 2);

            assert_eq!(control.run(format!("ACL SETUSER u {rule}")), ok());
            assert!(!control.run(family.hand_over).is_error());
            assert_eq!(denied.read(), error(NO_PERMISSION), "{rule}");
            let served = behind.read();
            assert!(!served.is_error() && !(family.is_nothing)(&served), "{rule}: {served:?}");
            // Some servers crash when a module is unloaded whose command a rule names.
            assert_eq!(control.run("ACL DELUSER u"), int(1));
        }
    }
}

#[test]
fn a_user_with_exactly_the_permissions_that_the_command_needs_is_served_after_a_wait() {
    for family in FAMILIES {
        let server = Checked::start();
        let mut control = begin(&server, &family);
        let command = (family.wait)(0).split(' ').next().expect("a command").to_lowercase();
        let rules = format!("ACL SETUSER u on >p ~{} +{command}", family.key);
        assert_eq!(control.run(rules), ok());
        let mut client = server.client();
        assert_eq!(client.run("AUTH u p"), ok());
        wait_with(&server, &family, &mut client, 1);
        assert!(!control.run(family.hand_over).is_error());
        let served = client.read();
        assert!(!served.is_error() && !(family.is_nothing)(&served), "{served:?}");
        assert_eq!(control.run("ACL DELUSER u"), int(1));
    }
}

#[test]
fn whoever_waits_is_told_soon_of_a_key_of_another_type_in_the_place_of_its_own() {
    for family in FAMILIES {
        let server = Checked::start();
        let mut control = begin(&server, &family);
        let mut waiters = [1, 2].map(|number| waiter(&server, &family, number));
        in_transaction(&mut control, family.spoil);
        for waiter in &mut waiters {
            assert_eq!(waiter.read(), error(WRONG_TYPE), "{}", family.name);
        }
    }
}

/// Some servers let a client wait that is subscribed to a channel, some do not.
#[test]
fn a_subscribed_client_waits_or_is_answered_at_once_and_the_line_stays_in_order() {
    for family in FAMILIES {
        let server = Checked::start();
        let mut control = begin(&server, &family);
        let mut subscribed = server.client3();
        subscribed.run("SUBSCRIBE channel");
        for _ in 0..3 {
            let told = subscribed.run((family.wait_for)(50));
            assert!((family.is_nothing)(&told), "{}: {told:?}", family.name);
        }
        assert_eq!(waiters(&mut control, family.name), 0);
        let mut behind = waiter(&server, &family, 1);
        assert!(!control.run(family.hand_over).is_error());
        let served = behind.read();
        assert!(!served.is_error() && !(family.is_nothing)(&served), "{served:?}");
    }
}

#[test]
fn whoever_waits_is_served_soon_after_the_clock_was_set_forward_past_the_end_of_a_lease() {
    let clock = WallClock::new();
    let server = Checked::new(clock.of(Server::builder()).start());
    let mut control = server.client();
    assert_eq!(control.run("CACHE.FETCH k 20000").items()[0], simple("LOAD"));
    assert_eq!(control.run("LOCK.ACQUIRE job me 20000"), int(1));
    assert_eq!(control.run("LOCK.ACQUIRE shared me 20000 SHARED"), int(1));
    control.run("TASK.PUBLISH q later DELAY 20000");
    let [mut cache, mut lock, mut task] = FAMILIES.map(|family| waiter(&server, &family, 1));
    let mut writer = server.client();
    send_and_wait(&mut control, "lock", &mut writer, "LOCK.ACQUIRE shared you 600000 BLOCK 0");

    clock.ahead(Duration::from_secs(60));
    assert_eq!(cache.read().items()[0], simple("LOAD"));
    assert_eq!(lock.read(), int(1));
    assert_eq!(writer.read(), int(1));
    assert!(!task.read().is_error());
}

#[test]
fn whoever_waits_is_served_as_ever_after_the_clock_was_set_whichever_way() {
    for ahead in [true, false] {
        let clock = WallClock::new();
        let server = Checked::new(clock.of(Server::builder()).start());
        let mut control = server.client();
        // Leases that end neither before nor because of it.
        for family in &FAMILIES {
            for command in family.begin {
                let long = command.replace("600000", "100000000");
                assert!(!control.run(&long).is_error(), "{long}");
            }
        }
        let mut all = FAMILIES.map(|family| waiter(&server, &family, 1));
        let hour = Duration::from_secs(3600);
        if ahead {
            clock.ahead(hour)
        } else {
            clock.behind(hour)
        }
        // Servers look at the clock now and then; what comes before is measured by the old one.
        let shift =
            |time: Value| time.items()[0].as_str().parse::<i64>().unwrap() - now_ms() / 1000;
        let seen = |control: &mut Client| shift(control.run("TIME")).abs() > 1800;
        eventually(SOON, "the server sees its clock", || seen(&mut control));

        // By somebody else, by a timer, and by a look without either.
        let [cache, lock, task] = &mut all;
        assert_eq!(control.run("DEL lock:{job}"), int(1));
        assert_eq!(lock.read(), int(1));
        control.run("TASK.PUBLISH q soon DELAY 50");
        assert!(!task.read().is_error());
        assert_eq!(control.run("LPUSH k x"), int(1));
        assert_eq!(cache.read(), error(WRONG_TYPE), "ahead: {ahead}");
    }
}

#[test]
fn a_key_of_another_type_is_told_of_soon_after_the_clock_was_set_back() {
    let clock = WallClock::new();
    for family in &FAMILIES {
        clock.ahead(Duration::ZERO);
        let server = Checked::new(clock.of(Server::builder()).start());
        let mut control = begin(&server, family);
        let mut waiter = waiter(&server, family, 1);
        clock.behind(Duration::from_secs(3600));
        in_transaction(&mut control, family.spoil);
        assert_eq!(waiter.read(), error(WRONG_TYPE), "{}", family.name);
    }
}

/// A lock and a delayed task beside a value that 400 clients get in waves of about one each.
#[test]
fn waves_of_one_family_do_not_hold_up_what_is_due_in_another() {
    const READERS: usize = 400;
    let builder = Server::builder().arg("--corral.wake-bytes").arg(1);
    let server = Checked::new(builder.start());
    let mut control = begin(&server, &FAMILIES[0]);
    let mut readers = server.clients(READERS);
    for reader in &mut readers {
        reader.send("CACHE.FETCH k 600000 BLOCK 0");
    }
    eventually(SOON, "all wait", || waiters(&mut control, "cache") == READERS);
    // What follows runs in one go: the waves have just begun when the others are due.
    assert_eq!(control.run("LOCK.ACQUIRE job me 600000"), int(1));
    let mut locked = waiter(&server, &FAMILIES[1], 1);
    let mut worker = waiter(&server, &FAMILIES[2], 1);
    let begun = control.pipeline(&[
        "MULTI",
        "CACHE.SET k v 600000",
        "DEL lock:{job}",
        "XADD q * payload p",
        "EXEC",
    ]);
    assert!(!begun[4].is_error());
    assert_eq!(locked.read(), int(1));
    assert!(!worker.read().is_error());
    let left = waiters(&mut control, "cache");
    assert!(left > READERS / 4, "only {left} of {READERS} still wait: nobody was delayed at all");
    for reader in &mut readers {
        assert_eq!(reader.read().items()[0], simple("HIT"));
    }
}

#[test]
fn a_server_whose_commands_were_renamed_does_not_load_the_module() {
    for name in ["DEL", "XDEL", "ZREM", "XINFO", "PEXPIREAT", "EXISTS", "XREADGROUP", "UNLINK"] {
        let builder = Server::builder().arg("--rename-command").arg(name).arg("renamed");
        let Err(log) = builder.try_start() else { panic!("loaded without {name}") };
        assert!(log.contains(&format!("no command {name}")), "{log}");
    }
    // What is only good to have may be missing, and what tells of commands.
    for name in ["CLIENT", "COMMAND", "FLUSHALL"] {
        let builder = Server::builder().arg("--rename-command").arg(name).arg("renamed");
        let server = builder.start();
        assert_eq!(server.client().run("LOCK.ACQUIRE job me 1000"), int(1));
    }
}
