//! Clients that wait for locks: strictly first come, first served across all modes, by hand-overs
//! that nobody can barge into, at the end of a lease on time and never early. Whatever foreign
//! clients do to the keys, and however waiters leave, there are never two holders that exclude each
//! other, those who wait are served in order, and a line of thousands costs a release no more than
//! a line of ten.
//!
//! Every test ends with an empty line, no panic counted and a module that can be unloaded.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KEY: &str = "lock:{job}";
const FENCE: &str = "fence:{job}";

/// A lease that does not end during a test.
const LONG: i64 = 600_000;
/// How late a grant may be on a machine that does other things too.
const LATE: i64 = 2000;
/// For how long an identifier keeps its rank.
const RANK_KEPT: i64 = 1000;

/// The command of a client that waits for the lock without end.
fn ask(name: &str, identifier: &str, ttl: i64, options: &str) -> String {
    format!("LOCK.ACQUIRE {name} {identifier} {ttl} {options} BLOCK 0")
}

/// Takes the lock `job`, which is to be had at once.
#[track_caller]
fn take(client: &mut Client, identifier: &str, ttl: i64, options: &str) {
    let reply = client.run(format!("LOCK.ACQUIRE job {identifier} {ttl} {options}"));
    assert!(matches!(reply, Value::Int(1..)), "{identifier}: {reply:?}");
}

/// As [`take`]; when the lease ends.
#[track_caller]
fn take_until(client: &mut Client, identifier: &str, ttl: i64, options: &str) -> i64 {
    let take = format!("LOCK.ACQUIRE job {identifier} {ttl} {options}");
    ends_after(client, &[take])
}

/// Runs commands of a holder of the lock `job` in one step; when its key ends then. In steps of
/// their own, a brief lease could be over before the next command.
#[track_caller]
fn ends_after(client: &mut Client, commands: &[impl AsRef<str>]) -> i64 {
    let commands = commands.iter().map(|command| command.as_ref().to_owned());
    let commands: Vec<_> = commands.chain([format!("PEXPIRETIME {KEY}")]).collect();
    let replies = in_transaction(client, &commands);
    let (end, replies) = replies.split_last().expect("replies");
    assert!(replies.iter().all(|reply| *reply == int(1) || *reply == ok()), "{replies:?}");
    end.as_int()
}

/// Shortens, or prolongs, the lease of the holder of the lock `job`; when it ends.
#[track_caller]
fn extend(client: &mut Client, identifier: &str, ttl: i64) -> i64 {
    ends_after(client, &[format!("LOCK.EXTEND job {identifier} {ttl}")])
}

/// Gives the lock `job` back.
#[track_caller]
fn release(client: &mut Client, identifier: &str) {
    assert_eq!(client.run(format!("LOCK.RELEASE job {identifier}")), int(1), "{identifier}");
}

/// A client that stands in line for the lock `job`, with a long lease.
#[track_caller]
fn waiter(server: &Server, identifier: &str, options: &str) -> Client {
    waiter_with(server, &ask("job", identifier, LONG, options))
}

/// A client that stands in line with this command.
#[track_caller]
fn waiter_with(server: &Server, command: &str) -> Client {
    let mut client = server.client();
    send_and_wait(&mut server.client(), "lock", &mut client, command);
    client
}

/// Has a client stand in line without looking whether it does: the fastest way to form a line, and
/// the only one while others leave.
#[track_caller]
fn stand(client: &mut Client, command: &str) {
    // The server answers when it has read both commands, which come as one.
    client.send_raw(format!("PING\r\n{command}\r\n"));
    assert_eq!(client.read(), simple("PONG"));
}

/// Clients in line for the lock `job`, in this order: identifiers and modes.
#[track_caller]
fn line<const N: usize>(server: &Server, waiters: [(&str, &str); N]) -> [Client; N] {
    waiters.map(|(identifier, options)| waiter(server, identifier, options))
}

/// Reads one reply, and nothing behind it.
#[track_caller]
fn told(client: &mut Client) -> Value {
    let reply = client.read();
    assert_eq!(client.run("PING"), simple("PONG"), "nothing more came");
    reply
}

/// The client is told that the lock is its own.
#[track_caller]
fn granted(client: &mut Client) {
    assert_eq!(told(client), int(1));
}

/// The client is told that the server has sent it away; some servers close the connection, too.
#[track_caller]
fn unblocked(client: &mut Client) {
    let reply = client.read();
    assert!(reply.is_error_with("UNBLOCKED "), "{reply:?}");
}

/// How many wait for locks.
#[track_caller]
fn waiting(server: &Server) -> usize {
    waiters(&mut server.client(), "lock")
}

/// Nobody has moved up: so many wait still, after everything that was to be done at once is done.
#[track_caller]
fn still_wait(server: &Server, count: usize) {
    // For so many replicas it waits 20 ms in vain: longer than the timer takes.
    assert!(matches!(server.client().run("WAIT 1000 20"), Value::Int(_)));
    assert_eq!(waiting(server), count);
}

/// When a holder with a lease of `ttl` was granted the lock, by the server's clock.
#[track_caller]
fn granted_at(client: &mut Client, key: &str, identifier: &str, ttl: i64) -> i64 {
    client.lease_end(key, identifier) - ttl
}

/// Something that was free when the clock was past `end` was granted on time.
#[track_caller]
fn on_time(granted_at: i64, end: i64) {
    assert!(granted_at > end, "granted {} ms early", end + 1 - granted_at);
    assert!(granted_at <= end + LATE, "granted {} ms late", granted_at - end);
}

/// The holders of the lock `job` in alphabetical order.
#[track_caller]
fn sorted_holders(client: &mut Client) -> Vec<String> {
    let mut holders = client.lock_holders("job");
    holders.sort();
    holders
}

/// Waits until the clock is past this point.
#[track_caller]
fn wait_past(client: &mut Client, end: i64) {
    eventually(SOON, "the clock goes on", || client.time_ms() > end);
}

/// Turns off what removes expired keys in the background: only the module's own timer is left.
#[track_caller]
fn stop_active_expiry(server: &Server) {
    assert_eq!(server.client().run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
}

/// Sends away a client that waits.
#[track_caller]
fn unblock(control: &mut Client, id: i64) {
    assert_eq!(control.run(format!("CLIENT UNBLOCK {id}")), int(1));
}

// ---------------------------------------------------------------------------------------------
// What a client that waits is told
// ---------------------------------------------------------------------------------------------

#[test]
fn a_lock_that_does_not_come_free_is_waited_for_and_then_the_reply_is_zero() {
    let server = Checked::start();
    take(&mut server.client(), "me", LONG, "");
    for mut client in [server.client(), server.client3()] {
        for options in ["", "SHARED", "LIMIT 5", "FENCE"] {
            let begin = Instant::now();
            let call = format!("LOCK.ACQUIRE job you {LONG} {options} BLOCK 40");
            assert_eq!(client.run(call), int(0), "{options}");
            assert!(begin.elapsed() >= Duration::from_millis(40), "{options}");
        }
    }
}

#[test]
fn a_block_of_zero_has_no_end_and_a_huge_one_is_left_like_any_other() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let longest = (1_i64 << 53) - now_ms() - LONG;
    for block in [0, longest, i64::from(i32::MAX) + 1] {
        let mut client = server.client();
        let id = client.id();
        let call = format!("LOCK.ACQUIRE job you {LONG} BLOCK {block}");
        send_and_wait(&mut control, "lock", &mut client, &call);
        // All that the server does about time-outs, it has done when this one has run out.
        assert_eq!(control.run("LOCK.ACQUIRE job other 1000 BLOCK 150"), int(0));
        assert_eq!(client.read_timeout(Duration::ZERO), None);
        unblock(&mut control, id);
        assert_eq!(told(&mut client), int(0));
    }
}

#[test]
fn a_waiter_is_told_one_or_its_token_in_both_protocols() {
    let server = Checked::start();
    let mut control = server.client();
    let mut last = 0;
    for mut client in [server.client(), server.client3()] {
        for options in ["", "SHARED", "LIMIT 1", "FENCE"] {
            take(&mut control, "me", LONG, "");
            let command = ask("job", "you", LONG, options);
            send_and_wait(&mut control, "lock", &mut client, &command);
            release(&mut control, "me");
            let reply = told(&mut client).as_int();
            if options == "FENCE" {
                assert!(reply > last && reply >= 1000 * control.time_ms() - 60_000_000, "{reply}");
                assert_eq!(control.run(format!("GET {FENCE}")), bulk(reply.to_string()));
                last = reply;
            } else {
                assert_eq!(reply, 1, "{options}");
            }
            assert_eq!(control.lock_holders("job"), ["you"]);
            release(&mut control, "you");
        }
    }
}

#[test]
fn tokens_rise_from_waiter_to_waiter() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "FENCE");
    let ids: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> = ids.iter().map(|id| waiter(&server, id, "FENCE")).collect();
    release(&mut control, "h");
    let mut last = 0;
    for (id, client) in ids.iter().zip(&mut clients) {
        let next = told(client).as_int();
        assert!(next > last.max(1), "{next} after {last}");
        last = next;
        release(&mut control, id);
    }
}

#[test]
fn a_lease_begins_when_it_is_granted_and_not_when_it_was_asked_for() {
    let server = Checked::start();
    let mut control = server.client();
    for options in ["", "SHARED", "FENCE"] {
        take(&mut control, "me", LONG, "");
        let mut next = waiter(&server, "you", options);
        let asked = control.time_ms();
        wait_past(&mut control, asked + 30);
        let replies = control.pipeline(&["TIME", "LOCK.RELEASE job me", "TIME"]);
        assert!(told(&mut next).as_int() >= 1);
        let begin = granted_at(&mut control, KEY, "you", LONG);
        let (before, after) = (replies[0].unix_ms(), replies[2].unix_ms());
        assert!((before..=after).contains(&begin), "{options}: {before} {begin} {after}");
        release(&mut control, "you");
    }
}

#[test]
fn replies_come_in_the_order_of_a_pipeline_that_waits() {
    let server = Checked::start();
    let (mut control, mut client) = (server.client(), server.client());
    take(&mut control, "me", LONG, "");
    let wait = ask("job", "you", LONG, "");
    let lines = ["PING one", &wait, "PING two", "LOCK.RELEASE job you", &wait, "PING three", ""];
    client.send_raw(lines.join("\r\n"));
    eventually(SOON, "it waits", || waiting(&server) == 1);
    assert_eq!(client.read(), bulk("one"));
    assert_eq!(client.read_timeout(Duration::ZERO), None);
    release(&mut control, "me");
    for reply in [int(1), bulk("two"), int(1), int(1), bulk("three")] {
        assert_eq!(client.read(), reply);
    }
}

#[test]
fn identifiers_and_names_of_any_bytes_wait_and_are_granted() {
    let server = Checked::start();
    let mut control = server.client();
    let every_byte: Vec<u8> = (0..=255).collect();
    for name in [b"\0\r\n".as_slice(), b"a}b", b"x{y}z", &every_byte] {
        for (identifier, mode) in [(b"\0\xff\r\n".as_slice(), "SHARED"), (&every_byte, "FENCE")] {
            let acquire = args!["LOCK.ACQUIRE", name, "me", LONG];
            assert_eq!(control.cmd(&acquire), int(1));
            let mut client = server.client();
            client.send_args(&args!["LOCK.ACQUIRE", name, identifier, LONG, mode, "BLOCK", 0]);
            eventually(SOON, "it waits", || waiting(&server) == 1);
            assert_eq!(control.cmd(&args!["LOCK.RELEASE", name, "me"]), int(1));
            assert!(told(&mut client).as_int() >= 1);
            let info = control.cmd(&args!["LOCK.INFO", name]);
            assert_eq!(info.get("holders").items()[0].items()[0], bulk(identifier));
            assert_eq!(control.cmd(&args!["LOCK.RELEASE", name, identifier]), int(1));
        }
    }
}

// ---------------------------------------------------------------------------------------------
// First come, first served
// ---------------------------------------------------------------------------------------------

#[test]
fn a_queued_writer_is_not_overtaken_by_later_readers() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "r0", LONG, "SHARED");
    let [mut writer, mut reader] = line(&server, [("w", ""), ("r1", "SHARED")]);
    for options in ["SHARED", "LIMIT 100", "SHARED BLOCK 1", ""] {
        let late = control.run(format!("LOCK.ACQUIRE job late 1000 {options}"));
        assert_eq!(late, int(0), "{options}");
    }
    // Who holds it already goes on holding it.
    take(&mut control, "r0", LONG, "SHARED");
    assert_eq!(control.run("LOCK.EXTEND job r0 600000 SHARED"), int(1));
    still_wait(&server, 2);
    release(&mut control, "r0");
    granted(&mut writer);
    assert_eq!(control.lock_holders("job"), ["w"]);
    release(&mut control, "w");
    granted(&mut reader);
    assert_eq!(control.lock_holders("job"), ["r1"]);
}

#[test]
fn readers_that_follow_each_other_in_line_are_granted_together() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "w0", LONG, "");
    let readers = [("r1", "SHARED"), ("r2", "SHARED"), ("r3", "LIMIT 3")];
    let mut together = line(&server, readers);
    let [mut writer, mut behind] = line(&server, [("w1", ""), ("r4", "SHARED")]);
    release(&mut control, "w0");
    together.iter_mut().for_each(granted);
    assert_eq!(sorted_holders(&mut control), ["r1", "r2", "r3"]);
    for (reader, left) in [("r2", 2), ("r1", 2), ("r3", 1)] {
        assert_eq!(waiting(&server), 2);
        release(&mut control, reader);
        assert_eq!(waiting(&server), left, "the writer follows the last reader");
    }
    granted(&mut writer);
    release(&mut control, "w1");
    granted(&mut behind);
}

#[test]
fn a_semaphore_lets_in_as_many_as_leave() {
    let server = Checked::start();
    let mut control = server.client();
    for holder in ["a", "b"] {
        take(&mut control, holder, LONG, "LIMIT 2");
    }
    let [mut c, mut d, mut wide, mut e] =
        line(&server, [("c", "LIMIT 2"), ("d", "LIMIT 2"), ("wide", "LIMIT 4"), ("e", "LIMIT 2")]);
    // There is room for the third in line, but it is not its turn.
    still_wait(&server, 4);
    release(&mut control, "a");
    granted(&mut c);
    assert_eq!(waiting(&server), 3);
    release(&mut control, "b");
    granted(&mut d);
    granted(&mut wide);
    assert_eq!(control.run(format!("ZCARD {KEY}")), int(3));
    release(&mut control, "wide");
    assert_eq!(waiting(&server), 1);
    release(&mut control, "c");
    granted(&mut e);
}

#[test]
fn a_downgrade_lets_queued_readers_join_at_once_up_to_the_next_writer() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "w0", LONG, "");
    let [mut r1, mut r2, mut w1, _r3] =
        line(&server, [("r1", "SHARED"), ("r2", "LIMIT 3"), ("w1", ""), ("r3", "SHARED")]);
    let replies = control.pipeline(&["LOCK.EXTEND job w0 600000 SHARED", "ZCARD lock:{job}"]);
    assert_eq!(replies, [int(1), int(3)]);
    granted(&mut r1);
    granted(&mut r2);
    still_wait(&server, 2);
    // An upgrade never waits, and does not pass those who do.
    assert_eq!(control.run("LOCK.EXTEND job w0 600000 EXCLUSIVE"), int(0));
    for reader in ["w0", "r1", "r2"] {
        release(&mut control, reader);
    }
    granted(&mut w1);
}

#[test]
fn a_sole_holder_upgrades_before_those_who_wait_and_they_keep_their_order() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "SHARED");
    let [mut writer, mut reader] = line(&server, [("w", ""), ("r", "SHARED")]);
    for to in ["EXCLUSIVE", "SHARED", "EXCLUSIVE"] {
        assert_eq!(control.run(format!("LOCK.EXTEND job me {LONG} {to}")), int(1));
        still_wait(&server, 2);
    }
    release(&mut control, "me");
    granted(&mut writer);
    still_wait(&server, 1);
    release(&mut control, "w");
    granted(&mut reader);
}

/// The modes that the model of [`any_line_is_served_in_its_order`] plays with.
const MODES: [&str; 4] = ["", "SHARED", "LIMIT 2", "LIMIT 5"];

/// Whether one more holder may join `holders`, each of which is exclusive or not.
fn admits(holders: &BTreeMap<String, bool>, mode: &str) -> bool {
    let shared = holders.values().all(|exclusive| !exclusive);
    match mode {
        "" => holders.is_empty(),
        "SHARED" => shared,
        limit => shared && holders.len() < limit[6..].parse().expect("a number"),
    }
}

#[test]
fn any_line_is_served_in_its_order() {
    let server = Checked::start();
    let mut control = server.client();
    for seed in 1..=6 {
        let mut random = Random::new(seed);
        let mut clients = BTreeMap::new();
        let mut queue: Vec<(String, &str)> = Vec::new();
        let mut holders = BTreeMap::from([("first".to_owned(), true)]);
        take(&mut control, "first", LONG, "");
        for number in 0..30 {
            let (id, mode) = (format!("h{number:02}"), MODES[random.below(MODES.len())]);
            clients.insert(id.clone(), waiter(&server, &id, mode));
            queue.push((id, mode));
        }
        while !holders.is_empty() {
            // Somebody in line gives up now and then, else a holder leaves.
            if !queue.is_empty() && random.below(4) == 0 {
                let (id, _) = queue.remove(random.below(queue.len()));
                assert_eq!(control.run(format!("LOCK.RELEASE job {id}")), int(0));
                assert_eq!(told(clients.get_mut(&id).expect("a client")), int(0));
            } else {
                let nth = random.below(holders.len());
                let id = holders.keys().nth(nth).expect("a holder").clone();
                release(&mut control, &id);
                holders.remove(&id);
            }
            while queue.first().is_some_and(|(_, mode)| admits(&holders, mode)) {
                let (id, mode) = queue.remove(0);
                granted(clients.get_mut(&id).expect("a client"));
                holders.insert(id, mode.is_empty());
            }
            assert_eq!(
                sorted_holders(&mut control),
                holders.keys().cloned().collect::<Vec<_>>(),
                "seed {seed}"
            );
            assert_eq!(waiting(&server), queue.len(), "seed {seed}");
        }
        assert!(queue.is_empty());
    }
}

// ---------------------------------------------------------------------------------------------
// Direct hand-over
// ---------------------------------------------------------------------------------------------

#[test]
fn the_next_holder_is_written_before_the_releaser_is_answered() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [mut a, mut b, mut c] = line(&server, [("a", ""), ("b", "FENCE"), ("c", "SHARED")]);
    // Whatever comes right behind the release finds the next holder there.
    let behind = |release: &str, holder: &str| {
        [
            release.to_owned(),
            format!("GET {KEY}"),
            format!("SET {KEY} thief NX PX 1000"),
            "LOCK.ACQUIRE job thief 1000".to_owned(),
            "LOCK.ACQUIRE job thief 1000 SHARED".to_owned(),
            format!("LOCK.EXTEND job {holder} 600000"),
        ]
    };
    let expected = |holder: &str| [int(1), bulk(holder), nil(), int(0), int(0), int(1)];
    let commands = behind("LOCK.RELEASE job me", "a");
    assert_eq!(control.pipeline(&commands), expected("a"));
    granted(&mut a);
    let commands = behind("EVAL return{redis.call('LOCK.RELEASE',KEYS[1],'a')}[1] 1 job", "b");
    let commands =
        commands.map(|command| command.replace("return{", "return({").replace("}[", "})["));
    assert_eq!(control.pipeline(&commands), expected("b"));
    assert!(told(&mut b).as_int() > 1);
    let commands = ["LOCK.RELEASE job b", "ZRANGE lock:{job} 0 -1", "LOCK.EXTEND job c 600000"];
    assert_eq!(in_transaction(&mut control, &commands), [int(1), array(["c"]), int(1)]);
    granted(&mut c);
}

#[test]
fn a_third_client_whose_set_comes_with_the_release_gets_nothing() {
    let server = Checked::start();
    let (mut releaser, mut thief) = (server.client(), server.client());
    for round in 0..10 {
        take(&mut releaser, "me", LONG, "");
        let mut next = waiter(&server, "next", "");
        // When the server goes on, it finds both commands at once.
        server.pause();
        let steal = |thief: &mut Client| thief.send(format!("SET {KEY} thief NX PX 600000"));
        if round % 2 == 0 {
            releaser.send("LOCK.RELEASE job me");
            steal(&mut thief);
        } else {
            steal(&mut thief);
            releaser.send("LOCK.RELEASE job me");
        }
        server.resume();
        assert_eq!(thief.read(), nil());
        assert_eq!(releaser.read(), int(1));
        granted(&mut next);
        release(&mut releaser, "next");
    }
}

#[test]
fn whoever_polls_never_gets_between_those_who_wait() {
    const HAND_OVERS: usize = 150;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..HAND_OVERS).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> = ids.iter().map(|id| waiter(&server, id, "")).collect();
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let polls = [
            format!("SET {KEY} thief NX PX 600000"),
            "LOCK.ACQUIRE job thief 600000".to_owned(),
            "LOCK.ACQUIRE job thief 600000 SHARED".to_owned(),
        ];
        let mut thief = server.client();
        let (over, rounds) = (&over, &rounds);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(thief.pipeline(&polls), [nil(), int(0), int(0)]);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually(SOON, "the thief tries", || rounds.load(Ordering::Relaxed) > 0);
        release(&mut control, "h");
        for (id, client) in ids.iter().zip(&mut clients) {
            granted(client);
            if id != ids.last().expect("the last") {
                release(&mut control, id);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_hand_over_needs_no_memory() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [mut fenced, mut reader] = line(&server, [("f", "FENCE"), ("r", "SHARED")]);
    assert_eq!(control.run("CONFIG SET maxmemory 1"), ok());
    release(&mut control, "me");
    assert!(told(&mut fenced).as_int() > 1);
    release(&mut control, "f");
    granted(&mut reader);
    assert_eq!(control.run("CONFIG SET maxmemory 0"), ok());
}

#[test]
fn a_waiter_whose_fence_key_is_unusable_is_told_so_and_the_next_one_is_granted() {
    let server = Checked::start();
    let mut control = server.client();
    for (spoil, refusal) in [
        ("SET fence:{job} garbage", BAD_FENCE),
        ("LPUSH fence:{job} a", WRONG_TYPE),
        ("SET fence:{job} 9223372036854775807", BAD_FENCE),
    ] {
        take(&mut control, "me", LONG, "");
        let [mut fenced, mut again, mut behind] =
            line(&server, [("f", "FENCE"), ("g", "FENCE"), ("w", "")]);
        assert!(!control.run(spoil).is_error(), "{spoil}");
        // It is not the releaser's fault, nor that of those behind.
        release(&mut control, "me");
        granted(&mut behind);
        assert_eq!(fenced.read(), error(refusal), "{spoil}");
        assert_eq!(again.read(), error(refusal), "{spoil}");
        release(&mut control, "w");
        assert_eq!(control.run("FLUSHALL"), ok());
    }
}

// ---------------------------------------------------------------------------------------------
// The end of a lease
// ---------------------------------------------------------------------------------------------

#[test]
fn when_a_lease_ends_the_next_in_line_is_granted_on_time_and_never_early() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for ttl in [40, 130] {
        for (held, next) in [("", ""), ("", "SHARED"), ("SHARED", ""), ("LIMIT 1", "LIMIT 1")] {
            let end = take_until(&mut control, "me", ttl, held);
            let mut client = server.client();
            client.send(ask("job", "you", LONG, next));
            granted(&mut client);
            on_time(granted_at(&mut control, KEY, "you", LONG), end);
            assert_eq!(control.run("LOCK.EXTEND job me 1000"), int(0));
            release(&mut control, "you");
        }
    }
}

#[test]
fn many_other_keys_that_expire_delay_nobody() {
    let server = Checked::start();
    let mut control = server.client();
    let fill = "for i = 1, 30000 do redis.call('SET', 'volatile:' .. i, i, 'PX', 1 + i % 400) end";
    for ttl in [50, 200] {
        let end = take_until(&mut control, "me", ttl, "");
        let mut client = server.client();
        client.send(ask("job", "you", LONG, ""));
        assert_eq!(control.cmd(&["EVAL", fill, "0"]), nil());
        granted(&mut client);
        on_time(granted_at(&mut control, KEY, "you", LONG), end);
        release(&mut control, "you");
    }
}

/// The server's own expiry counts from the start of a script or transaction.
#[test]
fn a_lease_that_is_granted_late_in_a_transaction_begins_at_the_grant() {
    const TTL: i64 = 60_000;
    /// Runs a command 300 ms after the transaction began. When its lease begins at the earliest.
    #[track_caller]
    fn late(control: &mut Client, command: &str) -> i64 {
        let before = control.time_ms();
        let replies = in_transaction(control, &["DEBUG SLEEP 0.3", command]);
        assert!(matches!(replies[1], Value::Int(1..)), "{command}: {replies:?}");
        before + 300
    }
    for options in ["", "SHARED", "FENCE"] {
        let server = Checked::start();
        let mut control = server.client();
        take(&mut control, "writer", LONG, "");
        let mut client = server.client();
        let wait = format!("LOCK.ACQUIRE job you {TTL} {options} BLOCK 0");
        send_and_wait(&mut control, "lock", &mut client, &wait);
        let begin = late(&mut control, "LOCK.RELEASE job writer");
        assert!(told(&mut client).as_int() >= 1);
        assert!(control.lease_end(KEY, "you") >= begin + TTL, "handed over: {options}");
        release(&mut control, "you");
        for command in
            [format!("LOCK.ACQUIRE job me {TTL} {options}"), format!("LOCK.EXTEND job me {TTL}")]
        {
            let begin = late(&mut control, &command);
            assert!(control.lease_end(KEY, "me") >= begin + TTL, "{command}");
        }
    }
}

#[test]
fn leases_that_nobody_extends_end_one_after_the_other_down_the_line() {
    const TTL: i64 = 15;
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> =
        ids.iter().map(|id| waiter_with(&server, &ask("job", id, TTL, "FENCE"))).collect();
    let mut tap = server.replication_tap();
    let begin = control.time_ms();
    release(&mut control, "h");
    clients.iter_mut().for_each(|client| assert!(told(client).as_int() > 1));
    // What was written tells who was granted what until when.
    let commands = tap.commands();
    let grants: Vec<_> = commands.iter().map(Command::text).collect();
    let start = format!("SET {KEY} ");
    let grants: Vec<_> = grants
        .iter()
        .filter_map(|text| text.strip_prefix(&start)?.split_once(" PXAT "))
        .map(|(id, end)| (id, end.parse::<i64>().expect("a time")))
        .collect();
    assert_eq!(grants.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    let mut previous = begin - 1;
    for (_, end) in grants {
        on_time(end - TTL, previous);
        previous = end;
    }
}

#[test]
fn each_shared_lease_ends_by_itself() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    let holders = ["early", "middle", "late"];
    for holder in holders {
        take(&mut control, holder, LONG, "LIMIT 3");
    }
    let [mut first, mut second, mut writer] =
        line(&server, [("first", "LIMIT 3"), ("second", "LIMIT 3"), ("writer", "")]);
    let leases = [("early", 60), ("middle", 230), ("late", 400)];
    let leases = leases.map(|(holder, ttl)| format!("LOCK.EXTEND job {holder} {ttl}"));
    let scores = holders.map(|holder| format!("ZSCORE {KEY} {holder}"));
    let replies = in_transaction(&mut control, &[leases, scores].concat());
    let ends: Vec<i64> =
        replies[3..].iter().map(|score| score.as_str().parse().expect("a time")).collect();
    granted(&mut first);
    on_time(granted_at(&mut control, KEY, "first", LONG), ends[0]);
    granted(&mut second);
    on_time(granted_at(&mut control, KEY, "second", LONG), ends[1]);
    // The writer waits for the last of those that are left.
    release(&mut control, "second");
    let end = extend(&mut control, "first", 100);
    assert!(end >= ends[2] || end >= ends[1] + 100);
    granted(&mut writer);
    on_time(granted_at(&mut control, KEY, "writer", LONG), end);
}

#[test]
fn the_holder_moves_the_grant_by_extending_its_lease() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for (held, again, option) in [
        ("", "LOCK.EXTEND job me", ""),
        ("", "LOCK.ACQUIRE job me", "BLOCK 0"),
        ("SHARED", "LOCK.EXTEND job me", ""),
        ("SHARED", "LOCK.ACQUIRE job me", "SHARED"),
    ] {
        // Later, sooner, and later again; at once, and after some time.
        for ttls in [&[60, 250, 150][..], &[60, LONG, 100]] {
            take(&mut control, "me", LONG, held);
            let mut next = waiter(&server, "you", "");
            let again = |ttl: &i64| format!("{again} {ttl} {option}");
            let end = ends_after(&mut control, &ttls.iter().map(again).collect::<Vec<_>>());
            granted(&mut next);
            on_time(granted_at(&mut control, KEY, "you", LONG), end);
            release(&mut control, "you");
        }
    }
    // While the timer stands. A lease is long enough not to end before it is extended.
    take(&mut control, "me", LONG, "");
    let mut next = waiter(&server, "you", "");
    let mut end = 0;
    for _ in 0..5 {
        let now = control.time_ms();
        end = extend(&mut control, "me", 2000);
        wait_past(&mut control, now + 60);
    }
    granted(&mut next);
    on_time(granted_at(&mut control, KEY, "you", LONG), end);
}

#[test]
fn locks_of_several_names_and_databases_end_each_at_its_time() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    let places =
        [(0, "job", 260), (9, "job", 60), (3, "a{b}", 160), (9, "other", 110), (0, "x", 60)];
    let mut ends = Vec::new();
    let mut clients: Vec<_> = places
        .iter()
        .map(|(db, name, ttl)| {
            assert_eq!(control.run(format!("SELECT {db}")), ok());
            let key =
                if *name == "a{b}" { "lock::a{b}".into() } else { format!("lock:{{{name}}}") };
            let take = format!("LOCK.ACQUIRE {name} me {ttl}");
            let replies = in_transaction(&mut control, &[take, format!("PEXPIRETIME {key}")]);
            assert_eq!(replies[0], int(1));
            ends.push((key, replies[1].as_int()));
            let mut client = server.client();
            assert_eq!(client.run(format!("SELECT {db}")), ok());
            client.send(ask(name, "you", LONG, ""));
            client
        })
        .collect();
    for ((client, (db, ..)), (key, end)) in clients.iter_mut().zip(places).zip(ends) {
        granted(client);
        assert_eq!(control.run(format!("SELECT {db}")), ok());
        on_time(granted_at(&mut control, &key, "you", LONG), end);
    }
}

#[test]
fn what_is_freed_in_one_database_serves_nobody_in_another() {
    let server = Checked::start();
    let mut controls = [0, 7].map(|db| {
        let mut client = server.client();
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        client
    });
    let mut waiters = [0, 7].map(|db| {
        let mut client = server.client();
        assert_eq!(client.run(format!("SELECT {db}")), ok());
        client
    });
    for (control, waiter) in controls.iter_mut().zip(&mut waiters) {
        take(control, "me", LONG, "");
        let mut any = server.client();
        send_and_wait(&mut any, "lock", waiter, &ask("job", "you", LONG, ""));
    }
    release(&mut controls[1], "me");
    granted(&mut waiters[1]);
    still_wait(&server, 1);
    assert_eq!(controls[0].run(format!("DEL {KEY}")), int(1));
    granted(&mut waiters[0]);
}

#[test]
fn nothing_is_granted_while_writes_are_paused_and_everything_afterwards() {
    let server = Checked::start();
    let mut control = server.client();
    for held in ["", "SHARED"] {
        take(&mut control, "me", LONG, held);
        let mut first = waiter(&server, "first", "");
        let mut leaver = server.client();
        let leave = format!("LOCK.ACQUIRE job leaver {LONG} BLOCK 400");
        send_and_wait(&mut control, "lock", &mut leaver, &leave);
        let pause = ["LOCK.EXTEND job me 50", "CLIENT PAUSE 600000 WRITE"];
        let end = ends_after(&mut control, &pause);
        wait_past(&mut control, end + 100);
        // The server looks after time-outs, and hands nothing over.
        assert_eq!(leaver.read(), int(0));
        assert_eq!(waiting(&server), 1);
        assert_eq!(first.read_timeout(Duration::ZERO), None);
        let unpaused = control.time_ms();
        assert_eq!(control.run("CLIENT UNPAUSE"), ok());
        granted(&mut first);
        on_time(granted_at(&mut control, KEY, "first", LONG), unpaused - 1);
        release(&mut control, "first");
    }
}

#[test]
fn a_pause_of_everybody_in_which_a_lease_ends_and_waiters_leave_is_survived() {
    const PAUSE: i64 = 700;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [gone, mut last] = line(&server, [("gone", ""), ("last", "")]);
    let mut impatient = server.client();
    let wait = format!("LOCK.ACQUIRE job impatient {LONG} BLOCK 400");
    send_and_wait(&mut control, "lock", &mut impatient, &wait);
    let begin = control.time_ms();
    ends_after(
        &mut control,
        &["LOCK.EXTEND job me 50".into(), format!("CLIENT PAUSE {PAUSE} ALL")],
    );
    drop(gone);
    assert_eq!(told(&mut impatient), int(0));
    granted(&mut last);
    let at = granted_at(&mut control, KEY, "last", LONG);
    assert!(at >= begin + PAUSE, "it was granted in the pause");
}

// ---------------------------------------------------------------------------------------------
// Foreign actors
// ---------------------------------------------------------------------------------------------

/// What clients without the module write: redis-py's Lock, and the scripts of Redlock libraries.
const REDIS_PY_RELEASE: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end redis.call('del', KEYS[1]) return 1";
const REDIS_PY_EXTEND: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end \
    local expiration = redis.call('pttl', KEYS[1]) \
    if not expiration then expiration = 0 end if expiration < 0 then return 0 end \
    local newttl = ARGV[2] if ARGV[3] == '0' then newttl = ARGV[2] + expiration end \
    redis.call('pexpire', KEYS[1], newttl) return 1";
const REDIS_PY_REACQUIRE: &str = "local token = redis.call('get', KEYS[1]) \
    if not token or token ~= ARGV[1] then return 0 end \
    redis.call('pexpire', KEYS[1], ARGV[2]) return 1";
const REDLOCK_ACQUIRE: &str = "for i, key in ipairs(KEYS) do \
    if redis.call('exists', key) == 1 then return 0 end end \
    for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[1], 'PX', ARGV[2]) end return #KEYS";
const REDLOCK_EXTEND: &str = "for i, key in ipairs(KEYS) do \
    if redis.call('get', key) ~= ARGV[1] then return 0 end end \
    for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[1], 'PX', ARGV[2]) end return #KEYS";
const REDLOCK_RELEASE: &str = "local count = 0 for i, key in ipairs(KEYS) do \
    if redis.call('get', key) == ARGV[1] then redis.pcall('del', key) count = count + 1 end end \
    return count";

/// Runs a script on the key of the lock.
#[track_caller]
fn script(client: &mut Client, script: &str, args: &[&str]) -> Value {
    client.cmd(&[&["EVAL", script, "1", KEY], args].concat())
}

/// `me` holds the lock, `first` and `second` wait, and a foreign client does something: the first
/// is granted, without a command of the module, and the second when the first lets go.
#[track_caller]
fn frees(held: &str, prepare: &[&str], act: &[&[&str]]) {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut foreign = server.client();
    take(&mut foreign, "me", LONG, held);
    for command in prepare {
        let reply = foreign.run(command);
        assert!(!reply.is_error(), "{command}: {reply:?}");
    }
    let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
    for command in act {
        let reply = foreign.cmd(command);
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
    granted(&mut first);
    // There is one holder, and it is not the old one.
    let mut control = server.client();
    assert_eq!(control.run(format!("GET {KEY}")), bulk("first"));
    assert_eq!(control.run("LOCK.EXTEND job me 1000"), int(0));
    assert_eq!(control.run("LOCK.RELEASE job me"), int(0));
    assert_eq!(waiting(&server), 1, "the second waits");
    release(&mut control, "first");
    granted(&mut second);
}

#[test]
fn a_foreign_delete_frees_the_lock() {
    frees("", &[], &[&["DEL", KEY]]);
    frees("SHARED", &[], &[&["UNLINK", KEY]]);
    frees("", &[], &[&["GETDEL", KEY]]);
    frees("", &[], &[&["MULTI"], &["DEL", KEY], &["EXEC"]]);
}

#[test]
fn a_foreign_end_of_the_key_frees_the_lock() {
    frees("", &[], &[&["PEXPIRE", KEY, "0"]]);
    frees("SHARED", &[], &[&["PEXPIREAT", KEY, "1"]]);
    frees("", &[], &[&["PEXPIRE", KEY, "60"]]);
    frees("", &[], &[&["GETEX", KEY, "PX", "60"]]);
    frees("", &[], &[&["PERSIST", KEY], &["PEXPIRE", KEY, "60"]]);
}

#[test]
fn a_shared_lock_that_a_foreign_client_lets_expire_is_granted_then() {
    frees("SHARED", &[], &[&["PEXPIRE", KEY, "60"]]);
}

#[test]
fn another_lock_in_its_place_is_waited_for() {
    frees("", &[], &[&["SET", KEY, "foreign", "PX", "60"]]);
    frees("SHARED", &[], &[&["SET", KEY, "foreign", "PX", "60"]]);
    frees("", &[], &[&["SET", KEY, "foreign"], &["DEL", KEY]]);
    let foreign = ["SET", KEY, "foreign", "NX", "PX", "60"];
    frees("", &[], &[&["MULTI"], &["DEL", KEY], &foreign, &["EXEC"]]);
}

#[test]
fn a_rename_a_move_a_copy_and_a_restore_are_noticed() {
    frees("", &[], &[&["RENAME", KEY, "elsewhere"]]);
    frees("SHARED", &[], &[&["MOVE", KEY, "5"]]);
    let brief = ["SET", "brief", "foreign", "PX", "60"];
    frees("", &[], &[&["MULTI"], &brief, &["RENAME", "brief", KEY], &["EXEC"]]);
    frees("", &[], &[&["MULTI"], &brief, &["COPY", "brief", KEY, "REPLACE"], &["EXEC"]]);
}

#[test]
fn whole_databases_that_go_take_the_lock_with_them() {
    frees("", &[], &[&["FLUSHALL"]]);
    frees("SHARED", &[], &[&["FLUSHDB"]]);
    frees("", &[], &[&["FLUSHALL", "ASYNC"]]);
    frees("", &[], &[&["SWAPDB", "0", "5"]]);
    frees("SHARED", &[], &[&["SWAPDB", "5", "0"]]);
}

#[test]
fn shared_holders_that_are_removed_by_hand_are_gone() {
    frees("SHARED", &[], &[&["ZREM", KEY, "me"]]);
    frees("SHARED", &[], &[&["ZREMRANGEBYSCORE", KEY, "-inf", "+inf"]]);
    frees("SHARED", &[], &[&["ZPOPMIN", KEY]]);
    frees("SHARED", &[], &[&["ZADD", KEY, "1", "me"]]);
    frees("SHARED", &[], &[&["PERSIST", KEY], &["ZADD", KEY, "XX", "1", "me"]]);
}

#[test]
fn whoever_waits_is_told_of_a_key_of_another_type_in_the_place_of_the_lock() {
    for options in ["", "SHARED", "LIMIT 3", "FENCE"] {
        let server = Checked::start();
        let mut control = server.client();
        take(&mut control, "me", LONG, "");
        let mut waiters = line(&server, [("a", options), ("b", options), ("c", "")]);
        let list = [format!("DEL {KEY}"), format!("LPUSH {KEY} x")];
        in_transaction(&mut control, &list);
        for waiter in &mut waiters {
            assert_eq!(waiter.read(), error(WRONG_TYPE), "{options}");
        }
        assert_eq!(control.run(format!("LPOP {KEY}")), bulk("x"));
        take(&mut control, "next", LONG, "");
    }
}

#[test]
fn scripts_of_other_lock_libraries_free_the_lock() {
    for release in [REDIS_PY_RELEASE, REDLOCK_RELEASE] {
        frees("", &[], &[&["EVAL", release, "1", KEY, "me"]]);
    }
    for extend in [REDIS_PY_REACQUIRE, REDLOCK_EXTEND] {
        frees("", &[], &[&["EVAL", extend, "1", KEY, "me", "60"]]);
    }
}

#[test]
fn holders_of_other_lock_libraries_and_waiters_exclude_each_other() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut foreign = server.client();
    let set = ["SET", KEY, "foreign", "NX", "PX", "600000"];
    type Take = fn(&mut Client) -> Value;
    let redis_py: Take = |client| client.cmd(&["SET", KEY, "foreign", "NX", "PX", "600000"]);
    let redlock: Take = |client| script(client, REDLOCK_ACQUIRE, &["foreign", "600000"]);
    for (take_lock, extend, args) in [
        (redis_py, "return 1", ["", "", ""]),
        (redlock, "return 1", ["", "", ""]),
        (redis_py, REDIS_PY_EXTEND, ["foreign", "150", "0"]),
        (redis_py, REDIS_PY_EXTEND, ["foreign", "50", "1"]),
        (redis_py, REDIS_PY_REACQUIRE, ["foreign", "250", ""]),
        (redlock, REDLOCK_EXTEND, ["foreign", "250", ""]),
    ] {
        assert!(!take_lock(&mut foreign).is_nil());
        let mut next = waiter(&server, "next", "FENCE");
        assert_eq!(foreign.run("MULTI"), ok());
        foreign.run(format!("PEXPIRE {KEY} 100"));
        script(&mut foreign, extend, &args);
        foreign.run(format!("PEXPIRETIME {KEY}"));
        let replies = foreign.run("EXEC");
        assert_eq!(replies.items()[..2], [int(1), int(1)]);
        let end = replies.items()[2].as_int();
        assert!(told(&mut next).as_int() > 1);
        on_time(granted_at(&mut foreign, KEY, "next", LONG), end);
        // And the other way round.
        assert_eq!(foreign.cmd(&set), nil());
        assert_eq!(script(&mut foreign, REDLOCK_ACQUIRE, &["foreign", "200"]), int(0));
        for release in [REDIS_PY_RELEASE, REDLOCK_RELEASE] {
            assert_eq!(script(&mut foreign, release, &["foreign"]), int(0));
        }
        release(&mut foreign, "next");
    }
}

#[test]
fn a_lock_without_an_end_is_waited_for_until_it_is_given_one_or_released() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
    let persist = format!("PERSIST {KEY}");
    let end = ends_after(&mut control, &["LOCK.EXTEND job me 200", &persist]);
    assert_eq!(end, -1);
    let persisted = control.time_ms();
    wait_past(&mut control, persisted + 250);
    still_wait(&server, 2);
    release(&mut control, "me");
    granted(&mut first);
    let end = ends_after(&mut control, &[&persist, "LOCK.EXTEND job first 60"]);
    granted(&mut second);
    on_time(granted_at(&mut control, KEY, "second", LONG), end);
}

#[test]
fn a_lock_whose_end_is_beyond_every_clock_does_not_occupy_the_server() {
    let server = Checked::start();
    let mut control = server.client();
    for end in [1 << 53, 9_300_000_000_000_000, 18_446_744_073_710_000, i64::MAX - 1, i64::MAX] {
        take(&mut control, "me", LONG, "");
        let mut next = waiter(&server, "next", "");
        // Some servers do not take the largest of these.
        control.run(format!("PEXPIREAT {KEY} {end}"));
        let before = server.cpu_time();
        assert_eq!(server.client().run("XREAD BLOCK 200 STREAMS nothing $"), nil_array());
        let used = server.cpu_time() - before;
        assert!(used < Duration::from_millis(100), "{end}: {used:?} of 200 ms");
        assert_eq!(control.run(format!("DEL {KEY}")), int(1));
        granted(&mut next);
        release(&mut control, "next");
    }
}

#[test]
fn strange_scores_among_shared_holders_occupy_nobody_and_stop_nobody_for_ever() {
    let server = Checked::start();
    stop_active_expiry(&server);
    let mut control = server.client();
    for score in ["+inf", "-inf", "1e300", "-1e300", "9223372036854775807", "0.5", "-1"] {
        take(&mut control, "me", LONG, "SHARED");
        let mut next = waiter(&server, "next", "");
        assert_eq!(control.cmd(&["ZADD", KEY, score, "strange"]), int(1));
        release(&mut control, "me");
        // The strange one can be told apart from a holder, or stays until it is removed.
        control.cmd(&["ZREM", KEY, "strange"]);
        granted(&mut next);
        release(&mut control, "next");
    }
}

/// Runs commands of a holder of the lock `job`, and has the server evict everything that it holds
/// right behind them; when the key of the lock would have ended.
#[track_caller]
fn evict_after(control: &mut Client, commands: &[&str]) -> i64 {
    let policy = "CONFIG SET maxmemory-policy allkeys-random";
    assert_eq!(control.run(policy), ok());
    let end = format!("PEXPIRETIME {KEY}");
    let all = [commands, &[&end, "CONFIG SET maxmemory 1", "DBSIZE"]].concat();
    let replies = control.pipeline(&all);
    assert!(replies[..commands.len()].iter().all(|reply| *reply == int(1)), "{replies:?}");
    eventually(SOON, "everything is evicted", || control.run("DBSIZE") == int(0));
    assert_eq!(control.run("CONFIG SET maxmemory 0"), ok());
    assert_ne!(control.info("stats", "evicted_keys").as_deref(), Some("0"));
    replies[commands.len()].as_int()
}

#[test]
fn a_lock_whose_record_was_evicted_is_granted_when_its_lease_is_over_and_not_before() {
    let server = Checked::start();
    let mut control = server.client();
    for held in ["", "SHARED", "FENCE"] {
        take(&mut control, "me", LONG, held);
        let [mut first, mut second] = line(&server, [("first", ""), ("second", "")]);
        let end = evict_after(&mut control, &["LOCK.EXTEND job me 250"]);
        for options in ["", "SHARED", "LIMIT 9", "BLOCK 1"] {
            let call = format!("LOCK.ACQUIRE job other 1000 {options}");
            assert_eq!(control.run(call), int(0), "{options}");
        }
        granted(&mut first);
        on_time(granted_at(&mut control, KEY, "first", LONG), end);
        release(&mut control, "first");
        granted(&mut second);
        release(&mut control, "second");
    }
}

#[test]
fn a_writer_waits_for_every_reader_whose_record_was_evicted() {
    let server = Checked::start();
    let mut control = server.client();
    for reader in ["brief", "long"] {
        take(&mut control, reader, LONG, "SHARED");
    }
    let mut writer = waiter(&server, "writer", "");
    let leases = ["LOCK.EXTEND job brief 50", "LOCK.EXTEND job long 300"];
    let end = evict_after(&mut control, &leases);
    granted(&mut writer);
    on_time(granted_at(&mut control, KEY, "writer", LONG), end);
}

#[test]
fn after_swapdb_waiters_stay_with_the_database_that_they_selected() {
    let server = Checked::start();
    let (mut zero, mut five) = (server.client(), server.client());
    assert_eq!(five.run("SELECT 5"), ok());
    take(&mut zero, "zero", LONG, "");
    take(&mut five, "five", LONG, "");
    let mut in_zero = waiter(&server, "w0", "");
    let mut in_five = server.client();
    assert_eq!(in_five.run("SELECT 5"), ok());
    send_and_wait(&mut server.client(), "lock", &mut in_five, &ask("job", "w5", LONG, ""));
    assert_eq!(zero.run("SWAPDB 0 5"), ok());
    still_wait(&server, 2);
    // What is in database 0 now was in 5.
    release(&mut zero, "five");
    granted(&mut in_zero);
    assert_eq!(zero.run(format!("GET {KEY}")), bulk("w0"));
    assert_eq!(waiting(&server), 1);
    release(&mut five, "zero");
    granted(&mut in_five);
    assert_eq!(five.run(format!("GET {KEY}")), bulk("w5"));
    // Leases that came with a swap end on time.
    let mut next = waiter(&server, "next", "");
    let lease = ["LOCK.EXTEND job w5 60".into(), format!("PEXPIRETIME {KEY}"), "SWAPDB 0 5".into()];
    let replies = in_transaction(&mut five, &lease);
    let end = replies[1].as_int();
    granted(&mut next);
    on_time(granted_at(&mut zero, KEY, "next", LONG), end);
}

#[test]
fn waiters_outlast_a_reload_of_the_data() {
    let server = Checked::new(Server::builder().aof(true).start());
    let mut control = server.client();
    for reload in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
        take(&mut control, "me", LONG, "SHARED");
        let [mut first, mut second] = line(&server, [("first", ""), ("second", "SHARED")]);
        assert_eq!(control.run(reload), ok());
        still_wait(&server, 2);
        release(&mut control, "me");
        granted(&mut first);
        assert_eq!(control.run("LOCK.EXTEND job first 50"), int(1));
        granted(&mut second);
        release(&mut control, "second");
    }
}

#[test]
fn whoever_writes_the_key_of_the_line_does_not_disturb_those_who_wait() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut clients = line(&server, [("a", ""), ("b", "")]);
    for command in ["SET wait:{job} v", "DEL wait:{job}", "LPUSH wait:{job} a", "DEL wait:{job}"] {
        assert!(!control.run(command).is_error());
    }
    still_wait(&server, 2);
    release(&mut control, "me");
    granted(&mut clients[0]);
    release(&mut control, "a");
    granted(&mut clients[1]);
}

#[test]
fn whatever_foreign_clients_do_at_random_there_is_one_holder_and_everybody_is_served() {
    const COUNT: usize = 60;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..COUNT).map(|number| format!("w{number}")).collect();
    let modes = ["FENCE", "", "SHARED", "LIMIT 2"];
    let mut clients: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| waiter(&server, id, modes[number % modes.len()]))
        .collect();
    let mut tap = server.replication_tap();
    let acts = [
        "DEL lock:{job}",
        "PEXPIRE lock:{job} 1",
        "SET lock:{job} foreign PX 5",
        "RENAME lock:{job} elsewhere",
        "SWAPDB 0 3",
        "FLUSHALL",
        "ZREMRANGEBYRANK lock:{job} 0 0",
        "ZADD lock:{job} XX 1 w2",
        "PERSIST lock:{job}",
        "LPUSH lock:{job} x",
    ];
    let mut random = Random::new(7);
    let mut left = COUNT;
    let end = Instant::now() + 3 * SOON;
    while left > 0 {
        assert!(Instant::now() < end, "{left} are never served");
        control.run(acts[random.below(acts.len())]);
        // Whatever is there now: a string is one holder, a sorted set the shared ones.
        if let Value::Error(_) = control.run("LOCK.INFO job") {
            control.run(format!("DEL {KEY}"));
        }
        left = waiting(&server);
    }
    // Each was told once that it holds the lock, or that a key of another type is in its place.
    let replies: Vec<_> = clients.iter_mut().map(|client| told(client)).collect();
    let wrong = error(WRONG_TYPE);
    assert!(replies.iter().all(|r| *r == wrong || r.as_int() >= 1), "{replies:?}");
    let granted = ids.iter().zip(&replies).filter(|(_, reply)| **reply != wrong);
    // What was written tells in which order.
    let commands = tap.commands();
    let order: Vec<_> =
        commands.iter().map(Command::text).filter_map(|text| grantee(&text)).collect();
    assert_eq!(order, granted.map(|(id, _)| id.clone()).collect::<Vec<_>>());
}

/// Whom a command makes a holder of the lock `job`, if it is one of the module's.
fn grantee(command: &str) -> Option<String> {
    let words: Vec<_> = command.split(' ').collect();
    let identifier = match words[..] {
        ["SET", KEY, identifier, "PXAT", _] => identifier,
        ["ZADD", KEY, _, identifier] => identifier,
        _ => return None,
    };
    identifier.starts_with('w').then(|| identifier.to_owned())
}

// ---------------------------------------------------------------------------------------------
// The place in line
// ---------------------------------------------------------------------------------------------

#[test]
fn an_identifier_that_queues_again_takes_over_its_place_and_the_older_request_gets_zero() {
    let server = Checked::start();
    let mut control = server.client();
    for again in 0..3 {
        take(&mut control, "me", LONG, "");
        let ids = ["a", "b", "c"];
        let mut clients = ids.map(|id| waiter(&server, id, ""));
        for _ in 0..3 {
            let mut newer = server.client();
            newer.send(ask("job", ids[again], LONG, ""));
            let older = std::mem::replace(&mut clients[again], newer);
            assert_eq!(told(&mut { older }), int(0));
            assert_eq!(waiting(&server), 3);
        }
        release(&mut control, "me");
        for (id, client) in ids.iter().zip(&mut clients) {
            granted(client);
            release(&mut control, id);
        }
    }
}

#[test]
fn a_request_that_is_repeated_can_ask_for_another_mode_lease_and_token() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "r", LONG, "SHARED");
    let [mut old, mut behind] = line(&server, [("w", ""), ("r2", "SHARED")]);
    // As a reader it need not wait any longer, nor need the one behind it.
    let mut new = server.client();
    assert_eq!(new.run(ask("job", "w", 500_000, "SHARED")), int(1));
    assert_eq!(told(&mut old), int(0));
    granted(&mut behind);
    assert_eq!(control.lock_holders("job").len(), 3);
    let end = control.time_ms() + 500_000;
    assert!((end - LONG..=end).contains(&control.lease_end(KEY, "w")));

    let mut old = waiter(&server, "x", "");
    let mut new = server.client();
    new.send(ask("job", "x", LONG, "FENCE"));
    assert_eq!(told(&mut old), int(0));
    for holder in ["r", "w", "r2"] {
        release(&mut control, holder);
    }
    assert!(told(&mut new).as_int() > 1);
}

/// Has everybody served who waits for the lock `job`, by its holder and each next one; the order.
#[track_caller]
fn serve_all(control: &mut Client, clients: &mut [(&str, &mut Client)]) -> Vec<String> {
    let mut order = Vec::new();
    release(control, "me");
    for _ in 0..clients.len() {
        let holder = control.lock_holders("job").remove(0);
        let next = clients.iter_mut().find(|(id, _)| *id == holder).expect("one who waits");
        granted(next.1);
        release(control, &holder);
        order.push(holder);
    }
    order
}

/// Repeats a round until it was fast enough to mean something, which a round knows and returns: on
/// a machine that is busy elsewhere, the second for which a rank is kept can pass.
#[track_caller]
fn until_in_time(round: impl FnMut() -> bool) {
    eventually(2 * SOON, "a round was fast enough", round);
}

#[test]
fn one_that_reconnects_keeps_its_place_however_the_old_connection_went() {
    let server = Checked::start();
    let mut control = server.client();
    let command = format!("LOCK.ACQUIRE job a {LONG} BLOCK");
    for exit in EXITS {
        until_in_time(|| {
            take(&mut control, "me", LONG, "");
            let mut old = Leaver::connect(&server, exit);
            old.wait(&mut control, "lock", &command, 400);
            let begin = control.time_ms();
            let mut behind = server.client();
            stand(&mut behind, &ask("job", "b", LONG, ""));
            old.leave(&mut control, "lock", &int(0));
            let mut new = waiter(&server, "a", "");
            let in_time = control.time_ms() <= begin + RANK_KEPT;
            let order = serve_all(&mut control, &mut [("a", &mut new), ("b", &mut behind)]);
            assert!(!in_time || order == ["a", "b"], "{exit:?}: {order:?}");
            in_time
        });
    }
}

#[test]
fn nobody_waits_for_one_whose_time_ran_out() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut b = waiter_behind_one_that_left(&server, "a", "b");
    let replies = control.pipeline(&["LOCK.RELEASE job me", "GET lock:{job}"]);
    assert_eq!(replies, [int(1), bulk("b")]);
    granted(&mut b);
}

/// `b` waits behind a request of `a` whose time ran out.
#[track_caller]
fn waiter_behind_one_that_left(server: &Server, a: &str, b: &str) -> Client {
    let mut control = server.client();
    let mut leaver = Leaver::connect(server, Exit::UnblockTimeOut);
    let command = format!("LOCK.ACQUIRE job {a} {LONG} BLOCK");
    leaver.wait(&mut control, "lock", &command, 0);
    let behind = waiter(server, b, "");
    leaver.leave(&mut control, "lock", &int(0));
    behind
}

#[test]
fn the_second_of_a_kept_rank_begins_anew_with_every_time_out() {
    let server = Checked::start();
    let mut control = server.client();
    // Joins the line and leaves it; two points in time between which it left, and when it joined.
    let join_and_leave = |control: &mut Client| {
        let mut a = server.client();
        let id = a.id();
        send_and_wait(control, "lock", &mut a, &ask("job", "a", LONG, ""));
        let before = control.time_ms();
        unblock(control, id);
        assert_eq!(a.read(), int(0));
        (before, control.time_ms())
    };
    until_in_time(|| {
        take(&mut control, "me", LONG, "");
        let first = join_and_leave(&mut control);
        let mut b = waiter(&server, "b", "");
        wait_past(&mut control, first.1 + RANK_KEPT / 2);
        let second = join_and_leave(&mut control);
        // The first second is over, and everybody who joins has what is over forgotten.
        wait_past(&mut control, first.1 + RANK_KEPT + 5);
        let mut c = waiter(&server, "c", "");
        let mut a = waiter(&server, "a", "");
        let now = control.time_ms();
        let in_time = second.0 <= first.0 + RANK_KEPT && now <= second.0 + RANK_KEPT;
        let mut all = [("a", &mut a), ("b", &mut b), ("c", &mut c)];
        let order = serve_all(&mut control, &mut all);
        assert!(!in_time || order == ["a", "b", "c"], "{order:?}");
        in_time
    });
}

#[test]
fn after_the_second_the_rank_is_lost_and_it_is_nobody_elses() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut b = waiter_behind_one_that_left(&server, "a", "b");
    let left = control.time_ms();
    // Another identifier does not inherit it.
    let mut c = waiter(&server, "c", "");
    wait_past(&mut control, left + RANK_KEPT + 5);
    let mut a = waiter(&server, "a", "");
    let mut all = [("a", &mut a), ("b", &mut b), ("c", &mut c)];
    assert_eq!(serve_all(&mut control, &mut all), ["b", "c", "a"]);
}

#[test]
fn release_withdraws_the_request_of_its_identifier_and_its_rank() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "SHARED");
    let [mut w, mut r1, mut r2] = line(&server, [("w", ""), ("r1", "SHARED"), ("r2", "SHARED")]);
    // Who stood behind it only is granted in the same step.
    let replies = control.pipeline(&["LOCK.RELEASE job w", "ZCARD lock:{job}"]);
    assert_eq!(replies, [int(0), int(3)]);
    assert_eq!(told(&mut w), int(0));
    granted(&mut r1);
    granted(&mut r2);
    assert_eq!(control.run("LOCK.RELEASE job w"), int(0));

    // Asked again, it stands at the end.
    let mut behind = waiter(&server, "b", "");
    let mut a = waiter(&server, "a", "");
    assert_eq!(control.run("LOCK.RELEASE job b"), int(0));
    assert_eq!(told(&mut behind), int(0));
    let mut again = waiter(&server, "b", "");
    for holder in ["me", "r1", "r2"] {
        release(&mut control, holder);
    }
    granted(&mut a);
    release(&mut control, "a");
    granted(&mut again);
    // A rank that was kept is withdrawn too.
    let mut d = waiter_behind_one_that_left(&server, "c", "d");
    assert_eq!(control.run("LOCK.RELEASE job c"), int(0));
    let mut c = waiter(&server, "c", "");
    release(&mut control, "b");
    granted(&mut d);
    release(&mut control, "d");
    granted(&mut c);
}

#[test]
fn a_holder_that_asks_again_is_granted_while_others_wait_and_they_go_on_waiting() {
    let server = Checked::start();
    let mut control = server.client();
    for (held, again) in [("", "BLOCK 0"), ("", "FENCE"), ("SHARED", "SHARED BLOCK 0")] {
        take(&mut control, "me", LONG, held);
        let mut next = waiter(&server, "next", "");
        take(&mut control, "me", LONG, again);
        still_wait(&server, 1);
        release(&mut control, "me");
        granted(&mut next);
        release(&mut control, "next");
    }
}

#[test]
fn info_tells_who_waits_and_since_when() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let info = |client: &mut Client| {
        let info = client.run("LOCK.INFO job");
        (info.get("waiters").as_int(), info.get("oldest_wait_ms").as_int())
    };
    assert_eq!(info(&mut control), (0, 0));
    let before = control.time_ms();
    let mut first = Leaver::connect(&server, Exit::Kill);
    first.wait(&mut control, "lock", &format!("LOCK.ACQUIRE job a {LONG} BLOCK"), 0);
    let after = control.time_ms();
    wait_past(&mut control, after + 20);
    let mut second = waiter(&server, "b", "SHARED");
    let (count, oldest) = info(&mut control);
    assert_eq!(count, 2);
    assert!((20..=control.time_ms() - before).contains(&oldest), "{oldest}");
    let joined = control.time_ms();
    first.leave(&mut control, "lock", &int(0));
    let looked = control.time_ms();
    let (count, oldest) = info(&mut control);
    assert_eq!(count, 1);
    // Whole milliseconds of two clocks differ by one.
    let waited = looked - joined - 1..=control.time_ms() - after - 20;
    assert!(waited.contains(&oldest), "{oldest} in {waited:?}");
    release(&mut control, "me");
    granted(&mut second);
    assert_eq!(info(&mut control), (0, 0));
    let counters = control.run("LOCK.INFO job");
    assert_eq!(counters.get("timeouts"), &int(0), "a killed client's time did not run out");
    assert_eq!(counters.get("acquired"), &int(2));
}

// ---------------------------------------------------------------------------------------------
// Leaving the line
// ---------------------------------------------------------------------------------------------

/// How long those wait who leave by a time-out: longer than their lines take to form.
const TIME_OUT: u32 = 1500;

#[test]
fn when_one_leaves_in_any_way_the_next_in_line_is_served() {
    let server = Checked::start();
    let mut control = server.client();
    // One lock for each way and place, so that the times run out side by side.
    let mut lines = Vec::new();
    let exits = EXITS.into_iter().rev();
    for (exit, place) in exits.flat_map(|exit| [0, 1, 2].map(|place| (exit, place))) {
        let name = format!("job-{exit:?}-{place}");
        assert_eq!(control.run(format!("LOCK.ACQUIRE {name} me {LONG}")), int(1));
        let members = [0, 1, 2].map(|index| {
            let exit = if index == place { exit } else { Exit::Close };
            let mut member = Leaver::connect(&server, exit);
            let command = format!("LOCK.ACQUIRE {name} h{index} {LONG} BLOCK");
            member.wait(&mut control, "lock", &command, TIME_OUT);
            (format!("h{index}"), member)
        });
        lines.push((name, place, Vec::from(members)));
    }
    for (name, place, members) in &mut lines {
        let (_, mut leaver) = members.remove(*place);
        leaver.leave(&mut control, "lock", &int(0));
        let mut holder = "me".to_owned();
        for (id, member) in members {
            assert_eq!(control.run(format!("LOCK.RELEASE {name} {holder}")), int(1));
            assert_eq!(member.read(), int(1), "{name}");
            assert_eq!(control.run(format!("GET lock:{{{name}}}")), bulk(&*id));
            holder = id.clone();
        }
    }
}

#[test]
fn readers_behind_a_writer_that_leaves_in_any_way_are_granted() {
    let server = Checked::start();
    let mut control = server.client();
    for exit in EXITS {
        take(&mut control, "r0", LONG, "SHARED");
        let mut writer = Leaver::connect(&server, exit);
        writer.wait(&mut control, "lock", &format!("LOCK.ACQUIRE job w {LONG} BLOCK"), TIME_OUT);
        let [mut r1, mut r2, mut w2] =
            line(&server, [("r1", "SHARED"), ("r2", "LIMIT 3"), ("w2", "")]);
        if exit == Exit::TimeOut {
            assert_eq!(writer.read(), int(0));
        } else {
            assert_eq!(waiting(&server), 4);
            writer.leave(&mut control, "lock", &int(0));
        }
        granted(&mut r1);
        granted(&mut r2);
        for reader in ["r0", "r1", "r2"] {
            release(&mut control, reader);
        }
        granted(&mut w2);
        release(&mut control, "w2");
    }
}

#[test]
fn half_of_a_line_leaves_in_any_order_and_all_others_are_served_in_theirs() {
    const COUNT: usize = 100;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let exits = EXITS.into_iter().filter(|exit| *exit != Exit::TimeOut).cycle().take(COUNT);
    let mut members: Vec<_> = exits
        .enumerate()
        .map(|(number, exit)| {
            let mut member = Leaver::connect(&server, exit);
            let command = format!("LOCK.ACQUIRE job h{number} {LONG} BLOCK");
            member.wait(&mut control, "lock", &command, 0);
            member
        })
        .collect();
    let mut leaving = shuffled(COUNT);
    let mut living = leaving.split_off(COUNT / 2);
    living.sort_unstable();
    for index in leaving {
        members[index].leave(&mut control, "lock", &int(0));
    }
    assert_eq!(waiting(&server), living.len());
    let mut holder = "me".to_owned();
    for index in living {
        release(&mut control, &holder);
        assert_eq!(members[index].read(), int(1));
        holder = format!("h{index}");
    }
}

/// Waits until the machine has told the server that the connections from these ports have ended,
/// whether or not the server has listened.
#[track_caller]
fn wait_ended(server: &Server, ports: &[u16]) {
    const CLOSE_WAIT: &str = "08";
    let port = |address: &str| {
        let (_, port) = address.split_once(':').expect("an address");
        u16::from_str_radix(port, 16).expect("a port")
    };
    eventually(SOON, "the connections have ended", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a list of sockets");
        // Local address, remote address, state. What was reset is not in the list any more.
        let ended = |line: &str| match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [_, local, remote, state, ..] => {
                port(local) != server.port()
                    || !ports.contains(&port(remote))
                    || state == CLOSE_WAIT
            }
            _ => panic!("{line}"),
        };
        sockets.lines().skip(1).all(ended)
    });
}

#[test]
fn no_lock_is_handed_to_a_connection_that_has_ended() {
    let server = Checked::start();
    let mut control = server.client();
    for exit in [Exit::Close, Exit::Reset] {
        for (free, free_first) in [
            ("LOCK.RELEASE job me", false),
            ("LOCK.RELEASE job me", true),
            ("DEL lock:{job}", false),
            ("DEL lock:{job}", true),
        ] {
            take(&mut control, "me", LONG, "");
            let mut leaving = [0, 1, 2, 3, 4].map(|number| {
                let mut member = Leaver::connect(&server, exit);
                let command = format!("LOCK.ACQUIRE job h{number} {LONG} BLOCK");
                member.wait(&mut control, "lock", &command, 0);
                member
            });
            let mut last = waiter(&server, "last", "");
            let ports = leaving.each_mut().map(|member| member.client().local_port());
            // When the server goes on, it finds the ends of five connections and the release.
            server.pause();
            if free_first {
                control.send(free);
            }
            drop(leaving);
            wait_ended(&server, &ports);
            if !free_first {
                control.send(free);
            }
            server.resume();
            assert_eq!(control.read(), int(1));
            granted(&mut last);
            assert_eq!(control.lock_holders("job"), ["last"], "{exit:?} {free}");
            release(&mut control, "last");
        }
    }
}

#[test]
fn what_is_released_in_the_moment_in_which_the_first_is_sent_away_goes_to_one_of_the_two() {
    let server = Checked::start();
    let mut control = server.client();
    for send_away in [
        "CLIENT KILL ID {id}",
        "ACL DELUSER {user}",
        "CLIENT UNBLOCK {id} TIMEOUT",
        "CLIENT UNBLOCK {id} ERROR",
    ] {
        for release_first in [false, true] {
            take(&mut control, "me", LONG, "");
            let mut first = server.client();
            let id = first.id();
            let user = format!("user{id}");
            let allow = format!("ACL SETUSER {user} on nopass ~* &* +@all");
            assert_eq!(control.run(allow), ok());
            assert_eq!(first.run(format!("AUTH {user} x")), ok());
            send_and_wait(&mut control, "lock", &mut first, &ask("job", "first", LONG, ""));
            let mut second = waiter(&server, "second", "");
            let send_away = send_away.replace("{id}", &id.to_string()).replace("{user}", &user);
            let free = "LOCK.RELEASE job me".to_owned();
            let commands =
                if release_first { [free, send_away.clone()] } else { [send_away.clone(), free] };
            let replies = in_transaction(&mut control, &commands);
            assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
            let holder = if release_first { "first" } else { "second" };
            assert_eq!(control.lock_holders("job"), [holder], "{commands:?}");
            if release_first {
                release(&mut control, "first");
            }
            granted(&mut second);
            release(&mut control, "second");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Masters, replicas, cluster nodes
// ---------------------------------------------------------------------------------------------

/// A port on which nobody listens: a replica of it keeps its data and never gets a master.
const NO_MASTER: &str = "REPLICAOF 127.0.0.1 1";

#[test]
fn a_demotion_sends_everybody_away_and_after_a_promotion_they_wait_again() {
    let server = Checked::start();
    let mut control = server.client();
    for round in 0..3 {
        take(&mut control, "me", LONG, "");
        let clients = line(&server, [("a", ""), ("b", "SHARED"), ("c", "FENCE")]);
        assert_eq!(control.run(NO_MASTER), ok());
        let mut clients = clients;
        clients.iter_mut().for_each(unblocked);
        assert_eq!(waiting(&server), 0);
        let refused = server.client().run(ask("job", "d", LONG, ""));
        assert!(refused.is_error_with("READONLY "), "{refused:?}");
        assert_eq!(control.lock_holders("job"), ["me"]);

        assert_eq!(control.run("REPLICAOF NO ONE"), ok());
        let [mut c, mut a] = line(&server, [("c", "FENCE"), ("a", "")]);
        release(&mut control, "me");
        // The first to ask again may find the rank that it had, if it was within the second.
        let order = if control.lock_holders("job") == ["a"] { ["a", "c"] } else { ["c", "a"] };
        order.iter().for_each(|id| release(&mut control, id));
        assert!(told(&mut c).as_int() > 1, "round {round}");
        granted(&mut a);
    }
}

#[test]
fn nothing_is_granted_on_a_replica_for_those_who_waited_on_the_master() {
    let server = Checked::start();
    let mut control = server.client();
    for _ in 0..3 {
        take(&mut control, "me", LONG, "");
        let mut clients = line(&server, [("a", ""), ("b", "")]);
        let free = format!("DEL {KEY}");
        // The lock is free, and the server is a replica before it looks.
        let replies = control.pipeline(&[&free, "DEBUG DIGEST", NO_MASTER]);
        assert_eq!(replies[2], ok());
        clients.iter_mut().for_each(unblocked);
        // What was going to be written is written when this time is up.
        assert_eq!(server.client().run("XREAD BLOCK 20 STREAMS nothing $"), nil_array());
        assert_eq!(control.run("DEBUG DIGEST"), replies[1]);
        assert_eq!(control.run("REPLICAOF NO ONE"), ok());
    }
    // A lease that ends on the replica is nobody's until there is a master again.
    take(&mut control, "me", LONG, "SHARED");
    let mut client = waiter(&server, "a", "");
    let brief = ["LOCK.EXTEND job me 300", "PEXPIRETIME lock:{job}", NO_MASTER];
    let end = control.pipeline(&brief)[1].as_int();
    unblocked(&mut client);
    wait_past(&mut control, end + 20);
    assert_eq!(control.lock_holders("job"), [""; 0]);
    assert_eq!(control.run("REPLICAOF NO ONE"), ok());
    take(&mut control, "you", LONG, "");
}

#[test]
fn a_promoted_replica_goes_on_with_the_locks_of_its_master() {
    let master = Checked::start();
    let replica = Checked::new(Server::builder().replica_of(&master).start());
    let (mut on_master, mut on_replica) = (master.client(), replica.client());
    take(&mut on_master, "r1", LONG, "SHARED");
    take(&mut on_master, "r2", 400, "SHARED");
    let end = on_master.lease_end(KEY, "r2");
    let mut there = waiter(&master, "w", "");
    wait_in_sync(&master, &replica);
    assert_eq!(on_replica.run("REPLICAOF NO ONE"), ok());
    let mut here = waiter(&replica, "w", "FENCE");
    let mut reader = waiter(&replica, "r3", "SHARED");
    release(&mut on_replica, "r1");
    assert!(told(&mut here).as_int() > 1);
    on_time(granted_at(&mut on_replica, KEY, "w", LONG), end);
    release(&mut on_replica, "w");
    granted(&mut reader);
    release(&mut on_master, "r1");
    granted(&mut there);
}

#[test]
fn while_a_slot_moves_nobody_is_granted_and_then_there_is_one_holder_in_the_cluster() {
    let cluster = Cluster::start(2, Server::builder());
    let slot = slot_of("job");
    let from = cluster.node_of_slot(slot);
    let to = 1 - from;
    let [source, target] = [from, to].map(|node| &cluster.nodes[node]);
    let (mut at_source, mut at_target) = (source.client(), target.client());
    let try_again = |reply: Value, what: &str| {
        assert!(reply.is_error_with("TRYAGAIN "), "{what}: {reply:?}");
    };
    take(&mut at_source, "brief", 300, "SHARED");
    take(&mut at_source, "me", LONG, "SHARED");
    let end = at_source.lease_end(KEY, "brief");
    let mut clients = line(source, [("w1", ""), ("w2", "FENCE")]);

    let reshard = cluster.reshard(slot, to);
    let calls = [
        "LOCK.ACQUIRE job new 1000 SHARED",
        "LOCK.ACQUIRE job new 1000 BLOCK 0",
        "LOCK.RELEASE job me",
        "LOCK.EXTEND job me 1000",
    ];
    for moved in [false, true] {
        if moved {
            assert!(reshard.migrate_keys() >= 1);
        }
        for call in calls {
            // The server itself sends on whoever names a key that is not there.
            assert!(at_source.run(call).is_error_with("ASK "), "{call}");
            assert_eq!(at_target.run("ASKING"), ok());
            try_again(at_target.run(call), call);
        }
        // A lease ends meanwhile, and the key is gone: no reason to grant anything.
        wait_past(&mut at_source, end + 10);
        still_wait(source, 2);
    }
    reshard.finish();
    for client in &mut clients {
        let reply = client.read();
        assert!(reply.is_error_with("MOVED "), "{reply:?}");
    }
    assert_eq!(waiting(source), 0);
    assert_eq!(at_target.lock_holders("job"), ["me"]);
    for call in calls {
        assert!(at_source.run(call).is_error_with("MOVED "), "{call}");
    }

    // They ask again where the lock is now.
    let [mut w1, mut w2] = line(target, [("w1", ""), ("w2", "FENCE")]);
    assert_eq!(at_target.run("LOCK.ACQUIRE job thief 1000"), int(0));
    release(&mut at_target, "me");
    granted(&mut w1);
    release(&mut at_target, "w1");
    assert!(told(&mut w2).as_int() > 1);
    drop((w1, w2, clients, at_source, at_target));
    for node in cluster.nodes {
        drop(Checked::new(node));
    }
}

// ---------------------------------------------------------------------------------------------
// Unloading
// ---------------------------------------------------------------------------------------------

#[test]
fn the_module_stays_while_somebody_waits() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut next = waiter(&server, "next", "");
    let refused = control.run("MODULE UNLOAD corral");
    assert!(refused.is_error(), "{refused:?}");
    release(&mut control, "me");
    granted(&mut next);
}

#[test]
fn the_module_can_go_however_the_last_waiter_left_though_the_lock_is_held() {
    /// How the waiter leaves.
    #[derive(Debug)]
    enum Way {
        Exit(Exit),
        Withdrawn,
        TakenOver,
        Granted,
        GrantedByExpiry,
    }
    let exits = EXITS.map(Way::Exit);
    let others = [Way::Withdrawn, Way::TakenOver, Way::Granted, Way::GrantedByExpiry];
    let server = Server::start();
    let module = module_path();
    for way in exits.into_iter().chain(others) {
        let mut control = server.client();
        take(&mut control, "me", 3_600_000, "");
        let exit = if let Way::Exit(exit) = way { exit } else { Exit::Close };
        let mut waiter = Leaver::connect(&server, exit);
        waiter.wait(&mut control, "lock", "LOCK.ACQUIRE job you 3600000 BLOCK", 300);
        match way {
            Way::Exit(Exit::TimeOut) => assert_eq!(waiter.read(), int(0)),
            Way::Exit(_) => waiter.leave(&mut control, "lock", &int(0)),
            Way::Withdrawn => {
                assert_eq!(control.run("LOCK.RELEASE job you"), int(0));
                assert_eq!(waiter.read(), int(0));
            }
            Way::TakenOver => {
                let mut other = server.client();
                other.send("LOCK.ACQUIRE job you 3600000 BLOCK 50");
                assert_eq!(waiter.read(), int(0));
                assert_eq!(told(&mut other), int(0));
            }
            Way::Granted => {
                release(&mut control, "me");
                assert_eq!(waiter.read(), int(1));
            }
            Way::GrantedByExpiry => {
                extend(&mut control, "me", 50);
                assert_eq!(waiter.read(), int(1));
            }
        }
        drop(waiter);
        // One round trip of what was to be done at once, and no more.
        still_wait(&server, 0);
        assert_eq!(control.info("corral", "corral_panics").as_deref(), Some("0"));
        assert_eq!(control.run("MODULE UNLOAD corral"), ok(), "{way:?}");
        assert_eq!(control.run("EXISTS lock:{job}"), int(1), "{way:?}: it is still held");
        let load = args!["MODULE", "LOAD", module.to_str().expect("a path")];
        assert_eq!(control.cmd(&load), ok());
        assert_eq!(control.run("LOCK.ACQUIRE job thief 1000"), int(0));
        assert_eq!(control.run("DEL lock:{job}"), int(1));
    }
}

// ---------------------------------------------------------------------------------------------
// Thousands
// ---------------------------------------------------------------------------------------------

/// Clients `h0`, `h1`, … in line for a lock, in this order.
#[track_caller]
fn long_line(server: &Server, name: &str, count: usize, options: &str) -> Vec<Client> {
    let before = waiting(server);
    let mut clients = server.clients(count);
    for (number, client) in clients.iter_mut().enumerate() {
        stand(client, &ask(name, &format!("h{number}"), LONG, options));
    }
    assert_eq!(waiting(server), before + count);
    clients
}

#[test]
fn ten_thousand_wait_half_of_them_are_killed_and_the_living_are_served_in_order() {
    const COUNT: usize = 10_000;
    let server = Checked::new(Server::builder().arg("--maxclients").arg("12000").start());
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut clients = long_line(&server, "job", COUNT, "");
    let ids = ids_by_port(&mut control);
    let mut killed = shuffled(COUNT);
    let mut living = killed.split_off(COUNT / 2);
    living.sort_unstable();
    let kill = |index: &usize| format!("CLIENT KILL ID {}", ids[&clients[*index].local_port()]);
    let kills: Vec<_> = killed.iter().map(kill).collect();
    for some in kills.chunks(500) {
        assert_eq!(control.pipeline(some), vec![int(1); some.len()]);
    }
    eventually(SOON, "half of them are gone", || waiting(&server) == COUNT / 2);
    let mut holder = "me".to_owned();
    for some in living.chunks(500) {
        let mut commands = Vec::new();
        let mut expected = Vec::new();
        for index in some {
            let next = format!("h{index}");
            commands.extend([format!("LOCK.RELEASE job {holder}"), format!("GET {KEY}")]);
            expected.extend([int(1), bulk(&next)]);
            holder = next;
        }
        assert_eq!(control.pipeline(&commands), expected);
    }
    assert_eq!(waiting(&server), 0);
    for index in living {
        assert_eq!(clients[index].read(), int(1));
    }
    for index in killed {
        assert_eq!(clients[index].try_read(SOON), Err(Silence::Closed));
    }
}

#[test]
fn a_hand_over_does_the_same_work_in_front_of_ten_and_of_five_thousand() {
    let server = Checked::start();
    let mut control = server.client();
    let counts = [10, 5000].map(|count| {
        let name = format!("job-of-{count}");
        assert_eq!(control.run(format!("LOCK.ACQUIRE {name} me {LONG}")), int(1));
        let clients = long_line(&server, &name, count, "FENCE");
        let mut calls_of = |command: String, reply: i64| {
            calls_during(&mut control, |client| assert_eq!(client.run(&command), int(reply)))
        };
        let hand_over = calls_of(format!("LOCK.RELEASE {name} me"), 1);
        let withdrawal = calls_of(format!("LOCK.RELEASE {name} h{}", count / 2), 0);
        let refusal = calls_of(format!("LOCK.ACQUIRE {name} other 1000 SHARED"), 0);
        assert_eq!(control.lock_holders(&name), ["h0"]);
        drop(clients);
        eventually(SOON, "all are gone", || waiting(&server) == 0);
        [hand_over, withdrawal, refusal]
    });
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0][0]["lock.release"], 1);
    assert!(counts[0][0].values().sum::<u64>() < 20, "{:?}", counts[0][0]);
}

#[test]
fn two_thousand_readers_are_granted_together_and_nobody_passes_them() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut clients = long_line(&server, "job", COUNT, "SHARED");
    let mut writer = waiter(&server, "w", "");
    let replies = control.pipeline(&["LOCK.RELEASE job me", "LOCK.ACQUIRE job thief 1000 SHARED"]);
    assert_eq!(replies, [int(1), int(0)]);
    clients.iter_mut().for_each(granted);
    assert_eq!(control.run(format!("ZCARD {KEY}")), int(COUNT as i64));
    assert_eq!(waiting(&server), 1);
    let releases: Vec<_> = (0..COUNT).map(|number| format!("LOCK.RELEASE job h{number}")).collect();
    assert_eq!(control.pipeline(&releases), vec![int(1); COUNT]);
    granted(&mut writer);
}
