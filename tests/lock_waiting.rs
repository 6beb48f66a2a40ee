//! Clients wait for locks: they are granted in strict FIFO order across all modes, directly by the
//! release, so that no other client can take the lock in between. A request that is sent again keeps
//! its place; one that is withdrawn or abandoned lets the clients behind it move up. A hand-over costs
//! the same in front of ten waiters and of thousands.
//!
//! What holds for waiting clients of every family is in waiting.rs and the files beside it; how locks
//! are handed over when a lease expires is in lock_expiry.rs. Every test ends with no client waiting,
//! no panic counted and the module unloaded.

mod support;
use support::lock::*;
use support::*;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

// --- Replies

#[test]
fn a_granted_waiter_gets_1_or_its_token_in_both_protocols() {
    let server = Checked::start();
    let mut control = server.client();
    let mut last = 0;
    for mut client in [server.client(), server.client3()] {
        for options in ["", "SHARED", "LIMIT 1", "FENCE"] {
            take(&mut control, "me", LONG, "");
            let command = ask("job", "you", LONG, options);
            send_and_wait(&mut control, "lock", &mut client, &command);
            release(&mut control, "me");
            let reply = only_reply(&mut client).as_int();
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
fn tokens_increase_from_waiter_to_waiter() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "FENCE");
    let ids: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> = ids.iter().map(|id| waiter(&server, id, "FENCE")).collect();
    release(&mut control, "h");
    let mut last = 0;
    for (id, client) in ids.iter().zip(&mut clients) {
        let next = only_reply(client).as_int();
        assert!(next > last.max(1), "{next} after {last}");
        last = next;
        release(&mut control, id);
    }
}

#[test]
fn a_lease_starts_when_it_is_granted_not_when_it_is_requested() {
    let server = Checked::start();
    let mut control = server.client();
    for options in ["", "SHARED", "FENCE"] {
        take(&mut control, "me", LONG, "");
        let mut next = waiter(&server, "you", options);
        let asked = control.time_ms();
        wait_past(&mut control, asked + 30);
        let replies = control.pipeline(&["TIME", "LOCK.RELEASE job me", "TIME"]);
        assert!(only_reply(&mut next).as_int() >= 1);
        let begin = granted_at(&mut control, KEY, "you", LONG);
        let (before, after) = (replies[0].unix_ms(), replies[2].unix_ms());
        assert!((before..=after).contains(&begin), "{options}: {before} {begin} {after}");
        release(&mut control, "you");
    }
}

#[test]
fn names_and_identifiers_of_any_bytes_can_wait() {
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
            assert!(only_reply(&mut client).as_int() >= 1);
            let info = control.cmd(&args!["LOCK.INFO", name]);
            assert_eq!(info.get("holders").items()[0].items()[0], bulk(identifier));
            assert_eq!(control.cmd(&args!["LOCK.RELEASE", name, identifier]), int(1));
        }
    }
}

// --- First in, first out

#[test]
fn a_queued_writer_is_not_overtaken_by_readers() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "r0", LONG, "SHARED");
    let [mut writer, mut reader] = line(&server, [("w", ""), ("r1", "SHARED")]);
    for options in ["SHARED", "LIMIT 100", "SHARED BLOCK 1", ""] {
        let late = control.run(format!("LOCK.ACQUIRE job late 1000 {options}"));
        assert_eq!(late, int(0), "{options}");
    }
    // The present holder may ask again.
    take(&mut control, "r0", LONG, "SHARED");
    assert_eq!(control.run("LOCK.EXTEND job r0 600000 SHARED"), int(1));
    assert_still_waiting(&server, 2);
    release(&mut control, "r0");
    assert_granted(&mut writer);
    assert_eq!(control.lock_holders("job"), ["w"]);
    release(&mut control, "w");
    assert_granted(&mut reader);
    assert_eq!(control.lock_holders("job"), ["r1"]);
}

#[test]
fn consecutive_readers_are_granted_together() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "w0", LONG, "");
    let readers = [("r1", "SHARED"), ("r2", "SHARED"), ("r3", "LIMIT 3")];
    let mut together = line(&server, readers);
    let [mut writer, mut behind] = line(&server, [("w1", ""), ("r4", "SHARED")]);
    release(&mut control, "w0");
    together.iter_mut().for_each(assert_granted);
    assert_eq!(sorted_holders(&mut control), ["r1", "r2", "r3"]);
    for (reader, left) in [("r2", 2), ("r1", 2), ("r3", 1)] {
        assert_eq!(waiting(&server), 2);
        release(&mut control, reader);
        assert_eq!(waiting(&server), left, "the writer is granted after the last reader");
    }
    assert_granted(&mut writer);
    release(&mut control, "w1");
    assert_granted(&mut behind);
}

#[test]
fn a_semaphore_admits_as_many_as_leave() {
    let server = Checked::start();
    let mut control = server.client();
    for holder in ["a", "b"] {
        take(&mut control, holder, LONG, "LIMIT 2");
    }
    let [mut c, mut d, mut wide, mut e] =
        line(&server, [("c", "LIMIT 2"), ("d", "LIMIT 2"), ("wide", "LIMIT 4"), ("e", "LIMIT 2")]);
    // There is room for the third waiter, but it is not its turn.
    assert_still_waiting(&server, 4);
    release(&mut control, "a");
    assert_granted(&mut c);
    assert_eq!(waiting(&server), 3);
    release(&mut control, "b");
    assert_granted(&mut d);
    assert_granted(&mut wide);
    assert_eq!(control.run(format!("ZCARD {KEY}")), int(3));
    release(&mut control, "wide");
    assert_eq!(waiting(&server), 1);
    release(&mut control, "c");
    assert_granted(&mut e);
}

#[test]
fn a_downgrade_admits_queued_readers_up_to_the_next_writer() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "w0", LONG, "");
    let [mut r1, mut r2, mut w1, _r3] =
        line(&server, [("r1", "SHARED"), ("r2", "LIMIT 3"), ("w1", ""), ("r3", "SHARED")]);
    let replies = control.pipeline(&["LOCK.EXTEND job w0 600000 SHARED", "ZCARD lock:{job}"]);
    assert_eq!(replies, [int(1), int(3)]);
    assert_granted(&mut r1);
    assert_granted(&mut r2);
    assert_still_waiting(&server, 2);
    // An upgrade never waits, and does not overtake the waiters.
    assert_eq!(control.run("LOCK.EXTEND job w0 600000 EXCLUSIVE"), int(0));
    for reader in ["w0", "r1", "r2"] {
        release(&mut control, reader);
    }
    assert_granted(&mut w1);
}

#[test]
fn a_sole_holder_can_upgrade_while_others_wait() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "SHARED");
    let [mut writer, mut reader] = line(&server, [("w", ""), ("r", "SHARED")]);
    for to in ["EXCLUSIVE", "SHARED", "EXCLUSIVE"] {
        assert_eq!(control.run(format!("LOCK.EXTEND job me {LONG} {to}")), int(1));
        assert_still_waiting(&server, 2);
    }
    release(&mut control, "me");
    assert_granted(&mut writer);
    assert_still_waiting(&server, 1);
    release(&mut control, "w");
    assert_granted(&mut reader);
}

/// The modes that the model of [`any_mix_of_modes_is_served_in_order`] plays with.
const MODES: [&str; 4] = ["", "SHARED", "LIMIT 2", "LIMIT 5"];

/// Whether a request of this mode may join the holders, each of which is exclusive or not.
fn admits(holders: &BTreeMap<String, bool>, mode: &str) -> bool {
    let shared = holders.values().all(|exclusive| !exclusive);
    match mode {
        "" => holders.is_empty(),
        "SHARED" => shared,
        limit => shared && holders.len() < limit[6..].parse().expect("a number"),
    }
}

#[test]
fn any_mix_of_modes_is_served_in_order() {
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
            // Now and then a waiter withdraws, else a holder releases.
            if !queue.is_empty() && random.below(4) == 0 {
                let (id, _) = queue.remove(random.below(queue.len()));
                assert_eq!(control.run(format!("LOCK.RELEASE job {id}")), int(0));
                assert_eq!(only_reply(clients.get_mut(&id).expect("a client")), int(0));
            } else {
                let nth = random.below(holders.len());
                let id = holders.keys().nth(nth).expect("a holder").clone();
                release(&mut control, &id);
                holders.remove(&id);
            }
            while queue.first().is_some_and(|(_, mode)| admits(&holders, mode)) {
                let (id, mode) = queue.remove(0);
                assert_granted(clients.get_mut(&id).expect("a client"));
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

// --- Direct hand-over

#[test]
fn the_next_holder_is_written_before_the_release_is_answered() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let [mut a, mut b, mut c] = line(&server, [("a", ""), ("b", "FENCE"), ("c", "SHARED")]);
    // Commands right behind the release find the next holder in place.
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
    assert_granted(&mut a);
    let commands = behind("EVAL return{redis.call('LOCK.RELEASE',KEYS[1],'a')}[1] 1 job", "b");
    let commands =
        commands.map(|command| command.replace("return{", "return({").replace("}[", "})["));
    assert_eq!(control.pipeline(&commands), expected("b"));
    assert!(only_reply(&mut b).as_int() > 1);
    let commands = ["LOCK.RELEASE job b", "ZRANGE lock:{job} 0 -1", "LOCK.EXTEND job c 600000"];
    assert_eq!(in_transaction(&mut control, &commands), [int(1), array(["c"]), int(1)]);
    assert_granted(&mut c);
}

#[test]
fn a_set_that_arrives_with_the_release_does_not_get_the_lock() {
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
        assert_granted(&mut next);
        release(&mut releaser, "next");
    }
}

#[test]
fn a_polling_client_never_gets_between_waiters() {
    const HAND_OVERS: usize = 150;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "h", LONG, "");
    let ids: Vec<_> = (0..HAND_OVERS).map(|number| format!("w{number}")).collect();
    let mut clients: Vec<_> = ids.iter().map(|id| waiter(&server, id, "")).collect();
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let polls = [
            format!("SET {KEY} thief NX PX 600000"),
            "LOCK.ACQUIRE job thief 600000".to_owned(),
            "LOCK.ACQUIRE job thief 600000 SHARED".to_owned(),
        ];
        let mut thief = server.client();
        let (done, rounds) = (&done, &rounds);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(thief.pipeline(&polls), [nil(), int(0), int(0)]);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually(SOON, "the thief polls", || rounds.load(Ordering::Relaxed) > 0);
        release(&mut control, "h");
        for (id, client) in ids.iter().zip(&mut clients) {
            assert_granted(client);
            if id != ids.last().expect("the last") {
                release(&mut control, id);
            }
        }
        done.store(true, Ordering::Relaxed);
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
    assert!(only_reply(&mut fenced).as_int() > 1);
    release(&mut control, "f");
    assert_granted(&mut reader);
    assert_eq!(control.run("CONFIG SET maxmemory 0"), ok());
}

#[test]
fn an_unusable_fence_key_is_an_error_for_its_waiter_and_the_next_one_is_granted() {
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
        // The release succeeds, and the waiter behind them is granted.
        release(&mut control, "me");
        assert_granted(&mut behind);
        assert_eq!(fenced.read(), error(refusal), "{spoil}");
        assert_eq!(again.read(), error(refusal), "{spoil}");
        release(&mut control, "w");
        assert_eq!(control.run("FLUSHALL"), ok());
    }
}

// --- The place in line

#[test]
fn an_identifier_that_queues_again_keeps_its_place_and_its_older_request_gets_0() {
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
            assert_eq!(only_reply(&mut { older }), int(0));
            assert_eq!(waiting(&server), 3);
        }
        release(&mut control, "me");
        for (id, client) in ids.iter().zip(&mut clients) {
            assert_granted(client);
            release(&mut control, id);
        }
    }
}

#[test]
fn a_repeated_request_can_change_its_mode_lease_and_fence() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "r", LONG, "SHARED");
    let [mut old, mut behind] = line(&server, [("w", ""), ("r2", "SHARED")]);
    // As a reader it is granted at once, and so is the reader behind it.
    let mut new = server.client();
    assert_eq!(new.run(ask("job", "w", 500_000, "SHARED")), int(1));
    assert_eq!(only_reply(&mut old), int(0));
    assert_granted(&mut behind);
    assert_eq!(control.lock_holders("job").len(), 3);
    let end = control.time_ms() + 500_000;
    assert!((end - LONG..=end).contains(&control.lease_end(KEY, "w")));

    let mut old = waiter(&server, "x", "");
    let mut new = server.client();
    new.send(ask("job", "x", LONG, "FENCE"));
    assert_eq!(only_reply(&mut old), int(0));
    for holder in ["r", "w", "r2"] {
        release(&mut control, holder);
    }
    assert!(only_reply(&mut new).as_int() > 1);
}

/// Releases the lock `job` until all these waiters have held it; returns their order.
#[track_caller]
fn serve_all(control: &mut Client, clients: &mut [(&str, &mut Client)]) -> Vec<String> {
    let mut order = Vec::new();
    release(control, "me");
    for _ in 0..clients.len() {
        let holder = control.lock_holders("job").remove(0);
        let next = clients.iter_mut().find(|(id, _)| *id == holder).expect("a waiter");
        assert_granted(next.1);
        release(control, &holder);
        order.push(holder);
    }
    order
}

/// Repeats a round until it returns that it was fast enough to mean something: on a busy machine the
/// second for which a rank is kept can pass.
#[track_caller]
fn until_in_time(round: impl FnMut() -> bool) {
    eventually(2 * SOON, "a round was fast enough", round);
}

#[test]
fn a_client_that_reconnects_keeps_its_place_however_it_left() {
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
fn a_timed_out_waiter_delays_nobody() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut b = waiter_behind_a_timed_out_one(&server, "a", "b");
    let replies = control.pipeline(&["LOCK.RELEASE job me", "GET lock:{job}"]);
    assert_eq!(replies, [int(1), bulk("b")]);
    assert_granted(&mut b);
}

/// `b` waits behind a request of `a` that has timed out.
#[track_caller]
fn waiter_behind_a_timed_out_one(server: &Server, a: &str, b: &str) -> Client {
    let mut control = server.client();
    let mut leaver = Leaver::connect(server, Exit::UnblockTimeOut);
    let command = format!("LOCK.ACQUIRE job {a} {LONG} BLOCK");
    leaver.wait(&mut control, "lock", &command, 0);
    let behind = waiter(server, b, "");
    leaver.leave(&mut control, "lock", &int(0));
    behind
}

#[test]
fn each_timeout_keeps_the_rank_for_another_second() {
    let server = Checked::start();
    let mut control = server.client();
    // Joins the line and is unblocked; returns two points in time between which it left.
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
        // The first second has passed. A client that joins makes the module drop ranks that expired.
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
fn after_a_second_the_rank_is_lost_and_nobody_inherits_it() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut b = waiter_behind_a_timed_out_one(&server, "a", "b");
    let left = control.time_ms();
    // Another identifier does not inherit it.
    let mut c = waiter(&server, "c", "");
    wait_past(&mut control, left + RANK_KEPT + 5);
    let mut a = waiter(&server, "a", "");
    let mut all = [("a", &mut a), ("b", &mut b), ("c", &mut c)];
    assert_eq!(serve_all(&mut control, &mut all), ["b", "c", "a"]);
}

#[test]
fn release_withdraws_a_queued_request_and_its_rank() {
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "SHARED");
    let [mut w, mut r1, mut r2] = line(&server, [("w", ""), ("r1", "SHARED"), ("r2", "SHARED")]);
    // The readers behind it are granted in the same step.
    let replies = control.pipeline(&["LOCK.RELEASE job w", "ZCARD lock:{job}"]);
    assert_eq!(replies, [int(0), int(3)]);
    assert_eq!(only_reply(&mut w), int(0));
    assert_granted(&mut r1);
    assert_granted(&mut r2);
    assert_eq!(control.run("LOCK.RELEASE job w"), int(0));

    // A new request joins at the end.
    let mut behind = waiter(&server, "b", "");
    let mut a = waiter(&server, "a", "");
    assert_eq!(control.run("LOCK.RELEASE job b"), int(0));
    assert_eq!(only_reply(&mut behind), int(0));
    let mut again = waiter(&server, "b", "");
    for holder in ["me", "r1", "r2"] {
        release(&mut control, holder);
    }
    assert_granted(&mut a);
    release(&mut control, "a");
    assert_granted(&mut again);
    // A kept rank is withdrawn too.
    let mut d = waiter_behind_a_timed_out_one(&server, "c", "d");
    assert_eq!(control.run("LOCK.RELEASE job c"), int(0));
    let mut c = waiter(&server, "c", "");
    release(&mut control, "b");
    assert_granted(&mut d);
    release(&mut control, "d");
    assert_granted(&mut c);
}

#[test]
fn a_holder_that_asks_again_is_granted_while_others_wait() {
    let server = Checked::start();
    let mut control = server.client();
    for (held, again) in [("", "BLOCK 0"), ("", "FENCE"), ("SHARED", "SHARED BLOCK 0")] {
        take(&mut control, "me", LONG, held);
        let mut next = waiter(&server, "next", "");
        take(&mut control, "me", LONG, again);
        assert_still_waiting(&server, 1);
        release(&mut control, "me");
        assert_granted(&mut next);
        release(&mut control, "next");
    }
}

#[test]
fn info_shows_how_many_wait_and_for_how_long() {
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
    // Two clocks that count whole milliseconds differ by up to one.
    let waited = looked - joined - 1..=control.time_ms() - after - 20;
    assert!(waited.contains(&oldest), "{oldest} in {waited:?}");
    release(&mut control, "me");
    assert_granted(&mut second);
    assert_eq!(info(&mut control), (0, 0));
    let counters = control.run("LOCK.INFO job");
    assert_eq!(counters.get("timeouts"), &int(0), "a killed client did not time out");
    assert_eq!(counters.get("acquired"), &int(2));
}

// --- Leaving the line

#[test]
fn readers_behind_a_writer_that_leaves_are_granted() {
    let server = Checked::start();
    let mut control = server.client();
    for exit in EXITS {
        take(&mut control, "r0", LONG, "SHARED");
        let mut writer = Leaver::connect(&server, exit);
        writer.wait(&mut control, "lock", &format!("LOCK.ACQUIRE job w {LONG} BLOCK"), 1500);
        let [mut r1, mut r2, mut w2] =
            line(&server, [("r1", "SHARED"), ("r2", "LIMIT 3"), ("w2", "")]);
        if exit == Exit::TimeOut {
            assert_eq!(writer.read(), int(0));
        } else {
            assert_eq!(waiting(&server), 4);
            writer.leave(&mut control, "lock", &int(0));
        }
        assert_granted(&mut r1);
        assert_granted(&mut r2);
        for reader in ["r0", "r1", "r2"] {
            release(&mut control, reader);
        }
        assert_granted(&mut w2);
        release(&mut control, "w2");
    }
}

// --- Thousands of waiters

/// Clients `h0`, `h1`, … that wait for a lock in this order.
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
fn a_hand_over_does_the_same_work_in_front_of_ten_and_five_thousand_waiters() {
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
        eventually(SOON, "all have left", || waiting(&server) == 0);
        [hand_over, withdrawal, refusal]
    });
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0][0]["lock.release"], 1);
    assert!(counts[0][0].values().sum::<u64>() < 20, "{:?}", counts[0][0]);
}

#[test]
fn two_thousand_readers_are_granted_together_before_a_newcomer() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut control = server.client();
    take(&mut control, "me", LONG, "");
    let mut clients = long_line(&server, "job", COUNT, "SHARED");
    let mut writer = waiter(&server, "w", "");
    let replies = control.pipeline(&["LOCK.RELEASE job me", "LOCK.ACQUIRE job thief 1000 SHARED"]);
    assert_eq!(replies, [int(1), int(0)]);
    clients.iter_mut().for_each(assert_granted);
    assert_eq!(control.run(format!("ZCARD {KEY}")), int(COUNT as i64));
    assert_eq!(waiting(&server), 1);
    let releases: Vec<_> = (0..COUNT).map(|number| format!("LOCK.RELEASE job h{number}")).collect();
    assert_eq!(control.pipeline(&releases), vec![int(1); COUNT]);
    assert_granted(&mut writer);
}
